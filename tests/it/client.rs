//! When the client of a store sends what waits, and what it does with what it owes.
//!
//! Its one rule: the client is fed by hand; nothing happens that is not written here.
//! It does not know the wire.

use std::rc::Rc;

use envoy_idempotency::command::{Command, CommandKind, Failure, GivenUp, RedisError, StoreReply, WhyGivenUp};
use envoy_idempotency::fingerprint::Fingerprint;
use envoy_idempotency::key::{KeyForm, Name};
use envoy_idempotency::record::Owner;
use envoy_idempotency::store::Pool;
use envoy_idempotency::store::client::{Batch, Client, Completion, Lane, Limits, Nonce, Reply};

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
    while let Some(Batch { id, tries, .. }) = batch {
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
        let (asked_ms, reply) = (completed.ttl_ms, StoreReply::Lost);
        let given_up = Completion { exchange: None, command: Rc::clone(&completed), asked_ms, reply };
        assert_eq!((client.tick(completed.ttl_ms), client.owed()), (vec![given_up], 0));
    }
}

/// A client that owes this many marks, and whose store was away for ten seconds.
fn after_an_outage(limits: Limits, marks: u32) -> Client {
    let mut client = Client::new(limits);
    (0..marks).for_each(|number| drop(client.submit(number, call(number, CommandKind::MarkUnknown), 0)));
    for now_ms in (0..10_000).step_by(100) {
        while next(&mut client, now_ms).is_some_and(|batch| {
            client.replied(batch.id, Reply::Failed(Failure::Transport), now_ms);
            true
        }) {}
    }
    assert_eq!((client.owed(), next(&mut client, 10_000)), (marks as usize, None), "all wait for their time");
    client
}

/// A claim is asked for and answered so; gives what the next call carries then.
fn carries_after(client: &mut Client, now_ms: u64, reply: Reply) -> usize {
    assert_eq!(client.submit(1_000, call(1_000, CLAIM), now_ms), None);
    let batch = next(client, now_ms).expect("a claim waits");
    let reply = match reply {
        Reply::Answers(answers) => {
            let tries = batch.tries.iter().zip(answers);
            Reply::Answers(tries.map(|((nonce, _), (_, reply))| (*nonce, reply)).collect())
        }
        failed => failed,
    };
    client.replied(batch.id, reply, now_ms);
    next(client, now_ms).map_or(0, |batch| batch.tries.len())
}

fn answer(reply: StoreReply) -> Reply {
    Reply::Answers(vec![(Nonce([0; 16]), reply)])
}

#[test]
fn what_is_owed_is_due_as_soon_as_the_store_has_carried_something_out() {
    for reply in [StoreReply::InFlight { attempt: 1 }, StoreReply::Mismatch, StoreReply::Stale] {
        assert_eq!(carries_after(&mut after_an_outage(LIMITS, 5), 10_000, answer(reply)), 5);
    }
}

#[test]
fn an_error_of_the_store_makes_nothing_due() {
    let errors = [RedisError::Loading, RedisError::ReadOnly, RedisError::Oom].map(Failure::Redis);
    for failure in errors.into_iter().chain([Failure::Garbage, Failure::Timeout, Failure::Transport]) {
        let mut client = after_an_outage(LIMITS, 5);
        assert_eq!(carries_after(&mut client, 10_000, answer(StoreReply::Failed(failure))), 0, "{failure:?}");
        assert_eq!(carries_after(&mut client, 10_000, Reply::Failed(failure)), 0, "{failure:?}");
        assert_eq!(carries_after(&mut client, 10_000, answer(StoreReply::Mismatch)), 5, "{failure:?}");
    }
}

#[test]
fn after_a_recovery_the_pauses_begin_anew() {
    let mut client = after_an_outage(LIMITS, 1);
    assert_eq!(client.submit(9, call(9, CLAIM), 10_000), None);
    let batch = next(&mut client, 10_000).expect("a claim waits");
    client.replied(batch.id, Reply::Answers(vec![(batch.tries[0].0, StoreReply::Stale)]), 10_000);
    assert_eq!(fail(&mut client, 10_000), 1);
    assert_eq!((next(&mut client, 10_099), fail(&mut client, 10_100)), (None, 1));
    assert_eq!((next(&mut client, 10_299), fail(&mut client, 10_300)), (None, 1));
}

#[test]
fn a_store_of_which_a_part_fails_is_not_asked_for_what_is_owed_at_each_success() {
    let mut client = after_an_outage(LIMITS, 1);
    let mut tries = 0;
    for now_ms in (10_000..20_000).step_by(10) {
        assert_eq!(client.submit(9, call(9, CLAIM), now_ms), None);
        while let Some(batch) = next(&mut client, now_ms) {
            let answers = batch.tries.iter().map(|(nonce, command)| {
                let is_owed = command.kind == CommandKind::MarkUnknown;
                tries += u32::from(is_owed);
                let oom = StoreReply::Failed(Failure::Redis(RedisError::Oom));
                (*nonce, if is_owed { oom } else { StoreReply::Mismatch })
            });
            client.replied(batch.id, Reply::Answers(answers.collect()), now_ms);
        }
    }
    assert!(tries < 30, "{tries} tries in ten seconds");
}

#[test]
fn what_waits_for_its_time_without_having_failed_goes_on_waiting() {
    let mut client = Client::new(LIMITS);
    assert_eq!(client.submit(1, call(1, CommandKind::Withdraw), 0), None);
    let batch = next(&mut client, 0).expect("it waits");
    client.replied(batch.id, Reply::Answers(vec![(batch.tries[0].0, StoreReply::Settled)]), 0);
    assert_eq!(client.submit(2, call(2, CLAIM), 0), None);
    assert_eq!(fail(&mut client, 0), 1);
    assert_eq!(carries_after(&mut client, 1_000, answer(StoreReply::Stale)), 0, "it is withdrawn once more, later");
    assert_eq!(next(&mut client, 30_000).map(|batch| batch.tries.len()), Some(1));
}

#[test]
fn what_is_owed_leaves_half_of_a_call_to_claims_that_wait() {
    let owed_in =
        |batch: &Batch| batch.tries.iter().filter(|(_, command)| command.kind == CommandKind::MarkUnknown).count();
    let mut client = after_an_outage(LIMITS, 40);
    assert_eq!(carries_after(&mut client, 10_000, answer(StoreReply::Stale)), 8, "all of it where no claim waits");
    let mut client = after_an_outage(Limits { max_calls: 9, ..LIMITS }, 40);
    (100..110).for_each(|number| assert_eq!(client.submit(number, call(number, CLAIM), 10_000), None));
    let probe = next(&mut client, 10_000).expect("claims wait");
    let answers = probe.tries.iter().map(|(nonce, _)| (*nonce, StoreReply::Stale)).collect();
    client.replied(probe.id, Reply::Answers(answers), 10_000);
    (110..120).for_each(|number| assert_eq!(client.submit(number, call(number, CLAIM), 10_000), None));
    let batch = next(&mut client, 10_000).expect("claims wait");
    assert_eq!((batch.tries.len(), owed_in(&batch)), (8, 4));

    // Where a call carries one, they take turns.
    let mut client = after_an_outage(Limits { max_batch: 1, ..LIMITS }, 16);
    (100..116).for_each(|number| assert_eq!(client.submit(number, call(number, CLAIM), 15_000), None));
    let mut owed = 0;
    for _ in 0..16 {
        let batch = next(&mut client, 15_000).expect("much waits");
        owed += owed_in(&batch);
        client.replied(batch.id, Reply::Answers(vec![(batch.tries[0].0, StoreReply::Stale)]), 15_000);
    }
    assert_eq!(owed, 8);
}

#[test]
fn large_responses_that_are_owed_keep_no_claim_out() {
    let mut client = Client::new(Limits { max_owed_bytes: 1 << 30, ..LIMITS });
    for number in 0..8 {
        let kind = CommandKind::Complete { status: 201, response: Some(vec![0; LIMITS.max_batch_bytes]) };
        assert_eq!(client.submit(number, call(number, kind), 0), None);
        assert_eq!(fail(&mut client, 0), 1);
    }
    (100..104).for_each(|number| assert_eq!(client.submit(number, call(number, CLAIM), 200), None));
    let batch = next(&mut client, 200).expect("much waits");
    assert_eq!(batch.tries.len(), 5);
}

/// Owes one more completion, with a response of so many bytes.
fn owes(client: &mut Client, number: u32, bytes: usize, now_ms: u64) {
    let kind = CommandKind::Complete { status: 201, response: Some(vec![0; bytes]) };
    assert_eq!(client.submit(number, call(number, kind), now_ms), None);
    assert_eq!(fail(client, now_ms), 1);
}

#[test]
fn a_large_response_that_never_arrives_in_time_is_given_up_and_its_completion_lands() {
    for (bytes, failure, is_kept) in [
        (1 << 20, Failure::Timeout, true),
        ((1 << 20) + 1, Failure::Timeout, false),
        (2 << 20, Failure::Transport, true),
    ] {
        let mut client = Client::new(Limits { max_owed_bytes: 16 << 20, breaker_failures: u32::MAX, ..LIMITS });
        owes(&mut client, 1, bytes, 0);
        let tries = (0..60_000).step_by(100).filter_map(|now_ms| {
            let batch = next(&mut client, now_ms)?;
            client.replied(batch.id, Reply::Failed(failure), now_ms);
            batch.tries.into_iter().next().map(|(_, command)| command.kind.clone())
        });
        let carried: Vec<bool> =
            tries.map(|kind| matches!(kind, CommandKind::Complete { response: Some(_), .. })).collect();
        assert_eq!((carried.first(), carried.last()), (Some(&true), Some(&is_kept)), "{bytes} bytes, {failure:?}");
        assert!(is_kept || carried.iter().filter(|carries| **carries).count() == 8, "{carried:?}");
        assert_eq!(client.owed(), 1);
    }
}

#[test]
fn what_is_handed_over_keeps_its_time_its_age_and_its_name() {
    let pool = Pool::default();
    let limits = Limits { max_owed_bytes: 3_000, ..LIMITS };
    let mut old = Client::sharing(limits, &pool);
    let mut heir = Client::sharing(limits, &pool);
    owes(&mut old, 1, 100, 0);
    owes(&mut heir, 2, 100, 0);
    owes(&mut old, 3, 100, 50);
    let handed_over = old.outbox_mut().hand_over();
    assert_eq!((old.owed(), old.owed_bytes(), old.is_idle()), (0, 0, true));
    heir.inherit(handed_over);
    assert_eq!((heir.owed(), heir.owed_bytes()), (3, 684));
    // Nothing of its name begins.
    let told = heir.submit(9, call(1, CLAIM), 60).expect("it is told at once");
    assert_eq!(told.reply, StoreReply::InFlight { attempt: 1 });
    // It is due when it was, and what has waited longest goes first.
    assert_eq!(next(&mut heir, 99), None);
    let batch = next(&mut heir, 150).expect("it is owed");
    let names: Vec<u8> = batch.tries.iter().map(|(_, command)| command.name.0[0]).collect();
    assert_eq!(names, [1, 2, 3]);
    client_fails(&mut heir, &batch, 150);
    // Its record is gone when it would have been.
    assert_eq!(heir.tick(600_000).len(), 2);
    assert_eq!(heir.tick(600_050).len(), 1);
}

fn client_fails(client: &mut Client, batch: &Batch, now_ms: u64) {
    client.replied(batch.id, Reply::Failed(Failure::Transport), now_ms);
}

#[test]
fn what_is_handed_over_is_due_with_the_first_answer_that_the_heir_gets() {
    let pool = Pool::default();
    let mut old = Client::sharing(LIMITS, &pool);
    let mut heir = Client::sharing(LIMITS, &pool);
    owes(&mut old, 1, 100, 0);
    heir.inherit(old.outbox_mut().hand_over());
    assert_eq!(carries_after(&mut heir, 50, answer(StoreReply::Stale)), 1);
}

#[test]
fn what_is_being_tried_is_handed_over_once_it_has_failed_and_withdrawals_never() {
    let mut client = Client::new(LIMITS);
    owes(&mut client, 1, 0, 0);
    assert_eq!(client.submit(2, call(2, CommandKind::Withdraw), 0), None);
    assert_eq!(fail(&mut client, 0), 1);
    let batch = next(&mut client, 100).expect("two are owed");
    assert_eq!(client.outbox_mut().hand_over().len(), 0);
    client_fails(&mut client, &batch, 100);
    assert_eq!((client.outbox_mut().hand_over().len(), client.owed()), (1, 1));
}

#[test]
fn a_client_that_drains_keeps_withdrawals_for_so_long_and_the_rest_for_longer_and_says_what_it_gives_up() {
    let mut client = Client::new(LIMITS);
    owes(&mut client, 1, 0, 0);
    for (number, kind) in [(2, CommandKind::Withdraw), (3, CommandKind::MarkUnknown)] {
        assert_eq!(client.submit(number, call(number, kind), 0), None);
        assert_eq!(fail(&mut client, 0), 1);
    }
    client.outbox_mut().drain(1_000, 5_000);
    client.tick(999);
    assert_eq!((client.owed(), client.outbox_mut().take_given_up()), (3, vec![]));
    let given_up = |completions, others, number| {
        let name = call(number, CommandKind::Withdraw).name;
        GivenUp { why: WhyGivenUp::Drained, completions, responses: 0, others, name }
    };
    client.tick(1_000);
    assert_eq!((client.owed(), client.outbox_mut().take_given_up()), (2, vec![given_up(0, 1, 2)]));
    client.tick(4_999);
    assert_eq!(client.owed(), 2);
    // Other workers are to forget that they are owed.
    assert_eq!(client.tick(5_000).len(), 2);
    assert_eq!((client.owed(), client.outbox_mut().take_given_up()), (0, vec![given_up(1, 1, 1)]));
    assert!(client.is_idle());
}

#[test]
fn the_clients_of_one_pool_keep_no_more_than_one_may_and_a_new_one_forgets_no_outcome_for_the_old_ones() {
    let pool = Pool::default();
    let limits = Limits { max_owed_bytes: 10_000, ..LIMITS };
    let bytes = |clients: &[Client]| clients.iter().map(Client::owed_bytes).sum::<usize>();
    let mut clients: Vec<Client> = Vec::new();
    for round in 0..20 {
        let mut client = Client::sharing(limits, &pool);
        (0..5).for_each(|number| owes(&mut client, number, 1_000, round));
        assert_eq!(client.owed(), 5, "round {round}: outcomes are kept, if need be without their responses");
        clients.push(client);
        clients.iter_mut().for_each(|client| drop(client.tick(round)));
        assert!(bytes(&clients) <= limits.max_owed_bytes, "{} bytes", bytes(&clients));
    }
    let given_up: Vec<GivenUp> = clients.iter_mut().flat_map(|client| client.outbox_mut().take_given_up()).collect();
    let owed: usize = clients.iter().map(Client::owed).sum();
    assert_eq!(given_up.iter().map(|given_up| given_up.completions).sum::<u32>(), 100 - owed as u32);
    assert!(given_up.iter().all(|given_up| given_up.why == WhyGivenUp::NoRoom && given_up.others == 0));
    clients.clear();
    let mut client = Client::sharing(limits, &pool);
    owes(&mut client, 1, 9_000, 0);
    assert_eq!(client.owed_bytes(), 9_128, "what is gone takes no room");
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
    assert_eq!((client.may_call(Lane::Small, 4), sizes(&mut client, 4)), (false, None));
    assert_eq!((client.may_call(Lane::Small, 5), sizes(&mut client, 5)), (true, Some(1)));
    let mut client = asked(2);
    assert_eq!((client.may_call(Lane::Small, 1), sizes(&mut client, 1)), (true, Some(2)));
    let mut client = asked(1);
    assert_eq!(client.replied(1, Reply::Answers(Vec::new()), 1).len(), 2);
    assert_eq!((client.may_call(Lane::Small, 1), sizes(&mut client, 1)), (true, Some(1)));
}

/// A client with two lanes: responses over 100 bytes are large.
#[test]
fn an_operators_word_that_no_answer_came_to_fails_and_is_not_owed() {
    let word = CommandKind::Resolve(envoy_idempotency::command::Resolution::NotRun { attempt: 3 });
    let mut client = Client::new(Limits { attempts: 2, ..LIMITS });
    assert!(client.submit(1, call(1, word), 0).is_none());
    let mut told = Vec::new();
    for now_ms in [0, 100] {
        let batch = next(&mut client, now_ms).expect("it is tried");
        told.extend(client.replied(batch.id, Reply::Failed(Failure::Transport), now_ms));
    }
    assert!(
        matches!(told.as_slice(), [Completion { reply: StoreReply::Failed(_), exchange: Some(1), .. }]),
        "{told:?}"
    );
    assert_eq!((client.owed(), next(&mut client, 10_000)), (0, None), "a word is said again by its operator alone");
}

fn two_lanes() -> Client {
    Client::new(Limits { large_bytes: Some(100), attempts: 2, ..LIMITS })
}

fn complete(bytes: usize) -> CommandKind {
    CommandKind::Complete { status: 201, response: Some(vec![0; bytes]) }
}

fn next_on(lane: Lane, client: &mut Client, now_ms: u64) -> Option<Batch> {
    client.next_batch(lane, now_ms, || Nonce([0; 16]))
}

#[test]
fn what_is_large_goes_another_way_and_delays_nothing() {
    let mut client = two_lanes();
    for (number, bytes) in [(1, 101), (2, 100)] {
        assert_eq!(client.submit(number, call(number, complete(bytes)), 0), None);
    }
    assert_eq!(client.submit(3, call(3, CLAIM), 0), None);
    assert!(client.may_call(Lane::Small, 0) && client.may_call(Lane::Large, 0));
    let small = next_on(Lane::Small, &mut client, 0).expect("two are small");
    let large = next_on(Lane::Large, &mut client, 0).expect("one is large");
    assert_eq!((small.lane, small.tries.len()), (Lane::Small, 2));
    assert_eq!((large.lane, large.tries.len()), (Lane::Large, 1));
    // Each lane has a line of its own.
    assert_eq!(client.submit(4, call(4, complete(101)), 0), None);
    assert_eq!(client.submit(5, call(5, CLAIM), 0), None);
    assert_eq!((next_on(Lane::Large, &mut client, 0), client.may_call(Lane::Large, 0)), (None, false));
    client.replied(small.id, Reply::Failed(Failure::Redis(RedisError::Oom)), 0);
    assert!(next_on(Lane::Small, &mut client, 0).is_some());
    assert_eq!(next_on(Lane::Large, &mut client, 0), None);
}

#[test]
fn a_claim_whose_answer_is_large_asks_again_on_the_other_lane() {
    let mut client = two_lanes();
    assert_eq!(client.submit(1, call(1, CLAIM), 0), None);
    let small = next_on(Lane::Small, &mut client, 0).expect("it waits");
    let deferred = Reply::Answers(vec![(small.tries[0].0, StoreReply::Deferred)]);
    assert_eq!(client.replied(small.id, deferred, 1), []);
    assert_eq!(next_on(Lane::Small, &mut client, 1), None);
    let large = next_on(Lane::Large, &mut client, 1).expect("it asks again");
    // It stays there, whatever becomes of the try.
    client.replied(large.id, Reply::Failed(Failure::Timeout), 2);
    assert_eq!(next_on(Lane::Small, &mut client, 100), None);
    assert!(next_on(Lane::Large, &mut client, 100).is_some());
}

#[test]
fn what_is_owed_goes_on_the_lane_of_its_size() {
    let mut client = Client::new(Limits { large_bytes: Some(100), ..LIMITS });
    for (number, bytes) in [(1, 101), (2, 100)] {
        assert_eq!(client.submit(number, call(number, complete(bytes)), 0), None);
    }
    for lane in Lane::ALL {
        let batch = next_on(lane, &mut client, 0).expect("one for each");
        client.replied(batch.id, Reply::Failed(Failure::Timeout), 0);
    }
    assert_eq!(client.owed(), 2);
    for lane in [Lane::Large, Lane::Small] {
        let batch = next_on(lane, &mut client, 200).expect("one for each");
        assert_eq!((batch.lane, batch.tries.len()), (lane, 1));
    }
}

#[test]
fn where_a_call_carries_one_operation_claims_and_what_is_owed_take_turns_on_each_lane() {
    let limits = Limits { max_batch: 1, max_queued: 100, large_bytes: Some(100), ..LIMITS };
    let mut client = Client::new(limits);
    for number in 0..8 {
        assert_eq!(client.submit(number, call(number, CommandKind::MarkUnknown), 0), None);
        assert_eq!(fail(&mut client, 0), 1);
    }
    for number in 100..116 {
        assert_eq!(client.submit(number, call(number, CLAIM), 200), None);
        assert_eq!(client.submit(100 + number, call(100 + number, complete(101)), 200), None);
    }
    let mut owed = 0;
    for _ in 0..16 {
        for lane in Lane::ALL {
            let batch = next_on(lane, &mut client, 200).expect("much waits");
            owed += batch.tries.iter().filter(|(_, command)| command.kind == CommandKind::MarkUnknown).count();
            client.replied(batch.id, Reply::Answers(vec![(batch.tries[0].0, StoreReply::Stale)]), 200);
        }
    }
    assert_eq!(owed, 8);
}

#[test]
fn after_the_breaker_was_open_one_call_alone_probes_whichever_its_lane() {
    let mut client = Client::new(Limits { large_bytes: Some(100), breaker_failures: 1, ..LIMITS });
    assert_eq!(client.submit(1, call(1, CLAIM), 0), None);
    assert_eq!(fail(&mut client, 0), 1);
    assert_eq!(client.submit(2, call(2, CLAIM), 10), None);
    assert_eq!(client.submit(3, call(3, complete(101)), 10), None);
    assert!(next_on(Lane::Small, &mut client, 10).is_some());
    assert_eq!(next_on(Lane::Large, &mut client, 10), None);
}

#[test]
fn a_stream_that_is_lost_counts_once_for_the_breaker_and_leaves_all_on_it_in_doubt() {
    let limits = Limits { max_calls: 4, max_batch: 1, breaker_failures: 2, breaker_open_ms: 1000, ..LIMITS };
    let mut client = Client::new(limits);
    let fill = |client: &mut Client, now_ms| {
        (0..4).for_each(|number| drop(client.submit(number, call(number, CommandKind::MarkUnknown), now_ms)));
        (0..4).map(|_| next(client, now_ms).expect("all may be under way").id).collect::<Vec<_>>()
    };
    let batches = fill(&mut client, 0);
    let told = client.lost(&batches, Failure::Transport, 1);
    assert_eq!((told.len(), client.owed()), (4, 4));
    // Those that are over already count for nothing.
    assert_eq!(client.lost(&batches, Failure::Transport, 2), []);
    assert_eq!(client.submit(9, call(9, CLAIM), 3), None, "the breaker is not open");
    let batch = next(&mut client, 3).expect("it waits");
    client.lost(&[batch.id], Failure::Transport, 4);
    let told = client.submit(9, call(8, CLAIM), 5).expect("the breaker is open");
    assert_eq!(told.reply, StoreReply::Failed(Failure::Breaker));
}

pub const LIMITS: Limits = Limits {
    attempts: 1,
    timeout_ms: 100,
    max_calls: 1,
    max_batch: 8,
    max_batch_bytes: 1 << 20,
    large_bytes: None,
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
        may_begin: true,
        deadline_ms: None,
        kind: operation,
    })
}

fn next(client: &mut Client, now_ms: u64) -> Option<Batch> {
    client.next_batch(Lane::Small, now_ms, || Nonce([0; 16]))
}

/// Has the next call fail, and counts whom it told.
fn fail(client: &mut Client, now_ms: u64) -> usize {
    let batch = next(client, now_ms).expect("something waits");
    client.replied(batch.id, Reply::Failed(Failure::Timeout), now_ms).len()
}
