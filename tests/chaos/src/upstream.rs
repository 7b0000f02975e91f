//! The service and its ledger, a process of its own so that it can be killed and stopped.
//!
//! One rule: an execution is in the ledger's file before the first byte of its answer leaves, so whatever becomes of the
//! process, what it did is known. What it will send of the answer is in the same line; where it writes a resource, that it
//! did, or refused to, is in a second one.
//! It does not know of Envoy, of the filter, or of any rule about keys.
//!
//! | header | effect |
//! |---|---|
//! | `x-chaos-request` | the number of the client's request, for the ledger |
//! | `x-chaos-statuses: 503,201` | the status by attempt; the last holds from then on |
//! | `x-chaos-delay-ms` | nothing is answered before |
//! | `x-chaos-size` | the length of the body |
//! | `x-chaos-resource` | what it reads at once and writes once the delay is over, unless it has seen a larger fence by then |
//!
//! `PUT /mood` puts it in a mood, which overrules these. It has three faces: HTTP/1.1 on a port, the same on a Unix domain
//! socket, and HTTP/2 on another port, where it notes the streams that it refuses beside the ledger.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::net::{Shutdown, SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use harness::ledger::sha256_hex;
use harness::process::Process;
use harness::{PATIENCE, Port, Request, wait_until};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::clock::now_us;
use crate::history::{Execution, Kind, Sent};
use crate::http2;

/// How the service feels, until it is told otherwise or dies.
#[derive(Debug, Clone, Copy, Default)]
pub struct Mood {
    /// Only towards requests of this kind, otherwise towards all.
    pub only: Option<Kind>,
    /// Refuses every other stream on HTTP/2.
    pub refusal: Option<Refusal>,
    /// Answers everything with this status.
    pub status: Option<u16>,
    /// Takes so much longer.
    pub delay_ms: u64,
    /// Answers everything with so many bytes.
    pub size: Option<usize>,
    /// Breaks off here.
    pub sent: Sent,
}

/// How a stream is refused that has not run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// By RST_STREAM with REFUSED_STREAM.
    Stream,
    /// By a GOAWAY whose last stream is the one before it.
    GoAway,
}

/// The body that execution `n` is answered with.
pub fn body_of(n: u64, length: usize) -> Vec<u8> {
    let start = format!(r#"{{"id":"pay_{n}","pad":""#).into_bytes();
    let pad = length.saturating_sub(start.len() + 2);
    [start, vec![b'0' + (n % 10) as u8; pad], br#""}"#.to_vec()].concat()
}

/// The running service.
#[derive(Debug)]
pub struct Upstream {
    process: Process,
    // Dropped after the process has ended.
    port: Port,
    http2: Port,
    folder: TempDir,
}

impl Upstream {
    /// Starts it with an empty ledger and returns when it answers.
    pub fn start() -> Upstream {
        let folder = TempDir::with_prefix("envoy-idempotency-upstream-").expect("there is room for a ledger");
        let (port, http2) = (Port::unshared(), Port::unshared());
        let process = launch(&port, &http2, &folder);
        Upstream { process, port, http2, folder }
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.port.addr()
    }

    /// Where it listens for HTTP/2.
    pub fn http2_addr(&self) -> SocketAddr {
        self.http2.addr()
    }

    /// Its Unix domain socket.
    pub fn socket(&self) -> PathBuf {
        socket_file(&ledger_file(&self.folder))
    }

    /// Changes its mood.
    pub fn mood(&self, mood: Mood) {
        let Mood { only, refusal, status, delay_ms, size, sent } = mood;
        let refusal = refusal.map(|refusal| refusal == Refusal::GoAway);
        let body = json!({
            "only": only.map(Kind::path), "go_away": refusal, "status": status, "delay_ms": delay_ms, "size": size,
            "sent": number(sent),
        });
        Request::new(self.addr(), "PUT", "/mood").body(body.to_string()).send();
    }

    /// Ends it with SIGKILL, as a crash would.
    pub fn kill(&self) {
        self.process.kill();
    }

    /// Starts it again with the ledger it has.
    pub fn restart(&mut self) {
        self.process.kill();
        self.process = launch(&self.port, &self.http2, &self.folder);
    }

    /// Stops it in its tracks (SIGSTOP): connections stay, nothing is answered.
    pub fn freeze(&self) {
        self.process.freeze();
    }

    /// Lets it go on after [`freeze`](Upstream::freeze).
    pub fn thaw(&self) {
        self.process.thaw();
    }

    /// How many streams it has refused.
    pub fn refusals(&self) -> u64 {
        fs::metadata(refusals_file(&ledger_file(&self.folder))).map_or(0, |file| file.len())
    }

    /// How long the ledger is, for [`has_executed_since`](Upstream::has_executed_since).
    pub fn mark(&self) -> u64 {
        fs::metadata(ledger_file(&self.folder)).map_or(0, |file| file.len())
    }

    /// Whether the ledger has had a request of this kind since.
    pub fn has_executed_since(&self, mark: u64, kind: Kind) -> bool {
        self.since(mark).lines().any(|line| line.contains(kind.path()))
    }

    /// A request that came since, and has read a resource and not written it yet.
    pub fn at_work_since(&self, mark: u64) -> Option<u64> {
        let text = self.since(mark);
        let is_at_work = |execution: &&Execution| !execution.resource.is_empty() && execution.ended_us.is_none();
        read_ledger(&text).iter().find(is_at_work).map(|execution| execution.request)
    }

    /// The ledger so far.
    pub fn executions(&self) -> Vec<Execution> {
        read_ledger(&self.since(0))
    }

    fn since(&self, mark: u64) -> String {
        let mut text = String::new();
        let read = File::open(ledger_file(&self.folder)).and_then(|mut file| {
            file.seek(SeekFrom::Start(mark))?;
            file.read_to_string(&mut text)
        });
        read.map(|_| text).unwrap_or_default()
    }
}

fn ledger_file(folder: &TempDir) -> PathBuf {
    folder.path().join("ledger")
}

fn socket_file(ledger: &Path) -> PathBuf {
    ledger.with_file_name("socket")
}

/// A byte for each stream that was refused.
fn refusals_file(ledger: &Path) -> PathBuf {
    ledger.with_file_name("refusals")
}

fn launch(port: &Port, http2: &Port, folder: &TempDir) -> Process {
    let mut command = Command::new(std::env::current_exe().expect("this program has a file"));
    let ports = [port, http2].map(|port| port.number().to_string());
    command.arg("upstream").args(ports).arg(ledger_file(folder));
    let process = Process::start("The upstream", command, &folder.path().join("log")).expect("it can be started");
    wait_until("the upstream answers", PATIENCE, || {
        Request::new(port.addr(), "PUT", "/mood").body("{}").try_send().is_ok_and(|answer| answer.status == 204)
    });
    process
}

/// Serves until the process is ended: the other side of [`Upstream`].
pub fn serve(port: u16, http2: u16, ledger: &Path) -> io::Result<()> {
    // An earlier process that was killed has left its socket.
    let _ = fs::remove_file(socket_file(ledger));
    let socket = UnixListener::bind(socket_file(ledger))?;
    let http2 = TcpListener::bind(("127.0.0.1", http2))?;
    let known = read_ledger(&fs::read_to_string(ledger).unwrap_or_default());
    let file = File::options().create(true).append(true).open(ledger)?;
    let refusals = File::options().create(true).append(true).open(refusals_file(ledger))?;
    let mut book = Book {
        file,
        refusals,
        executions: known.len() as u64,
        streams: 0,
        mood: Mood::default(),
        fences: HashMap::new(),
    };
    known.iter().for_each(|execution| book.shows(execution));
    let book = Arc::new(Mutex::new(book));
    http2::serve(http2, Arc::clone(&book))?;
    let on_socket = Arc::clone(&book);
    thread::spawn(move || {
        for stream in socket.incoming().flatten() {
            let book = Arc::clone(&on_socket);
            thread::spawn(move || {
                let _ = answer_all(&stream, &stream, &book);
                let _ = stream.shutdown(Shutdown::Both);
            });
        }
    });
    // What listens last answers for all.
    for stream in TcpListener::bind(("127.0.0.1", port))?.incoming() {
        let (stream, book) = (stream?, Arc::clone(&book));
        thread::spawn(move || {
            let _ = stream.set_nodelay(true);
            // An error is a peer that went away.
            let _ = answer_all(&stream, &stream, &book);
            let _ = stream.shutdown(Shutdown::Both);
        });
    }
    Ok(())
}

/// What all faces of the service share.
pub struct Book {
    file: File,
    refusals: File,
    executions: u64,
    streams: u64,
    mood: Mood,
    /// The largest fence that it has seen, by resource.
    fences: HashMap<String, u64>,
}

impl Book {
    fn shows(&mut self, execution: &Execution) {
        let largest = self.fences.entry(execution.resource.clone()).or_default();
        *largest = execution.fence.max(*largest);
    }

    /// Writes the resource that an execution has read, unless it has seen a larger fence meanwhile.
    fn write(&mut self, execution: &mut Execution) -> io::Result<()> {
        if self.fences.get(&execution.resource).is_some_and(|largest| *largest > execution.fence) {
            execution.status = 412;
        }
        let line = json!([execution.n, now_us(), execution.status]);
        self.file.write_all(format!("{line}\n").as_bytes())
    }

    /// Whether the mood refuses the stream that comes now; notes it.
    pub fn refusal(&mut self) -> Option<Refusal> {
        self.streams += 1;
        let refusal = self.mood.refusal.filter(|_| self.streams.is_multiple_of(2))?;
        self.refusals.write_all(b".").expect("there is room for a byte");
        Some(refusal)
    }
}

/// Answers the requests of one connection until it or the mood ends it.
fn answer_all(input: impl Read, mut output: impl Write, book: &Mutex<Book>) -> io::Result<()> {
    let mut input = BufReader::new(input);
    loop {
        let request = Incoming::read(&mut input)?;
        if request.path == "/mood" {
            book.lock().unwrap_or_else(PoisonError::into_inner).mood = read_mood(&request.body);
            output.write_all(b"HTTP/1.1 204 No Content\r\n\r\n")?;
            continue;
        }
        let (mut execution, delay_ms) = enter(&request, &mut book.lock().unwrap_or_else(PoisonError::into_inner))?;
        thread::sleep(Duration::from_millis(delay_ms));
        if !execution.resource.is_empty() {
            book.lock().unwrap_or_else(PoisonError::into_inner).write(&mut execution)?;
        }
        let Execution { n, status, body_len, sent, .. } = execution;
        let fields = format!("content-type: application/json\r\nlocation: /payments/{n}\r\nx-execution: {n}");
        let head = format!("HTTP/1.1 {status} \r\n{fields}\r\ncontent-length: {body_len}\r\n\r\n");
        let body = body_of(n, body_len);
        match sent {
            Sent::Whole => output.write_all(&[head.as_bytes(), &body].concat())?,
            Sent::Head => return output.write_all(&[head.as_bytes(), &body[..body_len / 2]].concat()),
            Sent::Nothing => return Ok(()),
        }
    }
}

/// Enters one execution; returns it, and how long its answer takes.
pub fn enter(request: &Incoming, book: &mut Book) -> io::Result<(Execution, u64)> {
    let number = |name: &str| request.header(name).parse().unwrap_or(0);
    let attempt: u64 = number("idempotency-attempt");
    let statuses: Vec<u16> = request.header("x-chaos-statuses").split(',').filter_map(|s| s.parse().ok()).collect();
    let place = usize::try_from(attempt.saturating_sub(1)).unwrap_or(usize::MAX);
    let planned = statuses.get(place).or(statuses.last()).copied().unwrap_or(201);
    book.executions += 1;
    let n = book.executions;
    let mood = match book.mood.only {
        Some(kind) if kind.path() != request.path => Mood::default(),
        _ => book.mood,
    };
    let size = usize::try_from(number("x-chaos-size")).unwrap_or(0);
    let execution = Execution {
        n,
        request: number("x-chaos-request"),
        path: request.path.clone(),
        tenant: request.header("authorization").to_owned(),
        key: request.header("idempotency-key").to_owned(),
        payload: sha256_hex(&request.body),
        attempt,
        operation: request.header("idempotency-operation").to_owned(),
        resource: request.header("x-chaos-resource").to_owned(),
        fence: number("idempotency-fence"),
        at_us: now_us(),
        ended_us: None,
        status: mood.status.unwrap_or(planned),
        body_len: body_of(n, mood.size.unwrap_or(size)).len(),
        sent: mood.sent,
    };
    // One write, so that a line is there whole or not at all.
    book.file.write_all(write_line(&execution).as_bytes())?;
    book.shows(&execution);
    Ok((execution, number("x-chaos-delay-ms") + mood.delay_ms))
}

/// One request as it came.
pub struct Incoming {
    /// Its path.
    pub path: String,
    /// Its fields, their names in lower case.
    pub headers: Vec<(String, String)>,
    /// Its body.
    pub body: Vec<u8>,
}

impl Incoming {
    fn read(input: &mut impl BufRead) -> io::Result<Incoming> {
        let line = read_text(input)?;
        let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
        let mut headers = Vec::new();
        loop {
            let line = read_text(input)?;
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(':').ok_or(io::ErrorKind::InvalidData)?;
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        let mut request = Incoming { path, headers, body: Vec::new() };
        request.body = vec![0; request.header("content-length").parse().unwrap_or(0)];
        input.read_exact(&mut request.body)?;
        Ok(request)
    }

    fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
    }
}

/// A whole line: what a connection that was cut has left is none.
fn read_text(input: &mut impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    input.read_line(&mut line)?;
    match line.strip_suffix("\r\n") {
        Some(whole) => Ok(whole.to_owned()),
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

fn write_line(e: &Execution) -> String {
    let numbers = json!([e.n, e.request, e.attempt, e.at_us, e.status, e.body_len, number(e.sent), e.fence]);
    format!("{}\n", json!([numbers, e.path, e.tenant, e.key, e.payload, e.operation, e.resource]))
}

/// The executions of a ledger, or of the rest of one.
fn read_ledger(text: &str) -> Vec<Execution> {
    let mut executions: Vec<Execution> = Vec::new();
    for line in text.lines() {
        let value: Value = serde_json::from_str(line).expect("every line of the ledger is whole");
        if value[0].is_array() {
            executions.push(read_execution(&value));
            continue;
        }
        let n = value[0].as_u64();
        if let Some(execution) = executions.iter_mut().rev().find(|execution| Some(execution.n) == n) {
            execution.ended_us = value[1].as_u64();
            execution.status = value[2].as_u64().unwrap_or(0) as u16;
        }
    }
    executions
}

fn read_execution(value: &Value) -> Execution {
    let number = |place: usize| value[0][place].as_u64().unwrap_or(0);
    let text = |place: usize| value[place].as_str().unwrap_or_default().to_owned();
    Execution {
        n: number(0),
        request: number(1),
        attempt: number(2),
        at_us: number(3),
        status: number(4) as u16,
        body_len: number(5) as usize,
        sent: sent(number(6)),
        path: text(1),
        tenant: text(2),
        key: text(3),
        payload: text(4),
        operation: text(5),
        resource: text(6),
        fence: number(7),
        ended_us: None,
    }
}

fn read_mood(body: &[u8]) -> Mood {
    let value: Value = serde_json::from_slice(body).unwrap_or_default();
    let path = value["only"].as_str();
    Mood {
        only: Kind::PROTECTED.into_iter().find(|kind| Some(kind.path()) == path),
        refusal: value["go_away"].as_bool().map(|goes| if goes { Refusal::GoAway } else { Refusal::Stream }),
        status: value["status"].as_u64().map(|status| status as u16),
        delay_ms: value["delay_ms"].as_u64().unwrap_or(0),
        size: value["size"].as_u64().map(|size| size as usize),
        sent: sent(value["sent"].as_u64().unwrap_or(0)),
    }
}

fn number(sent: Sent) -> u64 {
    match sent {
        Sent::Whole => 0,
        Sent::Head => 1,
        Sent::Nothing => 2,
    }
}

fn sent(number: u64) -> Sent {
    match number {
        0 => Sent::Whole,
        1 => Sent::Head,
        _ => Sent::Nothing,
    }
}
