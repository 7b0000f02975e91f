//! Requests of one worker that wait for the lock of a resource: whose turn it is, how many may wait, and what those without
//! a lock notice of it.
//!
//! Its one rule: the store is the model, and every call goes to it by the worker's own way.
//! It does not know of other workers but by what their commands leave in the store.

use std::collections::BTreeMap;

use envoy_idempotency::command::{Command, CommandKind, StoreReply};
use envoy_idempotency::key::Name;
use envoy_idempotency::lock::LockCommand;
use envoy_idempotency::record::Owner;
use envoy_idempotency::store::client::Reply;
use envoy_idempotency::store::locks::{Stored, apply};
use expect_test::expect;

use crate::worker::World;

/// Of the first rule requests run one at a time, of the second they do not; duplicates wait.
const LOCKED: &str = r#"{"store": {"type": "redis", "cluster": "c", "cache": null},
    "policy": {"lease_ms": 3000, "key": {"required": true}, "on_in_flight": {"action": "wait"}},
    "rules": [
        {"name": "locked", "match": {"path": {"exact": "/pay"}}, "policy": {"serialize": {"sources": [{"path_segment": 0}]}}},
        {"name": "free", "match": {}}
    ]}"#;
/// So many turns follow one within a worker.
const IN_A_ROW: usize = 8;
/// For so long it stays away then, which is longer than another lets pass between two tries.
const AWAY_MS: u64 = 200;
/// How long one that waits lets pass before it asks again.
const PAUSE_MS: u64 = 50;
/// How many may wait in one worker for one operation or resource, and in all.
const FOR_ONE: u32 = 128;
const IN_ALL: u32 = 1024;

#[test]
fn after_eight_turns_in_a_row_a_worker_stays_away_for_one_poll_of_another() {
    let mut shop = Shop::new(LOCKED);
    (1..=12).for_each(|id| shop.asks(id));
    let (mut turns, mut lock) = (Vec::new(), None);
    while let Some(running) = shop.begun() {
        turns.push(running);
        lock = shop.locks().last().map(|command| command.name).or(lock);
        shop.world.on_response_headers(running, 201, true);
        shop.answers();
    }
    assert_eq!(turns, (1..=1 + IN_A_ROW as u32).collect::<Vec<_>>(), "in the order in which they came");

    // Another worker that asks now has its turn.
    let mut other = shop.asked.iter().find(|command| Some(command.name) == lock).expect("it was asked for").clone();
    (other.owner, other.kind) = (Owner([0xee; 16]), CommandKind::Lock(LockCommand::Lock));
    let StoreReply::Locked { fence } = shop.apply(&other) else { panic!("it is free") };
    let asked = shop.locks().len();
    shop.passes(AWAY_MS - 1);
    assert_eq!((shop.locks().len(), shop.begun()), (asked, None), "it stays away");
    shop.passes(PAUSE_MS);
    assert_eq!((shop.locks().len(), shop.begun()), (asked + 1, None), "it asks, and finds the lock held");
    other.kind = CommandKind::Lock(LockCommand::Unlock { fence: Some(fence) });
    assert_eq!(shop.apply(&other), StoreReply::Settled);
    shop.passes(PAUSE_MS);
    assert_eq!(shop.begun(), Some(10));
}

#[test]
fn one_of_a_worker_asks_the_store_for_a_lock_and_the_others_wait_without_a_call() {
    let mut shop = Shop::new(LOCKED);
    (1..=20).for_each(|id| shop.asks(id));
    assert_eq!(shop.locks().len(), 2, "the first holds it, and the second asks");
    shop.passes(PAUSE_MS);
    assert_eq!(shop.locks().len(), 3, "the second asks again");
}

#[test]
fn those_that_wait_for_a_lock_count_against_the_bounds_of_duplicates_that_wait() {
    let mut shop = Shop::new(LOCKED);
    shop.asks(1);
    assert_eq!(shop.begun(), Some(1));
    (2..2 + FOR_ONE).for_each(|id| shop.asks(id));
    assert_eq!(shop.world.worker.waiting(), u64::from(FOR_ONE));
    shop.asks(1000);
    assert_eq!(shop.world.acts("answer"), ["answer 1000"], "too many wait for this resource");
    assert_eq!(shop.world.acts("count Refused"), ["count Refused(ResourceBusy)"]);

    // Duplicates of others fill what is left of all.
    shop.world.rule = 1;
    for operation in 0..=IN_ALL / FOR_ONE - 1 {
        shop.world.key = Some(10_000 + operation);
        let duplicates = if operation < IN_ALL / FOR_ONE - 1 { FOR_ONE } else { 0 };
        (0..=duplicates).for_each(|n| shop.asks(10_000 + 200 * operation + n));
    }
    assert_eq!(shop.world.worker.waiting(), u64::from(IN_ALL));
    shop.asks(20_000);
    assert_eq!(shop.world.acts("answer"), ["answer 20000"]);
    assert_eq!(shop.world.acts("count Refused"), ["count Refused(InFlight)"]);
    // The place of one that waited for the lock is a duplicate's.
    shop.world.stream_ends(2, b"downstream_remote_disconnect");
    shop.answers();
    shop.asks(20_001);
    assert_eq!((shop.world.acts("answer").len(), shop.world.worker.waiting()), (0, u64::from(IN_ALL)));
}

/// The pinned calls are those of a gateway that knew of no locks.
#[test]
fn a_request_without_a_lock_makes_the_calls_that_it_made_before_there_were_locks() {
    let free = LOCKED.replace(r#""serialize": {"sources": [{"path_segment": 0}]}"#, "");
    for (document, rule) in [(LOCKED, 1), (free.as_str(), 0), (free.as_str(), 1)] {
        expect![[r#"
            a first execution
              asks Claim
              caller seen, count StoreOperation, wake, clear, send 1, count StoreCall, enter 1, status 1, enter 1, change 1, resume 1 Request
            a duplicate waits
              asks Claim
              count StoreOperation, wake, clear, send 1, count StoreCall, enter 2
            a renewal and a poll
              asks Renew Claim
              count StoreOperation, count StoreOperation, send 2, count StoreCall, enter 2
            its end, and the duplicate's
              asks Settle Claim
              count Executed, count StoreOperation, wake, clear, send 1, count StoreCall, count Stored, enter 1, status 1, enter 1, change 1, resume 1 Response, count StoreOperation, send 1, count StoreCall, count Replayed, enter 2, status 2, enter 2, answer 2, waited 1000
            a replay
              asks Claim
              count StoreOperation, wake, clear, send 1, count StoreCall, count Replayed, enter 3, status 3, enter 3, answer 3
            another execution
              asks Claim
              count StoreOperation, wake, clear, send 1, count StoreCall, enter 4, status 4, enter 4, change 4, resume 4 Request
            its failure
              asks Settle
              count Executed, count StoreOperation, wake, clear, send 1, count StoreCall, count Retryable, enter 4, status 4, enter 4, change 4, resume 4 Response
        "#]]
        .assert_eq(&calls(document, rule));
    }
}

/// What the store and the host are asked for requests under a rule.
fn calls(document: &str, rule: usize) -> String {
    let mut shop = Shop::new(document);
    (shop.world.rule, shop.world.key) = (rule, Some(1));
    let mut text = String::new();
    let mut note = |what: &str, shop: &mut Shop| {
        shop.answers();
        let asked = shop.asked.drain(..).map(|command| format!("{:?}", command.kind.reply_kind()));
        let (asked, acts) = (asked.collect::<Vec<_>>().join(" "), shop.world.acts("").join(", "));
        let acts = acts.replace(" under free", "").replace(" under locked", "");
        text.push_str(&format!("{what}\n  asks {asked}\n  {acts}\n"));
    };
    shop.world.on_request_headers(1, true);
    note("a first execution", &mut shop);
    shop.world.on_request_headers(2, true);
    note("a duplicate waits", &mut shop);
    shop.passes(1000);
    note("a renewal and a poll", &mut shop);
    shop.world.on_response_headers(1, 201, true);
    note("its end, and the duplicate's", &mut shop);
    shop.world.on_request_headers(3, true);
    note("a replay", &mut shop);
    shop.world.key = Some(4);
    shop.world.on_request_headers(4, true);
    note("another execution", &mut shop);
    shop.world.on_response_headers(4, 500, true);
    note("its failure", &mut shop);
    text
}

/// A worker, and the store that it asks.
struct Shop {
    world: World,
    stored: BTreeMap<Name, Stored>,
    /// All that the store was asked.
    asked: Vec<Command>,
}

impl Shop {
    fn new(document: &str) -> Shop {
        Shop { world: World::new(document), stored: BTreeMap::new(), asked: Vec::new() }
    }

    /// A request comes, and the store answers all that comes of it.
    fn asks(&mut self, id: u32) {
        self.world.on_request_headers(id, true);
        self.answers();
    }

    /// Answers until the worker asks nothing more.
    fn answers(&mut self) {
        loop {
            if self.world.host.is_woken {
                self.world.wakes();
            }
            let Some(batch) = self.world.host.batches.pop() else { break };
            let answers = batch.tries.iter().map(|(nonce, command)| (*nonce, self.apply(command))).collect();
            self.asked.extend(batch.tries.iter().map(|(_, command)| Command::clone(command)));
            self.world.on_store_reply(batch.id, Reply::Answers(answers));
        }
    }

    fn apply(&mut self, command: &Command) -> StoreReply {
        let now_ms = self.world.host.now_ms;
        let (stored, reply) = apply(self.stored.get(&command.name).cloned(), command, now_ms, || now_ms);
        stored.into_iter().for_each(|stored| drop(self.stored.insert(command.name, stored)));
        reply
    }

    /// Time passes, and what is due then is done.
    fn passes(&mut self, ms: u64) {
        self.world.host.now_ms += ms;
        self.world.ticks();
        self.answers();
    }

    /// The request that was let go since.
    fn begun(&mut self) -> Option<u32> {
        let mut resumed = self.world.acts("resume");
        resumed.retain(|act| act.ends_with("Request"));
        assert!(resumed.len() <= 1, "one at a time: {resumed:?}");
        resumed.first().and_then(|act| act.split(' ').nth(1)?.parse().ok())
    }

    /// How a lock was asked for.
    fn locks(&self) -> Vec<&Command> {
        self.asked.iter().filter(|command| command.kind == CommandKind::Lock(LockCommand::Lock)).collect()
    }
}
