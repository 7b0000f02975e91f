//! The plugin in one worker: its configuration, and the worker with all that is under way.
//!
//! Its one rule: exchanges live here and not in the streams, so that one can outlive its client.
//! It does not know which callback it is asked in.

use std::rc::Rc;

use crate::VERSION;
use crate::command::Failure;
use crate::config::{Config, Operator, Policy, Store as StoreConfig};
use crate::digest::Digest;
use crate::event::EventKind;
use crate::exchange::{Exchange, Secrets};
use crate::key::UpstreamKey;
use crate::look_up;
use crate::message::{Headers, RequestHead};
use crate::operator;
use crate::record::Owner;
use crate::shell::acts::{Entropy, Envoy};
use crate::shell::host::{self, Level, Map, SharedData};
use crate::shell::way::Way;
use crate::step::Flow;
use crate::store::cache::Cache;
use crate::store::client::{Client, Limits};
use crate::store::local::{SharedMap, Table};
use crate::store::{Pool, Store};
use crate::worker::{self, Host, Side, Stream, Worker};

thread_local! {
    /// What the outboxes of all plugins of this VM share.
    static POOL: Pool = Pool::default();
}

/// What all streams of one plugin in one worker share.
pub struct Plugin {
    /// Without a rule in an operator plugin.
    config: Config,
    /// None in a gateway; with the policy under which its words are taken.
    operator: Option<(Operator, Rc<Policy>)>,
    secrets: Rc<Secrets>,
    /// All that is under way.
    pub worker: Worker<SharedData>,
    /// What carries out the worker's acts.
    pub envoy: Envoy,
    /// Whether a rule was about the last request.
    has_matched: bool,
    /// How many requests no rule was about, since the last tick.
    unmatched: u64,
}

impl Plugin {
    /// Sets up what the document asks for.
    ///
    /// # Errors
    /// A sentence that says what is wrong, and where.
    pub fn configure(
        root: u32,
        mut config: Config,
        operator: Option<Operator>,
        document: &[u8],
    ) -> Result<Self, String> {
        let leases = config.rules.iter().map(|rule| rule.policy.lease_ms);
        let lease_ms = leases.max().unwrap_or(0);
        // No rule is in force where operators ask, so none is logged or counted.
        let operator = operator.and_then(|operator| Some((operator, config.rules.pop()?.policy)));
        let plugin = host::property(&["plugin_name"]).unwrap_or_default();
        let mut entropy = Entropy::default();
        let (store, way) = match &config.store {
            StoreConfig::Local { max_bytes } => {
                let table = Table::open(SharedData, &plugin, *max_bytes, u64::from_le_bytes(entropy.draw()));
                let refused = |failure: Failure| format!("the embedded store cannot be opened: {}", failure.as_str());
                (Store::Embedded(table.map_err(refused)?), None)
            }
            StoreConfig::Redis(redis) => {
                let cache = redis.cache.map(|bounds| Cache::new(SharedData, &plugin, &redis.place(), bounds));
                let client = POOL.with(|pool| Client::sharing(Limits::new(redis), pool));
                let store = Store::Remote(Box::new(client), cache);
                (store, Some(Way::new(root, redis)))
            }
        };
        let mut identity = Digest::new("identity", None);
        identity.part("plugin", &plugin);
        identity.part("document", document);
        let identity = identity.finish();
        let envoy = Envoy::new(&config, identity, way, entropy)?;
        introduce_once(&config, &identity);
        let worker = Worker::new(store, lease_ms);
        Ok(Plugin {
            secrets: Rc::new(Secrets::new(&config, &plugin)),
            config,
            operator,
            worker,
            envoy,
            has_matched: false,
            unmatched: 0,
        })
    }

    /// Whether what this plugin owes its store can as well be said by the other.
    pub fn has_store_of(&self, other: &Plugin) -> bool {
        match (&self.config.store, &other.config.store) {
            (StoreConfig::Redis(own), StoreConfig::Redis(other)) => own.is_same_store(other),
            _ => false,
        }
    }

    /// Begins an exchange if a rule is about this request. Called in request headers, for every request there is.
    pub fn begin(&mut self, stream: &mut Stream, end: bool) -> Option<worker::Action> {
        let begun = self.begin_matched(stream, end);
        self.unmatched += u64::from(begun.is_none());
        begun
    }

    /// Tells the host how many requests no rule was about: once a tick, so that none of them pays for it.
    pub fn count_unmatched(&mut self) {
        self.envoy.count_unmatched(std::mem::take(&mut self.unmatched));
    }

    fn begin_matched(&mut self, stream: &mut Stream, end: bool) -> Option<worker::Action> {
        // Every request may be an operator's.
        let is_at_once = std::mem::take(&mut self.has_matched) || self.operator.is_some();
        let head = if is_at_once { self.head_at_once() } else { self.head_step_by_step() }?;
        let metadata =
            |namespace: &str, key: &str| host::property(&["xds", "route_metadata", "filter_metadata", namespace, key]);
        let Plugin { config, operator, secrets, worker, envoy, has_matched, .. } = self;
        let owner = Owner(envoy.draw());
        let exchange = if let Some((operator, policy)) = operator {
            let is_empty = worker.store().table().is_some_and(|table| table.bytes() == 0);
            match operator::asked(operator, config, &head, is_empty)? {
                Ok(asked) => Exchange::operating(Rc::clone(policy), Rc::clone(secrets), asked, owner),
                Err(reply) => {
                    envoy.apply_flow(Side::Request, Flow::LocalReply(Rc::new(reply)));
                    return Some(worker::Action::Pause);
                }
            }
        } else if config.asks_gateway(head.method(), Some(head.path())).is_some() {
            let random = UpstreamKey(envoy.draw());
            match look_up::begin(config, secrets, &head, &host::property, &metadata, owner, random) {
                Ok(exchange) => exchange,
                Err(reply) => {
                    envoy.apply_flow(Side::Request, Flow::LocalReply(Rc::new(reply)));
                    return Some(worker::Action::Pause);
                }
            }
        } else {
            Exchange::new(Rc::clone(&config.rule_for(&head, &metadata)?.policy), Rc::clone(secrets))
        };
        *has_matched = true;
        let event = EventKind::RequestHeaders {
            head: &head,
            attribute: &host::property,
            owner,
            upstream_key: UpstreamKey(envoy.draw()),
            end,
        };
        Some(worker.on_request_headers(envoy, stream, exchange, event))
    }
}

impl Plugin {
    /// The head of a request that a rule may be about, asked of the host as far as it is needed: most requests of most
    /// gateways are not a rule's, and each question costs.
    fn head_step_by_step(&self) -> Option<RequestHead> {
        let method = host::header(Map::Request, ":method")?;
        if !self.config.may_match(&method, None) {
            return None;
        }
        if self.config.hinges_on_path(&method) {
            let target = host::header(Map::Request, ":path")?;
            if !self.config.may_match(&method, Some(&target)) {
                return None;
            }
        }
        Some(RequestHead { headers: host::headers(Map::Request)? })
    }

    /// The same in one question: where the last request was a rule's, the next is likely to be.
    fn head_at_once(&self) -> Option<RequestHead> {
        let head = RequestHead { headers: host::headers(Map::Request)? };
        let may_match = self.operator.is_some() || self.config.may_match(head.method(), head.headers.first(":path"));
        may_match.then_some(head)
    }
}

/// The status of a response.
pub fn status(headers: &Headers) -> Option<u16> {
    std::str::from_utf8(headers.first(":status")?).ok()?.parse().ok()
}

/// Says what is in force, and warns, in the first worker that gets here and in no other.
fn introduce_once(config: &Config, identity: &[u8; 32]) {
    let first: Result<bool, Failure> = SharedData.swap(identity, b"", None);
    if first.unwrap_or(true) {
        host::log(Level::Info, &format!("envoy-idempotency {VERSION}: {}", config.in_a_line()));
        config.warnings.iter().for_each(|warning| host::log(Level::Warn, warning));
    }
}
