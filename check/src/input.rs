//! What a file holds: the operator's document by itself, or trees of Envoy, Istio or Kubernetes.
//!
//! Its one rule: no message quotes the file, because it may hold secrets.
//! It does not know where in a tree a filter stands.

use serde_json::{Map, Value};

/// A file that could be read.
pub enum Input {
    /// The plugin configuration alone, as text.
    Document(String),
    /// The documents of a YAML or JSON file.
    Trees(Vec<Value>),
}

/// Reads a file, or says why it is neither.
pub fn parse(text: &str) -> Result<Input, String> {
    if text.trim().is_empty() {
        return Err("is empty".to_owned());
    }
    // A configuration that is no JSON is one that the filter refuses, in better words than a YAML parser has.
    let is_json = text.trim_start().starts_with('{');
    let read = serde_saphyr::from_multiple_with_options(text, serde_saphyr::options! { with_snippet: false });
    match read.map(|trees: Vec<Value>| trees.into_iter().map(respelled).collect::<Vec<_>>()) {
        Ok(trees) if !is_json || trees.iter().any(is_foreign) => {
            Ok(Input::Trees(trees.into_iter().flat_map(unlisted).collect()))
        }
        Err(error) if !is_json => Err(format!("is not YAML: {error}")),
        _ => Ok(Input::Document(text.to_owned())),
    }
}

/// Whether this object is one of Envoy's or of Kubernetes' rather than a document of ours, however mistyped.
fn is_foreign(tree: &Value) -> bool {
    FOREIGN.iter().any(|name| tree.get(name).is_some())
}

/// The resources of a list of Kubernetes; anything else as it is.
fn unlisted(tree: Value) -> Vec<Value> {
    match tree["items"].as_array() {
        Some(items) if tree["kind"] == "List" => items.clone(),
        _ => vec![tree],
    }
}

/// Envoy's fields as its documentation spells them. Protobuf takes `typedConfig` for `typed_config`, and `istioctl
/// proxy-config` writes it; what has names of its own stays as it is.
fn respelled(node: Value) -> Value {
    match node {
        Value::Array(items) => items.into_iter().map(respelled).collect(),
        Value::Object(members) => {
            let members = members.into_iter().map(|(name, value)| match name.as_str() {
                "configuration" | "key_values" | "spec" => (name, value),
                "keyValues" => ("key_values".to_owned(), value),
                "providers"
                | "requirementMap"
                | "requirement_map"
                | "typedPerFilterConfig"
                | "typed_per_filter_config" => (snake_case(&name), with_names(value)),
                _ => (snake_case(&name), respelled(value)),
            });
            members.collect::<Map<_, _>>().into()
        }
        other => other,
    }
}

/// An object whose members have names of their own.
fn with_names(node: Value) -> Value {
    match node {
        Value::Object(members) => {
            members.into_iter().map(|(name, value)| (name, respelled(value))).collect::<Map<_, _>>().into()
        }
        other => respelled(other),
    }
}

fn snake_case(name: &str) -> String {
    let mut snake = String::new();
    for char in name.chars() {
        if char.is_ascii_uppercase() {
            snake.push('_');
        }
        snake.push(char.to_ascii_lowercase());
    }
    snake
}

impl Input {
    /// All that stands in the file as trees.
    pub fn trees(&self) -> &[Value] {
        match self {
            Input::Document(_) => &[],
            Input::Trees(trees) => trees,
        }
    }

    /// Why there is nothing to check.
    pub fn without_filter(&self) -> String {
        let others = self.trees().iter().map(count_wasm).sum::<usize>();
        let seen = match others {
            0 => "no Wasm filter at all".to_owned(),
            1 => "one Wasm filter, which is not it".to_owned(),
            others => format!("{others} Wasm filters, none of which is it"),
        };
        format!(
            "has {seen}. The filter is recognised by the word \"idempotency\" in its plugin's name, root_id or vm_id, \
             or in the path or URI of its module. A document by itself must be JSON and begin with {{."
        )
    }
}

fn count_wasm(tree: &Value) -> usize {
    let here = usize::from(crate::locate::wasm_plugin(tree).is_some());
    here + match tree {
        Value::Array(items) => items.iter().map(count_wasm).sum(),
        Value::Object(members) => members.values().map(count_wasm).sum(),
        _ => 0,
    }
}

/// Members by which a file that is no document of ours is known.
const FOREIGN: [&str; 9] = [
    "@type",
    "admin",
    "api_version",
    "configs",
    "dynamic_resources",
    "http_filters",
    "resources",
    "static_resources",
    "typed_config",
];
