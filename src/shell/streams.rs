//! The streams to Redis: one for small responses and one for large ones, each opened when it is needed.
//!
//! Its one rule: a stream is opened in a callback of the root, and written to as the root in any but those that may come
//! from within a message of it: a write can end a stream on the spot, and then Envoy goes on with what it has freed.
//! It does not know what is written, nor what comes back.

use crate::command::Failure;
use crate::config::Redis;
use crate::shell::host::{self, Buffer, Level};
use crate::store::client::{Batch, Heard, Lane};
use crate::store::pipeline::{Pipeline, Received};
use crate::worker::Turn;

/// The streams of one worker.
pub struct Streams {
    root: u32,
    cluster: String,
    small: Stream,
    large: Stream,
    /// Streams that are given up, until a callback in which they may be ended.
    given_up: Vec<u32>,
    call_us: Option<u32>,
    /// Whether it was logged that HTTP is spoken there.
    said_http: bool,
}

struct Stream {
    /// While it is open.
    token: Option<u32>,
    pipeline: Pipeline,
    /// Whether Envoy may be within a message of it still, as it is until it calls the root for another reason.
    in_hand: bool,
    /// What is to be written then.
    unwritten: Vec<u8>,
}

impl Streams {
    /// None open.
    pub fn new(root: u32, redis: &Redis, call_us: Option<u32>) -> Self {
        let stream =
            |lane| Stream { token: None, pipeline: Pipeline::new(redis, lane), in_hand: false, unwritten: Vec::new() };
        let (small, large) = (stream(Lane::Small), stream(Lane::Large));
        let cluster = redis.cluster.clone();
        Streams { root, cluster, small, large, given_up: Vec::new(), call_us, said_http: false }
    }

    /// How many calls may be sent in this turn.
    pub fn room(&self, lane: Lane, turn: Turn) -> usize {
        let stream = match lane {
            Lane::Small => &self.small,
            Lane::Large => &self.large,
        };
        if stream.in_hand { 0 } else { stream.pipeline.room(turn == Turn::Root) }
    }

    /// Sends batches of one lane; tells which of them are not taken, and why.
    pub fn send(&mut self, batches: Vec<Batch>) -> Vec<(u64, Failure)> {
        let is_large = batches.iter().any(|batch| batch.lane == Lane::Large);
        let Stream { token, pipeline, .. } = if is_large { &mut self.large } else { &mut self.small };
        let refused = |failure| batches.iter().map(|batch| (batch.id, failure)).collect();
        let now_us = host::monotonic_us();
        host::set_effective_context(self.root);
        let mut out = Vec::new();
        if token.is_none() {
            if let Some(failure) = pipeline.barred(now_us) {
                return refused(failure);
            }
            *token = host::open_stream(&self.cluster);
            if token.is_none() {
                pipeline.closed(now_us);
                return refused(Failure::Transport);
            }
            out = pipeline.opened(now_us);
        }
        out.extend(pipeline.send(batches, now_us));
        if out.is_empty() || token.is_some_and(|token| host::write_to_stream(token, &out)) {
            return Vec::new();
        }
        *token = None;
        let (lost, failure) = pipeline.closed(now_us).lost.unwrap_or((Vec::new(), Failure::Transport));
        lost.into_iter().map(|batch| (batch, failure)).collect()
    }

    /// Envoy is within no message of any stream: writes what has waited for that.
    pub fn let_go(&mut self) {
        for stream in [&mut self.small, &mut self.large] {
            stream.in_hand = false;
            let unwritten = std::mem::take(&mut stream.unwritten);
            if let Some(token) = stream.token.filter(|_| !unwritten.is_empty()) {
                // Where it is gone, Envoy tells of its end after this callback.
                host::write_to_stream(token, &unwritten);
            }
        }
    }

    /// A message has come on this stream; none where the stream is no longer ours. The root is to be woken then.
    pub fn received(&mut self, token: u32, size: usize) -> Option<Received> {
        let call_us = self.call_us;
        let stream = self.stream(token)?;
        let bytes = host::buffer(Buffer::StreamMessage, 0, size);
        let mut received = stream.pipeline.received(bytes, host::monotonic_us());
        if let Some(id) = call_us {
            received.took_us.iter().for_each(|took_us| host::record_metric(id, *took_us));
        }
        stream.in_hand = true;
        if received.heard.lost.is_some() {
            stream.token = None;
            stream.unwritten.clear();
            self.given_up.push(token);
        } else {
            stream.unwritten.append(&mut received.write);
        }
        if received.reads_only {
            [&mut self.small, &mut self.large].into_iter().for_each(|stream| stream.pipeline.doubt());
        }
        if received.is_http && !std::mem::replace(&mut self.said_http, true) {
            let text = "HTTP is spoken where the store's streams lead, as by Webdis: that is another dialect";
            host::log(Level::Warn, text);
        }
        Some(received)
    }

    /// This stream has been closed.
    pub fn closed(&mut self, token: u32) -> Option<Heard> {
        host::cancel_stream(token);
        self.given_up.retain(|given_up| *given_up != token);
        let stream = self.stream(token)?;
        stream.token = None;
        stream.unwritten.clear();
        Some(stream.pipeline.closed(host::monotonic_us()))
    }

    /// Gives up the streams that are silent or lead to a Redis that takes no writes, and ends those that are given up.
    /// Called in the root's tick.
    pub fn tick(&mut self) -> Vec<Heard> {
        self.given_up.drain(..).for_each(host::cancel_stream);
        let now_us = host::monotonic_us();
        let mut heard = Vec::new();
        for stream in [&mut self.small, &mut self.large] {
            if let Some(lost) = stream.pipeline.tick(now_us) {
                stream.token.take().into_iter().for_each(host::cancel_stream);
                stream.unwritten.clear();
                heard.push(lost);
            }
        }
        heard
    }

    /// Ends all streams, because the root goes.
    pub fn end(&mut self) {
        let open = [&mut self.small, &mut self.large].into_iter().filter_map(|stream| stream.token.take());
        open.chain(self.given_up.drain(..)).for_each(host::cancel_stream);
    }

    fn stream(&mut self, token: u32) -> Option<&mut Stream> {
        [&mut self.small, &mut self.large].into_iter().find(|stream| stream.token == Some(token))
    }
}
