//! What keeps the records: the rules they live by, the embedded store, and the client of one that is asked by messages.
//!
//! Its one rule: every store answers as [`model::apply`] does.
//! It does not know the exchange, nor the host.

pub mod model;

pub mod local;

pub mod client;
