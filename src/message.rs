//! What a request or a response looks like to the rest of the crate: header fields as bytes.
//!
//! Its one rule: nothing is assumed to be text. A header value that is not UTF-8 is an ordinary value.
//! It does not know which headers matter, or where they come from.

/// Header fields in the order they arrived, names in lower case as HTTP/2 and Envoy have them.
///
/// One buffer holds them all, so that reading a whole header map costs one allocation for bytes and one for places.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers {
    bytes: Vec<u8>,
    /// For each field: where its name ends and where its value ends; each begins where the one before it ended.
    ends: Vec<(usize, usize)>,
}

/// Lines of a header map that a module may hand to the host; a larger map is an empty one there (proxy-wasm's
/// `PROXY_WASM_HOST_PAIRS_MAX_COUNT`).
const MAP_LINES: usize = 1024;
/// Bytes of one (`PROXY_WASM_HOST_PAIRS_MAX_BYTES`).
const MAP_BYTES: usize = 1 << 20;
/// Lines of ours that may come on top.
const OUR_LINES: usize = 16;
/// Bytes of them.
const OUR_BYTES: usize = 4096;

impl Headers {
    /// No fields yet, with room for `fields` fields of `bytes` bytes in all.
    pub fn with_capacity(fields: usize, bytes: usize) -> Self {
        Headers { bytes: Vec::with_capacity(bytes), ends: Vec::with_capacity(fields) }
    }

    /// Adds one field line at the end.
    pub fn push(&mut self, name: &[u8], value: &[u8]) {
        self.bytes.extend_from_slice(name);
        let name_end = self.bytes.len();
        self.bytes.extend_from_slice(value);
        self.ends.push((name_end, self.bytes.len()));
    }

    /// Every field line, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let mut start = 0;
        self.ends.iter().map(move |&(name_end, end)| {
            let name = self.bytes.get(start..name_end).unwrap_or_default();
            let value = self.bytes.get(name_end..end).unwrap_or_default();
            start = end;
            (name, value)
        })
    }

    /// The values of every line with this (lower-case) name, in order.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.iter().filter(move |(n, _)| *n == name.as_bytes()).map(|(_, value)| value)
    }

    /// The value of the first line with this (lower-case) name.
    pub fn first(&self, name: &str) -> Option<&[u8]> {
        let mut start = 0;
        for &(name_end, end) in &self.ends {
            // Most lines are told by the length of their name.
            if name_end - start == name.len() && self.bytes.get(start..name_end) == Some(name.as_bytes()) {
                return self.bytes.get(name_end..end);
            }
            start = end;
        }
        None
    }

    /// Only the lines with this (lower-case) name.
    pub fn only(&self, name: &str) -> Headers {
        self.iter().filter(|(n, _)| *n == name.as_bytes()).collect()
    }

    /// Whether the host takes these fields as one map, with a few lines of ours beside them.
    pub fn fit_a_map(&self) -> bool {
        let lengths_and_ends = 10 * self.ends.len();
        self.ends.len() + OUR_LINES <= MAP_LINES && self.bytes.len() + lengths_and_ends + OUR_BYTES <= MAP_BYTES
    }

    /// Whether a line with this (lower-case) name is there.
    pub fn has(&self, name: &str) -> bool {
        self.first(name).is_some()
    }
}

impl<N: AsRef<[u8]>, V: AsRef<[u8]>> FromIterator<(N, V)> for Headers {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(fields: I) -> Self {
        let mut headers = Headers::default();
        for (name, value) in fields {
            headers.push(name.as_ref(), value.as_ref());
        }
        headers
    }
}

/// A request's header fields, with the pseudo-headers taken apart once.
#[derive(Clone, Debug, Default)]
pub struct RequestHead {
    /// Every field, the pseudo-headers (`:method` and so on) among them.
    pub headers: Headers,
}

impl RequestHead {
    /// The method, in the case the client gave it.
    pub fn method(&self) -> &[u8] {
        self.headers.first(":method").unwrap_or_default()
    }

    /// The path without the query.
    pub fn path(&self) -> &[u8] {
        path_of(self.target())
    }

    /// The query without its question mark; an empty one is none.
    pub fn query(&self) -> Option<&[u8]> {
        let target = self.target();
        let at = target.iter().position(|byte| *byte == b'?')?;
        target.get(at + 1..).filter(|query| !query.is_empty())
    }

    /// The host in lower case without its port.
    pub fn host(&self) -> Vec<u8> {
        let authority = self.headers.first(":authority").unwrap_or_default();
        let host = match authority.iter().rposition(|byte| *byte == b':') {
            Some(colon) if is_port(authority.get(colon + 1..)) => authority.get(..colon),
            _ => Some(authority),
        };
        host.unwrap_or_default().to_ascii_lowercase()
    }

    /// The announced length of the body, where there is one that is a number.
    pub fn content_length(&self) -> Option<u64> {
        content_length(&self.headers)
    }

    fn target(&self) -> &[u8] {
        self.headers.first(":path").unwrap_or_default()
    }
}

/// The part of a request target before the query.
pub fn path_of(target: &[u8]) -> &[u8] {
    target.split(|byte| *byte == b'?').next().unwrap_or_default()
}

/// The announced length of a body, where there is one that is a number.
pub fn content_length(headers: &Headers) -> Option<u64> {
    whole_number(headers.first("content-length")?)
}

/// The number that these digits say, where there is nothing but digits.
pub fn whole_number(text: &[u8]) -> Option<u64> {
    // Rust's own parser takes a sign as well.
    let digits = text.iter().all(u8::is_ascii_digit).then_some(text)?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// `type/subtype` of a `content-type` value in lower case, without its parameters.
pub fn media_type(content_type: &[u8]) -> Vec<u8> {
    let essence = content_type.split(|byte| *byte == b';').next().unwrap_or_default();
    essence.trim_ascii().to_ascii_lowercase()
}

/// Whether an `accept-encoding` of this list takes a content in this coding.
///
/// "If the content coding is one of the content codings listed in the Accept-Encoding field value, then it is acceptable
/// unless it is accompanied by a qvalue of 0"; "*" stands for any that is not listed (RFC 9110, section 12.5.3).
pub fn accepts_coding(accepted: &[u8], coding: &[u8]) -> bool {
    let weighed = |wanted: &[u8]| {
        accepted.split(|byte| *byte == b',').find_map(|item| {
            let mut pieces = item.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
            let is_wanted = pieces.next()?.eq_ignore_ascii_case(wanted);
            let is_none = |piece: &[u8]| {
                let weight = piece.strip_prefix(b"q=").or_else(|| piece.strip_prefix(b"Q="));
                weight.is_some_and(|weight| weight.iter().all(|byte| b"0.".contains(byte)))
            };
            is_wanted.then(|| !pieces.any(is_none))
        })
    };
    weighed(coding).or_else(|| weighed(b"*")).unwrap_or(false)
}

/// A change to the header fields of the message that is let go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeaderMutation {
    /// Add a line, beside those that may be there.
    Add(&'static str, Vec<u8>),
    /// Remove every line of this name.
    Remove(&'static str),
    /// Put one line in the place of all there are.
    Set(&'static str, Vec<u8>),
}

/// Only digits, and at least one: so an IPv6 address without a port keeps its last group's bracket.
fn is_port(text: Option<&[u8]>) -> bool {
    text.is_some_and(|digits| !digits.is_empty() && digits.iter().all(u8::is_ascii_digit))
}
