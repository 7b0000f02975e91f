//! Errors about headers that mutations and the connection manager take away before the filter sees them.

use serde_json::{Value, json};

use crate::{behind, check_changed, document_of, host, jwt, manager, put_in_front, set_document};

/// These mutations, for the filter `header_mutation` on a route or a virtual host.
fn per_route(mutations: Value) -> Value {
    json!({ "envoy.filters.http.header_mutation": {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.header_mutation.v3.HeaderMutationPerRoute",
        "mutations": { "request_mutations": mutations },
    } })
}

#[test]
fn a_header_that_a_mutation_removes_is_an_error() {
    let mutations = |list: Value| json!({ "mutations": { "request_mutations": list } });
    let lost = |by: &str, mend: &str| {
        format!(
            "{by}, and scope.caller of rule default reads it, so such callers are not told apart: take {mend}, or let \
             scope.caller read what tells callers apart behind it"
        )
    };
    let run = behind("{}", "header_mutation", mutations(json!([{ "remove": "Authorization" }])));
    let removed = "envoy.filters.http.header_mutation removes header authorization";
    assert_eq!(run.errors(), [lost(removed, "`remove: Authorization` out of request_mutations")]);
    let matched = json!([{ "remove_on_match": { "key_matcher": { "prefix": "AUTHOR", "ignore_case": true } } }]);
    let run = behind("{}", "header_mutation", mutations(matched));
    let removed = format!("{removed} (remove_on_match)");
    assert_eq!(run.errors(), [lost(&removed, "that remove_on_match out of request_mutations")]);
    let query = json!({ "mutations": { "query_parameter_mutations": [{ "remove": "key" }] } });
    assert_eq!(behind(&document_of(json!([{ "query": "key" }])), "header_mutation", query.clone()).errors().len(), 1);
    assert_eq!(behind("{}", "header_mutation", query).errors(), [""; 0]);
    let cookies = mutations(json!([{ "remove": "cookie" }]));
    assert_eq!(behind(&document_of(json!([{ "cookie": "sid" }])), "header_mutation", cookies).errors().len(), 1);
}

#[test]
fn a_header_that_is_written_again_is_there() {
    let then = |append: Value| {
        let list = json!([{ "remove": "authorization" }, { "append": append }]);
        behind("{}", "header_mutation", json!({ "mutations": { "request_mutations": list } }))
    };
    let header = |value: &str| json!({ "header": { "key": "authorization", "value": value } });
    assert_eq!(then(header("%REQ(x-token)%")).errors(), [""; 0]);
    // A line without a value is not written.
    assert!(
        then(header("")).errors()[0].starts_with("envoy.filters.http.header_mutation removes header authorization")
    );
    let run = then(header("Basic c2VydmljZQ=="));
    assert_eq!(
        run.errors(),
        [
            "envoy.filters.http.header_mutation writes one header authorization for all requests, and scope.caller of rule \
          default reads it, so all callers are one: take authorization: \"…\" out of request_mutations, or let scope.caller \
          read what tells callers apart behind it"
        ]
    );
    // A filter in between writes what it has verified.
    let run = check_changed("local.yaml", |tree| {
        set_document(tree, &document_of(json!([{ "header": "x-sub" }])));
        put_in_front(tree, "header_mutation", json!({ "mutations": { "request_mutations": [{ "remove": "x-sub" }] } }));
        let claims = json!([{ "header_name": "x-sub", "claim_name": "sub" }]);
        put_in_front(tree, "jwt_authn", jwt(json!({ "claim_to_headers": claims })));
    });
    assert_eq!(run.errors(), [""; 0]);
}

#[test]
fn a_header_that_a_mutation_of_a_route_removes_is_an_error_there() {
    let on = |document: &str, route: Value| {
        check_changed("local.yaml", |tree| {
            set_document(tree, document);
            put_in_front(tree, "header_mutation", json!({}));
            let mut other = host(tree)["routes"][0].clone();
            other["match"] = route;
            other["typed_per_filter_config"] = per_route(json!([{ "remove": "authorization" }]));
            host(tree)["routes"].as_array_mut().unwrap().insert(0, other);
        })
    };
    let run = on("{}", json!({ "path_separated_prefix": "/v1" }));
    let [error] = run.errors()[..] else { panic!("{}", run.out) };
    let by =
        "envoy.filters.http.header_mutation (typed_per_filter_config of route 0 of virtual host payments) removes ";
    assert!(error.starts_with(by), "{error}");
    let document = r#"{"rules": [{"match": {"methods": ["POST"], "path": {"template": "/v1/{id}/pay"}}}]}"#;
    for (route, count) in [
        (json!({ "prefix": "/v1/" }), 1),
        (json!({ "path": "/v1/7/pay" }), 1),
        (json!({ "safe_regex": { "regex": "/v2.*" } }), 1),
        (json!({ "path": "/v1/7/refund" }), 0),
        (json!({ "path_separated_prefix": "/v2" }), 0),
        (json!({ "prefix": "/", "grpc": {} }), 0),
    ] {
        assert_eq!(on(document, route.clone()).errors().len(), count, "{route}");
    }
}

#[test]
fn a_route_behind_one_that_takes_all_is_not_judged() {
    let run = check_changed("local.yaml", |tree| {
        put_in_front(tree, "header_mutation", json!({}));
        let mut other = host(tree)["routes"][0].clone();
        other["match"] = json!({ "prefix": "/v1" });
        other["typed_per_filter_config"] = per_route(json!([{ "remove": "authorization" }]));
        host(tree)["routes"].as_array_mut().unwrap().push(other);
    });
    assert_eq!(run.errors(), [""; 0]);
}

#[test]
fn mutations_of_routes_and_hosts_are_taken_in_their_order() {
    let in_order = |most_specific_wins: bool| {
        let run = check_changed("local.yaml", |tree| {
            let config = json!({ "most_specific_header_mutations_wins": most_specific_wins });
            put_in_front(tree, "header_mutation", config);
            let header = json!({ "key": "authorization", "value": "%REQ(x-token)%" });
            host(tree)["typed_per_filter_config"] = per_route(json!([{ "append": { "header": header } }]));
            host(tree)["routes"][0]["typed_per_filter_config"] = per_route(json!([{ "remove": "authorization" }]));
        });
        run.errors().len()
    };
    assert_eq!([false, true].map(in_order), [0, 1]);
}

#[test]
fn a_virtual_host_of_other_hosts_takes_nothing_from_a_rule() {
    let on = |domain: &str| {
        let run = check_changed("local.yaml", |tree| {
            set_document(
                tree,
                r#"{"rules": [{"match": {"methods": ["POST"], "hosts": ["pay.example.com", "*.shop.com"]}}]}"#,
            );
            put_in_front(tree, "header_mutation", json!({}));
            host(tree)["domains"] = json!([domain]);
            host(tree)["typed_per_filter_config"] = per_route(json!([{ "remove": "authorization" }]));
        });
        run.errors().len()
    };
    let reached = ["*", "pay.example.com:443", "*.example.com", "PAY.*", "a.shop.com", "*.eu.shop.com", "api.*"];
    assert_eq!(reached.map(on), [1; 7]);
    assert_eq!(["example.com", "*.example.org", "shop.com"].map(on), [0; 3]);
}

#[test]
fn what_the_connection_manager_removes_first_of_all_is_an_error() {
    let early = |mutations: Value| {
        check_changed("local.yaml", |tree| {
            manager(tree)["early_header_mutation_extensions"] = json!([{ "name": "early", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation",
                "mutations": mutations,
            } }]);
        })
    };
    let run = early(json!([{ "remove": "authorization" }]));
    let [error] = run.errors()[..] else { panic!("{}", run.out) };
    assert!(error.starts_with("the connection manager removes header authorization, and scope.caller of "), "{error}");
    assert!(error.contains("take `remove: authorization` out of early_header_mutation_extensions"), "{error}");
    assert_eq!(early(json!([{ "remove": "x-other" }])).errors(), [""; 0]);
}

#[test]
fn a_header_that_header_to_metadata_removes_is_an_error() {
    let pair = json!({ "metadata_namespace": "who", "key": "token" });
    let rule = |remove: bool| json!({ "request_rules": [{ "header": "authorization", "on_header_present": pair, "remove": remove }] });
    let run = behind("{}", "header_to_metadata", rule(true));
    let [error] = run.errors()[..] else { panic!("{}", run.out) };
    let mend = "read {\"property\": [\"metadata\", \"filter_metadata\", \"who\", \"token\"]} in scope.caller";
    assert!(error.ends_with(mend), "{error}");
    assert_eq!(behind("{}", "header_to_metadata", rule(false)).errors(), [""; 0]);
}

#[test]
fn what_the_router_removes_after_the_filter_has_seen_it_is_none() {
    let run = check_changed("local.yaml", |tree| {
        manager(tree)["route_config"]["request_headers_to_remove"] = json!(["authorization"]);
        host(tree)["request_headers_to_remove"] = json!(["authorization"]);
        host(tree)["routes"][0]["request_headers_to_remove"] = json!(["authorization"]);
    });
    assert_eq!((run.errors(), run.warnings()), (vec![], vec![]));
}
