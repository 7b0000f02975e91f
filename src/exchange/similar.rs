//! From a granted claim to the store's word on what the same caller has sent under another key.
//!
//! Its one rule: an operation that was released counts for nothing, and one of which nothing is known counts.
//! It does not know how a claim comes to be granted, nor what follows.

use crate::command::{Command, CommandKind, Failure, ReplyKind, StoreReply};
use crate::config::{OnSimilar, OnStoreFailure, Policy};
use crate::count::Count;
use crate::event::EventKind;
use crate::key::Name;
use crate::mutant::{self, Mutant};
use crate::record::{RecordStatus, RecordSummary};
use crate::refusal::ProblemType;
use crate::reply::ProblemDetails;
use crate::similar::Asked;
use crate::step::Step;

use super::attempt::{Execution, PendingRequest};
use super::departure::{begin_when_fresh, overtaken, withdrawn};
use super::settlement::{Save, refuse, refused_by_store};
use super::{Context, Next, State, hold};

/// Awaits the store's word on other operations with this content, or on the latest of them.
pub(super) struct AwaitSimilar {
    pub(super) execution: Execution,
    pending: PendingRequest,
    /// The latest other one, since when, and for how long, while it is not known whether it was released.
    other: Option<(Name, u64, u64)>,
}

/// Asks for other operations with the content of this one, where the rule wants that known, and goes on otherwise. One
/// that was released since counts no more.
pub(super) fn ask_or_begin(
    cx: &Context<'_>,
    execution: Execution,
    pending: PendingRequest,
    released: Option<(Name, u64)>,
) -> Next {
    let (Some(content), Some(similar)) = (execution.request.content, cx.policy.similar) else {
        return begin_when_fresh(cx, execution, pending, 0);
    };
    let asked = Asked { own: execution.request.name, released, refuses: refuses(cx.policy, &execution) };
    let command = execution.request.command(cx.policy, execution.fingerprint, CommandKind::Similar(asked));
    let commands = vec![Command { name: content.name, ttl_ms: similar.window_ms, ..command }];
    (State::Similar(Box::new(AwaitSimilar { execution, pending, other: None })), Step { commands, ..hold() })
}

fn refuses(policy: &Policy, execution: &Execution) -> bool {
    let is_meant = execution.request.content.is_some_and(|content| content.is_meant);
    policy.similar.is_some_and(|similar| similar.action == OnSimilar::Refuse) && !is_meant
}

impl AwaitSimilar {
    pub(super) fn on(mut self: Box<Self>, cx: &Context<'_>, event: EventKind<'_>) -> Next {
        match event {
            EventKind::StoreReplied { asked: ReplyKind::Similar, reply, .. } => match reply {
                StoreReply::Similar { operation, since_ms, age_ms } if !mutant::is(Mutant::SimilarIgnored) => {
                    self.other = Some((operation, since_ms, age_ms));
                    let look =
                        self.execution.request.command(cx.policy, self.execution.fingerprint, CommandKind::Inspect);
                    let commands = vec![Command { name: operation, ..look }];
                    (State::Similar(self), Step { commands, ..Step::default() })
                }
                StoreReply::Failed(failure) => self.not_known(cx, failure),
                _ => begin_when_fresh(cx, self.execution, self.pending, 0),
            },
            EventKind::StoreReplied { asked: ReplyKind::Inspect, reply, .. } => self.on_look(cx, &reply),
            EventKind::ResponseHeaders { headers, .. } => {
                let injected = self.pending.injected;
                overtaken(cx, injected, headers, Save::withdrawal(cx, self.execution))
            }
            EventKind::Closed { .. } => Save::withdrawal(cx, self.execution),
            _ => (State::Similar(self), Step::default()),
        }
    }

    /// What became of the other operation is known, or is not.
    fn on_look(mut self, cx: &Context<'_>, reply: &StoreReply) -> Next {
        let Some((other, since_ms, age_ms)) = self.other else {
            return (State::Similar(Box::new(self)), Step::default());
        };
        match reply {
            StoreReply::Failed(failure) => return self.not_known(cx, *failure),
            StoreReply::Seen(Some(RecordSummary { standing: RecordStatus::Open, .. }))
                if !mutant::is(Mutant::SimilarToReleased) =>
            {
                return ask_or_begin(cx, self.execution, self.pending, Some((other, since_ms)));
            }
            _ => {}
        }
        if refuses(cx.policy, &self.execution) {
            let details = ProblemDetails { seconds_ago: Some(age_ms / 1000), ..ProblemDetails::default() };
            let (_, step) = refuse(cx, self.pending.injected, ProblemType::Similar, details);
            return withdrawn(step, Save::withdrawal(cx, self.execution));
        }
        self.execution.similar_s = Some(age_ms / 1000);
        let (state, mut step) = begin_when_fresh(cx, self.execution, self.pending, 0);
        step.counts.push(Count::Similar);
        (state, step)
    }

    /// The store cannot tell. Where such a request would be refused it is, unless a failing store lets requests through.
    fn not_known(self, cx: &Context<'_>, failure: Failure) -> Next {
        if refuses(cx.policy, &self.execution) && cx.policy.on_store_failure() == OnStoreFailure::Reject {
            let (_, step) = refused_by_store(cx, self.pending.injected, failure);
            return withdrawn(step, Save::withdrawal(cx, self.execution));
        }
        let (state, mut step) = begin_when_fresh(cx, self.execution, self.pending, 0);
        step.counts.push(Count::StoreFailed(failure));
        (state, step)
    }
}
