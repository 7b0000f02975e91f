//! Each way to a service: TCP, TLS, a Unix domain socket (which has no address), HTTP/2; inline and through an internal
//! listener.
//!
//! Its one rule: each trouble meets a request on every way to the service, inline and shielded, and what Envoy says of it
//! is asserted too, because the fate of the key hangs on Envoy's words.
//! It does not know of troubles behind a connection that stands and answers.

use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::LazyLock;

use harness::gateway::{cluster, hcm, hcm_of, listener_named, set_endpoint, set_pipe};
use harness::{Gateway, Ledger, Options, Port, Request, Response, World};
use serde_json::{Value, json};

use crate::check::{executed, not_stored, refused, replays, said, shown};
use crate::shielded::{answered, hang_up};
use crate::worlds::{Shared, add_routes, rule, start};

const EXECUTIONS: [&str; 2] = ["inline", "shielded"];
const WAYS: [&str; 4] = ["tcp", "tls", "socket", "http2"];

/// What lives as long as the gateway.
struct Stage {
    world: World,
    /// They take connections and say nothing on them.
    _silent: (TcpListener, UnixListener),
    /// No service listens on the first; on the second Envoy takes the TLS off what goes to the service.
    _ports: [Port; 2],
}

/// `envoy/shielded.yaml`, where everything under `/inline/` runs inline; a request header `x-route` chooses the way to
/// the service, and what becomes of it there.
///
/// | `x-route` | meets |
/// |---|---|
/// | `tcp`, `tls`, `socket`, `http2` | the service |
/// | `…-impatient` | a time-out after 300 ms |
/// | `…-refused` | a port that no service listens on, or a path without a socket |
/// | `socket-stale` | the socket of a service that has gone |
/// | `…-unhealthy` | a cluster whose only host is out of order |
/// | `…-full` | a circuit breaker that lets nothing through |
/// | `…-plain` | TLS to a service that speaks none |
/// | `…-silent` | TLS to a service that takes the connection and says nothing |
fn world() -> Shared {
    static STAGE: LazyLock<Stage> = LazyLock::new(|| {
        let (ledger, refused, tls) = (Ledger::start_with_socket(), Port::reserve(), Port::reserve());
        let silent = ledger.socket().with_file_name("silent");
        let listeners = (TcpListener::bind("127.0.0.1:0").unwrap(), UnixListener::bind(&silent).unwrap());
        drop(UnixListener::bind(ledger.socket().with_file_name("stale")).unwrap());
        let ports = [ledger.addr(), refused.addr(), listeners.0.local_addr().unwrap()];
        let tls_port = tls.addr();
        let socket = ledger.socket().to_owned();
        let options = Options::file("shielded.yaml", ledger.addr()).configuration(json!({
            "policy": { "ttl_s": 1800, "execution": { "kind": "shielded", "cluster": "shielded" } },
            "rules": [rule("/inline/", json!({ "execution": { "kind": "inline" } })), rule("/", json!({}))],
        }));
        let gateway = Gateway::start(options.mutate(move |tree| {
            add_ways(tree, ports, tls_port, &socket);
            add_tls(tree, tls_port);
            add_accounts(tree);
        }));
        Stage { world: World { gateway, ledger }, _silent: listeners, _ports: [refused, tls] }
    });
    Shared::new(&STAGE.world)
}

/// Adds the ways of the table; the ports are those of the service, of none, and of the one that is silent.
fn add_ways(tree: &mut Value, [well, refused, silent]: [SocketAddr; 3], tls: SocketAddr, socket: &Path) {
    let plain = cluster(tree, "payments").clone();
    let to_port = |port: SocketAddr| {
        let mut one = plain.clone();
        set_endpoint(&mut one, port);
        one
    };
    let to_path = |name: &str| {
        let mut one = plain.clone();
        set_pipe(&mut one, &socket.with_file_name(name));
        one
    };
    let with = |mut cluster: Value, change: &dyn Fn(&mut Value)| {
        change(&mut cluster);
        cluster
    };
    let is_full = |one: &mut Value| one["circuit_breakers"]["thresholds"] = json!([{ "max_pending_requests": 0 }]);
    let is_unhealthy = |one: &mut Value| {
        one["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["health_status"] = json!("UNHEALTHY");
        one["common_lb_config"]["healthy_panic_threshold"] = json!({ "value": 0 });
    };
    let over_tls = |one: &mut Value| {
        let context = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext";
        one["transport_socket"] =
            json!({ "name": "envoy.transport_sockets.tls", "typed_config": { "@type": context } });
    };
    let on_http2 = |one: &mut Value| {
        let name = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
        let options = json!({
            "@type": format!("type.googleapis.com/{name}"), "explicit_http_config": { "http2_protocol_options": {} },
        });
        one["typed_extension_protocol_options"] = json!({ name: options });
    };
    let not_for_long = |one: &mut Value| {
        over_tls(one);
        one["connect_timeout"] = json!("0.3s");
    };
    let file_name = socket.file_name().unwrap().to_str().unwrap();
    let mut clusters = vec![("socket-stale".to_owned(), to_path("stale"))];
    let mut add = |way: &str, port, change: &dyn Fn(&mut Value)| {
        let well = with(to_port(port), change);
        clusters.extend([
            (format!("{way}-refused"), with(to_port(refused), change)),
            (format!("{way}-unhealthy"), with(well.clone(), &is_unhealthy)),
            (format!("{way}-full"), with(well.clone(), &is_full)),
            (way.to_owned(), well),
        ]);
    };
    add("tls", tls, &over_tls);
    add("http2", well, &on_http2);
    for (way, [well, refused, silent]) in
        [("tcp", [well, refused, silent].map(to_port)), ("socket", [file_name, "absent", "silent"].map(to_path))]
    {
        clusters.extend([
            (format!("{way}-refused"), refused),
            (format!("{way}-unhealthy"), with(well.clone(), &is_unhealthy)),
            (format!("{way}-full"), with(well.clone(), &is_full)),
            (format!("{way}-plain"), with(well.clone(), &over_tls)),
            (format!("{way}-silent"), with(silent, &not_for_long)),
            (way.to_owned(), well),
        ]);
    }
    let route = |name: &str, route: Value| {
        let chosen = json!({ "name": "x-route", "string_match": { "exact": name } });
        json!({ "match": { "prefix": "/", "headers": [chosen] }, "route": route })
    };
    let mut routes: Vec<Value> = clusters.iter().map(|(name, _)| route(name, json!({ "cluster": name }))).collect();
    routes.extend(WAYS.map(|way| route(&format!("{way}-impatient"), json!({ "cluster": way, "timeout": "0.3s" }))));
    add_routes(tree, routes);
    let all = tree["static_resources"]["clusters"].as_array_mut().unwrap();
    all.extend(clusters.into_iter().map(|(name, one)| with(one, &|one| one["name"] = json!(name))));
}

/// A listener that takes off the TLS of what goes to the service.
fn add_tls(tree: &mut Value, port: SocketAddr) {
    let typed = |name: &str, mut config: Value| {
        config["@type"] = json!(format!("type.googleapis.com/{name}"));
        config
    };
    let proxy = json!({ "stat_prefix": "tls", "cluster": "tcp" });
    let proxy = typed("envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy", proxy);
    let pem = |text: &str| json!({ "inline_string": text });
    let certificate = json!({
        "certificate_chain": pem(include_str!("certificates/gateway.pem")),
        "private_key": pem(include_str!("certificates/gateway.key")),
    });
    let context = json!({ "common_tls_context": { "tls_certificates": [certificate] } });
    let context = typed("envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext", context);
    tree["static_resources"]["listeners"].as_array_mut().unwrap().push(json!({
        "name": "tls",
        "address": { "socket_address": { "address": port.ip().to_string(), "port_value": port.port() } },
        "filter_chains": [{
            "filters": [{ "name": "tcp_proxy", "typed_config": proxy }],
            "transport_socket": { "name": "envoy.transport_sockets.tls", "typed_config": context },
        }],
    }));
}

/// Has both listeners write down what Envoy says of each request: the gateway `inline`, the inner one `shielded`.
fn add_accounts(tree: &mut Value) {
    let log = hcm(tree)["access_log"][0].clone();
    let account = |execution: &str| {
        let mut log = log.clone();
        log["typed_config"]["log_format"]["text_format_source"]["inline_string"] = json!(format!(
            "{execution} %PATH(NQ)% details=%RESPONSE_CODE_DETAILS% local=%UPSTREAM_LOCAL_ADDRESS% \
             remote=%UPSTREAM_REMOTE_ADDRESS% attempts=%UPSTREAM_REQUEST_ATTEMPT_COUNT% flags=%RESPONSE_FLAGS% \
             sent=%UPSTREAM_WIRE_BYTES_SENT%\n"
        ));
        log
    };
    hcm(tree)["access_log"].as_array_mut().unwrap().push(account("inline"));
    hcm_of(listener_named(tree, "shielded"))["access_log"] = json!([account("shielded")]);
}

/// Sends the request by this route, and checks the details with which Envoy tells of its end.
#[track_caller]
fn meets(world: &World, pay: &Request, execution: &str, route: &str, details: &str) -> Response {
    let answer = pay.clone().header("x-route", route).send();
    told(world, execution, pay.path(), details);
    answer
}

/// What Envoy says of the first request to this path, whose details begin so.
#[track_caller]
fn told(world: &World, execution: &str, path: &str, details: &str) -> String {
    let account = world.gateway.wait_for_access_log(&format!("{execution} {path} details="));
    assert!(account.contains(&format!(" details={details}")), "{account}");
    account
}

/// A retry finds that the outcome is not known, whatever the way, and the service has one execution.
#[track_caller]
fn is_unknown(world: &World, pay: &Request) {
    for way in WAYS {
        let again = pay.clone().header("x-route", way).send();
        refused(&again, 409, "outcome-unknown", again.header("retry-after"));
        assert_eq!(said(&again), "refused;attempt=1;reason=outcome-unknown");
        // The lease of a minute has just begun.
        let seconds = again.header("retry-after").and_then(|text| text.parse::<u64>().ok());
        assert!(seconds.is_some_and(|seconds| seconds > 20), "{}", shown(&again));
    }
    assert_eq!(world.ledger.entries_for(pay.path()).len(), 1, "{}", pay.path());
}

#[test]
fn what_ended_early_after_it_was_sent_is_unknown_on_every_way() {
    let world = world();
    let reset = "upstream_reset_before_response_started{";
    let troubles = [
        ("-impatient", ("x-test-hold", "never"), 504, "response_timeout"),
        ("", ("x-test-reset", "before"), 503, reset),
        ("", ("x-test-reset", "before-rst"), 503, reset),
    ];
    for execution in EXECUTIONS {
        for way in WAYS {
            for (case, (route, (name, value), status, details)) in troubles.into_iter().enumerate() {
                let pay = world.post(&format!("/{execution}/early-{way}-{case}")).key("k").body("ten");
                let failing = pay.clone().header(name, value);
                let answer = meets(&world, &failing, execution, &format!("{way}{route}"), details);
                not_stored(&answer, status, 1, "unknown");
                let account = told(&world, execution, pay.path(), details);
                let word = if way == "http2" { "{remote_reset}" } else { "{connection_termination}" };
                assert!(details != reset || account.contains(word), "{account}");
                is_unknown(&world, &pay);
            }
        }
    }
}

#[test]
fn a_client_that_goes_while_the_service_works_leaves_an_unknown_outcome_inline_and_a_stored_one_shielded() {
    let world = world();
    for execution in EXECUTIONS {
        for way in WAYS {
            let path = format!("/{execution}/gone-{way}");
            let pay = world.post(&path).key("k").header("x-route", way);
            hang_up(&world, start(&world, &pay, "ten", &path), &path);
            let pay = pay.body("ten");
            if execution == "inline" {
                told(&world, execution, &path, "downstream_remote_disconnect");
                let again = answered(&pay);
                refused(&again, 409, "outcome-unknown", again.header("retry-after"));
                is_unknown(&world, &world.post(&path).key("k").body("ten"));
                continue;
            }
            refused(&pay.send(), 429, "in-flight", Some("1"));
            world.ledger.open(&path);
            let first = answered(&pay);
            assert!(said(&first).starts_with("replayed;attempt=1;"), "{}", shown(&first));
            assert_eq!(first.status, 201);
            told(&world, execution, &path, "via_upstream");
            assert_eq!(world.ledger.entries_for(&path).len(), 1);
        }
    }
}

#[test]
fn what_was_never_sent_frees_the_key_at_once_on_every_way() {
    let world = world();
    let never = |cause: &str| format!("upstream_reset_before_response_started{{{cause}");
    let troubles = [
        ("tcp-refused", never("remote_connection_failure")),
        ("socket-refused", never("remote_connection_failure")),
        ("socket-stale", never("remote_connection_failure")),
        ("tcp-unhealthy", "no_healthy_upstream".to_owned()),
        ("socket-unhealthy", "no_healthy_upstream".to_owned()),
        ("tls-refused", never("remote_connection_failure")),
        ("http2-refused", never("remote_connection_failure")),
        ("tls-unhealthy", "no_healthy_upstream".to_owned()),
        ("http2-unhealthy", "no_healthy_upstream".to_owned()),
        ("tls-full", never("overflow")),
        ("http2-full", never("overflow")),
        ("tcp-full", never("overflow")),
        ("socket-full", never("overflow")),
        ("tcp-plain", never("remote_connection_failure")),
        ("socket-plain", never("remote_connection_failure")),
        ("tcp-silent", never("connection_timeout")),
        ("socket-silent", never("connection_timeout")),
    ];
    for execution in EXECUTIONS {
        for (route, details) in &troubles {
            let pay = world.post(&format!("/{execution}/never-{route}")).key("k").body("ten");
            let unsent = meets(&world, &pay, execution, route, details);
            not_stored(&unsent, 503, 1, "released");
            assert_eq!(world.ledger.entries_for(pay.path()).len(), 0);
            let way = route.split('-').next().unwrap_or_default();
            let first = pay.clone().header("x-route", way).send();
            executed(&first, 2);
            replays(&pay.send(), &first);
            let attempts: Vec<_> = world.ledger.entries_for(pay.path()).iter().map(|entry| entry.attempt).collect();
            assert_eq!(attempts, [Some(2)], "{route}");
        }
    }
}

#[test]
fn a_request_that_goes_well_is_replayed_on_every_way() {
    let world = world();
    for execution in EXECUTIONS {
        for way in WAYS {
            let pay = world.post(&format!("/{execution}/well-{way}")).key("k").body("ten");
            let first = meets(&world, &pay, execution, way, "via_upstream");
            executed(&first, 1);
            replays(&pay.send(), &first);
            // A request that is answered has been sent, with or without an address.
            let account = told(&world, execution, pay.path(), "via_upstream");
            assert_eq!(account.contains(" local=- "), way == "socket", "{account}");
            // A failure that the service itself has answered is no loss.
            let pay = world.post(&format!("/{execution}/fails-{way}")).key("k").header("x-route", way).body("ten");
            not_stored(&pay.clone().header("x-test-status", "503").send(), 503, 1, "retry");
            executed(&pay.send(), 2);
        }
    }
}
