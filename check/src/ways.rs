//! The ways that requests of a rule can take through a connection manager, and which filters run on each.
//!
//! Its one rule: what the file does not tell of a way is no reason to say that requests never take it.
//! It does not know what a filter does.

use envoy_idempotency::config::Template;
use serde_json::Value;

use crate::places::{Chain, typed};
use crate::world::list;

/// Which requests a rule is about, by host and path.
pub struct Wanted<'a> {
    hosts: Vec<&'a str>,
    path: WantedPath<'a>,
}

enum WantedPath<'a> {
    Any,
    Exact(&'a str),
    Prefix(&'a str),
    /// The text before the first segment that may be any.
    Template(&'a str, Option<Template>),
}

/// How the requests of a rule and those of a route meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meeting {
    /// Every request of the rule is one of the route.
    Always,
    Never,
    Perhaps,
}

impl<'a> Wanted<'a> {
    /// From `match` of a rule's document.
    pub fn of(matches: &'a Value) -> Self {
        let path = &matches["path"];
        let text = |kind: &str| path[kind].as_str();
        let path = match (text("exact"), text("prefix"), text("template")) {
            (Some(exact), ..) => WantedPath::Exact(exact),
            (_, Some(prefix), _) => WantedPath::Prefix(prefix),
            (.., Some(template)) => {
                let lead = template.split(['{', '*']).next().unwrap_or_default();
                WantedPath::Template(lead, Template::parse(template))
            }
            _ => WantedPath::Any,
        };
        Wanted { hosts: list(&matches["hosts"]).iter().filter_map(Value::as_str).collect(), path }
    }

    /// Whatever request there is.
    pub fn anything() -> Self {
        Wanted { hosts: Vec::new(), path: WantedPath::Any }
    }

    /// How it meets a RouteMatch.
    pub fn meets(&self, route: &Value) -> Meeting {
        // The filter lets gRPC and CONNECT pass.
        if route["grpc"].is_object() || route["connect_matcher"].is_object() {
            return Meeting::Never;
        }
        let is_open = OTHER_CONDITIONS.iter().all(|name| route[name].is_null()) && route["case_sensitive"] != false;
        let text = |kind: &str| route[kind].as_str();
        let by_path = match (text("prefix"), text("path"), text("path_separated_prefix")) {
            (Some(prefix), ..) => self.begins_with(prefix),
            (_, Some(path), _) => self.is(path),
            (.., Some(prefix)) => match (self.is(prefix), self.begins_with(&format!("{prefix}/"))) {
                (Meeting::Never, below) => below,
                (_, Meeting::Always) => Meeting::Always,
                (same, _) => same,
            },
            _ => Meeting::Perhaps,
        };
        match by_path {
            Meeting::Never if route["case_sensitive"] == false => Meeting::Perhaps,
            Meeting::Always if !is_open => Meeting::Perhaps,
            meeting => meeting,
        }
    }

    /// Whether all its paths begin so.
    pub fn begins_with(&self, prefix: &str) -> Meeting {
        let of = |lead: &str| match (lead.starts_with(prefix), prefix.starts_with(lead)) {
            (true, _) => Meeting::Always,
            (_, true) => Meeting::Perhaps,
            _ => Meeting::Never,
        };
        match self.path {
            WantedPath::Exact(path) if path.starts_with(prefix) => Meeting::Always,
            WantedPath::Exact(_) => Meeting::Never,
            WantedPath::Prefix(lead) | WantedPath::Template(lead, _) => of(lead),
            WantedPath::Any => of("/"),
        }
    }

    fn is(&self, path: &str) -> Meeting {
        let holds = match &self.path {
            WantedPath::Exact(exact) if *exact == path => return Meeting::Always,
            WantedPath::Exact(_) => false,
            WantedPath::Prefix(prefix) => path.starts_with(prefix),
            WantedPath::Template(_, template) => template.as_ref().is_none_or(|it| it.holds(path.as_bytes())),
            WantedPath::Any => true,
        };
        if holds { Meeting::Perhaps } else { Meeting::Never }
    }

    /// Whether one of its hosts may be one of these domains of a virtual host.
    fn has_domain(&self, domains: &[Value]) -> bool {
        let domains: Vec<_> = domains.iter().filter_map(Value::as_str).collect();
        self.hosts.is_empty()
            || domains.is_empty()
            || self.hosts.iter().any(|host| domains.iter().any(|domain| is_one_name(host, domain)))
    }
}

/// Whether a host of a rule and a domain of Envoy's, each perhaps with a star, can be one.
fn is_one_name(host: &str, domain: &str) -> bool {
    let [host, domain] = [host, domain].map(|name| without_port(name).to_ascii_lowercase());
    match (host.strip_prefix('*'), domain.strip_prefix('*')) {
        (Some(host), Some(domain)) => host.ends_with(domain) || domain.ends_with(host),
        (Some(end), None) => domain.ends_with('*') || domain.ends_with(end),
        (None, Some(end)) => host.ends_with(end),
        (None, None) => match domain.strip_suffix('*') {
            Some(start) => host.starts_with(start),
            None => host == domain,
        },
    }
}

fn without_port(name: &str) -> &str {
    match name.rsplit_once(':') {
        Some((host, port)) if port == "*" || port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => name,
    }
}

/// One way from a route to where it leads, or the one way of which the file does not tell.
pub struct Way<'a> {
    /// The most specific first, each with its place in words.
    pub layers: Vec<(String, &'a Value)>,
    /// The route; null where the file does not tell.
    pub route: &'a Value,
    /// Where it leads, where that is one cluster by its name.
    pub cluster: Option<&'a str>,
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
            found.push(Way { layers: above.to_vec(), route: &Value::Null, cluster: None });
        }
        for (index, route) in list(&host["routes"]).iter().enumerate() {
            let meeting = wanted.meets(&route["match"]);
            if meeting != Meeting::Never && route["route"].is_object() {
                let place = match route["name"].as_str() {
                    Some(name) => format!("route {name} of {host_place}"),
                    None => format!("route {index} of {host_place}"),
                };
                found.extend(through(route, &place, &above));
            }
            if meeting == Meeting::Always {
                break;
            }
        }
    }
    found
}

/// The ways of one route: one for each of its clusters.
fn through<'a>(route: &'a Value, place: &str, above: &[(String, &'a Value)]) -> Vec<Way<'a>> {
    let own = (place.to_owned(), route);
    let weighted = list(&route["route"]["weighted_clusters"]["clusters"]);
    if weighted.is_empty() {
        let layers = [&[own], above].concat();
        return vec![Way { layers, route, cluster: route["route"]["cluster"].as_str() }];
    }
    let each = weighted.iter().map(|entry| {
        let cluster = entry["name"].as_str();
        let first = (format!("cluster {} of {place}", cluster.unwrap_or("without a name")), entry);
        Way { layers: [&[first, own.clone()], above].concat(), route, cluster }
    });
    each.collect()
}

impl<'a> Way<'a> {
    /// The way of which the file does not tell.
    pub fn unknown() -> Self {
        Way { layers: Vec::new(), route: &Value::Null, cluster: None }
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

/// What a RouteMatch may ask for besides the path.
const OTHER_CONDITIONS: [&str; 7] =
    ["cookies", "dynamic_metadata", "filter_state", "headers", "query_parameters", "runtime_fraction", "tls_context"];

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
