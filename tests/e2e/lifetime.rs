//! What becomes of the embedded store's records when listeners come and go.
//!
//! Its one rule: every test starts an Envoy of its own, whose only listener with the filter comes by LDS.
//! It does not know what is in a policy.

use harness::{PATIENCE, World, wait_until};
use serde_json::json;

use crate::check::{executed, is_refusal, replays};
use crate::worlds::start;

#[test]
fn records_stay_while_the_last_listener_is_away() {
    let world = World::with(json!({}), |options| options.lds());
    let pay = world.post("/pay").key("k").body("ten");
    let first = pay.send();
    executed(&first, 1);

    remove_listener(&world);
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

    remove_listener(&world);
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

    remove_listener(&world);
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

    remove_listener(&world);

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
    let (bytes, executions) = (stat("store_bytes"), stat("executed_total"));

    remove_listener(&world);
    world.gateway.restore_listener();

    assert_eq!(executions, 1);
    assert_eq!((stat("store_bytes"), stat("executed_total"), stat("running")), (bytes, executions, 0));
    let log = world.gateway.log();
    assert!(!log.lines().any(|line| line.contains("idempotency: ")), "{log}");
}

/// Takes the listener away and returns when its workers' VMs have gone too.
#[track_caller]
fn remove_listener(world: &World) {
    let before = vms(world);
    world.gateway.remove_listener();
    // The harness runs two workers.
    wait_until("the workers' VMs have gone", PATIENCE, || vms(world) + 2 <= before);
}

/// How many VMs Envoy has.
fn vms(world: &World) -> u64 {
    world.gateway.stat("wasm.envoy.wasm.runtime.v8.active")
}
