//! The acts of a worker, as calls to Envoy.
//!
//! Its one rule: an act becomes the host calls that carry it out, and nothing is decided.
//! It does not know what the worker has under way.

use crate::VERSION;
use crate::command::Failure;
use crate::config::{Config, Mode, Store as StoreConfig};
use crate::count::Count;
use crate::digest::{Digest, hex};
use crate::message::HeaderMutation;
use crate::shell::host::{self, Buffer, Level, Map, Metric, RootWaker, SharedData};
use crate::shell::streams::Streams;
use crate::shell::way::Way;
use crate::step::{Flow, LogEvent, Outgoing};
use crate::store::client::{Batch, Heard, Lane};
use crate::store::local::SharedMap;
use crate::worker::{Gauge, Host, NO_CALLER_QUIET_MS, STORE_QUIET_MS, Side, Turn};

/// For how long a note of what is owed counts.
const OWED_NOTE_MS: u64 = 2_500;
/// How often at most it is noted that the store goes on failing.
const FAILURE_NOTE_MS: u64 = 500;
/// For how long that note counts.
const FAILURE_LASTS_MS: u64 = 60_000;
/// How many random bytes are drawn at once.
const ENTROPY_BYTES: usize = 4096;

/// Envoy, as one worker has it.
pub struct Envoy {
    /// Of the plugin's name and document: what tells its notes for other workers from another's.
    identity: [u8; 32],
    /// None with the embedded store.
    way: Option<Way>,
    /// By which a stream has the root called.
    waker: RootWaker,
    entropy: Entropy,
    /// The host's numbers of each rule's counters; then those of the store, and of the store in trials.
    counters: Vec<Vec<(Count, Vec<u32>)>>,
    unmatched: Option<u32>,
    gauges: Vec<(Gauge, u32)>,
    outbox_age: Option<u32>,
    store_bytes: Option<u32>,
    store_records: Option<u32>,
    wait_ms: Option<u32>,
}

/// Random bytes from the host, drawn in bulk because every draw is a call.
#[derive(Default)]
pub struct Entropy(Vec<u8>);

impl Entropy {
    /// So many of them.
    pub fn draw<const N: usize>(&mut self) -> [u8; N] {
        if self.0.len() < N {
            self.0 = host::random(ENTROPY_BYTES);
        }
        let left = self.0.len().saturating_sub(N);
        let mut drawn = [0; N];
        drawn.iter_mut().zip(self.0.drain(left..)).for_each(|(place, byte)| *place = byte);
        drawn
    }
}

impl Envoy {
    /// Registers what this worker needs of the host. Called in the root's configure callback.
    ///
    /// # Errors
    /// A sentence that says what the host refuses.
    pub fn new(config: &Config, identity: [u8; 32], way: Option<Way>, mut entropy: Entropy) -> Result<Self, String> {
        let name = format!("idempotency {}", hex(&entropy.draw::<16>()));
        let waker = RootWaker::register(&name).ok_or("Envoy refuses to register a shared queue")?;
        let gauge = |name: &str| host::define_metric(Metric::Gauge, name);
        let has_table = matches!(config.store, StoreConfig::Local { .. });
        let gauge_of_table = |name: &str| has_table.then(|| gauge(name)).flatten();
        let gauges = Gauge::ALL.into_iter().filter_map(|which| Some((which, gauge(which.metric())?))).collect();
        let set = |name: &str, value| gauge(name).into_iter().for_each(|id| host::record_metric(id, value));
        set(&format!("idempotency.build_info.version.{VERSION}"), 1);
        if let StoreConfig::Local { max_bytes } = config.store {
            set("idempotency_store_max_bytes", max_bytes);
        }
        Ok(Envoy {
            identity,
            way,
            waker,
            entropy,
            counters: counters(config),
            unmatched: host::define_metric(Metric::Counter, "idempotency_unmatched_total"),
            gauges,
            outbox_age: gauge("idempotency_outbox_age_seconds"),
            store_bytes: gauge_of_table("idempotency_store_bytes"),
            store_records: gauge_of_table("idempotency_store_records"),
            wait_ms: host::define_metric(Metric::Histogram, "idempotency_wait_milliseconds"),
        })
    }

    /// Counts so many requests that no rule was about.
    pub fn count_unmatched(&self, requests: u64) {
        if let Some(id) = self.unmatched.filter(|_| requests > 0) {
            host::increment_metric(id, requests as i64);
        }
    }

    /// An HTTP call has ended; none where it is not over, or not of the store.
    pub fn call_ended(&mut self, token: u32, responded: bool, body_size: usize) -> Option<Heard> {
        self.way.as_mut()?.call_ended(token, responded, body_size)
    }

    /// The streams to the store, where there are any.
    pub fn streams(&mut self) -> Option<&mut Streams> {
        self.way.as_mut()?.streams()
    }

    /// Where workers note for each other that the store fails.
    fn failure_key(&self) -> [u8; 32] {
        let mut digest = Digest::new("failing store", None);
        digest.part("identity", &self.identity);
        digest.finish()
    }

    /// What they have noted, and its version.
    fn noted_failure(&self) -> (Option<(u64, u64)>, Option<u32>) {
        let noted = SharedData.get(&self.failure_key()).ok().flatten();
        noted.map_or((None, None), |(value, version)| (two_times(&value), Some(version)))
    }

    /// Where workers note for each other whether requests of this rule have shown a caller.
    fn callers_key(&self, rule: &str) -> [u8; 32] {
        let mut digest = Digest::new("callers of a rule", None);
        digest.part("identity", &self.identity);
        digest.part("rule", rule.as_bytes());
        digest.finish()
    }
}

impl Host for Envoy {
    fn now_ms(&self) -> u64 {
        host::monotonic_ms()
    }

    fn draw(&mut self) -> [u8; 16] {
        self.entropy.draw()
    }

    fn enter(&mut self, stream: u32) -> bool {
        host::set_effective_context(stream)
    }

    fn apply_flow(&mut self, side: Side, flow: Flow) {
        match flow {
            Flow::Pass | Flow::Hold => {}
            Flow::Resume(edits) => {
                for edit in edits {
                    match edit {
                        HeaderMutation::Add(name, value) => host::add_header(map(side), name, &value),
                        HeaderMutation::Remove(name) => host::remove_header(map(side), name),
                        HeaderMutation::Set(name, value) => host::set_header(map(side), name, &value),
                    }
                }
            }
            Flow::Restore(headers) => host::set_headers(map(side), &headers),
            Flow::Replace(body) => host::set_body(Buffer::ResponseBody, usize::MAX, &body),
            Flow::LocalReply(reply) => {
                host::send_local_response(reply.status, &reply.headers, &reply.body, reply.details);
            }
        }
    }

    fn resume(&mut self, side: Side) {
        host::continue_stream(map(side));
    }

    fn set_status(&mut self, text: &str) {
        host::set_property("idempotency", text.as_bytes());
    }

    fn request_size(&mut self) -> u64 {
        host::number(&["request", "total_size"]).unwrap_or(0)
    }

    fn execute(&mut self, _exchange: u32, outgoing: Outgoing) -> Option<u32> {
        let Outgoing { cluster, timeout_ms, headers, body } = outgoing;
        host::http_call(&cluster, &headers, &body, timeout_ms)
    }

    fn room(&self, lane: Lane, turn: Turn) -> usize {
        self.way.as_ref().map_or(0, |way| way.room(lane, turn))
    }

    fn send(&mut self, batches: Vec<Batch>) -> Vec<(u64, Failure)> {
        self.way.as_mut().map_or_else(Vec::new, |way| way.send(batches))
    }

    fn wake(&mut self) {
        self.waker.wake();
    }

    fn clear(&mut self) {
        self.waker.clear();
    }

    fn count(&mut self, count: Count, rule: usize, observed: bool) {
        let rules = self.counters.len().saturating_sub(2);
        let place = if count.is_of_the_store() { rules + usize::from(observed) } else { rule };
        let counter = self.counters.get(place).and_then(|of| of.iter().find(|(counted, _)| *counted == count));
        counter.iter().flat_map(|(_, ids)| ids).for_each(|id| host::increment_metric(*id, 1));
    }

    fn change_gauge(&mut self, gauge: Gauge, by: i64) {
        let ids = self.gauges.iter().filter(|(which, _)| *which == gauge);
        ids.for_each(|(_, id)| host::increment_metric(*id, by));
    }

    fn note_wait(&mut self, waited_ms: u64) {
        self.wait_ms.into_iter().for_each(|id| host::record_metric(id, waited_ms));
    }

    fn set_store_size(&mut self, bytes: u64, records: u64) {
        self.store_bytes.into_iter().for_each(|id| host::record_metric(id, bytes));
        self.store_records.into_iter().for_each(|id| host::record_metric(id, records));
    }

    /// What stands under the key is since when the oldest is owed, and when that was noted. The worker that owes it notes
    /// it again and again; what it has not noted of late is over.
    fn note_owed_since(&mut self, since_ms: Option<u64>, now_ms: u64) {
        // One for all plugins, as the gauge is.
        let key = Digest::new("owed since", None).finish();
        let noted = SharedData.get(&key).ok().flatten().and_then(|(value, _)| two_times(&value));
        let others_ms = noted.filter(|(_, noted_ms)| now_ms < noted_ms + OWED_NOTE_MS).map(|(since_ms, _)| since_ms);
        let age_ms = match (since_ms, others_ms) {
            (Some(own_ms), others_ms) if others_ms.is_none_or(|others_ms| own_ms <= others_ms) => {
                let note = [own_ms.to_le_bytes(), now_ms.to_le_bytes()].concat();
                let _unneeded: Result<(), Failure> = SharedData.put(&key, &note);
                now_ms.saturating_sub(own_ms)
            }
            (_, Some(_)) => return,
            (_, None) => 0,
        };
        self.outbox_age.into_iter().for_each(|id| host::record_metric(id, age_ms / 1000));
    }

    fn log(&mut self, log_event: &LogEvent) {
        let level = if log_event.is_warning() { Level::Warn } else { Level::Info };
        host::log(level, &log_event.to_string());
    }

    /// What stands under the key is since when it fails, and when it was seen to fail last; nothing where it answers.
    fn note_store_failed(&mut self, now_ms: u64) -> bool {
        let (known, version) = self.noted_failure();
        // A worker that has crashed since cannot say that the store has answered it.
        let known = known.filter(|(_, last_ms)| now_ms < last_ms + FAILURE_LASTS_MS);
        let since_ms = known.map_or(now_ms, |(since_ms, _)| since_ms);
        if known.is_some_and(|(_, last_ms)| now_ms < last_ms + FAILURE_NOTE_MS) {
            return false;
        }
        let note = [since_ms.to_le_bytes(), now_ms.to_le_bytes()].concat();
        let is_noted = SharedData.swap(&self.failure_key(), &note, version).unwrap_or(true);
        is_noted && known.is_none()
    }

    fn note_store_answers(&mut self, now_ms: u64) -> Option<u64> {
        let (known, version) = self.noted_failure();
        let (since_ms, _) = known.filter(|(_, last_ms)| now_ms + FAILURE_NOTE_MS >= last_ms + STORE_QUIET_MS)?;
        SharedData.swap(&self.failure_key(), b"", version).unwrap_or(true).then_some(since_ms)
    }

    fn note_caller(&mut self, rule: &str) {
        // A worker that has seen none must not say that there was none.
        let _unneeded: Result<(), Failure> = SharedData.put(&self.callers_key(rule), &u64::MAX.to_le_bytes());
    }

    /// What stands under the rule's key is when it was said last, and the last moment there is once there was a caller.
    fn note_no_caller(&mut self, rule: &str, now_ms: u64) -> bool {
        let key = self.callers_key(rule);
        let known = SharedData.get(&key).ok().flatten();
        let said_ms = |value: Vec<u8>| value.try_into().map_or(0, u64::from_le_bytes);
        let (said_ms, version) = known.map_or((None, None), |(value, version)| (Some(said_ms(value)), Some(version)));
        said_ms.is_none_or(|said_ms| now_ms >= said_ms.saturating_add(NO_CALLER_QUIET_MS))
            && SharedData.swap(&key, &now_ms.to_le_bytes(), version).unwrap_or(true)
    }
}

/// Defines what is counted, by rule and then of the store: all of it at once, so that a counter stands at 0 before it
/// counts, and its first step is seen as one.
fn counters(config: &Config) -> Vec<Vec<(Count, Vec<u32>)>> {
    let define = |counts: Vec<Count>, rule: &str, observed| {
        let ids = |count: &Count| {
            let names = count.metrics(rule, observed);
            names.iter().filter_map(|name| host::define_metric(Metric::Counter, name)).collect()
        };
        counts.into_iter().map(|count| (count, ids(&count))).collect()
    };
    let of_rules = config.rules.iter().map(|rule| match rule.policy.mode {
        Mode::Off => Vec::new(),
        mode => define(Count::of_a_rule(), &rule.policy.rule.label(), mode == Mode::Observe),
    });
    let observes = config.rules.iter().any(|rule| rule.policy.mode == Mode::Observe);
    let of_trials = if observes { define(Count::of_the_store(), "", true) } else { Vec::new() };
    of_rules.chain([define(Count::of_the_store(), "", false), of_trials]).collect()
}

/// Two moments as a note has them.
fn two_times(note: &[u8]) -> Option<(u64, u64)> {
    let (first, second) = note.split_at_checked(8)?;
    Some((u64::from_le_bytes(first.try_into().ok()?), u64::from_le_bytes(second.try_into().ok()?)))
}

fn map(side: Side) -> Map {
    match side {
        Side::Request => Map::Request,
        Side::Response => Map::Response,
    }
}
