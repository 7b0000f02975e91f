//! The service's face on HTTP/2.
//!
//! One rule: a stream that is refused, by RST_STREAM or by a GOAWAY below it, has not been looked at and never runs; one
//! that is reset with code 2 (INTERNAL_ERROR) has run.
//! It does not know of any rule about keys.

use std::io;
use std::net::TcpListener;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::net::TcpStream;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use crate::history::{Execution, Sent};
use crate::upstream::{Book, Incoming, Refusal, body_of, enter};

/// Serves until the process is ended, in a thread of its own.
pub fn serve(listener: TcpListener, book: Arc<Mutex<Book>>) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    thread::spawn(move || {
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener).expect("the listener does not block");
            loop {
                if let Ok((stream, _)) = listener.accept().await {
                    let _ = stream.set_nodelay(true);
                    // An error is a peer that went away.
                    tokio::spawn(serve_connection(stream, Arc::clone(&book)));
                }
            }
        });
    });
    Ok(())
}

async fn serve_connection(stream: TcpStream, book: Arc<Mutex<Book>>) -> Result<(), h2::Error> {
    let (near, far) = tokio::io::duplex(1 << 16);
    let (leave, leaves) = unbounded_channel();
    tokio::spawn(carry(far, stream, leaves));
    let mut connection = h2::server::handshake(near).await?;
    // Streams above the GOAWAY: dropped here they would be reset.
    let mut left = Vec::new();
    while let Some(accepted) = connection.accept().await {
        let (request, mut respond) = accepted?;
        let refusal = match left.is_empty() {
            true => book.lock().unwrap_or_else(PoisonError::into_inner).refusal(),
            false => Some(Refusal::GoAway),
        };
        match refusal {
            None => drop(tokio::spawn(answer(request, respond, Arc::clone(&book)))),
            Some(Refusal::Stream) => respond.send_reset(Reason::REFUSED_STREAM),
            Some(Refusal::GoAway) => {
                if left.is_empty() {
                    let _ = leave.send(respond.stream_id().as_u32().saturating_sub(2));
                }
                left.push((request, respond));
            }
        }
    }
    Ok(())
}

/// Executes one stream's request and answers it as the mood will have it.
async fn answer(
    request: http::Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    book: Arc<Mutex<Book>>,
) -> Result<(), h2::Error> {
    let (head, mut incoming) = request.into_parts();
    let mut body = Vec::new();
    while let Some(piece) = incoming.data().await {
        let piece = piece?;
        incoming.flow_control().release_capacity(piece.len())?;
        body.extend_from_slice(&piece);
    }
    let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let headers = head.headers.iter().map(|(name, value)| (name.as_str().to_owned(), text(value))).collect();
    let request = Incoming { path: head.uri.path().to_owned(), headers, body };
    let entered = enter(&request, &mut book.lock().unwrap_or_else(PoisonError::into_inner));
    let (Execution { n, status, body_len, sent, .. }, delay_ms) = entered.expect("there is room for the ledger");
    tokio::time::sleep(Duration::from_millis(delay_ms)).await;
    if sent == Sent::Nothing {
        respond.send_reset(Reason::INTERNAL_ERROR);
        return Ok(());
    }
    let response = http::Response::builder()
        .status(status)
        .header("content-type", "application/json")
        .header("location", format!("/payments/{n}"))
        .header("x-execution", n)
        .header("content-length", body_len)
        .body(())
        .expect("the head is well-formed");
    let mut out = respond.send_response(response, false)?;
    let mut body = Bytes::from(body_of(n, body_len));
    if sent == Sent::Head {
        body.truncate(body_len / 2);
        out.send_data(body, false)?;
        out.send_reset(Reason::INTERNAL_ERROR);
        return Ok(());
    }
    out.send_data(body, true)
}

/// Carries the bytes of a connection, and puts a GOAWAY with this last stream between two frames when told to.
async fn carry(far: DuplexStream, stream: TcpStream, mut leaves: UnboundedReceiver<u32>) -> io::Result<()> {
    let (mut from_server, mut to_server) = tokio::io::split(far);
    let (mut from_client, mut to_client) = stream.into_split();
    let inward = async {
        tokio::io::copy(&mut from_client, &mut to_server).await?;
        to_server.shutdown().await
    };
    let outward = async {
        let mut bytes = BytesMut::new();
        loop {
            tokio::select! {
                Some(last) = leaves.recv() => to_client.write_all(&go_away(last)).await?,
                read = from_server.read_buf(&mut bytes) => {
                    if read? == 0 {
                        return to_client.shutdown().await;
                    }
                    while let Some(length) = frame_len(&bytes).filter(|length| *length <= bytes.len()) {
                        to_client.write_all(&bytes.split_to(length)).await?;
                    }
                }
            }
        }
    };
    tokio::try_join!(inward, outward).map(|_| ())
}

/// How long the frame is that the bytes begin with.
fn frame_len(bytes: &[u8]) -> Option<usize> {
    let [a, b, c, ..] = *bytes else { return None };
    Some(FRAME_HEAD + u32::from_be_bytes([0, a, b, c]) as usize)
}

/// RFC 9113, 6.8: streams above `last` "were not or might not be processed"; ours were not.
fn go_away(last: u32) -> Vec<u8> {
    let (length, kind, flags, stream, no_error) = ([0, 0, 8], 7, 0, [0; 4], [0; 4]);
    [&length[..], &[kind, flags], &stream, &last.to_be_bytes(), &no_error].concat()
}

const FRAME_HEAD: usize = 9;
