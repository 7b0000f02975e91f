//! The four scenarios: what is sent, to which gateways, and which of them are compared.
//!
//! One rule: every gateway is the shipped one, changed only in what the comparison is about. The access log, which the
//! shipped file has too, is written by all of them, but to nowhere.
//! It does not know how anything is measured.

use std::net::SocketAddr;

use harness::gateway::{hcm, plugin};
use harness::{Gateway, Options, Request, Response};
use serde_json::{Value, json};

use crate::machine::workers;
use crate::nginx::body;
use crate::target_folder;
use crate::wrk::{CALLER, Keys, Load};

/// One load, and the gateways that have to bear it.
pub struct Scenario {
    /// What `ONLY` calls it.
    pub letter: char,
    /// What happens.
    pub title: &'static str,
    /// What is sent.
    pub load: Load,
    /// Starts the gateways, with the address of the upstream.
    pub sides: fn(SocketAddr) -> Result<Vec<Side>, String>,
    /// Sees to it, before anything is measured, that a gateway answers as the scenario says.
    pub check: fn(&Side, &Load) -> Result<(), String>,
    /// What the figures are for.
    pub comparisons: &'static [Comparison],
}

/// One gateway of a scenario.
pub struct Side {
    /// What it is called in tables and comparisons.
    pub name: &'static str,
    /// It runs for as long as the scenario.
    pub gateway: Gateway,
    /// Counters, and for how many of the requests each must go up.
    pub expected: &'static [(&'static str, Share)],
}

/// For how many of the requests a counter goes up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Share {
    /// Every one.
    All,
    /// Not a single one.
    None,
}

/// Two sides; the first one's requests/s are divided by the second's.
#[derive(Debug)]
pub struct Comparison {
    /// The name of the side that is judged.
    pub subject: &'static str,
    /// The name of the side it is judged by.
    pub reference: &'static str,
    /// What the ratio should be at least; none where it is only good to know.
    pub target: Option<f64>,
}

/// In the order in which they run.
pub const ALL: [Scenario; 4] = [
    Scenario {
        letter: 'a',
        title: "A request that no rule matches: GET.",
        load: Load { method: "GET", path: "/v1/payments/pay_1", keys: Keys::None },
        sides: |upstream| {
            Ok(vec![
                Side::start(NO_FILTER, without_filter(upstream), PROXIED)?,
                Side::start(EMPTY, with_empty_filter(upstream)?, PROXIED)?,
                Side::start(FILTER, with_filter(upstream, json!({})), UNTOUCHED)?,
            ])
        },
        check: |side, load| is_untouched(&side.send(load, None)?, 200),
        comparisons: &[
            Comparison { subject: FILTER, reference: EMPTY, target: Some(0.97) },
            Comparison { subject: FILTER, reference: NO_FILTER, target: None },
            Comparison { subject: EMPTY, reference: NO_FILTER, target: None },
        ],
    },
    Scenario {
        letter: 'b',
        title: "A replay: one POST of 256 bytes with one key, executed once before.",
        load: Load { method: "POST", path: "/v1/payments", keys: Keys::Same(KEY) },
        sides: |upstream| {
            Ok(vec![
                Side::start(NO_FILTER, without_filter(upstream), PROXIED)?,
                Side::start(UNMATCHED, with_filter(upstream, elsewhere()), UNTOUCHED)?,
                Side::start(FILTER, with_filter(upstream, json!({})), REPLAYED)?,
            ])
        },
        check: |side, load| {
            let send = || side.send(load, None);
            match side.name {
                FILTER => is_verdict(&send()?, "executed").and_then(|()| is_verdict(&send()?, "replayed")),
                _ => is_untouched(&send()?, 201),
            }
        },
        comparisons: &[
            // The same Envoy with the same filter in it, proxying the same POST.
            Comparison { subject: FILTER, reference: UNMATCHED, target: Some(1.3) },
            Comparison { subject: FILTER, reference: NO_FILTER, target: None },
        ],
    },
    Scenario {
        letter: 'c',
        title: "First executions: POSTs of 256 bytes, each with a new key.",
        load: Load { method: "POST", path: "/v1/payments", keys: Keys::Fresh },
        sides: |upstream| {
            // Room for everything that is sent in a run: what is measured is not how records are thrown out.
            let configuration = json!({
                "store": { "max_bytes": 256 << 20 },
                "policy": { "ttl_s": 2, "lease_ms": 1000 },
            });
            Ok(vec![
                Side::start(NO_FILTER, without_filter(upstream), PROXIED)?,
                Side::start(FILTER, with_filter(upstream, configuration), EXECUTED)?,
            ])
        },
        check: |side, load| match (side.name, side.send(load, Some(KEY))?) {
            (FILTER, response) => is_verdict(&response, "executed"),
            (_, response) => is_untouched(&response, 201),
        },
        comparisons: &[Comparison { subject: FILTER, reference: NO_FILTER, target: Some(0.6) }],
    },
    Scenario {
        letter: 'd',
        title: "A request that no rule matches, judged by its path: POST, one template or 50.",
        load: Load { method: "POST", path: "/v1/accounts/acc_4711/statements", keys: Keys::None },
        sides: |upstream| {
            Ok(vec![
                Side::start(ONE_RULE, with_filter(upstream, rules(1)), UNTOUCHED)?,
                Side::start(FIFTY_RULES, with_filter(upstream, rules(50)), UNTOUCHED)?,
            ])
        },
        check: |side, load| {
            let last = if side.name == ONE_RULE { 0 } else { 49 };
            let matched = Request::post(side.gateway.addr(), &format!("/v1/accounts/acc_1/{}", resource(last)));
            is_verdict(&matched.key(KEY).try_send()?, "executed")?;
            is_untouched(&side.send(load, None)?, 201)
        },
        comparisons: &[Comparison { subject: FIFTY_RULES, reference: ONE_RULE, target: Some(0.9) }],
    },
];

impl Side {
    fn start(name: &'static str, options: Options, expected: &'static [(&'static str, Share)]) -> Result<Side, String> {
        let options = options.concurrency(workers()).log_level("warning").mutate(|tree| {
            hcm(tree)["access_log"][0]["typed_config"]["path"] = json!("/dev/null");
        });
        Ok(Side { name, gateway: Gateway::try_start(options)?, expected })
    }

    /// Sends what the load sends, once, with a key where the load has another every time.
    fn send(&self, load: &Load, fresh: Option<&str>) -> Result<Response, String> {
        let mut request = Request::new(self.gateway.addr(), load.method, load.path).header("Authorization", CALLER);
        if load.method == "POST" {
            request = request.header("Content-Type", "application/json").body(load.body());
        }
        match (load.keys, fresh) {
            (Keys::Same(key), _) | (Keys::Fresh, Some(key)) => request.key(key),
            _ => request,
        }
        .try_send()
    }
}

fn without_filter(upstream: SocketAddr) -> Options {
    Options::new(upstream).without_filter()
}

fn with_filter(upstream: SocketAddr, configuration: Value) -> Options {
    Options::new(upstream).configuration(configuration)
}

fn with_empty_filter(upstream: SocketAddr) -> Result<Options, String> {
    let module = target_folder().join("wasm32-wasip1/release/empty_filter.wasm");
    if !module.is_file() {
        return Err(format!("The empty filter is not at {}: `make bench` builds it.", module.display()));
    }
    Ok(Options::new(upstream).mutate(move |tree| {
        plugin(tree)["vm_config"]["code"]["local"]["filename"] = json!(module);
    }))
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
        _ => Err(format!("It should pass on the upstream's {status}, but answered {response:?}.")),
    }
}

fn is_verdict(response: &Response, verdict: &str) -> Result<(), String> {
    let told = response.header("idempotency-status").unwrap_or_default();
    if response.status == 201 && told.starts_with(verdict) && response.text() == body() {
        return Ok(());
    }
    Err(format!("It should answer 201 with Idempotency-Status {verdict:?}, but answered {response:?}."))
}

const NO_FILTER: &str = "no filter";
const EMPTY: &str = "empty filter";
const FILTER: &str = "the filter";
const UNMATCHED: &str = "no rule matches";
const ONE_RULE: &str = "1 rule";
const FIFTY_RULES: &str = "50 rules";

const KEY: &str = "8e03978e-40d5-43dd-bc93-6894a57f9324";

const PROXIED: &[(&str, Share)] = &[(UPSTREAM_REQUESTS, Share::All)];
const UNTOUCHED: &[(&str, Share)] = &[(UPSTREAM_REQUESTS, Share::All), (STORE_OPERATIONS, Share::None)];
const REPLAYED: &[(&str, Share)] =
    &[("wasmcustom.idempotency_replayed_total", Share::All), (UPSTREAM_REQUESTS, Share::None)];
const EXECUTED: &[(&str, Share)] = &[
    ("wasmcustom.idempotency_executed_total", Share::All),
    ("wasmcustom.idempotency_stored_total", Share::All),
    (UPSTREAM_REQUESTS, Share::All),
];
const UPSTREAM_REQUESTS: &str = "cluster.payments.upstream_rq_total";
const STORE_OPERATIONS: &str = "wasmcustom.idempotency_store_operations_total";
