//! `make chaos`: the plan, from a seed, and the verdict.
//!
//! One rule: it ends well only if nothing at all is wrong.
//! It does not know what the classes do.
//!
//! | variable | meaning | otherwise |
//! |---|---|---|
//! | `SEED` | of the plan and the traffic | the time |
//! | `ONLY` | the classes whose names contain this, or one of these between commas | all |
//! | `BUT` | not the classes whose names contain this | all |
//! | `DIALECT` | `webdis`: what the gateways speak to their store | `resp` |
//! | `TIMES` | how often each class is injected | 20 |
//! | `REQUESTS` | how many there must be at least | 200000; 0 with `ONLY` or `TIMES` |

use std::env;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use chaos::classes::{CLASSES, Class};
use chaos::run::{BOUND, run};
use chaos::table::{Table, tell};
use chaos::upstream;
use harness::Dialect;
use host_model::Random;

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    if let [what, port, http2, ledger] = arguments.as_slice()
        && what == "upstream"
    {
        let [port, http2] = [port, http2].map(|port| port.parse().expect("the port is a number"));
        upstream::serve(port, http2, Path::new(ledger)).expect("the service runs until it is ended");
        return ExitCode::SUCCESS;
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
    let seed = number("SEED").unwrap_or(now);
    let only = env::var("ONLY").unwrap_or_default();
    let but = env::var("BUT").ok().filter(|but| !but.is_empty());
    let times = number("TIMES").unwrap_or(20);
    let is_whole = only.is_empty() && but.is_none() && number("TIMES").is_none();
    let wanted = number("REQUESTS").unwrap_or(if is_whole { 200_000 } else { 0 });

    let mut random = Random::new(seed);
    let dialect = Dialect::chosen();
    let is_possible = |class: &&Class| class.of.is_none_or(|of| of == dialect);
    let is_wanted = |class: &&Class| only.split(',').any(|one| class.name.contains(one));
    let is_left_out = |class: &Class| but.as_ref().is_some_and(|but| class.name.contains(but.as_str()));
    let classes = CLASSES.iter().filter(is_possible).filter(is_wanted).filter(|class| !is_left_out(class));
    let classes: Vec<&Class> = classes.collect();
    let mut plan: Vec<&Class> = classes.iter().flat_map(|class| (0..times).map(move |_| *class)).collect();
    random.shuffle(&mut plan);
    // One kind of store after the other, each in that order.
    plan.sort_by_key(|class| class.store);
    if classes.is_empty() {
        println!("No class has a name with {only:?} in it: see tests/chaos/src/classes.rs.");
        return ExitCode::FAILURE;
    }
    println!("SEED={seed}: {} classes, {times} times each.", classes.len());

    let started = Instant::now();
    let mut table = Table::default();
    let mut wrong = 0;
    for part in plan.chunk_by(|one, next| one.store == next.store).flat_map(|part| part.chunks(PER_WORLD)) {
        let outcome = run(part, &mut random);
        table.add(&outcome);
        let (after_s, requests) = (started.elapsed().as_secs(), table.requests());
        let violations = outcome.violations.len();
        println!(
            "After {after_s} s: {requests} requests; this world had {} faults, {violations} violations.",
            part.len()
        );
        for pause in &outcome.history.excuses.pauses {
            println!("This machine stood still for {} ms.", (pause.to_us - pause.from_us) / 1000);
        }
        for violation in outcome.violations.iter().take(SHOWN) {
            println!("{}", tell(violation, &outcome));
        }
        for complaint in &outcome.complaints {
            println!("{complaint}");
        }
        wrong += violations + outcome.complaints.len();
    }
    println!("{table}");
    println!("Nobody waited longer than {:?}; {BOUND:?} are the bound.", table.slowest());
    for class in classes {
        let injections = table.row(class.name).injections as u64;
        if injections < times {
            println!("{} was injected {injections} times.", class.name);
            wrong += 1;
        }
    }
    let requests = table.requests() as u64;
    if requests < wanted {
        println!("There were {requests} requests; {wanted} were wanted.");
        wrong += 1;
    }
    println!("SEED={seed}, {} s, {requests} requests, {wrong} things wrong.", started.elapsed().as_secs());
    if wrong == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn number(name: &str) -> Option<u64> {
    env::var(name).ok().filter(|text| !text.is_empty()).map(|text| text.parse().expect("it is a number"))
}

/// How many injections one world has to bear.
const PER_WORLD: usize = 150;
/// How many violations of one world are told.
const SHOWN: usize = 10;
