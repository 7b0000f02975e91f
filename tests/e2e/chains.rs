//! Chains and clients that people really have, where a request does not look as it began.
//!
//! Its one rule: a request that is not protected says so, and one that cannot be held is refused and not left waiting.
//! It does not know neighbours that leave requests as they are: that is `neighbours`.

use harness::gateway::hcm;
use harness::neighbours::neighbours;
use harness::{Options, Request, World};
use serde_json::{Value, json};

use crate::check::{executed, refused, replays, said, shown};

/// `envoy/local.yaml` with this neighbour at this place among the filters.
fn beside(name: &'static str, place: usize, document: Value) -> World {
    World::with(document, |options: Options| {
        options.mutate(move |tree| {
            let row = neighbours().into_iter().find(|row| row.name == name).unwrap();
            let filter = json!({ "name": row.name, "typed_config": row.config });
            hcm(tree)["http_filters"].as_array_mut().unwrap().insert(place, filter);
        })
    })
}

/// A JSON request that the transcoder makes a gRPC call of.
fn transcoded(world: &World) -> Request {
    world.post("/shop.Payments/Pay").header("content-type", "application/json").key("k").body("{}")
}

#[test]
fn what_a_transcoder_in_front_has_made_grpc_of_passes_and_says_so() {
    let world = beside("grpc_json_transcoder", 0, json!({}));
    for executions in 1..=2 {
        let answer = transcoded(&world).send();
        assert_eq!(said(&answer), "bypassed;reason=grpc", "{}", shown(&answer));
        assert_eq!(world.ledger.entries().len(), executions);
    }
    assert_eq!(world.gateway.stat("wasmcustom.idempotency_bypassed_grpc_total"), 2);
    // A call that began as gRPC has no status: its client would not read it.
    let native = world.post("/shop.Payments/Other").header("content-type", "application/grpc").key("k").body("");
    assert_eq!(said(&native.send()), "");
}

#[test]
fn in_front_of_a_transcoder_a_request_is_protected() {
    let world = beside("grpc_json_transcoder", 1, json!({ "policy": { "outcomes": { "5xx": "store" } } }));
    let first = transcoded(&world).send();
    assert!(said(&first).starts_with("executed;stored=?1;attempt=1;"), "{}", shown(&first));
    replays(&transcoded(&world).send(), &first);
    assert_eq!(world.ledger.entries().len(), 1);
}

#[test]
fn a_client_that_waits_for_100_where_envoy_leaves_that_to_the_service_is_refused() {
    let world = World::with(json!({ "policy": { "max_request_bytes": 10, "on_too_large": "bypass" } }), |options| {
        options.mutate(|tree| hcm(tree)["proxy_100_continue"] = json!(true))
    });
    let asks = world.post("/expect").key("k").body("ten").expect_continue();
    // RFC 9110, section 10.1.1: "A proxy MUST ... either: send an immediate final status code ...; or forward".
    refused(&asks.send(), 417, "expectation-failed", None);
    assert_eq!(world.ledger.entries().len(), 0);
    executed(&world.post("/expect").key("k").body("ten").send(), 1);
    // What is not to be held goes on, and the service says 100.
    let keyless = world.post("/expect/keyless").body("ten").expect_continue().send();
    assert_eq!(said(&keyless), "bypassed;reason=no-key", "{}", shown(&keyless));
}
