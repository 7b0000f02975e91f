//! Records on the three masters of a Redis Cluster, behind Envoy's redis_proxy: on streams, as
//! `envoy/redis-cluster.yaml` has it, and by way of Webdis; while slots move, and when masters die.
//!
//! Its one rule: enough keys are used that every master has some.
//! It does not know what the proxy does, only what its counters say; nor what a promotion loses under load, for which see
//! the chaos classes `cluster …`.

use std::net::SocketAddr;
use std::time::Instant;

use harness::gateway::{cluster, listener_named, plugin, set_endpoint, set_endpoints, shipped};
use harness::{
    Dialect, Gateway, Ledger, Options, PATIENCE, Port, RedisCluster, Webdis, send_all, wait_for, wait_until,
};
use serde_json::{Value, json};

use crate::check::{executed, is_refusal, refused, replays, said, shown};
use crate::redis::PATIENT_MS;
use crate::redis_load::{Field, Promise, document, storm_on};

#[test]
fn every_master_of_a_redis_cluster_keeps_its_records() {
    let (nodes, ledger) = (RedisCluster::start(), Ledger::start());
    let gateway = start(&nodes, &ledger, |tree| {
        patient(tree);
    });
    all_masters_keep_records(&nodes, &gateway, &ledger);
    // Every operation was a command of its own, and many went on one connection.
    assert!(gateway.stat("cluster.redis.upstream_cx_total") <= 4);
}

/// A gateway by the shipped file in front of these nodes, when the proxy knows all slots.
#[track_caller]
fn start(nodes: &RedisCluster, ledger: &Ledger, change: impl FnOnce(&mut Value) + 'static) -> Gateway {
    let gateway = launch(nodes, ledger, change);
    let warm = |n: usize| gateway.post("/warm").key(format!("warm-{n}")).body("w");
    wait_until("the proxy knows all slots", PATIENCE, || {
        send_all(&(0..12).map(warm).collect::<Vec<_>>()).iter().all(|answer| answer.status == 201)
    });
    gateway
}

#[track_caller]
fn launch(nodes: &RedisCluster, ledger: &Ledger, change: impl FnOnce(&mut Value) + 'static) -> Gateway {
    let proxy = Port::reserve();
    let (addrs, front) = (nodes.addrs(), proxy.addr());
    let options = Options::file("redis-cluster.yaml", ledger.addr()).mutate(move |tree| {
        let listener = listener_named(tree, "redis-proxy");
        listener["address"]["socket_address"]["port_value"] = json!(front.port());
        set_endpoint(cluster(tree, "redis"), front);
        set_endpoints(cluster(tree, "redis-cluster"), &addrs[..3]);
        change(tree);
    });
    Gateway::start(options)
}

/// The counters of the proxy and of its cluster that are not 0.
fn counters(gateway: &Gateway) -> String {
    let text =
        gateway.admin("/stats?filter=^(redis\\.|cluster\\.redis-cluster\\.|wasmcustom.*store_failures)&usedonly");
    let counters = text.lines().filter(|line| !line.ends_with(": 0") && !line.contains("recorded"));
    counters.map(|line| format!("{line}\n")).collect()
}

#[test]
fn a_slot_that_moves_under_load_loses_and_doubles_nothing() {
    let (nodes, ledger) = (RedisCluster::start(), Ledger::start());
    // All records are in one slot, so that every request meets the move.
    let gateways = [(); 2].map(|()| {
        start(&nodes, &ledger, |tree| {
            lasting(tree);
            with_document(tree, |document| document["store"]["prefix"] = json!("{one}:"));
        })
    });
    let slot = nodes.slot(b"{one}:");
    let field = Field { gateways: &gateways, ledger: &ledger };
    storm_on(&field, Promise::ONCE, |progress| {
        let (begun, before) = (Instant::now(), progress.answers());
        let mut moved = 0;
        for _ in 0..6 {
            let from = owner(&nodes, slot);
            let to = (from + 1) % 3;
            nodes.open(slot, from, to);
            // Each new record is there already; of the others some are still here.
            progress.wait_for(50);
            loop {
                match nodes.migrate(slot, from, to, 100) {
                    0 => break,
                    count => moved += count,
                }
                progress.wait_for(10);
            }
            progress.wait_for(50);
            nodes.close(slot, from, to);
            progress.wait_for(50);
        }
        let (answers, took) = (progress.answers() - before, begun.elapsed());
        println!("{moved} records moved under {:.0} requests a second.", answers as f64 / took.as_secs_f64());
        assert!(moved > 100, "{moved}");
    });
    for gateway in &gateways {
        let redirected = gateway.stat("cluster.redis-cluster.upstream_internal_redirect_succeeded_total");
        println!("{redirected} of its commands were sent on.");
        assert!(redirected > 0, "{}", counters(gateway));
        assert_eq!(failures(gateway), "");
    }
}

#[test]
fn slots_all_over_the_cluster_that_move_under_load_lose_and_double_nothing() {
    let (nodes, ledger) = (RedisCluster::start(), Ledger::start());
    let gateways = [(); 2].map(|()| start(&nodes, &ledger, lasting));
    let field = Field { gateways: &gateways, ledger: &ledger };
    storm_on(&field, Promise::ONCE, |progress| {
        for slot in busy_slots(&nodes, 30) {
            let from = owner(&nodes, slot);
            let to = (from + 1) % 3;
            nodes.open(slot, from, to);
            progress.wait_for(4);
            while nodes.migrate(slot, from, to, 10) > 0 {}
            nodes.close(slot, from, to);
        }
    });
    assert_eq!(gateways.each_ref().map(failures), ["", ""]);
}

/// What the filter counts of failures of its store.
fn failures(gateway: &Gateway) -> String {
    let counted = counters(gateway);
    counted.lines().filter(|line| line.starts_with("wasmcustom.")).collect()
}

/// Slots in which there are records, spread over all masters.
fn busy_slots(nodes: &RedisCluster, count: usize) -> Vec<u16> {
    let keys = nodes.keys();
    let mut slots: Vec<u16> =
        keys.iter().rev().step_by((keys.len() / count).max(1)).map(|key| nodes.slot(key)).collect();
    slots.sort();
    slots.dedup();
    slots
}

/// The master of a slot: the one that does not send us on.
fn owner(nodes: &RedisCluster, slot: u16) -> usize {
    let slot = slot.to_string();
    let keys = |node: &usize| nodes.nodes[*node].ask(&["CLUSTER", "GETKEYSINSLOT", &slot, "1"]).list().len();
    (0..3).find(|node| keys(node) > 0).expect("there are records in it")
}

#[test]
fn a_slot_that_stays_half_moved_is_served_from_both_sides() {
    let (nodes, ledger) = (RedisCluster::start(), Ledger::start());
    let gateway = start(&nodes, &ledger, |tree| {
        patient(tree);
        asking(tree);
    });
    let pay = |n: usize| gateway.post("/half").key(format!("key-{n}")).body("ten");
    let firsts: Vec<_> = (0..40).map(|n| pay(n).send()).collect();
    firsts.iter().for_each(|first| executed(first, 1));
    let keys = nodes.keys();
    let slots: Vec<_> = keys.iter().map(|key| nodes.slot(key)).collect();
    let moves: Vec<_> = slots.iter().map(|slot| (*slot, owner(&nodes, *slot))).collect();
    let mut open = moves.clone();
    open.sort();
    open.dedup();
    for (slot, from) in &open {
        nodes.open(*slot, *from, (*from + 1) % 3);
    }
    // Half of the records have moved on, and the script is not where they are.
    for (slot, from) in open.iter().step_by(2) {
        nodes.migrate(*slot, *from, (*from + 1) % 3, 10);
    }
    nodes.nodes.iter().for_each(|node| drop(node.ask(&["SCRIPT", "FLUSH"])));
    for (n, first) in firsts.iter().enumerate() {
        replays(&pay(n).send(), first);
        refused(&pay(n).body("another").send(), 409, "mismatch", None);
    }
    assert_eq!(ledger.entries_for("/half").len(), 40);
    assert!(gateway.stat("cluster.redis-cluster.upstream_internal_redirect_succeeded_total") > 0);
}

#[test]
fn the_proxy_logs_in_as_a_user_that_needs_each_of_its_rights() {
    let (nodes, ledger) = (RedisCluster::start(), Ledger::start());
    let rights = ["resetkeys", "~idem:*", "resetchannels", "-@all", "+eval", "+evalsha", "+get", "+set", "+time"];
    let as_user = |rights: &[&str]| {
        nodes.nodes.iter().for_each(|node| drop(node.ask(&[&["ACL", "SETUSER", "gateway"], rights].concat())));
    };
    as_user(&[&["on", ">secret"], &rights[..], &["+cluster|slots", "+asking"]].concat());
    let gateway = start(&nodes, &ledger, |tree| {
        patient(tree);
        asking(tree);
        let options = json!({
            "@type": "type.googleapis.com/envoy.extensions.filters.network.redis_proxy.v3.RedisProtocolOptions",
            "auth_username": { "inline_string": "gateway" },
            "auth_password": { "inline_string": "secret" },
        });
        let nodes = cluster(tree, "redis-cluster");
        nodes["cluster_type"]["typed_config"]["cluster_refresh_rate"] = json!("0.5s");
        nodes["typed_extension_protocol_options"] = json!({ "envoy.filters.network.redis_proxy": options });
    });
    let pay = |n: usize| gateway.post("/user").key(format!("key-{n}")).body("ten");
    executed(&pay(0).send(), 1);
    let users = nodes.nodes[0].ask(&["CLIENT", "LIST"]).text();
    assert!(users.contains("user=gateway"), "{users}");
    // A slot on the move wants ASKING.
    let key = format!("idem:{}", ledger.entries_for("/user")[0].operation.as_deref().unwrap());
    let slot = nodes.slot(key.as_bytes());
    let (from, to) = (owner(&nodes, slot), (owner(&nodes, slot) + 1) % 3);
    nodes.open(slot, from, to);
    nodes.migrate(slot, from, to, 10);
    assert_eq!(said(&pay(0).send()).split(';').next(), Some("replayed"));
    as_user(&["-asking"]);
    refused(&pay(0).send(), 503, "store-unavailable", Some("1"));
    as_user(&["+asking"]);
    assert_eq!(said(&pay(0).send()).split(';').next(), Some("replayed"));
    // A proxy that may not ask where the slots are knows none.
    as_user(&["-cluster|slots"]);
    let before = gateway.stat("cluster.redis-cluster.update_failure");
    wait_until("it has asked in vain", PATIENCE, || {
        gateway.stat("cluster.redis-cluster.update_failure") > before || counters(&gateway).contains("cluster.error")
    });
}

#[test]
fn what_the_filter_logs_in_with_is_for_the_proxy_and_no_node() {
    let (nodes, ledger) = (RedisCluster::start(), Ledger::start());
    let gateway = launch(&nodes, &ledger, |tree| {
        with_document(tree, |document| document["store"]["password"] = json!("secret"));
    });
    let pay = |n: usize| gateway.post("/login").key(format!("key-{n}")).body("ten");
    refused(&pay(0).send(), 503, "store-unavailable", Some("1"));
    assert!(gateway.counted("store_failures.err") > 0, "{}", counters(&gateway));
    let gateway = start(&nodes, &ledger, |tree| {
        patient(tree);
        with_document(tree, |document| document["store"]["password"] = json!("secret"));
        let proxy = &mut listener_named(tree, "redis-proxy")["filter_chains"][0]["filters"][0]["typed_config"];
        proxy["downstream_auth_passwords"] = json!([{ "inline_string": "secret" }]);
    });
    assert_eq!(failures(&gateway), "");
}

#[test]
fn when_a_master_dies_its_replica_is_promoted_and_the_others_serve_on() {
    let (nodes, ledger) = (RedisCluster::with_replicas(&["--cluster-require-full-coverage", "no"]), Ledger::start());
    let gateway = start(&nodes, &ledger, asking);
    let pay = |n: usize| gateway.post("/dies").key(format!("key-{n}")).body("ten");
    let firsts: Vec<_> = (0..60).map(|n| pay(n).send()).collect();
    firsts.iter().for_each(|first| executed(first, 1));
    let replica = nodes.replica_of(0);
    wait_until("the replica has all", PATIENCE, || nodes.nodes[replica].keys() == nodes.nodes[0].keys());
    let lost = nodes.nodes[0].keys();

    let killed = Instant::now();
    nodes.nodes[0].kill();
    // Its keys are refused, the others are not, until the replica is promoted.
    let entries = ledger.entries_for("/dies");
    let is_lost = |n: usize| {
        let key = format!("idem:{}", entries[n].operation.as_deref().expect("it ran under a claim"));
        lost.contains(&key.into_bytes())
    };
    let mut refusals = 0;
    wait_until("the replica is promoted", PATIENCE, || {
        for (n, first) in firsts.iter().enumerate() {
            let answer = pay(n).send();
            match (answer.status, is_lost(n)) {
                (201, _) => assert_eq!(answer.body, first.body),
                // A claim that may have been heard is not withdrawn yet.
                (429, true) => assert!(is_refusal(&answer, "in-flight"), "{}", shown(&answer)),
                (_, true) => assert!(is_refusal(&answer, "store-unavailable"), "{}", shown(&answer)),
                (_, false) => panic!("the key of a living master: {}\n{}", shown(&answer), counters(&gateway)),
            }
            refusals += usize::from(answer.status != 201);
        }
        nodes.nodes[replica].is_primary()
    });
    let promoted = killed.elapsed();
    assert!(refusals > 0);
    // Where it shows.
    for counter in ["redis.redis-proxy.command.evalsha.error", "cluster.redis-cluster.upstream_cx_connect_fail"] {
        assert!(gateway.stat(counter) > 0, "{counter}\n{}", counters(&gateway));
    }
    assert!(gateway.counted("store_failures.other") > 0, "{}", counters(&gateway));
    for (n, first) in firsts.iter().enumerate() {
        let again = wait_for("it is replayed", PATIENCE, || Some(pay(n).send()).filter(|answer| answer.status == 201));
        replays(&again.unwrap(), first);
    }
    println!("Promoted after {promoted:.1?}, and {:.1?} later all was as before.", killed.elapsed() - promoted);
    assert_eq!(ledger.entries_for("/dies").len(), 60);
}

/// Webdis knows no cluster, so it asks the redis_proxy.
#[test]
fn by_way_of_webdis_every_master_of_a_redis_cluster_keeps_its_records() {
    let nodes = RedisCluster::start();
    let proxy = Port::reserve();
    let webdis = Webdis::start(proxy.addr());
    let ledger = Ledger::start();
    let (addrs, front) = (nodes.addrs(), proxy.addr());
    let mut store = Dialect::Webdis.store();
    (store["batching"], store["timeout_ms"]) = (json!(false), json!(PATIENT_MS));
    let options = Options::speaking(Dialect::Webdis, ledger.addr(), webdis.addr());
    let gateway = Gateway::start(options.configuration(json!({ "store": store })).mutate(move |tree| {
        let mut other = shipped("redis-cluster.yaml").expect("it is shipped");
        set_up(&mut other, front, &addrs);
        let fixed = &mut tree["static_resources"];
        fixed["listeners"].as_array_mut().unwrap().push(listener_named(&mut other, "redis-proxy").clone());
        fixed["clusters"].as_array_mut().unwrap().push(cluster(&mut other, "redis-cluster").clone());
    }));
    // It was there before the proxy was.
    webdis.restart();
    all_masters_keep_records(&nodes, &gateway, &ledger);
}

/// The proxy listens there and knows these nodes; it waits for machines that are busy.
fn set_up(tree: &mut Value, front: SocketAddr, nodes: &[SocketAddr]) {
    let proxy = listener_named(tree, "redis-proxy");
    proxy["address"]["socket_address"]["port_value"] = json!(front.port());
    proxy["filter_chains"][0]["filters"][0]["typed_config"]["settings"]["op_timeout"] = json!("5s");
    set_endpoints(cluster(tree, "redis-cluster"), nodes);
}

/// Has the shipped document say more.
fn with_document(tree: &mut Value, change: impl FnOnce(&mut Value)) {
    let value = &mut plugin(tree)["configuration"]["value"];
    let mut document: Value = serde_json::from_str(value.as_str().expect("it is text")).expect("it is JSON");
    change(&mut document);
    *value = json!(document.to_string());
}

/// The store's time-out, and the proxy's, are for machines that are busy.
fn patient(tree: &mut Value) {
    let proxy = listener_named(tree, "redis-proxy");
    proxy["filter_chains"][0]["filters"][0]["typed_config"]["settings"]["op_timeout"] = json!("5s");
    with_document(tree, |document| document["store"]["timeout_ms"] = json!(PATIENT_MS));
}

/// No answer comes from the gateway's own memory.
fn asking(tree: &mut Value) {
    with_document(tree, |document| {
        document["store"]["cache"] = Value::Null;
        document["policy"]["ttl_s"] = json!(1800);
    });
}

/// Leases that outlive a storm, on a machine that is busy.
fn lasting(tree: &mut Value) {
    patient(tree);
    with_document(tree, |own| own["policy"] = document()["policy"].clone());
}

#[track_caller]
fn all_masters_keep_records(nodes: &RedisCluster, gateway: &Gateway, ledger: &Ledger) {
    let before = ledger.entries().len();
    let pay = |n: usize| gateway.post("/v1/payments").key(format!("key-{n}")).body(n.to_string());
    wait_until("the chain is complete", PATIENCE, || !is_refusal(&pay(0).send(), "store-unavailable"));

    // All at once, so that operations would share calls if they could.
    let firsts = send_all(&(1..=40).map(pay).collect::<Vec<_>>());
    for (n, first) in (1..).zip(&firsts) {
        assert_eq!(said(first), "executed;stored=?1;attempt=1;ttl=86400");
        refused(&pay(n).body("another").send(), 409, "mismatch", None);
    }
    for node in &nodes.nodes {
        // Every node forgets the script on its own.
        node.ask(&["SCRIPT", "FLUSH"]);
        assert!(!node.keys().is_empty());
    }
    assert_eq!(nodes.keys().len(), before + 41);
    for (n, first) in (1..).zip(&firsts) {
        let again = pay(n).send();
        assert_eq!((said(&again).split(';').next(), &again.body), (Some("replayed"), &first.body));
    }
    assert_eq!(ledger.entries().len(), before + 41);
    let failures = gateway.admin("/stats?filter=store_failures_total.*(crossslot|moved|noscript)");
    assert!(failures.lines().all(|line| line.ends_with(": 0")), "{failures}");
}
