//! Errors about filters in front that write the gateway's own credentials.

use serde_json::{Value, json};

use crate::{Run, behind, check_changed, document_of, host, put_in_front, set_document};

fn generic(header: Value) -> Value {
    let kind = "type.googleapis.com/envoy.extensions.http.injected_credentials.generic.v3.Generic";
    json!({ "name": "generic", "typed_config": { "@type": kind, "header": header } })
}

#[test]
fn a_credential_that_is_injected_for_all_is_an_error() {
    let injected = |document: &str, header: Value| {
        behind(document, "credential_injector", json!({ "overwrite": true, "credential": generic(header) }))
    };
    assert_eq!(
        injected("{}", Value::Null).errors(),
        [
            "envoy.filters.http.credential_injector writes one header authorization for all requests, and scope.caller of \
          rule default reads it, so all callers are one: put envoy.filters.http.credential_injector after this filter, or \
          let scope.caller read what clients show elsewhere"
        ]
    );
    assert_eq!(injected("{}", json!("x-gateway")).errors(), [""; 0]);
    assert_eq!(injected(&document_of(json!([{ "header": "x-gateway" }])), json!("X-Gateway")).errors().len(), 1);
    assert_eq!(injected(&document_of(json!([{ "header": "x-api-key" }])), Value::Null).errors(), [""; 0]);
}

#[test]
fn a_credential_that_is_injected_where_clients_send_none_is_an_error_unless_they_must() {
    let with = |first: &str, config: Value| {
        check_changed("local.yaml", |tree| {
            put_in_front(tree, first, config);
            put_in_front(tree, "credential_injector", json!({ "credential": generic(Value::Null) }));
        })
    };
    let run = with("cors", json!({}));
    let [error] = run.errors()[..] else { panic!("{}", run.out) };
    assert!(error.contains(" writes one header authorization for all requests that have none, and scope"), "{error}");
    assert!(error.contains(", so all clients that send none are one caller: put "), "{error}");
    assert_eq!(with("basic_auth", json!({})).errors(), [""; 0]);
    let provider = json!({ "forward": true, "from_headers": [{ "name": "authorization", "value_prefix": "Bearer " }] });
    let asks = |requires: Value| {
        let rules = json!([{ "match": { "prefix": "/" }, "requires": requires }]);
        let other = json!({ "forward": true, "from_headers": [{ "name": "x-jwt" }] });
        with("jwt_authn", json!({ "providers": { "main": provider, "other": other }, "rules": rules })).errors().len()
    };
    assert_eq!(asks(json!({ "provider_name": "main" })), 0);
    let any = json!([{ "provider_name": "main" }, { "allow_missing": {} }]);
    assert_eq!(asks(json!({ "requires_any": { "requirements": any } })), 1);
    let either = json!([{ "provider_name": "main" }, { "provider_name": "other" }]);
    assert_eq!(asks(json!({ "requires_any": { "requirements": either } })), 1);
}

/// `gcp_authn` in front of a cluster that has this metadata.
fn behind_gcp(metadata: Value, config: Value) -> Run {
    check_changed("local.yaml", |tree| {
        put_in_front(tree, "gcp_authn", config);
        tree["static_resources"]["clusters"][0]["metadata"]["typed_filter_metadata"] = metadata;
    })
}

#[test]
fn a_token_for_the_service_is_an_error_where_its_cluster_has_an_audience() {
    let audience = json!({ "envoy.filters.http.gcp_authn": { "url": "http://service" } });
    let run = behind_gcp(audience.clone(), json!({}));
    let [error] = run.errors()[..] else { panic!("{}", run.out) };
    assert!(error.starts_with("envoy.filters.http.gcp_authn writes one header authorization for all "), "{error}");
    assert_eq!(behind_gcp(json!({}), json!({})).errors(), [""; 0]);
    assert_eq!(behind_gcp(audience, json!({ "token_header": { "name": "x-goog" } })).errors(), [""; 0]);
}

#[test]
fn a_signature_of_the_gateway_is_an_error() {
    let signed = |document: &str| behind(document, "aws_request_signing", json!({ "service_name": "s3" }));
    assert_eq!(
        signed("{}").errors(),
        [
            "envoy.filters.http.aws_request_signing signs every request anew in header authorization, and scope.caller of \
          rule default reads it, so no caller stays the same from try to try: put envoy.filters.http.aws_request_signing \
          after this filter, or let scope.caller read what clients show elsewhere"
        ]
    );
    let signer = signed(&document_of(json!([{ "signer": "authorization" }])));
    let [error] = signer.errors()[..] else { panic!("{}", signer.out) };
    assert!(error.contains(" signs every request itself in header authorization, and "), "{error}");
    assert!(error.contains(" reads signer in header authorization, so all callers are one: "), "{error}");
    assert_eq!(signed(&document_of(json!([{ "header": "x-api-key" }]))).errors(), [""; 0]);
    assert_eq!(behind("{}", "aws_request_signing", json!({ "query_string": {} })).errors(), [""; 0]);
}

#[test]
fn a_signature_on_a_route_that_no_rule_is_about_is_none_of_its_business() {
    let run = check_changed("local.yaml", |tree| {
        set_document(tree, r#"{"rules": [{"match": {"methods": ["POST"], "path": {"prefix": "/pay"}}}]}"#);
        put_in_front(tree, "aws_request_signing", json!({}))["disabled"] = json!(true);
        let mut signed = host(tree)["routes"][0].clone();
        signed["match"] = json!({ "prefix": "/files" });
        let on = json!({ "@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig", "disabled": false });
        signed["typed_per_filter_config"] = json!({ "envoy.filters.http.aws_request_signing": on });
        host(tree)["routes"].as_array_mut().unwrap().insert(0, signed);
    });
    assert_eq!(run.errors(), [""; 0]);
}
