//! Errors about another listener of the file, through which requests come to the filter's: `edge` leads to `gateway`.

use serde_json::{Value, json};

use crate::{Run, check_changed, document_of, host, jwt, listener, put_in_front, set_document, shipped};

/// `envoy/local.yaml` with a listener in front of it that leads to it.
fn through_edge(change: impl FnOnce(&mut Value, &mut Value)) -> Run {
    check_changed("local.yaml", |tree| {
        let mut edge = shipped("local.yaml")["static_resources"]["listeners"][0].take();
        edge["name"] = json!("edge");
        edge["address"]["socket_address"]["port_value"] = json!(443);
        let manager = edge_manager(&mut edge);
        manager["http_filters"].as_array_mut().unwrap().remove(0);
        manager["route_config"]["virtual_hosts"][0]["routes"][0]["route"]["cluster"] = json!("inside");
        let address = listener(tree)["address"].clone();
        let endpoints = json!([{ "lb_endpoints": [{ "endpoint": { "address": address } }] }]);
        let cluster = json!({ "name": "inside", "load_assignment": { "endpoints": endpoints } });
        tree["static_resources"]["clusters"].as_array_mut().unwrap().push(cluster);
        change(tree, &mut edge);
        tree["static_resources"]["listeners"].as_array_mut().unwrap().push(edge);
    })
}

fn edge_manager(edge: &mut Value) -> &mut Value {
    &mut edge["filter_chains"][0]["filters"][0]["typed_config"]
}

fn edge_host(edge: &mut Value) -> &mut Value {
    &mut edge_manager(edge)["route_config"]["virtual_hosts"][0]
}

#[test]
fn what_the_listener_before_removes_is_an_error() {
    assert_eq!(through_edge(|_, _| ()).errors(), [""; 0]);
    let run = through_edge(|_, edge| edge_host(edge)["request_headers_to_remove"] = json!(["Authorization"]));
    assert_eq!(
        run.errors(),
        ["listener edge, which leads here by cluster inside: virtual host payments removes header authorization \
          (request_headers_to_remove), and scope.caller of rule default reads it, so such callers are not told apart: take \
          Authorization out of that list"]
    );
    let places: [fn(&mut Value) -> &mut Value; 2] =
        [|edge| &mut edge_manager(edge)["route_config"], |edge| &mut edge_host(edge)["routes"][0]];
    for place in places {
        let run = through_edge(|_, edge| place(edge)["request_headers_to_remove"] = json!(["authorization"]));
        assert_eq!(run.errors().len(), 1, "{}", run.out);
    }
}

#[test]
fn filters_of_the_listener_before_count_as_well() {
    let run = through_edge(|_, edge| {
        let mut config = jwt(json!({}));
        config["@type"] = json!("type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication");
        let filters = edge_manager(edge)["http_filters"].as_array_mut().unwrap();
        filters.insert(0, json!({ "name": "jwt", "typed_config": config }));
    });
    let [error] = run.errors()[..] else { panic!("{}", run.out) };
    assert!(error.starts_with("listener edge, which leads here by cluster inside: jwt removes header "), "{error}");
}

#[test]
fn a_header_that_the_same_layer_writes_again_comes_through() {
    let run = through_edge(|_, edge| {
        let host = edge_host(edge);
        host["request_headers_to_remove"] = json!(["authorization"]);
        let header = json!({ "key": "authorization", "value": "%REQ(x-token)%" });
        host["request_headers_to_add"] = json!([{ "header": header }]);
    });
    assert_eq!(run.errors(), [""; 0]);
}

#[test]
fn a_header_that_a_filter_here_writes_again_is_there() {
    let run = through_edge(|tree, edge| {
        set_document(tree, &document_of(json!([{ "header": "x-sub" }])));
        let claims = json!([{ "header_name": "x-sub", "claim_name": "sub" }]);
        put_in_front(tree, "jwt_authn", jwt(json!({ "claim_to_headers": claims })));
        edge_host(edge)["request_headers_to_remove"] = json!(["x-sub"]);
    });
    assert_eq!(run.errors(), [""; 0]);
}

#[test]
fn what_a_filter_here_does_is_no_fault_of_the_listener_before() {
    let run = through_edge(|tree, _| {
        put_in_front(tree, "jwt_authn", jwt(json!({})));
        let off = json!({ "@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig", "disabled": true });
        host(tree)["typed_per_filter_config"] = json!({ "envoy.filters.http.jwt_authn": off });
    });
    assert_eq!(run.errors(), [""; 0]);
}

#[test]
fn a_listener_that_leads_elsewhere_or_an_internal_one_by_its_name_is_known_by_its_cluster() {
    let run = through_edge(|tree, edge| {
        tree["static_resources"]["clusters"][0]["name"] = json!("payments");
        edge_host(edge)["routes"][0]["route"]["cluster"] = json!("payments");
        edge_host(edge)["request_headers_to_remove"] = json!(["authorization"]);
    });
    assert_eq!(run.errors(), [""; 0]);
    let run = through_edge(|tree, edge| {
        listener(tree).as_object_mut().unwrap().remove("address");
        listener(tree)["internal_listener"] = json!({});
        let endpoint =
            &mut tree["static_resources"]["clusters"][1]["load_assignment"]["endpoints"][0]["lb_endpoints"][0];
        endpoint["endpoint"]["address"] = json!({ "envoy_internal_address": { "server_listener_name": "gateway" } });
        edge_host(edge)["request_headers_to_remove"] = json!(["authorization"]);
    });
    assert_eq!(run.errors().len(), 1, "{}", run.out);
}

#[test]
fn a_route_of_the_listener_before_that_no_rule_is_about_is_not_judged() {
    let on = |route: Value, prefix_rewrite: Value| {
        let run = through_edge(|tree, edge| {
            set_document(tree, r#"{"rules": [{"match": {"methods": ["POST"], "path": {"prefix": "/pay"}}}]}"#);
            let routes = &mut edge_host(edge)["routes"];
            routes[0]["match"] = route;
            routes[0]["route"]["prefix_rewrite"] = prefix_rewrite;
            routes[0]["request_headers_to_remove"] = json!(["authorization"]);
        });
        run.errors().len()
    };
    assert_eq!(on(json!({ "prefix": "/pay/" }), Value::Null), 1);
    assert_eq!(on(json!({ "prefix": "/other" }), Value::Null), 0);
    let run = through_edge(|tree, edge| {
        set_document(tree, r#"{"rules": [{"match": {"methods": ["POST"], "path": {"prefix": "/pay"}}}]}"#);
        let mut config = jwt(json!({}));
        config["rules"][0]["match"]["prefix"] = json!("/admin");
        config["@type"] = json!("type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication");
        let filters = edge_manager(edge)["http_filters"].as_array_mut().unwrap();
        filters.insert(0, json!({ "name": "jwt", "typed_config": config }));
    });
    assert_eq!(run.errors(), [""; 0]);
    // What it leads on is another path.
    assert_eq!(on(json!({ "prefix": "/other" }), json!("/pay")), 1);
}

#[test]
fn each_cluster_of_a_weighted_route_is_a_way() {
    let run = through_edge(|_, edge| {
        let clusters = json!([
            { "name": "payments", "weight": 1, "request_headers_to_remove": ["authorization"] },
            { "name": "inside", "weight": 1 },
        ]);
        edge_host(edge)["routes"][0]["route"] = json!({ "weighted_clusters": { "clusters": clusters } });
    });
    assert_eq!(run.errors(), [""; 0]);
    let run = through_edge(|_, edge| {
        let clusters = json!([{ "name": "inside", "weight": 1, "request_headers_to_remove": ["authorization"] }]);
        edge_host(edge)["routes"][0]["route"] = json!({ "weighted_clusters": { "clusters": clusters } });
    });
    let [error] = run.errors()[..] else { panic!("{}", run.out) };
    assert!(error.contains("inside: cluster inside of route 0 of virtual host payments removes "), "{error}");
}
