//! Measuring: every side has its turn, in the same order, round after round, and then all bear the load at once.
//!
//! The second is for the sake of processor time: where a virtual machine's neighbours slow a processor down for seconds
//! at a time, sides that share the processor by the millisecond are slowed down alike.
//!
//! One rule: a turn counts only if every answer was right and Envoy's own counters say that the requests went the way
//! the scenario is about.
//! It does not know what the figures mean.

use std::path::Path;
use std::slice;
use std::thread;

use crate::Settings;
use crate::machine::Machine;
use crate::scenario::Scenario;
use crate::side::{Share, Side};
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

/// How a scenario is measured.
pub struct Course<'a> {
    /// How often and how long.
    pub settings: &'a Settings,
    /// Where.
    pub machine: &'a Machine,
    /// What.
    pub scenario: &'a Scenario,
    /// A folder for scripts.
    pub folder: &'a Path,
}

impl Course<'_> {
    /// Lets the sides take turns, and bear the load together at the end of each round.
    pub fn run(&self, sides: &[Side]) -> Result<Vec<Rounds>, String> {
        for side in sides {
            side.bind(self.machine)?;
            (self.scenario.check)(side, &self.scenario.load)
                .map_err(|complaint| format!("{}: {complaint}", side.name))?;
        }
        let script = self.scenario.load.write(self.folder)?;
        for side in sides {
            self.turn(slice::from_ref(side), &script, self.settings.warmup_s, "warm")?;
        }
        let mut all: Vec<Rounds> = sides.iter().map(|_| Rounds::default()).collect();
        for round in 1..=self.settings.rounds {
            for (side, rounds) in sides.iter().zip(&mut all) {
                let name = format!("alone-{round}");
                rounds.alone.extend(self.turn(slice::from_ref(side), &script, self.settings.round_s, &name)?);
            }
            let name = format!("together-{round}");
            let together = self.turn(sides, &script, self.settings.round_s, &name)?;
            all.iter_mut().zip(together).for_each(|(rounds, figures)| rounds.together.push(figures));
        }
        Ok(all)
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
                .map_err(|complaint| format!("{}, {name}: {complaint}", side.name))?;
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
