//! What `BEFORE` asks for: the filter against another build of itself.
//!
//! One rule: a ratio is of one round, in which both builds started anew, bore the same load and were told apart by nothing
//! but their module. New is divided by old: more requests/s are better, and less processor time is.
//! It does not know which of the two is meant to be faster.

use std::path::Path;

use serde_json::{Value, json};

use crate::report::{Spread, Table, side_json};
use crate::rounds::{Course, Entrant, Failure, Figures, Rounds};
use crate::side::Recipe;

/// What the two builds came to in one scenario, with one configuration.
pub struct Pair {
    letter: char,
    name: &'static str,
    /// Of the filter and of the other build; or why that one does not take the configuration.
    sides: Result<[(&'static str, Rounds); 2], String>,
}

impl Pair {
    /// Measures both builds after one recipe, in front of the same upstream.
    pub fn measure(course: &Course<'_>, recipe: &'static Recipe, before: &Path) -> Result<Pair, String> {
        let entrants = [None, Some(before)].map(|other_build| Entrant { recipe, other_build });
        let sides = match course.run(&entrants).map(<[Rounds; 2]>::try_from) {
            Ok(Ok([new, old])) => Ok([(recipe.name, new), (BEFORE, old)]),
            Ok(Err(rounds)) => return Err(format!("A pair has two sides, and {} were measured.", rounds.len())),
            Err(Failure::Refused(sentence)) => Err(sentence),
            Err(Failure::Fault(complaint)) => return Err(complaint),
        };
        Ok(Pair { letter: course.scenario.letter, name: recipe.name, sides })
    }

    /// The figures of both, or a sentence why there are none.
    pub fn table(&self) -> String {
        match &self.sides {
            Ok(sides) => Table(sides).to_string(),
            Err(sentence) => {
                format!("    Not compared, because the build of BEFORE refuses the configuration: {sentence}")
            }
        }
    }

    fn line(&self) -> String {
        let head = format!("({}) {}", self.letter, self.name);
        match self.ratios() {
            Some((ratios, rounds)) => {
                let [rate, cpu, together] = ratios.map(|ratio| ratio.to_string());
                columns(&head, &rate, &cpu, &together, &rounds.to_string())
            }
            None => columns(&head, "not compared", "", "", ""),
        }
    }

    /// By requests/s, by processor time and by processor time with both under load; and of how many rounds.
    fn ratios(&self) -> Option<([Spread; 3], usize)> {
        let [(_, new), (_, old)] = self.sides.as_ref().ok()?;
        let ratios = [
            Spread::by_rounds(&new.alone, &old.alone, Figures::rate),
            Spread::by_rounds(&new.alone, &old.alone, Figures::cpu_per_request_us),
            Spread::by_rounds(&new.together, &old.together, Figures::cpu_per_request_us),
        ];
        Some((ratios, new.alone.len()))
    }

    fn json(&self) -> Value {
        let ratios = self.ratios().map(|([rate, cpu, together], rounds)| {
            json!({
                "requests_per_s": rate.json(),
                "cpu_us_per_request": cpu.json(),
                "cpu_us_per_request_together": together.json(),
                "rounds": rounds,
            })
        });
        let sides = self.sides.as_ref().map(|sides| sides.iter().map(|(name, rounds)| side_json(name, rounds)));
        json!({
            "scenario": self.letter.to_string(),
            "name": self.name,
            "ratios": ratios,
            "sides": sides.map(Iterator::collect::<Vec<_>>).ok(),
            "refused": self.sides.as_ref().err(),
        })
    }
}

/// All pairs in one table.
pub fn summary(pairs: &[Pair]) -> String {
    let legend = "Medians of the ratio that each round has: more requests/s are better, less CPU time is.".to_owned();
    let head = columns("new / old", "requests/s", "CPU time/request", "CPU time, all at once", "rounds");
    [legend, head].into_iter().chain(pairs.iter().map(Pair::line)).collect::<Vec<_>>().join("\n")
}

/// All pairs as a program reads them.
pub fn json(pairs: &[Pair]) -> Value {
    pairs.iter().map(Pair::json).collect()
}

/// Whether there is a figure at all.
pub fn any_compared(pairs: &[Pair]) -> bool {
    pairs.iter().any(|pair| pair.sides.is_ok())
}

fn columns(head: &str, rate: &str, cpu: &str, together: &str, rounds: &str) -> String {
    format!("{head:<24}{rate:<23}{cpu:<23}{together:<23}{rounds}").trim_end().to_owned()
}

const BEFORE: &str = "before";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wrk::Turn;

    /// A second each, of so many requests and so much processor time.
    fn rounds(figures: &[(u64, u64)]) -> Rounds {
        let round = |&(requests, cpu_us): &(u64, u64)| Figures {
            turn: Turn { duration_us: 1_000_000, requests, bad_statuses: 0, lost: 0, p50_us: 1, p99_us: 1 },
            cpu_us,
        };
        let all: Vec<_> = figures.iter().map(round).collect();
        Rounds { alone: all.clone(), together: all }
    }

    #[test]
    fn rounds_are_divided_one_by_one_new_by_old() {
        // The machine became ten times as fast after the first round, which no ratio shows.
        let new = rounds(&[(100, 1000), (1200, 1200), (900, 900)]);
        let old = rounds(&[(100, 2000), (1000, 1000), (1000, 1000)]);
        let pair = Pair { letter: 'b', name: "the filter", sides: Ok([("the filter", new), (BEFORE, old)]) };
        let line = "(b) the filter          1.000  0.900..1.200    1.000  0.500..1.000    1.000  0.500..1.000    3";
        assert_eq!(pair.line(), line);
        assert!(any_compared(&[pair]));
    }

    #[test]
    fn a_refusal_is_said_and_is_no_figure() {
        let pair = Pair { letter: 'g', name: "redis", sides: Err("store.type: unknown.".to_owned()) };
        assert!(pair.table().ends_with("refuses the configuration: store.type: unknown."));
        assert_eq!(pair.line(), "(g) redis               not compared");
        assert!(!any_compared(&[pair]));
    }
}
