//! The bodies of stored responses, in places of their own beside the records.
//!
//! Its one rule: no body goes before the bytes are used, and then the oldest go first; where places were made
//! or left in between, nearly so.
//! It does not know what a response is, nor what becomes of its record.

use std::ops::RangeInclusive;

use super::cell::Body;
use super::usage::{Place, Usage};
use super::{SharedMap, TRIES, Table};
use crate::command::Failure;
use crate::key::Name;

/// How much a running record grows when it is completed with a body.
pub const COMPLETION_GROWTH: i64 = 12;
/// In how many places in a row a body looks for room before a new one is made for it.
const PLACE_TRIES: usize = 8;
/// How many places are passed between two notes of how far the oldest body was sought.
const PLACE_STEPS: usize = 1024;

impl<C: SharedMap> Table<C> {
    /// Keeps a body; none when there is no room for it and for its record's growth.
    pub(super) fn put_body(&self, name: &Name, response: &[u8], now_ms: u64) -> Result<Option<Place>, Failure> {
        let need = (BODY_HEAD + response.len()) as i64 + COMPLETION_GROWTH;
        let first = self.reserve(need, now_ms, |usage| {
            let place = usage.place();
            usage.bodies += 1;
            place
        })?;
        let Some(first) = first else { return Ok(None) };
        let put = self.put_from(first, name, response);
        if put.is_err() {
            self.change_usage(|usage| usage.lose_body(need))?;
        }
        put.map(Some)
    }

    /// Puts a body into the first free place from this one on.
    fn put_from(&self, first: Place, name: &Name, response: &[u8]) -> Result<Place, Failure> {
        let (mut place, mut value) = (first, Vec::with_capacity(BODY_HEAD + response.len()));
        for tries in 1..TRIES {
            value.clear();
            value.extend_from_slice(&place.number().to_le_bytes());
            value.extend_from_slice(&name.0);
            value.extend(response);
            let key = self.body_key(place);
            match self.get(&key) {
                Ok((taken, version)) if taken.is_empty() => {
                    if self.swap(&key, &value, version)? {
                        return Ok(place);
                    }
                }
                Ok(_) | Err(Failure::Corrupt) => {}
                Err(failure) => return Err(failure),
            }
            place = self.change_usage(|usage| match tries < PLACE_TRIES {
                true => usage.next_place(),
                false => usage.new_place(),
            })?;
        }
        Err(Failure::Contention)
    }

    /// The body that a record of this name carries the place of; none when it has gone.
    pub(super) fn body(&self, name: &Name, place: &[u8]) -> Result<Option<Vec<u8>>, Failure> {
        self.body_at(name, Place::of(u64::from_le_bytes(place.try_into().map_err(|_| Failure::Corrupt)?)))
    }

    /// The body of a record of this name in this place; none when it has gone.
    pub(super) fn body_at(&self, name: &Name, place: Place) -> Result<Option<Vec<u8>>, Failure> {
        let (value, _) = self.get(&self.body_key(place))?;
        if value.is_empty() {
            return Ok(None);
        }
        let body = Body::parse(&value)?;
        Ok((body.place == place && body.name == name.0).then(|| body.response.to_vec()))
    }

    /// Drops the oldest bodies until the usage fits; tells whether it does. None is left where it does not.
    pub(super) fn drop_oldest(&self, fits: impl Fn(&Usage) -> bool) -> Result<bool, Failure> {
        loop {
            let usage = self.usage()?;
            if fits(&usage) {
                return Ok(true);
            }
            // A body that outlasts a lap goes with that of the lap after.
            let mut place = usage.oldest.max(Place { lap: usage.next.lap.saturating_sub(1), slot: 0 });
            if place.lap > usage.next.lap {
                return Ok(false);
            }
            for _ in 0..PLACE_STEPS {
                let dropped = self.drop_stays(Place { lap: 0, ..place }..=place);
                place = place.after(usage.places);
                if dropped || place.lap > usage.next.lap {
                    break;
                }
            }
            self.change_usage(|now| {
                // Unless another worker has gone on, or has put a body behind.
                if now.oldest == usage.oldest {
                    now.oldest = place;
                }
            })?;
        }
    }

    /// Empties a body's cell, unless a faster worker has done so or put another body there.
    pub(super) fn drop_body(&self, place: Place) {
        self.drop_stays(place..=place);
    }

    /// Empties the cell that these stays are in where one of them lasts; tells whether.
    fn drop_stays(&self, stays: RangeInclusive<Place>) -> bool {
        let key = self.body_key(*stays.end());
        let Ok((value, version)) = self.get(&key) else { return false };
        let lasts = Body::parse(&value).is_ok_and(|body| stays.contains(&body.place));
        if !lasts || !self.swap(&key, &[], version).unwrap_or(false) {
            return false;
        }
        let _ = self.change_usage(|usage| usage.lose_body(value.len() as i64));
        true
    }

    fn body_key(&self, place: Place) -> [u8; 13] {
        self.key(b'b', place.slot)
    }
}

/// The place and the name in front of a response.
const BODY_HEAD: usize = 8 + 32;
