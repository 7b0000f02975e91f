//! Real Envoy from the shipped file, with the filter taken out: what the harness itself promises about it.

use harness::gateway::{hcm, shipped};
use harness::{Gateway, Ledger, Options, PATIENCE, Port, Request, wait_until};
use serde_json::json;

fn gateway(ledger: &Ledger, change: impl FnOnce(Options) -> Options) -> Gateway {
    Gateway::start(change(Options::new(ledger.addr()).without_filter()))
}

fn post(gateway: &Gateway, path: &str) -> Request {
    Request::post(gateway.addr(), path)
}

#[test]
fn requests_reach_the_ledger_over_http_1_and_2() {
    let ledger = Ledger::start();
    let gateway = gateway(&ledger, |options| options);

    assert_eq!(post(&gateway, "/one").key("k").body("ten").send().text(), r#"{"id":"pay_1"}"#);
    let second = post(&gateway, "/two").header("x-raw", b"\xff").chunked(["te", "n"]).trailer("x-sum", "1").send_h2();
    assert_eq!((second.status, second.text().as_str()), (201, r#"{"id":"pay_2"}"#));
    let many: Vec<_> = (0..20).map(|_| post(&gateway, "/many").body("ten")).collect();
    assert!(Request::send_h2_all(&many).iter().all(|response| response.status == 201));

    assert_eq!(ledger.entries_for("/many").len(), 20);
    let two = ledger.entries_for("/two").remove(0);
    assert_eq!((two.host.as_str(), two.body_len), ("api.example.com", 3));
    assert!(two.headers.contains(&("x-raw".to_owned(), b"\xff".to_vec())));
    assert_eq!(gateway.stat("http.gateway.downstream_rq_total"), 22);
    assert_eq!(gateway.stat("no.such.stat"), 0);
    assert!(gateway.wait_for_access_log("POST /one").contains(" 201 via_upstream "));
}

#[test]
fn a_refused_upstream_and_a_broken_answer_are_told_apart() {
    let ledger = Ledger::start();
    let gateway = gateway(&ledger, |options| options);
    assert_eq!(post(&gateway, "/broken").header("x-test-reset", "before").send().status, 503);
    assert!(gateway.wait_for_access_log("/broken").contains("flags=UC"));

    let nobody = Port::reserve();
    let alone = Gateway::start(Options::new(nobody.addr()).without_filter());
    assert_eq!(post(&alone, "/refused").send().status, 503);
    assert!(alone.wait_for_access_log("/refused").contains("flags=UF"));
}

#[test]
fn trailers_pass_when_they_are_let() {
    let ledger = Ledger::start();
    for (options, expected) in
        [(Options::new(ledger.addr()), None), (Options::new(ledger.addr()).trailers(), Some("1"))]
    {
        let gateway = Gateway::start(options.without_filter());
        let request = post(&gateway, "/a").chunked(["ten"]).trailer("x-up", "1").header("x-test-trailers", "x-down: 1");
        for response in [request.send(), request.send_h2()] {
            let down = response.trailers.first().map(|(name, value)| (name.as_str(), value.as_slice()));
            assert_eq!(down, expected.map(|value| ("x-down", value.as_bytes())));
            assert_eq!(ledger.entries().last().unwrap().header("x-up"), expected);
        }
    }
}

#[test]
fn the_listener_can_be_updated_while_envoy_runs() {
    let ledger = Ledger::start();
    let gateway = gateway(&ledger, Options::lds);
    assert_eq!(post(&gateway, "/a").send().status, 201);

    let direct = |status: u16| {
        move |listener: &mut serde_json::Value| {
            let hcm = &mut listener["filter_chains"][0]["filters"][0]["typed_config"];
            hcm["route_config"]["virtual_hosts"][0]["routes"] =
                json!([{ "match": { "prefix": "/" }, "direct_response": { "status": status } }]);
        }
    };
    gateway.update_listener(direct(418)).unwrap();
    wait_until("the workers have the new route", PATIENCE, || post(&gateway, "/a").send().status == 418);

    let refusal = gateway.update_listener(direct(99)).unwrap_err();
    assert!(refusal.contains("Status"), "{refusal}");
    assert_eq!(post(&gateway, "/a").send().status, 418);
}

#[test]
fn a_bad_configuration_is_refused_with_the_log() {
    let ledger = Ledger::start();
    for options in [Options::new(ledger.addr()), Options::new(ledger.addr()).lds()] {
        let broken = options.without_filter().mutate(|tree| hcm(tree)["stat_prefix"] = json!(""));
        let message = Gateway::try_start(broken).unwrap_err();
        assert!(message.contains("StatPrefix"), "{message}");
    }
}

#[test]
fn envoy_comes_back_on_the_same_port_and_ends_with_its_guard() {
    let ledger = Ledger::start();
    let mut gateway = gateway(&ledger, |options| options.concurrency(1));
    gateway.kill();
    assert!(!gateway.is_running());
    post(&gateway, "/a").try_send().unwrap_err();
    gateway.restart();
    assert_eq!(post(&gateway, "/a").send().status, 201);

    let addr = gateway.addr();
    drop(gateway);
    Request::post(addr, "/a").try_send().unwrap_err();
}

#[test]
fn the_shipped_files_keep_the_buffer_rule() {
    for file in ["local.yaml", "redis.yaml", "redis-webdis.yaml", "redis-cluster.yaml", "redis-failover.yaml"] {
        let tree = shipped(file).unwrap();
        let bytes = |pointer: &str| tree.pointer(pointer).and_then(serde_json::Value::as_u64).unwrap();
        let listener = bytes("/static_resources/listeners/0/per_connection_buffer_limit_bytes");
        let cluster = bytes("/static_resources/clusters/0/per_connection_buffer_limit_bytes");
        let request = bytes(
            "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config/route_config/virtual_hosts/0/request_body_buffer_limit",
        );
        let (max_request_bytes, max_response_bytes) = (524_288, 524_288);
        assert!(listener >= max_response_bytes + cluster, "{file}");
        assert!(request >= max_request_bytes + listener, "{file}");
    }
}
