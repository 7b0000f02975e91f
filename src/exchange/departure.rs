//! From a granted claim to the request let go: the claim is fresh, and the lock of the resource is held where the request
//! names one.
//!
//! Its one rule: a request goes upstream under a claim that cannot have lapsed and a lock that cannot have either, or says
//! that it goes without a claim; where there is a lock it never does.
//! It does not know how a claim comes to be granted, nor who else waits for the lock.

use crate::command::{CommandKind, Failure, ReplyKind, StoreReply};
use crate::config::{LEASE_MARGIN, OnStoreFailure};
use crate::count::Count;
use crate::event::EventKind;
use crate::key::{KEY, Name};
use crate::lock::LockCommand;
use crate::message::{HeaderMutation, Headers};
use crate::mutant::{self, Mutant};
use crate::refusal::ProblemType;
use crate::reply::{IdempotencyStatus, ProblemDetails, Token};
use crate::step::{Flow, LogEvent, Step};

use super::attempt::{Execution, Injected, PendingRequest, ResourceLock};
use super::execution::{AwaitResponse, Shielded};
use super::headers::{ATTEMPT, FENCE, OPERATION, edited};
use super::settlement::{Save, refuse, refused_by_store, respond, store_failed};
use super::{Context, Next, State, hold};

/// How often a claim that took too long is renewed before the store counts as failed.
const MAX_RENEWALS: u32 = 3;
/// How long a request lets pass before it asks again for a lock that another holds.
const PAUSE_MS: u64 = 50;

/// Awaits the renewal of a claim that was granted too long ago to run on.
pub(super) struct Renewal {
    pub(super) execution: Execution,
    pending: PendingRequest,
    /// How many were asked for.
    count: u32,
}

/// Awaits the lock of the resource: the reply to a lock, or the time to ask again for one that another holds.
pub(super) struct AwaitLock {
    execution: Execution,
    pending: PendingRequest,
    /// Whether a reply to a lock is to come.
    is_asked: bool,
    /// Whether another has held it.
    pub(super) has_waited: bool,
    /// When the renewal of the claim was asked for whose reply is to come.
    renewing_ms: Option<u64>,
}

impl Renewal {
    pub(super) fn on(self, cx: &Context<'_>, event: EventKind<'_>) -> Next {
        let injected = self.pending.injected;
        match event {
            EventKind::StoreReplied { asked: ReplyKind::Renew, reply, .. } => match reply {
                StoreReply::Renewed { expires_ms } => {
                    let execution = Execution { expires_ms: Some(expires_ms), ..self.execution };
                    begin_when_fresh(cx, execution, self.pending, self.count)
                }
                StoreReply::Failed(failure) => claim_failed(cx, self.execution, self.pending, failure),
                // The lease lapsed and another owner claimed the key.
                _ => {
                    let refused = in_flight(cx, injected, self.execution.attempt.unwrap_or(0));
                    match &self.execution.request.lock {
                        Some(_) => withdrawn(refused.1, Save::withdrawal(cx, self.execution)),
                        None => refused,
                    }
                }
            },
            EventKind::ResponseHeaders { headers, .. } => {
                overtaken(cx, injected, headers, Save::withdrawal(cx, self.execution))
            }
            EventKind::Closed { .. } => Save::withdrawal(cx, self.execution),
            _ => (State::Renewal(self), Step::default()),
        }
    }
}

impl AwaitLock {
    /// Since when it waits.
    pub(super) fn since_ms(&self) -> Option<u64> {
        self.has_waited.then_some(self.execution.started_ms)
    }

    /// The lock that it awaits; none once it is granted.
    pub(super) fn name(&self) -> Option<&Name> {
        self.execution.request.lock.as_ref().filter(|lock| self.is_asked || lock.fence.is_none()).map(|lock| &lock.name)
    }

    pub(super) fn on(mut self: Box<Self>, cx: &Context<'_>, event: EventKind<'_>) -> Next {
        match event {
            EventKind::StoreReplied { asked: ReplyKind::Lock, reply, may_wait } => {
                self.on_lock_reply(cx, reply, may_wait)
            }
            EventKind::StoreReplied { asked: ReplyKind::Renew, reply, .. } => {
                let asked_ms = self.renewing_ms.take();
                match reply {
                    StoreReply::Renewed { expires_ms } => {
                        self.execution.asked_ms = asked_ms.unwrap_or(self.execution.asked_ms);
                        self.execution.expires_ms = Some(expires_ms);
                        self.go_on(cx)
                    }
                    StoreReply::Failed(failure) => {
                        let (state, mut step) = self.go_on(cx);
                        step.counts.push(Count::StoreFailed(failure));
                        (state, step)
                    }
                    // The lease lapsed and another owner claimed the key.
                    _ => {
                        let attempt = self.execution.attempt.unwrap_or(0);
                        let (_, step) = in_flight(cx, self.pending.injected, attempt);
                        self.ends(cx, step)
                    }
                }
            }
            EventKind::Tick { .. } => self.on_tick(cx),
            EventKind::ResponseHeaders { headers, .. } => {
                let step = respond(cx, self.pending.injected, headers, IdempotencyStatus::new(Token::Refused));
                self.ends(cx, step)
            }
            EventKind::Closed { .. } => self.ends(cx, Step::default()),
            _ => (State::Lock(self), Step::default()),
        }
    }

    fn on_lock_reply(mut self: Box<Self>, cx: &Context<'_>, reply: StoreReply, may_wait: bool) -> Next {
        self.is_asked = false;
        let failure = match (reply, &mut self.execution.request.lock) {
            (StoreReply::Locked { fence }, Some(lock)) => {
                lock.fence = Some(fence);
                return self.go_on(cx);
            }
            (StoreReply::Busy { .. }, Some(lock)) => {
                // What was granted before has lapsed, and another holds it.
                lock.fence = None;
                let is_over = cx.now_ms() >= lock.until_ms.unwrap_or(0);
                if is_over || !(self.has_waited || may_wait) {
                    return self.refused(cx);
                }
                let counts = (!self.has_waited).then_some(Count::LockWaited).into_iter().collect();
                self.has_waited = true;
                return self.waits(cx, Step { counts, ..hold() });
            }
            (StoreReply::Failed(failure), _) => failure,
            // None is a reply to a lock that was asked for and not taken back.
            _ => Failure::Stale,
        };
        let (_, step) = refused_by_store(cx, self.pending.injected, failure);
        self.ends(cx, step)
    }

    /// Asks again for the lock, and renews the claim where that is due.
    fn on_tick(mut self: Box<Self>, cx: &Context<'_>) -> Next {
        let mut commands = Vec::new();
        if self.renewing_ms.is_none() && cx.now_ms() >= self.execution.asked_ms + cx.policy.lease_ms / 3 {
            self.renewing_ms = Some(cx.now_ms());
            commands.push(self.execution.command(cx.policy, CommandKind::Renew));
        }
        if let Some(lock) = self.execution.request.lock.as_mut().filter(|lock| !self.is_asked && lock.fence.is_none()) {
            if cx.now_ms() >= lock.until_ms.unwrap_or(0) {
                return self.refused(cx);
            }
            lock.asked_ms = cx.now_ms();
            self.is_asked = true;
            commands.extend(self.execution.lock_command(cx.policy, LockCommand::Lock));
        }
        self.waits(cx, Step { commands, ..Step::default() })
    }

    /// Lets the request go once the lock is granted; a renewal of the claim that is under way is waited for only where the
    /// claim is not fresh without it.
    fn go_on(self: Box<Self>, cx: &Context<'_>) -> Next {
        let is_granted = self.name().is_none();
        if is_granted && (self.renewing_ms.is_none() || is_fresh(cx, self.execution.asked_ms)) {
            let execution = Execution { started_ms: cx.now_ms(), ..self.execution };
            return begin_when_fresh(cx, execution, self.pending, 0);
        }
        self.waits(cx, Step::default())
    }

    fn waits(self: Box<Self>, cx: &Context<'_>, step: Step) -> Next {
        let until_ms = self.execution.request.lock.as_ref().and_then(|lock| lock.until_ms).unwrap_or(0);
        let wake_ms = Some((cx.now_ms() + PAUSE_MS).min(until_ms.max(cx.now_ms() + 1)));
        (State::Lock(self), Step { wake_ms, ..step })
    }

    /// The wait is over.
    fn refused(self, cx: &Context<'_>) -> Next {
        let details = ProblemDetails { retry_after_s: Some(1), ..ProblemDetails::default() };
        let (_, step) = refuse(cx, self.pending.injected, ProblemType::ResourceBusy, details);
        self.ends(cx, step)
    }

    /// It does not go on: its claim is taken back, and its lock, of which an earlier try may be granted yet.
    fn ends(self, cx: &Context<'_>, step: Step) -> Next {
        withdrawn(step, Save::withdrawal(cx, self.execution))
    }
}

pub(super) fn in_flight(cx: &Context<'_>, injected: Option<Injected>, attempt: u32) -> Next {
    let details = ProblemDetails { attempt: Some(attempt), retry_after_s: Some(1), ..ProblemDetails::default() };
    refuse(cx, injected, ProblemType::InFlight, details)
}

/// Envoy answers a request whose claim is under way: the claim is withdrawn.
pub(super) fn overtaken(cx: &Context<'_>, injected: Option<Injected>, headers: &Headers, (state, step): Next) -> Next {
    let Step { flow, status, .. } = respond(cx, injected, headers, IdempotencyStatus::new(Token::Refused));
    (state, Step { flow, status, ..step })
}

/// What is answered at once, while the withdrawal of the claim is under way.
pub(super) fn withdrawn(answered: Step, (state, withdrawal): Next) -> Next {
    (state, Step { commands: withdrawal.commands, ..answered })
}

/// The claim may have been granted without the gateway's knowledge: it is withdrawn, or, where the operator prefers that,
/// the request runs unprotected and the store hears how it ended.
pub(super) fn claim_failed(cx: &Context<'_>, execution: Execution, pending: PendingRequest, failure: Failure) -> Next {
    let (_, step) = store_failed(cx, pending, failure);
    match cx.policy.on_store_failure() {
        OnStoreFailure::Forward => {
            let execution = Execution { attempt: None, doubt: false, renew_at_ms: None, ..execution };
            (State::Response(AwaitResponse { execution }), step)
        }
        OnStoreFailure::Reject => withdrawn(step, Save::withdrawal(cx, execution)),
    }
}

/// Whether what was asked for then, and granted since, cannot have lapsed.
fn is_fresh(cx: &Context<'_>, asked_ms: u64) -> bool {
    let lease_ms = cx.policy.lease_ms;
    cx.now_ms() < asked_ms + lease_ms - lease_ms / LEASE_MARGIN || mutant::is(Mutant::StaleClaimForwarded)
}

/// Lets the request through, but only on a claim that cannot have lapsed, and under the lock of its resource; an older
/// claim is renewed first, and an older lock asked for again.
///
/// A worker that was stopped for longer than the lease must not wake up and execute.
pub(super) fn begin_when_fresh(
    cx: &Context<'_>,
    mut execution: Execution,
    pending: PendingRequest,
    renewals: u32,
) -> Next {
    if !is_fresh(cx, execution.asked_ms) {
        if renewals == MAX_RENEWALS {
            return claim_failed(cx, execution, pending, Failure::Timeout);
        }
        execution.asked_ms = cx.now_ms();
        let command = execution.command(cx.policy, CommandKind::Renew);
        let renewal = Renewal { execution, pending, count: renewals + 1 };
        return (State::Renewal(renewal), Step { commands: vec![command], ..hold() });
    }
    let is_held = |lock: &ResourceLock| lock.fence.is_some() && is_fresh(cx, lock.asked_ms);
    match &mut execution.request.lock {
        Some(lock) if !is_held(lock) && !mutant::is(Mutant::LockSkipped) => {
            let most_ms = cx.policy.lock().map_or(0, |serialize| serialize.max_wait_ms).min(cx.policy.max_running_ms);
            lock.asked_ms = cx.now_ms();
            lock.until_ms.get_or_insert(cx.now_ms() + most_ms);
            let commands = execution.lock_command(cx.policy, LockCommand::Lock).into_iter().collect();
            let lock = Box::new(AwaitLock { execution, pending, is_asked: true, has_waited: false, renewing_ms: None });
            lock.waits(cx, Step { commands, ..hold() })
        }
        _ => forward(cx, execution, pending),
    }
}

fn forward(cx: &Context<'_>, mut execution: Execution, pending: PendingRequest) -> Next {
    let attempt = execution.attempt.unwrap_or(0);
    let lock = execution.request.lock.as_ref();
    // Both are renewed at once, so the older of them says when.
    let asked_ms = lock.map_or(execution.asked_ms, |lock| lock.asked_ms.min(execution.asked_ms));
    execution.renew_at_ms = Some(asked_ms + cx.policy.lease_ms / 3);
    let mut edits = pending.forged;
    edits.push(HeaderMutation::Set(OPERATION, execution.request.operation().into_bytes()));
    edits.push(HeaderMutation::Set(ATTEMPT, attempt.to_string().into_bytes()));
    let fence = execution.request.lock.as_ref().and_then(|lock| lock.fence);
    edits.extend(fence.map(|fence| HeaderMutation::Set(FENCE, fence.to_string().into_bytes())));
    edits.extend(execution.request.key_for_upstream().map(|key| HeaderMutation::Set(KEY, key)));
    let counts = execution.doubt.then_some(Count::Takeover).into_iter().collect();
    let log_event = execution.doubt.then_some(LogEvent::Takeover(execution.request.name, attempt));
    // From here on the access log tells of it, also where the client hangs up.
    let status = Some(execution.line(None, None).to_string());
    let step = Step { wake_ms: execution.renew_at_ms, counts, status, log_event, ..Step::default() };
    match pending.outgoing {
        None => (State::Response(AwaitResponse { execution }), Step { flow: Flow::Resume(edits), ..step }),
        Some(mut outgoing) => {
            outgoing.headers = edited(&outgoing.headers, &edits);
            (State::Shielded(Shielded { execution, is_over: false }), Step { execute: Some(outgoing), ..step })
        }
    }
}
