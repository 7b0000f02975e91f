//! The root of one plugin in one worker, as Envoy calls it.
//!
//! Its one rule: a callback is handed to the worker, and nothing is decided.
//! It does not know what is under way.

use std::cell::RefCell;
use std::rc::Rc;

use crate::config::Document;
use crate::event::Executed;
use crate::shell::heirs;
use crate::shell::host::{self, Buffer, Level, Map};
use crate::shell::plugin::{Plugin, status};
use crate::shell::stream::HttpStream;
use crate::shell::streams::Streams;

/// How often the root looks at what is due.
const TICK_MS: u32 = 100;

/// The plugin in one worker.
pub struct Root {
    id: u32,
    plugin: Option<Rc<RefCell<Plugin>>>,
    is_framing: bool,
}

impl Root {
    /// A root that has not been configured.
    pub fn new(id: u32) -> Self {
        Root { id, plugin: None, is_framing: false }
    }

    /// Whether it is the other plugin of the module, which takes frames off.
    pub fn is_framing(&self) -> bool {
        self.is_framing
    }

    /// A stream of this plugin.
    pub fn stream(&self, id: u32) -> HttpStream {
        HttpStream::new(id, self.plugin.clone())
    }

    /// The plugin is to go; tells whether it may at once.
    pub fn on_done(&mut self) -> bool {
        let Some(plugin) = &self.plugin else { return true };
        let plugin = &mut *plugin.borrow_mut();
        plugin.count_unmatched();
        heirs::hand_over(plugin);
        let may_go = plugin.worker.drain(&mut plugin.envoy);
        if may_go {
            plugin.envoy.streams().into_iter().for_each(Streams::end);
        }
        may_go
    }

    /// A call of this plugin has ended; without header fields it has failed.
    pub fn on_http_call_response(&mut self, token: u32, headers: usize, body_size: usize) {
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
        } else if let Some(heard) = envoy.call_ended(token, responded, body_size) {
            worker.on_store_heard(envoy, heard);
        }
    }

    /// A message has come on a stream of this plugin's.
    pub fn on_stream_message(&mut self, token: u32, size: usize) {
        let Some(plugin) = &self.plugin else { return };
        let Plugin { worker, envoy, .. } = &mut *plugin.borrow_mut();
        if let Some(received) = envoy.streams().and_then(|streams| streams.received(token, size)) {
            worker.on_store_heard(envoy, received.heard);
            worker.wake_root(envoy);
        }
    }

    /// A stream of this plugin's has ended.
    pub fn on_stream_close(&mut self, token: u32) {
        let Some(plugin) = &self.plugin else { return };
        let Plugin { worker, envoy, .. } = &mut *plugin.borrow_mut();
        if let Some(heard) = envoy.streams().and_then(|streams| streams.closed(token)) {
            worker.on_store_heard(envoy, heard);
        }
    }

    /// Reads the configuration; tells whether it is right.
    pub fn on_configure(&mut self, size: usize) -> bool {
        let document = host::buffer(Buffer::PluginConfiguration, 0, size);
        let read = Document::parse(&document, &|name| std::env::var(name).ok()).map_err(|error| error.to_string());
        let configured = read.and_then(|read| {
            let (operator, config) = match read {
                Document::Framing => return Ok(None),
                Document::Gateway(config) => (None, config),
                Document::Operator(operator, config) => (Some(operator), config),
            };
            Plugin::configure(self.id, *config, operator, &document).map(Some)
        });
        match configured {
            Ok(None) => {
                self.is_framing = true;
                true
            }
            Ok(Some(plugin)) => {
                let plugin = Rc::new(RefCell::new(plugin));
                heirs::note(&plugin);
                self.plugin = Some(plugin);
                host::set_tick_period(TICK_MS);
                true
            }
            Err(sentence) => {
                host::log(Level::Error, &format!("the configuration is refused: {sentence}"));
                false
            }
        }
    }

    /// Looks at what is due.
    pub fn on_tick(&mut self) {
        let Some(plugin) = &self.plugin else { return };
        let may_go = {
            let plugin = &mut *plugin.borrow_mut();
            if plugin.worker.is_draining() {
                heirs::hand_over(plugin);
            }
            plugin.count_unmatched();
            plugin.envoy.streams().into_iter().for_each(Streams::let_go);
            for lost in plugin.envoy.streams().map(Streams::tick).unwrap_or_default() {
                plugin.worker.on_store_heard(&mut plugin.envoy, lost);
            }
            plugin.worker.on_tick(&mut plugin.envoy)
        };
        host::set_effective_context(self.id);
        if may_go {
            plugin.borrow_mut().envoy.streams().into_iter().for_each(Streams::end);
            self.plugin = None;
            host::done();
        }
    }

    /// A stream has woken the root.
    pub fn on_queue_ready(&mut self) {
        if let Some(plugin) = &self.plugin {
            let Plugin { worker, envoy, .. } = &mut *plugin.borrow_mut();
            envoy.streams().into_iter().for_each(Streams::let_go);
            worker.on_wake(envoy);
        }
    }
}
