//! The memory that the workers of one gateway share: the embedded store, or what they remember of a shared one.
//!
//! Its one rule: it behaves as Envoy's shared data does, and now and then another worker was there first.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use envoy_idempotency::command::Failure;
use envoy_idempotency::config::CacheBounds;
use envoy_idempotency::store::cache::Cache;
use envoy_idempotency::store::local::{Cells, Table};

use crate::random::Random;

/// Cells that live for as long as the process does.
#[derive(Clone)]
pub struct Memory(Rc<RefCell<Inner>>);

struct Inner {
    cells: HashMap<Vec<u8>, (Vec<u8>, u32)>,
    version: u32,
    /// Where others change the same cells meanwhile: when.
    contention: Option<Random>,
    contended: u64,
}

impl Memory {
    pub fn new(contention: Option<Random>) -> Memory {
        Memory(Rc::new(RefCell::new(Inner { cells: HashMap::new(), version: 0, contention, contended: 0 })))
    }

    /// The table that is kept in it, as one worker opens it.
    pub fn table(&self, max_bytes: u64) -> Table<Memory> {
        let table = Table::open(self.clone(), b"plugin", max_bytes, 0x9e37_79b9_7f4a_7c15);
        table.unwrap_or_else(|failure| panic!("the table cannot be opened: {failure:?}"))
    }

    /// What the workers remember of a shared store, as one of them opens it.
    pub fn cache(&self) -> Cache<Memory> {
        let bounds = CacheBounds { max_bytes: 1 << 20, max_entry_bytes: 1 << 14, ttl_ms: 60_000 };
        Cache::new(self.clone(), b"plugin", "redis", bounds)
    }

    /// How often another worker was first since this was asked last.
    pub fn contended(&self) -> u64 {
        std::mem::take(&mut self.0.borrow_mut().contended)
    }

    /// Nobody else changes anything any more.
    pub fn calm(&self) {
        self.0.borrow_mut().contention = None;
    }
}

impl Cells for Memory {
    fn get(&self, key: &[u8]) -> Result<Option<(Vec<u8>, u32)>, Failure> {
        Ok(self.0.borrow().cells.get(key).cloned())
    }

    fn swap(&self, key: &[u8], value: &[u8], version: Option<u32>) -> Result<bool, Failure> {
        let mut inner = self.0.borrow_mut();
        let known = inner.cells.get(key).map(|(_, version)| *version);
        if known.is_some() && inner.contention.as_mut().is_some_and(|random| random.chance(200)) {
            inner.contended += 1;
            // The other's change was to another record in the same cell.
            inner.version += 1;
            let version = inner.version;
            inner.cells.entry(key.to_vec()).and_modify(|cell| cell.1 = version);
            return Ok(false);
        }
        // The version is looked at only where there is a value.
        if known.is_some() && known != version {
            return Ok(false);
        }
        inner.version += 1;
        let version = inner.version;
        inner.cells.insert(key.to_vec(), (value.to_vec(), version));
        Ok(true)
    }

    fn put(&self, key: &[u8], value: &[u8]) -> Result<(), Failure> {
        let mut inner = self.0.borrow_mut();
        inner.version += 1;
        let version = inner.version;
        inner.cells.insert(key.to_vec(), (value.to_vec(), version));
        Ok(())
    }
}
