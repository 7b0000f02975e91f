//! What keeps the records: the rules they live by, and the embedded store.
//!
//! Its one rule: every store answers as [`model::apply`] does.
//! It does not know the exchange, nor the host.

pub mod model;

pub mod local;
