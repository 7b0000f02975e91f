//! Requests for one resource, one at a time. Keys of the same parity are about one.
//!
//! Its one rule: each is a script and its whole transcript; `mod.rs` says how a script is written.

use expect_test::expect;

use super::check;

#[test]
fn requests_for_one_resource_take_turns_in_the_order_in_which_they_came() {
    check(
        "policy: one at a time 10s
         upstream: 201 after 300ms
         a: POST k1 p1
         wait 20ms
         b: POST k3 p1
         wait 20ms
         c: POST k5 p1
         d: POST k2 p1
         wait 2s",
        expect![[r#"
            0      a → g1  POST k1 p1
            1        g1 → store  claim (a k1)
            2        store  granted attempt 1 (a k1)
            3        g1 → store  lock (a k1)
            4        store  locked under 1700000000004 (a k1)
            5      a → upstream  attempt 1
            7              upstream executes k1 p1 as #1
            20     b → g1  POST k3 p1
            21       g1 → store  claim (b k3)
            22       store  granted attempt 1 (b k3)
            23       g1 → store  lock (b k1)
            24       store  busy, 980 ms left (b k1)
            40     c → g1  POST k5 p1
            40     d → g1  POST k2 p1
            41       g1 → store  claim (c k5)
            41       g1 → store  claim (d k2)
            42       store  granted attempt 1 (c k5)
            42       store  granted attempt 1 (d k2)
            43       g1 → store  lock (d k2)
            44       store  locked under 1700000000044 (d k2)
            45     d → upstream  attempt 1
            47             upstream executes k2 p1 as #2
            52       g1 → store  complete 201 (d k2)
            53       store  settled (d k2)
            54       g1 → store  unlock under 1700000000044 (d k2)
            54     d ← 201  executed;stored=?1;attempt=1;ttl=60  execution #2
            55       store  settled (d k2)
            100      g1 → store  lock (b k1)
            101      store  busy, 903 ms left (b k1)
            200      g1 → store  lock (b k1)
            201      store  busy, 803 ms left (b k1)
            300      g1 → store  lock (b k1)
            301      store  busy, 703 ms left (b k1)
            307      g1 → store  complete 201 (a k1)
            308      store  settled (a k1)
            309      g1 → store  unlock under 1700000000004 (a k1)
            309    a ← 201  executed;stored=?1;attempt=1;ttl=60  execution #1
            310      store  settled (a k1)
            311      g1 → store  lock (b k1)
            312      store  locked under 1700000000312 (b k1)
            313    b → upstream  attempt 1
            315            upstream executes k3 p1 as #3
            320      g1 → store  complete 201 (b k3)
            321      store  settled (b k3)
            322      g1 → store  unlock under 1700000000312 (b k1)
            322    b ← 201  executed;stored=?1;attempt=1;ttl=60  execution #3
            323      store  settled (b k1)
            324      g1 → store  lock (c k1)
            325      store  locked under 1700000000325 (c k1)
            326    c → upstream  attempt 1
            328            upstream executes k5 p1 as #4
            333      g1 → store  complete 201 (c k5)
            334      store  settled (c k5)
            335      g1 → store  unlock under 1700000000325 (c k1)
            335    c ← 201  executed;stored=?1;attempt=1;ttl=60  execution #4
            336      store  settled (c k1)
        "#]],
    );
}

#[test]
fn who_finds_the_resource_held_by_another_gateway_asks_until_it_is_free_or_the_wait_is_over() {
    check(
        "policy: one at a time 400ms
         upstream: 201 after 300ms
         upstream: 201 after 600ms
         a: POST k1 p1
         wait 20ms
         b: POST k3 p1 g2
         wait 200ms
         c: POST k5 p1
         wait 2s",
        expect![[r#"
            0      a → g1  POST k1 p1
            1        g1 → store  claim (a k1)
            2        store  granted attempt 1 (a k1)
            3        g1 → store  lock (a k1)
            4        store  locked under 1700000000004 (a k1)
            5      a → upstream  attempt 1
            7              upstream executes k1 p1 as #1
            20     b → g2  POST k3 p1
            21       g2 → store  claim (b k3)
            22       store  granted attempt 1 (b k3)
            23       g2 → store  lock (b k1)
            24       store  busy, 980 ms left (b k1)
            107      g2 → store  lock (b k1)
            108      store  busy, 896 ms left (b k1)
            207      g2 → store  lock (b k1)
            208      store  busy, 796 ms left (b k1)
            220    c → g1  POST k5 p1
            221      g1 → store  claim (c k5)
            222      store  granted attempt 1 (c k5)
            223      g1 → store  lock (c k1)
            224      store  busy, 780 ms left (c k1)
            300      g1 → store  lock (c k1)
            301      store  busy, 703 ms left (c k1)
            307      g2 → store  lock (b k1)
            307      g1 → store  complete 201 (a k1)
            308      store  busy, 696 ms left (b k1)
            308      store  settled (a k1)
            309      g1 → store  unlock under 1700000000004 (a k1)
            309    a ← 201  executed;stored=?1;attempt=1;ttl=60  execution #1
            310      store  settled (a k1)
            311      g1 → store  lock (c k1)
            312      store  locked under 1700000000312 (c k1)
            313    c → upstream  attempt 1
            315            upstream executes k5 p1 as #2
            407      g2 → store  renew (b k3)
            407      g2 → store  lock (b k1)
            408      store  renewed (b k3)
            408      store  busy, 904 ms left (b k1)
            507      g2 → store  withdraw (b k3)
            507      g2 → store  take the lock back (b k1)
            507    b ← 429  refused;reason=resource-busy
            508      store  settled (b k3)
            508      store  lost (b k1)
            600      g1 → store  renew (c k5)
            600      g1 → store  renew lock under 1700000000312 (c k1)
            601      store  renewed (c k5)
            601      store  locked under 1700000000312 (c k1)
            915      g1 → store  complete 201 (c k5)
            916      store  settled (c k5)
            917      g1 → store  unlock under 1700000000312 (c k1)
            917    c ← 201  executed;stored=?1;attempt=1;ttl=60  execution #2
            918      store  settled (c k1)
            1107     g2 → store  withdraw (b k3)
            1107     g2 → store  take the lock back (b k1)
            1108     store  settled (b k3)
            1108     store  lost (b k1)
        "#]],
    );
}

#[test]
fn a_client_that_hangs_up_while_it_waits_takes_its_claim_back() {
    check(
        "policy: one at a time 10s
         upstream: 201 after 300ms
         a: POST k1 p1
         wait 20ms
         b: POST k3 p1 g2
         wait 20ms
         b: hangs up
         c: POST k3 p2 g2
         wait 2s",
        expect![[r#"
            0      a → g1  POST k1 p1
            1        g1 → store  claim (a k1)
            2        store  granted attempt 1 (a k1)
            3        g1 → store  lock (a k1)
            4        store  locked under 1700000000004 (a k1)
            5      a → upstream  attempt 1
            7              upstream executes k1 p1 as #1
            20     b → g2  POST k3 p1
            21       g2 → store  claim (b k3)
            22       store  granted attempt 1 (b k3)
            23       g2 → store  lock (b k1)
            24       store  busy, 980 ms left (b k1)
            40     b hangs up
            40     b ← connection closed
            40     c → g2  POST k3 p2
            40       g2 → store  withdraw (b k3)
            40       g2 → store  take the lock back (b k1)
            41       store  settled (b k3)
            41       store  lost (b k1)
            42       g2 → store  claim (c k3)
            43       store  granted attempt 2 (c k3)
            44       g2 → store  lock (c k1)
            45       store  busy, 959 ms left (c k1)
            107      g2 → store  lock (c k1)
            108      store  busy, 896 ms left (c k1)
            207      g2 → store  lock (c k1)
            208      store  busy, 796 ms left (c k1)
            307      g2 → store  lock (c k1)
            307      g1 → store  complete 201 (a k1)
            308      store  busy, 696 ms left (c k1)
            308      store  settled (a k1)
            309      g1 → store  unlock under 1700000000004 (a k1)
            309    a ← 201  executed;stored=?1;attempt=1;ttl=60  execution #1
            310      store  settled (a k1)
            407      g2 → store  renew (c k3)
            407      g2 → store  lock (c k1)
            408      store  renewed (c k3)
            408      store  locked under 1700000000408 (c k1)
            409    c → upstream  attempt 2
            411            upstream executes k3 p2 as #2
            416      g2 → store  complete 201 (c k3)
            417      store  settled (c k3)
            418      g2 → store  unlock under 1700000000408 (c k1)
            418    c ← 201  executed;stored=?1;attempt=2;ttl=60  execution #2
            419      store  settled (c k1)
            607      g2 → store  withdraw (b k3)
            607      g2 → store  take the lock back (b k1)
            608      store  lost (b k3)
            608      store  lost (b k1)
        "#]],
    );
}

#[test]
fn the_lock_of_a_gateway_that_crashed_is_the_nexts_once_its_lease_is_over() {
    check(
        "policy: one at a time 10s, lease 1s
         upstream: 201 after 5s
         a: POST k1 p1
         wait 20ms
         g1: crashes
         b: POST k3 p1 g2
         wait 3s",
        expect![[r#"
            0      a → g1  POST k1 p1
            1        g1 → store  claim (a k1)
            2        store  granted attempt 1 (a k1)
            3        g1 → store  lock (a k1)
            4        store  locked under 1700000000004 (a k1)
            5      a → upstream  attempt 1
            7              upstream executes k1 p1 as #1
            20     g1 crashes
            20     a ← connection closed
            20     b → g2  POST k3 p1
            21       g2 → store  claim (b k3)
            22       store  granted attempt 1 (b k3)
            23       g2 → store  lock (b k1)
            24       store  busy, 980 ms left (b k1)
            107      g2 → store  lock (b k1)
            108      store  busy, 896 ms left (b k1)
            120    g1 is back
            207      g2 → store  lock (b k1)
            208      store  busy, 796 ms left (b k1)
            307      g2 → store  lock (b k1)
            308      store  busy, 696 ms left (b k1)
            407      g2 → store  renew (b k3)
            407      g2 → store  lock (b k1)
            408      store  renewed (b k3)
            408      store  busy, 596 ms left (b k1)
            507      g2 → store  lock (b k1)
            508      store  busy, 496 ms left (b k1)
            607      g2 → store  lock (b k1)
            608      store  busy, 396 ms left (b k1)
            707      g2 → store  lock (b k1)
            708      store  busy, 296 ms left (b k1)
            807      g2 → store  renew (b k3)
            807      g2 → store  lock (b k1)
            808      store  renewed (b k3)
            808      store  busy, 196 ms left (b k1)
            907      g2 → store  lock (b k1)
            908      store  busy, 96 ms left (b k1)
            1007     g2 → store  lock (b k1)
            1008     store  locked under 1700000001008 (b k1)
            1009   b → upstream  attempt 1
            1011           upstream executes k3 p1 as #2
            1016     g2 → store  complete 201 (b k3)
            1017     store  settled (b k3)
            1018     g2 → store  unlock under 1700000001008 (b k1)
            1018   b ← 201  executed;stored=?1;attempt=1;ttl=60  execution #2
            1019     store  settled (b k1)
        "#]],
    );
}

#[test]
fn a_lock_whose_answer_got_lost_is_taken_back_where_no_try_of_it_is_answered() {
    check(
        "policy: one at a time 10s, forward
         store: ok
         store: lose reply
         store: lose reply
         a: POST k1 p1
         wait 2s
         b: POST k3 p1
         wait 1s",
        expect![[r#"
            0      a → g1  POST k1 p1
            1        g1 → store  claim (a k1)
            2        store  granted attempt 1 (a k1)
            3        g1 → store  lock (a k1)
            4        store  locked under 1700000000004 (a k1)
            4             the reply is lost
            400      g1 → store  lock (a k1)
            400      g1 → store  renew (a k1)
            401      store  locked under 1700000000004 (a k1)
            401      store  renewed (a k1)
            401           the reply is lost
            700      g1 → store  withdraw (a k1)
            700      g1 → store  take the lock back (a k1)
            700    a ← 503  refused;reason=store-unavailable
            701      store  settled (a k1)
            701      store  settled (a k1)
            800      g1 → store  renew (a k1)
            801      store  lost (a k1)
            1300     g1 → store  withdraw (a k1)
            1300     g1 → store  take the lock back (a k1)
            1301     store  settled (a k1)
            1301     store  settled (a k1)
            2000   b → g1  POST k3 p1
            2001     g1 → store  claim (b k3)
            2002     store  granted attempt 1 (b k3)
            2003     g1 → store  lock (b k1)
            2004     store  locked under 1700000002004 (b k1)
            2005   b → upstream  attempt 1
            2007           upstream executes k3 p1 as #1
            2012     g1 → store  complete 201 (b k3)
            2013     store  settled (b k3)
            2014     g1 → store  unlock under 1700000002004 (b k1)
            2014   b ← 201  executed;stored=?1;attempt=1;ttl=60  execution #1
            2015     store  settled (b k1)
        "#]],
    );
}

#[test]
fn a_gateway_that_stopped_for_longer_than_the_lease_tells_that_another_has_had_its_turn() {
    check(
        "policy: one at a time 10s, lease 1s
         upstream: 201 after 100ms
         a: POST k1 p1
         wait 20ms
         g1: stops 2s
         b: POST k3 p1 g2
         wait 4s",
        expect![[r#"
            0      a → g1  POST k1 p1
            1        g1 → store  claim (a k1)
            2        store  granted attempt 1 (a k1)
            3        g1 → store  lock (a k1)
            4        store  locked under 1700000000004 (a k1)
            5      a → upstream  attempt 1
            7              upstream executes k1 p1 as #1
            20     g1 stops for 2000 ms
            20     b → g2  POST k3 p1
            21       g2 → store  claim (b k3)
            22       store  granted attempt 1 (b k3)
            23       g2 → store  lock (b k1)
            24       store  busy, 980 ms left (b k1)
            107      g2 → store  lock (b k1)
            108      store  busy, 896 ms left (b k1)
            207      g2 → store  lock (b k1)
            208      store  busy, 796 ms left (b k1)
            307      g2 → store  lock (b k1)
            308      store  busy, 696 ms left (b k1)
            407      g2 → store  renew (b k3)
            407      g2 → store  lock (b k1)
            408      store  renewed (b k3)
            408      store  busy, 596 ms left (b k1)
            507      g2 → store  lock (b k1)
            508      store  busy, 496 ms left (b k1)
            607      g2 → store  lock (b k1)
            608      store  busy, 396 ms left (b k1)
            707      g2 → store  lock (b k1)
            708      store  busy, 296 ms left (b k1)
            807      g2 → store  renew (b k3)
            807      g2 → store  lock (b k1)
            808      store  renewed (b k3)
            808      store  busy, 196 ms left (b k1)
            907      g2 → store  lock (b k1)
            908      store  busy, 96 ms left (b k1)
            1007     g2 → store  lock (b k1)
            1008     store  locked under 1700000001008 (b k1)
            1009   b → upstream  attempt 1
            1011           upstream executes k3 p1 as #2
            1016     g2 → store  complete 201 (b k3)
            1017     store  settled (b k3)
            1018     g2 → store  unlock under 1700000001008 (b k1)
            1018   b ← 201  executed;stored=?1;attempt=1;ttl=60  execution #2
            1019     store  settled (b k1)
            2020     g1 → store  mark unknown (a k1)
            2020     g1 → store  complete 201 (a k1)
            2021     store  settled (a k1)
            2021     store  settled (a k1)
            2022     g1 → store  unlock under 1700000000004 (a k1)
            2022   a ← 201  executed;stored=?1;attempt=1;ttl=60  execution #1
            2023     store  lost (a k1)
        "#]],
    );
}

#[test]
fn a_lock_found_held_after_a_try_without_an_answer_is_not_taken_back_from_who_gets_it_later() {
    check(
        "policy: one at a time 10s
         upstream: 201 after 410ms
         upstream: 201 after 600ms
         store: ok
         store: ok
         store: ok
         store: lose reply
         a: POST k1 p1
         wait 20ms
         b: POST k3 p1 g2
         wait 640ms
         c: POST k5 p1
         wait 2s",
        expect![[r#"
            0      a → g1  POST k1 p1
            1        g1 → store  claim (a k1)
            2        store  granted attempt 1 (a k1)
            3        g1 → store  lock (a k1)
            4        store  locked under 1700000000004 (a k1)
            5      a → upstream  attempt 1
            7              upstream executes k1 p1 as #1
            20     b → g2  POST k3 p1
            21       g2 → store  claim (b k3)
            22       store  granted attempt 1 (b k3)
            23       g2 → store  lock (b k1)
            24       store  busy, 980 ms left (b k1)
            24            the reply is lost
            400      g1 → store  renew (a k1)
            400      g1 → store  renew lock under 1700000000004 (a k1)
            401      store  renewed (a k1)
            401      store  locked under 1700000000004 (a k1)
            407      g2 → store  lock (b k1)
            407      g2 → store  renew (b k3)
            408      store  busy, 993 ms left (b k1)
            408      store  renewed (b k3)
            417      g1 → store  complete 201 (a k1)
            418      store  settled (a k1)
            419      g1 → store  unlock under 1700000000004 (a k1)
            419    a ← 201  executed;stored=?1;attempt=1;ttl=60  execution #1
            420      store  settled (a k1)
            507      g2 → store  lock (b k1)
            508      store  locked under 1700000000508 (b k1)
            509    b → upstream  attempt 1
            511            upstream executes k3 p1 as #2
            660    c → g1  POST k5 p1
            661      g1 → store  claim (c k5)
            662      store  granted attempt 1 (c k5)
            663      g1 → store  lock (c k1)
            664      store  busy, 844 ms left (c k1)
            800      g1 → store  lock (c k1)
            801      store  busy, 707 ms left (c k1)
            807      g2 → store  renew (b k3)
            807      g2 → store  renew lock under 1700000000508 (b k1)
            808      store  renewed (b k3)
            808      store  locked under 1700000000508 (b k1)
            900      g1 → store  lock (c k1)
            901      store  busy, 907 ms left (c k1)
            1000     g1 → store  renew (c k5)
            1000     g1 → store  lock (c k1)
            1001     store  renewed (c k5)
            1001     store  busy, 807 ms left (c k1)
            1100     g1 → store  lock (c k1)
            1101     store  busy, 707 ms left (c k1)
            1111     g2 → store  complete 201 (b k3)
            1112     store  settled (b k3)
            1113     g2 → store  unlock under 1700000000508 (b k1)
            1113   b ← 201  executed;stored=?1;attempt=1;ttl=60  execution #2
            1114     store  settled (b k1)
            1200     g1 → store  lock (c k1)
            1201     store  locked under 1700000001201 (c k1)
            1202   c → upstream  attempt 1
            1204           upstream executes k5 p1 as #3
            1209     g1 → store  complete 201 (c k5)
            1210     store  settled (c k5)
            1211     g1 → store  unlock under 1700000001201 (c k1)
            1211   c ← 201  executed;stored=?1;attempt=1;ttl=60  execution #3
            1212     store  settled (c k1)
        "#]],
    );
}

#[test]
fn an_operators_word_settles_an_operation_and_its_lock_ends_with_its_lease() {
    check(
        "policy: one at a time 10s, hold, lease 1s
         upstream: 201 after 300ms
         upstream: 201 after 5s
         z: POST k3 p1
         a: POST k1 p1
         wait 330ms
         g1: crashes
         wait 770ms
         operator: not run k1
         b: POST k1 p1 g2
         wait 2s",
        expect![[r#"
            0      z → g1  POST k3 p1
            0      a → g1  POST k1 p1
            1        g1 → store  claim, no retry (z k3)
            1        g1 → store  claim, no retry (a k1)
            2        store  granted attempt 1 (z k3)
            2        store  granted attempt 1 (a k1)
            3        g1 → store  lock (z k3)
            4        store  locked under 1700000000004 (z k3)
            5      z → upstream  attempt 1
            7              upstream executes k3 p1 as #1
            100      g1 → store  lock (a k3)
            101      store  busy, 903 ms left (a k3)
            200      g1 → store  lock (a k3)
            201      store  busy, 803 ms left (a k3)
            300      g1 → store  lock (a k3)
            301      store  busy, 703 ms left (a k3)
            307      g1 → store  complete 201 (z k3)
            308      store  settled (z k3)
            309      g1 → store  unlock under 1700000000004 (z k3)
            309    z ← 201  executed;stored=?1;attempt=1;ttl=60  execution #1
            310      store  settled (z k3)
            311      g1 → store  lock (a k3)
            312      store  locked under 1700000000312 (a k3)
            313    a → upstream  attempt 1
            315            upstream executes k1 p1 as #2
            330    g1 crashes
            330    a ← connection closed
            430    g1 is back
            1100   an operator says of k1: NotRun { attempt: 1 }; the store: settled
            1100   b → g2  POST k1 p1
            1101     g2 → store  claim, no retry (b k1)
            1102     store  granted attempt 2 (b k1)
            1103     g2 → store  lock (b k3)
            1104     store  busy, 208 ms left (b k3)
            1207     g2 → store  lock (b k3)
            1208     store  busy, 104 ms left (b k3)
            1307     g2 → store  lock (b k3)
            1308     store  busy, 4 ms left (b k3)
            1407     g2 → store  lock (b k3)
            1408     store  locked under 1700000001408 (b k3)
            1409   b → upstream  attempt 2
            1411           upstream executes k1 p1 as #3
            1416     g2 → store  complete 201 (b k1)
            1417     store  settled (b k1)
            1418     g2 → store  unlock under 1700000001408 (b k3)
            1418   b ← 201  executed;stored=?1;attempt=2;ttl=60  execution #3
            1419     store  settled (b k3)
        "#]],
    );
}
