//! Three Redis, one the primary of the others, and three Sentinels that make another one the primary when it is gone.
//!
//! One rule: which one is the primary is asked of Redis itself.
//! It does not know how clients find it.

use std::fs;
use std::net::SocketAddr;
use std::process::Command;

use tempfile::TempDir;

use crate::ports::Port;
use crate::process::Process;
use crate::redis::{DURABLE, Redis, server};
use crate::resp;
use crate::wait::{PATIENCE, wait_for, wait_until};

/// The running parts.
#[derive(Debug)]
pub struct RedisGroup {
    // They would bring one of the others to life while those end.
    sentinels: Vec<Sentinel>,
    /// One is the primary.
    pub nodes: [Redis; 3],
}

impl RedisGroup {
    /// Starts all of them: what is acknowledged is on a disk, and a primary without a replica that has heard of it in two
    /// seconds takes no writes.
    #[track_caller]
    pub fn start() -> RedisGroup {
        let group = RedisGroup::without_sentinels();
        let primary = group.nodes[0].addr();
        RedisGroup { sentinels: (0..3).map(|_| Sentinel::start(primary)).collect(), ..group }.ready()
    }

    /// As [`start`](RedisGroup::start), with nothing that makes another one the primary.
    #[track_caller]
    pub fn without_sentinels() -> RedisGroup {
        let guarded = ["--min-replicas-to-write", "1", "--min-replicas-max-lag", "2"];
        let nodes = [(); 3].map(|()| Redis::with(&[&DURABLE[..], &guarded].concat()));
        let primary = nodes[0].addr();
        nodes[1..].iter().for_each(|replica| replica.follow(primary));
        RedisGroup { sentinels: Vec::new(), nodes }.ready()
    }

    fn ready(self) -> RedisGroup {
        let know = |sentinel: &Sentinel| {
            let [replicas, others] = ["num-slaves", "num-other-sentinels"].map(|field| sentinel.count(field));
            (replicas, others) == (2, 2)
        };
        wait_until("every Sentinel knows all there are", PATIENCE, || self.sentinels.iter().all(know));
        wait_until("the primary takes writes", PATIENCE, || self.nodes[0].info("min_slaves_good_slaves") != "0");
        self
    }

    /// Where they are.
    pub fn addrs(&self) -> [SocketAddr; 3] {
        self.nodes.each_ref().map(Redis::addr)
    }

    /// The first that calls itself one, if there is any.
    pub fn primary(&self) -> Option<usize> {
        self.nodes.iter().position(Redis::is_primary)
    }

    /// Returns when another one than this is the primary, and which.
    #[track_caller]
    pub fn next(&self, old: usize) -> usize {
        let others = || (0..3).find(|node| *node != old && self.nodes[*node].is_primary());
        wait_for("another one is the primary", PATIENCE, others).unwrap_or_else(|message| panic!("{message}"))
    }

    /// Returns when one is the primary of all others, and which.
    #[track_caller]
    pub fn settle(&self) -> usize {
        let only = || match (0..3).filter(|node| self.nodes[*node].is_primary()).collect::<Vec<_>>()[..] {
            [one] if self.nodes[one].info("min_slaves_good_slaves") == "2" => Some(one),
            _ => None,
        };
        wait_for("one is the primary of the others", PATIENCE, only).unwrap_or_else(|message| panic!("{message}"))
    }
}

#[derive(Debug)]
struct Sentinel {
    _process: Process,
    port: Port,
    _folder: TempDir,
}

impl Sentinel {
    #[track_caller]
    fn start(primary: SocketAddr) -> Sentinel {
        let folder = TempDir::with_prefix("envoy-idempotency-sentinel-").expect("there is room for a folder");
        let port = Port::unshared();
        let (file, number) = (folder.path().join("sentinel.conf"), port.number());
        let document = format!(
            "bind 127.0.0.1\nport {number}\ndir {}\n\
             sentinel monitor {NAME} 127.0.0.1 {} 2\n\
             sentinel down-after-milliseconds {NAME} {DOWN_AFTER_MS}\n\
             sentinel failover-timeout {NAME} 5000\n",
            folder.path().display(),
            primary.port(),
        );
        fs::write(&file, document).expect("a file of ours can be written");
        let mut command = Command::new(server());
        command.arg(&file).arg("--sentinel");
        let process = Process::start("Sentinel", command, &folder.path().join("sentinel.log"))
            .expect("the program that is Redis is Sentinel too");
        let sentinel = Sentinel { _process: process, port, _folder: folder };
        wait_until("Sentinel answers", PATIENCE, || sentinel.ask(&["PING"]) == "PONG");
        sentinel
    }

    fn ask(&self, command: &[&str]) -> String {
        resp::ask(self.port.addr(), command, PATIENCE).map(|reply| reply.text()).unwrap_or_default()
    }

    /// A number that it knows of the primary.
    fn count(&self, field: &str) -> u64 {
        let asked = resp::ask(self.port.addr(), &["SENTINEL", "MASTER", NAME], PATIENCE);
        let fields: Vec<String> =
            asked.map(|reply| reply.list()).unwrap_or_default().iter().map(|one| one.text()).collect();
        let place = fields.iter().position(|name| name == field);
        place.and_then(|place| fields.get(place + 1)?.parse().ok()).unwrap_or(0)
    }
}

/// How long the primary is silent before Sentinel calls it gone.
pub const DOWN_AFTER_MS: u64 = 1000;
const NAME: &str = "gateway";
