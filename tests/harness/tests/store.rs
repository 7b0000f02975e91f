//! Redis, Webdis and the fault proxy: what the harness itself promises about them.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use harness::gateway::{cluster, listener_named, set_endpoints, shipped};
use harness::redis::DURABLE;
use harness::{
    Dialect, Fault, Gateway, Interposer, Ledger, Options, PATIENCE, Port, Redis, RedisCluster, Reply, Request,
    Response, Webdis, wait_until,
};
use serde_json::{Value, json};

/// A call to Webdis whose answer is its body.
fn echo(to: SocketAddr, body: impl AsRef<[u8]>) -> Request {
    Request::new(to, "PUT", "/EVAL/return%20ARGV%5B1%5D/0.raw").body(body)
}

fn answered(body: &str) -> Vec<u8> {
    format!("${}\r\n{body}\r\n", body.len()).into_bytes()
}

#[test]
fn every_byte_passes_to_redis_and_back() {
    let redis = Redis::start();
    let webdis = Webdis::start(redis.addr());
    let interposer = Interposer::start(webdis.addr());
    let bytes: Vec<u8> = (0..=255).cycle().take(700_000).collect();
    let set = Request::new(
        interposer.addr(),
        "PUT",
        "/EVAL/redis.call('SET'%2CKEYS%5B1%5D%2CARGV%5B1%5D)%20return%20ARGV%5B1%5D/1/k.raw",
    );
    let answer = set.body(&bytes).send();
    assert!(answer.body == [b"$700000\r\n".as_slice(), &bytes, b"\r\n"].concat());
    assert!(redis.get(b"k") == Some(bytes));
    assert_eq!(redis.keys(), [b"k"]);
    assert_eq!(interposer.calls(), 1);
}

#[test]
fn a_sliced_call_passes_whole_and_one_that_is_run_twice_is_answered_once() {
    let redis = Redis::start();
    let webdis = Webdis::start(redis.addr());
    let interposer = Interposer::start(webdis.addr());
    interposer.next(1, Fault::Slice);
    let bytes: Vec<u8> = (0..=255).cycle().take(5000).collect();
    assert_eq!(echo(interposer.addr(), &bytes).send().body, [b"$5000\r\n".as_slice(), &bytes, b"\r\n"].concat());
    interposer.next(1, Fault::Twice);
    let count = Request::new(interposer.addr(), "GET", "/EVAL/return%20redis.call('INCR'%2CKEYS%5B1%5D)/1/k.raw");
    assert_eq!(count.send().body, b":1\r\n");
    assert_eq!(redis.get(b"k"), Some(b"2".to_vec()));
}

#[test]
fn a_redis_with_an_append_only_file_comes_back_with_what_it_acknowledged() {
    let redis = Redis::with(&DURABLE);
    let webdis = Webdis::start(redis.addr());
    assert_eq!(redis.ask(&[b"SET", b"k".as_slice(), b"\r\n\0\xff"]), Reply::Status("OK".to_owned()));
    redis.kill();
    assert_eq!(echo(webdis.addr(), "ten").send().status, 503);
    redis.restart();
    assert_eq!(redis.get(b"k"), Some(b"\r\n\0\xff".to_vec()));
    wait_until("Webdis has found it", PATIENCE, || echo(webdis.addr(), "ten").send().body == answered("ten"));

    webdis.kill();
    echo(webdis.addr(), "ten").try_send().unwrap_err();
    webdis.restart();
    assert_eq!(echo(webdis.addr(), "ten").send().body, answered("ten"));
}

#[test]
fn a_frozen_redis_answers_when_it_goes_on() {
    let redis = Redis::start();
    let webdis = Webdis::start(redis.addr());
    redis.freeze();
    let mut waiting = echo(webdis.addr(), "ten").open();
    waiting.write("ten");
    assert!(waiting.is_silent_for(Duration::from_millis(200)));
    redis.thaw();
    assert_eq!(waiting.response().body, answered("ten"));
}

#[test]
fn a_replica_follows_until_it_is_promoted() {
    let primary = Redis::start();
    let replica = primary.replica();
    primary.ask(&["SET", "k", "1"]);
    wait_until("it has followed", PATIENCE, || replica.get(b"k") == Some(b"1".to_vec()));
    assert!(replica.ask(&["SET", "k", "2"]).text().starts_with("READONLY "));

    let webdis = Webdis::start(primary.addr());
    replica.ask(&["REPLICAOF", "NO", "ONE"]);
    primary.kill();
    webdis.turn_to(replica.addr());
    wait_until("Webdis asks the promoted one", PATIENCE, || {
        let path = "/EVAL/return%20redis.call('GET'%2CKEYS%5B1%5D)/1/k.raw";
        Request::new(webdis.addr(), "GET", path).send().body == answered("1")
    });
}

#[test]
fn a_full_redis_says_so() {
    let redis = Redis::with(&["--maxmemory", "2mb", "--maxmemory-policy", "noeviction"]);
    let big = vec![b'x'; 100_000];
    let refusal = (0..100).map(|n| redis.ask(&[b"SET", n.to_string().as_bytes(), &big])).find(|r| r.text() != "OK");
    assert!(refusal.unwrap().text().starts_with("OOM "));
}

#[test]
fn webdis_runs_nothing_but_scripts() {
    let redis = Redis::start();
    let webdis = Webdis::start(redis.addr());
    for path in ["/FLUSHALL", "/KEYS/*", "/GET/k", "/CONFIG/GET/save", "/SCRIPT/FLUSH"] {
        assert_eq!(Request::new(webdis.addr(), "GET", path).send().status, 403, "{path}");
    }
    assert_eq!(echo(webdis.addr(), "ten").send().body, answered("ten"));
    let unknown = Request::new(webdis.addr(), "PUT", "/EVALSHA/0000000000000000000000000000000000000000/0.raw");
    assert!(unknown.body("ten").send().text().starts_with("-NOSCRIPT "));
}

/// Redis, Webdis and the proxy, and how often Redis has run a call.
struct Chain {
    interposer: Interposer,
    _webdis: Webdis,
    redis: Redis,
}

impl Chain {
    fn start() -> Chain {
        let redis = Redis::start();
        let webdis = Webdis::start(redis.addr());
        let interposer = Interposer::start(webdis.addr());
        Chain { interposer, _webdis: webdis, redis }
    }

    /// A call that Redis counts.
    fn call(&self, body: &str) -> Request {
        let script = "/EVAL/redis.call('INCR'%2CKEYS%5B1%5D)%20return%20ARGV%5B1%5D/1/runs.raw";
        Request::new(self.interposer.addr(), "PUT", script).body(body)
    }

    fn runs(&self) -> usize {
        self.redis.get(b"runs").map_or(0, |n| String::from_utf8(n).unwrap().parse().unwrap())
    }
}

#[test]
fn calls_are_cut_before_and_after_they_are_run() {
    let chain = Chain::start();
    for (fault, runs) in [(Fault::CutBefore, 0), (Fault::CutAfter, 1), (Fault::CutInside, 2)] {
        chain.interposer.next(1, fault);
        let message = chain.call("ten").try_send().unwrap_err();
        assert!(message.contains("closed"), "{message}");
        assert_eq!(chain.runs(), runs);
    }
    let mut cut = chain.call("ten").open();
    chain.interposer.next(1, Fault::CutInside);
    cut.write("ten");
    assert_eq!(cut.head().header("content-length"), Some("9"));
    assert_eq!(cut.read(), b"$3\r\n");
    assert_eq!(chain.call("ten").send().body, answered("ten"));
}

#[test]
fn replies_are_late_and_calls_are_late() {
    let chain = Chain::start();
    let late = Duration::from_millis(300);
    for fault in [Fault::DelayReply(late), Fault::Late(late)] {
        chain.interposer.set(fault);
        let asked = Instant::now();
        assert_eq!(chain.call("ten").send().body, answered("ten"));
        assert!(asked.elapsed() >= late);
    }
    let mut impatient = chain.call("ten").open();
    impatient.write("ten");
    chain.interposer.wait_for_calls(3);
    assert_eq!(chain.runs(), 2);
    drop(impatient);
    wait_until("it is run all the same", PATIENCE, || chain.runs() == 3);
}

#[test]
fn replies_are_made_up() {
    let chain = Chain::start();
    chain.interposer.next(1, Fault::error("OOM command not allowed when used memory > 'maxmemory'."));
    chain.interposer.next(1, Fault::Say(200, b"<html>".to_vec()));
    chain.interposer.next(1, Fault::SayAfter(502, b"\xff".to_vec()));
    let answers: Vec<Response> = (0..4).map(|_| chain.call("ten").send()).collect();
    let seen: Vec<_> = answers.iter().map(|answer| (answer.status, answer.body.as_slice())).collect();
    let oom = b"-OOM command not allowed when used memory > 'maxmemory'.\r\n".as_slice();
    assert_eq!(seen, [(200, oom), (200, b"<html>"), (502, b"\xff"), (200, b"$3\r\nten\r\n")]);
    assert_eq!((chain.runs(), chain.interposer.calls()), (2, 4));
}

#[test]
fn two_replies_are_swapped() {
    let chain = Chain::start();
    chain.interposer.next(2, Fault::Swap);
    let mut first = chain.call("first").open();
    first.write("first");
    chain.interposer.wait_for_calls(1);
    wait_until("the first is run", PATIENCE, || chain.runs() == 1);
    assert!(first.is_silent_for(Duration::from_millis(20)));
    assert_eq!(chain.call("other").send().body, answered("first"));
    assert_eq!(first.response().body, answered("other"));
}

#[test]
fn silence_and_refusal_last_until_they_are_over() {
    let chain = Chain::start();
    chain.interposer.set(Fault::Silence);
    let mut waiting = chain.call("ten").open();
    waiting.write("ten");
    chain.interposer.wait_for_calls(1);
    assert!(waiting.is_silent_for(Duration::from_millis(100)));

    chain.interposer.set(Fault::Pass);
    chain.interposer.close();
    assert!(waiting.read().is_empty());
    assert!(chain.call("ten").try_send().unwrap_err().contains("refused"));
    chain.interposer.open();
    assert_eq!(chain.call("ten").send().body, answered("ten"));
    assert_eq!(chain.runs(), 1);
}

#[test]
fn what_the_store_says_unasked_reaches_the_client() {
    let store = TcpListener::bind("127.0.0.1:0").unwrap();
    let interposer = Interposer::start(store.local_addr().unwrap());
    let mut client = echo(interposer.addr(), "ten").open();
    client.write("ten");
    // The probes of the proxy's start are connections too.
    let mut line = store.incoming().map(Result::unwrap).find(|line| line.peek(&mut [0]).unwrap() > 0).unwrap();
    line.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na").unwrap();
    assert_eq!(client.response().body, b"a");
    line.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nb").unwrap();
    assert_eq!(client.response().body, b"b");
}

/// The proxy of `envoy/redis-cluster.yaml`, asked by way of Webdis: HTTP to Webdis, RESP to Envoy, RESP to the node that
/// has the key.
#[test]
fn scripts_reach_the_node_of_their_key_through_envoy() {
    let nodes = RedisCluster::start();
    let proxy = Port::reserve();
    let webdis = Webdis::start(proxy.addr());
    let ledger = Ledger::start();
    let addrs = nodes.addrs();
    let front = proxy.addr();
    let options = Options::file("redis-cluster.yaml", ledger.addr()).without_filter().mutate(move |tree| {
        listener_named(tree, "redis-proxy")["address"]["socket_address"]["port_value"] = json!(front.port());
        set_endpoints(cluster(tree, "redis-cluster"), &addrs);
        // For machines that are busy.
        listener_named(tree, "redis-proxy")["filter_chains"][0]["filters"][0]["typed_config"]["settings"]["op_timeout"] =
            json!("5s");
    });
    let _gateway = Gateway::start(options);
    // It was there before the proxy was.
    webdis.restart();

    let set = |key: &str| {
        let path = format!("/EVAL/return%20redis.call('SET'%2CKEYS%5B1%5D%2CARGV%5B1%5D).ok/1/{key}.raw");
        Request::new(webdis.addr(), "PUT", &path).body(key).send().text()
    };
    wait_until("the chain is complete", PATIENCE, || set("key-0") == "$2\r\nOK\r\n");
    for n in 0..30 {
        assert_eq!(set(&format!("key-{n}")), "$2\r\nOK\r\n");
    }
    let counts = nodes.nodes.iter().map(|node| node.keys().len()).collect::<Vec<_>>();
    assert!(counts.iter().all(|count| *count > 0) && counts.iter().sum::<usize>() == 30, "{counts:?}");

    // A script that one node has learnt, the others have not.
    let sha = nodes.nodes[0].ask(&["SCRIPT", "LOAD", "return ARGV[1]"]).text();
    let get = |key: &str| {
        Request::new(webdis.addr(), "PUT", &format!("/EVALSHA/{sha}/1/{key}.raw")).body("ten").send().text()
    };
    let (known, unknown): (Vec<_>, Vec<_>) =
        (0..30).map(|n| get(&format!("key-{n}"))).partition(|answer| answer == "$3\r\nten\r\n");
    assert_eq!(known.len(), counts[0]);
    assert!(unknown.iter().all(|answer| answer.starts_with("-NOSCRIPT ")), "{unknown:?}");
}

#[test]
fn the_compose_file_agrees_with_the_gateway_it_starts() {
    let compose = shipped("compose.yaml").unwrap();
    let mut tree = shipped("redis.yaml").unwrap();
    let services = &compose["services"];
    assert_eq!(services["envoy"]["command"], json!(["envoy", "--config-path", "envoy/redis.yaml"]));
    for service in services.as_object().unwrap().values() {
        // Otherwise 127.0.0.1 would be another place for each.
        assert_eq!(service["network_mode"], "host");
    }
    let endpoint = |tree: &mut Value, name: &str| {
        cluster(tree, name)["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]["address"]["socket_address"].take()
    };
    assert_eq!(endpoint(&mut tree, "redis"), json!({ "address": "127.0.0.1", "port_value": 6379 }));
    let echo = &services["service"]["environment"]["HTTP_PORT"];
    assert_eq!(endpoint(&mut tree, "payments")["port_value"].to_string(), echo.as_str().unwrap());
    let redis = services["redis"]["command"].to_string();
    for setting in ["--maxmemory-policy noeviction", "--appendonly yes"] {
        assert!(redis.contains(setting), "{redis}");
    }
}

#[test]
fn many_calls_at_once_each_get_their_own_reply() {
    let chain = Chain::start();
    thread::scope(|scope| {
        for client in 0..16 {
            let chain = &chain;
            scope.spawn(move || {
                for n in 0..20 {
                    let body = format!("{client}-{n}");
                    assert_eq!(chain.call(&body).send().body, answered(&body));
                }
            });
        }
    });
    assert_eq!((chain.runs(), chain.interposer.calls()), (320, 320));
}

/// A stream through the fault proxy, on which commands are written before any reply is read.
fn stream(interposer: &Interposer, commands: &[&str]) -> TcpStream {
    let mut stream = TcpStream::connect(interposer.addr()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let text: String =
        commands.iter().map(|word| format!("*2\r\n$4\r\nECHO\r\n${}\r\n{word}\r\n", word.len())).collect();
    stream.write_all(text.as_bytes()).unwrap();
    stream
}

fn read(stream: &mut TcpStream, len: usize) -> String {
    let mut bytes = vec![0; len];
    stream.read_exact(&mut bytes).unwrap();
    String::from_utf8(bytes).unwrap()
}

#[test]
fn on_a_stream_faults_meet_single_commands_and_replies_keep_their_order() {
    let redis = Redis::start();
    let interposer = Interposer::speaking(Dialect::Resp, redis.addr());
    let late = Duration::from_millis(100);
    for fault in [
        Fault::Pass,
        Fault::Slice,
        Fault::DelayReply(late),
        Fault::Late(late),
        Fault::Twice,
        Fault::Swap,
        Fault::SayAfter(200, b"$1\r\nA\r\n".to_vec()),
        Fault::Say(200, b"$1\r\nS\r\n".to_vec()),
        Fault::Swap,
        Fault::Doubled,
        Fault::LeftOut,
    ] {
        interposer.next(1, fault);
    }
    let mut replies = stream(&interposer, &["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l"]);
    let said = read(&mut replies, 84);
    let said: Vec<_> = said.split("\r\n").filter(|line| !line.is_empty() && !line.starts_with('$')).collect();
    assert_eq!(said, ["a", "b", "c", "d", "e", "f", "A", "S", "f", "j", "j", "l"]);
    assert_eq!(interposer.calls(), 12);
}

#[test]
fn on_a_stream_a_cut_ends_it_where_it_was_to() {
    let redis = Redis::start();
    let interposer = Interposer::speaking(Dialect::Resp, redis.addr());
    for (fault, wanted) in [
        (Fault::CutBefore, "$1\r\na\r\n"),
        (Fault::CutAfter, "$1\r\na\r\n"),
        (Fault::Say(302, Vec::new()), "$1\r\na\r\n"),
        (Fault::CutInside, "$1\r\na\r\n$1\r"),
    ] {
        let mut replies = stream(&interposer, &["a"]);
        assert_eq!(read(&mut replies, 7), "$1\r\na\r\n");
        interposer.next(1, fault.clone());
        replies.write_all(b"*2\r\n$4\r\nECHO\r\n$1\r\nb\r\n*1\r\n$4\r\nPING\r\n").unwrap();
        let mut rest = String::new();
        // An end may be a reset.
        let _ = replies.read_to_string(&mut rest);
        assert_eq!(format!("$1\r\na\r\n{rest}"), wanted, "{fault:?}");
    }
}
