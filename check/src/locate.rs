//! Where in a file the filter is configured.
//!
//! Its one rule: whatever carries a Wasm plugin is looked at, wherever it stands; what it does not recognise it walks
//! through.
//! It does not know what a document means.

use serde_json::{Value, json};

use crate::input::Input;

/// One place where the filter is configured.
pub struct Found<'a> {
    /// In words, from the outside in; empty for a document by itself.
    pub place: String,
    /// The document as the filter will get it, or why it will get none.
    pub document: Result<String, String>,
    /// Envoy's PluginConfig; none for a document by itself.
    pub plugin: Option<Value>,
    /// What carries it.
    pub carrier: Carrier<'a>,
}

/// What carries a plugin's configuration.
#[derive(Clone, Copy)]
pub enum Carrier<'a> {
    /// A list of HTTP filters, in which it has this index.
    Chain(Chain<'a>),
    /// An EnvoyFilter's patch, whose HTTP filter has this name.
    EnvoyFilter(&'a str),
    /// One of the modules of Envoy Gateway's EnvoyExtensionPolicy.
    ExtensionPolicy(&'a Value),
    /// Something that does not tell where the filter stands.
    Unknown,
    /// Istio's WasmPlugin.
    WasmPlugin(&'a Value),
}

/// A connection manager seen from one of its filters.
#[derive(Clone, Copy)]
pub struct Chain<'a> {
    pub listener: Option<&'a Value>,
    pub manager: &'a Value,
    pub index: usize,
}

/// Every place in the file; those in clusters come last.
pub fn find(input: &Input) -> Vec<Found<'_>> {
    match input {
        Input::Document(text) => {
            vec![Found { place: String::new(), document: Ok(text.clone()), plugin: None, carrier: Carrier::Unknown }]
        }
        Input::Trees(trees) => {
            let mut found = Vec::new();
            for tree in trees {
                Walk { place: kubernetes_name(tree), listener: None, carrier: Carrier::Unknown }.walk(tree, &mut found);
            }
            found
        }
    }
}

/// A walk from the root to a node.
#[derive(Clone)]
struct Walk<'a> {
    place: String,
    listener: Option<&'a Value>,
    carrier: Carrier<'a>,
}

impl<'a> Walk<'a> {
    fn walk(mut self, node: &'a Value, found: &mut Vec<Found<'a>>) {
        if node.get("filter_chains").is_some() {
            self.listener = Some(node);
            let label = format!("listener {}", node["name"].as_str().unwrap_or("without a name"));
            self.place = joined(&self.place, &label);
        }
        if let Some(plugin) = wasm_plugin(node) {
            if is_ours(&plugin) {
                let document = document(&plugin["configuration"]);
                let carrier = if node["kind"] == "WasmPlugin" { Carrier::WasmPlugin(node) } else { self.carrier };
                found.push(Found { place: self.place, document, plugin: Some(plugin), carrier });
            }
            return;
        }
        match node {
            Value::Object(members) => {
                // What a cluster has for the filter comes after the filter.
                let clusters = members.get_key_value("clusters");
                for (name, value) in members.iter().filter(|(name, _)| *name != "clusters").chain(clusters) {
                    match value {
                        Value::Array(items) => {
                            for (index, item) in items.iter().enumerate() {
                                self.enter(node, name, item, index, items.len()).walk(item, found);
                            }
                        }
                        value => self.clone().walk(value, found),
                    }
                }
            }
            Value::Array(items) => {
                for item in items {
                    let filter = item["name"].as_str().filter(|_| item["typed_config"].is_object());
                    let label = filter.map(|name| format!("HTTP filter {name}")).unwrap_or_default();
                    Walk { place: joined(&self.place, &label), ..self.clone() }.walk(item, found);
                }
            }
            _ => {}
        }
    }

    /// One step down, into an item of the list that `parent` has under this name.
    fn enter(&self, parent: &'a Value, list: &str, item: &'a Value, index: usize, len: usize) -> Walk<'a> {
        let named = |kind: &str| match item["name"].as_str() {
            Some(name) => format!("{kind} {name}"),
            None => format!("{kind} {index}"),
        };
        let mut walk = self.clone();
        let label = match list {
            "filter_chains" if len > 1 => named("filter chain"),
            "clusters" => named("cluster"),
            "virtual_hosts" => named("virtual host"),
            "resources" if item.get("filter_chains").is_none() => named("resource"),
            "routes" => named("route"),
            "wasm" if module_of_gateway(item) => {
                walk.carrier = Carrier::ExtensionPolicy(item);
                named("module")
            }
            "http_filters" => {
                walk.carrier = Carrier::Chain(Chain { listener: walk.listener, manager: parent, index });
                named("HTTP filter")
            }
            "configPatches" => {
                walk.carrier = Carrier::EnvoyFilter(item["patch"]["value"]["name"].as_str().unwrap_or_default());
                format!("patch {index} ({})", item["applyTo"].as_str().unwrap_or("of no kind"))
            }
            _ => String::new(),
        };
        walk.place = joined(&walk.place, &label);
        walk
    }
}

fn joined(place: &str, label: &str) -> String {
    match (place, label) {
        (place, "") => place.to_owned(),
        ("", label) => label.to_owned(),
        (place, label) => format!("{place}, {label}"),
    }
}

/// `EnvoyFilter istio-ingress/idempotency`; empty for a tree of Envoy's own.
pub fn kubernetes_name(tree: &Value) -> String {
    let part = |name: &str| tree["metadata"][name].as_str();
    match (tree["kind"].as_str(), part("namespace"), part("name")) {
        (Some(kind), Some(namespace), Some(name)) => format!("{kind} {namespace}/{name}"),
        (Some(kind), None, Some(name)) => format!("{kind} {name}"),
        (Some(kind), ..) => kind.to_owned(),
        (None, ..) => String::new(),
    }
}

/// The PluginConfig that stands at this node: under a Wasm filter's `typed_config`, or what Istio makes of a
/// WasmPlugin and Envoy Gateway of a module.
pub fn wasm_plugin(node: &Value) -> Option<Value> {
    if module_of_gateway(node) {
        return Some(plugin_of_gateway(node));
    }
    if node["kind"] == "WasmPlugin" {
        return Some(plugin_of_istio(&node["spec"]));
    }
    let (name, config) = typed(node)?;
    (name == "envoy.extensions.filters.http.wasm.v3.Wasm").then(|| config["config"].clone())
}

/// The type of a message and its fields; a TypedStruct stands for what it names.
pub fn typed(message: &Value) -> Option<(&str, &Value)> {
    let name = |member: &str| message[member].as_str().map(|url| url.rsplit('/').next().unwrap_or(url));
    match name("@type")? {
        "udpa.type.v1.TypedStruct" | "xds.type.v3.TypedStruct" => Some((name("type_url")?, &message["value"])),
        name => Some((name, message)),
    }
}

fn plugin_of_istio(spec: &Value) -> Value {
    let variables = spec["vmConfig"]["env"].as_array().map(Vec::as_slice).unwrap_or_default();
    let (hosted, given): (Vec<_>, Vec<_>) = variables.iter().partition(|variable| variable["valueFrom"] == "HOST");
    let hosted: Vec<_> = hosted.into_iter().map(|variable| &variable["name"]).collect();
    let given: serde_json::Map<_, _> =
        given.into_iter().filter_map(|it| Some((it["name"].as_str()?.to_owned(), it["value"].clone()))).collect();
    let mut plugin = json!({
        "root_id": spec["pluginName"],
        "failure_policy": spec["failStrategy"],
        "vm_config": {
            "environment_variables": { "host_env_keys": hosted, "key_values": given },
            "code": { "remote": { "http_uri": { "uri": spec["url"] } } },
        },
    });
    if let Some(config) = spec.get("pluginConfig") {
        plugin["configuration"] = json!({ "@type": "google.protobuf.Struct", "value": config });
    }
    plugin
}

/// Whether this is a module of an EnvoyExtensionPolicy.
fn module_of_gateway(node: &Value) -> bool {
    matches!(node["code"]["type"].as_str(), Some("HTTP" | "Image"))
}

fn plugin_of_gateway(module: &Value) -> Value {
    let code = &module["code"];
    let uri = if code["type"] == "HTTP" { &code["http"]["url"] } else { &code["image"]["url"] };
    let mut plugin = json!({
        "name": module["name"],
        "root_id": module["rootID"],
        "fail_open": module["failOpen"],
        "vm_config": {
            "environment_variables": { "host_env_keys": module["env"]["hostKeys"] },
            "code": { "remote": { "http_uri": { "uri": uri } } },
        },
    });
    if let Some(config) = module.get("config") {
        plugin["configuration"] = json!({ "@type": "google.protobuf.StringValue", "value": config.to_string() });
    }
    plugin
}

/// Whether this PluginConfig is the filter's.
pub fn is_ours(plugin: &Value) -> bool {
    let vm = &plugin["vm_config"];
    let code = &vm["code"];
    [&plugin["name"], &plugin["root_id"], &vm["vm_id"], &code["local"]["filename"], &code["remote"]["http_uri"]["uri"]]
        .into_iter()
        .any(|text| text.as_str().is_some_and(|text| text.contains("idempotency")))
}

/// The document in the form in which Envoy hands it over.
pub fn document(configuration: &Value) -> Result<String, String> {
    if configuration.is_null() {
        return Ok(String::new());
    }
    // Envoy refuses a message with a field that it does not know, and what such a field holds is often the document.
    let known = |name: &&String| !["@type", "type_url", "value"].contains(&name.as_str());
    if let Some(name) = configuration.as_object().and_then(|members| members.keys().find(known)) {
        return Err(format!("configuration/{name}: is not a known field; known here: @type, value"));
    }
    let value = &configuration["value"];
    match (typed(configuration).map(|(name, _)| name), value) {
        (Some("google.protobuf.StringValue"), Value::String(text)) => Ok(text.clone()),
        (Some("google.protobuf.StringValue"), Value::Null) => Ok(String::new()),
        (Some("google.protobuf.Struct"), Value::Object(_)) => Ok(with_doubles(value).to_string()),
        (Some("google.protobuf.Struct"), Value::Null) => Ok(String::new()),
        _ => Err("configuration: must be a google.protobuf.StringValue or a google.protobuf.Struct, whose value is a \
                  string or an object"
            .to_owned()),
    }
}

/// A Struct knows no other numbers.
fn with_doubles(value: &Value) -> Value {
    match value {
        Value::Number(number) => number.as_f64().map_or(Value::Null, Value::from),
        Value::Array(items) => items.iter().map(with_doubles).collect(),
        Value::Object(members) => members
            .iter()
            .map(|(name, value)| (name.clone(), with_doubles(value)))
            .collect::<serde_json::Map<_, _>>()
            .into(),
        other => other.clone(),
    }
}
