//! What keeps the store's streams from reaching Redis.
//!
//! Its one rule: each warning is about one part of the way: the cluster, the plugin that takes frames off, or the listener
//! in which it stands where it does not stand in the cluster itself.
//! It does not know what is sent on them.

use envoy_idempotency::config::Document;
use serde_json::Value;

use crate::bootstrap::{Bootstrap, addresses, collect, duration, list, named_clusters};
use crate::locate::{document, typed, wasm_plugin};

/// Every warning about the cluster of this name, given as `store.cluster` with `dialect: "resp"` to this plugin.
pub fn warnings(name: &str, plugin: &Value, bootstrap: &Bootstrap<'_>, trees: &[Value]) -> Vec<String> {
    let Some(cluster) = bootstrap.cluster(name) else { return Vec::new() };
    let mut warnings = Vec::new();
    if !holds(&cluster["typed_extension_protocol_options"], &|node| node.get("http2_protocol_options").is_some()) {
        warnings
            .push(format!("cluster {name} does not set http2_protocol_options, without which Envoy opens no stream"));
    }
    let targets = bootstrap.leads_to(cluster);
    if bootstrap.listeners.iter().any(|listener| has_route_to(name, listener)) {
        warnings.push(format!(
            "a route leads to store.cluster {name}: a client that speaks gRPC reaches Redis through it, and can read and \
             forge records"
        ));
    }
    let is_internal = addresses(cluster).any(|address| !address["envoy_internal_address"].is_null());
    if is_direct(cluster) || !is_internal && targets.is_empty() {
        warnings.extend(direct_warnings(name, cluster, plugin, trees));
        return warnings;
    }
    if targets.is_empty() && bootstrap.has_all_listeners {
        warnings.push(format!(
            "store.cluster {name} leads to no listener of this file that takes frames off: Redis would get frames instead \
             of commands"
        ));
    }
    let has_extension = |node: &Value| {
        let extensions = list(&node["bootstrap_extensions"]).iter();
        extensions.filter_map(|it| typed(&it["typed_config"])).any(|(kind, _)| kind == INTERNAL_LISTENER)
    };
    let is_bootstrap = |tree: &Value| tree["static_resources"].is_object();
    if is_internal && trees.iter().any(is_bootstrap) && !trees.iter().any(|tree| holds(tree, &has_extension)) {
        warnings.push(
            "bootstrap_extensions has no envoy.bootstrap.internal_listener, without which there are no internal listeners"
                .to_owned(),
        );
    }
    targets.into_iter().for_each(|listener| warnings.extend(listener_warnings(name, listener, bootstrap, trees)));
    warnings
}

/// Whether a cluster takes frames off, or is to.
pub fn is_direct(cluster: &Value) -> bool {
    cluster["upstream_config"].is_object() || holds(&cluster["typed_extension_protocol_options"], &takes_frames_off)
}

fn direct_warnings(name: &str, cluster: &Value, plugin: &Value, trees: &[Value]) -> Vec<String> {
    let mut warnings = Vec::new();
    let is_tcp = typed(&cluster["upstream_config"]["typed_config"]).is_some_and(|(kind, _)| kind == TCP_POOL);
    if !is_tcp {
        warnings.push(format!(
            "cluster {name} has no upstream_config of envoy.filters.connection_pools.http.tcp: Redis would get HTTP instead \
             of commands"
        ));
    }
    let mut framing = Vec::new();
    let may_take_them_off = |node: &Value| takes_frames_off(node) || may_discover_it(node, trees);
    collect(&cluster["typed_extension_protocol_options"], &may_take_them_off, &mut framing);
    if framing.is_empty() {
        warnings.push(format!(
            "cluster {name}, given as store.cluster, has no plugin of this module with the document {{\"framing\": true}} \
             among its http_filters, and leads to no listener that has one: Redis would get frames instead of commands"
        ));
    }
    let vm_id = &plugin["vm_config"]["vm_id"];
    if framing.into_iter().filter_map(wasm_plugin).any(|framing| framing["vm_config"]["vm_id"] == *vm_id) {
        warnings.push(format!(
            "the plugin of cluster {name} that takes frames off has the vm_id of the filter: give it one of its own, because \
             Envoy calls it while the filter writes"
        ));
    }
    warnings
}

fn listener_warnings(cluster: &str, listener: &Value, bootstrap: &Bootstrap<'_>, trees: &[Value]) -> Vec<String> {
    let target = listener["name"].as_str().unwrap_or("without a name");
    let mut warnings = Vec::new();
    if !holds(listener, &|node| takes_frames_off(node) || may_discover_it(node, trees)) {
        warnings.push(format!(
            "listener {target}, to which store.cluster {cluster} leads, has no plugin of this module with the document \
             {{\"framing\": true}}: Redis would get frames instead of commands"
        ));
    }
    let is_off = |node: &Value, field: &str| duration(&node[field]).is_some_and(|time| time.is_zero());
    if holds(listener, &|node| node.get("http_filters").is_some() && !is_off(node, "stream_idle_timeout")) {
        warnings
            .push(format!("listener {target} does not set stream_idle_timeout to 0s: it ends streams that are idle"));
    }
    for route in routes(listener) {
        if !is_off(route, "timeout") {
            warnings
                .push(format!("a route of listener {target} does not set timeout to 0s: it ends streams after that"));
        }
        let goes_through = |it: &Value| it["upgrade_type"] == "CONNECT" && it["connect_config"]["allow_post"] == true;
        if !list(&route["upgrade_configs"]).iter().any(goes_through) {
            warnings.push(format!(
                "a route of listener {target} has no upgrade_configs with upgrade_type CONNECT and connect_config \
                 {{allow_post: true}}: Redis would get HTTP instead of commands"
            ));
        }
    }
    let mut clusters = Vec::new();
    named_clusters(listener, &mut clusters);
    warnings.extend(clusters.into_iter().filter_map(|name| bootstrap.missing("the route to Redis", name)));
    warnings
}

/// The actions of the routes of a listener that send to a cluster.
fn routes(listener: &Value) -> impl Iterator<Item = &Value> {
    let is_route = |node: &Value| node.get("match").is_some() && node["route"].is_object();
    let mut routes = Vec::new();
    collect(listener, &is_route, &mut routes);
    routes.into_iter().map(|route| &route["route"])
}

fn has_route_to(name: &str, listener: &Value) -> bool {
    let mut clusters = Vec::new();
    routes(listener).for_each(|route| named_clusters(route, &mut clusters));
    clusters.contains(&name)
}

/// Whether this is our plugin with the document of its other kind.
fn takes_frames_off(node: &Value) -> bool {
    let document = wasm_plugin(node).and_then(|plugin| document(&plugin["configuration"]).ok());
    document.is_some_and(|text| matches!(Document::parse(text.as_bytes(), &|_| None), Ok(Document::Framing)))
}

/// Whether this is a filter whose configuration is discovered, and the file has ours under its name, or none.
fn may_discover_it(node: &Value, trees: &[Value]) -> bool {
    let of_name = |other: &Value| other["name"] == node["name"] && other["typed_config"].is_object();
    let mut found = Vec::new();
    trees.iter().for_each(|tree| collect(tree, &of_name, &mut found));
    node["config_discovery"].is_object()
        && (found.is_empty() || found.iter().any(|it| takes_frames_off(&it["typed_config"])))
}

fn holds(node: &Value, wanted: &dyn Fn(&Value) -> bool) -> bool {
    let mut found = Vec::new();
    collect(node, wanted, &mut found);
    !found.is_empty()
}

const INTERNAL_LISTENER: &str = "envoy.extensions.bootstrap.internal_listener.v3.InternalListener";
const TCP_POOL: &str = "envoy.extensions.upstreams.http.tcp.v3.TcpConnectionPoolProto";
