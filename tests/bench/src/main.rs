//! What `make bench` runs: what the filter costs on real Envoy; with the argument `soak` or `hostile`, what `make soak`
//! and `make hostile` run.
//!
//! One rule: speed is a ratio within one run, against a reference that is named. Figures of two runs, or of two machines,
//! are not compared. A missed target is said, not punished; a wrong answer ends the run.
//! It does not know why something is slow.
//!
//! Envoy has a worker for every processor and shares them with wrk and nginx. With `PIN=1` it has one worker and, where
//! there are two processors or more, one of them to itself: then only Envoy's own work counts, not what a replay spares
//! the upstream. CPU time is what Envoy's whole process has used, and the processes of its store.
//!
//! Every round starts the sides of a scenario anew, warms each up and lets each bear the load in turn, and in the end all
//! at once: on a busy or a virtual machine the ratio of their CPU times then is the figure to trust. To start and warm
//! up every time takes one and a half times as long as once for all rounds (all scenarios: 13 minutes in place of 9), and
//! is worth it: how one process's memory happens to lie makes it faster or slower by up to a sixth for its whole life,
//! which no number of rounds with the same process evens out.
//!
//! With `BEFORE`, the path of another build of the filter, each scenario compares the two builds in place of its
//! references, in every configuration that it judges: the median of the ratio that each round has, with the smallest and
//! the largest. Where that build refuses a scenario's configuration, the run says so and goes on.
//!
//! Settings come from the environment: `ONLY` (letters of scenarios, as in `ONLY=bc`), `ROUNDS`, `ROUND_S`, `WARMUP_S`,
//! `CONNECTIONS`, `PIN` and `BEFORE`.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use harness::gateway::filter_wasm;
use serde_json::{Value, json};

mod hostile;
mod machine;
mod nginx;
mod pair;
mod peer;
mod report;
mod rounds;
mod scenario;
mod side;
mod soak;
mod wrk;

use machine::Machine;
use nginx::Nginx;
use pair::Pair;
use rounds::{Course, Entrant, Failure};

fn main() -> ExitCode {
    let ran = match std::env::args().nth(1).as_deref() {
        Some("soak") => number("MINUTES", 10).and_then(soak::run),
        Some("hostile") => hostile::run(),
        _ => run(),
    };
    match ran {
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

    let scenarios = scenario::ALL.iter().filter(|scenario| settings.only.contains(scenario.letter));
    let courses = scenarios.map(|scenario| Course {
        settings: &settings,
        machine: &machine,
        scenario,
        upstream: nginx.addr(),
        folder: folder.path(),
    });
    let (name, figures) = match &settings.before {
        None => ("scenarios", against_references(courses)?),
        Some(before) => ("pairs", against_before(courses, before)?),
    };

    let file = target_folder().join("bench.json");
    let mut tree = settings.json(&machine);
    tree[name] = figures;
    fs::write(&file, format!("{tree:#}\n"))
        .map_err(|error| format!("{} cannot be written: {error}.", file.display()))?;
    println!("The figures of every round are in {}.", file.display());
    Ok(())
}

/// Compares the sides that each scenario has.
fn against_references<'a>(courses: impl Iterator<Item = Course<'a>>) -> Result<Value, String> {
    let mut measured = Vec::new();
    for course in courses {
        println!("\n({}) {}", course.scenario.letter, course.scenario.title);
        let entrants: Vec<_> =
            course.scenario.sides.iter().map(|recipe| Entrant { recipe, other_build: None }).collect();
        let rounds =
            course.run(&entrants).map_err(|(Failure::Refused(complaint) | Failure::Fault(complaint))| complaint)?;
        let outcome = report::Outcome::of(course.scenario, rounds);
        println!("{outcome}");
        measured.push(outcome);
    }
    println!("\n{}", report::summary(&measured));
    Ok(report::json(&measured))
}

/// Compares in each scenario what is judged there with the same in another build of the filter.
fn against_before<'a>(courses: impl Iterator<Item = Course<'a>>, before: &Path) -> Result<Value, String> {
    let mut pairs = Vec::new();
    for course in courses {
        println!("\n({}) {}", course.scenario.letter, course.scenario.title);
        for recipe in course.scenario.judged() {
            let pair = Pair::measure(&course, recipe, before)?;
            println!("{}", pair.table());
            pairs.push(pair);
        }
    }
    println!("\n{}", pair::summary(&pairs));
    if pair::any_compared(&pairs) { Ok(pair::json(&pairs)) } else { Err("Nothing was compared.".to_owned()) }
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
    /// The module of the build of the filter to compare with, instead of the references.
    before: Option<PathBuf>,
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
            before: std::env::var_os("BEFORE").filter(|file| !file.is_empty()).map(other_build).transpose()?,
        })
    }

    fn sentence(&self) -> String {
        let Settings { rounds, round_s, warmup_s, connections, .. } = self;
        let what = match &self.before {
            None => "medians.".to_owned(),
            Some(before) => format!(
                "medians.\nThe filter ({}) against {} ({}).",
                size(&filter_wasm()),
                before.display(),
                size(before),
            ),
        };
        format!(
            "{rounds} rounds, in each of which every side starts anew and is warmed up for {warmup_s} s; then {round_s} s \
             for each side in turn, and {round_s} s for all at once; {connections} connections for each; {what}"
        )
    }

    /// What was measured, and where; without the figures.
    fn json(&self, machine: &Machine) -> Value {
        let bytes = |module: &Path| module.metadata().map(|file| file.len()).ok();
        json!({
            "machine": { "model": machine.model, "processors": machine.processors, "load_average": Machine::load() },
            "settings": {
                "rounds": self.rounds,
                "round_s": self.round_s,
                "warmup_s": self.warmup_s,
                "connections": self.connections,
                "before": self.before,
            },
            "envoy": harness::gateway::envoy_bin(),
            "filter_bytes": bytes(&filter_wasm()),
            "before_bytes": self.before.as_deref().and_then(bytes),
        })
    }
}

/// The module that `BEFORE` names.
fn other_build(file: OsString) -> Result<PathBuf, String> {
    let file = PathBuf::from(file);
    let module = file.canonicalize().ok().filter(|module| module.is_file());
    let module =
        module.ok_or_else(|| format!("BEFORE must be another build's module, and there is no file {file:?}."))?;
    if filter_wasm().canonicalize().is_ok_and(|filter| filter == module) {
        return Err(format!("BEFORE is {file:?}, the filter itself: keep a copy of the build to compare with."));
    }
    Ok(module)
}

fn size(module: &Path) -> String {
    module.metadata().map_or_else(|error| error.to_string(), |file| format!("{} bytes", file.len()))
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
