//! What one Envoy remembers of a shared store: it spares calls, and never says what the store would not.
//!
//! Its one rule: the cache is told what the store said, in the order the store said it, and is then asked as a claim is.
//! It does not know how the store is asked; its cells behave as Envoy's do.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use envoy_idempotency::command::{Command, CommandKind, Failure, Resolution, StoreReply};
use envoy_idempotency::config::CacheBounds;
use envoy_idempotency::fingerprint::Fingerprint;
use envoy_idempotency::key::{KeyForm, Name};
use envoy_idempotency::record::{Owner, Record};
use envoy_idempotency::store::cache::Cache;
use envoy_idempotency::store::client::{Client, Completion, Heard, Lane, Nonce, Reply};
use envoy_idempotency::store::local::SharedMap;
use envoy_idempotency::store::{Pool, Store, model};
use host_model::{Fault, SharedData};
use proptest::prelude::*;

use crate::gateways::{Gateways, LEASE, TTL, deeds};

proptest! {
    #![proptest_config(ProptestConfig { cases: 10_000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Two of four owners are of other gateways, which this cache hears nothing of; two workers take turns. Names come in
    /// pairs that share a cell.
    #[test]
    fn whatever_it_answers_the_store_would_answer_too(deeds in deeds(5, 40), late_ms in 0..LEASE / 2) {
        let host = SharedData::default();
        let workers = [open(&host, BOUNDS), open(&host, BOUNDS)];
        let (mut gateways, mut now_ms) = (Gateways::default(), late_ms);
        let (mut records, mut completed) = (BTreeMap::<Name, Record>::new(), BTreeSet::new());
        for (turn, deed) in deeds.iter().enumerate() {
            now_ms += deed.wait_ms;
            let call = gateways.call(deed);
            // An operator asks this Envoy; what one elsewhere says is remembered otherwise for a while.
            let is_here = deed.owner[0] < 2 || matches!(call.kind, CommandKind::Resolve(_));
            // An exchange completes once.
            if matches!(call.kind, CommandKind::Complete { .. }) && !completed.insert((call.name, call.owner)) {
                continue;
            }
            let said = model::apply(records.get(&call.name).cloned(), &call, now_ms);
            // The ghost of a claim that was released is in the network alone.
            let is_asked = is_here && matches!(call.kind, CommandKind::Claim { .. }) && said.reply != StoreReply::Stale;
            if let Some(mut reply) = is_asked.then(|| workers[turn % 2].look(&call, now_ms)).flatten() {
                if let (
                    StoreReply::Completed { attempt, age_ms, ttl_ms, .. },
                    StoreReply::Completed { attempt: recorded, age_ms: since_ms, ttl_ms: left_ms, .. },
                ) = (&mut reply, &said.reply)
                {
                    // A late owner completes under a number that is larger than its own and that it is not told.
                    *attempt = (*attempt).max(*recorded);
                    // It counts from when it was asked for, which is earlier.
                    prop_assert!(*age_ms >= *since_ms && *age_ms <= since_ms + late_ms);
                    prop_assert!(*ttl_ms <= *left_ms && ttl_ms.saturating_add(late_ms) >= *left_ms);
                    (*age_ms, *ttl_ms) = (*since_ms, *left_ms);
                }
                prop_assert_eq!(&reply, &said.reply, "{:?}", call);
                continue;
            }
            if let Some(record) = said.record {
                records.insert(call.name, record);
            }
            gateways.hear(&call, &said.reply);
            if matches!(said.reply, StoreReply::Granted { .. }) {
                completed.remove(&(call.name, call.owner));
            }
            if is_here {
                learn(&workers[turn % 2], &call, now_ms - late_ms, &said.reply, now_ms);
            }
        }
    }
}

#[test]
fn an_answer_that_was_overtaken_by_the_settlement_changes_nothing() {
    let cache = open(&SharedData::default(), BOUNDS);
    let renewal = call(1, 1, CommandKind::Renew);
    learn(&cache, &claim(1, 1), 0, &granted(1), 0);
    learn(&cache, &complete(1, 1, 10), 40, &StoreReply::Settled, 50);
    learn(&cache, &renewal, 33, &StoreReply::Renewed { expires_ms: 0 }, 55);
    assert!(matches!(cache.look(&claim(1, 2), 60), Some(StoreReply::Completed { .. })));
    learn(&cache, &call(1, 1, CommandKind::Release { keep_fingerprint: false }), 60, &StoreReply::Settled, 70);
    learn(&cache, &renewal, 55, &StoreReply::Renewed { expires_ms: 0 }, 75);
    assert_eq!(cache.look(&claim(1, 2), 80), None);
}

#[test]
fn a_completion_that_only_the_outbox_still_waits_for_is_asked_of_the_store() {
    let cache = open(&SharedData::default(), BOUNDS);
    learn(&cache, &complete(1, 1, 10), 0, &StoreReply::Failed(Failure::Timeout), 50);
    let call = Rc::new(complete(1, 1, 10));
    cache.learn(&Completion { exchange: None, command: call, asked_ms: 200, reply: StoreReply::Settled }, 200);
    assert_eq!(cache.look(&claim(1, 2), 201), None);
}

#[test]
fn a_record_that_is_older_than_the_clock_keeps_its_age() {
    let cache = open(&SharedData::default(), BOUNDS);
    let old = StoreReply::Completed {
        attempt: 1,
        status: Some(200),
        response: Some(b"done".to_vec()),
        age_ms: 3_600_000,
        ttl_ms: 500,
    };
    learn(&cache, &claim(1, 1), 10, &old, 15);
    let reply = cache.look(&claim(1, 2), 20);
    assert!(matches!(reply, Some(StoreReply::Completed { age_ms: 3_600_010, ttl_ms: 490, .. })), "{reply:?}");
}

#[test]
fn a_response_over_the_bound_is_not_kept_however_small() {
    let cache = open(&SharedData::default(), CacheBounds { max_entry_bytes: 9, ..BOUNDS });
    learn(&cache, &complete(1, 1, 9), 0, &StoreReply::Settled, 0);
    learn(&cache, &complete(2, 1, 10), 0, &StoreReply::Settled, 0);
    assert!(matches!(cache.look(&claim(1, 2), 1), Some(StoreReply::Completed { .. })));
    assert_eq!(cache.look(&claim(2, 2), 1), None);
}

#[test]
fn a_completed_record_small_or_large_is_remembered_as_it_was_stored() {
    for size in [0, 1, 800, 900, 1000, 5000, 16_384] {
        let cache = open(&SharedData::default(), BOUNDS);
        learn(&cache, &complete(1, 1, size), 0, &StoreReply::Settled, 10);
        let replay = StoreReply::Completed {
            attempt: 1,
            status: Some(201),
            response: Some(vec![7; size]),
            age_ms: 25,
            ttl_ms: TTL - 25,
        };
        assert_eq!(cache.look(&claim(1, 2), 25), Some(replay.clone()), "{size} bytes");
        assert_eq!(cache.look(&claim(1, 1), 25), Some(replay), "{size} bytes, asked by the owner itself");
        assert_eq!(
            cache.look(&Command { fingerprint: Fingerprint([9; 32]), ..claim(1, 2) }, 25),
            Some(StoreReply::Mismatch)
        );
        assert_eq!(cache.look(&claim(2, 2), 25), None, "another name");
    }
}

#[test]
fn a_completed_record_without_a_response_is_remembered_too() {
    let cache = open(&SharedData::default(), BOUNDS);
    let bare = CommandKind::Complete { status: 200, response: None };
    learn(&cache, &call(1, 1, bare), 0, &StoreReply::Settled, 0);
    let wanted = StoreReply::Completed { attempt: 1, status: Some(200), response: None, age_ms: 0, ttl_ms: TTL };
    assert_eq!(cache.look(&claim(1, 2), 0), Some(wanted));
}

#[test]
fn what_a_claim_was_told_of_another_gateways_record_is_remembered_with_its_age() {
    for size in [10, 5000] {
        let cache = open(&SharedData::default(), BOUNDS);
        let told = |age_ms, ttl_ms| StoreReply::Completed {
            attempt: 3,
            status: Some(202),
            response: Some(vec![7; size]),
            age_ms,
            ttl_ms,
        };
        // Its answer was long on its way.
        learn(&cache, &claim(1, 1), 100, &told(40, 60), 120);
        assert_eq!(cache.look(&claim(1, 2), 130), Some(told(70, 30)));
        assert_eq!(cache.look(&claim(1, 2), 160), None, "the record has expired");
    }
}

#[test]
fn what_is_over_max_entry_bytes_is_not_remembered() {
    let host = SharedData::default();
    let cache = open(&host, CacheBounds { max_entry_bytes: 4000, ..BOUNDS });
    learn(&cache, &complete(1, 1, 4000), 0, &StoreReply::Settled, 0);
    assert!(cache.look(&claim(1, 2), 0).is_some());
    learn(&cache, &complete(2, 1, 4200), 0, &StoreReply::Settled, 0);
    assert_eq!(cache.look(&claim(2, 2), 0), None);
    assert!(longest(&host) < 32 + 128 + 4100, "a cell holds {} bytes", longest(&host));
}

#[test]
fn what_became_too_large_is_not_answered_from_what_was_there_before() {
    let cache = open(&SharedData::default(), CacheBounds { max_entry_bytes: 4000, ..BOUNDS });
    for size in [10, 3000] {
        learn(&cache, &complete(1, 1, size), 0, &StoreReply::Settled, 0);
        learn(&cache, &claim(1, 2), TTL, &granted(1), TTL);
        learn(&cache, &complete(1, 2, 4200), TTL, &StoreReply::Settled, TTL);
        assert_eq!(cache.look(&claim(1, 3), TTL), None, "after {size} bytes");
    }
}

#[test]
fn a_running_claim_refuses_duplicates_until_its_lease_is_over_counted_from_when_it_was_asked_for() {
    let cache = open(&SharedData::default(), BOUNDS);
    learn(&cache, &claim(1, 1), 1000, &granted(4), 1070);
    for now_ms in [1070, 1000 + LEASE - 1] {
        assert_eq!(cache.look(&claim(1, 2), now_ms), Some(StoreReply::InFlight { attempt: 4 }));
        let other = Command { fingerprint: Fingerprint([9; 32]), ..claim(1, 2) };
        assert_eq!(cache.look(&other, now_ms), Some(StoreReply::Mismatch), "another payload is told so first");
    }
    assert_eq!(
        cache.look(&claim(1, 2), 1000 + LEASE),
        None,
        "from here on it is unknown, which is for the store to say"
    );
    assert_eq!(cache.look(&claim(1, 1), 1070), None, "the owner's own claim is granted by the store alone");
}

#[test]
fn a_renewal_lengthens_the_mark() {
    let cache = open(&SharedData::default(), BOUNDS);
    learn(&cache, &claim(1, 1), 0, &granted(1), 0);
    learn(&cache, &call(1, 1, CommandKind::Renew), 60, &StoreReply::Renewed { expires_ms: 0 }, 70);
    assert_eq!(cache.look(&claim(1, 2), 60 + LEASE - 1), Some(StoreReply::InFlight { attempt: 1 }));
    assert_eq!(cache.look(&claim(1, 2), 60 + LEASE), None);
}

#[test]
fn an_owner_that_ends_without_a_success_or_has_lost_is_forgotten() {
    for (operation, reply) in [
        (CommandKind::Release { keep_fingerprint: false }, StoreReply::Settled),
        (CommandKind::Release { keep_fingerprint: true }, StoreReply::Settled),
        (CommandKind::Release { keep_fingerprint: false }, StoreReply::Lost),
        (CommandKind::MarkUnknown, StoreReply::Settled),
        (CommandKind::MarkUnknown, StoreReply::Lost),
        (CommandKind::Renew, StoreReply::Lost),
        (CommandKind::Complete { status: 201, response: None }, StoreReply::Lost),
        (CommandKind::Complete { status: 201, response: Some(vec![7; 5000]) }, StoreReply::Lost),
    ] {
        let cache = open(&SharedData::default(), BOUNDS);
        learn(&cache, &claim(1, 1), 0, &granted(1), 0);
        assert_eq!(cache.look(&claim(1, 2), 0), Some(StoreReply::InFlight { attempt: 1 }));
        learn(&cache, &call(1, 1, operation.clone()), 0, &reply, 0);
        assert_eq!(cache.look(&claim(1, 2), 0), None, "{reply:?} to {operation:?}");
    }
}

#[test]
fn an_operators_word_makes_it_forget_whether_or_not_it_was_heard() {
    let said = call(1, 9, CommandKind::Resolve(Resolution::Forget));
    for reply in [StoreReply::Settled, StoreReply::Lost, StoreReply::Failed(Failure::Timeout)] {
        for first in [claim(1, 1), complete(1, 1, 10)] {
            let cache = open(&SharedData::default(), BOUNDS);
            let told = if first.kind == claim(1, 1).kind { granted(1) } else { StoreReply::Settled };
            learn(&cache, &first, 0, &told, 0);
            assert!(cache.look(&claim(1, 2), 5).is_some(), "{reply:?}");
            learn(&cache, &said, 5, &reply, 5);
            assert_eq!(cache.look(&claim(1, 2), 6), None, "{reply:?}");
        }
    }
}

#[test]
fn what_a_claim_was_refused_with_is_not_remembered() {
    let unknown = StoreReply::Unknown { attempt: 1, wait_ms: 10 };
    let failed = StoreReply::Failed(Failure::Timeout);
    for reply in [StoreReply::InFlight { attempt: 1 }, StoreReply::Mismatch, unknown, StoreReply::Stale, failed] {
        let cache = open(&SharedData::default(), BOUNDS);
        learn(&cache, &claim(1, 1), 0, &reply, 0);
        assert_eq!(cache.look(&claim(1, 2), 0), None, "{reply:?}");
    }
}

#[test]
fn a_renewal_that_brought_no_answer_leaves_the_mark_as_it_was() {
    let cache = open(&SharedData::default(), BOUNDS);
    learn(&cache, &claim(1, 1), 0, &granted(1), 0);
    learn(&cache, &call(1, 1, CommandKind::Renew), 60, &StoreReply::Failed(Failure::Timeout), 70);
    assert_eq!(cache.look(&claim(1, 2), LEASE - 1), Some(StoreReply::InFlight { attempt: 1 }));
    assert_eq!(cache.look(&claim(1, 2), LEASE), None);
}

#[test]
fn while_the_store_must_still_hear_of_an_end_its_name_is_shown_as_running() {
    let complete = CommandKind::Complete { status: 201, response: Some(b"paid".to_vec()) };
    // Number 0 is whoever runs although its claim got no answer.
    for (attempt, operation) in [
        (1, complete.clone()),
        (0, complete),
        (1, CommandKind::Release { keep_fingerprint: false }),
        (1, CommandKind::MarkUnknown),
        (0, CommandKind::MarkUnknown),
    ] {
        let cache = open(&SharedData::default(), BOUNDS);
        let ended = Command { attempt, ..call(1, 1, operation) };
        let withdrawn = call(1, 3, CommandKind::Withdraw);
        learn(&cache, &ended, 0, &StoreReply::Failed(Failure::Transport), 500);
        learn(&cache, &withdrawn, 0, &StoreReply::Failed(Failure::Transport), 500);
        for now_ms in [500, 500 + LEASE, 5500] {
            assert_eq!(cache.look(&claim(1, 2), now_ms), Some(StoreReply::InFlight { attempt }), "{ended:?}");
        }
        assert_eq!(cache.look(&claim(1, 2), 60_500), None, "a gateway that is gone is not waited for");
        learn(&cache, &ended, 600, &StoreReply::Settled, 600);
        let is_shown = cache.look(&claim(1, 2), 600);
        assert!(!matches!(is_shown, Some(StoreReply::InFlight { .. })), "{ended:?}: {is_shown:?}");
    }
    let cache = open(&SharedData::default(), BOUNDS);
    let withdrawn = call(1, 1, CommandKind::Withdraw);
    learn(&cache, &withdrawn, 0, &StoreReply::Failed(Failure::Timeout), 0);
    assert_eq!(cache.look(&claim(1, 2), 0), None, "nothing ran under a claim that was withdrawn");
}

#[test]
fn what_is_owed_is_shown_on_the_other_workers_for_as_long_as_the_store_is_silent() {
    const MINUTE: u64 = 60_000;
    let (host, bounds) = (SharedData::default(), CacheBounds { ttl_ms: 1000, ..BOUNDS });
    let mut limits = crate::client::LIMITS;
    (limits.breaker_failures, limits.breaker_open_ms) = (1, MINUTE);
    let mut store = Store::Remote(Box::new(Client::new(limits)), Some(open(&host, bounds)));
    let other = open(&host, bounds);
    let owes = |number: u8| Command { ttl_ms: 2 * MINUTE, ..complete(number, 1, 10) };
    for number in 0..200 {
        store.ask(number.into(), owes(number), 0);
        if let Some(batch) = store.next_batch(Lane::Small, 0, || Nonce([number; 16])) {
            store.heard(heard(batch.id, Reply::Failed(Failure::Timeout)), 0, |_| false);
        }
    }
    let shown = |now_ms| (0..200).filter(|number| other.look(&claim(*number, 2), now_ms).is_some()).count();
    for now_ms in (100..MINUTE).step_by(100) {
        store.tick(now_ms);
        assert_eq!(shown(now_ms), 200, "after {now_ms} ms");
    }
    let batch = store.next_batch(Lane::Small, MINUTE, || Nonce([1; 16])).expect("a probe");
    store.heard(heard(batch.id, Reply::Answers(vec![(Nonce([1; 16]), StoreReply::Lost)])), MINUTE, |_| false);
    (1..3).rev().for_each(|wait_ms| drop(store.tick(2 * MINUTE - wait_ms)));
    assert_eq!(shown(2 * MINUTE - 1), 199, "what the store has heard of is shown no more");
    store.tick(2 * MINUTE);
    assert_eq!(shown(2 * MINUTE), 0, "nor what cannot matter any more");
}

#[test]
fn what_is_handed_over_is_shown_in_the_cache_of_the_heir() {
    let (host, larger) = (SharedData::default(), CacheBounds { max_bytes: 2 * BOUNDS.max_bytes, ..BOUNDS });
    let store = |bounds, pool: &Pool| {
        Store::Remote(Box::new(Client::sharing(crate::client::LIMITS, pool)), Some(open(&host, bounds)))
    };
    let pool = Pool::default();
    let (mut old, mut heir) = (store(BOUNDS, &pool), store(larger, &pool));
    old.ask(1, complete(1, 1, 10), 0);
    let batch = old.next_batch(Lane::Small, 0, || Nonce([1; 16])).expect("it waits");
    old.heard(heard(batch.id, Reply::Failed(Failure::Timeout)), 0, |_| false);
    assert_eq!(open(&host, larger).look(&claim(1, 2), 0), None);
    heir.inherit(old.hand_over(), 0);
    assert_eq!(open(&host, larger).look(&claim(1, 2), 0), Some(StoreReply::InFlight { attempt: 1 }));
}

#[test]
fn what_is_owed_does_not_hide_what_another_worker_knows_to_have_completed() {
    let (host, owed) = (SharedData::default(), complete(1, 1, 10));
    let [cache, other] = [open(&host, BOUNDS), open(&host, BOUNDS)];
    let completed = StoreReply::Completed {
        attempt: 2,
        status: Some(201),
        response: Some(b"done".to_vec()),
        age_ms: 0,
        ttl_ms: TTL,
    };
    learn(&cache, &owed, 0, &StoreReply::Failed(Failure::Timeout), 0);
    learn(&other, &claim(1, 2), 1, &completed, 1);
    cache.remind(&[Rc::new(owed.clone())], 2);
    assert!(matches!(other.look(&claim(1, 3), 2), Some(StoreReply::Completed { attempt: 2, .. })));
    cache.remind(&[Rc::new(owed)], 1 + TTL);
    assert_eq!(other.look(&claim(1, 3), 1 + TTL), Some(StoreReply::InFlight { attempt: 1 }));
}

#[test]
fn an_entry_counts_no_longer_than_its_ttl() {
    let cache = open(&SharedData::default(), CacheBounds { ttl_ms: 100, ..BOUNDS });
    for size in [10, 5000] {
        learn(&cache, &complete(1, 1, size), 0, &StoreReply::Settled, 0);
        assert!(cache.look(&claim(1, 2), 99).is_some());
        assert_eq!(cache.look(&claim(1, 2), 100), None);
    }
}

#[test]
fn two_names_in_one_cell_forget_each_other_and_are_never_confused() {
    for (mine, its) in [(10, 10), (10, 5000), (5000, 10), (5000, 5000)] {
        let cache = open(&SharedData::default(), BOUNDS);
        let [first, second] = [colliding(1), colliding(2)];
        learn(&cache, &Command { name: first, ..complete(1, 1, mine) }, 0, &StoreReply::Settled, 0);
        assert!(cache.look(&Command { name: first, ..claim(1, 2) }, 0).is_some());
        assert_eq!(cache.look(&Command { name: second, ..claim(1, 2) }, 0), None, "{mine} and {its} bytes");
        learn(&cache, &Command { name: second, ..complete(1, 1, its) }, 0, &StoreReply::Settled, 0);
        let answer = cache.look(&Command { name: second, ..claim(1, 2) }, 0);
        assert!(matches!(answer, Some(StoreReply::Completed { response: Some(there), .. }) if there.len() == its));
        assert_eq!(cache.look(&Command { name: first, ..claim(1, 2) }, 0), None, "{mine} and {its} bytes");
        // Forgetting the one takes nothing true of the other away but what shares its cell.
        learn(&cache, &Command { name: first, ..call(1, 1, CommandKind::Renew) }, 0, &StoreReply::Lost, 0);
        assert_eq!(cache.look(&Command { name: first, ..claim(1, 2) }, 0), None);
    }
}

#[test]
fn another_plugin_another_store_and_other_bounds_are_other_caches() {
    let host = SharedData::default();
    let told = |cache: &Cache<SharedData>| cache.look(&claim(1, 2), 0).is_some();
    let cache = |plugin: &[u8], store, bounds| Cache::new(host.clone(), plugin, store, bounds);
    learn(&cache(b"a", "webdis / idem:", BOUNDS), &complete(1, 1, 10), 0, &StoreReply::Settled, 0);
    assert!(told(&cache(b"a", "webdis / idem:", BOUNDS)), "another worker, or the same filter configured again");
    assert!(!told(&cache(b"b", "webdis / idem:", BOUNDS)));
    assert!(!told(&cache(b"a", "webdis /7/ idem:", BOUNDS)));
    assert!(!told(&cache(b"a", "webdis / idem:", CacheBounds { max_bytes: 2 << 20, ..BOUNDS })));
    assert!(!told(&cache(b"a", "webdis / idem:", CacheBounds { max_entry_bytes: 16_000, ..BOUNDS })));
    assert!(told(&cache(b"a", "webdis / idem:", CacheBounds { ttl_ms: 1, ..BOUNDS })));
}

#[test]
fn cells_that_are_broken_cut_or_refused_are_as_if_nothing_was_there() {
    for size in [10, 5000] {
        let host = SharedData::default();
        let cache = open(&host, BOUNDS);
        learn(&cache, &complete(1, 1, size), 0, &StoreReply::Settled, 0);
        let whole = host.cells();
        let replay = cache.look(&claim(1, 2), 0).unwrap();
        for (key, value) in &whole {
            for len in 0..value.len() {
                host.write(key, &value[..len]);
                let answer = cache.look(&claim(1, 2), 0);
                // Nothing tells how long a response was: whoever reads it decodes it, and sees.
                let is_shorter = |answer| matches!(answer, StoreReply::Completed { response: Some(there), .. } if there.len() < size);
                assert!(answer.is_none_or(is_shorter), "{size} bytes, cut to {len}");
            }
            for byte in [0, 1, 0xff] {
                host.write(key, &[&value[..32], &vec![byte; value.len()]].concat());
                assert_eq!(cache.look(&claim(1, 2), 0), None, "{size} bytes, all {byte}");
            }
            host.write(key, value);
        }
        assert_eq!(cache.look(&claim(1, 2), 0), Some(replay));
        host.meddle(|_| Some(Fault::Refused));
        assert_eq!(cache.look(&claim(1, 2), 0), None);
        learn(&cache, &complete(2, 1, size), 0, &StoreReply::Settled, 0);
        host.leave();
        assert_eq!(cache.look(&claim(2, 2), 0), None, "it was not written");
    }
}

#[test]
fn all_cells_together_stay_within_max_bytes() {
    for max_entry_bytes in [1, 900, 16_384, 131_072] {
        let host = SharedData::default();
        let bounds = CacheBounds { max_bytes: 1 << 20, max_entry_bytes, ttl_ms: 60_000 };
        let cache = open(&host, bounds);
        for number in 0..600_u64 {
            let mut name = Name([0; 32]);
            name.0[24..].copy_from_slice(&number.to_le_bytes());
            for size in [700, max_entry_bytes as usize] {
                learn(&cache, &Command { name, ..complete(0, 1, size) }, 0, &StoreReply::Settled, 0);
            }
        }
        assert!(bytes(&host) <= 1 << 20, "{} bytes of cells with entries of {max_entry_bytes}", bytes(&host));
    }
}

const BOUNDS: CacheBounds = CacheBounds { max_bytes: 1 << 20, max_entry_bytes: 16_384, ttl_ms: 60_000 };

fn call(name: u8, owner: u8, operation: CommandKind) -> Command {
    Command {
        name: Name([name; 32]),
        owner: Owner([owner; 16]),
        fingerprint: Fingerprint([1; 32]),
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

/// Has the cache hear what one that still waits for it was told.
fn learn<C: SharedMap>(cache: &Cache<C>, call: &Command, asked_ms: u64, reply: &StoreReply, now_ms: u64) {
    let told = Completion { exchange: Some(1), command: Rc::new(call.clone()), asked_ms, reply: reply.clone() };
    cache.learn(&told, now_ms);
}

fn claim(name: u8, owner: u8) -> Command {
    Command { attempt: 0, ..call(name, owner, CommandKind::Claim { may_retry: true }) }
}

fn complete(name: u8, owner: u8, size: usize) -> Command {
    call(name, owner, CommandKind::Complete { status: 201, response: Some(vec![7; size]) })
}

fn granted(attempt: u32) -> StoreReply {
    StoreReply::Granted { attempt, doubt: false, key: KeyForm::Bare, expires_ms: 0 }
}

/// Names that differ only where their place is not looked for.
fn colliding(number: u8) -> Name {
    let mut name = Name([5; 32]);
    name.0[0] = number;
    name
}

fn open(host: &SharedData, bounds: CacheBounds) -> Cache<SharedData> {
    Cache::new(host.clone(), b"plugin", "webdis / idem:", bounds)
}

fn longest(host: &SharedData) -> usize {
    host.cells().values().map(Vec::len).max().unwrap_or(0)
}

fn bytes(host: &SharedData) -> usize {
    host.cells().values().map(Vec::len).sum()
}

fn heard(batch: u64, reply: Reply) -> Heard {
    Heard { replies: vec![(batch, reply)], lost: None }
}
