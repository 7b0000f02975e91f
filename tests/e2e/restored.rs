//! Replays, shielded answers and look-ups on a gateway that works on every local reply.
//!
//! Its one rule: what the first client got at this filter's place is what every retry gets, whatever Envoy and the filters
//! behind do to an answer of this filter's own.
//! It does not know what filters in front do.

use std::sync::LazyLock;

use harness::gateway::hcm;
use harness::ledger::{base64, body_of_size};
use harness::{Gateway, Ledger, Options, Request, World};
use serde_json::{Value, json};

use crate::check::{executed, replays, said, shown};
use crate::neighbours::text;
use crate::worlds::{Shared, rule};

/// `envoy/shielded.yaml`, whose connection manager writes local replies anew, whose routes add fields on four levels, where
/// two filters behind add a field and wrap bodies, and one in front compresses.
fn world() -> Shared {
    static WORLD: LazyLock<World> = LazyLock::new(|| {
        let ledger = Ledger::start();
        let shielded = json!({ "kind": "shielded", "cluster": "shielded" });
        let options = Options::file("shielded.yaml", ledger.addr()).configuration(json!({
            "status_path": "/look-up",
            "policy": { "ttl_s": 1800, "outcomes": { "402": "store" }, "execution": { "kind": "inline" } },
            "rules": [
                rule("/shielded/after/", json!({ "execution": shielded, "save": "after_reply" })),
                rule("/shielded/", json!({ "execution": shielded })),
                rule("/", json!({})),
            ],
        }));
        World { gateway: Gateway::start(options.mutate(meddle)), ledger }
    });
    Shared::new(&WORLD)
}

fn meddle(tree: &mut Value) {
    let added = |name: &str, value: &str| json!({ "header": { "key": name, "value": value } });
    let connection_manager = hcm(tree);
    connection_manager["local_reply_config"] = json!({
        "mappers": [{
            "filter": { "status_code_filter": { "comparison": { "op": "GE", "value": { "default_value": 400, "runtime_key": "no" } } } },
            "status_code": 503,
            "body": { "inline_string": "sorry" },
            "headers_to_add": [added("x-local", "1")],
        }],
        "body_format": { "json_format": { "wrapped": "%LOCAL_REPLY_BODY%" } },
    });
    let routes = &mut connection_manager["route_config"];
    routes["response_headers_to_add"] = json!([added("strict-transport-security", "max-age=1")]);
    let host = &mut routes["virtual_hosts"][0];
    host["response_headers_to_add"] = json!([added("access-control-allow-origin", "https://shop.example.com")]);
    host["routes"][0]["response_headers_to_add"] = json!([added("x-route-added", "yes")]);
    let weighted = json!({
        "name": "payments", "weight": 1, "response_headers_to_add": [added("x-cluster-added", "yes")],
    });
    host["routes"][0]["route"] = json!({ "weighted_clusters": { "clusters": [weighted] }, "timeout": "30s" });
    let filters = connection_manager["http_filters"].as_array_mut().unwrap();
    filters.insert(0, json!({
        "name": "compressor",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.compressor.v3.Compressor",
            "response_direction_config": { "common_config": { "content_type": ["application/octet-stream"] } },
            "compressor_library": {
                "name": "gzip",
                "typed_config": { "@type": "type.googleapis.com/envoy.extensions.compression.gzip.compressor.v3.Gzip" },
            },
        },
    }));
    let router = filters.len() - 1;
    filters.splice(router..router, [
        json!({
            "name": "envoy.filters.http.header_mutation",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.header_mutation.v3.HeaderMutation",
                "mutations": { "response_mutations": [{
                    "append": { "header": { "key": "x-frame-options", "value": "DENY" }, "append_action": "APPEND_IF_EXISTS_OR_ADD" },
                }] },
            },
        }),
        json!({
            "name": "envoy.filters.http.lua",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua",
                "default_source_code": { "inline_string": WRAPPER },
            },
        }),
    ]);
}

/// Puts every body into an envelope.
const WRAPPER: &str = r#"
function envoy_on_response(handle)
  local body = handle:body()
  if body then
    local size = body:setBytes('{"data":' .. body:getBytes(0, body:length()) .. '}')
    handle:headers():replace("content-length", size)
  end
end
"#;

/// What makes a case of a request.
type Change = fn(Request) -> Request;

const CASES: [(&str, Change); 7] = [
    ("json", |pay| pay),
    ("402", |pay| pay.header("x-test-status", "402")),
    ("binary", |pay| pay.header("x-test-body-base64", base64([0, 255, 10, 13, 200]))),
    ("200-kb", |pay| pay.header("x-test-body-size", "200000")),
    ("empty", |pay| pay.header("x-test-body-base64", base64(""))),
    ("204", |pay| pay.header("x-test-status", "204")),
    ("many", |pay| pay.header("x-test-header", "link: <a>; rel=next").header("x-test-header", "link: <b>; rel=prev")),
];

#[test]
fn a_replay_is_what_the_first_client_got() {
    let world = world();
    for (name, change) in CASES {
        let pay = change(world.post(&format!("/restored/{name}")).key("k")).body("ten");
        let first = pay.send();
        executed(&first, 1);
        let fields = [
            "strict-transport-security",
            "access-control-allow-origin",
            "x-route-added",
            "x-cluster-added",
            "x-frame-options",
        ];
        for field in fields {
            assert_eq!(first.headers(field).len(), 1, "{name}: {field}: {}", shown(&first));
        }
        replays(&pay.send(), &first);
        replays(&pay.send_h2(), &first);
        // What the compressor in front has packed is the same once it is unpacked.
        let packed = pay.clone().header("accept-encoding", "gzip").send();
        let is_packed = packed.header("content-encoding") == Some("gzip");
        // A `local_reply_config` that gives a 204 a body leaves an empty one behind, which the compressor packs.
        assert!(is_packed == (name == "200-kb") || name == "204", "{name}: {}", shown(&packed));
        assert_eq!(text(&packed), String::from_utf8_lossy(&first.body), "{name}");
        assert_eq!(world.ledger.entries_for(pay.path()).len(), 1);
    }
}

#[test]
fn a_shielded_answer_is_what_the_service_has_sent_and_its_replay_too() {
    let world = world();
    for prefix in ["/shielded/restored", "/shielded/after"] {
        for (name, change) in CASES {
            let pay = change(world.post(&format!("{prefix}/{name}")).key("k")).body("ten");
            let first = pay.send();
            let status = match name {
                "402" => 402,
                "204" => 204,
                _ => 201,
            };
            assert_eq!(first.status, status, "{name}: {}", shown(&first));
            assert!(said(&first).starts_with("executed;"), "{name}: {}", shown(&first));
            let wanted = match name {
                "binary" => vec![0, 255, 10, 13, 200],
                "200-kb" => body_of_size(200_000),
                "empty" | "204" => Vec::new(),
                _ => first.body.clone(),
            };
            assert!(first.body == wanted && !first.text().contains("data"), "{name}: {}", shown(&first));
            assert_eq!(first.header("x-local"), None, "{name}");
            let again = crate::shielded::answered(&pay);
            assert!(said(&again).starts_with("replayed;attempt=1;"), "{name}: {}", shown(&again));
            assert!((again.status, &again.body) == (first.status, &first.body), "{name}: {}", shown(&again));
            assert_eq!(again.headers("link"), first.headers("link"), "{name}");
        }
    }
}

#[test]
fn a_look_up_is_what_the_filter_says_and_a_refusal_is_the_operators_to_write() {
    let world = world();
    let pay = world.post("/restored/looked").key("k").body("ten");
    executed(&pay.send(), 1);
    let look = world.request("GET", "/look-up?method=POST&path=/restored/looked").key("k").send();
    assert_eq!((look.status, look.header("content-type")), (200, Some("application/json")), "{}", shown(&look));
    assert_eq!(look.json()["state"], json!("completed"));
    let other = pay.body("twenty").send();
    assert_eq!((other.status, other.header("x-local")), (503, Some("1")), "{}", shown(&other));
    assert!(said(&other).ends_with("reason=mismatch"), "{}", shown(&other));
}

#[test]
fn what_a_filter_behind_has_emptied_or_cut_short_comes_whole() {
    for (name, bytes) in [("emptied", r#""""#), ("cut-short", "body:getBytes(0, 3)")] {
        let script = format!(
            "function envoy_on_response(handle)\n local body = handle:body()\n if body then\n  local size = \
             body:setBytes({bytes})\n  handle:headers():replace('content-length', size)\n end\nend"
        );
        let world = World::with(json!({ "rules": [rule("/", json!({}))] }), |options| {
            options.mutate(move |tree| {
                let filters = hcm(tree)["http_filters"].as_array_mut().unwrap();
                let lua = json!({
                    "@type": "type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua",
                    "default_source_code": { "inline_string": script },
                });
                filters.insert(filters.len() - 1, json!({ "name": "lua", "typed_config": lua }));
            })
        });
        let pay = world.post(&format!("/restored/{name}")).key("k").header("x-test-body-size", "5000").body("ten");
        let first = pay.send();
        executed(&first, 1);
        // What the first client got at this filter's place is what the filter behind had left of it.
        let left = if name == "emptied" { 0 } else { 3 };
        assert_eq!(first.body.len(), left, "{}", shown(&first));
        replays(&pay.send(), &first);
        let refusal = pay.body("twenty").send();
        assert!(said(&refusal).ends_with("reason=mismatch") && refusal.body.len() == left, "{}", shown(&refusal));
    }
}
