//! How long `idempotencyctl list` takes over many records, against a scan that reads their keys and nothing else.
//!
//! Its one rule: it prints figures and a ratio, and judges none.
//! It does not know any other command.
#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    reason = "a benchmark measures time, and panics where it cannot"
)]

use std::process::Command as Program;
use std::time::{Duration, Instant};

use envoy_idempotency::fingerprint::Fingerprint;
use envoy_idempotency::key::KeyForm;
use envoy_idempotency::record::{Owner, Record, State};
use harness::Redis;

/// How many keys one command writes, and how many one step of the bare scan asks for.
const STEP: usize = 1000;

fn main() {
    let count = std::env::var("RECORDS").ok().and_then(|text| text.parse().ok()).unwrap_or(100_000);
    let redis = Redis::start();
    fill(&redis, count);
    let list = |arguments: &[&str]| {
        let mut program = Program::new(env!("CARGO_BIN_EXE_idempotencyctl"));
        program.args(arguments).args(["--redis", &format!("redis://{}", redis.addr())]);
        let (started, output) = (Instant::now(), program.output().expect("it runs"));
        (started.elapsed(), String::from_utf8_lossy(&output.stdout).lines().count())
    };
    let (listed, lines) = list(&["list", "--state", "unknown", "--older", "10m", "--limit", "1000000"]);
    let (counted, _) = list(&["stats"]);
    let bare = bare_scan(&redis);
    let shown = |time: Duration| format!("{:.2} s", time.as_secs_f64());
    println!("{count} records, one in ten unknown for ten minutes; most of the others have a response of 512 bytes.");
    println!(
        "idempotencyctl list  {} for {lines} operations, {:.1} times a bare scan",
        shown(listed),
        ratio(listed, bare)
    );
    println!("idempotencyctl stats {}, {:.1} times a bare scan", shown(counted), ratio(counted, bare));
    println!("a bare scan of keys  {}", shown(bare));
}

fn ratio(time: Duration, of: Duration) -> f64 {
    time.as_secs_f64() / of.as_secs_f64()
}

fn fill(redis: &Redis, count: usize) {
    let time = redis.ask(&["TIME"]).list();
    let now_ms = time.first().and_then(|seconds| seconds.text().parse::<u64>().ok()).expect("it has a clock") * 1000;
    let (fingerprint, owner) = (Fingerprint([7; 32]), Owner([1; 16]));
    let record = |state| {
        let expires_ms = now_ms + 86_400_000;
        Record {
            attempt: 1,
            key: KeyForm::Bare,
            doubt: false,
            inherited: false,
            released: vec![owner],
            expires_ms,
            state,
        }
    };
    let unknown = record(State::Unknown { fingerprint, owner, retry_at_ms: now_ms - 700_000 }).encode();
    let (fingerprint, status, response) = (Some(fingerprint), Some(201), Some(vec![9; 512]));
    let completed = record(State::Completed { fingerprint, owner, status, since_ms: now_ms, response }).encode();
    for first in (0..count).step_by(STEP) {
        let mut words = vec![b"MSET".to_vec()];
        for number in first..(first + STEP).min(count) {
            // As evenly spread as hashes are.
            let mixed = (number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            words.push(format!("idem:{mixed:016x}{number:048x}").into_bytes());
            words.push(if number % 10 == 0 { unknown.clone() } else { completed.clone() });
        }
        redis.ask(&words);
    }
}

fn bare_scan(redis: &Redis) -> Duration {
    let (started, mut cursor) = (Instant::now(), "0".to_owned());
    loop {
        let answer = redis.ask(&["SCAN", &cursor, "MATCH", "idem:*", "COUNT", &STEP.to_string()]).list();
        cursor = answer.first().expect("it has a cursor").text();
        if cursor == "0" {
            return started.elapsed();
        }
    }
}
