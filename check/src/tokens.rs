//! What `jwt_authn` does with the tokens that it verifies, in Envoy's spelling and in Istio's.
//!
//! Its one rule: a provider that no requirement asks for does nothing.
//! It does not know whether the filter runs.

use serde_json::{Value, json};

use crate::deeds::{Act, Deed, Heir};
use crate::scope::{Enforced, Manner, Spot};
use crate::ways::{Meeting, Wanted};
use crate::world::list;

/// What `jwt_authn` does to the requests of a rule, `here` being what the most specific layer of the way says to it.
pub fn of_filter(by: &str, config: &Value, here: Option<&Value>, wanted: &Wanted<'_>) -> Vec<Act> {
    let asked = providers(config, here, wanted).into_iter();
    asked
        .flat_map(|(name, provider)| {
            of_provider(by, provider, &mend(name, provider), &format!("the token of provider {name}"))
        })
        .collect()
}

/// The providers that are asked for a token, each with its name.
pub fn providers<'a>(config: &'a Value, here: Option<&'a Value>, wanted: &Wanted<'_>) -> Vec<(&'a str, &'a Value)> {
    let mut found: Vec<(&str, &Value)> = Vec::new();
    for requirement in requirements(config, here, wanted) {
        let mut names = Vec::new();
        named(requirement, &mut names);
        let every = || config["providers"].as_object().into_iter().flatten().map(|(name, _)| name.as_str());
        // "Missing" and "failed" are said of the tokens of every provider, where no provider is named.
        if names.is_empty() && UNNAMED.iter().any(|kind| requirement[kind].is_object()) {
            names.extend(every());
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

/// The requirements under which requests of this rule may stand.
fn requirements<'a>(config: &'a Value, here: Option<&'a Value>, wanted: &Wanted<'_>) -> Vec<&'a Value> {
    let of_name = |name: &Value| config["requirement_map"].get(name.as_str()?);
    if let Some(here) = here {
        return of_name(&here["requirement_name"]).into_iter().collect();
    }
    let mut found = Vec::new();
    for rule in list(&config["rules"]) {
        let meeting = wanted.meets(&rule["match"]);
        if meeting != Meeting::Never {
            found.extend(of_name(&rule["requirement_name"]).or_else(|| rule.get("requires")));
        }
        if meeting == Meeting::Always {
            return found;
        }
    }
    found.extend(config["filter_state_rules"]["requires"].as_object().into_iter().flatten().map(|(_, it)| it));
    found
}

/// The names of the providers in a requirement.
fn named<'a>(requirement: &'a Value, names: &mut Vec<&'a str>) {
    let own = [&requirement["provider_name"], &requirement["provider_and_audiences"]["provider_name"]];
    names.extend(own.into_iter().filter_map(Value::as_str));
    for kind in ["requires_any", "requires_all"] {
        list(&requirement[kind]["requirements"]).iter().for_each(|it| named(it, names));
    }
}

/// Where a provider looks for its token; cookies, which it leaves alone, not among them.
pub fn locations(provider: &Value) -> Vec<Spot> {
    let headers = list(&provider["from_headers"]).iter().filter_map(|it| it["name"].as_str()).map(Spot::header);
    let queries = list(&provider["from_params"]).iter().filter_map(Value::as_str);
    let found: Vec<_> = headers.chain(queries.map(|name| Spot::Query(name.to_owned()))).collect();
    if found.is_empty() && list(&provider["from_cookies"]).is_empty() {
        return vec![Spot::header("authorization"), Spot::Query("access_token".to_owned())];
    }
    found
}

/// The headers into which a provider writes a claim, each with the claim; one that is given by a path goes by its header.
fn claims(provider: &Value) -> impl Iterator<Item = (&str, &str)> {
    let written = list(&provider["claim_to_headers"]).iter();
    written.filter_map(|it| {
        let header = it["header_name"].as_str()?;
        Some((header, it["claim_name"].as_str().filter(|claim| !claim.is_empty()).unwrap_or(header)))
    })
}

fn payload_header(provider: &Value) -> Option<&str> {
    provider["forward_payload_header"].as_str().filter(|name| !name.is_empty())
}

/// Where the verified payload can be read.
fn payload(provider: &Value) -> Option<Vec<String>> {
    let key = provider["payload_in_metadata"].as_str().filter(|key| !key.is_empty())?;
    Some(vec![NAMESPACE.to_owned(), key.to_owned()])
}

/// What a provider does to a request whose token, as it is called here, was verified.
pub fn of_provider(by: &str, provider: &Value, mend: &str, token: &str) -> Vec<Act> {
    let claims: Vec<_> = claims(provider).collect();
    let headers = claims.iter().map(|(header, _)| *header).chain(payload_header(provider));
    let mut acts: Vec<_> = headers.map(|header| Act::of(Deed::Writes, Spot::header(header), by)).collect();
    if provider["forward"] == true {
        return acts;
    }
    let mut heirs: Vec<_> = claims
        .iter()
        .map(|(header, claim)| Heir { spot: Spot::header(header), is_caller: *claim == "sub" })
        .chain(payload_header(provider).map(|header| Heir { spot: Spot::header(header), is_caller: true }))
        .collect();
    if let Some(payload) = payload(provider) {
        let subject = [payload.clone(), vec!["sub".to_owned()]].concat();
        heirs.push(Heir { spot: Spot::Metadata(subject), is_caller: true });
        heirs.push(Heir { spot: Spot::Metadata(payload), is_caller: false });
    }
    acts.extend(locations(provider).into_iter().map(|spot| Act {
        how: format!(" once it has verified {token} there"),
        mend: mend.to_owned(),
        heirs: heirs.clone(),
        is_verified: true,
        ..Act::of(Deed::Removes, spot, by)
    }));
    acts
}

fn mend(name: &str, provider: &Value) -> String {
    let (given, path) = match payload(provider) {
        Some(path) => (String::new(), path),
        None => (format!("give {name} `payload_in_metadata: payload` and "), vec![NAMESPACE.into(), "payload".into()]),
    };
    let subject = Spot::Metadata([path, vec!["sub".to_owned()]].concat());
    format!("set `forward: true` in provider {name}, or {given}read {} in scope.caller", subject.part())
}

/// What the jwtRules of Istio's RequestAuthentication become in Envoy, each with its issuer and with what mends it.
pub fn of_istio(resource: &Value) -> Vec<(Value, String, String)> {
    let of_rule = |rule: &Value| {
        let headers: Vec<_> = list(&rule["fromHeaders"]).iter().map(|it| json!({ "name": it["name"] })).collect();
        let claims = list(&rule["outputClaimToHeaders"]).iter();
        let claims: Vec<_> =
            claims.map(|it| json!({ "header_name": it["header"], "claim_name": it["claim"] })).collect();
        let provider = json!({
            "forward": rule["forwardOriginalToken"],
            "from_headers": headers,
            "from_params": rule["fromParams"],
            "from_cookies": rule["fromCookies"],
            "forward_payload_header": rule["outputPayloadToHeader"],
            "claim_to_headers": claims,
            "payload_in_metadata": "payload",
        });
        let issuer = rule["issuer"].as_str().unwrap_or("without a name").to_owned();
        let subject = Spot::Metadata(vec![NAMESPACE.into(), "payload".into(), "sub".into()]);
        let mend = format!(
            "set `forwardOriginalToken: true` in the jwtRules entry of issuer {issuer}, or read {} in scope.caller",
            subject.part()
        );
        (provider, issuer, mend)
    };
    list(&resource["spec"]["jwtRules"]).iter().map(of_rule).collect()
}

/// The headers written by this provider that tell apart what the rule takes for one caller.
pub fn unread<'a>(provider: &'a Value, rule: &Enforced<'_>) -> Vec<&'a str> {
    let locations = locations(provider);
    // One token, as it was sent, has one value for each of its claims.
    if rule.readings.iter().any(|it| it.manner == Manner::Raw && locations.contains(&it.spot)) {
        return Vec::new();
    }
    let metadata = payload(provider);
    let read: Vec<String> = rule
        .readings
        .iter()
        .filter_map(|reading| match (&reading.spot, &reading.claim) {
            (_, Some(claim)) => Some(claim.clone()),
            (Spot::Metadata(path), _) => path.strip_prefix(metadata.as_deref()?).map(|claim| claim.join(".")),
            (Spot::Header(read), _) => {
                let is_read = |header: &str| header.eq_ignore_ascii_case(read);
                let own = claims(provider).find(|(header, _)| is_read(header)).map(|(_, claim)| claim.to_owned());
                own.or_else(|| payload_header(provider).filter(|header| is_read(header)).map(|_| WHOLE.to_owned()))
            }
            _ => None,
        })
        .collect();
    let knows = |claim: &str| read.iter().any(|known| known == claim);
    if knows(WHOLE) {
        return Vec::new();
    }
    let hangs_on_it = |claim: &str| knows(claim) || (knows("sub") && OF_SUBJECT.contains(&claim));
    let others = claims(provider).filter(|(_, claim)| !hangs_on_it(claim));
    others.map(|(header, _)| header).chain(payload_header(provider).filter(|_| read.is_empty())).collect()
}

/// The claim that all claims are.
const WHOLE: &str = "";

/// Requirements that name no provider.
const UNNAMED: [&str; 3] = ["allow_missing", "allow_missing_or_failed", "extract_only_without_validation"];

/// Where the filter puts what it has verified.
const NAMESPACE: &str = "envoy.filters.http.jwt_authn";

/// Claims that say nothing more of whom `sub` names, or are another in each token (OpenID Connect Core, section 5.1;
/// RFC 7519, section 4.1).
const OF_SUBJECT: [&str; 12] = [
    "email",
    "email_verified",
    "exp",
    "family_name",
    "given_name",
    "iat",
    "jti",
    "name",
    "nbf",
    "phone_number",
    "preferred_username",
    "sub",
];
