//! The figures as a person reads them and as a program does.
//!
//! One rule: nothing is averaged away. A ratio of medians stands beside the worst and the best round.
//! It does not know how they came about.

use std::fmt;

use serde_json::{Value, json};

use crate::rounds::{Figures, Rounds};
use crate::scenario::{By, Comparison, Scenario};

/// What a scenario came to.
pub struct Outcome {
    letter: char,
    title: &'static str,
    sides: Vec<(&'static str, Rounds)>,
    ratios: Vec<Ratio>,
}

/// What a comparison came to.
struct Ratio {
    comparison: &'static Comparison,
    rate: Spread,
    /// Where it is what is compared.
    added: Option<Spread>,
    cpu: Spread,
    cpu_together: Spread,
}

/// A ratio of medians or the median of ratios, and of single rounds the smallest and the largest.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    median: f64,
    min: f64,
    max: f64,
}

impl Outcome {
    /// The outcome of a scenario, with one list of rounds a side.
    pub fn of(scenario: &Scenario, rounds: Vec<Rounds>) -> Outcome {
        let sides: Vec<_> = scenario.sides.iter().map(|side| side.name).zip(rounds).collect();
        let rounds_of = |name: &str| sides.iter().find(|side| side.0 == name).map(|side| &side.1);
        let ratios = scenario.comparisons.iter().filter_map(|comparison| {
            let (subject, reference) = (rounds_of(comparison.subject)?, rounds_of(comparison.reference)?);
            let added = match comparison.by {
                By::Rate => None,
                By::Added(bare) => Some(Spread::of_added(&subject.alone, &reference.alone, &rounds_of(bare)?.alone)),
            };
            Some(Ratio {
                comparison,
                added,
                rate: Spread::of(&subject.alone, &reference.alone, Figures::rate),
                // The other way round, so that more is better here too.
                cpu: Spread::of(&reference.alone, &subject.alone, Figures::cpu_per_request_us),
                cpu_together: Spread::of(&reference.together, &subject.together, Figures::cpu_per_request_us),
            })
        });
        let ratios = ratios.collect();
        Outcome { letter: scenario.letter, title: scenario.title, sides, ratios }
    }

    fn json(&self) -> Value {
        let ratios = self.ratios.iter().map(|ratio| {
            let Comparison { subject, reference, by, target } = ratio.comparison;
            json!({
                "subject": subject,
                "reference": reference,
                "by": match by {
                    By::Rate => "requests_per_s",
                    By::Added(_) => "added_p50",
                },
                "requests_per_s": ratio.rate.json(),
                "added_p50": ratio.added.as_ref().map(Spread::json),
                "cpu": ratio.cpu.json(),
                "cpu_together": ratio.cpu_together.json(),
                "target": target,
                "met": ratio.is_met(),
            })
        });
        json!({
            "scenario": self.letter.to_string(),
            "title": self.title,
            "sides": self.sides.iter().map(|(name, rounds)| side_json(name, rounds)).collect::<Vec<_>>(),
            "ratios": ratios.collect::<Vec<_>>(),
        })
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Table(&self.sides).fmt(f)
    }
}

/// A line for each side.
pub struct Table<'a>(pub &'a [(&'static str, Rounds)]);

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head = ["requests/s", "busy", "p50 us", "p99 us", "CPU us/request", "all at once"];
        write!(
            f,
            "    {:<14}{:>12}{:>8}{:>9}{:>9}{:>16}{:>13}",
            "", head[0], head[1], head[2], head[3], head[4], head[5]
        )?;
        for (name, rounds) in self.0 {
            let median = |figure: fn(&Figures) -> f64| median_of(&rounds.alone, figure);
            write!(
                f,
                "\n    {name:<14}{:>12.0}{:>7.0}%{:>9.0}{:>9.0}{:>16.1}{:>13.1}",
                median(Figures::rate),
                100.0 * median(Figures::busy),
                median(|figures| figures.turn.p50_us as f64),
                median(|figures| figures.turn.p99_us as f64),
                median(Figures::cpu_per_request_us),
                median_of(&rounds.together, Figures::cpu_per_request_us),
            )?;
        }
        Ok(())
    }
}

impl Ratio {
    fn is_met(&self) -> Option<bool> {
        let target = self.comparison.target?;
        Some(self.added.as_ref().map_or(self.rate.median >= target, |added| added.median <= target))
    }
}

impl Spread {
    /// Of ratios each of which is of one round, so that what all of a round shares is divided out before the median.
    pub fn by_rounds(above: &[Figures], below: &[Figures], figure: fn(&Figures) -> f64) -> Spread {
        let single: Vec<f64> = above.iter().zip(below).map(|(above, below)| figure(above) / figure(below)).collect();
        Spread { median: median(single), ..Spread::of(above, below, figure) }
    }

    fn of(above: &[Figures], below: &[Figures], figure: fn(&Figures) -> f64) -> Spread {
        let single = || above.iter().zip(below).map(|(above, below)| figure(above) / figure(below));
        Spread {
            median: median_of(above, figure) / median_of(below, figure),
            min: single().fold(f64::INFINITY, f64::min),
            max: single().fold(0.0, f64::max),
        }
    }

    /// Of what both add to the median latency of a third.
    fn of_added(above: &[Figures], below: &[Figures], bare: &[Figures]) -> Spread {
        let p50 = |figures: &Figures| figures.turn.p50_us as f64;
        let ratio = |[above, below, bare]: [f64; 3]| (above - bare) / (below - bare);
        let rounds = above.iter().zip(below).zip(bare);
        let single = || rounds.clone().map(|((above, below), bare)| ratio([p50(above), p50(below), p50(bare)]));
        Spread {
            median: ratio([above, below, bare].map(|rounds| median_of(rounds, p50))),
            min: single().fold(f64::INFINITY, f64::min),
            max: single().fold(f64::NEG_INFINITY, f64::max),
        }
    }

    /// As a program reads it.
    pub fn json(&self) -> Value {
        json!({ "ratio": self.median, "min": self.min, "max": self.max })
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3}  {:.3}..{:.3}", self.median, self.min, self.max)
    }
}

/// All comparisons in one table.
pub fn summary(outcomes: &[Outcome]) -> String {
    let line = |name: &str, rate: &str, target: &str, reply: &str, cpu: &str, together: &str| {
        format!("{name:<45}{rate:<23}{target:<8}{reply:<8}{cpu:<23}{together}").trim_end().to_owned()
    };
    let mut lines = vec![line("", "ratio", "target", "", "by CPU time", "by CPU time, all at once")];
    for outcome in outcomes {
        for ratio in &outcome.ratios {
            let Comparison { subject, reference, by, target } = ratio.comparison;
            let (what, bound) = match by {
                By::Rate => ("", ""),
                By::Added(_) => (", added p50", "≤"),
            };
            let target = target.map(|target| format!("{bound}{target:.2}")).unwrap_or_default();
            let reply = ratio.is_met().map_or("", |met| if met { "met" } else { "MISSED" });
            lines.push(line(
                &format!("({}) {subject} / {reference}{what}", outcome.letter),
                &ratio.added.as_ref().unwrap_or(&ratio.rate).to_string(),
                &target,
                reply,
                &ratio.cpu.to_string(),
                &ratio.cpu_together.to_string(),
            ));
        }
    }
    lines.join("\n")
}

/// Scenarios against their references, as a program reads them.
pub fn json(outcomes: &[Outcome]) -> Value {
    outcomes.iter().map(Outcome::json).collect()
}

/// What a side came to.
pub fn side_json(name: &str, rounds: &Rounds) -> Value {
    json!({
        "name": name,
        "requests_per_s": median_of(&rounds.alone, Figures::rate),
        "cpu_us_per_request": median_of(&rounds.alone, Figures::cpu_per_request_us),
        "cpu_us_per_request_together": median_of(&rounds.together, Figures::cpu_per_request_us),
        "rounds": rounds.alone.iter().map(round_json).collect::<Vec<_>>(),
        "rounds_together": rounds.together.iter().map(round_json).collect::<Vec<_>>(),
    })
}

fn round_json(figures: &Figures) -> Value {
    json!({
        "requests": figures.turn.requests,
        "requests_per_s": figures.rate(),
        "cpu_us_per_request": figures.cpu_per_request_us(),
        "busy": figures.busy(),
        "p50_us": figures.turn.p50_us,
        "p99_us": figures.turn.p99_us,
    })
}

fn median_of(rounds: &[Figures], figure: impl Fn(&Figures) -> f64) -> f64 {
    median(rounds.iter().map(figure).collect())
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    let middle = figures.len() / 2;
    match (figures.get(middle), middle.checked_sub(1).and_then(|below| figures.get(below))) {
        (Some(above), Some(below)) if figures.len().is_multiple_of(2) => (above + below) / 2.0,
        (Some(middle), _) => *middle,
        (None, _) => f64::NAN,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_is_the_middle_or_half_way_between_two() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
    }
}
