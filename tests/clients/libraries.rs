//! Libraries of Python and Node that repeat by themselves, and whose answers get lost.
//!
//! Its one rule: a test says what the library repeats, by the calls that came, and what the service executed.
//! It does not know what a library sends besides.

use harness::Fault;
use harness::Fault::{CutAfter, CutBefore, CutInside, Pass, Slice};
use serde_json::{Value, json};

use crate::scene::{Scene, in_the_form_of_stripe, rules};

const STRIPE_PYTHON: &str = "python/stripe_charge.py";
const STRIPE_NODE: &str = "node/stripe_charge.js";
const URLLIB3: &str = "python/urllib3_retry.py";
const AIOHTTP: &str = "python/aiohttp_reused.py";
const AXIOS: &str = "node/axios_retry.js";

/// What may become of the first calls, and a word for it.
type Loss<'a> = (&'a str, &'a [Fault]);

const WHOLE: [Loss; 4] =
    [("nothing", &[Slice]), ("request", &[CutBefore]), ("answer", &[CutAfter]), ("two_answers", &[CutAfter, CutAfter])];
const HALF: Loss = ("half_an_answer", &[CutInside]);

/// The client saw an answer that had been lost before.
#[track_caller]
fn replayed(seen: &Value) {
    assert_eq!(seen["status"], json!(201), "{seen}");
    assert!(seen["said"].as_str().is_some_and(|said| said.starts_with("replayed;attempt=1;")), "{seen}");
}

/// The client saw what it gets where nothing is lost.
#[track_caller]
fn executed(seen: &Value) {
    assert_eq!(seen["status"], json!(201), "{seen}");
    assert!(seen["said"].as_str().is_some_and(|said| said.starts_with("executed;stored=?1;attempt=1;")), "{seen}");
}

/// The client made do with an error.
#[track_caller]
fn failed(seen: &Value, error: &str) {
    assert_eq!(seen["error"], json!(error), "{seen}");
}

/// After each of these losses the client repeats by itself, and gets the answer of the only execution.
#[track_caller]
fn survives(script: &str, options: &Value, losses: &[Loss]) {
    for (loss, faults) in losses {
        let scene = Scene::new(rules(), faults);
        let seen = scene.play(script, options.clone());
        match faults.iter().any(|fault| matches!(fault, CutAfter | CutInside)) {
            true => replayed(&seen),
            false => executed(&seen),
        }
        scene.executed_once(&seen["id"]);
        let lost = faults.iter().filter(|fault| !matches!(fault, Pass | Slice)).count();
        assert_eq!(scene.way.calls(), lost + 1, "{loss}: {seen}");
    }
}

/// After this loss the client repeats nothing and fails so; called once more with its key, it gets the answer of the only
/// execution.
#[track_caller]
fn survives_when_called_again(script: &str, options: &Value, (_, faults): Loss, error: &str) {
    let scene = Scene::new(rules(), faults);
    failed(&scene.play(script, options.clone()), error);
    assert_eq!(scene.way.calls(), faults.len(), "nothing is repeated");
    let seen = scene.play(script, options.clone());
    replayed(&seen);
    scene.executed_once(&seen["id"]);
}

#[test]
fn stripe_for_python_charges_once_and_does_not_repeat_after_half_an_answer() {
    survives(STRIPE_PYTHON, &json!({ "resource": "charges" }), &WHOLE);
    let keyed = json!({ "resource": "charges", "key": "k" });
    survives_when_called_again(STRIPE_PYTHON, &keyed, HALF, "APIConnectionError");
}

#[test]
fn stripe_for_node_charges_once_and_does_not_repeat_after_half_an_answer() {
    survives(STRIPE_NODE, &json!({ "resource": "charges" }), &WHOLE);
    survives_when_called_again(STRIPE_NODE, &json!({ "resource": "charges", "key": "k" }), HALF, "StripeAPIError");
}

/// The service takes longer than the client waits: the retry finds the first call running.
#[test]
fn stripe_that_times_out_comes_again_until_the_answer_is_there() {
    rules().ledger.steer("/v1/refunds", &[("x-test-delay-ms", "1500")]);
    for script in [STRIPE_PYTHON, STRIPE_NODE] {
        let scene = Scene::new(rules(), &[]);
        let seen = scene.play(script, json!({ "resource": "refunds", "timeout_ms": 1000 }));
        replayed(&seen);
        scene.executed_once(&seen["id"]);
    }
}

/// Stripe's own errors stand in a member `error`. For want of it one library says that it does not understand, and the
/// other takes the problem for the charge.
#[test]
fn stripe_does_not_understand_a_refusal() {
    let scene = Scene::new(rules(), &[]);
    let [first, refused] = charges_under_one_key(&scene, STRIPE_PYTHON);
    executed(&first);
    failed(&refused, "APIError");
    assert_eq!((&refused["status"], scene.executions().len()), (&json!(400), 1), "{refused}");
    let scene = Scene::new(rules(), &[]);
    let [first, taken] = charges_under_one_key(&scene, STRIPE_NODE);
    executed(&first);
    assert_eq!(taken, json!({ "status": 400, "said": "refused;reason=mismatch" }));
    assert_eq!(scene.executions().len(), 1);
}

#[test]
fn stripe_understands_a_refusal_in_the_form_of_its_errors() {
    for (script, error) in [(STRIPE_PYTHON, "IdempotencyError"), (STRIPE_NODE, "StripeIdempotencyError")] {
        let scene = Scene::new(in_the_form_of_stripe(), &[CutAfter]);
        let [first, refused] = charges_under_one_key(&scene, script);
        replayed(&first);
        failed(&refused, error);
        assert_eq!((&refused["status"], scene.executions().len()), (&json!(400), 1), "{refused}");
        assert!(refused["message"].as_str().is_some_and(|text| text.contains("another payload")), "{refused}");
    }
}

/// The libraries take 429 for a limit of their account; of the gateway's statuses they repeat 409 and 503.
#[test]
fn stripe_takes_the_classic_in_flight_for_a_rate_limit() {
    let ledger = &in_the_form_of_stripe().ledger;
    ledger.steer("/v1/payouts", &[("x-test-hold", "payouts")]);
    for (script, error) in [(STRIPE_PYTHON, "RateLimitError"), (STRIPE_NODE, "StripeRateLimitError")] {
        let scene = Scene::new(in_the_form_of_stripe(), &[]);
        let seen = scene.play(script, json!({ "resource": "payouts", "timeout_ms": 1000 }));
        failed(&seen, error);
        assert_eq!((scene.way.calls(), scene.executions().len()), (2, 1));
    }
    ledger.open("payouts");
}

/// Two amounts under one key: what the library makes of each.
fn charges_under_one_key(scene: &Scene, script: &str) -> [Value; 2] {
    [10, 11].map(|amount| scene.play(script, json!({ "resource": "customers", "amount": amount, "key": "k" })))
}

#[test]
fn urllib3_that_may_repeat_post_pays_once() {
    let options = json!({ "path": "/urllib3", "may_repeat_post": true });
    survives(URLLIB3, &options, &WHOLE);
    survives(URLLIB3, &options, &[HALF]);
}

#[test]
fn urllib3_as_it_comes_repeats_no_post() {
    let options = json!({ "path": "/urllib3", "may_repeat_post": false });
    survives_when_called_again(URLLIB3, &options, ("answer", &[CutAfter]), "ProtocolError");
}

/// It waits as `Retry-After` says.
#[test]
fn urllib3_that_times_out_comes_again_until_the_answer_is_there() {
    rules().ledger.steer("/shielded/urllib3", &[("x-test-delay-ms", "1500")]);
    let scene = Scene::new(rules(), &[]);
    let seen = scene.play(URLLIB3, json!({ "path": "/shielded/urllib3", "may_repeat_post": true, "timeout_ms": 1000 }));
    replayed(&seen);
    scene.executed_once(&seen["id"]);
}

#[test]
fn aiohttp_repeats_a_put_on_a_used_connection_in_silence() {
    let put = json!({ "path": "/aiohttp", "method": "PUT" });
    let scene = Scene::new(rules(), &[Pass, CutAfter]);
    let seen = scene.play(AIOHTTP, put);
    replayed(&seen);
    scene.executed_once(&seen["id"]);
    assert_eq!(scene.way.calls(), 3);
}

#[test]
fn aiohttp_repeats_no_post() {
    let post = json!({ "path": "/aiohttp", "method": "POST" });
    survives_when_called_again(AIOHTTP, &post, ("answer", &[Pass, CutAfter]), "ServerDisconnectedError");
}

#[test]
fn axios_retry_pays_once_and_does_not_repeat_after_half_an_answer() {
    let options = json!({ "path": "/axios", "key": "order-1" });
    survives(AXIOS, &options, &WHOLE);
    survives_when_called_again(AXIOS, &options, HALF, "ERR_BAD_RESPONSE");
}

#[test]
fn axios_retry_without_a_key_pays_once_where_the_content_is_the_key() {
    survives(AXIOS, &json!({ "path": "/content/axios" }), &WHOLE);
}

#[test]
fn axios_retry_without_a_key_pays_twice_and_the_answer_says_why() {
    let scene = Scene::new(rules(), &[CutAfter]);
    let seen = scene.play(AXIOS, json!({ "path": "/axios" }));
    assert_eq!(seen["said"], json!("bypassed;reason=no-key"));
    assert_eq!(scene.executions().len(), 2);
}
