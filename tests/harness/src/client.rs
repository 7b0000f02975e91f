//! A client that can send any bytes, over HTTP/1.1 or HTTP/2.
//!
//! One rule: it sends exactly what the test wrote, in that order, and adds no header but the host, the framing and, of a
//! request that a caller makes, its token.
//! It does not know what it talks to; one request is one connection.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use socket2::SockRef;

use crate::http2;
use crate::wait::PATIENCE;

/// A request, which can be sent as often as one likes.
#[derive(Debug, Clone)]
pub struct Request {
    pub(crate) to: SocketAddr,
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) host: Option<Vec<u8>>,
    caller: Option<Vec<u8>>,
    headers: Vec<(Vec<u8>, Vec<u8>)>,
    pub(crate) body: Payload,
    pub(crate) trailers: Vec<(Vec<u8>, Vec<u8>)>,
    expect_continue: bool,
}

#[derive(Debug, Clone)]
pub(crate) enum Payload {
    /// No body, and for methods that usually have one `content-length: 0`.
    None,
    /// With its length declared.
    Whole(Vec<u8>),
    /// In these pieces: chunks, or DATA frames.
    Pieces(Vec<Vec<u8>>),
}

impl Request {
    /// A request to an address.
    pub fn new(to: SocketAddr, method: &str, path: &str) -> Request {
        Request {
            to,
            method: method.to_owned(),
            path: path.to_owned(),
            host: Some(b"api.example.com".to_vec()),
            caller: None,
            headers: Vec::new(),
            body: Payload::None,
            trailers: Vec::new(),
            expect_continue: false,
        }
    }

    /// A POST to an address.
    pub fn post(to: SocketAddr, path: &str) -> Request {
        Request::new(to, "POST", path)
    }

    /// The same request to another address.
    pub fn to(mut self, to: SocketAddr) -> Request {
        self.to = to;
        self
    }

    /// Where it goes.
    pub fn addr(&self) -> SocketAddr {
        self.to
    }

    /// Its path.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Shows this token in `authorization`, unless the request has one of its own; until then it shows none.
    pub fn caller(mut self, authorization: impl AsRef<[u8]>) -> Request {
        self.caller = Some(authorization.as_ref().to_owned());
        self
    }

    /// Shows no token.
    pub fn anonymous(mut self) -> Request {
        self.caller = None;
        self
    }

    /// Every header line besides the host and the framing.
    pub(crate) fn lines(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let is_own = self.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case(b"authorization"));
        let caller = self.caller.as_deref().filter(|_| !is_own).map(|caller| (&b"authorization"[..], caller));
        caller.into_iter().chain(self.headers.iter().map(|(name, value)| (name.as_slice(), value.as_slice())))
    }

    /// Adds a header line; names and values may be any bytes, repeated ones stay repeated.
    pub fn header(mut self, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Request {
        self.headers.push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// The `Host` header or `:authority`, otherwise `api.example.com`.
    pub fn host(mut self, host: impl AsRef<[u8]>) -> Request {
        self.host = Some(host.as_ref().to_owned());
        self
    }

    /// Adds `Idempotency-Key` with exactly this value.
    pub fn key(self, key: impl AsRef<[u8]>) -> Request {
        self.header("Idempotency-Key", key)
    }

    /// The body, its length declared.
    pub fn body(mut self, body: impl AsRef<[u8]>) -> Request {
        self.body = Payload::Whole(body.as_ref().to_owned());
        self
    }

    /// The body in pieces without a declared length; an empty list is a chunked body of nothing.
    pub fn chunked<P: AsRef<[u8]>>(mut self, pieces: impl IntoIterator<Item = P>) -> Request {
        self.body = Payload::Pieces(pieces.into_iter().map(|piece| piece.as_ref().to_owned()).collect());
        self
    }

    /// Adds a trailer; over HTTP/1.1 the body must be [`chunked`](Request::chunked) for it to be sent.
    pub fn trailer(mut self, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Request {
        self.trailers.push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Sends `Expect: 100-continue` and keeps the body back until the peer asks for it or answers. HTTP/1.1 only.
    pub fn expect_continue(mut self) -> Request {
        self.expect_continue = true;
        self
    }

    /// Sends it on a connection of its own and reads the answer; panics when there is none.
    #[track_caller]
    pub fn send(&self) -> Response {
        self.try_send().unwrap_or_else(|message| panic!("{message}"))
    }

    /// As [`send`](Request::send), with a sentence when the connection ends without a whole answer.
    pub fn try_send(&self) -> Result<Response, String> {
        let mut connection = self.try_open()?;
        if self.expect_continue
            && let Some(refusal) = connection.await_continue()?
        {
            return Ok(refusal);
        }
        let body = self.body_bytes();
        // A peer that answers early may stop reading: the answer must be read while the body is still going out.
        // A failed write is no news either, since the answer tells what there is to tell.
        let mut writer = connection.stream.try_clone().map_err(|error| connection.sentence(&error.to_string()))?;
        thread::scope(|scope| {
            scope.spawn(move || writer.write_all(&body));
            let answer = connection.try_response();
            // Ends a writer that still waits for room.
            let _ = connection.stream.shutdown(std::net::Shutdown::Both);
            answer
        })
    }

    /// Sends it over HTTP/2 with prior knowledge, on a connection of its own.
    #[track_caller]
    pub fn send_h2(&self) -> Response {
        self.try_send_h2().unwrap_or_else(|message| panic!("{message}"))
    }

    /// As [`send_h2`](Request::send_h2), with a sentence when the stream is reset.
    pub fn try_send_h2(&self) -> Result<Response, String> {
        http2::send_all(self.to, std::slice::from_ref(self)).remove(0)
    }

    /// Sends all of them as streams of one HTTP/2 connection (to the first one's address), all at once.
    #[track_caller]
    pub fn send_h2_all(requests: &[Request]) -> Vec<Response> {
        let Some(first) = requests.first() else { return Vec::new() };
        let answers = http2::send_all(first.to, requests);
        answers.into_iter().map(|answer| answer.unwrap_or_else(|message| panic!("{message}"))).collect()
    }

    /// Opens a connection and sends the head alone; the body is the test's to send, or not to.
    #[track_caller]
    pub fn open(&self) -> Connection {
        self.try_open().unwrap_or_else(|message| panic!("{message}"))
    }

    /// As [`open`](Request::open), with a sentence when nobody takes the connection.
    pub fn try_open(&self) -> Result<Connection, String> {
        let what = format!("{} {} to {}", self.method, self.path, self.to);
        let mut connection = Connection::try_new(self.to, what)?;
        connection.head_only = self.method == "HEAD";
        connection.try_write(&self.head_bytes())?;
        Ok(connection)
    }

    /// The head as it goes over the wire.
    fn head_bytes(&self) -> Vec<u8> {
        let mut bytes = format!("{} {} HTTP/1.1\r\n", self.method, self.path).into_bytes();
        let mut line = |name: &[u8], value: &[u8]| bytes.extend_from_slice(&[name, b": ", value, b"\r\n"].concat());
        if let Some(host) = &self.host {
            line(b"Host", host);
        }
        for (name, value) in self.lines() {
            line(name, value);
        }
        if self.expect_continue {
            line(b"Expect", b"100-continue");
        }
        match &self.body {
            Payload::Whole(body) => line(b"Content-Length", body.len().to_string().as_bytes()),
            Payload::Pieces(_) => line(b"Transfer-Encoding", b"chunked"),
            Payload::None if matches!(self.method.as_str(), "POST" | "PUT" | "PATCH") => line(b"Content-Length", b"0"),
            Payload::None => (),
        }
        bytes.extend_from_slice(b"\r\n");
        bytes
    }

    /// The body as it goes over the wire, with chunk heads and trailers.
    pub fn body_bytes(&self) -> Vec<u8> {
        match &self.body {
            Payload::None => Vec::new(),
            Payload::Whole(body) => body.clone(),
            Payload::Pieces(pieces) => {
                // An empty chunk would be the last one.
                let mut bytes: Vec<u8> = pieces.iter().filter(|p| !p.is_empty()).flat_map(|p| chunk(p)).collect();
                bytes.extend_from_slice(b"0\r\n");
                for (name, value) in &self.trailers {
                    bytes.extend_from_slice(&[name, b": ".as_slice(), value, b"\r\n"].concat());
                }
                bytes.extend_from_slice(b"\r\n");
                bytes
            }
        }
    }
}

/// Sends every request on a connection of its own, all at the same moment; the answers are in the order given.
#[track_caller]
pub fn send_all(requests: &[Request]) -> Vec<Response> {
    let start = Barrier::new(requests.len());
    let answers: Vec<Result<Response, String>> = thread::scope(|scope| {
        let senders: Vec<_> = requests
            .iter()
            .map(|request| {
                scope.spawn(|| {
                    start.wait();
                    request.try_send()
                })
            })
            .collect();
        senders.into_iter().map(|sender| sender.join().expect("a sender does not panic")).collect()
    });
    answers.into_iter().map(|answer| answer.unwrap_or_else(|message| panic!("{message}"))).collect()
}

/// An answer, whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// The status.
    pub status: u16,
    /// The header lines in the order they came, names in lower case.
    pub headers: Vec<(String, Vec<u8>)>,
    /// The body, its framing removed.
    pub body: Vec<u8>,
    /// The trailers, names in lower case.
    pub trailers: Vec<(String, Vec<u8>)>,
    /// The 1xx statuses that came before.
    pub interim: Vec<u16>,
}

impl Response {
    /// The first value of a header, if it is text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers(name).first().and_then(|value| str::from_utf8(value).ok())
    }

    /// All values of a header.
    pub fn headers(&self, name: &str) -> Vec<&[u8]> {
        self.headers.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_slice()).collect()
    }

    /// The body as text, with � for what is not UTF-8.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("The body is not JSON ({error}): {}", self.text()))
    }
}

/// A connection on which the head of a request has been sent, or nothing yet. Dropping it hangs up.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    what: String,
    head_only: bool,
    unread: Vec<u8>,
    deadline: Instant,
}

impl Connection {
    /// Opens one and sends nothing: every byte is the test's.
    #[track_caller]
    pub fn new(to: SocketAddr) -> Connection {
        Connection::try_new(to, format!("bytes to {to}")).unwrap_or_else(|message| panic!("{message}"))
    }

    fn try_new(to: SocketAddr, what: String) -> Result<Connection, String> {
        let stream = TcpStream::connect_timeout(&to, PATIENCE)
            .map_err(|error| format!("{what}: the connection failed ({error})."))?;
        let _ = stream.set_nodelay(true);
        let _ = stream.set_write_timeout(Some(PATIENCE));
        Ok(Connection { stream, what, head_only: false, unread: Vec::new(), deadline: Instant::now() + PATIENCE })
    }

    /// Sends bytes as they are.
    #[track_caller]
    pub fn write(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_write(bytes.as_ref()).unwrap_or_else(|message| panic!("{message}"));
    }

    /// Sends one chunk of a chunked body; an empty one ends the body.
    #[track_caller]
    pub fn write_chunk(&mut self, piece: impl AsRef<[u8]>) {
        self.write(chunk(piece.as_ref()));
    }

    /// Reads the answer; panics when there is none within the deadline (30 s from now).
    #[track_caller]
    pub fn response(&mut self) -> Response {
        self.deadline = Instant::now() + PATIENCE;
        self.try_response().unwrap_or_else(|message| panic!("{message}"))
    }

    /// As [`response`](Connection::response), with a sentence when the connection ends without a whole answer.
    pub fn try_response(&mut self) -> Result<Response, String> {
        let head = self.try_head()?;
        self.try_rest(head)
    }

    /// The whole answer of which this is the head; panics when it does not come within the deadline (30 s from now).
    #[track_caller]
    pub fn rest(&mut self, head: Response) -> Response {
        self.deadline = Instant::now() + PATIENCE;
        self.try_rest(head).unwrap_or_else(|message| panic!("{message}"))
    }

    fn try_rest(&mut self, mut response: Response) -> Result<Response, String> {
        let coding = response.header("transfer-encoding").map(str::to_ascii_lowercase);
        let declared = response.header("content-length").map(|n| n.parse::<usize>());
        // RFC 9112, section 6.3, in its order.
        if self.head_only || matches!(response.status, 204 | 304) {
            return Ok(response);
        }
        if coding.is_some_and(|coding| coding.contains("chunked")) {
            loop {
                let size = self.line()?;
                let digits = size.split(';').next().unwrap_or_default().trim();
                let size = usize::from_str_radix(digits, 16)
                    .map_err(|_| self.sentence(&format!("{size:?} is no size of a chunk")))?;
                if size == 0 {
                    break;
                }
                response.body.extend(self.exactly(size)?);
                self.exactly(2)?;
            }
            response.trailers = self.fields()?;
        } else if let Some(declared) = declared {
            let declared = declared.map_err(|_| self.sentence("the content-length is no number"))?;
            response.body = self.exactly(declared)?;
        } else {
            while self.fill()? {}
            response.body = std::mem::take(&mut self.unread);
        }
        Ok(response)
    }

    /// Reads the head of the answer alone; its `body` is empty. The body follows through [`read`](Connection::read).
    #[track_caller]
    pub fn head(&mut self) -> Response {
        self.deadline = Instant::now() + PATIENCE;
        self.try_head().unwrap_or_else(|message| panic!("{message}"))
    }

    /// The next bytes as they come, framing and all; empty at the end of the connection.
    #[track_caller]
    pub fn read(&mut self) -> Vec<u8> {
        self.deadline = Instant::now() + PATIENCE;
        if self.unread.is_empty() {
            self.fill().unwrap_or_else(|message| panic!("{message}"));
        }
        std::mem::take(&mut self.unread)
    }

    /// Whether nothing comes within this time, not even an end: for claims that an answer is being held back.
    pub fn is_silent_for(&mut self, time: Duration) -> bool {
        let peeked = self.stream.set_read_timeout(Some(time)).and_then(|()| self.stream.peek(&mut [0]));
        self.unread.is_empty() && peeked.is_err_and(|error| is_time_out(&error))
    }

    /// Ends the connection with a TCP reset instead of a close.
    pub fn reset(self) {
        // Should it fail, the peer sees an ordinary close.
        let _ = SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
    }

    /// As [`write`](Connection::write), with a sentence when the peer has gone.
    pub fn try_write(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.stream.write_all(bytes).map_err(|error| self.sentence(&format!("sending failed ({error})")))
    }

    /// Waits for 100; a final answer that comes instead is returned.
    fn await_continue(&mut self) -> Result<Option<Response>, String> {
        while !self.unread.windows(4).any(|end| end == b"\r\n\r\n") {
            if !self.fill()? {
                return Err(self.sentence("it was closed where 100 was expected"));
            }
        }
        // The interim answer stays unread, so that the final one can tell of it.
        if self.unread.starts_with(b"HTTP/1.1 1") { Ok(None) } else { self.try_response().map(Some) }
    }

    /// As [`head`](Connection::head), with a sentence when there is none.
    pub fn try_head(&mut self) -> Result<Response, String> {
        let mut interim = Vec::new();
        loop {
            let line = self.line()?;
            let status = line
                .strip_prefix("HTTP/1.1 ")
                .or_else(|| line.strip_prefix("HTTP/1.0 "))
                .and_then(|rest| rest.get(..3))
                .and_then(|digits| digits.parse::<u16>().ok())
                .ok_or_else(|| self.sentence(&format!("{line:?} is no status line")))?;
            let headers = self.fields()?;
            // 101 is final: what follows is another protocol (RFC 9110, section 15.2.2).
            if (100..200).contains(&status) && status != 101 {
                interim.push(status);
                continue;
            }
            return Ok(Response { status, headers, body: Vec::new(), trailers: Vec::new(), interim });
        }
    }

    /// Field lines up to the empty line.
    fn fields(&mut self) -> Result<Vec<(String, Vec<u8>)>, String> {
        let mut fields = Vec::new();
        loop {
            let line = self.line_bytes()?;
            if line.is_empty() {
                return Ok(fields);
            }
            let colon = line
                .iter()
                .position(|&byte| byte == b':')
                .ok_or_else(|| self.sentence("a header line has no colon"))?;
            let name = String::from_utf8_lossy(&line[..colon]).to_ascii_lowercase();
            fields.push((name, line[colon + 1..].trim_ascii().to_owned()));
        }
    }

    fn line(&mut self) -> Result<String, String> {
        self.line_bytes().map(|line| String::from_utf8_lossy(&line).into_owned())
    }

    fn line_bytes(&mut self) -> Result<Vec<u8>, String> {
        loop {
            if let Some(end) = self.unread.windows(2).position(|end| end == b"\r\n") {
                let line = self.unread[..end].to_owned();
                self.unread.drain(..end + 2);
                return Ok(line);
            }
            if !self.fill()? {
                return Err(self.sentence("it was closed before a whole answer"));
            }
        }
    }

    fn exactly(&mut self, length: usize) -> Result<Vec<u8>, String> {
        while self.unread.len() < length {
            if !self.fill()? {
                let got = self.unread.len();
                return Err(self.sentence(&format!("it was closed {got} bytes into a part of {length}")));
            }
        }
        let rest = self.unread.split_off(length);
        Ok(std::mem::replace(&mut self.unread, rest))
    }

    /// Reads some more; false at the end.
    fn fill(&mut self) -> Result<bool, String> {
        let left = self.deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        let mut buffer = [0; 64 * 1024];
        let read = self.stream.set_read_timeout(Some(left)).and_then(|()| {
            loop {
                match self.stream.read(&mut buffer) {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
                    other => return other,
                }
            }
        });
        match read {
            Ok(count) => {
                self.unread.extend_from_slice(&buffer[..count]);
                Ok(count > 0)
            }
            Err(error) if is_time_out(&error) => Err(self.sentence("there was no whole answer in time")),
            Err(error) => Err(self.sentence(&format!("reading failed ({error})"))),
        }
    }

    fn sentence(&self, what: &str) -> String {
        let seen = String::from_utf8_lossy(&self.unread[..self.unread.len().min(200)]).into_owned();
        let seen = if seen.is_empty() { String::new() } else { format!(" Unread so far: {seen:?}.") };
        format!("{}: {what}.{seen}", self.what)
    }
}

fn chunk(piece: &[u8]) -> Vec<u8> {
    [format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat()
}

fn is_time_out(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}
