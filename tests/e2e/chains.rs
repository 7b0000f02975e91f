//! Chains and clients that people really have, where a request does not look as it began.
//!
//! Its one rule: a request that is not protected says so, and one that cannot be held is refused and not left waiting.
//! It does not know neighbours that leave requests as they are: that is `neighbours`.

use harness::gateway::{FILTER, cluster, hcm, hcm_of, listener, set_endpoint};
use harness::neighbours::neighbours;
use harness::{Gateway, Ledger, Options, Port, Request, World};
use serde_json::{Value, json};

use crate::check::{executed, refused, replays, said, shown};
use crate::worlds::{plain, start};

/// `envoy/local.yaml` with this neighbour at this place among the filters.
fn beside(name: &'static str, place: usize, document: Value) -> World {
    World::with(document, |options: Options| {
        options.mutate(move |tree| {
            let row = neighbours().into_iter().find(|row| row.name == name).unwrap();
            let filter = json!({ "name": row.name, "typed_config": row.config });
            hcm(tree)["http_filters"].as_array_mut().unwrap().insert(place, filter);
        })
    })
}

/// A JSON request that the transcoder makes a gRPC call of.
fn transcoded(world: &World) -> Request {
    world.post("/shop.Payments/Pay").header("content-type", "application/json").key("k").body("{}")
}

#[test]
fn what_a_transcoder_in_front_has_made_grpc_of_passes_and_says_so() {
    let world = beside("grpc_json_transcoder", 0, json!({}));
    for executions in 1..=2 {
        let answer = transcoded(&world).send();
        assert_eq!(said(&answer), "bypassed;reason=grpc", "{}", shown(&answer));
        assert_eq!(world.ledger.entries().len(), executions);
    }
    assert_eq!(world.gateway.counted("bypassed.grpc"), 2);
    // A call that began as gRPC has no status: its client would not read it.
    let native = world.post("/shop.Payments/Other").header("content-type", "application/grpc").key("k").body("");
    assert_eq!(said(&native.send()), "");
}

#[test]
fn in_front_of_a_transcoder_a_request_is_protected() {
    let world = beside("grpc_json_transcoder", 1, json!({ "policy": { "outcomes": { "5xx": "store" } } }));
    let first = transcoded(&world).send();
    assert!(said(&first).starts_with("executed;stored=?1;attempt=1;"), "{}", shown(&first));
    replays(&transcoded(&world).send(), &first);
    assert_eq!(world.ledger.entries().len(), 1);
}

#[test]
fn a_client_that_waits_for_100_where_envoy_leaves_that_to_the_service_is_refused() {
    let world = World::with(json!({ "policy": { "max_request_bytes": 10, "on_too_large": "bypass" } }), |options| {
        options.mutate(|tree| hcm(tree)["proxy_100_continue"] = json!(true))
    });
    let asks = world.post("/expect").key("k").body("ten").expect_continue();
    // RFC 9110, section 10.1.1: "A proxy MUST ... either: send an immediate final status code ...; or forward".
    refused(&asks.send(), 417, "expectation-failed", None);
    assert_eq!(world.ledger.entries().len(), 0);
    executed(&world.post("/expect").key("k").body("ten").send(), 1);
    // What is not to be held goes on, and the service says 100.
    let keyless = world.post("/expect/keyless").body("ten").expect_continue().send();
    assert_eq!(said(&keyless), "bypassed;reason=no-key", "{}", shown(&keyless));
}

/// The filter twice in one chain, with one `vm_id` and one name.
fn twice() -> World {
    World::with(json!({}), |options: Options| {
        options.mutate(|tree| {
            let filters = hcm(tree)["http_filters"].as_array_mut().unwrap();
            let mut outer = filters.iter().find(|filter| filter["name"] == FILTER).unwrap().clone();
            outer["name"] = json!("outer");
            filters.insert(0, outer);
        })
    })
}

/// Two listeners, of which the first leads to the second, with one `vm_id` and one name.
fn one_behind_the_other() -> (World, Port) {
    let port = Port::reserve();
    let number = port.number();
    let world = World::with(json!({}), |options: Options| {
        options.mutate(move |tree| {
            let mut inner = listener(tree).clone();
            inner["name"] = json!("inner");
            // Otherwise the second does not see what the first has said.
            hcm_of(&mut inner).as_object_mut().unwrap().remove("early_header_mutation_extensions");
            inner["address"]["socket_address"]["port_value"] = json!(number);
            let mut way = cluster(tree, "payments").clone();
            way["name"] = json!("inner");
            way["load_assignment"]["cluster_name"] = json!("inner");
            set_endpoint(&mut way, ([127, 0, 0, 1], number).into());
            hcm(tree)["route_config"]["virtual_hosts"][0]["routes"][0]["route"]["cluster"] = json!("inner");
            let resources = &mut tree["static_resources"];
            resources["listeners"].as_array_mut().unwrap().push(inner);
            resources["clusters"].as_array_mut().unwrap().push(way);
        })
    });
    (world, port)
}

#[test]
fn of_two_hops_that_share_records_the_second_says_why_nothing_runs() {
    let (listeners, _port) = one_behind_the_other();
    for (world, name) in [(twice(), "chain"), (listeners, "listeners")] {
        let answer = world.post("/hops").key("k").body("ten").send();
        assert!(answer.status >= 400, "{name}: {}", shown(&answer));
        assert_eq!(world.ledger.entries().len(), 0, "{name}");
        world.gateway.wait_for_count("second_hop", 1);
        world.gateway.wait_for_log("has come through another hop that has claimed it in this very store");
    }
}

#[test]
fn a_client_that_forges_what_another_hop_would_say_gets_what_it_would_get_without() {
    let world = World::with(json!({}), |options: Options| options.mutate(leave_to_the_filter));
    let pay = world.post("/forged-hop").key("k").body("ten");
    executed(&pay.send(), 1);
    let operation = world.ledger.entries()[0].operation.clone().unwrap();
    let forged =
        |request: Request| request.header("idempotency-operation", &operation).header("idempotency-attempt", "1");
    // What has run is replayed, another's key is another's, and a duplicate of what runs is refused as any is.
    assert!(said(&forged(pay.clone()).send()).starts_with("replayed;"));
    executed(&forged(pay.clone().caller("Bearer bob")).send(), 1);
    let mut running = start(&world, &world.post("/forged-hop/running").key("k"), "ten", "go");
    let operation = world.ledger.entries_for("/forged-hop/running")[0].operation.clone().unwrap();
    let duplicate = world.post("/forged-hop/running").key("k").header("idempotency-operation", &operation).body("ten");
    refused(&duplicate.send(), 429, "in-flight", Some("1"));
    world.ledger.open("go");
    executed(&running.response(), 1);
    assert_eq!(world.ledger.entries().len(), 3);
}

/// Takes away what the shipped files do before the filter.
pub fn leave_to_the_filter(tree: &mut Value) {
    hcm(tree).as_object_mut().unwrap().remove("early_header_mutation_extensions").expect("the file has it");
}

#[test]
fn what_only_the_gateway_may_say_comes_from_no_client_by_any_shipped_file() {
    let forged = ["idempotency-operation", "idempotency-attempt", "idempotency-fence", "idempotency_attempt"];
    let nowhere = Port::reserve();
    for file in ["local.yaml", "redis.yaml", "redis-webdis.yaml", "redis-failover.yaml", "shielded.yaml"] {
        let ledger = Ledger::start();
        let store = nowhere.addr();
        let options = Options::file(file, ledger.addr()).mutate(move |tree| {
            let clusters = tree["static_resources"]["clusters"].as_array_mut().unwrap();
            let stores =
                clusters.iter_mut().filter(|cluster| ["redis", "webdis"].iter().any(|name| cluster["name"] == *name));
            stores.for_each(|cluster| set_endpoint(cluster, store));
        });
        let gateway = Gateway::start(options);
        let requests = [
            gateway.request("GET", "/by-no-rule").key("k"),
            gateway.request("DELETE", "/by-no-rule").key("k"),
            gateway.post("/no-key").body("ten"),
        ];
        for request in &requests {
            forged.iter().fold(request.clone(), |request, name| request.header(name, "forged")).send();
        }
        for entry in ledger.wait_for(requests.len()) {
            let said: Vec<_> = forged.iter().filter(|name| entry.header(name).is_some()).collect();
            assert!(said.is_empty(), "{file}: {} {} says {said:?}", entry.method, entry.path);
        }
    }
}

#[test]
fn what_only_the_gateway_may_say_comes_through_a_rule_that_is_off_unless_the_listener_strips_it() {
    let document = json!({ "policy": { "mode": "off" } });
    let open = World::with(document.clone(), |options: Options| options.mutate(leave_to_the_filter));
    for (world, comes) in [(World::start(document), false), (open, true)] {
        world.post("/off").key("k").header("idempotency-attempt", "7").body("ten").send();
        assert_eq!(world.ledger.entries()[0].header("idempotency-attempt").is_some(), comes);
    }
}

#[test]
fn a_method_in_small_letters_is_refused_over_http_1_and_passes_over_http_2() {
    let world = plain();
    let pay = world.request("post", "/methods/small").key("k").body("ten");
    let refused = pay.send();
    assert_eq!((refused.status, said(&refused)), (400, ""));
    for _ in 0..2 {
        let passed = pay.send_h2();
        assert_eq!((passed.status, said(&passed)), (201, ""));
    }
    assert_eq!(world.ledger.entries_for("/methods/small").len(), 2);
}

#[test]
fn a_path_in_another_spelling_is_protected_as_the_documents_say() {
    let exact = World::start(json!({ "rules": [
        { "name": "payments", "match": { "methods": ["POST"], "path": { "exact": "/v1/payments" } } },
    ] }));
    let prefix = World::start(json!({ "rules": [
        { "name": "payments", "match": { "methods": ["POST"], "path": { "prefix": "/v1/payments" } } },
    ] }));
    let spellings = [
        ("/v1/payments", true, true),
        ("/v1/x/../payments", true, true),
        ("//v1/payments", true, true),
        ("/v1/pay%6dents", true, true),
        ("/v1/payments/", false, true),
        ("/v1/payments;a=b", false, true),
        ("/v1/payments%20", false, true),
        ("/V1/Payments", false, false),
    ];
    for (path, by_exact, by_prefix) in spellings {
        for (world, is_protected) in [(&exact, by_exact), (&prefix, by_prefix)] {
            let answer = world.post(path).key(path.replace(['/', ';'], "_")).body("ten").send();
            assert_eq!(said(&answer).starts_with("executed;"), is_protected, "{path}: {}", shown(&answer));
        }
    }
    let escaped = exact.post("/v1%2Fpayments").key("k").body("ten").send();
    assert_eq!(escaped.status, 400, "{}", shown(&escaped));
}
