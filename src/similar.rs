//! What a store remembers of the requests of one caller that have the same content, and the versioned wire form of it.
//!
//! Its one rule: it is a record of a kind of its own, small and of few keys, so that it is never read as an operation.
//! It does not know which contents are the same, nor what a request gets that is not the first.

use crate::key::Name;
use crate::record::{Corrupt, FORMAT, Input};

/// The latest requests with one content, each known by its operation, the latest last. Times are milliseconds on the
/// store's own clock.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Similar {
    /// When each operation was begun last.
    pub entries: Vec<(Name, u64)>,
    /// When it is forgotten.
    pub expires_ms: u64,
}

/// What is asked about the requests with one content; the name is the content's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The operation that begins.
    pub own: Name,
    /// One that is known to have been released since it was begun then, and counts no more.
    pub released: Option<(Name, u64)>,
    /// Whether it does not begin where there is another.
    pub refuses: bool,
}

/// The kind of a record, its second byte: that of what is similar.
pub const SIMILAR: u8 = 2;
/// How many operations it remembers.
pub const KEPT: usize = 4;

impl Similar {
    /// The wire form: version, kind, expiry, then each operation's name and time.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![FORMAT, SIMILAR];
        out.extend_from_slice(&self.expires_ms.to_le_bytes());
        for (name, since_ms) in &self.entries {
            out.extend_from_slice(&name.0);
            out.extend_from_slice(&since_ms.to_le_bytes());
        }
        out
    }

    /// Reads the wire form.
    ///
    /// # Errors
    /// The bytes are not exactly one such record of a known version.
    pub fn decode(bytes: &[u8]) -> Result<Self, Corrupt> {
        let mut input = Input(bytes);
        if input.array()? != [FORMAT, SIMILAR] {
            return Err(Corrupt);
        }
        let mut similar = Similar { expires_ms: u64::from_le_bytes(input.array()?), entries: Vec::new() };
        while input.end().is_err() {
            similar.entries.push((Name(input.array()?), u64::from_le_bytes(input.array()?)));
        }
        Ok(similar)
    }
}
