//! Headers in which the file names identities, and at which a rule does not look.
//!
//! Its one rule: a header whose value hangs on what the rule reads anyway is none of them.
//! It does not know what is taken away from a request.

use envoy_idempotency::config::{MEANINGFUL, Part, Policy};
use serde_json::Value;

use crate::bootstrap::list;
use crate::deeds::{key_sources, of_way, password, written_by_service};
use crate::lint::{kind, name};
use crate::locate::{Chain, typed};
use crate::requirements::providers;
use crate::scope::{Enforced, Manner, Spot};
use crate::tokens;
use crate::told::rules_named;
use crate::ways::Way;

/// A header, and who names it: `which jwt_authn writes`.
type Named = (String, String);

/// The warning about a chain, one for all its rules that overlook the same headers.
pub fn of_chain(chain: Chain<'_>, rules: &[Enforced<'_>]) -> Vec<String> {
    told(rules, |rule| {
        let ways: Vec<_> = chain.ways(&rule.wanted).collect();
        let mut named = Vec::new();
        for way in &ways {
            for filter in chain.before() {
                if let Some(given) = way.given(filter) {
                    let here = given.first().map(|(_, config)| *config);
                    let written = written_by(filter, here, rule).into_iter();
                    named.extend(written.map(|header| (header, format!("which {} writes", name(filter)))));
                }
            }
        }
        named.extend(matched(&ways));
        named
    })
}

/// The warning about what the providers of these resources of Istio's write.
pub fn of_providers(providers: &[(String, Value)], rules: &[Enforced<'_>]) -> Vec<String> {
    told(rules, |rule| {
        let written = providers.iter().flat_map(|(by, provider)| {
            let headers = tokens::unread(provider, rule).into_iter();
            headers.map(move |header| (header.to_ascii_lowercase(), format!("which {by} writes")))
        });
        written.collect()
    })
}

fn told(rules: &[Enforced<'_>], named: impl Fn(&Enforced<'_>) -> Vec<Named>) -> Vec<String> {
    let mut found: Vec<(Vec<Named>, Vec<&str>)> = Vec::new();
    for rule in rules {
        let mut overlooked: Vec<Named> = Vec::new();
        for (header, by) in named(rule) {
            if !is_looked_at(&header, rule) && !overlooked.iter().any(|(known, _)| *known == header) {
                overlooked.push((header, by));
            }
        }
        match found.iter_mut().find(|(known, _)| *known == overlooked) {
            Some((_, names)) => names.push(rule.name),
            None => found.push((overlooked, vec![rule.name])),
        }
    }
    let told = found.into_iter().filter(|(overlooked, _)| !overlooked.is_empty()).map(|(overlooked, names)| {
        let each: Vec<_> = overlooked.iter().map(|(header, by)| format!("{header}, {by}")).collect();
        let parts: Vec<_> = overlooked.iter().map(|(header, _)| Spot::header(header).part()).collect();
        let do_not = if names.len() == 1 { "does not" } else { "do not" };
        format!(
            "{} {do_not} look at {}: two tenants with one credential and one key are one caller. Add {} to scope.caller \
             where it tells callers apart, or the name to fingerprint.headers where it tells requests apart",
            rules_named(&names),
            each.join(", nor at "),
            parts.join(" or ")
        )
    });
    told.collect()
}

/// Whether this rule looks at a header, in whatever way, or always meets it with one value.
fn is_looked_at(header: &str, rule: &Enforced<'_>) -> bool {
    let is_read = rule.readings.iter().any(|reading| match &reading.spot {
        Spot::Header(name) => name == header,
        Spot::Cookie(_) => header == "cookie",
        _ => false,
    });
    let is_fixed = list(rule.matched).iter().any(|wanted| {
        wanted["equals"].is_string() && wanted["name"].as_str().is_some_and(|name| name.eq_ignore_ascii_case(header))
    });
    is_read
        || is_fixed
        || rule.policy.fingerprint.headers.iter().any(|name| name == header)
        || MEANINGFUL.contains(&header)
        || NEUTRAL.contains(&header)
        || is_key(rule.policy, header)
}

fn is_key(policy: &Policy, header: &str) -> bool {
    fn reads(part: &Part, header: &str) -> bool {
        match part {
            Part::Any(parts) => parts.iter().any(|part| reads(part, header)),
            part => matches!(part, Part::Header(name) if name == header),
        }
    }
    policy.key.sources.iter().any(|part| reads(part, header))
}

/// The headers into which a filter in front writes who is asking, as far as the rule does not read what they hang on.
fn written_by(filter: &Value, here: Option<&Value>, rule: &Enforced<'_>) -> Vec<String> {
    let config = typed(&filter["typed_config"]).map_or(&Value::Null, |(_, config)| config);
    let reads = |spot: &Spot| rule.readings.iter().any(|it| it.manner == Manner::Raw && it.spot == *spot);
    let written: Vec<&str> = match kind(filter) {
        "api_key_auth" if key_sources(of_way(config, here, "key_sources")).any(|spot| reads(&spot)) => Vec::new(),
        "api_key_auth" => of_way(config, here, "forwarding")["header"].as_str().into_iter().collect(),
        "basic_auth" => {
            let is_read = reads(&password(config));
            config["forward_username_header"].as_str().filter(|_| !is_read).into_iter().collect()
        }
        "ext_authz" => written_by_service(config).collect(),
        "jwt_authn" => {
            let providers = providers(config, here, &rule.wanted).into_iter();
            providers.flat_map(|(_, provider)| tokens::unread(provider, rule)).collect()
        }
        _ => Vec::new(),
    };
    written.into_iter().filter(|header| !header.is_empty()).map(str::to_ascii_lowercase).collect()
}

/// The headers by which routes are chosen, but for those that are the same on each of these ways.
fn matched(ways: &[Way<'_>]) -> Vec<Named> {
    let mut named: Vec<Named> = Vec::new();
    for way in ways {
        let place = way.layers.iter().find(|(_, node)| std::ptr::eq(*node, way.route)).map_or("", |(place, _)| place);
        let headers = list(&way.route["match"]["headers"]).iter().filter_map(|wanted| wanted["name"].as_str());
        named.extend(headers.map(|header| (header.to_ascii_lowercase(), format!("by which {place} is chosen"))));
        let cluster = way.route["route"]["cluster_header"].as_str();
        named
            .extend(cluster.map(|header| (header.to_ascii_lowercase(), format!("by which {place} chooses a cluster"))));
    }
    let is_fixed = |header: &str| {
        let mut values = ways.iter().map(|way| exact(way, header));
        let first = values.next().flatten();
        first.is_some() && values.all(|value| value == first)
    };
    named.retain(|(header, _)| !header.starts_with(':') && !is_fixed(header));
    named
}

/// The one value that a header must have on this way.
fn exact<'a>(way: &Way<'a>, header: &str) -> Option<&'a str> {
    list(&way.route["match"]["headers"]).iter().find_map(|wanted| {
        let is_it = wanted["name"].as_str().is_some_and(|name| name.eq_ignore_ascii_case(header));
        let value = wanted["string_match"]["exact"].as_str().or_else(|| wanted["exact_match"].as_str());
        value.filter(|_| is_it && wanted["invert_match"] != true)
    })
}

/// Headers that are no identity whatever is chosen by them.
const NEUTRAL: [&str; 12] = [
    "accept",
    "accept-encoding",
    "accept-language",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "origin",
    "te",
    "upgrade",
    "user-agent",
    "x-forwarded-proto",
];
