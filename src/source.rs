//! Where in a request a part of the key or of the caller stands, and what stands there.
//!
//! Its one rule: a place that cannot be read is a fault, never an empty place.
//! It does not know what is made of the values.

use std::cell::OnceCell;

use base64ct::{Base64UrlUnpadded, Encoding};
use percent_encoding::percent_decode;
use serde_json::Value;

use crate::authorization::{self, Unreadable};
use crate::config::Part;
use crate::form;
use crate::json::{self, Pointer};
use crate::message::{RequestHead, media_type};

/// A request as far as it has come, and what the host knows about it.
pub struct Request<'a> {
    pub(crate) head: &'a RequestHead,
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

    /// An attribute of the host by its path.
    pub(crate) fn attribute(&self, path: &[&str]) -> Option<Vec<u8>> {
        (self.attribute)(path)
    }

    fn json(&self) -> Result<&Value, Fault> {
        self.json.get_or_init(|| json::parse(self.body).ok()).as_ref().ok_or(Fault::Unreadable)
    }
}

/// Why a place of a request cannot be read.
pub enum Fault {
    /// Something stands there that is neither a text nor a whole number.
    NotAKey,
    /// What it stands in is not what it should be: a body, a token.
    Unreadable,
}

/// Every value that stands in this place of the request.
pub fn read_lines(part: &Part, request: &Request<'_>) -> Result<Vec<Vec<u8>>, Fault> {
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
        Part::Authorization { header, schemes } => authorization::credentials(header, schemes, &head.headers)?,
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
        Part::Signer => authorization::signer(&head.headers)?,
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
    // As jwt_authn looks for it: a token that it does not see it has not verified.
    let token = std::str::from_utf8(line.trim_ascii().strip_prefix(b"Bearer ")?).ok()?.trim_ascii();
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

impl From<Unreadable> for Fault {
    fn from(_: Unreadable) -> Self {
        Fault::Unreadable
    }
}
