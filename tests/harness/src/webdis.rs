//! Real Webdis, the HTTP server in front of Redis.
//!
//! One rule: it is Debian's 0.1.9 on purpose. That version hands a client that has gone the next client's reply, and
//! whatever tests promise, they promise it with that.
//! It does not know what is asked of Redis.

use std::fs;
use std::net::{SocketAddr, TcpStream};
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
    running: Mutex<Running>,
    // Dropped after the process has ended.
    port: Port,
    folder: TempDir,
}

#[derive(Debug)]
struct Running {
    process: Process,
    redis: SocketAddr,
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
        let process = launch(&folder, &port, redis)?;
        Ok(Webdis { running: Mutex::new(Running { process, redis }), port, folder })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.port.addr()
    }

    /// Everything it has logged.
    pub fn log(&self) -> String {
        self.running().process.log()
    }

    /// Its process id.
    pub fn process_id(&self) -> u32 {
        self.running().process.id()
    }

    /// Ends it with SIGKILL, as a crash would.
    pub fn kill(&self) {
        self.running().process.kill();
    }

    /// Stops it in its tracks (SIGSTOP): connections stay, nothing is answered.
    pub fn freeze(&self) {
        self.running().process.freeze();
    }

    /// Lets it go on after [`freeze`](Webdis::freeze).
    pub fn thaw(&self) {
        self.running().process.thaw();
    }

    /// Starts it again on the same port, if need be after ending it with SIGKILL.
    #[track_caller]
    pub fn restart(&self) {
        let redis = self.running().redis;
        self.turn_to(redis);
    }

    /// As [`restart`](Webdis::restart) in front of another Redis, as after a failover.
    #[track_caller]
    pub fn turn_to(&self, redis: SocketAddr) {
        let mut running = self.running();
        running.process.kill();
        let process = launch(&self.folder, &self.port, redis).unwrap_or_else(|message| panic!("{message}"));
        *running = Running { process, redis };
    }

    fn running(&self) -> MutexGuard<'_, Running> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn configure(folder: &TempDir, port: &Port, redis: SocketAddr) -> Result<(), String> {
    let file = folder.path().join(CONFIGURATION);
    let configuration = json!({
        "redis_host": redis.ip().to_string(),
        "redis_port": redis.port(),
        "http_host": port.addr().ip().to_string(),
        "http_port": port.number(),
        "threads": THREADS,
        "pool_size": CONNECTIONS,
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

/// Starts Webdis and returns when it answers, and where there is a Redis, when all its connections have found it.
fn launch(folder: &TempDir, port: &Port, redis: SocketAddr) -> Result<Process, String> {
    configure(folder, port, redis)?;
    let mut command = Command::new("webdis");
    command.arg(folder.path().join(CONFIGURATION)).current_dir(folder.path());
    let process = Process::start("Webdis", command, &folder.path().join("webdis.log"))
        .map_err(|error| format!("webdis cannot be started ({error}): `make test` installs it."))?;
    let wanted = if TcpStream::connect(redis).is_ok() { 200 } else { 503 };
    // Connections take turns.
    let mut left = THREADS * CONNECTIONS;
    wait_for("Webdis answers", PATIENCE, || {
        if let Some(status) = process.ended() {
            return Some(Err(format!("Webdis did not start ({status}). Its log ends:\n{}", tail(&process.log()))));
        }
        while left > 0 && Request::new(port.addr(), "GET", "/PING.raw").try_send().ok()?.status == wanted {
            left -= 1;
        }
        (left == 0).then_some(Ok(()))
    })??;
    Ok(process)
}

const THREADS: usize = 2;
/// Of each thread, to Redis.
const CONNECTIONS: usize = 8;
const CONFIGURATION: &str = "webdis.json";
