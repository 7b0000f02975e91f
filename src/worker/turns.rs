//! Whose turn it is, in this worker, to ask for the lock of a resource.
//!
//! Its one rule: one at a time asks, in the order in which they came, and after a few turns in a row the worker stays away
//! for as long as others may need to ask once.
//! It does not know who holds a lock: that only the store knows.

use crate::command::{Command, CommandKind};
use crate::key::Name;
use crate::lock::LockCommand;

/// Those of one worker that wait for locks.
#[derive(Default)]
pub struct Turns {
    /// Who waits for which lock, in the order in which they came.
    waiting: Vec<(Name, u32)>,
    /// Of locks for which some wait.
    passed_on: Vec<PassedOn>,
}

/// How often a lock has passed from one of this worker to the next of it.
struct PassedOn {
    name: Name,
    /// Since the worker stayed away.
    turns: u32,
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
        let me = (command.name, exchange);
        if !self.waiting.contains(&me) {
            self.waiting.push(me);
        }
        let is_away = |passed: &PassedOn| passed.name == command.name && now_ms < passed.away_until_ms;
        self.next(&command.name) == Some(exchange) && !self.passed_on.iter().any(is_away)
    }

    /// This exchange does not wait any more.
    pub fn leave(&mut self, exchange: u32, name: &Name) {
        self.waiting.retain(|other| *other != (*name, exchange));
        if self.next(name).is_none() {
            self.passed_on.retain(|passed| passed.name != *name);
        }
    }

    /// A turn at this is over; tells who is to ask at once.
    pub fn pass_on(&mut self, name: Name, now_ms: u64) -> Option<u32> {
        let next = self.next(&name)?;
        let Some(passed) = self.passed_on.iter_mut().find(|passed| passed.name == name) else {
            self.passed_on.push(PassedOn { name, turns: 1, away_until_ms: 0 });
            return Some(next);
        };
        passed.turns += 1;
        if passed.turns <= IN_A_ROW {
            return Some(next);
        }
        (passed.turns, passed.away_until_ms) = (0, now_ms + AWAY_MS);
        None
    }

    fn next(&self, name: &Name) -> Option<u32> {
        self.waiting.iter().find(|(other, _)| other == name).map(|(_, exchange)| *exchange)
    }
}
