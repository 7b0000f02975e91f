//! Duplicates that wait while their gateway, or the store they share, goes away.
//!
//! Its one rule: everybody is answered within the time that duplicates wait and what the store may take, and nobody
//! executes what may have executed.
//! It does not know of stores and gateways that are well.

use std::time::{Duration, Instant};

use harness::redis::DURABLE;
use harness::{Fault, PATIENCE, Redis, SharedWorld, wait_until};
use serde_json::{Value, json};

use crate::check::{executed, is_refusal, not_stored, refused, shown};
use crate::redis::{PATIENT_MS, held, key_of, record};
use crate::redis_load::BOUND;
use crate::shielded::answered;
use crate::shielded_redis::gateways;
use crate::waiting::send;

/// How long duplicates wait.
const WAIT: Duration = Duration::from_secs(2);

fn document(policy: Value) -> Value {
    let wait = json!({ "action": "wait", "max_wait_ms": WAIT.as_millis() as u64 });
    let mut document = json!({
        // On a busy machine the first claim may take longer than the default.
        "store": { "timeout_ms": 1000 },
        "policy": { "ttl_s": 1800, "on_in_flight": wait },
    });
    for (name, value) in policy.as_object().unwrap() {
        document["policy"][name] = value.clone();
    }
    document
}

#[track_caller]
fn is_over(world: &SharedWorld) {
    for gauge in ["waiting", "running", "outbox"] {
        wait_until(&format!("idempotency_{gauge} is 0"), PATIENCE, || world.stat(gauge) == 0);
    }
}

#[track_caller]
fn waits(world: &SharedWorld, count: u64) {
    wait_until(&format!("{count} wait"), PATIENCE, || world.stat("waiting") == count);
}

#[test]
fn who_waits_for_an_attempt_does_not_run_beside_it_though_a_failing_store_lets_requests_through() {
    let world = SharedWorld::on(Redis::start(), document(json!({ "on_store_failure": "forward" })));
    let pay = world.post("/wait/forward").key("k");
    let mut first = held(&world, &pay, "forward");
    let mut waiters: Vec<_> = (0..5).map(|_| send(&pay.clone().to(world.gateways[1].addr()))).collect();
    waits(&world, 5);
    world.redis.kill();
    for waiter in &mut waiters {
        refused(&waiter.response(), 503, "store-unavailable", Some("1"));
    }
    world.ledger.open("forward");
    assert_eq!(first.response().status, 201);
    assert_eq!(world.ledger.entries_for("/wait/forward").len(), 1);
}

#[test]
fn everybody_is_answered_when_redis_dies_while_they_wait() {
    let world = SharedWorld::on(Redis::with(&DURABLE), document(json!({})));
    let pay = world.post("/wait/redis-dies").key("k");
    let mut first = held(&world, &pay, "redis-dies");
    let mut waiters: Vec<_> = (0..20).map(|n| send(&pay.clone().to(world.gateways[n % 2].addr()))).collect();
    waits(&world, 20);
    world.redis.kill();
    let killed = Instant::now();
    for (n, waiter) in waiters.iter_mut().enumerate() {
        let answer = waiter.response();
        // Where the first runs, its claim is remembered.
        match n % 2 {
            0 => assert!(
                is_refusal(&answer, "in-flight") || is_refusal(&answer, "store-unavailable"),
                "{}",
                shown(&answer)
            ),
            _ => refused(&answer, 503, "store-unavailable", Some("1")),
        }
    }
    assert!(killed.elapsed() < WAIT + BOUND, "{:?}", killed.elapsed());
    waits(&world, 0);
    world.ledger.open("redis-dies");
    let first = first.response();
    not_stored(&first, 201, 1, "completed");

    world.redis.restart();
    is_over(&world);
    for gateway in &world.gateways {
        let again = pay.clone().to(gateway.addr()).body("ten");
        wait_until("the store is asked again", PATIENCE, || again.send().status == 201);
        let again = again.send();
        assert_eq!((again.body == first.body, again.header("idempotent-replayed")), (true, Some("true")));
    }
    assert_eq!(world.ledger.entries().len(), 1);
}

#[test]
fn everybody_is_answered_though_redis_stands_still_while_they_wait() {
    for execution in [json!({ "kind": "inline" }), json!({ "kind": "shielded", "cluster": "shielded" })] {
        let world = gateways(document(json!({ "execution": execution })));
        let pay = world.post("/wait/redis-stands").key("k");
        let mut first = held(&world, &pay, "redis-stands");
        let mut waiters: Vec<_> = (0..20).map(|n| send(&pay.clone().to(world.gateways[n % 2].addr()))).collect();
        waits(&world, 20);
        world.redis.freeze();
        let stopped = Instant::now();
        for waiter in &mut waiters {
            let answer = waiter.response();
            let is_refused = ["in-flight", "store-unavailable"].iter().any(|slug| is_refusal(&answer, slug));
            assert!(is_refused, "{}", shown(&answer));
        }
        assert!(stopped.elapsed() < WAIT + BOUND, "{:?}", stopped.elapsed());
        waits(&world, 0);
        world.ledger.open("redis-stands");
        let answer = first.response();
        not_stored(&answer, 201, 1, "completed");

        world.redis.thaw();
        is_over(&world);
        for gateway in &world.gateways {
            let again = answered(&pay.clone().to(gateway.addr()).body("ten"));
            assert_eq!((again.body == answer.body, again.header("idempotent-replayed")), (true, Some("true")));
        }
        assert_eq!(world.ledger.entries().len(), 1);
    }
}

#[test]
fn those_who_wait_hear_that_the_gateway_of_the_first_has_died() {
    let world = SharedWorld::start(document(json!({ "lease_ms": 1000 })));
    let pay = world.post("/wait/gateway-dies").key("k");
    let _first = held(&world, &pay, "never");
    let mut waiters: Vec<_> = (0..10).map(|_| send(&pay.clone().to(world.other()))).collect();
    let there = &world.gateways[1];
    let waiting = || there.stat("wasmcustom.idempotency_waiting");
    wait_until("10 wait", PATIENCE, || waiting() == 10);
    world.gateways[0].kill();
    for waiter in &mut waiters {
        let answer = waiter.response();
        refused(&answer, 409, "outcome-unknown", Some("1"));
    }
    assert_eq!(world.ledger.entries().len(), 1);
    wait_until("nobody waits", PATIENCE, || waiting() == 0);
    let again = pay.to(world.other()).body("ten");
    wait_until("a retry may run", PATIENCE, || again.send().status == 201);
    let attempts: Vec<_> = world.ledger.entries().iter().map(|entry| entry.attempt).collect();
    assert_eq!(attempts, [Some(1), Some(2)]);
}

#[test]
fn a_waiter_that_hangs_up_while_it_asks_executes_nothing() {
    // For as long as a busy machine takes.
    let wait = json!({ "action": "wait", "max_wait_ms": PATIENCE.as_millis() as u64 });
    let mut document = document(json!({ "on_in_flight": wait }));
    document["store"] = json!({ "timeout_ms": PATIENT_MS });
    let world = SharedWorld::start(document);
    let pay = world.post("/wait/asking").key("k").header("x-test-first-status", "503,201");
    let mut first = held(&world, &pay, "asking");
    let waiter = send(&pay.clone().to(world.other()));
    waits(&world, 1);
    world.ledger.open("asking");
    // From here on, whatever is granted is heard of long after a busy machine has seen the client go.
    world.interposer.set(Fault::DelayReply(Duration::from_secs(2)));
    not_stored(&first.response(), 503, 1, "retry");
    let key = key_of(&world, pay.path());
    wait_until("it has been granted the second attempt", PATIENCE, || {
        record(&world, &key).is_some_and(|record| record.attempt == 2)
    });
    drop(waiter);
    waits(&world, 0);
    world.interposer.set(Fault::Pass);
    is_over(&world);
    executed(&pay.body("ten").send(), 3);
    let attempts: Vec<_> = world.ledger.entries().iter().map(|entry| entry.attempt).collect();
    assert_eq!(attempts, [Some(1), Some(3)]);
}
