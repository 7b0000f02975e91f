//! The 17 probes and the 8 integration cases of udleinati/kong-plugin-idempotency (`playground/edge.sh`,
//! `spec/02-integration/02-access_spec.lua`), the strongest peer among gateways.
//!
//! Its one rule: a probe is shown once. It does not know of Kong.
//!
//! Ours differs on purpose in four: a duplicate in flight and another payload have statuses that operators choose
//! (`statuses: ietf` gives the plugin's 409 and 422); an empty key is refused everywhere, not passed where keys are
//! optional; a connection that broke is no failure but an unknown outcome, so the retry waits for the lease; and
//! whoever hangs up leaves such an outcome too, unless the execution is shielded.
//!
//! | probe | shown by |
//! |---|---|
//! | 1 a duplicate in flight is refused | `e2e::running::the_statuses_of_the_ietf_draft_can_be_chosen` |
//! | 2 of a burst one reaches the service | `e2e::running::of_64_connections_at_once_one_executes_with_the_statuses_of_the_draft` |
//! | 3 PUT is left alone | `e2e::scope::a_route_without_a_rule_is_untouched` |
//! | 4 paths do not share keys | `e2e::scope::another_path_executes` |
//! | 5 a 201 stays a 201 | `e2e::outcomes::success_and_redirection_are_stored` |
//! | 6, 15 a 500 does not stick | `e2e::outcomes::a_failure_of_the_service_lets_the_same_payload_run_again_at_once` |
//! | 7 headers of the service's own come back | `e2e::replay::status_headers_and_binary_body_come_back_byte_for_byte` |
//! | 8 records expire | `e2e::unknown::an_expired_key_runs_again` |
//! | 9 an empty key is nobody's | `e2e::black_box::kong::an_empty_key_is_shared_by_nobody_and_is_no_key_where_one_is_required` |
//! | 10 binary bodies come back byte for byte | `e2e::replay::status_headers_and_binary_body_come_back_byte_for_byte` |
//! | 11 a key that ends like a name of the store's own | `e2e::black_box::kong::a_key_that_ends_like_something_of_the_store_meets_nothing_of_it` |
//! | 12 a service that breaks off leaves no lock behind | `e2e::unknown::a_reset_before_the_answer_is_unknown` |
//! | 13 the client goes and comes back | `e2e::unknown::a_client_that_hangs_up_leaves_an_unknown_outcome`, `e2e::shielded::a_client_that_hangs_up_while_the_service_works_finds_the_answer_stored` |
//! | 14 another payload is refused | `e2e::running::a_key_used_with_another_payload_is_a_mismatch` |
//! | 16 PUT where it is named | `e2e::scope::another_method_executes` |
//! | 17 Redis is gone: one route refuses, another passes | `e2e::black_box::kong::with_redis_gone_one_route_refuses_and_another_passes` |
//!
//! | integration case | shown by |
//! |---|---|
//! | the record has the time to live that was asked for | `e2e::redis::a_record_lives_as_long_as_it_was_said_to` |
//! | a duplicate sees the first answer, not its own | `e2e::running::query_and_media_type_are_part_of_the_payload_and_other_headers_are_not` |
//! | a lock that another holds | `e2e::redis::a_request_that_runs_here_is_in_flight_there` |
//! | required and missing | `e2e::keys::a_key_can_be_required` |
//! | required and empty | `e2e::black_box::kong::an_empty_key_is_shared_by_nobody_and_is_no_key_where_one_is_required` |
//! | no key, none required | `e2e::replay::requests_without_a_key_execute_every_time` |
//! | GET | `e2e::scope::a_get_is_untouched` |
//! | its former configuration | does not concern us |

use harness::{PATIENCE, SharedWorld, wait_for, wait_until};
use serde_json::json;

use super::on_both_stores;
use crate::check::{executed, refused, replays, said};
use crate::redis::PATIENT_MS;
use crate::worlds::{plain, rules};

#[test]
fn an_empty_key_is_shared_by_nobody_and_is_no_key_where_one_is_required() {
    let (optional, required) = (plain(), rules());
    for pay in [optional.post("/kong/empty"), required.post("/required/kong-empty")] {
        for (key, who) in [("", "alice"), ("", "bob"), ("\"\"", "alice"), ("\"\"", "bob")] {
            refused(&pay.clone().key(key).header("x-who", who).body("{}").send(), 400, "key-invalid", None);
        }
    }
    assert_eq!(optional.ledger.entries_for("/kong/empty").len(), 0);
    assert_eq!(required.ledger.entries_for("/required/kong-empty").len(), 0);
}

#[test]
fn a_key_that_ends_like_something_of_the_store_meets_nothing_of_it() {
    on_both_stores(|stand| {
        let path = "/suffixes";
        let pay = |n, key: &str| stand.post(n, path).key(key);
        let mut running = pay(0, "k").header("x-test-hold", "suffixes").body("{}").open();
        running.write("{}");
        wait_until("it runs", PATIENCE, || stand.attempts(path).len() == 1);
        let like = ["k-response", "k:response", "k-lock", "k:lock", "k:k", "idem:k", "k.", "k-", "k/"];
        let firsts: Vec<_> = like.iter().map(|key| pay(0, key).body("{}").send()).collect();
        for (key, first) in like.iter().zip(&firsts) {
            executed(first, 1);
            replays(&pay(1, key).body("{}").send(), first);
        }
        refused(&pay(1, "k").body("{}").send(), 429, "in-flight", Some("1"));
        stand.ledger.open("suffixes");
        let first = running.response();
        executed(&first, 1);
        replays(&pay(1, "k").body("{}").send(), &first);
        assert_eq!(stand.ledger.entries_for(path).len(), 1 + like.len());
    });
}

#[test]
fn with_redis_gone_one_route_refuses_and_another_passes() {
    let world = SharedWorld::alone(json!({
        "store": { "timeout_ms": PATIENT_MS },
        "policy": { "ttl_s": 1800 },
        "rules": [
            { "match": { "path": { "prefix": "/open/" } }, "policy": { "on_store_failure": "forward" } },
            { "match": { "path": { "prefix": "/strict/" } } },
        ],
    }));
    let pay = |path: &str, key: usize| world.post(path).key(format!("k{key}")).body("{}");
    world.redis.kill();
    // Each under a key of its own: what is owed for one is in flight here until Redis is back.
    for count in 1..=2 {
        refused(&pay("/strict/pay", count).send(), 503, "store-unavailable", Some("1"));
        let passed = pay("/open/pay", count).send();
        assert_eq!((passed.status, said(&passed)), (201, "bypassed;reason=store-failure"));
        let [refused, passed] = ["/strict/pay", "/open/pay"].map(|path| world.ledger.entries_for(path));
        assert_eq!((refused.len(), passed.len()), (0, count));
        assert!(passed.iter().all(|entry| entry.operation.is_none() && entry.attempt.is_none()));
    }
    world.redis.restart();
    let strict = pay("/strict/pay", 1);
    let first = wait_for("Redis is asked again", PATIENCE, || Some(strict.send()).filter(|it| it.status == 201));
    replays(&strict.send(), &first.unwrap());
    assert_eq!(world.ledger.entries_for("/strict/pay").len(), 1);
}
