//! All that one worker has under way, deferred and owed, and when each of it has its turn.
//!
//! Its one rule: a stream whose message is in hand is touched in its own callback, every other one in the root's turn,
//! and one that has ended never.
//! It does not know Envoy: the clock, randomness and every act come in as a [`Host`].
//!
//! # Theory of operation
//!
//! A callback of a stream feeds one event to its exchange and carries out what the exchange answers at once. What belongs
//! to the root, a call to the store, a request of the gateway's own or another stream, waits for the root's turn; the
//! worker wakes the root for it. In its turn the root first carries out what was deferred, then what has come up. It lets
//! go or answers few streams in one turn; what is beyond them is deferred to the next, in order.

mod host;

mod bodies;

mod turns;

mod exchanges;

mod stream;

mod told;

use std::collections::VecDeque;
use std::mem::Discriminant;

pub use exchanges::NO_CALLER_QUIET_MS;
pub use host::{Action, Gauge, Host, Side, Turn};
pub use stream::{RequestBody, ResponseBody, Stream};
pub use told::STORE_QUIET_MS;

use crate::by_id::ById;
use crate::command::Failure;
use crate::count::Count;
use crate::event::{Clock, Event, EventKind, Executed};
use crate::exchange::Exchange;
use crate::record::Owner;
use crate::step::{Flow, LogEvent, Outgoing};
use crate::store::client::{Batch, Heard, Lane, Nonce, Reply};
use crate::store::local::SharedMap;
use crate::store::{HandedOver, Store};
use bodies::Bodies;
use exchanges::{Act, Exchanges};
use told::GAUGE_TICKS;

/// How many bytes of bodies one worker holds back at most before it calls itself overloaded.
const HELD_MAX: u64 = 64 << 20;
/// How many buckets of the table one tick cleans.
const SWEEP_STEPS: u32 = 64;
/// How many streams the root lets go or answers in one turn: as many as one call to the store brings answers for. Envoy
/// calls the filter for each from within the one before it, so that a thousand at once would exhaust the VM's stack.
pub const FLOWS_AT_ONCE: usize = 64;

/// How long what is owed keeps a plugin that is to go, where no other takes it over.
const DRAIN_MAX_MS: u64 = 3_600_000;

/// One worker.
pub struct Worker<C> {
    exchanges: Exchanges<C>,
    /// Acts that the root's next turn carries out first.
    deferred: VecDeque<Act>,
    /// Requests of the gateway's own that the root's next turn sends, for these exchanges.
    outgoing: Vec<(u32, Box<Outgoing>)>,
    /// The exchanges whose own requests are executing, by the tokens of their calls.
    executing: ById<u32>,
    /// Whether the root will be called because the worker has asked for it.
    is_root_woken: bool,
    /// How many streams the root may still let go or answer in this turn.
    flows_left: usize,
    bodies: Bodies,
    /// From how many held bytes on the worker is overloaded.
    overloaded_from: u64,
    /// When what every request would say was logged last.
    said_ms: Vec<(Discriminant<LogEvent>, u64)>,
    /// When the store failed last, where it was not said since that it answers again.
    store_failed_ms: Option<u64>,
    /// What the host was told of each gauge.
    told: [(Gauge, i64); 5],
    ticks: u32,
    /// The longest lease: for so long withdrawals are kept once its plugin is to go.
    lease_ms: u64,
    /// Whether its plugin is to go.
    is_draining: bool,
}

impl<C: SharedMap> Worker<C> {
    /// A worker with nothing under way, whose longest lease is this.
    pub fn new(store: Store<C>, lease_ms: u64) -> Self {
        Worker {
            exchanges: Exchanges::new(store),
            deferred: VecDeque::new(),
            outgoing: Vec::new(),
            executing: ById::default(),
            is_root_woken: false,
            flows_left: FLOWS_AT_ONCE,
            bodies: Bodies::default(),
            overloaded_from: HELD_MAX + 1,
            said_ms: Vec::new(),
            store_failed_ms: None,
            told: Gauge::ALL.map(|gauge| (gauge, 0)),
            ticks: 0,
            lease_ms,
            is_draining: false,
        }
    }

    /// The exchange of this stream, where it has one.
    pub fn exchange(&self, stream: u32) -> Option<&Exchange> {
        self.exchanges.exchange(stream)
    }

    /// The store of this worker.
    pub fn store(&self) -> &Store<C> {
        self.exchanges.store()
    }

    /// How many executions are under way.
    pub fn running(&self) -> u64 {
        self.exchanges.running()
    }

    /// How many duplicates wait.
    pub fn waiting(&self) -> u64 {
        self.exchanges.waiting()
    }

    /// Bytes of bodies that the host holds back, or that are kept, for all exchanges.
    pub fn held_bytes(&self) -> u64 {
        self.exchanges.held_bytes()
    }

    /// Whether nothing is under way, deferred or owed.
    pub fn is_idle(&self) -> bool {
        self.exchanges.is_idle() && self.deferred.is_empty()
    }

    /// Has the worker call itself overloaded from so many held bytes on.
    pub fn set_overloaded_from(&mut self, held_bytes: u64) {
        self.overloaded_from = held_bytes;
    }

    /// Begins to drain, because the plugin is to go; tells whether it may go at once.
    ///
    /// It stays until nothing is under way or owed. What is under way ends by itself: an execution of the gateway's own by
    /// its time-out. A withdrawal is kept for one lease, and whatever no other worker takes over for an hour.
    pub fn drain<H: Host>(&mut self, host: &mut H) -> bool {
        self.is_draining = true;
        let now_ms = host.now_ms();
        self.exchanges.store_mut().drain(now_ms + self.lease_ms, now_ms + DRAIN_MAX_MS);
        self.tell_gauges(host);
        self.may_go(host, now_ms)
    }

    /// Whether its plugin is to go.
    pub fn is_draining(&self) -> bool {
        self.is_draining
    }

    /// Gives away what a worker of the same store in the same VM is to keep. Called before this one drains, and while it
    /// does, for what has become owed since.
    pub fn hand_over(&mut self) -> Vec<HandedOver> {
        self.exchanges.store_mut().hand_over()
    }

    /// Keeps what another worker of the same store in the same VM has given away.
    pub fn inherit(&mut self, handed_over: Vec<HandedOver>, now_ms: u64) {
        self.exchanges.store_mut().inherit(handed_over, now_ms);
    }

    /// The root is called because the worker has woken it.
    pub fn on_wake<H: Host>(&mut self, host: &mut H) {
        self.is_root_woken = false;
        host.clear();
        let now_ms = self.begin_turn(host);
        self.carry_out(host, Vec::new(), now_ms);
        self.wake_or_send(host, now_ms);
    }

    /// The root is called because its time has come; tells whether the plugin is to go and may.
    #[must_use]
    pub fn on_tick<H: Host>(&mut self, host: &mut H) -> bool {
        let now_ms = self.begin_turn(host);
        self.tick_exchanges(host, now_ms);
        if !self.bodies.are_shown() {
            self.find_hidden_bodies(host, now_ms);
        }
        if let Some(table) = self.store().table() {
            table.sweep(SWEEP_STEPS, now_ms);
        }
        self.ticks = self.ticks.wrapping_add(1);
        self.tell_gauges(host);
        self.tell_recovery(host, now_ms);
        if self.ticks.is_multiple_of(GAUGE_TICKS) {
            self.tell_given_up(host, now_ms);
        }
        self.may_go(host, now_ms)
    }

    /// A call to the store has ended.
    pub fn on_store_reply<H: Host>(&mut self, host: &mut H, batch: u64, reply: Reply) {
        self.on_store_heard(host, Heard { replies: vec![(batch, reply)], lost: None });
    }

    /// Calls to the store have ended; the next ones go out before any exchange hears of it.
    pub fn on_store_heard<H: Host>(&mut self, host: &mut H, heard: Heard) {
        let now_ms = self.begin_turn(host);
        let acts = self.exchanges.heard(heard, now_ms);
        self.send(host, now_ms);
        self.carry_out(host, acts, now_ms);
        self.wake_or_send(host, now_ms);
    }

    /// Which exchange's own request this call carries; asked once, when the call has ended.
    pub fn take_execution(&mut self, token: u32) -> Option<u32> {
        self.executing.remove(&token)
    }

    /// A request that the gateway itself had sent for this exchange has ended.
    pub fn on_executed<H: Host>(&mut self, host: &mut H, exchange: u32, answer: Executed<'_>) {
        let now_ms = self.begin_turn(host);
        let overloaded = self.is_overloaded();
        self.feed_from_root(host, exchange, EventKind::Executed { answer, overloaded }, now_ms);
        self.wake_or_send(host, now_ms);
    }

    /// Feeds one event about the message in hand; tells whether that message goes on, and when that was.
    fn feed<H: Host>(&mut self, host: &mut H, stream: u32, kind: EventKind<'_>) -> (Action, u64) {
        let read = || host.now_ms();
        let clock = Clock::new(&read);
        let acts = self.exchanges.feed(stream, Event { clock: &clock, kind });
        let now_ms = clock.now_ms();
        let mut action = Action::Continue;
        for act in acts {
            if let Act::Flow { flow, .. } = &act {
                action = match flow {
                    Flow::Pass | Flow::Replace(_) | Flow::Restore(_) | Flow::Resume(_) => Action::Continue,
                    Flow::Hold | Flow::LocalReply(_) => Action::Pause,
                };
            }
            self.act(host, act, Turn::Stream, now_ms);
        }
        if self.may_call(now_ms) && Lane::ALL.iter().any(|lane| host.room(*lane, Turn::Stream) > 0) {
            for act in self.send_batches(host, Turn::Stream, now_ms) {
                match act.stream() {
                    Some(_) => self.deferred.push_back(act),
                    None => self.act(host, act, Turn::Root, now_ms),
                }
            }
            host.enter(stream);
        }
        // Other calls belong to the root, and so do other streams: both have to wait until it is the root's turn.
        let is_rest = self.exchanges.has_woken() || !self.outgoing.is_empty() || !self.deferred.is_empty();
        if is_rest || self.may_call(now_ms) {
            self.wake_root(host);
        }
        (action, now_ms)
    }

    /// Whether this worker holds back too many bytes already.
    fn is_overloaded(&self) -> bool {
        self.held_bytes() >= self.overloaded_from
    }

    /// Has the root called once the callback under way is over.
    pub fn wake_root<H: Host>(&mut self, host: &mut H) {
        if !self.is_root_woken {
            self.is_root_woken = true;
            host.wake();
        }
    }

    fn begin_turn<H: Host>(&mut self, host: &H) -> u64 {
        self.flows_left = FLOWS_AT_ONCE;
        host.now_ms()
    }

    fn wake_or_send<H: Host>(&mut self, host: &mut H, now_ms: u64) {
        if self.exchanges.has_woken() { self.tick_exchanges(host, now_ms) } else { self.send(host, now_ms) }
    }

    /// Feeds a tick to every exchange that is due, and sends what comes of it.
    fn tick_exchanges<H: Host>(&mut self, host: &mut H, now_ms: u64) {
        let acts = self.exchanges.tick(now_ms, || Owner(host.draw()));
        self.carry_out(host, acts, now_ms);
        self.send(host, now_ms);
    }

    fn feed_from_root<H: Host>(&mut self, host: &mut H, exchange: u32, kind: EventKind<'_>, now_ms: u64) {
        let acts = self.exchanges.feed(exchange, Event { clock: &Clock::at(now_ms), kind });
        self.carry_out(host, acts, now_ms);
    }

    /// Sends the requests of the gateway's own.
    fn execute<H: Host>(&mut self, host: &mut H, now_ms: u64) {
        for (exchange, outgoing) in std::mem::take(&mut self.outgoing) {
            match host.execute(exchange, *outgoing) {
                Some(token) => drop(self.executing.insert(token, exchange)),
                None => {
                    let kind = EventKind::Executed { answer: Executed::Unsent, overloaded: false };
                    self.feed_from_root(host, exchange, kind, now_ms);
                }
            }
        }
    }

    /// Sends as many calls as may be under way at once.
    fn send<H: Host>(&mut self, host: &mut H, now_ms: u64) {
        self.execute(host, now_ms);
        let acts = self.send_batches(host, Turn::Root, now_ms);
        self.carry_out(host, acts, now_ms);
    }

    /// Hands the host as many calls as may be under way at once, and tells what comes of those that it does not take.
    fn send_batches<H: Host>(&mut self, host: &mut H, turn: Turn, now_ms: u64) -> Vec<Act> {
        let mut acts = Vec::new();
        for lane in Lane::ALL {
            loop {
                let room = host.room(lane, turn);
                let next = (0..room).map_while(|_| self.exchanges.next_batch(lane, now_ms, || Nonce(host.draw())));
                let batches: Vec<Batch> = next.collect();
                if batches.is_empty() {
                    break;
                }
                let asked: Vec<u64> = batches.iter().map(|batch| batch.id).collect();
                let refused = host.send(batches);
                let (lost, failures): (Vec<u64>, Vec<Failure>) = refused.into_iter().unzip();
                let taken = asked.iter().filter(|batch| !lost.contains(batch)).count();
                let count = Act::Count { count: Count::StoreCall, rule: 0, observed: false };
                acts.extend(std::iter::repeat_n(count, taken));
                // What is lost at once is lost for one reason, and counts once for the breaker.
                let lost = failures.first().map(|failure| (lost, *failure));
                acts.extend(self.exchanges.heard(Heard { replies: Vec::new(), lost }, now_ms));
            }
        }
        acts
    }

    fn may_call(&self, now_ms: u64) -> bool {
        self.store().client().is_some_and(|client| Lane::ALL.iter().any(|lane| client.may_call(*lane, now_ms)))
    }

    /// Carries out in the root's turn what was deferred, then these acts, for as many streams as the turn may touch.
    fn carry_out<H: Host>(&mut self, host: &mut H, acts: Vec<Act>, now_ms: u64) {
        self.deferred.extend(acts);
        while self.flows_left > 0
            && let Some(act) = self.deferred.pop_front()
        {
            self.flows_left -= usize::from(matches!(act, Act::Flow { .. }));
            self.act(host, act, Turn::Root, now_ms);
        }
        if !self.deferred.is_empty() {
            self.wake_root(host);
        }
    }

    fn act<H: Host>(&mut self, host: &mut H, act: Act, turn: Turn, now_ms: u64) {
        match act {
            Act::CallerSeen(rule) => host.note_caller(&rule),
            Act::Count { count, rule, observed } => host.count(count, rule, observed),
            Act::Waited { ms } => host.note_wait(ms),
            Act::Execute { exchange, outgoing } => self.outgoing.push((exchange, outgoing)),
            Act::Log(log_event) => self.log(host, log_event, now_ms),
            Act::Status { exchange, text } => {
                if turn == Turn::Stream || host.enter(exchange) {
                    host.set_status(&text);
                }
            }
            Act::Flow { side, flow, .. } if turn == Turn::Stream => host.apply_flow(side, flow),
            Act::Flow { exchange, side, flow } => {
                // The stream may have gone since this was deferred, and another be in effect.
                if host.enter(exchange) {
                    let resumes = matches!(flow, Flow::Resume(_));
                    host.apply_flow(side, flow);
                    if resumes {
                        host.resume(side);
                    }
                }
            }
        }
    }

    /// Lets go of messages whose body Envoy has received and does not show: `allow_on_headers_stop_iteration` is missing.
    fn find_hidden_bodies<H: Host>(&mut self, host: &mut H, now_ms: u64) {
        let exchanges = &self.exchanges;
        let paused = self.bodies.paused(|stream| exchanges.exchange(stream).is_some_and(Exchange::awaits_body));
        for stream in paused {
            let request_size = || {
                host.enter(stream);
                host.request_size()
            };
            if self.bodies.is_hidden(stream, request_size, now_ms) {
                self.feed_from_root(host, stream, EventKind::BodyUnavailable, now_ms);
            }
        }
    }

    fn may_go<H: Host>(&mut self, host: &mut H, now_ms: u64) -> bool {
        let may_go = self.is_draining && self.is_idle();
        if may_go {
            Gauge::ALL.into_iter().for_each(|gauge| self.tell_gauge(host, gauge, 0));
            self.tell_given_up(host, now_ms);
        }
        may_go
    }
}
