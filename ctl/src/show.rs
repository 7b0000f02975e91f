//! One record, as people and programs read it.
//!
//! Its one rule: a response is shown only where that is asked for, and opened only with its key.
//! It does not know where the record came from.

use envoy_idempotency::config::Config;
use envoy_idempotency::key::{KeyForm, Name};
use envoy_idempotency::lock::Lock;
use envoy_idempotency::record::{Record, RecordStatus, Response, State};
use envoy_idempotency::seal::ResponseCipher;
use envoy_idempotency::similar::Similar;
use serde_json::{Value, json};

use crate::output::Said;

/// The word of a state.
pub fn word(standing: RecordStatus) -> &'static str {
    match standing {
        RecordStatus::Completed(_) => "completed",
        RecordStatus::Open => "open",
        RecordStatus::Running => "running",
        RecordStatus::Unknown => "unknown",
    }
}

/// Since when it is so; none where the record does not tell.
pub fn since_ms(record: &Record, now_ms: u64) -> Option<u64> {
    match &record.state {
        State::Completed { since_ms, .. } => Some(*since_ms),
        // Since the lease of its last attempt was over.
        State::Unknown { retry_at_ms: end_ms, .. } | State::Running { lease_end_ms: end_ms, .. } => {
            (*end_ms <= now_ms).then_some(*end_ms)
        }
        State::Open { .. } => None,
    }
}

/// What a record says.
pub fn record(name: &Name, record: &Record, now_ms: u64, revealed: Option<&Config>, reveals: bool) -> Said {
    let seen = record.sight(now_ms);
    let seconds = |ms: Option<u64>| ms.map_or(Value::Null, |ms| Value::from(ms / 1000));
    let (status, response) = match &record.state {
        State::Completed { status, response, .. } => (*status, response.as_deref()),
        _ => (None, None),
    };
    let lease_left_ms = match &record.state {
        State::Unknown { retry_at_ms: end_ms, .. } | State::Running { lease_end_ms: end_ms, .. } => {
            Some(end_ms.saturating_sub(now_ms))
        }
        _ => None,
    };
    let form = match record.key {
        KeyForm::Bare => "bare",
        KeyForm::Quoted => "quoted",
        KeyForm::Ours(_) => "ours",
    };
    let mut members = vec![
        ("operation", name.hex().into()),
        ("state", word(seen.standing).into()),
        ("attempt", seen.attempt.into()),
        ("status", status.into()),
        ("age_s", seconds(since_ms(record, now_ms).map(|since_ms| now_ms.saturating_sub(since_ms)))),
        ("ttl", (seen.ttl_ms / 1000).into()),
        ("lease_left_s", seconds(lease_left_ms)),
        ("in_doubt", record.doubt.into()),
        ("key_form", form.into()),
        ("response_bytes", response.map(<[u8]>::len).into()),
    ];
    if reveals {
        members.extend(reveal(name, response, revealed));
    }
    Said::members(members)
}

/// What a lock says: running while it is held.
pub fn lock(name: &Name, lock: &Lock, now_ms: u64) -> Said {
    let seen = lock.sight(now_ms);
    Said::members(vec![
        ("lock", name.hex().into()),
        ("state", word(seen.standing).into()),
        ("fence", lock.fence.into()),
        ("ttl", (seen.ttl_ms / 1000).into()),
    ])
}

/// Which operations have one content, for as long as that is remembered.
pub fn similar(name: &Name, similar: &Similar, now_ms: u64) -> Said {
    let shown = |(operation, since_ms): &(Name, u64)| {
        format!("{} {} s ago", operation.hex(), now_ms.saturating_sub(*since_ms) / 1000)
    };
    let operations: Vec<_> = similar.entries.iter().map(shown).collect();
    let ttl_s = similar.expires_ms.saturating_sub(now_ms) / 1000;
    Said::members(vec![("similar", name.hex().into()), ("operations", json!(operations)), ("ttl", ttl_s.into())])
}

fn reveal(name: &Name, response: Option<&[u8]>, config: Option<&Config>) -> Vec<(&'static str, Value)> {
    let Some(sealed) = response else { return vec![("response", "none is kept".into())] };
    let cipher = ResponseCipher::new(config.map_or(&[], |config| config.encryption.as_slice()));
    let opened = cipher.open(name, sealed).and_then(|bytes| Response::decode(&bytes));
    let Ok(Response { status, headers, body, .. }) = opened else {
        let why = "does not open: give the gateway's configuration with its secrets.encryption (--config), and the \
                   variables that hold its keys";
        return vec![("response", why.into())];
    };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let fields: Vec<_> = headers.iter().map(|(name, value)| format!("{}: {}", text(name), text(value))).collect();
    vec![
        ("response_status", status.into()),
        ("response_headers", json!(fields)),
        ("response_body", body.map_or(Value::Null, |body| text(&body).into())),
    ]
}
