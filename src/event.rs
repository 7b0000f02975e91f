//! Everything that can happen to an exchange.
//!
//! Its one rule: whatever the machine may depend on, time and randomness included, arrives in here as a value.
//! It does not know what the machine makes of it.

use std::cell::Cell;

use crate::command::{ReplyKind, StoreReply};
use crate::config::source::Attributes;
use crate::evidence::Origin;
use crate::key::{Name, UpstreamKey};
use crate::message::{Headers, RequestHead};
use crate::record::Owner;

/// One thing that happened.
pub struct Event<'a> {
    /// When.
    pub clock: &'a Clock<'a>,
    /// What.
    pub kind: EventKind<'a>,
}

/// The time of one callback: monotonic, and the embedded store's own.
///
/// It is read once, when it is first asked for. A body may take long to parse, and a claim that was made before that
/// would be born with a part of its lease gone.
pub struct Clock<'a> {
    read: &'a dyn Fn() -> u64,
    now_ms: Cell<Option<u64>>,
}

impl<'a> Clock<'a> {
    /// A clock that is read by this when it is first asked for.
    pub fn new(read: &'a dyn Fn() -> u64) -> Self {
        Clock { read, now_ms: Cell::new(None) }
    }

    /// A clock that has been read.
    pub fn at(now_ms: u64) -> Clock<'static> {
        Clock { read: &|| 0, now_ms: Cell::new(Some(now_ms)) }
    }

    /// Milliseconds.
    pub fn now_ms(&self) -> u64 {
        let now_ms = self.now_ms.get().unwrap_or_else(|| (self.read)());
        self.now_ms.set(Some(now_ms));
        now_ms
    }
}

/// What happened.
pub enum EventKind<'a> {
    /// When the client's stream is over, however it ended; nothing more comes from it.
    Closed {
        /// The host's account of how it ended.
        origin: Origin<'a>,
        /// The status that the host has sent; none where it sent none.
        status: Option<u16>,
    },
    /// When the request's head has come.
    RequestHeaders {
        /// Its fields.
        head: &'a RequestHead,
        /// What the host knows about the request.
        attribute: Attributes<'a>,
        /// Fresh random bytes, the token of the claim that may follow.
        owner: Owner,
        /// Fresh random bytes, the key for the upstream where the client's own header does not serve.
        upstream_key: UpstreamKey,
        /// Whether there is neither body nor trailers.
        end: bool,
    },
    /// When more of the request's body has come, or its end.
    RequestBody {
        /// What the host knows about the request.
        attribute: Attributes<'a>,
        /// What has not been shown before.
        chunk: &'a [u8],
        /// Whether too many bytes of bodies are held already.
        overloaded: bool,
        /// Whether this is the end of the request.
        end: bool,
        /// Whether trailers stand at that end.
        trailers: bool,
    },
    /// When more of the response's body has come, or its end.
    ResponseBody {
        /// How many bytes of the body are held, these included.
        buffered_bytes: u64,
        /// Reads all that is held; asked once, when the body is whole.
        whole: &'a dyn Fn() -> Vec<u8>,
        /// Whether too many bytes of bodies are held already.
        overloaded: bool,
        /// Whether this is the end of the response.
        end: bool,
    },
    /// When the response's head has come, from wherever.
    ResponseHeaders {
        /// Its fields.
        headers: &'a Headers,
        /// Its status.
        status: u16,
        /// Who made it.
        origin: Origin<'a>,
        /// Whether there is neither body nor trailers.
        end: bool,
    },
    /// When the upstream has answered a request that the gateway itself had sent.
    Executed {
        /// What came back.
        answer: Executed<'a>,
        /// Whether too many bytes of bodies are held already.
        overloaded: bool,
    },
    /// When a step of a search is over.
    Found {
        /// What it has found.
        names: Vec<Name>,
        /// Where to go on; none after the last step.
        next: Option<u32>,
    },
    /// When the store has answered.
    StoreReplied {
        /// What it had been asked.
        asked: ReplyKind,
        /// What it said.
        reply: StoreReply,
        /// Whether this worker has room for one more that waits for another's attempt.
        may_wait: bool,
    },
    /// When the time of `Step::wake_ms` has come.
    Tick {
        /// Fresh random bytes, the token of the claim that may follow.
        owner: Owner,
    },
    /// When the host turns out not to show request bodies to a filter that pauses in the headers.
    BodyUnavailable,
}

/// What came of a request that the gateway itself had sent.
#[derive(Clone, Copy, Debug)]
pub enum Executed<'a> {
    /// The host did not take it: there is no way to the upstream.
    Unsent,
    /// It went out, and no response came back, or one that is larger than the host carries.
    Lost,
    /// A response.
    Answered {
        /// Its status.
        status: u16,
        /// Its fields.
        headers: &'a Headers,
        /// The whole body.
        body: &'a [u8],
    },
}
