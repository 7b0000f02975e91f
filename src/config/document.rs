//! The operator's document, object by object: which fields there are, their defaults and their bounds.
//!
//! Its one rule: what a document does not say has its default here, next to the field's name; only the table of
//! outcomes and the presets of statuses stand with their types.
//! It does not know how JSON is walked or how requests are matched.

use std::cell::RefCell;
use std::rc::Rc;

use serde_json::{Map, Value};

use super::rules::{Match, header_name, is_token, plain};
use super::walk::{ConfigError, Place, Read, flag, merge, parse_text};
use super::{
    Anonymous, Config, Fate, FingerprintPolicy, KeyPolicy, Mode, OnCompleted, OnStoreFailure, OnTooLarge, OnUnknown,
    Outcomes, Part, Policy, Rule, Scope, Slug, Statuses,
};

impl Config {
    /// Reads the whole document, or says what is wrong with it; `env` reads a variable of the VM's environment.
    pub fn parse(document: &[u8], env: &dyn Fn(&str) -> Option<String>) -> Result<Config, ConfigError> {
        let warnings = RefCell::default();
        let root = Place::root(&warnings);
        let mut config = root.object(&parse_text(document, root)?, |fields| {
            let max_bytes = fields.nested("store", store)?;
            let hash_key = fields.nested("secrets", |at, value| secrets(&at.as_secret(), value, env))?;
            let problem_base = fields.read("problem_base", "urn:envoy-idempotency:".into(), problem_base)?;
            // The defaults are right by themselves, so that what is wrong with a rule is the rule's fault.
            let (defaults, common) = fields
                .nested("policy", |at, value| Ok((value.clone(), Rc::new(policy(at, value, value, &problem_base)?))))?;
            let everywhere =
                || Rule { name: "default".into(), matches: Match::unsafe_methods(), policy: common.clone() };
            let rules = fields.read("rules", None, |at, value| {
                at.filled_list(value, |at, value| rule(at, value, &defaults, &common)).map(Some)
            })?;
            Ok(Config { max_bytes, hash_key, rules: rules.unwrap_or_else(|| vec![everywhere()]), warnings: Vec::new() })
        })?;
        refuse_bodies_that_never_fit(&root.member("store").member("max_bytes"), &config)?;
        warn_of_unreachable(&root.member("rules"), &config.rules);
        config.warnings = warnings.into_inner();
        Ok(config)
    }
}

/// Reads `store`: the bound of the embedded store's table.
fn store(at: &Place<'_>, value: &Value) -> Read<u64> {
    at.object(value, |fields| {
        fields.read("type", (), |at, value| at.choice(value, &[("local", ())]))?;
        fields.read("max_bytes", 64 * MIB, |at, value| at.whole(value, MIB..=16 * 1024 * MIB))
    })
}

/// Reads `secrets`: the key of names.
fn secrets(at: &Place<'_>, value: &Value, env: &dyn Fn(&str) -> Option<String>) -> Read<Option<Vec<u8>>> {
    at.object(value, |fields| fields.read("hash_key", None, |at, value| secret(at, value, env).map(Some)))
}

/// Reads a secret that stands here or, better, in the environment.
fn secret(at: &Place<'_>, value: &Value, env: &dyn Fn(&str) -> Option<String>) -> Read<Vec<u8>> {
    let text = match value {
        Value::Object(_) => at.object(value, |fields| {
            fields.required("env", |at, value| {
                let name = plain(at, value)?;
                // The name is not repeated: it may be the secret itself, put in the wrong place.
                env(&name).ok_or_else(|| at.error("names a variable that the VM's environment does not have"))
            })
        })?,
        Value::String(text) => {
            at.warn("can be read in Envoy's config dump; give {\"env\": NAME} instead");
            text.clone()
        }
        _ => return Err(at.wrong("a string or {\"env\": NAME}", value)),
    };
    if text.is_empty() { Err(at.error("must not be empty")) } else { Ok(text.into_bytes()) }
}

fn problem_base(at: &Place<'_>, value: &Value) -> Read<String> {
    let fits = |text: &str| !text.is_empty() && text.len() <= 1024 && text.bytes().all(|byte| byte.is_ascii_graphic());
    at.text(value, "1 to 1024 visible ASCII characters", fits).map(str::to_owned)
}

/// Reads one of `rules`; the document's own policy is given as it was written and as it was read.
fn rule(at: &Place<'_>, value: &Value, defaults: &Value, common: &Rc<Policy>) -> Read<Rule> {
    at.object(value, |fields| {
        Ok(Rule {
            name: fields.read("name", at.to_string().trim_start_matches('/').to_owned(), plain)?,
            matches: fields.nested("match", Match::read)?,
            policy: fields.read("policy", common.clone(), |at, patch| {
                // By itself first: so each value of the patch is judged, and warned of, where it was written.
                policy(&at.as_patch(), patch, patch, &common.problem_base)?;
                let mut merged = defaults.clone();
                merge(&mut merged, patch);
                let said_before = RefCell::default();
                Ok(Rc::new(policy(&at.warning_to(&said_before), &merged, patch, &common.problem_base)?))
            })?,
        })
    })
}

/// Reads a policy. `written` is the part of it that was written here, for contradictions to point at.
fn policy(at: &Place<'_>, value: &Value, written: &Value, problem_base: &str) -> Read<Policy> {
    let policy = at.object(value, |fields| {
        Ok(Policy {
            mode: fields.read("mode", Mode::Enforce, |at, value| {
                at.choice(value, &[("enforce", Mode::Enforce), ("observe", Mode::Observe), ("off", Mode::Off)])
            })?,
            key: fields.nested("key", key)?,
            scope: fields.nested("scope", scope)?,
            fingerprint: fields.nested("fingerprint", fingerprint)?,
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
            ttl_ms: 1000 * fields.read("ttl_s", 1800, |at, value| at.whole(value, 1..=YEAR_S))?,
            max_request_bytes: fields.read("max_request_bytes", 524_288, |at, value| at.whole(value, 1..=64 * MIB))?,
            max_response_bytes: fields
                .read("max_response_bytes", 524_288, |at, value| at.whole(value, 1..=64 * MIB))?,
            outcomes: fields.nested("outcomes", outcomes)?,
            statuses: fields.read("statuses", Statuses::classic(), statuses)?,
            problem_base: problem_base.to_owned(),
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
    Ok(())
}

fn key(at: &Place<'_>, value: &Value) -> Read<KeyPolicy> {
    at.object(value, |fields| {
        Ok(KeyPolicy {
            sources: fields.read("sources", vec![Part::Header("idempotency-key".into())], |at, value| {
                at.filled_list(value, part)
            })?,
            required: fields.read("required", false, flag)?,
            max_bytes: fields.read("max_bytes", 255, |at, value| at.whole(value, 1..=4096))? as usize,
        })
    })
}

/// Reads one place of a request.
fn part(at: &Place<'_>, value: &Value) -> Read<Part> {
    at.one_of(
        value,
        &[
            ("header", |at, value| Ok(Part::Header(header_name(at, value)?))),
            ("query", |at, value| Ok(Part::Query(plain(at, value)?))),
            ("cookie", |at, value| Ok(Part::Cookie(at.text(value, "a cookie name", is_token)?.to_owned()))),
            ("path_segment", |at, value| Ok(Part::PathSegment(at.whole(value, 0..=255)? as usize))),
            ("any", |at, value| Ok(Part::Any(at.filled_list(value, part)?))),
        ],
    )
}

fn scope(at: &Place<'_>, value: &Value) -> Read<Scope> {
    at.object(value, |fields| {
        Ok(Scope {
            caller: fields
                .read("caller", vec![Part::Header("authorization".into())], |at, value| at.list(value, caller))?,
            anonymous: fields.read("anonymous", Anonymous::Auto, anonymous)?,
            method: fields.read("method", true, flag)?,
            host: fields.read("host", true, flag)?,
            path: fields.read("path", true, flag)?,
        })
    })
}

fn caller(at: &Place<'_>, value: &Value) -> Read<Part> {
    fn is_raw(part: &Part) -> bool {
        match part {
            Part::Header(name) => name == "authorization",
            Part::Any(parts) => parts.iter().any(is_raw),
            _ => false,
        }
    }
    let part = part(at, value)?;
    if is_raw(&part) {
        at.warn("takes authorization as it was sent, so a client that renews its token is another caller");
    }
    Ok(part)
}

fn anonymous(at: &Place<'_>, value: &Value) -> Read<Anonymous> {
    let words = [("auto", Anonymous::Auto), ("share", Anonymous::Share), ("refuse", Anonymous::Refuse)];
    let anonymous = at.choice(value, &words)?;
    if anonymous == Anonymous::Share {
        at.warn("lets callers that cannot be told apart see each other's responses");
    }
    Ok(anonymous)
}

fn fingerprint(at: &Place<'_>, value: &Value) -> Read<FingerprintPolicy> {
    at.object(value, |fields| {
        Ok(FingerprintPolicy {
            body: fields.read("body", true, |at, value| at.choice(value, &[("bytes", true), ("off", false)]))?,
            query: fields.read("query", true, flag)?,
            headers: fields.read("headers", vec!["content-type".into()], |at, value| at.list(value, header_name))?,
        })
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

fn outcomes(at: &Place<'_>, value: &Value) -> Read<Outcomes> {
    let mut outcomes = Outcomes::default();
    let [_, not_kept @ ..] = &FATES;
    for (name, value) in at.members(value)? {
        let place = at.member(name);
        let class = CLASSES.iter().position(|class| class == name);
        let ending = ENDINGS.iter().position(|ending| ending == name);
        let status = name.parse().ok().filter(|status| (200..=599).contains(status) && name.len() == 3);
        // A name is checked also where a patch takes it away.
        if class.is_none() && ending.is_none() && status.is_none() {
            let known = [&CLASSES[..], &["200 to 599"], &ENDINGS[..]].concat();
            return Err(at.unknown(name, &known));
        }
        if at.is_patch() && value.is_null() {
            continue;
        }
        let words: &[_] = if ending.is_some() { not_kept } else { &FATES };
        let fate = place.choice(value, words)?;
        warn_of_fate(&place, class.map(|class| 200 + 100 * class as u16).or(status), name, fate);
        if let Some(known) = class.and_then(|class| outcomes.classes.get_mut(class)) {
            *known = fate;
        }
        if let Some(known) = ending.and_then(|ending| outcomes.endings.get_mut(ending)) {
            *known = fate;
        }
        if let Some(status) = status {
            outcomes.exact.retain(|(known, _)| *known != status);
            outcomes.exact.push((status, fate));
        }
    }
    Ok(outcomes)
}

/// The status is the first of its class; an ending has none.
fn warn_of_fate(at: &Place<'_>, status: Option<u16>, name: &str, fate: Fate) {
    match (status, fate) {
        (Some(400..), Fate::Store) => at.warn("keeps a failure, which every retry gets back until the record expires"),
        (Some(500..), Fate::Release) => at.warn("frees the key, for another payload too, though it may have executed"),
        (None, Fate::Release | Fate::Retry) if name != "unsent" => {
            at.warn("lets a retry run at once, though it may have executed");
        }
        _ => {}
    }
}

fn statuses(at: &Place<'_>, value: &Value) -> Read<Statuses> {
    let preset = |at: &Place<'_>, value: &Value| at.choice(value, &[("classic", false), ("ietf", true)]);
    let empty = Value::Object(Map::new());
    let (ietf, members) = match value {
        Value::Object(_) => (false, value),
        Value::String(_) => (preset(at, value)?, &empty),
        _ => return Err(at.wrong("\"classic\" or \"ietf\" or an object", value)),
    };
    at.object(members, |fields| {
        let mut statuses = match fields.read("base", ietf, preset)? {
            true => Statuses::ietf(),
            false => Statuses::classic(),
        };
        for slug in Slug::ALL {
            let status =
                fields.read(slug.as_str(), u64::from(statuses.of(slug)), |at, value| at.whole(value, 400..=599))?;
            statuses.set(slug, status as u16);
        }
        Ok(statuses)
    })
}

/// A table that no response of the allowed size fits would keep none of them.
fn refuse_bodies_that_never_fit(at: &Place<'_>, config: &Config) -> Read<()> {
    let largest = config.rules.iter().map(|rule| rule.policy.max_response_bytes).max().unwrap_or(0);
    match config.max_bytes < largest {
        true => Err(at.error(format_args!("must be at least max_response_bytes ({largest}), is {}", config.max_bytes))),
        false => Ok(()),
    }
}

/// Says once that rules stand behind one that lets nothing past.
fn warn_of_unreachable(at: &Place<'_>, rules: &[Rule]) {
    let Some(last) = rules.iter().position(|rule| rule.matches.is_everything()) else { return };
    if last + 1 < rules.len() {
        at.item(last + 1).warn(&format!("is never reached, because {} matches every request", at.item(last)));
    }
}

const FATES: [(&str, Fate); 4] =
    [("store", Fate::Store), ("release", Fate::Release), ("retry", Fate::Retry), ("unknown", Fate::Unknown)];

/// In the order of [`Outcomes::classes`].
const CLASSES: [&str; 4] = ["2xx", "3xx", "4xx", "5xx"];

/// In the order of [`Outcomes::endings`].
const ENDINGS: [&str; 4] = ["disconnect", "reset", "timeout", "unsent"];

const MIB: u64 = 1 << 20;
const DAY_MS: u64 = 24 * 60 * 60 * 1000;
const YEAR_S: u64 = 365 * 24 * 60 * 60;
