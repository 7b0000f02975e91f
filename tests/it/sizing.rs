//! A hundred gateways on one Redis, in figures: the real clients of their workers in virtual time, and a Redis that takes
//! so long for a command and so long for each operation in it. The table of docs/sizing.md is what comes of it.
//!
//! Its one rule: every input has a name and stands in the page; `tests/e2e/sizing.rs` measures those that can be.
//! It does not know Redis.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};
use std::fs;
use std::path::Path;
use std::rc::Rc;

use envoy_idempotency::command::{Command, CommandKind, StoreReply};
use envoy_idempotency::config::{Config, Store};
use envoy_idempotency::fingerprint::Fingerprint;
use envoy_idempotency::key::{KeyForm, Name};
use envoy_idempotency::record::Owner;
use envoy_idempotency::store::client::{Batch, Client, Lane, Limits, Nonce, Reply};
use expect_test::expect_file;
use host_model::Random;

const GATEWAYS: usize = 100;
const WORKERS: usize = 4;
/// Between a gateway and Redis, one way.
const WAY_US: u64 = 250;
/// How long the service takes.
const SERVICE_US: u64 = 50_000;
/// One request in so many comes once more, through another gateway.
const REPEATED: u64 = 50;
/// What Redis takes for a command, whatever it carries, and for each operation in it.
const COMMAND_US: u64 = 30;
const OPERATION_US: u64 = 10;
const RESPONSE_BYTES: usize = 512;
/// For how long requests come.
const TIME_US: u64 = 4_000_000;

#[test]
fn the_page_on_sizing_shows_what_a_hundred_gateways_ask_of_one_redis() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/sizing.md");
    let text = fs::read_to_string(&page).unwrap();
    let (before, rest) = text.split_once(START).expect("the page has the table");
    let (_, after) = rest.split_once(END).expect("the table ends");
    let inputs = format!(
        "Inputs: {GATEWAYS} gateways of {WORKERS} workers; {WAY_US} µs to Redis and as many back; a service that takes \
         {} ms; answers of {RESPONSE_BYTES} bytes; one request in {REPEATED} is sent again through another gateway; \
         Redis takes {COMMAND_US} µs for a command and {OPERATION_US} µs for each operation in it; `batching` as it is \
         by default.\n\n",
        SERVICE_US / 1000
    );
    let mut table = HEAD.to_owned();
    for (rate, said) in
        [(12, "a million a day"), (120, "ten times that"), (1000, ""), (5000, ""), (10_000, ""), (13_000, "")]
    {
        table += &simulate(rate).row(rate, said);
    }
    expect_file![page].assert_eq(&format!("{before}{START}{inputs}{table}{END}{after}"));
}

#[test]
fn a_redis_that_is_asked_for_more_than_it_can_carries_more_operations_in_each_command() {
    let [calm, full] = [1000, 20_000].map(simulate);
    assert!(calm.operations < calm.commands * 11 / 10, "{calm:?}");
    assert!(full.operations > full.commands * 3 / 2, "{full:?}");
    // What it does not get done waits in the gateways, and nothing is sent twice for it.
    assert_eq!(full.operations, full.asked);
}

#[derive(Debug, Default)]
struct Figures {
    asked: u64,
    commands: u64,
    operations: u64,
    busy_us: u64,
    /// Until when Redis was at work.
    end_us: u64,
    waits_us: Vec<u64>,
}

impl Figures {
    fn row(mut self, rate: u64, said: &str) -> String {
        self.waits_us.sort_unstable();
        let wait = |percent: usize| self.waits_us[self.waits_us.len() * percent / 100] as f64 / 1000.0;
        let a_second = |count: u64| (count as f64 / (TIME_US as f64 / 1e6)).round();
        let said = if said.is_empty() { String::new() } else { format!(" ({said})") };
        format!(
            "| {rate}{said} | {} | {} | {:.2} | {:.1} % | {:.1} and {:.1} ms |\n",
            a_second(self.operations),
            a_second(self.commands),
            self.operations as f64 / self.commands as f64,
            100.0 * self.busy_us as f64 / self.end_us.max(TIME_US) as f64,
            wait(50),
            wait(99),
        )
    }
}

enum Happening {
    /// A worker's client asks for the first time, or for the outcome to be kept.
    Asks { worker: usize, exchange: u32, kind: CommandKind },
    /// A worker looks whether it may send.
    Looks { worker: usize },
    /// A call comes to Redis.
    Comes { worker: usize, batch: Batch },
    /// Its reply comes back.
    Returns { worker: usize, batch: Batch },
}

/// What happens and when; what was foreseen first comes first.
#[derive(Default)]
struct Agenda {
    order: BinaryHeap<Reverse<(u64, u64)>>,
    happenings: HashMap<u64, Happening>,
    next: u64,
}

impl Agenda {
    fn at(&mut self, at_us: u64, happening: Happening) {
        self.next += 1;
        self.order.push(Reverse((at_us, self.next)));
        self.happenings.insert(self.next, happening);
    }

    fn pop(&mut self) -> Option<(u64, Happening)> {
        let Reverse((at_us, number)) = self.order.pop()?;
        Some((at_us, self.happenings.remove(&number)?))
    }
}

fn simulate(rate: u64) -> Figures {
    let (mut random, mut agenda, mut figures) = (Random::new(7), Agenda::default(), Figures::default());
    let mut clients: Vec<Client> = (0..GATEWAYS * WORKERS).map(|_| Client::new(limits())).collect();
    for exchange in 0..rate * TIME_US / 1_000_000 {
        for _ in 0..1 + u64::from(exchange % REPEATED == 0) {
            let worker = random.below(clients.len() as u64) as usize;
            let kind = CommandKind::Claim { may_retry: true };
            agenda.at(random.below(TIME_US), Happening::Asks { worker, exchange: exchange as u32, kind });
        }
    }
    let (mut asked_us, mut claimed) = (HashMap::new(), HashSet::new());
    while let Some((now_us, happening)) = agenda.pop() {
        let now_ms = now_us / 1000;
        let worker = match happening {
            Happening::Asks { worker, exchange, kind } => {
                figures.asked += 1;
                asked_us.insert((worker, exchange), now_us);
                let told = clients[worker].submit(exchange, command(exchange, kind), now_ms);
                assert_eq!(told, None, "nothing fails");
                // A call goes out beside one that is late.
                agenda.at(now_us + 5000, Happening::Looks { worker });
                worker
            }
            Happening::Looks { worker } => worker,
            Happening::Comes { worker, batch } => {
                let cost_us = COMMAND_US + OPERATION_US * batch.tries.len() as u64;
                figures.commands += 1;
                figures.operations += batch.tries.len() as u64;
                figures.busy_us += cost_us;
                figures.end_us = figures.end_us.max(now_us) + cost_us;
                agenda.at(figures.end_us + WAY_US, Happening::Returns { worker, batch });
                continue;
            }
            Happening::Returns { worker, batch } => {
                let answers = batch.tries.iter().map(|(nonce, command)| (*nonce, said(command, &mut claimed)));
                let reply = Reply::Answers(answers.collect());
                for completion in clients[worker].replied(batch.id, reply, now_ms) {
                    let exchange = completion.exchange.expect("nothing is owed");
                    figures.waits_us.extend(asked_us.remove(&(worker, exchange)).map(|since_us| now_us - since_us));
                    if let StoreReply::Granted { .. } = completion.reply {
                        let kind = CommandKind::Complete { status: 201, response: Some(vec![0; RESPONSE_BYTES]) };
                        agenda.at(now_us + SERVICE_US, Happening::Asks { worker, exchange, kind });
                    }
                }
                worker
            }
        };
        while let Some(batch) = clients[worker].next_batch(Lane::Small, now_ms, || Nonce([0; 16])) {
            agenda.at(now_us + WAY_US, Happening::Comes { worker, batch });
        }
    }
    figures
}

/// What Redis says: a claim is granted once.
fn said(command: &Command, claimed: &mut HashSet<Name>) -> StoreReply {
    match command.kind {
        CommandKind::Claim { .. } if !claimed.insert(command.name) => StoreReply::InFlight { attempt: 1 },
        CommandKind::Claim { .. } => {
            StoreReply::Granted { attempt: 1, doubt: false, key: KeyForm::Bare, expires_ms: u64::MAX }
        }
        _ => StoreReply::Settled,
    }
}

/// Those of a document that says no more than where Redis is, with time enough that nothing is tried twice.
fn limits() -> Limits {
    let document = br#"{"store": {"type": "redis", "cluster": "c"}}"#;
    let Store::Redis(redis) = Config::parse(document, &|_| None).expect("it is right").store else {
        panic!("it is Redis")
    };
    Limits::new(&redis)
}

fn command(exchange: u32, kind: CommandKind) -> Rc<Command> {
    let mut name = [0; 32];
    name[..4].copy_from_slice(&exchange.to_le_bytes());
    Rc::new(Command {
        name: Name(name),
        owner: Owner([7; 16]),
        fingerprint: Fingerprint([1; 32]),
        attempt: 1,
        key: KeyForm::Bare,
        lease_ms: 60_000,
        ttl_ms: 86_400_000,
        in_window: false,
        may_begin: true,
        deadline_ms: None,
        kind,
    })
}

const START: &str = "<!-- The figures: made by `UPDATE_EXPECT=1 cargo test --test it sizing`. -->\n";
const END: &str = "<!-- The end of the figures. -->\n";
const HEAD: &str = "| requests/s | operations/s | commands/s | operations in a command | Redis is busy for | an operation takes, median and 99 % |\n|---|---|---|---|---|---|\n";
