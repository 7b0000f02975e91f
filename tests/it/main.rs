//! Everything that can be checked without Envoy, as one binary.

mod config;
mod gateways;
mod local;
mod model;
mod names;
mod table;
mod tidy;
mod wire;
