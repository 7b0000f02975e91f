//! The exchanges of one worker, and the store they share.
//!
//! Its one rule: an exchange lives until nothing can come of it any more, whether or not its client is still there.
//! It does not know what an exchange decides, nor when its acts are carried out.

use std::collections::{HashMap, VecDeque};

use crate::by_id::{ById, in_order};
use crate::command::{Command, ReplyKind, StoreReply};
use crate::config::RuleId;
use crate::count::Count;
use crate::event::{Clock, Event, EventKind};
use crate::exchange::Exchange;
use crate::key::Name;
use crate::record::Owner;
use crate::step::{Flow, LogEvent, Outgoing, Search, SeenCaller, Step};
use crate::store::client::{Batch, Client, Completion, Heard, Lane, Nonce};
use crate::store::local::SharedMap;
use crate::store::{Store, Submission};
use crate::worker::host::Side;
use crate::worker::turns::Turns;

/// One thing to do, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// Send this upstream in the client's place, and feed what comes back.
    Execute {
        /// For which exchange.
        exchange: u32,
        /// What.
        outgoing: Box<Outgoing>,
    },
    /// Count one more.
    Count {
        /// Of what.
        count: Count,
        /// Under the rule of this number.
        rule: usize,
        /// Whether of a trial.
        observed: bool,
    },
    /// Do this to the message in hand of a stream.
    Flow {
        /// Whose.
        exchange: u32,
        /// Which of its messages.
        side: Side,
        /// What; never `Pass`.
        flow: Flow,
    },
    /// Note that a request of this rule has shown a caller, the first that this worker has seen.
    CallerSeen(String),
    /// Write a log line.
    Log(LogEvent),
    /// Note the status for the access log of a stream.
    Status {
        /// Whose.
        exchange: u32,
        /// The text of `Idempotency-Status`.
        text: String,
    },
    /// Note that a duplicate has waited for so long.
    Waited {
        /// Until another's attempt ended, or it was refused, or its client went away.
        ms: u64,
    },
}

impl Act {
    /// The stream that it is done to; none where it does not need one.
    pub fn stream(&self) -> Option<u32> {
        match self {
            Act::Flow { exchange, .. } | Act::Status { exchange, .. } => Some(*exchange),
            Act::CallerSeen(_) | Act::Execute { .. } | Act::Count { .. } | Act::Log(_) | Act::Waited { .. } => None,
        }
    }
}

/// One worker's exchanges and their store.
pub struct Exchanges<C> {
    exchanges: ById<Box<Entry>>,
    store: Store<C>,
    load: Load,
    /// The duplicates that wait, by the operation that they wait for.
    waiters: HashMap<Name, Vec<u32>>,
    /// Those that wait for the lock of a resource.
    turns: Turns,
    /// Whether one was woken by the end of what it waited for, since the last tick.
    has_woken: bool,
    /// Whether the embedded store's last answer was one.
    answers: bool,
    /// By the number of the rule, whether its requests show callers, once there was one.
    callers: Vec<Option<Callers>>,
}

/// What is known of the callers of one rule.
#[derive(Clone, Copy)]
enum Callers {
    /// None so far, which was said then.
    Missing { said_ms: u64 },
    /// There was one.
    Seen,
}

/// What exchanges have in hand.
#[derive(Clone, Copy, Default)]
struct Load {
    /// Bytes of bodies that the host holds back or that are kept.
    buffered_bytes: u64,
    /// Claims that are not settled.
    running: u64,
    /// Duplicates that wait.
    waiting: u64,
}

impl Load {
    fn with(self, other: Load) -> Load {
        let Load { buffered_bytes, running, waiting } = other;
        Load {
            buffered_bytes: self.buffered_bytes + buffered_bytes,
            running: self.running + running,
            waiting: self.waiting + waiting,
        }
    }

    fn without(self, other: Load) -> Load {
        Load {
            buffered_bytes: self.buffered_bytes.saturating_sub(other.buffered_bytes),
            running: self.running.saturating_sub(other.running),
            waiting: self.waiting.saturating_sub(other.waiting),
        }
    }
}

/// How many duplicates may wait in one worker, because each holds a connection and a body.
const WAITING_MAX: u64 = 1024;
/// How many of them for the same operation.
const WAITING_FOR_ONE_MAX: usize = 128;

/// How long it is not said again that a rule's requests show no caller.
pub const NO_CALLER_QUIET_MS: u64 = 60_000;

/// An exchange under way.
struct Entry {
    exchange: Exchange,
    wake_ms: Option<u64>,
    side: Side,
    /// Whether its stream is over: nothing can be done to its messages any more.
    closed: bool,
}

impl<C: SharedMap> Exchanges<C> {
    /// None, over this store.
    pub fn new(store: Store<C>) -> Self {
        Exchanges {
            exchanges: ById::default(),
            store,
            load: Load::default(),
            waiters: HashMap::new(),
            turns: Turns::default(),
            has_woken: false,
            answers: true,
            callers: Vec::new(),
        }
    }

    /// Takes an exchange in; its number is its stream's.
    pub fn begin(&mut self, id: u32, exchange: Exchange) {
        let entry = Entry { exchange, wake_ms: None, side: Side::Request, closed: false };
        self.exchanges.insert(id, Box::new(entry));
    }

    /// The exchange of this number.
    pub fn exchange(&self, id: u32) -> Option<&Exchange> {
        self.exchanges.get(&id).map(|entry| &entry.exchange)
    }

    /// Feeds one event to one exchange.
    pub fn feed(&mut self, id: u32, event: Event<'_>) -> Vec<Act> {
        let mut acts = Vec::new();
        let Some(mut entry) = self.exchanges.remove(&id) else { return acts };
        let before = entry.load();
        let (ran, waited_for) = (entry.exchange.runs().copied(), entry.exchange.waits_for().copied());
        let mut lock = entry.exchange.awaits_lock().copied();
        let (waits_since_ms, rule) = (entry.exchange.waits_since_ms(), entry.exchange.rule().number);
        entry.closed |= matches!(event, Event { kind: EventKind::Closed { .. }, .. });
        if matches!(event, Event { kind: EventKind::ResponseHeaders { .. }, .. }) {
            entry.side = Side::Response;
        }
        let clock = event.clock;
        let mut steps = VecDeque::from([(entry.exchange.handle(event), false)]);
        let now_ms = clock.now_ms();
        while let Some((step, remembered)) = steps.pop_front() {
            let observed = step.observed;
            if remembered && step.counts.contains(&Count::Replayed) {
                acts.push(Act::Count { count: Count::ReplayedCached, rule, observed });
            }
            acts.extend(step.caller.and_then(|seen| self.note_caller(entry.exchange.rule(), seen, now_ms)));
            let search = step.search;
            for command in obey(id, &mut entry, step, &mut acts) {
                let (asked, name) = (command.kind.reply_kind(), command.name);
                lock = lock.or((asked == ReplyKind::Lock).then_some(name));
                let (reply, remembered) = self.ask(id, command, now_ms);
                if !remembered {
                    acts.push(Act::Count { count: Count::StoreOperation, rule, observed });
                }
                let answer = reply.map(|reply| self.answer(&name, asked, reply));
                steps.extend(answer.map(|kind| (entry.exchange.handle(Event { clock, kind }), remembered)));
            }
            if let Some(Search { digits, from }) = search {
                let kind = match self.store.search(digits, from, now_ms) {
                    Ok((names, next)) => EventKind::Found { names, next },
                    Err(failure) => {
                        let (asked, reply) = (ReplyKind::Inspect, StoreReply::Failed(failure));
                        EventKind::StoreReplied { asked, reply, may_wait: false }
                    }
                };
                steps.push_back((entry.exchange.handle(Event { clock, kind }), false));
            }
        }
        self.load = self.load.with(entry.load()).without(before);
        if let (Some(since_ms), None) = (waits_since_ms, entry.exchange.waits_since_ms()) {
            acts.push(Act::Waited { ms: now_ms.saturating_sub(since_ms) });
        }
        self.note_waiter(id, waited_for, entry.exchange.waits_for().copied());
        if let Some(name) = lock.filter(|_| entry.exchange.awaits_lock().is_none()) {
            self.turns.leave(id, &name);
        }
        if entry.exchange.runs().is_none() {
            ran.into_iter().for_each(|name| self.wake_waiters(&name, now_ms));
        }
        if !entry.exchange.is_done() {
            self.exchanges.insert(id, entry);
        }
        acts
    }

    /// Hands one command of an exchange to the store, or answers it from what this worker knows; tells which.
    fn ask(&mut self, id: u32, command: Command, now_ms: u64) -> (Option<StoreReply>, bool) {
        if !self.turns.may_ask(id, &command, now_ms) {
            return (Some(StoreReply::Busy { wait_ms: 0 }), true);
        }
        let (asked, name) = (command.kind.reply_kind(), command.name);
        match self.store.ask(id, command, now_ms) {
            Submission::Remembered(reply) => (Some(reply), true),
            Submission::Answered(reply) => {
                self.answers = !matches!(reply, StoreReply::Failed(_));
                self.hear_of_turn(asked, name, &reply, now_ms);
                (Some(reply), false)
            }
            Submission::Waiting => (None, false),
        }
    }

    /// Has the next that waits for a lock ask at once, where another's turn is over.
    fn hear_of_turn(&mut self, asked: ReplyKind, name: Name, reply: &StoreReply, now_ms: u64) {
        let is_over = asked == ReplyKind::Unlock && *reply == StoreReply::Settled;
        let next = if is_over { self.turns.pass_on(name, now_ms) } else { None };
        if let Some(entry) = next.and_then(|next| self.exchanges.get_mut(&next)) {
            entry.wake_ms = Some(now_ms);
            self.has_woken = true;
        }
    }

    /// The next call to the store to send on this lane, if one may be sent and anything waits.
    pub fn next_batch(&mut self, lane: Lane, now_ms: u64, nonce: impl FnMut() -> Nonce) -> Option<Batch> {
        self.store.next_batch(lane, now_ms, nonce)
    }

    /// Feeds what came back from calls to the store.
    pub fn heard(&mut self, heard: Heard, now_ms: u64) -> Vec<Act> {
        let awaits = |id| self.exchanges.get(&id).is_some_and(|entry| entry.exchange.awaits() == "claim");
        let told = self.store.heard(heard, now_ms, awaits);
        self.tell(told, now_ms)
    }

    /// Feeds a tick to every exchange that is due; `owner` draws the token of a claim that may follow.
    pub fn tick(&mut self, now_ms: u64, mut owner: impl FnMut() -> Owner) -> Vec<Act> {
        self.has_woken = false;
        let due = self.exchanges.iter().filter(|(_, entry)| entry.is_due(now_ms));
        let awake = in_order(due.map(|(id, _)| *id));
        let mut acts = Vec::new();
        for id in awake {
            if let Some(entry) = self.exchanges.get_mut(&id) {
                entry.wake_ms = None;
            }
            let kind = EventKind::Tick { owner: owner() };
            acts.extend(self.feed(id, Event { clock: &Clock::at(now_ms), kind }));
        }
        let told = self.store.tick(now_ms);
        acts.extend(self.tell(told, now_ms));
        acts
    }

    /// Whether a duplicate was woken by the end of what it waited for, since the last tick.
    pub fn has_woken(&self) -> bool {
        self.has_woken
    }

    /// Bytes of bodies that the host holds back, or that are kept, for all exchanges.
    pub fn held_bytes(&self) -> u64 {
        self.load.buffered_bytes
    }

    /// How many executions are under way.
    pub fn running(&self) -> u64 {
        self.load.running
    }

    /// How many duplicates wait.
    pub fn waiting(&self) -> u64 {
        self.load.waiting
    }

    /// The store of this worker.
    pub fn store(&self) -> &Store<C> {
        &self.store
    }

    /// The same, for what no exchange asks.
    pub fn store_mut(&mut self) -> &mut Store<C> {
        &mut self.store
    }

    /// Whether the store has carried out what it was asked last.
    pub fn store_answers(&self) -> bool {
        self.store.client().map_or(self.answers, Client::is_well)
    }

    /// Whether nothing is under way or owed.
    pub fn is_idle(&self) -> bool {
        self.exchanges.is_empty() && self.store.client().is_none_or(Client::is_idle)
    }

    /// Says once in a while that a rule's requests have shown no caller so far.
    fn note_caller(&mut self, RuleId { number, name }: &RuleId, seen: SeenCaller, now_ms: u64) -> Option<Act> {
        self.callers.resize(self.callers.len().max(number + 1), None);
        let callers = self.callers.get_mut(*number)?;
        let (now, act) = match (*callers, seen) {
            (Some(Callers::Seen), _) => return None,
            (_, SeenCaller::Some) => (Callers::Seen, Act::CallerSeen(name.clone())),
            (Some(Callers::Missing { said_ms }), _) if now_ms < said_ms + NO_CALLER_QUIET_MS => return None,
            (_, SeenCaller::None { certificate }) => {
                (Callers::Missing { said_ms: now_ms }, Act::Log(LogEvent::NoCaller { rule: name.clone(), certificate }))
            }
        };
        *callers = Some(now);
        Some(act)
    }

    fn tell(&mut self, told: Vec<Completion>, now_ms: u64) -> Vec<Act> {
        let mut acts = Vec::new();
        for told in told {
            self.hear_of_turn(told.asked(), told.command.name, &told.reply, now_ms);
            let Some(exchange) = told.exchange else { continue };
            let kind = self.answer(&told.command.name, told.asked(), told.reply);
            acts.extend(self.feed(exchange, Event { clock: &Clock::at(now_ms), kind }));
        }
        acts
    }

    fn answer(&self, name: &Name, asked: ReplyKind, reply: StoreReply) -> EventKind<'static> {
        let may_wait = matches!(reply, StoreReply::Busy { .. } | StoreReply::InFlight { .. })
            && self.load.waiting < WAITING_MAX
            && self.waiters.get(name).map_or(0, Vec::len) < WAITING_FOR_ONE_MAX;
        EventKind::StoreReplied { asked, reply, may_wait }
    }

    /// Has every duplicate that waits for this operation in this worker ask at once.
    fn wake_waiters(&mut self, name: &Name, now_ms: u64) {
        for waiter in self.waiters.get(name).into_iter().flatten() {
            if let Some(entry) = self.exchanges.get_mut(waiter) {
                entry.wake_ms = Some(now_ms);
                self.has_woken = true;
            }
        }
    }

    /// Notes which operation an exchange waits for now, in the place of the one before.
    fn note_waiter(&mut self, id: u32, before: Option<Name>, now: Option<Name>) {
        if before == now {
            return;
        }
        if let Some(name) = before
            && let Some(waiters) = self.waiters.get_mut(&name)
        {
            waiters.retain(|waiter| *waiter != id);
            if waiters.is_empty() {
                self.waiters.remove(&name);
            }
        }
        if let Some(name) = now {
            self.waiters.entry(name).or_default().push(id);
        }
    }
}

impl Entry {
    fn load(&self) -> Load {
        Load {
            // The host holds nothing once the stream is over.
            buffered_bytes: self.exchange.kept_bytes() + if self.closed { 0 } else { self.exchange.held_bytes() },
            running: self.exchange.is_running().into(),
            waiting: self.exchange.waits_for().is_some().into(),
        }
    }

    fn is_due(&self, now_ms: u64) -> bool {
        self.wake_ms.is_some_and(|wake| wake <= now_ms)
    }
}

/// Turns a step into acts; hands back what it asks of the store.
fn obey(id: u32, entry: &mut Entry, step: Step, acts: &mut Vec<Act>) -> Vec<Command> {
    let rule = entry.exchange.rule().number;
    acts.extend(step.counts.into_iter().map(|count| Act::Count { count, rule, observed: step.observed }));
    acts.extend(step.log_event.map(Act::Log));
    acts.extend(step.execute.map(|outgoing| Act::Execute { exchange: id, outgoing }));
    entry.wake_ms = step.wake_ms.or(entry.wake_ms);
    if !entry.closed {
        acts.extend(step.status.map(|text| Act::Status { exchange: id, text }));
        if step.flow != Flow::Pass {
            acts.push(Act::Flow { exchange: id, side: entry.side, flow: step.flow });
        }
    }
    step.commands
}
