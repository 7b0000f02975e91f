//! Whether the host shows bodies to a filter that holds the head of a message.
//!
//! Its one rule: only a body that comes while its head is held proves that it does; one such body ends the search.
//! It does not know what becomes of a message whose body is not shown.

use crate::by_id::{ById, in_order};

/// How long a held request may wait for its first body callback before Envoy is taken not to show bodies, in a worker
/// that has never seen one.
const NO_REQUEST_BODY_MS: u64 = 15_000;
/// The same for a response, whose size Envoy does not tell; one that is only slow is not kept for replay.
const NO_RESPONSE_BODY_MS: u64 = 10_000;

/// The search for `allow_on_headers_stop_iteration`, which nothing tells.
#[derive(Default)]
pub struct Bodies {
    /// Whether a body was shown while its head was held.
    are_shown: bool,
    /// By their streams, messages that are held in their heads, until then.
    unseen: ById<Unseen>,
}

/// A message that is held in its head.
#[derive(Clone, Copy)]
struct Unseen {
    since_ms: u64,
    /// How large the request was then; none of a response.
    request_size: Option<u64>,
}

impl Bodies {
    /// Whether a body was shown while its head was held.
    pub fn are_shown(&self) -> bool {
        self.are_shown
    }

    /// Notes that a body was shown while its head was held.
    pub fn note_shown(&mut self) {
        self.are_shown = true;
        self.unseen.clear();
    }

    /// Notes that a message is held in its head; a request with its size so far.
    pub fn note_held(&mut self, stream: u32, request_size: Option<u64>, now_ms: u64) {
        self.unseen.insert(stream, Unseen { since_ms: now_ms, request_size });
    }

    /// The streams whose message is still held in its head, in order.
    pub fn paused(&mut self, awaits_body: impl Fn(u32) -> bool) -> Vec<u32> {
        self.unseen.retain(|stream, _| awaits_body(*stream));
        in_order(self.unseen.keys().copied())
    }

    /// Whether the host has received some of this message's body and does not show it; forgets the message then.
    pub fn is_hidden(&mut self, stream: u32, request_size: impl FnOnce() -> u64, now_ms: u64) -> bool {
        let Some(unseen) = self.unseen.get(&stream) else { return false };
        let is_hidden = match unseen.request_size {
            // While a held request grows and shows nothing, its bytes pile up in Envoy.
            Some(size) => request_size() > size || now_ms > unseen.since_ms + NO_REQUEST_BODY_MS,
            None => now_ms > unseen.since_ms + NO_RESPONSE_BODY_MS,
        };
        if is_hidden {
            self.unseen.remove(&stream);
        }
        is_hidden
    }
}
