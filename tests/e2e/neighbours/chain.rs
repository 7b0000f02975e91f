//! One gateway whose chains have every neighbour in front of this filter and every neighbour behind it, all disabled; two
//! fields of a request choose those that its route turns on.
//!
//! Its one rule: a neighbour that is not chosen is not there.
//! It does not know what is asked of a chain.

use std::fmt;
use std::net::SocketAddr;
use std::sync::LazyLock;

use harness::gateway::{cluster, filter_wasm, hcm, set_endpoint};
use harness::neighbours::{Credential, Neighbour, Truth, neighbours};
use harness::{Gateway, Ledger, Options, Processor, Request, World};
use serde_json::{Value, json};

use crate::callers::{bearer, key_set};
use crate::verifiers::HELPERS;
use crate::verifiers_oauth2;
use crate::worlds::{Shared, rule};

/// Who sends a claimed request upstream.
pub const EXECUTIONS: [&str; 2] = ["inline", "shielded"];

/// The chain that a request takes.
#[derive(Clone, Copy)]
pub struct Way {
    /// One of [`EXECUTIONS`].
    pub execution: &'static str,
    /// The neighbour in front.
    pub front: Option<&'static str>,
    /// The neighbour behind.
    pub behind: Option<&'static str>,
    /// Where its listener is, where that is not the gateway's first.
    pub to: Option<SocketAddr>,
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Way { execution, front, behind, .. } = self;
        write!(f, "{execution}, {} in front, {} behind", front.unwrap_or("nothing"), behind.unwrap_or("nothing"))
    }
}

impl Way {
    /// What is true of it: of the one neighbour where there is only one.
    pub fn truth(&self) -> Truth {
        let of = |name: Option<&str>| table().iter().find(|row| Some(row.name) == name);
        match (of(self.front), of(self.behind)) {
            (Some(front), _) if front.front.truth != Truth::Holds => front.front.truth,
            // The gateway's own request goes round those behind.
            (_, Some(behind)) if self.execution == "inline" || behind.behind.truth == Truth::Broken => {
                behind.behind.truth
            }
            _ => Truth::Holds,
        }
    }

    /// A request on this way.
    pub fn request(&self, world: &World, method: &str, path: &str) -> Request {
        let request = world.request(method, path).to(self.to.unwrap_or(world.gateway.addr()));
        let request = request.header("x-front", self.front.unwrap_or("none"));
        let request = request.header("x-behind", self.behind.unwrap_or("none"));
        // A browser's, which takes what is compressed.
        let request = request.host("shop.example.com").header("origin", "http://shop.example.com");
        let request = request.header("accept-encoding", "gzip");
        let mut rows = table().iter().filter(|row| [self.front, self.behind].contains(&Some(row.name)));
        match rows.find_map(|row| row.credential) {
            Some(Credential::Basic) => request.caller("Basic YWxpY2U6c2VjcmV0"),
            Some(Credential::Token) => request.caller(bearer(&json!({ "sub": "alice" }))),
            Some(Credential::ApiKey) | None => request,
        }
    }
}

/// Every row: the filters that need nothing of these tests, and those that do.
pub fn table() -> &'static [Neighbour] {
    static TABLE: LazyLock<Vec<Neighbour>> = LazyLock::new(|| {
        let mut rows = neighbours();
        rows.extend(verifying());
        rows.push(itself());
        rows
    });
    &TABLE
}

/// This filter once more, which only sees to it that there is a key.
fn itself() -> Neighbour {
    let plugin = json!({
        "name": "injecting",
        "root_id": "idempotency",
        "allow_on_headers_stop_iteration": true,
        "configuration": {
            "@type": "type.googleapis.com/google.protobuf.StringValue",
            "value": json!({ "policy": { "mode": "inject", "key": { "inject": { "kind": "uuid" } } } }).to_string(),
        },
        "vm_config": {
            "vm_id": "idempotency",
            "runtime": "envoy.wasm.runtime.v8",
            "code": { "local": { "filename": filter_wasm() } },
        },
    });
    Neighbour::new("itself", "wasm.v3.Wasm", json!({ "config": plugin }))
}

/// Filters that verify who is asking, at an issuer on this machine.
fn verifying() -> Vec<Neighbour> {
    let mut rows = Vec::new();
    let unverified = "no filter has verified yet who is asking";
    for (name, forward) in [("jwt_authn", false), ("jwt_authn_that_forwards", true)] {
        let provider = json!({
            "issuer": crate::callers::ISSUER,
            "local_jwks": { "inline_string": key_set().to_string() },
            "forward": forward,
        });
        let config = json!({
            "providers": { "main": provider },
            "rules": [{ "match": { "prefix": "/" }, "requires": { "provider_name": "main" } }],
        });
        let mut row = Neighbour::new(name, "jwt_authn.v3.JwtAuthentication", config);
        row.credential = Some(Credential::Token);
        if !forward {
            row.front.truth = Truth::Bypassed("no-caller");
            row.front.told = Some("forward");
        }
        row.behind.told = Some(unverified);
        rows.push(row);
    }
    let mut oauth2 = Neighbour::new("oauth2", "oauth2.v3.OAuth2", verifiers_oauth2::config("oauth2", false));
    // A client that has not logged in is sent away.
    oauth2.front.truth = Truth::Answers(302);
    oauth2.behind.truth = Truth::InDoubt;
    oauth2.behind.told = Some(unverified);
    rows.push(oauth2);
    rows
}

/// The gateway. `x-front` and `x-behind` of a request choose its route; the first segment of its path chooses its rule.
pub fn world() -> Shared {
    struct Stage {
        world: World,
        _processor: Processor,
    }
    static STAGE: LazyLock<Stage> = LazyLock::new(|| {
        let (ledger, processor) = (Ledger::start(), Processor::start());
        let shielded = json!({ "kind": "shielded", "cluster": "shielded" });
        let options = Options::file("shielded.yaml", ledger.addr()).configuration(json!({
            "status_path": "/look-up",
            "policy": { "ttl_s": 1800, "execution": shielded },
            "rules": [rule("/inline/", json!({ "execution": { "kind": "inline" } })), rule("/", json!({}))],
        }));
        let processor_addr = processor.addr();
        let gateway = Gateway::start(options.mutate(move |tree| stand(tree, processor_addr)));
        Stage { world: World { gateway, ledger }, _processor: processor }
    });
    Shared::new(&STAGE.world)
}

/// Puts the neighbours on both sides of the filter, and a route for each pair of them.
fn stand(tree: &mut Value, processor: SocketAddr) {
    let mut helpers = cluster(tree, "payments").clone();
    helpers["name"] = json!("helpers");
    helpers["load_assignment"]["cluster_name"] = json!("helpers");
    set_endpoint(&mut helpers, *HELPERS);
    let mut processing = helpers.clone();
    processing["name"] = json!("processor");
    processing["load_assignment"]["cluster_name"] = json!("processor");
    set_endpoint(&mut processing, processor);
    processing["typed_extension_protocol_options"] = json!({
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": { "http2_protocol_options": {} },
        },
    });
    let resources = &mut tree["static_resources"];
    resources["clusters"].as_array_mut().unwrap().extend([helpers, processing]);
    resources["secrets"] = verifiers_oauth2::secrets();
    let place = |place: &str, row: &Neighbour| json!({ "name": format!("{place}-{}", row.name), "disabled": true, "typed_config": row.config });
    let filters = hcm(tree)["http_filters"].as_array_mut().unwrap();
    let router = filters.len() - 1;
    filters.splice(router..router, table().iter().map(|row| place("behind", row)));
    filters.splice(0..0, table().iter().map(|row| place("front", row)));
    hcm(tree)["route_config"]["virtual_hosts"][0]["routes"] = routes().into();
}

/// A route for each pair of neighbours, and for each of them alone.
fn routes() -> Vec<Value> {
    let on = |row: &Neighbour| match &row.of_route {
        Value::Null => json!({ "@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig", "config": {} }),
        given => given.clone(),
    };
    let names = || table().iter().map(Some).chain([None]);
    let mut routes = Vec::new();
    for front in names() {
        for behind in names() {
            let chosen = |field: &str, row: Option<&Neighbour>| json!({ "name": field, "string_match": { "exact": row.map_or("none", |row| row.name) } });
            let mut turned_on = json!({});
            for (place, row) in [("front", front), ("behind", behind)] {
                row.iter().for_each(|row| turned_on[format!("{place}-{}", row.name)] = on(row));
            }
            routes.push(json!({
                "match": { "prefix": "/", "headers": [chosen("x-front", front), chosen("x-behind", behind)] },
                "route": { "cluster": "payments" },
                "typed_per_filter_config": turned_on,
            }));
        }
    }
    routes
}
