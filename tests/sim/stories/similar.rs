//! The same content under another key.
//!
//! Its one rule: each is a script and its whole transcript; `mod.rs` says how a script is written.

use expect_test::expect;

use super::check;

#[test]
fn who_makes_a_new_key_after_a_time_out_is_told_and_another_caller_is_not() {
    check(
        "policy: similar 60s
         upstream: times out
         a: POST k1 p1
         wait 5s
         b: POST k2 p1 g2
         wait 1s
         c: POST k2 p1 t2
         d: POST k2 p2
         e: POST k3 p2",
        expect![[""]],
    );
}

#[test]
fn who_makes_a_new_key_after_a_time_out_is_refused_unless_it_is_meant() {
    check(
        "policy: refuses similar 60s
         upstream: times out
         a: POST k1 p1
         wait 5s
         b: POST k2 p1 g2
         wait 1s
         c: POST k2 p1 g2 meant",
        expect![[""]],
    );
}

#[test]
fn of_two_keys_at_once_one_is_refused() {
    check(
        "policy: refuses similar 60s
         upstream: 201 after 500ms
         a: POST k1 p1
         b: POST k2 p1 g2",
        expect![[""]],
    );
}

#[test]
fn what_was_released_counts_for_nothing_and_what_was_before_it_counts() {
    check(
        "policy: refuses similar 60s
         upstream: 404
         a: POST k1 p1
         wait 1s
         b: POST k2 p1
         wait 1s
         upstream: 404
         c: POST k3 p1 meant
         wait 1s
         d: POST k4 p1",
        expect![[""]],
    );
}

#[test]
fn the_window_ends_and_a_retry_of_the_same_key_is_never_similar() {
    check(
        "policy: refuses similar 2s
         upstream: 503
         a: POST k1 p1
         wait 1s
         b: POST k1 p1
         wait 3s
         c: POST k2 p1",
        expect![[""]],
    );
}

#[test]
fn where_the_store_cannot_tell_it_is_refused_and_its_claim_is_taken_back() {
    check(
        "policy: refuses similar 60s
         store: ok
         store: lose reply
         store: lose reply
         a: POST k1 p1
         wait 2s
         b: POST k2 p1",
        expect![[""]],
    );
}
