//! One stream: a door into the exchange that the root holds for it.
//!
//! Its one rule: a callback becomes one event, and the answer is whether the message goes on.
//! It does not know what the exchange makes of it. A stream that no rule matched costs one look at a flag a callback.

use std::cell::RefCell;
use std::rc::Rc;

use proxy_wasm::traits::{Context, HttpContext};
use proxy_wasm::types::Action;

use crate::event::{Event, EventKind, Origin, VIA_UPSTREAM};
use crate::shell::host::{self, Buffer, Map};
use crate::shell::root::{Worker, status};

/// One HTTP stream, as the SDK has it.
pub struct Door {
    id: u32,
    /// None once nothing can come of the exchange, or where no rule has matched.
    worker: Option<Rc<RefCell<Worker>>>,
    /// Whether the head of the request is held.
    is_held: bool,
    /// Bytes of the body that comes in now that were held when it was shown last; 0 if they were not.
    held: usize,
}

impl Door {
    /// A door to the root's exchanges; none where the root is not configured.
    pub fn new(id: u32, worker: Option<Rc<RefCell<Worker>>>) -> Self {
        Door { id, worker, is_held: false, held: 0 }
    }

    /// Once nothing can come of the exchange, the callbacks that are left cost nothing.
    fn leave_if_done(&mut self) {
        let Some(worker) = &self.worker else { return };
        let is_done = |worker: &Worker| worker.exchange(self.id).is_none() && !worker.is_put_off(self.id);
        if is_done(&worker.borrow()) {
            self.worker = None;
        }
    }

    fn request_body(&mut self, size: usize, end: bool, trailers: bool) -> Action {
        let Some(worker) = &self.worker else { return Action::Continue };
        let mut worker = worker.borrow_mut();
        if !worker.exchange(self.id).is_some_and(|exchange| exchange.awaits_request_body()) {
            return Action::Continue;
        }
        if self.is_held {
            worker.body_was_shown();
        }
        // While the body is held the host counts from its beginning; otherwise from this chunk's.
        let chunk = host::buffer(Buffer::RequestBody, self.held, size.saturating_sub(self.held));
        let (now_ms, crowded) = (host::monotonic_ms(), worker.is_crowded());
        let action = worker.feed(
            self.id,
            Event {
                now_ms,
                kind: EventKind::RequestBody { attribute: &host::property, chunk: &chunk, crowded, end, trailers },
            },
            now_ms,
        );
        drop(worker);
        self.held = if action == Action::Pause { size } else { 0 };
        self.leave_if_done();
        action
    }

    fn response_body(&mut self, size: usize, end: bool) -> Action {
        let Some(worker) = &self.worker else { return Action::Continue };
        let mut worker = worker.borrow_mut();
        if !worker.exchange(self.id).is_some_and(|exchange| exchange.awaits_response_body()) {
            if self.held == 0 && !worker.is_put_off(self.id) {
                return Action::Continue;
            }
            // The root has let the response go in the middle of its body, or will in its next turn. Until releases of
            // August 2026 Envoy loses what goes straight on after that (envoyproxy/envoy#46841), so the rest goes by
            // way of the root as well.
            worker.let_go_later(self.id);
            self.held = self.held.max(size);
            return Action::Pause;
        }
        worker.body_was_shown();
        let (now_ms, held, crowded) = (host::monotonic_ms(), size as u64, worker.is_crowded());
        let whole = || host::buffer(Buffer::ResponseBody, 0, size);
        let event = Event { now_ms, kind: EventKind::ResponseBody { held, whole: &whole, crowded, end } };
        let action = worker.feed(self.id, event, now_ms);
        drop(worker);
        self.leave_if_done();
        self.held = if action == Action::Pause { size } else { 0 };
        action
    }
}

impl Context for Door {
    /// The stream ends. Envoy asks every context this; `on_log` would tell no more, and be one more callback.
    fn on_done(&mut self) -> bool {
        let Some(worker) = self.worker.take() else { return true };
        let details = details();
        let now_ms = host::monotonic_ms();
        let mut worker = worker.borrow_mut();
        worker.stream_ends(self.id);
        worker.feed(self.id, Event { now_ms, kind: EventKind::Closed { origin: origin(&details) } }, now_ms);
        true
    }
}

impl HttpContext for Door {
    fn on_http_request_headers(&mut self, _count: usize, end: bool) -> Action {
        let Some(worker) = &self.worker else { return Action::Continue };
        let action = worker.borrow_mut().begin(self.id, end);
        let Some(action) = action else {
            self.worker = None;
            return Action::Continue;
        };
        self.is_held = action == Action::Pause;
        self.leave_if_done();
        action
    }

    fn on_http_request_body(&mut self, size: usize, end: bool) -> Action {
        self.request_body(size, end, false)
    }

    fn on_http_request_trailers(&mut self, _count: usize) -> Action {
        self.request_body(self.held, true, true)
    }

    fn on_http_response_headers(&mut self, _count: usize, end: bool) -> Action {
        let Some(worker) = &self.worker else { return Action::Continue };
        self.held = 0;
        let Some(headers) = host::headers(Map::Response) else { return Action::Continue };
        let details = details();
        let now_ms = host::monotonic_ms();
        let event = Event {
            now_ms,
            kind: EventKind::ResponseHeaders {
                headers: &headers,
                status: status(&headers).unwrap_or(0),
                origin: origin(&details),
                end,
            },
        };
        let action = worker.borrow_mut().feed_head(self.id, event, now_ms);
        self.leave_if_done();
        action
    }

    fn on_http_response_body(&mut self, size: usize, end: bool) -> Action {
        self.response_body(size, end)
    }

    fn on_http_response_trailers(&mut self, _count: usize) -> Action {
        self.response_body(self.held, true)
    }
}

fn details() -> Vec<u8> {
    host::property(&["response", "code_details"]).unwrap_or_default()
}

/// The host's account of the response or of the ending.
fn origin(details: &[u8]) -> Origin<'_> {
    // What came from an upstream came over a connection; every question to the host costs.
    let connected = details == VIA_UPSTREAM
        || host::property(&["upstream", "local_address"]).is_some_and(|address| !address.is_empty());
    Origin { details, attempts: host::number(&["upstream", "request_attempt_count"]), connected }
}
