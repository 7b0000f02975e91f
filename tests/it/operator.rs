//! The operator plugin without Envoy: who counts as an operator, what he may ask, and what he is answered.
//!
//! Its one rule: a request goes in as bytes, and what comes out is what the operator would read.
//! It does not know stores; `tests/it/resolution.rs` has what his word makes of a record.

use std::rc::Rc;

use envoy_idempotency::command::{Command, CommandKind, Failure, ReplyKind, Resolution, StoreReply};
use envoy_idempotency::config::{Config, Document, Operator};
use envoy_idempotency::event::{Clock, Event, EventKind};
use envoy_idempotency::exchange::Exchange;
use envoy_idempotency::fingerprint::Fingerprint;
use envoy_idempotency::key::{KeyForm, Name, UpstreamKey};
use envoy_idempotency::message::RequestHead;
use envoy_idempotency::operator::{self, Operation, Word};
use envoy_idempotency::record::{Owner, RecordStatus, RecordSummary};
use envoy_idempotency::reply::Reply;
use envoy_idempotency::step::{Flow, LogEvent, Search, Step};
use envoy_idempotency::store::local::Table;
use host_model::SharedData;
use serde_json::{Value, json};

const TOKEN: &str = "s3cret-token";
const NAME: Name = Name([0xab; 32]);

fn document(store: &str) -> (Operator, Config) {
    let text = format!(r#"{{"operator": {{"path": "/operations/", "token": {{"env": "TOKEN"}}}}, "store": {store}}}"#);
    match Document::parse(text.as_bytes(), &|name| (name == "TOKEN").then(|| TOKEN.to_owned())) {
        Ok(Document::Operator(operator, config)) => (operator, *config),
        Ok(_) => panic!("it is an operator's"),
        Err(error) => panic!("{error}"),
    }
}

const LOCAL: &str = "{}";
const REDIS: &str = r#"{"type": "redis", "cluster": "resp"}"#;

/// What becomes of a request; none where it is about something else.
fn asked(
    store: &str,
    method: &str,
    path: &str,
    authorization: &[&str],
    is_empty: bool,
) -> Option<Result<Exchange, Reply>> {
    let (operator, config) = document(store);
    let mut head = RequestHead { headers: [(":method", method), (":path", path)].into_iter().collect() };
    authorization.iter().for_each(|value| head.headers.push(b"authorization", value.as_bytes()));
    let policy = Rc::clone(&config.rules[0].policy);
    let asked = operator::asked(&operator, &config, &head, is_empty)?;
    Some(asked.map(|asked| Exchange::operating(policy, Rc::default(), asked, Owner([1; 16]))))
}

fn refusal(store: &str, method: &str, path: &str) -> (u16, String) {
    let reply = asked(store, method, path, &[&format!("Bearer {TOKEN}")], false).expect("it is about operations");
    let reply = reply.err().expect("it is refused");
    (reply.status, detail(&reply))
}

fn detail(reply: &Reply) -> String {
    body(reply)["detail"].as_str().unwrap_or_default().to_owned()
}

fn body(reply: &Reply) -> Value {
    serde_json::from_slice(&reply.body).expect("it is JSON")
}

fn begun(store: &str, method: &str, path: &str) -> Exchange {
    let reply = asked(store, method, path, &[&format!("Bearer {TOKEN}")], false).expect("it is about operations");
    reply.unwrap_or_else(|reply| panic!("{}", detail(&reply)))
}

fn feed(exchange: &mut Exchange, kind: EventKind<'_>) -> Step {
    exchange.handle(Event { clock: &Clock::at(1000), kind })
}

fn head(exchange: &mut Exchange, end: bool) -> Step {
    let head = RequestHead::default();
    let (owner, upstream_key) = (Owner([2; 16]), UpstreamKey([0; 16]));
    feed(exchange, EventKind::RequestHeaders { head: &head, attribute: &|_| None, owner, upstream_key, end })
}

fn say(exchange: &mut Exchange, chunk: &[u8], end: bool) -> Step {
    feed(exchange, EventKind::RequestBody { attribute: &|_| None, chunk, overloaded: false, end, trailers: false })
}

fn hear(exchange: &mut Exchange, asked: ReplyKind, reply: StoreReply) -> Step {
    feed(exchange, EventKind::StoreReplied { asked, reply, may_wait: false })
}

fn reply(step: &Step) -> &Reply {
    match &step.flow {
        Flow::LocalReply(reply) => reply,
        other => panic!("{other:?}"),
    }
}

fn at(rest: &str) -> String {
    format!("/operations/{}{rest}", NAME.hex())
}

#[test]
fn only_the_token_opens_and_what_is_there_is_not_told_without_it() {
    for store in [LOCAL, REDIS] {
        for path in [at(""), at("/resolve"), "/operations".to_owned(), "/operations/nonsense/x/y".to_owned()] {
            for given in [
                &[][..],
                &["Bearer wrong"],
                &["Bearer "],
                &["Bearer"],
                &[TOKEN],
                &["Basic s3cret-token"],
                &["Bearer s3cret-toke"],
                &["Bearer s3cret-token2"],
                &["Bearer S3CRET-TOKEN"],
                &["Bearer s3cret-token", "Bearer wrong"],
            ] {
                let reply = asked(store, "GET", &path, given, true).expect("it is about operations");
                let reply = reply.err().unwrap_or_else(|| panic!("{path} was let in with {given:?}"));
                assert_eq!((reply.status, reply.headers.first("www-authenticate")), (401, Some(&b"Bearer"[..])));
                assert_eq!(reply.headers.first("cache-control"), Some(&b"no-store"[..]));
            }
        }
    }
    for given in ["Bearer s3cret-token", "bearer s3cret-token", "BEARER  s3cret-token"] {
        assert!(asked(LOCAL, "GET", &at(""), &[given], false).is_some_and(|asked| asked.is_ok()), "{given}");
    }
}

#[test]
fn what_is_not_below_the_path_is_none_of_its_business() {
    for path in ["/", "/operation", "/operationsx", "/v1/operations", ""] {
        assert!(asked(LOCAL, "GET", path, &[], false).is_none(), "{path}");
    }
}

#[test]
fn hostile_requests_get_a_sentence_that_says_what_would_be_right() {
    let long = format!("/operations/{}", "a".repeat(100_000));
    for path in [
        "/operations/",
        "/operations/abc",
        "/operations/zzzzzzzzzzzz",
        "/operations/%61%62%63%64%65%66",
        "/operations/ababababababa",
        "/operations/é0é0é0",
        &long,
    ] {
        let (status, detail) = refusal(LOCAL, "GET", path);
        assert!(status == 400 && detail.contains("64 hex digits"), "{path}: {status} {detail}");
    }
    for path in ["/operations", &at("/"), &at("/delete"), &at("/resolve/now"), "/operations//resolve/x"] {
        let (status, detail) = refusal(LOCAL, "POST", path);
        assert!(status == 404 && detail.contains("/resolve"), "{path}: {status} {detail}");
    }
    for (method, path) in [("POST", at("")), ("DELETE", at("")), ("GET", at("/resolve")), ("PUT", at("/forget"))] {
        assert_eq!(refusal(LOCAL, method, &path).0, 405, "{method} {path}");
    }
    let (status, detail) = refusal(REDIS, "GET", "/operations/abababababab");
    assert!(status == 400 && detail.contains("idempotencyctl list"), "{status} {detail}");
}

#[test]
fn an_empty_table_is_said_and_not_answered_as_absent() {
    let reply = asked(LOCAL, "GET", &at(""), &[&format!("Bearer {TOKEN}")], true).expect("it is about operations");
    let reply = reply.err().expect("nothing can be told");
    assert_eq!(reply.status, 503);
    assert!(detail(&reply).contains("vm_id, plugin name and store.max_bytes"), "{}", detail(&reply));
    assert!(asked(REDIS, "GET", &at(""), &[&format!("Bearer {TOKEN}")], false).is_some_and(|asked| asked.is_ok()));
}

#[test]
fn an_operation_is_looked_at() {
    let mut exchange = begun(REDIS, "GET", &at(""));
    let step = head(&mut exchange, true);
    assert_eq!((step.flow, step.commands[0].name, &step.commands[0].kind), (Flow::Hold, NAME, &CommandKind::Inspect));
    let seen = RecordSummary { attempt: 2, standing: RecordStatus::Unknown, ttl_ms: 60_500 };
    let step = hear(&mut exchange, ReplyKind::Inspect, StoreReply::Seen(Some(seen)));
    let expected = json!({ "operation": NAME.hex(), "state": "unknown", "attempt": 2, "status": null, "ttl": 60, "remembered_s": 60 });
    assert_eq!((reply(&step).status, body(reply(&step))), (200, expected));
    let mut exchange = begun(LOCAL, "GET", &at(""));
    let _ = head(&mut exchange, true);
    let step = hear(&mut exchange, ReplyKind::Inspect, StoreReply::Seen(None));
    assert_eq!((reply(&step).status, body(reply(&step))), (404, json!({ "operation": NAME.hex(), "state": "absent" })));
}

#[test]
fn a_word_is_taken_and_what_is_known_then_is_answered_and_logged() {
    let run = |status| CommandKind::Resolve(Resolution::Ran { status });
    for (said, ttl_ms, kind) in [
        (r#"{"ran": true, "status": 201}"#, 86_400_000, run(Some(201))),
        (r#"{"ran": true, "status": 201.0, "ttl_s": 60}"#, 60_000, run(Some(201))),
        (r#"{"ran": true, "status": null}"#, 86_400_000, run(None)),
        (r#"{"ran": false, "attempt": 2}"#, 86_400_000, CommandKind::Resolve(Resolution::NotRun { attempt: 2 })),
    ] {
        let mut exchange = begun(REDIS, "POST", &at("/resolve"));
        assert_eq!(head(&mut exchange, false), Step { flow: Flow::Hold, ..Step::default() });
        let (first, rest) = said.as_bytes().split_at(5);
        assert_eq!(say(&mut exchange, first, false), Step { flow: Flow::Hold, ..Step::default() });
        let step = say(&mut exchange, rest, true);
        assert_eq!((&step.commands[0].kind, step.commands[0].ttl_ms), (&kind, ttl_ms), "{said}");
        let step = hear(&mut exchange, ReplyKind::Resolve, StoreReply::Settled);
        assert_eq!(step.commands[0].kind, CommandKind::Inspect);
        assert!(matches!(step.log_event, Some(LogEvent::Resolved(NAME, _))));
        let seen = RecordSummary { attempt: 1, standing: RecordStatus::Completed(Some(201)), ttl_ms };
        let step = hear(&mut exchange, ReplyKind::Inspect, StoreReply::Seen(Some(seen)));
        assert_eq!((reply(&step).status, &body(reply(&step))["status"]), (200, &json!(201)));
    }
    let mut exchange = begun(LOCAL, "POST", &at("/forget"));
    assert_eq!(head(&mut exchange, true).commands[0].kind, CommandKind::Resolve(Resolution::Forget));
}

#[test]
fn what_is_no_word_is_refused_before_the_store_is_asked() {
    for said in [
        "",
        "null",
        "[]",
        "{}",
        r#"{"ran": 1}"#,
        r#"{"ran": "true"}"#,
        r#"{"ran": true, "status": 99}"#,
        r#"{"ran": true, "status": 600}"#,
        r#"{"ran": true, "status": 201.5}"#,
        r#"{"ran": true, "status": "201"}"#,
        r#"{"ran": true, "status": 1e400}"#,
        r#"{"ran": true, "ttl_s": 0}"#,
        r#"{"ran": true, "ttl_s": 99999999999}"#,
        r#"{"ran": false}"#,
        r#"{"ran": false, "attempt": 0}"#,
        r#"{"ran": true, "attempt": 1}"#,
        r#"{"ran": false, "attempt": 1, "status": 201}"#,
        r#"{"ran": true, "ran": false}"#,
        r#"{"ran": true, "why": "x"}"#,
        r#"{"ran": true} x"#,
    ] {
        assert_eq!(operator::word(said.as_bytes()), None, "{said}");
        let mut exchange = begun(LOCAL, "POST", &at("/resolve"));
        let _ = head(&mut exchange, false);
        let step = say(&mut exchange, said.as_bytes(), true);
        assert_eq!((reply(&step).status, step.commands.len()), (400, 0), "{said}");
    }
    let mut exchange = begun(LOCAL, "POST", &at("/resolve"));
    assert_eq!(reply(&head(&mut exchange, true)).status, 400);
    assert_eq!(
        operator::word(br#"{"ran": false, "attempt": 1}"#),
        Some(Word { said: Resolution::NotRun { attempt: 1 }, ttl_ms: None })
    );
}

#[test]
fn a_body_over_the_bound_is_refused_whatever_is_asked() {
    for path in [at("/resolve"), at("/forget")] {
        let mut exchange = begun(LOCAL, "POST", &path);
        let _ = head(&mut exchange, false);
        let mut step = Step::default();
        for _ in 0..5 {
            step = say(&mut exchange, &[b' '; 1024], false);
        }
        assert_eq!(reply(&step).status, 413, "{path}");
    }
}

#[test]
fn a_word_that_the_record_refuses_says_why() {
    for (said, status, contains) in [
        (StoreReply::InFlight { attempt: 1 }, 409, "lease"),
        (StoreReply::Unknown { attempt: 1, wait_ms: 1500 }, 409, "lease"),
        (StoreReply::Lost, 409, "has completed"),
        (StoreReply::Failed(Failure::Timeout), 503, "say it again (timeout)"),
    ] {
        let mut exchange = begun(REDIS, "POST", &at("/resolve"));
        let _ = head(&mut exchange, false);
        let _ = say(&mut exchange, br#"{"ran": false, "attempt": 1}"#, true);
        let step = hear(&mut exchange, ReplyKind::Resolve, said.clone());
        assert_eq!(reply(&step).status, status, "{said:?}");
        assert!(detail(reply(&step)).contains(contains), "{said:?}: {}", detail(reply(&step)));
        let waits = reply(&step).headers.first("retry-after");
        assert_eq!(waits, matches!(said, StoreReply::Unknown { .. }).then_some(&b"2"[..]));
    }
    let mut exchange = begun(REDIS, "POST", &at("/forget"));
    let _ = head(&mut exchange, true);
    assert_eq!(reply(&hear(&mut exchange, ReplyKind::Resolve, StoreReply::Seen(None))).status, 404);
}

#[test]
fn twelve_digits_are_searched_for_in_steps_and_two_of_them_are_ambiguous() {
    let begin = || {
        let mut exchange = begun(LOCAL, "GET", "/operations/ABABABABABAB");
        let step = head(&mut exchange, true);
        assert_eq!((step.flow, step.search), (Flow::Hold, Some(Search { digits: [0xab; 6], from: 0 })));
        exchange
    };
    let found = |exchange: &mut Exchange, names: Vec<Name>, next| feed(exchange, EventKind::Found { names, next });
    let mut exchange = begin();
    let step = found(&mut exchange, vec![], Some(512));
    assert!(step.search.is_none() && step.wake_ms.is_some_and(|wake_ms| wake_ms > 1000));
    let step = feed(&mut exchange, EventKind::Tick { owner: Owner([3; 16]) });
    assert_eq!(step.search, Some(Search { digits: [0xab; 6], from: 512 }));
    let step = found(&mut exchange, vec![NAME], None);
    assert_eq!((step.commands[0].name, &step.commands[0].kind), (NAME, &CommandKind::Inspect));
    let mut exchange = begin();
    let _ = found(&mut exchange, vec![NAME], Some(512));
    assert_eq!(reply(&found(&mut exchange, vec![Name([0xac; 32])], Some(1024))).status, 409);
    assert_eq!(reply(&found(&mut begin(), vec![], None)).status, 404);
    let failed = hear(&mut begin(), ReplyKind::Inspect, StoreReply::Failed(Failure::Corrupt));
    assert_eq!(reply(&failed).status, 503);
    assert_eq!(operator::parse(&[b'a'; 12]), Some(Operation::Short([0xaa; 6])));
}

#[test]
fn a_search_goes_over_all_of_the_table_in_steps_and_finds_what_is_not_forgotten() {
    let table = Table::open(SharedData::default(), b"plugin", 4 << 20, 0x9e37_79b9_7f4a_7c15).expect("it opens");
    let named = |number: u8, last: u8| {
        let mut name = [0xab; 32];
        (name[5], name[6], name[31]) = (number, last.wrapping_mul(37), last);
        Name(name)
    };
    let claim = |name, ttl_ms| Command {
        name,
        owner: Owner([1; 16]),
        fingerprint: Fingerprint([7; 32]),
        attempt: 0,
        key: KeyForm::Bare,
        lease_ms: 10,
        ttl_ms,
        in_window: false,
        may_begin: true,
        deadline_ms: None,
        kind: CommandKind::Claim { may_retry: true },
    };
    for last in 0..20 {
        for (number, ttl_ms) in [(1, 1000), (2, 1000), (3, 20)] {
            assert!(matches!(table.apply(claim(named(number, last), ttl_ms), 0), StoreReply::Granted { .. }));
        }
    }
    let search = |number| {
        let (mut found, mut from, mut steps) = (Vec::new(), Some(0), 0);
        while let Some(bucket) = from {
            let (names, next) =
                table.search([0xab, 0xab, 0xab, 0xab, 0xab, number], bucket, 100).expect("it can be read");
            found.extend(names);
            (from, steps) = (next, steps + 1);
        }
        assert!(steps > 1, "the table is searched in steps");
        found.sort_by_key(|name| name.0[31]);
        found
    };
    assert_eq!(search(1), (0..20).map(|last| named(1, last)).collect::<Vec<_>>());
    assert_eq!((search(3), search(4)), (vec![], vec![]), "what has expired, and what never was");
}

#[test]
fn the_document_of_operators_names_every_mistake() {
    let read = |text: &str| match Document::parse(text.as_bytes(), &|name| (name == "BAD").then(|| "a b".to_owned())) {
        Ok(_) => panic!("{text} is right"),
        Err(error) => error.to_string(),
    };
    for (text, message) in [
        (r#"{"operator": {}}"#, "/operator: must have path"),
        (r#"{"operator": {"path": "/o"}}"#, "/operator: must have token"),
        (r#"{"operator": {"path": "o", "token": "t"}}"#, "/operator/path: must be a path that begins with /"),
        (r#"{"operator": {"path": "/o", "token": ""}}"#, "/operator/token: must not be empty"),
        (r#"{"operator": {"path": "/o", "token": {"env": "NONE"}}}"#, "/operator/token/env: names a variable"),
        (r#"{"operator": {"path": "/o", "token": {"env": "BAD"}}}"#, "/operator/token: must be 1 to 1024 visible"),
        (r#"{"operator": {"path": "/o", "token": "t"}, "rules": []}"#, "/rules: must not stand beside operator"),
        (r#"{"operator": {"path": "/o", "token": "t"}, "policy": {}}"#, "/policy: must not stand beside operator"),
        (r#"{"operator": true}"#, "/operator: must be an object, is true"),
        (r#"{"operator": {"path": "/o", "token": "t"}, "framing": true}"#, "/operator: must not stand beside framing"),
        (r#"{"operator": {"path": "/o", "token": "t", "x": 1}}"#, "/operator/x: is not a known field"),
        (r#"{"operator": {"path": "/o", "token": "t"}, "store": {"type": "redis"}}"#, "/store: must have cluster"),
    ] {
        assert!(read(text).starts_with(message), "{text}: {}", read(text));
    }
    let (_, config) = document(REDIS);
    assert_eq!(config.warnings, [""; 0], "what is risky about the store is said of the gateway");
    let written = r#"{"operator": {"path": "/o", "token": "in-clear"}}"#;
    let Ok(Document::Operator(operator, config)) = Document::parse(written.as_bytes(), &|_| None) else { panic!() };
    assert_eq!(config.warnings, ["/operator/token: can be read in Envoy's config dump; give {\"env\": NAME} instead"]);
    assert!(!format!("{operator:?}").contains("in-clear"));
}
