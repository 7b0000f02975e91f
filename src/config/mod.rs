//! What the operator decided, in the form the rest of the crate obeys.
//!
//! Its one rule: a `Config` exists only if the whole document was right; there is no half-read policy.
//! It does not know Envoy: values of environment variables are handed in.

mod protobuf;

mod walk;

mod text;

pub mod source;

mod outcomes;

mod methods;

mod rules;

mod store;

mod identity;

mod document;

use std::rc::Rc;

pub use outcomes::{Ending, Fate, JsonOutcome, Outcomes, Presence, Statuses};
pub use rules::{Match, PathMatch, Template};
pub use source::Part;
pub use walk::ConfigError;

use crate::json::Pointer;

/// A claim counts as fresh until this part of its lease is left; then it is renewed before anything is forwarded on it.
pub const LEASE_MARGIN: u64 = 5;

/// The whole document.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where records are kept.
    pub store: Store,
    /// Keys the HMAC that names records; without it names are plain SHA-256.
    pub hash_key: Option<Vec<u8>>,
    /// Keys of stored responses: the first encrypts, all decrypt. Without any they are kept in clear.
    pub encryption: Vec<EncryptionKey>,
    /// Tried in order; the first that matches decides.
    pub rules: Vec<Rule>,
    /// The path of the status look-up, where there is one.
    pub status_path: Option<String>,
    /// Prefix of problem types.
    pub problem_base: String,
    /// Risky but legal settings, one sentence each with the place in front.
    pub warnings: Vec<String>,
}

/// `store`: where records are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Store {
    /// In this Envoy, in a table of at most so many bytes of records.
    Local {
        /// The bound.
        max_bytes: u64,
    },
    /// In Redis behind HTTP, shared by all gateways.
    Redis(Box<Redis>),
}

/// `store` with `"type": "redis"`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redis {
    /// The Envoy cluster of the HTTP service.
    pub cluster: String,
    /// `:authority` of the calls.
    pub authority: String,
    /// In front of the path of every call; begins and ends with a slash.
    pub path: String,
    /// Value of the `authorization` header.
    pub authorization: Option<String>,
    /// How long one call may take.
    pub timeout_ms: u64,
    /// Tries of one operation within the request's path.
    pub attempts: u32,
    /// In front of every Redis key.
    pub prefix: String,
    /// Whether one call may carry many operations.
    pub batching: bool,
    /// When operations fail at once.
    pub breaker: Breaker,
    /// What this Envoy remembers of the store.
    pub cache: Option<CacheBounds>,
}

impl Redis {
    /// Whether both find the same records, by the same credentials.
    pub fn is_same_store(&self, other: &Redis) -> bool {
        let place = |redis: &Redis| [&redis.cluster, &redis.authority, &redis.path, &redis.prefix].map(Clone::clone);
        place(self) == place(other) && self.authorization == other.authorization
    }
}

/// `store.breaker`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Breaker {
    /// After so many transport failures in a row,
    pub failures: u32,
    /// for so long.
    pub open_ms: u64,
}

/// `store.cache`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheBounds {
    /// Bytes of all entries.
    pub max_bytes: u64,
    /// Bytes of one response.
    pub max_entry_bytes: u64,
    /// How long an entry counts.
    pub ttl_ms: u64,
}

/// One of `secrets.encryption`.
#[derive(Clone, PartialEq, Eq)]
pub struct EncryptionKey {
    /// Stands in every record that this key encrypted.
    pub id: String,
    /// Of XChaCha20-Poly1305.
    pub key: [u8; 32],
}

impl std::fmt::Debug for EncryptionKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "EncryptionKey({})", self.id)
    }
}

/// One entry of `rules`.
#[derive(Clone, Debug)]
pub struct Rule {
    /// The operator's name for it, or its place in the list.
    pub name: String,
    /// Which requests it is about.
    pub matches: Match,
    /// What is done with them.
    pub policy: Rc<Policy>,
}

/// What is done with a request that a rule matched.
#[derive(Clone, Debug)]
pub struct Policy {
    /// The name of the rule.
    pub rule: String,
    /// Whether decisions are carried out.
    pub mode: Mode,
    /// Where the client's key comes from.
    pub key: KeyPolicy,
    /// What separates two uses of one key.
    pub scope: Scope,
    /// What makes two requests the same.
    pub fingerprint: FingerprintPolicy,
    /// What a request with a used key and another payload is.
    pub on_mismatch: OnMismatch,
    /// What a duplicate of a running operation gets.
    pub on_in_flight: OnInFlight,
    /// What a duplicate of a completed operation gets.
    pub on_completed: OnCompleted,
    /// What becomes of a key whose earlier attempt's fate is not known.
    pub on_unknown: OnUnknown,
    /// What becomes of a request when the store fails.
    pub on_store_failure: OnStoreFailure,
    /// What becomes of a request whose body is over `max_request_bytes`.
    pub on_too_large: OnTooLarge,
    /// How long a claim stands without renewal.
    pub lease_ms: u64,
    /// How long an execution is renewed at most.
    pub max_running_ms: u64,
    /// How long a record lives after its last change.
    pub ttl_ms: u64,
    /// The largest request body that is fingerprinted.
    pub max_request_bytes: u64,
    /// The largest response body that is kept for replay.
    pub max_response_bytes: u64,
    /// What becomes of the key, by what came back.
    pub outcomes: Outcomes,
    /// Who sends the request upstream.
    pub execution: Execution,
    /// When the client gets a response that is to be stored.
    pub save: Save,
    /// Status of each answer of the gateway itself.
    pub statuses: Statuses,
    /// Prefix of problem types; the document's `problem_base`.
    pub problem_base: String,
    /// Whether our response headers are listed for browsers.
    pub expose_cors: bool,
}

impl Policy {
    /// Whether only the body tells which operation a request is.
    pub fn is_named_by_body(&self) -> bool {
        self.key.sources.iter().chain(&self.scope.caller).any(Part::is_in_body)
    }
}

/// `mode`, for the requests the filter looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Decisions are carried out.
    Enforce,
    /// A key is seen to go upstream, and nothing is kept.
    Inject,
    /// Decisions are counted and nothing is changed but `Idempotency-Status`.
    Observe,
    /// The request passes as if no rule had matched.
    Off,
}

/// `key`: the parts of the client's key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyPolicy {
    /// In order; all must be present and not empty. Never an empty list.
    pub sources: Vec<Part>,
    /// A request without a key is answered `key-missing`.
    pub required: bool,
    /// A longer key is `key-invalid`.
    pub max_bytes: usize,
    /// What becomes of a request without one.
    pub inject: Inject,
}

/// `key.inject`: the key that the gateway makes when the client brings none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inject {
    /// The content of the request, for a while.
    Content {
        /// From the first request with this content.
        window_ms: u64,
        /// Also for a request without a caller.
        anonymous: bool,
    },
    /// None.
    Off,
    /// A random one, which the gateway gives to the client.
    Uuid,
}

/// `scope`: what separates two uses of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    /// Who is asking: every part that is present counts.
    pub caller: Vec<Part>,
    /// What becomes of a request in which no part is present.
    pub anonymous: Anonymous,
    /// How the method counts.
    pub method: Separation,
    /// How the host counts.
    pub host: Separation,
    /// How the path counts.
    pub path: Separation,
}

/// `scope.anonymous`: what becomes of a request whose caller cannot be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Anonymous {
    /// It passes unprotected, or is refused where a key is required.
    Auto,
    /// The answer is `caller-missing`.
    Refuse,
    /// All that show no credential at all share one scope; any other passes as under `Auto`.
    Share,
}

/// `scope.method`, `scope.host`, `scope.path`: how a part of the target counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Separation {
    /// The same key under another one is another operation.
    Separates,
    /// The same key under another one is a mismatch.
    Compared,
    /// It does not count.
    Ignored,
}

/// `fingerprint`: what makes two requests the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FingerprintPolicy {
    /// What of the body is part of it.
    pub body: BodyPart,
    /// The query string is part of it.
    pub query: bool,
    /// Lower-case names of the headers that are part of it; of `content-type` only the media type.
    pub headers: Vec<String>,
}

/// `fingerprint.body`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BodyPart {
    /// Its bytes.
    Bytes,
    /// What it says as JSON.
    Json(Members),
    /// Nothing.
    Off,
}

/// Which members of a JSON body count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Members {
    /// `fingerprint.json_ignore`: all but what stands there.
    AllBut(Vec<Pointer>),
    /// `fingerprint.json_only`: what stands there. Never an empty list.
    Only(Vec<Pointer>),
}

/// `on_mismatch`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnMismatch {
    /// The answer is `mismatch`.
    Reject,
    /// It is an operation of its own.
    Separate,
}

/// `on_in_flight`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnInFlight {
    /// The answer is `in-flight`.
    Reject,
    /// It is held until there is an answer to replay.
    Wait {
        /// Not for longer than this.
        max_wait_ms: u64,
    },
}

/// `on_completed`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnCompleted {
    /// Keep no body and answer `already-completed`.
    Conflict,
    /// Answer as the upstream did.
    Replay,
}

/// `on_unknown`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnUnknown {
    /// Refuse until the record expires.
    Hold,
    /// Let the next attempt run once the lease is over.
    Retry,
}

/// `on_store_failure`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnStoreFailure {
    /// Let the request through unprotected and say so.
    Forward,
    /// The answer is `store-unavailable`.
    Reject,
}

/// `on_too_large`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnTooLarge {
    /// Let the request through unprotected and say so.
    Bypass,
    /// The answer is `body-too-large`.
    Reject,
}

/// `execution`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Execution {
    /// The client's own stream.
    Inline,
    /// The gateway itself, so that a client that hangs up cannot lose the outcome.
    Shielded {
        /// The Envoy cluster that leads to an internal listener with the same routes.
        cluster: String,
        /// How long the upstream may take.
        timeout_ms: u64,
    },
}

/// `save`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Save {
    /// At once; a crash right then forgets a success that the client saw.
    AfterReply,
    /// When the store has it.
    BeforeReply,
}
