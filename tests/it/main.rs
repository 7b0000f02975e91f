//! Everything that can be checked without Envoy, as one binary.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test that fails panics"
)]

mod cache;
mod client;
mod config;
mod evidence;
mod gateways;
mod golden;
mod issued;
mod json;
mod local;
mod locks;
mod manifests;
mod metrics;
mod model;
mod names;
mod operator;
mod past_a_lock;
mod redis;
mod resolution;
mod resp;
mod schema;
mod seal;
mod similar;
mod sizing;
mod table;
mod tables;
mod tidy;
mod turns;
mod webdis;
mod wire;
mod worker;
