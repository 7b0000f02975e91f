//! Warnings about the way of the store's streams: each is provoked by one change of `envoy/redis.yaml` or `envoy/istio.yaml`.

use serde_json::{Value, json};

use crate::{Run, check, check_changed, set_document, shipped};

const OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
const IN_CLEAR: &str = "/store: keeps responses in Redis in clear; give secrets.encryption";

fn streams(change: impl FnOnce(&mut Value)) -> Run {
    check_changed("redis.yaml", change)
}

/// The same by way of a listener, as `envoy/istio.yaml` has it.
fn through_a_listener(change: impl FnOnce(&mut Value)) -> Run {
    let mut mesh = shipped("istio.yaml");
    let patches = mesh["spec"]["configPatches"].take();
    let named = |name: &str, field: &str| {
        let values = patches.as_array().unwrap().iter().map(|patch| &patch["patch"]["value"]);
        values.filter(|it| !it[field].is_null()).find(|it| it["name"] == name).unwrap().clone()
    };
    streams(|tree| {
        let framing = clusters(tree)[1]["typed_extension_protocol_options"].take()[OPTIONS]["http_filters"][0].take();
        drop(clusters(tree)[1]["upstream_config"].take());
        clusters(tree).insert(1, named("resp", "load_assignment"));
        tree["static_resources"]["listeners"].as_array_mut().unwrap().push(named("resp", "internal_listener"));
        manager(tree)["http_filters"][0] = framing;
        tree["bootstrap_extensions"] = shipped("shielded.yaml")["bootstrap_extensions"].take();
        set_document(tree, r#"{"store": {"type": "redis", "cluster": "resp"}}"#);
        change(tree);
    })
}

/// The HTTP filters of the cluster.
fn filters(tree: &mut Value) -> &mut Vec<Value> {
    clusters(tree)[1]["typed_extension_protocol_options"][OPTIONS]["http_filters"].as_array_mut().unwrap()
}

fn manager(tree: &mut Value) -> &mut Value {
    &mut tree["static_resources"]["listeners"][1]["filter_chains"][0]["filters"][0]["typed_config"]
}

fn route(tree: &mut Value) -> &mut Value {
    &mut manager(tree)["route_config"]["virtual_hosts"][0]["routes"][0]["route"]
}

fn clusters(tree: &mut Value) -> &mut Vec<Value> {
    tree["static_resources"]["clusters"].as_array_mut().unwrap()
}

#[track_caller]
fn warned(run: Run, warning: &str) {
    assert_eq!(run.warnings(), [IN_CLEAR, warning]);
}

#[test]
fn the_shipped_file_leads_to_redis() {
    let run = streams(|_| {});
    assert_eq!(run.warnings(), [IN_CLEAR]);
    assert!(run.out.contains("HTTP filter framing\n  takes"), "{}", run.out);
}

#[test]
fn whatever_is_missing_in_the_cluster_is_named() {
    let there = |change: &dyn Fn(&mut Value)| streams(change);
    warned(
        there(&|tree| drop(clusters(tree).remove(1))),
        "store.cluster is redis, and the file has no cluster of this name: every call to it fails",
    );
    warned(
        there(&|tree| drop(clusters(tree)[1]["upstream_config"].take())),
        "cluster redis has no upstream_config of envoy.filters.connection_pools.http.tcp: Redis would get HTTP instead of \
         commands",
    );
    warned(
        there(&|tree| {
            let options = &mut clusters(tree)[1]["typed_extension_protocol_options"][OPTIONS];
            drop(options["explicit_http_config"].take());
        }),
        "cluster redis does not set http2_protocol_options, without which Envoy opens no stream",
    );
    warned(
        there(&|tree| drop(filters(tree).remove(0))),
        "cluster redis, given as store.cluster, has no plugin of this module with the document {\"framing\": true} among \
         its http_filters, and leads to no listener that has one: Redis would get frames instead of commands",
    );
    warned(
        there(&|tree| filters(tree)[0]["typed_config"]["config"]["vm_config"]["vm_id"] = json!("idempotency")),
        "the plugin of cluster redis that takes frames off has the vm_id of the filter: give it one of its own, because \
         Envoy calls it while the filter writes",
    );
    warned(
        there(&|tree| {
            let route = json!({ "match": { "prefix": "/store" }, "route": { "cluster": "redis" } });
            let manager =
                &mut tree["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"];
            manager["route_config"]["virtual_hosts"][0]["routes"].as_array_mut().unwrap().push(route);
        }),
        "a route leads to store.cluster redis: a client that speaks gRPC reaches Redis through it, and can read and forge \
         records",
    );
    let plain = there(&|tree| {
        let cluster = clusters(tree)[1].as_object_mut().unwrap();
        cluster.retain(|field, _| !["upstream_config", "typed_extension_protocol_options"].contains(&field.as_str()));
    });
    assert_eq!(plain.warnings().len(), 4, "{}", plain.out);
}

#[test]
fn whatever_is_missing_on_the_way_through_a_listener_is_named() {
    let warned_there = |change: &dyn Fn(&mut Value), warning| warned(through_a_listener(change), warning);
    assert_eq!(through_a_listener(|_| {}).warnings(), [IN_CLEAR]);
    warned_there(
        &|tree| drop(tree.as_object_mut().unwrap().remove("bootstrap_extensions")),
        "bootstrap_extensions has no envoy.bootstrap.internal_listener, without which there are no internal listeners",
    );
    warned_there(
        &|tree| drop(clusters(tree).remove(2)),
        "the route to Redis is redis, and the file has no cluster of this name: every call to it fails",
    );
    warned_there(
        &|tree| drop(clusters(tree)[1]["typed_extension_protocol_options"].take()),
        "cluster resp does not set http2_protocol_options, without which Envoy opens no stream",
    );
    let no_listener = "store.cluster resp leads to no listener of this file that takes frames off: Redis would get frames \
                       instead of commands";
    warned_there(&|tree| drop(tree["static_resources"]["listeners"].as_array_mut().unwrap().remove(1)), no_listener);
    warned_there(
        &|tree| drop(manager(tree)["http_filters"].as_array_mut().unwrap().remove(0)),
        "listener resp, to which store.cluster resp leads, has no plugin of this module with the document {\"framing\": \
         true}: Redis would get frames instead of commands",
    );
    warned_there(
        &|tree| manager(tree)["stream_idle_timeout"] = json!("300s"),
        "listener resp does not set stream_idle_timeout to 0s: it ends streams that are idle",
    );
    warned_there(
        &|tree| drop(route(tree)["timeout"].take()),
        "a route of listener resp does not set timeout to 0s: it ends streams after that",
    );
    warned_there(
        &|tree| route(tree)["upgrade_configs"][0]["connect_config"]["allow_post"] = json!(false),
        "a route of listener resp has no upgrade_configs with upgrade_type CONNECT and connect_config {allow_post: \
         true}: Redis would get HTTP instead of commands",
    );
}

#[test]
fn a_plugin_that_is_discovered_is_looked_for_in_the_file() {
    let discover = |tree: &mut Value| {
        filters(tree)[0] = json!({ "name": "framing", "config_discovery": { "config_source": {} } });
    };
    assert_eq!(streams(discover).warnings(), [IN_CLEAR], "another file may have it");
    let of_the_mesh = |document: &str| {
        let mut filter = shipped("istio.yaml");
        let patches = filter["spec"]["configPatches"].as_array_mut().unwrap().iter_mut();
        let mut extensions = patches.map(|patch| &mut patch["patch"]["value"]);
        let extension = extensions.find(|value| value["name"] == "idempotency-framing").unwrap();
        extension["typed_config"]["config"]["configuration"]["value"] = json!(document);
        check(&filter.to_string()).warnings().iter().any(|warning| warning.starts_with("listener resp, to which"))
    };
    assert!(!of_the_mesh(r#"{"framing": true}"#));
    assert!(of_the_mesh("{}"), "it is another gateway, and takes nothing off");
}

#[test]
fn a_document_for_framing_that_says_more_is_an_error() {
    let run = streams(|tree| {
        filters(tree)[0]["typed_config"]["config"]["configuration"]["value"] =
            json!(r#"{"framing": true, "store": {}}"#);
    });
    assert_eq!(run.code, 1);
    assert!(run.out.contains("error: /store: must not stand beside framing, which stands alone"), "{}", run.out);
}
