//! Client certificates: whether clients show any to a listener, and what becomes of the header that speaks of them.
//!
//! Its one rule: what a kind of transport socket that is not known here does is not guessed at.
//! It does not know rules by anything but what they read.

use serde_json::Value;

use crate::bootstrap::list;
use crate::deeds::{Act, Deed};
use crate::lint::name;
use crate::locate::{Chain, typed};
use crate::scope::{Enforced, Spot};
use crate::told::{rules_named, say};

/// What clients show to a connection manager.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    /// Clients may show one, and what they show is checked.
    Optional,
    Required,
    /// A certificate that a client has made itself will do.
    Unchecked,
    /// The listener speaks TLS and does not ask for one.
    Unasked,
    Unknown,
    /// The listener does not speak TLS.
    WithoutTls,
}

impl Shown {
    /// Whether no client ever shows one.
    fn is_never(self) -> bool {
        matches!(self, Shown::Unasked | Shown::WithoutTls)
    }

    /// What makes clients show one.
    fn mend(self) -> &'static str {
        match self {
            Shown::WithoutTls => {
                "give its filter chain a transport_socket of TLS with require_client_certificate: true and a trusted_ca"
            }
            Shown::Unchecked => {
                "set require_client_certificate: true and a trusted_ca in its transport_socket and leave ACCEPT_UNTRUSTED out"
            }
            _ => "set require_client_certificate: true and a trusted_ca in its transport_socket",
        }
    }

    /// As messages say it of the listener.
    fn words(self) -> &'static str {
        match self {
            Shown::WithoutTls => "the listener does not speak TLS",
            Shown::Unasked => {
                "the listener asks for no client certificate, because its transport_socket has no trusted_ca"
            }
            Shown::Unchecked => "the listener does not check client certificates",
            Shown::Optional | Shown::Required | Shown::Unknown => "the listener requires no client certificate",
        }
    }
}

/// What clients of this listener show to this connection manager.
pub fn shown(listener: Option<&Value>, manager: &Value) -> Shown {
    let Some(listener) = listener else { return Shown::Unknown };
    let chains = list(&listener["filter_chains"]).iter().chain([&listener["default_filter_chain"]]);
    let Some(chain) = chains.into_iter().find(|chain| holds(chain, manager)) else { return Shown::Unknown };
    let socket = &chain["transport_socket"];
    if socket.is_null() {
        return Shown::WithoutTls;
    }
    let context = match typed(&socket["typed_config"]) {
        Some((name, config)) if name.ends_with(".DownstreamTlsContext") => config,
        Some((name, config)) if name.ends_with(".QuicDownstreamTransport") => &config["downstream_tls_context"],
        Some((name, _)) if name.ends_with(".RawBuffer") => return Shown::WithoutTls,
        _ => return Shown::Unknown,
    };
    match (context["require_client_certificate"] == true, validation(&context["common_tls_context"])) {
        (true, Validation::Checks) => Shown::Required,
        (false, Validation::Checks) => Shown::Optional,
        (_, Validation::AcceptsAll) => Shown::Unchecked,
        (_, Validation::None) => Shown::Unasked,
    }
}

/// What is done with a certificate.
enum Validation {
    AcceptsAll,
    Checks,
    /// Envoy then asks for none, though require_client_certificate be true.
    None,
}

fn validation(common: &Value) -> Validation {
    if ELSEWHERE.iter().any(|member| !common[member].is_null()) {
        return Validation::Checks;
    }
    let combined = &common["combined_validation_context"];
    let own = match combined.is_null() {
        true => &common["validation_context"],
        false => &combined["default_validation_context"],
    };
    let is_by = |names: &[&str]| names.iter().any(|member| !own[member].is_null());
    if own["trust_chain_verification"] == "ACCEPT_UNTRUSTED" && !is_by(&PINS) {
        return Validation::AcceptsAll;
    }
    match !combined.is_null() || is_by(&PINS) || is_by(&AUTHORITIES) {
        true => Validation::Checks,
        false => Validation::None,
    }
}

fn holds(node: &Value, wanted: &Value) -> bool {
    std::ptr::eq(node, wanted)
        || match node {
            Value::Array(items) => items.iter().any(|item| holds(item, wanted)),
            Value::Object(members) => members.values().any(|member| holds(member, wanted)),
            _ => false,
        }
}

/// What the connection manager does to the header that speaks of certificates: it is the proxy's word about its client,
/// so by default a client may not say it.
pub fn of_manager(manager: &Value, shown: Shown) -> Option<Act> {
    let header = Spot::header(XFCC);
    if !manager["forward_client_cert_matcher"].is_null() {
        return Some(Act::of(Deed::Writes, header, MANAGER));
    }
    let (how, mend) = match (details(manager), shown.is_never()) {
        ("ALWAYS_FORWARD_ONLY", _) | ("FORWARD_ONLY", false) => return None,
        ("SANITIZE", false) => (
            " (forward_client_cert_details is SANITIZE, as by default)".to_owned(),
            "set forward_client_cert_details: SANITIZE_SET, or read {\"property\": [\"connection\", \
             \"uri_san_peer_certificate\"]} in scope.caller"
                .to_owned(),
        ),
        ("SANITIZE", true) => (
            " (forward_client_cert_details is SANITIZE, as by default)".to_owned(),
            format!(
                "{}, so {} and set forward_client_cert_details: SANITIZE_SET; behind a proxy that writes the header, set \
                 ALWAYS_FORWARD_ONLY and let nothing but that proxy reach the listener",
                shown.words(),
                shown.mend()
            ),
        ),
        (details, true) => (
            format!(" (forward_client_cert_details is {details}, and {})", shown.words()),
            format!(
                "{}; behind a proxy that writes the header, set ALWAYS_FORWARD_ONLY and let nothing but that proxy reach \
                 the listener",
                shown.mend()
            ),
        ),
        (_, false) => return Some(Act::of(Deed::Writes, header, MANAGER)),
    };
    Some(Act { how, mend, ..Act::of(Deed::Removes, header, MANAGER) })
}

fn details(manager: &Value) -> &str {
    manager["forward_client_cert_details"].as_str().unwrap_or("SANITIZE")
}

/// The errors about certificates that no client shows.
pub fn errors(chain: Chain<'_>, rules: &[Enforced<'_>]) -> Vec<String> {
    let shown = shown(chain.listener, chain.manager);
    if !shown.is_never() {
        return Vec::new();
    }
    let mut found = Vec::new();
    for rule in rules {
        // Other parts of the scope tell callers all the same.
        let properties: Vec<_> = certificate_properties(rule).collect();
        if let Some(first) = properties.first()
            && properties.len() == rule.policy.scope.caller.iter().map(crate::scope::count).sum::<usize>()
        {
            say(&mut found, first.to_string(), rule.name);
        }
    }
    let told = found.into_iter().map(|(property, names)| {
        format!(
            "{}, so no client shows a certificate, and scope.caller of {} reads {property}: no request has a caller; {}, or \
             read what clients show here",
            shown.words(),
            rules_named(&names),
            shown.mend()
        )
    });
    told.collect()
}

/// The warnings about certificates, and words about them, that a client makes itself.
pub fn warnings(chain: Chain<'_>, rules: &[Enforced<'_>]) -> Vec<String> {
    let shown = shown(chain.listener, chain.manager);
    let is_inside = chain.listener.is_some_and(|listener| !listener["internal_listener"].is_null());
    let is_open = match details(chain.manager) {
        "ALWAYS_FORWARD_ONLY" => !matches!(shown, Shown::Required | Shown::Unknown),
        "FORWARD_ONLY" => shown == Shown::Unchecked,
        _ => false,
    };
    let mut warnings = Vec::new();
    let header = Spot::header(XFCC);
    let reads = |rule: &&Enforced<'_>| rule.readings.iter().any(|reading| reading.spot == header);
    let names: Vec<_> = rules.iter().filter(reads).map(|rule| rule.name).collect();
    if is_open && !is_inside && chain.manager["forward_client_cert_matcher"].is_null() && !names.is_empty() {
        let mend = match shown {
            Shown::WithoutTls => "let nothing but the proxy that writes it reach the listener",
            _ => shown.mend(),
        };
        warnings.push(format!(
            "scope.caller of {} reads header {XFCC}, which the connection manager leaves as clients send it \
             (forward_client_cert_details is {}), and {}: any client can write it and be whom it names; {mend}",
            rules_named(&names),
            details(chain.manager),
            shown.words(),
        ));
    }
    let mut found = Vec::new();
    for rule in rules.iter().filter(|_| shown == Shown::Unchecked) {
        // A digest is that of a key which the client has.
        for property in certificate_properties(rule).filter(|property| !property.ends_with("digest")) {
            say(&mut found, property, rule.name);
        }
    }
    warnings.extend(found.into_iter().map(|(property, names)| {
        format!(
            "scope.caller of {} reads {property}, and listener {} checks no client certificate: any client can make itself \
             one with any name; set a trusted_ca in its transport_socket and leave ACCEPT_UNTRUSTED out",
            rules_named(&names),
            chain.listener.map_or("without a name", name),
        )
    }));
    warnings
}

/// The properties of client certificates that a rule reads.
fn certificate_properties<'a>(rule: &'a Enforced<'_>) -> impl Iterator<Item = String> + 'a {
    let paths = rule.properties.iter().filter(|path| match path.as_slice() {
        [root, name] => root == "connection" && name.contains("peer_certificate"),
        _ => false,
    });
    paths.map(|path| path.join("."))
}

const XFCC: &str = "x-forwarded-client-cert";
const MANAGER: &str = "the connection manager";

/// Where a validation context may be besides the file.
const ELSEWHERE: [&str; 3] = [
    "custom_tls_certificate_selector",
    "validation_context_certificate_provider_instance",
    "validation_context_sds_secret_config",
];

/// What a validation context may check the chain of a certificate by, and what the certificate itself.
const AUTHORITIES: [&str; 4] =
    ["ca_certificate_provider_instance", "custom_validator_config", "system_root_certs", "trusted_ca"];
const PINS: [&str; 2] = ["verify_certificate_hash", "verify_certificate_spki"];
