//! The harness of the end-to-end tests: real Envoy, the ledger upstream behind it, and clients that can send anything.
//!
//! One rule: the gateway that is tested is a file that is shipped (`envoy/*.yaml`), changed in as few places as a test
//! needs. It does not know what the filter should answer: that is for the tests to say.
//!
//! ```text
//! client::Request ──▶ Gateway (Envoy + filter) ──▶ Ledger
//!        bytes            envoy/*.yaml               remembers every execution
//!                             │
//!                             ╰──▶ Interposer ──▶ (Webdis ──▶) Redis
//!                                  faults          where gateways share a store
//! ```
//!
//! A test reads:
//!
//! ```no_run
//! use harness::World;
//! use serde_json::json;
//!
//! let world = World::start(json!({}));
//! let pay = world.post("/v1/payments").key("k1").body(r#"{"amount":10}"#);
//! let first = pay.send();
//! let again = pay.send();
//! assert_eq!((first.status, again.status), (201, 201));
//! assert_eq!(world.ledger.entries().len(), 1);
//! ```

use std::net::SocketAddr;
use std::thread;

use serde_json::Value;

pub mod client;
pub mod collector;
pub mod dialect;
pub mod gateway;
mod http2;
pub mod interposer;
pub mod ledger;
pub mod neighbours;
pub mod ports;
pub mod process;
pub mod processor;
pub mod prometheus;
pub mod redis;
pub mod redis_cluster;
pub mod redis_group;
pub mod registry;
pub mod resp;
pub mod stock;
pub mod troublemaker;
pub mod wait;
pub mod webdis;

pub use client::{Connection, Request, Response, send_all};
pub use collector::Collector;
pub use dialect::Dialect;
pub use gateway::{Gateway, Options};
pub use interposer::{Fault, Interposer};
pub use ledger::{Entry, Ledger};
pub use ports::Port;
pub use processor::Processor;
pub use prometheus::Prometheus;
pub use redis::Redis;
pub use redis_cluster::RedisCluster;
pub use redis_group::RedisGroup;
pub use resp::Reply;
pub use stock::{Stock, Taking};
pub use troublemaker::{Trouble, Troublemaker};
pub use wait::{PATIENCE, wait_for, wait_until};
pub use webdis::Webdis;

/// What a request shows for a caller where the test does not say otherwise: a client without a token is not protected.
pub const CALLER: &str = "Bearer alice";

/// A gateway with the ledger behind it: what most tests need.
#[derive(Debug)]
pub struct World {
    // Ends first, so that it logs no complaints about its upstream.
    /// Real Envoy with the filter.
    pub gateway: Gateway,
    /// The service behind it.
    pub ledger: Ledger,
}

impl World {
    /// Starts both, the filter with this plugin configuration.
    #[track_caller]
    pub fn start(configuration: Value) -> World {
        World::with(configuration, |options| options)
    }

    /// Starts both, with more to say about the gateway: `World::with(json!({}), |o| o.lds())`.
    #[track_caller]
    pub fn with(configuration: Value, change: impl FnOnce(Options) -> Options) -> World {
        let ledger = Ledger::start();
        let gateway = Gateway::start(change(Options::new(ledger.addr()).configuration(configuration)));
        World { gateway, ledger }
    }

    /// A POST to the gateway, by [`CALLER`].
    pub fn post(&self, path: &str) -> Request {
        self.request("POST", path)
    }

    /// Any request to the gateway, by [`CALLER`].
    pub fn request(&self, method: &str, path: &str) -> Request {
        self.gateway.request(method, path)
    }
}

/// Gateways, two workers each, on one Redis, behind Webdis where that is the dialect, with the ledger behind all.
#[derive(Debug)]
pub struct SharedWorld {
    // Each part ends before what it talks to.
    /// Real Envoys with the filter.
    pub gateways: Vec<Gateway>,
    /// The service behind them.
    pub ledger: Ledger,
    /// What the gateways take for the store.
    pub interposer: Interposer,
    /// Between the interposer and Redis, where HTTP is spoken.
    pub webdis: Webdis,
    /// Where the records are.
    pub redis: Redis,
}

impl SharedWorld {
    /// Starts all of it with two gateways, the filters with this plugin configuration on top of the `store` of
    /// the dialect's file, on a Redis that keeps nothing on disk.
    #[track_caller]
    pub fn start(configuration: Value) -> SharedWorld {
        SharedWorld::on(Redis::start(), configuration)
    }

    /// As [`start`](SharedWorld::start) on this Redis.
    #[track_caller]
    pub fn on(redis: Redis, configuration: Value) -> SharedWorld {
        SharedWorld::with(redis, &[configuration.clone(), configuration], |options| options)
    }

    /// As [`start`](SharedWorld::start) with one gateway only.
    #[track_caller]
    pub fn alone(configuration: Value) -> SharedWorld {
        SharedWorld::with(Redis::start(), &[configuration], |options| options)
    }

    /// One gateway for each configuration, with more to say about all of them.
    #[track_caller]
    pub fn with(redis: Redis, configurations: &[Value], change: impl Fn(Options) -> Options + Sync) -> SharedWorld {
        SharedWorld::speaking(Dialect::chosen(), redis, configurations, change)
    }

    /// As [`with`](SharedWorld::with) in this dialect.
    #[track_caller]
    pub fn speaking(
        dialect: Dialect,
        redis: Redis,
        configurations: &[Value],
        change: impl Fn(Options) -> Options + Sync,
    ) -> SharedWorld {
        let ledger = Ledger::start();
        let webdis = Webdis::start(redis.addr());
        let interposer = Interposer::speaking(dialect, dialect.front(&redis, &webdis));
        let start = |configuration: &Value| {
            let mut configuration = configuration.clone();
            for (member, value) in dialect.store().as_object().into_iter().flatten() {
                configuration["store"][member] = value.clone();
            }
            let options = Options::speaking(dialect, ledger.addr(), interposer.addr()).configuration(configuration);
            Gateway::try_start(change(options))
        };
        // Each compiles the module, which takes a processor a while.
        let started: Vec<_> = thread::scope(|scope| {
            let starting: Vec<_> = configurations.iter().map(|one| scope.spawn(|| start(one))).collect();
            starting.into_iter().map(|gateway| gateway.join().expect("starting does not panic")).collect()
        });
        let gateways = started.into_iter().collect::<Result<_, _>>().unwrap_or_else(|message| panic!("{message}"));
        SharedWorld { gateways, ledger, interposer, webdis, redis }
    }

    /// Has what is asked from now on go to another Redis.
    pub fn turn_to(&self, redis: SocketAddr) {
        match Dialect::chosen() {
            Dialect::Resp => self.interposer.turn_to(redis),
            Dialect::Webdis => self.webdis.turn_to(redis),
        }
    }

    /// A POST to the first gateway, by [`CALLER`]; `.to(world.other())` sends it to the last.
    pub fn post(&self, path: &str) -> Request {
        self.request("POST", path)
    }

    /// Any request to the first gateway, by [`CALLER`].
    pub fn request(&self, method: &str, path: &str) -> Request {
        self.gateways[0].request(method, path)
    }

    /// Where the last gateway listens.
    pub fn other(&self) -> SocketAddr {
        self.gateways[self.gateways.len() - 1].addr()
    }

    /// What a counter of the filter has counted, as [`Gateway::counted`] has it, all gateways together.
    #[track_caller]
    pub fn counted(&self, what: &str) -> u64 {
        self.gateways.iter().map(|gateway| gateway.counted(what)).sum()
    }

    /// A gauge of the filter without its prefix (`running`), all gateways together.
    #[track_caller]
    pub fn stat(&self, name: &str) -> u64 {
        self.gateways.iter().map(|gateway| gateway.stat(&format!("wasmcustom.idempotency_{name}"))).sum()
    }
}
