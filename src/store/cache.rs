//! What this Envoy remembers of a shared store: completed records, and which operations run here right now.
//!
//! Its one rule: it only ever spares a call. A completed record never changes before it expires, and a running mark can
//! only refuse; whatever is forgotten, overwritten or broken is asked of the store.
//! It does not know how the store is asked. Its clock is the monotonic one that all workers share.
//!
//! # The shape
//!
//! Cells are never deleted, so there are two fixed sets of them, each taking half of the bytes: *small* ones, and
//! *large* ones for what does not fit there. A name has one cell of each, and takes it from the name that had it.

use std::rc::Rc;

use crate::command::{Command, CommandKind, StoreReply};
use crate::config::CacheBounds;
use crate::digest::Digest;
use crate::key::Name;
use crate::record::{Corrupt, FORMAT, Input, Record, State};
use crate::store::client::Completion;
use crate::store::local::SharedMap;
use crate::store::model;

/// The cache of one plugin in one Envoy.
pub struct Cache<C> {
    cells: C,
    bounds: CacheBounds,
    /// What tells its cells from others: plugin, store, geometry, format version.
    prefix: [u8; 8],
    /// How many small and how many large cells there are.
    counts: [u64; 2],
}

/// How many bytes a small cell holds.
const SMALL_BYTES: u64 = 1024;
/// How many bytes of an entry are not response, at most.
const HEAD_BYTES: u64 = 128;
/// How long an operation is shown as running after it was last known that the store must still hear of its end: longer
/// than it takes to be reminded of all that the default cache has cells for.
const OWED_MS: u64 = 10_000;

impl<C: SharedMap> Cache<C> {
    /// The cache of this plugin for the records of `store`.
    pub fn new(cells: C, plugin: &[u8], store: &str, bounds: CacheBounds) -> Self {
        let mut digest = Digest::new("cache", None);
        digest.part("plugin", plugin);
        digest.part("store", store.as_bytes());
        digest.part("bytes", &bounds.max_bytes.to_le_bytes());
        digest.part("entry", &bounds.max_entry_bytes.to_le_bytes());
        digest.part("format", &[FORMAT]);
        let [a, b, c, d, e, f, g, h, ..] = digest.finish();
        let half = bounds.max_bytes / 2;
        let counts = [half / SMALL_BYTES, half / (HEAD_BYTES + bounds.max_entry_bytes)].map(|count| count.max(1));
        Cache { cells, bounds, prefix: [a, b, c, d, e, f, g, h], counts }
    }

    /// The answer to a claim, where it is remembered.
    pub fn look(&self, command: &Command, now_ms: u64) -> Option<StoreReply> {
        let now_ms = now_ms + EPOCH_MS;
        let record = self.record(&command.name, now_ms)?;
        if matches!(record.state, State::Running { lease_end_ms, .. } if lease_end_ms <= now_ms) {
            return None;
        }
        let reply = model::apply(Some(record), command, now_ms).reply;
        matches!(reply, StoreReply::Completed { .. } | StoreReply::InFlight { .. } | StoreReply::Mismatch)
            .then_some(reply)
    }

    /// Remembers what became of an operation, and forgets what is not so any more.
    pub fn learn(&self, told: &Completion, now_ms: u64) {
        // Who holds a lock, and what is similar, only its store knows.
        if !told.command.is_of_operation() {
            return;
        }
        let (command, now_ms, asked_ms) = (&told.command, now_ms + EPOCH_MS, told.asked_ms + EPOCH_MS);
        let is_heard = told.exchange.is_some();
        let until_ms = now_ms + self.bounds.ttl_ms;
        match (&command.kind, &told.reply) {
            // Whether or not it was heard: what is remembered may not be so any more, and the store knows.
            (CommandKind::Resolve(_), _) => self.set(SMALL, &command.name, &FORGOTTEN),
            (_, StoreReply::Granted { attempt, .. }) => {
                self.put(
                    command,
                    *attempt,
                    running(command, asked_ms + command.lease_ms),
                    now_ms + command.ttl_ms,
                    until_ms,
                );
            }
            // Only while it runs: the answer may have been overtaken by that to the settlement.
            (CommandKind::Renew, StoreReply::Renewed { .. }) => {
                let is_own = |state| matches!(state, State::Running { owner, .. } if owner == command.owner);
                if self.record(&command.name, now_ms).is_some_and(|record| is_own(record.state)) {
                    let state = running(command, asked_ms + command.lease_ms);
                    self.put(command, command.attempt, state, now_ms + command.ttl_ms, until_ms);
                }
            }
            // Where only an operator said that it ran, any payload may have been executed; the store knows which.
            (_, StoreReply::Completed { response: None, .. }) => self.set(SMALL, &command.name, &FORGOTTEN),
            // From when it was asked for: the answer may have been long on its way.
            (_, StoreReply::Completed { attempt, status, response, age_ms, ttl_ms }) => {
                let state = completed(command, *status, response.clone(), asked_ms.saturating_sub(*age_ms));
                self.put(command, *attempt, state, asked_ms + ttl_ms, until_ms);
            }
            // An earlier try of it may have been the one that counted, and the record's life began with that. Where it
            // began with the first claim, only the store knows how much of it is left.
            (CommandKind::Complete { status, response }, StoreReply::Settled) if is_heard && !command.in_window => {
                let state = completed(command, Some(*status), response.clone(), asked_ms);
                self.put(command, command.attempt, state, asked_ms + command.ttl_ms, until_ms);
            }
            (CommandKind::Claim { .. } | CommandKind::Inspect | CommandKind::Poll { .. }, _) => {}
            (CommandKind::Renew, StoreReply::Failed(_)) => {}
            // It stands for nothing that ran: whether its claim was granted the store tells the next that asks.
            (_, StoreReply::Failed(_)) if command.is_withdrawal() => {}
            (_, StoreReply::Failed(_)) => self.owe(command, now_ms),
            (_, _) => self.set(SMALL, &command.name, &FORGOTTEN),
        }
    }

    /// Takes in what the store must still hear of, because nothing else is said of it while the store is silent.
    pub fn remind(&self, owed: &[Rc<Command>], now_ms: u64) {
        let operations = owed.iter().filter(|command| command.is_of_operation());
        operations.for_each(|command| self.owe(command, now_ms + EPOCH_MS));
    }

    /// On this Envoy nothing else of this name may begin before the store has heard of it; nothing does of what is known
    /// to have completed.
    fn owe(&self, command: &Command, now_ms: u64) {
        let is_completed =
            |record: Record| matches!(record.state, State::Completed { .. }) && now_ms < record.forgotten_ms();
        if !self.record(&command.name, now_ms).is_some_and(is_completed) {
            let until_ms = now_ms + OWED_MS.max(command.lease_ms);
            self.put(command, command.attempt, running(command, until_ms), until_ms, until_ms);
        }
    }

    fn put(&self, command: &Command, attempt: u32, state: State, expires_ms: u64, until_ms: u64) {
        if let State::Completed { response: Some(response), .. } = &state
            && response.len() as u64 > self.bounds.max_entry_bytes
        {
            return self.set(SMALL, &command.name, &FORGOTTEN);
        }
        let record = Record {
            attempt,
            key: command.key,
            doubt: false,
            inherited: false,
            released: Vec::new(),
            expires_ms,
            state,
        };
        let mut entry = until_ms.to_le_bytes().to_vec();
        entry.extend(record.encode());
        if entry.len() as u64 + 32 <= SMALL_BYTES {
            self.set(SMALL, &command.name, &entry);
        } else {
            self.set(LARGE, &command.name, &entry);
            self.set(SMALL, &command.name, &ELSEWHERE);
        }
    }

    /// What is remembered of this name and still counts.
    fn record(&self, name: &Name, now_ms: u64) -> Option<Record> {
        let mut entry = self.get(SMALL, name)?;
        if entry == ELSEWHERE {
            entry = self.get(LARGE, name)?;
        }
        parse(&entry, now_ms).ok()?
    }

    /// The entry of this name in its cell of this size; none where the cell is another's.
    fn get(&self, size: usize, name: &Name) -> Option<Vec<u8>> {
        let (mut cell, _) = self.cells.get(&self.key(size, name)).ok()??;
        (cell.get(..32)? == name.0).then(|| cell.split_off(32))
    }

    fn set(&self, size: usize, name: &Name, entry: &[u8]) {
        let cell = [&name.0, entry].concat();
        // What cannot be remembered is asked of the store.
        let _ = self.cells.put(&self.key(size, name), &cell);
    }

    fn key(&self, size: usize, name: &Name) -> [u8; 17] {
        let [.., a, b, c, d, e, f, g, h] = name.0;
        let count = self.counts.get(size).copied().unwrap_or(1);
        let place = u64::from_le_bytes([a, b, c, d, e, f, g, h]) % count;
        let mut key = [size as u8; 17];
        let bytes = self.prefix.into_iter().chain(place.to_le_bytes());
        key.iter_mut().zip(bytes).for_each(|(to, from)| *to = from);
        key
    }
}

const SMALL: usize = 0;
const LARGE: usize = 1;

/// Stands in the small cell of what is in the large one.
const ELSEWHERE: [u8; 0] = [];
/// Stands in the cell of what is not so any more: an entry whose time is over.
const FORGOTTEN: [u8; 8] = [0; 8];
/// Added to the clock, so that what was there before the clock began has a time too.
const EPOCH_MS: u64 = 1 << 41;

/// The record of an entry that still counts: until when it does, then the record.
fn parse(entry: &[u8], now_ms: u64) -> Result<Option<Record>, Corrupt> {
    let mut input = Input(entry);
    match u64::from_le_bytes(input.array()?) > now_ms {
        true => Record::decode(input.rest()).map(Some),
        false => Ok(None),
    }
}

fn running(command: &Command, lease_end_ms: u64) -> State {
    State::Running { fingerprint: command.fingerprint, owner: command.owner, lease_end_ms }
}

fn completed(command: &Command, status: Option<u16>, response: Option<Vec<u8>>, since_ms: u64) -> State {
    State::Completed { fingerprint: Some(command.fingerprint), owner: command.owner, status, since_ms, response }
}
