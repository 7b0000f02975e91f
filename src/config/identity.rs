//! What makes two requests one operation, as the document says it: key, scope and fingerprint.
//!
//! Its one rule: a part that could not tell what it should is warned of where it is written.
//! It does not know how a part is read from a request.

use serde_json::Value;

use super::text::{header_name, is_token, plain, pointer};
use super::walk::{DAY_MS, Fields, Place, Read, Reader, flag};
use super::{Anonymous, BodyPart, FingerprintPolicy, Inject, KeyPolicy, Members, Part, Scope, Separation};

pub(super) fn key(at: &Place<'_>, value: &Value) -> Read<KeyPolicy> {
    at.object(value, |fields| {
        Ok(KeyPolicy {
            sources: fields.read("sources", vec![Part::Header("idempotency-key".into())], |at, value| {
                at.filled_list(value, source)
            })?,
            required: fields.read("required", false, flag)?,
            max_bytes: fields.read("max_bytes", 255, |at, value| at.whole(value, 1..=4096))? as usize,
            inject: fields.nested("inject", inject)?,
        })
    })
}

fn inject(at: &Place<'_>, value: &Value) -> Read<Inject> {
    at.object(value, |fields| {
        let kinds = [("off", Inject::Off), ("uuid", Inject::Uuid), ("content", CONTENT)];
        let kind = fields.read("kind", Inject::Off, |at, value| at.choice(value, &kinds))?;
        let window_ms = fields.read("window_ms", 10_000, |at, value| at.whole(value, 100..=DAY_MS))?;
        let anonymous = fields.read("anonymous", false, flag)?;
        Ok(if kind == CONTENT { Inject::Content { window_ms, anonymous } } else { kind })
    })
}

const CONTENT: Inject = Inject::Content { window_ms: 0, anonymous: false };

/// Reads a part of the key.
fn source(at: &Place<'_>, value: &Value) -> Read<Part> {
    let part = part(at, value)?;
    if any(&part, is_drawn_anew) {
        at.warn(DRAWN_ANEW);
    }
    Ok(part)
}

/// Whether this holds of a part, or of one of those that stand in for it.
fn any(part: &Part, is: fn(&Part) -> bool) -> bool {
    is(part) || matches!(part, Part::Any(parts) if parts.iter().any(|part| any(part, is)))
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

pub(super) fn scope(at: &Place<'_>, value: &Value) -> Read<Scope> {
    at.object(value, |fields| {
        Ok(Scope {
            caller: fields.read("caller", vec![authorization()], |at, value| at.list(value, caller))?,
            anonymous: fields.read("anonymous", Anonymous::Auto, anonymous)?,
            method: fields.read("method", Separation::Separates, separation)?,
            host: fields.read("host", Separation::Separates, separation)?,
            path: fields.read("path", Separation::Separates, separation)?,
        })
    })
}

fn separation(at: &Place<'_>, value: &Value) -> Read<Separation> {
    match value {
        Value::Bool(true) => Ok(Separation::Separates),
        Value::Bool(false) => Ok(Separation::Compared),
        Value::String(word) if word == "ignore" => {
            at.warn("gives one key one answer, whatever it is used for; false compares instead");
            Ok(Separation::Ignored)
        }
        _ => Err(at.wrong("true or false or \"ignore\"", value)),
    }
}

fn authorization() -> Part {
    Part::Authorization { header: "authorization".to_owned(), schemes: Vec::new() }
}

fn caller(at: &Place<'_>, value: &Value) -> Read<Part> {
    let part = caller_part(at, value)?;
    if any(&part, |part| matches!(part, Part::Authorization { .. })) {
        at.warn("takes authorization as it was sent, so a client that renews its token is another caller");
    }
    if any(&part, |part| matches!(part, Part::Signer)) {
        at.warn("believes who a signature says has signed: a filter in front must verify it");
    }
    if any(&part, |part| matches!(part, Part::Property(path) if *path == ["source", "address"])) {
        at.warn("has the port of each connection in it, so that hardly a retry is the same caller");
    }
    if any(&part, is_drawn_anew) {
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

fn anonymous(at: &Place<'_>, value: &Value) -> Read<Anonymous> {
    let words = [("auto", Anonymous::Auto), ("share", Anonymous::Share), ("refuse", Anonymous::Refuse)];
    let anonymous = at.choice(value, &words)?;
    if anonymous == Anonymous::Share {
        at.warn("lets callers that show no credential see each other's responses");
    }
    Ok(anonymous)
}

pub(super) fn fingerprint(at: &Place<'_>, value: &Value) -> Read<FingerprintPolicy> {
    at.object(value, |fields| {
        Ok(FingerprintPolicy {
            body: body_part(at, fields)?,
            query: fields.read("query", true, flag)?,
            headers: fields.read("headers", vec!["content-type".into()], |at, value| at.list(value, header_name))?,
        })
    })
}

fn body_part(at: &Place<'_>, fields: &mut Fields<'_>) -> Read<BodyPart> {
    let kinds = [("bytes", Some(false)), ("json", Some(true)), ("off", None)];
    let kind = fields.read("body", Some(false), |at, value| at.choice(value, &kinds))?;
    let ignored = fields.read("json_ignore", Vec::new(), |at, value| at.list(value, pointer))?;
    let only = fields.read("json_only", Vec::new(), |at, value| at.filled_list(value, pointer))?;
    match kind {
        Some(true) if !ignored.is_empty() && !only.is_empty() => {
            Err(at.member("json_only").error("must not be given together with json_ignore"))
        }
        Some(true) if !only.is_empty() => Ok(BodyPart::Json(Members::Only(only))),
        Some(true) => Ok(BodyPart::Json(Members::AllBut(ignored))),
        // What a patch leaves out is no mistake.
        _ if !ignored.is_empty() && !at.is_patch() => {
            Err(at.member("json_ignore").error("must be empty unless fingerprint.body is \"json\""))
        }
        _ if !only.is_empty() && !at.is_patch() => {
            Err(at.member("json_only").error("must be absent unless fingerprint.body is \"json\""))
        }
        Some(false) => Ok(BodyPart::Bytes),
        None => Ok(BodyPart::Off),
    }
}
