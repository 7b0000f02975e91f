//! The client: wrk, told by a script what to send.
//!
//! One rule: the sides of a scenario get the same script, byte for byte.
//! It does not know what the answers should be, only that a status of 400 or more is an error.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::machine::Machine;
use crate::nginx::BODY_BYTES;

/// What is sent, again and again.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    /// The method; with POST goes a body of [`BODY_BYTES`].
    pub method: &'static str,
    /// The path.
    pub path: &'static str,
    /// Which keys go with it.
    pub keys: Keys,
}

/// The keys of a load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keys {
    /// A new one with every request.
    Fresh,
    /// None.
    None,
    /// Always this one.
    Same(&'static str),
}

/// What wrk says of one turn.
#[derive(Debug, Clone, Copy)]
pub struct Turn {
    /// How long it took.
    pub duration_us: u64,
    /// Answers that came back whole.
    pub requests: u64,
    /// Answers with a status of 400 or more.
    pub bad_statuses: u64,
    /// Connections refused or lost.
    pub lost: u64,
    /// Half of the answers took no longer.
    pub p50_us: u64,
    /// Of a hundred answers 99 took no longer.
    pub p99_us: u64,
}

impl Load {
    /// The body that goes with a POST.
    pub fn body(&self) -> String {
        let (head, tail) = (r#"{"amount":4200,"note":""#, r#""}"#);
        match self.method {
            "POST" => format!("{head}{}{tail}", "n".repeat(BODY_BYTES - head.len() - tail.len())),
            _ => String::new(),
        }
    }

    /// Writes the script for it.
    pub fn write(&self, folder: &Path) -> Result<PathBuf, String> {
        let script = folder.join("load.lua");
        fs::write(&script, self.script())
            .map_err(|error| format!("{} cannot be written: {error}.", script.display()))?;
        Ok(script)
    }

    /// Raw requests, because a script that has wrk put every request together makes wrk the bottleneck.
    fn script(&self) -> String {
        let (method, path, body) = (self.method, self.path, self.body());
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: api.example.com\r\nAuthorization: {CALLER}\r\n");
        if !body.is_empty() {
            head += &format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len());
        }
        let (head, tail) = match self.keys {
            Keys::Fresh => (head + "Idempotency-Key: ", format!("\r\n\r\n{body}")),
            Keys::None => (head, format!("\r\n{body}")),
            Keys::Same(key) => (format!("{head}Idempotency-Key: {key}\r\n"), format!("\r\n{body}")),
        };
        let key = match self.keys {
            Keys::Fresh => "string.format('%s-%d-%010d', turn, thread, count)",
            Keys::None | Keys::Same(_) => "''",
        };
        format!(
            "{}local head, tail = {}, {}
function request() count = count + 1; return head .. {key} .. tail end
",
            frame("turn"),
            quote(&head),
            quote(&tail),
        )
    }
}

/// What every script begins with: each thread knows its number, the name of its turn and a count, and at the end the
/// figures are said.
pub fn frame(turn: &str) -> String {
    format!(
        "local threads = 0
function setup(one) threads = threads + 1; one:set('thread', threads) end
function init(arguments) {turn} = arguments[1]; count = 0 end
function done(summary, latency)
  local errors = summary.errors
  io.write(string.format({}, summary.duration, summary.requests, errors.status,
    errors.connect + errors.read + errors.write, latency:percentile(50), latency:percentile(99)))
end
",
        quote(&format!(
            "{MARK}{{\"duration_us\":%d,\"requests\":%d,\"bad_statuses\":%d,\"lost\":%d,\"p50_us\":%d,\"p99_us\":%d}}\n"
        )),
    )
}

/// Sends for so long what a script says; `name` tells the fresh keys of one turn from those of all others.
pub fn run(
    machine: &Machine,
    script: &Path,
    to: SocketAddr,
    connections: u64,
    duration_s: u64,
    name: &str,
) -> Result<Turn, String> {
    let mut command = machine.measuring("wrk");
    command.args(["--threads", "1", "--connections", &connections.to_string()]);
    command.args(["--duration", &format!("{duration_s}s"), "--script"]).arg(script);
    let output = command
        .args([&format!("http://{to}"), "--", name])
        .output()
        .map_err(|error| format!("wrk cannot be started: {error}."))?;
    let (said, complained) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let figures = said.lines().find_map(|line| Turn::parse(line.strip_prefix(MARK)?));
    figures.ok_or_else(|| format!("wrk ({}) did not say how it went:\n{said}{complained}", output.status))
}

impl Turn {
    fn parse(line: &str) -> Option<Turn> {
        let tree: Value = serde_json::from_str(line).ok()?;
        let number = |name: &str| tree.get(name)?.as_u64();
        Some(Turn {
            duration_us: number("duration_us")?,
            requests: number("requests")?,
            bad_statuses: number("bad_statuses")?,
            lost: number("lost")?,
            p50_us: number("p50_us")?,
            p99_us: number("p99_us")?,
        })
    }
}

/// Text as Lua reads it, every byte of it plain or by its number.
fn quote(text: &str) -> String {
    let plain = |byte: u8| (byte.is_ascii_graphic() || byte == b' ') && !b"\"\\".contains(&byte);
    let bytes =
        text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("\\{byte:03}") });
    format!("\"{}\"", bytes.collect::<String>())
}

/// Who is asking, as a client of such an API says it.
pub const CALLER: &str = "Bearer 2f1c0d7e5b9a4c38";

/// What the line of figures begins with.
const MARK: &str = "figures: ";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_in_the_script_is_the_text_that_was_meant() {
        assert_eq!(quote("a \"b\"\r\n"), r#""a \034b\034\013\010""#);
    }

    #[test]
    fn a_body_is_as_long_as_it_says() {
        let load = Load { method: "POST", path: "/", keys: Keys::None };
        assert_eq!((load.body().len(), crate::nginx::body().len()), (BODY_BYTES, BODY_BYTES));
    }
}
