//! Shielded executions at gateways that share a Redis.
//!
//! Its one rule: the client hangs up, or its gateway dies, at a chosen point between two calls to the store, and the
//! other gateway is asked what became of it.
//! It does not know of outcomes that need no store: see `shielded.rs`.

use std::time::Duration;

use envoy_idempotency::record::State;
use harness::gateway::shipped;
use harness::ledger::base64;
use harness::{Connection, Fault, PATIENCE, Redis, Request, Response, SharedWorld, wait_for, wait_until};
use serde_json::{Value, json};

use crate::check::{executed, is_refusal, refused, replays, said, shown};
use crate::redis::{PATIENT_MS, held, key_of, record};
use crate::shielded::{answered, document};

/// How long the store keeps a client waiting that is about to hang up.
const LATE: Duration = Duration::from_secs(1);

/// Two gateways with the rules of `shielded.rs`.
fn two() -> SharedWorld {
    let mut document = document();
    document["store"] = json!({ "timeout_ms": PATIENT_MS });
    gateways(document)
}

/// Two gateways of `envoy/redis.yaml` that can shield.
pub fn gateways(document: Value) -> SharedWorld {
    SharedWorld::with(Redis::start(), &[document.clone(), document], |options| options.mutate(add_shielding))
}

/// Adds what `envoy/shielded.yaml` has and `envoy/redis.yaml` has not.
pub fn add_shielding(tree: &mut Value) {
    let from = shipped("shielded.yaml").unwrap();
    tree["bootstrap_extensions"] = from["bootstrap_extensions"].clone();
    for (kind, name) in [("listeners", "shielded"), ("clusters", "shielded")] {
        let one = from["static_resources"][kind].as_array().unwrap().iter().find(|one| one["name"] == name);
        tree["static_resources"][kind].as_array_mut().unwrap().push(one.unwrap().clone());
    }
}

/// A request as sent, whose client is about to go.
fn sent(pay: &Request) -> Connection {
    let mut connection = pay.clone().body("ten").open();
    connection.write("ten");
    connection
}

/// Nothing runs, waits or is owed.
#[track_caller]
pub fn is_quiet(world: &SharedWorld) {
    for gauge in ["running", "waiting", "outbox"] {
        wait_until(&format!("{gauge} is 0"), PATIENCE, || world.stat(gauge) == 0);
    }
}

/// A replay of the first attempt.
#[track_caller]
pub fn replayed(answer: &Response) {
    assert!(said(answer).starts_with("replayed;attempt=1;"), "{}", shown(answer));
    assert_eq!(answer.status, 201);
}

#[test]
fn a_client_that_hangs_up_between_two_calls_to_the_store_loses_no_outcome() {
    let world = two();
    let first = world.post("/two/first").key("k").body("ten");
    let answer = first.send();
    executed(&answer, 1);
    replays(&first.clone().to(world.other()).send(), &answer);
    replays(&first.send(), &answer);
    refused(&first.clone().to(world.other()).body("twenty").send(), 409, "mismatch", None);

    // While the claim is in flight: nobody executes for a client that has gone.
    let pay = world.post("/two/claim").key("k");
    let calls = world.interposer.calls();
    world.interposer.next(1, Fault::DelayReply(LATE));
    let connection = sent(&pay);
    world.interposer.wait_for_calls(calls + 1);
    drop(connection);
    world.gateways[0].wait_for_access_log("POST /two/claim 0 ");
    let there = pay.to(world.other()).body("ten");
    let retry = answered(&there);
    assert!(said(&retry).starts_with("executed;stored=?1;attempt="), "{}", shown(&retry));
    assert_eq!(world.ledger.entries_for("/two/claim").len(), 1);

    // While the service works, and while the save is in flight.
    for (name, fault) in [("works", Fault::Pass), ("save", Fault::DelayReply(LATE)), ("lost-save", Fault::CutBefore)] {
        let pay = world.post(&format!("/two/{name}")).key("k");
        let connection = held(&world, &pay, name);
        refused(&pay.clone().to(world.other()).body("ten").send(), 429, "in-flight", Some("1"));
        let calls = world.interposer.calls();
        world.interposer.next(1, fault);
        if name == "works" {
            drop(connection);
            world.gateways[0].wait_for_access_log(&format!("POST {} 0 ", pay.path()));
            world.ledger.open(name);
        } else {
            world.ledger.open(name);
            world.interposer.wait_for_calls(calls + 1);
            drop(connection);
        }
        for gateway in &world.gateways {
            replayed(&answered(&pay.clone().to(gateway.addr()).body("ten")));
        }
        assert_eq!(world.ledger.entries_for(pay.path()).len(), 1);
    }

    // In mid-replay.
    let large = world.post("/two/replay").key("k").header("x-test-body-size", "500000").body("ten");
    let first = large.send();
    executed(&first, 1);
    for gateway in &world.gateways {
        let mut connection = large.clone().to(gateway.addr()).open();
        connection.write("ten");
        assert_eq!(connection.head().status, 201);
        connection.reset();
    }
    replays(&large.to(world.other()).send(), &first);
    assert_eq!(world.ledger.entries().len(), 6);
    is_quiet(&world);
    assert_eq!(world.counted("unknown"), 0);
}

#[test]
fn what_a_killed_gateway_executed_for_its_clients_is_unknown() {
    let world = two();
    let paths = ["/short/killed", "/hold/killed"];
    let _running = paths.map(|path| held(&world, &world.post(path).key("k"), "never"));
    world.gateways[0].kill();
    let [pay, hold] = paths.map(|path| world.post(path).to(world.other()).key("k").body("ten"));
    refused(&pay.clone().body("twenty").send(), 409, "mismatch", None);
    let second = wait_for("the lease is over", PATIENCE, || {
        let answer = pay.send();
        (!is_refusal(&answer, "in-flight") && !is_refusal(&answer, "outcome-unknown")).then_some(answer)
    });
    executed(&second.unwrap(), 2);
    wait_until("nobody takes it over", PATIENCE, || !is_refusal(&hold.send(), "in-flight"));
    refused(&hold.send(), 409, "outcome-unknown", None);
    let attempts = |path| world.ledger.entries_for(path).iter().map(|entry| entry.attempt).collect::<Vec<_>>();
    assert_eq!(attempts("/short/killed"), [Some(1), Some(2)]);
    assert_eq!(attempts("/hold/killed"), [Some(1)]);
}

#[test]
fn a_lease_is_renewed_for_a_client_that_has_gone_and_its_outcome_survives_the_store_being_away() {
    let world = two();
    let pay = world.post("/short/away").key("k");
    drop(held(&world, &pay, "away"));
    let there = pay.to(world.other()).body("ten");
    let started = std::time::Instant::now();
    wait_until("two leases have passed", PATIENCE, || {
        refused(&there.send(), 429, "in-flight", Some("1"));
        started.elapsed() > Duration::from_secs(2)
    });
    world.interposer.close();
    world.ledger.open("away");
    wait_until("the outcome is owed", PATIENCE, || world.stat("outbox") > 0);
    world.interposer.open();
    let key = key_of(&world, "/short/away");
    wait_until("the outcome has landed", PATIENCE, || {
        record(&world, &key).is_some_and(|record| matches!(record.state, State::Completed { .. }))
    });
    replayed(&answered(&there));
    assert_eq!(world.ledger.entries().len(), 1);
    is_quiet(&world);
}

#[test]
fn duplicates_at_both_gateways_wait_for_an_execution_whose_client_has_gone() {
    let world = two();
    let pay = world.post("/wait/two").key("k");
    let first = held(&world, &pay, "wait-two");
    let crowd: Vec<_> = (0..20).map(|n| pay.clone().to(world.gateways[n % 2].addr()).body("ten")).collect();
    let answers = std::thread::scope(|scope| {
        let crowd = scope.spawn(|| harness::send_all(&crowd));
        wait_until("all wait", PATIENCE, || world.stat("waiting") == 20);
        drop(first);
        world.gateways[0].wait_for_access_log("POST /wait/two 0 ");
        world.ledger.open("wait-two");
        crowd.join().unwrap()
    });
    for answer in &answers {
        replayed(answer);
        assert_eq!(answer.body, answers[0].body);
    }
    assert_eq!(world.ledger.entries().len(), 1);
    is_quiet(&world);
}

#[test]
fn under_forward_a_request_whose_claim_failed_goes_upstream_as_its_client_sent_it() {
    let mut document = document();
    document["policy"]["on_store_failure"] = json!("forward");
    let world = gateways(document);
    let inside = || world.gateways[0].stat("http.shielded.downstream_rq_total");
    // What runs goes on, though the store is away and its client has gone.
    let pay = world.post("/short/forward-runs").key("k");
    let running = held(&world, &pay, "forward-runs");
    assert_eq!(inside(), 1);
    world.interposer.close();
    let away = world.post("/forward/away").key("k").body("ten");
    let first = away.send();
    assert_eq!((first.status, said(&first)), (201, "bypassed;reason=store-failure"), "{}", shown(&first));
    let entry = world.ledger.entries_for(away.path()).remove(0);
    assert_eq!((entry.attempt, entry.operation, entry.key.as_deref()), (None, None, Some("k")));
    assert_eq!(inside(), 1);
    drop(running);
    world.gateways[0].wait_for_access_log(&format!("POST {} 0 ", pay.path()));
    world.ledger.open("forward-runs");
    wait_until("its outcome is owed", PATIENCE, || world.stat("outbox") >= 2);
    world.interposer.open();
    is_quiet(&world);
    for gateway in &world.gateways {
        replayed(&answered(&pay.clone().to(gateway.addr()).body("ten")));
        let again = answered(&away.clone().to(gateway.addr()));
        assert!(said(&again).starts_with("replayed;") && again.body == first.body, "{}", shown(&again));
    }
    assert_eq!(world.ledger.entries().len(), 2);
}

#[test]
fn a_content_type_stays_as_it_is_while_the_store_is_being_told() {
    let world = two();
    let pay = world.post("/after-reply/typeless").key("k").header("x-test-header", "content-type:").body("ten");
    let pay = pay.header("x-test-body-base64", base64([0, 255]));
    let calls = world.interposer.calls();
    world.interposer.next(2, Fault::DelayReply(LATE));
    let first = pay.send();
    assert_eq!((first.status, first.header("content-type"), first.body.as_slice()), (201, None, [0, 255].as_slice()));
    world.interposer.wait_for_calls(calls + 2);
    for gateway in &world.gateways {
        replays(&answered(&pay.clone().to(gateway.addr())), &first);
    }
    is_quiet(&world);
}
