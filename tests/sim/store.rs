//! The store as the simulator has it: records under the model, a clock of its own, and everything that ails it.
//!
//! Its one rule: what it answers is what `model::apply` says; what it forgets it forgets whole.

use std::collections::{HashMap, HashSet, VecDeque};

use envoy_idempotency::command::{Command, CommandKind, Failure, Resolution, StoreReply};
use envoy_idempotency::key::Name;
use envoy_idempotency::record::{Owner, State};
use envoy_idempotency::store::locks::{Stored, apply};

/// Where the store's clock stands when the world begins.
pub const EPOCH_MS: i64 = 1_700_000_000_000;

#[derive(Default)]
pub struct Store {
    records: HashMap<Name, Stored>,
    /// From when on the clock is off by how much.
    jumps: Vec<(u64, i64)>,
    undo: VecDeque<(u64, Name, Option<Stored>)>,
    /// When acknowledged writes were lost.
    pub losses: Vec<u64>,
    pub down_until: u64,
    /// Which process this is: one that crashes takes along what is on its way to and from it.
    pub epoch: u64,
    pub stopped_until: u64,
    pub full_until: u64,
    /// Whether it keeps the script.
    pub has_script: bool,
    /// Whose claims an operator's word has ended.
    pub settled: HashSet<Owner>,
    /// Whose claims were withdrawn or released under each name.
    pub released: HashMap<Name, HashSet<Owner>>,
}

impl Store {
    pub fn clock(&self, now: u64) -> u64 {
        let offset = self.jumps.iter().rev().find(|(from, _)| *from <= now).map_or(0, |(_, offset)| *offset);
        (EPOCH_MS + offset + now as i64) as u64
    }

    /// The latest time the clock has shown in a span of true time.
    pub fn peak(&self, from: u64, to: u64) -> u64 {
        self.ends(from, to).map(|at| self.clock(at)).max().unwrap_or(0)
    }

    /// The earliest.
    pub fn trough(&self, from: u64, to: u64) -> u64 {
        self.ends(from, to).map(|at| self.clock(at)).min().unwrap_or(0)
    }

    fn ends(&self, from: u64, to: u64) -> impl Iterator<Item = u64> {
        let jumps = self.jumps.iter().map(|(at, _)| *at).filter(move |at| from < *at && *at <= to);
        jumps.flat_map(|at| [at - 1, at]).chain([from, to])
    }

    pub fn jumped(&self, from: u64, to: u64) -> bool {
        self.jumps.iter().any(|(at, _)| from < *at && *at <= to)
    }

    /// By how much the clock was set back, all in all.
    pub fn set_back_ms(&self) -> u64 {
        let offsets = self.jumps.iter().map(|(_, offset)| *offset);
        let before = [0].into_iter().chain(self.jumps.iter().map(|(_, offset)| *offset));
        before.zip(offsets).map(|(before, after)| (before - after).max(0) as u64).sum()
    }

    pub fn lost_between(&self, from: u64, to: u64) -> bool {
        self.losses.iter().any(|at| from <= *at && *at <= to)
    }

    pub fn jump(&mut self, now: u64, by: i64) {
        let offset = self.jumps.last().map_or(0, |(_, offset)| *offset);
        self.jumps.push((now, offset + by));
    }

    /// Applies one operation; `asker_ms` is the clock of who asks, for the mutant that believes it.
    pub fn apply(&mut self, call: &Command, now: u64, asker_ms: u64) -> StoreReply {
        let clock = if by_askers_clock() { asker_ms } else { self.clock(now) };
        let before = self.records.get(&call.name).cloned();
        if now < self.full_until && matches!(call.kind, CommandKind::Claim { .. }) && before.is_none() {
            return StoreReply::Failed(Failure::Full);
        }
        let (record, reply) = apply(before.clone(), call, clock, || clock);
        if matches!(call.kind, CommandKind::Resolve(Resolution::Forget | Resolution::NotRun { .. }))
            && reply == StoreReply::Settled
        {
            let last_owner = before.as_ref().and_then(Stored::operation).and_then(|record| match &record.state {
                State::Running { owner, .. } | State::Unknown { owner, .. } | State::Completed { owner, .. } => {
                    Some(*owner)
                }
                State::Open { .. } => None,
            });
            self.settled.extend(last_owner);
            self.released.entry(call.name).or_default().extend(last_owner);
        }
        if let Some(record) = record {
            self.undo.push_back((now, call.name, before));
            while self.undo.front().is_some_and(|(at, ..)| at + 5000 < now) {
                self.undo.pop_front();
            }
            self.records.insert(call.name, record);
        }
        if matches!(call.kind, CommandKind::Release { .. } | CommandKind::Withdraw) {
            self.released.entry(call.name).or_default().insert(call.owner);
        }
        reply
    }

    /// Ends the process; another takes its place later.
    pub fn crash(&mut self, until: u64) {
        self.epoch += 1;
        self.has_script = false;
        self.down_until = until;
    }

    /// Forgets what was written since; returns how many writes that were.
    pub fn lose_writes_since(&mut self, since: u64, now: u64) -> usize {
        let mut lost = 0;
        while let Some((at, name, before)) = self.undo.pop_back() {
            if at < since {
                self.undo.push_back((at, name, before));
                break;
            }
            lost += 1;
            match before {
                Some(record) => self.records.insert(name, record),
                None => self.records.remove(&name),
            };
        }
        self.losses.push(now);
        lost
    }

    pub fn flush(&mut self, now: u64) {
        self.records.clear();
        self.undo.clear();
        self.losses.push(now);
    }

    /// What is kept under every name, in words; for transcripts.
    pub fn shown(&self, name: &Name, now: u64) -> String {
        let operation = self.records.get(name).and_then(Stored::operation);
        let Some(record) = operation.filter(|record| record.expires_ms > self.clock(now)) else {
            return "absent".to_owned();
        };
        let doubt = if record.doubt { ", in doubt" } else { "" };
        let state = match &record.state {
            State::Completed { status, response, .. } => {
                let status = status.map_or("status unknown".to_owned(), |status| status.to_string());
                format!("completed {status}{}", if response.is_some() { "" } else { ", not replayable" })
            }
            State::Open { .. } => "open".to_owned(),
            State::Running { lease_end_ms, .. } if *lease_end_ms > self.clock(now) => "running".to_owned(),
            State::Running { .. } => "running, lapsed".to_owned(),
            State::Unknown { .. } => "unknown".to_owned(),
        };
        format!("{state}, attempt {}{doubt}", record.attempt)
    }
}

fn by_askers_clock() -> bool {
    use envoy_idempotency::mutant::{self, Mutant};
    mutant::is(Mutant::LeaseByAskersClock)
}
