//! The callbacks of one stream.
//!
//! Its one rule: a callback becomes one event, and the answer is whether the message goes on.
//! It does not know how the host reads a message, nor what the exchange makes of it.

use crate::config::source::Attributes;
use crate::event::EventKind;
use crate::evidence::Origin;
use crate::exchange::Exchange;
use crate::step::Flow;
use crate::store::local::SharedMap;
use crate::worker::Worker;
use crate::worker::exchanges::Act;
use crate::worker::host::{Action, Host, Side};

/// What the callbacks of one stream remember from one to the next.
#[derive(Debug)]
pub struct Stream {
    id: u32,
    /// Whether the head of the request was held.
    holds_head: bool,
    /// Bytes of the body that comes in now that were held when it was shown last; 0 if they were not.
    buffered_bytes: usize,
    /// Whether the exchange is over, and nothing is deferred for the stream.
    is_over: bool,
}

/// A piece of a request's body, or its end.
pub struct RequestBody<'a> {
    /// How many bytes the host has in hand.
    pub size: usize,
    /// Whether this is the end of the request.
    pub end: bool,
    /// Whether trailers stand at that end.
    pub trailers: bool,
    /// Reads so many of these bytes, from the first number on.
    pub read: &'a dyn Fn(usize, usize) -> Vec<u8>,
    /// What the host knows about the request.
    pub attribute: Attributes<'a>,
}

/// A piece of a response's body, or its end.
pub struct ResponseBody<'a> {
    /// How many bytes the host has in hand.
    pub size: usize,
    /// Whether this is the end of the response.
    pub end: bool,
    /// Reads all of these bytes.
    pub whole: &'a dyn Fn() -> Vec<u8>,
}

impl Stream {
    /// A stream of which nothing has come.
    pub fn new(id: u32) -> Self {
        Stream { id, holds_head: false, buffered_bytes: 0, is_over: false }
    }

    /// Its number, which is its exchange's too.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Bytes of the body that comes in now that were held when it was shown last.
    pub fn buffered_bytes(&self) -> usize {
        self.buffered_bytes
    }

    /// Whether its callbacks have nothing more to tell.
    pub fn is_over(&self) -> bool {
        self.is_over
    }
}

impl<C: SharedMap> Worker<C> {
    /// Begins an exchange with the head of its request.
    pub fn on_request_headers<H: Host>(
        &mut self,
        host: &mut H,
        stream: &mut Stream,
        exchange: Exchange,
        head: EventKind<'_>,
    ) -> Action {
        self.exchanges.begin(stream.id, exchange);
        let action = self.feed_head(host, stream, head);
        stream.holds_head = action == Action::Pause;
        action
    }

    /// More of a request's body has come, or its end.
    pub fn on_request_body<H: Host>(&mut self, host: &mut H, stream: &mut Stream, body: RequestBody<'_>) -> Action {
        if !self.exchange(stream.id).is_some_and(Exchange::awaits_request_body) {
            return Action::Continue;
        }
        if stream.holds_head {
            self.bodies.note_shown();
        }
        let RequestBody { size, end, trailers, read, attribute } = body;
        // While the body is held the host counts from its beginning; otherwise from this chunk's.
        let chunk = read(stream.buffered_bytes, size.saturating_sub(stream.buffered_bytes));
        let overloaded = self.is_overloaded();
        let kind = EventKind::RequestBody { attribute, chunk: &chunk, overloaded, end, trailers };
        self.feed_body(host, stream, kind, size)
    }

    /// The head of a response has come, from wherever; `head` is none where the host cannot show it.
    pub fn on_response_headers<H: Host>(
        &mut self,
        host: &mut H,
        stream: &mut Stream,
        head: Option<EventKind<'_>>,
    ) -> Action {
        stream.buffered_bytes = 0;
        head.map_or(Action::Continue, |head| self.feed_head(host, stream, head))
    }

    /// More of a response's body has come, or its end.
    pub fn on_response_body<H: Host>(&mut self, host: &mut H, stream: &mut Stream, body: ResponseBody<'_>) -> Action {
        let ResponseBody { size, end, whole } = body;
        // An answer of the filter's own, which nothing holds.
        if self.exchange(stream.id).is_some_and(Exchange::watches_response_body) {
            let kind = EventKind::ResponseBody { buffered_bytes: size as u64, whole, overloaded: false, end };
            return self.feed_body(host, stream, kind, size);
        }
        if !self.exchange(stream.id).is_some_and(Exchange::awaits_response_body) {
            if stream.buffered_bytes == 0 && !self.has_deferred(stream.id) {
                return Action::Continue;
            }
            // The root has let the response go in the middle of its body, or will in its next turn. Until releases of
            // August 2026 Envoy loses what goes straight on after that (envoyproxy/envoy#46841), so the rest goes by
            // way of the root as well.
            self.defer_resume(host, stream.id);
            stream.buffered_bytes = stream.buffered_bytes.max(size);
            return Action::Pause;
        }
        self.bodies.note_shown();
        let overloaded = self.is_overloaded();
        let kind = EventKind::ResponseBody { buffered_bytes: size as u64, whole, overloaded, end };
        self.feed_body(host, stream, kind, size)
    }

    /// The stream ends. Forgets what was deferred for it: Envoy keeps its context until the end of the turn, and crashes
    /// where a message of a stream that has ended is let go.
    pub fn stream_ends<H: Host>(&mut self, host: &mut H, stream: &Stream, origin: Origin<'_>, status: Option<u16>) {
        self.deferred.retain(|act| act.stream() != Some(stream.id));
        self.feed(host, stream.id, EventKind::Closed { origin, status });
    }

    /// Whether a message of this stream goes on, or is answered, in the root's next turn.
    pub fn has_deferred(&self, stream: u32) -> bool {
        self.deferred.iter().any(|act| matches!(act, Act::Flow { exchange, .. } if *exchange == stream))
    }

    /// Has the root let the held part of a response go in its next turn.
    fn defer_resume<H: Host>(&mut self, host: &mut H, stream: u32) {
        if !self.has_deferred(stream) {
            let flow = Flow::Resume(Vec::new());
            self.deferred.push_back(Act::Flow { exchange: stream, side: Side::Response, flow });
            self.wake_root(host);
        }
    }

    /// Feeds the head of a message, and searches for its body if it is held.
    fn feed_head<H: Host>(&mut self, host: &mut H, stream: &mut Stream, head: EventKind<'_>) -> Action {
        let (action, now_ms) = self.feed(host, stream.id, head);
        let awaits = |exchange: &Exchange| exchange.awaits_body().then(|| exchange.awaits_request_body());
        if !self.bodies.are_shown()
            && action == Action::Pause
            && let Some(is_request) = self.exchange(stream.id).and_then(awaits)
        {
            let request_size = is_request.then(|| host.request_size());
            self.bodies.note_held(stream.id, request_size, now_ms);
        }
        self.note_end(stream);
        action
    }

    fn feed_body<H: Host>(&mut self, host: &mut H, stream: &mut Stream, body: EventKind<'_>, size: usize) -> Action {
        let (action, _) = self.feed(host, stream.id, body);
        stream.buffered_bytes = if action == Action::Pause { size } else { 0 };
        self.note_end(stream);
        action
    }

    /// Once the exchange is over, the callbacks that are left need not come to the worker.
    fn note_end(&self, stream: &mut Stream) {
        stream.is_over = self.exchange(stream.id).is_none() && !self.has_deferred(stream.id);
    }
}
