//! Clients: what they send, when they hang up and try again, and what they hear.
//!
//! Its one rule: a client knows nothing but what it has sent and what has come back.

use envoy_idempotency::config::Policy;
use envoy_idempotency::evidence::Origin;
use envoy_idempotency::key::{Name, UpstreamKey};
use envoy_idempotency::message::RequestHead;
use envoy_idempotency::record::Owner;

use super::upstream::{FENCE, FORGED, body};
use super::{Answer, Forward, Happening, KNOCKS, Known, Request, World};
use crate::plan::{Client, Fault, TOO_LARGE};

impl World {
    /// Whether every client has its last answer, and no upstream works any more.
    pub(super) fn clients_are_done(&self) -> bool {
        let is_executing =
            |forward: &Forward| forward.is_shielded && forward.heard.is_none() && forward.crashed_ms.is_none();
        self.pending_tries == 0
            && !self.forwards.iter().any(is_executing)
            && self
                .requests
                .iter()
                .all(|request| (request.answer.is_some() || request.is_broken) && request.place.is_none())
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

    /// Sends one request to a gateway.
    pub fn send(&mut self, label: &str, client: usize, who: Client, node: usize) -> usize {
        self.send_as(label, client, who, node, false)
    }

    pub(super) fn send_as(&mut self, label: &str, client: usize, who: Client, node: usize, looks: bool) -> usize {
        let request = self.requests.len();
        let owner = Owner(self.tokens.bytes());
        let text = self.key_of((who.tenant, who.key));
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
            text,
            is_stolen: false,
            is_meant: false,
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
        if self.is_wild && !looks && who.tenant != KNOCKS && self.plan.issued_s.is_some() && self.thefts.chance(30) {
            self.steal(request);
        }
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

    /// Has a request bring the key that was issued to another tenant.
    pub fn steal(&mut self, request: usize) {
        let asked = &self.requests[request];
        let text = self.key_of((asked.tenant % 2 + 1, asked.key));
        (self.requests[request].text, self.requests[request].is_stolen) = (text, true);
    }

    /// The key of an operation: what its client makes of it, or what the gateway has issued when the world began.
    fn key_of(&self, who: (u8, u8)) -> String {
        if self.plan.issued_s.is_none() {
            return format!("k{}", who.1);
        }
        let head = head(who, "", false);
        let begun = |_: &[&str]| Some(0_u64.to_le_bytes().to_vec());
        let request = envoy_idempotency::config::source::Request::new(&head, b"", &begun);
        let caller = envoy_idempotency::caller::Caller::read(&self.policies[0], &request);
        let random = UpstreamKey([who.0 + 16 * who.1; 16]);
        self.secrets.issuer.issue("default", &caller, random, &request).expect("there is a secret").0
    }

    /// The head of a request for an operation, as its caller sends it.
    pub(super) fn head_of(&self, who: (u8, u8)) -> RequestHead {
        head(who, &self.key_of(who), false)
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

    pub(super) fn tries(&mut self, client: usize) {
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

    pub(super) fn hears(&mut self, request: usize, answer: Answer) {
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
    pub(super) fn breaks(&mut self, request: usize) {
        if self.requests[request].answer.is_none() && !self.requests[request].is_broken {
            self.requests[request].is_broken = true;
            self.say(|w| format!("{} ← connection closed", w.requests[request].label));
            self.retries(request);
        }
    }

    pub(super) fn retries(&mut self, request: usize) {
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
    pub(super) fn gone(&mut self, request: usize, place: (usize, u32)) {
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
}

impl Request {
    pub(super) fn head(&self) -> RequestHead {
        let mut head = head((self.tenant, self.key), &self.text, self.is_quoted);
        // Half of those that are too large say so at once.
        if self.payload == TOO_LARGE && self.sent_ms.is_multiple_of(2) {
            head.headers.push(b"content-length", body(TOO_LARGE).len().to_string().as_bytes());
        }
        if self.is_meant {
            head.headers.push(b"idempotency-similar", b"allow");
        }
        FORGED.iter().chain([&FENCE]).filter(|_| self.lies).for_each(|name| head.headers.push(name.as_bytes(), b"99"));
        head
    }
}

/// Only what a request's head says about whose it is.
fn head((tenant, key): (u8, u8), text: &str, is_quoted: bool) -> RequestHead {
    let quote = if is_quoted { "\"" } else { "" };
    // Those of several keys, and of several tenants, are about one thing.
    let resource = if tenant == KNOCKS { format!("knock {key}") } else { (key % 2).to_string() };
    let fields: [(&str, String); 6] = [
        (":method", "POST".to_owned()),
        (":path", "/pay".to_owned()),
        (":authority", "api".to_owned()),
        ("authorization", format!("Bearer {tenant}")),
        ("idempotency-key", format!("{quote}{text}{quote}")),
        ("x-resource", resource.replace(' ', "-")),
    ];
    RequestHead { headers: fields.into_iter().collect() }
}

/// Under which name the store keeps what this request is about.
pub(super) fn name(policy: &Policy, head: &RequestHead) -> Name {
    let request = envoy_idempotency::config::source::Request::new(head, b"", &|_| None);
    let caller = envoy_idempotency::caller::Caller::read(policy, &request);
    let key = envoy_idempotency::key::ClientKey::read(&policy.key, &request);
    let key = key.unwrap_or_else(|_| panic!("every request has a key"));
    envoy_idempotency::key::name(policy, None, head, &caller, &key)
}
