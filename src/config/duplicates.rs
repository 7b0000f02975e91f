//! What a request gets whose key was seen before: `on_mismatch`, `on_in_flight`, `on_completed`, `on_unknown`.
//!
//! Its one rule: unless the document says otherwise, nothing runs twice that could have run.
//! It does not know how a request is found to be a duplicate.

use serde_json::Value;

use super::outcomes::Statuses;
use super::walk::{Choice, Place, Read};
use super::words::{bytes, time};
use crate::refusal::ProblemType;

/// `on_mismatch`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnMismatch {
    /// The answer is `mismatch`.
    #[default]
    Reject,
    /// It is an operation of its own.
    Separate,
}

impl Choice for OnMismatch {
    const WORDS: &[(&str, Self)] = &[("reject", OnMismatch::Reject), ("separate", OnMismatch::Separate)];
}

impl OnMismatch {
    pub(super) fn words(self, statuses: &Statuses) -> String {
        match self {
            OnMismatch::Reject => statuses.shown(ProblemType::Mismatch),
            OnMismatch::Separate => "it is another operation".to_owned(),
        }
    }
}

/// `on_in_flight`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnInFlight {
    /// The answer is `in-flight`.
    Reject,
    /// It is held until there is an answer to replay.
    Wait {
        /// Not for longer than this.
        max_wait_ms: u64,
    },
}

impl OnInFlight {
    pub(super) fn read(at: &Place<'_>, value: &Value) -> Read<Self> {
        at.object(value, |fields| {
            let waits =
                fields.read("action", false, |at, value| at.choice(value, &[("reject", false), ("wait", true)]))?;
            let max_wait_ms = fields.whole("max_wait_ms", 10_000, 100..=600_000)?;
            Ok(if waits { OnInFlight::Wait { max_wait_ms } } else { OnInFlight::Reject })
        })
    }

    pub(super) fn words(self, statuses: &Statuses) -> String {
        let refused = statuses.shown(ProblemType::InFlight);
        match self {
            OnInFlight::Reject => format!("a duplicate is refused: {refused}"),
            OnInFlight::Wait { max_wait_ms } => format!(
                "a duplicate waits for the answer, at most {}, and is then refused: {refused}",
                time(max_wait_ms)
            ),
        }
    }
}

/// `on_completed`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnCompleted {
    /// Keep no body and answer `already-completed`.
    Conflict,
    /// Answer as the upstream did.
    #[default]
    Replay,
}

impl Choice for OnCompleted {
    const WORDS: &[(&str, Self)] = &[("replay", OnCompleted::Replay), ("conflict", OnCompleted::Conflict)];
}

impl OnCompleted {
    pub(super) fn words(self, max_response_bytes: u64, statuses: &Statuses) -> String {
        match self {
            OnCompleted::Replay => format!(
                "a duplicate gets the first response again, if that is at most {}; otherwise {}",
                bytes(max_response_bytes),
                statuses.shown(ProblemType::NotReplayable)
            ),
            OnCompleted::Conflict => format!(
                "a duplicate is refused with the first status and Location: {}",
                statuses.shown(ProblemType::AlreadyCompleted)
            ),
        }
    }
}

/// `on_unknown`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnUnknown {
    /// Refuse until the record expires.
    Hold,
    /// Let the next attempt run once the lease is over.
    #[default]
    Retry,
}

impl Choice for OnUnknown {
    const WORDS: &[(&str, Self)] = &[("retry", OnUnknown::Retry), ("hold", OnUnknown::Hold)];
}

impl OnUnknown {
    pub(super) fn words(self, statuses: &Statuses) -> String {
        let refused = statuses.shown(ProblemType::OutcomeUnknown);
        match self {
            OnUnknown::Retry => format!(
                "while the lease lasts a duplicate is refused: {refused}; then it runs, under the next attempt number"
            ),
            OnUnknown::Hold => format!("a duplicate is refused until the record expires: {refused}"),
        }
    }
}
