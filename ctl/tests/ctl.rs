//! The program against real Redis, in every command: records are made by the script that gateways run.
//!
//! Its one rule: the program itself is run, and what it prints and leaves behind is looked at.
//! It does not know Envoy; `drill.rs` has gateways.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test that fails panics"
)]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::process::{Command as Program, Output};
use std::rc::Rc;
use std::sync::{Arc, LazyLock, Mutex};

use envoy_idempotency::command::{Command, CommandKind, StoreReply};
use envoy_idempotency::config::SecretKey;
use envoy_idempotency::fingerprint::Fingerprint;
use envoy_idempotency::key::{KeyForm, Name};
use envoy_idempotency::lock::LockCommand;
use envoy_idempotency::operator::{self, Operation};
use envoy_idempotency::record::{Owner, Record, Response, State};
use envoy_idempotency::seal::ResponseCipher;
use envoy_idempotency::similar::Asked;
use envoy_idempotency::store::client::{Batch, Lane, Nonce};
use envoy_idempotency::store::redis::{Named, pack, unpack};
use harness::redis::DURABLE;
use harness::redis_cluster::RedisCluster;
use harness::{PATIENCE, Redis, wait_until};
use serde_json::{Value, json};

const KEY: &str = "AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA=";

/// A Redis that all tests share, each under a prefix of its own.
fn redis() -> &'static Redis {
    static REDIS: LazyLock<Redis> = LazyLock::new(|| Redis::with(&DURABLE));
    &REDIS
}

struct Ctl {
    redis: &'static Redis,
    prefix: &'static str,
    environment: Vec<(&'static str, &'static str)>,
}

impl Ctl {
    fn new(prefix: &'static str) -> Ctl {
        Ctl { redis: redis(), prefix, environment: Vec::new() }
    }

    fn output(&self, arguments: &[&str]) -> Output {
        let mut program = Program::new(env!("CARGO_BIN_EXE_idempotencyctl"));
        program.args(arguments).args(["--redis", &format!("redis://{}", self.redis.addr()), "--prefix", self.prefix]);
        program.env_clear().envs(self.environment.iter().copied()).output().expect("it runs")
    }

    /// What is said for people, and how it ended.
    fn text(&self, arguments: &[&str]) -> (String, i32) {
        let output = self.output(arguments);
        let said = [output.stdout, output.stderr].concat();
        (String::from_utf8(said).expect("it is text"), output.status.code().unwrap_or(-1))
    }

    fn json(&self, arguments: &[&str]) -> (Value, i32) {
        let (text, code) = self.text(&[&["--json"], arguments].concat());
        (serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text}")), code)
    }

    /// What a gateway would ask of Redis.
    fn ask(&self, name: Name, owner: u8, lease_ms: u64, kind: CommandKind) -> StoreReply {
        let command = Command {
            name,
            owner: Owner([owner; 16]),
            fingerprint: Fingerprint([7; 32]),
            attempt: 1,
            key: KeyForm::Bare,
            lease_ms,
            ttl_ms: 3_600_000,
            in_window: false,
            may_begin: true,
            deadline_ms: None,
            kind,
        };
        let batch = Batch { id: 1, lane: Lane::Small, tries: vec![(Nonce([1; 16]), Rc::new(command))] };
        let (word, script) = Named::Text.command();
        let key = format!("{}{}", self.prefix, name.hex());
        let words = [word.as_bytes(), script.as_bytes(), b"1", key.as_bytes(), &pack(&batch, false)];
        let answer = self.redis.ask(&words).list().remove(0).bytes().expect("the script answers");
        unpack(&answer).expect("it is an answer").1
    }

    fn claim(&self, name: Name, owner: u8, lease_ms: u64) -> StoreReply {
        self.ask(name, owner, lease_ms, CommandKind::Claim { may_retry: false })
    }

    fn unknown(&self, number: u8) -> Name {
        let name = name(number);
        assert!(matches!(self.claim(name, 1, 1), StoreReply::Granted { .. }));
        wait_until("its lease is over", PATIENCE, || self.json(&["show", &name.hex()]).0["state"] == "unknown");
        name
    }
}

fn name(number: u8) -> Name {
    Name([number; 32])
}

#[test]
fn every_state_is_shown_listed_and_counted() {
    let ctl = Ctl::new("states:");
    let unknown = ctl.unknown(1);
    ctl.claim(name(2), 1, 60_000);
    ctl.claim(name(3), 1, 60_000);
    ctl.ask(name(3), 1, 60_000, CommandKind::Release { keep_fingerprint: false });
    ctl.claim(name(4), 1, 60_000);
    ctl.ask(name(4), 1, 60_000, CommandKind::Complete { status: 204, response: Some(vec![9; 70_000]) });
    let shown = |number| ctl.json(&["show", &name(number).hex()]).0;
    for (number, state) in [(1, "unknown"), (2, "running"), (3, "open"), (4, "completed")] {
        assert_eq!((shown(number)["state"].clone(), shown(number)["attempt"].clone()), (json!(state), json!(1)));
        let (listed, _) = ctl.json(&["list", "--state", state]);
        assert_eq!(listed["operations"].as_array().map(Vec::len), Some(1), "{listed}");
        assert_eq!(listed["operations"][0]["operation"], name(number).hex());
    }
    assert_eq!((shown(4)["status"].clone(), shown(4)["response_bytes"].clone()), (json!(204), json!(70_000)));
    assert_eq!(ctl.json(&["list"]).0["operations"].as_array().map(Vec::len), Some(4));
    let (cut, _) = ctl.json(&["list", "--limit", "2"]);
    assert_eq!((cut["operations"].as_array().map(Vec::len), &cut["has_more"]), (Some(2), &json!(true)));
    assert_eq!(ctl.json(&["list", "--older", "1h"]).0["operations"], json!([]));
    let (stats, _) = ctl.json(&["stats"]);
    for (what, count) in [("running", 1), ("unknown", 1), ("open", 1), ("completed", 1), ("replayable", 1)] {
        assert_eq!(stats[what], count, "{stats}");
    }
    let (text, code) = ctl.text(&["list", "--state", "unknown"]);
    assert!(code == 0 && text.starts_with(&unknown.hex()) && text.contains("attempt 1"), "{text}");
    assert_eq!(ctl.text(&["list", "--state", "unknown", "--older", "1h"]), ("None.\n".to_owned(), 0));
    let (absent, code) = ctl.json(&["show", &name(9).hex()]);
    assert_eq!((absent["state"].clone(), code), (json!("absent"), 1));
}

#[test]
fn twelve_digits_find_an_operation_and_two_of_them_are_said() {
    let ctl = Ctl::new("short*[x]:");
    let unknown = ctl.unknown(0xab);
    assert_eq!(ctl.json(&["show", "ABABABABABAB"]).0["operation"], unknown.hex());
    let mut twin = unknown;
    twin.0[31] = 0;
    ctl.claim(twin, 2, 60_000);
    let (said, code) = ctl.json(&["forget", "abababababab"]);
    assert_eq!((code, said["ambiguous"].as_array().map(Vec::len)), (1, Some(2)));
    assert_eq!(ctl.json(&["show", "cdcdcdcdcdcd"]), (json!({ "operation": "cdcdcdcdcdcd", "state": "absent" }), 1));
    for wrong in ["abab", "zzzzzzzzzzzz", "abababababababab*"] {
        let (text, code) = ctl.text(&["show", wrong]);
        assert!(code == 2 && text.contains("64 hex digits"), "{text}");
    }
}

#[test]
fn a_word_is_taken_once_the_lease_is_over_and_repeated_without_harm() {
    let ctl = Ctl::new("words:");
    ctl.claim(name(1), 1, 60_000);
    for word in [
        &["resolve", &name(1).hex(), "--ran"][..],
        &["resolve", &name(1).hex(), "--not-run", "--attempt", "1"],
        &["forget", &name(1).hex()],
    ] {
        let (said, code) = ctl.json(word);
        assert!(code == 1 && said["refused"].as_str().is_some_and(|why| why.contains("lease")), "{said}");
    }
    let ran = ctl.unknown(2);
    for _ in 0..2 {
        let (said, code) = ctl.json(&["resolve", &ran.hex(), "--ran", "--status", "201", "--ttl", "2d"]);
        assert_eq!((code, &said["state"], &said["status"]), (0, &json!("completed"), &json!(201)));
        assert!(said["ttl"].as_u64().is_some_and(|ttl| (172_000..=172_800).contains(&ttl)), "{said}");
    }
    assert!(matches!(ctl.claim(ran, 2, 1000), StoreReply::Completed { status: Some(201), response: None, .. }));
    let not_run = ctl.unknown(3);
    assert_eq!(ctl.json(&["resolve", &not_run.hex(), "--not-run", "--attempt", "1"]).0["state"], "open");
    assert_eq!(ctl.claim(not_run, 1, 1000), StoreReply::Stale, "a late try of what was settled");
    assert!(matches!(ctl.claim(not_run, 2, 60_000), StoreReply::Granted { attempt: 2, doubt: false, .. }));
    assert_eq!(ctl.json(&["forget", &ran.hex()]).0["state"], "open");
    assert_eq!(ctl.json(&["resolve", &name(9).hex(), "--ran"]).0["state"], "absent");
    for wrong in [
        &["resolve", "x"][..],
        &["resolve", "x", "--ran", "--not-run", "--attempt", "1"],
        &["resolve", "x", "--not-run"],
        &["resolve", "x", "--ran", "--attempt", "1"],
        &["resolve", "x", "--not-run", "--attempt", "1", "--status", "201"],
    ] {
        assert_eq!(ctl.text(wrong).1, 2, "{wrong:?}");
    }
}

#[test]
fn a_response_is_shown_only_where_it_is_asked_for_and_opened_with_its_key() {
    let mut ctl = Ctl::new("reveal:");
    let key = SecretKey { id: "k1".to_owned(), key: std::array::from_fn(|at| at as u8 + 1) };
    let headers = [("location", "/payments/1")].into_iter().collect();
    let response = Response { status: 201, headers, body: Some(b"{\"id\":\"secret\"}".to_vec()), negotiated: false };
    let sealed = ResponseCipher::new(&[key]).seal(&name(1), Owner([1; 16]), &response.encode()).expect("it is small");
    ctl.claim(name(1), 1, 60_000);
    ctl.ask(name(1), 1, 60_000, CommandKind::Complete { status: 201, response: Some(sealed) });
    let folder = tempfile::tempdir().expect("there is room");
    let file = folder.path().join("gateway.json");
    let document = json!({
        "store": { "type": "redis", "cluster": "resp" },
        "secrets": { "encryption": [{ "id": "k1", "key": { "env": "RESPONSES" } }] },
    });
    fs::write(&file, document.to_string()).expect("it is written");
    let file = file.to_str().expect("it is text").to_owned();
    let (plain, _) = ctl.text(&["show", &name(1).hex()]);
    assert!(!plain.contains("secret") && !plain.contains("response_body"), "{plain}");
    let (shut, code) = ctl.json(&["show", &name(1).hex(), "--reveal"]);
    assert!(code == 0 && shut["response"].as_str().is_some_and(|why| why.contains("--config")), "{shut}");
    assert_eq!(ctl.text(&["show", &name(1).hex(), "--reveal", "-f", &file]).1, 2, "without the variable");
    ctl.environment.push(("RESPONSES", KEY));
    let (open, code) = ctl.json(&["show", &name(1).hex(), "--reveal", "-f", &file]);
    assert_eq!(
        (code, &open["response_status"], &open["response_body"]),
        (0, &json!(201), &json!("{\"id\":\"secret\"}"))
    );
    assert_eq!(open["response_headers"], json!(["location: /payments/1"]));
}

#[test]
fn a_name_is_computed_as_the_filter_does_from_a_configuration_and_a_request() {
    let ctl = Ctl::new("idem:");
    let root = harness::gateway::repository();
    let file = root.join("envoy/redis.yaml").display().to_string();
    let asked = |word, key: &str| {
        let (host, key) = ("host: api.example.com", format!("idempotency-key: {key}"));
        ctl.json(&[word, "POST /v1/payments", "-H", host, "-H", "authorization: alice", "-H", &key, "-f", &file])
    };
    let ((bare, code), (quoted, _)) = (asked("name", "k"), asked("name", "\"k\""));
    assert_eq!((bare["operation"].as_str().map(str::len), code), (Some(64), 0));
    assert_eq!(bare["key"], format!("idem:{}", bare["operation"].as_str().unwrap()));
    assert_eq!(bare, quoted);
    assert_ne!(bare["operation"], asked("name", "other").0["operation"]);
    let (matched, _) = asked("match", "k");
    assert_eq!((&matched["rule"], &matched["record"]), (&json!("default"), &bare["key"]), "{matched}");
    let (none, code) = ctl.json(&["name", "GET /v1/payments", "-f", &file]);
    assert_eq!((none["operation"].clone(), code), (Value::Null, 1));
    let (text, code) = ctl.text(&["name", "POST /"]);
    assert!(code == 2 && text.contains("--config"), "{text}");
}

#[test]
fn keys_that_hold_no_operation_are_counted_and_left_alone() {
    let ctl = Ctl::new("strange:");
    ctl.unknown(1);
    let whole = ctl.redis.get(format!("strange:{}", name(1).hex()).as_bytes()).expect("it is there");
    for (key, value) in [("text", b"x".to_vec()), ("future", [&[9, 9][..], &whole[2..]].concat())] {
        ctl.redis.ask(&[b"SET", format!("strange:{key}").as_bytes(), &value]);
    }
    ctl.redis.ask(&["LPUSH", "strange:list", "x"]);
    assert_eq!(ctl.json(&["list"]).0["unreadable"], 3);
    assert_eq!(ctl.json(&["stats"]).0["unreadable"].as_object().map(serde_json::Map::len), Some(3));
    let (said, code) = ctl.json(&["doctor"]);
    let formats = said.as_array().and_then(|all| all.iter().find(|it| it["about"] == "formats")).cloned();
    assert_eq!((formats.map(|it| it["is"].clone()), code), (Some(json!("error")), 1), "{said}");
    let (_, after) = (ctl.json(&["list"]), ctl.redis.get(b"strange:text"));
    assert_eq!(after.as_deref(), Some(&b"x"[..]));
}

#[test]
fn locks_are_no_operations_and_nothing_strange_either() {
    let ctl = Ctl::new("locks:");
    ctl.unknown(1);
    assert!(matches!(ctl.ask(name(2), 1, 60_000, CommandKind::Lock(LockCommand::Lock)), StoreReply::Locked { .. }));
    let (listed, _) = ctl.json(&["list"]);
    assert_eq!(
        (listed["operations"].as_array().map(Vec::len), &listed["unreadable"]),
        (Some(1), &json!(0)),
        "{listed}"
    );
    assert_eq!(ctl.json(&["show", "020202020202"]), (json!({ "operation": "020202020202", "state": "absent" }), 1));
    let said = ctl.json(&["doctor"]).0;
    let formats = said.as_array().and_then(|all| all.iter().find(|it| it["about"] == "formats")).cloned();
    assert_eq!(formats.map(|it| it["is"].clone()), Some(json!("ok")), "{said}");
}

#[test]
fn what_is_similar_is_no_operation_and_shows_those_that_it_is_about() {
    let ctl = Ctl::new("similar:");
    ctl.unknown(1);
    let asked = Asked { own: name(1), released: None, refuses: false };
    assert_eq!(ctl.ask(name(2), 1, 60_000, CommandKind::Similar(asked)), StoreReply::Settled);
    let (listed, _) = ctl.json(&["list"]);
    let counts = (listed["operations"].as_array().map(Vec::len), &listed["unreadable"]);
    assert_eq!(counts, (Some(1), &json!(0)), "{listed}");
    let (shown, code) = ctl.json(&["show", &name(2).hex()]);
    let first = shown["operations"][0].as_str().unwrap_or_default();
    assert!(code == 0 && first.starts_with(&name(1).hex()), "{shown}");
    let (said, code) = ctl.text(&["resolve", &name(2).hex(), "--ran"]);
    assert!(code == 2 && said.contains("no operation") && !said.contains("damaged"), "{said}");
    let said = ctl.json(&["doctor"]).0;
    let formats = said.as_array().and_then(|all| all.iter().find(|it| it["about"] == "formats")).cloned();
    assert_eq!(formats.map(|it| it["is"].clone()), Some(json!("ok")), "{said}");
}

#[test]
fn a_lock_is_named_by_a_request_and_shown_and_forgotten_as_an_operation_is() {
    let ctl = Ctl::new("turns:");
    let folder = tempfile::tempdir().expect("there is room");
    let file = folder.path().join("gateway.json");
    let document = json!({
        "store": { "type": "redis", "cluster": "resp", "prefix": "turns:" },
        "policy": { "key": { "required": true }, "serialize": { "sources": [{ "header": "x-sku" }] } },
    });
    fs::write(&file, document.to_string()).expect("it can be written");
    let given = ["-H", "host: a", "-H", "authorization: alice", "-H", "idempotency-key: k", "-H", "x-sku: 7"];
    let file = file.display().to_string();
    let (matched, _) = ctl.json(&[&["match", "POST /v1/stock"][..], &given, &["-f", &file]].concat());
    let key = matched["lock"].as_str().expect("it takes a lock").to_owned();
    let hex = key.strip_prefix("turns:").expect("it is under the prefix");
    let Some(Operation::Whole(lock)) = operator::parse(hex.as_bytes()) else { panic!("{hex}") };
    let takes = |owner| ctl.ask(lock, owner, 60_000, CommandKind::Lock(LockCommand::Lock));
    let StoreReply::Locked { fence } = takes(1) else { panic!("it is free") };
    let (shown, code) = ctl.json(&["show", hex]);
    assert_eq!(
        (code, &shown["lock"], &shown["state"], &shown["fence"]),
        (0, &json!(hex), &json!("running"), &json!(fence))
    );
    let (said, code) = ctl.text(&["resolve", hex, "--ran"]);
    assert!(code == 2 && said.contains("a lock and no operation"), "of a lock there is no word but this: {said}");
    let (said, code) = ctl.json(&["forget", hex]);
    assert_eq!((code, &said["state"], &said["fence"]), (0, &json!("open"), &json!(fence)));
    assert!(matches!(takes(2), StoreReply::Locked { fence: next } if next > fence));
}

#[test]
fn the_doctor_finds_what_would_lose_or_refuse_records() {
    let found = |ctl: &Ctl, arguments: &[&str]| {
        let (said, code) = ctl.json(&[&["doctor"], arguments].concat());
        let all = said.as_array().cloned().unwrap_or_default();
        let of = |about: &str| all.iter().find(|it| it["about"] == about).map_or(Value::Null, |it| it["is"].clone());
        (["eviction", "persistence", "replicas", "clock", "script", "formats", "rights"].map(of), code, said)
    };
    let ctl = Ctl::new("doctor:");
    ctl.redis.ask(&["CONFIG", "SET", "maxmemory", "1gb"]);
    let (well, code, said) = found(&ctl, &[]);
    assert_eq!((well[..6].to_vec(), code), (vec![json!("ok"); 6], 0), "{said}");
    let script = "doctor:";
    assert!(ctl.json(&["list"]).0["operations"].as_array().is_some_and(|left| left.len() <= 1), "{script}");
    ctl.redis.ask(&[
        "ACL",
        "SETUSER",
        "gateway",
        "on",
        "nopass",
        "~doctor:*",
        "-@all",
        "+eval",
        "+evalsha",
        "+get",
        "+set",
        "+time",
    ]);
    assert_eq!(found(&ctl, &["--user", "gateway"]).0[6], "ok");
    ctl.redis.ask(&["ACL", "SETUSER", "gateway", "-set"]);
    assert_eq!(found(&ctl, &["--user", "gateway"]).0[6], "error");
    ctl.redis.ask(&["ACL", "SETUSER", "gateway", "+@all", "allkeys"]);
    assert_eq!(found(&ctl, &["--user", "gateway"]).0[6], "warning");
    // What cannot be examined is not well.
    let (said, code, _) = found(&ctl, &["--user", "nosuch"]);
    assert_eq!((&said[6], code), (&json!("unknown"), 2));
    ctl.redis.ask(&["ACL", "SETUSER", "blind", "on", "nopass", "-@all"]);
    let at = format!("redis://blind@{}", ctl.redis.addr());
    let (out, err, code) = bare(&["doctor", "--redis", &at], &[("IDEMPOTENCY_REDIS_PASSWORD", "any")]);
    assert!(out.contains("unknown  eviction") && err.is_empty(), "{out}{err}");
    assert_eq!(code, 1, "it may not run the script either: {out}");

    static ILL: LazyLock<Redis> =
        LazyLock::new(|| Redis::with(&["--maxmemory-policy", "allkeys-lru", "--maxmemory", "64mb"]));
    let ill = Ctl { redis: &ILL, ..Ctl::new("idem:") };
    let (said, code, _) = found(&ill, &[]);
    assert_eq!((said[0].clone(), said[1].clone(), code), (json!("error"), json!("error"), 1));
    let replica = ILL.replica();
    let of_replica = Program::new(env!("CARGO_BIN_EXE_idempotencyctl"))
        .args(["doctor", "--redis", &format!("redis://{}", replica.addr())])
        .output()
        .expect("it runs");
    let text = String::from_utf8_lossy(&of_replica.stdout);
    assert!(text.contains("error    replicas") && text.contains("error    script"), "{text}");
}

/// A server that is no operator's, with the one answer that it has, and what it was asked.
fn stranger(status: &'static str, body: &'static str) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("there is a port");
    let (at, asked) = (listener.local_addr().expect("it listens"), Arc::new(Mutex::new(Vec::new())));
    let seen = Arc::clone(&asked);
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut line = String::new();
            let mut reader = BufReader::new(&stream);
            reader.read_line(&mut line).expect("it asks");
            while !matches!(reader.by_ref().lines().next(), Some(Ok(line)) if line.is_empty()) {}
            seen.lock().expect("none panics").push(line);
            let answer =
                format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}", body.len());
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    (format!("http://{at}/operations"), asked)
}

/// The program with nothing in its environment but this.
fn bare(arguments: &[&str], environment: &[(&str, &str)]) -> (String, String, i32) {
    let mut program = Program::new(env!("CARGO_BIN_EXE_idempotencyctl"));
    let output = program.args(arguments).env_clear().envs(environment.iter().copied()).output().expect("it runs");
    let [out, err] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).expect("it is text"));
    (out, err, output.status.code().unwrap_or(-1))
}

#[test]
fn a_server_that_is_no_operators_is_told_no_word_and_believed_nothing() {
    let digits = "ab".repeat(32);
    let token = [("IDEMPOTENCY_OPERATOR_TOKEN", "t")];
    for (status, body) in [
        ("200 OK", r#"{"ok":true}"#),
        ("200 OK", r#"{"operation":"cdcdcdcdcdcd","state":"completed","attempt":1}"#),
        ("200 OK", "<html>"),
        ("404 Not Found", r#"{"error":"no such payment"}"#),
        ("409 Conflict", r#"{"detail":"exists"}"#),
    ] {
        let (url, asked) = stranger(status, body);
        for word in [
            &["show", digits.as_str()][..],
            &["resolve", &digits, "--ran"],
            &["resolve", &digits, "--not-run", "--attempt", "1"],
            &["forget", &digits],
        ] {
            let (out, err, code) = bare(&[word, &["--gateway", &url]].concat(), &token);
            assert_eq!((out.as_str(), code), ("", 2), "{word:?} {body}");
            assert!(err.contains("is not an operator's listener"), "{word:?} {body}: {err}");
        }
        let asked = asked.lock().expect("none panics").clone();
        assert!(asked.len() == 4 && asked.iter().all(|line| line.starts_with("GET /operations/")), "{asked:?}");
    }
}

#[test]
fn the_store_that_is_asked_is_the_one_that_is_named() {
    let digits = "ab".repeat(32);
    let (gateway, asked) = stranger("200 OK", "{}");
    let redis = format!("redis://{}", redis().addr());
    let environment = [("IDEMPOTENCY_OPERATOR_TOKEN", "t"), ("IDEMPOTENCY_GATEWAY", gateway.as_str())];
    let with_redis = [&environment[..], &[("IDEMPOTENCY_REDIS", redis.as_str())]].concat();
    for command in ["list", "stats", "doctor"] {
        let refused = format!("{command} asks Redis");
        // A gateway by name wins over a Redis of the environment, and cannot be asked this.
        let (out, err, code) = bare(&[command, "--gateway", &gateway], &with_redis);
        assert!(out.is_empty() && err.contains(&refused) && code == 2, "{out} {err}");
        let (out, err, code) = bare(&[command], &environment);
        assert!(out.is_empty() && err.contains(&refused) && code == 2, "{out} {err}");
        assert_eq!(bare(&[command, "--redis", &redis], &environment).1, "");
        assert_eq!(bare(&[command], &with_redis).1, "");
    }
    let (out, err, code) = bare(&["show", &digits, "--redis", &redis], &environment);
    assert!(out.starts_with("Absent") && err.is_empty() && code == 1, "{out} {err}");
    let (_, err, code) = bare(&["--redis", &redis, "show", &digits, "--gateway", &gateway], &[]);
    assert!(err.contains("two stores") && code == 2, "{err}");
    assert!(asked.lock().expect("none panics").is_empty());
    assert_eq!(bare(&["show", &digits], &with_redis).2, 2, "both of the environment: the gateway");
    assert_eq!(asked.lock().expect("none panics").len(), 1);
}

#[test]
fn of_a_cluster_the_doctor_judges_the_node_that_it_asks() {
    let cluster = RedisCluster::with_replicas(&DURABLE);
    let record = |number| {
        let state = State::Open { fingerprint: None };
        let (attempt, key, expires_ms) = (1, KeyForm::Bare, 4_102_444_800_000_u64);
        let record = Record { attempt, key, doubt: false, inherited: false, released: Vec::new(), expires_ms, state };
        (format!("idem:{}", name(number).hex()), record.encode())
    };
    for node in cluster.nodes.iter().filter(|node| node.is_primary()) {
        for (key, value) in (0..60).map(record) {
            node.ask(&[b"SET", key.as_bytes(), &value]);
        }
    }
    wait_until("the replicas have heard of some", PATIENCE, || {
        cluster.nodes.iter().all(|node| !node.keys().is_empty())
    });
    let mut seen = 0;
    for node in &cluster.nodes {
        let at = format!("redis://{}", node.addr());
        // A key of chance: more than one look at it.
        for _ in 0..3 {
            let (out, err, code) = bare(&["doctor", "--redis", &at], &[]);
            let of = |about: &str| out.lines().find(|line| line.get(9..).is_some_and(|it| it.starts_with(about)));
            let (script, formats) = (of("script").expect("it is said"), of("formats").expect("it is said"));
            if node.is_primary() {
                assert!(script.starts_with("ok") && formats.starts_with("ok"), "{out}{err}");
                assert_eq!(code, 0, "{out}");
            } else {
                assert!(script.starts_with("error") && script.contains("a replica of a Redis Cluster"), "{out}{err}");
                assert!(formats.starts_with("unknown") && formats.contains("could not be asked here (MOVED)"), "{out}");
            }
        }
        let (listed, _, code) = bare(&["list", "--json", "--redis", &at], &[]);
        let listed: Value = serde_json::from_str(&listed).expect("it is JSON");
        // The doctor's own go by themselves.
        let is_ours = |it: &&Value| it["operation"].as_str().is_some_and(|name| name[..2].repeat(32) == name);
        let count = listed["operations"].as_array().map_or(0, |all| all.iter().filter(is_ours).count());
        assert_eq!((code, listed["unreadable"].clone()), (0, json!(0)));
        assert_eq!(node.is_primary(), count > 0, "{listed}");
        assert_eq!(node.is_primary(), listed["unasked"] == json!({}), "{listed}");
        seen += count;
        if node.is_primary() && count < 60 {
            let elsewhere: Vec<_> = (0..60)
                .map(|number| bare(&["show", &name(number).hex(), "--redis", &at], &[]))
                .filter(|(_, err, code)| *code == 2 && err.contains("another node's of the Redis Cluster"))
                .collect();
            assert_eq!(elsewhere.len() + count, 60);
        }
    }
    assert_eq!(seen, 60);
}

#[test]
fn a_damaged_record_is_named_and_no_word_helps_it() {
    let ctl = Ctl::new("damaged:");
    let whole = name(0xda).hex();
    ctl.redis.ask(&[b"SET", format!("damaged:{whole}").as_bytes(), b"\x02\x00garbage"]);
    for word in [
        &["show", whole.as_str()][..],
        &["resolve", &whole, "--ran"],
        &["resolve", &whole, "--not-run", "--attempt", "1"],
        &["forget", &whole],
    ] {
        let (said, code) = ctl.text(word);
        assert!(code == 2 && said.contains("is damaged") && said.contains("docs/operations.md"), "{said}");
        assert!(said.contains(&format!("damaged:{whole}")) && !said.contains("again"), "{said}");
    }
    let key = format!("damaged:{whole}");
    assert_eq!(ctl.json(&["list"]).0["unreadable_keys"], json!([key]));
    assert!(ctl.text(&["list"]).0.contains(&key));
    let (stats, _) = ctl.json(&["stats"]);
    assert_eq!(stats["unreadable_keys"], json!([key]));
    assert!(stats["unreadable"].to_string().contains("damaged (format 2"), "{stats}");
    let (doctor, code) = ctl.text(&["doctor"]);
    assert!(code == 1 && doctor.contains(&key), "{doctor}");
    for number in 0..9 {
        ctl.redis.ask(&[b"SET", format!("damaged:{number}").as_bytes(), b"x"]);
    }
    let (many, _) = ctl.json(&["list"]);
    assert_eq!((&many["unreadable"], many["unreadable_keys"].as_array().map(Vec::len)), (&json!(10), Some(5)));
}

#[test]
fn a_redis_that_does_not_answer_or_refuses_is_said_as_it_is() {
    let redis = Redis::start();
    let at = format!("redis://{}", redis.addr());
    let digits = "ab".repeat(32);
    redis.freeze();
    let (_, err, code) = bare(&["show", &digits, "--redis", &at, "--timeout", "300ms"], &[]);
    redis.thaw();
    assert!(code == 2 && err.contains("no answer of Redis") && !err.contains("os error"), "{err}");
    redis.ask(&["ACL", "SETUSER", "operator", "on", ">s3cret", "~*", "+@all"]);
    let named = format!("redis://operator@{}", redis.addr());
    let (_, err, code) = bare(&["stats", "--redis", &named], &[("IDEMPOTENCY_REDIS_PASSWORD", "wrong")]);
    assert!(code == 2 && err.contains("refuses this user or password") && !err.contains("reached"), "{err}");
    let (_, err, code) = bare(&["list", "--redis", &format!("{at}/5")], &[]);
    assert!(code == 2 && err.contains("no database but 0"), "{err}");
    let (out, _, code) = bare(&["list", "--json", "--redis", &format!("{at}/5")], &[]);
    let said: Value = serde_json::from_str(&out).expect("programs read JSON");
    assert!(code == 2 && said["error"].as_str().is_some_and(|why| why.contains("no database but 0")), "{out}");
}

#[test]
fn a_name_that_lacks_the_host_or_the_caller_says_so() {
    let root = harness::gateway::repository();
    let file = root.join("envoy/redis.yaml").display().to_string();
    let key = ["-H", "idempotency-key: k", "-f", file.as_str()];
    let alice = ["-H", "authorization: alice"];
    let plain = ["name", "POST /v1/payments"];
    let (out, err, code) = bare(&[&plain[..], &key, &alice].concat(), &[]);
    assert!(code == 0 && out.trim().len() == 64 && err.contains("host"), "{out} {err}");
    let (_, err, code) = bare(&[&["name", "POST https://api.example.com/v1/payments"][..], &key].concat(), &[]);
    assert!(code == 1 && err.contains("caller") && !err.contains("host"), "{err}");
    for whole in [
        &["name", "POST https://api.example.com/v1/payments"][..],
        &["name", "POST /v1/payments", "-H", "Host: api.example.com"],
    ] {
        assert_eq!(bare(&[whole, &key, &alice].concat(), &[]).1, "");
    }
    assert!(bare(&[&["match", "POST /v1/payments"][..], &key, &alice].concat(), &[]).0.contains("lacks"));
    let (_, err, _) = bare(&["name", "v1", "-f", &file], &[]);
    assert!(err.contains("a request must be a method and a target") && !err.contains("--request"), "{err}");
    // An operator plugin in the same file is no reason to ask for its token.
    let file = root.join("envoy/operator.yaml").display().to_string();
    let request = ["name", "POST https://api.example.com/", "-H", "idempotency-key: k", "-f", &file];
    let (out, err, code) = bare(&[&request[..], &alice].concat(), &[]);
    assert!(code == 0 && out.trim().len() == 64, "{out} {err}");
}

#[test]
fn a_password_is_taken_from_the_environment_and_from_nowhere_else() {
    let redis = Redis::start();
    redis.ask(&["ACL", "SETUSER", "operator", "on", ">s3cret", "~*", "+@all"]);
    let run = |url: &str, password: Option<&str>| {
        let mut program = Program::new(env!("CARGO_BIN_EXE_idempotencyctl"));
        program.args(["stats", "--redis", url]).env_clear();
        program.envs(password.map(|password| ("IDEMPOTENCY_REDIS_PASSWORD", password)));
        let output = program.output().expect("it runs");
        (String::from_utf8_lossy(&output.stderr).into_owned(), output.status.code())
    };
    let url = format!("redis://operator@{}", redis.addr());
    assert_eq!(run(&url, Some("s3cret")), (String::new(), Some(0)));
    assert_eq!(run(&url, Some("wrong")).1, Some(2));
    let (said, code) = run(&format!("redis://operator:s3cret@{}", redis.addr()), None);
    assert!(code == Some(2) && said.contains("IDEMPOTENCY_REDIS_PASSWORD") && !said.contains("s3cret"), "{said}");
}

#[test]
fn over_tls_redis_shows_a_certificate_of_the_authority_that_is_named_and_asks_for_one() {
    let folder = tempfile::tempdir().expect("there is room");
    let path = |name: &str| folder.path().join(name).to_str().expect("it is text").to_owned();
    let write = |name: &str, text: String| fs::write(path(name), text).expect("it is written");
    let authority = |name: &str| {
        let key = rcgen::KeyPair::generate().expect("there is a key");
        let mut params = rcgen::CertificateParams::new(Vec::new()).expect("they are right");
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        write(name, params.self_signed(&key).expect("it is signed").pem());
        rcgen::Issuer::new(params, key)
    };
    let (ours, _theirs) = (authority("ca.pem"), authority("other.pem"));
    let key = rcgen::KeyPair::generate().expect("there is a key");
    let params = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("they are right");
    write("redis.pem", params.signed_by(&key, &ours).expect("it is signed").pem());
    write("redis.key", key.serialize_pem());
    let tls = harness::Port::unshared();
    let (number, certificate, key, ca) =
        (tls.number().to_string(), path("redis.pem"), path("redis.key"), path("ca.pem"));
    let files = ["--tls-cert-file", &certificate, "--tls-key-file", &key, "--tls-ca-cert-file", &ca];
    let _redis = Redis::with(&[&["--tls-port", number.as_str(), "--tls-auth-clients", "yes"][..], &files].concat());
    let run = |more: &[&str]| {
        let url = format!("rediss://127.0.0.1:{number}");
        let mut program = Program::new(env!("CARGO_BIN_EXE_idempotencyctl"));
        let output = program.args(["stats", "--redis", &url]).args(more).env_clear().output().expect("it runs");
        output.status.code()
    };
    let own = ["--cert", &certificate, "--key", &key];
    assert_eq!(run(&[&["--cacert", ca.as_str()][..], &own].concat()), Some(0));
    assert_eq!(run(&[&["--cacert", path("other.pem").as_str()][..], &own].concat()), Some(2));
    assert_eq!(run(&["--cacert", &ca]), Some(2), "Redis asks for a certificate");
    assert_eq!(run(&own), Some(2), "the system trusts no such authority");
}

#[test]
fn completions_and_the_man_page_are_made_of_the_program_itself() {
    let ctl = Ctl::new("idem:");
    for shell in ["bash", "zsh", "fish"] {
        let (text, code) = ctl.text(&["completions", shell]);
        assert!(code == 0 && text.contains("resolve") && text.contains("not-run"), "{text}");
    }
    let (page, code) = ctl.text(&["man"]);
    assert!(code == 0 && page.contains(".TH idempotencyctl") && page.contains("doctor"), "{page}");
    for option in ["not\\-run", "older", "reveal", "user", "header"] {
        assert!(page.contains(&format!("\\-\\-{option}")), "{option}: {page}");
    }
    let (usage, _) = ctl.text(&["resolve", "x"]);
    assert!(usage.contains("<--ran|--not-run>") && !usage.contains("--ttl"), "{usage}");
    let (help, code) = ctl.text(&["--help"]);
    assert!(code == 0 && help.contains("Idempotency-Operation"), "{help}");
}

#[test]
fn the_beginning_of_a_record_is_enough_for_all_but_its_response() {
    let record = Record {
        attempt: 3,
        key: KeyForm::Ours(envoy_idempotency::key::UpstreamKey([1; 16])),
        doubt: true,
        inherited: true,
        released: vec![Owner([1; 16]); 8],
        expires_ms: 9,
        state: State::Completed {
            fingerprint: Some(Fingerprint([1; 32])),
            owner: Owner([2; 16]),
            status: Some(201),
            since_ms: 5,
            response: Some(vec![7; 5000]),
        },
    };
    let read = Record::decode(&record.encode()[..256]).expect("it is a record");
    assert_eq!((read.attempt, read.released.len()), (3, 8));
    assert!(matches!(read.state, State::Completed { since_ms: 5, status: Some(201), response: Some(_), .. }));
}
