//! The rules of a record's life, as one pure function from a record and an operation to the next record and an answer.
//!
//! Its one rule: doubt is never resolved in favour of executing again without saying so.
//! It does not know where records are kept, nor what time it is: the store's own clock is handed in.

use crate::event::Verdict;
use crate::mutant::{self, Mutant};
use crate::record::{Owner, RELEASED_KEPT, Record, State};
use crate::step::{Call, Operation};

/// What is kept instead of the record before, and what is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The record from now on; none leaves what was there as it is.
    pub record: Option<Record>,
    /// The answer to the operation.
    pub verdict: Verdict,
}

/// One operation on one record, as one atomic step. `record` is what is stored, expired or not.
pub fn apply(record: Option<Record>, call: &Call, now_ms: u64) -> Outcome {
    let record = record.filter(|record| record.forgotten_ms() > now_ms);
    if call.deadline_ms.is_some_and(|deadline| deadline <= now_ms) && !mutant::is(Mutant::DeadlineIgnored) {
        return refuse(Verdict::Lost);
    }
    match &call.operation {
        Operation::Claim { may_retry } => claim(record, call, *may_retry, u32::MAX, now_ms),
        Operation::Complete { status, response } => complete(record, call, *status, response.clone(), now_ms),
        Operation::Look => refuse(Verdict::Seen(record.map(|record| record.sight(now_ms)))),
        Operation::MarkUnknown => mark_unknown(record, call, now_ms),
        Operation::Poll { max_attempt } => claim(record, call, false, *max_attempt, now_ms),
        Operation::Release { keep_fingerprint } => release(record, call, Some(*keep_fingerprint), now_ms),
        Operation::Renew => renew(record, call, now_ms),
        Operation::Withdraw => release(record, call, None, now_ms),
    }
}

fn claim(record: Option<Record>, call: &Call, may_retry: bool, max_attempt: u32, now_ms: u64) -> Outcome {
    let Some(record) = record else { return grant(blank(call), call, 1, now_ms) };
    if record.released.contains(&call.owner) && !mutant::is(Mutant::GhostGranted) {
        return refuse(Verdict::Stale);
    }
    let is_judged = !mutant::is(Mutant::MismatchLast) || matches!(record.state, State::Completed { .. });
    if is_judged && record.state.fingerprint().is_some_and(|fingerprint| *fingerprint != call.fingerprint) {
        return refuse(Verdict::Mismatch);
    }
    let attempt = record.attempt;
    match record.state {
        State::Open { .. } if attempt >= max_attempt => refuse(Verdict::Exhausted { attempt }),
        State::Open { .. } => grant(record, call, attempt.saturating_add(1), now_ms),
        // A try of this very claim was granted before and its answer got lost.
        State::Running { owner, .. } | State::Unknown { owner, .. } if owner == call.owner => {
            grant(record, call, attempt, now_ms)
        }
        State::Running { lease_end_ms, .. } if now_ms < lease_end_ms => refuse(Verdict::InFlight { attempt }),
        State::Running { lease_end_ms: retry_at_ms, .. } | State::Unknown { retry_at_ms, .. } => {
            if (may_retry && retry_at_ms <= now_ms) || mutant::is(Mutant::UnknownFree) {
                grant(Record { doubt: true, ..record }, call, attempt.saturating_add(1), now_ms)
            } else {
                refuse(Verdict::Unknown { attempt, wait_ms: retry_at_ms.saturating_sub(now_ms) })
            }
        }
        State::Completed { status, since_ms, response, .. } => refuse(Verdict::Completed {
            attempt,
            status,
            response,
            age_ms: now_ms.saturating_sub(since_ms),
            ttl_ms: record.expires_ms - now_ms,
        }),
    }
}

fn renew(record: Option<Record>, call: &Call, now_ms: u64) -> Outcome {
    match record {
        None => renewed(running(blank(call), call, now_ms)),
        // The ghost of a claim that was released does not run again.
        Some(record) if record.released.contains(&call.owner) => refuse(Verdict::Lost),
        // A late try of the same claim may have been granted under a larger number, after others had executed: who
        // goes on does so under the number it knows, or not at all.
        Some(record) if record.state.is_executed_by(call) && record.attempt == call.attempt => {
            renewed(running(record, call, now_ms))
        }
        Some(_) => refuse(Verdict::Lost),
    }
}

fn complete(record: Option<Record>, call: &Call, status: u16, response: Option<Vec<u8>>, now_ms: u64) -> Outcome {
    let record = record.unwrap_or_else(|| blank(call));
    match record.state {
        // That one is executing and will tell.
        State::Running { owner, lease_end_ms, .. } if !is_own(owner, call) && now_ms < lease_end_ms => {
            refuse(Verdict::Lost)
        }
        State::Completed { owner, .. } if owner == call.owner => refuse(Verdict::Settled),
        State::Completed { .. } if !mutant::is(Mutant::CompletedReplaced) => refuse(Verdict::Lost),
        // A known success is never forgotten while nobody executes.
        _ => {
            let (fingerprint, owner, status) = (Some(call.fingerprint), call.owner, Some(status));
            settle(Record {
                attempt: record.attempt.max(call.attempt),
                expires_ms: match call.in_window {
                    true => expires_ms(&record, call, now_ms, 0),
                    false => now_ms.saturating_add(call.ttl_ms),
                },
                state: State::Completed { fingerprint, owner, status, since_ms: now_ms, response },
                ..record
            })
        }
    }
}

/// A withdrawal says nothing of its own about the fingerprint: it stays as it stood before the claim.
fn release(record: Option<Record>, call: &Call, keep_fingerprint: Option<bool>, now_ms: u64) -> Outcome {
    let known = record.is_some();
    let mut record = record.unwrap_or_else(|| blank(call));
    let is_repeat = record.released.contains(&call.owner);
    if !is_repeat {
        // Its ghosts, late tries of the same claim, are refused from here on, whatever the state.
        if record.released.len() == RELEASED_KEPT {
            record.released.remove(0);
        }
        record.released.push(call.owner);
    }
    let as_it_stood = record.inherited && !mutant::is(Mutant::WithdrawalFrees);
    let keep_fingerprint = keep_fingerprint.unwrap_or(as_it_stood || mutant::is(Mutant::WithdrawalKeeps));
    let expires_ms = expires_ms(&record, call, now_ms, 0);
    match record.state {
        State::Running { fingerprint, owner, .. } | State::Unknown { fingerprint, owner, .. }
            if known && is_own(owner, call) =>
        {
            let state = match record.doubt && !mutant::is(Mutant::DoubtForgotten) {
                true => State::Unknown { fingerprint, owner, retry_at_ms: now_ms },
                false => State::Open { fingerprint: keep_fingerprint.then_some(fingerprint) },
            };
            settle(Record { expires_ms, state, ..record })
        }
        _ if !known => {
            let state = State::Open { fingerprint: keep_fingerprint.then_some(call.fingerprint) };
            settle(Record { expires_ms, state, ..record })
        }
        State::Open { .. } if is_repeat => refuse(Verdict::Settled),
        _ => Outcome { record: Some(record), verdict: Verdict::Lost },
    }
}

fn mark_unknown(record: Option<Record>, call: &Call, now_ms: u64) -> Outcome {
    let lease_end = match &record {
        None => now_ms.saturating_add(call.lease_ms),
        Some(Record { state: State::Running { owner, lease_end_ms, .. }, .. }) if is_own(*owner, call) => *lease_end_ms,
        Some(Record { state: State::Unknown { owner, .. }, .. }) if *owner == call.owner => {
            return refuse(Verdict::Settled);
        }
        Some(_) => return refuse(Verdict::Lost),
    };
    let record = record.unwrap_or_else(|| blank(call));
    let (fingerprint, owner) = (call.fingerprint, call.owner);
    settle(Record {
        expires_ms: expires_ms(&record, call, now_ms, lease_end),
        state: State::Unknown { fingerprint, owner, retry_at_ms: lease_end },
        ..record
    })
}

/// The record of an operation the store has no other word of than this call.
fn blank(call: &Call) -> Record {
    Record {
        attempt: call.attempt,
        key: call.key,
        doubt: false,
        inherited: false,
        released: Vec::new(),
        expires_ms: 0,
        state: State::Open { fingerprint: None },
    }
}

/// When a record that is not completed may be forgotten after this call; no lease of it ends later.
///
/// Never before an owner was told: its completion is welcome until then, and must find the record still there though
/// the clock was set back in between.
fn expires_ms(record: &Record, call: &Call, now_ms: u64, lease_end_ms: u64) -> u64 {
    let begun_ms = now_ms.saturating_add(call.ttl_ms);
    match (call.in_window, record.expires_ms) {
        (false, known_ms) => begun_ms.max(known_ms).max(lease_end_ms),
        (true, 0) => begun_ms,
        (true, end_ms) if end_ms > now_ms => end_ms,
        // An execution outlasts the window: who waits for it must find its record, for as long as its lease would last.
        (true, _) => record.forgotten_ms(),
    }
}

fn running(record: Record, call: &Call, now_ms: u64) -> Record {
    let lease_end_ms = now_ms.saturating_add(call.lease_ms);
    Record {
        expires_ms: expires_ms(&record, call, now_ms, lease_end_ms),
        state: State::Running { fingerprint: call.fingerprint, owner: call.owner, lease_end_ms },
        ..record
    }
}

fn grant(record: Record, call: &Call, attempt: u32, now_ms: u64) -> Outcome {
    let key = if mutant::is(Mutant::KeyFormForgotten) { call.key } else { record.key };
    // A claim that is granted once more has left nothing itself.
    let inherited = if attempt == record.attempt { record.inherited } else { record.state.fingerprint().is_some() };
    let record = running(Record { attempt, key, inherited, ..record }, call, now_ms);
    let (doubt, expires_ms) = (record.doubt, record.forgotten_ms());
    let verdict = Verdict::Granted { attempt, doubt, key, expires_ms };
    Outcome { record: Some(record), verdict }
}

fn renewed(record: Record) -> Outcome {
    let verdict = Verdict::Renewed { expires_ms: record.forgotten_ms() };
    Outcome { record: Some(record), verdict }
}

fn settle(record: Record) -> Outcome {
    Outcome { record: Some(record), verdict: Verdict::Settled }
}

fn refuse(verdict: Verdict) -> Outcome {
    Outcome { record: None, verdict }
}

impl State {
    /// Of the payload that the name belongs to, where it belongs to one.
    fn fingerprint(&self) -> Option<&crate::fingerprint::Fingerprint> {
        match self {
            State::Open { fingerprint } | State::Completed { fingerprint, .. } => fingerprint.as_ref(),
            State::Running { fingerprint, .. } | State::Unknown { fingerprint, .. } => Some(fingerprint),
        }
    }

    fn is_executed_by(&self, call: &Call) -> bool {
        matches!(self, State::Running { owner, .. } | State::Unknown { owner, .. } if is_own(*owner, call))
    }
}

/// Whether the record is this caller's to change.
fn is_own(owner: Owner, call: &Call) -> bool {
    owner == call.owner || mutant::is(Mutant::OwnerIgnored)
}
