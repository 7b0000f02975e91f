//! Keys that the gateway issues: how one is made, and what there is to say of one that comes back.
//!
//! Its one rule: a key counts for the rule and the caller that it was issued to and for no other, and nothing is stored
//! to know that.
//! It does not know how a key is asked for, nor what becomes of a request that brings one.

use base64ct::{Base64UrlUnpadded, Encoding};
use subtle::ConstantTimeEq;

use crate::caller::Caller;
use crate::config::source::Request;
use crate::config::{Config, Store};
use crate::digest::{Digest, HashKey};
use crate::key::{ClientKey, UpstreamKey};
use crate::mutant::{self, Mutant};

/// What makes keys, and knows them again.
#[derive(Default)]
pub struct Issuer {
    /// The first signs, all verify.
    keys: Vec<HashKey>,
    /// What tells the store from others.
    store: Vec<u8>,
    /// How long a key may begin an operation.
    ttl_s: u64,
    /// How far the clocks of two gateways of this store may be apart.
    skew_s: u64,
}

/// What is known of a key that was issued to this caller under this rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Issued {
    /// How long it may still begin an operation; 0 once it has expired.
    pub left_s: u64,
    /// Whether it may begin an operation here: where clocks may differ, for a little longer.
    pub may_begin: bool,
    /// How long its record must live at least, so that no gateway takes it for a new key.
    pub least_ttl_ms: u64,
}

/// How far the clocks of two gateways may be apart.
const SKEW_S: u64 = 60;
/// The form of what is issued: version, time in seconds, random bytes; then the tags of the rule, of the caller, and of
/// all before them.
const VERSION: u8 = 1;
const HEAD: usize = 25;
const TAG: usize = 8;
const BYTES: usize = HEAD + 2 * TAG + 16;

impl Issuer {
    /// As the operator's document has it, for the store of this plugin.
    pub fn new(config: &Config, plugin: &[u8]) -> Self {
        let keys = config.issuing.iter().map(|key| HashKey::new(&key.key)).collect();
        let (store, skew_s) = match &config.store {
            Store::Local { .. } => ([b"plugin ", plugin].concat(), 0),
            Store::Redis(redis) => ([b"prefix ", redis.prefix.as_bytes()].concat(), SKEW_S),
        };
        Issuer { keys, store, ttl_s: config.issued_ttl_s, skew_s }
    }

    /// A new key, and for how many seconds it may begin an operation; none without secrets to sign it with.
    pub fn issue(
        &self,
        rule: &str,
        caller: &Caller,
        random: UpstreamKey,
        request: &Request<'_>,
    ) -> Option<(String, u64)> {
        let head = [&[VERSION], time_s(request).to_le_bytes().as_slice(), &random.0].concat();
        let key = self.keys.first()?;
        let [for_rule, for_caller] = tags(key, &head, rule, caller);
        let signed = [head.as_slice(), &for_rule, &for_caller].concat();
        let whole = [signed.as_slice(), &self.seal(key, &signed)].concat();
        Some((Base64UrlUnpadded::encode_string(&whole), self.ttl_s))
    }

    /// What is known of a key that this caller brings under this rule with this request.
    ///
    /// # Errors
    /// It was not issued to them, and why not.
    pub fn judge(
        &self,
        rule: &str,
        caller: &Caller,
        key: &ClientKey,
        request: &Request<'_>,
    ) -> Result<Issued, &'static str> {
        let mut bytes = [0; BYTES];
        let [text] = key.values() else { return Err(FOREIGN) };
        let is_whole = Base64UrlUnpadded::decode(text, &mut bytes).is_ok_and(|bytes| bytes.len() == BYTES);
        if !is_whole || !bytes.starts_with(&[VERSION]) || self.keys.is_empty() {
            return Err(FOREIGN);
        }
        let (signed, seal) = bytes.split_at(HEAD + 2 * TAG);
        let (head, own) = signed.split_at(HEAD);
        let key = self.keys.iter().find(|key| self.seal(key, signed).ct_eq(seal).into()).ok_or(ALTERED)?;
        let [for_rule, for_caller] = tags(key, head, rule, caller);
        let (own_rule, own_caller) = own.split_at(TAG);
        if !bool::from(for_rule.ct_eq(own_rule)) {
            return Err(ANOTHER_RULE);
        }
        if !bool::from(for_caller.ct_eq(own_caller)) && !mutant::is(Mutant::IssuedToAnyone) {
            return Err(ANOTHER_CALLER);
        }
        let now_s = time_s(request);
        let issued_s = head.get(1..9).and_then(|time| time.try_into().ok()).map_or(0, u64::from_le_bytes);
        if issued_s > now_s.saturating_add(SKEW_S) {
            return Err(AHEAD);
        }
        let ends_s = issued_s.saturating_add(self.ttl_s);
        // By the clock of this gateway, which may be behind that of another.
        let last_s = if mutant::is(Mutant::IssuedForgotten) { 0 } else { ends_s.saturating_add(2 * self.skew_s) };
        Ok(Issued {
            left_s: ends_s.saturating_sub(now_s),
            may_begin: now_s < ends_s.saturating_add(self.skew_s.min(self.ttl_s / 10))
                || mutant::is(Mutant::ExpiredBegins),
            least_ttl_ms: last_s.saturating_sub(now_s).saturating_mul(1000),
        })
    }

    fn seal(&self, key: &HashKey, signed: &[u8]) -> [u8; 16] {
        let mut digest = Digest::new("issued key", Some(key));
        digest.part("store", &self.store);
        digest.part("signed", signed);
        first(digest)
    }
}

/// The time of day at which the host has seen a request begin, in seconds since 1970; of one that does not tell, none
/// that is not over.
fn time_s(request: &Request<'_>) -> u64 {
    let nanoseconds =
        request.attribute(&["request", "time"]).and_then(|time| time.try_into().ok()).map(u64::from_le_bytes);
    nanoseconds.map_or(u64::MAX, |time| time / 1_000_000_000)
}

/// Made of what is random in the key, so that two keys do not show that they were issued to one caller.
fn tags(key: &HashKey, head: &[u8], rule: &str, caller: &Caller) -> [[u8; TAG]; 2] {
    let mut for_rule = Digest::new("issued under", Some(key));
    for_rule.part("head", head);
    let mut for_caller = Digest::new("issued to", Some(key));
    for_caller.part("head", head);
    for_rule.part("rule", rule.as_bytes());
    caller.digest(&mut for_caller);
    [first(for_rule), first(for_caller)]
}

fn first<const N: usize>(digest: Digest) -> [u8; N] {
    let mut first = [0; N];
    first.iter_mut().zip(digest.finish()).for_each(|(to, from)| *to = from);
    first
}

const FOREIGN: &str = "The request was not executed: this operation takes only keys that this gateway has issued, and this \
                       is none. Ask for one first.";
const ALTERED: &str = "The request was not executed: this key was altered, or it was issued for another store or under a \
                       secret that is no longer in use. Ask for a new one.";
const ANOTHER_RULE: &str = "The request was not executed: this key was issued under another rule. Ask for one with the \
                            method and the path of this request.";
const ANOTHER_CALLER: &str = "The request was not executed: this key was issued to another caller. Ask for one with the \
                              credentials of this request.";
const AHEAD: &str = "The request was not executed: this key was issued more than a minute ahead of this gateway's clock. \
                     Ask for a new one.";
/// The detail of an issued key that has expired, and has made no record that is still known.
pub const EXPIRED: &str = "The request was not executed: this key has expired, and may not begin an operation. Ask for a new \
                           one.";
