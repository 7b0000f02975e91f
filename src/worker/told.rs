//! What a worker tells its host of itself: its gauges, and what is worth a log line.
//!
//! Its one rule: a gauge is changed by how much it has changed, because all workers share it, and what every request would
//! say is said once in a while.
//! It does not know where gauges and lines are shown.

use std::mem::discriminant;

use crate::step::LogEvent;
use crate::store::Store;
use crate::store::client::Client;
use crate::store::local::SharedMap;
use crate::worker::Worker;
use crate::worker::host::{Gauge, Host};

/// How many ticks pass between two looks at the table's size, and at what was given up.
pub(super) const GAUGE_TICKS: u32 = 10;
/// How long what every request would say, and was logged, is not logged again.
const QUIET_MS: u64 = 1_000;
/// How long the store must not have failed before it is said to answer again.
pub const STORE_QUIET_MS: u64 = 2_000;

impl<C: SharedMap> Worker<C> {
    pub(super) fn log<H: Host>(&mut self, host: &mut H, log_event: LogEvent, now_ms: u64) {
        if let LogEvent::StoreFailed { failure, .. } = &log_event
            && failure.is_of_the_store()
        {
            self.store_failed_ms = Some(now_ms);
            if host.note_store_failed(now_ms) {
                host.log(&log_event);
            }
            return;
        }
        // Every request would say so; once a second is enough.
        let kind = discriminant(&log_event);
        self.said_ms.retain(|(_, said_ms)| now_ms < said_ms + QUIET_MS);
        if self.said_ms.iter().any(|(said, _)| *said == kind) {
            return;
        }
        if let LogEvent::NoCaller { rule, .. } = &log_event
            && !host.note_no_caller(rule, now_ms)
        {
            return;
        }
        host.log(&log_event);
        if log_event.is_repeated() {
            self.said_ms.push((kind, now_ms));
        }
    }

    /// Says that the store answers again, once that has held for a while: a store of which a part fails would be said to
    /// come and go all the time.
    pub(super) fn tell_recovery<H: Host>(&mut self, host: &mut H, now_ms: u64) {
        let answers = self.exchanges.store_answers();
        let is_over = |failed_ms: u64| answers && now_ms >= failed_ms + STORE_QUIET_MS;
        if !self.store_failed_ms.is_some_and(is_over) {
            return;
        }
        self.store_failed_ms = None;
        if let Some(since_ms) = host.note_store_answers(now_ms) {
            host.log(&LogEvent::StoreAnswers { after_ms: now_ms.saturating_sub(since_ms) });
        }
    }

    pub(super) fn tell_given_up<H: Host>(&mut self, host: &mut H, now_ms: u64) {
        for given_up in self.exchanges.store_mut().take_given_up() {
            self.log(host, LogEvent::GaveUp(given_up), now_ms);
        }
    }

    pub(super) fn tell_gauges<H: Host>(&mut self, host: &mut H) {
        let outbox = self.store().client().map_or(0, Client::owed);
        let is_broken = self.store().client().is_some_and(Client::is_broken);
        self.tell_gauge(host, Gauge::Running, self.running() as i64);
        self.tell_gauge(host, Gauge::Waiting, self.waiting() as i64);
        self.tell_gauge(host, Gauge::Outbox, outbox as i64);
        self.tell_gauge(host, Gauge::Draining, self.is_draining.into());
        self.tell_gauge(host, Gauge::BreakerOpen, is_broken.into());
        if !self.ticks.is_multiple_of(GAUGE_TICKS) {
            return;
        }
        match self.store() {
            Store::Embedded(table) => {
                let (bytes, records) = table.size();
                host.set_store_size(bytes, records);
            }
            Store::Remote(client, _) => host.note_owed_since(client.owed_since_ms(), host.now_ms()),
        }
    }

    /// Tells the host by how much a gauge has changed, because all workers share it.
    pub(super) fn tell_gauge<H: Host>(&mut self, host: &mut H, gauge: Gauge, now: i64) {
        for (_, told) in self.told.iter_mut().filter(|(told, _)| *told == gauge) {
            if now != *told {
                host.change_gauge(gauge, now - *told);
                *told = now;
            }
        }
    }
}
