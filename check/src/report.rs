//! What the checker says about a file, place by place.
//!
//! Its one rule: every error and warning has the place in the file in front.
//! It does not judge anything.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::env;

use envoy_idempotency::config::{Config, Document};
use serde_json::{Map, Value};

use crate::credentials::{self, Findings};
use crate::input::Input;
use crate::keeper;
use crate::places::Found;
use crate::surroundings;
use crate::words::{self, Line};
use crate::world::list;

/// What was found in a file.
#[derive(Default)]
pub struct Verdict {
    /// The filter would not start, or would not protect what its rules say.
    pub has_errors: bool,
    /// Something around it breaks the promise, or may.
    pub has_warnings: bool,
}

/// The report, and what it found.
pub fn write(file: &str, found: &[Found<'_>], input: &Input) -> (String, Verdict) {
    let mut text = String::new();
    let mut verdict = Verdict::default();
    for found in found {
        let place = if found.place.is_empty() { file.to_owned() } else { format!("{file}: {}", found.place) };
        if !text.is_empty() {
            text.push('\n');
        }
        let (unset, kept_out) = (RefCell::default(), RefCell::default());
        let parsed = found.document.clone().and_then(|document| {
            let read = |name: &str| variable(found.plugin.as_ref(), name, &unset, &kept_out);
            let read = Document::parse(document.as_bytes(), &read).map_err(|error| error.to_string())?;
            Ok((read, serde_json::from_str(&document).unwrap_or_else(|_| Map::new().into())))
        });
        match parsed {
            Ok((Document::Framing, _)) => {
                text.push_str(&format!("{place}\n  takes gRPC frames off on the way to Redis\n"));
            }
            Ok((Document::Gateway(config), document)) => {
                text.push_str(&format!("{place}\n"));
                describe(&mut text, &config, &document);
                for name in unset.into_inner() {
                    text.push_str(&format!("Not set here, so its value was not checked: {name}\n"));
                }
                if !surroundings::is_placed(found) {
                    text.push_str(
                        "The file does not tell where the filter stands, so its surroundings were not checked.\n",
                    );
                }
                if let Some(advice) = keeper::advice(found, &config, input.trees()) {
                    text.push_str(&format!("{advice}\n"));
                }
                let around = surroundings::warnings(found, &config, input.trees());
                let Findings { errors, warnings } = credentials::findings(found, &config, &document, input.trees());
                // The filter loads what protects nothing; before it is loaded that is a mistake.
                let (grave, risky): (Vec<_>, Vec<_>) =
                    config.warnings.iter().partition(|warning| warning.ends_with(Config::PROTECTS_NOTHING));
                verdict.has_errors |= !errors.is_empty() || !grave.is_empty();
                verdict.has_warnings |= !risky.is_empty() || !around.is_empty() || !warnings.is_empty();
                for error in grave.into_iter().chain(&errors) {
                    text.push_str(&format!("{place}: error: {error}\n"));
                }
                for warning in risky.into_iter().chain(&around).chain(&warnings) {
                    text.push_str(&format!("{place}: warning: {warning}\n"));
                }
            }
            Err(why) => {
                verdict.has_errors = true;
                let names = Vec::from_iter(kept_out.into_inner()).join(", ");
                let remedy = match names.as_str() {
                    "" => String::new(),
                    names => format!("; let it in by vm_config.environment_variables.host_env_keys: [{names}]"),
                };
                text.push_str(&format!("{place}: error: {why}{remedy}\n"));
            }
        }
    }
    (text, verdict)
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

fn describe(text: &mut String, config: &Config, document: &Value) {
    lines(text, &words::store(config, document));
    for (index, rule) in config.rules.iter().enumerate() {
        text.push_str(&format!("Rule {}\n", rule.name));
        lines(text, &[words::requests(document["rules"].get(index))]);
        lines(text, &words::policy(&rule.policy));
    }
}

/// Labels in a column of their own, and words beside them.
fn lines(text: &mut String, lines: &[Line]) {
    for (label, said) in lines {
        let mut line = format!("  {label:<LABEL$}");
        for word in said.split(' ') {
            if line.chars().count() + word.chars().count() > WIDTH {
                text.push_str(line.trim_end());
                text.push('\n');
                line = " ".repeat(2 + LABEL);
            }
            line.push_str(word);
            line.push(' ');
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
}

/// Thirty-two bytes in base64, which is right wherever a variable may stand.
const SOME_KEY: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
const LABEL: usize = 17;
const WIDTH: usize = 100;
