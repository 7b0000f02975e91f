//! Warnings about where shielded requests are sent: each is provoked by one change of `envoy/shielded.yaml`.

use serde_json::{Value, json};

use crate::{Run, check_changed, filters, listener, manager};

fn shielded(change: impl FnOnce(&mut Value)) -> Run {
    check_changed("shielded.yaml", change)
}

fn inside(tree: &mut Value) -> &mut Value {
    &mut tree["static_resources"]["listeners"][1]
}

fn inner_manager(tree: &mut Value) -> &mut Value {
    &mut inside(tree)["filter_chains"][0]["filters"][0]["typed_config"]
}

fn address(tree: &mut Value) -> &mut Value {
    &mut tree["static_resources"]["clusters"][1]["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]["address"]
}

#[test]
fn a_cluster_that_is_not_there_is_warned_of() {
    let run = shielded(|tree| drop(tree["static_resources"]["clusters"].as_array_mut().unwrap().remove(1)));
    assert_eq!(
        run.warnings(),
        ["execution.cluster is shielded, and the file has no cluster of this name: every call to it fails"]
    );
}

#[test]
fn a_listener_that_is_not_there_is_warned_of() {
    let run = shielded(|tree| drop(tree["static_resources"]["listeners"].as_array_mut().unwrap().remove(1)));
    assert_eq!(
        run.warnings(),
        ["execution.cluster shielded leads to an internal listener that the file does not have"]
    );
}

#[test]
fn listeners_and_endpoints_that_are_discovered_are_not_missed() {
    let discovered = json!({ "lds_config": { "ads": {} } });
    let run = shielded(|tree| {
        tree["static_resources"]["listeners"].as_array_mut().unwrap().remove(1);
        tree["dynamic_resources"] = discovered;
    });
    assert_eq!(run.warnings(), [""; 0]);
    let run = shielded(|tree| drop(tree["static_resources"]["clusters"][1]["load_assignment"].take()));
    assert_eq!(run.warnings(), [""; 0]);
}

#[test]
fn a_listener_that_runs_the_filter_itself_is_warned_of() {
    let run = shielded(|tree| {
        let filter = filters(tree)[0].clone();
        inner_manager(tree)["http_filters"].as_array_mut().unwrap().insert(0, filter);
    });
    // It is configured there too, so there are two warnings.
    let wanted = "listener shielded, to which execution.cluster shielded leads, runs this filter itself: what it executes \
                  would be a duplicate of itself";
    assert_eq!(run.warnings(), [wanted, wanted]);
}

#[test]
fn a_listener_without_the_account_of_an_answer_is_warned_of() {
    let run = shielded(|tree| {
        let headers = inner_manager(tree)["route_config"]["response_headers_to_add"].as_array_mut().unwrap();
        headers[0]["append_action"] = json!("APPEND_IF_EXISTS_OR_ADD");
        headers[1]["header"]["value"] = json!("%UPSTREAM_HOST%");
        headers[4].as_object_mut().unwrap().remove("keep_empty_value");
    });
    assert_eq!(
        run.warnings(),
        ["listener shielded does not set x-idempotency-details: \"%RESPONSE_CODE_DETAILS%\", x-idempotency-attempts: \
          \"%UPSTREAM_REQUEST_ATTEMPT_COUNT%\", x-idempotency-owner: \
          \"%FILTER_STATE(envoy.filters.network.http_connection_manager.local_reply_owner:PLAIN)%\" with append_action OVERWRITE_IF_EXISTS_OR_ADD and \
          keep_empty_value in its response_headers_to_add: the outcome of every failed execution is unknown"]
    );
}

#[test]
fn an_older_account_is_warned_of_with_the_fields_that_it_lacks() {
    let run = shielded(|tree| {
        let headers = inner_manager(tree)["route_config"]["response_headers_to_add"].as_array_mut().unwrap();
        headers.truncate(2);
    });
    let owner = "%FILTER_STATE(envoy.filters.network.http_connection_manager.local_reply_owner:PLAIN)%";
    assert_eq!(
        run.warnings(),
        [format!(
            "listener shielded does not set x-idempotency-flags: \"%RESPONSE_FLAGS%\", x-idempotency-sent: \
             \"%UPSTREAM_WIRE_BYTES_SENT%\", x-idempotency-owner: \"{owner}\" with append_action \
             OVERWRITE_IF_EXISTS_OR_ADD and keep_empty_value in its response_headers_to_add: the outcome of every failed \
             execution is unknown"
        )]
    );
}

#[test]
fn every_virtual_host_must_give_the_account() {
    let split = |tree: &mut Value| {
        let routes = &mut inner_manager(tree)["route_config"];
        let headers = routes.as_object_mut().unwrap().remove("response_headers_to_add").unwrap();
        let hosts = routes["virtual_hosts"].as_array_mut().unwrap();
        hosts[0]["response_headers_to_add"] = headers;
        hosts.push(hosts[0].clone());
    };
    assert_eq!(shielded(split).warnings(), [""; 0]);
    let run = shielded(|tree| {
        split(tree);
        let hosts = &mut inner_manager(tree)["route_config"]["virtual_hosts"];
        hosts[1]["response_headers_to_add"].as_array_mut().unwrap().truncate(1);
    });
    let [warning] = run.warnings()[..] else { panic!("{}", run.out) };
    assert!(warning.starts_with("listener shielded does not set x-idempotency-attempts: "), "{warning}");
}

#[test]
fn a_listener_with_an_address_is_warned_of() {
    let run = shielded(|tree| {
        let socket = json!({ "socket_address": { "address": "0.0.0.0", "port_value": 10001 } });
        *address(tree) = socket.clone();
        inside(tree).as_object_mut().unwrap().remove("internal_listener");
        inside(tree)["address"] = socket;
    });
    assert_eq!(
        run.warnings(),
        [
            "execution.cluster shielded leads to a network address instead of an internal listener: a client that reaches \
          that address gets past the filter"
        ]
    );
}

#[test]
fn a_route_from_outside_to_the_listener_is_warned_of() {
    let run = shielded(|tree| {
        let route = json!({ "match": { "prefix": "/inside" }, "route": { "cluster": "shielded" } });
        manager(tree)["route_config"]["virtual_hosts"][0]["routes"].as_array_mut().unwrap().push(route);
        assert_eq!(listener(tree)["name"], "gateway");
    });
    assert_eq!(
        run.warnings(),
        [
            "listener gateway leads to listener shielded by cluster shielded: a client that takes that way gets past the filter"
        ]
    );
}

#[test]
fn a_rule_that_is_off_shields_nothing() {
    let run = shielded(|tree| {
        drop(tree["static_resources"]["clusters"].as_array_mut().unwrap().remove(1));
        crate::set_document(
            tree,
            r#"{"policy": {"mode": "off", "execution": {"kind": "shielded", "cluster": "shielded"}}}"#,
        );
    });
    assert_eq!(run.warnings(), [""; 0]);
}
