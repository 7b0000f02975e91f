//! Measuring: in every round each side starts anew and is warmed up, then has its turn, and then all bear the load at
//! once.
//!
//! Anew, because how the memory of one process happens to lie makes it faster or slower by up to a sixth, for its whole
//! life: so each round throws these dice again. The turns run in the other order from round to round, so that whatever
//! wears off favours no side. All at once for the sake of processor time: where a virtual machine's neighbours slow a
//! processor down for seconds at a time, sides that share the processor by the millisecond are slowed down alike.
//!
//! One rule: a turn counts only if every answer was right and Envoy's own counters say that the requests went the way
//! the scenario is about.
//! It does not know what the figures mean.

use std::net::SocketAddr;
use std::path::Path;
use std::slice;
use std::thread;

use crate::Settings;
use crate::machine::Machine;
use crate::scenario::Scenario;
use crate::side::{Recipe, Share, Side};
use crate::wrk::{self, Turn};

/// What one turn of one side came to.
#[derive(Debug, Clone, Copy)]
pub struct Figures {
    /// What wrk saw.
    pub turn: Turn,
    /// Processor time of the server and its store.
    pub cpu_us: u64,
}

impl Figures {
    /// Requests per second.
    pub fn rate(&self) -> f64 {
        self.turn.requests as f64 * 1e6 / self.turn.duration_us as f64
    }

    /// Microseconds of processor time for a request.
    pub fn cpu_per_request_us(&self) -> f64 {
        self.cpu_us as f64 / self.turn.requests as f64
    }

    /// How much of a processor was used; well below 1, something else was in the way.
    pub fn busy(&self) -> f64 {
        self.cpu_us as f64 / self.turn.duration_us as f64
    }
}

/// The rounds of one side.
#[derive(Debug, Default)]
pub struct Rounds {
    /// It alone was under load.
    pub alone: Vec<Figures>,
    /// All sides were under load at once, on one processor; only the processor time means anything then.
    pub together: Vec<Figures>,
}

/// What takes part in every round.
#[derive(Debug, Clone, Copy)]
pub struct Entrant<'a> {
    /// How it is started.
    pub recipe: &'static Recipe,
    /// The module of another build of the filter, where it is to have that.
    pub other_build: Option<&'a Path>,
}

/// Why there are no figures.
#[derive(Debug, PartialEq, Eq)]
pub enum Failure {
    /// The other build does not take the scenario's configuration, and says why.
    Refused(String),
    /// Something is not as it should be.
    Fault(String),
}

impl Entrant<'_> {
    /// What it means that it did not start.
    fn failure(&self, complaint: &str) -> Failure {
        match complaint.lines().find_map(|line| line.split_once(REFUSAL)) {
            Some((_, sentence)) if self.other_build.is_some() => {
                Failure::Refused(format!("{}.", sentence.trim().trim_end_matches('.')))
            }
            _ => Failure::Fault(format!("{}: {complaint}", self.recipe.label(self.other_build))),
        }
    }
}

impl From<String> for Failure {
    fn from(complaint: String) -> Failure {
        Failure::Fault(complaint)
    }
}

/// How a scenario is measured.
pub struct Course<'a> {
    /// How often and how long.
    pub settings: &'a Settings,
    /// Where.
    pub machine: &'a Machine,
    /// What.
    pub scenario: &'a Scenario,
    /// The upstream.
    pub upstream: SocketAddr,
    /// A folder for scripts.
    pub folder: &'a Path,
}

impl Course<'_> {
    /// Measures these sides, round by round.
    pub fn run(&self, entrants: &[Entrant<'_>]) -> Result<Vec<Rounds>, Failure> {
        let script = self.scenario.load.write(self.folder)?;
        let mut all: Vec<Rounds> = entrants.iter().map(|_| Rounds::default()).collect();
        for round in 1..=self.settings.rounds {
            let mut order: Vec<usize> = (0..entrants.len()).collect();
            if round % 2 == 0 {
                order.reverse();
            }
            let start = |place: &usize| self.start(&entrants[*place]);
            let sides = order.iter().map(start).collect::<Result<Vec<_>, _>>()?;
            for side in &sides {
                self.turn(slice::from_ref(side), &script, self.settings.warmup_s, "warm")?;
            }
            for (side, place) in sides.iter().zip(&order) {
                let alone =
                    self.turn(slice::from_ref(side), &script, self.settings.round_s, &format!("alone-{round}"))?;
                all[*place].alone.extend(alone);
            }
            let together = self.turn(&sides, &script, self.settings.round_s, &format!("together-{round}"))?;
            order.iter().zip(together).for_each(|(place, figures)| all[*place].together.push(figures));
        }
        Ok(all)
    }

    /// Starts a side, and sees that it answers as the scenario says.
    fn start(&self, entrant: &Entrant<'_>) -> Result<Side, Failure> {
        let side = entrant
            .recipe
            .start(self.upstream, entrant.other_build)
            .map_err(|complaint| entrant.failure(&complaint))?;
        side.bind(self.machine)?;
        (self.scenario.check)(&side, &self.scenario.load)
            .map_err(|complaint| format!("{}: {complaint}", side.label))?;
        Ok(side)
    }

    /// Puts load on these sides at once, and judges the answers.
    fn turn(&self, sides: &[Side], script: &Path, duration_s: u64, name: &str) -> Result<Vec<Figures>, String> {
        let connections = self.scenario.connections.unwrap_or(self.settings.connections);
        let before =
            sides.iter().map(|side| Ok((side.counts()?, side.cpu_us()?))).collect::<Result<Vec<_>, String>>()?;
        let turns: Vec<_> = thread::scope(|scope| {
            let run = |side: &Side| {
                let to = side.addr();
                scope.spawn(move || wrk::run(self.machine, script, to, connections, duration_s, name))
            };
            let running: Vec<_> = sides.iter().map(run).collect();
            running.into_iter().map(|one| one.join().map_err(|_| "A client has panicked.".to_owned())?).collect()
        });
        let mut all = Vec::new();
        for ((side, (counts, before_us)), turn) in sides.iter().zip(before).zip(turns) {
            let (turn, cpu_us) = (turn?, side.cpu_us()? - before_us);
            judge(side, turn, &counts, connections)
                .map_err(|complaint| format!("{}, {name}: {complaint}", side.label))?;
            all.push(Figures { turn, cpu_us });
        }
        Ok(all)
    }
}

fn judge(side: &Side, turn: Turn, before: &[u64], connections: u64) -> Result<(), String> {
    if turn.requests == 0 || turn.bad_statuses > 0 || turn.lost > 0 {
        return Err(format!(
            "{} answers, {} of them with a status of 400 or more, and {} connections lost. The log ends:\n{}",
            turn.requests,
            turn.bad_statuses,
            turn.lost,
            harness::process::tail(&side.log())
        ));
    }
    let after = side.counts()?;
    for ((name, share), (after, before)) in side.expected.iter().zip(after.iter().zip(before)) {
        let counted = after - before;
        // wrk hangs up on what is under way when its time is over.
        let times = match share {
            Share::None => 0,
            Share::All => 1,
            Share::Twice => 2,
        };
        if !(times * turn.requests..=times * (turn.requests + connections)).contains(&counted) {
            return Err(format!(
                "{name} went up by {counted} with {} answers, where it should be {share:?}.",
                turn.requests
            ));
        }
    }
    Ok(())
}

/// What the filter writes into Envoy's log before the reason why it does not take a configuration.
const REFUSAL: &str = "the configuration is refused: ";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario;

    #[test]
    fn only_another_build_may_refuse_a_configuration() {
        let recipe = &scenario::ALL[0].sides[2];
        let log = "Envoy did not start. Its log ends:\n[error] wasm log: the configuration is refused: a.b: no.\n";
        let failure = |other_build| Entrant { recipe, other_build }.failure(log);
        assert_eq!(failure(Some(Path::new("older.wasm"))), Failure::Refused("a.b: no.".to_owned()));
        assert_eq!(failure(None), Failure::Fault(format!("the filter: {log}")));
        let crashed = Entrant { recipe, other_build: Some(Path::new("older.wasm")) }.failure("Envoy did not start.");
        assert_eq!(crashed, Failure::Fault("the filter, as BEFORE has it: Envoy did not start.".to_owned()));
    }
}
