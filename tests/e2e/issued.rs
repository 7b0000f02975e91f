//! Keys that the gateway issues.
//!
//! Its one rule: a key is taken from what a gateway has answered, and never made here.
//! It does not know what a key is made of.

use std::sync::LazyLock;

use harness::{PATIENCE, Redis, Request, Response, SharedWorld, World, wait_until};
use serde_json::{Value, json};

use crate::check::{executed, parameter, refused, replays, said, shown};
use crate::worlds::{Shared, rule};

const AT: &str = "/.well-known/idempotency";
const SECRET: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
const NEW_SECRET: &str = "ZmVkY2JhOTg3NjU0MzIxMGZlZGNiYTk4NzY1NDMyMTA=";

fn world() -> Shared {
    static WORLD: LazyLock<World> = LazyLock::new(|| World::start(document(json!([old()]))));
    Shared::new(&WORLD)
}

/// Rules of which `/pay/` and `/refund/` take issued keys only.
fn document(issuing: Value) -> Value {
    let required = json!({ "key": { "required": true, "issued": "required" } });
    let named = |name: &str, rule: Value| {
        let mut rule = rule;
        rule["name"] = json!(name);
        rule
    };
    json!({
        "status_path": AT,
        "issue_path": AT,
        "secrets": { "issuing": issuing },
        "policy": { "ttl_s": 1800, "lease_ms": 1000 },
        "rules": [
            named("pay", rule("/pay/", required.clone())),
            named("refund", rule("/refund/", required)),
            named("any", rule("/any/", json!({}))),
            named("by-body", rule("/by-body/", json!({ "scope": { "caller": [{ "json": "/account" }] } }))),
            named("pair", rule("/pair/", json!({ "key": { "sources": [{ "header": "a" }, { "header": "b" }] } }))),
            named("short", rule("/short/", json!({ "key": { "max_bytes": 75 } }))),
            named("known", rule("/known/", json!({ "scope": { "anonymous": "refuse" } }))),
            named("inject", rule("/inject/", json!({ "mode": "inject" }))),
            named("share", rule("/share/", json!({ "scope": { "anonymous": "share" } }))),
            named("body-key", rule("/body-key/", json!({ "key": { "issued": "required", "sources": [{ "json": "/key" }] } }))),
        ],
    })
}

fn old() -> Value {
    json!({ "id": "old", "key": SECRET })
}

fn new() -> Value {
    json!({ "id": "new", "key": NEW_SECRET })
}

/// Where to ask for a key.
fn ask(path: &str) -> String {
    format!("{AT}?method=POST&path={path}")
}

#[track_caller]
fn key_of(answer: &Response, expires_in: u64) -> String {
    let body = answer.json();
    assert_eq!(answer.status, 201, "{}", shown(answer));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let key = body["key"].as_str().expect("a key is a string").to_owned();
    assert_eq!(body, json!({ "key": key, "expires_in": expires_in }));
    key
}

#[track_caller]
fn is_invalid(answer: &Response, why: &str) {
    refused(answer, 400, "key-invalid", None);
    let detail = answer.json()["detail"].as_str().unwrap_or_default().to_owned();
    assert!(detail.contains(why), "{detail}");
}

#[test]
fn a_key_is_issued_to_a_caller_under_a_rule_and_counts_there_alone() {
    let world = world();
    let pay = world.post("/pay/alone").body("ten");
    let answer = world.post(&ask("/pay/alone")).send();
    let key = key_of(&answer, 1800);
    assert_eq!((key.len(), said(&answer)), (76, ""));
    let first = pay.clone().key(&key).send();
    executed(&first, 1);
    replays(&pay.clone().key(format!("\"{key}\"")).send(), &first);
    refused(&pay.clone().key(&key).body("twenty").send(), 409, "mismatch", None);

    is_invalid(&pay.clone().key(&key).header("authorization", "Bearer bob").send(), "another caller");
    is_invalid(&world.post("/refund/alone").key(&key).body("ten").send(), "another rule");
    is_invalid(&pay.clone().key("order-1001").send(), "this is none");
    let altered = if key.ends_with('A') { "B" } else { "A" };
    is_invalid(&pay.clone().key([&key[..75], altered].concat()).send(), "altered");
    refused(&pay.send(), 400, "key-missing", None);
    // Another is another operation.
    let other = key_of(&world.post(&ask("/pay/alone")).send(), 1800);
    executed(&world.post("/pay/alone").key(&other).body("ten").send(), 1);
    assert_eq!(world.ledger.entries_for("/pay/alone").len(), 2);
    assert_eq!(world.ledger.entries_for("/refund/alone").len(), 0);
    // Neither a key nor the question for one goes any further.
    assert_eq!(world.ledger.entries_for(AT).len(), 0);
}

#[test]
fn beside_issued_keys_any_other_counts_unless_they_are_required() {
    let world = world();
    let pay = world.post("/any/one").body("ten");
    let key = key_of(&world.post(&ask("/any/one")).send(), 1800);
    executed(&pay.clone().key(&key).send(), 1);
    executed(&pay.clone().key("order-1001").send(), 1);
    // To another it is a key like any.
    executed(&pay.key(&key).header("authorization", "Bearer bob").send(), 1);
}

#[test]
fn a_key_may_stand_where_the_rule_has_its_keys() {
    let world = world();
    let key = key_of(&world.post(&ask("/body-key/one")).send(), 1800);
    let pay = world.post("/body-key/one").body(format!(r#"{{"key": "{key}"}}"#));
    let first = pay.send();
    executed(&first, 1);
    replays(&pay.send(), &first);
    is_invalid(&world.post("/body-key/one").body(r#"{"key": "mine"}"#).send(), "this is none");
}

#[test]
fn without_a_caller_no_key_is_issued() {
    let world = world();
    let stranger = world.post(&ask("/any/stranger")).anonymous();
    for request in [stranger.clone(), stranger.header("cookie", "sid=1")] {
        let answer = request.send();
        assert_eq!(answer.status, 400, "{}", shown(&answer));
        assert!(answer.json()["detail"].as_str().is_some_and(|detail| detail.contains("caller")));
    }
    refused(&world.post(&ask("/pay/stranger")).anonymous().send(), 401, "caller-missing", None);
    refused(&world.post(&ask("/known/stranger")).anonymous().send(), 401, "caller-missing", None);
    // Those who share a scope share their keys.
    let key = key_of(&world.post(&ask("/share/stranger")).anonymous().send(), 1800);
    executed(&world.post("/share/stranger").anonymous().key(&key).body("ten").send(), 1);
}

#[test]
fn where_no_key_can_be_issued_the_answer_says_so() {
    let world = world();
    for (query, word) in [
        ("", "method"),
        ("method=POST", "path"),
        ("method=POST&path=/nowhere", "rule"),
        ("method=POST&path=/by-body/x", "No key is issued"),
        ("method=POST&path=/pair/x", "No key is issued"),
        ("method=POST&path=/short/x", "No key is issued"),
        ("method=POST&path=/inject/x", "No key is issued"),
    ] {
        let answer = world.post(&format!("{AT}?{query}")).send();
        let problem = answer.json();
        assert_eq!((answer.status, answer.header("content-type")), (400, Some("application/problem+json")), "{query}");
        assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains(word)), "{problem}");
    }
    // A body changes nothing, and goes nowhere.
    key_of(&world.post(&ask("/pay/with-body")).body("ten").send(), 1800);
    key_of(&world.post(&ask("/pay/with-body")).chunked(["t", "en"]).send(), 1800);
    assert_eq!(world.ledger.entries_for(AT).len(), 0);
}

#[test]
fn a_look_up_of_an_issued_key_without_a_record_says_how_long_it_may_begin() {
    let world = world();
    let look = |path: &str| world.request("GET", &format!("{AT}?method=POST&path={path}"));
    let key = key_of(&world.post(&ask("/pay/look")).send(), 1800);
    let absent = look("/pay/look").key(&key).send();
    let left = absent.json()["expires_in"].as_u64().unwrap_or_default();
    assert!((1700..=1800).contains(&left), "{}", shown(&absent));
    assert_eq!((absent.status, absent.json()), (404, json!({ "state": "absent", "issued": true, "expires_in": left })));
    executed(&world.post("/pay/look").key(&key).body("ten").send(), 1);
    let found = look("/pay/look").key(&key).send();
    assert_eq!((found.status, &found.json()["state"], found.json().get("issued")), (200, &json!("completed"), None));
    is_invalid(&look("/pay/look").key(&key).header("authorization", "Bearer bob").send(), "another caller");
    is_invalid(&look("/pay/look").key("order-1001").send(), "this is none");
    let any = look("/any/look").key("order-1001").send();
    assert_eq!((any.status, any.json()), (404, json!({ "state": "absent" })));
}

#[test]
fn an_expired_key_still_replays_what_it_made_and_begins_nothing() {
    let mut brief = document(json!([old()]));
    brief["issued_ttl_s"] = json!(8);
    let [embedded, shared] = [World::start(brief.clone()).into(), SharedWorld::start(brief).into()];
    for place in [embedded, shared] {
        let place: Place = place;
        let [used, spare] = ["/pay/used", "/pay/spare"].map(|path| key_of(&place.post(&ask(path)).send(), 8));
        let pay = place.post("/pay/used").key(&used).body("ten");
        let first = pay.send();
        assert!(said(&first).starts_with("executed;stored=?1;attempt=1;"), "{}", shown(&first));
        let look = place.request("GET", &format!("{AT}?method=POST&path=/pay/spare")).key(&spare);
        wait_until("the key has expired", PATIENCE, || look.send().json()["expires_in"] == 0);
        let again = pay.send();
        assert_eq!((again.status, &again.body), (first.status, &first.body), "{}", shown(&again));
        assert!(said(&again).starts_with("replayed;attempt=1;"), "{}", shown(&again));
        let late = place.post("/pay/spare").key(&spare).body("ten");
        is_invalid(&late.send(), "has expired");
        is_invalid(&late.send(), "has expired");
        refused(&pay.body("twenty").send(), 409, "mismatch", None);
        assert_eq!(place.executions(), 1);
    }
}

#[test]
fn on_redis_a_key_counts_at_every_gateway_and_after_a_restart_and_for_its_caller_alone() {
    let mut world = SharedWorld::start(document(json!([old()])));
    let keys = [1, 2].map(|_| key_of(&world.post(&ask("/pay/everywhere")).send(), 1800));
    let pay = |world: &SharedWorld, key: &str| world.post("/pay/everywhere").key(key).body("ten");
    let bob = |request: Request| request.header("authorization", "Bearer bob");
    let other = world.other();
    let first = pay(&world, &keys[0]).to(other).send();
    assert!(parameter(&first, "ttl") >= Some(1800), "{}", shown(&first));
    is_invalid(&bob(pay(&world, &keys[0])).to(other).send(), "another caller");
    world.gateways[0].restart();
    let again = pay(&world, &keys[0]).send();
    assert_eq!((said(&again).split(';').next(), &again.body), (Some("replayed"), &first.body), "{}", shown(&again));
    is_invalid(&bob(pay(&world, &keys[0])).send(), "another caller");
    is_invalid(&bob(pay(&world, &keys[1])).send(), "another caller");
    assert!(said(&pay(&world, &keys[1]).send()).starts_with("executed;"));
    assert_eq!(world.ledger.entries_for("/pay/everywhere").len(), 2);
}

#[test]
fn an_embedded_gateway_knows_its_keys_after_a_restart() {
    let mut world = World::start(document(json!([old()])));
    let key = key_of(&world.post(&ask("/pay/again")).send(), 1800);
    world.gateway.restart();
    let pay = world.post("/pay/again").key(&key).body("ten");
    is_invalid(&pay.clone().header("authorization", "Bearer bob").send(), "another caller");
    executed(&pay.send(), 1);
}

#[test]
fn a_key_outlives_the_rotation_of_the_secret_until_that_is_taken_away() {
    let before = document(json!([old()]));
    let [rotated, after] = [json!([new(), old()]), json!([new()])].map(document);
    let world = SharedWorld::with(Redis::start(), &[before, rotated, after], |options| options);
    let at = |gateway: usize| world.gateways[gateway].addr();
    let pay = |key: &str| world.post("/pay/rotated").key(key).body("ten");
    let [old, new] = [0, 1].map(|gateway| key_of(&world.post(&ask("/pay/rotated")).to(at(gateway)).send(), 1800));
    let first = pay(&old).to(at(1)).send();
    assert!(said(&first).starts_with("executed;"), "{}", shown(&first));
    for key in [&old, &new] {
        let stolen = pay(key).header("authorization", "Bearer bob").to(at(1)).send();
        is_invalid(&stolen, "another caller");
    }
    is_invalid(&pay(&new).send(), "altered");
    is_invalid(&pay(&old).to(at(2)).send(), "altered");
    assert!(said(&pay(&new).to(at(2)).send()).starts_with("executed;"));
    assert_eq!(world.ledger.entries_for("/pay/rotated").len(), 2);
}

/// Gateways and their service, on either store.
enum Place {
    Embedded(World),
    Shared(SharedWorld),
}

impl Place {
    fn post(&self, path: &str) -> Request {
        self.request("POST", path)
    }

    fn request(&self, method: &str, path: &str) -> Request {
        match self {
            Place::Embedded(world) => world.request(method, path),
            Place::Shared(world) => world.request(method, path),
        }
    }

    fn executions(&self) -> usize {
        match self {
            Place::Embedded(world) => world.ledger.entries().len(),
            Place::Shared(world) => world.ledger.entries().len(),
        }
    }
}

impl From<World> for Place {
    fn from(world: World) -> Self {
        Place::Embedded(world)
    }
}

impl From<SharedWorld> for Place {
    fn from(world: SharedWorld) -> Self {
        Place::Shared(world)
    }
}
