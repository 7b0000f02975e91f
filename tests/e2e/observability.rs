//! Metrics, access log, log.
//!
//! Its one rule: numbers are compared on a gateway of the test's own, words on a shared one.
//! It does not know what the numbers are good for.

use std::fs;

use harness::gateway::{repository, shipped};
use harness::{PATIENCE, SharedWorld, World, wait_until};
use serde_json::{Value, json};

use crate::check::said;
use crate::worlds::{plain, rules, start, troubled};

#[test]
fn everything_that_happens_is_counted_once() {
    let world = World::start(json!({ "policy": { "lease_ms": 1000 } }));
    let count = |what: &str| world.gateway.counted(what);
    let pay = |key: &str| world.post("/pay").key(key);

    let mut first = start(&world, &pay("a"), "ten", "counted");
    assert_eq!(pay("a").body("ten").send().status, 429);
    wait_until("one runs", PATIENCE, || world.gateway.stat("wasmcustom.idempotency_running") == 1);
    world.ledger.open("counted");
    assert_eq!(first.response().status, 201);
    for _ in 0..3 {
        assert_eq!(pay("a").body("ten").send().status, 201);
    }
    for _ in 0..2 {
        assert_eq!(pay("a").body("twenty").send().status, 409);
    }
    pay("b").header("x-test-status", "400").body("ten").send();
    pay("c").header("x-test-status", "500").body("ten").send();
    pay("d").header("x-test-status", "504").body("ten").send();
    assert_eq!(pay("d").body("ten").send().status, 409);
    wait_until("the lease is over", PATIENCE, || pay("d").body("ten").send().status == 201);
    pay("e").header("x-test-body-size", "600000").body("ten").send();
    assert_eq!(pay("e").body("ten").send().status, 409);
    pay("f, g").body("ten").send();
    pay("h").body(vec![b'x'; 600_000]).send();
    world.post("/pay").body("ten").send();
    world.post("/pay").anonymous().key("i").header("cookie", "a=b").body("ten").send();
    world.request("GET", "/pay").key("a").send();

    let expected = [
        ("requests.executed", 6),
        ("requests.replayed", 3),
        ("stored", 3),
        ("released", 1),
        ("retryable", 1),
        ("unknown", 1),
        ("takeover", 1),
        ("refused.in-flight", 1),
        ("refused.mismatch", 2),
        ("refused.key-invalid", 1),
        ("refused.not-replayable", 1),
        ("refused.body-too-large", 1),
        ("refused.key-missing", 0),
        ("refused.store-unavailable", 0),
        ("requests.bypassed", 2),
        ("bypassed.no-key", 1),
        ("bypassed.no-caller", 1),
    ];
    for (what, times) in expected {
        assert_eq!(count(what), times, "{what} in\n{}", world.gateway.admin("/stats?filter=idempotency.*_total"));
    }
    // Polling until the lease was over.
    assert!(count("refused.outcome-unknown") >= 1);
    assert!(count("store_operations") >= 20);
    // Each request is counted with one outcome, the one that no rule was about by itself.
    let requests =
        ["executed", "replayed", "refused", "bypassed", "unsent"].map(|one| count(&format!("requests.{one}")));
    let sent = world.ledger.entries().len() as u64;
    assert_eq!(requests.iter().sum::<u64>(), count("requests"));
    assert_eq!(count("requests.executed") + count("requests.bypassed") + 1, sent, "{requests:?}");
    world.gateway.wait_for_count("unmatched", 1);
    assert_eq!(count("store_failures"), 0, "{}", world.gateway.admin("/stats?filter=store_failures"));
    wait_until("nothing runs", PATIENCE, || world.gateway.stat("wasmcustom.idempotency_running") == 0);
    world.gateway.wait_for_stat("wasmcustom.idempotency_store_bytes", 1);
}

#[test]
fn prometheus_is_shown_labels_that_add_up() {
    let world = World::start(json!({
        "policy": { "on_in_flight": { "action": "wait" } },
        "rules": [
            { "name": "a.b", "match": { "methods": ["POST"], "path": { "prefix": "/named" } } },
            { "match": { "methods": ["POST"], "path": { "prefix": "/trial" } }, "policy": { "mode": "observe" } },
            { "match": { "methods": ["POST"] } },
        ],
    }));
    let counters = || {
        let all = world.gateway.admin("/stats?filter=wasmcustom");
        all.lines().map(|line| line.split(':').next().unwrap_or_default().to_owned()).collect::<Vec<_>>()
    };
    let from_the_start = counters();
    let mut first = start(&world, &world.post("/named").key("k"), "ten", "labelled");
    let mut duplicate = world.post("/named").key("k").body("ten").open();
    duplicate.write("ten");
    world.gateway.wait_for_stat("wasmcustom.idempotency_waiting", 1);
    world.ledger.open("labelled");
    assert_eq!((first.response().status, duplicate.response().status), (201, 201));
    world.post("/trial").key("k").body("ten").send();
    world.post("/other").key("k, l").body("ten").send();
    world.post("/other").body("ten").send();
    let version = env!("CARGO_PKG_VERSION");
    let told = || world.gateway.admin("/stats/prometheus?filter=idempotency");
    for line in [
        r#"idempotency_requests_total{rule="a_b",outcome="executed"} 1"#,
        r#"idempotency_requests_total{rule="a_b",outcome="replayed"} 1"#,
        r#"idempotency_stored_total{rule="a_b"} 1"#,
        r#"idempotency_observed_requests_total{rule="rule1",outcome="executed"} 1"#,
        r#"idempotency_refused_total{rule="rule2",reason="key-invalid"} 1"#,
        r#"idempotency_bypassed_total{rule="rule2",reason="no-key"} 1"#,
        r#"idempotency_requests_total{rule="rule2",outcome="bypassed"} 1"#,
        // What has not happened stands at 0.
        r#"idempotency_unknown_total{rule="rule2"} 0"#,
        r#"idempotency_store_failures_total{reason="full"} 0"#,
        &format!(r#"idempotency_build_info{{version="{version}"}} 1"#),
        "idempotency_store_max_bytes{} 67108864",
        "idempotency_store_records{} 2",
        r#"idempotency_wait_milliseconds_bucket{le="60000"} 1"#,
        "idempotency_wait_milliseconds_count{} 1",
    ] {
        wait_until(&format!("{line} in\n{}", told()), PATIENCE, || told().lines().any(|told| told == line));
    }
    let labels =
        |line: &str| line.split('{').nth(1).is_some_and(|rest| rest.contains(".rule.") || rest.contains("envoy_"));
    assert!(!told().lines().any(labels), "{}", told());
    assert_eq!(counters(), from_the_start, "nothing that clients send makes another");
}

#[test]
fn every_shipped_file_has_the_same_labels_and_buckets() {
    let local = shipped("local.yaml").unwrap()["stats_config"].clone();
    let files = fs::read_dir(repository().join("envoy")).unwrap().map(|entry| entry.unwrap().file_name());
    let files: Vec<String> =
        files.map(|name| name.into_string().unwrap()).filter(|name| name.ends_with(".yaml")).collect();
    let mut count = 0;
    for file in files {
        let tree = shipped(&file).unwrap();
        let patches = tree.pointer("/spec/configPatches").and_then(Value::as_array).into_iter().flatten();
        let bootstrap = patches.filter(|patch| patch["applyTo"] == "BOOTSTRAP").map(|patch| &patch["patch"]["value"]);
        let has_bootstrap = tree.get("static_resources").is_some() || tree["kind"] == "EnvoyFilter";
        for bootstrap in bootstrap.chain([&tree]).filter(|_| has_bootstrap).take(1) {
            assert_eq!(bootstrap["stats_config"], local, "{file}");
            count += 1;
        }
    }
    assert_eq!(count, 8);
}

#[test]
fn nothing_is_left_running_by_any_ending() {
    let world = World::start(json!({}));
    let pay = world.post("/pay").body("ten");
    let running = || world.gateway.stat("wasmcustom.idempotency_running");
    let mut held = start(&world, &world.post("/held").key("a"), "ten", "held");
    drop(start(&world, &world.post("/gone").key("a"), "ten", "never"));
    for (key, place) in ["before", "before-rst", "after-headers", "mid-body"].iter().enumerate() {
        let _ = pay.clone().key(key.to_string()).header("x-test-reset", place).try_send();
    }
    pay.clone().key("large").header("x-test-body-size", "600000").send();
    pay.clone().key("failed").header("x-test-status", "500").send();
    wait_until("only one runs", PATIENCE, || running() == 1);
    world.ledger.open("held");
    assert_eq!(held.response().status, 201);
    wait_until("nothing runs", PATIENCE, || running() == 0);
}

#[test]
fn the_access_log_holds_what_the_client_was_told() {
    let world = rules();
    let keyed = |path: &str| world.post(path).key("k").body("ten");
    let cases = [
        (keyed("/ietf/log"), 201, "via_upstream"),
        (keyed("/ietf/log"), 201, "idempotency_replay"),
        (keyed("/ietf/log").body("twenty"), 422, "idempotency_mismatch"),
        (keyed("/ietf/log-invalid").key("l"), 400, "idempotency_key_invalid"),
        (world.post("/required/log").body("ten"), 400, "idempotency_key_missing"),
        (keyed("/known-only/log").anonymous(), 401, "idempotency_caller_missing"),
        (keyed("/conflict/log"), 201, "via_upstream"),
        (keyed("/conflict/log"), 409, "idempotency_already_completed"),
        (keyed("/small/log").body("0123456789a"), 413, "idempotency_body_too_large"),
        (keyed("/small/log-response").header("x-test-body-size", "11"), 201, "via_upstream"),
        (keyed("/small/log-response"), 409, "idempotency_not_replayable"),
        (keyed("/hold/log").header("x-test-status", "504"), 504, "via_upstream"),
        (keyed("/hold/log"), 409, "idempotency_outcome_unknown"),
        (keyed("/observe/log"), 201, "via_upstream"),
        (world.post("/ietf/log-keyless").body("ten"), 201, "via_upstream"),
        (keyed("/ietf/log-failed").header("x-test-status", "500"), 500, "via_upstream"),
    ];
    for (request, status, details) in cases {
        let answer = request.send();
        assert_eq!(answer.status, status, "{}", request.path());
        assert_ne!(said(&answer), "");
        let (path, said) = (request.path(), said(&answer));
        let line = world.gateway.wait_for_access_log(&format!("POST {path} {status} {details} "));
        let told = world.gateway.access_log();
        let matching = format!("POST {path} {status} {details} ");
        let shown = told.lines().filter(|line| line.contains(&matching)).any(|line| is_shown(line, said));
        assert!(shown, "the client was told {said}, the access log holds {line}");
    }
    let mut first = start(&world, &world.post("/ietf/log-running").key("k"), "ten", "log-running");
    assert_eq!(keyed("/ietf/log-running").send().status, 409);
    world.gateway.wait_for_access_log("POST /ietf/log-running 409 idempotency_in_flight ");
    world.ledger.open("log-running");
    assert_eq!(first.response().status, 201);
}

/// The access log ends with what the client was told, and with the operation where the store was asked about one.
fn is_shown(line: &str, said: &str) -> bool {
    let (_, shown) = line.rsplit_once("idempotency=[").unwrap_or_default();
    let (told, operation) =
        shown.trim_end_matches(']').split_once(";operation=").unwrap_or((shown.trim_end_matches(']'), ""));
    let no_store = ["key-invalid", "key-missing", "caller-missing", "body-too-large", "no-key"];
    let is_without = no_store.iter().any(|reason| said.ends_with(&format!("reason={reason}")));
    let is_operation = operation.len() == 12 && operation.bytes().all(|digit| digit.is_ascii_hexdigit());
    told == said && is_operation != is_without
}

#[test]
fn a_client_that_hangs_up_leaves_the_attempt_and_the_operation_in_the_access_log() {
    let world = plain();
    drop(start(&world, &world.post("/log/gone").key("k"), "ten", "log-gone"));
    let line = world.gateway.wait_for_access_log("POST /log/gone 0 ");
    let operation = world.ledger.entries_for("/log/gone").remove(0).operation.unwrap();
    assert!(line.ends_with(&format!("idempotency=[executed;attempt=1;operation={}]", &operation[..12])), "{line}");
    world.ledger.open("log-gone");
    // The same digits name it in the log.
    world.gateway.wait_for_log(&format!("operation {}: the outcome of attempt 1 is unknown", &operation[..12]));
}

#[test]
fn under_observe_the_access_log_says_what_would_have_been() {
    let world = World::start(json!({ "policy": { "mode": "observe" } }));
    let pay = world.post("/trial").key("k").body("ten");
    let outcome = |line: String| line.rsplit_once("idempotency=[").unwrap().1.to_owned();
    let cases = [(pay.clone(), "executed"), (pay.clone(), "replayed"), (pay.clone().body("twenty"), "mismatch")];
    for (number, (request, would_be)) in cases.into_iter().enumerate() {
        let path = format!("/trial?{number}");
        assert_eq!(request.clone().send().status, 201, "{path}");
        let said = format!("bypassed;outcome={would_be};reason=observe;operation=");
        let lines = || world.gateway.access_log().lines().filter(|line| line.contains(&said)).count();
        wait_until(&format!("{would_be} is shown"), PATIENCE, || lines() == 1);
    }
    drop(start(&world, &world.post("/trial/gone").key("gone"), "ten", "trial-gone"));
    let line = outcome(world.gateway.wait_for_access_log("POST /trial/gone 0 "));
    assert!(line.starts_with("bypassed;outcome=executed;reason=observe;operation="), "{line}");
    world.ledger.open("trial-gone");
}

#[test]
fn the_log_begins_with_version_rules_and_store_once() {
    let version = env!("CARGO_PKG_VERSION");
    let world = World::start(json!({
        "rules": [
            { "name": "payments", "match": { "methods": ["POST"], "path": { "prefix": "/v1" } } },
            { "match": { "methods": ["PUT"] }, "policy": { "mode": "observe" } },
        ],
    }));
    let shared = SharedWorld::alone(json!({}));
    let line = format!("envoy-idempotency {version}: rules: payments, rule1 (observe); records in this Envoy, 64 MiB");
    world.gateway.wait_for_log(&line);
    let log = world.gateway.log();
    // Each worker has a root of its own, and one of them speaks.
    assert_eq!(log.matches(": envoy-idempotency ").count(), 1, "{log}");
    let said = log.lines().find(|said| said.contains(&line)).unwrap_or_default();
    assert!(said.contains("[info]") && said.matches(&line).count() == 1, "{said}");
    shared.gateways[0]
        .wait_for_log(&format!("envoy-idempotency {version}: rules: default; records in Redis, through the cluster "));
}

#[test]
fn a_doubt_that_is_settled_is_logged_with_its_operation() {
    let world = troubled();
    let pay = world.post("/log/doubt").key("k").body("ten");
    pay.clone().header("x-test-status", "504").send();
    wait_until("the lease is over", PATIENCE, || pay.send().status == 201);
    let operation = world.ledger.entries_for("/log/doubt").remove(0).operation.unwrap();
    let settled = |ended: &str| {
        format!("operation {}: its outcome was unknown and is settled: attempt {ended}", &operation[..12])
    };
    world.gateway.wait_for_log(&settled("2 is completed"));
    assert_eq!(world.gateway.log().matches(&settled("")).count(), 1);
}

#[test]
fn a_redis_that_fails_is_logged_when_that_begins_and_when_it_is_over() {
    let world = SharedWorld::alone(json!({ "store": { "breaker": { "failures": 1000, "open_ms": 10 } } }));
    let pay = |n: usize| world.post("/log/store").key(format!("k{n}")).body("ten");
    pay(0).send();
    world.interposer.close();
    for n in 1..40 {
        assert_eq!(pay(n).send().status, 503);
    }
    world.interposer.open();
    let (begun, over) = ("the store has begun to fail: ", "the store answers again, ");
    wait_until("it is over", PATIENCE, || {
        let _ = pay(0).send();
        world.gateways[0].log().contains(over)
    });
    let log = world.gateways[0].log();
    assert_eq!((log.matches(begun).count(), log.matches(over).count()), (1, 1), "{log}");
    let operation = |line: &str| line.rsplit(' ').next().map(|word| word.len() == 12);
    let line = log.lines().find(|line| line.contains(begun)).unwrap_or_default();
    assert!(line.contains("[warning]") && line.contains(" for operation ") && operation(line) == Some(true), "{line}");
}

#[test]
fn no_line_of_the_log_says_twice_whose_it_is() {
    let log = troubled().gateway.log();
    let twice = |line: &&str| line.contains("wasm log ") && line.contains(": idempotency: ");
    assert_eq!(log.lines().find(twice), None);
}

#[test]
fn an_unmatched_request_leaves_no_word_in_the_access_log() {
    let world = plain();
    world.request("GET", "/log/get").key("k").send();
    let line = world.gateway.wait_for_access_log("GET /log/get 201");
    assert!(line.ends_with("idempotency=[-]"), "{line}");
}

#[test]
fn neither_keys_nor_bodies_are_logged() {
    let world = troubled();
    let (key, body) = ("secret-key-of-a-client", "secret body of a client");
    let pay = world.post("/log/secrets").key(key).header("authorization", "Bearer secret-token").body(body);
    pay.send();
    pay.send();
    pay.clone().body("another secret body").send();
    pay.clone().key("another, secret key").send();
    let unknown = world.post("/log/unknown").key(key).body(body);
    unknown.clone().header("x-test-status", "504").send();
    wait_until("the lease is over", PATIENCE, || unknown.send().status == 201);

    // The operation is named by its first digits alone.
    let operation = world.ledger.entries_for("/log/unknown").remove(0).operation.unwrap();
    world.gateway.wait_for_log(&format!("operation {} runs as attempt 2", &operation[..12]));
    for log in [world.gateway.log(), world.gateway.access_log()] {
        assert!(!log.contains("secret-") && !log.contains("secret body") && !log.contains(&operation[..13]), "{log}");
    }
}
