//! The gateways that tests share, because starting Envoy takes a second.
//!
//! Its one rule: a test uses paths that no other test uses, so that sharing does not show.
//! It does not know what the filter answers.

use std::net::SocketAddr;
use std::ops::Deref;
use std::sync::LazyLock;
use std::thread;

use harness::gateway::{cluster, hcm_of, set_endpoint};
use harness::process::tail;
use harness::{Connection, PATIENCE, Port, Request, World, wait_until};
use serde_json::{Value, json};

/// A gateway that other tests use too; a test that fails shows the end of its log.
pub struct Shared(&'static World);

impl Shared {
    /// One more that other tests use.
    pub fn new(world: &'static World) -> Shared {
        Shared(world)
    }
}

impl Deref for Shared {
    type Target = World;

    fn deref(&self) -> &World {
        self.0
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("--- the end of the shared Envoy's log ---\n{}\n---", tail(&self.gateway.log()));
        }
    }
}

/// The file that is shipped, with `{}` for the filter.
pub fn plain() -> Shared {
    static WORLD: LazyLock<World> = LazyLock::new(|| World::start(json!({})));
    Shared(&WORLD)
}

/// One rule per path prefix: see [`document`].
pub fn rules() -> Shared {
    static WORLD: LazyLock<World> = LazyLock::new(|| {
        World::with(document(), |options| {
            options.mutate(|tree| {
                let metadata = json!({ "filter_metadata": { "com.example": { "idempotent": "yes" } } });
                add_routes(
                    tree,
                    vec![json!({
                        "match": { "prefix": "/by-metadata/yes" },
                        "route": { "cluster": "payments" },
                        "metadata": metadata,
                    })],
                );
            })
        })
    });
    Shared(&WORLD)
}

/// Leases of a second, trailers on both sides, and routes that meet trouble: a request header `x-route` chooses one.
///
/// | `x-route` | meets |
/// |---|---|
/// | `refused` | a port that nobody listens on |
/// | `nobody` | a cluster without a host |
/// | `impatient` | a time-out after 300 ms |
/// | `retrying` | Envoy's own second try after a 5xx |
/// | `redirecting` | Envoy follows redirects by itself |
pub fn troubled() -> Shared {
    static WORLD: LazyLock<World> = LazyLock::new(|| {
        let refused = REFUSED.addr();
        World::with(json!({ "policy": { "lease_ms": 1000 } }), |options| {
            options.trailers().mutate(move |tree| add_troubles(tree, refused))
        })
    });
    static REFUSED: LazyLock<Port> = LazyLock::new(Port::reserve);
    Shared(&WORLD)
}

/// The rule for all that is asked of paths that begin so.
pub fn rule(prefix: &str, policy: Value) -> Value {
    json!({ "match": { "path": { "prefix": prefix } }, "policy": policy })
}

/// Sends the request with this body, has the service hold its answer until `gate` is opened, and returns when it does.
#[track_caller]
pub fn start(world: &World, request: &Request, body: &str, gate: &str) -> Connection {
    let before = world.ledger.entries_for(request.path()).len();
    let mut connection = request.clone().header("x-test-hold", gate).body(body).open();
    connection.write(body);
    let what = format!("{} has reached the service", request.path());
    wait_until(&what, PATIENCE, || world.ledger.entries_for(request.path()).len() > before);
    connection
}

/// The document of [`rules`].
fn document() -> Value {
    let post = |prefix: &str, policy: Value| json!({ "name": prefix, "match": { "methods": ["POST"], "path": { "prefix": prefix } }, "policy": policy });
    json!({
        "problem_base": "https://docs.example.com/problems/",
        "rules": [
            {
                "name": "by metadata",
                "match": { "route_metadata": { "namespace": "com.example", "key": "idempotent", "equals": "yes" } },
            },
            json!({ "match": { "methods": ["*", "GET", "HEAD"], "path": { "prefix": "/all-methods/" } } }),
            post("/ietf/", json!({ "statuses": "ietf" })),
            post("/own-statuses/", json!({ "statuses": { "base": "ietf", "mismatch": 400 } })),
            post("/required/", json!({ "key": { "required": true } })),
            post("/by-query/", json!({ "key": { "sources": [{ "query": "op" }] } })),
            post("/by-cookie/", json!({ "key": { "sources": [{ "cookie": "op" }] } })),
            post("/by-own-header/", json!({ "key": { "sources": [{ "header": "x-request-key" }] } })),
            post("/by-path/", json!({ "key": { "sources": [{ "path_segment": 1 }] } })),
            post("/by-two-headers/", json!({ "key": { "sources": [{ "header": "x-order" }, { "header": "x-step" }] } })),
            post("/by-any/", json!({
                "key": { "sources": [{ "any": [{ "header": "idempotency-key" }, { "header": "x-request-key" }] }] },
            })),
            post("/shared/", json!({ "scope": { "anonymous": "share" } })),
            post("/known-only/", json!({ "scope": { "anonymous": "refuse" } })),
            post("/everywhere/", json!({ "scope": { "host": false, "path": false, "caller": [] } })),
            post("/observe/", json!({ "mode": "observe" })),
            post("/off/", json!({ "mode": "off" })),
            post("/conflict/", json!({ "on_completed": "conflict" })),
            post("/hold/", json!({ "on_unknown": "hold", "lease_ms": 1000 })),
            post("/short-run/", json!({ "on_unknown": "hold", "lease_ms": 1000, "max_running_ms": 1000 })),
            post("/short-ttl/", json!({ "ttl_s": 2, "lease_ms": 1000 })),
            post("/large-passes/", json!({ "on_too_large": "bypass" })),
            post("/small/", json!({ "max_request_bytes": 10, "max_response_bytes": 10 })),
            post("/cors/", json!({ "expose_cors": true })),
            post("/outcomes/", json!({ "outcomes": { "4xx": "store", "409": "retry", "202": "release", "503": "unknown" } })),
            post("/head-only/", json!({ "fingerprint": { "body": "off", "query": false, "headers": ["x-version"] } })),
        ],
    })
}

/// Adds the routes of [`troubled`] to every listener; nobody may listen at `refused`.
pub fn add_troubles(tree: &mut Value, refused: SocketAddr) {
    let mut nowhere = cluster(tree, "payments").clone();
    nowhere["name"] = json!("refused");
    set_endpoint(&mut nowhere, refused);
    let mut nobody = nowhere.clone();
    nobody["name"] = json!("nobody");
    nobody["load_assignment"] = json!({ "cluster_name": "nobody", "endpoints": [] });
    let clusters = tree["static_resources"]["clusters"].as_array_mut().expect("clusters is a list");
    clusters.extend([nowhere, nobody]);

    let route = |name: &str, route: Value| {
        let chosen = json!({ "name": "x-route", "string_match": { "exact": name } });
        json!({ "match": { "prefix": "/", "headers": [chosen] }, "route": route })
    };
    let troubles = [
        route("refused", json!({ "cluster": "refused" })),
        route("nobody", json!({ "cluster": "nobody" })),
        route("impatient", json!({ "cluster": "payments", "timeout": "0.3s" })),
        route(
            "retrying",
            json!({
                "cluster": "payments",
                "retry_policy": { "retry_on": "5xx", "num_retries": 1 },
            }),
        ),
        route("redirecting", json!({ "cluster": "payments", "internal_redirect_policy": {} })),
    ];
    add_routes(tree, troubles.into());
}

/// Puts routes before those there are, in every listener.
pub fn add_routes(tree: &mut Value, more: Vec<Value>) {
    for listener in tree["static_resources"]["listeners"].as_array_mut().expect("listeners is a list") {
        let routes = &mut hcm_of(listener)["route_config"]["virtual_hosts"][0]["routes"];
        routes.as_array_mut().expect("routes is a list").splice(0..0, more.clone());
    }
}
