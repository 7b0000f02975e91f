//! The same content under another key, a short while later.
//!
//! Its one rule: what counts is what the client reads and how often the service has executed.
//! It does not know how contents are compared.

use std::sync::LazyLock;

use harness::{PATIENCE, Request, Response, SharedWorld, World, wait_until};
use serde_json::{Value, json};

use crate::check::{executed, parameter, refused, replays, said, shown};
use crate::redis::PATIENT_MS;
use crate::worlds::{Shared, rule, start};

fn world() -> Shared {
    static WORLD: LazyLock<World> = LazyLock::new(|| World::start(document()));
    Shared::new(&WORLD)
}

fn document() -> Value {
    let refuse = json!({ "similar": { "action": "refuse" } });
    json!({
        "policy": { "ttl_s": 1800, "lease_ms": 1000 },
        "rules": [
            rule("/tell/", json!({ "similar": {} })),
            rule("/refuse/", refuse),
            rule("/brief/", json!({ "similar": { "action": "refuse", "window_ms": 1500 } })),
            rule("/draft/", json!({ "similar": { "action": "refuse" }, "statuses": { "base": "ietf", "similar": 422 } })),
            rule("/observe/", json!({ "similar": { "action": "refuse" }, "mode": "observe" })),
            rule("/lock/", json!({
                "similar": { "action": "refuse" }, "key": { "required": true }, "serialize": { "sources": [{ "json": "/sku" }] },
            })),
            rule("/", json!({})),
        ],
    })
}

/// The answer tells of the same under another key, so many seconds ago at most.
#[track_caller]
fn told(answer: &Response, at_most_s: u64) {
    assert!(said(answer).starts_with("executed;stored=?1;attempt="), "{}", shown(answer));
    assert!(parameter(answer, "similar").is_some_and(|seconds| seconds <= at_most_s), "{}", shown(answer));
}

#[track_caller]
fn is_similar(answer: &Response) {
    refused(answer, 409, "similar", None);
    assert!(answer.json()["seconds_ago"].as_u64().is_some_and(|seconds| seconds < 60), "{}", shown(answer));
}

fn pay(world: &World, path: &str, key: &str) -> Request {
    world.post(path).key(key).body("ten")
}

#[test]
fn a_client_with_a_new_key_after_a_time_out_is_told() {
    let world = world();
    let path = "/tell/time-out";
    // A gateway behind us has lost the answer: the request may have run.
    let lost = pay(&world, path, "k1").header("x-test-status", "504").send();
    assert!(said(&lost).ends_with("outcome=unknown"), "{}", shown(&lost));
    told(&pay(&world, path, "k2").send(), 60);
    // And who tries again after a success, too.
    told(&pay(&world, path, "k3").send(), 60);
    replays(&pay(&world, path, "k3").send(), &pay(&world, path, "k3").send());
    assert_eq!(world.ledger.entries_for(path).len(), 3);
}

#[test]
fn nothing_else_is_similar() {
    let world = world();
    let path = "/tell/else";
    executed(&pay(&world, path, "k1").send(), 1);
    let bob = |key: &str| world.post(path).key(key).body("ten").header("authorization", "Bearer bob");
    executed(&bob("k1").send(), 1);
    executed(&pay(&world, path, "k2").body("twenty").send(), 1);
    executed(&world.request("PATCH", path).key("k3").body("ten").send(), 1);
    executed(&pay(&world, "/tell/elsewhere", "k4").send(), 1);
    executed(&pay(&world, &format!("{path}?q=1"), "k5").send(), 1);
    executed(&pay(&world, path, "k6").host("elsewhere").send(), 1);
    told(&bob("k2").send(), 60);
    // Where it is not asked for nothing is kept of it.
    executed(&pay(&world, "/none", "k1").send(), 1);
    executed(&pay(&world, "/none", "k2").send(), 1);
}

#[test]
fn the_same_key_is_never_similar() {
    let world = world();
    let path = "/refuse/same";
    let again = pay(&world, path, "k").header("x-test-status", "503");
    assert!(said(&again.send()).ends_with("outcome=retry"));
    assert!(said(&again.send()).ends_with("attempt=2;outcome=retry"));
    let first = pay(&world, path, "k").send();
    executed(&first, 3);
    replays(&pay(&world, path, "k").send(), &first);
}

#[test]
fn with_refuse_the_same_under_another_key_is_not_executed_unless_it_is_meant() {
    let world = world();
    let path = "/refuse/time-out";
    pay(&world, path, "k1").header("x-test-status", "504").send();
    is_similar(&pay(&world, path, "k2").send());
    is_similar(&pay(&world, path, "k2").header("idempotency-similar", "no").send());
    assert_eq!(world.ledger.entries_for(path).len(), 1);
    let meant = pay(&world, path, "k2").header("idempotency-similar", "allow").send();
    told(&meant, 60);
    replays(&pay(&world, path, "k2").send(), &meant);
    is_similar(&pay(&world, path, "k3").send());
    assert_eq!(world.ledger.entries_for(path).len(), 2);
    pay(&world, "/draft/x", "k1").send();
    refused(&pay(&world, "/draft/x", "k2").send(), 422, "similar", None);
}

#[test]
fn of_two_at_once_one_is_refused_while_the_other_runs() {
    let world = world();
    let path = "/refuse/at-once";
    let mut running = start(&world, &world.post(path).key("k1"), "ten", "similar at once");
    is_similar(&pay(&world, path, "k2").send());
    running.write("");
    world.ledger.open("similar at once");
    executed(&running.response(), 1);
    assert_eq!(world.ledger.entries_for(path).len(), 1);
}

#[test]
fn what_was_released_counts_for_nothing_and_what_was_before_it_still_counts() {
    let world = world();
    let path = "/refuse/released";
    pay(&world, path, "k1").header("x-test-status", "422").send();
    executed(&pay(&world, path, "k2").send(), 1);
    let meant = |key: &str| pay(&world, path, key).header("idempotency-similar", "allow");
    meant("k3").header("x-test-status", "422").send();
    is_similar(&pay(&world, path, "k4").send());
    assert_eq!(world.ledger.entries_for(path).len(), 3);
}

#[test]
fn once_the_window_is_over_nothing_is_similar() {
    let world = world();
    let path = "/brief/over";
    executed(&pay(&world, path, "k1").send(), 1);
    is_similar(&pay(&world, path, "k2").send());
    let mut number = 2;
    wait_until("the window is over", PATIENCE, || {
        number += 1;
        said(&pay(&world, path, &format!("k{number}")).send()).starts_with("executed;")
    });
    assert_eq!(world.ledger.entries_for(path).len(), 2);
}

#[test]
fn a_trial_only_counts_what_is_similar() {
    let world = world();
    for (key, outcome) in [("k1", "executed"), ("k2", "similar")] {
        let answer = pay(&world, "/observe/x", key).send();
        assert_eq!(
            (answer.status, said(&answer)),
            (201, format!("bypassed;outcome={outcome};reason=observe").as_str())
        );
    }
    assert_eq!(world.gateway.counted("observed_refused.similar"), 1);
}

#[test]
fn who_is_refused_does_not_wait_for_the_lock_of_its_resource() {
    let world = world();
    let path = "/lock/x";
    let order = r#"{"sku": "7"}"#;
    let mut running = start(&world, &world.post(path).key("k1"), order, "similar lock");
    is_similar(&world.post(path).key("k2").body(order).send());
    running.write("");
    world.ledger.open("similar lock");
    executed(&running.response(), 1);
    let meant = world.post(path).key("k3").body(order).header("idempotency-similar", "allow").send();
    told(&meant, 60);
    assert_eq!(world.ledger.entries_for(path).len(), 2);
}

#[test]
fn gateways_on_one_redis_know_of_each_other_and_one_small_record_more_is_kept_where_it_is_configured() {
    let mut document = document();
    document["store"] = json!({ "timeout_ms": PATIENT_MS });
    let world = SharedWorld::start(document);
    let pay = |path: &str, key: &str| world.post(path).key(key).body("ten");
    let records = || world.redis.keys().len();
    assert!(said(&pay("/none", "k1").send()).starts_with("executed;"));
    assert_eq!(records(), 1);
    assert!(said(&pay("/refuse/shared", "k1").send()).starts_with("executed;"));
    assert_eq!(records(), 3);
    is_similar(&pay("/refuse/shared", "k2").to(world.other()).send());
    told(&pay("/refuse/shared", "k3").header("idempotency-similar", "allow").to(world.other()).send(), 60);
    // Of the one that was refused its claim is left, released.
    assert_eq!(records(), 5);
    let kept: Vec<_> = world.redis.keys().iter().filter_map(|key| world.redis.get(key)).collect();
    let of_contents = kept.iter().filter(|record| record[1] == 2).map(Vec::len);
    assert_eq!(of_contents.collect::<Vec<_>>(), [90]);
    assert_eq!(world.ledger.entries_for("/refuse/shared").len(), 2);
}
