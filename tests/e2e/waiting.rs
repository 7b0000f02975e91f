//! Duplicates that wait for the attempt that runs (`on_in_flight: wait`), with the embedded store and with gateways
//! that share a Redis.
//!
//! Its one rule: one test at a time has the gateways of a store, so that their gauges speak of its waiters alone; the
//! service holds the first attempt until they say that everybody waits, and they are back at 0 in the end.
//! It does not know of clients that hang up, of bounds, nor of losses: see the other files `waiting_*.rs`.

use std::slice;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use harness::ledger::{body_of_size, sha256_hex};
use harness::process::tail;
use harness::{
    CALLER, Connection, Gateway, Ledger, PATIENCE, Request, Response, SharedWorld, World, send_all, wait_until,
};
use serde_json::{Value, json};

use crate::check::{executed, is_refusal, not_stored, refused, replays, said, shown};
use crate::redis::PATIENT_MS;
use crate::worlds::add_routes;

/// How long duplicates wait under `/brief/`; elsewhere it is the default of ten seconds.
const BRIEF: Duration = Duration::from_millis(300);
/// What is answered at once takes less, on a busy machine too; far below ten seconds.
pub const AT_ONCE: Duration = Duration::from_secs(4);

/// The gateways of one store, to oneself.
pub struct Turn {
    /// All of them.
    pub gateways: &'static [Gateway],
    /// The service behind them.
    pub ledger: &'static Ledger,
    _turn: MutexGuard<'static, ()>,
}

impl Drop for Turn {
    fn drop(&mut self) {
        if thread::panicking() {
            for gateway in self.gateways {
                eprintln!("--- the end of a shared Envoy's log ---\n{}\n---", tail(&gateway.log()));
            }
        }
    }
}

/// Rules by path; nothing else is protected.
pub fn document() -> Value {
    let rule = |prefix: &str, policy: Value| json!({ "match": { "methods": ["POST"], "path": { "prefix": prefix } }, "policy": policy });
    json!({
        "policy": { "ttl_s": 1800, "on_in_flight": { "action": "wait" } },
        "rules": [
            rule("/wait/", json!({})),
            rule("/brief/", json!({ "on_in_flight": { "max_wait_ms": BRIEF.as_millis() as u64 } })),
            rule("/conflict/", json!({ "on_completed": "conflict" })),
            rule("/hold/", json!({ "on_unknown": "hold" })),
            rule("/observe/", json!({ "mode": "observe" })),
        ],
    })
}

/// One gateway of two workers; requests with `x-route: idle` may stay silent for [`BRIEF`] only.
pub fn embedded() -> Turn {
    static TURN: Mutex<()> = Mutex::new(());
    static WORLD: LazyLock<World> = LazyLock::new(|| {
        World::with(document(), |options| {
            options.mutate(|tree| {
                let idle = json!({ "name": "x-route", "string_match": { "exact": "idle" } });
                let route = json!({ "cluster": "payments", "idle_timeout": "0.3s" });
                add_routes(tree, vec![json!({ "match": { "prefix": "/", "headers": [idle] }, "route": route })]);
            })
        })
    });
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    Turn::new(slice::from_ref(&WORLD.gateway), &WORLD.ledger, turn)
}

/// Two gateways of two workers each, on one Redis.
pub fn shared() -> Turn {
    static TURN: Mutex<()> = Mutex::new(());
    static WORLD: LazyLock<SharedWorld> = LazyLock::new(|| {
        let mut document = document();
        document["store"] = json!({ "timeout_ms": PATIENT_MS });
        SharedWorld::start(document)
    });
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    Turn::new(&WORLD.gateways, &WORLD.ledger, turn)
}

/// Tells the story with each store; in the end nobody waits, nothing runs, and nothing is owed.
#[track_caller]
pub fn with_both_stores(story: impl Fn(&Turn)) {
    for take in [embedded, shared] {
        let turn = take();
        story(&turn);
        turn.is_over();
    }
}

impl Turn {
    /// Gateways, the service behind them, and the proof that nobody else has them.
    pub fn new(gateways: &'static [Gateway], ledger: &'static Ledger, turn: MutexGuard<'static, ()>) -> Turn {
        Turn { gateways, ledger, _turn: turn }
    }

    /// A POST under the key `k` to the first gateway.
    pub fn post(&self, path: &str) -> Request {
        self.gateways[0].post(path).key("k")
    }

    /// The same request as often as this, spread evenly over the gateways.
    pub fn spread(&self, request: &Request, count: usize) -> Vec<Request> {
        let at = |n: usize| self.gateways[n * self.gateways.len() / count].addr();
        (0..count).map(|n| request.clone().to(at(n))).collect()
    }

    /// Sends the request, and returns when the service holds its answer back.
    #[track_caller]
    pub fn start(&self, request: &Request, gate: &str) -> Connection {
        let running = send(&request.clone().header("x-test-hold", gate));
        wait_until("the service works", PATIENCE, || self.executions(request) == 1);
        running
    }

    /// Sends the request as often as this, to all gateways, and returns when all of them wait.
    #[track_caller]
    pub fn wait_behind(&self, request: &Request, count: usize) -> Vec<Connection> {
        let waiters = self.spread(request, count).iter().map(send).collect();
        self.waits(count);
        waiters
    }

    /// Returns when this many duplicates wait.
    #[track_caller]
    pub fn waits(&self, count: usize) {
        wait_until(&format!("{count} wait"), PATIENCE, || self.gauge("waiting") == count as u64);
    }

    /// Returns when every gauge is at 0.
    #[track_caller]
    pub fn is_over(&self) {
        for gauge in ["waiting", "running", "outbox"] {
            wait_until(&format!("idempotency_{gauge} is 0"), PATIENCE, || self.gauge(gauge) == 0);
        }
    }

    /// How often the service has executed a request to this path.
    pub fn executions(&self, request: &Request) -> usize {
        self.ledger.entries_for(request.path()).len()
    }

    /// The attempts that the service has seen on this path.
    #[track_caller]
    fn attempts(&self, request: &Request) -> Vec<u32> {
        self.ledger.entries_for(request.path()).iter().map(|entry| entry.attempt.unwrap()).collect()
    }

    fn gauge(&self, name: &str) -> u64 {
        self.gateways.iter().map(|gateway| gateway.stat(&format!("wasmcustom.idempotency_{name}"))).sum()
    }
}

/// Sends the request with the body `ten`, and reads nothing yet.
#[track_caller]
pub fn send(request: &Request) -> Connection {
    let mut connection = request.clone().body("ten").open();
    connection.write("ten");
    connection
}

/// Sends 100 of the same at all gateways; the service holds the first until the other 99 wait. All are answered long
/// before they would have waited enough.
#[track_caller]
fn crowd(turn: &Turn, request: &Request, send: fn(&[Request]) -> Vec<Response>) -> Vec<Response> {
    let gate = request.path();
    let crowd = turn.spread(&request.clone().header("x-test-hold", gate).body("ten"), 100);
    let (answers, released) = thread::scope(|scope| {
        let opener = scope.spawn(|| {
            turn.waits(99);
            turn.ledger.open(gate);
            Instant::now()
        });
        (send(&crowd), opener.join().unwrap())
    });
    assert!(released.elapsed() < AT_ONCE, "{:?}", released.elapsed());
    answers
}

/// All streams to one gateway on one connection.
fn send_h2(requests: &[Request]) -> Vec<Response> {
    thread::scope(|scope| {
        let connections = requests.chunk_by(|one, next| one.addr() == next.addr());
        let senders: Vec<_> = connections.map(|streams| scope.spawn(|| Request::send_h2_all(streams))).collect();
        senders.into_iter().flat_map(|sender| sender.join().unwrap()).collect()
    })
}

/// One answer is this execution, and all others are its replays; hands it back.
#[track_caller]
fn one_executed<'a>(answers: &[&'a Response], attempt: u32) -> &'a Response {
    let (executions, rest): (Vec<_>, Vec<_>) =
        answers.iter().copied().partition(|answer| said(answer).starts_with("executed;"));
    assert_eq!(executions.len(), 1, "{}", executions.into_iter().map(shown).collect::<String>());
    executed(executions[0], attempt);
    rest.iter().for_each(|answer| replays(answer, executions[0]));
    executions[0]
}

#[test]
fn of_100_that_wait_one_executes_and_all_get_its_answer() {
    with_both_stores(|turn| {
        // The second is larger than what gateways remember of Redis.
        for (path, size) in [("/wait/crowd", 20), ("/wait/crowd-large", 70_000)] {
            let pay = turn.post(path).header("x-test-body-size", size.to_string());
            let answers = crowd(turn, &pay, send_all);
            let first = one_executed(&answers.iter().collect::<Vec<_>>(), 1);
            assert!(first.body == body_of_size(size) && answers.len() == 100);
            assert_eq!(turn.attempts(&pay), [1]);
        }
    });
}

#[test]
fn of_100_http_2_streams_that_wait_one_executes_and_all_get_its_answer() {
    with_both_stores(|turn| {
        let pay = turn.post("/wait/crowd-http2");
        let answers = crowd(turn, &pay, send_h2);
        one_executed(&answers.iter().collect::<Vec<_>>(), 1);
        assert_eq!((turn.attempts(&pay), answers.len()), (vec![1], 100));
    });
}

#[test]
fn after_a_first_attempt_that_failed_one_of_those_that_wait_takes_over() {
    with_both_stores(|turn| {
        for (path, status, send) in [
            ("/wait/failed", 503, send_all as fn(&[Request]) -> Vec<Response>),
            ("/wait/failed-http2", 503, send_h2),
            ("/wait/refused", 422, send_all),
        ] {
            let pay = turn.post(path).header("x-test-first-status", format!("{status},201"));
            let answers = crowd(turn, &pay, send);
            let (failed, rest): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.status == status);
            assert_eq!((failed.len(), rest.len()), (1, 99));
            not_stored(failed[0], status, 1, if status < 500 { "released" } else { "retry" });
            one_executed(&rest, 2);
            assert_eq!(turn.attempts(&pay), [1, 2]);
        }
    });
}

#[test]
fn a_waiter_that_has_seen_two_attempts_fail_is_refused() {
    with_both_stores(|turn| {
        for (path, status, outcome) in [("/wait/failing", 503, "retry"), ("/wait/refusing", 422, "released")] {
            let pay = turn.post(path).header("x-test-status", status.to_string());
            let answers = crowd(turn, &pay, send_all);
            let (refusals, failed): (Vec<_>, Vec<_>) =
                answers.iter().partition(|answer| is_refusal(answer, "in-flight"));
            assert_eq!((refusals.len(), failed.len()), (98, 2));
            for refusal in refusals {
                refused(refusal, 429, "in-flight", Some("1"));
                assert_eq!(said(refusal), "refused;attempt=2;reason=in-flight");
            }
            let mut lines: Vec<_> = failed.iter().map(|answer| (answer.status, said(answer))).collect();
            lines.sort_unstable();
            let line = |attempt| format!("executed;stored=?0;attempt={attempt};outcome={outcome}");
            assert_eq!(lines, [(status, line(1).as_str()), (status, line(2).as_str())]);
            assert_eq!(turn.attempts(&pay), [1, 2]);
        }
    });
}

#[test]
fn a_waiter_that_takes_over_brings_the_whole_of_its_request() {
    with_both_stores(|turn| {
        let pay = turn.post("/wait/whole").header("x-test-first-status", "503,201").header("x-trace", "a");
        let large = pay.chunked(body_of_size(100_000).chunks(9_999)).header("content-type", "application/json");
        thread::scope(|scope| {
            let first = scope.spawn(|| large.clone().header("x-test-hold", "whole").send());
            wait_until("the service works", PATIENCE, || turn.executions(&large) == 1);
            let second = scope.spawn(|| large.clone().trailer("x-sum", "1").header("Idempotency-Attempt", "9").send());
            turn.waits(1);
            turn.ledger.open("whole");
            not_stored(&first.join().unwrap(), 503, 1, "retry");
            executed(&second.join().unwrap(), 2);
        });
        let entries = turn.ledger.entries_for(large.path());
        assert_eq!(entries.len(), 2);
        for entry in &entries {
            assert_eq!(entry.body_sha256, sha256_hex(&body_of_size(100_000)));
            assert_eq!((entry.key.as_deref(), entry.header("x-trace")), (Some("k"), Some("a")));
        }
        assert!(entries[0].operation.is_some() && entries[0].operation == entries[1].operation);
        assert_eq!(turn.attempts(&large), [1, 2]);
    });
}

#[test]
fn a_waiter_is_refused_at_its_deadline() {
    with_both_stores(|turn| {
        let pay = turn.post("/brief/deadline");
        let mut first = turn.start(&pay, "deadline");
        for duplicate in turn.spread(&pay.clone().body("ten"), 2) {
            let sent = Instant::now();
            let late = duplicate.send();
            assert!((BRIEF..BRIEF + AT_ONCE).contains(&sent.elapsed()), "{:?}", sent.elapsed());
            refused(&late, 429, "in-flight", Some("1"));
            assert_eq!(said(&late), "refused;attempt=1;reason=in-flight");
        }
        turn.ledger.open("deadline");
        let first = first.response();
        executed(&first, 1);
        replays(&pay.clone().body("ten").send(), &first);
        assert_eq!(turn.attempts(&pay), [1]);
    });
}

#[test]
fn another_payload_is_a_mismatch_at_once() {
    with_both_stores(|turn| {
        let pay = turn.post("/wait/mismatch");
        let mut first = turn.start(&pay, "mismatch");
        let mut waiter = turn.wait_behind(&pay, 1).remove(0);
        for other in turn.spread(&pay.clone().body("twenty"), 2) {
            let sent = Instant::now();
            refused(&other.send(), 409, "mismatch", None);
            assert!(sent.elapsed() < AT_ONCE, "{:?}", sent.elapsed());
        }
        turn.waits(1);
        turn.ledger.open("mismatch");
        let first = first.response();
        executed(&first, 1);
        replays(&waiter.response(), &first);
        assert_eq!(turn.attempts(&pay), [1]);
    });
}

#[test]
fn an_unknown_outcome_is_told_at_once() {
    with_both_stores(|turn| {
        for (n, lost) in ["504", "reset"].into_iter().enumerate() {
            for prefix in ["wait", "hold"] {
                let gate = format!("{prefix}-unknown-{n}");
                let pay = turn.post(&format!("/{prefix}/unknown-{n}")).header("x-test-first-status", lost);
                let mut first = turn.start(&pay, &gate);
                let waiters = turn.wait_behind(&pay, 6);
                let released = Instant::now();
                turn.ledger.open(&gate);
                assert_eq!(said(&first.response()), "executed;stored=?0;attempt=1;outcome=unknown");
                for mut waiter in waiters {
                    told_unknown(&waiter.response(), prefix == "wait");
                }
                assert!(released.elapsed() < AT_ONCE, "{:?}", released.elapsed());
                assert_eq!(turn.attempts(&pay), [1]);
            }
        }
    });
}

#[test]
fn a_waiter_gets_a_conflict_as_any_duplicate_does() {
    with_both_stores(|turn| {
        let pay = turn.post("/conflict/done").header("x-test-status", "202");
        let mut first = turn.start(&pay, "conflict");
        let waiters = turn.wait_behind(&pay, 6);
        turn.ledger.open("conflict");
        let first = first.response();
        executed(&first, 1);
        for mut waiter in waiters {
            let answer = waiter.response();
            refused(&answer, 409, "already-completed", None);
            assert_eq!(answer.json()["original_status"], json!(202));
            assert_eq!(answer.header("location"), first.header("location"));
        }
        assert_eq!(turn.attempts(&pay), [1]);
    });
}

#[test]
fn others_pass_while_many_wait() {
    with_both_stores(|turn| {
        let pay = turn.post("/wait/others");
        let mut first = turn.start(&pay, "others");
        let waiters = turn.wait_behind(&pay, 40);
        let unmatched =
            |method: &str, path: &str| Request::new(pay.addr(), method, path).caller(CALLER).key("k").body("ten");
        for request in [unmatched("POST", "/free"), unmatched("GET", "/wait/others-get")] {
            for request in turn.spread(&request, 8) {
                let sent = Instant::now();
                let answer = request.send();
                assert!(answer.status == 201 && sent.elapsed() < AT_ONCE, "{:?}", sent.elapsed());
                assert_eq!(said(&answer), "");
            }
        }
        for n in 0..8 {
            executed(&turn.post(&format!("/wait/others-{n}")).body("ten").send(), 1);
        }
        turn.waits(40);
        turn.ledger.open("others");
        let first = first.response();
        for mut waiter in waiters {
            replays(&waiter.response(), &first);
        }
    });
}

#[test]
fn a_trial_holds_nobody_back() {
    with_both_stores(|turn| {
        let pay = turn.post("/observe/trial");
        let mut first = turn.start(&pay, "trial");
        let sent = Instant::now();
        for duplicate in turn.spread(&pay.clone().body("ten"), 2) {
            // The service may answer before the store does, and a trial does not wait.
            let told = duplicate.send();
            assert!(["bypassed;outcome=in-flight;reason=observe", "bypassed;reason=observe"].contains(&said(&told)));
        }
        assert!(sent.elapsed() < AT_ONCE, "{:?}", sent.elapsed());
        turn.ledger.open("trial");
        first.response();
        assert_eq!(turn.executions(&pay), 3);
    });
}

/// The answer says that nobody knows what became of the first attempt, and whether a retry may find out.
#[track_caller]
pub fn told_unknown(answer: &Response, may_retry: bool) {
    let retry_after_s = answer.header("retry-after").map(|seconds| seconds.parse::<u32>().unwrap());
    assert!(retry_after_s.is_none_or(|seconds| (1..=60).contains(&seconds)), "{}", shown(answer));
    assert_eq!(retry_after_s.is_some(), may_retry, "{}", shown(answer));
    refused(answer, 409, "outcome-unknown", answer.header("retry-after"));
    assert_eq!(said(answer), "refused;attempt=1;reason=outcome-unknown");
    assert_eq!(answer.text().contains("Retry-After"), may_retry, "{}", shown(answer));
}
