//! What is counted, and under which names.
//!
//! Its one rule: a counter's name is made once, when the configuration is read; on a request's path it is a number.
//! It does not know when something is counted, nor what keeps the numbers.
//!
//! A name carries its labels in pairs, `requests_total.rule.<rule>.outcome.<outcome>`, which the `stats_tags` of the
//! shipped files take apart. How many names there are hangs on the number of rules and on nothing that a client sends.

use crate::command::Failure;
use crate::refusal::ProblemType;
use crate::reply::Reason;

/// One thing to count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Count {
    /// Requests that went upstream unprotected, by reason.
    Bypassed(Bypass),
    /// Executions that have ended, of requests that went upstream under a claim.
    Executed,
    /// Turns that another began before they were over, because the lease of the lock had ended.
    LockLost,
    /// Requests that have waited for the lock of their resource.
    LockWaited,
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
    /// Requests that run though their caller has sent the same content under another key.
    Similar,
    /// Executions whose outcome was stored.
    Stored,
    /// Requests that run inline because what is in them cannot be sent by the gateway itself.
    Unshielded,
    /// Requests under a claim of which nothing reached a service, by Envoy's word.
    Unsent,
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

impl Bypass {
    const ALL: [Bypass; 9] = [
        Bypass::Connect,
        Bypass::Grpc,
        Bypass::Upgrade,
        Bypass::Said(Reason::Injected),
        Bypass::Said(Reason::KeyUnreadable),
        Bypass::Said(Reason::NoCaller),
        Bypass::Said(Reason::NoKey),
        Bypass::Said(Reason::StoreFailure),
        Bypass::Said(Reason::TooLarge),
    ];

    fn as_str(self) -> &'static str {
        match self {
            Bypass::Connect => "connect",
            Bypass::Grpc => "grpc",
            Bypass::Said(reason) => reason.as_str(),
            Bypass::Upgrade => "upgrade",
        }
    }
}

/// What every rule counts, but for refusals and what is let through unprotected; the most frequent first.
const OF_A_RULE: [Count; 16] = [
    Count::Executed,
    Count::Stored,
    Count::Replayed,
    Count::ReplayedCached,
    Count::Released,
    Count::Retryable,
    Count::LockLost,
    Count::LockWaited,
    Count::OutcomeUnread,
    Count::SecondHop,
    Count::Similar,
    Count::Takeover,
    Count::TtlCapped,
    Count::Unknown,
    Count::Unsent,
    Count::Unshielded,
];

impl Count {
    /// Everything that is counted for one rule.
    pub fn of_a_rule() -> Vec<Count> {
        let bypassed = Bypass::ALL.into_iter().map(Count::Bypassed);
        let refused = ProblemType::ALL.into_iter().map(Count::Refused);
        OF_A_RULE.into_iter().chain(bypassed).chain(refused).collect()
    }

    /// Everything that is counted for all rules together.
    pub fn of_the_store() -> Vec<Count> {
        let failures = Failure::all().into_iter().map(Count::StoreFailed);
        [Count::StoreCall, Count::StoreOperation].into_iter().chain(failures).collect()
    }

    /// Whether it is counted for all rules together.
    pub fn is_of_the_store(self) -> bool {
        matches!(self, Count::StoreCall | Count::StoreFailed(_) | Count::StoreOperation)
    }

    /// The names of the counters that it raises: one, and for what ends a request the sum of all requests as well. Those
    /// of a trial (`mode: observe`) are told apart.
    pub fn metrics(self, rule: &str, observed: bool) -> Vec<String> {
        let trial = if observed { "observed_" } else { "" };
        let of_rule = |family: &str| format!("idempotency.{trial}{family}_total.rule.{rule}");
        let request = |outcome: &str| format!("{}.outcome.{outcome}", of_rule("requests"));
        match self {
            Count::Bypassed(why) => {
                vec![request("bypassed"), format!("{}.reason.{}", of_rule("bypassed"), why.as_str())]
            }
            Count::Executed => vec![request("executed")],
            Count::LockLost => vec![of_rule("lock_lost")],
            Count::LockWaited => vec![of_rule("lock_waits")],
            Count::OutcomeUnread => vec![of_rule("outcome_unread")],
            Count::Refused(problem) => {
                vec![request("refused"), format!("{}.reason.{}", of_rule("refused"), problem.as_str())]
            }
            Count::Released => vec![of_rule("released")],
            Count::Replayed => vec![request("replayed")],
            Count::ReplayedCached => vec![of_rule("replayed_cached")],
            Count::Retryable => vec![of_rule("retryable")],
            Count::StoreFailed(failure) => {
                vec![format!("idempotency.{trial}store_failures_total.reason.{}", failure.as_str())]
            }
            Count::StoreCall => vec![format!("idempotency_{trial}store_calls_total")],
            Count::StoreOperation => vec![format!("idempotency_{trial}store_operations_total")],
            Count::SecondHop => vec![of_rule("second_hop")],
            Count::Similar => vec![of_rule("similar")],
            Count::Stored => vec![of_rule("stored")],
            Count::Takeover => vec![of_rule("takeover")],
            Count::TtlCapped => vec![of_rule("ttl_capped")],
            Count::Unknown => vec![of_rule("unknown")],
            Count::Unsent => vec![request("unsent")],
            Count::Unshielded => vec![of_rule("unshielded")],
        }
    }
}
