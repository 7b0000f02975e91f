//! The one place that knows Envoy: callbacks go to the worker, its acts become host calls.
//!
//! Its one rule: it decides nothing about idempotency.
//! It does not know what a key or a record is.

mod abi;

mod host;

mod calls;

mod streams;

mod way;

mod acts;

mod plugin;

mod heirs;

mod stream;

mod framing;

mod root;

mod entry;
