//! From the store's reply to a claim to an execution, a wait, a replay or a refusal.
//!
//! Its one rule: a request goes upstream under a claim that cannot have lapsed, or says that it goes without one.
//! It does not know how an execution ends.

use std::rc::Rc;

use crate::command::{Command, CommandKind, Failure, ReplyKind, StoreReply};
use crate::config::{Mode, OnCompleted, OnInFlight, OnUnknown, Policy};
use crate::count::Count;
use crate::event::EventKind;
use crate::fingerprint::Fingerprint;
use crate::issued::EXPIRED;
use crate::mutant::{self, Mutant};
use crate::record::{Owner, Response};
use crate::refusal::ProblemType;
use crate::reply::{IdempotencyStatus, ProblemDetails, Reason, Reply, Token};
use crate::step::{Flow, LogEvent, Step};

use super::attempt::{ClaimRequest, Execution, PendingRequest};
use super::departure::{claim_failed, in_flight, overtaken, withdrawn};
use super::headers::kept;
use super::settlement::{
    Save, Unprotected, answer, done, refuse, refused_by_store, respond, store_failed, unless_sent_as_it_is,
};
use super::similar::ask_or_begin;
use super::{Context, Next, State, hold};

/// How long a duplicate that waits lets pass before it asks again: first, and at most.
const FIRST_PAUSE_MS: u64 = 50;
const LAST_PAUSE_MS: u64 = 500;

/// Awaits the store's reply to a claim.
pub(super) struct AwaitClaim {
    pub(super) claim: Claim,
    /// How it has waited for another's attempt to end; none of a first claim.
    pub(super) waiter: Option<Waiter>,
}

/// Awaits the time to ask again whether another's attempt has ended.
pub(super) struct Waiting {
    pub(super) claim: Claim,
    waiter: Waiter,
}

/// A claim under way.
pub(super) struct Claim {
    pub(super) request: Box<ClaimRequest>,
    pub(super) fingerprint: Fingerprint,
    pub(super) pending: PendingRequest,
    /// When the request was whole.
    pub(super) started_ms: u64,
    /// When it was asked for.
    pub(super) asked_ms: u64,
}

/// How a duplicate waits for the attempt that stands in its way.
pub(super) struct Waiter {
    /// The attempt it met first.
    first_attempt: u32,
    /// The attempt it met last.
    attempt: u32,
    /// When it has waited enough.
    until_ms: u64,
    /// How long until it asks again.
    pause_ms: u64,
}

impl AwaitClaim {
    pub(super) fn on(self, cx: &Context<'_>, event: EventKind<'_>) -> Next {
        match event {
            EventKind::StoreReplied { asked: ReplyKind::Claim, reply, may_wait } => {
                let AwaitClaim { claim, waiter } = self;
                unless_sent_as_it_is(match reply {
                    StoreReply::InFlight { attempt } if claim.is_second_hop() => claim.already_claimed(cx, attempt),
                    StoreReply::InFlight { attempt } => claim.stood_in_the_way(cx, waiter, attempt, may_wait),
                    StoreReply::Failed(failure) if waiter.is_some() => claim.poll_failed(cx, failure),
                    reply => claim.on_claim_reply(cx, reply),
                })
            }
            EventKind::ResponseHeaders { headers, .. } => {
                let injected = self.claim.pending.injected;
                overtaken(cx, injected, headers, self.claim.withdraw(cx))
            }
            EventKind::Closed { .. } => self.claim.withdraw(cx),
            _ => (State::Claim(self), Step::default()),
        }
    }
}

impl Waiting {
    pub(super) fn on(self, cx: &Context<'_>, event: EventKind<'_>) -> Next {
        match event {
            EventKind::Tick { owner } => unless_sent_as_it_is(self.ask_again(cx, owner)),
            EventKind::ResponseHeaders { headers, .. } => {
                let (attempt, reason) = (Some(self.waiter.attempt), Some(ProblemType::InFlight.as_str()));
                let line = IdempotencyStatus { attempt, reason, ..IdempotencyStatus::new(Token::Refused) };
                let counts = vec![Count::Refused(ProblemType::InFlight)];
                let step = respond(cx, self.claim.pending.injected, headers, line);
                (State::Done, Step { counts, ..step })
            }
            EventKind::Closed { .. } => done(),
            _ => (State::Waiting(self), Step::default()),
        }
    }

    /// Asks whether the attempt that stood in the way has ended: a claim of its own, by an owner of its own.
    fn ask_again(self, cx: &Context<'_>, owner: Owner) -> Next {
        let Waiting { mut claim, waiter } = self;
        if cx.now_ms() >= waiter.until_ms {
            return in_flight(cx, claim.pending.injected, waiter.attempt);
        }
        claim.request.owner = owner;
        claim.asked_ms = cx.now_ms();
        let command =
            claim.command(cx.policy, CommandKind::Poll { max_attempt: waiter.first_attempt.saturating_add(1) });
        let step = Step { commands: vec![command], ..Step::default() };
        (State::Claim(AwaitClaim { claim, waiter: Some(waiter) }), step)
    }
}

impl Claim {
    pub(super) fn command(&self, policy: &Policy, kind: CommandKind) -> Command {
        self.request.command(policy, self.fingerprint, kind)
    }

    /// The execution that this becomes: ungranted, as far as is known.
    fn execution(self) -> (Execution, PendingRequest) {
        let Claim { request, fingerprint, pending, started_ms, asked_ms } = self;
        let execution = Execution {
            request,
            fingerprint,
            attempt: None,
            doubt: false,
            overran: false,
            started_ms,
            asked_ms,
            expires_ms: None,
            renew_at_ms: None,
            similar_s: None,
            is_lost: false,
            injected: pending.injected,
        };
        (execution, pending)
    }

    /// The client does not wait for the claim's reply any more: whatever it is, the name is not this gateway's to keep.
    fn withdraw(self, cx: &Context<'_>) -> Next {
        Save::withdrawal(cx, self.execution().0)
    }

    fn on_claim_reply(self, cx: &Context<'_>, reply: StoreReply) -> Next {
        let injected = self.pending.injected;
        match reply {
            StoreReply::Granted { attempt, doubt, key, expires_ms } => {
                let (mut execution, pending) = self.execution();
                execution.request.form = key;
                let (attempt, expires_ms) = (Some(attempt), Some(expires_ms));
                let execution = Execution { attempt, doubt, started_ms: cx.now_ms(), expires_ms, ..execution };
                ask_or_begin(cx, execution, pending, None)
            }
            StoreReply::Completed { attempt, status, response, age_ms, ttl_ms } => {
                let line = IdempotencyStatus {
                    attempt: Some(attempt),
                    age_s: Some(age_ms / 1000),
                    ttl_s: Some(ttl_ms / 1000),
                    ..IdempotencyStatus::new(Token::Replayed)
                };
                self.replay(cx, line, status, response.as_deref())
            }
            StoreReply::InFlight { attempt } | StoreReply::Exhausted { attempt } => in_flight(cx, injected, attempt),
            StoreReply::Mismatch => refuse(cx, injected, ProblemType::Mismatch, ProblemDetails::default()),
            StoreReply::Unknown { attempt, wait_ms } => {
                let may_retry = cx.policy.on_unknown == OnUnknown::Retry;
                let retry_after_s = may_retry.then(|| wait_ms.div_ceil(1000).max(1));
                let details = ProblemDetails { attempt: Some(attempt), retry_after_s, ..ProblemDetails::default() };
                refuse(cx, injected, ProblemType::OutcomeUnknown, details)
            }
            StoreReply::Seen(None) => {
                let details = ProblemDetails { detail: Some(EXPIRED), ..ProblemDetails::default() };
                refuse(cx, injected, ProblemType::KeyInvalid, details)
            }
            // Something is stored under the name, and nothing is known of it but that.
            StoreReply::Failed(failure) if failure.is_unreadable() && !mutant::is(Mutant::UnreadableForwarded) => {
                refused_by_store(cx, injected, failure)
            }
            // An expired key must not begin an operation, also where a failing store lets requests through.
            StoreReply::Failed(failure) if !self.request.may_begin() => self.poll_failed(cx, failure),
            StoreReply::Failed(failure) if failure.is_doubtful() => {
                let (execution, pending) = self.execution();
                claim_failed(cx, execution, pending, failure)
            }
            StoreReply::Failed(failure) => store_failed(cx, self.pending, failure),
            // None is a reply to a claim that was asked and not withdrawn.
            StoreReply::Busy { .. }
            | StoreReply::Deferred
            | StoreReply::Dropped
            | StoreReply::Locked { .. }
            | StoreReply::Lost
            | StoreReply::Renewed { .. }
            | StoreReply::Seen(Some(_))
            | StoreReply::Settled
            | StoreReply::Similar { .. }
            | StoreReply::Stale => store_failed(cx, self.pending, Failure::Stale),
        }
    }

    /// Whether the request has come through another hop that has claimed it under the same name. A client can forge this,
    /// and gets no more by it than the refusal of a duplicate.
    fn is_second_hop(&self) -> bool {
        self.pending.said_operation.as_deref().is_some_and(|said| said == self.request.operation().as_bytes())
    }

    /// The hop before has claimed this very request in the same store: here it can never run.
    fn already_claimed(self, cx: &Context<'_>, attempt: u32) -> Next {
        let log_event = Some(LogEvent::SecondHop(self.request.name));
        let (state, mut step) = in_flight(cx, self.pending.injected, attempt);
        step.counts.push(Count::SecondHop);
        (state, Step { log_event, ..step })
    }

    /// Another attempt runs: wait for its end, or be refused.
    ///
    /// A waiter is refused after two attempts ended without a response to replay.
    fn stood_in_the_way(self, cx: &Context<'_>, waiter: Option<Waiter>, attempt: u32, may_wait: bool) -> Next {
        let injected = self.pending.injected;
        let OnInFlight::Wait { max_wait_ms } = cx.policy.on_in_flight else { return in_flight(cx, injected, attempt) };
        let until_ms = self.started_ms + max_wait_ms;
        let first_attempt = waiter.as_ref().map_or(attempt, |waiter| waiter.first_attempt);
        // A trial holds no request back.
        let has_room = waiter.is_some() || (may_wait && cx.policy.mode != Mode::Observe);
        if !has_room || cx.now_ms() >= until_ms || attempt > first_attempt.saturating_add(1) {
            return in_flight(cx, injected, attempt);
        }
        let pause_ms = waiter.map_or(FIRST_PAUSE_MS, |waiter| (2 * waiter.pause_ms).min(LAST_PAUSE_MS));
        let wake_ms = Some(until_ms.min(cx.now_ms() + pause_ms));
        let waiter = Waiter { first_attempt, attempt, until_ms, pause_ms };
        (State::Waiting(Waiting { claim: self, waiter }), Step { wake_ms, ..hold() })
    }

    /// A waiter knows that another attempt runs, and is refused also where a failing store lets requests through; and so
    /// is a request that may not begin an operation.
    fn poll_failed(self, cx: &Context<'_>, failure: Failure) -> Next {
        let (state, step) = refused_by_store(cx, self.pending.injected, failure);
        match failure.is_doubtful() {
            true => withdrawn(step, self.withdraw(cx)),
            false => (state, step),
        }
    }

    /// A completed operation, once more.
    fn replay(self, cx: &Context<'_>, line: IdempotencyStatus, status: Option<u16>, response: Option<&[u8]>) -> Next {
        let (request, injected) = (&self.request, self.pending.injected);
        let opened = response.map(|sealed| Response::decode(&cx.secrets.cipher.open(&request.name, sealed)?));
        let Ok(response) = opened.transpose() else {
            // It has run, whatever it answered: so it is refused, also where a failing store lets requests through.
            return refused_by_store(cx, injected, Failure::Corrupt);
        };
        // Once more as when it was stored: whatever writes to the store shall not set cookies.
        let response = response.map(|response| Response { headers: kept(&response.headers), ..response });
        let details = ProblemDetails { attempt: line.attempt, original_status: status, ..ProblemDetails::default() };
        match response {
            // A trial keeps no bodies: what would be replayed is all there is to know.
            _ if cx.policy.mode == Mode::Observe => {
                let unprotected = Unprotected { line: IdempotencyStatus::bypassed(Reason::Observe), injected };
                (State::Unprotected(unprotected), Step { counts: vec![Count::Replayed], ..Step::default() })
            }
            response if cx.policy.on_completed == OnCompleted::Conflict => {
                let (state, mut step) = refuse(cx, injected, ProblemType::AlreadyCompleted, details);
                if let (Flow::LocalReply(reply), Some(response)) = (&mut step.flow, response)
                    && let Some(location) = response.headers.first("location")
                {
                    Rc::make_mut(reply).headers.push(b"location", location);
                }
                (state, step)
            }
            Some(response) if response.body.is_some() && request.takes(&response) => {
                let line = line.because(injected.map(|_| Reason::Injected));
                answer(injected, Reply::replay(cx.policy, response, &line), Count::Replayed)
            }
            _ => refuse(cx, injected, ProblemType::NotReplayable, ProblemDetails { original_status: None, ..details }),
        }
    }
}
