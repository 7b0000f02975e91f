//! What a retry, another payload and a look-up get of an operation that has run.
//!
//! Its one rule: each is a script and its whole transcript; `mod.rs` says how a script is written.

use expect_test::expect;

use super::check;

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
