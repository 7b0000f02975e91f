//! The wire of Redis itself (RESP2): commands out, replies in, as they come.
//!
//! Its one rule: the reader refuses bytes that are no reply to a command of ours, and skips none.
//! It does not know which command a reply belongs to.

use crate::command::{Failure, RedisError};
use crate::config::{Login, RESPONSE_MAX};
use crate::message::whole_number;
use crate::store::client::{Batch, Lane, Reply};
use crate::store::redis::{self, Named};

/// A reply, as far as commands of ours have one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// An array of strings.
    Array(Vec<&'a [u8]>),
    /// An error, without its first byte and the end of its line.
    Error(&'a [u8]),
    /// A simple string.
    Status(&'a [u8]),
}

/// What a reply says about a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Redis does not have the script: the same batch is to be sent with its text.
    NoScript,
    /// The end of the call.
    Reply(Reply),
}

/// What some bytes begin with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parsed<'a> {
    /// A reply, and how many bytes it takes.
    Whole(Value<'a>, usize),
    /// A part of one that takes at least so many bytes.
    Part(usize),
    /// Nothing that Redis answers to a command of ours.
    Broken,
}

/// How many strings a reply has at most: an answer for each operation of a batch.
const ITEMS_MAX: u64 = 64;
/// How long a string is at most: an answer that carries the largest response there may be.
const STRING_MAX: u64 = RESPONSE_MAX as u64 + 4096;
/// How long a line is at most. The longest is an error that Redis cites a script in.
const LINE_MAX: usize = 4096;

impl Value<'_> {
    /// What it says about a batch.
    pub fn into_answer(self) -> Answer {
        let failed = |failure| Answer::Reply(Reply::Failed(failure));
        match self {
            Value::Array(items) => match items.into_iter().map(redis::unpack).collect() {
                Ok(answers) => Answer::Reply(Reply::Answers(answers)),
                Err(_) => failed(Failure::Garbage),
            },
            Value::Error(error) => match redis::refusal(error) {
                RedisError::NoScript => Answer::NoScript,
                error => failed(Failure::Redis(error)),
            },
            Value::Status(_) => failed(Failure::Garbage),
        }
    }
}

/// Reads the reply that these bytes begin with.
pub fn parse(input: &[u8]) -> Parsed<'_> {
    let kind = match input.first() {
        Some(kind @ (b'*' | b'-' | b'+')) => kind,
        Some(_) => return Parsed::Broken,
        None => return Parsed::Part(1),
    };
    let (line, at) = match line(input) {
        Ok(line) => line,
        Err(parsed) => return parsed,
    };
    match kind {
        b'*' => array(input, line, at),
        b'-' => Parsed::Whole(Value::Error(line), at),
        _ => Parsed::Whole(Value::Status(line), at),
    }
}

fn array<'a>(input: &'a [u8], count: &[u8], mut at: usize) -> Parsed<'a> {
    let Some(count) = whole_number(count).filter(|count| *count <= ITEMS_MAX) else { return Parsed::Broken };
    let mut items = Vec::new();
    for _ in 0..count {
        let rest = input.get(at..).unwrap_or_default();
        match rest.first() {
            None => return Parsed::Part(at + 1),
            Some(b'$') => {}
            Some(_) => return Parsed::Broken,
        }
        let (digits, start) = match line(rest) {
            Ok(line) => line,
            Err(Parsed::Part(wanted)) => return Parsed::Part(at + wanted),
            Err(parsed) => return parsed,
        };
        let Some(len) = whole_number(digits).filter(|len| *len <= STRING_MAX) else { return Parsed::Broken };
        let (start, end) = (at + start, at + start + len as usize);
        let (Some(item), Some(tail)) = (input.get(start..end), input.get(end..end + 2)) else {
            return Parsed::Part(end + 2);
        };
        if tail != b"\r\n" {
            return Parsed::Broken;
        }
        items.push(item);
        at = end + 2;
    }
    Parsed::Whole(Value::Array(items), at)
}

/// What stands between the first byte and the end of its line, and where the next line begins.
fn line(input: &[u8]) -> Result<(&[u8], usize), Parsed<'static>> {
    let seen = input.get(..LINE_MAX).unwrap_or(input);
    match seen.iter().position(|byte| *byte == b'\n') {
        Some(end) => match input.get(1..end).and_then(|line| line.strip_suffix(b"\r")) {
            Some(line) => Ok((line, end + 1)),
            None => Err(Parsed::Broken),
        },
        None if seen.len() < LINE_MAX => Err(Parsed::Part(input.len() + 1)),
        None => Err(Parsed::Broken),
    }
}

/// The replies of one stream, as its bytes come.
#[derive(Debug, Default)]
pub struct Reader {
    bytes: Vec<u8>,
    /// Where the next reply begins.
    from: usize,
    /// How many bytes there must be from there on before it can be whole.
    wanted: usize,
}

/// Bytes that are no reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Broken;

impl Reader {
    /// Takes bytes that have come.
    pub fn push(&mut self, bytes: Vec<u8>) {
        if self.from == self.bytes.len() {
            (self.bytes, self.from) = (bytes, 0);
            return;
        }
        self.bytes.drain(..self.from);
        self.from = 0;
        // A large reply comes in many pieces, which are not to be moved over and over.
        self.bytes.reserve(bytes.len().max(self.wanted.saturating_sub(self.bytes.len())));
        self.bytes.extend(bytes);
    }

    /// Hands the next reply to `read`, if it is whole.
    ///
    /// # Errors
    /// What stands there is no reply.
    pub fn next<T>(&mut self, read: impl FnOnce(Value<'_>) -> T) -> Result<Option<T>, Broken> {
        let unread = self.bytes.get(self.from..).unwrap_or_default();
        if unread.len() < self.wanted.max(1) {
            return Ok(None);
        }
        match parse(unread) {
            Parsed::Whole(value, len) => {
                let read = read(value);
                (self.from, self.wanted) = (self.from + len, 0);
                Ok(Some(read))
            }
            Parsed::Part(wanted) => {
                self.wanted = wanted;
                Ok(None)
            }
            Parsed::Broken => Err(Broken),
        }
    }

    /// Whether the bytes that have come look like HTTP.
    pub fn is_http(&self) -> bool {
        self.bytes.get(self.from..).is_some_and(|unread| unread.starts_with(b"HTTP/1."))
    }
}

/// The command that logs in.
pub fn log_in(login: &Login) -> Vec<u8> {
    let mut out = Vec::new();
    let arguments = login.username.iter().chain([&login.password]).map(Vec::as_slice);
    command(&[b"AUTH".as_slice()].into_iter().chain(arguments).collect::<Vec<_>>(), &mut out);
    out
}

/// Writes the command that carries a batch out. `prefix` is that of every key.
pub fn write(prefix: &str, batch: &Batch, named: Named, out: &mut Vec<u8>) {
    let (eval, script) = named.command();
    let keys: Vec<_> = batch.tries.iter().map(|(_, command)| format!("{prefix}{}", command.name.hex())).collect();
    let count = keys.len().to_string();
    let operations = redis::pack(batch, batch.lane == Lane::Small);
    let mut arguments = vec![eval.as_bytes(), script.as_bytes(), count.as_bytes()];
    arguments.extend(keys.iter().map(String::as_bytes));
    arguments.push(&operations);
    command(&arguments, out);
}

fn command(arguments: &[&[u8]], out: &mut Vec<u8>) {
    out.reserve(arguments.iter().map(|argument| argument.len() + 16).sum());
    out.extend(format!("*{}\r\n", arguments.len()).into_bytes());
    for argument in arguments {
        out.extend(format!("${}\r\n", argument.len()).into_bytes());
        out.extend_from_slice(argument);
        out.extend(b"\r\n");
    }
}
