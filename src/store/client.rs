//! What stands between the exchanges and a store that is asked by messages: queue, batches, tries, breaker.
//!
//! Its one rule: every operation is answered within a bound, and what is owed to the store is kept until it lands or
//! cannot matter any more.
//! It does not know the wire, the clock, or what an exchange makes of an answer.
//!
//! # Theory of operation
//!
//! Operations queue up while calls are under way; the next call carries all that wait, each under a nonce of its own.
//! An answer counts only under the nonce of its very try. A claim or a renewal that gets none is tried again, and then
//! fails for its asker. A settlement that gets none fails for its asker too, so that the client is not kept waiting, and
//! moves to the outbox, which tries until the store has heard it or the record it is about must be gone.

use std::collections::VecDeque;
use std::rc::Rc;

use crate::command::{Command, Failure, ReplyKind, StoreReply};
use crate::mutant::{self, Mutant};
pub use crate::store::call::{Batch, Completion, Heard, Lane, Limits, MAX_BATCH_BYTES, Nonce, OUTSTANDING_MAX, Reply};
use crate::store::outbox::{Cause, HandedOver, Outbox, Pool, size};

/// The store client of one worker.
pub struct Client {
    limits: Limits,
    queue: VecDeque<Job>,
    /// By age, and few.
    under_way: Vec<Sent>,
    outbox: Outbox,
    next_batch: u64,
    /// Whether the next call is an odd one, on the lane for small responses and on the other.
    turns: (bool, bool),
    failures_in_row: u32,
    /// While the breaker is open: until when.
    open_until_ms: Option<u64>,
    /// Whether a call has failed, or an operation, since one was carried out in a call in which none failed.
    has_failed: bool,
}

/// An operation that waits or is under way.
struct Job {
    asker: Asker,
    command: Rc<Command>,
    lane: Lane,
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
    fn complete(self, reply: StoreReply) -> Completion {
        let exchange = match self.asker {
            Asker::Exchange(exchange) => Some(exchange),
            Asker::Outbox(_) => None,
        };
        Completion { exchange, command: self.command, asked_ms: self.asked_ms, reply }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Asker {
    /// This exchange waits for the answer.
    Exchange(u32),
    /// What is owed under this number; no exchange waits.
    Outbox(u64),
}

/// A call under way.
struct Sent {
    batch: u64,
    lane: Lane,
    jobs: Vec<(Nonce, Job)>,
    sent_ms: u64,
}

/// From when on a call under way keeps no other waiting, however few operations that one would carry.
const LATE_MS: u64 = 5;

impl Client {
    /// A client with nothing to do, alone in its VM.
    pub fn new(limits: Limits) -> Self {
        Client::sharing(limits, &Pool::default())
    }

    /// A client with nothing to do. It keeps what it owes within one bound together with the others of this pool.
    pub fn sharing(limits: Limits, pool: &Pool) -> Self {
        Client {
            limits,
            queue: VecDeque::new(),
            under_way: Vec::new(),
            outbox: Outbox::new(limits.max_owed_bytes, pool.clone()),
            next_batch: 0,
            turns: (false, false),
            failures_in_row: 0,
            open_until_ms: None,
            has_failed: false,
        }
    }

    /// Takes an operation; the answer comes later, or at once when it is clear.
    pub fn submit(&mut self, exchange: u32, command: Rc<Command>, now_ms: u64) -> Option<Completion> {
        let asked = command.kind.reply_kind();
        if asked == ReplyKind::Claim
            && let Some(reply) = self.outbox.in_the_way(&command)
        {
            return Some(Completion { exchange: Some(exchange), command, asked_ms: now_ms, reply });
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
            let lane = self.limits.lane(&command);
            self.queue.push_back(Job { asker, command, lane, asked_ms, tries_left, in_doubt: false, due_ms, until_ms });
            return None;
        };
        if asked.is_owed() {
            self.outbox.owe_unheard(Rc::clone(&command), now_ms);
        }
        Some(Completion { exchange: Some(exchange), command, asked_ms: now_ms, reply: StoreReply::Failed(failure) })
    }

    /// The next call to send on this lane, if one may be sent and anything waits for it; what is owed goes first, and
    /// leaves half of the room to claims that wait.
    pub fn next_batch(&mut self, lane: Lane, now_ms: u64, mut nonce: impl FnMut() -> Nonce) -> Option<Batch> {
        if !self.has_line(lane, now_ms) {
            return None;
        }
        let room = if self.open_until_ms.is_some() { 1 } else { self.limits.max_batch };
        let is_owed = |job: &Job| matches!(job.asker, Asker::Outbox(_));
        // Where a call has room for one, every other of its lane carries a claim.
        let odd = usize::from(*self.turn(lane));
        let mut on_lane = self.queue.iter().filter(|job| job.lane == lane);
        let has_claims = on_lane.clone().any(|job| job.due_ms <= now_ms && job.command.kind.reply_kind().may_grant());
        let mut room_for_owed = if has_claims { (room + odd) / 2 } else { room };
        // No more than fit, so that what is owed does not fill the queue that others wait in.
        let queued = on_lane.by_ref().filter(|job| is_owed(job)).count();
        let limits = self.limits;
        let fits_lane = |command: &Command| limits.lane(command) == lane;
        let due = self.outbox.due(room_for_owed.saturating_sub(queued), fits_lane, now_ms).into_iter();
        let due = due.map(|(id, command)| {
            let (asked_ms, due_ms, until_ms) = (now_ms, now_ms, u64::MAX);
            let asker = Asker::Outbox(id);
            Job { asker, command, lane, asked_ms, tries_left: 1, in_doubt: false, due_ms, until_ms }
        });
        due.rev().for_each(|job| self.queue.push_front(job));
        let (mut jobs, mut left, mut bytes) = (Vec::new(), VecDeque::new(), 0);
        for job in self.queue.drain(..) {
            let size = size(&job.command);
            let is_light = job.command.kind.reply_kind().may_grant();
            let fits = jobs.is_empty() || is_light || bytes + size <= self.limits.max_batch_bytes;
            let has_room = jobs.len() < room && (!is_owed(&job) || room_for_owed > 0);
            if job.lane == lane && has_room && job.due_ms <= now_ms && fits {
                bytes += size;
                room_for_owed -= usize::from(is_owed(&job));
                jobs.push((nonce(), job));
            } else {
                left.push_back(job);
            }
        }
        self.queue = left;
        if jobs.is_empty() {
            return None;
        }
        self.next_batch += 1;
        *self.turn(lane) ^= true;
        let id = self.next_batch;
        let tries = jobs.iter().map(|(nonce, job)| (*nonce, Rc::clone(&job.command))).collect();
        self.under_way.push(Sent { batch: id, lane, jobs, sent_ms: now_ms });
        Some(Batch { id, lane, tries })
    }

    /// Takes what came back from a call. A reply to a call that is over completes nothing.
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
                self.has_failed = true;
                let jobs = sent.jobs.into_iter();
                return jobs.filter_map(|(nonce, job)| self.failed(nonce, job, failure, now_ms)).collect();
            }
        };
        let mut completed = Vec::new();
        let (mut is_back, mut fails) = (false, false);
        for (nonce, job) in sent.jobs {
            // An answer to another question, to another try, or none, is a failure too.
            let reply = answers.next().filter(|(echoed, _)| is_echo(*echoed, nonce)).map(|(_, reply)| reply);
            completed.extend(match reply.unwrap_or(StoreReply::Failed(Failure::Nonce)) {
                StoreReply::Deferred => {
                    let lane = if self.limits.large_bytes.is_some() { Lane::Large } else { job.lane };
                    self.queue.push_front(Job { lane, ..job });
                    None
                }
                StoreReply::Failed(failure) => {
                    // What cannot be read says nothing about the store.
                    fails |= !failure.is_unreadable();
                    self.failed(nonce, job, failure, now_ms)
                }
                reply => {
                    is_back = true;
                    Some(self.answered(job, reply, now_ms))
                }
            });
        }
        if is_back && self.has_failed {
            self.outbox.recover(now_ms);
        }
        self.has_failed = fails || (self.has_failed && !is_back);
        completed
    }

    /// A stream of calls is lost: those of them that are under way have failed, all for one reason.
    pub fn lost(&mut self, batches: &[u64], failure: Failure, now_ms: u64) -> Vec<Completion> {
        let is_lost = |sent: &mut Sent| batches.contains(&sent.batch);
        let lost: Vec<Sent> = self.under_way.extract_if(.., is_lost).collect();
        if lost.is_empty() {
            return Vec::new();
        }
        if failure.is_transport() {
            self.transport_failed(now_ms);
        }
        self.has_failed = true;
        let failure = if mutant::is(Mutant::LostUndone) { Failure::Queue } else { failure };
        let jobs = lost.into_iter().flat_map(|sent| sent.jobs);
        jobs.filter_map(|(nonce, job)| self.failed(nonce, job, failure, now_ms)).collect()
    }

    /// Ends calls and operations whose time is over, and forgets what cannot matter any more.
    pub fn tick(&mut self, now_ms: u64) -> Vec<Completion> {
        let late: Vec<u64> = self
            .under_way
            .iter()
            .filter(|sent| sent.sent_ms + self.limits.timeout_ms <= now_ms)
            .map(|sent| sent.batch)
            .collect();
        let mut completed: Vec<Completion> = Vec::new();
        for id in late {
            completed.extend(self.replied(id, Reply::Failed(Failure::Timeout), now_ms));
        }
        let is_open = self.is_open(now_ms);
        let (over, left) = self.queue.drain(..).partition(|job| is_open || job.until_ms <= now_ms);
        let over: VecDeque<Job> = over;
        self.queue = left;
        let failure = if is_open { Failure::Breaker } else { Failure::Queue };
        completed.extend(over.into_iter().map(|job| self.gave_up(job, failure, now_ms)));
        completed.extend(self.outbox.expire(now_ms).into_iter().map(|command| Completion {
            exchange: None,
            command,
            asked_ms: now_ms,
            reply: StoreReply::Lost,
        }));
        let outbox = &self.outbox;
        self.queue.retain(|job| !matches!(job.asker, Asker::Outbox(id) if !outbox.has(id)));
        completed
    }

    /// Keeps what another client has given away; tells what of it others are to be reminded of. The other's calls have
    /// failed, so the next answer makes it due.
    pub fn inherit(&mut self, handed_over: Vec<HandedOver>) -> Vec<Rc<Command>> {
        self.has_failed |= !handed_over.is_empty();
        self.outbox.inherit(handed_over)
    }

    /// What is owed.
    pub fn outbox_mut(&mut self) -> &mut Outbox {
        &mut self.outbox
    }

    /// How many operations the store must still hear of.
    pub fn owed(&self) -> usize {
        self.outbox.unheard()
    }

    /// Since when the store must still hear of the oldest of these.
    pub fn owed_since_ms(&self) -> Option<u64> {
        self.outbox.unheard_since_ms()
    }

    /// Whether nothing has failed since the store carried an operation out.
    pub fn is_well(&self) -> bool {
        !self.has_failed
    }

    /// Whether the breaker is open, or waits for its probe.
    pub fn is_broken(&self) -> bool {
        self.open_until_ms.is_some()
    }

    /// About how many bytes what is owed takes.
    pub fn owed_bytes(&self) -> usize {
        self.outbox.bytes()
    }

    /// Some of what the store has not heard of at all, each time the next, and after the last the first again.
    pub fn reminders(&mut self) -> Vec<Rc<Command>> {
        self.outbox.reminders()
    }

    /// Whether something waits that may be sent at once on this lane.
    pub fn may_call(&self, lane: Lane, now_ms: u64) -> bool {
        self.queue.iter().any(|job| job.lane == lane) && self.has_line(lane, now_ms)
    }

    /// How many operations wait to be sent.
    pub fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// Whether nothing waits, is under way or is owed.
    pub fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.under_way.is_empty() && self.outbox.is_empty()
    }

    /// One try brought no answer: the next, or the end.
    fn failed(&mut self, nonce: Nonce, mut job: Job, failure: Failure, now_ms: u64) -> Option<Completion> {
        job.in_doubt |= failure.is_doubtful();
        // What cannot be read now cannot be read a moment later either, and that something is there is known.
        if job.tries_left <= 1 || failure.is_unreadable() {
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
        let is_known = failure.is_doubtful() || failure.is_unreadable();
        let failure = if job.in_doubt && !is_known { Failure::Timeout } else { failure };
        if failure.is_unreadable() && job.in_doubt && asked.may_grant() {
            self.outbox.owe_late_tries(&job.command, now_ms);
        }
        match job.asker {
            Asker::Outbox(id) if !self.outbox.put_off(id, failure, now_ms) => return job.complete(StoreReply::Lost),
            Asker::Outbox(_) => {}
            Asker::Exchange(_) if asked.is_owed() => {
                self.outbox.owe_unheard(Rc::clone(&job.command), now_ms);
            }
            Asker::Exchange(_) => {}
        }
        job.complete(StoreReply::Failed(failure))
    }

    fn answered(&mut self, job: Job, reply: StoreReply, now_ms: u64) -> Completion {
        let asked = job.command.kind.reply_kind();
        let kept = match job.asker {
            Asker::Exchange(_) => Some(Cause::Unheard),
            Asker::Outbox(id) => self.outbox.heard(id),
        };
        self.outbox.owe_again(kept, &job.command, &reply, now_ms);
        let is_granted = matches!(reply, StoreReply::Granted { .. } | StoreReply::Locked { .. });
        // Who finds a lock held asks again under the same owner, and takes it back itself where it does not.
        let is_refused = !is_granted && !matches!(reply, StoreReply::Busy { .. } | StoreReply::Completed { .. });
        if asked.may_grant() && is_refused && job.in_doubt {
            self.outbox.owe_late_tries(&job.command, now_ms);
        }
        job.complete(reply)
    }

    fn turn(&mut self, lane: Lane) -> &mut bool {
        match lane {
            Lane::Small => &mut self.turns.0,
            Lane::Large => &mut self.turns.1,
        }
    }

    /// Whether one more call may be under way on this lane; one alone, a probe, after the breaker was open.
    ///
    /// It goes out beside another once it carries as many operations as that one: calls cost more than what they carry,
    /// and few that are full bring more answers than many that are not. It does not wait for one that is late.
    fn has_line(&self, lane: Lane, now_ms: u64) -> bool {
        if self.open_until_ms.is_some() {
            return !self.is_open(now_ms) && self.under_way.is_empty();
        }
        let mut others = self.under_way.iter().filter(|sent| sent.lane == lane);
        let waiting = || self.queue.iter().filter(|job| job.lane == lane).count();
        let lets_by = |other: &Sent| now_ms >= other.sent_ms + LATE_MS || waiting() >= other.jobs.len();
        others.clone().count() < self.limits.max_calls && others.next_back().is_none_or(lets_by)
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
