//! Everything the machine can ask for.
//!
//! Its one rule: a step is a value; what carries it out decides nothing.
//! It does not know how a step is carried out.

use std::fmt;
use std::rc::Rc;

use crate::command::{Command, Failure, GivenUp, Resolution, WhyGivenUp};
use crate::count::Count;
use crate::key::Name;
use crate::message::{HeaderMutation, Headers};
use crate::reply::Reply;

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

/// Something an operator may want to read of. Never holds a key, a body or a record.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum LogEvent {
    /// The response cannot be replayed: it is too large or too slow, or there was no room for it.
    BodyDropped(Name),
    /// An attempt whose outcome was unknown, its own or an earlier one's, has come to a known end.
    DoubtSettled {
        /// The operation.
        name: Name,
        /// The attempt that has ended.
        attempt: u32,
        /// How, in the word of `Idempotency-Status`.
        ended: &'static str,
    },
    /// The worker gave up a part of what the store must still hear of.
    GaveUp(GivenUp),
    /// An internal redirect took the request away.
    InternalRedirect(Name),
    /// The lease ended before the upstream did, and another owner took the name.
    LeaseLost(Name),
    /// The lease of a lock ended while a request ran under it, and another has taken it.
    LockLost(Name),
    /// No request of this rule has shown a caller so far.
    NoCaller {
        /// The rule.
        rule: String,
        /// Whether the client of the last one had a certificate.
        certificate: bool,
    },
    /// The host did not take a request of the gateway's own to this cluster.
    NoWay(Name, String),
    /// The execution runs longer than it is renewed.
    RanTooLong(Name),
    /// A request of the gateway's own, to this cluster, met this filter again.
    Reentered(Name, String),
    /// An operator has said what became of an operation.
    Resolved(Name, Resolution),
    /// A request was claimed in the same store by the hop before.
    SecondHop(Name),
    /// The store answers again, so long after it began to fail.
    StoreAnswers {
        /// In milliseconds.
        after_ms: u64,
    },
    /// Something failed that the store was asked for.
    StoreFailed {
        /// Why.
        failure: Failure,
        /// For which operation, where that was known already.
        name: Option<Name>,
    },
    /// A claim was granted over an attempt whose outcome is unknown.
    Takeover(Name, u32),
    /// The outcome of an attempt is unknown.
    Unknown(Name, u32),
}

impl LogEvent {
    /// Whether every request would say the same.
    pub fn is_repeated(&self) -> bool {
        matches!(
            self,
            LogEvent::NoWay(..) | LogEvent::Reentered(..) | LogEvent::SecondHop(_) | LogEvent::StoreFailed { .. }
        )
    }

    /// Whether an operator should look at it.
    pub fn is_warning(&self) -> bool {
        !matches!(
            self,
            LogEvent::BodyDropped(..)
                | LogEvent::DoubtSettled { .. }
                | LogEvent::Resolved(..)
                | LogEvent::StoreAnswers { .. }
                | LogEvent::Takeover(..)
                | LogEvent::Unknown(..)
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
            LogEvent::DoubtSettled { name, attempt, ended } => write!(
                f,
                "operation {}: its outcome was unknown and is settled: attempt {attempt} is {ended}",
                name.short()
            ),
            LogEvent::GaveUp(given_up) => gave_up(f, given_up),
            LogEvent::InternalRedirect(name) => write!(
                f,
                "operation {} met an internal redirect, which this filter does not support: its outcome is unknown; \
                 take the redirect off the route or the route out of the rules",
                name.short()
            ),
            LogEvent::LockLost(name) => write!(
                f,
                "operation {} ran longer than the lease of its resource's lock, and another has taken that: only \
                 Idempotency-Fence tells the service which of the two came first",
                name.short()
            ),
            LogEvent::LeaseLost(name) => {
                write!(f, "operation {} lost its lease while it ran: another attempt may run beside it", name.short())
            }
            LogEvent::NoCaller { rule, certificate } => no_caller(f, rule, *certificate),
            LogEvent::NoWay(name, cluster) => write!(
                f,
                "operation {} cannot be executed through the cluster {cluster:?} of `execution`: it does not exist, or has no \
                 host",
                name.short()
            ),
            LogEvent::RanTooLong(name) => write!(
                f,
                "operation {} runs longer than max_running_ms: its outcome counts as unknown until it answers",
                name.short()
            ),
            LogEvent::Reentered(name, cluster) => write!(
                f,
                "operation {} was refused on its way to execution: the internal listener behind the cluster {cluster:?} of \
                 `execution` runs this filter too: take the filter off that listener",
                name.short()
            ),
            LogEvent::Resolved(name, said) => match said {
                Resolution::Forget => write!(f, "an operator has operation {} forgotten", name.short()),
                Resolution::NotRun { .. } => write!(f, "an operator says that operation {} did not run", name.short()),
                Resolution::Ran { .. } => write!(f, "an operator says that operation {} ran", name.short()),
            },
            LogEvent::SecondHop(name) => write!(
                f,
                "operation {} has come through another hop that has claimed it in this very store, so it never runs: give \
                 the two a store.prefix (Redis), or a plugin name (embedded), of their own",
                name.short()
            ),
            LogEvent::StoreAnswers { after_ms } => {
                write!(f, "the store answers again, {} s after it began to fail", after_ms.div_ceil(1000))
            }
            LogEvent::StoreFailed { failure, name } => store_failed(f, *failure, name.as_ref()),
            LogEvent::Takeover(name, attempt) => {
                write!(f, "operation {} runs as attempt {attempt} after one whose outcome is unknown", name.short())
            }
            LogEvent::Unknown(name, attempt) => {
                write!(f, "operation {}: the outcome of attempt {attempt} is unknown", name.short())
            }
        }
    }
}

/// Which rule protects nothing, and what may be wrong with it.
fn no_caller(f: &mut fmt::Formatter<'_>, rule: &str, certificate: bool) -> fmt::Result {
    write!(
        f,
        "no request of rule {rule:?} has shown a caller so far, so none was protected: scope.caller reads what a filter in \
         front has removed, or what no client sends; `make check-config` finds which"
    )?;
    if !certificate {
        return Ok(());
    }
    f.write_str(
        "; its clients have certificates, which {\"property\": [\"connection\", \"uri_san_peer_certificate\"]} reads",
    )
}

/// What failed, and for which operation.
fn store_failed(f: &mut fmt::Formatter<'_>, failure: Failure, name: Option<&Name>) -> fmt::Result {
    let of = name.map_or_else(|| "a request".to_owned(), |name| format!("operation {}", name.short()));
    match failure {
        Failure::MissingFlag => write!(
            f,
            "Envoy has not shown the body of {of}, which is held back: unless it is only slow, set \
             allow_on_headers_stop_iteration: true in this filter's PluginConfig (Envoy 1.35 or later)"
        ),
        Failure::Overloaded => write!(f, "{of} found a worker that holds too many bytes of bodies already"),
        failure if failure.is_unreadable() => {
            write!(f, "{of}: what is stored for it cannot be read ({}), so it is refused", failure.as_str())
        }
        failure => write!(f, "the store has begun to fail: {} for {of}", failure.as_str()),
    }
}

/// What was given up, and why.
fn gave_up(f: &mut fmt::Formatter<'_>, given_up: &GivenUp) -> fmt::Result {
    let GivenUp { why, completions, responses, others, name } = given_up;
    let why = match why {
        WhyGivenUp::Drained => "their configuration was replaced, and no other takes them to their store",
        WhyGivenUp::Expired => "their records must have expired",
        WhyGivenUp::NoRoom => "more is owed than may be kept",
        WhyGivenUp::TooSlow => "with them a call takes longer than store.timeout_ms",
    };
    write!(
        f,
        "gave up {completions} completions, {responses} responses and {others} other operations that the store has not heard \
         of, among them of operation {}: {why}",
        name.short()
    )
}
