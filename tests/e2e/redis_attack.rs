//! Small holes in what gateways on Redis remember and tell, each met by a story of its own.
//!
//! Its one rule: a test is the shortest way into one hole.
//! It does not know of load.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::Duration;

use harness::gateway::{cluster, set_endpoint};
use harness::ledger::body_of_size;
use harness::{Dialect, Fault, PATIENCE, Redis, Request, SharedWorld, wait_until};
use serde_json::json;

use crate::check::{executed, refused, replays, said, shown};
use crate::redis::{PATIENT_MS, held};

#[test]
fn a_client_that_broke_off_while_its_claim_was_slow_may_come_back() {
    let world = SharedWorld::alone(json!({ "store": { "timeout_ms": PATIENT_MS }, "policy": { "ttl_s": 1800 } }));
    // From here on Redis keeps the script.
    executed(&world.post("/broken-off/before").key("k").body("ten").send(), 1);
    let calls = world.interposer.calls();
    world.interposer.next(1, Fault::DelayReply(Duration::from_secs(2)));
    let pay = world.post("/broken-off").key("k").body("ten");
    let mut connection = pay.open();
    connection.write("ten");
    world.interposer.wait_for_calls(calls + 1);
    connection.reset();
    // The withdrawal is answered first.
    world.interposer.wait_for_calls(calls + 2);
    wait_until("the claim is answered too", PATIENCE, || match Dialect::chosen() {
        // On a stream before the withdrawal.
        Dialect::Resp => world.stat("outbox") == 0,
        Dialect::Webdis => world.gateways[0].stat("cluster.webdis.upstream_rq_active") == 0,
    });
    // The withdrawn claim has its number.
    executed(&pay.send(), 2);
    assert_eq!(world.ledger.entries_for("/broken-off").len(), 1);
}

#[test]
fn what_one_store_has_completed_is_not_replayed_for_another_behind_the_same_cluster() {
    let world = SharedWorld::with(Redis::start(), &[json!({ "policy": { "ttl_s": 1800 } })], |options| {
        options.lds().drain_time_s(1).mutate(|tree| {
            // Another cluster that leads to the same Redis, by whichever of the two there is.
            let clusters = tree["static_resources"]["clusters"].as_array_mut().unwrap();
            let mut another = clusters.iter().find(|it| it["name"] == Dialect::chosen().cluster()).unwrap().clone();
            (another["name"], another["load_assignment"]["cluster_name"]) = (json!("another"), json!("another"));
            clusters.push(another);
        })
    });
    let pay = world.post("/other-store").key("k").body("ten");
    let first = pay.send();
    replays(&pay.send(), &first);
    let cached = || world.counted("replayed_cached");
    assert_eq!(cached(), 1);
    let mut store = Dialect::chosen().store();
    match Dialect::chosen() {
        Dialect::Resp => store["cluster"] = json!("another"),
        Dialect::Webdis => store["authority"] = json!("another-store"),
    }
    world.gateways[0].update_plugin_config(&json!({ "store": store, "policy": { "ttl_s": 1800 } })).unwrap();
    // Here both names lead to one Redis, so the record is found, but by asking.
    replays(&pay.send(), &first);
    assert_eq!(cached(), 1);
}

#[test]
fn a_duplicate_that_got_no_answer_is_no_execution_whose_outcome_is_unknown() {
    let world = SharedWorld::start(json!({ "policy": { "ttl_s": 1800 } }));
    let pay = world.post("/withdrawn").key("k").body("ten");
    let first = pay.send();
    executed(&first, 1);
    let there = pay.to(world.other());
    let calls = world.interposer.calls();
    world.interposer.next(2, Fault::CutAfter);
    refused(&there.send(), 503, "store-unavailable", Some("1"));
    // Both tries, and the withdrawal.
    world.interposer.wait_for_calls(calls + 3);
    replays(&there.send(), &first);
    assert_eq!(world.counted("unknown"), 0);
    assert!(!world.gateways[1].log().contains("lost its lease"));
}

#[test]
fn what_the_store_lets_go_in_the_middle_of_its_body_arrives_whole() {
    let world = SharedWorld::alone(json!({ "store": { "timeout_ms": PATIENT_MS } }));
    let events = world.post("/middle/events").key("k").header("x-test-status", "404").header("x-test-sse", "10");
    let large = |path: &str| world.post(path).key("k").header("x-test-body-size", "3000000");
    for (pay, wanted) in [
        (events, (1..=10).map(|n| format!("data: {n}\n\n")).collect::<String>().into_bytes()),
        (large("/middle/large"), body_of_size(3_000_000)),
        (large("/middle/pieces").header("x-test-chunked", "1"), body_of_size(3_000_000)),
    ] {
        let mut running = held(&world, &pay, pay.path());
        // Some of the body comes before the store has heard of its end, and some after.
        world.interposer.set(Fault::DelayReply(Duration::from_millis(220)));
        world.ledger.open(pay.path());
        let answer = running.response();
        assert!(said(&answer).starts_with("executed;stored=?0;attempt=1"), "{}", shown(&answer));
        assert!(answer.body == wanted, "{}: {} bytes of {}", pay.path(), answer.body.len(), wanted.len());
        world.interposer.set(Fault::Pass);
    }
}

#[test]
fn an_answer_that_breaks_off_while_more_of_it_is_about_to_go_out_takes_nobody_with_it() {
    let service = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = service.local_addr().unwrap();
    let store = json!({ "timeout_ms": PATIENT_MS, "cache": null });
    let world = SharedWorld::with(Redis::start(), &[json!({ "store": store })], |options| {
        options.concurrency(1).mutate(move |tree| set_endpoint(cluster(tree, "payments"), addr))
    });
    let gateway = &world.gateways[0];
    let send = |pay: &Request| {
        let mut client = pay.open();
        client.write("ten");
        client
    };
    let asked = || {
        let (mut line, _) = service.accept().unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"ten") {
            let mut buffer = [0; 4096];
            let count = line.read(&mut buffer).unwrap();
            request.extend_from_slice(&buffer[..count]);
        }
        line
    };
    let known = world.post("/known").key("k").body("ten");
    let mut client = send(&known);
    asked().write_all(b"HTTP/1.1 201 Created\r\ncontent-length: 4\r\nconnection: close\r\n\r\npaid").unwrap();
    let first = client.response();
    for round in 0..100 {
        let mut client = send(&world.post("/breaks-off").key(format!("k{round}")).body("ten"));
        let mut line = asked();
        // The store hears of a failure before the beginning of its answer goes out; more of it comes after that.
        line.write_all(b"HTTP/1.1 404 Not Found\r\ncontent-length: 40\r\n\r\nit begins ").unwrap();
        assert_eq!(client.head().status, 404);
        // All this meets the gateway in one turn: another piece, the end of its service, and an answer of the store.
        let (calls, heard) = (world.interposer.calls(), scripts_run(&world));
        world.webdis.freeze();
        let mut retry = send(&known);
        world.interposer.wait_for_calls(calls + 1);
        gateway.freeze();
        line.write_all(b"goes on ..").unwrap();
        drop(line);
        world.webdis.thaw();
        wait_until("the store has answered", PATIENCE, || scripts_run(&world) != heard);
        gateway.thaw();
        replays(&retry.response(), &first);
        wait_until("the stream has ended", PATIENCE, || gateway.stat("http.gateway.downstream_rq_active") == 0);
    }
}

/// What Redis counts of them.
fn scripts_run(world: &SharedWorld) -> Option<String> {
    let told = world.redis.ask(&["INFO", "commandstats"]).text();
    told.lines().find(|line| line.starts_with("cmdstat_evalsha:")).map(str::to_owned)
}
