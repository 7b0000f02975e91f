//! A request of an operator's: an operation is found, looked at, settled or forgotten.
//!
//! Its one rule: an operator reads what the store has said after his word.
//! It does not know who counts as an operator: that is `operator.rs`.

use std::rc::Rc;

use crate::command::{Command, CommandKind, Failure, ReplyKind, Resolution, StoreReply};
use crate::config::Policy;
use crate::event::EventKind;
use crate::fingerprint::Fingerprint;
use crate::key::{KeyForm, Name};
use crate::operator::{self, Asked, Deed, Operation, Word};
use crate::record::Owner;
use crate::reply::Reply;
use crate::step::{Flow, LogEvent, Search, Step};

use super::answered::Answered;
use super::settlement::done;
use super::{Context, Next, State, hold};

/// How many bytes an operator's word takes at most.
const WORD_MAX: u64 = 4096;
/// How long a search pauses between its steps, so that no worker stops for it.
const SEARCH_PAUSE_MS: u64 = 10;

/// Awaits an operator's word, then what the store says.
pub(super) struct AwaitOperator {
    asked: Asked,
    owner: Owner,
    ttl_ms: u64,
    body: Vec<u8>,
    word: Option<Word>,
    /// What a search has found so far.
    found: Vec<Name>,
    /// The bucket at which it goes on, between two steps.
    from: u32,
}

impl AwaitOperator {
    pub(super) fn new(policy: &Policy, asked: Asked, owner: Owner) -> Box<Self> {
        let word = (asked.deed == Deed::Forget).then_some(Word { said: Resolution::Forget, ttl_ms: None });
        let ttl_ms = policy.ttl_ms;
        Box::new(AwaitOperator { asked, owner, ttl_ms, body: Vec::new(), word, found: Vec::new(), from: 0 })
    }

    pub(super) fn on(mut self: Box<Self>, cx: &Context<'_>, event: EventKind<'_>) -> Next {
        match event {
            EventKind::RequestHeaders { end, .. } if self.asked.deed == Deed::Resolve => match end {
                true => answer(Reply::for_operator(400, NO_WORD)),
                false => (State::Operator(self), hold()),
            },
            EventKind::RequestHeaders { .. } => self.begin(),
            EventKind::RequestBody { chunk, .. } if cx.buffer(chunk) > WORD_MAX => {
                answer(Reply::for_operator(413, LONG_WORD))
            }
            EventKind::RequestBody { chunk, end, .. } if self.asked.deed == Deed::Resolve && self.word.is_none() => {
                self.body.extend(chunk);
                if !end {
                    return (State::Operator(self), hold());
                }
                self.word = operator::word(&self.body);
                if self.word.is_some() { self.begin() } else { answer(Reply::for_operator(400, NO_WORD)) }
            }
            // Whatever stands in it, it must not let the request go.
            EventKind::RequestBody { .. } => (State::Operator(self), hold()),
            EventKind::Tick { .. } => self.search(),
            EventKind::Found { names, next, .. } => self.on_found(cx, names, next),
            EventKind::StoreReplied { asked: ReplyKind::Resolve, reply, .. } => self.on_resolved(&reply),
            EventKind::StoreReplied { asked: ReplyKind::Inspect, reply, .. } => self.on_seen(&reply),
            EventKind::ResponseHeaders { .. } | EventKind::Closed { .. } => done(),
            _ => (State::Operator(self), Step::default()),
        }
    }

    fn begin(self: Box<Self>) -> Next {
        match self.asked.operation {
            Operation::Short(_) => {
                let (state, step) = self.search();
                (state, Step { flow: Flow::Hold, ..step })
            }
            Operation::Whole(name) => self.ask(name, Flow::Hold),
        }
    }

    fn search(self: Box<Self>) -> Next {
        let Operation::Short(digits) = self.asked.operation else { return (State::Operator(self), Step::default()) };
        let search = Some(Search { digits, from: self.from });
        (State::Operator(self), Step { search, ..Step::default() })
    }

    fn on_found(mut self: Box<Self>, cx: &Context<'_>, names: Vec<Name>, next: Option<u32>) -> Next {
        self.found.extend(names);
        match (next, self.found.as_slice()) {
            (_, [_, _, ..]) => answer(Reply::for_operator(409, AMBIGUOUS)),
            (Some(next), _) => {
                self.from = next;
                let wake_ms = Some(cx.now_ms() + SEARCH_PAUSE_MS);
                (State::Operator(self), Step { wake_ms, ..Step::default() })
            }
            (None, [name]) => {
                let name = *name;
                self.asked.operation = Operation::Whole(name);
                self.ask(name, Flow::Pass)
            }
            (None, []) => answer(Reply::operation(None, None, None)),
        }
    }

    /// Asks the store: to take the word, or else what is known.
    fn ask(self: Box<Self>, name: Name, flow: Flow) -> Next {
        let kind = self.word.map_or(CommandKind::Inspect, |word| CommandKind::Resolve(word.said));
        let command = self.command(name, kind);
        (State::Operator(self), Step { flow, commands: vec![command], ..Step::default() })
    }

    fn command(&self, name: Name, kind: CommandKind) -> Command {
        Command {
            name,
            owner: self.owner,
            fingerprint: Fingerprint([0; 32]),
            attempt: 0,
            key: KeyForm::Bare,
            lease_ms: 0,
            ttl_ms: self.word.and_then(|word| word.ttl_ms).unwrap_or(self.ttl_ms),
            in_window: false,
            may_begin: true,
            deadline_ms: None,
            kind,
        }
    }

    fn on_resolved(self: Box<Self>, reply: &StoreReply) -> Next {
        match (reply, self.word, self.asked.operation) {
            (StoreReply::Settled, Some(word), Operation::Whole(name)) => {
                let commands = vec![self.command(name, CommandKind::Inspect)];
                let log_event = Some(LogEvent::Resolved(name, word.said));
                (State::Operator(self), Step { commands, log_event, ..Step::default() })
            }
            (StoreReply::InFlight { .. }, ..) => answer(Reply::for_operator(409, LIVES)),
            (StoreReply::Unknown { wait_ms, .. }, ..) => {
                let seconds = wait_ms.div_ceil(1000).max(1).to_string();
                answer(Reply::for_operator(409, LIVES).with("retry-after", &seconds))
            }
            (StoreReply::Lost, ..) => answer(Reply::for_operator(409, COMPLETED)),
            (StoreReply::Stale, ..) => answer(Reply::for_operator(409, ANOTHER)),
            _ => self.on_seen(reply),
        }
    }

    fn on_seen(&self, reply: &StoreReply) -> Next {
        match (reply, &self.asked.operation) {
            (StoreReply::Seen(seen), Operation::Whole(name)) => {
                answer(Reply::operation(Some(name), *seen, self.asked.remembered_s))
            }
            (StoreReply::Failed(Failure::Corrupt), _) => answer(Reply::for_operator(503, DAMAGED)),
            _ => {
                let why = if let StoreReply::Failed(failure) = reply { failure.as_str() } else { "garbage" };
                answer(Reply::for_operator(503, &format!("{FAILED} ({why})")))
            }
        }
    }
}

fn answer(reply: Reply) -> Next {
    Answered::with(Rc::new(reply))
}

const NO_WORD: &str = "Say in JSON what became of the operation: {\"ran\": true}, with its \"status\" (200 to 599) where that \
                       is known and a \"ttl_s\" for which it is to be known, or {\"ran\": false, \"attempt\": 1}, the last \
                       attempt that you have looked at.";
const LONG_WORD: &str = "An operator's word takes 4096 bytes at most.";
const AMBIGUOUS: &str = "Several operations begin with these digits: give all 64.";
const LIVES: &str = "An attempt is executing, or may be: its lease is not over. Nothing was changed.";
const COMPLETED: &str = "The operation has completed, so it ran. Nothing was changed; POST …/forget lets it run again.";
const ANOTHER: &str = "There is another attempt than the one that the word is about: look again. Nothing was changed.";
const DAMAGED: &str = "What is kept under this name is no operation that can be read, so no word is taken: a lock, which \
                       …/forget lets go, or damaged; docs/operations.md says how to get out.";
const FAILED: &str =
    "The store did not answer as it should, so whether a word was taken is not known: look, and say it again";
