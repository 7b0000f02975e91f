//! The attributes of Envoy's spans, by the settings that docs/operations.md shows.
//!
//! Its one rule: the page is read, and what it shows goes into the connection manager as it stands.
//! It does not know which tracer an operator has.

use harness::collector::Span;
use harness::gateway::{hcm, repository, set_endpoint, yaml};
use harness::{Collector, PATIENCE, World, wait_for};
use serde_json::{Value, json};

use crate::check::{executed, refused, replays};
use crate::worlds::start;

#[test]
fn spans_tell_operation_attempt_and_what_became_of_a_request() {
    let collector = Collector::start();
    let addr = collector.addr();
    let knows_values = version() >= (1, 37);
    let world = World::with(json!({}), move |options| {
        options.mutate(move |tree| {
            let mut shown = shown();
            if !knows_values {
                shown["tracing"]["custom_tags"]
                    .as_array_mut()
                    .expect("a list")
                    .retain(|tag| tag.get("value").is_none());
            }
            hcm(tree)["tracing"] = shown["tracing"].take();
            let clusters = tree["static_resources"]["clusters"].as_array_mut().expect("a list");
            let mut collector = clusters[0].clone();
            collector["name"] = json!("collector");
            collector["load_assignment"]["cluster_name"] = json!("collector");
            set_endpoint(&mut collector, addr);
            clusters.push(collector);
            let each = json!({ "tracing.opentelemetry.min_flush_spans": 1 });
            tree["layered_runtime"] = json!({ "layers": [{ "name": "each", "static_layer": each }] });
        })
    });
    let pay = |path: &str| world.post(path).key("k").body("ten");
    let first = pay("/span").send();
    executed(&first, 1);
    replays(&pay("/span").send(), &first);
    refused(&pay("/span").body("twenty").send(), 409, "mismatch", None);
    drop(start(&world, &world.post("/span/gone").key("k"), "ten", "span-gone"));
    world.request("GET", "/span/unmatched").send();

    let operation = |path: &str| world.ledger.entries_for(path).remove(0).operation.expect("it is sent");
    let (paid, gone) = (operation("/span"), operation("/span/gone"));
    let found = |what: &str, is_it: &dyn Fn(&Span) -> bool| {
        let found = wait_for(what, 2 * PATIENCE, || collector.spans().into_iter().find(is_it));
        found.unwrap_or_else(|message| panic!("{message} There are {:#?}", collector.spans()))
    };
    let has = |span: &Span, name: &str, value: &str| span.get(name).is_some_and(|told| told == value);
    let span = found("the execution", &|span| has(span, "idempotency.operation", &paid));
    assert!(has(&span, "idempotency.attempt", "1"), "{span:?}");
    found("the client that hung up", &|span| has(span, "idempotency.operation", &gone));
    found("the request that no rule was about", &|span| {
        span.get("http.url").is_some_and(|url| url.ends_with("/span/unmatched"))
            && !span.keys().any(|name| name.starts_with("idempotency.") && !span[name].is_empty())
    });
    if !knows_values {
        return;
    }
    for (operation, beginning) in [
        (&paid, "executed;stored=?1;attempt=1;ttl=1800"),
        (&paid, "replayed;attempt=1;age=0;ttl="),
        (&paid, "refused;reason=mismatch"),
        (&gone, "executed;attempt=1"),
    ] {
        let end = format!(";operation={}", &operation[..12]);
        let is_it = |status: &String| status.starts_with(beginning) && status.ends_with(&end);
        found(beginning, &|span| span.get("idempotency.status").is_some_and(is_it));
    }
    world.ledger.open("span-gone");
}

/// What the page shows.
fn shown() -> Value {
    let page = std::fs::read_to_string(repository().join("docs/operations.md")).expect("the page is there");
    let (_, rest) = page.split_once("```yaml\ntracing:").expect("it shows the settings");
    yaml(&format!("tracing:{}", rest.split("```").next().unwrap_or_default())).expect("it is YAML")
}

/// The version of the Envoy that is tested.
fn version() -> (u32, u32) {
    let output = std::process::Command::new(harness::gateway::envoy_bin()).arg("--version").output().expect("it runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    // "/path/envoy  version: <commit>/1.40.0/Clean/RELEASE/BoringSSL"
    let version = text.split_once("version: ").and_then(|(_, told)| told.split('/').nth(1)).unwrap_or_default();
    let numbers: Vec<u32> = version.split('.').filter_map(|number| number.parse().ok()).collect();
    assert!(numbers.len() == 3, "{text} tells no version");
    (numbers[0], numbers[1])
}
