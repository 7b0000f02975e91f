//! The simulator: gateways as they are, in a world that does to them whatever can be done, from one seed.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test that fails panics"
)]

mod coverage;
mod crowds;
mod embedded;
mod oracle;
mod plan;
mod seeds;
mod store;
mod stories;
mod wire;
mod world;
