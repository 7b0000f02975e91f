//! Operators: what they look at, and what they say became of an operation.
//!
//! Its one rule: an operator is honest: he says of an attempt what the service's ledger says. He may forget anything.

use envoy_idempotency::command::{Command, CommandKind, Resolution, StoreReply};
use envoy_idempotency::fingerprint::Fingerprint;
use envoy_idempotency::key::KeyForm;
use envoy_idempotency::record::{Owner, RecordStatus};
use envoy_idempotency::store::client::Completion;

use super::clients::name;
use super::network::told;
use super::{End, Happening, Known, World};
use crate::plan::Fault;

/// An operator's word that the store has taken.
pub struct Word {
    pub who: (u8, u8),
    pub at_ms: u64,
    pub said: Resolution,
}

impl Word {
    /// Whether the operation may run again after it.
    pub fn frees(&self) -> bool {
        !matches!(self.said, Resolution::Ran { .. })
    }
}

impl World {
    /// The words about this operation in a span of true time.
    pub fn words_between(&self, who: (u8, u8), from: u64, to: u64) -> impl Iterator<Item = &Word> + Clone {
        self.words.iter().filter(move |word| word.who == who && from <= word.at_ms && word.at_ms <= to)
    }

    /// Whether an operator has had this operation forgotten then.
    pub fn forgotten_between(&self, who: (u8, u8), from: u64, to: u64) -> bool {
        self.words_between(who, from, to).any(|word| word.said == Resolution::Forget)
    }

    /// An operator looks at an operation, and says what became of it.
    pub(super) fn operates(&mut self) {
        let latest = self.plan.clients.iter().map(|client| client.start_ms).max().unwrap_or(0) + 10_000;
        if self.now > latest {
            return;
        }
        let pause = self.operator.between(1, 2 * self.plan.calm_ms);
        self.after(pause, Happening::Operates);
        let mut known: Vec<_> = self.forwards.iter().filter(|it| it.attempt.is_some()).map(|it| it.who).collect();
        known.sort_unstable();
        known.dedup();
        if known.is_empty() {
            return;
        }
        let who = *self.operator.pick(&known);
        let forgets = self.plan.faults.has(Fault::OperatorForgets) && self.operator.chance(300);
        let StoreReply::Seen(Some(seen)) = self.ask_for_operator(who, CommandKind::Inspect) else { return };
        let said = match self.has_run(who) {
            _ if forgets => Resolution::Forget,
            Some(ran) if self.plan.faults.has(Fault::OperatorResolves) => match ran {
                true => Resolution::Ran { status: self.operator.chance(500).then_some(201) },
                false => Resolution::NotRun { attempt: seen.attempt },
            },
            _ => return,
        };
        if matches!(seen.standing, RecordStatus::Completed(_)) && !forgets {
            return;
        }
        self.coverage.injected(if forgets { Fault::OperatorForgets } else { Fault::OperatorResolves });
        // His word takes its time, and another operator's or another attempt may come before it.
        match said {
            Resolution::NotRun { .. } if seen.standing == RecordStatus::Unknown => {
                let delay = self.operator.between(0, 4 * self.plan.calm_ms);
                self.after(delay, Happening::Says(who, said));
            }
            _ => self.says(who, said),
        }
    }

    /// An operator's word comes to the store.
    pub fn says(&mut self, who: (u8, u8), said: Resolution) {
        let reply = self.ask_for_operator(who, CommandKind::Resolve(said));
        self.coverage.reply(&CommandKind::Resolve(said), &reply);
        self.say(|_| format!("an operator says of k{}: {said:?}; the store: {}", who.1, told(&reply)));
        if reply == StoreReply::Settled {
            self.words.push(Word { who, at_ms: self.now, said });
        }
    }

    /// Whether an operation has run, by the ledger; none while an attempt may yet reach the service.
    fn has_run(&self, who: (u8, u8)) -> Option<bool> {
        let (now, mut ran) = (self.now, false);
        for forward in self.forwards.iter().filter(|forward| forward.who == who) {
            if forward.arrives_ms >= now && !matches!(forward.end, End::Unreached | End::Unsent) {
                return None;
            }
            ran |= forward.executions > 0 && matches!(forward.known(), Known::Doubt | Known::Success);
        }
        Some(ran)
    }

    fn ask_for_operator(&mut self, who: (u8, u8), kind: CommandKind) -> StoreReply {
        let command = Command {
            name: name(&self.policies[0], &self.head_of(who)),
            owner: Owner(self.operator.bytes()),
            fingerprint: Fingerprint([0; 32]),
            attempt: 0,
            key: KeyForm::Bare,
            lease_ms: 0,
            ttl_ms: 1000 * self.plan.ttl_s,
            in_window: false,
            may_begin: true,
            deadline_ms: None,
            kind,
        };
        let node = self.operator.between(0, self.nodes.len() as u64 - 1) as usize;
        let at_node_ms = self.now + self.nodes[node].clock_offset;
        let memory = self.nodes[node].memory.as_ref();
        if let (Some(max_bytes), Some(memory)) = (self.plan.embedded, memory) {
            return memory.table(max_bytes).apply(command, at_node_ms);
        }
        let is_reached = self.now >= self.store.down_until && self.now >= self.store.stopped_until;
        let failed = StoreReply::Failed(envoy_idempotency::command::Failure::Transport);
        let reply = if is_reached { self.store.apply(&command, self.now, at_node_ms) } else { failed };
        // The gateway by which he asks forgets what it remembers.
        if let Some(memory) = memory.filter(|_| self.plan.remembers()) {
            let told =
                Completion { exchange: None, command: command.into(), asked_ms: at_node_ms, reply: reply.clone() };
            memory.cache().learn(&told, at_node_ms);
        }
        reply
    }
}
