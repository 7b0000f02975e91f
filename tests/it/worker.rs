//! When a worker does what it has to do, and to which stream.
//!
//! Its one rule: the host is a list of the acts that it was asked for, and refuses to touch a stream that has ended.
//! It does not know what an exchange decides; the store answers by hand.

use std::collections::{BTreeSet, HashMap};
use std::rc::Rc;

use envoy_idempotency::command::{CommandKind, Failure, StoreReply};
use envoy_idempotency::config::{Config, Redis, Store as Where};
use envoy_idempotency::count::Count;
use envoy_idempotency::event::{EventKind, Executed};
use envoy_idempotency::evidence::{Origin, VIA_UPSTREAM};
use envoy_idempotency::exchange::{Exchange, Secrets};
use envoy_idempotency::key::{KeyForm, UpstreamKey};
use envoy_idempotency::message::{Headers, RequestHead};
use envoy_idempotency::record::Owner;
use envoy_idempotency::step::{Flow, LogEvent, Outgoing};
use envoy_idempotency::store::client::{Batch, Client, Lane, Limits, Reply};
use envoy_idempotency::store::local::SharedMap;
use envoy_idempotency::store::{Pool, Store};
use envoy_idempotency::worker::{
    Action, FLOWS_AT_ONCE, Gauge, Host, RequestBody, ResponseBody, Side, Stream, Turn, Worker,
};

const INLINE: &str = r#"{"store": {"type": "redis", "cluster": "c", "cache": null}, "policy": {"lease_ms": 3000}}"#;
const SHIELDED: &str = r#"{"store": {"type": "redis", "cluster": "c", "cache": null},
    "policy": {"lease_ms": 3000, "execution": {"kind": "shielded", "cluster": "inner"}}}"#;
const OBSERVED: &str = r#"{"store": {"type": "redis", "cluster": "c", "cache": null},
    "policy": {"lease_ms": 3000, "mode": "observe"}}"#;
const TWICE: &str = r#"{"store": {"type": "redis", "cluster": "c", "cache": null, "attempts": 2}}"#;
const TWICE_ONE_BY_ONE: &str = r#"{"store": {"type": "redis", "cluster": "c", "cache": null, "attempts": 2,
    "batching": false, "breaker": {"failures": 2}}}"#;
const IN_FLIGHT: StoreReply = StoreReply::InFlight { attempt: 1 };
const GRANTED: StoreReply =
    StoreReply::Granted { attempt: 1, doubt: false, key: KeyForm::Bare, expires_ms: 86_400_000 };

#[test]
fn a_turn_answers_as_many_streams_as_it_may_and_the_next_turns_the_others_in_order() {
    let mut world = World::new(INLINE);
    let batch = world.claims(2 * FLOWS_AT_ONCE as u32 + 10);
    world.reply(batch, &IN_FLIGHT);
    let answered = |world: &mut World| world.acts("answer");
    let names = |range: std::ops::RangeInclusive<u32>| range.map(|id| format!("answer {id}")).collect::<Vec<_>>();
    assert_eq!(answered(&mut world), names(1..=64));
    world.wakes();
    assert_eq!(answered(&mut world), names(65..=128));
    world.wakes();
    assert_eq!(answered(&mut world), names(129..=138));
    assert!(!world.host.is_woken && world.worker.is_idle());
}

#[test]
fn what_comes_up_in_a_turn_goes_out_behind_what_was_deferred_to_it() {
    let mut world = World::new(INLINE);
    let first = world.claims(2 * FLOWS_AT_ONCE as u32 + 1);
    world.asks(1_000);
    world.reply(first, &IN_FLIGHT);
    world.acts("answer");
    // The store is faster than the root.
    let second = world.batch();
    world.reply(second, &IN_FLIGHT);
    assert_eq!(world.acts("answer").first().map(String::as_str), Some("answer 65"));
    world.wakes();
    assert_eq!(world.acts("answer"), ["answer 129", "answer 1000"]);
}

#[test]
fn a_stream_that_has_ended_is_never_touched() {
    let mut world = World::new(INLINE);
    let batch = world.claims(FLOWS_AT_ONCE as u32 + 3);
    world.reply(batch, &IN_FLIGHT);
    world.acts("answer");
    assert!(world.worker.has_deferred(66));
    // Its exchange is over, and its callbacks are not: the worker must hear of its end.
    assert_eq!(world.on_request_body(66, b"", true), Action::Continue);
    world.stream_ends(66, b"downstream_remote_disconnect");
    world.wakes();
    assert_eq!(world.acts("answer"), ["answer 65", "answer 67"]);
}

#[test]
fn a_stream_for_which_an_act_is_deferred_is_heard_to_its_end_though_its_exchange_is_over() {
    let mut world = World::new(INLINE);
    let batch = world.claims(FLOWS_AT_ONCE as u32 + 1);
    world.reply(batch, &IN_FLIGHT);
    world.touches();
    // Envoy's own answer overtakes the one that is deferred.
    world.on_response_from(65, 413, b"request_payload_too_large", true);
    assert!(world.worker.exchange(65).is_none() && world.worker.has_deferred(65));
    assert!(!world.streams[&65].is_over());
    world.touches();
    world.stream_ends(65, b"request_payload_too_large");
    world.wakes();
    assert_eq!(world.touches(), [""; 0]);
}

#[test]
fn a_stream_that_one_answer_of_a_turn_has_ended_is_not_touched_in_the_next() {
    let mut world = World::new(INLINE);
    let batch = world.claims(FLOWS_AT_ONCE as u32 + 3);
    // Envoy closes their connection once it has sent the answer to the first.
    world.host.fall_with = HashMap::from([(1, vec![65, 67])]);
    world.reply(batch, &IN_FLIGHT);
    assert_eq!(world.acts("answer").len(), FLOWS_AT_ONCE);
    assert!(!world.host.open.contains(&65) && !world.host.open.contains(&67));
    world.wakes();
    assert_eq!(world.acts("answer"), ["answer 66"]);
}

#[test]
fn an_exchange_whose_stream_has_ended_touches_nothing() {
    let mut world = World::new(INLINE);
    world.asks(1);
    world.wakes();
    let claim = world.batch();
    world.stream_ends(1, b"downstream_remote_disconnect");
    world.reply(claim, &GRANTED);
    while let Some(batch) = world.host.batches.pop() {
        assert!(batch.tries.iter().all(|(_, command)| command.kind == CommandKind::Withdraw));
        world.reply(batch, &StoreReply::Settled);
        world.host.now_ms += 10_000;
        world.ticks();
    }
    assert_eq!(world.touches(), [""; 0]);
}

#[test]
fn where_a_stream_to_the_store_is_open_a_call_is_written_in_the_callback_that_asks() {
    let mut world = World::new(INLINE);
    world.host.room_in_streams = usize::MAX;
    world.asks(1);
    assert_eq!((world.acts("send"), world.acts("count StoreCall").len()), (vec!["send 1".to_owned()], 1));
    assert_eq!(world.host.entered, Some(1), "the acts that follow are about the stream again");
    // While it is under way the next ones gather.
    (2..=4).for_each(|id| world.asks(id));
    assert_eq!(world.acts("send"), [""; 0]);
    assert!(!world.host.is_woken, "the root has no part in it");
    let first = world.host.batches.remove(0);
    world.reply(first, &GRANTED);
    assert_eq!(
        (world.acts("send"), world.acts("resume")),
        (vec!["send 3".to_owned()], vec!["resume 1 Request".to_owned()])
    );
}

#[test]
fn a_call_that_is_refused_in_the_callback_that_asks_is_told_in_the_turn_of_the_root() {
    let mut world = World::new(INLINE);
    (world.host.room_in_streams, world.host.takes_no_calls) = (usize::MAX, true);
    world.asks(1);
    // Its next try waits a moment.
    assert!(world.acts("answer").is_empty());
    world.host.now_ms += 100;
    world.host.room_in_streams = usize::MAX;
    world.asks(2);
    assert!(world.acts("answer").is_empty(), "another stream is not touched here");
    while std::mem::take(&mut world.host.is_woken) {
        world.host.entered = None;
        world.worker.on_wake(&mut world.host);
        world.host.now_ms += 100;
    }
    world.ticks();
    assert_eq!(world.acts("answer").len(), 2);
}

#[test]
fn a_write_that_ends_a_stream_to_the_store_takes_along_the_calls_before_it_and_counts_once() {
    let mut world = World::new(TWICE);
    world.asks(1);
    world.wakes();
    assert_eq!(world.acts("count StoreCall").len(), 1);
    // Its time is over, but on the stream it keeps its place.
    world.host.now_ms += 300;
    world.ticks();
    world.host.now_ms += 100;
    world.host.ends_with_the_next = true;
    world.ticks();
    assert_eq!((world.acts("count StoreCall").len(), world.acts("answer").len()), (0, 1), "it was lost as well");

    // After two failures the breaker would be open, and neither asked again.
    let mut world = World::new(TWICE_ONE_BY_ONE);
    (1..=2).for_each(|id| world.asks(id));
    world.host.ends_with_the_next = true;
    world.wakes();
    world.host.ends_with_the_next = false;
    world.host.now_ms += 100;
    world.ticks();
    assert_eq!((world.acts("send"), world.acts("answer")), (vec!["send 1".to_owned(); 2], Vec::new()));
}

#[test]
fn what_the_gateway_executes_for_a_client_that_has_gone_ends_without_its_stream() {
    let mut world = World::new(SHIELDED);
    let claim = world.claims(1);
    world.reply(claim, &GRANTED);
    world.stream_ends(1, b"downstream_remote_disconnect");
    world.touches();
    let exchange = world.worker.take_execution(101).expect("it was sent");
    world.worker.on_executed(&mut world.host, exchange, Executed::Lost);
    let mark = world.batch();
    world.reply(mark, &StoreReply::Settled);
    assert_eq!(world.touches(), [""; 0]);
    assert!(world.worker.is_idle());
}

#[test]
fn what_is_deferred_for_a_stream_that_ends_is_forgotten_and_no_other_act() {
    let mut world = World::new(SHIELDED);
    let batch = world.claims(FLOWS_AT_ONCE as u32 + 1);
    // The last is granted, behind as many answers as one turn gives.
    let last = batch.tries.len() - 1;
    let answers = batch.tries.iter().enumerate();
    let answers = answers.map(|(at, (nonce, _))| (*nonce, if at == last { GRANTED } else { IN_FLIGHT })).collect();
    world.on_store_reply(batch.id, Reply::Answers(answers));
    assert_eq!(world.acts("execute"), [""; 0]);
    world.stream_ends(65, b"downstream_remote_disconnect");
    world.wakes();
    assert_eq!(world.acts("execute"), ["execute 65"], "its exchange goes on without its client");
}

#[test]
fn the_rest_of_a_response_that_the_root_has_let_go_half_way_goes_by_way_of_the_root() {
    let mut world = World::new(INLINE);
    world.runs(1);
    assert_eq!(world.on_response_headers(1, 404, false), Action::Pause);
    world.wakes();
    let release = world.batch();
    assert_eq!(world.on_response_body(1, b"it begins", false), Action::Pause);
    world.reply(release, &StoreReply::Settled);
    assert_eq!(world.acts("resume"), ["resume 1 Response"]);
    for (piece, end) in [(b"goes on".as_slice(), false), (b"", true)] {
        assert_eq!(world.on_response_body(1, piece, end), Action::Pause, "Envoy would lose it");
        assert_eq!(world.acts("resume"), [""; 0]);
        world.wakes();
        assert_eq!(world.acts("resume"), ["resume 1 Response"]);
    }
}

#[test]
fn an_answer_that_breaks_off_while_more_of_it_is_about_to_go_out_is_not_touched() {
    let mut world = World::new(INLINE);
    world.runs(1);
    world.on_response_headers(1, 404, false);
    world.wakes();
    let release = world.batch();
    world.on_response_body(1, b"it begins", false);
    world.reply(release, &StoreReply::Settled);
    world.touches();
    assert_eq!(world.on_response_body(1, b"goes on", false), Action::Pause);
    world.stream_ends(1, b"upstream_reset_after_response_started");
    world.wakes();
    assert_eq!(world.touches(), [""; 0]);
    assert!(world.worker.is_idle());
}

#[test]
fn a_piece_that_comes_before_the_root_has_let_its_response_go_waits_for_the_root() {
    let mut world = World::new(INLINE);
    world.runs(100);
    (1..=FLOWS_AT_ONCE as u32).for_each(|id| world.asks(id));
    assert_eq!(world.on_response_headers(100, 404, false), Action::Pause);
    world.wakes();
    // The store has heard of the release, behind claims whose answers fill the turn.
    let batch = world.batch();
    let is_release = |kind: &CommandKind| matches!(kind, CommandKind::Release { .. });
    let reply = |kind| if is_release(kind) { StoreReply::Settled } else { IN_FLIGHT };
    let answers = batch.tries.iter().map(|(nonce, command)| (*nonce, reply(&command.kind))).collect();
    world.on_store_reply(batch.id, Reply::Answers(answers));
    assert!(world.worker.has_deferred(100));
    assert_eq!(world.on_response_body(100, b"it begins", false), Action::Pause);
    world.acts("resume");
    world.wakes();
    assert_eq!(world.acts("resume"), ["resume 100 Response"]);
}

#[test]
fn the_missing_flag_is_found_when_a_held_request_grows_and_shows_nothing() {
    let mut world = World::new(INLINE);
    assert_eq!(world.on_request_headers(1, false), Action::Pause);
    world.ticks();
    assert_eq!(world.acts("answer"), [""; 0]);
    world.host.request_size = 5;
    world.ticks();
    assert_eq!(world.acts("log").len(), 1);
    assert_eq!(world.acts("answer"), ["answer 1"]);
}

#[test]
fn a_slow_uploader_is_not_blamed() {
    let mut world = World::new(INLINE);
    world.on_request_headers(1, false);
    for _ in 0..150 {
        world.host.now_ms += 100;
        world.ticks();
    }
    assert_eq!(world.acts("answer"), [""; 0], "nothing of the body has come");
    world.host.request_size = 5;
    assert_eq!(world.on_request_body(1, b"later", false), Action::Pause);
    world.host.request_size = 50;
    for _ in 0..1_000 {
        world.host.now_ms += 100;
        world.ticks();
    }
    assert_eq!(world.acts("answer"), [""; 0]);
}

#[test]
fn a_request_whose_size_tells_nothing_is_let_go_in_the_end() {
    let mut world = World::new(INLINE);
    world.on_request_headers(1, false);
    world.host.now_ms += 15_000;
    world.ticks();
    assert_eq!(world.acts("answer"), [""; 0]);
    world.host.now_ms += 1;
    world.ticks();
    assert_eq!(world.acts("answer"), ["answer 1"]);
}

#[test]
fn a_response_whose_body_is_not_shown_is_let_go_and_not_kept() {
    let mut world = World::new(INLINE);
    world.runs(1);
    assert_eq!(world.on_response_headers(1, 201, false), Action::Pause);
    for _ in 0..100 {
        world.host.now_ms += 100;
        world.ticks();
        while let Some(renewal) = world.host.batches.pop() {
            world.reply(renewal, &StoreReply::Renewed { expires_ms: 86_400_000 });
        }
    }
    assert_eq!(world.acts("log"), [""; 0]);
    world.host.now_ms += 1;
    world.ticks();
    assert_eq!(world.acts("log").len(), 1);
    world.ticks();
    let complete = world.batch();
    assert!(matches!(complete.tries[0].1.kind, CommandKind::Complete { status: 201, response: None }));
    world.reply(complete, &StoreReply::Settled);
    assert_eq!(world.acts("resume"), ["resume 1 Response"]);
}

#[test]
fn one_body_that_was_shown_ends_the_search() {
    let mut world = World::new(INLINE);
    for id in [1, 2] {
        assert_eq!(world.on_request_headers(id, false), Action::Pause);
    }
    assert_eq!(world.on_request_body(1, b"ten", false), Action::Pause);
    world.host.request_size = 5;
    world.host.now_ms += 60_000;
    world.ticks();
    assert_eq!(world.on_request_headers(3, false), Action::Pause);
    world.host.request_size = 50;
    world.ticks();
    assert_eq!(world.acts("answer"), [""; 0]);
}

#[test]
fn a_body_that_envoy_passed_through_is_no_proof() {
    let mut world = World::new(INLINE);
    let observed = policy(OBSERVED);
    assert_eq!(world.on_request_headers_under(&observed, 1, false), Action::Continue);
    assert_eq!(world.on_request_body(1, b"ten", false), Action::Continue);
    assert_eq!(world.on_request_headers(2, false), Action::Pause);
    world.host.request_size = 5;
    world.ticks();
    assert_eq!(world.acts("answer"), ["answer 2"]);
}

#[test]
fn a_held_body_is_read_once_and_one_that_goes_on_from_its_own_beginning() {
    let mut world = World::new(INLINE);
    world.on_request_headers(1, false);
    world.on_request_body(1, b"one", false);
    world.on_request_body(1, b"two", false);
    assert_eq!(world.acts("read"), ["read 0 3", "read 3 3"]);
    let observed = policy(OBSERVED);
    world.on_request_headers_under(&observed, 2, false);
    world.on_request_body(2, b"one", false);
    world.on_request_body(2, b"two", false);
    assert_eq!(world.acts("read"), ["read 0 3", "read 0 3"]);
}

#[test]
fn a_worker_with_nothing_under_way_goes_at_once() {
    let mut world = World::new(INLINE);
    assert!(world.worker.drain(&mut world.host));
}

#[test]
fn draining_ends_with_what_is_under_way() {
    let mut world = World::new(INLINE);
    world.runs(1);
    assert!(!world.ticks());
    assert!(!world.worker.drain(&mut world.host));
    assert!(!world.ticks());
    assert_eq!(world.host.gauges[&Gauge::Running], 1);
    world.on_response_headers(1, 404, true);
    world.wakes();
    let release = world.batch();
    world.reply(release, &StoreReply::Settled);
    world.stream_ends(1, VIA_UPSTREAM);
    assert!(world.ticks());
    assert!(world.host.gauges.values().all(|told| *told == 0));
}

/// A gateway that has heard of a success, and whose store has not.
fn owing(document: &str, pool: &Pool) -> World {
    let mut world = World::sharing(document, pool);
    world.runs(1);
    world.on_response_headers(1, 201, true);
    world.wakes();
    world.store_is_away();
    world.stream_ends(1, VIA_UPSTREAM);
    assert_eq!(world.host.gauges[&Gauge::Outbox], 1);
    world
}

/// As the shell does it when a plugin is to go, and again at each of its ticks.
fn hands_over(old: &mut World, heir: &mut World) {
    heir.worker.inherit(old.worker.hand_over(), old.host.now_ms);
    heir.host.now_ms = old.host.now_ms;
}

#[test]
fn what_is_owed_keeps_a_worker_until_the_store_has_heard_it() {
    let mut world = owing(INLINE, &Pool::default());
    assert!(!world.worker.drain(&mut world.host));
    assert_eq!(world.host.gauges[&Gauge::Draining], 1);
    for _ in 0..20 {
        world.host.now_ms += 3_000;
        assert!(!world.ticks(), "after more than one lease");
        world.calls_fail();
    }
    world.host.now_ms += 10_000;
    assert!(!world.ticks());
    let completion = world.batch();
    assert!(matches!(completion.tries[0].1.kind, CommandKind::Complete { status: 201, response: Some(_) }));
    world.reply(completion, &StoreReply::Settled);
    assert!(world.ticks());
    assert!(world.host.gauges.values().all(|told| *told == 0), "{:?}", world.host.gauges);
    assert_eq!(world.acts("log idempotency"), [""; 0]);
}

#[test]
fn what_is_owed_is_given_up_after_an_hour_and_one_line_says_how_much() {
    let mut world = owing(&INLINE.replace("3000", "3000, \"ttl_s\": 86400"), &Pool::default());
    // Long enough for the breaker.
    world.host.now_ms += 10_000;
    world.ticks();
    let completion = world.batch();
    let unheard = vec![(completion.tries[0].0, StoreReply::Failed(Failure::Full))];
    world.on_store_reply(completion.id, Reply::Answers(unheard));
    world.acts("resume");
    world.runs(2);
    world.stream_ends(2, b"downstream_remote_disconnect");
    world.store_is_away();
    world.acts("log");
    assert_eq!(world.host.gauges[&Gauge::Outbox], 2);
    assert!(!world.worker.drain(&mut world.host));
    world.host.now_ms += 3_599_999;
    assert!(!world.ticks());
    world.calls_fail();
    world.host.now_ms += 1;
    assert!(world.ticks());
    assert!(world.host.gauges.values().all(|told| *told == 0), "{:?}", world.host.gauges);
    let gave_up = world.acts("log gave up");
    assert!(gave_up.len() == 1 && gave_up[0].contains("1 completions, 0 responses and 1 other"), "{gave_up:?}");
}

#[test]
fn a_withdrawal_keeps_a_worker_for_one_lease() {
    let mut world = World::new(INLINE);
    world.asks(1);
    world.wakes();
    world.stream_ends(1, b"downstream_remote_disconnect");
    world.store_is_away();
    assert!(!world.worker.drain(&mut world.host));
    world.host.now_ms += 2_999;
    assert!(!world.ticks());
    world.calls_fail();
    world.host.now_ms += 1;
    assert!(world.ticks());
    assert!(world.host.gauges.values().all(|told| *told == 0), "{:?}", world.host.gauges);
}

#[test]
fn since_when_the_oldest_is_owed_is_noted_and_passes_on_with_it() {
    let pool = Pool::default();
    let mut old = owing(INLINE, &pool);
    let mut heir = World::sharing(INLINE, &pool);
    (0..10).for_each(|_| assert!(!old.ticks()));
    let since_ms = old.host.owed_since_ms;
    assert!(since_ms.is_some_and(|since_ms| since_ms <= old.host.now_ms), "{since_ms:?}");
    hands_over(&mut old, &mut heir);
    heir.host.now_ms += 5_000;
    for _ in 0..10 {
        assert!(!old.ticks() && !heir.ticks());
    }
    assert_eq!((old.host.owed_since_ms, heir.host.owed_since_ms), (None, since_ms));
    let completion = heir.batch();
    heir.reply(completion, &StoreReply::Settled);
    (0..10).for_each(|_| assert!(!heir.ticks()));
    assert_eq!(heir.host.owed_since_ms, None);
}

#[test]
fn how_long_a_duplicate_has_waited_is_noted_once_however_its_wait_ends() {
    let waits = INLINE.replace(r#""policy": {"#, r#""policy": {"on_in_flight": {"action": "wait"}, "#);
    let mut world = World::new(&waits);
    let claims = world.claims(3);
    world.reply(claims, &IN_FLIGHT);
    world.host.now_ms += 40;
    world.stream_ends(1, b"downstream_remote_disconnect");
    assert_eq!(world.acts("waited"), ["waited 40"]);
    world.host.now_ms += 60;
    world.ticks();
    let polls = world.batch();
    world.reply(polls, &StoreReply::Mismatch);
    assert_eq!(world.acts("waited"), ["waited 100"; 2]);
    world.stream_ends(2, b"idempotency_mismatch");
    assert_eq!(world.acts("waited"), [""; 0]);
}

#[test]
fn a_failing_store_is_logged_once_when_it_begins_and_once_when_it_has_answered_for_a_while() {
    let mut world = World::new(INLINE);
    let claims = world.claims(3);
    world.host.batches.push(claims);
    world.store_is_away();
    let lines = world.acts("log");
    assert!(
        lines.len() == 1 && lines[0].contains("the store has begun to fail: transport for operation "),
        "{lines:?}"
    );
    // What is owed lands, and so the store answers.
    while world.host.gauges[&Gauge::Outbox] > 0 {
        world.host.now_ms += 100;
        world.ticks();
        if let Some(batch) = world.host.batches.pop() {
            world.reply(batch, &StoreReply::Settled);
        }
    }
    assert_eq!(world.acts("log"), [""; 0]);
    world.host.now_ms += 2_000;
    world.ticks();
    let lines = world.acts("log");
    assert!(lines.len() == 1 && lines[0].starts_with("log the store answers again, "), "{lines:?}");
    world.host.now_ms += 10_000;
    world.ticks();
    assert_eq!(world.acts("log"), [""; 0]);
}

#[test]
fn the_breaker_shows_in_a_gauge_until_a_probe_is_answered() {
    let mut world = owing(INLINE, &Pool::default());
    while !world.host.gauges.contains_key(&Gauge::BreakerOpen) {
        world.host.now_ms += 100;
        world.ticks();
        world.calls_fail();
    }
    assert_eq!(world.host.gauges[&Gauge::BreakerOpen], 1);
    while world.host.batches.is_empty() {
        world.host.now_ms += 100;
        world.ticks();
    }
    assert_eq!(world.host.gauges[&Gauge::BreakerOpen], 1);
    let probe = world.batch();
    world.reply(probe, &StoreReply::Settled);
    world.ticks();
    assert_eq!(world.host.gauges[&Gauge::BreakerOpen], 0);
}

#[test]
fn what_is_owed_passes_to_the_worker_that_serves_next_and_the_old_one_goes_at_once() {
    let pool = Pool::default();
    let mut old = owing(INLINE, &pool);
    let mut heir = World::sharing(INLINE, &pool);
    hands_over(&mut old, &mut heir);
    assert!(old.worker.drain(&mut old.host));
    assert!(old.host.gauges.values().all(|told| *told == 0), "{:?}", old.host.gauges);
    // Nothing of its name begins there.
    heir.asks(1);
    assert_eq!(heir.acts("answer"), ["answer 1"]);
    heir.stream_ends(1, b"idempotency_in_flight");
    heir.host.now_ms += 5_000;
    assert!(!heir.ticks());
    assert_eq!(heir.host.gauges[&Gauge::Outbox], 1);
    let completion = heir.batch();
    assert!(matches!(completion.tries[0].1.kind, CommandKind::Complete { status: 201, response: Some(_) }));
    heir.reply(completion, &StoreReply::Settled);
    heir.ticks();
    assert_eq!(heir.host.gauges[&Gauge::Outbox], 0);
}

#[test]
fn an_execution_of_the_gateways_own_keeps_a_worker_until_it_ends_and_what_becomes_owed_passes_on() {
    let pool = Pool::default();
    let mut old = World::sharing(SHIELDED, &pool);
    let claim = old.claims(1);
    old.reply(claim, &GRANTED);
    old.stream_ends(1, b"downstream_remote_disconnect");
    let mut heir = World::sharing(SHIELDED, &pool);
    hands_over(&mut old, &mut heir);
    assert!(!old.worker.drain(&mut old.host));
    for _ in 0..29 {
        old.host.now_ms += 1_000;
        hands_over(&mut old, &mut heir);
        assert!(!old.ticks(), "its lease is renewed");
        while let Some(renewal) = old.host.batches.pop() {
            old.reply(renewal, &StoreReply::Renewed { expires_ms: 86_400_000 });
        }
    }
    assert_eq!((old.host.gauges[&Gauge::Running], old.host.gauges[&Gauge::Draining]), (1, 1));
    let exchange = old.worker.take_execution(101).expect("it was sent");
    let headers: Headers = [("content-type", "text/plain")].into_iter().collect();
    let answer = Executed::Answered { status: 201, headers: &headers, body: b"paid" };
    old.worker.on_executed(&mut old.host, exchange, answer);
    old.store_is_away();
    assert!(!old.worker.is_idle());
    hands_over(&mut old, &mut heir);
    assert!(old.ticks());
    assert!(old.host.gauges.values().all(|told| *told == 0), "{:?}", old.host.gauges);
    heir.ticks();
    assert_eq!(heir.host.gauges[&Gauge::Outbox], 1);
}

#[test]
fn a_worker_does_not_go_while_an_answer_is_deferred() {
    let mut world = World::new(INLINE);
    let batch = world.claims(FLOWS_AT_ONCE as u32 + 1);
    world.reply(batch, &IN_FLIGHT);
    assert!(!world.worker.drain(&mut world.host));
    world.wakes();
    assert!(world.ticks());
}

#[test]
fn the_next_call_goes_out_before_any_exchange_hears_of_the_last() {
    let mut world = World::new(INLINE);
    world.asks(1);
    world.wakes();
    let first = world.batch();
    world.asks(2);
    world.acts("");
    world.reply(first, &IN_FLIGHT);
    let acts: Vec<String> = world.acts("").into_iter().filter(|act| !act.starts_with("count")).collect();
    assert_eq!(acts, ["send 1", "enter 1", "status 1", "enter 1", "answer 1"]);
}

#[test]
fn the_root_is_woken_once_for_all_who_wait_for_it() {
    let mut world = World::new(INLINE);
    (1..=3).for_each(|id| world.asks(id));
    assert_eq!(world.acts("wake"), ["wake"]);
    world.wakes();
    assert_eq!(world.batch().tries.len(), 3);
    world.asks(4);
    assert_eq!(world.acts("wake"), [""; 0], "the line is taken");
}

#[test]
fn a_request_that_the_host_does_not_take_was_not_executed_and_is_logged_once_a_second() {
    let mut world = World::new(SHIELDED);
    world.host.refuses = true;
    let batch = world.claims(2);
    world.reply(batch, &GRANTED);
    assert_eq!(world.acts("execute"), ["execute 1", "execute 2"]);
    assert_eq!(world.acts("log").len(), 1, "both say the same");
    let releases = world.batch();
    assert!(releases.tries.iter().all(|(_, command)| matches!(command.kind, CommandKind::Release { .. })));
    world.reply(releases, &StoreReply::Settled);
    assert_eq!(world.acts("answer"), ["answer 1", "answer 2"]);
    world.host.now_ms += 1_000;
    world.asks(3);
    world.wakes();
    let claim = world.batch();
    world.reply(claim, &GRANTED);
    assert_eq!(world.acts("log").len(), 1);
}

#[test]
fn an_execution_that_has_ended_is_fed_to_its_exchange_alone() {
    let mut world = World::new(SHIELDED);
    let batch = world.claims(2);
    world.reply(batch, &GRANTED);
    assert_eq!(world.acts("execute"), ["execute 1", "execute 2"]);
    assert_eq!(world.worker.take_execution(7), None);
    let exchange = world.worker.take_execution(102).expect("it is the second's");
    assert_eq!((exchange, world.worker.take_execution(102)), (2, None));
    world.worker.on_executed(&mut world.host, exchange, Executed::Lost);
    let mark = world.batch();
    assert_eq!(mark.tries.len(), 1);
    world.reply(mark, &StoreReply::Settled);
    assert_eq!(world.acts("answer"), ["answer 2"]);
}

#[test]
fn that_no_caller_was_seen_is_said_by_one_worker_once_a_minute() {
    let mut world = World::new(INLINE);
    world.host.shows_caller = false;
    world.on_request_headers(1, true);
    assert_eq!(world.acts("log").len(), 1);
    world.host.now_ms += 59_999;
    world.on_request_headers(2, true);
    assert_eq!(world.acts("log"), [""; 0]);
    world.host.now_ms += 1;
    world.host.others_said = true;
    world.on_request_headers(3, true);
    assert_eq!(world.acts("log"), [""; 0], "another worker has said so");
}

#[test]
fn a_worker_is_overloaded_by_what_all_its_exchanges_hold() {
    let mut world = World::new(INLINE);
    let large = vec![b'x'; 17 << 10];
    world.worker.set_overloaded_from(1 << 20);
    let mut held = 0;
    for id in 1.. {
        world.on_request_headers(id, false);
        world.on_request_body(id, &large, false);
        if !world.acts("answer").is_empty() {
            break;
        }
        held += large.len();
    }
    assert!(held >= 1 << 20 && held < (1 << 20) + large.len());
    assert_eq!(world.worker.held_bytes(), held as u64);
    world.stream_ends(1, b"downstream_remote_disconnect");
    assert_eq!(world.worker.held_bytes(), (held - large.len()) as u64);
}

#[test]
fn an_overloaded_worker_holds_small_bodies_all_the_same() {
    let mut world = World::new(INLINE);
    world.worker.set_overloaded_from(0);
    world.on_request_headers(1, false);
    assert_eq!(world.on_request_body(1, &[b'x'; 1 << 10], true), Action::Pause);
    assert_eq!(world.acts("answer"), [""; 0]);
    world.wakes();
    assert_eq!(world.batch().tries.len(), 1);
}

/// A worker and its host.
pub struct World {
    pub worker: Worker<NoSharedMap>,
    pub host: Recorder,
    streams: HashMap<u32, Stream>,
    policy: Config,
    /// Under which rule requests are.
    pub rule: usize,
    /// The key of requests; none is one of its own for each.
    pub key: Option<u32>,
}

/// A host that writes down what it was asked for.
pub struct Recorder {
    pub now_ms: u64,
    drawn: u128,
    pub acts: Vec<String>,
    open: BTreeSet<u32>,
    entered: Option<u32>,
    pub is_woken: bool,
    pub batches: Vec<Batch>,
    owed_since_ms: Option<u64>,
    fails_since_ms: Option<u64>,
    gauges: HashMap<Gauge, i64>,
    request_size: u64,
    /// How many calls may be sent in a callback of a stream.
    room_in_streams: usize,
    /// Whether every call is refused.
    takes_no_calls: bool,
    /// Whether what carries the calls ends with the next one, and takes all along that it has carried.
    ends_with_the_next: bool,
    /// It takes no request of the gateway's own.
    refuses: bool,
    /// Requests show who is asking.
    shows_caller: bool,
    /// Another worker has said of late that no caller was seen.
    others_said: bool,
    /// Streams that end once this one was answered.
    fall_with: HashMap<u32, Vec<u32>>,
    /// Those that were answered in the callback under way.
    answered: Vec<u32>,
}

impl World {
    pub fn new(document: &str) -> World {
        World::sharing(document, &Pool::default())
    }

    fn sharing(document: &str, pool: &Pool) -> World {
        let policy = policy(document);
        let Where::Redis(redis) = &policy.store else {
            panic!("these tests are about a store that is asked by messages")
        };
        let redis: &Redis = redis;
        let limits = match redis.batching {
            true => Limits { max_batch: 1_000, max_calls: 1, ..Limits::new(redis) },
            false => Limits::new(redis),
        };
        let host = Recorder {
            now_ms: 1_000_000,
            drawn: 0,
            acts: Vec::new(),
            open: BTreeSet::new(),
            entered: None,
            is_woken: false,
            batches: Vec::new(),
            owed_since_ms: None,
            fails_since_ms: None,
            gauges: HashMap::new(),
            request_size: 0,
            room_in_streams: 0,
            takes_no_calls: false,
            ends_with_the_next: false,
            refuses: false,
            shows_caller: true,
            others_said: false,
            fall_with: HashMap::new(),
            answered: Vec::new(),
        };
        let store = Store::Remote(Box::new(Client::sharing(limits, pool)), None);
        let worker = Worker::new(store, policy.rules[0].policy.lease_ms);
        World { worker, host, streams: HashMap::new(), policy, rule: 0, key: None }
    }

    /// So many requests ask, and their claims go out together.
    fn claims(&mut self, count: u32) -> Batch {
        (1..=count).for_each(|id| self.asks(id));
        self.wakes();
        self.batch()
    }

    /// A request without a body, whose claim waits for the root.
    fn asks(&mut self, id: u32) {
        assert_eq!(self.on_request_headers(id, true), Action::Pause);
    }

    /// A request whose claim is granted.
    fn runs(&mut self, id: u32) {
        self.asks(id);
        self.wakes();
        let claim = self.batch();
        self.reply(claim, &GRANTED);
        assert_eq!(self.acts("resume"), [format!("resume {id} Request")]);
    }

    pub fn on_request_headers(&mut self, id: u32, end: bool) -> Action {
        let policy = self.policy.clone();
        self.on_request_headers_under(&policy, id, end)
    }

    fn on_request_headers_under(&mut self, config: &Config, id: u32, end: bool) -> Action {
        self.host.open.insert(id);
        let key = format!("k{}", self.key.unwrap_or(id));
        let mut fields = vec![(":method", "POST"), (":path", "/pay"), (":authority", "api"), ("idempotency-key", &key)];
        fields.extend(self.host.shows_caller.then_some(("authorization", "Bearer t")));
        let head = RequestHead { headers: fields.into_iter().collect() };
        let secrets = Rc::new(Secrets::new(config, b""));
        let exchange = Exchange::new(Rc::clone(&config.rules[self.rule].policy), secrets);
        let kind = EventKind::RequestHeaders {
            head: &head,
            attribute: &|_| None,
            owner: Owner(self.host.draw()),
            upstream_key: UpstreamKey([0; 16]),
            end,
        };
        self.streams.insert(id, Stream::new(id));
        self.in_stream(id, |worker, host, stream| worker.on_request_headers(host, stream, exchange, kind))
    }

    fn on_request_body(&mut self, id: u32, chunk: &[u8], end: bool) -> Action {
        let held = self.streams[&id].buffered_bytes();
        let reads = std::cell::RefCell::new(Vec::new());
        let read = |from: usize, len: usize| {
            reads.borrow_mut().push(format!("read {from} {len}"));
            assert_eq!(from, held);
            chunk.to_vec()
        };
        let size = held + chunk.len();
        let body = RequestBody { size, end, trailers: false, read: &read, attribute: &|_| None };
        let action = self.in_stream(id, |worker, host, stream| worker.on_request_body(host, stream, body));
        self.host.acts.extend(reads.into_inner());
        action
    }

    pub fn on_response_headers(&mut self, id: u32, status: u16, end: bool) -> Action {
        self.on_response_from(id, status, VIA_UPSTREAM, end)
    }

    fn on_response_from(&mut self, id: u32, status: u16, details: &[u8], end: bool) -> Action {
        let headers: Headers = [("content-type", "text/plain")].into_iter().collect();
        let origin = Origin { details, attempts: Some(1), ..Origin::default() };
        let kind = EventKind::ResponseHeaders { headers: &headers, status, origin, end };
        self.in_stream(id, |worker, host, stream| worker.on_response_headers(host, stream, Some(kind)))
    }

    fn on_response_body(&mut self, id: u32, chunk: &[u8], end: bool) -> Action {
        let size = self.streams[&id].buffered_bytes() + chunk.len();
        let body = ResponseBody { size, end, whole: &|| chunk.to_vec() };
        self.in_stream(id, |worker, host, stream| worker.on_response_body(host, stream, body))
    }

    /// A callback of a stream, which the host makes only while the stream wants any.
    fn in_stream(
        &mut self,
        id: u32,
        call: impl FnOnce(&mut Worker<NoSharedMap>, &mut Recorder, &mut Stream) -> Action,
    ) -> Action {
        let stream = self.streams.get_mut(&id).expect("it has begun");
        if stream.is_over() {
            return Action::Continue;
        }
        self.host.entered = Some(id);
        call(&mut self.worker, &mut self.host, stream)
    }

    /// The host ends a stream, and has the worker hear of it while the stream wants any callback.
    pub fn stream_ends(&mut self, id: u32, details: &[u8]) {
        self.host.open.remove(&id);
        self.host.entered = None;
        let stream = self.streams.remove(&id).expect("it has begun");
        if !stream.is_over() {
            let origin = Origin { details, attempts: Some(1), ..Origin::default() };
            self.worker.stream_ends(&mut self.host, &stream, origin, None);
        }
    }

    /// The root's turn, which the worker must have asked for.
    pub fn wakes(&mut self) {
        assert!(std::mem::take(&mut self.host.is_woken), "nothing has woken the root");
        self.host.entered = None;
        self.worker.on_wake(&mut self.host);
        self.after_turn();
    }

    pub fn ticks(&mut self) -> bool {
        self.host.entered = None;
        let may_go = self.worker.on_tick(&mut self.host);
        self.after_turn();
        may_go
    }

    /// The call that is under way.
    fn batch(&mut self) -> Batch {
        assert_eq!(self.host.batches.len(), 1, "one call is under way");
        self.host.batches.remove(0)
    }

    /// The store answers all that a call carries so.
    fn reply(&mut self, batch: Batch, reply: &StoreReply) {
        let answers = batch.tries.iter().map(|(nonce, _)| (*nonce, reply.clone())).collect();
        self.on_store_reply(batch.id, Reply::Answers(answers));
    }

    /// Every call fails, until all that has been asked is owed.
    fn store_is_away(&mut self) {
        for _ in 0..3 {
            self.calls_fail();
            self.host.now_ms += 100;
            self.ticks();
        }
        self.calls_fail();
    }

    fn calls_fail(&mut self) {
        while let Some(lost) = self.host.batches.pop() {
            self.on_store_reply(lost.id, Reply::Failed(Failure::Transport));
        }
    }

    pub fn on_store_reply(&mut self, batch: u64, reply: Reply) {
        self.host.entered = None;
        self.worker.on_store_reply(&mut self.host, batch, reply);
        self.after_turn();
    }

    /// The host does what a callback has left to it once the callback is over; other streams may end then.
    fn after_turn(&mut self) {
        for id in std::mem::take(&mut self.host.answered) {
            for fallen in self.host.fall_with.remove(&id).unwrap_or_default() {
                self.stream_ends(fallen, b"downstream_remote_disconnect");
            }
        }
    }

    /// What the host was asked for since, and begins so.
    pub fn acts(&mut self, beginning: &str) -> Vec<String> {
        let (found, left) = std::mem::take(&mut self.host.acts).into_iter().partition(|act| act.starts_with(beginning));
        self.host.acts = left;
        found
    }

    /// What was done to streams.
    fn touches(&mut self) -> Vec<String> {
        ["enter", "status", "answer", "change", "resume"].iter().flat_map(|act| self.acts(act)).collect()
    }
}

impl Recorder {
    /// The stream in effect, which must not have ended.
    fn touched(&self) -> u32 {
        let id = self.entered.expect("no stream is in effect");
        assert!(self.open.contains(&id), "stream {id} has ended");
        id
    }
}

impl Host for Recorder {
    fn now_ms(&self) -> u64 {
        self.now_ms
    }

    fn draw(&mut self) -> [u8; 16] {
        self.drawn += 1;
        self.drawn.to_le_bytes()
    }

    /// Envoy keeps the context of a stream that has ended until the end of the turn, so this tells nothing.
    fn enter(&mut self, stream: u32) -> bool {
        self.acts.push(format!("enter {stream}"));
        self.entered = Some(stream);
        true
    }

    fn apply_flow(&mut self, _side: Side, flow: Flow) {
        let id = self.touched();
        match flow {
            Flow::Replace(_) | Flow::Restore(_) => self.acts.push(format!("restore {id}")),
            Flow::LocalReply(_) => {
                self.acts.push(format!("answer {id}"));
                self.answered.push(id);
            }
            Flow::Resume(_) => self.acts.push(format!("change {id}")),
            Flow::Hold | Flow::Pass => {}
        }
    }

    fn resume(&mut self, side: Side) {
        let id = self.touched();
        self.acts.push(format!("resume {id} {side:?}"));
    }

    fn set_status(&mut self, _text: &str) {
        let id = self.touched();
        self.acts.push(format!("status {id}"));
    }

    fn request_size(&mut self) -> u64 {
        self.touched();
        self.request_size
    }

    fn execute(&mut self, exchange: u32, _outgoing: Outgoing) -> Option<u32> {
        self.acts.push(format!("execute {exchange}"));
        (!self.refuses).then_some(100 + exchange)
    }

    fn room(&self, lane: Lane, turn: Turn) -> usize {
        match (lane, turn) {
            (Lane::Small, Turn::Root) => usize::MAX,
            (Lane::Small, Turn::Stream) => self.room_in_streams,
            (Lane::Large, _) => 0,
        }
    }

    fn send(&mut self, batches: Vec<Batch>) -> Vec<(u64, Failure)> {
        self.entered = None;
        if self.takes_no_calls || self.ends_with_the_next {
            let carried = self.batches.drain(..).filter(|_| self.ends_with_the_next).collect::<Vec<_>>();
            return carried.iter().chain(&batches).map(|batch| (batch.id, Failure::Transport)).collect();
        }
        for batch in batches {
            self.acts.push(format!("send {}", batch.tries.len()));
            self.batches.push(batch);
        }
        Vec::new()
    }

    fn wake(&mut self) {
        self.acts.push("wake".to_owned());
        assert!(!std::mem::replace(&mut self.is_woken, true), "the root is woken twice");
    }

    fn clear(&mut self) {
        self.acts.push("clear".to_owned());
    }

    fn count(&mut self, count: Count, _rule: usize, _observed: bool) {
        self.acts.push(format!("count {count:?}"));
    }

    fn change_gauge(&mut self, gauge: Gauge, by: i64) {
        *self.gauges.entry(gauge).or_default() += by;
    }

    fn note_wait(&mut self, waited_ms: u64) {
        self.acts.push(format!("waited {waited_ms}"));
    }

    fn set_store_size(&mut self, _bytes: u64, _records: u64) {}

    fn note_owed_since(&mut self, since_ms: Option<u64>, _now_ms: u64) {
        self.owed_since_ms = since_ms;
    }

    fn log(&mut self, log_event: &LogEvent) {
        self.acts.push(format!("log {log_event}"));
    }

    fn note_store_failed(&mut self, now_ms: u64) -> bool {
        let is_new = self.fails_since_ms.is_none();
        self.fails_since_ms.get_or_insert(now_ms);
        is_new
    }

    fn note_store_answers(&mut self, _now_ms: u64) -> Option<u64> {
        self.fails_since_ms.take()
    }

    fn note_caller(&mut self, rule: &str) {
        self.acts.push(format!("caller seen under {rule}"));
    }

    fn note_no_caller(&mut self, _rule: &str, _now_ms: u64) -> bool {
        !self.others_said
    }
}

/// The store of these tests is another.
pub struct NoSharedMap;

impl SharedMap for NoSharedMap {
    fn wall_ms(&self) -> u64 {
        0
    }

    fn get(&self, _key: &[u8]) -> Result<Option<(Vec<u8>, u32)>, Failure> {
        Err(Failure::Host)
    }

    fn swap(&self, _key: &[u8], _value: &[u8], _version: Option<u32>) -> Result<bool, Failure> {
        Err(Failure::Host)
    }

    fn put(&self, _key: &[u8], _value: &[u8]) -> Result<(), Failure> {
        Err(Failure::Host)
    }
}

fn policy(document: &str) -> Config {
    Config::parse(document.as_bytes(), &|_| None).expect("the document is right")
}
