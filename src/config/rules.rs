//! Which requests a rule is about.
//!
//! Its one rule: the first rule all of whose parts hold decides, and asking whether any could costs no allocation.
//! It does not know what is done with a request that matched.

use serde_json::Value;

use super::methods::Methods;
use super::text::{header_name, path, plain};
use super::walk::{Place, Read};
use super::{Config, Rule};
use crate::message::{RequestHead, path_of};

/// What a client asks the gateway itself for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AsksFor {
    /// A key of its own, with a `POST` on `issue_path`.
    Key,
    /// What became of an operation, with a `GET` on `status_path`.
    Status,
}

impl Config {
    /// Whether a rule could match, or this asks the gateway itself, going by the method and, where it is known already, the
    /// target (`:path`).
    ///
    /// `false` is final. It is asked for every request before anything else is read.
    pub fn may_match(&self, method: &[u8], target: Option<&[u8]>) -> bool {
        let path = target.map(path_of);
        self.asks_gateway(method, path).is_some()
            || self
                .rules
                .iter()
                .any(|rule| rule.matches.has_method(method) && path.is_none_or(|path| rule.matches.has_path(path)))
    }

    /// What a request asks the gateway itself for, as far as the path is known already.
    pub fn asks_gateway(&self, method: &[u8], path: Option<&[u8]>) -> Option<AsksFor> {
        let is_here = |known: &String| path.is_none_or(|path| path == known.as_bytes());
        match method {
            b"GET" if self.status_path.as_ref().is_some_and(is_here) => Some(AsksFor::Status),
            b"POST" if self.issue_path.as_ref().is_some_and(is_here) => Some(AsksFor::Key),
            _ => None,
        }
    }

    /// Whether the path can still rule a request of this method out: no rule would take it wherever it goes.
    pub fn hinges_on_path(&self, method: &[u8]) -> bool {
        self.rules.iter().all(|rule| !rule.matches.has_method(method) || rule.matches.path.is_some())
    }

    /// The number of an earlier rule that takes all that this one would, so that it is never reached; only where that can
    /// be proven.
    pub fn hidden_by(&self, index: usize) -> Option<usize> {
        let rule = self.rules.get(index)?;
        self.rules.iter().take(index).position(|before| before.matches.covers(&rule.matches))
    }

    /// The first rule that matches; `metadata` reads the route's metadata by namespace and key, only when asked to.
    pub fn rule_for(&self, head: &RequestHead, metadata: &dyn Fn(&str, &str) -> Option<Vec<u8>>) -> Option<&Rule> {
        let (method, path) = (head.method(), head.path());
        let mut host = None;
        self.rules.iter().find(|Rule { matches, .. }| {
            matches.has_method(method)
                && matches.has_path(path)
                && (matches.hosts.is_empty() || matches.has_host(host.get_or_insert_with(|| head.host())))
                && matches.headers.iter().all(|header| header.holds(head))
                && matches.route_metadata.as_ref().is_none_or(|wanted| wanted.holds(metadata))
        })
    }
}

/// The conditions of a rule; one that is absent or empty always holds, but for the methods.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Match {
    methods: Methods,
    hosts: Vec<HostMatch>,
    path: Option<PathMatch>,
    headers: Vec<HeaderMatch>,
    route_metadata: Option<MetadataMatch>,
}

impl Match {
    /// Reads `match`.
    pub(super) fn read(at: &Place<'_>, value: &Value) -> Read<Self> {
        at.object(value, |fields| {
            Ok(Match {
                methods: fields.read("methods", None, |at, value| Methods::read(at, value).map(Some))?.unwrap_or_else(
                    || {
                        at.warn(
                            "names no methods and so is about POST and PATCH; name them, or \"*\" for all unsafe ones",
                        );
                        Methods::default()
                    },
                ),
                hosts: fields.read("hosts", Vec::new(), |at, value| at.filled_list(value, HostMatch::read))?,
                path: fields.read("path", None, |at, value| PathMatch::read(at, value).map(Some))?,
                headers: fields.read("headers", Vec::new(), |at, value| at.filled_list(value, HeaderMatch::read))?,
                route_metadata: fields
                    .read("route_metadata", None, |at, value| MetadataMatch::read(at, value).map(Some))?,
            })
        })
    }

    /// Whether a request that the other takes is always one that this takes.
    pub(super) fn covers(&self, other: &Match) -> bool {
        let any_or = |hosts: &[HostMatch]| hosts.is_empty();
        self.methods.covers(&other.methods)
            && (any_or(&self.hosts)
                || !any_or(&other.hosts)
                    && other.hosts.iter().all(|host| self.hosts.iter().any(|wider| wider.covers(host))))
            && match (&self.path, &other.path) {
                (None, _) => true,
                (Some(_), None) => false,
                (Some(wider), Some(path)) => wider.covers(path),
            }
            && self.headers.iter().all(|wider| other.headers.iter().any(|header| wider.covers(header)))
            && (self.route_metadata.is_none() || self.route_metadata == other.route_metadata)
    }

    /// Whether a `GET` of this path is a request that it may take.
    pub(super) fn may_take_get(&self, path: &str) -> bool {
        self.has_method(b"GET") && self.has_path(path.as_bytes())
    }

    fn has_method(&self, method: &[u8]) -> bool {
        self.methods.hold(method)
    }

    fn has_path(&self, path: &[u8]) -> bool {
        self.path.as_ref().is_none_or(|wanted| wanted.holds(path))
    }

    fn has_host(&self, host: &[u8]) -> bool {
        self.hosts.iter().any(|wanted| wanted.holds(host))
    }
}

/// One entry of `hosts`, in lower case and without port, as [`RequestHead::host`] gives them.
#[derive(Clone, Debug, PartialEq, Eq)]
enum HostMatch {
    Exact(String),
    /// A name that ends so, with at least one label more; the dot in front is part of it.
    Below(String),
}

impl HostMatch {
    fn read(at: &Place<'_>, value: &Value) -> Read<Self> {
        let text = at.text(value, "a host such as api.example.com or *.example.com", |text| {
            let host = without_port(text);
            is_host(host.strip_prefix("*.").unwrap_or(host))
        })?;
        let host = without_port(text).to_ascii_lowercase();
        Ok(match host.strip_prefix('*') {
            Some(suffix) => HostMatch::Below(suffix.to_owned()),
            None => HostMatch::Exact(host),
        })
    }

    fn covers(&self, other: &HostMatch) -> bool {
        match (self, other) {
            (wider, HostMatch::Exact(name)) => wider.holds(name.as_bytes()),
            (HostMatch::Below(wider), HostMatch::Below(suffix)) => suffix.ends_with(wider.as_str()),
            (HostMatch::Exact(_), HostMatch::Below(_)) => false,
        }
    }

    fn holds(&self, host: &[u8]) -> bool {
        match self {
            HostMatch::Exact(name) => name.as_bytes() == host,
            HostMatch::Below(suffix) => host.len() > suffix.len() && host.ends_with(suffix.as_bytes()),
        }
    }
}

/// `path`: what the path, without its query, must be. Bytes are compared as they are, percent signs and all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathMatch {
    /// This path and no other.
    Exact(String),
    /// Any path that begins so; it need not end at a slash, as in Envoy's own `prefix`.
    Prefix(String),
    /// Any path of this form.
    Template(Template),
}

impl PathMatch {
    fn read(at: &Place<'_>, value: &Value) -> Read<Self> {
        at.one_of(
            value,
            &[
                ("exact", |at, value| Ok(PathMatch::Exact(path(at, value)?.to_owned()))),
                ("prefix", |at, value| Ok(PathMatch::Prefix(path(at, value)?.to_owned()))),
                ("template", |at, value| match Template::parse(path(at, value)?) {
                    Some(template) => Ok(PathMatch::Template(template)),
                    None => Err(at.wrong("segments that are plain text, {name} or, only as the last, **", value)),
                }),
            ],
        )
    }

    /// Whether every path of the other is one of this.
    fn covers(&self, other: &PathMatch) -> bool {
        match (self, other) {
            (wider, PathMatch::Exact(path)) => wider.holds(path.as_bytes()),
            (PathMatch::Prefix(wider), PathMatch::Prefix(prefix)) => prefix.starts_with(wider.as_str()),
            (PathMatch::Prefix(wider), PathMatch::Template(template)) => template.first.starts_with(wider.as_str()),
            (PathMatch::Template(wider), PathMatch::Template(template)) => wider.covers(template),
            (PathMatch::Template(wider), PathMatch::Prefix(prefix)) => {
                wider.open && wider.after.is_empty() && prefix.starts_with(wider.first.as_str())
            }
            (PathMatch::Exact(_), _) => false,
        }
    }

    /// Whether the path, without its query, is one of those.
    pub fn holds(&self, path: &[u8]) -> bool {
        match self {
            PathMatch::Exact(exact) => exact.as_bytes() == path,
            PathMatch::Prefix(prefix) => path.starts_with(prefix.as_bytes()),
            PathMatch::Template(template) => template.holds(path),
        }
    }
}

/// A path in which `{x}` stands for one segment that is not empty, and `**` at the end for whatever follows.
///
/// `/a/**` holds of `/a/` but not of `/a`, as in Envoy's own templates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    /// The text before the first `{x}`.
    first: String,
    /// The text after each `{x}`: empty or from its slash on.
    after: Vec<String>,
    /// It ends with `**`.
    open: bool,
}

impl Template {
    /// Nothing, if it is not a template: braces and stars must be whole segments, and `**` the last.
    pub fn parse(text: &str) -> Option<Self> {
        let mut pieces = Vec::new();
        let mut piece = String::new();
        let mut open = false;
        for segment in text.strip_prefix('/')?.split('/') {
            if open {
                return None;
            }
            piece.push('/');
            let name = segment.strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
            if segment == "**" {
                open = true;
            } else if name.unwrap_or(segment).contains(['{', '}', '*']) || name == Some("") {
                return None;
            } else if name.is_some() {
                pieces.push(std::mem::take(&mut piece));
            } else {
                piece.push_str(segment);
            }
        }
        pieces.push(piece);
        let after = pieces.split_off(1);
        Some(Template { first: pieces.pop()?, after, open })
    }

    /// Whether every path of the other's form has this form. A segment that may be any is one that no text is.
    fn covers(&self, other: &Template) -> bool {
        const ANY: &str = "{}";
        let path =
            [other.first.as_str(), &other.after.iter().map(|text| format!("{ANY}{text}")).collect::<String>()].concat();
        // What a fixed segment is compared with is never `{}`, because a template's text has no braces.
        (self.open || !other.open) && self.holds(path.as_bytes())
    }

    /// Whether a path, without its query, has this form.
    pub fn holds(&self, path: &[u8]) -> bool {
        let Some(mut left) = path.strip_prefix(self.first.as_bytes()) else { return false };
        for text in &self.after {
            let end = left.iter().position(|byte| *byte == b'/').unwrap_or(left.len());
            let rest = left.get(end..).and_then(|rest| rest.strip_prefix(text.as_bytes()));
            match rest {
                Some(rest) if end > 0 => left = rest,
                _ => return false,
            }
        }
        self.open || left.is_empty()
    }
}

/// One entry of `headers`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct HeaderMatch {
    name: String,
    /// One line must be just this; without it any line will do.
    equals: Option<String>,
}

impl HeaderMatch {
    fn read(at: &Place<'_>, value: &Value) -> Read<Self> {
        let (name, present, equals) = at.object(value, |fields| {
            Ok((
                fields.required("name", header_name)?,
                fields.read("present", None, |at, value| match value {
                    Value::Bool(true) => Ok(Some(())),
                    _ => Err(at.wrong("true", value)),
                })?,
                fields.read("equals", None, |at, value| plain(at, value).map(Some))?,
            ))
        })?;
        match (present, equals) {
            (Some(()), None) => Ok(HeaderMatch { name, equals: None }),
            (None, Some(equals)) => Ok(HeaderMatch { name, equals: Some(equals) }),
            _ => Err(at.error("must have exactly one of present, equals")),
        }
    }

    fn covers(&self, other: &HeaderMatch) -> bool {
        self.name == other.name && (self.equals.is_none() || self.equals == other.equals)
    }

    fn holds(&self, head: &RequestHead) -> bool {
        match &self.equals {
            Some(value) => head.headers.all(&self.name).any(|line| line == value.as_bytes()),
            None => head.headers.has(&self.name),
        }
    }
}

/// `route_metadata`: what the matched route of Envoy must say about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
struct MetadataMatch {
    namespace: String,
    key: String,
    equals: String,
}

impl MetadataMatch {
    fn read(at: &Place<'_>, value: &Value) -> Read<Self> {
        at.object(value, |fields| {
            Ok(MetadataMatch {
                namespace: fields.required("namespace", plain)?,
                key: fields.required("key", plain)?,
                equals: fields.required("equals", plain)?,
            })
        })
    }

    fn holds(&self, metadata: &dyn Fn(&str, &str) -> Option<Vec<u8>>) -> bool {
        metadata(&self.namespace, &self.key).is_some_and(|value| value == self.equals.as_bytes())
    }
}

fn without_port(text: &str) -> &str {
    match text.rsplit_once(':') {
        Some((host, port)) if !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => text,
    }
}

fn is_host(text: &str) -> bool {
    match text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(address) => {
            !address.is_empty() && address.bytes().all(|b| b.is_ascii_hexdigit() || b == b':' || b == b'.')
        }
        None => {
            let label = |label: &str| {
                !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            };
            text.split('.').all(label)
        }
    }
}
