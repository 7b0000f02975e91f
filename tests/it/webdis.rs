//! The wire of the shared store: what a batch looks like on it, and what is taken for an answer.
//!
//! Its one rule: requests and answers are written out byte by byte, so that no gateway and no script of another version
//! reads them otherwise.
//! It does not know Redis: `redis.rs` asks a real one.

use std::rc::Rc;

use envoy_idempotency::command::{Command, CommandKind, Failure, RedisError, StoreReply};
use envoy_idempotency::digest::hex;
use envoy_idempotency::fingerprint::Fingerprint;
use envoy_idempotency::key::{KeyForm, Name, UpstreamKey};
use envoy_idempotency::record::{Corrupt, Owner, RecordStatus, RecordSummary};
use envoy_idempotency::store::client::{Batch, Client, Lane, Limits, Nonce, Reply};
use envoy_idempotency::store::redis::Named;
use envoy_idempotency::store::redis::{SCRIPT, SCRIPT_SHA1, pack, unpack};
use envoy_idempotency::store::resp::Answer;
use envoy_idempotency::store::webdis::{put, read};
use percent_encoding::percent_decode_str;
use proptest::prelude::*;

const CLAIM: CommandKind = CommandKind::Claim { may_retry: true };
const NONCE: Nonce = Nonce([0x0e; 16]);

#[test]
fn a_batch_is_one_put_with_the_keys_in_the_path_and_the_operations_in_the_body() {
    let batch = batch([CLAIM, CommandKind::Renew]);
    let keys = ["00".repeat(32), "01".repeat(32)];
    let wanted = format!("/EVALSHA/{SCRIPT_SHA1}/2/idem%3A{}/idem%3A{}.raw", keys[0], keys[1]);
    assert_eq!(put("/", "idem:", &batch, Named::Hash).path, wanted);
    assert_eq!(put("/", "idem:", &batch, Named::Hash).body, pack(&batch, false));
    let wanted =
        format!("/redis/7/EVALSHA/{SCRIPT_SHA1}/2/a%2Fb%25c%2E%20d{}/a%2Fb%25c%2E%20d{}.raw", keys[0], keys[1]);
    assert_eq!(put("/redis/7/", "a/b%c. d", &batch, Named::Hash).path, wanted);
}

#[test]
fn redis_is_told_the_script_itself_when_it_does_not_keep_it() {
    let request = put("/", "idem:", &batch([CLAIM]), Named::Text);
    let parts: Vec<_> = request.path.split('/').collect();
    let script = percent_decode_str(parts[2]).decode_utf8().unwrap();
    assert_eq!((parts.len(), parts[0], parts[1], script.as_ref(), parts[3]), (5, "", "EVAL", SCRIPT, "1"));
    assert_eq!(parts[4], format!("idem%3A{}.raw", "00".repeat(32)));
    assert_eq!(request.body, pack(&batch([CLAIM]), false));
    // Envoy and other proxies on the way take 60 KiB of headers.
    let longest = put("/", &"%".repeat(128), &batch(vec![CLAIM; 64]), Named::Text);
    assert!(longest.path.len() < 52 * 1024, "{} bytes", longest.path.len());
}

#[test]
fn every_operation_is_packed_as_the_script_reads_it() {
    let fixed = format!("{} {} {}", "0e".repeat(16), "0a".repeat(16), "f1".repeat(32));
    let key = format!("11 02 {}", "0b".repeat(16));
    let times = "0201000000000000 0403000000000000";
    let whole = |operation| Command { attempt: 0x0506, ..call(0, operation) };
    let bare = Command { key: KeyForm::Quoted, deadline_ms: None, ..whole(CommandKind::Renew) };
    for (call, sample) in [
        (whole(CLAIM), format!("63 {fixed} 06050000 {key} 01 {times} 0807000000000000 0000 00000000")),
        (
            whole(CommandKind::Claim { may_retry: false }),
            format!("63 {fixed} 06050000 {key} 00 {times} 0807000000000000 0000 00000000"),
        ),
        (
            whole(CommandKind::Complete { status: 201, response: Some(b"paid".to_vec()) }),
            format!("64 {fixed} 06050000 {key} 01 {times} 0807000000000000 c900 04000000 70616964"),
        ),
        (
            whole(CommandKind::Complete { status: 201, response: Some(Vec::new()) }),
            format!("64 {fixed} 06050000 {key} 01 {times} 0807000000000000 c900 00000000"),
        ),
        (
            whole(CommandKind::Complete { status: 201, response: None }),
            format!("64 {fixed} 06050000 {key} 00 {times} 0807000000000000 c900 00000000"),
        ),
        (whole(CommandKind::Withdraw), format!("77 {fixed} 06050000 {key} 00 {times} 0807000000000000 0000 00000000")),
        (
            whole(CommandKind::Release { keep_fingerprint: true }),
            format!("66 {fixed} 06050000 {key} 01 {times} 0807000000000000 0000 00000000"),
        ),
        (
            whole(CommandKind::Release { keep_fingerprint: false }),
            format!("66 {fixed} 06050000 {key} 00 {times} 0807000000000000 0000 00000000"),
        ),
        (
            whole(CommandKind::MarkUnknown),
            format!("75 {fixed} 06050000 {key} 00 {times} 0807000000000000 0000 00000000"),
        ),
        (whole(CommandKind::Renew), format!("6e {fixed} 06050000 {key} 00 {times} 0807000000000000 0000 00000000")),
        (bare.clone(), format!("6e {fixed} 06050000 01 01 00 {times} 0000000000000000 0000 00000000")),
        // 0 says that there is no deadline.
        (
            Command { deadline_ms: Some(0), ..bare },
            format!("6e {fixed} 06050000 01 01 00 {times} 0100000000000000 0000 00000000"),
        ),
    ] {
        let operation = call.kind.clone();
        let batch = Batch { id: 1, lane: Lane::Small, tries: vec![(NONCE, Rc::new(call))] };
        assert_eq!(hex(&pack(&batch, false)), sample.replace(' ', ""), "{operation:?}");
    }
}

#[test]
fn every_answer_of_the_script_is_read() {
    for (sample, reply) in answers() {
        assert_eq!(unpack(&sample), Ok((NONCE, reply.clone())), "{reply:?}");
        let wanted = Answer::Reply(Reply::Answers(vec![(NONCE, reply.clone()), (NONCE, StoreReply::Settled)]));
        assert_eq!(read(Some(200), &array(&[&sample, &answer("4f")])), wanted, "{reply:?}");
    }
}

#[test]
fn an_answer_that_is_cut_off_or_goes_on_is_none() {
    for (sample, reply) in answers() {
        // A response goes on to the end of its answer; whether it is whole, the seal of it tells.
        let has_open_end = matches!(reply, StoreReply::Completed { response: Some(_), .. } | StoreReply::Failed(_));
        let least = if has_open_end { 16 + 1 } else { sample.len() };
        for end in 0..least {
            assert_eq!(unpack(&sample[..end]), Err(Corrupt), "{reply:?} cut at {end}");
        }
        assert!(has_open_end || unpack(&[&sample[..], &[0]].concat()) == Err(Corrupt), "{reply:?}");
    }
    for letter in 0..=255_u8 {
        if !b"ADEGHILMNOSUVZ".contains(&letter) {
            for tail in ["", "01000000", "01000000 00 00 0403000000000000"] {
                let answer = [&answer(&format!("{letter:02x}"))[..], &bytes(tail)].concat();
                assert_eq!(unpack(&answer), Err(Corrupt), "{letter:02x} {tail}");
            }
        }
    }
    // A flag that is neither.
    for sample in ["47 01000000 02 00 0403000000000000", "47 01000000 00 02 0403000000000000"] {
        assert_eq!(unpack(&answer(sample)), Err(Corrupt));
    }
}

#[test]
fn only_the_status_200_brings_an_answer() {
    let body = array(&[&answer("4f")]);
    for status in (100..=599).filter(|status| *status != 200) {
        let failure = match status {
            503 => Failure::Transport,
            504 => Failure::Timeout,
            _ => Failure::Garbage,
        };
        for body in [&body[..], b"", b"-OOM a", b"-NOSCRIPT a", b"upstream request timeout"] {
            assert_eq!(read(Some(status), body), failed(failure), "{status}");
        }
    }
    assert_eq!(read(None, b""), failed(Failure::Transport));
    assert_eq!(read(None, &body), failed(Failure::Transport));
}

#[test]
fn an_error_of_redis_counts_under_its_first_word() {
    let mut words = 0;
    for failure in Failure::all() {
        let Failure::Redis(error) = failure else { continue };
        words += 1;
        let word = failure.as_str().to_uppercase();
        let wanted = if error == RedisError::NoScript { Answer::NoScript } else { failed(failure) };
        for rest in ["", "\r\n", " and more\r\n", "-", ": \u{e9}", "\r\n$1\r\na\r\n"] {
            assert_eq!(read(Some(200), format!("-{word}{rest}").as_bytes()), wanted, "{word}{rest}");
        }
        let told = (NONCE, StoreReply::Failed(failure));
        assert_eq!(unpack(&[&answer("45")[..], word.as_bytes()].concat()), Ok(told), "{word} of one operation");
    }
    assert_eq!(words, 19);
    for body in ["-", "-\r\n", "- ERR", "-ERROR a", "-\u{e9}"] {
        assert_eq!(read(Some(200), body.as_bytes()), failed(Failure::Redis(RedisError::Other)), "{body}");
    }
}

#[test]
fn what_is_not_exactly_one_array_of_answers_is_garbage() {
    let one = String::from_utf8_lossy(&array(&[&answer("4f")])).into_owned();
    for body in [
        "",
        "\r\n",
        "<html><body>It works!</body></html>",
        r#"{"EVALSHA":["\u000e"]}"#,
        "+OK\r\n",
        ":1\r\n",
        "$-1\r\n",
        "$2\r\nOK\r\n",
        "*-1\r\n",
        "*\r\n",
        "*1",
        "*1\r\n",
        "*1\r\n$-1\r\n",
        "*1\r\n:1\r\n",
        "*1\r\n+OK\r\n",
        "*1\r\n-ERR a\r\n",
        "*1\r\n$0\r\n\r\n",
        "*1\r\n$4\r\nfour\r\n",
        "*99999999999999999999\r\n",
        "*18446744073709551615\r\n",
        "*1\r\n$18446744073709551615\r\nfour\r\n",
        "*1\r\n$99999999999999999999\r\nfour\r\n",
        &format!("*1\r\n{one}"),
        &format!(" {one}"),
        &format!("{one}\r\n"),
        &format!("{one}{one}"),
        &one.replace("*1", "*2"),
        &one.replace("*1", "*0"),
        &one.replace("*1", "*18446744073709551615"),
        &one.replace("*1", "*+1"),
        &one.replace("$17", "$16"),
        &one.replace("$17", "$18"),
        &one.replace("$17", "$0x11"),
        &one.replace("$17", "$ 17"),
        &one.replace("$17", "$+17"),
        &one.replace("$17", "$-17"),
        &one.replace("$17", "$"),
        &one.replace("\r\n", "\n"),
        &format!("{}\n\r", one.trim_end()),
    ] {
        assert_eq!(read(Some(200), body.as_bytes()), failed(Failure::Garbage), "{body:?}");
    }
    assert_eq!(read(Some(200), one.as_bytes()), Answer::Reply(Reply::Answers(vec![(NONCE, StoreReply::Settled)])));
    let none = Answer::Reply(Reply::Answers(Vec::new()));
    assert_eq!(read(Some(200), b"*0\r\n"), none, "an answer to nobody's question");
}

#[test]
fn an_array_cut_off_anywhere_is_garbage() {
    let answers: Vec<_> = answers().into_iter().map(|(sample, _)| sample).collect();
    let whole = array(&answers.iter().map(Vec::as_slice).collect::<Vec<_>>());
    assert!(matches!(read(Some(200), &whole), Answer::Reply(Reply::Answers(read)) if read.len() == answers.len()));
    for end in 0..whole.len() {
        assert_eq!(read(Some(200), &whole[..end]), failed(Failure::Garbage), "cut at {end}");
    }
}

#[test]
fn one_answer_too_few_fails_the_last_operation_alone_and_one_too_many_tells_nobody() {
    let granted = StoreReply::Granted { attempt: 1, doubt: false, key: KeyForm::Bare, expires_ms: 9 };
    let told = |count: u8| {
        let (mut client, batch) = asked(2);
        let answers: Vec<_> = (0..count).map(|number| (Nonce([number; 16]), granted.clone())).collect();
        client.replied(batch.id, Reply::Answers(answers), 1).into_iter().map(|told| told.reply).collect::<Vec<_>>()
    };
    let failed = StoreReply::Failed(Failure::Nonce);
    assert_eq!(told(0), [failed.clone(), failed.clone()]);
    assert_eq!(told(1), [granted.clone(), failed]);
    assert_eq!(told(2), [granted.clone(), granted.clone()]);
    assert_eq!(told(3), [granted.clone(), granted]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Webdis splits at slashes, decodes each part, and looks for the form of the reply behind the last dot.
    #[test]
    fn webdis_reads_the_keys_that_were_meant(prefix in "\\PC{1,20}", count in 1..5usize) {
        let request = put("/", &prefix, &batch(vec![CLAIM; count]), Named::Hash);
        let (path, suffix) = request.path.rsplit_once('.').unwrap();
        prop_assert_eq!(suffix, "raw");
        prop_assert!(path.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"%/-_".contains(&byte)), "{}", path);
        let parts: Vec<_> = path.split('/').map(|part| percent_decode_str(part).decode_utf8().unwrap()).collect();
        let mut wanted = vec![String::new(), "EVALSHA".into(), SCRIPT_SHA1.into(), count.to_string()];
        wanted.extend((0..count).map(|number| prefix.clone() + &hex(&[number as u8; 32])));
        prop_assert_eq!(parts, wanted);
    }

    /// What a claim is told after a byte was changed, put in or left out, or an answer was taken for another's.
    #[test]
    fn no_damage_to_a_reply_makes_a_grant(
        chosen in prop::collection::vec(any::<prop::sample::Index>(), 1..4),
        at in any::<prop::sample::Index>(),
        other in any::<prop::sample::Index>(),
        byte in 1..=255_u8,
        damage in 0..5u8,
    ) {
        let (samples, given): (Vec<_>, Vec<_>) = chosen
            .iter()
            .enumerate()
            .map(|(number, index)| {
                let (sample, reply) = index.get(&answers()).clone();
                ([&[number as u8; 16][..], &sample[16..]].concat(), reply)
            })
            .unzip();
        let mut samples: Vec<_> = samples.iter().map(Vec::as_slice).collect();
        if damage == 4 {
            let (one, two) = (at.index(samples.len()), other.index(samples.len()));
            samples.swap(one, two);
        }
        let mut body = array(&samples);
        let position = at.index(body.len());
        match damage {
            0 | 1 => body[position] ^= byte,
            2 => body.insert(position, byte),
            3 => drop(body.remove(position)),
            _ => {}
        }
        let (mut client, batch) = asked(chosen.len());
        let Answer::Reply(reply) = read(Some(200), &body) else { return Ok(()) };
        for told in client.replied(batch.id, reply, 1) {
            let given = &given[told.exchange.unwrap() as usize];
            let is_grant = matches!(given, StoreReply::Granted { .. });
            prop_assert!(!matches!(told.reply, StoreReply::Granted { .. }) || is_grant, "{:?} of {given:?}", told.reply);
            // Only a changed byte within an answer's own numbers, or its response, can be taken for what was said.
            let is_open = matches!(given, StoreReply::Completed { .. } | StoreReply::Failed(_));
            let is_same = matches!(told.reply, StoreReply::Failed(_)) || told.reply == *given;
            prop_assert!(damage < 2 || is_same || is_open, "{:?} instead of {given:?}", told.reply);
        }
    }
}

/// Every kind of answer under one nonce, and what it says.
fn answers() -> Vec<(Vec<u8>, StoreReply)> {
    let completed = |response: Option<&[u8]>| StoreReply::Completed {
        attempt: 0x0102,
        status: Some(201),
        response: response.map(<[u8]>::to_vec),
        age_ms: 0x0304,
        ttl_ms: 0x0506,
    };
    let granted = |doubt, key| StoreReply::Granted { attempt: 0x0102, doubt, key, expires_ms: 0x0304 };
    let ours = KeyForm::Ours(UpstreamKey([0x0b; 16]));
    let times = "0403000000000000 0605000000000000";
    let seen = |standing| StoreReply::Seen(Some(RecordSummary { attempt: 0x0102, standing, ttl_ms: 0x0304 }));
    [
        ("41".to_owned(), StoreReply::Deferred),
        (format!("44 02010000 c900 {times} 00"), completed(None)),
        (format!("44 02010000 c900 {times} 01"), completed(Some(b""))),
        (format!("44 02010000 c900 {times} 01 70616964 0d0a"), completed(Some(b"paid\r\n"))),
        ("45 434f5252555054".to_owned(), StoreReply::Failed(Failure::Corrupt)),
        ("45 4f4f4d".to_owned(), StoreReply::Failed(Failure::Redis(RedisError::Oom))),
        ("47 02010000 00 00 0403000000000000".to_owned(), granted(false, KeyForm::Bare)),
        ("47 02010000 00 01 0403000000000000".to_owned(), granted(false, KeyForm::Quoted)),
        (format!("47 02010000 01 02 {} 0403000000000000", "0b".repeat(16)), granted(true, ours)),
        ("48 02010000".to_owned(), StoreReply::Exhausted { attempt: 0x0102 }),
        ("49 02010000".to_owned(), StoreReply::InFlight { attempt: 0x0102 }),
        ("4c".to_owned(), StoreReply::Lost),
        ("4d".to_owned(), StoreReply::Mismatch),
        ("4e 0403000000000000".to_owned(), StoreReply::Renewed { expires_ms: 0x0304 }),
        ("4f".to_owned(), StoreReply::Settled),
        ("53".to_owned(), StoreReply::Stale),
        ("55 02010000 0403000000000000".to_owned(), StoreReply::Unknown { attempt: 0x0102, wait_ms: 0x0304 }),
        ("56 00 02010000 0000 0403000000000000".to_owned(), seen(RecordStatus::Open)),
        ("56 01 02010000 0000 0403000000000000".to_owned(), seen(RecordStatus::Running)),
        ("56 02 02010000 0000 0403000000000000".to_owned(), seen(RecordStatus::Unknown)),
        ("56 03 02010000 c900 0403000000000000".to_owned(), seen(RecordStatus::Completed(Some(201)))),
        ("56 03 02010000 0000 0403000000000000".to_owned(), seen(RecordStatus::Completed(None))),
        ("5a".to_owned(), StoreReply::Seen(None)),
    ]
    .map(|(sample, reply)| (answer(&sample), reply))
    .to_vec()
}

/// What follows the nonce, in hex.
fn answer(tail: &str) -> Vec<u8> {
    [&NONCE.0[..], &bytes(tail)].concat()
}

fn bytes(sample: &str) -> Vec<u8> {
    let digits = sample.replace(' ', "");
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect()
}

/// As Redis and Webdis send it.
fn array(items: &[&[u8]]) -> Vec<u8> {
    let mut out = format!("*{}\r\n", items.len()).into_bytes();
    for item in items {
        out.extend(format!("${}\r\n", item.len()).bytes());
        out.extend(*item);
        out.extend(b"\r\n");
    }
    out
}

fn failed(failure: Failure) -> Answer {
    Answer::Reply(Reply::Failed(failure))
}

fn call(number: u8, operation: CommandKind) -> Command {
    Command {
        name: Name([number; 32]),
        owner: Owner([0x0a; 16]),
        fingerprint: Fingerprint([0xf1; 32]),
        attempt: 0,
        key: KeyForm::Ours(UpstreamKey([0x0b; 16])),
        lease_ms: 0x0102,
        ttl_ms: 0x0304,
        in_window: false,
        may_begin: true,
        deadline_ms: Some(0x0708),
        kind: operation,
    }
}

/// One operation each on so many names, under one nonce.
fn batch(operations: impl IntoIterator<Item = CommandKind>) -> Batch {
    let tries = operations.into_iter().zip(0..).map(|(operation, number)| (NONCE, Rc::new(call(number, operation))));
    Batch { id: 1, lane: Lane::Small, tries: tries.collect() }
}

/// A client that has sent so many claims, once each, the first under nonce 0 and so on.
fn asked(count: usize) -> (Client, Batch) {
    let mut client = Client::new(Limits {
        attempts: 1,
        timeout_ms: 100,
        max_calls: 1,
        max_batch: count,
        max_batch_bytes: 1 << 20,
        large_bytes: None,
        max_queued: count,
        max_owed_bytes: 1 << 20,
        breaker_failures: 100,
        breaker_open_ms: 1,
    });
    for number in 0..count {
        assert_eq!(client.submit(number as u32, Rc::new(call(number as u8, CLAIM)), 0), None);
    }
    let mut nonces = (0..).map(|number| Nonce([number; 16]));
    let batch = client.next_batch(Lane::Small, 0, || nonces.next().unwrap_or(NONCE)).expect("claims wait");
    (client, batch)
}
