//! What docs/keys.md says of the places before and behind other filters: what goes wrong where this one stands elsewhere.
//!
//! Its one rule: each place is shown with what a caller gets there, right or wrong.
//! It does not know filters that leave callers and payloads as they are: that is `neighbours`.

use harness::gateway::hcm;
use harness::ledger::base64;
use harness::{PATIENCE, World, wait_until};
use serde_json::{Value, json};

use crate::callers::{ISSUER, bearer, key_set};
use crate::check::{executed, not_stored, replays};
use crate::verifiers::kept_apart;
use crate::worlds::rule;

/// `envoy/local.yaml` with this filter at this place: 0 is in front of ours, 1 behind it.
fn beside(place: usize, kind: &str, mut config: Value, document: Value) -> World {
    config["@type"] = json!(format!("type.googleapis.com/envoy.extensions.filters.http.{kind}"));
    World::with(document, |options| {
        options.mutate(move |tree| {
            let secret = json!({ "inline_string": "Bearer of-the-gateway" });
            tree["static_resources"]["secrets"] =
                json!([{ "name": "of-the-gateway", "generic_secret": { "secret": secret } }]);
            let filters = hcm(tree)["http_filters"].as_array_mut().expect("http_filters is a list");
            filters.insert(place, json!({ "name": "neighbour", "typed_config": config }));
        })
    })
}

/// A token of this subject that no issuer has signed.
fn unsigned(sub: &str) -> String {
    let piece = |value: Value| base64(value.to_string()).trim_end_matches('=').to_owned();
    format!("Bearer {}.{}.", piece(json!({ "alg": "none" })), piece(json!({ "iss": ISSUER, "sub": sub })))
}

#[test]
fn in_front_of_authentication_an_unsigned_token_gets_the_answer_of_its_subject_and_disturbs_the_subjects_keys() {
    let requires = json!([{ "match": { "prefix": "/" }, "requires": { "provider_name": "issuer" } }]);
    let keys = json!({ "inline_string": key_set().to_string() });
    let config = json!({ "providers": { "issuer": { "issuer": ISSUER, "local_jwks": keys, "forward": true } }, "rules": requires });
    let scope = json!({ "caller": [{ "jwt_claim": "sub" }] });
    let document = json!({ "rules": [
        rule("/kept/", json!({ "scope": scope, "outcomes": { "4xx": "store" } })),
        rule("/", json!({ "scope": scope })),
    ] });
    for (place, is_in_front) in [(0, false), (1, true)] {
        let world = beside(place, "jwt_authn.v3.JwtAuthentication", config.clone(), document.clone());
        let pay = |path: &str, token: String| world.post(path).key("k").caller(token).body("ten").send();
        let genuine = || bearer(&json!({ "sub": "alice" }));

        let first = pay("/pay", genuine());
        executed(&first, 1);
        let stolen = pay("/pay", unsigned("alice"));
        match is_in_front {
            true => replays(&stolen, &first),
            false => assert_eq!((stolen.status, stolen.header("idempotency-status")), (401, None)),
        }

        // Of a key that its subject has not used yet, an attempt is counted; where refusals are kept, it is used up.
        let (refused, kept) = (pay("/next", unsigned("alice")), pay("/kept/next", unsigned("alice")));
        assert_eq!((refused.status, kept.status), (401, 401));
        let subjects = [pay("/next", genuine()), pay("/kept/next", genuine())];
        match is_in_front {
            true => {
                not_stored(&refused, 401, 1, "released");
                executed(&subjects[0], 2);
                replays(&subjects[1], &kept);
            }
            false => subjects.iter().for_each(|answer| executed(answer, 1)),
        }
    }
}

#[test]
fn in_front_of_a_rate_limit_the_table_fills_with_what_was_limited() {
    let always = json!({ "default_value": { "numerator": 100, "denominator": "HUNDRED" } });
    let bucket = json!({ "max_tokens": 1, "tokens_per_fill": 1, "fill_interval": "3600s" });
    let config = json!({
        "stat_prefix": "limit", "token_bucket": bucket, "filter_enabled": always, "filter_enforced": always,
    });
    for (place, fills) in [(0, false), (1, true)] {
        let world = beside(place, "local_ratelimit.v3.LocalRateLimit", config.clone(), json!({}));
        let pay = |key: String| world.post("/pay").key(key).body("ten").send();
        let bytes = || world.gateway.stat("wasmcustom.idempotency_store_bytes");
        executed(&pay("first".to_owned()), 1);
        wait_until("the gauge tells", PATIENCE, || bytes() > 0);
        let before = bytes();
        for number in 0..100 {
            let limited = pay(format!("limited-{number}"));
            match fills {
                true => not_stored(&limited, 429, 1, "released"),
                false => assert_eq!((limited.status, limited.header("idempotency-status")), (429, None)),
            }
        }
        match fills {
            true => wait_until("the table has grown", PATIENCE, || bytes() > before + 100 * 32),
            false => assert_eq!(bytes(), before),
        }
        assert_eq!(world.ledger.entries().len(), 1);
    }
}

#[test]
fn behind_a_filter_that_changes_the_body_the_changed_body_counts() {
    const SAME: &str = r#"function envoy_on_request(handle)
  local size = handle:body():setBytes("the same")
  handle:headers():replace("content-length", size)
end"#;
    let config = json!({ "default_source_code": { "inline_string": SAME } });
    let world = beside(0, "lua.v3.Lua", config, json!({}));
    let pay = |body: &str| world.post("/pay").key("k").body(body).send();
    let first = pay("ten");
    executed(&first, 1);
    replays(&pay("another one"), &first);
    assert_eq!(world.ledger.entries()[0].body_len, "the same".len());
}

#[test]
fn behind_a_filter_that_writes_one_credential_for_all_the_scope_must_read_what_they_sent_before() {
    let kind = "type.googleapis.com/envoy.extensions.http.injected_credentials.generic.v3.Generic";
    let generic = json!({ "@type": kind, "credential": { "name": "of-the-gateway" } });
    let config = json!({ "overwrite": true, "credential": { "name": "generic", "typed_config": generic } });
    let by_key = rule("/by-key/", json!({ "scope": { "caller": [{ "header": "x-api-key" }] } }));
    let document = json!({ "rules": [by_key, rule("/", json!({}))] });
    for (place, is_behind) in [(0, true), (1, false)] {
        let world = beside(place, "credential_injector.v3.CredentialInjector", config.clone(), document.clone());
        let tries = |path: &str| {
            ["alice", "bob"].map(|id| {
                let pay = world.post(path).key("k").caller(format!("Bearer {id}")).header("x-api-key", id).body("ten");
                [pay.clone(), pay]
            })
        };
        let [[alice, _], [bob, _]] = tries("/pay");
        let first = alice.send();
        executed(&first, 1);
        match is_behind {
            true => replays(&bob.send(), &first),
            false => executed(&bob.send(), 1),
        }
        kept_apart(&world.ledger, tries("/by-key/pay"));
        let entries = world.ledger.entries();
        assert!(entries.iter().all(|entry| entry.header("authorization") == Some("Bearer of-the-gateway")));
    }
}
