//! What a record keeps besides the answer: the form of the key, its own format, the payload that a claim found there.
//!
//! Its one rule: what stood in a record decides what the next request gets, however that one is spelt, and what cannot be
//! read is never taken for a free key.
//! It does not know the bytes of a record, but for the few that it spoils.

use std::net::SocketAddr;
use std::time::Duration;

use envoy_idempotency::record::{Record, State};
use harness::{CALLER, Fault, Ledger, PATIENCE, Request, Response, SharedWorld, World, wait_for, wait_until};
use serde_json::{Value, json};

use crate::check::{executed, is_refusal, not_stored, refused, replays, said, shown};
use crate::redis::{PATIENT_MS, key_of, record};
use crate::worlds::rule;

/// Longer than a test needs to have a client go, and shorter than a gateway waits.
const VERY_LATE: Duration = Duration::from_secs(2);

/// Before a story begins.
const WARM: &str = "/warm";

/// Leases of a second; under `/any/` a key stands in the header or in the query.
fn document() -> Value {
    let any = json!([{ "any": [{ "header": "idempotency-key" }, { "query": "key" }] }]);
    json!({
        "policy": { "lease_ms": 1000, "ttl_s": 1800 },
        "rules": [
            rule("/any/", json!({ "key": { "sources": any }, "fingerprint": { "query": false } })),
            rule("/", json!({})),
        ],
    })
}

/// As [`document`] with a store that has time.
fn patient(mut document: Value) -> Value {
    document["store"] = json!({ "timeout_ms": PATIENT_MS });
    document
}

/// Tells a story with each store: of the service, and of where the first request and its retries go.
fn on_both_stores(story: impl Fn(&Ledger, [SocketAddr; 2])) {
    let world = World::start(document());
    story(&world.ledger, [world.gateway.addr(); 2]);
    drop(world);
    let world = SharedWorld::start(patient(document()));
    story(&world.ledger, [world.gateways[0].addr(), world.other()]);
}

/// A key as a client writes it.
#[derive(Clone, Copy, Debug)]
enum Written {
    Header(&'static str),
    Query(&'static str),
}
use Written::{Header, Query};

/// A payment with this key.
fn pay(to: SocketAddr, path: &str, key: Written) -> Request {
    let plain = |path: &str| Request::post(to, path).caller(CALLER).body("ten");
    match key {
        Header(key) => plain(path).key(key),
        Query(key) => plain(&format!("{path}?key={key}")),
    }
}

/// The first answer that does not say `outcome-unknown`.
#[track_caller]
fn after_the_lease(pay: &Request) -> Response {
    wait_for("the lease is over", PATIENCE, || Some(pay.send()).filter(|answer| !is_refusal(answer, "outcome-unknown")))
        .unwrap_or_else(|message| panic!("{message}"))
}

#[test]
fn every_attempt_takes_the_key_upstream_as_the_first_one_wrote_it() {
    let hard = (Header(r#""a b, c\"d\\e""#), Query("a%20b%2C%20c%22d%5Ce"));
    // What the first attempt writes, what the second writes, and what the service sees of both; without that a key of
    // the gateway's.
    let cases = [
        (Header("abc"), Header("\"abc\""), Some("abc")),
        (Header("\"abc\""), Header("abc"), Some("\"abc\"")),
        (Header("\"abc\";p=1"), Header("\"abc\""), Some("\"abc\"")),
        (Header("\"abc\";p=1"), Header("abc"), Some("\"abc\"")),
        (Header("abc"), Header("\"abc\";p=1"), Some("abc")),
        (Header("abc"), Query("abc"), Some("abc")),
        (Header("\"abc\""), Query("abc"), Some("\"abc\"")),
        (hard.0, hard.1, Some(r#""a b, c\"d\\e""#)),
        (Query("abc"), Header("abc"), None),
        (Query("abc"), Header("\"abc\""), None),
        (hard.1, hard.0, None),
    ];
    on_both_stores(|ledger, [first, later]| {
        let paths: Vec<String> = (0..cases.len()).map(|case| format!("/any/{case}")).collect();
        for (path, (before, ..)) in paths.iter().zip(cases) {
            not_stored(&pay(first, path, before).header("x-test-reset", "before").send(), 503, 1, "unknown");
        }
        for (path, (before, after, seen)) in paths.iter().zip(cases) {
            let takeover = after_the_lease(&pay(later, path, after).header("x-test-status", "500"));
            not_stored(&takeover, 500, 2, "unknown");
            let third = pay(first, path, before).send();
            executed(&third, 3);
            replays(&pay(later, path, after).send(), &third);
            let entries = ledger.entries();
            let of_path = entries.iter().filter(|entry| entry.path.split('?').next() == Some(path));
            let (keys, attempts): (Vec<_>, Vec<_>) =
                of_path.map(|entry| (entry.key.as_deref().unwrap_or_default(), entry.attempt)).unzip();
            assert_eq!(attempts, [Some(1), Some(2), Some(3)], "{before:?}, then {after:?}");
            match seen {
                Some(seen) => assert_eq!(keys, [seen; 3], "{before:?}, then {after:?}"),
                None => assert!(keys[0].len() == 36 && keys == [keys[0]; 3], "{before:?}, then {after:?}: {keys:?}"),
            }
        }
    });
}

/// Where the response of a completed record begins.
fn response_at(value: &[u8]) -> usize {
    let Ok(Record { state: State::Completed { response: Some(response), .. }, .. }) = Record::decode(value) else {
        panic!("a record that is completed, with its response")
    };
    value.len() - response.len()
}

#[test]
fn a_record_that_cannot_be_read_is_refused_also_under_forward() {
    let mut document = patient(document());
    document["policy"]["on_store_failure"] = json!("forward");
    let mut world = SharedWorld::alone(document);
    type Spoil = fn(&mut Vec<u8>);
    let cases: [(&str, Spoil); 11] = [
        ("format-above", |value| value[0] += 1),
        ("format-below", |value| value[0] -= 1),
        ("another-kind", |value| value[1] += 1),
        ("no-state", |value| value[2] = 9),
        ("another-seal-of-the-response", |value| {
            let at = response_at(value);
            value[at] += 1;
        }),
        ("cut-to-nothing", Vec::clear),
        ("cut-to-its-format", |value| value.truncate(1)),
        ("cut-to-its-kind", |value| value.truncate(2)),
        ("cut-in-its-middle", |value| value.truncate(response_at(value) / 2)),
        ("cut-before-the-response", |value| value.truncate(response_at(value) - 1)),
        ("cut-by-one-byte", |value| value.truncate(value.len() - 1)),
    ];
    let paths = cases.map(|(name, _)| format!("/spoilt/{name}"));
    for (path, (_, spoil)) in paths.iter().zip(&cases) {
        executed(&world.post(path).key("k").body("ten").send(), 1);
        let key = key_of(&world, path);
        let mut value = world.redis.get(key.as_bytes()).expect("a record");
        spoil(&mut value);
        world.redis.ask(&[b"SET", key.as_bytes(), &value, b"KEEPTTL"]);
    }
    let other_type = world.post("/spoilt/another-type").key("k").body("ten");
    executed(&other_type.send(), 1);
    let key = key_of(&world, "/spoilt/another-type");
    world.redis.ask(&["DEL", &key]);
    world.redis.ask(&["LPUSH", &key, "no record"]);
    let whole = world.post("/spoilt/not-at-all").key("k").body("ten");
    let first = whole.send();
    executed(&first, 1);
    // What it remembers goes with its process.
    world.gateways[0].restart();

    for path in &paths {
        let counted = world.counted("store_failures.corrupt");
        let pay = world.post(path).key("k");
        // Each on a connection of its own, and so on either worker.
        for _ in 0..4 {
            refused(&pay.clone().body("ten").send(), 503, "store-unavailable", Some("1"));
        }
        assert!(world.counted("store_failures.corrupt") >= counted + 4, "{path}");
        // Where only the response cannot be read, the payload can.
        let other = pay.body("twenty").send();
        assert!(["store-unavailable", "mismatch"].iter().any(|slug| is_refusal(&other, slug)), "{}", shown(&other));
        assert_eq!(world.ledger.entries_for(path).len(), 1, "{path}");
    }
    refused(&other_type.send(), 503, "store-unavailable", Some("1"));
    assert_eq!(world.counted("store_failures.wrongtype"), 1);
    replays(&whole.send(), &first);
    assert_eq!(world.counted("bypassed.store-failure"), 0);
    // Of a store that says nothing at all the operator has decided otherwise.
    world.interposer.close();
    let answer = world.post("/spoilt/away").key("k").body("ten").send();
    assert_eq!((answer.status, said(&answer)), (201, "bypassed;reason=store-failure"), "{}", shown(&answer));
}

/// Claims for this request, whose client goes before the gateway hears that the claim was granted.
#[track_caller]
fn withdraw(world: &SharedWorld, pay: &Request, body: &str) {
    let state = || {
        let key = world.redis.keys().into_iter().next().map(|key| String::from_utf8(key).expect("a key of ours"));
        key.and_then(|key| record(world, &key)).map(|record| record.state)
    };
    let executions = world.ledger.entries().len();
    // Every reply, because withdrawals before this one are said again.
    world.interposer.set(Fault::DelayReply(VERY_LATE));
    let mut client = pay.clone().body(body).open();
    client.write(body);
    wait_until("it is claimed", PATIENCE, || matches!(state(), Some(State::Running { .. })));
    client.reset();
    wait_until("the claim is withdrawn", PATIENCE, || !matches!(state(), Some(State::Running { .. })));
    world.interposer.set(Fault::Pass);
    assert_eq!(world.ledger.entries().len(), executions);
}

/// One gateway on a Redis that has the script already, and no record yet.
fn alone() -> SharedWorld {
    let world = SharedWorld::alone(patient(document()));
    executed(&world.post(WARM).key("k").body("ten").send(), 1);
    world.redis.ask(&["FLUSHALL"]);
    world
}

#[track_caller]
fn attempts(world: &SharedWorld, expected: &[u32]) {
    let entries = world.ledger.entries();
    let seen: Vec<_> =
        entries.iter().filter(|entry| entry.path != WARM).map(|entry| entry.attempt.unwrap_or(0)).collect();
    assert_eq!(seen, expected);
}

#[test]
fn a_claim_that_is_withdrawn_leaves_a_free_key_free_for_any_payload() {
    let world = alone();
    let pay = world.post("/free").key("k");
    // The key is new.
    withdraw(&world, &pay, "ten");
    not_stored(&pay.clone().header("x-test-status", "422").body("twenty").send(), 422, 2, "released");
    // The key was released; one claim is withdrawn, and then another.
    withdraw(&world, &pay, "thirty");
    withdraw(&world, &pay, "forty");
    let first = pay.clone().body("fifty").send();
    executed(&first, 5);
    replays(&pay.clone().body("fifty").send(), &first);
    refused(&pay.body("thirty").send(), 409, "mismatch", None);
    attempts(&world, &[2, 5]);
}

#[test]
fn a_claim_that_is_withdrawn_leaves_a_key_with_the_payload_that_failed() {
    let world = alone();
    let pay = world.post("/failed").key("k");
    not_stored(&pay.clone().header("x-test-status", "500").body("ten").send(), 500, 1, "retry");
    for attempt in [3, 5] {
        withdraw(&world, &pay, "ten");
        refused(&pay.clone().body("twenty").send(), 409, "mismatch", None);
        not_stored(&pay.clone().header("x-test-status", "500").body("ten").send(), 500, attempt, "retry");
    }
    withdraw(&world, &pay, "ten");
    withdraw(&world, &pay, "ten");
    refused(&pay.clone().body("twenty").send(), 409, "mismatch", None);
    // Released by the service, it belongs to no payload any more.
    not_stored(&pay.clone().header("x-test-status", "422").body("ten").send(), 422, 8, "released");
    withdraw(&world, &pay, "twenty");
    executed(&pay.body("thirty").send(), 10);
    attempts(&world, &[1, 3, 5, 8, 10]);
}

#[test]
fn a_claim_that_is_withdrawn_leaves_an_unknown_outcome_unknown() {
    let world = alone();
    let pay = world.post("/unknown").key("k");
    not_stored(&pay.clone().header("x-test-reset", "before").body("ten").send(), 503, 1, "unknown");
    let key = key_of(&world, "/unknown");
    let retry_at_ms = || match record(&world, &key).map(|record| record.state) {
        Some(State::Unknown { retry_at_ms, .. }) => retry_at_ms,
        state => panic!("its outcome is unknown, but it is {state:?}"),
    };
    let now_ms = || {
        let time = world.redis.ask(&["TIME"]).list();
        let number = |at: usize| time[at].clone().text().parse::<u64>().expect("a number");
        number(0) * 1000 + number(1) / 1000
    };
    wait_until("the lease is over", PATIENCE, || now_ms() >= retry_at_ms());
    withdraw(&world, &pay, "ten");
    refused(&pay.clone().body("twenty").send(), 409, "mismatch", None);
    let first = pay.clone().body("ten").send();
    executed(&first, 3);
    replays(&pay.body("ten").send(), &first);
    attempts(&world, &[1, 3]);
}
