//! Streams of commands between the workers and the store, as `dialect: "resp"` has them.
//!
//! Its one rule: as in TCP, what stands on a connection comes in the order in which it was written, or the connection ends
//! or falls silent; what becomes of a command is decided before it leaves.

use std::collections::VecDeque;
use std::rc::Rc;

use envoy_idempotency::command::{Failure, StoreReply};
use envoy_idempotency::store::client::{Batch, Heard, Lane, Nonce, Reply};
use envoy_idempotency::store::pipeline::Pipeline;
use envoy_idempotency::worker::Turn;

use super::{Carriage, Flight, Handling, Happening, World};
use crate::plan::Fault;
use crate::wire::{arguments, nonce, said};

/// One of a worker's streams, open or not; what `shell/streams.rs` keeps of it.
pub(super) struct Line {
    pipeline: Pipeline,
    connection: Option<usize>,
    /// Whether Envoy may be within a message of it.
    in_hand: bool,
    unwritten: Vec<u8>,
    /// Whether it has been open before.
    was_open: bool,
}

/// What such a stream leads over.
pub(super) struct Connection {
    pub(super) worker: usize,
    lane: Lane,
    commands: VecDeque<(Vec<Vec<u8>>, Carriage)>,
    replies: VecDeque<Piece>,
    /// When the last command comes to the store, and the last bytes to the gateway.
    there_ms: u64,
    back_ms: u64,
    has_ended: bool,
    /// Nothing comes through any more, and nothing tells so.
    is_silent: bool,
    /// Nothing comes back.
    is_mute: bool,
    /// Whether a reply is awaited in vain.
    lacks_reply: bool,
    /// Whether more was wrong with it than time.
    has_erred: bool,
    /// Whether it leads to a replica, or another stream of the worker did.
    reads_only: bool,
    /// When bytes have come last.
    came_ms: u64,
}

enum Piece {
    Bytes(Vec<u8>),
    End,
}

/// Where the network cuts a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Cut {
    #[default]
    Nowhere,
    /// Before the store has heard of the command.
    Before,
    /// In its reply.
    Inside,
    /// After it has run, and before its reply.
    After,
}

/// Errors with which Redis refuses a command as a whole.
const REFUSALS: [&str; 4] = ["LOADING it reads", "BUSY a script runs", "READONLY it is a replica", "MISCONF no disk"];

impl Line {
    pub(super) fn new(pipeline: Pipeline) -> Line {
        Line { pipeline, connection: None, in_hand: false, unwritten: Vec::new(), was_open: false }
    }
}

impl World {
    fn line(&mut self, worker: usize, lane: Lane) -> &mut Line {
        &mut self.workers[worker].lines[usize::from(lane == Lane::Large)]
    }

    pub(super) fn room(&self, worker: usize, lane: Lane, turn: Turn) -> usize {
        let line = &self.workers[worker].lines[usize::from(lane == Lane::Large)];
        if line.in_hand { 0 } else { line.pipeline.room(turn == Turn::Root) }
    }

    /// Writes calls of one lane; gives those that are not taken.
    pub(super) fn writes(&mut self, worker: usize, batches: Vec<Batch>) -> Vec<(u64, Failure)> {
        let is_large = batches.iter().any(|batch| batch.lane == Lane::Large);
        let lane = if is_large { Lane::Large } else { Lane::Small };
        let now_us = 1000 * self.clock(worker);
        let ids: Vec<u64> = batches.iter().map(|batch| batch.id).collect();
        let refused = |failure| ids.iter().map(|id| (*id, failure)).collect();
        let mut out = Vec::new();
        if self.line(worker, lane).connection.is_none() {
            if let Some(failure) = self.line(worker, lane).pipeline.barred(now_us) {
                self.coverage.met_on_stream("a stream is not opened before its pause is over");
                return refused(failure);
            }
            if self.strikes(Fault::StreamRefused, 100) {
                self.line(worker, lane).pipeline.closed(now_us);
                return refused(Failure::Transport);
            }
            let connection = self.connects(worker, lane);
            let line = self.line(worker, lane);
            line.connection = Some(connection);
            out = line.pipeline.opened(now_us);
            if std::mem::replace(&mut line.was_open, true) {
                self.coverage.met_on_stream("a stream is opened again");
            }
        }
        for batch in &batches {
            self.notes(worker, batch);
            let sent = Rc::new(batch.clone());
            self.sent.extend(batch.tries.iter().map(|(nonce, _)| (*nonce, Rc::clone(&sent))));
            self.sent_as.insert((worker, batch.id), sent);
        }
        let cuts = self.strikes(Fault::StreamCutInWrite, self.plan.strikes / 4);
        let line = self.line(worker, lane);
        out.extend(line.pipeline.send(batches, now_us));
        let connection = line.connection.expect("it is open");
        if !cuts || out.is_empty() {
            self.write(connection, &out);
            return Vec::new();
        }
        line.connection = None;
        let (lost, failure) = line.pipeline.closed(now_us).lost.unwrap_or((Vec::new(), Failure::Transport));
        if lost.len() > ids.len() {
            self.coverage.met_on_stream("a write ends a stream that carries more");
        }
        self.say(|_| "       the stream ends with this".to_owned());
        lost.into_iter().map(|batch| (batch, failure)).collect()
    }

    fn connects(&mut self, worker: usize, lane: Lane) -> usize {
        self.connections.push(Connection {
            worker,
            lane,
            commands: VecDeque::new(),
            replies: VecDeque::new(),
            there_ms: 0,
            back_ms: 0,
            has_ended: false,
            is_silent: false,
            is_mute: false,
            lacks_reply: false,
            has_erred: false,
            reads_only: false,
            came_ms: self.now,
        });
        self.connections.len() - 1
    }

    fn write(&mut self, number: usize, bytes: &[u8]) {
        for command in arguments(bytes) {
            let carriage = self.carriage();
            let connection = &mut self.connections[number];
            connection.there_ms = connection.there_ms.max(self.now + carriage.there_ms);
            connection.commands.push_back((command, carriage));
            let there_ms = connection.there_ms;
            self.at(there_ms, Happening::CommandComes { connection: number });
        }
    }

    /// The next command of a connection comes to the store.
    pub(super) fn command_comes(&mut self, number: usize) {
        if self.now < self.store.stopped_until {
            return self.at(self.store.stopped_until, Happening::CommandComes { connection: number });
        }
        let connection = &mut self.connections[number];
        let Some((command, carriage)) = connection.commands.pop_front() else { return };
        if connection.has_ended || connection.is_silent {
            return;
        }
        if carriage.is_lost {
            // Some streams fall silent on the way back alone.
            (connection.is_silent, connection.is_mute) = (number.is_multiple_of(2), true);
            connection.lacks_reply = true;
            self.say(|_| "       the stream falls silent".to_owned());
        }
        if self.connections[number].is_silent {
            return;
        }
        if carriage.cut == Cut::Before || self.now < self.store.down_until {
            return self.ends(number);
        }
        let reply = self.reply(number, &command, carriage);
        match carriage.cut {
            Cut::After => return self.ends(number),
            Cut::Inside => {
                self.hands_back(number, reply[..reply.len() / 2].to_vec(), carriage.back_ms);
                return self.ends(number);
            }
            Cut::Before | Cut::Nowhere => {}
        }
        let connection = &mut self.connections[number];
        connection.has_erred |= carriage.reply != Handling::Kept || carriage.refusal.is_some();
        let came = match carriage.reply {
            Handling::Lost => {
                connection.lacks_reply = true;
                return self.say(|_| "       the reply is lost".to_owned());
            }
            Handling::Doubled => reply.repeat(2),
            Handling::Garbage if number.is_multiple_of(2) => b"<html>It works!</html>".to_vec(),
            Handling::Garbage => b"+OK\r\n".to_vec(),
            // A reply that another stream awaited.
            Handling::Crossed => self.exchanged.replace(reply.clone()).unwrap_or(reply),
            Handling::Another | Handling::Kept | Handling::Truncated => reply,
        };
        self.hands_back(number, came, carriage.back_ms);
    }

    /// What the store says to a command.
    fn reply(&mut self, number: usize, command: &[Vec<u8>], carriage: Carriage) -> Vec<u8> {
        let worker = self.connections[number].worker;
        let asked = command.last().filter(|_| command.len() > 3).map(|operations| nonce(operations));
        let batch = asked.map(|nonce| Rc::clone(&self.sent[&nonce]));
        if let Some(refusal) = carriage.refusal {
            let refusal = REFUSALS[refusal];
            self.connections[number].reads_only |= refusal.starts_with("READONLY");
            self.say(|_| format!("  store  refuses: {refusal}"));
            return format!("-{refusal}\r\n").into_bytes();
        }
        let Some(batch) = batch else { return b"+OK\r\n".to_vec() };
        match command.first().map(Vec::as_slice) {
            Some(b"EVALSHA") if !self.store.has_script => {
                self.coverage.met_on_stream("the store has forgotten the script");
                return b"-NOSCRIPT No matching script.\r\n".to_vec();
            }
            _ => self.store.has_script = true,
        }
        let lane = self.connections[number].lane;
        if let Some(later) = carriage.again_after_ms {
            let epoch = self.store.epoch;
            let flight = Rc::new(Flight { worker, batch: Batch::clone(&batch), carriage, epoch });
            self.after(later, Happening::AtStore { flight, again: true });
        }
        if self.failed.contains(&(worker, batch.id)) {
            self.is_nobodys(&batch);
        }
        self.ran.insert((worker, batch.id));
        let mut answers = self.runs(worker, &batch, carriage, false);
        self.defers(lane, &mut answers);
        match carriage.reply {
            Handling::Truncated => answers.truncate(answers.len() / 2),
            Handling::Another => answers.iter_mut().for_each(|(nonce, _)| nonce.0[0] ^= 1),
            _ => {}
        }
        said(&answers)
    }

    /// On the stream for small responses none comes that is large.
    fn defers(&mut self, lane: Lane, answers: &mut [(Nonce, StoreReply)]) {
        let large = self.plan.limits.large_bytes.filter(|_| lane == Lane::Small).unwrap_or(usize::MAX);
        for (_, answer) in answers {
            let response = match answer {
                StoreReply::Completed { response: Some(response), .. } => response.len(),
                _ => 0,
            };
            if response > large {
                *answer = StoreReply::Deferred;
                self.coverage.met_on_stream("a large response takes the other stream");
            }
        }
    }

    fn hands_back(&mut self, number: usize, bytes: Vec<u8>, back_ms: u64) {
        let cut = match self.is_wild && self.turns.chance(300) {
            true => self.turns.between(0, bytes.len() as u64) as usize,
            false => 0,
        };
        let (first, rest) = bytes.split_at(cut);
        for piece in [first, rest].into_iter().filter(|piece| !piece.is_empty()) {
            self.comes_back(number, Piece::Bytes(piece.to_vec()), back_ms);
        }
    }

    /// Ends the store's process, and every connection to it that the network has not swallowed.
    pub fn crash_store(&mut self, until: u64) {
        self.store.crash(until);
        for number in 0..self.connections.len() {
            if !self.connections[number].has_ended {
                self.ends(number);
            }
        }
    }

    /// The network or the store ends a connection.
    fn ends(&mut self, number: usize) {
        self.connections[number].has_ended = true;
        self.comes_back(number, Piece::End, 1);
    }

    fn comes_back(&mut self, number: usize, piece: Piece, back_ms: u64) {
        let connection = &mut self.connections[number];
        if connection.is_mute {
            return;
        }
        connection.back_ms = connection.back_ms.max(self.now + back_ms);
        connection.replies.push_back(piece);
        let back_ms = connection.back_ms;
        self.at(back_ms, Happening::BytesCome { connection: number });
    }

    /// The next bytes of a connection come to its gateway, or its end.
    pub(super) fn bytes_come(&mut self, number: usize) {
        let connection = &mut self.connections[number];
        let Some(piece) = connection.replies.pop_front() else { return };
        let (worker, lane) = (connection.worker, connection.lane);
        if self.line(worker, lane).connection != Some(number) {
            return;
        }
        match piece {
            Piece::Bytes(bytes) => self.received(number, worker, lane, bytes),
            Piece::End => self.closed(number, worker, lane),
        }
    }

    fn received(&mut self, number: usize, worker: usize, lane: Lane, bytes: Vec<u8>) {
        let (now_us, timeout_us) = (1000 * self.clock(worker), 1000 * self.plan.limits.timeout_ms);
        self.connections[number].came_ms = self.now;
        let line = self.line(worker, lane);
        let mut received = line.pipeline.received(bytes, now_us);
        line.in_hand = true;
        match &received.heard.lost {
            None => line.unwritten.append(&mut received.write),
            // What is under way on it may still come to the store.
            Some(_) => (line.connection, line.unwritten) = (None, Vec::new()),
        }
        if received.took_us.iter().any(|took_us| *took_us > timeout_us) {
            self.coverage.met_on_stream("a reply comes after its command has timed out, and is dropped");
        }
        match &received.heard.lost {
            None => {}
            Some((lost, Failure::Transport)) if lost.is_empty() && self.connections[number].reads_only => {
                self.coverage.met_on_stream("a replica is left");
            }
            Some((_, failure)) => {
                self.say(|_| format!("       the stream is given up: {}", failure.as_str()));
                self.coverage.met_on_stream(match failure {
                    Failure::Garbage => "a stream is given up because its bytes are no reply",
                    Failure::Redis(_) => "a stream is given up because Redis refuses the login",
                    _ => "a stream is given up because a reply is to another question",
                });
                if !self.connections[number].has_erred {
                    self.broken_bounds.push("a stream was given up though nothing but time was wrong".to_owned());
                }
            }
        }
        if received.reads_only {
            for line in &mut self.workers[worker].lines {
                line.pipeline.doubt();
                line.connection.into_iter().for_each(|number| self.connections[number].reads_only = true);
            }
        }
        self.believes(worker, &received.heard);
        self.loses(&received.heard);
        self.heard(worker, received.heard);
        self.call_root(worker, |worker, envoy| worker.wake_root(envoy));
    }

    fn closed(&mut self, number: usize, worker: usize, lane: Lane) {
        self.say(|_| "       the stream has ended".to_owned());
        let now_us = 1000 * self.clock(worker);
        self.connections[number].has_ended = true;
        let line = self.line(worker, lane);
        (line.connection, line.unwritten) = (None, Vec::new());
        let heard = line.pipeline.closed(now_us);
        self.coverage.met_on_stream("a stream is closed by the other side");
        self.loses(&heard);
        self.heard(worker, heard);
    }

    /// An error carries no nonce, so that the one which another command got is believed. What ran all the same is then
    /// nobody's: the network alone is to blame.
    fn believes(&mut self, worker: usize, heard: &Heard) {
        for (batch, reply) in &heard.replies {
            let place = (worker, *batch);
            if !matches!(reply, Reply::Failed(Failure::Redis(_))) {
                continue;
            }
            self.failed.insert(place);
            if self.ran.contains(&place) {
                let batch = Rc::clone(&self.sent_as[&place]);
                self.is_nobodys(&batch);
            }
        }
    }

    fn is_nobodys(&mut self, batch: &Batch) {
        self.coverage.met_on_stream("an error that another command got is believed");
        self.orphans.extend(batch.tries.iter().filter_map(|(_, call)| self.by_name.get(&call.name)));
    }

    fn loses(&mut self, heard: &Heard) {
        match &heard.lost {
            Some((lost, _)) if lost.is_empty() => {
                self.coverage.met_on_stream("a stream is lost on which nothing is under way")
            }
            Some((lost, _)) if lost.len() > 1 => self.coverage.met_on_stream("a stream is lost with several commands"),
            Some(_) => self.coverage.met_on_stream("a stream is lost with a command"),
            None => {}
        }
    }

    /// Envoy calls the root for another reason than a message of a stream.
    pub(super) fn lets_go(&mut self, worker: usize) {
        for place in 0..self.workers[worker].lines.len() {
            let line = &mut self.workers[worker].lines[place];
            line.in_hand = false;
            let unwritten = std::mem::take(&mut line.unwritten);
            if let Some(connection) = line.connection {
                self.write(connection, &unwritten);
            }
        }
    }

    /// The tick of a worker's streams.
    pub(super) fn ticks_lines(&mut self, worker: usize) {
        self.lets_go(worker);
        let now_us = 1000 * self.clock(worker);
        for place in 0..self.workers[worker].lines.len() {
            let line = &mut self.workers[worker].lines[place];
            let Some(heard) = line.pipeline.tick(now_us) else { continue };
            let Some(number) = line.connection.take() else { continue };
            line.unwritten.clear();
            if heard.lost.as_ref().is_some_and(|(lost, failure)| lost.is_empty() && *failure == Failure::Transport) {
                self.say(|_| "       the stream is left: it leads to a replica".to_owned());
                self.coverage.met_on_stream("a stream is left in a tick for a replica");
                self.loses(&heard);
                continue;
            }
            self.say(|_| "       the stream is given up: silent for four time-outs".to_owned());
            self.coverage.met_on_stream("a stream is given up because it is silent");
            if self.now < self.connections[number].came_ms + 4 * self.plan.limits.timeout_ms {
                self.broken_bounds.push("a stream was given up before four time-outs of silence".to_owned());
            }
            self.loses(&heard);
            self.heard(worker, heard);
        }
    }

    /// Whether a stream of this worker's waits in vain, so that its time must come.
    pub(super) fn waits_in_vain(&self, worker: usize) -> bool {
        let mut open = self.workers[worker].lines.iter().filter_map(|line| line.connection);
        open.any(|connection| self.connections[connection].lacks_reply)
    }
}
