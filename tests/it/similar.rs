//! The same content under another key: what is asked of the store, and what the machine makes of its word.
//!
//! Its one rule: a request is fed as a client sends it, and the store's replies are the test's.

use std::rc::Rc;

use envoy_idempotency::command::{Command, CommandKind, Failure, ReplyKind, StoreReply};
use envoy_idempotency::config::Config;
use envoy_idempotency::count::Count;
use envoy_idempotency::digest::hex;
use envoy_idempotency::event::{Clock, Event, EventKind};
use envoy_idempotency::exchange::{Exchange, Secrets};
use envoy_idempotency::key::{KeyForm, Name, UpstreamKey};
use envoy_idempotency::message::RequestHead;
use envoy_idempotency::record::{Corrupt, Owner, Record, RecordStatus, RecordSummary};
use envoy_idempotency::similar::{Asked, Similar};
use envoy_idempotency::step::{Flow, Step};
use serde_json::{Value, json};

#[test]
fn what_is_asked_is_found_by_caller_target_and_payload_and_by_no_key() {
    let rule = json!({ "similar": { "window_ms": 7000 } });
    let content = |fields: &[(&str, &str)]| asked(&rule, fields).name;
    let usual = content(&[KEY]);
    for same in [
        &[("idempotency-key", "another")][..],
        &[KEY, ("accept", "text/html")],
        &[KEY, ("idempotency-similar", "allow")],
        &[KEY, ("x-request-id", "7")],
    ] {
        assert_eq!(content(same), usual, "{same:?}");
    }
    for other in [
        &[KEY, ("authorization", "Bearer bob")][..],
        &[KEY, (":method", "PATCH")],
        &[KEY, (":path", "/refund")],
        &[KEY, (":path", "/pay?x=1")],
        &[KEY, (":authority", "elsewhere")],
        &[KEY, ("if-match", "7")],
    ] {
        assert_ne!(content(other), usual, "{other:?}");
    }
    let command = asked(&rule, &[KEY]);
    assert_eq!((command.ttl_ms, command.in_window), (7000, false));
    let CommandKind::Similar(Asked { own, released: None, refuses: false }) = command.kind else { panic!() };
    assert_ne!(own, command.name);
    // Under a trial there are names of its own.
    assert_ne!(asked(&json!({ "similar": {}, "mode": "observe" }), &[KEY]).name, usual);
}

#[test]
fn a_rule_without_it_and_a_request_that_is_found_by_its_content_ask_nothing() {
    for (rule, fields) in
        [(json!({}), &[KEY][..]), (json!({ "similar": {}, "key": { "inject": { "kind": "content" } } }), &[])]
    {
        let (_, step) = granted(&rule, fields);
        assert!(step.commands.is_empty() && matches!(step.flow, Flow::Resume(_)), "{rule}: {step:?}");
    }
    let (_, step) = granted(&json!({ "similar": {}, "key": { "inject": { "kind": "uuid" } } }), &[]);
    assert!(matches!(step.commands[0].kind, CommandKind::Similar(_)));
}

#[test]
fn who_would_be_refused_says_so_and_who_means_it_does_not() {
    let rule = json!({ "similar": { "action": "refuse" } });
    for (fields, refuses) in [
        (&[KEY][..], true),
        (&[KEY, ("idempotency-similar", "allow")], false),
        (&[KEY, ("idempotency-similar", " Allow ")], false),
        (&[KEY, ("idempotency-similar", "allow, please")], true),
    ] {
        let CommandKind::Similar(asked) = asked(&rule, fields).kind else { panic!() };
        assert_eq!(asked.refuses, refuses, "{fields:?}");
    }
}

#[test]
fn another_counts_unless_its_record_says_that_it_was_released() {
    for (standing, counts) in [
        (Some(RecordStatus::Running), true),
        (Some(RecordStatus::Unknown), true),
        (Some(RecordStatus::Completed(Some(201))), true),
        (None, true),
        (Some(RecordStatus::Open), false),
    ] {
        let (mut exchange, _) = granted(&json!({ "similar": { "action": "refuse" } }), &[KEY]);
        let look = tell(&mut exchange, ReplyKind::Similar, like_another());
        assert_eq!((look.commands[0].name, &look.commands[0].kind), (OTHER, &CommandKind::Inspect));
        let seen = standing.map(|standing| RecordSummary { attempt: 1, standing, ttl_ms: 5 });
        let step = tell(&mut exchange, ReplyKind::Inspect, StoreReply::Seen(seen));
        if counts {
            let refused = refusal(&step).expect("it is refused");
            assert_eq!((refused["status"].as_u64(), refused["seconds_ago"].as_u64()), (Some(409), Some(12)));
            assert_eq!(step.commands.iter().map(|command| &command.kind).collect::<Vec<_>>(), [&CommandKind::Withdraw]);
        } else {
            let CommandKind::Similar(again) = step.commands[0].kind else { panic!("{step:?}") };
            assert_eq!(again.released, Some((OTHER, 77)));
            let step = tell(&mut exchange, ReplyKind::Similar, StoreReply::Settled);
            assert!(matches!(step.flow, Flow::Resume(_)), "{step:?}");
        }
    }
}

#[test]
fn who_is_told_runs_and_its_status_tells() {
    let (mut exchange, _) = granted(&json!({ "similar": {} }), &[KEY]);
    let _ = tell(&mut exchange, ReplyKind::Similar, like_another());
    let step = tell(&mut exchange, ReplyKind::Inspect, StoreReply::Seen(None));
    assert!(matches!(step.flow, Flow::Resume(_)) && step.counts.contains(&Count::Similar), "{step:?}");
    assert!(step.status.is_some_and(|line| line.starts_with("executed;attempt=1;similar=12")));
}

#[test]
fn where_the_store_cannot_tell_only_who_would_be_refused_is() {
    for (rule, status) in [
        (json!({ "similar": {} }), None),
        (json!({ "similar": { "action": "refuse" } }), Some(503)),
        (json!({ "similar": { "action": "refuse" }, "on_store_failure": "forward" }), None),
    ] {
        for asked in [ReplyKind::Similar, ReplyKind::Inspect] {
            let (mut exchange, _) = granted(&rule, &[KEY]);
            if asked == ReplyKind::Inspect {
                let _ = tell(&mut exchange, ReplyKind::Similar, like_another());
            }
            let step = tell(&mut exchange, asked, StoreReply::Failed(Failure::Timeout));
            assert_eq!(refusal(&step).and_then(|problem| problem["status"].as_u64()), status, "{rule}");
            assert_eq!(step.commands.len(), usize::from(status.is_some()));
            assert!(step.counts.contains(&Count::StoreFailed(Failure::Timeout)));
        }
    }
}

#[test]
fn a_claim_that_lapses_meanwhile_is_renewed_before_the_request_goes_on() {
    let (mut exchange, _) = granted(&json!({ "similar": {}, "lease_ms": 1000 }), &[KEY]);
    let (asked, reply) = (ReplyKind::Similar, StoreReply::Settled);
    let kind = EventKind::StoreReplied { asked, reply, may_wait: false };
    let step = exchange.handle(Event { clock: &Clock::at(900), kind });
    assert_eq!((&step.flow, &step.commands[0].kind), (&Flow::Hold, &CommandKind::Renew));
}

#[test]
fn version_2_of_what_is_similar_is_written_as_ever_and_is_no_other_record() {
    let similar = Similar { entries: vec![(Name([0xaa; 32]), 5), (Name([0xbb; 32]), 0x0102)], expires_ms: 0x0304 };
    let sample =
        format!("02 02 0403000000000000 {} 0500000000000000 {} 0201000000000000", "aa".repeat(32), "bb".repeat(32));
    let whole = similar.encode();
    assert_eq!(hex(&whole), sample.replace(' ', ""));
    assert_eq!(Record::decode(&whole), Err(Corrupt));
    for length in 0..whole.len() {
        let is_whole = length >= 10 && (length - 10) % 40 == 0;
        assert_eq!(Similar::decode(&whole[..length]).is_ok(), is_whole, "{length}");
    }
    assert_eq!(Similar::decode(&whole), Ok(similar));
}

const KEY: (&str, &str) = ("idempotency-key", "k1");
const OTHER: Name = Name([9; 32]);

fn like_another() -> StoreReply {
    StoreReply::Similar { operation: OTHER, since_ms: 77, age_ms: 12_345 }
}

/// What a request with these fields asks for once its claim is granted.
#[track_caller]
fn asked(rule: &Value, fields: &[(&str, &str)]) -> Command {
    let (_, step) = granted(rule, fields);
    assert!(matches!(step.commands[0].kind, CommandKind::Similar(_)), "{step:?}");
    step.commands[0].clone()
}

/// A request with these fields whose claim is granted, and what follows.
fn granted(rule: &Value, fields: &[(&str, &str)]) -> (Exchange, Step) {
    let config = Config::parse(json!({ "policy": rule }).to_string().as_bytes(), &|_| None).unwrap();
    let mut exchange = Exchange::new(Rc::clone(&config.rules[0].policy), Rc::new(Secrets::new(&config, b"")));
    let usual = [(":method", "POST"), (":path", "/pay"), (":authority", "api"), ("authorization", "Bearer alice")];
    let usual = usual.into_iter().filter(|(name, _)| !fields.iter().any(|(given, _)| given == name));
    let head = RequestHead { headers: usual.chain(fields.iter().copied()).collect() };
    let (owner, upstream_key) = (Owner([1; 16]), UpstreamKey([2; 16]));
    let kind = EventKind::RequestHeaders { head: &head, attribute: &|_| None, owner, upstream_key, end: true };
    let _ = exchange.handle(Event { clock: &Clock::at(0), kind });
    let step = tell(
        &mut exchange,
        ReplyKind::Claim,
        StoreReply::Granted { attempt: 1, doubt: false, key: KeyForm::Bare, expires_ms: 1000 },
    );
    (exchange, step)
}

fn tell(exchange: &mut Exchange, asked: ReplyKind, reply: StoreReply) -> Step {
    exchange.handle(Event { clock: &Clock::at(0), kind: EventKind::StoreReplied { asked, reply, may_wait: false } })
}

/// The problem that a step answers with.
fn refusal(step: &Step) -> Option<Value> {
    let Flow::LocalReply(reply) = &step.flow else { return None };
    Some(serde_json::from_slice(&reply.body).unwrap())
}
