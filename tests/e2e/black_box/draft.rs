//! draft-ietf-httpapi-idempotency-key-header-07, statement by statement; nobody has published a suite for it.
//!
//! Its one rule: what the draft says of a resource or a server is shown, what it leaves to them is named.
//! It does not know how the draft will end: it has expired, and is no RFC.
//!
//! Ours differs on purpose in three. A bare key is taken beside the quoted one, because most clients send it so. The
//! draft replays "success or error"; here a definite failure frees the key unless `outcomes` says otherwise. And
//! problems carry a `type` for each case, which `problem_base` makes a link, instead of one for all; they have no
//! `Content-Language`.
//!
//! | statement | shown by |
//! |---|---|
//! | 2.1 the value is a String of structured fields | `e2e::keys::quoted_and_bare_are_the_same_key`, `it::names::key_headers_are_one_quoted_string_or_one_bare_run` |
//! | 2.1 and nothing else | `e2e::keys::what_is_no_key_is_refused_and_never_executed`, `e2e::keys::two_key_lines_are_no_key_even_when_they_agree` |
//! | 2.1, 2.7 the keys of its examples | `e2e::black_box::draft::the_keys_of_its_examples_are_keys` |
//! | 2.2 a key is not used again with another payload | `e2e::running::a_key_used_with_another_payload_is_a_mismatch` |
//! | 2.3 a resource may let keys expire | `e2e::unknown::an_expired_key_runs_again` |
//! | 2.3, 2.5.2 and says when | `e2e::replay::the_age_of_a_replay_grows_and_its_time_left_shrinks` |
//! | 2.4 fingerprints: the payload, parts of it, chosen fields | `e2e::running::query_and_media_type_are_part_of_the_payload_and_other_headers_are_not`, `e2e::fingerprints::what_is_ignored_may_change_be_missing_or_come`, `e2e::fingerprints::chosen_headers_count_and_no_others` |
//! | 2.5.1 a client may send a key to whoever knows none | `e2e::scope::a_route_without_a_rule_is_untouched` |
//! | 2.6 the first request is processed | `e2e::replay::the_first_request_executes_and_the_second_replays` |
//! | 2.6 a retry gets the result, success or error | `e2e::black_box::draft::errors_are_results_where_the_operator_says_so` |
//! | 2.6, 2.7 a concurrent retry is 409 | `e2e::running::of_64_connections_at_once_one_executes_with_the_statuses_of_the_draft` |
//! | 2.7 the three errors, their documents, and what a client does next | `e2e::black_box::draft::a_client_that_heeds_each_error_gets_through` |
//! | 2.7 401, 403, 429 and 5xx are the service's own | `e2e::outcomes::the_failures_themselves_come_through_as_the_service_sent_them` |
//! | 5 a key is validated before anything is done with it | `e2e::keys::refusing_a_key_uses_nothing_up`, `e2e::keys::control_characters_never_reach_the_service` |
//! | 5 no injection through a key | `e2e::black_box::draft::a_key_made_of_commands_and_paths_is_a_key_like_any_other` |
//! | 5 a composite key, with what is the client's | `e2e::scope::another_caller_executes`, `e2e::redis::callers_with_one_key_do_not_meet` |

use std::collections::BTreeSet;
use std::sync::LazyLock;

use harness::{Request, World};
use serde_json::json;

use super::on_both_stores;
use crate::check::{executed, refused, replays};
use crate::worlds::{Shared, plain, start};

#[test]
fn the_keys_of_its_examples_are_keys() {
    let world = plain();
    for (n, key) in
        ["\"8e03978e-40d5-43dd-bc93-6894a57f9324\"", "\"clkyoesmbgybucifusbbtdsbohtyuuwz\""].into_iter().enumerate()
    {
        let pay = world.post(&format!("/draft/example-{n}")).key(key).body("ten");
        let first = pay.send();
        executed(&first, 1);
        replays(&pay.send(), &first);
        assert_eq!(world.ledger.entries_for(pay.path())[0].key.as_deref(), Some(key));
    }
}

#[test]
fn a_client_that_heeds_each_error_gets_through() {
    let world = strict();
    let pay = world.post("/draft/heeds").body("ten");
    // "Idempotency-Key is missing": send one.
    problem(&pay, 400, "key-missing", None);
    let keyed = world.post("/draft/heeds").key("\"a\"");
    let mut running = start(&world, &keyed, "ten", "draft heeds");
    // "A request is outstanding": the same once more, when it is over.
    problem(&keyed.clone().body("ten"), 409, "in-flight", Some("1"));
    // "Idempotency-Key is already used": a key of its own.
    problem(&keyed.clone().body("twenty"), 422, "mismatch", None);
    world.ledger.open("draft heeds");
    let first = running.response();
    executed(&first, 1);
    problem(&keyed.clone().body("twenty"), 422, "mismatch", None);
    let other = world.post("/draft/heeds").key("\"b\"").body("twenty");
    let second = other.send();
    executed(&second, 1);
    // None of the refusals was kept in the place of an answer.
    replays(&keyed.body("ten").send(), &first);
    replays(&other.send(), &second);
    assert_eq!(world.ledger.entries_for("/draft/heeds").len(), 2);
}

#[test]
fn errors_are_results_where_the_operator_says_so() {
    let world = strict();
    for status in [400, 401, 403, 404, 409, 422, 429, 500, 501, 502, 503, 504] {
        let pay = world
            .post(&format!("/draft/error-{status}"))
            .key("\"k\"")
            .header("x-test-status", status.to_string())
            .header("x-test-header", "content-type: application/problem+json")
            .header("x-test-header", "retry-after: 7")
            .body("ten");
        let first = pay.send();
        assert_eq!(first.status, status);
        executed(&first, 1);
        let again = pay.send();
        replays(&again, &first);
        assert_eq!(again.header("retry-after"), Some("7"));
        assert_eq!(world.ledger.entries_for(pay.path()).len(), 1);
    }
}

#[test]
fn a_key_made_of_commands_and_paths_is_a_key_like_any_other() {
    on_both_stores(|stand| {
        let keys = [
            r#""FLUSHALL""#,
            r#""*1 $8 FLUSHALL""#,
            r#""%0d%0aFLUSHALL%0d%0a""#,
            r#""a; DROP TABLE payments""#,
            r#""'; return redis.call('FLUSHALL')--""#,
            "../../FLUSHALL",
            "/FLUSHALL.txt",
            "%2FFLUSHALL",
            "%2e%2e%2f",
            "a?b=c",
            "a#b",
            "a.json",
            "*",
            "{a}",
            "[a-z]",
        ];
        let pay = |n, key: &str| stand.post(n, "/draft/injection").key(key).body("ten");
        let firsts: Vec<_> = keys.iter().map(|key| pay(0, key).send()).collect();
        for (key, first) in keys.iter().zip(&firsts) {
            executed(first, 1);
            replays(&pay(1, key).send(), first);
        }
        let entries = stand.ledger.entries_for("/draft/injection");
        let operations: BTreeSet<_> = entries.iter().filter_map(|entry| entry.operation.as_deref()).collect();
        assert_eq!((entries.len(), operations.len()), (keys.len(), keys.len()));
        assert!(operations.iter().all(|name| name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit())));
    });
}

/// A gateway that does as the draft says where that is not our default.
fn strict() -> Shared {
    static WORLD: LazyLock<World> = LazyLock::new(|| {
        World::start(json!({
            "problem_base": "https://developer.example.com/idempotency#",
            "policy": {
                "key": { "required": true },
                "statuses": "ietf",
                "outcomes": { "4xx": "store", "5xx": "store", "502": "store", "504": "store" },
            },
        }))
    });
    Shared::new(&WORLD)
}

/// The request is refused with a document that leads to the operator's documentation.
#[track_caller]
fn problem(request: &Request, status: u16, slug: &str, retry_after: Option<&str>) {
    let answer = request.send();
    refused(&answer, status, slug, retry_after);
    assert_eq!(answer.json()["type"], json!(format!("https://developer.example.com/idempotency#{slug}")));
}
