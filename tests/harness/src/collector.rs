//! A collector of spans, as OpenTelemetry has them over HTTP.
//!
//! One rule: of each span it keeps the attributes that are text, and nothing else.
//! It does not know which attributes a test wants.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

/// The attributes of one span.
pub type Span = BTreeMap<String, String>;

/// A running one.
#[derive(Debug)]
pub struct Collector {
    addr: SocketAddr,
    spans: Arc<Mutex<Vec<Span>>>,
}

impl Collector {
    /// Starts it on a free port.
    pub fn start() -> Collector {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free loopback port");
        let addr = listener.local_addr().expect("a bound listener has an address");
        let spans = Arc::default();
        let kept = Arc::clone(&spans);
        thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                let kept = Arc::clone(&kept);
                // A connection that the peer ends is no fault.
                thread::spawn(move || serve(connection, &kept));
            }
        });
        Collector { addr, spans }
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The spans that have come so far.
    pub fn spans(&self) -> Vec<Span> {
        self.spans.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn serve(stream: TcpStream, kept: &Mutex<Vec<Span>>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut stream = stream;
    loop {
        let (mut length, mut is_chunked) = (0, false);
        while let Some(line) = line(&mut reader)?.filter(|line| !line.is_empty()) {
            if let Some(value) = line.strip_prefix("content-length: ") {
                length = value.parse().unwrap_or(0);
            }
            is_chunked |= line == "transfer-encoding: chunked";
        }
        let mut body = Vec::new();
        while is_chunked {
            let Some(size) = line(&mut reader)? else { return Ok(()) };
            let size = u64::from_str_radix(&size, 16).unwrap_or(0);
            reader.by_ref().take(size).read_to_end(&mut body)?;
            line(&mut reader)?;
            is_chunked = size > 0;
        }
        if reader.by_ref().take(length).read_to_end(&mut body)? == 0 && body.is_empty() {
            return Ok(());
        }
        kept.lock().unwrap_or_else(PoisonError::into_inner).extend(spans(&body));
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")?;
    }
}

/// The next line, in lower case; none where the peer has closed.
fn line(reader: &mut BufReader<TcpStream>) -> std::io::Result<Option<String>> {
    let mut line = String::new();
    let read = reader.read_line(&mut line)?;
    Ok((read > 0).then(|| line.trim_end().to_ascii_lowercase()))
}

/// `ExportTraceServiceRequest` of opentelemetry-proto: `resource_spans` 1, `scope_spans` 2, `spans` 2, `attributes` 9; of an
/// attribute `key` 1 and `value` 2, whose `string_value` is 1.
fn spans(request: &[u8]) -> Vec<Span> {
    let resources = fields(request, 1);
    let scopes = resources.into_iter().flat_map(|resource| fields(resource, 2));
    let spans = scopes.flat_map(|scope| fields(scope, 2));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let attribute = |pair: &[u8]| {
        let key = fields(pair, 1).first().map(|key| text(key))?;
        let value = fields(pair, 2).first().and_then(|value| fields(value, 1).first().map(|value| text(value)))?;
        Some((key, value))
    };
    spans.map(|span| fields(span, 9).into_iter().filter_map(attribute).collect()).collect()
}

/// What a message of protobuf has under this number, of fields with a length.
fn fields(mut message: &[u8], wanted: u64) -> Vec<&[u8]> {
    let mut found = Vec::new();
    while let Some(tag) = varint(&mut message) {
        let length = match tag & 7 {
            0 => varint(&mut message).map_or(0, |_| 0),
            1 => 8,
            2 => varint(&mut message).unwrap_or(0),
            _ => 4,
        };
        let Some((value, rest)) = message.split_at_checked(length as usize) else { break };
        message = rest;
        if tag & 7 == 2 && tag >> 3 == wanted {
            found.push(value);
        }
    }
    found
}

fn varint(message: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for place in 0..10 {
        let (byte, rest) = message.split_first()?;
        *message = rest;
        value |= u64::from(byte & 0x7f) << (7 * place);
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}
