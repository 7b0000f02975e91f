//! Outcomes nobody knows, the attempts that follow them, and the leases and times to live behind both.
//!
//! Its one rule: the passage of time is the thing here; a lease is one second, and what comes after it is polled for.
//! It does not know of outcomes that are certain.

use std::time::{Duration, Instant};

use harness::{Entry, PATIENCE, Request, Response, World, send_all, wait_for, wait_until};

use crate::check::{executed, is_refusal, not_stored, refused, replays, said};
use crate::worlds::{plain, rules, start, troubled};

/// Of every rule used here.
const LEASE: Duration = Duration::from_secs(1);

#[test]
fn a_time_out_is_unknown() {
    let world = troubled();
    let (pay, started) = (world.post("/unknown/timeout").key("k").body("ten"), Instant::now());
    let late = pay.clone().header("x-route", "impatient").header("x-test-hold", "never").send();
    not_stored(&late, 504, 1, "unknown");
    unknown_until_the_lease_is_over(&world, &pay, started);
}

#[test]
fn a_reset_before_the_answer_is_unknown() {
    let world = troubled();
    for place in ["before", "before-rst"] {
        let (pay, started) = (world.post(&format!("/unknown/reset-{place}")).key("k").body("ten"), Instant::now());
        not_stored(&pay.clone().header("x-test-reset", place).send(), 503, 1, "unknown");
        unknown_until_the_lease_is_over(&world, &pay, started);
    }
}

#[test]
fn a_bad_gateway_and_a_gateway_time_out_behind_us_are_unknown() {
    let world = troubled();
    for status in [502, 504] {
        let (pay, started) = (world.post(&format!("/unknown/status-{status}")).key("k").body("ten"), Instant::now());
        not_stored(&pay.clone().header("x-test-status", status.to_string()).send(), status, 1, "unknown");
        unknown_until_the_lease_is_over(&world, &pay, started);
    }
}

#[test]
fn a_client_that_hangs_up_leaves_an_unknown_outcome() {
    let world = troubled();
    let (pay, started) = (world.post("/unknown/disconnect").key("k").body("ten"), Instant::now());
    drop(start(&world, &pay, "ten", "never"));
    wait_until("Envoy has noticed", PATIENCE, || {
        let answer = pay.send();
        assert_eq!(world.ledger.entries_for("/unknown/disconnect").len(), 1);
        !is_refusal(&answer, "in-flight")
    });
    unknown_until_the_lease_is_over(&world, &pay, started);
}

#[test]
fn more_than_one_try_by_envoy_makes_a_failure_unknown() {
    let world = troubled();
    let (pay, started) = (world.post("/unknown/retries").key("k").body("ten"), Instant::now());
    let failed = pay.clone().header("x-route", "retrying").header("x-test-status", "503").send();
    not_stored(&failed, 503, 1, "unknown");
    let entries = world.ledger.entries_for(pay.path());
    assert_eq!(entries.iter().map(|entry| entry.attempt).collect::<Vec<_>>(), [Some(1), Some(1)]);
    refused(&pay.send(), 409, "outcome-unknown", Some("1"));
    executed(&after_the_lease(&pay, started), 2);
}

#[test]
fn a_success_after_a_try_by_envoy_is_a_success() {
    let world = troubled();
    let pay = world
        .post("/unknown/retried-well")
        .key("k")
        .header("x-route", "retrying")
        .header("x-test-first-status", "503,201")
        .body("ten");
    let first = pay.send();
    executed(&first, 1);
    replays(&pay.send(), &first);
    assert_eq!(world.ledger.entries_for(pay.path()).len(), 2);
}

#[test]
fn an_internal_redirect_is_unknown_and_logged() {
    let world = troubled();
    let (pay, started) = (world.post("/unknown/redirect").key("k").body("ten"), Instant::now());
    let redirected = pay
        .clone()
        .header("x-route", "redirecting")
        .header("x-test-status", "302")
        .header("x-test-header", "location: http://api.example.com/unknown/redirect-target")
        .send();
    assert_eq!(redirected.status, 302);
    assert_eq!(world.ledger.entries_for("/unknown/redirect").len(), 1);
    assert_eq!(world.ledger.entries_for("/unknown/redirect-target").len(), 1);
    world.gateway.wait_for_log("internal redirect");
    let log = world.gateway.log();
    let lines: Vec<_> = log.lines().filter(|line| line.contains("internal redirect")).collect();
    assert!(lines.len() == 1 && lines[0].contains(": operation "), "{lines:?}");
    unknown_until_the_lease_is_over(&world, &pay, started);
}

#[test]
fn a_definite_failure_after_a_doubt_frees_nothing() {
    let world = troubled();
    let (pay, started) = (world.post("/unknown/doubt").key("k").body("ten"), Instant::now());
    let failing = pay.clone().header("x-test-status", "400");
    not_stored(&pay.clone().header("x-test-status", "504").send(), 504, 1, "unknown");
    not_stored(&after_the_lease(&failing, started), 400, 2, "unknown");
    // Attempt 1 may have executed, so another payload must not; the same one may follow at once.
    refused(&pay.clone().body("twenty").send(), 409, "mismatch", None);
    executed(&pay.send(), 3);
}

#[test]
fn of_many_retries_after_the_lease_one_executes() {
    let world = troubled();
    let (pay, started) = (world.post("/unknown/crowd").key("k").body("ten"), Instant::now());
    not_stored(&pay.clone().header("x-test-status", "504").send(), 504, 1, "unknown");
    let held = pay.clone().header("x-test-delay-ms", "300");
    let crowd = vec![held; 16];
    let executions = wait_for("the lease is over", PATIENCE, || {
        let answers = send_all(&crowd);
        let executions = answers.iter().filter(|answer| said(answer).starts_with("executed;")).count();
        (executions > 0).then_some(executions)
    });
    assert_eq!(executions, Ok(1));
    assert!(started.elapsed() >= LEASE);
    let attempts: Vec<_> = world.ledger.entries_for(pay.path()).iter().map(|entry| entry.attempt).collect();
    assert_eq!(attempts, [Some(1), Some(2)]);
}

#[test]
fn the_wait_that_is_asked_for_is_the_rest_of_the_lease() {
    let world = plain();
    let pay = world.post("/unknown/minute").key("k").body("ten");
    not_stored(&pay.clone().header("x-test-status", "504").send(), 504, 1, "unknown");
    let again = pay.send();
    refused(&again, 409, "outcome-unknown", again.header("retry-after"));
    assert_eq!(said(&again), "refused;attempt=1;reason=outcome-unknown");
    let seconds: u64 = again.header("retry-after").unwrap().parse().unwrap();
    assert!((55..=60).contains(&seconds), "{seconds}");
}

#[test]
fn a_lease_is_renewed_while_the_service_works() {
    let world = troubled();
    let (pay, started) = (world.post("/unknown/renewed").key("k"), Instant::now());
    let mut first = start(&world, &pay, "ten", "renewed");
    let pay = pay.body("ten");
    wait_until("three leases have passed", PATIENCE, || {
        refused(&pay.send(), 429, "in-flight", Some("1"));
        started.elapsed() > 3 * LEASE
    });
    world.ledger.open("renewed");
    let first = first.response();
    executed(&first, 1);
    replays(&pay.send(), &first);
    assert_eq!(world.ledger.entries_for("/unknown/renewed").len(), 1);
}

#[test]
fn an_execution_past_max_running_ms_is_unknown_until_it_answers() {
    let world = rules();
    let (pay, started) = (world.post("/short-run/pay").key("k"), Instant::now());
    let mut first = start(&world, &pay, "ten", "short-run");
    let pay = pay.body("ten");
    wait_until("the outcome counts as unknown", PATIENCE, || is_refusal(&pay.send(), "outcome-unknown"));
    assert!(started.elapsed() >= LEASE);
    refused(&pay.send(), 409, "outcome-unknown", None);

    world.ledger.open("short-run");
    let first = first.response();
    executed(&first, 1);
    replays(&pay.send(), &first);
    assert_eq!(world.ledger.entries_for("/short-run/pay").len(), 1);
}

#[test]
fn under_hold_an_unknown_outcome_stays_unknown_and_no_retry_is_suggested() {
    let world = rules();
    let (pay, started) = (world.post("/hold/pay").key("k").body("ten"), Instant::now());
    not_stored(&pay.clone().header("x-test-status", "504").send(), 504, 1, "unknown");
    wait_until("two leases have passed", PATIENCE, || {
        refused(&pay.send(), 409, "outcome-unknown", None);
        started.elapsed() > 2 * LEASE
    });
    assert_eq!(world.ledger.entries_for("/hold/pay").len(), 1);
}

#[test]
fn an_expired_key_runs_again() {
    let world = rules();
    let (pay, started) = (world.post("/short-ttl/pay").key("k").body("ten"), Instant::now());
    let first = pay.send();
    assert_eq!(said(&first), "executed;stored=?1;attempt=1;ttl=2");
    replays(&pay.send(), &first);
    let second = wait_for("the record has expired", PATIENCE, || {
        let answer = pay.send();
        (answer.body != first.body).then_some(answer)
    });
    assert_eq!(said(&second.unwrap()), "executed;stored=?1;attempt=1;ttl=2");
    assert!(started.elapsed() >= Duration::from_secs(2));
    // Also for another payload.
    let other = pay.body("twenty");
    refused(&other.send(), 409, "mismatch", None);
    wait_until("the record has expired once more", PATIENCE, || other.send().status == 201);
    // The service sees the same name and number each time.
    let entries = world.ledger.entries_for("/short-ttl/pay");
    let names = |entry: &Entry| (entry.operation.clone(), entry.attempt);
    assert_eq!(entries.len(), 3);
    assert!(entries.iter().all(|entry| names(entry) == (entries[0].operation.clone(), Some(1))), "{entries:?}");
}

#[test]
fn a_record_does_not_expire_while_its_execution_runs() {
    let world = rules();
    let (pay, started) = (world.post("/short-ttl/running").key("k"), Instant::now());
    let mut first = start(&world, &pay, "ten", "short-ttl");
    let pay = pay.body("ten");
    wait_until("it has run for longer than records live", PATIENCE, || {
        refused(&pay.send(), 429, "in-flight", Some("1"));
        started.elapsed() > Duration::from_millis(2500)
    });
    world.ledger.open("short-ttl");
    let first = first.response();
    assert_eq!(said(&first), "executed;stored=?1;attempt=1;ttl=2");
    replays(&pay.send(), &first);
}

#[test]
fn an_upstream_can_shorten_the_life_of_a_record() {
    let world = troubled();
    let (pay, started) = (world.post("/unknown/ttl").key("k").body("ten"), Instant::now());
    let short = pay.clone().header("x-test-header", "idempotency-ttl: 2").send();
    assert_eq!(said(&short), "executed;stored=?1;attempt=1;ttl=2");
    replays(&pay.send(), &short);
    wait_until("the record has expired", PATIENCE, || said(&pay.send()).starts_with("executed;"));
    assert!(started.elapsed() >= Duration::from_secs(2));
}

/// One execution has run whose outcome is unknown: retries are refused as long as its lease stands, another payload
/// always, and then attempt 2 runs and is kept.
#[track_caller]
fn unknown_until_the_lease_is_over(world: &World, pay: &Request, started: Instant) {
    let early = pay.send();
    refused(&early, 409, "outcome-unknown", Some("1"));
    assert_eq!(said(&early), "refused;attempt=1;reason=outcome-unknown");
    refused(&pay.clone().body("another").send(), 409, "mismatch", None);
    assert_eq!(world.ledger.entries_for(pay.path()).len(), 1);

    let second = after_the_lease(pay, started);
    executed(&second, 2);
    replays(&pay.send(), &second);
    let entries = world.ledger.entries_for(pay.path());
    assert_eq!(entries.iter().map(|entry| entry.attempt).collect::<Vec<_>>(), [Some(1), Some(2)]);
    assert_eq!(entries[0].operation, entries[1].operation);
}

/// The first answer that is no refusal.
#[track_caller]
fn after_the_lease(pay: &Request, started: Instant) -> Response {
    let answer = wait_for("the lease is over", PATIENCE, || {
        let answer = pay.send();
        (!is_refusal(&answer, "outcome-unknown")).then_some(answer)
    });
    assert!(started.elapsed() >= LEASE, "a lease of {LEASE:?} was over after {:?}", started.elapsed());
    answer.unwrap_or_else(|message| panic!("{message}"))
}
