//! What becomes of one request: which rule takes it, its key, its caller, and what the filter does.
//!
//! Its one rule: the filter's own machine decides, and credentials are named and not shown.
//! It does not know what a store holds: to it every operation is new.

use std::rc::Rc;

use envoy_idempotency::caller::Caller;
use envoy_idempotency::config::source::Request;
use envoy_idempotency::config::{AsksFor, Config, Inject, Mode, Policy, Rule, Separation, Store};
use envoy_idempotency::count::{Bypass, Count};
use envoy_idempotency::digest::HashKey;
use envoy_idempotency::event::{Clock, Event, EventKind};
use envoy_idempotency::exchange::{Exchange, Secrets};
use envoy_idempotency::key::{self, ClientKey, Name, NoKey, UpstreamKey};
use envoy_idempotency::record::Owner;
use envoy_idempotency::step::{Flow, Step};

use percent_encoding::percent_decode_str;

use crate::describe::{Line, all};
use crate::request::Given;
use crate::scope::words;

/// What becomes of this request.
pub fn lines(config: &Config, given: &Given) -> Vec<Line> {
    let head = &given.head;
    if let Some(asks_for) = config.asks_gateway(head.method(), Some(head.path())) {
        let answer = match asks_for {
            AsksFor::Key => "is answered with a key for the caller",
            AsksFor::Status => "is answered with the status of the caller's own operation",
        };
        return vec![("then", answer.to_owned())];
    }
    let Some(rule) = config.rule_for(head, &NO_METADATA) else { return vec![("rule", none_takes_it(config, given))] };
    let mut lines = vec![("rule", shown(config, rule))];
    let request = Request::new(head, &given.body, &NO_ATTRIBUTES);
    let policy = &rule.policy;
    lines.push((
        "key",
        match ClientKey::read(&policy.key, &request) {
            Ok(key) => key.values().iter().map(|value| String::from_utf8_lossy(value)).collect::<Vec<_>>().join(", "),
            Err(NoKey::Absent) => "none".to_owned(),
            Err(NoKey::Invalid) => "something that is no key".to_owned(),
            Err(NoKey::Unreadable) => "none that can be read: the body is not of the kind that holds it".to_owned(),
        },
    ));
    lines.push((
        "caller",
        match Caller::read(policy, &request) {
            Caller::Known(credentials) => credentials.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
            Caller::Anonymous => "the one of all who show no credential".to_owned(),
            Caller::Absent | Caller::Refused => {
                "none that can be told from this request; what Envoy knows of a connection or has verified is not here"
                    .to_owned()
            }
        },
    ));
    let step = run(config, rule, given);
    if let Some(command) = step.commands.first() {
        lines.push(("record", format!("{}{}", prefix(config), command.name.hex())));
    }
    let hash_key = config.hash_key.as_deref().map(HashKey::new);
    if let Some(lock) = policy.lock()
        && let Some(name) = key::resource(lock.name(&rule.name), lock, hash_key.as_ref(), &request)
    {
        lines.push(("lock", format!("{}{}", prefix(config), name.hex())));
    }
    lines.extend(missing(config, given).into_iter().map(|what| ("lacks", what)));
    lines.extend(becomes(policy, &step));
    lines
}

fn prefix(config: &Config) -> &str {
    if let Store::Redis(redis) = &config.store { redis.prefix.as_str() } else { "" }
}

/// The rule that takes a request; none also where the gateway itself answers.
fn rule<'c>(config: &'c Config, given: &Given) -> Option<&'c Rule> {
    let is_for_gateway = config.asks_gateway(given.head.method(), Some(given.head.path())).is_some();
    if is_for_gateway { None } else { config.rule_for(&given.head, &NO_METADATA) }
}

/// The name of the record that a request is about; none where no record is.
pub fn name(config: &Config, given: &Given) -> Option<Name> {
    let rule = rule(config, given)?;
    run(config, rule, given).commands.first().map(|command| command.name)
}

/// What a request does not say, by which its rule tells operations apart: a real one's record has another name.
pub fn missing(config: &Config, given: &Given) -> Vec<String> {
    let taken = rule(config, given).filter(|rule| rule.policy.mode != Mode::Off);
    let Some(Rule { policy, .. }) = taken else { return Vec::new() };
    let request = Request::new(&given.head, &given.body, &NO_ATTRIBUTES);
    if policy.key.inject == Inject::Off && ClientKey::read(&policy.key, &request).is_err() {
        return Vec::new();
    }
    let mut missing = Vec::new();
    if !given.has_host && policy.scope.host == Separation::Separates {
        missing.push("host, which is part of the name: give the whole URL, or -H 'host: …'".to_owned());
    }
    if !policy.scope.caller.is_empty() && !matches!(Caller::read(policy, &request), Caller::Known(_)) {
        let parts: Vec<_> = policy.scope.caller.iter().map(words).collect();
        missing.push(format!("caller, who is part of the name: told by {}", all(&parts)));
    }
    missing
}

/// Feeds the machine this request, as the filter would.
fn run(config: &Config, rule: &Rule, given: &Given) -> Step {
    let mut exchange = Exchange::new(Rc::clone(&rule.policy), Rc::new(Secrets::new(config, b"")));
    let clock = Clock::at(0);
    let step = exchange.handle(Event {
        clock: &clock,
        kind: EventKind::RequestHeaders {
            head: &given.head,
            attribute: &NO_ATTRIBUTES,
            owner: Owner([0; 16]),
            upstream_key: UpstreamKey([0; 16]),
            end: given.body.is_empty(),
        },
    });
    if given.body.is_empty() || step.flow != Flow::Hold && !step.observed {
        return step;
    }
    let attribute = &NO_ATTRIBUTES;
    let kind = EventKind::RequestBody { attribute, chunk: &given.body, overloaded: false, end: true, trailers: false };
    exchange.handle(Event { clock: &clock, kind })
}

/// What a step says of a request, in words.
fn becomes(policy: &Policy, step: &Step) -> Vec<Line> {
    let bypassed =
        step.counts.iter().find_map(|count| if let Count::Bypassed(why) = count { Some(*why) } else { None });
    let then = match (&step.flow, bypassed) {
        (Flow::LocalReply(reply), _) => {
            let body = String::from_utf8_lossy(&reply.body);
            return vec![("then", format!("is refused: {}", reply.status)), ("with", body.trim().to_owned())];
        }
        (_, Some(Bypass::Said(reason))) => format!("passes unprotected, with reason={}", reason.as_str()),
        (_, Some(Bypass::Grpc)) => "passes unprotected: it is a gRPC call".to_owned(),
        (_, Some(Bypass::Upgrade)) => "passes unprotected: it upgrades its connection".to_owned(),
        (_, Some(Bypass::Connect)) => "passes unprotected: it opens a tunnel".to_owned(),
        _ if policy.mode == Mode::Off => "passes unprotected: the rule is off".to_owned(),
        _ if step.commands.is_empty() => "passes unprotected".to_owned(),
        _ if policy.mode == Mode::Observe => "runs; what would have become of it is only counted and logged".to_owned(),
        _ => "runs where it is the first; a duplicate goes by what the rule says of it".to_owned(),
    };
    vec![("then", then)]
}

/// Why no rule takes the request, where another spelling of its path would be taken.
fn none_takes_it(config: &Config, given: &Given) -> String {
    let path = String::from_utf8_lossy(given.head.path()).into_owned();
    let taken = spellings(&path).into_iter().find_map(|path| {
        let head = given.head_at(&path);
        Some((config.rule_for(&head, &NO_METADATA)?, path))
    });
    match taken {
        Some((rule, path)) => format!(
            "none, so it passes unprotected; but {path}, which a tolerant service may take as the same, is taken by {}: \
             docs/recipes.md has rules that catch both",
            shown(config, rule)
        ),
        None => "none, so it passes unprotected".to_owned(),
    }
}

/// Other spellings of a path that some services take as the same.
fn spellings(path: &str) -> Vec<String> {
    let decoded = percent_decode_str(path).decode_utf8_lossy();
    let plain: Vec<&str> = decoded.split('/').map(|segment| segment.split(';').next().unwrap_or_default()).collect();
    let mut kept: Vec<&str> = Vec::new();
    for segment in plain {
        match segment {
            "" | "." => {}
            ".." => drop(kept.pop()),
            segment => kept.push(segment),
        }
    }
    let joined = format!("/{}", kept.join("/"));
    let lower = joined.to_ascii_lowercase();
    let candidates = [joined.clone(), format!("{joined}/"), lower.clone(), format!("{lower}/")];
    candidates.into_iter().filter(|candidate| candidate != path).collect()
}

fn shown(config: &Config, rule: &Rule) -> String {
    match config.rules.iter().position(|other| std::ptr::eq(other, rule)) {
        Some(index) if config.rules.len() > 1 => format!("{} (/rules/{index})", rule.name),
        _ => rule.name.clone(),
    }
}

const NO_METADATA: fn(&str, &str) -> Option<Vec<u8>> = |_, _| None;
const NO_ATTRIBUTES: fn(&[&str]) -> Option<Vec<u8>> = |_| None;
