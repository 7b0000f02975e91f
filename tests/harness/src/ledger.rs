//! The ledger upstream: a payment service that remembers every execution and does as its callers say.
//!
//! One rule: an execution is in the ledger before the first byte of its answer leaves, and never twice; so what the
//! tests count here is what a real service would have done.
//! It does not know of Envoy, of the filter, or of any rule about keys.
//!
//! It listens on a port, and where a test asks for it on a Unix domain socket too, with one ledger for both. It speaks
//! HTTP/1.1, and HTTP/2 with those who begin so.
//!
//! Left alone it answers `201`, `content-type: application/json`, `location: /payments/<n>` (of 2xx and 3xx only)
//! and the body `{"id":"pay_<n>"}`, where n is the number of the execution in the ledger: a replay and a second
//! execution are told apart by their bodies. Request headers steer it, or [`Ledger::steer`] for clients that send only
//! their own:
//!
//! | header | effect |
//! |---|---|
//! | `x-test-status: 503` | the status of the answer |
//! | `x-test-first-status: 503,reset,201` | the status by how many executions this path has had before; the last holds from then on; `reset` stands for `x-test-reset: before` |
//! | `x-test-delay-ms: 200` | nothing is answered before |
//! | `x-test-delay-body-ms: 200` | the head at once, the body after |
//! | `x-test-hold: name` | nothing is answered before the test calls [`Ledger::open`] with the name |
//! | `x-test-header: name: value` | a header to add, any bytes, repeatable; the first of a name replaces a default one, an empty value takes the default away |
//! | `x-test-lines: 1100` | that many lines `x-line: 0`, `x-line: 1` … |
//! | `x-test-body-base64: aGk=` | the body |
//! | `x-test-body-size: 70000` | the body is [`body_of_size`] |
//! | `x-test-chunked: 1` | the length is not declared and the body comes in pieces |
//! | `x-test-trailers: name: value` | a trailer, repeatable; the connection closes after it |
//! | `x-test-sse: 5` | that many server-sent events, 50 ms apart |
//! | `x-test-reset: before` | the connection closes without an answer (on HTTP/2 the stream is reset with code 2); `before-rst`: with a TCP reset, where it is TCP; `after-headers`, `mid-body`: in the middle of the answer |

use std::collections::{BTreeMap, HashSet};
use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::net::{UnixListener as StdUnixListener, UnixStream as StdUnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, LOCATION};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use http_body_util::channel::Channel;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use sha2::{Digest, Sha256};
use socket2::SockRef;
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{oneshot, watch};

use crate::wait::PATIENCE;

/// One execution: a request that has reached the service whole.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The method.
    pub method: String,
    /// The path with its query.
    pub path: String,
    /// The `Host` header.
    pub host: String,
    /// `Idempotency-Key`, as it came.
    pub key: Option<String>,
    /// `Idempotency-Operation`.
    pub operation: Option<String>,
    /// `Idempotency-Attempt`; absent also when it is not a number.
    pub attempt: Option<u32>,
    /// SHA-256 of the body, in hex.
    pub body_sha256: String,
    /// The length of the body.
    pub body_len: usize,
    /// All headers, names in lower case, repeated ones repeated, trailers at the end.
    pub headers: Vec<(String, Vec<u8>)>,
    /// When it was entered.
    pub at: Instant,
}

impl Entry {
    /// The first value of a header, if it is text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).and_then(|(_, v)| str::from_utf8(v).ok())
    }
}

/// A running ledger upstream.
#[derive(Debug)]
pub struct Ledger {
    addr: SocketAddr,
    book: Arc<Book>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    // Dropped after the thread has ended.
    socket: Option<Socket>,
}

/// A Unix domain socket, and the folder that is its own.
#[derive(Debug)]
struct Socket {
    path: PathBuf,
    _folder: TempDir,
}

impl Ledger {
    /// Starts it on a free port.
    pub fn start() -> Ledger {
        Ledger::serve(None)
    }

    /// Starts it on a free port, and beside it on a Unix domain socket.
    pub fn start_with_socket() -> Ledger {
        let folder = TempDir::with_prefix("envoy-idempotency-ledger-").expect("a temporary folder");
        Ledger::serve(Some(Socket { path: folder.path().join("socket"), _folder: folder }))
    }

    fn serve(socket: Option<Socket>) -> Ledger {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free loopback port");
        listener.set_nonblocking(true).expect("a listener can be made non-blocking");
        let addr = listener.local_addr().expect("a bound listener has an address");
        let unix_listener = socket.as_ref().map(|socket| {
            let listener = StdUnixListener::bind(&socket.path).expect("a folder of ours can hold a socket");
            listener.set_nonblocking(true).expect("a listener can be made non-blocking");
            listener
        });
        let book = Arc::new(Book::default());
        let (stop, stopped) = oneshot::channel();
        let served = Arc::clone(&book);
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            // Dropping the runtime closes every connection.
            runtime.block_on(async {
                tokio::select! {
                    () = accept(listener, &served) => (),
                    () = accept_unix(unix_listener, &served) => (),
                    _ = stopped => (),
                }
            });
        });
        Ledger { addr, book, stop: Some(stop), thread: Some(thread), socket }
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The Unix domain socket on which it listens too; panics when it was not started with one.
    #[track_caller]
    pub fn socket(&self) -> &Path {
        &self.socket.as_ref().expect("it was started with a socket").path
    }

    /// Every execution so far, in order.
    pub fn entries(&self) -> Vec<Entry> {
        self.book.pages().entries.clone()
    }

    /// The executions of one path; a query counts as part of it.
    pub fn entries_for(&self, path: &str) -> Vec<Entry> {
        self.book.pages().entries.iter().filter(|entry| entry.path == path).cloned().collect()
    }

    /// How many requests have begun: their headers have arrived.
    pub fn started(&self) -> usize {
        self.book.pages().started
    }

    /// How many answers are being held back by `x-test-hold`.
    pub fn held(&self) -> usize {
        self.book.pages().held
    }

    /// Returns the executions when there are at least `n`.
    #[track_caller]
    pub fn wait_for(&self, n: usize) -> Vec<Entry> {
        self.book.wait(&format!("{n} executions are in the ledger"), |pages| pages.entries.len() >= n).entries.clone()
    }

    /// Returns when at least `n` requests have begun.
    #[track_caller]
    pub fn wait_for_started(&self, n: usize) {
        drop(self.book.wait(&format!("{n} requests have reached the ledger"), |pages| pages.started >= n));
    }

    /// Returns when at least `n` answers are being held back.
    #[track_caller]
    pub fn wait_for_held(&self, n: usize) {
        drop(self.book.wait(&format!("{n} answers are held back"), |pages| pages.held >= n));
    }

    /// Answers requests to this path, whatever their query, as if they had carried these headers and no other that steers.
    pub fn steer(&self, path: &str, headers: &[(&'static str, &str)]) {
        let lines = headers.iter().map(|(name, value)| {
            (HeaderName::from_static(name), HeaderValue::try_from(*value).expect("a value of visible ASCII"))
        });
        let headers = lines.fold(HeaderMap::new(), |mut headers, (name, value)| {
            headers.append(name, value);
            headers
        });
        self.book.write(|pages| pages.steered.insert(path.to_owned(), headers));
    }

    /// Answers requests to this path with this page.
    pub fn show(&self, path: &str, html: &str) {
        let page = base64(html);
        let html = "content-type: text/html; charset=utf-8";
        self.steer(path, &[("x-test-status", "200"), ("x-test-header", html), ("x-test-body-base64", &page)]);
    }

    /// Lets go every answer that `x-test-hold: name` holds back, now and from now on.
    pub fn open(&self, name: &str) {
        self.book.gates.send_modify(|open| {
            open.insert(name.to_owned());
        });
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            // A panic in there has already been printed.
            let _ = thread.join();
        }
    }
}

/// The body of `x-test-body-size: n`: every byte value but a few, in a pattern that shows lost and moved pieces.
pub fn body_of_size(n: usize) -> Vec<u8> {
    (0..=250).cycle().take(n).collect()
}

/// SHA-256 in hex, as entries carry it.
pub fn sha256_hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Base64, as `x-test-body-base64` takes it.
pub fn base64(bytes: impl AsRef<[u8]>) -> String {
    BASE64_STANDARD.encode(bytes)
}

/// What the server writes and the tests read.
#[derive(Debug, Default)]
struct Book {
    pages: Mutex<Pages>,
    written: Condvar,
    gates: watch::Sender<HashSet<String>>,
}

#[derive(Debug, Default)]
struct Pages {
    entries: Vec<Entry>,
    per_path: BTreeMap<String, usize>,
    steered: BTreeMap<String, HeaderMap>,
    started: usize,
    held: usize,
}

impl Book {
    fn pages(&self) -> MutexGuard<'_, Pages> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write<T>(&self, change: impl FnOnce(&mut Pages) -> T) -> T {
        let result = change(&mut self.pages());
        self.written.notify_all();
        result
    }

    #[track_caller]
    fn wait(&self, what: &str, enough: impl Fn(&Pages) -> bool) -> MutexGuard<'_, Pages> {
        let (pages, outcome) = self
            .written
            .wait_timeout_while(self.pages(), PATIENCE, |pages| !enough(pages))
            .unwrap_or_else(PoisonError::into_inner);
        if outcome.timed_out() {
            let (started, entered, held) = (pages.started, pages.entries.len(), pages.held);
            drop(pages);
            panic!("Waited {PATIENCE:?} in vain until {what}: {started} began, {entered} are in, {held} are held.");
        }
        pages
    }
}

/// Counts an answer as held for as long as it lives, also when its connection goes away.
struct Held<'a>(&'a Book);

impl<'a> Held<'a> {
    fn count(book: &'a Book) -> Held<'a> {
        book.write(|pages| pages.held += 1);
        Held(book)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.write(|pages| pages.held -= 1);
    }
}

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// A connection beside hyper, for answers that hyper would not give.
#[derive(Debug)]
enum Line {
    Tcp(std::net::TcpStream),
    Unix(StdUnixStream),
}

impl Line {
    /// Has it end in a reset; a Unix domain socket knows none and only closes.
    fn reset_at_its_end(&self) -> io::Result<()> {
        match self {
            Line::Tcp(stream) => SockRef::from(stream).set_linger(Some(Duration::ZERO)),
            Line::Unix(_) => Ok(()),
        }
    }

    /// Sends these bytes, its last.
    async fn finish(&self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Line::Tcp(stream) => finish(TcpStream::from_std(stream.try_clone()?)?, bytes).await,
            Line::Unix(stream) => finish(UnixStream::from_std(stream.try_clone()?)?, bytes).await,
        }
    }
}

async fn finish(mut stream: impl AsyncWrite + Unpin, bytes: &[u8]) -> io::Result<()> {
    stream.write_all(bytes).await?;
    stream.shutdown().await
}

async fn accept(listener: std::net::TcpListener, book: &Arc<Book>) {
    let listener = TcpListener::from_std(listener).expect("a listener of ours fits the runtime");
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        // A delay of the last small packet would look like a slow service.
        let _ = stream.set_nodelay(true);
        let stream = stream.into_std().expect("a stream can leave the runtime");
        let Ok(line) = stream.try_clone() else { continue };
        serve(TcpStream::from_std(stream).expect("and come back to it"), Line::Tcp(line), book);
    }
}

async fn accept_unix(listener: Option<StdUnixListener>, book: &Arc<Book>) {
    let Some(listener) = listener else { return std::future::pending().await };
    let listener = UnixListener::from_std(listener).expect("a listener of ours fits the runtime");
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let stream = stream.into_std().expect("a stream can leave the runtime");
        let Ok(line) = stream.try_clone() else { continue };
        serve(UnixStream::from_std(stream).expect("and come back to it"), Line::Unix(line), book);
    }
}

/// Answers the requests of one connection.
fn serve(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static, line: Line, book: &Arc<Book>) {
    let (book, line) = (Arc::clone(book), Arc::new(line));
    let service = service_fn(move |request| {
        let (book, line) = (Arc::clone(&book), Arc::clone(&line));
        async move { execute(request, &book, &line).await }
    });
    tokio::spawn(async move {
        // An error is a peer that went away, or a reset that a test has asked for.
        let _ = Builder::new(TokioExecutor::new())
            .http1()
            .max_headers(500)
            .serve_connection(TokioIo::new(stream), service)
            .await;
    });
}

/// Enters one request and answers it; an error closes the connection without a further byte.
async fn execute(request: hyper::Request<Incoming>, book: &Book, line: &Line) -> io::Result<hyper::Response<Body>> {
    book.write(|pages| pages.started += 1);
    let (head, body) = request.into_parts();
    let body = body.collect().await.map_err(io::Error::other)?;
    let trailers = body.trailers().cloned().unwrap_or_default();
    let entry = entry(&head, &trailers, &body.to_bytes());

    let (n, before_on_path, steered) = book.write(|pages| {
        let on_path = pages.per_path.entry(entry.path.clone()).or_default();
        let before = *on_path;
        *on_path += 1;
        pages.entries.push(entry);
        (pages.entries.len(), before, pages.steered.get(head.uri.path()).cloned())
    });
    let answer = match Answer::steered(steered.as_ref().unwrap_or(&head.headers), n, before_on_path) {
        Ok(answer) => answer,
        Err(complaint) => Answer::complaint(complaint),
    };

    if let Some(name) = &answer.hold {
        let _held = Held::count(book);
        let mut gates = book.gates.subscribe();
        gates.wait_for(|open| open.contains(name)).await.map_err(io::Error::other)?;
    }
    tokio::time::sleep(answer.delay).await;
    if answer.reset.is_some() || !answer.trailers.is_empty() {
        answer.by_hand(line).await
    } else {
        Ok(answer.by_hyper())
    }
}

fn entry(head: &http::request::Parts, trailers: &HeaderMap, body: &[u8]) -> Entry {
    let text = |name: &str| head.headers.get(name).map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned());
    Entry {
        method: head.method.to_string(),
        path: head.uri.path_and_query().map_or_else(|| head.uri.to_string(), ToString::to_string),
        host: text("host").unwrap_or_default(),
        key: text("idempotency-key"),
        operation: text("idempotency-operation"),
        attempt: text("idempotency-attempt").and_then(|n| n.parse().ok()),
        body_sha256: sha256_hex(body),
        body_len: body.len(),
        headers: head
            .headers
            .iter()
            .chain(trailers)
            .map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_owned()))
            .collect(),
        at: Instant::now(),
    }
}

/// Where the connection breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reset {
    Before,
    BeforeRst,
    AfterHeaders,
    MidBody,
}

/// What to answer and how.
#[derive(Debug)]
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Vec<u8>,
    trailers: Vec<Vec<u8>>,
    chunked: bool,
    events: Option<usize>,
    delay: Duration,
    delay_body: Duration,
    hold: Option<String>,
    reset: Option<Reset>,
}

impl Answer {
    /// The answer to execution `n`, on a path that has had `before_on_path` executions.
    fn steered(request: &HeaderMap, n: usize, before_on_path: usize) -> Result<Answer, String> {
        let number = |name: &str| -> Result<Option<u64>, String> {
            request.get(name).map(|v| text(name, v.as_bytes())?.parse().map_err(|_| not_understood(name))).transpose()
        };
        let name_of = |name: &'static str| -> Result<Option<String>, String> {
            request.get(name).map(|v| text(name, v.as_bytes()).map(str::to_owned)).transpose()
        };

        let mut status = name_of("x-test-status")?.unwrap_or_else(|| "201".to_owned());
        let mut reset = name_of("x-test-reset")?;
        if let Some(list) = name_of("x-test-first-status")? {
            let step = list.split(',').nth(before_on_path).or_else(|| list.split(',').next_back());
            match step.unwrap_or_default().trim() {
                "reset" => reset = Some("before".to_owned()),
                step => status = step.to_owned(),
            }
        }
        let status = status.parse::<StatusCode>().map_err(|_| not_understood("x-test-status"))?;
        let reset = match reset.as_deref() {
            None => None,
            Some("before") => Some(Reset::Before),
            Some("before-rst") => Some(Reset::BeforeRst),
            Some("after-headers") => Some(Reset::AfterHeaders),
            Some("mid-body") => Some(Reset::MidBody),
            Some(_) => return Err(not_understood("x-test-reset")),
        };

        let events = number("x-test-sse")?;
        let (body, content_type) = if events.is_some() {
            (Vec::new(), "text/event-stream")
        } else if let Some(size) = number("x-test-body-size")? {
            let size = usize::try_from(size).map_err(|_| not_understood("x-test-body-size"))?;
            (body_of_size(size), "application/octet-stream")
        } else if let Some(encoded) = request.get("x-test-body-base64") {
            let body = BASE64_STANDARD.decode(encoded).map_err(|_| not_understood("x-test-body-base64"))?;
            (body, "application/octet-stream")
        } else {
            (format!(r#"{{"id":"pay_{n}"}}"#).into_bytes(), "application/json")
        };
        // Neither has a body, whatever was asked for (RFC 9110, sections 15.3.5 and 15.4.5).
        let bodiless = matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);

        let mut headers = HeaderMap::new();
        if !bodiless {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        }
        if status.is_success() || status.is_redirection() {
            headers.insert(LOCATION, HeaderValue::try_from(format!("/payments/{n}")).expect("visible ASCII"));
        }
        let mut replaced = HashSet::new();
        for line in request.get_all("x-test-header") {
            let (name, value) = split_field(line.as_bytes()).ok_or_else(|| not_understood("x-test-header"))?;
            let name = HeaderName::from_bytes(name).map_err(|_| not_understood("x-test-header"))?;
            let value = HeaderValue::from_bytes(value).map_err(|_| not_understood("x-test-header"))?;
            if replaced.insert(name.clone()) {
                let default = headers.remove(&name).is_some();
                if default && value.is_empty() {
                    continue;
                }
            }
            headers.append(name, value);
        }
        for line in 0..number("x-test-lines")?.unwrap_or(0) {
            headers.append("x-line", line.into());
        }

        Ok(Answer {
            status,
            headers,
            body: if bodiless { Vec::new() } else { body },
            trailers: request.get_all("x-test-trailers").iter().map(|v| v.as_bytes().to_owned()).collect(),
            chunked: request.contains_key("x-test-chunked"),
            events: events.map(|n| usize::try_from(n).unwrap_or(usize::MAX)),
            delay: Duration::from_millis(number("x-test-delay-ms")?.unwrap_or(0)),
            delay_body: Duration::from_millis(number("x-test-delay-body-ms")?.unwrap_or(0)),
            hold: name_of("x-test-hold")?,
            reset,
        })
    }

    /// What a test gets that asks for something unknown: loud, and no answer it could have wanted.
    fn complaint(complaint: String) -> Answer {
        Answer {
            status: StatusCode::NOT_IMPLEMENTED,
            headers: HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static("text/plain"))]),
            body: complaint.into_bytes(),
            trailers: Vec::new(),
            chunked: false,
            events: None,
            delay: Duration::ZERO,
            delay_body: Duration::ZERO,
            hold: None,
            reset: None,
        }
    }

    fn by_hyper(self) -> hyper::Response<Body> {
        let Answer { status, mut headers, body, chunked, events, delay_body, .. } = self;
        let body = if let Some(events) = events {
            let (mut pieces, channel) = Channel::new(1);
            tokio::spawn(async move {
                for event in 1..=events {
                    // An error is a reader that has gone.
                    if pieces.send_data(Bytes::from(format!("data: {event}\n\n"))).await.is_err() {
                        return;
                    }
                    tokio::time::sleep(EVENT_INTERVAL).await;
                }
            });
            channel.boxed_unsync()
        } else if chunked || !delay_body.is_zero() {
            if !chunked {
                headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
            }
            let (mut pieces, channel) = Channel::new(1);
            tokio::spawn(async move {
                tokio::time::sleep(delay_body).await;
                // Two pieces at least, so that nobody gets away with reading one.
                for piece in body.chunks(PIECE.min(body.len().div_ceil(2).max(1))) {
                    if pieces.send_data(Bytes::copy_from_slice(piece)).await.is_err() {
                        return;
                    }
                }
            });
            channel.boxed_unsync()
        } else {
            Full::new(Bytes::from(body)).boxed_unsync()
        };
        let mut response = hyper::Response::new(body);
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        response
    }

    /// Answers that hyper would not give: cut off, or with trailers (which it sends only to those who asked by `TE`).
    ///
    /// Always ends in an error, which makes hyper drop the connection without a byte of its own.
    async fn by_hand(self, line: &Line) -> io::Result<hyper::Response<Body>> {
        let mut bytes = format!("HTTP/1.1 {}\r\n", self.status).into_bytes();
        for (name, value) in &self.headers {
            push_line(&mut bytes, &[name.as_str().as_bytes(), b": ", value.as_bytes()]);
        }
        match self.reset {
            Some(Reset::Before) => return Err(closed()),
            Some(Reset::BeforeRst) => {
                line.reset_at_its_end()?;
                return Err(closed());
            }
            Some(Reset::AfterHeaders | Reset::MidBody) => {
                let half = if self.reset == Some(Reset::MidBody) { self.body.len() / 2 } else { 0 };
                if self.chunked {
                    bytes.extend_from_slice(b"transfer-encoding: chunked\r\n\r\n");
                    if half > 0 {
                        push_line(&mut bytes, &[format!("{:x}", self.body.len()).as_bytes()]);
                    }
                } else {
                    // One byte more than there is, so that an empty body can be cut off too.
                    push_line(&mut bytes, &[format!("content-length: {}", self.body.len().max(1)).as_bytes()]);
                    bytes.extend_from_slice(b"\r\n");
                }
                bytes.extend_from_slice(&self.body[..half]);
            }
            None => {
                bytes.extend_from_slice(b"connection: close\r\ntransfer-encoding: chunked\r\n\r\n");
                for piece in self.body.chunks(PIECE) {
                    push_line(&mut bytes, &[format!("{:x}", piece.len()).as_bytes()]);
                    push_line(&mut bytes, &[piece]);
                }
                push_line(&mut bytes, &[b"0"]);
                for trailer in &self.trailers {
                    push_line(&mut bytes, &[trailer]);
                }
                bytes.extend_from_slice(b"\r\n");
            }
        }
        line.finish(&bytes).await?;
        Err(closed())
    }
}

fn push_line(bytes: &mut Vec<u8>, parts: &[&[u8]]) {
    for part in parts {
        bytes.extend_from_slice(part);
    }
    bytes.extend_from_slice(b"\r\n");
}

/// `name: value` in its two parts, white space around the value removed.
fn split_field(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let colon = line.iter().position(|&byte| byte == b':')?;
    Some((&line[..colon], line[colon + 1..].trim_ascii()))
}

fn text<'a>(name: &str, value: &'a [u8]) -> Result<&'a str, String> {
    str::from_utf8(value).map(str::trim).map_err(|_| not_understood(name))
}

fn not_understood(name: &str) -> String {
    format!("The ledger does not understand the value of {name}.")
}

fn closed() -> io::Error {
    io::Error::other("the test asked for the connection to end here")
}

const EVENT_INTERVAL: Duration = Duration::from_millis(50);
const PIECE: usize = 16 * 1024;
