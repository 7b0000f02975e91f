//! Keys in bodies: forms, multipart forms and JSON.
//!
//! Its one rule: a value that was written into a body is read out of it byte for byte, wherever it stands there.

use envoy_idempotency::config::source::Request;
use envoy_idempotency::config::{Config, Part};
use envoy_idempotency::fingerprint::{Fingerprint, Payload};
use envoy_idempotency::json::Pointer;
use envoy_idempotency::key::{ClientKey, NoKey};
use envoy_idempotency::message::RequestHead;
use percent_encoding::{NON_ALPHANUMERIC, percent_encode};
use serde_json::json;

use crate::choices::Choices;
use crate::key::{self, MAX_BYTES};

/// Takes a value and a boundary, and the same bytes as a body of every kind.
pub fn hold(data: &[u8]) {
    let mut choices = Choices::new(data);
    let boundary: String =
        choices.bytes(70).iter().map(|byte| char::from(b"0aZ'()+_,-./:=?"[usize::from(byte % 15)])).collect();
    let value = choices.rest();
    any_body_is_read_or_refused(data, &boundary);
    every_kind_of_body_gives_the_same_key(value, &boundary);
}

fn any_body_is_read_or_refused(body: &[u8], boundary: &str) {
    for kind in
        ["application/x-www-form-urlencoded", "application/json", &multipart_type(boundary), "multipart/form-data", ""]
    {
        for part in [Part::Form("k".into()), pointer("/k"), pointer("/0"), pointer("/-/k"), pointer("/-/-")] {
            let told = read(part, kind, body);
            assert!(!body.is_empty() || told == Err(NoKey::Absent), "a key in no body: {told:?}");
            let (first, second) = body.split_at(body.len() / 2);
            assert_eq!(fingerprint(kind, &[body]), fingerprint(kind, &[first, second]), "where it is split counts");
        }
    }
}

fn every_kind_of_body_gives_the_same_key(value: &[u8], boundary: &str) {
    let form = "application/x-www-form-urlencoded";
    let encoded = percent_encode(value, NON_ALPHANUMERIC);
    let told = read(Part::Form("k".into()), form, format!("a=b&k={encoded}&k2=c").as_bytes());
    match (1..=MAX_BYTES).contains(&value.len()) {
        true => assert!(told.is_ok()),
        false => assert_eq!(told, Err(NoKey::Invalid)),
    }
    let twice = format!("k={encoded}&k={encoded}");
    assert_eq!(read(Part::Form("k".into()), form, twice.as_bytes()), Err(NoKey::Invalid), "two values count as one");

    if let Ok(text) = std::str::from_utf8(value) {
        let body = json!({ "a": [1, { "k~/": text }], "k": "other" }).to_string();
        assert_eq!(read(pointer("/a/1/k~0~1"), "application/json", body.as_bytes()), told, "JSON and form differ");
        // A list has a key where each of its elements has one that fits, and another than its elements have.
        let list = read(pointer("/-/k"), "application/json", json!([{ "k": text }]).to_string().as_bytes());
        let written = json!([text]).to_string();
        assert_eq!(list.is_ok(), !text.is_empty() && written.len() <= MAX_BYTES, "a list is read otherwise: {list:?}");
        assert!(list.is_err() || list != told, "a list has the key of its element");
    }

    let delimiter = format!("\r\n--{boundary}");
    let clashes =
        |value: &[u8]| [value, b"\r\n--"].concat().windows(delimiter.len()).any(|part| part == delimiter.as_bytes());
    if boundary.is_empty() || boundary.ends_with(' ') || clashes(&[b"\r\n", value].concat()) {
        return;
    }
    let kind = multipart_type(boundary);
    let body = multipart(boundary, value);
    assert_eq!(read(Part::Form("k".into()), &kind, &body), told, "multipart and form differ");
    assert_eq!(
        read(Part::Form("k".into()), &kind, &body[..body.len() - 4]),
        Err(NoKey::Unreadable),
        "half a body is read"
    );
    // Clients choose another boundary for every request.
    let other = format!("{}x", boundary.get(..60).unwrap_or(boundary));
    let other_body = multipart(&other, value);
    if !String::from_utf8_lossy(value).contains(&*other) && !String::from_utf8_lossy(value).contains(boundary) {
        assert_eq!(
            fingerprint(&kind, &[&body]),
            fingerprint(&multipart_type(&other), &[&other_body]),
            "the boundary counts"
        );
        assert_ne!(fingerprint(&kind, &[&body]), fingerprint(&kind, &[&multipart(boundary, &[value, b"x"].concat())]));
    }
}

fn multipart(boundary: &str, value: &[u8]) -> Vec<u8> {
    let field = |name: &str, value: &[u8]| {
        let head = format!("--{boundary}\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n");
        [head.as_bytes(), value, b"\r\n"].concat()
    };
    [field("a", b"b"), field("k", value), format!("--{boundary}--\r\n").into_bytes()].concat()
}

fn multipart_type(boundary: &str) -> String {
    format!("multipart/form-data; boundary=\"{boundary}\"")
}

fn pointer(text: &str) -> Part {
    Part::Json(Pointer::parse(text).expect("it is a pointer"))
}

fn head(kind: &str) -> RequestHead {
    let fields = [(":method", "POST"), (":path", "/a"), (":authority", "api"), ("content-type", kind)];
    RequestHead { headers: fields.into_iter().collect() }
}

fn read(source: Part, kind: &str, body: &[u8]) -> Result<ClientKey, NoKey> {
    ClientKey::read(&key::policy(source), &Request::new(&head(kind), body, &|_| None))
}

fn fingerprint(kind: &str, chunks: &[&[u8]]) -> Fingerprint {
    let mut payload = Payload::new(&policy(), None, &head(kind));
    chunks.iter().for_each(|chunk| payload.body(chunk));
    payload.finish().0
}

fn policy() -> std::rc::Rc<envoy_idempotency::config::Policy> {
    let config = Config::parse(b"{}", &|_| None).expect("an empty document is right");
    std::rc::Rc::clone(&config.rules[0].policy)
}
