//! What the operator decided, in the form the rest of the crate obeys.
//!
//! Its one rule: a `Config` exists only if the whole document was right; there is no half-read policy.
//! It does not know Envoy: values of environment variables are handed in.

mod protobuf;

pub mod words;

mod walk;

mod text;

mod outcomes;

pub mod source;

mod identity;

mod duplicates;

mod policy;

mod methods;

mod rules;

mod store;

mod operator;

mod document;

use std::rc::Rc;

pub use document::Document;
pub use duplicates::{OnCompleted, OnInFlight, OnMismatch, OnUnknown};
pub use identity::{Anonymous, BodyPart, FingerprintPolicy, Inject, KeyPolicy, MEANINGFUL, Members, Scope, Separation};
pub use operator::Operator;
pub use outcomes::{Ending, Fate, JsonOutcome, Outcomes, Presence, Statuses};
pub use policy::{Execution, Mode, OnStoreFailure, OnTooLarge, Policy, Save};
pub use rules::{Match, PathMatch, Template};
pub use source::Part;
pub use store::{Breaker, CacheBounds, Dialect, Login, RESPONSE_MAX, Redis, Webdis};
pub use walk::ConfigError;

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
