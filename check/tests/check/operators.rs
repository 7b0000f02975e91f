//! What is said of the plugin that operators ask, and of a file in which it misses its gateway.

use serde_json::{Value, json};

use crate::{Run, check, check_changed, run, shipped};

/// `envoy/operator.yaml` with the operator's plugin changed.
fn changed(change: fn(&mut Value)) -> Run {
    check_changed("operator.yaml", |tree| {
        let listener = &mut tree["static_resources"]["listeners"][1];
        let filters = &mut listener["filter_chains"][0]["filters"][0]["typed_config"]["http_filters"];
        change(&mut filters[0]["typed_config"]["config"]);
    })
}

fn set(plugin: &mut Value, document: &str) {
    plugin["configuration"]["value"] = document.into();
}

#[test]
fn what_operators_may_ask_is_said_in_words() {
    let run = run("envoy/operator.yaml", "", &[("IDEMPOTENCY_OPERATOR_TOKEN", "t")]);
    assert_eq!((run.code, run.warnings()), (0, vec![]));
    for words in ["GET /operations/<operation>", "from the variable IDEMPOTENCY_OPERATOR_TOKEN", "at most 64 MiB"] {
        assert!(run.out.replace("\n                   ", " ").contains(words), "{words}: {}", run.out);
    }
}

#[test]
fn a_plugin_that_misses_its_gateways_records_is_warned_of() {
    let misses: [fn(&mut Value); 4] = [
        |plugin| plugin["name"] = json!("idempotency-operator"),
        |plugin| plugin["vm_config"]["vm_id"] = json!("idempotency-2"),
        |plugin| {
            set(
                plugin,
                r#"{"operator": {"path": "/o", "token": {"env": "IDEMPOTENCY_OPERATOR_TOKEN"}}, "store": {"max_bytes": 1048576}}"#,
            )
        },
        |plugin| {
            set(
                plugin,
                r#"{"operator": {"path": "/o", "token": {"env": "IDEMPOTENCY_OPERATOR_TOKEN"}}, "store": {"type": "redis", "cluster": "resp"}}"#,
            )
        },
    ];
    for miss in misses {
        let run = changed(miss);
        let warnings = run.warnings();
        assert!(warnings.iter().any(|it| it.starts_with("no gateway of this file has the same vm_id")), "{}", run.out);
    }
    // By itself it may stand beside any gateway.
    let mut tree = shipped("operator.yaml");
    tree["static_resources"]["listeners"].as_array_mut().unwrap().remove(0);
    assert_eq!(check(&tree.to_string()).warnings(), [""; 0]);
}

#[test]
fn variables_that_the_vm_does_not_have_are_warned_of() {
    let run = check_changed("operator.yaml", |tree| {
        let plugin = crate::plugin(tree);
        plugin["vm_config"].as_object_mut().unwrap().remove("environment_variables");
    });
    let warnings = run.warnings();
    assert!(warnings.iter().any(|it| it.contains("environment_variables")), "{}", run.out);
}

#[test]
fn a_token_in_clear_and_a_document_that_is_wrong_are_said() {
    let clear = changed(|plugin| set(plugin, r#"{"operator": {"path": "/o", "token": "t"}}"#));
    assert!(clear.warnings()[0].starts_with("/operator/token: can be read in Envoy's config dump"), "{}", clear.out);
    let wrong = changed(|plugin| set(plugin, r#"{"operator": {"path": "/o"}}"#));
    assert!(wrong.out.contains("/operator: must have token"), "{}", wrong.out);
    assert_eq!(wrong.code, 1);
}

#[test]
fn every_error_of_its_document_is_said_and_none_that_it_does_not_have() {
    const DOCUMENT: &str = r#"{"operator": {"path": "/o", "token": "t"}, "store": {"max_bytes": 1}, "secrets": {"encryption": [{"id": "k", "key": "x"}]}}"#;
    let run = changed(|plugin| set(plugin, DOCUMENT));
    assert_eq!(run.code, 1);
    for (place, count) in [("/store/max_bytes: ", 1), ("/secrets/encryption/0/key: ", 1), ("/operator: ", 0)] {
        assert_eq!(run.said("error").iter().filter(|it| it.starts_with(place)).count(), count, "{place} {}", run.out);
    }
}

#[test]
fn a_store_that_is_the_gateways_word_for_word_is_so_whatever_its_variables_hold_here() {
    let store = r#""store": {"type": "redis", "cluster": "resp", "username": {"env": "RU"}, "password": {"env": "RP"}},
                   "secrets": {"encryption": [{"id": "k", "key": {"env": "RK"}}]}"#;
    let operator =
        format!(r#"{{"operator": {{"path": "/o", "token": {{"env": "IDEMPOTENCY_OPERATOR_TOKEN"}}}}, {store}}}"#);
    let mut tree = shipped("operator.yaml");
    let listeners = tree["static_resources"]["listeners"].as_array_mut().unwrap();
    for (listener, document) in listeners.iter_mut().zip([format!("{{{store}}}"), operator]) {
        let plugin = &mut listener["filter_chains"][0]["filters"][0]["typed_config"]["http_filters"][0]["typed_config"];
        let plugin = &mut plugin["config"];
        set(plugin, &document);
        let names = ["IDEMPOTENCY_OPERATOR_TOKEN", "RU", "RP", "RK"];
        plugin["vm_config"]["environment_variables"] = json!({ "host_env_keys": names });
    }
    let misses = |variables: &[(&str, &str)]| {
        let run = run("-", &format!("---\n{tree}"), variables);
        run.said("warning").iter().filter(|it| it.starts_with("no gateway of this file")).count()
    };
    assert_eq!(misses(&[]), 0);
    assert_eq!(misses(&[("RU", "alice")]), 0);
    assert_eq!(misses(&[("RU", "alice"), ("RP", "secret"), ("IDEMPOTENCY_OPERATOR_TOKEN", "t")]), 0);
}
