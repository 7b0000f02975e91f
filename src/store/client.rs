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

use crate::event::{Asked, Failure, Verdict};
use crate::key::Name;
use crate::step::{Call, Operation};

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

/// One call to the store: operations in order, each with its nonce.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Which call this is.
    pub id: u64,
    /// What it carries.
    pub tries: Vec<(Nonce, Rc<Call>)>,
}

/// What came back from one call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// The store's answers in the order of the operations, each under a nonce.
    Answers(Vec<(Nonce, Verdict)>),
    /// Nothing that could be read as answers.
    Failed(Failure),
}

/// An answer for the exchange that asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// Which exchange.
    pub exchange: u32,
    /// What it had asked.
    pub asked: Asked,
    /// The answer.
    pub verdict: Verdict,
}

/// The store client of one worker.
pub struct Client {
    limits: Limits,
    queue: VecDeque<Job>,
    under_way: HashMap<u64, Sent>,
    /// By age.
    owed: BTreeMap<u64, Owed>,
    /// How many of what is owed each name has.
    owed_names: HashMap<Name, usize>,
    next_id: u64,
    failures_in_row: u32,
    /// While the breaker is open: until when.
    open_until_ms: Option<u64>,
}

/// An operation that waits or is under way.
struct Job {
    asker: Asker,
    call: Rc<Call>,
    tries_left: u32,
    /// Not to be sent before.
    due_ms: u64,
    /// Not to wait in the queue any longer.
    until_ms: u64,
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
    jobs: Vec<(Nonce, Job)>,
    deadline_ms: u64,
}

/// An operation that the store must still hear of.
struct Owed {
    call: Rc<Call>,
    due_ms: u64,
    backoff_ms: u64,
    /// When the record it is about must be gone.
    until_ms: u64,
    /// Whether a try of it is queued or under way.
    trying: bool,
    /// Whether the store has heard it once: the release of a claim that was never answered is said twice.
    heard: bool,
}

/// The first pause of the outbox; it doubles up to the last.
const BACKOFF_MS: (u64, u64) = (100, 5_000);

impl Client {
    /// A client with nothing to do.
    pub fn new(limits: Limits) -> Self {
        Client {
            limits,
            queue: VecDeque::new(),
            under_way: HashMap::new(),
            owed: BTreeMap::new(),
            owed_names: HashMap::new(),
            next_id: 0,
            failures_in_row: 0,
            open_until_ms: None,
        }
    }

    /// Takes an operation; the answer comes later, or at once when it is clear.
    pub fn submit(&mut self, exchange: u32, call: Call, now_ms: u64) -> Option<Told> {
        let asked = call.operation.asked();
        let told = |verdict| Some(Told { exchange, asked, verdict });
        let failure = if asked == Asked::Claim && self.owed_names.contains_key(&call.name) {
            return told(Verdict::InFlight { attempt: call.attempt });
        } else if self.is_open(now_ms) {
            Failure::Breaker
        } else if self.queue.len() >= self.limits.max_queued {
            Failure::Queue
        } else {
            let tries_left = self.limits.attempts;
            let until_ms = now_ms + 2 * u64::from(tries_left) * self.limits.timeout_ms;
            let asker = Asker::Exchange(exchange);
            self.queue.push_back(Job { asker, call: Rc::new(call), tries_left, due_ms: now_ms, until_ms });
            return None;
        };
        if asked == Asked::Settle {
            self.owe(Rc::new(call), now_ms, false);
        }
        told(Verdict::Failed(failure))
    }

    /// The next call to send, if one may be sent and anything waits; what is owed goes first.
    pub fn next_batch(&mut self, now_ms: u64, mut nonce: impl FnMut() -> Nonce) -> Option<Batch> {
        let probing = self.open_until_ms.is_some();
        let may_call = if probing { self.under_way.is_empty() } else { self.under_way.len() < self.limits.max_calls };
        if self.is_open(now_ms) || !may_call {
            return None;
        }
        for (id, owed) in self.owed.iter_mut().rev().filter(|(_, owed)| !owed.trying && owed.due_ms <= now_ms) {
            owed.trying = true;
            let (asker, call) = (Asker::Outbox(*id), Rc::clone(&owed.call));
            self.queue.push_front(Job { asker, call, tries_left: 1, due_ms: now_ms, until_ms: u64::MAX });
        }
        let room = if probing { 1 } else { self.limits.max_batch };
        let (mut jobs, mut left, mut bytes) = (Vec::new(), VecDeque::new(), 0);
        for job in self.queue.drain(..) {
            let size = size(&job.call);
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
        let tries = jobs.iter().map(|(nonce, job)| (*nonce, Rc::clone(&job.call))).collect();
        self.under_way.insert(id, Sent { jobs, deadline_ms: now_ms + self.limits.timeout_ms });
        Some(Batch { id, tries })
    }

    /// Takes what came back from a call. A reply to a call that is over tells nobody anything.
    pub fn replied(&mut self, batch: u64, reply: Reply, now_ms: u64) -> Vec<Told> {
        let Some(sent) = self.under_way.remove(&batch) else { return Vec::new() };
        let mut answers = match reply {
            Reply::Answers(answers) => {
                (self.failures_in_row, self.open_until_ms) = (0, None);
                answers.into_iter()
            }
            Reply::Failed(failure) => {
                self.transport_failed(now_ms);
                let jobs = sent.jobs.into_iter();
                return jobs.filter_map(|(nonce, job)| self.failed(nonce, job, failure, now_ms)).collect();
            }
        };
        let mut told = Vec::new();
        for (nonce, job) in sent.jobs {
            told.extend(match answers.next() {
                Some((echoed, Verdict::Failed(failure))) if echoed == nonce => self.failed(nonce, job, failure, now_ms),
                Some((echoed, verdict)) if echoed == nonce => self.answered(job, verdict, now_ms),
                // An answer to another question, to another try, or none.
                _ => self.failed(nonce, job, Failure::Nonce, now_ms),
            });
        }
        told
    }

    /// Ends calls and operations whose time is over, and forgets what cannot matter any more.
    pub fn tick(&mut self, now_ms: u64) -> Vec<Told> {
        let late: Vec<u64> =
            self.under_way.iter().filter(|(_, sent)| sent.deadline_ms <= now_ms).map(|(id, _)| *id).collect();
        let mut told: Vec<Told> = Vec::new();
        for id in late {
            told.extend(self.replied(id, Reply::Failed(Failure::Timeout), now_ms));
        }
        let is_open = self.is_open(now_ms);
        let (over, left) = self.queue.drain(..).partition(|job| is_open || job.until_ms <= now_ms);
        let over: VecDeque<Job> = over;
        self.queue = left;
        let failure = if is_open { Failure::Breaker } else { Failure::Queue };
        told.extend(over.into_iter().filter_map(|job| self.gave_up(job, failure, now_ms)));
        let gone: Vec<u64> = self.owed.iter().filter(|(_, owed)| owed.until_ms <= now_ms).map(|(id, _)| *id).collect();
        gone.into_iter().for_each(|id| self.forget(id));
        told
    }

    /// How many operations the store must still hear of.
    pub fn owed(&self) -> usize {
        self.owed_names.values().sum()
    }

    /// Whether nothing waits, is under way or is owed.
    pub fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.under_way.is_empty() && self.owed.is_empty()
    }

    /// One try brought no answer: the next, or the end.
    fn failed(&mut self, nonce: Nonce, job: Job, failure: Failure, now_ms: u64) -> Option<Told> {
        if job.tries_left <= 1 {
            return self.gave_up(job, failure, now_ms);
        }
        // The nonce is random and has done its work: it spreads the tries of many gateways.
        let [jitter, ..] = nonce.0;
        self.queue.push_front(Job { tries_left: job.tries_left - 1, due_ms: now_ms + u64::from(jitter % 32), ..job });
        None
    }

    /// No try brought an answer.
    fn gave_up(&mut self, job: Job, failure: Failure, now_ms: u64) -> Option<Told> {
        // A try that was sent may have been heard, whatever became of the next.
        let was_sent = job.tries_left < self.limits.attempts;
        let failure = if was_sent && !failure.is_doubtful() { Failure::Timeout } else { failure };
        let asked = job.call.operation.asked();
        match job.asker {
            Asker::Outbox(id) => {
                if let Some(owed) = self.owed.get_mut(&id) {
                    owed.trying = false;
                    owed.due_ms = now_ms + owed.backoff_ms;
                    owed.backoff_ms = (2 * owed.backoff_ms).min(BACKOFF_MS.1);
                }
                None
            }
            Asker::Exchange(exchange) => {
                if asked == Asked::Settle {
                    self.owe(job.call, now_ms, false);
                }
                Some(Told { exchange, asked, verdict: Verdict::Failed(failure) })
            }
        }
    }

    fn answered(&mut self, job: Job, verdict: Verdict, now_ms: u64) -> Option<Told> {
        let asked = job.call.operation.asked();
        let heard_before = match job.asker {
            Asker::Outbox(id) => {
                let heard = self.owed.get(&id).is_none_or(|owed| owed.heard);
                self.forget(id);
                heard
            }
            Asker::Exchange(_) => false,
        };
        if !heard_before && is_withdrawal(&job.call) {
            self.owe(Rc::clone(&job.call), now_ms, true);
        }
        match job.asker {
            Asker::Outbox(_) => None,
            Asker::Exchange(exchange) => Some(Told { exchange, asked, verdict }),
        }
    }

    /// Puts an operation into the outbox, and keeps the outbox within its bound.
    fn owe(&mut self, call: Rc<Call>, now_ms: u64, heard: bool) {
        // A claim that was never answered may be on its way still: its second release comes within the lease.
        let due_ms = now_ms + if heard { call.lease_ms / 2 } else { BACKOFF_MS.0 };
        let until_ms = now_ms + call.ttl_ms.max(call.lease_ms);
        if !heard {
            *self.owed_names.entry(call.name).or_default() += 1;
        }
        let id = self.next_id();
        self.owed.insert(id, Owed { call, due_ms, backoff_ms: BACKOFF_MS.0, until_ms, trying: false, heard });
        while self.owed.values().map(|owed| size(&owed.call)).sum::<usize>() > self.limits.max_owed_bytes {
            let withdrawal = self.owed.iter().find(|(_, owed)| is_withdrawal(&owed.call)).map(|(id, _)| *id);
            if let Some(id) = withdrawal {
                self.forget(id);
                continue;
            }
            let Some(owed) = self.owed.values_mut().find(|owed| body_len(&owed.call) > 0) else { return };
            let mut bare = Call::clone(&owed.call);
            if let Operation::Complete { response, .. } = &mut bare.operation {
                *response = None;
            }
            owed.call = Rc::new(bare);
        }
    }

    fn forget(&mut self, id: u64) {
        let Some(owed) = self.owed.remove(&id).filter(|owed| !owed.heard) else { return };
        if let Some(count) = self.owed_names.get_mut(&owed.call.name) {
            *count -= 1;
            if *count == 0 {
                self.owed_names.remove(&owed.call.name);
            }
        }
    }

    fn next_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
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

/// The release of a claim that was never granted, as far as its asker knows.
fn is_withdrawal(call: &Call) -> bool {
    call.attempt == 0 && matches!(call.operation, Operation::Release { .. })
}

/// About how many bytes an operation takes in the outbox and on the wire.
fn size(call: &Call) -> usize {
    128 + body_len(call)
}

fn body_len(call: &Call) -> usize {
    match &call.operation {
        Operation::Complete { response: Some(response), .. } => response.len(),
        _ => 0,
    }
}
