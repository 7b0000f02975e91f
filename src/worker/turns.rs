//! Whose turn it is, in this worker, to ask for the lock of a resource.
//!
//! Its one rule: one at a time asks, in the order in which they came, and after a few turns in a row the worker stays away
//! for as long as others may need to ask once.
//! It does not know who holds a lock: that only the store knows.

use std::collections::{HashMap, VecDeque};

use crate::command::{Command, CommandKind, LockCommand, StoreReply};
use crate::key::Name;

/// The queues of one worker.
#[derive(Default)]
pub struct Turns(HashMap<Name, Queue>);

/// Those that wait for one lock.
#[derive(Default)]
struct Queue {
    /// In the order in which they came.
    exchanges: VecDeque<u32>,
    /// How many turns one of this worker has passed to the next of it since the worker stayed away.
    passed_on: u32,
    /// Until when none of this worker asks.
    away_until_ms: u64,
}

/// So many turns are passed on within one worker before it stays away.
const IN_A_ROW: u32 = 8;
/// How long a worker stays away then: longer than another lets pass between two tries.
const AWAY_MS: u64 = 200;

impl Turns {
    /// Whether this exchange may hand this command to the store; a lock only where it is the next to ask.
    pub fn may_ask(&mut self, exchange: u32, command: &Command, now_ms: u64) -> bool {
        if command.kind != CommandKind::Lock(LockCommand::Lock) {
            return true;
        }
        let queue = self.0.entry(command.name).or_default();
        if !queue.exchanges.contains(&exchange) {
            queue.exchanges.push_back(exchange);
        }
        queue.exchanges.front() == Some(&exchange) && now_ms >= queue.away_until_ms
    }

    /// This exchange does not wait any more.
    pub fn leave(&mut self, exchange: u32, name: &Name) {
        let Some(queue) = self.0.get_mut(name) else { return };
        queue.exchanges.retain(|other| *other != exchange);
        if queue.exchanges.is_empty() {
            self.0.remove(name);
        }
    }

    /// Hears what the store says; tells who is to ask at once, because a turn is over.
    pub fn heard(&mut self, command: &Command, reply: &StoreReply, now_ms: u64) -> Option<u32> {
        let CommandKind::Lock(asked) = &command.kind else { return None };
        let queue = self.0.get_mut(&command.name)?;
        if !matches!((asked, reply), (LockCommand::Unlock { .. }, StoreReply::Settled)) {
            return None;
        }
        if queue.passed_on == IN_A_ROW {
            (queue.passed_on, queue.away_until_ms) = (0, now_ms + AWAY_MS);
            return None;
        }
        queue.passed_on += 1;
        queue.exchanges.front().copied()
    }
}
