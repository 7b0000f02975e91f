//! Properties below `metadata.filter_metadata` that no filter in front writes.
//!
//! Its one rule: only of filters whose configuration names what they write is it said that they do not write it.
//! It does not know what else tells a caller.

use serde_json::Value;

use crate::bootstrap::list;
use crate::lint::{kind, name};
use crate::locate::{Chain, typed};
use crate::requirements::{Provider, reads_bearer, sources};
use crate::scope::{Enforced, Manner, Reading, Spot};
use crate::tokens::{NAMESPACE, claims, payload_header};
use crate::told::{named, rules_named, say};

/// The warnings that a provider writes nothing of what a rule reads of the filter's metadata. `asked` gives the providers
/// on each way of a rule.
pub fn of_providers<'a>(
    rules: &[Enforced<'_>],
    asked: impl Fn(&Enforced<'_>) -> Vec<Vec<Provider<'a>>>,
) -> Vec<String> {
    let mut found = Vec::new();
    for rule in rules {
        let of_filter = |reading: &&Reading| matches!(&reading.spot, Spot::Metadata(path) if path[..].starts_with(&[NAMESPACE.to_owned()]));
        let Some(reading) = rule.readings.iter().find(of_filter) else { continue };
        for way in asked(rule) {
            let lacking: Vec<_> =
                way.iter().filter(|it| !rule.readings.iter().any(|read| is_of(read, it.value))).collect();
            let Some(first) = lacking.first() else { continue };
            let names: Vec<_> = lacking.iter().map(|provider| provider.name).collect();
            let whom = named(if first.is_istio { "issuer" } else { "provider" }, &names);
            say(&mut found, lack(reading, first, &whom, [names.len() == 1, names.len() == way.len()]), rule.name);
        }
    }
    let told = found.into_iter().map(|([reads, mend], names)| {
        format!("scope.caller of {} reads {reads}: such callers are not told apart; {mend}", rules_named(&names))
    });
    told.collect()
}

/// What is read and not written, and what mends it.
fn lack(reading: &Reading, provider: &Provider<'_>, whom: &str, [is_one, is_all]: [bool; 2]) -> [String; 2] {
    let path = match &reading.spot {
        Spot::Metadata(path) => path.as_slice(),
        _ => &[],
    };
    let wanted = path.get(1).map(String::as_str).unwrap_or_default();
    let own = provider.value["payload_in_metadata"].as_str().filter(|key| !key.is_empty());
    let do_not = if is_one { "does not" } else { "do not" };
    let instead = own.map(|own| {
        let mut path = path.to_vec();
        path.get_mut(1).into_iter().for_each(|key| *key = own.to_owned());
        Spot::Metadata(path).part()
    });
    let set = format!("set `payload_in_metadata: {wanted}` in {whom}");
    let mend = match instead {
        Some(part) if provider.is_istio => format!("read {part}"),
        Some(part) if is_all => format!("{set}, or read {part} instead"),
        Some(part) => format!("{set}, or read {part} too"),
        None => set,
    };
    let is = own.map_or_else(|| "is not set".to_owned(), |own| format!("is {own}"));
    let how = if provider.is_istio { String::new() } else { format!(" (payload_in_metadata {is})") };
    [format!("{}, which {whom} of {} {do_not} write{how}", reading.spot.words(), provider.by), mend]
}

/// Whether this reads something of a token of this provider.
fn is_of(reading: &Reading, provider: &Value) -> bool {
    match (&reading.spot, reading.manner) {
        (_, Manner::Claim) => provider["forward"] == true && reads_bearer(provider),
        (Spot::Metadata(path), _) => {
            let written =
                ["payload_in_metadata", "header_in_metadata"].map(|it| provider[it].as_str().unwrap_or_default());
            match path.as_slice() {
                [filter] => filter == NAMESPACE,
                [filter, key, ..] => filter == NAMESPACE && !key.is_empty() && written.contains(&key.as_str()),
                [] => false,
            }
        }
        (Spot::Header(read), _) => {
            let mut written = claims(provider).map(|(header, _)| header).chain(payload_header(provider));
            written.any(|header| header.eq_ignore_ascii_case(read))
                || (provider["forward"] == true && sources(provider).contains(&reading.spot))
        }
        (spot @ Spot::Query(_), _) => provider["forward"] == true && sources(provider).contains(spot),
        (spot @ Spot::Cookie(_), _) => sources(provider).contains(spot),
    }
}

/// The warnings that a name in a property is none that Envoy, or a filter in front, has.
pub fn of_names(chain: Chain<'_>, rules: &[Enforced<'_>]) -> Vec<String> {
    let known = namespaces(chain);
    let verifiers = chain.before().iter().filter(|filter| kind(filter) == "jwt_authn").map(name).collect::<Vec<_>>();
    let mut found = Vec::new();
    for rule in rules {
        for path in &rule.properties {
            if let Some(why) = misnamed(path, &known, &verifiers) {
                say(&mut found, why, rule.name);
            }
        }
    }
    found.into_iter().map(|(why, names)| format!("scope.caller of {} reads {why}", rules_named(&names))).collect()
}

/// The names under which filters in front may write, each with its keys where the file says them.
fn namespaces<'a>(chain: Chain<'a>) -> Vec<(&'a str, Option<Vec<&'a str>>)> {
    let mut known: Vec<(&str, Option<Vec<&str>>)> = Vec::new();
    for filter in chain.before() {
        match kind(filter) {
            "jwt_authn" => known.push((NAMESPACE, None)),
            "header_to_metadata" => {
                let config = typed(&filter["typed_config"]).map_or(&Value::Null, |(_, config)| config);
                let pairs = list(&config["request_rules"]).iter();
                for pair in pairs.flat_map(|rule| [&rule["on_header_present"], &rule["on_header_missing"]]) {
                    let Some(key) = pair["key"].as_str() else { continue };
                    let space = pair["metadata_namespace"].as_str().filter(|it| !it.is_empty()).unwrap_or("envoy.lb");
                    match known.iter_mut().find(|(known, _)| *known == space) {
                        Some((_, keys)) => keys.iter_mut().for_each(|keys| keys.push(key)),
                        None => known.push((space, Some(vec![key]))),
                    }
                }
            }
            _ => known.push((name(filter), None)),
        }
    }
    // Another filter may write there too.
    let others: Vec<_> = known.iter().filter(|(_, keys)| keys.is_none()).map(|(name, _)| *name).collect();
    known.iter_mut().filter(|(name, _)| others.contains(name)).for_each(|(_, keys)| *keys = None);
    known
}

/// What is wrong with the names of this path. A verifier of tokens writes under one name, whatever its own is.
fn misnamed(path: &[String], known: &[(&str, Option<Vec<&str>>)], verifiers: &[&str]) -> Option<String> {
    let part = |path: &[String]| {
        let names: Vec<_> = path.iter().map(|name| format!("\"{name}\"")).collect();
        format!("{{\"property\": [{}]}}", names.join(", "))
    };
    let told = part(path);
    let in_one =
        |path: Vec<String>| Some(format!("{told}, in which one element holds several names: write {}", part(&path)));
    match path {
        [first, rest @ ..] if first.split_once('.').is_some_and(|(root, _)| ROOTS.contains(&root)) => {
            in_one(first.split('.').map(str::to_owned).chain(rest.iter().cloned()).collect())
        }
        [metadata, below, rest @ ..] if metadata == "metadata" && below.starts_with("filter_metadata.") => {
            let (one, other) = below.split_once('.')?;
            in_one([&[metadata.clone(), one.to_owned(), other.to_owned()], rest].concat())
        }
        [metadata, below, filter, rest @ ..] if metadata == "metadata" && below == "filter_metadata" => {
            let at =
                |filter: &str, rest: &[String]| [&[metadata.clone(), below.clone(), filter.to_owned()], rest].concat();
            match known.iter().find(|(name, _)| name == filter) {
                Some((_, Some(keys))) => {
                    let key = rest.first().filter(|key| !keys.contains(&key.as_str()))?;
                    Some(format!("{told}, and header_to_metadata writes no {key} there, but {}", keys.join(", ")))
                }
                Some((_, None)) => None,
                None => known.iter().find_map(|(name, _)| {
                    if let Some(left) = filter.strip_prefix(&format!("{name}.")) {
                        let rest: Vec<_> = left.split('.').map(str::to_owned).chain(rest.iter().cloned()).collect();
                        return in_one(at(name, &rest));
                    }
                    let right = part(&at(name, rest));
                    let is_own = *name == NAMESPACE && verifiers.contains(&filter.as_str());
                    (is_own || is_close(filter, name))
                        .then(|| format!("{told}, and no filter in front writes under that name: write {right}"))
                }),
            }
        }
        _ => None,
    }
}

/// Whether two names differ by a slip or two, and are long enough not to do so by chance.
fn is_close(one: &str, other: &str) -> bool {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (index, char) in one.chars().enumerate() {
        let mut next = vec![index + 1];
        for ((above, left_above), known) in row.iter().skip(1).zip(&row).zip(&other) {
            let left = next.last().copied().unwrap_or_default();
            next.push((left + 1).min(above + 1).min(left_above + usize::from(*known != char)));
        }
        row = next;
    }
    row.last().is_some_and(|distance| *distance <= 2 && distance * 4 <= other.len())
}

/// Names with which an attribute of Envoy's may begin.
const ROOTS: [&str; 8] =
    ["connection", "destination", "filter_state", "metadata", "request", "source", "upstream", "xds"];
