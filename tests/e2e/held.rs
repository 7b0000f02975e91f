//! What the gateway holds, and when it lets go.
//!
//! Its one rule: a service does not end, or the store does not answer, and what is asserted is that the client and the
//! gateway get on all the same.
//! It does not know of requests that wait for another's attempt.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use harness::gateway::{cluster, set_endpoint};
use harness::{Gateway, PATIENCE, Redis, SharedWorld, World, wait_until};
use serde_json::{Value, json};

use crate::check::{parameter, refused, said, shown};
use crate::memory::{read_to, resident};
use crate::shielded_redis::add_shielding;

#[test]
fn a_response_that_trickles_is_let_go_when_its_running_time_is_over_and_does_not_run_again() {
    let world = World::start(json!({ "policy": { "lease_ms": 1000, "max_running_ms": 2000 } }));
    let pay = world.post("/held/trickle").key("k").body("ten");
    // A piece every 50 ms, without a length.
    let trickling = pay.clone().header("x-test-sse", "100").header("x-test-header", "content-type: text/plain");
    let asked = Instant::now();
    let mut connection = trickling.open();
    connection.write("ten");
    let head = connection.head();
    assert!(asked.elapsed() > Duration::from_millis(1900) && asked.elapsed() < Duration::from_millis(4500));
    assert_eq!((head.status, said(&head)), (201, "executed;stored=?0;attempt=1;outcome=completed"));
    refused(&pay.send(), 409, "not-replayable", None);
    let wanted: String = (1..=100).map(|n| format!("data: {n}\n\n")).collect();
    let body = connection.rest(head).body;
    assert!(body == wanted.as_bytes(), "{} bytes of {}", body.len(), wanted.len());
    refused(&pay.send(), 409, "not-replayable", None);
    assert_eq!(world.ledger.entries_for("/held/trickle").len(), 1);
}

#[test]
fn an_upstream_can_have_a_record_live_for_thirty_days_at_most() {
    let world = World::start(json!({}));
    for (name, asked, ttl, capped) in [
        ("less", "2591999", 2_591_999, 0),
        ("as-much", "2592000", 2_592_000, 0),
        ("more", "2592001", 2_592_000, 1),
        ("huge", "99999999999999999999999", 2_592_000, 2),
        ("none", "0", 1800, 2),
    ] {
        let pay = world.post(&format!("/held/ttl-{name}")).key("k").body("ten");
        let first = pay.clone().header("x-test-header", format!("idempotency-ttl: {asked}")).send();
        assert_eq!(said(&first), format!("executed;stored=?1;attempt=1;ttl={ttl}"), "{name}");
        assert!(parameter(&pay.send(), "ttl").is_some_and(|left| left <= ttl && left + 30 > ttl), "{name}");
        assert_eq!(world.gateway.counted("ttl_capped"), capped, "{name}");
    }
}

#[test]
fn large_shielded_responses_that_are_not_kept_do_not_wait_for_a_store_that_stands_still() {
    large_responses(31 << 20, &json!({}), "executed;stored=?0;attempt=1;outcome=completed;reason=too-large");
}

#[test]
fn large_shielded_responses_stay_within_the_bound_while_the_store_stands_still() {
    large_responses(
        15 << 20,
        &json!({ "max_response_bytes": 16 << 20 }),
        "executed;stored=?0;attempt=1;outcome=completed",
    );
}

/// Many of them, while Redis stands still: each client gets its own, and the gateway lives within its bounds.
fn large_responses(size: usize, policy: &Value, line: &str) {
    let mut policy = policy.clone();
    policy["execution"] = json!({ "kind": "shielded", "cluster": "shielded", "timeout_ms": 60_000 });
    let service = Service::start(size);
    let to = service.addr;
    let world = SharedWorld::with(Redis::start(), &[json!({ "policy": policy })], |options| {
        options.mutate(add_shielding).mutate(move |tree| set_endpoint(cluster(tree, "payments"), to))
    });
    let gateway = &world.gateways[0];
    let before = of_vms(gateway);
    thread::scope(|scope| {
        let clients: Vec<_> = (0..COUNT)
            .map(|n| {
                let pay = world.post(&format!("/held/large-{n}")).key("k").body("ten");
                scope.spawn(move || pay.send())
            })
            .collect();
        wait_until("all of them run", PATIENCE, || service.waiting.load(Ordering::SeqCst) == COUNT);
        world.redis.freeze();
        *service.may_answer.0.lock().unwrap() = true;
        service.may_answer.1.notify_all();
        for client in clients {
            let answer = client.join().unwrap();
            assert_eq!((answer.status, answer.body.len()), (201, size), "{}", shown(&answer));
            assert!(said(&answer).starts_with(line), "{}", shown(&answer));
        }
    });
    let after = of_vms(gateway);
    println!("The VMs take {} MiB before and {} MiB after.", before >> 20, after >> 20);
    world.redis.thaw();
    wait_until("the store has heard of all", WRITING, || world.stat("outbox") == 0);
    for n in 0..COUNT {
        let again = world.post(&format!("/held/large-{n}")).key("k").body("ten").send();
        assert!([201, 409, 503].contains(&again.status) && !said(&again).starts_with("executed"), "{}", shown(&again));
    }
    assert_eq!(service.waiting.load(Ordering::SeqCst), COUNT, "none runs again");
    let bound = before + WORKERS * (HELD_MAX + LARGEST_FACTOR * size as u64 + (32 << 20));
    assert!(after < bound, "{} MiB, which is over {} MiB", after >> 20, bound >> 20);
}

/// What Envoy takes beside its own heap: mostly the memory of VMs, which never shrinks.
fn of_vms(gateway: &Gateway) -> u64 {
    let memory: Value = serde_json::from_str(&gateway.admin("/memory")).unwrap();
    resident(gateway.process_id()) - memory["total_physical_bytes"].as_str().unwrap().parse::<u64>().unwrap()
}

/// A service that answers once it may, with as large a body as there is.
struct Service {
    addr: SocketAddr,
    waiting: Arc<AtomicUsize>,
    may_answer: Arc<(Mutex<bool>, Condvar)>,
}

impl Service {
    /// On threads that end with this process.
    fn start(size: usize) -> Service {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let addr = listener.local_addr().unwrap();
        let (waiting, may_answer) = (Arc::new(AtomicUsize::new(0)), Arc::new((Mutex::new(false), Condvar::new())));
        let (asked, let_go) = (Arc::clone(&waiting), Arc::clone(&may_answer));
        thread::spawn(move || {
            let body = Arc::new(vec![b'x'; size]);
            for mut stream in listener.incoming().map_while(Result::ok) {
                let (asked, let_go, body) = (Arc::clone(&asked), Arc::clone(&let_go), Arc::clone(&body));
                thread::spawn(move || {
                    read_to(&mut stream, b"\r\n\r\nten");
                    asked.fetch_add(1, Ordering::SeqCst);
                    drop(let_go.1.wait_while(let_go.0.lock().unwrap(), |may_answer| !*may_answer).unwrap());
                    let head = format!("HTTP/1.1 201 Created\r\nconnection: close\r\ncontent-length: {size}\r\n\r\n");
                    // A peer that has gone shows in what its client got.
                    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body));
                });
            }
        });
        Service { addr, waiting, may_answer }
    }
}

const COUNT: usize = 24;
const WORKERS: u64 = 2;
/// docs/performance.md, "Memory": bodies that a worker holds …
const HELD_MAX: u64 = 64 << 20;
/// … and "up to ten times the largest response".
const LARGEST_FACTOR: u64 = 10;
/// A busy machine does not write a response of 15 MiB within a time-out; after eight of them it goes as one that is not
/// kept, and the pauses between them are a quarter of a minute by themselves.
const WRITING: Duration = Duration::from_secs(120);
