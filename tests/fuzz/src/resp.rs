//! What comes on a stream from Redis, cut anywhere: the wire, the order of replies, and the frames around them.
//!
//! Its one rule: however the bytes are cut, they mean the same, and each call ends once.

use std::rc::Rc;

use envoy_idempotency::command::Failure;
use envoy_idempotency::config::{Config, Store};
use envoy_idempotency::framing::{Frames, NoFrame, head};
use envoy_idempotency::store::client::{Batch, Heard, Lane, Nonce, Reply};
use envoy_idempotency::store::pipeline::{Pipeline, Received};

use crate::choices::Choices;
use crate::reply::claim;

/// Takes the size of pieces, whether there is a login, and what comes.
pub fn hold(data: &[u8]) {
    let mut choices = Choices::new(data);
    let size = usize::from(choices.byte()).max(1);
    let document = choices.one(&DOCUMENTS);
    let bytes = choices.rest();
    let (whole, whole_end) = run(document, bytes, bytes.len().max(1));
    let (cut, cut_end) = run(document, bytes, size);
    assert_eq!((&whole.heard.replies, &whole.heard.lost), (&cut.heard.replies, &cut.heard.lost));
    assert_eq!(whole_end, cut_end);

    let mut ended: Vec<u64> = whole.heard.replies.iter().map(|(batch, _)| *batch).collect();
    ended.extend(whole.heard.lost.iter().chain(&whole_end).flat_map(|(batches, _)| batches));
    ended.sort_unstable();
    assert_eq!(ended, [1, 2, 3], "each ends once");
    for (place, (batch, reply)) in whole.heard.replies.iter().enumerate() {
        let Reply::Answers(answers) = reply else { continue };
        let is_own = answers.iter().map(|(nonce, _)| *nonce).eq([nonce(*batch)]);
        let is_last = place + 1 == whole.heard.replies.len();
        assert!(is_own || (is_last && whole.heard.lost.is_some()), "the stream goes on after another's reply");
    }
    frames(bytes, size);
}

/// What comes of three calls when these bytes come in pieces of such a size, and what is left at the end.
fn run(document: &str, bytes: &[u8], size: usize) -> (Received, Option<(Vec<u64>, Failure)>) {
    let config = Config::parse(document.as_bytes(), &|_| None).expect("the document is right");
    let Store::Redis(redis) = &config.store else { panic!("it says redis") };
    let mut stream = Pipeline::new(redis, Lane::Small);
    stream.opened(0);
    stream.send((1..=3).map(batch).collect(), 0);
    let mut all = Received::default();
    for piece in bytes.chunks(size) {
        let Received { heard: Heard { replies, lost }, .. } = stream.received(piece.to_vec(), 1);
        all.heard.replies.extend(replies);
        all.heard.lost = all.heard.lost.take().or(lost);
    }
    let end = if all.heard.lost.is_some() { None } else { stream.closed(2).lost };
    (all, end)
}

/// Frames come off as they went on, however they are cut; what is none is told whatever the cut.
fn frames(bytes: &[u8], size: usize) {
    let framed: Vec<u8> = bytes.chunks(size).flat_map(|piece| [&head(piece.len())[..], piece].concat()).collect();
    for size in [1, size, framed.len().max(1)] {
        assert_eq!(strip(&framed, size).as_deref(), Ok(bytes));
        assert_eq!(strip(bytes, size).is_ok(), strip(bytes, bytes.len().max(1)).is_ok());
    }
}

fn strip(bytes: &[u8], size: usize) -> Result<Vec<u8>, NoFrame> {
    let (mut frames, mut out) = (Frames::default(), Vec::new());
    for piece in bytes.chunks(size) {
        match frames.pass(piece.len()) {
            true => out.extend(piece),
            false => out.extend(frames.strip(piece)?),
        }
    }
    Ok(out)
}

fn batch(id: u64) -> Batch {
    Batch { id, lane: Lane::Small, tries: vec![(nonce(id), Rc::new(claim(id as u8)))] }
}

/// Letters, so that a hand can write them.
fn nonce(batch: u64) -> Nonce {
    Nonce([b'@' + batch as u8; 16])
}

const DOCUMENTS: [&str; 2] = [
    r#"{"store": {"type": "redis", "dialect": "resp", "cluster": "c"}}"#,
    r#"{"store": {"type": "redis", "dialect": "resp", "cluster": "c", "password": "p"}}"#,
];
