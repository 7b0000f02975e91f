//! The ledger and the client, with nothing in between.

use std::time::Duration;

use harness::ledger::{body_of_size, sha256_hex};
use harness::{Connection, Fault, Interposer, Ledger, Port, Request, Response, send_all};

fn post(ledger: &Ledger, path: &str) -> Request {
    Request::post(ledger.addr(), path)
}

#[test]
fn every_execution_is_entered_with_what_it_carried() {
    let ledger = Ledger::start();
    let response = post(&ledger, "/v1/payments?now=1")
        .key("\"k\"")
        .header("Idempotency-Operation", "abc")
        .header("Idempotency-Attempt", "2")
        .header("X-Raw", b"\xff\xfe")
        .header("X-Raw", "b")
        .body("ten")
        .send();

    assert_eq!((response.status, response.text()), (201, r#"{"id":"pay_1"}"#.to_owned()));
    assert_eq!(response.header("location"), Some("/payments/1"));
    let entry = ledger.entries_for("/v1/payments?now=1").remove(0);
    assert_eq!((entry.method.as_str(), entry.host.as_str()), ("POST", "api.example.com"));
    assert_eq!(entry.key.as_deref(), Some("\"k\""));
    assert_eq!((entry.operation.as_deref(), entry.attempt), (Some("abc"), Some(2)));
    assert_eq!((entry.body_sha256, entry.body_len), (sha256_hex(b"ten"), 3));
    let raw: Vec<_> = entry.headers.iter().filter(|(name, _)| name == "x-raw").map(|(_, v)| v.as_slice()).collect();
    assert_eq!(raw, [b"\xff\xfe".as_slice(), b"b"]);
}

#[test]
fn two_executions_have_two_answers() {
    let ledger = Ledger::start();
    let pay = post(&ledger, "/v1/payments").body("ten");
    assert_ne!(pay.send().body, pay.send().body);
    assert_eq!(ledger.entries().len(), 2);
}

#[test]
fn a_test_steers_the_answers_of_a_path_for_clients_that_cannot() {
    let ledger = Ledger::start();
    ledger.show("/checkout", "<p>Pay</p>");
    let page = Request::new(ledger.addr(), "GET", "/checkout?step=1").send();
    assert_eq!((page.status, page.text()), (200, "<p>Pay</p>".to_owned()));
    assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"));
    ledger.steer("/checkout/pay", &[("x-test-status", "418")]);
    assert_eq!(post(&ledger, "/checkout/pay").header("x-test-status", "503").send().status, 418);
    assert_eq!(post(&ledger, "/checkout").send().status, 200);
    assert_eq!(post(&ledger, "/pay").send().status, 201);
}

#[test]
fn request_headers_steer_the_answer() {
    let ledger = Ledger::start();
    let response = post(&ledger, "/a")
        .header("x-test-status", "418")
        .header("x-test-header", "content-type: text/x-tea")
        .header("x-test-header", "set-cookie: a=1")
        .header("x-test-header", "set-cookie: b=2")
        .header("x-test-header", b"x-raw: \xff")
        .header("x-test-body-base64", "AP8=")
        .send();
    assert_eq!((response.status, response.body.as_slice()), (418, b"\x00\xff".as_slice()));
    assert_eq!(response.headers("content-type"), [b"text/x-tea"]);
    assert_eq!(response.headers("set-cookie"), [b"a=1", b"b=2"]);
    assert_eq!(response.headers("x-raw"), [b"\xff"]);
    assert_eq!(response.header("location"), None);

    let bare = post(&ledger, "/b").header("x-test-header", "content-type:").header("x-test-header", "location:").send();
    assert_eq!((bare.header("content-type"), bare.header("location")), (None, None));

    let empty = post(&ledger, "/c").header("x-test-status", "204").send();
    assert_eq!((empty.status, empty.body.len(), empty.header("content-length")), (204, 0, None));

    let head = Request::new(ledger.addr(), "HEAD", "/d").header("x-test-status", "200").send();
    assert_eq!((head.status, head.body.len()), (200, 0));

    let unknown = post(&ledger, "/e").header("x-test-reset", "sometimes").send();
    assert_eq!(
        (unknown.status, unknown.text().as_str()),
        (501, "The ledger does not understand the value of x-test-reset.")
    );
}

#[test]
fn a_path_can_fail_first_and_succeed_then() {
    let ledger = Ledger::start();
    let pay = post(&ledger, "/a").header("x-test-first-status", "503,reset,201");
    assert_eq!(pay.send().status, 503);
    pay.try_send().unwrap_err();
    assert_eq!([pay.send().status, pay.send().status], [201, 201]);
    assert_eq!(post(&ledger, "/b").header("x-test-first-status", "503,reset,201").send().status, 503);
}

#[test]
fn large_bodies_come_whole_in_every_framing() {
    let ledger = Ledger::start();
    let big = body_of_size(3_000_000);
    let get = |framing: &[(&str, &str)]| -> Response {
        let request = post(&ledger, "/a").body(&big).header("x-test-body-size", "3000000");
        framing.iter().fold(request, |request, (name, value)| request.header(name, value)).send()
    };
    let declared = get(&[]);
    assert_eq!(declared.header("content-length"), Some("3000000"));
    let chunked = get(&[("x-test-chunked", "1")]);
    assert_eq!((chunked.header("content-length"), chunked.header("transfer-encoding")), (None, Some("chunked")));
    let late = get(&[("x-test-delay-body-ms", "20")]);
    let trailed = get(&[("x-test-trailers", "x-sum: 1"), ("x-test-trailers", "x-sum: 2")]);
    assert_eq!(trailed.trailers, [("x-sum".to_owned(), b"1".to_vec()), ("x-sum".to_owned(), b"2".to_vec())]);
    for response in [declared, chunked, late, trailed] {
        assert!(response.body == big, "a body of {} bytes differs", response.body.len());
    }
    assert!(ledger.entries().iter().all(|entry| entry.body_sha256 == sha256_hex(&big)));
}

#[test]
fn requests_can_be_chunked_trailed_and_hesitant() {
    let ledger = Ledger::start();
    assert_eq!(post(&ledger, "/a").chunked(["te", "", "n"]).trailer("x-sum", "1").send().status, 201);
    assert_eq!(post(&ledger, "/a").chunked([""; 0]).send().status, 201);
    let hesitant = post(&ledger, "/a").expect_continue().body("ten").send();
    assert_eq!((hesitant.status, hesitant.interim), (201, vec![100]));

    let entries = ledger.entries();
    assert_eq!(entries.iter().map(|entry| entry.body_len).collect::<Vec<_>>(), [3, 0, 3]);
    assert_eq!(entries[0].header("x-sum"), Some("1"));
}

#[test]
fn a_held_answer_comes_when_the_test_says_so() {
    let ledger = Ledger::start();
    let mut first = post(&ledger, "/a").header("x-test-hold", "gate").open();
    let mut second = post(&ledger, "/a").header("x-test-hold", "other").open();
    ledger.wait_for_held(2);
    assert_eq!(ledger.wait_for(2).len(), 2);
    assert!(first.is_silent_for(Duration::from_millis(20)));

    ledger.open("gate");
    assert_eq!(first.response().status, 201);
    assert!(second.is_silent_for(Duration::from_millis(20)));
    ledger.open("other");
    assert_eq!(second.response().status, 201);
}

#[test]
fn an_answer_can_break_off_anywhere_after_the_execution() {
    let ledger = Ledger::start();
    for (count, place) in ["before", "before-rst", "after-headers", "mid-body"].into_iter().enumerate() {
        let message = post(&ledger, "/a").header("x-test-reset", place).try_send().unwrap_err();
        assert!(message.ends_with('.'), "{message}");
        assert_eq!(ledger.entries().len(), count + 1, "{place}");
    }
    let mut cut = post(&ledger, "/a").header("x-test-reset", "mid-body").open();
    assert_eq!(cut.head().status, 201);
    assert_eq!(cut.read(), br#"{"id":""#);
}

#[test]
fn a_request_that_does_not_arrive_whole_is_no_execution() {
    let ledger = Ledger::start();
    let mut connection = post(&ledger, "/a").body("ten bytes!").open();
    connection.write("ten");
    ledger.wait_for_started(1);
    drop(connection);
    assert_eq!(post(&ledger, "/b").send().status, 201);
    assert_eq!(ledger.entries().iter().map(|entry| entry.path.as_str()).collect::<Vec<_>>(), ["/b"]);
}

#[test]
fn events_come_one_by_one() {
    let ledger = Ledger::start();
    let response = post(&ledger, "/a").header("x-test-sse", "2").send();
    assert_eq!(response.header("content-type"), Some("text/event-stream"));
    assert_eq!(response.text(), "data: 1\n\ndata: 2\n\n");
}

#[test]
fn sixty_four_clients_at_once_are_sixty_four_executions() {
    let ledger = Ledger::start();
    let requests: Vec<_> = (0..64).map(|_| post(&ledger, "/a").body("ten")).collect();
    let mut bodies: Vec<_> = send_all(&requests).into_iter().map(|response| response.body).collect();
    bodies.sort();
    bodies.dedup();
    assert_eq!(bodies.len(), 64);
}

#[test]
fn a_reserved_port_refuses_connections_and_is_nobody_elses() {
    let port = Port::reserve();
    assert_ne!(port.number(), Port::reserve().number());
    assert!(Request::post(port.addr(), "/").try_send().unwrap_err().contains("refused"));
    let taken = port.number();
    assert!(std::net::TcpListener::bind(port.addr()).is_err());
    drop(port);
    assert_eq!(Port::take(taken).unwrap().number(), taken);
}

#[test]
fn a_fault_may_be_for_some_calls_alone() {
    let ledger = Ledger::start();
    let way = Interposer::start(ledger.addr());
    way.only(b"POST ");
    way.next(1, Fault::CutAfter);
    assert_eq!(Request::new(way.addr(), "GET", "/page").send().status, 201);
    assert!(Request::post(way.addr(), "/pay").try_send().is_err());
    assert_eq!(Request::post(way.addr(), "/pay").send().status, 201);
    assert_eq!((way.calls(), ledger.entries_for("/pay").len()), (2, 2));
}

#[test]
fn a_connection_sends_what_the_test_wrote_and_nothing_else() {
    let ledger = Ledger::start();
    let mut connection = Connection::new(ledger.addr());
    for path in ["/a", "/b"] {
        connection.write(format!("POST {path} HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nhi"));
        assert_eq!(connection.response().status, 201);
    }
    let names: Vec<_> = ledger.entries().iter().flat_map(|entry| entry.headers.clone()).map(|(name, _)| name).collect();
    assert_eq!(names, ["host", "content-length", "host", "content-length"]);
}
