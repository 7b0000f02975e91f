//! From a request that was let through to its outcome: the lease is renewed meanwhile, and the answer is judged.
//!
//! Its one rule: what an answer makes of the key is decided in one place, whether the client's stream or the gateway
//! itself has sent the request.
//! It does not know when the store has heard of an outcome.

use crate::command::{CommandKind, Failure, ReplyKind, StoreReply};
use crate::config::{Ending, Execution as Sender, Fate, Mode, OnCompleted, Policy};
use crate::event::{EventKind, Executed, Origin, Source};
use crate::message::{Headers, content_length, media_type};
use crate::mutant::{self, Mutant};
use crate::record::Response;
use crate::reply::{Reason, Reply};
use crate::step::{Count, Flow, Remark, Step};

use super::attempt::{Execution, Outcome};
use super::headers::{UpstreamReport, kept, passed, removals, steered_fate, steered_ttl_ms};
use super::settlement::{Message, Save, respond};
use super::{Context, Next, SMALL_BODY, State, hold};

/// Awaits the response's head.
pub(super) struct AwaitResponse {
    pub(super) execution: Execution,
}

/// Awaits what comes back from a request that the gateway itself has sent.
pub(super) struct Shielded {
    pub(super) execution: Execution,
    /// Whether the client's stream is over, and there is nothing left to answer.
    pub(super) is_over: bool,
}

/// Awaits the rest of a response that is worth keeping.
pub(super) struct ResponseBody {
    pub(super) execution: Execution,
    status: u16,
    headers: Headers,
    ttl_ms: u64,
}

/// The body of a response, or why it cannot be had.
enum Body {
    Whole(Vec<u8>),
    Unavailable(Option<Reason>),
}

/// What becomes of the key, by who answered and what. None made it where no account came with the answer.
fn fate(policy: &Policy, source: Option<Source>, status: u16, headers: &Headers) -> Fate {
    match source {
        Some(Source::Host(ending)) => policy.outcomes.of_ending(ending),
        // Another filter of this kind, further on, answered in the upstream's place.
        Some(Source::Own) => Fate::Unknown,
        None if status >= 400 => Fate::Unknown,
        Some(Source::Upstream) | None => steered_fate(headers).unwrap_or_else(|| policy.outcomes.of_status(status)),
    }
}

/// What is kept of a response that is for good, whose fields go on to the client as `headers`.
fn kept_response(
    cx: &Context<'_>,
    execution: &Execution,
    status: u16,
    headers: &Headers,
    body: Body,
) -> Option<Response> {
    let negotiated = execution.request.accept_encoding.is_some();
    match (cx.policy.on_completed, body) {
        (OnCompleted::Conflict, _) => {
            Some(Response { status, headers: headers.only("location"), body: None, negotiated })
        }
        (OnCompleted::Replay, Body::Whole(body)) => {
            Some(Response { status, headers: kept(headers), body: Some(body), negotiated })
        }
        (OnCompleted::Replay, Body::Unavailable(_)) => None,
    }
}

impl AwaitResponse {
    pub(super) fn on(mut self, cx: &Context<'_>, event: EventKind<'_>) -> Next {
        match event {
            EventKind::ResponseHeaders { headers, status, origin, end } => {
                self.execution.on_response_headers(cx, headers, status, origin, end)
            }
            EventKind::Closed { origin } => self.closed(cx, origin),
            event => {
                let step = self.execution.keep_alive(cx, &event);
                (State::Response(self), step)
            }
        }
    }

    /// The stream ended without a response that this filter has seen.
    fn closed(self, cx: &Context<'_>, origin: Origin<'_>) -> Next {
        let redirected = origin.details == b"internal_redirect";
        let fate = match origin.source() {
            Source::Host(ending) if !redirected => cx.policy.outcomes.of_ending(ending),
            // There was an answer, and it passed this filter by.
            _ => Fate::Unknown,
        };
        let name = self.execution.request.name;
        let (save, mut step) = Save::of(cx, self.execution, Outcome::Failed { fate, retried: origin.retried() });
        if redirected {
            step.remark = Some(Remark::InternalRedirect(name));
        }
        (State::Save(save), step)
    }
}

impl Shielded {
    pub(super) fn on(mut self, cx: &Context<'_>, event: EventKind<'_>) -> Next {
        match event {
            EventKind::Executed { answer } => self.executed(cx, answer),
            EventKind::Closed { .. } if mutant::is(Mutant::ShieldDropped) => {
                let outcome = Outcome::Failed { fate: Fate::Unknown, retried: false };
                let (mut save, step) = Save::of(cx, self.execution, outcome);
                save.is_over = true;
                (State::Save(save), step)
            }
            EventKind::Closed { .. } => {
                self.is_over = true;
                (State::Shielded(self), Step::default())
            }
            // Envoy has ended the client's stream; what runs goes on.
            EventKind::ResponseHeaders { headers, .. } => {
                self.is_over = true;
                let step = respond(cx, self.execution.injected, headers, self.execution.line(false));
                (State::Shielded(self), step)
            }
            event => {
                let step = self.execution.keep_alive(cx, &event);
                (State::Shielded(self), step)
            }
        }
    }

    /// What came back from a request that the gateway itself had sent.
    fn executed(self, cx: &Context<'_>, answer: Executed<'_>) -> Next {
        let Shielded { execution, is_over } = self;
        let cluster = || match &cx.policy.execution {
            Sender::Shielded { cluster, .. } => cluster.clone(),
            Sender::Inline => String::new(),
        };
        let failed = |fate| Outcome::Failed { fate, retried: false };
        let (outcome, reply, not_kept, remark) = match answer {
            Executed::Answered { status, headers, body } => {
                let (outcome, source, not_kept) = judged(cx, &execution, status, headers, body);
                let remark = match not_kept {
                    Some(_) => Some(Remark::BodyDropped(execution.request.name)),
                    None => (source == Some(Source::Own)).then(|| Remark::Reentered(cluster())),
                };
                (outcome, Reply::passed(status, passed(headers), body.to_vec()), not_kept, remark)
            }
            Executed::Lost => {
                let fate = if mutant::is(Mutant::LostAnswerReleased) { Fate::Release } else { Fate::Unknown };
                (failed(fate), Reply::lost(), None, None)
            }
            Executed::Unsent => {
                let fate = cx.policy.outcomes.of_ending(Ending::Unsent);
                (failed(fate), Reply::unsent(), None, Some(Remark::NoWay(cluster())))
            }
        };
        let (mut save, step) = Save::of(cx, execution, outcome);
        save.is_over = is_over;
        save.with_our_copy(cx, Step { remark, ..step }, reply, not_kept)
    }
}

/// What the answer to a request of the gateway's own makes of the key, who made it, and why it is not kept for replay.
fn judged(
    cx: &Context<'_>,
    execution: &Execution,
    status: u16,
    headers: &Headers,
    body: &[u8],
) -> (Outcome, Option<Source>, Option<Reason>) {
    let report = UpstreamReport::read(headers);
    let source = report.as_ref().map(|report| report.origin().source());
    let fate = fate(cx.policy, source, status, headers);
    if fate != Fate::Store {
        // Without Envoy's own report neither who has failed is known, nor how often it was tried.
        let retried = report.as_ref().is_none_or(|report| report.origin().retried());
        return (Outcome::Failed { fate, retried }, source, None);
    }
    let is_too_large =
        body.len() as u64 > cx.policy.max_response_bytes && cx.policy.on_completed == OnCompleted::Replay;
    let not_kept = is_too_large.then_some(Reason::TooLarge);
    let body = match not_kept {
        None => Body::Whole(body.to_vec()),
        Some(reason) => Body::Unavailable(Some(reason)),
    };
    let response = kept_response(cx, execution, status, &passed(headers), body);
    let ttl_ms = steered_ttl_ms(headers).unwrap_or(cx.policy.ttl_ms);
    (Outcome::Completed { status, response, ttl_ms }, source, not_kept)
}

impl ResponseBody {
    pub(super) fn on(mut self, cx: &Context<'_>, event: EventKind<'_>) -> Next {
        let unavailable = Body::Unavailable;
        match event {
            EventKind::ResponseBody { held, whole, crowded, end } => {
                cx.buffered_bytes.set(held);
                if held > cx.policy.max_response_bytes {
                    self.complete(cx, unavailable(Some(Reason::TooLarge)))
                } else if crowded && held > SMALL_BODY {
                    self.complete(cx, unavailable(None))
                } else if end || content_length(&self.headers) == Some(held) {
                    // As long as it was announced it is whole; Envoy may say so only in its next callback.
                    self.complete(cx, Body::Whole(whole()))
                } else {
                    (State::ResponseBody(self), hold())
                }
            }
            EventKind::Unable => {
                let (state, step) = self.complete(cx, unavailable(None));
                let failure = Failure::MissingFlag;
                let counts = vec![Count::StoreFailed(failure)];
                (state, Step { counts, remark: Some(Remark::StoreFailed(failure)), ..step })
            }
            // The status decided when it came; only the body got lost.
            EventKind::Closed { .. } => {
                let (state, step) = self.complete(cx, unavailable(None));
                (state, Step { flow: Flow::Pass, status: None, ..step })
            }
            event => {
                let step = self.execution.keep_alive(cx, &event);
                (State::ResponseBody(self), step)
            }
        }
    }

    fn complete(self, cx: &Context<'_>, body: Body) -> Next {
        self.execution.complete(cx, self.status, &self.headers, body, self.ttl_ms)
    }
}

impl Execution {
    /// The response's head, from the upstream or from Envoy in its place.
    fn on_response_headers(
        self,
        cx: &Context<'_>,
        headers: &Headers,
        status: u16,
        origin: Origin<'_>,
        end: bool,
    ) -> Next {
        let policy = cx.policy;
        let fate = fate(policy, Some(origin.source()), status, headers);
        if fate != Fate::Store {
            let line = self.line(false);
            let (save, step) = Save::of(cx, self, Outcome::Failed { fate, retried: origin.retried() });
            return save.with_the_hosts_copy(cx, step, headers, line);
        }
        let ttl_ms = steered_ttl_ms(headers).unwrap_or(policy.ttl_ms);
        let endless = headers.first("content-type").is_some_and(|value| media_type(value) == b"text/event-stream");
        let too_large = content_length(headers).is_some_and(|length| length > policy.max_response_bytes);
        let body = match end {
            // A trial holds nothing back, so it has no body to keep.
            _ if policy.mode == Mode::Observe => Body::Unavailable(None),
            true => Body::Whole(Vec::new()),
            false if too_large => Body::Unavailable(Some(Reason::TooLarge)),
            false if endless => Body::Unavailable(None),
            false => {
                let body = ResponseBody { execution: self, status, headers: headers.clone(), ttl_ms };
                return (State::ResponseBody(body), hold());
            }
        };
        self.complete(cx, status, headers, body, ttl_ms)
    }

    /// The upstream's answer is for good: hold it until the store has it, or let it go when its body cannot be had.
    fn complete(self, cx: &Context<'_>, status: u16, headers: &Headers, body: Body, ttl_ms: u64) -> Next {
        let given_up = match &body {
            Body::Unavailable(reason) => Some(*reason),
            Body::Whole(_) => None,
        };
        let response = kept_response(cx, &self, status, headers, body);
        let (line, name) = (self.line(false), self.request.name);
        let (save, step) = Save::of(cx, self, Outcome::Completed { status, response, ttl_ms });
        let Some(reason) = given_up else {
            return save.until_stored(cx, step, Message { removals: removals(headers), ttl_ms }, headers);
        };
        let remark = reason.map(|_| Remark::BodyDropped(name));
        let commands = step.commands;
        let step = respond(cx, save.execution.injected, headers, line.because(reason));
        (State::Save(save), Step { commands, remark, ..step })
    }

    /// Keeps the lease alive while the upstream works, and hears what the store says to that.
    fn keep_alive(&mut self, cx: &Context<'_>, event: &EventKind<'_>) -> Step {
        match event {
            EventKind::Tick { .. } => self.renew(cx),
            EventKind::StoreAnswered { asked: ReplyKind::Renew, verdict, .. } => self.on_renewed(verdict),
            _ => Step::default(),
        }
    }

    /// Renews the lease where that is due, up to `max_running_ms`.
    fn renew(&mut self, cx: &Context<'_>) -> Step {
        if self.renew_at_ms.is_none_or(|due| cx.now_ms < due) {
            return Step::default();
        }
        if cx.now_ms >= self.started_ms + cx.policy.max_running_ms {
            self.renew_at_ms = None;
            let commands = vec![self.command(cx.policy, CommandKind::MarkUnknown)];
            return Step { commands, remark: Some(Remark::RanTooLong(self.request.name)), ..Step::default() };
        }
        self.renew_at_ms = Some(cx.now_ms + cx.policy.lease_ms / 3);
        let commands = vec![self.command(cx.policy, CommandKind::Renew)];
        Step { commands, wake_ms: self.renew_at_ms, ..Step::default() }
    }

    fn on_renewed(&mut self, reply: &StoreReply) -> Step {
        match reply {
            StoreReply::Failed(failure) => Step {
                counts: vec![Count::StoreFailed(*failure)],
                remark: Some(Remark::StoreFailed(*failure)),
                ..Step::default()
            },
            StoreReply::Renewed { expires_ms } => {
                self.expires_ms = Some(*expires_ms);
                Step::default()
            }
            StoreReply::Lost => {
                self.renew_at_ms = None;
                Step { remark: Some(Remark::LeaseLost(self.request.name)), ..Step::default() }
            }
            _ => Step::default(),
        }
    }
}
