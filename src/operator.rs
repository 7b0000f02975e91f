//! What an operator asks of an operation: a request to the operator plugin, read.
//!
//! Its one rule: without the token nothing is said, not even whether an operation is known.
//! It does not know what is kept of the operation.

use serde_json::Value;

use crate::command::Resolution;
use crate::config::{Config, Operator, Store};
use crate::json;
use crate::key::Name;
use crate::message::RequestHead;
use crate::reply::Reply;

/// What an operator asks.
#[derive(Clone, Debug)]
pub struct Asked {
    /// About which operation.
    pub operation: Operation,
    /// What.
    pub deed: Deed,
    /// For how many seconds other gateways may replay what they remember of it; none where they remember nothing.
    pub remembered_s: Option<u64>,
}

/// How an operator names an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// By its first twelve hex digits, as logs show them.
    Short([u8; 6]),
    /// By the whole of its name.
    Whole(Name),
}

/// What is to be done with an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    /// To say what is known of it.
    Look,
    /// To take an operator's word; the body says which.
    Resolve,
    /// To forget it.
    Forget,
}

/// An operator's word, as a body has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Word {
    /// What became of the operation.
    pub said: Resolution,
    /// For how long the record is to live at least, where that is said.
    pub ttl_ms: Option<u64>,
}

/// What is asked; none where the request is about something else. `is_empty` tells whether the embedded store has nothing.
///
/// # Errors
/// The answer is clear already.
pub fn asked(operator: &Operator, config: &Config, head: &RequestHead, is_empty: bool) -> Option<Result<Asked, Reply>> {
    let rest = head.path().strip_prefix(operator.path.as_bytes())?;
    (rest.is_empty() || rest.starts_with(b"/")).then(|| read(operator, config, head, rest, is_empty))
}

fn read(operator: &Operator, config: &Config, head: &RequestHead, rest: &[u8], is_empty: bool) -> Result<Asked, Reply> {
    let mut tokens = head.headers.all("authorization");
    if !tokens.next().is_some_and(|token| operator.admits(token)) || tokens.next().is_some() {
        return Err(Reply::for_operator(401, WITHOUT_TOKEN).with("www-authenticate", "Bearer"));
    }
    let mut parts = rest.split(|byte| *byte == b'/').skip(1);
    let (name, deed) = match (parts.next(), parts.next(), parts.next()) {
        (Some(name), None, _) => (name, Deed::Look),
        (Some(name), Some(b"resolve"), None) => (name, Deed::Resolve),
        (Some(name), Some(b"forget"), None) => (name, Deed::Forget),
        _ => return Err(Reply::for_operator(404, NO_SUCH_PATH)),
    };
    let method = if deed == Deed::Look { "GET" } else { "POST" };
    if head.method() != method.as_bytes() {
        return Err(Reply::for_operator(405, NO_SUCH_METHOD).with("allow", method));
    }
    let operation = parse(name).ok_or_else(|| Reply::for_operator(400, NO_OPERATION))?;
    let remembered_s = match &config.store {
        Store::Local { .. } if is_empty => return Err(Reply::for_operator(503, EMPTY_TABLE)),
        Store::Local { .. } => None,
        Store::Redis(_) if matches!(operation, Operation::Short(_)) => {
            return Err(Reply::for_operator(400, SHORT_ON_REDIS));
        }
        Store::Redis(redis) => redis.cache.map(|cache| cache.ttl_ms / 1000),
    };
    Ok(Asked { operation, deed, remembered_s })
}

/// Reads how an operator names an operation.
pub fn parse(text: &[u8]) -> Option<Operation> {
    let mut name = [0; 32];
    for (at, digit) in text.iter().enumerate() {
        let byte = name.get_mut(at / 2)?;
        *byte = *byte << 4 | char::from(*digit).to_digit(16)? as u8;
    }
    let [a, b, c, d, e, f, ..] = name;
    match text.len() {
        12 => Some(Operation::Short([a, b, c, d, e, f])),
        64 => Some(Operation::Whole(Name(name))),
        _ => None,
    }
}

/// Reads an operator's word, `{"ran": true, "status": 201}` or `{"ran": false, "attempt": 1}`; of one that it ran, `ttl_s`
/// may say for how long that is to be known.
pub fn word(body: &[u8]) -> Option<Word> {
    let body = json::parse(body).ok()?;
    let members = body.as_object()?;
    let whole = |name: &str, most: u64| match members.get(name) {
        None | Some(Value::Null) => Some(None),
        // Some write 201.0.
        Some(value) => {
            let number = value.as_f64().filter(|number| number.fract() == 0.0 && *number >= 1.0)?;
            (number <= most as f64).then_some(Some(number as u64))
        }
    };
    let known = members.keys().all(|name| ["ran", "attempt", "status", "ttl_s"].contains(&name.as_str()));
    let (status, ttl_s) = (whole("status", 599)?, whole("ttl_s", TTL_MAX_S)?);
    let attempt = whole("attempt", u32::MAX.into())?.map(|attempt| attempt as u32);
    let status = status.map(|status| status as u16);
    let said = match members.get("ran")?.as_bool()? {
        true if attempt.is_none() && status.is_none_or(|status| status >= 200) => Resolution::Ran { status },
        false if status.is_none() && ttl_s.is_none() => Resolution::NotRun { attempt: attempt? },
        _ => return None,
    };
    known.then_some(Word { said, ttl_ms: ttl_s.map(|ttl_s| 1000 * ttl_s) })
}

/// The longest life that a record may be given: a year.
const TTL_MAX_S: u64 = 365 * 24 * 60 * 60;

const WITHOUT_TOKEN: &str = "Say who you are: authorization: Bearer, and the token of this plugin's configuration.";
const NO_SUCH_PATH: &str = "Known here: GET …/<operation>, POST …/<operation>/resolve, POST …/<operation>/forget.";
const NO_SUCH_METHOD: &str = "An operation is looked at with GET, and resolved or forgotten with POST.";
const NO_OPERATION: &str = "An operation is named by the 64 hex digits that the service saw as Idempotency-Operation, or by \
                            the first 12 of them, which logs show.";
const SHORT_ON_REDIS: &str = "In Redis an operation is found by all 64 hex digits; `idempotencyctl list` finds them by the \
                              first 12.";
const EMPTY_TABLE: &str = "This plugin's table is empty, so whether the operation is known cannot be told: the records are \
                           gone with an Envoy that has ended, or they are in another table, found by the gateway's own \
                           vm_id, plugin name and store.max_bytes.";
