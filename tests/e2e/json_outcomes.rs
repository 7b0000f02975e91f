//! Answers whose body says what became of the request, and bodies of which only some members count.
//!
//! Its one rule: the client gets the service's answer unchanged, whatever the key is worth after it.
//! It does not know what a status alone means: that is `outcomes`.

use std::sync::LazyLock;

use harness::ledger::base64;
use harness::{Gateway, Ledger, Options, Request, Response, World};
use serde_json::{Value, json};

use crate::check::{executed, not_stored, refused, replays, said, shown};
use crate::worlds::{Shared, rule};

/// As the documents have it for GraphQL, inline, shielded and in other ways of answering; the last rule says nothing.
fn world() -> Shared {
    static WORLD: LazyLock<World> = LazyLock::new(|| {
        let ledger = Ledger::start();
        let graphql = json!({ "json": [
            { "all": [{ "pointer": "/errors", "is": "present" }, { "pointer": "/data", "is": "absent" }], "fate": "release" },
            { "pointer": "/retry", "is": "present", "fate": "retry" },
            { "pointer": "/doubt", "is": "null", "fate": "unknown" },
        ] });
        let shielded = json!({ "kind": "shielded", "cluster": "shielded" });
        let with = |name: &str, more: Value| {
            let mut policy = json!({ "outcomes": graphql, "execution": { "kind": "inline" } });
            policy.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            rule(&format!("/{name}/"), policy)
        };
        let options = Options::file("shielded.yaml", ledger.addr()).configuration(json!({
            "policy": { "ttl_s": 1800 },
            "rules": [
                with("inline", json!({})),
                with("shielded", json!({ "execution": shielded })),
                with("after", json!({ "save": "after_reply" })),
                with("conflict", json!({ "on_completed": "conflict" })),
                with("observe", json!({ "mode": "observe" })),
                with("small", json!({ "max_response_bytes": 10 })),
                rule("/members/", json!({ "fingerprint": { "body": "json", "json_only": ["/order", "/amount"] } })),
            ],
        }));
        World { gateway: Gateway::start(options), ledger }
    });
    Shared::new(&WORLD)
}

/// A request that the service answers with this body, of this media type.
fn answered(world: &World, path: &str, kind: &str, body: &str) -> Request {
    let request = world.post(path).key("k").body("{}").header("x-test-status", "200");
    request.header("x-test-header", format!("content-type: {kind}")).header("x-test-body-base64", base64(body))
}

const REFUSED: &str = r#"{"errors": [{"message": "not allowed"}]}"#;
const BEGUN: &str = r#"{"errors": [{"message": "half-way"}], "data": {"pay": null}}"#;

#[test]
fn what_a_body_says_decides_where_its_status_would_be_stored() {
    let world = world();
    for place in ["inline", "shielded"] {
        let path = |name: &str| format!("/{place}/{name}");
        let told = |name: &str, body: &str| answered(&world, &path(name), "application/graphql-response+json", body);
        let cases = [
            ("refused", REFUSED, "released"),
            ("again", r#"{"retry": 1}"#, "retry"),
            ("doubt", r#"{"doubt": null}"#, "unknown"),
        ];
        for (name, body, outcome) in cases {
            let answer = told(name, body).send();
            not_stored(&answer, 200, 1, outcome);
            assert_eq!(answer.text(), body);
        }
        executed(&told("refused", "{\"data\": {}}").body("corrected").send(), 2);
        refused(&told("again", "{}").body("corrected").send(), 409, "mismatch", None);
        executed(&told("again", "{}").send(), 2);
        let again = told("doubt", "{}").send();
        assert!(said(&again).ends_with("reason=outcome-unknown"), "{}", shown(&again));
        // The mutation has begun: it is kept, and so is what says nothing of it.
        for (name, body) in
            [("begun", BEGUN), ("null-errors", r#"{"errors": null, "data": 1}"#), ("plain", r#"{"data": 1}"#)]
        {
            let first = told(name, body).send();
            executed(&first, 1);
            replays(&told(name, body).send(), &first);
        }
        // The service's own word is worth more, and a failure's status decides.
        let steered = told("steered", REFUSED).header("x-test-header", "idempotency-store: store");
        executed(&steered.send(), 1);
        let failed = world.post(&path("failed")).key("k").header("x-test-status", "400").body("{}");
        let failed = failed.header("x-test-header", "content-type: application/json");
        not_stored(&failed.header("x-test-body-base64", base64(r#"{"doubt": null}"#)).send(), 400, 1, "released");
    }
}

#[test]
fn what_cannot_be_read_keeps_its_statuss_fate_and_is_counted() {
    let world = world();
    let counted = || world.gateway.counted("outcome_unread");
    let json = "application/json";
    for (place, count) in [("inline", 3), ("shielded", 3)] {
        let before = counted();
        let is_kept = |answer: Response| executed(&answer, 1);
        is_kept(answered(&world, &format!("/{place}/invalid"), json, "{\"errors\": 1").send());
        is_kept(answered(&world, &format!("/{place}/empty"), json, "").send());
        let encoded = answered(&world, &format!("/{place}/encoded"), json, REFUSED);
        is_kept(encoded.header("x-test-header", "content-encoding: gzip").send());
        // What is no JSON has nothing to say.
        is_kept(answered(&world, &format!("/{place}/text"), "text/plain", REFUSED).send());
        assert_eq!(counted(), before + count, "{place}");
    }
    let before = counted();
    let large = answered(&world, "/small/large", json, REFUSED).send();
    assert_eq!(said(&large), "executed;stored=?0;attempt=1;outcome=completed;reason=too-large");
    let trial = answered(&world, "/observe/trial", json, REFUSED).send();
    assert_eq!((trial.status, trial.text().as_str()), (200, REFUSED));
    world.gateway.wait_for_count("observed_outcome_unread", 1);
    assert_eq!(counted(), before + 1);
}

#[test]
fn what_a_body_says_decides_however_its_answer_is_given() {
    let world = world();
    let after = answered(&world, "/after/refused", "application/json", REFUSED);
    assert_eq!(after.send().text(), REFUSED);
    executed_anew(&world, &after);
    let conflict = answered(&world, "/conflict/refused", "application/json", REFUSED);
    not_stored(&conflict.send(), 200, 1, "released");
    let kept = answered(&world, "/conflict/kept", "application/json", "{\"data\": 1}");
    executed(&kept.send(), 1);
    refused(&kept.send(), 409, "already-completed", None);
}

/// The key is free once the store has heard of it.
fn executed_anew(world: &World, request: &Request) {
    harness::wait_until("the key is free again", harness::PATIENCE, || {
        request.clone().body("corrected").send();
        world.ledger.entries_for(request.path()).len() == 2
    });
}

#[test]
fn only_the_members_that_are_named_count() {
    let world = world();
    let pay = |body: Value| {
        world.post("/members/pay").key("k").header("content-type", "application/json").body(body.to_string()).send()
    };
    let first = pay(json!({ "order": 7, "amount": 10, "sent_at": "12:00", "trace": { "id": 1 } }));
    executed(&first, 1);
    replays(&pay(json!({ "sent_at": "12:05", "amount": 10.0, "order": 7 })), &first);
    for other in [
        json!({ "order": 7, "amount": 11 }),
        json!({ "order": 7 }),
        json!({ "order": 7, "amount": null }),
        json!([7, 10]),
    ] {
        refused(&pay(other), 409, "mismatch", None);
    }
}
