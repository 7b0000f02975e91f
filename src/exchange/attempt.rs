//! What one attempt carries along from admission to settlement.
//!
//! Its one rule: nothing here is of one state alone.
//! It does not know any transition.

use crate::command::{Command, CommandKind};
use crate::config::{Ending, Fate, Policy};
use crate::digest::{Digest, hex};
use crate::evidence::{Origin, Source};
use crate::fingerprint::Fingerprint;
use crate::issued::Issued;
use crate::key::{ClientKey, KeyForm, Name, UpstreamKey};
use crate::lock::LockCommand;
use crate::message::{HeaderMutation, Headers, accepts_coding};
use crate::record::{Owner, Response};
use crate::reply::{IdempotencyStatus, Reason, Token};
use crate::step::Outgoing;

use super::headers::steered_ttl_s;

/// A request that is held, and what it takes along when it goes on.
#[derive(Default)]
pub(super) struct PendingRequest {
    /// Removals of what a client must not tell the upstream in the gateway's name.
    pub(super) forged: Vec<HeaderMutation>,
    /// Which operation it is by the word of the hop before, if that is one.
    pub(super) said_operation: Option<Vec<u8>>,
    /// The key that the gateway has made, where the client brought none.
    pub(super) injected: Option<Injected>,
    /// Whether it comes with a key that has expired: it must not begin an operation, so it never goes unprotected.
    pub(super) has_expired: bool,
    /// What the gateway itself will send; none where the client's own stream goes on.
    pub(super) outgoing: Option<Box<Outgoing>>,
}

/// A key that the gateway has made.
#[derive(Clone, Copy)]
pub(super) enum Injected {
    /// Found by the content of the request.
    Content,
    /// A random one, which the client gets.
    Uuid(UpstreamKey),
}

impl Injected {
    /// The key that the client gets.
    pub(super) fn generated_key(self) -> Option<Vec<u8>> {
        match self {
            Injected::Uuid(key) => Some(key.text().into_bytes()),
            Injected::Content => None,
        }
    }
}

/// What a request's content is compared by.
#[derive(Clone, Copy)]
pub(super) struct Content {
    pub(super) name: Name,
    /// Whether the request says that it is meant to run beside others.
    pub(super) is_meant: bool,
}

/// What a claim needs besides the fingerprint.
pub(super) struct ClaimRequest {
    pub(super) name: Name,
    pub(super) owner: Owner,
    /// How the key goes upstream: proposed, then as it was granted.
    pub(super) form: KeyForm,
    /// The client's own key, to be written in that form; none where it is one of ours.
    pub(super) key: Option<ClientKey>,
    /// What the client has in `Idempotency-Key`, where it is its key.
    pub(super) sent_key: Option<Vec<u8>>,
    /// What it takes of `content-encoding`, where it says so.
    pub(super) accept_encoding: Option<Vec<u8>>,
    /// How long a content key counts from its first request on; none of any other key.
    pub(super) window_ms: Option<u64>,
    /// What tells whether its caller has sent the same under another key, where that is to be known.
    pub(super) content: Option<Content>,
    /// Its key, where the gateway has issued it.
    pub(super) issued: Option<Issued>,
    /// The lock of the resource that it names, where it runs one at a time; none once another has taken it.
    pub(super) lock: Option<ResourceLock>,
}

impl ClaimRequest {
    /// A command about its record before any attempt is granted.
    pub(super) fn command(&self, policy: &Policy, fingerprint: Fingerprint, kind: CommandKind) -> Command {
        Command {
            name: self.name,
            owner: self.owner,
            fingerprint,
            attempt: 0,
            key: self.form,
            lease_ms: policy.lease_ms,
            ttl_ms: self.window_ms.unwrap_or_else(|| self.least(policy.ttl_ms)),
            in_window: self.window_ms.is_some(),
            may_begin: self.may_begin(),
            deadline_ms: None,
            kind,
        }
    }

    /// Whether it may begin an operation, and not only find one.
    pub(super) fn may_begin(&self) -> bool {
        self.issued.is_none_or(|issued| issued.may_begin)
    }

    /// How long its record lives that would live for so long: at least until its key expires.
    pub(super) fn least(&self, ttl_ms: u64) -> u64 {
        self.issued.map_or(ttl_ms, |issued| ttl_ms.max(issued.least_ttl_ms))
    }

    /// What the upstream knows the operation by. The same content in another window is another one.
    pub(super) fn operation(&self) -> String {
        let (Some(_), KeyForm::Ours(key)) = (self.window_ms, self.form) else { return self.name.hex() };
        let mut digest = Digest::new("operation", None);
        digest.part("name", &self.name.0);
        digest.part("key", &key.0);
        hex(&digest.finish())
    }

    /// What the upstream gets as `Idempotency-Key`; none where the client's own field serves as it is.
    pub(super) fn key_for_upstream(&self) -> Option<Vec<u8>> {
        let written = match (self.form, &self.key) {
            (KeyForm::Ours(key), _) => Some(key.text().into_bytes()),
            (form, Some(key)) => key.written(form),
            (_, None) => None,
        };
        written.filter(|written| self.sent_key.as_ref() != Some(written))
    }

    /// Whether the client takes the response in the encoding that it was stored in.
    ///
    /// "If no Accept-Encoding header field is in the request, any content coding is considered acceptable" (RFC 9110,
    /// section 12.5.3): so it was to a first request without one, which is no promise to a retry after one with it.
    pub(super) fn takes(&self, response: &Response) -> bool {
        let encodings = response.headers.all("content-encoding").flat_map(|line| line.split(|byte| *byte == b','));
        let mut encodings = encodings
            .map(<[u8]>::trim_ascii)
            .filter(|coding| !coding.is_empty() && !coding.eq_ignore_ascii_case(b"identity"));
        match &self.accept_encoding {
            Some(accepted) => encodings.all(|coding| accepts_coding(accepted, coding)),
            None => !response.negotiated || encodings.next().is_none(),
        }
    }
}

/// The lock of a resource, as far as one execution has come with it.
pub(super) struct ResourceLock {
    pub(super) name: Name,
    /// When it was asked for last.
    pub(super) asked_ms: u64,
    /// When it has been waited for long enough; none while it was never asked for.
    pub(super) until_ms: Option<u64>,
    /// Larger with every holder; none while another may hold it.
    pub(super) fence: Option<u64>,
}

impl ResourceLock {
    /// A lock that was never asked for.
    pub(super) fn of(name: Name) -> Self {
        ResourceLock { name, asked_ms: 0, until_ms: None, fence: None }
    }
}

/// An execution, under a granted claim or without one.
pub(super) struct Execution {
    pub(super) request: Box<ClaimRequest>,
    pub(super) fingerprint: Fingerprint,
    /// The fencing number; none where no claim was granted, as far as is known.
    pub(super) attempt: Option<u32>,
    /// Whether an earlier attempt may have executed.
    pub(super) doubt: bool,
    /// Whether this one has run so long that the store takes its outcome for unknown.
    pub(super) overran: bool,
    pub(super) started_ms: u64,
    /// When the last granted claim or renewal was asked for.
    pub(super) asked_ms: u64,
    /// When the record will be forgotten, on the store's clock; none while no claim was granted.
    pub(super) expires_ms: Option<u64>,
    /// When to renew the leases; none once they are not renewed any more.
    pub(super) renew_at_ms: Option<u64>,
    /// How many seconds ago the same was sent under another key, where it was.
    pub(super) similar_s: Option<u64>,
    /// Whether another owner has claimed the key meanwhile.
    pub(super) is_lost: bool,
    /// The key that the gateway has made, where the client brought none.
    pub(super) injected: Option<Injected>,
}

impl Execution {
    /// A command about its record.
    pub(super) fn command(&self, policy: &Policy, kind: CommandKind) -> Command {
        Command {
            attempt: self.attempt.unwrap_or(0),
            deadline_ms: self.expires_ms,
            ..self.request.command(policy, self.fingerprint, kind)
        }
    }

    /// A command about the lock of its resource, where it has one.
    pub(super) fn lock_command(&self, policy: &Policy, kind: LockCommand) -> Option<Command> {
        self.request.lock.as_ref().map(|lock| Command {
            name: lock.name,
            ttl_ms: 2 * policy.lease_ms,
            in_window: false,
            may_begin: true,
            ..self.request.command(policy, self.fingerprint, CommandKind::Lock(kind))
        })
    }

    /// When it is not renewed any more.
    pub(super) fn ends_ms(&self, policy: &Policy) -> u64 {
        self.started_ms + policy.max_running_ms
    }

    /// Its status, where the store keeps its answer or may; see [`Outcome`] for what else becomes of it.
    pub(super) fn line(&self, stored: Option<bool>, outcome: Option<Fate>) -> IdempotencyStatus {
        let Some(attempt) = self.attempt else {
            // It runs although its claim got no answer.
            return IdempotencyStatus::bypassed(Reason::StoreFailure);
        };
        let outcome = outcome.map(in_a_word);
        let similar_s = self.similar_s;
        let line = IdempotencyStatus {
            stored,
            attempt: Some(attempt),
            outcome,
            similar_s,
            ..IdempotencyStatus::new(Token::Executed)
        };
        line.because(self.injected.map(|_| Reason::Injected))
    }
}

/// What became of an execution, as its status says it.
pub(super) fn in_a_word(fate: Fate) -> &'static str {
    match fate {
        Fate::Release => "released",
        Fate::Retry => "retry",
        Fate::Store => "completed",
        Fate::Unknown => "unknown",
    }
}

/// How long a completed record lives.
#[derive(Clone, Copy)]
pub(super) struct Ttl {
    pub(super) ms: u64,
    /// Whether the upstream asked for more.
    pub(super) is_capped: bool,
}

impl Ttl {
    /// As the upstream asks, up to 30 days, or else as the operator has it.
    pub(super) fn of(policy: &Policy, headers: &Headers) -> Self {
        let Some(seconds) = steered_ttl_s(headers) else { return Ttl { ms: policy.ttl_ms, is_capped: false } };
        Ttl { ms: 1000 * seconds.min(MAX_TTL_S), is_capped: seconds > MAX_TTL_S }
    }
}

/// How long an upstream may have a completed record live at most.
const MAX_TTL_S: u64 = 30 * 24 * 60 * 60;

/// How an execution ended, inline or shielded.
pub(super) enum Outcome {
    /// The upstream answered for good.
    Completed {
        status: u16,
        /// What is kept of the response; none where it cannot be replayed.
        response: Option<Response>,
        ttl: Ttl,
    },
    /// It brought nothing to keep.
    Failed {
        fate: Fate,
        /// How often it went upstream.
        tries: Tries,
    },
}

/// How often one attempt went upstream, by Envoy's word.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Tries {
    Never,
    Once,
    /// So that what came back says nothing about the other tries.
    Several,
}

impl Tries {
    pub(super) fn of(origin: Origin<'_>) -> Self {
        match origin.source() {
            Source::Host(Ending::Unsent) | Source::Route => Tries::Never,
            _ if origin.retried() => Tries::Several,
            _ => Tries::Once,
        }
    }
}
