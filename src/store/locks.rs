//! The rules of a lock's life, as one pure function, and what stands under a name of whichever kind.
//!
//! Its one rule: one owner holds a lock until it lets go or its lease ends, and each holder's fence is larger than all
//! before, also where the store has lost its data.
//! It does not know where locks are kept, nor what time it is: both clocks are handed in.

use crate::command::{Command, CommandKind, Failure, Resolution, StoreReply};
use crate::lock::{LOCK, Lock, LockCommand};
use crate::mutant::{self, Mutant};
use crate::record::{Corrupt, Record};
use crate::similar::{SIMILAR, Similar};
use crate::store::model::{self, Outcome};
use crate::store::similar;

/// What stands under a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stored {
    /// A lock.
    Lock(Lock),
    /// An operation.
    Operation(Record),
    /// Which operations have the same content.
    Similar(Similar),
}

impl Stored {
    /// Reads the wire form of any kind.
    ///
    /// # Errors
    /// The bytes are of none.
    pub fn decode(bytes: &[u8]) -> Result<Self, Corrupt> {
        match bytes {
            [_, LOCK, ..] => Lock::decode(bytes).map(Stored::Lock),
            [_, SIMILAR, ..] => Similar::decode(bytes).map(Stored::Similar),
            _ => Record::decode(bytes).map(Stored::Operation),
        }
    }

    /// The wire form.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Stored::Lock(lock) => lock.encode(),
            Stored::Operation(record) => record.encode(),
            Stored::Similar(similar) => similar.encode(),
        }
    }

    /// When it is forgotten.
    pub fn forgotten_ms(&self) -> u64 {
        match self {
            Stored::Lock(lock) => lock.expires_ms,
            Stored::Operation(record) => record.forgotten_ms(),
            Stored::Similar(similar) => similar.expires_ms,
        }
    }

    /// The operation, where it is one.
    pub fn operation(&self) -> Option<&Record> {
        match self {
            Stored::Operation(record) => Some(record),
            Stored::Lock(_) | Stored::Similar(_) => None,
        }
    }
}

/// One command on what stands under a name, as one atomic step: what stands there from now on, none where that stays as
/// it is, and the reply. `wall_ms` is the time of day, which goes on where the store's clock or its data ends.
pub fn apply(
    stored: Option<Stored>,
    command: &Command,
    now_ms: u64,
    wall_ms: impl FnOnce() -> u64,
) -> (Option<Stored>, StoreReply) {
    let noted = |(similar, reply)| (Some(Stored::Similar(similar)), reply);
    match (&command.kind, stored) {
        (CommandKind::Lock(asked), Some(Stored::Lock(lock))) => lock_step(Some(lock), command, *asked, now_ms, wall_ms),
        (CommandKind::Lock(asked), None) => lock_step(None, command, *asked, now_ms, wall_ms),
        (CommandKind::Similar(asked), Some(Stored::Similar(known))) => {
            noted(similar::step(Some(known), command, asked, now_ms))
        }
        (CommandKind::Similar(asked), None) => noted(similar::step(None, command, asked, now_ms)),
        (CommandKind::Inspect | CommandKind::Resolve(Resolution::Forget), Some(Stored::Lock(lock)))
            if lock.expires_ms <= now_ms =>
        {
            (None, StoreReply::Seen(None))
        }
        (CommandKind::Inspect, Some(Stored::Lock(lock))) => (None, StoreReply::Seen(Some(lock.sight(now_ms)))),
        // An operator's word counts while it is held, too.
        (CommandKind::Resolve(Resolution::Forget), Some(Stored::Lock(lock))) => let_go(lock),
        (_, stored @ (None | Some(Stored::Operation(_)))) if command.is_of_operation() => {
            let record = stored.and_then(|stored| match stored {
                Stored::Operation(record) => Some(record),
                Stored::Lock(_) | Stored::Similar(_) => None,
            });
            let Outcome { record, reply } = model::apply(record, command, now_ms);
            (record.map(Stored::Operation), reply)
        }
        _ => (None, StoreReply::Failed(Failure::Corrupt)),
    }
}

/// It is free, and its fence goes on.
fn let_go(lock: Lock) -> (Option<Stored>, StoreReply) {
    (Some(Stored::Lock(Lock { lease_end_ms: None, ..lock })), StoreReply::Settled)
}

fn lock_step(
    lock: Option<Lock>,
    command: &Command,
    asked: LockCommand,
    now_ms: u64,
    wall_ms: impl FnOnce() -> u64,
) -> (Option<Stored>, StoreReply) {
    let lock = lock.filter(|lock| lock.expires_ms > now_ms);
    let own = |lock: &Lock| lock.owner == command.owner;
    let refused = |reply| (None, reply);
    let lease_end_ms = now_ms.saturating_add(command.lease_ms);
    let expires_ms = lease_end_ms.saturating_add(command.lease_ms).max(lock.as_ref().map_or(0, |lock| lock.expires_ms));
    let kept = |fence, lease_end_ms| Stored::Lock(Lock { owner: command.owner, lease_end_ms, fence, expires_ms });
    let held = |fence| (Some(kept(fence, Some(lease_end_ms))), StoreReply::Locked { fence });
    match (asked, lock) {
        (LockCommand::Lock, None) => held(wall_ms().max(1)),
        // A late try of a lock that this owner has let go of: it is not held by one that is not there.
        (LockCommand::Lock, Some(Lock { lease_end_ms: None, owner, .. })) if owner == command.owner => {
            refused(StoreReply::Lost)
        }
        (LockCommand::Lock, Some(lock)) if own(&lock) => held(lock.fence),
        (LockCommand::Lock, Some(Lock { lease_end_ms: Some(end_ms), .. })) if now_ms < end_ms => {
            refused(StoreReply::Busy { wait_ms: end_ms - now_ms })
        }
        (LockCommand::Lock, Some(lock)) if mutant::is(Mutant::FenceReused) => held(lock.fence),
        (LockCommand::Lock, Some(lock)) => held(lock.fence.saturating_add(1).max(wall_ms())),
        (LockCommand::Renew { fence }, None) => held(fence),
        (LockCommand::Renew { fence }, Some(lock))
            if own(&lock) && lock.lease_end_ms.is_some() && lock.fence == fence =>
        {
            held(fence)
        }
        (LockCommand::Unlock { fence }, None) => (Some(kept(fence.unwrap_or(0), None)), StoreReply::Settled),
        (LockCommand::Unlock { .. }, Some(lock)) if own(&lock) || mutant::is(Mutant::OthersUnlocked) => let_go(lock),
        (LockCommand::Renew { .. } | LockCommand::Unlock { .. }, Some(_)) => refused(StoreReply::Lost),
    }
}
