//! The filter where it does not run, and where it runs twice.

use serde_json::{Value, json};

use crate::{Run, check_changed, filters, host, listener, set_document, shipped};

/// What a layer says of the filter.
fn word(is_off: bool) -> Value {
    let word = json!({ "@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig", "disabled": is_off });
    json!({ "idempotency": word })
}

#[test]
fn a_filter_that_never_runs_is_an_error() {
    let run = check_changed("local.yaml", |tree| filters(tree)[0]["disabled"] = json!(true));
    assert_eq!(run.errors(), ["idempotency is disabled, and no route enables it: it never runs"]);
    let run = check_changed("local.yaml", |tree| {
        filters(tree)[0]["disabled"] = json!(true);
        host(tree)["routes"][0]["typed_per_filter_config"] = word(false);
    });
    assert_eq!((run.errors(), run.warnings()), (vec![], vec![]));
    let run = check_changed("local.yaml", |tree| {
        filters(tree)[0]["disabled"] = json!(true);
        crate::manager(tree).as_object_mut().unwrap().remove("route_config");
    });
    assert_eq!(run.errors(), [""; 0]);
}

/// With a route to `/free` before the others, of which this is said, and a rule about these paths.
fn with_route(prefix: &str, word: Value, is_off: bool) -> Run {
    check_changed("local.yaml", |tree| {
        let rule = json!({ "name": "pay", "match": { "methods": ["POST"], "path": { "prefix": prefix } } });
        set_document(tree, &json!({ "rules": [rule] }).to_string());
        filters(tree)[0]["disabled"] = json!(is_off);
        let mut free = host(tree)["routes"][0].clone();
        if is_off {
            host(tree)["routes"][0]["typed_per_filter_config"] = word.clone();
        } else {
            free["typed_per_filter_config"] = word;
        }
        free["match"] = json!({ "prefix": "/free" });
        host(tree)["routes"].as_array_mut().unwrap().insert(0, free);
    })
}

#[test]
fn a_route_that_disables_the_filter_is_named_where_a_rule_is_about_it() {
    for prefix in ["/", "/free/of"] {
        assert_eq!(
            with_route(prefix, word(true), false).warnings(),
            [
                "idempotency is disabled on route 0 of virtual host payments, and rule pay is about requests that go there: \
              they are not protected"
            ]
        );
    }
    assert_eq!(with_route("/v1", word(true), false).warnings(), [""; 0]);
    assert_eq!(with_route("/", word(false), false).warnings(), [""; 0]);
}

#[test]
fn a_filter_that_routes_turn_on_is_missed_only_by_a_rule_that_none_of_them_is_about() {
    assert_eq!(with_route("/", word(false), true).warnings(), [""; 0]);
    assert_eq!(with_route("/free", word(false), true).warnings().len(), 1);
}

#[test]
fn this_filter_twice_in_one_chain_is_an_error() {
    let twice = |change: fn(&mut Value)| {
        let run = check_changed("local.yaml", |tree| {
            let mut again = filters(tree)[0].clone();
            again["name"] = json!("second");
            change(&mut again);
            filters(tree).insert(1, again);
        });
        run.errors().into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(
        twice(|_| ()),
        [
            "HTTP filters idempotency and second of this chain are both this filter, with the same vm_id (idempotency) and \
          plugin name (idempotency): what the first lets through is a duplicate to the second; take one out"
        ]
    );
    assert_eq!(twice(|again| again["typed_config"]["config"]["name"] = json!("other")), [""; 0]);
    assert_eq!(twice(|again| again["typed_config"]["config"]["vm_config"]["vm_id"] = json!("other")), [""; 0]);
    assert_eq!(twice(|again| again["disabled"] = json!(true)).len(), 1, "only that it never runs");
}

/// `envoy/local.yaml` with a listener in front that runs the filter too, changed.
fn behind_itself(change: impl FnOnce(&mut Value, &mut Value)) -> Vec<String> {
    let run = check_changed("local.yaml", |tree| {
        let mut edge = shipped("local.yaml")["static_resources"]["listeners"][0].take();
        edge["name"] = json!("edge");
        edge["address"]["socket_address"]["port_value"] = json!(443);
        let manager = &mut edge["filter_chains"][0]["filters"][0]["typed_config"];
        manager["route_config"]["virtual_hosts"][0]["routes"][0]["route"]["cluster"] = json!("inside");
        let address = listener(tree)["address"].clone();
        let endpoints = json!([{ "lb_endpoints": [{ "endpoint": { "address": address } }] }]);
        let cluster = json!({ "name": "inside", "load_assignment": { "endpoints": endpoints } });
        tree["static_resources"]["clusters"].as_array_mut().unwrap().push(cluster);
        change(tree, manager);
        tree["static_resources"]["listeners"].as_array_mut().unwrap().push(edge);
    });
    run.errors().into_iter().map(str::to_owned).collect()
}

#[test]
fn this_filter_behind_itself_is_an_error() {
    assert_eq!(
        behind_itself(|_, _| ()),
        ["listener edge, which leads here by cluster inside, runs this filter too (HTTP filter idempotency), as does \
          listener gateway, with the same vm_id (idempotency) and plugin name (idempotency): what the first lets through \
          is a duplicate to the second; take one out, or give them names of their own"]
    );
    let vm = |_: &mut Value, edge: &mut Value| {
        edge["http_filters"][0]["typed_config"]["config"]["vm_config"]["vm_id"] = json!("edge");
    };
    assert_eq!(behind_itself(vm), [""; 0]);
    let name = |_: &mut Value, edge: &mut Value| {
        edge["http_filters"][0]["typed_config"]["config"]["name"] = json!("edge");
    };
    assert_eq!(behind_itself(name), [""; 0]);
    let elsewhere = |_: &mut Value, edge: &mut Value| {
        edge["route_config"]["virtual_hosts"][0]["routes"][0]["route"]["cluster"] = json!("payments");
    };
    assert_eq!(behind_itself(elsewhere), [""; 0]);
}

#[test]
fn two_of_this_filter_about_other_requests_do_not_meet() {
    let with = |document: &str| {
        behind_itself(|tree, edge| {
            set_document(tree, r#"{"rules": [{"match": {"methods": ["POST"], "path": {"prefix": "/pay"}}}]}"#);
            edge["http_filters"][0]["typed_config"]["config"]["configuration"]["value"] = document.into();
        })
        .len()
    };
    assert_eq!(with(r#"{"rules": [{"match": {"methods": ["POST"], "path": {"prefix": "/orders"}}}]}"#), 0);
    assert_eq!(with(r#"{"rules": [{"match": {"methods": ["POST"], "path": {"prefix": "/pay/now"}}}]}"#), 1);
    assert_eq!(with(r#"{"policy": {"mode": "observe"}}"#), 0);
    assert_eq!(with("{}"), 1);
}
