//! Services that break off at one point of a request, frame by frame where they speak HTTP/2.
//!
//! One rule: each does one thing, always, so that the way to it names what a request meets.
//! It does not know what a request says.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use socket2::SockRef;

/// What one of them does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// Closes a connection that it has taken, before it reads.
    ClosesAtOnce,
    /// Reads the head of an HTTP/1.1 request, and resets the connection.
    ResetsAfterHead,
    /// Reads an HTTP/2 request, and resets its stream with this code.
    ResetsStream(u32),
    /// Reads an HTTP/2 request, and goes away without having taken it: the last stream that it names is the one before.
    RefusesAndGoesAway,
    /// Answers 200 to the first HTTP/2 request on a connection. Of the second it reads all, and closes.
    ClosesWhenReused,
    /// As [`ClosesWhenReused`](Trouble::ClosesWhenReused), and says before that the second was its last.
    GoesAwayWhenReused,
}

/// A running one.
#[derive(Debug)]
pub struct Troublemaker {
    addr: SocketAddr,
    is_over: Arc<AtomicBool>,
}

impl Troublemaker {
    /// Starts it on a free port.
    pub fn start(trouble: Trouble) -> Troublemaker {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free loopback port");
        let addr = listener.local_addr().expect("a bound listener has an address");
        let is_over = Arc::new(AtomicBool::new(false));
        let ends = Arc::clone(&is_over);
        thread::spawn(move || {
            for connection in listener.incoming() {
                if ends.load(Ordering::Relaxed) {
                    return;
                }
                // A connection that the peer ends is no fault.
                thread::spawn(move || connection.and_then(|stream| trouble.on(stream)));
            }
        });
        Troublemaker { addr, is_over }
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }
}

impl Drop for Troublemaker {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.addr);
    }
}

impl Trouble {
    fn on(self, mut stream: TcpStream) -> io::Result<()> {
        match self {
            Trouble::ClosesAtOnce => stream.shutdown(Shutdown::Both),
            Trouble::ResetsAfterHead => {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    let mut byte = [0];
                    stream.read_exact(&mut byte)?;
                    head.extend(byte);
                }
                SockRef::from(&stream).set_linger(Some(Duration::ZERO))
            }
            _ => self.on_http2(stream),
        }
    }

    fn on_http2(self, mut stream: TcpStream) -> io::Result<()> {
        stream.read_exact(&mut [0; PREFACE])?;
        frame(&mut stream, SETTINGS, 0, 0, &[])?;
        let mut answered = 0_u32;
        loop {
            let mut head = [0; 9];
            stream.read_exact(&mut head)?;
            let [l0, l1, l2, kind, flags, s0, s1, s2, s3] = head;
            let mut payload = vec![0; u32::from_be_bytes([0, l0, l1, l2]) as usize];
            stream.read_exact(&mut payload)?;
            let id = u32::from_be_bytes([s0, s1, s2, s3]);
            let is_end = matches!(kind, DATA | HEADERS) && flags & END_STREAM != 0;
            match (kind, self) {
                (SETTINGS, _) if flags & ACK == 0 => frame(&mut stream, SETTINGS, ACK, 0, &[])?,
                (PING, _) if flags & ACK == 0 => frame(&mut stream, PING, ACK, 0, &payload)?,
                (_, Trouble::ResetsStream(code)) if is_end => {
                    frame(&mut stream, RST_STREAM, 0, id, &code.to_be_bytes())?;
                }
                (_, Trouble::RefusesAndGoesAway) if is_end => go_away(&mut stream, id.saturating_sub(2))?,
                (_, Trouble::GoesAwayWhenReused) if is_end && answered > 0 => {
                    go_away(&mut stream, id)?;
                    return stream.shutdown(Shutdown::Both);
                }
                (_, Trouble::ClosesWhenReused) if is_end && answered > 0 => return stream.shutdown(Shutdown::Both),
                _ if is_end => {
                    answered += 1;
                    frame(&mut stream, HEADERS, END_HEADERS | END_STREAM, id, &[STATUS_200])?;
                }
                _ => {}
            }
        }
    }
}

fn go_away(stream: &mut TcpStream, last: u32) -> io::Result<()> {
    frame(stream, GOAWAY, 0, 0, &[last.to_be_bytes(), [0; 4]].concat())
}

/// A frame of HTTP/2 (RFC 9113, section 4.1).
fn frame(stream: &mut TcpStream, kind: u8, flags: u8, id: u32, payload: &[u8]) -> io::Result<()> {
    let [_, l0, l1, l2] = (payload.len() as u32).to_be_bytes();
    let [s0, s1, s2, s3] = id.to_be_bytes();
    stream.write_all(&[&[l0, l1, l2, kind, flags, s0, s1, s2, s3], payload].concat())
}

/// How many bytes a client sends before its first frame.
const PREFACE: usize = 24;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
/// `:status: 200` in HPACK.
const STATUS_200: u8 = 0x88;
