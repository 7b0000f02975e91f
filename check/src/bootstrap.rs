//! The listeners and clusters of a file, and what leads where.
//!
//! Its one rule: what is discovered from elsewhere is not known here, and nothing is said of its absence.
//! It does not know the filter.

use std::time::Duration;

use serde_json::Value;

use crate::istio;
use crate::locate::typed;

/// Listeners and clusters of the file.
#[derive(Default)]
pub struct Bootstrap<'a> {
    pub listeners: Vec<&'a Value>,
    clusters: Vec<&'a Value>,
    /// The file holds every cluster there is.
    has_all_clusters: bool,
    /// The file holds every listener there is.
    pub has_all_listeners: bool,
    /// Istio adds a cluster for each of its services.
    is_mesh: bool,
}

impl<'a> Bootstrap<'a> {
    /// What these documents hold.
    pub fn of(trees: &'a [Value]) -> Self {
        let mut bootstrap = Bootstrap::default();
        for tree in trees {
            let fixed = &tree["static_resources"];
            let all = |source: &str| fixed.is_object() && tree["dynamic_resources"][source].is_null();
            bootstrap.has_all_clusters |= all("cds_config");
            bootstrap.has_all_listeners |= all("lds_config");
            bootstrap.is_mesh |= matches!(tree["kind"].as_str(), Some("EnvoyFilter" | "WasmPlugin"));
            collect(tree, &|node| node["filter_chains"].is_array(), &mut bootstrap.listeners);
            bootstrap.clusters.extend(list(&fixed["clusters"]).iter().chain(istio::patches(tree, "CLUSTER", "ADD")));
            let is_cluster = |it: &Value| typed(it).is_some_and(|(name, _)| name == "envoy.config.cluster.v3.Cluster");
            collect(tree, &is_cluster, &mut bootstrap.clusters);
        }
        bootstrap
    }

    /// The cluster of this name.
    pub fn cluster(&self, name: &str) -> Option<&'a Value> {
        self.clusters.iter().find(|cluster| cluster["name"] == name).copied()
    }

    /// The warning that there is no such cluster, where that can be told.
    pub fn missing(&self, field: &str, name: &str) -> Option<String> {
        let told = self.has_all_clusters || (self.is_mesh && !name.starts_with("outbound|"));
        (told && self.cluster(name).is_none())
            .then(|| format!("{field} is {name}, and the file has no cluster of this name: every call to it fails"))
    }

    /// The listeners of this Envoy to which a cluster leads.
    pub fn leads_to(&self, cluster: &Value) -> Vec<&'a Value> {
        let addresses: Vec<_> = addresses(cluster).collect();
        let is_target = |listener: &&&Value| {
            addresses.iter().any(|address| {
                let port = &address["socket_address"]["port_value"];
                let internal = &address["envoy_internal_address"]["server_listener_name"];
                (!internal.is_null() && listener["name"] == *internal)
                    || (!port.is_null() && listener["address"]["socket_address"]["port_value"] == *port)
            })
        };
        self.listeners.iter().filter(is_target).copied().collect()
    }
}

/// Where a cluster leads, as far as its endpoints are given.
pub fn addresses(cluster: &Value) -> impl Iterator<Item = &Value> {
    let localities = list(&cluster["load_assignment"]["endpoints"]).iter();
    localities.flat_map(|locality| list(&locality["lb_endpoints"])).map(|endpoint| &endpoint["endpoint"]["address"])
}

/// The nodes of a tree that are wanted, none of which lies in another.
pub fn collect<'a>(node: &'a Value, wanted: &dyn Fn(&Value) -> bool, found: &mut Vec<&'a Value>) {
    match node {
        node if wanted(node) => found.push(node),
        Value::Array(items) => items.iter().for_each(|item| collect(item, wanted, found)),
        Value::Object(members) => members.values().for_each(|member| collect(member, wanted, found)),
        _ => {}
    }
}

/// The clusters that routes, or a TCP proxy, send to.
pub fn named_clusters<'a>(node: &'a Value, found: &mut Vec<&'a str>) {
    match node {
        Value::Array(items) => items.iter().for_each(|item| named_clusters(item, found)),
        Value::Object(members) => {
            for (name, value) in members {
                match (name.as_str(), value) {
                    ("cluster", Value::String(cluster)) => found.push(cluster),
                    ("weighted_clusters", value) => {
                        found.extend(list(&value["clusters"]).iter().filter_map(|it| it["name"].as_str()));
                    }
                    (_, value) => named_clusters(value, found),
                }
            }
        }
        _ => {}
    }
}

/// The items of a list; none of anything else.
pub fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

/// A whole number, which protobuf's JSON may write as a string.
pub fn whole(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_str()?.parse().ok())
}

/// A duration as protobuf's JSON writes it: `60s`, `0.5s`.
pub fn duration(value: &Value) -> Option<Duration> {
    Duration::try_from_secs_f64(value.as_str()?.strip_suffix('s')?.parse().ok()?).ok()
}
