//! What makes two requests one operation, as the document says it: key, scope and fingerprint.
//!
//! Its one rule: a part that could not tell what it should is warned of where it is written.
//! It does not know how a part is read from a request.

use std::fmt;

use serde_json::Value;

use super::outcomes::Statuses;
use super::source::{Part, caller, source};
use super::text::{header_name, pointer};
use super::walk::{Choice, DAY_MS, Fields, Place, Read};
use super::words::{all, count, either, list, time};
use crate::json::Pointer;
use crate::refusal::ProblemType;

/// `key`: the parts of the client's key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyPolicy {
    /// In order; all must be present and not empty. Never an empty list.
    pub sources: Vec<Part>,
    /// A request without a key is answered `key-missing`.
    pub required: bool,
    /// Which keys count.
    pub issued: Issued,
    /// A longer key is `key-invalid`.
    pub max_bytes: usize,
    /// What becomes of a request without one.
    pub inject: Inject,
}

/// `key.inject`: the key that the gateway makes when the client brings none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inject {
    /// The content of the request, for a while.
    Content {
        /// From the first request with this content.
        window_ms: u64,
        /// Also for a request without a caller.
        anonymous: bool,
    },
    /// None.
    Off,
    /// A random one, which the gateway gives to the client.
    Uuid,
}

impl KeyPolicy {
    pub(super) fn read(at: &Place<'_>, value: &Value) -> Read<Self> {
        at.object(value, |fields| {
            Ok(KeyPolicy {
                sources: fields.read("sources", vec![Part::Header("idempotency-key".into())], |at, value| {
                    at.filled_list(value, source)
                })?,
                required: fields.flag("required", false)?,
                issued: fields.choice("issued")?,
                max_bytes: fields.whole("max_bytes", 255, 1..=65_536)? as usize,
                inject: fields.nested("inject", Inject::read)?,
            })
        })
    }

    pub(super) fn words(&self, statuses: &Statuses) -> String {
        let KeyPolicy { sources, required, issued, max_bytes, inject } = self;
        let without = match required {
            true => format!("is refused: {}", statuses.shown(ProblemType::KeyMissing)),
            false => inject.to_string(),
        };
        let (parts, invalid) = (all(sources), statuses.shown(ProblemType::KeyInvalid));
        let own = match issued {
            Issued::Any => "",
            Issued::Required => " and issued by the gateway to this caller",
        };
        format!(
            "{parts}, at most {}{own} (else {invalid}); a request without it {without}",
            count(*max_bytes as u64, "byte")
        )
    }

    /// Whether a key that the gateway issues can stand where its keys do.
    pub fn fits_issued(&self) -> bool {
        self.sources.len() == 1 && self.max_bytes >= ISSUED_LENGTH
    }
}

/// How long an issued key is.
pub const ISSUED_LENGTH: usize = 76;

/// `key.issued`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Issued {
    /// Whatever a client sends.
    #[default]
    Any,
    /// Only those that the gateway has issued to the caller.
    Required,
}

impl Choice for Issued {
    const WORDS: &[(&str, Self)] = &[("any", Issued::Any), ("required", Issued::Required)];
}

impl Inject {
    fn read(at: &Place<'_>, value: &Value) -> Read<Self> {
        at.object(value, |fields| {
            let content = Inject::Content { window_ms: 0, anonymous: false };
            let kinds = [("off", Inject::Off), ("uuid", Inject::Uuid), ("content", content)];
            let kind = fields.read("kind", Inject::Off, |at, value| at.choice(value, &kinds))?;
            let window_ms = fields.whole("window_ms", 10_000, 100..=DAY_MS)?;
            let anonymous = fields.flag("anonymous", false)?;
            Ok(if kind == content { Inject::Content { window_ms, anonymous } } else { kind })
        })
    }
}

/// What becomes of a request without a key where none is required.
impl fmt::Display for Inject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Inject::Off => f.write_str("passes unprotected"),
            Inject::Uuid => f.write_str("gets a random one, which comes back to the client for a retry"),
            Inject::Content { window_ms, anonymous } => {
                let anonymous = if *anonymous { "" } else { "; without a caller it passes unprotected" };
                write!(
                    f,
                    "is known by its content: what has the same caller, method, host, path, query, body, accept and \
                     fingerprint (below) is the same operation for {}{anonymous}",
                    time(*window_ms)
                )
            }
        }
    }
}

/// `scope`: what separates two uses of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    /// Who is asking: every part that is present counts.
    pub caller: Vec<Part>,
    /// What becomes of a request in which no part is present.
    pub anonymous: Anonymous,
    /// How the method counts.
    pub method: Separation,
    /// How the host counts.
    pub host: Separation,
    /// How the path counts.
    pub path: Separation,
}

/// `scope.anonymous`: what becomes of a request whose caller cannot be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Anonymous {
    /// It passes unprotected, or is refused where a key is required.
    Auto,
    /// The answer is `caller-missing`.
    Refuse,
    /// All that show no credential at all share one scope; any other passes as under `Auto`.
    Share,
}

/// `scope.method`, `scope.host`, `scope.path`: how a part of the target counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Separation {
    /// The same key under another one is another operation.
    Separates,
    /// The same key under another one is a mismatch.
    Compared,
    /// It does not count.
    Ignored,
}

impl Scope {
    pub(super) fn read(at: &Place<'_>, value: &Value) -> Read<Self> {
        at.object(value, |fields| {
            Ok(Scope {
                caller: fields.read("caller", vec![Part::authorization()], |at, value| at.list(value, caller))?,
                anonymous: fields.read("anonymous", Anonymous::Auto, Anonymous::read)?,
                method: fields.read("method", Separation::Separates, Separation::read)?,
                host: fields.read("host", Separation::Separates, Separation::read)?,
                path: fields.read("path", Separation::Separates, Separation::read)?,
            })
        })
    }

    /// Who is asking.
    pub(super) fn told_by(&self, is_key_required: bool, statuses: &Statuses) -> String {
        let (told, without, unreadable) = match self.caller.as_slice() {
            [] => ("nothing".to_owned(), "every request".to_owned(), ""),
            [part] => (part.to_string(), "a request without it".to_owned(), ", or with one that cannot be read,"),
            parts => {
                let credentials = self.caller.iter().filter(|part| part.is_credential()).count();
                let without = match credentials {
                    1.. if credentials < parts.len() => "a request without a credential among them".to_owned(),
                    _ => "a request without any of them".to_owned(),
                };
                let told = format!("{}, each that is present", all(parts));
                (told, without, ", or with one that cannot be read,")
            }
        };
        let refused = format!("is refused: {}", statuses.shown(ProblemType::CallerMissing));
        let apart = match is_key_required {
            true => format!("is refused, because a key is required: {}", statuses.shown(ProblemType::CallerMissing)),
            false => "passes unprotected, with reason=no-caller".to_owned(),
        };
        let becomes = match self.anonymous {
            Anonymous::Auto => format!("{without}{unreadable} {apart}"),
            Anonymous::Refuse => format!("{without}{unreadable} {refused}"),
            Anonymous::Share => format!(
                "{without} shares one scope with all others that show no credential at all; one that shows another \
                 credential (one of the headers that docs/keys.md lists, or a client certificate), or one that cannot be \
                 read, {apart}"
            ),
        };
        format!("told by {told}; {becomes}")
    }

    /// The parts of the target that count so.
    fn target(&self, used: Separation) -> Vec<&'static str> {
        let parts = [(self.method, "method"), (self.host, "host"), (self.path, "path")];
        parts.into_iter().filter(|(counts, _)| *counts == used).map(|(_, name)| name).collect()
    }
}

/// What separates two uses of one key.
impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.target(Separation::Separates).as_slice() {
            [] => f.write_str("one key is one operation, whatever it is sent to")?,
            names => write!(f, "the same key is another operation under another {}", either(names))?,
        }
        let compared = self.target(Separation::Compared);
        if !compared.is_empty() {
            write!(f, "; {} must be the same (next line)", all(&compared))?;
        }
        let ignored = self.target(Separation::Ignored);
        if !ignored.is_empty() {
            let count = if ignored.len() == 1 { "does" } else { "do" };
            write!(f, "; {} {count} not count: another one gets the same answer", all(&ignored))?;
        }
        Ok(())
    }
}

impl Anonymous {
    fn read(at: &Place<'_>, value: &Value) -> Read<Self> {
        let words = [("auto", Anonymous::Auto), ("share", Anonymous::Share), ("refuse", Anonymous::Refuse)];
        let anonymous = at.choice(value, &words)?;
        if anonymous == Anonymous::Share {
            at.warn("lets callers that show no credential see each other's responses");
        }
        Ok(anonymous)
    }
}

impl Separation {
    fn read(at: &Place<'_>, value: &Value) -> Read<Self> {
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
}

/// `fingerprint`: what makes two requests the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FingerprintPolicy {
    /// What of the body is part of it.
    pub body: BodyPart,
    /// The query string is part of it.
    pub query: bool,
    /// Lower-case names of the headers that are part of it; of `content-type` only the media type.
    pub headers: Vec<String>,
}

/// `fingerprint.body`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BodyPart {
    /// Its bytes.
    Bytes,
    /// What it says as JSON.
    Json(Members),
    /// Nothing.
    Off,
}

/// Which members of a JSON body count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Members {
    /// `fingerprint.json_ignore`: all but what stands there.
    AllBut(Vec<Pointer>),
    /// `fingerprint.json_only`: what stands there. Never an empty list.
    Only(Vec<Pointer>),
}

impl FingerprintPolicy {
    pub(super) fn read(at: &Place<'_>, value: &Value) -> Read<Self> {
        at.object(value, |fields| {
            Ok(FingerprintPolicy {
                body: BodyPart::read(at, fields)?,
                query: fields.flag("query", true)?,
                headers: fields
                    .read("headers", vec!["content-type".into()], |at, value| at.list(value, header_name))?,
            })
        })
    }

    /// What makes two requests with one key the same.
    pub(super) fn words(&self, scope: &Scope, otherwise: &str) -> String {
        let FingerprintPolicy { body, query, headers } = self;
        let compared = scope.target(Separation::Compared);
        let mut parts: Vec<_> = compared.into_iter().map(|name| format!("the {name}")).collect();
        parts.extend(body.words());
        if *query {
            parts.push("the query string".to_owned());
        }
        parts.extend(headers.iter().map(|name| match name.as_str() {
            "content-type" => "the media type".to_owned(),
            name => format!("header {name}"),
        }));
        let is_chosen = |name: &&str| headers.iter().any(|chosen| chosen == name);
        let meant: Vec<_> = MEANINGFUL.into_iter().filter(|name| !is_chosen(name)).collect();
        if !meant.is_empty() {
            parts.push(format!("and where present {}", all(&meant)));
        }
        match parts.as_slice() {
            [] => "any request with the same key".to_owned(),
            parts => format!("these must be the same: {}; otherwise {otherwise}", list(parts)),
        }
    }
}

impl BodyPart {
    fn read(at: &Place<'_>, fields: &mut Fields<'_>) -> Read<Self> {
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

    fn words(&self) -> Option<String> {
        match self {
            BodyPart::Bytes => Some("the bytes of the body".to_owned()),
            BodyPart::Json(Members::Only(only)) => Some(format!("of what the body says as JSON only {}", all(only))),
            BodyPart::Json(Members::AllBut(ignored)) if ignored.is_empty() => {
                Some("what the body says as JSON".to_owned())
            }
            BodyPart::Json(Members::AllBut(ignored)) => {
                Some(format!("what the body says as JSON (without {})", all(ignored)))
            }
            BodyPart::Off => None,
        }
    }
}

/// Headers that say what is to be done with the body, or whether: part of every fingerprint where they are present.
pub const MEANINGFUL: [&str; 13] = [
    "content-range",
    "destination",
    "if-match",
    "if-none-match",
    "if-unmodified-since",
    "soapaction",
    "upload-length",
    "upload-metadata",
    "upload-offset",
    "x-amz-target",
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
];
