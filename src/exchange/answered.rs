//! An answer of the filter's own on its way to the client, put back where others have changed it.
//!
//! Its one rule: what a service has sent comes again as it was sent; a refusal is the gateway's own, and the operator's
//! formats apply to it.
//! It does not know why the answer is given.
//!
//! To Envoy such an answer is a local reply: `local_reply_config`, the routes' header fields and every filter behind this
//! one work on it, and then this filter's own callbacks see it. What filters in front add comes later, and stays.

use std::rc::Rc;

use crate::event::EventKind;
use crate::evidence::Source;
use crate::message::{Headers, content_length};
use crate::mutant::{self, Mutant};
use crate::refusal::ProblemType;
use crate::reply::{ProblemDetails, Reply, STATUS};
use crate::step::{Flow, Step};

use super::{Context, Next, State};

/// Awaits an answer of the filter's own on its way out.
pub(super) struct Answered {
    /// The answer as it was given; none where it may be changed.
    given: Option<Rc<Reply>>,
    /// How many bytes of its body have come by; none until its head has.
    passed: Option<usize>,
}

impl Answered {
    /// Awaits this reply.
    pub(super) fn to(reply: &Rc<Reply>) -> Self {
        Answered { given: reply.is_put_back().then(|| Rc::clone(reply)), passed: None }
    }

    /// Gives this reply, and awaits it.
    pub(super) fn with(reply: Rc<Reply>) -> Next {
        let answered = Answered::to(&reply);
        (State::Answered(answered), Step { flow: Flow::LocalReply(reply), ..Step::default() })
    }

    /// Whether it may be changed on its way.
    pub(super) fn may_change(&self) -> bool {
        self.given.is_none()
    }

    /// Whether this head is of the answer that was given, by its status line, which no other writes.
    pub(super) fn is_of(&self, headers: &Headers) -> bool {
        let line = self.given.as_ref().and_then(|given| given.headers.first(STATUS));
        line.is_some_and(|line| headers.first(STATUS) == Some(line))
    }

    /// Whether its body is looked at as it passes.
    pub(super) fn awaits_body(&self) -> bool {
        self.passed.is_some()
    }

    pub(super) fn on(mut self, cx: &Context<'_>, event: EventKind<'_>) -> Next {
        match (event, self.given.clone()) {
            (EventKind::ResponseHeaders { headers, status, origin, .. }, given)
                if origin.is_request_too_large() || given.is_none() && is_overtaken(headers, status) =>
            {
                let reply = Reply::problem(cx.policy, ProblemType::BodyTooLarge, ProblemDetails::default());
                let flow = Flow::LocalReply(Rc::new(reply));
                (State::Done, Step { flow, ..Step::default() })
            }
            (EventKind::ResponseHeaders { headers, status, origin, end }, Some(given))
                if origin.source() == Source::Own =>
            {
                let flow = if is_as_given(&given, headers, status) { Flow::Pass } else { Flow::Restore(head(&given)) };
                self.passed = Some(0);
                (if end { State::Done } else { State::Answered(self) }, Step { flow, ..Step::default() })
            }
            (EventKind::ResponseBody { whole, end, .. }, Some(given)) => {
                let flow = self.body(&given.body, &whole(), end).map_or(Flow::Pass, Flow::Replace);
                (if end { State::Done } else { State::Answered(self) }, Step { flow, ..Step::default() })
            }
            (EventKind::Closed { .. }, _) => (State::Done, Step::default()),
            _ => (State::Answered(self), Step::default()),
        }
    }

    /// What goes in the place of a piece of the body; none where the piece is what was given. From the first byte on that
    /// is not, all that is left goes at once.
    fn body(&mut self, given: &[u8], piece: &[u8], end: bool) -> Option<Vec<u8>> {
        let left = given.get(self.passed.unwrap_or(0)..).unwrap_or_default();
        let is_given = left.starts_with(piece) && (!end || left.len() == piece.len());
        self.passed = Some(if is_given { given.len() - left.len() + piece.len() } else { given.len() });
        (!is_given).then(|| left.to_vec())
    }
}

/// Whether Envoy's own 413 goes out under the name of ours: where both are made in one callback, Envoy before 1.37 sends its
/// own with the details of the second. Every answer of ours has a status line.
fn is_overtaken(headers: &Headers, status: u16) -> bool {
    status == 413 && !headers.has(STATUS)
}

/// Whether a head is the one that was given. Envoy writes lines of one name as one, and the length beside them.
fn is_as_given(given: &Reply, headers: &Headers, status: u16) -> bool {
    if mutant::is(Mutant::AnswerLeftChanged) {
        return true;
    }
    let length = content_length(headers).is_none_or(|length| length == given.body.len() as u64);
    status == given.status && length && (are_same(headers, &given.headers) || say_the_same(headers, &given.headers))
}

/// Whether both have the same lines, each on its own: what most answers are, and what costs least to see.
fn are_same(headers: &Headers, given: &Headers) -> bool {
    let lines = || headers.iter().filter(|(name, _)| is_compared(name));
    lines().count() == given.iter().count()
        && given.iter().all(|line| lines().any(|other| other == line))
        && lines().all(|line| given.iter().any(|other| other == line))
}

fn is_compared(name: &[u8]) -> bool {
    !name.starts_with(b":") && name != b"content-length"
}

/// Whether each name has the same values in both, as one list.
fn say_the_same(headers: &Headers, given: &Headers) -> bool {
    let mut names = headers.iter().chain(given.iter()).map(|(name, _)| name).filter(|name| is_compared(name));
    names.all(|name| list(headers, name) == list(given, name))
}

/// The values of this name as one list; none where it has no line.
fn list(headers: &Headers, name: &[u8]) -> Option<Vec<u8>> {
    let values: Vec<_> = headers.iter().filter(|(other, _)| *other == name).map(|(_, value)| value).collect();
    (!values.is_empty()).then(|| values.join(b",".as_slice()))
}

/// The whole head of an answer, as Envoy has it.
fn head(given: &Reply) -> Headers {
    let mut head: Headers = [(":status", given.status.to_string())].into_iter().collect();
    given.headers.iter().for_each(|(name, value)| head.push(name, value));
    // "A server MUST NOT send a Content-Length header field in any response with a status code of ... 204"; one in a 304
    // would be that of the response it stands for (RFC 9110, section 8.6).
    if !matches!(given.status, 204 | 304) {
        head.push(b"content-length", given.body.len().to_string().as_bytes());
    }
    head
}
