//! Header values that are not UTF-8, in every place where one can stand.
//!
//! Its one rule: after each of them the VM is the same as before, and so is every request that was under way.
//! It does not know what the values mean.

use std::io::{Read, Write};
use std::net::TcpStream;

use harness::{Connection, PATIENCE, World};

use crate::check::{executed, refused, replays};
use crate::worlds::{Shared, plain, start};

#[test]
fn a_key_that_is_not_utf_8_is_invalid() {
    let world = unharmed();
    for key in [b"\xff".as_slice(), b"\"\xff\"", b"a\xc3", b"\x80\x81"] {
        refused(&world.post("/bytes/key").key(key).body("ten").send(), 400, "key-invalid", None);
    }
    world.check();
}

#[test]
fn a_caller_that_is_not_utf_8_is_a_caller_like_any_other() {
    let world = unharmed();
    let pay = |caller: &[u8]| world.post("/bytes/caller").key("k").header("authorization", caller).body("ten");
    let first = pay(b"Bearer \xff").send();
    executed(&first, 1);
    executed(&pay(b"Bearer \xfe").send(), 1);
    executed(&pay(b"Bearer \xef\xbf\xbd").send(), 1);
    replays(&pay(b"Bearer \xff").send(), &first);
    world.check();
}

#[test]
fn a_content_type_that_is_not_utf_8_is_part_of_the_payload() {
    let world = unharmed();
    let pay = |media: &[u8]| world.post("/bytes/content-type").key("k").header("content-type", media).body("ten");
    let first = pay(b"text/\xff").send();
    executed(&first, 1);
    replays(&pay(b"text/\xff;charset=\xfe").send(), &first);
    refused(&pay(b"text/\xfe").send(), 409, "mismatch", None);
    world.check();
}

#[test]
fn other_headers_and_cookies_may_be_any_bytes() {
    let world = unharmed();
    for (index, name) in
        ["x-raw", "user-agent", "accept", "x-forwarded-for", "x-request-id", "traceparent", "te"].iter().enumerate()
    {
        let pay = world.post(&format!("/bytes/header-{index}")).key("k").header(name, b"\xff\xfe\x80").body("ten");
        let first = pay.send();
        executed(&first, 1);
        replays(&pay.send(), &first);
    }
    let cookie = world.post("/bytes/cookie").key("k").header("cookie", b"\xff=\xfe; \xff").body("ten");
    executed(&cookie.send(), 1);
    let alone = cookie.anonymous().send();
    assert_eq!((alone.status, alone.header("idempotency-status")), (201, Some("bypassed;reason=no-caller")));
    world.check();
}

#[test]
fn what_decides_about_the_body_may_be_any_bytes() {
    let world = unharmed();
    for (name, value) in
        [("upgrade", b"\xff".as_slice()), ("connection", b"\xff"), ("expect", b"\xff"), ("content-encoding", b"\xff")]
    {
        // Envoy may refuse it; if not, it runs.
        let answer = world.post(&format!("/bytes/framing-{name}")).key("k").header(name, value).body("ten").try_send();
        if let Ok(answer) = answer {
            assert!([201, 400, 403, 417].contains(&answer.status), "{answer:?}");
        }
    }
    world.check();
}

#[test]
fn a_forged_header_that_is_not_utf_8_is_still_removed() {
    let world = unharmed();
    let pay =
        world.post("/bytes/forged").header("Idempotency-Operation", b"\xff").header("Idempotency-Attempt", b"\xff");
    for request in [pay.clone().key("k"), pay.clone()] {
        assert_eq!(request.body("ten").send().status, 201);
    }
    let entries = world.ledger.entries_for("/bytes/forged");
    let all = entries.iter().flat_map(|entry| &entry.headers);
    let forged = all.filter(|(name, value)| name.starts_with("idempotency-") && value.contains(&0xff)).count();
    assert_eq!((entries.len(), forged), (2, 0));
    world.check();
}

#[test]
fn a_host_a_path_and_a_query_may_be_any_bytes() {
    let world = unharmed();
    let heads: [&[u8]; 5] = [
        b"POST /bytes/host HTTP/1.1\r\nHost: \xff.example.com\r\n",
        b"POST /bytes/host-port HTTP/1.1\r\nHost: a:\xff\r\n",
        b"POST /bytes/path-\xff HTTP/1.1\r\nHost: api.example.com\r\n",
        b"POST /bytes/query?a=\xff&\xfe HTTP/1.1\r\nHost: api.example.com\r\n",
        b"POST http://\xff.example.com/bytes/absolute HTTP/1.1\r\nHost: api.example.com\r\n",
    ];
    for head in heads {
        let statuses = [raw(&world, head), raw(&world, head)];
        // Envoy refuses most of them by itself; what it lets through executes and replays.
        assert!(statuses == [400, 400] || statuses == [201, 201], "{} got {statuses:?}", head.escape_ascii());
    }
    let percent = world.post("/bytes/percent?a=%FF&%FE").key("k").body("ten");
    let first = percent.send();
    executed(&first, 1);
    replays(&percent.send(), &first);
    world.check();
}

#[test]
fn a_service_may_answer_with_any_bytes() {
    let world = unharmed();
    let names = ["x-raw", "content-type", "location", "etag", "connection", "cache-control", "idempotency-status"];
    for (index, name) in names.iter().enumerate() {
        let line = [name.as_bytes(), b": \xff\xfe"].concat();
        let pay = world.post(&format!("/bytes/answer-{index}")).key("k").header("x-test-header", line).body("ten");
        let first = pay.send();
        executed(&first, 1);
        replays(&pay.send(), &first);
    }
    for (name, status) in [("idempotency-store", "201"), ("idempotency-ttl", "201"), ("retry-after", "503")] {
        let line = [name.as_bytes(), b": \xff\xfe"].concat();
        let pay = world.post(&format!("/bytes/answer-{name}")).key("k").header("x-test-header", line);
        assert_eq!(pay.header("x-test-status", status).body("ten").send().status.to_string(), status);
    }
    world.check();
}

/// The shared gateway with requests under way on all its workers.
struct Unharmed {
    world: Shared,
    gate: String,
    running: Vec<Connection>,
}

impl std::ops::Deref for Unharmed {
    type Target = World;

    fn deref(&self) -> &World {
        &self.world
    }
}

#[track_caller]
fn unharmed() -> Unharmed {
    let world = plain();
    let gate = format!("unharmed-{}", std::panic::Location::caller().line());
    let running = (0..8)
        .map(|n| {
            let request = world.post(&format!("/bytes/{gate}-{n}")).key("k");
            start(&world, &request, "ten", &gate)
        })
        .collect();
    Unharmed { world, gate, running }
}

impl Unharmed {
    /// The requests under way complete, others run, and no VM was replaced.
    #[track_caller]
    fn check(mut self) {
        self.world.ledger.open(&self.gate);
        for (n, connection) in self.running.iter_mut().enumerate() {
            let first = connection.response();
            executed(&first, 1);
            let again = self.world.post(&format!("/bytes/{}-{n}", self.gate)).key("k").body("ten");
            replays(&again.send(), &first);
        }
        let stats = self.world.gateway.admin("/stats?filter=wasm.*(vm_reload|crash|fail)");
        let counts: Vec<_> = stats.lines().filter_map(|line| line.rsplit_once(": ")).collect();
        assert!(counts.len() >= 4 && counts.iter().all(|(_, count)| *count == "0"), "{stats}");
        assert!(!self.world.gateway.log().contains("panicked"));
    }
}

/// Sends a head that the client cannot write, with a key and a body; the status of the answer.
fn raw(world: &World, head: &[u8]) -> u16 {
    let mut stream = TcpStream::connect(world.gateway.addr()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let rest =
        b"Authorization: Bearer alice\r\nIdempotency-Key: k\r\nConnection: close\r\nContent-Length: 3\r\n\r\nten";
    stream.write_all(&[head, rest].concat()).unwrap();
    // Envoy closes a connection that it cannot make sense of only after a while.
    let mut line = [0; 12];
    stream.read_exact(&mut line).unwrap();
    let line = String::from_utf8_lossy(&line);
    line.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_else(|| panic!("no answer: {line:?}"))
}
