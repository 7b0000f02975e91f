//! Keys that the gateway has issued.
//!
//! Its one rule: each is a script and its whole transcript; `mod.rs` says how a script is written.

use expect_test::expect;

use super::check;

#[test]
fn an_issued_key_counts_for_the_caller_that_it_was_issued_to_alone() {
    check(
        "policy: issued 10s
         a: POST k1 p1
         b: POST k1 p1 t2 stolen g2
         wait 1s
         c: POST k1 p1 t2 g2",
        expect![[r#"
            0      a → g1  POST k1 p1
            0      b → g2  POST k1 p1 t2
            1      b ← 400  refused;reason=key-invalid
            1        g1 → store  claim (a k1)
            2        store  granted attempt 1 (a k1)
            3      a → upstream  attempt 1
            5              upstream executes k1 p1 as #1
            10       g1 → store  complete 201 (a k1)
            11       store  settled (a k1)
            12     a ← 201  executed;stored=?1;attempt=1;ttl=60  execution #1
            1000   c → g2  POST k1 p1 t2
            1001     g2 → store  claim (c k1 t2)
            1002     store  granted attempt 1 (c k1 t2)
            1003   c → upstream  attempt 1
            1005           upstream executes k1 p1 as #2
            1010     g2 → store  complete 201 (c k1 t2)
            1011     store  settled (c k1 t2)
            1012   c ← 201  executed;stored=?1;attempt=1;ttl=60  execution #2
        "#]],
    );
}

#[test]
fn an_expired_key_still_replays_what_it_made_and_begins_nothing() {
    check(
        "policy: issued 2s
         a: POST k1 p1
         wait 3s
         b: POST k1 p1 g2
         c: POST k2 p1",
        expect![[r#"
            0      a → g1  POST k1 p1
            1        g1 → store  claim (a k1)
            2        store  granted attempt 1 (a k1)
            3      a → upstream  attempt 1
            5              upstream executes k1 p1 as #1
            10       g1 → store  complete 201 (a k1)
            11       store  settled (a k1)
            12     a ← 201  executed;stored=?1;attempt=1;ttl=60  execution #1
            3000   b → g2  POST k1 p1
            3000   c → g1  POST k2 p1
            3001     g2 → store  claim (b k1)
            3001     g1 → store  claim (c k2)
            3002     store  completed 201 by attempt 1 (b k1)
            3002     store  seen (c k2)
            3003   b ← 201  replayed;attempt=1;age=2;ttl=57  execution #1
            3003   c ← 400  refused;reason=key-invalid
        "#]],
    );
}

#[test]
fn an_expired_key_whose_claim_was_lost_begins_nothing_afterwards() {
    check(
        "policy: issued 2s, forward
         wait 3s
         store: lose reply
         store: lose reply
         a: POST k1 p1
         wait 2s
         b: POST k1 p1",
        expect![[r#"
            3000   a → g1  POST k1 p1
            3001     g1 → store  claim (a k1)
            3002     store  seen (a k1)
            3002          the reply is lost
            3400     g1 → store  claim (a k1)
            3401     store  seen (a k1)
            3401          the reply is lost
            3700     g1 → store  withdraw (a k1)
            3700   a ← 503  refused;reason=store-unavailable
            3701     store  settled (a k1)
            4300     g1 → store  withdraw (a k1)
            4301     store  settled (a k1)
            5000   b → g1  POST k1 p1
            5001     g1 → store  claim (b k1)
            5002     store  seen (b k1)
            5003   b ← 400  refused;reason=key-invalid
        "#]],
    );
}

#[test]
fn the_record_of_an_issued_key_outlives_it_though_the_service_wants_it_shorter() {
    check(
        "policy: issued 10s
         upstream: 201 for 1s
         a: POST k1 p1
         wait 3s
         b: POST k1 p1",
        expect![[r#"
            0      a → g1  POST k1 p1
            1        g1 → store  claim (a k1)
            2        store  granted attempt 1 (a k1)
            3      a → upstream  attempt 1
            5              upstream executes k1 p1 as #1
            10       g1 → store  complete 201 (a k1)
            11       store  settled (a k1)
            12     a ← 201  executed;stored=?1;attempt=1;ttl=10  execution #1
            3000   b → g1  POST k1 p1
            3001     g1 → store  claim (b k1)
            3002     store  completed 201 by attempt 1 (b k1)
            3003   b ← 201  replayed;attempt=1;age=2;ttl=7  execution #1
        "#]],
    );
}
