//! Stories of operators, who say what became of an operation.

use expect_test::expect;

use super::check;

#[test]
fn what_did_not_run_runs_as_the_next_attempt_and_what_comes_late_is_refused() {
    check(
        "policy: hold
         upstream: 201 after 5s
         a: POST k1 p1
         wait 10ms
         g1: stops 3s
         wait 2s
         operator: not run k1
         b: POST k1 p1 g2
         wait 4s
         record: k1",
        expect![[r#"
            0      a → g1  POST k1 p1
            1        g1 → store  claim, no retry (a k1)
            2        store  granted attempt 1 (a k1)
            3      a → upstream  attempt 1
            5              upstream executes k1 p1 as #1
            10     g1 stops for 3000 ms
            2010   an operator says of k1: NotRun { attempt: 1 }; the store: settled
            2010   b → g2  POST k1 p1
            2011     g2 → store  claim, no retry (b k1)
            2012     store  granted attempt 2 (b k1)
            2013   b → upstream  attempt 2
            2015           upstream executes k1 p1 as #2
            2020     g2 → store  complete 201 (b k1)
            2021     store  settled (b k1)
            2022   b ← 201  executed;stored=?1;attempt=2;ttl=60  execution #2
            3010     g1 → store  mark unknown (a k1)
            3011     store  lost (a k1)
            5005     g1 → store  complete 201 (a k1)
            5006     store  lost (a k1)
            5007   a ← 201  executed;stored=?0;attempt=1;outcome=completed  execution #1
            5400     g1 → store  complete 201 (a k1)
            5401     store  lost (a k1)
            5800     g1 → store  complete 201 (a k1)
            5801     store  lost (a k1)
            6010   k1 is completed 201, attempt 2
            6200     g1 → store  complete 201 (a k1)
            6201     store  lost (a k1)
            6600     g1 → store  complete 201 (a k1)
            6601     store  lost (a k1)
        "#]],
    );
}

#[test]
fn what_ran_is_not_replayable_and_its_word_waits_for_the_lease() {
    check(
        "policy: hold
         upstream: times out
         a: POST k1 p1
         wait 100ms
         operator: ran k1
         wait 1s
         operator: ran k1
         b: POST k1 p1 g2
         wait 10ms
         c: POST k1 p2
         record: k1",
        expect![[r#"
            0      a → g1  POST k1 p1
            1        g1 → store  claim, no retry (a k1)
            2        store  granted attempt 1 (a k1)
            3      a → upstream  attempt 1
            5              upstream executes k1 p1 as #1
            10       g1 → store  mark unknown (a k1)
            11       store  settled (a k1)
            12     a ← 504  executed;stored=?0;attempt=1;outcome=unknown
            100    an operator says of k1: Ran { status: Some(201) }; the store: unknown, attempt 1, wait 902 ms
            1100   an operator says of k1: Ran { status: Some(201) }; the store: settled
            1100   b → g2  POST k1 p1
            1101     g2 → store  claim, no retry (b k1)
            1102     store  completed 201 by attempt 1, not replayable (b k1)
            1103   b ← 409  refused;attempt=1;reason=not-replayable
            1110   c → g1  POST k1 p2
            1110   k1 is completed 201, not replayable, attempt 1
            1111     g1 → store  claim, no retry (c k1)
            1112     store  mismatch (c k1)
            1113   c ← 409  refused;reason=mismatch
        "#]],
    );
}

#[test]
fn a_late_try_of_a_claim_that_was_settled_is_stale() {
    check(
        "policy: hold
         store: again 3s
         upstream: times out
         a: POST k1 p1
         wait 2s
         operator: forget k1
         wait 2s
         record: k1
         b: POST k1 p2 g2",
        expect![[r#"
            0      a → g1  POST k1 p1
            1        g1 → store  claim, no retry (a k1)
            2        store  granted attempt 1 (a k1)
            3      a → upstream  attempt 1
            5              upstream executes k1 p1 as #1
            10       g1 → store  mark unknown (a k1)
            11       store  settled (a k1)
            12     a ← 504  executed;stored=?0;attempt=1;outcome=unknown
            2000   an operator says of k1: Forget; the store: settled
            3001     store  stale (a k1) (a duplicate)
            4000   k1 is open, attempt 1
            4000   b → g2  POST k1 p2
            4001     g2 → store  claim, no retry (b k1)
            4002     store  granted attempt 2 (b k1)
            4003   b → upstream  attempt 2
            4005           upstream executes k1 p2 as #2
            4010     g2 → store  complete 201 (b k1)
            4011     store  settled (b k1)
            4012   b ← 201  executed;stored=?1;attempt=2;ttl=60  execution #2
        "#]],
    );
}
