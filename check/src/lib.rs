//! What check-config knows of a configuration, for it and for the other programs that read one.
//!
//! Its one rule: a document is judged by the filter's own parser, so what is accepted here is accepted there.
//! It does not start Envoy, and asks nothing of the network.
#![expect(clippy::indexing_slicing, reason = "only JSON is indexed, by names: what is not there is null")]

mod bootstrap;
mod breakers;
mod certificates;
mod clients;
mod credentials;
mod deeds;
mod describe;
mod errors;
mod identity;
mod injectors;
pub mod input;
mod issuers;
mod istio;
mod keeper;
mod lint;
pub mod locate;
mod metadata;
mod mutations;
mod operators;
pub mod report;
pub mod request;
mod requirements;
mod running;
mod scope;
mod shielding;
pub mod shown;
mod sources;
mod streams;
mod tokens;
mod told;
pub mod trace;
mod verification;
mod wanted;
mod ways;
