//! The root of one plugin in one worker: its configuration, its metrics, and the gateway with all that is under way.
//!
//! Its one rule: exchanges live here and not in the streams, so that one can outlive its client.
//! It does not know what an exchange decides; it feeds events and carries out acts.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;

use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::{Action, ContextType};

use crate::command::Failure;
use crate::config::{Config, Mode, Store as StoreConfig};
use crate::digest::{Digest, hex};
use crate::event::{Event, EventKind, Executed};
use crate::exchange::{Exchange, Secrets};
use crate::gateway::{Act, Gateway, NO_CALLER_QUIET_MS, Side};
use crate::key::UpstreamKey;
use crate::look_up;
use crate::message::{Edit, Headers, RequestHead};
use crate::record::Owner;
use crate::shell::calls::Calls;
use crate::shell::host::{self, Bell, Buffer, Level, Map, Metric, SharedData};
use crate::shell::http::Door;
use crate::step::{Count, Flow, Outgoing, Remark};
use crate::store::Store;
use crate::store::cache::Cache;
use crate::store::client::{Client, Limits, Nonce, Reply};
use crate::store::local::{Cells, Table};

/// How often the root looks at what is due.
const TICK_MS: u32 = 100;
/// How many bytes of bodies one worker holds back at most before it calls itself crowded.
const HELD_MAX: u64 = 64 << 20;
/// How many random bytes are drawn at once.
const ENTROPY_BYTES: usize = 4096;
/// How many buckets of the table one tick cleans.
const SWEEP_STEPS: u32 = 64;
/// How many ticks pass between two looks at the table's size.
const GAUGE_TICKS: u32 = 10;
/// How many streams the root lets go or answers in one turn. Each calls the filter again from within the one before it,
/// so that a thousand at once would exhaust the VM's stack.
const FLOWS_AT_ONCE: usize = 32;
/// How long what every request would say, and was logged, is not logged again.
const QUIET_MS: u64 = 1_000;
/// How long a held request may wait for its first body callback before Envoy is taken not to show bodies, in a worker
/// that has never seen one.
const NO_REQUEST_BODY_MS: u64 = 15_000;
/// The same for a response, whose size Envoy does not tell; one that is only slow is not kept for replay.
const NO_RESPONSE_BODY_MS: u64 = 10_000;

/// The plugin in one worker, as the SDK has it.
pub struct Root {
    id: u32,
    worker: Option<Rc<RefCell<Worker>>>,
}

/// What all streams of one plugin in one worker share.
pub struct Worker {
    config: Config,
    /// Of the plugin's name and document: what tells its notes for other workers from another's.
    identity: [u8; 32],
    secrets: Rc<Secrets>,
    gateway: Gateway<SharedData>,
    /// None with the embedded store.
    calls: Option<Calls>,
    /// Requests that the gateway itself is to send, for these exchanges.
    outgoing: Vec<(u32, Box<Outgoing>)>,
    /// Acts that are for the root's next turn.
    later: VecDeque<Act>,
    /// Those under way, by the tokens of their calls.
    executing: HashMap<u32, u32>,
    /// By which a stream has the root called.
    bell: Bell,
    /// Messages held in their heads, until the host has shown one body to a filter that does so.
    unseen: HashMap<u32, Unseen>,
    counters: HashMap<(Count, bool), u32>,
    entropy: Entropy,
    running: SharedGauge,
    outbox: SharedGauge,
    waiting: SharedGauge,
    store_bytes: Option<u32>,
    /// Whether the host has shown a body to a filter that paused in the headers.
    shows_bodies: bool,
    /// When what every request would say was logged last.
    said_ms: HashMap<Remark, u64>,
    ticks: u32,
    /// Once the plugin is to go: until when it may stay for what it has under way.
    drains_until_ms: Option<u64>,
}

/// A message held in its head.
#[derive(Clone, Copy)]
struct Unseen {
    since_ms: u64,
    /// How large the request was then; none of a response.
    request_size: Option<u64>,
}

/// Random bytes from the host, drawn in bulk because every draw is a call.
#[derive(Default)]
struct Entropy(Vec<u8>);

impl Entropy {
    fn draw<const N: usize>(&mut self) -> [u8; N] {
        if self.0.len() < N {
            self.0 = host::random(ENTROPY_BYTES);
        }
        let left = self.0.len().saturating_sub(N);
        let mut drawn = [0; N];
        drawn.iter_mut().zip(self.0.drain(left..)).for_each(|(place, byte)| *place = byte);
        drawn
    }
}

/// A gauge that all workers share, told only of this worker's differences.
struct SharedGauge {
    id: Option<u32>,
    told: i64,
}

impl Root {
    /// A root that has not been configured.
    pub fn new(id: u32) -> Self {
        Root { id, worker: None }
    }
}

impl Context for Root {
    fn on_done(&mut self) -> bool {
        let Some(worker) = &self.worker else { return true };
        let mut worker = worker.borrow_mut();
        worker.tell_gauges();
        // At most one lease: what is still owed then is another's to find out.
        let leases = worker.config.rules.iter().map(|rule| rule.policy.lease_ms);
        worker.drains_until_ms = Some(host::monotonic_ms() + leases.max().unwrap_or(0));
        worker.is_drained()
    }

    fn on_http_call_response(&mut self, token: u32, headers: usize, body_size: usize, _trailers: usize) {
        if let Some(worker) = &self.worker {
            worker.borrow_mut().call_ended(token, headers > 0, body_size);
        }
    }
}

impl RootContext for Root {
    fn on_configure(&mut self, size: usize) -> bool {
        match Worker::configure(&host::buffer(Buffer::PluginConfiguration, 0, size)) {
            Ok(worker) => {
                self.worker = Some(Rc::new(RefCell::new(worker)));
                host::set_tick_period(TICK_MS);
                true
            }
            Err(sentence) => {
                host::log(Level::Error, &format!("idempotency: the configuration is refused: {sentence}"));
                false
            }
        }
    }

    fn on_tick(&mut self) {
        let Some(worker) = &self.worker else { return };
        let mut worker = worker.borrow_mut();
        worker.tick();
        host::set_effective_context(self.id);
        if worker.drains_until_ms.is_some() && worker.is_drained() {
            worker.leave_gauges();
            drop(worker);
            self.worker = None;
            host::done();
        }
    }

    fn on_queue_ready(&mut self, _queue: u32) {
        if let Some(worker) = &self.worker {
            worker.borrow_mut().was_rung_for();
        }
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }

    fn create_http_context(&self, id: u32) -> Option<Box<dyn HttpContext>> {
        Some(Box::new(Door::new(id, self.worker.clone())))
    }
}

impl Worker {
    fn configure(document: &[u8]) -> Result<Self, String> {
        let config = Config::parse(document, &|name| std::env::var(name).ok()).map_err(|error| error.to_string())?;
        let plugin = host::property(&["plugin_name"]).unwrap_or_default();
        let mut entropy = Entropy::default();
        let (store, calls) = match &config.store {
            StoreConfig::Local { max_bytes } => {
                let table = Table::open(SharedData, &plugin, *max_bytes, u64::from_le_bytes(entropy.draw()));
                let refused = |failure: Failure| format!("the embedded store cannot be opened: {}", failure.as_str());
                (Store::Embedded(table.map_err(refused)?), None)
            }
            StoreConfig::Redis(redis) => {
                let whose = format!("{} {} {} {}", redis.cluster, redis.authority, redis.path, redis.prefix);
                let cache = redis.cache.map(|bounds| Cache::new(SharedData, &plugin, &whose, bounds));
                let store = Store::Remote(Box::new(Client::new(Limits::new(redis))), cache);
                (store, Some(Calls::new(redis)))
            }
        };
        let bell = format!("idempotency {}", hex(&entropy.draw::<16>()));
        let bell = Bell::register(&bell).ok_or("Envoy refuses to register a shared queue")?;
        let mut identity = Digest::new("identity", None);
        identity.part("plugin", &plugin);
        identity.part("document", document);
        let identity = identity.finish();
        warn_once(&config, &identity);
        let observes = config.rules.iter().any(|rule| rule.policy.mode == Mode::Observe);
        let counts = Count::all().into_iter().flat_map(|count| [(count, false), (count, true)]);
        let counters = counts
            .filter(|(_, observed)| observes || !observed)
            .filter_map(|(count, observed)| {
                let id = host::define_metric(Metric::Counter, &count.metric(observed))?;
                Some(((count, observed), id))
            })
            .collect();
        let gauge = |name| SharedGauge { id: host::define_metric(Metric::Gauge, name), told: 0 };
        Ok(Worker {
            secrets: Rc::new(Secrets::new(&config)),
            config,
            identity,
            gateway: Gateway::new(store),
            calls,
            outgoing: Vec::new(),
            later: VecDeque::new(),
            executing: HashMap::new(),
            bell,
            unseen: HashMap::new(),
            counters,
            entropy,
            running: gauge("idempotency_running"),
            outbox: gauge("idempotency_outbox"),
            waiting: gauge("idempotency_waiting"),
            store_bytes: host::define_metric(Metric::Gauge, "idempotency_store_bytes"),
            shows_bodies: false,
            said_ms: HashMap::new(),
            ticks: 0,
            drains_until_ms: None,
        })
    }

    /// Begins an exchange if a rule is about this request. Called in request headers, for every request there is.
    pub fn begin(&mut self, id: u32, end: bool) -> Option<Action> {
        let method = host::header(Map::Request, ":method")?;
        if !self.config.may_match(&method, None) {
            return None;
        }
        if self.config.hinges_on_path(&method) {
            let target = host::header(Map::Request, ":path")?;
            if !self.config.may_match(&method, Some(&target)) {
                return None;
            }
        }
        let head = RequestHead { headers: host::headers(Map::Request)? };
        let metadata =
            |namespace: &str, key: &str| host::property(&["xds", "route_metadata", "filter_metadata", namespace, key]);
        let owner = Owner(self.entropy.draw());
        let exchange = if self.config.is_look_up(head.method(), Some(head.path())) {
            match look_up::begin(&self.config, &self.secrets, &head, &host::property, &metadata, owner) {
                Ok(exchange) => exchange,
                Err(reply) => return Some(let_flow(Side::Request, Flow::Answer(Box::new(reply)))),
            }
        } else {
            Exchange::new(Rc::clone(&self.config.rule_for(&head, &metadata)?.policy), Rc::clone(&self.secrets))
        };
        self.gateway.begin(id, exchange);
        let now_ms = host::monotonic_ms();
        let event = Event {
            now_ms,
            kind: EventKind::RequestHeaders {
                head: &head,
                attribute: &host::property,
                owner,
                upstream_key: UpstreamKey(self.entropy.draw()),
                end,
            },
        };
        Some(self.feed_head(id, event, now_ms))
    }

    /// The exchange of this stream, where it has one.
    pub fn exchange(&self, id: u32) -> Option<&Exchange> {
        self.gateway.exchange(id)
    }

    /// Feeds the head of a message, and tells whether that message goes on.
    pub fn feed_head(&mut self, id: u32, event: Event<'_>, now_ms: u64) -> Action {
        let action = self.feed(id, event, now_ms);
        let awaits = |exchange: &Exchange| exchange.awaits_body().then(|| exchange.awaits_request_body());
        if !self.shows_bodies
            && action == Action::Pause
            && let Some(is_request) = self.exchange(id).and_then(awaits)
        {
            let request_size = is_request.then(request_size);
            self.unseen.insert(id, Unseen { since_ms: now_ms, request_size });
        }
        action
    }

    /// Notes that the host shows bodies to a filter that holds the head.
    pub fn body_was_shown(&mut self) {
        self.shows_bodies = true;
        self.unseen.clear();
    }

    /// Whether this worker holds back too many bytes already.
    pub fn is_crowded(&self) -> bool {
        self.gateway.held_bytes() > HELD_MAX
    }

    /// Feeds one event about the message in hand, and tells whether that message goes on.
    pub fn feed(&mut self, id: u32, event: Event<'_>, now_ms: u64) -> Action {
        let acts = self.gateway.feed(id, event, now_ms);
        let action = self.carry_out(acts, Some(id), now_ms);
        // Calls belong to the root, and so do other streams: both have to wait until it is its turn.
        let calls = self.gateway.store().client().is_some_and(|client| client.may_call(now_ms));
        if calls || self.gateway.has_woken(now_ms) || !self.outgoing.is_empty() {
            self.bell.ring();
        }
        action
    }

    /// Has the root let the held part of a response go in its next turn. Called in callbacks of its stream.
    pub fn let_go_later(&mut self, id: u32) {
        if !self.is_put_off(id) {
            let flow = Flow::Resume(Vec::new());
            self.later.push_back(Act::Flow { exchange: id, side: Side::Response, flow });
            self.bell.ring();
        }
    }

    /// Whether a message of this stream goes on, or is answered, in the root's next turn.
    pub fn is_put_off(&self, id: u32) -> bool {
        self.later.iter().any(|act| matches!(act, Act::Flow { exchange, .. } if *exchange == id))
    }

    /// Forgets what was put off for a stream that ends: Envoy keeps its context until the end of the turn, and crashes
    /// where a message of one that has ended is let go.
    pub fn stream_ends(&mut self, id: u32) {
        self.later.retain(|act| act.stream() != Some(id));
    }

    /// Sends what waits and wakes who waits, after a stream has rung for it.
    fn was_rung_for(&mut self) {
        self.bell.hear();
        let now_ms = host::monotonic_ms();
        self.carry_out(Vec::new(), None, now_ms);
        self.wake_or_send(now_ms);
    }

    fn wake_or_send(&mut self, now_ms: u64) {
        if self.gateway.has_woken(now_ms) { self.wake(now_ms) } else { self.send(now_ms) }
    }

    /// Feeds ticks to whoever is due, and sends what comes of it.
    fn wake(&mut self, now_ms: u64) {
        let acts = self.gateway.tick(now_ms, || Owner(self.entropy.draw()));
        self.carry_out(acts, None, now_ms);
        self.send(now_ms);
    }

    /// Takes what came back from a call; the next one goes out before anybody is told.
    fn call_ended(&mut self, token: u32, responded: bool, body_size: usize) {
        let now_ms = host::monotonic_ms();
        if let Some(exchange) = self.executing.remove(&token) {
            return self.execution_ended(exchange, responded, body_size, now_ms);
        }
        let Some((batch, reply)) = self.calls.as_mut().and_then(|calls| calls.ended(token, responded, body_size))
        else {
            return;
        };
        let acts = self.gateway.replied(batch, reply, now_ms);
        self.send(now_ms);
        self.carry_out(acts, None, now_ms);
        self.wake_or_send(now_ms);
    }

    /// Feeds what the upstream has answered to a request that the gateway itself had sent.
    fn execution_ended(&mut self, exchange: u32, responded: bool, body_size: usize, now_ms: u64) {
        let headers = responded.then(|| host::headers(Map::CallResponse)).flatten();
        let body = host::buffer(Buffer::CallResponseBody, 0, body_size);
        let answer = match headers.as_ref().and_then(|headers| Some((headers, status(headers)?))) {
            Some((headers, status)) => Executed::Answered { status, headers, body: &body },
            None => Executed::Lost,
        };
        let acts = self.gateway.feed(exchange, Event { now_ms, kind: EventKind::Executed { answer } }, now_ms);
        self.carry_out(acts, None, now_ms);
        self.wake_or_send(now_ms);
    }

    /// Sends the requests that the gateway itself is to send. Called in the root's callbacks.
    fn execute(&mut self, now_ms: u64) {
        for (exchange, outgoing) in std::mem::take(&mut self.outgoing) {
            let Outgoing { cluster, timeout_ms, headers, body } = *outgoing;
            let text = |bytes| std::str::from_utf8(bytes).unwrap_or_default();
            let headers = headers.iter().map(|(name, value)| (text(name), text(value))).collect();
            match host::http_call(&cluster, headers, &body, timeout_ms) {
                Some(token) => drop(self.executing.insert(token, exchange)),
                None => {
                    let event = Event { now_ms, kind: EventKind::Executed { answer: Executed::Unsent } };
                    let acts = self.gateway.feed(exchange, event, now_ms);
                    self.carry_out(acts, None, now_ms);
                }
            }
        }
    }

    /// Sends as many calls as may be under way at once. Called in the root's callbacks.
    fn send(&mut self, now_ms: u64) {
        self.execute(now_ms);
        let Some(calls) = &mut self.calls else { return };
        let mut acts = Vec::new();
        while let Some(batch) = self.gateway.next_batch(now_ms, || Nonce(self.entropy.draw())) {
            let id = batch.id;
            if calls.send(batch) {
                acts.push(Act::Count { count: Count::StoreCall, observed: false });
            } else {
                acts.extend(self.gateway.replied(id, Reply::Failed(Failure::Transport), now_ms));
            }
        }
        self.carry_out(acts, None, now_ms);
    }

    fn is_drained(&self) -> bool {
        (self.gateway.is_idle() && self.later.is_empty())
            || self.drains_until_ms.is_some_and(|until| until <= host::monotonic_ms())
    }

    /// Carries out acts in order, and tells whether the message in hand, of the stream `in_hand`, goes on.
    fn carry_out(&mut self, acts: Vec<Act>, in_hand: Option<u32>, now_ms: u64) -> Action {
        let mut action = Action::Continue;
        let mut acts = VecDeque::from(acts);
        if in_hand.is_none() {
            acts = std::mem::take(&mut self.later).into_iter().chain(acts).collect();
        }
        let mut flows = 0;
        while let Some(act) = acts.pop_front() {
            if flows == FLOWS_AT_ONCE {
                acts.push_front(act);
                self.later.append(&mut acts);
                self.bell.ring();
                break;
            }
            match act {
                // A worker that has seen none must not say that there was none.
                Act::CallerSeen(rule) => drop(SharedData.put(&self.callers_key(&rule), &u64::MAX.to_le_bytes())),
                Act::Execute { exchange, outgoing } => self.outgoing.push((exchange, outgoing)),
                Act::Count { count, observed } => self.count(count, observed),
                Act::Flow { exchange, side, flow } if in_hand == Some(exchange) => action = let_flow(side, flow),
                Act::Flow { exchange, side, flow } => {
                    flows += 1;
                    // A stream may have gone since this was put off, and another be in effect.
                    if host::set_effective_context(exchange) {
                        let resumes = matches!(flow, Flow::Resume(_));
                        let_flow(side, flow);
                        if resumes {
                            host::continue_stream(map(side));
                        }
                    }
                    if let Some(id) = in_hand {
                        host::set_effective_context(id);
                    }
                }
                // Every request would say so; once a second is enough.
                Act::Log(remark) if self.said_ms.get(&remark).is_some_and(|said| now_ms < said + QUIET_MS) => {}
                Act::Log(Remark::NoCaller { ref rule, .. }) if !is_first_to_miss(&self.callers_key(rule), now_ms) => {}
                Act::Log(remark) => {
                    let level = if remark.is_warning() { Level::Warn } else { Level::Info };
                    host::log(level, &format!("idempotency: {remark}"));
                    if remark.is_repeated() {
                        self.said_ms.insert(remark, now_ms);
                    }
                }
                Act::Status { exchange, text } => {
                    if in_hand == Some(exchange) || host::set_effective_context(exchange) {
                        host::set_property("idempotency", text.as_bytes());
                    }
                }
            }
        }
        action
    }

    /// Where workers note for each other whether requests of this rule have shown a caller.
    fn callers_key(&self, rule: &str) -> [u8; 32] {
        let mut digest = Digest::new("callers of a rule", None);
        digest.part("identity", &self.identity);
        digest.part("rule", rule.as_bytes());
        digest.finish()
    }

    fn tick(&mut self) {
        let now_ms = host::monotonic_ms();
        self.wake(now_ms);
        if !self.shows_bodies {
            self.find_unshown(now_ms);
        }
        if let Some(table) = self.gateway.store().table() {
            table.sweep(SWEEP_STEPS, now_ms);
        }
        self.ticks = self.ticks.wrapping_add(1);
        self.tell_gauges();
    }

    /// Lets go of messages whose body Envoy has received and does not show: the flag is missing.
    fn find_unshown(&mut self, now_ms: u64) {
        self.unseen.retain(|id, _| self.gateway.exchange(*id).is_some_and(Exchange::awaits_body));
        for (id, unseen) in self.unseen.clone() {
            host::set_effective_context(id);
            let is_hidden = match unseen.request_size {
                // While a held request grows and shows nothing, its bytes pile up in Envoy.
                Some(size) => request_size() > size || now_ms > unseen.since_ms + NO_REQUEST_BODY_MS,
                None => now_ms > unseen.since_ms + NO_RESPONSE_BODY_MS,
            };
            if is_hidden {
                self.unseen.remove(&id);
                let acts = self.gateway.feed(id, Event { now_ms, kind: EventKind::Unable }, now_ms);
                self.carry_out(acts, None, now_ms);
            }
        }
    }

    fn count(&self, count: Count, observed: bool) {
        if let Some(id) = self.counters.get(&(count, observed)) {
            host::increment_metric(*id, 1);
        }
    }

    /// What is left undone is nobody's any more.
    fn leave_gauges(&mut self) {
        for gauge in [&mut self.running, &mut self.waiting, &mut self.outbox] {
            gauge.tell(0);
        }
    }

    fn tell_gauges(&mut self) {
        self.running.tell(self.gateway.running() as i64);
        self.waiting.tell(self.gateway.waiting() as i64);
        self.outbox.tell(self.gateway.store().client().map_or(0, Client::owed) as i64);
        if self.ticks.is_multiple_of(GAUGE_TICKS)
            && let (Some(gauge), Some(table)) = (self.store_bytes, self.gateway.store().table())
        {
            host::record_metric(gauge, table.bytes());
        }
    }
}

impl SharedGauge {
    fn tell(&mut self, now: i64) {
        if let Some(id) = self.id
            && now != self.told
        {
            host::increment_metric(id, now - self.told);
            self.told = now;
        }
    }
}

/// The status of a response.
pub fn status(headers: &Headers) -> Option<u16> {
    std::str::from_utf8(headers.first(":status")?).ok()?.parse().ok()
}

/// Does this to a message, and tells whether it goes on.
fn let_flow(side: Side, flow: Flow) -> Action {
    match flow {
        Flow::Pass => Action::Continue,
        Flow::Hold => Action::Pause,
        Flow::Resume(edits) => {
            for edit in edits {
                match edit {
                    Edit::Add(name, value) => host::add_header(map(side), name, &value),
                    Edit::Remove(name) => host::remove_header(map(side), name),
                    Edit::Set(name, value) => host::set_header(map(side), name, &value),
                }
            }
            Action::Continue
        }
        Flow::Answer(reply) => {
            host::send_local_response(reply.status, &reply.headers, &reply.body, reply.details);
            Action::Pause
        }
    }
}

fn map(side: Side) -> Map {
    match side {
        Side::Request => Map::Request,
        Side::Response => Map::Response,
    }
}

/// How much of the request Envoy has received.
fn request_size() -> u64 {
    host::number(&["request", "total_size"]).unwrap_or(0)
}

/// Whether no worker has said of late that a rule's requests show no caller, nor seen one: what stands at `key` is when
/// it was said last, and in the last moment there is once there was a caller.
fn is_first_to_miss(key: &[u8], now_ms: u64) -> bool {
    let known = SharedData.get(key).ok().flatten();
    let said_ms = |value: Vec<u8>| value.try_into().map_or(0, u64::from_le_bytes);
    let (said_ms, version) = known.map_or((None, None), |(value, version)| (Some(said_ms(value)), Some(version)));
    said_ms.is_none_or(|said_ms| now_ms >= said_ms.saturating_add(NO_CALLER_QUIET_MS))
        && SharedData.swap(key, &now_ms.to_le_bytes(), version).unwrap_or(true)
}

/// Logs the warnings in the first worker that gets here, and in no other.
fn warn_once(config: &Config, identity: &[u8; 32]) {
    let first: Result<bool, Failure> = SharedData.swap(identity, b"", None);
    if first.unwrap_or(true) {
        config.warnings.iter().for_each(|warning| host::log(Level::Warn, &format!("idempotency: {warning}")));
    }
}
