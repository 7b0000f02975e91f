//! Everything that can be checked without Envoy, as one binary.

mod config;
mod table;
