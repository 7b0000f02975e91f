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

mod serialize;

mod similar;

mod policy;

mod methods;

mod rules;

mod store;

mod operator;

mod document;

use std::rc::Rc;

pub use document::Document;
pub use duplicates::{OnCompleted, OnInFlight, OnMismatch, OnUnknown};
pub use identity::{
    Anonymous, BodyPart, FingerprintPolicy, ISSUED_LENGTH, Inject, Issued, KeyPolicy, MEANINGFUL, Members, Scope,
    Separation,
};
pub use operator::Operator;
pub use outcomes::{Ending, Fate, JsonOutcome, Outcomes, Presence, Statuses};
pub use policy::{Execution, Mode, OnStoreFailure, OnTooLarge, Policy, Save};
pub use rules::{AsksFor, Match, PathMatch, Template};
pub use serialize::Serialize;
pub use similar::{OnSimilar, Similar};
pub use source::Part;
pub use store::{Breaker, CacheBounds, Dialect, Login, RESPONSE_MAX, Redis, Webdis};
use walk::Choice as _;
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
    pub encryption: Vec<SecretKey>,
    /// Keys of the keys that the gateway issues: the first signs, all verify.
    pub issuing: Vec<SecretKey>,
    /// Tried in order; the first that matches decides.
    pub rules: Vec<Rule>,
    /// The path of the status look-up, where there is one.
    pub status_path: Option<String>,
    /// The path where the gateway issues keys, if it does.
    pub issue_path: Option<String>,
    /// For how long an issued key may begin an operation.
    pub issued_ttl_s: u64,
    /// Prefix of problem types.
    pub problem_base: String,
    /// Risky but legal settings, one sentence each with the place in front.
    pub warnings: Vec<String>,
}

impl Config {
    /// Rules and store in one line of a log.
    pub fn in_a_line(&self) -> String {
        const SHOWN: usize = 12;
        let named = |rule: &Rule| match rule.policy.mode {
            Mode::Enforce => rule.name.clone(),
            mode => {
                let word = Mode::WORDS.iter().find(|(_, known)| *known == mode).map_or("", |(word, _)| *word);
                format!("{} ({word})", rule.name)
            }
        };
        let mut rules: Vec<String> = self.rules.iter().take(SHOWN).map(named).collect();
        let more = self.rules.len().saturating_sub(SHOWN);
        rules.extend((more > 0).then(|| format!("{more} more")));
        let rules = if rules.is_empty() { "none, operators ask here".to_owned() } else { rules.join(", ") };
        match &self.store {
            Store::Local { max_bytes } => {
                format!("rules: {rules}; records in this Envoy, {}", words::bytes(*max_bytes))
            }
            Store::Redis(redis) => {
                format!(
                    "rules: {rules}; records in Redis, through the cluster {} under {}",
                    redis.cluster, redis.prefix
                )
            }
        }
    }
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

/// One of `secrets.encryption` or `secrets.issuing`.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretKey {
    /// What tells it from others; stands in every record that it encrypted.
    pub id: String,
    /// Of XChaCha20-Poly1305, or of HMAC-SHA-256.
    pub key: [u8; 32],
}

impl std::fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SecretKey({})", self.id)
    }
}

/// Which rule a policy is of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuleId {
    /// Its place in the list.
    pub number: usize,
    /// The operator's name for it, or `rule` and its place.
    pub name: String,
}

impl RuleId {
    /// Its name as metrics have it: 40 letters, digits, `_` and `-`, with `_` in the place of all else.
    pub fn label(&self) -> String {
        let fits = |letter: char| letter.is_ascii_alphanumeric() || "_-".contains(letter);
        self.name.chars().take(40).map(|letter| if fits(letter) { letter } else { '_' }).collect()
    }
}

/// One entry of `rules`.
#[derive(Clone, Debug)]
pub struct Rule {
    /// The operator's name for it, or `rule` and its place in the list.
    pub name: String,
    /// Which requests it is about.
    pub matches: Match,
    /// What is done with them.
    pub policy: Rc<Policy>,
}
