//! The usage of the table: bytes in use and positions, as one cell holds them.
//!
//! Its one rule: what changes together stands in one cell.
//! It does not know what the bytes are of.

use crate::record::{Corrupt, Input};

/// One stay of a body in a place: bodies come to the places in order, lap after lap, so an earlier stay is an older body.
///
/// No stay is used twice: a lap goes over the places that there were at its beginning, and those made in its course
/// belong to it too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The number of the lap.
    pub lap: u32,
    /// Which cell.
    pub slot: u32,
}

impl Place {
    /// The one after it, of so many places.
    pub fn after(self, places: u32) -> Self {
        match self.slot + 1 < places {
            true => Place { slot: self.slot + 1, ..self },
            false => Place { lap: self.lap.saturating_add(1), slot: 0 },
        }
    }

    /// As a record and a body carry it: in the order of stays.
    pub fn number(self) -> u64 {
        u64::from(self.lap) << 32 | u64::from(self.slot)
    }

    /// The place of this number.
    pub fn of(number: u64) -> Self {
        Place { lap: (number >> 32) as u32, slot: number as u32 }
    }
}

/// Bytes in use and positions, in one cell so that they change together.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// May be below zero for a moment: a change is accounted for after it was made.
    pub bytes: i64,
    /// How many bodies there are; below zero for a moment as `bytes` is.
    pub bodies: i64,
    /// How many records there are; below zero for a moment as `bytes` is.
    pub records: i64,
    /// How many places for bodies have been made.
    pub places: u32,
    /// How many there were when this lap began.
    pub lap_places: u32,
    /// Where the next body goes, unless the lap is over or a new place is made for it.
    pub next: Place,
    /// Where the oldest body may be.
    pub oldest: Place,
    /// The bucket that the clock hand visits next.
    pub hand: u32,
    /// How many buckets the hand has visited since there last was something to drop.
    pub barren: u32,
    /// Until when that proves anything: the earliest expiry it came across.
    pub barren_until_ms: u64,
}

impl Usage {
    /// A place for one more body: a new one while three in four are taken, because then a free one is hard to find.
    pub fn place(&mut self) -> Place {
        match self.bodies.saturating_mul(4) < i64::from(self.places) * 3 {
            true => self.next_place(),
            false => self.new_place(),
        }
    }

    /// The next place of this lap, which a body of an earlier one may still be in.
    pub fn next_place(&mut self) -> Place {
        if self.next.slot >= self.lap_places {
            self.next = Place { lap: self.next.lap.saturating_add(1), slot: 0 };
            self.lap_places = self.places;
        }
        let place = self.next;
        self.next.slot = place.slot.saturating_add(1);
        self.oldest = self.oldest.min(place);
        place
    }

    /// A place that no body was ever in.
    pub fn new_place(&mut self) -> Place {
        let place = Place { slot: self.places, ..self.next };
        self.places = self.places.saturating_add(1);
        self.oldest = self.oldest.min(place);
        place
    }

    /// A body of this many bytes has gone.
    pub fn lose_body(&mut self, bytes: i64) {
        self.bytes = self.bytes.saturating_sub(bytes);
        self.bodies = self.bodies.saturating_sub(1);
    }

    /// Bytes in use.
    pub fn used(&self) -> u64 {
        self.bytes.try_into().unwrap_or(0)
    }

    /// So many more bytes are in use, of so many more records; fewer where they are below zero.
    pub fn grow(&mut self, bytes: i64, records: i64) {
        self.bytes = self.bytes.saturating_add(bytes);
        self.records = self.records.saturating_add(records);
    }

    /// Whether `need` more bytes are within the bound.
    pub fn fits(&self, need: i64, max_bytes: u64) -> bool {
        self.used().saturating_add_signed(need) <= max_bytes
    }

    /// As its cell holds it.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64);
        out.extend_from_slice(&self.bytes.to_le_bytes());
        out.extend_from_slice(&self.bodies.to_le_bytes());
        out.extend_from_slice(&self.records.to_le_bytes());
        out.extend_from_slice(&self.next.number().to_le_bytes());
        out.extend_from_slice(&self.oldest.number().to_le_bytes());
        out.extend_from_slice(&self.barren_until_ms.to_le_bytes());
        out.extend_from_slice(&self.hand.to_le_bytes());
        out.extend_from_slice(&self.barren.to_le_bytes());
        out.extend_from_slice(&self.places.to_le_bytes());
        out.extend_from_slice(&self.lap_places.to_le_bytes());
        out
    }

    /// A cell never written is an empty usage.
    ///
    /// # Errors
    /// These bytes are no usage.
    pub fn decode(bytes: &[u8]) -> Result<Self, Corrupt> {
        if bytes.is_empty() {
            return Ok(Usage::default());
        }
        let mut input = Input(bytes);
        let usage = Usage {
            bytes: i64::from_le_bytes(input.array()?),
            bodies: i64::from_le_bytes(input.array()?),
            records: i64::from_le_bytes(input.array()?),
            next: Place::of(u64::from_le_bytes(input.array()?)),
            oldest: Place::of(u64::from_le_bytes(input.array()?)),
            barren_until_ms: u64::from_le_bytes(input.array()?),
            hand: u32::from_le_bytes(input.array()?),
            barren: u32::from_le_bytes(input.array()?),
            places: u32::from_le_bytes(input.array()?),
            lap_places: u32::from_le_bytes(input.array()?),
        };
        input.end()?;
        Ok(usage)
    }
}
