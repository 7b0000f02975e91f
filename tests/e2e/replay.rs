//! First execution and replay.
//!
//! Its one rule: a replay is compared with what the first client got, line by line and byte by byte.
//! It does not know of failures.

use std::collections::HashSet;
use std::time::Instant;

use harness::ledger::sha256_hex;
use harness::{Entry, PATIENCE, Request, Response, World, wait_until};
use serde_json::json;

use crate::chains::leave_to_the_filter;
use crate::check::{executed, parameter, replays, said, shown};
use crate::worlds::{plain, troubled};

#[test]
fn the_first_request_executes_and_the_second_replays() {
    let world = plain();
    let pay = world.post("/replay/twice").key("k").header("content-type", "application/json").body(r#"{"amount":10}"#);
    let first = pay.send();
    assert_eq!((first.status, said(&first)), (201, "executed;stored=?1;attempt=1;ttl=1800"));
    executed(&first, 1);

    for _ in 0..3 {
        replays(&pay.send(), &first);
    }
    assert_eq!(world.ledger.entries_for("/replay/twice").len(), 1);
}

#[test]
fn a_patch_is_protected_like_a_post() {
    let world = plain();
    let patch = world.request("PATCH", "/replay/patch").key("k").body("ten");
    let first = patch.send();
    executed(&first, 1);
    replays(&patch.send(), &first);
}

#[test]
fn the_service_sees_the_key_as_sent_an_operation_and_an_attempt() {
    let world = plain();
    let quoted = r#""a b, \"c\"; d""#;
    world.post("/replay/upstream").key(quoted).body("ten").send();
    let entry = only(&world.ledger.entries_for("/replay/upstream"));
    assert_eq!((entry.key.as_deref(), entry.attempt), (Some(quoted), Some(1)));
    let operation = entry.operation.unwrap();
    assert!(operation.len() == 64 && operation.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')), "{operation}");
    assert_eq!((entry.body_len, entry.body_sha256), (3, sha256_hex(b"ten")));
}

#[test]
fn every_operation_has_a_name_of_its_own() {
    let world = plain();
    let path = "/replay/operations";
    let one = world.post(path).key("k").body("ten");
    let other_caller = one.clone().header("authorization", "Bearer b");
    let other_key = world.post(path).key("l").body("ten");
    let other_method = world.request("PATCH", path).key("k").body("ten");
    let other_host = one.clone().host("eu.api.example.com");
    let other_path = world.post("/replay/operations/other").key("k").body("ten");
    let requests = [&one, &other_caller, &other_key, &other_method, &other_host, &other_path];
    for request in requests {
        executed(&request.send(), 1);
    }
    let entries = [path, other_path.path()].map(|path| world.ledger.entries_for(path)).concat();
    // The key itself is none: callers use the same.
    let of_one_key = entries.iter().filter(|entry| entry.key.as_deref() == Some("k")).count();
    assert_eq!((entries.len(), of_one_key), (requests.len(), requests.len() - 1));
    let names: HashSet<_> = entries.into_iter().map(|entry| entry.operation.unwrap()).collect();
    assert_eq!(names.len(), requests.len());
}

#[test]
fn what_only_the_gateway_may_say_upstream_is_taken_from_clients() {
    let world = World::with(json!({}), |options| options.mutate(leave_to_the_filter));
    let forge = |request: Request| {
        request
            .header("Idempotency-Operation", "forged")
            .header("idempotency-attempt", "7")
            .header("Idempotency-Attempt", "8")
    };
    let protected = forge(world.post("/replay/forged").key("k").body("ten")).send();
    executed(&protected, 1);
    let entry = only(&world.ledger.entries_for("/replay/forged"));
    assert_eq!(lines(&entry, "idempotency-attempt"), [b"1"]);
    assert!(lines(&entry, "idempotency-operation").len() == 1 && entry.operation.as_deref() != Some("forged"));

    let keyless = forge(world.post("/replay/forged-keyless").body("ten")).send();
    assert_eq!((keyless.status, said(&keyless)), (201, "bypassed;reason=no-key"));
    let entry = only(&world.ledger.entries_for("/replay/forged-keyless"));
    assert_eq!((entry.operation.as_deref(), entry.attempt), (None, None));
    assert!(lines(&entry, "idempotency-attempt").is_empty());
}

#[test]
fn status_headers_and_binary_body_come_back_byte_for_byte() {
    let world = plain();
    let pay = world
        .post("/replay/fidelity")
        .key("k")
        .body("ten")
        .header("x-test-status", "202")
        .header("x-test-header", "content-type: application/x-binary; v=1")
        .header("x-test-header", "x-one: 1")
        .header("x-test-header", "x-list: b")
        .header("x-test-header", "x-list: a")
        .header("x-test-header", "x-list: b")
        .header("x-test-header", b"x-raw: \xff\xfe\x80")
        .header("x-test-header", "etag: W/\"7\"")
        .header("x-test-header", "cache-control: private")
        .header("x-test-body-size", "70000");
    let first = pay.send();
    let again = pay.send();
    executed(&first, 1);
    replays(&again, &first);
    assert_eq!((again.status, again.body.len()), (202, 70_000));
    assert_eq!(again.headers("x-list"), [b"b", b"a", b"b"]);
    assert_eq!(again.headers("x-raw"), [b"\xff\xfe\x80"]);
    assert_eq!(again.headers("content-type"), [b"application/x-binary; v=1"]);
}

#[test]
fn a_body_without_a_content_type_gets_none_in_the_replay() {
    let world = plain();
    let pay = world.post("/replay/typeless").key("k").header("x-test-header", "content-type:").body("ten");
    let first = pay.send();
    assert_eq!(first.header("content-type"), None);
    replays(&pay.send(), &first);
}

#[test]
fn what_belongs_to_one_delivery_is_not_replayed() {
    let world = plain();
    let yesterday = "Mon, 01 Jan 2024 00:00:00 GMT";
    let mut pay = world.post("/replay/delivery").key("k").body("ten");
    let delivered = [
        "set-cookie: session=1",
        "set-cookie: other=2",
        "ratelimit: \"default\";r=50;t=30",
        "ratelimit-policy: \"default\";q=100;w=60",
        "ratelimit-limit: 10",
        "ratelimit-remaining: 9",
        "ratelimit-reset: 1",
        "x-envoy-ours: 1",
        "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "x-request-id: 7",
        "proxy-authenticate: Basic",
        "proxy-connection: keep-alive",
        "keep-alive: timeout=5",
        "connection: x-nominated",
        "x-nominated: 1",
    ];
    for line in delivered.iter().chain([&"server: ledger", &"x-kept: 1"]) {
        pay = pay.header("x-test-header", line);
    }
    pay = pay.header("x-test-header", format!("date: {yesterday}"));
    let first = pay.send();
    executed(&first, 1);
    assert_eq!(first.headers("set-cookie"), [b"session=1".as_slice(), b"other=2"]);
    assert_eq!(first.header("date"), Some(yesterday));

    let again = pay.send();
    assert_eq!((again.status, again.header("x-kept")), (201, Some("1")));
    assert!(again.header("date").is_some_and(|date| date.ends_with("GMT") && date != yesterday), "{}", shown(&again));
    for line in delivered {
        let name = line.split(':').next().unwrap();
        assert_eq!(again.headers(name), [b""; 0], "{name}");
    }
    let strangers: Vec<_> = again.headers.iter().filter(|(name, _)| name.starts_with("x-envoy-")).collect();
    assert!(strangers.is_empty(), "{strangers:?}");
    assert_ne!(again.header("server"), Some("ledger"));
}

#[test]
fn what_only_the_gateway_may_say_downstream_is_taken_from_the_service() {
    let world = plain();
    let lying = |path: &str| {
        let lies = ["idempotency-status: replayed", "idempotency-status: x", "idempotent-replayed: true"];
        lies.iter()
            .fold(world.post(path).body("ten"), |request, lie| request.header("x-test-header", lie))
            .header("x-test-header", "idempotency-key: theirs")
    };
    let is_clean = |response: &Response| {
        assert_eq!((response.header("idempotent-replayed"), response.header("idempotency-key")), (None, None));
    };

    let pay = lying("/replay/lies").key("k");
    let first = pay.send();
    executed(&first, 1);
    is_clean(&first);
    replays(&pay.send(), &first);
    let failed = lying("/replay/lies-failed").key("k").header("x-test-status", "400").send();
    assert_eq!(said(&failed), "executed;stored=?0;attempt=1;outcome=released");
    is_clean(&failed);
}

#[test]
fn what_the_gateway_says_upstream_does_not_come_down_by_itself() {
    let world = plain();
    let pay = world.post("/replay/quiet").key("k").body("ten");
    for response in [pay.send(), pay.send()] {
        for name in ["idempotency-key", "idempotency-operation", "idempotency-attempt", "access-control-expose-headers"]
        {
            assert_eq!(response.header(name), None, "{name}");
        }
    }
}

#[test]
fn requests_without_a_key_execute_every_time() {
    let world = plain();
    let pay = world.post("/replay/keyless").body("ten");
    for response in [pay.send(), pay.send()] {
        assert_eq!((response.status, said(&response)), (201, "bypassed;reason=no-key"));
    }
    assert_eq!(world.ledger.entries_for("/replay/keyless").len(), 2);
}

#[test]
fn an_http_2_client_gets_what_an_http_1_client_paid_for() {
    let world = plain();
    let pay = world.post("/replay/http2").key("k").body("ten");
    let first = pay.send_h2();
    executed(&first, 1);
    replays(&pay.send_h2(), &first);
    replays(&pay.send(), &first);
    assert_eq!(world.ledger.entries_for("/replay/http2").len(), 1);
}

#[test]
fn the_age_of_a_replay_grows_and_its_time_left_shrinks() {
    let world = troubled();
    let pay = world.post("/replay/age").key("k").body("ten");
    let first = pay.send();
    executed(&first, 1);
    let started = Instant::now();
    wait_until("the replay is a second old", PATIENCE, || {
        let again = pay.send();
        replays(&again, &first);
        let seconds = |name| parameter(&again, name).unwrap();
        assert!(seconds("age") + seconds("ttl") <= 1800 && seconds("age") + seconds("ttl") >= 1799, "{}", said(&again));
        seconds("age") >= 1
    });
    assert!(started.elapsed().as_millis() >= 900);
}

/// The one entry there is.
#[track_caller]
fn only(entries: &[Entry]) -> Entry {
    let [entry] = entries else { panic!("there is not one entry: {entries:?}") };
    entry.clone()
}

fn lines<'e>(entry: &'e Entry, name: &str) -> Vec<&'e [u8]> {
    entry.headers.iter().filter(|(n, _)| n == name).map(|(_, value)| value.as_slice()).collect()
}
