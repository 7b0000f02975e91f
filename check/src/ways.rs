//! The ways that requests of a rule can take through a connection manager, and which filters run on each.
//!
//! Its one rule: what the file does not tell of a way is no reason to say that requests never take it.
//! It does not know what a filter does.

use serde_json::Value;

use crate::bootstrap::list;
use crate::locate::{Chain, typed};
use crate::wanted::{Meeting, Wanted};

/// One way from a route to where it leads, or the one way of which the file does not tell.
pub struct Way<'a> {
    /// The most specific first, each with its place in words.
    pub layers: Vec<(String, &'a Value)>,
    /// The route; null where the file does not tell.
    pub route: &'a Value,
    /// Where it leads, where that is one cluster by its name.
    pub cluster: Option<&'a str>,
    /// What the routes take that are tried before this one.
    earlier: Vec<&'a Value>,
}

/// Every way of this rule through this connection manager.
pub fn ways<'a>(manager: &'a Value, wanted: &Wanted<'_>) -> Vec<Way<'a>> {
    let table = &manager["route_config"];
    if !table.is_object() || !table["vhds"].is_null() {
        return vec![Way::unknown()];
    }
    let mut found = Vec::new();
    for host in list(&table["virtual_hosts"]) {
        if !wanted.has_domain(list(&host["domains"])) {
            continue;
        }
        let host_place = format!("virtual host {}", host["name"].as_str().unwrap_or("without a name"));
        let above = [(host_place.clone(), host), ("route_config".to_owned(), table)];
        if !host["matcher"].is_null() {
            found.push(Way { layers: above.to_vec(), ..Way::unknown() });
        }
        let mut earlier = Vec::new();
        for (index, route) in list(&host["routes"]).iter().enumerate() {
            let meeting = wanted.meets(&route["match"]);
            if meeting != Meeting::Never && route["route"].is_object() {
                let place = match route["name"].as_str() {
                    Some(name) => format!("route {name} of {host_place}"),
                    None => format!("route {index} of {host_place}"),
                };
                found.extend(through(route, &place, &above, &earlier));
            }
            if meeting == Meeting::Always {
                break;
            }
            earlier.push(&route["match"]);
        }
    }
    found
}

/// The ways of one route: one for each of its clusters.
fn through<'a>(route: &'a Value, place: &str, above: &[(String, &'a Value)], earlier: &[&'a Value]) -> Vec<Way<'a>> {
    let own = (place.to_owned(), route);
    let weighted = list(&route["route"]["weighted_clusters"]["clusters"]);
    if weighted.is_empty() {
        let layers = [&[own], above].concat();
        return vec![Way { layers, route, cluster: route["route"]["cluster"].as_str(), earlier: earlier.to_vec() }];
    }
    let each = weighted.iter().map(|entry| {
        let cluster = entry["name"].as_str();
        let first = (format!("cluster {} of {place}", cluster.unwrap_or("without a name")), entry);
        Way { layers: [&[first, own.clone()], above].concat(), route, cluster, earlier: earlier.to_vec() }
    });
    each.collect()
}

impl<'a> Way<'a> {
    /// The way of which the file does not tell.
    pub fn unknown() -> Self {
        Way { layers: Vec::new(), route: &Value::Null, cluster: None, earlier: Vec::new() }
    }

    /// Its most specific layer in words; none of a way of which the file does not tell.
    pub fn place(&self) -> Option<&str> {
        self.layers.first().map(|(place, _)| place.as_str())
    }

    /// The requests of a rule that take this way.
    pub fn taken_by<'w>(&self, wanted: &Wanted<'w>) -> Wanted<'w>
    where
        'a: 'w,
    {
        wanted.within(&self.route["match"]).without(&self.earlier)
    }

    /// Whether what it leads on, after any rewriting, may be a request that this rule is about.
    pub fn leads_on(&self, wanted: &Wanted<'_>) -> bool {
        let domains = self.layers.iter().find_map(|(_, node)| node["domains"].as_array());
        self.is_rewritten()
            || (wanted.meets(&self.route["match"]) != Meeting::Never
                && domains.is_none_or(|domains| wanted.has_domain(domains)))
    }

    /// Whether it leads on other paths or hosts than it takes.
    pub fn is_rewritten(&self) -> bool {
        REWRITES.iter().any(|name| !self.route["route"][name].is_null())
    }

    /// What this filter is given by the layers of this way, the most specific first; nothing where it does not run.
    pub fn given<'w>(&'w self, filter: &Value) -> Option<Vec<(&'w str, &'a Value)>> {
        let name = filter["name"].as_str().unwrap_or_default();
        let mut is_off = None;
        let mut given = Vec::new();
        for (place, node) in &self.layers {
            let Some(here) = node["typed_per_filter_config"].get(name) else { continue };
            let (kind, config) = typed(here).unwrap_or(("", here));
            is_off.get_or_insert(config["disabled"] == true);
            let config = if kind == "envoy.config.route.v3.FilterConfig" { &config["config"] } else { here };
            given.extend(typed(config).map(|(_, config)| (place.as_str(), config)));
        }
        (!is_off.unwrap_or(filter["disabled"] == true)).then_some(given)
    }
}

/// What a RouteAction may make of a path and a host.
const REWRITES: [&str; 9] = [
    "auto_host_rewrite",
    "host_rewrite",
    "host_rewrite_header",
    "host_rewrite_literal",
    "host_rewrite_path_regex",
    "path_rewrite",
    "path_rewrite_policy",
    "prefix_rewrite",
    "regex_rewrite",
];

impl<'a> Chain<'a> {
    /// The filters before this one.
    pub fn before(&self) -> &'a [Value] {
        list(&self.manager["http_filters"]).get(..self.index).unwrap_or_default()
    }

    /// The ways on which the filter itself meets requests of this rule.
    pub fn ways(&self, wanted: &Wanted<'_>) -> impl Iterator<Item = Way<'a>> + use<'a> {
        let own = list(&self.manager["http_filters"]).get(self.index);
        ways(self.manager, wanted).into_iter().filter(move |way| own.is_none_or(|own| way.given(own).is_some()))
    }
}
