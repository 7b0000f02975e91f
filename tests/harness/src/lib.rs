//! The harness of the end-to-end tests: real Envoy, the ledger upstream behind it, and clients that can send anything.
//!
//! One rule: the gateway that is tested is the file that is shipped (`envoy/local.yaml`), changed in as few places
//! as a test needs. It does not know what the filter should answer: that is for the tests to say.
//!
//! ```text
//! client::Request ──▶ Gateway (Envoy + filter) ──▶ Ledger
//!        bytes            envoy/local.yaml           remembers every execution
//! ```
//!
//! A test reads:
//!
//! ```no_run
//! use harness::World;
//! use serde_json::json;
//!
//! let world = World::start(json!({}));
//! let pay = world.post("/v1/payments").key("k1").body(r#"{"amount":10}"#);
//! let first = pay.send();
//! let again = pay.send();
//! assert_eq!((first.status, again.status), (201, 201));
//! assert_eq!(world.ledger.entries().len(), 1);
//! ```

use serde_json::Value;

pub mod client;
pub mod gateway;
mod http2;
pub mod ledger;
pub mod ports;
pub mod process;
pub mod wait;

pub use client::{Connection, Request, Response, send_all};
pub use gateway::{Gateway, Options};
pub use ledger::{Entry, Ledger};
pub use ports::Port;
pub use wait::{PATIENCE, wait_for, wait_until};

/// A gateway with the ledger behind it: what most tests need.
#[derive(Debug)]
pub struct World {
    // Ends first, so that it logs no complaints about its upstream.
    /// Real Envoy with the filter.
    pub gateway: Gateway,
    /// The service behind it.
    pub ledger: Ledger,
}

impl World {
    /// Starts both, the filter with this plugin configuration.
    #[track_caller]
    pub fn start(configuration: Value) -> World {
        World::with(configuration, |options| options)
    }

    /// Starts both, with more to say about the gateway: `World::with(json!({}), |o| o.lds())`.
    #[track_caller]
    pub fn with(configuration: Value, change: impl FnOnce(Options) -> Options) -> World {
        let ledger = Ledger::start();
        let gateway = Gateway::start(change(Options::new(ledger.addr()).configuration(configuration)));
        World { gateway, ledger }
    }

    /// A POST to the gateway.
    pub fn post(&self, path: &str) -> Request {
        self.request("POST", path)
    }

    /// Any request to the gateway.
    pub fn request(&self, method: &str, path: &str) -> Request {
        Request::new(self.gateway.addr(), method, path)
    }
}
