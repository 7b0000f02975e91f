//! Configurations that are refused, taken, and replaced while requests run.
//!
//! Its one rule: every test starts an Envoy of its own.
//! It does not know what is in a policy.

use std::time::{Duration, Instant};

use harness::gateway::plugin;
use harness::{Gateway, Options, PATIENCE, Port, Request, World, wait_until};
use serde_json::{Value, json};

use crate::check::{executed, is_refusal, refused, replays, said};
use crate::worlds::start;

/// The harness runs Envoy with as many.
const WORKERS: usize = 2;

#[test]
fn a_bad_document_stops_envoy_and_one_line_says_where_it_is_bad() {
    let cases = [
        (
            json!({ "rules": [{}, { "policy": { "lease_ms": 10 } }] }),
            "/rules/1/policy/lease_ms: must be at least 1000, is 10",
        ),
        (json!({ "polícy": {} }), "/polícy: "),
        (json!("{\"policy\": "), "the configuration is refused: "),
    ];
    for (document, expected) in cases {
        let message = refusal(Options::new(nobody().addr()).configuration(document));
        let ours: Vec<_> = message.lines().filter(|line| line.contains("the configuration is refused")).collect();
        assert!(ours.len() == 1 && ours[0].contains(expected), "{expected:?} is not told once in:\n{message}");
    }
}

#[test]
fn a_bad_struct_is_refused_like_a_bad_string() {
    let document = json!({ "policy": { "ttl_s": 10, "lease_ms": 10_000 } });
    let message = refusal(Options::new(nobody().addr()).configuration(document).as_struct());
    assert!(message.contains("/policy/ttl_s: must exceed lease_ms"), "{message}");
}

#[test]
fn a_struct_says_the_same_as_a_string() {
    let document = json!({ "policy": { "ttl_s": 60, "lease_ms": 5000, "statuses": "ietf" } });
    let world = World::with(document, Options::as_struct);
    let pay = world.post("/pay").key("k").body("ten");
    let first = pay.send();
    assert_eq!(said(&first), "executed;stored=?1;attempt=1;ttl=60");
    replays(&pay.send(), &first);
    refused(&pay.body("twenty").send(), 422, "mismatch", None);
}

#[test]
fn no_configuration_at_all_is_the_default() {
    let world = World::with(json!({}), |options| {
        options.mutate(|tree| {
            plugin(tree).as_object_mut().unwrap().remove("configuration");
        })
    });
    let pay = world.post("/pay").key("k").body("ten");
    let first = pay.send();
    executed(&first, 1);
    replays(&pay.send(), &first);
}

#[test]
fn a_risky_document_is_taken_with_one_warning() {
    let document = json!({ "policy": { "scope": { "caller": [{ "header": "authorization" }] } } });
    let world = World::start(document);
    executed(&world.post("/pay").key("k").body("ten").send(), 1);
    let log = world.gateway.log();
    let warnings: Vec<_> = log.lines().filter(|line| line.contains("/policy/scope/caller/0: ")).collect();
    assert!(warnings.len() == 1 && warnings[0].contains("[warning]"), "{warnings:?}");
}

#[test]
fn a_secret_from_the_environment_keys_the_names_of_operations() {
    let with_secret = |secret: &'static str| {
        let document = json!({ "secrets": { "hash_key": { "env": "IDEMPOTENCY_HASH_KEY" } } });
        let world = World::with(document, |options| {
            options.env("IDEMPOTENCY_HASH_KEY", secret).mutate(|tree| {
                plugin(tree)["vm_config"]["environment_variables"] =
                    json!({ "host_env_keys": ["IDEMPOTENCY_HASH_KEY"] });
            })
        });
        let pay = world.post("/pay").key("k").body("ten");
        let first = pay.send();
        executed(&first, 1);
        replays(&pay.send(), &first);
        assert!(!world.gateway.admin("/config_dump").contains(secret));
        world.ledger.entries().remove(0).operation.unwrap()
    };
    assert_ne!(with_secret("one secret"), with_secret("another secret"));

    let document = json!({ "secrets": { "hash_key": { "env": "IDEMPOTENCY_HASH_KEY" } } });
    let message = refusal(Options::new(nobody().addr()).configuration(document));
    assert!(message.contains("/secrets/hash_key/env: "), "{message}");
}

#[test]
fn an_update_loses_no_outcome() {
    let world = World::with(json!({}), |options| options.lds().drain_time_s(30));
    let before = world.post("/before").key("k").body("ten");
    let completed = before.send();
    executed(&completed, 1);
    let mut running: Vec<_> =
        (0..8).map(|n| start(&world, &world.post(&format!("/running-{n}")).key("k"), "ten", "update")).collect();
    let failing = world.post("/failing").key("k");
    let mut failed = start(&world, &failing.clone().header("x-test-status", "400"), "ten", "update");

    update(&world, &json!({ "policy": { "statuses": "ietf" } }), &before);

    // What was completed is there, and what runs is known to run.
    replays(&before.send(), &completed);
    for n in 0..8 {
        refused(&world.post(&format!("/running-{n}")).key("k").body("ten").send(), 409, "in-flight", Some("1"));
    }
    world.ledger.open("update");
    for (n, connection) in running.iter_mut().enumerate() {
        let first = connection.response();
        executed(&first, 1);
        let again = world.post(&format!("/running-{n}")).key("k").body("ten");
        replays(&again.send(), &first);
        assert_eq!(world.ledger.entries_for(again.path()).len(), 1);
    }
    assert_eq!(said(&failed.response()), "executed;stored=?0;attempt=1;outcome=released");
    executed(&failing.body("corrected").send(), 2);
    wait_until("nothing runs", PATIENCE, || world.gateway.stat("wasmcustom.idempotency_running") == 0);
}

#[test]
fn the_old_configuration_renews_its_leases_until_its_requests_are_done() {
    let world = World::with(json!({ "policy": { "lease_ms": 1000 } }), |options| options.lds().drain_time_s(30));
    let pay = world.post("/pay").key("k");
    let mut first = start(&world, &pay, "ten", "renewed");
    let pay = pay.body("ten");
    executed(&world.post("/before").key("k").body("ten").send(), 1);
    let probe = world.post("/before").key("k").body("ten");
    update(&world, &json!({ "policy": { "lease_ms": 1000, "statuses": "ietf" } }), &probe);

    let updated = Instant::now();
    wait_until("more than a lease has passed", PATIENCE, || {
        refused(&pay.send(), 409, "in-flight", Some("1"));
        updated.elapsed() > Duration::from_millis(2200)
    });
    world.ledger.open("renewed");
    let first = first.response();
    executed(&first, 1);
    replays(&pay.send(), &first);
}

#[test]
fn a_request_that_an_update_cuts_off_is_unknown_and_not_forgotten() {
    let world = World::with(json!({ "policy": { "lease_ms": 2000 } }), |options| options.lds().drain_time_s(1));
    let probe = world.post("/before").key("k").body("ten");
    executed(&probe.send(), 1);
    let pay = world.post("/cut").key("k");
    let started = Instant::now();
    let _cut = start(&world, &pay, "ten", "never");
    let pay = pay.body("ten");
    update(&world, &json!({ "policy": { "lease_ms": 2000, "statuses": "ietf" } }), &probe);

    wait_until("the old listener has gone", PATIENCE, || {
        let answer = pay.send();
        assert_eq!(world.ledger.entries_for("/cut").len(), 1, "{answer:?}");
        !is_refusal(&answer, "in-flight")
    });
    let early = pay.send();
    refused(&early, 409, "outcome-unknown", early.header("retry-after"));
    assert!(early.header("retry-after").is_some());
    wait_until("the lease is over", PATIENCE, || pay.send().status == 201);
    assert!(started.elapsed() >= Duration::from_secs(2));
    let attempts: Vec<_> = world.ledger.entries_for("/cut").iter().map(|entry| entry.attempt).collect();
    assert_eq!(attempts, [Some(1), Some(2)]);
}

#[test]
fn a_new_vm_knows_what_the_old_one_stored_and_what_it_runs() {
    let world = World::with(json!({}), |options| options.lds().drain_time_s(30));
    let pay = world.post("/pay").key("k").body("ten");
    let first = pay.send();
    executed(&first, 1);
    let running = world.post("/running").key("k");
    let mut runs = start(&world, &running, "ten", "new vm");

    // Another environment makes another VM of the same vm_id.
    let vms = || world.gateway.stat("wasm.envoy.wasm.runtime.v8.created");
    let before = vms();
    let config = "/filter_chains/0/filters/0/typed_config/http_filters/0/typed_config/config";
    world
        .gateway
        .update_listener(|listener| {
            let plugin = listener.pointer_mut(config).unwrap();
            plugin["vm_config"]["environment_variables"] = json!({ "key_values": { "GENERATION": "2" } });
            plugin["configuration"]["value"] = json!(r#"{"policy": {"statuses": "ietf"}}"#);
        })
        .unwrap();
    wait_until("every worker has a new VM", PATIENCE, || vms() > before);
    let other = pay.clone().body("not ten");
    wait_until("the workers use it", PATIENCE, || (0..10).all(|_| other.send().status == 422));

    replays(&pay.send(), &first);
    refused(&running.clone().body("ten").send(), 409, "in-flight", Some("1"));
    world.ledger.open("new vm");
    let first = runs.response();
    executed(&first, 1);
    replays(&running.body("ten").send(), &first);
}

#[test]
fn a_refused_update_leaves_everything_as_it_was() {
    let world = World::with(json!({}), Options::lds);
    let pay = world.post("/pay").key("k").body("ten");
    let first = pay.send();
    executed(&first, 1);
    let words = world.gateway.update_plugin_config(&json!({ "policy": { "lease_ms": "long" } })).unwrap_err();
    assert!(words.contains("/policy/lease_ms: "), "{words}");
    replays(&pay.send(), &first);
    executed(&world.post("/pay").key("l").body("ten").send(), 1);
}

#[test]
fn without_the_flag_a_body_is_refused_at_once_and_a_line_of_each_worker_says_why() {
    let world = without_the_flag(json!({}));
    let pay = world.post("/pay").key("k").body("ten");
    for request in [pay.clone(), pay.clone().chunked(["te", "n"])] {
        let started = Instant::now();
        let answer = request.send();
        assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
        refused(&answer, 503, "store-unavailable", Some("1"));
    }
    assert_eq!(world.ledger.entries().len(), 0);
    let log = world.gateway.log();
    let lines: Vec<_> = log.lines().filter(|line| line.contains("allow_on_headers_stop_iteration")).collect();
    assert!(!lines.is_empty() && lines.iter().all(|line| line.contains("[warning]")), "{lines:#?}");
    assert!(lines.len() <= WORKERS, "one a worker: {lines:#?}");
    assert_eq!(world.gateway.counted("store_failures.missing_flag"), 2);
}

#[test]
fn without_the_flag_a_request_without_a_body_works() {
    let world = without_the_flag(json!({}));
    let answers = world.post("/pay").key("k");
    let mut first = answers.open();
    assert!(!first.is_silent_for(Duration::from_secs(15)), "it executed {} times", world.ledger.entries().len());
    let first = first.response();
    assert_eq!(first.status, 201);
    let again = answers.send();
    assert!(again.status == 201 && said(&again).starts_with("replayed;") || is_refusal(&again, "not-replayable"));
    assert_eq!(world.ledger.entries_for("/pay").len(), 1);
}

#[test]
fn without_the_flag_what_is_not_held_works() {
    let world = without_the_flag(json!({}));
    let bodiless = world.post("/pay").key("k").header("x-test-status", "204");
    let first = bodiless.send();
    executed(&first, 1);
    replays(&bodiless.send(), &first);
    assert_eq!(world.request("GET", "/pay").send().status, 201);
    assert_eq!(said(&world.post("/pay").body("ten").send()), "bypassed;reason=no-key");
}

#[test]
fn without_the_flag_an_operator_who_prefers_to_forward_gets_requests_forwarded() {
    let world = without_the_flag(json!({ "policy": { "on_store_failure": "forward" } }));
    let pay = world.post("/pay").key("k").header("Idempotency-Attempt", "7").body("ten");
    for _ in 0..2 {
        let mut connection = pay.open();
        connection.write("ten");
        let executions = world.ledger.entries().len();
        assert!(!connection.is_silent_for(Duration::from_secs(5)), "after {executions} executions");
        let answer = connection.response();
        assert_eq!((answer.status, said(&answer)), (201, "bypassed;reason=store-failure"));
    }
    let entries = world.ledger.entries_for("/pay");
    assert!(entries.len() == 2 && entries.iter().all(|entry| entry.body_len == 3 && entry.attempt.is_none()));
}

#[test]
fn without_the_flag_a_body_that_was_let_through_does_not_hide_the_fault() {
    let world = without_the_flag(json!({}));
    assert_eq!(said(&world.post("/pay").body("ten").send()), "bypassed;reason=no-key");
    let mut keyed = world.post("/pay").key("k").body("ten").open();
    keyed.write("ten");
    assert!(!keyed.is_silent_for(Duration::from_secs(5)), "a body that nobody held is no sign of the flag");
    refused(&keyed.response(), 503, "store-unavailable", Some("1"));
}

fn without_the_flag(document: Value) -> World {
    World::with(document, |options| {
        // One worker, so that each request meets what the one before it has left.
        options.concurrency(1).mutate(|tree| plugin(tree)["allow_on_headers_stop_iteration"] = json!(false))
    })
}

/// Updates the plugin's configuration to one with the draft's statuses and returns when the workers have it; the
/// probe's key must have been used, for `ten`.
#[track_caller]
fn update(world: &World, document: &Value, probe: &Request) {
    world.gateway.update_plugin_config(document).unwrap();
    let other = probe.clone().body("not ten");
    // Each connection may meet another worker.
    let mut in_a_row = 0;
    wait_until("the workers have the new configuration", PATIENCE, || {
        in_a_row = if other.send().status == 422 { in_a_row + 1 } else { 0 };
        in_a_row == 20
    });
}

/// What Envoy says when it does not start.
#[track_caller]
fn refusal(options: Options) -> String {
    match Gateway::try_start(options) {
        Ok(gateway) => panic!("it started: {gateway:?}"),
        Err(message) => message,
    }
}

/// An address for a gateway that never serves.
fn nobody() -> Port {
    Port::reserve()
}
