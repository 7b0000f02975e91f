//! Says what a configuration of the filter would do, or why Envoy would refuse it, before anybody loads it.
//!
//! Its one rule: a document is judged by the filter's own parser, so what is accepted here is accepted there.
//! It does not start Envoy, and asks nothing of the network.
#![expect(clippy::indexing_slicing, reason = "only JSON is indexed, by names: what is not there is null")]

mod breakers;
mod certificates;
mod clients;
mod credentials;
mod deeds;
mod identity;
mod injectors;
mod input;
mod issuers;
mod istio;
mod keeper;
mod metadata;
mod mutations;
mod places;
mod report;
mod requirements;
mod running;
mod sameness;
mod scope;
mod shielding;
mod sources;
mod streams;
mod surroundings;
mod tokens;
mod told;
mod verification;
mod wanted;
mod ways;
mod words;
mod world;

use std::env;
use std::fs;
use std::io::{self, Read, Write};
use std::process::ExitCode;

const HELP: &str = "\
Says what a configuration of envoy-idempotency would do, or why Envoy would refuse it.

check-config [--strict] FILE...    - reads standard input

  --strict    warnings count as errors
  --help      prints this
  --version   prints the version of the filter whose parser this is

A file is the filter's document alone (JSON), or a configuration of Envoy, Istio or Envoy Gateway (YAML or JSON).
Exits with 0 where the filter would start, with 1 where there is an error (--strict: or a warning), and with 2 where a
file cannot be read or holds nothing to check, or where the arguments are wrong.
";

/// What the arguments ask for.
enum Wanted {
    Help,
    Version,
    Check { files: Vec<String>, is_strict: bool },
}

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let (said, code) = match wanted(&arguments) {
        Ok(Wanted::Help) => (HELP.to_owned(), 0),
        Ok(Wanted::Version) => (format!("check-config {}\n", envoy_idempotency::VERSION), 0),
        Ok(Wanted::Check { files, is_strict }) => check_all(&files, is_strict),
        Err(message) => {
            eprintln!("{message}");
            (String::new(), 2)
        }
    };
    // A reader that has closed the pipe does not want to read on.
    let _ = io::stdout().write_all(said.as_bytes());
    ExitCode::from(code)
}

fn wanted(arguments: &[String]) -> Result<Wanted, String> {
    let (options, files): (Vec<_>, Vec<_>) = arguments.iter().cloned().partition(|it| it.starts_with("--"));
    for option in &options {
        match option.as_str() {
            "--help" => return Ok(Wanted::Help),
            "--version" => return Ok(Wanted::Version),
            "--strict" => {}
            _ => return Err(format!("{option} is no option; known are --strict, --help and --version")),
        }
    }
    let files: Vec<String> = files.into_iter().filter(|name| !name.is_empty()).collect();
    if files.is_empty() {
        return Err("give a file, or - for standard input: make check-config FILE=envoy/local.yaml".to_owned());
    }
    Ok(Wanted::Check { files, is_strict: !options.is_empty() })
}

/// Checks every file; what cannot be checked is said, and the others are checked all the same.
fn check_all(files: &[String], is_strict: bool) -> (String, u8) {
    let (mut said, mut code) = (String::new(), 0);
    for name in files {
        let found = match check(name) {
            Ok((report, verdict)) => {
                if !said.is_empty() {
                    said.push('\n');
                }
                said.push_str(&report);
                u8::from(verdict.has_errors || is_strict && verdict.has_warnings)
            }
            Err(message) => {
                eprintln!("{message}");
                2
            }
        };
        code = code.max(found);
    }
    (said, code)
}

/// What is to be said about this file, and what was found in it.
fn check(name: &str) -> Result<(String, report::Verdict), String> {
    let shown = if name == "-" { "standard input" } else { name };
    let text = read(name).map_err(|error| format!("{shown}: cannot be read: {error}"))?;
    // As Windows' editors begin a file.
    let input = input::parse(text.trim_start_matches('\u{feff}')).map_err(|why| format!("{shown}: {why}"))?;
    let found = places::find(&input);
    if found.is_empty() {
        return Err(format!("{shown}: {}", input.without_filter()));
    }
    Ok(report::write(shown, &found, &input))
}

fn read(name: &str) -> io::Result<String> {
    if name != "-" {
        return fs::read_to_string(name);
    }
    let mut text = String::new();
    io::stdin().read_to_string(&mut text)?;
    Ok(text)
}
