//! Hashing of lists of parts: tagged and length-prefixed, plain or keyed. And the checksum of what is kept.
//!
//! Its one rule: two different lists of parts never feed the hash the same bytes, whatever the parts contain.
//! It does not know what the parts mean.

use hmac::{Hmac, KeyInit, Mac};
use poly1305::Poly1305;
use sha2::{Digest as _, Sha256};

/// The key of `secrets.hash_key`, as HMAC wants it: one block of SHA-256 (RFC 2104, section 2).
#[derive(Clone)]
pub struct HashKey([u8; 64]);

impl HashKey {
    /// "Applications that use keys longer than B bytes will first hash the key" (RFC 2104, section 2).
    pub fn new(secret: &[u8]) -> Self {
        let mut block = [0; 64];
        let hashed: [u8; 32];
        let key = if secret.len() > block.len() {
            hashed = Sha256::digest(secret).into();
            hashed.as_slice()
        } else {
            secret
        };
        for (place, byte) in block.iter_mut().zip(key) {
            *place = *byte;
        }
        HashKey(block)
    }
}

/// A hash under way.
#[derive(Clone)]
pub struct Digest(Kind);

#[derive(Clone)]
enum Kind {
    Keyed(Box<Hmac<Sha256>>),
    Plain(Sha256),
}

impl Digest {
    /// Begins a hash whose result means nothing under any other `purpose`.
    pub fn new(purpose: &'static str, key: Option<&HashKey>) -> Self {
        let kind = match key {
            Some(HashKey(block)) => Kind::Keyed(Box::new(Hmac::new(&(*block).into()))),
            None => Kind::Plain(Sha256::new()),
        };
        let mut digest = Digest(kind);
        digest.part("purpose", purpose.as_bytes());
        digest
    }

    /// Adds one part: its tag, its length, its bytes.
    pub fn part(&mut self, tag: &'static str, bytes: &[u8]) {
        // Tags are our own words, so one byte tells their length.
        self.feed(&[tag.len() as u8]);
        self.feed(tag.as_bytes());
        self.feed(&(bytes.len() as u32).to_le_bytes());
        self.feed(bytes);
    }

    /// Adds a list of parts under one tag: how many, then each with its length.
    pub fn list<'a>(&mut self, tag: &'static str, parts: impl Iterator<Item = &'a [u8]> + Clone) {
        self.part(tag, &(parts.clone().count() as u32).to_le_bytes());
        for bytes in parts {
            self.part("", bytes);
        }
    }

    /// Opens the last part, whose length need not be known: everything fed by [`Digest::feed`] from here on.
    pub fn open_tail(&mut self, tag: &'static str) {
        self.part("tail", tag.as_bytes());
    }

    /// Adds bytes of the last part.
    pub fn feed(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            Kind::Keyed(mac) => mac.update(bytes),
            Kind::Plain(hash) => hash.update(bytes),
        }
    }

    /// The hash of everything added.
    pub fn finish(self) -> [u8; 32] {
        match self.0 {
            Kind::Keyed(mac) => mac.finalize().into_bytes().into(),
            Kind::Plain(hash) => hash.finalize().into(),
        }
    }
}

/// A checksum that shows accidents, not attacks: Poly1305 under a key that everybody knows. Zeroes have none of zeroes.
///
/// No part of the key repeats another: under one that does, words change places unnoticed in the four bytes that are kept.
pub fn checksum(bytes: &[u8]) -> [u8; 4] {
    let [a, b, c, d, ..]: [u8; 16] =
        Poly1305::new(b"envoy-idempotency: no accidents!".into()).compute_unpadded(bytes).into();
    [a, b, c, d]
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    let digit = |nibble: u8| if nibble < 10 { b'0' + nibble } else { b'a' + nibble - 10 };
    let mut digits = Vec::with_capacity(2 * bytes.len());
    bytes.iter().for_each(|byte| digits.extend_from_slice(&[digit(byte >> 4), digit(byte & 15)]));
    String::from_utf8(digits).unwrap_or_default()
}
