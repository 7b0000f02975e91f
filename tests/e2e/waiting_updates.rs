//! Duplicates that wait while their listener is replaced.
//!
//! Its one rule: the first attempt runs on the old listener, and duplicates wait on the old one and on the new one.
//! It does not know of updates under which nobody waits: see `lifecycle.rs`.

use harness::{Connection, PATIENCE, Request, World, wait_until};
use serde_json::{Value, json};

use crate::check::{executed, is_refusal, replays, said, shown};
use crate::shielded::{self, hang_up};
use crate::waiting::{send, told_unknown};
use crate::worlds::start;

/// Everything waits; everything under `/shielded/` is shielded.
fn document(statuses: &str) -> Value {
    let shielded = json!({ "kind": "shielded", "cluster": "shielded" });
    let policy = json!({ "ttl_s": 1800, "on_in_flight": { "action": "wait" }, "statuses": statuses });
    json!({
        "policy": policy,
        "rules": [
            { "match": { "path": { "prefix": "/shielded/" } }, "policy": { "execution": shielded } },
            { "match": { "path": { "prefix": "/" } } },
        ],
    })
}

/// A gateway that cuts what is left on an old listener after this time.
fn world(drain_time_s: u32) -> World {
    shielded::world(|options| options.lds().configuration(document("classic")).drain_time_s(drain_time_s))
}

fn waiting(world: &World) -> u64 {
    world.gateway.stat("wasmcustom.idempotency_waiting")
}

/// Sends four duplicates, and returns when they wait too.
#[track_caller]
fn four_more(world: &World, pay: &Request) -> Vec<Connection> {
    let before = waiting(world);
    let waiters = (0..4).map(|_| send(pay)).collect();
    wait_until("four more wait", PATIENCE, || waiting(world) == before + 4);
    waiters
}

/// Replaces the listener, and returns when the new one serves.
#[track_caller]
fn update(world: &World) {
    let probe = world.post("/probe").key("k").body("ten");
    executed(&probe.send(), 1);
    world.gateway.update_plugin_config(&document("ietf")).unwrap();
    let other = probe.body("not ten");
    let mut in_a_row = 0;
    wait_until("the workers have the new configuration", PATIENCE, || {
        in_a_row = if other.send().status == 422 { in_a_row + 1 } else { 0 };
        in_a_row == 20
    });
}

#[track_caller]
fn is_over(world: &World) {
    for gauge in ["waiting", "running"] {
        let name = format!("wasmcustom.idempotency_{gauge}");
        wait_until(&format!("{gauge} is 0"), PATIENCE, || world.gateway.stat(&name) == 0);
    }
}

/// The connection ends without an answer, or with one of Envoy's own.
#[track_caller]
fn cut(mut waiter: Connection) {
    if let Ok(answer) = waiter.try_response() {
        assert!(answer.status >= 500 || is_refusal(&answer, "outcome-unknown"), "{}", shown(&answer));
    }
}

#[test]
fn those_who_wait_on_either_listener_get_the_answer() {
    let world = world(60);
    for prefix in ["/inline", "/shielded"] {
        let pay = world.post(&format!("{prefix}/update")).key("k");
        let mut first = start(&world, &pay, "ten", prefix);
        let mut waiters = four_more(&world, &pay);
        if prefix == "/inline" {
            update(&world);
        }
        waiters.extend(four_more(&world, &pay));
        world.ledger.open(prefix);
        let first = first.response();
        executed(&first, 1);
        waiters.iter_mut().for_each(|waiter| replays(&waiter.response(), &first));
        assert_eq!(world.ledger.entries_for(pay.path()).len(), 1);
    }
    is_over(&world);
}

#[test]
fn those_whom_envoy_cuts_with_the_old_listener_are_forgotten() {
    let world = world(1);
    let pays = ["/inline/cut", "/shielded/cut"].map(|path| world.post(path).key("k"));
    let [inline, shielded] = pays.each_ref().map(|pay| start(&world, pay, "ten", pay.path()));
    let waiters: Vec<_> = pays.iter().flat_map(|pay| four_more(&world, pay)).collect();
    hang_up(&world, shielded, pays[1].path());
    update(&world);
    for waiter in waiters {
        cut(waiter);
    }
    cut(inline);
    wait_until("nobody waits", PATIENCE, || waiting(&world) == 0);
    told_unknown(&pays[0].clone().body("ten").send(), true);
    // What the gateway itself executes goes on, and whoever waits for it now gets its answer.
    let mut later = four_more(&world, &pays[1]);
    world.ledger.open(pays[1].path());
    for answer in later.iter_mut().map(Connection::response) {
        assert!(answer.status == 201 && said(&answer).starts_with("replayed;attempt=1;"), "{}", shown(&answer));
    }
    pays.iter().for_each(|pay| assert_eq!(world.ledger.entries_for(pay.path()).len(), 1));
    is_over(&world);
}
