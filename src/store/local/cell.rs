//! What stands in a cell of the table: a bucket of records, or one body.
//!
//! Its one rule: bytes that are no cell are an error and never half of one.
//! It does not know which cells there are.

use std::ops::Range;

use crate::key::Name;
use crate::record::{Corrupt, Input, State};
use crate::store::local::usage::Place;
use crate::store::locks::Stored;

/// The cell of a body: its place, whose it is, the encoded response.
pub struct Body<'a> {
    /// Where it is, since when.
    pub place: Place,
    /// The name of the record that carries the place.
    pub name: [u8; 32],
    /// The response, as the record's owner encoded it.
    pub response: &'a [u8],
}

impl<'a> Body<'a> {
    /// Reads a body's cell; an empty one is none.
    ///
    /// # Errors
    /// These bytes are no body.
    pub fn parse(value: &'a [u8]) -> Result<Self, Corrupt> {
        let mut input = Input(value);
        let (place, name) = (Place::of(u64::from_le_bytes(input.array()?)), input.array()?);
        Ok(Body { place, name, response: input.0 })
    }
}

/// One record in a bucket: name, length, record.
pub struct Entry<'a> {
    /// 32 bytes.
    pub name: &'a [u8],
    /// The record, encoded.
    pub record: &'a [u8],
    /// The whole entry.
    pub whole: &'a [u8],
}

/// The entries of a bucket, in their order; after the first that is none, no more.
pub fn entries(bucket: &[u8]) -> impl Iterator<Item = Result<Entry<'_>, Corrupt>> {
    let mut rest = bucket;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let entry = parse_entry(rest);
        rest = entry.as_ref().ok().and_then(|entry| rest.get(entry.whole.len()..)).unwrap_or_default();
        Some(entry)
    })
}

fn parse_entry(bytes: &[u8]) -> Result<Entry<'_>, Corrupt> {
    let mut input = Input(bytes);
    let name = input.take(32)?;
    let len = u32::from_le_bytes(input.array()?) as usize;
    let record = input.take(len)?;
    let whole = bytes.get(..36 + len).ok_or(Corrupt)?;
    Ok(Entry { name, record, whole })
}

/// Where the entry of this name stands, and its record; at the end where there is none.
///
/// # Errors
/// The bucket is none.
pub fn find<'a>(bucket: &'a [u8], name: &Name) -> Result<(Range<usize>, Option<&'a [u8]>), Corrupt> {
    let mut at = 0;
    for entry in entries(bucket) {
        let entry = entry?;
        let place = at..at + entry.whole.len();
        if entry.name == name.0 {
            return Ok((place, Some(entry.record)));
        }
        at = place.end;
    }
    Ok((at..at, None))
}

/// The bucket with this entry in the place of what stood there.
///
/// # Errors
/// The place is not within the bucket.
pub fn put(bucket: &[u8], place: Range<usize>, name: &Name, record: &[u8]) -> Result<Vec<u8>, Corrupt> {
    let mut out = Vec::with_capacity(bucket.len() + 36 + record.len());
    out.extend_from_slice(bucket.get(..place.start).ok_or(Corrupt)?);
    out.extend_from_slice(&name.0);
    out.extend_from_slice(&(record.len() as u32).to_le_bytes());
    out.extend(record);
    out.extend_from_slice(bucket.get(place.end..).ok_or(Corrupt)?);
    Ok(out)
}

/// The place of the body that an operation carries.
pub fn body_place(stored: &Stored) -> Option<Place> {
    match &stored.operation()?.state {
        State::Completed { response: Some(place), .. } => {
            Some(Place::of(u64::from_le_bytes(place.as_slice().try_into().ok()?)))
        }
        _ => None,
    }
}
