//! Which methods a rule is about.
//!
//! Its one rule: `*` is every method that is not safe, and a safe one counts only where it is named.
//! It does not know the other conditions of a rule.

use serde_json::Value;

use super::text::is_token;
use super::walk::{Place, Read};

/// `methods`: those that are named, and with `"*"` all but the safe ones and CONNECT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Methods {
    named: Vec<String>,
    all_unsafe: bool,
}

/// "The only methods that are safe: GET, HEAD, OPTIONS, and TRACE" (RFC 9110, section 9.2.1); a tunnel is no request
/// that could be answered once more.
const NEVER_MEANT: [&[u8]; 5] = [b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"CONNECT"];

/// The methods that are registered for HTTP (IANA, HTTP Method Registry).
const REGISTERED: [&str; 40] = [
    "ACL",
    "BASELINE-CONTROL",
    "BIND",
    "CHECKIN",
    "CHECKOUT",
    "CONNECT",
    "COPY",
    "DELETE",
    "GET",
    "HEAD",
    "LABEL",
    "LINK",
    "LOCK",
    "MERGE",
    "MKACTIVITY",
    "MKCALENDAR",
    "MKCOL",
    "MKREDIRECTREF",
    "MKWORKSPACE",
    "MOVE",
    "OPTIONS",
    "ORDERPATCH",
    "PATCH",
    "POST",
    "PRI",
    "PROPFIND",
    "PROPPATCH",
    "PUT",
    "QUERY",
    "REBIND",
    "REPORT",
    "SEARCH",
    "TRACE",
    "UNBIND",
    "UNCHECKOUT",
    "UNLINK",
    "UNLOCK",
    "UPDATE",
    "UPDATEREDIRECTREF",
    "VERSION-CONTROL",
];

impl Default for Methods {
    fn default() -> Self {
        Methods { named: vec!["POST".into(), "PATCH".into()], all_unsafe: false }
    }
}

impl Methods {
    pub(super) fn read(at: &Place<'_>, value: &Value) -> Read<Self> {
        let mut named = at.filled_list(value, method)?;
        let all_unsafe = named.iter().any(|name| name == "*");
        named.retain(|name| name != "*");
        Ok(Methods { named, all_unsafe })
    }

    pub(super) fn hold(&self, method: &[u8]) -> bool {
        (self.all_unsafe && !NEVER_MEANT.contains(&method)) || self.named.iter().any(|known| known.as_bytes() == method)
    }

    pub(super) fn covers(&self, other: &Methods) -> bool {
        (self.all_unsafe || !other.all_unsafe) && other.named.iter().all(|name| self.hold(name.as_bytes()))
    }
}

fn method(at: &Place<'_>, value: &Value) -> Read<String> {
    // Methods have case, so `post` would never match and leave the route unprotected without a word.
    let fits = |text: &str| is_token(text) && !text.contains(|char: char| char.is_ascii_lowercase());
    let name = at.text(value, "a method in capitals", fits)?;
    if name == "CONNECT" {
        at.warn("is a tunnel, which is never protected");
    } else if name != "*" && !REGISTERED.contains(&name) {
        at.warn(&format!("\"{name}\" is no method that HTTP knows"));
    }
    Ok(name.to_owned())
}
