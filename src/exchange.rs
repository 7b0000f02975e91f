//! The machine: one request and its response, from the first header to the last word of the store.
//!
//! *Rule 1*: every transition is in this file, in one `match` on what is awaited and what happened.
//! *Rule 2*: it reads no clock, draws no randomness, calls nobody, and cannot fail; what it wants is in the [`Step`].
//! It does not know which store answers, nor which host carries its steps out.
//!
//! # Theory of operation
//!
//! A request is hashed while the host holds it back. At its end the name is claimed; whoever is granted the claim is
//! let through under an attempt number, everybody else is answered from what the store knows. While the upstream works
//! the claim is renewed. What comes back decides the fate of the key: a response that is worth keeping is held until
//! the store has it, anything else goes on at once while the store is told. A stream that ends in any other way is
//! settled when it is closed, from the host's account of how it ended.
//!
//! Under `mode: observe` the same transitions are made, and nothing but the status line comes of them.
//!
//! # What follows what
//!
//! A cell lists what may be awaited next. `=` is no change. `tests/it/table.rs` drives every cell.
//!
//! | awaited       | request head                          | request body                    | claim verdict                    | look verdict | mark verdict | renew verdict | settle verdict | response head                    | response body        | tick          | closed     | unable               | executed |
//! |---------------|---------------------------------------|---------------------------------|----------------------------------|--------------|--------------|---------------|----------------|----------------------------------|----------------------|---------------|------------|----------------------|----------|
//! | head          | body, claim, unprotected, answered, done | =                            | =                                | =            | =            | =             | =              | done                             | =                    | =             | done       | =                    | =        |
//! | look-up       | =                                     | =, answered                     | =                                | answered     | =            | =             | =              | done                             | =                    | =             | done       | =                    | =        |
//! | body          | =                                     | =, claim, unprotected, answered | =                                | =            | =            | =             | =              | answered, done                   | =                    | =             | done       | unprotected, answered | =        |
//! | claim         | =                                     | =                               | waiting, renewal, response, shielded, unprotected, answered, save, done | =            | =            | =             | =              | save                             | =                    | =             | save       | =                    | =        |
//! | waiting       | =                                     | =                               | =                                | =            | =            | =             | =              | done                             | =                    | claim, done   | done       | =                    | =        |
//! | renewal       | =                                     | =                               | =                                | =            | =            | =, response, shielded, answered, save | =       | save                             | =                    | =             | save       | =                    | =        |
//! | response      | =                                     | =                               | =                                | =            | =            | =             | =              | response-body, save              | =                    | =             | save       | =                    | =        |
//! | shielded      | =                                     | =                               | =                                | =            | =            | =             | =              | =                                | =                    | =             | =          | =                    | save     |
//! | response-body | =                                     | =                               | =                                | =            | =            | =             | =              | =                                | =, save              | =             | save       | save                 | =        |
//! | save          | =                                     | =                               | =                                | =            | =, done, answered| =             | =, done, answered  | =                                | =                    | =             | =          | =                    | =        |
//! | unprotected   | =                                     | =                               | =                                | =            | =            | =             | =              | done                             | =                    | =             | done       | =                    | =        |
//! | answered      | =                                     | =                               | =                                | =            | =            | =             | =              | =, done                          | =                    | =             | done       | =                    | =        |
//! | done          | =                                     | =                               | =                                | =            | =            | =             | =              | =                                | =                    | =             | =          | =                    | =        |

use std::mem;
use std::rc::Rc;

use crate::caller::{self, Caller};
use crate::command::{Command, CommandKind, Failure, ReplyKind, StoreReply};
use crate::config::{
    Config, Ending, Execution, Fate, Inject, Mode, OnCompleted, OnInFlight, OnMismatch, OnStoreFailure, OnTooLarge,
    OnUnknown, Policy, Save,
};
use crate::digest::{Digest, HashKey, hex};
use crate::event::{Event, EventKind, Executed, Origin, Source};
use crate::fingerprint::{Fingerprint, Payload};
use crate::key::{self, ClientKey, KEY, KeyForm, Name, NoKey, UpstreamKey};
use crate::message::{Edit, Headers, RequestHead, accepts_coding, content_length, media_type, whole_number};
use crate::mutant::{self, Mutant};
use crate::record::{Owner, Response};
use crate::refusal::ProblemType;
use crate::reply::{EXPOSE, EXPOSED, OUR_HEADERS, ProblemDetails, Reason, Reply, STATUS, StatusLine, Token};
use crate::seal::Vault;
use crate::source::{Attributes, Request};
use crate::step::{Bypass, Count, Flow, Outgoing, Remark, SeenCaller, Step};

/// The fencing number, for the upstream.
const ATTEMPT: &str = "idempotency-attempt";
/// The operation's identity, for the upstream.
const OPERATION: &str = "idempotency-operation";
/// The upstream's word on what becomes of the key.
const STEER_FATE: &str = "idempotency-store";
/// The upstream's word on how long a completed record lives.
const STEER_TTL: &str = "idempotency-ttl";

/// Where the internal listener of a shielded execution writes down how an answer came about.
const ACCOUNT_DETAILS: &str = "x-idempotency-details";
const ACCOUNT_UPSTREAM: &str = "x-idempotency-upstream";
const ACCOUNT_ATTEMPTS: &str = "x-idempotency-attempts";

/// Bodies up to here are held even in a worker that holds too much already: they are most of the traffic, and a few
/// slow uploads must not shut it out.
const SMALL_BODY: u64 = 16 << 10;
/// A claim counts as fresh until this part of its lease is left.
const LEASE_MARGIN: u64 = 5;
/// How long a duplicate that waits lets pass before it asks again: first, and at most.
const FIRST_PAUSE_MS: u64 = 50;
const LAST_PAUSE_MS: u64 = 500;
/// How often a claim that took too long is renewed before the store counts as failed.
const MAX_RENEWALS: u32 = 3;

/// What the operator keeps secret.
#[derive(Default)]
pub struct Secrets {
    /// Keys the hashes of names and payloads.
    pub hash_key: Option<HashKey>,
    /// Seals stored responses.
    pub vault: Vault,
}

impl Secrets {
    /// As the operator's document has them.
    pub fn new(config: &Config) -> Self {
        Secrets { hash_key: config.hash_key.as_deref().map(HashKey::new), vault: Vault::new(&config.encryption) }
    }
}

/// Told of an event and of what was awaited then, for tests that count what they reach.
#[cfg(feature = "mutants")]
pub type Witness = fn(&'static str, &Event<'_>);

#[cfg(feature = "mutants")]
thread_local! {
    /// Who is told of every event of this thread's exchanges.
    pub static WITNESS: std::cell::Cell<Option<Witness>> = const { std::cell::Cell::new(None) };
}

/// One request that a rule matched, and its response.
pub struct Exchange {
    policy: Rc<Policy>,
    secrets: Rc<Secrets>,
    state: State,
    /// Bytes of bodies that the host holds back for us, or would if this were no trial.
    held: u64,
    /// Removals of what a client must not tell the upstream in our name.
    forged: Vec<Edit>,
    /// The key that the gateway has made, where the client brought none.
    injected: Option<Injected>,
    /// Changes to an answer of ours that is on its way out while the store has not been heard.
    mending: Vec<Edit>,
    /// What the gateway itself will send; none where the client's own stream goes on.
    outgoing: Option<Box<Outgoing>>,
    /// Whether the client's stream is over, and nobody to answer.
    is_over: bool,
}

enum State {
    /// Awaits the request's head.
    Head,
    /// Awaits the store's word on what is known of an operation, for somebody who only looks.
    LookUp(Box<Command>),
    /// Awaits the rest of the request's body.
    Body { draft: Draft, payload: Payload },
    /// Awaits the store's word on a claim: what will run if it is granted, and how it has waited for that.
    Claim(Run, Option<Wait>),
    /// Awaits the time to ask again whether another's attempt has ended.
    Waiting(Run, Wait),
    /// Awaits the renewal of a claim that was granted too long ago to run on; how many were asked for.
    Renewal(Run, u32),
    /// Awaits the response's head.
    Response(Run),
    /// Awaits what comes back from a request that the gateway itself has sent.
    Shielded(Run),
    /// Awaits the rest of a response that is worth keeping.
    ResponseBody { run: Run, status: u16, headers: Headers, ttl_ms: u64 },
    /// Awaits the store's word on the settlement that was `asked`; `held` is the response that waits for it.
    Save { run: Run, asked: ReplyKind, fate: Fate, held: Option<HeldResponse> },
    /// Awaits the head of a response that we only add our status to.
    Unprotected(StatusLine),
    /// Awaits our own answer on its way out, to undo what the host does to it.
    Answered(Vec<Edit>),
    /// Awaits nothing.
    Done,
}

/// A request whose body has not come.
enum Draft {
    /// Its head tells which operation it is.
    Named(Ticket),
    /// Its body will tell.
    Unnamed { head: Box<RequestHead>, owner: Owner, fresh: UpstreamKey },
}

/// A key that the gateway has made.
enum Injected {
    /// Found by the content of the request.
    Content,
    /// A random one, which the client is told.
    Uuid(UpstreamKey),
}

/// What became of a request that is no operation.
type Decided = Box<(State, Step)>;

/// What a claim needs besides the fingerprint.
struct Ticket {
    name: Name,
    owner: Owner,
    /// How the key goes upstream: proposed, then as it was granted.
    form: KeyForm,
    /// The client's own key, to be written in that form; none where it is one of ours.
    key: Option<ClientKey>,
    /// What the client has in `Idempotency-Key`, where it is its key.
    sent_key: Option<Vec<u8>>,
    /// What it takes of `content-encoding`, where it says so.
    accept_encoding: Option<Vec<u8>>,
    /// How long a content key counts from its first request on; none of any other key.
    window_ms: Option<u64>,
}

/// An execution under a granted claim.
struct Run {
    ticket: Ticket,
    fingerprint: Fingerprint,
    /// The fencing number; 0 where no claim was granted.
    attempt: u32,
    /// Whether an earlier attempt may have executed.
    doubt: bool,
    started_ms: u64,
    /// When the last granted claim or renewal was asked for.
    asked_ms: u64,
    /// When the record will be forgotten, on the store's clock; none while no claim was granted.
    expires_ms: Option<u64>,
    /// When to renew the lease; none once it is not renewed any more.
    renew_at_ms: Option<u64>,
}

/// How a duplicate waits for the attempt that stands in its way.
struct Wait {
    /// The attempt it met first.
    first_attempt: u32,
    /// The attempt it met last.
    attempt: u32,
    /// When it has waited enough.
    until_ms: u64,
    /// How long until it asks again.
    pause_ms: u64,
}

/// A response on its way to the client once the store has heard of it.
struct HeldResponse {
    /// The response, where the gateway itself has it; otherwise the host holds it.
    reply: Option<Box<Reply>>,
    removals: Vec<Edit>,
    /// How long it will be replayed, if the store keeps it.
    ttl_ms: u64,
    /// Why it will not be replayed although it is for good.
    not_kept: Option<Reason>,
}

impl Exchange {
    /// An exchange that awaits the request's head.
    pub fn new(policy: Rc<Policy>, secrets: Rc<Secrets>) -> Self {
        Exchange {
            policy,
            secrets,
            state: State::Head,
            held: 0,
            forged: Vec::new(),
            injected: None,
            mending: Vec::new(),
            outgoing: None,
            is_over: false,
        }
    }

    /// An exchange that only looks what is known of an operation, and answers that.
    pub fn looking(policy: Rc<Policy>, secrets: Rc<Secrets>, name: Name, owner: Owner) -> Self {
        let command = Command {
            name,
            owner,
            fingerprint: Fingerprint([0; 32]),
            attempt: 0,
            key: KeyForm::Bare,
            lease_ms: policy.lease_ms,
            ttl_ms: policy.ttl_ms,
            in_window: false,
            deadline_ms: None,
            kind: CommandKind::Look,
        };
        Exchange { state: State::LookUp(Box::new(command)), ..Exchange::new(policy, secrets) }
    }

    /// Feeds one event; obey the step.
    pub fn handle(&mut self, event: Event<'_>) -> Step {
        #[cfg(feature = "mutants")]
        if let Some(witness) = WITNESS.get() {
            witness(self.awaits(), &event);
        }
        let is_response_head = matches!(event, Event { kind: EventKind::ResponseHeaders { .. }, .. });
        self.is_over |= matches!(event, Event { kind: EventKind::Closed { .. }, .. });
        let state = mem::replace(&mut self.state, State::Done);
        let (state, step) = self.next(state, event);
        self.state = state;
        if !matches!(step.flow, Flow::Hold | Flow::Pass) {
            self.held = 0;
        }
        if self.policy.mode == Mode::Observe { self.only_observe(step, is_response_head) } else { step }
    }

    /// The name of the rule that it is under.
    pub fn rule(&self) -> &str {
        &self.policy.rule
    }

    /// How many bytes of bodies the host holds back for this exchange, or it keeps itself.
    pub fn held_bytes(&self) -> u64 {
        let keeps_body = matches!(&self.state, State::Body { payload, .. } if payload.keeps_body());
        if self.policy.mode == Mode::Observe && !keeps_body { 0 } else { self.held }
    }

    /// What is awaited, in one word of the table above.
    pub fn awaits(&self) -> &'static str {
        match self.state {
            State::Head => "head",
            State::LookUp(_) => "look-up",
            State::Body { .. } => "body",
            State::Claim(..) => "claim",
            State::Waiting(..) => "waiting",
            State::Renewal(..) => "renewal",
            State::Response(_) => "response",
            State::Shielded(_) => "shielded",
            State::ResponseBody { .. } => "response-body",
            State::Save { .. } => "save",
            State::Unprotected(_) => "unprotected",
            State::Answered(_) => "answered",
            State::Done => "done",
        }
    }

    /// Whether nothing can come of this exchange any more.
    pub fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
    }

    /// Whether it holds a claim that is not settled.
    pub fn is_running(&self) -> bool {
        self.runs().is_some()
    }

    /// The operation whose end it waits for.
    pub fn waits_for(&self) -> Option<&Name> {
        match &self.state {
            State::Waiting(run, _) | State::Claim(run, Some(_)) => Some(&run.ticket.name),
            _ => None,
        }
    }

    /// The operation that it executes.
    pub fn runs(&self) -> Option<&Name> {
        match &self.state {
            State::Response(run) | State::Shielded(run) | State::ResponseBody { run, .. } | State::Save { run, .. } => {
                Some(&run.ticket.name)
            }
            _ => None,
        }
    }

    /// Whether a message is held back until its body has come.
    pub fn awaits_body(&self) -> bool {
        matches!(self.state, State::Body { .. } | State::ResponseBody { .. })
    }

    /// Whether it wants to see the request's body, or keep it back.
    pub fn awaits_request_body(&self) -> bool {
        matches!(self.state, State::Body { .. } | State::LookUp(_))
    }

    /// Whether it wants to see the response's body, or keep it back.
    pub fn awaits_response_body(&self) -> bool {
        matches!(self.state, State::ResponseBody { .. } | State::Save { held: Some(_), .. })
    }

    fn next(&mut self, state: State, event: Event<'_>) -> (State, Step) {
        match (state, event) {
            (
                State::Head,
                Event { now_ms, kind: EventKind::RequestHeaders { head, attribute, owner, upstream_key, end } },
            ) => self.begin(now_ms, head, attribute, owner, upstream_key, end),
            (State::LookUp(command), Event { kind: EventKind::RequestHeaders { .. }, .. }) => {
                let commands = vec![(*command).clone()];
                (State::LookUp(command), Step { commands, ..hold() })
            }
            // Whatever stands in it, it must not let the request go. A look-up needs none, so little of it is held.
            (State::LookUp(command), Event { kind: EventKind::RequestBody { chunk, .. }, .. }) => {
                self.held += chunk.len() as u64;
                if self.held > SMALL_BODY {
                    return self.refuse(ProblemType::BodyTooLarge, ProblemDetails::default());
                }
                (State::LookUp(command), hold())
            }
            (
                State::LookUp(_),
                Event { kind: EventKind::StoreAnswered { asked: ReplyKind::Look, verdict, .. }, .. },
            ) => self.looked(&verdict),
            (
                State::Head | State::LookUp(_),
                Event { kind: EventKind::ResponseHeaders { .. }, .. } | Event { kind: EventKind::Closed { .. }, .. },
            ) => (State::Done, Step::default()),

            (
                State::Body { draft, mut payload },
                Event { now_ms, kind: EventKind::RequestBody { attribute, chunk, crowded, end, trailers } },
            ) => {
                self.held += chunk.len() as u64;
                if self.held > self.policy.max_request_bytes {
                    return self.too_large();
                }
                if crowded && self.held > SMALL_BODY {
                    return self.store_failed(Failure::Crowded);
                }
                payload.body(chunk);
                if let Some(outgoing) = &mut self.outgoing {
                    outgoing.body.extend_from_slice(chunk);
                }
                if !end {
                    return (State::Body { draft, payload }, hold());
                }
                let is_unshielded = trailers && self.outgoing.take().is_some();
                let (state, mut step) = self.claim(now_ms, draft, payload, attribute);
                step.counts.extend(is_unshielded.then_some(Count::Unshielded));
                (state, step)
            }
            (State::Body { .. }, Event { kind: EventKind::ResponseHeaders { origin, headers, .. }, .. }) => {
                if origin.is_request_too_large() {
                    return self.refuse(ProblemType::BodyTooLarge, ProblemDetails::default());
                }
                let line = StatusLine::new(Token::Refused);
                (State::Done, resume(self.response_edits(headers, line), line))
            }
            (State::Body { .. }, Event { kind: EventKind::Unable, .. }) => self.store_failed(Failure::MissingFlag),
            (State::Body { .. }, Event { kind: EventKind::Closed { .. }, .. }) => (State::Done, Step::default()),

            (
                State::Claim(run, wait),
                Event { now_ms, kind: EventKind::StoreAnswered { asked: ReplyKind::Claim, verdict, may_wait } },
            ) => {
                let (state, step) = match verdict {
                    StoreReply::InFlight { attempt } => self.stood_in_the_way(now_ms, run, wait, attempt, may_wait),
                    StoreReply::Failed(failure) if wait.is_some() => self.poll_failed(run, failure),
                    verdict => self.claimed(now_ms, run, verdict),
                };
                (state.unless_sent_as_it_is(), step)
            }
            (State::Waiting(run, wait), Event { now_ms, kind: EventKind::Tick { owner } }) => {
                let (state, step) = self.ask_again(now_ms, run, wait, owner);
                (state.unless_sent_as_it_is(), step)
            }
            (State::Waiting(_, wait), Event { kind: EventKind::ResponseHeaders { headers, .. }, .. }) => {
                let (attempt, reason) = (Some(wait.attempt), Some(ProblemType::InFlight.as_str()));
                let line = StatusLine { attempt, reason, ..StatusLine::new(Token::Refused) };
                let counts = vec![Count::Refused(ProblemType::InFlight)];
                (State::Done, Step { counts, ..resume(self.response_edits(headers, line), line) })
            }
            (State::Waiting(..), Event { kind: EventKind::Closed { .. }, .. }) => (State::Done, Step::default()),
            (
                State::Renewal(run, count),
                Event { now_ms, kind: EventKind::StoreAnswered { asked: ReplyKind::Renew, verdict, .. } },
            ) => {
                match verdict {
                    StoreReply::Renewed { expires_ms } => {
                        self.forward_if_fresh(now_ms, Run { expires_ms: Some(expires_ms), ..run }, count)
                    }
                    StoreReply::Failed(failure) => self.claim_failed(run, failure),
                    // While we were away somebody else began.
                    _ => self.in_flight(run.attempt),
                }
            }
            (
                State::Claim(run, _) | State::Renewal(run, _),
                Event { kind: EventKind::ResponseHeaders { headers, .. }, .. },
            ) => {
                let line = StatusLine::new(Token::Refused);
                let (state, mut step) = self.withdraw(run);
                step.flow = Flow::Resume(self.response_edits(headers, line));
                step.status = Some(line.to_string());
                (state, step)
            }
            (State::Claim(run, _) | State::Renewal(run, _), Event { kind: EventKind::Closed { .. }, .. }) => {
                self.withdraw(run)
            }

            (
                State::Response(run),
                Event { kind: EventKind::ResponseHeaders { headers, status, origin, end, .. }, .. },
            ) => self.answered(run, headers, status, origin, end),
            (State::Shielded(run), Event { kind: EventKind::Executed { answer, .. }, .. }) => {
                self.executed(run, answer)
            }
            (State::Shielded(run), Event { kind: EventKind::Closed { .. }, .. })
                if mutant::is(Mutant::ShieldDropped) =>
            {
                self.fail(run, Fate::Unknown, false)
            }
            // Envoy has ended the client's stream; what runs, or is being stored, goes on.
            (State::Shielded(run), Event { kind: EventKind::ResponseHeaders { headers, .. }, .. }) => {
                self.is_over = true;
                let line = self.line(&run, false);
                (State::Shielded(run), resume(self.response_edits(headers, line), line))
            }
            (
                State::Save { run, asked, fate, held: Some(HeldResponse { reply: Some(_), .. }) },
                Event { kind: EventKind::ResponseHeaders { headers, .. }, .. },
            ) => {
                self.is_over = true;
                let line = self.line(&run, false);
                (State::Save { run, asked, fate, held: None }, resume(self.response_edits(headers, line), line))
            }
            (State::Response(run), Event { kind: EventKind::Closed { origin, .. }, .. }) => {
                let redirected = origin.details == b"internal_redirect";
                let fate = match origin.source() {
                    Source::Host(ending) if !redirected => self.policy.outcomes.of_ending(ending),
                    // Somebody answered, and the answer passed us by.
                    _ => Fate::Unknown,
                };
                let name = run.ticket.name;
                let (state, mut step) = self.fail(run, fate, origin.retried());
                if redirected {
                    step.remark = Some(Remark::InternalRedirect(name));
                }
                (state, step)
            }

            (
                State::ResponseBody { run, status, headers, ttl_ms },
                Event { kind: EventKind::ResponseBody { held, whole, crowded, end, .. }, .. },
            ) => {
                self.held = held;
                if held > self.policy.max_response_bytes {
                    self.complete(run, status, &headers, Err(Some(Reason::TooLarge)), ttl_ms)
                } else if crowded && held > SMALL_BODY {
                    self.complete(run, status, &headers, Err(None), ttl_ms)
                } else if end || content_length(&headers) == Some(held) {
                    // As long as it was announced it is whole; Envoy may say so only in its next callback.
                    self.complete(run, status, &headers, Ok(whole()), ttl_ms)
                } else {
                    (State::ResponseBody { run, status, headers, ttl_ms }, hold())
                }
            }
            (State::ResponseBody { run, status, headers, ttl_ms }, Event { kind: EventKind::Unable, .. }) => {
                let (state, step) = self.complete(run, status, &headers, Err(None), ttl_ms);
                let failure = Failure::MissingFlag;
                let counts = vec![Count::StoreFailed(failure)];
                (state, Step { counts, remark: Some(Remark::StoreFailed(failure)), ..step })
            }
            // The status decided when it came; only the body got lost.
            (State::ResponseBody { run, status, headers, ttl_ms }, Event { kind: EventKind::Closed { .. }, .. }) => {
                let (state, step) = self.complete(run, status, &headers, Err(None), ttl_ms);
                (state, Step { flow: Flow::Pass, status: None, ..step })
            }

            (mut state, Event { now_ms, kind: EventKind::Tick { .. } }) => {
                let step = state.run_mut().map_or_else(Step::default, |run| self.renew(run, now_ms));
                (state, step)
            }
            (mut state, Event { kind: EventKind::StoreAnswered { asked: ReplyKind::Renew, verdict, .. }, .. }) => {
                let step = state.run_mut().map_or_else(Step::default, |run| renewed(run, &verdict));
                (state, step)
            }

            // The answer to an earlier mark, made because it ran too long, tells nothing about the completion.
            (
                State::Save { run, asked: awaited, fate, held },
                Event { kind: EventKind::StoreAnswered { asked, verdict, .. }, .. },
            ) if asked == awaited => {
                let step = self.settled(&run, fate, held, &verdict);
                (self.after(&step), step)
            }
            (State::Save { run, asked, fate, held: None }, Event { kind: EventKind::ResponseHeaders { .. }, .. })
                if !self.mending.is_empty() =>
            {
                let flow = Flow::Resume(mem::take(&mut self.mending));
                (State::Save { run, asked, fate, held: None }, Step { flow, ..Step::default() })
            }
            (
                State::Save { run, asked, fate, held: Some(response) },
                Event { kind: EventKind::ResponseBody { held, .. }, .. },
            ) => {
                if held <= self.policy.max_response_bytes {
                    return (State::Save { run, asked, fate, held: Some(response) }, hold());
                }
                // It has more of a body than the host can hold.
                let line = self.line(&run, false);
                (State::Save { run, asked, fate, held: None }, resume(self.with_status(response.removals, line), line))
            }

            (State::Unprotected(line), Event { kind: EventKind::ResponseHeaders { headers, .. }, .. }) => {
                (State::Done, resume(self.response_edits(headers, line), line))
            }
            (State::Answered(_), Event { kind: EventKind::ResponseHeaders { origin, .. }, .. })
                if origin.is_request_too_large() =>
            {
                // Envoy's own 413 overtook ours.
                let reply = Reply::problem(&self.policy, ProblemType::BodyTooLarge, ProblemDetails::default());
                (State::Done, Step { flow: Flow::Answer(Box::new(reply)), ..Step::default() })
            }
            (State::Answered(edits), Event { kind: EventKind::ResponseHeaders { .. }, .. }) if !edits.is_empty() => {
                (State::Done, Step { flow: Flow::Resume(edits), ..Step::default() })
            }
            (State::Unprotected(_) | State::Answered(_), Event { kind: EventKind::Closed { .. }, .. }) => {
                (State::Done, Step::default())
            }

            (state, _) => (state, Step::default()),
        }
    }

    /// The request's head: is it to be protected, and does it tell already which operation it is?
    fn begin(
        &mut self,
        now_ms: u64,
        head: &RequestHead,
        attribute: Attributes<'_>,
        owner: Owner,
        fresh: UpstreamKey,
        end: bool,
    ) -> (State, Step) {
        if self.policy.mode == Mode::Off {
            return (State::Done, Step::default());
        }
        let forged = [OPERATION, ATTEMPT].into_iter().filter(|name| head.headers.has(name));
        self.forged = forged.map(Edit::Remove).collect();
        if let Some(bypass) = never_protected(head) {
            let flow = Flow::Resume(mem::take(&mut self.forged));
            return (State::Done, Step { flow, counts: vec![Count::Bypassed(bypass)], ..Step::default() });
        }
        let policy = Rc::clone(&self.policy);
        let draft = if policy.is_named_by_body() && !end {
            Draft::Unnamed { head: Box::new(head.clone()), owner, fresh }
        } else {
            match self.identify(&Request::new(head, b"", attribute), head, owner, fresh) {
                Ok(ticket) => Draft::Named(ticket),
                Err(decided) => return *decided,
            }
        };
        if head.content_length().is_some_and(|length| length > policy.max_request_bytes) {
            return self.too_large();
        }
        let payload = Payload::new(&policy, self.secrets.hash_key.as_ref(), head);
        self.outgoing = outgoing(&policy, head);
        let is_wanted = policy.mode == Mode::Enforce && matches!(policy.execution, Execution::Shielded { .. });
        let is_unshielded = is_wanted && self.outgoing.is_none();
        let (state, mut step) = match end {
            true => self.claim(now_ms, draft, payload, attribute),
            false => (State::Body { draft, payload }, hold()),
        };
        step.counts.extend(is_unshielded.then_some(Count::Unshielded));
        (state, step)
    }

    /// Which operation is it: what is its key, and whose? Or what becomes of a request that is none.
    fn identify(
        &mut self,
        request: &Request<'_>,
        head: &RequestHead,
        owner: Owner,
        fresh: UpstreamKey,
    ) -> Result<Ticket, Decided> {
        let policy = Rc::clone(&self.policy);
        let (key, window) = match (ClientKey::read(&policy.key, request), policy.key.inject) {
            (Ok(key), _) => (Some(key), None),
            (Err(NoKey::Invalid), _) => {
                return Err(Box::new(self.refuse(ProblemType::KeyInvalid, ProblemDetails::default())));
            }
            (Err(_), Inject::Off) if policy.key.required => {
                return Err(Box::new(self.refuse(ProblemType::KeyMissing, ProblemDetails::default())));
            }
            (Err(NoKey::Unreadable), Inject::Off) => return Err(Box::new(self.bypass(Reason::KeyUnreadable))),
            (Err(NoKey::Absent), Inject::Off) => return Err(Box::new(self.bypass(Reason::NoKey))),
            (Err(_), Inject::Uuid) => {
                self.injected = Some(Injected::Uuid(fresh));
                (Some(ClientKey::of_ours(fresh.text())), None)
            }
            (Err(_), Inject::Content { window_ms, anonymous }) => {
                self.injected = Some(Injected::Content);
                (None, Some((window_ms, anonymous)))
            }
        };
        let form = if self.injected.is_none() { key::form(&policy.key, request) } else { None };
        if policy.mode == Mode::Inject && (form.is_some() || self.injected.is_some()) {
            return Err(Box::new(self.send_key(self.injected.is_some().then_some(fresh))));
        }
        let caller = Caller::read(&policy, request);
        // A caller without a name of its own may have the same content as another.
        let is_left_alone = caller == Caller::Anonymous && matches!(window, Some((_, false)));
        match caller {
            _ if is_left_alone => return Err(Box::new(self.bypass(Reason::NoCaller))),
            Caller::Absent => {
                return Err(Box::new({
                    let passed = self.bypass(Reason::NoCaller);
                    self.without_caller(request, passed)
                }));
            }
            Caller::Refused => {
                let refused = self.refuse(ProblemType::CallerMissing, ProblemDetails::default());
                return Err(Box::new(self.without_caller(request, refused)));
            }
            Caller::Anonymous | Caller::Known(_) => {}
        }
        let hash_key = self.secrets.hash_key.as_ref();
        let name = match &key {
            Some(key) => key::name(&policy, hash_key, head, &caller, key),
            None => key::content_name(&policy, hash_key, head, &caller),
        };
        if policy.mode == Mode::Inject {
            // The same for every attempt, without a store to keep it.
            let [own @ .., _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _] = name.0;
            return Err(Box::new(self.send_key(Some(UpstreamKey(own)))));
        }
        let sent_key = form.and_then(|_| head.headers.first(KEY)).map(<[u8]>::to_vec);
        let form = form.unwrap_or(KeyForm::Ours(fresh));
        let accepted: Vec<&[u8]> = head.headers.all("accept-encoding").collect();
        let accept_encoding = (!accepted.is_empty()).then(|| accepted.join(&b','));
        let window_ms = window.map(|(window_ms, _)| window_ms);
        Ok(Ticket { name, owner, form, key, sent_key, accept_encoding, window_ms })
    }

    /// Says in the log that this rule's requests show no caller.
    fn without_caller(&self, request: &Request<'_>, (state, step): (State, Step)) -> (State, Step) {
        let seen = SeenCaller::None { certificate: caller::has_certificate(request) };
        (state, Step { caller: Some(seen), ..step })
    }

    /// Under `mode: inject`: the request goes on with a key, and that is all.
    fn send_key(&mut self, key: Option<UpstreamKey>) -> (State, Step) {
        let mut edits = mem::take(&mut self.forged);
        let Some(key) = key else {
            let line = StatusLine::new(Token::Bypassed);
            return (State::Unprotected(line), Step { flow: Flow::Resume(edits), ..Step::default() });
        };
        edits.push(Edit::Set(KEY, key.text().into_bytes()));
        let (state, step) = self.bypass(Reason::Injected);
        (state, Step { flow: Flow::Resume(edits), ..step })
    }

    /// The whole request has come: may it run?
    fn claim(&mut self, now_ms: u64, draft: Draft, payload: Payload, attribute: Attributes<'_>) -> (State, Step) {
        let (fingerprint, body) = payload.finish();
        let mut ticket = match draft {
            Draft::Named(ticket) => ticket,
            Draft::Unnamed { head, owner, fresh } => {
                match self.identify(&Request::new(&head, &body, attribute), &head, owner, fresh) {
                    Ok(ticket) => ticket,
                    Err(decided) => return *decided,
                }
            }
        };
        if ticket.window_ms.is_some() || self.policy.on_mismatch == OnMismatch::Separate {
            ticket.name = fingerprint.joined_to(&ticket.name, self.secrets.hash_key.as_ref());
        }
        let operation = CommandKind::Claim { may_retry: self.policy.on_unknown == OnUnknown::Retry };
        let run = Run {
            ticket,
            fingerprint,
            attempt: 0,
            doubt: false,
            started_ms: now_ms,
            asked_ms: now_ms,
            expires_ms: None,
            renew_at_ms: None,
        };
        let command = run.command(&self.policy, operation);
        (State::Claim(run, None), Step { commands: vec![command], caller: Some(SeenCaller::Some), ..hold() })
    }

    /// The store's word on what is known, for somebody who only looks.
    fn looked(&mut self, verdict: &StoreReply) -> (State, Step) {
        let failure = match verdict {
            StoreReply::Seen(sight) => {
                let reply = Reply::sight(*sight);
                let edits = mending(&reply);
                return (State::Answered(edits), Step { flow: Flow::Answer(Box::new(reply)), ..Step::default() });
            }
            StoreReply::Failed(failure) => *failure,
            _ => Failure::Stale,
        };
        self.refused_by_store(failure)
    }

    /// Nobody waits for the claim's answer any more: whatever it is, the name is not ours to keep.
    fn withdraw(&self, run: Run) -> (State, Step) {
        let command = run.command(&self.policy, CommandKind::Withdraw);
        // It was never an execution, whether or not it was granted.
        let run = Run { attempt: 0, ..run };
        (
            State::Save { run, asked: ReplyKind::Settle, fate: Fate::Release, held: None },
            Step { commands: vec![command], ..Step::default() },
        )
    }

    /// The store's word on the claim.
    fn claimed(&mut self, now_ms: u64, mut run: Run, verdict: StoreReply) -> (State, Step) {
        match verdict {
            StoreReply::Granted { attempt, doubt, key, expires_ms } => {
                run.ticket.form = key;
                let run = Run { attempt, doubt, started_ms: now_ms, expires_ms: Some(expires_ms), ..run };
                self.forward_if_fresh(now_ms, run, 0)
            }
            StoreReply::Completed { attempt, status, response, age_ms, ttl_ms } => {
                self.replay(&run.ticket, attempt, status, response.as_deref(), age_ms, ttl_ms)
            }
            StoreReply::InFlight { attempt } | StoreReply::Exhausted { attempt } => self.in_flight(attempt),
            StoreReply::Mismatch => self.refuse(ProblemType::Mismatch, ProblemDetails::default()),
            StoreReply::Unknown { attempt, wait_ms } => {
                let may_retry = self.policy.on_unknown == OnUnknown::Retry;
                let retry_after_s = may_retry.then(|| wait_ms.div_ceil(1000).max(1));
                let facts = ProblemDetails { attempt: Some(attempt), retry_after_s, ..ProblemDetails::default() };
                self.refuse(ProblemType::OutcomeUnknown, facts)
            }
            // Something is stored under the name, and nothing is known of it but that.
            StoreReply::Failed(Failure::Corrupt) if !mutant::is(Mutant::UnreadableForwarded) => {
                self.refused_by_store(Failure::Corrupt)
            }
            StoreReply::Failed(failure) if failure.is_doubtful() => self.claim_failed(run, failure),
            StoreReply::Failed(failure) => self.store_failed(failure),
            // None is an answer to a claim that was asked and not withdrawn.
            StoreReply::Deferred
            | StoreReply::Dropped
            | StoreReply::Lost
            | StoreReply::Renewed { .. }
            | StoreReply::Seen(_)
            | StoreReply::Settled
            | StoreReply::Stale => self.store_failed(Failure::Stale),
        }
    }

    /// Another attempt runs: wait for its end, or be refused.
    ///
    /// Whoever has seen two attempts end without an answer to replay has waited enough.
    fn stood_in_the_way(
        &mut self,
        now_ms: u64,
        run: Run,
        wait: Option<Wait>,
        attempt: u32,
        may_wait: bool,
    ) -> (State, Step) {
        let OnInFlight::Wait { max_wait_ms } = self.policy.on_in_flight else { return self.in_flight(attempt) };
        let is_new = wait.is_none();
        let until_ms = run.started_ms + max_wait_ms;
        let first_attempt = wait.as_ref().map_or(attempt, |wait| wait.first_attempt);
        // A trial holds nobody back.
        let has_room = !is_new || (may_wait && self.policy.mode != Mode::Observe);
        if !has_room || now_ms >= until_ms || attempt > first_attempt.saturating_add(1) {
            return self.in_flight(attempt);
        }
        let pause_ms = wait.map_or(FIRST_PAUSE_MS, |wait| (2 * wait.pause_ms).min(LAST_PAUSE_MS));
        let wake_ms = Some(until_ms.min(now_ms + pause_ms));
        let wait = Wait { first_attempt, attempt, until_ms, pause_ms };
        (State::Waiting(run, wait), Step { wake_ms, ..hold() })
    }

    /// Asks whether the attempt that stood in the way has ended: a claim of its own, by an owner of its own.
    fn ask_again(&mut self, now_ms: u64, run: Run, wait: Wait, owner: Owner) -> (State, Step) {
        if now_ms >= wait.until_ms {
            return self.in_flight(wait.attempt);
        }
        let run = Run { ticket: Ticket { owner, ..run.ticket }, asked_ms: now_ms, ..run };
        let max_attempt = wait.first_attempt.saturating_add(1);
        let command = run.command(&self.policy, CommandKind::Poll { max_attempt });
        (State::Claim(run, Some(wait)), Step { commands: vec![command], ..Step::default() })
    }

    /// Lets the request through, but only on a claim that cannot have lapsed; an older one is renewed first.
    ///
    /// A worker that was stopped for longer than the lease must not wake up and execute.
    fn forward_if_fresh(&mut self, now_ms: u64, mut run: Run, renewals: u32) -> (State, Step) {
        let lease_ms = self.policy.lease_ms;
        if now_ms < run.asked_ms + lease_ms - lease_ms / LEASE_MARGIN || mutant::is(Mutant::StaleClaimForwarded) {
            return self.forward(run);
        }
        if renewals == MAX_RENEWALS {
            return self.claim_failed(run, Failure::Timeout);
        }
        run.asked_ms = now_ms;
        let command = run.command(&self.policy, CommandKind::Renew);
        (State::Renewal(run, renewals + 1), Step { commands: vec![command], ..hold() })
    }

    fn forward(&mut self, mut run: Run) -> (State, Step) {
        run.renew_at_ms = Some(run.asked_ms + self.policy.lease_ms / 3);
        let mut edits = mem::take(&mut self.forged);
        edits.push(Edit::Set(OPERATION, run.ticket.operation().into_bytes()));
        edits.push(Edit::Set(ATTEMPT, run.attempt.to_string().into_bytes()));
        edits.extend(run.ticket.key_for_upstream().map(|key| Edit::Set(KEY, key)));
        let mut counts = vec![Count::Executed];
        if run.doubt {
            counts.push(Count::Takeover);
        }
        let remark = run.doubt.then_some(Remark::Takeover(run.ticket.name, run.attempt));
        let step = Step { wake_ms: run.renew_at_ms, counts, remark, ..Step::default() };
        match self.outgoing.take() {
            None => (State::Response(run), Step { flow: Flow::Resume(edits), ..step }),
            Some(mut outgoing) => {
                outgoing.headers = edited(&outgoing.headers, &edits);
                (State::Shielded(run), Step { execute: Some(outgoing), ..step })
            }
        }
    }

    /// The claim may have been granted and nobody will know: it is withdrawn, or, where the operator prefers that, the
    /// request runs unprotected and the store is told how it ended.
    fn claim_failed(&mut self, run: Run, failure: Failure) -> (State, Step) {
        let (state, mut step) = self.store_failed(failure);
        if self.policy.on_store_failure == OnStoreFailure::Forward {
            let run = Run { attempt: 0, doubt: false, renew_at_ms: None, ..run };
            return (State::Response(run), step);
        }
        drop(state);
        let (state, withdrawal) = self.withdraw(run);
        step.commands = withdrawal.commands;
        (state, step)
    }

    /// Whoever has waited knows that another attempt runs, and is refused also where a failing store lets requests
    /// through.
    fn poll_failed(&mut self, run: Run, failure: Failure) -> (State, Step) {
        let (mut state, mut step) = self.refused_by_store(failure);
        if failure.is_doubtful() {
            let (withdrawn, withdrawal) = self.withdraw(run);
            (state, step.commands) = (withdrawn, withdrawal.commands);
        }
        (state, step)
    }

    fn in_flight(&mut self, attempt: u32) -> (State, Step) {
        let facts = ProblemDetails { attempt: Some(attempt), retry_after_s: Some(1), ..ProblemDetails::default() };
        self.refuse(ProblemType::InFlight, facts)
    }

    /// A completed operation, once more.
    fn replay(
        &mut self,
        ticket: &Ticket,
        attempt: u32,
        status: Option<u16>,
        response: Option<&[u8]>,
        age_ms: u64,
        ttl_ms: u64,
    ) -> (State, Step) {
        let opened = response.map(|sealed| Response::decode(&self.secrets.vault.open(&ticket.name, sealed)?));
        let Ok(response) = opened.transpose() else {
            // It has run, whatever it answered: so it is refused, also where a failing store lets requests through.
            return self.refused_by_store(Failure::Corrupt);
        };
        // Once more as when it was stored: whoever may write to the store shall not set cookies.
        let response = response.map(|response| Response { headers: kept(&response.headers), ..response });
        let facts = ProblemDetails { attempt: Some(attempt), original_status: status, ..ProblemDetails::default() };
        match response {
            // A trial keeps no bodies: what would be replayed is all there is to know.
            _ if self.policy.mode == Mode::Observe => {
                let line = StatusLine::bypassed(Reason::Observe);
                (State::Unprotected(line), Step { counts: vec![Count::Replayed], ..Step::default() })
            }
            response if self.policy.on_completed == OnCompleted::Conflict => {
                let (state, mut step) = self.refuse(ProblemType::AlreadyCompleted, facts);
                if let (Flow::Answer(reply), Some(response)) = (&mut step.flow, response)
                    && let Some(location) = response.headers.first("location")
                {
                    reply.headers.push(b"location", location);
                }
                (state, step)
            }
            Some(response) if response.body.is_some() && ticket.takes(&response) => {
                let line = StatusLine {
                    attempt: Some(attempt),
                    age_s: Some(age_ms / 1000),
                    ttl_s: Some(ttl_ms / 1000),
                    ..StatusLine::new(Token::Replayed)
                }
                .because(self.injected.as_ref().map(|_| Reason::Injected));
                self.answer(Reply::replay(&self.policy, response, &line), Count::Replayed)
            }
            _ => self.refuse(ProblemType::NotReplayable, ProblemDetails { original_status: None, ..facts }),
        }
    }

    /// The response's head, from the upstream or from Envoy in its place.
    fn answered(&mut self, run: Run, headers: &Headers, status: u16, origin: Origin<'_>, end: bool) -> (State, Step) {
        let fate = match origin.source() {
            Source::Host(ending) => self.policy.outcomes.of_ending(ending),
            // Another filter of this kind, further on, answered in the upstream's place.
            Source::Own => Fate::Unknown,
            Source::Upstream => steered_fate(headers).unwrap_or_else(|| self.policy.outcomes.of_status(status)),
        };
        if fate != Fate::Store {
            let line = self.line(&run, false);
            let (mut state, mut step) = self.fail(run, fate, origin.retried());
            // Whoever is told may ask again at once, and then the store must know.
            if let State::Save { held, .. } = &mut state
                && self.policy.save == Save::BeforeReply
                && self.policy.mode == Mode::Enforce
            {
                *held = Some(HeldResponse { reply: None, removals: removals(headers), ttl_ms: 0, not_kept: None });
                step.flow = Flow::Hold;
            } else {
                step.flow = Flow::Resume(self.response_edits(headers, line));
                step.status = Some(line.to_string());
            }
            return (state, step);
        }
        let ttl_ms = steered_ttl_ms(headers).unwrap_or(self.policy.ttl_ms);
        let endless = headers.first("content-type").is_some_and(|value| media_type(value) == b"text/event-stream");
        let too_large = content_length(headers).is_some_and(|length| length > self.policy.max_response_bytes);
        match end {
            // A trial holds nothing back, so it has no body to keep.
            _ if self.policy.mode == Mode::Observe => self.complete(run, status, headers, Err(None), ttl_ms),
            true => self.complete(run, status, headers, Ok(Vec::new()), ttl_ms),
            false if too_large => self.complete(run, status, headers, Err(Some(Reason::TooLarge)), ttl_ms),
            false if endless => self.complete(run, status, headers, Err(None), ttl_ms),
            false => (State::ResponseBody { run, status, headers: headers.clone(), ttl_ms }, hold()),
        }
    }

    /// What came back from a request that the gateway itself had sent.
    fn executed(&mut self, run: Run, answer: Executed<'_>) -> (State, Step) {
        let (name, policy) = (run.ticket.name, Rc::clone(&self.policy));
        let way = || match &policy.execution {
            Execution::Shielded { cluster, .. } => cluster.clone(),
            Execution::Inline => String::new(),
        };
        let (status, headers, body) = match answer {
            Executed::Answered { status, headers, body } => (status, headers, body),
            Executed::Lost => {
                let fate = if mutant::is(Mutant::LostAnswerReleased) { Fate::Release } else { Fate::Unknown };
                let (state, step) = self.fail(run, fate, false);
                return self.hold_ours(state, step, Reply::lost(), 0, None);
            }
            Executed::Unsent => {
                let (state, mut step) = self.fail(run, policy.outcomes.of_ending(Ending::Unsent), false);
                step.remark = Some(Remark::NoWay(way()));
                return self.hold_ours(state, step, Reply::unsent(), 0, None);
            }
        };
        let account = Account::read(headers);
        // Without Envoy's own account nobody knows who has failed, nor how often it was tried.
        let retried = account.as_ref().is_none_or(|account| account.origin().retried());
        let source = account.as_ref().map(|account| account.origin().source());
        let fate = match source {
            Some(Source::Host(ending)) => policy.outcomes.of_ending(ending),
            Some(Source::Own) => Fate::Unknown,
            Some(Source::Upstream) => steered_fate(headers).unwrap_or_else(|| policy.outcomes.of_status(status)),
            None if status >= 400 => Fate::Unknown,
            None => steered_fate(headers).unwrap_or_else(|| policy.outcomes.of_status(status)),
        };
        let reply = Reply::passed(status, passed(headers), body.to_vec());
        if fate != Fate::Store {
            let (state, mut step) = self.fail(run, fate, retried);
            step.remark = (source == Some(Source::Own)).then(|| Remark::Reentered(way()));
            return self.hold_ours(state, step, reply, 0, None);
        }
        let ttl_ms = steered_ttl_ms(headers).unwrap_or(policy.ttl_ms);
        let is_too_large = body.len() as u64 > policy.max_response_bytes;
        let (response, not_kept) = match policy.on_completed {
            OnCompleted::Conflict => (Some(run.response(status, headers.only("location"), None)), None),
            OnCompleted::Replay if is_too_large => (None, Some(Reason::TooLarge)),
            OnCompleted::Replay => (Some(run.response(status, kept(&passed(headers)), Some(body.to_vec()))), None),
        };
        let command = self.completion(&run, status, response, ttl_ms);
        let remark = not_kept.map(|_| Remark::BodyDropped(name));
        let state = State::Save { run, asked: ReplyKind::Settle, fate: Fate::Store, held: None };
        self.hold_ours(state, Step { commands: vec![command], remark, ..Step::default() }, reply, ttl_ms, not_kept)
    }

    /// Keeps our own copy of a response until the store has heard of it, or hands it on at once under `after_reply`.
    fn hold_ours(
        &mut self,
        mut state: State,
        step: Step,
        reply: Reply,
        ttl_ms: u64,
        not_kept: Option<Reason>,
    ) -> (State, Step) {
        let State::Save { run, held, fate, .. } = &mut state else { return (state, step) };
        if self.is_over {
            return (state, step);
        }
        let reply = Box::new(reply);
        if self.policy.save == Save::BeforeReply {
            *held = Some(HeldResponse { reply: Some(reply), removals: Vec::new(), ttl_ms, not_kept });
            return (state, step);
        }
        self.mending = mending(&reply);
        let is_open = *fate == Fate::Store && not_kept.is_none();
        let line = StatusLine { stored: (!is_open).then_some(false), ..self.line(run, false) }.because(not_kept);
        let (commands, remark) = (step.commands, step.remark);
        (state, Step { commands, remark, ..self.handed_on(reply, line) })
    }

    /// The upstream's answer to a request that the gateway itself had sent, on its way to the client.
    fn handed_on(&self, mut reply: Box<Reply>, line: StatusLine) -> Step {
        reply.headers = edited(&reply.headers, &self.with_status(Vec::new(), line));
        Step { flow: Flow::Answer(reply), status: Some(line.to_string()), ..Step::default() }
    }

    /// The operation that keeps an answer which is for good.
    fn completion(&self, run: &Run, status: u16, response: Option<Response>, ttl_ms: u64) -> Command {
        let Ticket { name, owner, .. } = &run.ticket;
        let sealed = response.and_then(|response| self.secrets.vault.seal(name, *owner, &response.encode()));
        let ttl_ms = run.ticket.window_ms.unwrap_or(ttl_ms);
        Command { ttl_ms, ..run.command(&self.policy, CommandKind::Complete { status, response: sealed }) }
    }

    /// The upstream's answer is for good: hold it until the store has it, or let it go when its body cannot be had.
    fn complete(
        &self,
        run: Run,
        status: u16,
        headers: &Headers,
        body: Result<Vec<u8>, Option<Reason>>,
        ttl_ms: u64,
    ) -> (State, Step) {
        let given_up = body.as_ref().err().copied();
        let response = match (self.policy.on_completed, body) {
            (OnCompleted::Conflict, _) => Some(run.response(status, headers.only("location"), None)),
            (OnCompleted::Replay, Ok(body)) => Some(run.response(status, kept(headers), Some(body))),
            (OnCompleted::Replay, Err(_)) => None,
        };
        let command = self.completion(&run, status, response, ttl_ms);
        let (held, step) = match given_up {
            None if self.policy.save == Save::BeforeReply => {
                (Some(HeldResponse { reply: None, removals: removals(headers), ttl_ms, not_kept: None }), hold())
            }
            None => {
                let line = StatusLine { stored: None, ..self.line(&run, false) };
                (None, resume(self.response_edits(headers, line), line))
            }
            Some(reason) => {
                let line = self.line(&run, false).because(reason);
                let remark = reason.is_some().then_some(Remark::BodyDropped(run.ticket.name));
                (None, Step { remark, ..resume(self.response_edits(headers, line), line) })
            }
        };
        (
            State::Save { run, asked: ReplyKind::Settle, fate: Fate::Store, held },
            Step { commands: vec![command], ..step },
        )
    }

    /// The execution brought nothing to keep: tell the store what becomes of the key.
    fn fail(&self, run: Run, fate: Fate, retried: bool) -> (State, Step) {
        let (fate, operation) = match fate {
            // Envoy tried more than once, so what came back says nothing about the other tries.
            Fate::Release | Fate::Retry if retried => (Fate::Unknown, CommandKind::MarkUnknown),
            Fate::Release | Fate::Retry => {
                // This attempt is settled either way; an earlier one in doubt stays so, and the store keeps it.
                let settled = if run.doubt { Fate::Unknown } else { fate };
                (settled, CommandKind::Release { keep_fingerprint: fate == Fate::Retry })
            }
            Fate::Store | Fate::Unknown => (Fate::Unknown, CommandKind::MarkUnknown),
        };
        let asked = operation.reply_kind();
        let command = run.command(&self.policy, operation);
        (State::Save { run, asked, fate, held: None }, Step { commands: vec![command], ..Step::default() })
    }

    /// The store's word on the settlement.
    fn settled(&self, run: &Run, fate: Fate, held: Option<HeldResponse>, verdict: &StoreReply) -> Step {
        let (count, remark) = match (verdict, fate) {
            (StoreReply::Failed(failure), _) => {
                (Some(Count::StoreFailed(*failure)), Some(Remark::StoreFailed(*failure)))
            }
            (StoreReply::Settled, Fate::Store) => (Some(Count::Stored), None),
            (StoreReply::Dropped, _) => (Some(Count::Stored), Some(Remark::BodyDropped(run.ticket.name))),
            // A withdrawn claim was never an execution.
            (StoreReply::Settled, _) | (StoreReply::Lost, Fate::Release) if run.attempt == 0 => (None, None),
            (StoreReply::Settled, Fate::Release) => (Some(Count::Released), None),
            (StoreReply::Settled, Fate::Retry) => (Some(Count::Retryable), None),
            (StoreReply::Settled, Fate::Unknown) => {
                (Some(Count::Unknown), Some(Remark::Unknown(run.ticket.name, run.attempt)))
            }
            (_, _) => (Some(Count::Unknown), Some(Remark::LeaseLost(run.ticket.name))),
        };
        let counts = count.into_iter().collect();
        let Some(HeldResponse { reply, removals, ttl_ms, not_kept }) = held else {
            return Step { counts, remark, ..Step::default() };
        };
        let stored = fate == Fate::Store && *verdict == StoreReply::Settled && not_kept.is_none();
        // How much is left of a window only the store knows.
        let ttl_s = (stored && run.ticket.window_ms.is_none()).then_some(ttl_ms / 1000);
        let line = StatusLine { ttl_s, ..self.line(run, stored) }.because(not_kept);
        match reply {
            None => Step { counts, remark, ..resume(self.with_status(removals, line), line) },
            Some(reply) => Step { counts, remark, ..self.handed_on(reply, line) },
        }
    }

    /// Keeps the lease alive while the upstream works, up to `max_running_ms`.
    fn renew(&self, run: &mut Run, now_ms: u64) -> Step {
        if run.renew_at_ms.is_none_or(|due| now_ms < due) {
            return Step::default();
        }
        if now_ms >= run.started_ms + self.policy.max_running_ms {
            run.renew_at_ms = None;
            let command = run.command(&self.policy, CommandKind::MarkUnknown);
            return Step {
                commands: vec![command],
                remark: Some(Remark::RanTooLong(run.ticket.name)),
                ..Step::default()
            };
        }
        run.renew_at_ms = Some(now_ms + self.policy.lease_ms / 3);
        let command = run.command(&self.policy, CommandKind::Renew);
        Step { commands: vec![command], wake_ms: run.renew_at_ms, ..Step::default() }
    }

    fn too_large(&mut self) -> (State, Step) {
        match self.policy.on_too_large {
            OnTooLarge::Bypass => self.bypass(Reason::TooLarge),
            OnTooLarge::Reject => self.refuse(ProblemType::BodyTooLarge, ProblemDetails::default()),
        }
    }

    /// Doubt is never "free": the request is refused, or forwarded where the operator prefers that, and it is said.
    fn store_failed(&mut self, failure: Failure) -> (State, Step) {
        match self.policy.on_store_failure {
            OnStoreFailure::Forward => blame(failure, self.bypass(Reason::StoreFailure)),
            OnStoreFailure::Reject => self.refused_by_store(failure),
        }
    }

    fn refused_by_store(&mut self, failure: Failure) -> (State, Step) {
        let facts = ProblemDetails { retry_after_s: Some(1), ..ProblemDetails::default() };
        blame(failure, self.refuse(ProblemType::StoreUnavailable, facts))
    }

    fn bypass(&mut self, reason: Reason) -> (State, Step) {
        if reason == Reason::NoCaller {
            self.injected = None;
        }
        let line = StatusLine::bypassed(reason);
        let counts = vec![Count::Bypassed(Bypass::Said(reason))];
        let flow = Flow::Resume(mem::take(&mut self.forged));
        (State::Unprotected(line), Step { flow, counts, ..Step::default() })
    }

    fn refuse(&mut self, slug: ProblemType, facts: ProblemDetails) -> (State, Step) {
        let reply = Reply::problem(&self.policy, slug, facts);
        self.answer(reply, Count::Refused(slug))
    }

    /// What is awaited after the last step of an execution: an answer of our own may have to be mended on its way out.
    fn after(&mut self, step: &Step) -> State {
        if let Flow::Answer(reply) = &step.flow {
            self.mending = mending(reply);
        }
        if self.is_over { State::Done } else { State::Answered(mem::take(&mut self.mending)).unless_sent_as_it_is() }
    }

    fn answer(&mut self, mut reply: Reply, count: Count) -> (State, Step) {
        self.told_key().iter().for_each(|key| reply.headers.push(KEY.as_bytes(), key));
        let edits = mending(&reply);
        let status = reply.headers.first(STATUS).map(|line| String::from_utf8_lossy(line).into_owned());
        let flow = Flow::Answer(Box::new(reply));
        (State::Answered(edits), Step { flow, counts: vec![count], status, ..Step::default() })
    }

    /// A trial: everything was decided and is counted, and nothing but the status line comes of it.
    fn only_observe(&mut self, step: Step, is_response_head: bool) -> Step {
        let line = StatusLine::bypassed(Reason::Observe);
        if matches!(step.flow, Flow::Answer(_)) || matches!(self.state, State::Answered(_) | State::Unprotected(_)) {
            self.state = State::Unprotected(line);
        }
        let flow = match is_response_head && !matches!(step.flow, Flow::Pass) {
            true => Flow::Resume(vec![Edit::Set(STATUS, line.to_string().into_bytes())]),
            false => Flow::Pass,
        };
        let status = matches!(flow, Flow::Resume(_)).then(|| line.to_string());
        Step { flow, status, observed: true, ..step }
    }

    fn line(&self, run: &Run, stored: bool) -> StatusLine {
        if run.attempt == 0 {
            // It runs although its claim got no answer.
            return StatusLine::bypassed(Reason::StoreFailure);
        }
        let line = StatusLine { stored: Some(stored), attempt: Some(run.attempt), ..StatusLine::new(Token::Executed) };
        line.because(self.injected.as_ref().map(|_| Reason::Injected))
    }

    /// The key that the client is told, where the gateway has made one for it.
    fn told_key(&self) -> Option<Vec<u8>> {
        match self.injected {
            Some(Injected::Uuid(key)) => Some(key.text().into_bytes()),
            Some(Injected::Content) | None => None,
        }
    }

    /// What a response loses and gains on its way to the client.
    fn response_edits(&self, headers: &Headers, line: StatusLine) -> Vec<Edit> {
        self.with_status(removals(headers), line)
    }

    fn with_status(&self, mut edits: Vec<Edit>, line: StatusLine) -> Vec<Edit> {
        edits.push(Edit::Set(STATUS, line.to_string().into_bytes()));
        edits.extend(self.told_key().map(|key| Edit::Set(KEY, key)));
        if self.policy.expose_cors {
            edits.push(Edit::Add(EXPOSE, EXPOSED.as_bytes().to_vec()));
        }
        edits
    }
}

impl State {
    /// After the whole request has come, nothing of Envoy's can overtake our answer: unless the host's doings must be
    /// undone, nothing of it is awaited.
    fn unless_sent_as_it_is(self) -> Self {
        match self {
            State::Answered(edits) if edits.is_empty() => State::Done,
            state => state,
        }
    }

    /// The execution whose lease must be kept alive, where there is one.
    fn run_mut(&mut self) -> Option<&mut Run> {
        match self {
            State::Response(run) | State::Shielded(run) | State::ResponseBody { run, .. } => Some(run),
            _ => None,
        }
    }
}

impl Ticket {
    /// What the upstream knows the operation by. The same content in another window is another one.
    fn operation(&self) -> String {
        let (Some(_), KeyForm::Ours(key)) = (self.window_ms, self.form) else { return self.name.hex() };
        let mut digest = Digest::new("operation", None);
        digest.part("name", &self.name.0);
        digest.part("key", &key.0);
        hex(&digest.finish())
    }

    /// What the upstream gets as `Idempotency-Key`; none where the client's own field serves as it is.
    fn key_for_upstream(&self) -> Option<Vec<u8>> {
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
    fn takes(&self, response: &Response) -> bool {
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

impl Run {
    /// What is kept of a response to it.
    fn response(&self, status: u16, headers: Headers, body: Option<Vec<u8>>) -> Response {
        Response { status, headers, body, negotiated: self.ticket.accept_encoding.is_some() }
    }

    fn command(&self, policy: &Policy, kind: CommandKind) -> Command {
        Command {
            name: self.ticket.name,
            owner: self.ticket.owner,
            fingerprint: self.fingerprint,
            attempt: self.attempt,
            key: self.ticket.form,
            lease_ms: policy.lease_ms,
            ttl_ms: self.ticket.window_ms.unwrap_or(policy.ttl_ms),
            in_window: self.ticket.window_ms.is_some(),
            deadline_ms: self.expires_ms,
            kind,
        }
    }
}

/// Requests that cannot be held back or answered like others, whatever the rules say.
fn never_protected(head: &RequestHead) -> Option<Bypass> {
    let is_upgrade =
        |line: &[u8]| line.split(|byte| *byte == b',').any(|token| token.trim_ascii().eq_ignore_ascii_case(b"upgrade"));
    if head.method() == b"CONNECT" {
        Some(Bypass::Connect)
    } else if head.headers.has("upgrade") && head.headers.all("connection").any(is_upgrade) {
        Some(Bypass::Upgrade)
    } else if head.headers.first("content-type").is_some_and(|value| media_type(value).starts_with(b"application/grpc"))
    {
        Some(Bypass::Grpc)
    } else {
        None
    }
}

/// Undoes what Envoy does to an answer of ours: it names a type where a body has none, and drops it where there is no
/// body.
fn mending(reply: &Reply) -> Vec<Edit> {
    match (reply.headers.first("content-type"), reply.body.is_empty()) {
        (Some(content_type), true) => vec![Edit::Set("content-type", content_type.to_vec())],
        (None, false) => vec![Edit::Remove("content-type")],
        _ => Vec::new(),
    }
}

/// What the gateway itself will send, where the operator wants that and all of it can be sent.
fn outgoing(policy: &Policy, head: &RequestHead) -> Option<Box<Outgoing>> {
    let Execution::Shielded { cluster, timeout_ms } = &policy.execution else { return None };
    let is_text =
        head.headers.iter().all(|(name, value)| [name, value].iter().all(|text| str::from_utf8(text).is_ok()));
    let is_sent = |name: &[u8]| !is_about_the_connection(name) && name != b"expect" && name != b":scheme";
    (is_text && policy.mode == Mode::Enforce).then(|| {
        let headers = head.headers.iter().filter(|(name, _)| is_sent(name)).collect();
        Box::new(Outgoing { cluster: cluster.clone(), timeout_ms: *timeout_ms, headers, body: Vec::new() })
    })
}

/// Header fields after these changes.
fn edited(headers: &Headers, edits: &[Edit]) -> Headers {
    let is_replaced = |name: &[u8]| {
        edits.iter().any(|edit| matches!(edit, Edit::Remove(gone) | Edit::Set(gone, _) if gone.as_bytes() == name))
    };
    let mut out: Headers = headers.iter().filter(|(name, _)| !is_replaced(name)).collect();
    for edit in edits {
        if let Edit::Add(name, value) | Edit::Set(name, value) = edit {
            out.push(name.as_bytes(), value);
        }
    }
    out
}

/// Envoy's own account of an answer to a request that the gateway itself had sent: what `response_headers_to_add` of
/// the internal listener writes down. A part of it is none, because a field that is missing looks like one that says no.
struct Account<'a> {
    details: &'a [u8],
    attempts: u64,
    connected: bool,
}

impl<'a> Account<'a> {
    fn read(headers: &'a Headers) -> Option<Self> {
        let is_said = |text: &&[u8]| !text.is_empty() && *text != b"-";
        let attempts = whole_number(headers.first(ACCOUNT_ATTEMPTS)?)?;
        let connected = headers.first(ACCOUNT_UPSTREAM).as_ref().map(is_said)?;
        Some(Account { details: headers.first(ACCOUNT_DETAILS).filter(is_said)?, attempts, connected })
    }

    fn origin(&self) -> Origin<'a> {
        Origin { details: self.details, attempts: Some(self.attempts), connected: self.connected }
    }
}

/// The fields of an answer that go on to the client: all but those about the connection, and what was said to us.
fn passed(headers: &Headers) -> Headers {
    let ours = OUR_HEADERS.into_iter().chain([STEER_FATE, STEER_TTL]);
    let not_theirs: Vec<&str> = ours.chain([ACCOUNT_DETAILS, ACCOUNT_UPSTREAM, ACCOUNT_ATTEMPTS]).collect();
    let goes_on = |name: &[u8]| {
        !name.starts_with(b":")
            && !is_about_the_connection(name)
            && !not_theirs.iter().any(|own| own.as_bytes() == name)
    };
    headers.iter().filter(|(name, _)| goes_on(name)).collect()
}

/// The upstream's own word on the fate of the key; anything but one known word is no word.
fn steered_fate(headers: &Headers) -> Option<Fate> {
    match single(headers, STEER_FATE)? {
        b"store" => Some(Fate::Store),
        b"release" => Some(Fate::Release),
        b"retry" => Some(Fate::Retry),
        b"unknown" => Some(Fate::Unknown),
        _ => None,
    }
}

/// The upstream's own word on how long the completed record lives, in whole seconds.
fn steered_ttl_ms(headers: &Headers) -> Option<u64> {
    let seconds = u32::try_from(whole_number(single(headers, STEER_TTL)?)?).ok()?;
    (seconds > 0).then_some(u64::from(seconds) * 1000)
}

fn single<'a>(headers: &'a Headers, name: &'a str) -> Option<&'a [u8]> {
    let mut lines = headers.all(name);
    lines.next().filter(|_| lines.next().is_none()).map(<[u8]>::trim_ascii)
}

/// What only we may say, and what was said to us alone.
fn removals(headers: &Headers) -> Vec<Edit> {
    let ours = OUR_HEADERS.into_iter().chain([STEER_FATE, STEER_TTL]);
    ours.filter(|name| headers.has(name)).map(Edit::Remove).collect()
}

/// The fields that are worth repeating: end-to-end ones that are not about this one delivery.
///
/// "Intermediaries ... MUST remove ... fields nominated by Connection" (RFC 9110, section 7.6.1).
fn kept(headers: &Headers) -> Headers {
    let nominated: Vec<&[u8]> = headers.all("connection").flat_map(|line| line.split(|byte| *byte == b',')).collect();
    let is_nominated = |name: &[u8]| nominated.iter().any(|token| token.trim_ascii().eq_ignore_ascii_case(name));
    headers.iter().filter(|(name, _)| !is_about_one_delivery(name) && !is_nominated(name)).collect()
}

/// Fields about the connection or the framing.
fn is_about_the_connection(name: &[u8]) -> bool {
    let connection: [&[u8]; 6] =
        [b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-connection", b"te", b"upgrade"];
    let framing: [&[u8]; 3] = [b"content-length", b"trailer", b"transfer-encoding"];
    connection.contains(&name) || framing.contains(&name)
}

/// Pseudo-headers, and fields about the connection, the framing, or this one delivery.
fn is_about_one_delivery(name: &[u8]) -> bool {
    match name {
        name if is_about_the_connection(name) => true,
        b"date" | b"server" | b"set-cookie" | b"traceparent" | b"x-request-id" => true,
        b"idempotency-key" | b"idempotency-status" | b"idempotency-store" | b"idempotency-ttl" => true,
        b"idempotent-replayed" => true,
        _ => [":", "ratelimit", "x-envoy-"].iter().any(|prefix| name.starts_with(prefix.as_bytes())),
    }
}

/// Says what failed.
fn blame(failure: Failure, (state, mut step): (State, Step)) -> (State, Step) {
    step.counts.push(Count::StoreFailed(failure));
    (state, Step { remark: Some(Remark::StoreFailed(failure)), ..step })
}

fn hold() -> Step {
    Step { flow: Flow::Hold, ..Step::default() }
}

fn resume(edits: Vec<Edit>, line: StatusLine) -> Step {
    Step { flow: Flow::Resume(edits), status: Some(line.to_string()), ..Step::default() }
}

/// The store's word on a renewal.
fn renewed(run: &mut Run, verdict: &StoreReply) -> Step {
    match verdict {
        StoreReply::Failed(failure) => Step {
            counts: vec![Count::StoreFailed(*failure)],
            remark: Some(Remark::StoreFailed(*failure)),
            ..Step::default()
        },
        StoreReply::Renewed { expires_ms } => {
            run.expires_ms = Some(*expires_ms);
            Step::default()
        }
        StoreReply::Lost => {
            run.renew_at_ms = None;
            Step { remark: Some(Remark::LeaseLost(run.ticket.name)), ..Step::default() }
        }
        _ => Step::default(),
    }
}
