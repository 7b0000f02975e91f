//! A worker between a host that keeps the rules and a store that answers as it likes.
//!
//! Its one rule: what is judged is what clients and the service see, under a store that loses nothing it has done.
//! It does not know how the gateway goes about it.

use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use envoy_idempotency::command::{Command, Failure, StoreReply};
use envoy_idempotency::config::{CacheBounds, Config, Policy, Store as Where};
use envoy_idempotency::event::{Event, EventKind, Executed, Origin, VIA_UPSTREAM};
use envoy_idempotency::exchange::{Exchange, Secrets};
use envoy_idempotency::gateway::{Act, Gateway, Side};
use envoy_idempotency::key::Name;
use envoy_idempotency::key::UpstreamKey;
use envoy_idempotency::message::{Edit, Headers, RequestHead};
use envoy_idempotency::record::{Owner, Record};
use envoy_idempotency::reply::STATUS;
use envoy_idempotency::step::Flow;
use envoy_idempotency::store::cache::Cache;
use envoy_idempotency::store::client::{Batch, Client, Limits, Nonce, Reply};
use envoy_idempotency::store::local::Table;
use envoy_idempotency::store::{Store, model};

use crate::choices::Choices;
use crate::memory::Memory;

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
    gateway: Gateway<Memory>,
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
#[derive(Clone, Default)]
struct Stream {
    key: u8,
    payload: u8,
    /// Whether all of the request has come.
    is_whole: bool,
    /// Whether it went upstream, the client's own or one of the gateway's.
    is_sent: bool,
    /// Whether the gateway itself waits for the answer.
    is_shielded: bool,
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
        let memory = Memory::default();
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
            gateway: Gateway::new(store),
            policy: Rc::clone(&config.rules[0].policy),
            secrets: Rc::new(Secrets::new(&config)),
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
        if self.streams.len() >= STREAMS {
            return;
        }
        let (key, payload, is_whole) = (choices.byte() % 3, u8::from(choices.byte() % 4 == 3), choices.flag());
        let id = self.draw() as u32;
        self.gateway.begin(id, Exchange::new(Rc::clone(&self.policy), Rc::clone(&self.secrets)));
        self.streams.insert(id, Stream { key, payload, is_whole, ..Stream::default() });
        let (text, target) = (format!("k{key}"), format!("/pay?payload={payload}"));
        let pseudo = [(":method", "POST"), (":path", &target), (":authority", "api")];
        let fields = pseudo.into_iter().chain([("authorization", "Bearer t"), ("idempotency-key", &text)]);
        let head = RequestHead { headers: fields.collect() };
        let (owner, upstream_key) = (self.owner(), UpstreamKey(self.token()));
        let now_ms = self.now_ms;
        let event = Event {
            now_ms,
            kind: EventKind::RequestHeaders { head: &head, attribute: &|_| None, owner, upstream_key, end: is_whole },
        };
        self.feed_request(id, event);
    }

    /// More of a request's body, or its end.
    fn body_comes(&mut self, choices: &mut Choices<'_>) {
        let (end, crowded) = (choices.flag(), choices.byte() % 8 == 7);
        let Some(id) = self.pick(choices, |stream| !stream.is_whole && !stream.is_answered && !stream.is_closed) else {
            return;
        };
        self.stream(id).is_whole = end;
        let chunk = vec![b'b'; if crowded { 17 << 10 } else { 5 }];
        let event = Event {
            now_ms: self.now_ms,
            kind: EventKind::RequestBody { attribute: &|_| None, chunk: &chunk, crowded, end, trailers: false },
        };
        self.feed_request(id, event);
    }

    /// What the host was told to do with a request; told nothing about one that it does not hold, it sends it.
    fn feed_request(&mut self, id: u32, event: Event<'_>) {
        let acts = self.gateway.feed(id, event, self.now_ms);
        self.obey(acts);
        if let Some(stream) = self.streams.get_mut(&id) {
            let is_let_go = stream.is_whole && !stream.held[0] && !stream.is_answered && !stream.is_shielded;
            stream.is_sent |= is_let_go;
        }
    }

    /// The service answers, or Envoy in its place.
    fn service_answers(&mut self, choices: &mut Choices<'_>) {
        let (status, end) = (choices.one(&[201, 201, 201, 404, 500, 502]), choices.flag());
        let details =
            choices.one(&[VIA_UPSTREAM, VIA_UPSTREAM, VIA_UPSTREAM, b"response_timeout", b"no_healthy_upstream"]);
        let origin = Origin { details, attempts: Some(1), connected: details != b"no_healthy_upstream" };
        let waits =
            |stream: &Stream| stream.is_sent && stream.body.is_none() && (stream.is_shielded || !stream.is_closed);
        let Some(id) = self.pick(choices, waits) else { return };
        let body = if end { Vec::new() } else { format!("answer {}", self.draw()).into_bytes() };
        let now_ms = self.now_ms;
        let stream = self.stream(id);
        (stream.body, stream.is_body_whole) = (Some(body.clone()), end);
        let (who, is_shielded) = ((stream.key, stream.payload), stream.is_shielded);
        if origin.details == VIA_UPSTREAM && !body.is_empty() {
            self.said.insert(body.clone(), who);
        }
        let mut headers: Headers = [("content-type", "text/plain")].into_iter().collect();
        if is_shielded {
            // What the internal listener writes down.
            headers.push(b"x-idempotency-details", details);
            headers.push(b"x-idempotency-attempts", b"1");
            headers.push(b"x-idempotency-upstream", if origin.connected { b"127.0.0.1:1" } else { b"-" });
        }
        let event = match is_shielded {
            false => Event { now_ms, kind: EventKind::ResponseHeaders { headers: &headers, status, origin, end } },
            true => Event {
                now_ms,
                kind: EventKind::Executed { answer: Executed::Answered { status, headers: &headers, body: &body } },
            },
        };
        let acts = self.gateway.feed(id, event, now_ms);
        self.obey(acts);
    }

    /// The rest of a response comes.
    fn response_goes_on(&mut self, choices: &mut Choices<'_>) {
        let end = choices.flag();
        let waits = |stream: &Stream| {
            stream.body.is_some() && !stream.is_body_whole && !stream.is_shielded && !stream.is_closed
        };
        let Some(id) = self.pick(choices, waits) else { return };
        let now_ms = self.now_ms;
        let stream = self.stream(id);
        stream.is_body_whole = end;
        let body = stream.body.clone().unwrap_or_default();
        let event = Event {
            now_ms,
            kind: EventKind::ResponseBody { held: body.len() as u64, whole: &|| body.clone(), crowded: false, end },
        };
        let acts = self.gateway.feed(id, event, now_ms);
        self.obey(acts);
    }

    fn time_passes(&mut self, ms: u64) {
        self.now_ms += ms;
        let (gateway, drawn) = (&mut self.gateway, &mut self.drawn);
        let acts = gateway.tick(self.now_ms, || Owner(token(drawn)));
        self.obey(acts);
    }

    /// The gateway sends what waits for the store.
    fn is_asked(&mut self) {
        let drawn = &mut self.drawn;
        let batch = self.gateway.next_batch(self.now_ms, || Nonce(token(drawn)));
        self.batches.extend(batch);
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
        let acts = self.gateway.replied(batch, reply, self.now_ms);
        self.obey(acts);
    }

    fn carry_out(&mut self, call: &Command) -> StoreReply {
        let outcome = model::apply(self.records.get(&call.name).cloned(), call, self.now_ms);
        if let Some(record) = outcome.record {
            self.records.insert(call.name, record);
        }
        outcome.verdict
    }

    /// Does what the gateway says, as the host does, and judges it.
    fn obey(&mut self, acts: Vec<Act>) {
        for act in acts {
            match act {
                Act::Flow { exchange, side, flow } => self.flows(exchange, side, flow),
                Act::Execute { exchange, outgoing } => {
                    let attempt = outgoing.headers.first("idempotency-attempt").map(<[u8]>::to_vec);
                    let stream = self.stream(exchange);
                    assert!(!stream.is_sent, "it is sent twice");
                    (stream.is_sent, stream.is_shielded) = (true, true);
                    self.executes(exchange, attempt.as_deref());
                }
                Act::CallerSeen(_) | Act::Count { .. } | Act::Log(_) | Act::Status { .. } => {}
            }
        }
    }

    fn flows(&mut self, id: u32, side: Side, flow: Flow) {
        let stream = self.streams.get_mut(&id).expect("only of streams that are");
        assert!(!stream.is_closed, "{flow:?} of a stream that is over");
        assert!(!stream.is_answered, "{flow:?} after the answer");
        let at = usize::from(side == Side::Response);
        match flow {
            Flow::Pass => panic!("that is no act"),
            Flow::Hold => stream.held[at] = true,
            Flow::Answer(reply) => {
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
                        Edit::Set(name, value) if *name == wanted => Some(value.as_slice()),
                        _ => None,
                    })
                };
                assert_eq!(set("idempotency-attempt").is_some(), set("idempotency-operation").is_some());
                self.executes(id, set("idempotency-attempt"));
            }
            Flow::Resume(edits) => {
                stream.held[1] = false;
                let body = stream.body.clone().unwrap_or_default();
                let line = edits.iter().find_map(|edit| match edit {
                    Edit::Set(name, value) if *name == STATUS => Some(String::from_utf8_lossy(value).into_owned()),
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
        let (now_ms, stream) = (self.now_ms, self.stream(id));
        if std::mem::replace(&mut stream.is_closed, true) {
            return;
        }
        let details: &[u8] = match stream.is_answered || stream.is_body_whole {
            true => VIA_UPSTREAM,
            false => b"downstream_remote_disconnect",
        };
        let origin = Origin { details, attempts: stream.is_sent.then_some(1), connected: stream.is_sent };
        let acts = self.gateway.feed(id, Event { now_ms, kind: EventKind::Closed { origin } }, now_ms);
        self.obey(acts);
        if !self.stream(id).is_shielded {
            self.streams.remove(&id);
        }
    }

    /// Clients go, upstreams come to nothing, and the store answers: then nothing is under way or owed.
    fn comes_to_rest(&mut self) {
        for id in self.streams.keys().copied().collect::<Vec<_>>() {
            self.close(id);
        }
        for id in self.streams.keys().copied().collect::<Vec<_>>() {
            let acts = self.gateway.feed(
                id,
                Event { now_ms: self.now_ms, kind: EventKind::Executed { answer: Executed::Lost } },
                self.now_ms,
            );
            self.obey(acts);
        }
        for _ in 0..REST_STEPS {
            self.is_asked();
            while let Some(batch) = self.batches.pop() {
                let answers = batch.tries.iter().map(|(nonce, call)| (*nonce, self.carry_out(call))).collect();
                self.replied(batch.id, Reply::Answers(answers));
            }
            if self.gateway.is_idle() {
                break;
            }
            self.time_passes(1_000);
        }
        assert!(self.gateway.is_idle(), "something is under way or owed for ever");
        assert_eq!([self.gateway.running(), self.gateway.waiting(), self.gateway.held_bytes()], [0; 3]);
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
const DOCUMENTS: [&str; 7] = [
    r#"{"policy": {"ttl_s": 31536000}}"#,
    r#"{"policy": {"ttl_s": 31536000, "on_in_flight": {"action": "wait"}, "lease_ms": 1000}}"#,
    r#"{"store": {"type": "redis", "cluster": "c"}, "policy": {"ttl_s": 31536000, "lease_ms": 2000}}"#,
    r#"{"store": {"type": "redis", "cluster": "c", "cache": null, "batching": false}, "policy": {"ttl_s": 31536000, "on_in_flight": {"action": "wait"}, "lease_ms": 1000, "max_running_ms": 2000}}"#,
    r#"{"store": {"type": "redis", "cluster": "c"}, "policy": {"ttl_s": 31536000, "execution": {"kind": "shielded", "cluster": "c"}}}"#,
    r#"{"store": {"type": "redis", "cluster": "c"}, "policy": {"ttl_s": 31536000, "on_store_failure": "forward", "lease_ms": 1000}}"#,
    r#"{"policy": {"ttl_s": 31536000, "execution": {"kind": "shielded", "cluster": "c"}, "save": "after_reply", "on_in_flight": {"action": "wait"}}}"#,
];
