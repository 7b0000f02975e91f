//! Gateways that die or sleep, stores that are away for longer than a lease, and stores that forget.
//!
//! Its one rule: leases are short, and every execution beyond the first must be one that the protocol allows.
//! It does not know of faults that leave leases alone: see `redis_faults.rs`.

use std::time::{Duration, Instant};

use envoy_idempotency::record::State;
use harness::redis::DURABLE;
use harness::{Fault, PATIENCE, Redis, SharedWorld, wait_for, wait_until};
use serde_json::{Value, json};

use crate::check::{executed, is_refusal, not_stored, refused, replays, said, shown};
use crate::redis::{held, key_of, record};
use crate::redis_errors::replayed;
use crate::redis_load::{Promise, document as outlasting, storm};

const LEASE: Duration = Duration::from_secs(1);

/// Short leases; under `/hold/` nobody takes over.
fn document() -> Value {
    json!({
        "policy": { "lease_ms": 1000, "ttl_s": 1800 },
        "rules": [{ "match": { "path": { "prefix": "/hold/" } }, "policy": { "on_unknown": "hold" } }, {}],
    })
}

#[test]
fn what_a_killed_gateway_had_under_way_is_unknown() {
    let world = SharedWorld::start(document());
    let paths = ["/killed", "/hold/killed"];
    let _running = paths.map(|path| held(&world, &world.post(path).key("k"), "never"));
    world.gateways[0].kill();
    let killed = Instant::now();
    let [pay, hold] = paths.map(|path| world.post(path).to(world.other()).key("k").body("ten"));
    refused(&pay.send(), 429, "in-flight", Some("1"));
    refused(&pay.clone().body("twenty").send(), 409, "mismatch", None);

    let second =
        wait_for("the lease is over", PATIENCE, || Some(pay.send()).filter(|answer| !is_refusal(answer, "in-flight")));
    // It may have been renewed up to a lease's last third before.
    assert!(killed.elapsed() > LEASE / 2, "{:?}", killed.elapsed());
    executed(&second.unwrap(), 2);
    wait_until("nobody takes it over", PATIENCE, || !is_refusal(&hold.send(), "in-flight"));
    refused(&hold.send(), 409, "outcome-unknown", None);
    let attempts: Vec<_> = world.ledger.entries_for("/killed").iter().map(|entry| entry.attempt).collect();
    assert_eq!(attempts, [Some(1), Some(2)]);
    assert_eq!(world.ledger.entries_for("/hold/killed").len(), 1);
    assert_eq!(world.gateways[1].counted("takeover"), 1);
}

#[test]
fn a_gateway_is_killed_under_load() {
    let world = SharedWorld::start(json!({ "policy": { "lease_ms": 2000, "ttl_s": 1800 } }));
    storm(&world, Promise::takeovers(2, 2 * LEASE), |_| world.gateways[0].kill());
}

#[test]
fn a_gateway_sleeps_past_its_leases_under_load() {
    let world = SharedWorld::start(json!({ "policy": { "lease_ms": 1000, "ttl_s": 1800 } }));
    storm(&world, Promise::takeovers_and_latecomers(2), |progress| {
        world.gateways[0].freeze();
        let frozen = Instant::now();
        wait_until("two leases have passed", PATIENCE, || frozen.elapsed() > 2 * LEASE);
        world.gateways[0].thaw();
        progress.wait_for(1);
    });
}

#[test]
fn a_late_owner_takes_nothing_from_its_successor() {
    let world = SharedWorld::start(document());
    let pay = world.post("/late/owner").key("k");
    let mut first = held(&world, &pay, "late-owner");
    world.gateways[0].freeze();
    let there = pay.clone().to(world.other()).body("ten");
    let second = wait_for("the lease is over", PATIENCE, || Some(there.send()).filter(|answer| answer.status == 201));
    let second = second.unwrap();
    executed(&second, 2);

    world.ledger.open("late-owner");
    world.gateways[0].thaw();
    let first = first.response();
    not_stored(&first, 201, 1, "completed");
    assert_ne!(first.body, second.body);
    for gateway in &world.gateways {
        replays(&there.clone().to(gateway.addr()).send(), &second);
    }
    let attempts: Vec<_> = world.ledger.entries_for("/late/owner").iter().map(|entry| entry.attempt).collect();
    assert_eq!(attempts, [Some(1), Some(2)]);
}

#[test]
fn a_late_owner_whose_record_nobody_claimed_completes_it() {
    let world = SharedWorld::start(document());
    let pay = world.post("/late/alone").key("k");
    let mut first = held(&world, &pay, "late-alone");
    world.gateways[0].freeze();
    let frozen = Instant::now();
    wait_until("two leases have passed", PATIENCE, || frozen.elapsed() > 2 * LEASE);
    world.ledger.open("late-alone");
    world.gateways[0].thaw();
    let first = first.response();
    executed(&first, 1);
    replays(&pay.to(world.other()).body("ten").send(), &first);
    assert_eq!(world.ledger.entries_for("/late/alone").len(), 1);
}

#[test]
fn a_claim_that_was_slept_over_does_not_execute() {
    let mut document = document();
    document["store"] = json!({ "timeout_ms": 10_000 });
    let world = SharedWorld::start(document);
    let pay = world.post("/late/claim").key("k").body("ten");
    executed(&world.post("/late/first").key("k").body("ten").send(), 1);
    let known = world.redis.keys();
    world.interposer.next(1, Fault::DelayReply(Duration::from_millis(500)));
    let mut sleeper = pay.open();
    sleeper.write("ten");
    wait_until("the claim is granted", PATIENCE, || world.redis.keys().len() > known.len());
    world.gateways[0].freeze();
    let there = pay.clone().to(world.other());
    let second = wait_for("the lease is over", PATIENCE, || Some(there.send()).filter(|answer| answer.status == 201));
    let second = second.unwrap();
    executed(&second, 2);

    world.gateways[0].thaw();
    let late = sleeper.response();
    let line = said(&late);
    assert!(line.starts_with("refused;") || line.starts_with("replayed;"), "{}", shown(&late));
    replays(&pay.send(), &second);
    let attempts: Vec<_> = world.ledger.entries_for("/late/claim").iter().map(|entry| entry.attempt).collect();
    assert_eq!(attempts, [Some(2)]);
}

#[test]
fn payments_that_finish_while_redis_is_away_are_not_forgotten() {
    let world = SharedWorld::on(Redis::with(&DURABLE), document());
    let pays = [0, 1].map(|n| world.post(&format!("/away/{n}")).key("k").to(world.gateways[n].addr()));
    let mut running = pays.each_ref().map(|pay| held(&world, pay, "away"));
    world.redis.kill();
    let away = Instant::now();
    world.ledger.open("away");
    let firsts = running.each_mut().map(|connection| connection.response());
    for first in &firsts {
        not_stored(first, 201, 1, "completed");
    }
    let pays = pays.map(|pay| pay.body("ten"));
    wait_until("two leases have passed", PATIENCE, || {
        for pay in &pays {
            for gateway in &world.gateways {
                let answer = pay.clone().to(gateway.addr()).send();
                assert!([429, 503].contains(&answer.status), "{}", shown(&answer));
            }
        }
        away.elapsed() > 2 * LEASE
    });
    assert_eq!(world.ledger.entries().len(), 2);

    world.redis.restart();
    for (pay, first) in pays.iter().zip(&firsts) {
        let key = key_of(&world, pay.path());
        wait_until("its outcome has landed", PATIENCE, || {
            record(&world, &key).is_some_and(|record| matches!(record.state, State::Completed { .. }))
        });
        for gateway in &world.gateways {
            assert_eq!(replayed(&pay.clone().to(gateway.addr())).body, first.body);
        }
    }
    assert_eq!(world.ledger.entries().len(), 2);
    wait_until("nothing is owed", PATIENCE, || world.stat("outbox") == 0);
}

#[test]
fn leases_that_end_while_redis_stands_still_are_taken_over_in_order() {
    let world = SharedWorld::start(json!({ "policy": { "lease_ms": 1000, "ttl_s": 1800 } }));
    storm(&world, Promise::takeovers(4, LEASE), |progress| {
        let stopped = Instant::now();
        world.redis.freeze();
        wait_until("three leases have passed", PATIENCE, || stopped.elapsed() > 3 * LEASE);
        progress.wait_for(1);
        world.redis.thaw();
    });
}

#[test]
fn a_redis_that_was_flushed_replays_nothing_false() {
    let world = SharedWorld::start(outlasting());
    storm(&world, Promise::ONCE_MORE_AFTER_A_LOSS, |progress| {
        world.redis.ask(&["FLUSHALL"]);
        progress.wait_for(50);
    });
}

#[test]
fn a_replica_that_lagged_forgets_only_what_it_never_had() {
    // What the replica has last heard of as running stays so for a lease.
    let policy = json!({ "lease_ms": 2000, "ttl_s": 1800 });
    let world = SharedWorld::start(json!({ "store": { "cache": null }, "policy": policy }));
    let replica = world.redis.replica();
    let pay = |path: &str| world.post(path).key("k").body("ten");
    let kept = pay("/replica/kept").send();
    executed(&kept, 1);
    let key = key_of(&world, "/replica/kept");
    wait_until("the replica has it", PATIENCE, || replica.get(key.as_bytes()) == world.redis.get(key.as_bytes()));

    let mut lost = None;
    storm(&world, Promise::ONCE_MORE_AFTER_A_LOSS, |progress| {
        // From here on it hears nothing any more.
        replica.ask(&["REPLICAOF", "NO", "ONE"]);
        lost = Some(pay("/replica/lost").send());
        progress.wait_for(50);
        world.redis.kill();
        progress.wait_for(50);
        world.turn_to(replica.addr());
    });
    let lost = lost.unwrap();
    executed(&lost, 1);
    replays(&pay("/replica/kept").to(world.other()).send(), &kept);
    let again = pay("/replica/lost").to(world.other()).send();
    executed(&again, 1);
    assert_ne!(again.body, lost.body);
    replays(&pay("/replica/lost").send(), &again);
    let entries = world.ledger.entries_for("/replica/lost");
    assert_eq!((entries.len(), entries[0].operation == entries[1].operation), (2, true));
}
