//! Requests that the gateway itself sends upstream.
//!
//! Its one rule: each is a script and its whole transcript; `mod.rs` says how a script is written.

use expect_test::expect;

use super::check;

#[test]
fn an_inline_execution_whose_client_hangs_up_is_unknown_and_a_shielded_one_is_stored() {
    check(
        "upstream: 201 after 300ms
         a: POST k1 p1
         wait 100ms
         a: hangs up
         wait 500ms
         b: POST k1 p1 g2
         wait 1s
         c: POST k1 p1 g2",
        expect![[r#"
            0      a → g1  POST k1 p1
            1        g1 → store  claim (a k1)
            2        store  granted attempt 1 (a k1)
            3      a → upstream  attempt 1
            5              upstream executes k1 p1 as #1
            100    a hangs up
            100    a ← connection closed
            100      g1 → store  mark unknown (a k1)
            101      store  settled (a k1)
            600    b → g2  POST k1 p1
            601      g2 → store  claim (b k1)
            602      store  unknown, attempt 1, wait 400 ms (b k1)
            603    b ← 409  refused;attempt=1;reason=outcome-unknown
            1600   c → g2  POST k1 p1
            1601     g2 → store  claim (c k1)
            1602     store  granted attempt 2, in doubt (c k1)
            1603   c → upstream  attempt 2
            1605           upstream executes k1 p1 as #2
            1610     g2 → store  complete 201 (c k1)
            1611     store  settled (c k1)
            1612   c ← 201  executed;stored=?1;attempt=2;ttl=60  execution #2
        "#]],
    );
    check(
        "policy: shielded
         upstream: 201 after 300ms
         a: POST k1 p1
         wait 100ms
         a: hangs up
         b: POST k1 p1
         wait 500ms
         c: POST k1 p1 g2",
        expect![[r#"
            0      a → g1  POST k1 p1
            1        g1 → store  claim (a k1)
            2        store  granted attempt 1 (a k1)
            3        g1 → upstream  attempt 1 (a)
            5              upstream executes k1 p1 as #1
            100    a hangs up
            100    a ← connection closed
            100    b → g1  POST k1 p1
            101      g1 → store  claim (b k1)
            102      store  in flight, attempt 1 (b k1)
            103    b ← 429  refused;attempt=1;reason=in-flight
            305      g1 ← upstream  201 (a)
            305      g1 → store  complete 201 (a k1)
            306      store  settled (a k1)
            600    c → g2  POST k1 p1
            601      g2 → store  claim (c k1)
            602      store  completed 201 by attempt 1 (c k1)
            603    c ← 201  replayed;attempt=1;age=0;ttl=59  execution #1
        "#]],
    );
}

#[test]
fn who_waits_gets_the_answer_of_a_shielded_execution_whose_client_has_gone() {
    check(
        "policy: shielded, wait 10s
         upstream: 201 after 300ms
         a: POST k1 p1
         wait 20ms
         b: POST k1 p1
         c: POST k1 p1 g2
         wait 100ms
         a: hangs up
         wait 2s",
        expect![[r#"
            0      a → g1  POST k1 p1
            1        g1 → store  claim (a k1)
            2        store  granted attempt 1 (a k1)
            3        g1 → upstream  attempt 1 (a)
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
            120    a hangs up
            120    a ← connection closed
            300      g1 → store  poll up to attempt 2 (one who waits k1)
            301      store  in flight, attempt 1 (one who waits k1)
            305      g1 ← upstream  201 (a)
            305      g1 → store  complete 201 (a k1)
            306      store  settled (a k1)
            307      g2 → store  poll up to attempt 2 (one who waits k1)
            307      g1 → store  poll up to attempt 2 (one who waits k1)
            308      store  completed 201 by attempt 1 (one who waits k1)
            308      store  completed 201 by attempt 1 (one who waits k1)
            309    c ← 201  replayed;attempt=1;age=0;ttl=59  execution #1
            309    b ← 201  replayed;attempt=1;age=0;ttl=59  execution #1
        "#]],
    );
}

#[test]
fn who_waits_takes_over_after_a_shielded_execution_that_failed_though_its_client_has_gone() {
    check(
        "policy: shielded, wait 10s
         upstream: 503 after 300ms
         a: POST k1 p1
         wait 20ms
         b: POST k1 p1 g2
         wait 100ms
         a: hangs up
         wait 2s",
        expect![[r#"
            0      a → g1  POST k1 p1
            1        g1 → store  claim (a k1)
            2        store  granted attempt 1 (a k1)
            3        g1 → upstream  attempt 1 (a)
            5              upstream executes k1 p1 as #1
            20     b → g2  POST k1 p1
            21       g2 → store  claim (b k1)
            22       store  in flight, attempt 1 (b k1)
            107      g2 → store  poll up to attempt 2 (one who waits k1)
            108      store  in flight, attempt 1 (one who waits k1)
            120    a hangs up
            120    a ← connection closed
            305      g1 ← upstream  503 (a)
            305      g1 → store  release for the same payload (a k1)
            306      store  settled (a k1)
            307      g2 → store  poll up to attempt 2 (one who waits k1)
            308      store  granted attempt 2 (one who waits k1)
            309      g2 → upstream  attempt 2 (b)
            311            upstream executes k1 p1 as #2
            316      g2 ← upstream  201 (b)
            316      g2 → store  complete 201 (one who waits k1)
            317      store  settled (one who waits k1)
            318    b ← 201  executed;stored=?1;attempt=2;ttl=60  execution #2
        "#]],
    );
}

#[test]
fn what_came_back_to_the_gateway_decides_what_becomes_of_the_key() {
    check(
        "policy: shielded, lease 2s
         upstream: 404
         a: POST k1 p1
         upstream: 503
         b: POST k2 p1
         upstream: unreached
         c: POST k3 p1
         upstream: unsent
         d: POST k4 p1
         upstream: 404 says store
         e: POST k5 p1
         upstream: retried 404
         f: POST k6 p1
         upstream: reset before
         g: POST k7 p1
         upstream: times out
         h: POST k8 p1
         upstream: lost
         i: POST k9 p1
         wait 500ms
         record: k1
         record: k2
         record: k3
         record: k4
         record: k5
         record: k6
         record: k7
         record: k8
         record: k9",
        expect![[r#"
            0      a → g1  POST k1 p1
            0      b → g1  POST k2 p1
            0      c → g1  POST k3 p1
            0      d → g1  POST k4 p1
            0      e → g1  POST k5 p1
            0      f → g1  POST k6 p1
            0      g → g1  POST k7 p1
            0      h → g1  POST k8 p1
            0      i → g1  POST k9 p1
            1        g1 → store  claim (a k1)
            1        g1 → store  claim (b k2)
            1        g1 → store  claim (c k3)
            1        g1 → store  claim (d k4)
            1        g1 → store  claim (e k5)
            1        g1 → store  claim (f k6)
            1        g1 → store  claim (g k7)
            1        g1 → store  claim (h k8)
            1        g1 → store  claim (i k9)
            2        store  granted attempt 1 (a k1)
            2        store  granted attempt 1 (b k2)
            2        store  granted attempt 1 (c k3)
            2        store  granted attempt 1 (d k4)
            2        store  granted attempt 1 (e k5)
            2        store  granted attempt 1 (f k6)
            2        store  granted attempt 1 (g k7)
            2        store  granted attempt 1 (h k8)
            2        store  granted attempt 1 (i k9)
            3        g1 → upstream  attempt 1 (a)
            3        g1 → upstream  attempt 1 (b)
            3        g1 → upstream  attempt 1 (c)
            3        g1 → upstream  attempt 1 (d)
            3               there is no way (d)
            3        g1 → upstream  attempt 1 (e)
            3        g1 → upstream  attempt 1 (f)
            3        g1 → upstream  attempt 1 (g)
            3        g1 → upstream  attempt 1 (h)
            3        g1 → upstream  attempt 1 (i)
            3        g1 → store  release (d k4)
            4        store  settled (d k4)
            5              upstream executes k1 p1 as #1
            5              upstream executes k2 p1 as #2
            5              upstream executes k5 p1 as #5
            5              upstream executes k6 p1 as #6
            5              upstream executes k8 p1 as #8
            5              upstream executes k9 p1 as #9
            5      d ← 503  executed;stored=?0;attempt=1;outcome=released
            10       g1 ← upstream  404 (a)
            10       g1 → store  release (a k1)
            10       g1 ← upstream  503 (b)
            10       g1 → store  release for the same payload (b k2)
            10       g1 ← upstream  503 (c)
            10       g1 ← upstream  404 (e)
            10       g1 ← upstream  404 (f)
            10       g1 ← upstream  503 (g)
            10       g1 ← upstream  504 (h)
            10       g1 ← upstream  nothing, its answer is lost (i)
            11       store  settled (a k1)
            11       store  settled (b k2)
            12       g1 → store  release (c k3)
            12       g1 → store  complete 404 (e k5)
            12       g1 → store  mark unknown (f k6)
            12       g1 → store  mark unknown (g k7)
            12       g1 → store  mark unknown (h k8)
            12       g1 → store  mark unknown (i k9)
            12     a ← 404  executed;stored=?0;attempt=1;outcome=released  execution #1
            12     b ← 503  executed;stored=?0;attempt=1;outcome=retry  execution #2
            13       store  settled (c k3)
            13       store  settled (e k5)
            13       store  settled (f k6)
            13       store  settled (g k7)
            13       store  settled (h k8)
            13       store  settled (i k9)
            14     i ← 502  executed;stored=?0;attempt=1;outcome=unknown
            14     h ← 504  executed;stored=?0;attempt=1;outcome=unknown
            14     g ← 503  executed;stored=?0;attempt=1;outcome=unknown
            14     f ← 404  executed;stored=?0;attempt=1;outcome=unknown  execution #6
            14     e ← 404  executed;stored=?1;attempt=1;ttl=60  execution #5
            14     c ← 503  executed;stored=?0;attempt=1;outcome=released
            500    k1 is open, attempt 1
            500    k2 is open, attempt 1
            500    k3 is open, attempt 1
            500    k4 is open, attempt 1
            500    k5 is completed 404, attempt 1
            500    k6 is unknown, attempt 1
            500    k7 is unknown, attempt 1
            500    k8 is unknown, attempt 1
            500    k9 is unknown, attempt 1
        "#]],
    );
}

#[test]
fn a_body_that_is_lost_half_way_is_completed_inline_and_unknown_shielded() {
    check(
        "upstream: dies in body
         a: POST k1 p1
         wait 100ms
         b: POST k1 p1",
        expect![[r#"
            0      a → g1  POST k1 p1
            1        g1 → store  claim (a k1)
            2        store  granted attempt 1 (a k1)
            3      a → upstream  attempt 1
            5              upstream executes k1 p1 as #1
            10     a ← connection closed
            10       g1 → store  complete 201 without its response (a k1)
            11       store  settled (a k1)
            100    b → g1  POST k1 p1
            101      g1 → store  claim (b k1)
            102      store  completed 201 by attempt 1, not replayable (b k1)
            103    b ← 409  refused;attempt=1;reason=not-replayable
        "#]],
    );
    check(
        "policy: shielded
         upstream: dies in body
         a: POST k1 p1
         wait 100ms
         b: POST k1 p1
         wait 1s
         c: POST k1 p1",
        expect![[r#"
            0      a → g1  POST k1 p1
            1        g1 → store  claim (a k1)
            2        store  granted attempt 1 (a k1)
            3        g1 → upstream  attempt 1 (a)
            5              upstream executes k1 p1 as #1
            10       g1 ← upstream  nothing, its answer is lost (a)
            10       g1 → store  mark unknown (a k1)
            11       store  settled (a k1)
            12     a ← 502  executed;stored=?0;attempt=1;outcome=unknown
            100    b → g1  POST k1 p1
            101      g1 → store  claim (b k1)
            102      store  unknown, attempt 1, wait 900 ms (b k1)
            103    b ← 409  refused;attempt=1;reason=outcome-unknown
            1100   c → g1  POST k1 p1
            1101     g1 → store  claim (c k1)
            1102     store  granted attempt 2, in doubt (c k1)
            1103     g1 → upstream  attempt 2 (c)
            1105           upstream executes k1 p1 as #2
            1110     g1 ← upstream  201 (c)
            1110     g1 → store  complete 201 (c k1)
            1111     store  settled (c k1)
            1112   c ← 201  executed;stored=?1;attempt=2;ttl=60  execution #2
        "#]],
    );
}

#[test]
fn a_lease_is_renewed_for_a_client_that_has_gone() {
    check(
        "policy: shielded
         upstream: 201 after 1900ms
         a: POST k1 p1
         wait 100ms
         a: hangs up
         wait 1400ms
         b: POST k1 p1 g2
         wait 1s
         c: POST k1 p1 g2",
        expect![[r#"
            0      a → g1  POST k1 p1
            1        g1 → store  claim (a k1)
            2        store  granted attempt 1 (a k1)
            3        g1 → upstream  attempt 1 (a)
            5              upstream executes k1 p1 as #1
            100    a hangs up
            100    a ← connection closed
            400      g1 → store  renew (a k1)
            401      store  renewed (a k1)
            800      g1 → store  renew (a k1)
            801      store  renewed (a k1)
            1200     g1 → store  renew (a k1)
            1201     store  renewed (a k1)
            1500   b → g2  POST k1 p1
            1501     g2 → store  claim (b k1)
            1502     store  in flight, attempt 1 (b k1)
            1503   b ← 429  refused;attempt=1;reason=in-flight
            1600     g1 → store  renew (a k1)
            1601     store  renewed (a k1)
            1905     g1 ← upstream  201 (a)
            1905     g1 → store  complete 201 (a k1)
            1906     store  settled (a k1)
            2500   c → g2  POST k1 p1
            2501     g2 → store  claim (c k1)
            2502     store  completed 201 by attempt 1 (c k1)
            2503   c ← 201  replayed;attempt=1;age=0;ttl=59  execution #1
        "#]],
    );
}

#[test]
fn an_answer_that_nobody_waits_for_lands_when_the_store_is_back() {
    check(
        "policy: shielded, lease 4s
         upstream: 201 after 100ms
         a: POST k1 p1
         wait 50ms
         a: hangs up
         store: down 2s
         wait 4s
         b: POST k1 p1 g2",
        expect![[r#"
            0      a → g1  POST k1 p1
            1        g1 → store  claim (a k1)
            2        store  granted attempt 1 (a k1)
            3        g1 → upstream  attempt 1 (a)
            5              upstream executes k1 p1 as #1
            50     a hangs up
            50     a ← connection closed
            105      g1 ← upstream  201 (a)
            105      g1 → store  complete 201 (a k1)
            107           the call fails: transport
            200      g1 → store  complete 201 (a k1)
            202           the call fails: transport
            400      g1 → store  complete 201 (a k1)
            402           the call fails: transport
            600      g1 → store  complete 201 (a k1)
            602           the call fails: transport
            900      g1 → store  complete 201 (a k1)
            902           the call fails: transport
            2000     g1 → store  complete 201 (a k1)
            2002          the call fails: transport
            3100     g1 → store  complete 201 (a k1)
            3101     store  settled (a k1)
            4050   b → g2  POST k1 p1
            4051     g2 → store  claim (b k1)
            4052     store  completed 201 by attempt 1 (b k1)
            4053   b ← 201  replayed;attempt=1;age=0;ttl=59  execution #1
        "#]],
    );
}

#[test]
fn what_a_crashed_gateway_executed_for_its_client_is_unknown() {
    check(
        "policy: shielded
         upstream: 201 after 300ms
         a: POST k1 p1
         wait 100ms
         g1: crashes
         wait 500ms
         b: POST k1 p1 g2
         wait 1s
         c: POST k1 p1 g2",
        expect![[r#"
            0      a → g1  POST k1 p1
            1        g1 → store  claim (a k1)
            2        store  granted attempt 1 (a k1)
            3        g1 → upstream  attempt 1 (a)
            5              upstream executes k1 p1 as #1
            100    g1 crashes
            100    a ← connection closed
            200    g1 is back
            600    b → g2  POST k1 p1
            601      g2 → store  claim (b k1)
            602      store  in flight, attempt 1 (b k1)
            603    b ← 429  refused;attempt=1;reason=in-flight
            1600   c → g2  POST k1 p1
            1601     g2 → store  claim (c k1)
            1602     store  granted attempt 2, in doubt (c k1)
            1603     g2 → upstream  attempt 2 (c)
            1605           upstream executes k1 p1 as #2
            1610     g2 ← upstream  201 (c)
            1610     g2 → store  complete 201 (c k1)
            1611     store  settled (c k1)
            1612   c ← 201  executed;stored=?1;attempt=2;ttl=60  execution #2
        "#]],
    );
    check(
        "policy: shielded, hold, ttl 4s
         upstream: 201 after 300ms
         a: POST k1 p1
         wait 100ms
         g1: crashes
         wait 1500ms
         b: POST k1 p1 g2
         wait 3s
         c: POST k1 p1 g2",
        expect![[r#"
            0      a → g1  POST k1 p1
            1        g1 → store  claim, no retry (a k1)
            2        store  granted attempt 1 (a k1)
            3        g1 → upstream  attempt 1 (a)
            5              upstream executes k1 p1 as #1
            100    g1 crashes
            100    a ← connection closed
            200    g1 is back
            1600   b → g2  POST k1 p1
            1601     g2 → store  claim, no retry (b k1)
            1602     store  unknown, attempt 1, wait 0 ms (b k1)
            1603   b ← 409  refused;attempt=1;reason=outcome-unknown
            4600   c → g2  POST k1 p1
            4601     g2 → store  claim, no retry (c k1)
            4602     store  granted attempt 1 (c k1)
            4603     g2 → upstream  attempt 1 (c)
            4605           upstream executes k1 p1 as #2
            4610     g2 ← upstream  201 (c)
            4610     g2 → store  complete 201 (c k1)
            4611     store  settled (c k1)
            4612   c ← 201  executed;stored=?1;attempt=1;ttl=4  execution #2
        "#]],
    );
}

#[test]
fn without_the_whole_of_envoys_account_only_a_success_is_known() {
    check(
        "policy: account-of 2
         upstream: 404
         a: POST k1 p1
         upstream: unreached
         b: POST k2 p1
         upstream: 201 says release
         c: POST k3 p1
         d: POST k4 p1
         wait 100ms
         record: k1
         record: k2
         record: k3
         record: k4",
        expect![[r#"
            0      a → g1  POST k1 p1
            0      b → g1  POST k2 p1
            0      c → g1  POST k3 p1
            0      d → g1  POST k4 p1
            1        g1 → store  claim (a k1)
            1        g1 → store  claim (b k2)
            1        g1 → store  claim (c k3)
            1        g1 → store  claim (d k4)
            2        store  granted attempt 1 (a k1)
            2        store  granted attempt 1 (b k2)
            2        store  granted attempt 1 (c k3)
            2        store  granted attempt 1 (d k4)
            3        g1 → upstream  attempt 1 (a)
            3        g1 → upstream  attempt 1 (b)
            3        g1 → upstream  attempt 1 (c)
            3        g1 → upstream  attempt 1 (d)
            5              upstream executes k1 p1 as #1
            5              upstream executes k3 p1 as #3
            5              upstream executes k4 p1 as #4
            10       g1 ← upstream  404 (a)
            10       g1 → store  mark unknown (a k1)
            10       g1 ← upstream  503 (b)
            10       g1 → store  mark unknown (b k2)
            10       g1 ← upstream  201 (c)
            10       g1 ← upstream  201 (d)
            11       store  settled (a k1)
            11       store  settled (b k2)
            12       g1 → store  mark unknown (c k3)
            12       g1 → store  complete 201 (d k4)
            12     a ← 404  executed;stored=?0;attempt=1;outcome=unknown  execution #1
            12     b ← 503  executed;stored=?0;attempt=1;outcome=unknown
            13       store  settled (c k3)
            13       store  settled (d k4)
            14     d ← 201  executed;stored=?1;attempt=1;ttl=60  execution #4
            14     c ← 201  executed;stored=?0;attempt=1;outcome=unknown  execution #3
            100    k1 is unknown, attempt 1
            100    k2 is unknown, attempt 1
            100    k3 is unknown, attempt 1
            100    k4 is completed 201, attempt 1
        "#]],
    );
}

#[test]
fn a_large_answer_of_the_gateways_own_does_not_wait_for_a_store_that_stands_still() {
    check(
        "policy: shielded
         upstream: 201 at length
         a: POST k1 p1
         wait 3ms
         store: stops 2s
         wait 3s
         b: POST k1 p1 g2",
        expect![[r#"
            0      a → g1  POST k1 p1
            1        g1 → store  claim (a k1)
            2        store  granted attempt 1 (a k1)
            3        g1 → upstream  attempt 1 (a)
            5              upstream executes k1 p1 as #1
            10       g1 ← upstream  201 (a)
            10       g1 → store  complete 201 without its response (a k1)
            10     a ← 201  executed;stored=?0;attempt=1;outcome=completed;reason=too-large  execution #1
            400      g1 → store  complete 201 without its response (a k1)
            800      g1 → store  complete 201 without its response (a k1)
            1200     g1 → store  complete 201 without its response (a k1)
            1700     g1 → store  complete 201 without its response (a k1)
            2003     store  settled (a k1)
            2003     store  settled (a k1)
            2003     store  settled (a k1)
            2003     store  settled (a k1)
            2003     store  settled (a k1)
            3000     g1 → store  complete 201 without its response (a k1)
            3001     store  settled (a k1)
            3003   b → g2  POST k1 p1
            3004     g2 → store  claim (b k1)
            3005     store  completed 201 by attempt 1, not replayable (b k1)
            3006   b ← 409  refused;attempt=1;reason=not-replayable
        "#]],
    );
}

#[test]
fn a_drained_gateway_finishes_what_it_executes_for_clients_that_have_gone() {
    check(
        "policy: shielded
         upstream: 201 after 300ms
         a: POST k1 p1
         wait 100ms
         g1: reloads
         a: hangs up
         b: POST k1 p1
         wait 500ms
         c: POST k1 p1",
        expect![[r#"
            0      a → g1  POST k1 p1
            1        g1 → store  claim (a k1)
            2        store  granted attempt 1 (a k1)
            3        g1 → upstream  attempt 1 (a)
            5              upstream executes k1 p1 as #1
            100    g1 reloads its configuration
            100    a hangs up
            100    a ← connection closed
            100    b → g1  POST k1 p1
            101      g1 → store  claim (b k1)
            102      store  in flight, attempt 1 (b k1)
            103    b ← 429  refused;attempt=1;reason=in-flight
            305      g1 ← upstream  201 (a)
            305      g1 → store  complete 201 (a k1)
            306      store  settled (a k1)
            600    c → g1  POST k1 p1
            601      g1 → store  claim (c k1)
            602      store  completed 201 by attempt 1 (c k1)
            603    c ← 201  replayed;attempt=1;age=0;ttl=59  execution #1
        "#]],
    );
}
