//! What may be read in Redis, in logs and in metrics, and by which gateways.
//!
//! Its one rule: everything there is to read is searched for everything that is secret, in every usual spelling.
//! It does not know how names and records are made.

use harness::ledger::base64;
use harness::{PATIENCE, Redis, SharedWorld, wait_for, wait_until};
use serde_json::{Value, json};

use crate::check::{executed, refused, replays};
use crate::redis::{held, key_of};

/// All that clients send, and what the service answers.
const KEY: &str = "key-of-a-client-7f3a";
const TOKEN: &str = "token-of-a-client-91bc";
const BODY: &str = "body-of-a-client-44de";
const ANSWER: &str = "answer-to-a-client-c0de";

/// Everything that happens to keys, with these secrets; returns what can be read afterwards, by place.
fn seen(world: &SharedWorld) -> Vec<(String, Vec<u8>)> {
    let pay = |path: &str| {
        world
            .post(path)
            .key(KEY)
            .header("authorization", format!("Bearer {TOKEN}"))
            .header("x-test-header", format!("x-answer: {ANSWER}"))
            .header("x-test-body-base64", base64(ANSWER))
            .body(BODY)
    };
    let mut first = held(world, &pay("/running"), "running");
    refused(&pay("/running").body("ten").to(world.other()).send(), 429, "in-flight", Some("1"));
    world.ledger.open("running");
    first.response();
    for gateway in &world.gateways {
        for path in ["/stored", "/running"] {
            pay(path).to(gateway.addr()).send();
        }
        refused(&pay("/stored").to(gateway.addr()).body("another").send(), 409, "mismatch", None);
    }
    pay("/released").header("x-test-status", "400").send();
    pay("/retried").header("x-test-status", "500").send();
    pay("/unknown").header("x-test-status", "504").send();
    world.redis.freeze();
    refused(&pay("/failed").send(), 503, "store-unavailable", Some("1"));
    world.redis.thaw();
    wait_until("the claim is withdrawn", PATIENCE, || pay("/failed").send().status == 201);

    readable(world)
}

/// What can be read by now, by place.
fn readable(world: &SharedWorld) -> Vec<(String, Vec<u8>)> {
    let mut places = Vec::new();
    for key in world.redis.keys() {
        let name = key.strip_prefix(b"idem:").expect("every key begins so");
        assert!(name.len() == 64 && name.iter().all(u8::is_ascii_hexdigit), "{}", key.escape_ascii());
        places.push(("a value in Redis".to_owned(), world.redis.get(&key).expect("every record is a string")));
        places.push(("a key in Redis".to_owned(), key));
    }
    assert!(places.len() >= 2 * 6, "only {} places", places.len());
    for gateway in &world.gateways {
        places.push(("the log".to_owned(), gateway.log().into_bytes()));
        places.push(("the access log".to_owned(), gateway.access_log().into_bytes()));
        places.push(("the metrics".to_owned(), gateway.admin("/stats").into_bytes()));
    }
    places.push(("the log of Webdis".to_owned(), world.webdis.log().into_bytes()));
    places
}

/// Where this can be read, in any usual spelling.
fn found(secret: &str, places: &[(String, Vec<u8>)]) -> Vec<String> {
    let hex: String = secret.bytes().map(|byte| format!("{byte:02x}")).collect();
    let in_base64 = base64(secret);
    let spellings = [secret.to_owned(), hex.to_uppercase(), hex, in_base64.trim_end_matches('=').to_owned()];
    let holds = |bytes: &[u8]| {
        spellings.iter().any(|spelling| bytes.windows(spelling.len()).any(|window| window == spelling.as_bytes()))
    };
    places.iter().filter(|(_, bytes)| holds(bytes)).map(|(place, _)| place.clone()).collect()
}

fn key(id: &str, byte: u8) -> Value {
    json!({ "id": id, "key": base64([byte; 32]) })
}

fn document(encryption: Value) -> Value {
    json!({ "secrets": { "encryption": encryption }, "store": { "cache": null }, "policy": { "ttl_s": 1800 } })
}

#[test]
fn only_the_services_answer_can_be_read_in_redis() {
    let world = SharedWorld::start(json!({ "policy": { "ttl_s": 1800 } }));
    let places = seen(&world);
    for secret in [KEY, TOKEN, BODY] {
        assert_eq!(found(secret, &places), Vec::<String>::new(), "{secret}");
    }
    // The search finds what is there.
    let answer = found(ANSWER, &places);
    assert!(!answer.is_empty() && answer.iter().all(|place| place == "a value in Redis"), "{answer:?}");
}

#[test]
fn a_key_that_stands_elsewhere_can_be_read_nowhere_but_where_envoy_logs_paths() {
    let by = |name: &str, source: Value| {
        let path = json!({ "prefix": format!("/{name}/") });
        json!({ "match": { "path": path }, "policy": { "ttl_s": 1800, "key": { "sources": [source] } } })
    };
    let world = SharedWorld::start(json!({ "rules": [
        by("header", json!({ "header": "x-request-key" })),
        by("query", json!({ "query": "k" })),
        by("cookie", json!({ "cookie": "k" })),
        by("form", json!({ "form": "k" })),
        by("json", json!({ "json": "/k" })),
        by("path", json!({ "path_segment": 1 })),
    ] }));
    let post = |path: String| world.post(&path);
    let form = "application/x-www-form-urlencoded";
    let pays = [
        post("/header/pay".to_owned()).header("x-request-key", KEY).body(BODY),
        post(format!("/query/pay?k={KEY}")).body(BODY),
        post("/cookie/pay".to_owned()).header("cookie", format!("k={KEY}")).body(BODY),
        post("/form/pay".to_owned()).header("content-type", form).body(format!("k={KEY}")),
        post("/json/pay".to_owned()).body(json!({ "k": KEY }).to_string()),
        post(format!("/path/{KEY}")).body(BODY),
    ];
    for pay in &pays {
        // The answer repeats no more of the request than it has to.
        let first = pay.send();
        executed(&first, 1);
        replays(&pay.clone().to(world.other()).send(), &first);
    }
    // Envoy writes its access log by and by.
    let places = wait_for("the path is in the access log", PATIENCE, || {
        Some(readable(&world)).filter(|places| !found(KEY, places).is_empty())
    });
    let places = places.unwrap();
    let found = found(KEY, &places);
    assert!(found.iter().all(|place| place == "the access log"), "{found:?}");
    for (_, log) in places.iter().filter(|(place, _)| place == "the access log") {
        let log = String::from_utf8_lossy(log);
        let lines: Vec<_> = log.lines().filter(|line| line.contains(KEY)).collect();
        assert!(lines.iter().all(|line| line.contains("/path/")), "{lines:?}");
    }
}

#[test]
fn nothing_can_be_read_in_redis_when_records_are_encrypted() {
    let world = SharedWorld::start(document(json!([key("a", 1)])));
    let places = seen(&world);
    for secret in [KEY, TOKEN, BODY, ANSWER] {
        assert_eq!(found(secret, &places), Vec::<String>::new(), "{secret}");
    }
}

#[test]
fn a_gateway_opens_what_any_of_its_keys_has_closed() {
    let [old, new] = [key("a", 1), key("b", 2)];
    let configurations = [document(json!([old.clone()])), document(json!([new, old]))];
    let world = SharedWorld::with(Redis::start(), &configurations, |options| options);
    let [before, after] = [world.post("/before"), world.post("/after")].map(|pay| pay.key("k").body("ten"));
    let first = before.send();
    executed(&first, 1);
    replays(&before.clone().to(world.other()).send(), &first);

    let second = after.clone().to(world.other()).send();
    executed(&second, 1);
    // The key it lacks makes a record that cannot be read, which is never a free one.
    refused(&after.send(), 503, "store-unavailable", Some("1"));
    assert_eq!(world.gateways[0].counted("store_failures.corrupt"), 1);
    assert_eq!(world.ledger.entries_for("/after").len(), 1);
}

#[test]
fn a_record_that_was_moved_or_changed_does_not_open() {
    let world = SharedWorld::start(document(json!([key("a", 1)])));
    let pay = |path: &str| world.post(path).key("k").body("ten");
    let records: Vec<(String, Vec<u8>)> = ["/one", "/two"]
        .into_iter()
        .map(|path| {
            executed(&pay(path).send(), 1);
            let key = key_of(&world, path);
            let value = world.redis.get(key.as_bytes()).expect("it is stored");
            (key, value)
        })
        .collect();
    let [(one, mine), (_, other)] = &records[..] else { panic!("there are two") };
    let mut changed = mine.clone();
    *changed.last_mut().expect("a record has bytes") ^= 1;
    for value in [other, &changed] {
        world.redis.ask(&[b"SET", one.as_bytes(), value]);
        refused(&pay("/one").send(), 503, "store-unavailable", Some("1"));
    }
    assert_eq!(world.ledger.entries_for("/one").len(), 1);
    world.redis.ask(&[b"SET", one.as_bytes(), mine]);
    assert_eq!(pay("/one").to(world.other()).send().status, 201);
}
