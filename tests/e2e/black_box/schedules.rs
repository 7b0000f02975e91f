//! The schedules behind aws-powertools/powertools-lambda-typescript #5714 and #5678, which a TLA+ model found: a caller
//! that recovers an orphan judges a record as it was a while ago, and overwrites what it is by then.
//!
//! Its one rule: the late caller's question is on its way while the world moves on; a claim is judged and granted in
//! one step of the store's, so it gets what is true when it arrives.
//! It does not know of late answers: see `redis_losses.rs`.
//!
//! Ours differs on purpose: every record that runs has a deadline, because a lease is part of it.
//!
//! | schedule | shown by |
//! |---|---|
//! | B has seen A run; A completes and its deadline passes; B recovers | `e2e::black_box::schedules::a_claim_that_arrives_after_the_completion_replays_it` |
//! | B and C have seen the orphan; B recovers it; C recovers B's | `e2e::black_box::schedules::a_claim_that_arrives_after_the_takeover_finds_it_in_flight` |
//! | A, taken for an orphan, comes back and completes, or frees, what is another's by now | `e2e::redis_losses::a_late_owner_takes_nothing_from_its_successor`, `it::model::nobody_but_the_owner_marks_renews_or_frees` |
//! | many recover one orphan at the same moment | `e2e::unknown::of_many_retries_after_the_lease_one_executes` |
//! | a record without a deadline is no orphan | `e2e::black_box::schedules::a_running_record_that_never_expires_is_no_orphan` |

use std::thread;
use std::time::Duration;

use harness::{Fault, PATIENCE, Redis, Reply, SharedWorld, wait_until};
use serde_json::json;

use crate::check::{executed, refused, replays};
use crate::redis::{held, key_of};

/// So late does a question arrive: after the lease, and after what happens at its end.
const LATE: Duration = Duration::from_secs(6);

/// Gateways that wait long enough for an answer to a question that was late.
fn world(gateways: usize, lease_ms: u64) -> SharedWorld {
    let document = json!({ "store": { "timeout_ms": 20_000 }, "policy": { "lease_ms": lease_ms, "ttl_s": 1800 } });
    SharedWorld::with(Redis::start(), &vec![document; gateways], |options| options)
}

#[test]
fn a_claim_that_arrives_after_the_completion_replays_it() {
    let world = world(2, 3000);
    let mut a = held(&world, &world.post("/judged").key("k"), "judged");
    // Right after a renewal, so that the next call is not another one.
    world.interposer.wait_for_calls(world.interposer.calls() + 1);
    let calls = world.interposer.calls();
    world.interposer.next(1, Fault::Late(LATE));
    let pay = world.post("/judged").key("k").body("ten");
    let mut b = pay.clone().to(world.other()).open();
    b.write("ten");
    world.interposer.wait_for_calls(calls + 1);
    world.ledger.open("judged");
    let first = a.response();
    executed(&first, 1);

    replays(&b.response(), &first);
    for gateway in &world.gateways {
        replays(&pay.clone().to(gateway.addr()).send(), &first);
    }
    assert_eq!(world.ledger.entries_for("/judged").len(), 1);
}

#[test]
fn a_claim_that_arrives_after_the_takeover_finds_it_in_flight() {
    let world = world(3, 1000);
    let pay = world.post("/recovered").key("k").body("ten");
    let _a = held(&world, &world.post("/recovered").key("k"), "recovered");
    world.gateways[0].kill();
    let calls = world.interposer.calls();
    world.interposer.next(1, Fault::Late(LATE));
    let mut c = pay.clone().to(world.other()).open();
    c.write("ten");
    world.interposer.wait_for_calls(calls + 1);

    let there = pay.clone().to(world.gateways[1].addr());
    let held_back = there.clone().header("x-test-hold", "recovered");
    let taking_over = thread::spawn(move || {
        loop {
            let answer = held_back.send();
            if answer.status != 429 {
                return answer;
            }
        }
    });
    wait_until("B executes", PATIENCE, || world.ledger.entries_for("/recovered").len() == 2);
    refused(&c.response(), 429, "in-flight", Some("1"));
    world.ledger.open("recovered");
    let second = taking_over.join().expect("B is answered");
    executed(&second, 2);
    for gateway in &world.gateways[1..] {
        replays(&pay.clone().to(gateway.addr()).send(), &second);
    }
    let attempts: Vec<_> = world.ledger.entries_for("/recovered").iter().map(|entry| entry.attempt).collect();
    assert_eq!(attempts, [Some(1), Some(2)]);
}

#[test]
fn a_running_record_that_never_expires_is_no_orphan() {
    let world = world(2, 60_000);
    let mut running = held(&world, &world.post("/persistent").key("k"), "persistent");
    let key = key_of(&world, "/persistent");
    world.redis.ask(&["PERSIST", &key]);
    let there = world.post("/persistent").key("k").body("ten").to(world.other());
    for _ in 0..3 {
        refused(&there.send(), 429, "in-flight", Some("1"));
    }
    world.ledger.open("persistent");
    let first = running.response();
    executed(&first, 1);
    replays(&there.send(), &first);
    assert!(matches!(world.redis.ask(&["PTTL", &key]), Reply::Integer(1..=1_800_000)));
    assert_eq!(world.ledger.entries_for("/persistent").len(), 1);
}
