//! The status look-up: what became of an operation, without executing it.
//!
//! Its one rule: who looks changes nothing, and sees nothing that is not his own.
//! It does not know how an operation came about.

use std::sync::LazyLock;
use std::time::Duration;

use harness::{Fault, PATIENCE, Request, Response, SharedWorld, World, wait_until};
use serde_json::{Value, json};

use crate::check::{executed, is_refusal, refused, said, shown};
use crate::redis::PATIENT_MS;
use crate::worlds::{Shared, rule, start};

const AT: &str = "/.well-known/idempotency";

fn world() -> Shared {
    static WORLD: LazyLock<World> = LazyLock::new(|| World::start(document()));
    Shared::new(&WORLD)
}

fn document() -> Value {
    json!({
        "status_path": AT,
        "policy": { "lease_ms": 1000 },
        "rules": [
            rule("/pair/", json!({ "key": { "sources": [{ "json": "/order" }, { "query": "sku" }] } })),
            rule("/separate/", json!({ "on_mismatch": "separate" })),
            rule("/content/", json!({ "key": { "inject": { "kind": "content" } } })),
            rule("/by-body/", json!({ "scope": { "caller": [{ "json": "/account" }] } })),
            rule("/known-only/", json!({ "scope": { "anonymous": "refuse" } })),
            rule("/observe/", json!({ "mode": "observe" })),
            json!({ "match": { "methods": ["POST", "PATCH"], "path": { "prefix": "/look/" } } }),
        ],
    })
}

fn look(world: &World, query: &str) -> Request {
    world.request("GET", &format!("{AT}?{query}"))
}

#[track_caller]
fn found(answer: &Response, state: &str, attempt: u32, status: Option<u16>) {
    let found = answer.json();
    assert_eq!((answer.status, answer.header("cache-control")), (200, Some("no-store")), "{found}");
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let ttl = found["ttl"].as_u64().expect("ttl is a number");
    assert!((1..=1800).contains(&ttl), "{found}");
    assert_eq!(found, json!({ "state": state, "attempt": attempt, "status": status, "ttl": ttl }));
}

#[track_caller]
fn absent(answer: &Response) {
    assert_eq!((answer.status, answer.json()), (404, json!({ "state": "absent" })));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
}

#[test]
fn every_state_of_an_operation_can_be_seen() {
    let world = world();
    let pay = world.post("/look/states").key("k");
    let seen = || look(&world, "method=POST&path=/look/states").key("\"k\"").send();
    absent(&seen());
    let mut running = start(&world, &pay, "ten", "look states");
    found(&seen(), "running", 1, None);
    running.write("");
    world.ledger.open("look states");
    let status = running.response().status;
    found(&seen(), "completed", 1, Some(status));
    let failing = world.post("/look/open").key("k").header("x-test-status", "503").body("ten");
    failing.send();
    found(&look(&world, "method=POST&path=%2Flook%2Fopen").key("k").send(), "open", 1, None);
    let doubtful = world.post("/look/unknown").key("k").header("x-test-status", "502").body("ten");
    doubtful.send();
    let unknown = || look(&world, "method=POST&path=/look/unknown").key("k").send();
    found(&unknown(), "unknown", 1, None);
    // Looking has neither executed nor freed anything.
    found(&unknown(), "unknown", 1, None);
    for path in ["/look/states", "/look/open", "/look/unknown"] {
        assert_eq!(world.ledger.entries_for(path).len(), 1);
    }
    assert_eq!(said(&unknown()), "");
}

#[test]
fn a_running_attempt_whose_lease_is_over_is_seen_as_unknown() {
    let world = SharedWorld::start(document());
    let pay = world.post("/look/lapsed").key("k");
    let mut client = pay.clone().header("x-test-hold", "lapsed").body("ten").open();
    client.write("ten");
    wait_until("it runs", PATIENCE, || world.ledger.entries_for("/look/lapsed").len() == 1);
    world.gateways[0].kill();
    let state = || {
        let look = world.request("GET", &format!("{AT}?method=POST&path=/look/lapsed")).to(world.other());
        let answer = look.key("k").send();
        answer.json()["state"].as_str().unwrap_or_default().to_owned()
    };
    wait_until("it is unknown", PATIENCE, || state() == "unknown");
}

#[test]
fn only_the_callers_own_scope_is_seen() {
    let world = world();
    executed(&world.post("/look/mine").key("k").header("authorization", "me").body("ten").send(), 1);
    let seen =
        |change: &dyn Fn(Request) -> Request| change(look(&world, "method=POST&path=/look/mine").key("k")).send();
    found(&seen(&|request| request.header("authorization", "me")), "completed", 1, Some(201));
    absent(&seen(&|request| request.header("authorization", "you")));
    absent(&seen(&|request| request));
    absent(&seen(&|request| request.header("authorization", "me").host("elsewhere")));
    absent(&look(&world, "method=PATCH&path=/look/mine").key("k").header("authorization", "me").send());
    // Without a caller it ran unprotected, if it ran: "absent" would say that it has not.
    for request in [look(&world, "method=POST&path=/look/mine"), look(&world, "method=POST&path=/look/never")] {
        for request in [request.clone().anonymous(), request.anonymous().header("cookie", "sid=1")] {
            let problem = request.key("k").send();
            assert_eq!(problem.status, 400, "{}", shown(&problem));
            assert!(problem.json()["detail"].as_str().is_some_and(|detail| detail.contains("caller")));
        }
    }
    let without_caller = look(&world, "method=POST&path=/known-only/x").anonymous().key("k").send();
    refused(&without_caller, 401, "caller-missing", None);
}

#[test]
fn keys_that_stand_elsewhere_are_given_in_the_order_of_their_sources() {
    let world = world();
    executed(&world.post("/pair/buy?sku=a%2Fb").body(r#"{"order": "o 1"}"#).send(), 1);
    let pair = "method=POST&path=/pair/buy";
    found(&look(&world, &format!("{pair}&key=o+1&key=a%2Fb")).send(), "completed", 1, Some(201));
    absent(&look(&world, &format!("{pair}&key=a%2Fb&key=o+1")).send());
    for bad in ["key=o+1", "key=o+1&key=a%2Fb&key=c", "key=&key=a"] {
        refused(&look(&world, &format!("{pair}&{bad}")).send(), 400, "key-invalid", None);
    }
    refused(&look(&world, pair).send(), 400, "key-missing", None);
    executed(&world.post("/look/given").key("k1").body("ten").send(), 1);
    found(&look(&world, "method=POST&path=/look/given&key=%22k1%22").send(), "completed", 1, Some(201));
}

#[test]
fn what_cannot_be_looked_up_says_why() {
    let world = world();
    for (query, word) in [
        ("", "method"),
        ("method=POST", "path"),
        ("method=POST&method=PUT&path=/look/x", "method"),
        ("method=POST&path=/nowhere", "rule"),
        ("method=POST&path=/separate/x", "body"),
        ("method=POST&path=/by-body/x", "body"),
    ] {
        let answer = look(&world, query).key("k").send();
        let problem = answer.json();
        assert_eq!((answer.status, answer.header("content-type")), (400, Some("application/problem+json")), "{query}");
        assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains(word)), "{problem}");
    }
    // A content key has no name that a GET could have.
    refused(&look(&world, "method=POST&path=/content/x").send(), 400, "key-missing", None);
    refused(&look(&world, "method=POST&path=/look/x").send(), 400, "key-missing", None);
    refused(&look(&world, "method=POST&path=/look/x").key("a, b").send(), 400, "key-invalid", None);
    absent(&look(&world, "method=POST&path=/observe/x").key("k").send());
}

#[test]
fn only_a_get_of_that_path_is_a_look_up() {
    let world = world();
    for (method, path) in [("POST", AT), ("HEAD", AT), ("GET", "/.well-known/idempotency/x"), ("GET", "/")] {
        let before = world.ledger.entries_for(path).len();
        world.request(method, path).key("k").send();
        assert_eq!(world.ledger.entries_for(path).len(), before + 1, "{method} {path}");
    }
    assert_eq!(world.ledger.entries_for(AT).len(), 2);
}

#[test]
fn gateways_on_one_redis_see_the_same_and_say_when_they_cannot() {
    let world = SharedWorld::start(document());
    let seen = |to| world.request("GET", &format!("{AT}?method=POST&path=/look/redis")).to(to).key("k").send();
    absent(&seen(world.other()));
    world.post("/look/redis").key("k").body("ten").send();
    for to in [world.other(), world.gateways[0].addr()] {
        let answer = seen(to);
        assert_eq!(
            (answer.status, &answer.json()["state"], &answer.json()["status"]),
            (200, &json!("completed"), &json!(201))
        );
    }
    world.interposer.close();
    refused(&seen(world.other()), 503, "store-unavailable", Some("1"));
}

/// How long the store keeps a look-up waiting, so that its body comes first.
const LATE: Duration = Duration::from_millis(100);
/// As long as a large body may take on a busy machine.
const VERY_LATE: Duration = Duration::from_secs(3);
/// What the rules take of a body: the default of `max_request_bytes`.
const MOST: usize = 524_288;

/// A way to send a request.
type Send = fn(&Request) -> Response;

/// The look-up with each body that a GET can carry, sent in both versions of HTTP; whether the body is too large.
fn with_bodies(look: &Request) -> Vec<(Request, Send, bool)> {
    let (none, large) = ([""; 0], vec![b'a'; MOST + 1]);
    let bodies = [
        (look.clone().body("ten"), false),
        (look.clone().body(""), false),
        (look.clone().chunked(none), false),
        (look.clone().chunked(["t", "en"]), false),
        (look.clone().chunked(["ten"]).trailer("x-trailer", "1"), false),
        (look.clone().body(&large), true),
        (look.clone().chunked([&large[..MOST], &large[MOST..]]), true),
    ];
    let ways: [Send; 2] = [Request::send, Request::send_h2];
    let each = |(look, is_large): (Request, bool)| ways.map(|way| (look.clone(), way, is_large));
    bodies.into_iter().flat_map(each).collect()
}

#[test]
fn a_look_up_with_a_body_is_answered_here_and_goes_no_further() {
    let world = world();
    executed(&world.post("/look/bodies").key("k").body("ten").send(), 1);
    let query = "method=POST&path=/look/bodies&with=body";
    for (look, send, _) in with_bodies(&look(&world, query).key("k")) {
        found(&send(&look), "completed", 1, Some(201));
    }
    // What is answered before anything is looked up goes no further either.
    for query in ["method=POST&with=body", "method=POST&path=/separate/x&with=body"] {
        for (look, send, _) in with_bodies(&look(&world, query).key("k")) {
            assert_eq!(send(&look).status, 400, "{query}");
        }
    }
    let seen = world.ledger.entries();
    assert!(!seen.iter().any(|entry| entry.path.contains("with=body")), "{seen:?}");
}

#[test]
fn a_look_up_with_a_body_waits_for_a_slow_store_and_goes_no_further() {
    let mut document = document();
    document["store"] = json!({ "timeout_ms": PATIENT_MS });
    document["policy"]["ttl_s"] = json!(1800);
    let world = SharedWorld::with(harness::Redis::start(), &[document], |options| options.trailers());
    executed(&world.post("/look/slow").key("k").body("ten").send(), 1);
    let known = world.request("GET", &format!("{AT}?method=POST&path=/look/slow")).key("k");
    let unknown = known.clone().header("authorization", "Bearer bob");
    for (known, (unknown, send, is_large)) in with_bodies(&known).into_iter().zip(with_bodies(&unknown)) {
        world.interposer.set(Fault::DelayReply(if is_large { VERY_LATE } else { LATE }));
        let (known, unknown) = (send(&known.0), send(&unknown));
        if is_large {
            [known, unknown].iter().for_each(|answer| refused(answer, 413, "body-too-large", None));
        } else {
            found(&known, "completed", 1, Some(201));
            absent(&unknown);
        }
    }
    // Neither where there is no store to ask.
    world.interposer.close();
    for (look, send, is_large) in with_bodies(&known) {
        let (answer, slugs) = (send(&look), ["store-unavailable", "body-too-large"]);
        assert!(is_refusal(&answer, slugs[0]) || is_large && is_refusal(&answer, slugs[1]), "{}", shown(&answer));
    }
    assert_eq!(world.ledger.entries().len(), 1, "{:?}", world.ledger.entries());
}
