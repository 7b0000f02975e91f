//! The embedded store: a table of fixed shape in cells that all workers of one Envoy share.
//!
//! Its one rule: a cell changes only by compare-and-set and under a checksum, and the worker that changed it accounts
//! for the difference.
//! It does not know where the cells are, nor what time it is.
//!
//! # The shape
//!
//! Cells are never deleted, so their keys are drawn from a set that grows only by need: *buckets* of records, found by
//! name; *places* for response bodies, found by what the record carries; one *usage* of bytes and positions; one
//! *salt*. Bodies come to free places in order, lap after lap, and a new place is made while few are free: so no body
//! goes before the bytes are used. Then the oldest go first, lap by lap, and a record whose body has gone says "not
//! replayable". A clock hand goes round the buckets a few at a time and drops what has expired, and under pressure what
//! was released.

mod usage;

mod cell;

mod bodies;

mod search;

use bodies::COMPLETION_GROWTH;
use cell::{body_place, entries, find, put};
use usage::Usage;

use crate::command::{Command, CommandKind, Failure, StoreReply};
use crate::digest::{Digest, checksum};
use crate::key::Name;
use crate::record::{Corrupt, FORMAT, Record, State};
use crate::store::locks::{self, Stored};

/// SharedMap shared by all workers, as the host has them.
pub trait SharedMap {
    /// The value and its version; none where the cell was never written.
    ///
    /// # Errors
    /// The host refused the call.
    fn get(&self, key: &[u8]) -> Result<Option<(Vec<u8>, u32)>, Failure>;

    /// Writes if the version is still this one, or, without a version, if the cell was never written; tells whether.
    ///
    /// # Errors
    /// The host refused the call.
    fn swap(&self, key: &[u8], value: &[u8], version: Option<u32>) -> Result<bool, Failure>;

    /// Writes, whatever was there.
    ///
    /// # Errors
    /// The host refused the call.
    fn put(&self, key: &[u8], value: &[u8]) -> Result<(), Failure>;

    /// Milliseconds since 1970 by the clock of the host, which goes on where the cells are lost with their process.
    fn wall_ms(&self) -> u64;
}

/// The table of one plugin in one Envoy.
pub struct Table<C> {
    cells: C,
    /// What tells this table's cells from others: plugin, geometry, format version.
    prefix: [u8; 8],
    max_bytes: u64,
    /// Base-2 logarithm of the number of buckets.
    bucket_bits: u32,
    /// Odd and random, so that no client can aim names at one bucket.
    salt: u64,
}

/// How often a change is tried against other workers before it counts as failed.
const TRIES: usize = 256;
/// How many buckets one operation under pressure visits before the next kind of thing goes. Few, because a table that
/// is full of bodies is under pressure all the time.
const HAND_STEPS: u32 = 16;
/// How many buckets are visited at once where nothing but a whole round will do.
const ROUND_STEPS: u32 = 1024;
/// The version of what stands here beside the records, so that no module reads the cells of another.
const SHAPE: u8 = 3;
/// How long a whole round that found nothing to drop counts at most as proof that there is nothing. A round of the
/// default table takes a worker some tenths of a second.
const BARREN_MS: u64 = 10_000;
impl<C: SharedMap> Table<C> {
    /// Opens the table of this plugin, or makes it; `random` becomes its salt if it is new.
    ///
    /// # Errors
    /// The host refused a call, or what stands in the salt's place is not one.
    pub fn open(cells: C, plugin: &[u8], max_bytes: u64, random: u64) -> Result<Self, Failure> {
        let bucket_bits = (max_bytes / 2048).max(64).ilog2();
        let mut digest = Digest::new("table", None);
        digest.part("plugin", plugin);
        digest.part("geometry", &max_bytes.to_le_bytes());
        digest.part("format", &[FORMAT, SHAPE]);
        let [a, b, c, d, e, f, g, h, ..] = digest.finish();
        let prefix = [a, b, c, d, e, f, g, h];
        let mut table = Table { cells, prefix, max_bytes, bucket_bits, salt: 0 };
        let key = table.key(b's', 0);
        table.swap(&key, &(random | 1).to_le_bytes(), None)?;
        let (salt, _) = table.get(&key)?;
        table.salt = u64::from_le_bytes(salt.try_into().map_err(|_| Failure::Corrupt)?);
        Ok(table)
    }

    /// One operation, as one atomic step.
    pub fn apply(&self, mut command: Command, now_ms: u64) -> StoreReply {
        // The record carries the body's place, so the body goes first, and pays for the record's growth.
        let (mut place, mut prepaid, mut dropped) = (None, 0, false);
        if let CommandKind::Complete { response, .. } = &mut command.kind
            && let Some(body) = response.take()
        {
            place = self.put_body(&command.name, &body, now_ms).unwrap_or(None);
            *response = place.map(|place| place.number().to_le_bytes().to_vec());
            prepaid = if place.is_some() { COMPLETION_GROWTH } else { 0 };
            dropped = place.is_none();
        }
        let applied = self.apply_to_bucket(&command, prepaid, now_ms);
        let (reply, change) = applied.unwrap_or_else(|failure| (StoreReply::Failed(failure), Change::None));
        if let Some(place) = place {
            match change {
                Change::None => {
                    let _ = self.account_for(-prepaid, 0);
                    self.drop_body(place);
                }
                // The room for it may be that of the body itself.
                Change::Grown => dropped = !matches!(self.body_at(&command.name, place), Ok(Some(_))),
                Change::Written => {}
            }
        }
        match reply {
            StoreReply::Settled if dropped => StoreReply::Dropped,
            StoreReply::Completed { attempt, status, response: Some(place), age_ms, ttl_ms } => {
                match self.body(&command.name, &place) {
                    Ok(response) => StoreReply::Completed { attempt, status, response, age_ms, ttl_ms },
                    Err(failure) => StoreReply::Failed(failure),
                }
            }
            other => other,
        }
    }

    /// Visits the next `steps` buckets and drops what has expired.
    pub fn sweep(&self, steps: u32, now_ms: u64) {
        if self.bytes() > 0 {
            self.turn_hand(steps, now_ms, false);
        }
    }

    /// Bytes of records and bodies in the table.
    pub fn bytes(&self) -> u64 {
        self.usage().map_or(0, |usage| usage.used())
    }

    /// Bytes of records and bodies in the table, and how many records.
    pub fn size(&self) -> (u64, u64) {
        self.usage().map_or((0, 0), |usage| (usage.used(), usage.records.try_into().unwrap_or(0)))
    }

    /// Tells also what was written. `prepaid` bytes of growth are accounted for already.
    fn apply_to_bucket(&self, command: &Command, prepaid: i64, now_ms: u64) -> Result<(StoreReply, Change), Failure> {
        let key = self.key(b'r', self.bucket_of(&command.name));
        let may_be_refused = command.kind.reply_kind().may_begin();
        for _ in 0..TRIES {
            let (bucket, version) = self.get(&key)?;
            let (place, found) = find(&bucket, &command.name)?;
            let records = i64::from(found.is_none());
            let before = found.map(Stored::decode).transpose()?;
            let body_before = before.as_ref().and_then(body_place);
            let (stored, reply) = locks::apply(before, command, now_ms, || self.cells.wall_ms());
            let Some(stored) = stored else { return Ok((reply, Change::None)) };
            let after = put(&bucket, place, &command.name, &stored.encode())?;
            let growth = after.len() as i64 - bucket.len() as i64 - prepaid;
            let reserved = match self.reserve_growth(growth, records, now_ms) {
                // Only what begins can be refused: what exists may always end.
                Err(failure) if may_be_refused => return Err(failure),
                reserved => reserved.unwrap_or(false),
            };
            if !self.swap(&key, &after, version)? {
                let _ = if reserved { self.account_for(-growth, -records) } else { Ok(()) };
                continue;
            }
            // From here on it is so, whatever becomes of the book-keeping.
            let _ = if reserved { Ok(()) } else { self.account_for(growth, records) };
            if let Some(place) = body_before.filter(|place| body_place(&stored) != Some(*place)) {
                self.drop_body(place);
            }
            if may_go(&stored) {
                // Here is something that may go.
                let _ = self.change_usage(|usage| usage.barren = 0);
            }
            return Ok((reply, if reserved { Change::Grown } else { Change::Written }));
        }
        Err(Failure::Contention)
    }

    /// Accounts for what a bucket grows by, and for the records among that, if it does; tells whether.
    fn reserve_growth(&self, growth: i64, records: i64, now_ms: u64) -> Result<bool, Failure> {
        if growth <= 0 {
            return Ok(false);
        }
        let reserved = self.reserve(growth, now_ms, |usage| usage.grow(0, records))?;
        reserved.map(|()| true).ok_or(Failure::Full)
    }

    /// Accounts for this many more bytes and makes another change to the usage, if there is or can be made room.
    fn reserve<T>(&self, need: i64, now_ms: u64, change: impl Fn(&mut Usage) -> T) -> Result<Option<T>, Failure> {
        loop {
            let reserved = self.change_usage(|usage| {
                usage.fits(need, self.max_bytes).then(|| {
                    usage.bytes += need;
                    change(usage)
                })
            })?;
            if reserved.is_some() || !self.make_room(need, now_ms)? {
                return Ok(reserved);
            }
        }
    }

    /// Whether `need` more bytes fit, after dropping what may go: expired, then released, then the oldest bodies.
    ///
    /// The hand takes the first two in short strides, so a body may go before an expired or released record that the
    /// hand has not come to; but nothing is refused before the hand has been everywhere.
    fn make_room(&self, need: i64, now_ms: u64) -> Result<bool, Failure> {
        let fits = |usage: &Usage| usage.fits(need, self.max_bytes);
        if !Usage::default().fits(need, self.max_bytes) {
            return Ok(false);
        }
        let is_proven = |usage: &Usage| now_ms < usage.barren_until_ms && usage.barren >= self.buckets();
        for released in [false, true] {
            let usage = self.usage()?;
            if fits(&usage) {
                return Ok(true);
            }
            if is_proven(&usage) {
                break;
            }
            self.turn_hand(HAND_STEPS.min(self.buckets()), now_ms, released);
        }
        if self.drop_oldest(fits)? {
            return Ok(true);
        }
        // No body is left that could go. Say so only when a whole round of the hand has found nothing either.
        loop {
            let usage = self.usage()?;
            if fits(&usage) {
                return Ok(true);
            }
            if is_proven(&usage) {
                return Ok(false);
            }
            self.turn_hand(ROUND_STEPS.min(self.buckets()), now_ms, true);
        }
    }

    /// Visits the next `steps` buckets and drops what has expired, and what was released if that may go too.
    fn turn_hand(&self, steps: u32, now_ms: u64, released: bool) {
        let start = self.change_usage(|usage| {
            let start = usage.hand;
            usage.hand = (start + steps) % self.buckets();
            start
        });
        let Ok(start) = start else { return };
        let (mut found, mut earliest_ms) = (false, now_ms + BARREN_MS);
        for step in 0..steps {
            if let Ok(visit) = self.clean((start + step) % self.buckets(), now_ms, released) {
                found |= visit.dropped;
                earliest_ms = earliest_ms.min(visit.earliest_ms);
            }
        }
        if found || released {
            // A failure to note this only makes the next round start over.
            let _ = self.change_usage(|usage| {
                if found || now_ms >= usage.barren_until_ms {
                    (usage.barren, usage.barren_until_ms) = (0, earliest_ms);
                }
                if !found {
                    usage.barren = usage.barren.saturating_add(steps);
                    usage.barren_until_ms = usage.barren_until_ms.min(earliest_ms);
                }
            });
        }
    }

    /// Drops what may go from one bucket.
    fn clean(&self, bucket: u32, now_ms: u64, released: bool) -> Result<Visit, Failure> {
        let key = self.key(b'r', bucket);
        let (bytes, version) = self.get(&key)?;
        let mut kept = Vec::with_capacity(bytes.len());
        let (mut bodies, mut gone) = (Vec::new(), 0);
        let mut visit = Visit { dropped: false, earliest_ms: u64::MAX };
        for entry in entries(&bytes) {
            let entry = entry?;
            let stored = Stored::decode(entry.record)?;
            if stored.forgotten_ms() > now_ms && !(released && may_go(&stored)) {
                kept.extend_from_slice(entry.whole);
                visit.earliest_ms = visit.earliest_ms.min(stored.forgotten_ms());
            } else {
                bodies.extend(body_place(&stored));
                gone += 1;
            }
        }
        if kept.len() < bytes.len() && self.swap(&key, &kept, version)? {
            self.account_for(kept.len() as i64 - bytes.len() as i64, -gone)?;
            visit.dropped = true;
            bodies.into_iter().for_each(|place| self.drop_body(place));
        }
        Ok(visit)
    }

    fn account_for(&self, bytes: i64, records: i64) -> Result<(), Failure> {
        if (bytes, records) == (0, 0) {
            return Ok(());
        }
        self.change_usage(|usage| usage.grow(bytes, records))
    }

    fn usage(&self) -> Result<Usage, Failure> {
        Ok(Usage::decode(&self.get(&self.key(b'a', 0))?.0)?)
    }

    fn change_usage<T>(&self, change: impl Fn(&mut Usage) -> T) -> Result<T, Failure> {
        let key = self.key(b'a', 0);
        for _ in 0..TRIES {
            let (bytes, version) = self.get(&key)?;
            let mut usage = Usage::decode(&bytes)?;
            let result = change(&mut usage);
            if self.swap(&key, &usage.encode(), version)? {
                return Ok(result);
            }
        }
        Err(Failure::Contention)
    }

    /// What a cell holds, without its seal; nothing and no version where it was never written.
    fn get(&self, key: &[u8]) -> Result<(Vec<u8>, Option<u32>), Failure> {
        let Some((mut cell, version)) = self.cells.get(key)? else { return Ok((Vec::new(), None)) };
        let (value, seal) = cell.split_last_chunk().ok_or(Failure::Corrupt)?;
        if checksum(value) != *seal {
            return Err(Failure::Corrupt);
        }
        cell.truncate(value.len());
        Ok((cell, Some(version)))
    }

    /// Writes a cell under a seal, if its version is still this one; tells whether.
    fn swap(&self, key: &[u8], value: &[u8], version: Option<u32>) -> Result<bool, Failure> {
        self.cells.swap(key, &[value, &checksum(value)].concat(), version)
    }

    fn buckets(&self) -> u32 {
        1 << self.bucket_bits
    }

    /// Multiply-shift hashing (Dietzfelbinger et al., 1997) over a name that is itself a hash.
    fn bucket_of(&self, name: &Name) -> u32 {
        let [a, b, c, d, e, f, g, h, ..] = name.0;
        let head = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
        (head.wrapping_mul(self.salt) >> (64 - self.bucket_bits)) as u32
    }

    /// Short enough to live inside the host's string object.
    fn key(&self, kind: u8, index: u32) -> [u8; 13] {
        let [a, b, c, d, e, f, g, h] = self.prefix;
        let [i, j, k, l] = index.to_le_bytes();
        [a, b, c, d, e, f, g, h, kind, i, j, k, l]
    }
}

/// Whether it may go before its time where room is short: a released operation, but no lock, whose fence goes on.
fn may_go(stored: &Stored) -> bool {
    matches!(stored, Stored::Operation(Record { state: State::Open { .. }, .. }))
}

/// What an operation did to a bucket.
enum Change {
    None,
    /// Within the bytes that it had.
    Written,
    /// Into more bytes, for which others may have gone.
    Grown,
}

/// What the hand found in one bucket.
struct Visit {
    dropped: bool,
    /// When the next record of those left expires.
    earliest_ms: u64,
}

impl From<Corrupt> for Failure {
    fn from(_: Corrupt) -> Self {
        Failure::Corrupt
    }
}
