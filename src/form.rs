//! Fields of queries, cookies and forms, urlencoded or multipart, as bytes.
//!
//! Its one rule: a value is never made text, because two different values must not become one.
//! It does not know which fields matter.

use std::borrow::Cow;

use percent_encoding::percent_decode;

/// Every value of a field of a query or an urlencoded form, in order.
pub fn urlencoded(text: &[u8], field: &str) -> Vec<Vec<u8>> {
    text.split(|byte| *byte == b'&')
        .map(|pair| split_at_byte(pair, b'='))
        .filter(|(name, _)| decoded(name) == field.as_bytes())
        .map(|(_, value)| decoded(value))
        .collect()
}

/// The value of every cookie of this name in a `cookie` header.
pub fn cookies(line: &[u8], name: &str) -> Vec<Vec<u8>> {
    line.split(|byte| *byte == b';')
        .filter(|pair| pair.contains(&b'='))
        .map(|pair| split_at_byte(pair.trim_ascii(), b'='))
        .filter(|(found, _)| *found == name.as_bytes())
        .map(|(_, value)| value.to_vec())
        .collect()
}

/// Percent-decoding with `+` for a space.
fn decoded(text: &[u8]) -> Vec<u8> {
    let spaced: Cow<'_, [u8]> = match text.contains(&b'+') {
        true => text.iter().map(|byte| if *byte == b'+' { b' ' } else { *byte }).collect(),
        false => Cow::Borrowed(text),
    };
    percent_decode(&spaced).collect()
}

/// What separates the parts of a multipart body, from its `content-type`.
///
/// `boundary := 0*69<bchars> bcharsnospace` (RFC 2046, section 5.1.1).
pub fn boundary(content_type: &[u8]) -> Option<Vec<u8>> {
    let (kind, parameters) = split_at_byte(content_type, b';');
    let is_multipart = kind.trim_ascii().get(..10).is_some_and(|kind| kind.eq_ignore_ascii_case(b"multipart/"));
    parameter(parameters, b"boundary").filter(|boundary| is_multipart && (1..=70).contains(&boundary.len()))
}

/// The pieces between the delimiters of a multipart body: what stands in front of the first, each part from its
/// delimiter's end on, and what stands behind the last.
pub fn pieces<'a>(body: &'a [u8], boundary: &[u8]) -> Vec<&'a [u8]> {
    let delimiter = [b"\r\n--", boundary].concat();
    let (mut pieces, mut rest) = (Vec::new(), body);
    // "The boundary delimiter MUST occur at the beginning of a line" (RFC 2046, section 5.1.1): also of the first.
    if let Some(after) = delimiter.get(2..).and_then(|first| body.strip_prefix(first)) {
        (pieces, rest) = (vec![b"".as_slice()], after);
    }
    while let Some(at) = rest.windows(delimiter.len()).position(|window| window == delimiter) {
        let (piece, after) = rest.split_at(at);
        pieces.push(piece);
        rest = after.get(delimiter.len()..).unwrap_or_default();
    }
    pieces.push(rest);
    pieces
}

/// A body that is not what its `content-type` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unreadable;

/// Every value of a field of a multipart form (RFC 7578), in order; files are not fields.
///
/// # Errors
/// The body does not end where a multipart body ends, or a part has no head.
pub fn multipart(body: &[u8], boundary: &[u8], field: &str) -> Result<Vec<Vec<u8>>, Unreadable> {
    let mut values = Vec::new();
    for piece in pieces(body, boundary).into_iter().skip(1) {
        if piece.starts_with(b"--") {
            return Ok(values);
        }
        // The delimiter's line may end in blanks; a part without fields begins with the empty line.
        let line_end = piece.iter().position(|byte| !b" \t".contains(byte)).unwrap_or(piece.len());
        let part = piece.get(line_end..).filter(|rest| rest.starts_with(b"\r\n")).ok_or(Unreadable)?;
        let head_end = part.windows(4).position(|window| window == b"\r\n\r\n").ok_or(Unreadable)?;
        let (head, value) = part.split_at(head_end);
        if field_name(head).is_some_and(|name| name == field.as_bytes()) {
            values.extend(value.get(4..).map(<[u8]>::to_vec));
        }
    }
    Err(Unreadable)
}

/// The name of the field that a part with this head is, unless it is a file.
fn field_name(head: &[u8]) -> Option<Vec<u8>> {
    let lines = head.split(|byte| *byte == b'\n').map(|line| split_at_byte(line, b':'));
    let (_, disposition) = lines.into_iter().find(|(name, _)| name.eq_ignore_ascii_case(b"content-disposition"))?;
    let (kind, parameters) = split_at_byte(disposition, b';');
    let is_field = kind.trim_ascii().eq_ignore_ascii_case(b"form-data") && parameter(parameters, b"filename").is_none();
    parameter(parameters, b"name").filter(|_| is_field)
}

/// The value of the one parameter of this name (RFC 9110, section 5.6.6); none where there are several.
fn parameter(parameters: &[u8], name: &[u8]) -> Option<Vec<u8>> {
    let (mut rest, mut found) = (parameters, None);
    while !rest.is_empty() {
        let (before, after) = split_at_byte(rest, b'=');
        let key = before.rsplit(|byte| *byte == b';').next().unwrap_or_default();
        let (value, left) = parameter_value(after);
        if key.trim_ascii().eq_ignore_ascii_case(name) && found.replace(value).is_some() {
            return None;
        }
        rest = left;
    }
    found
}

/// A token or a quoted string, and what stands behind the semicolon after it.
fn parameter_value(text: &[u8]) -> (Vec<u8>, &[u8]) {
    let Some(quoted) = text.trim_ascii_start().strip_prefix(b"\"") else {
        let (value, left) = split_at_byte(text, b';');
        return (value.trim_ascii().to_vec(), left);
    };
    let (mut value, mut escaped) = (Vec::new(), false);
    for (at, byte) in quoted.iter().enumerate() {
        match byte {
            b'\\' if !escaped => escaped = true,
            b'"' if !escaped => {
                return (value, split_at_byte(quoted.get(at..).unwrap_or_default(), b';').1);
            }
            byte => {
                value.push(*byte);
                escaped = false;
            }
        }
    }
    (value, b"")
}

/// The two sides of the first such byte; all and nothing where there is none.
fn split_at_byte(text: &[u8], at: u8) -> (&[u8], &[u8]) {
    let mut sides = text.splitn(2, |byte| *byte == at);
    (sides.next().unwrap_or_default(), sides.next().unwrap_or_default())
}
