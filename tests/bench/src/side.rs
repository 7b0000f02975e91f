//! The sides of a comparison: a server that the load goes to, and the store it keeps its records in.
//!
//! One rule: every gateway is the shipped one, changed only in what the comparison is about. The access log, which the
//! shipped file has too, is written by all of them, but to nowhere. Each side has a Redis to itself, all started alike
//! and without persistence, so that no side bears the cost of another's records.
//! It does not know what is sent.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use harness::gateway::{cluster, hcm, listener_named, plugin, set_endpoint, set_endpoints};
use harness::{Dialect, Gateway, Options, PATIENCE, Port, Redis, Request, Response, Webdis, wait_for};
use serde_json::{Value, json};

use crate::machine::{Machine, cpu_us, workers};
use crate::peer::Peer;
use crate::target_folder;
use crate::wrk::{CALLER, Keys, Load};

/// How a side is started, as often as one is wanted.
#[derive(Debug)]
pub struct Recipe {
    /// What it is called in tables and comparisons.
    pub name: &'static str,
    /// What takes the load.
    pub what: What,
    /// Counters, and for how many of the requests each must go up: Envoy's, or with the peer Redis's commands.
    pub expected: &'static [(&'static str, Share)],
}

/// What takes the load; a filter comes with its configuration.
#[derive(Debug, Clone, Copy)]
pub enum What {
    /// Envoy without any filter.
    NoFilter,
    /// Envoy with one of the filters that `make bench` builds to compare with.
    Another(&'static str),
    /// Envoy with the filter and the embedded store.
    Filter(fn() -> Value),
    /// Envoy with the filter, and records in Redis, which it asks in this dialect.
    FilterOnRedis(Dialect, fn(Dialect) -> Value),
    /// Envoy with the filter and its redis_proxy, as for a Redis Cluster, of which there is one node.
    FilterByProxy(fn() -> Value),
    /// The peer, which asks Redis itself.
    Peer,
    /// Envoy without any filter, and the peer behind it: what a user of Envoy would put there instead.
    EnvoyAndPeer,
}

/// One side of a comparison.
pub struct Side {
    /// The name of its recipe.
    pub name: &'static str,
    /// What complaints call it.
    pub label: String,
    server: Server,
    store: Store,
    /// As its recipe has it.
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
    peer: Option<Peer>,
    webdis: Option<Webdis>,
    redis: Option<Redis>,
    /// Of a cluster's bus, and of the redis_proxy.
    ports: Option<[Port; 2]>,
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

impl What {
    /// Whether it has the filter in it, and may have another build of it.
    pub fn is_the_filter(self) -> bool {
        matches!(self, What::Filter(_) | What::FilterOnRedis(..) | What::FilterByProxy(_))
    }
}

impl Recipe {
    /// Starts a side in front of this upstream, with another build of the filter where one is given.
    pub fn start(&self, upstream: SocketAddr, other_build: Option<&Path>) -> Result<Side, String> {
        let mut store = Store::default();
        let server = match self.what {
            What::NoFilter => envoy(Options::new(upstream).without_filter(), None),
            What::Another(filter) => envoy(Options::new(upstream), Some(&built(filter))),
            What::Filter(configuration) => envoy(Options::new(upstream).configuration(configuration()), other_build),
            What::FilterOnRedis(dialect, configuration) => {
                let redis = store.redis.insert(Redis::try_start(&[])?);
                let front = match dialect {
                    Dialect::Resp => redis.addr(),
                    Dialect::Webdis => store.webdis.insert(Webdis::try_start(redis.addr())?).addr(),
                };
                let options = Options::speaking(dialect, upstream, front);
                envoy(options.configuration(configuration(dialect)), other_build)
            }
            What::FilterByProxy(configuration) => {
                let [bus, proxy] = store.ports.insert([Port::unshared(), Port::reserve()]);
                let (front, redis) = (proxy.addr(), store.redis.insert(node(bus)?).addr());
                let options = Options::file("redis-cluster.yaml", upstream).mutate(move |tree| {
                    let listener = listener_named(tree, "redis-proxy");
                    listener["address"]["socket_address"]["port_value"] = json!(front.port());
                    set_endpoint(cluster(tree, "redis"), front);
                    set_endpoints(cluster(tree, "redis-cluster"), &[redis]);
                });
                envoy(options.configuration(configuration()), other_build)
            }
            What::Peer => {
                let redis = store.redis.insert(Redis::try_start(&[])?);
                Peer::start(upstream, redis.addr()).map(Server::Peer)
            }
            What::EnvoyAndPeer => {
                let redis = store.redis.insert(Redis::try_start(&[])?);
                let peer = store.peer.insert(Peer::start(upstream, redis.addr())?);
                envoy(Options::new(peer.addr()).without_filter(), None)
            }
        };
        Ok(Side { name: self.name, label: self.label(other_build), server: server?, store, expected: self.expected })
    }

    /// What complaints call it.
    pub fn label(&self, other_build: Option<&Path>) -> String {
        let of_what = if other_build.is_some() { ", as BEFORE has it" } else { "" };
        format!("{}{of_what}", self.name)
    }
}

/// Starts a gateway with this module for its filter, otherwise with the filter that has been built.
fn envoy(options: Options, module: Option<&Path>) -> Result<Server, String> {
    let module = module.map(|module| {
        // Envoy runs in another folder.
        module.canonicalize().map_err(|error| format!("{} cannot be read: {error}.", module.display()))
    });
    let module = module.transpose()?;
    let options = options.concurrency(workers()).log_level("warning").mutate(|tree| {
        hcm(tree)["access_log"][0]["typed_config"]["path"] = json!("/dev/null");
        if let Some(module) = module {
            plugin(tree)["vm_config"]["code"]["local"]["filename"] = json!(module);
        }
    });
    Ok(Server::Envoy(Box::new(Gateway::try_start(options)?)))
}

/// Where `make bench` builds a filter to compare with.
fn built(filter: &str) -> PathBuf {
    target_folder().join("wasm32-wasip1/release").join(filter).with_extension("wasm")
}

impl Side {
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
    fn processes(&self) -> [Option<u32>; 4] {
        let server = match &self.server {
            Server::Envoy(gateway) => gateway.process_id(),
            Server::Peer(peer) => peer.process_id(),
        };
        let Store { peer, webdis, redis, .. } = &self.store;
        let store = [peer.as_ref().map(Peer::process_id), webdis.as_ref().map(Webdis::process_id)];
        [Some(server), store[0], store[1], redis.as_ref().map(Redis::process_id)]
    }

    fn count(&self, name: &str) -> u64 {
        match (&self.server, &self.store.redis) {
            (Server::Envoy(gateway), _) if name.starts_with("cluster.") => gateway.stat(name),
            (Server::Envoy(gateway), _) => gateway.counted(name),
            (Server::Peer(_), redis) => redis.as_ref().map_or(0, |redis| calls(redis, name)),
        }
    }
}

/// A Redis Cluster of one node.
fn node(bus: &Port) -> Result<Redis, String> {
    let bus = bus.number().to_string();
    // Alone it does not learn what others call it.
    let announced = ["--cluster-announce-ip", "127.0.0.1"];
    let node = Redis::try_start(&[&["--cluster-enabled", "yes", "--cluster-port", &bus][..], &announced].concat())?;
    node.ask(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]);
    let is_whole = || (node.ask(&["CLUSTER", "INFO"]).text().contains("cluster_state:ok")).then_some(());
    wait_for("the cluster is whole", PATIENCE, is_whole).map(|()| node)
}

/// How often Redis was given a command.
fn calls(redis: &Redis, command: &str) -> u64 {
    let told = redis.ask(&["INFO", "commandstats"]).text();
    let head = format!("cmdstat_{command}:calls=");
    let calls = told.lines().find_map(|line| line.strip_prefix(&head)?.split(',').next()?.parse().ok());
    calls.unwrap_or(0)
}
