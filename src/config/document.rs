//! The operator's document as a whole: its topics, its rules, and what they say of each other.
//!
//! Its one rule: a rule's policy is the document's with the rule's patch merged into it, and each mistake is shown where
//! it was written.
//! It does not know the fields of a topic, how JSON is walked, or how requests are matched.

use std::cell::RefCell;
use std::rc::Rc;

use serde_json::Value;

use super::policy::Frame;
use super::rules::Match;
use super::store::{refuse_bodies_that_never_fit, secrets, store, warn_of_claims_that_come_too_late};
use super::text::{path, plain, visible};
use super::walk::{ConfigError, DAY_S, Place, Read, YEAR_S, merge, parse_text};
use super::{Anonymous, Config, Issued, Mode, Operator, Policy, Rule, RuleId, Store};

/// The document of a plugin of this module.
pub enum Document {
    /// Of the one that takes frames off on the way to Redis.
    Framing,
    /// Of a gateway.
    Gateway(Box<Config>),
    /// Of the one that operators ask; its store and secrets are a gateway's.
    Operator(Operator, Box<Config>),
}

impl Document {
    /// Reads the whole document, or says what is wrong with it; `env` reads a variable of the VM's environment.
    pub fn parse(document: &[u8], env: &dyn Fn(&str) -> Option<String>) -> Result<Document, ConfigError> {
        let warnings = RefCell::default();
        let root = Place::root(&warnings);
        let mut value = parse_text(document, root)?;
        if let Some(members) = value.as_object().filter(|members| members.contains_key("framing")) {
            return match members.iter().find(|(name, value)| *name != "framing" || **value != Value::Bool(true)) {
                None => Ok(Document::Framing),
                Some((name, value)) if name == "framing" => Err(root.member(name).wrong("true", value)),
                Some((name, _)) => Err(root.member(name).error("must not stand beside framing, which stands alone")),
            };
        }
        let operator = operator(root, &mut value, env)?;
        // What is risky about its store is said of the gateway, whose it is.
        let of_the_gateway = RefCell::default();
        let place = if operator.is_some() { root.warning_to(&of_the_gateway) } else { root };
        let config = Config::read(place, &value, env)?;
        let config = Box::new(Config { warnings: warnings.take(), ..config });
        Ok(match operator {
            Some(operator) => Document::Operator(operator, config),
            None => Document::Gateway(config),
        })
    }
}

/// Takes what makes it the document of an operator plugin out of a document; none where it is a gateway's.
fn operator(root: Place<'_>, document: &mut Value, env: &dyn Fn(&str) -> Option<String>) -> Read<Option<Operator>> {
    let Some(members) = document.as_object_mut() else { return Ok(None) };
    let Some(own) = members.remove("operator") else { return Ok(None) };
    match members.keys().find(|name| !["secrets", "store"].contains(&name.as_str())) {
        Some(name) => Err(root.member(name).error("must not stand beside operator, where only store and secrets may")),
        None => Operator::read(&root.member("operator"), &own, env).map(Some),
    }
}

impl Config {
    /// How a warning ends about a rule that is in force for nothing.
    pub const PROTECTS_NOTHING: &str = "is empty, so no request is protected";

    /// Reads the whole document, or says what is wrong with it; `env` reads a variable of the VM's environment.
    pub fn parse(document: &[u8], env: &dyn Fn(&str) -> Option<String>) -> Result<Config, ConfigError> {
        let warnings = RefCell::default();
        let root = Place::root(&warnings);
        let mut config = Config::read(root, &parse_text(document, root)?, env)?;
        config.warnings = warnings.into_inner();
        Ok(config)
    }

    /// The same of a document that is parsed; its warnings go to the place's list.
    pub(super) fn read(root: Place<'_>, document: &Value, env: &dyn Fn(&str) -> Option<String>) -> Read<Config> {
        let config = root.object(document, |fields| {
            let store = fields.nested("store", |at, value| store(at, value, env))?;
            let (hash_key, encryption, issuing) =
                fields.nested("secrets", |at, value| secrets(&at.as_secret(), value, env))?;
            let problem_base = fields.read("problem_base", "urn:envoy-idempotency:".into(), problem_base)?;
            let status_path = fields.read("status_path", None, path_or_none)?;
            let issue_path = fields.read("issue_path", None, path_or_none)?;
            let issued_ttl_s = fields.whole("issued_ttl_s", 1800, 1..=YEAR_S)?;
            let frame = Frame { problem_base, ttl_s: if matches!(store, Store::Redis(_)) { DAY_S } else { 1800 } };
            // The defaults are right by themselves, so that what is wrong with a rule is the rule's fault.
            let (defaults, common) =
                fields.nested("policy", |at, value| Ok((value.clone(), Policy::read(at, value, value, &frame)?)))?;
            let everywhere = || Rule::new("default".into(), Match::default(), common.clone());
            let rules = fields.read("rules", None, |at, value| {
                at.filled_list(value, |at, value| rule(at, value, &defaults, &common, &frame)).map(Some)
            })?;
            let mut rules = rules.unwrap_or_else(|| vec![everywhere()]);
            for (number, rule) in rules.iter_mut().enumerate() {
                Rc::make_mut(&mut rule.policy).rule.number = number;
            }
            let problem_base = frame.problem_base;
            Ok(Config {
                store,
                hash_key,
                encryption,
                issuing,
                rules,
                status_path,
                issue_path,
                issued_ttl_s,
                problem_base,
                warnings: Vec::new(),
            })
        })?;
        refuse_rules_of_one_label(root, &config)?;
        refuse_keys_that_cannot_be_issued(root, &config)?;
        refuse_bodies_that_never_fit(&root.member("store"), &config)?;
        warn_of_claims_that_come_too_late(&root.member("store"), &config);
        if matches!(config.store, Store::Redis(_)) && config.encryption.is_empty() {
            root.member("store").warn("keeps responses in Redis in clear; give secrets.encryption");
        }
        warn_of_rules(root, &config);
        warn_of_no_callers(root, &config, document);
        warn_of_windows_beyond_records(root, &config, document);
        Ok(config)
    }
}

fn path_or_none(at: &Place<'_>, value: &Value) -> Read<Option<String>> {
    if value.is_null() { Ok(None) } else { path(at, value).map(|path| Some(path.to_owned())) }
}

/// Issued keys want a secret, and records that live as long as they do.
fn refuse_keys_that_cannot_be_issued(root: Place<'_>, config: &Config) -> Read<()> {
    if !config.issuing.is_empty() {
        let ttl_s = |rule: &Rule| rule.policy.ttl_ms / 1000;
        let shortest = config.rules.iter().filter(|rule| rule.policy.mode != Mode::Off).min_by_key(|rule| ttl_s(rule));
        return match shortest.filter(|rule| ttl_s(rule) < config.issued_ttl_s) {
            Some(rule) => Err(root.member("issued_ttl_s").error(format_args!(
                "must be at most ttl_s of rule {} ({}), is {}",
                rule.name,
                ttl_s(rule),
                config.issued_ttl_s
            ))),
            None => Ok(()),
        };
    }
    if config.issue_path.is_some() {
        return Err(root.member("issue_path").error("must not be given without secrets.issuing, which signs the keys"));
    }
    match config.rules.iter().find(|rule| rule.policy.key.issued == Issued::Required) {
        Some(rule) => Err(root.member("secrets").error(format_args!(
            "must have issuing, by which rule {} tells issued keys (key.issued) from others",
            rule.name
        ))),
        None => Ok(()),
    }
}

fn problem_base(at: &Place<'_>, value: &Value) -> Read<String> {
    visible(at, value, 1..=1024)
}

/// Reads one of `rules`; the document's own policy is given as it was written and as it was read.
fn rule(at: &Place<'_>, value: &Value, defaults: &Value, common: &Policy, frame: &Frame) -> Read<Rule> {
    at.object(value, |fields| {
        let name = fields.read("name", at.to_string().replace("/rules/", "rule"), plain)?;
        let matches = fields.nested("match", Match::read)?;
        let policy = fields.read("policy", common.clone(), |at, patch| {
            // By itself first: so each value of the patch is judged, and warned of, where it was written.
            Policy::read(&at.as_patch(), patch, patch, frame)?;
            let mut merged = defaults.clone();
            merge(&mut merged, patch);
            let said_before = RefCell::default();
            Policy::read(&at.warning_to(&said_before), &merged, patch, frame)
        })?;
        Ok(Rule::new(name, matches, policy))
    })
}

impl Rule {
    fn new(name: String, matches: Match, policy: Policy) -> Self {
        let policy = Rc::new(Policy { rule: RuleId { number: 0, name: name.clone() }, ..policy });
        Rule { name, matches, policy }
    }
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

/// Two rules that metrics do not tell apart are one mistake: what the one does would be laid at the other's door.
fn refuse_rules_of_one_label(root: Place<'_>, config: &Config) -> Read<()> {
    let (rules, mut labels) = (root.member("rules"), Vec::new());
    for (index, rule) in config.rules.iter().enumerate() {
        let label = rule.policy.rule.label();
        if let Some(other) = labels.iter().position(|before| *before == label) {
            let same = format!("must not be {label:?} in metrics, as that of {} is", rules.item(other));
            return Err(rules.item(index).member("name").error(same));
        }
        labels.push(label);
    }
    Ok(())
}

/// Says which rules can never win, and which would take what the look-up takes.
fn warn_of_windows_beyond_records(root: Place<'_>, config: &Config, document: &Value) {
    let (rules, common) = (root.member("rules"), root.member("policy"));
    for (index, Rule { policy, .. }) in config.rules.iter().enumerate() {
        if policy.similar.is_some_and(|similar| similar.window_ms > policy.ttl_ms) {
            let at = if document.get("rules").is_some() { rules.item(index) } else { common };
            at.warn(
                "looks further back (similar.window_ms) than records live (ttl_s), and cannot tell what became of one that \
                 has expired",
            );
        }
    }
}

fn warn_of_rules(root: Place<'_>, config: &Config) {
    let rules = root.member("rules");
    for (index, rule) in config.rules.iter().enumerate() {
        let at = rules.item(index);
        if let Some(wider) = config.hidden_by(index) {
            at.warn(&format!("is never reached, because {} takes all that it matches", rules.item(wider)));
        }
        if config.status_path.as_ref().is_some_and(|path| rule.matches.may_take_get(path)) {
            at.warn("matches GET on status_path, where the look-up answers and no rule is asked");
        }
    }
}
