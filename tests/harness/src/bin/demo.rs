//! What `make run` runs: a payment, sent twice, charged once.
//!
//! One rule: it checks what it prints, and says in one sentence what was wrong.
//! It does not know how the filter does it.
//!
//! With `ONCE=1` it takes free ports and ends after the transcript; otherwise it serves on 127.0.0.1:10000, or on `PORT`,
//! until Ctrl-C. With `STORE=redis` there are two Envoys that share one Redis, and the repeat goes through the other one.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use harness::{CALLER, Dialect, Gateway, Ledger, Options, Redis, Request, Response};
use serde_json::{Value, json};
use tokio::signal::unix::{Signal, SignalKind, signal};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(complaint) => {
            eprintln!("\n{complaint}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), String> {
    let once = std::env::var_os("ONCE").is_some_and(|once| !once.is_empty() && once != "0");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("The runtime cannot be made: {error}."))?;
    // From here on Ctrl-C no longer ends us on the spot, so everything below is cleaned up.
    let mut interrupts = {
        let _inside = runtime.enter();
        Interrupts::catch().map_err(|error| format!("Signals cannot be caught: {error}."))?
    };

    let mut stage = Stage::open(once)?;
    transcript(&stage)?;
    if !once {
        println!("{}", invitation(&stage));
        runtime.block_on(serve(&stage, &mut interrupts))?;
        println!("\nStopping everything.");
        stage.gateways.iter().for_each(Gateway::stop);
        stage.store.take();
    }
    Ok(())
}

/// Everything that runs; each part ends before what it talks to.
struct Stage {
    gateways: Vec<Gateway>,
    ledger: Ledger,
    store: Option<Redis>,
}

impl Stage {
    fn open(once: bool) -> Result<Stage, String> {
        let shared = match std::env::var("STORE").unwrap_or_default().as_str() {
            "" | "local" => false,
            "redis" => true,
            other => return Err(format!("STORE is {other:?}; it can be \"local\" or \"redis\".")),
        };
        let ledger = Ledger::start();
        let store = match shared {
            true => Some(Redis::try_start(&harness::redis::DURABLE)?),
            false => None,
        };
        let port = match std::env::var("PORT") {
            Ok(port) => port.parse().map_err(|_| format!("PORT is {port:?}; it must be a number up to 65534."))?,
            Err(_) => PORT,
        };
        let gateway = |number| {
            let mut options = match &store {
                Some(redis) => {
                    Options::speaking(Dialect::Resp, ledger.addr(), redis.addr()).configuration(with_transfers())
                }
                None => Options::new(ledger.addr()),
            };
            if !once {
                options = options.port(port + number);
            }
            Gateway::try_start(options)
        };
        let gateways = (0..if shared { 2 } else { 1 }).map(gateway).collect::<Result<_, _>>()?;
        Ok(Stage { gateways, ledger, store })
    }

    /// Where the first request goes.
    fn first(&self) -> SocketAddr {
        self.gateways[0].addr()
    }

    /// Where the repeat goes.
    fn last(&self) -> SocketAddr {
        self.gateways[self.gateways.len() - 1].addr()
    }
}

/// The document of `envoy/redis.yaml` with a rule for the drill of docs/operations.md: what is unknown stays so until an
/// operator knows.
fn with_transfers() -> Value {
    json!({
        "store": Dialect::Resp.store(),
        "rules": [
            {
                "name": "transfers",
                "match": { "methods": ["POST"], "path": { "prefix": "/v1/transfers" } },
                "policy": { "on_unknown": "hold", "lease_ms": 5000 },
            },
            { "name": "default" },
        ],
    })
}

/// Plays the three requests, prints them, and checks every answer.
fn transcript(stage: &Stage) -> Result<(), String> {
    let ledger = stage.ledger.addr();
    match &stage.store {
        None => {
            println!("Envoy with the filter listens on {}; the payment service behind it on {ledger}.", stage.first());
        }
        Some(redis) => println!(
            "Two Envoys with the filter listen on {} and {}; the payment service behind both on {ledger}.\n\
             Their records are in the Redis on {}.",
            stage.first(),
            stage.last(),
            redis.addr()
        ),
    }

    let pay = |to: SocketAddr, body: &str| {
        Request::post(to, "/v1/payments")
            .host(to.to_string())
            .caller(CALLER)
            .header("Content-Type", "application/json")
            .key(KEY)
            .body(body)
    };

    println!("\n1. A client pays, and gives the operation a key.\n");
    let first = play(&pay(stage.first(), BODY), BODY)?;
    check(first.status == 201, || format!("The first payment should answer 201, but it answered {}.", first.status))?;
    check(verdict(&first).starts_with("executed"), || {
        format!("The first payment should be `executed`, but Idempotency-Status is {:?}.", verdict(&first))
    })?;
    check(first.header("idempotent-replayed").is_none(), || "The first payment is marked as a replay.".to_owned())?;

    let where_to = if stage.store.is_some() { ", and meets the other gateway" } else { "" };
    println!("\n2. The answer got lost on the way, so the client sends the same again{where_to}.\n");
    let again = play(&pay(stage.last(), BODY), BODY)?;
    check(again.status == first.status, || {
        format!("The repeat should answer {}, but it answered {}.", first.status, again.status)
    })?;
    check(again.body == first.body, || {
        format!("The repeat should have the first answer's body {}, but it has {}.", first.text(), again.text())
    })?;
    check(again.header("location") == first.header("location"), || {
        format!("The repeat should have the first answer's Location, but it has {:?}.", again.header("location"))
    })?;
    check(again.header("idempotent-replayed") == Some("true"), || {
        "The repeat lacks `Idempotent-Replayed: true`.".to_owned()
    })?;
    check(verdict(&again).starts_with("replayed"), || {
        format!("The repeat should be `replayed`, but Idempotency-Status is {:?}.", verdict(&again))
    })?;

    println!("\n3. A bug in the client: the same key for another amount.\n");
    let other = play(&pay(stage.first(), OTHER_BODY), OTHER_BODY)?;
    check(other.status == 409, || {
        format!("Another amount under the same key should answer 409, but it answered {}.", other.status)
    })?;
    check(other.header("content-type") == Some("application/problem+json") && other.text().contains(MISMATCH), || {
        format!("The 409 should be a problem that says {MISMATCH:?}, but its body is {}.", other.text())
    })?;

    println!("\nThe payment service's ledger:\n");
    let entries = stage.ledger.entries();
    for (index, entry) in entries.iter().enumerate() {
        let attempt = entry.attempt.map_or("none".to_owned(), |n| n.to_string());
        println!(
            "   {}  {} {}  Idempotency-Key: {}  Idempotency-Attempt: {attempt}",
            index + 1,
            entry.method,
            entry.path,
            entry.key.as_deref().unwrap_or("none")
        );
    }
    let charges = entries.len();
    println!("\n   {charges} charge{}.", if charges == 1 { "" } else { "s" });
    check(charges == 1, || format!("Three requests with one key should make 1 charge, but they made {charges}."))
}

/// Sends a request, and prints it as a curl line with the head of the answer that matters and its body.
fn play(request: &Request, body: &str) -> Result<Response, String> {
    println!("{}", curl("   $ curl -i", &request_url(request), KEY, body));
    let response = request.try_send()?;
    println!("\n   HTTP/1.1 {}", status_line(response.status));
    for name in SHOWN {
        for value in response.headers(name) {
            println!("   {name}: {}", String::from_utf8_lossy(value));
        }
    }
    println!("\n   {}", response.text().trim_end().replace('\n', "\n   "));
    Ok(response)
}

fn request_url(request: &Request) -> String {
    format!("http://{}{}", request.addr(), request.path())
}

fn curl(command: &str, url: &str, key: &str, body: &str) -> String {
    format!(
        "{command} {url} \\\n       -H 'Authorization: {CALLER}' -H 'Content-Type: application/json' \\\n       \
         -H 'Idempotency-Key: {key}' -d '{body}'"
    )
}

fn status_line(status: u16) -> String {
    http::StatusCode::from_u16(status).map_or_else(|_| status.to_string(), |status| status.to_string())
}

fn verdict(response: &Response) -> &str {
    response.header("idempotency-status").unwrap_or_default()
}

fn check(holds: bool, complaint: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(complaint()) }
}

fn invitation(stage: &Stage) -> String {
    let pay = |gateway: &Gateway| {
        let url = format!("http://{}/v1/payments", gateway.addr());
        curl("   curl -i", &url, "order-1002", r#"{"amount":100,"currency":"EUR"}"#)
    };
    let count = |gateway: &Gateway| format!("   curl -s '{}/stats?filter=wasmcustom'", gateway.admin_addr());
    let pays: Vec<_> = stage.gateways.iter().map(pay).collect();
    let counts: Vec<_> = stage.gateways.iter().map(count).collect();
    format!(
        "\nYour turn. Send this as often as you like:\n\n{}\n\nand see what has been counted:\n\n{}\n\nServing until Ctrl-C.",
        pays.join("\n\n"),
        counts.join("\n")
    )
}

/// Tells of every further charge until Ctrl-C.
async fn serve(stage: &Stage, interrupts: &mut Interrupts) -> Result<(), String> {
    let mut told = stage.ledger.entries().len();
    let mut look = tokio::time::interval(Duration::from_millis(100));
    loop {
        tokio::select! {
            () = interrupts.next() => return Ok(()),
            _ = look.tick() => (),
        }
        for entry in stage.ledger.entries().into_iter().skip(told) {
            told += 1;
            println!(
                "   charge {told}: {} {}  Idempotency-Key: {}",
                entry.method,
                entry.path,
                entry.key.as_deref().unwrap_or("none")
            );
        }
        for gateway in &stage.gateways {
            check(gateway.is_running(), || {
                format!("Envoy has ended by itself. Its log ends:\n{}", harness::process::tail(&gateway.log()))
            })?;
        }
    }
}

struct Interrupts {
    interrupt: Signal,
    terminate: Signal,
}

impl Interrupts {
    fn catch() -> std::io::Result<Interrupts> {
        Ok(Interrupts { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => (),
            _ = self.terminate.recv() => (),
        }
    }
}

const PORT: u16 = 10_000;
const KEY: &str = "order-1001";
const BODY: &str = r#"{"amount":4200,"currency":"EUR"}"#;
const OTHER_BODY: &str = r#"{"amount":9900,"currency":"EUR"}"#;
const MISMATCH: &str = "Idempotency key already used with different request payload";
/// The headers of an answer that a reader of the transcript wants to see.
const SHOWN: [&str; 5] = ["content-type", "location", "idempotency-status", "idempotent-replayed", "retry-after"];
