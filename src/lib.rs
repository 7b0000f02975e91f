//! Makes any HTTP API behind Envoy safe to retry.
//!
//! A client sends `Idempotency-Key`; the filter claims the operation in a store, lets one attempt through, and answers
//! every retry from what came back.
//!
//! ```text
//!  Envoy ──callback──▶ shell ──▶ worker ──Event──▶ exchange ──Step──▶ worker ──act──▶ shell ──host call──▶ Envoy
//!                        │                            │                │
//!                      clock,                  config, key,          store
//!                   randomness             fingerprint, record,  (model, local)
//!                                                 reply
//! ```
//!
//! Everything but `shell` is pure: no clock, no randomness, no host. The modules are listed in reading order, and a
//! module uses only those above itself, `shell` excepted.

#![deny(unsafe_code, missing_docs, clippy::too_many_lines)]

pub mod mutant;

pub mod by_id;

pub mod message;

pub mod json;

pub mod form;

pub mod refusal;

pub mod authorization;

pub mod credential;

pub mod digest;

pub mod config;

pub mod caller;

pub mod key;

pub mod issued;

pub mod fingerprint;

pub mod record;

pub mod lock;

pub mod similar;

pub mod seal;

mod failure;

pub mod command;

pub mod reply;

pub mod count;

pub mod evidence;

pub mod event;

pub mod step;

pub mod operator;

pub mod exchange;

pub mod look_up;

pub mod store;

pub mod worker;

pub mod framing;

#[cfg(target_arch = "wasm32")]
mod shell;

/// The version of the filter.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
