//! Finding records of the table by the first bytes of their names.
//!
//! Its one rule: one step visits few buckets, so that no worker stops for a search.
//! It does not know who searches.

use super::cell::entries;
use super::{SharedMap, Table};
use crate::command::Failure;
use crate::key::Name;
use crate::store::locks::Stored;

/// How many buckets one step of a search visits.
const SEARCH_STEPS: u32 = 1024;

impl<C: SharedMap> Table<C> {
    /// The names that begin so, of operations that are not forgotten, in the next few buckets from this one on; and the
    /// bucket at which to go on, none after the last.
    ///
    /// # Errors
    /// The host refused a call, or a bucket is none.
    pub fn search(&self, digits: [u8; 6], from: u32, now_ms: u64) -> Result<(Vec<Name>, Option<u32>), Failure> {
        let until = from.saturating_add(SEARCH_STEPS).min(self.buckets());
        let mut names = Vec::new();
        for bucket in from..until {
            let (bytes, _) = self.get(&self.key(b'r', bucket))?;
            for entry in entries(&bytes) {
                let entry = entry?;
                if !entry.name.starts_with(&digits) {
                    continue;
                }
                if Stored::decode(entry.record)?.operation().is_some_and(|record| record.forgotten_ms() > now_ms) {
                    names.extend(entry.name.try_into().map(Name));
                }
            }
        }
        Ok((names, (until < self.buckets()).then_some(until)))
    }
}
