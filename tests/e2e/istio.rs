//! The filter as Istio would serve it: `envoy/istio.yaml`, applied to a gateway that knows nothing of it.
//!
//! Its one rule: the patches are carried out as they are written; only what Istio's agent and control plane do for them
//! is done here: the module is a file, and the configuration that is to be discovered comes from one.
//! It does not know Istio.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use envoy_idempotency::config::Config;
use harness::gateway::{cluster, filter_wasm, hcm, hcm_of, listener, set_endpoint, shipped};
use harness::ledger::body_of_size;
use harness::{Dialect, Gateway, Ledger, Options, Redis, Request};
use serde_json::{Value, json};

use crate::check::{not_stored, parameter, refused, replays, said, shown};

/// A gateway made by the patches, and all that it needs.
struct Mesh {
    gateway: Gateway,
    ledger: Ledger,
    redis: Redis,
}

fn mesh() -> &'static Mesh {
    static MESH: LazyLock<Mesh> = LazyLock::new(|| {
        let (ledger, redis) = (Ledger::start(), Redis::start());
        let addr = redis.addr();
        let options = Options::speaking(Dialect::Resp, ledger.addr(), addr);
        let gateway = Gateway::start(options.mutate(move |tree| {
            take_out(tree);
            for patch in patches() {
                apply(&patch, tree);
            }
            set_endpoint(cluster(tree, "redis"), addr);
        }));
        Mesh { gateway, ledger, redis }
    });
    &MESH
}

impl Mesh {
    fn post(&self, path: &str) -> Request {
        self.gateway.post(path)
    }
}

#[test]
fn one_payment_sent_twice_is_charged_once_and_its_record_is_in_redis() {
    let mesh = mesh();
    let pay = mesh.post("/istio/payments").key("order-1001").body(r#"{"amount":4200}"#);
    let first = pay.send();
    assert_eq!(said(&first), "executed;stored=?1;attempt=1;ttl=86400", "{}", shown(&first));
    replays(&pay.send(), &first);
    let entries = mesh.ledger.entries_for("/istio/payments");
    assert_eq!(entries.len(), 1);
    let key = format!("idem:{}", entries[0].operation.as_deref().expect("the service sees the operation"));
    assert!(mesh.redis.keys().contains(&key.into_bytes()), "{:?}", mesh.redis.keys());
    assert_eq!(mesh.post("/istio/payments").key("order-1001").body("another").send().status, 409);
}

#[test]
fn its_metrics_have_labels() {
    let mesh = mesh();
    mesh.post("/istio/metrics").key("k").body("ten").send();
    let told = mesh.gateway.admin("/stats/prometheus?filter=idempotency");
    assert!(told.contains(r#"idempotency_requests_total{rule="default",outcome="executed"}"#), "{told}");
    assert!(told.contains(r#"idempotency_store_call_microseconds_bucket{le="2000"}"#), "{told}");
}

#[test]
fn a_503_of_a_sidecar_leaves_the_outcome_unknown() {
    let mesh = mesh();
    let pay = mesh.post("/istio/lost").key("k").body("ten");
    not_stored(&pay.clone().header("x-test-status", "503").send(), 503, 1, "unknown");
    let again = pay.send();
    let retry_after = again.header("retry-after").map(str::to_owned);
    refused(&again, 409, "outcome-unknown", retry_after.as_deref());
    assert!(retry_after.is_some_and(|seconds| (1..=60).contains(&seconds.parse().unwrap_or(0))), "{}", shown(&again));
    assert_eq!(mesh.ledger.entries_for("/istio/lost").len(), 1);
}

#[test]
fn the_largest_bodies_pass_the_buffers_both_ways() {
    let mesh = mesh();
    let largest = 524_288;
    let pay = mesh.post("/istio/large").key("k").header("x-test-body-size", largest.to_string());
    let pay = pay.header("x-test-chunked", "1").body(body_of_size(largest));
    let first = pay.send();
    assert_eq!((first.status, parameter(&first, "attempt")), (201, Some(1)), "{}", shown(&first));
    replays(&pay.send(), &first);
    let larger = mesh.post("/istio/larger").key("k").chunked([body_of_size(largest), body_of_size(1)]);
    refused(&larger.send(), 413, "body-too-large", None);
}

#[test]
fn the_buffer_rule_holds_by_itself_both_ways() {
    let merged = |target: &str, field: &str| {
        let patches = patches().into_iter().filter(|patch| patch["applyTo"] == target);
        patches.filter_map(|patch| patch["patch"]["value"][field].as_u64()).max().expect("the patch is there")
    };
    let config = Config::parse(b"{}", &|_| None).expect("{} is valid");
    let policy = &config.rules[0].policy;
    // Envoy's own, which nothing here changes.
    let cluster_limit = 1_048_576;
    let listener_limit = merged("LISTENER", "per_connection_buffer_limit_bytes");
    assert!(listener_limit >= policy.max_response_bytes + cluster_limit, "{listener_limit}");
    assert!(merged("VIRTUAL_HOST", "request_body_buffer_limit") >= policy.max_request_bytes + listener_limit);
}

#[test]
fn a_path_that_hides_another_is_seen_as_the_service_will_read_it() {
    let mesh = mesh();
    mesh.post("/istio/x/..//paths").key("k").body("ten").send();
    assert_eq!(mesh.ledger.entries_for("/istio/paths").len(), 1);
    assert_eq!(mesh.post("/istio/x%2f..").key("k").send().status, 400);
}

/// What an ingress gateway of Istio does not have: the filter, and what the patches set for it.
fn take_out(tree: &mut Value) {
    for kind in ["listeners", "clusters"] {
        let list = tree["static_resources"][kind].as_array_mut().expect("a list");
        list.retain(|one| one["name"] != "redis");
    }
    // Istio's bootstrap has what internal listeners want.
    tree["bootstrap_extensions"] =
        shipped("shielded.yaml").expect("the file is shipped")["bootstrap_extensions"].take();
    // A subscription says who asks.
    tree["node"] = json!({ "id": "gateway", "cluster": "gateway" });
    listener(tree)["per_connection_buffer_limit_bytes"] = json!(32_768);
    assert!(tree.as_object_mut().expect("an object").remove("stats_config").is_some());
    let manager = hcm(tree);
    manager["http_filters"].as_array_mut().expect("a list").retain(|filter| filter["name"] != "idempotency");
    let members = manager.as_object_mut().expect("an object");
    for member in ["stream_idle_timeout", "request_timeout", "normalize_path", "merge_slashes"]
        .into_iter()
        .chain(["path_with_escaped_slashes_action", "strip_trailing_host_dot"])
    {
        assert!(members.remove(member).is_some(), "envoy/redis.yaml has no {member}");
    }
    let host = &mut members["route_config"]["virtual_hosts"][0];
    assert!(host.as_object_mut().expect("an object").remove("request_body_buffer_limit").is_some());
}

fn patches() -> Vec<Value> {
    let resource = shipped("istio.yaml").unwrap_or_else(|message| panic!("{message}"));
    assert_eq!((&resource["kind"], &resource["metadata"]["name"]), (&json!("EnvoyFilter"), &json!("idempotency")));
    resource["spec"]["configPatches"].as_array().expect("a list").clone()
}

/// Carries out one patch.
fn apply(patch: &Value, tree: &mut Value) {
    assert_eq!(patch["match"]["context"], "GATEWAY");
    let wanted = &patch["match"]["listener"]["filterChain"]["filter"];
    let (target, operation) = (&patch["applyTo"], &patch["patch"]["operation"]);
    let value = patch["patch"]["value"].clone();
    match (target.as_str().unwrap_or_default(), operation.as_str().unwrap_or_default()) {
        ("EXTENSION_CONFIG", "ADD") => write_discovered(value),
        ("HTTP_FILTER", "INSERT_BEFORE") => {
            assert_eq!(listener(tree)["filter_chains"][0]["filters"][0]["name"], wanted["name"]);
            let filters = hcm(tree)["http_filters"].as_array_mut().expect("a list");
            let router = filters.iter().position(|filter| filter["name"] == wanted["subFilter"]["name"]);
            filters.insert(router.expect("the filter to stand before is there"), discovering(value));
        }
        ("LISTENER", "ADD") => {
            let mut added = value;
            let filter = &mut hcm_of(&mut added)["http_filters"][0];
            *filter = discovering(filter.take());
            tree["static_resources"]["listeners"].as_array_mut().expect("a list").push(added);
        }
        ("BOOTSTRAP", "MERGE") => merge(tree, value),
        ("CLUSTER", "ADD") => tree["static_resources"]["clusters"].as_array_mut().expect("a list").push(value),
        ("LISTENER", "MERGE") => merge(listener(tree), value),
        ("VIRTUAL_HOST", "MERGE") => merge(&mut hcm(tree)["route_config"]["virtual_hosts"][0], value),
        ("NETWORK_FILTER", "MERGE") => {
            let filter = &mut listener(tree)["filter_chains"][0]["filters"][0];
            assert_eq!(filter["name"], wanted["name"]);
            merge(filter, value);
        }
        other => panic!("{other:?} is not carried out here"),
    }
}

/// What is to be discovered, as the answer to who asks for it; Istio's agent has fetched the module.
fn write_discovered(mut extension: Value) {
    let code = &mut extension["typed_config"]["config"]["vm_config"]["code"];
    assert!(code["remote"]["http_uri"]["uri"].as_str().is_some_and(|uri| uri.starts_with("oci://")));
    *code = json!({ "local": { "filename": filter_wasm() } });
    let file = discovered(&extension["name"]);
    extension["@type"] = json!("type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig");
    let answer = json!({ "version_info": "1", "resources": [extension] });
    fs::write(file, answer.to_string()).expect("the folder of tests can be written");
}

/// The filter, with a file in place of Istio's control plane.
fn discovering(mut filter: Value) -> Value {
    let file = discovered(&filter["name"]);
    let source = filter["config_discovery"]["config_source"].as_object_mut().expect("an object");
    assert_eq!(source.remove("ads"), Some(json!({})));
    source.insert("path_config_source".to_owned(), json!({ "path": file }));
    filter
}

fn discovered(name: &Value) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("istio-{}.json", name.as_str().expect("it has a name")))
}

/// As protobuf merges messages: fields that are given replace those that were there.
fn merge(target: &mut Value, given: Value) {
    match (target, given) {
        (Value::Object(target), Value::Object(given)) => {
            for (name, value) in given {
                merge(target.entry(name).or_insert(Value::Null), value);
            }
        }
        (target, given) => *target = given,
    }
}
