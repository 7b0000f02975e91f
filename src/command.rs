//! What the machine asks of a store, and what a store says.
//!
//! Its one rule: a command carries all that a record needs, so that one which the store has lost can be made again.
//! It does not know which store carries it out, nor how it is reached.

pub use crate::failure::{Failure, RedisError};
use crate::fingerprint::Fingerprint;
use crate::key::{KeyForm, Name};
use crate::lock::LockCommand;
use crate::record::{Owner, RecordSummary};
use crate::similar::Asked;

/// One thing asked of the store. With what it carries a record that the store has lost can be made again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// Which record.
    pub name: Name,
    /// Who asks.
    pub owner: Owner,
    /// Of the payload in hand.
    pub fingerprint: Fingerprint,
    /// The attempt in hand; 0 where none was granted.
    pub attempt: u32,
    /// How the key goes upstream: proposed by a claim, otherwise as it was granted.
    pub key: KeyForm,
    /// How long a claim stands.
    pub lease_ms: u64,
    /// How long the record lives after this.
    pub ttl_ms: u64,
    /// Whether it lives only so long after its first claim, whatever happens then: the window of a content key.
    pub in_window: bool,
    /// Whether it may begin an operation of which there is no record: not where it comes with an expired key.
    pub may_begin: bool,
    /// On the store's clock: past it nothing is written, so that no late word revives a forgotten record.
    pub deadline_ms: Option<u64>,
    /// What is asked.
    pub kind: CommandKind,
}

impl Command {
    /// Whether it withdraws a claim, or lets go of a lock, on which nothing was forwarded.
    pub fn is_withdrawal(&self) -> bool {
        matches!(self.kind, CommandKind::Withdraw | CommandKind::Lock(LockCommand::Unlock { fence: None }))
    }

    /// Whether it is about an operation, and not about the lock of a resource or what is similar.
    pub fn is_of_operation(&self) -> bool {
        !matches!(self.kind, CommandKind::Lock(_) | CommandKind::Similar(_))
    }

    /// What takes back this claim or lock.
    pub fn taken_back(&self) -> Command {
        let kind = match self.kind {
            CommandKind::Lock(_) => CommandKind::Lock(LockCommand::Unlock { fence: None }),
            _ => CommandKind::Withdraw,
        };
        Command { kind, ..self.clone() }
    }
}

/// What can be asked of the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CommandKind {
    /// May I execute?
    Claim {
        /// Whether an attempt may follow one whose outcome is unknown.
        may_retry: bool,
    },
    /// The upstream answered for good.
    Complete {
        /// Its status.
        status: u16,
        /// The encoded response; none where it cannot be replayed.
        response: Option<Vec<u8>>,
    },
    /// What is known? Changes nothing.
    Inspect,
    /// Something about the lock of a resource.
    Lock(LockCommand),
    /// I may have executed.
    MarkUnknown,
    /// May I execute, as one that has waited for another's attempt to end? Never after an unknown outcome.
    Poll {
        /// Up to which attempt others may have executed.
        max_attempt: u32,
    },
    /// I have not executed, for good.
    Release {
        /// Whether only the same payload may run next.
        keep_fingerprint: bool,
    },
    /// I am still executing.
    Renew,
    /// An operator knows what became of it.
    Resolve(Resolution),
    /// Which other operation with this content was begun last? And note this one.
    Similar(Asked),
    /// I have claimed, whether or not I was granted, and have forwarded nothing.
    Withdraw,
}

/// What an operator says became of an operation that is not executing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Resolution {
    /// It does not matter any more: any payload may run next, also after a completed execution.
    Forget,
    /// It was not executed: the same payload may run next.
    NotRun {
        /// The last attempt there was, as the operator has seen it: none that came since is spoken of.
        attempt: u32,
    },
    /// It was executed.
    Ran {
        /// The upstream's status, where the operator knows it.
        status: Option<u16>,
    },
}

impl CommandKind {
    /// Which kind of answer it gets.
    pub fn reply_kind(&self) -> ReplyKind {
        match self {
            CommandKind::Claim { .. } | CommandKind::Poll { .. } => ReplyKind::Claim,
            CommandKind::Inspect => ReplyKind::Inspect,
            CommandKind::Lock(LockCommand::Lock) => ReplyKind::Lock,
            CommandKind::Lock(LockCommand::Renew { .. }) => ReplyKind::RenewLock,
            CommandKind::Lock(LockCommand::Unlock { .. }) => ReplyKind::Unlock,
            CommandKind::MarkUnknown => ReplyKind::Mark,
            CommandKind::Renew => ReplyKind::Renew,
            CommandKind::Resolve(_) => ReplyKind::Resolve,
            CommandKind::Similar(_) => ReplyKind::Similar,
            CommandKind::Complete { .. } | CommandKind::Release { .. } | CommandKind::Withdraw => ReplyKind::Settle,
        }
    }
}

/// Which kind of command a reply is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplyKind {
    /// To claim the name.
    Claim,
    /// To tell what is known of the name.
    Inspect,
    /// To take the lock of a resource.
    Lock,
    /// To say that it is not known whether it was executed: at its end, or while it runs too long.
    Mark,
    /// To make the lease last.
    Renew,
    /// To make that of a lock last.
    RenewLock,
    /// To settle it by an operator's word.
    Resolve,
    /// To complete, release or withdraw.
    Settle,
    /// To tell what else has the same content.
    Similar,
    /// To let go of a lock.
    Unlock,
}

impl ReplyKind {
    /// Whether the reply may give leave to execute: a try that got none may have been granted unheard.
    pub fn may_grant(self) -> bool {
        matches!(self, ReplyKind::Claim | ReplyKind::Lock)
    }

    /// Whether it may want room for a record that was not there before.
    pub fn may_begin(self) -> bool {
        self.may_grant() || self == ReplyKind::Similar
    }

    /// Whether the store must hear of it, however long that takes.
    pub fn is_owed(self) -> bool {
        matches!(self, ReplyKind::Mark | ReplyKind::Settle | ReplyKind::Unlock)
    }
}

/// What the store says to a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreReply {
    /// To a lock: another holds it.
    Busy {
        /// How long its lease lasts at most.
        wait_ms: u64,
    },
    /// To a claim: it is completed.
    Completed {
        /// Of the completed execution.
        attempt: u32,
        /// The upstream's status, where it is known.
        status: Option<u16>,
        /// The encoded response; none where it cannot be replayed.
        response: Option<Vec<u8>>,
        /// Since completion.
        age_ms: u64,
        /// Until the record is forgotten.
        ttl_ms: u64,
    },
    /// To a claim: it is completed, but too much else came back with it to carry the response too; ask again.
    Deferred,
    /// To a completion: it is so, but there was no room for the response.
    Dropped,
    /// To one that has waited: as many attempts have ended as it may wait for.
    Exhausted {
        /// The last of them.
        attempt: u32,
    },
    /// To anything: the store could not do it, for this reason.
    Failed(Failure),
    /// To a claim: go ahead.
    Granted {
        /// The fencing number of this execution.
        attempt: u32,
        /// Whether an earlier attempt may have executed.
        doubt: bool,
        /// How the operation's key goes upstream.
        key: KeyForm,
        /// When the record will be forgotten, on the store's clock.
        expires_ms: u64,
    },
    /// To a claim: another owner executes. To an operator's word: an owner does.
    InFlight {
        /// Which attempt.
        attempt: u32,
    },
    /// To a lock or its renewal: it is this owner's.
    Locked {
        /// Larger with every holder.
        fence: u64,
    },
    /// To a renewal or settlement: the record is no longer this owner's to change. To an operator's word that it did not
    /// run: it has completed.
    Lost,
    /// To a claim: the name belongs to another payload.
    Mismatch,
    /// To a renewal: the lease begins anew.
    Renewed {
        /// When the record will be forgotten, on the store's clock.
        expires_ms: u64,
    },
    /// To a look: what is known of the name; nothing where there is no record. To an operator's word, and to a claim that
    /// may not begin: there is none.
    Seen(Option<RecordSummary>),
    /// To a settlement or an operator's word: it is so. To a question for what is similar: nothing is, and this is noted.
    Settled,
    /// To a question for what is similar: the latest other operation with this content.
    Similar {
        /// Which.
        operation: Name,
        /// When it was begun last, on the store's clock.
        since_ms: u64,
        /// Since it was begun last.
        age_ms: u64,
    },
    /// To a claim: this very claim has been released; its answer comes too late. To an operator's word that it did not run:
    /// there is another attempt than the one it is about.
    Stale,
    /// To a claim: an earlier attempt may have executed. To an operator's word: one whose lease is not over may have.
    Unknown {
        /// Which attempt.
        attempt: u32,
        /// How long until a retry may run.
        wait_ms: u64,
    },
}

/// What a worker has given up of what the store must still hear of, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GivenUp {
    /// Why.
    pub why: WhyGivenUp,
    /// Completions: known successes that the store never hears of.
    pub completions: u32,
    /// Responses of completions that are kept: they count as not replayable.
    pub responses: u32,
    /// Everything else: claims that lapse instead of being released, marked or withdrawn.
    pub others: u32,
    /// One of the operations, a completion where there is one.
    pub name: Name,
}

/// Why a worker gives up what the store must still hear of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WhyGivenUp {
    /// Its plugin has drained for as long as it may, and no other has taken it over.
    Drained,
    /// The record must be gone.
    Expired,
    /// More is owed than may be kept.
    NoRoom,
    /// The call that carries it takes longer than a call may.
    TooSlow,
}
