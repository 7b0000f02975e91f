//! Says what a configuration of the filter would do, or why Envoy would refuse it, before anybody loads it.
//!
//! Its one rule: what is said goes to standard output, and what cannot be checked to standard error.
//! It does not know what there is to say.

mod arguments;

use std::env;
use std::fs;
use std::io::{self, Read, Write};
use std::process::ExitCode;

use arguments::{Check, Wanted};
use check_config::report::{self, Report};
use check_config::{input, locate, shown};
use serde_json::json;

fn main() -> ExitCode {
    let (said, code) = match arguments::read(env::args_os().skip(1)) {
        Ok(Wanted::Help) => (arguments::HELP.to_owned(), 0),
        Ok(Wanted::Version) => (format!("check-config {}\n", envoy_idempotency::VERSION), 0),
        Ok(Wanted::Check(check)) => check_all(&check),
        Err(message) => {
            eprintln!("{message}");
            (String::new(), 2)
        }
    };
    // A reader that has closed the pipe does not want to read on.
    let _ = io::stdout().write_all(said.as_bytes());
    ExitCode::from(code)
}

/// Checks every file; what cannot be checked is said, and the others are checked all the same.
fn check_all(check: &Check) -> (String, u8) {
    let (mut texts, mut trees, mut code) = (Vec::new(), Vec::new(), 0);
    for name in &check.files {
        let file = if name == "-" { "standard input" } else { name };
        let found = match judge(name, check) {
            Ok(reports) => {
                texts.push(shown::text(file, &reports));
                trees.push(shown::json(file, &reports));
                let fails = |it: &Report| !it.errors.is_empty() || check.is_strict && !it.warnings.is_empty();
                u8::from(reports.iter().any(fails))
            }
            Err(why) => {
                eprintln!("{file}: {why}");
                trees.push(shown::unchecked(file, &why));
                2
            }
        };
        code = code.max(found);
    }
    let said = if check.is_json { format!("{:#}\n", json!({ "files": trees })) } else { texts.join("\n") };
    (said, code)
}

/// What is to be said about this file, place by place.
fn judge(name: &str, check: &Check) -> Result<Vec<Report>, String> {
    let text = read(name).map_err(|error| format!("cannot be read: {error}"))?;
    // As Windows' editors begin a file.
    let input = input::parse(text.trim_start_matches('\u{feff}'))?;
    let found = locate::find(&input);
    if found.is_empty() {
        return Err(input.without_filter());
    }
    Ok(found.iter().map(|found| report::judge(found, &input, check.request.as_ref())).collect())
}

fn read(name: &str) -> io::Result<String> {
    if name != "-" {
        return fs::read_to_string(name);
    }
    let mut text = String::new();
    io::stdin().read_to_string(&mut text)?;
    Ok(text)
}
