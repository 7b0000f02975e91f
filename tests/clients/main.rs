//! Clients as people have them, on real Envoy: libraries with their own retries, and a browser.
//!
//! Its one rule: a client is played as it comes, and what counts is what the service executed and what the client got to
//! see. `make clients` installs the clients and runs this.
//! It does not know how the filter is built.
#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests measure real time, and a panic is how they fail"
)]

/// A browser, and a person at it.
mod browser;
/// The presets, with the libraries that come through their doors.
mod doors;
/// Libraries of Python and Node that repeat by themselves.
mod libraries;
/// Clients of Go and Java, byte for byte.
mod played;
/// The gateways, the faults before them, and how a client is run.
mod scene;
