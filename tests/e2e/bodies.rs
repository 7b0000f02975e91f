//! Request and response bodies in every framing and size.
//!
//! Its one rule: how a message is framed changes neither what is executed nor what is replayed.
//! It does not know what is in a body.

use std::time::{Duration, Instant};

use harness::ledger::{body_of_size, sha256_hex};
use harness::{Request, Response, World};

use crate::check::{executed, refused, replays, said, shown};
use crate::worlds::{plain, rules, troubled};

/// `max_request_bytes` and `max_response_bytes`, where nothing else is said.
const LIMIT: usize = 524_288;

#[test]
fn a_body_split_anywhere_is_the_same_payload() {
    let world = plain();
    let body = body_of_size(100_000);
    let pay = world.post("/bodies/split").key("k");
    let first = pay.clone().body(&body).send();
    executed(&first, 1);

    let mut pieces: Vec<Vec<Vec<u8>>> =
        [1, 50_000, 99_999].iter().map(|at| vec![body[..*at].to_vec(), body[*at..].to_vec()]).collect();
    pieces.push(body.chunks(997).map(<[u8]>::to_vec).collect());
    pieces.push(vec![Vec::new(), body.clone(), Vec::new()]);
    for pieces in pieces {
        let split = pay.clone().chunked(pieces);
        replays(&split.send(), &first);
        replays(&split.send_h2(), &first);
    }
    let cut = pay.chunked([&body[..99_999]]);
    refused(&cut.send(), 409, "mismatch", None);
    assert_eq!(world.ledger.entries_for("/bodies/split").len(), 1);
}

#[test]
fn a_chunked_body_reaches_the_service_whole() {
    let world = plain();
    let body = body_of_size(300_000);
    let pay = world.post("/bodies/chunked").key("k").chunked(body.chunks(7919));
    let over_http_2 = world.post("/bodies/frames").key("k").chunked(body.chunks(7919));
    for (first, again, path) in
        [(pay.send(), pay.send(), pay.path()), (over_http_2.send_h2(), over_http_2.send_h2(), over_http_2.path())]
    {
        executed(&first, 1);
        replays(&again, &first);
        assert_eq!(world.ledger.entries_for(path).remove(0).body_sha256, sha256_hex(&body));
    }
}

#[test]
fn a_body_that_comes_slowly_is_waited_for() {
    let world = plain();
    let pay = world.post("/bodies/slow").key("k").body("ten and twenty");
    let mut connection = pay.open();
    connection.write("ten and ");
    assert!(connection.is_silent_for(Duration::from_millis(1500)));
    assert_eq!(world.ledger.entries_for("/bodies/slow").len(), 0);
    connection.write("twenty");
    let first = connection.response();
    executed(&first, 1);
    replays(&pay.send(), &first);
}

#[test]
fn no_body_is_a_payload_too() {
    let world = plain();
    let pay = world.post("/bodies/empty").key("k");
    let first = pay.send();
    executed(&first, 1);
    let same = [pay.clone(), pay.clone().body(""), pay.clone().chunked([""; 0])];
    for again in &same {
        replays(&again.send(), &first);
        replays(&again.send_h2(), &first);
    }
    refused(&pay.clone().body("ten").send(), 409, "mismatch", None);
    assert_eq!(world.ledger.entries_for("/bodies/empty").len(), 1);

    // The other way round: first with a chunked body of nothing.
    let pay = world.post("/bodies/empty-chunked").key("k");
    let first = pay.clone().chunked([""; 0]).send();
    executed(&first, 1);
    replays(&pay.send(), &first);
}

#[test]
fn request_trailers_end_a_body_and_go_upstream() {
    let world = troubled();
    for (name, h2) in [("http1", false), ("http2", true)] {
        let send = |request: &Request| if h2 { request.send_h2() } else { request.send() };
        let pay = world.post(&format!("/bodies/trailers-{name}")).key("k");
        let trailed = pay.clone().chunked(["te", "n"]).trailer("x-sum", "1");
        let first = send(&trailed);
        executed(&first, 1);
        replays(&send(&trailed), &first);
        replays(&send(&pay.clone().body("ten")), &first);
        refused(&send(&pay.chunked(["ten!"]).trailer("x-sum", "1")), 409, "mismatch", None);
        let entry = world.ledger.entries_for(trailed.path()).remove(0);
        assert_eq!((entry.body_len, entry.header("x-sum")), (3, Some("1")));
    }
    let bodiless = world.post("/bodies/trailers-alone").key("k").chunked([""; 0]).trailer("x-sum", "1");
    let first = bodiless.send_h2();
    executed(&first, 1);
    replays(&bodiless.send_h2(), &first);
}

#[test]
fn a_keyless_request_streams_through_at_any_size() {
    let world = plain();
    let body = body_of_size(8 << 20);
    let upload = world.post("/bodies/keyless").chunked(body.chunks(65_536));
    let answer = upload.send();
    assert_eq!((answer.status, said(&answer)), (201, "bypassed;reason=no-key"));
    assert_eq!(world.ledger.entries_for("/bodies/keyless").remove(0).body_sha256, sha256_hex(&body));
}

#[test]
fn an_upload_that_breaks_off_is_no_execution_and_no_claim() {
    let world = plain();
    let pay = world.post("/bodies/broken").key("k").body("ten and twenty");
    let mut connection = pay.open();
    connection.write("ten and ");
    // Not held up by it, because nothing is claimed before the end of the body.
    executed(&pay.clone().body("ten").send(), 1);
    drop(connection);
    refused(&pay.send(), 409, "mismatch", None);
    assert_eq!(world.ledger.entries_for("/bodies/broken").len(), 1);
}

#[test]
fn requests_follow_each_other_on_one_connection() {
    let world = plain();
    let pay = world.post("/bodies/connection").key("k").body("ten");
    let request = |body: &str| {
        let length = body.len();
        format!(
            "POST /bodies/connection HTTP/1.1\r\nHost: api.example.com\r\nAuthorization: Bearer alice\r\nIdempotency-Key: k\r\n\
             Content-Length: {length}\r\n\r\n{body}"
        )
    };
    let mut connection = pay.open();
    connection.write("ten");
    let first = connection.response();
    executed(&first, 1);
    connection.write(request("ten"));
    replays(&connection.response(), &first);
    connection.write(request("twenty"));
    refused(&connection.response(), 409, "mismatch", None);
    connection.write(request("ten"));
    replays(&connection.response(), &first);
}

#[test]
fn response_trailers_pass_and_are_not_replayed() {
    let world = troubled();
    for (name, h2) in [("http1", false), ("http2", true)] {
        let pay = world
            .post(&format!("/bodies/response-trailers-{name}"))
            .key("k")
            .header("x-test-trailers", "x-sum: 1")
            .header("x-test-body-size", "40000")
            .body("ten");
        let send = || if h2 { pay.send_h2() } else { pay.send() };
        let first = send();
        executed(&first, 1);
        assert_eq!(first.trailers, [("x-sum".to_owned(), b"1".to_vec())]);
        let again = send();
        replays(&again, &first);
        assert_eq!(again.trailers, []);
    }
    let large = world
        .post("/bodies/response-trailers-large")
        .key("k")
        .header("x-test-trailers", "x-sum: 1")
        .header("x-test-body-size", "600000")
        .body("ten");
    let first = large.send();
    assert_eq!(said(&first), "executed;stored=?0;attempt=1;outcome=completed;reason=too-large");
    assert!(first.body == body_of_size(600_000) && first.trailers.len() == 1);
    not_replayable(&large.send());
}

#[test]
fn a_client_may_ask_before_it_sends_the_body() {
    let world = plain();
    let pay = world.post("/bodies/expect").key("k").expect_continue().body("ten");
    let first = pay.send();
    assert_eq!(first.interim, [100]);
    executed(&first, 1);
    replays(&pay.send(), &first);
    assert_eq!(world.ledger.entries_for("/bodies/expect").len(), 1);
}

#[test]
fn answers_without_a_body_are_replayed_without_one() {
    let world = plain();
    for status in ["204", "304"] {
        let pay = world.post(&format!("/bodies/none-{status}")).key("k").header("x-test-status", status).body("ten");
        let first = pay.send();
        executed(&first, 1);
        for again in [pay.send(), pay.send_h2()] {
            replays(&again, &first);
            assert_eq!((again.body.len(), again.header("content-type")), (0, None), "{}", shown(&again));
        }
        assert_eq!(pay.send().header("transfer-encoding"), None);
    }
}

#[test]
fn an_empty_body_keeps_its_content_type_in_the_replay() {
    let world = plain();
    let pay = world.post("/bodies/none-200").key("k").header("x-test-body-size", "0").body("ten");
    let first = pay.send();
    executed(&first, 1);
    assert_eq!((first.body.len(), first.header("content-type")), (0, Some("application/octet-stream")));
    replays(&pay.send(), &first);
}

#[test]
fn a_head_request_is_replayed_like_any_other() {
    let world = rules();
    let head = world.request("HEAD", "/all-methods/head").key("k").header("x-test-header", "x-kept: 1");
    let first = head.send();
    executed(&first, 1);
    let again = head.send();
    replays(&again, &first);
    assert_eq!((again.body.len(), again.header("x-kept")), (0, Some("1")));
    replays(&head.send_h2(), &first);
    assert_eq!(world.ledger.entries_for("/all-methods/head").len(), 1);
}

#[test]
fn a_request_body_may_be_as_large_as_the_limit_and_no_larger() {
    let world = plain();
    let body = body_of_size(LIMIT + 1);
    for (name, chunked) in [("declared", false), ("chunked", true)] {
        let with = |request: Request, body: &[u8]| {
            if chunked { request.chunked(body.chunks(16_384)) } else { request.body(body) }
        };
        let pay = |name2: &str| world.post(&format!("/bodies/limit-{name}-{name2}")).key("k");
        let fits = with(pay("fits"), &body[..LIMIT]);
        let first = fits.send();
        executed(&first, 1);
        replays(&fits.send(), &first);
        replays(&fits.send_h2(), &first);
        assert_eq!(world.ledger.entries_for(fits.path()).remove(0).body_sha256, sha256_hex(&body[..LIMIT]));

        let over = with(pay("over"), &body);
        for answer in [over.send(), over.send_h2()] {
            refused(&answer, 413, "body-too-large", None);
            assert_eq!(said(&answer), "refused;reason=body-too-large");
        }
        assert_eq!(world.ledger.entries_for(over.path()).len(), 0);
        // The key was not used up.
        executed(&pay("over").body("ten").send(), 1);
    }
}

#[test]
fn a_body_far_over_the_limit_is_refused_with_our_own_answer() {
    let world = plain();
    let body = body_of_size(8 << 20);
    for (name, request) in [
        ("declared", world.post("/bodies/far").body(&body)),
        ("chunked", world.post("/bodies/far").chunked(body.chunks(65_536))),
    ] {
        let answer = request.key(name).send();
        refused(&answer, 413, "body-too-large", None);
    }
    assert_eq!(world.ledger.entries_for("/bodies/far").len(), 0);
}

#[test]
fn an_operator_can_let_large_requests_through_unprotected() {
    let world = rules();
    let body = body_of_size(LIMIT + 1);
    for (name, chunked) in [("declared", false), ("chunked", true)] {
        let pay = world.post(&format!("/large-passes/{name}")).key("k").header("Idempotency-Attempt", "7");
        let pay = if chunked { pay.chunked(body.chunks(16_384)) } else { pay.body(&body) };
        for _ in 0..2 {
            let answer = pay.send();
            assert_eq!((answer.status, said(&answer)), (201, "bypassed;reason=too-large"));
        }
        let entries = world.ledger.entries_for(pay.path());
        assert_eq!(entries.len(), 2);
        for entry in entries {
            assert_eq!(entry.body_sha256, sha256_hex(&body));
            assert_eq!((entry.key.as_deref(), entry.operation, entry.attempt), (Some("k"), None, None));
        }
        executed(&world.post(pay.path()).key("k").body("ten").send(), 1);
    }
}

#[test]
fn a_response_may_be_as_large_as_the_limit() {
    let world = plain();
    for chunked in ["", "1"] {
        let pay = sized(&world, &format!("/bodies/response-fits{chunked}"), LIMIT, chunked);
        let first = pay.send();
        executed(&first, 1);
        assert!(first.body == body_of_size(LIMIT));
        replays(&pay.send(), &first);
    }
}

#[test]
fn a_larger_response_streams_through_and_is_not_replayable() {
    let world = plain();
    for size in [LIMIT + 1, 3_000_000, 20_000_000] {
        for chunked in ["", "1"] {
            let pay = sized(&world, &format!("/bodies/response-{size}{chunked}"), size, chunked);
            let first = pay.send();
            assert_eq!(
                (first.status, said(&first)),
                (201, "executed;stored=?0;attempt=1;outcome=completed;reason=too-large")
            );
            assert!(first.body == body_of_size(size), "{size} bytes, of which {} came", first.body.len());
            not_replayable(&pay.send());
            assert_eq!(world.ledger.entries_for(pay.path()).len(), 1);
        }
    }
}

#[test]
fn small_limits_are_kept_to_the_byte() {
    let world = rules();
    let pay = |name: &str, size: usize| sized(&world, &format!("/small/{name}"), size, "");
    executed(&pay("fits", 10).body("0123456789").send(), 1);
    refused(&pay("request", 10).body("0123456789a").send(), 413, "body-too-large", None);
    let large = pay("response", 11).body("0123456789");
    assert_eq!(said(&large.send()), "executed;stored=?0;attempt=1;outcome=completed;reason=too-large");
    not_replayable(&large.send());
}

#[test]
fn events_stream_without_delay_and_are_not_replayable() {
    let world = plain();
    let pay = world.post("/bodies/events").key("k").header("x-test-sse", "20").body("ten");
    let mut connection = pay.open();
    connection.write("ten");
    let head = connection.head();
    let began = Instant::now();
    assert_eq!((head.status, said(&head)), (201, "executed;stored=?0;attempt=1;outcome=completed"));
    let mut body = Vec::new();
    let mut arrivals = 0;
    while !body.ends_with(b"0\r\n\r\n") {
        body.extend(connection.read());
        arrivals += 1;
    }
    // Held back, they would all come at once.
    assert!(arrivals >= 10 && began.elapsed() >= Duration::from_millis(500), "{arrivals} in {:?}", began.elapsed());
    not_replayable(&pay.send());
}

#[track_caller]
fn not_replayable(response: &Response) {
    refused(response, 409, "not-replayable", None);
    assert_eq!(said(response), "refused;attempt=1;reason=not-replayable");
}

fn sized(world: &World, path: &str, size: usize, chunked: &str) -> Request {
    let pay = world.post(path).key("k").header("x-test-body-size", size.to_string()).body("ten");
    if chunked.is_empty() { pay } else { pay.header("x-test-chunked", chunked) }
}
