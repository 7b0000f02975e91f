//! The clients: each makes up operations and asks for every one until it is settled, as real ones do.
//!
//! One rule: whatever a client sends and gets is in its notes, also what it did not wait for.
//! It does not know of faults, but for the one that clients themselves are.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use harness::ledger::sha256_hex;
use harness::{Request, Response};

use crate::clock::now_us;
use crate::history::{Answer, Asked, End, Kind, Name};
use host_model::Random;

/// How many clients ask at once.
const CLIENTS: u64 = 16;
/// How long a client asks for one operation before it calls it stuck.
const SETTLES_WITHIN: Duration = Duration::from_secs(30);

/// When a client hangs up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HangUp {
    /// After the head of the request.
    AfterHead,
    /// In the middle of its body.
    InBody,
    /// Right after the body, while the claim is under way.
    AtOnce,
    /// While the service works on it.
    WhileRunning,
    /// In the middle of the answer.
    InAnswer,
}

/// What the clients share with who disturbs them.
#[derive(Debug)]
pub struct Traffic {
    gateways: [SocketAddr; 2],
    ids: AtomicU64,
    settled: AtomicUsize,
    is_over: AtomicBool,
    hang_ups: Mutex<Option<(HangUp, usize)>>,
}

/// Which gateway this request was sent to.
pub fn gateway_of(request: u64) -> usize {
    (request % 2) as usize
}

/// What one client saw.
#[derive(Debug, Default)]
pub struct Notes {
    /// Every request.
    pub asked: Vec<Asked>,
    /// Operations that were asked for in vain for too long, and since when.
    pub stuck: Vec<(Name, u64)>,
}

impl Notes {
    fn add(&mut self, more: Notes) {
        self.asked.extend(more.asked);
        self.stuck.extend(more.stuck);
    }
}

/// One operation as its client sends it.
#[derive(Debug, Clone)]
struct Operation {
    name: Name,
    body: String,
    payload: String,
    statuses: &'static str,
    delay_ms: u64,
    size: u64,
    /// What it changes, where its kind has one at a time do so.
    resource: u64,
}

impl Operation {
    fn new(name: Name, amount: u64, random: &mut Random) -> Operation {
        let mut operation = Operation {
            name,
            body: String::new(),
            payload: String::new(),
            statuses: random.pick::<&str>(&STATUSES),
            delay_ms: random.below(4).saturating_sub(2) * random.below(60),
            size: if random.one_in(10) { random.below(4000) } else { 0 },
            resource: random.below(RESOURCES),
        };
        operation.pay(amount);
        operation
    }

    fn pay(&mut self, amount: u64) {
        self.body = format!(r#"{{"amount":{amount},"for":"{}"}}"#, self.name.key);
        self.payload = sha256_hex(self.body.as_bytes());
    }
}

impl Traffic {
    /// Clients of these gateways.
    pub fn new(gateways: [SocketAddr; 2]) -> Traffic {
        Traffic {
            gateways,
            ids: AtomicU64::new(2),
            settled: AtomicUsize::new(0),
            is_over: AtomicBool::new(false),
            hang_ups: Mutex::default(),
        }
    }

    /// Runs all clients until [`end`](Traffic::end), has them ask for all they did once more, and returns their notes.
    pub fn run(&self, random: &mut Random) -> Vec<Notes> {
        let randoms: Vec<Random> = (0..CLIENTS).map(|_| random.fork()).collect();
        thread::scope(|scope| {
            let clients: Vec<_> = (0..CLIENTS)
                .zip(randoms)
                .map(|(number, random)| scope.spawn(move || Client::new(self, number, random).run()))
                .collect();
            clients.into_iter().map(|client| client.join().expect("a client does not panic")).collect()
        })
    }

    /// Lets the clients come to an end.
    pub fn end(&self) {
        self.is_over.store(true, Ordering::Relaxed);
    }

    /// How often an operation was settled so far.
    pub fn settled(&self) -> usize {
        self.settled.load(Ordering::Relaxed)
    }

    /// Has so many requests hung up on.
    pub fn hang_up(&self, when: HangUp, requests: usize) {
        *self.hang_ups() = Some((when, requests));
    }

    /// How many of these are still to come.
    pub fn hang_ups_left(&self) -> usize {
        self.hang_ups().map_or(0, |(_, left)| left)
    }

    fn take_hang_up(&self) -> Option<HangUp> {
        let mut hang_ups = self.hang_ups();
        let (when, left) = hang_ups.take()?;
        *hang_ups = (left > 1).then_some((when, left - 1));
        Some(when)
    }

    fn hang_ups(&self) -> MutexGuard<'_, Option<(HangUp, usize)>> {
        self.hang_ups.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn request(&self, operation: &Operation, gateway: usize, id: u64) -> Request {
        let (to, path) = (self.gateways[gateway], operation.name.kind.path());
        let request = match operation.name.kind {
            Kind::Plain => Request::new(to, "GET", path),
            Kind::Locked => Request::post(to, path)
                .key(&operation.name.key)
                .header("x-chaos-resource", operation.resource.to_string()),
            _ => Request::post(to, path).key(&operation.name.key),
        };
        request
            .header("authorization", &operation.name.tenant)
            .header("content-type", "application/json")
            .header("x-chaos-request", id.to_string())
            .header("x-chaos-statuses", operation.statuses)
            .header("x-chaos-delay-ms", operation.delay_ms.to_string())
            .header("x-chaos-size", operation.size.to_string())
            .body(&operation.body)
    }

    /// Asks a gateway for an operation.
    fn ask(&self, operation: &Operation, gateway: usize, way: Way) -> Asked {
        let id = self.ids.fetch_add(2, Ordering::Relaxed) + gateway as u64;
        let request = self.request(operation, gateway, id);
        let sent_us = now_us();
        let told = match way {
            Way::Patient => request.try_send().map(Some),
            Way::OverHttp2 => request.try_send_h2().map(Some),
            Way::Impatient => send_impatiently(&request, &operation.body),
            // An error is a gateway that went away before the client did.
            Way::HangingUp(when) => leave(&request, &operation.body, when).map_or(Ok(None), |()| Ok(None)),
        };
        let end = match told {
            Ok(Some(response)) => End::Answer(Answer::of(response)),
            Ok(None) => End::HungUp,
            Err(why) => End::Broken(why),
        };
        let Operation { name, payload, .. } = operation.clone();
        Asked { id, name, payload, gateway, sent_us, done_us: now_us(), end }
    }

    /// Asks until there is nothing more to learn, at one gateway and the other.
    fn settle(&self, operation: &Operation, random: &mut Random) -> Notes {
        let since = (Instant::now(), now_us());
        let mut notes = Notes::default();
        let mut gateway = random.below(2) as usize;
        let mut pause = PAUSE;
        loop {
            let way = match self.take_hang_up() {
                Some(when) => Way::HangingUp(when),
                None => *random.pick(&WAYS),
            };
            let asked = self.ask(operation, gateway, way);
            let is_settled = is_settled(operation.name.kind, &asked.end);
            notes.asked.push(asked);
            if is_settled {
                self.settled.fetch_add(1, Ordering::Relaxed);
                return notes;
            }
            if since.0.elapsed() > SETTLES_WITHIN {
                notes.stuck.push((operation.name.clone(), since.1));
                return notes;
            }
            thread::sleep(pause);
            pause = (pause * 2).min(LONGEST_PAUSE);
            gateway = 1 - gateway;
        }
    }
}

/// How a client sends a request and waits for the answer.
#[derive(Debug, Clone, Copy)]
enum Way {
    Patient,
    OverHttp2,
    /// Gives up after [`PATIENT_FOR`].
    Impatient,
    HangingUp(HangUp),
}

/// Sends a request; `None` if nothing came for too long.
fn send_impatiently(request: &Request, body: &str) -> Result<Option<Response>, String> {
    let mut connection = request.try_open()?;
    connection.try_write(body.as_bytes())?;
    if connection.is_silent_for(PATIENT_FOR) {
        return Ok(None);
    }
    connection.try_response().map(Some)
}

/// Sends a request as far as it goes, and hangs up.
fn leave(request: &Request, body: &str, when: HangUp) -> Result<(), String> {
    let mut connection = request.try_open()?;
    match when {
        HangUp::AfterHead => (),
        HangUp::InBody => connection.try_write(&body.as_bytes()[..body.len() / 2])?,
        HangUp::AtOnce => connection.try_write(body.as_bytes())?,
        HangUp::WhileRunning => {
            connection.try_write(body.as_bytes())?;
            connection.is_silent_for(WORKS_FOR);
        }
        HangUp::InAnswer => {
            connection.try_write(body.as_bytes())?;
            connection.try_head()?;
            connection.reset();
        }
    }
    Ok(())
}

/// Whether this is all that a client can learn about its operation.
fn is_settled(kind: Kind, end: &End) -> bool {
    let End::Answer(answer) = end else { return false };
    match answer.token() {
        "replayed" => true,
        "executed" => answer.execution.is_some() && answer.status < 500,
        _ => match answer.refusal() {
            Some("mismatch" | "not-replayable") => true,
            Some("outcome-unknown") => kind == Kind::Hold,
            _ => false,
        },
    }
}

struct Client<'a> {
    traffic: &'a Traffic,
    number: u64,
    random: Random,
    notes: Notes,
    operations: Vec<Operation>,
}

impl<'a> Client<'a> {
    fn new(traffic: &'a Traffic, number: u64, random: Random) -> Client<'a> {
        Client { traffic, number, random, notes: Notes::default(), operations: Vec::new() }
    }

    fn run(mut self) -> Notes {
        while !self.traffic.is_over.load(Ordering::Relaxed) {
            self.live();
        }
        for operation in std::mem::take(&mut self.operations) {
            self.settle(&operation);
        }
        self.notes
    }

    /// The life of one operation, and what others do beside it.
    fn live(&mut self) {
        let key = format!("{}-{}", self.number, self.operations.len());
        let tenant = self.random.below(TENANTS);
        let name = Name { kind: *self.random.pick(&Kind::PROTECTED), tenant: format!("tenant-{tenant}"), key };
        let amount = self.random.below(1000);
        let operation = Operation::new(name, amount, &mut self.random);
        if self.random.one_in(6) {
            self.crowd(&operation);
        } else {
            self.settle(&operation);
        }
        for _ in 0..self.random.below(3) {
            self.settle(&operation);
        }
        if self.random.one_in(6) {
            // The same key with another payload.
            let mut other = operation.clone();
            other.pay(amount + 1);
            self.settle(&other);
        }
        if self.random.one_in(6) {
            // The same key of somebody else.
            let mut other = operation.clone();
            other.name.tenant = format!("tenant-{}", (tenant + 1) % TENANTS);
            self.settle(&other);
            self.operations.push(other);
        }
        self.operations.push(operation);
        let earlier = self.random.pick(&self.operations).clone();
        self.settle(&earlier);
        self.pass_by();
    }

    /// A request that is no business of the filter's.
    fn pass_by(&mut self) {
        let name = Name { kind: Kind::Plain, tenant: "passer-by".to_owned(), key: String::new() };
        let plain = Operation { statuses: "200", delay_ms: 0, size: 0, ..Operation::new(name, 0, &mut self.random) };
        let gateway = self.random.below(2) as usize;
        self.notes.asked.push(self.traffic.ask(&plain, gateway, Way::Patient));
    }

    /// Several clients want the same at once.
    fn crowd(&mut self, operation: &Operation) {
        let traffic = self.traffic;
        let randoms: Vec<Random> = (0..1 + self.random.below(4)).map(|_| self.random.fork()).collect();
        thread::scope(|scope| {
            let others: Vec<_> = randoms
                .into_iter()
                .map(|mut random| scope.spawn(move || traffic.settle(operation, &mut random)))
                .collect();
            self.settle(operation);
            for other in others {
                self.notes.add(other.join().expect("a client does not panic"));
            }
        });
    }

    fn settle(&mut self, operation: &Operation) {
        let notes = self.traffic.settle(operation, &mut self.random);
        self.notes.add(notes);
    }
}

const TENANTS: u64 = 5;
/// Few, so that many want the same.
const RESOURCES: u64 = 2;
/// What the service answers, by attempt: mostly a success at once.
const STATUSES: [&str; 10] = ["201", "201", "201", "201", "201", "200", "503,201", "500,500,201", "422", "409,201"];
/// How clients send requests that they have not been told to hang up on.
const WAYS: [Way; 8] = [
    Way::Patient,
    Way::Patient,
    Way::Patient,
    Way::Patient,
    Way::Patient,
    Way::OverHttp2,
    Way::Impatient,
    Way::Impatient,
];
/// Longer than the service takes when all is well.
const PATIENT_FOR: Duration = Duration::from_millis(300);
const WORKS_FOR: Duration = Duration::from_millis(20);
/// What a client waits before it asks again.
const PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(160);
