//! What the fuzzer feeds the filter: a function for each target that takes any bytes and panics where a promise is broken.
//!
//! Its one rule: a target asserts what is promised of all inputs, not only that nothing panics.
//! It does not know who chooses the bytes: libFuzzer under `make fuzz`, the checked-in seeds in every test run.

pub mod choices;

/// The client's key.
pub mod key;

/// Keys in bodies.
pub mod body;

/// Canonical JSON.
pub mod json;

/// The operator's document.
pub mod config;

/// What is stored.
pub mod record;

/// What a store answers.
pub mod reply;

/// What comes on a stream from one.
pub mod resp;

/// The machine, fed whatever can be fed in any order.
pub mod exchange;

/// A worker between a host that keeps the rules and a store that answers as it likes.
pub mod gateway;

/// A target: it takes any bytes, and panics where a promise is broken.
pub type Target = fn(&[u8]);

/// All of them, by the names of their programs and of their folders of seeds.
pub const TARGETS: [(&str, Target); 9] = [
    ("body", body::hold),
    ("config", config::hold),
    ("exchange", exchange::hold),
    ("gateway", gateway::hold),
    ("json", json::hold),
    ("key", key::hold),
    ("record", record::hold),
    ("reply", reply::hold),
    ("resp", resp::hold),
];
