//! Whether the filter runs where its rules say, and runs there only once.
//!
//! Its one rule: what routes that are not in the file say is not guessed at.
//! It does not know what a rule reads.

use serde_json::Value;

use crate::bootstrap::{Bootstrap, collect, list};
use crate::describe::all;
use crate::lint::name;
use crate::locate::{self, Chain, is_ours, wasm_plugin};
use crate::scope::Enforced;
use crate::told::rules_named;
use crate::wanted::{Meeting, Wanted};
use crate::ways::ways;

/// The errors that it never runs, or twice on one way.
pub fn errors(chain: Chain<'_>, rules: &[Enforced<'_>], bootstrap: &Bootstrap<'_>) -> Vec<String> {
    let Some(own) = list(&chain.manager["http_filters"]).get(chain.index) else { return Vec::new() };
    let mut errors = Vec::new();
    if never_runs(chain, own) {
        errors.push(format!("{} is disabled, and no route enables it: it never runs", name(own)));
    }
    errors.extend(twice_here(chain, own, rules));
    errors.extend(behind_another(chain, own, rules, bootstrap));
    errors
}

/// Whether it is disabled, and no route turns it on; the file must have all routes.
fn never_runs(chain: Chain<'_>, own: &Value) -> bool {
    let table = &chain.manager["route_config"];
    let has_all_routes = table.is_object() && table["vhds"].is_null();
    own["disabled"] == true && has_all_routes && chain.ways(&Wanted::anything()).next().is_none()
}

/// The warnings that it does not run on routes that rules are about.
pub fn warnings(chain: Chain<'_>, rules: &[Enforced<'_>]) -> Vec<String> {
    let Some(own) = list(&chain.manager["http_filters"]).get(chain.index) else { return Vec::new() };
    let mut found = Vec::new();
    for rule in rules {
        // Where it is disabled and turned on by routes, one that does not turn it on is meant so.
        if own["disabled"] == true && (chain.ways(&rule.wanted).next().is_some() || never_runs(chain, own)) {
            continue;
        }
        let off = ways(chain.manager, &rule.wanted).into_iter().filter(|way| way.given(own).is_none());
        let mut places: Vec<String> = Vec::new();
        for place in off.filter_map(|way| way.place().map(str::to_owned)) {
            if !places.contains(&place) {
                places.push(place);
            }
        }
        if !places.is_empty() {
            crate::told::say(&mut found, places, rule.name);
        }
    }
    let told = found.into_iter().map(|(places, names)| {
        format!(
            "{} is disabled on {}, and {} {} about requests that go there: they are not protected",
            name(own),
            all(&places),
            rules_named(&names),
            if names.len() == 1 { "is" } else { "are" }
        )
    });
    told.collect()
}

/// `vm_id` and name of a plugin of this filter: those that have the same share their records.
fn identity(filter: &Value) -> Option<(Value, Value)> {
    let plugin = wasm_plugin(&filter["typed_config"]).filter(is_ours)?;
    Some((plugin["vm_config"]["vm_id"].clone(), plugin["name"].clone()))
}

fn said_of((vm, plugin): &(Value, Value)) -> String {
    let text = |value: &Value| value.as_str().filter(|it| !it.is_empty()).unwrap_or("not set").to_owned();
    format!("vm_id ({}) and plugin name ({})", text(vm), text(plugin))
}

fn twice_here(chain: Chain<'_>, own: &Value, rules: &[Enforced<'_>]) -> Option<String> {
    let identity_here = identity(own)?;
    let other = chain.before().iter().find(|other| {
        let mut ways = rules.iter().flat_map(|rule| chain.ways(&rule.wanted).map(move |way| (rule, way)));
        identity(other).as_ref() == Some(&identity_here)
            && ways.any(|(rule, way)| way.given(other).is_some() && shares(other, rule))
    })?;
    Some(format!(
        "HTTP filters {} and {} of this chain are both this filter, with the same {}: what the first lets through is a \
         duplicate to the second; take one out",
        name(other),
        name(own),
        said_of(&identity_here)
    ))
}

fn behind_another(chain: Chain<'_>, own: &Value, rules: &[Enforced<'_>], bootstrap: &Bootstrap<'_>) -> Vec<String> {
    let (Some(identity_here), Some(here)) = (identity(own), chain.listener) else { return Vec::new() };
    let mut errors: Vec<String> = Vec::new();
    for listener in bootstrap.listeners.iter().filter(|listener| !std::ptr::eq(**listener, here)) {
        let mut managers = Vec::new();
        collect(listener, &|node| node["http_filters"].is_array(), &mut managers);
        for manager in managers {
            let filters = list(&manager["http_filters"]).iter();
            let same: Vec<_> = filters.filter(|filter| identity(filter).as_ref() == Some(&identity_here)).collect();
            for way in ways(manager, &Wanted::anything()) {
                let leads = |name: &&str| {
                    bootstrap
                        .cluster(name)
                        .is_some_and(|it| bootstrap.leads_to(it).iter().any(|to| std::ptr::eq(*to, here)))
                };
                let Some(cluster) = way.cluster.filter(leads) else { continue };
                let does = |filter: &&&Value| {
                    let meets = |rule: &Enforced<'_>| {
                        way.leads_on(&rule.wanted) && (way.is_rewritten() || shares(filter, rule))
                    };
                    way.given(filter).is_some() && rules.iter().any(meets)
                };
                let error = same.iter().find(does).map(|other| {
                    format!(
                        "listener {}, which leads here by cluster {cluster}, runs this filter too (HTTP filter {}), as does \
                         listener {}, with the same {}: what the first lets through is a duplicate to the second; take one \
                         out, or give them names of their own",
                        name(listener),
                        name(other),
                        name(here),
                        said_of(&identity_here)
                    )
                });
                errors.extend(error.filter(|error| !errors.contains(error)));
            }
        }
    }
    errors
}

/// Whether another of this filter has a rule in force about requests of this one.
fn shares(other: &Value, rule: &Enforced<'_>) -> bool {
    let configuration = wasm_plugin(&other["typed_config"]).map(|plugin| plugin["configuration"].clone());
    let text = configuration.and_then(|it| locate::document(&it).ok()).unwrap_or_default();
    let document: Value = serde_json::from_str(&text).unwrap_or_default();
    let everywhere = [Value::Null];
    let rules = if document["rules"].is_array() { list(&document["rules"]) } else { &everywhere[..] };
    rules.iter().any(|other| {
        let mode = [&other["policy"]["mode"], &document["policy"]["mode"]].into_iter().find(|mode| !mode.is_null());
        let path = &other["match"]["path"];
        let lead = path["template"].as_str().and_then(|template| template.split(['{', '*']).next());
        let route = match (&path["exact"], &path["prefix"], lead) {
            (Value::String(path), ..) => serde_json::json!({ "path": path }),
            (_, Value::String(prefix), _) => serde_json::json!({ "prefix": prefix }),
            (.., lead) => serde_json::json!({ "prefix": lead.unwrap_or("/") }),
        };
        mode.is_none_or(|mode| mode == "enforce") && rule.wanted.clone().meets(&route) != Meeting::Never
    })
}
