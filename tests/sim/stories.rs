//! Stories: a short script of requests and faults in, what happened out.
//!
//! Its one rule: a script says what strikes and when; everything else is as the simulator always has it.
//!
//! A line of a script is one of:
//! - `policy: hold, forward, conflict, bypass, observe, embedded, after reply` and `lease 1s`, `ttl 60s`, `wait 10s`, `shielded`,
//!   `account-of 2` (fields, not five), `calls 1`, `batch 1`, `queue 2`, `outbox 300` (bytes), first of all;
//! - `a: GET k1` (a look-up) or `a: POST k1 p1`, with `t2` for another tenant, `g2` for another gateway and `quoted` for a key in quotes;
//!   `a: hangs up`; `a: times out`, because Envoy waits no longer;
//! - `upstream: 201` (or another status, `reset`, `reset before`, `dies in body`, `unreached`, `unsent`, `lost`,
//!   `times out`, `retried 503`), and `says release`, `for 5s`, `at length`, `after 3s`, `trickles 4s`, of the next request;
//! - `store: lose call|lose reply|cross|garbage|truncate|refuse|fail|unreadable|again 500ms|delay 2s`, or `ok`, of the
//!   next call; `store: down 2s|stops 2s|crashes 2s|flush|clock back 2s|clock forward 2s`;
//! - `g1: stops 3s|crashes|loses a worker|reloads`; `wait 5s`; `record: k1`.
//!
//! Payload `p3` is large, `p4` larger than the policy allows.

use std::collections::HashMap;

use expect_test::{Expect, expect};

use envoy_idempotency::store::client::Limits;

use crate::plan::{Client, Faults, Plan, Shielding};
use crate::world::{Carriage, End, Handling, Steering, TOO_LARGE_BODY, Treatment, World};

#[test]
fn a_retry_after_success_replays() {
    check(
        "a: POST k1 p1
         wait 1s
         b: POST k1 p1 g2",
        expect![[r#"
            0      a → g1  POST k1 p1
            1        g1 → store  claim (a k1)
            2        store  granted attempt 1 (a k1)
            3      a → upstream  attempt 1
            5              upstream executes k1 p1 as #1
            10       g1 → store  complete 201 (a k1)
            11       store  settled (a k1)
            12     a ← 201  executed;stored=?1;attempt=1;ttl=60  execution #1
            1000   b → g2  POST k1 p1
            1001     g2 → store  claim (b k1)
            1002     store  completed 201 by attempt 1 (b k1)
            1003   b ← 201  replayed;attempt=1;age=0;ttl=59  execution #1
        "#]],
    );
}

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
fn a_completion_that_is_owed_lands_when_the_store_is_back() {
    check(
        "upstream: 201 after 100ms
         a: POST k1 p1
         wait 50ms
         store: down 3s
         wait 2s
         b: POST k1 p1 g1
         c: POST k1 p1 g2
         wait 6s
         d: POST k1 p1 g2",
        expect![[r#"
            0      a → g1  POST k1 p1
            1        g1 → store  claim (a k1)
            2        store  granted attempt 1 (a k1)
            3      a → upstream  attempt 1
            5              upstream executes k1 p1 as #1
            105      g1 → store  complete 201 (a k1)
            107           the call fails: transport
            200      g1 → store  complete 201 (a k1)
            202           the call fails: transport
            202    a ← 201  executed;stored=?0;attempt=1;outcome=completed  execution #1
            400      g1 → store  complete 201 (a k1)
            402           the call fails: transport
            600      g1 → store  complete 201 (a k1)
            602           the call fails: transport
            900      g1 → store  complete 201 (a k1)
            902           the call fails: transport
            2000     g1 → store  complete 201 (a k1)
            2002          the call fails: transport
            2050   b → g1  POST k1 p1
            2050   c → g2  POST k1 p1
            2051   b ← 429  refused;attempt=1;reason=in-flight
            2051     g2 → store  claim (c k1)
            2053          the call fails: transport
            2107     g2 → store  claim (c k1)
            2109          the call fails: transport
            2109     g2 → store  withdraw (c k1)
            2109   c ← 503  refused;reason=store-unavailable
            2111          the call fails: transport
            2207     g2 → store  withdraw (c k1)
            2209          the call fails: transport
            2407     g2 → store  withdraw (c k1)
            2409          the call fails: transport
            3100     g1 → store  complete 201 (a k1)
            3101     store  settled (a k1)
            3507     g2 → store  withdraw (c k1)
            3508     store  lost (c k1)
            4107     g2 → store  withdraw (c k1)
            4108     store  lost (c k1)
            8050   d → g2  POST k1 p1
            8051     g2 → store  claim (d k1)
            8052     store  completed 201 by attempt 1 (d k1)
            8053   d ← 201  replayed;attempt=1;age=4;ttl=55  execution #1
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
fn a_mismatch_is_told_before_in_flight_unknown_and_replay() {
    check(
        "upstream: reset after 500ms
         a: POST k1 p1
         wait 100ms
         b: POST k1 p2 g2
         wait 1s
         c: POST k1 p2 g2
         wait 1s
         d: POST k1 p1 g2
         wait 100ms
         e: POST k1 p2",
        expect![[r#"
            0      a → g1  POST k1 p1
            1        g1 → store  claim (a k1)
            2        store  granted attempt 1 (a k1)
            3      a → upstream  attempt 1
            5              upstream executes k1 p1 as #1
            100    b → g2  POST k1 p2
            101      g2 → store  claim (b k1)
            102      store  mismatch (b k1)
            103    b ← 409  refused;reason=mismatch
            400      g1 → store  renew (a k1)
            401      store  renewed (a k1)
            505      g1 → store  mark unknown (a k1)
            506      store  settled (a k1)
            507    a ← 503  executed;stored=?0;attempt=1;outcome=unknown
            1100   c → g2  POST k1 p2
            1101     g2 → store  claim (c k1)
            1102     store  mismatch (c k1)
            1103   c ← 409  refused;reason=mismatch
            2100   d → g2  POST k1 p1
            2101     g2 → store  claim (d k1)
            2102     store  granted attempt 2, in doubt (d k1)
            2103   d → upstream  attempt 2
            2105           upstream executes k1 p1 as #2
            2110     g2 → store  complete 201 (d k1)
            2111     store  settled (d k1)
            2112   d ← 201  executed;stored=?1;attempt=2;ttl=60  execution #2
            2200   e → g1  POST k1 p2
            2201     g1 → store  claim (e k1)
            2202     store  mismatch (e k1)
            2203   e ← 409  refused;reason=mismatch
        "#]],
    );
}

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
fn what_is_owed_does_not_revive_an_expired_record() {
    check(
        "policy: lease 1s, ttl 2s
         upstream: 201 after 100ms
         a: POST k1 p1
         wait 50ms
         g1: stops 2500ms
         wait 2200ms
         record: k1
         wait 1s
         record: k1",
        expect![[r#"
            0      a → g1  POST k1 p1
            1        g1 → store  claim (a k1)
            2        store  granted attempt 1 (a k1)
            3      a → upstream  attempt 1
            5              upstream executes k1 p1 as #1
            50     g1 stops for 2500 ms
            2250   k1 is absent
            2550     g1 → store  mark unknown (a k1)
            2550     g1 → store  complete 201 (a k1)
            2551     store  lost (a k1)
            2551     store  lost (a k1)
            2552   a ← 201  executed;stored=?0;attempt=1;outcome=completed  execution #1
            2900     g1 → store  complete 201 (a k1)
            2901     store  lost (a k1)
            3250   k1 is absent
            3300     g1 → store  complete 201 (a k1)
            3301     store  lost (a k1)
            3700     g1 → store  complete 201 (a k1)
            3701     store  lost (a k1)
            4100     g1 → store  complete 201 (a k1)
            4101     store  lost (a k1)
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
fn every_attempt_writes_the_key_as_the_first_claim_did() {
    check(
        "upstream: reset
         a: POST k1 p1 quoted
         wait 2s
         upstream: reset
         b: POST k1 p1 g2
         upstream: reset
         c: POST k2 p1 g2
         wait 2s
         d: POST k2 p1 quoted",
        expect![[r#"
            0      a → g1  POST k1 p1
            1        g1 → store  claim (a k1)
            2        store  granted attempt 1 (a k1)
            3      a → upstream  attempt 1, its key in quotes
            5              upstream executes k1 p1 as #1
            10       g1 → store  mark unknown (a k1)
            11       store  settled (a k1)
            12     a ← 503  executed;stored=?0;attempt=1;outcome=unknown
            2000   b → g2  POST k1 p1
            2000   c → g2  POST k2 p1
            2001     g2 → store  claim (b k1)
            2001     g2 → store  claim (c k2)
            2002     store  granted attempt 2, in doubt (b k1)
            2002     store  granted attempt 1 (c k2)
            2003   b → upstream  attempt 2, its key in quotes
            2003   c → upstream  attempt 1
            2005           upstream executes k1 p1 as #2
            2005           upstream executes k2 p1 as #3
            2010     g2 → store  mark unknown (b k1)
            2010     g2 → store  mark unknown (c k2)
            2011     store  settled (b k1)
            2011     store  settled (c k2)
            2012   b ← 503  executed;stored=?0;attempt=2;outcome=unknown
            2012   c ← 503  executed;stored=?0;attempt=1;outcome=unknown
            4000   d → g1  POST k2 p1
            4001     g1 → store  claim (d k2)
            4002     store  granted attempt 2, in doubt (d k2)
            4003   d → upstream  attempt 2
            4005           upstream executes k2 p1 as #4
            4010     g1 → store  complete 201 (d k2)
            4011     store  settled (d k2)
            4012   d ← 201  executed;stored=?1;attempt=2;ttl=60  execution #4
        "#]],
    );
}

#[test]
fn what_cannot_be_read_is_refused_also_where_a_failing_store_lets_requests_through() {
    check(
        "policy: forward
         store: unreadable
         a: POST k1 p1
         wait 1s
         store: lose reply
         store: unreadable
         b: POST k1 p1",
        expect![[r#"
            0      a → g1  POST k1 p1
            1        g1 → store  claim (a k1)
            2        store  failed: corrupt (a k1)
            3      a ← 503  refused;reason=store-unavailable
            1000   b → g1  POST k1 p1
            1001     g1 → store  claim (b k1)
            1002     store  granted attempt 1 (b k1)
            1002          the reply is lost
            1400     g1 → store  claim (b k1)
            1401     store  failed: corrupt (b k1)
            1402   b ← 503  refused;reason=store-unavailable
            1600     g1 → store  withdraw (b k1)
            1601     store  settled (b k1)
        "#]],
    );
}

#[test]
fn another_payload_is_a_mismatch_while_a_completion_is_owed() {
    check(
        "upstream: 201 after 100ms
         a: POST k1 p1
         wait 50ms
         store: down 1s
         wait 900ms
         b: POST k1 p2
         c: POST k1 p1
         wait 2s",
        expect![[r#"
            0      a → g1  POST k1 p1
            1        g1 → store  claim (a k1)
            2        store  granted attempt 1 (a k1)
            3      a → upstream  attempt 1
            5              upstream executes k1 p1 as #1
            105      g1 → store  complete 201 (a k1)
            107           the call fails: transport
            200      g1 → store  complete 201 (a k1)
            202           the call fails: transport
            202    a ← 201  executed;stored=?0;attempt=1;outcome=completed  execution #1
            400      g1 → store  complete 201 (a k1)
            402           the call fails: transport
            600      g1 → store  complete 201 (a k1)
            602           the call fails: transport
            900      g1 → store  complete 201 (a k1)
            902           the call fails: transport
            950    b → g1  POST k1 p2
            950    c → g1  POST k1 p1
            951    b ← 409  refused;reason=mismatch
            951    c ← 429  refused;attempt=1;reason=in-flight
            2000     g1 → store  complete 201 (a k1)
            2001     store  settled (a k1)
        "#]],
    );
}

#[test]
fn what_a_gateway_owes_passes_to_its_next_configuration_though_the_store_is_away_for_longer_than_a_lease() {
    check(
        "upstream: 201 after 100ms
         a: POST k1 p1
         wait 50ms
         g1: reloads
         store: down 4s
         wait 2s
         b: POST k1 p1
         wait 6s
         c: POST k1 p1 g2",
        expect![[r#"
            0      a → g1  POST k1 p1
            1        g1 → store  claim (a k1)
            2        store  granted attempt 1 (a k1)
            3      a → upstream  attempt 1
            5              upstream executes k1 p1 as #1
            50     g1 reloads its configuration
            105      g1 → store  complete 201 (a k1)
            107           the call fails: transport
            200      g1 → store  complete 201 (a k1)
            202           the call fails: transport
            202    a ← 201  executed;stored=?0;attempt=1;outcome=completed  execution #1
            314      g1 → store  complete 201 (a k1)
            316           the call fails: transport
            514      g1 → store  complete 201 (a k1)
            516           the call fails: transport
            814      g1 → store  complete 201 (a k1)
            816           the call fails: transport
            1314     g1 → store  complete 201 (a k1)
            1316          the call fails: transport
            2050   b → g1  POST k1 p1
            2051   b ← 429  refused;attempt=1;reason=in-flight
            2214     g1 → store  complete 201 (a k1)
            2216          the call fails: transport
            3914     g1 → store  complete 201 (a k1)
            3916          the call fails: transport
            7214     g1 → store  complete 201 (a k1)
            7215     store  settled (a k1)
            8050   c → g2  POST k1 p1
            8051     g2 → store  claim (c k1)
            8052     store  completed 201 by attempt 1 (c k1)
            8053   c ← 201  replayed;attempt=1;age=0;ttl=59  execution #1
        "#]],
    );
}

#[test]
fn what_is_owed_lands_with_the_first_answer_after_an_outage() {
    check(
        "upstream: 201 after 100ms
         a: POST k1 p1
         wait 50ms
         store: down 3200ms
         wait 4100ms
         b: POST k2 p1
         wait 20ms
         c: POST k1 p1 g2",
        expect![[r#"
            0      a → g1  POST k1 p1
            1        g1 → store  claim (a k1)
            2        store  granted attempt 1 (a k1)
            3      a → upstream  attempt 1
            5              upstream executes k1 p1 as #1
            105      g1 → store  complete 201 (a k1)
            107           the call fails: transport
            200      g1 → store  complete 201 (a k1)
            202           the call fails: transport
            202    a ← 201  executed;stored=?0;attempt=1;outcome=completed  execution #1
            400      g1 → store  complete 201 (a k1)
            402           the call fails: transport
            600      g1 → store  complete 201 (a k1)
            602           the call fails: transport
            900      g1 → store  complete 201 (a k1)
            902           the call fails: transport
            2000     g1 → store  complete 201 (a k1)
            2002          the call fails: transport
            3100     g1 → store  complete 201 (a k1)
            3102          the call fails: transport
            4150   b → g1  POST k2 p1
            4151     g1 → store  claim (b k2)
            4152     store  granted attempt 1 (b k2)
            4153     g1 → store  complete 201 (a k1)
            4153   b → upstream  attempt 1
            4154     store  settled (a k1)
            4155           upstream executes k2 p1 as #2
            4160     g1 → store  complete 201 (b k2)
            4161     store  settled (b k2)
            4162   b ← 201  executed;stored=?1;attempt=1;ttl=60  execution #2
            4170   c → g2  POST k1 p1
            4171     g2 → store  claim (c k1)
            4172     store  completed 201 by attempt 1 (c k1)
            4173   c ← 201  replayed;attempt=1;age=0;ttl=59  execution #1
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
fn a_response_that_is_too_large_is_completed_and_not_replayed() {
    check(
        "upstream: 201 at length
         a: POST k1 p3
         wait 1s
         b: POST k1 p3 g2
         c: POST k1 p1 g2",
        expect![[r#"
            0      a → g1  POST k1 p3
            1        g1 → store  claim (a k1)
            2        store  granted attempt 1 (a k1)
            3      a → upstream  attempt 1
            5              upstream executes k1 p3 as #1
            10     a ← 201  executed;stored=?0;attempt=1;outcome=completed;reason=too-large  execution #1
            10       g1 → store  complete 201 without its response (a k1)
            11       store  settled (a k1)
            1000   b → g2  POST k1 p3
            1000   c → g2  POST k1 p1
            1001     g2 → store  claim (b k1)
            1001     g2 → store  claim (c k1)
            1002     store  completed 201 by attempt 1, not replayable (b k1)
            1002     store  mismatch (c k1)
            1003   c ← 409  refused;reason=mismatch
            1003   b ← 409  refused;attempt=1;reason=not-replayable
        "#]],
    );
}

#[test]
fn a_request_that_is_too_large_claims_nothing() {
    check(
        "policy: bypass
         a: POST k1 p4
         wait 1s
         b: POST k1 p1",
        expect![[r#"
            0      a → g1  POST k1 p4
            1      a → upstream  unprotected
            3              upstream executes k1 p4 as #1
            8      a ← 201  bypassed;reason=too-large  execution #1
            1000   b → g1  POST k1 p1
            1001     g1 → store  claim (b k1)
            1002     store  granted attempt 1 (b k1)
            1003   b → upstream  attempt 1
            1005           upstream executes k1 p1 as #2
            1010     g1 → store  complete 201 (b k1)
            1011     store  settled (b k1)
            1012   b ← 201  executed;stored=?1;attempt=1;ttl=60  execution #2
        "#]],
    );
}

#[test]
fn workers_share_the_embedded_store_which_outlives_one_of_them_and_not_the_process() {
    check(
        "policy: embedded
         a: POST k1 p1
         wait 1s
         upstream: 201 after 500ms
         b: POST k2 p1
         wait 100ms
         g1: loses a worker
         c: POST k1 p1
         d: POST k2 p1
         wait 1s
         e: POST k2 p1
         wait 1s
         g1: crashes
         wait 1s
         f: POST k1 p1",
        expect![[r#"
            0      a → g1  POST k1 p1
            1      a → upstream  attempt 1
            3              upstream executes k1 p1 as #1
            8      a ← 201  executed;stored=?1;attempt=1;ttl=60  execution #1
            1000   b → g1  POST k2 p1
            1001   b → upstream  attempt 1
            1003           upstream executes k2 p1 as #2
            1100   g1 loses a worker
            1100   b ← connection closed
            1100   c → g1  POST k1 p1
            1100   d → g1  POST k2 p1
            1101   c ← 201  replayed;attempt=1;age=1;ttl=58  execution #1
            1101   d ← 429  refused;attempt=1;reason=in-flight
            2100   e → g1  POST k2 p1
            2101   e → upstream  attempt 2
            2103           upstream executes k2 p1 as #3
            2108   e ← 201  executed;stored=?1;attempt=2;ttl=60  execution #3
            3100   g1 crashes
            3200   g1 is back
            4100   f → g1  POST k1 p1
            4101   f → upstream  attempt 1
            4103           upstream executes k1 p1 as #4
            4108   f ← 201  executed;stored=?1;attempt=1;ttl=60  execution #4
        "#]],
    );
}

#[test]
fn a_store_that_crashes_takes_along_what_is_on_its_way() {
    check(
        "store: delay 50ms
         a: POST k1 p1
         wait 20ms
         store: crashes 100ms
         wait 1s
         b: POST k1 p1",
        expect![[r#"
            0      a → g1  POST k1 p1
            1        g1 → store  claim (a k1)
            52            the call fails: transport
            100      g1 → store  claim (a k1)
            102           the call fails: transport
            102      g1 → store  withdraw (a k1)
            102    a ← 503  refused;reason=store-unavailable
            104           the call fails: transport
            200      g1 → store  withdraw (a k1)
            201      store  settled (a k1)
            800      g1 → store  withdraw (a k1)
            801      store  settled (a k1)
            1020   b → g1  POST k1 p1
            1021     g1 → store  claim (b k1)
            1022     store  granted attempt 1 (b k1)
            1023   b → upstream  attempt 1
            1025           upstream executes k1 p1 as #1
            1030     g1 → store  complete 201 (b k1)
            1031     store  settled (b k1)
            1032   b ← 201  executed;stored=?1;attempt=1;ttl=60  execution #1
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

#[test]
fn what_is_owed_is_bounded_also_where_it_has_no_bodies() {
    check(
        "policy: outbox 300
         upstream: reset after 400ms
         a: POST k1 p1
         wait 10ms
         upstream: reset after 400ms
         b: POST k2 p1
         wait 10ms
         upstream: reset after 400ms
         c: POST k3 p1
         wait 10ms
         store: down 1s
         wait 3s
         record: k1
         record: k3",
        expect![[r#"
            0      a → g1  POST k1 p1
            1        g1 → store  claim (a k1)
            2        store  granted attempt 1 (a k1)
            3      a → upstream  attempt 1
            5              upstream executes k1 p1 as #1
            10     b → g1  POST k2 p1
            11       g1 → store  claim (b k2)
            12       store  granted attempt 1 (b k2)
            13     b → upstream  attempt 1
            15             upstream executes k2 p1 as #2
            20     c → g1  POST k3 p1
            21       g1 → store  claim (c k3)
            22       store  granted attempt 1 (c k3)
            23     c → upstream  attempt 1
            25             upstream executes k3 p1 as #3
            400      g1 → store  renew (a k1)
            400      g1 → store  renew (b k2)
            400      g1 → store  renew (c k3)
            402           the call fails: transport
            405      g1 → store  mark unknown (a k1)
            407           the call fails: transport
            415      g1 → store  renew (a k1)
            415      g1 → store  mark unknown (b k2)
            417           the call fails: transport
            417      g1 → store  renew (c k3)
            419           the call fails: transport
            425      g1 → store  mark unknown (a k1)
            425      g1 → store  renew (b k2)
            425      g1 → store  mark unknown (c k3)
            427           the call fails: transport
            427    a ← 503  executed;stored=?0;attempt=1;outcome=unknown
            500    c ← 503  executed;stored=?0;attempt=1;outcome=unknown
            500    b ← 503  executed;stored=?0;attempt=1;outcome=unknown
            1500     g1 → store  mark unknown (c k3)
            1501     store  settled (c k3)
            1502     g1 → store  mark unknown (b k2)
            1503     store  settled (b k2)
            3030   k1 is running, lapsed, attempt 1
            3030   k3 is unknown, attempt 1
        "#]],
    );
}

#[test]
fn tries_of_what_is_owed_no_more_do_not_pile_up() {
    check(
        "policy: outbox 700, calls 1, batch 1, queue 1, lease 9s
         upstream: reset after 500ms
         a: POST k1 p1
         wait 5ms
         upstream: reset after 500ms
         b: POST k2 p1
         wait 5ms
         upstream: reset after 500ms
         c: POST k3 p1
         wait 5ms
         upstream: reset after 500ms
         d: POST k4 p1
         wait 5ms
         upstream: reset after 500ms
         e: POST k5 p1
         wait 5ms
         upstream: reset after 1000ms
         f: POST k6 p1
         wait 5ms
         upstream: reset after 1000ms
         g: POST k7 p1
         wait 5ms
         upstream: reset after 1000ms
         h: POST k8 p1
         wait 5ms
         upstream: reset after 1000ms
         i: POST k9 p1
         wait 5ms
         upstream: reset after 1000ms
         j: POST k1 p1 t2
         wait 5ms
         upstream: reset after 1000ms
         k: POST k2 p1 t2
         wait 5ms
         store: stops 3s
         wait 4s",
        expect![[r#"
            0      a → g1  POST k1 p1
            1        g1 → store  claim (a k1)
            2        store  granted attempt 1 (a k1)
            3      a → upstream  attempt 1
            5              upstream executes k1 p1 as #1
            5      b → g1  POST k2 p1
            6        g1 → store  claim (b k2)
            7        store  granted attempt 1 (b k2)
            8      b → upstream  attempt 1
            10             upstream executes k2 p1 as #2
            10     c → g1  POST k3 p1
            11       g1 → store  claim (c k3)
            12       store  granted attempt 1 (c k3)
            13     c → upstream  attempt 1
            15             upstream executes k3 p1 as #3
            15     d → g1  POST k4 p1
            16       g1 → store  claim (d k4)
            17       store  granted attempt 1 (d k4)
            18     d → upstream  attempt 1
            20             upstream executes k4 p1 as #4
            20     e → g1  POST k5 p1
            21       g1 → store  claim (e k5)
            22       store  granted attempt 1 (e k5)
            23     e → upstream  attempt 1
            25             upstream executes k5 p1 as #5
            25     f → g1  POST k6 p1
            26       g1 → store  claim (f k6)
            27       store  granted attempt 1 (f k6)
            28     f → upstream  attempt 1
            30             upstream executes k6 p1 as #6
            30     g → g1  POST k7 p1
            31       g1 → store  claim (g k7)
            32       store  granted attempt 1 (g k7)
            33     g → upstream  attempt 1
            35             upstream executes k7 p1 as #7
            35     h → g1  POST k8 p1
            36       g1 → store  claim (h k8)
            37       store  granted attempt 1 (h k8)
            38     h → upstream  attempt 1
            40             upstream executes k8 p1 as #8
            40     i → g1  POST k9 p1
            41       g1 → store  claim (i k9)
            42       store  granted attempt 1 (i k9)
            43     i → upstream  attempt 1
            45             upstream executes k9 p1 as #9
            45     j → g1  POST k1 p1 t2
            46       g1 → store  claim (j k1 t2)
            47       store  granted attempt 1 (j k1 t2)
            48     j → upstream  attempt 1
            50             upstream executes k1 p1 as #10
            50     k → g1  POST k2 p1 t2
            51       g1 → store  claim (k k2 t2)
            52       store  granted attempt 1 (k k2 t2)
            53     k → upstream  attempt 1
            55             upstream executes k2 p1 as #11
            505      g1 → store  mark unknown (a k1)
            515    c ← 503  executed;stored=?0;attempt=1;outcome=unknown
            520    d ← 503  executed;stored=?0;attempt=1;outcome=unknown
            525    e ← 503  executed;stored=?0;attempt=1;outcome=unknown
            800      g1 → store  mark unknown (c k3)
            1030   f ← 503  executed;stored=?0;attempt=1;outcome=unknown
            1035   g ← 503  executed;stored=?0;attempt=1;outcome=unknown
            1040   h ← 503  executed;stored=?0;attempt=1;outcome=unknown
            1045   i ← 503  executed;stored=?0;attempt=1;outcome=unknown
            1050   j ← 503  executed;stored=?0;attempt=1;outcome=unknown
            1055   k ← 503  executed;stored=?0;attempt=1;outcome=unknown
            1100     g1 → store  mark unknown (a k1)
            1400     g1 → store  mark unknown (h k8)
            1400   a ← 503  executed;stored=?0;attempt=1;outcome=unknown
            1600   b ← 503  executed;stored=?0;attempt=1;outcome=unknown
            1700     g1 → store  mark unknown (i k9)
            3000     g1 → store  mark unknown (i k9)
            3055     store  settled (a k1)
            3055     store  settled (c k3)
            3055     store  settled (a k1)
            3055     store  settled (h k8)
            3055     store  settled (i k9)
            3055     store  settled (i k9)
            3056     g1 → store  mark unknown (j k1 t2)
            3057     store  settled (j k1 t2)
            3058     g1 → store  mark unknown (k k2 t2)
            3059     store  settled (k k2 t2)
            3060     g1 → store  mark unknown (a k1)
            3061     store  settled (a k1)
            3062     g1 → store  mark unknown (b k2)
            3063     store  settled (b k2)
        "#]],
    );
}

#[test]
fn whoever_waits_gets_the_answer_of_the_attempt_that_runs() {
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
fn whoever_has_seen_two_attempts_fail_is_refused() {
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
fn whoever_has_waited_enough_is_refused_and_the_answer_is_stored_all_the_same() {
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
fn whoever_hangs_up_while_it_waits_is_forgotten() {
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
fn whoever_hangs_up_while_it_asks_again_executes_nothing() {
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

#[test]
fn a_client_that_does_not_wait_for_the_store_may_be_told_before_it() {
    check(
        "policy: after reply
         store: ok
         store: delay 200ms
         a: POST k1 p1
         wait 100ms
         b: POST k1 p1 g2
         wait 1s
         c: POST k1 p1 g2",
        expect![[r#"
            0      a → g1  POST k1 p1
            1        g1 → store  claim (a k1)
            2        store  granted attempt 1 (a k1)
            3      a → upstream  attempt 1
            5              upstream executes k1 p1 as #1
            10     a ← 201  executed;attempt=1  execution #1
            10       g1 → store  complete 201 (a k1)
            100    b → g2  POST k1 p1
            101      g2 → store  claim (b k1)
            102      store  in flight, attempt 1 (b k1)
            103    b ← 429  refused;attempt=1;reason=in-flight
            210      store  settled (a k1)
            1100   c → g2  POST k1 p1
            1101     g2 → store  claim (c k1)
            1102     store  completed 201 by attempt 1 (c k1)
            1103   c ← 201  replayed;attempt=1;age=0;ttl=59  execution #1
        "#]],
    );
}

#[test]
fn a_look_up_tells_what_is_known_and_changes_nothing() {
    check(
        "a: GET k1
         wait 100ms
         upstream: 201 after 500ms
         b: POST k1 p1
         wait 100ms
         c: GET k1 g2
         wait 1s
         d: GET k1 g2
         e: POST k1 p1 g2",
        expect![[r#"
            0      a → g1  GET k1
            1        g1 → store  look (a k1)
            2        store  seen (a k1)
            3      a ← 404    {"state":"absent"}
            100    b → g1  POST k1 p1
            101      g1 → store  claim (b k1)
            102      store  granted attempt 1 (b k1)
            103    b → upstream  attempt 1
            105            upstream executes k1 p1 as #1
            200    c → g2  GET k1
            201      g2 → store  look (c k1)
            202      store  seen (c k1)
            203    c ← 200    {"attempt":1,"state":"running","status":null,"ttl":59}
            500      g1 → store  renew (b k1)
            501      store  renewed (b k1)
            605      g1 → store  complete 201 (b k1)
            606      store  settled (b k1)
            607    b ← 201  executed;stored=?1;attempt=1;ttl=60  execution #1
            1200   d → g2  GET k1
            1200   e → g2  POST k1 p1
            1201     g2 → store  look (d k1)
            1201     g2 → store  claim (e k1)
            1202     store  seen (d k1)
            1202     store  completed 201 by attempt 1 (e k1)
            1203   d ← 200    {"attempt":1,"state":"completed","status":201,"ttl":59}
            1203   e ← 201  replayed;attempt=1;age=0;ttl=59  execution #1
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

fn check(script: &str, transcript: Expect) {
    let mut lines = script.lines().map(str::trim).peekable();
    let mut plan = quiet();
    if let Some(policy) = lines.next_if(|line| line.starts_with("policy: ")) {
        for setting in policy.trim_start_matches("policy: ").split(", ") {
            match setting.split_once(' ').unwrap_or((setting, "")) {
                ("hold", _) => plan.holds = true,
                ("forward", _) => plan.forwards = true,
                ("conflict", _) => plan.conflicts = true,
                ("bypass", _) => plan.bypasses = true,
                ("observe", _) => plan.observes = [true; 2],
                ("after", "reply") => plan.saves_after = true,
                ("embedded", _) => plan.embedded = Some(1 << 20),
                ("wait", time) => plan.waits_ms = Some(millis(time)),
                ("shielded", _) => plan.shields = Some(Shielding { fields: 5, timeout_ms: 30_000 }),
                ("account-of", fields) => plan.shields = Some(Shielding { fields: count(fields), timeout_ms: 30_000 }),
                ("calls", number) => plan.limits.max_calls = count(number),
                ("batch", number) => plan.limits.max_batch = count(number),
                ("queue", number) => plan.limits.max_queued = count(number),
                ("outbox", bytes) => plan.limits.max_owed_bytes = count(bytes),
                ("lease", time) => plan.leases_ms = [millis(time); 2],
                ("ttl", time) => plan.ttl_s = millis(time) / 1000,
                other => panic!("no such setting: {other:?}"),
            }
        }
    }
    let mut world = World::new(plan, false);
    world.transcript = Some(Vec::new());
    let mut requests = HashMap::new();
    for line in lines {
        obey(&mut world, &mut requests, line);
    }
    world.run_until(world.now + 1_000);
    assert_eq!(world.broken_bounds, [""; 0]);
    assert!(world.carriages.is_empty() && world.treatments.is_empty(), "part of the script never came to pass");
    let lines: Vec<String> = world.transcript.into_iter().flatten().collect();
    transcript.assert_eq(&(lines.join("\n") + "\n"));
}

fn obey(world: &mut World, requests: &mut HashMap<String, usize>, line: &str) {
    if let Some(time) = line.strip_prefix("wait ") {
        return world.run_until(world.now + millis(time));
    }
    let (who, what) = line.split_once(": ").unwrap_or_else(|| panic!("no such line: {line}"));
    let words: Vec<&str> = what.split(' ').collect();
    match (who, words.as_slice()) {
        ("upstream", _) => world.treatments.push_back(treatment(&words)),
        ("store", ["down", time]) => world.store.down_until = world.now + millis(time),
        ("store", ["stops", time]) => world.store.stopped_until = world.now + millis(time),
        ("store", ["crashes", time]) => world.store.crash(world.now + millis(time)),
        ("store", ["flush"]) => world.store.flush(world.now),
        ("store", ["clock", "back", time]) => world.store.jump(world.now, -(millis(time) as i64)),
        ("store", ["clock", "forward", time]) => world.store.jump(world.now, millis(time) as i64),
        ("store", _) => world.carriages.push_back(carriage(&words)),
        ("record", [key]) => {
            let shown = world.shown((1, digit(key)));
            world.note(format!("{key} is {shown}"));
        }
        (_, ["hangs", "up"]) => world.hang_up(requests[who]),
        (_, ["times", "out"]) => world.end(requests[who]),
        (_, ["GET", key, rest @ ..]) => {
            let node = rest.iter().find(|word| word.starts_with('g')).map_or(1, |word| digit(word));
            let client = Client { tenant: 1, key: digit(key), payload: 1, start_ms: 0, tries: 1, insists: false };
            let request = world.look(who, client, usize::from(node) - 1);
            requests.insert(who.to_owned(), request);
        }
        (_, ["POST", key, payload, rest @ ..]) => {
            let numbered =
                |letter: char| rest.iter().find(|word| word.starts_with(letter)).map_or(1, |word| digit(word));
            let client = Client {
                tenant: numbered('t'),
                key: digit(key),
                payload: digit(payload),
                start_ms: 0,
                tries: 1,
                insists: false,
            };
            let node = usize::from(numbered('g')) - 1;
            let request = world.send(who, usize::MAX, client, node);
            world.requests[request].is_quoted = rest.contains(&"quoted");
            requests.insert(who.to_owned(), request);
        }
        (_, ["stops", time]) => world.pause(usize::from(digit(who)) - 1, millis(time)),
        (_, ["loses", "a", "worker"]) => world.crash_worker(usize::from(digit(who)) - 1),
        (_, ["crashes"]) => world.crash(usize::from(digit(who)) - 1, 100),
        (_, ["reloads"]) => world.reload(usize::from(digit(who)) - 1, 0),
        _ => panic!("no such line: {line}"),
    }
}

fn carriage(words: &[&str]) -> Carriage {
    let plain = Carriage { there_ms: 1, back_ms: 1, ..Carriage::default() };
    match words {
        ["ok"] => plain,
        ["lose", "call"] => Carriage { is_lost: true, ..plain },
        ["lose", "reply"] => Carriage { reply: Handling::Lost, ..plain },
        ["cross"] => Carriage { reply: Handling::Crossed, ..plain },
        ["garbage"] => Carriage { reply: Handling::Garbage, ..plain },
        ["truncate"] => Carriage { reply: Handling::Truncated, ..plain },
        ["refuse"] => Carriage { is_refused: true, ..plain },
        ["fail"] => Carriage { fails: true, ..plain },
        ["unreadable"] => Carriage { fails: true, is_unreadable: true, ..plain },
        ["again", time] => Carriage { again_after_ms: Some(millis(time)), ..plain },
        ["delay", time] => Carriage { there_ms: millis(time), ..plain },
        other => panic!("no such call: {other:?}"),
    }
}

pub fn treatment(words: &[&str]) -> Treatment {
    match words {
        [what @ .., "trickles", time] => Treatment { body_ms: millis(time), ..treatment(what) },
        [what @ .., "after", time] => Treatment { work_ms: millis(time), ..treatment(what) },
        [what @ .., "at", "length"] => Treatment { size: TOO_LARGE_BODY, ..treatment(what) },
        [what @ .., "for", time] => {
            let plain = treatment(what);
            Treatment { steering: Steering { ttl_s: Some(millis(time) / 1000), ..plain.steering }, ..plain }
        }
        [what @ .., "says", fate] => {
            let fates = ["store", "release", "retry", "unknown"];
            let fate = fates.into_iter().find(|known| known == fate);
            Treatment { steering: Steering { fate, ttl_s: None }, ..treatment(what) }
        }
        what => Treatment::new(end(&what.join(" ")), 5),
    }
}

fn end(words: &str) -> End {
    match words {
        "reset" => End::ResetsAfter,
        "reset before" => End::ResetsBefore,
        "lost" => End::Lost,
        "unsent" => End::Unsent,
        "dies in body" => End::DiesInBody,
        "unreached" => End::Unreached,
        "times out" => End::TimesOut,
        tried if tried.starts_with("retried ") => End::Retried(status_of(&tried[8..])),
        status => End::Answers(status_of(status)),
    }
}

fn status_of(text: &str) -> u16 {
    text.parse().unwrap_or_else(|_| panic!("no such end: {text}"))
}
fn millis(text: &str) -> u64 {
    let (number, unit) = match text.strip_suffix("ms") {
        Some(number) => (number, 1),
        None => (text.trim_end_matches('s'), 1000),
    };
    unit * number.parse::<u64>().unwrap_or_else(|_| panic!("no such time: {text}"))
}

fn count(text: &str) -> usize {
    text.parse().unwrap_or_else(|_| panic!("no such number: {text}"))
}

fn digit(word: &str) -> u8 {
    word.trim_start_matches(|letter: char| letter.is_alphabetic()).parse().unwrap_or_else(|_| panic!("{word}"))
}

/// Two gateways of one worker each, and nothing that strikes.
pub fn quiet() -> Plan {
    Plan {
        seed: 0,
        faults: Faults::NONE,
        strikes: 0,
        calm_ms: 1,
        gateways: 2,
        workers: 1,
        forwards: false,
        holds: false,
        conflicts: false,
        waits_ms: None,
        saves_after: false,
        looks: false,
        shields: None,
        bypasses: false,
        observes: [false; 2],
        embedded: None,
        leases_ms: [1000; 2],
        ttl_s: 60,
        limits: Limits {
            attempts: 2,
            timeout_ms: 250,
            max_calls: 2,
            max_batch: 64,
            max_batch_bytes: 4096,
            large_bytes: None,
            max_queued: 1000,
            max_owed_bytes: 1 << 20,
            breaker_failures: 5,
            breaker_open_ms: 1000,
        },
        clients: Vec::new(),
    }
}
