//! What operators can switch, as far as no other file is about it.
//!
//! Its one rule: each switch is shown next to what happens without it.
//! It does not know how a document is read.

use harness::{Fault, PATIENCE, SharedWorld, World, wait_until};
use serde_json::json;

use crate::chains::leave_to_the_filter;
use crate::check::{executed, not_stored, refused, replays, said};
use crate::worlds::{plain, rules, start};

#[test]
fn observe_changes_nothing_but_the_status_line() {
    let document = json!({ "policy": { "mode": "observe" } });
    let world = World::with(document, |options| options.mutate(leave_to_the_filter));
    let pay = world
        .post("/observe/pay")
        .key("k")
        .header("Idempotency-Operation", "theirs")
        .header("x-test-header", "idempotency-status: theirs")
        .header("x-test-header", "x-kept: 1")
        .body("ten");
    let other = pay.clone().body("twenty");
    for (count, request, outcome) in [(1, &pay, "executed"), (2, &pay, "replayed"), (3, &other, "mismatch")] {
        let answer = request.send();
        assert_eq!(
            (answer.status, said(&answer)),
            (201, format!("bypassed;outcome={outcome};reason=observe").as_str())
        );
        assert_eq!((answer.header("idempotent-replayed"), answer.header("x-kept")), (None, Some("1")));
        let entries = world.ledger.entries_for("/observe/pay");
        assert_eq!(entries.len(), count);
        let last = entries.last().unwrap();
        let seen = (last.key.as_deref(), last.operation.as_deref(), last.attempt);
        assert_eq!(seen, (Some("k"), Some("theirs"), None));
    }
    let invalid = world.post("/observe/invalid").key("a, b");
    for (bad, outcome) in [(invalid, "outcome=key-invalid;"), (world.post("/observe/keyless"), "")] {
        let answer = bad.body("ten").send();
        assert_eq!((answer.status, said(&answer)), (201, format!("bypassed;{outcome}reason=observe").as_str()));
    }
}

#[test]
fn under_observe_an_answer_that_comes_before_that_of_the_store_has_no_outcome() {
    let world = SharedWorld::alone(json!({ "policy": { "mode": "observe" } }));
    let pay = |path: &str| world.post(path).key("k").body("ten");
    world.interposer.set(Fault::Silence);
    let answer = pay("/observe/early").send();
    assert_eq!((answer.status, said(&answer)), (201, "bypassed;reason=observe"));
    // The silent connection would stay silent for a while.
    world.interposer.close();
    world.interposer.set(Fault::Pass);
    world.interposer.open();
    // An answer that takes longer than the store to come back finds out.
    let late = pay("/observe/late").header("x-test-delay-ms", "2000").send();
    assert_eq!((late.status, said(&late)), (201, "bypassed;outcome=executed;reason=observe"));
}

#[test]
fn observe_counts_what_it_would_have_done() {
    let world = World::start(json!({ "policy": { "mode": "observe" } }));
    let pay = world.post("/observed").key("k").body("ten");
    let mut first = start(&world, &pay, "ten", "observed");
    assert_eq!(pay.send().status, 201);
    world.ledger.open("observed");
    assert_eq!(first.response().status, 201);
    pay.send();
    pay.clone().body("twenty").send();
    world.post("/observed").key("a, b").body("ten").send();
    world.post("/observed").body("ten").send();

    let observed = |what: &str| world.gateway.counted(&format!("observed_{what}"));
    wait_until("all is counted", PATIENCE, || observed("bypassed.no-key") == 1);
    let would_have = [
        "requests.executed",
        "stored",
        "refused.in-flight",
        "requests.replayed",
        "refused.mismatch",
        "refused.key-invalid",
    ];
    let counted = would_have.map(observed);
    assert_eq!(counted, [1; 6], "{}", world.gateway.admin("/stats?filter=idempotency.*total"));
    for real in ["requests", "refused", "bypassed", "stored"] {
        assert_eq!(world.gateway.counted(real), 0, "{real}");
    }
    assert_eq!(world.ledger.entries().len(), 6);
    wait_until("nothing runs", PATIENCE, || world.gateway.stat("wasmcustom.idempotency_running") == 0);
}

#[test]
fn under_conflict_a_completed_operation_is_told_and_not_repeated() {
    let world = rules();
    let pay = world.post("/conflict/pay").key("k").body("ten");
    let first = pay.send();
    executed(&first, 1);
    let again = pay.send();
    refused(&again, 409, "already-completed", None);
    assert_eq!(said(&again), "refused;attempt=1;reason=already-completed");
    assert_eq!(again.json()["original_status"], json!(201));
    assert_eq!(again.headers("location"), first.headers("location"));
    assert!(again.header("location").is_some());
    refused(&pay.clone().body("twenty").send(), 409, "mismatch", None);

    let failing = world.post("/conflict/failing").key("k").body("ten");
    not_stored(&failing.clone().header("x-test-status", "400").send(), 400, 1, "released");
    let bare = failing.header("x-test-status", "204").header("x-test-header", "location:");
    executed(&bare.send(), 2);
    let again = bare.send();
    refused(&again, 409, "already-completed", None);
    assert_eq!((again.json()["original_status"].clone(), again.header("location")), (json!(204), None));
    assert_eq!(world.ledger.entries_for("/conflict/pay").len(), 1);
}

#[test]
fn under_conflict_a_large_response_is_completed_like_any_other() {
    let world = rules();
    let pay = world.post("/conflict/large").key("k").header("x-test-body-size", "600000").body("ten");
    let first = pay.send();
    assert_eq!((first.status, first.body.len()), (201, 600_000));
    let again = pay.send();
    refused(&again, 409, "already-completed", None);
    assert_eq!(again.headers("location"), first.headers("location"));
}

#[test]
fn browsers_may_be_let_to_read_our_headers() {
    let names = ["Idempotency-Status", "Idempotent-Replayed", "Idempotency-Key", "Retry-After"];
    let world = rules();
    let pay =
        world.post("/cors/pay").key("k").header("x-test-header", "access-control-expose-headers: x-theirs").body("ten");
    let first = pay.send();
    let again = pay.send();
    replays(&again, &first);
    let mismatch = pay.clone().body("twenty").send();
    refused(&mismatch, 409, "mismatch", None);
    let keyless = world.post("/cors/keyless").body("ten").send();
    let failed = world.post("/cors/failed").key("k").header("x-test-status", "500").body("ten").send();
    for answer in [&first, &again, &mismatch, &keyless, &failed] {
        let exposed = exposed(answer);
        for name in names {
            assert_eq!(exposed.iter().filter(|exposed| exposed.eq_ignore_ascii_case(name)).count(), 1, "{exposed:?}");
        }
    }
    for answer in [&first, &again] {
        assert_eq!(exposed(answer).iter().filter(|name| *name == "x-theirs").count(), 1);
    }
    let world = plain();
    let unexposed = world.post("/policy/no-cors").key("k").body("ten").send();
    assert_eq!(unexposed.header("access-control-expose-headers"), None);
}

fn exposed(answer: &harness::Response) -> Vec<String> {
    let lines = answer.headers("access-control-expose-headers");
    lines
        .iter()
        .flat_map(|line| {
            String::from_utf8_lossy(line).split(',').map(|name| name.trim().to_owned()).collect::<Vec<_>>()
        })
        .collect()
}
