//! What docs/clients.md and docs/upstreams.md advise, followed to the letter: the loop, the constraint and the fence.
//!
//! Its one rule: the statements of SQL are those of the document, in SQLite, on what the gateway has sent to the service.
//! It does not know more of an answer than the document has a client look at.

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use harness::gateway::repository;
use harness::{Entry, PATIENCE, Request, Response, World, wait_for, wait_until};
use serde_json::{Value, json};

use crate::check::{executed, is_refusal, not_stored, replays, said};
use crate::worlds::{rule, start, troubled};

/// How the loop of docs/clients.md ends.
#[derive(Debug)]
enum End {
    Answer(Response),
    Bug(Response),
    GivenUp,
}

/// The loop of docs/clients.md, line by line.
fn follow_the_loop(request: &Request) -> End {
    for pause in [500, 1000, 2000, 4000, 8000].map(Duration::from_millis) {
        let answer = request.try_send();
        let retry_after = |answer: &Response| answer.header("retry-after").and_then(|seconds| seconds.parse().ok());
        let waits = match &answer {
            Ok(answer) => retry_after(answer).map(Duration::from_secs),
            Err(_) => None,
        };
        match answer {
            Ok(answer) if is_settled(&answer) => return End::Answer(answer),
            Err(_) => {}
            Ok(answer) if answer.status >= 500 || is_to_be_tried_again(&answer) => {}
            Ok(answer) if ["mismatch", "key-invalid", "key-missing"].iter().any(|slug| is_refusal(&answer, slug)) => {
                return End::Bug(answer);
            }
            Ok(answer) => return End::Answer(answer),
        }
        let (began, pause) = (Instant::now(), pause.max(waits.unwrap_or_default()));
        wait_until("the client's pause is over", PATIENCE, || began.elapsed() >= pause);
    }
    End::GivenUp
}

fn is_settled(answer: &Response) -> bool {
    let line = said(answer);
    line.starts_with("replayed") || line.contains(";stored=?1") || line.contains(";outcome=completed")
}

fn is_to_be_tried_again(answer: &Response) -> bool {
    let has = |word: &str| said(answer).contains(word);
    let waits = is_refusal(answer, "outcome-unknown") && answer.header("retry-after").is_some();
    let is_early = ["in-flight", "store-unavailable"].iter().any(|slug| is_refusal(answer, slug));
    has(";outcome=retry") || has(";outcome=unknown") || is_early || waits
}

#[test]
fn a_client_that_follows_the_loop_ends_with_the_answer_of_the_attempt_that_went_well() {
    let world = troubled();
    // What each attempt comes to, the status that the client ends with, and how many attempts that takes.
    for (name, statuses, status, attempts) in [
        ("well", "201", 201, 1),
        ("failed", "500,503,201", 201, 3),
        ("timed-out", "504,201", 201, 2),
        ("reset", "reset,201", 201, 2),
        ("refused", "422", 422, 1),
        // The first attempt may have run, so a refusal of the second is not the last word.
        ("doubt", "504,400,201", 201, 3),
    ] {
        let pay = world.post(&format!("/advice/{name}")).key("k").header("x-test-first-status", statuses).body("ten");
        let End::Answer(answer) = follow_the_loop(&pay) else { panic!("{name} ends without an answer") };
        assert_eq!(answer.status, status, "{name}: {}", said(&answer));
        let entries = world.ledger.entries_for(pay.path());
        let seen: Vec<_> = entries.iter().filter_map(|entry| entry.attempt).collect();
        assert_eq!(seen, (1..=attempts).collect::<Vec<_>>(), "{name}");
        assert!(entries.iter().all(|entry| entry.operation == entries[0].operation), "{name}");
    }
}

#[test]
fn a_client_that_follows_the_loop_takes_a_failure_that_is_kept_for_the_answer() {
    let world = troubled();
    let pay = world.post("/advice/kept").key("k").header("x-test-status", "500");
    let pay = pay.header("x-test-header", "idempotency-store: store").body("ten");
    for _ in 0..2 {
        let End::Answer(answer) = follow_the_loop(&pay) else { panic!("it ends without an answer") };
        assert_eq!(answer.status, 500);
    }
    assert_eq!(world.ledger.entries_for("/advice/kept").len(), 1);
}

#[test]
fn a_client_that_follows_the_loop_while_its_first_try_runs_gets_the_answer_of_that() {
    let world = troubled();
    let pay = world.post("/advice/running").key("k");
    let mut running = start(&world, &pay, "ten", "advice running");
    let second = thread::scope(|scope| {
        let second = scope.spawn(|| follow_the_loop(&pay.clone().body("ten")));
        wait_until("it has been refused", PATIENCE, || world.gateway.access_log().contains("/advice/running 429 "));
        world.ledger.open("advice running");
        second.join().expect("the client ends")
    });
    let first = running.response();
    executed(&first, 1);
    let End::Answer(answer) = second else { panic!("it ends without an answer") };
    replays(&answer, &first);
}

#[test]
fn a_client_that_follows_the_loop_stops_at_a_bug_of_its_own_and_gives_up_where_nothing_answers() {
    let world = troubled();
    executed(&world.post("/advice/bug").key("k").body("ten").send(), 1);
    for (bad, slug) in [("k", "mismatch"), ("a, b", "key-invalid")] {
        let End::Bug(answer) = follow_the_loop(&world.post("/advice/bug").key(bad).body("twenty")) else {
            panic!("{slug} is taken for something else")
        };
        assert!(is_refusal(&answer, slug), "{}", said(&answer));
    }
    assert_eq!(world.ledger.entries_for("/advice/bug").len(), 1);
    let nowhere = world.post("/advice/nowhere").key("k").header("x-route", "refused").body("ten");
    assert!(matches!(follow_the_loop(&nowhere), End::GivenUp));
}

/// A gateway whose records live for two seconds and whose leases for one; under `/day/` records live for longer.
fn short() -> World {
    World::start(json!({ "rules": [
        rule("/day/", json!({ "lease_ms": 1000 })),
        rule("/", json!({ "lease_ms": 1000, "ttl_s": 2 })),
    ] }))
}

/// A first attempt of unknown outcome, and the second that follows it; both have executed.
#[track_caller]
fn twice(pay: &Request) {
    not_stored(&pay.clone().header("x-test-status", "504").send(), 504, 1, "unknown");
    let second = wait_for("the lease is over", PATIENCE, || {
        Some(pay.send()).filter(|answer| !is_refusal(answer, "outcome-unknown"))
    });
    assert_eq!(second.expect("an answer").status, 201);
}

/// What the service sees of three executions under one key: two attempts, and one after the store has forgotten them.
fn executions_around_a_loss() -> [Vec<Entry>; 2] {
    let mut world = short();
    // The record expires.
    let (pay, began) = (world.post("/pay").key("k").body("ten"), Instant::now());
    twice(&pay);
    wait_until("the record has expired", PATIENCE, || {
        pay.send();
        world.ledger.entries_for("/pay").len() == 3
    });
    assert!(began.elapsed() > Duration::from_secs(2));
    // The store loses its data.
    twice(&world.post("/day/pay").key("k").body("ten"));
    world.gateway.restart();
    executed(&world.post("/day/pay").key("k").body("ten").send(), 1);
    ["/pay", "/day/pay"].map(|path| world.ledger.entries_for(path))
}

#[test]
fn the_constraint_of_the_documents_lets_in_one_of_two_attempts_and_none_after_a_loss_or_an_expiry() {
    let statements = statements("## A `UNIQUE` constraint");
    let [create, insert, select] = &statements[..] else { panic!("{statements:?}") };
    for entries in executions_around_a_loss() {
        assert_eq!(entries.len(), 3);
        let mut all = vec![(create.as_str(), json!({}))];
        for entry in &entries {
            all.push((insert, json!({ "1": entry.operation, "2": 4200 })));
            all.push((select, json!({ "1": entry.operation })));
        }
        // Another payment is another row.
        all.push((insert, json!({ "1": "another", "2": 4200 })));
        let [_, results @ ..] = &in_sqlite(&all)[..] else { panic!("no results") };
        let rows: Vec<_> = results.iter().map(|result| result["rows"].clone()).collect();
        let one = json!([[1]]);
        let none = json!([]);
        assert_eq!(rows, [&one, &one, &none, &one, &none, &one, &json!([[2]])].map(Clone::clone));
    }
}

#[test]
fn the_fence_of_the_documents_stops_a_late_attempt_but_not_after_a_loss_or_an_expiry() {
    let statements = statements("## Fencing");
    let [update] = &statements[..] else { panic!("{statements:?}") };
    for entries in executions_around_a_loss() {
        let attempts: Vec<_> = entries.iter().filter_map(|entry| entry.attempt).collect();
        assert_eq!(attempts, [1, 2, 1], "the count begins again");
        let operation = &entries[0].operation;
        let values = |attempt: u32| json!({ "1": operation, "2": attempt });
        let create = "CREATE TABLE operations (operation char(64) NOT NULL UNIQUE, attempt bigint NOT NULL)";
        let insert = "INSERT INTO operations (operation, attempt) VALUES ($1, $2)";
        // Attempt 1 begins, attempt 2 begins, attempt 1 comes late, attempt 2 goes on.
        let steps = [(create, json!({})), (insert, values(1))];
        let updates = [1, 2, 1, 2].map(|attempt| (update.as_str(), values(attempt)));
        let results = in_sqlite(&[&steps[..], &updates[..]].concat());
        let changed: Vec<_> = results[2..].iter().map(|result| result["changed"].as_u64()).collect();
        assert_eq!(changed, [Some(1), Some(1), Some(0), Some(1)]);
    }
}

/// The statements of SQL in this section of docs/upstreams.md, in the words of SQLite.
#[track_caller]
fn statements(heading: &str) -> Vec<String> {
    let page = fs::read_to_string(repository().join("docs/upstreams.md")).expect("the document can be read");
    let section = page.split(heading).nth(1).expect("the document has the section");
    let block = section.split("```sql").nth(1).and_then(|rest| rest.split("```").next()).expect("it has SQL");
    let lines: Vec<_> = block.lines().map(|line| line.split("--").next().unwrap_or_default()).collect();
    let statements = lines.join("\n").replace("bigserial", "integer");
    let statements = statements.split(';').map(str::trim).filter(|statement| !statement.is_empty());
    statements.map(str::to_owned).collect()
}

/// What an empty database of SQLite says to each statement with these values.
#[track_caller]
fn in_sqlite(statements: &[(&str, Value)]) -> Vec<Value> {
    const PROGRAM: &str = "
import json, sqlite3, sys
database = sqlite3.connect(':memory:')
results = []
for statement, values in json.load(sys.stdin):
    cursor = database.execute(statement, values)
    results.append({'rows': cursor.fetchall(), 'changed': cursor.rowcount})
json.dump(results, sys.stdout)
";
    let mut python = Command::new("python3");
    let python = python.args(["-c", PROGRAM]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut python = python.spawn().expect("python3 starts");
    let input = json!(statements).to_string();
    python.stdin.take().expect("it has an input").write_all(input.as_bytes()).expect("it reads");
    let output = python.wait_with_output().expect("it ends");
    assert!(output.status.success(), "SQLite refuses one of {statements:?}");
    serde_json::from_slice(&output.stdout).expect("it writes JSON")
}
