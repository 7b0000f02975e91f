//! The root of one plugin in one worker: its configuration, its metrics, and the exchanges under way.
//!
//! Its one rule: exchanges live here and not in the streams, so that one can outlive its client.
//! It does not know what an exchange decides; it feeds events and obeys steps.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::ContextType;
use uuid::Uuid;

use crate::config::{Config, Mode};
use crate::digest::{Digest, HashKey};
use crate::event::{Event, Failure};
use crate::exchange::Exchange;
use crate::message::{Edit, RequestHead};
use crate::record::{Owner, UpstreamKey};
use crate::shell::host::{self, Buffer, Level, Map, Metric, SharedData};
use crate::shell::http::Door;
use crate::step::{Count, Flow, Step};
use crate::store::local::{Cells, Table};

/// How often the root looks at what is due.
const TICK_MS: u32 = 100;
/// How many bytes of bodies one worker holds back at most before it calls itself crowded.
const HELD_MAX: u64 = 64 << 20;
/// How many buckets of the table one tick cleans.
const SWEEP_STEPS: u32 = 64;
/// How many ticks pass between two looks at the table's size.
const GAUGE_TICKS: u32 = 10;
/// How long a request may wait for its first body callback before Envoy is taken not to show bodies, in a worker that
/// has never seen one.
const NO_BODY_MS: u64 = 15_000;

/// The plugin in one worker, as the SDK has it.
pub struct Root {
    id: u32,
    gateway: Option<Rc<RefCell<Gateway>>>,
}

/// What all streams of one plugin in one worker share.
pub struct Gateway {
    config: Config,
    hash_key: Option<HashKey>,
    table: Table<SharedData>,
    exchanges: HashMap<u32, Entry>,
    counters: HashMap<(Count, bool), u32>,
    running: RunningGauge,
    store_bytes: Option<u32>,
    /// Bytes of bodies that the host holds back for all exchanges.
    held: u64,
    /// Whether the host has shown a body to a filter that paused in the headers.
    shows_bodies: bool,
    ticks: u32,
    draining: bool,
}

/// An exchange under way.
struct Entry {
    exchange: Exchange,
    wake_ms: Option<u64>,
    /// Until the first body callback: when the request's head was held, and how large the request was then.
    unseen: Option<(u64, u64)>,
}

/// A gauge that all workers share, told only of this worker's differences.
struct RunningGauge {
    id: Option<u32>,
    now: i64,
    told: i64,
}

/// Whether the message in hand goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It stays with the host.
    Held,
    /// It goes on.
    Goes,
}

impl Root {
    /// A root that has not been configured.
    pub fn new(id: u32) -> Self {
        Root { id, gateway: None }
    }
}

impl Context for Root {
    fn on_done(&mut self) -> bool {
        let Some(gateway) = &self.gateway else { return true };
        let mut gateway = gateway.borrow_mut();
        gateway.draining = !gateway.exchanges.is_empty();
        gateway.running.tell();
        !gateway.draining
    }
}

impl RootContext for Root {
    fn on_configure(&mut self, size: usize) -> bool {
        match Gateway::configure(&host::buffer(Buffer::PluginConfiguration, 0, size)) {
            Ok(gateway) => {
                self.gateway = Some(Rc::new(RefCell::new(gateway)));
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
        let Some(gateway) = &self.gateway else { return };
        gateway.borrow_mut().tick();
        host::set_effective_context(self.id);
        let mut gateway = gateway.borrow_mut();
        if gateway.draining && gateway.exchanges.is_empty() {
            gateway.draining = false;
            gateway.running.tell();
            host::done();
        }
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }

    fn create_http_context(&self, id: u32) -> Option<Box<dyn HttpContext>> {
        Some(Box::new(Door::new(id, self.gateway.clone())))
    }
}

impl Gateway {
    fn configure(document: &[u8]) -> Result<Self, String> {
        let config = Config::parse(document, &|name| std::env::var(name).ok()).map_err(|error| error.to_string())?;
        let plugin = host::property(&["plugin_name"]).unwrap_or_default();
        let random = u64::from_le_bytes(Uuid::new_v4().into_bytes().first_chunk().copied().unwrap_or_default());
        let table = Table::open(SharedData, &plugin, config.max_bytes, random)
            .map_err(|failure| format!("the embedded store cannot be opened: {}", failure.as_str()))?;
        warn_once(&config, &plugin, document);
        let observes = config.rules.iter().any(|rule| rule.policy.mode == Mode::Observe);
        let counts = Count::all().into_iter().flat_map(|count| [(count, false), (count, true)]);
        let counters = counts
            .filter(|(_, observed)| observes || !observed)
            .filter_map(|(count, observed)| {
                let id = host::define_metric(Metric::Counter, &count.metric(observed))?;
                Some(((count, observed), id))
            })
            .collect();
        let running = RunningGauge { id: host::define_metric(Metric::Gauge, "idempotency_running"), now: 0, told: 0 };
        Ok(Gateway {
            hash_key: config.hash_key.as_deref().map(HashKey::new),
            config,
            table,
            exchanges: HashMap::new(),
            counters,
            running,
            store_bytes: host::define_metric(Metric::Gauge, "idempotency_store_bytes"),
            held: 0,
            shows_bodies: false,
            ticks: 0,
            draining: false,
        })
    }

    /// Begins an exchange if a rule is about this request. Called in request headers, for every request there is.
    pub fn begin(&mut self, id: u32, end: bool) -> Option<Verdict> {
        let method = host::header(Map::Request, ":method")?;
        if !self.config.may_match(&method, None) {
            return None;
        }
        let target = host::header(Map::Request, ":path")?;
        if !self.config.may_match(&method, Some(&target)) {
            return None;
        }
        let head = RequestHead { headers: host::headers(Map::Request)? };
        let metadata =
            |namespace: &str, key: &str| host::property(&["xds", "route_metadata", "filter_metadata", namespace, key]);
        let policy = Rc::clone(&self.config.rule_for(&head, &metadata)?.policy);
        let exchange = Exchange::new(policy, self.hash_key.clone());
        self.exchanges.insert(id, Entry { exchange, wake_ms: None, unseen: None });
        let now_ms = host::monotonic_ms();
        let event = Event::RequestHeaders {
            now_ms,
            head: &head,
            client_certificate: host::property(&["connection", "mtls"]).is_some_and(|value| value.contains(&1)),
            owner: Owner(Uuid::new_v4().into_bytes()),
            upstream_key: UpstreamKey(Uuid::new_v4().into_bytes()),
            end,
        };
        let verdict = self.feed(id, event, Map::Request);
        if !self.shows_bodies
            && let Some(entry) = self.exchanges.get_mut(&id)
            && entry.exchange.awaits_request_body()
        {
            entry.unseen = Some((now_ms, request_size()));
        }
        Some(verdict)
    }

    /// The exchange of this stream, where it has one.
    pub fn exchange(&self, id: u32) -> Option<&Exchange> {
        self.exchanges.get(&id).map(|entry| &entry.exchange)
    }

    /// Notes that the host shows bodies.
    pub fn body_was_shown(&mut self, id: u32) {
        self.shows_bodies = true;
        if let Some(entry) = self.exchanges.get_mut(&id) {
            entry.unseen = None;
        }
    }

    /// Whether this worker holds back too many bytes already.
    pub fn is_crowded(&self) -> bool {
        self.held > HELD_MAX
    }

    /// Feeds one event and obeys every step that follows from it. Tells whether the message in hand, whose head is
    /// `map`, goes on.
    pub fn feed(&mut self, id: u32, event: Event<'_>, map: Map) -> Verdict {
        let Some(entry) = self.exchanges.get_mut(&id) else { return Verdict::Goes };
        let (held_before, running_before) = (entry.exchange.held_bytes(), entry.exchange.is_running());
        let mut verdict = Verdict::Goes;
        let mut calls = Vec::new();
        let mut next = Some(entry.exchange.handle(event));
        while let Some(step) = next.take() {
            self.counters.count(&step);
            if let Some(status) = &step.status {
                host::set_property("idempotency", status.as_bytes());
            }
            if let Some(remark) = &step.remark {
                let level = if remark.is_warning() { Level::Warn } else { Level::Info };
                host::log(level, &format!("idempotency: {remark}"));
            }
            entry.wake_ms = step.wake_ms.or(entry.wake_ms);
            match step.flow {
                Flow::Pass => {}
                Flow::Hold => verdict = Verdict::Held,
                Flow::Resume(edits) => {
                    edits.into_iter().for_each(|edit| carry_out(map, edit));
                    verdict = Verdict::Goes;
                }
                Flow::Answer(reply) => {
                    host::send_local_response(reply.status, &reply.headers, &reply.body, reply.details);
                    verdict = Verdict::Held;
                }
            }
            calls.extend(step.calls);
            if let Some(call) = calls.pop() {
                let asked = call.operation.asked();
                let now_ms = host::monotonic_ms();
                let verdict = self.table.apply(call, now_ms);
                self.counters.add(Count::StoreOperation, step.observed);
                next = Some(entry.exchange.handle(Event::StoreAnswered { now_ms, asked, verdict }));
            }
        }
        self.held = (self.held + entry.exchange.held_bytes()).saturating_sub(held_before);
        self.running.now += i64::from(entry.exchange.is_running()) - i64::from(running_before);
        verdict
    }

    /// Feeds the end of a stream and forgets the exchange.
    pub fn close(&mut self, id: u32, event: Event<'_>) {
        self.feed(id, event, Map::Response);
        if let Some(entry) = self.exchanges.remove(&id) {
            self.held = self.held.saturating_sub(entry.exchange.held_bytes());
        }
    }

    fn tick(&mut self) {
        let now_ms = host::monotonic_ms();
        let due = |entry: &Entry| entry.wake_ms.is_some_and(|wake| wake <= now_ms);
        let awake: Vec<u32> = self.exchanges.iter().filter(|(_, entry)| due(entry)).map(|(id, _)| *id).collect();
        for id in awake {
            if let Some(entry) = self.exchanges.get_mut(&id) {
                entry.wake_ms = None;
            }
            host::set_effective_context(id);
            self.feed(id, Event::Tick { now_ms }, Map::Response);
        }
        if !self.shows_bodies {
            self.find_unshown(now_ms);
        }
        self.table.sweep(SWEEP_STEPS, now_ms);
        self.running.tell();
        self.ticks = self.ticks.wrapping_add(1);
        if self.ticks.is_multiple_of(GAUGE_TICKS)
            && let Some(gauge) = self.store_bytes
        {
            host::record_metric(gauge, self.table.bytes());
        }
    }

    /// Ends requests whose body Envoy has received and does not show: the flag is missing.
    fn find_unshown(&mut self, now_ms: u64) {
        let unseen: Vec<_> =
            self.exchanges.iter().filter_map(|(id, entry)| entry.unseen.map(|since| (*id, since))).collect();
        for (id, (since_ms, size)) in unseen {
            host::set_effective_context(id);
            if request_size() > size || now_ms > since_ms + NO_BODY_MS {
                self.body_is_hidden(id, now_ms);
            }
        }
    }

    fn body_is_hidden(&mut self, id: u32, now_ms: u64) {
        if let Some(entry) = self.exchanges.get_mut(&id) {
            entry.unseen = None;
        }
        if self.feed(id, Event::Unable { now_ms }, Map::Request) == Verdict::Goes {
            host::continue_stream(Map::Request);
        }
    }
}

/// Counters by what they count, and whether in a trial.
trait Counters {
    fn add(&self, count: Count, observed: bool);

    fn count(&self, step: &Step) {
        step.counts.iter().for_each(|count| self.add(*count, step.observed));
    }
}

impl Counters for HashMap<(Count, bool), u32> {
    fn add(&self, count: Count, observed: bool) {
        if let Some(id) = self.get(&(count, observed)) {
            host::increment_metric(*id, 1);
        }
    }
}

impl RunningGauge {
    fn tell(&mut self) {
        if let Some(id) = self.id
            && self.now != self.told
        {
            host::increment_metric(id, self.now - self.told);
            self.told = self.now;
        }
    }
}

fn carry_out(map: Map, edit: Edit) {
    match edit {
        Edit::Add(name, value) => host::add_header(map, name, &value),
        Edit::Remove(name) => host::remove_header(map, name),
        Edit::Set(name, value) => host::set_header(map, name, &value),
    }
}

/// How much of the request Envoy has received.
fn request_size() -> u64 {
    host::number(&["request", "total_size"]).unwrap_or(0)
}

/// Logs the warnings in the first worker that gets here, and in no other.
fn warn_once(config: &Config, plugin: &[u8], document: &[u8]) {
    let mut digest = Digest::new("warned", None);
    digest.part("plugin", plugin);
    digest.part("document", document);
    let first: Result<bool, Failure> = SharedData.swap(&digest.finish(), b"", None);
    if first.unwrap_or(true) {
        config.warnings.iter().for_each(|warning| host::log(Level::Warn, &format!("idempotency: {warning}")));
    }
}
