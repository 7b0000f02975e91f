//! A request that only looks what is known of an operation.
//!
//! Its one rule: it changes no record, executes nothing, and never reaches the upstream.
//! It does not know how the operation was found: that is `look_up.rs`.

use std::rc::Rc;

use crate::command::{Command, CommandKind, Failure, ReplyKind, StoreReply};
use crate::config::Policy;
use crate::event::EventKind;
use crate::fingerprint::Fingerprint;
use crate::key::{KeyForm, Name};
use crate::record::Owner;
use crate::refusal::ProblemType;
use crate::reply::{ProblemDetails, Reply};
use crate::step::{Flow, Step};

use super::answered::Answered;
use super::settlement::{done, refuse, refused_by_store};
use super::{Context, Next, SMALL_BODY, State, hold};

/// Awaits the store's word on what is known of an operation.
pub(super) struct LookUp {
    command: Box<Command>,
}

impl LookUp {
    pub(super) fn new(policy: &Policy, name: Name, owner: Owner) -> Self {
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
            kind: CommandKind::Inspect,
        };
        LookUp { command: Box::new(command) }
    }

    pub(super) fn on(self, cx: &Context<'_>, event: EventKind<'_>) -> Next {
        match event {
            EventKind::RequestHeaders { .. } => {
                let commands = vec![(*self.command).clone()];
                (State::LookUp(self), Step { commands, ..hold() })
            }
            // Whatever stands in it, it must not let the request go. A look-up needs none, so little of it is held.
            EventKind::RequestBody { chunk, .. } => match cx.buffer(chunk) > SMALL_BODY {
                true => refuse(cx, None, ProblemType::BodyTooLarge, ProblemDetails::default()),
                false => (State::LookUp(self), hold()),
            },
            EventKind::StoreReplied { asked: ReplyKind::Inspect, reply, .. } => seen(cx, &reply),
            EventKind::ResponseHeaders { .. } | EventKind::Closed { .. } => done(),
            _ => (State::LookUp(self), Step::default()),
        }
    }
}

fn seen(cx: &Context<'_>, reply: &StoreReply) -> Next {
    match reply {
        StoreReply::Seen(sight) => {
            let reply = Rc::new(Reply::sight(*sight));
            let answered = Answered::to(&reply);
            (State::Answered(answered), Step { flow: Flow::LocalReply(reply), ..Step::default() })
        }
        StoreReply::Failed(failure) => refused_by_store(cx, None, *failure),
        _ => refused_by_store(cx, None, Failure::Stale),
    }
}
