//! When the client of a store sends what waits, and what it does with what it owes.
//!
//! Its one rule: the client is fed by hand; nothing happens that is not written here.
//! It does not know the wire.

use std::rc::Rc;

use envoy_idempotency::command::{Command, CommandKind, Failure, StoreReply};
use envoy_idempotency::fingerprint::Fingerprint;
use envoy_idempotency::key::{KeyForm, Name};
use envoy_idempotency::record::Owner;
use envoy_idempotency::store::client::{Batch, Client, Completion, Limits, Nonce, Reply};

const CLAIM: CommandKind = CommandKind::Claim { may_retry: true };

#[test]
fn what_is_owed_after_an_outage_does_not_keep_others_out() {
    let mut client = Client::new(LIMITS);
    for number in 0..100 {
        assert_eq!(client.submit(number, call(number, CommandKind::MarkUnknown), 0), None);
        assert_eq!(fail(&mut client, 0), 1);
    }
    assert_eq!(client.owed(), 100);
    // The store is well again.
    let first = next(&mut client, 200).expect("something is owed");
    assert_eq!(client.submit(100, call(100, CLAIM), 200), None, "the claim waits its turn");
    let mut granted = Vec::new();
    let mut batch = Some(first);
    while let Some(Batch { id, tries }) = batch {
        assert!(tries.len() <= LIMITS.max_batch);
        let answers = tries.iter().map(|(nonce, _)| (*nonce, StoreReply::Settled)).collect();
        let told = client.replied(id, Reply::Answers(answers), 200);
        granted.extend(told.into_iter().filter_map(|told| told.exchange));
        batch = next(&mut client, 200);
    }
    assert_eq!((granted, client.owed()), (vec![100], 0));
}

#[test]
fn it_is_told_when_what_is_owed_cannot_matter_any_more() {
    for attempt in [0, 1] {
        let mut client = Client::new(LIMITS);
        let completed = call(1, CommandKind::Complete { status: 201, response: None });
        let completed = Rc::new(Command { attempt, ..Command::clone(&completed) });
        assert_eq!(client.submit(1, Rc::clone(&completed), 0), None);
        assert_eq!(fail(&mut client, 0), 1);
        assert_eq!((client.tick(completed.ttl_ms - 1), client.owed()), (Vec::new(), 1));
        let (asked_ms, verdict) = (completed.ttl_ms, StoreReply::Lost);
        let given_up = Completion { exchange: None, command: Rc::clone(&completed), asked_ms, verdict };
        assert_eq!((client.tick(completed.ttl_ms), client.owed()), (vec![given_up], 0));
    }
}

#[test]
fn a_call_goes_out_beside_another_once_it_carries_as_much_or_the_other_is_late() {
    let asked = |claims: u32| {
        let mut client = Client::new(Limits { max_calls: 2, ..LIMITS });
        (0..2).for_each(|number| assert_eq!(client.submit(number, call(number, CLAIM), 0), None));
        assert_eq!(next(&mut client, 0).map(|batch| batch.tries.len()), Some(2));
        (2..2 + claims).for_each(|number| assert_eq!(client.submit(number, call(number, CLAIM), 1), None));
        client
    };
    let sizes = |client: &mut Client, now_ms| next(client, now_ms).map(|batch| batch.tries.len());

    let mut client = asked(1);
    assert_eq!((client.may_call(4), sizes(&mut client, 4)), (false, None));
    assert_eq!((client.may_call(5), sizes(&mut client, 5)), (true, Some(1)));
    let mut client = asked(2);
    assert_eq!((client.may_call(1), sizes(&mut client, 1)), (true, Some(2)));
    let mut client = asked(1);
    assert_eq!(client.replied(1, Reply::Answers(Vec::new()), 1).len(), 2);
    assert_eq!((client.may_call(1), sizes(&mut client, 1)), (true, Some(1)));
}

pub const LIMITS: Limits = Limits {
    attempts: 1,
    timeout_ms: 100,
    max_calls: 1,
    max_batch: 8,
    max_batch_bytes: 1 << 20,
    max_queued: 16,
    max_owed_bytes: 1 << 20,
    breaker_failures: 1000,
    breaker_open_ms: 1,
};

fn call(number: u32, operation: CommandKind) -> Rc<Command> {
    let mut name = [0; 32];
    name[..4].copy_from_slice(&number.to_le_bytes());
    Rc::new(Command {
        name: Name(name),
        owner: Owner([7; 16]),
        fingerprint: Fingerprint([1; 32]),
        attempt: u32::from(operation != CLAIM),
        key: KeyForm::Bare,
        lease_ms: 60_000,
        ttl_ms: 600_000,
        in_window: false,
        deadline_ms: None,
        kind: operation,
    })
}

fn next(client: &mut Client, now_ms: u64) -> Option<Batch> {
    client.next_batch(now_ms, || Nonce([0; 16]))
}

/// Has the next call fail, and counts whom it told.
fn fail(client: &mut Client, now_ms: u64) -> usize {
    let batch = next(client, now_ms).expect("something waits");
    client.replied(batch.id, Reply::Failed(Failure::Timeout), now_ms).len()
}
