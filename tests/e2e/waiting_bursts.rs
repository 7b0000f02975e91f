//! Many requests that one worker answers at the same moment.
//!
//! Its one rule: a thousand at once are answered like one, and the worker's VM outlives it.
//! It does not know why so many come together.

use harness::{Gateway, Redis, Request, SharedWorld, World};
use serde_json::json;

use crate::check::{is_refusal, refused, said};
use crate::waiting::{document, send};

#[test]
fn a_thousand_who_have_waited_enough_at_once_are_all_refused() {
    let world = World::with(document(), |options| options.concurrency(1));
    let pays: Vec<_> = (0..8).map(|n| world.post(&format!("/brief/thousand-{n}")).key("k").body("ten")).collect();
    let _running: Vec<_> = pays.iter().map(|pay| send(&pay.clone().header("x-test-hold", "never"))).collect();
    world.ledger.wait_for(8);
    let crowd: Vec<_> = (0..1_000).map(|n| pays[n % 8].clone()).collect();
    for answer in Request::send_h2_all(&crowd) {
        refused(&answer, 429, "in-flight", Some("1"));
    }
    is_well(&world.gateway);
}

#[test]
fn a_thousand_who_hear_at_once_that_the_store_is_away_are_all_refused() {
    let world = SharedWorld::with(Redis::start(), &[json!({})], |options| options.concurrency(1));
    world.redis.freeze();
    let crowd: Vec<_> = (0..1_000).map(|n| world.post("/away").key(n.to_string()).body("ten")).collect();
    for answer in Request::send_h2_all(&crowd) {
        assert!(is_refusal(&answer, "store-unavailable"), "{}", said(&answer));
    }
    is_well(&world.gateways[0]);
}

/// The filter still runs.
#[track_caller]
fn is_well(gateway: &Gateway) {
    let log = gateway.log();
    assert!(!log.contains("[error]"), "{log}");
}
