//! Clients that go, in every phase of a request: over HTTP/1.1 and HTTP/2, inline and shielded.
//!
//! Its one rule: a client leaves when its request is seen to be where it should be, and a retry is asked what became of
//! it.
//! It does not know of clients that wait in crowds: see `waiting_clients.rs`.

use std::time::Duration;

use harness::{CALLER, Connection, Fault, PATIENCE, Request, Response, SharedWorld, wait_for, wait_until};
use serde_json::{Value, json};

use crate::check::{executed, is_refusal, refused, replays, said, shown};
use crate::hostile::{DATA, END_STREAM, Frames, RST_STREAM};
use crate::redis::PATIENT_MS;
use crate::shielded::answered;
use crate::shielded_redis::{gateways, is_quiet, replayed};
use crate::worlds::rule;

/// How long the store keeps a client waiting that is about to go.
const LATE: Duration = Duration::from_secs(1);
const CANCEL: [u8; 4] = 8u32.to_be_bytes();

#[derive(Clone, Copy, Debug)]
enum Way {
    /// The end of an HTTP/1.1 connection.
    Closes,
    /// The reset of an HTTP/2 stream.
    Resets,
}

/// A client of the first gateway whose request is on its way.
enum Client {
    Connection(Connection),
    Stream(Frames),
}

impl Client {
    /// Sends the head and this part of the body `ten`, and reads nothing.
    fn begin(world: &SharedWorld, way: Way, path: &str, fields: &[(&str, &str)], body: &str) -> Client {
        match way {
            Way::Closes => {
                let plain = world.post(path).key("k").body("ten");
                let mut connection =
                    fields.iter().fold(plain, |request, (name, value)| request.header(name, value)).open();
                connection.write(body);
                Client::Connection(connection)
            }
            Way::Resets => {
                let mut frames = Frames::connect(&world.gateways[0]);
                frames.head(1, path, &[&[("authorization", CALLER), ("idempotency-key", "k")], fields].concat());
                if !body.is_empty() {
                    frames.frame(DATA, if body == "ten" { END_STREAM } else { 0 }, 1, body.as_bytes());
                }
                Client::Stream(frames)
            }
        }
    }

    /// Goes; hands back what must stay open so that only the stream ends.
    fn leave(self) -> Option<Frames> {
        match self {
            Client::Connection(connection) => {
                drop(connection);
                None
            }
            Client::Stream(mut frames) => {
                frames.frame(RST_STREAM, 0, 1, &CANCEL);
                Some(frames)
            }
        }
    }
}

/// Everything under `/inline/` runs inline, everything else shielded; under `…/wait` duplicates wait.
fn document() -> Value {
    let (inline, wait) = (json!({ "kind": "inline" }), json!({ "action": "wait" }));
    json!({
        "store": { "timeout_ms": PATIENT_MS },
        "policy": { "ttl_s": 1800, "lease_ms": 1000, "execution": { "kind": "shielded", "cluster": "shielded" } },
        "rules": [
            rule("/inline/wait", json!({ "execution": inline, "on_in_flight": wait })),
            rule("/shielded/wait", json!({ "on_in_flight": wait })),
            rule("/inline/", json!({ "execution": inline })),
            rule("/", json!({})),
        ],
    })
}

/// Each story with each way to go, inline and shielded; in the end nothing runs, waits or is owed.
fn in_every_way(story: impl Fn(&SharedWorld, Way, &str)) {
    let world = gateways(document());
    for execution in ["inline", "shielded"] {
        for way in [Way::Closes, Way::Resets] {
            story(&world, way, execution);
            is_quiet(&world);
        }
    }
}

/// Envoy has noticed that the client of the only request to this path has gone.
#[track_caller]
fn noticed(world: &SharedWorld, path: &str) {
    world.gateways[0].wait_for_access_log(&format!("POST {path} 0 "));
}

/// The retry, through each gateway.
fn retries(world: &SharedWorld, path: &str) -> Vec<Request> {
    world.gateways.iter().map(|gateway| gateway.post(path).key("k").body("ten")).collect()
}

#[track_caller]
fn executions(world: &SharedWorld, path: &str, count: usize) {
    assert_eq!(world.ledger.entries_for(path).len(), count, "{path}");
}

#[test]
fn before_the_claim_nothing_has_happened() {
    in_every_way(|world, way, execution| {
        for (phase, body) in [("head", ""), ("body", "t")] {
            let path = format!("/{execution}/{phase}-{way:?}");
            let client = Client::begin(world, way, &path, &[], body);
            wait_until("Envoy has the head", PATIENCE, || {
                world.gateways[0].stat("http.gateway.downstream_rq_active") == 1
            });
            let _rest = client.leave();
            noticed(world, &path);
            executions(world, &path, 0);
            let first = retries(world, &path)[1].send();
            executed(&first, 1);
            replays(&retries(world, &path)[0].send(), &first);
        }
    });
}

#[test]
fn while_the_claim_is_in_flight_nobody_executes_for_a_client_that_has_gone() {
    in_every_way(|world, way, execution| {
        let path = format!("/{execution}/claim-{way:?}");
        let calls = world.interposer.calls();
        world.interposer.next(1, Fault::DelayReply(LATE));
        let client = Client::begin(world, way, &path, &[], "ten");
        world.interposer.wait_for_calls(calls + 1);
        let _rest = client.leave();
        noticed(world, &path);
        let first = answered(&retries(world, &path)[1]);
        assert!(said(&first).starts_with("executed;stored=?1;attempt="), "{}", shown(&first));
        executions(world, &path, 1);
        replays(&retries(world, &path)[0].send(), &first);
    });
}

#[test]
fn a_waiter_whose_client_goes_is_forgotten() {
    in_every_way(|world, way, execution| {
        let path = format!("/{execution}/wait-{way:?}");
        let mut first = crate::redis::held(world, &world.post(&path).key("k"), &path);
        let client = Client::begin(world, way, &path, &[], "ten");
        wait_until("one waits", PATIENCE, || world.stat("waiting") == 1);
        let _rest = client.leave();
        wait_until("nobody waits", PATIENCE, || world.stat("waiting") == 0);
        world.ledger.open(&path);
        let first = first.response();
        executed(&first, 1);
        retries(world, &path).iter().for_each(|retry| replays(&retry.send(), &first));
        executions(world, &path, 1);
    });
}

#[test]
fn while_the_service_works_the_outcome_is_unknown_inline_and_stored_shielded() {
    in_every_way(|world, way, execution| {
        let path = format!("/{execution}/works-{way:?}");
        let client = Client::begin(world, way, &path, &[("x-test-hold", &path)], "ten");
        wait_until("the service works", PATIENCE, || world.ledger.entries_for(&path).len() == 1);
        let _rest = client.leave();
        noticed(world, &path);
        world.ledger.open(&path);
        let answers: Vec<Response> = retries(world, &path).iter().map(answered).collect();
        if execution == "shielded" {
            answers.iter().for_each(replayed);
            return executions(world, &path, 1);
        }
        refused(&answers[0], 409, "outcome-unknown", Some("1"));
        let second = wait_for("the lease is over", PATIENCE, || {
            Some(retries(world, &path)[1].send()).filter(|answer| !is_refusal(answer, "outcome-unknown"))
        });
        executed(&second.unwrap(), 2);
        executions(world, &path, 2);
    });
}

#[test]
fn while_the_save_is_in_flight_nothing_is_lost() {
    in_every_way(|world, way, execution| {
        let path = format!("/{execution}/save-{way:?}");
        let client = Client::begin(world, way, &path, &[("x-test-hold", &path)], "ten");
        wait_until("the service works", PATIENCE, || world.ledger.entries_for(&path).len() == 1);
        let calls = world.interposer.calls();
        world.interposer.next(1, Fault::DelayReply(LATE));
        world.ledger.open(&path);
        world.interposer.wait_for_calls(calls + 1);
        let _rest = client.leave();
        retries(world, &path).iter().for_each(|retry| replayed(&answered(retry)));
        executions(world, &path, 1);
    });
}

#[test]
fn in_the_middle_of_a_replay_nothing_changes() {
    in_every_way(|world, way, execution| {
        let path = format!("/{execution}/replay-{way:?}");
        let large = |retry: &Request| retry.clone().header("x-test-body-size", "500000").send();
        let first = large(&retries(world, &path)[0]);
        executed(&first, 1);
        let replays_before = world.counted("requests.replayed");
        let mut client = Client::begin(world, way, &path, &[], "ten");
        match &mut client {
            Client::Connection(connection) => assert_eq!(connection.head().status, 201),
            // It is larger than the window of a stream.
            Client::Stream(_) => {
                wait_until("it is replayed", PATIENCE, || world.counted("requests.replayed") > replays_before);
            }
        }
        let _rest = client.leave();
        retries(world, &path).iter().for_each(|retry| replays(&large(retry), &first));
        executions(world, &path, 1);
    });
}
