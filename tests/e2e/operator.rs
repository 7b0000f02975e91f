//! The operator plugin on real Envoy: who gets in, what is answered, and what a word makes of the next request.
//!
//! Its one rule: operators ask on the listener of `envoy/operator.yaml`, and clients see what becomes of it.
//! It does not know `idempotencyctl`; `ctl/tests/drill.rs` plays the whole of a night on call.

use std::net::SocketAddr;
use std::sync::LazyLock;

use harness::{Gateway, Ledger, Options, PATIENCE, Port, Request, Response, SharedWorld, wait_until};
use serde_json::{Value, json};

use crate::check::{executed, refused, replays};

const TOKEN: &str = "a-token-of-the-tests";

/// One gateway of the shipped file on the embedded store, and the port of its operators.
struct World {
    gateway: Gateway,
    ledger: Ledger,
    port: Port,
}

fn world() -> &'static World {
    static WORLD: LazyLock<World> = LazyLock::new(|| {
        let (ledger, port) = (Ledger::start(), Port::reserve());
        let options = Options::file("operator.yaml", ledger.addr()).operator(port.addr(), TOKEN, json!({}));
        let gateway =
            Gateway::start(options.configuration(json!({ "policy": { "on_unknown": "hold", "lease_ms": 1000 } })));
        World { gateway, ledger, port }
    });
    &WORLD
}

fn ask(port: SocketAddr, method: &str, rest: &str) -> Request {
    Request::new(port, method, &format!("/operations/{rest}")).header("authorization", format!("Bearer {TOKEN}"))
}

fn resolve(port: SocketAddr, operation: &str, word: &Value) -> Response {
    let request = ask(port, "POST", &format!("{operation}/resolve")).body(word.to_string());
    let mut answer = request.send();
    // Until the lease is over the word is refused.
    wait_until("the word is taken or refused for good", PATIENCE, || {
        answer = request.send();
        !answer.text().contains("lease is not over")
    });
    answer
}

/// The operation of the last execution on this path, as the service saw it.
fn operation(ledger: &Ledger, path: &str) -> String {
    let entries = ledger.entries_for(path);
    entries.last().and_then(|entry| entry.operation.clone()).expect("the service saw an operation")
}

#[test]
fn an_unknown_outcome_is_found_by_twelve_digits_and_settled_as_run() {
    let World { gateway, ledger, port } = world();
    let pay = gateway.post("/operator/ran").key("k").body("ten");
    assert_eq!(pay.clone().header("x-test-status", "504").send().status, 504);
    let whole = operation(ledger, "/operator/ran");
    let short = &whole[..12];
    gateway.wait_for_log(&format!("operation {short}: the outcome of attempt 1 is unknown"));
    let seen = ask(port.addr(), "GET", short).send();
    let ttl = seen.json()["ttl"].clone();
    assert_eq!(
        seen.json(),
        json!({ "operation": whole, "state": "unknown", "attempt": 1, "status": null, "ttl": ttl })
    );
    assert_eq!(
        (seen.header("cache-control"), seen.header("content-type")),
        (Some("no-store"), Some("application/json"))
    );
    refused(&pay.send(), 409, "outcome-unknown", None);
    let answer = resolve(port.addr(), short, &json!({ "ran": true, "status": 201 }));
    assert_eq!((answer.status, answer.json()["state"].clone()), (200, json!("completed")), "{}", answer.text());
    assert_eq!(answer.json()["status"], 201);
    gateway.wait_for_log(&format!("an operator says that operation {short} ran"));
    refused(&pay.send(), 409, "not-replayable", None);
    assert_eq!(ledger.entries_for("/operator/ran").len(), 1);
    // What is completed did not "not run", and is forgotten only where that is said.
    assert_eq!(resolve(port.addr(), &whole, &json!({ "ran": false, "attempt": 1 })).status, 409);
    assert_eq!(ask(port.addr(), "POST", &format!("{whole}/forget")).send().json()["state"], "open");
    executed(&pay.clone().body("twenty").send(), 2);
}

#[test]
fn what_did_not_run_runs_as_the_next_attempt_and_the_late_first_one_is_refused() {
    let World { gateway, ledger, port } = world();
    let pay = gateway.post("/operator/not-run").key("k").body("ten");
    assert_eq!(pay.clone().header("x-test-status", "504").send().status, 504);
    let whole = operation(ledger, "/operator/not-run");
    let answer = resolve(port.addr(), &whole, &json!({ "ran": false, "attempt": 1 }));
    assert_eq!((answer.status, answer.json()["state"].clone()), (200, json!("open")), "{}", answer.text());
    refused(&pay.clone().body("twenty").send(), 409, "mismatch", None);
    // A word about the first attempt that comes after the second does not free it.
    assert_eq!(pay.clone().header("x-test-status", "504").send().status, 504);
    let late = || resolve(port.addr(), &whole, &json!({ "ran": false, "attempt": 1 }));
    wait_until("no lease lives", PATIENCE, || late().text().contains("another attempt"));
    assert_eq!(
        (late().status, ask(port.addr(), "GET", &whole).send().json()["state"].clone()),
        (409, json!("unknown"))
    );
    let answer = resolve(port.addr(), &whole, &json!({ "ran": false, "attempt": 2 }));
    assert_eq!((answer.status, answer.json()["attempt"].clone()), (200, json!(2)), "{}", answer.text());
    let third = pay.send();
    executed(&third, 3);
    replays(&pay.send(), &third);
}

#[test]
fn while_an_attempt_runs_no_word_is_taken() {
    let World { gateway, ledger, port } = world();
    let pay = gateway.post("/operator/runs").key("k").header("x-test-hold", "operator runs").body("ten");
    let mut client = pay.open();
    client.write("ten");
    wait_until("it runs", PATIENCE, || ledger.entries_for("/operator/runs").len() == 1);
    let whole = operation(ledger, "/operator/runs");
    assert_eq!(ask(port.addr(), "GET", &whole).send().json()["state"], "running");
    for (deed, body) in
        [("resolve", r#"{"ran": true}"#), ("resolve", r#"{"ran": false, "attempt": 1}"#), ("forget", "")]
    {
        let answer = ask(port.addr(), "POST", &format!("{whole}/{deed}")).body(body).send();
        assert_eq!(answer.status, 409, "{deed} {body}: {}", answer.text());
    }
    ledger.open("operator runs");
    executed(&client.response(), 1);
}

#[test]
fn only_the_token_opens_and_hostile_requests_get_a_sentence() {
    let World { gateway, ledger, port } = world();
    executed(&gateway.post("/operator/known").key("k").body("ten").send(), 1);
    let whole = operation(ledger, "/operator/known");
    let path = format!("/operations/{whole}");
    for token in ["Bearer wrong", "Bearer ", TOKEN, "Basic YTpi"] {
        let answer = Request::new(port.addr(), "GET", &path).header("authorization", token).send();
        assert_eq!((answer.status, answer.header("www-authenticate")), (401, Some("Bearer")), "{token}");
    }
    let nameless = Request::new(port.addr(), "POST", &format!("{path}/forget")).send();
    assert_eq!(nameless.status, 401);
    gateway.wait_for_log(&format!("POST {path}/forget 401 "));
    assert!(gateway.log().lines().all(|line| !line.contains("Bearer") && !line.contains(TOKEN)));
    assert_eq!(ask(port.addr(), "GET", &whole).send().json()["state"], "completed");
    for (method, rest, status) in [
        ("GET", "".to_owned(), 400),
        ("GET", "0123456789".to_owned(), 400),
        ("GET", "%7A%7A%7A%7A%7A%7A".to_owned(), 400),
        ("GET", "f".repeat(8000), 400),
        ("GET", "0".repeat(64), 404),
        ("GET", "000000000000".to_owned(), 404),
        ("DELETE", whole.clone(), 405),
        ("GET", format!("{whole}/resolve"), 405),
        ("POST", format!("{whole}/drop"), 404),
        ("POST", format!("{whole}/resolve"), 400),
    ] {
        let answer = ask(port.addr(), method, &rest).send();
        assert_eq!(answer.status, status, "{method} {rest}: {}", answer.text());
        assert_eq!(answer.header("cache-control"), Some("no-store"), "{method} {rest}");
    }
    let long = ask(port.addr(), "POST", &format!("{whole}/resolve")).body(vec![b' '; 100_000]).send();
    assert_eq!(long.status, 413, "{}", long.text());
    assert_eq!(ask(port.addr(), "GET", &whole).send().json()["state"], "completed");
    // The gateway's own listener knows nothing of operators.
    assert!(gateway.request("GET", &path).send().status != 200 || ledger.entries_for(&path).len() == 1);
    assert_eq!(Request::new(port.addr(), "GET", "/elsewhere").send().status, 404);
}

#[test]
fn a_table_without_records_is_said_and_no_operation_called_absent() {
    let (ledger, port) = (Ledger::start(), Port::reserve());
    let options = Options::file("operator.yaml", ledger.addr()).operator(port.addr(), TOKEN, json!({}));
    // Its table is one of another size, and so another's.
    let gateway = Gateway::start(options.configuration(json!({ "store": { "max_bytes": 1 << 25 } })));
    executed(&gateway.post("/operator/elsewhere").key("k").body("ten").send(), 1);
    let answer = ask(port.addr(), "GET", &operation(&ledger, "/operator/elsewhere")).send();
    assert_eq!(answer.status, 503, "{}", answer.text());
    assert!(answer.text().contains("vm_id, plugin name and store.max_bytes"), "{}", answer.text());
}

#[test]
fn an_operators_plugin_has_no_rule_in_its_log_or_metrics() {
    let World { gateway, .. } = world();
    gateway.wait_for_log("rules: none, operators ask here; records in this Envoy");
    let (ledger, port) = (Ledger::start(), Port::reserve());
    let named = json!({ "rules": [{ "name": "payments", "match": {} }] });
    let options = Options::file("operator.yaml", ledger.addr()).operator(port.addr(), TOKEN, json!({}));
    let other = Gateway::start(options.configuration(named));
    let scraped = other.admin("/stats?filter=idempotency");
    assert!(scraped.contains("rule.payments") && !scraped.contains("rule.default"), "{scraped}");
}

#[test]
fn without_a_token_the_plugin_does_not_load() {
    let (ledger, port) = (Ledger::start(), Port::reserve());
    let options = Options::file("operator.yaml", ledger.addr()).operator(port.addr(), "", json!({}));
    let refused = Gateway::try_start(options).expect_err("it has no token");
    assert!(refused.contains("/operator/token: must not be empty"), "{refused}");
}

#[test]
fn on_redis_a_word_makes_this_envoy_forget_and_says_how_long_others_remember() {
    let port = Port::reserve();
    let (addr, store) = (port.addr(), harness::Dialect::chosen().store());
    let config = json!({ "policy": { "on_unknown": "hold", "lease_ms": 1000, "ttl_s": 1800 } });
    let world = SharedWorld::with(harness::Redis::start(), &[config.clone(), config], |options| {
        options.operator(addr, TOKEN, store.clone())
    });
    let pay = world.post("/operator/shared").key("k").body("ten");
    let first = pay.send();
    executed(&first, 1);
    // The other gateway remembers it from now on.
    replays(&pay.clone().to(world.other()).send(), &first);
    let whole = operation(&world.ledger, "/operator/shared");
    let short = ask(addr, "GET", &whole[..12]).send();
    assert!(short.status == 400 && short.text().contains("idempotencyctl list"), "{}", short.text());
    let seen = ask(addr, "GET", &whole).send();
    assert_eq!((seen.json()["state"].clone(), seen.json()["remembered_s"].clone()), (json!("completed"), json!(60)));
    // What is damaged is said to be so, and no other try is asked for.
    let damaged = "da".repeat(32);
    world.redis.ask(&[b"SET", format!("idem:{damaged}").as_bytes(), b"garbage"]);
    for (method, rest, word) in [("GET", "", ""), ("POST", "/resolve", r#"{"ran": true}"#), ("POST", "/forget", "")] {
        let answer = ask(addr, method, &format!("{damaged}{rest}")).body(word).send();
        assert_eq!(answer.status, 503, "{}", answer.text());
        assert!(answer.text().contains("damaged") && !answer.text().contains("again"), "{}", answer.text());
    }
    let forgotten = ask(addr, "POST", &format!("{whole}/forget")).send();
    assert_eq!((forgotten.status, forgotten.json()["state"].clone()), (200, json!("open")), "{}", forgotten.text());
    // Both gateways have an operator plugin on this port, and either may have answered: that one has forgotten.
    let answers = [pay.clone().body("twenty").send(), pay.clone().to(world.other()).body("twenty").send()];
    let ran = answers
        .iter()
        .filter(|answer| answer.header("idempotency-status").is_some_and(|line| line.starts_with("executed")))
        .count();
    assert_eq!(ran, 1, "{answers:?}");
    let attempts: Vec<_> = world.ledger.entries_for("/operator/shared").iter().map(|entry| entry.attempt).collect();
    assert_eq!(attempts, [Some(1), Some(2)]);
}
