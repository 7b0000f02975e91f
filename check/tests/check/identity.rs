//! Warnings about headers in which the file names identities, and at which no rule looks.

use serde_json::{Value, json};

use crate::{check_changed, document_of, host, jwt, put_in_front, set_document};

/// The warnings about overlooked headers, with one filter in front.
fn overlooked(document: &str, kind: &str, config: Value) -> Vec<String> {
    let run = check_changed("local.yaml", |tree| {
        set_document(tree, document);
        put_in_front(tree, kind, config);
    });
    about_headers(&run.out)
}

fn about_headers(out: &str) -> Vec<String> {
    let warnings = out.lines().filter_map(|line| Some(line.split_once(": warning: ")?.1));
    warnings.filter(|warning| warning.contains(" not look at ")).map(str::to_owned).collect()
}

fn tenants() -> Value {
    jwt(json!({
        "forward": true,
        "forward_payload_header": "x-payload",
        "claim_to_headers": [{ "header_name": "X-Tenant", "claim_name": "tenant" }, { "header_name": "x-mail", "claim_name": "email" }],
    }))
}

#[test]
fn a_claim_that_the_rule_does_not_look_at_is_warned_of() {
    assert_eq!(
        overlooked(&document_of(json!([{ "jwt_claim": "sub" }])), "jwt_authn", tenants()),
        ["rule default does not look at x-tenant, which envoy.filters.http.jwt_authn writes: two tenants with one \
          credential and one key are one caller. Add {\"header\": \"x-tenant\"} to scope.caller where it tells callers \
          apart, or the name to fingerprint.headers where it tells requests apart"]
    );
}

#[test]
fn a_rule_that_reads_nothing_of_the_token_is_warned_of_all_that_is_written_from_it() {
    let warnings = overlooked(&document_of(json!([{ "header": "x-api-key" }])), "jwt_authn", tenants());
    let [warning] = &warnings[..] else { panic!("{warnings:?}") };
    assert!(
        warning.contains("look at x-tenant, which envoy.filters.http.jwt_authn writes, nor at x-mail, "),
        "{warning}"
    );
    assert!(warning.contains("{\"header\": \"x-mail\"} or {\"header\": \"x-payload\"} to scope.caller"), "{warning}");
}

#[test]
fn a_header_that_hangs_on_what_the_rule_reads_is_none() {
    // One token, as it was sent, has one tenant.
    assert_eq!(overlooked("{}", "jwt_authn", tenants()), [""; 0]);
    for parts in [
        json!([{ "jwt_claim": "sub" }, { "header": "x-tenant" }]),
        json!([{ "jwt_claim": "sub" }, { "jwt_claim": "tenant" }]),
        json!([{ "header": "x-payload" }]),
    ] {
        assert_eq!(overlooked(&document_of(parts), "jwt_authn", tenants()), [""; 0]);
    }
    let keys = json!({ "key_sources": [{ "header": "x-api-key" }], "forwarding": { "header": "x-client" } });
    assert_eq!(overlooked(&document_of(json!([{ "header": "x-api-key" }])), "api_key_auth", keys), [""; 0]);
    assert_eq!(overlooked("{}", "basic_auth", json!({ "forward_username_header": "x-user" })), [""; 0]);
}

#[test]
fn what_other_filters_write_is_warned_of() {
    let keys = json!({ "key_sources": [{ "header": "x-api-key" }], "forwarding": { "header": "x-client" } });
    let patterns = json!({ "patterns": [{ "exact": "X-Org" }, { "prefix": "x-other-" }] });
    let service = json!({ "http_service": { "authorization_response": { "allowed_upstream_headers": patterns } } });
    for (document, kind, config, header) in [
        ("{}".to_owned(), "api_key_auth", keys, "x-client"),
        ("{}".to_owned(), "ext_authz", service, "x-org"),
        (
            document_of(json!([{ "cookie": "sid" }])),
            "basic_auth",
            json!({ "forward_username_header": "x-user" }),
            "x-user",
        ),
    ] {
        let warnings = overlooked(&document, kind, config);
        let [warning] = &warnings[..] else { panic!("{warnings:?}") };
        let start = format!("rule default does not look at {header}, which envoy.filters.http.{kind} writes: two ");
        assert!(warning.starts_with(&start), "{warning}");
    }
}

/// The warnings with two routes that are chosen by these header conditions.
fn chosen_by(document: &str, first: Value, second: Value) -> Vec<String> {
    let run = check_changed("local.yaml", |tree| {
        set_document(tree, document);
        let routes = host(tree)["routes"].as_array_mut().unwrap();
        routes.push(routes[0].clone());
        routes[0]["match"]["headers"] = first;
        routes[1]["match"]["headers"] = second;
    });
    about_headers(&run.out)
}

#[test]
fn a_header_that_chooses_a_route_is_warned_of() {
    let exact = |name: &str, value: &str| json!([{ "name": name, "string_match": { "exact": value } }]);
    let [a, b] = ["a", "b"].map(|tenant| exact("X-Tenant", tenant));
    let warnings = chosen_by("{}", a.clone(), b.clone());
    let [warning] = &warnings[..] else { panic!("{warnings:?}") };
    let start = "rule default does not look at x-tenant, by which route 0 of virtual host payments is chosen: two ";
    assert!(warning.starts_with(start), "{warning}");
    assert_eq!(chosen_by("{}", a.clone(), json!([])).len(), 1);
    // Every request has it, and just so.
    assert_eq!(chosen_by("{}", a.clone(), a.clone()), [""; 0]);
    for document in [
        &document_of(json!([{ "header": "authorization" }, { "header": "x-tenant" }])),
        r#"{"policy": {"fingerprint": {"headers": ["X-Tenant"]}}}"#,
        r#"{"policy": {"key": {"sources": [{"header": "x-tenant"}, {"header": "idempotency-key"}]}}}"#,
        r#"{"rules": [{"match": {"methods": ["POST"], "headers": [{"name": "x-tenant", "equals": "a"}]}}]}"#,
        r#"{"policy": {"mode": "observe"}}"#,
    ] {
        assert_eq!(chosen_by(document, a.clone(), b.clone()), [""; 0], "{document}");
    }
    let any = exact("content-type", "application/json");
    assert_eq!(chosen_by("{}", exact(":method", "POST"), any), [""; 0]);
}

#[test]
fn a_header_that_chooses_a_cluster_is_warned_of() {
    let run = check_changed("local.yaml", |tree| {
        let route = host(tree)["routes"][0]["route"].as_object_mut().unwrap();
        route.remove("cluster");
        route.insert("cluster_header".to_owned(), json!("x-cell"));
    });
    let warnings = about_headers(&run.out);
    let [warning] = &warnings[..] else { panic!("{}", run.out) };
    assert!(warning.contains("x-cell, by which route 0 of virtual host payments chooses a cluster: "), "{warning}");
}

#[test]
fn rules_that_overlook_the_same_are_named_together() {
    let document = r#"{"rules": [
        {"name": "a", "match": {"methods": ["POST"]}},
        {"name": "b", "match": {"methods": ["PUT"]}},
        {"name": "c", "match": {"methods": ["PATCH"], "path": {"prefix": "/b"}}}
    ]}"#;
    let by_tenant = json!([{ "name": "x-tenant", "present_match": true }]);
    let run = check_changed("local.yaml", |tree| {
        set_document(tree, document);
        let routes = host(tree)["routes"].as_array_mut().unwrap();
        routes.push(routes[0].clone());
        routes[0]["match"] = json!({ "prefix": "/a", "headers": by_tenant });
    });
    let warnings = about_headers(&run.out);
    let [warning] = &warnings[..] else { panic!("{}", run.out) };
    assert!(warning.starts_with("rules a and b do not look at x-tenant, by which "), "{warning}");
}
