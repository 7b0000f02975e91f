//! Executions that the gateway itself carries out (`execution: shielded`), with the embedded store: clients that hang
//! up, and everything that can become of an execution.
//!
//! Its one rule: the gateway is `envoy/shielded.yaml`, and what the service has executed decides what a retry may get.
//! It does not know what passes through: see `shielded_bytes.rs`.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::LazyLock;
use std::thread;
use std::time::{Duration, Instant};

use harness::gateway::{cluster, hcm_of, listener_named, set_endpoint, shipped};
use harness::ledger::body_of_size;
use harness::{Connection, Options, PATIENCE, Port, Request, Response, World, send_all, wait_for, wait_until};
use serde_json::{Value, json};

use crate::check::{executed, is_refusal, not_stored, refused, replays, said, shown};
use crate::worlds::{Shared, add_troubles, rule, start};

/// Under `/short/` and `/hold/`.
const LEASE: Duration = Duration::from_secs(1);

/// `envoy/shielded.yaml` with the rules of [`document`] and the routes of [`troubled`](crate::worlds::troubled).
pub fn shielded() -> Shared {
    static WORLD: LazyLock<World> = LazyLock::new(|| world(|options| options));
    Shared::new(&WORLD)
}

/// Rules by path. Everything is shielded but what is under `/inline/`.
pub fn document() -> Value {
    json!({
        "policy": { "ttl_s": 1800, "execution": { "kind": "shielded", "cluster": "shielded" } },
        "rules": [
            rule("/inline/short/", json!({ "lease_ms": 1000, "execution": { "kind": "inline" } })),
            rule("/inline/", json!({ "execution": { "kind": "inline" } })),
            rule("/short/", json!({ "lease_ms": 1000 })),
            rule("/hold/", json!({ "lease_ms": 1000, "on_unknown": "hold" })),
            rule("/wait/", json!({ "on_in_flight": { "action": "wait" } })),
            rule("/small/", json!({ "max_response_bytes": 10 })),
            rule("/conflict/", json!({ "on_completed": "conflict" })),
            rule("/after-reply/", json!({ "save": "after_reply" })),
            rule("/observe/", json!({ "mode": "observe" })),
            rule("/hurried/", json!({ "lease_ms": 1000, "execution": { "timeout_ms": 300 } })),
            rule("/blind/", json!({ "lease_ms": 1000, "execution": { "cluster": "blind" } })),
            rule("/half/", json!({ "lease_ms": 1000, "execution": { "cluster": "half" } })),
            rule("/nowhere/", json!({ "lease_ms": 1000, "execution": { "cluster": "nowhere" } })),
            rule("/", json!({})),
        ],
    })
}

/// A gateway of the test's own.
pub fn world(change: impl FnOnce(Options) -> Options) -> World {
    static REFUSED: LazyLock<Port> = LazyLock::new(Port::reserve);
    let ledger = harness::Ledger::start();
    let options = Options::file("shielded.yaml", ledger.addr()).configuration(document()).trailers();
    let refused = REFUSED.addr();
    let options = options.mutate(move |tree| {
        add_troubles(tree, refused);
        add_blind(tree);
    });
    World { gateway: harness::Gateway::start(change(options)), ledger }
}

/// More internal listeners: `blind` does not write down how its answers came about, and `half` leaves out a part of it.
fn add_blind(tree: &mut Value) {
    for (name, fields) in [("blind", 0..0), ("half", 0..1)] {
        let mut listener = listener_named(tree, "shielded").clone();
        listener["name"] = json!(name);
        let account = &mut hcm_of(&mut listener)["route_config"]["response_headers_to_add"];
        assert_eq!(account.as_array().map(Vec::len), Some(5));
        *account = json!(account.as_array().expect("five fields")[fields]);
        let mut way = cluster(tree, "shielded").clone();
        way["name"] = json!(name);
        let endpoint = &mut way["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"];
        endpoint["address"]["envoy_internal_address"]["server_listener_name"] = json!(name);
        for (kind, one) in [("listeners", listener), ("clusters", way)] {
            tree["static_resources"][kind].as_array_mut().expect("a list").push(one);
        }
    }
}

/// Nothing runs, waits or is owed.
#[track_caller]
fn is_quiet(world: &World) {
    for gauge in ["running", "waiting", "outbox"] {
        let name = format!("wasmcustom.idempotency_{gauge}");
        wait_until(&format!("{gauge} is 0"), PATIENCE, || world.gateway.stat(&name) == 0);
    }
}

/// Hangs up on a request that runs, and returns when Envoy has noticed.
#[track_caller]
pub fn hang_up(world: &World, connection: Connection, path: &str) {
    drop(connection);
    world.gateway.wait_for_access_log(&format!("POST {path} 0 "));
}

/// What makes a case of a request.
type Change = fn(Request) -> Request;

#[test]
fn a_request_executes_once_and_is_replayed() {
    let world = shielded();
    let pay = world.post("/first/pay").key("k").body("ten");
    let first = pay.send();
    executed(&first, 1);
    assert_eq!((first.status, first.json()["id"].is_string()), (201, true), "{}", shown(&first));
    for again in [pay.send(), pay.send(), pay.send_h2()] {
        replays(&again, &first);
    }
    refused(&pay.clone().body("twenty").send(), 409, "mismatch", None);
    let over_http_2 = world.post("/first/h2").key("k").body("ten");
    let first = over_http_2.send_h2();
    executed(&first, 1);
    replays(&over_http_2.send_h2(), &first);
    assert_eq!(world.ledger.entries_for("/first/pay").len(), 1);
    assert_eq!(world.ledger.entries_for("/first/h2").len(), 1);
}

#[test]
fn a_client_that_hangs_up_while_the_service_works_finds_the_answer_stored() {
    let world = world(|options| options);
    let pay = world.post("/hang-up/works").key("k");
    hang_up(&world, start(&world, &pay, "ten", "works"), pay.path());
    let pay = pay.body("ten");
    refused(&pay.send(), 429, "in-flight", Some("1"));
    world.gateway.wait_for_stat("wasmcustom.idempotency_running", 1);
    world.ledger.open("works");
    let retry = answered(&pay);
    assert_eq!((retry.status, said(&retry).starts_with("replayed;attempt=1;")), (201, true), "{}", shown(&retry));

    // In its head, and in mid-body: nothing has been claimed.
    let mut client = TcpStream::connect(world.gateway.addr()).unwrap();
    client.write_all(b"POST /hang-up/head HTTP/1.1\r\nhost: api.example.com\r\nidempot").unwrap();
    drop(client);
    let half = world.post("/hang-up/body").key("k").body("ten");
    let mut connection = half.open();
    connection.write("t");
    wait_until("Envoy has the request", PATIENCE, || world.gateway.stat("http.gateway.downstream_rq_active") == 1);
    hang_up(&world, connection, half.path());
    assert_eq!(world.ledger.entries().len(), 1);
    executed(&half.send(), 1);

    // In mid-replay.
    let large = world.post("/hang-up/replay").key("k").header("x-test-body-size", "500000").body("ten");
    let first = large.send();
    executed(&first, 1);
    for _ in 0..8 {
        let mut connection = large.open();
        connection.write("ten");
        assert_eq!(connection.head().status, 201);
        connection.reset();
    }
    replays(&large.send(), &first);
    assert_eq!(world.ledger.entries().len(), 3);
    is_quiet(&world);
    assert_eq!(world.gateway.counted("unknown"), 0);
    assert_eq!(world.gateway.counted("stored"), 3);
}

#[test]
fn failures_settle_the_key_although_the_client_has_gone() {
    let world = shielded();
    let leave = |path: &str, status: &str, gate: &str| {
        let pay = world.post(path).key("k");
        let failing = pay.clone().header("x-test-first-status", format!("{status},201"));
        hang_up(&world, start(&world, &failing, "ten", gate), path);
        world.ledger.open(gate);
        failing.body("ten")
    };
    let invalid = leave("/gone/422", "422", "gone-422");
    wait_until("the key is free", PATIENCE, || {
        said(&invalid.clone().body("corrected").send()).starts_with("executed;")
    });
    assert_eq!(world.ledger.entries_for("/gone/422").len(), 2);
    let busy = leave("/gone/503", "503", "gone-503");
    executed(&answered(&busy), 2);
    let lost = leave("/short/gone-504", "504", "gone-504");
    wait_until("the outcome is unknown", PATIENCE, || is_refusal(&lost.send(), "outcome-unknown"));
    executed(&after_the_lease(&lost), 2);
}

#[test]
fn what_came_back_decides_what_becomes_of_the_key() {
    let world = shielded();
    let invalid = world.post("/outcome/422").key("k").header("x-test-first-status", "422,201").body("ten");
    not_stored(&invalid.send(), 422, 1, "released");
    executed(&invalid.clone().body("corrected").send(), 2);

    let busy = world.post("/outcome/503").key("k").header("x-test-first-status", "503,201").body("ten");
    not_stored(&busy.send(), 503, 1, "retry");
    refused(&busy.clone().body("twenty").send(), 409, "mismatch", None);
    executed(&busy.send(), 2);

    for name in ["refused", "nobody"] {
        let unsent = world.post(&format!("/outcome/{name}")).key("k").body("ten");
        not_stored(&unsent.clone().header("x-route", name).send(), 503, 1, "released");
        executed(&unsent.body("corrected").send(), 2);
    }

    let steered = world.post("/outcome/steered").key("k").body("ten");
    let kept =
        steered.clone().header("x-test-status", "404").header("x-test-header", "idempotency-store: store").send();
    assert_eq!((kept.status, kept.header("idempotency-store")), (404, None));
    executed(&kept, 1);
    replays(&steered.send(), &kept);
}

#[test]
fn lost_answers_are_unknown_until_the_lease_is_over() {
    let world = shielded();
    let cases: [(&str, u16, Change); 9] = [
        ("502", 502, |pay| pay.header("x-test-first-status", "502,201")),
        ("before", 503, |pay| pay.header("x-test-reset", "before")),
        ("before-rst", 503, |pay| pay.header("x-test-reset", "before-rst")),
        ("after-headers", 502, |pay| pay.header("x-test-reset", "after-headers")),
        ("mid-body", 502, |pay| pay.header("x-test-reset", "mid-body")),
        ("mid-chunk", 502, |pay| pay.header("x-test-reset", "mid-body").header("x-test-chunked", "1")),
        ("late", 504, |pay| pay.header("x-route", "impatient").header("x-test-hold", "never")),
        ("retried", 503, |pay| pay.header("x-route", "retrying").header("x-test-status", "503")),
        ("too-large", 502, |pay| pay.header("x-test-body-size", (33 << 20).to_string())),
    ];
    thread::scope(|scope| {
        for (name, status, spoil) in cases {
            let world = &world;
            scope.spawn(move || {
                let pay = world.post(&format!("/short/lost-{name}")).key("k").body("ten");
                let started = Instant::now();
                let lost = spoil(pay.clone()).send();
                not_stored(&lost, status, 1, "unknown");
                unknown(&pay, started);
                let entries = world.ledger.entries_for(pay.path());
                let of = |attempt| entries.iter().filter(|entry| entry.attempt == Some(attempt)).count();
                // A service that is busy may have been too late to notice a first one that was in a hurry.
                let tries = if name == "retried" { 2 } else { 1 };
                assert!(of(1) <= tries && of(2) == 1 && of(1) + 1 == entries.len(), "{name}: {entries:?}");
            });
        }
    });
}

#[test]
fn an_execution_that_outlives_its_call_is_unknown() {
    let world = shielded();
    let pay = world.post("/hurried/pay").key("k").body("ten");
    let started = Instant::now();
    not_stored(&pay.clone().header("x-test-hold", "never").send(), 504, 1, "unknown");
    unknown(&pay, started);
}

#[test]
fn a_success_after_a_try_by_envoy_is_stored() {
    let world = shielded();
    let pay = world.post("/outcome/retried-well").key("k").body("ten");
    let pay = pay.header("x-route", "retrying").header("x-test-first-status", "503,201");
    let first = pay.send();
    executed(&first, 1);
    replays(&pay.send(), &first);
    assert_eq!(world.ledger.entries_for(pay.path()).len(), 2);
}

#[test]
fn a_lease_is_renewed_while_the_service_works_and_nobody_waits() {
    let world = shielded();
    let pay = world.post("/short/renewed").key("k");
    let started = Instant::now();
    hang_up(&world, start(&world, &pay, "ten", "shielded-renewed"), pay.path());
    let pay = pay.body("ten");
    wait_until("three leases have passed", PATIENCE, || {
        refused(&pay.send(), 429, "in-flight", Some("1"));
        started.elapsed() > 3 * LEASE
    });
    world.ledger.open("shielded-renewed");
    assert!(said(&answered(&pay)).starts_with("replayed;attempt=1;"));
    assert_eq!(world.ledger.entries_for(pay.path()).len(), 1);
}

#[test]
fn waiters_get_the_answer_although_the_first_client_has_gone() {
    let world = world(|options| options);
    let pay = world.post("/wait/crowd").key("k");
    let first = start(&world, &pay, "ten", "crowd");
    let crowd = vec![pay.clone().body("ten"); 20];
    let answers = thread::scope(|scope| {
        let crowd = scope.spawn(|| send_all(&crowd));
        world.gateway.wait_for_stat("wasmcustom.idempotency_waiting", 20);
        hang_up(&world, first, pay.path());
        world.ledger.open("crowd");
        crowd.join().unwrap()
    });
    for answer in &answers {
        assert!(said(answer).starts_with("replayed;attempt=1;"), "{}", shown(answer));
        assert_eq!((answer.status, &answer.body), (201, &answers[0].body));
    }
    assert_eq!(world.ledger.entries().len(), 1);
    is_quiet(&world);
}

#[test]
fn a_waiter_takes_over_after_a_failure_although_the_first_client_has_gone() {
    let world = shielded();
    let pay = world.post("/wait/failed").key("k").header("x-test-first-status", "503,201");
    let first = start(&world, &pay, "ten", "wait-failed");
    let crowd = vec![pay.clone().body("ten"); 8];
    let answers = thread::scope(|scope| {
        let crowd = scope.spawn(|| send_all(&crowd));
        world.gateway.wait_for_stat("wasmcustom.idempotency_waiting", 8);
        hang_up(&world, first, pay.path());
        world.ledger.open("wait-failed");
        crowd.join().unwrap()
    });
    let (ran, replayed): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| said(answer).starts_with("executed;"));
    assert_eq!((ran.len(), replayed.len()), (1, 7));
    executed(ran[0], 2);
    replayed.iter().for_each(|answer| replays(answer, ran[0]));
    assert_eq!(world.ledger.entries_for(pay.path()).len(), 2);
}

#[test]
fn under_hold_a_lost_answer_stays_unknown() {
    let world = shielded();
    let (pay, started) = (world.post("/hold/shielded").key("k").body("ten"), Instant::now());
    not_stored(&pay.clone().header("x-test-reset", "mid-body").send(), 502, 1, "unknown");
    wait_until("two leases have passed", PATIENCE, || {
        refused(&pay.send(), 409, "outcome-unknown", None);
        started.elapsed() > 2 * LEASE
    });
    assert_eq!(world.ledger.entries_for(pay.path()).len(), 1);
}

#[test]
fn without_the_whole_of_envoys_account_only_a_success_is_known() {
    let world = shielded();
    for way in ["blind", "half"] {
        let good = world.post(&format!("/{way}/201")).key("k").body("ten");
        let first = good.send();
        executed(&first, 1);
        replays(&good.send(), &first);
        let cases: [(&str, u16, Change); 4] = [
            ("422", 422, |pay| pay.header("x-test-status", "422")),
            ("503", 503, |pay| pay.header("x-test-status", "503")),
            ("refused", 503, |pay| pay.header("x-route", "refused")),
            ("late", 504, |pay| pay.header("x-route", "impatient").header("x-test-hold", "never")),
        ];
        for (name, status, spoil) in cases {
            let (pay, started) = (world.post(&format!("/{way}/{name}")).key("k").body("ten"), Instant::now());
            not_stored(&spoil(pay.clone()).send(), status, 1, "unknown");
            unknown(&pay, started);
        }
    }
}

#[test]
fn without_a_way_to_the_internal_listener_nothing_is_executed_and_the_key_stays_free() {
    let world = shielded();
    let pay = world.post("/nowhere/pay").key("k").body("ten");
    for attempt in 1..=2 {
        not_stored(&pay.send(), 503, attempt, "released");
    }
    not_stored(&pay.body("twenty").send(), 503, 3, "released");
    assert_eq!(world.ledger.entries_for("/nowhere/pay").len(), 0);
    assert!(world.gateway.counted("released") >= 3);
    let log = world.gateway.log();
    let mut lines = log.lines().filter(|line| line.contains("through the cluster \"nowhere\""));
    assert!(lines.next().is_some_and(|line| line.contains("[warning]")), "{log}");
}

/// What every request would say is said once a second.
#[test]
fn a_way_that_does_not_exist_is_logged_now_and_then() {
    let world = world(|options| options.concurrency(1));
    let started = Instant::now();
    let crowd: Vec<_> = (0..100).map(|n| world.post("/nowhere/logged").key(n.to_string()).body("ten")).collect();
    Request::send_h2_all(&crowd).iter().for_each(|answer| not_stored(answer, 503, 1, "released"));
    let seconds = started.elapsed().as_secs() as usize;
    let lines = world.gateway.log().matches(" cannot be executed through the cluster ").count();
    assert!((1..=seconds + 1).contains(&lines), "{lines} lines in {seconds} s");
}

#[test]
fn an_internal_listener_that_runs_the_filter_too_executes_nothing_and_is_logged() {
    let world = world(|options| {
        options.concurrency(1).mutate(|tree| {
            let outer = harness::gateway::hcm(tree)["http_filters"].clone();
            hcm_of(listener_named(tree, "shielded"))["http_filters"] = outer;
        })
    });
    let answer = world.post("/first/again").key("k").body("ten").send();
    not_stored(&answer, 429, 1, "unknown");
    assert_eq!(world.ledger.entries().len(), 0);
    let log = world.gateway.log();
    let mut lines =
        log.lines().filter(|line| line.contains("the cluster \"shielded\" of `execution` runs this filter"));
    assert!(lines.next().is_some_and(|line| line.contains("[warning]")), "{log}");
}

/// What Envoy itself ends was executed all the same.
#[test]
fn a_client_whose_stream_envoy_ends_is_told_so_and_its_retry_gets_the_answer() {
    let world = world(|options| {
        options.mutate(|tree| {
            // The internal listener has more patience.
            let idle = json!({ "name": "x-route", "string_match": { "exact": "idle" } });
            let route = json!({ "cluster": "payments", "idle_timeout": "0.3s" });
            let routes = &mut harness::gateway::hcm(tree)["route_config"]["virtual_hosts"][0]["routes"];
            let route = json!({ "match": { "prefix": "/", "headers": [idle] }, "route": route });
            routes.as_array_mut().unwrap().insert(0, route);
        })
    });
    let pay = world.post("/first/idle").key("k").body("ten");
    let impatient = pay.clone().header("x-route", "idle").header("x-test-hold", "idle").send();
    not_stored(&impatient, 504, 1, "unknown");
    refused(&pay.send(), 429, "in-flight", Some("1"));
    world.ledger.open("idle");
    let retry = answered(&pay);
    assert!(retry.status == 201 && said(&retry).starts_with("replayed;attempt=1;"), "{}", shown(&retry));
    assert_eq!(world.ledger.entries().len(), 1);
    is_quiet(&world);
}

#[test]
fn more_than_envoy_lets_through_by_default_run_at_once() {
    // The service's own limits are its operator's.
    let raise = |tree: &mut Value| {
        let limits = cluster(tree, "shielded")["circuit_breakers"].clone();
        cluster(tree, "payments")["circuit_breakers"] = limits;
    };
    let world = world(|options| options.mutate(raise));
    let pay = world.post("/crowd/many").header("x-test-hold", "many").body("ten");
    let crowd: Vec<_> = (0..1_100).map(|n| pay.clone().key(n.to_string())).collect();
    let answers: Vec<_> = thread::scope(|scope| {
        let answers: Vec<_> = crowd.chunks(550).map(|streams| scope.spawn(|| Request::send_h2_all(streams))).collect();
        wait_until("all run", PATIENCE, || world.ledger.held() == crowd.len());
        world.ledger.open("many");
        answers.into_iter().flat_map(|answers| answers.join().unwrap()).collect()
    });
    answers.iter().for_each(|answer| executed(answer, 1));
    is_quiet(&world);
}

#[test]
fn under_after_reply_the_answer_is_stored_too() {
    let world = shielded();
    let pay = world.post("/after-reply/pay").key("k").body("ten");
    let first = pay.send();
    assert_eq!((first.status, said(&first)), (201, "executed;attempt=1"), "{}", shown(&first));
    replays(&answered(&pay), &first);
    let invalid = world.post("/after-reply/422").key("k").header("x-test-status", "422").body("ten");
    not_stored(&invalid.send(), 422, 1, "released");
    let large = world.post("/after-reply/large").key("k").header("x-test-body-size", "600000").body("ten");
    assert_eq!(said(&large.send()), "executed;stored=?0;attempt=1;outcome=completed;reason=too-large");
    let gone = world.post("/after-reply/gone").key("k");
    hang_up(&world, start(&world, &gone, "ten", "after-reply"), gone.path());
    world.ledger.open("after-reply");
    assert!(said(&answered(&gone.body("ten"))).starts_with("replayed;attempt=1;"));
}

#[test]
fn under_conflict_a_duplicate_hears_where_the_first_one_went() {
    let world = shielded();
    let pay = world.post("/conflict/shielded").key("k").body("ten");
    let first = pay.send();
    executed(&first, 1);
    let again = pay.send();
    refused(&again, 409, "already-completed", None);
    assert_eq!(again.header("location"), first.header("location"));
    assert_eq!(again.json()["original_status"], json!(201));
}

#[test]
fn a_response_that_is_too_large_to_keep_is_delivered() {
    let world = shielded();
    for (name, size) in [("little", 11), ("large", 3 << 20)] {
        let pay = world.post(&format!("/small/shielded-{name}")).key("k").body("ten");
        let first = pay.clone().header("x-test-body-size", size.to_string()).send();
        assert_eq!(first.body, body_of_size(size));
        assert_eq!(said(&first), "executed;stored=?0;attempt=1;outcome=completed;reason=too-large");
        refused(&pay.send(), 409, "not-replayable", None);
        assert_eq!(world.ledger.entries_for(pay.path()).len(), 1);
    }
}

#[test]
fn a_trial_leaves_every_request_to_its_client() {
    let world = world(|options| options);
    let inside = || world.gateway.stat("http.shielded.downstream_rq_total");
    let pay = world.post("/observe/pay").key("k").body("ten");
    for outcome in ["executed", "replayed"] {
        let (answer, line) = (pay.send(), format!("bypassed;outcome={outcome};reason=observe"));
        assert_eq!((answer.status, said(&answer)), (201, line.as_str()), "{}", shown(&answer));
    }
    let entries = world.ledger.entries_for(pay.path());
    assert!(entries.len() == 2 && entries.iter().all(|entry| entry.attempt.is_none() && entry.operation.is_none()));
    let gone = world.post("/observe/gone").key("k");
    hang_up(&world, start(&world, &gone, "ten", "never"), gone.path());
    world.gateway.wait_for_count("observed_unknown", 1);
    assert_eq!((inside(), world.gateway.counted("unshielded")), (0, 0));
    executed(&world.post("/first/observed").key("k").body("ten").send(), 1);
    assert_eq!(inside(), 1);
    is_quiet(&world);
}

#[test]
fn a_service_that_dies_and_comes_back_executes_each_once_or_is_in_doubt() {
    let port = Port::unshared();
    let addr = port.addr();
    let world = world(move |options| options.mutate(move |tree| set_endpoint(cluster(tree, "payments"), addr)));
    for prefix in ["/short/", "/inline/short/"] {
        let path = |name: &str| format!("{prefix}dies-{name}");
        let away = world.post(&path("away")).key("k").body("ten");
        not_stored(&away.send(), 503, 1, "released");

        // It has read the whole request when it dies.
        let service = TcpListener::bind(addr).unwrap();
        let running = world.post(&path("running")).key("k").body("ten");
        // The lease begins with the claim, which nobody sees.
        let claimed = Instant::now();
        let mut client = running.open();
        client.write("ten");
        let (mut connection, _) = service.accept().unwrap();
        read_request(&mut connection);
        drop((connection, service));
        not_stored(&client.response(), 503, 1, "unknown");
        refused(&running.send(), 409, "outcome-unknown", Some("1"));
        not_stored(&away.send(), 503, 2, "released");

        let service = TcpListener::bind(addr).unwrap();
        let serving = thread::spawn(move || {
            for mut connection in service.incoming().take(2).map(Result::unwrap) {
                read_request(&mut connection);
                let answer = b"HTTP/1.1 201 Created\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok";
                connection.write_all(answer).unwrap();
            }
        });
        // What was never sent is free for another payload, and what may have run is not.
        let corrected = away.body("twenty");
        let first = corrected.send();
        executed(&first, 3);
        replays(&corrected.send(), &first);
        refused(&running.clone().body("twenty").send(), 409, "mismatch", None);
        let second = after_the_lease(&running);
        assert!(claimed.elapsed() >= LEASE, "{:?}", claimed.elapsed());
        executed(&second, 2);
        replays(&running.send(), &second);
        serving.join().unwrap();
    }
    is_quiet(&world);
}

/// Reads a request whose body is `ten` or `twenty`.
fn read_request(connection: &mut TcpStream) {
    let mut seen = Vec::new();
    while !(seen.ends_with(b"ten") || seen.ends_with(b"twenty")) {
        let mut bytes = [0; 4096];
        let count = connection.read(&mut bytes).unwrap();
        assert!(count > 0, "the request breaks off");
        seen.extend_from_slice(&bytes[..count]);
    }
}

#[test]
fn an_update_lets_a_shielded_execution_finish() {
    let world = world(|options| options.lds().drain_time_s(1));
    let probe = world.post("/before").key("k").body("ten");
    executed(&probe.send(), 1);
    let pays = [0, 1].map(|n| world.post(&format!("/update/{n}")).key("k"));
    let [gone, cut] = pays.each_ref().map(|pay| start(&world, pay, "ten", "update"));
    hang_up(&world, gone, pays[0].path());

    let mut document = document();
    document["policy"]["statuses"] = json!("ietf");
    world.gateway.update_plugin_config(&document).unwrap();
    // Envoy cuts what the old listener has once it has drained.
    world.gateway.wait_for_access_log("POST /update/1 ");
    let pays = pays.map(|pay| pay.body("ten"));
    wait_until("the new configuration is in force", PATIENCE, || probe.clone().body("not ten").send().status == 422);
    pays.iter().for_each(|pay| assert!(is_refusal(&pay.send(), "in-flight")));
    world.ledger.open("update");
    for pay in &pays {
        let retry = answered(pay);
        assert!(said(&retry).starts_with("replayed;attempt=1;"), "{}", shown(&retry));
        assert_eq!(world.ledger.entries_for(pay.path()).len(), 1);
    }
    drop(cut);
    is_quiet(&world);
}

#[test]
fn the_internal_listener_has_no_address_and_no_filter_of_ours() {
    let mut tree = shipped("shielded.yaml").unwrap();
    let inner = listener_named(&mut tree, "shielded");
    assert_eq!((inner.get("address"), inner["internal_listener"].is_object()), (None, true));
    let filters: Vec<_> =
        hcm_of(inner)["http_filters"].as_array().unwrap().iter().map(|one| one["name"].clone()).collect();
    assert_eq!(filters, ["envoy.filters.http.router"]);
    assert_eq!(
        hcm_of(inner)["route_config"]["virtual_hosts"].clone(),
        harness::gateway::hcm(&mut tree)["route_config"]["virtual_hosts"].clone()
    );

    // Whoever listens on a port of this process is the gateway or its admin interface.
    let world = shielded();
    let listening = listening(world.gateway.process_id());
    let mut expected = vec![world.gateway.addr().port(), world.gateway.admin_addr().port()];
    expected.sort_unstable();
    assert_eq!(listening, expected);
    // A client cannot name it either.
    let direct = world.post("/first/direct").host("shielded").key("k").body("ten").send();
    executed(&direct, 1);
}

/// The TCP ports that a process listens on.
fn listening(process_id: u32) -> Vec<u16> {
    let sockets: Vec<String> = std::fs::read_dir(format!("/proc/{process_id}/fd"))
        .unwrap()
        .filter_map(|entry| Some(std::fs::read_link(entry.ok()?.path()).ok()?.to_str()?.to_owned()))
        .filter_map(|link| Some(link.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()))
        .collect();
    let mut ports: Vec<u16> = ["tcp", "tcp6"]
        .iter()
        .flat_map(|table| {
            std::fs::read_to_string(format!("/proc/{process_id}/net/{table}"))
                .unwrap_or_default()
                .lines()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        })
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let is_ours =
                fields.get(3) == Some(&"0A") && sockets.iter().any(|one| Some(&one.as_str()) == fields.get(9));
            let port = fields.get(1)?.rsplit(':').next()?;
            is_ours.then(|| u16::from_str_radix(port, 16).ok()).flatten()
        })
        .collect();
    ports.sort_unstable();
    ports.dedup();
    ports
}

/// The first answer that does not say `in-flight`.
#[track_caller]
pub fn answered(pay: &Request) -> Response {
    wait_for("the execution has ended", PATIENCE, || Some(pay.send()).filter(|answer| !is_refusal(answer, "in-flight")))
        .unwrap_or_else(|message| panic!("{message}"))
}

/// The first answer that does not say `outcome-unknown`.
#[track_caller]
fn after_the_lease(pay: &Request) -> Response {
    wait_for("the lease is over", PATIENCE, || Some(pay.send()).filter(|answer| !is_refusal(answer, "outcome-unknown")))
        .unwrap_or_else(|message| panic!("{message}"))
}

/// The outcome is not known: attempt 2 runs when the lease is over, and not before.
#[track_caller]
fn unknown(pay: &Request, started: Instant) {
    let early = pay.send();
    refused(&early, 409, "outcome-unknown", Some("1"));
    let second = after_the_lease(pay);
    assert!(started.elapsed() >= LEASE, "{:?}", started.elapsed());
    executed(&second, 2);
    replays(&pay.send(), &second);
}
