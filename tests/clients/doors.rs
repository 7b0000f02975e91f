//! The presets of `envoy/presets`, with the libraries that people have before them, whose answers get lost.
//!
//! Its one rule: the documents are those of the files, and a library is played as it comes.
//! It does not know what else the presets are for: tests/e2e plays them without libraries.

use std::sync::LazyLock;

use harness::Fault::{CutAfter, Pass};
use harness::World;
use harness::ledger::base64;
use serde_json::{Value, json};

use crate::scene::{Scene, Tools, of_preset};

const GQL: &str = "python/gql_mutation.py";
const AZURE: &str = "python/azure_call.py";
const BOTOCORE: &str = "python/botocore_call.py";
const EVENTS: &str = "node/events.js";

/// The library saw the answer of the first attempt once more.
#[track_caller]
fn replayed(seen: &Value) {
    assert!(seen["said"].as_str().is_some_and(|said| said.starts_with("replayed;attempt=1;")), "{seen}");
}

/// The service answers calls of this path so.
fn answer(world: &World, path: &str, status: &str, body: &Value) {
    let json = ("x-test-header", "content-type: application/json");
    world.ledger.steer(path, &[("x-test-status", status), json, ("x-test-body-base64", &base64(body.to_string()))]);
}

#[test]
fn cloud_events_of_the_library_are_taken_once_in_each_mode() {
    static WORLD: LazyLock<World> = LazyLock::new(|| of_preset("webhooks"));
    for kind in ["binary", "structured"] {
        let scene = Scene::new(&WORLD, &[CutAfter]);
        let seen = scene.play(EVENTS, json!({ "kind": kind }));
        replayed(&seen);
        scene.executed_once(&seen["id"]);
        assert_eq!(scene.way.calls(), 2);
    }
}

#[test]
fn a_webhook_that_the_library_signs_anew_is_taken_once() {
    static WORLD: LazyLock<World> = LazyLock::new(|| of_preset("standard-webhooks"));
    let scene = Scene::new(&WORLD, &[CutAfter]);
    let seen = scene.play(EVENTS, json!({ "kind": "webhook" }));
    replayed(&seen);
    scene.executed_once(&seen["id"]);
}

#[test]
fn a_call_of_jayson_is_made_once_when_it_is_repeated_under_its_id() {
    static WORLD: LazyLock<World> = LazyLock::new(|| of_preset("json-rpc"));
    answer(&WORLD, "/rpc", "200", &json!({ "jsonrpc": "2.0", "id": "1", "result": "paid" }));
    let scene = Scene::new(&WORLD, &[CutAfter]);
    let seen = scene.play("node/jayson_call.js", json!({}));
    replayed(&seen);
    assert_eq!((&seen["result"], scene.executions().len(), scene.way.calls()), (&json!("paid"), 1, 2), "{seen}");
    assert_eq!(seen["id"].as_str().map(str::len), Some(36), "a UUID: {seen}");
}

#[test]
fn a_tool_call_of_the_mcp_sdk_runs_once_when_its_transport_repeats() {
    let tools = Tools::start();
    // It opens the session and says that it has, and then it pays.
    tools.way.only(b"POST ");
    for fault in [Pass, Pass, CutAfter] {
        tools.way.next(1, fault);
    }
    let seen = tools.play("node/mcp_call.js");
    replayed(&seen);
    let paid = ["first", "second", "count", "failed"].map(|name| seen[name].clone());
    assert_eq!(paid, [json!("1"), json!("2"), json!("2"), json!(1)], "{seen}");
}

#[test]
fn a_mutation_of_gql_is_made_once_when_it_is_repeated_in_silence() {
    static WORLD: LazyLock<World> = LazyLock::new(|| of_preset("graphql"));
    answer(&WORLD, "/graphql", "200", &json!({ "data": { "pay": { "id": "p-1" } } }));
    let scene = Scene::new(&WORLD, &[CutAfter]);
    let seen = scene.play(GQL, json!({ "retries": 2, "keyed": true }));
    replayed(&seen);
    assert_eq!((&seen["id"], scene.executions().len(), scene.way.calls()), (&json!("p-1"), 1, 2), "{seen}");
    // Without a key nothing keeps it from paying twice, and the answer says so.
    let scene = Scene::new(&WORLD, &[CutAfter]);
    let seen = scene.play(GQL, json!({ "retries": 2, "keyed": false }));
    assert_eq!((&seen["said"], scene.executions().len()), (&json!("bypassed;reason=no-key"), 2), "{seen}");
}

fn repeatable() -> &'static World {
    static WORLD: LazyLock<World> = LazyLock::new(|| of_preset("repeatability"));
    &WORLD
}

fn repeatable_call(may_repeat_post: bool) -> Value {
    let headers = json!({
        "Repeatability-Request-ID": "2bc97f7e-c1bd-4b40-9dbb-6b8f4f0d2a31",
        "Repeatability-First-Sent": "Tue, 26 Mar 2019 16:06:51 GMT",
    });
    json!({ "path": "/repeatable/orders", "headers": headers, "may_repeat_post": may_repeat_post })
}

#[test]
fn azure_core_that_may_repeat_post_begins_a_repeatable_request_once() {
    let scene = Scene::new(repeatable(), &[CutAfter]);
    let seen = scene.play(AZURE, repeatable_call(true));
    replayed(&seen);
    assert_eq!((scene.executions().len(), scene.way.calls()), (1, 2), "{seen}");
}

#[test]
fn azure_core_as_it_comes_repeats_no_post() {
    let scene = Scene::new(repeatable(), &[CutAfter]);
    let seen = scene.play(AZURE, repeatable_call(false));
    assert_eq!((&seen["error"], scene.way.calls()), (&json!("ServiceResponseError"), 1), "{seen}");
    let seen = scene.play(AZURE, repeatable_call(false));
    replayed(&seen);
    assert_eq!(scene.executions().len(), 1);
}

#[test]
fn a_poller_of_azure_core_follows_the_one_job_to_its_end() {
    static WORLD: LazyLock<World> = LazyLock::new(|| of_preset("async-job"));
    let scene = Scene::new(&WORLD, &[CutAfter]);
    let place = format!("http://{}/v1/jobs/7", scene.way.addr());
    let told = ("x-test-header", &*format!("location: {place}"));
    WORLD.ledger.steer("/v1/jobs", &[("x-test-status", "202"), told]);
    WORLD.ledger.steer("/v1/jobs/7", &[("x-test-first-status", "202,202,200"), told]);
    let headers = json!({ "Idempotency-Key": "k" });
    let seen = scene.play(AZURE, json!({ "path": "/v1/jobs", "headers": headers, "may_repeat_post": true }));
    replayed(&seen);
    assert_eq!((&seen["place"], &seen["ended"]), (&json!(place), &json!(200)), "{seen}");
    assert_eq!(scene.executions().len(), 1);
    assert_eq!(WORLD.ledger.entries_for("/v1/jobs/7").len(), 3);
}

#[test]
fn stripes_libraries_charge_once_under_the_preset() {
    static WORLD: LazyLock<World> = LazyLock::new(|| of_preset("stripe"));
    WORLD.ledger.steer("/v1/charges", &[("x-test-delay-ms", "1500")]);
    for script in ["python/stripe_charge.py", "node/stripe_charge.js"] {
        // The first call takes longer than the library waits, and the answer of the last is lost.
        let scene = Scene::new(&WORLD, &[]);
        let seen = scene.play(script, json!({ "resource": "charges", "timeout_ms": 1000 }));
        replayed(&seen);
        scene.executed_once(&seen["id"]);
        let scene = Scene::new(&WORLD, &[CutAfter]);
        let seen = scene.play(script, json!({ "resource": "charges" }));
        replayed(&seen);
        scene.executed_once(&seen["id"]);
    }
}

/// An API with a token of its own, which the library fills in, and one without.
#[test]
fn a_call_of_botocore_is_made_once_though_each_try_is_signed_anew() {
    static WORLD: LazyLock<World> = LazyLock::new(|| of_preset("sigv4"));
    let item = json!({ "Put": { "TableName": "t", "Item": { "k": { "S": "v" } } } });
    let with_token = json!({
        "service": "dynamodb", "operation": "transact_write_items", "input": { "TransactItems": [item] },
    });
    let without = json!({
        "service": "kinesis", "operation": "put_record",
        "input": { "StreamName": "s", "Data": "d", "PartitionKey": "p" },
    });
    for (count, call) in [with_token, without].into_iter().enumerate() {
        let scene = Scene::new(&WORLD, &[CutAfter]);
        let seen = scene.play(BOTOCORE, call);
        replayed(&seen);
        assert_eq!((&seen["retries"], scene.way.calls()), (&json!(1), 2), "{seen}");
        let entries = WORLD.ledger.entries();
        assert_eq!(entries.len(), count + 1);
        assert!(entries[count].header("authorization").is_some_and(|shown| shown.starts_with("AWS4-HMAC-SHA256 ")));
    }
}
