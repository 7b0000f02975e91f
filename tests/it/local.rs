//! The embedded store on cells that behave as Envoy's do: it answers as the model does, and keeps to its bytes.
//!
//! Its one rule: whatever other workers, the host or broken cells do, nothing is granted that the model would not grant.
//! It does not know Envoy.

#![expect(clippy::indexing_slicing, clippy::panic, reason = "a test that finds nothing there has failed")]

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use envoy_idempotency::command::{Command, CommandKind, Failure, StoreReply};
use envoy_idempotency::fingerprint::Fingerprint;
use envoy_idempotency::key::{KeyForm, Name};
use envoy_idempotency::record::{Owner, RELEASED_KEPT, Record};
use envoy_idempotency::store::local::{SharedMap, Table};
use envoy_idempotency::store::model;
use proptest::prelude::*;

use crate::gateways::{Gateways, LEASE, TTL, deeds, timeless};

/// Small enough that the clock hand sees the whole table at once: 64 buckets.
const SMALL: u64 = 16 * 1024;
const ROOMY: u64 = 256 * 1024;

/// A new record of a claim without a key of ours: name, length, head, fingerprint, owner, end of the lease.
const CLAIMED: u64 = 32 + 4 + 18 + 32 + 16 + 8;
/// What a completed record with a response of eight bytes takes: the record, and the response with place and name.
const COMPLETED: u64 = CLAIMED + 12 + 40 + 8;
/// What a claimed record may grow by: a completion with a body's place takes 11 bytes more, released owners 16 each.
const GROWTH: u64 = 12 + 16 * RELEASED_KEPT as u64;

proptest! {
    #![proptest_config(ProptestConfig { cases: 10_000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Two workers take turns; a third of all writes find that somebody else was faster.
    #[test]
    fn the_table_answers_as_the_model_does(deeds in deeds(5, 40), seed in any::<u64>()) {
        let host = Host::default();
        let tables = [host.open(ROOMY), host.open(ROOMY)];
        if seed % 4 == 0 {
            let turns = Cell::new(seed);
            host.meddle(move |_| {
                turns.set(turns.get().wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1));
                (turns.get() >> 33).is_multiple_of(3).then_some(Fault::Mismatch)
            });
        }
        let (mut gateways, mut now_ms, mut records) = (Gateways::default(), 0, BTreeMap::<Name, Record>::new());
        for (turn, deed) in deeds.iter().enumerate() {
            now_ms += deed.wait_ms;
            let call = gateways.call(deed);
            let expected = model::apply(records.get(&call.name).cloned(), &call, now_ms);
            if let Some(record) = expected.record {
                records.insert(call.name, record);
            }
            gateways.hear(&call, &expected.reply);
            let answer = tables[turn % 2].apply(call.clone(), now_ms);
            prop_assert_eq!(&answer, &expected.reply, "{:?}", call);
            if deed.wait_ms == TTL {
                tables[turn % 2].sweep(64, now_ms);
            }
            prop_assert_eq!(tables[0].size(), (host.bytes(), host.records()));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn under_pressure_bytes_stay_bounded_and_what_was_stored_is_there(deeds in deeds(250, 400), size in 0..3000usize) {
        let host = Host::default();
        let (table, mut gateways, mut now_ms) = (host.open(SMALL), Gateways::default(), 0);
        let mut completed = BTreeMap::new();
        for deed in deeds {
            now_ms += deed.wait_ms / 10;
            // Every completion begins a life anew here, so that it is known which records are left.
            let mut call = Command { in_window: false, ..gateways.call(&deed) };
            if let CommandKind::Complete { response: Some(response), .. } = &mut call.kind {
                response.resize(size, 7);
            }
            let answer = table.apply(call.clone(), now_ms);
            gateways.hear(&call, &answer);
            let known = matches!(answer, StoreReply::Lost | FULL) || completed.get(&call.name).is_some_and(|end| *end > now_ms);
            if let (CommandKind::Complete { response, .. }, false) = (&call.kind, known) {
                completed.insert(call.name, now_ms + call.ttl_ms);
                let duplicate = Command { owner: Owner([99; 16]), kind: CLAIM, ..call.clone() };
                match (&answer, table.apply(duplicate, now_ms)) {
                    (StoreReply::Settled, StoreReply::Completed { response: kept, .. }) => prop_assert_eq!(&kept, response),
                    (StoreReply::Dropped, StoreReply::Completed { response: kept, .. }) => prop_assert_eq!(kept, None),
                    other => prop_assert!(false, "{:?} for {:?}", other, call),
                }
            }
            prop_assert_eq!(table.size(), (host.bytes(), host.records()));
            prop_assert!(table.bytes() <= SMALL + 250 * (GROWTH + 39), "{} bytes", table.bytes());
        }
    }
}

#[test]
fn two_operations_at_once_end_as_one_after_the_other() {
    let wrong: Vec<_> = interleavings().into_iter().filter(|(right, ..)| !right).map(|(.., story)| story).collect();
    assert!(wrong.is_empty(), "{} are wrong, such as {}", wrong.len(), wrong[0]);
}

#[test]
fn two_operations_at_once_account_for_what_they_leave() {
    let wrong: Vec<_> = interleavings().into_iter().filter(|(_, exact, _)| !exact).map(|(.., story)| story).collect();
    assert!(wrong.is_empty(), "{} are wrong, such as {}", wrong.len(), wrong[0]);
}

/// Every pair of operations, the second at every point of the first where another worker can get in between: whether
/// the answers are those of one after the other, whether the account is right, and what it was.
fn interleavings() -> Vec<(bool, bool, String)> {
    let mut all = Vec::new();
    let keep = |keep_fingerprint| CommandKind::Release { keep_fingerprint };
    let preludes: [&[(u8, CommandKind)]; 7] = [
        &[],
        &[(0, CLAIM)],
        &[(0, CLAIM), (0, complete(b"first"))],
        &[(0, CLAIM), (0, CommandKind::MarkUnknown)],
        &[(0, CLAIM), (0, keep(true))],
        &[(0, CLAIM), (9, CLAIM)],
        &[(0, CLAIM), (9, CLAIM), (9, keep(false))],
    ];
    let deeds =
        [CLAIM, complete(b"body"), complete(b"other"), keep(false), CommandKind::MarkUnknown, CommandKind::Renew];
    let askers = [(0, 0), (0, 1), (1, 0), (1, 2)];
    for (prelude, (a, b)) in preludes.iter().flat_map(|prelude| askers.map(|askers| (prelude, askers))) {
        for (first, second) in deeds.iter().flat_map(|first| deeds.iter().map(move |second| (first, second))) {
            let pair = [call(1, a, first.clone()), call(1, b, second.clone())];
            for point in 1.. {
                let host = Host::default();
                let (one, two) = (host.open(ROOMY), Rc::new(host.open(ROOMY)));
                let mut record = None;
                for (turn, (owner, operation)) in prelude.iter().enumerate() {
                    let (call, now_ms) = (call(1, *owner, operation.clone()), turn as u64 * LEASE);
                    record = model::apply(record.clone(), &call, now_ms).record.or(record);
                    one.apply(call, now_ms);
                }
                let now_ms = 2 * LEASE;
                let in_between = Rc::new(RefCell::new(None));
                let (answers, worker, late) = (Rc::clone(&in_between), Rc::clone(&two), pair[1].clone());
                host.meddle(move |access| {
                    if access == point {
                        *answers.borrow_mut() = Some(worker.apply(late.clone(), now_ms));
                    }
                    None
                });
                let answer = one.apply(pair[0].clone(), now_ms);
                host.leave();
                let Some(late) = in_between.take() else { break };
                let seen = (answer, late, one.apply(call(1, 7, CLAIM), now_ms));
                let orders = [[0, 1], [1, 0]].map(|order| {
                    let mut record = record.clone();
                    let mut answers = [StoreReply::Lost, StoreReply::Lost];
                    for index in order {
                        let outcome = model::apply(record.clone(), &pair[index], now_ms);
                        record = outcome.record.or(record);
                        answers[index] = outcome.reply;
                    }
                    let [first, second] = answers;
                    (first, second, model::apply(record, &call(1, 7, CLAIM), now_ms).reply)
                });
                let (said, held) = (one.bytes(), host.bytes());
                let story = format!(
                    "{prelude:?}, then {a}: {first:?} and, at access {point}, {b}: {second:?}: \
                     {seen:?}; {said} bytes accounted for, {held} held"
                );
                all.push((orders.contains(&seen), said == held, story));
            }
        }
    }
    all
}

#[test]
fn claims_never_take_more_than_there_is_and_what_exists_may_still_end() {
    let host = Host::default();
    let table = host.open(SMALL);
    let count = fill(&table, 0);
    assert_eq!(count, SMALL / CLAIMED);
    assert_eq!(table.size(), (count * CLAIMED, count));
    // Running, unknown and completed records do not go for a new one, however often it is asked for.
    for (index, operation) in
        [CommandKind::Renew, CommandKind::MarkUnknown, complete(&[7; CLAIMED as usize])].into_iter().enumerate()
    {
        let expected = if index == 2 { StoreReply::Dropped } else { StoreReply::Settled };
        for number in 0..count {
            assert_eq!(timeless(table.apply(call(number, 0, operation.clone()), 0)), expected);
        }
        assert_eq!(table.apply(call(count, 0, CLAIM), 0), FULL);
    }
    let answer = table.apply(call(5, 1, CLAIM), 0);
    assert!(matches!(answer, StoreReply::Completed { response: None, .. }), "{answer:?}");
    // The slack: what records grow by after they were let in.
    for (number, owner) in (0..count).flat_map(|number| (1..20).map(move |owner| (number, owner))) {
        assert_eq!(table.apply(call(number, owner, RELEASE), 0), StoreReply::Lost);
    }
    assert_eq!(table.bytes(), count * (CLAIMED + 4 + 16 * RELEASED_KEPT as u64));
    assert!(table.bytes() <= SMALL + count * GROWTH);
    assert_eq!(table.bytes(), host.bytes());
}

#[test]
fn what_exists_ends_although_nothing_can_be_accounted_for() {
    for operation in [complete(b"ten"), RELEASE, CommandKind::MarkUnknown, CommandKind::Withdraw] {
        let host = Host::default();
        let table = host.open(SMALL);
        assert_eq!(timeless(table.apply(call(1, 0, CLAIM), 0)), granted(1));
        host.put_cell(b'a', b"no account");
        let ended = timeless(table.apply(call(1, 0, operation.clone()), 0));
        assert!(matches!(ended, StoreReply::Settled | StoreReply::Dropped), "{operation:?}: {ended:?}");
    }
}

#[test]
fn workers_that_claim_at_once_exceed_the_bound_by_a_record_each_at_most() {
    let host = Host::default();
    let (one, two) = (host.open(SMALL), host.open(SMALL));
    let count = SMALL / CLAIMED;
    (0..count - 1).for_each(|number| assert_eq!(timeless(one.apply(call(number, 0, CLAIM), 0)), granted(1)));
    host.meddle(move |access| {
        if access < 6 {
            two.apply(call(count + access, 0, CLAIM), 0);
        }
        None
    });
    one.apply(call(count, 0, CLAIM), 0);
    host.leave();
    assert!(one.bytes() <= SMALL + CLAIMED, "{}", one.bytes());
    assert_eq!(one.bytes(), host.bytes());
}

#[test]
fn a_full_table_is_usable_again_once_its_records_have_expired_or_are_released() {
    let host = Host::default();
    let table = host.open(SMALL);
    let count = fill(&table, 0);
    assert_eq!(fill(&table, TTL), count, "all have expired");
    assert_eq!(table.apply(call(count, 0, CLAIM), TTL), FULL);
    (0..count).for_each(|number| assert_eq!(table.apply(call(number, 0, RELEASE), TTL), StoreReply::Settled));
    for number in 0..count {
        assert_eq!(timeless(table.apply(call(1000 + number, 0, CLAIM), TTL)), granted(1));
    }
    assert_eq!(table.bytes(), host.bytes());
}

#[test]
fn a_key_released_a_moment_ago_makes_room_in_a_large_table_too() {
    let host = Host::default();
    // More buckets than one operation visits, and not a byte to spare.
    let table = host.open(9620 * CLAIMED);
    let count = fill(&table, 0);
    for number in 0..20 {
        // A failure is said only when nothing can go, not when nothing could a moment ago.
        assert_eq!(table.apply(call(number, 0, RELEASE), 1), StoreReply::Settled);
        assert_eq!(timeless(table.apply(call(count + number, 0, CLAIM), 1)), granted(1), "after {number}");
        assert_eq!(table.apply(call(count + 100, 0, CLAIM), 1), FULL, "after {number}");
    }
}

#[test]
fn under_pressure_expired_records_go_before_released_ones() {
    let host = Host::default();
    let table = host.open(SMALL);
    (0..40).for_each(|number| assert_eq!(timeless(table.apply(call(number, 0, CLAIM), 0)), granted(1)));
    (40..50).for_each(|number| {
        table.apply(call(number, 0, CLAIM), LEASE);
        table.apply(call(number, 0, RELEASE), LEASE);
    });
    (50..180).for_each(|number| drop(table.apply(call(number, 0, CLAIM), TTL)));
    // Forty have expired, which is more than enough; those released keep their numbers.
    for number in 40..50 {
        assert_eq!(timeless(table.apply(call(number, 1, CLAIM), TTL)), granted(2));
    }
}

#[test]
fn under_pressure_released_records_go_before_bodies_and_bodies_go_oldest_first() {
    let host = Host::default();
    let table = host.open(SMALL);
    for number in 0..10 {
        table.apply(call(number, 0, CLAIM), 0);
        assert_eq!(table.apply(call(number, 0, complete(&[number as u8; 600])), 0), StoreReply::Settled);
    }
    let bodies = |table: &Table<Host>| (0..10).map(|number| is_replayed(table, number)).collect::<Vec<_>>();
    for number in 10..60 {
        table.apply(call(number, 0, CLAIM), 0);
        table.apply(call(number, 0, RELEASE), 0);
    }
    (60..100).for_each(|number| assert_eq!(timeless(table.apply(call(number, 0, CLAIM), 0)), granted(1)));
    assert_eq!(bodies(&table), [true; 10]);
    let mut gone = 0;
    for number in 100..200 {
        if table.apply(call(number, 0, CLAIM), 0) == FULL {
            break;
        }
        let kept = bodies(&table);
        let now_gone = kept.iter().filter(|kept| !**kept).count();
        assert!(kept.is_sorted(), "the oldest first: {kept:?}");
        assert!(now_gone <= gone + 1, "no more than needed");
        gone = now_gone;
    }
    assert_eq!(gone, 10);
    // The records are all there still.
    for number in (0..10).chain(60..100) {
        let answer = table.apply(call(number, 1, CLAIM), 0);
        assert!(
            matches!(answer, StoreReply::Completed { response: None, .. } | StoreReply::InFlight { .. }),
            "{answer:?}"
        );
    }
}

#[test]
fn a_body_that_can_never_fit_costs_nobody_elses() {
    let host = Host::default();
    let table = host.open(SMALL);
    for number in 0..2 {
        table.apply(call(number, 0, CLAIM), 0);
    }
    assert_eq!(table.apply(call(0, 0, complete(b"small")), 0), StoreReply::Settled);
    assert_eq!(table.apply(call(1, 0, complete(&[0; SMALL as usize + 1])), 0), StoreReply::Dropped);
    assert!(is_replayed(&table, 0));
}

#[test]
fn a_completion_that_drops_its_own_body_to_make_room_says_so() {
    let host = Host::default();
    let table = host.open(SMALL);
    let count = SMALL / CLAIMED - 1;
    (0..count).for_each(|number| assert_eq!(timeless(table.apply(call(number, 0, CLAIM), 0)), granted(1)));
    // Just enough for the body, its place and its name; nothing for the place in the record.
    let response = vec![7; (SMALL - count * CLAIMED - 40) as usize];
    let answer = table.apply(call(0, 0, complete(&response)), 0);
    let expected = if is_replayed(&table, 0) { StoreReply::Settled } else { StoreReply::Dropped };
    assert_eq!(answer, expected);
}

#[test]
fn no_response_goes_before_the_bytes_are_used() {
    let host = Host::default();
    let table = host.open(ROOMY);
    let count = ROOMY / COMPLETED;
    for number in 0..count {
        execute(&table, number, TTL, 0);
        assert_eq!(table.bytes(), host.bytes());
    }
    let kept = (0..count).filter(|number| is_replayed(&table, *number)).count() as u64;
    assert_eq!((kept, table.bytes()), (count, count * COMPLETED));
    // One more, and the oldest go: its record and response take as much room as four responses.
    execute(&table, count, TTL, 0);
    assert_eq!((0..=count).find(|number| is_replayed(&table, *number)), Some(4));
}

#[test]
fn responses_that_are_kept_long_outlast_any_number_of_those_that_are_not() {
    let host = Host::default();
    let table = host.open(ROOMY);
    let mut last = 0;
    for round in 0..50 {
        let now_ms = round * TTL;
        table.sweep(128, now_ms);
        for number in 0..400 {
            last = round * 400 + number;
            // The first of all, a run of them, and some in between.
            execute(&table, last, if last < 30 || last % 97 == 0 { 100 * TTL } else { TTL }, now_ms);
        }
    }
    let lost: Vec<u64> =
        (0..=last).filter(|it| *it < 30 || it % 97 == 0).filter(|it| !is_replayed(&table, *it)).collect();
    assert!(lost.is_empty(), "{lost:?}");
    // Cells are never deleted: there are as many as bodies were there at once, and some more.
    let places = host.sizes(b'b').len();
    assert!(places < 2 * (400 + 30 + 50 * 5), "{places} places");
}

#[test]
fn under_pressure_the_youngest_responses_stay_whatever_their_sizes() {
    let host = Host::default();
    let table = host.open(ROOMY);
    let mut random = 1_u64;
    for number in 0..4000_u64 {
        random = random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        // Now small ones, now large ones, so that places are made and left.
        let size = 8 + (random >> 33) as usize % if number % 1000 < 500 { 40 } else { 2000 };
        table.apply(call(number, 0, CLAIM), number);
        // Records last a while, so that they do not fill the table by and by.
        let done = Command { ttl_ms: 400, ..call(number, 0, complete(&vec![7; size])) };
        assert_eq!(table.apply(done, number), StoreReply::Settled, "{number}");
        assert_eq!(table.bytes(), host.bytes());
        if number % 20 == 0 {
            // Some 220 of the large ones fit.
            let gone: Vec<_> =
                (number.saturating_sub(150)..=number).filter(|it| !is_replayed_at(&table, *it, number)).collect();
            assert!(gone.is_empty(), "{number}: {gone:?} went before older ones");
        }
    }
}

#[test]
fn a_claim_is_not_refused_for_responses_that_could_go_however_many_went_before() {
    let host = Host::default();
    let table = host.open(1 << 20);
    (0..3000).for_each(|number| execute(&table, number, TTL, 0));
    table.sweep(512, TTL);
    assert_eq!(table.bytes(), 0);
    for number in 0..150 {
        table.apply(call(number, 0, CLAIM), TTL);
        assert_eq!(table.apply(call(number, 0, complete(&[7; 6800])), TTL), StoreReply::Settled);
    }
    for number in 10_000..15_000 {
        assert_eq!(timeless(table.apply(call(number, 0, CLAIM), TTL)), granted(1), "{number}");
    }
}

#[test]
fn a_sweep_of_an_empty_table_is_one_look_at_the_account() {
    let host = Host::default();
    let table = host.open(SMALL);
    for lead in [false, true] {
        if lead {
            table.apply(call(0, 0, CLAIM), 0);
            table.apply(call(0, 0, complete(b"paid")), 0);
            table.sweep(64, TTL);
        }
        let accesses = host.accesses();
        table.sweep(64, TTL);
        assert_eq!(host.accesses() - accesses, 1);
    }
}

#[test]
fn a_sweep_leaves_nothing_of_what_has_expired() {
    let all =
        |table: &Table<Host>, now_ms| (0..50).for_each(|number| drop(table.apply(call(number, 0, CLAIM), now_ms)));
    let done = |table: &Table<Host>, now_ms| {
        (0..20).for_each(|number| drop(table.apply(call(number, 0, complete(b"paid")), now_ms)));
    };
    type Life<'a> = (&'a str, &'a dyn Fn(&Table<Host>));
    let lives: [Life<'_>; 3] = [
        ("once", &|table| {
            all(table, 0);
            done(table, 0);
        }),
        ("completed again", &|table| {
            all(table, 0);
            done(table, 0);
            done(table, 0);
        }),
        ("used again after it had expired", &|table| {
            all(table, 0);
            done(table, 0);
            all(table, TTL);
        }),
    ];
    let mut left = Vec::new();
    for (life, lead) in lives {
        let host = Host::default();
        let table = host.open(SMALL);
        lead(&table);
        let before = table.bytes();
        table.sweep(64, TTL - 1);
        assert_eq!(table.bytes(), before, "{life}");
        table.sweep(32, 9 * TTL);
        table.sweep(32, 9 * TTL);
        left.push((life, table.bytes(), host.bytes()));
    }
    assert_eq!(left, lives.map(|(life, _)| (life, 0, 0)));
}

#[test]
fn a_bucket_that_is_not_one_is_a_failure_and_never_a_grant() {
    let (host, table) = stored();
    let whole = host.cell(b'r');
    let longer = [&whole[..], b"x"].concat();
    for broken in [b"x".as_slice(), &[0xff; 200], &longer, &whole[1..], &whole[..whole.len() - 1], &whole[..40]] {
        host.put_cell(b'r', broken);
        for operation in [CLAIM, RELEASE, CommandKind::Renew, complete(b"x")] {
            assert_eq!(table.apply(call_of(shared(2), 1, operation), 0), CORRUPT, "{broken:?}");
        }
        table.sweep(64, 0);
        assert_eq!(host.cell(b'r'), broken, "nobody repairs it by guessing");
    }
}

#[test]
fn a_bucket_changed_in_one_byte_or_cut_off_anywhere_never_grants_what_is_taken() {
    let whole = stored().0.cell(b'r');
    let changed = (0..whole.len()).flat_map(|at| [1, 0x40, 0xff].map(|change| (at, change)));
    let changed = changed.map(|(at, change)| {
        let mut broken = whole.clone();
        broken[at] ^= change;
        (format!("changed at {at}"), broken)
    });
    let cut = (0..whole.len()).map(|len| (format!("cut at {len}"), whole[..len].to_vec()));
    let mut granted = Vec::new();
    for (how, broken) in changed.chain(cut) {
        let (host, table) = stored();
        host.put_cell(b'r', &broken);
        let answers = [0, 1].map(|number| table.apply(call_of(shared(number), 1, CLAIM), 0));
        if answers.iter().any(|answer| matches!(answer, StoreReply::Granted { .. })) {
            granted.push(how);
        }
    }
    granted.dedup();
    assert!(granted.is_empty(), "{granted:?}");
}

#[test]
fn a_body_of_another_name_or_place_is_never_replayed() {
    let (host, table) = stored();
    let whole = host.cell(b'b');
    for at in 0..40 {
        let mut broken = whole.clone();
        broken[at] ^= 1;
        host.put_cell(b'b', &broken);
        assert_eq!(replayed(&table, shared(0), PAYLOAD, 0), None, "byte {at}");
    }
    for len in 1..40 {
        host.put_cell(b'b', &whole[..len]);
        assert_eq!(table.apply(call_of(shared(0), 1, CLAIM), 0), CORRUPT, "{len} bytes");
    }
}

#[test]
fn a_body_with_any_one_byte_changed_is_never_replayed() {
    let (host, table) = stored();
    let whole = host.cell(b'b');
    for at in 0..whole.len() {
        let mut broken = whole.clone();
        broken[at] ^= 1;
        host.put_cell(b'b', &broken);
        assert_eq!(replayed(&table, shared(0), PAYLOAD, 0), None, "byte {at}");
    }
}

/// The numbers are those of a table that knew of no locks.
#[test]
fn an_operation_costs_as_many_calls_of_the_host_as_it_did_before_there_were_locks() {
    let host = Host::default();
    let table = host.open(1 << 20);
    let counted = |kind| {
        let before = host.accesses();
        table.apply(call(1, 0, kind), 0);
        host.accesses() - before
    };
    let counts = [CLAIM, CLAIM, CommandKind::Renew, complete(b"it is done"), CLAIM].map(counted);
    assert_eq!(counts, [4, 2, 2, 6, 2]);
}

#[test]
fn an_account_that_cannot_be_true_is_a_failure() {
    for garbage in [&[0xff; 40][..], &[0xff; 39], &[0; 41], b"x"] {
        let (host, table) = stored();
        host.put_cell(b'a', garbage);
        assert_eq!(table.apply(call(77, 1, CLAIM), 0), CORRUPT, "{garbage:?}");
        table.sweep(64, 0);
    }
}

#[test]
fn a_salt_that_is_not_one_is_an_error() {
    // Ours are 8 bytes and odd.
    for garbage in [&[][..], &[1; 7], &[1; 9], &[0; 8]] {
        let host = Host::default();
        host.open(SMALL);
        host.put_cell(b's', garbage);
        assert_eq!(Table::open(host, b"plugin", SMALL, 7).err(), Some(Failure::Corrupt), "{garbage:?}");
    }
}

#[test]
fn plugins_and_geometries_do_not_see_each_others_records_and_workers_do() {
    let host = Host::default();
    let open = |plugin: &[u8], max_bytes, random| Table::open(host.clone(), plugin, max_bytes, random).unwrap();
    assert_eq!(timeless(open(b"one", SMALL, 1).apply(call(0, 0, CLAIM), 0)), granted(1));
    assert_eq!(open(b"one", SMALL, 2).apply(call(0, 1, CLAIM), 0), StoreReply::InFlight { attempt: 1 });
    assert_eq!(timeless(open(b"two", SMALL, 3).apply(call(0, 2, CLAIM), 0)), granted(1));
    assert_eq!(timeless(open(b"one", ROOMY, 4).apply(call(0, 3, CLAIM), 0)), granted(1));
}

#[test]
fn a_call_that_the_host_refuses_is_a_failure_at_every_point_and_never_two_grants() {
    for operation in [CLAIM, complete(b"paid"), RELEASE, CommandKind::MarkUnknown] {
        for point in 1..20 {
            let host = Host::default();
            let table = host.open(SMALL);
            if operation != CLAIM {
                table.apply(call(0, 0, CLAIM), 0);
            }
            host.meddle(move |access| (access == point).then_some(Fault::Refused));
            let answer = table.apply(call(0, 0, operation.clone()), 0);
            host.leave();
            let second = table.apply(call(0, 1, CLAIM), 0);
            match (&operation, &answer) {
                (CommandKind::Claim { .. }, StoreReply::Granted { .. }) => {
                    assert_eq!(second, StoreReply::InFlight { attempt: 1 })
                }
                (CommandKind::Complete { .. }, StoreReply::Dropped) => {
                    assert!(matches!(second, StoreReply::Completed { response: None, .. }));
                }
                (_, StoreReply::Settled) => {}
                _ => assert_eq!(answer, StoreReply::Failed(Failure::Host), "{operation:?} at {point}"),
            }
        }
    }
}

#[test]
fn writes_that_never_succeed_are_contention_and_change_nothing() {
    let host = Host::default();
    let table = host.open(SMALL);
    host.meddle(|_| Some(Fault::Mismatch));
    assert_eq!(table.apply(call(0, 0, CLAIM), 0), StoreReply::Failed(Failure::Contention));
    host.leave();
    assert_eq!(host.bytes(), 0);
}

#[test]
fn names_aimed_at_one_bucket_spread() {
    for shift in [0, 16, 32, 48] {
        let host = Host::default();
        let table = Table::open(host.clone(), b"plugin", 64 << 20, 0x9e37_79b9_7f4a_7c15).unwrap();
        for number in 0..20_000_u64 {
            let mut name = [0; 32];
            name[..8].copy_from_slice(&(number << shift).to_le_bytes());
            assert_eq!(timeless(table.apply(call_of(Name(name), 0, CLAIM), 0)), granted(1));
        }
        let largest = host.sizes(b'r').into_iter().max().unwrap_or_default();
        assert!(largest <= 16 * CLAIMED as usize, "a bucket of {largest} bytes, shift {shift}");
    }
}

const CLAIM: CommandKind = CommandKind::Claim { may_retry: true };
const RELEASE: CommandKind = CommandKind::Release { keep_fingerprint: false };
const FULL: StoreReply = StoreReply::Failed(Failure::Full);
const CORRUPT: StoreReply = StoreReply::Failed(Failure::Corrupt);
const PAYLOAD: Fingerprint = Fingerprint([5; 32]);

fn complete(response: &[u8]) -> CommandKind {
    CommandKind::Complete { status: 201, response: Some(response.to_vec()) }
}

fn granted(attempt: u32) -> StoreReply {
    StoreReply::Granted { attempt, doubt: false, key: KeyForm::Bare, expires_ms: 0 }
}

fn call(number: u64, owner: u8, operation: CommandKind) -> Command {
    call_of(wide(number), owner, operation)
}

fn call_of(name: Name, owner: u8, operation: CommandKind) -> Command {
    Command {
        name,
        owner: Owner([owner; 16]),
        fingerprint: PAYLOAD,
        attempt: 1,
        key: KeyForm::Bare,
        lease_ms: LEASE,
        ttl_ms: TTL,
        in_window: false,
        may_begin: true,
        deadline_ms: None,
        kind: operation,
    }
}

/// Any number of names, far apart as hashes are.
fn wide(number: u64) -> Name {
    let mut name = [0; 32];
    name[..8].copy_from_slice(&number.wrapping_mul(0xd134_2543_de82_ef95).to_be_bytes());
    name[8..16].copy_from_slice(&number.to_le_bytes());
    Name(name)
}

/// Names in one bucket, because they begin alike.
fn shared(number: u8) -> Name {
    let mut name = [1; 32];
    name[31] = number;
    Name(name)
}

/// A table with a completed record, one that runs in the same bucket, and nothing else.
fn stored() -> (Host, Table<Host>) {
    let host = Host::default();
    let table = host.open(SMALL);
    table.apply(call_of(shared(0), 0, CLAIM), 0);
    table.apply(call_of(shared(0), 0, complete(b"a response")), 0);
    table.apply(call_of(shared(1), 0, CLAIM), 0);
    (host, table)
}

/// Claims one name after another until there is no more room; tells how many there are.
fn fill(table: &Table<Host>, now_ms: u64) -> u64 {
    (0..).find(|number| table.apply(call(*number, 0, CLAIM), now_ms) == FULL).unwrap_or_default()
}

/// What a duplicate would get; none where it gets no response.
fn replayed(table: &Table<Host>, name: Name, fingerprint: Fingerprint, now_ms: u64) -> Option<Vec<u8>> {
    let claim = Command { fingerprint, ..call_of(name, 99, CLAIM) };
    match table.apply(claim, now_ms) {
        StoreReply::Completed { response, .. } => response,
        _ => None,
    }
}

fn is_replayed(table: &Table<Host>, number: u64) -> bool {
    is_replayed_at(table, number, 0)
}

fn is_replayed_at(table: &Table<Host>, number: u64, now_ms: u64) -> bool {
    replayed(table, wide(number), PAYLOAD, now_ms).is_some()
}

/// A whole execution, with a response of eight bytes.
fn execute(table: &Table<Host>, number: u64, ttl_ms: u64, now_ms: u64) {
    let lived = |kind| Command { ttl_ms, ..call(number, 0, kind) };
    assert_eq!(timeless(table.apply(lived(CLAIM), now_ms)), granted(1), "{number}");
    assert_eq!(table.apply(lived(complete(&number.to_le_bytes())), now_ms), StoreReply::Settled, "{number}");
}

/// Cells as Envoy has them: versions from one counter, no deletion, insert-if-absent with a version no cell has.
#[derive(Clone, Default)]
pub struct Host(Rc<Inside>);

/// A value and its version.
type Versioned = (Vec<u8>, u32);

#[derive(Default)]
struct Inside {
    cells: RefCell<HashMap<Vec<u8>, Versioned>>,
    version: Cell<u32>,
    accesses: Cell<u64>,
    wall_ms: Cell<u64>,
    meddler: RefCell<Option<Meddler>>,
}

/// Told of each access by its number; may act before it, or spoil it.
type Meddler = Box<dyn FnMut(u64) -> Option<Fault>>;

#[derive(Clone, Copy, PartialEq)]
enum Fault {
    /// Somebody wrote the cell in between.
    Mismatch,
    /// The host does not do it.
    Refused,
}

/// What every cell has behind its value.
const SEAL: usize = 4;

impl Host {
    /// Sets the clock on the wall.
    pub fn set_wall_ms(&self, wall_ms: u64) {
        self.0.wall_ms.set(wall_ms);
    }

    pub fn open(&self, max_bytes: u64) -> Table<Host> {
        Table::open(self.clone(), b"plugin", max_bytes, 0x9e37_79b9_7f4a_7c15).unwrap_or_else(|_| panic!("opens"))
    }

    fn meddle(&self, meddler: impl FnMut(u64) -> Option<Fault> + 'static) {
        self.0.accesses.set(0);
        *self.0.meddler.borrow_mut() = Some(Box::new(meddler));
    }

    fn leave(&self) {
        *self.0.meddler.borrow_mut() = None;
    }

    fn accesses(&self) -> u64 {
        self.0.accesses.get()
    }

    /// While the meddler acts, it is not told of its own accesses.
    fn access(&self) -> Option<Fault> {
        let mut meddler = self.0.meddler.take();
        self.0.accesses.set(self.0.accesses.get() + 1);
        let (number, was_there) = (self.0.accesses.get(), meddler.is_some());
        let fault = meddler.as_mut().and_then(|meddler| meddler(number));
        if was_there {
            self.0.accesses.set(number);
            *self.0.meddler.borrow_mut() = meddler;
        }
        fault
    }

    /// Bytes of records and bodies, counted.
    fn bytes(&self) -> u64 {
        [b'r', b'b'].iter().flat_map(|kind| self.sizes(*kind)).sum::<usize>() as u64
    }

    /// Records in buckets, counted: each is a name, a length, and so many bytes.
    fn records(&self) -> u64 {
        let cells = self.0.cells.borrow();
        let buckets =
            cells.iter().filter(|(key, _)| key[8] == b'r').map(|(_, (value, _))| &value[..value.len() - SEAL]);
        let in_bucket = |mut left: &[u8]| {
            let mut records = 0;
            while !left.is_empty() {
                let len = u32::from_le_bytes(left[32..36].try_into().unwrap()) as usize;
                (left, records) = (&left[36 + len..], records + 1);
            }
            records
        };
        buckets.map(in_bucket).sum()
    }

    fn sizes(&self, kind: u8) -> Vec<usize> {
        let cells = self.0.cells.borrow();
        cells.iter().filter(|(key, _)| key[8] == kind).map(|(_, (value, _))| value.len() - SEAL).collect()
    }

    /// The only cell of this kind that holds something.
    fn cell(&self, kind: u8) -> Vec<u8> {
        let cells = self.0.cells.borrow();
        cells.iter().find(|(key, _)| key[8] == kind).map(|(_, (value, _))| value.clone()).unwrap_or_default()
    }

    fn put_cell(&self, kind: u8, broken: &[u8]) {
        for (key, (value, _)) in self.0.cells.borrow_mut().iter_mut() {
            if key[8] == kind {
                *value = broken.to_vec();
            }
        }
    }
}

impl SharedMap for Host {
    fn wall_ms(&self) -> u64 {
        self.0.wall_ms.get()
    }

    fn get(&self, key: &[u8]) -> Result<Option<(Vec<u8>, u32)>, Failure> {
        match self.access() {
            Some(Fault::Refused) => Err(Failure::Host),
            _ => Ok(self.0.cells.borrow().get(key).cloned()),
        }
    }

    fn swap(&self, key: &[u8], value: &[u8], version: Option<u32>) -> Result<bool, Failure> {
        match self.access() {
            Some(Fault::Refused) => return Err(Failure::Host),
            Some(Fault::Mismatch) => return Ok(false),
            None => {}
        }
        let mut cells = self.0.cells.borrow_mut();
        // The version is looked at only where there is a value.
        if cells.get(key).is_some_and(|(_, current)| version != Some(*current)) {
            return Ok(false);
        }
        self.0.version.set(self.0.version.get() + 1);
        cells.insert(key.to_vec(), (value.to_vec(), self.0.version.get()));
        Ok(true)
    }

    fn put(&self, key: &[u8], value: &[u8]) -> Result<(), Failure> {
        self.0.version.set(self.0.version.get() + 1);
        self.0.cells.borrow_mut().insert(key.to_vec(), (value.to_vec(), self.0.version.get()));
        Ok(())
    }
}
