//! What the checker says, as text and as JSON.
//!
//! Its one rule: in text every error and warning has the file and the place in front, so that a line found in a log
//! stands alone.
//! It does not judge anything.

use serde_json::{Value, json};

use crate::describe::Line;
use crate::report::{Described, Report};

/// What is said of one file as text.
pub fn text(file: &str, reports: &[Report]) -> String {
    reports.iter().map(|report| one(file, report)).collect::<Vec<_>>().join("\n")
}

fn one(file: &str, report: &Report) -> String {
    let place = if report.place.is_empty() { file.to_owned() } else { format!("{file}: {}", report.place) };
    let mut text = String::new();
    match &report.described {
        Some(Described::Framing) => text.push_str(&format!("{place}\n  {FRAMING}\n")),
        Some(Described::Operator(said)) => {
            text.push_str(&format!("{place}\n"));
            lines(&mut text, said);
        }
        Some(Described::Gateway { store, rules, request }) => {
            text.push_str(&format!("{place}\n"));
            lines(&mut text, store);
            for (name, rule) in rules {
                text.push_str(&format!("Rule {name}\n"));
                lines(&mut text, rule);
            }
            if let Some((line, becomes)) = request {
                text.push_str(&format!("Request {line}\n"));
                lines(&mut text, becomes);
            }
        }
        None => {}
    }
    for note in &report.notes {
        text.push_str(&format!("{note}\n"));
    }
    for error in &report.errors {
        text.push_str(&format!("{place}: error: {error}\n"));
    }
    for warning in &report.warnings {
        text.push_str(&format!("{place}: warning: {warning}\n"));
    }
    text
}

/// Labels in a column of their own, and words beside them.
fn lines(text: &mut String, lines: &[Line]) {
    for (label, said) in lines {
        let mut line = format!("  {label:<LABEL$}");
        for word in said.split(' ') {
            if line.chars().count() + word.chars().count() > WIDTH {
                text.push_str(line.trim_end());
                text.push('\n');
                line = " ".repeat(2 + LABEL);
            }
            line.push_str(word);
            line.push(' ');
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
}

/// What is said of one file as JSON.
pub fn json(file: &str, reports: &[Report]) -> Value {
    let places: Vec<Value> = reports.iter().map(one_as_json).collect();
    json!({ "file": file, "places": places })
}

/// A file that could not be checked, as JSON.
pub fn unchecked(file: &str, why: &str) -> Value {
    json!({ "file": file, "unchecked": why, "places": [] })
}

fn one_as_json(report: &Report) -> Value {
    let all = |said: &[String]| said.iter().map(|said| located(said)).collect::<Vec<_>>();
    let mut place = json!({
        "place": report.place,
        "starts": report.described.is_some(),
        "errors": all(&report.errors),
        "warnings": all(&report.warnings),
        "notes": report.notes,
    });
    match &report.described {
        Some(Described::Framing) => place["framing"] = true.into(),
        Some(Described::Operator(said)) => place["operator"] = words(said),
        Some(Described::Gateway { store, rules, request }) => {
            let rule = |(name, lines): &(String, Vec<Line>)| json!({ "name": name, "words": words(lines) });
            place["store"] = words(store);
            place["rules"] = rules.iter().map(rule).collect();
            if let Some((line, lines)) = request {
                place["request"] = json!({ "line": line, "words": words(lines) });
            }
        }
        None => {}
    }
    place
}

/// A sentence, and the place in the document that it names in front, where it names one.
fn located(said: &str) -> Value {
    match said.split_once(": ") {
        Some((at, message)) if at.starts_with('/') && !at.contains(' ') => json!({ "at": at, "message": message }),
        _ => json!({ "at": null, "message": said }),
    }
}

fn words(lines: &[Line]) -> Value {
    lines.iter().map(|(label, said)| json!({ "label": label, "text": said })).collect()
}

/// What the other plugin of the module does.
const FRAMING: &str = "takes gRPC frames off on the way to Redis";
const LABEL: usize = 17;
const WIDTH: usize = 100;
