//! What makes two requests the same, where that is not every byte.
//!
//! Its one rule: whatever could be another order must never be taken for the same.
//! It does not know keys.

use std::sync::LazyLock;

use harness::{SharedWorld, World};
use serde_json::{Value, json};

use crate::check::{executed, refused, replays, said};
use crate::worlds::{Shared, rule};

fn world() -> Shared {
    static WORLD: LazyLock<World> = LazyLock::new(|| World::start(document()));
    Shared::new(&WORLD)
}

fn document() -> Value {
    json!({
        "rules": [
            rule("/json/", json!({ "fingerprint": { "body": "json" } })),
            rule("/ignore/", json!({
                "fingerprint": { "body": "json", "json_ignore": ["/sent_at", "/meta/trace", "/items/0/at"] },
            })),
            rule("/ignore-item/", json!({ "fingerprint": { "body": "json", "json_ignore": ["/items/0"] } })),
            rule("/separate/", json!({ "on_mismatch": "separate" })),
            rule("/headers/", json!({ "fingerprint": { "headers": ["x-version", "accept"] } })),
        ],
    })
}

#[test]
fn order_white_space_and_spelling_of_json_do_not_count() {
    let world = world();
    let pay = |body: &str| world.post("/json/pay").key("k").body(body).send();
    let first = pay(r#"{"amount": 10.50, "to": ["é", {"b": 1, "a": 2e3}], "€": null}"#);
    executed(&first, 1);
    for same in [
        r#"{"to":["é",{"a":2000,"b":1.0}],"€":null,"amount":10.5}"#,
        "\r\n{ \"\\u20AC\" : null , \"to\": [\"\\u00e9\", {\"a\": 0.2E+4, \"b\": 1}], \"amount\": 105e-1 }\t",
    ] {
        replays(&pay(same), &first);
    }
    for other in [
        r#"{"amount": 10.51, "to": ["é", {"b": 1, "a": 2e3}], "€": null}"#,
        r#"{"amount": 10.50, "to": [{"b": 1, "a": 2e3}, "é"], "€": null}"#,
        r#"{"amount": 10.50, "to": ["é", {"b": 1, "a": 2e3}], "€": false}"#,
        r#"{"amount": 10.50, "to": ["é", {"b": 1, "a": 2e3}]}"#,
        r#"{"amount": "10.50", "to": ["é", {"b": 1, "a": 2e3}], "€": null}"#,
    ] {
        refused(&pay(other), 409, "mismatch", None);
    }
    assert_eq!(world.ledger.entries_for("/json/pay").len(), 1);
}

#[test]
fn json_that_readers_do_not_agree_on_counts_by_its_bytes() {
    let world = world();
    let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
    for (index, (sent, respelled)) in [
        (r#"{"a": 1, "a": 2}"#, r#"{"a": 2}"#),
        (r#"{"a": 1, "a": 2}"#, r#"{"a": 2, "a": 1}"#),
        ("[9007199254740993]", "[9007199254740992]"),
        ("[0.1000000000000000055]", "[0.1]"),
        ("[1e400]", "[1e401]"),
        ("[1", "[1 "),
        ("plain text", " plain text"),
        (&deep, &format!(" {deep}")),
    ]
    .into_iter()
    .enumerate()
    {
        let pay = |body: &str| world.post(&format!("/json/bytes-{index}")).key("k").body(body).send();
        let first = pay(sent);
        executed(&first, 1);
        replays(&pay(sent), &first);
        refused(&pay(respelled), 409, "mismatch", None);
    }
}

#[test]
fn what_is_ignored_may_change_be_missing_or_come() {
    let world = world();
    let pay = |body: &str| world.post("/ignore/pay").key("k").body(body).send();
    let first =
        pay(r#"{"amount": 1, "sent_at": "12:00", "meta": {"trace": "a", "v": 1}, "items": [{"at": 1, "n": 1}]}"#);
    executed(&first, 1);
    replays(&pay(r#"{"amount": 1, "sent_at": 5, "meta": {"v": 1}, "items": [{"at": [2], "n": 1}]}"#), &first);
    replays(&pay(r#"{"amount": 1, "meta": {"v": 1, "trace": {}}, "items": [{"n": 1}]}"#), &first);
    for other in [
        r#"{"amount": 2, "meta": {"v": 1}, "items": [{"n": 1}]}"#,
        r#"{"amount": 1, "meta": {"v": 2}, "items": [{"n": 1}]}"#,
        r#"{"amount": 1, "meta": {"v": 1}, "items": [{"n": 1}, {}]}"#,
        r#"{"amount": 1, "items": [{"n": 1}]}"#,
    ] {
        refused(&pay(other), 409, "mismatch", None);
    }
}

#[test]
fn a_list_keeps_its_length_and_what_is_ignored_in_it_counts_as_null() {
    let world = world();
    let pay = |body: &str| world.post("/ignore-item/pay").key("k").body(body).send();
    let first = pay(r#"{"items": [1, 2]}"#);
    executed(&first, 1);
    for same in [r#"{"items": [{"a": 3}, 2]}"#, r#"{"items": [null, 2]}"#] {
        replays(&pay(same), &first);
    }
    for other in [r#"{"items": [2]}"#, r#"{"items": [1, 2, 2]}"#, r#"{"items": [1, 3]}"#] {
        refused(&pay(other), 409, "mismatch", None);
    }
}

#[test]
fn chosen_headers_count_and_no_others() {
    let world = world();
    let pay = |version: &str, accept: &str, kind: &str| {
        let request = world.post("/headers/pay").key("k").header("x-version", version).header("accept", accept);
        request.header("content-type", kind).body("ten").send()
    };
    let first = pay("1", "a/b", "text/plain");
    executed(&first, 1);
    replays(&pay("1", "a/b", "application/json"), &first);
    refused(&pay("2", "a/b", "text/plain"), 409, "mismatch", None);
    refused(&pay("1", "a/c", "text/plain"), 409, "mismatch", None);
}

#[test]
fn one_key_with_two_payloads_is_two_operations_where_the_operator_says_so() {
    let world = world();
    let pay = |body: &str| world.post("/separate/pay").key("k").body(body).send();
    let (ten, eleven) = (pay("ten"), pay("eleven"));
    executed(&ten, 1);
    executed(&eleven, 1);
    replays(&pay("ten"), &ten);
    replays(&pay("eleven"), &eleven);
    let entries = world.ledger.entries_for("/separate/pay");
    assert_eq!(entries.len(), 2);
    assert_ne!(entries[0].operation, entries[1].operation);
    assert_eq!((entries[0].key.as_deref(), entries[1].key.as_deref()), (Some("k"), Some("k")));
}

#[test]
fn gateways_on_one_redis_agree_on_what_is_the_same() {
    let world = SharedWorld::start(document());
    let pay = |path: &str, body: &str| world.post(path).key("k").body(body);
    let first = pay("/json/pay", r#"{"a": 1, "b": 2.50}"#).send();
    assert_eq!(said(&first), "executed;stored=?1;attempt=1;ttl=86400");
    let again = pay("/json/pay", r#"{"b":2.5,"a":1}"#).to(world.other()).send();
    assert!(said(&again).starts_with("replayed;attempt=1;"), "{}", said(&again));
    refused(&pay("/json/pay", r#"{"b":2.5,"a":2}"#).to(world.other()).send(), 409, "mismatch", None);
    let separate = pay("/separate/pay", "ten").send();
    assert_eq!(said(&pay("/separate/pay", "eleven").to(world.other()).send()), said(&separate));
}
