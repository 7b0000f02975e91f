//! Warnings about what clients would not get.

use serde_json::json;

use crate::{check_changed, filters, host, manager, set_document};

#[test]
fn proxy_100_continue_is_warned_of() {
    let run = check_changed("local.yaml", |tree| manager(tree)["proxy_100_continue"] = json!(true));
    let why = "proxy_100_continue leaves it to the service to say 100, and the filter holds a request until its body has come: \
               a client that waits for 100 Continue is refused (417 expectation-failed)";
    assert_eq!(run.warnings(), [why]);
}

#[test]
fn what_a_client_can_say_in_the_gateways_name_is_warned_of() {
    let run = check_changed("local.yaml", |tree| {
        manager(tree).as_object_mut().unwrap().remove("early_header_mutation_extensions");
    });
    let why = "no early_header_mutation of the connection manager removes idempotency-operation, idempotency-attempt, \
               idempotency-fence: of requests that no rule is about, or whose rule is off or observes, a client can say them to \
               the service (envoy/local.yaml has it)";
    assert_eq!(run.warnings(), [why]);
}

#[test]
fn clicks_that_run_inline_are_warned_of() {
    let rule = |policy: &str| format!(r#"{{"rules": [{{"name": "checkout", "match": {{}}, "policy": {policy}}}]}}"#);
    let why = "rule checkout takes its key from a form or from the content, as browsers send it, and runs inline: a second \
               click aborts the first request, whose outcome is then unknown; set execution to shielded";
    for policy in [
        r#"{"key": {"sources": [{"form": "token"}]}}"#,
        r#"{"key": {"sources": [{"any": [{"header": "x-key"}, {"form": "token"}]}]}}"#,
        r#"{"key": {"inject": {"kind": "content"}}}"#,
    ] {
        let run = check_changed("local.yaml", |tree| set_document(tree, &rule(policy)));
        assert!(run.warnings().contains(&why), "{policy}: {}", run.out);
    }
    let shielded =
        r#"{"key": {"sources": [{"form": "token"}]}, "execution": {"kind": "shielded", "cluster": "shielded"}}"#;
    let run = check_changed("shielded.yaml", |tree| set_document(tree, &rule(shielded)));
    assert!(!run.warnings().contains(&why), "{}", run.out);
}

#[test]
fn a_list_of_cors_that_hides_our_headers_is_warned_of_with_what_to_add() {
    let with = |listed: &str, document: &str| {
        check_changed("local.yaml", |tree| {
            set_document(tree, document);
            filters(tree).insert(0, json!({ "name": "envoy.filters.http.cors" }));
            host(tree)["typed_per_filter_config"] = json!({ "envoy.filters.http.cors": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.cors.v3.CorsPolicy",
                "expose_headers": listed,
            } });
        })
    };
    let exposing = r#"{"policy": {"expose_cors": true}}"#;
    let why = "envoy.filters.http.cors writes expose_headers over what expose_cors lists: add Idempotency-Status, \
               Idempotent-Replayed, Retry-After there";
    assert_eq!(with("x-total, idempotency-key", exposing).warnings(), [why]);
    let all = "Idempotency-Status,Idempotent-Replayed,Idempotency-Key,Retry-After,x-total";
    assert_eq!(with(all, exposing).warnings(), [""; 0]);
    assert_eq!(with("x-total", "{}").warnings(), [""; 0]);
}
