//! Every refusal of the gateway's own, in one table: its name, its statuses and its words.
//!
//! Its one rule: what is true of every refusal of one kind stands in its row and nowhere else.
//! It does not know why a request is refused.

/// A refusal; the last part of its problem type (RFC 9457, section 3.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProblemType {
    /// The key was used up and nothing is replayed under `on_completed: conflict`.
    AlreadyCompleted,
    /// The request body is over the limit.
    BodyTooLarge,
    /// The caller cannot be told and must be.
    CallerMissing,
    /// The client waits for a `100 Continue` that only the service could send.
    ExpectationFailed,
    /// Another attempt with this key is running.
    InFlight,
    /// The key is not a key.
    KeyInvalid,
    /// A key is required.
    KeyMissing,
    /// The key was used with another payload.
    Mismatch,
    /// Completed, but the response was too large, got lost, or is in an encoding that this client does not take.
    NotReplayable,
    /// An earlier attempt may have executed.
    OutcomeUnknown,
    /// Another request for the same resource runs, and the wait for it is over.
    ResourceBusy,
    /// The same caller has sent the same content under another key.
    Similar,
    /// The store failed.
    StoreUnavailable,
}

/// What is true of every refusal of one kind.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// As it stands in problem types and in `statuses`.
    pub slug: &'static str,
    /// Its status as existing APIs have it.
    pub classic: u16,
    /// Its status in draft-ietf-httpapi-idempotency-key-header-07, section 2.7, where that has one.
    pub ietf: u16,
    /// What is wrong.
    pub title: &'static str,
    /// What became of the request, and what would be right.
    pub detail: &'static str,
    /// Envoy's response code details, by which the answer is recognised.
    pub code_details: &'static str,
}

impl ProblemType {
    /// All of them, in the order of their declaration.
    pub const ALL: [ProblemType; 13] = [
        ProblemType::AlreadyCompleted,
        ProblemType::BodyTooLarge,
        ProblemType::CallerMissing,
        ProblemType::ExpectationFailed,
        ProblemType::InFlight,
        ProblemType::KeyInvalid,
        ProblemType::KeyMissing,
        ProblemType::Mismatch,
        ProblemType::NotReplayable,
        ProblemType::OutcomeUnknown,
        ProblemType::ResourceBusy,
        ProblemType::Similar,
        ProblemType::StoreUnavailable,
    ];

    /// As it stands in problem types and in `statuses`.
    pub fn as_str(self) -> &'static str {
        self.row().slug
    }

    /// Its row of the table.
    pub fn row(self) -> &'static Row {
        match self {
            ProblemType::AlreadyCompleted => &ALREADY_COMPLETED,
            ProblemType::BodyTooLarge => &BODY_TOO_LARGE,
            ProblemType::CallerMissing => &CALLER_MISSING,
            ProblemType::ExpectationFailed => &EXPECTATION_FAILED,
            ProblemType::InFlight => &IN_FLIGHT,
            ProblemType::KeyInvalid => &KEY_INVALID,
            ProblemType::KeyMissing => &KEY_MISSING,
            ProblemType::Mismatch => &MISMATCH,
            ProblemType::NotReplayable => &NOT_REPLAYABLE,
            ProblemType::OutcomeUnknown => &OUTCOME_UNKNOWN,
            ProblemType::ResourceBusy => &RESOURCE_BUSY,
            ProblemType::Similar => &SIMILAR,
            ProblemType::StoreUnavailable => &STORE_UNAVAILABLE,
        }
    }
}

const ALREADY_COMPLETED: Row = Row {
    slug: "already-completed",
    classic: 409,
    ietf: 409,
    title: "Operation already completed",
    detail: "The operation with this Idempotency-Key has completed; its response is not kept for replay.",
    code_details: "idempotency_already_completed",
};

const BODY_TOO_LARGE: Row = Row {
    slug: "body-too-large",
    classic: 413,
    ietf: 413,
    title: "Request body too large for an idempotent request",
    detail: "The request was not executed: its body is larger than this gateway can protect.",
    code_details: "idempotency_body_too_large",
};

const CALLER_MISSING: Row = Row {
    slug: "caller-missing",
    classic: 401,
    ietf: 401,
    title: "Caller is missing",
    detail: "The request was not executed: an Idempotency-Key is only taken from a caller who shows a \
             credential.",
    code_details: "idempotency_caller_missing",
};

/// "A proxy MUST, upon receiving ... a 100-continue expectation ..., either: send an immediate final status code ...; or
/// forward the request" (RFC 9110, section 10.1.1), and this gateway does not forward before the body has come.
const EXPECTATION_FAILED: Row = Row {
    slug: "expectation-failed",
    classic: 417,
    ietf: 417,
    title: "Expectation cannot be met",
    detail: "The request was not executed: this gateway reads the whole of it before the service is asked, and so \
             cannot wait for the service's 100 Continue. Send it again without Expect.",
    code_details: "idempotency_expectation_failed",
};

const IN_FLIGHT: Row = Row {
    slug: "in-flight",
    classic: 429,
    ietf: 409,
    title: "A request is outstanding for this Idempotency-Key",
    detail: "The first request with this key is still being executed. Retry with the same key after a \
             moment.",
    code_details: "idempotency_in_flight",
};

const KEY_INVALID: Row = Row {
    slug: "key-invalid",
    classic: 400,
    ietf: 400,
    title: "Idempotency-Key is invalid",
    detail: "The request was not executed: the key must be one non-empty string of visible ASCII within \
             the length limit, bare or in double quotes.",
    code_details: "idempotency_key_invalid",
};

const KEY_MISSING: Row = Row {
    slug: "key-missing",
    classic: 400,
    ietf: 400,
    title: "Idempotency-Key is missing",
    detail: "The request was not executed: this operation requires an Idempotency-Key. Send a new random \
             one, and the same one with every retry.",
    code_details: "idempotency_key_missing",
};

const MISMATCH: Row = Row {
    slug: "mismatch",
    classic: 409,
    ietf: 422,
    title: "Idempotency key already used with different request payload",
    detail: "The request was not executed: this key belongs to a request with another payload. Send a new \
             key with a new operation.",
    code_details: "idempotency_mismatch",
};

const NOT_REPLAYABLE: Row = Row {
    slug: "not-replayable",
    classic: 409,
    ietf: 409,
    title: "Operation completed, response not available",
    detail: "The operation with this Idempotency-Key has completed, but its response was too large to keep \
             or got lost.",
    code_details: "idempotency_not_replayable",
};

/// The detail of an unknown outcome where no later request is let run (`on_unknown: hold`).
pub const OUTCOME_HELD: &str = "An earlier attempt with this Idempotency-Key may or may not have been executed, and this \
                                request was not; nor will a retry be. Look the operation up, or ask the operator.";

const OUTCOME_UNKNOWN: Row = Row {
    slug: "outcome-unknown",
    classic: 409,
    ietf: 409,
    title: "Outcome of an earlier attempt is unknown",
    detail: "An earlier attempt with this Idempotency-Key may or may not have been executed, and this \
             request was not. Look the operation up, or retry with the same key when Retry-After says so.",
    code_details: "idempotency_outcome_unknown",
};

const RESOURCE_BUSY: Row = Row {
    slug: "resource-busy",
    classic: 429,
    ietf: 409,
    title: "Another request for this resource is outstanding",
    detail: "The request was not executed: requests for this resource run one at a time, and others were before it for as \
             long as it may wait. Retry with the same key after a moment.",
    code_details: "idempotency_resource_busy",
};

/// The detail of an invalid key where it is the resource that the request does not name.
pub const RESOURCE_UNNAMED: &str = "The request was not executed: requests like it run one at a time by the resource that \
                                    they name, and this one names none that the gateway can read.";

const SIMILAR: Row = Row {
    slug: "similar",
    classic: 409,
    ietf: 409,
    title: "The same was sent under another Idempotency-Key a short while ago",
    detail: "The request was not executed: its caller has sent the same content under another key. To retry that one, use \
             its key; if this is meant to run as well, send it with Idempotency-Similar: allow.",
    code_details: "idempotency_similar",
};

const STORE_UNAVAILABLE: Row = Row {
    slug: "store-unavailable",
    classic: 503,
    ietf: 503,
    title: "Idempotency store unavailable",
    detail: "The request was not executed: it could not be made safe to retry. Retry with the same key \
             after a moment.",
    code_details: "idempotency_store_unavailable",
};
