//! What makes two requests one operation, as the document says it: key, scope and fingerprint.
//!
//! Its one rule: a part that could not tell what it should is warned of where it is written.
//! It does not know how a part is read from a request.

use serde_json::Value;

use super::source::{Part, caller, source};
use super::text::{header_name, pointer};
use super::walk::{DAY_MS, Fields, Place, Read, flag};
use super::{Anonymous, BodyPart, FingerprintPolicy, Inject, KeyPolicy, Members, Scope, Separation};

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

pub(super) fn scope(at: &Place<'_>, value: &Value) -> Read<Scope> {
    at.object(value, |fields| {
        Ok(Scope {
            caller: fields.read("caller", vec![Part::authorization()], |at, value| at.list(value, caller))?,
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
