//! The store contract of josipmusa/idempotency4j (`IdempotencyStoreContract.java`), the most careful of the
//! libraries, asked of both our stores, and over HTTP, because that is all that clients see of a store.
//!
//! Its one rule: what it promises about a call, we show by what the next request gets.
//! It does not know how a store keeps its records.
//!
//! Ours differs on purpose in three. A lock that lapsed is not free but unknown: it is taken over under a larger
//! attempt number, or never (`on_unknown: hold`). Completing or releasing what is not there, or no more, is no
//! error for the caller to see: a known success is kept wherever nobody executes, and what a former owner says
//! changes nothing. And nobody calls a purge: Redis expires keys, and the embedded table is swept.
//!
//! | case | shown by |
//! |---|---|
//! | a new key is acquired, a completed one is a duplicate with the same answer | `e2e::replay::the_first_request_executes_and_the_second_replays`, `e2e::redis::the_other_gateway_replays_byte_for_byte` |
//! | different keys do not wait for each other | `e2e::running::a_crowd_with_many_keys_executes_each_once` |
//! | a released key may be acquired again, and its retry succeed | `e2e::outcomes::a_definite_failure_frees_the_key_for_a_corrected_payload`, `e2e::redis::a_definite_failure_here_frees_the_key_there` |
//! | released, acquired with another fingerprint, completed: now the first one is the mismatch | `e2e::black_box::stores::a_freed_key_belongs_to_the_payload_that_completes_it` |
//! | same key, another fingerprint | `e2e::running::a_key_used_with_another_payload_is_a_mismatch`, `e2e::redis::another_payload_is_a_mismatch_at_every_gateway` |
//! | an expired key is new, and its second generation has an answer of its own | `e2e::black_box::stores::the_next_generation_of_a_key_keeps_its_own_answer` |
//! | a stale lock is stolen, also by a caller with the same time-out | `e2e::unknown::a_client_that_hangs_up_leaves_an_unknown_outcome`, `e2e::redis_losses::what_a_killed_gateway_had_under_way_is_unknown` |
//! | who comes while it runs waits and gets the answer; of 20 threads one acquires | `e2e::waiting::of_100_that_wait_one_executes_and_all_get_its_answer` |
//! | who has waited for its time-out is told so | `e2e::waiting::a_waiter_is_refused_at_its_deadline` |
//! | also where others acquire and release the key without end | `e2e::black_box::stores::a_waiter_among_requests_that_all_fail_is_answered_in_time` |
//! | an extended lock is not stolen | `e2e::unknown::a_lease_is_renewed_while_the_service_works`, `e2e::redis::a_request_that_runs_here_is_in_flight_there` |
//! | extending what is unknown, completed or failed changes nothing | `it::model::nobody_but_the_owner_marks_renews_or_frees`, `it::model::ghosts_of_a_released_claim_are_refused_whatever_the_state_was` |
//! | completing what does not exist | `e2e::black_box::stores::a_success_whose_record_got_lost_makes_it_again` |
//! | completing or releasing twice | `e2e::black_box::stores::what_the_store_is_told_twice_counts_once` |
//! | completing what was released | `it::model::a_known_success_lands_wherever_nobody_executes` |
//! | releasing what does not exist, or is completed | `it::model::a_record_the_store_has_lost_is_made_again_by_any_operation_owed`, `it::model::a_completed_record_is_replaced_by_nobody` |
//! | a failure after the lock has expired does not lose the record | `e2e::black_box::stores::a_failure_that_comes_after_its_lease_frees_the_key_and_the_count_goes_on` |
//! | a purge takes what has expired and nothing else | `it::local::a_sweep_leaves_nothing_of_what_has_expired`, `e2e::memory::a_full_table_is_free_again_when_its_records_have_expired`, `e2e::redis::a_record_lives_as_long_as_it_was_said_to` |
//! | a stale lock whose record has not expired is kept | `e2e::unknown::under_hold_an_unknown_outcome_stays_unknown_and_no_retry_is_suggested` |
//! | both stores answer any sequence of calls alike | `it::redis::ten_thousand_sequences_are_answered_alike_by_redis_the_embedded_store_and_the_model` |

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use harness::{Fault, PATIENCE, SharedWorld, wait_for, wait_until};
use serde_json::json;

use super::on_both_stores;
use crate::check::{executed, is_refusal, not_stored, refused, replays, said, shown};
use crate::redis::{PATIENT_MS, held, key_of};

#[test]
fn a_freed_key_belongs_to_the_payload_that_completes_it() {
    on_both_stores(|stand| {
        let pay = |n, body: &str| stand.post(n, "/freed").key("k").body(body);
        not_stored(&pay(0, "ten").header("x-test-status", "422").send(), 422, 1, "released");
        let first = pay(1, "twenty").send();
        executed(&first, 2);
        for n in 0..2 {
            refused(&pay(n, "ten").send(), 409, "mismatch", None);
            replays(&pay(n, "twenty").send(), &first);
        }
        assert_eq!(stand.attempts("/freed"), [1, 2]);
    });
}

#[test]
fn the_next_generation_of_a_key_keeps_its_own_answer() {
    on_both_stores(|stand| {
        let pay = |n, body: &str| stand.post(n, "/generations/pay").key("k").body(body);
        let first = pay(0, "ten").send();
        assert_eq!(said(&first), "executed;stored=?1;attempt=1;ttl=2");
        // Another status, and another payload: nothing of the first may be left.
        let second = wait_for("the record has expired", PATIENCE, || {
            let answer = pay(1, "twenty").header("x-test-status", "202").send();
            (!is_refusal(&answer, "mismatch")).then_some(answer)
        });
        let second = second.unwrap();
        assert_eq!((second.status, said(&second)), (202, "executed;stored=?1;attempt=1;ttl=2"));
        replays(&pay(0, "twenty").send(), &second);
        assert_eq!(stand.attempts("/generations/pay"), [1, 1]);
    });
}

#[test]
fn a_waiter_among_requests_that_all_fail_is_answered_in_time() {
    on_both_stores(|stand| {
        let pay = |n| stand.post(n, "/contended/pay").key("k").body("ten");
        let (over, failures) = (AtomicBool::new(false), AtomicBool::new(false));
        thread::scope(|scope| {
            for n in 0..6 {
                let failing = pay(n).header("x-test-status", "400");
                let (over, failures) = (&over, &failures);
                scope.spawn(move || {
                    while !over.load(Ordering::Relaxed) {
                        let answer = failing.send();
                        let is_failure = answer.status == 400;
                        failures.fetch_or(is_failure, Ordering::Relaxed);
                        assert!(is_failure || is_refusal(&answer, "in-flight"), "{}", shown(&answer));
                    }
                });
            }
            wait_until("they fail", PATIENCE, || failures.load(Ordering::Relaxed));
            let asked = Instant::now();
            // Refused in the end, or executed: as a 400, too, so that the others go on.
            let answers: Vec<_> = (0..4).map(|n| pay(n).header("x-test-status", "400").try_send()).collect();
            let taken = asked.elapsed();
            over.store(true, Ordering::Relaxed);
            for answer in answers {
                let answer = answer.unwrap();
                assert!(answer.status == 400 || is_refusal(&answer, "in-flight"), "{}", shown(&answer));
            }
            assert!(taken < Duration::from_secs(8), "four who wait 0.3 s at most took {taken:?}");
        });
        counted_up(stand.attempts("/contended/pay"));
        let last = wait_for("nobody is in the way", PATIENCE, || Some(pay(0).send()).filter(|it| it.status == 201));
        replays(&pay(1).send(), &last.unwrap());
    });
}

#[test]
fn a_failure_that_comes_after_its_lease_frees_the_key_and_the_count_goes_on() {
    on_both_stores(|stand| {
        let pay = |n, body: &str| stand.post(n, "/late/pay").key("k").body(body);
        let mut first = pay(0, "ten").header("x-test-status", "400").header("x-test-hold", "late failure").open();
        first.write("ten");
        wait_until("it runs", PATIENCE, || stand.attempts("/late/pay").len() == 1);
        wait_until("its lease is over", PATIENCE, || is_refusal(&pay(1, "ten").send(), "outcome-unknown"));
        stand.ledger.open("late failure");
        not_stored(&first.response(), 400, 1, "released");
        let second = pay(1, "twenty").send();
        executed(&second, 2);
        replays(&pay(0, "twenty").send(), &second);
        assert_eq!(stand.attempts("/late/pay"), [1, 2]);
    });
}

#[test]
fn a_success_whose_record_got_lost_makes_it_again() {
    let world = SharedWorld::start(json!({ "store": { "timeout_ms": PATIENT_MS }, "policy": { "ttl_s": 1800 } }));
    let mut running = held(&world, &world.post("/lost").key("k"), "lost");
    world.redis.ask(&["DEL", &key_of(&world, "/lost")]);
    world.ledger.open("lost");
    let first = running.response();
    executed(&first, 1);
    let pay = world.post("/lost").key("k").body("ten");
    for gateway in &world.gateways {
        replays(&pay.clone().to(gateway.addr()).send(), &first);
        refused(&pay.clone().to(gateway.addr()).body("twenty").send(), 409, "mismatch", None);
    }
    assert_eq!(world.ledger.entries_for("/lost").len(), 1);
}

#[test]
fn what_the_store_is_told_twice_counts_once() {
    let world = SharedWorld::alone(json!({
        "store": { "timeout_ms": PATIENT_MS, "cache": null },
        "policy": { "ttl_s": 1800 },
    }));
    let pay = |path: &str| world.post(path).key("k");
    // Redis is told, its answer gets lost, and so it is told again.
    let told_twice = |path: &str, status: &str| {
        let mut running = held(&world, &pay(path).header("x-test-status", status), path);
        let calls = world.interposer.calls();
        world.interposer.next(1, Fault::CutAfter);
        world.ledger.open(path);
        let answer = running.response();
        world.interposer.wait_for_calls(calls + 2);
        answer
    };
    let completed = told_twice("/twice/completed", "201");
    executed(&completed, 1);
    replays(&pay("/twice/completed").body("ten").send(), &completed);

    not_stored(&told_twice("/twice/released", "400"), 400, 1, "released");
    let second = pay("/twice/released").body("twenty").send();
    executed(&second, 2);
    replays(&pay("/twice/released").body("twenty").send(), &second);
}

/// Every execution had a number of its own, in order.
#[track_caller]
fn counted_up(attempts: Vec<u32>) {
    assert!(attempts.windows(2).all(|two| two[0] < two[1]), "{attempts:?}");
}
