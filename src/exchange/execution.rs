//! From a request that was let through to its outcome: the lease is renewed meanwhile, and the answer is judged.
//!
//! Its one rule: what an answer makes of the key is decided in one place, whether the client's stream or the gateway
//! itself has sent the request.
//! It does not know when the store has heard of an outcome.

use crate::command::{Command, CommandKind, Failure, ReplyKind, StoreReply};
use crate::config::{Ending, Execution as Sender, Fate, Mode, OnCompleted, Policy};
use crate::count::Count;
use crate::event::{EventKind, Executed};
use crate::evidence::{Origin, Source};
use crate::json;
use crate::lock::LockCommand;
use crate::message::{Headers, content_length, media_type};
use crate::mutant::{self, Mutant};
use crate::record::Response;
use crate::reply::{Reason, Reply};
use crate::step::{Flow, LogEvent, Step};

use super::attempt::{Execution, Outcome, Tries, Ttl};
use super::headers::{Steering, kept, passed, removals, reported, steering};
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
    ttl: Ttl,
    /// How often Envoy had tried the upstream.
    tries: Tries,
    /// When what is held is let go, however much of it has come.
    until_ms: u64,
}

/// The body of a response, or why it cannot be had.
enum Body {
    Whole(Vec<u8>),
    Unavailable(Option<Reason>),
}

/// What becomes of the key, by who answered and what. None made it where no account came with the answer.
fn fate(policy: &Policy, source: Option<Source>, status: u16, headers: &Headers) -> Fate {
    let by_status = || match steering(headers) {
        Steering::Fate(fate) => fate,
        Steering::None => policy.outcomes.of_status(status),
        Steering::Unreadable => in_doubt(policy.outcomes.of_status(status)),
    };
    match source {
        Some(Source::Host(ending)) => policy.outcomes.of_ending(ending),
        // The client is sent elsewhere, and nothing was done: there the same key is not to meet this answer.
        Some(Source::Route) if status / 100 == 3 => policy.outcomes.of_ending(Ending::Unsent),
        Some(Source::Route) => by_status(),
        // Another filter of this kind, further on, answered in the upstream's place.
        Some(Source::Own | Source::Unclear) => Fate::Unknown,
        None if status >= 400 => Fate::Unknown,
        Some(Source::Local { attempted: true }) => in_doubt(by_status()),
        Some(Source::Upstream | Source::Local { attempted: false }) | None => by_status(),
    }
}

/// A failure frees no key where an upstream may have been asked before another filter answered.
fn in_doubt(fate: Fate) -> Fate {
    if fate == Fate::Store { fate } else { Fate::Unknown }
}

/// What the body of a response says of the key, where its status would have it stored and the service has not said itself;
/// what cannot be read is an error. No body is one that cannot be had.
fn fate_by_body(policy: &Policy, headers: &Headers, body: Option<&[u8]>) -> Result<Option<Fate>, Unread> {
    let kind = headers.first("content-type").map(media_type).unwrap_or_default();
    let is_json = kind == b"application/json" || kind.ends_with(b"+json");
    if policy.outcomes.json.is_empty() || !is_json || matches!(steering(headers), Steering::Fate(_)) {
        return Ok(None);
    }
    let body = body.filter(|_| !headers.has("content-encoding")).and_then(|body| json::parse(body).ok());
    body.map(|body| policy.outcomes.of_body(&body)).ok_or(Unread)
}

/// A body that was to say what became of the key, and cannot be read.
struct Unread;

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
            EventKind::Closed { origin, status } => self.closed(cx, origin, status),
            event => {
                let step = self.execution.keep_alive(cx, &event);
                (State::Response(self), step)
            }
        }
    }

    /// The stream ended without a response that this filter has seen.
    fn closed(self, cx: &Context<'_>, origin: Origin<'_>, status: Option<u16>) -> Next {
        let fate = match (origin.source(), status) {
            (Source::Host(ending), _) => cx.policy.outcomes.of_ending(ending),
            // Another filter answered while the upstream's response passed it, and Envoy sent that past this one.
            (Source::Local { .. } | Source::Route, Some(status)) => in_doubt(cx.policy.outcomes.of_status(status)),
            // There was an answer, and it passed this filter by.
            _ => Fate::Unknown,
        };
        let name = self.execution.request.name;
        let outcome = match (fate, status) {
            (Fate::Store, Some(status)) => {
                let (none, body) = (Headers::default(), Body::Unavailable(None));
                let response = kept_response(cx, &self.execution, status, &none, body);
                Outcome::Completed { status, response, ttl: Ttl::of(cx.policy, &none) }
            }
            _ => Outcome::Failed { fate, tries: Tries::of(origin) },
        };
        let (save, mut step) = Save::of(cx, self.execution, outcome);
        if origin.details == b"internal_redirect" {
            step.log_event = Some(LogEvent::InternalRedirect(name));
        }
        (State::Save(save), step)
    }
}

impl Shielded {
    pub(super) fn on(mut self, cx: &Context<'_>, event: EventKind<'_>) -> Next {
        match event {
            EventKind::Executed { answer, overloaded } => self.executed(cx, answer, overloaded),
            EventKind::Closed { .. } if mutant::is(Mutant::ShieldDropped) => {
                let outcome = Outcome::Failed { fate: Fate::Unknown, tries: Tries::Once };
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
                let line = self.execution.line(Some(false), Some(Fate::Unknown));
                let step = respond(cx, self.execution.injected, headers, line);
                (State::Shielded(self), step)
            }
            event => {
                let step = self.execution.keep_alive(cx, &event);
                (State::Shielded(self), step)
            }
        }
    }

    /// What came back from a request that the gateway itself had sent.
    fn executed(self, cx: &Context<'_>, answer: Executed<'_>, overloaded: bool) -> Next {
        let Shielded { execution, is_over } = self;
        let name = execution.request.name;
        let cluster = || match &cx.policy.execution {
            Sender::Shielded { cluster, .. } => cluster.clone(),
            Sender::Inline => String::new(),
        };
        let failed = |fate, tries| Outcome::Failed { fate, tries };
        let mut unread = None;
        let (outcome, reply, given_up, log_event) = match answer {
            Executed::Answered { status, headers, body } => {
                let headers_given_up = (!headers.fit_a_map()).then_some(Some(Reason::TooLarge));
                let given_up = headers_given_up.or_else(|| given_up(cx.policy, body.len() as u64, overloaded));
                let (outcome, source, is_unread) =
                    judged(cx, &execution, status, headers, given_up.map_or(Ok(body), Err));
                unread = is_unread.then_some(Count::OutcomeUnread);
                let log_event = match (given_up, &outcome) {
                    (Some(_), Outcome::Completed { .. }) => Some(LogEvent::BodyDropped(execution.request.name)),
                    _ => (source == Some(Source::Own)).then(|| LogEvent::Reentered(name, cluster())),
                };
                let passed = || Reply::passed(status, passed(headers), body.to_vec());
                // What the host takes no more lines of cannot be handed on.
                let reply = headers_given_up.map_or_else(passed, |_| Reply::lost());
                (outcome, reply, given_up, log_event)
            }
            Executed::Lost => {
                let fate = if mutant::is(Mutant::LostAnswerReleased) { Fate::Release } else { Fate::Unknown };
                (failed(fate, Tries::Once), Reply::lost(), None, None)
            }
            Executed::Unsent => {
                let fate = cx.policy.outcomes.of_ending(Ending::Unsent);
                (failed(fate, Tries::Never), Reply::unsent(), None, Some(LogEvent::NoWay(name, cluster())))
            }
        };
        let (mut save, mut step) = Save::of(cx, execution, outcome);
        step.counts.extend(unread);
        save.is_over = is_over;
        save.with_our_copy(cx, Step { log_event, ..step }, reply, given_up)
    }
}

/// Why a body of so many bytes is neither held nor kept; none where it is.
fn given_up(policy: &Policy, bytes: u64, overloaded: bool) -> Option<Option<Reason>> {
    match bytes {
        _ if bytes > policy.max_response_bytes => Some(Some(Reason::TooLarge)),
        _ if overloaded && bytes > SMALL_BODY => Some(None),
        _ => None,
    }
}

/// What the answer to a request of the gateway's own makes of the key, who made it, and whether its body was to say so and
/// cannot be read. Where its body is given up, why comes in its place.
fn judged(
    cx: &Context<'_>,
    execution: &Execution,
    status: u16,
    headers: &Headers,
    body: Result<&[u8], Option<Reason>>,
) -> (Outcome, Option<Source>, bool) {
    let origin = reported(headers);
    let source = origin.map(|origin| origin.source());
    let by_status = fate(cx.policy, source, status, headers);
    let said = if by_status == Fate::Store { fate_by_body(cx.policy, headers, body.ok()) } else { Ok(None) };
    let is_unread = said.is_err();
    let fate = said.ok().flatten().unwrap_or(by_status);
    if fate != Fate::Store {
        // Without Envoy's own report neither who has failed is known, nor how often it was tried.
        let tries = origin.map_or(Tries::Several, Tries::of);
        return (Outcome::Failed { fate, tries }, source, is_unread);
    }
    let body = body.map_or_else(Body::Unavailable, |body| Body::Whole(body.to_vec()));
    let response = kept_response(cx, execution, status, &passed(headers), body);
    (Outcome::Completed { status, response, ttl: Ttl::of(cx.policy, headers) }, source, is_unread)
}

impl ResponseBody {
    pub(super) fn on(mut self, cx: &Context<'_>, event: EventKind<'_>) -> Next {
        let unavailable = Body::Unavailable;
        match event {
            EventKind::ResponseBody { buffered_bytes, whole, overloaded, end } => {
                cx.buffered_bytes.set(buffered_bytes);
                if let Some(reason) = given_up(cx.policy, buffered_bytes, overloaded) {
                    self.complete(cx, unavailable(reason))
                } else if end || content_length(&self.headers) == Some(buffered_bytes) {
                    // As long as it was announced it is whole; Envoy may say so only in its next callback.
                    self.complete(cx, Body::Whole(whole()))
                } else {
                    (State::ResponseBody(self), hold())
                }
            }
            EventKind::BodyUnavailable => {
                let (state, step) = self.complete(cx, unavailable(None));
                let failure = Failure::MissingFlag;
                let counts = vec![Count::StoreFailed(failure)];
                (state, Step { counts, log_event: Some(LogEvent::StoreFailed { failure, name: None }), ..step })
            }
            // The status decided when it came; only the body got lost.
            EventKind::Closed { .. } => {
                let (state, step) = self.complete(cx, unavailable(None));
                (state, Step { flow: Flow::Pass, status: None, ..step })
            }
            // It trickles. Its status is known, and its reader has waited long enough.
            EventKind::Tick { .. } if cx.now_ms() >= self.until_ms && !mutant::is(Mutant::TrickleHeld) => {
                let log_event = Some(LogEvent::BodyDropped(self.execution.request.name));
                let (state, step) = self.complete(cx, unavailable(None));
                (state, Step { log_event, ..step })
            }
            EventKind::Tick { .. } => {
                let step = self.execution.renew(cx);
                let wake_ms = Some(step.wake_ms.map_or(self.until_ms, |wake_ms| wake_ms.min(self.until_ms)));
                (State::ResponseBody(self), Step { wake_ms, ..step })
            }
            event => {
                let step = self.execution.keep_alive(cx, &event);
                (State::ResponseBody(self), step)
            }
        }
    }

    fn complete(self, cx: &Context<'_>, body: Body) -> Next {
        self.execution.complete(cx, self.status, &self.headers, body, self.ttl, self.tries)
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
            let (save, step) = Save::of(cx, self, Outcome::Failed { fate, tries: Tries::of(origin) });
            return save.with_the_hosts_copy(cx, step, headers);
        }
        let ttl = Ttl::of(policy, headers);
        let endless = headers.first("content-type").is_some_and(|value| media_type(value) == b"text/event-stream");
        let is_long = content_length(headers).is_some_and(|length| length > policy.max_response_bytes);
        let too_large = is_long || !headers.fit_a_map();
        let body = match end {
            // A trial holds nothing back, so it has no body to keep.
            _ if policy.mode == Mode::Observe => Body::Unavailable(None),
            _ if too_large => Body::Unavailable(Some(Reason::TooLarge)),
            true => Body::Whole(Vec::new()),
            false if endless => Body::Unavailable(None),
            false => {
                // One that comes late still has some time.
                let until_ms = self.ends_ms(policy).max(cx.now_ms() + policy.lease_ms / 3);
                let wake_ms = Some(self.renew_at_ms.map_or(until_ms, |renew_at_ms| renew_at_ms.min(until_ms)));
                let (headers, tries) = (headers.clone(), Tries::of(origin));
                let body = ResponseBody { execution: self, status, headers, ttl, tries, until_ms };
                return (State::ResponseBody(body), Step { wake_ms, ..hold() });
            }
        };
        self.complete(cx, status, headers, body, ttl, Tries::of(origin))
    }

    /// The upstream's answer is for good: hold it until the store has it, or let it go when its body cannot be had.
    fn complete(self, cx: &Context<'_>, status: u16, headers: &Headers, body: Body, ttl: Ttl, tries: Tries) -> Next {
        let whole = if let Body::Whole(body) = &body { Some(body.as_slice()) } else { None };
        let said = fate_by_body(cx.policy, headers, whole);
        if let Ok(Some(fate @ (Fate::Release | Fate::Retry | Fate::Unknown))) = said {
            let (save, step) = Save::of(cx, self, Outcome::Failed { fate, tries });
            return save.with_the_hosts_copy(cx, step, headers);
        }
        let (state, mut step) = self.stored(cx, status, headers, body, ttl);
        step.counts.extend(said.is_err().then_some(Count::OutcomeUnread));
        (state, step)
    }

    fn stored(self, cx: &Context<'_>, status: u16, headers: &Headers, body: Body, ttl: Ttl) -> Next {
        let given_up = match &body {
            Body::Unavailable(reason) => Some(*reason),
            Body::Whole(_) => None,
        };
        let response = kept_response(cx, &self, status, headers, body);
        let name = self.request.name;
        let (save, step) = Save::of(cx, self, Outcome::Completed { status, response, ttl });
        let Some(reason) = given_up else {
            let ttl_ms = save.execution.request.least(ttl.ms);
            return save.until_stored(cx, step, Message { removals: removals(headers), ttl_ms }, headers);
        };
        let log_event = reason.map(|_| LogEvent::BodyDropped(name));
        let line = save.line(false).because(reason);
        let Step { flow, status, .. } = respond(cx, save.execution.injected, headers, line);
        (State::Save(save), Step { flow, status, log_event, ..step })
    }

    /// Keeps the lease alive while the upstream works, and hears what the store says to that.
    fn keep_alive(&mut self, cx: &Context<'_>, event: &EventKind<'_>) -> Step {
        match event {
            EventKind::Tick { .. } => self.renew(cx),
            EventKind::StoreReplied {
                asked: ReplyKind::Renew | ReplyKind::RenewLock,
                reply: StoreReply::Failed(failure),
                ..
            } => Step {
                counts: vec![Count::StoreFailed(*failure)],
                log_event: Some(LogEvent::StoreFailed { failure: *failure, name: None }),
                ..Step::default()
            },
            EventKind::StoreReplied { asked: ReplyKind::Renew, reply, .. } => self.on_renewed(reply),
            EventKind::StoreReplied { asked: ReplyKind::RenewLock, reply, .. } => self.on_lock_renewed(reply),
            _ => Step::default(),
        }
    }

    /// Renews the leases of the claim and of the lock where that is due, up to `max_running_ms`.
    fn renew(&mut self, cx: &Context<'_>) -> Step {
        let Some(due_ms) = self.renew_at_ms else { return Step::default() };
        let ends_ms = self.ends_ms(cx.policy);
        if cx.now_ms() >= ends_ms {
            self.renew_at_ms = None;
            self.overran = true;
            let commands = vec![self.command(cx.policy, CommandKind::MarkUnknown)];
            return Step { commands, log_event: Some(LogEvent::RanTooLong(self.request.name)), ..Step::default() };
        }
        let mut commands = Vec::new();
        if cx.now_ms() >= due_ms {
            self.renew_at_ms = Some(cx.now_ms() + cx.policy.lease_ms / 3);
            commands.extend((!self.is_lost).then(|| self.command(cx.policy, CommandKind::Renew)));
            commands.extend(self.lock_renewal(cx));
        }
        Step { commands, wake_ms: self.renew_at_ms.map(|due_ms| due_ms.min(ends_ms)), ..Step::default() }
    }

    fn on_renewed(&mut self, reply: &StoreReply) -> Step {
        match reply {
            StoreReply::Renewed { expires_ms } => {
                self.expires_ms = Some(*expires_ms);
                Step::default()
            }
            // The lock is renewed all the same: what runs goes on.
            StoreReply::Lost => {
                self.is_lost = true;
                self.renew_at_ms = self.renew_at_ms.filter(|_| self.request.lock.is_some());
                Step { log_event: Some(LogEvent::LeaseLost(self.request.name)), ..Step::default() }
            }
            _ => Step::default(),
        }
    }

    fn lock_renewal(&self, cx: &Context<'_>) -> Option<Command> {
        let fence = self.request.lock.as_ref()?.fence.filter(|_| !mutant::is(Mutant::LockNotRenewed))?;
        self.lock_command(cx.policy, LockCommand::Renew { fence })
    }

    fn on_lock_renewed(&mut self, reply: &StoreReply) -> Step {
        match reply {
            StoreReply::Lost => {
                self.request.lock = None;
                self.renew_at_ms = self.renew_at_ms.filter(|_| !self.is_lost);
                let log_event = Some(LogEvent::LockLost(self.request.name));
                Step { counts: vec![Count::LockLost], log_event, ..Step::default() }
            }
            _ => Step::default(),
        }
    }
}
