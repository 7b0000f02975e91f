//! From a request to the name of its record: the client's key, inside the scope it is used in.
//!
//! Its one rule: a key or a caller that cannot be read is never taken for another one; it is an error or an absence.
//! It does not know what is stored under a name.

use std::convert::Infallible;

use sfv::BareItemFromInput;
use sfv::visitor::Ignored;

use crate::caller::Caller;
use crate::config::source::{Fault, Request, read_lines};
use crate::config::{KeyPolicy, Mode, Part, Policy, Separation, Serialize};
use crate::digest::{Digest, HashKey, hex};
use crate::message::RequestHead;
use crate::mutant::{self, Mutant};

/// `Idempotency-Key`: the client's key, and ours upstream.
pub const KEY: &str = "idempotency-key";

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

/// A key of ours for the upstream, where the client's own header does not serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UpstreamKey(pub [u8; 16]);

impl UpstreamKey {
    /// As a UUID of version 4 (RFC 9562, section 5.4).
    pub fn text(&self) -> String {
        uuid::Builder::from_random_bytes(self.0).into_uuid().hyphenated().to_string()
    }
}

/// The form in which an operation's key goes upstream: the same for every attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyForm {
    /// The client's own key, bare.
    Bare,
    /// A key of ours, where the client's key does not stand in `Idempotency-Key`.
    Ours(UpstreamKey),
    /// The client's own key, as a structured-field string.
    Quoted,
}

impl KeyForm {
    /// One byte for the form, then a key of ours.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            KeyForm::Bare => vec![0],
            KeyForm::Quoted => vec![1],
            KeyForm::Ours(UpstreamKey(key)) => [&[2], key.as_slice()].concat(),
        }
    }
}

/// The client's key: the value of every source, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientKey(Vec<Vec<u8>>);

/// Why a request has no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoKey {
    /// A source is absent.
    Absent,
    /// A source is there and is not a key: empty, too long, malformed, or given twice.
    Invalid,
    /// A source would stand in a body that cannot be read.
    Unreadable,
}

impl ClientKey {
    /// Reads the key from the request.
    ///
    /// # Errors
    /// A source brings no value.
    pub fn read(policy: &KeyPolicy, request: &Request<'_>) -> Result<Self, NoKey> {
        let parts = policy.sources.iter().map(|source| read_part(source, request));
        ClientKey::new(policy, parts.collect::<Result<_, _>>()?)
    }

    /// Takes the key from a list of values, one a source.
    ///
    /// # Errors
    /// There is not one value for each source, or one is not a key.
    pub fn given(policy: &KeyPolicy, values: Vec<Vec<u8>>) -> Result<Self, NoKey> {
        if values.len() != policy.sources.len() {
            return Err(NoKey::Invalid);
        }
        let parse = |(source, value): (&Part, Vec<u8>)| match source {
            Part::Header(_) => parse_header(&value),
            _ => Ok(value),
        };
        ClientKey::new(policy, policy.sources.iter().zip(values).map(parse).collect::<Result<_, _>>()?)
    }

    /// A key of the gateway's own making.
    pub fn of_ours(text: String) -> Self {
        ClientKey(vec![text.into_bytes()])
    }

    /// The values, one a source.
    pub fn values(&self) -> &[Vec<u8>] {
        &self.0
    }

    /// The value of `Idempotency-Key` for the upstream; none where the key has several parts and the form is not ours.
    pub fn written(&self, form: KeyForm) -> Option<Vec<u8>> {
        match (form, self.0.as_slice()) {
            (KeyForm::Ours(key), _) => Some(key.text().into_bytes()),
            (KeyForm::Bare, [key]) => Some(key.clone()),
            (KeyForm::Quoted, [key]) => {
                // "sf-string = DQUOTE *( unescaped / "%" / bs-escaped ) DQUOTE" (RFC 9651, section 3.3.3).
                let escaped = key.iter().flat_map(|byte| match byte {
                    b'"' | b'\\' => vec![b'\\', *byte],
                    byte => vec![*byte],
                });
                Some([b'"'].into_iter().chain(escaped).chain([b'"']).collect())
            }
            (KeyForm::Bare | KeyForm::Quoted, _) => None,
        }
    }

    fn new(policy: &KeyPolicy, parts: Vec<Vec<u8>>) -> Result<Self, NoKey> {
        let is_short = parts.iter().map(Vec::len).sum::<usize>() <= policy.max_bytes;
        match is_short && parts.iter().all(|part| !part.is_empty()) {
            true => Ok(ClientKey(parts)),
            false => Err(NoKey::Invalid),
        }
    }
}

/// The name of the record of this key, used by this caller on this target.
pub fn name(policy: &Policy, hash_key: Option<&HashKey>, head: &RequestHead, caller: &Caller, key: &ClientKey) -> Name {
    // A trial run must not be seen by, or see, the records of real operations.
    let purpose = if policy.mode == Mode::Observe { "observed name" } else { "name" };
    let mut digest = Digest::new(purpose, hash_key);
    caller.digest(&mut digest);
    digest_target(&mut digest, policy, Separation::Separates, head);
    digest.list("key", key.0.iter().map(Vec::as_slice));
    Name(digest.finish())
}

/// What finds the record of a request without a key, before its body has its say: who wants what done.
pub fn content_name(policy: &Policy, hash_key: Option<&HashKey>, head: &RequestHead, caller: &Caller) -> Name {
    let purpose = if policy.mode == Mode::Observe { "observed content name" } else { "content name" };
    let mut digest = Digest::new(purpose, hash_key);
    caller.digest(&mut digest);
    digest.part("method", head.method());
    digest.part("host", &head.host());
    digest.part("path", head.path());
    digest.list("query", head.query().into_iter());
    // Another representation is another answer (RFC 9110, section 12.5.1).
    digest.list("accept", head.headers.all("accept").collect::<Vec<_>>().into_iter());
    Name(digest.finish())
}

/// What finds the requests of one caller that have the same content, before the payload has its say: all that a name is
/// made of but the key.
pub fn content(policy: &Policy, hash_key: Option<&HashKey>, head: &RequestHead, caller: &Caller) -> Name {
    let purpose = if policy.mode == Mode::Observe { "observed content" } else { "content" };
    let mut digest = Digest::new(purpose, hash_key);
    if !mutant::is(Mutant::SimilarAcrossCallers) {
        caller.digest(&mut digest);
    }
    digest_target(&mut digest, policy, Separation::Separates, head);
    Name(digest.finish())
}

/// The name of the lock of the resource that a request names; none where it does not name one.
pub fn resource(name: &str, lock: &Serialize, hash_key: Option<&HashKey>, request: &Request<'_>) -> Option<Name> {
    let values: Result<Vec<_>, _> = lock.sources.iter().map(|source| read_part(source, request)).collect();
    let values = values.ok().filter(|values| values.iter().all(|value| !value.is_empty()))?;
    let mut digest = Digest::new("lock", hash_key);
    digest.part("name", name.as_bytes());
    digest.list("resource", values.iter().map(Vec::as_slice));
    Some(Name(digest.finish()))
}

/// Adds to a hash what the scope uses so of the request's method, host and path.
pub(crate) fn digest_target(digest: &mut Digest, policy: &Policy, used: Separation, head: &RequestHead) {
    let scope = &policy.scope;
    if scope.method == used {
        digest.part("method", head.method());
    }
    if scope.host == used {
        digest.part("host", &head.host());
    }
    if scope.path == used {
        digest.part("path", head.path());
    }
}

/// The form in which the client sent its own `Idempotency-Key`; none where its key stands elsewhere or has several parts.
pub fn form(policy: &KeyPolicy, request: &Request<'_>) -> Option<KeyForm> {
    let mut parts = policy.sources.as_slice();
    while let [Part::Any(any)] = parts {
        let present = any.iter().find(|part| read_lines(part, request).is_ok_and(|lines| !lines.is_empty()));
        parts = present.map(std::slice::from_ref).unwrap_or_default();
    }
    let [Part::Header(name)] = parts else { return None };
    let line = request.head.headers.first(name).filter(|_| name == KEY)?;
    Some(if line.trim_ascii().starts_with(b"\"") { KeyForm::Quoted } else { KeyForm::Bare })
}

/// The value of one source of the key.
fn read_part(part: &Part, request: &Request<'_>) -> Result<Vec<u8>, NoKey> {
    if let Part::Any(parts) = part {
        let mut missing = NoKey::Absent;
        for part in parts {
            match read_part(part, request) {
                Err(NoKey::Absent) => {}
                Err(NoKey::Unreadable) => missing = NoKey::Unreadable,
                found => return found,
            }
        }
        return Err(missing);
    }
    let lines = read_lines(part, request).map_err(|fault| match fault {
        Fault::NotAKey => NoKey::Invalid,
        Fault::Unreadable => NoKey::Unreadable,
    })?;
    let mut lines = lines.into_iter();
    match (lines.next(), lines.next()) {
        (None, _) => Err(NoKey::Absent),
        (Some(line), None) if matches!(part, Part::Header(_)) => parse_header(&line),
        (Some(line), None) => Ok(line),
        // Two values do not say which one is meant.
        (Some(_), Some(_)) => Err(NoKey::Invalid),
    }
}

/// A key header's value: a structured-field string or a bare run of visible ASCII.
///
/// "Idempotency-Key is an Item Structured Header. Its value MUST be a String" (draft-ietf-httpapi-idempotency-key-
/// header-07, section 2.1); most clients send it bare, and `"abc"` and `abc` are the same key.
fn parse_header(value: &[u8]) -> Result<Vec<u8>, NoKey> {
    let value = value.trim_ascii();
    if value.first() == Some(&b'"') {
        let mut text = None;
        let item = |item: BareItemFromInput<'_>| {
            text = item.as_string().map(|string| string.as_str().as_bytes().to_vec());
            Ok::<_, Infallible>(Ignored)
        };
        sfv::Parser::new(value).parse_item_with_visitor(item).map_err(|_| NoKey::Invalid)?;
        return text.ok_or(NoKey::Invalid);
    }
    let bare = |byte: &u8| byte.is_ascii_graphic() && !matches!(byte, b',' | b'"' | b';' | b'\\');
    match !value.is_empty() && value.iter().all(bare) {
        true => Ok(value.to_vec()),
        false => Err(NoKey::Invalid),
    }
}
