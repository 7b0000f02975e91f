//! What around the filter would break its promise.
//!
//! Its one rule: a warning names the setting and what happens because of it, and where all is well there is none. What
//! the file does not tell is not guessed at.
//! It does not know what a document says beyond its limits and its clusters.

use std::time::Duration;

use envoy_idempotency::config::{Config, Dialect, Execution, Mode, OnInFlight, Policy, Rule, Store};
use serde_json::Value;

use crate::bootstrap::{Bootstrap, addresses, duration, list, named_clusters, whole};
use crate::breakers;
use crate::clients;
use crate::istio;
use crate::keeper;
use crate::locate::{Carrier, Chain, Found, typed};
use crate::shielding;
use crate::streams;

/// Every warning about one place where the filter is configured.
pub fn warnings(found: &Found<'_>, config: &Config, trees: &[Value]) -> Vec<String> {
    let Some(plugin) = &found.plugin else { return Vec::new() };
    let bootstrap = Bootstrap::of(trees);
    let limits = Limits::of(config);
    let mut warnings = match found.carrier {
        Carrier::WasmPlugin(resource) => istio::plugin_warnings(resource),
        Carrier::ExtensionPolicy(module) if module["failOpen"] == true => vec![format!("failOpen: {FAIL_OPEN}")],
        Carrier::ExtensionPolicy(_) => Vec::new(),
        _ => plugin_warnings(plugin),
    };
    match found.carrier {
        Carrier::Chain(chain) => {
            warnings.extend(order_warnings(chain));
            warnings.extend(buffer_warnings(chain, &limits, &bootstrap));
            warnings.extend(time_out_warnings(chain, &limits));
            warnings.extend(clients::warnings(chain, config));
        }
        Carrier::EnvoyFilter(name) => warnings.extend(istio::patch_warnings(name, &limits, trees)),
        Carrier::ExtensionPolicy(_) | Carrier::Unknown | Carrier::WasmPlugin(_) => {}
    }
    warnings.extend(keeper::warning(found, config, trees));
    if let Store::Redis(redis) = &config.store {
        warnings.extend(bootstrap.missing("store.cluster", &redis.cluster));
        match redis.dialect {
            Dialect::Resp { .. } => warnings.extend(streams::warnings(&redis.cluster, plugin, &bootstrap, trees)),
            Dialect::Webdis(_) => {
                let cluster = bootstrap.cluster(&redis.cluster);
                warnings.extend(cluster.filter(|it| leads_inside(it) || streams::is_direct(it)).map(|_| {
                    format!(
                        "store.dialect is \"webdis\", and cluster {} is for streams, as \"resp\" has them",
                        redis.cluster
                    )
                }));
                warnings.extend(cluster.and_then(|cluster| breakers::warning(redis, cluster)));
            }
        }
    }
    let mut seen = Vec::new();
    for policy in config.rules.iter().map(|rule| &rule.policy) {
        if let Execution::Shielded { cluster, .. } = &policy.execution
            && policy.mode != Mode::Off
            && !seen.contains(&cluster)
        {
            seen.push(cluster);
            warnings.extend(shielding::warnings(cluster, &bootstrap));
        }
    }
    warnings
}

/// Whether a cluster leads to an internal listener.
fn leads_inside(cluster: &Value) -> bool {
    addresses(cluster).any(|address| address["envoy_internal_address"].is_object())
}

/// Whether the file tells where the filter stands.
pub fn is_placed(found: &Found<'_>) -> bool {
    found.plugin.is_none() || !matches!(found.carrier, Carrier::ExtensionPolicy(_) | Carrier::Unknown)
}

fn plugin_warnings(plugin: &Value) -> Vec<String> {
    let mut warnings = Vec::new();
    if plugin["allow_on_headers_stop_iteration"] != true {
        warnings.push(
            "allow_on_headers_stop_iteration is not true: Envoy shows the filter no bodies, so requests with a body \
             are refused"
                .to_owned(),
        );
    }
    if plugin["vm_config"]["vm_id"].as_str().unwrap_or_default().is_empty() {
        warnings.push(
            "vm_config.vm_id is not set: the filter shares its memory with every other plugin that has none".to_owned(),
        );
    }
    if plugin["failure_policy"] == "FAIL_OPEN" || plugin["fail_open"] == true {
        let setting = if plugin["fail_open"] == true { "fail_open" } else { "failure_policy: FAIL_OPEN" };
        warnings.push(format!("{setting}: {FAIL_OPEN}"));
    }
    warnings
}

/// The error that what carries the filter cannot carry it.
pub fn carrier_error(carrier: Carrier<'_>) -> Option<String> {
    let why = match carrier {
        Carrier::WasmPlugin(_) => {
            "a WasmPlugin cannot set allow_on_headers_stop_iteration, so requests with a body are refused, nor vm_id, so the \
             filter shares its memory with every other WasmPlugin: take an EnvoyFilter such as envoy/istio.yaml"
        }
        Carrier::ExtensionPolicy(_) => {
            "an EnvoyExtensionPolicy cannot set allow_on_headers_stop_iteration, so requests with a body are refused: take \
             an EnvoyPatchPolicy that adds the filter of envoy/local.yaml to the listener's http_filters"
        }
        Carrier::Chain(_) | Carrier::EnvoyFilter(_) | Carrier::Unknown => return None,
    };
    Some(why.to_owned())
}

/// What stands in the chain before and after the filter.
fn order_warnings(chain: Chain<'_>) -> Vec<String> {
    let filters = list(&chain.manager["http_filters"]);
    let after = filters.iter().skip(chain.index + 1).filter_map(|filter| too_early(kind(filter), name(filter)));
    let before = chain.before().iter().filter_map(|filter| too_late(kind(filter), name(filter)));
    before.chain(after).collect()
}

/// The warning that the filter stands behind one of this kind.
pub fn too_late(kind: &str, name: &str) -> Option<String> {
    let why = match kind {
        "router" => return Some(format!("stands after {name}, with which the chain ends: it is never reached")),
        "grpc_json_transcoder" => "what it makes gRPC calls of passes unprotected, with reason=grpc",
        _ => return None,
    };
    Some(format!("stands after {name}: {why}; put it before"))
}

/// The errors that an answer of a filter behind never comes by.
pub fn order_errors(chain: Chain<'_>) -> Vec<String> {
    let filters = list(&chain.manager["http_filters"]).iter().skip(chain.index + 1);
    let custom = filters.filter(|filter| kind(filter) == "custom_response");
    custom
        .map(|filter| {
            format!(
                "stands before {}: an answer that it gives while a response passes goes round this filter, which \
                 cannot know then what the service has said: the outcome is unknown; put it after",
                name(filter)
            )
        })
        .collect()
}

/// The warning that the filter stands before one of this kind.
pub fn too_early(kind: &str, name: &str) -> Option<String> {
    let why = match kind {
        kind if AUTHENTICATION.contains(&kind) => {
            "no filter has verified yet who is asking, so a stored response may go to a client that only says so"
        }
        kind if RATE_LIMITS.contains(&kind) => "what the filter answers is not limited",
        "compressor" => "what it encodes is kept so, and a retry that does not take that encoding gets not-replayable",
        "ext_proc" => {
            "an answer that its service gives while a response passes goes round this filter, and the outcome is unknown"
        }
        "cors" => "the filter's refusals reach no browser, and a replay names the origin of the first page",
        _ => return None,
    };
    Some(format!("stands before {name}: {why}; put it after"))
}

/// `jwt_authn`, by the type of its configuration or, where that is elsewhere, by its name.
pub fn kind(filter: &Value) -> &str {
    let of_type = typed(&filter["typed_config"]).and_then(|(name, _)| name.strip_prefix("envoy.extensions."));
    match of_type.and_then(|name| name.strip_prefix("filters.http.")) {
        Some(name) => name.split('.').next().unwrap_or(name),
        None => kind_of_name(name(filter)),
    }
}

/// `envoy.filters.http.jwt_authn` is a `jwt_authn`.
pub fn kind_of_name(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or(name)
}

/// As messages name a filter, a host or a listener.
pub fn name(node: &Value) -> &str {
    node["name"].as_str().unwrap_or("without a name")
}

/// The largest bodies that rules hold back, and the longest time that one holds a request, each with the name of its
/// rule.
pub struct Limits<'a> {
    request: Option<(u64, &'a str)>,
    response: Option<(u64, &'a str)>,
    held_ms: Option<(u64, &'a str)>,
}

impl<'a> Limits<'a> {
    fn of(config: &'a Config) -> Self {
        let largest = |limit: fn(&Policy) -> u64| {
            let enforced = config.rules.iter().filter(|rule| rule.policy.mode == Mode::Enforce);
            enforced.map(|rule: &Rule| (limit(&rule.policy), rule.name.as_str())).max_by_key(|(bytes, _)| *bytes)
        };
        Limits {
            request: largest(|policy| policy.max_request_bytes),
            response: largest(|policy| policy.max_response_bytes),
            held_ms: largest(held_ms).filter(|(ms, _)| *ms > 0),
        }
    }

    /// The warning that a response may overflow the listener's buffer, to which a cluster adds so much in one go.
    pub fn response_warning(&self, listener: u64, cluster: &str, cluster_limit: u64) -> Option<String> {
        let (bytes, rule) = self.response?;
        let wanted = bytes + cluster_limit;
        (listener < wanted).then(|| {
            format!(
                "the listener's per_connection_buffer_limit_bytes is {listener} and must be at least {wanted}: \
                 max_response_bytes of rule {rule} ({bytes}) + the limit of {cluster} ({cluster_limit}). A response that \
                 overflows it ends as a 500 after the service has executed"
            )
        })
    }

    /// The warning that Envoy may refuse a request body before the filter does.
    pub fn request_warning(&self, listener: u64, place: &str, limit: Option<u64>) -> Option<String> {
        let (bytes, rule) = self.request?;
        let wanted = bytes + listener;
        limit.is_none_or(|limit| limit < wanted).then(|| {
            let given = limit.map_or_else(|| "not set".to_owned(), |limit| limit.to_string());
            format!(
                "request_body_buffer_limit of {place} is {given} and must be at least {wanted}: max_request_bytes of \
                 rule {rule} ({bytes}) + the listener's per_connection_buffer_limit_bytes ({listener}). Envoy may refuse \
                 a large body before the filter does, with a bare 413"
            )
        })
    }

    /// The warning that Envoy may end a request that the filter still holds. A time-out of zero is none.
    pub fn time_out_warning(&self, place: &str, given: Duration) -> Option<String> {
        let (ms, rule) = self.held_ms?;
        let held = Duration::from_millis(ms);
        (!given.is_zero() && given <= held).then(|| {
            format!(
                "{place} is {given:?} and must be longer than {held:?}: for so long rule {rule} may hold a request \
                 (max_wait_ms while it waits, execution.timeout_ms while it runs shielded). Envoy answers it first, with \
                 a 504"
            )
        })
    }
}

/// How long a request may be held back before Envoy sees any of its answer. One that waited for an answer may then wait
/// for its turn, and then run.
fn held_ms(policy: &Policy) -> u64 {
    let waits = match policy.on_in_flight {
        OnInFlight::Wait { max_wait_ms } => max_wait_ms,
        OnInFlight::Reject => 0,
    };
    let waits = waits + policy.lock().map_or(0, |serialize| serialize.max_wait_ms);
    match policy.execution {
        Execution::Shielded { timeout_ms, .. } => waits + timeout_ms,
        Execution::Inline => waits,
    }
}

/// The time-outs of Envoy's that run while the filter holds a request, which the router has not seen: its own do not,
/// and `request_timeout` is over with the last byte of the request.
fn time_out_warnings(chain: Chain<'_>, limits: &Limits<'_>) -> Vec<String> {
    let manager = chain.manager;
    let pairs = [
        (
            ("stream_idle_timeout", duration(&manager["stream_idle_timeout"]).or(Some(DEFAULT_IDLE))),
            ("idle_timeout", "/idle_timeout"),
        ),
        (
            ("max_stream_duration", duration(&manager["common_http_protocol_options"]["max_stream_duration"])),
            ("max_stream_duration", "/max_stream_duration/max_stream_duration"),
        ),
    ];
    let mut warnings = Vec::new();
    for ((everywhere, given), (here, pointer)) in pairs {
        let mut inherits = false;
        for (place, route) in list(&manager["route_config"]["virtual_hosts"]).iter().flat_map(leading_routes) {
            match route["route"].pointer(pointer).and_then(duration) {
                Some(own) => warnings.extend(limits.time_out_warning(&format!("{here} of {place}"), own)),
                None => inherits = true,
            }
        }
        if inherits {
            warnings.extend(given.and_then(|given| limits.time_out_warning(everywhere, given)));
        }
    }
    warnings
}

/// The routes of a virtual host that lead somewhere, each with its place in words.
fn leading_routes(host: &Value) -> impl Iterator<Item = (String, &Value)> {
    let leading = list(&host["routes"]).iter().enumerate().filter(|(_, route)| route["route"].is_object());
    leading.map(|(index, route)| {
        let label = route["name"].as_str().map_or_else(|| format!("route {index}"), |name| format!("route {name}"));
        (format!("{label} of virtual host {}", name(host)), route)
    })
}

fn buffer_warnings(chain: Chain<'_>, limits: &Limits<'_>, bootstrap: &Bootstrap<'_>) -> Vec<String> {
    let mut warnings = Vec::new();
    for filter in list(&chain.manager["http_filters"]).iter().filter(|filter| kind(filter) == "buffer") {
        let given = typed(&filter["typed_config"]).and_then(|(_, config)| whole(&config["max_request_bytes"]));
        if let (Some(given), Some((bytes, rule))) = (given, limits.request)
            && given < bytes
        {
            warnings.push(format!(
                "{} refuses bodies over {given} bytes with a bare 413, below max_request_bytes of rule {rule} ({bytes})",
                name(filter)
            ));
        }
    }
    let Some(listener) = chain.listener else { return warnings };
    let listener = limit_of(listener);
    let routes = &chain.manager["route_config"];
    let mut clusters = Vec::new();
    named_clusters(routes, &mut clusters);
    let largest =
        clusters.iter().filter_map(|name| Some((limit_of(bootstrap.cluster(name)?), *name))).max_by_key(|it| it.0);
    warnings.extend(match largest {
        Some((limit, name)) => limits.response_warning(listener, &format!("cluster {name}"), limit),
        None => limits.response_warning(listener, "a cluster that sets none", DEFAULT_LIMIT),
    });
    for host in list(&routes["virtual_hosts"]) {
        let own = whole(&host["request_body_buffer_limit"]);
        let mut inherits = false;
        for (place, route) in leading_routes(host) {
            match whole(&route["request_body_buffer_limit"]) {
                Some(limit) => warnings.extend(limits.request_warning(listener, &place, Some(limit))),
                None => inherits = true,
            }
        }
        if inherits {
            warnings.extend(limits.request_warning(listener, &format!("virtual host {}", name(host)), own));
        }
    }
    warnings
}

/// `per_connection_buffer_limit_bytes` of a listener or a cluster.
pub fn limit_of(node: &Value) -> u64 {
    whole(&node["per_connection_buffer_limit_bytes"]).unwrap_or(DEFAULT_LIMIT)
}

/// What FAIL_OPEN means.
pub const FAIL_OPEN: &str = "after a crash of the VM requests pass unprotected, in silence; take FAIL_RELOAD";

const AUTHENTICATION: [&str; 7] =
    ["api_key_auth", "basic_auth", "ext_authz", "istio_authn", "jwt_authn", "oauth2", "rbac"];
const RATE_LIMITS: [&str; 3] = ["local_ratelimit", "rate_limit_quota", "ratelimit"];

/// Envoy's own `stream_idle_timeout`.
const DEFAULT_IDLE: Duration = Duration::from_secs(300);

/// Envoy's own, of listeners and of clusters.
pub const DEFAULT_LIMIT: u64 = 1 << 20;
