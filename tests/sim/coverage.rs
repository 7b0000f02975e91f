//! What a run has covered, in numbers.
//!
//! Its one rule: it only counts.

use std::cell::RefCell;
use std::collections::BTreeMap;

#[cfg(feature = "mutants")]
use envoy_idempotency::command::ReplyKind;
use envoy_idempotency::command::{CommandKind, StoreReply};
use envoy_idempotency::count::Count;
#[cfg(feature = "mutants")]
use envoy_idempotency::event::{Event, EventKind, Executed};
use envoy_idempotency::lock::LockCommand;

use crate::plan::Fault;
use crate::world::Answer;

/// What was awaited, what happened, and what the store said.
pub type Cell = (&'static str, &'static str, &'static str);

#[derive(Clone, Default)]
pub struct Coverage {
    pub requests: u64,
    pub calls: u64,
    pub forwards: u64,
    pub executions: u64,
    pub takeovers: u64,
    pub unprotected: u64,
    pub weaker: u64,
    faults: BTreeMap<Fault, u64>,
    met: BTreeMap<Cell, u64>,
    replies: BTreeMap<(&'static str, &'static str), u64>,
    answers: BTreeMap<String, u64>,
    on_streams: BTreeMap<&'static str, u64>,
}

impl Coverage {
    pub fn injected(&mut self, fault: Fault) {
        *self.faults.entry(fault).or_default() += 1;
    }

    /// What happened to a stream to the store: one of [`ON_STREAMS`].
    pub fn met_on_stream(&mut self, what: &'static str) {
        assert!(ON_STREAMS.contains(&what), "{what} is not in the list");
        *self.on_streams.entry(what).or_default() += 1;
    }

    /// Takes over what the exchanges of this thread have met since [`watch`].
    pub fn witnessed(&mut self) {
        MET.take().into_iter().for_each(|(cell, count)| *self.met.entry(cell).or_default() += count);
    }

    pub fn counted(&mut self, count: Count) {
        match count {
            Count::Takeover => self.takeovers += 1,
            Count::Bypassed(_) => self.unprotected += 1,
            _ => {}
        }
    }

    pub fn reply(&mut self, operation: &CommandKind, reply: &StoreReply) {
        let asked = match operation {
            CommandKind::Claim { .. } => "claim",
            CommandKind::Complete { .. } => "complete",
            CommandKind::Inspect => "look",
            CommandKind::Lock(LockCommand::Lock) => "lock",
            CommandKind::Lock(LockCommand::Renew { .. }) => "renew lock",
            CommandKind::Lock(LockCommand::Unlock { .. }) => "unlock",
            CommandKind::MarkUnknown => "mark unknown",
            CommandKind::Poll { .. } => "poll",
            CommandKind::Release { .. } => "release",
            CommandKind::Renew => "renew",
            CommandKind::Resolve(_) => "resolve",
            CommandKind::Similar(_) => "similar",
            CommandKind::Withdraw => "withdraw",
        };
        let told = told(reply);
        *self.replies.entry((asked, told)).or_default() += 1;
    }

    pub fn answered(&mut self, answer: &Answer) {
        let token = answer.line().split(';').next().unwrap_or_default();
        let what = match answer.parameter("reason") {
            Some(reason) => format!("{token} {reason}"),
            None => token.to_owned(),
        };
        *self.answers.entry(what).or_default() += 1;
    }

    pub fn add(&mut self, other: &Coverage) {
        self.requests += other.requests;
        self.calls += other.calls;
        self.forwards += other.forwards;
        self.executions += other.executions;
        self.takeovers += other.takeovers;
        self.unprotected += other.unprotected;
        self.weaker += other.weaker;
        other.faults.iter().for_each(|(fault, count)| *self.faults.entry(*fault).or_default() += count);
        other.met.iter().for_each(|(key, count)| *self.met.entry(*key).or_default() += count);
        other.replies.iter().for_each(|(key, count)| *self.replies.entry(*key).or_default() += count);
        other.on_streams.iter().for_each(|(what, count)| *self.on_streams.entry(what).or_default() += count);
        other.answers.iter().for_each(|(key, count)| *self.answers.entry(key.clone()).or_default() += count);
    }

    /// What can happen to a stream to the store and never did.
    pub fn unmet_on_streams(&self) -> Vec<&'static str> {
        ON_STREAMS.into_iter().filter(|what| !self.on_streams.contains_key(what)).collect()
    }

    /// Faults that never struck.
    pub fn unused(&self) -> Vec<Fault> {
        Fault::ALL.into_iter().filter(|fault| !self.faults.contains_key(fault)).collect()
    }

    /// What an exchange can meet and none has met: the cells of the machine's table that lead somewhere, and the answers
    /// of the store that it tells apart.
    pub fn unreached(&self) -> Vec<String> {
        let is_met = |state: &str, event: &str, told: Option<&str>| {
            self.met.keys().any(|cell| (cell.0, cell.1) == (state, event) && told.is_none_or(|told| cell.2 == told))
        };
        let cells = leading_cells().into_iter().filter(|(state, event)| !is_met(state, event, None));
        let cells = cells.map(|(state, event)| format!("{state} × {event}"));
        let answers =
            TOLD_APART.iter().flat_map(|(state, event, all)| all.iter().map(move |told| (*state, *event, *told)));
        let answers = answers.filter(|(state, event, told)| !is_met(state, event, Some(told)));
        cells.chain(answers.map(|(state, event, told)| format!("{state} × {event}: {told}"))).collect()
    }

    pub fn print(&self) {
        println!(
            "{} requests, {} let go upstream ({} unprotected), {} executions, {} takeovers, {} calls to the store",
            self.requests, self.forwards, self.unprotected, self.executions, self.takeovers, self.calls
        );
        println!(
            "{} pairs of executions judged by the weaker promise, because acknowledged writes were lost between them",
            self.weaker
        );
        println!("\nfaults injected");
        for fault in Fault::ALL {
            println!("  {:>10}  {fault:?}", self.faults.get(&fault).copied().unwrap_or(0));
        }
        println!("\nanswers");
        self.answers.iter().for_each(|(what, count)| println!("  {count:>10}  {what}"));
        println!("\nwhat the store said");
        self.replies.iter().for_each(|((asked, told), count)| println!("  {count:>10}  {asked}: {told}"));
        println!("\nstreams to the store");
        self.on_streams.iter().for_each(|(what, count)| println!("  {count:>10}  {what}"));
        println!("\nstates × events");
        for ((state, event, told), count) in &self.met {
            let said = if told.is_empty() { String::new() } else { format!(": {told}") };
            println!("  {count:>10}  {state} × {event}{said}");
        }
        println!("  {:>10}  that can be reached and were not", self.unreached().len());
    }
}

/// What can happen to a stream to the store.
const ON_STREAMS: [&str; 17] = [
    "a large response takes the other stream",
    "a replica is left",
    "a stream is left in a tick for a replica",
    "a reply comes after its command has timed out, and is dropped",
    "a stream is closed by the other side",
    "a stream is given up because Redis refuses the login",
    "a stream is given up because a reply is to another question",
    "a stream is given up because it is silent",
    "a stream is given up because its bytes are no reply",
    "a stream is lost on which nothing is under way",
    "a stream is lost with a command",
    "a stream is lost with several commands",
    "a stream is not opened before its pause is over",
    "a stream is opened again",
    "a write ends a stream that carries more",
    "an error that another command got is believed",
    "the store has forgotten the script",
];

/// The answers of the store, and of calls of the gateway's own, after which an exchange does different things.
///
/// Without `claim: stale`, which no store says to who has not withdrawn: `model.rs` and `exchange/claim.rs` say why.
const TOLD_APART: [(&str, &str, &[&str]); 15] = [
    ("claim", "claim", &["completed", "failed", "granted", "granted in doubt", "in flight", "mismatch", "unknown"]),
    ("renewal", "renew", &["failed", "lost", "renewed"]),
    ("lock", "lock", &["busy", "failed", "locked"]),
    ("lock", "renew", &["failed", "lost", "renewed"]),
    ("response", "renew", &["failed", "lost", "renewed"]),
    ("response", "renew lock", &["failed", "locked", "lost"]),
    ("response-body", "renew", &["failed", "lost", "renewed"]),
    ("response-body", "renew lock", &["failed", "locked", "lost"]),
    ("shielded", "executed", &["answered", "lost", "unsent"]),
    ("shielded", "renew", &["failed", "lost", "renewed"]),
    ("shielded", "renew lock", &["failed", "locked", "lost"]),
    // Envoy has ended a client's stream.
    ("shielded", "response head", &[""]),
    ("save", "mark", &["failed", "lost", "settled"]),
    ("save", "settle", &["dropped", "failed", "lost", "settled"]),
    ("save", "unlock", &["failed", "lost", "settled"]),
];

/// The transitions that `exchange/mod.rs` lists, except those that no gateway can reach: it shows an exchange the request's
/// head before anything else.
fn leading_cells() -> Vec<(&'static str, &'static str)> {
    let source = include_str!("../../src/exchange/mod.rs");
    let mut cells = Vec::new();
    let mut state = "";
    for line in source.lines().take_while(|line| line.starts_with("//!")) {
        let items = match line.strip_prefix("//! - `").and_then(|line| line.split_once("`: ")) {
            Some((next, items)) => {
                state = next;
                items
            }
            None => line.strip_prefix("//!   ").unwrap_or_default(),
        };
        let events = items.split(" · ").filter_map(|item| item.split_once(" → ")).map(|(event, _)| event);
        cells.extend(events.map(|event| (state, event.trim_end_matches(" reply"))));
    }
    // Operators speak to the store itself here: `tests/it/operator.rs` has the exchange that answers them.
    let is_unreachable = |cell: &(&str, &str)| {
        matches!(cell, ("head", "response head" | "closed") | ("look-up", "request body") | ("operator", _))
    };
    cells.retain(|cell| !is_unreachable(cell));
    assert!(cells.len() > 20, "the list was not read: {cells:?}");
    cells
}

thread_local! {
    static MET: RefCell<BTreeMap<Cell, u64>> = const { RefCell::new(BTreeMap::new()) };
}

/// Counts from now on what the exchanges of this thread meet, where they let themselves be watched.
pub fn watch() {
    MET.take();
    #[cfg(feature = "mutants")]
    envoy_idempotency::exchange::WITNESS.set(Some(meets));
}

#[cfg(feature = "mutants")]
fn meets(state: &'static str, event: &Event<'_>) {
    let (event, told) = match event {
        Event { kind: EventKind::Closed { .. }, .. } => ("closed", ""),
        Event { kind: EventKind::Executed { answer: Executed::Answered { .. }, .. }, .. } => ("executed", "answered"),
        Event { kind: EventKind::Executed { answer: Executed::Lost, .. }, .. } => ("executed", "lost"),
        Event { kind: EventKind::Executed { answer: Executed::Unsent, .. }, .. } => ("executed", "unsent"),
        Event { kind: EventKind::RequestBody { .. }, .. } => ("request body", ""),
        Event { kind: EventKind::RequestHeaders { .. }, .. } => ("request head", ""),
        Event { kind: EventKind::ResponseBody { .. }, .. } => ("response body", ""),
        Event { kind: EventKind::ResponseHeaders { .. }, .. } => ("response head", ""),
        Event { kind: EventKind::StoreReplied { asked: ReplyKind::Claim, reply, .. }, .. } => ("claim", told(reply)),
        Event { kind: EventKind::StoreReplied { asked: ReplyKind::Lock, reply, .. }, .. } => ("lock", told(reply)),
        Event { kind: EventKind::StoreReplied { asked: ReplyKind::RenewLock, reply, .. }, .. } => {
            ("renew lock", told(reply))
        }
        Event { kind: EventKind::StoreReplied { asked: ReplyKind::Unlock, reply, .. }, .. } => ("unlock", told(reply)),
        Event { kind: EventKind::StoreReplied { asked: ReplyKind::Mark, reply, .. }, .. } => ("mark", told(reply)),
        Event { kind: EventKind::StoreReplied { asked: ReplyKind::Renew, reply, .. }, .. } => ("renew", told(reply)),
        Event { kind: EventKind::StoreReplied { asked: ReplyKind::Inspect, reply, .. }, .. } => ("look", told(reply)),
        Event { kind: EventKind::StoreReplied { asked: ReplyKind::Resolve, reply, .. }, .. } => {
            ("resolve", told(reply))
        }
        Event { kind: EventKind::StoreReplied { asked: ReplyKind::Settle, reply, .. }, .. } => ("settle", told(reply)),
        Event { kind: EventKind::StoreReplied { asked: ReplyKind::Similar, reply, .. }, .. } => {
            ("similar", told(reply))
        }
        Event { kind: EventKind::Tick { .. }, .. } => ("tick", ""),
        Event { kind: EventKind::BodyUnavailable, .. } => ("unable", ""),
        Event { kind: EventKind::Found { .. }, .. } => ("found", ""),
    };
    MET.with_borrow_mut(|met| *met.entry((state, event, told)).or_default() += 1);
}

fn told(reply: &StoreReply) -> &'static str {
    match reply {
        StoreReply::Busy { .. } => "busy",
        StoreReply::Completed { .. } => "completed",
        StoreReply::Deferred => "deferred",
        StoreReply::Dropped => "dropped",
        StoreReply::Exhausted { .. } => "exhausted",
        StoreReply::Failed(_) => "failed",
        StoreReply::Granted { doubt: true, .. } => "granted in doubt",
        StoreReply::Granted { .. } => "granted",
        StoreReply::InFlight { .. } => "in flight",
        StoreReply::Locked { .. } => "locked",
        StoreReply::Lost => "lost",
        StoreReply::Mismatch => "mismatch",
        StoreReply::Renewed { .. } => "renewed",
        StoreReply::Seen(_) => "seen",
        StoreReply::Settled => "settled",
        StoreReply::Similar { .. } => "similar",
        StoreReply::Stale => "stale",
        StoreReply::Unknown { .. } => "unknown",
    }
}
