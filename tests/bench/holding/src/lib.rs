//! A filter that holds every message back until it is whole, and does nothing else: the least that a filter costs which
//! has to know a request before it lets it go, and to have kept its response before it passes that on.
//!
//! Its one rule: it asks the host for nothing, not even for what it holds.
//! It does not know why anybody would want it: `make bench` tells the price of our work from the price of waiting for it.
#![cfg(target_arch = "wasm32")]

use proxy_wasm::traits::{Context, HttpContext};
use proxy_wasm::types::Action;

struct Holding;

impl Context for Holding {}

impl HttpContext for Holding {
    fn on_http_request_headers(&mut self, _count: usize, end: bool) -> Action {
        hold_until(end)
    }

    fn on_http_request_body(&mut self, _size: usize, end: bool) -> Action {
        hold_until(end)
    }

    fn on_http_response_headers(&mut self, _count: usize, end: bool) -> Action {
        hold_until(end)
    }

    fn on_http_response_body(&mut self, _size: usize, end: bool) -> Action {
        hold_until(end)
    }
}

fn hold_until(end: bool) -> Action {
    if end { Action::Continue } else { Action::Pause }
}

proxy_wasm::main! {{
    proxy_wasm::set_http_context(|_, _| Box::new(Holding));
}}
