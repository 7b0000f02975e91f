//! The wire of Webdis, an HTTP front of Redis: a command in the path, its last argument in the body.
//!
//! Its one rule: a reply counts only as the whole array that the script returns; all else is a failure with a reason.
//! It does not know what the script does, nor who sends the request.
//!
//! Webdis splits a path at raw slashes and decodes the parts, takes a suffix of the last part for the form of the
//! reply, and under that `.raw` hands over Redis's own protocol, the only form that is exact for bytes.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::command::{Failure, RedisError};
use crate::message::whole_number;
use crate::store::client::{Batch, Reply};
use crate::store::redis::{self, SCRIPT, SCRIPT_SHA1};

/// What may stand in a part of the path as it is.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_');

/// How the script is named in a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Named {
    /// By its hash: Redis has it from an earlier request.
    Hash,
    /// By its text.
    Text,
}

/// One HTTP request: `PUT <path>` with the operations as its body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Put {
    /// The whole path.
    pub path: String,
    /// The whole body.
    pub body: Vec<u8>,
}

/// What came back from a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Redis does not have the script: the same batch is to be sent with its text.
    NoScript,
    /// The end of the call.
    Reply(Reply),
}

/// The request that carries a batch. `base` is the path in front of every call, `prefix` that of every key.
pub fn put(base: &str, prefix: &str, batch: &Batch, named: Named) -> Put {
    let (command, script) = match named {
        Named::Hash => ("EVALSHA", SCRIPT_SHA1),
        Named::Text => ("EVAL", SCRIPT),
    };
    let prefix = utf8_percent_encode(prefix, PLAIN).to_string();
    let mut path = format!("{base}{command}/{}/{}", utf8_percent_encode(script, PLAIN), batch.tries.len());
    for (_, call) in &batch.tries {
        path.push('/');
        path.push_str(&prefix);
        path.push_str(&call.name.hex());
    }
    path.push_str(".raw");
    Put { path, body: redis::pack(batch) }
}

/// Reads what came back: a status, if any response came at all, and a body.
pub fn read(status: Option<u16>, body: &[u8]) -> Answer {
    let failed = |failure| Answer::Reply(Reply::Failed(failure));
    match (status, body) {
        (None, _) => failed(Failure::Transport),
        (Some(200), [b'-', error @ ..]) => match error.split(|byte| !byte.is_ascii_alphanumeric()).next() {
            Some(b"NOSCRIPT") => Answer::NoScript,
            word => failed(Failure::Redis(RedisError::of(word.unwrap_or_default()))),
        },
        (Some(200), body) => match array(body).map(|items| items.into_iter().map(redis::unpack).collect()) {
            Some(Ok(answers)) => Answer::Reply(Reply::Answers(answers)),
            _ => failed(Failure::Garbage),
        },
        (Some(504), _) => failed(Failure::Timeout),
        // Envoy says 503 when it cannot reach Webdis, and Webdis when it cannot reach Redis.
        (Some(503), _) => failed(Failure::Transport),
        _ => failed(Failure::Garbage),
    }
}

/// The strings of an array in Redis's protocol (RESP2), if the whole input is one.
fn array(input: &[u8]) -> Option<Vec<&[u8]>> {
    let (count, mut rest) = length(b'*', input)?;
    let mut items = Vec::new();
    for _ in 0..count {
        let (len, tail) = length(b'$', rest)?;
        let (item, tail) = tail.split_at_checked(len)?;
        items.push(item);
        rest = tail.strip_prefix(b"\r\n")?;
    }
    rest.is_empty().then_some(items)
}

/// A number behind this byte, up to the end of the line.
fn length(kind: u8, input: &[u8]) -> Option<(usize, &[u8])> {
    let input = input.strip_prefix(&[kind])?;
    let end = input.windows(2).position(|window| window == b"\r\n")?;
    let (digits, rest) = input.split_at_checked(end)?;
    Some((usize::try_from(whole_number(digits)?).ok()?, rest.get(2..)?))
}
