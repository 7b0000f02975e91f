//! What is said of `envoy/istio.yaml` beside Istio's own policies in the same file.

use serde_json::{Value, json};

use crate::{Run, check, document_of, shipped};

/// The shipped EnvoyFilter, changed, and other resources in one file.
fn beside(change: impl FnOnce(&mut Value), others: &[Value]) -> Run {
    let mut filter = shipped("istio.yaml");
    change(&mut filter);
    let others: Vec<_> = others.iter().map(|other| format!("---\n{other}\n")).collect();
    check(&format!("---\n{filter}\n{}", others.concat()))
}

fn request_authentication(rule: Value) -> Value {
    json!({
        "apiVersion": "security.istio.io/v1",
        "kind": "RequestAuthentication",
        "metadata": { "name": "jwt", "namespace": "istio-ingress" },
        "spec": { "selector": { "matchLabels": { "istio": "ingress" } }, "jwtRules": [rule] },
    })
}

fn set(filter: &mut Value, document: &str) {
    let patch = &mut filter["spec"]["configPatches"][0]["patch"]["value"]["typed_config"]["config"];
    patch["configuration"]["value"] = document.into();
}

fn place(filter: &mut Value) -> &mut Value {
    &mut filter["spec"]["configPatches"][1]
}

#[test]
fn a_token_that_istio_removes_is_an_error() {
    let run = beside(|_| (), &[request_authentication(json!({ "issuer": "https://login.example.com" }))]);
    assert_eq!(
        run.errors(),
        [
            "RequestAuthentication istio-ingress/jwt removes header authorization once it has verified the token of issuer \
          https://login.example.com there, and scope.caller of rule default reads it, so such callers are not told apart: \
          set `forwardOriginalToken: true` in the jwtRules entry of issuer https://login.example.com, or read \
          {\"property\": [\"metadata\", \"filter_metadata\", \"envoy.filters.http.jwt_authn\", \"payload\", \"sub\"]} in \
          scope.caller"
        ]
    );
    let run = beside(
        |filter| set(filter, &document_of(json!([{ "jwt_claim": "sub" }]))),
        &[request_authentication(json!({ "issuer": "i" }))],
    );
    assert_eq!(run.errors().len(), 1, "{}", run.out);
}

#[test]
fn a_token_that_istio_keeps_or_takes_from_elsewhere_is_none() {
    for rule in [
        json!({ "issuer": "i", "forwardOriginalToken": true }),
        json!({ "issuer": "i", "fromHeaders": [{ "name": "x-token" }] }),
        json!({ "issuer": "i", "fromCookies": ["token"] }),
    ] {
        assert_eq!(beside(|_| (), &[request_authentication(rule.clone())]).errors(), [""; 0], "{rule}");
    }
    let payload =
        json!({ "property": ["metadata", "filter_metadata", "envoy.filters.http.jwt_authn", "payload", "sub"] });
    let run = beside(
        |filter| set(filter, &document_of(json!([payload]))),
        &[request_authentication(json!({ "issuer": "i" }))],
    );
    assert_eq!(run.errors(), [""; 0]);
}

#[test]
fn a_policy_of_other_workloads_is_none() {
    let other = |change: fn(&mut Value)| {
        let mut policy = request_authentication(json!({ "issuer": "i" }));
        change(&mut policy);
        beside(|_| (), &[policy]).errors().len()
    };
    assert_eq!(other(|policy| policy["metadata"]["namespace"] = json!("shop")), 0);
    assert_eq!(other(|policy| policy["spec"]["selector"]["matchLabels"] = json!({ "istio": "egress" })), 0);
    assert_eq!(other(|policy| policy["metadata"]["namespace"] = json!("istio-system")), 1);
    assert_eq!(other(|policy| drop(policy["spec"].as_object_mut().unwrap().remove("selector"))), 1);
    assert_eq!(other(|policy| policy["spec"]["selector"]["matchLabels"] = json!({ "app": "gateway" })), 1);
}

#[test]
fn a_policy_whose_filter_stands_behind_is_none() {
    let jwt = || [request_authentication(json!({ "issuer": "i" }))];
    let changes: [fn(&mut Value); 4] = [
        |filter| place(filter)["patch"]["operation"] = json!("INSERT_FIRST"),
        |filter| {
            let beside = json!("envoy.filters.http.jwt_authn");
            place(filter)["match"]["listener"]["filterChain"]["filter"]["subFilter"]["name"] = beside;
        },
        |filter| place(filter)["match"]["context"] = json!("SIDECAR_OUTBOUND"),
        |filter| drop(filter["spec"]["configPatches"].as_array_mut().unwrap().remove(1)),
    ];
    for change in changes {
        assert_eq!(beside(change, &jwt()).errors(), [""; 0]);
    }
}

#[test]
fn a_wasm_plugin_is_judged_by_its_phase() {
    let beside_plugin = |phase: Value| {
        let plugin = json!({
            "kind": "WasmPlugin", "metadata": { "name": "idempotency", "namespace": "istio-ingress" },
            "spec": { "url": "oci://registry.example.com/envoy-idempotency:0.1.0", "phase": phase },
        });
        let jwt = request_authentication(json!({ "issuer": "i" }));
        let run = check(&format!("---\n{plugin}\n---\n{jwt}\n"));
        run.errors().into_iter().filter(|error| !error.starts_with("a WasmPlugin cannot")).count()
    };
    assert_eq!([Value::Null, json!("AUTHZ"), json!("AUTHN")].map(beside_plugin), [1, 1, 0]);
}

#[test]
fn an_external_authorization_of_istio_is_warned_of() {
    let policy = |action: &str| {
        json!({
            "kind": "AuthorizationPolicy", "metadata": { "name": "ask", "namespace": "istio-ingress" },
            "spec": { "action": action, "provider": { "name": "opa" } },
        })
    };
    let about = |action: &str| {
        let run = beside(|_| (), &[policy(action)]);
        run.warnings().into_iter().filter(|it| !it.starts_with("/store")).map(str::to_owned).collect::<Vec<_>>()
    };
    let warnings = about("CUSTOM");
    let [warning] = &warnings[..] else { panic!("{warnings:?}") };
    let start =
        "AuthorizationPolicy istio-ingress/ask stands before this filter and can remove or replace credentials by ";
    assert!(warning.starts_with(start), "{warning}");
    assert_eq!(about("ALLOW"), [""; 0]);
    // In front of Istio's authorization nothing of it has happened yet.
    let plugin =
        json!({ "kind": "WasmPlugin", "spec": { "url": "oci://registry.example.com/idempotency", "phase": "AUTHZ" } });
    let run = check(&format!("---\n{plugin}\n---\n{}\n", policy("CUSTOM")));
    assert!(!run.out.contains("AuthorizationPolicy"), "{}", run.out);
}

#[test]
fn a_claim_that_istio_writes_and_the_rule_does_not_look_at_is_warned_of() {
    let rule = json!({
        "issuer": "i", "forwardOriginalToken": true,
        "outputClaimToHeaders": [{ "header": "X-Tenant", "claim": "tenant" }],
    });
    let run =
        beside(|filter| set(filter, &document_of(json!([{ "jwt_claim": "sub" }]))), &[request_authentication(rule)]);
    let [warning] = run.warnings()[..] else { panic!("{}", run.out) };
    let start = "rule default does not look at x-tenant, which RequestAuthentication istio-ingress/jwt writes: two ";
    assert!(warning.starts_with(start), "{warning}");
}

/// The warnings of these callers behind one or two rules of Istio's, without that of the store.
fn beside_rules(callers: Value, rules: Value) -> Vec<String> {
    let mut jwt = request_authentication(Value::Null);
    jwt["spec"]["jwtRules"] = rules;
    let run = beside(|filter| set(filter, &document_of(callers)), &[jwt]);
    run.warnings().into_iter().map(str::to_owned).collect()
}

#[test]
fn subjects_of_two_issuers_of_istio_are_warned_of() {
    let [a, b] = ["a", "b"].map(|issuer| json!({ "issuer": issuer, "forwardOriginalToken": true }));
    let warnings = beside_rules(json!([{ "jwt_claim": "sub" }]), json!([a, b]));
    let [warning] = &warnings[..] else { panic!("{warnings:?}") };
    assert!(
        warning.contains(", and RequestAuthentication istio-ingress/jwt takes tokens of issuers a and b: "),
        "{warning}"
    );
    assert_eq!(beside_rules(json!([{ "jwt_claim": "sub" }]), json!([a])), [""; 0]);
    assert_eq!(beside_rules(json!([{ "jwt_claim": "sub" }, { "jwt_claim": "iss" }]), json!([a, b])), [""; 0]);
}

#[test]
fn a_place_from_which_istio_takes_no_token_is_warned_of() {
    let elsewhere = json!({ "issuer": "i", "fromHeaders": [{ "name": "x-jwt" }] });
    let warnings = beside_rules(json!([{ "header": "x-api-key" }]), json!([elsewhere]));
    let [warning] = &warnings[..] else { panic!("{warnings:?}") };
    let start =
        "callers are known to RequestAuthentication istio-ingress/jwt by header x-jwt, and scope.caller of rule ";
    assert!(warning.starts_with(start), "{warning}");
    let payload = |key: &str| json!([{ "property": ["metadata", "filter_metadata", "envoy.filters.http.jwt_authn", key, "sub"] }]);
    assert_eq!(beside_rules(payload("payload"), json!([elsewhere])), [""; 0]);
    let warnings = beside_rules(payload("payloads"), json!([elsewhere]));
    let [warning] = &warnings[..] else { panic!("{warnings:?}") };
    assert!(
        warning.contains(", which issuer i of RequestAuthentication istio-ingress/jwt does not write: "),
        "{warning}"
    );
    assert!(warning.ends_with("; read {\"property\": [\"metadata\", \"filter_metadata\", \"envoy.filters.http.jwt_authn\", \"payload\", \"sub\"]}"), "{warning}");
}

#[test]
fn a_token_of_istio_that_is_taken_whole_by_default_is_noted() {
    let with = |rule: Value| {
        let run = beside(|_| (), &[request_authentication(rule)]);
        run.warnings().into_iter().filter(|it| it.contains("as by default, so a client that renews its token")).count()
    };
    assert_eq!(with(json!({ "issuer": "i", "forwardOriginalToken": true })), 1);
    assert_eq!(with(json!({ "issuer": "i", "fromHeaders": [{ "name": "x-jwt" }] })), 0);
}
