//! Redis's own protocol: what is written, what is read of it, and what becomes of a stream.
//!
//! Its one rule: replies are written by hand, so that nothing reads what it wrote itself.
//! It does not know Redis: see `redis.rs`.

use std::rc::Rc;

use envoy_idempotency::command::{Command, CommandKind, Failure, RedisError};
use envoy_idempotency::config::{Config, Login, RESPONSE_MAX, Redis, Store};
use envoy_idempotency::fingerprint::Fingerprint;
use envoy_idempotency::framing::{Frames, NoFrame, head};
use envoy_idempotency::key::{KeyForm, Name};
use envoy_idempotency::record::Owner;
use envoy_idempotency::store::client::{Batch, Heard, Lane, Nonce, OUTSTANDING_MAX, Reply};
use envoy_idempotency::store::pipeline::{Pipeline, Received};
use envoy_idempotency::store::redis::{Named, SCRIPT, SCRIPT_SHA1, pack};
use envoy_idempotency::store::resp::{Broken, Parsed, Reader, Value, log_in, parse, write};

const MS: u64 = 1000;
const TIMEOUT: u64 = 250 * MS;

#[test]
fn a_batch_is_one_command_whose_last_argument_is_packed() {
    for (named, command, script) in [(Named::Hash, "EVALSHA", SCRIPT_SHA1), (Named::Text, "EVAL", SCRIPT)] {
        let batch = batch(7, 2);
        let mut out = Vec::new();
        write("a b:", &batch, named, &mut out);
        let packed = pack(&batch, true);
        let keys = [1, 2].map(|number| format!("a b:{}", Name([number; 32]).hex()));
        let mut wanted =
            format!("*6\r\n${}\r\n{command}\r\n${}\r\n{script}\r\n$1\r\n2\r\n", command.len(), script.len());
        keys.iter().for_each(|key| wanted.push_str(&format!("$68\r\n{key}\r\n")));
        wanted.push_str(&format!("${}\r\n", packed.len()));
        assert_eq!(out, [wanted.as_bytes(), &packed, b"\r\n"].concat());
    }
}

#[test]
fn only_the_small_lane_tells_the_script_that_large_responses_have_another_way() {
    let small = batch(7, 1);
    let large = Batch { lane: Lane::Large, ..small.clone() };
    let written = |batch: &Batch| {
        let mut out = Vec::new();
        write("", batch, Named::Hash, &mut out);
        out
    };
    assert!(written(&small).ends_with(&[&pack(&small, true)[..], b"\r\n"].concat()));
    assert!(written(&large).ends_with(&[&pack(&large, false)[..], b"\r\n"].concat()));
    assert_ne!(pack(&small, true), pack(&small, false));
}

#[test]
fn a_login_names_its_user_where_it_has_one() {
    let login = |username: Option<&str>| Login { username: username.map(Into::into), password: b"a\r\nb".to_vec() };
    assert_eq!(log_in(&login(None)), b"*2\r\n$4\r\nAUTH\r\n$4\r\na\r\nb\r\n");
    assert_eq!(log_in(&login(Some("gateway"))), b"*3\r\n$4\r\nAUTH\r\n$7\r\ngateway\r\n$4\r\na\r\nb\r\n");
}

#[test]
fn replies_are_read_however_they_are_cut() {
    let stream: &[u8] = b"*2\r\n$3\r\na\r\n\r\n$0\r\n\r\n-NOSCRIPT a\r\n*0\r\n+OK\r\n*1\r\n$1\r\n\xff\r\n";
    let wanted = ["Array([[97, 13, 10], []])", "Error(NOSCRIPT a)", "Array([])", "Status(OK)", "Array([[255]])"];
    for size in 1..=stream.len() {
        let (mut reader, mut read) = (Reader::default(), Vec::new());
        for piece in stream.chunks(size) {
            reader.push(piece.to_vec());
            while let Some(said) = reader.next(shown).unwrap() {
                read.push(said);
            }
        }
        assert_eq!(read, wanted, "in pieces of {size}");
    }
}

#[test]
fn what_is_no_reply_to_a_command_of_ours_is_told_with_its_first_byte_that_is_wrong() {
    for (bytes, from) in [
        (&b"HTTP/1.1 400 Bad Request\r\n"[..], 1),
        (b"$3\r\na", 1),
        (b":1\r\n", 1),
        (b"\r\n", 1),
        (b"\0", 1),
        (b"*1\n", 3),
        (b"*-1\r\n", 5),
        (b"*\r\n", 3),
        (b"*x\r\n", 4),
        (b"*65\r\n", 5),
        (b"*1\r\n:", 5),
        (b"*1\r\n*", 5),
        (b"*1\r\n$-1\r\n", 9),
        (b"*1\r\n$99999999999999999999\r\n", 27),
        (b"*1\r\n$1\r\nab\r", 11),
        (b"*1\r\n$1\r\na\n\n", 11),
    ] {
        for end in 0..from {
            assert!(matches!(parse(&bytes[..end]), Parsed::Part(wanted) if wanted > end), "{bytes:?} cut at {end}");
        }
        for end in from..=bytes.len() {
            assert_eq!(parse(&bytes[..end]), Parsed::Broken, "{bytes:?} cut at {end}");
        }
    }
    let too_long = [b"-".as_slice(), &[b'a'; 4096]].concat();
    assert_eq!(parse(&too_long), Parsed::Broken, "a line has an end");
    let too_large = format!("*1\r\n${}\r\n", RESPONSE_MAX + 4097);
    assert_eq!(parse(too_large.as_bytes()), Parsed::Broken, "no answer is that long");
    let mut reader = Reader::default();
    reader.push(b"+OK\r\n?".to_vec());
    assert_eq!(reader.next(shown), Ok(Some("Status(OK)".to_owned())));
    assert_eq!(reader.next(shown), Err(Broken));
}

#[test]
fn a_large_reply_in_many_pieces_is_looked_at_few_times() {
    let reply = [format!("*1\r\n${}\r\n", 1 << 20).as_bytes(), &vec![b'a'; 1 << 20], b"\r\n"].concat();
    assert!(matches!(parse(&reply[..100]), Parsed::Part(wanted) if wanted == reply.len()));
    let mut reader = Reader::default();
    let mut count = 0;
    for piece in reply.chunks(1000) {
        reader.push(piece.to_vec());
        count += usize::from(reader.next(|_| ()).unwrap().is_some());
    }
    assert_eq!(count, 1);
}

#[test]
fn a_reply_belongs_to_the_oldest_command_that_has_none() {
    let mut stream = opened("");
    let written = stream.send(vec![batch(1, 1), batch(2, 2)], 0);
    assert_eq!(written.iter().filter(|byte| **byte == b'*').count(), 2, "both in one write");
    let replies = [reply(&batch(1, 1)), reply(&batch(2, 2))].concat();
    let received = stream.received(replies[..40].to_vec(), 5 * MS);
    assert_eq!((answered(&received), received.took_us), (vec![1], vec![5 * MS]));
    let received = stream.received(replies[40..].to_vec(), 7 * MS);
    assert_eq!((answered(&received), received.took_us, received.heard.lost), (vec![2], vec![7 * MS], None));
}

#[test]
fn a_script_that_redis_has_forgotten_is_sent_again_with_its_text() {
    let mut stream = opened("");
    stream.send(vec![batch(1, 1), batch(2, 1)], 0);
    let received = stream.received([b"-NOSCRIPT No matching script.\r\n", &reply(&batch(2, 1))[..]].concat(), 1);
    let mut again = Vec::new();
    write("idem:", &batch(1, 1), Named::Text, &mut again);
    assert_eq!((answered(&received), received.write), (vec![2], again));
    assert_eq!(answered(&stream.received(reply(&batch(1, 1)), 2)), [1]);

    // Not where its caller has given up, and not twice.
    for (came, text) in [(TIMEOUT, false), (1, true)] {
        let mut stream = opened("");
        stream.send(vec![batch(1, 1)], 0);
        if text {
            stream.received(b"-NOSCRIPT a\r\n".to_vec(), came);
        }
        let received = stream.received(b"-NOSCRIPT a\r\n".to_vec(), came);
        let failed = Reply::Failed(Failure::Redis(RedisError::NoScript));
        assert_eq!(received.heard, Heard { replies: vec![(1, failed)], lost: None });
        assert_eq!(received.write, b"");
    }
}

#[test]
fn where_redis_has_said_too_late_that_it_has_forgotten_the_script_the_next_command_brings_it() {
    let (mut by_hash, mut by_text) = (Vec::new(), Vec::new());
    write("idem:", &batch(2, 1), Named::Hash, &mut by_hash);
    write("idem:", &batch(2, 1), Named::Text, &mut by_text);
    let mut stream = opened("");
    stream.send(vec![batch(1, 1)], 0);
    assert_eq!(answered(&stream.received(b"-NOSCRIPT a\r\n".to_vec(), TIMEOUT)), [1]);
    assert_eq!(stream.send(vec![batch(2, 1)], TIMEOUT), by_text);
    assert_eq!(answered(&stream.received(reply(&batch(2, 1)), TIMEOUT)), [2]);
    assert_eq!(stream.send(vec![batch(2, 1)], TIMEOUT), by_hash, "once is enough");

    // A reply was lost, so that each comes to the command before its own: one that carries a nonce ends that.
    let mut stream = opened("");
    stream.send(vec![batch(1, 1), batch(2, 1)], 0);
    assert_eq!(answered(&stream.received(b"-NOSCRIPT a\r\n".to_vec(), TIMEOUT)), [1]);
    stream.send(vec![batch(3, 1)], TIMEOUT);
    let received = stream.received(reply(&batch(3, 1)), TIMEOUT);
    assert_eq!(received.heard.lost, Some((vec![3], Failure::Transport)));
}

#[test]
fn an_error_fails_its_command_alone() {
    let mut stream = opened("");
    stream.send(vec![batch(1, 1), batch(2, 1)], 0);
    let received = stream.received([b"-OOM no memory\r\n", &reply(&batch(2, 1))[..]].concat(), 1);
    assert_eq!(received.heard.replies[0], (1, Reply::Failed(Failure::Redis(RedisError::Oom))));
    assert_eq!((answered(&received), received.heard.lost), (vec![1, 2], None));
}

#[test]
fn a_reply_that_comes_late_is_counted_to_its_own_command() {
    let mut stream = opened("");
    stream.send(vec![batch(1, 1)], 0);
    // Its caller has given up long ago, and asks anew.
    stream.send(vec![batch(2, 1)], 2 * TIMEOUT);
    assert_eq!(stream.tick(4 * TIMEOUT - 1), None);
    let received = stream.received([reply(&batch(1, 1)), reply(&batch(2, 1))].concat(), 4 * TIMEOUT - 1);
    assert_eq!((answered(&received), received.heard.lost), (vec![1, 2], None));
}

#[test]
fn a_stream_is_given_up_where_its_bytes_are_no_reply_to_what_was_asked() {
    for (bytes, replies, lost, failure) in [
        (b"HTTP/1.1 400 Bad Request\r\n".to_vec(), vec![], vec![1, 2], Failure::Garbage),
        (b"+OK\r\n".to_vec(), vec![], vec![1, 2], Failure::Garbage),
        (b"*1\r\n$1\r\nG\r\n".to_vec(), vec![], vec![1, 2], Failure::Garbage),
        // Those of the second command, of too many operations, and of too few.
        (reply(&batch(2, 1)), vec![1], vec![2], Failure::Transport),
        (reply(&batch(1, 2)), vec![1], vec![2], Failure::Transport),
        (b"*0\r\n".to_vec(), vec![1], vec![2], Failure::Transport),
        ([reply(&batch(1, 1)), reply(&batch(2, 1)), b"+".to_vec()].concat(), vec![1, 2], vec![], Failure::Garbage),
    ] {
        let mut stream = opened("");
        stream.send(vec![batch(1, 1), batch(2, 1)], 0);
        let mut received = stream.received(bytes.clone(), 1);
        if received.heard.lost.is_none() {
            received = stream.received(b"OK\r\n".to_vec(), 2);
            received.heard.replies = replies.iter().map(|id| (*id, Reply::Answers(Vec::new()))).collect();
        }
        assert_eq!(answered(&received), replies, "{bytes:?}");
        assert_eq!(received.heard.lost, Some((lost, failure)), "{bytes:?}");
        assert_eq!(received.is_http, bytes.starts_with(b"HTTP"));
        // It is closed now.
        assert_eq!((stream.room(false), stream.received(reply(&batch(1, 1)), 3)), (0, Received::default()));
    }
}

#[test]
fn a_stream_is_given_up_where_nothing_has_come_for_four_time_outs_while_a_reply_was_awaited() {
    let mut stream = opened("");
    assert_eq!(stream.tick(100 * TIMEOUT), None, "nothing is awaited");
    stream.send(vec![batch(1, 1), batch(2, 1)], 100 * TIMEOUT);
    // A part of a reply is a sign of life.
    stream.received(reply(&batch(1, 1))[..3].to_vec(), 102 * TIMEOUT);
    assert_eq!(stream.tick(106 * TIMEOUT - 1), None);
    let lost = Some((vec![1, 2], Failure::Timeout));
    assert_eq!(stream.tick(106 * TIMEOUT), Some(Heard { replies: vec![], lost }));
    assert_eq!(stream.tick(200 * TIMEOUT), None, "it is given up once");
}

#[test]
fn what_is_under_way_when_the_stream_is_closed_is_lost_together() {
    let mut stream = opened("");
    stream.send(vec![batch(1, 1), batch(2, 1)], 0);
    assert_eq!(stream.closed(1).lost, Some((vec![1, 2], Failure::Transport)));
    assert_eq!(stream.closed(2).lost, Some((vec![], Failure::Transport)));
}

#[test]
fn nothing_is_asked_before_the_login_has_succeeded() {
    let login = r#", "username": "gateway", "password": "secret""#;
    let mut stream = Pipeline::new(&redis(login), Lane::Small);
    assert_eq!(stream.opened(0), b"*3\r\n$4\r\nAUTH\r\n$7\r\ngateway\r\n$6\r\nsecret\r\n");
    assert_eq!(stream.send(vec![batch(1, 1)], 1), b"");
    assert_eq!(stream.send(vec![batch(2, 1)], 2 * MS), b"");
    // The first has been given up by its caller.
    let received = stream.received(b"+OK\r\n".to_vec(), TIMEOUT + MS);
    let mut written = Vec::new();
    write("idem:", &batch(2, 1), Named::Hash, &mut written);
    assert_eq!((received.write, received.heard), (written, Heard::default()));
    assert_eq!(answered(&stream.received(reply(&batch(2, 1)), TIMEOUT + MS)), [2]);

    for (said, failure) in [
        (
            &b"-WRONGPASS invalid username-password pair or user is disabled.\r\n"[..],
            Failure::Redis(RedisError::WrongPass),
        ),
        (b"-ERR max number of clients reached\r\n", Failure::Redis(RedisError::Err)),
        (b"*0\r\n", Failure::Garbage),
    ] {
        let mut stream = Pipeline::new(&redis(login), Lane::Small);
        stream.opened(0);
        stream.send(vec![batch(1, 1)], 0);
        let lost = stream.received(said.to_vec(), 1).heard.lost;
        assert_eq!(lost, Some((vec![1], failure)));
    }
}

#[test]
fn after_an_end_the_next_stream_is_opened_at_once_and_then_after_pauses_that_grow() {
    let mut stream = opened("");
    let mut now = 0;
    let pauses = [0, 10, 20, 40, 80, 160, 320, 640, 1000, 1000].map(|pause| pause * MS);
    for pause in pauses {
        stream.closed(now);
        if pause > 0 {
            assert_eq!(stream.barred(now + pause - 1), Some(Failure::Transport), "{pause}");
        }
        now += pause;
        assert_eq!(stream.barred(now), None, "{pause}");
        stream.opened(now);
    }
    stream.send(vec![batch(1, 1)], now);
    assert_eq!(answered(&stream.received(reply(&batch(1, 1)), now)), [1]);
    stream.closed(now);
    assert_eq!(stream.barred(now), None, "it has brought a reply");
    // A Redis that has no room for another client says so to each, and closes.
    for pause in [0, 10, 20].map(|pause| pause * MS) {
        now += pause;
        stream.opened(now);
        stream.send(vec![batch(1, 1)], now);
        stream.received(b"-ERR max number of clients reached\r\n".to_vec(), now);
        stream.closed(now);
    }
    assert_eq!(stream.barred(now + 39 * MS), Some(Failure::Transport));
}

#[test]
fn so_many_commands_and_bytes_are_under_way_and_no_more() {
    let mut stream = opened(r#", "batching": false"#);
    assert_eq!(stream.room(true), OUTSTANDING_MAX - 1, "of the largest there are");
    let calls = (1..=64).map(|id| batch(id, 1)).collect::<Vec<_>>();
    stream.send(calls, 0);
    assert_eq!(stream.room(true), 0);
    stream.received(reply(&batch(1, 1)), 0);
    assert_eq!(stream.room(true), 1);

    let complete = |bytes| CommandKind::Complete { status: 201, response: Some(vec![0; bytes]) };
    let mut stream = opened("");
    for (id, room) in [(1, 2), (2, 1), (3, 0)] {
        let tries = (0..16).map(|number| (nonce(id, number), Rc::new(command(number, complete(65_536)))));
        stream.send(vec![Batch { id, lane: Lane::Small, tries: tries.collect() }], 0);
        assert_eq!(stream.room(true), room);
    }
    let mut stream = Pipeline::new(&redis(""), Lane::Large);
    assert_eq!((stream.room(false), stream.room(true)), (0, 1), "one has to be opened first");
    stream.opened(0);
    assert_eq!(stream.room(true), 1);
    let large = vec![(nonce(1, 0), Rc::new(command(0, complete(2 << 20))))];
    stream.send(vec![Batch { id: 1, lane: Lane::Large, tries: large }], 0);
    assert_eq!(stream.room(true), 0);
    // It keeps its place when its caller has given it up.
    assert_eq!((stream.tick(2 * TIMEOUT), stream.room(true)), (None, 0));
}

#[test]
fn outside_the_turn_of_the_root_a_call_goes_out_only_where_it_is_alone() {
    let mut stream = opened("");
    assert_eq!(stream.room(false), 1);
    stream.send(vec![batch(1, 1)], 0);
    assert_eq!((stream.room(false), stream.room(true)), (0, 3), "the next ones gather");
    stream.received(reply(&batch(1, 1)), 0);
    assert_eq!(stream.room(false), 1);
}

#[test]
fn frames_come_off_however_they_are_cut() {
    let messages: [&[u8]; 4] = [b"a", b"", b"bcdefgh\0", &[7; 300]];
    let framed = messages.iter().flat_map(|message| [&head(message.len())[..], message].concat()).collect::<Vec<_>>();
    for size in 1..=framed.len() {
        let (mut frames, mut out) = (Frames::default(), Vec::new());
        for piece in framed.chunks(size) {
            match frames.pass(piece.len()) {
                true => out.extend(piece),
                false => out.extend(frames.strip(piece).unwrap()),
            }
        }
        assert_eq!(out, messages.concat(), "in pieces of {size}");
    }
}

#[test]
fn what_is_no_frame_is_told() {
    for bytes in [&b"\x01\0\0\0\x01a"[..], b"GET / HTTP", b"*6\r\n$7\r\n", b"\0\xff\xff\xff\xff"] {
        assert_eq!(Frames::default().strip(bytes), Err(NoFrame), "{bytes:?}");
    }
    assert_eq!(head(0x0102_0304), [0, 1, 2, 3, 4]);
}

#[test]
fn a_stream_to_a_redis_that_takes_no_writes_is_left_once_nothing_is_under_way() {
    let within = |error: &str| [b"*1\r\n$25\r\n", &nonce(1, 1).0[..], b"E", error.as_bytes(), b"\r\n"].concat();
    for refused in [
        b"-MASTERDOWN Link with MASTER is down\r\n".to_vec(),
        b"-READONLY You can't write against a read only replica.\r\n".to_vec(),
        b"-NOREPLICAS Not enough good replicas to write.\r\n".to_vec(),
        within("READONLY"),
    ] {
        let mut stream = opened("");
        stream.send(vec![batch(1, 1), batch(2, 1)], 0);
        let received = stream.received(refused, MS);
        assert_eq!((answered(&received), received.heard.lost), (vec![1], None), "the other's reply still comes");
        assert!(received.reads_only);
        assert_eq!((stream.room(true), stream.room(false)), (0, 0));
        let received = stream.received(reply(&batch(2, 1)), 2 * MS);
        assert_eq!((answered(&received), received.heard.lost), (vec![2], Some((vec![], Failure::Transport))));
        // Nothing bars the next one.
        assert_eq!((stream.room(true), stream.barred(2 * MS)), (1, None));
    }
    // What Redis refuses for another reason has no other place to go.
    let mut stream = opened("");
    stream.send(vec![batch(1, 1)], 0);
    let received = stream.received(b"-OOM command not allowed\r\n".to_vec(), MS);
    assert_eq!((received.heard.lost, received.reads_only), (None, false));
}

/// Asks on an open stream, and is refused by a replica; tells whether the stream is left for that.
fn is_left(stream: &mut Pipeline, now: u64) -> bool {
    stream.send(vec![batch(1, 1)], now);
    assert_eq!(stream.room(true), 3, "until it is left, it serves");
    stream.received(b"-READONLY a\r\n".to_vec(), now).heard.lost.is_some()
}

#[test]
fn streams_to_replicas_are_left_after_pauses_that_grow_from_ten_milliseconds_to_a_second() {
    let mut stream = opened("");
    let mut now = 5000 * MS;
    assert!(is_left(&mut stream, now), "the first at once");
    for pause in [10, 20, 40, 80, 160, 320, 640, 1000, 1000].map(|pause| pause * MS) {
        stream.opened(now);
        assert!(!is_left(&mut stream, now + pause - 1), "{pause}");
        now += pause;
        assert!(is_left(&mut stream, now), "{pause}");
    }
    // An answer from one part of what stands behind a proxy says nothing of the others.
    stream.opened(now);
    stream.send(vec![batch(1, 1)], now);
    assert_eq!(answered(&stream.received(reply(&batch(1, 1)), now)), [1]);
    assert!(!is_left(&mut stream, now + 1000 * MS - 1));

    // After a second without a refusal that counted, the next failover is a new one.
    now += 2000 * MS;
    assert!(is_left(&mut stream, now));
    stream.opened(now);
    assert!(!is_left(&mut stream, now + 10 * MS - 1));
    assert!(is_left(&mut stream, now + 10 * MS));
}

#[test]
fn a_stream_that_may_not_be_left_yet_is_left_in_the_first_tick_when_it_may() {
    let mut stream = opened("");
    assert!(is_left(&mut stream, 5000 * MS));
    stream.opened(5000 * MS);
    assert!(!is_left(&mut stream, 5001 * MS));
    assert_eq!(stream.tick(5010 * MS - 1), None);
    let left = Some(Heard { replies: vec![], lost: Some((vec![], Failure::Transport)) });
    assert_eq!((stream.tick(5010 * MS), stream.tick(5011 * MS)), (left, None));
}

#[test]
fn a_stream_is_left_too_where_the_other_one_has_met_a_redis_that_takes_no_writes() {
    let left = Some(Heard { replies: vec![], lost: Some((vec![], Failure::Transport)) });
    let mut idle = opened("");
    idle.doubt();
    assert_eq!((idle.tick(1), idle.room(true)), (left, 1));
    // What is under way on it is awaited.
    let mut busy = opened("");
    busy.send(vec![batch(1, 1)], 0);
    busy.doubt();
    assert_eq!((busy.tick(1), busy.room(true)), (None, 0));
    let received = busy.received(reply(&batch(1, 1)), 2);
    assert_eq!((answered(&received), received.heard.lost), (vec![1], Some((vec![], Failure::Transport))));
    // One that is not open leads nowhere yet.
    busy.doubt();
    busy.opened(3);
    assert_eq!((busy.tick(1000 * MS), busy.room(true)), (None, 3));
}

fn shown(value: Value<'_>) -> String {
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    match value {
        Value::Array(items) => format!("Array({items:?})"),
        Value::Error(error) => format!("Error({})", text(error)),
        Value::Status(status) => format!("Status({})", text(status)),
    }
}

/// `store` of a document that speaks so, with more.
fn redis(more: &str) -> Redis {
    let document = format!(r#"{{"store": {{"type": "redis", "dialect": "resp", "cluster": "c"{more}}}}}"#);
    match Config::parse(document.as_bytes(), &|_| None).expect("it is right").store {
        Store::Redis(redis) => *redis,
        Store::Local { .. } => panic!("it is Redis"),
    }
}

fn opened(more: &str) -> Pipeline {
    let mut stream = Pipeline::new(&redis(more), Lane::Small);
    assert_eq!(stream.opened(0), b"");
    stream
}

fn answered(received: &Received) -> Vec<u64> {
    received.heard.replies.iter().map(|(batch, _)| *batch).collect()
}

fn nonce(batch: u64, number: u8) -> Nonce {
    let mut nonce = [number; 16];
    nonce[0] = batch as u8;
    Nonce(nonce)
}

/// A call of so many claims.
fn batch(id: u64, count: u8) -> Batch {
    let claim = CommandKind::Claim { may_retry: true };
    let tries = (1..=count).map(|number| (nonce(id, number), Rc::new(command(number, claim.clone()))));
    Batch { id, lane: Lane::Small, tries: tries.collect() }
}

/// The reply to it in which all have settled.
fn reply(batch: &Batch) -> Vec<u8> {
    let mut out = format!("*{}\r\n", batch.tries.len()).into_bytes();
    for (nonce, _) in &batch.tries {
        out.extend([b"$17\r\n", &nonce.0[..], b"O\r\n"].concat());
    }
    out
}

fn command(number: u8, kind: CommandKind) -> Command {
    Command {
        kind,
        name: Name([number; 32]),
        owner: Owner([number; 16]),
        fingerprint: Fingerprint([number; 32]),
        key: KeyForm::Bare,
        attempt: 0,
        lease_ms: 1000,
        ttl_ms: 60_000,
        deadline_ms: None,
        in_window: false,
        may_begin: true,
    }
}
