//! What becomes of one request that the operator asks about.
//!
//! Its one rule: what is said is what the filter does with such a request.

use crate::{run_all, run_with};

/// What is said of a request, label by label.
fn asked(document: &str, arguments: &[&str]) -> Vec<(String, String)> {
    let run = run_all(&[arguments, &["-"]].concat(), document, &[]);
    assert_eq!((run.code, run.err.as_str()), (0, ""), "{}", run.out);
    let after = run.out.split_once("\nRequest ").expect("the request").1;
    let mut lines: Vec<(String, String)> = Vec::new();
    for line in after.lines().skip(1).take_while(|line| line.starts_with("  ")) {
        match (line.get(2..19).unwrap_or("").trim(), line.get(19..).unwrap_or("").trim()) {
            ("", more) => lines.last_mut().expect("a label").1.push_str(&format!(" {more}")),
            (label, said) => lines.push((label.to_owned(), said.to_owned())),
        }
    }
    lines
}

fn said(document: &str, arguments: &[&str], label: &str) -> String {
    let lines = asked(document, arguments);
    let found = lines.iter().find(|(known, _)| known == label);
    found.unwrap_or_else(|| panic!("{label} in {lines:?}")).1.clone()
}

const RULES: &str = r#"{"rules": [
    {"name": "transfers", "match": {"path": {"exact": "/v1/transfers"}}, "policy": {"key": {"sources": [{"json": "/id"}]}}},
    {"name": "payments", "match": {"path": {"prefix": "/v1/payments"}, "hosts": ["api.example.com"]}, "policy": {"key": {"required": true}}}
]}"#;
const ALICE: [&str; 2] = ["-H", "Authorization: Bearer alice"];
const KEY: [&str; 2] = ["-H", "Idempotency-Key: abc"];

#[test]
fn the_rule_the_key_and_the_caller_are_named_and_the_credential_is_not_shown() {
    let request = ["--request", "POST https://api.example.com/v1/payments?a=b"];
    let arguments = [&request[..], &KEY, &ALICE, &["--body", "ten"]].concat();
    let lines = asked(RULES, &arguments);
    let labels: Vec<_> = lines.iter().map(|(label, _)| label.as_str()).collect();
    assert_eq!(labels, ["rule", "key", "caller", "record", "then"]);
    assert_eq!(lines[0].1, "payments (/rules/1)");
    assert_eq!([&lines[1].1, &lines[2].1], ["abc", "header authorization"]);
    assert!(lines[4].1.starts_with("runs where it is the first"), "{lines:?}");
    assert!(!format!("{lines:?}").contains("alice"));
    // Another caller, host or key is another record; another body is not.
    let record = |changed: &[&str]| said(RULES, changed, "record");
    let first = record(&arguments);
    assert_eq!(record(&[&request[..], &KEY, &ALICE, &["--body", "twenty"]].concat()), first);
    assert_ne!(record(&[&request[..], &KEY, &["-H", "authorization: Bearer bob"]].concat()), first);
    assert_ne!(record(&[&request[..], &["-H", "idempotency-key: abd"], &ALICE].concat()), first);
}

#[test]
fn a_key_in_the_body_is_found_there() {
    let request =
        ["--request", "POST /v1/transfers", "-H", "content-type: application/json", "--body", r#"{"id": "k-1"}"#];
    assert_eq!(said(RULES, &[&request[..], &ALICE].concat(), "key"), "k-1");
    let other = ["--request", "POST /v1/transfers", "--body", "no JSON"];
    let lines = asked(RULES, &[&other[..], &ALICE].concat());
    assert!(lines[1].1.starts_with("none that can be read"), "{lines:?}");
    assert_eq!(lines.last().expect("an end").1, "passes unprotected, with reason=key-unreadable");
}

#[test]
fn a_refusal_is_shown_as_the_client_gets_it() {
    let request = ["--request", "POST /v1/payments", "-H", "Host: api.example.com"];
    let lines = asked(RULES, &[&request[..], &ALICE].concat());
    assert_eq!(lines[lines.len() - 2], ("then".to_owned(), "is refused: 400".to_owned()));
    assert!(lines[lines.len() - 1].1.contains("urn:envoy-idempotency:key-missing"), "{lines:?}");
}

#[test]
fn a_request_without_a_key_or_a_caller_passes_unprotected_with_the_reason() {
    let then = |arguments: &[&str]| said("{}", arguments, "then");
    assert_eq!(then(&["--request", "POST /"]), "passes unprotected, with reason=no-key");
    assert_eq!(then(&[&["--request", "POST /"][..], &KEY].concat()), "passes unprotected, with reason=no-caller");
    let grpc = [&["--request", "POST /", "-H", "content-type: application/grpc"][..], &KEY, &ALICE].concat();
    assert_eq!(then(&grpc), "passes unprotected: it is a gRPC call");
    let off = r#"{"policy": {"mode": "off"}}"#;
    assert_eq!(
        said(off, &[&["--request", "POST /"][..], &KEY].concat(), "then"),
        "passes unprotected: the rule is off"
    );
}

#[test]
fn what_a_request_lacks_of_its_name_is_said() {
    let lacks = |arguments: &[&str]| -> Vec<String> {
        let lines = asked("{}", &[&["--request"][..], arguments].concat());
        lines.into_iter().filter(|(label, _)| label == "lacks").map(|(_, what)| what).collect()
    };
    let host = "host, which is part of the name: give the whole URL, or -H 'host: …'";
    let caller = "caller, who is part of the name: told by header authorization";
    assert_eq!(lacks(&[&["POST /"][..], &KEY].concat()), [host, caller]);
    assert_eq!(lacks(&[&["POST /"][..], &KEY, &ALICE].concat()), [host]);
    assert_eq!(lacks(&[&["POST http://a/"][..], &KEY].concat()), [caller]);
    assert_eq!(lacks(&[&["POST /", "-H", "Host: a"][..], &KEY, &ALICE].concat()), [""; 0]);
    assert_eq!(lacks(&["POST /"]), [""; 0], "without a key no record is kept");
    let any_host = r#"{"policy": {"scope": {"host": false}}}"#;
    let lines = asked(any_host, &[&["--request", "POST /"][..], &KEY, &ALICE].concat());
    assert!(lines.iter().all(|(label, _)| label != "lacks"), "{lines:?}");
}

#[test]
fn another_spelling_of_a_path_is_shown_with_the_rule_that_does_not_take_it() {
    // docs/recipes.md: a tolerant service may take these as the same.
    for path in [
        "/v1/transfers/",
        "/v1/transfers;a=b",
        "/v1/x/../transfers",
        "/V1/Transfers",
        "/v1/transfer%73",
        "//v1/transfers",
    ] {
        let rule = said(RULES, &["--request", &format!("POST {path}")], "rule");
        assert!(rule.starts_with("none, so it passes unprotected; but /v1/transfers, "), "{path}: {rule}");
        assert!(rule.contains("is taken by transfers (/rules/0)"), "{path}: {rule}");
    }
    let rule = said(RULES, &["--request", "POST /v1/orders"], "rule");
    assert_eq!(rule, "none, so it passes unprotected");
}

#[test]
fn a_request_of_another_form_is_refused_by_its_option() {
    for (arguments, message) in [
        (
            &["--request", "POST"][..],
            "a request must be a method and a target, such as 'POST /v1/payments', is \"POST\"\n",
        ),
        (
            &["--request", "POST v1"],
            "a request must be a method and a target, such as 'POST /v1/payments', is \"POST v1\"\n",
        ),
        (&["--request", "POST /", "-H", "abc"], "-H must be 'name: value', is \"abc\"\n"),
        (&["-H", "a: b"], "-H and --body go only with --request\n"),
    ] {
        let run = run_with(&[arguments, &["envoy/local.yaml"]].concat());
        assert_eq!((run.code, run.err.as_str()), (2, message));
    }
}
