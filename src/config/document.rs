//! The operator's document, object by object: which fields there are, their defaults and their bounds.
//!
//! Its one rule: what a document does not say has its default here, next to the field's name; only the table of
//! outcomes and the presets of statuses stand with their types.
//! It does not know how JSON is walked or how requests are matched.

use std::cell::RefCell;
use std::rc::Rc;

use serde_json::Value;

use super::identity::{fingerprint, key, scope};
use super::outcomes::{outcomes, statuses};
use super::rules::Match;
use super::store::{refuse_bodies_that_never_fit, secrets, store, warn_of_claims_that_come_too_late};
use super::text::{path, plain, visible};
use super::walk::{ConfigError, DAY_MS, DAY_S, MIB, Place, Read, flag, merge, parse_text};
use super::{
    Anonymous, BodyPart, Config, Execution, Inject, Mode, OnCompleted, OnInFlight, OnMismatch, OnStoreFailure,
    OnTooLarge, OnUnknown, Policy, Rule, Save, Statuses, Store,
};

/// The document of a plugin of this module.
pub enum Document {
    /// Of the one that takes frames off on the way to Redis.
    Framing,
    /// Of a gateway.
    Gateway(Box<Config>),
}

impl Document {
    /// Reads the whole document, or says what is wrong with it; `env` reads a variable of the VM's environment.
    pub fn parse(document: &[u8], env: &dyn Fn(&str) -> Option<String>) -> Result<Document, ConfigError> {
        let warnings = RefCell::default();
        let root = Place::root(&warnings);
        match parse_text(document, root)? {
            Value::Object(members) if members.contains_key("framing") => {
                match members.iter().find(|(name, value)| *name != "framing" || **value != Value::Bool(true)) {
                    None => Ok(Document::Framing),
                    Some((name, value)) if name == "framing" => Err(root.member(name).wrong("true", value)),
                    Some((name, _)) => {
                        Err(root.member(name).error("must not stand beside framing, which stands alone"))
                    }
                }
            }
            _ => Config::parse(document, env).map(|config| Document::Gateway(Box::new(config))),
        }
    }
}

impl Config {
    /// How a warning ends about a rule that is in force for nothing.
    pub const PROTECTS_NOTHING: &str = "is empty, so no request is protected";

    /// Reads the whole document, or says what is wrong with it; `env` reads a variable of the VM's environment.
    pub fn parse(document: &[u8], env: &dyn Fn(&str) -> Option<String>) -> Result<Config, ConfigError> {
        let warnings = RefCell::default();
        let root = Place::root(&warnings);
        let document = parse_text(document, root)?;
        let mut config = root.object(&document, |fields| {
            let store = fields.nested("store", |at, value| store(at, value, env))?;
            let (hash_key, encryption) = fields.nested("secrets", |at, value| secrets(&at.as_secret(), value, env))?;
            let problem_base = fields.read("problem_base", "urn:envoy-idempotency:".into(), problem_base)?;
            let status_path = fields.read("status_path", None, |at, value| match value {
                Value::Null => Ok(None),
                value => path(at, value).map(|path| Some(path.to_owned())),
            })?;
            let frame = Frame { problem_base, ttl_s: if matches!(store, Store::Redis(_)) { DAY_S } else { 1800 } };
            // The defaults are right by themselves, so that what is wrong with a rule is the rule's fault.
            let (defaults, common) =
                fields.nested("policy", |at, value| Ok((value.clone(), policy(at, value, value, &frame)?)))?;
            let everywhere = || Rule::new("default".into(), Match::default(), common.clone());
            let rules = fields.read("rules", None, |at, value| {
                at.filled_list(value, |at, value| rule(at, value, &defaults, &common, &frame)).map(Some)
            })?;
            let rules = rules.unwrap_or_else(|| vec![everywhere()]);
            let problem_base = frame.problem_base;
            Ok(Config { store, hash_key, encryption, rules, status_path, problem_base, warnings: Vec::new() })
        })?;
        refuse_bodies_that_never_fit(&root.member("store"), &config)?;
        warn_of_claims_that_come_too_late(&root.member("store"), &config);
        if matches!(config.store, Store::Redis(_)) && config.encryption.is_empty() {
            root.member("store").warn("keeps responses in Redis in clear; give secrets.encryption");
        }
        warn_of_rules(root, &config);
        warn_of_no_callers(root, &config, &document);
        config.warnings = warnings.into_inner();
        Ok(config)
    }
}

/// What a policy takes from the rest of the document.
struct Frame {
    problem_base: String,
    /// The default of `ttl_s`, which hangs on the store.
    ttl_s: u64,
}

fn problem_base(at: &Place<'_>, value: &Value) -> Read<String> {
    visible(at, value, 1..=1024)
}

/// Reads one of `rules`; the document's own policy is given as it was written and as it was read.
fn rule(at: &Place<'_>, value: &Value, defaults: &Value, common: &Policy, frame: &Frame) -> Read<Rule> {
    at.object(value, |fields| {
        let name = fields.read("name", at.to_string().trim_start_matches('/').to_owned(), plain)?;
        let matches = fields.nested("match", Match::read)?;
        let policy = fields.read("policy", common.clone(), |at, patch| {
            // By itself first: so each value of the patch is judged, and warned of, where it was written.
            policy(&at.as_patch(), patch, patch, frame)?;
            let mut merged = defaults.clone();
            merge(&mut merged, patch);
            let said_before = RefCell::default();
            policy(&at.warning_to(&said_before), &merged, patch, frame)
        })?;
        Ok(Rule::new(name, matches, policy))
    })
}

impl Rule {
    fn new(name: String, matches: Match, policy: Policy) -> Self {
        let policy = Rc::new(Policy { rule: name.clone(), ..policy });
        Rule { name, matches, policy }
    }
}

/// Reads a policy. `written` is the part of it that was written here, for contradictions to point at.
fn policy(at: &Place<'_>, value: &Value, written: &Value, frame: &Frame) -> Read<Policy> {
    let policy = at.object(value, |fields| {
        Ok(Policy {
            // The rule puts its own here.
            rule: String::new(),
            mode: fields.read("mode", Mode::Enforce, |at, value| {
                let words = [
                    ("enforce", Mode::Enforce),
                    ("observe", Mode::Observe),
                    ("inject", Mode::Inject),
                    ("off", Mode::Off),
                ];
                at.choice(value, &words)
            })?,
            key: fields.nested("key", key)?,
            scope: fields.nested("scope", scope)?,
            fingerprint: fields.nested("fingerprint", fingerprint)?,
            on_mismatch: fields.read("on_mismatch", OnMismatch::Reject, |at, value| {
                at.choice(value, &[("reject", OnMismatch::Reject), ("separate", OnMismatch::Separate)])
            })?,
            on_in_flight: fields.nested("on_in_flight", on_in_flight)?,
            on_completed: fields.read("on_completed", OnCompleted::Replay, |at, value| {
                at.choice(value, &[("replay", OnCompleted::Replay), ("conflict", OnCompleted::Conflict)])
            })?,
            on_unknown: fields.read("on_unknown", OnUnknown::Retry, |at, value| {
                at.choice(value, &[("retry", OnUnknown::Retry), ("hold", OnUnknown::Hold)])
            })?,
            on_store_failure: fields.read("on_store_failure", OnStoreFailure::Reject, on_store_failure)?,
            on_too_large: fields.read("on_too_large", OnTooLarge::Reject, |at, value| {
                at.choice(value, &[("reject", OnTooLarge::Reject), ("bypass", OnTooLarge::Bypass)])
            })?,
            lease_ms: fields.read("lease_ms", 60_000, |at, value| at.whole(value, 1000..=DAY_MS))?,
            max_running_ms: fields.read("max_running_ms", 300_000, |at, value| at.whole(value, 1000..=DAY_MS))?,
            ttl_ms: 1000 * fields.read("ttl_s", frame.ttl_s, |at, value| at.whole(value, 1..=YEAR_S))?,
            max_request_bytes: fields.read("max_request_bytes", 524_288, |at, value| at.whole(value, 1..=64 * MIB))?,
            max_response_bytes: fields
                .read("max_response_bytes", 524_288, |at, value| at.whole(value, 1..=64 * MIB))?,
            outcomes: fields.nested("outcomes", outcomes)?,
            execution: fields.nested("execution", execution)?,
            save: fields.read("save", Save::BeforeReply, |at, value| {
                at.choice(value, &[("before_reply", Save::BeforeReply), ("after_reply", Save::AfterReply)])
            })?,
            statuses: fields.read("statuses", Statuses::classic(), statuses)?,
            problem_base: frame.problem_base.clone(),
            expose_cors: fields.read("expose_cors", false, flag)?,
        })
    })?;
    // A patch that seems to contradict itself may be right once it is merged.
    if !at.is_patch() {
        refuse_contradictions(at, &policy, written)?;
    }
    Ok(policy)
}

/// Points at the field that was written here; a rule may contradict what stands in the document's own policy.
fn refuse_contradictions(at: &Place<'_>, policy: &Policy, written: &Value) -> Read<()> {
    let only = |name: &str, other: &str| written.get(name).is_some() && written.get(other).is_none();
    let (lease_ms, ttl_s) = (policy.lease_ms, policy.ttl_ms / 1000);
    if policy.ttl_ms <= lease_ms {
        return Err(match only("lease_ms", "ttl_s") {
            true => at.member("lease_ms").error(format_args!("must be less than ttl_s ({ttl_s} s), is {lease_ms}")),
            false => at.member("ttl_s").error(format_args!("must exceed lease_ms ({lease_ms} ms), is {ttl_s}")),
        });
    }
    if policy.scope.caller.is_empty() && policy.scope.anonymous == Anonymous::Refuse {
        let scope = at.member("scope");
        return Err(scope.error("must not have an empty caller with anonymous \"refuse\", which refuses every request"));
    }
    refuse_contradictory_injection(&at.member("key"), policy)
}

/// Where the gateway makes the key, every setting must leave it something to make it of.
fn refuse_contradictory_injection(at: &Place<'_>, policy: &Policy) -> Read<()> {
    let (key, inject) = (&policy.key, at.member("inject"));
    let keeps = policy.mode != Mode::Inject;
    match key.inject {
        Inject::Off => Ok(()),
        _ if key.required => Err(at
            .member("required")
            .error("must not be true where key.inject makes the key that a request does not have")),
        Inject::Uuid if keeps && key.sources.len() > 1 => Err(inject
            .error("must not be \"uuid\" with several key.sources: the client could not repeat the key that it gets")),
        Inject::Content { .. } if !keeps => {
            Err(inject.error("must not be \"content\" with mode \"inject\", which has no store to find it in"))
        }
        Inject::Content { anonymous: true, .. } if policy.scope.anonymous != Anonymous::Share => Err(inject
            .member("anonymous")
            .error("must be false unless scope.anonymous is \"share\": only there may requests without a caller be the same one's")),
        Inject::Content { .. } if policy.fingerprint.body == BodyPart::Off => Err(inject
            .error("must not be \"content\" with fingerprint.body \"off\": the body is what tells requests apart")),
        Inject::Content { .. } | Inject::Uuid => Ok(()),
    }
}

fn execution(at: &Place<'_>, value: &Value) -> Read<Execution> {
    at.object(value, |fields| {
        let kinds = [("inline", Some(false)), ("shielded", Some(true))];
        let kind = fields.read("kind", None, |at, value| at.choice(value, &kinds))?;
        let cluster = fields.read("cluster", None, |at, value| plain(at, value).map(Some))?;
        let timeout_ms = fields.read("timeout_ms", 30_000, |at, value| at.whole(value, 10..=3_600_000))?;
        match (kind, cluster) {
            // What a patch leaves out, and what stays of the way when a rule goes back to inline, is no mistake.
            (Some(true), Some(cluster)) => Ok(Execution::Shielded { cluster, timeout_ms }),
            (Some(true), None) if !at.is_patch() => Err(at.error("must have cluster")),
            (None, Some(_)) if !at.is_patch() => Err(at.error("must have kind")),
            _ => Ok(Execution::Inline),
        }
    })
}

fn on_in_flight(at: &Place<'_>, value: &Value) -> Read<OnInFlight> {
    at.object(value, |fields| {
        let waits = fields.read("action", false, |at, value| at.choice(value, &[("reject", false), ("wait", true)]))?;
        let max_wait_ms = fields.read("max_wait_ms", 10_000, |at, value| at.whole(value, 100..=600_000))?;
        Ok(if waits { OnInFlight::Wait { max_wait_ms } } else { OnInFlight::Reject })
    })
}

fn on_store_failure(at: &Place<'_>, value: &Value) -> Read<OnStoreFailure> {
    let words = [("reject", OnStoreFailure::Reject), ("forward", OnStoreFailure::Forward)];
    let decided = at.choice(value, &words)?;
    if decided == OnStoreFailure::Forward {
        at.warn("lets requests run twice while the store fails");
    }
    Ok(decided)
}

/// Says of rules in force that nothing tells their callers, where that was written.
fn warn_of_no_callers(root: Place<'_>, config: &Config, document: &Value) {
    let is_for_nothing = |policy: &Policy| {
        let scope = &policy.scope;
        policy.mode == Mode::Enforce && scope.caller.is_empty() && scope.anonymous != Anonymous::Share
    };
    let (rules, mut is_said) = (root.member("rules"), false);
    for (index, _) in config.rules.iter().enumerate().filter(|(_, rule)| is_for_nothing(&rule.policy)) {
        let (at, common) = (rules.item(index), root.member("policy"));
        let own = document.get("rules").and_then(|rules| rules.get(index)?.pointer("/policy/scope/caller"));
        let is_own = own.is_some_and(|own| !own.is_null());
        let policy = if is_own { at.member("policy") } else { common };
        if is_own || !is_said {
            policy.member("scope").member("caller").warn(Config::PROTECTS_NOTHING);
        }
        is_said |= !is_own;
    }
}

/// Says which rules can never win, which share a name, and which would take what the look-up takes.
fn warn_of_rules(root: Place<'_>, config: &Config) {
    let rules = root.member("rules");
    for (index, rule) in config.rules.iter().enumerate() {
        let at = rules.item(index);
        let before = config.rules.iter().take(index);
        if let Some(wider) = before.clone().position(|before| before.matches.covers(&rule.matches)) {
            at.warn(&format!("is never reached, because {} takes all that it matches", rules.item(wider)));
        }
        if let Some(other) = before.clone().position(|before| before.name == rule.name) {
            at.member("name")
                .warn(&format!("is the name of {} too, so that logs do not tell them apart", rules.item(other)));
        }
        if config.status_path.as_ref().is_some_and(|path| rule.matches.may_take_get(path)) {
            at.warn("matches GET on status_path, where the look-up answers and no rule is asked");
        }
    }
}

const YEAR_S: u64 = 365 * 24 * 60 * 60;
