//! A service for Envoy's `ext_proc` that vetoes: it answers the first thing it is asked with a response of its own.
//!
//! One rule: which phase is asked about is the filter's to say, and the status is what `x-veto` in the call says.
//! It does not know what the message says that it vetoes.

use std::net::{Ipv4Addr, SocketAddr};
use std::thread::{self, JoinHandle};

use bytes::Bytes;
use h2::server::SendResponse;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

/// A running one.
#[derive(Debug)]
pub struct Veto {
    addr: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Veto {
    /// Starts it on a free port.
    pub fn start() -> Veto {
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
        Veto { addr, stop: Some(stop), thread: Some(thread) }
    }

    /// Where it listens, for HTTP/2.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }
}

impl Drop for Veto {
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
        tokio::spawn(veto(request, respond));
    }
    Ok(())
}

async fn veto(request: http::Request<h2::RecvStream>, mut respond: SendResponse<Bytes>) -> Result<(), h2::Error> {
    let status = request.headers().get("x-veto").and_then(|value| value.to_str().ok()?.parse().ok()).unwrap_or(403);
    let mut body = request.into_body();
    if body.data().await.transpose()?.is_none() {
        return Ok(());
    }
    let head = http::Response::builder().header("content-type", "application/grpc").body(());
    let mut stream = respond.send_response(head.expect("it is a right head"), false)?;
    stream.send_data(immediate_response(status), false)?;
    let trailers = [(http::HeaderName::from_static("grpc-status"), http::HeaderValue::from_static("0"))];
    stream.send_trailers(trailers.into_iter().collect())
}

/// `ProcessingResponse { immediate_response: { status: { code }, body: "no" } }`, in a frame of gRPC.
fn immediate_response(status: u16) -> Bytes {
    let code = [(status & 0x7f) as u8 | 0x80, (status >> 7) as u8];
    let answer = [&[0x0a, 3, 0x08], &code[..], &[0x1a, 2], b"no"].concat();
    let message = [&[0x3a, answer.len() as u8], answer.as_slice()].concat();
    Bytes::from([&[0, 0, 0, 0, message.len() as u8], message.as_slice()].concat())
}
