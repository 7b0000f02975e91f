//! What Istio's resources say about where the filter stands and how much is buffered.
//!
//! Its one rule: only what the file itself patches is judged, since the rest of the proxy's configuration is Istio's.
//! It does not know what a document means.

use serde_json::Value;

use crate::bootstrap::{duration, list, whole};
use crate::lint::{DEFAULT_LIMIT, FAIL_OPEN, Limits, kind_of_name, too_early, too_late};
use crate::locate::Carrier;

/// The values that an EnvoyFilter patches in so; none in any other tree.
pub fn patches<'a>(tree: &'a Value, apply_to: &str, operation: &str) -> impl Iterator<Item = &'a Value> {
    matching(tree, apply_to)
        .filter(move |patch| patch["patch"]["operation"] == operation)
        .map(|it| &it["patch"]["value"])
}

fn matching<'a>(tree: &'a Value, apply_to: &str) -> impl Iterator<Item = &'a Value> {
    let patches = if tree["kind"] == "EnvoyFilter" { list(&tree["spec"]["configPatches"]) } else { &[] };
    patches.iter().filter(move |patch| patch["applyTo"] == apply_to)
}

/// Warnings about the filter of this name that EnvoyFilters insert.
pub fn patch_warnings(name: &str, limits: &Limits<'_>, trees: &[Value]) -> Vec<String> {
    let mut warnings = Vec::new();
    let inserted: Vec<_> = trees
        .iter()
        .flat_map(|tree| matching(tree, "HTTP_FILTER"))
        .filter(|patch| patch["patch"]["value"]["name"] == name)
        .collect();
    if inserted.is_empty() {
        warnings.push(format!("no patch with applyTo HTTP_FILTER inserts {name}: it is never reached"));
    }
    for patch in inserted {
        let beside = &patch["match"]["listener"]["filterChain"]["filter"]["subFilter"]["name"];
        warnings.extend(match (patch["patch"]["operation"].as_str().unwrap_or("INVALID"), beside.as_str()) {
            ("INSERT_BEFORE", Some(other)) => too_early(kind_of_name(other), other),
            ("INSERT_AFTER", Some(other)) => too_late(kind_of_name(other), other),
            (operation @ ("INSERT_FIRST" | "INSERT_BEFORE"), _) => Some(format!(
                "{operation} puts it before every filter, so before those that verify who is asking and that limit \
                 rates; insert it before envoy.filters.http.router"
            )),
            (operation @ ("ADD" | "INSERT_AFTER"), _) => Some(format!(
                "{operation} puts it after the router, with which the chain ends: it is never reached; insert it before \
                 envoy.filters.http.router"
            )),
            _ => None,
        });
    }
    let merged = |apply_to: &str, member: &str| {
        let given = trees.iter().flat_map(|tree| patches(tree, apply_to, "MERGE"));
        given.filter_map(|value| whole(&value[member])).last()
    };
    let listener = merged("LISTENER", "per_connection_buffer_limit_bytes").unwrap_or(ISTIO_LIMIT);
    let cluster = merged("CLUSTER", "per_connection_buffer_limit_bytes").unwrap_or(DEFAULT_LIMIT);
    warnings.extend(limits.response_warning(listener, "the service's cluster", cluster));
    let host = merged("VIRTUAL_HOST", "request_body_buffer_limit");
    let route = merged("HTTP_ROUTE", "request_body_buffer_limit");
    warnings.extend(match route {
        Some(route) => limits.request_warning(listener, "the route", Some(route)),
        None => limits.request_warning(listener, "the virtual host", host),
    });
    let managers = trees.iter().flat_map(|tree| patches(tree, "NETWORK_FILTER", "MERGE"));
    let idle = managers.filter_map(|value| duration(&value["typed_config"]["stream_idle_timeout"])).last();
    warnings.extend(idle.and_then(|given| limits.time_out_warning("stream_idle_timeout", given)));
    warnings
}

/// Warnings about a WasmPlugin.
pub fn plugin_warnings(resource: &Value) -> Vec<String> {
    let mut warnings = Vec::new();
    let spec = &resource["spec"];
    if spec["failStrategy"] == "FAIL_OPEN" {
        warnings.push(format!("failStrategy: FAIL_OPEN: {FAIL_OPEN}"));
    }
    if matches!(spec["phase"].as_str(), Some("AUTHN" | "AUTHZ")) {
        let phase = spec["phase"].as_str().unwrap_or_default();
        warnings.push(format!(
            "phase {phase} puts it before Istio's own authorization: no filter has verified yet who is asking; leave phase out"
        ));
    }
    warnings
}

/// Where Istio puts the filter, among its own filters and on which workloads.
pub struct Stand<'a> {
    namespace: &'a Value,
    labels: &'a Value,
    /// It stands behind every filter of Istio's.
    pub is_last: bool,
}

/// Where the filter stands, if that is behind Istio's `jwt_authn`; of a file that does not tell there is nothing to say.
pub fn stand<'a>(carrier: Carrier<'a>, trees: &'a [Value]) -> Option<Stand<'a>> {
    let (resource, labels, is_last) = match carrier {
        Carrier::WasmPlugin(resource) => match resource["spec"]["phase"].as_str() {
            Some("AUTHN") => return None,
            phase => (resource, &resource["spec"]["selector"]["matchLabels"], phase != Some("AUTHZ")),
        },
        Carrier::EnvoyFilter(name) => {
            let of_tree = |tree: &'a Value| {
                let patch = matching(tree, "HTTP_FILTER").find(|patch| patch["patch"]["value"]["name"] == name)?;
                Some((tree, patch))
            };
            let (tree, patch) = trees.iter().find_map(of_tree)?;
            let operation = patch["patch"]["operation"].as_str()?;
            let beside = patch["match"]["listener"]["filterChain"]["filter"]["subFilter"]["name"].as_str()?;
            let is_in_front = match operation {
                "INSERT_BEFORE" => kind_of_name(beside) == "jwt_authn",
                operation => operation != "INSERT_AFTER" || kind_of_name(beside) == "router",
            };
            // Istio's metadata exchange comes first of all, and what goes out of a workload was verified elsewhere.
            if is_in_front
                || kind_of_name(beside) == "metadata_exchange"
                || patch["match"]["context"] == "SIDECAR_OUTBOUND"
            {
                return None;
            }
            (tree, &tree["spec"]["workloadSelector"]["labels"], kind_of_name(beside) == "router")
        }
        Carrier::Chain(_) | Carrier::ExtensionPolicy(_) | Carrier::Unknown => return None,
    };
    Some(Stand { namespace: &resource["metadata"]["namespace"], labels, is_last })
}

impl Stand<'_> {
    /// Whether a resource of Istio's may be about workloads that run the filter.
    pub fn shares_workloads_with(&self, resource: &Value) -> bool {
        let namespace = &resource["metadata"]["namespace"];
        let is_everywhere = |namespace: &Value| namespace.is_null() || namespace == ROOT_NAMESPACE;
        let selected = resource["spec"]["selector"]["matchLabels"].as_object().into_iter().flatten();
        (namespace == self.namespace || is_everywhere(namespace) || is_everywhere(self.namespace))
            && selected.into_iter().all(|(label, value)| self.labels.get(label).is_none_or(|own| own == value))
    }
}

/// What is configured in it holds for every namespace, unless the mesh is configured otherwise.
const ROOT_NAMESPACE: &str = "istio-system";

/// What Istio gives its listeners.
const ISTIO_LIMIT: u64 = 32_768;
