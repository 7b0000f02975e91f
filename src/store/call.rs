//! What a call to a store carries, what comes of it, and the bounds of both.
//!
//! Its one rule: an answer counts only under the nonce of the very try that it answers.
//! It does not know when a call is made, nor how it is written.

use std::rc::Rc;

use crate::command::{Command, CommandKind, Failure, ReplyKind, StoreReply};
use crate::config::{Dialect, Redis};

/// A random token that one try of one operation carries, and that its answer must bring back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Nonce(pub [u8; 16]);

/// Bounds of the client.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Tries of one operation before it fails for its asker.
    pub attempts: u32,
    /// How long one call may take.
    pub timeout_ms: u64,
    /// How many calls may be under way at once, on each lane.
    pub max_calls: usize,
    /// How many operations one call carries at most.
    pub max_batch: usize,
    /// How many bytes of responses one call carries at most, beyond its first operation.
    pub max_batch_bytes: usize,
    /// From how many bytes of a response on an operation takes the lane for large ones; none where there is one lane.
    pub large_bytes: Option<usize>,
    /// How many operations may wait.
    pub max_queued: usize,
    /// About how many bytes the outboxes of one pool keep together.
    pub max_owed_bytes: usize,
    /// After so many transport failures in a row operations fail at once.
    pub breaker_failures: u32,
    /// For so long, and then one probe.
    pub breaker_open_ms: u64,
}

impl Limits {
    /// On which lane an operation goes.
    pub(super) fn lane(&self, command: &Command) -> Lane {
        let bytes = match &command.kind {
            CommandKind::Complete { response: Some(response), .. } => response.len(),
            _ => 0,
        };
        if self.large_bytes.is_some_and(|large| bytes > large) { Lane::Large } else { Lane::Small }
    }

    /// As the operator's document has them.
    pub fn new(redis: &Redis) -> Self {
        let (most_calls, large_bytes) = match redis.dialect {
            Dialect::Resp { .. } => (OUTSTANDING_MAX, Some(LARGE_BYTES)),
            Dialect::Webdis(_) => (128, None),
        };
        Limits {
            attempts: redis.attempts,
            timeout_ms: redis.timeout_ms,
            // While one is under way, the next one fills.
            max_calls: if redis.batching { 2 } else { most_calls },
            max_batch: if redis.batching { 64 } else { 1 },
            max_batch_bytes: MAX_BATCH_BYTES,
            large_bytes,
            max_queued: 4096,
            max_owed_bytes: 16 << 20,
            breaker_failures: redis.breaker.failures,
            breaker_open_ms: redis.breaker.open_ms,
        }
    }
}

/// How many commands may be under way on one stream.
pub const OUTSTANDING_MAX: usize = 64;
/// How many bytes of responses a call carries at most, beyond its first operation.
pub const MAX_BATCH_BYTES: usize = 1 << 20;
/// From how many bytes on a response is large; the script knows the number too.
const LARGE_BYTES: usize = 64 << 10;

/// On which of the ways to a store a call goes, so that large responses delay none that are small.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// Where responses are small, and where a store has one way only.
    Small,
    /// Where they are large.
    Large,
}

impl Lane {
    /// All there are.
    pub const ALL: [Lane; 2] = [Lane::Small, Lane::Large];
}

/// One call to the store: operations in order, each with its nonce.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Which call this is.
    pub id: u64,
    /// Which way it goes.
    pub lane: Lane,
    /// What it carries.
    pub tries: Vec<(Nonce, Rc<Command>)>,
}

/// What came back from one call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// The store's answers in the order of the operations, each under a nonce.
    Answers(Vec<(Nonce, StoreReply)>),
    /// Nothing that could be read as answers.
    Failed(Failure),
}

/// What came from a stream of calls at once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// The calls that ended, in order.
    pub replies: Vec<(u64, Reply)>,
    /// The calls that were under way when the stream was lost, and why it was.
    pub lost: Option<(Vec<u64>, Failure)>,
}

/// What came of an operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Completion {
    /// Who had asked; none where no exchange waits for it any more.
    pub exchange: Option<u32>,
    /// What was asked.
    pub command: Rc<Command>,
    /// When.
    pub asked_ms: u64,
    /// The answer.
    pub reply: StoreReply,
}

impl Completion {
    /// What the exchange had asked.
    pub fn asked(&self) -> ReplyKind {
        self.command.kind.reply_kind()
    }
}
