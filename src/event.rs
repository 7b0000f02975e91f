//! Everything that can happen to an exchange.
//!
//! Its one rule: whatever the machine may depend on, time and randomness included, arrives in here as a value.
//! It does not know what the machine makes of it.

use std::cell::Cell;

use crate::command::{ReplyKind, StoreReply};
use crate::config::Ending;
use crate::key::UpstreamKey;
use crate::message::{Headers, RequestHead};
use crate::record::Owner;
use crate::reply::DETAILS;
use crate::source::Attributes;

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
        crowded: bool,
        /// Whether this is the end of the request.
        end: bool,
        /// Whether trailers stand at that end.
        trailers: bool,
    },
    /// When more of the response's body has come, or its end.
    ResponseBody {
        /// How many bytes of the body are held, these included.
        held: u64,
        /// Reads all that is held; asked once, when the body is whole.
        whole: &'a dyn Fn() -> Vec<u8>,
        /// Whether too many bytes of bodies are held already.
        crowded: bool,
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
        crowded: bool,
    },
    /// When the store has answered.
    StoreAnswered {
        /// What it had been asked.
        asked: ReplyKind,
        /// What it said.
        verdict: StoreReply,
        /// Whether this worker has room for one more that waits for another's attempt.
        may_wait: bool,
    },
    /// When the time of `Step::wake_ms` has come.
    Tick {
        /// Fresh random bytes, the token of the claim that may follow.
        owner: Owner,
    },
    /// When the host turns out not to show request bodies to a filter that pauses in the headers.
    Unable,
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

/// The details of a response that an upstream made.
pub const VIA_UPSTREAM: &[u8] = b"via_upstream";

/// How the details begin with which Envoy says that it has sent nothing: there was no way, no host, no room, or the
/// connection failed before it stood.
const UNSENT: [&str; 10] = [
    "cluster_not_found",
    "drop_overload",
    "maintenance_mode",
    "no_healthy_upstream",
    "route_not_found",
    "unconditional_drop_overload",
    "upstream_reset_before_response_started{connection_timeout",
    "upstream_reset_before_response_started{local_connection_failure",
    "upstream_reset_before_response_started{overflow",
    "upstream_reset_before_response_started{remote_connection_failure",
];

/// The host's account of a response or of an ending.
#[derive(Clone, Copy, Debug)]
pub struct Origin<'a> {
    /// Envoy's response code details.
    pub details: &'a [u8],
    /// How many times the router tried an upstream; none where the host says nothing.
    pub attempts: Option<u64>,
    /// Whether it is known that an upstream connection was there to send the request on.
    pub connected: bool,
}

/// Who made a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Envoy or another filter, because of this.
    Host(Ending),
    /// This filter.
    Own,
    /// The upstream.
    Upstream,
}

impl Origin<'_> {
    /// Who made the response, or why there is none.
    pub fn source(&self) -> Source {
        let has = |word: &str| self.details.windows(word.len()).any(|window| window == word.as_bytes());
        match self.details {
            VIA_UPSTREAM => Source::Upstream,
            details if details.starts_with(DETAILS.as_bytes()) => Source::Own,
            _ if self.is_unsent() => Source::Host(Ending::Unsent),
            details if details.starts_with(b"downstream") => Source::Host(Ending::Disconnect),
            _ if has("timeout") => Source::Host(Ending::Timeout),
            _ => Source::Host(Ending::Reset),
        }
    }

    /// Whether it is Envoy's own word that nothing reached an upstream.
    ///
    /// That an address is missing is no such word: a Unix domain socket has none.
    fn is_unsent(&self) -> bool {
        let is_said = |details: &[u8]| UNSENT.iter().any(|known| details.starts_with(known.as_bytes()));
        match self.attempts {
            Some(0) => true,
            None | Some(1) => !self.connected && is_said(self.details),
            Some(_) => false,
        }
    }

    /// Whether the router may have executed more than once, or less than it seems.
    pub fn retried(&self) -> bool {
        self.attempts.unwrap_or(0) > 1
    }

    /// Envoy's own refusal of a body over its buffer limit.
    pub fn is_request_too_large(&self) -> bool {
        self.details == b"request_payload_too_large"
    }
}
