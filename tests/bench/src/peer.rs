//! The peer: `idempotent-proxy-server`, the published proxy of the same purpose, which speaks to Redis itself.
//!
//! One rule: it runs as it is published and logs nothing, as the gateways beside it do.
//! It does not know who measures it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use harness::process::{Process, tail};
use harness::{PATIENCE, Port, Request, wait_for};
use tempfile::TempDir;

use crate::machine::workers;

/// A running peer.
#[derive(Debug)]
pub struct Peer {
    process: Process,
    // Dropped after the process has ended.
    port: Port,
    _folder: TempDir,
}

impl Peer {
    /// Starts it in front of an upstream, and returns when it answers. It serves [`PATH`] alone.
    pub fn start(upstream: SocketAddr, redis: SocketAddr) -> Result<Peer, String> {
        let folder = TempDir::with_prefix("envoy-idempotency-peer-")
            .map_err(|error| format!("No temporary folder: {error}."))?;
        // It does not start without this file, even when the file says nothing.
        std::fs::write(folder.path().join(".env"), "").map_err(|error| format!("No .env for the peer: {error}."))?;
        let (port, binary) = (Port::unshared(), binary());
        let mut command = Command::new(&binary);
        command.current_dir(folder.path()).env("LOG", "error");
        command.env("SERVER_ADDR", port.addr().to_string()).env("REDIS_URL", format!("redis://{redis}"));
        command.env(&PATH[1..], format!("http://{upstream}{PATH}"));
        command.env("REQUEST_TIMEOUT", (1000 * TTL_S).to_string());
        command.env("TOKIO_WORKER_THREADS", workers().to_string());
        let process = Process::start("the peer", command, &folder.path().join("peer.log"))
            .map_err(|error| format!("{} cannot be started ({error}): `make bench` builds it.", binary.display()))?;
        wait_for("the peer answers", PATIENCE, || match process.ended() {
            Some(status) => Some(Err(format!("The peer did not start ({status}). {}", tail(&process.log())))),
            // Without a key it refuses.
            None => Request::new(port.addr(), "GET", PATH).try_send().ok().map(|_| Ok(())),
        })??;
        Ok(Peer { process, port, _folder: folder })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.port.addr()
    }

    /// Its process id.
    pub fn process_id(&self) -> u32 {
        self.process.id()
    }

    /// Everything it has logged.
    pub fn log(&self) -> String {
        self.process.log()
    }
}

/// `PEER_BIN`, otherwise where `make` puts it.
fn binary() -> PathBuf {
    let built =
        || harness::gateway::repository().join(".cache/idempotent-proxy-server-1.2.2/bin/idempotent-proxy-server");
    std::env::var_os("PEER_BIN").map_or_else(built, PathBuf::from)
}

/// It takes an upstream's URL from the variable that the path names.
pub const PATH: &str = "/URL_PAYMENTS";

/// How long its records live: as long as a request may take.
pub const TTL_S: u64 = 10;
