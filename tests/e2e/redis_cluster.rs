//! Records on the three masters of a Redis Cluster, behind Envoy's redis_proxy: on streams, as
//! `envoy/redis-cluster.yaml` has it, and by way of Webdis.
//!
//! Its one rule: enough keys are used that every master has some.
//! It does not know of faults.

use std::net::SocketAddr;

use harness::gateway::{cluster, listener_named, plugin, set_endpoint, set_endpoints, shipped};
use harness::{Dialect, Gateway, Ledger, Options, PATIENCE, Port, Redis, RedisCluster, Webdis, send_all, wait_until};
use serde_json::{Value, json};

use crate::check::{is_refusal, refused, said};
use crate::redis::PATIENT_MS;

#[test]
fn every_master_of_a_redis_cluster_keeps_its_records() {
    let nodes = RedisCluster::start();
    let (proxy, ledger) = (Port::reserve(), Ledger::start());
    let (addrs, front) = (nodes.nodes.each_ref().map(Redis::addr), proxy.addr());
    let options = Options::file("redis-cluster.yaml", ledger.addr()).mutate(move |tree| {
        set_up(tree, front, &addrs);
        set_endpoint(cluster(tree, "redis"), front);
        patient(tree);
    });
    let gateway = Gateway::start(options);
    all_masters_keep_records(&nodes, &gateway, &ledger);
    // Every operation was a command of its own, and many went on one connection.
    assert!(gateway.stat("cluster.redis.upstream_cx_total") <= 4);
}

/// Webdis knows no cluster, so it asks the redis_proxy.
#[test]
fn by_way_of_webdis_every_master_of_a_redis_cluster_keeps_its_records() {
    let nodes = RedisCluster::start();
    let proxy = Port::reserve();
    let webdis = Webdis::start(proxy.addr());
    let ledger = Ledger::start();
    let (addrs, front) = (nodes.nodes.each_ref().map(Redis::addr), proxy.addr());
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

/// The shipped document, with a time-out for machines that are busy.
fn patient(tree: &mut Value) {
    let document = &mut plugin(tree)["configuration"]["value"];
    let shipped = document.as_str().expect("it is text").trim_end();
    let patient = format!(r#", "timeout_ms": {PATIENT_MS} }} }}"#);
    *document = json!(format!("{}{patient}", shipped.strip_suffix(" } }").expect("the store stands last")));
}

#[track_caller]
fn all_masters_keep_records(nodes: &RedisCluster, gateway: &Gateway, ledger: &Ledger) {
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
    assert_eq!(nodes.nodes.iter().map(|node| node.keys().len()).sum::<usize>(), 41);
    for (n, first) in (1..).zip(&firsts) {
        let again = pay(n).send();
        assert_eq!((said(&again).split(';').next(), &again.body), (Some("replayed"), &first.body));
    }
    assert_eq!(ledger.entries().len(), 41);
    let failures = gateway.admin("/stats?filter=store_failures_total.*(crossslot|moved|noscript)");
    assert!(failures.lines().all(|line| line.ends_with(": 0")), "{failures}");
}
