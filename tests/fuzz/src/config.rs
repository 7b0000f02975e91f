//! The operator's document, as text and as a `Struct`.
//!
//! Its one rule: an accepted document is accepted again in every form that means the same, and what comes of it is within
//! the bounds that docs/configuration.md states.

use envoy_idempotency::config::source::Request;
use envoy_idempotency::config::{Config, ConfigError, Store};
use envoy_idempotency::key::ClientKey;
use envoy_idempotency::message::RequestHead;
use serde_json::Value;

/// Takes one document.
pub fn hold(data: &[u8]) {
    match parse(data) {
        Err(error) => names_its_place(&error.to_string()),
        Ok(config) => {
            is_within_bounds(&config);
            can_be_asked(&config);
            if let Ok(value) = serde_json::from_slice::<Value>(data) {
                let wanted = format!("{config:?}");
                for again in [value.to_string().into_bytes(), format!("{value:#}").into_bytes(), as_struct(&value)] {
                    let again =
                        parse(&again).unwrap_or_else(|error| panic!("{value} is refused in another form: {error}"));
                    assert_eq!(format!("{again:?}"), wanted, "{value} means something else in another form");
                }
            }
        }
    }
}

fn parse(document: &[u8]) -> Result<Config, ConfigError> {
    Config::parse(document, &|name| (name != "ABSENT").then(|| name.repeat(8)))
}

fn names_its_place(complaint: &str) {
    let (place, why) = complaint.split_once(": ").expect("a complaint has a place and a reason");
    assert!(place.starts_with('/') || place == "the document", "{complaint}");
    assert!(!why.is_empty() && !complaint.chars().any(char::is_control), "not one line: {complaint:?}");
}

/// docs/configuration.md.
fn is_within_bounds(config: &Config) {
    assert!(!config.rules.is_empty());
    for rule in &config.rules {
        let policy = &rule.policy;
        assert!(policy.lease_ms >= 1000 && policy.ttl_ms > policy.lease_ms, "{policy:?}");
        assert!(!policy.key.sources.is_empty() && policy.key.max_bytes > 0, "{policy:?}");
        if let Store::Local { max_bytes } = config.store {
            assert!(max_bytes >= policy.max_response_bytes, "{policy:?}");
        }
    }
    for warning in &config.warnings {
        names_its_place(warning);
    }
}

/// Whatever the operator wrote, a request can be held against it.
fn can_be_asked(config: &Config) {
    let fields = [
        (":method", "POST"),
        (":path", "/v1/accounts/7/payments?k=1&k=%zz"),
        (":authority", "api.example.com:443"),
        ("idempotency-key", "\"k\""),
        ("cookie", "k=v; k"),
        ("authorization", "Bearer t"),
    ];
    let head = RequestHead { headers: fields.into_iter().collect() };
    let Some(rule) = config.rule_for(&head, &|_, _| None) else { return };
    let read = || ClientKey::read(&rule.policy.key, &Request::new(&head, br#"{"k": "v"}"#, &|_| None));
    assert_eq!(read(), read());
}

/// `google.protobuf.Struct` as Envoy writes it.
fn as_struct(value: &Value) -> Vec<u8> {
    let members = value.as_object().expect("an accepted document is an object");
    let entry =
        |(name, value): (&String, &Value)| field(1, &[field(1, name.as_bytes()), field(2, &wrapped(value))].concat());
    members.iter().flat_map(entry).collect()
}

/// `google.protobuf.Value`.
fn wrapped(value: &Value) -> Vec<u8> {
    match value {
        Value::Null => vec![1 << 3, 0],
        Value::Bool(flag) => vec![4 << 3, (*flag).into()],
        Value::Number(number) => {
            let double = number.as_f64().expect("every number of a document is a double");
            [&[2 << 3 | 1], double.to_le_bytes().as_slice()].concat()
        }
        Value::String(text) => field(3, text.as_bytes()),
        Value::Object(_) => field(5, &as_struct(value)),
        Value::Array(items) => field(6, &items.iter().flat_map(|item| field(1, &wrapped(item))).collect::<Vec<_>>()),
    }
}

fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![number << 3 | 2];
    let mut len = bytes.len();
    while len > 0x7f {
        out.push(len as u8 | 0x80);
        len >>= 7;
    }
    out.push(len as u8);
    out.extend(bytes);
    out
}
