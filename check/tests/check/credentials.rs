//! Errors about credentials that never reach the filter: each is provoked by a filter in front of `envoy/local.yaml`'s.

use serde_json::{Value, json};

use crate::{behind, check_changed, document_of, filters, host, jwt, put_in_front, set_document};

const LOST_TOKEN: &str = "envoy.filters.http.jwt_authn removes header authorization once it has verified the token of \
                          provider main there, and scope.caller of rule default reads it, so such callers are not told \
                          apart: set `forward: true` in provider main, or give main `payload_in_metadata: payload` and \
                          read {\"property\": [\"metadata\", \"filter_metadata\", \"envoy.filters.http.jwt_authn\", \
                          \"payload\", \"sub\"]} in scope.caller";

#[test]
fn a_token_that_jwt_authn_removes_is_an_error() {
    assert_eq!(behind("{}", "jwt_authn", jwt(json!({}))).errors(), [LOST_TOKEN]);
    let claim = document_of(json!([{ "jwt_claim": "sub" }]));
    assert_eq!(
        behind(&claim, "jwt_authn", jwt(json!({ "forward": false }))).errors(),
        [LOST_TOKEN.replace("reads it", "reads jwt_claim sub in header authorization")]
    );
    let run = behind("{}", "jwt_authn", jwt(json!({ "payload_in_metadata": "verified" })));
    let [error] = run.errors()[..] else { panic!("{}", run.out) };
    assert!(error.contains("in provider main, or read {\"property\": [\"metadata\", "), "{error}");
    assert!(error.ends_with("\"verified\", \"sub\"]} in scope.caller"), "{error}");
}

#[test]
fn what_is_said_besides_an_error_is_said_all_the_same() {
    let run = behind(r#"{"policy": {"on_store_failure": "forward"}}"#, "jwt_authn", jwt(json!({})));
    assert_eq!(run.code, 1);
    assert!(
        run.out.starts_with("standard input: listener gateway, HTTP filter idempotency\n  records "),
        "{}",
        run.out
    );
    assert!(run.out.contains("HTTP filter idempotency: warning: /policy/on_store_failure: lets "), "{}", run.out);
}

#[test]
fn a_token_that_is_forwarded_or_stands_elsewhere_is_none() {
    for provider in [
        json!({ "forward": true }),
        json!({ "from_headers": [{ "name": "x-token" }] }),
        json!({ "from_params": ["token"] }),
        json!({ "from_cookies": ["token"] }),
    ] {
        assert_eq!(behind("{}", "jwt_authn", jwt(provider.clone())).errors(), [""; 0], "{provider}");
    }
}

#[test]
fn a_token_in_another_header_or_a_parameter_is_removed_too_but_not_one_in_a_cookie() {
    for (part, source, words) in [
        (json!({ "header": "X-Token" }), json!({ "from_headers": [{ "name": "x-token" }] }), "header x-token"),
        (json!({ "query": "token" }), json!({ "from_params": ["token"] }), "query parameter token"),
        (json!({ "query": "access_token" }), json!({}), "query parameter access_token"),
        (
            json!({ "property": ["request", "headers", "x-token"] }),
            json!({ "from_headers": [{ "name": "X-Token" }] }),
            "header x-token",
        ),
    ] {
        let run = behind(&document_of(json!([part])), "jwt_authn", jwt(source));
        let [error] = run.errors()[..] else { panic!("{}", run.out) };
        assert!(error.starts_with(&format!("envoy.filters.http.jwt_authn removes {words} once ")), "{error}");
    }
    let cookie = document_of(json!([{ "cookie": "token" }]));
    assert_eq!(behind(&cookie, "jwt_authn", jwt(json!({ "from_cookies": ["token"] }))).errors(), [""; 0]);
}

#[test]
fn only_providers_that_are_asked_for_remove_their_token() {
    let with = |rules: Value| {
        let providers = json!({ "main": { "forward": true }, "Other": {} });
        behind("{}", "jwt_authn", json!({ "providers": providers, "rules": rules }))
    };
    let rule = |requires: Value| json!([{ "match": { "prefix": "/" }, "requires": requires }]);
    for kept in [
        json!([]),
        json!([{ "match": { "prefix": "/" } }, { "match": { "prefix": "/" }, "requires": { "provider_name": "Other" } }]),
        rule(json!({ "requires_any": { "requirements": [{ "provider_name": "main" }, { "allow_missing": {} }] } })),
    ] {
        assert_eq!(with(kept.clone()).errors(), [""; 0], "{kept}");
    }
    for removed in [
        rule(json!({ "provider_and_audiences": { "provider_name": "Other", "audiences": ["a"] } })),
        rule(json!({ "requires_all": { "requirements": [{ "provider_name": "Other" }] } })),
        rule(json!({ "allow_missing": {} })),
    ] {
        let run = with(removed);
        let [error] = run.errors()[..] else { panic!("{}", run.out) };
        assert!(error.contains("the token of provider Other there"), "{error}");
    }
}

#[test]
fn jwt_authn_elsewhere_removes_nothing_here() {
    let elsewhere = |prefix: &str| {
        let rules = json!([{ "match": { "prefix": prefix }, "requires": { "provider_name": "main" } }]);
        let document = r#"{"rules": [{"match": {"methods": ["POST"], "path": {"prefix": "/v1/payments"}}}]}"#;
        behind(document, "jwt_authn", json!({ "providers": { "main": {} }, "rules": rules })).errors().len()
    };
    assert_eq!(["/v1", "/v1/payments/large", "/admin"].map(elsewhere), [1, 1, 0]);
}

#[test]
fn a_filter_that_does_not_run_or_stands_behind_removes_nothing() {
    let run = check_changed("local.yaml", |tree| {
        put_in_front(tree, "jwt_authn", jwt(json!({})))["disabled"] = json!(true);
    });
    assert_eq!(run.errors(), [""; 0]);
    let run = check_changed("local.yaml", |tree| {
        put_in_front(tree, "jwt_authn", jwt(json!({})));
        host(tree)["typed_per_filter_config"] = json!({ "envoy.filters.http.jwt_authn": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.PerRouteConfig", "disabled": true
        } });
    });
    assert_eq!(run.errors(), [""; 0]);
    let run = check_changed("local.yaml", |tree| {
        put_in_front(tree, "jwt_authn", jwt(json!({})));
        filters(tree).swap(0, 1);
    });
    assert_eq!(run.errors(), [""; 0]);
}

#[test]
fn a_filter_that_a_route_turns_on_removes_there() {
    let run = check_changed("local.yaml", |tree| {
        let mut config = jwt(json!({}));
        config["requirement_map"] = json!({ "asIs": { "provider_name": "main" } });
        put_in_front(tree, "jwt_authn", config)["disabled"] = json!(true);
        host(tree)["routes"][0]["typed_per_filter_config"] = json!({ "envoy.filters.http.jwt_authn": {
            "@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig",
            "config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.PerRouteConfig",
                "requirement_name": "asIs"
            },
        } });
    });
    assert_eq!(run.errors(), [LOST_TOKEN]);
}

#[test]
fn the_most_specific_word_on_whether_a_filter_runs_counts() {
    let removed = |on_route: bool| {
        let word = |is_off: bool| {
            let word = json!({ "@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig", "disabled": is_off });
            json!({ "envoy.filters.http.jwt_authn": word })
        };
        let run = check_changed("local.yaml", |tree| {
            put_in_front(tree, "jwt_authn", jwt(json!({})));
            host(tree)["typed_per_filter_config"] = word(on_route);
            host(tree)["routes"][0]["typed_per_filter_config"] = word(!on_route);
        });
        run.errors().len()
    };
    assert_eq!([true, false].map(removed), [1, 0]);
}

#[test]
fn a_route_on_which_the_filter_itself_does_not_run_is_not_judged() {
    let run = check_changed("local.yaml", |tree| {
        put_in_front(tree, "jwt_authn", jwt(json!({})));
        let off = json!({ "@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig", "disabled": true });
        host(tree)["typed_per_filter_config"] = json!({ "idempotency": off });
    });
    assert_eq!(run.errors(), [""; 0]);
}

#[test]
fn only_rules_in_force_lose_callers_and_each_is_named() {
    let document = r#"{"rules": [
        {"name": "tried", "match": {"methods": ["PUT"]}, "policy": {"mode": "observe"}},
        {"name": "pay", "match": {"methods": ["POST"]}},
        {"name": "change", "match": {"methods": ["PATCH"]}},
        {"name": "keys", "match": {"methods": ["DELETE"]}, "policy": {"scope": {"caller": [{"header": "x-api-key"}]}}}
    ]}"#;
    let run = behind(document, "jwt_authn", jwt(json!({})));
    assert_eq!(run.errors(), [LOST_TOKEN.replace("rule default", "rules pay and change")]);
}

#[test]
fn a_verified_subject_in_the_scope_makes_up_for_the_token() {
    let property = |claim: &str| json!({ "property": ["metadata", "filter_metadata", "envoy.filters.http.jwt_authn", "payload", claim] });
    let provider = json!({
        "payload_in_metadata": "payload",
        "claim_to_headers": [{ "header_name": "x-sub", "claim_name": "sub" }, { "header_name": "x-org", "claim_name": "org" }],
    });
    let count = |parts: Value| behind(&document_of(parts), "jwt_authn", jwt(provider.clone())).errors().len();
    let token = json!({ "header": "authorization" });
    assert_eq!(count(json!([token, property("sub")])), 0);
    assert_eq!(count(json!([token, { "header": "x-sub" }])), 0);
    assert_eq!(count(json!([{ "any": [property("org"), token] }])), 0);
    // All members of one organisation would be one caller.
    assert_eq!(count(json!([token, property("org")])), 1);
    assert_eq!(count(json!([token, { "header": "x-org" }])), 1);
    assert_eq!(count(json!([{ "any": [{ "header": "x-api-key" }, token] }])), 1);
}

#[test]
fn a_key_that_api_key_auth_hides_is_an_error() {
    let sources = json!([{ "header": "X-Api-Key" }, { "query": "key" }, { "cookie": "key" }]);
    let hides = |forwarding: Value| json!({ "key_sources": sources, "forwarding": forwarding });
    for (part, words) in [
        (json!({ "header": "x-api-key" }), "header x-api-key"),
        (json!({ "query": "key" }), "query parameter key"),
        (json!({ "cookie": "key" }), "cookie key"),
    ] {
        let document = document_of(json!([part]));
        assert_eq!(
            behind(&document, "api_key_auth", hides(json!({ "hide_credentials": true }))).errors(),
            [format!(
                "envoy.filters.http.api_key_auth removes {words} (forwarding.hide_credentials: true), and scope.caller of \
                 rule default reads it, so such callers are not told apart: set `forwarding: {{header: x-client-id, \
                 hide_credentials: true}}` and read {{\"header\": \"x-client-id\"}} in scope.caller"
            )]
        );
        for kept in [json!({}), json!({ "header": "x-client" })] {
            assert_eq!(behind(&document, "api_key_auth", hides(kept)).errors(), [""; 0]);
        }
    }
    let named = hides(json!({ "hide_credentials": true, "header": "x-client" }));
    let run = behind(&document_of(json!([{ "query": "key" }])), "api_key_auth", named.clone());
    let [error] = run.errors()[..] else { panic!("{}", run.out) };
    let mend = "read {\"header\": \"x-client\"} in scope.caller, or set forwarding.hide_credentials: false";
    assert!(error.ends_with(mend), "{error}");
    for parts in [json!([{ "header": "x-client" }]), json!([{ "header": "x-client" }, { "query": "key" }])] {
        assert_eq!(behind(&document_of(parts), "api_key_auth", named.clone()).errors(), [""; 0]);
    }
}

#[test]
fn a_route_may_hide_keys_that_the_filter_shows() {
    let run = check_changed("local.yaml", |tree| {
        set_document(tree, &document_of(json!([{ "header": "x-api-key" }])));
        put_in_front(tree, "api_key_auth", json!({ "key_sources": [{ "header": "x-api-key" }] }));
        host(tree)["typed_per_filter_config"] = json!({ "envoy.filters.http.api_key_auth": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.api_key_auth.v3.ApiKeyAuthPerRoute",
            "forwarding": { "hide_credentials": true },
        } });
    });
    assert_eq!(run.errors().len(), 1);
}

#[test]
fn a_token_that_oauth2_removes_is_an_error() {
    let oauth2 = |config: Value| behind("{}", "oauth2", json!({ "config": config }));
    assert_eq!(
        oauth2(json!({ "cluster": "login" })).errors(),
        ["envoy.filters.http.oauth2 removes header authorization (preserve_authorization_header is not set), and \
          scope.caller of rule default reads it, so such callers are not told apart: set forward_bearer_token: true, which \
          puts the verified token there, or preserve_authorization_header: true, where a filter behind verifies what \
          clients send"]
    );
    for kept in [
        json!({ "forward_bearer_token": true }),
        json!({ "preserve_authorization_header": true }),
        json!({ "forward_id_token": {} }),
        json!({ "pass_through_matcher": [{ "name": "authorization", "string_match": { "prefix": "Bearer " } }] }),
    ] {
        assert_eq!(oauth2(kept.clone()).errors(), [""; 0], "{kept}");
    }
    assert_eq!(oauth2(json!({ "forward_id_token": { "header": "x-id-token" } })).errors().len(), 1);
    assert_eq!(behind("{}", "oauth2", json!({})).errors(), [""; 0]);
    // Its cookies stay.
    let cookie = document_of(json!([{ "cookie": "OauthHMAC" }]));
    assert_eq!(behind(&cookie, "oauth2", json!({ "config": { "cluster": "login" } })).errors(), [""; 0]);
}

#[test]
fn basic_auth_leaves_the_password_where_it_is() {
    assert_eq!(behind("{}", "basic_auth", json!({ "forward_username_header": "x-user" })).errors(), [""; 0]);
}
