//! A worker between a host that keeps the rules and a store that answers as it likes.
//!
//! Its one rule: what is judged is what clients and the service see, under a store that loses nothing it has done.
//! It does not know how the worker goes about it.

use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use envoy_idempotency::command::{Command, Failure, StoreReply};
use envoy_idempotency::config::{CacheBounds, Config, Dialect, Policy, Store as Where};
use envoy_idempotency::count::Count;
use envoy_idempotency::event::{EventKind, Executed};
use envoy_idempotency::evidence::{Origin, VIA_UPSTREAM, flags};
use envoy_idempotency::exchange::{Exchange, Secrets};
use envoy_idempotency::key::Name;
use envoy_idempotency::key::UpstreamKey;
use envoy_idempotency::message::{HeaderMutation, Headers, RequestHead};
use envoy_idempotency::record::{Owner, Record};
use envoy_idempotency::reply::STATUS;
use envoy_idempotency::step::{Flow, LogEvent, Outgoing};
use envoy_idempotency::store::cache::Cache;
use envoy_idempotency::store::client::{Batch, Client, Lane, Limits, Reply};
use envoy_idempotency::store::local::Table;
use envoy_idempotency::store::{Store, model};
use envoy_idempotency::worker::{
    Action, Gauge, Host, RequestBody, ResponseBody, Side, Stream as Callbacks, Turn, Worker,
};
use host_model::SharedData;

use crate::choices::Choices;

/// Takes a configuration, and what host, clients, service and store do.
pub fn hold(data: &[u8]) {
    let mut choices = Choices::new(data);
    let mut world = World::new(choices.one(&DOCUMENTS));
    while !choices.is_over() {
        world.happens(&mut choices);
    }
    world.comes_to_rest();
}

struct World {
    /// None during a callback.
    worker: Option<Box<Worker<SharedData>>>,
    /// Whether the root is to be called.
    is_woken: bool,
    /// How many calls may be sent in a callback of a stream.
    room_in_streams: usize,
    /// What the host was told of each gauge.
    gauges: HashMap<Gauge, i64>,
    policy: Rc<Policy>,
    secrets: Rc<Secrets>,
    /// By their numbers; those that are over are gone.
    streams: BTreeMap<u32, Stream>,
    /// Executions of each operation, in their order.
    ledger: HashMap<u8, Vec<Execution>>,
    /// Every body that the service sent, with the operation and the payload it was for.
    said: HashMap<Vec<u8>, (u8, u8)>,
    records: HashMap<Name, Record>,
    batches: Vec<Batch>,
    now_ms: u64,
    drawn: u64,
}

/// The host, during one callback.
struct Envoy<'a> {
    world: &'a mut World,
    /// The stream that acts are about.
    entered: Option<u32>,
}

/// What the service saw.
struct Execution {
    stream: u32,
    payload: u8,
    /// None where it ran unprotected, because the store had failed.
    attempt: Option<u32>,
    /// Whether its client was told that it is stored.
    is_stored: bool,
}

/// One request, as the host has it.
#[derive(Default)]
struct Stream {
    /// None during a callback of it.
    callbacks: Option<Callbacks>,
    key: u8,
    payload: u8,
    /// Whether all of the request has come.
    is_whole: bool,
    /// Whether it went upstream, the client's own or one of the gateway's.
    is_sent: bool,
    /// Whether the gateway itself waits for the answer.
    is_shielded: bool,
    /// Of the gateway's own request, while it is under way.
    token: Option<u32>,
    /// Bytes of the request's body, so far.
    received: u64,
    /// What the service says, from the first byte on.
    body: Option<Vec<u8>>,
    is_body_whole: bool,
    /// Whether its message is held back, by side: request and response.
    held: [bool; 2],
    is_answered: bool,
    is_closed: bool,
}

impl World {
    fn new(document: &str) -> World {
        let config = Config::parse(document.as_bytes(), &|_| None).expect("the document is right");
        let memory = SharedData::default();
        let has_streams = matches!(&config.store, Where::Redis(redis) if matches!(redis.dialect, Dialect::Resp { .. }));
        let store = match &config.store {
            Where::Local { max_bytes } => {
                Store::Embedded(Table::open(memory, b"plugin", *max_bytes, 7).expect("memory refuses nothing"))
            }
            Where::Redis(redis) => {
                let cache = redis.cache.map(|bounds: CacheBounds| Cache::new(memory, b"plugin", "redis", bounds));
                Store::Remote(Box::new(Client::new(Limits::new(redis))), cache)
            }
        };
        World {
            worker: Some(Box::new(Worker::new(store, config.rules[0].policy.lease_ms))),
            is_woken: false,
            room_in_streams: if has_streams { usize::MAX } else { 0 },
            gauges: HashMap::new(),
            policy: Rc::clone(&config.rules[0].policy),
            secrets: Rc::new(Secrets::new(&config, b"")),
            streams: BTreeMap::new(),
            ledger: HashMap::new(),
            said: HashMap::new(),
            records: HashMap::new(),
            batches: Vec::new(),
            now_ms: 0,
            drawn: 0,
        }
    }

    fn happens(&mut self, choices: &mut Choices<'_>) {
        match choices.byte() % 10 {
            0 | 1 => self.comes(choices),
            2 => self.body_comes(choices),
            3 | 4 => self.service_answers(choices),
            5 => self.response_goes_on(choices),
            6 => self.time_passes(choices.number() % 3_000),
            7 => self.is_asked(),
            8 => self.store_answers(choices),
            _ => {
                if let Some(id) = self.pick(choices, |_| true) {
                    self.close(id);
                }
            }
        }
    }

    /// A new request: one of a few operations, with one of two payloads.
    fn comes(&mut self, choices: &mut Choices<'_>) {
        let worker = self.worker.as_ref().expect("no callback is under way");
        self.streams.retain(|id, stream| !stream.is_closed || worker.exchange(*id).is_some());
        if self.streams.len() >= STREAMS {
            return;
        }
        let (key, payload, is_whole) = (choices.byte() % 3, u8::from(choices.byte() % 4 == 3), choices.flag());
        let id = self.draw() as u32;
        let exchange = Exchange::new(Rc::clone(&self.policy), Rc::clone(&self.secrets));
        let callbacks = Some(Callbacks::new(id));
        self.streams.insert(id, Stream { callbacks, key, payload, is_whole, ..Stream::default() });
        let (text, target) = (format!("k{key}"), format!("/pay?payload={payload}"));
        let pseudo = [(":method", "POST"), (":path", &target), (":authority", "api")];
        let fields = pseudo.into_iter().chain([("authorization", "Bearer t"), ("idempotency-key", &text)]);
        let head = RequestHead { headers: fields.collect() };
        let (owner, upstream_key) = (self.owner(), UpstreamKey(self.token()));
        let kind = EventKind::RequestHeaders { head: &head, attribute: &|_| None, owner, upstream_key, end: is_whole };
        let action =
            self.call_stream(id, |worker, envoy, stream| worker.on_request_headers(envoy, stream, exchange, kind));
        self.request_goes_on(id, action);
    }

    /// More of a request's body, or its end.
    fn body_comes(&mut self, choices: &mut Choices<'_>) {
        let (end, overloaded) = (choices.flag(), choices.byte() % 8 == 7);
        let Some(id) = self.pick(choices, |stream| !stream.is_whole && !stream.is_answered && !stream.is_closed) else {
            return;
        };
        let chunk = vec![b'b'; if overloaded { 17 << 10 } else { 5 }];
        let stream = self.stream(id);
        (stream.is_whole, stream.received) = (end, stream.received + chunk.len() as u64);
        let held = stream.callbacks.as_ref().map_or(0, Callbacks::buffered_bytes);
        let read = |from: usize, len: usize| {
            assert_eq!((from, len), (held, chunk.len()), "what has not been shown");
            chunk.clone()
        };
        let size = held + chunk.len();
        let body = RequestBody { size, end, trailers: false, read: &read, attribute: &|_| None };
        let action = self.call_stream(id, |worker, envoy, stream| {
            worker.set_overloaded_from(if overloaded { 0 } else { u64::MAX });
            worker.on_request_body(envoy, stream, body)
        });
        self.request_goes_on(id, action);
    }

    /// What the host was told to do with a request; told nothing about one that it does not hold, it sends it.
    fn request_goes_on(&mut self, id: u32, action: Action) {
        if let Some(stream) = self.streams.get_mut(&id) {
            assert!(action == Action::Pause || !stream.held[0], "what is held goes on");
            let is_let_go = stream.is_whole && !stream.held[0] && !stream.is_answered && !stream.is_shielded;
            stream.is_sent |= is_let_go;
        }
    }

    /// The service answers, or Envoy in its place.
    fn service_answers(&mut self, choices: &mut Choices<'_>) {
        let (status, end) = (choices.one(&[201, 201, 201, 404, 500, 502]), choices.flag());
        let details =
            choices.one(&[VIA_UPSTREAM, VIA_UPSTREAM, VIA_UPSTREAM, b"response_timeout", b"no_healthy_upstream"]);
        let is_sent = details != b"no_healthy_upstream";
        let (attempts, flag): (_, &[u8]) = if is_sent { (Some(1), b"-") } else { (Some(0), b"UH") };
        let origin = Origin { details, attempts, flags: flags(flag), ..Origin::default() };
        let waits =
            |stream: &Stream| stream.is_sent && stream.body.is_none() && (stream.is_shielded || !stream.is_closed);
        let Some(id) = self.pick(choices, waits) else { return };
        let body = if end { Vec::new() } else { format!("answer {}", self.draw()).into_bytes() };
        let stream = self.stream(id);
        (stream.body, stream.is_body_whole) = (Some(body.clone()), end);
        let (who, is_shielded, token) = ((stream.key, stream.payload), stream.is_shielded, stream.token.take());
        if origin.details == VIA_UPSTREAM && !body.is_empty() {
            self.said.insert(body.clone(), who);
        }
        let mut headers: Headers = [("content-type", "text/plain")].into_iter().collect();
        if is_shielded {
            // What the internal listener writes down.
            headers.push(b"x-idempotency-details", details);
            headers.push(b"x-idempotency-attempts", if is_sent { b"1" } else { b"0" });
            headers.push(b"x-idempotency-flags", flag);
            headers.push(b"x-idempotency-sent", if is_sent { b"99" } else { b"0" });
            headers.push(b"x-idempotency-owner", b"-");
        }
        if let Some(token) = token {
            return self.executed(token, Executed::Answered { status, headers: &headers, body: &body });
        }
        let kind = EventKind::ResponseHeaders { headers: &headers, status, origin, end };
        self.call_stream(id, |worker, envoy, stream| worker.on_response_headers(envoy, stream, Some(kind)));
    }

    /// What came of a request of the gateway's own.
    fn executed(&mut self, token: u32, answer: Executed<'_>) {
        self.call_root(|worker, envoy| {
            let exchange = worker.take_execution(token).expect("it was sent under this token");
            worker.on_executed(envoy, exchange, answer);
        });
    }

    /// The rest of a response comes.
    fn response_goes_on(&mut self, choices: &mut Choices<'_>) {
        let end = choices.flag();
        let waits = |stream: &Stream| {
            stream.body.is_some() && !stream.is_body_whole && !stream.is_shielded && !stream.is_closed
        };
        let Some(id) = self.pick(choices, waits) else { return };
        let stream = self.stream(id);
        stream.is_body_whole = end;
        let body = stream.body.clone().unwrap_or_default();
        let (size, whole) = (body.len(), || body.clone());
        self.call_stream(id, |worker, envoy, stream| {
            worker.set_overloaded_from(u64::MAX);
            worker.on_response_body(envoy, stream, ResponseBody { size, end, whole: &whole })
        });
    }

    fn time_passes(&mut self, ms: u64) {
        self.now_ms += ms;
        let may_go = self.call_root(|worker, envoy| worker.on_tick(envoy));
        assert!(!may_go, "nothing has it drain");
    }

    /// The root's turn comes, if the worker has asked for it.
    fn is_asked(&mut self) {
        if std::mem::take(&mut self.is_woken) {
            self.call_root(|worker, envoy| worker.on_wake(envoy));
        }
    }

    fn call_root<R>(&mut self, call: impl FnOnce(&mut Worker<SharedData>, &mut Envoy<'_>) -> R) -> R {
        self.call(None, call)
    }

    fn call_stream(
        &mut self,
        id: u32,
        call: impl FnOnce(&mut Worker<SharedData>, &mut Envoy<'_>, &mut Callbacks) -> Action,
    ) -> Action {
        let mut callbacks = self.stream(id).callbacks.take().expect("no callback of it is under way");
        let action = match callbacks.is_over() {
            true => Action::Continue,
            false => self.call(Some(id), |worker, envoy| call(worker, envoy, &mut callbacks)),
        };
        self.stream(id).callbacks = Some(callbacks);
        action
    }

    fn call<R>(&mut self, entered: Option<u32>, call: impl FnOnce(&mut Worker<SharedData>, &mut Envoy<'_>) -> R) -> R {
        let mut worker = self.worker.take().expect("no callback is under way");
        let result = call(&mut worker, &mut Envoy { world: self, entered });
        self.worker = Some(worker);
        result
    }

    /// One call comes to the store; what becomes of the answer is for the network to say.
    fn store_answers(&mut self, choices: &mut Choices<'_>) {
        let (fault, which) = (choices.byte() % 8, usize::from(choices.byte()));
        if self.batches.is_empty() {
            return;
        }
        let batch = self.batches.remove(which % self.batches.len());
        if fault == 7 {
            return self.replied(batch.id, Reply::Failed(Failure::Transport));
        }
        let mut answers: Vec<_> = batch.tries.iter().map(|(nonce, call)| (*nonce, self.carry_out(call))).collect();
        match fault {
            // The answer is lost: the gateway's own clock ends the call.
            4 => {}
            5 => self.replied(batch.id, Reply::Failed(Failure::Garbage)),
            6 => {
                answers.rotate_left(1);
                answers.iter_mut().for_each(|(nonce, _)| nonce.0[0] ^= 0x80);
                self.replied(batch.id, Reply::Answers(answers));
            }
            _ => self.replied(batch.id, Reply::Answers(answers)),
        }
    }

    fn replied(&mut self, batch: u64, reply: Reply) {
        self.call_root(|worker, envoy| worker.on_store_reply(envoy, batch, reply));
    }

    fn carry_out(&mut self, call: &Command) -> StoreReply {
        let outcome = model::apply(self.records.get(&call.name).cloned(), call, self.now_ms);
        if let Some(record) = outcome.record {
            self.records.insert(call.name, record);
        }
        outcome.reply
    }

    fn flows(&mut self, id: u32, side: Side, flow: Flow) {
        let stream = self.streams.get_mut(&id).expect("only of streams that are");
        assert!(!stream.is_closed, "{flow:?} of a stream that is over");
        assert!(!stream.is_answered, "{flow:?} after the answer");
        let at = usize::from(side == Side::Response);
        match flow {
            Flow::Pass => panic!("that is no act"),
            Flow::Replace(_) | Flow::Restore(_) => panic!("an answer is restored that came by as it was given"),
            Flow::Hold => stream.held[at] = true,
            Flow::LocalReply(reply) => {
                assert!(stream.held[0] || stream.held[1] || !stream.is_sent || stream.is_shielded, "two answers");
                (stream.is_answered, stream.held) = (true, [false; 2]);
                let line = reply.headers.first(STATUS).map(|line| String::from_utf8_lossy(line).into_owned());
                self.told(id, &line.expect("every answer of its own says what it is"), &reply.body);
            }
            Flow::Resume(edits) if side == Side::Request => {
                assert!(!stream.is_sent, "it is sent twice");
                stream.held[0] = false;
                stream.is_sent = stream.is_whole;
                let set = |wanted: &str| {
                    edits.iter().find_map(|edit| match edit {
                        HeaderMutation::Set(name, value) if *name == wanted => Some(value.as_slice()),
                        _ => None,
                    })
                };
                assert_eq!(set("idempotency-attempt").is_some(), set("idempotency-operation").is_some());
                self.executes(id, set("idempotency-attempt"));
            }
            // The rest of what the root has let go half-way.
            Flow::Resume(edits) if edits.is_empty() => stream.held[1] = false,
            Flow::Resume(edits) => {
                stream.held[1] = false;
                let body = stream.body.clone().unwrap_or_default();
                let line = edits.iter().find_map(|edit| match edit {
                    HeaderMutation::Set(name, value) if *name == STATUS => {
                        Some(String::from_utf8_lossy(value).into_owned())
                    }
                    _ => None,
                });
                self.told(id, &line.expect("every response says what it is"), &body);
            }
        }
    }

    /// At most one execution under a claim, beyond takeovers under larger numbers; none after one that its client knows to
    /// be stored.
    fn executes(&mut self, stream: u32, attempt: Option<&[u8]>) {
        let attempt = attempt.map(|text| String::from_utf8_lossy(text).parse().expect("an attempt is a number"));
        let Stream { key, payload, .. } = *self.stream(stream);
        let before = self.ledger.entry(key).or_default();
        if attempt.is_some() {
            assert!(before.iter().all(|one| one.attempt < attempt), "{attempt:?} of k{key} is not the largest");
            assert!(!before.iter().any(|one| one.is_stored), "{attempt:?} of k{key} after one that is stored");
        }
        before.push(Execution { stream, payload, attempt, is_stored: false });
    }

    /// A client reads its answer.
    fn told(&mut self, id: u32, line: &str, body: &[u8]) {
        let Stream { key, payload, .. } = *self.stream(id);
        match line.split(';').next() {
            Some("executed") => {
                let own = self.ledger.get_mut(&key).and_then(|all| all.iter_mut().find(|one| one.stream == id));
                own.expect("it was executed").is_stored = line.contains(";stored=?1");
            }
            Some("replayed") if body.is_empty() => {
                let is_known = |all: &Vec<Execution>| all.iter().any(|one| one.payload == payload);
                assert!(self.ledger.get(&key).is_some_and(is_known), "a replay of nothing that was executed");
            }
            Some("replayed") => assert_eq!(self.said.get(body), Some(&(key, payload)), "a replay of something else"),
            Some("bypassed" | "refused") => {}
            _ => panic!("{line:?} is no status"),
        }
    }

    fn close(&mut self, id: u32) {
        let stream = self.stream(id);
        if std::mem::replace(&mut stream.is_closed, true) {
            return;
        }
        let details: &[u8] = match stream.is_answered || stream.is_body_whole {
            true => VIA_UPSTREAM,
            false => b"downstream_remote_disconnect",
        };
        let origin = Origin { details, attempts: Some(u64::from(stream.is_sent)), ..Origin::default() };
        let callbacks = stream.callbacks.take().expect("no callback of it is under way");
        if !callbacks.is_over() {
            self.call(None, |worker, envoy| worker.stream_ends(envoy, &callbacks, origin, None));
        }
    }

    /// Clients go, upstreams come to nothing, and the store answers: then nothing is under way, owed or told.
    fn comes_to_rest(&mut self) {
        for id in self.streams.keys().copied().collect::<Vec<_>>() {
            self.close(id);
        }
        for _ in 0..REST_STEPS {
            for id in self.streams.keys().copied().collect::<Vec<_>>() {
                if let Some(token) = self.stream(id).token.take() {
                    self.executed(token, Executed::Lost);
                }
            }
            self.is_asked();
            while let Some(batch) = self.batches.pop() {
                let answers = batch.tries.iter().map(|(nonce, call)| (*nonce, self.carry_out(call))).collect();
                self.replied(batch.id, Reply::Answers(answers));
            }
            if self.worker().is_idle() {
                break;
            }
            self.time_passes(1_000);
        }
        self.time_passes(100);
        assert!(self.worker().is_idle(), "something is under way or owed for ever");
        assert_eq!([self.worker().running(), self.worker().waiting(), self.worker().held_bytes()], [0; 3]);
        assert!(self.gauges.values().all(|told| *told == 0), "the gauges stay at {:?}", self.gauges);
    }

    fn worker(&self) -> &Worker<SharedData> {
        self.worker.as_ref().expect("no callback is under way")
    }

    /// One of the streams that fit.
    fn pick(&self, choices: &mut Choices<'_>, fits: impl Fn(&Stream) -> bool) -> Option<u32> {
        let fitting: Vec<u32> = self.streams.iter().filter(|(_, stream)| fits(stream)).map(|(id, _)| *id).collect();
        let which = usize::from(choices.byte());
        fitting.get(which % fitting.len().max(1)).copied()
    }

    fn stream(&mut self, id: u32) -> &mut Stream {
        self.streams.get_mut(&id).expect("only streams that are")
    }

    fn draw(&mut self) -> u64 {
        self.drawn += 1;
        self.drawn
    }

    fn owner(&mut self) -> Owner {
        Owner(self.token())
    }

    fn token(&mut self) -> [u8; 16] {
        token(&mut self.drawn)
    }
}

impl Host for Envoy<'_> {
    fn now_ms(&self) -> u64 {
        self.world.now_ms
    }

    fn draw(&mut self) -> [u8; 16] {
        token(&mut self.world.drawn)
    }

    /// Envoy keeps the context of a stream that has ended, until it does not.
    fn enter(&mut self, stream: u32) -> bool {
        self.entered = Some(stream);
        self.world.streams.contains_key(&stream)
    }

    fn apply_flow(&mut self, side: Side, flow: Flow) {
        let stream = self.entered.expect("a stream is in effect");
        self.world.flows(stream, side, flow);
    }

    fn resume(&mut self, side: Side) {
        let stream = self.entered.expect("a stream is in effect");
        assert!(!self.world.stream(stream).held[usize::from(side == Side::Response)], "it was told to go on");
    }

    fn set_status(&mut self, _text: &str) {
        let stream = self.entered.expect("a stream is in effect");
        assert!(!self.world.stream(stream).is_closed, "the status of a stream that is over");
    }

    fn request_size(&mut self) -> u64 {
        let stream = self.entered.expect("a stream is in effect");
        self.world.stream(stream).received
    }

    fn execute(&mut self, exchange: u32, outgoing: Outgoing) -> Option<u32> {
        let attempt = outgoing.headers.first("idempotency-attempt").map(<[u8]>::to_vec);
        let token = self.world.draw() as u32;
        let stream = self.world.stream(exchange);
        assert!(!stream.is_sent, "it is sent twice");
        (stream.is_sent, stream.is_shielded, stream.token) = (true, true, Some(token));
        self.world.executes(exchange, attempt.as_deref());
        Some(token)
    }

    fn room(&self, _lane: Lane, turn: Turn) -> usize {
        match turn {
            Turn::Root => usize::MAX,
            Turn::Stream => self.world.room_in_streams,
        }
    }

    fn send(&mut self, batches: Vec<Batch>) -> Vec<(u64, Failure)> {
        self.world.batches.extend(batches);
        Vec::new()
    }

    fn wake(&mut self) {
        assert!(!std::mem::replace(&mut self.world.is_woken, true), "it is woken twice");
    }

    fn clear(&mut self) {}

    fn count(&mut self, _count: Count, _rule: usize, _observed: bool) {}

    fn change_gauge(&mut self, gauge: Gauge, by: i64) {
        *self.world.gauges.entry(gauge).or_default() += by;
    }

    fn note_wait(&mut self, _waited_ms: u64) {}

    fn set_store_size(&mut self, _bytes: u64, _records: u64) {}

    fn note_owed_since(&mut self, _since_ms: Option<u64>, _now_ms: u64) {}

    fn log(&mut self, _remark: &LogEvent) {}

    fn note_store_failed(&mut self, _now_ms: u64) -> bool {
        true
    }

    fn note_store_answers(&mut self, _now_ms: u64) -> Option<u64> {
        None
    }

    fn note_caller(&mut self, _rule: &str) {}

    fn note_no_caller(&mut self, _rule: &str, _now_ms: u64) -> bool {
        true
    }
}

/// Another one every time.
fn token(drawn: &mut u64) -> [u8; 16] {
    *drawn += 1;
    u128::from(*drawn).to_le_bytes()
}

/// How many requests are there at once.
const STREAMS: usize = 6;
/// Seconds after which the gateway must have come to rest: more than a lease, and all pauses of the outbox.
const REST_STEPS: usize = 600;

/// Records live for a year, so that none expires within a run.
const DOCUMENTS: [&str; 9] = [
    r#"{"policy": {"ttl_s": 31536000}}"#,
    r#"{"policy": {"ttl_s": 31536000, "on_in_flight": {"action": "wait"}, "lease_ms": 1000}}"#,
    r#"{"store": {"type": "redis", "dialect": "webdis", "cluster": "c"}, "policy": {"ttl_s": 31536000, "lease_ms": 2000}}"#,
    r#"{"store": {"type": "redis", "dialect": "webdis", "cluster": "c", "cache": null, "batching": false}, "policy": {"ttl_s": 31536000, "on_in_flight": {"action": "wait"}, "lease_ms": 1000, "max_running_ms": 2000}}"#,
    r#"{"store": {"type": "redis", "dialect": "webdis", "cluster": "c"}, "policy": {"ttl_s": 31536000, "execution": {"kind": "shielded", "cluster": "c"}}}"#,
    r#"{"store": {"type": "redis", "dialect": "webdis", "cluster": "c"}, "policy": {"ttl_s": 31536000, "on_store_failure": "forward", "lease_ms": 1000}}"#,
    r#"{"policy": {"ttl_s": 31536000, "execution": {"kind": "shielded", "cluster": "c"}, "save": "after_reply", "on_in_flight": {"action": "wait"}}}"#,
    r#"{"store": {"type": "redis", "cluster": "c"}, "policy": {"ttl_s": 31536000, "lease_ms": 2000}}"#,
    r#"{"store": {"type": "redis", "cluster": "c", "cache": null, "batching": false}, "policy": {"ttl_s": 31536000, "on_in_flight": {"action": "wait"}, "lease_ms": 1000, "max_running_ms": 2000}}"#,
];
