//! Stories: a short script of requests and faults in, what happened out.
//!
//! Its one rule: a script says what strikes and when; everything else is as the simulator always has it.
//!
//! A line of a script is one of:
//! - `policy: hold, forward, conflict, bypass, observe, embedded, streams, after reply` and `lease 1s`, `ttl 60s`, `wait 10s`, `one at a time 10s`, `issued 2s`,
//!   `similar 60s`, `refuses similar 60s`,
//!   `shielded`,
//!   `account-of 2` (fields, not five), `calls 1`, `batch 1`, `queue 2`, `outbox 300` (bytes), first of all;
//! - `a: GET k1` (a look-up) or `a: POST k1 p1`, with `t2` for another tenant, `g2` for another gateway `quoted` for a key in quotes
//!   `stolen` for one that was issued to another, and `meant` where the client means to send the same again;
//!   `a: hangs up`; `a: times out`, because Envoy waits no longer;
//! - `upstream: 201` (or another status, `reset`, `reset before`, `dies in body`, `unreached`, `unsent`, `lost`,
//!   `times out`, `retried 503`), and `says release`, `for 5s`, `at length`, `after 3s`, `trickles 4s`, of the next request;
//! - `store: lose call|lose reply|cross|double|garbage|truncate|refuse|fail|unreadable|again 500ms|delay 2s`, on streams
//!   also `cut before|cut inside|cut after|refuses`, or `ok`, of the next call;
//!   `store: down 2s|stops 2s|crashes 2s|flush|forgets the script|clock back 2s|clock forward 2s`;
//! - `operator: ran k1`, `operator: not run k1`, `operator: forget k1`;
//! - `g1: stops 3s|crashes|loses a worker|reloads`; `wait 5s`; `record: k1`.
//!
//! Payload `p3` is large, `p4` larger than the policy allows.

use std::collections::HashMap;

use expect_test::Expect;

use envoy_idempotency::command::Resolution;
use envoy_idempotency::store::client::Limits;

use crate::plan::{Client, Faults, Plan, Shielding};
use crate::world::{Carriage, Cut, End, Handling, Steering, TOO_LARGE_BODY, Treatment, World};

mod replays;

mod claims;

mod issued;

mod operator;

mod outcomes;

mod unprotected;

mod owed;

mod streams;

mod turns;

mod waiting;

mod shielded;

mod similar;

fn check(script: &str, transcript: Expect) {
    let mut lines = script.lines().map(str::trim).peekable();
    let mut plan = quiet();
    if let Some(policy) = lines.next_if(|line| line.starts_with("policy: ")) {
        for setting in policy.trim_start_matches("policy: ").split(", ") {
            match setting.split_once(' ').unwrap_or((setting, "")) {
                ("hold", _) => plan.holds = true,
                ("forward", _) => plan.forwards = true,
                ("conflict", _) => plan.conflicts = true,
                ("bypass", _) => plan.bypasses = true,
                ("observe", _) => plan.observes = [true; 2],
                ("streams", _) => plan.limits.large_bytes = Some(64),
                ("after", "reply") => plan.saves_after = true,
                ("embedded", _) => plan.embedded = Some(1 << 20),
                ("one", rest) => plan.serializes_ms = Some(millis(rest.trim_start_matches("at a time "))),
                ("wait", time) => plan.waits_ms = Some(millis(time)),
                ("shielded", _) => plan.shields = Some(Shielding { fields: 5, timeout_ms: 30_000 }),
                ("account-of", fields) => plan.shields = Some(Shielding { fields: count(fields), timeout_ms: 30_000 }),
                ("calls", number) => plan.limits.max_calls = count(number),
                ("batch", number) => plan.limits.max_batch = count(number),
                ("queue", number) => plan.limits.max_queued = count(number),
                ("outbox", bytes) => plan.limits.max_owed_bytes = count(bytes),
                ("lease", time) => plan.leases_ms = [millis(time); 2],
                ("issued", time) => plan.issued_s = Some(millis(time) / 1000),
                ("similar", time) => plan.similar = Some((millis(time), false)),
                ("refuses", rest) => plan.similar = Some((millis(rest.trim_start_matches("similar ")), true)),
                ("ttl", time) => plan.ttl_s = millis(time) / 1000,
                other => panic!("no such setting: {other:?}"),
            }
        }
    }
    let mut world = World::new(plan, false);
    world.transcript = Some(Vec::new());
    world.store.has_script = true;
    let mut requests = HashMap::new();
    for line in lines {
        obey(&mut world, &mut requests, line);
    }
    world.run_until(world.now + 1_000);
    assert_eq!(world.broken_bounds, [""; 0]);
    assert!(world.carriages.is_empty() && world.treatments.is_empty(), "part of the script never came to pass");
    let lines: Vec<String> = world.transcript.into_iter().flatten().collect();
    transcript.assert_eq(&(lines.join("\n") + "\n"));
}

fn obey(world: &mut World, requests: &mut HashMap<String, usize>, line: &str) {
    if let Some(time) = line.strip_prefix("wait ") {
        return world.run_until(world.now + millis(time));
    }
    let (who, what) = line.split_once(": ").unwrap_or_else(|| panic!("no such line: {line}"));
    let words: Vec<&str> = what.split(' ').collect();
    match (who, words.as_slice()) {
        ("upstream", _) => world.treatments.push_back(treatment(&words)),
        ("store", ["down", time]) => world.store.down_until = world.now + millis(time),
        ("store", ["stops", time]) => world.store.stopped_until = world.now + millis(time),
        ("store", ["crashes", time]) => world.crash_store(world.now + millis(time)),
        ("store", ["forgets", "the", "script"]) => world.store.has_script = false,
        ("store", ["flush"]) => world.store.flush(world.now),
        ("store", ["clock", "back", time]) => world.store.jump(world.now, -(millis(time) as i64)),
        ("store", ["clock", "forward", time]) => world.store.jump(world.now, millis(time) as i64),
        ("store", _) => world.carriages.push_back(carriage(&words)),
        ("record", [key]) => {
            let shown = world.shown((1, digit(key)));
            world.note(format!("{key} is {shown}"));
        }
        ("operator", [said @ .., key]) => {
            let said = match said.join(" ").as_str() {
                "ran" => Resolution::Ran { status: Some(201) },
                "not run" => Resolution::NotRun { attempt: 1 },
                "forget" => Resolution::Forget,
                other => panic!("no such word: {other}"),
            };
            world.says((1, digit(key)), said);
        }
        (_, ["hangs", "up"]) => world.hang_up(requests[who]),
        (_, ["times", "out"]) => world.end(requests[who]),
        (_, ["GET", key, rest @ ..]) => {
            let node = rest.iter().find(|word| word.starts_with('g')).map_or(1, |word| digit(word));
            let client = Client { tenant: 1, key: digit(key), payload: 1, start_ms: 0, tries: 1, insists: false };
            let request = world.look(who, client, usize::from(node) - 1);
            requests.insert(who.to_owned(), request);
        }
        (_, ["POST", key, payload, rest @ ..]) => {
            let numbered =
                |letter: char| rest.iter().find(|word| word.starts_with(letter)).map_or(1, |word| digit(word));
            let client = Client {
                tenant: numbered('t'),
                key: digit(key),
                payload: digit(payload),
                start_ms: 0,
                tries: 1,
                insists: false,
            };
            let node = usize::from(numbered('g')) - 1;
            let request = world.send(who, usize::MAX, client, node);
            world.requests[request].is_quoted = rest.contains(&"quoted");
            world.requests[request].is_meant = rest.contains(&"meant");
            if rest.contains(&"stolen") {
                world.steal(request);
            }
            requests.insert(who.to_owned(), request);
        }
        (_, ["stops", time]) => world.pause(usize::from(digit(who)) - 1, millis(time)),
        (_, ["loses", "a", "worker"]) => world.crash_worker(usize::from(digit(who)) - 1),
        (_, ["crashes"]) => world.crash(usize::from(digit(who)) - 1, 100),
        (_, ["reloads"]) => world.reload(usize::from(digit(who)) - 1, 0),
        _ => panic!("no such line: {line}"),
    }
}

fn carriage(words: &[&str]) -> Carriage {
    let plain = Carriage { there_ms: 1, back_ms: 1, ..Carriage::default() };
    match words {
        ["ok"] => plain,
        ["lose", "call"] => Carriage { is_lost: true, ..plain },
        ["lose", "reply"] => Carriage { reply: Handling::Lost, ..plain },
        ["cut", "before"] => Carriage { cut: Cut::Before, ..plain },
        ["cut", "inside"] => Carriage { cut: Cut::Inside, ..plain },
        ["cut", "after"] => Carriage { cut: Cut::After, ..plain },
        ["refuses"] => Carriage { refusal: Some(0), ..plain },
        ["double"] => Carriage { reply: Handling::Doubled, ..plain },
        ["cross"] => Carriage { reply: Handling::Crossed, ..plain },
        ["garbage"] => Carriage { reply: Handling::Garbage, ..plain },
        ["truncate"] => Carriage { reply: Handling::Truncated, ..plain },
        ["refuse"] => Carriage { is_refused: true, ..plain },
        ["fail"] => Carriage { fails: true, ..plain },
        ["unreadable"] => Carriage { fails: true, is_unreadable: true, ..plain },
        ["again", time] => Carriage { again_after_ms: Some(millis(time)), ..plain },
        ["delay", time] => Carriage { there_ms: millis(time), ..plain },
        other => panic!("no such call: {other:?}"),
    }
}

pub fn treatment(words: &[&str]) -> Treatment {
    match words {
        [what @ .., "trickles", time] => Treatment { body_ms: millis(time), ..treatment(what) },
        [what @ .., "after", time] => Treatment { work_ms: millis(time), ..treatment(what) },
        [what @ .., "at", "length"] => Treatment { size: TOO_LARGE_BODY, ..treatment(what) },
        [what @ .., "for", time] => {
            let plain = treatment(what);
            Treatment { steering: Steering { ttl_s: Some(millis(time) / 1000), ..plain.steering }, ..plain }
        }
        [what @ .., "says", fate] => {
            let fates = ["store", "release", "retry", "unknown"];
            let fate = fates.into_iter().find(|known| known == fate);
            Treatment { steering: Steering { fate, ttl_s: None }, ..treatment(what) }
        }
        what => Treatment::new(end(&what.join(" ")), 5),
    }
}

fn end(words: &str) -> End {
    match words {
        "reset" => End::ResetsAfter,
        "reset before" => End::ResetsBefore,
        "lost" => End::Lost,
        "unsent" => End::Unsent,
        "dies in body" => End::DiesInBody,
        "unreached" => End::Unreached,
        "times out" => End::TimesOut,
        tried if tried.starts_with("retried ") => End::Retried(status_of(&tried[8..])),
        status => End::Answers(status_of(status)),
    }
}

fn status_of(text: &str) -> u16 {
    text.parse().unwrap_or_else(|_| panic!("no such end: {text}"))
}
fn millis(text: &str) -> u64 {
    let (number, unit) = match text.strip_suffix("ms") {
        Some(number) => (number, 1),
        None => (text.trim_end_matches('s'), 1000),
    };
    unit * number.parse::<u64>().unwrap_or_else(|_| panic!("no such time: {text}"))
}

fn count(text: &str) -> usize {
    text.parse().unwrap_or_else(|_| panic!("no such number: {text}"))
}

fn digit(word: &str) -> u8 {
    word.trim_start_matches(|letter: char| letter.is_alphabetic()).parse().unwrap_or_else(|_| panic!("{word}"))
}

/// Two gateways of one worker each, and nothing that strikes.
pub fn quiet() -> Plan {
    Plan {
        seed: 0,
        faults: Faults::NONE,
        strikes: 0,
        calm_ms: 1,
        gateways: 2,
        workers: 1,
        forwards: false,
        holds: false,
        conflicts: false,
        waits_ms: None,
        serializes_ms: None,
        issued_s: None,
        similar: None,
        saves_after: false,
        looks: false,
        shields: None,
        bypasses: false,
        observes: [false; 2],
        embedded: None,
        leases_ms: [1000; 2],
        ttl_s: 60,
        limits: Limits {
            attempts: 2,
            timeout_ms: 250,
            max_calls: 2,
            max_batch: 64,
            max_batch_bytes: 4096,
            large_bytes: None,
            max_queued: 1000,
            max_owed_bytes: 1 << 20,
            breaker_failures: 5,
            breaker_open_ms: 1000,
        },
        logs_in: false,
        clients: Vec::new(),
    }
}
