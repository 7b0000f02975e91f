//! The scenarios: what is sent, to which sides, and which of them are compared.
//!
//! One rule: all sides of a scenario bear the same load, byte for byte, in front of the same upstream.
//! It does not know how anything is measured.

use harness::Dialect::{self, Resp, Webdis};
use harness::{Request, Response};
use serde_json::{Value, json};

use crate::nginx::body;
use crate::peer;
use crate::side::{Recipe, Share, Side, What};
use crate::wrk::{CALLER, Keys, Load};

/// One load, and the sides that have to bear it.
pub struct Scenario {
    /// What `ONLY` calls it.
    pub letter: char,
    /// What happens.
    pub title: &'static str,
    /// What is sent.
    pub load: Load,
    /// How many requests are under way at any moment; none where that is for the settings to say.
    pub connections: Option<u64>,
    /// How the sides are started.
    pub sides: &'static [Recipe],
    /// Sees to it, before anything is measured, that a side answers as the scenario says.
    pub check: fn(&Side, &Load) -> Result<(), String>,
    /// What the figures are for.
    pub comparisons: &'static [Comparison],
}

impl Scenario {
    /// The sides that `BEFORE` is about: those that are judged here, and have the filter in them.
    pub fn judged(&self) -> impl Iterator<Item = &'static Recipe> {
        let is_judged = |recipe: &Recipe| self.comparisons.iter().any(|comparison| comparison.subject == recipe.name);
        self.sides.iter().filter(move |recipe| recipe.what.is_the_filter() && is_judged(recipe))
    }
}

/// Two sides; the first one's figure is divided by the second's.
#[derive(Debug)]
pub struct Comparison {
    /// The name of the side that is judged.
    pub subject: &'static str,
    /// The name of the side it is judged by.
    pub reference: &'static str,
    /// What figure.
    pub by: By,
    /// What the ratio should be; none where it is only good to know.
    pub target: Option<f64>,
}

/// What sides are compared by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// Requests/s; the target is the least that will do.
    Rate,
    /// What they add to the median latency of this side; the target is the most that will do.
    Added(&'static str),
}

/// In the order in which they run.
pub const ALL: [Scenario; 8] = [
    Scenario {
        letter: 'a',
        title: "A request that no rule matches: GET.",
        load: Load { method: "GET", path: "/v1/payments/pay_1", keys: Keys::None },
        connections: None,
        sides: &[
            Recipe { name: NO_FILTER, what: What::NoFilter, expected: PROXIED },
            Recipe { name: EMPTY, what: What::Another("empty_filter"), expected: PROXIED },
            Recipe { name: FILTER, what: What::Filter(|| json!({})), expected: UNTOUCHED },
        ],
        check: |side, load| is_untouched(&side.send(load, None)?, 200),
        comparisons: &[
            Comparison { subject: FILTER, reference: EMPTY, by: By::Rate, target: Some(0.97) },
            Comparison { subject: FILTER, reference: NO_FILTER, by: By::Rate, target: None },
            Comparison { subject: EMPTY, reference: NO_FILTER, by: By::Rate, target: None },
        ],
    },
    Scenario {
        letter: 'b',
        title: "A replay: one POST of 256 bytes with one key, executed once before.",
        load: Load { method: "POST", path: "/v1/payments", keys: Keys::Same(KEY) },
        connections: None,
        sides: &[
            Recipe { name: NO_FILTER, what: What::NoFilter, expected: PROXIED },
            Recipe { name: UNMATCHED, what: What::Filter(elsewhere), expected: UNTOUCHED },
            Recipe { name: FILTER, what: What::Filter(|| json!({})), expected: REPLAYED },
        ],
        check: |side, load| {
            let send = || side.send(load, None);
            match side.name {
                FILTER => is_verdict(&send()?, "executed").and_then(|()| is_verdict(&send()?, "replayed")),
                _ => is_untouched(&send()?, 201),
            }
        },
        comparisons: &[
            // The same Envoy with the same filter in it, proxying the same POST.
            Comparison { subject: FILTER, reference: UNMATCHED, by: By::Rate, target: Some(1.3) },
            Comparison { subject: FILTER, reference: NO_FILTER, by: By::Rate, target: None },
        ],
    },
    Scenario {
        letter: 'c',
        title: "First executions: POSTs of 256 bytes, each with a new key.",
        load: Load { method: "POST", path: "/v1/payments", keys: Keys::Fresh },
        connections: None,
        sides: &[
            Recipe { name: NO_FILTER, what: What::NoFilter, expected: PROXIED },
            Recipe { name: HOLDING, what: What::Another("holding_filter"), expected: PROXIED },
            Recipe { name: FILTER, what: What::Filter(roomy), expected: EXECUTED },
        ],
        check: |side, load| match (side.name, side.send(load, Some(KEY))?) {
            (FILTER, response) => is_verdict(&response, "executed"),
            (_, response) => is_untouched(&response, 201),
        },
        comparisons: &[
            Comparison { subject: FILTER, reference: NO_FILTER, by: By::Rate, target: Some(0.6) },
            Comparison { subject: FILTER, reference: HOLDING, by: By::Rate, target: None },
            Comparison { subject: HOLDING, reference: NO_FILTER, by: By::Rate, target: None },
        ],
    },
    Scenario {
        letter: 'd',
        title: "A request that no rule matches, judged by its path: POST, one template or 50.",
        load: Load { method: "POST", path: "/v1/accounts/acc_4711/statements", keys: Keys::None },
        connections: None,
        sides: &[
            Recipe { name: ONE_RULE, what: What::Filter(|| rules(1)), expected: UNTOUCHED },
            Recipe { name: FIFTY_RULES, what: What::Filter(|| rules(50)), expected: UNTOUCHED },
        ],
        check: |side, load| {
            let last = if side.name == ONE_RULE { 0 } else { 49 };
            let matched = Request::post(side.addr(), &format!("/v1/accounts/acc_1/{}", resource(last)));
            is_verdict(&matched.caller(CALLER).key(KEY).try_send()?, "executed")?;
            is_untouched(&side.send(load, None)?, 201)
        },
        comparisons: &[Comparison { subject: FIFTY_RULES, reference: ONE_RULE, by: By::Rate, target: Some(0.9) }],
    },
    Scenario {
        letter: 'e',
        title: "First executions with records in Redis, 32 connections: POSTs of 256 bytes, each with a new key.",
        load: FIRST_ON_REDIS,
        connections: Some(32),
        sides: FILTER_AND_PEER,
        check: is_first_on_redis,
        comparisons: &[
            Comparison { subject: FILTER, reference: ENVOY_AND_PEER, by: By::Rate, target: Some(1.15) },
            Comparison { subject: FILTER, reference: WEBDIS, by: By::Rate, target: Some(1.0) },
            Comparison { subject: FILTER, reference: PROXY, by: By::Rate, target: None },
            Comparison { subject: FILTER, reference: PEER, by: By::Rate, target: None },
        ],
    },
    Scenario {
        letter: 'f',
        title: "The same, 128 connections.",
        load: FIRST_ON_REDIS,
        connections: Some(128),
        sides: FILTER_AND_PEER,
        check: is_first_on_redis,
        comparisons: &[
            Comparison { subject: FILTER, reference: ENVOY_AND_PEER, by: By::Rate, target: Some(1.3) },
            Comparison { subject: FILTER, reference: WEBDIS, by: By::Rate, target: Some(1.0) },
            Comparison { subject: FILTER, reference: PROXY, by: By::Rate, target: None },
            Comparison { subject: FILTER, reference: PEER, by: By::Rate, target: None },
        ],
    },
    Scenario {
        letter: 'g',
        title: "A replay of what Redis keeps, from this Envoy's memory: one POST of 256 bytes with one key.",
        load: Load { method: "POST", path: "/v1/payments", keys: Keys::Same(KEY) },
        connections: None,
        sides: &[
            Recipe { name: EMBEDDED, what: What::Filter(|| json!({})), expected: REPLAYED },
            Recipe { name: REDIS, what: What::FilterOnRedis(Resp, remembering), expected: REPLAYED_FROM_MEMORY },
            Recipe { name: WEBDIS, what: What::FilterOnRedis(Webdis, remembering), expected: REPLAYED_FROM_MEMORY },
        ],
        check: |side, load| {
            let send = || side.send(load, None);
            is_verdict(&send()?, "executed").and_then(|()| is_verdict(&send()?, "replayed"))
        },
        comparisons: &[
            Comparison { subject: REDIS, reference: EMBEDDED, by: By::Rate, target: Some(0.9) },
            Comparison { subject: REDIS, reference: WEBDIS, by: By::Rate, target: None },
        ],
    },
    Scenario {
        letter: 'h',
        title: "Latency of first executions with records in Redis: one connection.",
        load: FIRST_ON_REDIS,
        connections: Some(1),
        sides: &[
            Recipe { name: NO_FILTER, what: What::NoFilter, expected: PROXIED },
            Recipe { name: FILTER, what: What::FilterOnRedis(Resp, before_reply), expected: EXECUTED },
            Recipe { name: AFTER_REPLY, what: What::FilterOnRedis(Resp, after_reply), expected: EXECUTED },
            Recipe { name: WEBDIS, what: What::FilterOnRedis(Webdis, before_reply), expected: EXECUTED },
            Recipe { name: ENVOY_AND_PEER, what: What::EnvoyAndPeer, expected: PROXIED },
            Recipe { name: PEER, what: What::Peer, expected: TWO_SETS },
        ],
        check: is_first_on_redis,
        comparisons: &[
            Comparison { subject: FILTER, reference: ENVOY_AND_PEER, by: By::Added(NO_FILTER), target: Some(1.2) },
            Comparison { subject: AFTER_REPLY, reference: ENVOY_AND_PEER, by: By::Added(NO_FILTER), target: Some(0.8) },
            Comparison { subject: FILTER, reference: WEBDIS, by: By::Added(NO_FILTER), target: Some(0.75) },
            Comparison { subject: FILTER, reference: PEER, by: By::Added(NO_FILTER), target: None },
        ],
    },
];

const FILTER_AND_PEER: &[Recipe] = &[
    Recipe { name: FILTER, what: What::FilterOnRedis(Resp, before_reply), expected: EXECUTED },
    Recipe { name: PROXY, what: What::FilterByProxy(by_proxy), expected: EXECUTED },
    Recipe { name: WEBDIS, what: What::FilterOnRedis(Webdis, before_reply), expected: EXECUTED },
    Recipe { name: ENVOY_AND_PEER, what: What::EnvoyAndPeer, expected: PROXIED },
    Recipe { name: PEER, what: What::Peer, expected: TWO_SETS },
];

/// Room for everything that is sent in a run: what is measured is not how records are thrown out.
fn roomy() -> Value {
    json!({ "store": { "max_bytes": 256 << 20 }, "policy": { "ttl_s": 2, "lease_ms": 1000 } })
}

/// Nothing leaves the memory while it is measured.
fn remembering(dialect: Dialect) -> Value {
    let mut store = dialect.store();
    store["cache"] = json!({ "ttl_s": 86400 });
    json!({ "store": store })
}

fn before_reply(dialect: Dialect) -> Value {
    saving(dialect, "before_reply")
}

/// Each operation is a command of its own, as a Redis Cluster wants it.
fn by_proxy() -> Value {
    let mut document = before_reply(Resp);
    document["store"]["batching"] = json!(false);
    document
}

fn after_reply(dialect: Dialect) -> Value {
    saving(dialect, "after_reply")
}

/// Records in Redis that live as long as the peer's.
fn saving(dialect: Dialect, save: &str) -> Value {
    json!({
        "store": dialect.store(),
        "policy": { "ttl_s": peer::TTL_S, "lease_ms": 1000, "save": save },
    })
}

fn is_first_on_redis(side: &Side, load: &Load) -> Result<(), String> {
    match (side.name, side.send(load, Some(KEY))?) {
        (FILTER | AFTER_REPLY | PROXY | WEBDIS, response) => is_verdict(&response, "executed"),
        (_, response) => is_untouched(&response, 201),
    }
}

/// A rule that leaves what is sent alone.
fn elsewhere() -> Value {
    json!({ "rules": [{ "match": { "path": { "prefix": "/elsewhere" } } }] })
}

/// Rules that all look at the path to its very end before they know that it is none of theirs.
fn rules(count: usize) -> Value {
    let rule = |index| {
        json!({
            "name": resource(index),
            "match": { "methods": ["POST"], "path": { "template": format!("/v1/accounts/{{account}}/{}", resource(index)) } },
        })
    };
    json!({ "rules": (0..count).map(rule).collect::<Vec<_>>() })
}

fn resource(index: usize) -> String {
    format!("payments-{index:02}")
}

fn is_untouched(response: &Response, status: u16) -> Result<(), String> {
    match (response.status, response.header("idempotency-status"), response.text() == body()) {
        (same, None, true) if same == status => Ok(()),
        _ => Err(format!("It should pass on the upstream's {status}, but answered {}.", told(response))),
    }
}

fn is_verdict(response: &Response, reply: &str) -> Result<(), String> {
    let status = response.header("idempotency-status").unwrap_or_default();
    if response.status == 201 && status.starts_with(reply) && response.text() == body() {
        return Ok(());
    }
    Err(format!("It should answer 201 with Idempotency-Status {reply:?}, but answered {}.", told(response)))
}

/// An answer in few words.
fn told(response: &Response) -> String {
    let status = response.header("idempotency-status").unwrap_or_default();
    let begins: String = response.text().chars().take(80).collect();
    format!("{} with Idempotency-Status {status:?} and a body that begins {begins:?}", response.status)
}

const NO_FILTER: &str = "no filter";
const EMPTY: &str = "empty filter";
const HOLDING: &str = "holding filter";
const FILTER: &str = "the filter";
const UNMATCHED: &str = "no rule matches";
const AFTER_REPLY: &str = "after_reply";
const EMBEDDED: &str = "embedded";
const REDIS: &str = "redis";
const WEBDIS: &str = "by Webdis";
const PROXY: &str = "by redis_proxy";
const PEER: &str = "the peer";
const ENVOY_AND_PEER: &str = "Envoy, peer";
const ONE_RULE: &str = "1 rule";
const FIFTY_RULES: &str = "50 rules";

const KEY: &str = "8e03978e-40d5-43dd-bc93-6894a57f9324";

const FIRST_ON_REDIS: Load = Load { method: "POST", path: peer::PATH, keys: Keys::Fresh };

const PROXIED: &[(&str, Share)] = &[(UPSTREAM_REQUESTS, Share::All)];
const UNTOUCHED: &[(&str, Share)] = &[(UPSTREAM_REQUESTS, Share::All), (STORE_OPERATIONS, Share::None)];
const REPLAYED: &[(&str, Share)] = &[("requests.replayed", Share::All), (UPSTREAM_REQUESTS, Share::None)];
const REPLAYED_FROM_MEMORY: &[(&str, Share)] =
    &[("replayed_cached", Share::All), ("store_calls", Share::None), (UPSTREAM_REQUESTS, Share::None)];
const EXECUTED: &[(&str, Share)] =
    &[("requests.executed", Share::All), ("stored", Share::All), (UPSTREAM_REQUESTS, Share::All)];
/// The peer takes a lock for each request and leaves a record.
const TWO_SETS: &[(&str, Share)] = &[("set", Share::Twice)];
const UPSTREAM_REQUESTS: &str = "cluster.payments.upstream_rq_total";
const STORE_OPERATIONS: &str = "store_operations";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn before_compares_what_is_judged_and_has_the_filter_in_it() {
        let judged =
            |scenario: &Scenario| scenario.judged().map(|recipe| recipe.name).collect::<Vec<_>>().join(" and ");
        let all: Vec<_> = ALL.iter().map(|scenario| format!("{} {}", scenario.letter, judged(scenario))).collect();
        let expected = "a the filter, b the filter, c the filter, d 50 rules, e the filter, f the filter, g redis, \
            h the filter and after_reply";
        assert_eq!(all.join(", "), expected);
    }

    #[test]
    fn what_is_compared_is_there() {
        for scenario in &ALL {
            let is_there = |name: &str| scenario.sides.iter().any(|recipe| recipe.name == name);
            for Comparison { subject, reference, by, .. } in scenario.comparisons {
                let bare = if let By::Added(bare) = by { bare } else { reference };
                assert!([subject, reference, bare].into_iter().all(|name| is_there(name)), "({})", scenario.letter);
            }
        }
    }
}
