//! Every answer the filter itself gives, and the status line on every answer it lets through.
//!
//! Its one rule: what a client can read of us is written here and nowhere else.
//! It does not know why an answer is given.

use std::fmt;

use serde_json::Value;

use crate::config::Policy;
use crate::key::{KEY, Name};
use crate::message::Headers;
use crate::record::{RecordStatus, RecordSummary, Response};
use crate::refusal::{OUTCOME_HELD, ProblemType, Row};

/// Our response headers; what an upstream sends under these names is removed.
pub const OUR_HEADERS: [&str; 3] = [STATUS, REPLAYED, KEY];
/// `Idempotency-Status`: what became of the request.
pub const STATUS: &str = "idempotency-status";
/// `Idempotent-Replayed`: marks a replay.
pub const REPLAYED: &str = "idempotent-replayed";
/// For browsers, under `expose_cors`.
pub const EXPOSE: &str = "access-control-expose-headers";
/// What `expose_cors` lists.
pub const EXPOSED: &str = "Idempotency-Status, Idempotent-Replayed, Idempotency-Key, Retry-After";
/// How the response code details of our own answers begin.
pub const DETAILS: &str = "idempotency_";

/// The details of a stored response that comes again.
const REPLAY: &str = "idempotency_replay";
/// The details of a response to a request that the gateway itself had sent.
const EXECUTED: &str = "idempotency_executed";
/// The details of an answer to a look-up.
const LOOK_UP: &str = "idempotency_look_up";
/// The details of an issued key.
const ISSUED: &str = "idempotency_issued";
/// The details of an answer to an operator.
const OPERATOR: &str = "idempotency_operator";

/// An answer of the filter itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The HTTP status.
    pub status: u16,
    /// Every field of the answer.
    pub headers: Headers,
    /// The whole body.
    pub body: Vec<u8>,
    /// The response code details by which the answer is recognised; begins with [`DETAILS`].
    pub details: &'static str,
}

/// What is true of one refusal besides its slug.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProblemDetails {
    /// The attempt that stands in the way.
    pub attempt: Option<u32>,
    /// After how many seconds a retry makes sense.
    pub retry_after_s: Option<u64>,
    /// The status of the completed operation.
    pub original_status: Option<u16>,
    /// How many seconds ago the same was sent under another key.
    pub seconds_ago: Option<u64>,
    /// What became of the request, where that is not what it is of most refusals of its kind.
    pub detail: Option<&'static str>,
}

impl Reply {
    /// A refusal, as RFC 9457 has it: `{"type", "title", "status", "detail"}`.
    pub fn problem(policy: &Policy, problem: ProblemType, facts: ProblemDetails) -> Self {
        let status = policy.statuses.of(problem);
        let Row { slug, title, detail, code_details, .. } = problem.row();
        let is_held = problem == ProblemType::OutcomeUnknown && facts.retry_after_s.is_none();
        let detail = facts.detail.unwrap_or(if is_held { OUTCOME_HELD } else { detail });
        let mut body = serde_json::json!({
            "type": format!("{}{slug}", policy.problem_base),
            "title": title,
            "status": status,
            "detail": detail,
        });
        let numbers = [("original_status", facts.original_status.map(u64::from)), ("seconds_ago", facts.seconds_ago)];
        if let Some(members) = body.as_object_mut() {
            members.extend(numbers.into_iter().filter_map(|(name, number)| Some((name.to_owned(), number?.into()))));
        }
        let mut headers = Headers::default();
        headers.push(b"content-type", b"application/problem+json");
        headers.push(b"cache-control", b"no-store");
        if let Some(seconds) = facts.retry_after_s {
            headers.push(b"retry-after", seconds.to_string().as_bytes());
        }
        let status_line =
            IdempotencyStatus { attempt: facts.attempt, reason: Some(slug), ..IdempotencyStatus::new(Token::Refused) };
        headers.push(STATUS.as_bytes(), status_line.to_string().as_bytes());
        expose(policy, &mut headers);
        Reply { status, headers, body: body.to_string().into_bytes(), details: code_details }
    }

    /// Whether it is what a service has sent, or tells of it, and comes to the client as it is given: no format of the
    /// operator's is for it.
    pub fn is_put_back(&self) -> bool {
        [REPLAY, EXECUTED, LOOK_UP, ISSUED, OPERATOR].contains(&self.details)
    }

    /// What the upstream answered to a request that the gateway itself had sent.
    pub fn passed(status: u16, headers: Headers, body: Vec<u8>) -> Self {
        Reply { status, headers, body, details: EXECUTED }
    }

    /// What the client gets where Envoy has no way to send the request, in the words of Envoy.
    pub fn unsent() -> Self {
        Reply::in_plain_text(503, "no healthy upstream")
    }

    /// What the client gets where the upstream's answer got lost, as when the host itself had sent the request.
    pub fn lost() -> Self {
        Reply::in_plain_text(502, "the response of the upstream was lost")
    }

    fn in_plain_text(status: u16, text: &str) -> Self {
        let headers = [("content-type", "text/plain")].into_iter().collect();
        Reply::passed(status, headers, text.into())
    }

    /// A key for a client, and for how many seconds it may begin an operation: `{"key", "expires_in"}`.
    pub fn issued(key: &str, left_s: u64) -> Self {
        Reply::in_json(201, "application/json", format!(r#"{{"expires_in":{left_s},"key":"{key}"}}"#), ISSUED)
    }

    /// What is known of an operation, for a look-up: `{"state", "attempt", "status", "ttl"}`; of one without a record
    /// whose key the gateway has issued, for how many seconds that may still begin it.
    pub fn sight(sight: Option<RecordSummary>, issued_left_s: Option<u64>) -> Self {
        let (status, mut members) = summary(sight);
        if let (None, Some(left_s)) = (sight, issued_left_s) {
            members = format!(r#""expires_in":{left_s},"issued":true,{members}"#);
        }
        Reply::in_json(status, "application/json", format!("{{{members}}}"), LOOK_UP)
    }

    /// What is known of an operation, for an operator; and for how long others may replay what they remember of it.
    pub fn operation(name: Option<&Name>, sight: Option<RecordSummary>, remembered_s: Option<u64>) -> Self {
        let (status, members) = summary(sight);
        let name = name.map(|name| format!(r#""operation":"{}","#, name.hex())).unwrap_or_default();
        let remembered = remembered_s.map(|seconds| format!(r#","remembered_s":{seconds}"#)).unwrap_or_default();
        Reply::in_json(status, "application/json", format!("{{{name}{members}{remembered}}}"), OPERATOR)
    }

    /// Why an operator does not get what he asks for.
    pub fn for_operator(status: u16, detail: &str) -> Self {
        Reply::without_type(status, detail, OPERATOR)
    }

    /// The reply with one more field.
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push(name.as_bytes(), value.as_bytes());
        self
    }

    /// A look-up that does not say what it looks for.
    pub fn bad_look_up(detail: &str) -> Self {
        Reply::without_type(400, detail, LOOK_UP)
    }

    /// "about:blank" is a problem with no more to it than its status (RFC 9457, section 4.2.1).
    fn without_type(status: u16, detail: &str, details: &'static str) -> Self {
        let title = match status {
            400 => "Bad Request",
            401 => "Unauthorized",
            404 => "Not Found",
            405 => "Method Not Allowed",
            409 => "Conflict",
            413 => "Content Too Large",
            _ => "Service Unavailable",
        };
        let detail = Value::from(detail);
        let body = format!(r#"{{"type":"about:blank","title":"{title}","status":{status},"detail":{detail}}}"#);
        Reply::in_json(status, "application/problem+json", body, details)
    }

    fn in_json(status: u16, media_type: &str, body: String, details: &'static str) -> Self {
        let headers = [("content-type", media_type), ("cache-control", "no-store")].into_iter().collect();
        Reply { status, headers, body: body.into_bytes(), details }
    }

    /// The stored response once more. Its body is what was kept: nothing where only the head was.
    pub fn replay(policy: &Policy, response: Response, line: &IdempotencyStatus) -> Self {
        let mut headers = response.headers;
        headers.push(STATUS.as_bytes(), line.to_string().as_bytes());
        headers.push(REPLAYED.as_bytes(), b"true");
        expose(policy, &mut headers);
        Reply { status: response.status, headers, body: response.body.unwrap_or_default(), details: REPLAY }
    }
}

/// The value of `Idempotency-Status`: "an Item ... MUST be a Token" with parameters (RFC 9651, section 3.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdempotencyStatus {
    /// What became of the request.
    pub token: Token,
    /// Whether a retry will be answered from the store; of an execution.
    pub stored: Option<bool>,
    /// The attempt this is about.
    pub attempt: Option<u32>,
    /// Seconds since the operation completed; of a replay.
    pub age_s: Option<u64>,
    /// Seconds until the record is forgotten.
    pub ttl_s: Option<u64>,
    /// What became of an execution whose answer is not kept; of a trial, what would have become of the request.
    pub outcome: Option<&'static str>,
    /// How many seconds ago the same was sent under another key.
    pub similar_s: Option<u64>,
    /// A slug or a [`Reason`].
    pub reason: Option<&'static str>,
}

/// What became of a request, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token {
    /// It went upstream unprotected.
    Bypassed,
    /// It went upstream under a claim.
    Executed,
    /// It was not let through.
    Refused,
    /// It was answered from the store.
    Replayed,
}

/// Why a request went upstream unprotected, or was not kept for replay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// A filter in front has made a gRPC call of it.
    Grpc,
    /// The key is one of the gateway's own making.
    Injected,
    /// The body that would hold its key cannot be read.
    KeyUnreadable,
    /// It has a credential outside the scope.
    NoCaller,
    /// It has no key and needs none.
    NoKey,
    /// Decisions are only counted.
    Observe,
    /// The store failed and the policy forwards.
    StoreFailure,
    /// A body is over the limit.
    TooLarge,
}

impl Reason {
    /// As it stands in `Idempotency-Status`.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::Grpc => "grpc",
            Reason::Injected => "injected",
            Reason::KeyUnreadable => "key-unreadable",
            Reason::NoCaller => "no-caller",
            Reason::NoKey => "no-key",
            Reason::Observe => "observe",
            Reason::StoreFailure => "store-failure",
            Reason::TooLarge => "too-large",
        }
    }
}

impl IdempotencyStatus {
    /// A line without parameters.
    pub fn new(token: Token) -> Self {
        IdempotencyStatus {
            token,
            stored: None,
            attempt: None,
            age_s: None,
            ttl_s: None,
            outcome: None,
            similar_s: None,
            reason: None,
        }
    }

    /// The line of a request that goes upstream unprotected.
    pub fn bypassed(reason: Reason) -> Self {
        IdempotencyStatus { reason: Some(reason.as_str()), ..IdempotencyStatus::new(Token::Bypassed) }
    }

    /// The line with what became of the response as its reason; why the request ran unprotected matters more.
    pub fn because(self, reason: Option<Reason>) -> Self {
        IdempotencyStatus { reason: self.reason.or(reason.map(Reason::as_str)), ..self }
    }
}

impl fmt::Display for IdempotencyStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.token {
            Token::Bypassed => "bypassed",
            Token::Executed => "executed",
            Token::Refused => "refused",
            Token::Replayed => "replayed",
        })?;
        if let Some(stored) = self.stored {
            write!(f, ";stored=?{}", u8::from(stored))?;
        }
        if let Some(attempt) = self.attempt {
            write!(f, ";attempt={attempt}")?;
        }
        if let Some(age) = self.age_s {
            write!(f, ";age={age}")?;
        }
        if let Some(ttl) = self.ttl_s {
            write!(f, ";ttl={ttl}")?;
        }
        if let Some(outcome) = self.outcome {
            write!(f, ";outcome={outcome}")?;
        }
        if let Some(similar) = self.similar_s {
            write!(f, ";similar={similar}")?;
        }
        if let Some(reason) = self.reason {
            write!(f, ";reason={reason}")?;
        }
        Ok(())
    }
}

/// What a record shows, as status and members: `state`, `attempt`, `status`, `ttl`.
fn summary(sight: Option<RecordSummary>) -> (u16, String) {
    let Some(RecordSummary { attempt, standing, ttl_ms }) = sight else {
        return (404, r#""state":"absent""#.to_owned());
    };
    let (state, status) = match standing {
        RecordStatus::Completed(status) => ("completed", status),
        RecordStatus::Open => ("open", None),
        RecordStatus::Running => ("running", None),
        RecordStatus::Unknown => ("unknown", None),
    };
    let status = status.map_or("null".to_owned(), |status| status.to_string());
    let ttl_s = ttl_ms / 1000;
    (200, format!(r#""attempt":{attempt},"state":"{state}","status":{status},"ttl":{ttl_s}"#))
}

fn expose(policy: &Policy, headers: &mut Headers) {
    if policy.expose_cors {
        headers.push(EXPOSE.as_bytes(), EXPOSED.as_bytes());
    }
}
