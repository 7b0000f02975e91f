//! What a worker owes the store: operations that it must still hear of, until it has or they cannot matter any more.
//!
//! Its one rule: while the store has not heard of an operation, no claim of its name begins on this worker.
//! It does not know when calls are made, nor what carries them.

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use crate::command::{Command, CommandKind, Failure, GivenUp, StoreReply, WhyGivenUp};
use crate::key::Name;
use crate::mutant::{self, Mutant};

/// What one worker owes.
pub struct Outbox {
    /// About how many bytes all that share the pool may take.
    max_bytes: usize,
    pool: Pool,
    /// By age.
    owed: BTreeMap<u64, Owed>,
    /// What of it each name has that the store has not heard at all.
    by_name: HashMap<Name, Vec<u64>>,
    bytes: usize,
    /// Up to which of it others have been reminded of.
    reminded: u64,
    /// When a recovery of the store makes due what is owed, at the earliest, and the pause after that.
    recovers: (u64, u64),
    /// Once its worker drains: until when it keeps withdrawals, and until when anything.
    drains_until_ms: Option<(u64, u64)>,
    given_up: Vec<GivenUp>,
}

/// What the outboxes of one VM share: a bound of bytes, and numbers that tell which of two operations is older.
#[derive(Clone, Default)]
pub struct Pool(Rc<Shared>);

#[derive(Default)]
struct Shared {
    bytes: Cell<usize>,
    next_id: Cell<u64>,
}

/// An operation that the store must still hear of, on its way from a worker to its heir.
pub struct HandedOver {
    /// By age, among all of one pool.
    id: u64,
    owed: Owed,
}

/// An operation that the store must still hear of.
struct Owed {
    command: Rc<Command>,
    cause: Cause,
    since_ms: u64,
    due_ms: u64,
    backoff_ms: u64,
    /// When the record it is about must be gone.
    until_ms: u64,
    /// Whether a try of it is queued or under way.
    trying: bool,
    /// How many tries in a row have timed out.
    timed_out: u8,
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

/// After so many tries in a row that timed out, a completion goes without its response, if that is larger than this many
/// bytes: a call that carries it may never end in time, and a known success must not wait for that.
const SLOW_TRIES: u8 = 8;
const SLOW_BODY: usize = 1 << 20;

/// The longest pause between two recoveries of the store.
const RECOVERY_MS: u64 = 1_000;

/// The next recovery counts at once.
const NO_RECOVERY: (u64, u64) = (0, BACKOFF_MS.0);

impl Outbox {
    /// An outbox in which nothing is owed, for so many bytes together with the others of its pool.
    pub(super) fn new(max_bytes: usize, pool: Pool) -> Self {
        Outbox {
            max_bytes,
            pool,
            owed: BTreeMap::new(),
            by_name: HashMap::new(),
            bytes: 0,
            reminded: 0,
            recovers: NO_RECOVERY,
            drains_until_ms: None,
            given_up: Vec::new(),
        }
    }

    /// How many operations the store has not heard of at all.
    pub(super) fn unheard(&self) -> usize {
        self.by_name.values().map(Vec::len).sum()
    }

    /// Since when it owes the oldest of these.
    pub(super) fn unheard_since_ms(&self) -> Option<u64> {
        self.owed.values().find(|owed| owed.cause == Cause::Unheard).map(|owed| owed.since_ms)
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

    /// Takes up to `room` of these operations whose time has come, to be tried.
    pub(super) fn due(
        &mut self,
        room: usize,
        is_wanted: impl Fn(&Command) -> bool,
        now_ms: u64,
    ) -> Vec<(u64, Rc<Command>)> {
        let is_due = |owed: &Owed| !owed.trying && owed.due_ms <= now_ms && is_wanted(&owed.command);
        let due = self.owed.iter_mut().filter(|(_, owed)| is_due(owed)).take(room);
        due.map(|(id, owed)| {
            owed.trying = true;
            (*id, Rc::clone(&owed.command))
        })
        .collect()
    }

    /// A try of this brought no answer: it is tried again later. Tells whether it is still owed.
    pub(super) fn put_off(&mut self, id: u64, failure: Failure, now_ms: u64) -> bool {
        let Some(owed) = self.owed.get_mut(&id) else { return false };
        owed.trying = false;
        owed.due_ms = now_ms + owed.backoff_ms;
        owed.backoff_ms = (2 * owed.backoff_ms).min(BACKOFF_MS.1);
        owed.timed_out = if failure == Failure::Timeout { owed.timed_out.saturating_add(1) } else { 0 };
        if owed.timed_out >= SLOW_TRIES && body_len(&owed.command) > SLOW_BODY {
            self.strip(id, WhyGivenUp::TooSlow);
        }
        true
    }

    /// The store has carried out an operation after others had failed: all that has failed is due at once, and its pauses
    /// begin anew.
    ///
    /// A store of which a part fails recovers again and again. So recoveries pause as tries do, until nothing is owed: one
    /// that comes during a pause counts from its end on.
    pub(super) fn recover(&mut self, now_ms: u64) {
        let (from_ms, pause_ms) = self.recovers;
        if self.owed.is_empty() || mutant::is(Mutant::RecoveryIgnored) {
            return;
        }
        let recovers_ms = from_ms.max(now_ms);
        if from_ms <= now_ms {
            self.recovers = (now_ms + pause_ms, (2 * pause_ms).min(RECOVERY_MS));
        }
        // What waits for its time without having failed, as a withdrawal that is said once more, goes on waiting.
        let has_failed = |owed: &&mut Owed| owed.cause == Cause::Unheard || owed.backoff_ms > BACKOFF_MS.0;
        for owed in self.owed.values_mut().filter(has_failed) {
            owed.due_ms = owed.due_ms.min(recovers_ms);
            owed.backoff_ms = owed.backoff_ms.min(pause_ms);
        }
    }

    /// The store has heard of this; tells why it was owed.
    pub(super) fn heard(&mut self, id: u64) -> Option<Cause> {
        let cause = self.owed.get(&id).map(|owed| owed.cause);
        self.forget(id);
        cause
    }

    /// What the store must hear of once more after this answer.
    pub(super) fn owe_again(&mut self, kept: Option<Cause>, command: &Rc<Command>, reply: &StoreReply, now_ms: u64) {
        let is_contested = *reply == StoreReply::Lost && is_completion(command);
        let lease_ms = command.lease_ms;
        let (cause, wait_ms) = match kept {
            Some(Cause::Unheard) if command.is_withdrawal() => (Cause::LateTries, lease_ms / 2),
            Some(Cause::Unheard) if is_contested => (Cause::Contested(CONTESTS), lease_ms / 3),
            Some(Cause::Contested(left @ 1..)) if is_contested => (Cause::Contested(left - 1), lease_ms / 3),
            _ => return,
        };
        self.owe(Rc::clone(command), cause, now_ms, wait_ms);
    }

    /// Forgets what cannot matter any more, and gives up what there is neither time nor room for; tells what of it others
    /// may remember.
    pub(super) fn expire(&mut self, now_ms: u64) -> Vec<Rc<Command>> {
        let drains_until_ms = self.drains_until_ms;
        let why = |owed: &Owed| match drains_until_ms {
            _ if owed.until_ms <= now_ms => Some(WhyGivenUp::Expired),
            Some((withdrawals_ms, all_ms)) => {
                let until_ms = if owed.command.is_withdrawal() { withdrawals_ms } else { all_ms };
                (until_ms <= now_ms).then_some(WhyGivenUp::Drained)
            }
            None => None,
        };
        let gone: Vec<_> = self.owed.iter().filter_map(|(id, owed)| Some((*id, why(owed)?))).collect();
        let mut ended = Vec::new();
        for (id, why) in gone {
            let Some(owed) = self.owed.get(&id) else { continue };
            let command = Rc::clone(&owed.command);
            if owed.cause == Cause::Unheard || why == WhyGivenUp::Drained {
                self.note(why, &command);
            }
            self.forget(id);
            // A worker that remembers that it was owed must not do so for longer; withdrawals are not remembered.
            ended.extend((!command.is_withdrawal()).then_some(command));
        }
        while self.is_over() && self.shed(true) {}
        ended
    }

    /// The worker drains: from now on withdrawals are kept until then, and nothing longer than that.
    pub fn drain(&mut self, withdrawals_until_ms: u64, until_ms: u64) {
        let until_ms = if mutant::is(Mutant::OwedNotHandedOver) { withdrawals_until_ms } else { until_ms };
        self.drains_until_ms = Some((withdrawals_until_ms, until_ms));
    }

    /// Gives away what another outbox of the same pool is to keep: all but withdrawals, and what is being tried.
    pub fn hand_over(&mut self) -> Vec<HandedOver> {
        if mutant::is(Mutant::OwedNotHandedOver) {
            return Vec::new();
        }
        let may_go = |owed: &Owed| !owed.trying && !owed.command.is_withdrawal();
        let ids: Vec<u64> = self.owed.iter().filter(|(_, owed)| may_go(owed)).map(|(id, _)| *id).collect();
        ids.into_iter().filter_map(|id| Some(HandedOver { id, owed: self.forget(id)? })).collect()
    }

    /// Keeps what another outbox of the same pool has given away; tells what of it others are to be reminded of.
    pub(super) fn inherit(&mut self, handed_over: Vec<HandedOver>) -> Vec<Rc<Command>> {
        let unheard = handed_over.iter().filter(|handed| handed.owed.cause == Cause::Unheard);
        let commands = unheard.map(|handed| Rc::clone(&handed.owed.command)).collect();
        handed_over.into_iter().for_each(|HandedOver { id, owed }| self.keep(id, owed));
        commands
    }

    /// What was given up since it was asked last, by reason.
    pub fn take_given_up(&mut self) -> Vec<GivenUp> {
        std::mem::take(&mut self.given_up)
    }

    /// Some of what the store has not heard of at all, each time the next, and after the last the first again.
    pub(super) fn reminders(&mut self) -> Vec<Rc<Command>> {
        let unheard = |(_, owed): &(&u64, &Owed)| owed.cause == Cause::Unheard && !owed.command.is_withdrawal();
        let next = self.owed.range(self.reminded + 1..).filter(unheard).take(REMINDERS);
        let (ids, calls): (Vec<u64>, Vec<Rc<Command>>) = next.map(|(id, owed)| (*id, Rc::clone(&owed.command))).unzip();
        self.reminded = ids.get(REMINDERS - 1).copied().unwrap_or(0);
        calls
    }

    /// Owes what takes back a claim or a lock that is over and of which an earlier try may be granted yet.
    pub(super) fn owe_late_tries(&mut self, claim: &Command, now_ms: u64) {
        self.owe(Rc::new(claim.taken_back()), Cause::LateTries, now_ms, BACKOFF_MS.0);
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
        let id = self.pool.next_id();
        let (since_ms, backoff_ms) = (now_ms, BACKOFF_MS.0);
        self.keep(id, Owed { command, cause, since_ms, due_ms, backoff_ms, until_ms, trying: false, timed_out: 0 });
    }

    fn keep(&mut self, id: u64, owed: Owed) {
        if owed.cause == Cause::Unheard {
            self.by_name.entry(owed.command.name).or_default().push(id);
        }
        self.change_bytes(self.bytes + size(&owed.command));
        self.owed.insert(id, owed);
        // What others keep is no reason to forget an outcome, before they had a tick to give up their part.
        while self.is_over() && self.shed(self.bytes > self.max_bytes) {}
    }

    fn is_over(&self) -> bool {
        self.pool.0.bytes.get() > self.max_bytes
    }

    fn change_bytes(&mut self, bytes: usize) {
        let others = self.pool.0.bytes.get().saturating_sub(self.bytes);
        self.pool.0.bytes.set(others + bytes);
        self.bytes = bytes;
    }

    /// Gives up a part of what is owed: what leaves the least behind first, and outcomes only where they may go.
    fn shed(&mut self, may_forget: bool) -> bool {
        let oldest = |fits: &dyn Fn(&Command) -> bool| {
            self.owed.iter().find(|(_, owed)| fits(&owed.command)).map(|(id, owed)| (*id, Rc::clone(&owed.command)))
        };
        let withdrawn = oldest(&Command::is_withdrawal);
        // Anything else that is not said leaves a claim that lapses; a success would be lost.
        let outcome = || oldest(&|command: &Command| !is_completion(command)).or_else(|| oldest(&|_| true));
        match withdrawn.or_else(|| oldest(&|command| body_len(command) > 0)).or_else(|| may_forget.then(outcome)?) {
            Some((id, command)) if body_len(&command) > 0 => self.strip(id, WhyGivenUp::NoRoom),
            Some((id, command)) => {
                self.forget(id);
                self.note(WhyGivenUp::NoRoom, &command);
            }
            None => return false,
        }
        true
    }

    /// Takes the response off a completion, which then counts as not replayable.
    fn strip(&mut self, id: u64, why: WhyGivenUp) {
        let Some(owed) = self.owed.get_mut(&id) else { return };
        let mut bare = Command::clone(&owed.command);
        if let CommandKind::Complete { response, .. } = &mut bare.kind {
            *response = None;
        }
        let (bytes, name) = (body_len(&owed.command), owed.command.name);
        owed.command = Rc::new(bare);
        self.change_bytes(self.bytes - bytes);
        self.given_up(why, name, |given_up| given_up.responses += 1);
    }

    fn note(&mut self, why: WhyGivenUp, command: &Command) {
        self.given_up(why, command.name, |given_up| match is_completion(command) {
            true => (given_up.completions, given_up.name) = (given_up.completions + 1, command.name),
            false => given_up.others += 1,
        });
    }

    fn given_up(&mut self, why: WhyGivenUp, name: Name, note: impl FnMut(&mut GivenUp)) {
        if self.given_up.iter().all(|given_up| given_up.why != why) {
            self.given_up.push(GivenUp { why, completions: 0, responses: 0, others: 0, name });
        }
        self.given_up.iter_mut().filter(|given_up| given_up.why == why).for_each(note);
    }

    fn forget(&mut self, id: u64) -> Option<Owed> {
        let owed = self.owed.remove(&id)?;
        self.change_bytes(self.bytes - size(&owed.command));
        if let Some(ids) = self.by_name.get_mut(&owed.command.name) {
            ids.retain(|other| *other != id);
            if ids.is_empty() {
                self.by_name.remove(&owed.command.name);
            }
        }
        if self.owed.is_empty() {
            self.recovers = NO_RECOVERY;
        }
        Some(owed)
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

impl Drop for Outbox {
    fn drop(&mut self) {
        self.change_bytes(0);
    }
}

impl Pool {
    fn next_id(&self) -> u64 {
        let id = self.0.next_id.get() + 1;
        self.0.next_id.set(id);
        id
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
