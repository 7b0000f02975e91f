//! What gateways that share a Redis promise together.
//!
//! Its one rule: the first request goes through one gateway and what follows goes through the other, while nothing
//! is wrong with the store.
//! It does not know of faults.

use std::ops::Deref;
use std::sync::LazyLock;
use std::thread;
use std::time::{Duration, Instant};

use envoy_idempotency::record::Record;
use harness::ledger::body_of_size;
use harness::process::tail;
use harness::{
    Connection, Dialect, Gateway, Ledger, Options, PATIENCE, Redis, Reply, Request, SharedWorld, Webdis, send_all,
    wait_for, wait_until,
};
use serde_json::json;

use crate::check::{executed, is_refusal, not_stored, refused, replays, said};
use crate::worlds::rule;

/// A world that other tests use too; a test that fails shows the end of its gateways' logs.
pub struct Two(&'static SharedWorld);

impl Deref for Two {
    type Target = SharedWorld;

    fn deref(&self) -> &SharedWorld {
        self.0
    }
}

impl Drop for Two {
    fn drop(&mut self) {
        if thread::panicking() {
            for gateway in &self.gateways {
                eprintln!("--- the end of a shared Envoy's log ---\n{}\n---", tail(&gateway.log()));
            }
        }
    }
}

/// Under `/hold/` and `/short/`.
const LEASE: Duration = Duration::from_secs(1);

/// For stores that are well, on machines that are busy.
pub const PATIENT_MS: u64 = 5000;

/// Two gateways with leases of a second under `/hold/` and `/short/`.
fn two() -> Two {
    static WORLD: LazyLock<SharedWorld> = LazyLock::new(|| {
        SharedWorld::start(json!({
            "store": { "timeout_ms": PATIENT_MS },
            "policy": { "ttl_s": 1800 },
            "rules": [
                rule("/short/", json!({ "lease_ms": 1000 })),
                rule("/hold/", json!({ "lease_ms": 1000, "on_unknown": "hold" })),
                rule("/", json!({})),
            ],
        }))
    });
    Two(&WORLD)
}

#[test]
fn of_64_duplicates_at_two_gateways_one_executes() {
    let world = two();
    let pay = world.post("/two/crowd").key("k").body("ten").header("x-test-hold", "two-crowd");
    let crowd: Vec<_> = (0..64).map(|n| pay.clone().to(world.gateways[n % 2].addr())).collect();
    let answers = thread::scope(|scope| {
        scope.spawn(|| {
            let refusals = |gateway: &Gateway| gateway.access_log().matches("POST /two/crowd 429 ").count();
            wait_until("63 are refused", PATIENCE, || world.gateways.iter().map(refusals).sum::<usize>() == 63);
            world.ledger.open("two-crowd");
        });
        send_all(&crowd)
    });
    let (refusals, rest): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| is_refusal(answer, "in-flight"));
    assert_eq!(refusals.len(), 63);
    for refusal in refusals {
        refused(refusal, 429, "in-flight", Some("1"));
    }
    executed(rest[0], 1);
    for gateway in &world.gateways {
        replays(&pay.clone().to(gateway.addr()).send(), rest[0]);
    }
    assert_eq!(world.ledger.entries_for("/two/crowd").len(), 1);
}

#[test]
fn the_other_gateway_replays_byte_for_byte() {
    let world = two();
    let pay = |path: &str| world.post(path).key("k").body(b"\0\xff\r\n".as_slice());
    let requests = [
        pay("/two/bytes").header("x-test-body-base64", "AA0KAP8kLTENCi8lMDA="),
        pay("/two/headers")
            .header("x-test-header", "x-kept: a")
            .header("x-test-header", "x-kept: b")
            .header("x-test-header", b"x-raw: \xff\xfe"),
        pay("/two/large").header("x-test-body-size", "500000"),
        pay("/two/empty").header("x-test-status", "204"),
        pay("/two/moved").header("x-test-status", "303"),
        pay("/two/pieces").header("x-test-chunked", "1"),
    ];
    for request in requests {
        let first = request.send();
        executed(&first, 1);
        replays(&request.clone().to(world.other()).send(), &first);
        replays(&request.send(), &first);
        assert_eq!(world.ledger.entries_for(request.path()).len(), 1);
    }
    assert_eq!(pay("/two/large").to(world.other()).send().body, body_of_size(500_000));
}

#[test]
fn another_payload_is_a_mismatch_at_every_gateway() {
    let world = two();
    let pay = world.post("/two/mismatch").key("k").body("ten");
    let first = pay.send();
    executed(&first, 1);
    for gateway in &world.gateways {
        refused(&pay.clone().to(gateway.addr()).body("twenty").send(), 409, "mismatch", None);
        replays(&pay.clone().to(gateway.addr()).send(), &first);
    }
    assert_eq!(world.ledger.entries_for("/two/mismatch").len(), 1);
}

#[test]
fn callers_with_one_key_do_not_meet() {
    let world = two();
    let pay = |token: &str| world.post("/two/callers").key("k").body("ten").header("authorization", token);
    let (first, second) = (pay("Bearer a").send(), pay("Bearer b").to(world.other()).send());
    executed(&first, 1);
    executed(&second, 1);
    replays(&pay("Bearer a").to(world.other()).send(), &first);
    replays(&pay("Bearer b").send(), &second);
}

#[test]
fn a_request_that_runs_here_is_in_flight_there() {
    let world = two();
    let pay = world.post("/short/in-flight").key("k");
    let mut first = held(&world, &pay, "two-in-flight");
    let there = pay.clone().to(world.other()).body("ten");
    let started = Instant::now();
    wait_until("three leases have passed", PATIENCE, || {
        refused(&there.send(), 429, "in-flight", Some("1"));
        refused(&there.clone().body("twenty").send(), 409, "mismatch", None);
        started.elapsed() > 3 * LEASE
    });
    world.ledger.open("two-in-flight");
    let first = first.response();
    executed(&first, 1);
    replays(&there.send(), &first);
    assert_eq!(world.ledger.entries_for("/short/in-flight").len(), 1);
}

#[test]
fn a_definite_failure_here_frees_the_key_there() {
    let world = two();
    let pay = world.post("/two/failures").key("k").body("ten");
    let there = pay.clone().to(world.other());
    not_stored(&pay.clone().header("x-test-status", "422").send(), 422, 1, "released");
    // Corrected, and failing in another way.
    not_stored(&there.clone().body("twenty").header("x-test-status", "500").send(), 500, 2, "retry");
    refused(&pay.send(), 409, "mismatch", None);
    let third = pay.clone().body("twenty").send();
    executed(&third, 3);
    replays(&there.body("twenty").send(), &third);
    let entries = world.ledger.entries_for("/two/failures");
    assert_eq!(entries.iter().map(|entry| entry.attempt).collect::<Vec<_>>(), [Some(1), Some(2), Some(3)]);
    assert!(entries.iter().all(|entry| entry.operation == entries[0].operation));
}

#[test]
fn an_unknown_outcome_here_is_unknown_there() {
    let world = two();
    for path in ["/short/unknown", "/hold/unknown"] {
        let pay = world.post(path).key("k").body("ten");
        not_stored(&pay.clone().header("x-test-reset", "before").send(), 503, 1, "unknown");
        let there = pay.clone().to(world.other()).send();
        assert_eq!(said(&there), "refused;attempt=1;reason=outcome-unknown");
    }
    let pay = world.post("/short/unknown").key("k").body("ten").to(world.other());
    let second = wait_for("the lease is over", PATIENCE, || Some(pay.send()).filter(|answer| answer.status == 201));
    executed(&second.unwrap(), 2);
    refused(&world.post("/hold/unknown").key("k").body("ten").send(), 409, "outcome-unknown", None);
    assert_eq!(world.ledger.entries_for("/hold/unknown").len(), 1);
}

#[test]
fn a_script_that_redis_has_forgotten_is_sent_again_unseen() {
    let world = two();
    let pay = world.post("/two/flushed").key("k").body("ten");
    world.redis.ask(&["SCRIPT", "FLUSH"]);
    let first = pay.send();
    executed(&first, 1);
    world.redis.ask(&["SCRIPT", "FLUSH"]);
    replays(&pay.clone().to(world.other()).send(), &first);
    assert_eq!(world.counted("store_failures.noscript"), 0);
}

#[test]
fn what_is_no_record_is_a_failure_of_the_store() {
    let world = two();
    let cases = [
        ("corrupt", "/two/corrupt", vec!["SET", "KEY", "garbage"]),
        ("corrupt", "/two/empty-record", vec!["SET", "KEY", ""]),
        ("wrongtype", "/two/wrong-type", vec!["LPUSH", "KEY", "garbage"]),
    ];
    for (reason, path, command) in cases {
        let counter = format!("store_failures.{reason}");
        let pay = world.post(path).key("k").body("ten");
        // Released, so that no gateway remembers anything of it.
        not_stored(&pay.clone().header("x-test-status", "400").send(), 400, 1, "released");
        let key = key_of(&world, path);
        world.redis.ask(&["DEL", &key]);
        let command: Vec<&str> = command.into_iter().map(|word| if word == "KEY" { &key } else { word }).collect();
        assert!(!matches!(world.redis.ask(&command), Reply::Error(_)));

        let before = world.counted(&counter);
        for gateway in &world.gateways {
            refused(&pay.clone().to(gateway.addr()).send(), 503, "store-unavailable", Some("1"));
        }
        let counted = world.gateways.iter().map(|one| one.admin("/stats?filter=store_failures")).collect::<String>();
        assert!(world.counted(&counter) >= before + 2, "{reason} in\n{counted}");
        assert_eq!(world.ledger.entries_for(path).len(), 1);

        world.redis.ask(&["DEL", &key]);
        wait_until("it executes again", PATIENCE, || pay.send().status == 201);
    }
}

#[test]
fn a_record_lives_as_long_as_it_was_said_to() {
    let world = two();
    let pay = world.post("/two/ttl").key("k").body("ten").header("x-test-header", "Idempotency-TTL: 2");
    let first = pay.send();
    assert_eq!(said(&first), "executed;stored=?1;attempt=1;ttl=2");
    let key = key_of(&world, "/two/ttl");
    let Reply::Integer(left_ms) = world.redis.ask(&["PTTL", &key]) else { panic!("PTTL answers a number") };
    assert!((0..=2000).contains(&left_ms), "{left_ms}");
    wait_until("Redis has forgotten it", PATIENCE, || world.redis.get(key.as_bytes()).is_none());
    let again = pay.clone().to(world.other()).send();
    assert_eq!((again.status, again.body != first.body), (201, true));
}

#[test]
fn the_shipped_file_shares_records_as_it_stands() {
    let (redis, ledger) = (Redis::start(), Ledger::start());
    let webdis = Webdis::start(redis.addr());
    let gateway = Gateway::start(Options::redis(ledger.addr(), Dialect::chosen().front(&redis, &webdis)));
    let pay = gateway.post("/v1/payments").key("k").body("ten");
    let first = pay.send();
    assert_eq!(said(&first), "executed;stored=?1;attempt=1;ttl=86400");
    assert_eq!(pay.send().body, first.body);
    assert_eq!((redis.keys().len(), ledger.entries().len()), (1, 1));
}

#[test]
fn what_a_gateway_remembers_it_answers_without_a_call() {
    let document = json!({ "store": { "timeout_ms": PATIENT_MS }, "policy": { "ttl_s": 1800 } });
    let world = SharedWorld::start(document);
    let pay = world.post("/cached").key("k").body("ten");
    let here = &world.gateways[0];
    let counters = || (here.counted("store_calls"), here.counted("replayed_cached"));
    let mut first = held(&world, &world.post("/cached").key("k"), "cached");
    let (calls, _) = counters();
    // Enough connections that both workers get some.
    for _ in 0..16 {
        refused(&pay.send(), 429, "in-flight", Some("1"));
    }
    assert_eq!(counters(), (calls, 0));
    world.ledger.open("cached");
    let first = first.response();
    executed(&first, 1);
    wait_until("the completion is counted", PATIENCE, || counters().0 > calls);
    let (calls, _) = counters();
    for _ in 0..16 {
        replays(&pay.send(), &first);
        refused(&pay.clone().body("twenty").send(), 409, "mismatch", None);
    }
    assert_eq!(counters(), (calls, 16));
    // The other gateway asks once, and then knows.
    let there = pay.to(world.other());
    replays(&there.send(), &first);
    let asked = world.gateways[1].counted("store_calls");
    assert!(asked > 0);
    replays(&there.send(), &first);
    assert_eq!(world.gateways[1].counted("store_calls"), asked);
}

#[test]
fn a_gateway_without_a_cache_asks_every_time() {
    let world = SharedWorld::alone(
        json!({ "store": { "cache": null, "timeout_ms": PATIENT_MS }, "policy": { "ttl_s": 1800 } }),
    );
    let pay = world.post("/asked").key("k").body("ten");
    let first = pay.send();
    let calls = world.counted("store_calls");
    for _ in 0..8 {
        replays(&pay.send(), &first);
    }
    assert_eq!((world.counted("store_calls"), world.counted("replayed_cached")), (calls + 8, 0));
}

/// Sends the request with the body `ten`, and returns when the service holds its answer back.
#[track_caller]
pub fn held(world: &SharedWorld, request: &Request, gate: &str) -> Connection {
    let before = world.ledger.entries_for(request.path()).len();
    let mut connection = request.clone().header("x-test-hold", gate).body("ten").open();
    connection.write("ten");
    let what = format!("{} has reached the service", request.path());
    wait_until(&what, PATIENCE, || world.ledger.entries_for(request.path()).len() > before);
    connection
}

/// Where Redis keeps the record of the first execution on this path.
#[track_caller]
pub fn key_of(world: &SharedWorld, path: &str) -> String {
    format!("idem:{}", world.ledger.entries_for(path)[0].operation.as_deref().expect("it was executed under a claim"))
}

/// The record under a key, where there is one.
#[track_caller]
pub fn record(world: &SharedWorld, key: &str) -> Option<Record> {
    world.redis.get(key.as_bytes()).map(|value| Record::decode(&value).expect("what the filter writes is a record"))
}
