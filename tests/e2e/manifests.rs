//! What `deploy/kubernetes` and `deploy/envoy-gateway.yaml` give to Envoy, served without a cluster.
//!
//! Its one rule: the files are taken as they are written; only what a cluster would do for them is done here: names become
//! addresses, volumes become folders, and secrets variables.
//! It does not know Kubernetes, nor Envoy Gateway.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::LazyLock;

use harness::gateway::{cluster, filter_wasm, hcm, hcm_of, listener, listener_named, set_endpoints, yaml};
use harness::ledger::body_of_size;
use harness::{Gateway, Ledger, Options, PATIENCE, Port, Redis, RedisCluster, Request, wait_until};
use serde_json::{Value, json};

use crate::check::{refused, replays, said, shown};

const PASSWORD: &str = "pass-of-a-gateway";

/// A gateway of one overlay.
struct Pod {
    gateway: Gateway,
    ledger: Ledger,
    stats: Port,
    /// What only this Envoy reaches: its admin interface, and its redis_proxy.
    _inner: [Port; 2],
}

impl Pod {
    /// Starts Envoy with the files of the overlay; each of these clusters leads to these addresses.
    #[track_caller]
    fn start(overlay: &'static str, clusters: &[(&'static str, Vec<SocketAddr>)]) -> Pod {
        let (ledger, stats, inner) = (Ledger::start(), Port::reserve(), [Port::unshared(), Port::reserve()]);
        let (clusters, outer, ports) = (clusters.to_vec(), stats.number(), [inner[0].number(), inner[1].number()]);
        let payments = ledger.addr();
        let options = Options::new(payments).env("IDEMPOTENCY_HASH_KEY", "0f1e2d3c").env("REDIS_PASSWORD", PASSWORD);
        let gateway = Gateway::start(options.mutate(move |tree| {
            let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("kubernetes-{overlay}"));
            fs::create_dir_all(&folder).unwrap();
            let mounted = |file: &str| {
                let text = serde_json::to_string(&shipped(file)).unwrap();
                let text = text.replace("/etc/envoy/", &format!("{}/", folder.display()));
                let text = text.replace("/module/plugin.wasm", &filter_wasm().display().to_string());
                let text = text.replace(":9901", &format!(":{}", ports[0])).replace(":6380", &format!(":{}", ports[1]));
                serde_json::from_str::<Value>(&text).unwrap()
            };
            for file in ["filter", "clusters", "listeners"] {
                let mut given = mounted(&format!("deploy/kubernetes/overlays/{overlay}/{file}.yaml"));
                for resource in given["resources"].as_array_mut().unwrap() {
                    let leads = clusters.iter().find(|(name, _)| resource["name"] == *name);
                    if let Some((_, addrs)) = leads {
                        set_endpoints(resource, addrs);
                    }
                }
                fs::write(folder.join(format!("{file}.yaml")), given.to_string()).unwrap();
            }
            let mut own = mounted("deploy/kubernetes/base/envoy.yaml");
            listener(&mut own)["address"] = listener(tree)["address"].take();
            hcm(&mut own)["access_log"] = hcm(tree)["access_log"].take();
            set_endpoints(cluster(&mut own, "payments"), &[payments]);
            let address = json!({ "socket_address": { "address": "127.0.0.1", "port_value": outer } });
            listener_named(&mut own, "stats")["address"] = address;
            *tree = own;
        }));
        Pod { gateway, ledger, stats, _inner: inner }
    }

    fn post(&self, path: &str) -> Request {
        self.gateway.post(path)
    }

    /// One payment is charged once, and a request without a key is refused, as the document says.
    #[track_caller]
    fn pays_once(&self, path: &str) -> String {
        let pay = self.post(path).key("order-1001").body(r#"{"amount":4200}"#);
        let mut first = pay.send();
        wait_until("the store is there", PATIENCE, || {
            first = pay.send();
            first.status == 201
        });
        replays(&pay.send(), &first);
        refused(&self.post(path).body("ten").send(), 400, "key-missing", None);
        let entries = self.ledger.entries_for(path);
        assert_eq!(entries.len(), 1);
        entries[0].operation.clone().expect("the service sees the operation")
    }
}

fn embedded() -> &'static Pod {
    static POD: LazyLock<Pod> = LazyLock::new(|| Pod::start("embedded", &[]));
    &POD
}

fn shipped(file: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{file}: {error}"));
    yaml(&text).unwrap_or_else(|message| panic!("{file}: {message}"))
}

#[test]
fn the_embedded_overlay_charges_once_and_lets_the_largest_bodies_pass() {
    let pod = embedded();
    pod.pays_once("/v1/payments");
    let largest = 524_288;
    let pay = pod.post("/v1/payments/large").key("k").header("x-test-body-size", largest.to_string());
    let pay = pay.header("x-test-chunked", "1").body(body_of_size(largest));
    let first = pay.send();
    assert_eq!(first.status, 201, "{}", shown(&first));
    replays(&pay.send(), &first);
}

#[test]
fn of_the_admin_port_only_readiness_and_metrics_can_be_seen_from_outside() {
    let pod = embedded();
    pod.pays_once("/v1/payments/seen");
    let ask = |path: &str| Request::new(pod.stats.addr(), "GET", path).send();
    assert_eq!(ask("/ready").status, 200);
    let metrics = ask("/stats/prometheus").text();
    assert!(metrics.contains(r#"idempotency_requests_total{rule="payments",outcome="replayed"}"#), "{metrics}");
    for hidden in ["/config_dump", "/", "/stats", "/quitquitquit"] {
        assert_eq!(ask(hidden).status, 404, "{hidden}");
    }
}

#[test]
fn the_redis_overlay_logs_in_and_leaves_the_record_in_redis() {
    let redis = Redis::start();
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/redis.md")).unwrap();
    let line = page.lines().find(|line| line.starts_with("ACL SETUSER gateway on ")).unwrap();
    let password = format!(">{PASSWORD}");
    let rights: Vec<&str> = line.split(' ').skip(5).collect();
    redis.ask(&[&["ACL", "SETUSER", "gateway", "on", &password][..], &rights].concat());
    let pod = Pod::start("redis", &[("redis", vec![redis.addr()])]);
    let key = format!("idem:{}", pod.pays_once("/v1/payments"));
    assert!(redis.keys().contains(&key.into_bytes()), "{:?}", redis.keys());
}

#[test]
fn the_redis_cluster_overlay_leaves_the_record_on_a_node() {
    let nodes = RedisCluster::start();
    let pod = Pod::start("redis-cluster", &[("redis-cluster", nodes.addrs()[..3].to_vec())]);
    let key = format!("idem:{}", pod.pays_once("/v1/payments"));
    assert!(nodes.keys().contains(&key.into_bytes()), "{:?}", nodes.keys());
}

const GATEWAY_FILE: &str = "deploy/envoy-gateway.yaml";
const FLAG: &str = "allow_on_headers_stop_iteration";

/// The object of this kind in the file for Envoy Gateway.
fn object(kind: &str) -> Value {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(GATEWAY_FILE)).unwrap();
    let parts = text.split("\n---\n").map(|part| yaml(part).unwrap_or_else(|message| panic!("{message}")));
    parts.into_iter().find(|object| object["kind"] == kind).unwrap_or_else(|| panic!("there is no {kind}"))
}

/// What Envoy Gateway makes of the extension policy: a filter that is off, and on again on each route.
fn generated(policy: &Value) -> Value {
    let wasm = &policy["spec"]["wasm"][0];
    let (space, name) = (&policy["metadata"]["namespace"], &policy["metadata"]["name"]);
    let of = format!("envoyextensionpolicy/{}/{}/wasm/0", space.as_str().unwrap(), name.as_str().unwrap());
    assert_eq!(wasm["failOpen"], json!(false));
    json!({
        "name": format!("envoy.filters.http.wasm/{of}"),
        "disabled": true,
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm",
            "config": {
                "name": wasm["name"],
                "root_id": wasm["rootID"],
                "configuration": {
                    "@type": "type.googleapis.com/google.protobuf.StringValue",
                    "value": wasm["config"].to_string(),
                },
                "vm_config": {
                    "vm_id": of,
                    "runtime": "envoy.wasm.runtime.v8",
                    "code": { "local": { "filename": filter_wasm() } },
                },
            },
        },
    })
}

/// A gateway as Envoy Gateway would start it, with the file's patches but for those that `keeps` leaves out.
fn by_envoy_gateway(ledger: &Ledger, redis: SocketAddr, keeps: impl Fn(&Value) -> bool + 'static) -> Gateway {
    Gateway::start(Options::new(ledger.addr()).mutate(move |tree| {
        let filter = generated(&object("EnvoyExtensionPolicy"));
        let traffic = object("ClientTrafficPolicy");
        let limit = traffic["spec"]["connection"]["bufferLimit"].as_str().and_then(|text| text.strip_suffix("Mi"));
        listener(tree)["per_connection_buffer_limit_bytes"] = json!(limit.unwrap().parse::<u64>().unwrap() << 20);
        let manager = hcm(tree).as_object_mut().unwrap();
        manager.remove("early_header_mutation_extensions");
        let host = &mut manager["route_config"]["virtual_hosts"][0];
        host.as_object_mut().unwrap().remove("request_body_buffer_limit");
        let on = json!({ "@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig", "config": {} });
        host["routes"][0]["typed_per_filter_config"][filter["name"].as_str().unwrap()] = on;
        *manager["http_filters"].as_array_mut().unwrap().first_mut().unwrap() = filter;
        for patch in object("EnvoyPatchPolicy")["spec"]["jsonPatches"].as_array().unwrap().iter().filter(|it| keeps(it))
        {
            apply(patch, tree);
        }
        let clusters = tree["static_resources"]["clusters"].as_array_mut().unwrap();
        clusters.retain(|cluster| cluster["name"] != "registry");
        let to_redis = cluster(tree, "redis");
        set_endpoints(to_redis, &[redis]);
        let framing = harness::gateway::framing_of(to_redis).expect("the frames are taken off");
        let code = &mut framing["typed_config"]["config"]["vm_config"]["code"];
        let remote = &code["remote"];
        let uri = remote["http_uri"]["uri"].as_str().unwrap();
        assert!(uri.ends_with(&format!("/blobs/sha256:{}", remote["sha256"].as_str().unwrap())), "{uri}");
        *code = json!({ "local": { "filename": filter_wasm() } });
    }))
}

/// Carries out one patch of Envoy Gateway's.
fn apply(patch: &Value, tree: &mut Value) {
    let (kind, operation) = (patch["type"].as_str().unwrap().rsplit('.').next().unwrap(), &patch["operation"]);
    assert_eq!(operation["op"], "add");
    let value = operation["value"].clone();
    let resource = match kind {
        "Cluster" => {
            assert_eq!((&patch["name"], &operation["path"]), (&value["name"], &json!("")));
            return tree["static_resources"]["clusters"].as_array_mut().unwrap().push(value);
        }
        "Listener" => listener(tree),
        "RouteConfiguration" => &mut hcm_of(listener(tree))["route_config"],
        other => panic!("{other} is not patched here"),
    };
    assert_eq!(patch["name"], "default/eg/http");
    let path = operation["jsonPath"].as_str().and_then(|path| path.strip_prefix("..")).expect("it looks everywhere");
    let (list, rest) = path.split_once('[').unwrap();
    let (wanted, rest) = rest.split_once(']').unwrap();
    let begin = wanted.strip_prefix("?match(@.name, '").map(|regex| regex.strip_suffix(".*')").expect("a beginning"));
    assert!(begin.is_some() || wanted == "*", "{wanted}");
    let member = operation["path"].as_str().and_then(|path| path.strip_prefix('/')).unwrap();
    let mut count = 0;
    each(resource, list, &mut |item| {
        if item["name"].as_str().is_some_and(|name| name.starts_with(begin.unwrap_or_default())) {
            count += 1;
            let place = rest.split('.').filter(|step| !step.is_empty()).fold(item, |place, step| &mut place[step]);
            place[member] = value.clone();
        }
    });
    // Envoy Gateway takes a path that finds nothing for an error.
    assert!(count > 0, "{patch} finds nothing");
}

/// Calls for each item of each list of this name, wherever it stands.
fn each(node: &mut Value, list: &str, call: &mut dyn FnMut(&mut Value)) {
    match node {
        Value::Array(items) => items.iter_mut().for_each(|item| each(item, list, call)),
        Value::Object(members) => {
            for (name, value) in members {
                match value.as_array_mut().filter(|_| name == list) {
                    Some(items) => items.iter_mut().for_each(&mut *call),
                    None => each(value, list, call),
                }
            }
        }
        _ => {}
    }
}

#[test]
fn envoy_gateway_charges_once_with_the_record_in_redis() {
    let (ledger, redis) = (Ledger::start(), Redis::start());
    let gateway = by_envoy_gateway(&ledger, redis.addr(), |_| true);
    let pay = gateway.post("/v1/payments").key("order-1001").body(body_of_size(524_288));
    let first = pay.send();
    assert_eq!(said(&first), "executed;stored=?1;attempt=1;ttl=86400", "{}", shown(&first));
    replays(&pay.send(), &first);
    let entries = ledger.entries_for("/v1/payments");
    assert_eq!(entries.len(), 1);
    let key = format!("idem:{}", entries[0].operation.as_deref().unwrap());
    assert!(redis.keys().contains(&key.into_bytes()), "{:?}", redis.keys());
}

#[test]
fn envoy_gateway_without_the_flag_refuses_bodies_and_says_why() {
    let (ledger, redis) = (Ledger::start(), Redis::start());
    let gateway = by_envoy_gateway(&ledger, redis.addr(), |patch| patch["operation"]["path"] != format!("/{FLAG}"));
    let answer = gateway.post("/v1/payments").key("k").body("ten").send();
    assert_eq!(answer.status, 503, "{}", shown(&answer));
    assert_eq!(ledger.entries().len(), 0);
    gateway.wait_for_log(FLAG);
}
