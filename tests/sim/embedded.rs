//! The memory that the workers of one gateway share: the embedded store, or what they remember of a shared one.
//!
//! Its one rule: it is Envoy's shared data, and now and then another worker was there first.

use std::cell::Cell;
use std::rc::Rc;

use envoy_idempotency::config::CacheBounds;
use envoy_idempotency::store::cache::Cache;
use envoy_idempotency::store::local::Table;
use host_model::{Fault, Random, SharedData};

/// SharedMap that live for as long as the process does.
#[derive(Clone)]
pub struct Memory {
    cells: SharedData,
    contended: Rc<Cell<u64>>,
}

impl Memory {
    /// SharedMap that others change meanwhile, where these numbers say when.
    pub fn new(contention: Option<Random>) -> Memory {
        let (cells, contended) = (SharedData::default(), Rc::new(Cell::new(0)));
        if let Some(mut random) = contention {
            let contended = Rc::clone(&contended);
            cells.meddle(move |access| {
                let is_first = access.is_swap && random.chance(200);
                contended.set(contended.get() + u64::from(is_first));
                is_first.then_some(Fault::Mismatch)
            });
        }
        Memory { cells, contended }
    }

    /// The table that is kept in it, as one worker opens it.
    pub fn table(&self, max_bytes: u64) -> Table<SharedData> {
        let table = Table::open(self.cells.clone(), b"plugin", max_bytes, 0x9e37_79b9_7f4a_7c15);
        table.unwrap_or_else(|failure| panic!("the table cannot be opened: {failure:?}"))
    }

    /// What the workers remember of a shared store, as one of them opens it.
    pub fn cache(&self) -> Cache<SharedData> {
        let bounds = CacheBounds { max_bytes: 1 << 20, max_entry_bytes: 1 << 14, ttl_ms: 60_000 };
        Cache::new(self.cells.clone(), b"plugin", "redis", bounds)
    }

    /// How often another worker was first since this was asked last.
    pub fn contended(&self) -> u64 {
        self.contended.take()
    }

    /// Sets the clock of the host.
    pub fn set_wall_ms(&self, wall_ms: u64) {
        self.cells.set_wall_ms(wall_ms);
    }

    /// No other worker changes anything any more.
    pub fn calm(&self) {
        self.cells.leave();
    }
}
