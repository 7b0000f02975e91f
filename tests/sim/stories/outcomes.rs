//! What becomes of the key when an execution has ended.
//!
//! Its one rule: each is a script and its whole transcript; `mod.rs` says how a script is written.

use expect_test::expect;

use super::check;

#[test]
fn a_definite_failure_after_a_doubtful_attempt_leaves_the_doubt() {
    check(
        "upstream: reset
         a: POST k1 p1
         wait 1100ms
         upstream: 404
         b: POST k1 p1
         wait 10ms
         record: k1
         c: POST k1 p2
         wait 10ms
         d: POST k1 p1",
        expect![[r#"
            0      a → g1  POST k1 p1
            1        g1 → store  claim (a k1)
            2        store  granted attempt 1 (a k1)
            3      a → upstream  attempt 1
            5              upstream executes k1 p1 as #1
            10       g1 → store  mark unknown (a k1)
            11       store  settled (a k1)
            12     a ← 503  executed;stored=?0;attempt=1;outcome=unknown
            1100   b → g1  POST k1 p1
            1101     g1 → store  claim (b k1)
            1102     store  granted attempt 2, in doubt (b k1)
            1103   b → upstream  attempt 2
            1105           upstream executes k1 p1 as #2
            1110     g1 → store  release (b k1)
            1110   k1 is running, attempt 2, in doubt
            1110   c → g1  POST k1 p2
            1111     store  settled (b k1)
            1111     g1 → store  claim (c k1)
            1112   b ← 404  executed;stored=?0;attempt=2;outcome=unknown  execution #2
            1112     store  mismatch (c k1)
            1113   c ← 409  refused;reason=mismatch
            1120   d → g1  POST k1 p1
            1121     g1 → store  claim (d k1)
            1122     store  granted attempt 3, in doubt (d k1)
            1123   d → upstream  attempt 3
            1125           upstream executes k1 p1 as #3
            1130     g1 → store  complete 201 (d k1)
            1131     store  settled (d k1)
            1132   d ← 201  executed;stored=?1;attempt=3;ttl=60  execution #3
        "#]],
    );
}

#[test]
fn under_hold_nobody_follows_an_attempt_of_unknown_outcome() {
    check(
        "policy: hold
         upstream: 201 after 500ms
         a: POST k1 p1
         wait 100ms
         g1: crashes
         wait 5s
         b: POST k1 p1 g2",
        expect![[r#"
            0      a → g1  POST k1 p1
            1        g1 → store  claim, no retry (a k1)
            2        store  granted attempt 1 (a k1)
            3      a → upstream  attempt 1
            5              upstream executes k1 p1 as #1
            100    g1 crashes
            100    a ← connection closed
            200    g1 is back
            5100   b → g2  POST k1 p1
            5101     g2 → store  claim, no retry (b k1)
            5102     store  unknown, attempt 1, wait 0 ms (b k1)
            5103   b ← 409  refused;attempt=1;reason=outcome-unknown
        "#]],
    );
}

#[test]
fn a_client_that_hangs_up_does_not_lose_the_outcome_of_a_response_that_came() {
    check(
        "upstream: 201
         a: POST k1 p1
         wait 10ms
         a: hangs up
         wait 100ms
         b: POST k1 p1",
        expect![[r#"
            0      a → g1  POST k1 p1
            1        g1 → store  claim (a k1)
            2        store  granted attempt 1 (a k1)
            3      a → upstream  attempt 1
            5              upstream executes k1 p1 as #1
            10       g1 → store  complete 201 (a k1)
            10     a hangs up
            10     a ← connection closed
            11       store  settled (a k1)
            110    b → g1  POST k1 p1
            111      g1 → store  claim (b k1)
            112      store  completed 201 by attempt 1 (b k1)
            113    b ← 201  replayed;attempt=1;age=0;ttl=59  execution #1
        "#]],
    );
}

#[test]
fn the_answer_to_a_mark_is_not_taken_for_the_completions() {
    check(
        "upstream: 201 after 2420ms
         a: POST k1 p1
         wait 2390ms
         store: delay 60ms
         store: lose call
         wait 1s
         record: k1
         b: POST k1 p1 g2",
        expect![[r#"
            0      a → g1  POST k1 p1
            1        g1 → store  claim (a k1)
            2        store  granted attempt 1 (a k1)
            3      a → upstream  attempt 1
            5              upstream executes k1 p1 as #1
            400      g1 → store  renew (a k1)
            401      store  renewed (a k1)
            800      g1 → store  renew (a k1)
            801      store  renewed (a k1)
            1200     g1 → store  renew (a k1)
            1201     store  renewed (a k1)
            1600     g1 → store  renew (a k1)
            1601     store  renewed (a k1)
            2000     g1 → store  renew (a k1)
            2001     store  renewed (a k1)
            2100     g1 → store  mark unknown (a k1)
            2101     store  settled (a k1)
            2425     g1 → store  complete 201 (a k1)
            2485     store  settled (a k1)
            2486   a ← 201  executed;stored=?1;attempt=1;ttl=60  execution #1
            3390   k1 is completed 201, attempt 1
            3390   b → g2  POST k1 p1
            3391     g2 → store  claim (b k1)
            3391          the call is lost
            3807     g2 → store  claim (b k1)
            3808     store  completed 201 by attempt 1 (b k1)
            3809   b ← 201  replayed;attempt=1;age=1;ttl=58  execution #1
        "#]],
    );
}

#[test]
fn the_upstream_decides_what_becomes_of_the_key() {
    check(
        "upstream: 404 says store for 5s
         a: POST k1 p1
         wait 10ms
         b: POST k1 p1
         wait 5s
         c: POST k1 p1
         wait 100ms
         upstream: 201 says unknown
         d: POST k2 p1
         wait 10ms
         e: POST k2 p1
         wait 1s
         upstream: 201 says release
         f: POST k3 p1
         wait 10ms
         g: POST k3 p2",
        expect![[r#"
            0      a → g1  POST k1 p1
            1        g1 → store  claim (a k1)
            2        store  granted attempt 1 (a k1)
            3      a → upstream  attempt 1
            5              upstream executes k1 p1 as #1
            10       g1 → store  complete 404 (a k1)
            10     b → g1  POST k1 p1
            11       store  settled (a k1)
            11       g1 → store  claim (b k1)
            12     a ← 404  executed;stored=?1;attempt=1;ttl=5  execution #1
            12       store  completed 404 by attempt 1 (b k1)
            13     b ← 404  replayed;attempt=1;age=0;ttl=4  execution #1
            5010   c → g1  POST k1 p1
            5011     g1 → store  claim (c k1)
            5012     store  granted attempt 1 (c k1)
            5013   c → upstream  attempt 1
            5015           upstream executes k1 p1 as #2
            5020     g1 → store  complete 201 (c k1)
            5021     store  settled (c k1)
            5022   c ← 201  executed;stored=?1;attempt=1;ttl=60  execution #2
            5110   d → g1  POST k2 p1
            5111     g1 → store  claim (d k2)
            5112     store  granted attempt 1 (d k2)
            5113   d → upstream  attempt 1
            5115           upstream executes k2 p1 as #3
            5120     g1 → store  mark unknown (d k2)
            5120   e → g1  POST k2 p1
            5121     store  settled (d k2)
            5121     g1 → store  claim (e k2)
            5122   d ← 201  executed;stored=?0;attempt=1;outcome=unknown  execution #3
            5122     store  unknown, attempt 1, wait 990 ms (e k2)
            5123   e ← 409  refused;attempt=1;reason=outcome-unknown
            6120   f → g1  POST k3 p1
            6121     g1 → store  claim (f k3)
            6122     store  granted attempt 1 (f k3)
            6123   f → upstream  attempt 1
            6125           upstream executes k3 p1 as #4
            6130     g1 → store  release (f k3)
            6130   g → g1  POST k3 p2
            6131     store  settled (f k3)
            6131     g1 → store  claim (g k3)
            6132   f ← 201  executed;stored=?0;attempt=1;outcome=released  execution #4
            6132     store  granted attempt 2 (g k3)
            6133   g → upstream  attempt 2
            6135           upstream executes k3 p2 as #5
            6140     g1 → store  complete 201 (g k3)
            6141     store  settled (g k3)
            6142   g ← 201  executed;stored=?1;attempt=2;ttl=60  execution #5
        "#]],
    );
}

#[test]
fn nothing_is_executed_for_a_client_that_hangs_up_while_its_claim_is_in_flight() {
    check(
        "policy: shielded
         store: delay 200ms
         a: POST k1 p1
         wait 100ms
         a: hangs up
         wait 1s
         b: POST k1 p1 g2",
        expect![[r#"
            0      a → g1  POST k1 p1
            1        g1 → store  claim (a k1)
            100    a hangs up
            100    a ← connection closed
            100      g1 → store  withdraw (a k1)
            101      store  settled (a k1)
            201      store  stale (a k1)
            700      g1 → store  withdraw (a k1)
            701      store  settled (a k1)
            1100   b → g2  POST k1 p1
            1101     g2 → store  claim (b k1)
            1102     store  granted attempt 1 (b k1)
            1103     g2 → upstream  attempt 1 (b)
            1105           upstream executes k1 p1 as #1
            1110     g2 ← upstream  201 (b)
            1110     g2 → store  complete 201 (b k1)
            1111     store  settled (b k1)
            1112   b ← 201  executed;stored=?1;attempt=1;ttl=60  execution #1
        "#]],
    );
}

#[test]
fn a_client_that_hangs_up_while_its_answer_is_being_stored_loses_nothing() {
    check(
        "policy: shielded
         store: ok
         store: delay 200ms
         a: POST k1 p1
         wait 100ms
         a: hangs up
         wait 1s
         b: POST k1 p1 g2",
        expect![[r#"
            0      a → g1  POST k1 p1
            1        g1 → store  claim (a k1)
            2        store  granted attempt 1 (a k1)
            3        g1 → upstream  attempt 1 (a)
            5              upstream executes k1 p1 as #1
            10       g1 ← upstream  201 (a)
            10       g1 → store  complete 201 (a k1)
            100    a hangs up
            100    a ← connection closed
            210      store  settled (a k1)
            1100   b → g2  POST k1 p1
            1101     g2 → store  claim (b k1)
            1102     store  completed 201 by attempt 1 (b k1)
            1103   b ← 201  replayed;attempt=1;age=0;ttl=59  execution #1
        "#]],
    );
}

#[test]
fn who_is_answered_by_envoy_itself_is_told_that_it_was_executed() {
    check(
        "policy: shielded
         upstream: 201 after 300ms
         a: POST k1 p1
         wait 100ms
         a: times out
         store: ok
         store: delay 200ms
         b: POST k2 p1
         wait 100ms
         b: times out
         wait 1s
         c: POST k1 p1
         d: POST k2 p1",
        expect![[r#"
            0      a → g1  POST k1 p1
            1        g1 → store  claim (a k1)
            2        store  granted attempt 1 (a k1)
            3        g1 → upstream  attempt 1 (a)
            5              upstream executes k1 p1 as #1
            100    a Envoy answers 408 by itself
            100    b → g1  POST k2 p1
            100    a ← 408  executed;stored=?0;attempt=1;outcome=unknown
            101      g1 → store  claim (b k2)
            102      store  granted attempt 1 (b k2)
            103      g1 → upstream  attempt 1 (b)
            105            upstream executes k2 p1 as #2
            110      g1 ← upstream  201 (b)
            110      g1 → store  complete 201 (b k2)
            200    b Envoy answers 408 by itself
            200    b ← 408  executed;stored=?0;attempt=1;outcome=completed
            305      g1 ← upstream  201 (a)
            305      g1 → store  complete 201 (a k1)
            306      store  settled (a k1)
            310      store  settled (b k2)
            1200   c → g1  POST k1 p1
            1200   d → g1  POST k2 p1
            1201     g1 → store  claim (c k1)
            1201     g1 → store  claim (d k2)
            1202     store  completed 201 by attempt 1 (c k1)
            1202     store  completed 201 by attempt 1 (d k2)
            1203   d ← 201  replayed;attempt=1;age=0;ttl=59  execution #2
            1203   c ← 201  replayed;attempt=1;age=0;ttl=59  execution #1
        "#]],
    );
}

#[test]
fn a_response_that_trickles_is_let_go_at_the_end_of_its_running_time() {
    check(
        "upstream: 201 trickles 5s
         a: POST k1 p1
         wait 2500ms
         b: POST k1 p1 g2
         wait 3s
         c: POST k1 p1",
        expect![[r#"
            0      a → g1  POST k1 p1
            1        g1 → store  claim (a k1)
            2        store  granted attempt 1 (a k1)
            3      a → upstream  attempt 1
            5              upstream executes k1 p1 as #1
            400      g1 → store  renew (a k1)
            401      store  renewed (a k1)
            800      g1 → store  renew (a k1)
            801      store  renewed (a k1)
            1200     g1 → store  renew (a k1)
            1201     store  renewed (a k1)
            1600     g1 → store  renew (a k1)
            1601     store  renewed (a k1)
            2000     g1 → store  renew (a k1)
            2001     store  renewed (a k1)
            2100     g1 → store  complete 201 without its response (a k1)
            2101     store  settled (a k1)
            2500   b → g2  POST k1 p1
            2501     g2 → store  claim (b k1)
            2502     store  completed 201 by attempt 1, not replayable (b k1)
            2503   b ← 409  refused;attempt=1;reason=not-replayable
            5010   a ← 201  executed;stored=?0;attempt=1;outcome=completed  execution #1
            5500   c → g1  POST k1 p1
            5501     g1 → store  claim (c k1)
            5502     store  completed 201 by attempt 1, not replayable (c k1)
            5503   c ← 409  refused;attempt=1;reason=not-replayable
        "#]],
    );
}
