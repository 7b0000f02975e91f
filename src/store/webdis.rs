//! The wire of Webdis, an HTTP front of Redis: a command in the path, its last argument in the body.
//!
//! Its one rule: a reply counts only as the whole array that the script returns; all else is a failure with a reason.
//! It does not know what the script does, nor who sends the request.
//!
//! Webdis splits a path at raw slashes and decodes the parts, takes a suffix of the last part for the form of the
//! reply, and under that `.raw` hands over Redis's own protocol, the only form that is exact for bytes.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::command::Failure;
use crate::store::client::{Batch, Reply};
use crate::store::redis::{self, Named};
use crate::store::resp::{self, Answer, Parsed, Value};

/// What may stand in a part of the path as it is.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_');

/// One HTTP request: `PUT <path>` with the operations as its body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Put {
    /// The whole path.
    pub path: String,
    /// The whole body.
    pub body: Vec<u8>,
}

/// The request that carries a batch. `base` is the path in front of every call, `prefix` that of every key.
pub fn put(base: &str, prefix: &str, batch: &Batch, named: Named) -> Put {
    let (command, script) = named.command();
    let prefix = utf8_percent_encode(prefix, PLAIN).to_string();
    let mut path = format!("{base}{command}/{}/{}", utf8_percent_encode(script, PLAIN), batch.tries.len());
    for (_, call) in &batch.tries {
        path.push('/');
        path.push_str(&prefix);
        path.push_str(&call.name.hex());
    }
    path.push_str(".raw");
    Put { path, body: redis::pack(batch, false) }
}

/// Reads what came back: a status, if any response came at all, and a body.
pub fn read(status: Option<u16>, body: &[u8]) -> Answer {
    let failed = |failure| Answer::Reply(Reply::Failed(failure));
    match (status, body) {
        (None, _) => failed(Failure::Transport),
        (Some(200), [b'-', error @ ..]) => Value::Error(error).into_answer(),
        (Some(200), body) => match resp::parse(body) {
            Parsed::Whole(value, len) if len == body.len() => value.into_answer(),
            _ => failed(Failure::Garbage),
        },
        (Some(504), _) => failed(Failure::Timeout),
        // Envoy says 503 when it cannot reach Webdis, and Webdis when it cannot reach Redis.
        (Some(503), _) => failed(Failure::Transport),
        _ => failed(Failure::Garbage),
    }
}
