//! The root of one plugin in one worker: its configuration, and the worker with all that is under way.
//!
//! Its one rule: exchanges live here and not in the streams, so that one can outlive its client.
//! It does not know when anything is done; it hands callbacks to the worker.

use std::cell::RefCell;
use std::rc::Rc;

use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::{Action, ContextType};

use crate::command::Failure;
use crate::config::{Config, Store as StoreConfig};
use crate::digest::Digest;
use crate::event::{EventKind, Executed};
use crate::exchange::{Exchange, Secrets};
use crate::key::UpstreamKey;
use crate::look_up;
use crate::message::{Headers, RequestHead};
use crate::record::Owner;
use crate::shell::acts::{Entropy, Envoy};
use crate::shell::calls::Calls;
use crate::shell::host::{self, Buffer, Level, Map, SharedData};
use crate::shell::stream::HttpStream;
use crate::step::Flow;
use crate::store::Store;
use crate::store::cache::Cache;
use crate::store::client::{Client, Limits};
use crate::store::local::{Cells, Table};
use crate::worker::{self, Host, Side, Stream, Worker};

/// How often the root looks at what is due.
const TICK_MS: u32 = 100;

/// The plugin in one worker, as the SDK has it.
pub struct Root {
    id: u32,
    plugin: Option<Rc<RefCell<Plugin>>>,
}

/// What all streams of one plugin in one worker share.
pub struct Plugin {
    config: Config,
    secrets: Rc<Secrets>,
    /// All that is under way.
    pub worker: Worker<SharedData>,
    /// What carries out the worker's acts.
    pub envoy: Envoy,
}

impl Root {
    /// A root that has not been configured.
    pub fn new(id: u32) -> Self {
        Root { id, plugin: None }
    }
}

impl Context for Root {
    fn on_done(&mut self) -> bool {
        let Some(plugin) = &self.plugin else { return true };
        let Plugin { worker, envoy, .. } = &mut *plugin.borrow_mut();
        worker.drain(envoy)
    }

    fn on_http_call_response(&mut self, token: u32, headers: usize, body_size: usize, _trailers: usize) {
        let Some(plugin) = &self.plugin else { return };
        let Plugin { worker, envoy, .. } = &mut *plugin.borrow_mut();
        let responded = headers > 0;
        if let Some(exchange) = worker.take_execution(token) {
            let headers = responded.then(|| host::headers(Map::CallResponse)).flatten();
            let body = host::buffer(Buffer::CallResponseBody, 0, body_size);
            let answer = match headers.as_ref().and_then(|headers| Some((headers, status(headers)?))) {
                Some((headers, status)) => Executed::Answered { status, headers, body: &body },
                None => Executed::Lost,
            };
            worker.on_executed(envoy, exchange, answer);
        } else if let Some((batch, reply)) = envoy.call_ended(token, responded, body_size) {
            worker.on_store_reply(envoy, batch, reply);
        }
    }
}

impl RootContext for Root {
    fn on_configure(&mut self, size: usize) -> bool {
        match Plugin::configure(&host::buffer(Buffer::PluginConfiguration, 0, size)) {
            Ok(plugin) => {
                self.plugin = Some(Rc::new(RefCell::new(plugin)));
                host::set_tick_period(TICK_MS);
                true
            }
            Err(sentence) => {
                host::log(Level::Error, &format!("idempotency: the configuration is refused: {sentence}"));
                false
            }
        }
    }

    fn on_tick(&mut self) {
        let Some(plugin) = &self.plugin else { return };
        let may_go = {
            let Plugin { worker, envoy, .. } = &mut *plugin.borrow_mut();
            worker.on_tick(envoy)
        };
        host::set_effective_context(self.id);
        if may_go {
            self.plugin = None;
            host::done();
        }
    }

    fn on_queue_ready(&mut self, _queue: u32) {
        if let Some(plugin) = &self.plugin {
            let Plugin { worker, envoy, .. } = &mut *plugin.borrow_mut();
            worker.on_wake(envoy);
        }
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }

    fn create_http_context(&self, id: u32) -> Option<Box<dyn HttpContext>> {
        Some(Box::new(HttpStream::new(id, self.plugin.clone())))
    }
}

impl Plugin {
    fn configure(document: &[u8]) -> Result<Self, String> {
        let config = Config::parse(document, &|name| std::env::var(name).ok()).map_err(|error| error.to_string())?;
        let plugin = host::property(&["plugin_name"]).unwrap_or_default();
        let mut entropy = Entropy::default();
        let (store, calls) = match &config.store {
            StoreConfig::Local { max_bytes } => {
                let table = Table::open(SharedData, &plugin, *max_bytes, u64::from_le_bytes(entropy.draw()));
                let refused = |failure: Failure| format!("the embedded store cannot be opened: {}", failure.as_str());
                (Store::Embedded(table.map_err(refused)?), None)
            }
            StoreConfig::Redis(redis) => {
                let whose = format!("{} {} {} {}", redis.cluster, redis.authority, redis.path, redis.prefix);
                let cache = redis.cache.map(|bounds| Cache::new(SharedData, &plugin, &whose, bounds));
                let store = Store::Remote(Box::new(Client::new(Limits::new(redis))), cache);
                (store, Some(Calls::new(redis)))
            }
        };
        let mut identity = Digest::new("identity", None);
        identity.part("plugin", &plugin);
        identity.part("document", document);
        let identity = identity.finish();
        let envoy = Envoy::new(&config, identity, calls, entropy)?;
        warn_once(&config, &identity);
        let leases = config.rules.iter().map(|rule| rule.policy.lease_ms);
        let worker = Worker::new(store, leases.max().unwrap_or(0));
        Ok(Plugin { secrets: Rc::new(Secrets::new(&config)), config, worker, envoy })
    }

    /// Begins an exchange if a rule is about this request. Called in request headers, for every request there is.
    pub fn begin(&mut self, stream: &mut Stream, end: bool) -> Option<worker::Action> {
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
        let head = RequestHead { headers: host::headers(Map::Request)? };
        let metadata =
            |namespace: &str, key: &str| host::property(&["xds", "route_metadata", "filter_metadata", namespace, key]);
        let Plugin { config, secrets, worker, envoy } = self;
        let owner = Owner(envoy.draw());
        let exchange = if config.is_look_up(head.method(), Some(head.path())) {
            match look_up::begin(config, secrets, &head, &host::property, &metadata, owner) {
                Ok(exchange) => exchange,
                Err(reply) => {
                    envoy.apply_flow(Side::Request, Flow::Answer(Box::new(reply)));
                    return Some(worker::Action::Pause);
                }
            }
        } else {
            Exchange::new(Rc::clone(&config.rule_for(&head, &metadata)?.policy), Rc::clone(secrets))
        };
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

/// The SDK's word for whether the message in hand goes on.
impl From<worker::Action> for Action {
    fn from(action: worker::Action) -> Self {
        match action {
            worker::Action::Continue => Action::Continue,
            worker::Action::Pause => Action::Pause,
        }
    }
}

/// The status of a response.
pub fn status(headers: &Headers) -> Option<u16> {
    std::str::from_utf8(headers.first(":status")?).ok()?.parse().ok()
}

/// Logs the warnings in the first worker that gets here, and in no other.
fn warn_once(config: &Config, identity: &[u8; 32]) {
    let first: Result<bool, Failure> = SharedData.swap(identity, b"", None);
    if first.unwrap_or(true) {
        config.warnings.iter().for_each(|warning| host::log(Level::Warn, &format!("idempotency: {warning}")));
    }
}
