//! A configuration in words that an operator understands at the worst hour.
//!
//! Its one rule: what it says is what the parser made of the document, so defaults and merged policies are in it;
//! secrets are never looked at, only where they come from.
//! It does not know what stands around the filter.

use envoy_idempotency::config::{
    Config, Dialect, Ending, Execution, Fate, Inject, Mode, OnCompleted, OnInFlight, OnStoreFailure, OnTooLarge,
    OnUnknown, Outcomes, Policy, Presence, Save, Store,
};
use envoy_idempotency::json::Pointer;
use envoy_idempotency::refusal::ProblemType;
use serde_json::Value;

use crate::sameness::{apart, caller, part, same};

/// A label and what there is to say under it.
pub type Line = (&'static str, String);

/// Where records are kept, and under which secrets. `document` is what the configuration was read from.
pub fn store(config: &Config, document: &Value) -> Vec<Line> {
    let mut lines = Vec::new();
    match &config.store {
        Store::Local { max_bytes } => lines.push((
            "records",
            format!(
                "in this Envoy's memory, at most {}: shared by its workers, gone with its process, unknown to any other \
                 Envoy",
                bytes(*max_bytes)
            ),
        )),
        Store::Redis(redis) => {
            let way = match &redis.dialect {
                Dialect::Resp { login: None } => "on streams that stay open".to_owned(),
                Dialect::Resp { login: Some(_) } => "on streams that stay open and log in first".to_owned(),
                Dialect::Webdis(webdis) => format!("authority {}, path {}", webdis.authority, webdis.path),
            };
            let batching = if redis.batching { "" } else { " One operation to a call." };
            lines.push((
                "records",
                format!(
                    "in Redis, under the prefix {}, shared by all gateways; reached through cluster {} ({way}). A call \
                     may take {}, an operation is tried {}.{batching} After {} in a row all fail at once for {}.",
                    redis.prefix,
                    redis.cluster,
                    time(redis.timeout_ms),
                    times(redis.attempts),
                    count(redis.breaker.failures, "failed call"),
                    time(redis.breaker.open_ms),
                ),
            ));
            let cache = match &redis.cache {
                Some(cache) => format!(
                    "this Envoy remembers {} of records for {}, responses up to {}",
                    bytes(cache.max_bytes),
                    time(cache.ttl_ms),
                    bytes(cache.max_entry_bytes)
                ),
                None => "off: every request asks Redis".to_owned(),
            };
            lines.push(("cache", cache));
            for secret in ["authorization", "username", "password"] {
                if !document["store"][secret].is_null() {
                    lines.push((secret, origin(&document["store"][secret])));
                }
            }
        }
    }
    if let Some(path) = &config.status_path {
        lines.push(("look-up", format!("GET {path} tells callers the status of their own operations")));
    }
    lines.push((
        "names",
        match config.hash_key {
            Some(_) => format!("HMAC-SHA-256, its key {}", origin(&document["secrets"]["hash_key"])),
            None => "SHA-256, without a key".to_owned(),
        },
    ));
    let given = document["secrets"]["encryption"].as_array().into_iter().flatten();
    let keys: Vec<_> = config
        .encryption
        .iter()
        .zip(given)
        .map(|(key, given)| format!("{} ({})", key.id, origin(&given["key"])))
        .collect();
    lines.push((
        "responses",
        match keys.as_slice() {
            [] => "kept in clear".to_owned(),
            [key] => format!("encrypted under {key}"),
            [key, others @ ..] => format!("encrypted under {key}; also read under {}", others.join(", ")),
        },
    ));
    lines
}

/// Where a secret comes from.
fn origin(secret: &Value) -> String {
    match secret["env"].as_str() {
        Some(name) => format!("from the variable {name}"),
        None => "written in the document".to_owned(),
    }
}

/// Which requests a rule is about, as the document has it; without a rule there are two methods.
pub fn requests(rule: Option<&Value>) -> Line {
    let Some(rule) = rule else { return ("requests", "POST or PATCH, every path".to_owned()) };
    let wanted = &rule["match"];
    let texts = |list: &Value, shown: fn(&Value) -> String| -> Vec<String> {
        list.as_array().into_iter().flatten().map(shown).collect()
    };
    let plain = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut said = vec![match texts(&wanted["methods"], plain).as_slice() {
        [] => "POST or PATCH".to_owned(),
        methods => either(&methods.iter().map(|name| method(name)).collect::<Vec<_>>()),
    }];
    match texts(&wanted["hosts"], plain).as_slice() {
        [] => {}
        hosts => said.push(format!("on host {}", either(hosts))),
    }
    let path = &wanted["path"];
    for (kind, words) in
        [("exact", "path"), ("prefix", "every path that begins with"), ("template", "paths of the form")]
    {
        if let Some(text) = path[kind].as_str() {
            said.push(format!("{words} {text}"));
        }
    }
    if path.is_null() {
        said.push("every path".to_owned());
    }
    said.extend(texts(&wanted["headers"], |header| match header["equals"].as_str() {
        Some(value) => format!("header {}: {value}", header["name"].as_str().unwrap_or_default()),
        None => format!("any header {}", header["name"].as_str().unwrap_or_default()),
    }));
    let metadata = &wanted["route_metadata"];
    if let [Some(namespace), Some(key), Some(value)] = ["namespace", "key", "equals"].map(|it| metadata[it].as_str()) {
        said.push(format!("route metadata {namespace}.{key} = {value}"));
    }
    ("requests", said.join(", "))
}

fn method(name: &str) -> String {
    match name {
        "*" => "every method that is not safe (all but GET, HEAD, OPTIONS, TRACE and CONNECT)".to_owned(),
        name => name.to_owned(),
    }
}

/// What is done with these requests.
pub fn policy(policy: &Policy) -> Vec<Line> {
    let mut lines = Vec::new();
    let status = |slug: ProblemType| format!("{} {}", policy.statuses.of(slug), slug.as_str());
    match policy.mode {
        Mode::Enforce => {}
        Mode::Observe => lines.push((
            "mode",
            "observe: what follows is decided and counted, and nothing is changed but Idempotency-Status".to_owned(),
        )),
        Mode::Inject => {
            return vec![
                ("mode", "inject: a key is seen to go upstream, and nothing is kept or replayed".to_owned()),
                ("key", key(policy, &status)),
            ];
        }
        Mode::Off => return vec![("mode", "off: they pass as if no rule had matched".to_owned())],
    }
    lines.push(("key", key(policy, &status)));
    lines.push(("caller", caller(policy, &status)));
    lines.push(("apart", apart(policy)));
    lines.push(("same request", same(policy, &status)));
    lines.extend(duplicates(policy, &status));
    lines.extend(executions(policy, &status));
    lines
}

/// What becomes of a request that came before.
fn duplicates(policy: &Policy, status: &dyn Fn(ProblemType) -> String) -> Vec<Line> {
    let mut lines = Vec::new();
    lines.push((
        "while it runs",
        match policy.on_in_flight {
            OnInFlight::Reject => format!("a duplicate is refused: {}", status(ProblemType::InFlight)),
            OnInFlight::Wait { max_wait_ms } => format!(
                "a duplicate waits for the answer, at most {}, and is then refused: {}",
                time(max_wait_ms),
                status(ProblemType::InFlight)
            ),
        },
    ));
    lines.push((
        "once completed",
        match policy.on_completed {
            OnCompleted::Replay => format!(
                "a duplicate gets the first response again, if that is at most {}; otherwise {}",
                bytes(policy.max_response_bytes),
                status(ProblemType::NotReplayable)
            ),
            OnCompleted::Conflict => {
                format!(
                    "a duplicate is refused with the first status and Location: {}",
                    status(ProblemType::AlreadyCompleted)
                )
            }
        },
    ));
    lines.push((
        "outcome unknown",
        match policy.on_unknown {
            OnUnknown::Retry => format!(
                "while the lease lasts a duplicate is refused: {}; then it runs, under the next attempt number",
                status(ProblemType::OutcomeUnknown)
            ),
            OnUnknown::Hold => {
                format!("a duplicate is refused until the record expires: {}", status(ProblemType::OutcomeUnknown))
            }
        },
    ));
    lines
}

/// What becomes of a request that runs, or cannot.
fn executions(policy: &Policy, status: &dyn Fn(ProblemType) -> String) -> Vec<Line> {
    let mut lines = Vec::new();
    lines.push((
        "store fails",
        match policy.on_store_failure {
            OnStoreFailure::Reject => format!("nothing runs: {}", status(ProblemType::StoreUnavailable)),
            OnStoreFailure::Forward => "requests run unprotected, and Idempotency-Status says so".to_owned(),
        },
    ));
    let larger = format!("a request body over {}", bytes(policy.max_request_bytes));
    lines.push((
        "large bodies",
        match policy.on_too_large {
            OnTooLarge::Reject => format!("{larger} is refused: {}", status(ProblemType::BodyTooLarge)),
            OnTooLarge::Bypass => format!("{larger} runs unprotected, and Idempotency-Status says so"),
        },
    ));
    let waits = "a client that waits for 100 Continue, where Envoy leaves that to the service, is refused";
    lines.push(("100 Continue", format!("{waits}: {}", status(ProblemType::ExpectationFailed))));
    lines.push(("outcomes", outcomes(&policy.outcomes)));
    lines.push((
        "executed by",
        match &policy.execution {
            Execution::Inline => "the client's own stream: if it hangs up, the outcome is unknown".to_owned(),
            Execution::Shielded { cluster, timeout_ms } => format!(
                "the gateway itself, through cluster {cluster}, within {}: it ends though the client has hung up",
                time(*timeout_ms)
            ),
        },
    ));
    lines.push((
        "answered",
        match policy.save {
            Save::BeforeReply => "when the store has the response".to_owned(),
            Save::AfterReply => "at once; a crash right then forgets a success that the client saw".to_owned(),
        },
    ));
    lines.push((
        "times",
        format!(
            "a claim stands for {} and is renewed while it runs, for at most {}; a record lives for {} after its last change",
            time(policy.lease_ms),
            time(policy.max_running_ms),
            time(policy.ttl_ms)
        ),
    ));
    let cors = if policy.expose_cors { "; browsers may read the headers of answers" } else { "" };
    lines.push(("refusals", format!("application/problem+json of type {}<name>{cors}", policy.problem_base)));
    lines
}

fn key(policy: &Policy, status: &dyn Fn(ProblemType) -> String) -> String {
    let key = &policy.key;
    let parts: Vec<_> = key.sources.iter().map(part).collect();
    let without = match key.required {
        true => format!("is refused: {}", status(ProblemType::KeyMissing)),
        false => injected(key.inject),
    };
    let invalid = status(ProblemType::KeyInvalid);
    format!("{}, at most {} bytes (else {invalid}); a request without it {without}", all(&parts), key.max_bytes)
}

/// What becomes of a request without a key where none is required.
fn injected(inject: Inject) -> String {
    match inject {
        Inject::Off => "passes unprotected".to_owned(),
        Inject::Uuid => "gets a random one, which comes back to the client for a retry".to_owned(),
        Inject::Content { window_ms, anonymous } => {
            let anonymous = if anonymous { "" } else { "; without a caller it passes unprotected" };
            format!(
                "is known by its content: what has the same caller, method, host, path, query, body, accept and \
                 fingerprint (below) is the same operation for {}{anonymous}",
                time(window_ms)
            )
        }
    }
}

/// Each fate with what leads to it.
fn outcomes(outcomes: &Outcomes) -> String {
    let mut causes: Vec<(String, Fate)> = Vec::new();
    causes.extend((2..).zip(outcomes.classes).map(|(class, fate)| (format!("{class}xx"), fate)));
    let mut exact = outcomes.exact.clone();
    exact.sort_by_key(|(status, _)| *status);
    causes.extend(exact.into_iter().map(|(status, fate)| (status.to_string(), fate)));
    let endings = [
        ("time-out", Ending::Timeout),
        ("reset", Ending::Reset),
        ("client gone", Ending::Disconnect),
        ("never sent", Ending::Unsent),
    ];
    causes.extend(endings.map(|(name, ending)| (name.to_owned(), outcomes.of_ending(ending))));
    let told = MEANINGS.map(|(fate, meaning)| {
        let names: Vec<_> = causes.iter().filter(|(_, it)| *it == fate).map(|(name, _)| name.as_str()).collect();
        if names.is_empty() { String::new() } else { format!("{}: {meaning}", names.join(", ")) }
    });
    let by_body = outcomes.json.iter().map(|entry| {
        let is = |(place, presence): &(Pointer, Presence)| match presence {
            Presence::Absent => format!("{place} is absent"),
            Presence::Null => format!("{place} is null"),
            Presence::Present => format!("{place} is present"),
        };
        let places: Vec<_> = entry.all.iter().map(is).collect();
        let meaning = MEANINGS.iter().find(|(fate, _)| *fate == entry.fate).map_or("", |(_, meaning)| *meaning);
        format!("stored by its status, and in its JSON {}: {meaning}", all(&places))
    });
    told.into_iter().filter(|text| !text.is_empty()).chain(by_body).collect::<Vec<_>>().join("; ")
}

/// What each fate means.
const MEANINGS: [(Fate, &str); 4] = [
    (Fate::Store, "kept and replayed"),
    (Fate::Release, "the key is free again"),
    (Fate::Retry, "the same request may run again at once"),
    (Fate::Unknown, "may have run, so unknown"),
];

/// `a, b or c`.
pub fn either(words: &[String]) -> String {
    joined(words, "or")
}

/// `a, b and c`.
pub fn all(words: &[String]) -> String {
    joined(words, "and")
}

fn joined(words: &[String], last_with: &str) -> String {
    match words {
        [] => String::new(),
        [word] => word.clone(),
        [others @ .., last] => format!("{} {last_with} {last}", others.join(", ")),
    }
}

/// `1 min`, in the largest unit that needs no fraction.
fn time(ms: u64) -> String {
    let units = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "min"), (1000, "s")];
    in_units(ms, &units).unwrap_or_else(|| format!("{ms} ms"))
}

fn bytes(bytes: u64) -> String {
    let units = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    in_units(bytes, &units).unwrap_or_else(|| count(bytes, "byte"))
}

fn in_units(amount: u64, units: &[(u64, &str)]) -> Option<String> {
    let (size, name) = units.iter().find(|(size, _)| amount >= *size && amount.is_multiple_of(*size))?;
    Some(format!("{} {name}", amount / size))
}

fn times(count: u32) -> String {
    match count {
        1 => "once".to_owned(),
        count => format!("{count} times"),
    }
}

fn count(count: impl Into<u64>, what: &str) -> String {
    match count.into() {
        1 => format!("1 {what}"),
        count => format!("{count} {what}s"),
    }
}
