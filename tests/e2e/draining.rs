//! Configurations that are replaced while something runs, or while the store has not heard how it ended.
//!
//! Its one rule: the listener is replaced and its old one is gone before anything else happens.
//! It does not know of updates while nothing is owed: see `lifecycle.rs`.

use std::time::{Duration, Instant};

use envoy_idempotency::record::State;
use harness::gateway::plugin;
use harness::{Dialect, Fault, Gateway, PATIENCE, Redis, SharedWorld, wait_until};
use serde_json::{Value, json};

use crate::check::{not_stored, refused, said, shown};
use crate::redis::{held, key_of, record};
use crate::redis_errors::replayed;
use crate::shielded::{self, answered, hang_up};
use crate::worlds::start;

const LEASE: Duration = Duration::from_secs(1);

/// Short leases, and a breaker that never opens.
fn document(prefix: &str) -> Value {
    let mut store = Dialect::chosen().store();
    (store["prefix"], store["breaker"]) = (json!(prefix), json!({ "failures": 1000 }));
    json!({
        "store": store,
        "policy": { "lease_ms": 1000, "ttl_s": 1800, "on_store_failure": "forward" },
    })
}

/// Two gateways of one worker each, the listeners of which can be replaced.
fn gateways(prefix: &str) -> SharedWorld {
    let document = document(prefix);
    SharedWorld::with(Redis::start(), &[document.clone(), document], |options| options.lds().concurrency(1))
}

/// Replaces the configuration, and returns when the worker has the new one.
#[track_caller]
fn update(gateway: &Gateway, mut document: Value, generation: u32) {
    document["problem_base"] = json!(format!("https://docs.example.com/{generation}/"));
    gateway.update_plugin_config(&document).unwrap();
    let base = format!("https://docs.example.com/{generation}/");
    wait_until("the worker has the new configuration", PATIENCE, || {
        let answer = gateway.post("/probe").key("not, a key").body("ten").send();
        answer.json()["type"].as_str().is_some_and(|of_type| of_type.starts_with(&base))
    });
}

/// Waits until the old listener has gone, and two leases more.
#[track_caller]
fn outlast(gateway: &Gateway) {
    wait_until("the old listener has gone", PATIENCE, || {
        gateway.stat("listener_manager.total_listeners_draining") == 0
    });
    let gone = Instant::now();
    wait_until("two leases have passed", PATIENCE, || gone.elapsed() > 2 * LEASE);
}

#[track_caller]
fn is_over(gateway: &Gateway) {
    for gauge in ["running", "outbox", "draining"] {
        let name = format!("wasmcustom.idempotency_{gauge}");
        wait_until(&format!("{gauge} is 0"), PATIENCE, || gateway.stat(&name) == 0);
    }
}

/// A payment that ends while the store is away: its client has the answer, and the store has not heard of it.
#[track_caller]
fn owes(world: &SharedWorld, path: &str) -> harness::Request {
    let pay = world.post(path).key("k");
    let mut running = held(world, &pay, path);
    world.interposer.close();
    world.ledger.open(path);
    not_stored(&running.response(), 201, 1, "completed");
    wait_until("its outcome is owed", PATIENCE, || world.stat("outbox") == 1);
    pay.body("ten")
}

#[test]
fn what_is_owed_survives_a_reload_and_an_outage_longer_than_a_lease() {
    let world = gateways("idem:");
    let pay = owes(&world, "/draining/owed");
    update(&world.gateways[0], document("idem:"), 1);
    outlast(&world.gateways[0]);
    refused(&pay.send(), 429, "in-flight", Some("1"));
    assert_eq!((world.stat("outbox"), world.stat("draining")), (1, 0), "the new configuration owes it");
    world.interposer.open();
    wait_until("nothing is owed", PATIENCE, || world.stat("outbox") == 0);
    for gateway in &world.gateways {
        replayed(&pay.clone().to(gateway.addr()));
    }
    assert_eq!(world.ledger.entries_for(pay.path()).len(), 1);
}

#[test]
fn what_is_owed_to_another_store_than_the_new_ones_keeps_the_old_configuration() {
    let world = gateways("idem:");
    let pay = owes(&world, "/draining/prefix");
    let key = key_of(&world, pay.path());
    update(&world.gateways[0], document("other:"), 1);
    outlast(&world.gateways[0]);
    assert_eq!((world.stat("outbox"), world.stat("draining")), (1, 1), "the old configuration owes it");
    world.interposer.open();
    wait_until("its outcome has landed", PATIENCE, || {
        record(&world, &key).is_some_and(|record| matches!(record.state, State::Completed { .. }))
    });
    is_over(&world.gateways[0]);
    replayed(&pay.clone().to(world.other()));
    assert_eq!(world.ledger.entries_for(pay.path()).len(), 1);
    assert!(!world.gateways[0].log().contains("gave up"), "{}", world.gateways[0].log());
}

#[test]
fn what_the_gateway_itself_executes_outlasts_its_configuration_by_more_than_a_lease() {
    let execution = json!({ "kind": "shielded", "cluster": "shielded" });
    let document = json!({ "policy": { "lease_ms": 1000, "ttl_s": 1800, "execution": execution } });
    let configuration = document.clone();
    let world = shielded::world(|options| options.lds().configuration(configuration));
    let pay = world.post("/draining/shielded").key("k");
    let client = start(&world, &pay, "ten", "draining");
    hang_up(&world, client, pay.path());
    let pay = pay.body("ten");
    update(&world.gateway, document, 1);
    outlast(&world.gateway);
    refused(&pay.send(), 429, "in-flight", Some("1"));
    assert_eq!(world.gateway.stat("wasmcustom.idempotency_draining"), 1);
    world.ledger.open("draining");
    let answer = answered(&pay);
    assert!(said(&answer).starts_with("replayed;attempt=1;") && answer.status == 201, "{}", shown(&answer));
    assert_eq!(world.ledger.entries_for(pay.path()).len(), 1);
    is_over(&world.gateway);
}

#[test]
fn what_is_owed_lands_with_the_first_answer_of_the_store() {
    let world = gateways("idem:");
    let pay = world.post("/draining/first-answer").key("k");
    let mut running = held(&world, &pay, "first-answer");
    world.interposer.set(Fault::error("LOADING Redis is loading the dataset in memory"));
    world.ledger.open("first-answer");
    not_stored(&running.response(), 201, 1, "completed");
    // Its pauses grow: the next try is seconds away.
    let (mut calls, mut since) = (0, Instant::now());
    wait_until("the outbox pauses", PATIENCE, || {
        if world.interposer.calls() > calls {
            (calls, since) = (world.interposer.calls(), Instant::now());
        }
        since.elapsed() > Duration::from_millis(1_700)
    });
    world.interposer.set(Fault::Pass);
    let well = Instant::now();
    let other = world.post("/draining/another").key("k").body("ten").send();
    assert!(said(&other).starts_with("executed;stored=?1;"), "{}", shown(&other));
    replayed(&pay.to(world.other()).body("ten"));
    assert!(well.elapsed() < Duration::from_secs(1), "{:?}", well.elapsed());
    assert_eq!(world.ledger.entries_for("/draining/first-answer").len(), 1);
}

/// A payment that runs although the store is away.
#[track_caller]
fn runs_unprotected(world: &SharedWorld, path: &str, size: usize) -> harness::Request {
    let pay = world.post(path).key("k").header("x-test-body-size", size.to_string()).body("ten");
    let answer = pay.send();
    assert_eq!((answer.status, said(&answer)), (201, "bypassed;reason=store-failure"), "{}", shown(&answer));
    pay
}

#[test]
fn twenty_reloads_in_an_outage_leave_one_configuration_that_owes_everything() {
    let world = gateways("idem:");
    world.interposer.close();
    let mut pays = Vec::new();
    for generation in 1..=20 {
        pays.push(runs_unprotected(&world, &format!("/draining/many-{generation}"), 10));
        update(&world.gateways[0], document("idem:"), generation);
    }
    wait_until("the last alone is left", PATIENCE, || (world.stat("outbox"), world.stat("draining")) == (20, 0));
    outlast(&world.gateways[0]);
    assert_eq!((world.stat("outbox"), world.stat("draining")), (20, 0));
    world.interposer.open();
    is_over(&world.gateways[0]);
    for pay in &pays {
        replayed(&pay.clone().to(world.other()));
        assert_eq!(world.ledger.entries_for(pay.path()).len(), 1);
    }
    assert!(!world.gateways[0].log().contains("gave up"), "{}", world.gateways[0].log());
}

#[test]
fn twenty_reloads_that_change_the_prefix_in_an_outage_share_one_bound_of_bytes() {
    let world = gateways("0:");
    world.interposer.close();
    for generation in 1..=20 {
        // Together they are more than 16 MiB.
        (0..2).for_each(|n| drop(runs_unprotected(&world, &format!("/draining/large-{generation}-{n}"), 500_000)));
        update(&world.gateways[0], document(&format!("{generation}:")), generation);
    }
    world.gateways[0].wait_for_stat("wasmcustom.idempotency_draining", 20);
    assert_eq!(world.stat("outbox"), 40, "no outcome is forgotten");
    world.gateways[0].wait_for_log("gave up 0 completions, ");
    world.interposer.open();
    is_over(&world.gateways[0]);
    let sizes: Vec<usize> = world.redis.keys().iter().map(|key| world.redis.get(key).unwrap().len()).collect();
    let whole = sizes.iter().filter(|size| **size > 500_000).count();
    assert_eq!(sizes.len(), 40);
    assert!((25..=33).contains(&whole), "{whole} responses of half a megabyte were kept within 16 MiB");
    let log = world.gateways[0].log();
    assert!(log.lines().filter(|line| line.contains("gave up")).all(|line| line.contains("[warning]")), "{log}");
}

/// Has each worker keep a root of the filter's own configuration, whatever becomes of listeners.
fn kept_by_a_service(tree: &mut Value) {
    let config = plugin(tree).clone();
    let service = json!({
        "name": "envoy.bootstrap.wasm",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.wasm.v3.WasmService",
            "singleton": false,
            "config": config,
        },
    });
    match tree["bootstrap_extensions"].as_array_mut() {
        Some(all) => all.push(service),
        None => tree["bootstrap_extensions"] = json!([service]),
    }
}

#[test]
fn what_is_owed_survives_the_last_listener_where_a_service_keeps_it() {
    let document = document("idem:");
    let world = SharedWorld::with(Redis::start(), &[document.clone(), document], |options| {
        options.lds().concurrency(1).mutate(kept_by_a_service)
    });
    let pay = owes(&world, "/draining/last-listener");
    world.gateways[0].remove_listener();
    outlast(&world.gateways[0]);
    world.interposer.open();
    world.gateways[0].restore_listener();
    replayed(&pay);
    replayed(&pay.clone().to(world.other()));
    assert_eq!(world.ledger.entries_for(pay.path()).len(), 1);
    is_over(&world.gateways[0]);
}

#[test]
fn what_the_gateway_itself_executes_outlasts_the_last_listener_where_a_service_keeps_it() {
    let execution = json!({ "kind": "shielded", "cluster": "shielded" });
    let document = json!({ "policy": { "lease_ms": 1000, "ttl_s": 1800, "execution": execution } });
    let world =
        shielded::world(|options| options.lds().concurrency(1).configuration(document).mutate(kept_by_a_service));
    let pay = world.post("/draining/shielded-last").key("k");
    let client = start(&world, &pay, "ten", "last");
    hang_up(&world, client, pay.path());
    world.gateway.remove_listener();
    outlast(&world.gateway);
    world.gateway.restore_listener();
    let pay = pay.body("ten");
    refused(&pay.send(), 429, "in-flight", Some("1"));
    world.ledger.open("last");
    let answer = answered(&pay);
    assert!(said(&answer).starts_with("replayed;attempt=1;") && answer.status == 201, "{}", shown(&answer));
    assert_eq!(world.ledger.entries_for(pay.path()).len(), 1);
    is_over(&world.gateway);
}
