//! What a request means besides its body: methods, headers that say what is to be done, representations, encodings.
//!
//! Its one rule: requests that ask for different things are never taken for one, and requests that ask for one thing are.
//! It does not know how bodies are compared: see `fingerprints.rs`.

use std::sync::LazyLock;

use harness::{Request, Response, World};
use serde_json::{Value, json};

use crate::check::{executed, refused, replays, said, shown};
use crate::worlds::{Shared, rule};

fn world() -> Shared {
    static WORLD: LazyLock<World> = LazyLock::new(|| World::start(document()));
    Shared::new(&WORLD)
}

/// Everything under `/star/` and `/named/` names its methods; nothing else does.
fn document() -> Value {
    let methods = |prefix: &str, methods: Value, policy: Value| {
        let mut rule = rule(prefix, policy);
        rule["match"]["methods"] = methods;
        rule
    };
    json!({
        "rules": [
            methods("/star/", json!(["*"]), json!({ "key": { "required": true } })),
            methods("/named/", json!(["GET", "HEAD", "OPTIONS", "POST"]), json!({})),
            rule("/content/", json!({ "key": { "inject": { "kind": "content", "window_ms": 60000 } } })),
            rule("/least/", json!({ "fingerprint": { "body": "off", "query": false, "headers": [] } })),
            rule("/", json!({})),
        ],
    })
}

/// Each header that says what is to be done, with values that ask for different things.
const MEANINGFUL: [(&str, [&str; 3]); 13] = [
    ("content-range", ["bytes 0-2/9", "bytes 3-5/9", "bytes 6-8/9"]),
    ("upload-offset", ["0", "100", "200"]),
    ("if-match", ["\"1\"", "\"2\"", "*"]),
    ("if-none-match", ["*", "\"1\"", "W/\"1\""]),
    (
        "if-unmodified-since",
        ["Sun, 06 Nov 1994 08:49:37 GMT", "Sun, 06 Nov 1994 08:49:38 GMT", "Mon, 07 Nov 1994 08:49:37 GMT"],
    ),
    ("x-http-method-override", ["PUT", "DELETE", "PATCH"]),
    ("x-http-method", ["PUT", "DELETE", "PATCH"]),
    ("x-method-override", ["PUT", "DELETE", "PATCH"]),
    ("destination", ["/a", "/b", "/c"]),
    ("soapaction", ["\"pay\"", "\"refund\"", "\"\""]),
    ("upload-length", ["100", "200", "300"]),
    ("upload-metadata", ["filename YQ==", "filename Yg==", "filename Yw=="]),
    ("x-amz-target", ["Pay.Create", "Pay.Cancel", "Pay.Refund"]),
];

/// The answer is an execution under a key that the gateway made of the content.
#[track_caller]
fn content_executed(response: &Response) {
    let line = said(response);
    assert!(line.starts_with("executed;stored=?1;attempt=1;") && line.ends_with(";reason=injected"), "{line}");
}

/// The answer is `first` once more, found by its content.
#[track_caller]
fn content_repeats(again: &Response, first: &Response) {
    let line = said(again);
    assert!(line.starts_with("replayed;attempt=1;") && line.ends_with(";reason=injected"), "{line}");
    assert_eq!((again.status, &again.body), (first.status, &first.body));
}

/// The filter has not touched the request, and each one has reached the service as it was sent.
#[track_caller]
fn untouched(world: &World, request: &Request, key: Option<&str>) {
    let before = world.ledger.entries_for(request.path()).len();
    for sent in 1..=2 {
        let answer = request.send();
        assert_eq!((answer.status, said(&answer)), (201, ""), "{}", shown(&answer));
        assert_eq!(answer.header("idempotent-replayed"), None);
        let entries = world.ledger.entries_for(request.path());
        assert_eq!(entries.len(), before + sent, "{}", request.path());
        let entry = entries.last().unwrap();
        assert_eq!((entry.key.as_deref(), &entry.operation, entry.attempt), (key, &None, None));
    }
}

/// The filter has executed the request once, and replays it.
#[track_caller]
fn protected(world: &World, request: &Request, send: fn(&Request) -> Response) {
    let before = world.ledger.entries_for(request.path()).len();
    let first = send(request);
    executed(&first, 1);
    replays(&send(request), &first);
    assert_eq!(world.ledger.entries_for(request.path()).len(), before + 1, "{}", request.path());
}

#[test]
fn of_equal_content_each_part_of_an_upload_and_each_condition_executes() {
    let world = world();
    for (name, values) in MEANINGFUL {
        let path = format!("/content/{name}");
        let plain = world.request("PATCH", &path).body("ten");
        let send = |value: &str| plain.clone().header(name, value).send();
        let first_plain = plain.send();
        content_executed(&first_plain);
        let firsts = values.map(send);
        firsts.iter().for_each(content_executed);
        for (value, first) in values.iter().zip(&firsts) {
            content_repeats(&send(value), first);
        }
        content_repeats(&plain.send(), &first_plain);
        assert_eq!(world.ledger.entries_for(&path).len(), values.len() + 1, "{name}");
    }
}

#[test]
fn a_key_that_comes_again_for_another_part_or_another_condition_is_a_mismatch() {
    let world = world();
    // Also where the operator has the fingerprint count nothing.
    for prefix in ["/explicit", "/least"] {
        for (name, values) in MEANINGFUL {
            let path = format!("{prefix}/{name}");
            let plain = |key: &str| world.request("PATCH", &path).key(key).body("ten");
            let send = |value: &str| plain("k").header(name, value).send();
            let first = send(values[0]);
            executed(&first, 1);
            for value in &values[1..] {
                refused(&send(value), 409, "mismatch", None);
            }
            refused(&plain("k").send(), 409, "mismatch", None);
            refused(&plain("k").header(name, values[0]).header(name, values[1]).send(), 409, "mismatch", None);
            replays(&send(values[0]), &first);
            let first_plain = plain("other").send();
            executed(&first_plain, 1);
            refused(&plain("other").header(name, values[0]).send(), 409, "mismatch", None);
            replays(&plain("other").send(), &first_plain);
            assert_eq!(world.ledger.entries_for(&path).len(), 2, "{path}");
        }
    }
}

#[test]
fn a_value_does_not_pass_from_one_header_to_another() {
    let world = world();
    let pay = world.post("/explicit/moved").key("k").body("ten");
    let first = pay.clone().header("if-match", "*").send();
    executed(&first, 1);
    refused(&pay.clone().header("if-none-match", "*").send(), 409, "mismatch", None);
    replays(&pay.header("if-match", "*").send(), &first);
}

#[test]
fn a_rule_without_methods_is_about_post_and_patch() {
    let world = world();
    for method in ["POST", "PATCH"] {
        protected(&world, &world.request(method, "/plain/taken").key("k").body("ten"), Request::send);
    }
    for method in ["PUT", "DELETE", "PROPFIND"] {
        untouched(&world, &world.request(method, "/plain/passed").key("k").body("ten"), Some("k"));
    }
    for method in ["GET", "HEAD", "OPTIONS"] {
        untouched(&world, &world.request(method, "/plain/passed").key("k"), Some("k"));
    }
}

#[test]
fn a_rule_for_all_methods_is_about_all_but_the_safe_ones() {
    let world = world();
    for method in ["POST", "PUT", "PATCH", "DELETE", "PROPFIND"] {
        protected(&world, &world.request(method, "/star/taken").key("k").body("ten"), Request::send);
    }
    // HTTP/1.1 of Envoy takes only methods that it knows.
    protected(&world, &world.request("SETTLE", "/star/taken").key("k").body("ten"), Request::send_h2);
    refused(&world.request("PUT", "/star/keyless").body("ten").send(), 400, "key-missing", None);
    for method in ["GET", "HEAD", "OPTIONS"] {
        untouched(&world, &world.request(method, "/star/passed").key("k"), Some("k"));
        untouched(&world, &world.request(method, "/star/passed-keyless"), None);
    }
}

#[test]
fn a_safe_method_that_a_rule_names_is_taken() {
    let world = world();
    for method in ["GET", "OPTIONS"] {
        protected(&world, &world.request(method, "/named/taken").key("k"), Request::send);
    }
    let head = world.request("HEAD", "/named/taken").key("k");
    executed(&head.send(), 1);
    assert!(said(&head.send()).starts_with("replayed;attempt=1;"));
    untouched(&world, &world.request("PUT", "/named/passed").key("k").body("ten"), Some("k"));
}

#[test]
fn a_preflight_passes_where_keys_are_required() {
    let world = world();
    let preflight = world.request("OPTIONS", "/star/preflight").anonymous().header("origin", "https://shop.example");
    let preflight = preflight
        .header("access-control-request-method", "PUT")
        .header("access-control-request-headers", "idempotency-key");
    untouched(&world, &preflight, None);
}

#[test]
fn of_equal_content_each_representation_that_is_asked_for_executes() {
    let world = world();
    let plain = world.post("/content/accept").body("ten");
    let accepts = ["application/json", "application/pdf", "application/json, application/pdf", ""];
    let send = |accept: &str| match accept {
        "" => plain.send(),
        accept => plain.clone().header("accept", accept).send(),
    };
    let firsts = accepts.map(send);
    firsts.iter().for_each(content_executed);
    for (accept, first) in accepts.iter().zip(&firsts) {
        content_repeats(&send(accept), first);
    }
    assert_eq!(world.ledger.entries_for("/content/accept").len(), accepts.len());
    // A key of the client's own stays the same whatever it accepts.
    let pay = |accept: &str| world.post("/explicit/accept").key("k").header("accept", accept).body("ten").send();
    let first = pay("application/json");
    executed(&first, 1);
    replays(&pay("application/pdf"), &first);
}

#[test]
fn an_empty_query_is_none() {
    let world = world();
    let executions = |path: &str| {
        [path.to_owned(), format!("{path}?")].map(|path| world.ledger.entries_for(&path).len()).iter().sum::<usize>()
    };
    for (path, marks) in [("/explicit/before", ["?", ""]), ("/explicit/after", ["", "?"])] {
        let [first, again] = marks.map(|mark| world.post(&format!("{path}{mark}")).key("k").body("ten").send());
        executed(&first, 1);
        replays(&again, &first);
        refused(&world.post(&format!("{path}?a")).key("k").body("ten").send(), 409, "mismatch", None);
        assert_eq!(executions(path), 1);
    }
    for (path, marks) in [("/content/before", ["?", ""]), ("/content/after", ["", "?"])] {
        let [first, again] = marks.map(|mark| world.post(&format!("{path}{mark}")).body("ten").send());
        content_executed(&first);
        content_repeats(&again, &first);
        content_executed(&world.post(&format!("{path}?a")).body("ten").send());
        assert_eq!(executions(path), 1);
    }
}

#[test]
fn an_encoded_answer_is_replayed_to_a_client_that_takes_it() {
    let world = world();
    // What the first request accepts, what a retry accepts, and whether that retry gets the answer.
    let cases = [
        (Some("gzip"), Some("gzip"), true),
        (Some("gzip"), Some("br, gzip;q=0.5"), true),
        (Some("gzip"), Some("*"), true),
        (Some("gzip"), None, false),
        (Some("gzip"), Some("br"), false),
        (Some("gzip"), Some("gzip;q=0"), false),
        (Some("gzip"), Some("identity"), false),
        (Some("gzip"), Some("*;q=0"), false),
        (Some("gzip"), Some(""), false),
        (None, None, true),
        (None, Some("gzip"), true),
        (None, Some("identity"), false),
        (None, Some("gzip;q=0, *"), false),
    ];
    for (case, (before, after, is_replayed)) in cases.into_iter().enumerate() {
        let path = format!("/explicit/encoded-{case}");
        let pay = |accepts: Option<&str>| {
            let pay = world.post(&path).key("k").header("x-test-header", "content-encoding: gzip").body("ten");
            accepts.map_or(pay.clone(), |accepts| pay.header("accept-encoding", accepts)).send()
        };
        let first = pay(before);
        executed(&first, 1);
        assert_eq!(first.header("content-encoding"), Some("gzip"));
        let again = pay(after);
        match is_replayed {
            true => replays(&again, &first),
            false => refused(&again, 409, "not-replayable", None),
        }
        // Whatever one retry was told, the answer is still there for the next.
        replays(&pay(before), &first);
        assert_eq!(world.ledger.entries_for(&path).len(), 1, "{before:?}, then {after:?}");
    }
}

#[test]
fn an_answer_without_an_encoding_is_replayed_whatever_a_retry_takes() {
    let world = world();
    for (case, encoding) in ["", "content-encoding: identity"].into_iter().enumerate() {
        let pay = world.post(&format!("/explicit/plain-{case}")).key("k").body("ten");
        let pay = if encoding.is_empty() { pay } else { pay.header("x-test-header", encoding) };
        let first = pay.clone().header("accept-encoding", "gzip").send();
        executed(&first, 1);
        for accepts in ["gzip", "br", "gzip;q=0"] {
            replays(&pay.clone().header("accept-encoding", accepts).send(), &first);
        }
        replays(&pay.send(), &first);
    }
}
