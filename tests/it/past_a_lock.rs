//! All ways past the lock of a resource, each shut: what a rule without `serialize` lets through unprotected is refused.
//!
//! Its one rule: each way is shown to lead past without `serialize`, under the same policy, before it is shown to be shut.
//! It does not know who waits for a lock.

use std::rc::Rc;

use envoy_idempotency::command::{Command, CommandKind, Failure, ReplyKind, StoreReply};
use envoy_idempotency::config::Config;
use envoy_idempotency::event::{Clock, Event, EventKind};
use envoy_idempotency::exchange::Exchange;
use envoy_idempotency::key::{KeyForm, UpstreamKey};
use envoy_idempotency::lock::LockCommand;
use envoy_idempotency::message::{HeaderMutation, RequestHead};
use envoy_idempotency::record::Owner;
use envoy_idempotency::step::{Flow, Step};
use serde_json::{Value, json};

/// A way past: what is special about the policy and the request, and what happens to it; and the refusal.
struct Way {
    what: &'static str,
    policy: Value,
    head: &'static [(&'static str, &'static str)],
    events: fn(&mut Exchange, Step) -> Step,
    slug: &'static str,
}

const KEY: (&str, &str) = ("idempotency-key", "k");
const ME: (&str, &str) = ("authorization", "me");
const IT: (&str, &str) = ("x-resource", "it");

fn ways() -> Vec<Way> {
    let forwards = || json!({ "on_store_failure": "forward" });
    let mut shared = inject("content");
    shared["scope"] = json!({ "anonymous": "share" });
    let way = |what, policy, head, events, slug| Way { what, policy, head, events, slug };
    vec![
        way("gRPC", json!({}), &[KEY, ME, IT, ("content-type", "application/grpc")], nothing, "key-invalid"),
        way(
            "gRPC-Web",
            json!({}),
            &[KEY, ME, IT, ("content-type", "application/grpc-web+proto")],
            nothing,
            "key-invalid",
        ),
        way(
            "an upgrade",
            json!({}),
            &[KEY, ME, IT, ("upgrade", "websocket"), ("connection", "upgrade")],
            nothing,
            "key-invalid",
        ),
        way("CONNECT", json!({}), &[(":method", "CONNECT"), KEY, ME, IT], nothing, "key-invalid"),
        way("no caller", inject("uuid"), &[IT], nothing, "caller-missing"),
        way("no caller of a content", inject("content"), &[IT], nothing, "caller-missing"),
        way("one of those that share a scope", shared, &[IT], nothing, "caller-missing"),
        way(
            "a long body",
            json!({ "on_too_large": "bypass", "max_request_bytes": 4 }),
            &[KEY, ME, IT],
            long,
            "body-too-large",
        ),
        way(
            "a body announced as long",
            json!({ "on_too_large": "bypass", "max_request_bytes": 4 }),
            &[KEY, ME, IT, ("content-length", "5")],
            nothing,
            "body-too-large",
        ),
        way("a body that is not shown", forwards(), &[KEY, ME, IT], hidden, "store-unavailable"),
        way("a crowded worker", forwards(), &[KEY, ME, IT], crowded, "store-unavailable"),
        way("a store that is not reached", forwards(), &[KEY, ME, IT], refused_claim, "store-unavailable"),
        way("a store that may have granted", forwards(), &[KEY, ME, IT], doubtful_claim, "store-unavailable"),
        way("a store that fails at the renewal", forwards(), &[KEY, ME, IT], stale_claim, "store-unavailable"),
    ]
}

#[test]
fn every_way_past_a_lock_is_shut() {
    for Way { what, policy, head, events, slug } in ways() {
        let mut open = exchange(&policy, false);
        let first = request(head).to(&mut open);
        let step = events(&mut open, first);
        let is_through = matches!(step.flow, Flow::Resume(_)) || open.awaits() == "response";
        assert!(is_through, "{what}: without a lock it does not lead past: {:?}", step.flow);
        let mut shut = exchange(&policy, true);
        let first = request(head).to(&mut shut);
        let step = events(&mut shut, first);
        assert_eq!(refusal(&step), Some(slug), "{what}: {:?}", step.flow);
    }
}

#[test]
fn what_names_no_resource_is_refused_and_claims_nothing() {
    let sources = [
        json!([{ "header": "x-resource" }]),
        json!([{ "header": "x-resource" }, { "query": "part" }]),
        json!([{ "any": [{ "header": "x-resource" }, { "json": "/sku" }] }]),
    ];
    let heads: [&[(&str, &str)]; 5] = [
        &[KEY, ME],
        &[KEY, ME, ("x-resource", "")],
        &[KEY, ME, ("x-resource", "a"), ("x-resource", "b")],
        &[KEY, ME, ("x-resource", "a, b")],
        &[KEY, ME, ("x-resource", "\"a")],
    ];
    for sources in sources {
        for head in heads {
            let mut exchange = exchange(&json!({ "serialize": { "sources": sources } }), true);
            let first = request(head).to(&mut exchange);
            let step = if matches!(first.flow, Flow::Hold) { body(&mut exchange, b"{}", true) } else { first };
            assert_eq!(refusal(&step), Some("key-invalid"), "{sources} of {head:?}");
            assert_eq!(step.commands, [], "{sources} of {head:?}");
        }
    }
}

#[test]
fn a_resource_in_a_body_is_read_there_and_a_body_that_cannot_be_read_names_none() {
    let policy = json!({ "serialize": { "sources": [{ "json": "/sku" }] } });
    let names = [br#"{"sku": "7"}"#.as_slice(), br#"{"sku": 7, "more": true}"#].map(|text| {
        let mut exchange = exchange(&policy, true);
        let _ = request(&[KEY, ME]).to(&mut exchange);
        let step = body(&mut exchange, text, true);
        assert!(matches!(step.commands[0].kind, CommandKind::Claim { .. }), "{step:?}");
        lock_of(granted(&mut exchange, 1)).name
    });
    assert_eq!(names[0], names[1], "a text and a whole number of the same digits are one resource");
    for text in [br#"{"sku""#.as_slice(), b"", br#"{"sku": null}"#, br#"{"sku": {}}"#, br#"{"sku": ""}"#] {
        let mut exchange = exchange(&policy, true);
        let _ = request(&[KEY, ME]).to(&mut exchange);
        assert_eq!(refusal(&body(&mut exchange, text, true)), Some("key-invalid"), "{}", text.escape_ascii());
    }
}

#[test]
fn the_lock_is_asked_for_once_the_claim_is_granted_and_before_the_request_goes_on() {
    let mut exchange = exchange(&json!({}), true);
    let claim = request(&[KEY, ME, IT, ("idempotency-fence", "99")]).whole(&mut exchange);
    assert_eq!((claim.flow, claim.commands.len()), (Flow::Hold, 1));
    let step = granted(&mut exchange, 1);
    assert_eq!(step.flow, Flow::Hold);
    let lock = lock_of(step);
    assert_eq!((lock.owner, lock.kind), (claim.commands[0].owner, CommandKind::Lock(LockCommand::Lock)));
    assert_ne!(lock.name, claim.commands[0].name);
    let Flow::Resume(edits) = told(&mut exchange, ReplyKind::Lock, StoreReply::Locked { fence: 41 }).flow else {
        panic!("it goes on")
    };
    let fences: Vec<_> = edits.iter().filter(|edit| format!("{edit:?}").contains("idempotency-fence")).collect();
    assert_eq!(
        fences,
        [&HeaderMutation::Remove("idempotency-fence"), &HeaderMutation::Set("idempotency-fence", b"41".to_vec())]
    );
}

#[test]
fn a_store_that_fails_at_the_lock_refuses_also_under_forward_and_takes_back_what_it_may_have_granted() {
    for failure in [Failure::Timeout, Failure::Breaker, Failure::Corrupt] {
        let expected = [CommandKind::Withdraw, CommandKind::Lock(LockCommand::Unlock { fence: None })];
        let mut exchange = exchange(&json!({ "on_store_failure": "forward" }), true);
        let _ = request(&[KEY, ME, IT]).whole(&mut exchange);
        let _ = granted(&mut exchange, 1);
        let step = told(&mut exchange, ReplyKind::Lock, StoreReply::Failed(failure));
        assert_eq!(refusal(&step), Some("store-unavailable"), "{failure:?}");
        assert_eq!(kinds(step), expected, "{failure:?}");
    }
}

#[test]
fn a_client_that_goes_before_its_lock_is_granted_takes_both_back() {
    let mut exchange = exchange(&json!({}), true);
    let _ = request(&[KEY, ME, IT]).whole(&mut exchange);
    let _ = granted(&mut exchange, 1);
    let kind = EventKind::Closed { origin: Default::default(), status: None };
    let step = exchange.handle(Event { clock: &Clock::at(3), kind });
    assert_eq!(kinds(step), [CommandKind::Withdraw, CommandKind::Lock(LockCommand::Unlock { fence: None })]);
}

#[test]
fn a_lock_that_was_granted_too_long_ago_is_asked_for_again_and_never_run_on() {
    let mut exchange = exchange(&json!({ "lease_ms": 1000 }), true);
    let _ = request(&[KEY, ME, IT]).whole(&mut exchange);
    let _ = granted(&mut exchange, 1);
    let step = told_at(900, &mut exchange, ReplyKind::Lock, StoreReply::Locked { fence: 41 });
    // The claim is as old.
    assert_eq!((step.flow.clone(), kinds(step)), (Flow::Hold, vec![CommandKind::Renew]));
    let step = told_at(901, &mut exchange, ReplyKind::Renew, StoreReply::Renewed { expires_ms: 9 });
    assert_eq!((step.flow.clone(), kinds(step)), (Flow::Hold, vec![CommandKind::Lock(LockCommand::Lock)]));
    let step = told_at(902, &mut exchange, ReplyKind::Lock, StoreReply::Busy { wait_ms: 500 });
    assert_eq!(step.flow, Flow::Hold);
    assert_eq!(exchange.waits_for(), exchange.awaits_lock());
    assert!(exchange.waits_for().is_some());
}

#[test]
fn who_waits_renews_its_claim_and_is_refused_when_the_wait_is_over() {
    let mut exchange = exchange(&json!({ "lease_ms": 3000 }), true);
    let _ = request(&[KEY, ME, IT]).whole(&mut exchange);
    let _ = granted(&mut exchange, 1);
    let _ = told(&mut exchange, ReplyKind::Lock, StoreReply::Busy { wait_ms: 3000 });
    let mut asked = Vec::new();
    let mut refused_ms = None;
    for now_ms in (100..8000).step_by(100) {
        let kind = EventKind::Tick { owner: Owner([9; 16]) };
        let step = exchange.handle(Event { clock: &Clock::at(now_ms), kind });
        if let Some(slug) = refusal(&step) {
            let taken_back = [CommandKind::Withdraw, CommandKind::Lock(LockCommand::Unlock { fence: None })];
            assert_eq!((slug, kinds(step)), ("resource-busy", taken_back.to_vec()));
            refused_ms = Some(now_ms);
            break;
        }
        for kind in kinds(step) {
            let (of, reply) = match kind {
                CommandKind::Renew => (ReplyKind::Renew, StoreReply::Renewed { expires_ms: 9 }),
                _ => (ReplyKind::Lock, StoreReply::Busy { wait_ms: 3000 }),
            };
            asked.push((now_ms, kind));
            let _ = told_at(now_ms, &mut exchange, of, reply);
        }
    }
    assert_eq!(refused_ms, Some(4100));
    let renewals: Vec<_> = asked.iter().filter(|(_, kind)| *kind == CommandKind::Renew).map(|(at, _)| *at).collect();
    assert_eq!(renewals, [1100, 2100, 3100]);
    assert_eq!(asked.len() - renewals.len(), 40, "each tick asks for the lock");
}

#[test]
fn while_it_runs_the_lock_is_renewed_with_the_claim_and_let_go_of_once_the_outcome_is_heard() {
    let mut exchange = running(1000);
    let kind = EventKind::Tick { owner: Owner([9; 16]) };
    let renewal = kinds(exchange.handle(Event { clock: &Clock::at(400), kind }));
    assert_eq!(renewal, [CommandKind::Renew, CommandKind::Lock(LockCommand::Renew { fence: 41 })]);
    let outcome = kinds(respond(&mut exchange, 404));
    assert_eq!(outcome, [CommandKind::Release { keep_fingerprint: false }]);
    let heard = told(&mut exchange, ReplyKind::Settle, StoreReply::Settled);
    assert!(matches!(heard.flow, Flow::Resume(_)), "the client does not wait for it");
    assert_eq!(kinds(heard), [CommandKind::Lock(LockCommand::Unlock { fence: Some(41) })]);
    assert!(!exchange.is_running());
    let _ = told(&mut exchange, ReplyKind::Unlock, StoreReply::Settled);
    assert!(exchange.is_done());
}

#[test]
fn a_lock_stands_after_an_outcome_that_is_unknown_or_that_the_store_has_not_heard_of() {
    let mut unknown = running(1000);
    let marked = kinds(respond(&mut unknown, 504));
    assert_eq!(marked, [CommandKind::MarkUnknown]);
    assert_eq!(kinds(told(&mut unknown, ReplyKind::Mark, StoreReply::Settled)), []);
    assert!(unknown.is_done());
    let mut unheard = running(1000);
    let _ = respond(&mut unheard, 404);
    assert_eq!(kinds(told(&mut unheard, ReplyKind::Settle, StoreReply::Failed(Failure::Timeout))), []);
    assert!(unheard.is_done());
}

#[test]
fn a_lock_that_another_took_meanwhile_is_told_once_and_not_let_go_of() {
    let mut renewed = running(1000);
    let kind = EventKind::Tick { owner: Owner([9; 16]) };
    let _ = renewed.handle(Event { clock: &Clock::at(400), kind });
    let lost = told(&mut renewed, ReplyKind::RenewLock, StoreReply::Lost);
    let said = lost.log_event.expect("it is logged").to_string();
    assert!(said.contains("Idempotency-Fence"), "{said}");
    let _ = respond(&mut renewed, 404);
    assert_eq!(kinds(told(&mut renewed, ReplyKind::Settle, StoreReply::Settled)), []);
    let mut ended = running(1000);
    let _ = respond(&mut ended, 404);
    let _ = told(&mut ended, ReplyKind::Settle, StoreReply::Settled);
    let lost = told(&mut ended, ReplyKind::Unlock, StoreReply::Lost);
    assert_eq!(lost.log_event.map(|event| event.to_string()), Some(said));
}

#[test]
fn a_lock_is_renewed_on_though_another_has_claimed_the_key() {
    let mut exchange = running(1000);
    let tick = |exchange: &mut Exchange, now_ms| {
        let kind = EventKind::Tick { owner: Owner([9; 16]) };
        kinds(exchange.handle(Event { clock: &Clock::at(now_ms), kind }))
    };
    assert_eq!(tick(&mut exchange, 400).len(), 2);
    let _ = told_at(401, &mut exchange, ReplyKind::Renew, StoreReply::Lost);
    let _ = told_at(401, &mut exchange, ReplyKind::RenewLock, StoreReply::Locked { fence: 41 });
    assert_eq!(tick(&mut exchange, 800), [CommandKind::Lock(LockCommand::Renew { fence: 41 })]);
}

fn inject(kind: &str) -> Value {
    json!({ "key": { "required": false, "inject": { "kind": kind } } })
}

fn exchange(policy: &Value, is_serialized: bool) -> Exchange {
    let mut whole = json!({ "key": { "required": true } });
    if is_serialized {
        whole["serialize"] = json!({ "sources": [{ "header": "x-resource" }], "max_wait_ms": 4000 });
    }
    merge(&mut whole, policy);
    let document = json!({ "rules": [{ "match": { "methods": ["POST", "CONNECT"] }, "policy": whole }] }).to_string();
    let config = Config::parse(document.as_bytes(), &|_| None).unwrap_or_else(|error| panic!("{error}"));
    Exchange::new(Rc::clone(&config.rules[0].policy), Rc::default())
}

fn merge(whole: &mut Value, more: &Value) {
    for (name, value) in more.as_object().into_iter().flatten() {
        match value {
            Value::Object(_) if whole[name].is_object() => merge(&mut whole[name], value),
            _ => whole[name] = value.clone(),
        }
    }
}

/// One that runs under the fence 41.
fn running(lease_ms: u64) -> Exchange {
    let mut exchange = exchange(&json!({ "lease_ms": lease_ms }), true);
    let _ = request(&[KEY, ME, IT]).whole(&mut exchange);
    let _ = granted(&mut exchange, 1);
    let step = told(&mut exchange, ReplyKind::Lock, StoreReply::Locked { fence: 41 });
    assert!(matches!(step.flow, Flow::Resume(_)));
    exchange
}

struct Sent(RequestHead);

fn request(fields: &[(&str, &str)]) -> Sent {
    let method = fields.iter().find(|(name, _)| *name == ":method").map_or("POST", |(_, method)| method);
    let pseudo = [(":method", method), (":path", "/pay"), (":authority", "api")];
    let others = fields.iter().filter(|(name, _)| *name != ":method");
    Sent(RequestHead { headers: pseudo.iter().chain(others).copied().collect() })
}

impl Sent {
    /// Its head comes, with a body to come.
    fn to(&self, exchange: &mut Exchange) -> Step {
        self.with_end(exchange, false)
    }

    /// It comes without a body.
    fn whole(&self, exchange: &mut Exchange) -> Step {
        self.with_end(exchange, true)
    }

    fn with_end(&self, exchange: &mut Exchange, end: bool) -> Step {
        let (owner, upstream_key) = (Owner([1; 16]), UpstreamKey([2; 16]));
        let kind = EventKind::RequestHeaders { head: &self.0, attribute: &|_| None, owner, upstream_key, end };
        exchange.handle(Event { clock: &Clock::at(1), kind })
    }
}

fn body(exchange: &mut Exchange, chunk: &[u8], end: bool) -> Step {
    piece(exchange, chunk, end, false)
}

fn piece(exchange: &mut Exchange, chunk: &[u8], end: bool, overloaded: bool) -> Step {
    let kind = EventKind::RequestBody { attribute: &|_| None, chunk, overloaded, end, trailers: false };
    exchange.handle(Event { clock: &Clock::at(1), kind })
}

fn granted(exchange: &mut Exchange, attempt: u32) -> Step {
    let reply = StoreReply::Granted { attempt, doubt: false, key: KeyForm::Bare, expires_ms: 9 };
    told(exchange, ReplyKind::Claim, reply)
}

fn told(exchange: &mut Exchange, asked: ReplyKind, reply: StoreReply) -> Step {
    told_at(2, exchange, asked, reply)
}

fn told_at(now_ms: u64, exchange: &mut Exchange, asked: ReplyKind, reply: StoreReply) -> Step {
    let kind = EventKind::StoreReplied { asked, reply, may_wait: true };
    exchange.handle(Event { clock: &Clock::at(now_ms), kind })
}

fn respond(exchange: &mut Exchange, status: u16) -> Step {
    let origin =
        envoy_idempotency::evidence::Origin { details: b"via_upstream", attempts: Some(1), ..Default::default() };
    let headers = Default::default();
    let kind = EventKind::ResponseHeaders { headers: &headers, status, origin, end: true };
    exchange.handle(Event { clock: &Clock::at(500), kind })
}

fn refusal(step: &Step) -> Option<&'static str> {
    step.counts.iter().find_map(|count| match count {
        envoy_idempotency::count::Count::Refused(problem) => Some(problem.as_str()),
        _ => None,
    })
}

fn kinds(step: Step) -> Vec<CommandKind> {
    step.commands.into_iter().map(|command| command.kind).collect()
}

fn lock_of(step: Step) -> Command {
    step.commands.into_iter().find(|command| !command.is_of_operation()).expect("it asks for a lock")
}

fn nothing(_: &mut Exchange, step: Step) -> Step {
    step
}

fn long(exchange: &mut Exchange, _: Step) -> Step {
    body(exchange, b"more than four", false)
}

fn hidden(exchange: &mut Exchange, _: Step) -> Step {
    exchange.handle(Event { clock: &Clock::at(1), kind: EventKind::BodyUnavailable })
}

fn crowded(exchange: &mut Exchange, _: Step) -> Step {
    piece(exchange, &[b'x'; 20 << 10], false, true)
}

fn refused_claim(exchange: &mut Exchange, _: Step) -> Step {
    let _ = body(exchange, b"x", true);
    told(exchange, ReplyKind::Claim, StoreReply::Failed(Failure::Breaker))
}

fn doubtful_claim(exchange: &mut Exchange, _: Step) -> Step {
    let _ = body(exchange, b"x", true);
    told(exchange, ReplyKind::Claim, StoreReply::Failed(Failure::Timeout))
}

fn stale_claim(exchange: &mut Exchange, _: Step) -> Step {
    let _ = body(exchange, b"x", true);
    let reply = StoreReply::Granted { attempt: 1, doubt: false, key: KeyForm::Bare, expires_ms: 9 };
    let _ = told_at(100_000, exchange, ReplyKind::Claim, reply);
    told_at(100_001, exchange, ReplyKind::Renew, StoreReply::Failed(Failure::Timeout))
}
