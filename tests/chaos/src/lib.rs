//! Chaos: real Envoys, Redis, Webdis and a service under load, broken in many ways, and a judge of what came out.
//!
//! One rule: the judge believes the ledger of the service and what clients were told, never a gateway or a store.
//! It does not know how the filter is built.
//!
//! ```text
//! traffic ──▶ 2 Envoys ──▶ Interposer ──▶ upstream, which keeps the ledger
//!                 ├──▶ its Unix domain socket, and its HTTP/2 port
//!                 ╰──▶ Interposer ──▶ Redis, or Webdis and Redis ──▶ replica
//!
//! classes ──▶ scene, which breaks and heals all of them and notes what that may excuse
//! history ──▶ checker ──▶ table
//! ```

/// The judge.
pub mod checker;
/// The fault classes, one row each.
pub mod classes;
/// The clock that all processes share.
pub mod clock;
/// What clients sent and were told, what the ledger says, and when faults may excuse something.
pub mod history;
/// The service's face on HTTP/2.
pub mod http2;
/// Numbers from a seed.
/// One world after the other, from the first injection to the judgement.
pub mod run;
/// One world under load, and the hands that break it.
pub mod scene;
/// What was injected and came of it, as a person reads it.
pub mod table;
/// The clients.
pub mod traffic;
/// The service and its ledger, a process of its own.
pub mod upstream;
/// Everything that runs.
pub mod world;
