//! What stands in for Envoy in native tests: its shared data, and numbers from a seed.
//!
//! One rule: whatever a test, the simulator, the fuzzers and the chaos need of these is here once.
//! It does not know what is tested.

pub mod random;
pub mod shared_data;

pub use random::Random;
pub use shared_data::{Access, Fault, SharedData};
