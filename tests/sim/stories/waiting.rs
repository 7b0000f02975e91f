//! Duplicates that wait.
//!
//! Its one rule: each is a script and its whole transcript; `mod.rs` says how a script is written.

use expect_test::expect;

use super::check;

#[test]
fn a_duplicate_that_waits_gets_the_answer_of_the_attempt_that_runs() {
    check(
        "policy: wait 10s
         upstream: 201 after 300ms
         a: POST k1 p1
         wait 20ms
         b: POST k1 p1
         c: POST k1 p1 g2
         d: POST k1 p2 g2
         wait 2s",
        expect![[r#"
            0      a → g1  POST k1 p1
            1        g1 → store  claim (a k1)
            2        store  granted attempt 1 (a k1)
            3      a → upstream  attempt 1
            5              upstream executes k1 p1 as #1
            20     b → g1  POST k1 p1
            20     c → g2  POST k1 p1
            20     d → g2  POST k1 p2
            21       g1 → store  claim (b k1)
            21       g2 → store  claim (c k1)
            21       g2 → store  claim (d k1)
            22       store  in flight, attempt 1 (b k1)
            22       store  in flight, attempt 1 (c k1)
            22       store  mismatch (d k1)
            23     d ← 409  refused;reason=mismatch
            100      g1 → store  poll up to attempt 2 (one who waits k1)
            101      store  in flight, attempt 1 (one who waits k1)
            107      g2 → store  poll up to attempt 2 (one who waits k1)
            108      store  in flight, attempt 1 (one who waits k1)
            300      g1 → store  poll up to attempt 2 (one who waits k1)
            301      store  in flight, attempt 1 (one who waits k1)
            305      g1 → store  complete 201 (a k1)
            306      store  settled (a k1)
            307      g2 → store  poll up to attempt 2 (one who waits k1)
            307      g1 → store  poll up to attempt 2 (one who waits k1)
            307    a ← 201  executed;stored=?1;attempt=1;ttl=60  execution #1
            308      store  completed 201 by attempt 1 (one who waits k1)
            308      store  completed 201 by attempt 1 (one who waits k1)
            309    c ← 201  replayed;attempt=1;age=0;ttl=59  execution #1
            309    b ← 201  replayed;attempt=1;age=0;ttl=59  execution #1
        "#]],
    );
}

#[test]
fn after_an_attempt_that_failed_one_of_those_who_wait_takes_over_and_the_others_get_its_answer() {
    check(
        "policy: wait 10s
         upstream: 503 after 300ms
         upstream: 201 after 300ms
         a: POST k1 p1
         wait 20ms
         b: POST k1 p1
         c: POST k1 p1 g2
         wait 2s",
        expect![[r#"
            0      a → g1  POST k1 p1
            1        g1 → store  claim (a k1)
            2        store  granted attempt 1 (a k1)
            3      a → upstream  attempt 1
            5              upstream executes k1 p1 as #1
            20     b → g1  POST k1 p1
            20     c → g2  POST k1 p1
            21       g1 → store  claim (b k1)
            21       g2 → store  claim (c k1)
            22       store  in flight, attempt 1 (b k1)
            22       store  in flight, attempt 1 (c k1)
            100      g1 → store  poll up to attempt 2 (one who waits k1)
            101      store  in flight, attempt 1 (one who waits k1)
            107      g2 → store  poll up to attempt 2 (one who waits k1)
            108      store  in flight, attempt 1 (one who waits k1)
            300      g1 → store  poll up to attempt 2 (one who waits k1)
            301      store  in flight, attempt 1 (one who waits k1)
            305      g1 → store  release for the same payload (a k1)
            306      store  settled (a k1)
            307      g2 → store  poll up to attempt 2 (one who waits k1)
            307      g1 → store  poll up to attempt 2 (one who waits k1)
            307    a ← 503  executed;stored=?0;attempt=1;outcome=retry  execution #1
            308      store  granted attempt 2 (one who waits k1)
            308      store  in flight, attempt 2 (one who waits k1)
            309    c → upstream  attempt 2
            311            upstream executes k1 p1 as #2
            611      g2 → store  complete 201 (one who waits k1)
            612      store  settled (one who waits k1)
            613    c ← 201  executed;stored=?1;attempt=2;ttl=60  execution #2
            800      g1 → store  poll up to attempt 2 (one who waits k1)
            801      store  completed 201 by attempt 2 (one who waits k1)
            802    b ← 201  replayed;attempt=2;age=0;ttl=59  execution #2
        "#]],
    );
}

#[test]
fn a_waiter_is_refused_after_two_attempts_ended_without_a_replayable_response() {
    check(
        "policy: wait 10s
         upstream: 503 after 300ms
         upstream: 503 after 300ms
         a: POST k1 p1
         wait 20ms
         b: POST k1 p1
         c: POST k1 p1 g2
         wait 2s",
        expect![[r#"
            0      a → g1  POST k1 p1
            1        g1 → store  claim (a k1)
            2        store  granted attempt 1 (a k1)
            3      a → upstream  attempt 1
            5              upstream executes k1 p1 as #1
            20     b → g1  POST k1 p1
            20     c → g2  POST k1 p1
            21       g1 → store  claim (b k1)
            21       g2 → store  claim (c k1)
            22       store  in flight, attempt 1 (b k1)
            22       store  in flight, attempt 1 (c k1)
            100      g1 → store  poll up to attempt 2 (one who waits k1)
            101      store  in flight, attempt 1 (one who waits k1)
            107      g2 → store  poll up to attempt 2 (one who waits k1)
            108      store  in flight, attempt 1 (one who waits k1)
            300      g1 → store  poll up to attempt 2 (one who waits k1)
            301      store  in flight, attempt 1 (one who waits k1)
            305      g1 → store  release for the same payload (a k1)
            306      store  settled (a k1)
            307      g2 → store  poll up to attempt 2 (one who waits k1)
            307      g1 → store  poll up to attempt 2 (one who waits k1)
            307    a ← 503  executed;stored=?0;attempt=1;outcome=retry  execution #1
            308      store  granted attempt 2 (one who waits k1)
            308      store  in flight, attempt 2 (one who waits k1)
            309    c → upstream  attempt 2
            311            upstream executes k1 p1 as #2
            611      g2 → store  release for the same payload (one who waits k1)
            612      store  settled (one who waits k1)
            613    c ← 503  executed;stored=?0;attempt=2;outcome=retry  execution #2
            800      g1 → store  poll up to attempt 2 (one who waits k1)
            801      store  exhausted by attempt 2 (one who waits k1)
            802    b ← 429  refused;attempt=2;reason=in-flight
        "#]],
    );
}

#[test]
fn a_waiter_is_refused_at_its_deadline_and_the_answer_is_stored_all_the_same() {
    check(
        "policy: wait 300ms
         upstream: 201 after 900ms
         a: POST k1 p1
         wait 20ms
         b: POST k1 p1 g2
         wait 2s
         c: POST k1 p1 g2",
        expect![[r#"
            0      a → g1  POST k1 p1
            1        g1 → store  claim (a k1)
            2        store  granted attempt 1 (a k1)
            3      a → upstream  attempt 1
            5              upstream executes k1 p1 as #1
            20     b → g2  POST k1 p1
            21       g2 → store  claim (b k1)
            22       store  in flight, attempt 1 (b k1)
            107      g2 → store  poll up to attempt 2 (one who waits k1)
            108      store  in flight, attempt 1 (one who waits k1)
            307      g2 → store  poll up to attempt 2 (one who waits k1)
            308      store  in flight, attempt 1 (one who waits k1)
            400      g1 → store  renew (a k1)
            401      store  renewed (a k1)
            407    b ← 429  refused;attempt=1;reason=in-flight
            800      g1 → store  renew (a k1)
            801      store  renewed (a k1)
            905      g1 → store  complete 201 (a k1)
            906      store  settled (a k1)
            907    a ← 201  executed;stored=?1;attempt=1;ttl=60  execution #1
            2020   c → g2  POST k1 p1
            2021     g2 → store  claim (c k1)
            2022     store  completed 201 by attempt 1 (c k1)
            2023   c ← 201  replayed;attempt=1;age=1;ttl=58  execution #1
        "#]],
    );
}

#[test]
fn an_unknown_outcome_is_told_at_once_to_all_who_wait() {
    check(
        "policy: wait 10s
         upstream: reset after 300ms
         a: POST k1 p1
         wait 20ms
         b: POST k1 p1
         c: POST k1 p1 g2
         wait 2s
         d: POST k1 p1",
        expect![[r#"
            0      a → g1  POST k1 p1
            1        g1 → store  claim (a k1)
            2        store  granted attempt 1 (a k1)
            3      a → upstream  attempt 1
            5              upstream executes k1 p1 as #1
            20     b → g1  POST k1 p1
            20     c → g2  POST k1 p1
            21       g1 → store  claim (b k1)
            21       g2 → store  claim (c k1)
            22       store  in flight, attempt 1 (b k1)
            22       store  in flight, attempt 1 (c k1)
            100      g1 → store  poll up to attempt 2 (one who waits k1)
            101      store  in flight, attempt 1 (one who waits k1)
            107      g2 → store  poll up to attempt 2 (one who waits k1)
            108      store  in flight, attempt 1 (one who waits k1)
            300      g1 → store  poll up to attempt 2 (one who waits k1)
            301      store  in flight, attempt 1 (one who waits k1)
            305      g1 → store  mark unknown (a k1)
            306      store  settled (a k1)
            307      g2 → store  poll up to attempt 2 (one who waits k1)
            307      g1 → store  poll up to attempt 2 (one who waits k1)
            307    a ← 503  executed;stored=?0;attempt=1;outcome=unknown
            308      store  unknown, attempt 1, wait 694 ms (one who waits k1)
            308      store  unknown, attempt 1, wait 694 ms (one who waits k1)
            309    c ← 409  refused;attempt=1;reason=outcome-unknown
            309    b ← 409  refused;attempt=1;reason=outcome-unknown
            2020   d → g1  POST k1 p1
            2021     g1 → store  claim (d k1)
            2022     store  granted attempt 2, in doubt (d k1)
            2023   d → upstream  attempt 2
            2025           upstream executes k1 p1 as #2
            2030     g1 → store  complete 201 (d k1)
            2031     store  settled (d k1)
            2032   d ← 201  executed;stored=?1;attempt=2;ttl=60  execution #2
        "#]],
    );
}

#[test]
fn a_waiter_that_hangs_up_is_forgotten() {
    check(
        "policy: wait 10s
         upstream: 503 after 300ms
         a: POST k1 p1
         wait 20ms
         b: POST k1 p1 g2
         wait 100ms
         b: hangs up
         wait 2s
         c: POST k1 p1",
        expect![[r#"
            0      a → g1  POST k1 p1
            1        g1 → store  claim (a k1)
            2        store  granted attempt 1 (a k1)
            3      a → upstream  attempt 1
            5              upstream executes k1 p1 as #1
            20     b → g2  POST k1 p1
            21       g2 → store  claim (b k1)
            22       store  in flight, attempt 1 (b k1)
            107      g2 → store  poll up to attempt 2 (one who waits k1)
            108      store  in flight, attempt 1 (one who waits k1)
            120    b hangs up
            120    b ← connection closed
            305      g1 → store  release for the same payload (a k1)
            306      store  settled (a k1)
            307    a ← 503  executed;stored=?0;attempt=1;outcome=retry  execution #1
            2120   c → g1  POST k1 p1
            2121     g1 → store  claim (c k1)
            2122     store  granted attempt 2 (c k1)
            2123   c → upstream  attempt 2
            2125           upstream executes k1 p1 as #2
            2130     g1 → store  complete 201 (c k1)
            2131     store  settled (c k1)
            2132   c ← 201  executed;stored=?1;attempt=2;ttl=60  execution #2
        "#]],
    );
}

#[test]
fn a_waiter_that_hangs_up_while_it_asks_again_executes_nothing() {
    check(
        "policy: wait 10s
         upstream: 503 after 100ms
         a: POST k1 p1
         wait 20ms
         b: POST k1 p1 g2
         wait 50ms
         store: ok
         store: delay 200ms
         wait 100ms
         b: hangs up
         wait 2s
         c: POST k1 p1",
        expect![[r#"
            0      a → g1  POST k1 p1
            1        g1 → store  claim (a k1)
            2        store  granted attempt 1 (a k1)
            3      a → upstream  attempt 1
            5              upstream executes k1 p1 as #1
            20     b → g2  POST k1 p1
            21       g2 → store  claim (b k1)
            22       store  in flight, attempt 1 (b k1)
            105      g1 → store  release for the same payload (a k1)
            106      store  settled (a k1)
            107      g2 → store  poll up to attempt 2 (one who waits k1)
            107    a ← 503  executed;stored=?0;attempt=1;outcome=retry  execution #1
            170    b hangs up
            170    b ← connection closed
            170      g2 → store  withdraw (one who waits k1)
            171      store  lost (one who waits k1)
            307      store  stale (one who waits k1)
            707      g2 → store  withdraw (one who waits k1)
            708      store  settled (one who waits k1)
            2170   c → g1  POST k1 p1
            2171     g1 → store  claim (c k1)
            2172     store  granted attempt 2 (c k1)
            2173   c → upstream  attempt 2
            2175           upstream executes k1 p1 as #2
            2180     g1 → store  complete 201 (c k1)
            2181     store  settled (c k1)
            2182   c ← 201  executed;stored=?1;attempt=2;ttl=60  execution #2
        "#]],
    );
}

#[test]
fn those_who_wait_hear_of_an_unknown_outcome_when_the_gateway_of_the_first_has_crashed() {
    check(
        "policy: wait 10s
         upstream: 201 after 300ms
         a: POST k1 p1
         wait 20ms
         b: POST k1 p1 g2
         wait 100ms
         g1: crashes
         wait 3s
         c: POST k1 p1 g2",
        expect![[r#"
            0      a → g1  POST k1 p1
            1        g1 → store  claim (a k1)
            2        store  granted attempt 1 (a k1)
            3      a → upstream  attempt 1
            5              upstream executes k1 p1 as #1
            20     b → g2  POST k1 p1
            21       g2 → store  claim (b k1)
            22       store  in flight, attempt 1 (b k1)
            107      g2 → store  poll up to attempt 2 (one who waits k1)
            108      store  in flight, attempt 1 (one who waits k1)
            120    g1 crashes
            120    a ← connection closed
            220    g1 is back
            307      g2 → store  poll up to attempt 2 (one who waits k1)
            308      store  in flight, attempt 1 (one who waits k1)
            607      g2 → store  poll up to attempt 2 (one who waits k1)
            608      store  in flight, attempt 1 (one who waits k1)
            1107     g2 → store  poll up to attempt 2 (one who waits k1)
            1108     store  unknown, attempt 1, wait 0 ms (one who waits k1)
            1109   b ← 409  refused;attempt=1;reason=outcome-unknown
            3120   c → g2  POST k1 p1
            3121     g2 → store  claim (c k1)
            3122     store  granted attempt 2, in doubt (c k1)
            3123   c → upstream  attempt 2
            3125           upstream executes k1 p1 as #2
            3130     g2 → store  complete 201 (c k1)
            3131     store  settled (c k1)
            3132   c ← 201  executed;stored=?1;attempt=2;ttl=60  execution #2
        "#]],
    );
}

#[test]
fn who_waits_is_answered_though_the_store_stands_still() {
    check(
        "policy: wait 10s
         upstream: 201 after 300ms
         a: POST k1 p1
         wait 20ms
         b: POST k1 p1
         c: POST k1 p1 g2
         wait 30ms
         store: stops 3s
         wait 6s
         d: POST k1 p1 g2",
        expect![[r#"
            0      a → g1  POST k1 p1
            1        g1 → store  claim (a k1)
            2        store  granted attempt 1 (a k1)
            3      a → upstream  attempt 1
            5              upstream executes k1 p1 as #1
            20     b → g1  POST k1 p1
            20     c → g2  POST k1 p1
            21       g1 → store  claim (b k1)
            21       g2 → store  claim (c k1)
            22       store  in flight, attempt 1 (b k1)
            22       store  in flight, attempt 1 (c k1)
            100      g1 → store  poll up to attempt 2 (one who waits k1)
            107      g2 → store  poll up to attempt 2 (one who waits k1)
            305      g1 → store  complete 201 (a k1)
            500      g1 → store  poll up to attempt 2 (one who waits k1)
            507      g2 → store  poll up to attempt 2 (one who waits k1)
            700      g1 → store  complete 201 (a k1)
            800      g1 → store  withdraw (one who waits k1)
            800    b ← 503  refused;reason=store-unavailable
            807      g2 → store  withdraw (one who waits k1)
            807    c ← 503  refused;reason=store-unavailable
            1000   a ← 201  executed;stored=?0;attempt=1;outcome=completed  execution #1
            1107     g2 → store  withdraw (one who waits k1)
            1507     g2 → store  withdraw (one who waits k1)
            2100     g1 → store  complete 201 (a k1)
            2807     g2 → store  withdraw (one who waits k1)
            3050     store  unknown, attempt 1, wait 0 ms (one who waits k1)
            3050     store  unknown, attempt 1, wait 0 ms (one who waits k1)
            3050     store  settled (a k1)
            3050     store  completed 201 by attempt 1 (one who waits k1)
            3050     store  completed 201 by attempt 1 (one who waits k1)
            3050     store  settled (a k1)
            3050     store  lost (one who waits k1)
            3050     store  lost (one who waits k1)
            3050     store  lost (one who waits k1)
            3050     store  lost (one who waits k1)
            3050     store  settled (a k1)
            3050     store  lost (one who waits k1)
            3400     g1 → store  complete 201 (a k1)
            3401     store  settled (a k1)
            3402     g1 → store  withdraw (one who waits k1)
            3403     store  lost (one who waits k1)
            3607     g2 → store  withdraw (one who waits k1)
            3608     store  lost (one who waits k1)
            4000     g1 → store  withdraw (one who waits k1)
            4001     store  lost (one who waits k1)
            6050   d → g2  POST k1 p1
            6051     g2 → store  claim (d k1)
            6052     store  completed 201 by attempt 1 (d k1)
            6053   d ← 201  replayed;attempt=1;age=3;ttl=56  execution #1
        "#]],
    );
}
