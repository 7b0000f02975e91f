//! What `make run` runs: a payment, sent twice, charged once.
//!
//! One rule: it checks what it prints, and says in one sentence what was wrong.
//! It does not know how the filter does it.
//!
//! With `ONCE=1` it takes free ports and ends after the transcript; otherwise it serves on 127.0.0.1:10000 until
//! Ctrl-C.

use std::process::ExitCode;
use std::time::Duration;

use harness::{Gateway, Ledger, Options, Request, Response, World};
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

    let ledger = Ledger::start();
    let mut options = Options::new(ledger.addr());
    if !once {
        options = options.port(PORT).admin_port(ADMIN_PORT);
    }
    let gateway = Gateway::try_start(options)?;
    let world = World { gateway, ledger };

    transcript(&world)?;
    if !once {
        println!("{}", invitation(&world));
        runtime.block_on(serve(&world, &mut interrupts))?;
        println!("\nStopping Envoy and the payment service.");
        world.gateway.stop();
    }
    Ok(())
}

/// Plays the three requests, prints them, and checks every answer.
fn transcript(world: &World) -> Result<(), String> {
    println!(
        "Envoy with the filter listens on {}; the payment service behind it on {}.",
        world.gateway.addr(),
        world.ledger.addr()
    );

    let pay = |body: &str| {
        world
            .post("/v1/payments")
            .host(world.gateway.addr().to_string())
            .header("Content-Type", "application/json")
            .key(KEY)
            .body(body)
    };

    println!("\n1. A client pays, and gives the operation a key.\n");
    let first = play(&pay(BODY), BODY)?;
    check(first.status == 201, || format!("The first payment should answer 201, but it answered {}.", first.status))?;
    check(verdict(&first).starts_with("executed"), || {
        format!("The first payment should be `executed`, but Idempotency-Status is {:?}.", verdict(&first))
    })?;
    check(first.header("idempotent-replayed").is_none(), || "The first payment is marked as a replay.".to_owned())?;

    println!("\n2. The answer got lost on the way, so the client sends the same again.\n");
    let again = play(&pay(BODY), BODY)?;
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
    let other = play(&pay(OTHER_BODY), OTHER_BODY)?;
    check(other.status == 409, || {
        format!("Another amount under the same key should answer 409, but it answered {}.", other.status)
    })?;
    check(other.header("content-type") == Some("application/problem+json") && other.text().contains(MISMATCH), || {
        format!("The 409 should be a problem that says {MISMATCH:?}, but its body is {}.", other.text())
    })?;

    println!("\nThe payment service's ledger:\n");
    let entries = world.ledger.entries();
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
    format!("{command} {url} -H 'Content-Type: application/json' \\\n       -H 'Idempotency-Key: {key}' -d '{body}'")
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

fn invitation(world: &World) -> String {
    let url = format!("http://{}/v1/payments", world.gateway.addr());
    let admin = format!("{}/stats?filter=wasmcustom", world.gateway.admin_addr());
    let pay = curl("   curl -i", &url, "order-1002", r#"{"amount":100,"currency":"EUR"}"#);
    format!(
        "\nYour turn. Send this one as often as you like:\n\n{pay}\n\nand see what has been counted:\n\n   curl -s '{admin}'\n\nServing until Ctrl-C."
    )
}

/// Tells of every further charge until Ctrl-C.
async fn serve(world: &World, interrupts: &mut Interrupts) -> Result<(), String> {
    let mut told = world.ledger.entries().len();
    let mut look = tokio::time::interval(Duration::from_millis(100));
    loop {
        tokio::select! {
            () = interrupts.next() => return Ok(()),
            _ = look.tick() => (),
        }
        for entry in world.ledger.entries().into_iter().skip(told) {
            told += 1;
            println!(
                "   charge {told}: {} {}  Idempotency-Key: {}",
                entry.method,
                entry.path,
                entry.key.as_deref().unwrap_or("none")
            );
        }
        check(world.gateway.is_running(), || {
            format!("Envoy has ended by itself. Its log ends:\n{}", harness::process::tail(&world.gateway.log()))
        })?;
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
const ADMIN_PORT: u16 = 9_901;
const KEY: &str = "order-1001";
const BODY: &str = r#"{"amount":4200,"currency":"EUR"}"#;
const OTHER_BODY: &str = r#"{"amount":9900,"currency":"EUR"}"#;
const MISMATCH: &str = "Idempotency key already used with different request payload";
/// The headers of an answer that a reader of the transcript wants to see.
const SHOWN: [&str; 5] = ["content-type", "location", "idempotency-status", "idempotent-replayed", "retry-after"];
