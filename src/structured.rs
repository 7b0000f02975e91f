//! Structured fields (RFC 9651), of which a key may be one: an Item that is a String.
//!
//! Its one rule: the whole value is an Item, its parameters too, or nothing is read of it.
//! It does not know what a parameter means.

use crate::message::split_where;

/// The text of an Item that is a String.
pub fn string_item(value: &[u8]) -> Option<Vec<u8>> {
    let (text, mut rest) = string(value)?;
    while !rest.is_empty() {
        rest = parameter(rest)?;
    }
    Some(text)
}

/// "sf-string = DQUOTE *( unescaped / "%" / bs-escaped ) DQUOTE" (section 3.3.3), and what follows it.
fn string(value: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let (mut text, mut rest) = (Vec::new(), value.strip_prefix(b"\"")?);
    loop {
        let (byte, after) = match rest {
            [b'"', rest @ ..] => return Some((text, rest)),
            [b'\\', byte @ (b'"' | b'\\'), rest @ ..] => (byte, rest),
            [b'\\', ..] => return None,
            [byte @ b' '..=b'~', rest @ ..] => (byte, rest),
            _ => return None,
        };
        text.push(*byte);
        rest = after;
    }
}

/// What follows one parameter: "*( ";" *SP parameter )", "parameter = param-key [ "=" param-value ]" (section 3.1.2).
fn parameter(value: &[u8]) -> Option<&[u8]> {
    let (_, key) = split_where(value.strip_prefix(b";")?, |byte| byte != b' ');
    let (b'a'..=b'z' | b'*', _) = key.split_first()? else { return None };
    let is_of_key = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-.*".contains(&byte);
    match split_where(key, |byte| !is_of_key(byte)).1 {
        [b'=', item @ ..] => bare_item(item),
        rest => Some(rest),
    }
}

/// What follows a value of any of the types of section 3.3.
fn bare_item(item: &[u8]) -> Option<&[u8]> {
    match item {
        [b'"', ..] => string(item).map(|(_, rest)| rest),
        [b'?', b'0' | b'1', rest @ ..] => Some(rest),
        [b'@', date @ ..] => number(date).filter(|(is_whole, _)| *is_whole).map(|(_, rest)| rest),
        [b'-' | b'0'..=b'9', ..] => number(item).map(|(_, rest)| rest),
        [b':', bytes @ ..] => byte_sequence(bytes),
        [b'%', b'"', text @ ..] => display_string(text),
        [b'*' | b'a'..=b'z' | b'A'..=b'Z', ..] => Some(split_where(item, |byte| !is_of_token(byte)).1),
        _ => None,
    }
}

/// "tchar / ":" / "/"" (section 3.3.4).
fn is_of_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~:/".contains(&byte)
}

/// Whether an Integer of up to 15 digits, or else a Decimal of up to 12 and 3, stands there, and what follows it.
fn number(text: &[u8]) -> Option<(bool, &[u8])> {
    let (whole, rest) = split_where(text.strip_prefix(b"-").unwrap_or(text), |byte| !byte.is_ascii_digit());
    let Some(fraction) = rest.strip_prefix(b".") else {
        return (1..=15).contains(&whole.len()).then_some((true, rest));
    };
    let (fraction, rest) = split_where(fraction, |byte| !byte.is_ascii_digit());
    ((1..=12).contains(&whole.len()) && (1..=3).contains(&fraction.len())).then_some((false, rest))
}

/// "":" base64 ":"" (section 3.3.5), where "parsers SHOULD NOT fail" for padding that is missing (section 4.2.7).
fn byte_sequence(text: &[u8]) -> Option<&[u8]> {
    let (digits, rest) = split_where(text, |byte| !byte.is_ascii_alphanumeric() && byte != b'+' && byte != b'/');
    let (padding, rest) = split_where(rest, |byte| byte != b'=');
    let beyond = digits.len() % 4;
    let is_base64 = beyond != 1 && padding.len() <= (4 - beyond) % 4;
    rest.strip_prefix(b":").filter(|_| is_base64)
}

/// UTF-8, of which each byte that is not printable ASCII stands as "%" and two digits in lower case (section 3.3.8).
fn display_string(mut text: &[u8]) -> Option<&[u8]> {
    let digit = |byte: u8| char::from(byte).to_digit(16).filter(|_| !byte.is_ascii_uppercase());
    let mut shown = Vec::new();
    loop {
        let (byte, rest) = match text {
            [b'"', rest @ ..] => return std::str::from_utf8(&shown).is_ok().then_some(rest),
            [b'%', high, low, rest @ ..] => ((digit(*high)? << 4 | digit(*low)?) as u8, rest),
            [b'%', ..] => return None,
            [byte @ b' '..=b'~', rest @ ..] => (*byte, rest),
            _ => return None,
        };
        shown.push(byte);
        text = rest;
    }
}
