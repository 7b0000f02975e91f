//! Ways past a lock, on real Envoy: what goes up unprotected under another rule is refused under `serialize`.
//!
//! Its one rule: each way is tried with the same gateway under a rule without a lock too, where it leads to the service.
//! It does not know the ways that no client opens: `tests/it/past_a_lock.rs` has all of them.

use harness::gateway::hcm;
use harness::{Request, SharedWorld, World};
use serde_json::{Value, json};

use crate::check::{refused, shown};

/// Two rules that differ in the lock alone.
fn document(policy: Value) -> Value {
    let rule = |prefix: &str, more: Value| {
        let mut policy = policy.clone();
        more.as_object().unwrap().iter().for_each(|(name, value)| policy[name] = value.clone());
        json!({ "match": { "methods": ["POST"], "path": { "prefix": prefix } }, "policy": policy })
    };
    let lock = json!({ "serialize": { "sources": [{ "header": "x-resource" }] } });
    json!({ "rules": [rule("/locked/", lock), rule("/free/", json!({}))] })
}

/// Leads to the service where there is no lock, and to this refusal where there is one.
#[track_caller]
fn is_shut(way: impl Fn(&str) -> Request, status: u16, slug: &str) {
    let free = way("/free/it").send();
    assert_eq!(free.status, 201, "{}", shown(&free));
    refused(&way("/locked/it").send(), status, slug, (slug == "store-unavailable").then_some("1"));
}

#[test]
fn a_request_without_a_caller_and_one_whose_body_is_too_large_do_not_pass_beside_a_lock() {
    let policy = json!({ "key": { "inject": { "kind": "uuid" } }, "on_too_large": "bypass", "max_request_bytes": 10 });
    let world = World::start(document(policy));
    let of = |path: &str| world.post(path).key("k").header("x-resource", "it");
    is_shut(|path| of(path).anonymous().body("one"), 401, "caller-missing");
    is_shut(|path| of(path).body("more than ten"), 413, "body-too-large");
    is_shut(|path| of(path).chunked(["more ", "than ", "ten"]), 413, "body-too-large");
    assert!(world.ledger.entries().iter().all(|entry| entry.path == "/free/it"));
}

#[test]
fn a_request_that_names_no_resource_does_not_run_beside_the_lock_of_one() {
    let world = World::start(document(json!({ "key": { "required": true } })));
    is_shut(|path| world.post(path).key("none").body("one"), 400, "key-invalid");
    is_shut(|path| world.post(path).key("empty").header("x-resource", "").body("one"), 400, "key-invalid");
    let two = |path: &str| world.post(path).key("two").header("x-resource", "a").header("x-resource", "b");
    is_shut(|path| two(path).body("one"), 400, "key-invalid");
    assert!(world.ledger.entries().iter().all(|entry| entry.path == "/free/it"));
}

#[test]
fn a_type_of_grpc_and_an_upgrade_lead_past_no_lock() {
    let world = World::with(document(json!({ "key": { "required": true } })), |options| {
        options.mutate(|tree| hcm(tree)["upgrade_configs"] = json!([{ "upgrade_type": "websocket" }]))
    });
    let of = |path: &str| world.post(path).key("k").header("x-resource", "it");
    let grpc = |path: &str| of(path).header("content-type", "application/grpc").body("one").send();
    assert_eq!(grpc("/free/it").status, 201);
    // Envoy says it in the form of gRPC.
    let answer = grpc("/locked/it");
    assert!(answer.header("grpc-status").is_some_and(|status| status != "0"), "{}", shown(&answer));
    let upgrade = |path: &str| of(path).header("upgrade", "websocket").header("connection", "upgrade").send();
    refused(&upgrade("/locked/it"), 400, "key-invalid", None);
    assert!(world.ledger.entries().iter().all(|entry| entry.path == "/free/it"));
}

#[test]
fn a_store_that_is_not_there_opens_no_way_past_a_lock() {
    let world = SharedWorld::start(document(json!({ "key": { "required": true }, "on_store_failure": "forward" })));
    world.redis.kill();
    is_shut(|path| world.post(path).key("k").header("x-resource", "it").body("one"), 503, "store-unavailable");
    assert!(world.ledger.entries().iter().all(|entry| entry.path == "/free/it"));
}
