//! What a gateway owes a store that is away, crashes, or forgets.
//!
//! Its one rule: each is a script and its whole transcript; `mod.rs` says how a script is written.

use expect_test::expect;

use super::check;

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
