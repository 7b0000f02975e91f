//! What becomes of records when listeners come and go, and when one process takes over from another.
//!
//! Its one rule: every test starts an Envoy of its own, with a single listener that has the filter.
//! It does not know what is in a policy.

use harness::{PATIENCE, Redis, SharedWorld, World, wait_until};
use serde_json::json;

use crate::check::{executed, is_refusal, refused, replays, said};
use crate::worlds::start;

#[test]
fn records_stay_while_the_last_listener_is_away() {
    let world = World::with(json!({}), |options| options.lds());
    let pay = world.post("/pay").key("k").body("ten");
    let first = pay.send();
    executed(&first, 1);

    world.gateway.remove_listener();
    world.gateway.restore_listener();

    replays(&pay.send(), &first);
    assert_eq!(world.ledger.entries().len(), 1);
}

#[test]
fn without_the_service_that_keeps_them_records_go_with_the_last_listener() {
    let world = World::with(json!({}), |options| {
        options.lds().mutate(|tree| {
            tree.as_object_mut().unwrap().remove("bootstrap_extensions");
        })
    });
    let pay = world.post("/pay").key("k").body("ten");
    executed(&pay.send(), 1);

    world.gateway.remove_listener();
    wait_until("no VM is left", PATIENCE, || vms(&world) == 0);
    world.gateway.restore_listener();

    executed(&pay.send(), 1);
    assert_eq!(world.ledger.entries().len(), 2);
}

#[test]
fn a_request_that_goes_with_its_listener_is_unknown_when_the_listener_is_back() {
    let world = World::with(json!({ "policy": { "lease_ms": 4000 } }), |options| options.lds());
    let pay = world.post("/cut").key("k");
    let _cut = start(&world, &pay, "ten", "never");

    world.gateway.remove_listener();
    world.gateway.restore_listener();

    let pay = pay.body("ten");
    let early = pay.send();
    assert!(is_refusal(&early, "outcome-unknown"), "{early:?}");
    wait_until("the lease is over", PATIENCE, || pay.send().status == 201);
    let attempts: Vec<_> = world.ledger.entries_for("/cut").iter().map(|entry| entry.attempt).collect();
    assert_eq!(attempts, [Some(1), Some(2)]);
}

#[test]
fn what_expires_while_the_listener_is_away_is_forgotten() {
    // A tick cleans 64 buckets, and a table of this size has 512.
    let store = json!({ "max_bytes": 1_048_576 });
    let document = json!({ "store": store, "policy": { "ttl_s": 2, "lease_ms": 1000 } });
    let world = World::with(document, |options| options.lds());
    let bytes = || world.gateway.stat("wasmcustom.idempotency_store_bytes");
    assert_eq!(world.post("/pay").key("k").body("ten").send().status, 201);
    wait_until("the gauge tells of the record", PATIENCE, || bytes() > 0);

    world.gateway.remove_listener();

    wait_until("the table is empty", PATIENCE, || bytes() == 0);
    assert!(vms(&world) > 0, "the gauge is gone and says nothing");
}

#[test]
fn the_service_counts_nothing_and_adds_nothing_to_the_gauges() {
    let world = World::with(json!({}), |options| options.lds());
    let stat = |name: &str| world.gateway.stat(&format!("wasmcustom.idempotency_{name}"));
    let pay = world.post("/pay").key("k").header("x-test-body-size", "70000");
    let mut first = start(&world, &pay, "ten", "counted");
    wait_until("one request runs", PATIENCE, || stat("running") == 1);
    world.ledger.open("counted");
    executed(&first.response(), 1);
    wait_until("none runs", PATIENCE, || stat("running") == 0);
    wait_until("the gauge tells of the response", PATIENCE, || stat("store_bytes") > 70_000);
    let (bytes, executions) = (stat("store_bytes"), world.gateway.counted("requests.executed"));

    world.gateway.remove_listener();
    world.gateway.restore_listener();

    assert_eq!(executions, 1);
    assert_eq!(
        (stat("store_bytes"), world.gateway.counted("requests.executed"), stat("running")),
        (bytes, executions, 0)
    );
    let log = world.gateway.log();
    let lines: Vec<_> = log.lines().filter(|line| line.contains("wasm log ")).collect();
    assert!(lines.len() == 1 && lines[0].contains(": envoy-idempotency "), "only its start is logged: {log}");
}

#[test]
fn the_process_of_a_hot_restart_knows_nothing_of_what_the_embedded_store_of_the_old_one_holds() {
    let mut world = World::with(json!({}), |options| options.hot_restart());
    let pay = world.post("/pay").key("k").body("ten");
    let before = pay.send();
    executed(&before, 1);
    let running = world.post("/running").key("k");
    let mut at_the_old = start(&world, &running, "ten", "hot restart");

    world.gateway.hot_restart();
    // For a moment both processes take connections.
    let mut in_a_row = 0;
    wait_until("the new process answers", PATIENCE, || {
        in_a_row = if pay.send().body == before.body { 0 } else { in_a_row + 1 };
        in_a_row == 20
    });

    // Both processes execute, each as its first attempt.
    let mut at_the_new = start(&world, &running, "ten", "hot restart");
    world.ledger.open("hot restart");
    executed(&at_the_old.response(), 1);
    executed(&at_the_new.response(), 1);
    assert_eq!((world.ledger.entries_for("/pay").len(), world.ledger.entries_for("/running").len()), (2, 2));
}

#[test]
fn the_process_of_a_hot_restart_finds_in_redis_what_the_old_one_stored_and_runs() {
    let mut world = SharedWorld::with(Redis::start(), &[json!({})], |options| options.hot_restart());
    let pay = world.post("/pay").key("k").body("ten");
    let first = pay.send();
    assert!(said(&first).starts_with("executed;stored=?1;attempt=1;"), "{first:?}");
    let running = world.post("/running").key("k");
    let mut at_the_old = running.clone().header("x-test-hold", "hot restart").body("ten").open();
    at_the_old.write("ten");
    world.ledger.wait_for(2);

    world.gateways[0].hot_restart();

    // For a moment both processes take connections.
    for _ in 0..20 {
        replays(&pay.send(), &first);
        refused(&running.clone().body("ten").send(), 429, "in-flight", Some("1"));
    }
    world.ledger.open("hot restart");
    let first = at_the_old.response();
    replays(&running.body("ten").send(), &first);
}

/// How many VMs Envoy has.
fn vms(world: &World) -> u64 {
    world.gateway.stat("wasm.envoy.wasm.runtime.v8.active")
}
