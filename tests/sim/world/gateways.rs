//! Gateways: processes and workers that start, stop, crash, reload and drain, and one worker's streams.
//!
//! Its one rule: a worker's time comes only while its process runs, and what a process loses with its end is lost here too.

use std::collections::HashMap;
use std::rc::Rc;

use envoy_idempotency::command::{GivenUp, WhyGivenUp};
use envoy_idempotency::config::{Config, Mode, Policy, Store as Where};
use envoy_idempotency::event::EventKind;
use envoy_idempotency::evidence::Origin;
use envoy_idempotency::exchange::Exchange;
use envoy_idempotency::key::UpstreamKey;
use envoy_idempotency::message::{HeaderMutation, Headers};
use envoy_idempotency::reply::Reply as Own;
use envoy_idempotency::store as stores;
use envoy_idempotency::store::client::{self, Lane};
use envoy_idempotency::store::pipeline::Pipeline;
use envoy_idempotency::worker::{self, Action, Host as _, RequestBody, ResponseBody, Side, Stream};
use host_model::{Random, SharedData};

use super::clients::name;
use super::upstream::{ACCOUNT, STEERING};
use super::{
    Answer, End, HIDDEN_MS, Happening, Incoming, LARGE_BODY, Line, MAX_BODY, Node, Open, Passing, TICK_MS, Worker,
    World,
};
use crate::embedded::Memory;
use crate::plan::{Fault, Plan, Shielding};

impl World {
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
        let (vm, policy) = (self.workers[worker].vm, Rc::clone(&self.workers[worker].policy));
        let in_it: Vec<bool> = self.workers.iter().map(|other| other.node == node && other.vm == vm).collect();
        self.end_workers(node, |other| in_it[other]);
        self.nodes[node].workers.remove(0);
        self.nodes[node].pools[vm] = stores::Pool::default();
        self.start_worker(node, vm, policy);
    }

    pub(super) fn end_workers(&mut self, node: usize, is_ended: impl Fn(usize) -> bool) {
        for (number, worker) in self.workers.iter_mut().enumerate() {
            if worker.is_alive && worker.node == node && is_ended(number) {
                (worker.is_alive, worker.has_crashed) = (false, true);
            }
        }
        self.lose_requests(node, is_ended);
    }

    /// What a worker had under way when it went is lost.
    pub(super) fn lose_requests(&mut self, node: usize, is_ended: impl Fn(usize) -> bool) {
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
    pub(super) fn may_drain(&mut self, number: usize) {
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
    pub(super) fn hands_over(&mut self, number: usize) {
        let (node, vm) = (self.workers[number].node, self.workers[number].vm);
        let heir = self.nodes[node].workers.iter().copied().find(|heir| self.workers[*heir].vm == vm);
        if let Some(heir) = heir.filter(|_| self.workers[number].is_draining) {
            let handed_over = self.call_root(number, |worker, _| worker.hand_over());
            self.call_root(heir, |worker, envoy| worker.inherit(handed_over, envoy.now_ms()));
        }
    }

    /// A worker has given up a part of what it owed.
    pub(super) fn gives_up(&mut self, number: usize, given_up: &GivenUp) {
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

    pub(super) fn start(&mut self, node: usize, policy: usize) {
        let may_hide = self.is_wild && self.plan.faults.has(Fault::BodiesHidden);
        let hides_bodies = may_hide && self.hides.chance(200);
        self.nodes[node].hides_bodies = hides_bodies;
        self.nodes[node].pools.resize_with(self.plan.workers, stores::Pool::default);
        for vm in 0..self.plan.workers {
            self.start_worker(node, vm, Rc::clone(&self.policies[policy]));
        }
    }

    pub(super) fn start_worker(&mut self, node: usize, vm: usize, policy: Rc<Policy>) {
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
            lines: lines(&self.plan),
            ended_ms: HashMap::new(),
        };
        self.nodes[node].workers.push(self.workers.len());
        self.workers.push(worker);
    }

    pub(super) fn arrives(&mut self, request: usize) {
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
            true => Exchange::looking(Rc::clone(&policy), Rc::clone(&self.secrets), name(&policy, &head), None, owner),
            false => Exchange::new(policy, Rc::clone(&self.secrets)),
        };
        let time = (1_000_000 * self.now).to_le_bytes();
        let attribute = |path: &[&str]| (path == ["request", "time"]).then(|| time.to_vec());
        let action = self.call_stream(worker, stream, |worker, envoy, stream| {
            let upstream_key = UpstreamKey([0; 16]);
            let kind = EventKind::RequestHeaders { head: &head, attribute: &attribute, owner, upstream_key, end };
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

    pub(super) fn body_ends(&mut self, worker: usize, stream: u32) {
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
            let overloaded = half > 0 && is_awaited && self.strikes(Fault::WorkerCrowded, 300);
            let read = |from: usize, len: usize| in_hand[from..from + len].to_vec();
            let size = in_hand.len();
            let action = self.call_stream(worker, stream, |worker, envoy, stream| {
                worker.set_overloaded_from(if overloaded { 0 } else { u64::MAX });
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
    pub(super) fn goes_on(&mut self, request: usize, worker: usize, stream: u32, action: Action) {
        let asked = &mut self.requests[request];
        asked.is_held = action == Action::Pause && asked.forward.is_none();
        if action == Action::Continue && asked.forward.is_none() && asked.place == Some((worker, stream)) {
            self.forward(request, worker, stream);
        }
    }

    /// Lets a held message go on.
    pub(super) fn continues(&mut self, worker: usize, stream: u32, side: Side) {
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

    pub(super) fn awaits(&self, worker: usize, stream: u32, what: impl Fn(&Exchange) -> bool) -> bool {
        self.workers[worker].filter().exchange(stream).is_some_and(what)
    }

    /// Envoy loses patience with a request that is held back, and answers it.
    pub(super) fn host_answers(&mut self, request: usize, place: (usize, u32)) {
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
    pub(super) fn head_of_response(
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

    pub(super) fn clock(&self, worker: usize) -> u64 {
        self.now + self.nodes[self.workers[worker].node].clock_offset
    }

    /// Sees to it that a worker's time comes while anything is under way.
    pub(super) fn keeps_ticking(&mut self, worker: usize) {
        let waits = self.waits_in_vain(worker);
        let place = &mut self.workers[worker];
        if place.is_alive && !place.ticks && (!place.filter().is_idle() || waits) {
            place.ticks = true;
            let phase = worker as u64 * 7 % TICK_MS;
            let next = (self.now + TICK_MS - phase) / TICK_MS * TICK_MS + phase;
            self.at(next.max(self.now + 1), Happening::Tick { worker });
        }
    }

    pub(super) fn tick(&mut self, worker: usize) {
        self.workers[worker].ticks = false;
        self.hands_over(worker);
        self.ticks_lines(worker);
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

    /// A response reaches the gateway.
    pub(super) fn responds(&mut self, worker: usize, stream: u32) {
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

    pub(super) fn body_of_response(&mut self, worker: usize, stream: u32) {
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
            let overloaded = half > 0 && is_awaited && self.strikes(Fault::WorkerCrowded, 300);
            let (size, whole) = (in_hand.len(), || in_hand.clone());
            let action = self.call_stream(worker, stream, |worker, envoy, stream| {
                worker.set_overloaded_from(if overloaded { 0 } else { u64::MAX });
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
    pub(super) fn is_held_too_long(&self, request: usize, worker: usize) -> bool {
        let Some(forward) = self.requests[request].forward.map(|forward| &self.forwards[forward]) else { return false };
        let heard_ms = forward.heard.map_or(self.now, |(at, _)| at);
        let until_ms = (forward.forwarded_ms + 2 * forward.lease_ms).max(heard_ms + forward.lease_ms / 3);
        let stops = self.plan.faults.has(Fault::GatewayPauses) || self.workers[worker].hides_bodies;
        !stops
            && self.awaits(worker, self.requests[request].place.map_or(0, |place| place.1), Exchange::awaits_body)
            && self.now > until_ms + 2 * TICK_MS
    }

    /// Lets the client have the response, if all of it is there and nobody holds it back.
    pub(super) fn deliver(&mut self, request: usize, worker: usize, stream: u32) {
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

    pub(super) fn own_answer(&mut self, worker: usize, stream: u32, reply: &Own) {
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

    pub(super) fn closes(&mut self, request: usize, worker: usize, stream: u32, details: &str) {
        let origin = Origin { details: details.as_bytes(), attempts: Some(1), ..Origin::default() };
        self.stream_ends(request, worker, stream, origin);
    }

    pub(super) fn stream_ends(&mut self, request: usize, worker: usize, stream: u32, origin: Origin<'_>) {
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
}

/// What Envoy has beside the fields of an answer.
pub(super) const FRAMING: [&[u8]; 2] = [b":status", b"content-length"];

/// A worker, as the shell makes it.
pub(super) fn filter(
    plan: &Plan,
    policy: &Policy,
    memory: Option<&Memory>,
    pool: &stores::Pool,
) -> worker::Worker<SharedData> {
    let table = plan.embedded.zip(memory).map(|(max_bytes, memory)| memory.table(max_bytes));
    let cache = memory.filter(|_| plan.embedded.is_none()).map(Memory::cache);
    let remote = || stores::Store::Remote(Box::new(client::Client::sharing(plan.limits, pool)), cache);
    worker::Worker::new(table.map_or_else(remote, stores::Store::Embedded), policy.lease_ms)
}

/// The streams to the store that one worker has, none of them open.
fn lines(plan: &Plan) -> Vec<Line> {
    if !plan.has_streams() {
        return Vec::new();
    }
    let password = if plan.logs_in { r#", "password": { "env": "REDIS_PASSWORD" }"# } else { "" };
    let (timeout_ms, batching) = (plan.limits.timeout_ms, plan.limits.max_batch > 1);
    let document = format!(
        r#"{{"store": {{"type": "redis", "cluster": "resp", "timeout_ms": {timeout_ms}, "batching": {batching}{password}}}}}"#
    );
    let password = |_: &str| Some("pass-of-a-gateway".to_owned());
    let config = Config::parse(document.as_bytes(), &password).expect("the plan's store is right");
    let Where::Redis(redis) = config.store else { panic!("it is Redis") };
    Lane::ALL.map(|lane| Line::new(Pipeline::new(&redis, lane))).into()
}

pub(super) fn memory(plan: &Plan) -> Option<Memory> {
    let contention = plan.faults.has(Fault::CellsContended).then(|| Random::of(plan.seed, 8));
    (plan.embedded.is_some() || plan.remembers()).then(|| Memory::new(contention))
}

pub(super) fn config(plan: &Plan, which: usize) -> Config {
    let lease_ms = plan.leases_ms[which];
    let document = format!(
        r#"{{{}"policy": {{"lease_ms": {lease_ms}, "ttl_s": {}, "max_running_ms": {}, "on_store_failure": "{}",
            "save": "{}", "on_unknown": "{}", "on_completed": "{}", "on_too_large": "{}", "mode": "{}", "on_in_flight": {{{}}},
            "key": {{"required": {}, "issued": "{}"}}{}{}, "max_request_bytes": {MAX_BODY}, "max_response_bytes": {MAX_BODY}, "execution": {{{}}}}}}}"#,
        plan.issued_s.map_or(String::new(), |ttl_s| format!(
            r#""secrets": {{"issuing": [{{"id": "1", "key": "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="}}]}},
                "issued_ttl_s": {ttl_s},"#
        )),
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
        plan.serializes_ms.is_some(),
        if plan.issued_s.is_some() { "required" } else { "any" },
        plan.serializes_ms.map_or(String::new(), |max_wait_ms| {
            format!(r#", "serialize": {{"sources": [{{"header": "x-resource"}}], "max_wait_ms": {max_wait_ms}}}"#)
        }),
        plan.similar.map_or(String::new(), |(window_ms, refuses)| {
            let action = if refuses { "refuse" } else { "tell" };
            format!(r#", "similar": {{"window_ms": {window_ms}, "action": "{action}"}}"#)
        }),
        plan.shields.map_or(r#""kind": "inline""#.to_owned(), |Shielding { timeout_ms, .. }| {
            format!(r#""kind": "shielded", "cluster": "inner", "timeout_ms": {timeout_ms}"#)
        }),
    );
    Config::parse(document.as_bytes(), &|_| None).expect("the plan's policy is right")
}

pub(super) fn edited(headers: &Headers, edits: &[HeaderMutation]) -> Headers {
    let mut fields: Vec<(Vec<u8>, Vec<u8>)> = headers.iter().map(|(n, v)| (n.to_vec(), v.to_vec())).collect();
    for edit in edits {
        match edit {
            HeaderMutation::Add(name, value) => fields.push((name.as_bytes().to_vec(), value.clone())),
            HeaderMutation::Remove(name) => fields.retain(|(found, _)| found != name.as_bytes()),
            HeaderMutation::Set(name, value) => {
                fields.retain(|(found, _)| found != name.as_bytes());
                fields.push((name.as_bytes().to_vec(), value.clone()));
            }
        }
    }
    fields.into_iter().collect()
}
