//! What runs without the promise, and what a trial does.
//!
//! Its one rule: each is a script and its whole transcript; `mod.rs` says how a script is written.

use expect_test::expect;

use super::check;

#[test]
fn under_forward_a_request_runs_unprotected_and_its_success_is_kept() {
    check(
        "policy: forward
         store: down 1s
         a: POST k1 p1
         wait 4s
         b: POST k1 p1",
        expect![[r#"
            0      a → g1  POST k1 p1
            1        g1 → store  claim (a k1)
            3             the call fails: transport
            100      g1 → store  claim (a k1)
            102           the call fails: transport
            102    a → upstream  unprotected
            104            upstream executes k1 p1 as #1
            109      g1 → store  complete 201 (a k1)
            111           the call fails: transport
            200      g1 → store  complete 201 (a k1)
            202           the call fails: transport
            202    a ← 201  bypassed;reason=store-failure  execution #1
            400      g1 → store  complete 201 (a k1)
            402           the call fails: transport
            1500     g1 → store  complete 201 (a k1)
            1501     store  settled (a k1)
            4000   b → g1  POST k1 p1
            4001     g1 → store  claim (b k1)
            4002     store  completed 201 by attempt 0 (b k1)
            4003   b ← 201  replayed;attempt=0;age=2;ttl=57  execution #1
        "#]],
    );
}

#[test]
fn who_ran_unprotected_is_told_so_though_its_response_cannot_be_kept_either() {
    check(
        "policy: forward
         store: lose call
         store: lose call
         upstream: 201 at length
         a: POST k1 p1
         wait 2s
         b: POST k1 p1",
        expect![[r#"
            0      a → g1  POST k1 p1
            1        g1 → store  claim (a k1)
            1             the call is lost
            400      g1 → store  claim (a k1)
            400           the call is lost
            700    a → upstream  unprotected
            702            upstream executes k1 p1 as #1
            707    a ← 201  bypassed;reason=store-failure  execution #1
            707      g1 → store  complete 201 without its response (a k1)
            708      store  settled (a k1)
            2000   b → g1  POST k1 p1
            2001     g1 → store  claim (b k1)
            2002     store  completed 201 by attempt 0, not replayable (b k1)
            2003   b ← 409  refused;attempt=0;reason=not-replayable
        "#]],
    );
}

#[test]
fn under_observe_nothing_is_refused_replayed_or_changed() {
    check(
        "policy: observe
         upstream: 201 says release after 100ms
         a: POST k1 p1
         wait 20ms
         b: POST k1 p1
         c: POST k1 p4 g2
         wait 1s
         d: POST k1 p2
         wait 1s
         record: k1",
        expect![[r#"
            0      a → g1  POST k1 p1
            1      a → upstream  unprotected
            1        g1 → store  claim (a k1)
            2        store  granted attempt 1 (a k1)
            3              upstream executes k1 p1 as #1
            20     b → g1  POST k1 p1
            20     c → g2  POST k1 p4
            21     b → upstream  unprotected
            21     c → upstream  unprotected
            21       g1 → store  claim (b k1)
            22       store  in flight, attempt 1 (b k1)
            23             upstream executes k1 p1 as #2
            23             upstream executes k1 p4 as #3
            28     b ← 201  bypassed;outcome=in-flight;reason=observe  execution #2
            28     c ← 201  bypassed;outcome=body-too-large;reason=observe  execution #3
            103      g1 → store  release (a k1)
            103    a ← 201  bypassed;outcome=executed;reason=observe  execution #1
            104      store  settled (a k1)
            1020   d → g1  POST k1 p2
            1021   d → upstream  unprotected
            1021     g1 → store  claim (d k1)
            1022     store  granted attempt 2 (d k1)
            1023           upstream executes k1 p2 as #4
            1028     g1 → store  complete 201 without its response (d k1)
            1028   d ← 201  bypassed;outcome=executed;reason=observe  execution #4
            1029     store  settled (d k1)
            2020   k1 is completed 201, not replayable, attempt 2
        "#]],
    );
}

#[test]
fn a_trial_knows_a_request_that_is_too_large_however_it_comes() {
    check(
        "policy: observe
         wait 1ms
         a: POST k1 p4
         wait 100ms",
        expect![[r#"
            1      a → g1  POST k1 p4
            2      a → upstream  unprotected
            4              upstream executes k1 p4 as #1
            9      a ← 201  bypassed;outcome=body-too-large;reason=observe  execution #1
        "#]],
    );
}

#[test]
fn a_claim_that_failed_runs_inline_under_forward_and_unprotected() {
    check(
        "policy: shielded, forward
         store: lose reply
         store: lose reply
         upstream: 201 after 300ms
         a: POST k1 p1
         wait 2s
         b: POST k1 p1",
        expect![[r#"
            0      a → g1  POST k1 p1
            1        g1 → store  claim (a k1)
            2        store  granted attempt 1 (a k1)
            2             the reply is lost
            400      g1 → store  claim (a k1)
            401      store  granted attempt 1 (a k1)
            401           the reply is lost
            700    a → upstream  unprotected
            702            upstream executes k1 p1 as #1
            1002     g1 → store  complete 201 (a k1)
            1003     store  settled (a k1)
            1004   a ← 201  bypassed;ttl=60;reason=store-failure  execution #1
            2000   b → g1  POST k1 p1
            2001     g1 → store  claim (b k1)
            2002     store  completed 201 by attempt 1 (b k1)
            2003   b ← 201  replayed;attempt=1;age=0;ttl=59  execution #1
        "#]],
    );
}
