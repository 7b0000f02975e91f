//! What becomes of the key, by what came back from the service.
//!
//! Its one rule: the fate of a key shows in what the next request with it gets, and in its attempt number.
//! It does not know of outcomes that nobody knows.

use harness::{PATIENCE, Request, Response, World, send_all, wait_until};
use serde_json::json;

use crate::check::{executed, is_refusal, not_stored, refused, replays, said, shown};
use crate::worlds::{plain, rules, troubled};

#[test]
fn success_and_redirection_are_stored() {
    let world = plain();
    for status in ["200", "201", "202", "204", "206", "301", "302", "303", "304", "307", "308"] {
        let pay =
            world.post(&format!("/outcomes/stored-{status}")).key("k").header("x-test-status", status).body("ten");
        let first = pay.send();
        assert_eq!(first.status.to_string(), status);
        executed(&first, 1);
        assert!(first.header("location").is_some());
        replays(&pay.send(), &first);
        assert_eq!(world.ledger.entries_for(pay.path()).len(), 1);
    }
}

#[test]
fn a_definite_failure_frees_the_key_for_a_corrected_payload() {
    let world = plain();
    for status in [400, 401, 404, 409, 422, 429] {
        let pay = world.post(&format!("/outcomes/released-{status}")).key("k");
        let failing = pay.clone().header("x-test-status", status.to_string());
        not_stored(&failing.clone().body("wrong").send(), status, 1, "released");
        not_stored(&failing.body("wrong again").send(), status, 2, "released");
        let corrected = pay.body("right");
        let third = corrected.send();
        executed(&third, 3);
        replays(&corrected.send(), &third);
        attempts(&world, corrected.path(), &[1, 2, 3]);
    }
}

#[test]
fn a_failure_of_the_service_lets_the_same_payload_run_again_at_once() {
    let world = plain();
    for status in [500, 503, 599] {
        let pay = world.post(&format!("/outcomes/retried-{status}")).key("k").body("ten");
        let failing = pay.clone().header("x-test-status", status.to_string());
        not_stored(&failing.send(), status, 1, "retry");
        not_stored(&failing.send(), status, 2, "retry");
        refused(&failing.body("twenty").send(), 409, "mismatch", None);
        let third = pay.send();
        executed(&third, 3);
        replays(&pay.send(), &third);
        attempts(&world, pay.path(), &[1, 2, 3]);
    }
}

#[test]
fn the_failures_themselves_come_through_as_the_service_sent_them() {
    let world = plain();
    let pay = world
        .post("/outcomes/through")
        .key("k")
        .header("x-test-status", "503")
        .header("x-test-header", "retry-after: 120")
        .header("x-test-body-size", "70000")
        .body("ten");
    let failed = pay.send();
    not_stored(&failed, 503, 1, "retry");
    assert_eq!(failed.header("retry-after"), Some("120"));
    assert!(failed.body == harness::ledger::body_of_size(70_000));
}

#[test]
fn a_request_that_reached_nobody_frees_the_key() {
    let world = troubled();
    for route in ["refused", "nobody"] {
        let pay = world.post(&format!("/outcomes/unsent-{route}")).key("k");
        let unsent = pay.clone().header("x-route", route);
        not_stored(&unsent.clone().body("ten").send(), 503, 1, "released");
        not_stored(&unsent.body("twenty").send(), 503, 2, "released");
        assert_eq!(world.ledger.entries_for(pay.path()).len(), 0);
        let first = pay.clone().body("thirty").send();
        executed(&first, 3);
        replays(&pay.body("thirty").send(), &first);
    }
}

#[test]
fn a_body_that_broke_off_is_completed_and_not_replayable() {
    let world = troubled();
    for (place, framing) in [("mid-body", "0"), ("after-headers", "0"), ("mid-body", "1")] {
        let pay = world.post(&format!("/outcomes/broken-{place}-{framing}")).key("k").body("ten");
        let breaking = pay.clone().header("x-test-reset", place).header("x-test-body-size", "40000");
        let breaking = if framing == "1" { breaking.header("x-test-chunked", "1") } else { breaking };
        // What the client gets of it is Envoy's affair.
        if let Ok(answer) = breaking.try_send() {
            assert_ne!(answer.status, 201, "{}", shown(&answer));
        }
        let again = pay.send();
        refused(&again, 409, "not-replayable", None);
        assert_eq!(said(&again), "refused;attempt=1;reason=not-replayable");
        refused(&pay.clone().body("twenty").send(), 409, "mismatch", None);
        assert_eq!(world.ledger.entries_for(pay.path()).len(), 1);
    }
}

#[test]
fn a_body_that_takes_too_long_is_completed_and_not_replayable() {
    let world = troubled();
    let pay = world.post("/outcomes/slow-body").key("k").body("ten");
    let slow = pay.clone().header("x-route", "impatient").header("x-test-delay-body-ms", "5000");
    if let Ok(answer) = slow.try_send() {
        assert_ne!(answer.status, 201, "{}", shown(&answer));
    }
    refused(&pay.send(), 409, "not-replayable", None);
    assert_eq!(world.ledger.entries_for(pay.path()).len(), 1);
}

#[test]
fn a_client_that_hangs_up_after_the_status_has_come_leaves_a_completed_operation() {
    let world = World::start(json!({}));
    let pay = world.post("/hangs-up").key("k").body("ten");
    let mut connection = pay.clone().header("x-test-delay-body-ms", "20000").open();
    connection.write("ten");
    // Counted by Envoy when the head of the answer comes.
    world.gateway.wait_for_stat("cluster.payments.upstream_rq_201", 1);
    refused(&pay.send(), 429, "in-flight", Some("1"));
    drop(connection);
    wait_until("Envoy has noticed", PATIENCE, || !is_refusal(&pay.send(), "in-flight"));
    refused(&pay.send(), 409, "not-replayable", None);
    assert_eq!(world.ledger.entries().len(), 1);
}

#[test]
fn of_many_retries_after_a_failure_one_executes() {
    let world = plain();
    let pay = world.post("/outcomes/crowd").key("k").body("ten");
    not_stored(&pay.clone().header("x-test-status", "500").send(), 500, 1, "retry");
    let answers = send_all(&vec![pay.clone().header("x-test-delay-ms", "300"); 32]);
    assert_eq!(answers.iter().filter(|answer| said(answer).starts_with("executed;")).count(), 1);
    attempts(&world, pay.path(), &[1, 2]);
}

#[test]
fn a_full_table_lets_the_oldest_bodies_go_and_forgets_no_operation() {
    let world = World::start(json!({ "store": { "max_bytes": 1_048_576 } }));
    let pay = |n: usize| world.post(&format!("/{n}")).key("k").header("x-test-body-size", "300000").body("ten");
    let firsts: Vec<_> = (0..8).map(|n| pay(n).send()).collect();
    for first in &firsts {
        executed(first, 1);
    }
    replays(&pay(7).send(), &firsts[7]);
    for (n, first) in firsts.iter().enumerate() {
        let again = pay(n).send();
        if is_refusal(&again, "not-replayable") {
            refused(&again, 409, "not-replayable", None);
            assert!(n < 5, "operation {n} of 8 has lost its body");
        } else {
            replays(&again, first);
        }
    }
    refused(&pay(0).send(), 409, "not-replayable", None);
    assert_eq!(world.ledger.entries().len(), 8);
    let bytes = || world.gateway.stat("wasmcustom.idempotency_store_bytes");
    wait_until("the gauge tells", PATIENCE, || (300_000..=1_048_576).contains(&bytes()));
}

#[test]
fn an_operator_can_decide_by_status_and_an_exact_one_beats_its_class() {
    let world = rules();
    let pay = |status: u16| {
        let pay = world.post(&format!("/outcomes/{status}")).key("k");
        (pay.clone().header("x-test-status", status.to_string()).body("ten"), pay)
    };
    let (stored, _) = pay(404);
    let first = stored.send();
    assert_eq!((first.status, said(&first)), (404, "executed;stored=?1;attempt=1;ttl=1800"));
    replays(&stored.send(), &first);

    let (retried, other) = pay(409);
    not_stored(&retried.send(), 409, 1, "retry");
    refused(&other.body("twenty").send(), 409, "mismatch", None);
    not_stored(&retried.send(), 409, 2, "retry");

    let (released, other) = pay(202);
    not_stored(&released.send(), 202, 1, "released");
    executed(&other.body("twenty").send(), 2);

    let (unknown, _) = pay(503);
    not_stored(&unknown.send(), 503, 1, "unknown");
    let again = unknown.send();
    let seconds: u64 = again.header("retry-after").unwrap().parse().unwrap();
    refused(&again, 409, "outcome-unknown", again.header("retry-after"));
    assert!((55..=60).contains(&seconds), "the lease is a minute: {seconds}");

    // What is not said keeps its default.
    let (retried, _) = pay(500);
    not_stored(&retried.send(), 500, 1, "retry");
    not_stored(&retried.send(), 500, 2, "retry");
}

#[test]
fn the_service_can_overrule_per_response() {
    let world = plain();
    let steered = |status: &str, word: &str| {
        let pay = world.post(&format!("/outcomes/steered-{status}-{word}")).key("k").body("ten");
        let steered =
            pay.clone().header("x-test-status", status).header("x-test-header", format!("Idempotency-Store: {word}"));
        (steered, pay)
    };
    let (stored, _) = steered("500", "store");
    let first = stored.send();
    executed(&first, 1);
    replays(&stored.send(), &first);

    let (released, pay) = steered("201", "release");
    unsteered(&released.send(), 201, 1, "released");
    executed(&pay.body("twenty").send(), 2);

    let (retried, pay) = steered("400", "retry");
    unsteered(&retried.send(), 400, 1, "retry");
    refused(&pay.clone().body("twenty").send(), 409, "mismatch", None);
    executed(&pay.send(), 2);

    let (unknown, pay) = steered("201", "unknown");
    unsteered(&unknown.send(), 201, 1, "unknown");
    let again = pay.send();
    refused(&again, 409, "outcome-unknown", again.header("retry-after"));
    assert!(again.header("retry-after").is_some());

    // What cannot be read frees nothing: the status would say that it failed.
    for (n, word) in ["maybe", "unknown, retry", "release~store", "Unknown, UNKNOWN"].into_iter().enumerate() {
        let failing = world.post(&format!("/outcomes/unreadable-{n}")).key("k").header("x-test-status", "500");
        let failed = failing.header("x-test-header", format!("Idempotency-Store: {word}")).body("ten").send();
        unsteered(&failed, 500, 1, "unknown");
    }

    let (nonsense, _) = steered("201", "maybe");
    let first = nonsense.send();
    executed(&first, 1);
    assert_eq!(first.header("idempotency-store"), None);
}

#[test]
fn the_service_can_say_how_long_a_response_is_kept() {
    let world = plain();
    let pay = |name: &str| world.post(&format!("/outcomes/ttl-{name}")).key("k").body("ten");
    let long = pay("long").header("x-test-header", "Idempotency-TTL: 86400");
    let first = long.send();
    assert_eq!(said(&first), "executed;stored=?1;attempt=1;ttl=86400");
    assert_eq!(first.header("idempotency-ttl"), None);
    replays(&long.send(), &first);
    for nonsense in ["soon", "-1", "+60", "60s", "1.5", "0", ""] {
        let first = pay(nonsense).header("x-test-header", format!("Idempotency-TTL: {nonsense}")).send();
        executed(&first, 1);
        assert_eq!(first.header("idempotency-ttl"), None);
    }
}

#[test]
fn steering_is_kept_from_clients_on_every_matched_request() {
    let world = plain();
    let steering = |request: Request| {
        request.header("x-test-header", "idempotency-store: store").header("x-test-header", "idempotency-ttl: 60")
    };
    let keyless = steering(world.post("/outcomes/steering-keyless").body("ten")).send();
    assert_eq!(said(&keyless), "bypassed;reason=no-key");
    let replayed = steering(world.post("/outcomes/steering").key("k").body("ten"));
    for answer in [keyless, replayed.send(), replayed.send()] {
        assert_eq!((answer.header("idempotency-store"), answer.header("idempotency-ttl")), (None, None));
    }
}

/// Nothing was kept, and the word of the service did not come through.
#[track_caller]
fn unsteered(response: &Response, status: u16, attempt: u32, outcome: &str) {
    not_stored(response, status, attempt, outcome);
    assert_eq!(response.header("idempotency-store"), None);
}

#[track_caller]
fn attempts(world: &World, path: &str, expected: &[u32]) {
    let entries = world.ledger.entries_for(path);
    let seen: Vec<_> = entries.iter().map(|entry| entry.attempt.unwrap_or(0)).collect();
    assert_eq!(seen, expected);
    assert!(entries.iter().all(|entry| entry.operation == entries[0].operation), "one operation: {entries:?}");
}
