//! What the operator asks for on the command line.
//!
//! Its one rule: an argument that is not understood is an error that names those which are.
//! It does not open a file.

use std::ffi::OsString;

use lexopt::{Arg, Parser, ValueExt};

use check_config::request::Given;

/// What `--help` prints.
pub const HELP: &str = "\
Says what a configuration of envoy-idempotency would do, or why Envoy would refuse it.

check-config [OPTIONS] FILE...    - reads standard input

  --strict                warnings count as errors
  --format text|json      the form of what is said
  --request 'POST /path'  says too what would become of this request; the target may be a whole URL
  -H 'name: value'        a header of that request; may be given several times
  --body TEXT             its body
  --help                  prints this
  --version               prints the version of the filter whose parser this is

A file is the filter's document alone (JSON), or a configuration of Envoy, Istio or Envoy Gateway (YAML or JSON).
Exits with 0 where the filter would start, with 1 where there is an error (--strict: or a warning), and with 2 where a
file cannot be read or holds nothing to check, or where the arguments are wrong.
";

/// What the arguments ask for.
pub enum Wanted {
    /// What the program takes.
    Help,
    /// Which filter it is of.
    Version,
    /// A check of files.
    Check(Check),
}

/// A check of files.
#[derive(Default)]
pub struct Check {
    /// Their names; `-` is standard input.
    pub files: Vec<String>,
    /// Whether warnings count as errors.
    pub is_strict: bool,
    /// Whether what is said is JSON.
    pub is_json: bool,
    /// A request to follow through each of them.
    pub request: Option<Given>,
}

/// Reads the arguments.
///
/// # Errors
/// They are not understood; the message says why.
pub fn read(arguments: impl IntoIterator<Item = OsString>) -> Result<Wanted, String> {
    let (mut check, mut parser) = (Check::default(), Parser::from_args(arguments));
    let (mut target, mut headers, mut body) = (None, Vec::new(), None);
    while let Some(argument) = parser.next().map_err(|error| error.to_string())? {
        match argument {
            Arg::Long("help") | Arg::Short('h') => return Ok(Wanted::Help),
            Arg::Long("version") => return Ok(Wanted::Version),
            Arg::Long("strict") => check.is_strict = true,
            Arg::Long("format") => {
                check.is_json = match value(&mut parser)?.as_str() {
                    "json" => true,
                    "text" => false,
                    other => return Err(format!("--format must be text or json, is {other}")),
                }
            }
            Arg::Long("request") => target = Some(value(&mut parser)?),
            Arg::Short('H') | Arg::Long("header") => headers.push(value(&mut parser)?),
            Arg::Long("body") => body = Some(value(&mut parser)?),
            Arg::Value(file) => check.files.push(file.string().map_err(|error| error.to_string())?),
            Arg::Long(name) => return Err(unknown(&format!("--{name}"))),
            Arg::Short(name) => return Err(unknown(&format!("-{name}"))),
        }
    }
    check.request = match target {
        Some(target) => Some(Given::parse(&target, &headers, body)?),
        None if headers.is_empty() && body.is_none() => None,
        None => return Err("-H and --body go only with --request".to_owned()),
    };
    check.files.retain(|name| !name.is_empty());
    if check.files.is_empty() {
        return Err("give a file, or - for standard input: make check-config FILE=envoy/local.yaml".to_owned());
    }
    Ok(Wanted::Check(check))
}

fn value(parser: &mut Parser) -> Result<String, String> {
    parser.value().and_then(|value| value.string()).map_err(|error| error.to_string())
}

fn unknown(option: &str) -> String {
    format!("{option} is no option; known are --strict, --format, --request, -H, --body, --help and --version")
}
