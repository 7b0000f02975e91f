//! From a request to the name of its record: the client's key, inside the scope it is used in.
//!
//! Its one rule: a key or a caller that cannot be read is never taken for another one; it is an error or an absence.
//! It does not know what is stored under a name.

use std::cell::OnceCell;
use std::convert::Infallible;

use base64ct::{Base64UrlUnpadded, Encoding};
use percent_encoding::percent_decode;
use serde_json::Value;
use sfv::BareItemFromInput;
use sfv::visitor::Ignored;

use crate::config::{Anonymous, KeyPolicy, Mode, Part, Policy, Scope};
use crate::digest::{Digest, HashKey, hex};
use crate::form;
use crate::json::{self, Pointer};
use crate::message::{RequestHead, media_type};

/// A request as far as it has come, and what the host knows about it.
pub struct Request<'a> {
    head: &'a RequestHead,
    /// Empty also while it has not come.
    body: &'a [u8],
    attribute: Attributes<'a>,
    /// The body as JSON, once it was asked for.
    json: OnceCell<Option<Value>>,
}

/// Reads an attribute of the host by its path; asked only where it matters.
pub type Attributes<'a> = &'a dyn Fn(&[&str]) -> Option<Vec<u8>>;

impl<'a> Request<'a> {
    /// A request with this head and body.
    pub fn new(head: &'a RequestHead, body: &'a [u8], attribute: Attributes<'a>) -> Self {
        Request { head, body, attribute, json: OnceCell::new() }
    }

    fn json(&self) -> Result<&Value, Fault> {
        self.json.get_or_init(|| json::parse(self.body).ok()).as_ref().ok_or(Fault::Unreadable)
    }
}

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

    fn new(policy: &KeyPolicy, parts: Vec<Vec<u8>>) -> Result<Self, NoKey> {
        let is_short = parts.iter().map(Vec::len).sum::<usize>() <= policy.max_bytes;
        match is_short && parts.iter().all(|part| !part.is_empty()) {
            true => Ok(ClientKey(parts)),
            false => Err(NoKey::Invalid),
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
    /// Reads who is asking.
    pub fn read(scope: &Scope, request: &Request<'_>) -> Self {
        let parts: Result<Vec<_>, _> = scope.caller.iter().map(|part| read_lines(part, request)).collect();
        // Somebody who shows a credential that cannot be read is nobody whom the other parts could tell.
        let mut parts = parts.unwrap_or_default();
        // An empty credential shows nothing.
        parts.iter_mut().for_each(|lines| lines.retain(|line| !line.trim_ascii().is_empty()));
        if parts.iter().any(|lines| !lines.is_empty()) {
            return Caller::Known(parts);
        }
        let has_certificate = || (request.attribute)(&["connection", "mtls"]).is_some_and(|flag| flag.contains(&1));
        let has_credential = |name: &&str| request.head.headers.has(name);
        match scope.anonymous {
            Anonymous::Refuse => Caller::Refused,
            Anonymous::Share => Caller::Anonymous,
            Anonymous::Auto if CREDENTIALS.iter().any(has_credential) || has_certificate() => Caller::Outside,
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
    digest_caller(&mut digest, caller);
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

/// What finds the record of a request without a key, before its body has its say: who wants what done.
pub fn content_name(policy: &Policy, hash_key: Option<&HashKey>, head: &RequestHead, caller: &Caller) -> Name {
    let purpose = if policy.mode == Mode::Observe { "observed content name" } else { "content name" };
    let mut digest = Digest::new(purpose, hash_key);
    digest_caller(&mut digest, caller);
    digest.part("method", head.method());
    digest.part("host", &head.host());
    digest.part("path", head.path());
    digest.list("query", head.query().into_iter());
    Name(digest.finish())
}

fn digest_caller(digest: &mut Digest, caller: &Caller) {
    match caller {
        Caller::Known(parts) => {
            digest.part("callers", &(parts.len() as u32).to_le_bytes());
            for lines in parts {
                digest.list("caller", lines.iter().map(Vec::as_slice));
            }
        }
        Caller::Anonymous | Caller::Outside | Caller::Refused => digest.part("anonymous", b""),
    }
}

/// Whether the key that was read is the client's own `Idempotency-Key` header and nothing else.
pub fn is_sent_as_is(policy: &KeyPolicy, request: &Request<'_>) -> bool {
    let mut parts = policy.sources.as_slice();
    while let [Part::Any(any)] = parts {
        let present = any.iter().find(|part| read_lines(part, request).is_ok_and(|lines| !lines.is_empty()));
        parts = present.map(std::slice::from_ref).unwrap_or_default();
    }
    matches!(parts, [Part::Header(name)] if name == "idempotency-key")
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

/// Why a place of a request cannot be read.
enum Fault {
    /// Something stands there that is neither a text nor a whole number.
    NotAKey,
    /// What it stands in is not what it should be: a body, a token.
    Unreadable,
}

/// Every value that stands in this place of the request.
fn read_lines(part: &Part, request: &Request<'_>) -> Result<Vec<Vec<u8>>, Fault> {
    let head = request.head;
    Ok(match part {
        Part::Any(parts) => {
            for part in parts {
                let lines = read_lines(part, request)?;
                if !lines.is_empty() {
                    return Ok(lines);
                }
            }
            Vec::new()
        }
        Part::Cookie(name) => head.headers.all("cookie").flat_map(|line| form::cookies(line, name)).collect(),
        Part::Form(field) => form_values(field, request)?,
        Part::Header(name) => head.headers.all(name).map(<[u8]>::to_vec).collect(),
        Part::Json(_) if request.body.is_empty() => Vec::new(),
        Part::Json(pointer) => json_value(request.json()?, pointer)?.into_iter().collect(),
        Part::JwtClaim(claim) => jwt_claim(claim, head)?.into_iter().collect(),
        Part::PathSegment(index) => {
            let mut segments = head.path().split(|byte| *byte == b'/').skip(1);
            let segment = segments.nth(*index).filter(|segment| !segment.is_empty());
            segment.map(|text| percent_decode(text).collect()).into_iter().collect()
        }
        Part::Property(path) => {
            let path: Vec<&str> = path.iter().map(String::as_str).collect();
            (request.attribute)(&path).into_iter().collect()
        }
        Part::Query(name) => form::urlencoded(head.query().unwrap_or_default(), name),
    })
}

fn form_values(field: &str, request: &Request<'_>) -> Result<Vec<Vec<u8>>, Fault> {
    let content_type = request.head.headers.first("content-type").unwrap_or_default();
    match media_type(content_type).as_slice() {
        _ if request.body.is_empty() => Ok(Vec::new()),
        b"application/x-www-form-urlencoded" => Ok(form::urlencoded(request.body, field)),
        b"multipart/form-data" => {
            let boundary = form::boundary(content_type).ok_or(Fault::Unreadable)?;
            form::multipart(request.body, &boundary, field).map_err(|_| Fault::Unreadable)
        }
        _ => Ok(Vec::new()),
    }
}

/// A string, or a whole number whose every digit is known.
fn json_value(document: &Value, pointer: &Pointer) -> Result<Option<Vec<u8>>, Fault> {
    match pointer.of(document) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.as_bytes().to_vec())),
        Some(Value::Number(number)) if !number.is_f64() => Ok(Some(number.to_string().into_bytes())),
        Some(_) => Err(Fault::NotAKey),
    }
}

/// A claim of the bearer token, whose signature a filter before this one has verified.
fn jwt_claim(claim: &str, head: &RequestHead) -> Result<Option<Vec<u8>>, Fault> {
    let is_bearer = |line: &[u8]| {
        let scheme = line.trim_ascii().split(|byte| byte.is_ascii_whitespace()).next();
        scheme.is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"bearer"))
    };
    let mut lines = head.headers.all("authorization");
    match (lines.next(), lines.next()) {
        (Some(line), None) if is_bearer(line) => token_claim(line, claim).map(Some).ok_or(Fault::Unreadable),
        (Some(_), Some(_)) => Err(Fault::Unreadable),
        _ => Ok(None),
    }
}

/// "BASE64URL(UTF8(JWS Protected Header)) || '.' || BASE64URL(JWS Payload) || '.' || BASE64URL(JWS Signature)"
/// (RFC 7515, section 7.1).
fn token_claim(line: &[u8], claim: &str) -> Option<Vec<u8>> {
    let token = std::str::from_utf8(line.trim_ascii().get(6..)?).ok()?.trim_ascii();
    let mut pieces = token.split('.');
    let (Some(_), Some(payload), Some(_), None) = (pieces.next(), pieces.next(), pieces.next(), pieces.next()) else {
        return None;
    };
    let claims = json::parse(&Base64UrlUnpadded::decode_vec(payload).ok()?).ok()?;
    match claims.get(claim)? {
        Value::String(text) if !text.trim_ascii().is_empty() => Some(text.as_bytes().to_vec()),
        Value::Number(number) if !number.is_f64() => Some(number.to_string().into_bytes()),
        _ => None,
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
