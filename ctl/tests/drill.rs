//! A night on call: outcomes nobody knows are found, looked at and settled, and clients see what becomes of them.
//!
//! Its one rule: it is docs/operations.md, "Find it, settle it", played with the program itself, on real gateways.
//! It does not know how a word gets to a record.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test that fails panics"
)]

use std::process::Command;

use harness::gateway::{hcm, repository};
use harness::redis::DURABLE;
use harness::{Gateway, Ledger, Options, PATIENCE, Port, Redis, Request, Response, SharedWorld, wait_until};
use serde_json::{Value, json};

const TOKEN: &str = "a-token-of-the-tests";

/// What is said as JSON, and how the program ended.
fn run(arguments: &[&str], environment: &[(&str, &str)]) -> (Value, i32) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_idempotencyctl"));
    let output = command.arg("--json").args(arguments).envs(environment.iter().copied()).output().expect("it runs");
    let text = String::from_utf8_lossy(&output.stdout);
    let said = serde_json::from_str(&text).unwrap_or_else(|_| json!(String::from_utf8_lossy(&output.stderr)));
    (said, output.status.code().unwrap_or(-1))
}

/// Asks until the lease of the attempt is over.
fn settle(run: &dyn Fn(&[&str]) -> (Value, i32), arguments: &[&str]) -> Value {
    let mut answer = run(arguments);
    wait_until("the word is taken", PATIENCE, || {
        answer = run(arguments);
        answer.1 == 0
    });
    answer.0
}

fn policy() -> Value {
    json!({ "policy": { "on_unknown": "hold", "lease_ms": 1000, "max_running_ms": 1000, "ttl_s": 3600 } })
}

/// A route that gives up after half a second, as an impatient gateway's.
fn impatient(options: Options) -> Options {
    options.mutate(|tree| {
        let routes = &mut hcm(tree)["route_config"]["virtual_hosts"][0]["routes"];
        let mut impatient = routes[0].clone();
        impatient["match"] = json!({ "prefix": "/v1/payments/impatient" });
        impatient["route"]["timeout"] = json!("0.5s");
        routes.as_array_mut().expect("routes is a list").insert(0, impatient);
    })
}

fn line(response: &Response) -> &str {
    response.header("idempotency-status").unwrap_or_default()
}

fn is_refused(response: &Response, slug: &str) -> bool {
    line(response).ends_with(&format!("reason={slug}"))
}

/// The twelve digits of the operation that the gateway's log says is unknown.
fn named_by_log(gateway: &Gateway, known: &[&str]) -> String {
    let mut named = None;
    wait_until("the log names the operation", PATIENCE, || {
        let log = gateway.log();
        let lines = log.lines().filter(|line| line.contains("the outcome of attempt 1 is unknown"));
        let digits = lines.filter_map(|line| line.split("operation ").nth(1)?.get(..12).map(str::to_owned));
        named = digits.into_iter().find(|digits| !known.contains(&digits.as_str()));
        named.is_some()
    });
    named.expect("it was found")
}

/// The client and the gateway of a first attempt that runs on past `max_running_ms`, until the service answers.
fn outlasting(pay: &Request, ledger: &Ledger, hold: &str) -> harness::Connection {
    let mut client = pay.clone().header("x-test-hold", hold).open();
    client.write("ten");
    wait_until("it runs", PATIENCE, || ledger.entries_for(pay.path()).len() == 1);
    client
}

/// What the alert for unknown outcomes reads has grown by one, as Prometheus sees it; the alert itself is played on a real
/// one by `tests/e2e/monitoring.rs`.
#[track_caller]
fn alerts_of_one(gateway: &Gateway) {
    let family = "idempotency_unknown_total";
    let alerts = std::fs::read_to_string(repository().join("deploy/alerts.yaml")).unwrap();
    let (_, alert) = alerts.split_once("alert: IdempotencyOutcomeUnknown").unwrap();
    assert!(alert.lines().nth(1).unwrap().contains(family), "{alert}");
    let scraped = gateway.admin("/stats/prometheus?filter=unknown_total");
    let values = scraped.lines().filter(|line| line.starts_with(family)).filter_map(|line| line.rsplit(' ').next());
    assert_eq!(values.filter_map(|value| value.parse::<u64>().ok()).sum::<u64>(), 1, "{scraped}");
}

#[test]
fn on_redis_an_unknown_outcome_is_found_and_settled_through_the_script() {
    let redis = Redis::with(&DURABLE);
    let address = format!("redis://{}", redis.addr());
    let world = SharedWorld::with(redis, &[policy(), policy()], impatient);
    let ctl = |arguments: &[&str]| run(arguments, &[("IDEMPOTENCY_REDIS", &address)]);

    // A payment times out, and nothing may follow it.
    let pay = world.post("/v1/payments/impatient").key("order-1").body("ten");
    assert_eq!(pay.clone().header("x-test-hold", "never").send().status, 504);
    assert!(is_refused(&pay.clone().to(world.other()).send(), "outcome-unknown"));
    alerts_of_one(&world.gateways[0]);
    let short = named_by_log(&world.gateways[0], &[]);

    let listed = || ctl(&["list", "--state", "unknown"]).0["operations"].as_array().cloned().unwrap_or_default();
    wait_until("the list shows it", PATIENCE, || listed().len() == 1);
    let whole = listed()[0]["operation"].as_str().expect("it has a name").to_owned();
    assert!(whole.starts_with(&short), "{whole} {short}");
    assert_eq!(Some(&whole), world.ledger.entries_for("/v1/payments/impatient")[0].operation.as_ref());
    assert_eq!(ctl(&["list", "--state", "unknown", "--older", "10m"]).0["operations"], json!([]));
    let (shown, code) = ctl(&["show", &short]);
    assert_eq!(
        (code, &shown["operation"], &shown["state"], &shown["attempt"]),
        (0, &json!(whole), &json!("unknown"), &json!(1))
    );

    // The bank says that it ran.
    let settled = settle(&ctl, &["resolve", &short, "--ran", "--status", "201"]);
    assert_eq!((&settled["state"], &settled["status"]), (&json!("completed"), &json!(201)));
    for to in [world.gateways[0].addr(), world.other()] {
        let retry = pay.clone().to(to).send();
        assert!(retry.status == 409 && is_refused(&retry, "not-replayable"), "{}", line(&retry));
    }
    assert_eq!(world.ledger.entries_for("/v1/payments/impatient").len(), 1);

    // Another never reached the bank, as far as it knows; its first attempt still runs somewhere.
    let pay = world.post("/v1/payments").key("order-2").body("ten");
    let late = outlasting(&pay, &world.ledger, "late");
    let whole = world.ledger.entries_for("/v1/payments")[0].operation.clone().expect("the service saw it");
    wait_until("it counts as unknown", PATIENCE, || ctl(&["show", &whole]).0["state"] == "unknown");
    assert_eq!(settle(&ctl, &["resolve", &whole, "--not-run", "--attempt", "1"])["state"], "open");
    second_attempt_wins(&world.ledger, &[pay.clone().to(world.other()), pay.clone()], late, "late");
    assert_eq!(ctl(&["show", &whole]).0["attempt"], 2);
    // What has completed did not "not run".
    let (said, code) = ctl(&["resolve", &whole, "--not-run", "--attempt", "2"]);
    assert!(code == 1 && said["refused"].as_str().is_some_and(|why| why.contains("has completed")), "{said}");
}

#[test]
fn on_the_embedded_store_the_same_goes_through_the_operator_plugin() {
    let (ledger, port) = (Ledger::start(), Port::reserve());
    let options = Options::file("operator.yaml", ledger.addr()).operator(port.addr(), TOKEN, json!({}));
    let gateway = Gateway::start(impatient(options.configuration(policy())));
    let at = format!("http://{}/operations", port.addr());
    let ctl =
        |arguments: &[&str]| run(arguments, &[("IDEMPOTENCY_GATEWAY", &at), ("IDEMPOTENCY_OPERATOR_TOKEN", TOKEN)]);
    let pay = gateway.post("/v1/payments/impatient").key("order-1").body("ten");
    assert_eq!(pay.clone().header("x-test-hold", "never").send().status, 504);
    assert!(is_refused(&pay.send(), "outcome-unknown"));
    alerts_of_one(&gateway);
    let short = named_by_log(&gateway, &[]);
    let (shown, code) = ctl(&["show", &short]);
    assert_eq!((code, &shown["state"], &shown["attempt"]), (0, &json!("unknown"), &json!(1)), "{shown}");
    let settled = settle(&ctl, &["resolve", &short, "--ran", "--status", "201"]);
    assert_eq!((&settled["state"], &settled["status"]), (&json!("completed"), &json!(201)));
    let retry = pay.send();
    assert!(retry.status == 409 && is_refused(&retry, "not-replayable"), "{}", line(&retry));

    let pay = gateway.post("/v1/payments").key("order-2").body("ten");
    let late = outlasting(&pay, &ledger, "embedded late");
    let whole = ledger.entries_for("/v1/payments")[0].operation.clone().expect("the service saw it");
    assert_eq!(settle(&ctl, &["resolve", &whole[..12], "--not-run", "--attempt", "1"])["state"], "open");
    second_attempt_wins(&ledger, &[pay.clone(), pay], late, "embedded late");
    let (said, code) = run(&["show", &whole], &[("IDEMPOTENCY_GATEWAY", &at), ("IDEMPOTENCY_OPERATOR_TOKEN", "wrong")]);
    assert!(code == 2 && said["error"].as_str().is_some_and(|why| why.contains("401")), "{said}");
}

/// The retry runs as attempt 2, whoever sends it; what the first attempt has to say comes too late for the record.
fn second_attempt_wins(ledger: &Ledger, retries: &[Request], mut late: harness::Connection, hold: &str) {
    let second = retries[0].send();
    assert!(line(&second).starts_with("executed;stored=?1;attempt=2;"), "{}", line(&second));
    ledger.open(hold);
    let first = late.response();
    assert!(line(&first).starts_with("executed;stored=?0;attempt=1"), "{}", line(&first));
    for retry in retries {
        let replayed = retry.send();
        assert!(line(&replayed).starts_with("replayed;attempt=2;"), "{}", line(&replayed));
        assert_eq!(replayed.body, second.body);
    }
    let attempts: Vec<_> = ledger.entries_for(retries[0].path()).iter().map(|entry| entry.attempt).collect();
    assert_eq!(attempts, [Some(1), Some(2)]);
}
