//! Which requests share a key with which, and which are none of our business.
//!
//! Its one rule: the same key and the same payload throughout; only the place or the caller differs.
//! It does not know what a key may look like.

use std::sync::LazyLock;

use harness::gateway::hcm;
use harness::{Request, World};
use serde_json::{Value, json};

use crate::chains::leave_to_the_filter;
use crate::check::{executed, refused, replays, said};
use crate::verifiers::{kept_apart, never_mixed};
use crate::worlds::{Shared, plain, rule, rules};

/// What a rule can say of the scope, each under a path of its own, at a gateway that believes the proxy before it.
fn scopes() -> Shared {
    static WORLD: LazyLock<World> = LazyLock::new(|| {
        let scope = |prefix: &str, scope: Value| {
            let mut rule = rule(prefix, json!({ "scope": scope }));
            rule["match"]["methods"] = json!(["*"]);
            rule
        };
        let document = json!({ "rules": [
            scope("/compared/method/", json!({ "method": false })),
            scope("/compared/host/", json!({ "host": false })),
            scope("/compared/path/", json!({ "path": false })),
            scope("/ignored/method/", json!({ "method": "ignore" })),
            scope("/ignored/host/", json!({ "host": "ignore" })),
            scope("/ignored/path/", json!({ "path": "ignore" })),
            scope("/methods/", json!({})),
            scope("/no-part/", json!({ "caller": [] })),
            scope("/no-part-shared/", json!({ "caller": [], "anonymous": "share" })),
            scope("/header/", json!({ "caller": [{ "header": "x-user" }] })),
            scope("/refuse/", json!({ "anonymous": "refuse" })),
            scope("/share/", json!({ "anonymous": "share" })),
        ] });
        World::with(document, |options| {
            options.mutate(|tree| hcm(tree)["forward_client_cert_details"] = json!("ALWAYS_FORWARD_ONLY"))
        })
    });
    Shared::new(&WORLD)
}

#[test]
fn another_caller_executes() {
    let world = plain();
    let pay = world.post("/scope/caller").key("k").body("ten");
    kept_apart(&world.ledger, ["Bearer alice", "Bearer bob"].map(|shown| [0, 1].map(|_| pay.clone().caller(shown))));
    never_mixed(&world.ledger, &[pay.clone().anonymous(), pay.anonymous()]);
}

#[test]
fn another_method_executes() {
    let world = scopes();
    let request = |method: &str| world.request(method, "/methods/pay").key("k").body("ten");
    let firsts = ["POST", "PUT", "PATCH", "DELETE"].map(|method| (method, request(method).send()));
    for (method, first) in &firsts {
        executed(first, 1);
        replays(&request(method).send(), first);
    }
    assert_eq!(world.ledger.entries_for("/methods/pay").len(), 4);
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
fn what_does_not_separate_is_compared_and_the_first_answer_goes_nowhere_else() {
    let world = scopes();
    let pay = |method: &str, path: &str, host: &str| {
        world.request(method, &format!("/compared/{path}")).host(host).key("compared").body("ten").send()
    };
    for (first, other) in [
        (("POST", "path/charges", "a"), ("POST", "path/refunds", "a")),
        (("POST", "host/pay", "a"), ("POST", "host/pay", "b")),
        (("POST", "method/pay", "a"), ("PUT", "method/pay", "a")),
    ] {
        let send = |(method, path, host)| pay(method, path, host);
        let answer = send(first);
        executed(&answer, 1);
        refused(&send(other), 409, "mismatch", None);
        replays(&send(first), &answer);
    }
    assert_eq!(world.ledger.entries_for("/compared/path/refunds").len(), 0);
    // What else separates still does.
    executed(&pay("PUT", "path/charges", "a"), 1);
    executed(&pay("POST", "path/charges", "b"), 1);
}

#[test]
fn what_is_ignored_lets_one_key_have_one_answer() {
    let world = scopes();
    let pay = |method: &str, path: &str, host: &str| {
        world.request(method, &format!("/ignored/{path}")).host(host).key("ignored").body("ten").send()
    };
    for (first, other) in [
        (("POST", "path/charges", "a"), ("POST", "path/refunds", "a")),
        (("POST", "host/pay", "a"), ("POST", "host/pay", "b")),
        (("POST", "method/pay", "a"), ("PUT", "method/pay", "a")),
    ] {
        let send = |(method, path, host)| pay(method, path, host);
        let answer = send(first);
        executed(&answer, 1);
        replays(&send(other), &answer);
    }
    assert_eq!(world.ledger.entries_for("/ignored/path/refunds").len(), 0);
    // Callers are told apart all the same.
    let bob = world.post("/ignored/path/charges").host("a").caller("Bearer bob").key("ignored").body("ten");
    executed(&bob.send(), 1);
}

#[test]
fn a_scope_without_parts_tells_no_caller() {
    let world = scopes();
    let pay = world.post("/no-part/pay").key("k").body("ten");
    never_mixed(&world.ledger, &[pay.clone(), pay.clone().anonymous(), pay.anonymous()]);
    let shared = world.post("/no-part-shared/pay").key("k").body("ten");
    never_mixed(&world.ledger, &[shared.clone(), shared.clone()]);
    let first = shared.clone().anonymous().send();
    executed(&first, 1);
    replays(&shared.anonymous().send(), &first);
}

#[test]
fn a_get_is_untouched() {
    let world = World::with(json!({}), |options| options.mutate(leave_to_the_filter));
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
    let document = json!({ "policy": { "mode": "off" } });
    let world = World::with(document, |options| options.mutate(leave_to_the_filter));
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
fn only_the_types_of_grpc_make_a_grpc_call() {
    let world = plain();
    for kind in ["application/grpcx", "application/grpc-foo", "application/grpc, application/json"] {
        let pay = world.post("/scope/no-grpc").key(kind.replace([' ', ','], "-")).header("content-type", kind);
        let first = pay.clone().body("ten").send();
        executed(&first, 1);
        replays(&pay.body("ten").send(), &first);
    }
    for kind in ["application/grpc+proto", "application/grpc-web", "APPLICATION/GRPC;charset=utf-8"] {
        let call = world.post("/scope/is-grpc").key("k").header("content-type", kind).body("ten");
        assert_eq!((said(&call.send()), said(&call.send())), ("", ""), "{kind}");
    }
}

#[test]
fn what_stands_in_the_place_of_a_credential_is_none() {
    let world = plain();
    let pay = world.post("/scope/placeholder").key("k").body("ten");
    for shown in PLACEHOLDERS {
        let pay = pay.clone().caller(shown);
        let each = ["session=alice", "session=bob"].map(|cookie| pay.clone().header("cookie", cookie));
        never_mixed(&world.ledger, &each);
    }
    let world = scopes();
    let pay = world.post("/header/placeholder").anonymous().key("k").body("ten");
    for shown in ["-", "null", "undefined", "\"\""] {
        let pay = pay.clone().header("x-user", shown);
        never_mixed(&world.ledger, [&pay, &pay]);
    }
    executed(&pay.header("x-user", "alice").send(), 1);
}

/// What programs write where they have no credential.
const PLACEHOLDERS: [&str; 17] = [
    "-",
    "null",
    "undefined",
    "None",
    "Bearer -",
    "Bearer null",
    "bearer undefined",
    "Bearer None",
    "Bearer (null)",
    "Bearer \"\"",
    "Bearer:",
    "Token token=",
    "Token token=\"\"",
    "Basic Og==",
    "AWS4-HMAC-SHA256",
    "Kerberos",
    "HOBA",
];

#[test]
fn a_caller_outside_the_scope_is_let_through_rather_than_mixed_with_others() {
    let world = plain();
    let path = "/scope/no-caller";
    let pay = world.post(path).anonymous().key("k").header("Idempotency-Attempt", "7").body("ten");
    let shown = [("cookie", "session=alice"), ("x-api-key", "alice"), ("proxy-authorization", "Basic YWxpY2U6cA==")];
    for (name, value) in shown {
        let pay = pay.clone().header(name, value);
        never_mixed(&world.ledger, [&pay, &pay]);
    }
    let entries = world.ledger.entries_for(path);
    assert_eq!(entries.len(), 6);
    assert!(entries.iter().all(|entry| entry.key.as_deref() == Some("k") && entry.attempt.is_none()));
    // With an authorization there is a caller to tell apart, cookie or not.
    let known = world.post(path).key("k").header("authorization", "a").header("cookie", "session=alice").body("ten");
    executed(&known.send(), 1);
}

#[test]
fn an_operator_can_let_the_anonymous_share_or_refuse_them() {
    let world = scopes();
    let pay = world.post("/share/pay").key("k").body("ten");
    let first = pay.clone().anonymous().send();
    executed(&first, 1);
    replays(&pay.clone().anonymous().send(), &first);
    // An empty credential shows nothing.
    replays(&pay.clone().anonymous().header("authorization", " ").header("x-api-key", "").send(), &first);
    executed(&pay.send(), 1);

    let known_only = world.post("/refuse/pay").key("k").body("ten");
    refused(&known_only.clone().anonymous().send(), 401, "caller-missing", None);
    refused(&known_only.clone().caller("Negotiate YII=").send(), 401, "caller-missing", None);
    assert_eq!(world.ledger.entries_for("/refuse/pay").len(), 0);
    executed(&known_only.send(), 1);
}

#[test]
fn a_caller_with_any_known_credential_shares_nothing_with_the_anonymous_nor_with_another() {
    let world = scopes();
    let pay = world.post("/share/known").anonymous().key("k").body("ten");
    let anonymous = pay.send();
    executed(&anonymous, 1);
    for name in CREDENTIALS {
        let shown = ["alice", "bob", "alice"].map(|value| pay.clone().header(name, format!("Hash={value}")));
        never_mixed(&world.ledger, &shown);
    }
    for name in ["access_token", "api_key", "apikey"] {
        let pay = world.post(&format!("/share/known?{name}=alice")).anonymous().key("k").body("ten");
        never_mixed(&world.ledger, [&pay, &pay]);
    }
    for shown in ["Negotiate YII=", "Hawk id=\"alice\", mac=\"x\""] {
        never_mixed(&world.ledger, [&pay.clone().caller(shown), &pay.clone().caller(shown)]);
    }
    replays(&pay.send(), &anonymous);
}

/// Where clients show who they are, or a gateway in front says whom it has verified.
const CREDENTIALS: [&str; 30] = [
    "api-key",
    "apikey",
    "cookie",
    "dpop",
    "ocp-apim-subscription-key",
    "private-token",
    "proxy-authorization",
    "x-access-token",
    "x-amz-security-token",
    "x-api-key",
    "x-auth-request-user",
    "x-auth-token",
    "x-forwarded-client-cert",
    "x-forwarded-user",
    "x-goog-api-key",
    "x-ms-client-principal-id",
    "x-shopify-access-token",
    "x-vault-token",
    "access-token",
    "client-cert",
    "x-amzn-mtls-clientcert",
    "x-arr-clientcert",
    "x-auth",
    "x-forwarded-tls-client-cert",
    "x-functions-key",
    "x-jwt-assertion",
    "x-session-token",
    "x-token",
    "x_api_key",
    "api_key",
];

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
