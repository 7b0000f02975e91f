//! Duplicates that come while the first request runs, alone and in crowds, and requests that only look like duplicates.
//!
//! Its one rule: the first request is known to run, because the service holds its answer until the test lets it go.
//! It does not know of leases.

use std::thread;

use harness::{Connection, PATIENCE, Request, Response, World, send_all, wait_until};
use serde_json::json;

use crate::check::{executed, is_refusal, refused, replays, said};
use crate::worlds::{plain, rules, start};

const TEN: &str = r#"{"amount":10}"#;
const TWENTY: &str = r#"{"amount":20}"#;

#[test]
fn a_key_used_with_another_payload_is_a_mismatch() {
    let world = plain();
    let pay = world.post("/running/mismatch").key("k").body(TEN);
    let first = pay.send();
    executed(&first, 1);

    let other = pay.clone().body(TWENTY).send();
    refused(&other, 409, "mismatch", None);
    assert_eq!(said(&other), "refused;reason=mismatch");
    let problem = other.json();
    assert_eq!(problem["title"], json!("Idempotency key already used with different request payload"));
    assert_eq!(problem["type"], json!("urn:envoy-idempotency:mismatch"));
    replays(&pay.send(), &first);
    assert_eq!(world.ledger.entries_for("/running/mismatch").len(), 1);
}

#[test]
fn query_and_media_type_are_part_of_the_payload_and_other_headers_are_not() {
    let world = plain();
    let pay = |query: &str| world.post(&format!("/running/payload{query}")).key("k").body(TEN);
    let json = |query: &str| pay(query).header("content-type", "application/json; charset=utf-8");
    let first = json("?a=1").send();
    executed(&first, 1);

    for other in [json("?a=2"), json(""), pay("?a=1"), pay("?a=1").header("content-type", "text/plain")] {
        refused(&other.send(), 409, "mismatch", None);
    }
    let same = pay("?a=1").header("content-type", "Application/JSON").header("x-trace", "2").header("user-agent", "b");
    replays(&same.send(), &first);
}

#[test]
fn an_operator_can_choose_what_the_payload_is() {
    let world = rules();
    let pay = |query: &str| world.post(&format!("/head-only/a{query}")).key("k").header("x-version", "1");
    let first = pay("?a=1").body(TEN).send();
    executed(&first, 1);
    replays(&pay("?a=2").header("content-type", "text/plain").body(TWENTY).send(), &first);
    let another = world.post("/head-only/a").key("k").header("x-version", "2").body(TEN);
    refused(&another.send(), 409, "mismatch", None);
}

#[test]
fn a_mismatch_is_seen_while_the_first_request_runs() {
    let world = plain();
    let pay = world.post("/running/mismatch-early").key("k");
    let mut first = start(&world, &pay, TEN, "mismatch-early");

    refused(&pay.clone().body(TWENTY).send(), 409, "mismatch", None);
    let same = pay.clone().body(TEN).send();
    refused(&same, 429, "in-flight", Some("1"));
    assert_eq!(said(&same), "refused;attempt=1;reason=in-flight");
    world.ledger.open("mismatch-early");
    let first = first.response();
    executed(&first, 1);
    replays(&pay.body(TEN).send(), &first);
    assert_eq!(world.ledger.entries_for("/running/mismatch-early").len(), 1);
}

#[test]
fn the_statuses_of_the_ietf_draft_can_be_chosen() {
    let world = rules();
    let pay = world.post("/ietf/pay").key("k");
    let mut first = start(&world, &pay, TEN, "ietf-pay");
    refused(&pay.clone().body(TEN).send(), 409, "in-flight", Some("1"));
    let mismatch = pay.clone().body(TWENTY).send();
    refused(&mismatch, 422, "mismatch", None);
    assert_eq!(mismatch.json()["type"], json!("https://docs.example.com/problems/mismatch"));
    world.ledger.open("ietf-pay");
    executed(&first.response(), 1);

    let own = world.post("/own-statuses/pay").key("k");
    executed(&own.clone().body(TEN).send(), 1);
    refused(&own.body(TWENTY).send(), 400, "mismatch", None);
}

#[test]
fn of_64_connections_at_once_one_executes() {
    let world = plain();
    one_of_64(&world, "/running/crowd", 429, send_all);
    // The crowd was spread over both workers, otherwise it has shown nothing.
    let all = world.gateway.admin("/stats?filter=worker_.*downstream_cx_total");
    let counts: Vec<u64> = all.lines().filter_map(|line| line.rsplit(": ").next()?.parse().ok()).collect();
    assert!(counts.len() == 2 && counts.iter().all(|count| *count > 0), "{all}");
}

#[test]
fn of_64_connections_at_once_one_executes_with_the_statuses_of_the_draft() {
    one_of_64(&rules(), "/ietf/crowd", 409, send_all);
}

#[test]
fn of_64_streams_of_one_http_2_connection_one_executes() {
    one_of_64(&plain(), "/running/crowd-http2", 429, Request::send_h2_all);
}

#[test]
fn a_crowd_with_many_keys_executes_each_once() {
    let world = plain();
    let requests: Vec<_> = (0..64)
        .map(|n| {
            world.post("/running/many-keys").key(format!("key-{}", n % 16)).body(TEN).header("x-test-delay-ms", "50")
        })
        .collect();
    let answers = send_all(&requests);
    assert_eq!(world.ledger.entries_for("/running/many-keys").len(), 16);
    assert_eq!(answers.iter().filter(|answer| said(answer).starts_with("executed;stored=?1;attempt=1;")).count(), 16);
    for answer in answers.iter().filter(|answer| answer.status != 201) {
        refused(answer, 429, "in-flight", Some("1"));
    }
}

#[test]
fn a_duplicate_is_refused_and_others_run_on_while_one_request_runs() {
    let world = plain();
    let pay = world.post("/running/others").body(TEN);
    let mut running: Vec<Connection> = (0..4)
        .map(|n| {
            let pay = world.post(&format!("/running/others-{n}")).key("k");
            start(&world, &pay, TEN, "others")
        })
        .collect();
    executed(&pay.clone().key("l").send(), 1);
    assert_eq!(said(&pay.send()), "bypassed;reason=no-key");
    world.ledger.open("others");
    for connection in &mut running {
        executed(&connection.response(), 1);
    }
}

/// Sends 64 of the same, of which the service holds the first until the other 63 are answered.
#[track_caller]
fn one_of_64(world: &World, path: &'static str, refusal: u16, send: fn(&[Request]) -> Vec<Response>) {
    let pay = world.post(path).key("k").body(TEN);
    let crowd = vec![pay.clone().header("x-test-hold", path); 64];
    let answers = thread::scope(|scope| {
        scope.spawn(|| {
            let ended = format!("POST {path} {refusal} ");
            wait_until("63 are refused", PATIENCE, || world.gateway.access_log().matches(&ended).count() == 63);
            world.ledger.open(path);
        });
        send(&crowd)
    });
    let (refusals, rest): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| is_refusal(answer, "in-flight"));
    assert_eq!(refusals.len(), 63);
    for answer in refusals {
        refused(answer, refusal, "in-flight", Some("1"));
    }
    executed(rest[0], 1);
    assert_eq!(world.ledger.entries_for(path).len(), 1);
    replays(&pay.send(), rest[0]);
    assert_eq!(world.ledger.entries_for(path).len(), 1);
}
