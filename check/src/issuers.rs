//! Subjects of several issuers, which may have one name.
//!
//! Its one rule: two providers of one issuer are one.
//! It does not know whether a token reaches the filter.

use envoy_idempotency::config::Separation;
use serde_json::Value;

use crate::requirements::{Provider, reads_bearer};
use crate::scope::{Enforced, Manner, Reading, Spot};
use crate::tokens::{claims, issuers, payload, payload_header};
use crate::told::{named, rules_named, say};

/// The warnings that a rule tells callers by their subject, while tokens of several issuers are taken. `asked` gives the
/// providers on each way of a rule.
pub fn warnings<'a>(rules: &[Enforced<'_>], asked: impl Fn(&Enforced<'_>) -> Vec<Vec<Provider<'a>>>) -> Vec<String> {
    let mut found = Vec::new();
    for rule in rules {
        let mut ways = asked(rule);
        // Another way is another path or host, which may not count.
        if rule.policy.scope.path != Separation::Separates || rule.policy.scope.host != Separation::Separates {
            ways = vec![ways.into_iter().flatten().collect()];
        }
        for way in ways {
            for reading in &rule.readings {
                if let Some(said) = mixed(rule, reading, &way) {
                    say(&mut found, said, rule.name);
                }
            }
        }
    }
    let told = found.into_iter().map(|([reads, mend], names)| {
        format!(
            "scope.caller of {} {reads}: a subject of one may have the name of another's; {mend}",
            rules_named(&names)
        )
    });
    told.collect()
}

/// Whose subjects this reading mixes, and what tells them apart.
fn mixed(rule: &Enforced<'_>, reading: &Reading, way: &[Provider<'_>]) -> Option<[String; 2]> {
    let read: Vec<_> = way.iter().filter(|provider| reads_claim(reading, provider.value, "sub")).collect();
    if issuers(read.iter().map(|provider| provider.value)).len() < 2 {
        return None;
    }
    let is_told = |provider: &&Provider<'_>| {
        let mut others = rule.readings.iter().filter(|other| other.part != reading.part);
        others.any(|other| reads_claim(other, provider.value, "iss") || reads_whole(other, provider.value))
    };
    if read.iter().all(is_told) {
        return None;
    }
    let mut by: Vec<&str> = read.iter().map(|provider| provider.by).collect();
    by.dedup();
    let names: Vec<_> = read.iter().map(|provider| provider.name).collect();
    let kind = if read.iter().any(|provider| provider.is_istio) { "issuer" } else { "provider" };
    let mend = match (&reading.spot, reading.manner) {
        (_, Manner::Claim) => "add {\"jwt_claim\": \"iss\"} to it".to_owned(),
        (Spot::Metadata(path), _) => {
            let above = path.split_last().map(|(_, above)| above.to_vec()).unwrap_or_default();
            format!("add {} to it", Spot::Metadata([above, vec!["iss".to_owned()]].concat()).part())
        }
        _ => "add a header to it into which the claim iss is written".to_owned(),
    };
    Some([format!("reads {}, and {} takes tokens of {}", reading.words(), by.join(" and "), named(kind, &names)), mend])
}

/// Whether this claim of a provider's tokens is what is read.
fn reads_claim(reading: &Reading, provider: &Value, claim: &str) -> bool {
    match (&reading.spot, &reading.claim) {
        (_, Some(read)) => read == claim && reads_bearer(provider),
        (Spot::Metadata(path), _) => {
            payload(provider).is_some_and(|payload| *path == [payload, vec![claim.to_owned()]].concat())
        }
        (Spot::Header(read), _) => {
            claims(provider).any(|(header, written)| written == claim && header.eq_ignore_ascii_case(read))
        }
        _ => false,
    }
}

/// Whether a token or its whole payload is read, in which the issuer stands.
fn reads_whole(reading: &Reading, provider: &Value) -> bool {
    match (&reading.spot, reading.manner) {
        (Spot::Metadata(path), _) => payload(provider).is_some_and(|payload| payload.starts_with(path)),
        (spot, Manner::Raw) => {
            crate::tokens::locations(provider).contains(spot)
                || payload_header(provider).is_some_and(|header| Spot::header(header) == *spot)
        }
        _ => false,
    }
}
