//! What a store remembers of one operation, and the versioned wire form of it.
//!
//! Its one rule: bytes that are not exactly a record of a known version are an error, never a free key.
//! It does not know how a record comes about: that is `store/model.rs`.

use crate::fingerprint::Fingerprint;
use crate::key::{KeyForm, UpstreamKey};
use crate::message::Headers;

/// Who executes: the random token of one claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Owner(pub [u8; 16]);

/// One operation as its store knows it. Times are milliseconds on the store's own clock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Of the last granted claim; the fencing number. 0 when none was granted.
    pub attempt: u32,
    /// How its key goes upstream, with every attempt.
    pub key: KeyForm,
    /// Whether an earlier attempt may have executed.
    pub doubt: bool,
    /// Whether the attempt before the last that was granted left its fingerprint: what a withdrawn claim puts back.
    pub inherited: bool,
    /// The owners released last, oldest first: their late claims are refused.
    pub released: Vec<Owner>,
    /// When the record may be forgotten; [`Record::forgotten_ms`] tells when it is.
    pub expires_ms: u64,
    /// What is known.
    pub state: State,
}

/// How many released owners a record remembers.
pub const RELEASED_KEPT: usize = 8;

/// What is known of an operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// The upstream answered for good; never replaced before the record expires.
    Completed {
        /// Of the payload that was executed; none where only an operator said that it was.
        fingerprint: Option<Fingerprint>,
        /// Who executed it.
        owner: Owner,
        /// The upstream's status, where it is known.
        status: Option<u16>,
        /// When it was completed.
        since_ms: u64,
        /// The response as its store keeps it; none when it cannot be replayed.
        response: Option<Vec<u8>>,
    },
    /// No owner executes; claimable at once.
    Open {
        /// Kept when only the same payload may run.
        fingerprint: Option<Fingerprint>,
    },
    /// An owner executes; past the end of its lease this *is* unknown.
    Running {
        /// Of the payload that is executed.
        fingerprint: Fingerprint,
        /// Who executes it.
        owner: Owner,
        /// When the claim lapses.
        lease_end_ms: u64,
    },
    /// An owner may have executed.
    Unknown {
        /// Of the payload that may have been executed.
        fingerprint: Fingerprint,
        /// The last who may have executed it.
        owner: Owner,
        /// When the next attempt may run.
        retry_at_ms: u64,
    },
}

/// What a record shows to a look-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordSummary {
    /// The last that was granted.
    pub attempt: u32,
    /// How far it is.
    pub standing: RecordStatus,
    /// Until the record is forgotten.
    pub ttl_ms: u64,
}

/// How far an operation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordStatus {
    /// The upstream answered for good, with this status, where it is known.
    Completed(Option<u16>),
    /// No owner executes; it may be tried again.
    Open,
    /// It is executed.
    Running,
    /// An owner may have executed it.
    Unknown,
}

/// A stored value that is not a record of a version and a kind that we know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Corrupt;

/// The version of both wire forms below; part of every key of the embedded store.
pub const FORMAT: u8 = 2;

/// The kind of a record, its second byte: that of an operation. What is of another kind is no operation.
pub const KIND: u8 = 0;

impl Record {
    /// When the record is forgotten: never before its lease has ended.
    pub fn forgotten_ms(&self) -> u64 {
        match self.state {
            State::Running { lease_end_ms: until_ms, .. } | State::Unknown { retry_at_ms: until_ms, .. } => {
                self.expires_ms.max(until_ms)
            }
            State::Completed { .. } | State::Open { .. } => self.expires_ms,
        }
    }

    /// Has late tries of this owner's claim refused from here on, whatever the state; tells whether they were before.
    pub fn release(&mut self, owner: Owner) -> bool {
        let is_repeat = self.released.contains(&owner);
        if !is_repeat {
            if self.released.len() == RELEASED_KEPT {
                self.released.remove(0);
            }
            self.released.push(owner);
        }
        is_repeat
    }

    /// What there is to see of it now.
    pub fn sight(&self, now_ms: u64) -> RecordSummary {
        let standing = match self.state {
            State::Completed { status, .. } => RecordStatus::Completed(status),
            State::Open { .. } => RecordStatus::Open,
            State::Running { lease_end_ms, .. } if now_ms < lease_end_ms => RecordStatus::Running,
            State::Running { .. } | State::Unknown { .. } => RecordStatus::Unknown,
        };
        RecordSummary { attempt: self.attempt, standing, ttl_ms: self.forgotten_ms().saturating_sub(now_ms) }
    }

    /// The wire form: version, kind, state, flags, attempt, expiry, form of the key, released owners, then the state's
    /// fields. docs/compatibility.md has it in full.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(128);
        let state = match self.state {
            State::Completed { .. } => COMPLETED,
            State::Open { .. } => OPEN,
            State::Running { .. } => RUNNING,
            State::Unknown { .. } => UNKNOWN,
        };
        out.extend_from_slice(&[FORMAT, KIND, state, u8::from(self.doubt) + 2 * u8::from(self.inherited)]);
        out.extend_from_slice(&self.attempt.to_le_bytes());
        out.extend_from_slice(&self.expires_ms.to_le_bytes());
        out.extend(self.key.encode());
        out.push(self.released.len() as u8);
        self.released.iter().for_each(|owner| out.extend_from_slice(&owner.0));
        match &self.state {
            State::Completed { fingerprint, owner, status, since_ms, response } => {
                put_option(&mut out, fingerprint.map(|fingerprint| fingerprint.0));
                out.extend_from_slice(&owner.0);
                out.extend_from_slice(&status.unwrap_or(0).to_le_bytes());
                out.extend_from_slice(&since_ms.to_le_bytes());
                out.push(response.is_some().into());
                out.extend_from_slice(response.as_deref().unwrap_or_default());
            }
            State::Open { fingerprint } => put_option(&mut out, fingerprint.map(|fingerprint| fingerprint.0)),
            State::Running { fingerprint, owner, lease_end_ms: until_ms }
            | State::Unknown { fingerprint, owner, retry_at_ms: until_ms } => {
                out.extend_from_slice(&fingerprint.0);
                out.extend_from_slice(&owner.0);
                out.extend_from_slice(&until_ms.to_le_bytes());
            }
        }
        out
    }

    /// Reads the wire form.
    ///
    /// # Errors
    /// The bytes are not exactly one record of a known version.
    pub fn decode(bytes: &[u8]) -> Result<Self, Corrupt> {
        let mut input = Input(bytes);
        if input.array()? != [FORMAT, KIND] {
            return Err(Corrupt);
        }
        let (state, (doubt, inherited)) = (input.byte()?, input.two_flags()?);
        let (attempt, expires_ms) = (u32::from_le_bytes(input.array()?), u64::from_le_bytes(input.array()?));
        let key = input.key_form()?;
        let count = usize::from(input.byte()?);
        if count > RELEASED_KEPT {
            return Err(Corrupt);
        }
        let released = (0..count).map(|_| input.array().map(Owner)).collect::<Result<_, _>>()?;
        let state = match state {
            OPEN => State::Open { fingerprint: input.option()?.map(Fingerprint) },
            COMPLETED => State::Completed {
                fingerprint: input.option()?.map(Fingerprint),
                owner: Owner(input.array()?),
                status: known_status(u16::from_le_bytes(input.array()?)),
                since_ms: u64::from_le_bytes(input.array()?),
                response: if input.flag()? { Some(input.rest().to_vec()) } else { None },
            },
            RUNNING | UNKNOWN => {
                let (fingerprint, owner) = (Fingerprint(input.array()?), Owner(input.array()?));
                let until_ms = u64::from_le_bytes(input.array()?);
                match state {
                    RUNNING => State::Running { fingerprint, owner, lease_end_ms: until_ms },
                    _ => State::Unknown { fingerprint, owner, retry_at_ms: until_ms },
                }
            }
            _ => return Err(Corrupt),
        };
        input.end()?;
        Ok(Record { attempt, key, doubt, inherited, released, expires_ms, state })
    }
}

/// An upstream's response as it is kept for replay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The upstream's status.
    pub status: u16,
    /// The end-to-end fields that are worth repeating.
    pub headers: Headers,
    /// The whole body; none where only the head was kept (`on_completed: conflict`).
    pub body: Option<Vec<u8>>,
    /// Whether the request that it answered named `accept-encoding`.
    pub negotiated: bool,
}

impl Response {
    /// The wire form: version, flags (a body was kept, `accept-encoding` was named), status, number of fields, each with
    /// its lengths, the body.
    pub fn encode(&self) -> Vec<u8> {
        let body = self.body.as_deref().unwrap_or_default();
        let mut out = Vec::with_capacity(
            64 + self.headers.iter().map(|(n, v)| n.len() + v.len() + 8).sum::<usize>() + body.len(),
        );
        out.extend_from_slice(&[FORMAT, u8::from(self.body.is_some()) + 2 * u8::from(self.negotiated)]);
        out.extend_from_slice(&self.status.to_le_bytes());
        out.extend_from_slice(&(self.headers.iter().count() as u32).to_le_bytes());
        for field in self.headers.iter() {
            for text in [field.0, field.1] {
                out.extend_from_slice(&(text.len() as u32).to_le_bytes());
                out.extend_from_slice(text);
            }
        }
        out.extend_from_slice(body);
        out
    }

    /// Reads the wire form.
    ///
    /// # Errors
    /// The bytes are not exactly one response of a known version, or no upstream can have sent what they say:
    /// a program that may write to the store shall not split answers.
    pub fn decode(bytes: &[u8]) -> Result<Self, Corrupt> {
        let mut input = Input(bytes);
        if input.byte()? != FORMAT {
            return Err(Corrupt);
        }
        let (whole, negotiated) = input.two_flags()?;
        let status = u16::from_le_bytes(input.array()?);
        let count = u32::from_le_bytes(input.array()?);
        let mut headers = Headers::default();
        for _ in 0..count {
            let (name, value) = (input.text()?, input.text()?);
            if !is_field(name, value) {
                return Err(Corrupt);
            }
            headers.push(name, value);
        }
        let body = whole.then(|| input.rest().to_vec());
        input.end()?;
        if !(200..1000).contains(&status) {
            return Err(Corrupt);
        }
        Ok(Response { status, headers, body, negotiated })
    }
}

/// Whether this is one field line of a message, whatever else it is.
fn is_field(name: &[u8], value: &[u8]) -> bool {
    let breaks_name = |byte: &u8| *byte <= b' ' || *byte == b':' || *byte == 0x7f;
    !name.is_empty() && !name.iter().any(breaks_name) && !value.iter().any(|byte| b"\0\r\n".contains(byte))
}

/// A status of 0 is one that is not known.
pub(crate) fn known_status(status: u16) -> Option<u16> {
    (status != 0).then_some(status)
}

const OPEN: u8 = 0;
const RUNNING: u8 = 1;
const UNKNOWN: u8 = 2;
const COMPLETED: u8 = 3;

fn put_option<const N: usize>(out: &mut Vec<u8>, value: Option<[u8; N]>) {
    out.push(value.is_some().into());
    out.extend_from_slice(value.as_ref().map_or(&[], <[u8; N]>::as_slice));
}

/// Bytes still to be read.
pub(crate) struct Input<'a>(pub &'a [u8]);

impl<'a> Input<'a> {
    pub(crate) fn take(&mut self, len: usize) -> Result<&'a [u8], Corrupt> {
        let (taken, left) = self.0.split_at_checked(len).ok_or(Corrupt)?;
        self.0 = left;
        Ok(taken)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], Corrupt> {
        self.take(N)?.try_into().map_err(|_| Corrupt)
    }

    fn byte(&mut self) -> Result<u8, Corrupt> {
        self.array().map(|[byte]| byte)
    }

    /// A byte that is 0 or 1; anything else shows that we are not where we think we are.
    pub(crate) fn flag(&mut self) -> Result<bool, Corrupt> {
        match self.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Corrupt),
        }
    }

    /// Two flags in one byte, the first of them the lowest bit.
    fn two_flags(&mut self) -> Result<(bool, bool), Corrupt> {
        match self.byte()? {
            flags @ 0..4 => Ok((flags % 2 == 1, flags >= 2)),
            _ => Err(Corrupt),
        }
    }

    pub(crate) fn option<const N: usize>(&mut self) -> Result<Option<[u8; N]>, Corrupt> {
        if self.flag()? { self.array().map(Some) } else { Ok(None) }
    }

    /// As [`KeyForm::encode`] writes it.
    pub(crate) fn key_form(&mut self) -> Result<KeyForm, Corrupt> {
        match self.byte()? {
            0 => Ok(KeyForm::Bare),
            1 => Ok(KeyForm::Quoted),
            2 => self.array().map(UpstreamKey).map(KeyForm::Ours),
            _ => Err(Corrupt),
        }
    }

    /// A length and as many bytes.
    fn text(&mut self) -> Result<&'a [u8], Corrupt> {
        let len = u32::from_le_bytes(self.array()?);
        self.take(len as usize)
    }

    pub(crate) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    pub(crate) fn end(&self) -> Result<(), Corrupt> {
        if self.0.is_empty() { Ok(()) } else { Err(Corrupt) }
    }
}
