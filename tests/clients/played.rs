//! What clients of Go and Java send and send again by themselves, byte for byte.
//!
//! Its one rule: a repetition has the bytes of the first, because these clients keep what they have written.
//! It does not know how they decide to repeat.

use harness::Fault::CutAfter;
use harness::{Connection, PATIENCE, Response, wait_until};

use crate::scene::{Scene, rules};

/// What a client writes for a payment at this path, with this line for a key.
type Client = fn(&Scene, path: &str, key: &str) -> String;

/// `net/http` of Go: a request with `Idempotency-Key` or `X-Idempotency-Key` is one that it may repeat, once the
/// connection has served another and ends before a byte of the answer.
fn go(scene: &Scene, path: &str, key: &str) -> String {
    let (host, caller) = (scene.way.addr(), &scene.caller);
    format!(
        "POST {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: Go-http-client/1.1\r\nContent-Length: 15\r\n\
         Authorization: {caller}\r\nContent-Type: application/json\r\n{key}Accept-Encoding: gzip\r\n\r\n\
         {{\"amount\":4200}}"
    )
}

/// `HttpURLConnection` of Java: a connection that ends before a byte of the answer has it send a POST once more, on a
/// connection that has served and on a new one (`sun.net.http.retryPost`).
fn java(scene: &Scene, path: &str, key: &str) -> String {
    let (host, caller) = (scene.way.addr(), &scene.caller);
    format!(
        "POST {path} HTTP/1.1\r\nAuthorization: {caller}\r\nContent-Type: application/json\r\n{key}\
         User-Agent: Java/17.0.15\r\nHost: {host}\r\nAccept: text/html, image/gif, image/jpeg, */*; q=0.2\r\n\
         Connection: keep-alive\r\nContent-Length: 15\r\n\r\n{{\"amount\":4200}}"
    )
}

/// Loses the answer to these bytes, on a connection that has served before or on a new one, and sends them again.
#[track_caller]
fn sent_again(scene: &Scene, bytes: &str, has_served: bool) -> Response {
    let mut connection = Connection::new(scene.way.addr());
    if has_served {
        connection.write(format!("GET /warm HTTP/1.1\r\nHost: {}\r\n\r\n", scene.way.addr()));
        assert_eq!(connection.response().status, 201);
    }
    scene.way.next(1, CutAfter);
    connection.write(bytes);
    assert_eq!(connection.read(), b"", "the connection ends before a byte of the answer");
    let mut connection = Connection::new(scene.way.addr());
    connection.write(bytes);
    connection.response()
}

#[track_caller]
fn replays_the_only_execution(scene: &Scene, answer: &Response) {
    let said = answer.header("idempotency-status").unwrap_or_default();
    assert!(said.starts_with("replayed;attempt=1;"), "{said}: {}", answer.text());
    assert_eq!(answer.status, 201);
    scene.executed_once(&answer.json()["id"]);
}

/// It goes unprotected, and the answer says why.
#[track_caller]
fn executes_twice(scene: &Scene, answer: &Response) {
    assert_eq!(answer.header("idempotency-status"), Some("bypassed;reason=no-key"));
    assert_eq!(scene.executions().len(), 2);
}

#[test]
fn go_that_repeats_by_itself_gets_the_answer_of_its_key() {
    let scene = Scene::new(rules(), &[]);
    let answer = sent_again(&scene, &go(&scene, "/go", "Idempotency-Key: k\r\n"), true);
    replays_the_only_execution(&scene, &answer);
}

#[test]
fn go_repeats_under_another_header_too_which_counts_where_it_is_a_source() {
    let key = "X-Idempotency-Key: k\r\n";
    let scene = Scene::new(rules(), &[]);
    executes_twice(&scene, &sent_again(&scene, &go(&scene, "/go", key), true));
    let scene = Scene::new(rules(), &[]);
    replays_the_only_execution(&scene, &sent_again(&scene, &go(&scene, "/either/go", key), true));
}

/// A key header without a value says to Go that it may repeat, and does not go out.
#[test]
fn go_with_an_empty_key_repeats_without_one() {
    let scene = Scene::new(rules(), &[]);
    executes_twice(&scene, &sent_again(&scene, &go(&scene, "/go", ""), true));
    let scene = Scene::new(rules(), &[]);
    replays_the_only_execution(&scene, &sent_again(&scene, &go(&scene, "/content/go", ""), true));
}

#[test]
fn java_that_repeats_by_itself_gets_the_answer_of_its_key_or_its_content() {
    for has_served in [true, false] {
        for (path, key) in [("/java", "Idempotency-Key: k\r\n"), ("/content/java", "")] {
            let scene = Scene::new(rules(), &[]);
            let answer = sent_again(&scene, &java(&scene, path, key), has_served);
            replays_the_only_execution(&scene, &answer);
        }
        let scene = Scene::new(rules(), &[]);
        executes_twice(&scene, &sent_again(&scene, &java(&scene, "/java", ""), has_served));
    }
}

/// The connection ends while the service works on the only payment of this path, and the client repeats before there is an
/// answer.
#[track_caller]
fn sent_again_while_it_runs(scene: &Scene, client: Client, path: &str) -> Connection {
    let ledger = &scene.world.ledger;
    ledger.steer(path, &[("x-test-hold", path)]);
    let bytes = client(scene, path, "Idempotency-Key: k\r\n");
    let mut first = Connection::new(scene.way.addr());
    first.write(&bytes);
    wait_until("the service works", PATIENCE, || ledger.entries_for(path).len() == 1);
    drop(first);
    scene.world.gateway.wait_for_access_log(&format!("POST {path} 0 "));
    let mut second = Connection::new(scene.way.addr());
    second.write(&bytes);
    second
}

#[test]
fn a_client_that_repeats_while_the_first_runs_gets_its_answer_where_duplicates_wait() {
    for (path, client) in [("/patient/go", go as Client), ("/patient/java", java)] {
        let scene = Scene::new(rules(), &[]);
        let mut second = sent_again_while_it_runs(&scene, client, path);
        scene.world.gateway.wait_for_stat("wasmcustom.idempotency_waiting", 1);
        scene.world.ledger.open(path);
        replays_the_only_execution(&scene, &second.response());
    }
}

/// Inline, the service's answer has no way to the gateway any more; shielded, the first runs on.
#[test]
fn a_client_that_repeats_while_the_first_runs_is_refused_where_duplicates_do_not_wait() {
    for (path, client, status, reason) in [
        ("/inline-go", go as Client, 409, "outcome-unknown"),
        ("/inline-java", java, 409, "outcome-unknown"),
        ("/shielded/go", go, 429, "in-flight"),
        ("/shielded/java", java, 429, "in-flight"),
    ] {
        let scene = Scene::new(rules(), &[]);
        let answer = sent_again_while_it_runs(&scene, client, path).response();
        let said = answer.header("idempotency-status").unwrap_or_default();
        assert!(answer.status == status && said.ends_with(reason), "{path}: {} {said}", answer.status);
        assert_eq!(scene.executions().len(), 1);
        scene.world.ledger.open(path);
    }
}
