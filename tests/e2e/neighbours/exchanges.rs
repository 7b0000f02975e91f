//! What is asked of every chain: a first answer, a replay, another payload, a duplicate in flight, a look-up.
//!
//! Its one rule: each judges by the service's ledger, the status line, and what a client can compare; statuses and bodies of
//! refusals may be the operator's.
//! It does not know which neighbours there are.

use std::io::Read;
use std::sync::atomic::{AtomicUsize, Ordering};

use flate2::read::GzDecoder;
use harness::neighbours::Truth;
use harness::{PATIENCE, Request, Response, World, wait_for};

use super::chain::Way;
use crate::check::shown;

/// One thing that is asked of a chain; an error says what was wrong.
pub type Exchange = fn(&World, &Way) -> Result<(), String>;

/// All of them.
pub const EXCHANGES: [(&str, Exchange); 5] = [
    ("first answer", first),
    ("replay", replay),
    ("another payload", mismatch),
    ("in flight", in_flight),
    ("look-up", look_up),
];

/// A request with a key of its own on this way.
fn pay(world: &World, way: &Way) -> Request {
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    way.request(world, "POST", &format!("/{}/{number}", way.execution)).key("k")
}

/// Sends it, and says how a client without an answer fared.
fn send(request: &Request) -> Result<Response, String> {
    request.try_send()
}

/// The answer's status line begins and ends so.
fn says(answer: &Response, start: &str, end: &str) -> Result<(), String> {
    let lines = answer.headers("idempotency-status");
    let line = lines.first().map(|line| String::from_utf8_lossy(line).into_owned()).unwrap_or_default();
    let is_right = lines.len() <= 1 && line.starts_with(start) && line.ends_with(end);
    is_right.then_some(()).ok_or_else(|| format!("it should say {start}…{end}: {}", shown(answer)))
}

fn executions(world: &World, request: &Request, wanted: usize) -> Result<(), String> {
    let count = world.ledger.entries_for(request.path()).len();
    (count == wanted).then_some(()).ok_or_else(|| format!("the service executed it {count} times, and not {wanted}"))
}

/// How often the service executes what goes this way so many times; none where the row promises nothing.
fn expected(way: &Way, sent: usize) -> Option<usize> {
    match way.truth() {
        Truth::Holds => Some(1),
        Truth::WorksItself | Truth::Answers(_) => Some(0),
        Truth::Bypassed(_) => Some(sent),
        Truth::InDoubt | Truth::Broken => None,
    }
}

/// Whether what follows of this filter's promise applies here at all; what else the row says is checked.
fn is_promised(way: &Way, answer: &Response) -> Result<bool, String> {
    match way.truth() {
        Truth::Holds | Truth::WorksItself => Ok(true),
        Truth::Bypassed(reason) => says(answer, "bypassed", &format!("reason={reason}")).map(|()| false),
        Truth::Answers(status) if answer.status == status => says(answer, "", "").map(|()| false),
        Truth::Answers(status) => Err(format!("it should answer {status}: {}", shown(answer))),
        Truth::InDoubt | Truth::Broken => Ok(false),
    }
}

fn first(world: &World, way: &Way) -> Result<(), String> {
    let request = pay(world, way).body("ten");
    let answer = send(&request)?;
    if way.truth() == Truth::InDoubt {
        return says(&answer, "executed;stored=?0;attempt=1;", "outcome=unknown");
    }
    let Some(wanted) = expected(way, 1) else { return Ok(()) };
    if is_promised(way, &answer)? {
        says(&answer, "executed;stored=?1;attempt=1;", "ttl=1800")?;
    }
    executions(world, &request, wanted)
}

fn replay(world: &World, way: &Way) -> Result<(), String> {
    let Some(wanted) = expected(way, 2) else { return Ok(()) };
    let request = pay(world, way).body("ten");
    let (first, again) = (send(&request)?, send(&request)?);
    if is_promised(way, &again)? {
        says(&again, "replayed;attempt=1;", "")?;
        let [first, again] = [&first, &again].map(|answer| (answer.status, lasting(answer), text(answer)));
        if first != again {
            return Err(format!("the replay differs: {again:?} instead of {first:?}"));
        }
    }
    executions(world, &request, wanted)
}

/// The fields of an answer that are not about one delivery, and not ours.
fn lasting(answer: &Response) -> Vec<String> {
    let passing = [
        "x-request-id",
        "date",
        "server",
        "content-length",
        "transfer-encoding",
        "connection",
        "set-cookie",
        "location",
    ];
    let lasts = |name: &str| !passing.contains(&name) && !name.starts_with("idempoten") && !name.starts_with("x-envoy");
    let fields = answer.headers.iter().filter(|(name, _)| lasts(name));
    let mut fields: Vec<_> =
        fields.map(|(name, value)| format!("{name}: {}", String::from_utf8_lossy(value))).collect();
    fields.sort();
    fields
}

/// The body without its encoding.
pub fn text(answer: &Response) -> String {
    let mut text = Vec::new();
    match answer.header("content-encoding") {
        Some("gzip") => drop(GzDecoder::new(answer.body.as_slice()).read_to_end(&mut text)),
        _ => text.clone_from(&answer.body),
    }
    String::from_utf8_lossy(&text).into_owned()
}

fn mismatch(world: &World, way: &Way) -> Result<(), String> {
    let Some(wanted) = expected(way, 2) else { return Ok(()) };
    let request = pay(world, way);
    send(&request.clone().body("ten"))?;
    let other = send(&request.clone().body("twenty"))?;
    if is_promised(way, &other)? {
        says(&other, "refused;", "reason=mismatch")?;
    }
    executions(world, &request, wanted)
}

fn in_flight(world: &World, way: &Way) -> Result<(), String> {
    if way.truth() != Truth::Holds {
        return Ok(());
    }
    let request = pay(world, way).body("ten");
    let gate = request.path().to_owned();
    let mut running = request.clone().header("x-test-hold", &gate).try_open()?;
    running.try_write(b"ten")?;
    let held = wait_for("the service has the request", PATIENCE, || {
        (!world.ledger.entries_for(request.path()).is_empty()).then_some(())
    });
    let second = held.and_then(|()| send(&request));
    world.ledger.open(&gate);
    says(&second?, "refused;", "reason=in-flight")?;
    says(&running.try_response()?, "executed;stored=?1;attempt=1;", "ttl=1800")?;
    executions(world, &request, 1)
}

fn look_up(world: &World, way: &Way) -> Result<(), String> {
    if !matches!(way.truth(), Truth::Holds | Truth::WorksItself) {
        return Ok(());
    }
    let request = pay(world, way).body("ten");
    send(&request)?;
    let path = format!("/look-up?method=POST&path={}", request.path());
    let looked = send(&way.request(world, "GET", &path).key("k"))?;
    let is_right = looked.status == 200 && text(&looked).contains("\"state\":\"completed\"");
    is_right.then_some(()).ok_or_else(|| format!("the look-up is wrong: {}", shown(&looked)))
}
