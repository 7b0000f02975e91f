//! What `jwt_authn` does with the tokens that it verifies, in Envoy's spelling and in Istio's.
//!
//! Its one rule: a provider that no requirement asks for does nothing.
//! It does not know whether the filter runs, nor what is asked of whom.

use serde_json::{Value, json};

use crate::bootstrap::list;
use crate::deeds::{Act, Deed, Heir};
use crate::requirements::{is_demanded, providers, sources};
use crate::scope::{Enforced, Manner, Spot};
use crate::told::named;
use crate::wanted::Wanted;

/// What `jwt_authn` does to the requests of a rule, `here` being what the most specific layer of the way says to it.
pub fn of_filter(by: &str, config: &Value, here: Option<&Value>, wanted: &Wanted<'_>) -> Vec<Act> {
    let asked = providers(config, here, wanted);
    let has_others = issuers(asked.iter().map(|(_, provider)| *provider)).len() > 1;
    let is_demanded = is_demanded(config, here, wanted);
    let acts = asked.iter().flat_map(|(name, provider)| {
        let grant = Grant { name: (*name).to_owned(), is_istio: false, payload: payload(provider), has_others };
        let demanded = match sources(provider).as_slice() {
            [spot] if is_demanded && asked.len() == 1 => Some(Act::of(Deed::Demands, spot.clone(), by)),
            _ => None,
        };
        demanded.into_iter().chain(of_provider(by, provider, grant))
    });
    acts.collect()
}

/// The issuers of these providers; one without any takes tokens of every issuer, so it counts by itself.
pub fn issuers<'a>(providers: impl Iterator<Item = &'a Value>) -> Vec<&'a Value> {
    let mut found: Vec<&Value> = Vec::new();
    for issuer in providers.map(|provider| &provider["issuer"]) {
        if issuer.is_null() || !found.contains(&issuer) {
            found.push(issuer);
        }
    }
    found
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
pub fn claims(provider: &Value) -> impl Iterator<Item = (&str, &str)> {
    let written = list(&provider["claim_to_headers"]).iter();
    written.filter_map(|it| {
        let header = it["header_name"].as_str()?;
        Some((header, it["claim_name"].as_str().filter(|claim| !claim.is_empty()).unwrap_or(header)))
    })
}

pub fn payload_header(provider: &Value) -> Option<&str> {
    provider["forward_payload_header"].as_str().filter(|name| !name.is_empty())
}

/// Where the verified payload can be read.
pub fn payload(provider: &Value) -> Option<Vec<String>> {
    let key = provider["payload_in_metadata"].as_str().filter(|key| !key.is_empty())?;
    Some(vec![NAMESPACE.to_owned(), key.to_owned()])
}

/// A verified token that is taken away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Of the provider or, in Istio, of the issuer.
    pub name: String,
    pub is_istio: bool,
    /// Where its verified payload can be read.
    pub payload: Option<Vec<String>>,
    /// Tokens of other issuers are taken too, so that the subject alone is no caller.
    pub has_others: bool,
}

/// ` once it has verified the token of provider main there`.
pub fn how(grants: &[&Grant]) -> String {
    let tokens = if grants.len() == 1 { "token" } else { "tokens" };
    format!(" once it has verified the {tokens} of {} there", of_whom(grants))
}

fn of_whom(grants: &[&Grant]) -> String {
    let names: Vec<_> = grants.iter().map(|grant| grant.name.as_str()).collect();
    named(if grants.iter().any(|grant| grant.is_istio) { "issuer" } else { "provider" }, &names)
}

/// What makes up for these tokens.
pub fn mend(grants: &[&Grant]) -> String {
    let whom = of_whom(grants);
    let set = match grants {
        [grant] if grant.is_istio => format!("set `forwardOriginalToken: true` in the jwtRules entry of {whom}"),
        grants if grants.iter().any(|grant| grant.is_istio) => {
            format!("set `forwardOriginalToken: true` in the jwtRules entries of {whom}")
        }
        _ => format!("set `forward: true` in {whom}"),
    };
    format!("{set}, or {}", read(grants))
}

/// Where what these tokens say can be read, once it is there.
pub fn read(grants: &[&Grant]) -> String {
    let same =
        grants.iter().map(|grant| grant.payload.clone()).reduce(|one, other| if one == other { one } else { None });
    let has_others = grants.iter().any(|grant| grant.has_others);
    let (whom, path) = match (same.flatten(), grants) {
        (Some(path), _) => (None, path),
        (None, [grant]) if !has_others => (Some(grant.name.as_str()), usual_payload()),
        (None, _) => (Some("every provider"), usual_payload()),
    };
    let given = whom.map(|whom| format!("give {whom} `payload_in_metadata: payload` and ")).unwrap_or_default();
    let part = |claim: &str| Spot::Metadata([path.clone(), vec![claim.to_owned()]].concat()).part();
    let issuer = if has_others { format!(" and {}", part("iss")) } else { String::new() };
    format!("{given}read {}{issuer} in scope.caller", part("sub"))
}

fn usual_payload() -> Vec<String> {
    vec![NAMESPACE.to_owned(), "payload".to_owned()]
}

/// What a provider does to a request whose token was verified.
pub fn of_provider(by: &str, provider: &Value, grant: Grant) -> Vec<Act> {
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
        grant: Some(grant.clone()),
        heirs: heirs.clone(),
        is_verified: true,
        ..Act::of(Deed::Removes, spot, by)
    }));
    acts
}

/// What the jwtRules of Istio's RequestAuthentication become in Envoy.
pub fn of_istio(resource: &Value) -> impl Iterator<Item = Value> {
    list(&resource["spec"]["jwtRules"]).iter().map(|rule| {
        let headers: Vec<_> = list(&rule["fromHeaders"]).iter().map(|it| json!({ "name": it["name"] })).collect();
        let claims = list(&rule["outputClaimToHeaders"]).iter();
        let claims: Vec<_> =
            claims.map(|it| json!({ "header_name": it["header"], "claim_name": it["claim"] })).collect();
        json!({
            "issuer": rule["issuer"],
            "forward": rule["forwardOriginalToken"],
            "from_headers": headers,
            "from_params": rule["fromParams"],
            "from_cookies": rule["fromCookies"],
            "forward_payload_header": rule["outputPayloadToHeader"],
            "claim_to_headers": claims,
            "payload_in_metadata": "payload",
        })
    })
}

/// The token that this provider of Istio's takes away.
pub fn grant_of_istio(provider: &Value, has_others: bool) -> Grant {
    let name = provider["issuer"].as_str().unwrap_or("without a name").to_owned();
    Grant { name, is_istio: true, payload: payload(provider), has_others }
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

/// Where the filter puts what it has verified.
pub const NAMESPACE: &str = "envoy.filters.http.jwt_authn";

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
