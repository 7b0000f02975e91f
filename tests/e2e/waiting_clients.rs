//! Waiting duplicates whose clients, or whose gateway's own timers, do not wait that long.
//!
//! Its one rule: whoever has gone is forgotten, and executes nothing afterwards.
//! It does not know of gateways and stores that die: see `waiting_losses.rs`.

use std::time::Instant;

use harness::{CALLER, Connection, Gateway};

use crate::check::{executed, not_stored, replays, said, shown};
use crate::hostile::{DATA, END_STREAM, Frames, RST_STREAM};
use crate::waiting::{AT_ONCE, Turn, embedded, told_unknown, with_both_stores};

/// A way to go.
type Leave = fn(&Turn, &str);

#[test]
fn a_waiter_that_hangs_up_is_forgotten() {
    let ways: [(&str, Leave); 4] = [
        ("/wait/closes", |turn, path| turn.wait_behind(&turn.post(path), 4).into_iter().for_each(drop)),
        ("/wait/resets", |turn, path| turn.wait_behind(&turn.post(path), 4).into_iter().for_each(Connection::reset)),
        ("/wait/ends-its-streams", |turn, path| {
            let mut clients = wait_over_http_2(turn, path);
            for stream in [1, 3] {
                clients.iter_mut().for_each(|client| client.frame(RST_STREAM, 0, stream, &CANCEL));
                turn.waits(if stream == 1 { clients.len() } else { 0 });
            }
        }),
        ("/wait/ends-its-connection", |turn, path| wait_over_http_2(turn, path).into_iter().for_each(drop)),
    ];
    with_both_stores(|turn| {
        for (path, leave) in ways {
            let pay = turn.post(path).header("x-test-first-status", "503,201");
            let mut first = turn.start(&pay, path);
            leave(turn, path);
            turn.waits(0);
            turn.ledger.open(path);
            not_stored(&first.response(), 503, 1, "retry");
            // Nobody has taken over in the meantime.
            let second = pay.clone().body("ten").send();
            executed(&second, 2);
            replays(&pay.body("ten").send(), &second);
            assert_eq!(turn.ledger.entries_for(path).len(), 2);
        }
    });
}

#[test]
fn a_waiter_that_stays_is_answered_where_others_have_gone() {
    with_both_stores(|turn| {
        let pay = turn.post("/wait/some-go");
        let mut first = turn.start(&pay, "some-go");
        let mut waiters = turn.wait_behind(&pay, 12);
        for n in (0..6).rev() {
            drop(waiters.remove(2 * n));
        }
        turn.waits(6);
        turn.ledger.open("some-go");
        let first = first.response();
        executed(&first, 1);
        waiters.iter_mut().for_each(|waiter| replays(&waiter.response(), &first));
        assert_eq!(turn.executions(&pay), 1);
    });
}

#[test]
fn those_who_wait_hear_at_once_that_the_first_has_hung_up() {
    let ways = [("/wait/first-closes", drop as fn(Connection)), ("/wait/first-resets", Connection::reset)];
    with_both_stores(|turn| {
        for (path, leave) in ways {
            let pay = turn.post(path);
            let first = turn.start(&pay, path);
            let waiters = turn.wait_behind(&pay, 6);
            let left = Instant::now();
            leave(first);
            for mut waiter in waiters {
                told_unknown(&waiter.response(), true);
            }
            assert!(left.elapsed() < AT_ONCE, "{:?}", left.elapsed());
            assert_eq!(turn.executions(&pay), 1);
        }
    });
}

#[test]
fn an_idle_time_out_of_the_gateway_ends_the_wait() {
    let turn = embedded();
    let pay = turn.post("/wait/idle");
    let mut first = turn.start(&pay, "idle");
    let duplicate = pay.clone().header("x-route", "idle").body("ten");
    for late in [duplicate.send(), duplicate.send_h2()] {
        assert_eq!((late.status, said(&late)), (504, "refused;attempt=1;reason=in-flight"), "{}", shown(&late));
        turn.waits(0);
    }
    turn.gateways[0].wait_for_access_log("POST /wait/idle 504 stream_idle_timeout");
    turn.ledger.open("idle");
    let first = first.response();
    executed(&first, 1);
    replays(&duplicate.send(), &first);
    assert_eq!(turn.executions(&pay), 1);
    turn.is_over();
}

const CANCEL: [u8; 4] = 8u32.to_be_bytes();

/// One connection to each gateway, with two streams that wait.
fn wait_over_http_2(turn: &Turn, path: &str) -> Vec<Frames> {
    let open = |gateway: &Gateway| {
        let mut client = Frames::connect(gateway);
        for stream in [1, 3] {
            client.head(stream, path, &[("authorization", CALLER), ("idempotency-key", "k")]);
            client.frame(DATA, END_STREAM, stream, b"ten");
        }
        client
    };
    let clients: Vec<_> = turn.gateways.iter().map(open).collect();
    turn.waits(2 * clients.len());
    clients
}
