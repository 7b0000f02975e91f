//! Everything the machine can ask for.
//!
//! Its one rule: a step is a value; what carries it out decides nothing.
//! It does not know how a step is carried out.

use std::fmt;
use std::rc::Rc;

use crate::command::{Command, Failure, GivenUp, Resolution, WhyGivenUp};
use crate::key::Name;
use crate::message::{HeaderMutation, Headers};
use crate::refusal::ProblemType;
use crate::reply::{Reason, Reply};

/// What the shell must do next, in the order of the fields.
#[must_use]
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// What becomes of the message in hand.
    pub flow: Flow,
    /// What to ask of the store.
    pub commands: Vec<Command>,
    /// What to look for in the table of the embedded store.
    pub search: Option<Search>,
    /// What to send upstream in the client's place.
    pub execute: Option<Box<Outgoing>>,
    /// When to feed `Event::Tick` next; none leaves it as it was.
    pub wake_ms: Option<u64>,
    /// What to count.
    pub counts: Vec<Count>,
    /// The text of `Idempotency-Status` for the access log, once it is known.
    pub status: Option<String>,
    /// Whether the request showed who is asking, once that was read.
    pub caller: Option<SeenCaller>,
    /// What to log.
    pub log_event: Option<LogEvent>,
    /// Whether all of this is only a trial (`mode: observe`).
    pub observed: bool,
}

/// A step of a search for the operations whose names begin so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Search {
    /// How they begin.
    pub digits: [u8; 6],
    /// The bucket from which on to look.
    pub from: u32,
}

/// Whether a request showed who is asking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SeenCaller {
    /// Nothing that the scope looks at.
    None {
        /// Though its client has a certificate.
        certificate: bool,
    },
    /// A caller, or none where all without one share a scope.
    Some,
}

/// What becomes of the message in hand.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Flow {
    /// Send this instead of what the upstream would say, or has said.
    LocalReply(Rc<Reply>),
    /// Keep it until a later step lets it go.
    Hold,
    /// Leave it as it is: go on if it is going, stay if it is held.
    #[default]
    Pass,
    /// Put these bytes in the place of the piece of its body in hand, and let it go.
    Replace(Vec<u8>),
    /// Put these fields in the place of all that its head has, and let it go.
    Restore(Headers),
    /// Change its head so, and let it go.
    Resume(Vec<HeaderMutation>),
}

/// A request that the gateway itself sends upstream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outgoing {
    /// The Envoy cluster that leads there.
    pub cluster: String,
    /// How long the upstream may take.
    pub timeout_ms: u64,
    /// Every field, all of them UTF-8, the pseudo-headers first.
    pub headers: Headers,
    /// The whole body.
    pub body: Vec<u8>,
}

/// One counter to raise by one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Count {
    /// Requests that went upstream unprotected, by reason.
    Bypassed(Bypass),
    /// Executions that have ended, of requests that went upstream under a claim.
    Executed,
    /// Responses whose body was to say what becomes of the key, and could not be read.
    OutcomeUnread,
    /// Answers of the gateway itself.
    Refused(ProblemType),
    /// Executions whose key was released.
    Released,
    /// Requests answered from the store.
    Replayed,
    /// Of those, the ones answered from what this Envoy remembers, without a call to the store.
    ReplayedCached,
    /// Executions after which the same payload may run again.
    Retryable,
    /// Failures of the store, by reason.
    StoreFailed(Failure),
    /// Calls to the store; each carries one operation or more.
    StoreCall,
    /// Operations asked of the store.
    StoreOperation,
    /// Requests that another hop has claimed in the same store.
    SecondHop,
    /// Executions whose outcome was stored.
    Stored,
    /// Requests that run inline because what is in them cannot be sent by the gateway itself.
    Unshielded,
    /// Claims granted over an attempt whose outcome is unknown.
    Takeover,
    /// Executions whose upstream asked for a longer life of the record than it can have.
    TtlCapped,
    /// Executions whose outcome is unknown.
    Unknown,
}

/// Why a request was let through unprotected, as counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Bypass {
    /// A tunnel.
    Connect,
    /// A gRPC call.
    Grpc,
    /// Said in the status line.
    Said(Reason),
    /// A protocol upgrade.
    Upgrade,
}

impl Count {
    /// Every counter there is.
    pub fn all() -> Vec<Count> {
        let reasons = [
            Reason::Injected,
            Reason::KeyUnreadable,
            Reason::NoCaller,
            Reason::NoKey,
            Reason::StoreFailure,
            Reason::TooLarge,
        ];
        let bypasses = [Bypass::Connect, Bypass::Grpc, Bypass::Upgrade];
        let plain = [
            Count::Executed,
            Count::OutcomeUnread,
            Count::Released,
            Count::Replayed,
            Count::ReplayedCached,
            Count::Retryable,
            Count::StoreCall,
            Count::SecondHop,
            Count::StoreOperation,
            Count::Stored,
            Count::Takeover,
            Count::TtlCapped,
            Count::Unknown,
            Count::Unshielded,
        ];
        let bypassed = reasons.into_iter().map(Bypass::Said).chain(bypasses).map(Count::Bypassed);
        let by_slug = ProblemType::ALL.into_iter().map(Count::Refused);
        let by_failure = Failure::all().into_iter().map(Count::StoreFailed);
        plain.into_iter().chain(bypassed).chain(by_slug).chain(by_failure).collect()
    }

    /// The metric's name; those of a trial (`mode: observe`) are told apart.
    pub fn metric(self, observed: bool) -> String {
        let what = match self {
            Count::Bypassed(Bypass::Connect) => "bypassed_connect".to_owned(),
            Count::Bypassed(Bypass::Grpc) => "bypassed_grpc".to_owned(),
            Count::Bypassed(Bypass::Said(reason)) => format!("bypassed_{}", reason.as_str().replace('-', "_")),
            Count::Bypassed(Bypass::Upgrade) => "bypassed_upgrade".to_owned(),
            Count::Executed => "executed".to_owned(),
            Count::OutcomeUnread => "outcome_unread".to_owned(),
            Count::Refused(slug) => format!("refused_{}", slug.as_str().replace('-', "_")),
            Count::Released => "released".to_owned(),
            Count::Replayed => "replayed".to_owned(),
            Count::ReplayedCached => "replayed_cached".to_owned(),
            Count::Retryable => "retryable".to_owned(),
            Count::StoreFailed(failure) => format!("store_failures_{}", failure.as_str()),
            Count::StoreCall => "store_calls".to_owned(),
            Count::StoreOperation => "store_operations".to_owned(),
            Count::SecondHop => "second_hop".to_owned(),
            Count::Stored => "stored".to_owned(),
            Count::Takeover => "takeover".to_owned(),
            Count::TtlCapped => "ttl_capped".to_owned(),
            Count::Unknown => "unknown".to_owned(),
            Count::Unshielded => "unshielded".to_owned(),
        };
        let prefix = if observed { "idempotency_observed" } else { "idempotency" };
        format!("{prefix}_{what}_total")
    }
}

/// Something an operator may want to read of. Never holds a key, a body or a record.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum LogEvent {
    /// The response cannot be replayed: it is too large or too slow, or there was no room for it.
    BodyDropped(Name),
    /// The worker gave up a part of what the store must still hear of.
    GaveUp(GivenUp),
    /// An internal redirect took the request away.
    InternalRedirect(Name),
    /// The lease ended before the upstream did, and another owner took the name.
    LeaseLost(Name),
    /// No request of this rule has shown a caller so far.
    NoCaller {
        /// The rule.
        rule: String,
        /// Whether the client of the last one had a certificate.
        certificate: bool,
    },
    /// The host did not take a request of the gateway's own to this cluster.
    NoWay(String),
    /// The execution runs longer than it is renewed.
    RanTooLong(Name),
    /// A request of the gateway's own met this filter again.
    Reentered(String),
    /// An operator has said what became of an operation.
    Resolved(Name, Resolution),
    /// A request was claimed in the same store by the hop before.
    SecondHop(Name),
    /// The store failed.
    StoreFailed(Failure),
    /// A claim was granted over an attempt whose outcome is unknown.
    Takeover(Name, u32),
    /// The outcome of an attempt is unknown.
    Unknown(Name, u32),
}

impl LogEvent {
    /// Whether every request would say the same.
    pub fn is_repeated(&self) -> bool {
        matches!(self, LogEvent::NoWay(_) | LogEvent::Reentered(_) | LogEvent::SecondHop(_) | LogEvent::StoreFailed(_))
    }

    /// Whether an operator should look at it.
    pub fn is_warning(&self) -> bool {
        !matches!(
            self,
            LogEvent::Resolved(..) | LogEvent::Takeover(..) | LogEvent::Unknown(..) | LogEvent::BodyDropped(..)
        )
    }
}

impl fmt::Display for LogEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LogEvent::BodyDropped(name) => {
                write!(
                    f,
                    "operation {} completed, its response cannot be replayed: it is too large or too slow, or there was no room for it",
                    name.short()
                )
            }
            LogEvent::GaveUp(given_up) => gave_up(f, given_up),
            LogEvent::InternalRedirect(name) => write!(
                f,
                "operation {} met an internal redirect, which this filter does not support: its outcome is unknown; \
                 take the redirect off the route or the route out of the rules",
                name.short()
            ),
            LogEvent::LeaseLost(name) => {
                write!(f, "operation {} lost its lease while it ran: another attempt may run beside it", name.short())
            }
            LogEvent::NoCaller { rule, certificate } => {
                write!(
                    f,
                    "no request of rule {rule:?} has shown a caller so far, so none was protected: scope.caller reads what a \
                     filter in front has removed, or what no client sends; `make check-config` finds which"
                )?;
                if *certificate {
                    f.write_str(
                        "; its clients have certificates, which {\"property\": [\"connection\", \
                         \"uri_san_peer_certificate\"]} reads",
                    )?;
                }
                Ok(())
            }
            LogEvent::NoWay(cluster) => write!(
                f,
                "nothing can be executed through the cluster {cluster:?} of `execution`: it does not exist, or has no host"
            ),
            LogEvent::RanTooLong(name) => write!(
                f,
                "operation {} runs longer than max_running_ms: its outcome counts as unknown until it answers",
                name.short()
            ),
            LogEvent::Reentered(cluster) => write!(
                f,
                "the internal listener behind the cluster {cluster:?} of `execution` runs this filter too, which refuses what \
                 is to be executed: take the filter off that listener"
            ),
            LogEvent::Resolved(name, said) => match said {
                Resolution::Forget => write!(f, "an operator has operation {} forgotten", name.short()),
                Resolution::NotRun => write!(f, "an operator says that operation {} did not run", name.short()),
                Resolution::Ran { .. } => write!(f, "an operator says that operation {} ran", name.short()),
            },
            LogEvent::SecondHop(name) => write!(
                f,
                "operation {} has come through another hop that has claimed it in this very store, so it never runs: give \
                 the two a store.prefix (Redis), or a plugin name (embedded), of their own",
                name.short()
            ),
            LogEvent::StoreFailed(Failure::MissingFlag) => f.write_str(
                "Envoy has not shown the body of a message that is held back: unless it is only slow, set \
                 allow_on_headers_stop_iteration: true in this filter's PluginConfig (Envoy 1.35 or later)",
            ),
            LogEvent::StoreFailed(failure) => write!(f, "the store failed: {}", failure.as_str()),
            LogEvent::Takeover(name, attempt) => {
                write!(f, "operation {} runs as attempt {attempt} after one whose outcome is unknown", name.short())
            }
            LogEvent::Unknown(name, attempt) => {
                write!(f, "operation {}: the outcome of attempt {attempt} is unknown", name.short())
            }
        }
    }
}

/// What was given up, and why.
fn gave_up(f: &mut fmt::Formatter<'_>, given_up: &GivenUp) -> fmt::Result {
    let GivenUp { why, completions, responses, others } = given_up;
    let why = match why {
        WhyGivenUp::Drained => "their configuration was replaced, and no other takes them to their store",
        WhyGivenUp::Expired => "their records must have expired",
        WhyGivenUp::NoRoom => "more is owed than may be kept",
        WhyGivenUp::TooSlow => "with them a call takes longer than store.timeout_ms",
    };
    write!(
        f,
        "gave up {completions} completions, {responses} responses and {others} other operations that the store has not heard \
         of: {why}"
    )
}
