//! Whose an answer's idempotency fields are, where this filter is not the only one that writes them.
//!
//! Its one rule: where this filter does nothing for a request, what a service says of its own keys stays, and ours are
//! only added where there are none; where it has claimed the request, they are ours alone.
//! It does not know what else an answer has.

use std::sync::LazyLock;

use harness::gateway::{FILTER, hcm};
use harness::{Options, Request, Response, World};
use serde_json::{Value, json};

use crate::check::{executed, parameter, refused, replays, said, shown};
use crate::worlds::{Shared, rule, start};

/// What a service with keys of its own says.
const THEIRS: [(&str, &str); 3] = [
    ("idempotency-status", "executed;stored=?1;attempt=7"),
    ("idempotent-replayed", "true"),
    ("idempotency-key", "theirs"),
];

fn world() -> Shared {
    static WORLD: LazyLock<World> = LazyLock::new(|| {
        World::start(json!({ "rules": [
            rule("/inject/", json!({ "mode": "inject", "key": { "inject": { "kind": "uuid" } } })),
            rule("/large/", json!({ "max_request_bytes": 2, "on_too_large": "bypass" })),
            rule("/observe/", json!({ "mode": "observe" })),
            rule("/uuid/", json!({ "key": { "inject": { "kind": "uuid" } } })),
            rule("/", json!({})),
        ] }))
    });
    Shared::new(&WORLD)
}

/// The service says all that it can say of a key.
fn with_theirs(request: Request) -> Request {
    THEIRS.iter().fold(request, |request, (name, value)| request.header("x-test-header", format!("{name}: {value}")))
}

fn theirs(response: &Response) -> [Vec<&[u8]>; 3] {
    THEIRS.map(|(name, _)| response.headers(name))
}

#[test]
fn what_a_service_says_of_its_own_keys_stays_where_the_filter_does_nothing() {
    let world = world();
    let unprotected = [
        world.post("/inject/theirs").body("ten"),
        world.post("/inject/with-a-key").key("k").body("ten"),
        world.post("/large/theirs").key("k").body("ten"),
        world.post("/no-key").body("ten"),
        world.post("/no-caller").anonymous().key("k").body("ten"),
    ];
    for request in unprotected {
        let answer = with_theirs(request.clone()).send();
        assert_eq!(theirs(&answer), THEIRS.map(|(_, value)| vec![value.as_bytes()]), "{}", shown(&answer));
        world.gateway.wait_for_access_log(&format!("{} 201 via_upstream", request.path()));
        // Ours are there where the service says nothing.
        let plain = request.send();
        assert!(said(&plain).starts_with("bypassed"), "{}", shown(&plain));
    }
    let line = world.gateway.wait_for_access_log("/no-key 201");
    assert!(line.contains(&format!("idempotency=[{}]", THEIRS[0].1)), "the log has what the client got: {line}");
}

#[test]
fn a_trial_changes_nothing_but_the_status() {
    let answer = with_theirs(world().post("/observe/theirs").key("k").body("ten")).send();
    assert!(said(&answer).starts_with("bypassed;"), "{}", shown(&answer));
    assert_eq!(theirs(&answer)[1..], [vec![b"true".as_slice()], vec![b"theirs"]], "{}", shown(&answer));
}

#[test]
fn what_a_service_says_of_its_own_keys_goes_where_the_filter_protects() {
    let world = world();
    let answer = with_theirs(world.post("/protected").key("k").body("ten")).send();
    executed(&answer, 1);
    assert_eq!(theirs(&answer)[1..], [vec![] as Vec<&[u8]>, vec![]], "{}", shown(&answer));
    let injected = with_theirs(world.post("/uuid/protected").body("ten")).send();
    assert!(said(&injected).starts_with("executed;stored=?1;attempt=1;"), "{}", shown(&injected));
    assert_eq!(injected.headers("idempotency-key").len(), 1);
    assert_ne!(injected.header("idempotency-key"), Some("theirs"));
}

/// The filter twice in one chain, each with records of its own; the first has this document.
fn twice(first: Value) -> World {
    World::with(json!({ "status_path": "/look-up" }), |options: Options| {
        options.mutate(move |tree| {
            let filters = hcm(tree)["http_filters"].as_array_mut().unwrap();
            let mut outer = filters.iter().find(|filter| filter["name"] == FILTER).unwrap().clone();
            outer["name"] = json!("outer");
            let config = &mut outer["typed_config"]["config"];
            config["name"] = json!("outer");
            config["configuration"]["value"] = json!(first.to_string());
            filters.insert(0, outer);
        })
    })
}

#[test]
fn behind_a_filter_that_only_makes_keys_the_verdict_of_the_one_that_protects_survives() {
    let world = twice(json!({ "policy": { "mode": "inject", "key": { "inject": { "kind": "uuid" } } } }));
    let first = world.post("/twice").body("ten").send();
    executed(&first, 1);
    let key = first.header("idempotency-key").expect("the first filter gives its key back").to_owned();
    assert_eq!(first.headers("idempotency-key").len(), 1, "{}", shown(&first));
    assert_eq!(world.ledger.entries_for("/twice")[0].key.as_deref(), Some(key.as_str()));

    let again = world.post("/twice").key(&key).body("ten");
    let replayed = again.send();
    assert!(said(&replayed).starts_with("replayed;attempt=1;"), "{}", shown(&replayed));
    assert_eq!((replayed.status, &replayed.body), (201, &first.body));
    refused(&again.body("twenty").send(), 409, "mismatch", None);
    let running = world.post("/twice/running").key("k");
    let mut connection = start(&world, &running, "ten", "go");
    refused(&running.clone().body("ten").send(), 429, "in-flight", Some("1"));
    world.ledger.open("go");
    executed(&connection.response(), 1);
    let look = world.request("GET", "/look-up?method=POST&path=/twice/running").key("k").send();
    assert_eq!(look.json()["state"], json!("completed"), "{}", shown(&look));
    let line = world.gateway.wait_for_access_log("/twice 201 via_upstream");
    assert!(line.contains("idempotency=[executed;stored=?1;attempt=1;ttl=1800]"), "{line}");
}

#[test]
fn in_front_of_a_filter_that_is_off_or_does_nothing_the_one_that_protects_has_the_say() {
    for (inner, name) in [(json!({ "mode": "off" }), "off"), (json!({ "mode": "inject" }), "inject")] {
        let world = World::with(json!({ "policy": inner }), |options: Options| {
            options.mutate(|tree| {
                let filters = hcm(tree)["http_filters"].as_array_mut().unwrap();
                let mut outer = filters.iter().find(|filter| filter["name"] == FILTER).unwrap().clone();
                outer["name"] = json!("outer");
                outer["typed_config"]["config"]["name"] = json!("outer");
                outer["typed_config"]["config"]["configuration"]["value"] = json!("{}");
                filters.insert(0, outer);
            })
        });
        let pay = world.post(&format!("/inside/{name}")).key("k").body("ten");
        let first = pay.send();
        executed(&first, 1);
        replays(&pay.send(), &first);
        assert!(parameter(&first, "attempt") == Some(1) && world.ledger.entries().len() == 1, "{name}");
    }
}
