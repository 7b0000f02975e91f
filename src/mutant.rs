//! Breaches of single safety rules, for tests that show that the simulator notices each of them.
//!
//! Its one rule: without the feature `mutants` nothing in here can happen, and the compiler removes it.
//! It does not know what a rule protects; the guard that asks does.

/// One safety rule, not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// An answer of the gateway's own is left as others have changed it.
    AnswerLeftChanged,
    /// The attempt number begins anew where an operator lets the operation run again.
    AttemptReset,
    /// A completed record is replaced by a later completion.
    CompletedReplaced,
    /// Owed operations write although the record they are about has expired.
    DeadlineIgnored,
    /// A released attempt forgets that an earlier one may have executed.
    DoubtForgotten,
    /// An issued key begins an operation though it has expired.
    ExpiredBegins,
    /// The next holder of a lock gets the fence of the one before.
    FenceReused,
    /// A late try of a released claim is granted.
    GhostGranted,
    /// A record goes before the key that was issued for it has expired.
    IssuedForgotten,
    /// A key counts for any caller, whomever it was issued to.
    IssuedToAnyone,
    /// The key goes upstream in the form in which this try brought it.
    KeyFormForgotten,
    /// A late try of the claim that an operator's word has ended is granted.
    LateOwnerGranted,
    /// Leases are judged by the clock of the worker that asks.
    LeaseByAskersClock,
    /// An operator's word counts while a lease lives.
    LiveLeaseIgnored,
    /// A request of the gateway's own counts as not executed where its answer got lost.
    LostAnswerReleased,
    /// The lease of a lock is left to end while what runs under it goes on.
    LockNotRenewed,
    /// A request runs though it has no lock of its resource.
    LockSkipped,
    /// What was under way on a stream to the store that is lost counts as not done.
    LostUndone,
    /// Another payload is noticed only once the operation is completed.
    MismatchLast,
    /// An answer counts whatever its nonce.
    NonceIgnored,
    /// A lock is let go of by an owner that does not hold it.
    OthersUnlocked,
    /// What is owed is forgotten with the lease.
    OutboxDiesWithLease,
    /// What a plugin owes that is replaced goes with it, one lease later.
    OwedNotHandedOver,
    /// A record changes for any owner that asks.
    OwnerIgnored,
    /// A command whose time is over loses its place on its stream, so that its reply is taken for the next one's.
    PlaceForgotten,
    /// What is owed waits for its pause though the store is back.
    RecoveryIgnored,
    /// What the gateway itself executes is given up when its client goes.
    ShieldDropped,
    /// A stream on which nothing comes is kept.
    SilenceKept,
    /// Those of another caller count among what is similar.
    SimilarAcrossCallers,
    /// What is similar is neither told nor refused.
    SimilarIgnored,
    /// What is similar counts though it was released.
    SimilarToReleased,
    /// The request goes upstream however old its claim is.
    StaleClaimForwarded,
    /// A stream is kept on which a reply to another question has come.
    StrangerKept,
    /// A response that trickles is held to its end.
    TrickleHeld,
    /// A lock is let go of before the store has heard of the outcome.
    UnlockedEarly,
    /// An attempt may follow one of unknown outcome at once.
    UnknownFree,
    /// A stored value that cannot be read counts as a store that fails, and the request runs under `forward`.
    UnreadableForwarded,
    /// A withdrawn claim frees the name for any payload.
    WithdrawalFrees,
    /// A withdrawn claim leaves its payload behind.
    WithdrawalKeeps,
}

impl Mutant {
    /// All of them.
    pub const ALL: [Mutant; 39] = [
        Mutant::AnswerLeftChanged,
        Mutant::AttemptReset,
        Mutant::CompletedReplaced,
        Mutant::DeadlineIgnored,
        Mutant::DoubtForgotten,
        Mutant::ExpiredBegins,
        Mutant::FenceReused,
        Mutant::GhostGranted,
        Mutant::IssuedForgotten,
        Mutant::IssuedToAnyone,
        Mutant::KeyFormForgotten,
        Mutant::LateOwnerGranted,
        Mutant::LeaseByAskersClock,
        Mutant::LiveLeaseIgnored,
        Mutant::LostAnswerReleased,
        Mutant::LockNotRenewed,
        Mutant::LockSkipped,
        Mutant::LostUndone,
        Mutant::MismatchLast,
        Mutant::NonceIgnored,
        Mutant::OthersUnlocked,
        Mutant::OutboxDiesWithLease,
        Mutant::OwedNotHandedOver,
        Mutant::OwnerIgnored,
        Mutant::PlaceForgotten,
        Mutant::RecoveryIgnored,
        Mutant::ShieldDropped,
        Mutant::SilenceKept,
        Mutant::SimilarAcrossCallers,
        Mutant::SimilarIgnored,
        Mutant::SimilarToReleased,
        Mutant::StaleClaimForwarded,
        Mutant::StrangerKept,
        Mutant::TrickleHeld,
        Mutant::UnlockedEarly,
        Mutant::UnknownFree,
        Mutant::UnreadableForwarded,
        Mutant::WithdrawalFrees,
        Mutant::WithdrawalKeeps,
    ];
}

#[cfg(feature = "mutants")]
thread_local! {
    static BREACHED: std::cell::Cell<Option<Mutant>> = const { std::cell::Cell::new(None) };
}

/// Has this thread not keep one rule from now on, or keep them all.
#[cfg(feature = "mutants")]
pub fn breach(mutant: Option<Mutant>) {
    BREACHED.set(mutant);
}

/// Whether this rule is not kept.
#[cfg(feature = "mutants")]
pub fn is(mutant: Mutant) -> bool {
    BREACHED.get() == Some(mutant)
}

/// Whether this rule is not kept: all are.
#[cfg(not(feature = "mutants"))]
#[inline(always)]
pub const fn is(_mutant: Mutant) -> bool {
    false
}
