//! What filters in front know callers by, as against what a rule reads.
//!
//! Its one rule: where anything that a rule reads may come of what they have verified, there is nothing to say.
//! It does not know what is removed.

use serde_json::Value;

use crate::bootstrap::Bootstrap;
use crate::deeds::{Act, Deed, key_sources, may_change, of_filters, of_way, password};
use crate::describe::all;
use crate::lint::{kind, name};
use crate::locate::{Chain, typed};
use crate::requirements::{self, Provider, sources};
use crate::scope::{Enforced, Manner, Spot, words};
use crate::tokens::{self, Grant, claims, payload, payload_header};
use crate::told::{on_ways, rules_named, say};
use crate::ways::Way;

/// How one filter, or one of its providers, knows callers.
struct Authentication {
    by: String,
    /// Where it looks for a credential.
    places: Vec<Spot>,
    /// The headers into which it puts what it has found out.
    written: Vec<Spot>,
    mend: String,
}

/// The warnings that callers are known by something else than what a rule reads.
pub fn of_chain(chain: Chain<'_>, rules: &[Enforced<'_>], bootstrap: &Bootstrap<'_>) -> Vec<String> {
    let mut found = Vec::new();
    for rule in rules {
        let ways: Vec<_> = chain.ways(&rule.wanted).collect();
        for said in on_ways(&ways, |way| {
            let may_be_written =
                chain.before().iter().any(|it| way.given(it).is_some_and(|given| may_change(it, &given)));
            let acts = of_filters(chain.before(), way, &rule.wanted, bootstrap);
            match may_be_written || is_written(rule, &acts) {
                true => Vec::new(),
                false => unread(rule, &on_way(chain, way, rule)).into_iter().collect(),
            }
        }) {
            say(&mut found, said, rule.name);
        }
    }
    told(found)
}

/// The same of Istio's providers.
pub fn of_providers(providers: &[Provider<'_>], rules: &[Enforced<'_>]) -> Vec<String> {
    let mut found = Vec::new();
    for rule in rules {
        let known: Vec<_> = of_tokens(providers).collect();
        if let Some(said) = unread(rule, &known) {
            say(&mut found, said, rule.name);
        }
    }
    told(found)
}

fn told(found: Vec<(String, Vec<&str>)>) -> Vec<String> {
    let told = found.into_iter().map(|(said, names)| match said.split_once(RULES) {
        Some((start, end)) => format!("{start}{}{end}", rules_named(&names)),
        None => said,
    });
    told.collect()
}

/// Whether a filter in front writes something that the rule reads.
fn is_written(rule: &Enforced<'_>, acts: &[Act]) -> bool {
    let mut written = acts.iter().filter(|act| act.deed == Deed::Writes);
    written.any(|act| rule.readings.iter().any(|reading| act.hits(&reading.spot)))
}

/// That nothing by which callers are known is read, where that is so.
fn unread(rule: &Enforced<'_>, known: &[Authentication]) -> Option<String> {
    // Of a claim, and of metadata, it is said elsewhere whether a filter in front has anything to do with it.
    let is_claim = rule.readings.iter().any(|reading| reading.manner == Manner::Claim);
    let is_metadata = rule.properties.iter().any(|path| path.iter().any(|name| name.starts_with("metadata")));
    let is_read = |spot: &Spot| rule.readings.iter().any(|reading| reading.spot == *spot);
    let mut spots = known.iter().flat_map(|it| it.places.iter().chain(&it.written));
    if rule.policy.scope.caller.is_empty() || is_claim || is_metadata || spots.any(is_read) {
        return None;
    }
    let first = known.first()?;
    let mut places: Vec<String> = Vec::new();
    for place in known.iter().flat_map(|it| &it.places).map(Spot::words) {
        if !places.contains(&place) {
            places.push(place);
        }
    }
    let read: Vec<_> = rule.policy.scope.caller.iter().map(words).collect();
    Some(format!(
        "callers are known to {} by {}, and scope.caller of {RULES} reads {}: it tells none of them; {}",
        first.by,
        all(&places),
        all(&read),
        first.mend
    ))
}

/// How callers are known on this way.
fn on_way(chain: Chain<'_>, way: &Way<'_>, rule: &Enforced<'_>) -> Vec<Authentication> {
    let mut known: Vec<_> = of_tokens(&requirements::on_way(chain, way, &rule.wanted)).collect();
    for filter in chain.before() {
        let Some(given) = way.given(filter) else { continue };
        let config = typed(&filter["typed_config"]).map_or(&Value::Null, |(_, config)| config);
        known.extend(of_filter(filter, config, given.first().map(|(_, config)| *config)));
    }
    known
}

fn of_tokens(providers: &[Provider<'_>]) -> impl Iterator<Item = Authentication> {
    let has_others = tokens::issuers(providers.iter().map(|provider| provider.value)).len() > 1;
    providers.iter().map(move |Provider { by, name, is_istio, value }| {
        let headers = claims(value).map(|(header, _)| header).chain(payload_header(value)).map(Spot::header);
        let written = headers.collect();
        let grant = Grant { name: (*name).to_owned(), is_istio: *is_istio, payload: payload(value), has_others };
        Authentication { by: (*by).to_owned(), places: sources(value), written, mend: tokens::read(&[&grant]) }
    })
}

fn of_filter(filter: &Value, config: &Value, here: Option<&Value>) -> Option<Authentication> {
    let header = |name: &Value| name.as_str().filter(|name| !name.is_empty()).map(Spot::header);
    let (places, written) = match kind(filter) {
        "api_key_auth" => (
            key_sources(of_way(config, here, "key_sources")).collect::<Vec<_>>(),
            header(&of_way(config, here, "forwarding")["header"]),
        ),
        "basic_auth" => (vec![password(config)], header(&config["forward_username_header"])),
        _ => return None,
    };
    let read: Vec<_> = written.iter().chain(&places).take(1).map(Spot::part).collect();
    let mend = format!("read {} in scope.caller", read.concat());
    Some(Authentication { by: name(filter).to_owned(), places, written: written.into_iter().collect(), mend })
}

/// The warnings that a rule takes a token whole only because it says nothing else.
pub fn by_default<'a>(rules: &[Enforced<'_>], asked: impl Fn(&Enforced<'_>) -> Vec<Vec<Provider<'a>>>) -> Vec<String> {
    let authorization = Spot::header("authorization");
    let mut found = Vec::new();
    for rule in rules.iter().filter(|rule| rule.has_default_caller) {
        let ways = asked(rule);
        let is_kept = |it: &&Provider<'_>| it.value["forward"] == true && sources(it.value).contains(&authorization);
        let Some(provider) = ways.iter().flatten().find(is_kept) else { continue };
        let has_others = ways.iter().any(|way| tokens::issuers(way.iter().map(|it| it.value)).len() > 1);
        let parts = if has_others {
            "{\"jwt_claim\": \"sub\"} and {\"jwt_claim\": \"iss\"}"
        } else {
            "{\"jwt_claim\": \"sub\"}"
        };
        say(&mut found, (provider.by.to_owned(), parts), rule.name);
    }
    let told = found.into_iter().map(|((by, parts), names)| {
        format!(
            "scope.caller of {} takes authorization as it was sent, as by default, so a client that renews its token, \
             which {by} verifies, is another caller; read {parts} to have it the same one",
            rules_named(&names)
        )
    });
    told.collect()
}

/// Where the names of rules go.
const RULES: &str = "{rules}";
