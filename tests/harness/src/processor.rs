//! A service for Envoy's `ext_proc`: it lets everything pass, or vetoes the first thing it is asked about.
//!
//! One rule: which phase is asked about is the filter's to say, and `x-veto` in the call is the status of a veto.
//! It does not know what the messages say.

use std::net::{Ipv4Addr, SocketAddr};
use std::thread::{self, JoinHandle};

use bytes::Bytes;
use h2::server::SendResponse;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

/// A running one.
#[derive(Debug)]
pub struct Processor {
    addr: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Processor {
    /// Starts it on a free port.
    pub fn start() -> Processor {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free loopback port");
        listener.set_nonblocking(true).expect("a listener can be made non-blocking");
        let addr = listener.local_addr().expect("a bound listener has an address");
        let (stop, stopped) = oneshot::channel();
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                tokio::select! {
                    () = accept(listener) => (),
                    _ = stopped => (),
                }
            });
        });
        Processor { addr, stop: Some(stop), thread: Some(thread) }
    }

    /// Where it listens, for HTTP/2.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }
}

impl Drop for Processor {
    fn drop(&mut self) {
        drop(self.stop.take());
        // A panic in there has already been printed.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

async fn accept(listener: std::net::TcpListener) {
    let listener = TcpListener::from_std(listener).expect("a listener of ours fits the runtime");
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        // An error is a peer that went away.
        tokio::spawn(serve(stream));
    }
}

async fn serve(stream: TcpStream) -> Result<(), h2::Error> {
    let mut connection = h2::server::handshake(stream).await?;
    while let Some(call) = connection.accept().await {
        let (request, respond) = call?;
        tokio::spawn(process(request, respond));
    }
    Ok(())
}

async fn process(request: http::Request<h2::RecvStream>, mut respond: SendResponse<Bytes>) -> Result<(), h2::Error> {
    let veto = request.headers().get("x-veto").and_then(|value| value.to_str().ok()?.parse().ok());
    let mut body = request.into_body();
    let head = http::Response::builder().header("content-type", "application/grpc").body(());
    let mut stream = respond.send_response(head.expect("it is a right head"), false)?;
    let mut come = Vec::new();
    while let Some(piece) = body.data().await.transpose()? {
        body.flow_control().release_capacity(piece.len())?;
        come.extend_from_slice(&piece);
        while let Some(message) = take_message(&mut come) {
            if let Some(status) = veto {
                stream.send_data(immediate_response(status), false)?;
                return stream.send_trailers(trailers());
            }
            // A phase's answer has the number before that of its question; empty, it changes nothing.
            let question = message.first().map_or(0, |tag| tag >> 3);
            stream.send_data(Bytes::from(vec![0, 0, 0, 0, 2, (question - 1) << 3 | 2, 0]), false)?;
        }
    }
    stream.send_trailers(trailers())
}

/// The first whole message of a gRPC stream, without its frame.
fn take_message(come: &mut Vec<u8>) -> Option<Vec<u8>> {
    let (frame, _) = come.split_first_chunk::<5>()?;
    let length = u32::from_be_bytes([frame[1], frame[2], frame[3], frame[4]]) as usize;
    (come.len() >= 5 + length).then(|| come.drain(..5 + length).skip(5).collect())
}

fn trailers() -> http::HeaderMap {
    [(http::HeaderName::from_static("grpc-status"), http::HeaderValue::from_static("0"))].into_iter().collect()
}

/// `ProcessingResponse { immediate_response: { status: { code }, body: "no" } }`, in a frame of gRPC.
fn immediate_response(status: u16) -> Bytes {
    let code = [(status & 0x7f) as u8 | 0x80, (status >> 7) as u8];
    let answer = [&[0x0a, 3, 0x08], &code[..], &[0x1a, 2], b"no"].concat();
    let message = [&[0x3a, answer.len() as u8], answer.as_slice()].concat();
    Bytes::from([&[0, 0, 0, 0, message.len() as u8], message.as_slice()].concat())
}
