//! What gateways under test speak to their store.
//!
//! One rule: it is chosen once for all tests of a run, by `DIALECT`, and a test names neither.
//! It does not know how a store answers.

use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::redis::Redis;
use crate::webdis::Webdis;

/// What is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// Redis's own protocol, on streams that stay open.
    Resp,
    /// HTTP, to Webdis.
    Webdis,
}

impl Dialect {
    /// `DIALECT` says `webdis`, or it is Redis's own protocol.
    pub fn chosen() -> Dialect {
        match std::env::var("DIALECT").as_deref() {
            Ok("resp") | Err(_) => Dialect::Resp,
            Ok("webdis") => Dialect::Webdis,
            Ok(other) => panic!("DIALECT is resp or webdis, not {other}."),
        }
    }

    /// The file of the folder `envoy` that speaks it.
    pub fn file(self) -> &'static str {
        match self {
            Dialect::Resp => "redis.yaml",
            Dialect::Webdis => "redis-webdis.yaml",
        }
    }

    /// The cluster of that file that has the store's address.
    pub fn cluster(self) -> &'static str {
        match self {
            Dialect::Resp => "redis",
            Dialect::Webdis => "webdis",
        }
    }

    /// Where it is spoken, of these two.
    pub fn front(self, redis: &Redis, webdis: &Webdis) -> SocketAddr {
        match self {
            Dialect::Resp => redis.addr(),
            Dialect::Webdis => webdis.addr(),
        }
    }

    /// `store` as that file has it.
    pub fn store(self) -> Value {
        match self {
            Dialect::Resp => json!({ "type": "redis", "cluster": "redis" }),
            Dialect::Webdis => json!({ "type": "redis", "dialect": "webdis", "cluster": "webdis" }),
        }
    }
}
