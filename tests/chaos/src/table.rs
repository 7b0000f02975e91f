//! What was injected and what came of it, as a person reads it.
//!
//! One rule: a request belongs to the class that was injected last before it was sent, and so does all that came of it.
//! It does not know what is right.

use std::collections::{BTreeMap, HashMap};
use std::fmt::{self, Write as _};
use std::time::Duration;

use crate::checker::{Violation, takeovers};
use crate::history::{Asked, End, History, Kind};
use crate::run::Outcome;

/// The row of requests that were sent before the first fault or after the last.
pub const CALM: &str = "(calm)";

/// One line.
#[derive(Debug, Clone, Copy, Default)]
pub struct Row {
    /// How often the class was injected.
    pub injections: usize,
    requests: usize,
    executions: usize,
    takeovers: usize,
    replays: usize,
    refusals: usize,
    /// Clients were told that nobody knows, or nothing.
    unknown: usize,
    violations: usize,
}

/// All lines, by class.
#[derive(Debug, Default)]
pub struct Table {
    rows: BTreeMap<&'static str, Row>,
    slowest_us: u64,
}

impl Table {
    /// Adds what came of one world.
    pub fn add(&mut self, outcome: &Outcome) {
        let Outcome { history, injected, calm_us, violations, .. } = outcome;
        let class_at = |at_us: u64| {
            let place = injected.partition_point(|(_, from_us)| *from_us <= at_us);
            if at_us > *calm_us { CALM } else { place.checked_sub(1).map_or(CALM, |place| injected[place].0) }
        };
        for (class, _) in injected {
            self.row(class).injections += 1;
        }
        let mut sent: HashMap<u64, u64> = HashMap::new();
        for asked in &history.asked {
            sent.insert(asked.id, asked.sent_us);
            self.slowest_us = self.slowest_us.max(asked.done_us - asked.sent_us);
            let row = self.row(class_at(asked.sent_us));
            row.requests += 1;
            match &asked.end {
                End::Answer(answer) if answer.token() == "replayed" => row.replays += 1,
                End::Answer(answer) if answer.refusal() == Some("outcome-unknown") => row.unknown += 1,
                End::Answer(answer) if answer.token() == "refused" => row.refusals += 1,
                End::Answer(answer) if answer.execution.is_some() => (),
                _ => row.unknown += 1,
            }
        }
        let sent_us = |request: u64| sent.get(&request).copied().unwrap_or(0);
        for execution in &history.executions {
            self.row(class_at(sent_us(execution.request))).executions += 1;
        }
        for execution in takeovers(&history.executions) {
            self.row(class_at(sent_us(execution.request))).takeovers += 1;
        }
        for violation in violations {
            self.row(class_at(violation.at_us)).violations += 1;
        }
    }

    /// The longest that anybody has waited for the end of a request.
    pub fn slowest(&self) -> Duration {
        Duration::from_micros(self.slowest_us)
    }

    /// The line of a class.
    pub fn row(&mut self, class: &'static str) -> &mut Row {
        self.rows.entry(class).or_default()
    }

    /// How many requests there were.
    pub fn requests(&self) -> usize {
        self.rows.values().map(|row| row.requests).sum()
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head =
            ["injections", "requests", "executions", "takeovers", "replays", "refusals", "unknown", "violations"];
        writeln!(f, "{:20}{}", "class", head.map(|name| format!("{name:>12}")).concat())?;
        let mut sum = [0; 8];
        let cells = |row: &Row| {
            let Row { injections, requests, executions, takeovers, replays, refusals, unknown, violations } = *row;
            [injections, requests, executions, takeovers, replays, refusals, unknown, violations]
        };
        for (class, row) in &self.rows {
            for (sum, cell) in sum.iter_mut().zip(cells(row)) {
                *sum += cell;
            }
            writeln!(f, "{class:20}{}", cells(row).map(|cell| format!("{cell:>12}")).concat())?;
        }
        write!(f, "{:20}{}", "all", sum.map(|cell| format!("{cell:>12}")).concat())
    }
}

/// A violation and all that is known of its operation, in order of time; of a passer-by, itself alone.
pub fn tell(violation: &Violation, outcome: &Outcome) -> String {
    let history = &outcome.history;
    let mut lines: Vec<(u64, String)> = Vec::new();
    let is_alone = violation.name.kind == Kind::Plain;
    let of_name = |asked: &&Asked| asked.name == violation.name && (!is_alone || asked.done_us == violation.at_us);
    let ids: Vec<u64> = history.asked.iter().filter(of_name).map(|asked| asked.id).collect();
    for asked in history.asked.iter().filter(of_name) {
        let Asked { id, gateway, payload, sent_us, done_us, end, .. } = asked;
        let told = match end {
            End::Answer(answer) => format!("{} {:?} execution {:?}", answer.status, answer.line, answer.execution),
            End::Broken(why) => format!("nothing: {why}"),
            End::HungUp => "nothing, it hung up".to_owned(),
        };
        let took_ms = (done_us - sent_us) / 1000;
        lines
            .push((*sent_us, format!("request {id} ({}) to {gateway}, told after {took_ms} ms {told}", &payload[..4])));
    }
    for e in history.executions.iter().filter(|execution| ids.contains(&execution.request)) {
        let turn = if e.fence > 0 { format!(", fence {} on {}", e.fence, e.resource) } else { String::new() };
        let what =
            format!("execution {} of {} (attempt {}{turn}): {} {:?}", e.n, e.request, e.attempt, e.status, e.sent);
        lines.push((e.at_us, format!("  {what}, operation {}", e.operation)));
    }
    let from_us = lines.iter().map(|(at_us, _)| *at_us).min().unwrap_or(0).saturating_sub(1_000_000);
    let faults = outcome.injected.iter().filter(|(_, at_us)| (from_us..=violation.at_us).contains(at_us));
    lines.extend(faults.map(|(class, at_us)| (*at_us, format!("    --- {class}"))));
    lines.extend(marks(history).into_iter().filter(|(at_us, _)| (from_us..=violation.at_us).contains(at_us)));
    lines.sort();
    let mut text = format!("{:?} at {} us: {}\n", violation.name, violation.at_us, violation.what);
    for (at_us, line) in lines {
        let _ = writeln!(text, "{:>10.1} ms {line}", (at_us as f64 - from_us as f64) / 1000.0);
    }
    text
}

fn marks(history: &History) -> Vec<(u64, String)> {
    let excuses = &history.excuses;
    let losses = excuses.losses.iter().map(|loss| ("records are lost", loss.span));
    let spans = losses
        .chain(excuses.jumps.iter().map(|span| ("the store's clock jumps", *span)))
        .chain(excuses.breaks.iter().map(|span| ("connections may break", *span)))
        .chain(excuses.pauses.iter().map(|span| ("this machine stands still", *span)))
        .chain(excuses.stalls.iter().map(|span| ("requests may be late", *span)));
    spans
        .flat_map(|(what, span)| {
            [(span.from_us, format!("    {what} from here")), (span.to_us, format!("    {what} until here"))]
        })
        .collect()
}
