//! The fault proxy: stands before the store or its HTTP front, or between a client and a gateway, and does to calls what
//! networks and stores do.
//!
//! One rule: it knows where a call and its reply begin and end, so a fault meets whole calls, at a chosen point.
//! It does not know what a call asks, beyond how it begins.
//!
//! ```text
//! Gateway ──call──▶ Interposer ──call──▶ Webdis ──▶ Redis, or Redis itself
//!         ◀─reply──            ◀─reply──
//!  Client ──call──▶ Interposer ──call──▶ Gateway
//! ```

mod stream;

use std::collections::VecDeque;
use std::io;
use std::net::{SocketAddr, TcpStream as Probe};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};

use crate::dialect::Dialect;
use crate::ports::Port;
use crate::wait::{PATIENCE, wait_until};

/// What becomes of a call.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Fault {
    /// It is run, and the reply is kept back: the connection ends without a byte of it.
    CutAfter,
    /// The connection ends before the store has heard of it.
    CutBefore,
    /// It is run, and the connection ends in the middle of the reply's body, or of its head where there is no body.
    CutInside,
    /// It is run, and the reply comes so much later.
    DelayReply(Duration),
    /// It is run, and its reply comes twice.
    Doubled,
    /// It is run so much later, also when nobody waits for it any more.
    Late(Duration),
    /// It is run, and its reply is left out: on a stream each that follows comes one place too early.
    LeftOut,
    /// Nothing: it is run and the reply comes.
    #[default]
    Pass,
    /// It is not run, and this is the reply: a status and a body. On a stream it is the body, or with another status than
    /// 200 an end.
    Say(u16, Vec<u8>),
    /// It is run, and this is the reply.
    SayAfter(u16, Vec<u8>),
    /// It is not run, and nothing comes back.
    Silence,
    /// It goes and its reply comes in small pieces.
    Slice,
    /// It is run, and gets the reply of the next call that is swapped, which gets this one's: Webdis before 0.1.20
    /// does so when a client has gone. On a stream it gets the reply of the call that was swapped before.
    Swap,
    /// It is run twice, and the first reply comes.
    Twice,
}

impl Fault {
    /// Redis refuses the whole call with this error, as Webdis passes it on: `Fault::error("LOADING Redis is …")`.
    pub fn error(text: &str) -> Fault {
        Fault::Say(200, format!("-{text}\r\n").into_bytes())
    }
}

/// A running proxy. Calls pass until it is told otherwise.
#[derive(Debug)]
pub struct Interposer {
    port: Port,
    desk: Arc<Desk>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Interposer {
    /// Starts one in front of an address where HTTP is spoken.
    #[track_caller]
    pub fn start(store: SocketAddr) -> Interposer {
        Interposer::speaking(Dialect::Webdis, store)
    }

    /// Starts one in front of an address where this is spoken.
    #[track_caller]
    pub fn speaking(dialect: Dialect, store: SocketAddr) -> Interposer {
        let port = Port::reserve();
        let desk = Arc::new(Desk {
            dialect,
            store: Mutex::new(store),
            plan: Mutex::default(),
            swapped: Mutex::default(),
            exchanged: Mutex::default(),
            is_open: watch::Sender::new(true),
        });
        let (stop, stopped) = oneshot::channel();
        let (addr, served) = (port.addr(), Arc::clone(&desk));
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            // Dropping the runtime closes every connection.
            runtime.block_on(async {
                tokio::select! {
                    () = accept(addr, served) => (),
                    _ = stopped => (),
                }
            });
        });
        let interposer = Interposer { port, desk, stop: Some(stop), thread: Some(thread) };
        interposer.open();
        interposer
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.port.addr()
    }

    /// Every call from now on meets this, and whatever was planned is forgotten.
    pub fn set(&self, fault: Fault) {
        let mut plan = self.desk.plan();
        plan.next.clear();
        plan.standing = fault;
    }

    /// So many calls more meet this, after those that were planned before.
    pub fn next(&self, calls: usize, fault: Fault) {
        self.desk.plan().next.extend(std::iter::repeat_n(fault, calls));
    }

    /// What is planned is for calls that begin so; all others pass, and are not counted.
    pub fn only(&self, beginning: &'static [u8]) {
        self.desk.plan().only = beginning;
    }

    /// How many calls have come so far.
    pub fn calls(&self) -> usize {
        self.desk.plan().calls
    }

    /// Returns when at least so many calls have come.
    #[track_caller]
    pub fn wait_for_calls(&self, calls: usize) {
        wait_until(&format!("{calls} calls have come"), PATIENCE, || self.calls() >= calls);
    }

    /// Connections that are taken from now on lead to another address.
    pub fn turn_to(&self, store: SocketAddr) {
        *self.desk.store.lock().unwrap_or_else(PoisonError::into_inner) = store;
    }

    /// Ends all connections and refuses new ones.
    #[track_caller]
    pub fn close(&self) {
        self.desk.is_open.send_replace(false);
        wait_until("connections are refused", PATIENCE, || Probe::connect(self.addr()).is_err());
    }

    /// Takes connections again.
    #[track_caller]
    pub fn open(&self) {
        self.desk.is_open.send_replace(true);
        wait_until("connections are taken", PATIENCE, || Probe::connect(self.addr()).is_ok());
    }
}

impl Drop for Interposer {
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

/// What the tests say and the connections ask.
#[derive(Debug)]
struct Desk {
    dialect: Dialect,
    store: Mutex<SocketAddr>,
    plan: Mutex<Plan>,
    /// On streams: the last reply that was swapped.
    exchanged: Mutex<Option<Vec<u8>>>,
    /// A reply that waits for another to be swapped with.
    swapped: Mutex<Option<Waiting>>,
    is_open: watch::Sender<bool>,
}

/// A reply, and who takes the other one.
type Waiting = (Vec<u8>, oneshot::Sender<Vec<u8>>);

#[derive(Debug, Default)]
struct Plan {
    next: VecDeque<Fault>,
    standing: Fault,
    only: &'static [u8],
    calls: usize,
}

impl Desk {
    fn plan(&self) -> MutexGuard<'_, Plan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn store(&self) -> SocketAddr {
        *self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives this reply away for the one that was swapped last; the first one stays where it is.
    fn exchange(&self, reply: Vec<u8>) -> Vec<u8> {
        let mut exchanged = self.exchanged.lock().unwrap_or_else(PoisonError::into_inner);
        exchanged.replace(reply.clone()).unwrap_or(reply)
    }

    fn fault(&self, call: &[u8]) -> Fault {
        let mut plan = self.plan();
        if !call.starts_with(plan.only) {
            return Fault::Pass;
        }
        plan.calls += 1;
        plan.next.pop_front().unwrap_or_else(|| plan.standing.clone())
    }
}

async fn accept(addr: SocketAddr, desk: Arc<Desk>) {
    let mut is_open = desk.is_open.subscribe();
    loop {
        // An error is a desk that has gone, which ours has not.
        let _ = is_open.wait_for(|open| *open).await;
        let listener = listen(addr).expect("a port of ours can be listened on");
        loop {
            tokio::select! {
                _ = is_open.wait_for(|open| !*open) => break,
                accepted = listener.accept() => if let Ok((client, _)) = accepted {
                    let (desk, mut is_open) = (Arc::clone(&desk), desk.is_open.subscribe());
                    tokio::spawn(async move {
                        tokio::select! {
                            _ = is_open.wait_for(|open| !*open) => (),
                            // An error is a peer that went away, or a fault that a test has asked for.
                            _ = serve_as(client, &desk) => (),
                        }
                    });
                },
            }
        }
    }
}

fn listen(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    socket.listen(1024)?;
    TcpListener::from_std(socket.into())
}

async fn serve_as(client: TcpStream, desk: &Desk) -> io::Result<()> {
    match desk.dialect {
        Dialect::Resp => stream::serve(client, desk).await,
        Dialect::Webdis => serve(client, desk).await,
    }
}

/// Serves the calls of one connection until it or the store's ends; an end of either ends both.
async fn serve(client: TcpStream, desk: &Desk) -> io::Result<()> {
    let mut client = Line::new(client)?;
    let mut store = Line::new(TcpStream::connect(desk.store()).await?)?;
    loop {
        let call = tokio::select! {
            call = client.message() => call?,
            // What Webdis says unasked is the client's to see, as it would be without us: Envoy then hangs up.
            unasked = store.unasked() => {
                client.send(&unasked?).await?;
                continue;
            }
        };
        let reply = match desk.fault(&call) {
            Fault::CutBefore => return Ok(()),
            Fault::Silence => return std::future::pending().await,
            Fault::Say(status, body) => said(status, &body),
            Fault::Late(time) => {
                tokio::time::sleep(time).await;
                store.ask(&call).await?
            }
            Fault::Slice => {
                store.send_sliced(&call).await?;
                let reply = store.message().await?;
                client.send_sliced(&reply).await?;
                continue;
            }
            Fault::Twice => {
                let reply = store.ask(&call).await?;
                store.ask(&call).await?;
                reply
            }
            Fault::Pass => tokio::select! {
                reply = store.ask(&call) => reply?,
                // Webdis is to see that its client has gone, because it may go wrong from there.
                () = client.hung_up() => return Ok(()),
            },
            fault => {
                let mut reply = store.ask(&call).await?;
                match fault {
                    Fault::CutAfter => return Ok(()),
                    Fault::CutInside => {
                        let body = head_len(&reply).map_or(0, |head| reply.len() - head);
                        reply.truncate(if body > 0 { reply.len() - body.div_ceil(2) } else { reply.len() / 2 });
                        return client.send(&reply).await;
                    }
                    Fault::DelayReply(time) => {
                        tokio::time::sleep(time).await;
                        reply
                    }
                    Fault::SayAfter(status, body) => said(status, &body),
                    Fault::Doubled => reply.repeat(2),
                    Fault::LeftOut => return std::future::pending().await,
                    _ => swap(reply, desk).await?,
                }
            }
        };
        client.send(&reply).await?;
    }
}

/// Gives the reply away for the next one that is swapped.
async fn swap(reply: Vec<u8>, desk: &Desk) -> io::Result<Vec<u8>> {
    let other = {
        let mut swapped = desk.swapped.lock().unwrap_or_else(PoisonError::into_inner);
        match swapped.take() {
            Some((first, waiting)) => {
                // Nobody waits for it only if the connection has ended.
                let _ = waiting.send(reply);
                return Ok(first);
            }
            None => {
                let (waiting, other) = oneshot::channel();
                *swapped = Some((reply, waiting));
                other
            }
        }
    };
    other.await.map_err(io::Error::other)
}

/// A reply of our own.
fn said(status: u16, body: &[u8]) -> Vec<u8> {
    let reason = http::StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason()).unwrap_or("");
    let head = format!("HTTP/1.1 {status} {reason}\r\nContent-Length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

/// One connection, read message by message.
struct Line {
    stream: TcpStream,
    unread: Vec<u8>,
}

impl Line {
    fn new(stream: TcpStream) -> io::Result<Line> {
        stream.set_nodelay(true)?;
        Ok(Line { stream, unread: Vec::new() })
    }

    /// The next message, head and body, as its bytes.
    async fn message(&mut self) -> io::Result<Vec<u8>> {
        loop {
            if let Some(length) = message_len(&self.unread)?
                && self.unread.len() >= length
            {
                let rest = self.unread.split_off(length);
                return Ok(std::mem::replace(&mut self.unread, rest));
            }
            if self.stream.read_buf(&mut self.unread).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    async fn send(&mut self, message: &[u8]) -> io::Result<()> {
        self.stream.write_all(message).await
    }

    async fn send_sliced(&mut self, message: &[u8]) -> io::Result<()> {
        for slice in message.chunks(message.len().div_ceil(SLICES)) {
            self.send(slice).await?;
            // Otherwise the kernel would join them again.
            tokio::time::sleep(BETWEEN_SLICES).await;
        }
        Ok(())
    }

    async fn ask(&mut self, call: &[u8]) -> io::Result<Vec<u8>> {
        self.send(call).await?;
        self.message().await
    }

    /// The next bytes, whatever they are.
    async fn unasked(&mut self) -> io::Result<Vec<u8>> {
        if self.unread.is_empty() && self.stream.read_buf(&mut self.unread).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(std::mem::take(&mut self.unread))
    }

    /// Returns when the peer has gone.
    async fn hung_up(&self) {
        if let Ok(1..) = self.stream.peek(&mut [0]).await {
            std::future::pending().await
        }
    }
}

/// The length of the message that the bytes begin with, once its head is there.
fn message_len(bytes: &[u8]) -> io::Result<Option<usize>> {
    let Some(head_len) = head_len(bytes) else { return Ok(None) };
    let mut body_len = 0;
    for line in bytes[..head_len].split(|byte| *byte == b'\n') {
        let Some((name, value)) = str::from_utf8(line).ok().and_then(|line| line.split_once(':')) else { continue };
        if name.eq_ignore_ascii_case("transfer-encoding") {
            return Err(io::Error::other("messages are told apart by their content-length alone"));
        }
        if name.eq_ignore_ascii_case("content-length") {
            body_len = value.trim().parse().map_err(io::Error::other)?;
        }
    }
    Ok(Some(head_len + body_len))
}

fn head_len(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|end| end == b"\r\n\r\n").map(|start| start + 4)
}

const SLICES: usize = 20;
const BETWEEN_SLICES: Duration = Duration::from_millis(1);
