//! An operator's word on an operation: protocol.md's `resolve` and `forget`, told through `model::apply`.
//!
//! Its one rule: gateways and an operator send what they would send, and their answers are looked at.
//! It does not know where records are kept; the other suites drive the same words against every store.

use envoy_idempotency::command::{Command, CommandKind, Resolution, StoreReply};
use envoy_idempotency::fingerprint::Fingerprint;
use envoy_idempotency::key::{KeyForm, Name};
use envoy_idempotency::record::{Owner, Record, RecordStatus, RecordSummary};
use envoy_idempotency::store::model;

const LEASE: u64 = 100;
const TTL: u64 = 1_000;
const RAN: Resolution = Resolution::Ran { status: Some(201) };
/// Of the first attempt.
const NOT_RUN: Resolution = Resolution::NotRun { attempt: 1 };
const ALL: [Resolution; 3] = [RAN, NOT_RUN, Resolution::Forget];

#[test]
fn what_was_never_seen_is_said_to_be_absent_and_nothing_is_written() {
    for said in ALL {
        let mut book = Book::default();
        assert_eq!(book.resolve(said), StoreReply::Seen(None));
        assert_eq!(book.record, None);
    }
}

#[test]
fn while_a_lease_lives_every_word_is_refused() {
    for said in ALL {
        let mut book = Book::default();
        book.claim(1, 7);
        book.wait(LEASE - 1);
        assert_eq!(book.resolve(said), StoreReply::InFlight { attempt: 1 });
        book.owned(1, 1, CommandKind::MarkUnknown);
        assert_eq!(book.resolve(said), StoreReply::Unknown { attempt: 1, wait_ms: 1 });
        book.wait(1);
        assert_eq!(book.resolve(said), StoreReply::Settled);
    }
}

#[test]
fn what_ran_is_completed_without_its_response_whatever_the_payloads_claim() {
    for end in [None, Some(CommandKind::MarkUnknown), Some(CommandKind::Release { keep_fingerprint: true })] {
        for status in [Some(201), None] {
            let mut book = lapsed(end.clone());
            assert_eq!(book.resolve(Resolution::Ran { status }), StoreReply::Settled);
            book.wait(5);
            let completed = StoreReply::Completed { attempt: 1, status, response: None, age_ms: 5, ttl_ms: TTL - 5 };
            assert_eq!(book.claim(2, 7), completed, "after {end:?}");
            assert_eq!(book.claim(3, 8), StoreReply::Mismatch, "after {end:?}");
        }
    }
}

#[test]
fn what_ran_without_a_known_payload_answers_every_payload_as_completed() {
    let mut book = lapsed(Some(CommandKind::Release { keep_fingerprint: false }));
    assert_eq!(book.resolve(Resolution::Ran { status: None }), StoreReply::Settled);
    for payload in [7, 8] {
        assert!(matches!(book.claim(2, payload), StoreReply::Completed { status: None, response: None, .. }));
    }
}

#[test]
fn what_did_not_run_may_run_once_more_with_the_same_payload_and_the_next_number() {
    for end in [None, Some(CommandKind::MarkUnknown)] {
        let mut book = lapsed(end);
        assert_eq!(book.resolve(NOT_RUN), StoreReply::Settled);
        assert_eq!(book.claim(2, 8), StoreReply::Mismatch);
        assert_eq!(book.holding(2, 7), granted(2, false));
    }
}

#[test]
fn a_doubt_of_earlier_attempts_is_cleared_with_the_last() {
    let mut book = lapsed(None);
    assert_eq!(book.claim(2, 7), granted(2, true));
    book.wait(LEASE);
    book.resolve(Resolution::NotRun { attempt: 2 });
    assert_eq!(book.claim(3, 7), granted(3, false));
    // A definite failure frees the name then, as it would had nothing been in doubt.
    assert_eq!(book.owned(3, 3, CommandKind::Release { keep_fingerprint: false }), StoreReply::Settled);
    assert_eq!(book.claim(4, 8), granted(4, false));
}

#[test]
fn a_word_that_comes_after_another_attempt_changes_nothing() {
    let mut book = lapsed(None);
    assert_eq!(book.resolve(NOT_RUN), StoreReply::Settled);
    assert_eq!(book.claim(2, 7), granted(2, false));
    book.wait(LEASE);
    let before = book.record.clone();
    // Another operator looked when the first did, or the store hears of the word late.
    assert_eq!(book.resolve(NOT_RUN), StoreReply::Stale);
    assert_eq!(book.record, before);
    assert_eq!(book.resolve(Resolution::NotRun { attempt: 2 }), StoreReply::Settled);
}

#[test]
fn late_tries_of_the_claim_that_was_settled_are_refused() {
    for said in [NOT_RUN, Resolution::Forget] {
        let mut book = lapsed(None);
        book.resolve(said);
        assert_eq!(book.claim(1, 7), StoreReply::Stale, "{said:?}");
        assert_eq!(book.owned(1, 1, CommandKind::Renew), StoreReply::Lost, "{said:?}");
        assert_eq!(book.owned(1, 1, CommandKind::MarkUnknown), StoreReply::Lost, "{said:?}");
    }
}

#[test]
fn a_late_completion_lands_while_nobody_executes_and_is_lost_to_an_attempt_that_does() {
    let complete = || CommandKind::Complete { status: 201, response: Some(b"paid".to_vec()) };
    let mut book = lapsed(None);
    book.resolve(NOT_RUN);
    assert_eq!(book.owned(1, 1, complete()), StoreReply::Settled);
    assert!(matches!(book.claim(2, 7), StoreReply::Completed { response: Some(_), .. }));
    let mut book = lapsed(None);
    book.resolve(NOT_RUN);
    assert_eq!(book.claim(2, 7), granted(2, false));
    assert_eq!(book.owned(1, 1, complete()), StoreReply::Lost);
    // What an operator has completed is replaced by nobody.
    let mut book = lapsed(None);
    book.resolve(RAN);
    assert_eq!(book.owned(1, 1, complete()), StoreReply::Lost);
    assert!(matches!(book.claim(2, 7), StoreReply::Completed { response: None, .. }));
}

#[test]
fn of_what_has_completed_only_forgetting_makes_it_run_again() {
    let mut book = Book::default();
    book.claim(1, 7);
    book.owned(1, 1, CommandKind::Complete { status: 204, response: Some(b"done".to_vec()) });
    assert_eq!(book.resolve(RAN), StoreReply::Settled);
    assert!(matches!(book.claim(2, 7), StoreReply::Completed { status: Some(204), response: Some(_), .. }));
    assert_eq!(book.resolve(NOT_RUN), StoreReply::Lost);
    assert_eq!(book.resolve(Resolution::Forget), StoreReply::Settled);
    assert_eq!(book.claim(2, 8), granted(2, false));
}

#[test]
fn what_is_forgotten_may_run_with_any_payload_and_the_attempt_number_goes_on() {
    for end in [None, Some(CommandKind::MarkUnknown), Some(CommandKind::Release { keep_fingerprint: true })] {
        let mut book = lapsed(end);
        assert_eq!(book.resolve(Resolution::Forget), StoreReply::Settled);
        assert_eq!(book.claim(2, 8), granted(2, false));
    }
}

#[test]
fn what_ran_lives_as_long_as_is_asked_for_and_never_shorter_than_it_did() {
    for (ttl_ms, left_ms) in [(0, TTL - LEASE), (10, TTL - LEASE), (2 * TTL, 2 * TTL)] {
        let mut book = lapsed(None);
        book.resolve_for(RAN, ttl_ms);
        assert_eq!(
            book.look().map(|seen| (seen.standing, seen.ttl_ms)),
            Some((RecordStatus::Completed(Some(201)), left_ms))
        );
    }
    // Who says it again may ask for longer, also of what was executed and heard of.
    for end in [None, Some(CommandKind::Complete { status: 201, response: Some(b"done".to_vec()) })] {
        let mut book = lapsed(end);
        book.resolve(RAN);
        assert_eq!(book.resolve_for(RAN, 3 * TTL), StoreReply::Settled);
        assert_eq!(book.look().map(|seen| seen.ttl_ms), Some(3 * TTL));
    }
    // What is free keeps its end: the window of a content key must not grow.
    let mut book = lapsed(None);
    book.resolve_for(NOT_RUN, 2 * TTL);
    assert_eq!(book.look().map(|seen| (seen.standing, seen.ttl_ms)), Some((RecordStatus::Open, TTL - LEASE)));
}

/// One record, and when it is.
#[derive(Default)]
struct Book {
    record: Option<Record>,
    now_ms: u64,
}

/// An operation whose first attempt has ended so, one lease after its claim.
fn lapsed(end: Option<CommandKind>) -> Book {
    let mut book = Book::default();
    book.claim(1, 7);
    end.into_iter().for_each(|end| drop(book.owned(1, 1, end)));
    book.wait(LEASE);
    book
}

fn granted(attempt: u32, doubt: bool) -> StoreReply {
    StoreReply::Granted { attempt, doubt, key: KeyForm::Bare, expires_ms: 0 }
}

impl Book {
    fn wait(&mut self, ms: u64) {
        self.now_ms += ms;
    }

    fn claim(&mut self, owner: u8, payload: u8) -> StoreReply {
        self.ask(owner, payload, 0, TTL, CommandKind::Claim { may_retry: true })
    }

    /// As under `on_unknown: hold`.
    fn holding(&mut self, owner: u8, payload: u8) -> StoreReply {
        self.ask(owner, payload, 0, TTL, CommandKind::Claim { may_retry: false })
    }

    fn owned(&mut self, owner: u8, attempt: u32, kind: CommandKind) -> StoreReply {
        self.ask(owner, 7, attempt, TTL, kind)
    }

    fn resolve(&mut self, said: Resolution) -> StoreReply {
        self.resolve_for(said, TTL)
    }

    fn resolve_for(&mut self, said: Resolution, ttl_ms: u64) -> StoreReply {
        self.ask(99, 0, 0, ttl_ms, CommandKind::Resolve(said))
    }

    fn look(&mut self) -> Option<RecordSummary> {
        match self.ask(99, 0, 0, 0, CommandKind::Inspect) {
            StoreReply::Seen(seen) => seen,
            other => panic!("{other:?}"),
        }
    }

    fn ask(&mut self, owner: u8, payload: u8, attempt: u32, ttl_ms: u64, kind: CommandKind) -> StoreReply {
        let command = Command {
            name: Name([1; 32]),
            owner: Owner([owner; 16]),
            fingerprint: Fingerprint([payload; 32]),
            attempt,
            key: KeyForm::Bare,
            lease_ms: LEASE,
            ttl_ms,
            in_window: false,
            may_begin: true,
            deadline_ms: None,
            kind,
        };
        let outcome = model::apply(self.record.clone(), &command, self.now_ms);
        self.record = outcome.record.or(self.record.take());
        match outcome.reply {
            StoreReply::Granted { attempt, doubt, key, .. } => {
                StoreReply::Granted { attempt, doubt, key, expires_ms: 0 }
            }
            reply => reply,
        }
    }
}
