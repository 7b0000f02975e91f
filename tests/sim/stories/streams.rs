//! Streams to the store: lost, silent, late, and answered in the wrong way.
//!
//! Its one rule: each is a script and its whole transcript; `mod.rs` says how a script is written.

use expect_test::expect;

use super::check;

#[test]
fn a_stream_that_is_cut_before_a_reply_leaves_nothing_behind() {
    check(
        "policy: streams
         store: cut before
         a: POST k1 p1
         wait 2s
         record: k1",
        expect![[r#"
            0      a → g1  POST k1 p1
            1        g1 → store  claim (a k1)
            3             the stream has ended
            100      g1 → store  claim (a k1)
            101      store  granted attempt 1 (a k1)
            102    a → upstream  attempt 1
            104            upstream executes k1 p1 as #1
            109      g1 → store  complete 201 (a k1)
            110      store  settled (a k1)
            111    a ← 201  executed;stored=?1;attempt=1;ttl=60  execution #1
            2000   k1 is completed 201, attempt 1
        "#]],
    );
}

#[test]
fn what_ran_on_a_stream_that_is_cut_after_it_is_found_by_the_next_try_of_its_owner() {
    check(
        "policy: streams
         store: cut after
         a: POST k1 p1
         wait 1s
         store: cut inside
         b: POST k2 p1
         wait 1s",
        expect![[r#"
            0      a → g1  POST k1 p1
            1        g1 → store  claim (a k1)
            2        store  granted attempt 1 (a k1)
            3             the stream has ended
            100      g1 → store  claim (a k1)
            101      store  granted attempt 1 (a k1)
            102    a → upstream  attempt 1
            104            upstream executes k1 p1 as #1
            109      g1 → store  complete 201 (a k1)
            110      store  settled (a k1)
            111    a ← 201  executed;stored=?1;attempt=1;ttl=60  execution #1
            1000   b → g1  POST k2 p1
            1001     g1 → store  claim (b k2)
            1002     store  granted attempt 1 (b k2)
            1003          the stream has ended
            1100     g1 → store  claim (b k2)
            1101     store  granted attempt 1 (b k2)
            1102   b → upstream  attempt 1
            1104           upstream executes k2 p1 as #2
            1109     g1 → store  complete 201 (b k2)
            1110     store  settled (b k2)
            1111   b ← 201  executed;stored=?1;attempt=1;ttl=60  execution #2
        "#]],
    );
}

#[test]
fn all_that_is_under_way_on_a_stream_that_is_lost_is_asked_again_on_the_next() {
    check(
        "policy: streams, batch 1, calls 8
         store: delay 100ms
         store: cut after
         store: ok
         a: POST k1 p1
         b: POST k2 p1
         c: POST k3 p1
         wait 2s",
        expect![[r#"
            0      a → g1  POST k1 p1
            0      b → g1  POST k2 p1
            0      c → g1  POST k3 p1
            1        g1 → store  claim (a k1)
            1        g1 → store  claim (b k2)
            1        g1 → store  claim (c k3)
            101      store  granted attempt 1 (a k1)
            101      store  granted attempt 1 (b k2)
            102    a → upstream  attempt 1
            102           the stream has ended
            104            upstream executes k1 p1 as #1
            109      g1 → store  complete 201 (a k1)
            110      store  settled (a k1)
            111      g1 → store  claim (c k3)
            111    a ← 201  executed;stored=?1;attempt=1;ttl=60  execution #1
            112      store  granted attempt 1 (c k3)
            113    c → upstream  attempt 1
            115            upstream executes k3 p1 as #2
            120      g1 → store  complete 201 (c k3)
            121      store  settled (c k3)
            122    c ← 201  executed;stored=?1;attempt=1;ttl=60  execution #2
            200      g1 → store  claim (b k2)
            201      store  granted attempt 1 (b k2)
            202    b → upstream  attempt 1
            204            upstream executes k2 p1 as #3
            209      g1 → store  complete 201 (b k2)
            210      store  settled (b k2)
            211    b ← 201  executed;stored=?1;attempt=1;ttl=60  execution #3
        "#]],
    );
}

#[test]
fn a_late_reply_is_dropped_and_what_comes_after_it_counts() {
    check(
        "policy: streams
         store: delay 400ms
         store: ok
         a: POST k1 p1
         wait 3s
         b: POST k1 p1",
        expect![[r#"
            0      a → g1  POST k1 p1
            1        g1 → store  claim (a k1)
            400      g1 → store  claim (a k1)
            401      store  granted attempt 1 (a k1)
            401      store  granted attempt 1 (a k1)
            402    a → upstream  attempt 1
            404            upstream executes k1 p1 as #1
            409      g1 → store  complete 201 (a k1)
            410      store  settled (a k1)
            411    a ← 201  executed;stored=?1;attempt=1;ttl=60  execution #1
            3000   b → g1  POST k1 p1
            3001     g1 → store  claim (b k1)
            3002     store  completed 201 by attempt 1 (b k1)
            3003     g1 → store  claim (b k1)
            3004     store  completed 201 by attempt 1 (b k1)
            3005   b ← 201  replayed;attempt=1;age=2;ttl=57  execution #1
        "#]],
    );
}

#[test]
fn a_stream_that_is_silent_for_four_time_outs_is_given_up() {
    check(
        "policy: streams
         store: lose call
         a: POST k1 p1
         wait 3s
         b: POST k1 p1",
        expect![[r#"
            0      a → g1  POST k1 p1
            1        g1 → store  claim (a k1)
            2             the stream falls silent
            400      g1 → store  claim (a k1)
            700      g1 → store  withdraw (a k1)
            700    a ← 503  refused;reason=store-unavailable
            1100          the stream is given up: silent for four time-outs
            1100     g1 → store  withdraw (a k1)
            1101     store  settled (a k1)
            1700     g1 → store  withdraw (a k1)
            1701     store  settled (a k1)
            3000   b → g1  POST k1 p1
            3001     g1 → store  claim (b k1)
            3002     store  granted attempt 1 (b k1)
            3003   b → upstream  attempt 1
            3005           upstream executes k1 p1 as #1
            3010     g1 → store  complete 201 (b k1)
            3011     store  settled (b k1)
            3012   b ← 201  executed;stored=?1;attempt=1;ttl=60  execution #1
        "#]],
    );
}

#[test]
fn a_doubled_reply_ends_the_stream_and_counts_once() {
    check(
        "policy: streams
         store: double
         a: POST k1 p1
         wait 1s
         b: POST k1 p1",
        expect![[r#"
            0      a → g1  POST k1 p1
            1        g1 → store  claim (a k1)
            2        store  granted attempt 1 (a k1)
            3             the stream is given up: garbage
            3      a → upstream  attempt 1
            5              upstream executes k1 p1 as #1
            10       g1 → store  complete 201 (a k1)
            11       store  settled (a k1)
            12     a ← 201  executed;stored=?1;attempt=1;ttl=60  execution #1
            1000   b → g1  POST k1 p1
            1001     g1 → store  claim (b k1)
            1002     store  completed 201 by attempt 1 (b k1)
            1003     g1 → store  claim (b k1)
            1004     store  completed 201 by attempt 1 (b k1)
            1005   b ← 201  replayed;attempt=1;age=0;ttl=59  execution #1
        "#]],
    );
}

#[test]
fn a_reply_to_another_question_counts_for_nothing_and_ends_the_stream() {
    check(
        "policy: streams
         store: cross
         store: cross
         a: POST k1 p1
         wait 5ms
         b: POST k1 p2 g2
         wait 2s",
        expect![[r#"
            0      a → g1  POST k1 p1
            1        g1 → store  claim (a k1)
            2        store  granted attempt 1 (a k1)
            3      a → upstream  attempt 1
            5              upstream executes k1 p1 as #1
            5      b → g2  POST k1 p2
            6        g2 → store  claim (b k1)
            7        store  mismatch (b k1)
            8             the stream is given up: transport
            10       g1 → store  complete 201 (a k1)
            11       store  settled (a k1)
            12     a ← 201  executed;stored=?1;attempt=1;ttl=60  execution #1
            107      g2 → store  claim (b k1)
            108      store  mismatch (b k1)
            109    b ← 409  refused;reason=mismatch
            307      g2 → store  withdraw (b k1)
            308      store  lost (b k1)
        "#]],
    );
}

#[test]
fn bytes_that_are_no_reply_end_the_stream() {
    check(
        "policy: streams
         store: garbage
         a: POST k1 p1
         wait 2s",
        expect![[r#"
            0      a → g1  POST k1 p1
            1        g1 → store  claim (a k1)
            2        store  granted attempt 1 (a k1)
            3             the stream is given up: garbage
            100      g1 → store  claim (a k1)
            101      store  granted attempt 1 (a k1)
            102    a → upstream  attempt 1
            104            upstream executes k1 p1 as #1
            109      g1 → store  complete 201 (a k1)
            110      store  settled (a k1)
            111    a ← 201  executed;stored=?1;attempt=1;ttl=60  execution #1
        "#]],
    );
}

#[test]
fn the_script_is_sent_to_a_store_that_has_forgotten_it() {
    check(
        "policy: streams
         store: forgets the script
         a: POST k1 p1
         wait 1s",
        expect![[r#"
            0      a → g1  POST k1 p1
            1        g1 → store  claim (a k1)
            4        store  granted attempt 1 (a k1)
            5      a → upstream  attempt 1
            7              upstream executes k1 p1 as #1
            12       g1 → store  complete 201 (a k1)
            13       store  settled (a k1)
            14     a ← 201  executed;stored=?1;attempt=1;ttl=60  execution #1
        "#]],
    );
}

#[test]
fn a_store_that_refuses_a_command_is_asked_again_and_its_stream_stays() {
    check(
        "policy: streams
         store: refuses
         a: POST k1 p1
         wait 1s",
        expect![[r#"
            0      a → g1  POST k1 p1
            1        g1 → store  claim (a k1)
            2        store  refuses: LOADING it reads
            3             the call fails: loading
            100      g1 → store  claim (a k1)
            101      store  granted attempt 1 (a k1)
            102    a → upstream  attempt 1
            104            upstream executes k1 p1 as #1
            109      g1 → store  complete 201 (a k1)
            110      store  settled (a k1)
            111    a ← 201  executed;stored=?1;attempt=1;ttl=60  execution #1
        "#]],
    );
}

#[test]
fn a_worker_that_is_lost_leaves_its_streams_and_its_claim_lapses() {
    check(
        "policy: streams
         upstream: 201 after 300ms
         a: POST k1 p1
         wait 100ms
         g1: loses a worker
         b: POST k1 p1
         wait 2s
         c: POST k1 p1",
        expect![[r#"
            0      a → g1  POST k1 p1
            1        g1 → store  claim (a k1)
            2        store  granted attempt 1 (a k1)
            3      a → upstream  attempt 1
            5              upstream executes k1 p1 as #1
            100    g1 loses a worker
            100    a ← connection closed
            100    b → g1  POST k1 p1
            101      g1 → store  claim (b k1)
            102      store  in flight, attempt 1 (b k1)
            103    b ← 429  refused;attempt=1;reason=in-flight
            2100   c → g1  POST k1 p1
            2101     g1 → store  claim (c k1)
            2102     store  granted attempt 2, in doubt (c k1)
            2103   c → upstream  attempt 2
            2105           upstream executes k1 p1 as #2
            2110     g1 → store  complete 201 (c k1)
            2111     store  settled (c k1)
            2112   c ← 201  executed;stored=?1;attempt=2;ttl=60  execution #2
        "#]],
    );
}
