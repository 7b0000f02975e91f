//! What several gateways would ask of one store: operations that carry what their owners know.
//!
//! Its one rule: an owed operation repeats what its own claim was granted, as the exchange does.
//! It does not know what answers.

use std::collections::BTreeMap;
use std::fmt;

use envoy_idempotency::command::{Command, CommandKind, Resolution, StoreReply};
use envoy_idempotency::fingerprint::Fingerprint;
use envoy_idempotency::key::{KeyForm, Name, UpstreamKey};
use envoy_idempotency::record::Owner;
use proptest::prelude::*;

pub const LEASE: u64 = 100;
pub const TTL: u64 = 250;

/// What the gateways know of their own claims, so that each operation carries what it should.
#[derive(Default)]
pub struct Gateways(BTreeMap<(u8, Owner), Command>);

/// Something a gateway does after a while.
#[derive(Clone)]
pub struct Deed {
    pub wait_ms: u64,
    pub name: u8,
    pub owner: [u8; 16],
    pub payload: [u8; 16],
    pub ttl_ms: u64,
    /// Whether it is about a content key.
    pub in_window: bool,
    /// Whether it may begin an operation.
    pub may_begin: bool,
    pub operation: CommandKind,
}

/// In one line, because a failing sequence is a long list of them.
impl fmt::Debug for Deed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Deed { wait_ms, name, owner: [owner, ..], payload: [payload, ..], ttl_ms, in_window, may_begin, operation } =
            self;
        write!(
            f,
            "+{wait_ms} ms: {owner} to {name} with {payload}, ttl {ttl_ms}{}{}: {operation:?}",
            if *in_window { " in a window" } else { "" },
            if *may_begin { "" } else { " with an expired key" }
        )
    }
}

impl Gateways {
    /// A claim brings its own payload and proposes a key; what is owed repeats what was granted.
    pub fn call(&self, deed: &Deed) -> Command {
        let Deed { owner, payload, ttl_ms, ref operation, .. } = *deed;
        let fresh = Command {
            name: name(deed.name),
            owner: Owner(owner),
            fingerprint: Fingerprint([payload, payload].concat().try_into().unwrap_or_default()),
            attempt: 0,
            key: KeyForm::Ours(UpstreamKey(owner)),
            lease_ms: LEASE,
            ttl_ms,
            in_window: deed.in_window,
            may_begin: deed.may_begin,
            deadline_ms: None,
            kind: operation.clone(),
        };
        match (self.0.get(&(deed.name, fresh.owner)), operation) {
            // An operator has a token of his own.
            (_, CommandKind::Resolve(_)) => Command { owner: Owner(owner.map(|byte| byte | 0x80)), ..fresh },
            (None, _) | (_, CommandKind::Claim { .. } | CommandKind::Poll { .. }) => fresh,
            (Some(granted), _) => Command { ttl_ms, kind: operation.clone(), ..granted.clone() },
        }
    }

    pub fn hear(&mut self, call: &Command, reply: &StoreReply) {
        if let StoreReply::Granted { attempt, key, .. } = *reply {
            self.0.insert((call.name.0[31], call.owner), Command { attempt, key, ..call.clone() });
        }
    }
}

/// Names in pairs that share their first bytes, and with them their bucket.
pub fn name(number: u8) -> Name {
    let mut bytes = [number / 2; 32];
    bytes[31] = number;
    Name(bytes)
}

/// Up to `len` deeds of four owners with two payloads on so many names.
pub fn deeds(names: u8, len: usize) -> impl Strategy<Value = Vec<Deed>> {
    prop::collection::vec(any::<u32>(), 1..len)
        .prop_map(move |numbers| numbers.into_iter().map(|number| deed(names, number)).collect())
}

/// One number is one deed: generating millions of them is then cheap, and they still shrink.
fn deed(names: u8, number: u32) -> Deed {
    let part = |shift: u32, count: u32| (number >> shift) % count;
    let operation = match part(20, 16) {
        0..6 => CommandKind::Claim { may_retry: true },
        6 if number & 1 == 0 => CommandKind::Claim { may_retry: false },
        6 => CommandKind::Poll { max_attempt: part(24, 3) },
        7 => CommandKind::Complete { status: 204, response: None },
        8..10 => CommandKind::Complete { status: 201, response: Some(vec![number as u8; part(24, 40) as usize]) },
        10 => CommandKind::MarkUnknown,
        11 => CommandKind::Release { keep_fingerprint: true },
        12 => CommandKind::Release { keep_fingerprint: false },
        13 => CommandKind::Withdraw,
        14 if number & 1 == 0 => CommandKind::Inspect,
        15 if number & 1 == 0 => CommandKind::Resolve(match part(24, 4) {
            0 => Resolution::Forget,
            1 => Resolution::Ran { status: None },
            2 => Resolution::Ran { status: Some(201) },
            _ => Resolution::NotRun { attempt: part(26, 3) },
        }),
        _ => CommandKind::Renew,
    };
    Deed {
        wait_ms: match part(0, 16) {
            0..9 => 0,
            9..12 => LEASE / 3,
            12..15 => LEASE,
            _ => TTL,
        },
        name: part(4, u32::from(names)) as u8,
        owner: [part(12, 4) as u8; 16],
        payload: [u8::from(part(14, 8) == 0); 16],
        ttl_ms: if part(17, 8) == 0 { LEASE / 4 } else { TTL },
        // As a rule all calls of a name agree on it; nothing may hang on that.
        in_window: part(4, u32::from(names)) % 3 == 2 || part(27, 32) == 0,
        may_begin: part(26, 7) != 0,
        operation,
    }
}

/// The first bytes of an owner or a payload.
pub fn bytes(text: &[u8]) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes.iter_mut().zip(text).for_each(|(place, byte)| *place = *byte);
    bytes
}

/// The answer without the time at which the record expires, which only the next operation's deadline needs; a renewal
/// says nothing else.
pub fn timeless(reply: StoreReply) -> StoreReply {
    match reply {
        StoreReply::Granted { attempt, doubt, key, .. } => StoreReply::Granted { attempt, doubt, key, expires_ms: 0 },
        StoreReply::Renewed { .. } => StoreReply::Settled,
        other => other,
    }
}
