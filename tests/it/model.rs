//! The record's life: every sentence of the protocol's "States" and "Operations", told through `model::apply`.
//!
//! Its one rule: a test drives operations as gateways would send them and looks at answers; it builds no record by hand.
//! It does not know where records are kept; `tests/it/local.rs` drives the same gateways against the table.

use std::collections::BTreeMap;

use envoy_idempotency::command::{CommandKind, StoreReply};
use envoy_idempotency::key::{KeyForm, UpstreamKey};
use envoy_idempotency::record::{Owner, RELEASED_KEPT, Record, State};
use envoy_idempotency::store::model;
use proptest::prelude::*;

use crate::gateways::{Deed, Gateways, LEASE, TTL, bytes, deeds, timeless};

const PAID: &[u8] = b"paid";

#[test]
fn what_was_never_seen_is_granted_as_attempt_1() {
    let mut book = Book::default();
    assert_eq!(book.claim("a", "p1"), granted(1));
    assert_eq!(book.claim("b", "p1"), StoreReply::InFlight { attempt: 1 });
}

#[test]
fn what_has_expired_is_as_if_never_seen() {
    for end in ["complete", "release", "keep", "mark", "run"] {
        let mut book = Book::default();
        book.claim("a", "p1");
        book.end("a", end);
        book.wait(TTL);
        let answer = book.claim("b", "p2");
        assert!(matches!(answer, StoreReply::Granted { attempt: 1, doubt: false, .. }), "after {end}: {answer:?}");
    }
}

#[test]
fn a_released_key_is_free_at_once_for_any_payload_and_the_attempt_number_goes_on() {
    let mut book = Book::default();
    book.claim("a", "p1");
    assert_eq!(book.release("a"), StoreReply::Settled);
    assert_eq!(book.claim("b", "p2"), granted(2));
}

#[test]
fn a_key_to_be_retried_is_free_at_once_for_the_same_payload_only() {
    let mut book = Book::default();
    book.claim("a", "p1");
    assert_eq!(book.release_keeping("a"), StoreReply::Settled);
    assert_eq!(book.claim("b", "p2"), StoreReply::Mismatch);
    assert_eq!(book.claim("c", "p1"), granted(2));
}

#[test]
fn another_payload_is_a_mismatch_before_anything_else_in_every_state_that_keeps_one() {
    for end in ["run", "lapse", "mark", "keep", "complete"] {
        let mut book = Book::default();
        book.claim("a", "p1");
        book.end("a", end);
        assert_eq!(book.claim("b", "p2"), StoreReply::Mismatch, "after {end}");
        assert_eq!(book.claim_holding("b", "p2"), StoreReply::Mismatch, "after {end}");
        // Even from the owner itself, and of its own claim.
        assert_ne!(book.claim("a", "p2"), granted(1), "after {end}");
    }
}

#[test]
fn a_released_owner_is_stale_before_it_is_a_mismatch() {
    let mut book = Book::default();
    book.claim("a", "p1");
    book.release_keeping("a");
    assert_eq!(book.claim("a", "p2"), StoreReply::Stale);
}

#[test]
fn a_second_try_of_a_granted_claim_is_granted_again_with_the_same_number_and_a_new_lease() {
    for end in ["run", "lapse", "mark"] {
        let mut book = Book::default();
        book.claim("a", "p1");
        book.end("a", end);
        assert_eq!(book.claim("a", "p1"), granted(1), "after {end}");
        book.wait(LEASE - 1);
        assert_eq!(book.claim("b", "p1"), StoreReply::InFlight { attempt: 1 }, "after {end}");
    }
}

#[test]
fn past_its_lease_a_running_attempt_is_unknown_and_may_be_taken_over_in_doubt() {
    let mut book = Book::default();
    book.claim("a", "p1");
    book.wait(LEASE - 1);
    assert_eq!(book.claim("b", "p1"), StoreReply::InFlight { attempt: 1 });
    book.wait(1);
    assert_eq!(book.claim_holding("b", "p1"), StoreReply::Unknown { attempt: 1, wait_ms: 0 });
    assert_eq!(book.claim("b", "p1"), in_doubt(2));
    assert_eq!(book.claim("c", "p1"), StoreReply::InFlight { attempt: 2 });
}

#[test]
fn an_unknown_outcome_is_not_retried_before_the_lease_of_its_attempt_is_over() {
    let mut book = Book::default();
    book.claim("a", "p1");
    book.wait(LEASE / 4);
    assert_eq!(book.mark_unknown("a"), StoreReply::Settled);
    assert_eq!(book.claim("b", "p1"), StoreReply::Unknown { attempt: 1, wait_ms: LEASE - LEASE / 4 });
    book.wait(LEASE - LEASE / 4);
    assert_eq!(book.claim_holding("b", "p1"), StoreReply::Unknown { attempt: 1, wait_ms: 0 });
    assert_eq!(book.claim("b", "p1"), in_doubt(2));
}

#[test]
fn a_completed_record_answers_every_claim_with_what_was_stored() {
    let mut book = Book::default();
    book.claim("a", "p1");
    book.wait(10);
    assert_eq!(book.complete("a"), StoreReply::Settled);
    book.wait(7);
    for owner in ["a", "b"] {
        assert_eq!(book.claim(owner, "p1"), replay(1, 7, TTL - 7));
    }
}

#[test]
fn a_completed_record_is_replaced_by_nobody() {
    for deed in ["claim", "complete", "keep", "mark", "release", "renew"] {
        for owner in ["a", "b"] {
            let mut book = Book::default();
            book.claim("a", "p1");
            book.complete("a");
            book.wait(TTL - 1);
            book.do_as(owner, deed);
            let (record, before) = (book.record.clone().unwrap(), replay(1, TTL - 1, 1));
            assert!(matches!(record.state, State::Completed { .. }), "{deed} by {owner}");
            assert_eq!(book.claim("z", "p1"), before, "{deed} by {owner}");
        }
    }
}

#[test]
fn completing_again_is_fine_for_the_owner_and_lost_for_others() {
    let mut book = Book::default();
    book.claim("a", "p1");
    book.complete("a");
    assert_eq!(book.complete("a"), StoreReply::Settled);
    assert_eq!(book.complete("b"), StoreReply::Lost);
    for deed in ["release", "keep", "mark", "renew"] {
        assert_eq!(book.do_as("a", deed), StoreReply::Lost, "{deed}");
    }
}

#[test]
fn a_known_success_lands_wherever_nobody_executes() {
    // Own and lapsed, unknown, open after a release, open to the same payload, taken over and lapsed again.
    for ends in [&["lapse"][..], &["mark"], &["release"], &["keep"], &["lapse", "b claims", "lapse"]] {
        let mut book = Book::default();
        book.claim("a", "p1");
        for end in ends {
            match *end {
                "b claims" => assert_eq!(book.claim("b", "p1"), in_doubt(2)),
                end => book.end("a", end),
            }
        }
        assert_eq!(book.complete("a"), StoreReply::Settled, "after {ends:?}");
        assert!(matches!(book.claim("c", "p1"), StoreReply::Completed { .. }), "after {ends:?}");
    }
}

#[test]
fn a_late_owner_cannot_complete_while_another_runs() {
    let mut book = Book::default();
    book.claim("a", "p1");
    book.wait(LEASE);
    assert_eq!(book.claim("b", "p1"), in_doubt(2));
    for deed in ["complete", "mark", "release", "keep", "renew"] {
        assert_eq!(book.do_as("a", deed), StoreReply::Lost, "{deed}");
        assert_eq!(book.claim("c", "p1"), StoreReply::InFlight { attempt: 2 }, "after {deed}");
    }
    assert_eq!(book.complete("b"), StoreReply::Settled);
}

#[test]
fn a_lapsed_lease_alone_takes_nothing_from_an_owner_whose_record_nobody_claimed() {
    for deed in ["complete", "mark", "release", "keep", "renew"] {
        let mut book = Book::default();
        book.claim("a", "p1");
        book.wait(TTL - 1);
        assert_eq!(book.do_as("a", deed), StoreReply::Settled, "{deed}");
    }
}

#[test]
fn a_renewal_lasts_a_whole_lease_and_makes_an_unknown_attempt_run_again() {
    for end in ["run", "lapse", "mark"] {
        let mut book = Book::default();
        book.claim("a", "p1");
        book.end("a", end);
        assert_eq!(book.renew("a"), StoreReply::Settled, "after {end}");
        book.wait(LEASE - 1);
        assert_eq!(book.claim("b", "p1"), StoreReply::InFlight { attempt: 1 }, "after {end}");
    }
}

#[test]
fn ghosts_of_a_released_claim_are_refused_whatever_the_state_was() {
    let mut book = Book::default();
    // The release comes before the claim it is about.
    assert_eq!(book.release("a"), StoreReply::Settled);
    assert_eq!(book.claim("a", "p1"), StoreReply::Stale);
    assert_eq!(book.claim("b", "p1"), granted(1));
    // It comes while another runs, in doubt, or is done.
    for (end, owner) in [("run", "c"), ("mark", "d"), ("complete", "e")] {
        book.end("b", end);
        assert_eq!(book.release(owner), StoreReply::Lost, "after {end}");
        assert_eq!(book.claim(owner, "p1"), StoreReply::Stale, "after {end}");
    }
}

#[test]
fn a_ghost_renewal_of_a_released_owner_does_not_run_again() {
    let mut book = Book::default();
    book.claim("a", "p1");
    book.wait(LEASE);
    book.claim("b", "p1");
    assert_eq!(book.release("b"), StoreReply::Settled);
    // In doubt, so the record still names its last owner; but that one has said that it does not execute.
    assert_eq!(book.renew("b"), StoreReply::Lost);
    assert_eq!(book.claim("c", "p1"), in_doubt(3));
}

#[test]
fn the_last_8_released_owners_are_remembered() {
    let mut book = Book::default();
    book.claim("a", "p1");
    let owners: Vec<_> = (0..=RELEASED_KEPT).map(|index| format!("w{index}")).collect();
    for owner in &owners {
        assert_eq!(book.release(owner), StoreReply::Lost);
        assert_eq!(book.release(owner), StoreReply::Lost, "a repeat takes no second place");
    }
    assert_eq!(book.claim(&owners[0], "p1"), StoreReply::InFlight { attempt: 1 });
    for owner in &owners[1..] {
        assert_eq!(book.claim(owner, "p1"), StoreReply::Stale);
    }
}

#[test]
fn doubt_outlives_the_release_of_a_later_attempt() {
    for (keep, release) in [(false, Book::release as fn(&mut Book, &str) -> StoreReply), (true, Book::release_keeping)]
    {
        let mut book = Book::default();
        book.claim("a", "p1");
        book.wait(LEASE);
        assert_eq!(book.claim("b", "p1"), in_doubt(2));
        assert_eq!(release(&mut book, "b"), StoreReply::Settled, "keep: {keep}");
        // Unknown, with a retry at once; not open.
        assert_eq!(book.claim("c", "p2"), StoreReply::Mismatch, "keep: {keep}");
        assert_eq!(book.claim_holding("c", "p1"), StoreReply::Unknown { attempt: 2, wait_ms: 0 }, "keep: {keep}");
        assert_eq!(book.claim("b", "p1"), StoreReply::Stale, "keep: {keep}");
        assert_eq!(book.claim("c", "p1"), in_doubt(3), "keep: {keep}");
    }
}

#[test]
fn a_repeat_in_ones_own_end_state_is_fine() {
    for deed in ["complete", "mark", "release", "keep", "renew"] {
        let mut book = Book::default();
        book.claim("a", "p1");
        for _ in 0..3 {
            assert_eq!(book.do_as("a", deed), StoreReply::Settled, "{deed}");
        }
        // The same in doubt.
        let mut book = Book::default();
        book.claim("z", "p1");
        book.wait(LEASE);
        book.claim("a", "p1");
        for _ in 0..3 {
            assert_eq!(book.do_as("a", deed), StoreReply::Settled, "{deed} in doubt");
        }
    }
}

#[test]
fn nobody_but_the_owner_marks_renews_or_frees() {
    for end in ["run", "lapse", "mark", "release", "keep", "complete"] {
        for deed in ["mark", "renew", "release", "keep"] {
            let mut book = Book::default();
            book.claim("a", "p1");
            book.end("a", end);
            let before = book.record.clone().unwrap();
            assert_eq!(book.do_as("b", deed), StoreReply::Lost, "{deed} after {end}");
            let after = Record { released: before.released.clone(), ..book.record.unwrap() };
            assert_eq!(after, before, "{deed} after {end}");
        }
    }
}

#[test]
fn a_record_the_store_has_lost_is_made_again_by_any_operation_owed() {
    for (deed, attempt_after) in [("renew", 3), ("mark", 3), ("complete", 3), ("release", 3), ("keep", 3)] {
        let mut book = Book::default();
        for owner in ["a", "b", "c"] {
            book.claim(owner, "p1");
            if owner != "c" {
                book.release(owner);
            }
        }
        book.record = None;
        assert_eq!(book.do_as("c", deed), StoreReply::Settled, "{deed}");
        let record = book.record.clone().unwrap();
        assert_eq!((record.attempt, record.key), (attempt_after, upstream_key("a")), "{deed}");
        let answer = book.claim("d", "p2");
        match deed {
            "release" => assert_eq!(answer, granted(4)),
            _ => assert_eq!(answer, StoreReply::Mismatch, "{deed}"),
        }
        let answer = book.claim("d", "p1");
        match deed {
            "renew" => assert_eq!(answer, StoreReply::InFlight { attempt: 3 }),
            "mark" => assert_eq!(answer, StoreReply::Unknown { attempt: 3, wait_ms: LEASE }),
            "complete" => assert_eq!(answer, replay(3, 0, TTL)),
            "keep" => assert_eq!(answer, granted(4)),
            _ => {}
        }
    }
}

#[test]
fn a_grant_returns_the_stored_upstream_key_and_a_claim_only_proposes_one() {
    let mut book = Book::default();
    book.claim("a", "p1");
    book.release("a");
    let StoreReply::Granted { key: second, .. } = book.claim("b", "p1") else { panic!("b is granted") };
    book.wait(LEASE);
    let StoreReply::Granted { key: third, .. } = book.claim("c", "p1") else { panic!("c is granted") };
    assert_eq!((second, third), (upstream_key("a"), upstream_key("a")));
}

#[test]
fn every_change_of_state_and_every_renewal_restarts_expiry() {
    for deed in ["claim", "renew", "mark", "complete", "release", "keep"] {
        let mut book = Book::default();
        book.claim("a", "p1");
        book.wait(TTL - 1);
        book.do_as("a", deed);
        assert_eq!(book.record.unwrap().expires_ms, book.now_ms + TTL, "{deed}");
    }
}

#[test]
fn no_record_expires_before_its_lease_end() {
    for deed in ["run", "renew", "mark"] {
        let mut book = Book { ttl_ms: LEASE / 10, ..Book::default() };
        book.claim("a", "p1");
        book.wait(LEASE / 2);
        book.end("a", deed);
        book.wait(LEASE / 2 - 1);
        let answer = book.claim("b", "p1");
        assert!(matches!(answer, StoreReply::InFlight { .. } | StoreReply::Unknown { .. }), "{deed}: {answer:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    /// I1 and what belongs to it, over any order of operations of several owners.
    #[test]
    fn no_two_owners_ever_hold_a_name_and_attempts_only_go_up(deeds in deeds(1, 60)) {
        let (mut gateways, mut now_ms, mut record) = (Gateways::default(), 0, None::<Record>);
        let mut holders = BTreeMap::<Owner, u64>::new();
        for deed in deeds {
            now_ms += deed.wait_ms;
            let call = gateways.call(&deed);
            let before = record.clone().filter(|record| record.expires_ms > now_ms);
            let outcome = model::apply(record.clone(), &call, now_ms);
            gateways.hear(&call, &outcome.reply);
            record = outcome.record.or(record);
            let claimed = matches!(outcome.reply, StoreReply::Granted { .. });
            let renewed = matches!(outcome.reply, StoreReply::Renewed { .. });
            if claimed || renewed {
                holders.insert(call.owner, now_ms + call.lease_ms);
                let live = holders.values().filter(|end| **end > now_ms).count();
                prop_assert_eq!(live, 1, "two live leases after {:?}", call);
            } else if !matches!(call.kind, CommandKind::Claim { .. } | CommandKind::Renew | CommandKind::Resolve(_)) {
                holders.remove(&call.owner);
            }
            let after = record.clone().filter(|record| record.expires_ms > now_ms);
            let (Some(before), Some(after)) = (before, after) else { continue };
            let regrant = matches!(before.state, State::Running { owner, .. } | State::Unknown { owner, .. }
                if owner == call.owner);
            // Only an operator takes a doubt back, and what has completed.
            let is_operators = matches!(call.kind, CommandKind::Resolve(_));
            prop_assert!(after.attempt >= before.attempt && (is_operators || after.doubt >= before.doubt));
            prop_assert!(!claimed || regrant || after.attempt > before.attempt, "{:?} after {:?}", after, before);
            if !is_operators && let State::Completed { .. } = before.state {
                prop_assert_eq!(Record { released: before.released.clone(), ..after }, before);
            }
        }
    }
}

/// One record, the gateways that work on it, and the store's clock.
#[derive(Default)]
struct Book {
    now_ms: u64,
    /// Where it is not `TTL`.
    ttl_ms: u64,
    record: Option<Record>,
    gateways: Gateways,
}

impl Book {
    fn claim(&mut self, owner: &str, payload: &str) -> StoreReply {
        self.apply(owner, Some(payload), CommandKind::Claim { may_retry: true })
    }

    /// With `on_unknown: hold`, or as one who only waits.
    fn claim_holding(&mut self, owner: &str, payload: &str) -> StoreReply {
        self.apply(owner, Some(payload), CommandKind::Claim { may_retry: false })
    }

    fn complete(&mut self, owner: &str) -> StoreReply {
        self.apply(owner, None, CommandKind::Complete { status: 201, response: Some(PAID.to_vec()) })
    }

    fn mark_unknown(&mut self, owner: &str) -> StoreReply {
        self.apply(owner, None, CommandKind::MarkUnknown)
    }

    fn release(&mut self, owner: &str) -> StoreReply {
        self.apply(owner, None, CommandKind::Release { keep_fingerprint: false })
    }

    fn release_keeping(&mut self, owner: &str) -> StoreReply {
        self.apply(owner, None, CommandKind::Release { keep_fingerprint: true })
    }

    fn renew(&mut self, owner: &str) -> StoreReply {
        self.apply(owner, None, CommandKind::Renew)
    }

    fn wait(&mut self, ms: u64) {
        self.now_ms += ms;
    }

    fn do_as(&mut self, owner: &str, deed: &str) -> StoreReply {
        match deed {
            "claim" => self.claim(owner, "p1"),
            "complete" => self.complete(owner),
            "keep" => self.release_keeping(owner),
            "mark" => self.mark_unknown(owner),
            "release" => self.release(owner),
            _ => self.renew(owner),
        }
    }

    /// How an attempt ends: by a deed, by nothing or by the end of its lease.
    fn end(&mut self, owner: &str, end: &str) {
        match end {
            "run" => {}
            "lapse" => self.wait(LEASE),
            deed => _ = self.do_as(owner, deed),
        }
    }

    fn apply(&mut self, owner: &str, payload: Option<&str>, operation: CommandKind) -> StoreReply {
        let [owner, payload] = [owner, payload.unwrap_or("p1")].map(|text| text.as_bytes());
        let deed = Deed {
            wait_ms: 0,
            name: 0,
            owner: bytes(owner),
            payload: bytes(payload),
            ttl_ms: if self.ttl_ms > 0 { self.ttl_ms } else { TTL },
            in_window: false,
            may_begin: true,
            operation,
        };
        let call = self.gateways.call(&deed);
        let outcome = model::apply(self.record.clone(), &call, self.now_ms);
        self.gateways.hear(&call, &outcome.reply);
        self.record = outcome.record.or(self.record.take());
        timeless(outcome.reply)
    }
}

fn upstream_key(owner: &str) -> KeyForm {
    KeyForm::Ours(UpstreamKey(bytes(owner.as_bytes())))
}

/// To the first claimant "a", whose key every later attempt gets.
fn granted(attempt: u32) -> StoreReply {
    StoreReply::Granted { attempt, doubt: false, key: upstream_key("a"), expires_ms: 0 }
}

fn in_doubt(attempt: u32) -> StoreReply {
    StoreReply::Granted { attempt, doubt: true, key: upstream_key("a"), expires_ms: 0 }
}

fn replay(attempt: u32, age_ms: u64, ttl_ms: u64) -> StoreReply {
    StoreReply::Completed { attempt, status: Some(201), response: Some(PAID.to_vec()), age_ms, ttl_ms }
}
