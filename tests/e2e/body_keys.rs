//! Keys that stand in the body: form fields, JSON members, several parts at once.
//!
//! Its one rule: a body that cannot be read is no key, and never somebody else's.
//! It does not know who is asking.

use harness::{PATIENCE, Request, Response, SharedWorld, World, wait_until};
use serde_json::{Value, json};

use crate::check::{executed, refused, replays, said};
use crate::worlds::{Shared, rule};
use std::sync::LazyLock;

fn world() -> Shared {
    static WORLD: LazyLock<World> = LazyLock::new(|| World::start(document()));
    Shared::new(&WORLD)
}

fn document() -> Value {
    json!({
        "status_path": "/.well-known/idempotency",
        "rules": [
            rule("/form/", json!({ "key": { "sources": [{ "form": "token" }] } })),
            rule("/form-required/", json!({ "key": { "sources": [{ "form": "token" }], "required": true } })),
            rule("/json/", json!({ "key": { "sources": [{ "json": "/order/id" }] } })),
            rule("/json-required/", json!({ "key": { "sources": [{ "json": "/order/id" }], "required": true } })),
            rule("/pair/", json!({ "key": { "sources": [{ "json": "/order/id" }, { "json": "/sku" }] } })),
            rule("/event/", json!({ "key": { "sources": [{ "header": "ce-source" }, { "header": "ce-id" }] } })),
            rule("/batch/", json!({ "key": { "sources": [{ "json": "/-/source" }, { "json": "/-/id" }] } })),
            rule("/any/", json!({
                "key": { "sources": [{ "any": [
                    { "header": "idempotency-key" }, { "query": "k" }, { "cookie": "k" }, { "form": "k" }, { "json": "/k" }
                ] }] },
                "scope": { "anonymous": "share" },
            })),
            rule("/small/", json!({ "key": { "sources": [{ "json": "/order/id" }] }, "max_request_bytes": 64 })),
            rule("/small-passes/", json!({
                "key": { "sources": [{ "json": "/order/id" }] }, "max_request_bytes": 64, "on_too_large": "bypass",
            })),
            rule("/by-body-caller/", json!({ "scope": { "caller": [{ "json": "/account" }] } })),
            rule("/observe/", json!({ "mode": "observe", "key": { "sources": [{ "json": "/order/id" }] } })),
        ],
    })
}

fn form(world: &World, path: &str, body: &str) -> Request {
    world.post(path).header("content-type", "application/x-www-form-urlencoded").body(body)
}

fn json_body(world: &World, path: &str, body: impl AsRef<[u8]>) -> Request {
    world.post(path).header("content-type", "application/json").body(body)
}

fn multipart(world: &World, path: &str, boundary: &str, fields: &[(&str, &str)]) -> Request {
    let mut body = String::new();
    for (name, value) in fields {
        body += &format!("--{boundary}\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n");
    }
    body += &format!("--{boundary}--\r\n");
    world.post(path).header("content-type", format!("multipart/form-data; boundary={boundary}")).body(body)
}

#[test]
fn a_hidden_field_of_a_form_is_a_key() {
    let world = world();
    let pay = |body: &str| form(&world, "/form/pay", body).send();
    let first = pay("amount=10&token=t%2B1+x&note=");
    executed(&first, 1);
    replays(&pay("amount=10&token=t%2B1+x&note="), &first);
    refused(&pay("amount=11&token=t%2B1+x&note="), 409, "mismatch", None);
    executed(&pay("amount=10&token=t%2B2"), 1);
    let entries = world.ledger.entries_for("/form/pay");
    assert_eq!(entries.len(), 2);
    // The service gets a key of the gateway's own, the same for every attempt and another for every operation.
    let keys: Vec<_> = entries.iter().map(|entry| entry.key.clone().expect("a key goes upstream")).collect();
    assert!(keys.iter().all(|key| key.len() == 36) && keys[0] != keys[1], "{keys:?}");
}

#[test]
fn a_field_of_a_multipart_form_is_a_key_and_its_boundary_does_not_count() {
    let world = world();
    let pay = |boundary: &str, fields: &[(&str, &str)]| multipart(&world, "/form/upload", boundary, fields).send();
    let fields = [("file", "--not a boundary\r\n--x"), ("token", "t 1"), ("amount", "10")];
    let first = pay("----WebKitFormBoundaryA", &fields);
    executed(&first, 1);
    replays(&pay("another", &fields), &first);
    replays(&pay("\"quoted boundary\"".trim_matches('"').replace(' ', "_").as_str(), &fields), &first);
    refused(&pay("another", &[("token", "t 1"), ("amount", "11")]), 409, "mismatch", None);
    assert_eq!(world.ledger.entries_for("/form/upload").len(), 1);
}

#[test]
fn a_form_without_the_field_has_no_key_and_one_with_two_has_none_that_is_meant() {
    let world = world();
    assert_eq!(said(&form(&world, "/form/none", "amount=10").send()), "bypassed;reason=no-key");
    assert_eq!(said(&form(&world, "/form/none", "").send()), "bypassed;reason=no-key");
    refused(&form(&world, "/form/none", "token=a&token=a").send(), 400, "key-invalid", None);
    refused(&form(&world, "/form/none", "token=").send(), 400, "key-invalid", None);
    refused(&form(&world, "/form-required/none", "amount=10").send(), 400, "key-missing", None);
    // A body of another type has no form in it.
    assert_eq!(said(&json_body(&world, "/form/none", "token=a").send()), "bypassed;reason=no-key");
    assert_eq!(world.ledger.entries_for("/form/none").len(), 3);
    assert_eq!(world.ledger.entries_for("/form-required/none").len(), 0);
}

#[test]
fn bytes_that_are_no_text_are_a_key_like_any_other() {
    let world = world();
    let post = |body: &[u8]| form(&world, "/form/bytes", "").body(body).send();
    let first = post(b"token=%FF%00/%25?%23..%0D%0A'\"");
    executed(&first, 1);
    replays(&post(b"token=%FF%00/%25?%23..%0D%0A'\""), &first);
    executed(&post(b"token=\xff"), 1);
    executed(&post(b"token=\xfe"), 1);
    executed(&post("token=\u{fffd}".as_bytes()), 1);
    assert_eq!(world.ledger.entries_for("/form/bytes").len(), 4);
}

#[test]
fn a_multipart_body_that_is_cut_off_has_no_key_that_could_be_read() {
    let world = world();
    let cut = |body: &str| {
        world.post("/form/cut").header("content-type", "multipart/form-data; boundary=b").body(body).send()
    };
    let part = "--b\r\nContent-Disposition: form-data; name=\"token\"\r\n\r\nt\r\n";
    for body in ["--b", "--b\r\n", part, "--b\r\nno head", &format!("{part}--b"), "token=t"] {
        assert_eq!(said(&cut(body)), "bypassed;reason=key-unreadable", "{body:?}");
        let required = world.post("/form-required/cut").header("content-type", "multipart/form-data; boundary=b");
        refused(&required.body(body).send(), 400, "key-missing", None);
    }
    executed(&cut(&format!("{part}--b--")), 1);
    let without = world.post("/form/cut").header("content-type", "multipart/form-data").body(part).send();
    assert_eq!(said(&without), "bypassed;reason=key-unreadable");
    // Files are not fields.
    let file = "--b\r\nContent-Disposition: form-data; name=\"token\"; filename=\"t\"\r\n\r\nt\r\n--b--\r\n";
    assert_eq!(said(&cut(file)), "bypassed;reason=no-key");
}

#[test]
fn a_member_of_a_json_body_is_a_key() {
    let world = world();
    let pay = |body: &str| json_body(&world, "/json/pay", body).send();
    let first = pay(r#"{"order": {"id": "o-1"}, "amount": 10}"#);
    executed(&first, 1);
    replays(&pay(r#"{"order": {"id": "o-1"}, "amount": 10}"#), &first);
    refused(&pay(r#"{"order": {"id": "o-1"}, "amount": 11}"#), 409, "mismatch", None);
    executed(&pay(r#"{"order": {"id": 18446744073709551615}}"#), 1);
    executed(&pay(r#"{"order": {"id": "\u0000/%?#..\r\n'\"; DROP"}}"#), 1);
    assert_eq!(said(&pay(r#"{"order": {"id": null}}"#)), "bypassed;reason=no-key");
    assert_eq!(said(&pay(r#"{"order": []}"#)), "bypassed;reason=no-key");
    for no_key in [
        r#"{"order": {"id": ""}}"#,
        r#"{"order": {"id": [1]}}"#,
        r#"{"order": {"id": {}}}"#,
        r#"{"order": {"id": true}}"#,
    ] {
        refused(&pay(no_key), 400, "key-invalid", None);
    }
    // A number whose digits are not all known is no key: two different ones could meet.
    for number in ["18446744073709551616", "-9223372036854775809", "1.5", "1e3", "123456789012345678901234567890"] {
        refused(&pay(&format!(r#"{{"order": {{"id": {number}}}}}"#)), 400, "key-invalid", None);
    }
}

#[test]
fn a_body_that_is_not_json_has_no_key_that_could_be_read() {
    let world = world();
    let deep = "[".repeat(10_000) + &"]".repeat(10_000);
    let bodies: [&[u8]; 8] = [
        b"{",
        b"order",
        b"{\"order\": {\"id\": \"a\"}} x",
        b"{\"order\": {\"id\": \"a\", \"id\": \"b\"}}",
        b"{\"order\": {\"id\": \"\xff\"}}",
        b"{\"order\": {\"id\": \"\\ud800\"}}",
        b"{\"order\": {\"id\": \"a\"}, \"n\": 1e999}",
        deep.as_bytes(),
    ];
    for body in bodies {
        let shown = String::from_utf8_lossy(&body[..body.len().min(40)]);
        let answer = json_body(&world, "/json/broken", body).send();
        assert_eq!((answer.status, said(&answer)), (201, "bypassed;reason=key-unreadable"), "{shown}");
        refused(&json_body(&world, "/json-required/broken", body).send(), 400, "key-missing", None);
    }
    let within = format!(r#"{{"order": {{"id": "deep"}}, "x": {}1{}}}"#, "[".repeat(120), "]".repeat(120));
    executed(&json_body(&world, "/json/broken", within).send(), 1);
    assert!(world.gateway.is_running());
    assert!(world.gateway.counted("bypassed.key-unreadable") > 0);
    assert_eq!(world.ledger.entries_for("/json-required/broken").len(), 0);
}

#[test]
fn two_parts_make_one_key_and_their_places_count() {
    let world = world();
    let buy = |order: &str, sku: &str| {
        json_body(&world, "/pair/buy", json!({ "order": { "id": order }, "sku": sku }).to_string()).send()
    };
    let first = buy("ab", "c");
    executed(&first, 1);
    executed(&buy("a", "bc"), 1);
    executed(&buy("c", "ab"), 1);
    replays(&buy("ab", "c"), &first);
    let without = json_body(&world, "/pair/buy", r#"{"order": {"id": "ab"}}"#).send();
    assert_eq!(said(&without), "bypassed;reason=no-key");
}

#[test]
fn an_events_source_and_id_are_its_key() {
    let world = world();
    let event = |source: &str, id: &str| {
        world.post("/event/in").header("ce-source", source).header("ce-id", id).body("happened").send()
    };
    let first = event("/orders", "1");
    executed(&first, 1);
    replays(&event("/orders", "1"), &first);
    executed(&event("/orders", "2"), 1);
    executed(&event("/users", "1"), 1);
    assert_eq!(said(&world.post("/event/in").header("ce-id", "1").body("x").send()), "bypassed;reason=no-key");
}

#[test]
fn a_batch_is_one_operation_by_the_ids_of_its_elements_in_order() {
    let world = world();
    let event = |source: &str, id: Value| json!({ "source": source, "id": id, "data": "happened" });
    let deliver = |events: &[Value]| json_body(&world, "/batch/in", json!(events).to_string()).send();
    let (one, two) = (event("/shop", json!("a")), event("/shop", json!(7)));
    let first = deliver(&[one.clone(), two.clone()]);
    executed(&first, 1);
    replays(&deliver(&[one.clone(), two.clone()]), &first);
    executed(&deliver(&[two.clone(), one.clone()]), 1);
    executed(&deliver(std::slice::from_ref(&one)), 1);
    executed(&deliver(&[event("/bank", json!("a")), two]), 1);
    // The ids are those of the first, and something else has happened.
    let changed = json!({ "source": "/shop", "id": 7, "data": "something else" });
    refused(&deliver(&[one, changed]), 409, "mismatch", None);
    assert_eq!(said(&deliver(&[])), "bypassed;reason=no-key");
    let unfinished = deliver(&[event("/shop", json!("a")), json!({ "source": "/shop" })]);
    assert_eq!(said(&unfinished), "bypassed;reason=no-key");
    refused(&deliver(&[event("/shop", json!(true))]), 400, "key-invalid", None);
    let look = "/.well-known/idempotency?method=POST&path=/batch/in";
    let keys = "key=%5B%22/shop%22,%22/shop%22%5D&key=%5B%22a%22,%227%22%5D";
    let seen = world.request("GET", &format!("{look}&{keys}")).send();
    assert_eq!((seen.status, &seen.json()["state"]), (200, &json!("completed")));
}

#[test]
fn the_first_place_that_has_a_key_is_taken() {
    let world = world();
    let post = |path: &str| world.post(path).header("content-type", "application/x-www-form-urlencoded").body("k=form");
    let key_of = |path: &str| world.ledger.entries_for(path).pop().and_then(|entry| entry.key);
    executed(&post("/any/pay?k=query").header("cookie", "k=cookie").header("idempotency-key", "header").send(), 1);
    assert_eq!(key_of("/any/pay?k=query").as_deref(), Some("header"), "the client's own header goes up as it came");
    executed(&post("/any/pay").header("cookie", "k=cookie").send(), 1);
    assert_eq!(key_of("/any/pay").map(|key| key.len()), Some(36), "any other key is the gateway's own");
    executed(&post("/any/pay").send(), 1);
    executed(&json_body(&world, "/any/pay", r#"{"k": "json"}"#).send(), 1);
    // The same key from another place is the same key.
    let first = json_body(&world, "/any/same", r#"{"k": "same"}"#).send();
    executed(&first, 1);
    let again = json_body(&world, "/any/same", r#"{"k": "same"}"#).header("cookie", "k=same").send();
    replays(&again, &first);
    // What cannot be read is passed over for what can, and said where nothing can.
    assert_eq!(said(&json_body(&world, "/any/none", "{").send()), "bypassed;reason=key-unreadable");
    assert_eq!(said(&json_body(&world, "/any/none", "{}").send()), "bypassed;reason=no-key");
}

#[test]
fn a_body_over_the_limit_is_not_searched_for_a_key() {
    let world = world();
    let body = format!(r#"{{"order": {{"id": "o"}}, "x": "{}"}}"#, "x".repeat(64));
    refused(&json_body(&world, "/small/pay", &body).send(), 413, "body-too-large", None);
    let chunked = world.post("/small/pay").chunked([&body[..40], &body[40..]]).send();
    refused(&chunked, 413, "body-too-large", None);
    assert_eq!(said(&json_body(&world, "/small-passes/pay", &body).send()), "bypassed;reason=too-large");
    // Nor is one that would have none let through.
    let keyless = format!(r#"{{"x": "{}"}}"#, "x".repeat(64));
    refused(&json_body(&world, "/small/pay", &keyless).send(), 413, "body-too-large", None);
    assert_eq!(said(&json_body(&world, "/small/keyless", "{}").send()), "bypassed;reason=no-key");
    assert_eq!(world.ledger.entries_for("/small/pay").len(), 0);
    assert_eq!(world.ledger.entries_for("/small-passes/pay")[0].body_len, body.len());
}

#[test]
fn a_body_that_comes_in_pieces_is_read_as_a_whole_and_passed_on_as_it_was() {
    let world = world();
    let body = json!({ "order": { "id": "pieces" }, "x": "y".repeat(100_000) }).to_string();
    let pieces = || body.as_bytes().chunks(7_001).map(<[u8]>::to_vec).collect::<Vec<_>>();
    let first = world.post("/json/pieces").chunked(pieces()).send();
    executed(&first, 1);
    replays(&world.post("/json/pieces").chunked(pieces()).send(), &first);
    replays(&world.post("/json/pieces").body(&body).send_h2(), &first);
    let entry = world.ledger.entries_for("/json/pieces").remove(0);
    assert_eq!((entry.body_len, entry.body_sha256), (body.len(), harness::ledger::sha256_hex(body.as_bytes())));
}

#[test]
fn a_caller_may_be_told_by_the_body() {
    let world = world();
    let pay = |account: &Value| {
        let body = json!({ "account": account }).to_string();
        json_body(&world, "/by-body-caller/pay", body).key("k").send()
    };
    let first = pay(&json!("a"));
    executed(&first, 1);
    replays(&pay(&json!("a")), &first);
    executed(&pay(&json!("b")), 1);
    // A list is no account.
    assert_eq!(said(&pay(&json!(["a"]))), "bypassed;reason=no-caller");
    assert_eq!(world.ledger.entries_for("/by-body-caller/pay").len(), 3);
}

#[test]
fn a_trial_reads_bodies_and_holds_none() {
    let world = world();
    let pay = |body: &str| json_body(&world, "/observe/pay", body).send();
    for outcome in ["executed", "replayed"] {
        let answer = pay(r#"{"order": {"id": "o"}}"#);
        assert_eq!(said(&answer), format!("bypassed;outcome={outcome};reason=observe"));
    }
    assert_eq!(world.ledger.entries_for("/observe/pay").len(), 2);
    wait_until("the replay is counted", PATIENCE, || world.gateway.counted("observed_requests.replayed") == 1);
}

#[test]
fn gateways_on_one_redis_read_the_same_key_from_a_body() {
    let world = SharedWorld::start(document());
    let body = r#"{"order": {"id": "shared"}, "amount": 10}"#;
    let hostile = "\r\n*1\r\n$8\r\nFLUSHALL\r\n/%2F'\"";
    let pay = |path: &str, body: &str| world.post(path).header("content-type", "application/json").body(body);
    let first = pay("/json/pay", body).send();
    assert_eq!(said(&first), "executed;stored=?1;attempt=1;ttl=86400");
    let same = |again: &Response, first: &Response| {
        assert!(said(again).starts_with("replayed;attempt=1;"), "{}", said(again));
        assert_eq!(again.body, first.body);
    };
    same(&pay("/json/pay", body).to(world.other()).send(), &first);
    let odd = json!({ "order": { "id": hostile } }).to_string();
    let second = pay("/json/pay", &odd).send();
    assert_eq!(said(&second), "executed;stored=?1;attempt=1;ttl=86400");
    same(&pay("/json/pay", &odd).to(world.other()).send(), &second);
    same(&pay("/json/pay", body).send(), &first);
    assert_eq!(world.ledger.entries_for("/json/pay").len(), 2);
}
