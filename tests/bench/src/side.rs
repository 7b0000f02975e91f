//! The sides of a comparison: a server that the load goes to, and the store it keeps its records in.
//!
//! One rule: every gateway is the shipped one, changed only in what the comparison is about. The access log, which the
//! shipped file has too, is written by all of them, but to nowhere. Each side has a Redis to itself, all started alike
//! and without persistence, so that nobody bears the cost of another's records.
//! It does not know what is sent.

use std::net::SocketAddr;

use harness::gateway::hcm;
use harness::{Gateway, Options, PATIENCE, Redis, Request, Response, Webdis, wait_for};
use serde_json::json;

use crate::machine::{Machine, cpu_us, workers};
use crate::peer::Peer;
use crate::wrk::{CALLER, Keys, Load};

/// One side of a comparison.
pub struct Side {
    /// What it is called in tables and comparisons.
    pub name: &'static str,
    server: Server,
    store: Store,
    /// Counters, and for how many of the requests each must go up: Envoy's, or with the peer Redis's commands.
    pub expected: &'static [(&'static str, Share)],
}

/// What the load goes to.
enum Server {
    Envoy(Box<Gateway>),
    Peer(Peer),
}

/// What runs beside it for its sake, and ends after it.
#[derive(Default)]
struct Store {
    webdis: Option<Webdis>,
    redis: Option<Redis>,
}

/// For how many of the requests a counter goes up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Share {
    /// Every one.
    All,
    /// Every one by two.
    Twice,
    /// Not a single one.
    None,
}

impl Side {
    /// A gateway.
    pub fn start(
        name: &'static str,
        options: Options,
        expected: &'static [(&'static str, Share)],
    ) -> Result<Side, String> {
        Side::envoy(name, options, Store::default(), expected)
    }

    /// A gateway that keeps its records in Redis, which it asks through Webdis; `options` is given Webdis's address.
    pub fn with_redis(
        name: &'static str,
        options: impl FnOnce(SocketAddr) -> Options,
        expected: &'static [(&'static str, Share)],
    ) -> Result<Side, String> {
        let redis = Redis::try_start(&[])?;
        let webdis = Webdis::try_start(redis.addr())?;
        let options = options(webdis.addr());
        Side::envoy(name, options, Store { webdis: Some(webdis), redis: Some(redis) }, expected)
    }

    /// The peer, which asks Redis itself.
    pub fn peer(name: &'static str, upstream: SocketAddr) -> Result<Side, String> {
        let redis = Redis::try_start(&[])?;
        let server = Server::Peer(Peer::start(upstream, redis.addr())?);
        // Each request takes a lock and leaves a record.
        Ok(Side { name, server, store: Store { webdis: None, redis: Some(redis) }, expected: &[("set", Share::Twice)] })
    }

    fn envoy(
        name: &'static str,
        options: Options,
        store: Store,
        expected: &'static [(&'static str, Share)],
    ) -> Result<Side, String> {
        let options = options.concurrency(workers()).log_level("warning").mutate(|tree| {
            hcm(tree)["access_log"][0]["typed_config"]["path"] = json!("/dev/null");
        });
        Ok(Side { name, server: Server::Envoy(Box::new(Gateway::try_start(options)?)), store, expected })
    }

    /// Where the load goes.
    pub fn addr(&self) -> SocketAddr {
        match &self.server {
            Server::Envoy(gateway) => gateway.addr(),
            Server::Peer(peer) => peer.addr(),
        }
    }

    /// What the server has logged.
    pub fn log(&self) -> String {
        match &self.server {
            Server::Envoy(gateway) => gateway.log(),
            Server::Peer(peer) => peer.log(),
        }
    }

    /// Gives the server the processor of what is measured, and its store those of all others.
    pub fn bind(&self, machine: &Machine) -> Result<(), String> {
        let [server, store @ ..] = self.processes();
        machine.bind(server.unwrap_or_default())?;
        store.into_iter().flatten().try_for_each(|process| machine.keep_off(process))
    }

    /// Microseconds of processor time that the server and its store have used.
    pub fn cpu_us(&self) -> Result<u64, String> {
        self.processes().into_iter().flatten().map(cpu_us).sum()
    }

    /// What the counters say once the clients before have gone, because what they left under way counts too.
    pub fn counts(&self) -> Result<Vec<u64>, String> {
        let counts = || self.expected.iter().map(|(name, _)| self.count(name)).collect::<Vec<_>>();
        let mut before = None;
        wait_for("the clients before have gone", PATIENCE, || match &self.server {
            Server::Envoy(gateway) => (gateway.stat("http.gateway.downstream_cx_active") == 0).then(counts),
            Server::Peer(_) => {
                let now = Some(counts());
                if before == now { now } else { std::mem::replace(&mut before, now).and(None) }
            }
        })
    }

    /// Sends what the load sends, once, with a key where the load has another every time.
    pub fn send(&self, load: &Load, fresh: Option<&str>) -> Result<Response, String> {
        let mut request = Request::new(self.addr(), load.method, load.path).header("Authorization", CALLER);
        if load.method == "POST" {
            request = request.header("Content-Type", "application/json").body(load.body());
        }
        match (load.keys, fresh) {
            (Keys::Same(key), _) | (Keys::Fresh, Some(key)) => request.key(key),
            _ => request,
        }
        .try_send()
    }

    /// The server first.
    fn processes(&self) -> [Option<u32>; 3] {
        let server = match &self.server {
            Server::Envoy(gateway) => gateway.process_id(),
            Server::Peer(peer) => peer.process_id(),
        };
        let Store { webdis, redis } = &self.store;
        [Some(server), webdis.as_ref().map(Webdis::process_id), redis.as_ref().map(Redis::process_id)]
    }

    fn count(&self, name: &str) -> u64 {
        match (&self.server, &self.store.redis) {
            (Server::Envoy(gateway), _) => gateway.stat(name),
            (Server::Peer(_), redis) => redis.as_ref().map_or(0, |redis| calls(redis, name)),
        }
    }
}

/// How often Redis was given a command.
fn calls(redis: &Redis, command: &str) -> u64 {
    let told = redis.ask(&["INFO", "commandstats"]).text();
    let head = format!("cmdstat_{command}:calls=");
    let calls = told.lines().find_map(|line| line.strip_prefix(&head)?.split(',').next()?.parse().ok());
    calls.unwrap_or(0)
}
