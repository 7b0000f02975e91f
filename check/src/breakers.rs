//! Whether Envoy's own circuit breaker lets through what the workers may have under way at the store.
//!
//! Its one rule: what is counted is what the store's client may send at most, in as many workers as a large machine has.
//! It does not know how many calls there really are.

use envoy_idempotency::config::Redis;
use envoy_idempotency::store::client::Limits;
use serde_json::Value;

use crate::bootstrap::{list, whole};

/// As many workers as a large machine has.
const WORKERS: u64 = 64;
/// What Envoy lets through where nothing is said.
const ENVOYS_DEFAULT: u64 = 1024;

/// The warning that a cluster takes fewer calls than the workers of a large machine may make at once.
pub fn warning(redis: &Redis, cluster: &Value) -> Option<String> {
    let calls = Limits::new(redis).max_calls as u64;
    let thresholds = list(&cluster["circuit_breakers"]["thresholds"]);
    let of_calls = thresholds.iter().find(|one| one["priority"].is_null() || one["priority"] == "DEFAULT");
    let limits = ["max_connections", "max_pending_requests", "max_requests"].map(|field| {
        let given = of_calls.and_then(|one| whole(&one[field]));
        (field, given.unwrap_or(ENVOYS_DEFAULT))
    });
    let (field, least) = limits.into_iter().min_by_key(|(_, limit)| *limit)?;
    let workers = least / calls;
    (workers < WORKERS).then(|| {
        format!(
            "a worker may have {calls} calls to cluster {} under way, and {field} is {least}: with more than {workers} \
             workers Envoy refuses calls by itself; {} is enough for {WORKERS}",
            redis.cluster,
            calls * WORKERS
        )
    })
}
