//! A filter that does nothing: the least that any filter on this SDK costs.
//!
//! Its one rule: every callback is the SDK's default, and the module is built as the real one is.
//! It does not know why anybody would want it: `make bench` tells the price of our code from the price of the host.
#![cfg(target_arch = "wasm32")]

use proxy_wasm::traits::{Context, HttpContext};

struct Empty;

impl Context for Empty {}

impl HttpContext for Empty {}

proxy_wasm::main! {{
    proxy_wasm::set_http_context(|_, _| Box::new(Empty));
}}
