//! How a response is kept: under a checksum, or encrypted so that its store can neither read nor change it.
//!
//! Its one rule: what opens is what was sealed, under this very name; everything else is an error.
//! It does not know what a response is, nor where it is kept.

use chacha20poly1305::aead::{Aead, Payload};
use chacha20poly1305::{Key, KeyInit, XChaCha20Poly1305, XNonce};

use crate::config::SecretKey;
use crate::digest::checksum;
use crate::key::Name;
use crate::record::{Corrupt, Input, Owner};

/// The keys of stored responses.
#[derive(Default)]
pub struct ResponseCipher(Vec<Locked>);

struct Locked {
    id: String,
    cipher: XChaCha20Poly1305,
}

/// The first byte of the form without keys: then a checksum, then the response.
const CLEAR: u8 = 0;
/// The first byte of the form with keys: then the key's id with its length, a nonce, the encrypted response with its tag.
const ENCRYPTED: u8 = 1;

impl ResponseCipher {
    /// Seals with the first of these keys and opens with all of them; without any, nothing is encrypted.
    pub fn new(keys: &[SecretKey]) -> Self {
        let locked = |key: &SecretKey| {
            let cipher = XChaCha20Poly1305::new(&Key::from(key.key));
            Locked { id: key.id.clone(), cipher }
        };
        ResponseCipher(keys.iter().map(locked).collect())
    }

    /// Seals the one response that this owner has for this name; none where it cannot be sealed.
    pub fn seal(&self, name: &Name, owner: Owner, response: &[u8]) -> Option<Vec<u8>> {
        let Some(key) = self.0.first() else {
            return Some([&[CLEAR], checksum(response).as_slice(), response].concat());
        };
        let nonce = nonce(owner);
        let sealed = key.cipher.encrypt(&nonce, Payload { msg: response, aad: &name.0 }).ok()?;
        Some([&[ENCRYPTED, key.id.len() as u8], key.id.as_bytes(), &nonce, &sealed].concat())
    }

    /// Opens what was sealed for this name. With keys, nothing that is not encrypted opens.
    ///
    /// # Errors
    /// It was not sealed here, under this name, with one of these keys; or it was changed.
    pub fn open(&self, name: &Name, sealed: &[u8]) -> Result<Vec<u8>, Corrupt> {
        let mut input = Input(sealed);
        match (input.array()?, self.0.as_slice()) {
            ([CLEAR], []) => {
                let sum = input.array()?;
                let response = input.rest();
                if checksum(response) == sum { Ok(response.to_vec()) } else { Err(Corrupt) }
            }
            ([ENCRYPTED], keys) => {
                let [len] = input.array()?;
                let id = input.take(len.into())?;
                let key = keys.iter().find(|key| key.id.as_bytes() == id).ok_or(Corrupt)?;
                let nonce = XNonce::from(input.array()?);
                key.cipher.decrypt(&nonce, Payload { msg: input.rest(), aad: &name.0 }).map_err(|_| Corrupt)
            }
            _ => Err(Corrupt),
        }
    }
}

/// The owner's token is random and one claim's alone, and an owner seals one response: so the nonce is never used for
/// two.
fn nonce(owner: Owner) -> XNonce {
    let mut nonce = [0; 24];
    nonce.iter_mut().zip(owner.0).for_each(|(to, from)| *to = from);
    XNonce::from(nonce)
}
