//! Everything that runs: two Envoys, the service, the store, which is Redis with a replica, a Redis Cluster or what
//! Sentinel watches, and the fault proxies between them.
//!
//! One rule: each part keeps its address for as long as the world lives, whatever is done to it.
//! It does not know of faults.

use std::fs;
use std::net::SocketAddr;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::thread;

use harness::gateway::{
    PROTOCOL_OPTIONS, cluster, hcm_of, listener_named, set_endpoint, set_endpoints, set_pipe, shipped,
};
use harness::redis::DURABLE;
use harness::{
    Dialect, Gateway, Interposer, Options, PATIENCE, Port, Redis, RedisCluster, RedisGroup, Webdis, wait_until,
};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::history::Kind;
use crate::upstream::Upstream;

/// How long a claim stands without renewal, in all rules.
pub const LEASE_MS: u64 = 1000;
/// How long a gateway waits for the service.
const ROUTE_TIMEOUT: &str = "1s";

/// The running parts.
#[derive(Debug)]
pub struct World {
    // Each part ends before what it talks to.
    /// Real Envoys with the filter, two workers each.
    pub gateways: [Gateway; 2],
    /// Between the gateways and the service.
    pub to_upstream: Interposer,
    /// The service.
    pub upstream: Upstream,
    store: Running,
    // Where each gateway has its redis_proxy.
    _proxies: [Port; 2],
}

/// Where the gateways' records are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Store {
    /// One Redis and a replica, behind a proxy that breaks what passes.
    Pair,
    /// A Redis Cluster of three masters with a replica each, behind Envoy's redis_proxy.
    Cluster,
    /// Three Redis, of which Sentinel makes one the primary.
    Group,
}

#[derive(Debug)]
enum Running {
    Pair(Box<Pair>),
    Cluster(RedisCluster),
    Group(Box<RedisGroup>),
}

/// One Redis and its replica.
#[derive(Debug)]
pub struct Pair {
    /// Between the gateways and Redis, or Webdis where they speak to that.
    pub to_store: Interposer,
    /// In front of the Redis that is the primary.
    pub webdis: Webdis,
    redis: [Redis; 2],
    /// Which one is the primary, the other follows it.
    pub primary: usize,
    clock: PathBuf,
    _folder: TempDir,
}

impl World {
    /// Starts all of it.
    pub fn start(store: Store) -> World {
        let upstream = Upstream::start();
        let running = match store {
            Store::Pair => Running::Pair(Box::new(Pair::start())),
            Store::Cluster => Running::Cluster(RedisCluster::with_replicas(&DURABLE)),
            Store::Group => Running::Group(Box::new(RedisGroup::start())),
        };
        let to_upstream = Interposer::start(upstream.addr());
        let proxies = [(); 2].map(|()| Port::reserve());
        let start = |proxy: &Port| {
            let options = running.options(to_upstream.addr(), proxy.addr()).configuration(running.document());
            start_gateway(&upstream, options)
        };
        // Each compiles the module, which takes a processor a while.
        let gateways = thread::scope(|scope| {
            let starting = proxies.each_ref().map(|proxy| scope.spawn(|| start(proxy)));
            starting.map(|gateway| gateway.join().unwrap_or_else(|panic| resume_unwind(panic)))
        });
        World { gateways, to_upstream, upstream, store: running, _proxies: proxies }
    }

    /// The rules of each [`Kind`], and the store.
    pub fn document(&self) -> Value {
        self.store.document()
    }

    /// One Redis and its replica, in a world that has them.
    pub fn pair(&self) -> &Pair {
        let Running::Pair(pair) = &self.store else { panic!("this world has another store") };
        pair
    }

    /// The same, to change which is the primary.
    pub fn pair_mut(&mut self) -> &mut Pair {
        let Running::Pair(pair) = &mut self.store else { panic!("this world has another store") };
        pair
    }

    /// The cluster, in a world that has one.
    pub fn cluster(&self) -> &RedisCluster {
        let Running::Cluster(cluster) = &self.store else { panic!("this world has another store") };
        cluster
    }

    /// Those that Sentinel watches, in a world that has them.
    pub fn group(&self) -> &RedisGroup {
        let Running::Group(group) = &self.store else { panic!("this world has another store") };
        group
    }
}

impl Running {
    /// The shipped file for it; a redis_proxy, where there is one, is at `proxy`.
    fn options(&self, upstream: SocketAddr, proxy: SocketAddr) -> Options {
        match self {
            Running::Pair(pair) => Options::redis(upstream, pair.to_store.addr()),
            Running::Cluster(nodes) => {
                let nodes = nodes.addrs();
                Options::file("redis-cluster.yaml", upstream).mutate(move |tree| {
                    let listener = listener_named(tree, "redis-proxy");
                    listener["address"]["socket_address"]["port_value"] = json!(proxy.port());
                    set_endpoint(cluster(tree, "redis"), proxy);
                    set_endpoints(cluster(tree, "redis-cluster"), &nodes);
                })
            }
            Running::Group(group) => {
                let nodes = group.addrs();
                Options::file("redis-failover.yaml", upstream)
                    .mutate(move |tree| set_endpoints(cluster(tree, "redis"), &nodes))
            }
        }
    }

    fn document(&self) -> Value {
        let mut document = document();
        if let Running::Cluster(_) = self {
            document["store"]["batching"] = json!(false);
        }
        document
    }
}

impl Pair {
    fn start() -> Pair {
        let folder = TempDir::with_prefix("envoy-idempotency-chaos-").expect("there is room for a file");
        let clock = folder.path().join("clock");
        fs::write(&clock, "+0").expect("a file of ours can be written");
        let redis = [(); 2].map(|()| start_redis(&clock));
        let webdis = Webdis::start(redis[0].addr());
        let dialect = Dialect::chosen();
        let to_store = Interposer::speaking(dialect, dialect.front(&redis[0], &webdis));
        let pair = Pair { to_store, webdis, redis, primary: 0, clock, _folder: folder };
        pair.follow();
        pair
    }

    /// Has what is asked from now on go to the Redis that is the primary now.
    pub fn turn_to_primary(&self) {
        match Dialect::chosen() {
            Dialect::Resp => self.to_store.turn_to(self.primary().addr()),
            Dialect::Webdis => self.webdis.turn_to(self.primary().addr()),
        }
    }

    /// The Redis that the gateways' records are in.
    pub fn primary(&self) -> &Redis {
        &self.redis[self.primary]
    }

    /// The one that follows it.
    pub fn replica(&self) -> &Redis {
        &self.redis[1 - self.primary]
    }

    /// Has the replica follow the primary, and returns when it has caught up.
    pub fn follow(&self) {
        self.replica().ask(&["REPLICAOF", "127.0.0.1", &self.primary().addr().port().to_string()]);
        wait_until("the replica follows", PATIENCE, || {
            self.replica().ask(&["INFO", "replication"]).text().contains("master_link_status:up")
        });
    }

    /// Has the replica hear nothing from the primary, and stay one that takes no writes.
    ///
    /// A gateway may have a connection to it from when it was the primary. Were it made one again beside the other, what
    /// it took would be lost as in any split brain.
    pub fn cut_off(&self) {
        self.replica().ask(&["REPLICAOF", "127.0.0.1", NO_REDIS]);
    }

    /// Returns when the replica has all that the primary had written until now.
    ///
    /// A link that is up may still have to bring what was written while the replica read the primary's data set.
    pub fn catch_up(&self) {
        let offset = |redis: &Redis, field: &str| -> u64 {
            let info = redis.ask(&["INFO", "replication"]).text();
            let said = info.lines().find_map(|line| line.strip_prefix(field));
            said.and_then(|number| number.trim().parse().ok()).unwrap_or(0)
        };
        let written = offset(self.primary(), "master_repl_offset:");
        wait_until("the replica has caught up", PATIENCE, || offset(self.replica(), "slave_repl_offset:") >= written);
    }

    /// Sets both Redis' clocks off by so many seconds, and returns when they are.
    pub fn set_clock(&self, seconds: i64) {
        let before = self.clock_off();
        let is_off = || (self.clock_off() - before).abs() > 1;
        let had = fs::read_to_string(&self.clock).unwrap_or_default();
        let wanted = format!("{seconds:+}");
        fs::write(&self.clock, &wanted).expect("a file of ours can be written");
        if had != wanted {
            wait_until("the clock has jumped", PATIENCE, is_off);
        }
    }

    /// By how many seconds the primary's clock is off.
    fn clock_off(&self) -> i64 {
        let time = self.primary().ask(&["TIME"]).list();
        let seconds: i64 = time.first().map(|reply| reply.text().parse().unwrap_or(0)).unwrap_or(0);
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |time| time.as_secs());
        seconds - now as i64
    }
}

fn start_redis(clock: &Path) -> Redis {
    let library = faketime().expect("libfaketime is installed (`make test` sees to it)");
    // jemalloc asks for the time before the library is ready to tell it; the allocator of libc does not.
    let preloaded = format!("{}:libc.so.6", library.display());
    let variables = [
        ("LD_PRELOAD", preloaded.as_str()),
        ("FAKETIME_TIMESTAMP_FILE", clock.to_str().unwrap_or_default()),
        ("FAKETIME_CACHE_DURATION", "1"),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
    ];
    Redis::with_env(&DURABLE, &variables)
}

/// Where Debian puts the library, whatever the machine's architecture.
fn faketime() -> Option<PathBuf> {
    let folders = fs::read_dir("/usr/lib").ok()?.flatten();
    folders.map(|folder| folder.path().join("faketime/libfaketimeMT.so.1")).find(|file| file.is_file())
}

fn start_gateway(upstream: &Upstream, options: Options) -> Gateway {
    let (http2, socket) = (upstream.http2_addr(), upstream.socket());
    Gateway::start(options.lds().mutate(move |tree| change(tree, http2, &socket)))
}

/// The rules of each [`Kind`].
fn document() -> Value {
    let rule = |path: &str, policy: Value| json!({ "match": { "methods": ["POST"], "path": { "prefix": path } }, "policy": policy });
    let mut store = Dialect::chosen().store();
    // Less than a listener drains, so that a VM that is replaced takes no claims along that it has yet to withdraw.
    let lock = json!({ "sources": [{ "header": "x-chaos-resource" }], "max_wait_ms": 500 });
    // The breaker closes soon, so that a fault is not hidden by the one before.
    store["breaker"] = json!({ "failures": 5, "open_ms": 100 });
    json!({
        "store": store,
        "policy": { "lease_ms": LEASE_MS, "ttl_s": 1800 },
        "rules": [
            rule("/hold/", json!({ "on_unknown": "hold" })),
            rule("/locked/", json!({ "key": { "required": true }, "serialize": lock })),
            rule("/wait/", json!({ "on_in_flight": { "action": "wait", "max_wait_ms": 2000 } })),
            rule("/shielded/", json!({ "execution": { "kind": "shielded", "cluster": "shielded", "timeout_ms": 1500 } })),
            rule("/", json!({})),
        ],
    })
}

/// Adds what `envoy/shielded.yaml` has, and the ways to the other faces of the service, and shortens the routes' time-out.
fn change(tree: &mut Value, http2: SocketAddr, socket: &Path) {
    let from = shipped("shielded.yaml").expect("the file is shipped");
    tree["bootstrap_extensions"] = from["bootstrap_extensions"].clone();
    for kind in ["listeners", "clusters"] {
        let all = from["static_resources"][kind].as_array().expect("it is a list");
        let one = all.iter().find(|one| one["name"] == "shielded").expect("it is in there").clone();
        tree["static_resources"][kind].as_array_mut().expect("it is a list").push(one);
    }
    let listeners = tree["static_resources"]["listeners"].as_array_mut().expect("it is a list").iter_mut();
    // A redis_proxy stays as it is.
    for listener in listeners.filter(|listener| listener["name"] != "redis-proxy") {
        let routes = &mut hcm_of(listener)["route_config"]["virtual_hosts"][0]["routes"];
        routes[0]["route"]["timeout"] = json!(ROUTE_TIMEOUT);
        let way = |kind: Kind| json!({ "match": { "prefix": kind.path() }, "route": { "cluster": kind.path(), "timeout": ROUTE_TIMEOUT } });
        routes.as_array_mut().expect("it is a list").splice(0..0, [Kind::Http2, Kind::Socket].map(way));
    }
    // The proxy in between has one thread: nobody is to be refused for it.
    let limits = json!({ "max_connections": 4096, "max_pending_requests": 4096, "max_requests": 4096 });
    cluster(tree, "payments")["circuit_breakers"] = json!({ "thresholds": [limits] });
    let [mut to_http2, mut to_socket] = [Kind::Http2, Kind::Socket].map(|kind| {
        let mut one = cluster(tree, "payments").clone();
        one["name"] = json!(kind.path());
        one["load_assignment"]["cluster_name"] = json!(kind.path());
        one
    });
    set_endpoint(&mut to_http2, http2);
    to_http2["typed_extension_protocol_options"] =
        protocol(json!({ "explicit_http_config": { "http2_protocol_options": {} } }));
    set_pipe(&mut to_socket, socket);
    // So that a socket which is away for a moment is missed.
    to_socket["typed_extension_protocol_options"] = protocol(json!({
        "explicit_http_config": { "http_protocol_options": {} },
        "common_http_protocol_options": { "max_requests_per_connection": 3 },
    }));
    tree["static_resources"]["clusters"].as_array_mut().expect("it is a list").extend([to_http2, to_socket]);
}

/// How a cluster speaks to the service.
fn protocol(mut options: Value) -> Value {
    options["@type"] = json!(format!("type.googleapis.com/{PROTOCOL_OPTIONS}"));
    json!({ PROTOCOL_OPTIONS: options })
}

/// A port that no Redis listens on.
const NO_REDIS: &str = "1";
