//! Cells that live as long as their owner, for the embedded store and for what a gateway remembers of another.
//!
//! Its one rule: they behave as Envoy's shared data does.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use envoy_idempotency::command::Failure;
use envoy_idempotency::store::local::Cells;

/// The cells of one Envoy.
#[derive(Clone, Default)]
pub struct Memory(Rc<RefCell<HashMap<Vec<u8>, Versioned>>>);

/// A value and its version.
type Versioned = (Vec<u8>, u32);

impl Cells for Memory {
    fn get(&self, key: &[u8]) -> Result<Option<(Vec<u8>, u32)>, Failure> {
        Ok(self.0.borrow().get(key).cloned())
    }

    fn swap(&self, key: &[u8], value: &[u8], version: Option<u32>) -> Result<bool, Failure> {
        let known = self.0.borrow().get(key).map(|(_, version)| *version);
        // The version is looked at only where there is a value.
        let fits = known.is_none() || known == version;
        if fits { self.put(key, value).map(|()| true) } else { Ok(false) }
    }

    fn put(&self, key: &[u8], value: &[u8]) -> Result<(), Failure> {
        let mut cells = self.0.borrow_mut();
        let version = cells.get(key).map_or(1, |(_, version)| version + 1);
        cells.insert(key.to_vec(), (value.to_vec(), version));
        Ok(())
    }
}
