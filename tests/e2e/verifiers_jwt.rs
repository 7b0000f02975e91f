//! Envoy's own jwt_authn in front of the filter, first as it comes: it removes the token that it has verified.
//!
//! Its one rule: two verified subjects never get one answer, and a request that passes without protection says why.
//! It does not know other neighbours. Tokens are real, and signed in callers.rs.

use harness::{Request, SharedWorld, World};
use serde_json::{Value, json};

use crate::callers::{ISSUER, bearer, key_set, token};
use crate::check::{executed, refused, replays, said, shown};
use crate::verifiers::{
    by_default, by_rules, kept_apart, never_mixed, saw_no_token, says_once_that_no_caller_was_seen, unprotected,
};

/// Every setting that matters, each by the first segment of its paths.
pub fn providers() -> Vec<(&'static str, Value)> {
    let local = json!({ "inline_string": key_set().to_string() });
    let remote = json!({ "http_uri": { "uri": "http://helpers/keys", "cluster": "helpers", "timeout": "5s" } });
    let sub = json!([{ "header_name": "x-sub", "claim_name": "sub" }]);
    let own = json!([{ "name": "x-token" }]);
    vec![
        ("jwt", json!({ "local_jwks": local })),
        ("jwt-forward", json!({ "local_jwks": local, "forward": true })),
        ("jwt-metadata", json!({ "local_jwks": local, "payload_in_metadata": "payload" })),
        ("jwt-payload", json!({ "local_jwks": local, "forward_payload_header": "x-jwt-payload" })),
        ("jwt-claims", json!({ "local_jwks": local, "claim_to_headers": sub })),
        ("jwt-header", json!({ "local_jwks": local, "from_headers": own })),
        ("jwt-header-forward", json!({ "local_jwks": local, "from_headers": own, "forward": true })),
        ("jwt-lenient", json!({ "local_jwks": local, "forward": true, "payload_in_metadata": "payload" })),
        (
            "jwt-optional",
            json!({
                "local_jwks": local,
                "forward": true,
                "claim_to_headers": sub,
                "forward_payload_header": "x-jwt-payload",
            }),
        ),
        ("jwt-remote", json!({ "remote_jwks": remote, "payload_in_metadata": "payload" })),
    ]
}

/// The filter with these providers, each required on its own paths.
pub fn filter(providers: &[(&str, Value)]) -> Value {
    let mut known = json!({});
    let mut rules = Vec::new();
    for (name, provider) in providers {
        known[name] = provider.clone();
        known[name]["issuer"] = json!(ISSUER);
        let requires = json!({ "provider_name": name });
        let or = |other: Value| json!({ "requires_any": { "requirements": [requires.clone(), other] } });
        let requires = match *name {
            "jwt-lenient" => or(json!({ "allow_missing_or_failed": {} })),
            "jwt-optional" => or(json!({ "allow_missing": {} })),
            _ => requires,
        };
        rules.push(json!({ "match": { "prefix": format!("/{name}/") }, "requires": requires }));
    }
    let kind = "type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication";
    json!({
        "name": "envoy.filters.http.jwt_authn",
        "typed_config": { "@type": kind, "providers": known, "rules": rules },
    })
}

/// Two tries of this request by each of two subjects, with the same token for both.
fn subjects(pay: &Request) -> [[Request; 2]; 2] {
    ["alice", "bob"].map(|sub| {
        let shown = bearer(&json!({ "sub": sub }));
        [0, 1].map(|_| pay.clone().caller(&shown))
    })
}

/// Two tries of this request by each of two subjects, with a new token for the second.
fn renewing_subjects(pay: &Request) -> [[Request; 2]; 2] {
    ["alice", "bob"].map(|sub| ["1", "2"].map(|jti| pay.clone().caller(bearer(&json!({ "sub": sub, "jti": jti })))))
}

#[test]
fn behind_jwt_authn_as_it_comes_two_subjects_are_never_mixed() {
    let by_claim = json!({ "policy": { "scope": { "caller": [{ "jwt_claim": "sub" }] } } });
    for document in [json!({}), by_claim] {
        let world = World::with(document.clone(), |options| {
            options.mutate(|tree| {
                let filter = filter(&providers()[..1]);
                let filters = &mut harness::gateway::hcm(tree)["http_filters"];
                filters.as_array_mut().expect("http_filters is a list").insert(0, filter);
            })
        });
        let pay = world.post("/jwt/pay").key("k").body("ten");
        for _ in 0..5 {
            never_mixed(&world.ledger, subjects(&pay).as_flattened());
        }
        saw_no_token(&world.ledger, "/jwt/pay");
        assert!(world.ledger.entries().iter().all(|entry| entry.key.as_deref() == Some("k")));
        says_once_that_no_caller_was_seen(&world, "default");
        let line = world.gateway.wait_for_access_log("/jwt/pay");
        assert!(line.contains("idempotency=[bypassed;reason=no-caller"), "{line}");
    }
}

#[test]
fn behind_jwt_authn_as_it_comes_a_rule_that_requires_keys_refuses_in_words_of_its_own() {
    let world = by_rules();
    for path in ["/jwt/required/pay", "/jwt/required-claim/pay"] {
        let pay = world.post(path).key("k").body("ten");
        for request in subjects(&pay).as_flattened() {
            refused(&request.send(), 401, "caller-missing", None);
        }
        refused(&world.post(path).caller(bearer(&json!({ "sub": "alice" }))).send(), 400, "key-missing", None);
        assert_eq!(world.ledger.entries_for(path).len(), 0);
    }
    says_once_that_no_caller_was_seen(&world, "required-claim");
}

#[test]
fn the_log_names_a_rule_behind_jwt_authn_once_a_minute() {
    let world = by_rules();
    let pay = world.post("/jwt/verified/pay").key("k").body("ten");
    for _ in 0..5 {
        never_mixed(&world.ledger, subjects(&pay).as_flattened());
    }
    says_once_that_no_caller_was_seen(&world, "verified");
}

#[test]
fn behind_jwt_authn_that_forwards_the_token_subjects_are_kept_apart() {
    let (world, by_rules) = (by_default(), by_rules());
    kept_apart(&world.ledger, subjects(&world.post("/jwt-forward/pay").key("k").body("ten")));
    let pay = by_rules.post("/jwt-forward/claim/pay").key("k").body("ten");
    kept_apart(&by_rules.ledger, renewing_subjects(&pay));
    kept_apart(&by_rules.ledger, subjects(&by_rules.post("/jwt-forward/required/pay").key("k").body("ten")));
}

#[test]
fn the_verified_payload_as_a_property_keeps_subjects_apart_without_their_token() {
    let (world, by_rules) = (by_default(), by_rules());
    for neighbour in ["jwt-metadata", "jwt-remote"] {
        let pay = |world: &World, rest: &str| world.post(&format!("/{neighbour}/{rest}")).key("k").body("ten");
        never_mixed(&world.ledger, subjects(&pay(&world, "mixed")).as_flattened());
        never_mixed(&by_rules.ledger, subjects(&pay(&by_rules, "claim/mixed")).as_flattened());
        kept_apart(&by_rules.ledger, renewing_subjects(&pay(&by_rules, "property/apart")));
        saw_no_token(&by_rules.ledger, &format!("/{neighbour}/property/apart"));
    }
}

#[test]
fn the_forwarded_payload_keeps_subjects_apart_where_the_scope_reads_it() {
    let (world, by_rules) = (by_default(), by_rules());
    let pay = |world: &World, path: &str| world.post(path).key("k").body("ten");
    never_mixed(&world.ledger, subjects(&pay(&world, "/jwt-payload/mixed")).as_flattened());
    let [alice, bob] = subjects(&pay(&by_rules, "/jwt-payload/jwt-payload/apart"));
    let of_alice = token(&json!({ "sub": "alice" })).split('.').nth(1).unwrap_or_default().to_owned();
    kept_apart(&by_rules.ledger, [alice, bob.map(|pay| pay.header("x-jwt-payload", &of_alice))]);
    // It is a credential: those who have one are not those who show none.
    never_mixed(&by_rules.ledger, subjects(&pay(&by_rules, "/jwt-payload/share/mixed")).as_flattened());
}

#[test]
fn a_claim_in_a_header_keeps_subjects_apart_whatever_clients_write_there() {
    let (world, by_rules) = (by_default(), by_rules());
    let pay = |world: &World, path: &str| world.post(path).key("k").body("ten");
    never_mixed(&world.ledger, subjects(&pay(&world, "/jwt-claims/mixed")).as_flattened());
    let [alice, bob] = renewing_subjects(&pay(&by_rules, "/jwt-claims/sub/apart"));
    kept_apart(&by_rules.ledger, [alice, bob.map(|pay| pay.header("x-sub", "alice"))]);
}

#[test]
fn a_token_in_a_header_of_its_own_is_taken_away_too_and_keeps_subjects_apart_where_it_stays() {
    let (world, by_rules) = (by_default(), by_rules());
    let with_own = |world: &World, path: &str| {
        let pay = world.post(path).anonymous().key("k").body("ten");
        ["alice", "bob"].map(|sub| [0, 1].map(|_| pay.clone().header("x-token", token(&json!({ "sub": sub })))))
    };
    never_mixed(&world.ledger, with_own(&world, "/jwt-header/mixed").as_flattened());
    never_mixed(&world.ledger, with_own(&world, "/jwt-header-forward/mixed").as_flattened());
    never_mixed(&by_rules.ledger, with_own(&by_rules, "/jwt-header/token/mixed").as_flattened());
    kept_apart(&by_rules.ledger, with_own(&by_rules, "/jwt-header-forward/token/apart"));
}

#[test]
fn a_forged_token_gets_no_replay_behind_any_setting_that_refuses_it() {
    let world = by_rules();
    for (neighbour, _) in providers().into_iter().filter(|(neighbour, _)| *neighbour != "jwt-lenient") {
        let pay = world.post(&format!("/{neighbour}/claim/forged")).key("k").body("ten");
        let genuine = token(&json!({ "sub": "alice" }));
        let with = |token: &str| pay.clone().caller(format!("Bearer {token}")).header("x-token", token).send();
        assert_eq!(with(&genuine).status, 201, "{neighbour}");
        let before = world.ledger.entries_for(pay.path()).len();
        let (signed, _) = genuine.rsplit_once('.').expect("a token has three pieces");
        for forged in [format!("{signed}.{}", "A".repeat(43)), format!("{signed}.")] {
            let answer = with(&forged);
            assert_eq!((answer.status, said(&answer)), (401, ""), "{neighbour}: {}", shown(&answer));
        }
        assert_eq!(world.ledger.entries_for(pay.path()).len(), before, "{neighbour}");
    }
}

#[test]
fn a_token_that_jwt_authn_does_not_see_tells_no_caller() {
    let world = by_rules();
    let genuine = token(&json!({ "sub": "alice" }));
    let (signed, _) = genuine.rsplit_once('.').expect("a token has three pieces");
    let own = token(&json!({ "sub": "mallory" }));
    // Mallory passes by a token of her own in the query, and where a client may do without, by none.
    let places = [
        ("/jwt-forward/no-query/unseen", format!("?access_token={own}")),
        ("/jwt-optional/claim/unseen", String::new()),
    ];
    for (path, query) in places {
        let pay = |query: &str| world.post(&format!("{path}{query}")).key("k").body("ten");
        let first = pay("").caller(format!("Bearer {genuine}")).send();
        executed(&first, 1);
        for scheme in ["bearer ", "BEARER ", "Bearer\t"] {
            never_mixed(&world.ledger, [&pay(&query).caller(format!("{scheme}{signed}.forged"))]);
        }
        replays(&pay("").caller(format!("Bearer {genuine}")).send(), &first);
    }
    // What jwt_authn would have written, written by a client.
    let pay = |path: &str| world.post(path).anonymous().key("k").body("ten");
    never_mixed(&world.ledger, [&pay("/jwt-optional/sub/unseen").header("x-sub", "alice")]);
    never_mixed(&world.ledger, [&pay("/jwt-optional/jwt-payload/unseen").header("x-jwt-payload", "e30")]);
}

#[test]
fn where_a_wrong_token_passes_the_verified_payload_tells_who_has_a_right_one() {
    let world = by_rules();
    let pay = world.post("/jwt-lenient/property/pay").key("k").body("ten");
    kept_apart(&world.ledger, renewing_subjects(&pay));
    let genuine = bearer(&json!({ "sub": "alice" }));
    let (signed, _) = genuine.rsplit_once('.').expect("a token has three pieces");
    never_mixed(&world.ledger, [&pay.clone().caller(format!("{signed}.forged")), &pay.anonymous()]);
}

/// The same on gateways that share a Redis: its records know no more of a caller than those of one gateway.
#[track_caller]
pub fn on_redis(world: &SharedWorld) {
    let at_both = |[first, again]: [Request; 2]| [first, again.to(world.other())];
    let pay = |path: &str| world.post(path).key("k").body("ten");
    never_mixed(&world.ledger, subjects(&pay("/jwt/claim/mixed")).map(at_both).as_flattened());
    never_mixed(&world.ledger, subjects(&pay("/jwt/jwt-payload/mixed")).map(at_both).as_flattened());
    kept_apart(&world.ledger, renewing_subjects(&pay("/jwt-forward/claim/apart")).map(at_both));
    kept_apart(&world.ledger, renewing_subjects(&pay("/jwt-metadata/property/apart")).map(at_both));
    let [alice, bob] = subjects(&pay("/jwt/required-claim/mixed")).map(at_both);
    for request in alice.iter().chain(&bob) {
        refused(&request.send(), 401, "caller-missing", None);
    }
    unprotected(&pay("/jwt/claim/mixed").caller(bearer(&json!({ "sub": "carol" }))).send());
}
