//! A source of keys and callers: the places of a request where a part of one stands, how a document names each, and what
//! stands there.
//!
//! Its one rule: a place that cannot be read is a fault, never an empty place.
//! It does not know what is made of the values.

use std::cell::OnceCell;
use std::fmt;

use base64ct::{Base64UrlUnpadded, Encoding};
use percent_encoding::percent_decode;
use serde_json::Value;

use super::text::{header_name, is_token, plain, pointer};
use super::walk::{Place, Read, Reader};
use crate::authorization::{self, SCHEMES, Unreadable};
use crate::credential::is_well_known;
use crate::form;
use crate::json::{self, Pointer};
use crate::message::{RequestHead, media_type};

/// One place of a request from which a part of the key or of the caller is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// The first of these that is present.
    Any(Vec<Part>),
    /// A header of credentials, where its scheme is one that tells a caller; of callers only.
    Authorization {
        /// `authorization` or `proxy-authorization`.
        header: String,
        /// Schemes that tell a caller besides those which do anyway.
        schemes: Vec<String>,
    },
    /// A cookie by its name.
    Cookie(String),
    /// A field of a form in the body, urlencoded or multipart.
    Form(String),
    /// A header by its lower-case name.
    Header(String),
    /// A string or a whole number in a JSON body, or one in each element of a list.
    Json(Pointer),
    /// A claim of the bearer token; of callers only.
    JwtClaim(String),
    /// A segment of the path, counted from 0.
    PathSegment(usize),
    /// An attribute of Envoy by its path; of callers only.
    Property(Vec<String>),
    /// A query parameter by its name.
    Query(String),
    /// What stays of the signature in `authorization` from try to try: who has signed; of callers only.
    Signer,
}

impl Part {
    /// `authorization` as a caller, with the schemes that tell one anyway.
    pub(super) fn authorization() -> Self {
        Part::Authorization { header: "authorization".to_owned(), schemes: Vec::new() }
    }

    /// Whether it is read from the body.
    pub fn is_in_body(&self) -> bool {
        self.any(|part| matches!(part, Part::Form(_) | Part::Json(_)))
    }

    /// Whether it is a credential, so that it tells a caller by itself.
    pub fn is_credential(&self) -> bool {
        match self {
            Part::Any(parts) => parts.iter().any(Part::is_credential),
            Part::Header(name) => is_well_known(name.as_bytes()),
            Part::Authorization { .. } | Part::Cookie(_) | Part::JwtClaim(_) | Part::Property(_) | Part::Signer => true,
            Part::Form(_) | Part::Json(_) | Part::PathSegment(_) | Part::Query(_) => false,
        }
    }

    /// What kind of place it is, and the place's name: as a name's hash has them.
    pub fn kind_and_name(&self) -> (&'static str, String) {
        match self {
            Part::Any(_) => ("any", String::new()),
            Part::Authorization { header: name, .. } | Part::Header(name) => ("header", name.clone()),
            Part::Cookie(name) => ("cookie", name.clone()),
            Part::Form(field) => ("form", field.clone()),
            Part::Json(pointer) => ("json", pointer.to_string()),
            Part::JwtClaim(claim) => ("jwt_claim", claim.clone()),
            Part::PathSegment(index) => ("path_segment", index.to_string()),
            Part::Property(path) => ("property", path.join("\0")),
            Part::Query(name) => ("query", name.clone()),
            Part::Signer => ("signer", "authorization".to_owned()),
        }
    }

    /// Whether this holds of it, or of one of those that stand in for it.
    fn any(&self, is: fn(&Part) -> bool) -> bool {
        is(self) || matches!(self, Part::Any(parts) if parts.iter().any(|part| part.any(is)))
    }
}

/// In words.
impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Part::Any(parts) => {
                write!(f, "the first present of ({})", parts.iter().map(Part::to_string).collect::<Vec<_>>().join(", "))
            }
            Part::Authorization { header, schemes } => {
                let known: Vec<_> = SCHEMES.into_iter().chain(schemes.iter().map(String::as_str)).collect();
                write!(f, "header {header} (of scheme {} or of none; any other cannot be read)", known.join(", "))
            }
            Part::Cookie(name) => write!(f, "cookie {name}"),
            Part::Form(name) => write!(f, "form field {name}"),
            Part::Header(name) => write!(f, "header {name}"),
            Part::Json(pointer) => write!(f, "JSON field {pointer}"),
            Part::JwtClaim(name) => write!(f, "claim {name} of the bearer token"),
            Part::PathSegment(index) => write!(f, "segment {index} of the path (the first is 0)"),
            Part::Property(path) => write!(f, "Envoy's attribute {}", path.join(".")),
            Part::Query(name) => write!(f, "query parameter {name}"),
            Part::Signer => f.write_str(
                "who has signed, by the signature in header authorization (a filter in front must verify it)",
            ),
        }
    }
}

/// Reads a part of the key, and warns of one that no retry has again.
pub(super) fn source(at: &Place<'_>, value: &Value) -> Read<Part> {
    let part = part(at, value)?;
    if part.any(is_drawn_anew) {
        at.warn(DRAWN_ANEW);
    }
    Ok(part)
}

fn is_drawn_anew(part: &Part) -> bool {
    match part {
        Part::Header(name) => name == "x-request-id",
        Part::Property(path) => path.ends_with(&["x-request-id".to_owned()]) || *path == ["request", "id"],
        _ => false,
    }
}

const DRAWN_ANEW: &str = "is drawn anew by Envoy for each request, so that no retry has the same one, unless \
                          preserve_external_request_id is true";

/// Reads one place of a request.
fn part(at: &Place<'_>, value: &Value) -> Read<Part> {
    at.one_of(value, &parts(|at, value| Ok(Part::Any(at.filled_list(value, part)?))))
}

fn parts(any: Reader<Part>) -> [(&'static str, Reader<Part>); 7] {
    [
        ("header", |at, value| Ok(Part::Header(header_name(at, value)?))),
        ("query", |at, value| Ok(Part::Query(plain(at, value)?))),
        ("cookie", |at, value| Ok(Part::Cookie(at.text(value, "a cookie name", is_token)?.to_owned()))),
        ("form", |at, value| Ok(Part::Form(plain(at, value)?))),
        ("json", |at, value| Ok(Part::Json(pointer(at, value)?))),
        ("path_segment", |at, value| Ok(Part::PathSegment(at.whole(value, 0..=255)? as usize))),
        ("any", any),
    ]
}

/// Reads a part of the caller, and warns of one that may be another for the same caller.
pub(super) fn caller(at: &Place<'_>, value: &Value) -> Read<Part> {
    let part = caller_part(at, value)?;
    if part.any(|part| matches!(part, Part::Authorization { .. })) {
        at.warn("takes authorization as it was sent, so a client that renews its token is another caller");
    }
    if part.any(|part| matches!(part, Part::Signer)) {
        at.warn("believes who a signature says has signed: a filter in front must verify it");
    }
    if part.any(|part| matches!(part, Part::Property(path) if *path == ["source", "address"])) {
        at.warn("has the port of each connection in it, so that hardly a retry is the same caller");
    }
    if part.any(is_drawn_anew) {
        at.warn(DRAWN_ANEW);
    }
    Ok(part)
}

/// Reads one place of a request, or of what Envoy knows about its sender.
fn caller_part(at: &Place<'_>, value: &Value) -> Read<Part> {
    let header = value.get("header").and_then(Value::as_str).map(str::to_ascii_lowercase);
    if let Some(header) = header.filter(|header| HEADERS_WITH_SCHEMES.contains(&header.as_str())) {
        return at.object(value, |fields| {
            fields.required("header", header_name)?;
            let schemes = fields.read("schemes", Vec::new(), |at, value| {
                at.filled_list(value, |at, value| scheme(at, value, &header))
            })?;
            Ok(Part::Authorization { header, schemes })
        });
    }
    if value.get("schemes").is_some() {
        let [one, other] = HEADERS_WITH_SCHEMES;
        return Err(at.member("schemes").error(format_args!("goes only with header {one} or {other}")));
    }
    let of_callers: [(&str, Reader<Part>); 3] = [
        ("jwt_claim", |at, value| Ok(Part::JwtClaim(plain(at, value)?))),
        ("property", |at, value| Ok(Part::Property(at.filled_list(value, plain)?))),
        ("signer", |at, value| match value.as_str() {
            Some(header) if header.eq_ignore_ascii_case("authorization") => Ok(Part::Signer),
            _ => at.choice(value, &[("authorization", ())]).map(|()| Part::Signer),
        }),
    ];
    let any: Reader<Part> = |at, value| Ok(Part::Any(at.filled_list(value, caller_part)?));
    at.one_of(value, &parts(any).into_iter().chain(of_callers).collect::<Vec<_>>())
}

/// "Authorization = credentials", "Proxy-Authorization = credentials" (RFC 9110, sections 11.6.2 and 11.7.2).
const HEADERS_WITH_SCHEMES: [&str; 2] = ["authorization", "proxy-authorization"];

/// Reads the name of a scheme of this header, whose credentials stay the same.
fn scheme(at: &Place<'_>, value: &Value, header: &str) -> Read<String> {
    let name = at.text(value, "a scheme such as Bearer", is_token)?;
    let is = |known: &&str| match known.strip_suffix('*') {
        Some(start) => name.get(..start.len()).is_some_and(|lead| lead.eq_ignore_ascii_case(start)),
        None => name.eq_ignore_ascii_case(known),
    };
    let is_signed = SIGNED_ANEW.iter().any(is);
    if is_signed && header == "authorization" {
        at.warn(
            "is made anew for each try, which is then another caller; {\"signer\": \"authorization\"} is what stays",
        );
    } else if is_signed || OF_CONNECTIONS.iter().any(is) {
        at.warn("is made anew for each try, which is then another caller");
    }
    Ok(name.to_owned())
}

/// Schemes of signatures, of which who has signed stays; a star stands for any ending.
const SIGNED_ANEW: [&str; 6] = ["AWS4-*", "Digest", "GOOG4-*", "Hawk", "OAuth", "Signature"];

/// Schemes whose tokens are hidden in what a connection begins with.
const OF_CONNECTIONS: [&str; 2] = ["Negotiate", "NTLM"];

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

/// A text; of the elements of a list the JSON list of their texts, where each has one.
fn json_value(document: &Value, pointer: &Pointer) -> Result<Option<Vec<u8>>, Fault> {
    let found = pointer.find(document);
    let mut texts = Vec::new();
    for value in found.values {
        match json_text(value)? {
            Some(text) if !found.is_of_each => return Ok(Some(text.into_bytes())),
            Some(text) if text.is_empty() => return Err(Fault::NotAKey),
            Some(text) => texts.push(Value::String(text)),
            None => return Ok(None),
        }
    }
    Ok((!texts.is_empty()).then(|| json::canonical(&Value::Array(texts))))
}

/// A string, or a whole number whose every digit is known.
fn json_text(found: Option<&Value>) -> Result<Option<String>, Fault> {
    match found {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(Value::Number(number)) if !number.is_f64() => Ok(Some(number.to_string())),
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
