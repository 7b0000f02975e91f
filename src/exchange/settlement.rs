//! From an outcome to the command that settles it, and to the client's answer once the store has heard of it.
//!
//! Its one rule: a client that is answered may ask again at once, so the store hears of an outcome before it does, unless
//! the operator prefers otherwise.
//! It does not know how the outcome came about.

use std::rc::Rc;

use crate::command::{Command, CommandKind, Failure, ReplyKind, StoreReply};
use crate::config::{Fate, Mode, OnStoreFailure, Save as When};
use crate::count::{Bypass, Count};
use crate::event::EventKind;
use crate::key::KEY;
use crate::lock::LockCommand;
use crate::message::{HeaderMutation, Headers};
use crate::mutant::{self, Mutant};
use crate::refusal::ProblemType;
use crate::reply::{EXPOSE, EXPOSED, IdempotencyStatus, ProblemDetails, Reason, Reply, STATUS};
use crate::step::{Flow, LogEvent, Step};

use super::answered::Answered;
use super::attempt::{Execution, Injected, Outcome, PendingRequest, Tries, in_a_word};
use super::headers::{edited, removals, steering_removals};
use super::{Context, Next, State, hold};

/// Awaits the store's reply to a settlement.
pub(super) struct Save {
    pub(super) execution: Execution,
    /// Which kind of reply that is.
    asked: ReplyKind,
    fate: Fate,
    /// The response that waits for it.
    pub(super) pending: Option<PendingReply>,
    /// An answer that is on its way out while the store has not been heard.
    pub(super) answered: Option<Answered>,
    /// Whether the client's stream is over, and there is nothing left to answer.
    pub(super) is_over: bool,
    /// Bytes of the response on its way to the store.
    saved_bytes: u64,
}

/// A response on its way to the client once the store has heard of it.
pub(super) struct PendingReply {
    /// The response, where the gateway itself has it; otherwise the host holds it.
    reply: Option<Rc<Reply>>,
    message: Message,
}

/// What is known of a response that is held.
#[derive(Default)]
pub(super) struct Message {
    /// What it loses on its way.
    pub(super) removals: Vec<HeaderMutation>,
    /// How long it will be replayed, if the store keeps it.
    pub(super) ttl_ms: u64,
}

/// Awaits the head of a response that only gets a status.
pub(super) struct Unprotected {
    pub(super) line: IdempotencyStatus,
    pub(super) injected: Option<Injected>,
}

impl Save {
    /// Tells the store how an execution ended.
    pub(super) fn of(cx: &Context<'_>, execution: Execution, outcome: Outcome) -> (Self, Step) {
        let is_unsent = matches!(outcome, Outcome::Failed { tries: Tries::Never, .. });
        let (fate, kind, ttl) = match outcome {
            Outcome::Completed { status, response, ttl } => {
                let (name, owner) = (&execution.request.name, execution.request.owner);
                let sealed = response.and_then(|response| cx.secrets.cipher.seal(name, owner, &response.encode()));
                (Fate::Store, CommandKind::Complete { status, response: sealed }, Some(ttl))
            }
            Outcome::Failed { fate: Fate::Release | Fate::Retry, tries: Tries::Several }
            | Outcome::Failed { fate: Fate::Store | Fate::Unknown, .. } => {
                (Fate::Unknown, CommandKind::MarkUnknown, None)
            }
            Outcome::Failed { fate: fate @ (Fate::Release | Fate::Retry), .. } => {
                // This attempt is settled either way; an earlier one in doubt stays so, and the store keeps it.
                let settled = if execution.doubt { Fate::Unknown } else { fate };
                (settled, CommandKind::Release { keep_fingerprint: fate == Fate::Retry }, None)
            }
        };
        let asked = kind.reply_kind();
        let mut command = execution.command(cx.policy, kind);
        if let (Some(ttl), None) = (ttl, execution.request.window_ms) {
            command.ttl_ms = execution.request.least(ttl.ms);
        }
        let ended = if is_unsent { Count::Unsent } else { Count::Executed };
        let ended = execution.attempt.map(|_| ended);
        let counts = ended.into_iter().chain(ttl.filter(|ttl| ttl.is_capped).map(|_| Count::TtlCapped)).collect();
        let saved_bytes = match &command.kind {
            CommandKind::Complete { response: Some(response), .. } => response.len() as u64,
            _ => 0,
        };
        let (pending, answered) = (None, None);
        let mut save = Save { execution, asked, fate, pending, answered, is_over: false, saved_bytes };
        let early = if mutant::is(Mutant::UnlockedEarly) { save.unlock(cx) } else { None };
        (save, Step { commands: [command].into_iter().chain(early).collect(), counts, ..Step::default() })
    }

    /// The status of the execution, where the store keeps its answer or does not.
    pub(super) fn line(&self, stored: bool) -> IdempotencyStatus {
        self.execution.line(Some(stored), (!stored).then_some(self.fate))
    }

    /// Withdraws a claim on which nothing was forwarded, and the lock that was asked for with it, whether or not they were
    /// granted.
    pub(super) fn withdrawal(cx: &Context<'_>, mut execution: Execution) -> Next {
        let unlock = execution.lock_command(cx.policy, LockCommand::Unlock { fence: None });
        let is_asked = execution.request.lock.take().is_some_and(|lock| lock.until_ms.is_some());
        let unlock = unlock.filter(|_| is_asked);
        let command = execution.command(cx.policy, CommandKind::Withdraw);
        let save = Save {
            // It was never an execution.
            execution: Execution { attempt: None, ..execution },
            asked: ReplyKind::Settle,
            fate: Fate::Release,
            pending: None,
            answered: None,
            is_over: false,
            saved_bytes: 0,
        };
        (State::Save(save), Step { commands: [command].into_iter().chain(unlock).collect(), ..Step::default() })
    }

    /// A failure that the host has at hand: held until the store has heard of it, or let go at once.
    pub(super) fn with_the_hosts_copy(mut self, cx: &Context<'_>, step: Step, headers: &Headers) -> Next {
        if cx.policy.save == When::BeforeReply && cx.policy.mode == Mode::Enforce {
            let message = Message { removals: removals(headers), ttl_ms: 0 };
            self.pending = Some(PendingReply { reply: None, message });
            return (State::Save(self), Step { flow: Flow::Hold, ..step });
        }
        let Step { flow, status, .. } = respond(cx, self.execution.injected, headers, self.line(false));
        (State::Save(self), Step { flow, status, ..step })
    }

    /// A success that the host holds whole: held until it is stored, or let go at once.
    pub(super) fn until_stored(mut self, cx: &Context<'_>, step: Step, message: Message, headers: &Headers) -> Next {
        if cx.policy.save == When::BeforeReply {
            self.pending = Some(PendingReply { reply: None, message });
            return (State::Save(self), Step { flow: Flow::Hold, ..step });
        }
        let Step { flow, status, .. } = respond(cx, self.execution.injected, headers, self.execution.line(None, None));
        (State::Save(self), Step { flow, status, ..step })
    }

    /// An answer that the gateway itself has: held until the store has heard of it, or handed on at once, as where its
    /// body is given up.
    pub(super) fn with_our_copy(
        mut self,
        cx: &Context<'_>,
        step: Step,
        reply: Reply,
        given_up: Option<Option<Reason>>,
    ) -> Next {
        if self.is_over {
            return (State::Save(self), step);
        }
        if cx.policy.save == When::BeforeReply && given_up.is_none() {
            let ttl_ms = step.commands.first().map_or(0, |command| command.ttl_ms);
            let message = Message { removals: Vec::new(), ttl_ms };
            self.pending = Some(PendingReply { reply: Some(Rc::new(reply)), message });
            return (State::Save(self), step);
        }
        let is_open = self.fate == Fate::Store && given_up.is_none();
        let reason = given_up.flatten().filter(|_| self.fate == Fate::Store);
        let line = if is_open { self.execution.line(None, None) } else { self.line(false).because(reason) };
        let Step { flow, status, .. } = self.handed_on(cx, Rc::new(reply), line);
        (State::Save(self), Step { flow, status, ..step })
    }

    /// Whether the store has heard of the outcome, and only the lock is left to let go of.
    pub(super) fn is_settled(&self) -> bool {
        self.asked == ReplyKind::Unlock
    }

    /// Lets go of the lock. After an unknown outcome it stands until its lease is over, and nothing is said of it.
    fn unlock(&mut self, cx: &Context<'_>) -> Option<Command> {
        let lock = self.execution.request.lock.as_ref().filter(|_| self.asked == ReplyKind::Settle)?;
        let command = self.execution.lock_command(cx.policy, LockCommand::Unlock { fence: lock.fence });
        self.execution.request.lock = None;
        command
    }

    /// Bytes of bodies that it keeps itself.
    pub(super) fn kept_bytes(&self) -> u64 {
        let reply = self.pending.as_ref().and_then(|pending| pending.reply.as_ref());
        self.saved_bytes + reply.map_or(0, |reply| reply.body.len() as u64)
    }

    pub(super) fn on(mut self, cx: &Context<'_>, event: EventKind<'_>) -> Next {
        match event {
            // The reply to an earlier mark, made because it ran too long, tells nothing about the completion.
            EventKind::StoreReplied { asked: ReplyKind::Unlock, reply, .. } if self.is_settled() => {
                self.on_unlocked(&reply)
            }
            EventKind::StoreReplied { asked, reply, .. } if asked == self.asked => self.on_settled(cx, &reply),
            // Envoy has ended the client's stream; what is being stored goes on.
            EventKind::ResponseHeaders { headers, .. }
                if self.pending.as_ref().is_some_and(|pending| pending.reply.is_some()) =>
            {
                self.is_over = true;
                self.pending = None;
                let step = respond(cx, self.execution.injected, headers, self.line(false));
                (State::Save(self), step)
            }
            event @ (EventKind::ResponseHeaders { .. } | EventKind::ResponseBody { .. }) if self.answered.is_some() => {
                let step = self.answer_passes(cx, event);
                (State::Save(self), step)
            }
            EventKind::ResponseBody { buffered_bytes, .. } => match self.pending.take() {
                Some(pending) if buffered_bytes > cx.policy.max_response_bytes => {
                    // It has more of a body than the host can hold.
                    let (injected, line) = (self.execution.injected, self.line(false));
                    let step = resume(with_status(cx, injected, pending.message.removals, line), line);
                    (State::Save(self), step)
                }
                pending => {
                    let step = if pending.is_some() { hold() } else { Step::default() };
                    (State::Save(Save { pending, ..self }), step)
                }
            },
            EventKind::Closed { .. } => {
                self.is_over = true;
                (State::Save(self), Step::default())
            }
            _ => (State::Save(self), Step::default()),
        }
    }

    /// The answer that has been handed on goes out.
    fn answer_passes(&mut self, cx: &Context<'_>, event: EventKind<'_>) -> Step {
        let Some(answered) = self.answered.take() else { return Step::default() };
        let (state, step) = answered.on(cx, event);
        if let State::Answered(answered) = state {
            self.answered = Some(answered);
        }
        step
    }

    fn on_settled(mut self, cx: &Context<'_>, reply: &StoreReply) -> Next {
        let (count, log_event) = self.settled(reply);
        let counts = count.into_iter().collect();
        let step = match self.pending.take() {
            None => Step::default(),
            Some(PendingReply { reply: kept, message }) => {
                let stored = self.fate == Fate::Store && *reply == StoreReply::Settled;
                // How much is left of a window only the store knows.
                let ttl_s = (stored && self.execution.request.window_ms.is_none()).then_some(message.ttl_ms / 1000);
                let line = IdempotencyStatus { ttl_s, ..self.line(stored) };
                match kept {
                    None => resume(with_status(cx, self.execution.injected, message.removals, line), line),
                    Some(kept) => self.handed_on(cx, kept, line),
                }
            }
        };
        // What the store has not heard of is owed, and the lock stands for as long as its lease.
        let is_heard = !matches!(reply, StoreReply::Failed(_));
        let commands: Vec<Command> = is_heard.then(|| self.unlock(cx)).flatten().into_iter().collect();
        let step = Step { counts, log_event, ..step };
        if commands.is_empty() {
            return (self.ended(), step);
        }
        (self.asked, self.saved_bytes) = (ReplyKind::Unlock, 0);
        (State::Save(self), Step { commands, ..step })
    }

    /// What the store says to the end of a turn: another may have had one before that.
    fn on_unlocked(self, reply: &StoreReply) -> Next {
        let (counts, log_event) = match reply {
            StoreReply::Failed(failure) => {
                let failed = LogEvent::StoreFailed { failure: *failure, name: None };
                (vec![Count::StoreFailed(*failure)], Some(failed))
            }
            StoreReply::Lost => (vec![Count::LockLost], Some(LogEvent::LockLost(self.execution.request.name))),
            _ => (Vec::new(), None),
        };
        (self.ended(), Step { counts, log_event, ..Step::default() })
    }

    /// All that is left is an answer on its way out.
    fn ended(self) -> State {
        self.answered.filter(|_| !self.is_over).map_or(State::Done, State::Answered)
    }

    /// What is counted and logged of a settlement.
    fn settled(&self, reply: &StoreReply) -> (Option<Count>, Option<LogEvent>) {
        let name = self.execution.request.name;
        match (reply, self.fate, self.execution.attempt) {
            (StoreReply::Failed(failure), ..) => {
                let failed = LogEvent::StoreFailed { failure: *failure, name: None };
                (Some(Count::StoreFailed(*failure)), Some(failed))
            }
            (StoreReply::Settled, Fate::Store, _) => (Some(Count::Stored), self.settled_doubt()),
            (StoreReply::Dropped, ..) => {
                (Some(Count::Stored), self.settled_doubt().or(Some(LogEvent::BodyDropped(name))))
            }
            // A withdrawn claim was never an execution.
            (StoreReply::Settled, _, None) | (StoreReply::Lost, Fate::Release, None) => (None, None),
            (StoreReply::Settled, Fate::Release, _) => (Some(Count::Released), self.settled_doubt()),
            (StoreReply::Settled, Fate::Retry, _) => (Some(Count::Retryable), self.settled_doubt()),
            (StoreReply::Settled, Fate::Unknown, Some(attempt)) => {
                (Some(Count::Unknown), Some(LogEvent::Unknown(name, attempt)))
            }
            _ => (Some(Count::Unknown), Some(LogEvent::LeaseLost(name))),
        }
    }

    /// That its end is known, where an attempt was in doubt: an earlier one, or this one while it ran too long.
    fn settled_doubt(&self) -> Option<LogEvent> {
        let Execution { request, attempt, doubt, overran, .. } = &self.execution;
        let (name, ended) = (request.name, in_a_word(self.fate));
        let attempt = attempt.filter(|_| *doubt || *overran)?;
        Some(LogEvent::DoubtSettled { name, attempt, ended })
    }

    /// The upstream's answer to a request that the gateway itself had sent, on its way to the client.
    fn handed_on(&mut self, cx: &Context<'_>, mut reply: Rc<Reply>, line: IdempotencyStatus) -> Step {
        let edits = with_status(cx, self.execution.injected, Vec::new(), line);
        let changed = Rc::make_mut(&mut reply);
        changed.headers = edited(&changed.headers, &edits);
        self.answered = Some(Answered::to(&reply));
        Step { flow: Flow::LocalReply(reply), status: Some(line.to_string()), ..Step::default() }
    }
}

impl Unprotected {
    pub(super) fn on(self, cx: &Context<'_>, event: EventKind<'_>) -> Next {
        match event {
            EventKind::ResponseHeaders { headers, .. } => (State::Done, self.beside_theirs(cx, headers)),
            EventKind::Closed { .. } => done(),
            _ => (State::Unprotected(self), Step::default()),
        }
    }

    /// Nothing was done for the request: what the service, or another filter of this kind, says of its keys stays, and
    /// ours is added only where it says nothing.
    fn beside_theirs(&self, cx: &Context<'_>, headers: &Headers) -> Step {
        let mut edits = with_status(cx, self.injected, steering_removals(headers), self.line);
        edits.retain(|edit| !matches!(edit, HeaderMutation::Set(name, _) if headers.has(name)));
        let theirs = headers.first(STATUS).map(|line| String::from_utf8_lossy(line).into_owned());
        let status = theirs.unwrap_or_else(|| self.line.to_string());
        Step { flow: Flow::Resume(edits), status: Some(status), ..Step::default() }
    }
}

/// Nothing comes after this.
pub(super) fn done() -> Next {
    (State::Done, Step::default())
}

/// After the whole request has come, nothing of Envoy's can overtake an answer: unless the host's doings must be undone,
/// nothing of it is awaited.
pub(super) fn unless_sent_as_it_is((state, step): Next) -> Next {
    match state {
        State::Answered(answered) if answered.may_change() => (State::Done, step),
        state => (state, step),
    }
}

/// Doubt is never "free": the request is refused, or forwarded where the operator prefers that, and its status says so.
pub(super) fn store_failed(cx: &Context<'_>, mut pending: PendingRequest, failure: Failure) -> Next {
    match cx.policy.on_store_failure() {
        OnStoreFailure::Forward => with_failure(failure, bypass(cx, &mut pending, Reason::StoreFailure)),
        OnStoreFailure::Reject => refused_by_store(cx, pending.injected, failure),
    }
}

pub(super) fn refused_by_store(cx: &Context<'_>, injected: Option<Injected>, failure: Failure) -> Next {
    let details = ProblemDetails { retry_after_s: Some(1), ..ProblemDetails::default() };
    with_failure(failure, refuse(cx, injected, ProblemType::StoreUnavailable, details))
}

/// Says what failed.
fn with_failure(failure: Failure, (state, mut step): Next) -> Next {
    step.counts.push(Count::StoreFailed(failure));
    (state, Step { log_event: Some(LogEvent::StoreFailed { failure, name: None }), ..step })
}

/// Lets a request through unprotected, or refuses it where it would run beside a lock, or begin with an expired key.
pub(super) fn bypass(cx: &Context<'_>, pending: &mut PendingRequest, reason: Reason) -> Next {
    if cx.policy.lock().is_some() || pending.has_expired {
        let problem = match reason {
            Reason::NoCaller => ProblemType::CallerMissing,
            Reason::TooLarge => ProblemType::BodyTooLarge,
            Reason::StoreFailure => ProblemType::StoreUnavailable,
            _ => ProblemType::KeyInvalid,
        };
        let retry_after_s = (reason == Reason::StoreFailure).then_some(1);
        return refuse(cx, pending.injected, problem, ProblemDetails { retry_after_s, ..ProblemDetails::default() });
    }
    if reason == Reason::NoCaller {
        pending.injected = None;
    }
    let unprotected = Unprotected { line: IdempotencyStatus::bypassed(reason), injected: pending.injected };
    let counts = vec![Count::Bypassed(Bypass::Said(reason))];
    let flow = Flow::Resume(std::mem::take(&mut pending.forged));
    (State::Unprotected(unprotected), Step { flow, counts, ..Step::default() })
}

pub(super) fn refuse(
    cx: &Context<'_>,
    injected: Option<Injected>,
    problem: ProblemType,
    details: ProblemDetails,
) -> Next {
    answer(injected, Reply::problem(cx.policy, problem, details), Count::Refused(problem))
}

pub(super) fn answer(injected: Option<Injected>, mut reply: Reply, count: Count) -> Next {
    let generated_key = injected.and_then(Injected::generated_key);
    generated_key.iter().for_each(|key| reply.headers.push(KEY.as_bytes(), key));
    let status = reply.headers.first(STATUS).map(|line| String::from_utf8_lossy(line).into_owned());
    let (state, step) = Answered::with(Rc::new(reply));
    (state, Step { counts: vec![count], status, ..step })
}

/// Lets the response at hand go with this status.
pub(super) fn respond(
    cx: &Context<'_>,
    injected: Option<Injected>,
    headers: &Headers,
    line: IdempotencyStatus,
) -> Step {
    resume(with_status(cx, injected, removals(headers), line), line)
}

fn with_status(
    cx: &Context<'_>,
    injected: Option<Injected>,
    mut edits: Vec<HeaderMutation>,
    line: IdempotencyStatus,
) -> Vec<HeaderMutation> {
    edits.push(HeaderMutation::Set(STATUS, line.to_string().into_bytes()));
    edits.extend(injected.and_then(Injected::generated_key).map(|key| HeaderMutation::Set(KEY, key)));
    if cx.policy.expose_cors {
        edits.push(HeaderMutation::Add(EXPOSE, EXPOSED.as_bytes().to_vec()));
    }
    edits
}

fn resume(edits: Vec<HeaderMutation>, line: IdempotencyStatus) -> Step {
    Step { flow: Flow::Resume(edits), status: Some(line.to_string()), ..Step::default() }
}
