//! Client certificates as callers, on a listener without TLS, and on one that asks for them or does not.

use serde_json::{Value, json};

use crate::{Run, check_changed, document_of, listener, manager, set_document};

/// `envoy/local.yaml` with this transport socket's context, where there is one, and this way with certificates.
fn with(part: Value, details: Value, context: Option<Value>) -> Run {
    check_changed("local.yaml", |tree| {
        set_document(tree, &document_of(json!([part])));
        manager(tree)["forward_client_cert_details"] = details;
        if let Some(mut context) = context {
            context["@type"] =
                json!("type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext");
            listener(tree)["filter_chains"][0]["transport_socket"] = json!({ "name": "tls", "typed_config": context });
        }
    })
}

fn header() -> Value {
    json!({ "header": "X-Forwarded-Client-Cert" })
}

fn property() -> Value {
    json!({ "property": ["connection", "uri_san_peer_certificate"] })
}

fn checked(is_required: bool) -> Option<Value> {
    let validation = json!({ "trusted_ca": { "filename": "ca.pem" } });
    Some(json!({
        "require_client_certificate": is_required,
        "common_tls_context": { "validation_context": validation },
    }))
}

fn unchecked() -> Option<Value> {
    let validation = json!({ "trusted_ca": { "filename": "ca.pem" }, "trust_chain_verification": "ACCEPT_UNTRUSTED" });
    Some(json!({ "require_client_certificate": true, "common_tls_context": { "validation_context": validation } }))
}

/// What Envoy takes for no question at all.
fn unasked() -> Option<Value> {
    Some(json!({ "require_client_certificate": true, "common_tls_context": { "validation_context": {} } }))
}

const TLS: &str =
    "give its filter chain a transport_socket of TLS with require_client_certificate: true and a trusted_ca";
const BEHIND: &str = "; behind a proxy that writes the header, set ALWAYS_FORWARD_ONLY and let nothing but that proxy \
                      reach the listener";

#[test]
fn a_header_that_the_manager_always_removes_is_an_error_with_the_mend_that_helps_there() {
    let error = |details: Value, context: Option<Value>| {
        let run = with(header(), details, context);
        let [error] = run.errors()[..] else { panic!("{}", run.out) };
        let start = "the connection manager removes header x-forwarded-client-cert (forward_client_cert_details is ";
        let (how, mend) =
            error.strip_prefix(start).unwrap().split_once("), and scope.caller of rule default ").unwrap();
        (how.to_owned(), mend.strip_prefix("reads it, so such callers are not told apart: ").unwrap().to_owned())
    };
    let usual = "SANITIZE, as by default".to_owned();
    let set = "set forward_client_cert_details: SANITIZE_SET, or read {\"property\": [\"connection\", \
               \"uri_san_peer_certificate\"]} in scope.caller";
    assert_eq!(error(Value::Null, checked(true)), (usual.clone(), set.to_owned()));
    let without = "the listener does not speak TLS";
    let set = format!("{without}, so {TLS} and set forward_client_cert_details: SANITIZE_SET{BEHIND}");
    assert_eq!(error(Value::Null, None), (usual, set));
    for details in ["SANITIZE_SET", "APPEND_FORWARD", "FORWARD_ONLY"] {
        assert_eq!(error(json!(details), None), (format!("{details}, and {without}"), format!("{TLS}{BEHIND}")));
        let (how, mend) = error(json!(details), unasked());
        let asks = "asks for no client certificate, because its transport_socket has no trusted_ca";
        assert_eq!(how, format!("{details}, and the listener {asks}"));
        assert!(mend.starts_with("set require_client_certificate: true and a trusted_ca in its tr"), "{mend}");
    }
}

#[test]
fn a_header_that_the_manager_writes_or_that_checked_proxies_send_is_none() {
    for details in ["SANITIZE_SET", "APPEND_FORWARD", "FORWARD_ONLY", "ALWAYS_FORWARD_ONLY"] {
        let run = with(header(), json!(details), checked(true));
        assert_eq!((run.errors(), run.warnings()), (vec![], vec![]), "{details}");
    }
    for details in ["SANITIZE_SET", "FORWARD_ONLY"] {
        let run = with(header(), json!(details), checked(false));
        assert_eq!((run.errors(), run.warnings()), (vec![], vec![]), "{details}");
    }
}

#[test]
fn a_header_that_any_client_can_write_is_warned_of() {
    assert_eq!(
        with(header(), json!("ALWAYS_FORWARD_ONLY"), None).warnings(),
        [
            "scope.caller of rule default reads header x-forwarded-client-cert, which the connection manager leaves as clients \
          send it (forward_client_cert_details is ALWAYS_FORWARD_ONLY), and the listener does not speak TLS: any client can \
          write it and be whom it names; let nothing but the proxy that writes it reach the listener"
        ]
    );
    for (details, context, why) in [
        ("ALWAYS_FORWARD_ONLY", checked(false), "requires no client certificate"),
        (
            "ALWAYS_FORWARD_ONLY",
            unasked(),
            "asks for no client certificate, because its transport_socket has no trusted_ca",
        ),
        ("ALWAYS_FORWARD_ONLY", unchecked(), "does not check client certificates"),
        ("FORWARD_ONLY", unchecked(), "does not check client certificates"),
    ] {
        let run = with(header(), json!(details), context);
        let [warning] = run.warnings()[..] else { panic!("{}", run.out) };
        let wanted = format!(" (forward_client_cert_details is {details}), and the listener {why}: any client can ");
        assert!(warning.contains(&wanted), "{warning}");
        assert!(warning.contains("; set require_client_certificate: true and a trusted_ca in its transport_socket"));
    }
    assert_eq!(with(json!({ "header": "x-user" }), json!("ALWAYS_FORWARD_ONLY"), None).warnings(), [""; 0]);
    let run = check_changed("local.yaml", |tree| {
        set_document(tree, &document_of(json!([header()])));
        manager(tree)["forward_client_cert_details"] = json!("ALWAYS_FORWARD_ONLY");
        listener(tree).as_object_mut().unwrap().remove("address");
        listener(tree)["internal_listener"] = json!({});
    });
    assert_eq!(run.warnings(), [""; 0]);
}

#[test]
fn a_property_of_a_certificate_that_no_client_shows_is_an_error() {
    assert_eq!(
        with(property(), Value::Null, None).errors(),
        [format!(
            "the listener does not speak TLS, so no client shows a certificate, and scope.caller of rule default reads \
             connection.uri_san_peer_certificate: no request has a caller; {TLS}, or read what clients show here"
        )]
    );
    let run = with(property(), Value::Null, unasked());
    let [error] = run.errors()[..] else { panic!("{}", run.out) };
    assert!(error.starts_with("the listener asks for no client certificate, because its "), "{error}");
    for context in [checked(true), checked(false)] {
        let run = with(property(), Value::Null, context);
        assert_eq!((run.errors(), run.warnings()), (vec![], vec![]));
    }
    // Another part tells callers all the same.
    let either = json!({ "any": [property(), { "header": "authorization" }] });
    assert_eq!(with(either, Value::Null, None).errors(), [""; 0]);
    assert_eq!(with(json!({ "property": ["connection", "id"] }), Value::Null, None).errors(), [""; 0]);
}

#[test]
fn a_name_in_a_certificate_that_a_client_makes_itself_is_warned_of() {
    let run = with(property(), Value::Null, unchecked());
    assert_eq!(
        run.warnings(),
        [
            "scope.caller of rule default reads connection.uri_san_peer_certificate, and listener gateway checks no client \
          certificate: any client can make itself one with any name; set a trusted_ca in its transport_socket and leave \
          ACCEPT_UNTRUSTED out"
        ]
    );
    let lax = json!({ "default_validation_context": { "trust_chain_verification": "ACCEPT_UNTRUSTED" } });
    let lax = json!({ "common_tls_context": { "combined_validation_context": lax } });
    assert_eq!(with(property(), Value::Null, Some(lax)).warnings().len(), 1);
    let pinned = json!({ "verify_certificate_hash": ["00"], "trust_chain_verification": "ACCEPT_UNTRUSTED" });
    let pinned = json!({ "common_tls_context": { "validation_context": pinned } });
    assert_eq!(with(property(), Value::Null, Some(pinned)).warnings(), [""; 0]);
    let by_sds = json!({ "validation_context_sds_secret_config": { "name": "ca" } });
    let by_sds = json!({ "require_client_certificate": true, "common_tls_context": by_sds });
    assert_eq!(with(property(), Value::Null, Some(by_sds)).warnings(), [""; 0]);
    // Its key is the client's own.
    let digest = json!({ "property": ["connection", "sha256_peer_certificate_digest"] });
    assert_eq!(with(digest, Value::Null, unchecked()).warnings(), [""; 0]);
}

#[test]
fn a_transport_socket_of_another_kind_is_not_guessed_at() {
    let run = check_changed("local.yaml", |tree| {
        set_document(tree, &document_of(json!([property()])));
        let kind = "type.googleapis.com/envoy.extensions.transport_sockets.tap.v3.Tap";
        listener(tree)["filter_chains"][0]["transport_socket"] =
            json!({ "name": "tap", "typed_config": { "@type": kind } });
    });
    assert_eq!((run.errors(), run.warnings()), (vec![], vec![]));
}
