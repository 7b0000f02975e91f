//! The figures of docs/sizing.md that can be measured: bytes of records, connections, operations, and what Redis takes for
//! one.
//!
//! Its one rule: the page says a figure and the test measures it; they may differ by what the test says, and no more.
//! It does not know a hundred gateways: see `tests/it/sizing.rs`.

use std::fs;
use std::path::Path;
use std::rc::Rc;

use envoy_idempotency::command::{Command, CommandKind};
use envoy_idempotency::fingerprint::Fingerprint;
use envoy_idempotency::key::{KeyForm, Name};
use envoy_idempotency::record::Owner;
use envoy_idempotency::store::client::{Batch, Lane, Nonce};
use envoy_idempotency::store::redis::{SCRIPT, pack};
use harness::{Dialect, PATIENCE, Redis, Request, SharedWorld, World, send_all, wait_for, wait_until};
use serde_json::{Value, json};

use crate::check::{executed, said, shown};
use crate::memory::{flood, forgetful, route_floods};
use crate::redis::PATIENT_MS;

/// The number in a cell of the page: the first in the row that begins with this, in the column of this number.
#[track_caller]
fn page(row: &str, column: usize) -> f64 {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/sizing.md")).unwrap();
    let line = text.lines().find(|line| line.starts_with(&format!("| {row} |")));
    let line = line.unwrap_or_else(|| panic!("docs/sizing.md has no row {row:?}"));
    let cell = line.split('|').nth(column + 2).expect("the row is that long").trim();
    let number: String = cell.chars().take_while(|c| c.is_ascii_digit() || *c == '.').collect();
    number.parse().unwrap_or_else(|_| panic!("docs/sizing.md says {cell:?} of {row}"))
}

/// Holds a figure of the page to what was measured, give or take so much of it.
#[track_caller]
fn holds(row: &str, column: usize, measured: f64, tolerance: f64) {
    let said = page(row, column);
    println!("{row}: the page says {said}, measured {measured:.1}");
    assert!(agrees(said, measured, tolerance), "{row}: the page says {said}, measured {measured:.1}");
}

fn agrees(said: f64, measured: f64, tolerance: f64) -> bool {
    (said - measured).abs() <= tolerance * measured
}

/// One gateway of four workers on a Redis of its own.
fn world(mut document: Value) -> SharedWorld {
    (document["store"]["timeout_ms"], document["store"]["cache"]) = (json!(PATIENT_MS), document["cache"].take());
    document.as_object_mut().unwrap().remove("cache");
    document["policy"]["ttl_s"] = json!(86_400);
    let service = forgetful();
    SharedWorld::speaking(Dialect::Resp, Redis::start(), &[document], move |options| {
        options.concurrency(WORKERS).mutate(move |tree| route_floods(tree, service))
    })
}

/// Workers of a gateway in the page's examples.
const WORKERS: u32 = 4;
/// Records differ by some bytes, and allocators by what they round up to.
const MEMORY: f64 = 0.15;
/// Redis doubles its tables as they fill, so what each record takes of them depends on how many there are.
const TABLES: f64 = 0.25;

#[test]
fn records_on_redis_take_what_the_page_says() {
    let world = world(json!({}));
    let bytes = |world: &SharedWorld, before: &[Vec<u8>]| {
        let keys = world.redis.keys();
        let new = keys.iter().find(|key| !before.contains(key)).expect("there is one more");
        let harness::Reply::Integer(bytes) = world.redis.ask(&[b"MEMORY".as_slice(), b"USAGE", new]) else {
            panic!("Redis does not tell")
        };
        bytes as f64
    };
    let pay = |key: &str| world.post("/record").key(key).body("ten");
    for (row, request) in [
        ("free again after a failure", pay("free").header("x-test-status", "422")),
        ("completed, 14-byte body", pay("small")),
        ("completed, 512-byte body", pay("half").header("x-test-body-size", "512")),
        ("completed, 4096-byte body", pay("large").header("x-test-body-size", "4096")),
    ] {
        let before = world.redis.keys();
        request.send();
        wait_until("it has settled", PATIENCE, || world.redis.keys().len() > before.len());
        holds(row, 0, bytes(&world, &before), MEMORY);
    }
    let before = world.redis.keys();
    let mut running = pay("running").header("x-test-hold", "sizing").open();
    running.write("ten");
    world.ledger.wait_for_held(1);
    holds("running", 0, bytes(&world, &before), MEMORY);

    // Of all memory that Redis takes, with its table of keys and their ends.
    let used = || world.redis.info("used_memory").parse::<f64>().unwrap();
    flood(world.gateways[0].addr(), "warm", 500);
    let before = used();
    flood(world.gateways[0].addr(), "key", RECORDS);
    holds("completed, 14-byte body", 1, (used() - before) / RECORDS as f64, TABLES);
}

/// Enough that what else Redis takes does not count.
const RECORDS: usize = 10_000;

#[test]
fn records_of_the_embedded_store_take_what_the_page_says() {
    let world = World::start(json!({}));
    let used = || world.gateway.stat("wasmcustom.idempotency_store_bytes") as f64;
    for (row, size) in [("completed, 14-byte body", None), ("completed, 512-byte body", Some("512"))] {
        let before = used();
        let pay = |n: usize| {
            let request = world.post("/embedded").key(format!("{}-{n}", size.unwrap_or("14"))).body("ten");
            size.iter().fold(request, |request, size| request.header("x-test-body-size", size))
        };
        let answers = send_all(&(0..50).map(pay).collect::<Vec<_>>());
        assert!(answers.iter().all(|answer| answer.status == 201));
        let each = || (used() - before) / 50.0;
        // The gauge follows with a tick of a worker.
        let _ = wait_for("the gauge agrees", PATIENCE, || agrees(page(row, 2), each(), MEMORY).then_some(()));
        holds(row, 2, each(), MEMORY);
    }
}

#[test]
fn a_gateway_has_two_connections_for_each_worker_and_asks_as_often_as_the_page_says() {
    let world = world(json!({ "cache": { "ttl_s": 600 } }));
    let asked = || world.stat("store_operations_total") as f64;
    let pay = |key: &str| world.post("/count").key(key).body("ten");
    let counted = |row: &str, requests: &[Request], is_right: &dyn Fn(&str) -> bool| {
        let before = asked();
        for request in requests {
            let answer = request.send();
            assert!(is_right(said(&answer)), "{}", shown(&answer));
        }
        wait_until("it has come to rest", PATIENCE, || world.stat("outbox") == 0);
        holds(row, 0, (asked() - before) / requests.len() as f64, 0.0);
    };
    let firsts: Vec<_> = (0..40).map(|n| pay(&format!("k{n}"))).collect();
    counted("a first execution", &firsts, &|said| said.starts_with("executed;stored=?1"));
    counted("a replay by the gateway that executed", &firsts, &|said| said.starts_with("replayed"));
    let failing: Vec<_> = (0..10).map(|n| pay(&format!("f{n}")).header("x-test-status", "422")).collect();
    counted("an execution whose key is free again", &failing, &|said| said.contains("outcome=released"));
    let others: Vec<_> = firsts.iter().map(|one| one.clone().body("twenty")).collect();
    counted("a key with another payload, at the gateway that executed", &others, &|said| said.contains("mismatch"));
    let connections = || world.gateways[0].stat("cluster.redis.upstream_cx_active") as f64;
    let most = |lanes: u32| f64::from(lanes * WORKERS);
    assert!((1.0..=most(1)).contains(&connections()), "{}", connections());
    // The second of each worker is for responses of over 64 KiB.
    let large = |n: usize| pay(&format!("large-{n}")).header("x-test-body-size", "100000");
    let answers = send_all(&(0..40).map(large).collect::<Vec<_>>());
    answers.iter().for_each(|answer| executed_with(answer));
    wait_until("all workers have been asked", PATIENCE, || {
        send_all(&firsts);
        send_all(&(0..40).map(|n| large(n + 1000)).collect::<Vec<_>>());
        connections() == page("connections of a gateway of four workers", 0)
    });
    assert_eq!(connections(), most(2));
}

#[track_caller]
fn executed_with(answer: &harness::Response) {
    let line = said(answer);
    assert!(line.starts_with("executed;stored=?1;attempt=1;"), "{line}");
}

#[test]
fn a_replay_through_another_gateway_asks_once() {
    let world = SharedWorld::start(json!({ "store": { "timeout_ms": PATIENT_MS }, "policy": { "ttl_s": 1800 } }));
    let pays: Vec<_> = (0..20).map(|n| world.post("/other").key(format!("k{n}")).body("ten")).collect();
    pays.iter().for_each(|pay| executed(&pay.send(), 1));
    let before = world.stat("store_operations_total");
    for pay in &pays {
        assert!(said(&pay.clone().to(world.other()).send()).starts_with("replayed"));
    }
    let asked = (world.stat("store_operations_total") - before) as f64;
    holds("a replay by another gateway", 0, asked / pays.len() as f64, 0.0);
}

#[test]
fn redis_takes_for_a_command_and_an_operation_about_what_the_figures_reckon_with() {
    let redis = Redis::start();
    let sha = redis.ask(&["SCRIPT", "LOAD", SCRIPT]).text();
    // Microseconds that a command of so many claims takes, once as often as it takes to be sure.
    let mut number = 0_u32;
    let mut took_us = |claims: usize| {
        redis.ask(&["CONFIG", "RESETSTAT"]);
        for _ in 0..200 {
            let tries = (0..claims).map(|_| {
                number += 1;
                (Nonce([7; 16]), Rc::new(claim(number)))
            });
            let batch = Batch { id: 1, lane: Lane::Small, tries: tries.collect() };
            let keys: Vec<_> = batch.tries.iter().map(|(_, command)| format!("idem:{}", command.name.hex())).collect();
            let (count, packed) = (claims.to_string(), pack(&batch, true));
            let mut command: Vec<&[u8]> = vec![b"EVALSHA", sha.as_bytes(), count.as_bytes()];
            command.extend(keys.iter().map(String::as_bytes));
            command.push(&packed);
            assert_eq!(redis.ask(&command).list().len(), claims);
        }
        let told = redis.ask(&["INFO", "commandstats"]).text();
        let (_, after) = told.split_once("cmdstat_evalsha:").expect("it was asked");
        let (_, after) = after.split_once("usec_per_call=").expect("it tells");
        after.split(',').next().unwrap().parse::<f64>().unwrap()
    };
    // What else the machine does only adds to it.
    let mut least_us = |claims| (0..10).map(|_| took_us(claims)).fold(f64::INFINITY, f64::min);
    let (one, many) = (least_us(1), least_us(64));
    let operation = (many - one) / 63.0;
    println!("Redis takes {:.1} us for a command and {operation:.1} us for each operation in it.", one - operation);
    // The machine may be busy or twice as fast: what matters is that the figures are of the right size.
    let reckoned = [page("Redis takes for a command", 0), page("Redis takes for an operation in it", 0)];
    assert!((reckoned[1] / 3.0..reckoned[1] * 3.0).contains(&operation), "{operation}");
    assert!(one < 3.0 * (reckoned[0] + reckoned[1]), "{one}");
}

fn claim(number: u32) -> Command {
    let mut name = [0; 32];
    name[..4].copy_from_slice(&number.to_le_bytes());
    Command {
        kind: CommandKind::Claim { may_retry: true },
        name: Name(name),
        owner: Owner([7; 16]),
        fingerprint: Fingerprint([1; 32]),
        key: KeyForm::Bare,
        attempt: 0,
        lease_ms: 60_000,
        ttl_ms: 600_000,
        deadline_ms: None,
        in_window: false,
        may_begin: true,
    }
}
