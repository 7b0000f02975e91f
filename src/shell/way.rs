//! The way to a store that is asked by messages.
//!
//! Its one rule: each call to the store takes one way, and ends on it.
//! It does not know what a call carries.

use crate::command::Failure;
use crate::config::{Dialect, Redis};
use crate::shell::calls::Calls;
use crate::shell::host::{self, Metric};
use crate::shell::streams::Streams;
use crate::store::client::{Batch, Heard, Lane};
use crate::worker::Turn;

/// How one worker reaches the store.
pub enum Way {
    /// By HTTP.
    Calls(Calls),
    /// By streams of commands.
    Streams(Box<Streams>),
}

impl Way {
    /// The one that the document names; `root` is the context whose callbacks tell what comes back.
    pub fn new(root: u32, redis: &Redis) -> Self {
        let call_us = host::define_metric(Metric::Histogram, "idempotency_store_call_microseconds");
        match &redis.dialect {
            Dialect::Resp { .. } => Way::Streams(Box::new(Streams::new(root, redis, call_us))),
            Dialect::Webdis(webdis) => Way::Calls(Calls::new(redis, webdis, call_us)),
        }
    }

    /// How many calls may be sent in this turn.
    pub fn room(&self, lane: Lane, turn: Turn) -> usize {
        match self {
            Way::Calls(_) if turn == Turn::Stream || lane == Lane::Large => 0,
            Way::Calls(_) => usize::MAX,
            Way::Streams(streams) => streams.room(lane, turn),
        }
    }

    /// Sends batches of one lane; tells which of them are not taken, and why.
    pub fn send(&mut self, batches: Vec<Batch>) -> Vec<(u64, Failure)> {
        match self {
            Way::Calls(calls) => {
                let refused = |batch: Batch| (batch.id, calls.send(batch));
                let sent = batches.into_iter().map(refused);
                sent.filter_map(|(id, is_taken)| (!is_taken).then_some((id, Failure::Transport))).collect()
            }
            Way::Streams(streams) => streams.send(batches),
        }
    }

    /// An HTTP call has ended; none where it is not over, or not of the store.
    pub fn call_ended(&mut self, token: u32, responded: bool, body_size: usize) -> Option<Heard> {
        let Way::Calls(calls) = self else { return None };
        let reply = calls.ended(token, responded, body_size)?;
        Some(Heard { replies: vec![reply], lost: None })
    }

    /// The streams, where there are any.
    pub fn streams(&mut self) -> Option<&mut Streams> {
        match self {
            Way::Calls(_) => None,
            Way::Streams(streams) => Some(streams),
        }
    }
}
