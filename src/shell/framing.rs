//! The plugin that stands between the streams of gateways and Redis, and takes off the frames that gRPC puts on.
//!
//! Its one rule: it keeps no message and holds none back.
//! It does not know what a message says.

use crate::framing::{self, Frames, NoFrame};
use crate::message::Headers;
use crate::shell::host::{self, Buffer, Level};
use crate::worker::Action;

/// One stream.
#[derive(Default)]
pub struct FramedStream {
    frames: Frames,
}

impl FramedStream {
    /// A piece of what the gateway sends: it goes on without its frames.
    pub fn on_request_body(&mut self, size: usize) -> Action {
        if self.frames.pass(size) {
            return Action::Continue;
        }
        match self.frames.strip(&host::buffer(Buffer::RequestBody, 0, size)) {
            Ok(messages) => {
                host::set_body(Buffer::RequestBody, usize::MAX, &messages);
                Action::Continue
            }
            Err(NoFrame) => {
                host::log(Level::Error, "what came for Redis is no gRPC; only a store's cluster leads here");
                host::send_local_response(400, &Headers::default(), b"", "idempotency_no_frame");
                Action::Pause
            }
        }
    }

    /// A piece of what Redis answers: it goes on as one message.
    pub fn on_response_body(&mut self, size: usize) -> Action {
        if size > 0 {
            host::set_body(Buffer::ResponseBody, 0, &framing::head(size));
        }
        Action::Continue
    }
}
