//! A primary that is lost, and how gateways find the next one: by the health checks of `envoy/redis-failover.yaml`, while
//! Sentinel makes it, and by DNS.
//!
//! Its one rule: gateways run the shipped file, with other addresses and nothing else.
//! It does not know how a stream is left, for which see `tests/it/resp.rs`, nor load: the chaos classes `sentinel …` have it.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use harness::gateway::{cluster, set_endpoints};
use harness::{Gateway, Ledger, Options, PATIENCE, RedisGroup, Response, wait_for, wait_until};
use serde_json::{Value, json};

use crate::check::{executed, is_refusal, refused, replays, said, shown};

/// A gateway by the shipped file in front of these Redis, with `store` on top of its own, when it has found the primary.
#[track_caller]
fn start(ledger: &Ledger, nodes: [SocketAddr; 3], mut document: Value) -> Gateway {
    document["store"]["type"] = json!("redis");
    document["store"]["cluster"] = json!("resp");
    let options = Options::file("redis-failover.yaml", ledger.addr()).configuration(document);
    let gateway = Gateway::start(options.mutate(move |tree| set_endpoints(cluster(tree, "redis"), &nodes)));
    wait_until("the primary is found", PATIENCE, || healthy(&gateway) == 1);
    gateway
}

/// How many of the Redis a gateway calls healthy.
fn healthy(gateway: &Gateway) -> u64 {
    gateway.stat("cluster.redis.membership_healthy")
}

/// Asks until it is executed; every other answer has to be the refusal that a store which is away brings, or that of a
/// claim which may have been heard and is not withdrawn yet.
#[track_caller]
fn until_executed(mut ask: impl FnMut() -> Response) -> Response {
    let answer = wait_for("it is executed", PATIENCE, || {
        let answer = ask();
        let is_refused = is_refusal(&answer, "store-unavailable") || is_refusal(&answer, "in-flight");
        assert!(answer.status == 201 || is_refused, "{}", shown(&answer));
        Some(answer).filter(|answer| answer.status == 201)
    });
    let answer = answer.unwrap_or_else(|message| panic!("{message}"));
    assert!(said(&answer).starts_with("executed;stored=?1;"), "{}", shown(&answer));
    answer
}

#[test]
fn of_a_primary_and_its_replicas_only_the_primary_is_healthy_and_asked() {
    let (group, ledger) = (RedisGroup::without_sentinels(), Ledger::start());
    let gateway = start(&ledger, group.addrs(), json!({ "policy": { "ttl_s": 1800 } }));
    for number in 0..20 {
        executed(&gateway.post("/pay").key(format!("k{number}")).body("ten").send(), 1);
    }
    assert_eq!((healthy(&gateway), gateway.stat("cluster.redis.membership_total")), (1, 3));
    assert_eq!(gateway.stat("wasmcustom.idempotency_store_failures_readonly_total"), 0);
    // One that is full is one, and refuses itself; a primary that has no replica any more is none.
    group.nodes[0].ask(&["CONFIG", "SET", "maxmemory", "1"]);
    let full = gateway.post("/pay").key("full").body("ten").send();
    refused(&full, 503, "store-unavailable", Some("1"));
    assert!(gateway.stat("wasmcustom.idempotency_store_failures_oom_total") > 0);
    group.nodes[0].ask(&["CONFIG", "SET", "maxmemory", "0"]);
    assert_eq!(healthy(&gateway), 1);
    group.nodes[1..].iter().for_each(|replica| drop(replica.ask(&["REPLICAOF", "NO", "ONE"])));
    wait_until("it takes no writes", PATIENCE, || healthy(&gateway) == 0);
    refused(&gateway.post("/pay").key("alone").body("ten").send(), 503, "store-unavailable", Some("1"));
    assert_eq!(ledger.entries().len(), 20);
}

#[test]
fn when_the_primary_dies_sentinel_makes_another_one_and_gateways_follow_it() {
    let (group, ledger) = (RedisGroup::start(), Ledger::start());
    let document = json!({ "store": { "cache": { "ttl_s": 600 } }, "policy": { "ttl_s": 1800 } });
    let gateway = start(&ledger, group.addrs(), document);
    let pay = |key: &str| gateway.post("/pay").key(key).body("ten");
    let first = pay("before").send();
    executed(&first, 1);
    // Under way while the primary goes, so that its outcome is owed.
    let mut held = gateway.post("/pay").key("held").body("ten").header("x-test-hold", "held").open();
    held.write("ten");
    ledger.wait_for_held(1);
    let offset = group.nodes[0].info("master_repl_offset");
    wait_until("the replicas have heard of all", PATIENCE, || {
        group.nodes[1..].iter().all(|replica| replica.info("slave_repl_offset") >= offset)
    });

    let killed = Instant::now();
    group.nodes[0].kill();
    // What clients see: first executions are refused, and nothing runs; what is completed and remembered is replayed.
    refused(&pay("during").send(), 503, "store-unavailable", Some("1"));
    replays(&pay("before").send(), &first);
    ledger.open("held");
    let outcome = held.response();
    assert_eq!(
        (outcome.status, said(&outcome)),
        (201, "executed;stored=?0;attempt=1;outcome=completed"),
        "{}",
        shown(&outcome)
    );

    let next = group.next(0);
    let promoted = killed.elapsed();
    let during = until_executed(|| pay("during").send());
    let found = killed.elapsed();
    println!(
        "Sentinel made another one the primary after {promoted:.1?}; a claim succeeded {:.1?} later.",
        found - promoted
    );
    // No claim is refused any more, though the old primary comes back as one, until Sentinel has told it.
    wait_until("what was owed has landed", PATIENCE, || gateway.stat("wasmcustom.idempotency_outbox") == 0);
    replays(&pay("held").send(), &outcome);
    group.nodes[0].restart();
    let back = Instant::now();
    let mut count = 0;
    wait_until("it is a replica, and claims succeed all the time", PATIENCE, || {
        count += 1;
        executed(&pay(&format!("after-{count}")).send(), 1);
        !group.nodes[0].is_primary() && group.nodes[0].info("master_link_status") == "up"
    });
    println!("For {:.1?} the old one was back as a primary, and {count} claims went to the new one.", back.elapsed());
    replays(&pay("during").send(), &during);
    assert_eq!(group.primary(), Some(next));
    assert_eq!((healthy(&gateway), ledger.entries().len()), (1, 3 + count));
}

/// Longer than four health checks.
const NOTICED: Duration = Duration::from_secs(3);

#[test]
fn a_primary_that_falls_silent_is_left_by_its_health_checks() {
    let (group, ledger) = (RedisGroup::without_sentinels(), Ledger::start());
    let gateway = start(&ledger, group.addrs(), json!({ "policy": { "ttl_s": 1800 } }));
    let pay = |key: &str| gateway.post("/pay").key(key).body("ten");
    executed(&pay("a").send(), 1);
    group.nodes[0].freeze();
    let frozen = Instant::now();
    wait_until("it is noticed", PATIENCE, || healthy(&gateway) == 0);
    wait_until("its streams are closed", PATIENCE, || gateway.stat("cluster.redis.upstream_cx_active") == 0);
    println!("Left after {:.1?}.", frozen.elapsed());
    assert!(frozen.elapsed() < NOTICED);
    // Somebody by hand, as an operator would.
    group.nodes[1].ask(&["REPLICAOF", "NO", "ONE"]);
    group.nodes[2].follow(group.nodes[1].addr());
    let answer = until_executed(|| pay("b").send());
    // When it goes on it is a primary beside the other, for as long as it takes to look for its replicas.
    group.nodes[0].thaw();
    let keys = group.nodes[0].keys();
    let back = Instant::now();
    let mut count = 0;
    wait_until("it has looked for its replicas", PATIENCE, || {
        count += 1;
        // A worker that has not asked for a while may still have its breaker open.
        until_executed(|| pay(&format!("c{count}")).send());
        back.elapsed() > NOTICED
    });
    assert_eq!(group.nodes[0].keys(), keys, "it is asked nothing");
    replays(&pay("b").send(), &answer);
    assert_eq!((healthy(&gateway), ledger.entries().len()), (1, 2 + count));
}
