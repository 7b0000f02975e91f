//! Maps whose keys are the host's numbers of contexts and calls.
//!
//! Its one rule: the host counts these numbers up, and no client chooses one, so they need no hash that resists an
//! attacker, which is most of what a look-up costs.
//! It does not know what they are numbers of.

use std::collections::{BinaryHeap, HashMap};
use std::hash::{BuildHasherDefault, Hasher};

/// A map by the host's numbers.
pub type ById<V> = HashMap<u32, V, BuildHasherDefault<IdHasher>>;

/// These numbers in order. By a heap, whose code is a fifth of what `sort` brings with it.
pub fn in_order(ids: impl Iterator<Item = u32>) -> Vec<u32> {
    ids.collect::<BinaryHeap<_>>().into_sorted_vec()
}

/// Spreads numbers that follow each other over all bits (Knuth's multiplicative hashing).
#[derive(Default)]
pub struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u32((*byte).into()));
    }

    fn write_u32(&mut self, number: u32) {
        self.0 = (self.0 ^ u64::from(number)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}
