//! What there is to say of each place in a file where the filter is configured.
//!
//! Its one rule: every error and warning is a sentence that stands alone, and a document that the filter would refuse is
//! not judged any further.
//! It does not know in which form it is shown.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::env;

use envoy_idempotency::config::{Config, Document};
use serde_json::{Map, Value};

use crate::bootstrap::list;
use crate::credentials::{self, Findings};
use crate::describe::{self, Line};
use crate::errors;
use crate::input::Input;
use crate::keeper;
use crate::lint;
use crate::locate::{Carrier, Found};
use crate::operators;
use crate::request::Given;
use crate::trace;

/// What there is to say of one place.
#[derive(Default)]
pub struct Report {
    /// The place, in words; empty for a document by itself.
    pub place: String,
    /// What the configuration does; none where the filter would refuse it.
    pub described: Option<Described>,
    /// What was not checked, and what could be better.
    pub notes: Vec<String>,
    /// Why the filter would not start, or would not protect what its rules say.
    pub errors: Vec<String>,
    /// What around it breaks the promise, or may.
    pub warnings: Vec<String>,
}

/// A configuration in words.
pub enum Described {
    /// The plugin that takes frames off on the way to Redis.
    Framing,
    /// The plugin that operators ask.
    Operator(Vec<Line>),
    /// A gateway.
    Gateway {
        /// What holds for all rules.
        store: Vec<Line>,
        /// Each rule by its name.
        rules: Vec<(String, Vec<Line>)>,
        /// What becomes of the request that was asked about.
        request: Option<(String, Vec<Line>)>,
    },
}

/// Judges one place.
pub fn judge(found: &Found<'_>, input: &Input, request: Option<&Given>) -> Report {
    let errors = Vec::from_iter(lint::carrier_error(found.carrier));
    let mut report = Report { place: found.place.clone(), errors, ..Report::default() };
    let (unset, kept_out) = (RefCell::default(), RefCell::default());
    let read = |name: &str| variable(found.plugin.as_ref(), name, &unset, &kept_out);
    let document = match &found.document {
        Ok(document) => document,
        Err(why) => {
            report.errors.push(why.clone());
            return report;
        }
    };
    let config = match Document::parse(document.as_bytes(), &read) {
        Ok(Document::Gateway(config)) => config,
        Ok(Document::Framing) => {
            report.described = Some(Described::Framing);
            return report;
        }
        Ok(Document::Operator(operator, config)) => {
            let document = serde_json::from_str(document).unwrap_or_else(|_| Map::new().into());
            report.described = Some(Described::Operator(operators::lines(&operator, &config, &document)));
            report.notes.extend(notes(unset.take()));
            report.warnings.extend(config.warnings.iter().cloned());
            report.warnings.extend(operators::warnings(found, input));
            return report;
        }
        Err(error) => {
            report.errors.extend(errors::all(document, &error, &read));
            let kept_out = kept_out.take();
            let tree: Value = serde_json::from_str(document).unwrap_or_default();
            for error in &mut report.errors {
                let named = error.split_once(": ").and_then(|(place, _)| tree.pointer(place)?.as_str());
                if let Some(name) = named.filter(|name| kept_out.contains(*name)) {
                    error.push_str(&format!("; let it in by {}", way_in(found.carrier, name)));
                }
            }
            return report;
        }
    };
    let document = serde_json::from_str(document).unwrap_or_else(|_| Map::new().into());
    report.described = Some(described(&config, &document, request));
    report.notes.extend(notes(unset.take()));
    if !lint::is_placed(found) {
        report
            .notes
            .push("The file does not tell where the filter stands, so its surroundings were not checked.".to_owned());
    }
    report.notes.extend(keeper::advice(found, &config, input.trees()).map(str::to_owned));
    let around = lint::warnings(found, &config, input.trees());
    let Findings { errors, warnings } = credentials::findings(found, &config, &document, input.trees());
    // The filter loads what protects nothing; before it is loaded that is a mistake.
    let (grave, risky): (Vec<_>, Vec<_>) =
        config.warnings.into_iter().partition(|warning| warning.ends_with(Config::PROTECTS_NOTHING));
    report.errors.extend(grave.into_iter().chain(errors));
    report.warnings.extend(risky.into_iter().chain(around).chain(warnings));
    report
}

fn notes(unset: BTreeSet<String>) -> impl Iterator<Item = String> {
    unset.into_iter().map(|name| format!("Not set here, so its value was not checked: {name}"))
}

fn described(config: &Config, document: &Value, request: Option<&Given>) -> Described {
    let rules = config.rules.iter().enumerate().map(|(index, rule)| {
        let requests = describe::requests(document["rules"].get(index));
        let wider = config.hidden_by(index).and_then(|wider| config.rules.get(wider));
        let hidden = wider.map(|wider| ("reached", format!("never: rule {} takes all of them before it", wider.name)));
        let lines = [Some(requests), hidden].into_iter().flatten().chain(rule.policy.lines());
        (rule.name.clone(), lines.collect())
    });
    Described::Gateway {
        store: describe::store(config, document),
        rules: rules.collect(),
        request: request.map(|given| (given.line.clone(), trace::lines(config, given))),
    }
}

/// A variable of the VM's environment. What this machine does not have is taken as right, because it is there on the
/// gateway; what the plugin does not let in is not there, as on the gateway.
fn variable(
    plugin: Option<&Value>,
    name: &str,
    unset: &RefCell<BTreeSet<String>>,
    kept_out: &RefCell<BTreeSet<String>>,
) -> Option<String> {
    if let Some(plugin) = plugin {
        let variables = &plugin["vm_config"]["environment_variables"];
        if let Some(value) = variables["key_values"][name].as_str() {
            return Some(value.to_owned());
        }
        if !list(&variables["host_env_keys"]).iter().any(|key| key == name) {
            kept_out.borrow_mut().insert(name.to_owned());
            return None;
        }
    }
    env::var(name).ok().or_else(|| {
        unset.borrow_mut().insert(name.to_owned());
        Some(SOME_KEY.to_owned())
    })
}

/// The setting that lets a variable of this name into the VM.
fn way_in(carrier: Carrier<'_>, name: &str) -> String {
    match carrier {
        Carrier::ExtensionPolicy(_) => format!("env.hostKeys: [{name}]"),
        Carrier::WasmPlugin(_) => format!("vmConfig.env: [{{ name: {name}, valueFrom: HOST }}]"),
        _ => format!("vm_config.environment_variables.host_env_keys: [{name}]"),
    }
}

/// Thirty-two bytes in base64, which is right wherever a variable may stand.
pub const SOME_KEY: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
