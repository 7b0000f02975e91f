//! What can be checked, and what is said of the rest.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::{Run, check, check_changed, filters, plugin, run, run_all, run_with, set_document, shipped};

#[test]
fn a_document_by_itself_is_told_in_words() {
    let run = check(r#" {"policy": {"lease_ms": 90000}} "#);
    assert_eq!((run.code, run.err.as_str()), (0, ""));
    assert!(run.out.starts_with("standard input\n  records"), "{}", run.out);
    assert!(run.out.contains("a claim stands for 90 s and is renewed"), "{}", run.out);
    assert_eq!(run.warnings(), [""; 0]);
}

#[test]
fn a_store_without_a_cache_is_told_of() {
    let run = check(r#"{"store": {"type": "redis", "cluster": "webdis", "cache": null}}"#);
    assert!(run.out.contains("\n  cache            off: every request asks Redis\n"), "{}", run.out);
}

#[test]
fn an_error_is_the_one_that_the_filter_logs_with_its_place_in_front() {
    let run = check(r#"{"policy": {"lease_ms": 10}}"#);
    assert_eq!((run.code, run.err.as_str()), (1, ""));
    assert_eq!(run.out, "standard input: error: /policy/lease_ms: must be at least 1000, is 10\n");
    for (document, message) in [
        (r#"{"polices": {}}"#, "/polices: is not a known field; known here: "),
        (r#"{"policy": {},}"#, "the document: is not JSON: trailing comma at line 1 column 15"),
        (r#"{"policy": {}, "policy": {}}"#, "/policy: is given a second time at line 1 column 23"),
    ] {
        let Run { code, out, .. } = check(document);
        assert!(code == 1 && out.starts_with(&format!("standard input: error: {message}")), "{document}: {code} {out}");
    }
}

#[test]
fn an_error_in_a_file_of_envoy_names_listener_and_filter() {
    let run = check_changed("local.yaml", |tree| set_document(tree, r#"{"rules": [{"policy": {"save": "never"}}]}"#));
    assert_eq!((run.code, run.err.as_str()), (1, ""));
    assert_eq!(
        run.out,
        "standard input: listener gateway, HTTP filter idempotency: error: /rules/0/policy/save: must be \
         \"before_reply\" or \"after_reply\", is \"never\"\n"
    );
}

#[test]
fn every_place_is_checked_though_one_is_wrong() {
    let run = check_changed("local.yaml", |tree| {
        let mut second = tree["static_resources"]["listeners"][0].clone();
        second["name"] = json!("second");
        tree["static_resources"]["listeners"].as_array_mut().unwrap().push(second);
        set_document(tree, "[]");
    });
    assert_eq!(run.code, 1);
    assert!(run.out.starts_with(
        "standard input: listener gateway, HTTP filter idempotency: error: the document: must be an object, is a list\n\n\
         standard input: listener second, HTTP filter idempotency\n  records"
    ));
}

#[test]
fn a_struct_is_read_as_the_filter_gets_it() {
    let document = |value| json!({ "@type": "type.googleapis.com/google.protobuf.Struct", "value": value });
    let run = check_changed("local.yaml", |tree| {
        plugin(tree)["configuration"] = document(json!({"policy": {"lease_ms": 2000}}))
    });
    assert!(run.out.contains("a claim stands for 2 s and"), "{}", run.out);
    // It has doubles only.
    let run = check_changed("local.yaml", |tree| {
        plugin(tree)["configuration"] = document(json!({"policy": {"lease_ms": 10}}))
    });
    assert!(run.out.ends_with("error: /policy/lease_ms: must be at least 1000, is 10.0\n"), "{}", run.out);
}

#[test]
fn a_plugin_without_a_configuration_has_every_default() {
    let run = check_changed("local.yaml", |tree| drop(plugin(tree).as_object_mut().unwrap().remove("configuration")));
    assert!(run.out.contains("Rule default\n  requests         POST or PATCH, every path\n"), "{}", run.out);
    assert_eq!(run.warnings(), [""; 0]);
}

#[test]
fn a_configuration_of_another_type_is_refused() {
    let run = check_changed("local.yaml", |tree| {
        plugin(tree)["configuration"]["@type"] = json!("type.googleapis.com/google.protobuf.BytesValue");
    });
    assert_eq!(run.code, 1);
    assert!(run.out.contains("error: configuration: must be a google.protobuf.StringValue or a "), "{}", run.out);
}

#[test]
fn a_typed_struct_stands_for_what_it_names() {
    let run = check_changed("local.yaml", |tree| {
        let config = filters(tree)[0]["typed_config"]["config"].clone();
        filters(tree)[0]["typed_config"] = json!({
            "@type": "type.googleapis.com/xds.type.v3.TypedStruct",
            "type_url": "type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm",
            "value": { "config": config },
        });
        filters(tree)[0]["typed_config"]["value"]["config"]["configuration"]["value"] = json!(r#"{"a": 1}"#);
    });
    let message =
        "standard input: listener gateway, HTTP filter idempotency: error: /a: is not a known field; known here: ";
    assert!(run.code == 1 && run.out.starts_with(message), "{}", run.out);
}

#[test]
fn listeners_that_are_discovered_are_checked_too() {
    let mut listener = shipped("local.yaml")["static_resources"]["listeners"][0].take();
    listener["@type"] = json!("type.googleapis.com/envoy.config.listener.v3.Listener");
    let run = check(&json!({ "resources": [listener] }).to_string());
    assert!(run.out.starts_with("standard input: listener gateway, HTTP filter idempotency\n"), "{}", run.out);
    assert_eq!(run.warnings(), [""; 0]);
}

#[test]
fn a_file_may_begin_as_windows_editors_begin_it() {
    let run = check("\u{feff}{}");
    assert_eq!((run.code, run.err.as_str()), (0, ""), "{}", run.out);
}

#[test]
fn warnings_fail_where_that_is_asked_for_and_every_file_is_checked() {
    let both = ["envoy/redis.yaml", "envoy/local.yaml"];
    assert_eq!(run_with(&both).code, 0);
    let strict = run_with(&["--strict", "envoy/redis.yaml", "envoy/local.yaml"]);
    assert_eq!((strict.code, strict.err.as_str()), (1, ""));
    assert!(strict.out.contains("envoy/redis.yaml: listener") && strict.out.contains("envoy/local.yaml: listener"));
    assert_eq!(run_with(&["--strict", "envoy/local.yaml"]).code, 0);
    let missing = run_with(&["envoy/absent.yaml", "envoy/local.yaml"]);
    assert_eq!(missing.code, 2);
    assert!(missing.err.starts_with("envoy/absent.yaml: cannot be read: ") && missing.out.contains("envoy/local.yaml"));
}

#[test]
fn the_program_says_what_it_takes() {
    let help = run_with(&["--help"]);
    assert!(help.code == 0 && help.out.contains("check-config [OPTIONS] FILE...") && help.err.is_empty());
    assert_eq!(run_with(&["--version"]).out, format!("check-config {}\n", envoy_idempotency::VERSION));
    let unknown = run_with(&["--fast", "envoy/local.yaml"]);
    assert_eq!(
        (unknown.code, unknown.err.as_str()),
        (2, "--fast is no option; known are --strict, --format, --request, -H, --body, --help and --version\n")
    );
}

#[test]
fn fields_may_be_spelt_as_protobuf_writes_them() {
    let listener = json!([{
        "name": "gateway",
        "perConnectionBufferLimitBytes": "1572863",
        "filterChains": [{ "filters": [{ "typedConfig": { "earlyHeaderMutationExtensions": [{ "typedConfig": { "mutations": [
            { "remove": "Idempotency-Operation" }, { "remove": "Idempotency-Attempt" }, { "remove": "Idempotency-Fence" },
        ] } }], "httpFilters": [{ "name": "mine", "typedConfig": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm",
            "config": {
                "rootId": "idempotency", "allowOnHeadersStopIteration": true,
                "configuration": {
                    "@type": "type.googleapis.com/google.protobuf.StringValue",
                    "value": r#"{"secrets": {"hash_key": {"env": "hashKey"}}}"#
                },
                "vmConfig": { "vmId": "a", "environmentVariables": { "keyValues": { "hashKey": "hunter2" } } }
            }
        } }] } }] }],
    }]);
    let run = check(&listener.to_string());
    assert!(run.out.starts_with("standard input: listener gateway, HTTP filter mine\n"), "{}", run.out);
    let [warning] = run.warnings()[..] else { panic!("{}", run.out) };
    assert!(warning.starts_with("the listener's per_connection_buffer_limit_bytes is 1572863 and "), "{warning}");
}

#[test]
fn several_documents_of_one_file_are_checked() {
    let text = format!("kind: Service\nmetadata: {{ name: webdis }}\n---\n{}\n---\n", shipped("istio.yaml"));
    let run = check(&text);
    assert!(run.out.starts_with("standard input: EnvoyFilter istio-ingress/idempotency, patch 0 (EXTENSION_CONFIG)\n"));
}

#[test]
fn the_resources_of_a_list_are_checked() {
    let run = check(&json!({ "apiVersion": "v1", "kind": "List", "items": [shipped("istio.yaml")] }).to_string());
    assert!(run.out.starts_with("standard input: EnvoyFilter istio-ingress/idempotency, patch 0 (EXTENSION_CONFIG)\n"));
}

#[test]
fn a_snippet_is_told_in_words_and_its_surroundings_are_not_guessed_at() {
    let run = run("envoy/minimal.yaml", "", &[]);
    assert!(
        run.out.ends_with("The file does not tell where the filter stands, so its surroundings were not checked.\n")
    );
    assert_eq!(run.warnings(), [""; 0]);
}

#[test]
fn a_variable_that_is_not_set_here_is_taken_as_right_and_named() {
    let document = r#"{"secrets": {"hash_key": {"env": "HASH_KEY"}}}"#;
    let run = check(document);
    assert!(run.out.contains("HMAC-SHA-256, its key from the variable HASH_KEY\n"), "{}", run.out);
    assert!(run.out.ends_with("Not set here, so its value was not checked: HASH_KEY\n"), "{}", run.out);
    assert_eq!(run.warnings(), [""; 0]);
}

#[test]
fn a_variable_that_is_set_here_is_checked_and_not_shown() {
    let document = r#"{"secrets": {"encryption": [{"id": "a", "key": {"env": "KEY"}}]}}"#;
    let run = run("-", document, &[("KEY", "hunter2")]);
    assert_eq!(run.code, 1);
    assert_eq!(
        run.out,
        "standard input: error: /secrets/encryption/0/key: must be 32 bytes in base64: openssl rand -base64 32\n"
    );
}

#[test]
fn a_variable_that_the_plugin_does_not_let_in_is_missing_there_too() {
    let document = r#"{"secrets": {"hash_key": {"env": "HASH_KEY"}}}"#;
    let message = "/secrets/hash_key/env: names a variable that the VM's environment does not have; let it in by vm_config.environment_variables.host_env_keys: [HASH_KEY]\n";
    let run = check_changed("local.yaml", |tree| set_document(tree, document));
    assert!(run.code == 1 && run.out.ends_with(message), "{}", run.out);
    for variables in [json!({ "host_env_keys": ["HASH_KEY"] }), json!({ "key_values": { "HASH_KEY": "hunter2" } })] {
        let run = check_changed("local.yaml", |tree| {
            set_document(tree, document);
            plugin(tree)["vm_config"]["environment_variables"] = variables;
        });
        assert!(run.code == 0 && !run.out.contains("hunter2"), "{}", run.out);
    }
}

#[test]
fn no_secret_is_shown() {
    let literals = r#"{
        "store": {"type": "redis", "dialect": "webdis", "cluster": "webdis", "authorization": "Basic hunter2"},
        "secrets": {"hash_key": "hunter2"}
    }"#;
    let run = check(literals);
    assert_eq!(run.warnings().len(), 3, "{}", run.out);
    assert!(!run.out.contains("hunter2"), "{}", run.out);
    // Nor do complaints about a file quote it.
    let run = check("secrets:\n  hash_key: hunter2\n bad: [hunter2\n");
    assert!(run.code == 2 && !run.err.contains("hunter2") && run.out.is_empty(), "{}", run.err);
}

#[test]
fn what_cannot_be_checked_is_said_in_one_line() {
    for (argument, input, message) in [
        ("", "", "give a file, or - for standard input: make check-config FILE=envoy/local.yaml"),
        ("envoy/absent.yaml", "", "envoy/absent.yaml: cannot be read: No such file or directory (os error 2)"),
        ("envoy", "", "envoy: cannot be read: Is a directory (os error 21)"),
        ("-", " \n", "standard input: is empty"),
        ("-", "a: [b", "standard input: is not YAML: "),
        ("envoy/compose.yaml", "", "envoy/compose.yaml: has no Wasm filter at all. "),
        ("-", "[[7], null]", "standard input: has no Wasm filter at all. "),
        ("-", r#"{"static_resources": {}}"#, "standard input: has no Wasm filter at all. "),
    ] {
        let Run { code, out, err } = run(argument, input, &[]);
        assert_eq!((code, out.as_str()), (2, ""), "{argument} {input}");
        assert!(err.starts_with(message) && err.lines().count() == 1, "{argument} {input}: {err}");
    }
}

#[test]
fn another_wasm_filter_is_left_alone() {
    let run = check_changed("local.yaml", |tree| {
        *plugin(tree) = json!({ "name": "waf", "vm_config": { "code": { "local": { "filename": "waf.wasm" } } } });
    });
    assert_eq!((run.code, run.out.as_str()), (2, ""));
    assert!(run.err.starts_with("standard input: has one Wasm filter, which is not it. The filter is recognised by "));
}

#[test]
fn a_field_that_a_string_value_does_not_have_is_an_error() {
    let with = |field: &str| {
        check_changed("local.yaml", |tree| {
            let configuration = &mut plugin(tree)["configuration"];
            let value = configuration["value"].take();
            configuration.as_object_mut().unwrap().remove("value");
            configuration[field] = value;
        })
    };
    assert_eq!(with("vaule").errors(), ["configuration/vaule: is not a known field; known here: @type, value"]);
    assert_eq!(with("value").errors(), [""; 0]);
}

#[test]
fn a_rule_in_force_without_callers_is_an_error() {
    let wanted = ["/policy/scope/caller: is empty, so no request is protected"];
    let run = check(r#"{"policy": {"scope": {"caller": []}}}"#);
    assert_eq!(run.errors(), wanted);
    assert!(!run.out.contains("warning"), "{}", run.out);
    for document in [
        r#"{"policy": {"scope": {"caller": [], "anonymous": "share"}}}"#,
        r#"{"policy": {"mode": "off", "scope": {"caller": []}}}"#,
        "{}",
    ] {
        assert_eq!(check(document).errors(), [""; 0], "{document}");
    }
}

#[test]
fn every_error_is_said_with_its_own_place() {
    let run = check(
        r#"{"polices": 1, "policy": {"lease_ms": 10, "save": "never", "key": {"sources": [{"header": "a b"}, {"query": ""}]},
        "execution": {"kind": "shielded"}}, "rules": [{"match": {"methods": ["P OST", "GET", "X Y"]}}, {"policys": {}}]}"#,
    );
    assert_eq!(run.code, 1);
    let places: Vec<_> = run.out.lines().map(|line| line.split(": ").nth(2).unwrap()).collect();
    let expected = [
        "/policy/key/sources/0/header",
        "/policy/key/sources/1/query",
        "/policy/lease_ms",
        "/policy/execution",
        "/policy/save",
        "/rules/0/match/methods/0",
        "/rules/0/match/methods/2",
        "/rules/1/policys",
        "/polices",
    ];
    assert_eq!(BTreeSet::from_iter(places), BTreeSet::from(expected), "{}", run.out);
}

#[test]
fn an_error_that_comes_only_of_another_is_not_said() {
    // Taken by itself the second is right: it is compared with a lease that is wrong.
    let run = check(r#"{"policy": {"lease_ms": 10, "ttl_s": 30}}"#);
    assert_eq!(run.out, "standard input: error: /policy/lease_ms: must be at least 1000, is 10\n");
    // The only entry of a list that may not be empty.
    let run = check(r#"{"policy": {"key": {"sources": [{"header": "a b"}]}}}"#);
    assert_eq!(run.out.lines().count(), 1, "{}", run.out);
}

#[test]
fn what_is_said_can_be_had_as_json() {
    let run = run_with(&["--format", "json", "envoy/redis.yaml", "envoy/absent.yaml"]);
    assert_eq!(run.code, 2);
    let said: Value = serde_json::from_str(&run.out).unwrap();
    let [redis, absent] = said["files"].as_array().unwrap().as_slice() else { panic!("{said}") };
    assert!(absent["unchecked"].as_str().unwrap().starts_with("cannot be read: "), "{absent}");
    let place = &redis["places"][0];
    assert_eq!((&redis["file"], &place["starts"]), (&json!("envoy/redis.yaml"), &json!(true)));
    assert_eq!(place["place"], "listener gateway, HTTP filter idempotency");
    assert_eq!(place["errors"], json!([]));
    let warning = json!({ "at": "/store", "message": "keeps responses in Redis in clear; give secrets.encryption" });
    assert_eq!(place["warnings"], json!([warning]));
    assert_eq!(place["rules"][0]["words"][0], json!({ "label": "requests", "text": "POST or PATCH, every path" }));
    let run = run_all(&["--format", "json", "-"], r#"{"policy": {"lease_ms": 10}}"#, &[]);
    let said: Value = serde_json::from_str(&run.out).unwrap();
    let error = json!({ "at": "/policy/lease_ms", "message": "must be at least 1000, is 10" });
    assert_eq!((run.code, &said["files"][0]["places"][0]["errors"]), (1, &json!([error])));
    let wrong = run_with(&["--format", "xml", "envoy/local.yaml"]);
    assert_eq!((wrong.code, wrong.err.as_str()), (2, "--format must be text or json, is xml\n"));
}

#[test]
fn a_rule_that_is_never_reached_is_shown_with_the_one_that_hides_it() {
    let run = check(
        r#"{"rules": [{"name": "all", "match": {"path": {"prefix": "/v1"}}},
                      {"name": "one", "match": {"path": {"exact": "/v1/payments"}}}]}"#,
    );
    assert!(run.out.contains("\n  reached          never: rule all takes all of them before it\n"), "{}", run.out);
    assert!(run.warnings().contains(&"/rules/1: is never reached, because /rules/0 takes all that it matches"));
}
