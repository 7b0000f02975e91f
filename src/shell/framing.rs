//! The plugin that stands between the streams of gateways and Redis, and takes off the frames that gRPC puts on.
//!
//! Its one rule: it keeps no message and holds none back.
//! It does not know what a message says.

use proxy_wasm::traits::{Context, HttpContext};
use proxy_wasm::types::Action;

use crate::framing::{self, Frames, NoFrame};
use crate::message::Headers;
use crate::shell::host::{self, Buffer, Level};

/// One stream, as the SDK has it.
#[derive(Default)]
pub struct FramedStream {
    frames: Frames,
}

impl Context for FramedStream {}

impl HttpContext for FramedStream {
    fn on_http_request_body(&mut self, size: usize, _end: bool) -> Action {
        if self.frames.pass(size) {
            return Action::Continue;
        }
        match self.frames.strip(&host::buffer(Buffer::RequestBody, 0, size)) {
            Ok(messages) => {
                host::set_body(Buffer::RequestBody, usize::MAX, &messages);
                Action::Continue
            }
            Err(NoFrame) => {
                host::log(
                    Level::Error,
                    "idempotency: what came for Redis is no gRPC; only a store's cluster leads here",
                );
                host::send_local_response(400, &Headers::default(), b"", "idempotency_no_frame");
                Action::Pause
            }
        }
    }

    fn on_http_response_body(&mut self, size: usize, _end: bool) -> Action {
        if size > 0 {
            host::set_body(Buffer::ResponseBody, 0, &framing::head(size));
        }
        Action::Continue
    }
}
