//! The plugin that operators ask, and whether it finds what a gateway of the same file keeps.
//!
//! Its one rule: an operator plugin and its gateway have one VM, one plugin name and one store; where the file has no
//! such gateway, that is said.
//! It does not know what operators ask.

use envoy_idempotency::config::{Config, Document, Operator, Store};
use serde_json::Value;

use crate::describe::{self, Line};
use crate::input::Input;
use crate::locate::{self, Found};
use crate::report::SOME_KEY;

/// What the plugin does, in words.
pub fn lines(operator: &Operator, config: &Config, document: &Value) -> Vec<Line> {
    let path = &operator.path;
    let from = match document["operator"]["token"]["env"].as_str() {
        Some(name) => format!("from the variable {name}"),
        None => "written in the document".to_owned(),
    };
    let asks = format!(
        "GET {path}/<operation>, POST {path}/<operation>/resolve and POST {path}/<operation>/forget, under a bearer token \
         {from}; nothing else is answered here"
    );
    let mut lines = vec![("operators", asks)];
    lines.extend(
        describe::store(config, document).into_iter().filter(|(label, _)| ["records", "cache"].contains(label)),
    );
    lines
}

/// What keeps it from finding the records of a gateway of this file.
pub fn warnings(found: &Found<'_>, input: &Input) -> Vec<String> {
    let (Some(plugin), Some(Document::Operator(_, config))) = (&found.plugin, read(found)) else { return Vec::new() };
    let gateways = locate::find(input).into_iter().filter_map(|other| match read(&other)? {
        Document::Gateway(config) => Some((*config, other)),
        _ => None,
    });
    let gateways: Vec<_> = gateways.collect();
    if gateways.is_empty() {
        return Vec::new();
    }
    let names = |plugin: &Value| [plugin["name"].clone(), plugin["vm_config"]["vm_id"].clone()];
    let is_named_alike = |other: &Found<'_>| other.plugin.as_ref().is_some_and(|other| names(other) == names(plugin));
    let is_its =
        |(own, other): &(Config, Found<'_>)| is_named_alike(other) && have_one_store(&own.store, &config.store);
    if let Some((_, its)) = gateways.iter().find(|gateway| is_its(gateway)) {
        let variables =
            |plugin: Option<&Value>| plugin.map(|plugin| plugin["vm_config"]["environment_variables"].clone());
        return match variables(its.plugin.as_ref()) == variables(Some(plugin)) {
            true => Vec::new(),
            false => vec![
                "its environment_variables are not those of the gateway, whose VM it shares: the VM has those of the plugin \
                 that comes first, so give both the same"
                    .to_owned(),
            ],
        };
    }
    vec![
        "no gateway of this file has the same vm_id, the same plugin name and the same store (embedded: max_bytes; Redis: \
         cluster, dialect, prefix and cache): operators find none of its records, or leave what its Envoy remembers"
            .to_owned(),
    ]
}

fn have_one_store(own: &Store, other: &Store) -> bool {
    match (own, other) {
        (Store::Redis(own), Store::Redis(other)) => own.is_same_store(other) && own.cache == other.cache,
        (own, other) => own == other,
    }
}

/// The document of a place, with one value in every variable: what the gateway's machine has in them is not known here, so
/// that it differs from what this one has tells nothing.
fn read(found: &Found<'_>) -> Option<Document> {
    let some = |_: &str| Some(SOME_KEY.to_owned());
    Document::parse(found.document.as_ref().ok()?.as_bytes(), &some).ok()
}
