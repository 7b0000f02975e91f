//! What a store answers: HTTP, Redis's protocol in it, and the packed answers in that.
//!
//! Its one rule: nothing but the whole, well-formed answer to this very try is ever a grant.

use std::rc::Rc;

use envoy_idempotency::command::{Command, CommandKind, Failure, StoreReply};
use envoy_idempotency::config::{Config, Store};
use envoy_idempotency::fingerprint::Fingerprint;
use envoy_idempotency::key::{KeyForm, Name};
use envoy_idempotency::record::Owner;
use envoy_idempotency::store::client::{Client, Lane, Limits, Nonce, Reply};
use envoy_idempotency::store::resp::Answer;
use envoy_idempotency::store::webdis::read;

use crate::choices::Choices;

/// Takes a status and a body, as the answer to two claims in one call.
pub fn hold(data: &[u8]) {
    let mut choices = Choices::new(data);
    let status = choices.one(&[Some(200), Some(200), Some(503), Some(504), Some(404), None]);
    let body = choices.rest();
    let answer = read(status, body);
    match &answer {
        Answer::Reply(Reply::Answers(answers)) => {
            assert_eq!(status, Some(200));
            assert_eq!(body.first(), Some(&b'*'));
            assert!(
                answers.iter().all(|(nonce, _)| body.windows(16).any(|part| part == nonce.0)),
                "a nonce of nowhere"
            );
            for cut in 0..body.len() {
                assert!(is_failed(&read(status, &body[..cut])), "the first {cut} bytes count as answers");
            }
            assert!(is_failed(&read(status, &[body, b"\n"].concat())), "more than the answers counts");
        }
        Answer::NoScript => {
            assert!(status == Some(200) && body.get(..9).is_some_and(|word| word.eq_ignore_ascii_case(b"-NOSCRIPT")))
        }
        Answer::Reply(Reply::Failed(_)) => {}
    }
    if let Answer::Reply(reply) = answer {
        only_its_own_answer_is_a_grant(reply, body);
    }
}

fn is_failed(answer: &Answer) -> bool {
    matches!(answer, Answer::Reply(Reply::Failed(Failure::Garbage)))
}

fn only_its_own_answer_is_a_grant(reply: Reply, body: &[u8]) {
    let config = Config::parse(br#"{"store": {"type": "redis", "dialect": "webdis", "cluster": "c"}}"#, &|_| None)
        .expect("it is right");
    let Store::Redis(redis) = &config.store else { panic!("it says redis") };
    let mut client = Client::new(Limits::new(redis));
    let claims = [0, 1].map(|number| Rc::new(claim(number)));
    for (exchange, claim) in claims.iter().enumerate() {
        assert_eq!(client.submit(exchange as u32, Rc::clone(claim), 0), None);
    }
    let mut drawn = 0;
    let batch = client.next_batch(Lane::Small, 0, || nonce(&mut drawn)).expect("two claims wait");
    let mut told = client.replied(batch.id, reply, 1);
    for (exchange, told) in told.iter().filter_map(|told| Some((told.exchange?, told))) {
        let (nonce, _) = batch.tries[exchange as usize];
        let answered = [nonce.0.as_slice(), b"G"].concat();
        let is_granted = matches!(told.reply, StoreReply::Granted { .. });
        assert!(!is_granted || body.windows(17).any(|part| part == answered), "granted by {body:?}");
    }
    // Whoever has not been told yet is told within the bound of docs/redis.md: tries, and the waits before them.
    for now_ms in (0..=2_000).step_by(50) {
        told.extend(client.tick(now_ms));
        while client.next_batch(Lane::Small, now_ms, || nonce(&mut drawn)).is_some() {}
    }
    let mut askers: Vec<_> = told.iter().filter_map(|told| told.exchange).collect();
    askers.sort_unstable();
    assert_eq!(askers, [0, 1], "each is told once: {told:?}");
}

/// A claim of this number.
pub fn claim(number: u8) -> Command {
    Command {
        name: Name([number; 32]),
        owner: Owner([number; 16]),
        fingerprint: Fingerprint([1; 32]),
        attempt: 0,
        key: KeyForm::Bare,
        lease_ms: 60_000,
        ttl_ms: 86_400_000,
        deadline_ms: None,
        in_window: false,
        may_begin: true,
        kind: CommandKind::Claim { may_retry: true },
    }
}

/// Letters, so that a hand can write them into an answer: `AAAAAAAAAAAAAAAA` is the first.
fn nonce(drawn: &mut u8) -> Nonce {
    *drawn += 1;
    Nonce([b'@' + *drawn % 26; 16])
}
