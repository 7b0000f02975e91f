//! Who shares a key with whom, and which requests are none of our business.
//!
//! Its one rule: the same key and the same payload throughout; only the place or the caller differs.
//! It does not know what a key may look like.

use harness::Request;

use crate::check::{executed, refused, replays, said};
use crate::worlds::{plain, rules};

#[test]
fn another_caller_executes() {
    let world = plain();
    let pay = |path: &str, caller: &str| world.post(path).key("k").header("authorization", caller).body("ten");
    let alice = pay("/scope/caller", "Bearer alice").send();
    let bob = pay("/scope/caller", "Bearer bob").send();
    let nobody = world.post("/scope/caller").key("k").body("ten").send();
    for first in [&alice, &bob, &nobody] {
        executed(first, 1);
    }
    replays(&pay("/scope/caller", "Bearer alice").send(), &alice);
    replays(&pay("/scope/caller", "Bearer bob").send(), &bob);
    replays(&world.post("/scope/caller").key("k").body("ten").send(), &nobody);
    assert_eq!(world.ledger.entries_for("/scope/caller").len(), 3);
}

#[test]
fn another_method_executes() {
    let world = rules();
    let request = |method: &str| world.request(method, "/all-methods/method").key("k").body("ten");
    let firsts = ["POST", "PUT", "PATCH", "DELETE"].map(|method| (method, request(method).send()));
    for (method, first) in &firsts {
        executed(first, 1);
        replays(&request(method).send(), first);
    }
    assert_eq!(world.ledger.entries_for("/all-methods/method").len(), 4);
}

#[test]
fn another_host_executes_and_case_and_port_are_no_other_host() {
    let world = plain();
    let pay = |host: &str| world.post("/scope/host").key("k").host(host).body("ten");
    let first = pay("api.example.com").send();
    executed(&first, 1);
    executed(&pay("eu.api.example.com").send(), 1);
    replays(&pay("API.Example.com:8080").send(), &first);
    assert_eq!(world.ledger.entries_for("/scope/host").len(), 2);
}

#[test]
fn another_path_executes() {
    let world = plain();
    for path in ["/scope/path", "/scope/path/", "/scope/Path", "/scope/path/a"] {
        executed(&world.post(path).key("k").body("ten").send(), 1);
    }
}

#[test]
fn an_operator_can_make_a_key_count_everywhere() {
    let world = rules();
    let pay =
        |path: &str, caller: &str| world.post(path).key("k").header("authorization", caller).host(caller).body("ten");
    // An empty list of callers with a credential in the request is nobody we could tell from others.
    assert_eq!(said(&pay("/everywhere/credential", "a").send()), "bypassed;reason=no-caller");
    let first = world.post("/everywhere/one").key("k").host("a").body("ten").send();
    executed(&first, 1);
    replays(&world.post("/everywhere/two").key("k").host("b").body("ten").send(), &first);
}

#[test]
fn a_get_is_untouched() {
    let world = plain();
    untouched(world.request("GET", "/scope/get"), |path| world.ledger.entries_for(path).len());
    let entry = world.ledger.entries_for("/scope/get").remove(0);
    assert_eq!((entry.key.as_deref(), entry.operation.as_deref(), entry.attempt), (Some("k"), Some("theirs"), Some(7)));
}

#[test]
fn a_route_without_a_rule_is_untouched() {
    let world = rules();
    untouched(world.post("/no-rule/post").body("ten"), |path| world.ledger.entries_for(path).len());
    untouched(world.request("PUT", "/ietf/put").body("ten"), |path| world.ledger.entries_for(path).len());
}

#[test]
fn mode_off_is_untouched() {
    let world = rules();
    untouched(world.post("/off/pay").body("ten"), |path| world.ledger.entries_for(path).len());
    let entry = world.ledger.entries_for("/off/pay").remove(0);
    assert_eq!((entry.key.as_deref(), entry.operation.as_deref(), entry.attempt), (Some("k"), Some("theirs"), Some(7)));
}

#[test]
fn a_rule_can_go_by_what_the_route_says_of_itself() {
    let world = rules();
    let pay = |path: &str| world.post(path).key("k").body("ten");
    let first = pay("/by-metadata/yes").send();
    executed(&first, 1);
    replays(&pay("/by-metadata/yes").send(), &first);
    assert_eq!(pay("/by-metadata/no").send().header("idempotency-status"), None);
}

#[test]
fn a_grpc_call_is_never_held() {
    let world = plain();
    let call = world.post("/scope/grpc").key("k").header("content-type", "application/grpc").body("ten");
    for _ in 0..2 {
        assert_eq!(call.send_h2().status, 201);
    }
    assert_eq!(world.ledger.entries_for("/scope/grpc").len(), 2);
}

#[test]
fn a_caller_outside_the_scope_is_let_through_rather_than_mixed_with_others() {
    let world = plain();
    let path = "/scope/no-caller";
    for (name, value) in [("cookie", "session=alice"), ("x-api-key", "alice")] {
        let pay = world.post(path).key("k").header(name, value).header("Idempotency-Attempt", "7").body("ten");
        for _ in 0..2 {
            let answer = pay.send();
            assert_eq!((answer.status, said(&answer)), (201, "bypassed;reason=no-caller"));
        }
    }
    let entries = world.ledger.entries_for(path);
    assert_eq!(entries.len(), 4);
    assert!(entries.iter().all(|entry| entry.key.as_deref() == Some("k") && entry.attempt.is_none()));
    // With an authorization there is somebody to tell apart, cookie or not.
    let known = world.post(path).key("k").header("authorization", "a").header("cookie", "session=alice").body("ten");
    executed(&known.send(), 1);
}

#[test]
fn an_operator_can_let_the_anonymous_share_or_refuse_them() {
    let world = rules();
    let shared = |cookie: &str| world.post("/shared/pay").key("k").header("cookie", cookie).body("ten");
    let first = shared("session=alice").send();
    executed(&first, 1);
    replays(&shared("session=bob").send(), &first);

    let known_only = world.post("/known-only/pay").key("k").body("ten");
    refused(&known_only.send(), 401, "caller-missing", None);
    assert_eq!(world.ledger.entries_for("/known-only/pay").len(), 0);
    executed(&known_only.header("authorization", "Bearer alice").send(), 1);
}

/// Sends the request twice with everything on it that could provoke the filter.
#[track_caller]
fn untouched(request: Request, executions: impl Fn(&str) -> usize) {
    let request = request
        .key("k")
        .header("Idempotency-Operation", "theirs")
        .header("Idempotency-Attempt", "7")
        .header("x-test-header", "idempotency-status: theirs")
        .header("x-test-header", "idempotent-replayed: theirs")
        .header("x-test-header", "idempotency-store: release");
    for count in [1, 2] {
        let answer = request.send();
        assert_eq!((answer.status, said(&answer)), (201, "theirs"));
        assert_eq!(answer.headers("idempotent-replayed"), [b"theirs"]);
        assert_eq!(answer.headers("idempotency-store"), [b"release"]);
        assert_eq!(executions(request.path()), count);
    }
    let plain = request.header("x-test-header", "idempotency-x: 1").send();
    assert_eq!(plain.headers("idempotency-x"), [b"1"]);
}
