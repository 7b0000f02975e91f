//! A request that asks the gateway itself: what is known of an operation, or for a key.
//!
//! Its one rule: it changes no record, executes nothing, and never reaches the upstream.
//! It does not know how the operation was found, nor how a key is made: that is `look_up.rs`.

use std::rc::Rc;

use crate::command::{Command, CommandKind, Failure, ReplyKind, StoreReply};
use crate::config::Policy;
use crate::event::EventKind;
use crate::fingerprint::Fingerprint;
use crate::key::{KeyForm, Name};
use crate::record::Owner;
use crate::refusal::ProblemType;
use crate::reply::{ProblemDetails, Reply};
use crate::step::Step;

use super::answered::Answered;
use super::settlement::{done, refuse, refused_by_store};
use super::{Context, Next, SMALL_BODY, State, hold};

/// Awaits the store's word on what is known of an operation, or only the request's head.
pub(super) enum LookUp {
    /// The store is asked.
    Asked {
        command: Box<Command>,
        /// For how long the key may still begin the operation, where the gateway has issued it.
        issued_left_s: Option<u64>,
    },
    /// The answer is known already.
    Known(Rc<Reply>),
}

impl LookUp {
    pub(super) fn new(policy: &Policy, name: Name, issued_left_s: Option<u64>, owner: Owner) -> Self {
        let command = Command {
            name,
            owner,
            fingerprint: Fingerprint([0; 32]),
            attempt: 0,
            key: KeyForm::Bare,
            lease_ms: policy.lease_ms,
            ttl_ms: policy.ttl_ms,
            in_window: false,
            may_begin: true,
            deadline_ms: None,
            kind: CommandKind::Inspect,
        };
        LookUp::Asked { command: Box::new(command), issued_left_s }
    }

    pub(super) fn on(self, cx: &Context<'_>, event: EventKind<'_>) -> Next {
        match event {
            EventKind::RequestHeaders { .. } => {
                let commands = match &self {
                    LookUp::Asked { command, .. } => vec![(**command).clone()],
                    LookUp::Known(reply) => return Answered::with(Rc::clone(reply)),
                };
                (State::LookUp(self), Step { commands, ..hold() })
            }
            // Whatever stands in it, it must not let the request go. A look-up needs none, so little of it is held.
            EventKind::RequestBody { chunk, .. } => match cx.buffer(chunk) > SMALL_BODY {
                true => refuse(cx, None, ProblemType::BodyTooLarge, ProblemDetails::default()),
                false => (State::LookUp(self), hold()),
            },
            EventKind::StoreReplied { asked: ReplyKind::Inspect, reply, .. } => self.seen(cx, &reply),
            EventKind::ResponseHeaders { .. } | EventKind::Closed { .. } => done(),
            _ => (State::LookUp(self), Step::default()),
        }
    }

    fn seen(self, cx: &Context<'_>, reply: &StoreReply) -> Next {
        let issued_left_s = if let LookUp::Asked { issued_left_s, .. } = self { issued_left_s } else { None };
        match reply {
            StoreReply::Seen(sight) => Answered::with(Rc::new(Reply::sight(*sight, issued_left_s))),
            StoreReply::Failed(failure) => refused_by_store(cx, None, *failure),
            _ => refused_by_store(cx, None, Failure::Stale),
        }
    }
}
