//! The files under `envoy/presets`, each put into a shipped Envoy configuration and played through.
//!
//! Its one rule: the documents are those of the files, with nothing added.
//! It does not know what the fields mean.

use harness::gateway::shipped;
use harness::{Dialect, Gateway, Ledger, Options, Redis, Request, Response, World, send_all};
use serde_json::{Value, json};

use crate::check::{executed, not_stored, refused, replays, said};
use crate::shielded_redis::add_shielding;
use crate::worlds::start;

/// The document of a preset, as text.
pub fn document(preset: &str) -> Value {
    let filters = shipped(&format!("presets/{preset}.yaml")).expect("the file can be read");
    let config = &filters[0]["typed_config"]["config"];
    assert_eq!(config["allow_on_headers_stop_iteration"], json!(true), "{preset}");
    assert_eq!(config["failure_policy"], json!("FAIL_RELOAD"), "{preset}");
    config["configuration"]["value"].clone()
}

/// The document of a preset in one of the shipped files.
pub fn world(preset: &str, file: &'static str) -> World {
    let ledger = Ledger::start();
    let options = Options::file(file, ledger.addr()).configuration(document(preset));
    World { gateway: Gateway::start(options), ledger }
}

#[test]
fn payments_are_kept_for_the_subject_held_when_in_doubt_and_survive_their_client() {
    let (ledger, redis) = (Ledger::start(), Redis::start());
    let options = Options::speaking(Dialect::Resp, ledger.addr(), redis.addr()).mutate(add_shielding);
    let gateway = Gateway::start(options.configuration(document("payments")));
    let world = World { gateway, ledger };
    let pay = |body: &str| {
        let request = world.post("/v1/payments").key("\"order-1\"").header("content-type", "application/json");
        request.header("authorization", "Bearer e30.eyJzdWIiOiJhbGljZSJ9.sig").body(body)
    };
    // The client hangs up while the service works, and its retry gets the answer all the same.
    let client = start(&world, &pay(""), r#"{"amount": 10, "to": "bob"}"#, "payment");
    drop(client);
    world.ledger.open("payment");
    let retry = || pay(r#"{"to":"bob","amount":10.0}"#).send();
    let mut answer = retry();
    while answer.status == 409 {
        refused(&answer, 409, "in-flight", Some("1"));
        answer = retry();
    }
    assert!(said(&answer).starts_with("replayed;attempt=1;"), "{}", said(&answer));
    assert_eq!(answer.status, 201);
    refused(&pay(r#"{"to":"bob","amount":11}"#).send(), 422, "mismatch", None);
    assert_eq!(world.ledger.entries_for("/v1/payments").len(), 1);
    let look = world.request("GET", "/.well-known/idempotency?method=POST&path=/v1/payments").key("order-1");
    let seen = look.header("authorization", "Bearer e30.eyJzdWIiOiJhbGljZSJ9.other").send();
    assert_eq!((seen.status, &seen.json()["state"]), (200, &json!("completed")));

    let keyless = world.post("/v1/payments").header("authorization", "Bearer e30.eyJzdWIiOiJhbGljZSJ9.sig").body("{}");
    refused(&keyless.send(), 400, "key-missing", None);
    refused(&world.post("/v1/payments").key("k").body("{}").send(), 401, "caller-missing", None);
    let other =
        world.post("/v1/payments").key("order-2").header("authorization", "Bearer e30.eyJzdWIiOiJhbGljZSJ9.sig");
    let other = other.header("x-test-status", "503").body("{}");
    not_stored(&other.send(), 503, 1, "unknown");
    refused(&other.send(), 409, "outcome-unknown", None);
}

#[test]
fn a_form_posted_twice_gets_the_page_of_the_first() {
    let world = world("form-post", "shielded.yaml");
    let post = |token: &str, sid: &str| {
        let request = world.post("/checkout/pay").header("content-type", "application/x-www-form-urlencoded");
        request.header("cookie", format!("theme=dark; sid={sid}")).body(format!("amount=10&checkout_token={token}"))
    };
    let clicks: Vec<_> = (0..4).map(|_| post("t1", "me")).collect();
    let pages = send_all(&clicks);
    assert_eq!(world.ledger.entries_for("/checkout/pay").len(), 1);
    assert!(pages.iter().all(|page| (page.status, &page.body) == (201, &pages[0].body)));
    // A browser that is clicked again aborts the first navigation before it sends the second.
    let (click, gate) = (post("t3", "me"), "second-click");
    drop(start(&world, &click, "amount=10&checkout_token=t3", gate));
    let page = send_once_it_waits(&world, &click, gate);
    assert!(said(&page).starts_with("replayed;attempt=1;"), "{}", said(&page));
    assert_eq!((page.status, world.ledger.entries_for("/checkout/pay").len()), (201, 2));
    let anew = post("t2", "me").send();
    assert!(said(&anew).starts_with("executed;stored=?1;attempt=1;"), "{}", said(&anew));
    let somebody_else = post("t1", "you").send();
    assert!(said(&somebody_else).starts_with("executed;stored=?1;attempt=1;"), "{}", said(&somebody_else));
}

#[test]
fn an_event_delivered_twice_is_taken_once_in_both_modes() {
    let world = world("webhooks", "local.yaml");
    let binary = |id: &str, time: &str| {
        let request = world.post("/hooks/orders").header("ce-source", "/shop").header("ce-id", id);
        request.header("ce-time", time).header("content-type", "application/json").body(r#"{"order":7}"#).send()
    };
    let first = binary("e-1", "12:00");
    assert!(said(&first).starts_with("executed;stored=?1;attempt=1;"), "{}", said(&first));
    assert!(said(&binary("e-1", "12:05")).starts_with("replayed;attempt=1;"));
    assert!(said(&binary("e-2", "12:00")).starts_with("executed;"));
    let structured = |time: &str, order: u32| {
        let event =
            json!({ "source": "/shop", "id": "e-3", "time": time, "traceparent": time, "data": { "order": order } });
        let request = world.post("/hooks/orders").header("content-type", "application/cloudevents+json");
        request.body(event.to_string()).send()
    };
    assert!(said(&structured("12:00", 7)).starts_with("executed;"));
    assert!(said(&structured("12:05", 7)).starts_with("replayed;"));
    refused(&structured("12:05", 8), 400, "mismatch", None);
    assert_eq!(world.ledger.entries_for("/hooks/orders").len(), 3);
}

#[test]
fn an_event_in_both_modes_is_one_where_only_its_source_and_id_count() {
    let deliver = |world: &World, structured: bool| {
        let request = world.post("/hooks/orders").anonymous();
        let event = json!({ "specversion": "1.0", "source": "/shop", "id": "e-1", "data": { "order": 7 } });
        match structured {
            true => request.header("content-type", "application/cloudevents+json").body(event.to_string()).send(),
            false => {
                let request = request.header("ce-source", "/shop").header("ce-id", "e-1");
                request.header("content-type", "application/json").body(event["data"].to_string()).send()
            }
        }
    };
    let shipped = world("webhooks", "local.yaml");
    assert!(said(&deliver(&shipped, false)).starts_with("executed;"));
    refused(&deliver(&shipped, true), 400, "mismatch", None);

    let mut preset: Value = serde_json::from_str(document("webhooks").as_str().unwrap()).unwrap();
    preset["rules"][0]["policy"]["fingerprint"] = json!({ "body": "off", "query": false, "headers": [] });
    let tolerant = World::start(preset);
    let first = deliver(&tolerant, false);
    assert!(said(&first).starts_with("executed;"));
    let again = deliver(&tolerant, true);
    assert!(said(&again).starts_with("replayed;"), "{}", said(&again));
    assert_eq!((again.body, tolerant.ledger.entries().len()), (first.body, 1));
}

#[test]
fn an_order_takes_an_article_once() {
    let world = world("order-line", "local.yaml");
    let add = |line: Value| {
        world.post("/v1/order-lines").header("content-type", "application/json").body(line.to_string()).send()
    };
    let first = add(json!({ "order_id": "o-1", "sku": "a-7", "quantity": 2 }));
    assert!(said(&first).starts_with("executed;stored=?1;attempt=1;"), "{}", said(&first));
    assert!(said(&add(json!({ "quantity": 2.0, "sku": "a-7", "order_id": "o-1" }))).starts_with("replayed;"));
    refused(&add(json!({ "order_id": "o-1", "sku": "a-7", "quantity": 3 })), 409, "mismatch", None);
    assert!(said(&add(json!({ "order_id": "o-1", "sku": "a-8", "quantity": 2 }))).starts_with("executed;"));
    refused(&add(json!({ "order_id": "o-1" })), 400, "key-missing", None);
}

#[test]
fn a_client_without_keys_that_repeats_itself_is_answered_once_executed() {
    let world = world("legacy", "shielded.yaml");
    let buy = |body: &str| world.post("/api/orders").header("authorization", "me").body(body);
    let clicks: Vec<_> = (0..4).map(|_| buy("one book")).collect();
    let answers = send_all(&clicks);
    assert!(answers.iter().all(|answer| (answer.status, &answer.body) == (201, &answers[0].body)));
    buy("two books").send();
    assert_eq!(world.ledger.entries_for("/api/orders").len(), 2);
    // A browser's second click, which aborts the first.
    let (click, gate) = (buy("three books"), "third-book");
    drop(start(&world, &click, "three books", gate));
    let again = send_once_it_waits(&world, &click, gate);
    assert!(said(&again).starts_with("replayed;attempt=1;"), "{}", said(&again));
    assert_eq!(world.ledger.entries_for("/api/orders").len(), 3);
    // A client that brings a key is better off.
    let keyed = || buy("one book").key("k").send();
    let first = keyed();
    executed(&first, 1);
    replays(&keyed(), &first);
}

/// Sends a duplicate, opens the gate once it waits, and returns its answer.
pub fn send_once_it_waits(world: &World, duplicate: &Request, gate: &str) -> Response {
    let mut connection = duplicate.open();
    connection.write(duplicate.body_bytes());
    world.gateway.wait_for_stat("wasmcustom.idempotency_waiting", 1);
    world.ledger.open(gate);
    connection.response()
}

/// A preset on Redis, with the internal listener that it may name.
fn on_redis(preset: &str) -> (World, Redis) {
    let (ledger, redis) = (Ledger::start(), Redis::start());
    let options = Options::speaking(Dialect::Resp, ledger.addr(), redis.addr()).mutate(add_shielding);
    let gateway = Gateway::start(options.configuration(document(preset)));
    (World { gateway, ledger }, redis)
}

/// Two keys for one thing have turns, a third for another has not, and the fences grow.
#[track_caller]
fn have_turns(world: &World, first: &Request, second: &Request, other: &Request) {
    let mut holder = first.open();
    holder.write(first.body_bytes());
    world.ledger.wait_for_held(1);
    let mut next = second.open();
    next.write(second.body_bytes());
    world.gateway.wait_for_stat("wasmcustom.idempotency_waiting", 1);
    assert_eq!(other.send().status, 201);
    assert_eq!(world.ledger.entries().len(), 2);
    world.ledger.open("turn");
    assert_eq!((holder.response().status, next.response().status), (201, 201));
    let entries = world.ledger.entries();
    let fence = |place: usize| entries[place].header("idempotency-fence").and_then(|text| text.parse::<u64>().ok());
    assert!(fence(0).is_some() && fence(0) < fence(2), "{:?} {:?}", fence(0), fence(2));
}

#[test]
fn reservations_of_one_article_have_turns() {
    let (world, _redis) = on_redis("inventory");
    let reserve = |key: &str, sku: &str| {
        let request = world.post("/v1/reservations").key(key).header("content-type", "application/json");
        request.body(json!({ "sku": sku, "amount": 1 }).to_string())
    };
    let first = reserve("k1", "a-7").header("x-test-hold", "turn");
    have_turns(&world, &first, &reserve("k2", "a-7"), &reserve("k3", "a-8"));
    refused(&reserve("k4", "").send(), 400, "key-invalid", None);
}

#[test]
fn transfers_of_one_account_have_turns_and_one_that_may_have_run_is_held() {
    let (world, _redis) = on_redis("accounts");
    let transfer = |key: &str, account: &str| {
        world.post(&format!("/v1/accounts/{account}/transfers")).key(key).body(r#"{"amount": 10}"#)
    };
    let first = transfer("k1", "42").header("x-test-hold", "turn");
    have_turns(&world, &first, &transfer("k2", "42"), &transfer("k3", "43"));
    let doubtful = transfer("k4", "44").header("x-test-status", "503");
    not_stored(&doubtful.send(), 503, 1, "unknown");
    refused(&doubtful.send(), 409, "outcome-unknown", None);
}
