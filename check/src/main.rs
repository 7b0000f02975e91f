//! Says what a configuration of the filter would do, or why Envoy would refuse it, before anybody loads it.
//!
//! Its one rule: a document is judged by the filter's own parser, so what is accepted here is accepted there.
//! It does not start Envoy, and asks nothing of the network.
#![expect(clippy::indexing_slicing, reason = "only JSON is indexed, by names: what is not there is null")]

mod breakers;
mod certificates;
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

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let checked = match arguments.as_slice() {
        [name] if !name.is_empty() => check(name),
        _ => Err("give one file, or - for standard input: make check-config FILE=envoy/local.yaml".to_owned()),
    };
    let (report, code) = match checked {
        Ok((report, is_wrong)) => (report, u8::from(is_wrong)),
        Err(message) => {
            eprintln!("{message}");
            (String::new(), 2)
        }
    };
    // A reader that has closed the pipe does not want to read on.
    let _ = io::stdout().write_all(report.as_bytes());
    ExitCode::from(code)
}

/// What is to be said about this file, and whether there is an error in it.
fn check(name: &str) -> Result<(String, bool), String> {
    let shown = if name == "-" { "standard input" } else { name };
    let text = read(name).map_err(|error| format!("{shown}: cannot be read: {error}"))?;
    let input = input::parse(&text).map_err(|why| format!("{shown}: {why}"))?;
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
