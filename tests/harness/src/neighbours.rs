//! Real filters that stand beside this one, each as it comes: with the least that Envoy accepts, and what must be true
//! with it in front of this filter and behind it, between it and the router.
//!
//! One rule: nothing is set that helps this filter. Where the promise cannot hold, `check-config` says so in the row's
//! words.
//! It does not know how a gateway is started: the end-to-end tests and those of the checker build chains of these rows.

use serde_json::{Value, json};

/// One filter.
pub struct Neighbour {
    /// Its name in a chain, and in `x-front` and `x-behind` of a request.
    pub name: &'static str,
    /// Its `typed_config`.
    pub config: Value,
    /// What a route has to say to it; null where nothing.
    pub of_route: Value,
    /// What a client shows it, where it wants a credential: two that want different ones do not stand in one chain.
    pub credential: Option<Credential>,
    /// What is true with it in front.
    pub front: Place,
    /// What is true with it behind.
    pub behind: Place,
}

/// What is true of one place.
#[derive(Clone, Copy)]
pub struct Place {
    /// What becomes of requests.
    pub truth: Truth,
    /// A part of the message that `check-config` prints of it; none where it has nothing to say.
    pub told: Option<&'static str>,
}

/// What a verifying neighbour wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Credential {
    /// The API key `alice`.
    ApiKey,
    /// The password of alice.
    Basic,
    /// A token of the issuer of the tests.
    Token,
}

/// What becomes of requests beside a neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Truth {
    /// Each executes once and is replayed; another payload, and one that comes meanwhile, is refused.
    Holds,
    /// The same, and the neighbour does the service's work.
    WorksItself,
    /// They pass without protection, and the status says why.
    Bypassed(&'static str),
    /// The neighbour answers, and this filter never sees a request.
    Answers(u16),
    /// The neighbour answers, and Envoy does not say that it did: the outcome is unknown.
    InDoubt,
    /// The promise cannot hold; the checker calls it an error.
    Broken,
}

const HOLDS: Place = Place { truth: Truth::Holds, told: None };

const fn holds(told: &'static str) -> Place {
    Place { truth: Truth::Holds, told: Some(told) }
}

const fn place(truth: Truth, told: &'static str) -> Place {
    Place { truth, told: Some(told) }
}

const UNVERIFIED: &str = "no filter has verified yet who is asking";
/// A program of its own in front may take away whatever the scope reads.
const UNSEEN: &str = "can remove or replace credentials";
const UNLIMITED: &str = "what the filter answers is not limited";

impl Neighbour {
    /// A filter of this kind, beside which the promise holds.
    pub fn new(name: &'static str, kind: &str, mut config: Value) -> Neighbour {
        config["@type"] = json!(format!("type.googleapis.com/envoy.extensions.filters.http.{kind}"));
        Neighbour { name, config, of_route: Value::Null, credential: None, front: HOLDS, behind: HOLDS }
    }
}

fn neighbour(name: &'static str, kind: &str, config: Value) -> Neighbour {
    Neighbour::new(name, kind, config)
}

fn lua(name: &'static str, code: &str) -> Neighbour {
    let mut row = neighbour(name, "lua.v3.Lua", json!({ "default_source_code": { "inline_string": code } }));
    if code.contains("envoy_on_request") {
        row.front = holds(UNSEEN);
    }
    row
}

/// A codec library of Envoy's.
fn library(kind: &str, name: &str) -> Value {
    json!({
        "name": "gzip",
        "typed_config": { "@type": format!("type.googleapis.com/envoy.extensions.compression.gzip.{kind}.v3.{name}") },
    })
}

/// Every neighbour. They ask the cluster `helpers` for authorization, and `processor` over gRPC what becomes of messages.
pub fn neighbours() -> Vec<Neighbour> {
    let always = json!({ "default_value": { "numerator": 100, "denominator": "HUNDRED" } });
    let mut any = neighbour(
        "rbac",
        "rbac.v3.RBAC",
        json!({ "rules": { "policies": { "any": { "permissions": [{ "any": true }], "principals": [{ "any": true }] } } } }),
    );
    any.behind = holds(UNVERIFIED);
    let mut cors = neighbour("cors", "cors.v3.Cors", json!({}));
    cors.of_route = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.http.cors.v3.CorsPolicy",
        "allow_origin_string_match": [{ "safe_regex": { "regex": ".*" } }],
        "expose_headers": "x-total",
    });
    cors.behind = holds("refusals reach no browser");
    let mut compressor = neighbour(
        "compressor",
        "compressor.v3.Compressor",
        json!({ "compressor_library": library("compressor", "Gzip") }),
    );
    compressor.behind = holds("what it encodes is kept so");
    let decompressor = neighbour(
        "decompressor",
        "decompressor.v3.Decompressor",
        json!({ "decompressor_library": library("decompressor", "Gzip") }),
    );
    let mutations = json!({
        "request_mutations": [{ "append": { "header": { "key": "x-seen", "value": "1" } } }],
        "response_mutations": [{ "append": { "header": { "key": "x-frame-options", "value": "DENY" } } }],
    });
    let mutation = neighbour("header_mutation", "header_mutation.v3.HeaderMutation", json!({ "mutations": mutations }));
    let mut ext_authz = neighbour(
        "ext_authz",
        "ext_authz.v3.ExtAuthz",
        json!({ "http_service": { "server_uri": { "uri": "http://helpers", "cluster": "helpers", "timeout": "5s" } } }),
    );
    ext_authz.front = holds(UNSEEN);
    ext_authz.behind = holds(UNVERIFIED);
    let mut ext_proc = neighbour(
        "ext_proc",
        "ext_proc.v3.ExternalProcessor",
        json!({ "grpc_service": { "envoy_grpc": { "cluster_name": "processor" } }, "message_timeout": "10s" }),
    );
    ext_proc.front = holds(UNSEEN);
    ext_proc.behind = holds("an answer that its service gives while a response passes");
    let mut rate_limit = neighbour(
        "local_ratelimit",
        "local_ratelimit.v3.LocalRateLimit",
        json!({
            "stat_prefix": "limit",
            "token_bucket": { "max_tokens": 1_000_000, "tokens_per_fill": 1_000_000, "fill_interval": "1s" },
            "filter_enabled": always, "filter_enforced": always,
        }),
    );
    rate_limit.behind = holds(UNLIMITED);
    let csrf = neighbour("csrf", "csrf.v3.CsrfPolicy", json!({ "filter_enabled": always }));
    let buffer = neighbour("buffer", "buffer.v3.Buffer", json!({ "max_request_bytes": 1_048_576 }));
    let fault = neighbour(
        "fault",
        "fault.v3.HTTPFault",
        json!({ "delay": { "fixed_delay": "0.001s", "percentage": always["default_value"] } }),
    );
    let mut page = neighbour("custom_response", "custom_response.v3.CustomResponse", page());
    page.behind = place(Truth::Broken, "an answer that it gives while a response passes goes round this filter");
    let keys = json!({
        "credentials": [{ "key": "alice", "client": "alice" }], "key_sources": [{ "header": "authorization" }],
    });
    let mut api_key = neighbour("api_key_auth", "api_key_auth.v3.ApiKeyAuth", keys);
    api_key.credential = Some(Credential::ApiKey);
    api_key.behind = holds(UNVERIFIED);
    let users = json!({ "inline_string": "alice:{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=" });
    let mut basic = neighbour("basic_auth", "basic_auth.v3.BasicAuth", json!({ "users": users }));
    basic.credential = Some(Credential::Basic);
    basic.behind = holds(UNVERIFIED);
    let limited = neighbour(
        "bandwidth_limit",
        "bandwidth_limit.v3.BandwidthLimit",
        json!({ "stat_prefix": "bandwidth", "enable_mode": "REQUEST_AND_RESPONSE", "limit_kbps": 100_000 }),
    );
    let on_disk = neighbour(
        "file_system_buffer",
        "file_system_buffer.v3.FileSystemBufferFilterConfig",
        json!({ "manager_config": { "thread_pool": { "thread_count": 1 } } }),
    );
    let mut transcoder = neighbour(
        "grpc_json_transcoder",
        "grpc_json_transcoder.v3.GrpcJsonTranscoder",
        json!({ "proto_descriptor_bin": crate::ledger::base64(descriptor()), "services": ["shop.Payments"], "auto_mapping": true }),
    );
    transcoder.front = holds("what it makes gRPC calls of passes unprotected");
    let mut answers = lua("lua_that_answers", ANSWERS);
    answers.front = place(Truth::Answers(201), UNSEEN);
    answers.behind = Place { truth: Truth::WorksItself, told: None };
    vec![
        any,
        cors,
        compressor,
        decompressor,
        lua("lua_that_reads", READS),
        lua("lua_that_changes_headers", CHANGES),
        lua("lua_that_wraps", WRAPS),
        lua("lua_that_pauses", PAUSES),
        answers,
        mutation,
        ext_authz,
        ext_proc,
        rate_limit,
        csrf,
        buffer,
        fault,
        transcoder,
        neighbour("grpc_web", "grpc_web.v3.GrpcWeb", json!({})),
        page,
        api_key,
        basic,
        limited,
        on_disk,
    ]
}

/// Reads both bodies.
const READS: &str = "function envoy_on_request(h) h:body() end function envoy_on_response(h) h:body() end";

/// Adds a field both ways.
const CHANGES: &str = r#"
function envoy_on_request(h) h:headers():add("x-lua", "1") end
function envoy_on_response(h) h:headers():add("x-lua", "1") end
"#;

/// Puts every body of a response into an envelope.
const WRAPS: &str = r#"
function envoy_on_response(handle)
  local body = handle:body()
  if body then
    local size = body:setBytes('{"data":' .. body:getBytes(0, body:length()) .. '}')
    handle:headers():replace("content-length", size)
  end
end
"#;

/// Asks another service, and holds the message meanwhile.
const PAUSES: &str = r#"
local function ask(handle)
  handle:httpCall("helpers", { [":method"] = "GET", [":path"] = "/authorize", [":authority"] = "helpers" }, "", 5000)
end
function envoy_on_request(handle) ask(handle) end
function envoy_on_response(handle) ask(handle) end
"#;

/// Answers in the service's place.
const ANSWERS: &str = r#"function envoy_on_request(handle) handle:respond({ [":status"] = "201" }, "by lua") end"#;

/// `custom_response` with a page for what a service refuses.
fn page() -> Value {
    let action = json!({
        "name": "action",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.http.custom_response.local_response_policy.v3.LocalResponsePolicy",
            "body": { "inline_string": "a page" },
        },
    });
    let input = json!({
        "name": "status",
        "typed_config": { "@type": "type.googleapis.com/envoy.type.matcher.v3.HttpResponseStatusCodeMatchInput" },
    });
    let matched = |status: &str| {
        json!({
            "predicate": { "single_predicate": { "input": input, "value_match": { "exact": status } } },
            "on_match": { "action": action },
        })
    };
    json!({ "custom_response_matcher": { "matcher_list": { "matchers": [matched("422")] } } })
}

/// A `FileDescriptorSet` of `service shop.Payments { rpc Pay(Payment) returns (Payment); } message Payment {}`, by
/// protobuf's wire format.
pub fn descriptor() -> Vec<u8> {
    let field = |number: u8, bytes: &[u8]| [&[number << 3 | 2, bytes.len() as u8], bytes].concat();
    let method = [field(1, b"Pay"), field(2, b".shop.Payment"), field(3, b".shop.Payment")].concat();
    let service = [field(1, b"Payments"), field(2, &method)].concat();
    let message = field(1, b"Payment");
    let file =
        [field(1, b"shop.proto"), field(2, b"shop"), field(4, &message), field(6, &service), field(12, b"proto3")]
            .concat();
    field(1, &file)
}
