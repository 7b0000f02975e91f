//! Callers with client certificates: Envoy stands in for the clients, and shows the filter's listener who they are.
//!
//! Its one rule: where the scope reads certificates, a caller is what its certificate says, whatever it writes into its
//! request; where it does not, a certificate alone tells no caller.
//! It does not know other callers. The keys under `certificates/` open nothing but tests.

use std::sync::LazyLock;

use harness::gateway::{cluster, hcm_of, listener, set_endpoint};
use harness::{Port, Request, World};
use serde_json::{Value, json};

use crate::check::{executed, refused, replays};
use crate::verifiers::{kept_apart, never_mixed, says_once_that_no_caller_was_seen};
use crate::worlds::rule;

macro_rules! pem {
    ($name:literal) => {
        json!({ "inline_string": include_str!(concat!("certificates/", $name)) })
    };
}

/// Alice and Bob come in at doors of their own, which lead with their certificates to a listener that wants one. The
/// hop leads there too: a proxy that shows Alice's certificate for every client.
struct Doors {
    world: World,
    alice: Port,
    bob: Port,
    hop: Port,
}

impl Doors {
    /// A request at one of the doors, without a token.
    fn post(door: &Port, path: &str) -> Request {
        Request::post(door.addr(), path).key("k").body("ten")
    }

    /// Two tries of Alice's and two of Bob's, each at the own door.
    fn tries(&self, path: &str) -> [[Request; 2]; 2] {
        [&self.alice, &self.bob].map(|door| [0, 1].map(|_| Doors::post(door, path)))
    }
}

fn doors(document: Value) -> Doors {
    let (inside, alice, bob, hop) = (Port::reserve(), Port::reserve(), Port::reserve(), Port::reserve());
    let hop_addr = hop.addr();
    let (inside_addr, doors) = (inside.addr(), [("alice", alice.addr()), ("bob", bob.addr())]);
    let certificates = [("alice", pem!("alice.pem"), pem!("alice.key")), ("bob", pem!("bob.pem"), pem!("bob.key"))];
    let world = World::with(document, move |options| {
        options.mutate(move |tree| {
            let mut passing = listener(tree).clone();
            passing["name"] = json!("hop");
            passing["address"]["socket_address"]["port_value"] = json!(hop_addr.port());
            let manager = hcm_of(&mut passing);
            manager["http_filters"].as_array_mut().expect("a list").retain(|filter| filter["name"] != "idempotency");
            manager["route_config"]["virtual_hosts"][0]["routes"][0]["route"]["cluster"] = json!("alice");
            let mut guarded = listener(tree).clone();
            guarded["name"] = json!("guarded");
            guarded["address"]["socket_address"]["port_value"] = json!(inside_addr.port());
            guarded["filter_chains"][0]["transport_socket"] = json!({
                "name": "tls",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
                    "require_client_certificate": true,
                    "common_tls_context": {
                        "tls_certificates": [
                            { "certificate_chain": pem!("gateway.pem"), "private_key": pem!("gateway.key") },
                        ],
                        "validation_context": { "trusted_ca": pem!("ca.pem") },
                    },
                },
            });
            let mut listeners = vec![guarded, passing];
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
    Doors { world, alice, bob, hop }
}

/// Rules that read certificates, that let the anonymous share, and that require a key.
fn by_rules() -> &'static Doors {
    static DOORS: LazyLock<Doors> = LazyLock::new(|| {
        let san = json!({ "property": ["connection", "uri_san_peer_certificate"] });
        doors(json!({ "rules": [
            rule("/san/", json!({ "scope": { "caller": [san] } })),
            rule("/both/", json!({ "scope": { "caller": [san, { "header": "authorization" }] } })),
            rule("/share/", json!({ "scope": { "anonymous": "share" } })),
            rule("/required/", json!({ "key": { "required": true } })),
        ] }))
    });
    &DOORS
}

/// The default document.
fn by_default() -> &'static Doors {
    static DOORS: LazyLock<Doors> = LazyLock::new(|| doors(json!({})));
    &DOORS
}

#[test]
fn a_client_certificate_tells_callers_apart() {
    let doors = by_rules();
    let [alice, bob] = doors.tries("/san/pay");
    // Whatever they write into their requests.
    kept_apart(&doors.world.ledger, [alice, bob.map(|pay| pay.caller("Bearer alice"))]);
    // At the open listener there is no certificate.
    never_mixed(&doors.world.ledger, [&doors.world.post("/san/pay").key("k").body("ten")]);
}

#[test]
fn a_certificate_alone_tells_no_caller_by_default_and_the_log_names_the_property_that_reads_it() {
    let doors = doors(json!({}));
    for _ in 0..5 {
        never_mixed(&doors.world.ledger, doors.tries("/pay").as_flattened());
    }
    says_once_that_no_caller_was_seen(&doors.world, "default");
    let log = doors.world.gateway.log();
    let line = log.lines().find(|line| line.contains("has shown a caller")).unwrap_or_default();
    assert!(line.contains(r#"{"property": ["connection", "uri_san_peer_certificate"]}"#), "{line}");
}

#[test]
fn a_token_tells_callers_apart_beside_certificates() {
    let doors = by_default();
    let [alice, bob] = doors.tries("/token");
    kept_apart(&doors.world.ledger, [alice.map(|pay| pay.caller("Bearer a")), bob.map(|pay| pay.caller("Bearer b"))]);
}

#[test]
fn clients_behind_one_hop_with_one_certificate_are_kept_apart_by_their_tokens() {
    let (doors, by_rules) = (by_default(), by_rules());
    for (doors, path) in [(doors, "/hop"), (by_rules, "/both/hop")] {
        let pay = Doors::post(&doors.hop, path);
        let tries = ["Bearer alice", "Bearer bob"].map(|shown| [0, 1].map(|_| pay.clone().caller(shown)));
        kept_apart(&doors.world.ledger, tries);
    }
}

#[test]
fn behind_a_hop_its_certificate_alone_makes_one_caller_of_all_its_clients() {
    let doors = by_rules();
    let pay = Doors::post(&doors.hop, "/san/hop");
    let first = pay.clone().caller("Bearer alice").send();
    executed(&first, 1);
    replays(&pay.caller("Bearer bob").send(), &first);
}

#[test]
fn clients_behind_one_hop_without_tokens_are_never_mixed() {
    let (doors, by_rules) = (by_default(), by_rules());
    for (doors, path) in [(doors, "/mixed"), (by_rules, "/share/mixed")] {
        let pay = Doors::post(&doors.hop, path);
        never_mixed(&doors.world.ledger, [&pay, &pay, &Doors::post(&doors.bob, path)]);
    }
    refused(&Doors::post(&by_rules.hop, "/required/mixed").send(), 401, "caller-missing", None);
    assert_eq!(by_rules.world.ledger.entries_for("/required/mixed").len(), 0);
    // Where they are not asked for one they share, and with those who have one they do not.
    let shared = by_rules.world.post("/share/mixed").anonymous().key("k").body("ten");
    executed(&shared.send(), 1);
}
