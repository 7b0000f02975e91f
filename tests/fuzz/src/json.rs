//! JSON in its canonical form (RFC 8785).
//!
//! Its one rule: two texts have one canonical form, and one fingerprint, exactly where they say the same.

use envoy_idempotency::config::Config;
use envoy_idempotency::fingerprint::{Fingerprint, Payload};
use envoy_idempotency::json::{canonical, is_exact, parse};
use envoy_idempotency::message::RequestHead;
use serde_json::Value;

/// Takes one text.
pub fn hold(data: &[u8]) {
    let Ok(value) = parse(data) else {
        // What is not read is taken as bytes, and every byte counts.
        assert_ne!(fingerprint(data), fingerprint(&[data, b" "].concat()), "two bodies that are not JSON are the same");
        return;
    };
    let once = String::from_utf8(canonical(&value)).expect("a canonical form is text");
    let again = parse(once.as_bytes()).expect("a canonical form is JSON");
    is_in_order(&value, &mut once.as_bytes());
    if !is_exact(data) {
        // Taken as bytes, so nothing is asked of its numbers.
        assert_ne!(fingerprint(data), fingerprint(&[data, b" "].concat()), "white space does not count in it");
        return;
    }
    if !is_exact(once.as_bytes()) {
        // serde_json reads some numbers of 16 digits and more as a neighbour, in one spelling and not in the other: two
        // spellings of one number may then differ, and two numbers still never meet.
        return;
    }
    assert_eq!(canonical(&again), once.as_bytes(), "the canonical form has another one");
    assert_eq!(says(&value), says(&again), "{once} says something else");
    let spaced = format!("\n{value:#} ");
    assert_eq!(fingerprint(data), fingerprint(once.as_bytes()), "{once} has another fingerprint");
    if is_exact(spaced.as_bytes()) {
        assert_eq!(fingerprint(data), fingerprint(spaced.as_bytes()), "white space counts in {spaced}");
    }
    let other = Value::Array(vec![value]);
    assert_ne!(fingerprint(data), fingerprint(other.to_string().as_bytes()), "{other} is the same without its list");
}

/// No white space, members in the order of their UTF-16 code units, numbers as short as they can be.
fn is_in_order(value: &Value, rest: &mut &[u8]) {
    let mut skip = |text: &[u8]| *rest = rest.strip_prefix(text).expect("that is what comes next");
    match value {
        Value::Array(items) => {
            skip(b"[");
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    *rest = rest.strip_prefix(b",").expect("a comma between items");
                }
                is_in_order(item, rest);
            }
            *rest = rest.strip_prefix(b"]").expect("the end of the list");
        }
        Value::Object(members) => {
            skip(b"{");
            let mut members: Vec<_> = members.iter().collect();
            members.sort_by_key(|(name, _)| name.encode_utf16().collect::<Vec<_>>());
            for (index, (name, value)) in members.into_iter().enumerate() {
                let head = format!("{}{}:", if index > 0 { "," } else { "" }, Value::from(name.as_str()));
                *rest = rest.strip_prefix(head.as_bytes()).expect("the next member");
                is_in_order(value, rest);
            }
            *rest = rest.strip_prefix(b"}").expect("the end of the object");
        }
        Value::Number(number) => {
            let len = rest.iter().position(|byte| b",]}".contains(byte)).unwrap_or(rest.len());
            let (text, left) = rest.split_at(len);
            let text = std::str::from_utf8(text).expect("digits");
            let double = number.as_f64().expect("every number is a double");
            // Integers beyond 2^53 stand as they are: they are not exact, so their canonical form is not used.
            if number.is_f64() || double.abs() < 9e15 {
                assert_eq!(text.parse(), Ok(double), "another number");
                // Of two numbers that are as short and as near ECMAScript takes the even one, and Rust the larger.
                let digits = |text: &str| text.split('e').next().unwrap_or_default().replace(['.', '-'], "");
                let [ours, shortest] = [text, &format!("{double:e}")].map(|text| digits(text).trim_matches('0').len());
                assert_eq!(ours, shortest, "{text} is longer than it must be");
            }
            *rest = left;
        }
        plain => skip(plain.to_string().as_bytes()),
    }
}

/// What a value says, all numbers as doubles.
fn says(value: &Value) -> Value {
    match value {
        Value::Array(items) => items.iter().map(says).collect(),
        Value::Object(members) => members.iter().map(|(name, value)| (name.clone(), says(value))).collect(),
        // Zero has no sign here.
        Value::Number(number) => Value::from(number.as_f64().unwrap_or_default() + 0.0),
        plain => plain.clone(),
    }
}

fn fingerprint(body: &[u8]) -> Fingerprint {
    let config = Config::parse(br#"{"policy": {"fingerprint": {"body": "json"}}}"#, &|_| None).expect("it is right");
    let mut payload = Payload::new(&config.rules[0].policy, None, &RequestHead::default());
    let (first, second) = body.split_at(body.len() / 2);
    payload.body(first);
    payload.body(second);
    payload.finish().0
}
