//! Finds an operation in the store, says what is known of it, and settles it.
//!
//! Its one rule: the script that gateways run is the script that runs here, so a word of an operator's counts as theirs do.
//! It does not know Envoy; where records are kept in one, its operator plugin is asked.
#![expect(clippy::indexing_slicing, reason = "only JSON is indexed, by names: what is not there is null")]

mod arguments;
mod configuration;
mod doctor;
mod gateway;
mod list;
mod operations;
mod output;
mod show;
mod store;

use std::io::Write;
use std::process::ExitCode;

use arguments::{Arguments, Command};
use clap::CommandFactory;
use output::{Answer, Said};
use serde_json::json;

/// Why a command could not be carried out, in one sentence.
type Failed = String;

fn main() -> ExitCode {
    let (is_json, read) = Arguments::read();
    let said = read.and_then(|arguments| run(&arguments)).unwrap_or_else(|why| {
        eprintln!("idempotencyctl: {why}");
        Said { text: String::new(), json: json!({ "error": why }), answer: Answer::Unknown }
    });
    let text = if is_json { format!("{:#}\n", said.json) } else { said.text };
    // A reader that has closed the pipe does not want to read on.
    let _ = std::io::stdout().write_all(text.as_bytes());
    ExitCode::from(said.answer as u8)
}

fn run(arguments: &Arguments) -> Result<Said, Failed> {
    match &arguments.command {
        Command::Name(request) => configuration::name(arguments, request),
        Command::Match(request) => configuration::matched(arguments, request),
        Command::Show { operation, reveal } => operations::show(arguments, operation, *reveal),
        Command::Resolve { operation, word } => operations::resolve(arguments, operation, word),
        Command::Forget { operation } => operations::forget(arguments, operation),
        Command::List(wanted) => list::list(arguments, wanted),
        Command::Stats => list::stats(arguments),
        Command::Doctor { user } => doctor::examine(arguments, user.as_deref()),
        Command::Completions { shell } => {
            let mut text = Vec::new();
            clap_complete::generate(*shell, &mut Arguments::command(), "idempotencyctl", &mut text);
            Ok(Said::text(String::from_utf8_lossy(&text)))
        }
        Command::Man => {
            let page = man().map_err(|error| format!("the man page cannot be written: {error}"))?;
            Ok(Said::text(String::from_utf8_lossy(&page)))
        }
    }
}

/// The man page, and in it the arguments of each command.
fn man() -> std::io::Result<Vec<u8>> {
    let mut text = Vec::new();
    let program = Arguments::command();
    clap_mangen::Man::new(program.clone()).render(&mut text)?;
    for command in program.get_subcommands().filter(|it| it.get_arguments().next().is_some()) {
        let mut section = Vec::new();
        clap_mangen::Man::new(command.clone().disable_help_flag(true)).render_options_section(&mut section)?;
        let section = String::from_utf8_lossy(&section);
        text.extend(section.replacen(".SH OPTIONS", &format!(".SH OPTIONS OF {}", command.get_name()), 1).bytes());
    }
    Ok(text)
}
