//! One stream, as Envoy calls it.
//!
//! Its one rule: a callback is handed to the worker, and the answer is whether the message goes on.
//! It does not know what the worker makes of it. A stream that no rule matched costs one look at a flag a callback.

use std::cell::RefCell;
use std::rc::Rc;

use crate::event::EventKind;
use crate::evidence::{Origin, VIA_UPSTREAM};
use crate::reply::DETAILS;
use crate::shell::host::{self, Buffer, Map};
use crate::shell::plugin::{Plugin, status};
use crate::worker::{Action, RequestBody, ResponseBody, Stream};

/// One HTTP stream.
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
    fn answer(&mut self, action: Action) -> Action {
        if self.stream.is_over() {
            self.plugin = None;
        }
        action
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

    /// The stream ends. Envoy asks every context this; `on_log` would tell no more, and be one more callback.
    pub fn on_done(&mut self) {
        let Some(plugin) = self.plugin.take() else { return };
        let report = UpstreamReport::read();
        let status = if report.is_certain() { None } else { host::number(&["response", "code"]) };
        let Plugin { worker, envoy, .. } = &mut *plugin.borrow_mut();
        worker.stream_ends(envoy, &self.stream, report.origin(), status.and_then(|code| code.try_into().ok()));
    }

    /// The head of the request.
    pub fn on_request_headers(&mut self, end: bool) -> Action {
        let Some(plugin) = &self.plugin else { return Action::Continue };
        let action = plugin.borrow_mut().begin(&mut self.stream, end);
        let Some(action) = action else {
            self.plugin = None;
            return Action::Continue;
        };
        self.answer(action)
    }

    /// A piece of the request's body, behind those that are held.
    pub fn on_request_body(&mut self, size: usize, end: bool) -> Action {
        self.request_body(size, end, false)
    }

    /// The end of a request with trailers.
    pub fn on_request_trailers(&mut self) -> Action {
        self.request_body(self.stream.buffered_bytes(), true, true)
    }

    /// The head of the response.
    pub fn on_response_headers(&mut self, end: bool) -> Action {
        let Some(plugin) = &self.plugin else { return Action::Continue };
        let headers = host::headers(Map::Response);
        let is_ours = headers.as_ref().is_some_and(|headers| {
            let plugin = plugin.borrow();
            plugin.worker.exchange(self.stream.id()).is_some_and(|exchange| exchange.has_answered(headers))
        });
        let report = if is_ours { UpstreamReport::of_ours() } else { UpstreamReport::read() };
        let head = headers.as_ref().map(|headers| EventKind::ResponseHeaders {
            headers,
            status: status(headers).unwrap_or(0),
            origin: report.origin(),
            end,
        });
        let action = {
            let Plugin { worker, envoy, .. } = &mut *plugin.borrow_mut();
            worker.on_response_headers(envoy, &mut self.stream, head)
        };
        self.answer(action)
    }

    /// A piece of the response's body, behind those that are held.
    pub fn on_response_body(&mut self, size: usize, end: bool) -> Action {
        self.response_body(size, end)
    }

    /// The end of a response with trailers.
    pub fn on_response_trailers(&mut self) -> Action {
        self.response_body(self.stream.buffered_bytes(), true)
    }
}

/// The host's report of a response or of an ending.
struct UpstreamReport {
    details: Vec<u8>,
    attempts: Option<u64>,
    flags: u64,
    owner: Option<Vec<u8>>,
}

impl UpstreamReport {
    /// Of an answer that this filter has given.
    fn of_ours() -> Self {
        UpstreamReport { details: DETAILS.into(), attempts: None, flags: 0, owner: None }
    }

    fn read() -> Self {
        let details = host::property(&["response", "code_details"]).unwrap_or_default();
        let mut report = UpstreamReport { details, attempts: None, flags: 0, owner: None };
        // Every question to the host costs.
        if !report.is_ours() {
            report.attempts = host::number(&["upstream", "request_attempt_count"]);
        }
        if !report.is_certain() {
            report.flags = host::number(&["response", "flags"]).unwrap_or(0);
            report.owner = host::property(&["filter_state", LOCAL_REPLY_OWNER]);
        }
        report
    }

    /// Whether the details alone tell who has answered.
    fn is_certain(&self) -> bool {
        self.details == VIA_UPSTREAM || self.is_ours()
    }

    fn is_ours(&self) -> bool {
        self.details.starts_with(DETAILS.as_bytes())
    }

    fn origin(&self) -> Origin<'_> {
        let UpstreamReport { details, attempts, flags, owner } = self;
        Origin { details, attempts: *attempts, flags: *flags, sent: None, owner: owner.as_deref() }
    }
}

/// Where Envoy notes which filter of the chain has answered.
const LOCAL_REPLY_OWNER: &str = "envoy.filters.network.http_connection_manager.local_reply_owner";
