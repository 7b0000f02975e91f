//! What several tests ask of an answer.
//!
//! Its one rule: a check compares everything the contract fixes, so that a test only names what is special.
//! It does not know which request was sent.

use harness::Response;
use serde_json::json;

/// `Idempotency-Status` of an answer; empty when there is none.
#[track_caller]
pub fn said(response: &Response) -> &str {
    assert!(response.headers("idempotency-status").len() <= 1, "one line at most: {}", shown(response));
    response.header("idempotency-status").unwrap_or_default()
}

/// The answer is an execution that was stored, for the default of half an hour.
#[track_caller]
pub fn executed(response: &Response, attempt: u32) {
    assert_eq!(said(response), format!("executed;stored=?1;attempt={attempt};ttl=1800"), "{}", shown(response));
    assert_eq!(response.header("idempotent-replayed"), None);
}

/// The answer is an execution of which nothing was kept, and what became of it.
#[track_caller]
pub fn not_stored(response: &Response, status: u16, attempt: u32, outcome: &str) {
    let seen = (response.status, said(response).to_owned());
    let line = format!("executed;stored=?0;attempt={attempt};outcome={outcome}");
    assert_eq!(seen, (status, line), "{}", shown(response));
    assert_eq!(response.header("idempotent-replayed"), None);
}

/// The answer is `first` once more, all of it that is kept.
#[track_caller]
pub fn replays(again: &Response, first: &Response) {
    let attempt = parameter(first, "attempt").unwrap_or(1);
    let (age, ttl) = (parameter(again, "age"), parameter(again, "ttl"));
    let form = |age: u64, ttl: u64| format!("replayed;attempt={attempt};age={age};ttl={ttl}");
    assert_eq!(said(again), form(age.unwrap_or(0), ttl.unwrap_or(0)), "{}", shown(again));
    assert!(age < Some(30) && ttl <= parameter(first, "ttl").or(Some(1800)), "{}", shown(again));
    assert_eq!(again.headers("idempotent-replayed"), [b"true"], "{}", shown(again));
    assert_eq!(again.status, first.status);
    assert_eq!(end_to_end(again), end_to_end(first));
    assert!(again.body == first.body, "the bodies differ: {}", shown(again));
}

/// The answer is a problem of the gateway, complete in every member and header; `retry_after` in seconds.
#[track_caller]
pub fn refused(response: &Response, status: u16, slug: &str, retry_after: Option<&str>) {
    assert_eq!(response.status, status, "{}", shown(response));
    assert_eq!(response.headers("content-type"), [b"application/problem+json"], "{}", shown(response));
    assert_eq!(response.headers("cache-control"), [b"no-store"], "{}", shown(response));
    assert_eq!(response.header("retry-after"), retry_after, "{}", shown(response));
    assert_eq!(response.header("idempotent-replayed"), None, "{}", shown(response));
    let line = said(response);
    assert!(line.starts_with("refused;") && line.ends_with(&format!("reason={slug}")), "{line}");
    let problem = response.json();
    let of_type = problem["type"].as_str().unwrap_or_default();
    assert!(of_type.ends_with(slug), "{of_type}");
    assert_eq!(problem["status"], json!(status));
    for member in ["title", "detail"] {
        assert!(problem[member].as_str().is_some_and(|text| !text.is_empty()), "{member} in {problem}");
    }
}

/// Whether the answer is the gateway's refusal with this slug.
pub fn is_refusal(response: &Response, slug: &str) -> bool {
    response.header("idempotency-status").is_some_and(|line| line.ends_with(&format!("reason={slug}")))
}

/// An answer as a person reads it.
pub fn shown(response: &Response) -> String {
    let mut text = format!("the answer is {}\n", response.status);
    for (name, value) in &response.headers {
        text.push_str(&format!("  {name}: {}\n", value.escape_ascii()));
    }
    text.push_str(&format!("  {}", response.body[..response.body.len().min(400)].escape_ascii()));
    text
}

/// A number among the parameters of `Idempotency-Status`.
pub fn parameter(response: &Response, name: &str) -> Option<u64> {
    let line = response.header("idempotency-status")?;
    line.split(';').find_map(|part| part.strip_prefix(name)?.strip_prefix('=')?.parse().ok())
}

/// The header lines that a replay repeats, in an order of their own.
fn end_to_end(response: &Response) -> Vec<String> {
    let is_kept = |name: &str| !PER_DELIVERY.contains(&name) && !name.starts_with("x-envoy-");
    let mut lines: Vec<_> = response.headers.iter().filter(|(name, _)| is_kept(name)).collect();
    // Lines of one name keep their order.
    lines.sort_by(|(one, _), (other, _)| one.cmp(other));
    lines.into_iter().map(|(name, value)| format!("{name}: {}", value.escape_ascii())).collect()
}

/// About one delivery, its framing or its connection.
const PER_DELIVERY: [&str; 8] = [
    "connection",
    "content-length",
    "date",
    "idempotency-status",
    "idempotent-replayed",
    "keep-alive",
    "server",
    "transfer-encoding",
];
