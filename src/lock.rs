//! What a store remembers of the lock of one resource, and the versioned wire form of it.
//!
//! Its one rule: a lock is a record of a kind of its own, so that neither kind is ever read as the other.
//! It does not know how a lock is taken: that is `store/locks.rs`.

use crate::record::{Corrupt, FORMAT, Input, Owner, RecordStatus, RecordSummary};

/// One lock as its store knows it. Times are milliseconds on the store's own clock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lock {
    /// Who holds it, or let go of it last.
    pub owner: Owner,
    /// When its lease ends; none where it is free.
    pub lease_end_ms: Option<u64>,
    /// Larger with every holder.
    pub fence: u64,
    /// When it is forgotten.
    pub expires_ms: u64,
}

/// What can be asked about the lock of a resource; the name is the lock's, the owner the claim's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockCommand {
    /// Is it my turn?
    Lock,
    /// It is still my turn.
    Renew {
        /// Under which fence.
        fence: u64,
    },
    /// My turn is over.
    Unlock {
        /// Under which fence it was; none where nothing was forwarded, whether or not the lock was granted.
        fence: Option<u64>,
    },
}

/// The kind of a record, its second byte: that of a lock.
pub const LOCK: u8 = 1;

impl Lock {
    /// The lock as an operator sees it: running while it is held.
    pub fn sight(&self, now_ms: u64) -> RecordSummary {
        let is_held = self.lease_end_ms.is_some_and(|end_ms| now_ms < end_ms);
        let standing = if is_held { RecordStatus::Running } else { RecordStatus::Open };
        RecordSummary { attempt: 0, standing, ttl_ms: self.expires_ms.saturating_sub(now_ms) }
    }

    /// The wire form: version, kind, owner, end of the lease (0 where it is free), fence, expiry.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(42);
        out.extend([FORMAT, LOCK]);
        out.extend(self.owner.0);
        for number in [self.lease_end_ms.unwrap_or(0), self.fence, self.expires_ms] {
            out.extend(number.to_le_bytes());
        }
        out
    }

    /// Reads the wire form.
    ///
    /// # Errors
    /// The bytes are not exactly one lock of a known version.
    pub fn decode(bytes: &[u8]) -> Result<Self, Corrupt> {
        let mut input = Input(bytes);
        if input.array()? != [FORMAT, LOCK] {
            return Err(Corrupt);
        }
        let owner = Owner(input.array()?);
        let lease_end_ms = Some(u64::from_le_bytes(input.array()?)).filter(|end_ms| *end_ms != 0);
        let (fence, expires_ms) = (u64::from_le_bytes(input.array()?), u64::from_le_bytes(input.array()?));
        input.end()?;
        Ok(Lock { owner, lease_end_ms, fence, expires_ms })
    }
}
