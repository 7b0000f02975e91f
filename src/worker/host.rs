//! What a worker has its host do: a clock, randomness, and acts.
//!
//! Its one rule: an act is done when it is called, and calls no method of the worker; the host's own callbacks come later.
//! It does not know why anything is done.

use crate::command::Failure;
use crate::count::Count;
use crate::step::{Flow, LogEvent, Outgoing};
use crate::store::client::{Batch, Lane};

/// The host of one worker.
///
/// Envoy lets a message go, or answers in its place, only after the callback in which the worker has said so has
/// returned. The callbacks that follow from it, of this stream and of others, find the worker at rest.
pub trait Host {
    /// Milliseconds of a clock that never goes back.
    fn now_ms(&self) -> u64;
    /// Fresh random bytes.
    fn draw(&mut self) -> [u8; 16];

    /// Makes the acts that follow be about this stream; tells whether the stream is still there. Called in the root's
    /// turn: in a callback of a stream they are about that stream.
    fn enter(&mut self, stream: u32) -> bool;
    /// Changes the head of the stream's message, or answers in its place. A message in hand is held and let go by what
    /// the callback returns.
    fn apply_flow(&mut self, side: Side, flow: Flow);
    /// Lets the stream's held message go.
    fn resume(&mut self, side: Side);
    /// Notes the text of `Idempotency-Status` for the access log of the stream.
    fn set_status(&mut self, text: &str);
    /// How many bytes of the stream's request have come.
    fn request_size(&mut self) -> u64;

    /// Sends a request of the gateway's own, for this exchange, whose stream may have ended. Gives the token under which
    /// its answer comes; none where the host does not take it.
    fn execute(&mut self, exchange: u32, outgoing: Outgoing) -> Option<u32>;
    /// How many calls to the store may be sent on this lane in this turn.
    fn room(&self, lane: Lane, turn: Turn) -> usize;
    /// Sends calls to the store; tells which of them the host does not take, and why, with any earlier ones that end on
    /// the way there. The reply to any other comes under the batch's number. The acts that follow are about no stream
    /// until the next one is entered.
    fn send(&mut self, batches: Vec<Batch>) -> Vec<(u64, Failure)>;
    /// Has the root called once the callback under way is over.
    fn wake(&mut self);
    /// Takes away the wake-up that has come.
    fn clear(&mut self);

    /// Counts one more of this under the rule of this number, unless it is of the store; of a trial (`mode: observe`) or
    /// not.
    fn count(&mut self, count: Count, rule: usize, observed: bool);
    /// Changes a gauge that all workers share.
    fn change_gauge(&mut self, gauge: Gauge, by: i64);
    /// Notes how long a duplicate has waited for another's attempt to end.
    fn note_wait(&mut self, waited_ms: u64);
    /// Sets the gauges of the embedded store's size.
    fn set_store_size(&mut self, bytes: u64, records: u64);
    /// Notes for all workers since when this one owes the store the oldest of what it owes.
    fn note_owed_since(&mut self, since_ms: Option<u64>, now_ms: u64);
    /// Writes a log line.
    fn log(&mut self, log_event: &LogEvent);
    /// Notes for all workers that the store has failed; tells whether it had not before.
    fn note_store_failed(&mut self, now_ms: u64) -> bool;
    /// Notes for all workers that the store answers again, unless one of them has seen it fail of late; tells since when
    /// it had failed, where none of them has noted that yet.
    fn note_store_answers(&mut self, now_ms: u64) -> Option<u64>;
    /// Notes for all workers that a request of this rule has shown a caller.
    fn note_caller(&mut self, rule: &str);
    /// Notes for all workers that a request of this rule has shown no caller; tells whether none of them has said so of
    /// late, nor seen a caller.
    fn note_no_caller(&mut self, rule: &str, now_ms: u64) -> bool;
}

/// In whose callback an act is carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// In one of the stream that it is about.
    Stream,
    /// In one of the root's.
    Root,
}

/// Which message of a stream is in hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Until a response has begun.
    Request,
    /// From then on.
    Response,
}

/// Whether the message in hand goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// It goes on.
    Continue,
    /// It is held, or another goes in its place.
    Pause,
}

/// A gauge that all workers share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Gauge {
    /// Executions under way.
    Running,
    /// Duplicates that wait.
    Waiting,
    /// What the store must still hear of.
    Outbox,
    /// Plugins that are to go and still have something under way or owed.
    Draining,
    /// Workers whose breaker towards the store is open, or waits for its probe.
    BreakerOpen,
}

impl Gauge {
    /// All of them.
    pub const ALL: [Gauge; 5] = [Gauge::Running, Gauge::Waiting, Gauge::Outbox, Gauge::Draining, Gauge::BreakerOpen];

    /// The name that it is shown under.
    pub fn metric(self) -> &'static str {
        match self {
            Gauge::BreakerOpen => "idempotency_breaker_open",
            Gauge::Draining => "idempotency_draining",
            Gauge::Outbox => "idempotency_outbox",
            Gauge::Running => "idempotency_running",
            Gauge::Waiting => "idempotency_waiting",
        }
    }
}
