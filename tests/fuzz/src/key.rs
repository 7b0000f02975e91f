//! The client's key, from every place it can stand in.
//!
//! Its one rule: what is a key in a header is decided here once more, from the words of the standard alone.

use envoy_idempotency::caller::Caller;
use envoy_idempotency::config::source::Request;
use envoy_idempotency::config::{Config, Inject, Issued, KeyPolicy, Part};
use envoy_idempotency::key::{self, ClientKey, NoKey};
use envoy_idempotency::message::RequestHead;
use percent_encoding::{NON_ALPHANUMERIC, percent_encode};

type Told = Result<ClientKey, NoKey>;

/// Takes one text as a header's value, and two as any bytes in query, path and cookie.
pub fn hold(data: &[u8]) {
    a_header_holds_a_key_or_none(data);
    let (one, other) = data.split_at(data.len() / 2);
    every_place_gives_the_same_key(one);
    other_bytes_are_another_key(one, other);
}

fn a_header_holds_a_key_or_none(value: &[u8]) {
    let told = in_header(&[value]);
    match (key_of(value), &told) {
        (Meaning::Key(key), told) if key.is_empty() || key.len() > MAX_BYTES => assert_eq!(*told, Err(NoKey::Invalid)),
        (Meaning::Key(key), told) => assert_eq!(*told, in_query(&key), "{key:?}"),
        (Meaning::NoKey, told) => assert_eq!(*told, Err(NoKey::Invalid)),
        // What follows is not ours to judge; if it is well-formed, it does not count.
        (Meaning::KeyAndMore(key), Ok(_)) => assert_eq!(told, in_query(&key), "{key:?}"),
        (Meaning::KeyAndMore(_), Err(_)) => assert_eq!(told, Err(NoKey::Invalid)),
    }
    assert_eq!(told, in_header(&[&[b" \t", value, b" "].concat()]), "white space around it counts");
    assert_eq!(in_header(&[value, value]), Err(NoKey::Invalid), "two lines do not say which is meant");
    if told.is_ok() && !value.trim_ascii().starts_with(b"\"") {
        assert_eq!(told, in_header(&[&[b"\"", value.trim_ascii(), b"\""].concat()]), "bare and quoted differ");
    }
}

fn every_place_gives_the_same_key(bytes: &[u8]) {
    let told = in_query(bytes);
    match (1..=MAX_BYTES).contains(&bytes.len()) {
        true => assert!(told.is_ok()),
        false => assert_eq!(told, Err(NoKey::Invalid)),
    }
    let elsewhere = format!("/a?other=1&k={}&k2=", encoded(bytes));
    assert_eq!(read(any_of([Part::Header("k".into()), Part::Query("k".into())]), &elsewhere, &[]), told);
    if !bytes.is_empty() {
        let path = format!("/a/{}?k=other", encoded(bytes));
        assert_eq!(read(Part::PathSegment(1), &path, &[]), told, "path and query differ");
    }
    if bytes.trim_ascii() == bytes && !bytes.contains(&b';') {
        let cookies = [b"a=b; k=".as_slice(), bytes, b"; k2=c"].concat();
        assert_eq!(read(Part::Cookie("k".into()), "/a", &[("cookie", &cookies)]), told, "cookie and query differ");
    }
}

fn other_bytes_are_another_key(one: &[u8], other: &[u8]) {
    let (Ok(first), Ok(second)) = (in_query(one), in_query(other)) else { return };
    assert_eq!(first == second, one == other);
    let config = Config::parse(b"{}", &|_| None).expect("an empty document is right");
    let name = |key| key::name(&config.rules[0].policy, None, &RequestHead::default(), &Caller::Anonymous, key);
    assert_eq!(name(&first) == name(&second), one == other, "two keys share a name");
}

enum Meaning {
    Key(Vec<u8>),
    /// A string of the standard, and something behind it.
    KeyAndMore(Vec<u8>),
    NoKey,
}

/// "A string is zero or more printable ASCII characters (the range %x20 to %x7E) ... `"` and `\` are escaped" (RFC 9651,
/// section 3.3.3); anything else is a key if it is visible and needs no quoting.
fn key_of(value: &[u8]) -> Meaning {
    let value = value.trim_ascii();
    let Some(mut rest) = value.strip_prefix(b"\"") else {
        let is_bare = |byte: &u8| (b'!'..=b'~').contains(byte) && !b",\";\\".contains(byte);
        return if value.iter().all(is_bare) { Meaning::Key(value.to_vec()) } else { Meaning::NoKey };
    };
    let mut key = Vec::new();
    loop {
        rest = match rest {
            [b'"'] => return Meaning::Key(key),
            [b'"', b';', ..] => return Meaning::KeyAndMore(key),
            [b'\\', escaped @ (b'"' | b'\\'), rest @ ..] => {
                key.push(*escaped);
                rest
            }
            [b'"' | b'\\', ..] => return Meaning::NoKey,
            [plain @ b' '..=b'~', rest @ ..] => {
                key.push(*plain);
                rest
            }
            _ => return Meaning::NoKey,
        }
    }
}

fn in_header(lines: &[&[u8]]) -> Told {
    let fields: Vec<_> = lines.iter().map(|line| ("idempotency-key", *line)).collect();
    read(Part::Header("idempotency-key".into()), "/a", &fields)
}

/// Any bytes can stand here, so this is what the other places are compared with.
fn in_query(bytes: &[u8]) -> Told {
    read(Part::Query("k".into()), &format!("/a?k={}", encoded(bytes)), &[])
}

fn any_of(parts: [Part; 2]) -> Part {
    Part::Any(parts.into())
}

fn encoded(bytes: &[u8]) -> String {
    percent_encode(bytes, NON_ALPHANUMERIC).to_string()
}

fn read(source: Part, path: &str, fields: &[(&str, &[u8])]) -> Told {
    let pseudo = [(":method", b"POST".as_slice()), (":path", path.as_bytes()), (":authority", b"api")];
    let head = RequestHead { headers: pseudo.iter().chain(fields).copied().collect() };
    ClientKey::read(&policy(source), &Request::new(&head, b"", &|_| None))
}

/// Keys that stand here and are no longer than by default.
pub(crate) fn policy(source: Part) -> KeyPolicy {
    let sources = vec![source];
    KeyPolicy { sources, required: false, issued: Issued::Any, max_bytes: MAX_BYTES, inject: Inject::Off }
}

pub(crate) const MAX_BYTES: usize = 255;
