//! `operator`: where operators ask, and by which token.
//!
//! Its one rule: without a token there is no such plugin, and the token itself is not kept.
//! It does not know what an operator asks.

use serde_json::Value;
use subtle::ConstantTimeEq;

use super::store::secret;
use super::text::{is_visible, path};
use super::walk::{Place, Read};
use crate::digest::Digest;

/// Where operators ask, and who counts as one.
#[derive(Clone)]
pub struct Operator {
    /// The path under which operations stand; without a slash at its end.
    pub path: String,
    /// Of the token.
    digest: [u8; 32],
}

impl std::fmt::Debug for Operator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Operator").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Operator {
    /// Reads it.
    pub(super) fn read(at: &Place<'_>, value: &Value, env: &dyn Fn(&str) -> Option<String>) -> Read<Self> {
        at.object(value, |fields| {
            let path = fields.required("path", |at, value| path(at, value).map(str::to_owned))?;
            let token = fields.required("token", |at, value| {
                let at = at.as_secret();
                let token = secret(&at, value, env)?;
                match std::str::from_utf8(&token).is_ok_and(|text| is_visible(text, &(1..=1024))) {
                    true => Ok(token),
                    false => Err(at.error("must be 1 to 1024 visible ASCII characters")),
                }
            })?;
            Ok(Operator { path: path.trim_end_matches('/').to_owned(), digest: digest(&token) })
        })
    }

    /// Whether this value of `authorization` carries the token; how long that takes says nothing about the token.
    ///
    /// "auth-scheme is case-insensitive" (RFC 9110, section 11.1).
    pub fn admits(&self, authorization: &[u8]) -> bool {
        let scheme = authorization.get(..7).unwrap_or_default();
        let token = authorization.get(7..).unwrap_or_default().trim_ascii();
        let is_bearer = scheme.eq_ignore_ascii_case(b"bearer ");
        (digest(token).ct_eq(&self.digest) & subtle::Choice::from(u8::from(is_bearer))).into()
    }
}

fn digest(token: &[u8]) -> [u8; 32] {
    let mut digest = Digest::new("operator", None);
    digest.part("token", token);
    digest.finish()
}
