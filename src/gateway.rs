//! Everything that one worker has under way: its exchanges, and the client of the store they share.
//!
//! Its one rule: an exchange lives until nothing can come of it any more, whether or not its client is still there.
//! It does not know what an exchange decides, nor who carries out the acts.

use std::collections::{HashMap, VecDeque};

use crate::event::{Asked, Event, Verdict};
use crate::exchange::Exchange;
use crate::step::{Call, Count, Flow, Remark, Step};
use crate::store::client::{Batch, Client, Nonce, Reply, Told};
use crate::store::local::Cells;
use crate::store::{Asking, Store};

/// One thing to do, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// Raise a counter by one.
    Count {
        /// Which.
        count: Count,
        /// Whether of a trial.
        observed: bool,
    },
    /// Do this to the message in hand of a stream.
    Flow {
        /// Whose.
        exchange: u32,
        /// Which of its messages.
        side: Side,
        /// What; never `Pass`.
        flow: Flow,
    },
    /// Write a log line.
    Log(Remark),
    /// Note the status for the access log of a stream.
    Status {
        /// Whose.
        exchange: u32,
        /// The text of `Idempotency-Status`.
        text: String,
    },
}

/// Which message of a stream is in hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Until a response has begun.
    Request,
    /// From then on.
    Response,
}

/// One worker's exchanges and their store.
pub struct Gateway<C> {
    exchanges: HashMap<u32, Entry>,
    store: Store<C>,
    /// Bytes of bodies that the host holds back for all exchanges.
    held: u64,
    running: u64,
}

/// An exchange under way.
struct Entry {
    exchange: Exchange,
    wake_ms: Option<u64>,
    side: Side,
    /// Whether its stream is over: nothing can be done to its messages any more.
    closed: bool,
}

impl<C: Cells> Gateway<C> {
    /// A gateway with nothing under way.
    pub fn new(store: Store<C>) -> Self {
        Gateway { exchanges: HashMap::new(), store, held: 0, running: 0 }
    }

    /// Takes an exchange in; its number is its stream's.
    pub fn begin(&mut self, id: u32, exchange: Exchange) {
        self.exchanges.insert(id, Entry { exchange, wake_ms: None, side: Side::Request, closed: false });
    }

    /// The exchange of this number.
    pub fn exchange(&self, id: u32) -> Option<&Exchange> {
        self.exchanges.get(&id).map(|entry| &entry.exchange)
    }

    /// Feeds one event to one exchange.
    pub fn feed(&mut self, id: u32, event: Event<'_>, now_ms: u64) -> Vec<Act> {
        let mut acts = Vec::new();
        let Some(entry) = self.exchanges.get_mut(&id) else { return acts };
        let (held, running) = (entry.held_bytes(), entry.exchange.is_running());
        entry.closed |= matches!(event, Event::Closed { .. });
        if matches!(event, Event::ResponseHeaders { .. }) {
            entry.side = Side::Response;
        }
        let mut steps = VecDeque::from([(entry.exchange.handle(event), false)]);
        while let Some((step, remembered)) = steps.pop_front() {
            let observed = step.observed;
            if remembered && step.counts.contains(&Count::Replayed) {
                acts.push(Act::Count { count: Count::ReplayedCached, observed });
            }
            for call in obey(id, entry, step, &mut acts) {
                let asked = call.operation.asked();
                let (verdict, remembered) = match self.store.ask(id, call, now_ms) {
                    Asking::Remembered(verdict) => (Some(verdict), true),
                    Asking::Answered(verdict) => (Some(verdict), false),
                    Asking::Waiting => (None, false),
                };
                if !remembered {
                    acts.push(Act::Count { count: Count::StoreOperation, observed });
                }
                let step = verdict.map(|verdict| entry.exchange.handle(answer(asked, verdict, now_ms)));
                steps.extend(step.map(|step| (step, remembered)));
            }
        }
        self.held = (self.held + entry.held_bytes()).saturating_sub(held);
        self.running = (self.running + u64::from(entry.exchange.is_running())).saturating_sub(running.into());
        if entry.exchange.is_done() {
            self.exchanges.remove(&id);
        }
        acts
    }

    /// The next call to the store to send, if one may be sent and anything waits.
    pub fn next_batch(&mut self, now_ms: u64, nonce: impl FnMut() -> Nonce) -> Option<Batch> {
        self.store.next_batch(now_ms, nonce)
    }

    /// Feeds what came back from a call to the store.
    pub fn replied(&mut self, batch: u64, reply: Reply, now_ms: u64) -> Vec<Act> {
        let told = self.store.replied(batch, reply, now_ms);
        self.tell(told, now_ms)
    }

    /// Wakes whoever wanted to be woken by now.
    pub fn tick(&mut self, now_ms: u64) -> Vec<Act> {
        let due = |entry: &Entry| entry.wake_ms.is_some_and(|wake| wake <= now_ms);
        let mut awake: Vec<u32> = self.exchanges.iter().filter(|(_, entry)| due(entry)).map(|(id, _)| *id).collect();
        awake.sort_unstable();
        let mut acts = Vec::new();
        for id in awake {
            if let Some(entry) = self.exchanges.get_mut(&id) {
                entry.wake_ms = None;
            }
            acts.extend(self.feed(id, Event::Tick { now_ms }, now_ms));
        }
        let told = self.store.tick(now_ms);
        acts.extend(self.tell(told, now_ms));
        acts
    }

    /// Bytes of bodies that the host holds back for all exchanges.
    pub fn held_bytes(&self) -> u64 {
        self.held
    }

    /// How many executions are under way.
    pub fn running(&self) -> u64 {
        self.running
    }

    /// The store of this worker.
    pub fn store(&self) -> &Store<C> {
        &self.store
    }

    /// Whether nothing is under way or owed.
    pub fn is_idle(&self) -> bool {
        self.exchanges.is_empty() && self.store.client().is_none_or(Client::is_idle)
    }

    fn tell(&mut self, told: Vec<Told>, now_ms: u64) -> Vec<Act> {
        let event = |told: Told| Some((told.exchange?, answer(told.asked(), told.verdict, now_ms)));
        told.into_iter().filter_map(event).flat_map(|(id, event)| self.feed(id, event, now_ms)).collect()
    }
}

impl Entry {
    /// What the host holds back; nothing once the stream is over.
    fn held_bytes(&self) -> u64 {
        if self.closed { 0 } else { self.exchange.held_bytes() }
    }
}

/// Turns a step into acts; hands back what it asks of the store.
fn obey(id: u32, entry: &mut Entry, step: Step, acts: &mut Vec<Act>) -> Vec<Call> {
    acts.extend(step.counts.into_iter().map(|count| Act::Count { count, observed: step.observed }));
    acts.extend(step.remark.map(Act::Log));
    entry.wake_ms = step.wake_ms.or(entry.wake_ms);
    if !entry.closed {
        acts.extend(step.status.map(|text| Act::Status { exchange: id, text }));
        if step.flow != Flow::Pass {
            acts.push(Act::Flow { exchange: id, side: entry.side, flow: step.flow });
        }
    }
    step.calls
}

fn answer(asked: Asked, verdict: Verdict, now_ms: u64) -> Event<'static> {
    Event::StoreAnswered { now_ms, asked, verdict }
}
