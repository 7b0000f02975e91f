//! Claims and signers that are believed, and that no filter in front has verified.
//!
//! Its one rule: of each way on which nothing verifies them it is said why.
//! It does not know how a token is removed, or where else it could be read.

use serde_json::Value;

use crate::bootstrap::list;
use crate::deeds::is_program;
use crate::lint::{kind, name};
use crate::locate::{Chain, typed};
use crate::requirements;
use crate::scope::{Enforced, Manner};
use crate::told::{on_ways, rules_named, say};
use crate::wanted::Wanted;
use crate::ways::Way;

/// The warnings that a claim or a signer is believed on some way, and nothing there has verified it.
pub fn unverified(chain: Chain<'_>, rules: &[Enforced<'_>]) -> Vec<String> {
    let kinds = [
        (Manner::Claim, "reads jwt_claim", "a client is whom its token names, forged or not"),
        (Manner::Signer, "reads signer", "a client is whom its signature names, forged or not"),
    ];
    let mut warnings = Vec::new();
    for (manner, reads, so) in kinds {
        let mut found = Vec::new();
        for rule in rules.iter().filter(|rule| rule.readings.iter().any(|reading| reading.manner == manner)) {
            let ways: Vec<_> = chain.ways(&rule.wanted).collect();
            for reason in on_ways(&ways, |way| doubts(chain, way, manner, &rule.wanted)) {
                say(&mut found, reason, rule.name);
            }
        }
        let told = found.into_iter();
        warnings.extend(
            told.map(|(reason, names)| format!("scope.caller of {} {reads}, and {reason}: {so}", rules_named(&names))),
        );
    }
    warnings
}

/// Why on this way nothing has verified what is read so.
fn doubts(chain: Chain<'_>, way: &Way<'_>, manner: Manner, wanted: &Wanted<'_>) -> Vec<String> {
    let running = chain.before().iter().filter_map(|filter| Some((filter, way.given(filter)?)));
    let mut of_tokens = Vec::new();
    let mut verifies_tokens = false;
    for (filter, given) in running {
        if is_program(filter) {
            return Vec::new();
        }
        let config = typed(&filter["typed_config"]).map_or(&Value::Null, |(_, config)| config);
        let here = given.first().map(|(_, config)| *config);
        match kind(filter) {
            "istio_authn" => verifies_tokens = true,
            "oauth2" => verifies_tokens |= writes_every_token(here.unwrap_or(config)),
            "jwt_authn" => {
                let doubts = requirements::doubts(config, here, &way.taken_by(wanted));
                verifies_tokens |= doubts.is_empty();
                of_tokens.extend(doubts.into_iter().map(|doubt| format!("{} {doubt}", name(filter))));
            }
            _ => {}
        }
    }
    match manner {
        Manner::Claim if verifies_tokens => Vec::new(),
        Manner::Claim if of_tokens.is_empty() => vec!["no filter before this one verifies tokens".to_owned()],
        Manner::Claim => of_tokens,
        Manner::Raw => Vec::new(),
        Manner::Signer => {
            vec![
                "no filter before this one can verify signatures (ext_authz, ext_proc, lua or wasm; jwt_authn does not)"
                    .to_owned(),
            ]
        }
    }
}

/// Whether `oauth2` lets no token through but the one that it has got itself.
fn writes_every_token(config: &Value) -> bool {
    let config = &config["config"];
    config["forward_bearer_token"] == true
        && config["preserve_authorization_header"] != true
        && list(&config["pass_through_matcher"]).is_empty()
}
