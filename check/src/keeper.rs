//! Whether the embedded store's records stay while no listener has the filter.
//!
//! Its one rule: a listener of the bootstrap never goes, so for a filter in one nothing is missing.
//! It does not know what the records are of.

use envoy_idempotency::config::{Config, Store};
use serde_json::Value;

use crate::bootstrap::{collect, list};
use crate::describe::all;
use crate::lint::name;
use crate::locate::{Carrier, Found, is_ours, typed};

/// The warning that services of this filter are there to keep records, and none keeps those of this place.
pub fn warning(found: &Found<'_>, config: &Config, trees: &[Value]) -> Option<String> {
    let vm_id = vm_id_of_local(found, config)?;
    let others: Vec<_> = services(trees).into_iter().filter(|service| is_ours(service)).collect();
    if others.is_empty() || is_kept(vm_id, trees) {
        return None;
    }
    let others: Vec<_> = others
        .iter()
        .map(|service| {
            format!("{} (vm_id {})", name(service), service["vm_config"]["vm_id"].as_str().unwrap_or("not set"))
        })
        .collect();
    Some(format!(
        "the records are shared under vm_id {vm_id}, and no service of bootstrap_extensions keeps those: {} keeps others; \
         give it the vm_config of this filter",
        all(&others)
    ))
}

/// The advice to have the records kept, where the listener can be removed and no service keeps them.
pub fn advice(found: &Found<'_>, config: &Config, trees: &[Value]) -> Option<&'static str> {
    let vm_id = vm_id_of_local(found, config)?;
    let Carrier::Chain(chain) = found.carrier else { return None };
    let listener = chain.listener?;
    let is_fixed = || {
        let mut bootstraps = Vec::new();
        let has_fixed = |node: &Value| FIXED.iter().any(|name| node.get(name).is_some());
        trees.iter().for_each(|tree| collect(tree, &has_fixed, &mut bootstraps));
        bootstraps.iter().any(|node| FIXED.iter().any(|name| holds(&node[*name], listener)))
    };
    let mut discovering = Vec::new();
    trees.iter().for_each(|tree| collect(tree, &|node| node["lds_config"].is_object(), &mut discovering));
    (!discovering.is_empty() && !is_kept(vm_id, trees) && !is_fixed()).then_some(
        "Advice: listeners are discovered (lds_config). Once the last with this vm_id has been removed its records are \
         gone; a service in bootstrap_extensions keeps them: see envoy/local.yaml.",
    )
}

/// The vm_id under which the records of this place are shared, where they are in Envoy's memory.
fn vm_id_of_local<'a>(found: &'a Found<'_>, config: &Config) -> Option<&'a str> {
    let is_local = matches!(config.store, Store::Local { .. });
    found.plugin.as_ref().filter(|_| is_local)?["vm_config"]["vm_id"].as_str().filter(|vm_id| !vm_id.is_empty())
}

fn is_kept(vm_id: &str, trees: &[Value]) -> bool {
    services(trees).iter().any(|service| service["vm_config"]["vm_id"] == vm_id)
}

/// The PluginConfigs of all Wasm services.
fn services(trees: &[Value]) -> Vec<&Value> {
    let mut bootstraps = Vec::new();
    trees.iter().for_each(|tree| collect(tree, &|node| node["bootstrap_extensions"].is_array(), &mut bootstraps));
    let extensions = bootstraps.into_iter().flat_map(|node| list(&node["bootstrap_extensions"]));
    let typed = extensions.filter_map(|extension| typed(&extension["typed_config"]));
    typed
        .filter(|(kind, _)| *kind == "envoy.extensions.wasm.v3.WasmService")
        .map(|(_, config)| &config["config"])
        .collect()
}

/// Whether this very node lies in a tree.
fn holds(tree: &Value, wanted: &Value) -> bool {
    std::ptr::eq(tree, wanted)
        || match tree {
            Value::Array(items) => items.iter().any(|item| holds(item, wanted)),
            Value::Object(members) => members.values().any(|member| holds(member, wanted)),
            _ => false,
        }
}

/// Where a bootstrap, and a dump of Envoy's configuration, have the listeners that never go.
const FIXED: [&str; 2] = ["static_listeners", "static_resources"];
