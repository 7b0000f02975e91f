//! What an operator's word makes of a record.
//!
//! Its one rule: while a lease lives the word is refused, and the attempt number never goes back.
//! It does not know how the operator came to know.

use crate::command::{Command, Resolution, StoreReply};
use crate::mutant::{self, Mutant};
use crate::record::{Record, State};

/// What is kept instead of the record, none leaving it as it is, and what the operator is answered.
pub fn apply(record: Option<Record>, command: &Command, said: Resolution, now_ms: u64) -> (Option<Record>, StoreReply) {
    let Some(mut record) = record else { return (None, StoreReply::Seen(None)) };
    let attempt = record.attempt;
    let lives = |until_ms: u64| now_ms < until_ms && !mutant::is(Mutant::LiveLeaseIgnored);
    let (fingerprint, last_owner) = match (&record.state, said) {
        (State::Running { lease_end_ms, .. }, _) if lives(*lease_end_ms) => {
            return (None, StoreReply::InFlight { attempt });
        }
        (State::Unknown { retry_at_ms, .. }, _) if lives(*retry_at_ms) => {
            return (None, StoreReply::Unknown { attempt, wait_ms: retry_at_ms.saturating_sub(now_ms) });
        }
        (State::Completed { .. }, Resolution::NotRun { .. }) => return (None, StoreReply::Lost),
        (_, Resolution::NotRun { attempt: spoken_of }) if spoken_of != attempt => return (None, StoreReply::Stale),
        (State::Completed { fingerprint, owner, .. }, _) => (*fingerprint, Some(*owner)),
        (State::Running { fingerprint, owner, .. } | State::Unknown { fingerprint, owner, .. }, _) => {
            (Some(*fingerprint), Some(*owner))
        }
        (State::Open { fingerprint }, _) => (*fingerprint, None),
    };
    let expires_ms = record.forgotten_ms();
    if let Resolution::Ran { status } = said {
        let (owner, since_ms, response) = (command.owner, now_ms, None);
        let state = match record.state {
            completed @ State::Completed { .. } => completed,
            _ => State::Completed { fingerprint, owner, status, since_ms, response },
        };
        // A retry that comes late must still find that it has run.
        let expires_ms = expires_ms.max(now_ms.saturating_add(command.ttl_ms));
        return (Some(Record { expires_ms, state, ..record }), StoreReply::Settled);
    }
    // A late try of the claim that the word has ended would run beside the next attempt.
    if let Some(owner) = last_owner.filter(|_| !mutant::is(Mutant::LateOwnerGranted)) {
        record.release(owner);
    }
    let state = State::Open { fingerprint: fingerprint.filter(|_| matches!(said, Resolution::NotRun { .. })) };
    let attempt = if mutant::is(Mutant::AttemptReset) { 0 } else { attempt };
    (Some(Record { attempt, doubt: false, expires_ms, state, ..record }), StoreReply::Settled)
}
