//! Warnings about what the file does not tell: programs and services in front, and what no filter has verified.

use serde_json::{Value, json};

use crate::{check_changed, document_of, filters, host, jwt, put_in_front, set_document};

/// The warnings with these filters in front, in this order.
fn warnings(document: &str, filters: &[(&str, Value)]) -> Vec<String> {
    let run = check_changed("local.yaml", |tree| {
        set_document(tree, document);
        for (kind, config) in filters {
            put_in_front(tree, kind, config.clone());
        }
    });
    run.warnings().into_iter().map(str::to_owned).collect()
}

#[test]
fn a_program_or_a_service_in_front_is_warned_of() {
    for (kind, how) in [
        ("ext_authz", "what its service answers (x-envoy-auth-headers-to-remove, and headers of its own)"),
        ("ext_proc", "what its service answers (remove_headers, set_headers)"),
        ("lua", "its program"),
        ("wasm", "its program"),
        ("golang", "its program"),
    ] {
        assert_eq!(
            warnings("{}", &[(kind, json!({}))]),
            [format!(
                "envoy.filters.http.{kind} stands before this filter and can remove or replace credentials by {how}, which \
                 the file does not tell: see to it that header authorization, which scope.caller of rule default reads, is \
                 still there behind it and is the caller's own"
            )]
        );
    }
}

#[test]
fn the_parts_of_every_rule_in_force_are_named() {
    let document = r#"{"rules": [
        {"name": "a", "match": {"methods": ["POST"]}, "policy": {"scope": {"caller": [{"header": "x-api-key"}, {"query": "k"}]}}},
        {"name": "b", "match": {"methods": ["PUT"]}, "policy": {"scope": {"caller": [{"cookie": "sid"}, {"query": "k"}]}}},
        {"name": "c", "match": {"methods": ["PATCH"]}, "policy": {"mode": "observe"}}
    ]}"#;
    let warnings = warnings(document, &[("lua", json!({}))]);
    let [warning] = &warnings[..] else { panic!("{warnings:?}") };
    let wanted =
        "that header x-api-key, query parameter k and cookie sid, which scope.caller of rules a and b reads, are ";
    assert!(warning.contains(wanted), "{warning}");
}

#[test]
fn a_scope_that_reads_nothing_of_the_head_is_in_no_doubt() {
    for parts in [
        json!([{ "property": ["connection", "requested_server_name"] }]),
        json!([{ "property": ["metadata", "filter_metadata", "envoy.filters.http.jwt_authn", "payload", "sub"] }]),
        json!([{ "json": "/merchant" }]),
    ] {
        assert_eq!(warnings(&document_of(parts), &[("ext_authz", json!({}))]), [""; 0]);
    }
}

#[test]
fn what_may_change_no_request_is_in_no_doubt() {
    for (kind, config) in [
        ("ext_authz", json!({ "decoder_header_mutation_rules": { "disallow_all": true } })),
        ("ext_proc", json!({ "mutation_rules": { "disallow_all": true } })),
        ("ext_proc", json!({ "processing_mode": { "request_header_mode": "SKIP" } })),
        ("lua", json!({ "default_source_code": { "inline_string": "function envoy_on_response(handle) end" } })),
        ("ratelimit", json!({})),
    ] {
        assert_eq!(warnings("{}", &[(kind, config)]), [""; 0], "{kind}");
    }
}

#[test]
fn this_filter_twice_is_in_no_doubt_and_verifies_nothing() {
    let run = check_changed("local.yaml", |tree| {
        set_document(tree, &document_of(json!([{ "jwt_claim": "sub" }])));
        let mut again = filters(tree)[0].clone();
        again["typed_config"]["config"]["name"] = json!("another");
        filters(tree).insert(0, again);
    });
    assert!(!run.out.contains("stands before this filter"), "{}", run.out);
    assert_eq!(run.warnings().iter().filter(|it| it.contains("verifies tokens")).count(), 2, "{}", run.out);
}

#[test]
fn a_program_that_does_not_run_or_stands_behind_is_in_no_doubt() {
    let run = check_changed("local.yaml", |tree| put_in_front(tree, "lua", json!({}))["disabled"] = json!(true));
    assert_eq!(run.warnings(), [""; 0]);
    let run = check_changed("local.yaml", |tree| {
        put_in_front(tree, "lua", json!({}));
        filters(tree).swap(0, 1);
    });
    assert_eq!(run.warnings(), [""; 0]);
    let run = check_changed("local.yaml", |tree| {
        put_in_front(tree, "ext_authz", json!({}));
        host(tree)["typed_per_filter_config"] = json!({ "envoy.filters.http.ext_authz": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute", "disabled": true
        } });
    });
    assert_eq!(run.warnings(), [""; 0]);
}

#[test]
fn a_program_may_write_what_was_removed_before_it_but_not_a_verified_token() {
    let remove = json!({ "mutations": { "request_mutations": [{ "remove": "authorization" }] } });
    assert_eq!(warnings("{}", &[("header_mutation", remove), ("lua", json!({}))]).len(), 1);
    let run = check_changed("local.yaml", |tree| {
        put_in_front(tree, "jwt_authn", jwt(json!({})));
        put_in_front(tree, "lua", json!({}));
    });
    assert_eq!(run.errors().len(), 1);
}

/// The warnings of this crate about signers; the parser has one of its own.
fn about_signers(filters: &[(&str, Value)]) -> Vec<String> {
    let document = document_of(json!([{ "signer": "authorization" }]));
    warnings(&document, filters).into_iter().filter(|it| it.contains("reads signer")).collect()
}

#[test]
fn a_signer_whose_signature_no_filter_can_verify_is_warned_of() {
    let wanted = "scope.caller of rule default reads signer, and no filter before this one can verify signatures \
                  (ext_authz, ext_proc, lua or wasm; jwt_authn does not): a client is whom its signature names, forged or \
                  not";
    assert_eq!(about_signers(&[]), [wanted]);
    assert_eq!(about_signers(&[("jwt_authn", json!({})), ("rbac", json!({}))]), [wanted]);
    for kind in ["ext_authz", "ext_proc", "lua", "wasm"] {
        assert_eq!(about_signers(&[(kind, json!({}))]), [""; 0], "{kind}");
    }
}

#[test]
fn a_verifier_that_a_route_turns_off_verifies_nothing_there() {
    let run = check_changed("local.yaml", |tree| {
        set_document(tree, &document_of(json!([{ "jwt_claim": "sub" }])));
        put_in_front(tree, "jwt_authn", jwt(json!({ "forward": true })));
        let mut open = host(tree)["routes"][0].clone();
        open["match"] = json!({ "prefix": "/open" });
        let off = json!({ "@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig", "disabled": true });
        open["typed_per_filter_config"] = json!({ "envoy.filters.http.jwt_authn": off });
        host(tree)["routes"].as_array_mut().unwrap().insert(0, open);
    });
    let [warning] = run.warnings()[..] else { panic!("{}", run.out) };
    let start =
        "scope.caller of rule default reads jwt_claim, and on route 0 of virtual host payments no filter before this ";
    assert!(warning.starts_with(start), "{warning}");
}

#[test]
fn an_address_with_its_port_is_warned_of_once() {
    let warnings = warnings(&document_of(json!([{ "property": ["source", "address"] }])), &[]);
    let [warning] = &warnings[..] else { panic!("{warnings:?}") };
    assert!(warning.starts_with("/policy/scope/caller/0: has the port of each connection in it"), "{warning}");
}
