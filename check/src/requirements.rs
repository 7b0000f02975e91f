//! What `jwt_authn` asks of requests, and whether what it asks makes the bearer token in `authorization` a verified one.
//!
//! Its one rule: a token is verified where no way of being let through leaves it unverified.
//! It does not know what becomes of a token once it is verified.

use serde_json::Value;

use crate::bootstrap::list;
use crate::describe::all;
use crate::lint::{kind, name};
use crate::locate::{Chain, typed};
use crate::scope::Spot;
use crate::tokens::locations;
use crate::wanted::{Meeting, Wanted};
use crate::ways::Way;

/// What is asked of some requests.
struct Asked<'a> {
    /// None where nothing is.
    requirement: Option<&'a Value>,
    /// Of which of them, in words with a space in front; empty for all of them.
    of: String,
}

/// What is asked of requests of a rule, `here` being what the most specific layer of the way says to the filter.
fn asked<'a>(config: &'a Value, here: Option<&'a Value>, wanted: &Wanted<'_>) -> Vec<Asked<'a>> {
    let of_name = |name: &Value| config["requirement_map"].get(name.as_str()?);
    if let Some(here) = here {
        // Without such a name every request is refused.
        let found = of_name(&here["requirement_name"]).into_iter();
        return found.map(|it| Asked { requirement: Some(it), of: String::new() }).collect();
    }
    let mut found = Vec::new();
    let mut others = Vec::new();
    for rule in list(&config["rules"]) {
        let matches = &rule["match"];
        let meeting = wanted.meets(matches);
        let of = if meeting == Meeting::Always { String::new() } else { format!(" {}", paths(matches)) };
        if meeting != Meeting::Never {
            let requirement = of_name(&rule["requirement_name"]).or_else(|| rule.get("requires"));
            found.push(Asked { requirement, of });
            others.push(paths(matches));
        }
        if meeting == Meeting::Always {
            return found;
        }
    }
    let by_state: Vec<_> = config["filter_state_rules"]["requires"].as_object().into_iter().flatten().collect();
    if by_state.is_empty() {
        let of = if others.is_empty() { String::new() } else { format!(" other than {}", all(&others)) };
        found.push(Asked { requirement: None, of });
    }
    found.extend(by_state.into_iter().map(|(_, it)| Asked { requirement: Some(it), of: String::new() }));
    found
}

/// `under /admin`: the paths of a RouteMatch.
fn paths(matches: &Value) -> String {
    let text = |kind: &str| matches[kind].as_str();
    match (text("path"), text("prefix").or_else(|| text("path_separated_prefix"))) {
        (Some(path), _) => format!("to {path}"),
        (_, Some(prefix)) => format!("under {prefix}"),
        _ => "where another condition of its rules holds".to_owned(),
    }
}

/// A provider that is asked for a token, on some way.
pub struct Provider<'a> {
    /// The filter, or Istio's resource.
    pub by: &'a str,
    /// Its name or, in Istio, its issuer.
    pub name: &'a str,
    pub is_istio: bool,
    pub value: &'a Value,
}

/// The providers that filters in front ask on this way.
pub fn on_way<'a>(chain: Chain<'a>, way: &Way<'a>, wanted: &Wanted<'_>) -> Vec<Provider<'a>> {
    let mut found = Vec::new();
    for filter in chain.before().iter().filter(|filter| kind(filter) == "jwt_authn") {
        let Some(given) = way.given(filter) else { continue };
        let config = typed(&filter["typed_config"]).map_or(&Value::Null, |(_, config)| config);
        let here: Option<&'a Value> = given.first().map(|(_, config)| *config);
        let asked = providers(config, here, &way.taken_by(wanted)).into_iter();
        found.extend(asked.map(|(provider, value)| Provider {
            by: name(filter),
            name: provider,
            is_istio: false,
            value,
        }));
    }
    found
}

/// The providers that are asked for a token, each with its name.
pub fn providers<'a>(config: &'a Value, here: Option<&'a Value>, wanted: &Wanted<'_>) -> Vec<(&'a str, &'a Value)> {
    let mut found: Vec<(&str, &Value)> = Vec::new();
    for requirement in asked(config, here, wanted).into_iter().filter_map(|asked| asked.requirement) {
        let mut names = Vec::new();
        named(requirement, &mut names);
        // "Missing" and "failed" are said of the tokens of every provider, where no provider is named.
        if names.is_empty() && UNNAMED.iter().any(|kind| requirement[kind].is_object()) {
            names.extend(every(config).map(|(name, _)| name.as_str()));
        }
        let new = names.into_iter().filter_map(|name| Some((name, config["providers"].get(name)?)));
        for (name, provider) in new {
            if !found.iter().any(|(known, _)| *known == name) {
                found.push((name, provider));
            }
        }
    }
    found
}

fn every(config: &Value) -> impl Iterator<Item = (&String, &Value)> {
    config["providers"].as_object().into_iter().flatten()
}

/// The names of the providers in a requirement.
fn named<'a>(requirement: &'a Value, names: &mut Vec<&'a str>) {
    names.extend(own_provider(requirement));
    for kind in ["requires_any", "requires_all"] {
        list(&requirement[kind]["requirements"]).iter().for_each(|it| named(it, names));
    }
}

fn own_provider(requirement: &Value) -> Option<&str> {
    let own = [&requirement["provider_name"], &requirement["provider_and_audiences"]["provider_name"]];
    own.into_iter().find_map(Value::as_str)
}

/// Whether no request gets through without a token.
pub fn is_demanded(config: &Value, here: Option<&Value>, wanted: &Wanted<'_>) -> bool {
    fn lets_through(requirement: &Value) -> bool {
        let each = |kind: &str| list(&requirement[kind]["requirements"]);
        match (each("requires_any"), each("requires_all")) {
            ([], []) => own_provider(requirement).is_none(),
            ([], all) => all.iter().all(lets_through),
            (any, _) => any.iter().any(lets_through),
        }
    }
    asked(config, here, wanted).iter().all(|asked| asked.requirement.is_some_and(|it| !lets_through(it)))
}

/// Why a bearer token may not be verified.
enum Doubt {
    /// Requests get through by tokens of these providers, which stand elsewhere.
    Elsewhere(Vec<String>),
    /// A token that has failed, or was not tried, is let through by this requirement.
    Failed(&'static str),
    Nothing,
}

/// Why the bearer token in `authorization` may not be verified, each reason as what the filter does; none where it is.
pub fn doubts(config: &Value, here: Option<&Value>, wanted: &Wanted<'_>) -> Vec<String> {
    let told = asked(config, here, wanted).into_iter().filter_map(|Asked { requirement, of }| {
        Some(match requirement.map_or(Some(Doubt::Nothing), |it| doubt(config, it))? {
            Doubt::Nothing => format!("asks for no token{of}"),
            Doubt::Failed(kind) => format!("lets requests pass whose token was not found good ({kind}){of}"),
            Doubt::Elsewhere(providers) => {
                let places = providers.iter().filter_map(|name| config["providers"].get(name)).flat_map(sources);
                let places: Vec<_> = places.map(|spot| spot.words()).collect();
                format!("takes {} for a token, and not that in authorization{of}", all(&places))
            }
        })
    });
    let mut found: Vec<String> = Vec::new();
    told.for_each(|told| {
        if !found.contains(&told) {
            found.push(told)
        }
    });
    found
}

fn doubt(config: &Value, requirement: &Value) -> Option<Doubt> {
    let [any, each] = ["requires_any", "requires_all"].map(|kind| list(&requirement[kind]["requirements"]));
    if let Some(kind) = UNVERIFIED.into_iter().find(|kind| requirement[kind].is_object()) {
        return Some(Doubt::Failed(kind));
    }
    if let Some(name) = own_provider(requirement) {
        let is_elsewhere = config["providers"].get(name).is_some_and(|provider| !reads_bearer(provider));
        return is_elsewhere.then(|| Doubt::Elsewhere(vec![name.to_owned()]));
    }
    if requirement["allow_missing"].is_object() {
        return doubt_of_all(config);
    }
    if !each.is_empty() {
        let doubts: Option<Vec<_>> = each.iter().map(|it| doubt(config, it)).collect();
        return doubts.and_then(|doubts| doubts.into_iter().next());
    }
    // "Missing" is said of the providers beside it.
    let named: Vec<_> = any.iter().filter(|it| !it["allow_missing"].is_object()).collect();
    if named.is_empty() {
        return if any.is_empty() { Some(Doubt::Nothing) } else { doubt_of_all(config) };
    }
    let mut elsewhere = Vec::new();
    for alternative in named {
        match doubt(config, alternative) {
            Some(Doubt::Elsewhere(names)) => elsewhere.extend(names),
            Some(other) => return Some(other),
            None => {}
        }
    }
    (!elsewhere.is_empty()).then_some(Doubt::Elsewhere(elsewhere))
}

/// Where every provider may have verified a token.
fn doubt_of_all(config: &Value) -> Option<Doubt> {
    if every(config).any(|(_, provider)| reads_bearer(provider)) {
        return None;
    }
    Some(Doubt::Elsewhere(every(config).map(|(name, _)| name.clone()).collect()))
}

/// Whether a provider reads `authorization: Bearer`. Envoy takes a request only if all tokens that one provider finds are
/// good, so that other places beside it do no harm.
pub fn reads_bearer(provider: &Value) -> bool {
    let is_bearer = |header: &Value| {
        let prefix = header["value_prefix"].as_str().unwrap_or_default().to_ascii_lowercase();
        header["name"].as_str().is_some_and(|name| name.eq_ignore_ascii_case("authorization"))
            && (prefix.is_empty() || prefix.starts_with("bearer"))
    };
    let headers = list(&provider["from_headers"]);
    match headers {
        [] => locations(provider).contains(&Spot::header("authorization")),
        headers => headers.iter().any(is_bearer),
    }
}

/// Where a provider looks for its token.
pub fn sources(provider: &Value) -> Vec<Spot> {
    let cookies = list(&provider["from_cookies"]).iter().filter_map(Value::as_str);
    locations(provider).into_iter().chain(cookies.map(|name| Spot::Cookie(name.to_owned()))).collect()
}

/// Requirements that name no provider.
const UNNAMED: [&str; 3] = ["allow_missing", "allow_missing_or_failed", "extract_only_without_validation"];

/// Those that let a forged token through.
const UNVERIFIED: [&str; 2] = ["allow_missing_or_failed", "extract_only_without_validation"];
