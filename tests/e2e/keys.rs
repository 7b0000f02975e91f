//! What a client may send as a key, and where it may stand.
//!
//! Its one rule: what is no key never reaches the service, and never uses up a key that is one.
//! It does not know whose key it is.

use harness::{Request, World};

use crate::check::{executed, refused, replays, said};
use crate::worlds::{plain, rules};

#[test]
fn quoted_and_bare_are_the_same_key() {
    let world = plain();
    let pay = |key: &str| world.post("/keys/same").key(key).body("ten");
    let first = pay("\"abc\"").send();
    executed(&first, 1);
    for key in ["abc", "\"abc\";v=1", "  abc\t", "\"abc\"; a;b=\"c\""] {
        replays(&pay(key).send(), &first);
    }
    executed(&pay("ABC").send(), 1);
    executed(&pay("\"abc \"").send(), 1);
    assert_eq!(world.ledger.entries_for("/keys/same").len(), 3);
}

#[test]
fn every_character_a_key_may_have_is_taken() {
    let world = plain();
    for (index, key) in
        ["8e03978e-40d5-43dd-bc93-6894a57f9324", "!#$%&'()*+-./:<=>?@[]^_`{|}~", r#""a\"b\\c, d;e""#, "0"]
            .iter()
            .enumerate()
    {
        let pay = world.post(&format!("/keys/characters-{index}")).key(key).body("ten");
        let first = pay.send();
        executed(&first, 1);
        replays(&pay.send(), &first);
    }
}

#[test]
fn what_is_no_key_is_refused_and_never_executed() {
    let world = plain();
    let long = "k".repeat(256);
    let long_quoted = format!("\"{}\"", "k".repeat(256));
    let bad: [&[u8]; 17] = [
        b"",
        b"\"\"",
        b"a, b",
        b"a,b",
        b"\"a\", \"b\"",
        b"a;b=1",
        b"a b",
        b"a\tb",
        b"a\"b",
        b"a\\b",
        b"\"a",
        b"\"a\\n\"",
        b"\"a\" b",
        b"\"a\xc3\xa4\"",
        b"\xc3\xa4",
        long.as_bytes(),
        long_quoted.as_bytes(),
    ];
    for key in bad {
        let answer = world.post("/keys/bad").key(key).body("ten").send();
        let shown = String::from_utf8_lossy(key);
        assert_eq!((answer.status, said(&answer)), (400, "refused;reason=key-invalid"), "{shown:?}");
        refused(&answer, 400, "key-invalid", None);
    }
    assert_eq!(world.ledger.entries_for("/keys/bad").len(), 0);
}

#[test]
fn a_key_may_have_255_bytes() {
    let world = plain();
    for (name, key) in [("bare", "k".repeat(255)), ("quoted", format!("\"{}\"", "k".repeat(255)))] {
        executed(&world.post(&format!("/keys/long-{name}")).key(key).body("ten").send(), 1);
    }
}

#[test]
fn two_key_lines_are_no_key_even_when_they_agree() {
    let world = plain();
    let pay = world.post("/keys/two").body("ten");
    for keys in [["a", "b"], ["a", "a"]] {
        refused(&pay.clone().key(keys[0]).key(keys[1]).send(), 400, "key-invalid", None);
    }
    assert_eq!(world.ledger.entries_for("/keys/two").len(), 0);
}

#[test]
fn control_characters_never_reach_the_service() {
    let world = plain();
    for key in [b"a\x01b".as_slice(), b"\x7f", b"\"\x08\""] {
        // Envoy may refuse them by itself, before any filter.
        assert_eq!(world.post("/keys/control").key(key).body("ten").send().status, 400);
    }
    assert_eq!(world.ledger.entries_for("/keys/control").len(), 0);
}

#[test]
fn refusing_a_key_uses_nothing_up() {
    let world = plain();
    let pay = world.post("/keys/not-stored");
    refused(&pay.clone().key("a, b").body("ten").send(), 400, "key-invalid", None);
    refused(&pay.clone().key("a, b").body("twenty").send(), 400, "key-invalid", None);
    let first = pay.clone().key("a").body("ten").send();
    executed(&first, 1);
    replays(&pay.key("a").body("ten").send(), &first);
}

#[test]
fn a_key_can_be_required() {
    let world = rules();
    let pay = world.post("/required/pay").body("ten");
    let missing = pay.send();
    refused(&missing, 400, "key-missing", None);
    assert_eq!(said(&missing), "refused;reason=key-missing");
    assert_eq!(missing.json()["type"], "https://docs.example.com/problems/key-missing");
    assert_eq!(world.ledger.entries_for("/required/pay").len(), 0);

    let keyed = pay.key("k");
    let first = keyed.send();
    executed(&first, 1);
    replays(&keyed.send(), &first);
}

#[test]
fn a_key_can_stand_in_the_query() {
    let world = rules();
    let pay = |query: &str| world.post(&format!("/by-query/pay{query}")).body("ten");
    from_elsewhere(&world, pay("?op=a%2Fb"));
    // The client's own header is no key here, and does not go upstream in the place of ours.
    let with_header = pay("?op=c").key("client");
    executed(&with_header.send(), 1);
    let entry = world.ledger.entries_for("/by-query/pay?op=c").remove(0);
    assert!(is_uuid(entry.key.as_deref()), "{entry:?}");
    assert_eq!(said(&pay("").send()), "bypassed;reason=no-key");
    refused(&pay("?op=").send(), 400, "key-invalid", None);
    refused(&pay("?op=a&op=b").send(), 400, "key-invalid", None);
}

#[test]
fn a_key_can_stand_in_a_cookie() {
    let world = rules();
    let pay =
        |cookie: &str| world.post("/by-cookie/pay").header("authorization", "a").header("cookie", cookie).body("ten");
    from_elsewhere(&world, pay("a=1; op=abc; b=2"));
    assert_eq!(said(&pay("a=1").send()), "bypassed;reason=no-key");
    refused(&pay("op=a; op=b").send(), 400, "key-invalid", None);
}

#[test]
fn a_key_can_stand_in_a_header_of_another_name() {
    let world = rules();
    let pay = |key: &str| world.post("/by-own-header/pay").header("x-request-key", key).body("ten");
    from_elsewhere(&world, pay("\"abc\""));
    let first = pay("\"abc\"").send();
    replays(&pay("abc").send(), &first);
    refused(&pay("a, b").send(), 400, "key-invalid", None);
    let with_the_drafts = world.post("/by-own-header/pay").key("abc").body("ten").send();
    assert_eq!(said(&with_the_drafts), "bypassed;reason=no-key");
}

#[test]
fn a_key_can_stand_in_the_path() {
    let world = rules();
    from_elsewhere(&world, world.post("/by-path/link-7").body("ten"));
    executed(&world.post("/by-path/link-8").body("ten").send(), 1);
    assert_eq!(said(&world.post("/by-path/").body("ten").send()), "bypassed;reason=no-key");
}

#[test]
fn a_key_can_have_two_parts_which_do_not_flow_into_each_other() {
    let world = rules();
    let path = "/by-two-headers/pay";
    let pay = |order: &str, step: &str| world.post(path).header("x-order", order).header("x-step", step).body("ten");
    from_elsewhere(&world, pay("1", "23"));
    executed(&pay("12", "3").send(), 1);
    executed(&pay("23", "1").send(), 1);
    assert_eq!(said(&world.post(path).header("x-order", "1").body("ten").send()), "bypassed;reason=no-key");
}

#[test]
fn the_first_present_of_several_places_is_the_key() {
    let world = rules();
    let pay = world.post("/by-any/pay").body("ten");
    executed(&pay.clone().key("\"a\"").header("x-request-key", "b").send(), 1);
    assert_eq!(world.ledger.entries_for("/by-any/pay").remove(0).key.as_deref(), Some("\"a\""));
    from_elsewhere(&world, world.post("/by-any/elsewhere").header("x-request-key", "b").body("ten"));
    assert_eq!(said(&pay.send()), "bypassed;reason=no-key");
}

/// The key of a request whose key is not in our header goes upstream as one of ours, the same for every attempt.
#[track_caller]
fn from_elsewhere(world: &World, pay: Request) {
    let failing = pay.clone().header("x-test-status", "500");
    assert_eq!(said(&failing.send()), "executed;stored=?0;attempt=1;outcome=retry");
    let first = pay.send();
    executed(&first, 2);
    replays(&pay.send(), &first);

    let entries = world.ledger.entries_for(pay.path());
    assert_eq!(entries.len(), 2);
    assert!(is_uuid(entries[0].key.as_deref()), "{:?}", entries[0]);
    assert_eq!(entries[0].key, entries[1].key);
    assert_eq!(entries[0].operation, entries[1].operation);
    assert_eq!((entries[0].attempt, entries[1].attempt), (Some(1), Some(2)));
}

/// A UUID, bare or in quotes.
fn is_uuid(key: Option<&str>) -> bool {
    let bare = key.unwrap_or_default().trim_matches('"');
    let groups: Vec<usize> = bare.split('-').map(str::len).collect();
    groups == [8, 4, 4, 4, 12] && bare.bytes().all(|byte| byte == b'-' || byte.is_ascii_hexdigit())
}
