//! What somebody who means harm may send, or may put into the store; `SECURITY.md` says which threat is met where.
//!
//! Its one rule: the harm is on its way in full, and what reaches the client, the service or the counters is seen.
//! It does not know of threats that other files meet.

use std::time::Instant;

use envoy_idempotency::key::Name;
use envoy_idempotency::record::{Record, Response, State};
use envoy_idempotency::seal::ResponseCipher;
use harness::ledger::base64;
use harness::{PATIENCE, SharedWorld, World, wait_until};
use serde_json::json;

use crate::check::{executed, refused, replays, said, shown};
use crate::redis::{PATIENT_MS, key_of, record};
use crate::waiting::AT_ONCE;
use crate::worlds::rule;

/// One gateway that asks Redis every time.
fn asking() -> SharedWorld {
    SharedWorld::alone(json!({ "store": { "timeout_ms": PATIENT_MS, "cache": null }, "policy": { "ttl_s": 1800 } }))
}

#[test]
fn a_response_that_nobody_can_have_sent_is_not_replayed_from_redis() {
    let world = asking();
    let pay = world.post("/poisoned").key("k").body("ten");
    let first = pay.send();
    executed(&first, 1);
    let stored = stored_response(&world, "/poisoned");
    let with = |name: &str, value: &str| {
        let mut headers = stored.headers.clone();
        headers.push(name.as_bytes(), value.as_bytes());
        Response { headers, ..stored.clone() }
    };
    let of_status = |status| Response { status, ..stored.clone() };
    let poisons = [
        with("x-a", "1\r\nset-cookie: session=stolen"),
        with("x-a", "1\nset-cookie: session=stolen"),
        with("x-a", "1\r\n\r\nHTTP/1.1 200 OK\r\n\r\n"),
        with("x-a", "1\0"),
        with("x-a: 1\r\nset-cookie", "session=stolen"),
        with("x a", "1"),
        with("x:a", "1"),
        with(":status", "200"),
        with("", "1"),
        of_status(0),
        of_status(101),
        of_status(199),
        of_status(1000),
        of_status(u16::MAX),
    ];
    for (n, poison) in poisons.iter().enumerate() {
        put_response(&world, "/poisoned", poison);
        refused(&pay.send(), 503, "store-unavailable", Some("1"));
        assert_eq!(world.counted("store_failures.corrupt"), n as u64 + 1, "{poison:?}");
    }
    put_response(&world, "/poisoned", &stored);
    replays(&pay.send(), &first);
    assert_eq!(world.ledger.entries_for("/poisoned").len(), 1);
    assert!(world.gateways[0].is_running());
}

#[test]
fn fields_that_are_never_stored_are_not_replayed_from_redis_either() {
    let world = asking();
    let pay = world.post("/planted").key("k").body("ten");
    let first = pay.send();
    executed(&first, 1);
    let stored = stored_response(&world, "/planted");
    let mut headers = stored.headers.clone();
    for (name, value) in [
        ("content-length", "1"),
        ("transfer-encoding", "chunked"),
        ("connection", "x-nominated"),
        ("x-nominated", "1"),
        ("set-cookie", "session=stolen"),
        ("idempotency-status", "executed"),
        ("x-envoy-upstream-service-time", "1"),
    ] {
        headers.push(name.as_bytes(), value.as_bytes());
    }
    put_response(&world, "/planted", &Response { headers, ..stored });
    let again = pay.send();
    replays(&again, &first);
    assert_eq!((again.header("x-nominated"), again.header("set-cookie")), (None, None), "{}", shown(&again));
    // Framing was left to Envoy: the connection serves on.
    replays(&pay.send_h2(), &first);
}

#[test]
fn bodies_made_to_be_slow_to_read_are_read_at_once() {
    let world = World::start(json!({
        "rules": [
            rule("/json", json!({ "key": { "sources": [{ "json": "/id" }] }, "fingerprint": { "body": "json" } })),
            rule("/form", json!({ "key": { "sources": [{ "form": "id" }] } })),
        ],
    }));
    const LIMIT: usize = 500_000;
    let members: Vec<String> = (0..30_000).map(|n| format!("\"{n:05}\":{n}")).collect();
    let repeated = |piece: &str| piece.repeat(LIMIT / piece.len());
    let multipart = format!("multipart/form-data; boundary={}", "-".repeat(70));
    let json = "application/json";
    let form = "application/x-www-form-urlencoded";
    let bodies: [(&str, &str, String); 12] = [
        ("/json", json, format!("{{\"id\":\"a\",{}}}", members.join(","))),
        ("/json", json, format!("{{\"id\":\"b\",\"a\":[{}0]}}", repeated("1.5e-7,"))),
        ("/json", json, format!("{{\"id\":\"c\",\"a\":{}}}", repeated("9"))),
        ("/json", json, format!("{{\"id\":\"d\",\"a\":0.{}1}}", repeated("0"))),
        ("/json", json, format!("{{\"id\":\"e\",\"a\":\"{}\"}}", repeated("\\u0001"))),
        ("/json", json, repeated("[")),
        ("/json", json, repeated("{\"a\":")),
        ("/form", form, format!("{}id=a", repeated("a=b&"))),
        ("/form", form, format!("id={}", repeated("%41+"))),
        ("/form", &multipart, format!("--{}\r\n{}", "-".repeat(70), repeated("\r\n-"))),
        ("/form", &multipart, repeated("-")),
        ("/form", &multipart, repeated(&format!("\r\n--{}\r\n\r\n", "-".repeat(70)))),
    ];
    for (path, content_type, body) in bodies {
        let asked = Instant::now();
        let answer = world.post(path).header("content-type", content_type).body(&body).send();
        let taken = asked.elapsed();
        assert!(taken < AT_ONCE, "{:.40}… took {taken:?}", body);
        assert!([201, 400].contains(&answer.status), "{}", shown(&answer));
    }
    wait_until("nothing runs", PATIENCE, || world.gateway.stat("wasmcustom.idempotency_running") == 0);
}

#[test]
fn an_unsigned_token_is_believed_so_a_filter_in_front_must_check_it() {
    let world = World::start(json!({ "policy": { "scope": { "caller": [{ "jwt_claim": "sub" }] } } }));
    let unpadded = |text: &str| base64(text).trim_end_matches('=').to_owned();
    let token = |header: &str, claims: &str| format!("Bearer {}.{}.forged", unpadded(header), unpadded(claims));
    let pay = |token: String| world.post("/tokens").key("k").header("authorization", token).body("ten");
    let alice = pay(token(r#"{"alg":"RS256"}"#, r#"{"sub":"alice"}"#)).send();
    executed(&alice, 1);
    // This is what an authentication filter in front is for.
    replays(&pay(token(r#"{"alg":"none"}"#, r#"{"sub":"alice","admin":true}"#)).send(), &alice);
    // Nobody gets another's by a claim that says it twice, or says no text.
    for claims in [r#"{"sub":"bob","sub":"alice"}"#, r#"{"sub":["alice"]}"#, r#"{"sub":{"alice":1}}"#, r#"{"sub":""}"#]
    {
        let answer = pay(token(r#"{"alg":"RS256"}"#, claims)).send();
        assert_eq!(said(&answer), "bypassed;reason=no-caller", "{claims}");
    }
}

/// What Redis holds for the first execution on this path.
#[track_caller]
fn stored_response(world: &SharedWorld, path: &str) -> Response {
    let Some(Record { state: State::Completed { response: Some(sealed), .. }, .. }) =
        record(world, &key_of(world, path))
    else {
        panic!("{path} has no stored response")
    };
    let opened = ResponseCipher::default().open(&name(world, path), &sealed).expect("nothing is encrypted");
    Response::decode(&opened).expect("what the filter writes is a response")
}

/// Puts another in its place, as whoever may write to Redis can.
#[track_caller]
fn put_response(world: &SharedWorld, path: &str, response: &Response) {
    let key = key_of(world, path);
    let mut whole = record(world, &key).expect("there is a record");
    let State::Completed { owner, response: kept, .. } = &mut whole.state else { panic!("{path} is not completed") };
    *kept = ResponseCipher::default().seal(&name(world, path), *owner, &response.encode());
    world.redis.ask(&[b"SET", key.as_bytes(), &whole.encode(), b"KEEPTTL"]);
}

#[track_caller]
fn name(world: &SharedWorld, path: &str) -> Name {
    let operation = world.ledger.entries_for(path)[0].operation.clone().expect("it was executed under a claim");
    let mut name = [0; 32];
    for (byte, digits) in name.iter_mut().zip(operation.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(str::from_utf8(digits).expect("hex"), 16).expect("hex");
    }
    Name(name)
}
