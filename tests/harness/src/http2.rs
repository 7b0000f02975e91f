//! The same requests over HTTP/2 with prior knowledge.
//!
//! One rule: every piece of a body is a DATA frame of its own, so that a test decides how a body arrives.
//! It does not know more of requests than what they carry.

use std::net::SocketAddr;

use bytes::Bytes;
use h2::client::SendRequest;
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::client::{Payload, Request, Response};
use crate::wait::PATIENCE;

/// Sends all requests on one connection, all streams open at once.
pub(crate) fn send_all(to: SocketAddr, requests: &[Request]) -> Vec<Result<Response, String>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let sender = match connect(to).await {
            Ok(sender) => sender,
            Err(message) => return requests.iter().map(|_| Err(message.clone())).collect(),
        };
        let streams: Vec<_> = requests
            .iter()
            .map(|request| {
                let (sender, request) = (sender.clone(), request.clone());
                tokio::spawn(async move {
                    let what = format!("{} {} to {} over HTTP/2", request.method, request.path, request.to);
                    match tokio::time::timeout(PATIENCE, exchange(sender, &request)).await {
                        Ok(Ok(response)) => Ok(response),
                        Ok(Err(error)) => Err(format!("{what}: {error}.")),
                        Err(_) => Err(format!("{what}: there was no whole answer in time.")),
                    }
                })
            })
            .collect();
        drop(sender);
        let mut answers = Vec::new();
        for stream in streams {
            answers.push(stream.await.expect("a stream does not panic"));
        }
        answers
    })
}

async fn connect(to: SocketAddr) -> Result<SendRequest<Bytes>, String> {
    let failed = |error: String| format!("The HTTP/2 connection to {to} failed ({error}).");
    let stream = tokio::net::TcpStream::connect(to).await.map_err(|error| failed(error.to_string()))?;
    let _ = stream.set_nodelay(true);
    let (sender, connection) = h2::client::Builder::new()
        .initial_window_size(8 << 20)
        .initial_connection_window_size(64 << 20)
        .handshake(stream)
        .await
        .map_err(|error| failed(error.to_string()))?;
    // Its end shows on the streams.
    tokio::spawn(connection);
    sender.ready().await.map_err(|error| failed(error.to_string()))
}

async fn exchange(sender: SendRequest<Bytes>, request: &Request) -> Result<Response, String> {
    let mut sender = sender.ready().await.map_err(sentence)?;
    let host = String::from_utf8_lossy(request.host.as_deref().unwrap_or_default());
    let mut head = http::Request::builder()
        .method(request.method.as_str())
        .uri(format!("http://{host}{}", request.path))
        .version(http::Version::HTTP_2)
        .body(())
        .map_err(|error| error.to_string())?;
    *head.headers_mut() = header_map(request.lines())?;
    if let Payload::Whole(body) = &request.body {
        head.headers_mut().insert(http::header::CONTENT_LENGTH, HeaderValue::from(body.len()));
    }
    let trailers = (!request.trailers.is_empty())
        .then(|| header_map(request.trailers.iter().map(|(name, value)| (name.as_slice(), value.as_slice()))))
        .transpose()?;

    let bodiless = matches!(request.body, Payload::None) && trailers.is_none();
    let (answer, mut stream) = sender.send_request(head, bodiless).map_err(sentence)?;
    if !bodiless {
        let empty = Vec::new();
        let pieces = match &request.body {
            Payload::None => &empty,
            Payload::Whole(body) => &vec![body.clone()],
            Payload::Pieces(pieces) => pieces,
        };
        // A peer that answers early resets the rest of the body; the answer tells what there is to tell.
        let _ = send_body(&mut stream, pieces, trailers);
    }

    let mut interim = Vec::new();
    let mut answer = answer;
    while let Some(informational) = std::future::poll_fn(|cx| answer.poll_informational(cx)).await {
        interim.push(informational.map_err(sentence)?.status().as_u16());
    }
    let (head, mut incoming) = answer.await.map_err(sentence)?.into_parts();
    let mut body = Vec::new();
    while let Some(piece) = incoming.data().await {
        let piece = piece.map_err(sentence)?;
        let _ = incoming.flow_control().release_capacity(piece.len());
        body.extend_from_slice(&piece);
    }
    let trailers = incoming.trailers().await.map_err(sentence)?.unwrap_or_default();
    Ok(Response {
        status: head.status.as_u16(),
        headers: lines(&head.headers),
        body,
        trailers: lines(&trailers),
        interim,
    })
}

/// Queues the whole body; h2 sends it as the peer's window allows.
fn send_body(
    stream: &mut h2::SendStream<Bytes>,
    pieces: &[Vec<u8>],
    trailers: Option<HeaderMap>,
) -> Result<(), h2::Error> {
    let end_with_data = trailers.is_none();
    for (index, piece) in pieces.iter().enumerate() {
        let last = index + 1 == pieces.len();
        stream.send_data(Bytes::copy_from_slice(piece), last && end_with_data)?;
    }
    match trailers {
        Some(trailers) => stream.send_trailers(trailers),
        None if pieces.is_empty() => stream.send_data(Bytes::new(), true),
        None => Ok(()),
    }
}

fn header_map<'a>(lines: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> Result<HeaderMap, String> {
    let mut map = HeaderMap::new();
    for (name, value) in lines {
        let name = HeaderName::from_bytes(name).map_err(|error| error.to_string())?;
        map.append(name, HeaderValue::from_bytes(value).map_err(|error| error.to_string())?);
    }
    Ok(map)
}

fn lines(map: &HeaderMap) -> Vec<(String, Vec<u8>)> {
    map.iter().map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_owned())).collect()
}

fn sentence(error: h2::Error) -> String {
    format!("the stream ended ({error})")
}
