//! What is done with a request that a rule matched: the fields of `policy`.
//!
//! Its one rule: a field's type, default, bounds and words stand here, or in the file of its topic.
//! It does not know which requests a rule matches.

use std::fmt;

use serde_json::Value;

use super::RuleId;
use super::duplicates::{OnCompleted, OnInFlight, OnMismatch, OnUnknown};
use super::identity::{Anonymous, BodyPart, FingerprintPolicy, Inject, Issued, KeyPolicy, Scope};
use super::outcomes::{Outcomes, Statuses, outcomes, statuses};
use super::serialize::Serialize;
use super::similar::Similar;
use super::source::Part;
use super::text::plain;
use super::walk::{Choice, DAY_MS, MIB, Place, Read, YEAR_S};
use super::words::{Line, bytes, time};
use crate::refusal::ProblemType;

/// What is done with a request that a rule matched.
#[derive(Clone, Debug)]
pub struct Policy {
    /// The rule that it is of.
    pub rule: RuleId,
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
    /// Which requests run one at a time, whatever their keys; [`Policy::lock`] tells whether they do.
    pub serialize: Option<Serialize>,
    /// What a request gets whose caller has sent the same content under another key, where that is to be known.
    pub similar: Option<Similar>,
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

/// What a policy takes from the rest of the document.
pub(super) struct Frame {
    pub problem_base: String,
    /// The default of `ttl_s`, which hangs on the store.
    pub ttl_s: u64,
}

impl Policy {
    /// Reads a policy. `written` is the part of it that was written here, for contradictions to point at.
    pub(super) fn read(at: &Place<'_>, value: &Value, written: &Value, frame: &Frame) -> Read<Self> {
        let policy = at.object(value, |fields| {
            Ok(Policy {
                // The rule puts its own here.
                rule: RuleId::default(),
                mode: fields.choice("mode")?,
                key: fields.nested("key", KeyPolicy::read)?,
                scope: fields.nested("scope", Scope::read)?,
                fingerprint: fields.nested("fingerprint", FingerprintPolicy::read)?,
                on_mismatch: fields.choice("on_mismatch")?,
                on_in_flight: fields.nested("on_in_flight", OnInFlight::read)?,
                serialize: fields.read("serialize", None, |at, value| Serialize::read(at, value).map(Some))?,
                similar: fields.read("similar", None, |at, value| Similar::read(at, value).map(Some))?,
                on_completed: fields.choice("on_completed")?,
                on_unknown: fields.choice("on_unknown")?,
                on_store_failure: fields.read("on_store_failure", OnStoreFailure::Reject, OnStoreFailure::read)?,
                on_too_large: fields.choice("on_too_large")?,
                lease_ms: fields.whole("lease_ms", 60_000, 1000..=DAY_MS)?,
                max_running_ms: fields.whole("max_running_ms", 300_000, 1000..=DAY_MS)?,
                ttl_ms: 1000 * fields.whole("ttl_s", frame.ttl_s, 1..=YEAR_S)?,
                max_request_bytes: fields.whole("max_request_bytes", 524_288, 1..=64 * MIB)?,
                max_response_bytes: fields.whole("max_response_bytes", 524_288, 1..=64 * MIB)?,
                outcomes: fields.nested("outcomes", outcomes)?,
                execution: fields.nested("execution", Execution::read)?,
                save: fields.choice("save")?,
                statuses: fields.read("statuses", Statuses::classic(), statuses)?,
                problem_base: frame.problem_base.clone(),
                expose_cors: fields.flag("expose_cors", false)?,
            })
        })?;
        // A patch that seems to contradict itself may be right once it is merged.
        if !at.is_patch() {
            policy.refuse_contradictions(at, written)?;
        }
        Ok(policy)
    }

    /// In words, line by line; a line with nothing to say is left out.
    pub fn lines(&self) -> Vec<Line> {
        let statuses = &self.statuses;
        let expectation = statuses.shown(ProblemType::ExpectationFailed);
        let serialize = self.serialize.as_ref();
        let cors = if self.expose_cors { "; browsers may read the headers of answers" } else { "" };
        let [lease, running, ttl] = [self.lease_ms, self.max_running_ms, self.ttl_ms].map(time);
        let lines = [
            ("mode", self.mode.to_string()),
            ("key", self.key.words(statuses)),
            ("caller", self.scope.told_by(self.key.required, statuses)),
            ("apart", self.scope.to_string()),
            ("same request", self.fingerprint.words(&self.scope, &self.on_mismatch.words(statuses))),
            ("while it runs", self.on_in_flight.words(statuses)),
            ("one at a time", serialize.map_or(String::new(), |serialize| serialize.words(&self.rule.name, statuses))),
            ("same content", self.similar.map_or(String::new(), |similar| similar.words(statuses))),
            ("once completed", self.on_completed.words(self.max_response_bytes, statuses)),
            ("outcome unknown", self.on_unknown.words(statuses)),
            ("store fails", self.on_store_failure.words(statuses)),
            ("large bodies", self.on_too_large.words(self.max_request_bytes, statuses)),
            (
                "100 Continue",
                format!(
                    "a client that waits for 100 Continue, where Envoy leaves that to the service, is refused: {expectation}"
                ),
            ),
            ("outcomes", self.outcomes.to_string()),
            ("executed by", self.execution.to_string()),
            ("answered", self.save.to_string()),
            (
                "times",
                format!(
                    "a claim stands for {lease} and is renewed while it runs, for at most {running}; a record lives for \
                     {ttl} after its last change"
                ),
            ),
            ("refusals", format!("application/problem+json of type {}<name>{cors}", self.problem_base)),
        ];
        let is_told = |label: &str| match self.mode {
            Mode::Enforce | Mode::Observe => true,
            Mode::Inject => ["mode", "key"].contains(&label),
            Mode::Off => label == "mode",
        };
        lines.into_iter().filter(|(label, said)| is_told(label) && !said.is_empty()).collect()
    }

    /// Under which lock requests run one at a time, where they do: a trial takes none.
    pub fn lock(&self) -> Option<&Serialize> {
        self.serialize.as_ref().filter(|_| self.mode == Mode::Enforce)
    }

    /// What becomes of a request when the store fails: under a lock none passes beside it.
    pub fn on_store_failure(&self) -> OnStoreFailure {
        if self.lock().is_some() { OnStoreFailure::Reject } else { self.on_store_failure }
    }

    /// Whether only the body tells which operation a request is, or which resource it names.
    pub fn is_named_by_body(&self) -> bool {
        let resource = self.lock().map_or(&[][..], |serialize| &serialize.sources);
        self.key.sources.iter().chain(&self.scope.caller).chain(resource).any(Part::is_in_body)
    }

    /// Points at the field that was written here; a rule may contradict what stands in the document's own policy.
    fn refuse_contradictions(&self, at: &Place<'_>, written: &Value) -> Read<()> {
        let only = |name: &str, other: &str| written.get(name).is_some() && written.get(other).is_none();
        let (lease_ms, ttl_s) = (self.lease_ms, self.ttl_ms / 1000);
        if self.ttl_ms <= lease_ms {
            return Err(match only("lease_ms", "ttl_s") {
                true => at.member("lease_ms").error(format_args!("must be less than ttl_s ({ttl_s} s), is {lease_ms}")),
                false => at.member("ttl_s").error(format_args!("must exceed lease_ms ({lease_ms} ms), is {ttl_s}")),
            });
        }
        if self.scope.caller.is_empty() && self.scope.anonymous == Anonymous::Refuse {
            return Err(at
                .member("scope")
                .error("must not have an empty caller with anonymous \"refuse\", which refuses every request"));
        }
        if self.serialize.is_some() && !self.key.required && self.key.inject == Inject::Off {
            return Err(at.member("serialize").error(
                "must not be given unless key.required is true or key.inject makes a key: a request without one would run \
                 beside the lock",
            ));
        }
        self.refuse_keys_that_are_never_issued(&at.member("key").member("issued"))?;
        self.refuse_contradictory_injection(&at.member("key"))
    }

    /// Where only issued keys count, each must be one that the rule can take.
    fn refuse_keys_that_are_never_issued(&self, at: &Place<'_>) -> Read<()> {
        let key = &self.key;
        let why = match key.issued {
            Issued::Any => return Ok(()),
            Issued::Required if self.mode == Mode::Inject => "with mode \"inject\", which looks at no key",
            Issued::Required if !key.fits_issued() => {
                "unless there is one key.sources, with a key.max_bytes that an issued key of 76 bytes fits"
            }
            Issued::Required if key.inject == Inject::Uuid => {
                "where key.inject makes a \"uuid\": the client could not repeat the key that it gets"
            }
            Issued::Required => return Ok(()),
        };
        Err(at.error(format_args!("must not be \"required\" {why}")))
    }

    /// Where the gateway makes the key, every setting must leave it something to make it of.
    fn refuse_contradictory_injection(&self, at: &Place<'_>) -> Read<()> {
        let (key, inject) = (&self.key, at.member("inject"));
        let keeps = self.mode != Mode::Inject;
        match key.inject {
            Inject::Off => Ok(()),
            _ if key.required => Err(at
                .member("required")
                .error("must not be true where key.inject makes the key that a request does not have")),
            Inject::Uuid if keeps && key.sources.len() > 1 => Err(inject.error(
                "must not be \"uuid\" with several key.sources: the client could not repeat the key that it gets",
            )),
            Inject::Content { .. } if !keeps => {
                Err(inject.error("must not be \"content\" with mode \"inject\", which has no store to find it in"))
            }
            Inject::Content { anonymous: true, .. } if self.scope.anonymous != Anonymous::Share => {
                Err(inject.member("anonymous").error(
                    "must be false unless scope.anonymous is \"share\": only there may requests without a caller be \
                     the same one's",
                ))
            }
            Inject::Content { .. } if self.fingerprint.body == BodyPart::Off => Err(inject
                .error("must not be \"content\" with fingerprint.body \"off\": the body is what tells requests apart")),
            Inject::Content { .. } | Inject::Uuid => Ok(()),
        }
    }
}

/// `mode`, for the requests the filter looks at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Decisions are carried out.
    #[default]
    Enforce,
    /// A key is seen to go upstream, and nothing is kept.
    Inject,
    /// Decisions are counted and nothing is changed but `Idempotency-Status`.
    Observe,
    /// The request passes as if no rule had matched.
    Off,
}

impl Choice for Mode {
    const WORDS: &[(&str, Self)] =
        &[("enforce", Mode::Enforce), ("observe", Mode::Observe), ("inject", Mode::Inject), ("off", Mode::Off)];
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            // It goes without saying.
            Mode::Enforce => "",
            Mode::Observe => {
                "observe: what follows is decided and counted, and nothing is changed but Idempotency-Status"
            }
            Mode::Inject => "inject: a key is seen to go upstream, and nothing is kept or replayed",
            Mode::Off => "off: they pass as if no rule had matched",
        })
    }
}

/// `on_store_failure`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnStoreFailure {
    /// Let the request through unprotected and say so.
    Forward,
    /// The answer is `store-unavailable`.
    #[default]
    Reject,
}

impl Choice for OnStoreFailure {
    const WORDS: &[(&str, Self)] = &[("reject", OnStoreFailure::Reject), ("forward", OnStoreFailure::Forward)];
}

impl OnStoreFailure {
    fn read(at: &Place<'_>, value: &Value) -> Read<Self> {
        let decided = at.choice(value, Self::WORDS)?;
        if decided == OnStoreFailure::Forward {
            at.warn("lets requests run twice while the store fails");
        }
        Ok(decided)
    }

    fn words(self, statuses: &Statuses) -> String {
        match self {
            OnStoreFailure::Reject => format!("nothing runs: {}", statuses.shown(ProblemType::StoreUnavailable)),
            OnStoreFailure::Forward => "requests run unprotected, and Idempotency-Status says so".to_owned(),
        }
    }
}

/// `on_too_large`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnTooLarge {
    /// Let the request through unprotected and say so.
    Bypass,
    /// The answer is `body-too-large`.
    #[default]
    Reject,
}

impl Choice for OnTooLarge {
    const WORDS: &[(&str, Self)] = &[("reject", OnTooLarge::Reject), ("bypass", OnTooLarge::Bypass)];
}

impl OnTooLarge {
    fn words(self, max_request_bytes: u64, statuses: &Statuses) -> String {
        let larger = format!("a request body over {}", bytes(max_request_bytes));
        match self {
            OnTooLarge::Reject => format!("{larger} is refused: {}", statuses.shown(ProblemType::BodyTooLarge)),
            OnTooLarge::Bypass => format!("{larger} runs unprotected, and Idempotency-Status says so"),
        }
    }
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

impl Execution {
    fn read(at: &Place<'_>, value: &Value) -> Read<Self> {
        at.object(value, |fields| {
            let kinds = [("inline", Some(false)), ("shielded", Some(true))];
            let kind = fields.read("kind", None, |at, value| at.choice(value, &kinds))?;
            let cluster = fields.read("cluster", None, |at, value| plain(at, value).map(Some))?;
            let timeout_ms = fields.whole("timeout_ms", 30_000, 10..=3_600_000)?;
            match (kind, cluster) {
                // What a patch leaves out, and what stays of the way when a rule goes back to inline, is no mistake.
                (Some(true), Some(cluster)) => Ok(Execution::Shielded { cluster, timeout_ms }),
                (Some(true), None) if !at.is_patch() => Err(at.error("must have cluster")),
                (None, Some(_)) if !at.is_patch() => Err(at.error("must have kind")),
                _ => Ok(Execution::Inline),
            }
        })
    }
}

impl fmt::Display for Execution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Execution::Inline => f.write_str("the client's own stream: if it hangs up, the outcome is unknown"),
            Execution::Shielded { cluster, timeout_ms } => write!(
                f,
                "the gateway itself, through cluster {cluster}, within {}: it ends though the client has hung up",
                time(*timeout_ms)
            ),
        }
    }
}

/// `save`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Save {
    /// At once; a crash right then forgets a success that the client saw.
    AfterReply,
    /// When the store has it.
    #[default]
    BeforeReply,
}

impl Choice for Save {
    const WORDS: &[(&str, Self)] = &[("before_reply", Save::BeforeReply), ("after_reply", Save::AfterReply)];
}

impl fmt::Display for Save {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Save::BeforeReply => "when the store has the response",
            Save::AfterReply => "at once; a crash right then forgets a success that the client saw",
        })
    }
}
