//! A table that is far too small for the keys that come.
//!
//! Its one rule: what is asserted is what a client is told and what the kernel says of Envoy's memory.
//! It does not know how the table is laid out.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use harness::gateway::{cluster, hcm, set_endpoint};
use harness::{PATIENCE, World, wait_until};
use serde_json::{Value, json};

use crate::check::{refused, replays, said, shown};
use crate::worlds::start;

/// Bound of the table.
const MAX_BYTES: u64 = 16 << 20;
/// So many that a place for each 512 bytes of a table of 1 MiB would not do.
const SMALL_RESPONSES: usize = 4_300;
/// docs/performance.md, "Memory": what a table costs in memory of Envoy is at most `max_bytes` × this …
const RSS_FACTOR: u64 = 3;
/// … and this, for the VMs, connections and buffers that a flood brings with it.
const RSS_CONSTANT: u64 = 32 << 20;

#[test]
fn three_hundred_thousand_keys_stay_within_the_bound_and_nothing_unsettled_is_forgotten() {
    let world = flooded(json!({
        "store": { "max_bytes": MAX_BYTES },
        "rules": [
            { "match": { "path": { "prefix": "/hold" } }, "policy": { "on_unknown": "hold" } },
            { "match": { "methods": ["POST"] } },
        ],
    }));
    let running = world.post("/running").key("k");
    let mut first = start(&world, &running, "ten", "flood");
    let unknown = world.post("/hold").key("k").body("ten");
    assert_eq!(unknown.clone().header("x-test-status", "504").send().status, 504);
    // So that the workers and their connections are there before.
    flood(world.gateway.addr(), "warm", 2_000);
    let before = resident(world.gateway.process_id());

    let told = flood(world.gateway.addr(), "key", 300_000);
    let after = resident(world.gateway.process_id());
    println!("Envoy takes {} MiB before and {} MiB after; {told:?}", before >> 20, after >> 20);
    let bound = before + RSS_FACTOR * MAX_BYTES + RSS_CONSTANT;
    assert!(after <= bound, "{after} bytes after {before}, which is over {bound}");

    let count = |status: u16| told.get(&status).copied().unwrap_or(0);
    assert!(count(201) + count(503) == 300_000 && count(201) > 60_000 && count(503) > 0, "{told:?}");
    let stat = |name: &str| world.gateway.stat(&format!("wasmcustom.idempotency_{name}"));
    assert_eq!(
        ["refused.store-unavailable", "store_failures.full"].map(|what| world.gateway.counted(what)),
        [count(503) as u64; 2]
    );
    // Nothing could go any more: all that is left are records, and there is no room for one more.
    let a_record = 256;
    wait_until("the gauge tells", PATIENCE, || stat("store_bytes").abs_diff(MAX_BYTES) < a_record);
    refused(&world.post("/late").key("k").body("ten").send(), 503, "store-unavailable", Some("1"));
    assert_eq!(world.ledger.entries_for("/late").len(), 0);

    // Whoever was told 201 is remembered: as running, as unknown, as completed without its response.
    refused(&running.clone().body("ten").send(), 429, "in-flight", Some("1"));
    refused(&unknown.send(), 409, "outcome-unknown", None);
    for n in [0, 1, 1_000, 30_000, 60_000] {
        let again = world.post("/flood").key(format!("key-{n}")).header("x-route", "flood").body("ten");
        refused(&again.send(), 409, "not-replayable", None);
    }
    world.ledger.open("flood");
    let first = first.response();
    assert!(said(&first).starts_with("executed;"), "{}", shown(&first));
    let again = running.body("ten").send();
    match said(&first).contains(";stored=?1;") {
        true => replays(&again, &first),
        false => refused(&again, 409, "not-replayable", None),
    }
    assert_eq!(world.ledger.entries().len(), 2);
}

#[test]
fn small_responses_are_replayed_while_the_bytes_are_not_used() {
    let world = flooded(json!({ "store": { "max_bytes": 1 << 20 } }));
    let told = flood(world.gateway.addr(), "key", SMALL_RESPONSES);
    assert_eq!(told, BTreeMap::from([(201, SMALL_RESPONSES)]));
    let used = || world.gateway.stat("wasmcustom.idempotency_store_bytes");
    wait_until("the gauge tells", PATIENCE, || used() > (1 << 20) * 9 / 10);
    assert!(used() < 1 << 20, "{} bytes", used());
    for n in (0..SMALL_RESPONSES).step_by(50) {
        let again = world.post("/flood").key(format!("key-{n}")).header("x-route", "flood").body("ten").send();
        assert!(said(&again).starts_with("replayed;"), "{n}: {}", shown(&again));
    }
}

#[test]
fn a_full_table_is_free_again_when_its_records_have_expired() {
    let world = flooded(json!({ "store": { "max_bytes": 1 << 20 }, "policy": { "ttl_s": 2, "lease_ms": 1000 } }));
    let runs = |path: &str, key: &str, body: &str| {
        let answer = world.post(path).key(key).body(body).send();
        assert_eq!(said(&answer), "executed;stored=?1;attempt=1;ttl=2", "{}", shown(&answer));
    };
    runs("/first", "k", "ten");
    let told = flood(world.gateway.addr(), "key", 20_000);
    assert!(told.keys().all(|status| [201, 503].contains(status)), "{told:?}");

    let flooded = Instant::now();
    wait_until("all records have expired", PATIENCE, || flooded.elapsed() > Duration::from_millis(2100));
    runs("/first", "k", "twenty");
    let again = flood(world.gateway.addr(), "key", 2_000);
    assert_eq!(again, BTreeMap::from([(201, 2_000)]));
    let bytes = || world.gateway.stat("wasmcustom.idempotency_store_bytes");
    wait_until("the table is empty", PATIENCE, || bytes() == 0);
}

/// A gateway that sends what carries `x-route: flood` to a service with no memory.
fn flooded(document: Value) -> World {
    let service = forgetful();
    World::with(document, |options| options.mutate(move |tree| route_floods(tree, service)))
}

/// Sends what carries `x-route: flood` to this service.
pub fn route_floods(tree: &mut Value, service: SocketAddr) {
    let mut flood = cluster(tree, "payments").clone();
    flood["name"] = json!("flood");
    set_endpoint(&mut flood, service);
    tree["static_resources"]["clusters"].as_array_mut().unwrap().push(flood);
    // What runs must outlast the flood.
    hcm(tree)["stream_idle_timeout"] = json!("300s");
    hcm(tree)["route_config"]["virtual_hosts"][0]["routes"][0]["route"]["timeout"] = json!("300s");
    let chosen = json!({ "name": "x-route", "string_match": { "exact": "flood" } });
    let route = json!({ "match": { "prefix": "/", "headers": [chosen] }, "route": { "cluster": "flood" } });
    hcm(tree)["route_config"]["virtual_hosts"][0]["routes"].as_array_mut().unwrap().insert(0, route);
}

/// Sends `count` keys over connections that are kept open; how often which status came.
pub fn flood(to: SocketAddr, name: &str, count: usize) -> BTreeMap<u16, usize> {
    let (next, began) = (AtomicUsize::new(0), Instant::now());
    let client = || {
        let mut told = BTreeMap::new();
        let mut stream = TcpStream::connect(to).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        loop {
            let n = next.fetch_add(1, Ordering::Relaxed);
            if n >= count {
                return told;
            }
            assert!(began.elapsed() < FLOOD_PATIENCE, "only {n} of {count} keys in {FLOOD_PATIENCE:?}");
            let request = format!(
                "POST /flood HTTP/1.1\r\nHost: api.example.com\r\nAuthorization: Bearer alice\r\nx-route: flood\r\nIdempotency-Key: {name}-{n}\r\n\
                 Content-Length: 3\r\n\r\nten"
            );
            stream.write_all(request.as_bytes()).unwrap();
            // The service's body and a refusal end so, and nothing before their end does.
            let answer = read_to(&mut stream, b"}").expect("an answer to every request");
            let status = str::from_utf8(&answer[9..12]).unwrap().parse().unwrap();
            *told.entry(status).or_default() += 1;
        }
    };
    let told = thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(client)).collect();
        let mut all = BTreeMap::<u16, usize>::new();
        for told in clients.into_iter().map(|client| client.join().unwrap()) {
            told.into_iter().for_each(|(status, n): (_, usize)| *all.entry(status).or_default() += n);
        }
        all
    });
    println!("{count} keys in {:?}: {told:?}", began.elapsed());
    told
}

/// A service that answers everything alike, on threads that end with this process.
pub fn forgetful() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let addr = listener.local_addr().unwrap();
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || {
                let _ = stream.set_nodelay(true);
                let answer = b"HTTP/1.1 201 Created\r\ncontent-type: application/json\r\ncontent-length: 14\r\n\r\n\
                               {\"id\":\"pay_1\"}";
                while read_to(&mut stream, b"\r\n\r\nten").is_some() {
                    if stream.write_all(answer).is_err() {
                        return;
                    }
                }
            });
        }
    });
    addr
}

/// Reads one message, which ends so; none when the peer has gone.
pub fn read_to(stream: &mut TcpStream, end: &[u8]) -> Option<Vec<u8>> {
    let mut message = Vec::new();
    let mut buffer = [0; 4096];
    while !message.ends_with(end) {
        let count = stream.read(&mut buffer).ok().filter(|count| *count > 0)?;
        message.extend_from_slice(&buffer[..count]);
    }
    Some(message)
}

/// Memory of a process that is in use, in bytes.
pub fn resident(process_id: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process_id}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

const CLIENTS: usize = 32;
/// Three times what the largest flood takes on two busy cores.
const FLOOD_PATIENCE: Duration = Duration::from_secs(180);
