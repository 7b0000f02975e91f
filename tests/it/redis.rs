//! The script on real Redis against the model and the embedded store: they answer alike and keep the same records.
//!
//! Its one rule: the script runs as it is shipped; only its clock is handed in where a test has to turn it.
//! It does not know Webdis but for one story, which takes the way that the filter takes.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::rc::Rc;

use envoy_idempotency::command::{Command, CommandKind, Failure, RedisError, StoreReply};
use envoy_idempotency::fingerprint::Fingerprint;
use envoy_idempotency::key::{KeyForm, Name};
use envoy_idempotency::record::{Owner, Record, State};
use envoy_idempotency::store::client::{Batch, Lane, Nonce, Reply};
use envoy_idempotency::store::local::Table;
use envoy_idempotency::store::model;
use envoy_idempotency::store::redis::Named;
use envoy_idempotency::store::redis::{SCRIPT, SCRIPT_SHA1, pack, unpack};
use envoy_idempotency::store::resp::Answer;
use envoy_idempotency::store::webdis;
use harness::{Redis, Webdis};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use crate::gateways::{Deed, Gateways, deeds};
use crate::local::Host;

/// How the shipped script reads the clock.
pub const CLOCK: &str = "local time = redis.call('TIME')\nlocal now = time[1] * 1000 + math.floor(time[2] / 1000)\n";

/// So many sequences go side by side, their operations in one batch.
const SIDE_BY_SIDE: usize = 64;

#[test]
fn ten_thousand_sequences_are_answered_alike_by_redis_the_embedded_store_and_the_model() {
    let redis = Redis::start();
    let shown = SCRIPT.replace(CLOCK, "local now = tonumber(ARGV[2])\n");
    assert_ne!(shown, SCRIPT, "the script reads its clock in another way");
    let sha = redis.ask(&["SCRIPT", "LOAD", &shown]).text();
    // The records live on Redis's own clock too, which stays behind ours.
    let clock = Cell::new(clock_ms(&redis) + 3_600_000);
    let cases = 10_000_u32.div_ceil(SIDE_BY_SIDE as u32);
    let config = ProptestConfig { cases, failure_persistence: None, max_shrink_iters: 50, ..ProptestConfig::default() };
    let mut runner = TestRunner::new(config);
    let fresh = RefCell::new(0_u32);
    let sequences = prop::collection::vec(deeds(5, 40), SIDE_BY_SIDE);
    let outcome = runner.run(&sequences, |sequences| {
        let mut places: Vec<Place> = sequences.iter().map(|_| Place::new(&mut fresh.borrow_mut())).collect();
        for turn in 0..sequences.iter().map(Vec::len).max().unwrap_or(0) {
            let wait_ms = sequences.iter().find_map(|deeds| deeds.get(turn)).map_or(0, |deed| deed.wait_ms);
            let now_ms = clock.get() + wait_ms;
            clock.set(now_ms);
            let deeds = sequences.iter().enumerate().filter_map(|(place, deeds)| Some((place, deeds.get(turn)?)));
            let calls: Vec<_> = deeds.map(|(place, deed)| (place, places[place].call(deed))).collect();
            let answers = ask(&redis, &sha, calls.iter().map(|(_, call)| call), now_ms);
            for ((place, call), answer) in calls.iter().zip(answers) {
                let (expected, embedded) = places[*place].apply(call, now_ms);
                prop_assert_eq!(&answer, &expected, "Redis: {:?}", call);
                prop_assert_eq!(&embedded, &expected, "the embedded store: {:?}", call);
            }
        }
        for (name, record) in places.iter().flat_map(|place| &place.records) {
            let kept = redis.get(name.hex().as_bytes());
            prop_assert_eq!(kept, Some(record.encode()), "{:?}", record);
        }
        Ok(())
    });
    outcome.unwrap_or_else(|error| panic!("{error}"));
}

/// One sequence: what its gateways know, its records as the model has them, and a table of its own.
struct Place {
    number: u32,
    gateways: Gateways,
    expiries: BTreeMap<(Name, Owner), u64>,
    records: BTreeMap<Name, Record>,
    table: Table<Host>,
}

impl Place {
    fn new(fresh: &mut u32) -> Self {
        *fresh += 1;
        let (gateways, expiries, records) = Default::default();
        Place { number: *fresh, gateways, expiries, records, table: Host::default().open(1 << 20) }
    }

    /// What an owner asks under a name that no other sequence has; every other one minds when its record expires.
    fn call(&self, deed: &Deed) -> Command {
        let mut call = self.gateways.call(deed);
        call.name.0[8..12].copy_from_slice(&self.number.to_le_bytes());
        if call.owner.0[0].is_multiple_of(2) && !matches!(call.kind, CommandKind::Claim { .. }) {
            call.deadline_ms = self.expiries.get(&(call.name, call.owner)).copied();
        }
        call
    }

    /// What the model says, and what the table does.
    fn apply(&mut self, call: &Command, now_ms: u64) -> (StoreReply, StoreReply) {
        let outcome = model::apply(self.records.get(&call.name).cloned(), call, now_ms);
        if let Some(record) = outcome.record {
            self.records.insert(call.name, record);
        }
        if let StoreReply::Granted { expires_ms, .. } | StoreReply::Renewed { expires_ms } = outcome.reply {
            self.expiries.insert((call.name, call.owner), expires_ms);
        }
        self.gateways.hear(call, &outcome.reply);
        (outcome.reply, self.table.apply(call.clone(), now_ms))
    }
}

pub fn ask<'a>(redis: &Redis, sha: &str, calls: impl Iterator<Item = &'a Command>, now_ms: u64) -> Vec<StoreReply> {
    let batch = batch(calls.cloned().collect());
    let keys = batch.tries.iter().map(|(_, call)| call.name.hex().into_bytes());
    let head = [b"EVALSHA".to_vec(), sha.into(), batch.tries.len().to_string().into_bytes()];
    let tail = [pack(&batch, false), now_ms.to_string().into_bytes()];
    let reply = redis.ask(&head.into_iter().chain(keys).chain(tail).collect::<Vec<_>>());
    let answers: Vec<_> = reply.clone().list().into_iter().filter_map(harness::resp::Reply::bytes).collect();
    assert_eq!(answers.len(), batch.tries.len(), "{reply:?}");
    let answers = answers.iter().zip(&batch.tries).map(|(answer, (nonce, _))| {
        let (echoed, reply) = unpack(answer).expect("it is an answer");
        assert_eq!(echoed, *nonce);
        reply
    });
    answers.collect()
}

/// Redis 6.2 says besides where in which script, and 7 nothing but the error.
#[test]
fn an_error_within_the_script_is_known_by_its_word_whatever_an_older_redis_writes_before_it() {
    let redis = Redis::start();
    for (text, known) in [
        ("@user_script: 1: -OOM command not allowed when used memory > 'maxmemory'.", RedisError::Oom),
        ("@user_script: 17: -READONLY You can't write against a read only replica.", RedisError::ReadOnly),
        ("-MISCONF Redis is configured to save RDB snapshots", RedisError::Misconf),
        ("NOREPLICAS Not enough good replicas to write.", RedisError::NoReplicas),
    ] {
        let asked = "local reply = redis.pcall(...)\n";
        let failing = format!("local reply = {{ err = [[{text}]] }}\n");
        let shown = SCRIPT.replace(CLOCK, "local now = tonumber(ARGV[2])\n").replace(asked, &failing);
        assert!(shown.contains(text), "the script asks Redis in another way");
        let sha = redis.ask(&["SCRIPT", "LOAD", &shown]).text();
        let said = ask(&redis, &sha, [call(1, CLAIM)].iter(), 1);
        assert_eq!(said, [StoreReply::Failed(Failure::Redis(known))], "{text}");
    }
}

#[test]
fn redis_keeps_the_script_under_the_hash_that_the_filter_asks_for() {
    assert_eq!(Redis::start().ask(&["SCRIPT", "LOAD", SCRIPT]).text(), SCRIPT_SHA1);
}

#[test]
fn over_webdis_an_operation_runs_its_course_on_the_clock_of_redis() {
    let redis = Redis::start();
    let front = Webdis::start(redis.addr());
    let ask = |call: &Command| -> StoreReply {
        let batch = batch(vec![call.clone()]);
        let answer = match send(&front, &batch, Named::Hash) {
            Answer::NoScript => send(&front, &batch, Named::Text),
            answer => answer,
        };
        match answer {
            Answer::Reply(Reply::Answers(answers)) if answers[0].0 == batch.tries[0].0 => answers[0].1.clone(),
            other => panic!("{other:?}"),
        }
    };
    let started_ms = clock_ms(&redis);
    let StoreReply::Granted { attempt: 1, doubt: false, key: KeyForm::Bare, expires_ms } = ask(&call(1, CLAIM)) else {
        panic!("the first claim is not granted")
    };
    assert!((started_ms + 60_000..started_ms + 70_000).contains(&expires_ms), "{started_ms} {expires_ms}");
    assert_eq!(ask(&call(2, CLAIM)), StoreReply::InFlight { attempt: 1 });
    assert!(matches!(ask(&granted(call(1, CommandKind::Renew))), StoreReply::Renewed { .. }));
    let response: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    let complete = CommandKind::Complete { status: 201, response: Some(response.clone()) };
    assert_eq!(ask(&granted(call(1, complete))), StoreReply::Settled);
    match ask(&call(3, CLAIM)) {
        StoreReply::Completed { attempt: 1, status: Some(201), response: Some(kept), age_ms, ttl_ms } => {
            assert_eq!(kept, response);
            assert!(age_ms < 10_000 && (50_000..=60_000).contains(&ttl_ms), "{age_ms} {ttl_ms}");
        }
        other => panic!("{other:?}"),
    }
    let kept = redis.get(format!("a b/%:{}", call(1, CLAIM).name.hex()).as_bytes()).expect("under its prefix");
    assert!(matches!(Record::decode(&kept), Ok(Record { state: State::Completed { .. }, .. })));
}

#[test]
fn one_operation_that_fails_in_a_batch_fails_alone_and_with_its_reason() {
    let redis = Redis::start();
    let front = Webdis::start(redis.addr());
    let key = |number: u8| format!("a b/%:{}", Name([number; 32]).hex());
    let named = |number: u8| Command { name: Name([number; 32]), ..call(1, CLAIM) };
    redis.ask(&["LPUSH", &key(2), "x"]);
    redis.ask(&["SET", &key(3), "x"]);
    redis.ask(&["SET", &key(4), ""]);
    let granted = model::apply(None, &call(1, CLAIM), clock_ms(&redis));
    let whole = granted.record.expect("a first claim is granted").encode();
    redis.ask(&[b"SET", key(5).as_bytes(), &whole[..whole.len() - 1]]);
    redis.ask(&[b"SET", key(6).as_bytes(), &[&whole[..], b"x"].concat()]);
    let batch = batch((1..=7).map(named).collect());
    let Answer::Reply(Reply::Answers(answers)) = send(&front, &batch, Named::Text) else { panic!("no answers") };
    let verdicts: Vec<StoreReply> = answers.into_iter().map(|(_, reply)| reply).collect();
    for granted in [0, 6] {
        assert!(matches!(verdicts[granted], StoreReply::Granted { .. }), "{verdicts:?}");
    }
    assert_eq!(verdicts[1], StoreReply::Failed(Failure::Redis(RedisError::WrongType)));
    assert!(verdicts[2..6].iter().all(|reply| *reply == StoreReply::Failed(Failure::Corrupt)), "{verdicts:?}");
    assert_eq!(redis.get(key(3).as_bytes()).as_deref(), Some(&b"x"[..]), "what is no record is left as it is");
}

#[test]
fn a_reply_carries_only_so_many_bodies_and_the_rest_is_asked_for_again() {
    let redis = Redis::start();
    let front = Webdis::start(redis.addr());
    let named = |number: u8, operation| granted(Command { name: Name([number; 32]), ..call(1, operation) });
    let body = vec![7; 1 << 20];
    for number in 0..6 {
        let complete = CommandKind::Complete { status: 200, response: Some(body.clone()) };
        let batch = batch(vec![named(number, complete)]);
        assert!(matches!(send(&front, &batch, Named::Text), Answer::Reply(Reply::Answers(_))));
    }
    let claims = (0..6).map(|number| Command { owner: Owner([9; 16]), ..named(number, CLAIM) });
    let Answer::Reply(Reply::Answers(answers)) = send(&front, &batch(claims.collect()), Named::Hash) else {
        panic!("no answers")
    };
    let deferred = answers.iter().filter(|(_, reply)| *reply == StoreReply::Deferred).count();
    let whole = answers
        .iter()
        .filter(|(_, reply)| matches!(reply, StoreReply::Completed { response: Some(kept), .. } if *kept == body));
    assert_eq!((deferred, whole.count()), (2, 4));
}

const CLAIM: CommandKind = CommandKind::Claim { may_retry: true };

fn call(owner: u8, operation: CommandKind) -> Command {
    Command {
        name: Name([1; 32]),
        owner: Owner([owner; 16]),
        fingerprint: Fingerprint([7; 32]),
        attempt: 0,
        key: KeyForm::Bare,
        lease_ms: 30_000,
        ttl_ms: 60_000,
        in_window: false,
        may_begin: true,
        deadline_ms: None,
        kind: operation,
    }
}

fn granted(call: Command) -> Command {
    Command { attempt: 1, ..call }
}

fn batch(calls: Vec<Command>) -> Batch {
    let tries = calls.into_iter().enumerate();
    Batch {
        id: 1,
        lane: Lane::Small,
        tries: tries.map(|(index, call)| (Nonce([index as u8; 16]), Rc::new(call))).collect(),
    }
}

/// Sends a batch as the filter does, through Webdis, and reads what comes back.
fn send(front: &Webdis, batch: &Batch, named: Named) -> Answer {
    let put = webdis::put("/", "a b/%:", batch, named);
    let mut stream = TcpStream::connect(front.addr()).expect("Webdis listens");
    let head = format!("PUT {} HTTP/1.1\r\nHost: webdis\r\nContent-Length: {}\r\n\r\n", put.path, put.body.len());
    stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&put.body)).expect("Webdis reads");
    let mut reply = BufReader::new(stream);
    let mut line = String::new();
    let (mut status, mut length) = (None, 0);
    while reply.read_line(&mut line).expect("Webdis answers") > 2 {
        let (name, value) = line.split_once(' ').unwrap_or_default();
        match name.to_ascii_lowercase().as_str() {
            "http/1.1" => status = value.get(..3).and_then(|digits| digits.parse().ok()),
            "content-length:" => length = value.trim().parse().expect("it is a number"),
            _ => {}
        }
        line.clear();
    }
    let mut body = vec![0; length];
    reply.read_exact(&mut body).expect("Webdis answers in full");
    webdis::read(status, &body)
}

pub fn clock_ms(redis: &Redis) -> u64 {
    let time: Vec<u64> = redis.ask(&["TIME"]).list().iter().filter_map(|part| part.text().parse().ok()).collect();
    time[0] * 1000 + time[1] / 1000
}
