//! What keeps a shielded execution from being one.
//!
//! Its one rule: each warning is about the listener to which the gateway sends what it executes, or about the way to it.
//! It does not know what stands around the filter itself.

use serde_json::Value;

use crate::bootstrap::{Bootstrap, addresses, collect, list, named_clusters};
use crate::locate::{is_ours, wasm_plugin};

/// Every warning about the cluster of this name, given as `execution.cluster`.
pub fn warnings(name: &str, bootstrap: &Bootstrap<'_>) -> Vec<String> {
    let Some(cluster) = bootstrap.cluster(name) else {
        return bootstrap.missing("execution.cluster", name).into_iter().collect();
    };
    let mut warnings = Vec::new();
    let targets = bootstrap.leads_to(cluster);
    if addresses(cluster).any(|address| address["envoy_internal_address"].is_null()) {
        warnings.push(format!(
            "execution.cluster {name} leads to a network address instead of an internal listener: a client that \
             reaches that address gets past the filter"
        ));
    } else if addresses(cluster).next().is_some() && targets.is_empty() && bootstrap.has_all_listeners {
        warnings.push(format!("execution.cluster {name} leads to an internal listener that the file does not have"));
    }
    for listener in targets {
        let target = listener["name"].as_str().unwrap_or("without a name");
        if holds(listener, &is_our_plugin) {
            warnings.push(format!(
                "listener {target}, to which execution.cluster {name} leads, runs this filter itself: what it executes \
                 would be a duplicate of itself"
            ));
        }
        let missing = ACCOUNT.iter().filter(|(header, value)| !is_always_set(listener, header, value));
        let missing: Vec<_> = missing.map(|(header, value)| format!("{header}: \"{value}\"")).collect();
        if !missing.is_empty() {
            warnings.push(format!(
                "listener {target} does not set {} with append_action OVERWRITE_IF_EXISTS_OR_ADD and keep_empty_value in \
                 its response_headers_to_add: the outcome of every failed execution is unknown",
                missing.join(", ")
            ));
        }
        for other in bootstrap.listeners.iter().filter(|other| !std::ptr::eq(**other, listener)) {
            let mut clusters = Vec::new();
            named_clusters(other, &mut clusters);
            let leads = |name: &&&str| {
                bootstrap
                    .cluster(name)
                    .is_some_and(|it| bootstrap.leads_to(it).iter().any(|to| std::ptr::eq(*to, listener)))
            };
            if let Some(cluster) = clusters.iter().find(leads) {
                warnings.push(format!(
                    "listener {} leads to listener {target} by cluster {cluster}: a client that takes that way gets \
                     past the filter",
                    other["name"].as_str().unwrap_or("without a name")
                ));
            }
        }
    }
    warnings
}

fn is_our_plugin(node: &Value) -> bool {
    wasm_plugin(node).is_some_and(|plugin| is_ours(&plugin))
}

/// Whether the routes of this listener, as far as they are in the file, set a response header whatever is asked for.
fn is_always_set(listener: &Value, header: &str, value: &str) -> bool {
    !holds(listener, &|node| {
        let routes = &node["route_config"];
        let sets = |node: &Value| holds(node, &|node| is_set(node, header, value));
        routes.is_object()
            && !sets(&routes["response_headers_to_add"])
            && !list(&routes["virtual_hosts"]).iter().all(sets)
    })
}

/// Whether this is an entry of `response_headers_to_add` that sets a header to just this, also to nothing.
fn is_set(node: &Value, header: &str, value: &str) -> bool {
    node["header"]["key"].as_str().is_some_and(|key| key.eq_ignore_ascii_case(header))
        && node["header"]["value"] == value
        && node["append_action"] == "OVERWRITE_IF_EXISTS_OR_ADD"
        && node["keep_empty_value"] == true
}

fn holds(node: &Value, wanted: &dyn Fn(&Value) -> bool) -> bool {
    let mut found = Vec::new();
    collect(node, wanted, &mut found);
    !found.is_empty()
}

/// Envoy's account of a shielded answer, as `envoy/shielded.yaml` sets it.
const ACCOUNT: [(&str, &str); 5] = [
    ("x-idempotency-details", "%RESPONSE_CODE_DETAILS%"),
    ("x-idempotency-attempts", "%UPSTREAM_REQUEST_ATTEMPT_COUNT%"),
    ("x-idempotency-flags", "%RESPONSE_FLAGS%"),
    ("x-idempotency-sent", "%UPSTREAM_WIRE_BYTES_SENT%"),
    ("x-idempotency-owner", "%FILTER_STATE(envoy.filters.network.http_connection_manager.local_reply_owner:PLAIN)%"),
];
