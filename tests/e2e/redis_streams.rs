//! Gateways that speak to Redis themselves, on streams that stay open.
//!
//! Its one rule: what is told here is of streams alone; what both dialects promise stands in `redis.rs` and beside it,
//! and is run with each (`DIALECT=webdis`).
//! It does not know the bytes of the protocol: see `tests/it/resp.rs`.

use std::path::Path;
use std::thread;
use std::time::Duration;

use harness::gateway::{PROTOCOL_OPTIONS, cluster, framing_of, hcm, listener, plugin, set_endpoint};
use harness::ledger::body_of_size;
use harness::{
    Dialect, Fault, Gateway, Ledger, Options, PATIENCE, Port, Redis, Request, SharedWorld, Webdis, send_all, wait_for,
    wait_until,
};
use serde_json::{Value, json};

use crate::check::{executed, refused, replays, said};
use crate::redis::PATIENT_MS;

/// What is done to a file of ours.
type Change = Box<dyn FnOnce(&mut Value)>;

/// One gateway of one worker.
fn alone(document: Value) -> SharedWorld {
    with(document, |options| options.concurrency(1))
}

fn with(mut document: Value, change: impl Fn(Options) -> Options + Sync) -> SharedWorld {
    document["policy"]["ttl_s"] = json!(1800);
    SharedWorld::speaking(Dialect::Resp, Redis::start(), &[document], change)
}

/// How many connections to the store Envoy has opened.
fn connections(world: &SharedWorld) -> u64 {
    world.gateways[0].stat("cluster.redis.upstream_cx_total")
}

/// Returns when so many of them have ended.
#[track_caller]
fn wait_for_end(world: &SharedWorld, count: u64) {
    let ended = || world.gateways[0].stat("cluster.redis.upstream_cx_destroy") == count;
    wait_until("the stream has ended", PATIENCE, ended);
}

fn failures(world: &SharedWorld) -> String {
    let counted = world.gateways[0].admin("/stats?filter=store_failures");
    counted.lines().filter(|line| !line.ends_with(": 0")).collect()
}

#[test]
fn one_connection_carries_everything_and_stays_open() {
    let world = alone(json!({ "store": { "timeout_ms": PATIENT_MS } }));
    for number in 0..20 {
        let pay = world.post("/stays").key(format!("k{number}")).body("ten");
        let first = pay.send();
        executed(&first, 1);
        replays(&pay.send(), &first);
    }
    assert_eq!((connections(&world), failures(&world)), (1, String::new()));
}

#[test]
fn a_primary_that_has_become_a_replica_is_left_for_the_one_where_the_cluster_leads_now() {
    let world = alone(json!({ "store": { "timeout_ms": PATIENT_MS, "cache": null } }));
    let kept = world.post("/failover/kept").key("k").body("ten");
    let first = kept.send();
    executed(&first, 1);
    let replica = world.redis.replica();
    replica.ask(&["REPLICAOF", "NO", "ONE"]);
    // The old connection stays, and what it leads to reads only.
    world.redis.ask(&["REPLICAOF", "127.0.0.1", &replica.addr().port().to_string()]);
    world.turn_to(replica.addr());
    let pay = world.post("/failover/next").key("k").body("ten");
    let next =
        wait_for("the new primary is found", PATIENCE, || Some(pay.send()).filter(|answer| answer.status == 201));
    executed(&next.unwrap(), 1);
    replays(&kept.send(), &first);
    assert_eq!(world.ledger.entries().len(), 2);
    assert!(!failures(&world).contains("breaker"), "{}", failures(&world));
}

#[test]
fn after_a_failover_both_streams_leave_the_old_primary_though_the_way_to_the_new_one_comes_late() {
    // Without the cache, and with one worker, so that every request asks.
    let world = alone(json!({ "store": { "timeout_ms": PATIENT_MS, "cache": null } }));
    let large = world.post("/both/large").key("k").body("ten").header("x-test-body-size", "100000");
    let first = large.send();
    executed(&first, 1);
    replays(&large.send(), &first);
    assert_eq!(connections(&world), 2, "one for each size of responses");
    let replica = world.redis.replica();
    replica.ask(&["REPLICAOF", "NO", "ONE"]);
    world.redis.ask(&["REPLICAOF", "127.0.0.1", &replica.addr().port().to_string()]);
    // The first stream is left for the old primary once more, as long as everything leads there.
    let pay = world.post("/both/small").key("k").body("ten");
    refused(&pay.send(), 503, "store-unavailable", Some("1"));
    let ended = || world.gateways[0].stat("cluster.redis.upstream_cx_destroy") >= 2;
    wait_until("both are left", PATIENCE, ended);
    world.turn_to(replica.addr());
    let next = wait_for("the new one is found", PATIENCE, || Some(pay.send()).filter(|answer| answer.status == 201));
    executed(&next.unwrap(), 1);
    // Nothing asks on the one for large responses, and it is left all the same.
    let streams = || world.redis.ask(&["CLIENT", "LIST"]).text().matches("cmd=eval").count();
    wait_until("no stream leads to the old primary", PATIENCE, || streams() == 0);
    replays(&large.send(), &first);
    assert_eq!(world.ledger.entries().len(), 2);
}

#[test]
fn what_redis_closes_while_nothing_is_asked_is_opened_again_unseen() {
    let world = alone(json!({ "store": { "timeout_ms": PATIENT_MS, "cache": null } }));
    let pay = world.post("/closed").key("k").body("ten");
    let first = pay.send();
    executed(&first, 1);
    for closed in 1..=5 {
        world.redis.ask(&["CLIENT", "KILL", "TYPE", "normal"]);
        wait_for_end(&world, closed);
        replays(&pay.send(), &first);
        assert_eq!(connections(&world), closed + 1);
    }
    assert_eq!(failures(&world), "");
}

#[test]
fn every_connection_logs_in_first() {
    let redis = Redis::start();
    let rights = ["resetkeys", "~idem:*", "-@all", "+eval", "+evalsha", "+get", "+set", "+time"];
    redis.ask(&[&["ACL", "SETUSER", "gateway", "on", ">pass-of-a-gateway"][..], &rights].concat());
    let store = json!({ "username": "gateway", "password": { "env": "REDIS_PASSWORD" }, "timeout_ms": PATIENT_MS });
    let document = json!({ "store": store, "policy": { "ttl_s": 1800 } });
    let world = SharedWorld::speaking(Dialect::Resp, redis, &[document], |options| {
        options.concurrency(1).env("REDIS_PASSWORD", "pass-of-a-gateway").mutate(|tree| {
            plugin(tree)["vm_config"]["environment_variables"] = json!({ "host_env_keys": ["REDIS_PASSWORD"] });
        })
    });
    let pay = |key: &str| world.post("/login").key(key).body("ten");
    executed(&pay("a").send(), 1);
    let users = world.redis.ask(&["CLIENT", "LIST"]).text();
    assert!(users.contains("user=gateway"), "{users}");

    // Nothing is asked as another user.
    world.redis.ask(&["ACL", "SETUSER", "gateway", "resetpass", ">another"]);
    world.redis.ask(&["CLIENT", "KILL", "USER", "gateway"]);
    wait_for_end(&world, 1);
    let keys = world.redis.keys();
    refused(&pay("b").send(), 503, "store-unavailable", Some("1"));
    assert_eq!(world.redis.keys(), keys);
    assert!(world.counted("store_failures.wrongpass") > 0, "{}", failures(&world));
    world.redis.ask(&["ACL", "SETUSER", "gateway", ">pass-of-a-gateway"]);
    let answer =
        wait_for("the password fits", PATIENCE, || Some(pay("b").send()).filter(|answer| answer.status == 201));
    assert_eq!(said(&answer.unwrap()), "executed;stored=?1;attempt=1;ttl=1800");
    assert!(!world.gateways[0].log().contains("pass-of-a-gateway"));
}

#[test]
fn a_user_needs_each_of_the_rights_that_the_documents_give_it_and_no_other() {
    let page = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/redis.md")).unwrap();
    let line = page.lines().find(|line| line.starts_with("ACL SETUSER gateway on ")).unwrap();
    let rights: Vec<&str> = line.split(' ').skip(5).collect();
    let redis = Redis::start();
    redis.ask(&[&["ACL", "SETUSER", "gateway", "on", ">secret"][..], &rights].concat());
    let store = json!({ "username": "gateway", "password": "secret", "attempts": 1, "timeout_ms": PATIENT_MS });
    let breaker = json!({ "failures": 1000, "open_ms": 10 });
    let mut document = json!({ "store": store, "policy": { "ttl_s": 1800 } });
    document["store"]["breaker"] = breaker;
    let world = SharedWorld::speaking(Dialect::Resp, redis, &[document], |options| options.concurrency(1));
    let pay = |key: &str| world.post("/rights").key(key).body("ten");
    executed(&pay("with-all").send(), 1);
    let commands: Vec<_> = rights.iter().filter_map(|right| right.strip_prefix('+')).collect();
    assert_eq!(commands, ["eval", "evalsha", "get", "set", "time"]);
    for command in commands {
        world.redis.ask(&["ACL", "SETUSER", "gateway", &format!("-{command}")]);
        // The text of the script goes out only where Redis does not have it.
        world.redis.ask(&["SCRIPT", "FLUSH"]);
        let keys = world.redis.keys();
        refused(&pay(command).send(), 503, "store-unavailable", Some("1"));
        assert_eq!(world.redis.keys(), keys, "without {command}");
        world.redis.ask(&["ACL", "SETUSER", "gateway", &format!("+{command}")]);
        executed(&pay(&format!("{command}-again")).send(), 1);
    }
    // Keys under another prefix are not its own.
    world.redis.ask(&["ACL", "SETUSER", "gateway", "resetkeys", "~other:*"]);
    refused(&pay("elsewhere").send(), 503, "store-unavailable", Some("1"));
    assert!(world.counted("store_failures.noperm") > 0, "{}", failures(&world));
}

/// A Redis that speaks TLS on this port too, to clients with a certificate.
pub fn with_tls(port: &Port) -> Redis {
    let number = port.number().to_string();
    let files = ["gateway.pem", "gateway.key", "ca.pem"].map(certificate);
    let options = ["--tls-port", "--tls-cert-file", "--tls-key-file", "--tls-ca-cert-file", "--tls-auth-clients"];
    let values = [&number, &files[0], &files[1], &files[2], "yes"];
    Redis::with(&options.into_iter().zip(values).flat_map(|(option, value)| [option, value]).collect::<Vec<_>>())
}

/// The transport socket of a cluster that leads to it, with this certificate of its own, to a Redis of this name.
pub fn tls_socket(own: Option<&str>, name: &str) -> Value {
    let file = |name: &str| json!({ "filename": certificate(name) });
    let own = own.map(
        |own| json!({ "certificate_chain": file(&format!("{own}.pem")), "private_key": file(&format!("{own}.key")) }),
    );
    let names = json!([{ "san_type": "URI", "matcher": { "exact": format!("spiffe://example.com/{name}") } }]);
    let context = json!({
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
        "common_tls_context": {
            "tls_certificates": Vec::from_iter(own),
            "validation_context": { "trusted_ca": file("ca.pem"), "match_typed_subject_alt_names": names },
        },
    });
    json!({ "name": "envoy.transport_sockets.tls", "typed_config": context })
}

fn certificate(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e/certificates");
    folder.join(name).to_str().unwrap().to_owned()
}

#[test]
fn over_tls_each_side_shows_a_certificate_and_another_one_gets_nothing_through() {
    let (tls, ledger) = (Port::unshared(), Ledger::start());
    let redis = with_tls(&tls);
    let start = |certificate: Option<&str>, name: &str| {
        let socket = tls_socket(certificate, name);
        let mut store = Dialect::Resp.store();
        store["timeout_ms"] = json!(PATIENT_MS);
        Gateway::start(
            Options::speaking(Dialect::Resp, ledger.addr(), tls.addr())
                .configuration(json!({ "store": store, "policy": { "ttl_s": 1800 } }))
                .mutate(move |tree| cluster(tree, "redis")["transport_socket"] = socket),
        )
    };
    let gateway = start(Some("alice"), "gateway");
    let pay = |key: &str| Request::post(gateway.addr(), "/tls").caller("alice").key(key).body("ten");
    let first = pay("a").send();
    executed(&first, 1);
    replays(&pay("a").send(), &first);
    assert_eq!(redis.keys().len(), 1);
    // A gateway without a certificate, and a Redis that is another than the file names.
    for (certificate, name) in [(None, "gateway"), (Some("alice"), "another")] {
        let gateway = start(certificate, name);
        refused(&pay("b").to(gateway.addr()).send(), 503, "store-unavailable", Some("1"));
    }
    assert_eq!((redis.keys().len(), ledger.entries().len()), (1, 1));
}

#[test]
fn a_late_reply_costs_its_own_command_and_not_the_stream() {
    let store = json!({ "attempts": 1, "timeout_ms": 1000, "breaker": { "failures": 1000 } });
    let world = alone(json!({ "store": store }));
    executed(&world.post("/late/first").key("k").body("ten").send(), 1);
    for number in 0..3 {
        world.interposer.next(1, Fault::DelayReply(Duration::from_millis(1500)));
        refused(&world.post("/late").key(format!("k{number}")).body("ten").send(), 503, "store-unavailable", Some("1"));
        let other = world.post("/late/other").key(format!("k{number}")).body("ten");
        let answer = wait_for("it is asked again", PATIENCE, || Some(other.send()).filter(|it| it.status == 201));
        assert!(said(&answer.unwrap()).starts_with("executed;stored=?1;"));
    }
    assert_eq!((connections(&world), world.counted("store_failures.nonce")), (1, 0));
}

#[test]
fn a_stream_on_which_nothing_has_come_for_four_time_outs_is_given_up() {
    let world = alone(json!({ "store": { "breaker": { "failures": 1000 } } }));
    executed(&world.post("/silent/first").key("k").body("ten").send(), 1);
    assert_eq!(connections(&world), 1);
    world.interposer.next(1, Fault::Silence);
    refused(&world.post("/silent").key("k").body("ten").send(), 503, "store-unavailable", Some("1"));
    assert_eq!(connections(&world), 1, "two tries have timed out, and the stream is kept");
    let pay = world.post("/silent").key("k").body("ten");
    let answer = wait_for("another is opened", PATIENCE, || Some(pay.send()).filter(|answer| answer.status == 201));
    assert!(said(&answer.unwrap()).starts_with("executed;stored=?1;"));
    assert_eq!((connections(&world), world.ledger.entries_for("/silent").len()), (2, 1));
}

#[test]
fn replies_that_are_doubled_or_another_questions_count_for_nothing() {
    let world = with(json!({ "store": { "breaker": { "failures": 1000 } } }), |options| options);
    executed(&world.post("/mixed/first").key("k").body("ten").send(), 1);
    for round in 0..10 {
        for fault in [Fault::Swap, Fault::Say(200, b"*1\r\n$17\r\n0123456789abcdefG\r\n".to_vec()), Fault::Swap] {
            world.interposer.next(1, fault);
            let pays = (0..4).map(|number| world.post("/mixed").key(format!("{round}-{number}")).body("ten"));
            for pay in pays.collect::<Vec<_>>() {
                wait_until("it is answered", PATIENCE, || pay.send().status == 201);
            }
        }
    }
    assert!(world.counted("store_failures.nonce") + world.counted("store_failures.garbage") > 0);
    let entries = world.ledger.entries_for("/mixed");
    assert_eq!(entries.len(), 40, "each ran once");
}

#[test]
fn gateways_outlive_the_streams_that_were_lost_when_their_configuration_goes() {
    let world = with(json!({ "store": { "breaker": { "failures": 1000 }, "cache": null } }), |options| {
        options.lds().drain_time_s(1)
    });
    for generation in 0..15 {
        let pays: Vec<_> =
            (0..8).map(|key| world.post("/goes").key(format!("{generation}-{key}")).body("ten")).collect();
        for fault in [Fault::CutBefore, Fault::CutAfter, Fault::CutInside, Fault::Silence] {
            world.interposer.next(2, fault);
            send_all(&pays);
        }
        world.interposer.set(Fault::Pass);
        let mut document = json!({ "store": Dialect::Resp.store(), "policy": { "ttl_s": 1800 } });
        document["problem_base"] = json!(format!("https://docs.example.com/{generation}/"));
        document["store"]["cache"] = Value::Null;
        world.gateways[0].update_plugin_config(&document).unwrap();
        pays.iter().for_each(|pay| wait_until("it is answered", PATIENCE, || pay.send().status == 201));
        assert!(world.gateways[0].is_running());
    }
    wait_until("no old one is left", PATIENCE, || {
        world.gateways[0].stat("listener_manager.total_listeners_draining") == 0
    });
    assert!(world.gateways[0].is_running());
    assert_eq!(world.ledger.entries_for("/goes").len(), 15 * 8);
}

#[test]
fn beside_a_replay_of_the_largest_size_no_small_claim_fails() {
    let large = 31_000_000;
    let document = json!({
        "store": { "timeout_ms": PATIENT_MS, "attempts": 1, "cache": null },
        "policy": { "max_response_bytes": 32 << 20 },
    });
    let world = with(document, |options| {
        options.concurrency(1).mutate(|tree| {
            listener(tree)["per_connection_buffer_limit_bytes"] = json!(80 << 20);
            cluster(tree, "payments")["per_connection_buffer_limit_bytes"] = json!(32 << 20);
            hcm(tree)["route_config"]["virtual_hosts"][0]["request_body_buffer_limit"] = json!(120 << 20);
        })
    });
    let pay = world.post("/largest").key("k").body("ten").header("x-test-body-size", large.to_string());
    let first = pay.send();
    executed(&first, 1);
    assert!(first.body == body_of_size(large));
    let small: Vec<_> = (0..64).map(|number| world.post("/small").key(format!("k{number}")).body("ten")).collect();
    thread::scope(|scope| {
        let replay = scope.spawn(|| pay.send());
        for answer in send_all(&small) {
            executed(&answer, 1);
        }
        let replay = replay.join().unwrap();
        assert_eq!(said(&replay).split(';').next(), Some("replayed"));
        assert!(replay.body == first.body);
    });
    // So none has waited for longer than one time-out.
    assert_eq!((failures(&world), connections(&world)), (String::new(), 2));
}

#[test]
fn an_address_where_http_is_spoken_is_said() {
    let (redis, ledger) = (Redis::start(), Ledger::start());
    let webdis = Webdis::start(redis.addr());
    let gateway = Gateway::start(Options::speaking(Dialect::Resp, ledger.addr(), webdis.addr()));
    // Each time the end of the stream comes with the bytes that end it.
    wait_until("it is tried again and again", PATIENCE, || {
        let opened = gateway.stat("cluster.redis.upstream_cx_total");
        let pay = gateway.post("/pay").key(format!("k{opened}")).body("ten");
        assert!([429, 503].contains(&pay.send().status));
        opened >= 8
    });
    gateway.wait_for_log("HTTP is spoken where the store's streams lead, as by Webdis");
    assert_eq!(ledger.entries().len(), 0);
}

#[test]
fn what_does_not_come_from_a_store_of_ours_gets_nothing_through_to_redis() {
    let world = with(json!({}), |options| {
        // A route by which anyone reaches the store's cluster.
        let open = json!({ "match": { "prefix": "/store" }, "route": { "cluster": "redis" } });
        options.concurrency(1).mutate(move |tree| {
            let routes = &mut hcm(tree)["route_config"]["virtual_hosts"][0]["routes"];
            routes.as_array_mut().unwrap().insert(0, open);
        })
    });
    executed(&world.post("/pay").key("k").body("ten").send(), 1);
    // No rule is about a PUT, so it goes to Redis as it is.
    let command = "*3\r\n$3\r\nSET\r\n$1\r\na\r\n$1\r\nb\r\n";
    // The stream may have begun to answer, and then it is cut.
    let answer = world.request("PUT", "/store").body(command).try_send();
    assert!(answer.is_err() || answer.is_ok_and(|answer| answer.status == 400));
    world.gateways[0].wait_for_log("what came for Redis is no gRPC");
    assert_eq!(world.redis.get(b"a"), None);
}

#[test]
fn a_plugin_that_takes_frames_off_in_the_filters_own_vm_is_said() {
    let (redis, ledger) = (Redis::start(), Ledger::start());
    let same = |tree: &mut Value| {
        let own = plugin(tree)["vm_config"]["vm_id"].clone();
        framing_of(cluster(tree, "redis")).unwrap()["typed_config"]["config"]["vm_config"]["vm_id"] = own;
    };
    let gateway = Gateway::start(Options::speaking(Dialect::Resp, ledger.addr(), redis.addr()).mutate(same));
    for key in 0..4 {
        let pay = gateway.post("/same-vm").key(format!("k{key}")).body("ten");
        refused(&pay.send(), 503, "store-unavailable", Some("1"));
    }
    gateway.wait_for_log("the plugin that takes frames off needs a vm_id of its own");
    assert!(gateway.is_running());
    assert_eq!((ledger.entries().len(), redis.keys().len()), (0, 0));
}

#[test]
fn where_no_way_leads_to_redis_requests_are_refused_and_envoy_lives() {
    let nowhere = || {
        let addr = Port::reserve().addr();
        move |tree: &mut Value| set_endpoint(cluster(tree, "redis"), addr)
    };
    let renamed = |tree: &mut Value| cluster(tree, "redis")["name"] = json!("another");
    let without = |field: &'static str| move |tree: &mut Value| drop(cluster(tree, "redis")[field].take());
    let no_frames_off = |tree: &mut Value| {
        let filters = &mut cluster(tree, "redis")["typed_extension_protocol_options"][PROTOCOL_OPTIONS]["http_filters"];
        filters.as_array_mut().unwrap().remove(0);
    };
    let changes: Vec<Change> = vec![
        Box::new(nowhere()),
        Box::new(renamed),
        Box::new(without("upstream_config")),
        Box::new(without("typed_extension_protocol_options")),
        Box::new(no_frames_off),
    ];
    for (number, change) in changes.into_iter().enumerate() {
        let (redis, ledger) = (Redis::start(), Ledger::start());
        let options = Options::speaking(Dialect::Resp, ledger.addr(), redis.addr()).concurrency(1);
        let gateway = Gateway::start(options.mutate(change));
        for key in 0..4 {
            let pay = gateway.post("/nowhere").key(format!("k{key}")).body("ten");
            refused(&pay.send(), 503, "store-unavailable", Some("1"));
        }
        assert!(gateway.is_running(), "{number}");
        assert_eq!((ledger.entries().len(), redis.keys().len()), (0, 0), "{number}");
    }
}
