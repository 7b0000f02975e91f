//! Claims, their leases, and who takes over.
//!
//! Its one rule: each is a script and its whole transcript; `mod.rs` says how a script is written.

use expect_test::expect;

use super::check;

#[test]
fn a_claim_whose_reply_was_lost_is_withdrawn_and_the_retry_runs() {
    check(
        "store: lose reply
         store: lose reply
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
            700      g1 → store  withdraw (a k1)
            700    a ← 503  refused;reason=store-unavailable
            701      store  settled (a k1)
            1300     g1 → store  withdraw (a k1)
            1301     store  settled (a k1)
            2000   b → g1  POST k1 p1
            2001     g1 → store  claim (b k1)
            2002     store  granted attempt 2 (b k1)
            2003   b → upstream  attempt 2
            2005           upstream executes k1 p1 as #1
            2010     g1 → store  complete 201 (b k1)
            2011     store  settled (b k1)
            2012   b ← 201  executed;stored=?1;attempt=2;ttl=60  execution #1
        "#]],
    );
}

#[test]
fn a_gateway_that_wakes_up_late_does_not_execute_on_a_dead_claim() {
    check(
        "a: POST k1 p1
         wait 1ms
         g1: stops 3s
         wait 2s
         b: POST k1 p1 g2
         wait 3s",
        expect![[r#"
            0      a → g1  POST k1 p1
            1        g1 → store  claim (a k1)
            1      g1 stops for 3000 ms
            2        store  granted attempt 1 (a k1)
            2001   b → g2  POST k1 p1
            2002     g2 → store  claim (b k1)
            2003     store  granted attempt 2, in doubt (b k1)
            2004   b → upstream  attempt 2
            2006           upstream executes k1 p1 as #1
            2011     g2 → store  complete 201 (b k1)
            2012     store  settled (b k1)
            2013   b ← 201  executed;stored=?1;attempt=2;ttl=60  execution #1
            3001     g1 → store  renew (a k1)
            3002     store  lost (a k1)
            3003   a ← 429  refused;attempt=1;reason=in-flight
        "#]],
    );
}

#[test]
fn a_late_try_of_a_claim_that_was_taken_over_does_not_revive_the_number_it_had() {
    check(
        "store: delay 5s
         store: ok
         a: POST k1 p1
         wait 401ms
         g1: stops 7s
         wait 1600ms
         upstream: reset
         b: POST k1 p1 g2
         wait 7s
         c: POST k1 p1 g2",
        expect![[r#"
            0      a → g1  POST k1 p1
            1        g1 → store  claim (a k1)
            400      g1 → store  claim (a k1)
            401      store  granted attempt 1 (a k1)
            401    g1 stops for 7000 ms
            2001   b → g2  POST k1 p1
            2002     g2 → store  claim (b k1)
            2003     store  granted attempt 2, in doubt (b k1)
            2004   b → upstream  attempt 2
            2006           upstream executes k1 p1 as #1
            2011     g2 → store  mark unknown (b k1)
            2012     store  settled (b k1)
            2013   b ← 503  executed;stored=?0;attempt=2;outcome=unknown
            5001     store  granted attempt 3, in doubt (a k1)
            7401     g1 → store  renew (a k1)
            7402     store  lost (a k1)
            7403   a ← 429  refused;attempt=1;reason=in-flight
            9001   c → g2  POST k1 p1
            9002     g2 → store  claim (c k1)
            9003     store  granted attempt 4, in doubt (c k1)
            9004   c → upstream  attempt 4
            9006           upstream executes k1 p1 as #2
            9011     g2 → store  complete 201 (c k1)
            9012     store  settled (c k1)
            9013   c ← 201  executed;stored=?1;attempt=4;ttl=60  execution #2
        "#]],
    );
}

#[test]
fn a_late_owner_cannot_complete_after_a_takeover() {
    check(
        "upstream: 201 after 500ms
         a: POST k1 p1
         wait 100ms
         g1: stops 3s
         wait 1500ms
         upstream: 201 after 1800ms
         b: POST k1 p1 g2
         wait 3s
         record: k1",
        expect![[r#"
            0      a → g1  POST k1 p1
            1        g1 → store  claim (a k1)
            2        store  granted attempt 1 (a k1)
            3      a → upstream  attempt 1
            5              upstream executes k1 p1 as #1
            100    g1 stops for 3000 ms
            1600   b → g2  POST k1 p1
            1601     g2 → store  claim (b k1)
            1602     store  granted attempt 2, in doubt (b k1)
            1603   b → upstream  attempt 2
            1605           upstream executes k1 p1 as #2
            2007     g2 → store  renew (b k1)
            2008     store  renewed (b k1)
            2407     g2 → store  renew (b k1)
            2408     store  renewed (b k1)
            2807     g2 → store  renew (b k1)
            2808     store  renewed (b k1)
            3100     g1 → store  mark unknown (a k1)
            3100     g1 → store  complete 201 (a k1)
            3101     store  lost (a k1)
            3101     store  lost (a k1)
            3102   a ← 201  executed;stored=?0;attempt=1;outcome=completed  execution #1
            3207     g2 → store  renew (b k1)
            3208     store  renewed (b k1)
            3405     g2 → store  complete 201 (b k1)
            3406     store  settled (b k1)
            3407   b ← 201  executed;stored=?1;attempt=2;ttl=60  execution #2
            3500     g1 → store  complete 201 (a k1)
            3501     store  lost (a k1)
            3900     g1 → store  complete 201 (a k1)
            3901     store  lost (a k1)
            4300     g1 → store  complete 201 (a k1)
            4301     store  lost (a k1)
            4600   k1 is completed 201, attempt 2, in doubt
            4700     g1 → store  complete 201 (a k1)
            4701     store  lost (a k1)
        "#]],
    );
}

#[test]
fn a_late_success_is_kept_when_the_claim_that_took_over_never_executed() {
    check(
        "upstream: 201 after 500ms
         a: POST k1 p1
         wait 100ms
         g1: stops 1600ms
         wait 1400ms
         store: lose reply
         store: lose call
         b: POST k1 p1 g2
         wait 50ms
         b: hangs up
         wait 4s
         c: POST k1 p1 g2",
        expect![[r#"
            0      a → g1  POST k1 p1
            1        g1 → store  claim (a k1)
            2        store  granted attempt 1 (a k1)
            3      a → upstream  attempt 1
            5              upstream executes k1 p1 as #1
            100    g1 stops for 1600 ms
            1500   b → g2  POST k1 p1
            1501     g2 → store  claim (b k1)
            1502     store  granted attempt 2, in doubt (b k1)
            1502          the reply is lost
            1550   b hangs up
            1550   b ← connection closed
            1550     g2 → store  withdraw (b k1)
            1550          the call is lost
            1700     g1 → store  renew (a k1)
            1700     g1 → store  complete 201 (a k1)
            1701     store  lost (a k1)
            1701     store  lost (a k1)
            1702   a ← 201  executed;stored=?0;attempt=1;outcome=completed  execution #1
            1907     g2 → store  withdraw (b k1)
            1907     g2 → store  claim (b k1)
            1908     store  settled (b k1)
            1908     store  stale (b k1)
            2100     g1 → store  complete 201 (a k1)
            2101     store  settled (a k1)
            2107     g2 → store  withdraw (b k1)
            2108     store  lost (b k1)
            2507     g2 → store  withdraw (b k1)
            2508     store  lost (b k1)
            5550   c → g2  POST k1 p1
            5551     g2 → store  claim (c k1)
            5552     store  completed 201 by attempt 2 (c k1)
            5553   c ← 201  replayed;attempt=2;age=3;ttl=56  execution #1
        "#]],
    );
}

#[test]
fn a_reply_to_another_question_is_a_failure() {
    check(
        "store: cross
         store: cross
         a: POST k1 p1
         b: POST k2 p2 g2
         wait 2s",
        expect![[r#"
            0      a → g1  POST k1 p1
            0      b → g2  POST k2 p2
            1        g1 → store  claim (a k1)
            1        g2 → store  claim (b k2)
            2        store  granted attempt 1 (a k1)
            2        store  granted attempt 1 (b k2)
            2             the reply goes to another caller
            100      g1 → store  claim (a k1)
            101      store  granted attempt 1 (a k1)
            102    a → upstream  attempt 1
            104            upstream executes k1 p1 as #1
            107      g2 → store  claim (b k2)
            108      store  granted attempt 1 (b k2)
            109    b → upstream  attempt 1
            109      g1 → store  complete 201 (a k1)
            110      store  settled (a k1)
            111            upstream executes k2 p2 as #2
            111    a ← 201  executed;stored=?1;attempt=1;ttl=60  execution #1
            116      g2 → store  complete 201 (b k2)
            117      store  settled (b k2)
            118    b ← 201  executed;stored=?1;attempt=1;ttl=60  execution #2
        "#]],
    );
}

#[test]
fn a_record_lives_for_as_long_as_its_owner_was_told_though_the_stores_clock_goes_back() {
    check(
        "policy: lease 1s, ttl 2s
         upstream: 201 after 900ms
         a: POST k1 p1
         wait 500ms
         store: clock back 1500ms
         wait 250ms
         store: lose reply
         wait 60ms
         g1: stops 2200ms
         wait 2140ms
         record: k1
         wait 1s
         record: k1",
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
            801           the reply is lost
            810    g1 stops for 2200 ms
            2950   k1 is running, lapsed, attempt 1
            3010     g1 → store  mark unknown (a k1)
            3010     g1 → store  complete 201 (a k1)
            3011     store  settled (a k1)
            3011     store  settled (a k1)
            3012   a ← 201  executed;stored=?1;attempt=1;ttl=2  execution #1
            3950   k1 is completed 201, attempt 1
        "#]],
    );
}

#[test]
fn a_late_try_of_a_claim_that_was_refused_is_not_granted() {
    check(
        "policy: hold
         upstream: 404 after 500ms
         a: POST k1 p1 g2
         wait 100ms
         store: delay 2s
         store: ok
         b: POST k1 p1
         wait 4s
         record: k1",
        expect![[r#"
            0      a → g2  POST k1 p1
            1        g2 → store  claim, no retry (a k1)
            2        store  granted attempt 1 (a k1)
            3      a → upstream  attempt 1
            5              upstream executes k1 p1 as #1
            100    b → g1  POST k1 p1
            101      g1 → store  claim, no retry (b k1)
            407      g2 → store  renew (a k1)
            408      store  renewed (a k1)
            500      g1 → store  claim, no retry (b k1)
            501      store  in flight, attempt 1 (b k1)
            502    b ← 429  refused;attempt=1;reason=in-flight
            505      g2 → store  release (a k1)
            506      store  settled (a k1)
            507    a ← 404  executed;stored=?0;attempt=1;outcome=released  execution #1
            700      g1 → store  withdraw (b k1)
            701      store  lost (b k1)
            2101     store  stale (b k1)
            4100   k1 is open, attempt 1
        "#]],
    );
}

#[test]
fn a_withdrawn_claim_does_not_free_the_key_for_another_payload() {
    check(
        "upstream: 503
         a: POST k1 p1
         wait 100ms
         store: lose reply
         store: lose reply
         b: POST k1 p1
         wait 2s
         c: POST k1 p2",
        expect![[r#"
            0      a → g1  POST k1 p1
            1        g1 → store  claim (a k1)
            2        store  granted attempt 1 (a k1)
            3      a → upstream  attempt 1
            5              upstream executes k1 p1 as #1
            10       g1 → store  release for the same payload (a k1)
            11       store  settled (a k1)
            12     a ← 503  executed;stored=?0;attempt=1;outcome=retry  execution #1
            100    b → g1  POST k1 p1
            101      g1 → store  claim (b k1)
            102      store  granted attempt 2 (b k1)
            102           the reply is lost
            500      g1 → store  claim (b k1)
            501      store  granted attempt 2 (b k1)
            501           the reply is lost
            800      g1 → store  withdraw (b k1)
            800    b ← 503  refused;reason=store-unavailable
            801      store  settled (b k1)
            1400     g1 → store  withdraw (b k1)
            1401     store  settled (b k1)
            2100   c → g1  POST k1 p2
            2101     g1 → store  claim (c k1)
            2102     store  mismatch (c k1)
            2103   c ← 409  refused;reason=mismatch
        "#]],
    );
}

#[test]
fn a_claim_that_was_withdrawn_leaves_the_key_as_free_as_it_was() {
    check(
        "upstream: 404
         a: POST k1 p1
         wait 1s
         store: lose reply
         b: POST k1 p2
         wait 100ms
         b: hangs up
         wait 1s
         c: POST k1 p3",
        expect![[r#"
            0      a → g1  POST k1 p1
            1        g1 → store  claim (a k1)
            2        store  granted attempt 1 (a k1)
            3      a → upstream  attempt 1
            5              upstream executes k1 p1 as #1
            10       g1 → store  release (a k1)
            11       store  settled (a k1)
            12     a ← 404  executed;stored=?0;attempt=1;outcome=released  execution #1
            1000   b → g1  POST k1 p2
            1001     g1 → store  claim (b k1)
            1002     store  granted attempt 2 (b k1)
            1002          the reply is lost
            1100   b hangs up
            1100   b ← connection closed
            1100     g1 → store  withdraw (b k1)
            1101     store  settled (b k1)
            1400     g1 → store  claim (b k1)
            1401     store  stale (b k1)
            1600     g1 → store  withdraw (b k1)
            1601     store  settled (b k1)
            1602     g1 → store  withdraw (b k1)
            1603     store  settled (b k1)
            2100   c → g1  POST k1 p3
            2101     g1 → store  claim (c k1)
            2102     store  granted attempt 3 (c k1)
            2103   c → upstream  attempt 3
            2105           upstream executes k1 p3 as #2
            2110     g1 → store  complete 201 (c k1)
            2111     store  settled (c k1)
            2112   c ← 201  executed;stored=?1;attempt=3;ttl=60  execution #2
        "#]],
    );
}

#[test]
fn a_claim_that_a_stopped_store_grants_late_is_withdrawn_however_late() {
    check(
        "policy: hold, lease 1s, ttl 2s
         store: stops 4s
         store: ok
         store: ok
         store: lose call
         store: lose call
         store: lose call
         store: lose call
         a: POST k1 p1
         wait 5500ms
         b: POST k1 p1",
        expect![[r#"
            0      a → g1  POST k1 p1
            1        g1 → store  claim, no retry (a k1)
            400      g1 → store  claim, no retry (a k1)
            700      g1 → store  withdraw (a k1)
            700           the call is lost
            700    a ← 503  refused;reason=store-unavailable
            1100     g1 → store  withdraw (a k1)
            1100          the call is lost
            1500     g1 → store  withdraw (a k1)
            1500          the call is lost
            2800     g1 → store  withdraw (a k1)
            2800          the call is lost
            4000     store  granted attempt 1 (a k1)
            4000     store  granted attempt 1 (a k1)
            4100     g1 → store  withdraw (a k1)
            4101     store  settled (a k1)
            4700     g1 → store  withdraw (a k1)
            4701     store  settled (a k1)
            5500   b → g1  POST k1 p1
            5501     g1 → store  claim, no retry (b k1)
            5502     store  granted attempt 2 (b k1)
            5503   b → upstream  attempt 2
            5505           upstream executes k1 p1 as #1
            5510     g1 → store  complete 201 (b k1)
            5511     store  settled (b k1)
            5512   b ← 201  executed;stored=?1;attempt=2;ttl=2  execution #1
        "#]],
    );
}
