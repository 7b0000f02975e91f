//! The cases of other projects' test suites, told once more as promises of ours.
//!
//! Its one rule: each file names its suite and, in a table, where each case of it is shown: by a test beside the table,
//! or by one that was there before; a name such as `e2e::keys::a_key_can_be_required` is what `cargo test` calls it.
//! It does not know how those projects keep their promises.

use std::slice;
use std::sync::LazyLock;

use harness::{Gateway, Ledger, Request, SharedWorld, World};
use serde_json::{Value, json};

use crate::redis::PATIENT_MS;
use crate::worlds::{Shared, rule};

/// The IETF draft, statement by statement.
mod draft;
/// The probes of a plugin for Kong.
mod kong;
/// Schedules that a model checker found.
mod schedules;
/// The contract that idempotency4j has for its stores.
mod stores;

/// Gateways that share a store, and the service behind them.
struct Stand<'a> {
    gateways: &'a [Gateway],
    ledger: &'a Ledger,
}

impl Stand<'_> {
    /// A POST, through one gateway after the other as `n` grows.
    fn post(&self, n: usize, path: &str) -> Request {
        self.gateways[n % self.gateways.len()].post(path)
    }

    /// The attempts that the service has seen on this path.
    fn attempts(&self, path: &str) -> Vec<u32> {
        self.ledger.entries_for(path).iter().filter_map(|entry| entry.attempt).collect()
    }
}

/// Tells the story at one gateway with the embedded store, and at two that share a Redis.
#[track_caller]
fn on_both_stores(story: impl Fn(&Stand)) {
    static EMBEDDED: LazyLock<World> = LazyLock::new(|| World::start(document()));
    static REDIS: LazyLock<SharedWorld> = LazyLock::new(|| {
        let mut document = document();
        document["store"] = json!({ "timeout_ms": PATIENT_MS });
        SharedWorld::start(document)
    });
    let embedded = Shared::new(&EMBEDDED);
    story(&Stand { gateways: slice::from_ref(&embedded.gateway), ledger: &embedded.ledger });
    story(&Stand { gateways: &REDIS.gateways, ledger: &REDIS.ledger });
}

/// Rules by path, for stories with either store.
fn document() -> Value {
    json!({
        "policy": { "ttl_s": 1800 },
        "rules": [
            rule("/generations/", json!({ "ttl_s": 2, "lease_ms": 1000 })),
            rule("/late/", json!({ "on_unknown": "hold", "lease_ms": 1000, "max_running_ms": 1000 })),
            rule("/contended/", json!({ "on_in_flight": { "action": "wait", "max_wait_ms": 300 } })),
            rule("/", json!({})),
        ],
    })
}
