//! Answers of odd shapes, as they come first and as they come again: inline, and where the gateway itself has asked.
//!
//! Its one rule: what a retry gets is what the first client got at this filter's place, or a plain word that it cannot be
//! had; never a part of it.
//! It does not know what other filters do to answers.

use std::sync::LazyLock;

use harness::gateway::{cluster, hcm};
use harness::ledger::body_of_size;
use harness::{Gateway, Ledger, Options, Request, World};
use serde_json::{Value, json};

use crate::check::{executed, refused, replays, said, shown};
use crate::worlds::Shared;

/// `envoy/shielded.yaml`, set to take answers of many lines.
fn world() -> Shared {
    static WORLD: LazyLock<World> = LazyLock::new(|| {
        let ledger = Ledger::start();
        let shielded = json!({ "execution": { "kind": "shielded", "cluster": "shielded" } });
        let inline = json!({ "execution": { "kind": "inline" } });
        let named = |prefix: &str, policy: &Value| json!({ "match": { "methods": ["POST", "HEAD", "GET"], "path": { "prefix": prefix } }, "policy": policy });
        let options = Options::file("shielded.yaml", ledger.addr()).configuration(json!({
            "policy": { "ttl_s": 1800 },
            "rules": [named("/shielded/", &shielded), named("/", &inline)],
        }));
        World { gateway: Gateway::start(options.trailers().mutate(take_many_lines)), ledger }
    });
    Shared::new(&WORLD)
}

fn take_many_lines(tree: &mut Value) {
    cluster(tree, "payments")["typed_extension_protocol_options"] = json!({
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": { "http_protocol_options": {} },
            "common_http_protocol_options": { "max_headers_count": 5000, "max_response_headers_kb": 4000 },
        },
    });
    cluster(tree, "shielded")["typed_extension_protocol_options"] =
        cluster(tree, "payments")["typed_extension_protocol_options"].clone();
}

#[test]
fn an_answer_of_more_lines_than_the_host_takes_is_not_replayable() {
    let world = world();
    for place in ["", "/shielded"] {
        let most = world.post(&format!("{place}/lines/900")).key("k").header("x-test-lines", "900").body("ten");
        let first = most.send();
        executed(&first, 1);
        assert_eq!(first.headers("x-line").len(), 900);
        replays(&most.send(), &first);

        let more = world.post(&format!("{place}/lines/1100")).key("k").header("x-test-lines", "1100").body("ten");
        let first = more.send();
        assert_eq!(
            said(&first),
            "executed;stored=?0;attempt=1;outcome=completed;reason=too-large",
            "{}",
            shown(&first)
        );
        // The gateway cannot hand on what it has fetched itself; the client's own stream carries all of it.
        let seen = (first.status, first.headers("x-line").len());
        assert_eq!(seen, if place.is_empty() { (201, 1100) } else { (502, 0) }, "{}", shown(&first));
        refused(&more.send(), 409, "not-replayable", None);
        assert_eq!(world.ledger.entries_for(more.path()).len(), 1);
    }
}

#[test]
fn answers_of_every_shape_come_again_as_they_were() {
    let world = world();
    let partial = |request: Request| {
        let range = request.header("x-test-header", "content-range: bytes 0-9/100").header("x-test-status", "206");
        range.header("x-test-body-size", "10")
    };
    type Change = fn(Request) -> Request;
    let shapes: [(&str, &str, Change); 7] = [
        ("204", "POST", |request| request.header("x-test-status", "204")),
        ("205", "POST", |request| request.header("x-test-status", "205").header("x-test-body-base64", "")),
        ("206", "POST", partial),
        ("303", "POST", |request| request.header("x-test-status", "303")),
        ("304", "GET", |request| request.header("x-test-status", "304").header("x-test-header", "etag: \"1\"")),
        ("head", "HEAD", |request| request.header("x-test-header", "x-kept: 1")),
        ("chunked", "POST", |request| request.header("x-test-chunked", "1").header("x-test-body-size", "70000")),
    ];
    for place in ["", "/shielded"] {
        for (name, method, change) in shapes {
            let request = change(world.request(method, &format!("{place}/shapes/{name}")).key("k"));
            let first = request.send();
            executed(&first, 1);
            for again in [request.send(), request.send_h2()] {
                replays(&again, &first);
                let is_bodiless = ["204", "304"].contains(&name);
                let length = again.header("content-length").map(str::to_owned);
                assert!(!is_bodiless || length.is_none(), "{place}/{name}: {}", shown(&again));
                assert!(method == "HEAD" || length.is_none_or(|length| length == again.body.len().to_string()));
            }
            assert_eq!(world.ledger.entries_for(request.path()).len(), 1, "{place}/{name}");
        }
    }
}

#[test]
fn trailers_are_no_part_of_what_comes_again() {
    let world = world();
    for place in ["", "/shielded"] {
        let request =
            world.post(&format!("{place}/trailers")).key("k").header("x-test-trailers", "x-sum: 1").body("ten");
        let first = request.send_h2();
        executed(&first, 1);
        let again = request.send_h2();
        replays(&again, &first);
        assert_eq!(again.trailers, []);
    }
}

#[test]
fn a_compressor_in_front_gives_each_client_what_it_takes() {
    let world = compressing(0);
    let pay = world.post("/front").key("k").header("x-test-body-size", "20000").body("ten");
    let first = pay.clone().header("accept-encoding", "gzip").send();
    executed(&first, 1);
    assert_eq!(first.header("content-encoding"), Some("gzip"), "{}", shown(&first));
    let plain = pay.send();
    assert!(plain.body == body_of_size(20_000) && plain.header("content-encoding").is_none(), "{}", shown(&plain));
    assert!(said(&plain).starts_with("replayed;"), "{}", shown(&plain));
    let again = pay.header("accept-encoding", "gzip").send();
    // The same content in other blocks: the compressor has it in other pieces.
    assert_eq!((again.header("content-encoding"), &again.body[..3]), (Some("gzip"), &first.body[..3]));
    assert_eq!(again.headers("vary"), first.headers("vary"));
}

#[test]
fn what_a_compressor_behind_has_encoded_is_replayed_only_to_those_who_take_it() {
    let world = compressing(1);
    let pay = world.post("/behind").key("k").header("x-test-body-size", "20000").body("ten");
    let first = pay.clone().header("accept-encoding", "gzip").send();
    executed(&first, 1);
    assert_eq!(first.header("content-encoding"), Some("gzip"), "{}", shown(&first));
    replays(&pay.clone().header("accept-encoding", "br, gzip").send(), &first);
    for accepts in ["identity", "gzip;q=0", "*;q=0"] {
        refused(&pay.clone().header("accept-encoding", accepts).send(), 409, "not-replayable", None);
    }
    refused(&pay.send(), 409, "not-replayable", None);
    assert_eq!(world.ledger.entries().len(), 1);
}

/// `envoy/local.yaml` with Envoy's own compressor at this place among the filters.
fn compressing(place: usize) -> World {
    World::with(json!({}), |options: Options| {
        options.mutate(move |tree| {
            let compressor = json!({
                "name": "envoy.filters.http.compressor",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.filters.http.compressor.v3.Compressor",
                    "response_direction_config": { "common_config": { "content_type": ["application/octet-stream"] } },
                    "compressor_library": {
                        "name": "gzip",
                        "typed_config": { "@type": "type.googleapis.com/envoy.extensions.compression.gzip.compressor.v3.Gzip" },
                    },
                },
            });
            hcm(tree)["http_filters"].as_array_mut().unwrap().insert(place, compressor);
        })
    })
}

/// `envoy/local.yaml` with `custom_response` in front, which has this action for 402 and 422.
fn answering(action: Value) -> World {
    World::with(json!({ "policy": { "outcomes": { "402": "store" } } }), |options: Options| {
        options.mutate(move |tree| {
            let input =
                json!({ "@type": "type.googleapis.com/envoy.type.matcher.v3.HttpResponseStatusCodeMatchInput" });
            let matched = |status: &str| {
                json!({
                    "predicate": { "single_predicate": {
                        "input": { "name": "status", "typed_config": input }, "value_match": { "exact": status },
                    } },
                    "on_match": { "action": { "name": "action", "typed_config": action } },
                })
            };
            let matchers = [matched("402"), matched("422")];
            let filter = json!({
                "name": "envoy.filters.http.custom_response",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.filters.http.custom_response.v3.CustomResponse",
                    "custom_response_matcher": { "matcher_list": { "matchers": matchers } },
                },
            });
            hcm(tree)["http_filters"].as_array_mut().unwrap().insert(0, filter);
        })
    })
}

#[test]
fn behind_custom_response_what_the_service_has_said_decides_and_clients_get_the_page() {
    const POLICIES: &str = "type.googleapis.com/envoy.extensions.http.custom_response";
    let page = json!({
        "@type": format!("{POLICIES}.local_response_policy.v3.LocalResponsePolicy"),
        "body": { "inline_string": "a page" },
    });
    let elsewhere = json!({
        "@type": format!("{POLICIES}.redirect_policy.v3.RedirectPolicy"),
        "uri": "http://shop.example.com/page",
    });
    for (name, action) in [("page", page), ("elsewhere", elsewhere)] {
        let world = answering(action);
        let refused = world.post("/refused").key("k").header("x-test-first-status", "422,201").body("ten");
        let first = refused.send();
        assert!(said(&first).is_empty() && first.status != 201, "{name}: {}", shown(&first));
        // The service refused, so the key is free.
        executed(&refused.send(), 2);

        let kept = world.post("/kept").key("k").header("x-test-status", "402").body("ten");
        let (first, again) = (kept.send(), kept.send());
        assert_eq!(again.status, first.status, "{name}: {}", shown(&again));
        assert_eq!(world.ledger.entries_for("/kept").len(), 1, "{name}");
    }
}
