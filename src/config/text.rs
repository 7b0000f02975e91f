//! Texts of the document: names, paths, and what else can stand in a request.
//!
//! Its one rule: a text that no request could have is refused, because a rule with it would never match.
//! It does not know which field a text is of.

use std::ops::RangeInclusive;

use serde_json::Value;

use super::walk::{Place, Read};
use crate::json::Pointer;

/// Reads the name of a header, and puts it in lower case as Envoy has it.
pub(super) fn header_name(at: &Place<'_>, value: &Value) -> Read<String> {
    at.text(value, "a header name", is_token).map(str::to_ascii_lowercase)
}

/// Reads a string that could stand in a request: not empty, and nothing in it that a log line could not hold.
pub(super) fn plain(at: &Place<'_>, value: &Value) -> Read<String> {
    let wanted = "a string that is not empty and has no control characters";
    at.text(value, wanted, |text| !text.is_empty() && !text.contains(char::is_control)).map(str::to_owned)
}

/// RFC 9110, section 5.6.2: what names of headers, methods and cookies are made of.
pub(super) fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

/// Reads a path that requests can have.
pub(super) fn path<'v>(at: &Place<'_>, value: &'v Value) -> Read<&'v str> {
    // Anything else never appears in a path, so the rule would never match.
    let fits = |text: &str| {
        text.starts_with('/') && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'?' && byte != b'#')
    };
    at.text(value, "a path that begins with / and has no query, fragment, space or non-ASCII character", fits)
}

/// Reads a text of so many visible ASCII characters.
pub(super) fn visible(at: &Place<'_>, value: &Value, lengths: RangeInclusive<usize>) -> Read<String> {
    let wanted = format!("{} to {} visible ASCII characters", lengths.start(), lengths.end());
    at.text(value, &wanted, |text| is_visible(text, &lengths)).map(str::to_owned)
}

/// Whether this is a text of so many visible ASCII characters.
pub(super) fn is_visible(text: &str, lengths: &RangeInclusive<usize>) -> bool {
    lengths.contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Reads a place in a JSON body.
pub(super) fn pointer(at: &Place<'_>, value: &Value) -> Read<Pointer> {
    let text = at.text(value, "a JSON Pointer such as /order/id", |text| Pointer::parse(text).is_some())?;
    Pointer::parse(text).ok_or_else(|| at.wrong("a JSON Pointer", value))
}
