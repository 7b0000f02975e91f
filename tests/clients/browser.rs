//! A browser: what it repeats by itself, what people do with forms, and pages that pay as they are left.
//!
//! Its one rule: what counts is the page that a person sees in the end, and what the service executed.
//! It does not know how a browser is driven.

use std::sync::{Mutex, PoisonError};

use harness::Fault;
use harness::Fault::{CutAfter, CutInside, Pass};
use serde_json::{Value, json};

use crate::scene::{Scene, behind_cors, checkout, program, rules};

const URLENCODED: &str = "application/x-www-form-urlencoded";
const MULTIPART: &str = "multipart/form-data";

/// Plays an act on this page. What is planned meets posts alone: a browser gets pages and icons, and asks before it
/// calls elsewhere.
#[track_caller]
fn act(scene: &Scene, act: &str, page: &str, mut options: Value) -> Value {
    // A browser keeps more than one processor busy, and stories with people in them have times.
    static SCREEN: Mutex<()> = Mutex::new(());
    let _screen = SCREEN.lock().unwrap_or_else(PoisonError::into_inner);
    scene.way.only(b"POST ");
    for (name, value) in [("act", json!(act)), ("page", json!(page)), ("chromium", json!(program("chromium")))] {
        options[name] = value;
    }
    scene.play("node/browser.js", options)
}

/// A page with nothing but scripts.
fn bare(scene: &Scene, page: &str) {
    scene.world.ledger.show(page, &html(""));
}

fn html(body: &str) -> String {
    format!(r#"<!doctype html><link rel="icon" href="data:,"><title>Checkout</title>{body}"#)
}

/// A checkout of the preset: a page with a form, and the path to which it is posted.
struct Checkout {
    scene: Scene,
    page: String,
    action: String,
}

impl Checkout {
    /// The service takes so long for the payment; the first posts meet these faults.
    fn new(name: &str, enctype: &str, delay_ms: u32, faults: &[Fault]) -> Checkout {
        let scene = Scene::new(checkout(), faults);
        let (page, action) = (format!("/checkout/{name}"), format!("/checkout/{name}/pay"));
        let ledger = &scene.world.ledger;
        let token = format!(r#"<input type="hidden" name="checkout_token" value="token-{name}">"#);
        let form = format!(r#"<form method="post" action="{action}" enctype="{enctype}">{token}<button>Pay</button>"#);
        ledger.show(&page, &html(&form));
        ledger.steer(&action, &[("x-test-delay-ms", &delay_ms.to_string())]);
        Checkout { scene, page, action }
    }

    #[track_caller]
    fn act(&self, name: &str) -> Value {
        let options = json!({ "action": self.action, "session": self.page.replace('/', "-") });
        act(&self.scene, name, &self.page, options)
    }

    /// The service has taken one payment, and this is its page.
    #[track_caller]
    fn paid_once(&self, text: &Value) {
        let ledger = &self.scene.world.ledger;
        let payments = ledger.entries_for(&self.action);
        assert_eq!(payments.len(), 1);
        let at = ledger.entries().iter().position(|entry| entry.at == payments[0].at).unwrap();
        assert_eq!(*text, json!(format!(r#"{{"id":"pay_{}"}}"#, at + 1)));
    }
}

#[test]
fn a_post_is_repeated_by_the_browser_in_silence_and_executes_twice_without_a_key() {
    let scene = Scene::new(rules(), &[CutAfter]);
    bare(&scene, "/silent");
    let seen = act(&scene, "fetches", "/silent", json!({ "action": "/pay", "tries": 1 }));
    assert_eq!(seen["said"], json!("bypassed;reason=no-key"));
    assert_eq!((scene.way.calls(), scene.executions().len()), (2, 2));
}

#[test]
fn a_post_is_repeated_by_the_browser_in_silence_and_executes_once_with_a_key_or_by_its_content() {
    for (action, key) in [("/pay", json!("k")), ("/content/pay", Value::Null)] {
        let scene = Scene::new(rules(), &[CutAfter]);
        bare(&scene, "/silent");
        let seen = act(&scene, "fetches", "/silent", json!({ "action": action, "tries": 1, "key": key }));
        assert!(seen["said"].as_str().is_some_and(|said| said.starts_with("replayed;attempt=1;")), "{seen}");
        scene.executed_once(&seen["id"]);
        assert_eq!((&seen["attempt"], scene.way.calls()), (&json!(1), 2));
    }
}

#[test]
fn a_page_that_fetches_again_with_its_key_gets_the_answer() {
    for losses in [&[CutAfter, CutAfter, CutAfter][..], &[CutInside, CutInside]] {
        let scene = Scene::new(rules(), losses);
        bare(&scene, "/fetch");
        let seen = act(&scene, "fetches", "/fetch", json!({ "action": "/pay", "tries": 5, "key": "k" }));
        assert!(seen["said"].as_str().is_some_and(|said| said.starts_with("replayed;attempt=1;")), "{seen}");
        scene.executed_once(&seen["id"]);
        assert_eq!(scene.way.calls(), losses.len() + 1);
        assert!(seen["attempt"].as_u64() > Some(1), "{seen}");
    }
}

#[test]
fn a_page_that_pays_as_it_is_left_has_paid_once() {
    for losses in [&[][..], &[CutAfter], &[CutAfter, CutAfter, CutAfter]] {
        let scene = Scene::new(rules(), losses);
        bare(&scene, "/leave");
        let look_up = "/.well-known/idempotency?method=POST&path=/pay";
        let options = json!({ "action": "/pay", "tries": 6, "key": "k", "keepalive": true, "look_up": look_up });
        let seen = act(&scene, "leaves", "/leave", options);
        assert_eq!(seen["found"], json!("completed"), "{seen}");
        assert!(seen["said"].as_str().is_some_and(|said| said.starts_with("replayed;attempt=1;")), "{seen}");
        scene.executed_once(&seen["id"]);
    }
}

/// Without `keepalive` the browser ends the call with its page.
#[test]
fn a_call_that_ends_with_its_page_has_paid_once_where_it_is_shielded() {
    let scene = Scene::new(rules(), &[]);
    bare(&scene, "/leave");
    scene.world.ledger.steer("/shielded/left", &[("x-test-delay-ms", "800")]);
    let options = json!({ "action": "/shielded/left", "tries": 9, "key": "k", "keepalive": false });
    let seen = act(&scene, "leaves", "/leave", options);
    scene.executed_once(&seen["id"]);
}

/// A page of another origin pays twice under one key, the second time another amount, and the first answer is lost.
fn two_amounts_from_elsewhere(scene: &Scene, action: &str) -> [Value; 2] {
    bare(scene, "/elsewhere");
    let origin = format!("http://{}", scene.world.gateway.addr());
    [10, 11].map(|amount| {
        let options = json!({ "origin": origin, "action": action, "tries": 3, "key": "k", "amount": amount });
        act(scene, "fetches", "/elsewhere", options)
    })
}

#[test]
fn a_page_of_another_origin_reads_answers_and_refusals_behind_the_cors_filter() {
    let scene = Scene::new(behind_cors(), &[CutAfter]);
    let [paid, refused] = two_amounts_from_elsewhere(&scene, "/pay");
    assert!(paid["said"].as_str().is_some_and(|said| said.starts_with("replayed;attempt=1;")), "{paid}");
    scene.executed_once(&paid["id"]);
    assert_eq!((&refused["status"], &refused["said"]), (&json!(409), &json!("refused;reason=mismatch")), "{refused}");
}

/// The service's own fields let the page read what the service has said, first and again; refusals have none.
#[test]
fn a_page_of_another_origin_reads_no_refusal_where_only_the_service_speaks_of_origins() {
    let scene = Scene::new(rules(), &[CutAfter]);
    let fields = [
        "access-control-allow-origin: *",
        "access-control-allow-headers: authorization, content-type, idempotency-key",
    ];
    scene.world.ledger.steer("/exposed/pay", &fields.map(|field| ("x-test-header", field)));
    let [paid, refused] = two_amounts_from_elsewhere(&scene, "/exposed/pay");
    assert!(paid["said"].as_str().is_some_and(|said| said.starts_with("replayed;attempt=1;")), "{paid}");
    scene.executed_once(&paid["id"]);
    assert_eq!((&refused["attempt"], &refused["error"]), (&json!(3), &json!("TypeError")), "{refused}");
}

#[test]
fn a_form_whose_answer_is_lost_is_paid_once_and_shows_the_page_after_a_reload() {
    for (name, enctype) in [("urlencoded", URLENCODED), ("multipart", MULTIPART)] {
        let checkout = Checkout::new(name, enctype, 0, &[CutAfter, CutAfter]);
        let seen = checkout.act("posts");
        checkout.paid_once(&seen["text"]);
        // The browser has repeated the post by itself, and then the person.
        assert_eq!((&seen["reloads"], checkout.scene.way.calls()), (&json!(1), 3));
    }
}

#[test]
fn a_second_click_gets_the_page_of_the_first() {
    for (name, enctype) in [("clicked-twice", URLENCODED), ("clicked-twice-multipart", MULTIPART)] {
        let checkout = Checkout::new(name, enctype, 800, &[]);
        checkout.paid_once(&checkout.act("clicks_twice")["text"]);
        assert_eq!(checkout.scene.way.calls(), 2);
        // The browser has given up the first.
        checkout.scene.world.gateway.wait_for_access_log(&format!("POST {} 0 ", checkout.action));
    }
}

#[test]
fn a_second_click_whose_answer_is_lost_gets_the_page_of_the_first() {
    let checkout = Checkout::new("clicked-twice-and-lost", URLENCODED, 800, &[Pass, CutAfter]);
    checkout.paid_once(&checkout.act("clicks_twice")["text"]);
}

#[test]
fn a_page_that_is_reloaded_does_not_pay_again() {
    for (name, enctype, losses) in [
        ("reloaded", URLENCODED, &[][..]),
        ("reloaded-multipart", MULTIPART, &[]),
        ("reloaded-and-lost", URLENCODED, &[Pass, CutAfter]),
    ] {
        let checkout = Checkout::new(name, enctype, 0, losses);
        let seen = checkout.act("reloads");
        assert!(seen["said"].as_str().is_some_and(|said| said.starts_with("replayed;attempt=1;")), "{seen}");
        assert_eq!(seen["first"], seen["text"]);
        checkout.paid_once(&seen["text"]);
    }
}

#[test]
fn a_form_posted_again_after_going_back_shows_the_same_page() {
    let checkout = Checkout::new("back", URLENCODED, 0, &[]);
    let seen = checkout.act("goes_back");
    assert_eq!(seen["first"], seen["text"]);
    checkout.paid_once(&seen["text"]);
}

#[test]
fn two_tabs_at_once_pay_once() {
    for (name, losses) in [("tabs", &[][..]), ("tabs-and-lost", &[CutAfter, CutAfter, CutAfter, CutAfter])] {
        let checkout = Checkout::new(name, URLENCODED, 400, losses);
        let seen = checkout.act("two_tabs");
        for tab in 0..2 {
            checkout.paid_once(&seen["tabs"][tab]["text"]);
        }
    }
}
