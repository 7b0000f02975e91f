//! One stream, as Envoy calls it.
//!
//! Its one rule: a callback is handed to the worker, and the answer is whether the message goes on.
//! It does not know what the worker makes of it. A stream that no rule matched costs one look at a flag a callback.

use std::cell::RefCell;
use std::rc::Rc;

use proxy_wasm::traits::{Context, HttpContext};
use proxy_wasm::types::Action;

use crate::event::{EventKind, Origin, VIA_UPSTREAM};
use crate::shell::host::{self, Buffer, Map};
use crate::shell::plugin::{Plugin, status};
use crate::worker::{self, RequestBody, ResponseBody, Stream};

/// One HTTP stream, as the SDK has it.
pub struct HttpStream {
    stream: Stream,
    /// None once the exchange is over, where no rule has matched, and where the root is not configured.
    plugin: Option<Rc<RefCell<Plugin>>>,
}

impl HttpStream {
    /// A stream of this plugin; none where the root is not configured.
    pub fn new(id: u32, plugin: Option<Rc<RefCell<Plugin>>>) -> Self {
        HttpStream { stream: Stream::new(id), plugin }
    }

    /// Once the exchange is over, the callbacks that are left cost nothing.
    fn answer(&mut self, action: worker::Action) -> Action {
        if self.stream.is_over() {
            self.plugin = None;
        }
        action.into()
    }

    fn request_body(&mut self, size: usize, end: bool, trailers: bool) -> Action {
        let Some(plugin) = &self.plugin else { return Action::Continue };
        let read = |from, len| host::buffer(Buffer::RequestBody, from, len);
        let body = RequestBody { size, end, trailers, read: &read, attribute: &host::property };
        let action = {
            let Plugin { worker, envoy, .. } = &mut *plugin.borrow_mut();
            worker.on_request_body(envoy, &mut self.stream, body)
        };
        self.answer(action)
    }

    fn response_body(&mut self, size: usize, end: bool) -> Action {
        let Some(plugin) = &self.plugin else { return Action::Continue };
        let body = ResponseBody { size, end, whole: &|| host::buffer(Buffer::ResponseBody, 0, size) };
        let action = {
            let Plugin { worker, envoy, .. } = &mut *plugin.borrow_mut();
            worker.on_response_body(envoy, &mut self.stream, body)
        };
        self.answer(action)
    }
}

impl Context for HttpStream {
    /// The stream ends. Envoy asks every context this; `on_log` would tell no more, and be one more callback.
    fn on_done(&mut self) -> bool {
        let Some(plugin) = self.plugin.take() else { return true };
        let details = details();
        let Plugin { worker, envoy, .. } = &mut *plugin.borrow_mut();
        worker.stream_ends(envoy, &self.stream, origin(&details));
        true
    }
}

impl HttpContext for HttpStream {
    fn on_http_request_headers(&mut self, _count: usize, end: bool) -> Action {
        let Some(plugin) = &self.plugin else { return Action::Continue };
        let action = plugin.borrow_mut().begin(&mut self.stream, end);
        let Some(action) = action else {
            self.plugin = None;
            return Action::Continue;
        };
        self.answer(action)
    }

    fn on_http_request_body(&mut self, size: usize, end: bool) -> Action {
        self.request_body(size, end, false)
    }

    fn on_http_request_trailers(&mut self, _count: usize) -> Action {
        self.request_body(self.stream.buffered_bytes(), true, true)
    }

    fn on_http_response_headers(&mut self, _count: usize, end: bool) -> Action {
        let Some(plugin) = &self.plugin else { return Action::Continue };
        let headers = host::headers(Map::Response);
        let details = details();
        let head = headers.as_ref().map(|headers| EventKind::ResponseHeaders {
            headers,
            status: status(headers).unwrap_or(0),
            origin: origin(&details),
            end,
        });
        let action = {
            let Plugin { worker, envoy, .. } = &mut *plugin.borrow_mut();
            worker.on_response_headers(envoy, &mut self.stream, head)
        };
        self.answer(action)
    }

    fn on_http_response_body(&mut self, size: usize, end: bool) -> Action {
        self.response_body(size, end)
    }

    fn on_http_response_trailers(&mut self, _count: usize) -> Action {
        self.response_body(self.stream.buffered_bytes(), true)
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
