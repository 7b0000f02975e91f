//! Settings of a connection manager because of which clients would not get what they wait for, or could say to a service
//! what only the gateway may.
//!
//! Its one rule: a warning names the setting and what to add or take out.
//! It does not know the order of filters.

use envoy_idempotency::config::{Config, Execution, Inject, Mode, Part, Policy};
use envoy_idempotency::reply::EXPOSED;
use serde_json::Value;

use crate::bootstrap::collect;
use crate::lint::{kind, name};
use crate::locate::{Chain, typed};

/// The warnings about `proxy_100_continue`, what clients can forge, and a list of headers for browsers that hides ours.
pub fn warnings(chain: Chain<'_>, config: &Config) -> Vec<String> {
    let mut warnings = Vec::new();
    if chain.manager["proxy_100_continue"] == true {
        warnings.push(
            "proxy_100_continue leaves it to the service to say 100, and the filter holds a request until its body has \
             come: a client that waits for 100 Continue is refused (417 expectation-failed)"
                .to_owned(),
        );
    }
    let is_internal = chain.listener.is_some_and(|listener| !listener["internal_listener"].is_null());
    if !is_internal && !ONLY_OURS.iter().all(|name| is_stripped(chain.manager, name)) {
        warnings.push(format!(
            "no early_header_mutation of the connection manager removes {}: of requests that no rule is about, or whose rule \
             is off or observes, a client can say them to the service (envoy/local.yaml has it)",
            ONLY_OURS.join(", ")
        ));
    }
    for rule in config.rules.iter().filter(|rule| is_clicked(&rule.policy)) {
        warnings.push(format!(
            "rule {} takes its key from a form or from the content, as browsers send it, and runs inline: a second click aborts \
             the first request, whose outcome is then unknown; set execution to shielded",
            rule.name
        ));
    }
    if config.rules.iter().any(|rule| rule.policy.expose_cors) {
        warnings.extend(chain.before().iter().filter(|filter| kind(filter) == "cors").filter_map(|filter| {
            let missing = hidden(chain.manager);
            (!missing.is_empty()).then(|| {
                format!(
                    "{} writes expose_headers over what expose_cors lists: add {} there",
                    name(filter),
                    missing.join(", ")
                )
            })
        }));
    }
    warnings
}

/// Whether a browser's clicks are what the rule is for, and a click that is aborted loses its outcome.
fn is_clicked(policy: &Policy) -> bool {
    fn is_of_form(part: &Part) -> bool {
        matches!(part, Part::Form(_)) || matches!(part, Part::Any(parts) if parts.iter().any(is_of_form))
    }
    let by_browser = policy.key.sources.iter().any(is_of_form) || matches!(policy.key.inject, Inject::Content { .. });
    by_browser && policy.mode == Mode::Enforce && policy.execution == Execution::Inline
}

/// What only the gateway may say to a service.
const ONLY_OURS: [&str; 3] = ["idempotency-operation", "idempotency-attempt", "idempotency-fence"];

fn is_stripped(manager: &Value, name: &str) -> bool {
    let removes = |node: &Value| node["remove"].as_str().is_some_and(|removed| removed.eq_ignore_ascii_case(name));
    let mut found = Vec::new();
    collect(&manager["early_header_mutation_extensions"], &removes, &mut found);
    !found.is_empty()
}

/// Our headers that some `expose_headers` of the routes does not list.
fn hidden(manager: &Value) -> Vec<&'static str> {
    let is_policy = |node: &Value| {
        let is_typed = typed(node).is_some_and(|(name, _)| name.ends_with("cors.v3.CorsPolicy"));
        is_typed && node["expose_headers"].is_string()
    };
    let mut policies = Vec::new();
    collect(&manager["route_config"], &is_policy, &mut policies);
    let lists = |policy: &Value, wanted: &str| {
        let listed = policy["expose_headers"].as_str().unwrap_or_default();
        listed.split(',').any(|name| name.trim() == "*" || name.trim().eq_ignore_ascii_case(wanted))
    };
    EXPOSED.split(", ").filter(|wanted| policies.iter().any(|policy| !lists(policy, wanted))).collect()
}
