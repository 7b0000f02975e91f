//! What `jwt_authn` asks for, and whether that makes a claim a verified one: each is one change of `envoy/local.yaml`.

use serde_json::{Value, json};

use crate::{Run, behind, check_changed, document_of, host, jwt, put_in_front, set_document};

/// The warnings that claims are not verified, without their beginning and their end.
fn unverified(run: &Run) -> Vec<&str> {
    let warnings = run.warnings().into_iter();
    let told = warnings.filter_map(|it| it.strip_prefix("scope.caller of rule default reads jwt_claim, and "));
    told.map(|it| it.strip_suffix(": a client is whom its token names, forged or not").unwrap()).collect()
}

fn providers() -> Value {
    json!({
        "main": { "issuer": "https://a", "forward": true },
        "other": { "issuer": "https://a", "forward": true, "from_headers": [{ "name": "x-jwt" }] },
        "cookie": { "issuer": "https://a", "forward": true, "from_cookies": ["jwt"] },
        "prefixed": { "issuer": "https://a", "forward": true, "from_headers": [{ "name": "Authorization", "value_prefix": "Bearer " }] },
    })
}

const CLAIM: &str = r#"{"policy": {"scope": {"caller": [{"jwt_claim": "sub"}]}}}"#;

fn with_rules(document: &str, rules: Value) -> Run {
    behind(document, "jwt_authn", json!({ "providers": providers(), "rules": rules }))
}

/// What is said where every request must meet this.
fn requiring(requires: Value) -> Vec<String> {
    let run = with_rules(CLAIM, json!([{ "match": { "prefix": "/" }, "requires": requires }]));
    unverified(&run).into_iter().map(str::to_owned).collect()
}

fn any(requirements: Value) -> Value {
    json!({ "requires_any": { "requirements": requirements } })
}

fn each(requirements: Value) -> Value {
    json!({ "requires_all": { "requirements": requirements } })
}

#[test]
fn a_claim_of_a_token_that_must_be_good_is_verified() {
    let missing = json!({ "allow_missing": {} });
    for requires in [
        json!({ "provider_name": "main" }),
        json!({ "provider_name": "prefixed" }),
        json!({ "provider_and_audiences": { "provider_name": "main", "audiences": ["a"] } }),
        any(json!([{ "provider_name": "main" }, { "allow_missing": {} }])),
        each(json!([{ "provider_name": "other" }, { "provider_name": "main" }])),
        each(json!([{ "provider_name": "main" }, { "allow_missing_or_failed": {} }])),
        missing,
    ] {
        assert_eq!(requiring(requires.clone()), [""; 0], "{requires}");
    }
}

#[test]
fn a_claim_of_a_token_that_may_have_failed_is_warned_of() {
    for kind in ["allow_missing_or_failed", "extract_only_without_validation"] {
        for requires in [json!({ kind: {} }), any(json!([{ "provider_name": "main" }, { kind: {} }]))] {
            assert_eq!(
                requiring(requires),
                [format!("envoy.filters.http.jwt_authn lets requests pass whose token was not found good ({kind})")]
            );
        }
    }
}

#[test]
fn a_claim_is_warned_of_where_another_place_than_its_own_is_verified() {
    for (requires, words) in [
        (json!({ "provider_name": "other" }), "header x-jwt"),
        (json!({ "provider_name": "cookie" }), "cookie jwt"),
        (any(json!([{ "provider_name": "main" }, { "provider_name": "other" }])), "header x-jwt"),
        (any(json!([{ "provider_name": "cookie" }, { "allow_missing": {} }])), "cookie jwt"),
    ] {
        let wanted = format!("envoy.filters.http.jwt_authn takes {words} for a token, and not that in authorization");
        assert_eq!(requiring(requires), [wanted]);
    }
}

#[test]
fn a_claim_is_warned_of_on_paths_on_which_nothing_is_asked() {
    let requires = json!({ "provider_name": "main" });
    let on = |document: &str, rules: Value| {
        unverified(&with_rules(document, rules)).into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    let asks = |words: &str| [format!("envoy.filters.http.jwt_authn asks for no token{words}")];
    let under_admin = json!([{ "match": { "prefix": "/admin" }, "requires": requires }]);
    assert_eq!(on(CLAIM, under_admin.clone()), asks(" other than under /admin"));
    assert_eq!(on(CLAIM, json!([])), asks(""));
    let open = json!([{ "match": { "path": "/open" } }, { "match": { "prefix": "/" }, "requires": requires }]);
    assert_eq!(on(CLAIM, open.clone()), asks(" to /open"));
    let of_path = |path: Value| {
        let caller = json!({ "scope": { "caller": [{ "jwt_claim": "sub" }] } });
        let rule = json!({ "name": "default", "match": { "methods": ["POST"], "path": path }, "policy": caller });
        json!({ "rules": [rule] }).to_string()
    };
    assert_eq!(on(&of_path(json!({ "prefix": "/admin/users" })), under_admin), [""; 0]);
    assert_eq!(on(&of_path(json!({ "template": "/pay/{id}" })), open), [""; 0]);
}

#[test]
fn what_an_earlier_route_takes_and_what_the_route_takes_not_count_for_nothing() {
    let said = |routes: [Value; 2]| {
        let run = check_changed("local.yaml", |tree| {
            set_document(tree, CLAIM);
            let requires = json!({ "provider_name": "main" });
            let rules = json!([
                { "match": { "prefix": "/open" } },
                { "match": { "prefix": "/v1" }, "requires": requires },
                { "match": { "prefix": "/v2" }, "requires": requires },
            ]);
            put_in_front(tree, "jwt_authn", json!({ "providers": providers(), "rules": rules }));
            let own = host(tree)["routes"][0].clone();
            host(tree)["routes"] = routes.into_iter().map(|matches| with_match(&own, matches)).collect();
            host(tree)["routes"][0].as_object_mut().unwrap().remove("route");
        });
        unverified(&run).len()
    };
    fn with_match(route: &Value, matches: Value) -> Value {
        let mut route = route.clone();
        route["match"] = matches;
        route
    }
    assert_eq!(said([json!({ "prefix": "/open" }), json!({ "prefix": "/v1/" })]), 0);
    // Requests to /open and to /v3 get through.
    assert_eq!(said([json!({ "path": "/open/1" }), json!({ "prefix": "/" })]), 2);
    assert_eq!(said([json!({ "prefix": "/open" }), json!({ "prefix": "/" })]), 1);
}

#[test]
fn only_the_route_on_which_nothing_verifies_is_named() {
    let run = check_changed("local.yaml", |tree| {
        set_document(tree, CLAIM);
        let map = json!({ "good": { "provider_name": "main" }, "any": { "allow_missing_or_failed": {} } });
        put_in_front(tree, "jwt_authn", json!({ "providers": providers(), "requirement_map": map }));
        let mut route = |prefix: &str, word: Value| {
            let mut route = host(tree)["routes"][0].clone();
            route["match"]["prefix"] = prefix.into();
            route["typed_per_filter_config"]["envoy.filters.http.jwt_authn"] = word;
            route["typed_per_filter_config"]["envoy.filters.http.jwt_authn"]["@type"] =
                json!("type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.PerRouteConfig");
            route
        };
        let routes = json!([
            route("/open", json!({ "disabled": true })),
            route("/free", json!({ "requirement_name": "any" })),
            route("/", json!({ "requirement_name": "good" })),
        ]);
        host(tree)["routes"] = routes;
    });
    assert_eq!(
        unverified(&run),
        [
            "on route 0 of virtual host payments no filter before this one verifies tokens",
            "on route 1 of virtual host payments envoy.filters.http.jwt_authn lets requests pass whose token was not found \
             good (allow_missing_or_failed)",
        ]
    );
}

#[test]
fn a_token_that_oauth2_alone_writes_is_a_verified_one() {
    let said = |config: Value| unverified(&behind(CLAIM, "oauth2", json!({ "config": config }))).len();
    assert_eq!(said(json!({ "forward_bearer_token": true })), 0);
    let passing = json!([{ "name": "authorization", "present_match": true }]);
    assert_eq!(said(json!({ "forward_bearer_token": true, "pass_through_matcher": passing })), 1);
}

#[test]
fn a_rule_of_jwt_authn_about_other_methods_is_not_on_the_way() {
    let errors = |methods: Value, header: Value| {
        let document = json!({ "rules": [{ "match": { "methods": methods } }] }).to_string();
        let mut header = header;
        header["name"] = json!(":method");
        let rule = json!({ "match": { "prefix": "/", "headers": [header] }, "requires": { "provider_name": "main" } });
        let providers = json!({ "main": {} });
        behind(&document, "jwt_authn", json!({ "providers": providers, "rules": [rule] })).errors().len()
    };
    let exact = |method: &str| json!({ "string_match": { "exact": method } });
    let regex = |text: &str| json!({ "string_match": { "safe_regex": { "regex": text } } });
    for (methods, header, count) in [
        (json!(["POST"]), exact("GET"), 0),
        (json!(["POST"]), exact("POST"), 1),
        (json!(["POST", "GET"]), exact("GET"), 1),
        (json!(["*"]), exact("GET"), 0),
        (json!(["*"]), exact("LINK"), 1),
        (json!(["*", "GET"]), exact("GET"), 1),
        (json!(["POST"]), json!({ "exact_match": "GET" }), 0),
        (json!(["POST"]), json!({ "exact_match": "GET", "invert_match": true }), 1),
        (json!(["POST"]), regex("^(GET|HEAD)$"), 0),
        (json!(["POST"]), regex("GET|POST"), 1),
        (json!(["POST"]), regex("G.*"), 1),
        (json!(["POST"]), json!({ "present_match": true }), 1),
    ] {
        assert_eq!(errors(methods.clone(), header.clone()), count, "{methods} {header}");
    }
}

#[test]
fn every_provider_that_removes_its_token_is_named_and_the_mend_has_both_parts() {
    let with = |corp: Value, partner: Value| {
        let requires = any(json!([{ "provider_name": "corp" }, { "provider_name": "partner" }]));
        let rules = json!([{ "match": { "prefix": "/" }, "requires": requires }]);
        behind("{}", "jwt_authn", json!({ "providers": { "corp": corp, "partner": partner }, "rules": rules }))
    };
    let [a, b] = ["a", "b"].map(|issuer| json!({ "issuer": issuer }));
    let parts = "{\"property\": [\"metadata\", \"filter_metadata\", \"envoy.filters.http.jwt_authn\", \"payload\", \"sub\"]} \
                 and {\"property\": [\"metadata\", \"filter_metadata\", \"envoy.filters.http.jwt_authn\", \"payload\", \
                 \"iss\"]} in scope.caller";
    assert_eq!(
        with(a.clone(), b.clone()).errors(),
        [format!(
            "envoy.filters.http.jwt_authn removes header authorization once it has verified the tokens of providers corp \
             and partner there, and scope.caller of rule default reads it, so such callers are not told apart: set \
             `forward: true` in providers corp and partner, or give every provider `payload_in_metadata: payload` and \
             read {parts}"
        )]
    );
    let run = with(json!({ "issuer": "a", "forward": true }), b);
    let [error] = run.errors()[..] else { panic!("{}", run.out) };
    assert!(error.contains(" the token of provider partner there, "), "{error}");
    assert!(error.ends_with(parts), "{error}");
    // Two providers of one issuer have no two subjects of one name.
    let run = with(a.clone(), a);
    let [error] = run.errors()[..] else { panic!("{}", run.out) };
    assert!(!error.contains("\"iss\""), "{error}");
    assert_eq!(behind("{}", "jwt_authn", jwt(json!({ "forward": true }))).errors(), [""; 0]);
}

#[test]
fn a_provider_whose_subject_is_read_elsewhere_is_not_named() {
    let providers = json!({ "corp": { "payload_in_metadata": "corp" }, "partner": {} });
    let requires = any(json!([{ "provider_name": "corp" }, { "provider_name": "partner" }]));
    let rules = json!([{ "match": { "prefix": "/" }, "requires": requires }]);
    let subject = json!({ "property": ["metadata", "filter_metadata", "envoy.filters.http.jwt_authn", "corp", "sub"] });
    let document = document_of(json!([{ "header": "authorization" }, subject]));
    let run = behind(&document, "jwt_authn", json!({ "providers": providers, "rules": rules }));
    let [error] = run.errors()[..] else { panic!("{}", run.out) };
    assert!(error.contains(" the token of provider partner there, "), "{error}");
}
