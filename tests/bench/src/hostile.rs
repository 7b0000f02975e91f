//! What a hostile body costs a worker as JSON, and as a batch of which each element is looked into, against its bytes.
//!
//! One rule: all are read by one Envoy of one worker, in turn, and what counts is Envoy's CPU time.
//! It does not know why a body is slow.

use harness::{Options, Request, World};
use serde_json::{Value, json};

use crate::machine::cpu_us;

/// As large as a body may be by default.
const SIZE: usize = 512 << 10;
/// What no such body may take of a worker, in ms, beyond what the same bytes take.
const MOST_MS: f64 = 50.0;
/// How often each is sent; the kernel counts CPU time in hundredths of a second.
const TIMES: usize = 20;

/// The body that repeats a piece between an opening and a closing.
fn repeated(open: &str, piece: &str, close: &str) -> String {
    let count = (SIZE - open.len() - close.len()) / piece.len();
    format!("{open}{}{close}", piece.repeat(count))
}

/// Bodies that are long for a reader of JSON, each by its name.
fn bodies() -> Vec<(&'static str, String)> {
    let members = |value: &str| {
        let members: Vec<_> =
            (0..SIZE / (12 + value.len())).map(|number| format!("\"m{number:06}\":{value}")).collect();
        format!("{{{}}}", members.join(","))
    };
    vec![
        ("quotes", repeated("\"", "\\\"", "\"")),
        ("escapes", repeated("\"", "\\u0001", "\"")),
        ("surrogates", repeated("\"", "\\ud83d\\ude00", "\"")),
        ("empty strings", repeated("[\"\"", ",\"\"", "]")),
        ("empty lists", repeated("[[]", ",[]", "]")),
        ("minus signs", repeated("[-1", ",-1", "]")),
        ("nothing but minus signs", repeated("", "-", "")),
        ("fractions", repeated("[0.1", ",0.1", "]")),
        ("long numbers", repeated("[1", ",1234567.8901234", "]")),
        ("large powers", repeated("[1", ",1e300", "]")),
        ("one long number", repeated("1", "0", "")),
        ("members", members("1")),
        ("nested members", members("{\"a\":[1]}")),
        ("deep lists", repeated("[0", &format!(",{}{}", "[".repeat(120), "]".repeat(120)), "]")),
        ("blanks", repeated("[1", " ", "]")),
        ("long names", format!("{{\"{}\":1}}", "a".repeat(SIZE - 6))),
        ("half a body", repeated("[1", ",1", "")),
    ]
}

/// Prints a table, and fails where a body takes more than may be.
pub fn run() -> Result<(), String> {
    let rule = |name: &str, fingerprint: Value| {
        json!({
            "name": name,
            "match": { "path": { "prefix": format!("/{name}") } },
            "policy": { "fingerprint": fingerprint },
        })
    };
    // As many as envoy/presets/webhooks.yaml looks for: two of the key and three that do not count.
    let of_each = ["/-/source", "/-/id", "/-/time", "/-/traceparent", "/-/tracestate"];
    let document = json!({ "rules": [
        rule("json", json!({ "body": "json" })),
        rule("batch", json!({ "body": "json", "json_ignore": of_each })),
        rule("bytes", json!({})),
    ] });
    let world = World::with(document, |options: Options| options.concurrency(1));
    println!("| {SIZE} bytes of | as JSON, ms | as a batch, ms | as bytes, ms |\n|---|---|---|---|");
    let mut slow = Vec::new();
    for (name, body) in bodies() {
        let mut spent = [0.0; 3];
        for _ in 0..TIMES {
            for (place, form) in ["json", "batch", "bytes"].into_iter().enumerate() {
                let request = world.post(&format!("/{form}")).header("content-type", "application/json").body(&body);
                spent[place] += cost(&world, &request)?;
            }
        }
        let [json, batch, bytes] = spent.map(|us| us / 1000.0 / TIMES as f64);
        println!("| {name} | {json:.1} | {batch:.1} | {bytes:.1} |");
        if json.max(batch) - bytes > MOST_MS {
            slow.push(name);
        }
    }
    match slow[..] {
        [] => Ok(()),
        _ => Err(format!("These take over {MOST_MS} ms of a worker more than their bytes: {}.", slow.join(", "))),
    }
}

/// What Envoy spends on this request, in microseconds: it claims, and the first answer is stored.
fn cost(world: &World, request: &Request) -> Result<f64, String> {
    static KEYS: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
    let key = KEYS.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let before = cpu_us(world.gateway.process_id())?;
    let answer = request.clone().key(format!("k{key}")).try_send()?;
    let spent = cpu_us(world.gateway.process_id())? - before;
    match answer.status {
        201 => Ok(spent as f64),
        status => Err(format!("A hostile body got {status}: {}", answer.text())),
    }
}
