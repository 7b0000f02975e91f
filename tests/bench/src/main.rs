//! What `make bench` runs: what the filter costs on real Envoy; with the argument `soak`, what `make soak` does.
//!
//! One rule: speed is a ratio of two medians in one run, against a reference that is named. Figures of two runs, or of
//! two machines, are not compared. A target that is missed is told, not punished; a wrong answer ends the run.
//! It does not know why something is slow.
//!
//! Envoy has a worker for every processor and shares them with wrk and nginx. With `PIN=1` it has one worker and, where
//! there are two processors or more, one of them to itself: then only Envoy's own work counts, not what a replay spares
//! the upstream. The sides of a scenario run beside each other, and take turns under the same load. CPU time is what
//! Envoy's whole process has used, and the processes of its store. At the end of each round all sides bear the load at once: on a busy or a virtual
//! machine the ratio of their CPU times then is the figure to trust.
//!
//! Settings come from the environment: `ONLY` (letters of scenarios, as in `ONLY=bc`), `ROUNDS`, `ROUND_S`, `WARMUP_S`,
//! `CONNECTIONS` and `PIN`. With `BEFORE`, the path of another build of the filter, (a) compares the two.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

mod machine;
mod nginx;
mod peer;
mod report;
mod rounds;
mod scenario;
mod side;
mod soak;
mod wrk;

use machine::Machine;
use nginx::Nginx;
use rounds::Course;

fn main() -> ExitCode {
    let is_soak = std::env::args().nth(1).is_some_and(|argument| argument == "soak");
    match if is_soak { number("MINUTES", 10).and_then(soak::run) } else { run() } {
        Ok(()) => ExitCode::SUCCESS,
        Err(complaint) => {
            eprintln!("\n{complaint}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), String> {
    let settings = Settings::read()?;
    let machine = Machine::find()?;
    let folder = tempfile::TempDir::with_prefix("envoy-idempotency-bench-")
        .map_err(|error| format!("No temporary folder: {error}."))?;
    let nginx = Nginx::start(&machine, folder.path())?;
    println!("{}\n{machine}", settings.sentence());

    let mut measured = Vec::new();
    for scenario in scenario::ALL.iter().filter(|scenario| settings.only.contains(scenario.letter)) {
        println!("\n({}) {}", scenario.letter, scenario.title);
        let sides = (scenario.sides)(nginx.addr())?;
        let course = Course { settings: &settings, machine: &machine, scenario, folder: folder.path() };
        let rounds = course.run(&sides)?;
        let outcome = report::Outcome::of(scenario, &sides, rounds);
        println!("{outcome}");
        measured.push(outcome);
    }

    println!("\n{}", report::summary(&measured));
    let file = target_folder().join("bench.json");
    let tree = report::json(&settings, &machine, &measured);
    fs::write(&file, format!("{tree:#}\n"))
        .map_err(|error| format!("{} cannot be written: {error}.", file.display()))?;
    println!("The figures of every round are in {}.", file.display());
    Ok(())
}

/// How much is measured.
#[derive(Debug)]
pub struct Settings {
    /// The letters of the scenarios.
    only: String,
    /// How often each side has its turn.
    rounds: usize,
    /// How long a turn is.
    round_s: u64,
    /// How long the turn is that is not counted, in which V8 finds out what is hot.
    warmup_s: u64,
    /// How many requests are under way at any moment.
    connections: u64,
}

impl Settings {
    fn read() -> Result<Settings, String> {
        let every: String = scenario::ALL.iter().map(|scenario| scenario.letter).collect();
        let given = std::env::var("ONLY").unwrap_or_default().replace([',', ' '], "");
        if let Some(letter) = given.chars().find(|letter| !every.contains(*letter)) {
            return Err(format!("ONLY must be letters of {every:?}, and {letter:?} is not one."));
        }
        Ok(Settings {
            only: if given.is_empty() { every } else { given },
            rounds: number("ROUNDS", 5)? as usize,
            round_s: number("ROUND_S", 3)?,
            warmup_s: number("WARMUP_S", 3)?,
            connections: number("CONNECTIONS", 32)?,
        })
    }

    fn sentence(&self) -> String {
        let Settings { rounds, round_s, warmup_s, connections, .. } = self;
        format!(
            "{rounds} rounds after {warmup_s} s of warming up; in each {round_s} s for each side in turn, then {round_s} s \
             for all at once; {connections} connections for each; medians."
        )
    }
}

fn number(name: &str, default: u64) -> Result<u64, String> {
    match std::env::var(name).unwrap_or_default().as_str() {
        "" => Ok(default),
        text => match text.parse() {
            Ok(number) if number > 0 => Ok(number),
            _ => Err(format!("{name} must be a whole number from 1 on, is {text:?}.")),
        },
    }
}

/// Where Cargo builds.
pub fn target_folder() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| harness::gateway::repository().join("target"), PathBuf::from)
}
