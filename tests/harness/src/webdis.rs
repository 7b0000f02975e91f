//! Real Webdis, the HTTP server in front of Redis.
//!
//! One rule: it is Debian's 0.1.9 on purpose. That version hands a client that has gone the next client's reply, and
//! whatever tests promise, they promise it with that.
//! It does not know what is asked of Redis.

use std::fs;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::json;
use tempfile::TempDir;

use crate::client::Request;
use crate::ports::Port;
use crate::process::{Process, tail};
use crate::wait::{PATIENCE, wait_for};

/// A running `webdis`.
#[derive(Debug)]
pub struct Webdis {
    process: Mutex<Process>,
    // Dropped after the process has ended.
    port: Port,
    folder: TempDir,
}

impl Webdis {
    /// Starts one in front of a Redis.
    #[track_caller]
    pub fn start(redis: SocketAddr) -> Webdis {
        Webdis::try_start(redis).unwrap_or_else(|message| panic!("{message}"))
    }

    /// As [`start`](Webdis::start), with a sentence and the log when it does not start.
    pub fn try_start(redis: SocketAddr) -> Result<Webdis, String> {
        let folder = TempDir::with_prefix("envoy-idempotency-webdis-")
            .map_err(|error| format!("No temporary folder: {error}."))?;
        let port = Port::unshared();
        configure(&folder, &port, redis)?;
        let process = launch(&folder, &port)?;
        Ok(Webdis { process: Mutex::new(process), port, folder })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.port.addr()
    }

    /// Ends it with SIGKILL, as a crash would.
    pub fn kill(&self) {
        self.process().kill();
    }

    /// Starts it again on the same port, if need be after ending it with SIGKILL.
    #[track_caller]
    pub fn restart(&self) {
        let mut process = self.process();
        process.kill();
        *process = launch(&self.folder, &self.port).unwrap_or_else(|message| panic!("{message}"));
    }

    /// Starts it again in front of another Redis, as after a failover.
    #[track_caller]
    pub fn turn_to(&self, redis: SocketAddr) {
        configure(&self.folder, &self.port, redis).unwrap_or_else(|message| panic!("{message}"));
        self.restart();
    }

    fn process(&self) -> MutexGuard<'_, Process> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn configure(folder: &TempDir, port: &Port, redis: SocketAddr) -> Result<(), String> {
    let file = folder.path().join(CONFIGURATION);
    let configuration = json!({
        "redis_host": redis.ip().to_string(),
        "redis_port": redis.port(),
        "http_host": port.addr().ip().to_string(),
        "http_port": port.number(),
        "threads": 2,
        "pool_size": 8,
        "daemonize": false,
        "database": 0,
        // Two objects, because inside one of them `disabled` wins.
        "acl": [{ "disabled": ["*"] }, { "enabled": ["EVAL", "EVALSHA", "PING"] }],
        "verbosity": 3,
        "logfile": folder.path().join("webdis.log"),
    });
    fs::write(&file, configuration.to_string())
        .map_err(|error| format!("{} cannot be written: {error}.", file.display()))
}

fn launch(folder: &TempDir, port: &Port) -> Result<Process, String> {
    let mut command = Command::new("webdis");
    command.arg(folder.path().join(CONFIGURATION)).current_dir(folder.path());
    let process = Process::start("Webdis", command, &folder.path().join("webdis.log"))
        .map_err(|error| format!("webdis cannot be started ({error}): `make test` installs it."))?;
    // Any answer will do: Redis may be down.
    wait_for("Webdis answers", PATIENCE, || match process.ended() {
        Some(status) => Some(Err(format!("Webdis did not start ({status}). Its log ends:\n{}", tail(&process.log())))),
        None => Request::new(port.addr(), "GET", "/PING.raw").try_send().ok().map(|_| Ok(())),
    })??;
    Ok(process)
}

const CONFIGURATION: &str = "webdis.json";
