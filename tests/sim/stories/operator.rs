//! Stories of operators, who say what became of an operation.

use expect_test::expect;

use super::check;

#[test]
fn what_did_not_run_runs_as_the_next_attempt_and_what_comes_late_is_refused() {
    check(
        "policy: hold
         upstream: 201 after 5s
         a: POST k1 p1
         wait 10ms
         g1: stops 3s
         wait 2s
         operator: not run k1
         b: POST k1 p1 g2
         wait 4s
         record: k1",
        expect![[r#""#]],
    );
}

#[test]
fn what_ran_is_not_replayable_and_a_late_try_of_its_claim_changes_nothing() {
    check(
        "policy: hold
         upstream: times out
         a: POST k1 p1
         wait 100ms
         operator: ran k1
         wait 1s
         operator: ran k1
         b: POST k1 p1 g2
         wait 10ms
         c: POST k1 p2
         record: k1",
        expect![[r#""#]],
    );
}

#[test]
fn a_late_try_of_a_claim_that_was_settled_is_stale() {
    check(
        "policy: hold
         store: again 3s
         upstream: times out
         a: POST k1 p1
         wait 2s
         operator: forget k1
         wait 2s
         record: k1
         b: POST k1 p2 g2",
        expect![[r#""#]],
    );
}
