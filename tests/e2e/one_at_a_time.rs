//! Requests for one resource, one at a time (`serialize`): against a service that keeps its stock without a lock of its own.
//!
//! Its one rule: what is asserted is what that service did, and what clients were told.
//! It does not know what would pass beside a lock: see `past_a_lock.rs`.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use harness::gateway::{cluster, set_endpoint};
use harness::{
    Connection, Gateway, Options, PATIENCE, Redis, Request, Response, SharedWorld, Stock, Taking, send_all, wait_until,
};
use serde_json::{Value, json};

use crate::check::{executed, is_refusal, refused, replays, shown};
use crate::redis::PATIENT_MS;
use crate::shielded_redis::add_shielding;

/// How long the service works.
const WORK: Duration = Duration::from_millis(10);
/// How long a lease is where a test waits for its end.
const LEASE_MS: u64 = 1500;

/// Rules by the first segment of the path; the second names the article, where they run one at a time.
fn document() -> Value {
    let rule = |prefix: &str, policy: Value| {
        let path = json!({ "prefix": prefix });
        json!({ "name": prefix.trim_matches('/'), "match": { "methods": ["POST"], "path": path }, "policy": policy })
    };
    let lock =
        |max_wait_ms: u64| json!({ "name": "stock", "sources": [{ "path_segment": 1 }], "max_wait_ms": max_wait_ms });
    let with = |more: Value| {
        let mut policy = json!({ "serialize": lock(120_000) });
        for (name, value) in more.as_object().unwrap() {
            policy[name] = value.clone();
        }
        policy
    };
    json!({
        "store": { "timeout_ms": PATIENT_MS },
        "policy": { "ttl_s": 1800, "key": { "required": true }, "lease_ms": LEASE_MS },
        "rules": [
            rule("/stock/", with(json!({}))),
            rule("/more-stock/", with(json!({}))),
            rule("/brief/", json!({ "serialize": lock(300) })),
            rule("/after/", with(json!({ "save": "after_reply" }))),
            rule("/hold/", with(json!({ "on_unknown": "hold" }))),
            rule("/wait/", with(json!({ "on_in_flight": { "action": "wait" } }))),
            rule("/observe/", with(json!({ "mode": "observe" }))),
            rule("/shielded/", with(json!({ "execution": { "kind": "shielded", "cluster": "shielded" } }))),
            rule("/free/", json!({})),
        ],
    })
}

/// Two gateways of two workers each on one Redis, and the service behind them.
fn shop(of_each: u64, work: Duration) -> (SharedWorld, Stock) {
    shop_on(Redis::start(), of_each, work)
}

fn shop_on(redis: Redis, of_each: u64, work: Duration) -> (SharedWorld, Stock) {
    let stock = Stock::start(of_each, work);
    let to = stock.addr();
    let world = SharedWorld::with(redis, &[document(), document()], |options| options.mutate(behind(to)));
    (world, stock)
}

/// The stock behind both ways to the service.
fn behind(stock: SocketAddr) -> impl FnOnce(&mut Value) {
    move |tree| {
        add_shielding(tree);
        set_endpoint(cluster(tree, "payments"), stock);
    }
}

/// One gateway with the embedded store.
fn corner_shop(stock: &Stock) -> Gateway {
    let mut document = document();
    document["store"] = json!({});
    Gateway::start(Options::new(stock.addr()).configuration(document).mutate(behind(stock.addr())))
}

/// What one client sends: an article, under a key of its own.
fn take(gateway: SocketAddr, path: &str, key: &str) -> Request {
    Request::post(gateway, path).caller(harness::CALLER).key(key)
}

/// A request that is under way.
fn sent(request: &Request) -> Connection {
    let mut connection = request.clone().body("one").open();
    connection.write("one");
    connection
}

/// A request that the service keeps at work.
fn held(stock: &Stock, request: &Request, gate: &str, n: usize) -> Connection {
    let connection = sent(&request.clone().header("x-test-hold", gate));
    stock.wait_for_held(n);
    connection
}

#[track_caller]
fn waits(gateways: &[Gateway], count: u64) {
    let waiting = |gateway: &Gateway| gateway.stat("wasmcustom.idempotency_waiting");
    wait_until(&format!("{count} wait"), PATIENCE, || gateways.iter().map(waiting).sum::<u64>() == count);
}

/// Each had the article to itself, and each fence is larger than all before.
#[track_caller]
fn took_turns(takings: &[Taking]) {
    assert!(takings.iter().all(|taking| taking.at_once == 1), "two were at work at once: {takings:?}");
    let fences: Vec<u64> = takings.iter().map(|taking| taking.fence.expect("it has a fence")).collect();
    assert!(fences.is_sorted_by(|before, after| before < after), "{fences:?}");
}

fn count(answers: &[Response], status: u16) -> usize {
    answers.iter().filter(|answer| answer.status == status).count()
}

#[test]
fn of_200_that_take_from_a_stock_of_100_exactly_100_get_one_and_no_worker_starves() {
    let (world, stock) = shop(100, WORK);
    let takes: Vec<_> = (0..200).map(|n| take(world.gateways[n % 2].addr(), "/stock/last", &format!("k{n}"))).collect();
    let answers = send_all(&takes);
    assert_eq!((count(&answers, 201), count(&answers, 409)), (100, 100));
    assert_eq!(stock.left("last"), Some(0));
    let takings = stock.takings("last");
    assert_eq!(takings.len(), 200);
    took_turns(&takings);
    let mut turns: HashMap<SocketAddr, (usize, usize)> = HashMap::new();
    for (number, taking) in takings.iter().enumerate() {
        let (all, early) = turns.entry(taking.connection).or_default();
        (*all, *early) = (*all + 1, *early + usize::from(number < 100));
    }
    // Each worker has a connection of its own to the service, and needs no second one for one turn at a time.
    assert_eq!(turns.len(), 4, "{turns:?}");
    // How many of the first hundred a worker has depends on when the machine lets its clients come.
    assert!(turns.values().all(|(all, early)| *all >= 20 && *early > 0), "a worker starves: {turns:?}");
    for (answer, take) in answers.iter().zip(&takes).filter(|(answer, _)| answer.status == 201) {
        replays(&take.send(), answer);
    }
    assert_eq!(stock.takings("last").len(), 200);
}

#[test]
fn without_a_lock_the_same_service_gives_away_what_it_does_not_have() {
    let (world, stock) = shop(100, WORK);
    let takes: Vec<_> = (0..200).map(|n| take(world.gateways[n % 2].addr(), "/free/last", &format!("k{n}"))).collect();
    let answers = send_all(&takes);
    let takings = stock.takings("last");
    assert!(takings.iter().any(|taking| taking.at_once > 1) && takings.iter().all(|taking| taking.fence.is_none()));
    let left = stock.left("last").unwrap_or(100) as usize;
    assert!(count(&answers, 201) > 100 - left, "{} taken, {left} left", count(&answers, 201));
}

#[test]
fn of_the_embedded_store_two_workers_take_turns_too() {
    let stock = Stock::start(30, WORK);
    let gateway = corner_shop(&stock);
    let takes: Vec<_> = (0..60).map(|n| take(gateway.addr(), "/stock/last", &format!("k{n}"))).collect();
    let answers = send_all(&takes);
    assert_eq!((count(&answers, 201), count(&answers, 409)), (30, 30));
    took_turns(&stock.takings("last"));
}

#[test]
fn rules_of_one_name_share_a_lock_and_other_resources_have_others() {
    let (world, stock) = shop(100, WORK);
    let first = take(world.gateways[0].addr(), "/stock/shared", "k1");
    let mut holder = held(&stock, &first, "shared", 1);
    let mut other_rule = sent(&take(world.other(), "/more-stock/shared", "k2"));
    waits(&world.gateways, 1);
    executed(&take(world.other(), "/stock/else", "k3").body("one").send(), 1);
    stock.open("shared");
    executed(&holder.response(), 1);
    executed(&other_rule.response(), 1);
    took_turns(&stock.takings("shared"));
}

#[test]
fn who_has_waited_long_enough_is_refused_and_its_key_is_free() {
    let (world, stock) = shop(100, WORK);
    let mut holder = held(&stock, &take(world.gateways[0].addr(), "/stock/busy", "k1"), "busy", 1);
    for gateway in &world.gateways {
        let brief = take(gateway.addr(), "/brief/busy", "k2").body("one");
        refused(&brief.send(), 429, "resource-busy", Some("1"));
        // Once the claim is taken back another payload under the same key is no mismatch: nothing was executed.
        let other = brief.body("two");
        wait_until("its key is free", PATIENCE, || is_refusal(&other.send(), "resource-busy"));
    }
    assert!(world.counted("refused.resource-busy") >= 4);
    assert!(world.counted("lock_waits") >= 4);
    stock.open("busy");
    executed(&holder.response(), 1);
    let after = take(world.other(), "/brief/busy", "k2").body("one").send();
    assert_eq!(after.status, 201, "{}", shown(&after));
    took_turns(&stock.takings("busy"));
}

#[test]
fn a_client_that_goes_while_it_waits_leaves_neither_a_claim_nor_a_lock() {
    let (world, stock) = shop(100, WORK);
    let mut holder = held(&stock, &take(world.gateways[0].addr(), "/stock/gone", "k1"), "gone", 1);
    let waiter = sent(&take(world.other(), "/stock/gone", "k2"));
    waits(&world.gateways, 1);
    waiter.reset();
    waits(&world.gateways, 0);
    stock.open("gone");
    executed(&holder.response(), 1);
    let answer = take(world.other(), "/brief/gone", "k3").body("one").send();
    assert_eq!(answer.status, 201, "{}", shown(&answer));
    let again = take(world.other(), "/stock/gone", "k2").body("two").send();
    assert_eq!(again.status, 201, "{}", shown(&again));
    assert_eq!(stock.takings("gone").len(), 3);
}

#[test]
fn those_of_one_worker_have_their_turns_in_the_order_in_which_they_came() {
    let stock = Stock::start(100, WORK);
    let mut document = document();
    document["store"] = json!({});
    let options = Options::new(stock.addr()).configuration(document).mutate(behind(stock.addr())).concurrency(1);
    let gateways = [Gateway::start(options)];
    let first = take(gateways[0].addr(), "/stock/order", "k0");
    let mut connections = vec![held(&stock, &first, "order", 1)];
    for n in 1..=20 {
        connections.push(sent(&take(gateways[0].addr(), "/stock/order", &format!("k{n}"))));
        waits(&gateways, n);
    }
    stock.open("order");
    let answers: Vec<_> = connections.iter_mut().map(Connection::response).collect();
    assert!(answers.iter().all(|answer| answer.status == 201));
    // A client sees what was left when it took one only by the order of the fences; the service has them in order.
    took_turns(&stock.takings("order"));
    let attempts: Vec<_> = answers.iter().map(|answer| answer.header("x-left").map(str::to_owned)).collect();
    let expected: Vec<_> = (0..=20).map(|n| Some((99 - n).to_string())).collect();
    assert_eq!(attempts, expected);
}

#[test]
fn a_duplicate_of_what_waits_or_runs_is_a_duplicate_and_never_asks_for_the_lock() {
    let (world, stock) = shop(100, WORK);
    let running = take(world.gateways[0].addr(), "/wait/twice", "k1");
    let mut holder = held(&stock, &running, "twice", 1);
    let mut waiting = sent(&take(world.gateways[0].addr(), "/stock/twice", "k2"));
    waits(&world.gateways, 1);
    let duplicate = take(world.other(), "/stock/twice", "k2").body("one").send();
    refused(&duplicate, 429, "in-flight", Some("1"));
    let mut same = sent(&running.to(world.other()));
    waits(&world.gateways, 2);
    stock.open("twice");
    let first = holder.response();
    executed(&first, 1);
    replays(&same.response(), &first);
    executed(&waiting.response(), 1);
    assert_eq!(stock.takings("twice").len(), 2);
}

#[test]
fn a_killed_holder_lets_the_next_in_after_its_lease_and_its_late_write_is_refused_by_its_smaller_fence() {
    let (world, stock) = shop(100, WORK);
    let _holder = held(&stock, &take(world.gateways[0].addr(), "/stock/killed", "k1"), "killed", 1);
    let mut next = sent(&take(world.other(), "/stock/killed", "k2"));
    waits(&world.gateways[1..], 1);
    world.gateways[0].kill();
    executed(&next.response(), 1);
    stock.open("killed");
    stock.wait_for("killed", 2);
    let takings = stock.takings("killed");
    assert_eq!((takings[0].status, takings[1].status), (201, 412), "{takings:?}");
    assert!(takings[1].fence < takings[0].fence, "{takings:?}");
    assert_eq!(stock.left("killed"), Some(99));
}

#[test]
fn after_redis_has_lost_everything_the_next_fence_is_larger_still() {
    let (world, stock) = shop(100, WORK);
    for (n, gateway) in world.gateways.iter().enumerate() {
        executed(&take(gateway.addr(), "/stock/flushed", &format!("k{n}")).body("one").send(), 1);
        world.redis.ask(&["FLUSHALL"]);
    }
    executed(&take(world.other(), "/stock/flushed", "k3").body("one").send(), 1);
    let takings = stock.takings("flushed");
    assert_eq!(takings.len(), 3);
    took_turns(&takings);
}

#[test]
fn after_a_restart_of_envoy_the_next_fence_of_the_embedded_store_is_larger_still() {
    let stock = Stock::start(100, WORK);
    let mut gateway = corner_shop(&stock);
    for n in 0..3 {
        executed(&take(gateway.addr(), "/stock/restarted", &format!("k{n}")).body("one").send(), 1);
        gateway.kill();
        gateway.restart();
    }
    let takings = stock.takings("restarted");
    assert_eq!(takings.len(), 3);
    took_turns(&takings);
}

#[test]
fn what_runs_longer_than_its_lease_keeps_its_lock() {
    let (world, stock) = shop(100, WORK);
    let mut holder = held(&stock, &take(world.gateways[0].addr(), "/stock/long", "k1"), "long", 1);
    let mut next = sent(&take(world.other(), "/stock/long", "k2"));
    waits(&world.gateways, 1);
    assert!(next.is_silent_for(Duration::from_millis(3 * LEASE_MS)));
    stock.open("long");
    executed(&holder.response(), 1);
    executed(&next.response(), 1);
    took_turns(&stock.takings("long"));
    assert_eq!(world.counted("lock_lost"), 0);
}

#[test]
fn after_an_unknown_outcome_the_lock_stands_until_its_lease_is_over() {
    let (world, stock) = shop(100, WORK);
    let holder = held(&stock, &take(world.gateways[0].addr(), "/stock/unknown", "k1"), "unknown", 1);
    holder.reset();
    wait_until("the outcome is unknown", PATIENCE, || world.counted("unknown") == 1);
    refused(&take(world.other(), "/brief/unknown", "k2").body("one").send(), 429, "resource-busy", Some("1"));
    let next = take(world.other(), "/stock/unknown", "k3").body("one").send();
    executed(&next, 1);
    stock.open("unknown");
    stock.wait_for("unknown", 2);
    let takings = stock.takings("unknown");
    assert_eq!((takings[0].status, takings[1].status), (201, 412), "{takings:?}");
    assert!(takings[1].fence < takings[0].fence);
    // The operation itself is taken over, and waits for its turn as any other.
    executed(&take(world.other(), "/stock/unknown", "k1").body("one").send(), 2);
}

#[test]
fn under_hold_what_may_have_run_never_asks_for_the_lock_again() {
    let (world, stock) = shop(100, WORK);
    held(&stock, &take(world.gateways[0].addr(), "/hold/kept", "k1"), "kept", 1).reset();
    wait_until("the outcome is unknown", PATIENCE, || world.counted("unknown") == 1);
    executed(&take(world.other(), "/stock/kept", "k2").body("one").send(), 1);
    let held = take(world.other(), "/hold/kept", "k1").body("one").send();
    assert!(is_refusal(&held, "outcome-unknown"), "{}", shown(&held));
    stock.open("kept");
}

#[test]
fn a_client_that_does_not_wait_for_the_store_leaves_the_lock_to_the_next_all_the_same() {
    let (world, stock) = shop(100, WORK);
    for n in 0..10 {
        let answer = take(world.gateways[n % 2].addr(), "/after/reply", &format!("k{n}")).body("one").send();
        assert_eq!(answer.status, 201, "{}", shown(&answer));
    }
    took_turns(&stock.takings("reply"));
}

#[test]
fn shielded_a_holder_whose_client_has_gone_keeps_its_turn_until_it_has_its_answer() {
    let (world, stock) = shop(100, WORK);
    let first = take(world.gateways[0].addr(), "/shielded/turn", "k1");
    held(&stock, &first, "turn", 1).reset();
    let mut next = sent(&take(world.other(), "/shielded/turn", "k2"));
    waits(&world.gateways, 1);
    stock.open("turn");
    executed(&next.response(), 1);
    let again = first.body("one").send();
    assert_eq!((again.status, again.header("idempotent-replayed")), (201, Some("true")), "{}", shown(&again));
    took_turns(&stock.takings("turn"));
}

#[test]
fn shielded_a_client_that_goes_while_it_waits_is_not_executed() {
    let (world, stock) = shop(100, WORK);
    let mut holder = held(&stock, &take(world.gateways[0].addr(), "/shielded/left", "k1"), "left", 1);
    let waiter = sent(&take(world.other(), "/shielded/left", "k2"));
    waits(&world.gateways, 1);
    waiter.reset();
    waits(&world.gateways, 0);
    stock.open("left");
    executed(&holder.response(), 1);
    executed(&take(world.other(), "/stock/left", "k3").body("one").send(), 1);
    assert_eq!(stock.takings("left").len(), 2);
}

#[test]
fn a_trial_takes_no_lock_and_tells_the_service_no_fence() {
    let (world, stock) = shop(100, WORK);
    let mut first = held(&stock, &take(world.gateways[0].addr(), "/observe/tried", "k1"), "tried", 1);
    let mut second = held(&stock, &take(world.other(), "/observe/tried", "k2"), "tried", 2);
    stock.open("tried");
    assert_eq!((first.response().status, second.response().status), (201, 201));
    assert!(stock.takings("tried").iter().all(|taking| taking.fence.is_none()));
}

#[test]
fn a_configuration_that_is_replaced_while_one_runs_and_one_waits_lets_both_have_their_turn() {
    let stock = Stock::start(100, WORK);
    let mut document = document();
    document["store"] = json!({});
    let options = Options::new(stock.addr()).lds().configuration(document.clone()).mutate(behind(stock.addr()));
    let gateways = [Gateway::start(options)];
    let mut holder = held(&stock, &take(gateways[0].addr(), "/stock/new", "k1"), "new", 1);
    let mut waiter = sent(&take(gateways[0].addr(), "/stock/new", "k2"));
    waits(&gateways, 1);
    document["policy"]["max_request_bytes"] = json!(1000);
    gateways[0].update_plugin_config(&document).expect("the new configuration is right");
    let mut after = sent(&take(gateways[0].addr(), "/stock/new", "k3"));
    waits(&gateways, 2);
    stock.open("new");
    for connection in [&mut holder, &mut waiter, &mut after] {
        executed(&connection.response(), 1);
    }
    took_turns(&stock.takings("new"));
}

#[test]
fn a_store_that_fails_at_the_lock_refuses_and_leaves_the_key_free() {
    let (world, stock) = shop(100, WORK);
    let mut holder = held(&stock, &take(world.gateways[0].addr(), "/stock/broken", "k1"), "broken", 1);
    // What stands under the lock's name is no lock from now on.
    let is_lock = |key: &Vec<u8>| world.redis.get(key).is_some_and(|value| value.starts_with(&[2, 1]));
    let lock = world.redis.keys().into_iter().find(is_lock).expect("the lock is there");
    let whole = world.redis.get(&lock).expect("the lock is there");
    world.redis.ask(&[b"SET".as_slice(), &lock, b"nonsense"]);
    refused(&take(world.other(), "/stock/broken", "k2").body("one").send(), 503, "store-unavailable", Some("1"));
    world.redis.ask(&[b"SET".as_slice(), &lock, &whole]);
    stock.open("broken");
    executed(&holder.response(), 1);
    let again = take(world.other(), "/stock/broken", "k2").body("two").send();
    assert_eq!(again.status, 201, "{}", shown(&again));
}

#[test]
fn requests_of_rules_without_a_lock_ask_the_store_for_what_they_always_did() {
    let (world, _) = shop(100, WORK);
    let operations = || (world.counted("store_operations"), world.counted("lock_waits"));
    let before = operations();
    let free = take(world.gateways[0].addr(), "/free/counted", "k1").body("one");
    executed(&free.send(), 1);
    wait_until("the claim and the completion are counted", PATIENCE, || operations().0 >= before.0 + 2);
    replays(&free.clone().to(world.other()).send(), &free.send());
    // The other gateway asks once, and the first remembers.
    assert_eq!(operations(), (before.0 + 3, before.1));
    let locked = take(world.gateways[0].addr(), "/stock/counted", "k1").body("one");
    executed(&locked.send(), 1);
    wait_until("claim, lock, completion and unlock are counted", PATIENCE, || operations().0 == before.0 + 7);
}
