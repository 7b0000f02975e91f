//! What connection managers and routes say besides their filters, each on a listener of its own.
//!
//! Its one rule: each is set as people set it, and the promise holds under every one of them.
//! It does not know filters.

use std::sync::LazyLock;

use harness::gateway::hcm_of;
use harness::{Gateway, Ledger, Options, Port, World};
use serde_json::{Value, json};

use super::chain::{EXECUTIONS, Way};
use super::exchanges::EXCHANGES;
use crate::worlds::{Shared, rule};

/// A change of a connection manager.
type Change = fn(&mut Value);

const SETTINGS: [(&str, Change); 13] = [
    ("local_reply_config", |manager| {
        let always = json!({ "status_code_filter": { "comparison": { "op": "GE", "value": { "default_value": 400, "runtime_key": "no" } } } });
        manager["local_reply_config"] = json!({
            "mappers": [{ "filter": always, "status_code": 503, "body": { "inline_string": "sorry" } }],
            "body_format": { "json_format": { "wrapped": "%LOCAL_REPLY_BODY%" } },
        });
    }),
    ("fields of a route", |manager| add_fields(&mut manager["route_config"]["virtual_hosts"][0]["routes"][0])),
    ("fields of a virtual host", |manager| add_fields(&mut manager["route_config"]["virtual_hosts"][0])),
    ("fields of a route table", |manager| add_fields(&mut manager["route_config"])),
    ("fields of a weighted cluster", |manager| {
        let mut cluster = json!({ "name": "payments", "weight": 1 });
        add_fields(&mut cluster);
        let route = &mut manager["route_config"]["virtual_hosts"][0]["routes"][0]["route"];
        *route = json!({ "weighted_clusters": { "clusters": [cluster] } });
    }),
    ("proxy_100_continue", |manager| manager["proxy_100_continue"] = json!(true)),
    ("paths as they come", |manager| {
        for field in ["normalize_path", "merge_slashes", "path_with_escaped_slashes_action", "strip_trailing_host_dot"]
        {
            manager.as_object_mut().unwrap().remove(field);
        }
    }),
    ("short idle time-outs", |manager| {
        manager["stream_idle_timeout"] = json!("5s");
        manager["common_http_protocol_options"] = json!({ "idle_timeout": "1s" });
    }),
    ("early_header_mutation", |manager| {
        let removed = ["idempotency-operation", "idempotency-attempt", "idempotency-fence"];
        manager["early_header_mutation_extensions"] = json!([{
            "name": "envoy.http.early_header_mutation.header_mutation",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation",
                "mutations": removed.map(|name| json!({ "remove": name })),
            },
        }]);
    }),
    ("retries of a route", |manager| {
        let route = &mut manager["route_config"]["virtual_hosts"][0]["routes"][0]["route"];
        route["retry_policy"] = json!({ "retry_on": "5xx,reset", "num_retries": 2 });
    }),
    ("a server name of its own", |manager| {
        manager["server_name"] = json!("shop");
        manager["server_header_transformation"] = json!("PASS_THROUGH");
    }),
    ("fields of Envoy's own suppressed", |manager| {
        let router = manager["http_filters"].as_array_mut().unwrap().last_mut().unwrap();
        router["typed_config"]["suppress_envoy_headers"] = json!(true);
    }),
    ("a via field and request ids", |manager| {
        manager["via"] = json!("shop");
        manager["always_set_request_id_in_response"] = json!(true);
    }),
];

fn add_fields(place: &mut Value) {
    let added =
        |name: &str, action: &str| json!({ "header": { "key": name, "value": "max-age=1" }, "append_action": action });
    place["response_headers_to_add"] =
        json!([added("strict-transport-security", "APPEND_IF_EXISTS_OR_ADD"), added("x-seen", "ADD_IF_ABSENT")]);
    place["request_headers_to_add"] = json!([added("x-seen", "APPEND_IF_EXISTS_OR_ADD")]);
}

/// A gateway with a listener for each setting, each at its port.
struct Stage {
    world: World,
    ports: Vec<Port>,
}

static STAGE: LazyLock<Stage> = LazyLock::new(|| {
    let (ledger, ports) = (Ledger::start(), SETTINGS.map(|_| Port::reserve()));
    let shielded = json!({ "kind": "shielded", "cluster": "shielded" });
    let options = Options::file("shielded.yaml", ledger.addr()).configuration(json!({
        "status_path": "/look-up",
        "policy": { "ttl_s": 1800, "execution": shielded },
        "rules": [rule("/inline/", json!({ "execution": { "kind": "inline" } })), rule("/", json!({}))],
    }));
    let numbers = ports.each_ref().map(Port::number);
    let gateway = Gateway::start(options.mutate(move |tree| {
        let listeners = tree["static_resources"]["listeners"].as_array_mut().unwrap();
        let plain = listeners[0].clone();
        for ((name, change), number) in SETTINGS.iter().zip(numbers) {
            let mut listener = plain.clone();
            listener["name"] = json!(name);
            listener["address"]["socket_address"]["port_value"] = json!(number);
            change(hcm_of(&mut listener));
            listeners.push(listener);
        }
    }));
    Stage { world: World { gateway, ledger }, ports: ports.into() }
});

#[test]
fn the_promise_holds_under_every_setting() {
    let world = Shared::new(&STAGE.world);
    let mut failed = Vec::new();
    for ((name, _), port) in SETTINGS.iter().zip(&STAGE.ports) {
        for execution in EXECUTIONS {
            let way = Way { execution, front: None, behind: None, to: Some(port.addr()) };
            for (exchange, ask) in EXCHANGES {
                failed.extend(ask(&world, &way).err().map(|why| format!("{name}, {execution}, {exchange}: {why}")));
            }
        }
    }
    assert!(failed.is_empty(), "{} are wrong:\n{}", failed.len(), failed.join("\n"));
}
