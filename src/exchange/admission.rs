//! From a request's head and body to a claim, or to what becomes of a request that is no operation.
//!
//! Its one rule: a request is let through unprotected only with a reason that its status says.
//! It does not know what the store answers.

use crate::caller::{self, Caller};
use crate::command::{CommandKind, Failure};
use crate::config::source::{Attributes, Request};
use crate::config::{Execution as Sender, Inject, Issued as Keys, Mode, OnMismatch, OnTooLarge, OnUnknown, Policy};
use crate::count::{Bypass, Count};
use crate::event::EventKind;
use crate::evidence::Origin;
use crate::fingerprint::Payload;
use crate::issued::Issued;
use crate::key::{self, ClientKey, KEY, KeyForm, NoKey, UpstreamKey};
use crate::message::{HeaderMutation, Headers, RequestHead, media_type};
use crate::record::Owner;
use crate::refusal::{ProblemType, RESOURCE_UNNAMED};
use crate::reply::{IdempotencyStatus, ProblemDetails, Reason, Token};
use crate::step::{Flow, Outgoing, SeenCaller, Step};

use super::attempt::{ClaimRequest, Content, Injected, PendingRequest, ResourceLock};
use super::claim::{AwaitClaim, Claim};
use super::headers::{OPERATION, OURS_ALONE, is_about_the_connection};
use super::settlement::{Unprotected, bypass, done, refuse, respond, store_failed};
use super::{Context, Next, SMALL_BODY, State, hold};

/// What a transcoder in front notes of a request that it has made a gRPC call of.
const TRANSCODED: &str = "x-envoy-original-method";

/// By which a client says that it means to send the same again.
const MEANT: &str = "idempotency-similar";

/// Awaits the request's head.
pub(super) struct Head;

/// Awaits the rest of the request's body.
pub(super) struct Body {
    pub(super) pending: PendingRequest,
    identity: Identity,
    payload: Payload,
}

/// Which operation a request is.
enum Identity {
    /// Its head tells.
    Named(Box<ClaimRequest>),
    /// Its body will tell.
    Unnamed { head: Box<RequestHead>, owner: Owner, fresh: UpstreamKey },
}

/// What became of a request that is no operation.
type Decided = Box<Next>;

impl Head {
    pub(super) fn on(self, cx: &Context<'_>, event: EventKind<'_>) -> Next {
        match event {
            EventKind::RequestHeaders { head, attribute, owner, upstream_key, end } => {
                begin(cx, head, attribute, owner, upstream_key, end)
            }
            EventKind::ResponseHeaders { .. } | EventKind::Closed { .. } => done(),
            _ => (State::Head(self), Step::default()),
        }
    }
}

impl Body {
    pub(super) fn on(mut self, cx: &Context<'_>, event: EventKind<'_>) -> Next {
        match event {
            EventKind::RequestBody { attribute, chunk, overloaded, end, trailers } => {
                let buffered_bytes = cx.buffer(chunk);
                if buffered_bytes > cx.policy.max_request_bytes {
                    return too_large(cx, self.pending);
                }
                if overloaded && buffered_bytes > SMALL_BODY {
                    return store_failed(cx, self.pending, Failure::Overloaded);
                }
                self.payload.body(chunk);
                if let Some(outgoing) = &mut self.pending.outgoing {
                    outgoing.body.extend_from_slice(chunk);
                }
                if !end {
                    return (State::Body(self), hold());
                }
                let is_unshielded = trailers && self.pending.outgoing.take().is_some();
                let (state, mut step) = claim(cx, self, attribute);
                step.counts.extend(is_unshielded.then_some(Count::Unshielded));
                (state, step)
            }
            EventKind::ResponseHeaders { origin, headers, .. } => self.overtaken(cx, origin, headers),
            EventKind::BodyUnavailable => store_failed(cx, self.pending, Failure::MissingFlag),
            EventKind::Closed { .. } => done(),
            _ => (State::Body(self), Step::default()),
        }
    }

    /// Envoy answers a request whose body has not come.
    fn overtaken(self, cx: &Context<'_>, origin: Origin<'_>, headers: &Headers) -> Next {
        let injected = self.pending.injected;
        if origin.is_request_too_large() {
            return refuse(cx, injected, ProblemType::BodyTooLarge, ProblemDetails::default());
        }
        (State::Done, respond(cx, injected, headers, IdempotencyStatus::new(Token::Refused)))
    }

    /// Whether it keeps the body itself.
    pub(super) fn keeps_body(&self) -> bool {
        self.payload.keeps_body()
    }
}

/// The request's head: is it to be protected, and does it tell already which operation it is?
fn begin(
    cx: &Context<'_>,
    head: &RequestHead,
    attribute: Attributes<'_>,
    owner: Owner,
    fresh: UpstreamKey,
    end: bool,
) -> Next {
    let policy = cx.policy;
    if policy.mode == Mode::Off {
        return done();
    }
    let forged = OURS_ALONE.into_iter().filter(|name| head.headers.has(name)).map(HeaderMutation::Remove).collect();
    if let Some(bypass) = never_protected(head) {
        if policy.lock().is_some() {
            return without_resource(cx, None);
        }
        let counts = vec![Count::Bypassed(bypass)];
        // A client that did not call by gRPC has to hear that a filter in front has made a call of its request.
        let state = if bypass == Bypass::Grpc && head.headers.has(TRANSCODED) {
            State::Unprotected(Unprotected { line: IdempotencyStatus::bypassed(Reason::Grpc), injected: None })
        } else {
            State::Done
        };
        return (state, Step { flow: Flow::Resume(forged), counts, ..Step::default() });
    }
    let said_operation = head.headers.first(OPERATION).map(<[u8]>::to_vec);
    let mut pending = PendingRequest { forged, said_operation, ..PendingRequest::default() };
    let identity = if policy.is_named_by_body() && !end {
        Identity::Unnamed { head: Box::new(head.clone()), owner, fresh }
    } else {
        match identify(cx, &mut pending, &Request::new(head, b"", attribute), owner, fresh) {
            Ok(request) => Identity::Named(request),
            Err(decided) => return *decided,
        }
    };
    if head.content_length().is_some_and(|length| length > policy.max_request_bytes) {
        return too_large(cx, pending);
    }
    let payload = Payload::new(policy, cx.secrets.hash_key.as_ref(), head);
    pending.outgoing = outgoing(policy, head);
    let is_wanted = policy.mode == Mode::Enforce && matches!(policy.execution, Sender::Shielded { .. });
    let is_unshielded = is_wanted && pending.outgoing.is_none();
    let body = Body { pending, identity, payload };
    let (state, mut step) = match end {
        true => claim(cx, body, attribute),
        // The service would have to say 100, and it does not see the request before its body has come.
        false if policy.mode == Mode::Enforce && awaits_100(head) => {
            return refuse(cx, body.pending.injected, ProblemType::ExpectationFailed, ProblemDetails::default());
        }
        false => (State::Body(body), hold()),
    };
    step.counts.extend(is_unshielded.then_some(Count::Unshielded));
    (state, step)
}

/// Which operation is it: what is its key, and whose? Or what becomes of a request that is none.
fn identify(
    cx: &Context<'_>,
    pending: &mut PendingRequest,
    request: &Request<'_>,
    owner: Owner,
    fresh: UpstreamKey,
) -> Result<Box<ClaimRequest>, Decided> {
    let (policy, head) = (cx.policy, request.head);
    let (key, window) = client_key(cx, pending, request, fresh)?;
    let form = if pending.injected.is_none() { key::form(&policy.key, request) } else { None };
    if policy.mode == Mode::Inject && (form.is_some() || pending.injected.is_some()) {
        let key = pending.injected.is_some().then_some(fresh);
        return Err(Box::new(send_key(cx, pending, key)));
    }
    let caller = Caller::read(policy, request);
    match caller {
        // A caller without a name of its own may have the same content as another.
        Caller::Anonymous if matches!(window, Some((_, false))) => {
            return Err(Box::new(bypass(cx, pending, Reason::NoCaller)));
        }
        Caller::Absent => return Err(Box::new(without_caller(request, bypass(cx, pending, Reason::NoCaller)))),
        Caller::Refused => {
            let refused = refuse(cx, pending.injected, ProblemType::CallerMissing, ProblemDetails::default());
            return Err(Box::new(without_caller(request, refused)));
        }
        Caller::Anonymous | Caller::Known(_) => {}
    }
    let issued = match (pending.injected, &key) {
        (None, Some(key)) => issued(cx, &caller, key, request)?,
        _ => None,
    };
    pending.has_expired = issued.is_some_and(|issued| !issued.may_begin);
    let hash_key = cx.secrets.hash_key.as_ref();
    let name = match &key {
        Some(key) => key::name(policy, hash_key, head, &caller, key),
        None => key::content_name(policy, hash_key, head, &caller),
    };
    if policy.mode == Mode::Inject {
        // The same for every attempt, without a store to keep it.
        let [own @ .., _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _] = name.0;
        return Err(Box::new(send_key(cx, pending, Some(UpstreamKey(own)))));
    }
    let resource = match policy.lock().map(|lock| key::resource(lock.name(&policy.rule.name), lock, hash_key, request))
    {
        Some(None) => return Err(Box::new(without_resource(cx, pending.injected))),
        resource => resource.flatten(),
    };
    let content = policy.similar.filter(|_| window.is_none()).map(|_| Content {
        name: key::content(policy, hash_key, head, &caller),
        is_meant: head.headers.first(MEANT).is_some_and(|value| value.trim_ascii().eq_ignore_ascii_case(b"allow")),
    });
    let accepted: Vec<&[u8]> = head.headers.all("accept-encoding").collect();
    Ok(Box::new(ClaimRequest {
        name,
        owner,
        form: form.unwrap_or(KeyForm::Ours(fresh)),
        key,
        sent_key: form.and_then(|_| head.headers.first(KEY)).map(<[u8]>::to_vec),
        accept_encoding: (!accepted.is_empty()).then(|| accepted.join(&b',')),
        window_ms: window.map(|(window_ms, _)| window_ms),
        content,
        issued,
        lock: resource.map(ResourceLock::of),
    }))
}

/// The key, and for a content key its window in ms and whether it is for the anonymous too.
type FoundKey = (Option<ClientKey>, Option<(u64, bool)>);

/// The client's own key, or the one that the gateway makes in its place.
fn client_key(
    cx: &Context<'_>,
    pending: &mut PendingRequest,
    request: &Request<'_>,
    fresh: UpstreamKey,
) -> Result<FoundKey, Decided> {
    let policy = &cx.policy.key;
    let refused = |problem| Err(Box::new(refuse(cx, None, problem, ProblemDetails::default())));
    match (ClientKey::read(policy, request), policy.inject) {
        (Ok(key), _) => Ok((Some(key), None)),
        (Err(NoKey::Invalid), _) => refused(ProblemType::KeyInvalid),
        (Err(_), Inject::Off) if policy.required => refused(ProblemType::KeyMissing),
        (Err(NoKey::Unreadable), Inject::Off) => Err(Box::new(bypass(cx, pending, Reason::KeyUnreadable))),
        (Err(NoKey::Absent), Inject::Off) => Err(Box::new(bypass(cx, pending, Reason::NoKey))),
        (Err(_), Inject::Uuid) => {
            pending.injected = Some(Injected::Uuid(fresh));
            Ok((Some(ClientKey::of_ours(fresh.text())), None))
        }
        (Err(_), Inject::Content { window_ms, anonymous }) => {
            pending.injected = Some(Injected::Content);
            Ok((None, Some((window_ms, anonymous))))
        }
    }
}

/// What is known of the client's key as one that the gateway has issued to it.
fn issued(
    cx: &Context<'_>,
    caller: &Caller,
    key: &ClientKey,
    request: &Request<'_>,
) -> Result<Option<Issued>, Decided> {
    match cx.secrets.issuer.judge(&cx.policy.rule.name, caller, key, request) {
        Ok(issued) => Ok(Some(issued)),
        Err(detail) if cx.policy.key.issued == Keys::Required => {
            let details = ProblemDetails { detail: Some(detail), ..ProblemDetails::default() };
            Err(Box::new(refuse(cx, None, ProblemType::KeyInvalid, details)))
        }
        Err(_) => Ok(None),
    }
}

/// The request would run beside the lock of the resource that it does not name.
fn without_resource(cx: &Context<'_>, injected: Option<Injected>) -> Next {
    let details = ProblemDetails { detail: Some(RESOURCE_UNNAMED), ..ProblemDetails::default() };
    refuse(cx, injected, ProblemType::KeyInvalid, details)
}

/// Says that this request shows no caller.
fn without_caller(request: &Request<'_>, (state, step): Next) -> Next {
    let seen = SeenCaller::None { certificate: caller::has_certificate(request) };
    (state, Step { caller: Some(seen), ..step })
}

/// Under `mode: inject`: the request goes on with a key, and that is all.
fn send_key(cx: &Context<'_>, pending: &mut PendingRequest, key: Option<UpstreamKey>) -> Next {
    let mut edits = std::mem::take(&mut pending.forged);
    let Some(key) = key else {
        let unprotected = Unprotected { line: IdempotencyStatus::new(Token::Bypassed), injected: pending.injected };
        return (State::Unprotected(unprotected), Step { flow: Flow::Resume(edits), ..Step::default() });
    };
    edits.push(HeaderMutation::Set(KEY, key.text().into_bytes()));
    let (state, step) = bypass(cx, pending, Reason::Injected);
    (state, Step { flow: Flow::Resume(edits), ..step })
}

/// The whole request has come: may it run?
fn claim(cx: &Context<'_>, body: Body, attribute: Attributes<'_>) -> Next {
    let Body { mut pending, identity, payload } = body;
    let (fingerprint, body) = payload.finish();
    let mut request = match identity {
        Identity::Named(request) => request,
        Identity::Unnamed { head, owner, fresh } => {
            match identify(cx, &mut pending, &Request::new(&head, &body, attribute), owner, fresh) {
                Ok(request) => request,
                Err(decided) => return *decided,
            }
        }
    };
    if request.window_ms.is_some() || cx.policy.on_mismatch == OnMismatch::Separate {
        request.name = fingerprint.joined_to(&request.name, cx.secrets.hash_key.as_ref());
    }
    if let Some(content) = &mut request.content {
        content.name = fingerprint.joined_to(&content.name, cx.secrets.hash_key.as_ref());
    }
    let claim = Claim { request, fingerprint, pending, started_ms: cx.now_ms(), asked_ms: cx.now_ms() };
    let command = claim.command(cx.policy, CommandKind::Claim { may_retry: cx.policy.on_unknown == OnUnknown::Retry });
    let step = Step { commands: vec![command], caller: Some(SeenCaller::Some), ..hold() };
    (State::Claim(AwaitClaim { claim, waiter: None }), step)
}

fn too_large(cx: &Context<'_>, mut pending: PendingRequest) -> Next {
    match cx.policy.on_too_large {
        OnTooLarge::Bypass => bypass(cx, &mut pending, Reason::TooLarge),
        OnTooLarge::Reject => refuse(cx, pending.injected, ProblemType::BodyTooLarge, ProblemDetails::default()),
    }
}

/// Requests that cannot be held back or answered like others, whatever the rules say.
fn never_protected(head: &RequestHead) -> Option<Bypass> {
    let is_upgrade =
        |line: &[u8]| line.split(|byte| *byte == b',').any(|token| token.trim_ascii().eq_ignore_ascii_case(b"upgrade"));
    if head.method() == b"CONNECT" {
        Some(Bypass::Connect)
    } else if head.headers.has("upgrade") && head.headers.all("connection").any(is_upgrade) {
        Some(Bypass::Upgrade)
    } else if head.headers.first("content-type").is_some_and(|value| is_grpc(&media_type(value))) {
        Some(Bypass::Grpc)
    } else {
        None
    }
}

/// Whether the client sends its body only once it is asked for it. Envoy asks by itself and takes the field away, unless
/// `proxy_100_continue` leaves that to the service.
fn awaits_100(head: &RequestHead) -> bool {
    head.headers.all("expect").any(|value| value.eq_ignore_ascii_case(b"100-continue"))
}

/// gRPC and gRPC-Web say how a call ended behind its body.
fn is_grpc(media_type: &[u8]) -> bool {
    let format =
        |kind: &[u8]| media_type.strip_prefix(kind).is_some_and(|more| more.is_empty() || more.starts_with(b"+"));
    [b"application/grpc".as_slice(), b"application/grpc-web", b"application/grpc-web-text"].into_iter().any(format)
}

/// What the gateway itself will send, where the operator wants that and all of it can be sent.
fn outgoing(policy: &Policy, head: &RequestHead) -> Option<Box<Outgoing>> {
    let Sender::Shielded { cluster, timeout_ms } = &policy.execution else { return None };
    let is_sent = |name: &[u8]| !is_about_the_connection(name) && name != b"expect" && name != b":scheme";
    (head.headers.fit_a_map() && policy.mode == Mode::Enforce).then(|| {
        let headers = head.headers.iter().filter(|(name, _)| is_sent(name)).collect();
        Box::new(Outgoing { cluster: cluster.clone(), timeout_ms: *timeout_ms, headers, body: Vec::new() })
    })
}
