//! The world: gateways, the store, the network between them, an upstream with a ledger, and clients; under one clock.
//!
//! Its one rule: workers are the real ones and see nothing but callbacks; all that happens around them is here, follows
//! from the plan or the script, and is written down for the oracle.

mod envoy;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap, HashSet, VecDeque};
use std::rc::Rc;

use envoy_idempotency::command::{Command, CommandKind, Failure, GivenUp, ReplyKind, StoreReply, WhyGivenUp};
use envoy_idempotency::config::{Config, Mode, Policy};
use envoy_idempotency::event::{EventKind, Executed};
use envoy_idempotency::evidence::{self, Origin, VIA_UPSTREAM};
use envoy_idempotency::exchange::Exchange;
use envoy_idempotency::key::Name;
use envoy_idempotency::key::UpstreamKey;
use envoy_idempotency::message::{Edit, Headers, RequestHead};
use envoy_idempotency::record::{Owner, RELEASED_KEPT};
use envoy_idempotency::reply::Reply as Own;
use envoy_idempotency::step::Outgoing;
use envoy_idempotency::store as stores;
use envoy_idempotency::store::client::{self, Batch, Nonce, Reply};
use envoy_idempotency::worker::{self, Action, Gauge, Host, RequestBody, ResponseBody, Side, Stream};

use crate::coverage::Coverage;
use crate::embedded::Memory;
use crate::plan::{Client, Fault, LARGE, Plan, Shielding, TOO_LARGE};
use crate::random::Random;
use crate::store::Store;
use envoy::Afterwards;

/// How often a gateway with something under way looks at what is due.
const TICK_MS: u64 = 100;
/// How long a response whose body Envoy does not show is held at most.
const HIDDEN_MS: u64 = 10_500;
/// The longest pause of the outbox.
pub const BACKOFF_MS: u64 = 5_000;
/// A body that a crowded worker does not hold back.
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
    edits: Vec<Edit>,
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
    /// The key as the upstream gets it.
    pub key: Vec<u8>,
    pub asked_ms: u64,
    pub forwarded_ms: u64,
    pub lease_ms: u64,
    pub ttl_ms: u64,
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
    pub is_crowded_out: bool,
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
    worker: Option<Box<worker::Worker<Memory>>>,
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
    /// When streams ended.
    ended_ms: HashMap<u32, u64>,
}

/// A stream that has not ended.
struct Open {
    request: usize,
    callbacks: Stream,
}

impl Worker {
    fn filter(&self) -> &worker::Worker<Memory> {
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
    Arrives { request: usize },
    AtStore { flight: Rc<Flight>, again: bool },
    AtUpstream { forward: usize },
    BodyEnds { worker: usize, stream: u32 },
    BodyOfResponse { worker: usize, stream: u32 },
    Executed { worker: usize, token: u32, forward: usize },
    Gone { request: usize, place: (usize, u32) },
    HangsUp { request: usize },
    HostAnswers { request: usize, place: (usize, u32) },
    Replied { worker: usize, batch: u64, reply: Reply, epoch: u64 },
    Responds { worker: usize, stream: u32 },
    Restarts { node: usize },
    Strikes,
    Tick { worker: usize },
    Tries { client: usize },
    Wakes { worker: usize },
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
    /// What happened, line by line, where somebody wants to read it.
    pub transcript: Option<Vec<String>>,
    /// What the network does with the next calls, where a script says so.
    pub carriages: VecDeque<Carriage>,
    /// What the upstream does with the next requests, where a script says so.
    pub treatments: VecDeque<Treatment>,
    policies: [Rc<Policy>; 2],
    queue: BinaryHeap<Reverse<(u64, u64)>>,
    happenings: HashMap<u64, Happening>,
    seq: u64,
    workers: Vec<Worker>,
    nodes: Vec<Node>,
    tries_left: Vec<u64>,
    pending_tries: usize,
    crossed: Option<(usize, u64, Reply)>,
    by_owner: HashMap<Owner, usize>,
    by_name: HashMap<Name, (u8, u8)>,
    /// Claims, by the nonces of their tries, that were answered that what is stored cannot be read: the call and the request.
    unreadable: HashMap<Nonce, (u64, usize)>,
    net: Random,
    up: Random,
    fate: Random,
    tokens: Random,
    /// When the root's turn comes.
    turns: Random,
    /// Which Envoys hide bodies.
    hides: Random,
    /// Who looks first.
    looks: Random,
    /// Answers of the gateways' own, while Envoy and its filters work on them, by worker and stream.
    passing: HashMap<(usize, u32), Passing>,
    /// What Envoy does once the callback under way is over.
    afterwards: VecDeque<(usize, Afterwards)>,
    /// The first payload is an empty body.
    is_bodiless: bool,
    /// Owners whose claim was granted and not withdrawn.
    granted: HashSet<Owner>,
    is_wild: bool,
    /// How many calls may be sent in a callback of a stream.
    room_in_streams: usize,
}

impl World {
    pub fn new(plan: Plan, is_wild: bool) -> World {
        let policies = [0, 1].map(|which| policy(&plan, which));
        let mut fate = Random::new(plan.seed, 5);
        let (mut hides, looks) = (Random::new(plan.seed, 11), Random::new(plan.seed, 13));
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
            carriages: VecDeque::new(),
            treatments: VecDeque::new(),
            policies,
            queue: BinaryHeap::new(),
            happenings: HashMap::new(),
            seq: 0,
            workers: Vec::new(),
            nodes,
            tries_left,
            pending_tries: 0,
            crossed: None,
            by_owner: HashMap::new(),
            net: Random::new(plan.seed, 3),
            up: Random::new(plan.seed, 4),
            fate,
            tokens: Random::new(plan.seed, 6),
            turns: Random::new(plan.seed, 10),
            hides,
            looks,
            passing: HashMap::new(),
            afterwards: VecDeque::new(),
            is_bodiless,
            granted: HashSet::new(),
            is_wild,
            room_in_streams: plan.limits.large_bytes.map_or(0, |_| usize::MAX),
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

    /// Whether every client has its last answer, and no upstream works any more.
    fn clients_are_done(&self) -> bool {
        let is_executing =
            |forward: &Forward| forward.is_shielded && forward.heard.is_none() && forward.crashed_ms.is_none();
        self.pending_tries == 0
            && !self.forwards.iter().any(is_executing)
            && self
                .requests
                .iter()
                .all(|request| (request.answer.is_some() || request.is_broken) && request.place.is_none())
    }

    /// How long after the last fault everything must be well: one lease, one backoff, and the calls these take.
    pub fn settling_ms(&self) -> u64 {
        let limits = self.plan.limits;
        let calls = 2 * u64::from(limits.attempts) * limits.timeout_ms + limits.breaker_open_ms + 20 * TICK_MS;
        self.plan.leases_ms[0].max(self.plan.leases_ms[1]) + BACKOFF_MS + calls
    }

    /// How long after the last fault every call that it struck has failed, and no breaker is open any more.
    pub fn heals_ms(&self) -> u64 {
        self.plan.limits.timeout_ms + self.plan.limits.breaker_open_ms + 5 * TICK_MS
    }

    /// Has every worker that serves hear from the store, by one request about an operation of its own.
    pub fn knock(&mut self) {
        let places =
            self.nodes.iter().enumerate().flat_map(|(node, it)| (0..it.workers.len()).map(move |at| (node, at)));
        for (number, (node, at)) in places.collect::<Vec<_>>().into_iter().enumerate() {
            let who = Client { tenant: KNOCKS, key: number as u8, payload: 1, start_ms: 0, tries: 1, insists: false };
            let request = self.send(&format!("knock {number}"), usize::MAX, who, node);
            self.requests[request].is_for = Some(at);
        }
    }

    /// What the workers that serve have not told the store.
    pub fn owed_by_serving(&self) -> usize {
        let serving = self.nodes.iter().flat_map(|node| &node.workers).map(|worker| &self.workers[*worker]);
        serving.map(|worker| worker.filter().store().client().map_or(0, client::Client::owed)).sum()
    }

    pub fn is_idle(&self) -> bool {
        self.workers.iter().all(|worker| !worker.is_alive || worker.filter().is_idle())
    }

    pub fn owed(&self) -> usize {
        self.workers
            .iter()
            .filter(|worker| worker.is_alive)
            .map(|worker| worker.filter().store().client().map_or(0, client::Client::owed))
            .sum()
    }

    /// Gauges that a worker has not taken back, though it is idle or gone. A crash takes nothing back.
    pub fn stale_gauges(&self) -> Vec<String> {
        let workers = self.workers.iter().enumerate().filter(|(_, worker)| !worker.has_crashed);
        let gauges = workers.flat_map(|(number, worker)| worker.gauges.iter().map(move |gauge| (number, gauge)));
        let stale = gauges.filter(|(_, (_, told))| **told != 0);
        stale.map(|(number, (gauge, told))| format!("{gauge:?} of worker {number} stays at {told}")).collect()
    }

    /// Sends one request to a gateway.
    pub fn send(&mut self, label: &str, client: usize, who: Client, node: usize) -> usize {
        self.send_as(label, client, who, node, false)
    }

    fn send_as(&mut self, label: &str, client: usize, who: Client, node: usize, looks: bool) -> usize {
        let request = self.requests.len();
        let owner = Owner(self.tokens.bytes());
        self.by_owner.insert(owner, request);
        self.requests.push(Request {
            lies: false,
            client,
            label: label.to_owned(),
            tenant: who.tenant,
            key: who.key,
            payload: who.payload,
            node,
            sent_ms: self.now,
            asked_ms: None,
            answer: None,
            answered_ms: None,
            is_broken: false,
            forward: None,
            is_observed: false,
            is_quoted: self.is_wild && self.now.is_multiple_of(2),
            looks,
            excused_ms: 0,
            owner,
            place: None,
            is_for: None,
            was_at: None,
            is_held: false,
            edits: Vec::new(),
            received: 0,
            is_given_up: false,
            incoming: None,
        });
        self.coverage.requests += 1;
        self.say(|w| {
            let tenant = if who.tenant == 1 { String::new() } else { format!(" t{}", who.tenant) };
            let label = &w.requests[request].label;
            let what = if looks { format!("GET k{}", who.key) } else { format!("POST k{} p{}", who.key, who.payload) };
            format!("{label} → g{}  {what}{tenant}", node + 1)
        });
        self.after(1, Happening::Arrives { request });
        if self.is_wild && self.strikes(Fault::ClientHangsUp, 120) {
            let patience = self.fate.between(1, 2500);
            self.after(patience, Happening::HangsUp { request });
        }
        request
    }

    /// Sends a look-up of one operation to a gateway.
    pub fn look(&mut self, label: &str, who: Client, node: usize) -> usize {
        self.send_as(label, usize::MAX, who, node, true)
    }

    pub fn hang_up(&mut self, request: usize) {
        self.happens(Happening::HangsUp { request });
    }

    /// Has Envoy answer a request that is held back.
    pub fn end(&mut self, request: usize) {
        if let Some(place) = self.requests[request].place {
            self.happens(Happening::HostAnswers { request, place });
        }
    }

    /// Stops a gateway's process for so long; its clock goes on. Where its workers share a table, only one stops.
    pub fn pause(&mut self, node: usize, for_ms: u64) {
        let until = self.now + for_ms;
        self.say(|_| format!("g{} stops for {for_ms} ms", node + 1));
        let only = self.plan.embedded.and_then(|_| self.nodes[node].workers.first().copied());
        for (number, worker) in self.workers.iter_mut().enumerate() {
            if worker.is_alive && worker.node == node && only.is_none_or(|only| only == number) {
                worker.paused_until = worker.paused_until.max(until);
            }
        }
        for request in self.requests.iter_mut().filter(|request| request.node == node && request.answer.is_none()) {
            request.excused_ms += for_ms;
        }
    }

    /// Ends a gateway's process, and an embedded store with it; another takes its place later.
    pub fn crash(&mut self, node: usize, down_ms: u64) {
        self.say(|_| format!("g{} crashes", node + 1));
        self.end_workers(node, |_| true);
        self.nodes[node].memory = memory(&self.plan);
        if self.plan.embedded.is_some() {
            self.store.losses.push(self.now);
        }
        self.nodes[node].workers.clear();
        self.nodes[node].pools.clear();
        self.nodes[node].down_until = self.now + down_ms;
        self.after(down_ms, Happening::Restarts { node });
    }

    /// Ends one worker's VM; the next takes its place at once, and the table is still there.
    pub fn crash_worker(&mut self, node: usize) {
        let Some(worker) = self.nodes[node].workers.first().copied() else { return };
        self.say(|_| format!("g{} loses a worker", node + 1));
        self.end_workers(node, |other| other == worker);
        let policy = Rc::clone(&self.workers[worker].policy);
        self.nodes[node].workers.remove(0);
        self.start_worker(node, self.workers[worker].vm, policy);
    }

    fn end_workers(&mut self, node: usize, is_ended: impl Fn(usize) -> bool) {
        for (number, worker) in self.workers.iter_mut().enumerate() {
            if worker.is_alive && worker.node == node && is_ended(number) {
                (worker.is_alive, worker.has_crashed) = (false, true);
            }
        }
        self.lose_requests(node, is_ended);
    }

    /// What a worker had under way when it went is lost.
    fn lose_requests(&mut self, node: usize, is_ended: impl Fn(usize) -> bool) {
        for request in 0..self.requests.len() {
            if !self.requests[request]
                .was_at
                .is_some_and(|worker| self.workers[worker].node == node && is_ended(worker))
            {
                continue;
            }
            self.orphans.insert((self.requests[request].tenant, self.requests[request].key));
            if let Some(forward) = self.requests[request].forward {
                self.forwards[forward].crashed_ms.get_or_insert(self.now);
            }
            if self.requests[request].place.take().is_some() {
                self.breaks(request);
            }
        }
    }

    /// Gives a gateway another configuration: what is under way stays with the old one.
    pub fn reload(&mut self, node: usize, policy: usize) {
        if self.nodes[node].workers.is_empty() {
            return;
        }
        self.say(|_| format!("g{} reloads its configuration", node + 1));
        let paused_until = self.workers[self.nodes[node].workers[0]].paused_until;
        let replaced = std::mem::take(&mut self.nodes[node].workers);
        self.start(node, policy);
        for worker in &self.nodes[node].workers {
            self.workers[*worker].paused_until = paused_until;
        }
        for worker in replaced {
            self.workers[worker].is_replaced = true;
            self.may_drain(worker);
        }
    }

    /// Envoy has a root that was replaced drain once its streams have ended.
    fn may_drain(&mut self, number: usize) {
        let worker = &self.workers[number];
        if !worker.is_alive || !worker.is_replaced || worker.is_draining || !worker.streams.is_empty() {
            return;
        }
        self.workers[number].is_draining = true;
        self.hands_over(number);
        if self.call_root(number, |worker, envoy| worker.drain(envoy)) {
            self.workers[number].is_alive = false;
        }
    }

    /// What a worker that drains owes passes to the one that serves in its VM.
    fn hands_over(&mut self, number: usize) {
        let (node, vm) = (self.workers[number].node, self.workers[number].vm);
        let heir = self.nodes[node].workers.iter().copied().find(|heir| self.workers[*heir].vm == vm);
        if let Some(heir) = heir.filter(|_| self.workers[number].is_draining) {
            let handed_over = self.call_root(number, |worker, _| worker.hand_over());
            self.call_root(heir, |worker, envoy| worker.inherit(handed_over, envoy.now_ms()));
        }
    }

    /// A worker has given up a part of what it owed.
    fn gives_up(&mut self, number: usize, given_up: &GivenUp) {
        if given_up.why == WhyGivenUp::Drained {
            let node = self.workers[number].node;
            self.say(|_| format!("g{} gives up what it could not finish", node + 1));
            if given_up.completions > 0 {
                self.broken_bounds.push("a success was given up though another worker serves".to_owned());
            }
            // A claim of which nobody withdraws the late tries any more.
            let was_here = self.requests.iter().filter(|request| request.was_at == Some(number));
            self.orphans.extend(was_here.map(|request| (request.tenant, request.key)));
        }
    }

    pub fn note(&mut self, line: String) {
        self.say(|_| line);
    }

    /// The record of an operation, in words.
    pub fn shown(&self, who: (u8, u8)) -> String {
        self.store.shown(&name(&self.policies[0], &head(who.0, who.1, false)), self.now)
    }

    fn start(&mut self, node: usize, policy: usize) {
        let may_hide = self.is_wild && self.plan.faults.has(Fault::BodiesHidden);
        let hides_bodies = may_hide && self.hides.chance(200);
        self.nodes[node].hides_bodies = hides_bodies;
        self.nodes[node].pools.resize_with(self.plan.workers, stores::Pool::default);
        for vm in 0..self.plan.workers {
            self.start_worker(node, vm, Rc::clone(&self.policies[policy]));
        }
    }

    fn start_worker(&mut self, node: usize, vm: usize, policy: Rc<Policy>) {
        let Node { memory, pools, .. } = &self.nodes[node];
        let worker = Worker {
            worker: Some(Box::new(filter(&self.plan, &policy, memory.as_ref(), &pools[vm]))),
            node,
            vm,
            policy,
            is_alive: true,
            paused_until: 0,
            ticks: false,
            hides_bodies: self.nodes[node].hides_bodies,
            is_replaced: false,
            is_draining: false,
            has_crashed: false,
            gauges: HashMap::new(),
            next_token: 0,
            requests: Vec::new(),
            streams: HashMap::new(),
            ended_ms: HashMap::new(),
        };
        self.nodes[node].workers.push(self.workers.len());
        self.workers.push(worker);
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
        let worker = match &happening {
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
            Happening::Wakes { worker } => self.call_root(worker, |worker, envoy| worker.on_wake(envoy)),
        }
    }

    fn tries(&mut self, client: usize) {
        let who = self.plan.clients[client];
        let fault = match who.payload {
            1 => None,
            2 => Some(Fault::ClientReusesKey),
            _ => Some(Fault::ClientSendsMuch),
        };
        let who = match fault {
            Some(fault) if !self.plan.faults.has(fault) => Client { payload: 1, ..who },
            _ => who,
        };
        fault.into_iter().filter(|_| who.payload > 1).for_each(|fault| self.coverage.injected(fault));
        self.tries_left[client] -= 1;
        self.pending_tries -= 1;
        let node = self.fate.between(0, self.nodes.len() as u64 - 1) as usize;
        let label = if self.transcript.is_some() {
            format!("c{client}.{}", who.tries - self.tries_left[client])
        } else {
            String::new()
        };
        if self.plan.looks && self.looks.chance(250) {
            self.look(&format!("{label} looks"), who, node);
        }
        self.send(&label, client, who, node);
    }

    fn arrives(&mut self, request: usize) {
        let node = self.requests[request].node;
        if self.requests[request].is_broken {
            return;
        }
        let workers = &self.nodes[node].workers;
        let place = self.requests[request].is_for.unwrap_or_else(|| self.tokens.next() as usize % workers.len().max(1));
        let Some(worker) = workers.get(place).copied() else {
            return self.breaks(request);
        };
        if self.now < self.workers[worker].paused_until {
            let until = self.workers[worker].paused_until;
            self.requests[request].excused_ms += until - self.now;
            return self.at(until, Happening::Arrives { request });
        }
        let place = &mut self.workers[worker];
        place.requests.push(request);
        let stream = place.requests.len() as u32;
        place.streams.insert(stream, Open { request, callbacks: Stream::new(stream) });
        let policy = Rc::clone(&place.policy);
        let lies = self.strikes(Fault::ClientLies, 300);
        let asked = &mut self.requests[request];
        (asked.place, asked.was_at) = (Some((worker, stream)), Some(worker));
        (asked.is_observed, asked.lies) = (policy.mode == Mode::Observe, lies);
        let (head, owner) = (asked.head(), asked.owner);
        let looks = self.requests[request].looks;
        let end = looks || self.body(self.requests[request].payload).is_empty();
        let exchange = match looks {
            true => Exchange::looking(Rc::clone(&policy), Rc::default(), name(&policy, &head), owner),
            false => Exchange::new(policy, Rc::default()),
        };
        let action = self.call_stream(worker, stream, |worker, envoy, stream| {
            let upstream_key = UpstreamKey([0; 16]);
            let kind = EventKind::RequestHeaders { head: &head, attribute: &|_| None, owner, upstream_key, end };
            worker.on_request_headers(envoy, stream, exchange, kind)
        });
        self.goes_on(request, worker, stream, action);
        let travels = if self.is_wild { self.net.between(0, 20) } else { 0 };
        if end {
            self.requests[request].asked_ms = Some(self.now);
        } else {
            self.after(travels, Happening::BodyEnds { worker, stream });
        }
        if self.strikes(Fault::HostAnswers, 80) {
            let patience = self.fate.between(1, 1000);
            self.after(patience, Happening::HostAnswers { request, place: (worker, stream) });
        }
    }

    fn body_ends(&mut self, worker: usize, stream: u32) {
        let Some(request) = self.workers[worker].request(stream) else { return };
        self.requests[request].asked_ms = Some(self.now);
        let body = self.body(self.requests[request].payload);
        self.requests[request].received = body.len() as u64;
        if self.workers[worker].hides_bodies && self.requests[request].is_held {
            self.coverage.injected(Fault::BodiesHidden);
            return;
        }
        let half = if body.len() > 2 { body.len() / 2 } else { 0 };
        let (first, rest) = body.split_at(half);
        let mut in_hand = Vec::new();
        for (chunk, end) in [(first, false), (rest, true)] {
            if !end && half == 0 || self.requests[request].place != Some((worker, stream)) {
                continue;
            }
            in_hand.extend_from_slice(chunk);
            let is_awaited = self.awaits(worker, stream, Exchange::awaits_request_body);
            let crowded = half > 0 && is_awaited && self.strikes(Fault::WorkerCrowded, 300);
            let read = |from: usize, len: usize| in_hand[from..from + len].to_vec();
            let size = in_hand.len();
            let action = self.call_stream(worker, stream, |worker, envoy, stream| {
                worker.set_crowded_from(if crowded { 0 } else { u64::MAX });
                let body = RequestBody { size, end, trailers: false, read: &read, attribute: &|_| None };
                worker.on_request_body(envoy, stream, body)
            });
            if action == Action::Continue {
                in_hand.clear();
            }
            self.goes_on(request, worker, stream, action);
        }
    }

    /// Lets a request go upstream, unless it is held back, answered, or gone.
    fn goes_on(&mut self, request: usize, worker: usize, stream: u32, action: Action) {
        let asked = &mut self.requests[request];
        asked.is_held = action == Action::Pause && asked.forward.is_none();
        if action == Action::Continue && asked.forward.is_none() && asked.place == Some((worker, stream)) {
            self.forward(request, worker, stream);
        }
    }

    /// Lets a held message go on.
    fn continues(&mut self, worker: usize, stream: u32, side: Side) {
        let Some(request) = self.workers[worker].request(stream) else { return };
        match side {
            Side::Request => self.goes_on(request, worker, stream, Action::Continue),
            Side::Response => {
                let Some(incoming) = &mut self.requests[request].incoming else { return };
                (incoming.is_held, incoming.has_begun) = (false, true);
                self.deliver(request, worker, stream);
            }
        }
    }

    fn awaits(&self, worker: usize, stream: u32, what: impl Fn(&Exchange) -> bool) -> bool {
        self.workers[worker].filter().exchange(stream).is_some_and(what)
    }

    /// Envoy loses patience with a request that is held back, and answers it.
    fn host_answers(&mut self, request: usize, place: (usize, u32)) {
        let asked = &self.requests[request];
        if asked.place != Some(place) || self.is_upstream(request) || asked.incoming.is_some() {
            return;
        }
        let is_body_late = asked.asked_ms.is_none();
        let (status, details) =
            if is_body_late { (413, "request_payload_too_large") } else { (408, "request_overall_timeout") };
        let headers: Headers = [(":status", status.to_string())].into_iter().collect();
        self.say(|w| format!("{} Envoy answers {status} by itself", w.requests[request].label));
        let incoming = Incoming {
            status,
            original: headers.clone(),
            headers: headers.clone(),
            body: Vec::new(),
            details,
            is_held: false,
            is_whole: false,
            has_begun: false,
        };
        self.requests[request].incoming = Some(incoming);
        let origin = Origin { details: details.as_bytes(), attempts: Some(0), ..Origin::default() };
        self.head_of_response(request, place, &headers, status, origin, true);
        // The client takes its time.
        let travels = if self.is_wild { self.fate.between(0, 500) } else { 0 };
        self.requests[request].excused_ms += travels;
        self.after(travels, Happening::BodyOfResponse { worker: place.0, stream: place.1 });
    }

    /// The head of a response comes to the gateway, and goes on to the client unless it is held back or was replaced.
    fn head_of_response(
        &mut self,
        request: usize,
        (worker, stream): (usize, u32),
        headers: &Headers,
        status: u16,
        origin: Origin<'_>,
        end: bool,
    ) {
        let action = self.call_stream(worker, stream, |worker, envoy, stream| {
            worker.on_response_headers(envoy, stream, Some(EventKind::ResponseHeaders { headers, status, origin, end }))
        });
        if let Some(incoming) = self.requests[request].incoming.as_mut() {
            incoming.is_held = action == Action::Pause;
            incoming.has_begun = !incoming.is_held;
        }
    }

    /// Whether the client's own request has gone upstream.
    fn is_upstream(&self, request: usize) -> bool {
        self.requests[request].forward.is_some_and(|forward| !self.forwards[forward].is_shielded)
    }

    fn clock(&self, worker: usize) -> u64 {
        self.now + self.nodes[self.workers[worker].node].clock_offset
    }

    /// Sees to it that a worker's time comes while anything is under way.
    fn keeps_ticking(&mut self, worker: usize) {
        let place = &mut self.workers[worker];
        if place.is_alive && !place.ticks && !place.filter().is_idle() {
            place.ticks = true;
            let phase = worker as u64 * 7 % TICK_MS;
            let next = (self.now + TICK_MS - phase) / TICK_MS * TICK_MS + phase;
            self.at(next.max(self.now + 1), Happening::Tick { worker });
        }
    }

    fn tick(&mut self, worker: usize) {
        self.workers[worker].ticks = false;
        self.hands_over(worker);
        if self.call_root(worker, |worker, envoy| worker.on_tick(envoy)) {
            self.workers[worker].is_alive = false;
        }
        let contended = self.nodes[self.workers[worker].node].memory.as_ref().map_or(0, Memory::contended);
        (0..contended).for_each(|_| self.coverage.injected(Fault::CellsContended));
        let limits = &self.plan.limits;
        let client = self.workers[worker].filter().store().client();
        let (waiting, owed_bytes) = client.map_or((0, 0), |client| (client.waiting(), client.owed_bytes()));
        // Tries of what is owed, and second tries of what was under way, come on top of what was let in.
        let under_way = limits.max_calls * limits.max_batch;
        let tried = owed_bytes / 128;
        if waiting > limits.max_queued + under_way + tried {
            self.broken_bounds.push(format!(
                "I8: {waiting} operations wait, {} may, {under_way} more are under way and {tried} owed",
                limits.max_queued
            ));
        }
        if owed_bytes > limits.max_owed_bytes {
            self.broken_bounds.push(format!("I8: {owed_bytes} bytes are owed, {} may be", limits.max_owed_bytes));
        }
    }

    fn departs(&mut self, worker: usize, batch: Batch) {
        let carriage = self.carriage();
        self.coverage.calls += 1;
        for (_, call) in &batch.tries {
            // Who waits asks under owners of its own, but not first.
            let Some(request) = self.by_owner.get(&call.owner).map(|request| &self.requests[*request]) else {
                continue;
            };
            self.by_name.insert(call.name, (request.tenant, request.key));
            if request.payload == TOO_LARGE && !request.looks {
                self.broken_bounds.push("a request that is too large asked something of the store".to_owned());
            }
        }
        if self.transcript.is_some() {
            for (_, call) in &batch.tries {
                let line = self.operation(worker, call);
                self.say(|_| line);
            }
        }
        let is_doubled = carriage.again_after_ms;
        let epoch = self.store.epoch;
        let flight = Rc::new(Flight { worker, batch, carriage, epoch });
        if let Some(later) = is_doubled {
            self.after(later, Happening::AtStore { flight: Rc::clone(&flight), again: true });
        }
        if carriage.is_lost {
            return self.say(|_| "       the call is lost".to_owned());
        }
        if carriage.is_refused {
            let reply = Reply::Failed(Failure::Transport);
            return self.after(1, Happening::Replied { worker, batch: flight.batch.id, reply, epoch });
        }
        self.after(carriage.there_ms, Happening::AtStore { flight, again: false });
    }

    fn carriage(&mut self) -> Carriage {
        if let Some(carriage) = self.carriages.pop_front() {
            return carriage;
        }
        if !self.is_wild {
            return Carriage { there_ms: 1, back_ms: 1, ..Carriage::default() };
        }
        let permille = self.plan.strikes;
        let mut carriage =
            Carriage { there_ms: self.net.between(0, 4), back_ms: self.net.between(0, 4), ..Carriage::default() };
        if self.strikes(Fault::CallDelayed, permille) {
            carriage.there_ms = self.net.between(1, 5000);
        }
        if self.strikes(Fault::ReplyDelayed, permille) {
            carriage.back_ms = self.net.between(1, 3000);
        }
        if self.strikes(Fault::CallDuplicated, permille) {
            carriage.again_after_ms = Some(self.net.between(0, 5000));
        }
        carriage.is_lost = self.strikes(Fault::CallLost, permille);
        carriage.fails = self.strikes(Fault::OperationFails, permille);
        let handlings = [
            (Fault::ReplyLost, Handling::Lost),
            (Fault::ReplyDuplicated, Handling::Doubled),
            (Fault::ReplyGarbage, Handling::Garbage),
            (Fault::ReplyTruncated, Handling::Truncated),
            (Fault::ReplyCrossed, Handling::Crossed),
            (Fault::AnswersAnother, Handling::Another),
        ];
        for (fault, handling) in handlings {
            if self.strikes(fault, permille) {
                carriage.reply = handling;
            }
        }
        carriage
    }

    fn at_store(&mut self, flight: &Rc<Flight>, again: bool) {
        if self.now < self.store.stopped_until {
            return self.at(self.store.stopped_until, Happening::AtStore { flight: Rc::clone(flight), again });
        }
        let (worker, batch, epoch) = (flight.worker, flight.batch.id, self.store.epoch);
        if self.now < self.store.down_until || flight.epoch != epoch {
            let reply = Reply::Failed(Failure::Transport);
            return self.after(1, Happening::Replied { worker, batch, reply, epoch });
        }
        let asker_ms = self.clock(worker);
        let mut answers = Vec::new();
        let claims = flight.batch.tries.iter().any(|(_, call)| matches!(call.kind, CommandKind::Claim { .. }));
        if claims && self.strikes(Fault::GatewayPauses, self.plan.strikes) {
            let (node, lease) = (self.workers[worker].node, self.plan.leases_ms[1]);
            let pause = self.fate.between(lease / 2, 3 * lease);
            self.pause(node, pause);
        }
        for (place, (nonce, call)) in flight.batch.tries.iter().enumerate() {
            let fails = flight.carriage.fails && !again && place == 0;
            let verdict = match fails {
                // Some failures say that something is stored.
                true if nonce.0[0] % 2 == 1 || flight.carriage.is_unreadable => StoreReply::Failed(Failure::Corrupt),
                true => StoreReply::Failed(Failure::Full),
                false => self.store.apply(call, self.now, asker_ms),
            };
            self.coverage.verdict(&call.kind, &verdict);
            if matches!(verdict, StoreReply::Granted { .. }) && self.may_be_orphaned(call, again) {
                self.orphans.extend(self.by_name.get(&call.name));
            }
            self.may_come_late(call, &verdict);
            if self.transcript.is_some() {
                let label = self.whose(call);
                let again = if again { " (a duplicate)" } else { "" };
                let line = format!("  store  {} ({label}){again}", told(&verdict));
                self.say(|_| line);
            }
            if verdict == StoreReply::Failed(Failure::Corrupt) && call.kind.reply_kind() == ReplyKind::Claim {
                self.unreadable.extend(self.by_owner.get(&call.owner).map(|request| (*nonce, (batch, *request))));
            }
            answers.push((*nonce, verdict));
        }
        if again {
            return;
        }
        let back = flight.carriage.back_ms;
        let mut reply = Reply::Answers(answers);
        match flight.carriage.reply {
            Handling::Kept => {}
            Handling::Lost => return self.say(|_| "       the reply is lost".to_owned()),
            Handling::Doubled => {
                self.after(back + 50, Happening::Replied { worker, batch, reply: reply.clone(), epoch });
            }
            Handling::Garbage => reply = Reply::Failed(Failure::Nonce),
            Handling::Truncated => {
                if let Reply::Answers(answers) = &mut reply {
                    answers.truncate(answers.len() / 2);
                }
            }
            // An answer to an earlier try of somebody, kept by whoever stands between.
            Handling::Another => {
                if let Reply::Answers(answers) = &mut reply {
                    answers.iter_mut().for_each(|(nonce, _)| nonce.0[0] ^= 1);
                }
            }
            Handling::Crossed => match self.crossed.take() {
                Some((other_worker, other_batch, other)) => {
                    self.say(|_| "       the reply goes to another caller".to_owned());
                    self.after(back, Happening::Replied { worker: other_worker, batch: other_batch, reply, epoch });
                    reply = other;
                }
                None => {
                    self.crossed = Some((worker, batch, reply));
                    return;
                }
            },
        }
        self.after(back, Happening::Replied { worker, batch, reply, epoch });
    }

    /// Notes a withdrawal that comes after another claim has taken over: what the withdrawn claim left stays.
    fn may_come_late(&mut self, call: &Command, verdict: &StoreReply) {
        match (&call.kind, verdict) {
            (_, StoreReply::Granted { .. }) => drop(self.granted.insert(call.owner)),
            (CommandKind::Withdraw, StoreReply::Settled) => drop(self.granted.remove(&call.owner)),
            (CommandKind::Withdraw, StoreReply::Lost) if self.granted.contains(&call.owner) => {
                self.orphans.extend(self.by_name.get(&call.name));
            }
            _ => {}
        }
    }

    /// Whether the network alone is to blame for a grant that nobody waits for: by a copy of the claim, or so late that
    /// the record cannot know any more whose claims were released.
    fn may_be_orphaned(&self, call: &Command, again: bool) -> bool {
        let released = self.store.released.get(&call.name);
        let is_released = released.is_some_and(|owners| owners.contains(&call.owner));
        let is_crowded_out = released.is_some_and(|owners| owners.len() > RELEASED_KEPT);
        let life_ms = self.forwards.iter().map(|forward| forward.lives_ms().0).min().unwrap_or(call.ttl_ms);
        let is_whole = self.store.peak(0, self.now) < self.store.trough(0, self.now) + life_ms
            && !self.store.lost_between(0, self.now);
        if is_released { is_crowded_out || !is_whole } else { again || is_crowded_out }
    }

    fn replied(&mut self, worker: usize, batch: u64, reply: Reply) {
        if let Reply::Failed(failure) = &reply {
            let line = format!("       the call fails: {}", failure.as_str());
            self.say(|_| line);
        }
        let unreadable: Vec<usize> = match &reply {
            Reply::Answers(answers) => {
                let told = answers.iter().filter_map(|(nonce, _)| self.unreadable.get(nonce));
                // An answer to another call counts for nothing.
                told.filter(|(asked, _)| *asked == batch).map(|(_, request)| *request).collect()
            }
            Reply::Failed(_) => Vec::new(),
        };
        let awaiting =
            |world: &World| unreadable.iter().filter(|request| world.requests[**request].forward.is_none()).count();
        let before = awaiting(self);
        self.call_root(worker, |worker, envoy| worker.on_store_reply(envoy, batch, reply));
        if awaiting(self) != before {
            self.broken_bounds.push("I5: a request ran although something that cannot be read is stored".to_owned());
        }
    }

    fn forward(&mut self, request: usize, worker: usize, stream: u32) {
        let sent = &mut self.requests[request];
        let edits = std::mem::take(&mut sent.edits);
        let upstream = edited(&sent.head().headers, &edits);
        if sent.is_observed && !edits.is_empty() {
            self.broken_bounds.push("a request was changed though the policy is only tried".to_owned());
        }
        let is_numbered = edits.iter().any(|edit| matches!(edit, Edit::Set("idempotency-attempt", _)));
        let treatment = self.treatment();
        let is_told = self.awaits(worker, stream, Exchange::is_running);
        let forward = self.goes_up(request, worker, is_told, is_numbered.then_some(&upstream), treatment);
        let is_observed = self.requests[request].is_observed;
        self.is_not_forged(&upstream, forward, is_observed);
        self.say(|w| {
            let attempt = w.forwards[forward].attempt;
            let attempt = attempt.map_or("unprotected".to_owned(), |attempt| format!("attempt {attempt}"));
            let quoted = if w.forwards[forward].key.starts_with(b"\"") { ", its key in quotes" } else { "" };
            format!("{} → upstream  {attempt}{quoted}", w.requests[request].label)
        });
        self.after(2 + treatment.work_ms, Happening::Responds { worker, stream });
    }

    /// The gateway itself sends a request upstream, in the place of its client. Gives the token of the call.
    fn execute(&mut self, worker: usize, stream: u32, outgoing: &Outgoing) -> Option<u32> {
        let request = self.workers[worker].requests[stream as usize - 1];
        let asked = &self.requests[request];
        if asked.is_given_up {
            self.broken_bounds.push("something was executed for a client that had gone before".to_owned());
        }
        let asked = &self.requests[request];
        if outgoing.body != self.body(asked.payload) || outgoing.headers.first("idempotency-key").is_none() {
            self.broken_bounds.push("the gateway sent another request than its client".to_owned());
        }
        let mut treatment = self.treatment();
        if self.strikes(Fault::ShieldedUnsent, 100) {
            treatment = Treatment::new(End::Unsent, 0);
        } else if treatment.end == End::DiesInBody || self.strikes(Fault::ShieldedLost, 150) {
            treatment.end = End::Lost;
        } else if treatment.work_ms > outgoing.timeout_ms {
            treatment = Treatment { end: End::Late, work_ms: outgoing.timeout_ms, ..treatment };
        }
        let forward = self.goes_up(request, worker, true, Some(&outgoing.headers), treatment);
        self.forwards[forward].is_shielded = true;
        self.forwards[forward].is_accounted = self.account_fields() == ACCOUNT.len();
        self.is_not_forged(&outgoing.headers, forward, false);
        self.say(|w| {
            let attempt = w.forwards[forward].attempt.unwrap_or(0);
            format!("  g{} → upstream  attempt {attempt} ({})", w.requests[request].node + 1, w.requests[request].label)
        });
        if treatment.end == End::Unsent {
            let entry = &mut self.forwards[forward];
            entry.heard = Some((self.now, entry.known()));
            self.say(|w| format!("         there is no way ({})", w.requests[request].label));
            return None;
        }
        self.workers[worker].next_token += 1;
        let token = self.workers[worker].next_token;
        self.after(2 + treatment.work_ms, Happening::Executed { worker, token, forward });
        if self.strikes(Fault::ClientHangsUp, 300) {
            let patience = self.fate.between(0, treatment.work_ms + 5);
            self.after(patience, Happening::HangsUp { request });
        }
        Some(token)
    }

    /// What came back from a request of the gateway's own, whether or not its client is still there.
    fn executed(&mut self, worker: usize, token: u32, forward: usize) {
        let (mut headers, body, origin) = self.response(forward);
        let fields = self.account_fields();
        let entry = &mut self.forwards[forward];
        entry.heard = Some((self.now, entry.known()));
        if entry.end != End::Late {
            let (flags, sent): (&[u8], &[u8]) = if origin.flags == 0 { (b"-", b"99") } else { (b"UF", b"0") };
            let attempts = origin.attempts.unwrap_or(0).to_string();
            let account = ACCOUNT.into_iter().zip([origin.details, attempts.as_bytes(), flags, sent, b"-"]);
            account.take(fields).for_each(|(name, text)| headers.push(name.as_bytes(), text));
        }
        let status = entry.status;
        let answer = match entry.end {
            End::Lost => Executed::Lost,
            _ => {
                entry.whole_ms = (origin.details == VIA_UPSTREAM).then_some(self.now);
                Executed::Answered { status, headers: &headers, body: &body }
            }
        };
        self.say(|w| {
            let request = &w.requests[w.forwards[forward].request];
            let what = match answer {
                Executed::Answered { .. } => status.to_string(),
                Executed::Lost | Executed::Unsent => "nothing, its answer is lost".to_owned(),
            };
            format!("  g{} ← upstream  {what} ({})", request.node + 1, request.label)
        });
        let crowded = self.forwards[forward].body.len() >= LARGE_BODY && self.strikes(Fault::WorkerCrowded, 300);
        self.forwards[forward].is_crowded_out = crowded;
        self.call_root(worker, |worker, envoy| {
            let exchange = worker.take_execution(token).expect("it was sent under this token");
            worker.set_crowded_from(if crowded { 0 } else { u64::MAX });
            worker.on_executed(envoy, exchange, answer);
        });
    }

    fn body(&self, payload: u8) -> Vec<u8> {
        if self.is_bodiless && payload == 1 { Vec::new() } else { body(payload) }
    }

    fn account_fields(&self) -> usize {
        self.plan.shields.map_or(0, |shielding| shielding.fields)
    }

    /// Lets a request go upstream; `numbered` are its fields where it goes under a claim.
    fn goes_up(
        &mut self,
        request: usize,
        worker: usize,
        is_told: bool,
        numbered: Option<&Headers>,
        treatment: Treatment,
    ) -> usize {
        let number = |headers: &Headers| std::str::from_utf8(headers.first("idempotency-attempt")?).ok()?.parse().ok();
        let forward = self.forwards.len();
        let sent = &mut self.requests[request];
        let status = match treatment.end {
            End::Answers(status) | End::Retried(status) => status,
            End::DiesInBody | End::Lost => 201,
            End::Late | End::TimesOut => 504,
            End::ResetsBefore | End::ResetsAfter | End::Unreached | End::Unsent => 503,
        };
        if sent.forward.is_some() {
            self.broken_bounds.push("I1: one request was let go twice".to_owned());
        }
        sent.forward = Some(forward);
        sent.excused_ms += treatment.work_ms + 10;
        self.forwards.push(Forward {
            request,
            who: (sent.tenant, sent.key),
            payload: sent.payload,
            attempt: numbered.and_then(number),
            key: numbered.and_then(|headers| headers.first("idempotency-key")).unwrap_or_default().to_vec(),
            asked_ms: sent.asked_ms.unwrap_or(sent.sent_ms),
            forwarded_ms: self.now,
            lease_ms: self.workers[worker].policy.lease_ms,
            ttl_ms: self.workers[worker].policy.ttl_ms,
            is_told: is_told && !sent.is_observed,
            executions: 0,
            status,
            body: format!("execution {} {}", forward + 1, "x".repeat((forward + 1) * 37 % 300 + treatment.size))
                .into_bytes(),
            is_shielded: false,
            is_accounted: true,
            is_crowded_out: false,
            is_announced: treatment.is_announced,
            body_ms: treatment.body_ms,
            end: treatment.end,
            steering: treatment.steering,
            heard: None,
            crashed_ms: None,
            whole_ms: None,
            arrives_ms: self.now + 2,
        });
        self.coverage.forwards += 1;
        if !matches!(treatment.end, End::Unreached | End::Unsent) {
            self.at(self.forwards[forward].arrives_ms, Happening::AtUpstream { forward });
        }
        forward
    }

    /// Only the gateway says what only it may say.
    fn is_not_forged(&mut self, upstream: &Headers, forward: usize, is_observed: bool) {
        let expected = usize::from(self.forwards[forward].attempt.is_some());
        for name in FORGED.iter().filter(|_| !is_observed) {
            let lines: Vec<_> = upstream.all(name).collect();
            if lines.len() != expected || lines.contains(&b"99".as_slice()) {
                self.broken_bounds.push(format!("the upstream was told a client's {name}"));
            }
        }
    }

    fn treatment(&mut self) -> Treatment {
        if let Some(treatment) = self.treatments.pop_front() {
            return treatment;
        }
        if !self.is_wild {
            return Treatment::new(End::Answers(201), 5);
        }
        let lease = self.plan.leases_ms[0];
        let mut end = End::Answers(201);
        for (fault, ends) in [
            (Fault::UpstreamRefuses, End::Answers(404)),
            (Fault::UpstreamFails, End::Answers(503)),
            (Fault::UpstreamTimesOut, End::TimesOut),
            (Fault::UpstreamResets, End::ResetsAfter),
            (Fault::UpstreamDiesInBody, End::DiesInBody),
            (Fault::UpstreamUnreached, End::Unreached),
        ] {
            if self.strikes(fault, 150) {
                end = ends;
            }
        }
        if end == End::ResetsAfter && self.up.chance(500) {
            end = End::ResetsBefore;
        }
        if end == End::Answers(503) && self.up.chance(300) {
            end = End::Answers(502);
        }
        if let End::Answers(status) = end
            && self.strikes(Fault::RouterRetries, 100)
        {
            end = End::Retried(status);
        }
        let work_ms = if self.strikes(Fault::UpstreamSlow, 250) {
            self.up.between(lease / 2, 3 * lease)
        } else {
            self.up.between(0, 150)
        };
        let mut treatment = Treatment::new(end, work_ms);
        if self.strikes(Fault::UpstreamSteers, 250) {
            let fate = self.up.pick(&[None, Some("store"), Some("release"), Some("retry"), Some("unknown")]);
            let ttl_s = self.up.chance(500).then(|| self.up.between(1, 30));
            treatment.steering = Steering { fate, ttl_s };
        }
        if self.strikes(Fault::UpstreamSaysMuch, 150) {
            treatment.size = self.up.pick(&[LARGE_BODY, TOO_LARGE_BODY]);
            treatment.is_announced = self.up.chance(500);
        }
        treatment
    }

    fn at_upstream(&mut self, forward: usize) {
        let number = forward + 1;
        let entry = &mut self.forwards[forward];
        entry.executions = match entry.end {
            End::ResetsBefore | End::Unreached | End::Unsent => 0,
            End::Retried(_) => 2,
            _ => 1,
        };
        self.coverage.executions += u64::from(entry.executions);
        if entry.executions > 0 {
            self.say(|w| {
                let entry = &w.forwards[forward];
                format!("        upstream executes k{} p{} as #{number}", entry.who.1, entry.payload)
            });
        }
    }

    /// What the upstream, or Envoy in its place, has to say, and Envoy's account of it.
    fn response(&self, number: usize) -> (Headers, Vec<u8>, Origin<'static>) {
        let reset = "upstream_reset_before_response_started{connection_termination}";
        let entry = &self.forwards[number];
        let (details, attempts, flags) = match entry.end {
            End::Answers(_) | End::DiesInBody => ("via_upstream", 1, 0),
            End::Retried(_) => ("via_upstream", 2, 0),
            End::ResetsBefore | End::ResetsAfter => (reset, 1, 0),
            End::TimesOut => ("response_timeout", 1, 0),
            End::Unreached => {
                ("upstream_reset_before_response_started{remote_connection_failure}", 1, evidence::flags(b"UF"))
            }
            // Nobody is told.
            End::Late | End::Lost | End::Unsent => ("", 0, 0),
        };
        let origin = Origin { details: details.as_bytes(), attempts: Some(attempts), flags, ..Origin::default() };
        let mut fields = vec![(":status", entry.status.to_string())];
        if origin.details != VIA_UPSTREAM {
            return (fields.into_iter().collect(), b"upstream connect error".to_vec(), origin);
        }
        fields.push(("x-execution", (number + 1).to_string()));
        fields.extend(entry.is_announced.then(|| ("content-length", entry.body.len().to_string())));
        fields.extend(entry.steering.fate.map(|fate| ("idempotency-store", fate.to_owned())));
        fields.extend(entry.steering.ttl_s.map(|ttl_s| ("idempotency-ttl", ttl_s.to_string())));
        (fields.into_iter().collect(), entry.body.clone(), origin)
    }

    /// A response reaches the gateway.
    fn responds(&mut self, worker: usize, stream: u32) {
        let Some(request) = self.workers[worker].request(stream) else { return };
        let Some(number) = self.requests[request].forward else { return };
        let (headers, body, origin) = self.response(number);
        let details = std::str::from_utf8(origin.details).unwrap_or_default();
        let entry = &mut self.forwards[number];
        entry.heard = Some((self.now, entry.known()));
        let (status, dies) = (entry.status, entry.end == End::DiesInBody);
        let original = headers.clone();
        self.requests[request].incoming = Some(Incoming {
            status,
            original,
            headers: headers.clone(),
            body,
            details,
            is_held: false,
            is_whole: false,
            has_begun: false,
        });
        self.head_of_response(request, (worker, stream), &headers, status, origin, false);
        let mut travels = if self.is_wild { self.net.between(0, 30) } else { self.forwards[number].body_ms };
        if self.strikes(Fault::UpstreamSlow, 60) {
            travels = self.up.between(0, 2 * self.plan.leases_ms[0]);
            self.requests[request].excused_ms += travels;
        }
        if self.strikes(Fault::UpstreamTrickles, 150) {
            travels = self.up.between(self.plan.leases_ms[0], 8 * self.plan.leases_ms[0]);
            self.requests[request].excused_ms += travels;
        }
        if dies {
            self.after(travels, Happening::Gone { request, place: (worker, stream) });
        } else {
            self.after(travels, Happening::BodyOfResponse { worker, stream });
        }
    }

    fn body_of_response(&mut self, worker: usize, stream: u32) {
        let Some(request) = self.workers[worker].request(stream) else { return };
        let Some(incoming) = &mut self.requests[request].incoming else { return };
        incoming.is_whole = true;
        let (body, is_held) = (incoming.body.clone(), incoming.is_held);
        if is_held && self.is_held_too_long(request, worker) {
            self.broken_bounds.push("I6: a response that trickles is held beyond its running time".to_owned());
        }
        if let Some(forward) = self.requests[request].forward {
            self.forwards[forward].whole_ms = Some(self.now);
        }
        if self.workers[worker].hides_bodies && is_held {
            self.coverage.injected(Fault::BodiesHidden);
            self.requests[request].excused_ms += HIDDEN_MS;
            return;
        }
        let half = if body.len() >= LARGE_BODY { body.len() / 2 } else { 0 };
        let (first, rest) = body.split_at(half);
        // Envoy may show the end of a body only after all of it.
        let is_announced = self.requests[request].forward.is_some_and(|forward| self.forwards[forward].is_announced);
        let mut in_hand = Vec::new();
        for (chunk, end) in [(first, false), (rest, !is_announced), (&[], true)] {
            let is_over = end && chunk.is_empty() && !is_announced;
            if (chunk.is_empty() && !end) || is_over || self.requests[request].place != Some((worker, stream)) {
                continue;
            }
            in_hand.extend_from_slice(chunk);
            let is_awaited = self.awaits(worker, stream, Exchange::awaits_response_body);
            let crowded = half > 0 && is_awaited && self.strikes(Fault::WorkerCrowded, 300);
            let (size, whole) = (in_hand.len(), || in_hand.clone());
            let action = self.call_stream(worker, stream, |worker, envoy, stream| {
                worker.set_crowded_from(if crowded { 0 } else { u64::MAX });
                worker.on_response_body(envoy, stream, ResponseBody { size, end, whole: &whole })
            });
            if action == Action::Continue {
                in_hand.clear();
            }
            if let Some(incoming) = &mut self.requests[request].incoming {
                incoming.is_held = action == Action::Pause;
                incoming.has_begun |= !incoming.is_held;
            }
        }
        if self.requests[request].place == Some((worker, stream)) {
            self.deliver(request, worker, stream);
        }
    }

    /// Whether a response is held although its running time is over, in a worker that nothing has stopped.
    fn is_held_too_long(&self, request: usize, worker: usize) -> bool {
        let Some(forward) = self.requests[request].forward.map(|forward| &self.forwards[forward]) else { return false };
        let heard_ms = forward.heard.map_or(self.now, |(at, _)| at);
        let until_ms = (forward.forwarded_ms + 2 * forward.lease_ms).max(heard_ms + forward.lease_ms / 3);
        let stops = self.plan.faults.has(Fault::GatewayPauses) || self.workers[worker].hides_bodies;
        !stops
            && self.awaits(worker, self.requests[request].place.map_or(0, |place| place.1), Exchange::awaits_body)
            && self.now > until_ms + 2 * TICK_MS
    }

    /// Lets the client have the response, if all of it is there and nobody holds it back.
    fn deliver(&mut self, request: usize, worker: usize, stream: u32) {
        let ready = |incoming: &mut Incoming| incoming.is_whole && !incoming.is_held;
        let Some(incoming) = self.requests[request].incoming.take_if(ready) else { return };
        let Incoming { status, original, headers, body, details, .. } = incoming;
        let is_ours = |name: &[u8]| name == b"idempotency-status";
        let changed = headers.iter().filter(|(name, _)| !is_ours(name)).ne(original.iter());
        if self.requests[request].is_observed && changed {
            self.broken_bounds.push("a response was changed though the policy is only tried".to_owned());
        }
        let is_steering = STEERING.iter().chain(&ACCOUNT).any(|name| headers.has(name));
        if !self.requests[request].is_observed && is_steering {
            self.broken_bounds.push("a client was told what the upstream tells the gateway".to_owned());
        }
        self.hears(request, Answer { status, headers, body });
        self.closes(request, worker, stream, details);
    }

    fn own_answer(&mut self, worker: usize, stream: u32, reply: &Own) {
        let Some(request) = self.workers[worker].request(stream) else { return };
        let Own { status, headers, body, details } = reply.clone();
        if STEERING.iter().chain(&ACCOUNT).any(|name| headers.has(name)) {
            self.broken_bounds.push("a client was told what is for the gateway alone".to_owned());
        }
        let seen = match reply.is_put_back() && self.strikes(Fault::AnswerMeddled, 500) {
            true => Own {
                status: 503,
                headers: headers.iter().chain([(b"x-meddled".as_slice(), b"1".as_slice())]).collect(),
                body: [b"{", body.as_slice(), b"}"].concat(),
                details,
            },
            false => reply.clone(),
        };
        let passing = Passing { headers: seen.headers.clone(), body: seen.body.clone() };
        self.passing.insert((worker, stream), passing);
        let origin = Origin { details: details.as_bytes(), attempts: Some(0), ..Origin::default() };
        let end = seen.body.is_empty();
        self.head_of_response(request, (worker, stream), &seen.headers, seen.status, origin, end);
        if !end {
            self.call_stream(worker, stream, |worker, envoy, stream| {
                let whole = || seen.body.clone();
                worker.on_response_body(envoy, stream, ResponseBody { size: seen.body.len(), end: true, whole: &whole })
            });
        }
        let passing = self.passing.remove(&(worker, stream)).unwrap_or_default();
        let told: Headers = passing.headers.iter().filter(|(name, _)| !FRAMING.contains(name)).collect();
        if (&told, &passing.body) != (&headers, &body) {
            self.broken_bounds.push("I2: an answer of the gateway's own came changed".to_owned());
        }
        self.hears(request, Answer { status, headers, body });
        self.closes(request, worker, stream, details);
    }

    fn closes(&mut self, request: usize, worker: usize, stream: u32, details: &str) {
        let origin = Origin { details: details.as_bytes(), attempts: Some(1), ..Origin::default() };
        self.stream_ends(request, worker, stream, origin);
    }

    fn stream_ends(&mut self, request: usize, worker: usize, stream: u32, origin: Origin<'_>) {
        self.requests[request].place = None;
        let is_given_up = !self.awaits(worker, stream, Exchange::is_running);
        self.requests[request].is_given_up = is_given_up;
        let place = &mut self.workers[worker];
        place.ended_ms.insert(stream, self.now);
        let Some(open) = place.streams.remove(&stream) else { return };
        if !open.callbacks.is_over() {
            self.call_root(worker, |worker, envoy| worker.stream_ends(envoy, &open.callbacks, origin, None));
        }
        self.may_drain(worker);
    }

    fn hears(&mut self, request: usize, answer: Answer) {
        let asked = &mut self.requests[request];
        if asked.is_broken || asked.answer.is_some() {
            return;
        }
        self.coverage.answered(&answer);
        asked.answer = Some(answer);
        asked.answered_ms = Some(self.now);
        self.say(|w| {
            let asked = &w.requests[request];
            let answer = asked.answer.as_ref().unwrap();
            let body: String = match answer.body.starts_with(b"execution") {
                true => String::from_utf8_lossy(&answer.body).split(' ').take(2).collect::<Vec<_>>().join(" #"),
                false if asked.looks => String::from_utf8_lossy(&answer.body).into_owned(),
                false => String::new(),
            };
            format!("{} ← {}  {}  {body}", asked.label, answer.status, answer.line()).trim_end().to_owned()
        });
        self.retries(request);
    }

    /// The client's connection is gone before it had an answer.
    fn breaks(&mut self, request: usize) {
        if self.requests[request].answer.is_none() && !self.requests[request].is_broken {
            self.requests[request].is_broken = true;
            self.say(|w| format!("{} ← connection closed", w.requests[request].label));
            self.retries(request);
        }
    }

    fn retries(&mut self, request: usize) {
        let client = self.requests[request].client;
        let Some(plan) = self.plan.clients.get(client) else { return };
        let is_told = self.requests[request].answer.as_ref().is_some_and(|answer| {
            answer.is("replayed") || (answer.is("executed") && answer.status < 500) || answer.status == 409
        });
        if !self.is_wild || self.tries_left[client] == 0 || (is_told && !plan.insists) {
            return;
        }
        let pause = if self.fate.chance(300) { self.fate.between(1, 50) } else { self.fate.between(50, 2500) };
        self.after(pause, Happening::Tries { client });
    }

    /// The stream is over before the response was.
    fn gone(&mut self, request: usize, place: (usize, u32)) {
        let (worker, stream) = place;
        if self.workers[worker].request(stream).is_none() {
            return;
        }
        self.breaks(request);
        let has_head = self.requests[request].incoming.take().is_some();
        let forward = self.requests[request].forward.filter(|_| self.is_upstream(request));
        let attempts = Some(u64::from(forward.is_some()));
        let origin = Origin { details: b"downstream_remote_disconnect", attempts, ..Origin::default() };
        if let (Some(forward), false) = (forward, has_head) {
            // Though there may have been no connection yet: Envoy does not say so.
            self.forwards[forward].heard.get_or_insert((self.now, Known::Doubt));
        }
        self.stream_ends(request, worker, stream, origin);
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
        let fault = self.fate.pick(&enabled);
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
            Fault::GatewayCrashes if self.plan.embedded.is_some() && self.fate.chance(700) => self.crash_worker(node),
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
                self.store.crash(now + self.fate.between(50, 3 * lease));
            }
            Fault::StoreRefuses => self.store.down_until = now + self.fate.between(50, 3 * lease),
            Fault::StoreFull => self.store.full_until = now + self.fate.between(100, 2000),
            Fault::StoreStops => self.store.stopped_until = now + self.fate.between(50, 2 * lease),
            Fault::StoreFlushed => self.store.flush(now),
            Fault::StoreLosesWrites => {
                let since = now.saturating_sub(self.fate.between(1, 1000));
                self.store.lose_writes_since(since, now);
                self.store.crash(now + self.fate.between(50, lease));
            }
            Fault::StoreFailsOver => {
                let since = now.saturating_sub(self.fate.between(1, 4000));
                self.store.lose_writes_since(since, now);
            }
            _ => {}
        }
        self.say(|_| format!("fault: {fault:?}"));
    }

    /// Of whose request an operation is, and about which key.
    fn whose(&self, call: &Command) -> String {
        // Who has waited asks under owners of its own.
        let asked = self.by_owner.get(&call.owner).map(|request| &self.requests[*request]);
        let label = asked.map_or("one who waits", |request| &request.label);
        let (tenant, key) = self.by_name.get(&call.name).copied().unwrap_or_default();
        if tenant == 1 { format!("{label} k{key}") } else { format!("{label} k{key} t{tenant}") }
    }

    fn operation(&self, worker: usize, call: &Command) -> String {
        let what = match &call.kind {
            CommandKind::Claim { may_retry: true } => "claim".to_owned(),
            CommandKind::Claim { may_retry: false } => "claim, no retry".to_owned(),
            CommandKind::Complete { status, response: Some(_) } => format!("complete {status}"),
            CommandKind::Complete { status, response: None } => format!("complete {status} without its response"),
            CommandKind::Look => "look".to_owned(),
            CommandKind::MarkUnknown => "mark unknown".to_owned(),
            CommandKind::Poll { max_attempt } => format!("poll up to attempt {max_attempt}"),
            CommandKind::Release { keep_fingerprint: true } => "release for the same payload".to_owned(),
            CommandKind::Release { keep_fingerprint: false } => "release".to_owned(),
            CommandKind::Renew => "renew".to_owned(),
            CommandKind::Withdraw => "withdraw".to_owned(),
        };
        let whose = self.whose(call);
        format!("  g{} → store  {what} ({whose})", self.workers[worker].node + 1)
    }
}

/// What only the gateway may tell the upstream.
const FORGED: [&str; 2] = ["idempotency-attempt", "idempotency-operation"];
/// What only the internal listener may tell the gateway.
const ACCOUNT: [&str; 5] = [
    "x-idempotency-details",
    "x-idempotency-attempts",
    "x-idempotency-flags",
    "x-idempotency-sent",
    "x-idempotency-owner",
];
/// What Envoy has beside the fields of an answer.
const FRAMING: [&[u8]; 2] = [b":status", b"content-length"];
/// What only the upstream may tell the gateway.
const STEERING: [&str; 2] = ["idempotency-store", "idempotency-ttl"];

impl Forward {
    /// What a gateway that hears how it ended can know.
    fn known(&self) -> Known {
        let is_retried = matches!(self.end, End::Retried(_));
        match (self.end, self.steering.fate, self.status) {
            (End::Unsent, ..) => Known::Release,
            (End::Late | End::Lost, ..) => Known::Doubt,
            // Nobody knows who has failed, nor how often it was tried.
            (_, fate, status) if !self.is_accounted && (status >= 400 || !matches!(fate, None | Some("store"))) => {
                Known::Doubt
            }
            (End::Unreached, ..) => Known::Release,
            (End::ResetsAfter | End::ResetsBefore | End::TimesOut, ..) => Known::Doubt,
            (_, Some("store"), _) | (_, None, 200..400) => Known::Success,
            (_, Some("release"), _) | (_, None, 400..500) if !is_retried => Known::Release,
            (_, Some("retry"), _) | (_, None, 500 | 501 | 503 | 505..) if !is_retried => Known::Retry,
            _ => Known::Doubt,
        }
    }

    /// How long its record lives at least from when it was asked for, and from its completion.
    pub fn lives_ms(&self) -> (u64, u64) {
        let completed = self.steering.ttl_s.map_or(self.ttl_ms, |ttl_s| 1000 * ttl_s);
        (self.ttl_ms.min(completed), completed)
    }
}

impl Request {
    fn head(&self) -> RequestHead {
        let mut head = head(self.tenant, self.key, self.is_quoted);
        // Half of those that are too large say so at once.
        if self.payload == TOO_LARGE && self.sent_ms.is_multiple_of(2) {
            head.headers.push(b"content-length", body(TOO_LARGE).len().to_string().as_bytes());
        }
        FORGED.iter().filter(|_| self.lies).for_each(|name| head.headers.push(name.as_bytes(), b"99"));
        head
    }
}

/// Only what a request's head says about whose it is.
fn head(tenant: u8, key: u8, is_quoted: bool) -> RequestHead {
    let quote = if is_quoted { "\"" } else { "" };
    let fields: [(&str, String); 5] = [
        (":method", "POST".to_owned()),
        (":path", "/pay".to_owned()),
        (":authority", "api".to_owned()),
        ("authorization", format!("Bearer {tenant}")),
        ("idempotency-key", format!("{quote}k{key}{quote}")),
    ];
    RequestHead { headers: fields.into_iter().collect() }
}

/// Under which name the store keeps what this request is about.
fn name(policy: &Policy, head: &RequestHead) -> Name {
    let request = envoy_idempotency::source::Request::new(head, b"", &|_| None);
    let caller = envoy_idempotency::caller::Caller::read(policy, &request);
    let key = envoy_idempotency::key::ClientKey::read(&policy.key, &request);
    let key = key.unwrap_or_else(|_| panic!("every request has a key"));
    envoy_idempotency::key::name(policy, None, head, &caller, &key)
}

fn body(payload: u8) -> Vec<u8> {
    match payload {
        ..LARGE => vec![b'p', b'0' + payload],
        LARGE => vec![b'0' + payload; LARGE_BODY],
        _ => vec![b'0' + payload; TOO_LARGE_BODY],
    }
}

/// A worker, as the shell makes it.
fn filter(plan: &Plan, policy: &Policy, memory: Option<&Memory>, pool: &stores::Pool) -> worker::Worker<Memory> {
    let table = plan.embedded.zip(memory).map(|(max_bytes, memory)| memory.table(max_bytes));
    let cache = memory.filter(|_| plan.embedded.is_none()).map(Memory::cache);
    let remote = || stores::Store::Remote(Box::new(client::Client::sharing(plan.limits, pool)), cache);
    worker::Worker::new(table.map_or_else(remote, stores::Store::Embedded), policy.lease_ms)
}

fn memory(plan: &Plan) -> Option<Memory> {
    let contention = plan.faults.has(Fault::CellsContended).then(|| Random::new(plan.seed, 8));
    (plan.embedded.is_some() || plan.remembers()).then(|| Memory::new(contention))
}

fn policy(plan: &Plan, which: usize) -> Rc<Policy> {
    let lease_ms = plan.leases_ms[which];
    let document = format!(
        r#"{{"policy": {{"lease_ms": {lease_ms}, "ttl_s": {}, "max_running_ms": {}, "on_store_failure": "{}",
            "save": "{}", "on_unknown": "{}", "on_completed": "{}", "on_too_large": "{}", "mode": "{}", "on_in_flight": {{{}}},
            "max_request_bytes": {MAX_BODY}, "max_response_bytes": {MAX_BODY}, "execution": {{{}}}}}}}"#,
        plan.ttl_s,
        2 * lease_ms,
        if plan.forwards { "forward" } else { "reject" },
        if plan.saves_after { "after_reply" } else { "before_reply" },
        if plan.holds { "hold" } else { "retry" },
        if plan.conflicts { "conflict" } else { "replay" },
        if plan.bypasses { "bypass" } else { "reject" },
        if plan.observes[which] { "observe" } else { "enforce" },
        plan.waits_ms.map_or(r#""action": "reject""#.to_owned(), |max_wait_ms| {
            format!(r#""action": "wait", "max_wait_ms": {max_wait_ms}"#)
        }),
        plan.shields.map_or(r#""kind": "inline""#.to_owned(), |Shielding { timeout_ms, .. }| {
            format!(r#""kind": "shielded", "cluster": "inner", "timeout_ms": {timeout_ms}"#)
        }),
    );
    let config = Config::parse(document.as_bytes(), &|_| None).expect("the plan's policy is right");
    Rc::clone(&config.rules[0].policy)
}

fn edited(headers: &Headers, edits: &[Edit]) -> Headers {
    let mut fields: Vec<(Vec<u8>, Vec<u8>)> = headers.iter().map(|(n, v)| (n.to_vec(), v.to_vec())).collect();
    for edit in edits {
        match edit {
            Edit::Add(name, value) => fields.push((name.as_bytes().to_vec(), value.clone())),
            Edit::Remove(name) => fields.retain(|(found, _)| found != name.as_bytes()),
            Edit::Set(name, value) => {
                fields.retain(|(found, _)| found != name.as_bytes());
                fields.push((name.as_bytes().to_vec(), value.clone()));
            }
        }
    }
    fields.into_iter().collect()
}

fn told(verdict: &StoreReply) -> String {
    match verdict {
        StoreReply::Completed { attempt, status, response, .. } => {
            let kept = if response.is_some() { "" } else { ", not replayable" };
            let status = status.map_or("status unknown".to_owned(), |status| status.to_string());
            format!("completed {status} by attempt {attempt}{kept}")
        }
        StoreReply::Deferred => "deferred".to_owned(),
        StoreReply::Dropped => "dropped".to_owned(),
        StoreReply::Exhausted { attempt } => format!("exhausted by attempt {attempt}"),
        StoreReply::Failed(failure) => format!("failed: {}", failure.as_str()),
        StoreReply::Granted { attempt, doubt, .. } => {
            format!("granted attempt {attempt}{}", if *doubt { ", in doubt" } else { "" })
        }
        StoreReply::InFlight { attempt } => format!("in flight, attempt {attempt}"),
        StoreReply::Lost => "lost".to_owned(),
        StoreReply::Mismatch => "mismatch".to_owned(),
        StoreReply::Renewed { .. } => "renewed".to_owned(),
        StoreReply::Seen(_) => "seen".to_owned(),
        StoreReply::Settled => "settled".to_owned(),
        StoreReply::Stale => "stale".to_owned(),
        StoreReply::Unknown { attempt, wait_ms } => format!("unknown, attempt {attempt}, wait {wait_ms} ms"),
    }
}

/// Keeps the oracle's groups in a fixed order.
pub type ByOperation<T> = BTreeMap<(u8, u8), Vec<T>>;
