//! Operations and answers as Redis sees them: the script that carries them out, and the packed form of both.
//!
//! Its one rule: an answer that is not exactly one of the script's own is never taken for a word of the store.
//! It does not know how Redis is reached.

use crate::command::{Command, CommandKind, Failure, RedisError, Resolution, StoreReply};
use crate::key::Name;
use crate::lock::LockCommand;
use crate::record::{Corrupt, Input, RecordStatus, RecordSummary, known_status};
use crate::similar::Asked;
use crate::store::client::{Batch, Nonce};

/// Carries out a batch: one key and one packed operation each.
pub const SCRIPT: &str = include_str!("redis.lua");

/// The SHA-1 of [`SCRIPT`] in hex, under which Redis keeps it; `tests/it/redis.rs` asks Redis whether it is right.
pub const SCRIPT_SHA1: &str = "ffb608ae7c888d1824248daa7a98bc5569532b13";

/// How the script is named in a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Named {
    /// By its hash: Redis has it from an earlier command.
    Hash,
    /// By its text.
    Text,
}

impl Named {
    /// The command that runs it, and how it is named there.
    pub fn command(self) -> (&'static str, &'static str) {
        match self {
            Named::Hash => ("EVALSHA", SCRIPT_SHA1),
            Named::Text => ("EVAL", SCRIPT),
        }
    }
}

/// Why Redis refuses a command, by the text of its error.
pub fn refusal(error: &[u8]) -> RedisError {
    RedisError::of(error.split(|byte| !byte.is_ascii_alphanumeric()).next().unwrap_or_default())
}

/// The operations of a batch, packed one after the other, numbers in little-endian. Where another way is left for large
/// responses, none comes with the answers.
pub fn pack(batch: &Batch, has_other_way: bool) -> Vec<u8> {
    let mut out = Vec::new();
    batch.tries.iter().for_each(|(nonce, command)| pack_call(*nonce, command, has_other_way, &mut out));
    out
}

fn pack_call(nonce: Nonce, command: &Command, has_other_way: bool, out: &mut Vec<u8>) {
    let fence = match command.kind {
        CommandKind::Lock(LockCommand::Renew { fence } | LockCommand::Unlock { fence: Some(fence) }) => {
            Some(fence.to_le_bytes().to_vec())
        }
        _ => None,
    };
    let released = match command.kind {
        CommandKind::Similar(Asked { released, .. }) => {
            released.map(|(name, since_ms)| [name.0.as_slice(), &since_ms.to_le_bytes()].concat())
        }
        _ => None,
    };
    let (kind, flag, status, response) = match &command.kind {
        CommandKind::Claim { may_retry } => (b'c', *may_retry, 0, None),
        CommandKind::Complete { status, response } => (b'd', response.is_some(), *status, response.as_ref()),
        CommandKind::Inspect => (b'l', false, 0, None),
        CommandKind::Lock(LockCommand::Lock) => (b'k', false, 0, None),
        CommandKind::Lock(LockCommand::Renew { .. }) => (b'h', false, 0, fence.as_ref()),
        CommandKind::Lock(LockCommand::Unlock { .. }) => (b'o', false, 0, fence.as_ref()),
        CommandKind::MarkUnknown => (b'u', false, 0, None),
        CommandKind::Poll { .. } => (b'p', false, 0, None),
        CommandKind::Release { keep_fingerprint } => (b'f', *keep_fingerprint, 0, None),
        CommandKind::Renew => (b'n', false, 0, None),
        CommandKind::Resolve(Resolution::Forget) => (b'x', false, 0, None),
        CommandKind::Resolve(Resolution::NotRun { .. }) => (b'r', false, 0, None),
        CommandKind::Resolve(Resolution::Ran { status }) => (b'r', true, status.unwrap_or(0), None),
        CommandKind::Similar(asked) => (b's', asked.refuses, 0, released.as_ref()),
        CommandKind::Withdraw => (b'w', false, 0, None),
    };
    out.push(kind);
    out.extend_from_slice(&nonce.0);
    out.extend_from_slice(&command.owner.0);
    // What is similar goes by operations, not by their payload.
    let by = if let CommandKind::Similar(Asked { own, .. }) = command.kind { own.0 } else { command.fingerprint.0 };
    out.extend_from_slice(&by);
    // Who waits, or knows, has no attempt, but minds how many others have.
    let attempt = match command.kind {
        CommandKind::Poll { max_attempt: others } | CommandKind::Resolve(Resolution::NotRun { attempt: others }) => {
            others
        }
        _ => command.attempt,
    };
    out.extend_from_slice(&attempt.to_le_bytes());
    let key = command.key.encode();
    out.push(key.len() as u8);
    out.extend(key);
    let flags = [flag, command.in_window, has_other_way, !command.may_begin];
    out.push(flags.iter().rev().fold(0, |flags, flag| 2 * flags + u8::from(*flag)));
    out.extend_from_slice(&command.lease_ms.to_le_bytes());
    out.extend_from_slice(&command.ttl_ms.to_le_bytes());
    // 0 is no deadline, so one at the beginning of time is as good as one a millisecond later.
    out.extend_from_slice(&command.deadline_ms.map_or(0, |deadline| deadline.max(1)).to_le_bytes());
    out.extend_from_slice(&status.to_le_bytes());
    out.extend_from_slice(&(response.map_or(0, Vec::len) as u32).to_le_bytes());
    out.extend_from_slice(response.map_or(&[], Vec::as_slice));
}

/// Reads one answer of the script: the nonce of the operation, then a letter and what goes with it.
///
/// # Errors
/// The bytes are not exactly one answer.
pub fn unpack(answer: &[u8]) -> Result<(Nonce, StoreReply), Corrupt> {
    let mut input = Input(answer);
    let nonce = Nonce(input.array()?);
    let [kind] = input.array()?;
    let reply = match kind {
        b'A' => StoreReply::Deferred,
        b'B' => StoreReply::Busy { wait_ms: u64::from_le_bytes(input.array()?) },
        b'D' => StoreReply::Completed {
            attempt: u32::from_le_bytes(input.array()?),
            status: known_status(u16::from_le_bytes(input.array()?)),
            age_ms: u64::from_le_bytes(input.array()?),
            ttl_ms: u64::from_le_bytes(input.array()?),
            response: if input.flag()? { Some(input.rest().to_vec()) } else { None },
        },
        b'E' if input.0 == b"CORRUPT" => failed(&mut input, |_| Failure::Corrupt),
        b'E' => failed(&mut input, |word| Failure::Redis(RedisError::of(word))),
        b'G' => StoreReply::Granted {
            attempt: u32::from_le_bytes(input.array()?),
            doubt: input.flag()?,
            key: input.key_form()?,
            expires_ms: u64::from_le_bytes(input.array()?),
        },
        b'H' => StoreReply::Exhausted { attempt: u32::from_le_bytes(input.array()?) },
        b'I' => StoreReply::InFlight { attempt: u32::from_le_bytes(input.array()?) },
        b'K' => StoreReply::Locked { fence: u64::from_le_bytes(input.array()?) },
        b'L' => StoreReply::Lost,
        b'M' => StoreReply::Mismatch,
        b'N' => StoreReply::Renewed { expires_ms: u64::from_le_bytes(input.array()?) },
        b'O' => StoreReply::Settled,
        b'S' => StoreReply::Stale,
        b'U' => StoreReply::Unknown {
            attempt: u32::from_le_bytes(input.array()?),
            wait_ms: u64::from_le_bytes(input.array()?),
        },
        b'V' => {
            let [state] = input.array()?;
            let (attempt, status) = (u32::from_le_bytes(input.array()?), u16::from_le_bytes(input.array()?));
            let standing = match state {
                0 => RecordStatus::Open,
                1 => RecordStatus::Running,
                2 => RecordStatus::Unknown,
                3 => RecordStatus::Completed(known_status(status)),
                _ => return Err(Corrupt),
            };
            StoreReply::Seen(Some(RecordSummary { attempt, standing, ttl_ms: u64::from_le_bytes(input.array()?) }))
        }
        b'Y' => StoreReply::Similar {
            operation: Name(input.array()?),
            since_ms: u64::from_le_bytes(input.array()?),
            age_ms: u64::from_le_bytes(input.array()?),
        },
        b'Z' => StoreReply::Seen(None),
        _ => return Err(Corrupt),
    };
    input.end()?;
    Ok((nonce, reply))
}

fn failed(input: &mut Input<'_>, why: impl FnOnce(&[u8]) -> Failure) -> StoreReply {
    StoreReply::Failed(why(input.rest()))
}
