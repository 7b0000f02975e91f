//! Redis's own protocol (RESP2), as far as tests speak it.
//!
//! One rule: arguments and answers are bytes, and an error that Redis gives is an answer like any other.
//! It does not know what the commands mean.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// What Redis answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// A bulk string.
    Bytes(Vec<u8>),
    /// An error, without its `-`.
    Error(String),
    /// An integer.
    Integer(i64),
    /// An array.
    List(Vec<Reply>),
    /// Nothing there.
    Nil,
    /// A simple string, such as `OK`.
    Status(String),
}

impl Reply {
    /// The bytes of a bulk string; none of anything else.
    pub fn bytes(self) -> Option<Vec<u8>> {
        match self {
            Reply::Bytes(bytes) => Some(bytes),
            _ => None,
        }
    }

    /// The elements of an array; none of anything else.
    pub fn list(self) -> Vec<Reply> {
        match self {
            Reply::List(replies) => replies,
            _ => Vec::new(),
        }
    }

    /// Bulk, simple and error strings as text, with � for what is not UTF-8.
    pub fn text(&self) -> String {
        match self {
            Reply::Bytes(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            Reply::Error(text) | Reply::Status(text) => text.clone(),
            _ => String::new(),
        }
    }
}

/// Sends one command on a connection of its own and reads the answer.
pub fn ask<A: AsRef<[u8]>>(to: SocketAddr, arguments: &[A], patience: Duration) -> io::Result<Reply> {
    let mut stream = TcpStream::connect_timeout(&to, patience)?;
    stream.set_read_timeout(Some(patience))?;
    let mut command = format!("*{}\r\n", arguments.len()).into_bytes();
    for argument in arguments.iter().map(AsRef::as_ref) {
        command.extend_from_slice(format!("${}\r\n", argument.len()).as_bytes());
        command.extend_from_slice(&[argument, b"\r\n"].concat());
    }
    stream.write_all(&command)?;
    read(&mut BufReader::new(stream))
}

/// How long the message is that these bytes begin with, once it is whole.
pub fn message_len(bytes: &[u8]) -> io::Result<Option<usize>> {
    let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else { return Ok(None) };
    let line = bytes[..end].strip_suffix(b"\r").and_then(|line| str::from_utf8(line).ok()).ok_or_else(no_answer)?;
    let (kind, number) = line.split_at_checked(1).ok_or_else(no_answer)?;
    let mut at = end + 1;
    let count = || Ok::<_, io::Error>(usize::try_from(number.parse::<i64>().map_err(|_| no_answer())?).unwrap_or(0));
    match kind {
        "$" if number.starts_with('-') => {}
        "$" => at += count()? + 2,
        "*" => {
            for _ in 0..count()? {
                let Some(len) = message_len(bytes.get(at..).unwrap_or_default())? else { return Ok(None) };
                at += len;
            }
        }
        "+" | "-" | ":" => {}
        _ => return Err(no_answer()),
    }
    Ok((at <= bytes.len()).then_some(at))
}

fn read(input: &mut impl BufRead) -> io::Result<Reply> {
    let mut line = Vec::new();
    input.read_until(b'\n', &mut line)?;
    let line = String::from_utf8(line).map_err(|_| no_answer())?;
    let (kind, rest) = line.strip_suffix("\r\n").and_then(|line| line.split_at_checked(1)).ok_or_else(no_answer)?;
    let number = || rest.parse::<i64>().map_err(|_| no_answer());
    Ok(match kind {
        "+" => Reply::Status(rest.to_owned()),
        "-" => Reply::Error(rest.to_owned()),
        ":" => Reply::Integer(number()?),
        "$" | "*" => match (kind, usize::try_from(number()?)) {
            (_, Err(_)) => Reply::Nil,
            ("*", Ok(count)) => Reply::List((0..count).map(|_| read(input)).collect::<Result<_, _>>()?),
            (_, Ok(length)) => {
                let mut bytes = vec![0; length + 2];
                input.read_exact(&mut bytes)?;
                bytes.truncate(length);
                Reply::Bytes(bytes)
            }
        },
        _ => return Err(no_answer()),
    })
}

fn no_answer() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "what came is no answer of Redis")
}
