//! The rules of a record's life, as one pure function from a record and an operation to the next record and an answer.
//!
//! Its one rule: doubt is never resolved in favour of executing again without saying so.
//! It does not know where records are kept, nor what time it is: the store's own clock is handed in.

use crate::command::{Command, CommandKind, Failure, StoreReply};
use crate::mutant::{self, Mutant};
use crate::record::{Owner, Record, State};
use crate::store::resolution;

/// What is kept instead of the record before, and what is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The record from now on; none leaves what was there as it is.
    pub record: Option<Record>,
    /// The answer to the operation.
    pub reply: StoreReply,
}

/// One operation on one record, as one atomic step. `record` is what is stored, expired or not.
pub fn apply(record: Option<Record>, command: &Command, now_ms: u64) -> Outcome {
    let record = record.filter(|record| record.forgotten_ms() > now_ms);
    if command.deadline_ms.is_some_and(|deadline| deadline <= now_ms) && !mutant::is(Mutant::DeadlineIgnored) {
        return refuse(StoreReply::Lost);
    }
    match &command.kind {
        CommandKind::Claim { may_retry } => claim(record, command, *may_retry, u32::MAX, now_ms),
        CommandKind::Complete { status, response } => complete(record, command, *status, response.clone(), now_ms),
        // Under the name of a lock, or of what is similar, stands no operation.
        CommandKind::Lock(_) | CommandKind::Similar(_) => refuse(StoreReply::Failed(Failure::Corrupt)),
        CommandKind::Inspect => refuse(StoreReply::Seen(record.map(|record| record.sight(now_ms)))),
        CommandKind::MarkUnknown => mark_unknown(record, command, now_ms),
        CommandKind::Poll { max_attempt } => claim(record, command, false, *max_attempt, now_ms),
        CommandKind::Release { keep_fingerprint } => release(record, command, Some(*keep_fingerprint), now_ms),
        CommandKind::Renew => renew(record, command, now_ms),
        CommandKind::Resolve(said) => {
            let (record, reply) = resolution::apply(record, command, *said, now_ms);
            Outcome { record, reply }
        }
        CommandKind::Withdraw => release(record, command, None, now_ms),
    }
}

fn claim(record: Option<Record>, command: &Command, may_retry: bool, max_attempt: u32, now_ms: u64) -> Outcome {
    let Some(record) = record else {
        return match command.may_begin {
            true => grant(blank(command), command, 1, now_ms),
            false => refuse(StoreReply::Seen(None)),
        };
    };
    if record.released.contains(&command.owner) && !mutant::is(Mutant::GhostGranted) {
        return refuse(StoreReply::Stale);
    }
    let is_judged = !mutant::is(Mutant::MismatchLast) || matches!(record.state, State::Completed { .. });
    if is_judged && record.state.fingerprint().is_some_and(|fingerprint| *fingerprint != command.fingerprint) {
        return refuse(StoreReply::Mismatch);
    }
    let attempt = record.attempt;
    match record.state {
        State::Open { .. } if attempt >= max_attempt => refuse(StoreReply::Exhausted { attempt }),
        State::Open { .. } => grant(record, command, attempt.saturating_add(1), now_ms),
        // A try of this very claim was granted before and its answer got lost.
        State::Running { owner, .. } | State::Unknown { owner, .. } if owner == command.owner => {
            grant(record, command, attempt, now_ms)
        }
        State::Running { lease_end_ms, .. } if now_ms < lease_end_ms => refuse(StoreReply::InFlight { attempt }),
        State::Running { lease_end_ms: retry_at_ms, .. } | State::Unknown { retry_at_ms, .. } => {
            if (may_retry && retry_at_ms <= now_ms) || mutant::is(Mutant::UnknownFree) {
                grant(Record { doubt: true, ..record }, command, attempt.saturating_add(1), now_ms)
            } else {
                refuse(StoreReply::Unknown { attempt, wait_ms: retry_at_ms.saturating_sub(now_ms) })
            }
        }
        State::Completed { status, since_ms, response, .. } => refuse(StoreReply::Completed {
            attempt,
            status,
            response,
            age_ms: now_ms.saturating_sub(since_ms),
            ttl_ms: record.expires_ms - now_ms,
        }),
    }
}

fn renew(record: Option<Record>, command: &Command, now_ms: u64) -> Outcome {
    match record {
        None => renewed(running(blank(command), command, now_ms)),
        // The ghost of a claim that was released does not run again.
        Some(record) if record.released.contains(&command.owner) => refuse(StoreReply::Lost),
        // A late try of the same claim may have been granted under a larger number, after others had executed: who
        // goes on does so under the number it knows, or not at all.
        Some(record) if record.state.is_executed_by(command) && record.attempt == command.attempt => {
            renewed(running(record, command, now_ms))
        }
        Some(_) => refuse(StoreReply::Lost),
    }
}

fn complete(record: Option<Record>, command: &Command, status: u16, response: Option<Vec<u8>>, now_ms: u64) -> Outcome {
    let record = record.unwrap_or_else(|| blank(command));
    match record.state {
        // That one is executing and will tell.
        State::Running { owner, lease_end_ms, .. } if !is_own(owner, command) && now_ms < lease_end_ms => {
            refuse(StoreReply::Lost)
        }
        State::Completed { owner, .. } if owner == command.owner => refuse(StoreReply::Settled),
        State::Completed { .. } if !mutant::is(Mutant::CompletedReplaced) => refuse(StoreReply::Lost),
        // A known success is never forgotten while no owner executes.
        _ => {
            let (fingerprint, owner, status) = (Some(command.fingerprint), command.owner, Some(status));
            settle(Record {
                attempt: record.attempt.max(command.attempt),
                expires_ms: match command.in_window {
                    true => expires_ms(&record, command, now_ms, 0),
                    false => now_ms.saturating_add(command.ttl_ms),
                },
                state: State::Completed { fingerprint, owner, status, since_ms: now_ms, response },
                ..record
            })
        }
    }
}

/// A withdrawal says nothing of its own about the fingerprint: it stays as it stood before the claim.
fn release(record: Option<Record>, command: &Command, keep_fingerprint: Option<bool>, now_ms: u64) -> Outcome {
    let known = record.is_some();
    let mut record = record.unwrap_or_else(|| blank(command));
    let is_repeat = record.release(command.owner);
    let as_it_stood = record.inherited && !mutant::is(Mutant::WithdrawalFrees);
    let keep_fingerprint = keep_fingerprint.unwrap_or(as_it_stood || mutant::is(Mutant::WithdrawalKeeps));
    let expires_ms = expires_ms(&record, command, now_ms, 0);
    match record.state {
        State::Running { fingerprint, owner, .. } | State::Unknown { fingerprint, owner, .. }
            if known && is_own(owner, command) =>
        {
            let state = match record.doubt && !mutant::is(Mutant::DoubtForgotten) {
                true => State::Unknown { fingerprint, owner, retry_at_ms: now_ms },
                false => State::Open { fingerprint: keep_fingerprint.then_some(fingerprint) },
            };
            settle(Record { expires_ms, state, ..record })
        }
        // What cannot begin leaves nothing behind that could.
        _ if !known && !command.may_begin => refuse(StoreReply::Settled),
        _ if !known => {
            let state = State::Open { fingerprint: keep_fingerprint.then_some(command.fingerprint) };
            settle(Record { expires_ms, state, ..record })
        }
        State::Open { .. } if is_repeat => refuse(StoreReply::Settled),
        _ => Outcome { record: Some(record), reply: StoreReply::Lost },
    }
}

fn mark_unknown(record: Option<Record>, command: &Command, now_ms: u64) -> Outcome {
    let lease_end = match &record {
        None => now_ms.saturating_add(command.lease_ms),
        Some(Record { state: State::Running { owner, lease_end_ms, .. }, .. }) if is_own(*owner, command) => {
            *lease_end_ms
        }
        Some(Record { state: State::Unknown { owner, .. }, .. }) if *owner == command.owner => {
            return refuse(StoreReply::Settled);
        }
        Some(_) => return refuse(StoreReply::Lost),
    };
    let record = record.unwrap_or_else(|| blank(command));
    let (fingerprint, owner) = (command.fingerprint, command.owner);
    settle(Record {
        expires_ms: expires_ms(&record, command, now_ms, lease_end),
        state: State::Unknown { fingerprint, owner, retry_at_ms: lease_end },
        ..record
    })
}

/// The record of an operation the store has no other word of than this call.
fn blank(command: &Command) -> Record {
    Record {
        attempt: command.attempt,
        key: command.key,
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
fn expires_ms(record: &Record, command: &Command, now_ms: u64, lease_end_ms: u64) -> u64 {
    let begun_ms = now_ms.saturating_add(command.ttl_ms);
    match (command.in_window, record.expires_ms) {
        (false, known_ms) => begun_ms.max(known_ms).max(lease_end_ms),
        (true, 0) => begun_ms,
        (true, end_ms) if end_ms > now_ms => end_ms,
        // An execution outlasts the window: who waits for it must find its record, for as long as its lease would last.
        (true, _) => record.forgotten_ms(),
    }
}

fn running(record: Record, command: &Command, now_ms: u64) -> Record {
    let lease_end_ms = now_ms.saturating_add(command.lease_ms);
    Record {
        expires_ms: expires_ms(&record, command, now_ms, lease_end_ms),
        state: State::Running { fingerprint: command.fingerprint, owner: command.owner, lease_end_ms },
        ..record
    }
}

fn grant(record: Record, command: &Command, attempt: u32, now_ms: u64) -> Outcome {
    let key = if mutant::is(Mutant::KeyFormForgotten) { command.key } else { record.key };
    // A claim that is granted once more has left nothing itself.
    let inherited = if attempt == record.attempt { record.inherited } else { record.state.fingerprint().is_some() };
    let record = running(Record { attempt, key, inherited, ..record }, command, now_ms);
    let (doubt, expires_ms) = (record.doubt, record.forgotten_ms());
    let reply = StoreReply::Granted { attempt, doubt, key, expires_ms };
    Outcome { record: Some(record), reply }
}

fn renewed(record: Record) -> Outcome {
    let reply = StoreReply::Renewed { expires_ms: record.forgotten_ms() };
    Outcome { record: Some(record), reply }
}

fn settle(record: Record) -> Outcome {
    Outcome { record: Some(record), reply: StoreReply::Settled }
}

fn refuse(reply: StoreReply) -> Outcome {
    Outcome { record: None, reply }
}

impl State {
    /// Of the payload that the name belongs to, where it belongs to one.
    fn fingerprint(&self) -> Option<&crate::fingerprint::Fingerprint> {
        match self {
            State::Open { fingerprint } | State::Completed { fingerprint, .. } => fingerprint.as_ref(),
            State::Running { fingerprint, .. } | State::Unknown { fingerprint, .. } => Some(fingerprint),
        }
    }

    fn is_executed_by(&self, command: &Command) -> bool {
        matches!(self, State::Running { owner, .. } | State::Unknown { owner, .. } if is_own(*owner, command))
    }
}

/// Whether the record is this caller's to change.
fn is_own(owner: Owner, command: &Command) -> bool {
    owner == command.owner || mutant::is(Mutant::OwnerIgnored)
}
