//! The machine: one request and its response, from the first header to the store's last reply.
//!
//! *Rule 1*: a transition stands in the file of the state that it leaves, and this file lists all of them.
//! *Rule 2*: it reads no clock, draws no randomness, calls no host, and cannot fail; what it wants is in the [`Step`].
//! It does not know which store answers, nor which host carries its steps out.
//!
//! # Theory of operation
//!
//! A request is hashed while the host holds it back. At its end the name is claimed. A request whose claim is granted is
//! let through under an attempt number, and where the rule says so under the lock of its resource, for which it waits;
//! every other is answered from what the store knows. While the upstream works the claim is renewed. What comes back
//! decides the fate of the key: a response that is worth keeping is held until the store has it, any other goes on once
//! the store has heard of it. A stream that ends in any other way is settled when it is closed, from the host's account of
//! how it ended.
//!
//! Under `mode: observe` the same transitions are made, and only the status of the response tells of them.
//!
//! # Transitions
//!
//! For each state: what happens, and what may be awaited next; `=` is no change. What is not listed changes nothing.
//! `tests/it/table.rs` drives every state with every event.
//!
//! - `head`: request head → body, claim, unprotected, answered, done · response head → done · closed → done
//! - `look-up`: request head → =, answered · request body → =, answered · look reply → answered · response head → done ·
//!   closed → done
//! - `operator`: request head → =, answered · request body → =, answered · tick → = · found → =, answered ·
//!   look reply → answered · resolve reply → =, answered · response head → done · closed → done
//! - `body`: request body → =, claim, unprotected, answered · response head → answered, done · closed → done ·
//!   unable → unprotected, answered
//! - `claim`: claim reply → waiting, similar, renewal, lock, response, shielded, unprotected, answered, save, done ·
//!   response head → save · closed → save
//! - `waiting`: response head → done · tick → claim, done · closed → done
//! - `similar`: similar reply → =, renewal, lock, response, shielded, save · look reply → =, renewal, lock, response,
//!   shielded, save · response head → save · closed → save
//! - `renewal`: renew reply → =, lock, response, shielded, answered, save · response head → save · closed → save
//! - `lock`: lock reply → =, renewal, response, shielded, save · renew reply → =, renewal, response, shielded, save ·
//!   response head → save · tick → =, save · closed → save
//! - `response`: response head → response-body, save · closed → save
//! - `shielded`: executed → save
//! - `response-body`: response body → =, save · tick → =, save · closed → save · unable → save
//! - `save`: mark reply → =, done, answered · settle reply → =, done, answered · unlock reply → =, done, answered
//! - `unprotected`: response head → done · closed → done
//! - `answered`: response head → =, done · response body → =, done · closed → done
//! - `done`: nothing

use std::cell::Cell;
use std::mem;
use std::rc::Rc;

use crate::config::{Config, Mode, Policy, RuleId};
use crate::count::Count;
use crate::digest::HashKey;
use crate::event::{Clock, Event, EventKind};
use crate::issued::Issuer;
use crate::key::Name;
use crate::message::{HeaderMutation, Headers};
use crate::operator::{Asked, Operation};
use crate::record::Owner;
use crate::reply::{IdempotencyStatus, Reason, Reply, STATUS};
use crate::seal::ResponseCipher;
use crate::step::{Flow, LogEvent, Step};

mod headers;

mod attempt;

mod answered;

mod settlement;

mod lookup;

mod operator;

mod execution;

mod departure;

mod similar;

mod claim;

mod admission;

use admission::{Body, Head};
use answered::Answered;
use claim::{AwaitClaim, Waiting};
use departure::{AwaitLock, Renewal};
use execution::{AwaitResponse, ResponseBody, Shielded};
use lookup::LookUp;
use operator::AwaitOperator;
use settlement::{Save, Unprotected};
use similar::AwaitSimilar;

/// Bodies up to here are held even in a worker that holds too much already: they are most of the traffic, and a few
/// slow uploads must not shut it out.
const SMALL_BODY: u64 = 16 << 10;

/// What the operator keeps secret.
#[derive(Default)]
pub struct Secrets {
    /// Keys the hashes of names and payloads.
    pub hash_key: Option<HashKey>,
    /// Seals stored responses.
    pub cipher: ResponseCipher,
    /// Makes keys for clients, and knows them again.
    pub issuer: Issuer,
}

impl Secrets {
    /// As the operator's document has them, in this plugin.
    pub fn new(config: &Config, plugin: &[u8]) -> Self {
        Secrets {
            hash_key: config.hash_key.as_deref().map(HashKey::new),
            cipher: ResponseCipher::new(&config.encryption),
            issuer: Issuer::new(config, plugin),
        }
    }
}

/// Told of an event and of what was awaited then, for tests that count what they reach.
#[cfg(feature = "mutants")]
pub type Witness = fn(&'static str, &Event<'_>);

#[cfg(feature = "mutants")]
thread_local! {
    /// Sees every event of this thread's exchanges.
    pub static WITNESS: std::cell::Cell<Option<Witness>> = const { std::cell::Cell::new(None) };
}

/// One request that a rule matched, and its response.
pub struct Exchange {
    policy: Rc<Policy>,
    secrets: Rc<Secrets>,
    state: State,
    /// The operation that it is about, once it has asked for it.
    operation: Option<Name>,
    /// Bytes of bodies that the host holds back, or would if this were no trial.
    buffered_bytes: u64,
}

/// What is awaited, with what exists only then.
enum State {
    Head(Head),
    LookUp(LookUp),
    Operator(Box<AwaitOperator>),
    Body(Body),
    Claim(AwaitClaim),
    Waiting(Waiting),
    Similar(Box<AwaitSimilar>),
    Renewal(Renewal),
    Lock(Box<AwaitLock>),
    Response(AwaitResponse),
    Shielded(Shielded),
    ResponseBody(ResponseBody),
    Save(Save),
    Unprotected(Unprotected),
    Answered(Answered),
    /// Nothing is awaited.
    Done,
}

/// What a state goes by besides itself and the event.
struct Context<'a> {
    policy: &'a Policy,
    secrets: &'a Secrets,
    clock: &'a Clock<'a>,
    /// Bytes of bodies that the host holds back; a state that sees a body says how many, until the message is let go.
    buffered_bytes: Cell<u64>,
}

impl Context<'_> {
    /// When this happens, in milliseconds; the first to ask has the clock read.
    fn now_ms(&self) -> u64 {
        self.clock.now_ms()
    }

    /// Counts a piece of a body that the host holds back, and tells how much it holds with it.
    fn buffer(&self, chunk: &[u8]) -> u64 {
        let buffered_bytes = self.buffered_bytes.get() + chunk.len() as u64;
        self.buffered_bytes.set(buffered_bytes);
        buffered_bytes
    }
}

/// What is awaited next, and what to do.
type Next = (State, Step);

impl Exchange {
    /// An exchange that awaits the request's head.
    pub fn new(policy: Rc<Policy>, secrets: Rc<Secrets>) -> Self {
        Exchange { policy, secrets, state: State::Head(Head), operation: None, buffered_bytes: 0 }
    }

    /// An exchange that only gives this answer, to a question about no operation.
    pub fn telling(policy: Rc<Policy>, secrets: Rc<Secrets>, reply: Reply) -> Self {
        let state = State::LookUp(LookUp::Known(Rc::new(reply)));
        Exchange { policy, secrets, state, operation: None, buffered_bytes: 0 }
    }

    /// An exchange that only looks what is known of an operation, and answers that; of one without a record, for how many
    /// seconds its key may still begin it, where the gateway has issued that.
    pub fn looking(
        policy: Rc<Policy>,
        secrets: Rc<Secrets>,
        name: Name,
        issued_left_s: Option<u64>,
        owner: Owner,
    ) -> Self {
        let state = State::LookUp(LookUp::new(&policy, name, issued_left_s, owner));
        Exchange { policy, secrets, state, operation: Some(name), buffered_bytes: 0 }
    }

    /// An exchange that does what an operator asks.
    pub fn operating(policy: Rc<Policy>, secrets: Rc<Secrets>, asked: Asked, owner: Owner) -> Self {
        let operation = match asked.operation {
            Operation::Whole(name) => Some(name),
            Operation::Short(_) => None,
        };
        let state = State::Operator(AwaitOperator::new(&policy, asked, owner));
        Exchange { policy, secrets, state, operation, buffered_bytes: 0 }
    }

    /// Feeds one event; obey the step.
    pub fn handle(&mut self, event: Event<'_>) -> Step {
        #[cfg(feature = "mutants")]
        if let Some(witness) = WITNESS.get() {
            witness(self.awaits(), &event);
        }
        let Event { clock, kind } = event;
        let (before, is_response_head) = (self.trial(), matches!(kind, EventKind::ResponseHeaders { .. }));
        let buffered_bytes = Cell::new(self.buffered_bytes);
        let cx = Context { policy: &self.policy, secrets: &self.secrets, clock, buffered_bytes };
        let (state, step) = match mem::replace(&mut self.state, State::Done) {
            State::Head(state) => state.on(&cx, kind),
            State::LookUp(state) => state.on(&cx, kind),
            State::Operator(state) => state.on(&cx, kind),
            State::Body(state) => state.on(&cx, kind),
            State::Claim(state) => state.on(&cx, kind),
            State::Waiting(state) => state.on(&cx, kind),
            State::Similar(state) => state.on(&cx, kind),
            State::Renewal(state) => state.on(&cx, kind),
            State::Lock(state) => state.on(&cx, kind),
            State::Response(state) => state.on(&cx, kind),
            State::Shielded(state) => state.on(&cx, kind),
            State::ResponseBody(state) => state.on(&cx, kind),
            State::Save(state) => state.on(&cx, kind),
            State::Unprotected(state) => state.on(&cx, kind),
            State::Answered(state) => state.on(&cx, kind),
            State::Done => (State::Done, Step::default()),
        };
        self.buffered_bytes = match step.flow {
            Flow::LocalReply(_) | Flow::Replace(_) | Flow::Restore(_) | Flow::Resume(_) => 0,
            Flow::Hold | Flow::Pass => cx.buffered_bytes.get(),
        };
        self.state = state;
        if let (None, State::Claim(AwaitClaim { claim, .. })) = (self.operation, &self.state) {
            self.operation = Some(claim.request.name);
        }
        let observes = self.policy.mode == Mode::Observe;
        let step = if observes { self.only_observe(step, before, is_response_head) } else { step };
        self.naming_the_operation(step)
    }

    /// What a trial has decided so far, in one word; none while it has not, and of a request that is no operation.
    fn trial(&self) -> Option<&'static str> {
        match &self.state {
            State::Unprotected(Unprotected { line, .. }) => line.outcome,
            State::Response(_) => Some("executed"),
            _ => None,
        }
    }

    /// A trial: everything was decided and is counted, and only the status tells of it.
    fn only_observe(&mut self, step: Step, before: Option<&'static str>, is_response_head: bool) -> Step {
        let decided = step.counts.iter().find_map(|count| match count {
            Count::Refused(problem) => Some(problem.as_str()),
            Count::Replayed => Some("replayed"),
            _ => None,
        });
        let outcome = before.or(decided).or_else(|| self.trial());
        let line = IdempotencyStatus { outcome, ..IdempotencyStatus::bypassed(Reason::Observe) };
        if matches!(step.flow, Flow::LocalReply(_)) || matches!(self.state, State::Answered(_) | State::Unprotected(_))
        {
            self.state = State::Unprotected(Unprotected { line, injected: None });
        }
        let flow = match is_response_head && !matches!(step.flow, Flow::Pass) {
            true => Flow::Resume(vec![HeaderMutation::Set(STATUS, line.to_string().into_bytes())]),
            false => Flow::Pass,
        };
        let status = step.status.is_some() || matches!(flow, Flow::Resume(_));
        Step { flow, status: status.then(|| line.to_string()), observed: true, ..step }
    }

    /// What is written of the exchange, with the operation that it is about: in the access log and in the log.
    fn naming_the_operation(&self, mut step: Step) -> Step {
        let Some(operation) = self.operation else { return step };
        if let Some(status) = &mut step.status {
            status.push_str(";operation=");
            status.push_str(&operation.short());
        }
        if let Some(LogEvent::StoreFailed { name, .. }) = &mut step.log_event {
            *name = Some(operation);
        }
        step
    }

    /// The rule that it is under.
    pub fn rule(&self) -> &RuleId {
        &self.policy.rule
    }

    /// How many bytes of bodies the host holds back for this exchange, while its stream is open.
    pub fn held_bytes(&self) -> u64 {
        let keeps_body = matches!(&self.state, State::Body(body) if body.keeps_body());
        if self.policy.mode == Mode::Observe && !keeps_body { 0 } else { self.buffered_bytes }
    }

    /// How many bytes of bodies are kept for this exchange until the store has heard of its outcome.
    pub fn kept_bytes(&self) -> u64 {
        match &self.state {
            State::Save(save) => save.kept_bytes(),
            _ => 0,
        }
    }

    /// What is awaited, in one word of the list above.
    pub fn awaits(&self) -> &'static str {
        match self.state {
            State::Head(_) => "head",
            State::LookUp(_) => "look-up",
            State::Operator(_) => "operator",
            State::Body(_) => "body",
            State::Claim(_) => "claim",
            State::Waiting(_) => "waiting",
            State::Similar(_) => "similar",
            State::Renewal(_) => "renewal",
            State::Lock(_) => "lock",
            State::Response(_) => "response",
            State::Shielded(_) => "shielded",
            State::ResponseBody(_) => "response-body",
            State::Save(_) => "save",
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

    /// The operation whose end it waits for, or the lock.
    pub fn waits_for(&self) -> Option<&Name> {
        match &self.state {
            State::Waiting(Waiting { claim, .. }) | State::Claim(AwaitClaim { claim, waiter: Some(_) }) => {
                Some(&claim.request.name)
            }
            State::Lock(lock) if lock.has_waited => lock.name(),
            _ => None,
        }
    }

    /// The lock whose turn it awaits.
    pub fn awaits_lock(&self) -> Option<&Name> {
        match &self.state {
            State::Lock(lock) => lock.name(),
            _ => None,
        }
    }

    /// Since when it waits, in milliseconds.
    pub fn waits_since_ms(&self) -> Option<u64> {
        match &self.state {
            State::Waiting(Waiting { claim, .. }) | State::Claim(AwaitClaim { claim, waiter: Some(_) }) => {
                Some(claim.started_ms)
            }
            State::Lock(lock) => lock.since_ms(),
            _ => None,
        }
    }

    /// The operation that it executes.
    pub fn runs(&self) -> Option<&Name> {
        match &self.state {
            State::Response(AwaitResponse { execution })
            | State::Shielded(Shielded { execution, .. })
            | State::ResponseBody(ResponseBody { execution, .. }) => Some(&execution.request.name),
            State::Save(save) if !save.is_settled() => Some(&save.execution.request.name),
            _ => None,
        }
    }

    /// Whether a message is held back until its body has come.
    pub fn awaits_body(&self) -> bool {
        matches!(self.state, State::Body(_) | State::ResponseBody(_))
    }

    /// Whether it wants to see the request's body, or keep it back.
    pub fn awaits_request_body(&self) -> bool {
        matches!(self.state, State::Body(_) | State::LookUp(_) | State::Operator(_))
    }

    /// Whether this is the head of an answer that it has given, so that the host need not be asked whose it is.
    pub fn has_answered(&self, headers: &Headers) -> bool {
        match &self.state {
            State::Answered(answered) | State::Save(Save { answered: Some(answered), .. }) => answered.is_of(headers),
            _ => false,
        }
    }

    /// Whether it looks at the response's body as it passes.
    pub fn watches_response_body(&self) -> bool {
        match &self.state {
            State::Answered(answered) | State::Save(Save { answered: Some(answered), .. }) => answered.awaits_body(),
            _ => false,
        }
    }

    /// Whether it wants to see the response's body, or keep it back.
    pub fn awaits_response_body(&self) -> bool {
        matches!(self.state, State::ResponseBody(_) | State::Save(Save { pending: Some(_), .. }))
    }
}

fn hold() -> Step {
    Step { flow: Flow::Hold, ..Step::default() }
}
