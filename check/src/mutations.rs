//! What header mutations, and the connection manager itself, do to the places that scopes read.
//!
//! Its one rule: they are taken in the order in which Envoy takes them, so what is removed and written again is there.
//! It does not know who reads a header.

use serde_json::Value;

use crate::bootstrap::list;
use crate::certificates;
use crate::deeds::{Act, Deed, Target};
use crate::locate::typed;
use crate::scope::Spot;
use crate::ways::Way;

/// What the filter `header_mutation` does, by its own configuration and by that of routes, the most specific first.
pub fn of_filter(by: &str, config: &Value, given: &[(&str, &Value)]) -> Vec<Act> {
    let mut acts = of_mutations(by, &config["mutations"]);
    let on_routes = given.iter().map(|(place, config)| {
        of_mutations(&format!("{by} (typed_per_filter_config of {place})"), &config["mutations"])
    });
    match config["most_specific_header_mutations_wins"] == true {
        true => acts.extend(on_routes.rev().flatten()),
        false => acts.extend(on_routes.flatten()),
    }
    acts
}

fn of_mutations(by: &str, mutations: &Value) -> Vec<Act> {
    let headers = list(&mutations["request_mutations"]).iter().filter_map(|it| of_header(by, it, "request_mutations"));
    let parameters = list(&mutations["query_parameter_mutations"]).iter().filter_map(|it| {
        let query = |name: &str| Spot::Query(name.to_owned());
        match it["remove"].as_str().filter(|name| !name.is_empty()) {
            Some(name) => Some(taken(by, query(name), "query_parameter_mutations", name)),
            None => Some(Act::of(Deed::Writes, query(it["append"]["record"]["key"].as_str()?), by)),
        }
    });
    headers.chain(parameters).collect()
}

fn taken(by: &str, spot: Spot, list: &str, name: &str) -> Act {
    Act { mend: take_out(&format!("`remove: {name}`"), list), ..Act::of(Deed::Removes, spot, by) }
}

fn take_out(line: &str, list: &str) -> String {
    format!("take {line} out of {list}, or let scope.caller read what tells callers apart behind it")
}

/// What one HeaderMutation of this list does.
fn of_header(by: &str, mutation: &Value, list: &str) -> Option<Act> {
    if let Some(name) = mutation["remove"].as_str().filter(|name| !name.is_empty()) {
        return Some(taken(by, Spot::header(name), list, name));
    }
    let matcher = &mutation["remove_on_match"]["key_matcher"];
    if matcher.is_object() {
        let removed = taken(by, Spot::header(""), list, "");
        let mend = take_out("that remove_on_match", list);
        return Some(Act {
            target: Target::Matching(matcher.clone()),
            mend,
            how: " (remove_on_match)".into(),
            ..removed
        });
    }
    of_option(by, &mutation["append"], list)
}

/// What one HeaderValueOption of this list does. A value with a command of Envoy's formatter is another in each request.
fn of_option(by: &str, option: &Value, list: &str) -> Option<Act> {
    let header = &option["header"];
    let (key, value) = (header["key"].as_str()?, header["value"].as_str().unwrap_or_default());
    let is_raw = !header["raw_value"].is_null();
    // It is not written at all.
    if value.is_empty() && !is_raw && option["keep_empty_value"] != true {
        return None;
    }
    let overwrites = match option["append_action"].as_str() {
        Some(action) => action.starts_with("OVERWRITE_IF_EXISTS"),
        None => option["append"] == false,
    };
    let deed = match overwrites {
        _ if value.contains('%') => Deed::Writes,
        true => Deed::WritesOneForAll,
        false => Deed::AddsOneForAll,
    };
    Some(Act { mend: take_out(&format!("{key}: \"…\""), list), ..Act::of(deed, Spot::header(key), by) })
}

/// What a connection manager of this listener does before its first filter.
pub fn of_manager(listener: Option<&Value>, manager: &Value) -> Vec<Act> {
    const EARLY: &str = "early_header_mutation_extensions";
    let shown = certificates::shown(listener, manager);
    let mut acts: Vec<_> = certificates::of_manager(manager, shown).into_iter().collect();
    for extension in list(&manager[EARLY]) {
        let mutations = typed(&extension["typed_config"]).map_or(&Value::Null, |(_, config)| &config["mutations"]);
        acts.extend(list(mutations).iter().filter_map(|it| of_header("the connection manager", it, EARLY)));
    }
    acts
}

/// What the router does to the request it sends on this way.
pub fn of_router(way: &Way<'_>, table: &Value) -> Vec<Act> {
    let of_layer = |(place, node): &(String, &Value)| {
        let names = list(&node["request_headers_to_remove"]).iter().filter_map(Value::as_str);
        let removed = names.map(|name| Act {
            how: " (request_headers_to_remove)".to_owned(),
            mend: format!("take {name} out of that list"),
            ..Act::of(Deed::Removes, Spot::header(name), place)
        });
        // In one layer Envoy removes before it adds.
        let added = list(&node["request_headers_to_add"]).iter();
        let added = added.filter_map(|option| of_option(place, option, "request_headers_to_add"));
        removed.chain(added).collect::<Vec<_>>()
    };
    match table["most_specific_header_mutations_wins"] == true {
        true => way.layers.iter().rev().flat_map(of_layer).collect(),
        false => way.layers.iter().flat_map(of_layer).collect(),
    }
}

/// Whether a StringMatcher takes this name; an expression is not tried.
pub fn fits(matcher: &Value, name: &str) -> bool {
    let wanted = |member: &str| {
        let text = matcher[member].as_str()?;
        Some(if matcher["ignore_case"] == true { text.to_ascii_lowercase() } else { text.to_owned() })
    };
    wanted("exact").is_some_and(|text| name == text)
        || wanted("prefix").is_some_and(|text| name.starts_with(&text))
        || wanted("suffix").is_some_and(|text| name.ends_with(&text))
        || wanted("contains").is_some_and(|text| name.contains(&text))
}
