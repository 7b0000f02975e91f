//! Who is asking, where a token or the host tells: with real tokens behind Envoy's own jwt_authn filter.
//!
//! Its one rule: a caller that cannot be told is never taken for another.
//! It does not know how keys are read.

use std::sync::LazyLock;

use base64ct::{Base64UrlUnpadded, Encoding};
use harness::gateway::hcm;
use harness::{SharedWorld, World};
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::Sha256;

use crate::check::{executed, refused, replays, said};
use crate::verifiers::{kept_apart, never_mixed};
use crate::worlds::{self, Shared};

const SECRET: &[u8] = b"a secret that only the issuer and the gateway know";
/// Who has issued the tokens.
pub const ISSUER: &str = "https://issuer.example.com";

fn world() -> Shared {
    static WORLD: LazyLock<World> = LazyLock::new(|| World::with(document(), |options| options.mutate(authenticate)));
    Shared::new(&WORLD)
}

fn document() -> Value {
    let rule =
        |prefix: &str, scope: Value| json!({ "match": { "path": { "prefix": prefix } }, "policy": { "scope": scope } });
    let tenant = json!([{ "header": "authorization" }, { "header": "x-tenant" }]);
    let ids = json!([{ "header": "x-user-id" }, { "header": "x-client-id" }]);
    let payload = ["metadata", "filter_metadata", "envoy.filters.http.jwt_authn", "payload", "sub"];
    json!({
        "rules": [
            rule("/claim/", json!({ "caller": [{ "jwt_claim": "sub" }] })),
            rule("/open/claim/", json!({ "caller": [{ "jwt_claim": "sub" }] })),
            rule("/open/refuse/", json!({ "caller": [{ "jwt_claim": "sub" }], "anonymous": "refuse" })),
            rule("/open/two/", json!({ "caller": [{ "jwt_claim": "sub" }, { "header": "x-tenant" }] })),
            rule("/open/tenant/", json!({ "caller": tenant })),
            rule("/open/tenants-share/", json!({ "caller": tenant, "anonymous": "share" })),
            rule("/open/payload/", json!({ "caller": [{ "property": payload }, { "header": "x-tenant" }] })),
            rule("/open/number/", json!({ "caller": [{ "jwt_claim": "account" }] })),
            rule("/metadata/", json!({ "caller": [{ "property": payload }] })),
            rule("/open/metadata/", json!({ "caller": [{ "property": payload }] })),
            rule("/open/query/", json!({ "caller": [{ "query": "tenant" }, { "cookie": "sid" }] })),
            rule("/open/any/", json!({ "caller": [{ "any": ids }] })),
            rule("/open/each/", json!({ "caller": ids })),
            rule("/open/address/", json!({ "caller": [{ "property": ["source", "address"] }] })),
        ],
    })
}

/// Puts Envoy's jwt_authn in front of the filter, for every path that is not open.
fn authenticate(tree: &mut Value) {
    let filter = json!({
        "name": "envoy.filters.http.jwt_authn",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication",
            "providers": { "issuer": {
                "issuer": ISSUER,
                "local_jwks": { "inline_string": key_set().to_string() },
                "payload_in_metadata": "payload",
                "forward": true,
            } },
            "rules": [
                { "match": { "prefix": "/open/" } },
                { "match": { "prefix": "/" }, "requires": { "provider_name": "issuer" } },
            ],
        },
    });
    hcm(tree)["http_filters"].as_array_mut().expect("http_filters is a list").insert(0, filter);
}

/// What verifies the issuer's tokens.
pub fn key_set() -> Value {
    let key = json!({ "kty": "oct", "alg": "HS256", "kid": "k1", "k": Base64UrlUnpadded::encode_string(SECRET) });
    json!({ "keys": [key] })
}

/// A signed token with these claims, the issuer added.
pub fn token(claims: &Value) -> String {
    let mut claims = claims.clone();
    claims["iss"] = json!(ISSUER);
    let piece = |value: &Value| Base64UrlUnpadded::encode_string(value.to_string().as_bytes());
    let signed = format!("{}.{}", piece(&json!({ "alg": "HS256", "kid": "k1", "typ": "JWT" })), piece(&claims));
    let mut mac = Hmac::<Sha256>::new_from_slice(SECRET).expect("HMAC takes keys of any length");
    mac.update(signed.as_bytes());
    format!("{signed}.{}", Base64UrlUnpadded::encode_string(&mac.finalize().into_bytes()))
}

/// The token as `authorization` shows it.
pub fn bearer(claims: &Value) -> String {
    format!("Bearer {}", token(claims))
}

#[test]
fn a_refreshed_token_of_the_same_subject_is_the_same_caller() {
    let world = world();
    for path in ["/claim/pay", "/metadata/pay"] {
        let pay = |claims: Value| world.post(path).key("k").header("authorization", bearer(&claims)).body("ten").send();
        let first = pay(json!({ "sub": "alice", "exp": 4_000_000_000_u64, "jti": "1" }));
        executed(&first, 1);
        replays(&pay(json!({ "sub": "alice", "exp": 4_000_000_900_u64, "jti": "2" })), &first);
        executed(&pay(json!({ "sub": "bob", "exp": 4_000_000_000_u64 })), 1);
        assert_eq!(world.ledger.entries_for(path).len(), 2, "{path}");
    }
}

#[test]
fn a_token_that_the_authentication_refuses_never_gets_to_a_replay() {
    let world = world();
    let good = bearer(&json!({ "sub": "carol" }));
    let pay = |authorization: &str| {
        world.post("/claim/forged").key("k").header("authorization", authorization).body("ten").send()
    };
    executed(&pay(&good), 1);
    let forged = format!("{}x", &good[..good.len() - 1]);
    let answer = pay(&forged);
    assert_eq!((answer.status, said(&answer)), (401, ""));
    let expired = pay(&bearer(&json!({ "sub": "carol", "exp": 1 })));
    assert_eq!((expired.status, said(&expired)), (401, ""));
    assert_eq!(world.ledger.entries_for("/claim/forged").len(), 1);
}

#[test]
fn a_token_that_cannot_be_read_tells_no_caller() {
    let world = world();
    let piece = |text: &[u8]| Base64UrlUnpadded::encode_string(text);
    let with = |payload: &[u8]| format!("Bearer e30.{}.sig", piece(payload));
    let unreadable = [
        "Bearer".to_owned(),
        "Bearer ".to_owned(),
        "bearer not-a-token".to_owned(),
        "Bearer a.b".to_owned(),
        "Bearer a.b.c.d".to_owned(),
        "Bearer e30.!!!.sig".to_owned(),
        "Bearer e30.e30=.sig".to_owned(),
        with(b"{}"),
        with(b"[]"),
        with(b"\"sub\""),
        with(b"{\"sub\":"),
        with(b"{\"sub\": \"\"}"),
        with(b"{\"sub\": \" \"}"),
        with(b"{\"sub\": null}"),
        with(b"{\"sub\": [\"dave\"]}"),
        with(b"{\"sub\": \"dave\", \"sub\": \"erin\"}"),
        with(b"{\"sub\": \"\xff\"}"),
        with("[".repeat(10_000).as_bytes()),
    ];
    for authorization in &unreadable {
        let pay = |path: &str| world.post(path).key("k").header("authorization", authorization).body("ten");
        let shown = &authorization[..authorization.len().min(60)];
        assert_eq!(said(&pay("/open/claim/unreadable").send()), "bypassed;reason=no-caller", "{shown}");
        refused(&pay("/open/refuse/unreadable").send(), 401, "caller-missing", None);
        // Nor do the other parts tell a caller that shows a token which cannot be read.
        let two = pay("/open/two/unreadable").header("x-tenant", "t").send();
        assert_eq!(said(&two), "bypassed;reason=no-caller", "{shown}");
    }
    let twice = world.post("/open/claim/unreadable").key("k").header("authorization", with(b"{\"sub\": \"dave\"}"));
    let twice = twice.header("authorization", with(b"{\"sub\": \"erin\"}")).body("ten").send();
    assert_eq!(said(&twice), "bypassed;reason=no-caller");
    // Another scheme is a credential that the scope does not look at.
    let basic =
        world.post("/open/claim/unreadable").key("k").header("authorization", "Basic ZGF2ZTpw").body("ten").send();
    assert_eq!(said(&basic), "bypassed;reason=no-caller");
    assert_eq!(world.ledger.entries_for("/open/refuse/unreadable").len(), 0);
}

#[test]
fn callers_who_differ_in_one_part_share_nothing() {
    let world = world();
    let pay = |path: &str, sub: Value, tenant: &str| {
        let request = world.post(path).key("k").header("authorization", bearer(&sub));
        request.header("x-tenant", tenant).body("ten").send()
    };
    let first = pay("/open/two/apart", json!({ "sub": "a" }), "bc");
    executed(&first, 1);
    executed(&pay("/open/two/apart", json!({ "sub": "ab" }), "c"), 1);
    replays(&pay("/open/two/apart", json!({ "sub": "a" }), "bc"), &first);
    let number = |account: Value| {
        let request =
            world.post("/open/number/pay").key("k").header("authorization", bearer(&json!({ "account": account })));
        request.body("ten").send()
    };
    let first = number(json!(9_007_199_254_740_993_u64));
    executed(&first, 1);
    executed(&number(json!(9_007_199_254_740_992_u64)), 1);
    replays(&number(json!(9_007_199_254_740_993_u64)), &first);
    assert_eq!(said(&number(json!(1.5))), "bypassed;reason=no-caller");
}

#[test]
fn an_attribute_that_the_host_does_not_have_tells_no_caller() {
    let world = world();
    let pay = world.post("/open/metadata/pay").key("k").body("ten");
    let unverified = bearer(&json!({ "sub": "mallory" }));
    never_mixed(&world.ledger, &[pay.clone().anonymous(), pay.clone().caller(unverified), pay]);
}

#[test]
fn a_scheme_of_what_stays_tells_a_caller_and_any_other_none() {
    let world = worlds::plain();
    let pay = world.post("/callers/schemes").key("k").body("ten");
    let told =
        ["Bearer alice", "bearer alice", "Basic YWxpY2U6cA==", "DPoP alice", "Token alice", "ApiKey alice", "alice"];
    for shown in told {
        let first = pay.clone().caller(shown).send();
        executed(&first, 1);
        replays(&pay.clone().caller(shown).send(), &first);
    }
    let untold = [
        "Negotiate YII=",
        "NTLM TlRMTVNTUAAB",
        "AWS4-HMAC-SHA256 Credential=alice/1/eu/pay/aws4_request, SignedHeaders=host, Signature=x",
        "Digest username=\"alice\"",
        "Hawk id=\"alice\"",
        "Bearertoken alice",
        "X alice",
        // What is left of a credential, the same for every caller.
        "Bearer",
        "Basic ",
        "token",
        "hawk",
        // Parameters without a scheme.
        "id=\"alice\",mac=\"x\"",
        "alice,bob",
        " ",
    ];
    for shown in untold {
        never_mixed(&world.ledger, &[pay.clone().caller(shown), pay.clone().caller(shown)]);
    }
    // Envoy makes one line of two, which is neither's.
    let alice = pay.clone().caller("Bearer alice").send();
    let both = pay.header("authorization", "Bearer alice").header("authorization", "Bearer bob").send();
    assert_ne!(both.body, alice.body);
}

#[test]
fn user_42_and_client_42_are_two_callers() {
    let world = world();
    for path in ["/open/any/pay", "/open/each/pay"] {
        let pay = world.post(path).anonymous().key("k").body("ten");
        kept_apart(
            &world.ledger,
            ["x-user-id", "x-client-id"].map(|name| [0, 1].map(|_| pay.clone().header(name, "42"))),
        );
        never_mixed(&world.ledger, [&pay.clone().header("x-user-id", " "), &pay, &pay.clone().caller("Bearer 42")]);
    }
    let both = |user: &str, client: &str| {
        world.post("/open/each/both").key("k").header("x-user-id", user).header("x-client-id", client).body("ten")
    };
    kept_apart(&world.ledger, [("4", "2"), ("2", "4")].map(|(user, client)| [0, 1].map(|_| both(user, client))));
}

#[test]
fn a_query_parameter_and_a_cookie_tell_callers_apart() {
    let world = world();
    let pay = |path: &str, cookie: &str| world.post(path).key("k").header("cookie", cookie).body("ten").send();
    let first = pay("/open/query/pay?tenant=a%20b", "sid=1; x=2");
    executed(&first, 1);
    replays(&pay("/open/query/pay?tenant=a%20b", "x=3; sid=1"), &first);
    executed(&pay("/open/query/pay?tenant=a%20b", "sid=2"), 1);
    // The query is part of the fingerprint, the caller of the name: another tenant is no mismatch.
    executed(&pay("/open/query/pay?tenant=b", "sid=1"), 1);
    let hostile = (0..10_000).map(|index| format!("p{index}=v")).collect::<Vec<_>>().join("&");
    let answer = pay(&format!("/open/query/pay?tenant=a&{}", &hostile[..50_000]), "sid=\u{fe}\u{ff}");
    executed(&answer, 1);
    assert!(world.gateway.is_running());
}

#[test]
fn gateways_on_one_redis_know_the_same_subject() {
    let redis = harness::Redis::start();
    let world = SharedWorld::with(redis, &[document(), document()], |options| options.mutate(authenticate));
    let pay = world.post("/claim/pay").key("k").body("ten");
    let pays = ["alice", "bob"].map(|sub| {
        let [first, again] = ["1", "2"].map(|jti| pay.clone().caller(bearer(&json!({ "sub": sub, "jti": jti }))));
        [first, again.to(world.other())]
    });
    kept_apart(&world.ledger, pays);
}

#[test]
fn beside_a_credential_a_tenant_is_no_caller_by_itself() {
    let world = world();
    for path in ["/open/two/alone", "/open/tenant/alone", "/open/payload/alone"] {
        let pay = world.post(path).anonymous().key("k").header("x-tenant", "t").body("ten");
        never_mixed(&world.ledger, &["alice", "bob"].map(|id| pay.clone().header("x-api-key", id)));
    }
    let tenant = |name: &str| world.post("/open/tenant/beside").key("k").header("x-tenant", name).body("ten");
    kept_apart(&world.ledger, ["t", "u"].map(|name| [0, 1].map(|_| tenant(name))));
    let shared = |name: &str| world.post("/open/tenants-share/pay").anonymous().key("k").header("x-tenant", name);
    kept_apart(&world.ledger, ["t", "u"].map(|name| [0, 1].map(|_| shared(name).body("ten"))));
}

#[test]
fn a_tenant_that_is_no_part_of_the_scope_gets_the_answer_of_another() {
    let world = worlds::plain();
    let pay = |tenant: &str| world.post("/callers/tenants").key("k").header("x-tenant", tenant).body("ten").send();
    let first = pay("a");
    executed(&first, 1);
    replays(&pay("b"), &first);
    let world = self::world();
    let pays = ["a", "b"].map(|tenant| {
        let pay = world.post("/open/tenant/part").key("k").header("x-tenant", tenant).body("ten");
        [pay.clone(), pay]
    });
    kept_apart(&world.ledger, pays);
}

#[test]
fn an_address_makes_another_caller_of_each_connection() {
    let world = world();
    let pay = world.post("/open/address/pay").key("k").body("ten");
    // One request is one connection.
    for _ in 0..3 {
        executed(&pay.send(), 1);
    }
    assert_eq!(world.ledger.entries_for("/open/address/pay").len(), 3);
}
