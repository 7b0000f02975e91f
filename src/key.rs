//! From a request to the name of its record: the client's key, inside the scope it is used in.
//!
//! Its one rule: a key or a caller that cannot be read is never taken for another one; it is an error or an absence.
//! It does not know what is stored under a name.

use std::borrow::Cow;
use std::convert::Infallible;

use percent_encoding::percent_decode;
use sfv::BareItemFromInput;
use sfv::visitor::Ignored;

use crate::config::{Anonymous, KeyPolicy, Mode, Part, Policy, Scope};
use crate::digest::{Digest, HashKey, hex};
use crate::message::RequestHead;

/// What finds a record: the hash of everything that separates one operation's key from another's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(pub [u8; 32]);

impl Name {
    /// As the upstream sees it in `Idempotency-Operation`.
    pub fn hex(&self) -> String {
        hex(&self.0)
    }

    /// As logs may show it: the first 12 hex digits.
    pub fn short(&self) -> String {
        hex(self.0.get(..6).unwrap_or_default())
    }
}

/// The client's key: the value of every source, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientKey(Vec<Vec<u8>>);

/// The client sent something in the place of a key that is not one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidKey;

impl ClientKey {
    /// Reads the key; none where a source is absent.
    ///
    /// # Errors
    /// A source is there and is not a key: empty, too long, malformed, or given twice.
    pub fn read(policy: &KeyPolicy, head: &RequestHead) -> Result<Option<Self>, InvalidKey> {
        let mut parts = Vec::with_capacity(policy.sources.len());
        for source in &policy.sources {
            match read_part(source, head)? {
                None => return Ok(None),
                Some(value) if value.is_empty() => return Err(InvalidKey),
                Some(value) => parts.push(value),
            }
        }
        match parts.iter().map(Vec::len).sum::<usize>() <= policy.max_bytes {
            true => Ok(Some(ClientKey(parts))),
            false => Err(InvalidKey),
        }
    }
}

/// Who is asking, as far as the scope tells callers apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Caller {
    /// These credentials: for each part of the scope the lines it had.
    Known(Vec<Vec<Vec<u8>>>),
    /// Nobody in particular: shares one scope with all others like it.
    Anonymous,
    /// A credential is there, but outside the scope: not to be mixed with anybody.
    Outside,
    /// Nobody in particular, and the operator refuses that.
    Refused,
}

impl Caller {
    /// Reads who is asking; `client_certificate` tells whether the connection showed one.
    pub fn read(scope: &Scope, head: &RequestHead, client_certificate: &dyn Fn() -> bool) -> Self {
        let mut parts: Vec<_> = scope.caller.iter().map(|part| read_lines(part, head)).collect();
        // An empty credential shows nothing.
        parts.iter_mut().for_each(|lines| lines.retain(|line| !line.trim_ascii().is_empty()));
        if parts.iter().any(|lines| !lines.is_empty()) {
            return Caller::Known(parts);
        }
        match scope.anonymous {
            Anonymous::Refuse => Caller::Refused,
            Anonymous::Share => Caller::Anonymous,
            Anonymous::Auto if CREDENTIALS.iter().any(|name| head.headers.has(name)) || client_certificate() => {
                Caller::Outside
            }
            Anonymous::Auto => Caller::Anonymous,
        }
    }
}

/// Headers that show a credential whether or not the scope looks at them.
const CREDENTIALS: [&str; 3] = ["authorization", "cookie", "x-api-key"];

/// The name of the record of this key, used by this caller on this target.
pub fn name(policy: &Policy, hash_key: Option<&HashKey>, head: &RequestHead, caller: &Caller, key: &ClientKey) -> Name {
    // A trial run must not be seen by, or see, the records of real operations.
    let purpose = if policy.mode == Mode::Observe { "observed name" } else { "name" };
    let mut digest = Digest::new(purpose, hash_key);
    match caller {
        Caller::Known(parts) => {
            digest.part("callers", &(parts.len() as u32).to_le_bytes());
            for lines in parts {
                digest.list("caller", lines.iter().map(Vec::as_slice));
            }
        }
        Caller::Anonymous | Caller::Outside | Caller::Refused => digest.part("anonymous", b""),
    }
    if policy.scope.method {
        digest.part("method", head.method());
    }
    if policy.scope.host {
        digest.part("host", &head.host());
    }
    if policy.scope.path {
        digest.part("path", head.path());
    }
    digest.list("key", key.0.iter().map(Vec::as_slice));
    Name(digest.finish())
}

/// Whether the key that was read is the client's own `Idempotency-Key` header and nothing else.
pub fn is_sent_as_is(policy: &KeyPolicy, head: &RequestHead) -> bool {
    let mut parts = policy.sources.as_slice();
    while let [Part::Any(any)] = parts {
        let present = any.iter().find(|part| !read_lines(part, head).is_empty());
        parts = present.map(std::slice::from_ref).unwrap_or_default();
    }
    matches!(parts, [Part::Header(name)] if name == "idempotency-key")
}

/// The value of one source of the key; none where it is absent.
fn read_part(part: &Part, head: &RequestHead) -> Result<Option<Vec<u8>>, InvalidKey> {
    if let Part::Any(parts) = part {
        for part in parts {
            if let Some(value) = read_part(part, head)? {
                return Ok(Some(value));
            }
        }
        return Ok(None);
    }
    let mut lines = read_lines(part, head).into_iter();
    match (lines.next(), lines.next()) {
        (None, _) => Ok(None),
        (Some(line), None) if matches!(part, Part::Header(_)) => parse_header(&line).map(Some),
        (Some(line), None) => Ok(Some(line)),
        // Two values do not say which one is meant.
        (Some(_), Some(_)) => Err(InvalidKey),
    }
}

/// Every value that stands in this place of the request.
fn read_lines(part: &Part, head: &RequestHead) -> Vec<Vec<u8>> {
    match part {
        Part::Any(parts) => {
            parts.iter().map(|part| read_lines(part, head)).find(|lines| !lines.is_empty()).unwrap_or_default()
        }
        Part::Cookie(name) => {
            let pairs = head.headers.all("cookie").flat_map(|line| line.split(|byte| *byte == b';'));
            pairs
                .filter_map(|pair| split_pair(pair.trim_ascii()))
                .filter(|(found, _)| *found == name.as_bytes())
                .map(|(_, value)| value.to_vec())
                .collect()
        }
        Part::Header(name) => head.headers.all(name).map(<[u8]>::to_vec).collect(),
        Part::PathSegment(index) => {
            let mut segments = head.path().split(|byte| *byte == b'/').skip(1);
            segments
                .nth(*index)
                .filter(|segment| !segment.is_empty())
                .map(|text| percent_decode(text).collect())
                .into_iter()
                .collect()
        }
        Part::Query(name) => {
            let pairs = head.query().unwrap_or_default().split(|byte| *byte == b'&');
            pairs
                .map(|pair| split_pair(pair).unwrap_or((pair, b"")))
                .filter(|(found, _)| decode_query(found) == name.as_bytes())
                .map(|(_, value)| decode_query(value))
                .collect()
        }
    }
}

fn split_pair(pair: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = pair.iter().position(|byte| *byte == b'=')?;
    Some((pair.get(..at)?, pair.get(at + 1..)?))
}

/// Percent-decoding with `+` for a space, to bytes: a lossy text would let two different keys meet.
fn decode_query(text: &[u8]) -> Vec<u8> {
    let spaced: Cow<'_, [u8]> = match text.contains(&b'+') {
        true => text.iter().map(|byte| if *byte == b'+' { b' ' } else { *byte }).collect(),
        false => Cow::Borrowed(text),
    };
    percent_decode(&spaced).collect()
}

/// A key header's value: a structured-field string or a bare run of visible ASCII.
///
/// "Idempotency-Key is an Item Structured Header. Its value MUST be a String" (draft-ietf-httpapi-idempotency-key-
/// header-07, section 2.1); most clients send it bare, and `"abc"` and `abc` are the same key.
fn parse_header(value: &[u8]) -> Result<Vec<u8>, InvalidKey> {
    let value = value.trim_ascii();
    if value.first() == Some(&b'"') {
        let mut text = None;
        let item = |item: BareItemFromInput<'_>| {
            text = item.as_string().map(|string| string.as_str().as_bytes().to_vec());
            Ok::<_, Infallible>(Ignored)
        };
        sfv::Parser::new(value).parse_item_with_visitor(item).map_err(|_| InvalidKey)?;
        return text.ok_or(InvalidKey);
    }
    let bare = |byte: &u8| byte.is_ascii_graphic() && !matches!(byte, b',' | b'"' | b';' | b'\\');
    match !value.is_empty() && value.iter().all(bare) {
        true => Ok(value.to_vec()),
        false => Err(InvalidKey),
    }
}
