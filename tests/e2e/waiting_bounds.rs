//! How many duplicates may wait in one worker, and what the others notice of them.
//!
//! Its one rule: the gateway has a single worker, whose bounds are 128 for one operation and 1,024 in all.
//! It does not know of more workers: see `waiting.rs`.

use std::slice;
use std::sync::{LazyLock, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use harness::{CALLER, Connection, PATIENCE, Request, Response, World, wait_until};
use serde_json::json;

use crate::check::{executed, refused, replays, said};
use crate::waiting::{AT_ONCE, Turn, document, send};

/// For one operation.
const FOR_ONE: usize = 128;
/// Operations of which as many wait as may.
const CROWDED: usize = 8;

/// One gateway of a single worker, where duplicates wait long enough for a busy machine to send 1,024 of them.
fn one_worker() -> Turn {
    static TURN: Mutex<()> = Mutex::new(());
    static WORLD: LazyLock<World> = LazyLock::new(|| {
        let mut document = document();
        document["policy"]["on_in_flight"]["max_wait_ms"] = json!(60_000);
        World::with(document, |options| options.concurrency(1))
    });
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    Turn::new(slice::from_ref(&WORLD.gateway), &WORLD.ledger, turn)
}

#[test]
fn a_worker_that_is_full_refuses_at_once_and_serves_on() {
    let turn = one_worker();
    let path = |n: usize| format!("/wait/full-{n}");
    let pays: Vec<_> = (0..=CROWDED).map(|n| turn.post(&path(n)).body("ten")).collect();
    let mut running: Vec<Connection> = pays.iter().map(|pay| turn.start(pay, pay.path())).collect();
    let refused_at_once = |pay: &Request| {
        let sent = Instant::now();
        refused(&pay.send(), 429, "in-flight", Some("1"));
        assert!(sent.elapsed() < AT_ONCE, "{:?}", sent.elapsed());
    };
    let (firsts, answers) = thread::scope(|scope| {
        let mut waiting = Vec::new();
        for (n, pay) in pays.iter().take(CROWDED).enumerate() {
            waiting.push(scope.spawn(move || Request::send_h2_all(&vec![pay.clone(); FOR_ONE])));
            turn.waits(FOR_ONE * (n + 1));
            if n == 0 {
                // It is full for this operation, and for no other.
                refused_at_once(pay);
            }
        }
        refused_at_once(&pays[CROWDED]);

        // The worker has time for others.
        let free = Request::post(pays[0].addr(), "/free").caller(CALLER).key("k").body("ten");
        let mut times: Vec<_> = (0..50)
            .map(|_| {
                let sent = Instant::now();
                let answer = free.send();
                assert_eq!((answer.status, said(&answer)), (201, ""));
                sent.elapsed()
            })
            .collect();
        times.sort_unstable();
        assert!(times[25] < Duration::from_millis(250), "{times:?}");
        executed(&turn.post("/wait/full-other").body("ten").send(), 1);

        let firsts: Vec<Response> = pays
            .iter()
            .zip(&mut running)
            .map(|(pay, first)| {
                turn.ledger.open(pay.path());
                first.response()
            })
            .collect();
        (firsts, waiting.into_iter().map(|one| one.join().unwrap()).collect::<Vec<_>>())
    });
    for (first, answers) in firsts.iter().zip(&answers) {
        executed(first, 1);
        assert_eq!(answers.len(), FOR_ONE);
        answers.iter().for_each(|answer| replays(answer, first));
    }
    assert!(pays.iter().all(|pay| turn.executions(pay) == 1));
    turn.is_over();
}

#[test]
fn a_waiter_in_the_worker_that_runs_the_first_hears_at_once_of_its_end() {
    let turn = one_worker();
    let pays: Vec<_> = (0..20).map(|n| turn.post(&format!("/wait/near-{n}"))).collect();
    let operations = || turn.gateways[0].counted("store_operations");
    let before = operations();
    let mut pairs: Vec<_> = pays.iter().map(|pay| (turn.start(pay, pay.path()), send(pay))).collect();
    // They ask again after 50, 100, 200, 400 and 500 ms, and would hear of it in a quarter of a second at the mean.
    wait_until("they ask seldom", PATIENCE, || operations() >= before + 20 * 7);
    let mut times: Vec<_> = pays
        .iter()
        .zip(&mut pairs)
        .map(|(pay, (first, waiter))| {
            turn.ledger.open(pay.path());
            let first = first.response();
            let answered = Instant::now();
            replays(&waiter.response(), &first);
            answered.elapsed()
        })
        .collect();
    times.sort_unstable();
    assert!(times[10] < Duration::from_millis(100), "{times:?}");
    turn.is_over();
}
