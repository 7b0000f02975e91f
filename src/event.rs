//! Everything that can happen to an exchange.
//!
//! Its one rule: whatever the machine may depend on, time and randomness included, arrives in here as a value.
//! It does not know what the machine makes of it.

use crate::config::Ending;
use crate::key::{KeyForm, UpstreamKey};
use crate::message::{Headers, RequestHead};
use crate::record::{Owner, Sight};
use crate::reply::DETAILS;
use crate::source::Attributes;

/// One thing that happened. `now_ms` is monotonic, and the embedded store's own clock.
pub enum Event<'a> {
    /// When the client's stream is over, however it ended; nothing more comes from it.
    Closed {
        /// When.
        now_ms: u64,
        /// The host's account of how it ended.
        origin: Origin<'a>,
    },
    /// When the request's head has come.
    RequestHeaders {
        /// When.
        now_ms: u64,
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
        /// When.
        now_ms: u64,
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
        /// When.
        now_ms: u64,
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
        /// When.
        now_ms: u64,
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
        /// When.
        now_ms: u64,
        /// What came back.
        answer: Executed<'a>,
    },
    /// When the store has answered.
    StoreAnswered {
        /// When.
        now_ms: u64,
        /// What it had been asked.
        asked: Asked,
        /// What it said.
        verdict: Verdict,
        /// Whether this worker has room for one more that waits for another's attempt.
        may_wait: bool,
    },
    /// When the time of `Step::wake_ms` has come.
    Tick {
        /// When.
        now_ms: u64,
        /// Fresh random bytes, the token of the claim that may follow.
        owner: Owner,
    },
    /// When the host turns out not to show request bodies to a filter that pauses in the headers.
    Unable {
        /// When.
        now_ms: u64,
    },
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

/// Which operation of the store an answer is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// To claim the name.
    Claim,
    /// To tell what is known of the name.
    Look,
    /// To say that nobody knows whether it was executed: at its end, or while it runs too long.
    Mark,
    /// To make the lease last.
    Renew,
    /// To complete, release or withdraw.
    Settle,
}

/// What the store said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
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
    /// To a claim: another owner executes.
    InFlight {
        /// Which attempt.
        attempt: u32,
    },
    /// To a renewal or settlement: the record is no longer this owner's to change.
    Lost,
    /// To a claim: the name belongs to another payload.
    Mismatch,
    /// To a renewal: the lease begins anew.
    Renewed {
        /// When the record will be forgotten, on the store's clock.
        expires_ms: u64,
    },
    /// To a look: what is known of the name; nothing where there is no record.
    Seen(Option<Sight>),
    /// To a settlement: it is so.
    Settled,
    /// To a claim: this very claim has been released; its answer comes too late.
    Stale,
    /// To a claim: somebody may have executed.
    Unknown {
        /// Which attempt.
        attempt: u32,
        /// How long until a retry may run.
        wait_ms: u64,
    },
}

/// Why the store could not do what it was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Failure {
    /// The breaker is open: the store has failed too often in a row.
    Breaker,
    /// Too many workers changed the same place at once.
    Contention,
    /// What is stored is not a record.
    Corrupt,
    /// Too many bytes of bodies are held in this worker.
    Crowded,
    /// The table is full of records that must not go.
    Full,
    /// What came back is not an answer at all.
    Garbage,
    /// The host refused a call.
    Host,
    /// `allow_on_headers_stop_iteration` is missing from the filter's configuration.
    MissingFlag,
    /// What came back answers another question.
    Nonce,
    /// Too many operations wait.
    Queue,
    /// Redis refused a command.
    Redis(RedisError),
    /// A claim was answered as released although it had not been.
    Stale,
    /// No answer came in time.
    Timeout,
    /// The store cannot be reached.
    Transport,
}

/// Why Redis refuses a command: the first word of its error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RedisError {
    /// The slot is being moved, and the key is at the other node.
    Ask,
    /// Another script has run for too long.
    Busy,
    /// A part of the cluster is missing.
    ClusterDown,
    /// The keys of one call live in different slots of a cluster: `batching` must be false.
    CrossSlot,
    /// Nothing more exact: a script that cannot run, a command that is not known.
    Err,
    /// It is reading its data set.
    Loading,
    /// A replica has lost its primary.
    MasterDown,
    /// It cannot persist, and is told not to take writes then.
    Misconf,
    /// The key lives at another node of a cluster.
    Moved,
    /// Nobody has logged in.
    NoAuth,
    /// Whoever logged in may not do this.
    NoPerm,
    /// Too few replicas are there to take a write.
    NoReplicas,
    /// It does not keep the script.
    NoScript,
    /// No memory is left, and nothing may go.
    Oom,
    /// A word that is not one of these.
    Other,
    /// It is a replica.
    ReadOnly,
    /// The keys of one call are being moved.
    TryAgain,
    /// The key holds something that is no record.
    WrongType,
}

impl RedisError {
    /// All of them with their words, in lower case.
    const ALL: [(RedisError, &'static str); 18] = [
        (RedisError::Ask, "ask"),
        (RedisError::Busy, "busy"),
        (RedisError::ClusterDown, "clusterdown"),
        (RedisError::CrossSlot, "crossslot"),
        (RedisError::Err, "err"),
        (RedisError::Loading, "loading"),
        (RedisError::MasterDown, "masterdown"),
        (RedisError::Misconf, "misconf"),
        (RedisError::Moved, "moved"),
        (RedisError::NoAuth, "noauth"),
        (RedisError::NoPerm, "noperm"),
        (RedisError::NoReplicas, "noreplicas"),
        (RedisError::NoScript, "noscript"),
        (RedisError::Oom, "oom"),
        (RedisError::Other, "other"),
        (RedisError::ReadOnly, "readonly"),
        (RedisError::TryAgain, "tryagain"),
        (RedisError::WrongType, "wrongtype"),
    ];

    /// The error whose message begins with this word.
    pub fn of(word: &[u8]) -> Self {
        let known = Self::ALL.into_iter().find(|(_, known)| word.eq_ignore_ascii_case(known.as_bytes()));
        known.map_or(RedisError::Other, |(error, _)| error)
    }

    fn as_str(self) -> &'static str {
        let known = Self::ALL.into_iter().find(|(error, _)| *error == self);
        known.map_or("other", |(_, word)| word)
    }
}

impl Failure {
    /// All of them.
    pub fn all() -> Vec<Failure> {
        let plain = [
            Failure::Breaker,
            Failure::Contention,
            Failure::Corrupt,
            Failure::Crowded,
            Failure::Full,
            Failure::Garbage,
            Failure::Host,
            Failure::MissingFlag,
            Failure::Nonce,
            Failure::Queue,
            Failure::Stale,
            Failure::Timeout,
            Failure::Transport,
        ];
        plain.into_iter().chain(RedisError::ALL.map(|(error, _)| Failure::Redis(error))).collect()
    }

    /// Whether the store may have done what it was asked all the same.
    pub fn is_doubtful(self) -> bool {
        match self {
            // Whoever stands between us and Redis may say so too, about a call that went through.
            Failure::Redis(error) => matches!(error, RedisError::Err | RedisError::Other),
            Failure::Nonce => true,
            failure => failure.is_transport(),
        }
    }

    /// Whether no word of the store's came back at all.
    pub fn is_transport(self) -> bool {
        matches!(self, Failure::Garbage | Failure::Timeout | Failure::Transport)
    }

    /// As it stands in metric names and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Failure::Breaker => "breaker",
            Failure::Contention => "contention",
            Failure::Corrupt => "corrupt",
            Failure::Crowded => "crowded",
            Failure::Full => "full",
            Failure::Garbage => "garbage",
            Failure::Host => "host",
            Failure::MissingFlag => "missing_flag",
            Failure::Nonce => "nonce",
            Failure::Queue => "queue",
            Failure::Redis(error) => error.as_str(),
            Failure::Stale => "stale",
            Failure::Timeout => "timeout",
            Failure::Transport => "transport",
        }
    }
}
