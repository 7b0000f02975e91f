//! Real Redis, or what `REDIS_SERVER` names in its place.
//!
//! One rule: it keeps its port and its folder for as long as its guard lives, so it can crash and come back.
//! It does not know what is stored in it.

use std::net::SocketAddr;
use std::process::Command;
use std::sync::Mutex;
use std::time::Duration;

use tempfile::TempDir;

use crate::ports::Port;
use crate::process::{Process, tail};
use crate::resp::{self, Reply};
use crate::wait::{PATIENCE, wait_for, wait_until};

/// Arguments of a Redis that never loses what it has acknowledged.
pub const DURABLE: [&str; 4] = ["--appendonly", "yes", "--appendfsync", "always"];

/// A running `redis-server`.
#[derive(Debug)]
pub struct Redis {
    process: Mutex<Process>,
    arguments: Vec<String>,
    env: Vec<(String, String)>,
    // Dropped after the process has ended.
    port: Port,
    folder: TempDir,
}

impl Redis {
    /// Starts one that keeps nothing on disk.
    #[track_caller]
    pub fn start() -> Redis {
        Redis::with(&[])
    }

    /// Starts one with more of its own command line: `Redis::with(&DURABLE)`.
    #[track_caller]
    pub fn with(arguments: &[&str]) -> Redis {
        Redis::try_start(arguments).unwrap_or_else(|message| panic!("{message}"))
    }

    /// As [`with`](Redis::with), with variables for its environment.
    #[track_caller]
    pub fn with_env(arguments: &[&str], env: &[(&str, &str)]) -> Redis {
        Redis::try_start_with_env(arguments, env).unwrap_or_else(|message| panic!("{message}"))
    }

    /// As [`with`](Redis::with), with a sentence and the log when it does not start.
    pub fn try_start(arguments: &[&str]) -> Result<Redis, String> {
        Redis::try_start_with_env(arguments, &[])
    }

    fn try_start_with_env(arguments: &[&str], env: &[(&str, &str)]) -> Result<Redis, String> {
        let folder = TempDir::with_prefix("envoy-idempotency-redis-")
            .map_err(|error| format!("No temporary folder: {error}."))?;
        let arguments = arguments.iter().map(ToString::to_string).collect::<Vec<_>>();
        let port = Port::unshared();
        let env = env.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect::<Vec<_>>();
        let process = launch(&port, &folder, &arguments, &env)?;
        Ok(Redis { process: Mutex::new(process), arguments, env, port, folder })
    }

    /// Starts a copy that follows this one, and returns when it has caught up.
    #[track_caller]
    pub fn replica(&self) -> Redis {
        let replica = Redis::start();
        replica.follow(self.addr());
        replica
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.port.addr()
    }

    /// Its process id.
    pub fn process_id(&self) -> u32 {
        self.process().id()
    }

    /// The answer to one command; panics when none comes.
    #[track_caller]
    pub fn ask<A: AsRef<[u8]>>(&self, command: &[A]) -> Reply {
        resp::ask(self.addr(), command, PATIENCE).unwrap_or_else(|error| {
            let name = command.first().map(|name| String::from_utf8_lossy(name.as_ref()).into_owned());
            panic!("Redis on {} gave no answer to {}: {error}.", self.addr(), name.unwrap_or_default())
        })
    }

    /// All keys there are, sorted.
    #[track_caller]
    pub fn keys(&self) -> Vec<Vec<u8>> {
        let mut keys: Vec<_> = self.ask(&["KEYS", "*"]).list().into_iter().filter_map(Reply::bytes).collect();
        keys.sort();
        keys
    }

    /// The string under a key, where there is one.
    #[track_caller]
    pub fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.ask(&[b"GET", key]).bytes()
    }

    /// Has it follow another one, and returns when it has all that is there.
    #[track_caller]
    pub fn follow(&self, primary: SocketAddr) {
        self.ask(&["REPLICAOF", "127.0.0.1", &primary.port().to_string()]);
        wait_until("the replica follows", PATIENCE, || self.info("master_link_status") == "up");
    }

    /// Whether it is a primary. None that is down.
    pub fn is_primary(&self) -> bool {
        let role = resp::ask(self.addr(), &["ROLE"], LOOK).map(Reply::list).unwrap_or_default();
        role.first().is_some_and(|role| role.text() == "master")
    }

    /// One field of `INFO`, empty where there is none.
    #[track_caller]
    pub fn info(&self, field: &str) -> String {
        let text = self.ask(&["INFO", "everything"]).text();
        let mut fields = text.lines().filter_map(|line| line.split_once(':'));
        fields.find(|(name, _)| *name == field).map(|(_, value)| value.to_owned()).unwrap_or_default()
    }

    /// Ends it with SIGKILL, as a crash would.
    pub fn kill(&self) {
        self.process().kill();
    }

    /// Starts it again on the same port with what is on its disk, if need be after ending it with SIGKILL.
    #[track_caller]
    pub fn restart(&self) {
        let mut process = self.process();
        process.kill();
        *process =
            launch(&self.port, &self.folder, &self.arguments, &self.env).unwrap_or_else(|message| panic!("{message}"));
    }

    /// Stops it in its tracks (SIGSTOP): connections stay, nothing is answered.
    pub fn freeze(&self) {
        self.process().freeze();
    }

    /// Lets it go on after [`freeze`](Redis::freeze).
    pub fn thaw(&self) {
        self.process().thaw();
    }

    fn process(&self) -> std::sync::MutexGuard<'_, Process> {
        self.process.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// The program: Debian's Redis, or the path in `REDIS_SERVER`.
pub(crate) fn server() -> String {
    std::env::var("REDIS_SERVER").ok().filter(|path| !path.is_empty()).unwrap_or_else(|| "redis-server".to_owned())
}

fn launch(port: &Port, folder: &TempDir, arguments: &[String], env: &[(String, String)]) -> Result<Process, String> {
    let mut command = Command::new(server());
    command.args(["--bind", "127.0.0.1", "--port", &port.number().to_string(), "--save", ""]);
    command.args(["--repl-diskless-sync-delay", "0", "--dir"]);
    command.arg(folder.path()).args(arguments).envs(env.iter().cloned());
    let process = Process::start("Redis", command, &folder.path().join("redis.log"))
        .map_err(|error| format!("redis-server cannot be started ({error}): `make test` installs it."))?;
    let answers = wait_for("Redis answers", PATIENCE, || match process.ended() {
        Some(status) => Some(Err(status)),
        None => {
            let pong = resp::ask(port.addr(), &["PING"], LOOK).ok()?;
            (pong == Reply::Status("PONG".to_owned())).then_some(Ok(()))
        }
    })?;
    match answers {
        Ok(()) => Ok(process),
        Err(status) => Err(format!("Redis did not start ({status}). Its log ends:\n{}", tail(&process.log()))),
    }
}

/// For one look whether it answers.
const LOOK: Duration = Duration::from_secs(1);
