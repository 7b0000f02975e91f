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
        expect![[r#"
            0      a → g1  POST k1 p1
            1        g1 → store  claim (a k1)
            2        store  granted attempt 1 (a k1)
            3        g1 → store  similar (a k1)
            4        store  settled (a k1)
            5      a → upstream  attempt 1
            7              upstream executes k1 p1 as #1
            12       g1 → store  mark unknown (a k1)
            13       store  settled (a k1)
            14     a ← 504  executed;stored=?0;attempt=1;outcome=unknown
            5000   b → g2  POST k2 p1
            5001     g2 → store  claim (b k2)
            5002     store  granted attempt 1 (b k2)
            5003     g2 → store  similar (b k1)
            5004     store  similar, 5000 ms ago (b k1)
            5005     g2 → store  look (b k1)
            5006     store  seen (b k1)
            5007   b → upstream  attempt 1
            5009           upstream executes k2 p1 as #2
            5014     g2 → store  complete 201 (b k2)
            5015     store  settled (b k2)
            5016   b ← 201  executed;stored=?1;attempt=1;ttl=60;similar=5  execution #2
            6000   c → g1  POST k2 p1 t2
            6000   d → g1  POST k2 p2
            6000   e → g1  POST k3 p2
            6001     g1 → store  claim (c k2 t2)
            6001     g1 → store  claim (d k2)
            6001     g1 → store  claim (e k3)
            6002     store  granted attempt 1 (c k2 t2)
            6002     store  mismatch (d k2)
            6002     store  granted attempt 1 (e k3)
            6003     g1 → store  similar (c k2 t2)
            6003     g1 → store  similar (e k3)
            6003   d ← 409  refused;reason=mismatch
            6004     store  settled (c k2 t2)
            6004     store  settled (e k3)
            6005   c → upstream  attempt 1
            6005   e → upstream  attempt 1
            6007           upstream executes k2 p1 as #3
            6007           upstream executes k3 p2 as #4
            6012     g1 → store  complete 201 (c k2 t2)
            6012     g1 → store  complete 201 (e k3)
            6013     store  settled (c k2 t2)
            6013     store  settled (e k3)
            6014   c ← 201  executed;stored=?1;attempt=1;ttl=60  execution #3
            6014   e ← 201  executed;stored=?1;attempt=1;ttl=60  execution #4
        "#]],
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
        expect![[r#"
            0      a → g1  POST k1 p1
            1        g1 → store  claim (a k1)
            2        store  granted attempt 1 (a k1)
            3        g1 → store  similar (a k1)
            4        store  settled (a k1)
            5      a → upstream  attempt 1
            7              upstream executes k1 p1 as #1
            12       g1 → store  mark unknown (a k1)
            13       store  settled (a k1)
            14     a ← 504  executed;stored=?0;attempt=1;outcome=unknown
            5000   b → g2  POST k2 p1
            5001     g2 → store  claim (b k2)
            5002     store  granted attempt 1 (b k2)
            5003     g2 → store  similar (b k1)
            5004     store  similar, 5000 ms ago (b k1)
            5005     g2 → store  look (b k1)
            5006     store  seen (b k1)
            5007     g2 → store  withdraw (b k2)
            5007   b ← 409  refused;reason=similar
            5008     store  settled (b k2)
            5607     g2 → store  withdraw (b k2)
            5608     store  settled (b k2)
            6000   c → g2  POST k2 p1
            6001     g2 → store  claim (c k2)
            6002     store  granted attempt 2 (c k2)
            6003     g2 → store  similar (c k1)
            6004     store  similar, 6000 ms ago (c k1)
            6005     g2 → store  look (c k1)
            6006     store  seen (c k1)
            6007   c → upstream  attempt 2
            6009           upstream executes k2 p1 as #2
            6014     g2 → store  complete 201 (c k2)
            6015     store  settled (c k2)
            6016   c ← 201  executed;stored=?1;attempt=2;ttl=60;similar=6  execution #2
        "#]],
    );
}

#[test]
fn of_two_keys_at_once_one_is_refused() {
    check(
        "policy: refuses similar 60s
         upstream: 201 after 500ms
         a: POST k1 p1
         b: POST k2 p1 g2",
        expect![[r#"
            0      a → g1  POST k1 p1
            0      b → g2  POST k2 p1
            1        g1 → store  claim (a k1)
            1        g2 → store  claim (b k2)
            2        store  granted attempt 1 (a k1)
            2        store  granted attempt 1 (b k2)
            3        g1 → store  similar (a k1)
            3        g2 → store  similar (b k1)
            4        store  settled (a k1)
            4        store  similar, 0 ms ago (b k1)
            5      a → upstream  attempt 1
            5        g2 → store  look (b k1)
            6        store  seen (b k1)
            7              upstream executes k1 p1 as #1
            7        g2 → store  withdraw (b k2)
            7      b ← 409  refused;reason=similar
            8        store  settled (b k2)
            400      g1 → store  renew (a k1)
            401      store  renewed (a k1)
            507      g1 → store  complete 201 (a k1)
            508      store  settled (a k1)
            509    a ← 201  executed;stored=?1;attempt=1;ttl=60  execution #1
            607      g2 → store  withdraw (b k2)
            608      store  settled (b k2)
        "#]],
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
        expect![[r#"
            0      a → g1  POST k1 p1
            1        g1 → store  claim (a k1)
            2        store  granted attempt 1 (a k1)
            3        g1 → store  similar (a k1)
            4        store  settled (a k1)
            5      a → upstream  attempt 1
            7              upstream executes k1 p1 as #1
            12       g1 → store  release (a k1)
            13       store  settled (a k1)
            14     a ← 404  executed;stored=?0;attempt=1;outcome=released  execution #1
            1000   b → g1  POST k2 p1
            1001     g1 → store  claim (b k2)
            1002     store  granted attempt 1 (b k2)
            1003     g1 → store  similar (b k1)
            1004     store  similar, 1000 ms ago (b k1)
            1005     g1 → store  look (b k1)
            1006     store  seen (b k1)
            1007     g1 → store  similar (b k1)
            1008     store  settled (b k1)
            1009   b → upstream  attempt 1
            1011           upstream executes k2 p1 as #2
            1016     g1 → store  complete 201 (b k2)
            1017     store  settled (b k2)
            1018   b ← 201  executed;stored=?1;attempt=1;ttl=60  execution #2
            2000   c → g1  POST k3 p1
            2001     g1 → store  claim (c k3)
            2002     store  granted attempt 1 (c k3)
            2003     g1 → store  similar (c k1)
            2004     store  similar, 996 ms ago (c k1)
            2005     g1 → store  look (c k2)
            2006     store  seen (c k2)
            2007   c → upstream  attempt 1
            2009           upstream executes k3 p1 as #3
            2014     g1 → store  release (c k3)
            2015     store  settled (c k3)
            2016   c ← 404  executed;stored=?0;attempt=1;outcome=released;similar=0  execution #3
            3000   d → g1  POST k4 p1
            3001     g1 → store  claim (d k4)
            3002     store  granted attempt 1 (d k4)
            3003     g1 → store  similar (d k1)
            3004     store  similar, 1000 ms ago (d k1)
            3005     g1 → store  look (d k3)
            3006     store  seen (d k3)
            3007     g1 → store  similar (d k1)
            3008     store  similar, 2000 ms ago (d k1)
            3009     g1 → store  look (d k2)
            3010     store  seen (d k2)
            3011     g1 → store  withdraw (d k4)
            3011   d ← 409  refused;reason=similar
            3012     store  settled (d k4)
            3600     g1 → store  withdraw (d k4)
            3601     store  settled (d k4)
        "#]],
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
        expect![[r#"
            0      a → g1  POST k1 p1
            1        g1 → store  claim (a k1)
            2        store  granted attempt 1 (a k1)
            3        g1 → store  similar (a k1)
            4        store  settled (a k1)
            5      a → upstream  attempt 1
            7              upstream executes k1 p1 as #1
            12       g1 → store  release for the same payload (a k1)
            13       store  settled (a k1)
            14     a ← 503  executed;stored=?0;attempt=1;outcome=retry  execution #1
            1000   b → g1  POST k1 p1
            1001     g1 → store  claim (b k1)
            1002     store  granted attempt 2 (b k1)
            1003     g1 → store  similar (b k1)
            1004     store  settled (b k1)
            1005   b → upstream  attempt 2
            1007           upstream executes k1 p1 as #2
            1012     g1 → store  complete 201 (b k1)
            1013     store  settled (b k1)
            1014   b ← 201  executed;stored=?1;attempt=2;ttl=60  execution #2
            4000   c → g1  POST k2 p1
            4001     g1 → store  claim (c k2)
            4002     store  granted attempt 1 (c k2)
            4003     g1 → store  similar (c k1)
            4004     store  settled (c k1)
            4005   c → upstream  attempt 1
            4007           upstream executes k2 p1 as #3
            4012     g1 → store  complete 201 (c k2)
            4013     store  settled (c k2)
            4014   c ← 201  executed;stored=?1;attempt=1;ttl=60  execution #3
        "#]],
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
        expect![[r#"
            0      a → g1  POST k1 p1
            1        g1 → store  claim (a k1)
            2        store  granted attempt 1 (a k1)
            3        g1 → store  similar (a k1)
            4        store  settled (a k1)
            4             the reply is lost
            400      g1 → store  similar (a k1)
            401      store  settled (a k1)
            401           the reply is lost
            700      g1 → store  withdraw (a k1)
            700    a ← 503  refused;reason=store-unavailable
            701      store  settled (a k1)
            1300     g1 → store  withdraw (a k1)
            1301     store  settled (a k1)
            2000   b → g1  POST k2 p1
            2001     g1 → store  claim (b k2)
            2002     store  granted attempt 1 (b k2)
            2003     g1 → store  similar (b k1)
            2004     store  similar, 1603 ms ago (b k1)
            2005     g1 → store  look (b k1)
            2006     store  seen (b k1)
            2007     g1 → store  similar (b k1)
            2008     store  settled (b k1)
            2009   b → upstream  attempt 1
            2011           upstream executes k2 p1 as #1
            2016     g1 → store  complete 201 (b k2)
            2017     store  settled (b k2)
            2018   b ← 201  executed;stored=?1;attempt=1;ttl=60  execution #1
        "#]],
    );
}
