//! The presets of receivers of events: what each platform delivers, twice, and what it is answered.
//!
//! Its one rule: a delivery is written as its platform writes it, and a second one differs from the first in all that the
//! platform writes anew.
//! It does not know the platforms' schedules: docs/recipes.md has which status makes each come again.

use harness::{Request, Response, World};
use serde_json::{Value, json};

use crate::check::{parameter, refused, replays, said};
use crate::presets::world;
use crate::worlds::start;

/// The delivery is taken for the first time, for so many days.
#[track_caller]
fn taken(answer: &Response, days: u64) {
    assert!(said(answer).starts_with("executed;stored=?1;attempt=1;"), "{}", said(answer));
    assert_eq!(parameter(answer, "ttl"), Some(days * 86_400));
}

/// While the first delivery runs, and after one whose outcome is unknown, the answer makes the platform come again, and the
/// service is not asked.
#[track_caller]
fn comes_again_meanwhile(world: &World, delivery: &Request, body: &str) {
    let before = world.ledger.entries_for(delivery.path()).len();
    let first = start(world, delivery, body, "meanwhile");
    refused(&delivery.clone().body(body).send(), 503, "in-flight", Some("1"));
    // The platform gives the first one up.
    drop(first);
    harness::wait_until("the first delivery is given up", harness::PATIENCE, || {
        let again = delivery.clone().body(body).send();
        assert_eq!((again.status, again.header("retry-after").is_some()), (503, true), "{}", said(&again));
        said(&again).ends_with("reason=outcome-unknown")
    });
    world.ledger.open("meanwhile");
    assert_eq!(world.ledger.entries_for(delivery.path()).len(), before + 1);
}

#[test]
fn a_batch_of_cloud_events_is_taken_once_by_its_ids_in_order() {
    let world = world("webhooks", "local.yaml");
    let event = |id: &str, time: &str| json!({ "specversion": "1.0", "source": "/shop", "id": id, "time": time });
    let deliver = |events: &[Value]| {
        let request =
            world.post("/hooks/batch").anonymous().header("content-type", "application/cloudevents-batch+json");
        request.body(json!(events).to_string()).send()
    };
    let first = deliver(&[event("a", "12:00"), event("b", "12:00")]);
    taken(&first, 1);
    replays(&deliver(&[event("a", "12:05"), event("b", "12:06")]), &first);
    taken(&deliver(&[event("b", "12:00"), event("a", "12:00")]), 1);
    let mut other = event("b", "12:00");
    other["data"] = json!(7);
    refused(&deliver(&[event("a", "12:00"), other]), 400, "mismatch", None);
    // Which has run, and comes again in vain.
    let large = || world.post("/hooks/large").anonymous().header("ce-source", "/shop").header("ce-id", "large");
    assert_eq!(large().header("x-test-body-size", "600000").body("{}").send().status, 201);
    refused(&large().body("{}").send(), 400, "not-replayable", None);
    // As many as fit into the key, and more do not pass unprotected.
    let many = |count: usize| (0..count).map(|id| event(&format!("e-{id:032}"), "12:00")).collect::<Vec<_>>();
    taken(&deliver(&many(300)), 1);
    refused(&deliver(&many(400)), 400, "key-invalid", None);
    assert_eq!(world.ledger.entries_for("/hooks/batch").len(), 3);
}

#[test]
fn a_cloud_event_that_is_under_way_comes_again() {
    let world = world("webhooks", "local.yaml");
    let delivery = world.post("/hooks/slow").anonymous().header("ce-source", "/shop").header("ce-id", "slow");
    comes_again_meanwhile(&world, &delivery, "{}");
}

#[test]
fn a_pubsub_message_is_taken_once_wrapped_or_not() {
    let world = world("pubsub", "local.yaml");
    let token = |signature: &str| format!("Bearer e30.eyJlbWFpbCI6InB1c2hAc2hvcCJ9.{signature}");
    let push = |subscription: &str, id: &str, delivery: u32, data: &str| {
        let message = json!({ "data": data, "messageId": id, "message_id": id, "publishTime": "12:00" });
        let body = json!({
            "message": message, "subscription": format!("projects/shop/subscriptions/{subscription}"),
            "deliveryAttempt": delivery,
        });
        let request = world.post("/pubsub/orders").header("content-type", "application/json");
        // Each delivery may come under a new token.
        request.caller(token(&delivery.to_string())).body(body.to_string()).send()
    };
    let first = push("orders", "1", 1, "aGk=");
    taken(&first, 7);
    replays(&push("orders", "1", 2, "aGk="), &first);
    taken(&push("orders", "2", 1, "aGk="), 7);
    taken(&push("returns", "1", 1, "aGk="), 7);
    refused(&push("orders", "1", 3, "aG8="), 400, "mismatch", None);
    let unwrapped = |delivery: &str| {
        let request = world.post("/pubsub/plain").caller(token(delivery)).header("x-goog-pubsub-message-id", "1");
        request.header("x-goog-pubsub-subscription-name", "projects/shop/subscriptions/orders").body("hi").send()
    };
    let plain = unwrapped("1");
    taken(&plain, 7);
    replays(&unwrapped("2"), &plain);
    refused(&world.post("/pubsub/orders").caller(token("1")).body("{}").send(), 400, "key-missing", None);
    let body = r#"{"message":{"messageId":"slow"},"subscription":"projects/shop/subscriptions/orders"}"#;
    refused(&world.post("/pubsub/orders").anonymous().body(body).send(), 401, "caller-missing", None);
    comes_again_meanwhile(&world, &world.post("/pubsub/orders").caller(token("1")), body);
}

#[test]
fn a_standard_webhook_is_taken_once_however_often_it_is_signed() {
    let world = world("standard-webhooks", "local.yaml");
    let webhook = |id: &str, time: &str| {
        let request = world.post("/webhooks/shop").anonymous().header("content-type", "application/json");
        let request = request.header("webhook-id", id).header("webhook-timestamp", time);
        request.header("webhook-signature", format!("v1,{time}"))
    };
    let first = webhook("msg_1", "1674087231").body(r#"{"type":"paid"}"#).send();
    taken(&first, 4);
    replays(&webhook("msg_1", "1674087531").body(r#"{"type":"paid"}"#).send(), &first);
    refused(&webhook("msg_1", "1674087531").body(r#"{"type":"void"}"#).send(), 400, "mismatch", None);
    // A signature that the service refuses takes no id away from the one that is right.
    let forged = webhook("msg_2", "1").header("x-test-status", "401").body("{}").send();
    assert_eq!((forged.status, said(&forged)), (401, "executed;stored=?0;attempt=1;outcome=released"));
    let right = webhook("msg_2", "1674087231").body(r#"{"type":"paid"}"#).send();
    assert!(said(&right).starts_with("executed;stored=?1;attempt=2;"), "{}", said(&right));
    let mut looked_at = start(&world, &webhook("msg_4", "1").header("x-test-status", "401"), "{}", "forged");
    let right = webhook("msg_4", "1674087231").body(r#"{"type":"paid"}"#);
    refused(&right.send(), 400, "mismatch", None);
    world.ledger.open("forged");
    assert_eq!(looked_at.response().status, 401);
    assert!(said(&right.send()).starts_with("executed;stored=?1;attempt=2;"));
    comes_again_meanwhile(&world, &webhook("msg_3", "1674087231"), r#"{"type":"paid"}"#);
    assert_eq!(world.ledger.entries_for("/webhooks/shop").len(), 6);
}

#[test]
fn a_notification_of_sns_is_taken_once_and_its_confirmation_passes() {
    let world = world("sns", "shielded.yaml");
    let of_type = |kind: &str| world.post("/sns/orders").anonymous().header("x-amz-sns-message-type", kind);
    let notification = |subscription: &str, id: &str| {
        let arn = format!("arn:aws:sns:eu-central-1:1:orders:{subscription}");
        let request = of_type("Notification").header("content-type", "text/plain; charset=UTF-8");
        request.header("x-amz-sns-subscription-arn", arn).header("x-amz-sns-message-id", id)
    };
    let body = |message: &str, certificate: &str| {
        json!({ "Type": "Notification", "Message": message, "Signature": certificate, "SigningCertURL": certificate })
            .to_string()
    };
    let first = notification("s1", "m1").body(body("paid", "one")).send();
    taken(&first, 1);
    replays(&notification("s1", "m1").body(body("paid", "two")).send(), &first);
    refused(&notification("s1", "m1").body(body("void", "one")).send(), 400, "mismatch", None);
    taken(&notification("s2", "m1").body(body("paid", "one")).send(), 1);
    // Raw delivery: the message as it is.
    taken(&notification("s1", "m2").header("x-amz-sns-rawdelivery", "true").body("paid").send(), 1);
    // SNS takes any 4xx for the end.
    comes_again_meanwhile(&world, &notification("s1", "m3"), &body("paid", "one"));
    // It hangs up after 15 seconds, and what the service does then is in doubt at no later delivery.
    let slow = || notification("s1", "m4").body(body("paid", "one")).send();
    drop(start(&world, &notification("s1", "m4"), &body("paid", "one"), "hung up"));
    refused(&slow(), 503, "in-flight", Some("1"));
    world.ledger.open("hung up");
    let mut answer = slow();
    while answer.status == 503 {
        answer = slow();
    }
    assert!(said(&answer).starts_with("replayed;attempt=1;"), "{}", said(&answer));
    let confirmation = of_type("SubscriptionConfirmation").body(r#"{"SubscribeURL":"https://sns"}"#).send();
    assert_eq!((confirmation.status, said(&confirmation)), (201, ""));
}
