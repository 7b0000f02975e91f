//! The rules by which a store remembers requests with the same content, as one pure function.
//!
//! Its one rule: what is asked is noted in the same step, so that of two requests at once one hears of the other.
//! It does not know where this is kept, nor what time it is: the store's own clock is handed in.

use crate::command::{Command, StoreReply};
use crate::similar::{Asked, KEPT, Similar};

/// One question as one atomic step: what is kept from now on, and the latest other operation with this content.
pub fn step(known: Option<Similar>, command: &Command, asked: &Asked, now_ms: u64) -> (Similar, StoreReply) {
    let Similar { mut entries, expires_ms } = known.unwrap_or_default();
    entries.retain(|entry| {
        // One that was begun anew after it was released counts again.
        now_ms < expires_ms.min(entry.1.saturating_add(command.ttl_ms)) && asked.released != Some(*entry)
    });
    let other = entries.iter().rev().find(|(name, _)| *name != asked.own);
    let reply = other.map_or(StoreReply::Settled, |(name, since_ms)| StoreReply::Similar {
        operation: *name,
        since_ms: *since_ms,
        age_ms: now_ms.saturating_sub(*since_ms),
    });
    if reply == StoreReply::Settled || !asked.refuses {
        entries.retain(|(name, _)| *name != asked.own);
        entries.push((asked.own, now_ms));
        entries.drain(..entries.len().saturating_sub(KEPT));
    }
    (Similar { entries, expires_ms: now_ms.saturating_add(command.ttl_ms) }, reply)
}
