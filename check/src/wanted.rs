//! Which requests a rule is about, and how they meet those that something of Envoy's is about.
//!
//! Its one rule: a condition that is not understood may hold or not.
//! It does not know ways or filters.

use envoy_idempotency::config::Template;
use serde_json::Value;

use crate::bootstrap::list;

/// Which requests a rule is about, by method, host and path.
#[derive(Clone)]
pub struct Wanted<'a> {
    /// None where they may be any.
    methods: Option<Vec<&'a str>>,
    hosts: Vec<&'a str>,
    path: WantedPath<'a>,
    /// RouteMatches whose requests are none of these.
    others: Vec<&'a Value>,
}

#[derive(Clone)]
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
        let methods = list(&matches["methods"]).iter().filter_map(Value::as_str).collect::<Vec<_>>();
        let methods = Some(if methods.is_empty() { DEFAULT_METHODS.to_vec() } else { methods });
        let hosts = list(&matches["hosts"]).iter().filter_map(Value::as_str).collect();
        Wanted { methods, hosts, path, others: Vec::new() }
    }

    /// Whatever request there is.
    pub fn anything() -> Self {
        Wanted { methods: None, hosts: Vec::new(), path: WantedPath::Any, others: Vec::new() }
    }

    /// How it meets a RouteMatch.
    pub fn meets(&self, route: &'a Value) -> Meeting {
        // The filter lets gRPC and CONNECT pass.
        if route["grpc"].is_object() || route["connect_matcher"].is_object() {
            return Meeting::Never;
        }
        let by_headers = self.meets_headers(list(&route["headers"]));
        let is_open = OTHER_CONDITIONS.iter().all(|name| route[name].is_null())
            && by_headers == Meeting::Always
            && route["case_sensitive"] != false;
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
            _ if by_headers == Meeting::Never => Meeting::Never,
            Meeting::Never if route["case_sensitive"] == false => Meeting::Perhaps,
            Meeting::Always if !is_open => Meeting::Perhaps,
            Meeting::Perhaps if self.is_of_others(route) => Meeting::Never,
            meeting => meeting,
        }
    }

    /// Whether all that a RouteMatch takes of it is none of it.
    fn is_of_others(&self, route: &'a Value) -> bool {
        let both = Wanted { others: Vec::new(), ..self.within(route) };
        self.others.iter().any(|other| both.meets(other) == Meeting::Always)
    }

    /// Those of them that a RouteMatch takes, as far as its path says.
    pub fn within(&self, route: &'a Value) -> Wanted<'a> {
        let text = |kind: &str| route[kind].as_str().filter(|_| route["case_sensitive"] != false);
        let path = match (text("path"), text("prefix").or_else(|| text("path_separated_prefix"))) {
            (Some(path), _) if self.is(path) != Meeting::Never => WantedPath::Exact(path),
            (_, Some(prefix)) if self.begins_with(prefix) == Meeting::Perhaps => WantedPath::Prefix(prefix),
            _ => self.path.clone(),
        };
        Wanted { path, ..self.clone() }
    }

    /// Those of them that none of these RouteMatches takes.
    pub fn without(mut self, others: &[&'a Value]) -> Wanted<'a> {
        self.others.extend(others);
        self
    }

    /// How it meets header conditions, of which only those on the method are known to hold or not to.
    fn meets_headers(&self, headers: &[Value]) -> Meeting {
        let each: Vec<_> = headers.iter().map(|header| self.meets_header(header)).collect();
        match each.iter().find(|meeting| **meeting == Meeting::Never) {
            Some(never) => *never,
            None => each.into_iter().find(|meeting| *meeting == Meeting::Perhaps).unwrap_or(Meeting::Always),
        }
    }

    fn meets_header(&self, header: &Value) -> Meeting {
        let Some(methods) = self.methods.as_ref().filter(|_| header["name"] == ":method") else {
            return Meeting::Perhaps;
        };
        let mut named = methods.clone();
        if methods.contains(&"*") {
            named.retain(|name| *name != "*");
            named.extend(UNSAFE);
            // One that is not as common is meant too.
            let exact = header["string_match"]["exact"].as_str().or_else(|| header["exact_match"].as_str());
            named.extend(exact.filter(|name| !SAFE.contains(name)));
        }
        let holds: Option<Vec<_>> = named.into_iter().map(|method| holds(header, method)).collect();
        match holds {
            Some(holds) if holds.iter().all(|holds| *holds) => Meeting::Always,
            Some(holds) if holds.iter().all(|holds| !holds) => Meeting::Never,
            _ => Meeting::Perhaps,
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
    pub fn has_domain(&self, domains: &[Value]) -> bool {
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

/// Whether a HeaderMatcher takes this method; none where that is not told here.
fn holds(header: &Value, method: &str) -> Option<bool> {
    let matcher = &header["string_match"];
    let text = |member: &str| matcher[member].as_str();
    let same = |wanted: &str| match matcher["ignore_case"] == true {
        true => wanted.eq_ignore_ascii_case(method),
        false => wanted == method,
    };
    let pattern = matcher["safe_regex"]["regex"].as_str().or_else(|| header["safe_regex_match"]["regex"].as_str());
    let holds = if let Some(exact) = text("exact").or_else(|| header["exact_match"].as_str()) {
        same(exact)
    } else if let Some(prefix) = text("prefix").filter(|_| matcher["ignore_case"] != true) {
        method.starts_with(prefix)
    } else if let Some(pattern) = pattern {
        names(pattern)?.any(|name| name == method)
    } else {
        return None;
    };
    Some(holds != (header["invert_match"] == true))
}

/// The words of an expression such as `^(GET|HEAD)$`.
fn names(pattern: &str) -> Option<impl Iterator<Item = &str>> {
    let bare = pattern.trim_start_matches('^').trim_end_matches('$');
    let bare = bare.strip_prefix('(').and_then(|bare| bare.strip_suffix(')')).unwrap_or(bare);
    bare.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'|').then(|| bare.split('|'))
}

/// Of a rule that names none.
const DEFAULT_METHODS: [&str; 2] = ["POST", "PATCH"];
const UNSAFE: [&str; 4] = ["DELETE", "PATCH", "POST", "PUT"];
const SAFE: [&str; 5] = ["CONNECT", "GET", "HEAD", "OPTIONS", "TRACE"];

/// What a RouteMatch may ask for besides path and headers.
const OTHER_CONDITIONS: [&str; 6] =
    ["cookies", "dynamic_metadata", "filter_state", "query_parameters", "runtime_fraction", "tls_context"];
