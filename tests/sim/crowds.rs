//! A hundred duplicates of one request, at two gateways of two workers each, that wait for the one that runs.
//!
//! Its one rule: what a crowd was told is counted, not transcribed; a case holds inline and shielded.

use crate::plan::{Client, Plan, Shielding};
use crate::stories::{quiet, treatment};
use crate::world::{Request, World};

const CROWD: usize = 100;
/// How long duplicates wait.
const WAIT_MS: u64 = 10_000;

/// The world after this crowd, the upstream having treated each execution so; the first client may hang up meanwhile.
fn crowd(is_shielded: bool, treatments: &[&str], first_hangs_up: bool) -> World {
    let shields = is_shielded.then_some(Shielding { fields: 5, timeout_ms: 30_000 });
    let mut world = World::new(Plan { workers: 2, waits_ms: Some(WAIT_MS), shields, ..quiet() }, false);
    world.treatments = treatments.iter().map(|words| treatment(&words.split(' ').collect::<Vec<_>>())).collect();
    let who = Client { tenant: 1, key: 1, payload: 1, start_ms: 0, tries: 1, insists: false };
    let requests: Vec<_> = (0..CROWD)
        .map(|n| {
            let request = world.send(&n.to_string(), usize::MAX, who, n % 2);
            world.run_until(world.now + 2);
            request
        })
        .collect();
    if first_hangs_up {
        world.hang_up(requests[0]);
    }
    world.run_until(WAIT_MS + 2_000);
    assert_eq!(world.broken_bounds, [""; 0]);
    assert!(world.is_idle() && world.treatments.is_empty());
    world
}

/// How many were told this: status, token, reason.
fn told(world: &World, status: u16, token: &str, reason: Option<&str>) -> usize {
    let is_told = |request: &&Request| {
        request.answer.as_ref().is_some_and(|answer| {
            (answer.status, answer.is(token), answer.parameter("reason")) == (status, true, reason)
        })
    };
    world.requests.iter().filter(is_told).count()
}

fn attempts(world: &World) -> Vec<Option<u32>> {
    world.forwards.iter().map(|forward| forward.attempt).collect()
}

/// All answers with this status have one body.
fn are_equal(world: &World, status: u16) -> bool {
    let answers = world.requests.iter().filter_map(|request| request.answer.as_ref());
    let mut bodies: Vec<_> = answers.filter(|answer| answer.status == status).map(|answer| &answer.body).collect();
    bodies.dedup();
    bodies.len() == 1
}

#[test]
fn one_executes_and_all_get_its_answer() {
    for is_shielded in [false, true] {
        let world = crowd(is_shielded, &["201 after 900ms"], false);
        assert_eq!(attempts(&world), [Some(1)]);
        assert_eq!((told(&world, 201, "executed", None), told(&world, 201, "replayed", None)), (1, 99));
        assert!(are_equal(&world, 201));
    }
}

#[test]
fn after_a_first_attempt_that_failed_another_executes_and_all_others_get_its_answer() {
    for is_shielded in [false, true] {
        let world = crowd(is_shielded, &["503 after 900ms", "201 after 900ms"], false);
        assert_eq!(attempts(&world), [Some(1), Some(2)]);
        assert_eq!(told(&world, 503, "executed", None), 1);
        assert_eq!((told(&world, 201, "executed", None), told(&world, 201, "replayed", None)), (1, 98));
        assert!(are_equal(&world, 201));
    }
}

#[test]
fn after_two_attempts_that_failed_all_others_are_refused_within_the_deadline() {
    for is_shielded in [false, true] {
        let world = crowd(is_shielded, &["503 after 900ms", "503 after 900ms"], false);
        assert_eq!(attempts(&world), [Some(1), Some(2)]);
        assert_eq!((told(&world, 503, "executed", None), told(&world, 429, "refused", Some("in-flight"))), (2, 98));
        let waited = world.requests.iter().map(|request| request.answered_ms.unwrap_or(u64::MAX) - request.sent_ms);
        assert!(waited.max() < Some(WAIT_MS));
    }
}

#[test]
fn a_first_client_that_hangs_up_leaves_an_unknown_outcome_inline_and_its_answer_shielded() {
    let world = crowd(false, &["201 after 900ms"], true);
    assert_eq!((attempts(&world), told(&world, 409, "refused", Some("outcome-unknown"))), (vec![Some(1)], 99));
    let world = crowd(true, &["201 after 900ms"], true);
    assert_eq!((attempts(&world), told(&world, 201, "replayed", None)), (vec![Some(1)], 99));
    assert!(are_equal(&world, 201));
}
