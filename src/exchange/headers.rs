//! Which header fields are kept, stripped, sent on or read as a word to the gateway.
//!
//! Its one rule: a field is judged by its name and the fields beside it, never by the state of an exchange.
//! It does not know who sends the message on.

use crate::config::Fate;
use crate::evidence::{Origin, flags};
use crate::message::{HeaderMutation, Headers, whole_number};
use crate::reply::OUR_HEADERS;

/// The fencing number, for the upstream.
pub(super) const ATTEMPT: &str = "idempotency-attempt";
/// The operation's identity, for the upstream.
pub(super) const OPERATION: &str = "idempotency-operation";
/// The number that is larger with every request for one resource, for the upstream.
pub(super) const FENCE: &str = "idempotency-fence";
/// What a client must not say to the service, also where that takes `_` for `-` (RFC 3875, section 4.1.18).
pub(super) const OURS_ALONE: [&str; 6] =
    [ATTEMPT, OPERATION, FENCE, "idempotency_attempt", "idempotency_fence", "idempotency_operation"];
/// The upstream's word on what becomes of the key.
const STEER_FATE: &str = "idempotency-store";
/// The upstream's word on how long a completed record lives.
const STEER_TTL: &str = "idempotency-ttl";

/// How the fields begin in which the internal listener of a shielded execution writes down how an answer came about.
const REPORT: &[u8] = b"x-idempotency-";
const REPORT_ATTEMPTS: &str = "x-idempotency-attempts";
const REPORT_DETAILS: &str = "x-idempotency-details";
const REPORT_FLAGS: &str = "x-idempotency-flags";
const REPORT_OWNER: &str = "x-idempotency-owner";
const REPORT_SENT: &str = "x-idempotency-sent";

/// Header fields after these changes.
pub(super) fn edited(headers: &Headers, edits: &[HeaderMutation]) -> Headers {
    let is_replaced = |name: &[u8]| {
        edits.iter().any(|edit| matches!(edit, HeaderMutation::Remove(gone) | HeaderMutation::Set(gone, _) if gone.as_bytes() == name))
    };
    let mut out: Headers = headers.iter().filter(|(name, _)| !is_replaced(name)).collect();
    for edit in edits {
        if let HeaderMutation::Add(name, value) | HeaderMutation::Set(name, value) = edit {
            out.push(name.as_bytes(), value);
        }
    }
    out
}

/// What Envoy reports of an answer to a request that the gateway itself had sent: `response_headers_to_add` of the
/// internal listener writes it down. None where a part is missing, because a field that is missing looks like one that
/// says no.
pub(super) fn reported(headers: &Headers) -> Option<Origin<'_>> {
    let said = |name| headers.first(name).map(|text| if text == b"-" { b"".as_slice() } else { text });
    Some(Origin {
        details: said(REPORT_DETAILS)?,
        attempts: Some(whole_number(said(REPORT_ATTEMPTS)?)?),
        flags: flags(said(REPORT_FLAGS)?),
        sent: Some(whole_number(said(REPORT_SENT)?)?),
        owner: said(REPORT_OWNER).map(|owner| (!owner.is_empty()).then_some(owner))?,
    })
}

/// The fields of an answer that go on to the client: all but those about the connection, and what was said to the gateway.
pub(super) fn passed(headers: &Headers) -> Headers {
    let ours = OUR_HEADERS.into_iter().chain([STEER_FATE, STEER_TTL]);
    let not_theirs: Vec<&str> = ours.collect();
    let goes_on = |name: &[u8]| {
        !name.starts_with(b":")
            && !name.starts_with(REPORT)
            && !is_about_the_connection(name)
            && !not_theirs.iter().any(|own| own.as_bytes() == name)
    };
    headers.iter().filter(|(name, _)| goes_on(name)).collect()
}

/// The upstream's own word on the fate of the key.
pub(super) enum Steering {
    /// It says nothing.
    None,
    /// One word, in any case, however often it is said.
    Fate(Fate),
    /// Something else, or more than one word: something is to become of the key that its status does not tell.
    Unreadable,
}

/// Reads what the upstream says of the key.
pub(super) fn steering(headers: &Headers) -> Steering {
    let mut words = headers.all(STEER_FATE).flat_map(|line| line.split(|byte| *byte == b',')).map(<[u8]>::trim_ascii);
    let Some(word) = words.next() else { return Steering::None };
    let fates =
        [("store", Fate::Store), ("release", Fate::Release), ("retry", Fate::Retry), ("unknown", Fate::Unknown)];
    let fate = fates.iter().find(|(name, _)| word.eq_ignore_ascii_case(name.as_bytes())).map(|(_, fate)| *fate);
    match fate {
        Some(fate) if words.all(|other| other.eq_ignore_ascii_case(word)) => Steering::Fate(fate),
        _ => Steering::Unreadable,
    }
}

/// The upstream's own word on how long the completed record lives, in whole seconds; as many as there are where it has
/// more digits than any number here.
pub(super) fn steered_ttl_s(headers: &Headers) -> Option<u64> {
    let text = single(headers, STEER_TTL)?;
    let is_number = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    is_number.then(|| whole_number(text).unwrap_or(u64::MAX)).filter(|seconds| *seconds > 0)
}

fn single<'a>(headers: &'a Headers, name: &'a str) -> Option<&'a [u8]> {
    let mut lines = headers.all(name);
    lines.next().filter(|_| lines.next().is_none()).map(<[u8]>::trim_ascii)
}

/// Removals of what only the gateway may say, and of what was said to it alone.
pub(super) fn removals(headers: &Headers) -> Vec<HeaderMutation> {
    let ours = OUR_HEADERS.into_iter().filter(|name| headers.has(name)).map(HeaderMutation::Remove);
    ours.chain(steering_removals(headers)).collect()
}

/// Removals of what the upstream has said to the gateway alone.
pub(super) fn steering_removals(headers: &Headers) -> Vec<HeaderMutation> {
    [STEER_FATE, STEER_TTL].into_iter().filter(|name| headers.has(name)).map(HeaderMutation::Remove).collect()
}

/// The fields that are worth repeating: end-to-end ones that are not about this one delivery.
///
/// "Intermediaries ... MUST remove ... fields nominated by Connection" (RFC 9110, section 7.6.1).
pub(super) fn kept(headers: &Headers) -> Headers {
    let nominated: Vec<&[u8]> = headers.all("connection").flat_map(|line| line.split(|byte| *byte == b',')).collect();
    let is_nominated = |name: &[u8]| nominated.iter().any(|token| token.trim_ascii().eq_ignore_ascii_case(name));
    headers.iter().filter(|(name, _)| !is_about_one_delivery(name) && !is_nominated(name)).collect()
}

/// Fields about the connection or the framing.
pub(super) fn is_about_the_connection(name: &[u8]) -> bool {
    let connection: [&[u8]; 6] =
        [b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-connection", b"te", b"upgrade"];
    let framing: [&[u8]; 3] = [b"content-length", b"trailer", b"transfer-encoding"];
    connection.contains(&name) || framing.contains(&name)
}

/// Pseudo-headers, and fields about the connection, the framing, or this one delivery.
fn is_about_one_delivery(name: &[u8]) -> bool {
    match name {
        name if is_about_the_connection(name) => true,
        b"date" | b"server" | b"set-cookie" | b"traceparent" | b"x-request-id" => true,
        b"idempotency-key" | b"idempotency-status" | b"idempotency-store" | b"idempotency-ttl" => true,
        b"idempotent-replayed" => true,
        _ => [":", "ratelimit", "x-envoy-"].iter().any(|prefix| name.starts_with(prefix.as_bytes())),
    }
}
