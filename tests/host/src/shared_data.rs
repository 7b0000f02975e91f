//! Envoy's shared data, as the workers of one process have it.
//!
//! Its one rule: versions come from one counter, nothing is deleted, and a swap looks at the version only where there is
//! a value, so that one that no cell has means "only where there is none".
//! It does not know what the cells mean.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use envoy_idempotency::command::Failure;
use envoy_idempotency::store::local::SharedMap;

/// The cells of one process; its clones are the same cells.
#[derive(Clone, Default)]
pub struct SharedData(Rc<Inside>);

#[derive(Default)]
struct Inside {
    cells: RefCell<HashMap<Vec<u8>, Versioned>>,
    version: Cell<u32>,
    accesses: Cell<u64>,
    meddler: RefCell<Option<Meddler>>,
    wall_ms: Cell<u64>,
}

/// A value and its version.
type Versioned = (Vec<u8>, u32);

type Meddler = Box<dyn FnMut(Access) -> Option<Fault>>;

/// One access to a cell, before it is carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// How many there have been with this one, since the meddler came.
    pub number: u64,
    /// Whether it swaps one value for another.
    pub is_swap: bool,
}

/// What a meddler makes of an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Another worker has written the cell meanwhile.
    Mismatch,
    /// The host does not do it.
    Refused,
}

impl SharedData {
    /// Has every access seen before it is carried out. Accesses that the meddler itself makes go by unseen.
    pub fn meddle(&self, meddler: impl FnMut(Access) -> Option<Fault> + 'static) {
        self.0.accesses.set(0);
        *self.0.meddler.borrow_mut() = Some(Box::new(meddler));
    }

    /// No access is spoilt any more.
    pub fn leave(&self) {
        *self.0.meddler.borrow_mut() = None;
    }

    /// Sets the clock of the host.
    pub fn set_wall_ms(&self, wall_ms: u64) {
        self.0.wall_ms.set(wall_ms);
    }

    /// How many accesses there have been since the meddler came.
    pub fn accesses(&self) -> u64 {
        self.0.accesses.get()
    }

    /// Every cell and its value.
    pub fn cells(&self) -> HashMap<Vec<u8>, Vec<u8>> {
        self.0.cells.borrow().iter().map(|(key, (value, _))| (key.clone(), value.clone())).collect()
    }

    /// Puts a value into a cell behind the workers' backs.
    pub fn write(&self, key: &[u8], value: &[u8]) {
        self.0.version.set(self.0.version.get() + 1);
        self.0.cells.borrow_mut().insert(key.to_vec(), (value.to_vec(), self.0.version.get()));
    }

    fn access(&self, is_swap: bool) -> Option<Fault> {
        self.0.accesses.set(self.0.accesses.get() + 1);
        let number = self.0.accesses.get();
        let mut meddler = self.0.meddler.take()?;
        let fault = meddler(Access { number, is_swap });
        self.0.accesses.set(number);
        *self.0.meddler.borrow_mut() = Some(meddler);
        fault
    }
}

impl SharedMap for SharedData {
    fn get(&self, key: &[u8]) -> Result<Option<(Vec<u8>, u32)>, Failure> {
        match self.access(false) {
            Some(Fault::Refused) => Err(Failure::Host),
            _ => Ok(self.0.cells.borrow().get(key).cloned()),
        }
    }

    fn swap(&self, key: &[u8], value: &[u8], version: Option<u32>) -> Result<bool, Failure> {
        let is_swap = self.0.cells.borrow().contains_key(key);
        match self.access(is_swap) {
            Some(Fault::Refused) => return Err(Failure::Host),
            Some(Fault::Mismatch) => return Ok(false),
            None => {}
        }
        let known = self.0.cells.borrow().get(key).map(|(_, version)| *version);
        let fits = known.is_none() || known == version;
        if fits {
            self.write(key, value);
        }
        Ok(fits)
    }

    fn put(&self, key: &[u8], value: &[u8]) -> Result<(), Failure> {
        match self.access(false) {
            Some(Fault::Refused) => Err(Failure::Host),
            _ => {
                self.write(key, value);
                Ok(())
            }
        }
    }

    fn wall_ms(&self) -> u64 {
        self.0.wall_ms.get()
    }
}
