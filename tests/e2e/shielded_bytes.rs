//! What passes through a shielded execution: every byte that an inline one lets through, and nothing besides.
//!
//! Its one rule: the same request runs inline and shielded through one gateway, and the service and the client must
//! not see a difference.
//! It does not know what becomes of an execution: see `shielded.rs`.

use harness::ledger::{base64, body_of_size, sha256_hex};
use harness::{Entry, Request, Response};

use crate::check::{executed, not_stored, replays, said, shown};
use crate::shielded::{answered, shielded};
use crate::worlds::Shared;

/// Sends what `change` makes of a POST, inline and shielded.
#[track_caller]
fn both(world: &Shared, name: &str, change: impl Fn(Request) -> Request) -> [(Response, Request); 2] {
    ["/inline/", "/bytes/"].map(|prefix| {
        let request = change(world.post(&format!("{prefix}{name}?a=1&a=2&b=%2F%20+")).key("k"));
        (request.send(), request)
    })
}

/// The only execution of a request.
#[track_caller]
fn entry(world: &Shared, request: &Request) -> Entry {
    let mut entries = world.ledger.entries_for(request.path());
    assert_eq!(entries.len(), 1, "{}", request.path());
    entries.remove(0)
}

/// The header lines that the service saw, but for those that differ from request to request.
fn seen(entry: &Entry) -> Vec<String> {
    let differs = ["idempotency-operation", "x-request-id", "content-length", "transfer-encoding"];
    lines(&entry.headers, &differs)
}

/// The header lines that the client saw, but for those that differ from answer to answer.
fn got(response: &Response) -> Vec<String> {
    let differs = ["date", "location", "content-length", "transfer-encoding", "x-envoy-upstream-service-time"];
    lines(&response.headers, &differs)
}

fn lines(headers: &[(String, Vec<u8>)], differs: &[&str]) -> Vec<String> {
    let mut kept: Vec<_> = headers.iter().filter(|(name, _)| !differs.contains(&name.as_str())).collect();
    // Lines of one name keep their order.
    kept.sort_by(|(one, _), (other, _)| one.cmp(other));
    kept.iter().map(|(name, value)| format!("{name}: {}", value.escape_ascii())).collect()
}

/// What makes a case of a request.
type Change = fn(Request) -> Request;

#[test]
fn the_service_sees_the_same_request() {
    let world = shielded();
    let forms: [(&str, Change); 7] = [
        ("plain", |post| post.body("ten")),
        ("empty", |post| post),
        ("chunked-empty", |post| post.chunked([b""; 0])),
        ("binary", |post| post.header("content-type", "application/octet-stream").body(body_of_size(300_000))),
        ("pieces", |post| post.chunked([b"t".as_slice(), b"\x00\xff", b"n"])),
        ("headers", |post| {
            post.header("x-many", "one")
                .header("x-other", "between")
                .header("x-many", "two, three")
                .header("x-empty", "")
                .header("authorization", "Bearer alice")
                .header("cookie", "a=1; b=2")
                .header("accept", "*/*")
                .header("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
                .header("x-forwarded-for", "192.0.2.1")
                .header("idempotency-operation", "forged")
                .header("idempotency-attempt", "99")
                .host("Shop.example.com:8443")
                .body("ten")
        }),
        ("utf-8", |post| post.header("x-name", "Zoë ✓").body("ten")),
    ];
    for (name, change) in forms {
        let [inline, shielded] = both(&world, name, change).map(|(response, request)| {
            executed(&response, 1);
            entry(&world, &request)
        });
        assert_eq!(seen(&shielded), seen(&inline), "{name}");
        assert_eq!(
            (&shielded.host, &shielded.key, shielded.attempt, &shielded.body_sha256, shielded.method.as_str()),
            (&inline.host, &inline.key, Some(1), &inline.body_sha256, "POST"),
            "{name}"
        );
        assert!(shielded.operation.is_some_and(|operation| operation.len() == 64));
    }
    let named = world.post("/bytes/request-id").key("k").header("x-request-id", "as-sent").body("ten");
    executed(&named.send(), 1);
    let id = entry(&world, &named).header("x-request-id").map(str::to_owned);
    let inline = world.post("/inline/request-id").key("k").header("x-request-id", "as-sent").body("ten");
    executed(&inline.send(), 1);
    assert_eq!(id, entry(&world, &inline).header("x-request-id").map(str::to_owned));
    assert_eq!(entry(&world, &named).body_sha256, sha256_hex(b"ten"));
}

#[test]
fn the_client_sees_the_same_response_and_its_replay() {
    let world = shielded();
    let forms: [(&str, Change); 9] = [
        ("plain", |post| post),
        ("binary", |post| post.header("x-test-body-size", "300000")),
        ("chunked", |post| post.header("x-test-body-size", "70000").header("x-test-chunked", "1")),
        ("empty", |post| post.header("x-test-body-base64", base64(""))),
        ("204", |post| post.header("x-test-status", "204")),
        ("303", |post| post.header("x-test-status", "303")),
        ("typeless", |post| {
            post.header("x-test-header", "content-type:").header("x-test-body-base64", base64([0, 255]))
        }),
        ("repeated", |post| {
            post.header("x-test-header", "x-many: one")
                .header("x-test-header", "x-many: two")
                .header("x-test-header", "link: <a>; rel=next, <b>; rel=prev")
                .header("x-test-header", "vary: accept")
                .header("x-test-header", "x-name: Zo\u{eb}")
        }),
        ("liar", |post| {
            post.header("x-test-header", "idempotency-status: replayed")
                .header("x-test-header", "idempotent-replayed: true")
                .header("x-test-header", "x-test: kept")
        }),
    ];
    for (name, change) in forms {
        let [(inline, _), (response, request)] =
            both(&world, &format!("response-{name}"), |post| change(post.body("ten")));
        executed(&response, 1);
        assert_eq!(got(&response), got(&inline), "{name}");
        if inline.header("content-type") != Some("application/json") {
            assert!(response.body == inline.body, "{name}: {}", shown(&response));
        }
        replays(&request.send(), &response);
        if name == "repeated" {
            replays(&request.send_h2(), &response);
        }
        entry(&world, &request);
    }
}

#[test]
fn a_content_type_stays_as_it_is_also_where_the_client_does_not_wait_for_the_store() {
    let world = shielded();
    for (name, content_type, body) in [("typeless", None, [0, 255].as_slice()), ("empty", Some("text/csv"), b"")] {
        let line = format!("content-type: {}", content_type.unwrap_or_default());
        let pay = world.post(&format!("/after-reply/{name}")).key("k").body("ten");
        let pay = pay.header("x-test-header", line).header("x-test-body-base64", base64(body));
        let first = pay.send();
        assert_eq!((first.status, first.header("content-type"), first.body.as_slice()), (201, content_type, body));
        replays(&answered(&pay), &first);
    }
}

#[test]
fn a_cookie_is_delivered_once_and_not_replayed() {
    let world = shielded();
    let cookies = ["set-cookie: a=1; Path=/", "set-cookie: b=2"];
    let pay = cookies.iter().fold(world.post("/bytes/cookie").key("k"), |pay, one| pay.header("x-test-header", one));
    let pay = pay.body("ten");
    let first = pay.send();
    assert_eq!(first.headers("set-cookie"), [b"a=1; Path=/".as_slice(), b"b=2"]);
    let again = pay.send();
    assert!(said(&again).starts_with("replayed;"));
    assert_eq!((again.headers("set-cookie").len(), &again.body), (0, &first.body));
}

#[test]
fn envoys_account_reaches_no_client_and_a_service_cannot_forge_it() {
    let world = shielded();
    let forged = |path: &str, status: &str| {
        world
            .post(path)
            .key("k")
            .header("x-test-first-status", status)
            .header("x-test-header", "x-idempotency-details: connection_refused")
            .header("x-test-header", "x-idempotency-upstream: -")
            .header("x-test-header", "x-idempotency-attempts: 0")
            .body("ten")
    };
    let has_account = |answer: &Response| answer.headers.iter().any(|(name, _)| name.starts_with("x-idempotency-"));
    let good = forged("/bytes/forged-201", "201");
    let first = good.send();
    executed(&first, 1);
    replays(&good.send(), &first);
    // Unsent would be free for another payload.
    let busy = forged("/bytes/forged-503", "503,201");
    let failed = busy.send();
    not_stored(&failed, 503, 1, "retry");
    assert_eq!(busy.clone().body("twenty").send().status, 409);
    let refused = world.post("/bytes/account-refused").key("k").header("x-route", "refused").body("ten").send();
    not_stored(&refused, 503, 1, "released");
    for answer in [first, failed, refused, good.send()] {
        assert!(!has_account(&answer), "{}", shown(&answer));
    }
}

#[test]
fn a_request_with_trailers_runs_inline_and_is_counted_and_one_of_any_bytes_runs_shielded() {
    let world = shielded();
    let counted = || world.gateway.counted("unshielded");
    let before = counted();
    let trailers = world.post("/bytes/trailers").key("k").chunked(["ten"]).trailer("x-sum", "3");
    let first = trailers.send();
    executed(&first, 1);
    assert_eq!(entry(&world, &trailers).header("x-sum"), Some("3"));
    replays(&trailers.send(), &first);
    assert_eq!(counted(), before + 2);

    let latin = world.post("/bytes/latin").key("k").header("x-name", b"Zo\xeb").body("ten");
    let first = latin.send();
    executed(&first, 1);
    let seen = entry(&world, &latin).headers;
    assert!(seen.contains(&("x-name".to_owned(), b"Zo\xeb".to_vec())), "{seen:?}");
    replays(&latin.send(), &first);
    assert_eq!(counted(), before + 2);
}
