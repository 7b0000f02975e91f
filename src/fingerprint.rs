//! What makes two requests the same: a hash over the payload parts that the policy names.
//!
//! Its one rule: the body streams through; nothing of it is kept.
//! It does not know the key, nor who is asking.

use subtle::ConstantTimeEq;

use crate::config::FingerprintPolicy;
use crate::digest::{Digest, HashKey};
use crate::message::{RequestHead, media_type};

/// The hash of a request's payload.
#[derive(Clone, Copy, Debug)]
pub struct Fingerprint(pub [u8; 32]);

/// Compared in constant time, so that a stored payload cannot be felt for byte by byte.
impl PartialEq for Fingerprint {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for Fingerprint {}

/// A fingerprint under way.
#[derive(Clone)]
pub struct Payload {
    digest: Digest,
    /// Whether the body is part of it.
    body: bool,
}

impl Payload {
    /// Takes what the head contributes: the query and the chosen headers.
    pub fn new(policy: &FingerprintPolicy, hash_key: Option<&HashKey>, head: &RequestHead) -> Self {
        let mut digest = Digest::new("fingerprint", hash_key);
        if policy.query {
            digest.list("query", head.query().into_iter());
        }
        for name in &policy.headers {
            digest.part("header", name.as_bytes());
            match name.as_str() {
                "content-type" => {
                    let types: Vec<_> = head.headers.all(name).map(media_type).collect();
                    digest.list("media type", types.iter().map(Vec::as_slice));
                }
                _ => digest.list("lines", head.headers.all(name).collect::<Vec<_>>().into_iter()),
            }
        }
        digest.open_tail("body");
        Payload { digest, body: policy.body }
    }

    /// Takes the next bytes of the body.
    pub fn body(&mut self, chunk: &[u8]) {
        if self.body {
            self.digest.feed(chunk);
        }
    }

    /// The fingerprint of everything taken.
    pub fn finish(self) -> Fingerprint {
        Fingerprint(self.digest.finish())
    }
}
