//! A primary that is lost, and how gateways find the next one: by the health checks of `envoy/redis-failover.yaml`, while
//! Sentinel makes it, and by DNS.
//!
//! Its one rule: gateways run the shipped file, with other addresses and nothing else.
//! It does not know how a stream is left, for which see `tests/it/resp.rs`, nor load: the chaos classes `sentinel …` have it.

use std::io;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use harness::gateway::{cluster, set_endpoint, set_endpoints};
use harness::{Dialect, Gateway, Ledger, Options, PATIENCE, Port, RedisGroup, Response, wait_for, wait_until};
use serde_json::{Value, json};

use crate::check::{executed, is_refusal, refused, replays, said, shown};
use crate::redis_streams::{tls_socket, with_tls};

/// A gateway by the shipped file in front of these Redis, with `store` on top of its own, when it has found the primary.
#[track_caller]
fn start(ledger: &Ledger, nodes: [SocketAddr; 3], mut document: Value) -> Gateway {
    for (member, value) in Dialect::Resp.store().as_object().into_iter().flatten() {
        document["store"][member] = value.clone();
    }
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
    assert!(said(&answer).starts_with("executed;"), "{}", shown(&answer));
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
    assert_eq!(gateway.counted("store_failures.readonly"), 0);
    // One that is full is one, and refuses itself; a primary that has no replica any more is none.
    group.nodes[0].ask(&["CONFIG", "SET", "maxmemory", "1"]);
    let full = gateway.post("/pay").key("full").body("ten").send();
    refused(&full, 503, "store-unavailable", Some("1"));
    assert!(gateway.counted("store_failures.oom") > 0);
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

    group.next(0);
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
        let after = pay(&format!("after-{count}")).send();
        // Whether its completion was heard in time is up to the machine.
        assert!(said(&after).starts_with("executed;"), "{}", shown(&after));
        !group.nodes[0].is_primary() && group.nodes[0].info("master_link_status") == "up"
    });
    println!("For {:.1?} the old one was back as a primary, and {count} claims went to the new one.", back.elapsed());
    replays(&pay("during").send(), &during);
    assert_ne!(group.primary(), Some(0));
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

#[test]
fn a_health_check_over_tls_logs_in_as_a_user_who_may_do_nothing_else() {
    let (tls, ledger) = (Port::unshared(), Ledger::start());
    let redis = with_tls(&tls);
    // As docs/redis.md has it.
    let rights = ["resetkeys", "~idem-health", "resetchannels", "-@all", "+del"];
    redis.ask(&[&["ACL", "SETUSER", "health", "on", ">secret"][..], &rights].concat());
    redis.ask(&["ACL", "SETUSER", "default", "-del"]);
    let addr = tls.addr();
    let start = |login: &str| {
        let sent = format!("{login}DEL idem-health\r\n");
        let text: String = sent.bytes().map(|byte| format!("{byte:02x}")).collect();
        Gateway::start(Options::file("redis-failover.yaml", ledger.addr()).mutate(move |tree| {
            let redis = cluster(tree, "redis");
            set_endpoints(redis, &[addr]);
            redis["transport_socket"] = tls_socket(Some("alice"), "gateway");
            redis["health_checks"][0]["tcp_health_check"]["send"]["text"] = json!(text);
        }))
    };
    let gateway = start("AUTH health secret\r\n");
    wait_until("it is healthy", PATIENCE, || healthy(&gateway) == 1);
    until_executed(|| gateway.post("/tls").key("k").body("ten").send());
    redis.ask(&["ACL", "SETUSER", "health", "-del"]);
    wait_until("it is not", PATIENCE, || healthy(&gateway) == 0);
    redis.ask(&["ACL", "SETUSER", "health", "+del"]);
    let stranger = start("");
    wait_until("it is refused", PATIENCE, || stranger.stat("cluster.redis.health_check.failure") > 2);
    assert_eq!(healthy(&stranger), 0);
}

#[test]
fn a_name_that_leads_to_another_primary_is_followed_when_the_old_one_refuses() {
    let (group, ledger) = (RedisGroup::without_sentinels(), Ledger::start());
    // One port, as behind a name; each Redis has an address of its own.
    let port = Port::unshared().number();
    let hosts = [21, 22].map(|last| Ipv4Addr::new(127, 0, 0, last));
    let relays = [0, 1].map(|node| Relay::start(SocketAddr::from((hosts[node], port)), group.nodes[node].addr()));
    let names = Names::start(hosts[0]);
    let resolver = names.addr;
    let gateway = Gateway::start(Options::file("redis.yaml", ledger.addr()).mutate(move |tree| {
        let redis = cluster(tree, "redis");
        redis["type"] = json!("STRICT_DNS");
        redis["dns_lookup_family"] = json!("V4_ONLY");
        redis["dns_refresh_rate"] = json!("1s");
        let socket = json!({ "address": resolver.ip().to_string(), "port_value": resolver.port(), "protocol": "UDP" });
        let kind = "type.googleapis.com/envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig";
        redis["typed_dns_resolver_config"] = json!({
            "name": "envoy.network.dns_resolver.cares",
            "typed_config": { "@type": kind, "resolvers": [{ "socket_address": socket }] },
        });
        set_endpoint(redis, SocketAddr::from((hosts[0], port)));
        let address = &mut redis["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]["address"];
        address["socket_address"]["address"] = json!("redis.example.com");
    }));
    let pay = |key: &str| gateway.post("/named").key(key).body("ten");
    let first = until_executed(|| pay("a").send());
    assert!(relays[0].connections() > 0);

    // An operator makes the other one the primary; the name follows a moment later.
    group.nodes[1].ask(&["REPLICAOF", "NO", "ONE"]);
    group.nodes[2].follow(group.nodes[1].addr());
    group.nodes[0].follow(group.nodes[1].addr());
    wait_until("the new one takes writes", PATIENCE, || group.nodes[1].info("min_slaves_good_slaves") == "2");
    refused(&pay("b").send(), 503, "store-unavailable", Some("1"));
    replays(&pay("a").send(), &first);
    let turned = Instant::now();
    names.lead_to(hosts[1]);
    until_executed(|| pay("b").send());
    println!(
        "After the name had turned a claim succeeded within {:.1?}, at a dns_refresh_rate of 1 s.",
        turned.elapsed()
    );
    // No request leads to the old one any more.
    wait_until("the old one is left", PATIENCE, || {
        pay("a").send();
        let streams = group.nodes[0].ask(&["CLIENT", "LIST"]).text().matches("cmd=eval").count();
        streams == 0
    });
    assert_eq!(ledger.entries().len(), 2);
}

/// Passes bytes on from one address to another.
struct Relay {
    accepted: Arc<AtomicUsize>,
}

impl Relay {
    /// Starts one, on threads that end with their connections or with this process.
    fn start(from: SocketAddr, to: SocketAddr) -> Relay {
        let listener = TcpListener::bind(from).unwrap();
        let accepted = Arc::new(AtomicUsize::new(0));
        let relay = Relay { accepted: Arc::clone(&accepted) };
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let Ok(other) = TcpStream::connect(to) else { continue };
                accepted.fetch_add(1, Ordering::Relaxed);
                for (mut from, mut to) in [(stream.try_clone().unwrap(), other.try_clone().unwrap()), (other, stream)] {
                    thread::spawn(move || {
                        let _ = io::copy(&mut from, &mut to);
                        let _ = to.shutdown(Shutdown::Both);
                    });
                }
            }
        });
        relay
    }

    fn connections(&self) -> usize {
        self.accepted.load(Ordering::Relaxed)
    }
}

/// A name server to which every name is one address.
struct Names {
    addr: SocketAddr,
    host: Arc<Mutex<Ipv4Addr>>,
}

impl Names {
    fn start(host: Ipv4Addr) -> Names {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let (addr, host) = (socket.local_addr().unwrap(), Arc::new(Mutex::new(host)));
        let led = Arc::clone(&host);
        thread::spawn(move || {
            let mut question = [0; 512];
            while let Ok((length, asker)) = socket.recv_from(&mut question) {
                // One question: behind a head of twelve bytes its name, which ends with a zero, its type and its class.
                let Some(end) = question[12..length].iter().position(|byte| *byte == 0).map(|end| 12 + end + 5) else {
                    continue;
                };
                let host = led.lock().unwrap().octets();
                let mut answer = [&question[..2], &[0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0], &question[12..end]].concat();
                // The name is the one asked for; type A, class IN, for no time at all, four bytes.
                answer.extend([&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4][..], &host].concat());
                let _ = socket.send_to(&answer, asker);
            }
        });
        Names { addr, host }
    }

    fn lead_to(&self, host: Ipv4Addr) {
        *self.host.lock().unwrap() = host;
    }
}
