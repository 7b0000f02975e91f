//! Keys that the gateway issues: what they are bound to, how long they last, and what their records are told.
//!
//! Its one rule: a key is asked for as a client asks for it, and judged by what the machine asks of the store.

use std::rc::Rc;

use envoy_idempotency::command::{Command, CommandKind, Failure, ReplyKind, StoreReply};
use envoy_idempotency::config::Config;
use envoy_idempotency::event::{Clock, Event, EventKind};
use envoy_idempotency::evidence::Origin;
use envoy_idempotency::exchange::{Exchange, Secrets};
use envoy_idempotency::key::{KeyForm, UpstreamKey};
use envoy_idempotency::look_up;
use envoy_idempotency::message::{Headers, RequestHead};
use envoy_idempotency::record::Owner;
use envoy_idempotency::reply::Reply;
use envoy_idempotency::step::{Flow, Step};
use serde_json::{Value, json};

#[test]
fn a_key_counts_under_the_rule_and_in_the_store_that_it_was_issued_for() {
    let gateway = Gateway::new(&document(json!({})));
    let key = gateway.issue("/pay", "alice", NOON_S);
    assert_eq!(gateway.judged("/pay", "alice", &key, NOON_S), "claim");
    assert_eq!(gateway.judged("/pay", "bob", &key, NOON_S), "issued to another caller");
    assert_eq!(gateway.judged("/refund", "alice", &key, NOON_S), "issued under another rule");
    assert_eq!(gateway.judged("/pay", "alice", "order-1001", NOON_S), "this is none");
    let others = [
        Gateway::new(&document(json!({ "store": { "type": "redis", "cluster": "c", "prefix": "other:" } }))),
        Gateway::new(&document(json!({ "secrets": { "issuing": [secret("2", OTHER_SECRET)] } }))),
    ];
    for other in others {
        assert_eq!(other.judged("/pay", "alice", &key, NOON_S), "altered");
    }
    let embedded = document(json!({ "store": { "type": "local" } }));
    let key = Gateway::in_plugin(&embedded, b"one").issue("/pay", "alice", NOON_S);
    assert_eq!(Gateway::in_plugin(&embedded, b"one").judged("/pay", "alice", &key, NOON_S), "claim");
    assert_eq!(Gateway::in_plugin(&embedded, b"two").judged("/pay", "alice", &key, NOON_S), "altered");
}

#[test]
fn no_alteration_of_a_key_counts() {
    let gateway = Gateway::new(&document(json!({})));
    let key = gateway.issue("/pay", "alice", NOON_S);
    assert_eq!(key.len(), 76);
    for place in 0..key.len() {
        for letter in ["A", "B", "-", "9"] {
            let altered = [&key[..place], letter, &key[place + 1..]].concat();
            let is_same = altered == key;
            let judged = gateway.judged("/pay", "alice", &altered, NOON_S);
            assert!(is_same || judged == "altered" || judged == "this is none", "{altered}: {judged}");
        }
    }
    for altered in [key[..72].to_owned(), format!("{key}AAAA"), format!("{key}=")] {
        assert_eq!(gateway.judged("/pay", "alice", &altered, NOON_S), "this is none");
    }
}

#[test]
fn two_keys_of_one_caller_have_nothing_in_common_but_their_time() {
    let gateway = Gateway::new(&document(json!({})));
    let [one, two] = [1, 2].map(|random| gateway.issue_from("/pay", "alice", NOON_S, random));
    // Version and time are nine bytes, which are twelve letters.
    assert_eq!(one[..12], two[..12]);
    let same = one[12..].bytes().zip(two[12..].bytes()).filter(|(one, two)| one == two).count();
    assert!(same < 16, "{same} of 64 letters are the same: {one} {two}");
}

#[test]
fn clocks_may_be_a_minute_apart() {
    let gateway = Gateway::new(&document(json!({})));
    let key = gateway.issue("/pay", "alice", NOON_S);
    let judged = |at_s: u64| gateway.judged("/pay", "alice", &key, at_s);
    assert_eq!(judged(NOON_S - 61), "ahead of this gateway's clock");
    assert_eq!(judged(NOON_S - 60), "claim");
    assert_eq!(judged(NOON_S + 1859), "claim");
    assert_eq!(judged(NOON_S + 1860), "claim of what has begun");
    let brief = Gateway::new(&document(json!({ "issued_ttl_s": 50 })));
    let key = brief.issue("/pay", "alice", NOON_S);
    assert_eq!(brief.judged("/pay", "alice", &key, NOON_S + 54), "claim");
    assert_eq!(brief.judged("/pay", "alice", &key, NOON_S + 55), "claim of what has begun");
    // The embedded store has one clock.
    let embedded = Gateway::new(&document(json!({ "store": { "type": "local" } })));
    let key = embedded.issue("/pay", "alice", NOON_S);
    assert_eq!(embedded.judged("/pay", "alice", &key, NOON_S + 1799), "claim");
    assert_eq!(embedded.judged("/pay", "alice", &key, NOON_S + 1800), "claim of what has begun");
}

#[test]
fn the_record_of_an_issued_key_lives_at_least_as_long_as_the_key() {
    let gateway = Gateway::new(&document(json!({ "policy": { "ttl_s": 1800 } })));
    let key = gateway.issue("/pay", "alice", NOON_S);
    let (mut exchange, step) = gateway.pays("/pay", "alice", &key, NOON_S + 600);
    // For the 1200 s that are left, and as long as a gateway whose clock is behind takes it.
    assert_eq!(only(&step).ttl_ms, 1_800_000);
    let granted = StoreReply::Granted { attempt: 1, doubt: false, key: KeyForm::Bare, expires_ms: 1 };
    let _ = tell(&mut exchange, ReplyKind::Claim, granted);
    let headers = [(":status", "201"), ("idempotency-ttl", "5")].into_iter().collect();
    let completes = responds(&mut exchange, &headers);
    assert_eq!(only(&completes).ttl_ms, 1_320_000);
    let step = tell(&mut exchange, ReplyKind::Settle, StoreReply::Settled);
    assert_eq!(
        step.status.as_deref().map(|line| line.split(";operation").next()),
        Some(Some("executed;stored=?1;attempt=1;ttl=1320"))
    );
}

#[test]
fn an_expired_key_begins_nothing_also_where_a_failing_store_lets_requests_through() {
    let gateway = Gateway::new(&document(json!({ "policy": { "on_store_failure": "forward" } })));
    let key = gateway.issue("/pay", "alice", NOON_S);
    let late = || gateway.pays("/pay", "alice", &key, NOON_S + 3600);
    let (mut exchange, step) = late();
    assert!(!only(&step).may_begin);
    assert_eq!(refusal(&tell(&mut exchange, ReplyKind::Claim, StoreReply::Seen(None))), Some((400, "has expired")));
    for (failure, withdrawals) in [(Failure::Timeout, 1), (Failure::Breaker, 0)] {
        let (mut exchange, _) = late();
        let step = tell(&mut exchange, ReplyKind::Claim, StoreReply::Failed(failure));
        assert_eq!(refusal(&step).map(|(status, _)| status), Some(503), "{failure:?}");
        assert_eq!(step.commands.len(), withdrawals);
        assert!(step.commands.iter().all(|command| command.kind == CommandKind::Withdraw && !command.may_begin));
    }
}

#[test]
fn an_expired_key_never_goes_unprotected_because_of_its_body() {
    let policy = json!({ "on_store_failure": "forward", "on_too_large": "bypass", "max_request_bytes": 40_000 });
    let gateway = Gateway::new(&document(json!({ "policy": policy })));
    let key = gateway.issue("/pay", "alice", NOON_S);
    for (at_s, is_refused) in [(NOON_S, false), (NOON_S + 3600, true)] {
        for (size, overloaded, status) in [(30_000, true, 503), (50_000, false, 413)] {
            let (mut exchange, _) = gateway.begins("/pay", "alice", &key, &time(at_s), false);
            let chunk = &vec![b'x'; size];
            let kind = EventKind::RequestBody { attribute: &|_| None, chunk, overloaded, end: false, trailers: false };
            let step = exchange.handle(Event { clock: &Clock::at(0), kind });
            assert_eq!(refusal(&step).map(|(status, _)| status), is_refused.then_some(status), "{:?}", step.flow);
        }
    }
}

#[test]
fn a_host_that_tells_no_time_begins_nothing() {
    let gateway = Gateway::new(&document(json!({})));
    let key = gateway.issue("/pay", "alice", NOON_S);
    let (_, step) = gateway.asks("/pay", "alice", &key, &|_| None);
    assert!(!only(&step).may_begin);
}

/// Seconds since 1970.
const NOON_S: u64 = 1_800_000_000;
const SECRET: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
const OTHER_SECRET: &str = "ZmVkY2JhOTg3NjU0MzIxMGZlZGNiYTk4NzY1NDMyMTA=";

fn secret(id: &str, key: &str) -> Value {
    json!({ "id": id, "key": key })
}

/// Two rules on Redis that take issued keys only, and these members instead.
fn document(members: Value) -> String {
    let rule = |name: &str| json!({ "name": name, "match": { "path": { "exact": format!("/{name}") } } });
    let mut document = json!({
        "store": { "type": "redis", "cluster": "c" },
        "secrets": { "issuing": [secret("1", SECRET)] },
        "issue_path": "/keys",
        "policy": { "key": { "issued": "required" } },
        "rules": [rule("pay"), rule("refund")],
    });
    for (name, value) in members.as_object().into_iter().flatten() {
        match (name.as_str(), value.as_object()) {
            ("policy", Some(fields)) => document[name].as_object_mut().unwrap().extend(fields.clone()),
            _ => document[name] = value.clone(),
        }
    }
    document.to_string()
}

struct Gateway {
    config: Config,
    secrets: Rc<Secrets>,
}

impl Gateway {
    fn new(document: &str) -> Self {
        Gateway::in_plugin(document, b"idempotency")
    }

    fn in_plugin(document: &str, plugin: &[u8]) -> Self {
        let config = Config::parse(document.as_bytes(), &|_| None).unwrap();
        let secrets = Rc::new(Secrets::new(&config, plugin));
        Gateway { config, secrets }
    }

    fn issue(&self, path: &str, caller: &str, at_s: u64) -> String {
        self.issue_from(path, caller, at_s, 7)
    }

    /// Asks for a key, as a client does.
    fn issue_from(&self, path: &str, caller: &str, at_s: u64, random: u8) -> String {
        let head = head("POST", &format!("/keys?method=POST&path={path}"), caller, None);
        let (time, owner, random) = (time(at_s), Owner([1; 16]), UpstreamKey([random; 16]));
        let begun = look_up::begin(&self.config, &self.secrets, &head, &time, &|_, _| None, owner, random);
        let mut exchange = begun.unwrap_or_else(|reply| panic!("{}", String::from_utf8_lossy(&reply.body)));
        let step = ask(&mut exchange, &head, &time, true);
        let Flow::LocalReply(reply) = step.flow else { panic!("{:?}", step.flow) };
        let answer: Value = serde_json::from_slice(&reply.body).unwrap();
        assert_eq!((reply.status, answer["expires_in"].as_u64()), (201, Some(self.config.issued_ttl_s)));
        answer["key"].as_str().unwrap().to_owned()
    }

    /// A request with this key: the exchange, and the step after the request's head.
    fn pays(&self, path: &str, caller: &str, key: &str, at_s: u64) -> (Exchange, Step) {
        self.asks(path, caller, key, &time(at_s))
    }

    fn asks(
        &self,
        path: &str,
        caller: &str,
        key: &str,
        attribute: &dyn Fn(&[&str]) -> Option<Vec<u8>>,
    ) -> (Exchange, Step) {
        self.begins(path, caller, key, attribute, true)
    }

    fn begins(
        &self,
        path: &str,
        caller: &str,
        key: &str,
        attribute: &dyn Fn(&[&str]) -> Option<Vec<u8>>,
        end: bool,
    ) -> (Exchange, Step) {
        let head = head("POST", path, caller, Some(key));
        let policy = &self.config.rule_for(&head, &|_, _| None).unwrap().policy;
        let mut exchange = Exchange::new(Rc::clone(policy), Rc::clone(&self.secrets));
        let step = ask(&mut exchange, &head, attribute, end);
        (exchange, step)
    }

    /// What becomes of a request with this key, in a few words.
    fn judged(&self, path: &str, caller: &str, key: &str, at_s: u64) -> &'static str {
        let (_, step) = self.pays(path, caller, key, at_s);
        match refusal(&step) {
            Some((status, why)) => {
                assert_eq!(status, 400);
                why
            }
            None if only(&step).may_begin => "claim",
            None => "claim of what has begun",
        }
    }
}

fn head(method: &str, target: &str, caller: &str, key: Option<&str>) -> RequestHead {
    let caller = format!("Bearer {caller}");
    let fields = [(":method", method), (":path", target), (":authority", "api"), ("authorization", &caller)];
    RequestHead { headers: fields.into_iter().chain(key.map(|key| ("idempotency-key", key))).collect() }
}

/// What Envoy tells of the time at which a request began.
fn time(at_s: u64) -> impl Fn(&[&str]) -> Option<Vec<u8>> {
    let nanoseconds = (1_000_000_000 * at_s + 999).to_le_bytes();
    move |path| (path == ["request", "time"]).then(|| nanoseconds.to_vec())
}

fn ask(exchange: &mut Exchange, head: &RequestHead, attribute: &dyn Fn(&[&str]) -> Option<Vec<u8>>, end: bool) -> Step {
    let (owner, upstream_key) = (Owner([1; 16]), UpstreamKey([2; 16]));
    let kind = EventKind::RequestHeaders { head, attribute, owner, upstream_key, end };
    exchange.handle(Event { clock: &Clock::at(0), kind })
}

fn tell(exchange: &mut Exchange, asked: ReplyKind, reply: StoreReply) -> Step {
    exchange.handle(Event { clock: &Clock::at(0), kind: EventKind::StoreReplied { asked, reply, may_wait: false } })
}

fn responds(exchange: &mut Exchange, headers: &Headers) -> Step {
    let origin = Origin { details: b"via_upstream", attempts: Some(1), ..Origin::default() };
    let kind = EventKind::ResponseHeaders { headers, status: 201, origin, end: true };
    exchange.handle(Event { clock: &Clock::at(0), kind })
}

#[track_caller]
fn only(step: &Step) -> &Command {
    assert_eq!(step.commands.len(), 1, "{:?}", step.flow);
    &step.commands[0]
}

/// The status of a refusal, and what its detail says of the key.
fn refusal(step: &Step) -> Option<(u16, &'static str)> {
    let Flow::LocalReply(reply) = &step.flow else { return None };
    let Reply { status, body, .. } = &**reply;
    let detail = String::from_utf8_lossy(body).into_owned();
    let known = [
        "issued to another caller",
        "issued under another rule",
        "this is none",
        "altered",
        "ahead of this gateway's clock",
        "has expired",
    ];
    Some((*status, known.into_iter().find(|known| detail.contains(known)).unwrap_or("nothing of the key")))
}
