//! The life of a lock: one holder at a time, and a fence that is larger with each; by the model, on Redis and in the embedded
//! store alike.
//!
//! Its one rule: a test drives commands as gateways would send them and looks at replies; it builds no lock by hand.
//! It does not know who waits for a lock, nor what runs under it.

use std::cell::Cell;
use std::collections::BTreeMap;

use envoy_idempotency::command::{Command, CommandKind, Failure, Resolution, StoreReply};
use envoy_idempotency::fingerprint::Fingerprint;
use envoy_idempotency::key::{KeyForm, Name};
use envoy_idempotency::lock::Lock;
use envoy_idempotency::lock::LockCommand;
use envoy_idempotency::record::{Corrupt, Owner, Record, RecordStatus, RecordSummary};
use envoy_idempotency::similar::Asked;
use envoy_idempotency::store::local::Table;
use envoy_idempotency::store::locks::{Stored, apply};
use envoy_idempotency::store::redis::SCRIPT;
use harness::Redis;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use crate::local::Host;
use crate::redis::{CLOCK, ask, clock_ms};

const LEASE: u64 = 100;
const LOCK: LockCommand = LockCommand::Lock;
const TAKEN_BACK: LockCommand = LockCommand::Unlock { fence: None };
const FORGET: CommandKind = CommandKind::Resolve(Resolution::Forget);

#[test]
fn one_owner_holds_a_lock_and_another_is_told_how_long_at_most() {
    let mut book = Book::at(1_000);
    assert_eq!(book.ask(1, LOCK), StoreReply::Locked { fence: 1_000 });
    book.now_ms += 30;
    assert_eq!(book.ask(2, LOCK), StoreReply::Busy { wait_ms: LEASE - 30 });
    assert_eq!(book.ask(1, LockCommand::Renew { fence: 1_000 }), StoreReply::Locked { fence: 1_000 });
    assert_eq!(book.ask(2, LOCK), StoreReply::Busy { wait_ms: LEASE });
}

#[test]
fn a_lock_that_was_let_go_of_is_the_next_owners_under_a_larger_fence() {
    let mut book = Book::at(1_000);
    book.ask(1, LOCK);
    assert_eq!(book.ask(1, LockCommand::Unlock { fence: Some(1_000) }), StoreReply::Settled);
    assert_eq!(book.ask(2, LOCK), StoreReply::Locked { fence: 1_001 });
    book.ask(2, LockCommand::Unlock { fence: Some(1_001) });
    book.now_ms += 50;
    assert_eq!(book.ask(3, LOCK), StoreReply::Locked { fence: 1_050 }, "the clock on the wall has gone on");
}

#[test]
fn a_second_try_of_a_lock_that_was_granted_is_granted_again_under_the_same_fence() {
    let mut book = Book::at(1_000);
    book.ask(1, LOCK);
    for waited_ms in [LEASE - 1, LEASE + 1] {
        book.now_ms += waited_ms;
        assert_eq!(book.ask(1, LOCK), StoreReply::Locked { fence: 1_000 });
    }
}

#[test]
fn a_late_try_of_a_lock_that_its_owner_has_let_go_of_holds_nothing() {
    for known in [true, false] {
        let mut book = Book::at(1_000);
        if known {
            book.ask(1, LOCK);
        }
        assert_eq!(book.ask(1, TAKEN_BACK), StoreReply::Settled);
        assert_eq!(book.ask(1, LOCK), StoreReply::Lost, "known: {known}");
        assert!(matches!(book.ask(2, LOCK), StoreReply::Locked { .. }), "known: {known}");
    }
}

#[test]
fn past_its_lease_a_lock_is_the_next_owners_and_the_late_one_neither_renews_it_nor_lets_go_of_it() {
    let mut book = Book::at(1_000);
    book.ask(1, LOCK);
    book.now_ms += LEASE;
    let StoreReply::Locked { fence } = book.ask(2, LOCK) else { panic!("the lease is over") };
    assert!(fence > 1_000);
    for late in [LockCommand::Renew { fence: 1_000 }, LockCommand::Unlock { fence: Some(1_000) }, TAKEN_BACK] {
        assert_eq!(book.ask(1, late), StoreReply::Lost, "{late:?}");
        assert!(matches!(book.ask(3, LOCK), StoreReply::Busy { .. }), "after {late:?}");
    }
    assert_eq!(book.ask(2, LockCommand::Renew { fence }), StoreReply::Locked { fence });
}

#[test]
fn a_lapsed_lease_alone_takes_no_lock_from_who_renews_it() {
    let mut book = Book::at(1_000);
    book.ask(1, LOCK);
    book.now_ms += LEASE + 1;
    assert_eq!(book.ask(1, LockCommand::Renew { fence: 1_000 }), StoreReply::Locked { fence: 1_000 });
    assert_eq!(book.ask(2, LOCK), StoreReply::Busy { wait_ms: LEASE });
}

#[test]
fn a_lock_that_the_store_has_lost_comes_back_with_its_fence_when_its_holder_speaks_of_it() {
    for word in [LockCommand::Renew { fence: 5_000 }, LockCommand::Unlock { fence: Some(5_000) }] {
        let mut book = Book::at(1_000);
        book.ask(1, word);
        book.now_ms += LEASE;
        assert_eq!(book.ask(2, LOCK), StoreReply::Locked { fence: 5_001 }, "after {word:?}");
    }
}

#[test]
fn after_the_store_has_lost_its_data_the_next_fence_is_larger_still() {
    let mut book = Book::at(1_000);
    book.ask(1, LOCK);
    book.stored = None;
    book.now_ms += 1;
    assert_eq!(book.ask(2, LOCK), StoreReply::Locked { fence: 1_001 });
}

#[test]
fn a_lock_that_an_operator_forgets_is_the_next_owners_at_once_under_a_larger_fence() {
    let mut book = Book::at(1_000);
    assert_eq!(book.command(9, FORGET), StoreReply::Seen(None));
    book.ask(1, LOCK);
    assert_eq!(book.command(9, FORGET), StoreReply::Settled);
    for late in [LOCK, LockCommand::Renew { fence: 1_000 }] {
        assert_eq!(book.ask(1, late), StoreReply::Lost, "{late:?} of who held it");
    }
    assert_eq!(book.ask(2, LOCK), StoreReply::Locked { fence: 1_001 });
    assert_eq!(book.ask(1, LockCommand::Unlock { fence: Some(1_000) }), StoreReply::Lost);
    assert!(matches!(book.ask(3, LOCK), StoreReply::Busy { .. }));
}

#[test]
fn an_operator_sees_whether_a_lock_is_held_and_says_nothing_of_it_but_to_forget_it() {
    let mut book = Book::at(1_000);
    let seen = |standing, ttl_ms| StoreReply::Seen(Some(RecordSummary { attempt: 0, standing, ttl_ms }));
    assert_eq!(book.command(9, CommandKind::Inspect), StoreReply::Seen(None));
    book.ask(1, LOCK);
    assert_eq!(book.command(9, CommandKind::Inspect), seen(RecordStatus::Running, 2 * LEASE));
    book.now_ms += LEASE;
    assert_eq!(book.command(9, CommandKind::Inspect), seen(RecordStatus::Open, LEASE));
    for said in [Resolution::NotRun { attempt: 0 }, Resolution::Ran { status: None }] {
        assert_eq!(book.command(9, CommandKind::Resolve(said)), StoreReply::Failed(Failure::Corrupt));
    }
    book.now_ms += LEASE;
    assert_eq!(book.command(9, CommandKind::Inspect), StoreReply::Seen(None));
}

#[test]
fn a_lock_is_remembered_for_its_lease_and_one_lease_more() {
    let mut book = Book::at(1_000);
    book.ask(1, LOCK);
    book.wall_ms = Some(10);
    book.now_ms += 2 * LEASE - 1;
    assert_eq!(book.ask(2, LOCK), StoreReply::Locked { fence: 1_001 }, "though the clock on the wall was set back");
    book.ask(2, LockCommand::Unlock { fence: Some(1_001) });
    book.now_ms += 2 * LEASE;
    assert_eq!(book.ask(3, LOCK), StoreReply::Locked { fence: 10 });
}

#[test]
fn an_operation_and_a_lock_are_never_read_as_one_another() {
    let mut book = Book::at(1_000);
    book.ask(1, LOCK);
    let lock = book.stored.clone().expect("it is held").encode();
    assert_eq!(Record::decode(&lock), Err(Corrupt));
    assert_eq!(book.command(1, CommandKind::Claim { may_retry: true }), StoreReply::Failed(Failure::Corrupt));
    let mut book = Book::at(1_000);
    book.command(1, CommandKind::Claim { may_retry: true });
    let operation = book.stored.clone().expect("it runs").encode();
    assert_eq!(Lock::decode(&operation), Err(Corrupt));
    assert_eq!(book.ask(2, LOCK), StoreReply::Failed(Failure::Corrupt));
}

#[test]
fn a_lock_cut_short_or_prolonged_is_none() {
    let mut book = Book::at(1_000);
    book.ask(1, LOCK);
    let whole = book.stored.clone().expect("it is held").encode();
    assert!(Lock::decode(&whole).is_ok());
    for length in 0..whole.len() {
        assert_eq!(Lock::decode(&whole[..length]), Err(Corrupt), "{length}");
    }
    assert_eq!(Lock::decode(&[&whole[..], b"x"].concat()), Err(Corrupt));
}

#[test]
fn of_the_embedded_store_a_lock_is_a_part_as_long_as_it_is_remembered_and_no_longer() {
    let host = Host::default();
    host.set_wall_ms(5_000);
    let table = host.open(1 << 20);
    assert_eq!(table.apply(of(1, 1, CommandKind::Lock(LOCK)), 0), StoreReply::Locked { fence: 5_000 });
    table.apply(of(1, 1, CommandKind::Lock(LockCommand::Unlock { fence: Some(5_000) })), 0);
    table.sweep(u32::MAX >> 12, 2 * LEASE - 1);
    assert!(table.bytes() > 0);
    table.sweep(u32::MAX >> 12, 2 * LEASE);
    assert_eq!(table.bytes(), 0);
}

#[test]
fn many_sequences_are_answered_alike_by_redis_the_embedded_store_and_the_model() {
    let redis = Redis::start();
    let shown = SCRIPT.replace(CLOCK, "local now = tonumber(ARGV[2])\n");
    let sha = redis.ask(&["SCRIPT", "LOAD", &shown]).text();
    let clock = Cell::new(clock_ms(&redis) + 3_600_000);
    let config =
        ProptestConfig { cases: 600, failure_persistence: None, max_shrink_iters: 50, ..ProptestConfig::default() };
    let sequences = prop::collection::vec(any::<u32>(), 1..60);
    let outcome = TestRunner::new(config).run(&sequences, |numbers| {
        let (host, mut fences, mut other) = (Host::default(), BTreeMap::new(), None);
        let (table, mut models): (Table<Host>, BTreeMap<Name, Stored>) = (host.open(1 << 20), BTreeMap::new());
        redis.ask(&["FLUSHALL"]);
        for number in numbers {
            clock.set(clock.get() + [0, 0, 1, LEASE / 3, LEASE, 2 * LEASE][(number % 6) as usize]);
            let now_ms = clock.get();
            host.set_wall_ms(now_ms);
            let command = any_command(number / 6, &fences, other);
            let (stored, expected) = apply(models.get(&command.name).cloned(), &command, now_ms, || now_ms);
            stored.into_iter().for_each(|stored| drop(models.insert(command.name, stored)));
            if let StoreReply::Locked { fence } = expected {
                fences.insert((command.name, command.owner), fence);
            }
            if let StoreReply::Similar { operation, since_ms, .. } = expected {
                other = Some((operation, since_ms));
            }
            let on_redis = ask(&redis, &sha, [&command].into_iter(), now_ms);
            prop_assert_eq!(&on_redis, &vec![expected.clone()], "Redis: {:?}", command);
            prop_assert_eq!(table.apply(command.clone(), now_ms), expected, "the embedded store: {:?}", command);
        }
        for (name, stored) in &models {
            prop_assert_eq!(redis.get(name.hex().as_bytes()), Some(stored.encode()), "{:?}", stored);
        }
        Ok(())
    });
    outcome.unwrap_or_else(|error| panic!("{error}"));
}

/// One command from a number: of three owners or an operator, about one of two locks, or what is similar, or an
/// operation, under the same names.
fn any_command(number: u32, fences: &BTreeMap<(Name, Owner), u64>, other: Option<(Name, u64)>) -> Command {
    let (owner, name) = ((number % 3) as u8, (number / 3 % 2) as u8);
    let fence = fences.get(&(Name([name; 32]), Owner([owner; 16]))).copied();
    of(
        owner,
        name,
        match number / 6 % 18 {
            0..5 => CommandKind::Lock(LOCK),
            5..7 => CommandKind::Lock(LockCommand::Renew { fence: fence.unwrap_or(7) }),
            7..10 => CommandKind::Lock(LockCommand::Unlock { fence }),
            10 => CommandKind::Lock(TAKEN_BACK),
            11 => FORGET,
            12 => CommandKind::Inspect,
            13..17 => CommandKind::Similar(Asked {
                own: Name([owner + (number / 108 % 5) as u8; 32]),
                released: other.filter(|_| number.is_multiple_of(3)),
                refuses: number.is_multiple_of(2),
            }),
            _ => CommandKind::Claim { may_retry: true },
        },
    )
}

fn of(owner: u8, name: u8, kind: CommandKind) -> Command {
    Command {
        name: Name([name; 32]),
        owner: Owner([owner; 16]),
        fingerprint: Fingerprint([0; 32]),
        attempt: 0,
        key: KeyForm::Bare,
        lease_ms: LEASE,
        ttl_ms: 2 * LEASE,
        in_window: false,
        may_begin: true,
        deadline_ms: None,
        kind,
    }
}

/// One lock, as the model has it.
struct Book {
    stored: Option<Stored>,
    now_ms: u64,
    /// The clock on the wall, where it is another.
    wall_ms: Option<u64>,
}

impl Book {
    fn at(now_ms: u64) -> Book {
        Book { stored: None, now_ms, wall_ms: None }
    }

    fn ask(&mut self, owner: u8, asked: LockCommand) -> StoreReply {
        self.command(owner, CommandKind::Lock(asked))
    }

    fn command(&mut self, owner: u8, kind: CommandKind) -> StoreReply {
        let wall_ms = self.wall_ms.unwrap_or(self.now_ms);
        let (stored, reply) = apply(self.stored.clone(), &of(owner, 1, kind), self.now_ms, || wall_ms);
        self.stored = stored.or(self.stored.take());
        reply
    }
}
