//! Callers with client certificates: Envoy stands in for the clients, and shows the filter's listener who they are.
//!
//! Its one rule: a caller is what his certificate says, whatever he writes into his request.
//! It does not know other callers. The keys under `certificates/` open nothing but this test.

use harness::gateway::{cluster, listener, set_endpoint};
use harness::{Port, Request, Response, World};
use serde_json::{Value, json};

use crate::check::{executed, replays, said};

macro_rules! pem {
    ($name:literal) => {
        json!({ "inline_string": include_str!(concat!("certificates/", $name)) })
    };
}

/// Alice and Bob come in at doors of their own, which lead with their certificates to a listener that wants one.
struct Doors {
    world: World,
    alice: Port,
    bob: Port,
}

fn doors() -> Doors {
    let (inside, alice, bob) = (Port::reserve(), Port::reserve(), Port::reserve());
    let san = ["connection", "uri_san_peer_certificate"];
    let rule = |prefix: &str, caller: Value| json!({ "match": { "path": { "prefix": prefix } }, "policy": { "scope": { "caller": caller } } });
    let document = json!({ "rules": [rule("/san/", json!([{ "property": san }])), rule("/default/", json!([{ "header": "x" }]))] });
    let (inside_addr, doors) = (inside.addr(), [("alice", alice.addr()), ("bob", bob.addr())]);
    let certificates = [("alice", pem!("alice.pem"), pem!("alice.key")), ("bob", pem!("bob.pem"), pem!("bob.key"))];
    let world = World::with(document, move |options| {
        options.mutate(move |tree| {
            let mut guarded = listener(tree).clone();
            guarded["name"] = json!("guarded");
            guarded["address"]["socket_address"]["port_value"] = json!(inside_addr.port());
            guarded["filter_chains"][0]["transport_socket"] = json!({
                "name": "tls",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
                    "require_client_certificate": true,
                    "common_tls_context": {
                        "tls_certificates": [{ "certificate_chain": pem!("gateway.pem"), "private_key": pem!("gateway.key") }],
                        "validation_context": { "trusted_ca": pem!("ca.pem") },
                    },
                },
            });
            let mut listeners = vec![guarded];
            for ((who, addr), (_, chain, key)) in doors.into_iter().zip(certificates) {
                let mut through = cluster(tree, "payments").clone();
                through["name"] = json!(who);
                set_endpoint(&mut through, inside_addr);
                through["load_assignment"]["cluster_name"] = json!(who);
                through["transport_socket"] = json!({
                    "name": "tls",
                    "typed_config": {
                        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
                        "common_tls_context": {
                            "tls_certificates": [{ "certificate_chain": chain, "private_key": key }],
                            "validation_context": { "trusted_ca": pem!("ca.pem") },
                        },
                    },
                });
                tree["static_resources"]["clusters"].as_array_mut().expect("clusters is a list").push(through);
                listeners.push(json!({
                    "name": who,
                    "address": { "socket_address": { "address": "127.0.0.1", "port_value": addr.port() } },
                    "filter_chains": [{ "filters": [{
                        "name": "tcp",
                        "typed_config": {
                            "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
                            "stat_prefix": who,
                            "cluster": who,
                        },
                    }] }],
                }));
            }
            tree["static_resources"]["listeners"].as_array_mut().expect("listeners is a list").extend(listeners);
        })
    });
    drop(inside);
    Doors { world, alice, bob }
}

#[test]
fn a_client_certificate_tells_callers_apart() {
    let doors = doors();
    let pay = |door: &Port, path: &str| -> Response { Request::post(door.addr(), path).key("k").body("ten").send() };
    let first = pay(&doors.alice, "/san/pay");
    executed(&first, 1);
    replays(&pay(&doors.alice, "/san/pay"), &first);
    executed(&pay(&doors.bob, "/san/pay"), 1);
    assert_eq!(doors.world.ledger.entries_for("/san/pay").len(), 2);
    // Where nobody asks for it, a certificate is a credential that the scope does not look at.
    assert_eq!(said(&pay(&doors.bob, "/default/pay")), "bypassed;reason=no-caller");
    let without = doors.world.post("/default/pay").key("k").body("ten").send();
    executed(&without, 1);
}
