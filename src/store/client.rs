//! What stands between the exchanges and a store that is asked by messages: queue, batches, tries, breaker, outbox.
//!
//! Its one rule: every operation is answered within a bound, and what is owed to the store is kept until it lands or
//! cannot matter any more.
//! It does not know the wire, the clock, or what an exchange makes of an answer.
//!
//! # Theory of operation
//!
//! Operations queue up while calls are under way; the next call carries all that wait, each under a nonce of its own.
//! An answer counts only under the nonce of its very try. A claim or a renewal that gets none is tried again, and then
//! its asker is told. A settlement that gets none is told to its asker too, so that the client is not kept waiting, and
//! moves to the outbox, which tries until the store has heard it or the record it is about must be gone.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::rc::Rc;

use crate::command::{Command, CommandKind, Failure, ReplyKind, StoreReply};
use crate::config::Redis;
use crate::key::Name;
use crate::mutant::{self, Mutant};

/// A random token that one try of one operation carries, and that its answer must bring back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Nonce(pub [u8; 16]);

/// Bounds of the client.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Tries of one operation before its asker is told that it failed.
    pub attempts: u32,
    /// How long one call may take.
    pub timeout_ms: u64,
    /// How many calls may be under way at once.
    pub max_calls: usize,
    /// How many operations one call carries at most.
    pub max_batch: usize,
    /// How many bytes of responses one call carries at most, beyond its first operation.
    pub max_batch_bytes: usize,
    /// How many operations may wait.
    pub max_queued: usize,
    /// How many bytes of responses the outbox keeps.
    pub max_owed_bytes: usize,
    /// After so many transport failures in a row operations fail at once.
    pub breaker_failures: u32,
    /// For so long, and then one probe.
    pub breaker_open_ms: u64,
}

impl Limits {
    /// As the operator's document has them.
    pub fn new(redis: &Redis) -> Self {
        Limits {
            attempts: redis.attempts,
            timeout_ms: redis.timeout_ms,
            // While one is under way, the next one fills.
            max_calls: if redis.batching { 2 } else { 128 },
            max_batch: if redis.batching { 64 } else { 1 },
            max_batch_bytes: 1 << 20,
            max_queued: 4096,
            max_owed_bytes: 16 << 20,
            breaker_failures: redis.breaker.failures,
            breaker_open_ms: redis.breaker.open_ms,
        }
    }
}

/// One call to the store: operations in order, each with its nonce.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Which call this is.
    pub id: u64,
    /// What it carries.
    pub tries: Vec<(Nonce, Rc<Command>)>,
}

/// What came back from one call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// The store's answers in the order of the operations, each under a nonce.
    Answers(Vec<(Nonce, StoreReply)>),
    /// Nothing that could be read as answers.
    Failed(Failure),
}

/// What came of an operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Completion {
    /// Who had asked; none where nobody waits for it any more.
    pub exchange: Option<u32>,
    /// What was asked.
    pub command: Rc<Command>,
    /// When.
    pub asked_ms: u64,
    /// The answer.
    pub verdict: StoreReply,
}

/// The store client of one worker.
pub struct Client {
    limits: Limits,
    queue: VecDeque<Job>,
    /// By age, and few.
    under_way: Vec<Sent>,
    /// By age.
    owed: BTreeMap<u64, Owed>,
    /// What of it each name has that the store has not heard at all.
    owed_by_name: HashMap<Name, Vec<u64>>,
    owed_bytes: usize,
    /// Up to which of it others have been reminded of.
    reminded: u64,
    next_id: u64,
    failures_in_row: u32,
    /// While the breaker is open: until when.
    open_until_ms: Option<u64>,
}

/// An operation that waits or is under way.
struct Job {
    asker: Asker,
    command: Rc<Command>,
    /// When it was asked for.
    asked_ms: u64,
    tries_left: u32,
    /// Whether a try of it may have been heard although it brought no answer.
    in_doubt: bool,
    /// Not to be sent before.
    due_ms: u64,
    /// Not to wait in the queue any longer.
    until_ms: u64,
}

impl Job {
    fn told(self, verdict: StoreReply) -> Completion {
        let exchange = match self.asker {
            Asker::Exchange(exchange) => Some(exchange),
            Asker::Outbox(_) => None,
        };
        Completion { exchange, command: self.command, asked_ms: self.asked_ms, verdict }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Asker {
    /// This exchange waits for the answer.
    Exchange(u32),
    /// What is owed under this number; nobody waits.
    Outbox(u64),
}

/// A call under way.
struct Sent {
    batch: u64,
    jobs: Vec<(Nonce, Job)>,
    sent_ms: u64,
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
enum Cause {
    /// It is the completion of an execution whose claim lapsed, and another's claim stands in its way: whoever holds
    /// that one may never execute, and then a known success would be forgotten. So often it is offered again.
    Contested(u8),
    /// An earlier try of a claim that is over may be on its way still, and be granted when nobody is there to run.
    LateTries,
    /// No answer came: until the store has heard it nothing else of its name may begin here.
    Unheard,
}

/// How often a contested completion is offered again, each time after a third of a lease: past one lease whoever stood
/// in its way is executing, and will tell.
const CONTESTS: u8 = 3;

/// From when on a call under way keeps no other waiting, however few operations that one would carry.
const LATE_MS: u64 = 5;

/// Of how much that is owed others are reminded at once, so that a worker that owes much does not stop for it.
const REMINDERS: usize = 128;

/// The first pause of the outbox; it doubles up to the last.
const BACKOFF_MS: (u64, u64) = (100, 5_000);

impl Client {
    /// A client with nothing to do.
    pub fn new(limits: Limits) -> Self {
        Client {
            limits,
            queue: VecDeque::new(),
            under_way: Vec::new(),
            owed: BTreeMap::new(),
            owed_by_name: HashMap::new(),
            owed_bytes: 0,
            reminded: 0,
            next_id: 0,
            failures_in_row: 0,
            open_until_ms: None,
        }
    }

    /// Takes an operation; the answer comes later, or at once when it is clear.
    pub fn submit(&mut self, exchange: u32, command: Rc<Command>, now_ms: u64) -> Option<Completion> {
        let asked = command.kind.reply_kind();
        if asked == ReplyKind::Claim
            && let Some(verdict) = self.in_the_way(&command)
        {
            return Some(Completion { exchange: Some(exchange), command, asked_ms: now_ms, verdict });
        }
        let failure = if self.is_open(now_ms) {
            Failure::Breaker
        } else if self.queue.len() >= self.limits.max_queued {
            Failure::Queue
        } else {
            let tries_left = self.limits.attempts;
            let until_ms = now_ms + 2 * u64::from(tries_left) * self.limits.timeout_ms;
            let asker = Asker::Exchange(exchange);
            let (asked_ms, due_ms) = (now_ms, now_ms);
            self.queue.push_back(Job { asker, command, asked_ms, tries_left, in_doubt: false, due_ms, until_ms });
            return None;
        };
        if matches!(asked, ReplyKind::Mark | ReplyKind::Settle) {
            self.owe_unheard(Rc::clone(&command), now_ms);
        }
        Some(Completion { exchange: Some(exchange), command, asked_ms: now_ms, verdict: StoreReply::Failed(failure) })
    }

    /// The next call to send, if one may be sent and anything waits; what is owed goes first.
    pub fn next_batch(&mut self, now_ms: u64, mut nonce: impl FnMut() -> Nonce) -> Option<Batch> {
        if !self.has_line(now_ms) {
            return None;
        }
        let room = if self.open_until_ms.is_some() { 1 } else { self.limits.max_batch };
        // No more than fit, so that what is owed does not fill the queue that others wait in.
        let due = self.owed.iter_mut().filter(|(_, owed)| !owed.trying && owed.due_ms <= now_ms).take(room);
        let due: Vec<Job> = due
            .map(|(id, owed)| {
                owed.trying = true;
                let (asker, command) = (Asker::Outbox(*id), Rc::clone(&owed.command));
                let (asked_ms, due_ms, until_ms) = (now_ms, now_ms, u64::MAX);
                Job { asker, command, asked_ms, tries_left: 1, in_doubt: false, due_ms, until_ms }
            })
            .collect();
        due.into_iter().rev().for_each(|job| self.queue.push_front(job));
        let (mut jobs, mut left, mut bytes) = (Vec::new(), VecDeque::new(), 0);
        for job in self.queue.drain(..) {
            let size = size(&job.command);
            let fits = jobs.is_empty() || bytes + size <= self.limits.max_batch_bytes;
            if jobs.len() < room && job.due_ms <= now_ms && fits {
                bytes += size;
                jobs.push((nonce(), job));
            } else {
                left.push_back(job);
            }
        }
        self.queue = left;
        if jobs.is_empty() {
            return None;
        }
        let id = self.next_id();
        let tries = jobs.iter().map(|(nonce, job)| (*nonce, Rc::clone(&job.command))).collect();
        self.under_way.push(Sent { batch: id, jobs, sent_ms: now_ms });
        Some(Batch { id, tries })
    }

    /// Takes what came back from a call. A reply to a call that is over tells nobody anything.
    pub fn replied(&mut self, batch: u64, reply: Reply, now_ms: u64) -> Vec<Completion> {
        let Some(place) = self.under_way.iter().position(|sent| sent.batch == batch) else { return Vec::new() };
        let sent = self.under_way.remove(place);
        let mut answers = match reply {
            Reply::Answers(answers) => {
                (self.failures_in_row, self.open_until_ms) = (0, None);
                answers.into_iter()
            }
            Reply::Failed(failure) => {
                match failure.is_transport() {
                    true => self.transport_failed(now_ms),
                    false => (self.failures_in_row, self.open_until_ms) = (0, None),
                }
                let jobs = sent.jobs.into_iter();
                return jobs.filter_map(|(nonce, job)| self.failed(nonce, job, failure, now_ms)).collect();
            }
        };
        let mut told = Vec::new();
        for (nonce, job) in sent.jobs {
            told.extend(match answers.next() {
                Some((echoed, StoreReply::Deferred)) if is_echo(echoed, nonce) => {
                    self.queue.push_front(job);
                    None
                }
                Some((echoed, StoreReply::Failed(failure))) if is_echo(echoed, nonce) => {
                    self.failed(nonce, job, failure, now_ms)
                }
                Some((echoed, verdict)) if is_echo(echoed, nonce) => Some(self.answered(job, verdict, now_ms)),
                // An answer to another question, to another try, or none.
                _ => self.failed(nonce, job, Failure::Nonce, now_ms),
            });
        }
        told
    }

    /// Ends calls and operations whose time is over, and forgets what cannot matter any more.
    pub fn tick(&mut self, now_ms: u64) -> Vec<Completion> {
        let late: Vec<u64> = self
            .under_way
            .iter()
            .filter(|sent| sent.sent_ms + self.limits.timeout_ms <= now_ms)
            .map(|sent| sent.batch)
            .collect();
        let mut told: Vec<Completion> = Vec::new();
        for id in late {
            told.extend(self.replied(id, Reply::Failed(Failure::Timeout), now_ms));
        }
        let is_open = self.is_open(now_ms);
        let (over, left) = self.queue.drain(..).partition(|job| is_open || job.until_ms <= now_ms);
        let over: VecDeque<Job> = over;
        self.queue = left;
        let failure = if is_open { Failure::Breaker } else { Failure::Queue };
        told.extend(over.into_iter().map(|job| self.gave_up(job, failure, now_ms)));
        let gone: Vec<u64> = self.owed.iter().filter(|(_, owed)| owed.until_ms <= now_ms).map(|(id, _)| *id).collect();
        for id in gone {
            // Whoever remembers that it was owed must not do so for longer; withdrawals nobody remembers.
            let ended = self.owed.get(&id).filter(|owed| !owed.command.is_withdrawal());
            told.extend(ended.map(|owed| Completion {
                exchange: None,
                command: Rc::clone(&owed.command),
                asked_ms: now_ms,
                verdict: StoreReply::Lost,
            }));
            self.forget(id);
        }
        let owed = &self.owed;
        self.queue.retain(|job| !matches!(job.asker, Asker::Outbox(id) if !owed.contains_key(&id)));
        told
    }

    /// How many operations the store must still hear of.
    pub fn owed(&self) -> usize {
        self.owed_by_name.values().map(Vec::len).sum()
    }

    /// Some of what the store has not heard of at all, each time the next, and after the last the first again.
    pub fn reminders(&mut self) -> Vec<Rc<Command>> {
        let unheard = |(_, owed): &(&u64, &Owed)| owed.cause == Cause::Unheard && !owed.command.is_withdrawal();
        let next = self.owed.range(self.reminded + 1..).filter(unheard).take(REMINDERS);
        let (ids, calls): (Vec<u64>, Vec<Rc<Command>>) = next.map(|(id, owed)| (*id, Rc::clone(&owed.command))).unzip();
        self.reminded = ids.get(REMINDERS - 1).copied().unwrap_or(0);
        calls
    }

    /// Whether something waits that may be sent at once.
    pub fn may_call(&self, now_ms: u64) -> bool {
        !self.queue.is_empty() && self.has_line(now_ms)
    }

    /// How many operations wait to be sent.
    pub fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// About how many bytes what is owed takes.
    pub fn owed_bytes(&self) -> usize {
        self.owed_bytes
    }

    /// Whether nothing waits, is under way or is owed.
    pub fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.under_way.is_empty() && self.owed.is_empty()
    }

    /// One try brought no answer: the next, or the end.
    fn failed(&mut self, nonce: Nonce, mut job: Job, failure: Failure, now_ms: u64) -> Option<Completion> {
        job.in_doubt |= failure.is_doubtful();
        // What cannot be read now cannot be read a moment later either, and that something is there is known.
        if job.tries_left <= 1 || failure == Failure::Corrupt {
            return Some(self.gave_up(job, failure, now_ms));
        }
        // The nonce is random and has done its work: it spreads the tries of many gateways.
        let [jitter, ..] = nonce.0;
        self.queue.push_front(Job { tries_left: job.tries_left - 1, due_ms: now_ms + u64::from(jitter % 32), ..job });
        None
    }

    /// No try brought an answer.
    fn gave_up(&mut self, job: Job, failure: Failure, now_ms: u64) -> Completion {
        let asked = job.command.kind.reply_kind();
        // An earlier try may have been heard, whatever became of the last.
        let is_known = failure.is_doubtful() || failure == Failure::Corrupt;
        let failure = if job.in_doubt && !is_known { Failure::Timeout } else { failure };
        if failure == Failure::Corrupt && job.in_doubt && asked == ReplyKind::Claim {
            self.owe_late_tries(&job.command, now_ms);
        }
        match job.asker {
            Asker::Outbox(id) => {
                let Some(owed) = self.owed.get_mut(&id) else { return job.told(StoreReply::Lost) };
                owed.trying = false;
                owed.due_ms = now_ms + owed.backoff_ms;
                owed.backoff_ms = (2 * owed.backoff_ms).min(BACKOFF_MS.1);
            }
            Asker::Exchange(_) if matches!(asked, ReplyKind::Mark | ReplyKind::Settle) => {
                self.owe_unheard(Rc::clone(&job.command), now_ms);
            }
            Asker::Exchange(_) => {}
        }
        job.told(StoreReply::Failed(failure))
    }

    fn answered(&mut self, job: Job, verdict: StoreReply, now_ms: u64) -> Completion {
        let asked = job.command.kind.reply_kind();
        let lease_ms = job.command.lease_ms;
        let cause = match job.asker {
            Asker::Exchange(_) => Cause::Unheard,
            Asker::Outbox(id) => {
                let cause = self.owed.get(&id).map(|owed| owed.cause);
                self.forget(id);
                cause.unwrap_or(Cause::LateTries)
            }
        };
        let is_contested = verdict == StoreReply::Lost && is_completion(&job.command);
        let (again, wait_ms) = match cause {
            Cause::Unheard if job.command.is_withdrawal() => (Some(Cause::LateTries), lease_ms / 2),
            Cause::Unheard if is_contested => (Some(Cause::Contested(CONTESTS)), lease_ms / 3),
            Cause::Contested(left @ 1..) if is_contested => (Some(Cause::Contested(left - 1)), lease_ms / 3),
            _ => (None, 0),
        };
        if let Some(cause) = again {
            self.owe(Rc::clone(&job.command), cause, now_ms, wait_ms);
        }
        let is_refused = !matches!(verdict, StoreReply::Granted { .. } | StoreReply::Completed { .. });
        if asked == ReplyKind::Claim && is_refused && job.in_doubt {
            self.owe_late_tries(&job.command, now_ms);
        }
        job.told(verdict)
    }

    /// Owes the withdrawal of a claim that is over and of which an earlier try may be granted yet.
    fn owe_late_tries(&mut self, claim: &Command, now_ms: u64) {
        let withdrawal = Command { kind: CommandKind::Withdraw, ..Command::clone(claim) };
        self.owe(Rc::new(withdrawal), Cause::LateTries, now_ms, BACKOFF_MS.0);
    }

    /// Puts an operation that no answer came to into the outbox.
    fn owe_unheard(&mut self, command: Rc<Command>, now_ms: u64) {
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
        let id = self.next_id();
        if cause == Cause::Unheard {
            self.owed_by_name.entry(command.name).or_default().push(id);
        }
        self.owed_bytes += size(&command);
        self.owed.insert(id, Owed { command, cause, due_ms, backoff_ms: BACKOFF_MS.0, until_ms, trying: false });
        while self.owed_bytes > self.limits.max_owed_bytes && self.shed() {}
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
                self.owed_bytes -= body_len(&owed.command);
                owed.command = Rc::new(bare);
            }
            // Whatever else is not said leaves a claim that lapses; a success would be lost.
            (None, None) => match oldest(&|command: &Command| !is_completion(command)).or_else(|| oldest(&|_| true)) {
                Some(id) => self.forget(id),
                None => return false,
            },
        }
        true
    }

    fn forget(&mut self, id: u64) {
        let Some(owed) = self.owed.remove(&id) else { return };
        self.owed_bytes -= size(&owed.command);
        if let Some(ids) = self.owed_by_name.get_mut(&owed.command.name) {
            ids.retain(|other| *other != id);
            if ids.is_empty() {
                self.owed_by_name.remove(&owed.command.name);
            }
        }
    }

    /// What a claim is told while the store must still hear of an earlier one of its name.
    fn in_the_way(&self, command: &Command) -> Option<StoreReply> {
        let ids = self.owed_by_name.get(&command.name)?;
        let owed = || ids.iter().filter_map(|id| self.owed.get(id)).map(|owed| &owed.command);
        let keeps = |owed: &Command| {
            !matches!(owed.kind, CommandKind::Release { keep_fingerprint: false } | CommandKind::Withdraw)
        };
        if owed().any(|owed| keeps(owed) && owed.fingerprint != command.fingerprint) {
            return Some(StoreReply::Mismatch);
        }
        Some(StoreReply::InFlight { attempt: owed().map(|owed| owed.attempt).max().unwrap_or(0) })
    }

    fn next_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// Whether one more call may be under way; one alone, a probe, after the breaker was open.
    ///
    /// It goes out beside another once it carries as many operations as that one: calls cost more than what they carry,
    /// and few that are full bring more answers than many that are not. It does not wait for one that is late.
    fn has_line(&self, now_ms: u64) -> bool {
        let probing = self.open_until_ms.is_some();
        let max_calls = if probing { 1 } else { self.limits.max_calls };
        let lets_by = |other: &Sent| self.queue.len() >= other.jobs.len() || now_ms >= other.sent_ms + LATE_MS;
        !self.is_open(now_ms) && self.under_way.len() < max_calls && self.under_way.last().is_none_or(lets_by)
    }

    fn is_open(&self, now_ms: u64) -> bool {
        self.open_until_ms.is_some_and(|until| now_ms < until)
    }

    fn transport_failed(&mut self, now_ms: u64) {
        self.failures_in_row += 1;
        if self.failures_in_row >= self.limits.breaker_failures {
            self.open_until_ms = Some(now_ms + self.limits.breaker_open_ms);
        }
    }
}

/// Whether an answer is the one to this very try.
fn is_echo(echoed: Nonce, nonce: Nonce) -> bool {
    echoed == nonce || mutant::is(Mutant::NonceIgnored)
}

fn is_completion(command: &Command) -> bool {
    matches!(command.kind, CommandKind::Complete { .. })
}

/// About how many bytes an operation takes in the outbox and on the wire.
fn size(command: &Command) -> usize {
    128 + body_len(command)
}

fn body_len(command: &Command) -> usize {
    match &command.kind {
        CommandKind::Complete { response: Some(response), .. } => response.len(),
        _ => 0,
    }
}
