//! What the operator decided, in the form the rest of the crate obeys.
//!
//! Its one rule: a `Config` exists only if the whole document was right; there is no half-read policy.
//! It does not know Envoy: values of environment variables are handed in.

mod protobuf;

mod walk;

mod text;

mod outcomes;

mod methods;

mod rules;

mod store;

mod identity;

mod document;

use std::rc::Rc;

pub use document::Document;
pub use outcomes::{Ending, Fate, JsonOutcome, Outcomes, Presence, Statuses};
pub use rules::{Match, PathMatch, Template};
pub use store::{Breaker, CacheBounds, Dialect, Login, RESPONSE_MAX, Redis, Webdis};
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

/// One place of a request from which a part of the key or of the caller is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// The first of these that is present.
    Any(Vec<Part>),
    /// A header of credentials, where its scheme is one that tells a caller; of callers only.
    Authorization {
        /// `authorization` or `proxy-authorization`.
        header: String,
        /// Schemes that tell a caller besides those which do anyway.
        schemes: Vec<String>,
    },
    /// A cookie by its name.
    Cookie(String),
    /// A field of a form in the body, urlencoded or multipart.
    Form(String),
    /// A header by its lower-case name.
    Header(String),
    /// A string or a whole number in a JSON body.
    Json(Pointer),
    /// A claim of the bearer token; of callers only.
    JwtClaim(String),
    /// A segment of the path, counted from 0.
    PathSegment(usize),
    /// An attribute of Envoy by its path; of callers only.
    Property(Vec<String>),
    /// A query parameter by its name.
    Query(String),
    /// What stays of the signature in `authorization` from try to try: who has signed; of callers only.
    Signer,
}

impl Part {
    /// Whether it is read from the body.
    pub fn is_in_body(&self) -> bool {
        match self {
            Part::Any(parts) => parts.iter().any(Part::is_in_body),
            part => matches!(part, Part::Form(_) | Part::Json(_)),
        }
    }

    /// What kind of place it is, and the place's name: as a name's hash has them.
    pub fn kind_and_name(&self) -> (&'static str, String) {
        match self {
            Part::Any(_) => ("any", String::new()),
            Part::Authorization { header: name, .. } | Part::Header(name) => ("header", name.clone()),
            Part::Cookie(name) => ("cookie", name.clone()),
            Part::Form(field) => ("form", field.clone()),
            Part::Json(pointer) => ("json", pointer.to_string()),
            Part::JwtClaim(claim) => ("jwt_claim", claim.clone()),
            Part::PathSegment(index) => ("path_segment", index.to_string()),
            Part::Property(path) => ("property", path.join("\0")),
            Part::Query(name) => ("query", name.clone()),
            Part::Signer => ("signer", "authorization".to_owned()),
        }
    }
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
