//! What clients sent and were told, what the ledger says, and when faults may excuse something.
//!
//! One rule: these are observations from outside, all on one clock; nothing here was asked of a gateway.
//! It does not know what is right.

use std::collections::HashSet;

use harness::Response;

/// What separates two uses of one key, and the key: the rule's path, the caller, the key itself.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name {
    /// The rule.
    pub kind: Kind,
    /// Who asks.
    pub tenant: String,
    /// The client's key.
    pub key: String,
}

/// The rule of the configuration that an operation falls under.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// `on_unknown: hold`.
    Hold,
    /// The defaults, and a service on HTTP/2.
    Http2,
    /// `serialize`: those about one resource run one at a time.
    Locked,
    /// None: these pass by.
    Plain,
    /// The defaults.
    Retry,
    /// `execution: shielded`.
    Shielded,
    /// The defaults, and a service behind a Unix domain socket.
    Socket,
    /// `on_in_flight: wait`.
    Wait,
}

impl Kind {
    /// All that are protected.
    pub const PROTECTED: [Kind; 7] =
        [Kind::Hold, Kind::Http2, Kind::Locked, Kind::Retry, Kind::Shielded, Kind::Socket, Kind::Wait];

    /// The path of its requests.
    pub fn path(self) -> &'static str {
        match self {
            Kind::Hold => "/hold/pay",
            Kind::Http2 => "/h2/pay",
            Kind::Locked => "/locked/pay",
            Kind::Plain => "/plain",
            Kind::Retry => "/retry/pay",
            Kind::Shielded => "/shielded/pay",
            Kind::Socket => "/socket/pay",
            Kind::Wait => "/wait/pay",
        }
    }
}

/// One request of a client.
#[derive(Debug, Clone)]
pub struct Asked {
    /// Of this request alone; the service gets to see it.
    pub id: u64,
    /// Which operation.
    pub name: Name,
    /// SHA-256 of the body, in hex.
    pub payload: String,
    /// Which gateway was asked.
    pub gateway: usize,
    /// Before its first byte left.
    pub sent_us: u64,
    /// When the answer was whole, or it was clear that there is none.
    pub done_us: u64,
    /// How it ended.
    pub end: End,
}

/// How a request ended.
#[derive(Debug, Clone)]
pub enum End {
    /// With a whole answer.
    Answer(Answer),
    /// Without one, though the client waited.
    Broken(String),
    /// Without one, because the client hung up.
    HungUp,
}

/// What a client was told.
#[derive(Debug, Clone, Default)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// `Idempotency-Status`, where there was one.
    pub line: String,
    /// `x-execution`: the number that the ledger gave to the execution this answer comes from.
    pub execution: Option<u64>,
    /// `location`.
    pub location: String,
    /// Whether it says `Idempotent-Replayed: true`.
    pub is_marked: bool,
    /// The body.
    pub body: Vec<u8>,
}

impl Answer {
    /// What a response says of all this.
    pub fn of(response: Response) -> Answer {
        let text = |name: &str| response.header(name).unwrap_or_default().to_owned();
        Answer {
            status: response.status,
            line: text("idempotency-status"),
            execution: response.header("x-execution").and_then(|n| n.parse().ok()),
            location: text("location"),
            is_marked: response.header("idempotent-replayed") == Some("true"),
            body: response.body,
        }
    }

    /// The token of its line: `executed`, `replayed`, `refused`, `bypassed`, or nothing.
    pub fn token(&self) -> &str {
        self.line.split(';').next().unwrap_or_default()
    }

    /// A parameter of its line.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.line.split(';').skip(1).find_map(|part| part.strip_prefix(name)?.strip_prefix('='))
    }

    /// Why the gateway refused, where it did.
    pub fn refusal(&self) -> Option<&str> {
        self.parameter("reason").filter(|_| self.token() == "refused")
    }

    /// The number of the execution that this answer says is stored: a replay's, or its own.
    pub fn stored(&self) -> Option<u64> {
        let is_stored = self.token() == "replayed" || self.parameter("stored") == Some("?1");
        self.execution.filter(|_| is_stored)
    }
}

/// One line of the ledger.
#[derive(Debug, Clone)]
pub struct Execution {
    /// Its number, from 1.
    pub n: u64,
    /// [`Asked::id`] of the request that led to it.
    pub request: u64,
    /// The path it came to.
    pub path: String,
    /// Who asked.
    pub tenant: String,
    /// `Idempotency-Key`.
    pub key: String,
    /// SHA-256 of the body, in hex.
    pub payload: String,
    /// `Idempotency-Attempt`; 0 when there was none.
    pub attempt: u64,
    /// `Idempotency-Operation`.
    pub operation: String,
    /// What it changes, where only one may do so at a time.
    pub resource: String,
    /// `Idempotency-Fence`; 0 when there was none.
    pub fence: u64,
    /// When it was entered.
    pub at_us: u64,
    /// When its change of the resource was written, or refused for a larger fence.
    pub ended_us: Option<u64>,
    /// The status it was answered with.
    pub status: u16,
    /// How long the body of the answer is.
    pub body_len: usize,
    /// How much of the answer went out.
    pub sent: Sent,
}

/// How much of an answer the service sends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Sent {
    /// All.
    #[default]
    Whole,
    /// The head and half of the body.
    Head,
    /// Nothing.
    Nothing,
}

/// From one moment to another.
#[derive(Debug, Clone, Copy)]
pub struct Span {
    /// The first moment.
    pub from_us: u64,
    /// The last.
    pub to_us: u64,
}

impl Span {
    /// Whether the two have a moment in common.
    pub fn meets(self, other: Span) -> bool {
        self.from_us <= other.to_us && other.from_us <= self.to_us
    }

    /// How much time the two have in common.
    pub fn shared_us(self, other: Span) -> u64 {
        self.to_us.min(other.to_us).saturating_sub(self.from_us.max(other.from_us))
    }
}

/// A loss of what the store had acknowledged.
#[derive(Debug, Clone)]
pub struct Loss {
    /// When it happened.
    pub span: Span,
    /// What was lost.
    pub lost: Lost,
}

/// How much a loss takes.
#[derive(Debug, Clone)]
pub enum Lost {
    /// All records.
    Everything,
    /// What was written after this moment.
    Since(u64),
    /// The records of these operations.
    Operations(HashSet<String>),
}

/// When faults may excuse something.
#[derive(Debug, Clone, Default)]
pub struct Excuses {
    /// Records went missing.
    pub losses: Vec<Loss>,
    /// The store's clock jumped.
    pub jumps: Vec<Span>,
    /// This whole machine stood still, as a thread that only sleeps has seen.
    pub pauses: Vec<Span>,
    /// Connections of clients may have ended without an answer.
    pub breaks: Vec<Span>,
    /// The service, or the network before it, was not well, or a gateway stood still.
    pub troubles: Vec<Span>,
    /// A gateway, or its VM, ended with all that it knew.
    pub forgets: Vec<Span>,
    /// Requests may have been long on their way from a gateway to the service.
    pub stalls: Vec<Span>,
}

/// Everything that was observed in one world.
#[derive(Debug, Clone, Default)]
pub struct History {
    /// All requests.
    pub asked: Vec<Asked>,
    /// The ledger.
    pub executions: Vec<Execution>,
    /// The faults.
    pub excuses: Excuses,
    /// Every request is answered within this time.
    pub bound_us: u64,
    /// How long a claim stands without renewal.
    pub lease_us: u64,
}
