//! Clients that break rules, break off, or ask for what the filter cannot protect.
//!
//! Its one rule: whatever one client does, no operation executes twice unsaid, nobody gets another's answer, and the
//! gateway goes on as before.
//! It does not know what a well-behaved client looks like: the other files do.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use harness::gateway::{cluster, hcm, set_endpoint};
use harness::{CALLER, Gateway, Options, PATIENCE, Port, Request, World, wait_for, wait_until};
use serde_json::{Value, json};

use crate::check::{executed, is_refusal, refused, replays, said, shown};
use crate::memory::resident;
use crate::worlds::{plain, rules, troubled};

#[test]
fn ten_thousand_headers_are_noise() {
    let tape = Tape::start();
    let world = World::with(json!({}), |options| {
        let service = tape.addr;
        options.mutate(move |tree| {
            set_endpoint(cluster(tree, "payments"), service);
            hcm(tree)["max_request_headers_kb"] = json!(8192);
            hcm(tree)["common_http_protocol_options"] = json!({ "max_headers_count": 20_000 });
        })
    });
    let pay = |path: &str| world.post(path).key("k").header("Idempotency-Operation", "forged").body("ten");
    let many = (0..10_000).fold(pay("/many"), |pay, n| pay.header(format!("x-noise-{n}"), "y"));
    let repeated = (0..5_000).fold(pay("/repeated"), |pay, n| pay.header("x-noise", n.to_string()));
    let long = pay("/long").header("x-noise", vec![b'a'; 2 << 20]);
    for request in [many, repeated, long] {
        let first = request.send();
        executed(&first, 1);
        replays(&request.send(), &first);
        let heads = tape.heads(request.path());
        assert!(heads.len() == 1 && !heads[0].contains("forged"), "{} executions", heads.len());
    }
}

#[test]
fn a_request_that_is_never_protected_cannot_carry_what_only_the_gateway_may_say() {
    let world = plain();
    let grpc = world.post("/hostile/grpc").key("k").header("content-type", "application/grpc").body("ten");
    let forged = grpc.header("Idempotency-Operation", "forged").header("Idempotency-Attempt", "99");
    forged.send();
    let entry = world.ledger.entries_for("/hostile/grpc").remove(0);
    assert_eq!((entry.key.as_deref(), entry.operation, entry.attempt), (Some("k"), None, None));
}

#[test]
fn what_only_the_gateway_may_say_is_taken_from_a_client_in_every_spelling() {
    let tape = Tape::start();
    let world = World::with(json!({}), |options| {
        let service = tape.addr;
        options.mutate(move |tree| set_endpoint(cluster(tree, "payments"), service))
    });
    for (path, key) in [("/protected", Some("k")), ("/without-a-key", None)] {
        let pay = key.map_or(world.post(path), |key| world.post(path).key(key));
        let names = ["Attempt", "Fence", "Operation"].into_iter();
        let names = names.flat_map(|name| [format!("Idempotency-{name}"), format!("IDEMPOTENCY_{name}")]);
        names.fold(pay, |pay, name| pay.header(name, "forged")).body("ten").send();
        let [head] = &tape.heads(path)[..] else { panic!("one execution") };
        assert!(!head.contains("forged"), "{head}");
    }
}

#[test]
fn an_empty_credential_is_none() {
    let world = plain();
    let pay = |cookie: &str| {
        world.post("/hostile/empty").key("k").header("authorization", "").header("cookie", cookie).body("ten").send()
    };
    for cookie in ["session=alice", "session=bob"] {
        let answer = pay(cookie);
        assert_eq!(said(&answer), "bypassed;reason=no-caller", "{}", shown(&answer));
    }
    let refused_without = rules().post("/known-only/empty").key("k").header("authorization", "").body("ten").send();
    refused(&refused_without, 401, "caller-missing", None);
}

#[test]
fn a_first_response_whose_body_comes_late_is_kept_and_blamed_on_nobody() {
    let world = World::with(json!({}), |options| options.concurrency(1));
    // Without a body, so that the worker has not been shown one.
    let pay = world.post("/late").key("k").header("x-test-delay-body-ms", "3000");
    let first = pay.send();
    assert!(!world.gateway.log().contains("allow_on_headers_stop_iteration"));
    executed(&first, 1);
    replays(&pay.send(), &first);
}

#[test]
fn lengths_that_lie_execute_nothing_they_do_not_say() {
    let world = plain();
    let cases = [
        ("Content-Length: 2\r\nContent-Length: 3\r\n\r\nten", 400),
        ("Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nten\r\n0\r\n\r\n", 400),
        ("Content-Length: -3\r\n\r\nten", 400),
        ("Content-Length: +3\r\n\r\nten", 400),
        ("Content-Length: 3 3\r\n\r\nten", 400),
        ("Content-Length: 18446744073709551616\r\n\r\nten", 400),
        ("Content-Length: 18446744073709551615\r\n\r\nten", 413),
        ("Transfer-Encoding: chunked\r\n\r\nzz\r\nten\r\n0\r\n\r\n", 400),
    ];
    for (rest, status) in cases {
        let mut client = talk(&world.gateway, &format!("{POST_LENGTHS}{rest}"));
        assert_eq!(status_of(&mut client), Some(status), "{rest:?}");
    }
    assert_eq!(world.ledger.entries_for("/hostile/lengths").len(), 0);

    // Too short: what is left over is no request, and does not change the one before.
    let mut client = talk(&world.gateway, &format!("{POST_LENGTHS}Content-Length: 3\r\n\r\nten and more"));
    assert_eq!(status_of(&mut client), Some(201));
    let pay = world.post("/hostile/lengths").key("k").body("ten");
    assert!(said(&pay.send()).starts_with("replayed;"));
    assert_eq!(world.ledger.entries_for("/hostile/lengths").len(), 1);
}

#[test]
fn requests_sent_in_one_go_execute_once() {
    let world = plain();
    let one = "POST /hostile/pipelined HTTP/1.1\r\nHost: api.example.com\r\nAuthorization: Bearer alice\r\nIdempotency-Key: k\r\n\
               Content-Length: 3\r\n\r\nten";
    let mut client = talk(&world.gateway, &one.repeat(10));
    assert_eq!(status_of(&mut client), Some(201));
    // Envoy itself closes such a connection after some answers of its own; whoever comes again gets the replay.
    drop(client);
    let again = world.post("/hostile/pipelined").key("k").body("ten");
    wait_until("it is replayed", PATIENCE, || said(&again.send()).starts_with("replayed;"));
    assert_eq!(world.ledger.entries_for("/hostile/pipelined").len(), 1);
}

#[test]
fn an_http_2_stream_that_is_reset_in_mid_body_claims_nothing() {
    let world = plain();
    let mut client = Frames::connect(&world.gateway);
    for stream in [1, 3, 5] {
        client.head(stream, "/hostile/rst-body", &[("authorization", CALLER), ("idempotency-key", "k")]);
        client.frame(DATA, 0, stream, b"te");
        client.settle();
        client.frame(RST_STREAM, 0, stream, &8u32.to_be_bytes());
    }
    client.settle();
    let pay = world.post("/hostile/rst-body").key("k").body("ten");
    let first = pay.send();
    executed(&first, 1);
    replays(&pay.send(), &first);
    assert_eq!(world.ledger.entries_for("/hostile/rst-body").len(), 1);
}

#[test]
fn an_http_2_stream_that_is_reset_while_the_service_works_is_unknown() {
    let world = troubled();
    let mut client = Frames::connect(&world.gateway);
    let fields = [("authorization", CALLER), ("idempotency-key", "k"), ("x-test-hold", "rst-working")];
    client.head(1, "/hostile/rst-working", &fields);
    client.frame(DATA, END_STREAM, 1, b"ten");
    let executions = || world.ledger.entries_for("/hostile/rst-working").len();
    wait_until("the service works", PATIENCE, || executions() == 1);
    client.frame(RST_STREAM, 0, 1, &8u32.to_be_bytes());
    client.settle();
    let pay = world.post("/hostile/rst-working").key("k").body("ten");
    let early = pay.send();
    assert!(is_refusal(&early, "outcome-unknown") && executions() == 1, "{}", shown(&early));
    let later = wait_for("the lease is over", PATIENCE, || Some(pay.send()).filter(|answer| answer.status == 201));
    executed(&later.unwrap(), 2);
}

#[test]
fn a_client_that_half_closes_gets_no_second_execution() {
    let world = troubled();
    let mut client = talk(
        &world.gateway,
        "POST /hostile/half HTTP/1.1\r\nHost: api.example.com\r\nAuthorization: Bearer alice\r\nIdempotency-Key: k\r\nx-test-delay-ms: 300\r\n\
         Content-Length: 3\r\n\r\nten",
    );
    let executions = || world.ledger.entries_for("/hostile/half").len();
    wait_until("the service works", PATIENCE, || executions() == 1);
    client.shutdown(Shutdown::Write).unwrap();
    let answered = status_of(&mut client);
    let pay = world.post("/hostile/half").key("k").body("ten");
    // Who has read the end of a connection may ask before the worker has settled what ran on it.
    let again =
        wait_for("the first is over", PATIENCE, || Some(pay.send()).filter(|again| again.status != 429)).unwrap();
    match answered {
        Some(_) => assert!(said(&again).starts_with("replayed;"), "{}", shown(&again)),
        None => assert!(is_refusal(&again, "outcome-unknown"), "{}", shown(&again)),
    }
    assert_eq!(executions(), 1);
}

#[test]
fn upgrades_and_tunnels_work_and_are_counted() {
    let tape = Tape::start();
    let rules = json!([{ "match": { "methods": ["*", "GET", "CONNECT"] } }]);
    let world = World::with(json!({ "rules": rules }), |options| {
        let service = tape.addr;
        options.mutate(move |tree| {
            set_endpoint(cluster(tree, "payments"), service);
            hcm(tree)["upgrade_configs"] = json!([{ "upgrade_type": "websocket" }, { "upgrade_type": "CONNECT" }]);
            let tunnel = json!({
                "match": { "connect_matcher": {} },
                "route": {
                    "cluster": "payments",
                    "upgrade_configs": [{ "upgrade_type": "CONNECT", "connect_config": {} }],
                },
            });
            hcm(tree)["route_config"]["virtual_hosts"][0]["routes"].as_array_mut().unwrap().insert(0, tunnel);
        })
    });
    let upgrade = "Upgrade: websocket\r\nConnection: keep-alive, UPGRADE\r\n";
    let cases = [
        (format!("GET /socket HTTP/1.1\r\nHost: a\r\nIdempotency-Key: k\r\n{upgrade}\r\n"), 101),
        (format!("POST /socket HTTP/1.1\r\nHost: a\r\nIdempotency-Key: k\r\n{upgrade}\r\n"), 101),
        ("CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\nIdempotency-Key: k\r\n\r\n".to_owned(), 200),
    ];
    for (head, status) in &cases {
        for _ in 0..2 {
            let mut client = talk(&world.gateway, head);
            assert_eq!(status_of(&mut client), Some(*status), "{head}");
            client.write_all(b"ping").unwrap();
            let mut echo = [0; 4];
            client.read_exact(&mut echo).unwrap();
            assert_eq!(&echo, b"ping");
        }
    }
    assert_eq!(world.gateway.counted("bypassed.upgrade"), 4);
    assert_eq!(world.gateway.counted("bypassed.connect"), 2);
    assert_eq!(world.gateway.stat("wasmcustom.idempotency_running"), 0);
    // An upgrade that Envoy does not know is refused by Envoy, and is no way round.
    let mut client = talk(
        &world.gateway,
        "POST /socket HTTP/1.1\r\nHost: a\r\nUpgrade: other\r\nConnection: Upgrade\r\nContent-Length: 3\r\n\r\nten",
    );
    assert_eq!(status_of(&mut client), Some(403));
}

#[test]
fn bodies_held_back_by_slow_clients_are_bounded_and_no_bar_once_they_have_gone() {
    let world = World::with(json!({}), |options| options.concurrency(1));
    let pay = |path: &str| world.post(path).key("k").body("ten");
    executed(&pay("/before").send(), 1);
    let before = resident(world.gateway.process_id());
    let body = vec![b'a'; 524_288];
    let slow: Vec<_> = (0..160)
        .map(|n| {
            let mut client = world.post(&format!("/slow/{n}")).key("k").body(&body).open();
            client.write(&body[..520_000]);
            client
        })
        .collect();
    let refusals = || world.gateway.counted("store_failures.overloaded");
    wait_until("the worker is overloaded", PATIENCE, || refusals() > 0);
    let after = resident(world.gateway.process_id());
    assert!(after <= before + (112 << 20), "{after} bytes after {before}");
    assert_eq!(said(&world.post("/keyless").body("ten").send()), "bypassed;reason=no-key");
    drop(slow);
    let answer = wait_for("it is not overloaded any more", PATIENCE, || {
        Some(pay("/after").send()).filter(|answer| !is_refusal(answer, "store-unavailable"))
    });
    executed(&answer.unwrap(), 1);
    assert!(said(&pay("/before").send()).starts_with("replayed;"));
    assert!(!world.ledger.entries().iter().any(|entry| entry.path.starts_with("/slow/")));
}

#[test]
fn what_is_told_apart_does_not_meet_when_it_is_put_together() {
    let world = plain();
    let parts = [
        ("", "/ab", "api.example.com", "cd"),
        ("", "/a", "api.example.com", "bcd"),
        ("", "/abc", "api.example.com", "d"),
        ("c", "/ab", "api.example.com", "d"),
        ("cd", "/ab", "api.example.com", "d"),
        ("c", "/ab", "api.example.co", "md"),
        ("c", "/ab", "api.example.comd", "d"),
        ("c/ab", "/", "api.example.com", "d"),
        ("c", "/ab/", "api.example.com", "d"),
        ("c", "/ab%20", "api.example.com", "d"),
    ];
    let requests: Vec<Request> = parts
        .iter()
        .map(|(caller, path, host, key)| {
            let pay = world.post(&format!("/hostile/meet{path}")).host(host).key(key).body("ten");
            if caller.is_empty() { pay } else { pay.header("authorization", caller) }
        })
        .collect();
    let firsts: Vec<_> = requests.iter().map(Request::send).collect();
    firsts.iter().for_each(|first| executed(first, 1));
    requests.iter().zip(&firsts).for_each(|(request, first)| replays(&request.send(), first));
    let entries = world.ledger.entries();
    let meeting = entries.iter().filter(|entry| entry.path.starts_with("/hostile/meet"));
    let operations: std::collections::BTreeSet<_> = meeting.map(|entry| entry.operation.clone()).collect();
    assert_eq!(operations.len(), parts.len());
}

#[test]
fn gateways_in_one_envoy_share_records_by_the_name_of_their_plugin() {
    let ports = [Port::reserve(), Port::reserve(), Port::reserve()];
    let numbers = [ports[0].number(), ports[1].number(), ports[2].number()];
    let world = World::with(json!({}), move |options| {
        options.mutate(move |tree| {
            let mut listeners = tree["static_resources"]["listeners"].as_array_mut().unwrap().clone();
            for (number, (name, vm_id)) in
                numbers.iter().zip([("idempotency", "idempotency"), ("other", "idempotency"), ("idempotency", "other")])
            {
                let mut more = listeners[0].clone();
                more["name"] = json!(format!("gateway-{number}"));
                more["address"]["socket_address"]["port_value"] = json!(number);
                let manager = &mut more["filter_chains"][0]["filters"][0]["typed_config"];
                let plugin = &mut manager["http_filters"][0]["typed_config"]["config"];
                plugin["name"] = json!(name);
                plugin["vm_config"]["vm_id"] = json!(vm_id);
                listeners.push(more);
            }
            tree["static_resources"]["listeners"] = Value::Array(listeners);
        })
    });
    let pay = world.post("/pay").key("k").body("ten");
    let first = pay.send();
    executed(&first, 1);
    replays(&pay.clone().to(ports[0].addr()).send(), &first);
    for other in &ports[1..] {
        let elsewhere = pay.clone().to(other.addr());
        let execution = elsewhere.send();
        executed(&execution, 1);
        replays(&elsewhere.send(), &execution);
    }
    replays(&pay.send(), &first);
    assert_eq!(world.ledger.entries().len(), 3);
}

#[test]
fn another_bound_is_another_table_and_the_old_one_is_found_again() {
    let world = World::with(json!({}), |options: Options| options.lds().drain_time_s(1));
    let pay = world.post("/pay").key("k").body("ten");
    let first = pay.send();
    executed(&first, 1);
    world.gateway.update_plugin_config(&json!({ "store": { "max_bytes": 1 << 20 } })).unwrap();
    wait_until("the new table is in use", PATIENCE, || said(&pay.send()).starts_with("executed;"));
    wait_until("all workers use it", PATIENCE, || (0..20).all(|_| pay.send().body != first.body));
    assert_eq!(world.ledger.entries().len(), 2);
    world.gateway.update_plugin_config(&json!({})).unwrap();
    wait_until("the old table is in use", PATIENCE, || (0..20).all(|_| pay.send().body == first.body));
    assert_eq!(world.ledger.entries().len(), 2);
}

#[test]
fn a_restart_forgets_what_was_done_and_works() {
    let mut world = World::start(json!({}));
    let pay = world.post("/pay").key("k").body("ten");
    executed(&pay.send(), 1);
    world.gateway.restart();
    let first = pay.send();
    executed(&first, 1);
    replays(&pay.send(), &first);
    assert_eq!(world.ledger.entries().len(), 2);
}

const POST_LENGTHS: &str = "POST /hostile/lengths HTTP/1.1\r\nHost: api.example.com\r\nAuthorization: Bearer alice\r\nIdempotency-Key: k\r\nConnection: close\r\n";

/// Sends these bytes on a connection of their own.
#[track_caller]
fn talk(gateway: &Gateway, bytes: &str) -> TcpStream {
    let mut client = TcpStream::connect(gateway.addr()).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.write_all(bytes.as_bytes()).unwrap();
    client
}

/// The status of the next answer, whose head is read; none when the connection ends without one.
fn status_of(client: &mut TcpStream) -> Option<u16> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        match client.read(&mut byte) {
            Ok(1) => head.push(byte[0]),
            _ => return None,
        }
    }
    String::from_utf8_lossy(&head).split(' ').nth(1)?.parse().ok()
}

/// An HTTP/2 connection written frame by frame.
pub struct Frames(TcpStream);

pub const DATA: u8 = 0;
const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
pub const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const ACK: u8 = 1;

impl Frames {
    /// Opens it.
    pub fn connect(gateway: &Gateway) -> Frames {
        let mut frames = Frames(talk(gateway, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"));
        frames.frame(SETTINGS, 0, 0, b"");
        frames.settle();
        frames
    }

    /// Sends one frame.
    pub fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let mut bytes = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
        bytes.extend([kind, flags]);
        bytes.extend(stream.to_be_bytes());
        bytes.extend(payload);
        self.0.write_all(&bytes).unwrap();
    }

    /// The head of a POST; every name and value in plain, and shorter than 127 bytes (RFC 7541, section 6.2.2).
    pub fn head(&mut self, stream: u32, path: &str, fields: &[(&str, &str)]) {
        let pseudo = [(":method", "POST"), (":scheme", "http"), (":authority", "api.example.com"), (":path", path)];
        let mut block = Vec::new();
        for (name, value) in pseudo.iter().chain(fields) {
            block.push(0);
            for text in [name, value] {
                block.push(u8::try_from(text.len()).unwrap());
                block.extend(text.as_bytes());
            }
        }
        self.frame(HEADERS, END_HEADERS, stream, &block);
    }

    /// Returns when Envoy has read everything that was sent so far.
    pub fn settle(&mut self) {
        self.frame(PING, 0, 0, b"are you?");
        loop {
            let mut head = [0; 9];
            self.0.read_exact(&mut head).unwrap();
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let mut payload = vec![0; length as usize];
            self.0.read_exact(&mut payload).unwrap();
            match (head[3], head[4]) {
                (PING, ACK) => return,
                (SETTINGS, 0) => self.frame(SETTINGS, ACK, 0, b""),
                _ => (),
            }
        }
    }
}

/// A service that takes any number of headers, agrees to every upgrade, and remembers every head it was sent.
struct Tape {
    addr: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Tape {
    fn start() -> Tape {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let tape = Tape { addr: listener.local_addr().unwrap(), heads: Arc::default() };
        let heads = Arc::clone(&tape.heads);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let heads = Arc::clone(&heads);
                thread::spawn(move || serve(stream, &heads));
            }
        });
        tape
    }

    /// The heads of the requests to this path.
    fn heads(&self, path: &str) -> Vec<String> {
        let heads = self.heads.lock().unwrap();
        heads.iter().filter(|head| head.starts_with(&format!("POST {path} "))).cloned().collect()
    }
}

fn serve(mut stream: TcpStream, heads: &Mutex<Vec<String>>) {
    let mut unread = Vec::new();
    let mut buffer = vec![0; 65_536];
    while let Ok(count @ 1..) = stream.read(&mut buffer) {
        unread.extend_from_slice(&buffer[..count]);
        let whole = String::from_utf8_lossy(&unread).into_owned();
        let (answer, is_tunnel) = match whole.split_once("\r\n\r\n") {
            // What comes through a tunnel.
            None if !whole.starts_with("GET ") && !whole.starts_with("POST ") => (whole.as_str(), true),
            None => continue,
            Some((head, _)) if head.to_ascii_lowercase().contains("\nupgrade:") => {
                ("HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n", true)
            }
            Some((head, "ten")) => {
                heads.lock().unwrap().push(head.to_owned());
                ("HTTP/1.1 201 Created\r\ncontent-length: 2\r\n\r\nok", false)
            }
            Some(_) => continue,
        };
        if stream.write_all(answer.as_bytes()).is_err() {
            return;
        }
        unread.clear();
        if is_tunnel {
            break;
        }
    }
    while let Ok(count @ 1..) = stream.read(&mut buffer) {
        if stream.write_all(&buffer[..count]).is_err() {
            return;
        }
    }
}
