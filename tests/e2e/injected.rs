//! Requests without a key, where the gateway makes one.
//!
//! Its one rule: the service sees a key that is the same for every attempt of one operation and for no other.
//! It does not know keys that clients bring, but for those they were told.

use std::time::{Duration, Instant};

use harness::{PATIENCE, Response, SharedWorld, World, send_all, wait_until};
use serde_json::{Value, json};

use crate::check::{is_refusal, refused, replays, said};
use crate::worlds::{Shared, rule, start};
use std::sync::LazyLock;

/// How long the same content counts as the same request, in the rules under `/content/`.
const WINDOW: Duration = Duration::from_millis(1500);

fn world() -> Shared {
    static WORLD: LazyLock<World> = LazyLock::new(|| World::start(document()));
    Shared::new(&WORLD)
}

fn document() -> Value {
    let content = json!({ "kind": "content", "window_ms": 1500 });
    json!({
        "rules": [
            rule("/uuid/", json!({ "key": { "inject": { "kind": "uuid" } } })),
            rule("/uuid-in-query/", json!({ "key": { "sources": [{ "query": "k" }], "inject": { "kind": "uuid" } } })),
            rule("/content/", json!({ "key": { "inject": content } })),
            json!({
                "match": { "methods": ["POST", "PUT"], "path": { "prefix": "/content-long/" } },
                "policy": { "key": { "inject": { "kind": "content", "window_ms": 60000 } } },
            }),
            rule("/content-json/", json!({
                "key": { "inject": { "kind": "content", "window_ms": 60000, "anonymous": true } },
                "scope": { "anonymous": "share" },
                "fingerprint": { "body": "json", "json_ignore": ["/sent_at"] },
            })),
            rule("/content-anonymous/", json!({
                "key": { "inject": { "kind": "content", "window_ms": 60000, "anonymous": true } },
                "scope": { "anonymous": "share" },
            })),
            rule("/send/", json!({ "mode": "inject", "key": { "inject": { "kind": "uuid" } } })),
            rule("/send-json/", json!({ "mode": "inject", "key": { "sources": [{ "json": "/id" }] } })),
            rule("/send-required/", json!({ "mode": "inject", "key": { "required": true } })),
        ],
    })
}

/// Windows end by the clock.
fn let_pass(time: Duration) {
    let since = Instant::now();
    wait_until("time has passed", PATIENCE, || since.elapsed() > time);
}

fn is_uuid(text: &str) -> bool {
    text.len() == 36 && text.as_bytes()[14] == b'4' && text.chars().all(|char| char == '-' || char.is_ascii_hexdigit())
}

#[track_caller]
fn executed(response: &Response, attempt: u32) {
    let line = said(response);
    let form = format!("executed;stored=?1;attempt={attempt};");
    assert!(line.starts_with(&form) && line.ends_with(";reason=injected"), "{line}");
}

#[track_caller]
fn repeats(again: &Response, first: &Response) {
    assert!(
        said(again).starts_with("replayed;attempt=1;") && said(again).ends_with(";reason=injected"),
        "{}",
        said(again)
    );
    assert_eq!((again.status, &again.body), (first.status, &first.body));
}

#[test]
fn a_random_key_goes_upstream_and_back_and_a_retry_with_it_is_replayed() {
    let world = world();
    let pay = || world.post("/uuid/pay").header("authorization", "me").body("ten");
    let first = pay().send();
    executed(&first, 1);
    let key = first.header("idempotency-key").expect("the client is told the key").to_owned();
    assert!(is_uuid(&key), "{key}");
    let entry = world.ledger.entries_for("/uuid/pay").remove(0);
    assert_eq!((entry.key.as_deref(), entry.attempt), (Some(key.as_str()), Some(1)));
    let again = pay().key(&key).send();
    assert_eq!((again.status, &again.body), (first.status, &first.body));
    assert!(said(&again).starts_with("replayed;attempt=1;") && !said(&again).contains("injected"), "{}", said(&again));
    assert_eq!(again.header("idempotency-key"), None, "the client has brought it itself");
    refused(&pay().key(&key).body("eleven").send(), 409, "mismatch", None);
    // Another request without a key is another operation.
    let other = pay().send();
    executed(&other, 1);
    assert_ne!(other.header("idempotency-key"), Some(key.as_str()));
    assert_eq!(world.ledger.entries_for("/uuid/pay").len(), 2);
}

#[test]
fn a_retry_with_the_key_of_an_attempt_that_failed_is_the_next_attempt_of_it() {
    let world = world();
    let pay = || world.post("/uuid/fails").header("authorization", "me").body("ten");
    let failed = pay().header("x-test-status", "500").send();
    assert_eq!(said(&failed), "executed;stored=?0;attempt=1;outcome=retry;reason=injected");
    let key = failed.header("idempotency-key").expect("the client is told the key").to_owned();
    let retried = pay().key(&key).send();
    assert_eq!(said(&retried), "executed;stored=?1;attempt=2;ttl=1800");
    let seen: Vec<_> =
        world.ledger.entries_for("/uuid/fails").into_iter().map(|e| (e.key, e.attempt, e.operation)).collect();
    assert_eq!((&seen[0].0, &seen[0].2), (&seen[1].0, &seen[1].2));
    assert_eq!((seen[0].1, seen[1].1), (Some(1), Some(2)));
}

#[test]
fn a_told_key_is_taken_where_keys_of_the_rule_stand() {
    let world = world();
    let first = world.post("/uuid-in-query/pay").body("ten").send();
    executed(&first, 1);
    let key = first.header("idempotency-key").expect("the client is told the key").to_owned();
    let entry = world.ledger.entries_for("/uuid-in-query/pay").remove(0);
    assert_eq!(entry.key.as_deref(), Some(key.as_str()));
    // The query is part of the payload, so a client that repeats itself leaves nothing else out.
    let again = world.post(&format!("/uuid-in-query/pay?k={key}")).body("ten").send();
    refused(&again, 409, "mismatch", None);
}

#[test]
fn a_request_with_a_credential_outside_the_scope_gets_no_key() {
    let world = world();
    let answer = world.post("/uuid/outside").anonymous().header("cookie", "sid=1").body("ten").send();
    assert_eq!(said(&answer), "bypassed;reason=no-caller");
    assert_eq!(answer.header("idempotency-key"), None);
    assert_eq!(world.ledger.entries_for("/uuid/outside")[0].key, None);
}

#[test]
fn the_same_content_within_the_window_is_the_same_operation_and_in_the_next_a_new_one() {
    let world = world();
    let buy = |body: &str| world.post("/content/buy?x=1").header("authorization", "me").body(body).send();
    let first = buy("one book");
    executed(&first, 1);
    repeats(&buy("one book"), &first);
    assert_eq!(first.header("idempotency-key"), None, "nobody could retry with it");
    executed(&buy("two books"), 1);
    let_pass(WINDOW + Duration::from_millis(200));
    let later = buy("one book");
    executed(&later, 1);
    assert_ne!(later.body, first.body);
    let entries = world.ledger.entries_for("/content/buy?x=1");
    assert_eq!(entries.len(), 3);
    let (before, after) = (&entries[0], &entries[2]);
    assert_ne!(before.key, after.key, "another operation has another key");
    assert_ne!(before.operation, after.operation);
    assert!(entries.iter().all(|entry| entry.key.as_deref().is_some_and(is_uuid)));
}

#[test]
fn the_window_begins_with_the_first_request_and_not_anew_with_each() {
    let world = world();
    let buy = || world.post("/content/steady").header("authorization", "me").body("one book").send();
    executed(&buy(), 1);
    let mut executions = 1;
    for _ in 0..12 {
        let_pass(WINDOW / 5);
        executions += u32::from(said(&buy()).starts_with("executed;"));
    }
    // Twelve fifths of a window: two or three windows begin, whatever the machine does.
    assert!((2..=4).contains(&executions), "{executions}");
}

#[test]
fn a_double_click_is_one_execution() {
    let world = world();
    let clicks: Vec<_> =
        (0..16).map(|_| world.post("/content-long/click").header("authorization", "me").body("one book")).collect();
    let answers = send_all(&clicks);
    assert_eq!(world.ledger.entries_for("/content-long/click").len(), 1);
    let is_answer = |answer: &Response| answer.status == 201 || is_refusal(answer, "in-flight");
    assert!(answers.iter().all(is_answer));
}

#[test]
fn an_execution_that_outlasts_its_window_still_answers_for_it() {
    let world = world();
    let buy = world.post("/content/slow").header("authorization", "me");
    let mut running = start(&world, &buy, "one book", "slow window");
    let_pass(WINDOW + Duration::from_millis(200));
    refused(&buy.clone().body("one book").send(), 429, "in-flight", Some("1"));
    world.ledger.open("slow window");
    let first = running.response();
    executed(&first, 1);
    repeats(&buy.body("one book").send(), &first);
    assert_eq!(world.ledger.entries_for("/content/slow").len(), 1);
}

#[test]
fn everything_that_says_what_is_wanted_tells_two_contents_apart() {
    let world = world();
    let base = |method: &str, path: &str| world.request(method, path).header("authorization", "me");
    let first = base("POST", "/content-long/apart?q=1").body("x").send();
    executed(&first, 1);
    for other in [
        base("PUT", "/content-long/apart?q=1").body("x"),
        base("POST", "/content-long/apart?q=2").body("x"),
        base("POST", "/content-long/apart/?q=1").body("x"),
        base("POST", "/content-long/apart?q=1").body("y"),
        base("POST", "/content-long/apart?q=1").host("other").body("x"),
        world.post("/content-long/apart?q=1").header("authorization", "you").body("x"),
    ] {
        executed(&other.send(), 1);
    }
    repeats(&base("POST", "/content-long/apart?q=1").body("x").send(), &first);
}

#[test]
fn what_counts_as_the_same_body_counts_as_the_same_content() {
    let world = world();
    let buy = |body: &str| world.post("/content-json/buy").body(body).send();
    let first = buy(r#"{"book": 1, "n": 2.0, "sent_at": 1}"#);
    executed(&first, 1);
    repeats(&buy(r#"{"sent_at": 2, "n": 2, "book": 1}"#), &first);
    executed(&buy(r#"{"sent_at": 2, "n": 3, "book": 1}"#), 1);
}

#[test]
fn content_of_nobody_in_particular_is_left_alone_unless_the_operator_says_otherwise() {
    let world = world();
    for _ in 0..2 {
        let answer = world.post("/content-long/nobody").anonymous().body("one book").send();
        assert_eq!(said(&answer), "bypassed;reason=no-caller");
    }
    let entries = world.ledger.entries_for("/content-long/nobody");
    assert_eq!((entries.len(), entries[0].key.clone()), (2, None));
    let buy = world.post("/content-anonymous/nobody").anonymous().body("one book");
    let first = buy.send();
    executed(&first, 1);
    repeats(&buy.send(), &first);
}

#[test]
fn a_key_that_the_client_brings_is_taken_before_any_is_made() {
    let world = world();
    let pay = |key: &str| world.post("/content-long/own").header("authorization", "me").key(key).body("ten").send();
    let first = pay("a");
    assert_eq!(said(&first), "executed;stored=?1;attempt=1;ttl=1800");
    assert_eq!(said(&pay("b")), said(&first));
    replays(&pay("a"), &first);
    refused(&pay("a, b"), 400, "key-invalid", None);
}

#[test]
fn a_rule_that_only_injects_sends_a_key_and_keeps_nothing() {
    let world = world();
    let send = |key: Option<&str>| {
        let request = world.post("/send/one").header("idempotency-operation", "forged").body("ten");
        key.map_or(request.clone(), |key| request.key(key)).send()
    };
    let (one, two) = (send(None), send(None));
    for answer in [&one, &two] {
        assert_eq!(said(answer), "bypassed;reason=injected");
        assert!(answer.header("idempotency-key").is_some_and(is_uuid));
    }
    for _ in 0..2 {
        assert_eq!(said(&send(Some("own"))), "bypassed");
    }
    let entries = world.ledger.entries_for("/send/one");
    let keys: Vec<_> = entries.iter().map(|entry| entry.key.as_deref()).collect();
    let told = [&one, &two].map(|answer| answer.header("idempotency-key"));
    assert_eq!(keys, [told[0], told[1], Some("own"), Some("own")]);
    assert!(entries.iter().all(|entry| entry.operation.is_none() && entry.attempt.is_none()));
    refused(&world.post("/send-required/one").body("ten").send(), 400, "key-missing", None);
}

#[test]
fn a_rule_that_only_injects_makes_one_header_of_a_key_that_stands_elsewhere() {
    let world = world();
    let send = |id: &str| world.post("/send-json/one").body(json!({ "id": id }).to_string()).send();
    for id in ["a", "a", "b"] {
        assert_eq!(said(&send(id)), "bypassed;reason=injected");
    }
    let keys: Vec<_> = world.ledger.entries_for("/send-json/one").into_iter().map(|entry| entry.key).collect();
    assert!(keys.iter().all(|key| key.as_deref().is_some_and(is_uuid)), "{keys:?}");
    assert_eq!(keys[0], keys[1]);
    assert_ne!(keys[0], keys[2]);
}

#[test]
fn gateways_on_one_redis_share_a_window() {
    let world = SharedWorld::start(document());
    let buy = || world.post("/content/shared").header("authorization", "me").body("one book");
    let first = buy().send();
    executed(&first, 1);
    repeats(&buy().to(world.other()).send(), &first);
    repeats(&buy().send(), &first);
    let_pass(WINDOW + Duration::from_millis(200));
    executed(&buy().to(world.other()).send(), 1);
    let entries = world.ledger.entries_for("/content/shared");
    assert_eq!(entries.len(), 2);
    assert_ne!(entries[0].operation, entries[1].operation);
    let told = world.post("/uuid/shared").header("authorization", "me").body("ten").send();
    let key = told.header("idempotency-key").expect("the client is told the key");
    let again = world.post("/uuid/shared").header("authorization", "me").key(key).body("ten").to(world.other()).send();
    assert!(said(&again).starts_with("replayed;attempt=1;"), "{}", said(&again));
}
