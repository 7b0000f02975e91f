//! The account of the table: bytes in use and positions, as one cell holds them.
//!
//! Its one rule: what changes together stands in one cell.
//! It does not know what the bytes are of.

use crate::record::{Corrupt, Input};

/// Bytes in use and positions, in one cell so that they change together.
#[derive(Clone, Copy, Debug, Default)]
pub struct Account {
    /// May be below zero for a moment: a change is accounted for after it was made.
    pub bytes: i64,
    /// The number of the next body.
    pub next_body: u64,
    /// The number of the oldest body that may still be there.
    pub oldest_body: u64,
    /// The bucket that the clock hand visits next.
    pub hand: u32,
    /// How many buckets the hand has visited since there last was something to drop.
    pub barren: u32,
    /// Until when that proves anything: the earliest expiry it came across.
    pub barren_until_ms: u64,
}

impl Account {
    /// Bytes in use.
    pub fn used(&self) -> u64 {
        self.bytes.try_into().unwrap_or(0)
    }

    /// Whether `need` more bytes are within the bound.
    pub fn fits(&self, need: i64, max_bytes: u64) -> bool {
        self.used().saturating_add_signed(need) <= max_bytes
    }

    /// As its cell holds it.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(44);
        out.extend(self.bytes.to_le_bytes());
        out.extend(self.next_body.to_le_bytes());
        out.extend(self.oldest_body.to_le_bytes());
        out.extend(self.barren_until_ms.to_le_bytes());
        out.extend(self.hand.to_le_bytes());
        out.extend(self.barren.to_le_bytes());
        out
    }

    /// A cell never written is an empty account.
    ///
    /// # Errors
    /// These bytes are no account.
    pub fn decode(bytes: &[u8]) -> Result<Self, Corrupt> {
        if bytes.is_empty() {
            return Ok(Account::default());
        }
        let mut input = Input(bytes);
        let account = Account {
            bytes: i64::from_le_bytes(input.array()?),
            next_body: u64::from_le_bytes(input.array()?),
            oldest_body: u64::from_le_bytes(input.array()?),
            barren_until_ms: u64::from_le_bytes(input.array()?),
            hand: u32::from_le_bytes(input.array()?),
            barren: u32::from_le_bytes(input.array()?),
        };
        input.end()?;
        Ok(account)
    }
}
