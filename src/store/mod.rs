//! What keeps the records: the rules they live by, the embedded store, and the client of one that is asked by messages.
//!
//! Its one rule: every store answers as [`model::apply`] does.
//! It does not know the exchange, nor the host.

mod resolution;

pub mod model;

mod similar;

pub mod locks;

pub mod local;

mod call;

mod outbox;

pub mod client;

pub mod cache;

pub mod redis;

pub mod resp;

pub mod pipeline;

pub mod webdis;

use crate::command::{Command, Failure, GivenUp, ReplyKind, StoreReply};
use crate::key::Name;
use std::rc::Rc;

use cache::Cache;
use client::{Batch, Client, Completion, Heard, Lane, Nonce};
use local::{SharedMap, Table};
pub use outbox::{HandedOver, Outbox, Pool};

/// The store as one worker reaches it.
pub enum Store<C> {
    /// The table in this Envoy, which answers at once.
    Embedded(Table<C>),
    /// One that is asked by messages, and what this Envoy remembers of its answers.
    Remote(Box<Client>, Option<Cache<C>>),
}

/// What came of an operation that was handed to a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Submission {
    /// It is answered, by the store or in its place.
    Answered(StoreReply),
    /// It is answered from what this Envoy remembers.
    Remembered(StoreReply),
    /// The answer comes later, as [`Completion`].
    Waiting,
}

impl<C: SharedMap> Store<C> {
    /// Hands one operation of one exchange to the store.
    pub fn ask(&mut self, exchange: u32, command: Command, now_ms: u64) -> Submission {
        let (client, cache) = match self {
            Store::Embedded(table) => return Submission::Answered(table.apply(command, now_ms)),
            Store::Remote(client, cache) => (client, cache),
        };
        if command.kind.reply_kind() == ReplyKind::Claim
            && let Some(reply) = cache.as_ref().and_then(|cache| cache.look(&command, now_ms))
        {
            return Submission::Remembered(reply);
        }
        let Some(told) = client.submit(exchange, Rc::new(command), now_ms) else { return Submission::Waiting };
        if let Some(cache) = cache {
            cache.learn(&told, now_ms);
        }
        Submission::Answered(told.reply)
    }

    /// A step of a search by the first bytes of names, from this bucket on: see [`Table::search`].
    ///
    /// # Errors
    /// The table cannot be read, or the store has none.
    pub fn search(&self, digits: [u8; 6], from: u32, now_ms: u64) -> Result<(Vec<Name>, Option<u32>), Failure> {
        self.table().map_or(Err(Failure::Host), |table| table.search(digits, from, now_ms))
    }

    /// The next call to send on this lane, if one may be sent and anything waits.
    pub fn next_batch(&mut self, lane: Lane, now_ms: u64, nonce: impl FnMut() -> Nonce) -> Option<Batch> {
        match self {
            Store::Embedded(_) => None,
            Store::Remote(client, _) => client.next_batch(lane, now_ms, nonce),
        }
    }

    /// Takes what came back from calls; `awaits` tells whether an exchange still waits for its claim.
    pub fn heard(&mut self, heard: Heard, now_ms: u64, awaits: impl Fn(u32) -> bool) -> Vec<Completion> {
        self.hear(now_ms, awaits, |client| {
            let replies = heard.replies.into_iter();
            let mut told: Vec<_> = replies.flat_map(|(batch, reply)| client.replied(batch, reply, now_ms)).collect();
            if let Some((batches, failure)) = heard.lost {
                told.extend(client.lost(&batches, failure, now_ms));
            }
            told
        })
    }

    /// Ends calls and operations whose time is over.
    pub fn tick(&mut self, now_ms: u64) -> Vec<Completion> {
        let told = self.hear(now_ms, |_| true, |client| client.tick(now_ms));
        if let Store::Remote(client, Some(cache)) = self {
            cache.remind(&client.reminders(), now_ms);
        }
        told
    }

    /// The worker drains: what is owed is kept for so long at most, and withdrawals for so long.
    pub fn drain(&mut self, withdrawals_until_ms: u64, until_ms: u64) {
        if let Store::Remote(client, _) = self {
            client.outbox_mut().drain(withdrawals_until_ms, until_ms);
        }
    }

    /// Gives away what another worker of the same store, which shares the pool, is to keep.
    pub fn hand_over(&mut self) -> Vec<HandedOver> {
        match self {
            Store::Embedded(_) => Vec::new(),
            Store::Remote(client, _) => client.outbox_mut().hand_over(),
        }
    }

    /// Keeps what another worker has given away.
    pub fn inherit(&mut self, handed_over: Vec<HandedOver>, now_ms: u64) {
        if let Store::Remote(client, cache) = self {
            let commands = client.inherit(handed_over);
            cache.iter().for_each(|cache| cache.remind(&commands, now_ms));
        }
    }

    /// What was given up since it was asked last, by reason.
    pub fn take_given_up(&mut self) -> Vec<GivenUp> {
        match self {
            Store::Embedded(_) => Vec::new(),
            Store::Remote(client, _) => client.outbox_mut().take_given_up(),
        }
    }

    /// The client of a store that is asked by messages.
    pub fn client(&self) -> Option<&Client> {
        match self {
            Store::Embedded(_) => None,
            Store::Remote(client, _) => Some(client),
        }
    }

    /// The table of the embedded store.
    pub fn table(&self) -> Option<&Table<C>> {
        match self {
            Store::Embedded(table) => Some(table),
            Store::Remote(..) => None,
        }
    }

    /// Has the cache remember what the client was told.
    fn hear(
        &mut self,
        now_ms: u64,
        awaits: impl Fn(u32) -> bool,
        hear: impl FnOnce(&mut Client) -> Vec<Completion>,
    ) -> Vec<Completion> {
        let Store::Remote(client, cache) = self else { return Vec::new() };
        let told = hear(client);
        // The answer to a claim may be overtaken by that to its withdrawal: no request runs on it.
        let runs = |told: &&Completion| {
            !matches!(told.reply, StoreReply::Granted { .. }) || told.exchange.is_some_and(&awaits)
        };
        if let Some(cache) = cache {
            told.iter().filter(runs).for_each(|told| cache.learn(told, now_ms));
        }
        told
    }
}
