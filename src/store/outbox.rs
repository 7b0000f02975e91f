//! What a worker owes the store: operations that it must still hear of, until it has or they cannot matter any more.
//!
//! Its one rule: while the store has not heard of an operation, no claim of its name begins on this worker.
//! It does not know when calls are made, nor what carries them.

use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use crate::command::{Command, CommandKind, StoreReply};
use crate::key::Name;
use crate::mutant::{self, Mutant};

/// What one worker owes.
pub(super) struct Outbox {
    /// Bytes of responses that it keeps.
    max_bytes: usize,
    /// By age.
    owed: BTreeMap<u64, Owed>,
    /// What of it each name has that the store has not heard at all.
    by_name: HashMap<Name, Vec<u64>>,
    bytes: usize,
    /// Up to which of it others have been reminded of.
    reminded: u64,
    next_id: u64,
}

/// An operation that the store must still hear of.
struct Owed {
    command: Rc<Command>,
    cause: Cause,
    due_ms: u64,
    backoff_ms: u64,
    /// When the record it is about must be gone.
    until_ms: u64,
    /// Whether a try of it is queued or under way.
    trying: bool,
}

/// Why an operation is owed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// It is the completion of an execution whose claim lapsed, and another's claim stands in its way: its holder may
    /// never execute, and then a known success would be forgotten. So often it is offered again.
    Contested(u8),
    /// An earlier try of a claim that is over may be on its way still, and be granted when its exchange is gone.
    LateTries,
    /// No answer came: until the store has heard it nothing else of its name may begin here.
    Unheard,
}

/// How often a contested completion is offered again, each time after a third of a lease: past one lease the claim in its
/// way is executing, and will say how it ended.
const CONTESTS: u8 = 3;

/// Of how much that is owed others are reminded at once, so that a worker that owes much does not stop for it.
const REMINDERS: usize = 128;

/// The first pause of the outbox; it doubles up to the last.
const BACKOFF_MS: (u64, u64) = (100, 5_000);

impl Outbox {
    /// An outbox in which nothing is owed, for so many bytes of responses.
    pub(super) fn new(max_bytes: usize) -> Self {
        Outbox { max_bytes, owed: BTreeMap::new(), by_name: HashMap::new(), bytes: 0, reminded: 0, next_id: 0 }
    }

    /// How many operations the store has not heard of at all.
    pub(super) fn unheard(&self) -> usize {
        self.by_name.values().map(Vec::len).sum()
    }

    /// About how many bytes it takes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether nothing is owed.
    pub(super) fn is_empty(&self) -> bool {
        self.owed.is_empty()
    }

    /// Whether this is still owed.
    pub(super) fn has(&self, id: u64) -> bool {
        self.owed.contains_key(&id)
    }

    /// Takes up to `room` operations whose time has come, to be tried.
    pub(super) fn due(&mut self, room: usize, now_ms: u64) -> Vec<(u64, Rc<Command>)> {
        let due = self.owed.iter_mut().filter(|(_, owed)| !owed.trying && owed.due_ms <= now_ms).take(room);
        due.map(|(id, owed)| {
            owed.trying = true;
            (*id, Rc::clone(&owed.command))
        })
        .collect()
    }

    /// A try of this brought no answer: it is tried again later. Tells whether it is still owed.
    pub(super) fn put_off(&mut self, id: u64, now_ms: u64) -> bool {
        let Some(owed) = self.owed.get_mut(&id) else { return false };
        owed.trying = false;
        owed.due_ms = now_ms + owed.backoff_ms;
        owed.backoff_ms = (2 * owed.backoff_ms).min(BACKOFF_MS.1);
        true
    }

    /// The store has heard of this; tells why it was owed.
    pub(super) fn heard(&mut self, id: u64) -> Option<Cause> {
        let cause = self.owed.get(&id).map(|owed| owed.cause);
        self.forget(id);
        cause
    }

    /// What the store must hear of once more after this answer.
    pub(super) fn owe_again(&mut self, kept: Option<Cause>, command: &Rc<Command>, verdict: &StoreReply, now_ms: u64) {
        let is_contested = *verdict == StoreReply::Lost && is_completion(command);
        let lease_ms = command.lease_ms;
        let (cause, wait_ms) = match kept {
            Some(Cause::Unheard) if command.is_withdrawal() => (Cause::LateTries, lease_ms / 2),
            Some(Cause::Unheard) if is_contested => (Cause::Contested(CONTESTS), lease_ms / 3),
            Some(Cause::Contested(left @ 1..)) if is_contested => (Cause::Contested(left - 1), lease_ms / 3),
            _ => return,
        };
        self.owe(Rc::clone(command), cause, now_ms, wait_ms);
    }

    /// Forgets what cannot matter any more; tells what of it others may remember.
    pub(super) fn expire(&mut self, now_ms: u64) -> Vec<Rc<Command>> {
        let gone: Vec<u64> = self.owed.iter().filter(|(_, owed)| owed.until_ms <= now_ms).map(|(id, _)| *id).collect();
        let mut ended = Vec::new();
        for id in gone {
            // A worker that remembers that it was owed must not do so for longer; withdrawals are not remembered.
            ended.extend(
                self.owed.get(&id).filter(|owed| !owed.command.is_withdrawal()).map(|owed| Rc::clone(&owed.command)),
            );
            self.forget(id);
        }
        ended
    }

    /// Some of what the store has not heard of at all, each time the next, and after the last the first again.
    pub(super) fn reminders(&mut self) -> Vec<Rc<Command>> {
        let unheard = |(_, owed): &(&u64, &Owed)| owed.cause == Cause::Unheard && !owed.command.is_withdrawal();
        let next = self.owed.range(self.reminded + 1..).filter(unheard).take(REMINDERS);
        let (ids, calls): (Vec<u64>, Vec<Rc<Command>>) = next.map(|(id, owed)| (*id, Rc::clone(&owed.command))).unzip();
        self.reminded = ids.get(REMINDERS - 1).copied().unwrap_or(0);
        calls
    }

    /// Owes the withdrawal of a claim that is over and of which an earlier try may be granted yet.
    pub(super) fn owe_late_tries(&mut self, claim: &Command, now_ms: u64) {
        let withdrawal = Command { kind: CommandKind::Withdraw, ..Command::clone(claim) };
        self.owe(Rc::new(withdrawal), Cause::LateTries, now_ms, BACKOFF_MS.0);
    }

    /// Puts an operation that no answer came to into the outbox.
    pub(super) fn owe_unheard(&mut self, command: Rc<Command>, now_ms: u64) {
        self.owe(command, Cause::Unheard, now_ms, BACKOFF_MS.0);
    }

    /// Puts an operation into the outbox, for as long as its record may live, and keeps the outbox within its bound.
    fn owe(&mut self, command: Rc<Command>, cause: Cause, now_ms: u64, wait_ms: u64) {
        let due_ms = now_ms + wait_ms;
        let life_ms = if mutant::is(Mutant::OutboxDiesWithLease) { command.lease_ms } else { command.ttl_ms };
        let until_ms = match cause {
            // A store that stood still may grant the claim whenever it goes on, and the record's life begins then.
            Cause::Unheard if command.is_withdrawal() => u64::MAX,
            _ => now_ms + life_ms.max(command.lease_ms),
        };
        self.next_id += 1;
        let id = self.next_id;
        if cause == Cause::Unheard {
            self.by_name.entry(command.name).or_default().push(id);
        }
        self.bytes += size(&command);
        self.owed.insert(id, Owed { command, cause, due_ms, backoff_ms: BACKOFF_MS.0, until_ms, trying: false });
        while self.bytes > self.max_bytes && self.shed() {}
    }

    /// Gives up a part of what is owed: what leaves the least behind first.
    fn shed(&mut self) -> bool {
        let oldest =
            |fits: &dyn Fn(&Command) -> bool| self.owed.iter().find(|(_, owed)| fits(&owed.command)).map(|(id, _)| *id);
        let with_body = oldest(&|command| body_len(command) > 0);
        match (oldest(&Command::is_withdrawal), with_body) {
            (Some(id), _) => self.forget(id),
            (None, Some(id)) => {
                let Some(owed) = self.owed.get_mut(&id) else { return false };
                let mut bare = Command::clone(&owed.command);
                if let CommandKind::Complete { response, .. } = &mut bare.kind {
                    *response = None;
                }
                self.bytes -= body_len(&owed.command);
                owed.command = Rc::new(bare);
            }
            // Anything else that is not said leaves a claim that lapses; a success would be lost.
            (None, None) => match oldest(&|command: &Command| !is_completion(command)).or_else(|| oldest(&|_| true)) {
                Some(id) => self.forget(id),
                None => return false,
            },
        }
        true
    }

    fn forget(&mut self, id: u64) {
        let Some(owed) = self.owed.remove(&id) else { return };
        self.bytes -= size(&owed.command);
        if let Some(ids) = self.by_name.get_mut(&owed.command.name) {
            ids.retain(|other| *other != id);
            if ids.is_empty() {
                self.by_name.remove(&owed.command.name);
            }
        }
    }

    /// What answers a claim while the store must still hear of an earlier one of its name.
    pub(super) fn in_the_way(&self, command: &Command) -> Option<StoreReply> {
        let ids = self.by_name.get(&command.name)?;
        let owed = || ids.iter().filter_map(|id| self.owed.get(id)).map(|owed| &owed.command);
        let keeps = |owed: &Command| {
            !matches!(owed.kind, CommandKind::Release { keep_fingerprint: false } | CommandKind::Withdraw)
        };
        if owed().any(|owed| keeps(owed) && owed.fingerprint != command.fingerprint) {
            return Some(StoreReply::Mismatch);
        }
        Some(StoreReply::InFlight { attempt: owed().map(|owed| owed.attempt).max().unwrap_or(0) })
    }
}

fn is_completion(command: &Command) -> bool {
    matches!(command.kind, CommandKind::Complete { .. })
}

/// About how many bytes an operation takes in the outbox and on the wire.
pub(super) fn size(command: &Command) -> usize {
    128 + body_len(command)
}

fn body_len(command: &Command) -> usize {
    match &command.kind {
        CommandKind::Complete { response: Some(response), .. } => response.len(),
        _ => 0,
    }
}
