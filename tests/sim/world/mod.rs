//! The world: gateways, the store, the network between them, an upstream with a ledger, and clients; under one clock.
//!
//! Its one rule: workers are the real ones and see nothing but callbacks; all that happens around them is here, follows
//! from the plan or the script, and is written down for the oracle.

mod clients;

mod envoy;

mod gateways;

mod network;

mod operator;

mod streams;

mod upstream;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap, HashSet, VecDeque};
use std::rc::Rc;

use envoy_idempotency::command::{Failure, Resolution};
use envoy_idempotency::config::Policy;
use envoy_idempotency::exchange::Secrets;
use envoy_idempotency::key::Name;
use envoy_idempotency::message::{HeaderMutation, Headers};
use envoy_idempotency::record::Owner;
use envoy_idempotency::store as stores;
use envoy_idempotency::store::client::{Batch, Nonce, Reply};
use envoy_idempotency::worker::{self, Gauge, Stream};
use host_model::{Random, SharedData};

use crate::coverage::Coverage;
use crate::embedded::Memory;
use crate::plan::{Fault, Plan};
use crate::store::{EPOCH_MS, Store};
use clients::name;
use envoy::Afterwards;
use gateways::{config, memory};
pub use operator::Word;
pub use streams::Cut;
use streams::{Connection, Line};

/// How often a gateway with something under way looks at what is due.
const TICK_MS: u64 = 100;
/// How long a response whose body Envoy does not show is held at most.
const HIDDEN_MS: u64 = 10_500;
/// The longest pause of the outbox.
pub const BACKOFF_MS: u64 = 5_000;
/// A body that a overloaded worker does not hold back.
pub const LARGE_BODY: usize = 17 << 10;
/// The largest body the policy allows, either way.
pub const MAX_BODY: usize = 18 << 10;
/// The tenant of those who only have a worker hear from the store.
const KNOCKS: u8 = 9;
/// A larger one.
pub const TOO_LARGE_BODY: usize = 19 << 10;

/// One HTTP request of a client, and all that became of it.
pub struct Request {
    /// Whether its client speaks in the gateway's name.
    pub lies: bool,
    pub client: usize,
    pub label: String,
    pub tenant: u8,
    pub key: u8,
    pub payload: u8,
    pub node: usize,
    pub sent_ms: u64,
    /// When its gateway had all of it.
    pub asked_ms: Option<u64>,
    pub answer: Option<Answer>,
    pub answered_ms: Option<u64>,
    /// Its gateway crashed, or its client hung up: nobody waits for an answer.
    pub is_broken: bool,
    pub forward: Option<usize>,
    /// Its gateway only tries the policy.
    pub is_observed: bool,
    /// Its key.
    text: String,
    /// Its key was issued to another.
    pub is_stolen: bool,
    /// It says that it means to send the same again.
    pub is_meant: bool,
    /// It writes its key as a structured-field string.
    pub is_quoted: bool,
    /// It only looks what is known of the operation.
    pub looks: bool,
    /// How long its gateway was stopped, and its upstream worked, meanwhile.
    pub excused_ms: u64,
    owner: Owner,
    place: Option<(usize, u32)>,
    /// Which of its gateway's workers it is for, where that matters.
    is_for: Option<usize>,
    /// The worker it came to.
    was_at: Option<usize>,
    is_held: bool,
    /// What the gateway changes in its head once it goes on.
    edits: Vec<HeaderMutation>,
    /// How many bytes of its body Envoy has received.
    received: u64,
    /// It ended before it had a claim, and nothing may be executed for it any more.
    is_given_up: bool,
    incoming: Option<Incoming>,
}

/// What a client was told.
pub struct Answer {
    pub status: u16,
    pub headers: Headers,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn line(&self) -> &str {
        self.headers.first("idempotency-status").and_then(|line| std::str::from_utf8(line).ok()).unwrap_or_default()
    }

    pub fn is(&self, token: &str) -> bool {
        self.line().split(';').next() == Some(token)
    }

    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.line().split(';').skip(1).find_map(|part| part.strip_prefix(name)?.strip_prefix('='))
    }

    pub fn number(&self, name: &str) -> Option<u64> {
        self.parameter(name)?.parse().ok()
    }
}

/// A request that a gateway let go upstream.
pub struct Forward {
    pub request: usize,
    pub who: (u8, u8),
    pub payload: u8,
    /// The fencing number; none where it went unprotected.
    pub attempt: Option<u32>,
    /// The number of its turn, where it has one, and what that is about.
    pub fence: Option<u64>,
    pub resource: u8,
    /// The key as the upstream gets it.
    pub key: Vec<u8>,
    pub asked_ms: u64,
    pub forwarded_ms: u64,
    pub lease_ms: u64,
    pub ttl_ms: u64,
    /// For how long its record must live for the sake of its key.
    pub least_ttl_ms: u64,
    /// Whether the store is told how it ends: under a claim, or where a claim may have been granted.
    pub is_told: bool,
    /// How often the upstream executed it.
    pub executions: u32,
    pub status: u16,
    pub body: Vec<u8>,
    pub end: End,
    /// What the upstream says of the key.
    pub steering: Steering,
    /// When its living gateway heard how it ended, and what that tells.
    pub heard: Option<(u64, Known)>,
    /// Whether the gateway that let it go crashed before everything was settled.
    pub crashed_ms: Option<u64>,
    /// When the whole response had come.
    pub whole_ms: Option<u64>,
    /// Whether the gateway itself sent it, and no end of its client's ends it.
    pub is_shielded: bool,
    /// Whether the gateway is told how the answer came about.
    is_accounted: bool,
    /// Whether its answer came to a worker that held too much already.
    pub is_overloaded_out: bool,
    is_announced: bool,
    body_ms: u64,
    arrives_ms: u64,
}

/// What a gateway can know of an execution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    Doubt,
    Release,
    Retry,
    Success,
}

/// How the upstream treats one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Answers(u16),
    DiesInBody,
    /// A request of the gateway's own outlives its call.
    Late,
    /// The answer to a request of the gateway's own gets lost.
    Lost,
    ResetsBefore,
    ResetsAfter,
    /// The router tries twice; both may execute.
    Retried(u16),
    TimesOut,
    Unreached,
    /// The host does not take a request of the gateway's own.
    Unsent,
}

/// What the upstream does with one request: connection, arrival and work each take so long.
#[derive(Clone, Copy, Debug)]
pub struct Treatment {
    pub end: End,
    pub work_ms: u64,
    pub steering: Steering,
    /// How long its body takes to come.
    pub body_ms: u64,
    /// How many bytes it says besides.
    pub size: usize,
    /// Whether it announces how many.
    pub is_announced: bool,
}

/// The upstream's own word on the key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Steering {
    pub fate: Option<&'static str>,
    pub ttl_s: Option<u64>,
}

impl Treatment {
    pub fn new(end: End, work_ms: u64) -> Treatment {
        Treatment { end, work_ms, steering: Steering::default(), body_ms: 0, size: 0, is_announced: false }
    }
}

/// What the network does with one call to the store.
#[derive(Clone, Copy, Debug, Default)]
pub struct Carriage {
    pub there_ms: u64,
    pub back_ms: u64,
    pub is_lost: bool,
    pub is_refused: bool,
    pub again_after_ms: Option<u64>,
    pub fails: bool,
    /// Whether it fails because what is stored cannot be read.
    pub is_unreadable: bool,
    pub reply: Handling,
    /// On a stream: where it is cut.
    pub cut: Cut,
    /// On a stream: with which error the store refuses the command as a whole.
    pub refusal: Option<usize>,
}

/// What the network does with one reply.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Handling {
    Another,
    Crossed,
    Doubled,
    Garbage,
    #[default]
    Kept,
    Lost,
    Truncated,
}

struct Incoming {
    status: u16,
    /// As they came.
    original: Headers,
    headers: Headers,
    body: Vec<u8>,
    details: &'static str,
    is_held: bool,
    is_whole: bool,
    /// Whether its head is on the way to the client.
    has_begun: bool,
}

/// An answer of a gateway's own on its way to the client.
#[derive(Default)]
struct Passing {
    headers: Headers,
    body: Vec<u8>,
}

struct Worker {
    /// None during a callback of it.
    worker: Option<Box<worker::Worker<SharedData>>>,
    node: usize,
    /// Which VM of its node it is in: another configuration comes to the same one.
    vm: usize,
    policy: Rc<Policy>,
    is_alive: bool,
    paused_until: u64,
    ticks: bool,
    /// Its Envoy lacks `allow_on_headers_stop_iteration`.
    hides_bodies: bool,
    /// Its configuration was replaced: it goes once its streams have ended.
    is_replaced: bool,
    is_draining: bool,
    /// Its VM or its process crashed.
    has_crashed: bool,
    /// What Envoy was told of each gauge.
    gauges: HashMap<Gauge, i64>,
    next_token: u32,
    /// By the number of the stream, less one.
    requests: Vec<usize>,
    streams: HashMap<u32, Open>,
    /// Its streams to the store, for small responses and for large ones, where it has any.
    lines: Vec<Line>,
    /// When streams ended.
    ended_ms: HashMap<u32, u64>,
}

/// A stream that has not ended.
struct Open {
    request: usize,
    callbacks: Stream,
}

impl Worker {
    fn filter(&self) -> &worker::Worker<SharedData> {
        self.worker.as_ref().expect("it is not in a callback")
    }

    fn request(&self, stream: u32) -> Option<usize> {
        self.streams.get(&stream).map(|open| open.request)
    }
}

#[derive(Default)]
struct Node {
    workers: Vec<usize>,
    down_until: u64,
    clock_offset: u64,
    /// Whether what it runs now lacks `allow_on_headers_stop_iteration`.
    hides_bodies: bool,
    /// What an embedded store is kept in.
    memory: Option<Memory>,
    /// What the workers of each of its VMs share, whatever configuration they have.
    pools: Vec<stores::Pool>,
}

/// A call on its way.
struct Flight {
    worker: usize,
    batch: Batch,
    carriage: Carriage,
    /// Which process of the store it was sent to.
    epoch: u64,
}

enum Happening {
    Arrives {
        request: usize,
    },
    AtStore {
        flight: Rc<Flight>,
        again: bool,
    },
    AtUpstream {
        forward: usize,
    },
    BodyEnds {
        worker: usize,
        stream: u32,
    },
    BodyOfResponse {
        worker: usize,
        stream: u32,
    },
    BytesCome {
        connection: usize,
    },
    CommandComes {
        connection: usize,
    },
    Executed {
        worker: usize,
        token: u32,
        forward: usize,
    },
    Gone {
        request: usize,
        place: (usize, u32),
    },
    HangsUp {
        request: usize,
    },
    HostAnswers {
        request: usize,
        place: (usize, u32),
    },
    Operates,
    /// An operator's word about an operation comes to the store.
    Says((u8, u8), Resolution),
    Replied {
        worker: usize,
        batch: u64,
        reply: Reply,
        epoch: u64,
    },
    Responds {
        worker: usize,
        stream: u32,
    },
    Restarts {
        node: usize,
    },
    Strikes,
    Tick {
        worker: usize,
    },
    Tries {
        client: usize,
    },
    Wakes {
        worker: usize,
    },
}

pub struct World {
    pub now: u64,
    pub plan: Plan,
    pub store: Store,
    pub requests: Vec<Request>,
    pub forwards: Vec<Forward>,
    pub coverage: Coverage,
    /// Broken bounds, seen while running.
    pub broken_bounds: Vec<String>,
    /// When faults stopped.
    pub calm_from: u64,
    /// Operations a claim of which may be granted with nobody there to withdraw it: their gateway crashed, or the network's
    /// copy of the claim was granted, the record no longer knows of their release, or another claim had taken over before
    /// the withdrawal came.
    pub orphans: HashSet<(u8, u8)>,
    /// What operators have said, and the store has taken.
    pub words: Vec<Word>,
    /// What happened, line by line, where somebody wants to read it.
    pub transcript: Option<Vec<String>>,
    /// What the network does with the next calls, where a script says so.
    pub carriages: VecDeque<Carriage>,
    /// What the upstream does with the next requests, where a script says so.
    pub treatments: VecDeque<Treatment>,
    policies: [Rc<Policy>; 2],
    secrets: Rc<Secrets>,
    queue: BinaryHeap<Reverse<(u64, u64)>>,
    happenings: HashMap<u64, Happening>,
    seq: u64,
    workers: Vec<Worker>,
    nodes: Vec<Node>,
    tries_left: Vec<u64>,
    pending_tries: usize,
    crossed: Option<(usize, u64, Reply)>,
    connections: Vec<Connection>,
    /// On streams: calls by the nonces of their tries, and by worker and number; those of them that have run, and those
    /// that have failed by an error of the store's; and the reply that was crossed last.
    sent: HashMap<Nonce, Rc<Batch>>,
    sent_as: HashMap<(usize, u64), Rc<Batch>>,
    ran: HashSet<(usize, u64)>,
    failed: HashSet<(usize, u64)>,
    exchanged: Option<Vec<u8>>,
    by_owner: HashMap<Owner, usize>,
    by_name: HashMap<Name, (u8, u8)>,
    /// Claims, by the nonces of their tries, that were answered that what is stored cannot be read: the call and the request.
    unreadable: HashMap<Nonce, (u64, usize)>,
    net: Random,
    up: Random,
    fate: Random,
    tokens: Random,
    /// Whose keys are stolen.
    thefts: Random,
    /// When the root's turn comes.
    turns: Random,
    /// Which Envoys hide bodies.
    hides: Random,
    /// Who looks first.
    looks: Random,
    /// What operators look at.
    operator: Random,
    /// Answers of the gateways' own, while Envoy and its filters work on them, by worker and stream.
    passing: HashMap<(usize, u32), Passing>,
    /// What Envoy does once the callback under way is over.
    afterwards: VecDeque<(usize, Afterwards)>,
    /// The first payload is an empty body.
    is_bodiless: bool,
    /// Owners whose claim was granted and not withdrawn.
    granted: HashSet<Owner>,
    is_wild: bool,
}
impl World {
    pub fn new(plan: Plan, is_wild: bool) -> World {
        let configs = [0, 1].map(|which| config(&plan, which));
        let secrets = Rc::new(Secrets::new(&configs[0], b""));
        let policies = configs.map(|config| Rc::clone(&config.rules[0].policy));
        let mut fate = Random::of(plan.seed, 5);
        let (mut hides, looks) = (Random::of(plan.seed, 11), Random::of(plan.seed, 13));
        let is_bodiless = is_wild && plan.faults.has(Fault::BodiesHidden) && hides.chance(300);
        let nodes = (0..plan.gateways).map(|_| {
            let clock_offset = if is_wild { fate.between(0, 10_000_000) } else { 0 };
            Node { clock_offset, memory: memory(&plan), ..Node::default() }
        });
        let nodes = nodes.collect();
        let tries_left = plan.clients.iter().map(|client| client.tries).collect();
        let mut world = World {
            now: 0,
            store: Store::default(),
            requests: Vec::new(),
            forwards: Vec::new(),
            coverage: Coverage::default(),
            broken_bounds: Vec::new(),
            calm_from: 0,
            orphans: HashSet::new(),
            by_name: HashMap::new(),
            unreadable: HashMap::new(),
            transcript: None,
            words: Vec::new(),
            operator: Random::of(plan.seed, 16),
            carriages: VecDeque::new(),
            treatments: VecDeque::new(),
            policies,
            secrets,
            queue: BinaryHeap::new(),
            happenings: HashMap::new(),
            seq: 0,
            workers: Vec::new(),
            nodes,
            tries_left,
            pending_tries: 0,
            crossed: None,
            connections: Vec::new(),
            sent: HashMap::new(),
            sent_as: HashMap::new(),
            ran: HashSet::new(),
            failed: HashSet::new(),
            exchanged: None,
            by_owner: HashMap::new(),
            net: Random::of(plan.seed, 3),
            up: Random::of(plan.seed, 4),
            fate,
            tokens: Random::of(plan.seed, 6),
            turns: Random::of(plan.seed, 10),
            thefts: Random::of(plan.seed, 18),
            hides,
            looks,
            passing: HashMap::new(),
            afterwards: VecDeque::new(),
            is_bodiless,
            granted: HashSet::new(),
            is_wild,
            plan,
        };
        for node in 0..world.nodes.len() {
            world.start(node, 0);
        }
        if is_wild {
            for client in 0..world.plan.clients.len() {
                world.at(world.plan.clients[client].start_ms, Happening::Tries { client });
            }
            let first = world.fate.between(0, world.plan.calm_ms);
            world.at(first, Happening::Strikes);
            if [Fault::OperatorForgets, Fault::OperatorResolves].into_iter().any(|fault| world.plan.faults.has(fault)) {
                world.after(1, Happening::Operates);
            }
        }
        world
    }

    /// Lets time pass until nothing is left to happen, or until then.
    pub fn run_until(&mut self, until: u64) {
        while let Some(Reverse((at, seq))) = self.queue.peek().copied() {
            if at > until {
                break;
            }
            self.queue.pop();
            self.now = self.now.max(at);
            if let Some(happening) = self.happenings.remove(&seq) {
                self.happens(happening);
            }
        }
        if until < u64::MAX {
            self.now = self.now.max(until);
        }
    }

    /// Random adversity until all clients are done; then calm, and one probe of every operation.
    pub fn run(&mut self) {
        while !self.clients_are_done() {
            self.run_until(self.now + 200);
        }
        // Meanwhile a worker may be stopped again.
        loop {
            let paused = self.workers.iter().filter(|worker| worker.is_alive).map(|worker| worker.paused_until);
            let down = self.nodes.iter().map(|node| node.down_until);
            let healed = paused.chain(down).max().unwrap_or(0).max(self.now) + 1;
            self.run_until(healed);
            if self.workers.iter().all(|worker| !worker.is_alive || worker.paused_until < healed) {
                break;
            }
        }
        self.calm_from = self.now;
        self.is_wild = false;
        self.plan.faults = crate::plan::Faults::NONE;
        self.store.down_until = 0;
        self.store.stopped_until = 0;
        self.store.full_until = 0;
        self.nodes.iter().flat_map(|node| &node.memory).for_each(Memory::calm);
        self.workers.iter_mut().for_each(|worker| worker.hides_bodies = false);
    }

    /// How long after the last fault everything must be well: one lease, one backoff, and the calls these take.
    pub fn settling_ms(&self) -> u64 {
        let limits = self.plan.limits;
        let calls = 2 * u64::from(limits.attempts) * limits.timeout_ms + limits.breaker_open_ms + 20 * TICK_MS;
        let calls = calls + self.reopens_ms();
        self.plan.leases_ms[0].max(self.plan.leases_ms[1]) + BACKOFF_MS + calls
    }

    /// How long after the last fault every call that it struck has failed, and no breaker is open any more.
    pub fn heals_ms(&self) -> u64 {
        self.plan.limits.timeout_ms + self.plan.limits.breaker_open_ms + 5 * TICK_MS + self.reopens_ms()
    }

    /// How long a stream that has fallen silent is kept, and the longest pause before the next.
    fn reopens_ms(&self) -> u64 {
        if self.plan.has_streams() { 4 * self.plan.limits.timeout_ms + 1_000 } else { 0 }
    }

    pub fn note(&mut self, line: String) {
        self.say(|_| line);
    }

    /// The record of an operation, in words.
    pub fn shown(&self, who: (u8, u8)) -> String {
        self.store.shown(&name(&self.policies[0], &self.head_of(who)), self.now)
    }

    fn at(&mut self, at: u64, happening: Happening) {
        self.pending_tries += usize::from(matches!(happening, Happening::Tries { .. }));
        self.seq += 1;
        self.queue.push(Reverse((at, self.seq)));
        self.happenings.insert(self.seq, happening);
    }

    fn after(&mut self, delay: u64, happening: Happening) {
        self.at(self.now + delay, happening);
    }

    fn say(&mut self, line: impl FnOnce(&World) -> String) {
        if self.transcript.is_some() {
            let line = format!("{:<6} {}", self.now, line(self));
            self.transcript.get_or_insert_default().push(line);
        }
    }

    /// Whether this fault strikes this message.
    fn strikes(&mut self, fault: Fault, permille: u64) -> bool {
        let strikes = self.is_wild && self.plan.faults.has(fault) && self.net.chance(permille);
        if strikes {
            self.coverage.injected(fault);
        }
        strikes
    }

    fn happens(&mut self, happening: Happening) {
        let wall_ms = EPOCH_MS as u64 + self.now;
        self.nodes.iter().flat_map(|node| &node.memory).for_each(|memory| memory.set_wall_ms(wall_ms));
        let worker = match &happening {
            Happening::BytesCome { connection } => Some(self.connections[*connection].worker),
            Happening::BodyEnds { worker, .. }
            | Happening::BodyOfResponse { worker, .. }
            | Happening::Executed { worker, .. }
            | Happening::Gone { place: (worker, _), .. }
            | Happening::HostAnswers { place: (worker, _), .. }
            | Happening::Replied { worker, .. }
            | Happening::Responds { worker, .. }
            | Happening::Tick { worker }
            | Happening::Wakes { worker } => Some(*worker),
            _ => None,
        };
        if let Some(worker) = worker {
            let worker = &self.workers[worker];
            if !worker.is_alive {
                return;
            }
            if self.now < worker.paused_until {
                let until = worker.paused_until;
                return self.at(until, happening);
            }
        }
        match happening {
            Happening::Arrives { request } => self.arrives(request),
            Happening::AtStore { flight, again } => self.at_store(&flight, again),
            Happening::AtUpstream { forward } => self.at_upstream(forward),
            Happening::BodyEnds { worker, stream } => self.body_ends(worker, stream),
            Happening::BodyOfResponse { worker, stream } => self.body_of_response(worker, stream),
            Happening::BytesCome { connection } => self.bytes_come(connection),
            Happening::CommandComes { connection } => self.command_comes(connection),
            Happening::Executed { worker, token, forward } => self.executed(worker, token, forward),
            Happening::Gone { request, place } => self.gone(request, place),
            Happening::HangsUp { request } => {
                let Some(place) = self.requests[request].place else { return };
                if self.requests[request].answer.is_none() && !self.requests[request].is_broken {
                    self.say(|w| format!("{} hangs up", w.requests[request].label));
                    self.breaks(request);
                    self.happens(Happening::Gone { request, place });
                }
            }
            Happening::HostAnswers { request, place } => self.host_answers(request, place),
            Happening::Operates if self.is_wild => self.operates(),
            Happening::Operates => {}
            Happening::Says(who, said) => self.says(who, said),
            Happening::Replied { worker, batch, reply, epoch } => {
                // Who crashed while its answer was on the way has closed the connection.
                let reply = if epoch == self.store.epoch { reply } else { Reply::Failed(Failure::Transport) };
                self.replied(worker, batch, reply);
            }
            Happening::Responds { worker, stream } => self.responds(worker, stream),
            Happening::Restarts { node } => {
                if self.nodes[node].workers.is_empty() {
                    self.say(|_| format!("g{} is back", node + 1));
                    self.start(node, 0);
                }
            }
            Happening::Strikes => self.strike(),
            Happening::Tick { worker } => self.tick(worker),
            Happening::Tries { client } => self.tries(client),
            Happening::Wakes { worker } => {
                self.lets_go(worker);
                self.call_root(worker, |worker, envoy| worker.on_wake(envoy));
            }
        }
    }

    /// One of the sudden faults.
    fn strike(&mut self) {
        let clients_left = self.tries_left.iter().any(|left| *left > 0);
        let latest = self.plan.clients.iter().map(|client| client.start_ms).max().unwrap_or(0) + 10_000;
        if !clients_left || self.now > latest {
            return;
        }
        let enabled: Vec<Fault> = Fault::SUDDEN.into_iter().filter(|fault| self.plan.faults.has(*fault)).collect();
        let calm = self.plan.calm_ms;
        let next = self.fate.between(calm / 4, 2 * calm);
        self.after(next.max(1), Happening::Strikes);
        if enabled.is_empty() {
            return;
        }
        let fault = *self.fate.pick(&enabled);
        self.coverage.injected(fault);
        let node = self.fate.between(0, self.nodes.len() as u64 - 1) as usize;
        let lease = self.plan.leases_ms[0];
        let now = self.now;
        match fault {
            Fault::ClockBack => {
                let by = self.fate.between(100, 2 * lease) as i64;
                self.store.jump(now, -by);
            }
            Fault::ClockForward => {
                let by = self.fate.between(100, 2 * lease) as i64;
                self.store.jump(now, by);
            }
            Fault::GatewayCrashes if self.plan.may_lose_a_worker() && self.fate.chance(700) => self.crash_worker(node),
            Fault::GatewayCrashes => {
                let down = self.fate.between(50, 2000);
                self.crash(node, down);
            }
            Fault::GatewayPauses => {
                let pause = self.fate.between(50, 3 * lease);
                self.pause(node, pause);
            }
            Fault::GatewayReloads => {
                let policy = self.fate.between(0, 1) as usize;
                self.reload(node, policy);
            }
            Fault::StoreCrashes => {
                let until = now + self.fate.between(50, 3 * lease);
                self.crash_store(until);
            }
            Fault::ScriptsForgotten => self.store.has_script = false,
            Fault::StoreRefuses => self.store.down_until = now + self.fate.between(50, 3 * lease),
            Fault::StoreFull => self.store.full_until = now + self.fate.between(100, 2000),
            Fault::StoreStops => self.store.stopped_until = now + self.fate.between(50, 2 * lease),
            Fault::StoreFlushed => self.store.flush(now),
            Fault::StoreLosesWrites => {
                let since = now.saturating_sub(self.fate.between(1, 1000));
                self.store.lose_writes_since(since, now);
                let until = now + self.fate.between(50, lease);
                self.crash_store(until);
            }
            Fault::StoreFailsOver => {
                let since = now.saturating_sub(self.fate.between(1, 4000));
                self.store.lose_writes_since(since, now);
            }
            _ => {}
        }
        self.say(|_| format!("fault: {fault:?}"));
    }
}

/// Keeps the oracle's groups in a fixed order.
pub type ByOperation<T> = BTreeMap<(u8, u8), Vec<T>>;
