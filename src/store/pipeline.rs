//! One stream of commands to Redis: which of them are under way, in which order, and what their replies mean.
//!
//! Its one rule: a reply belongs to the oldest command that has none; where that cannot be so the stream is given up.
//! It does not know how a stream is opened or written to, nor what becomes of a reply.
//!
//! A command whose caller has given it up keeps its place, because its reply still comes. So a stream outlives a slow
//! reply, and is given up only when its bytes are no reply, when a reply is to another question, or when nothing has come
//! for four time-outs while a reply was awaited. One to a Redis that takes no writes is left once nothing is under way: a
//! connection stays with the Redis that it was made to, and the cluster may lead to another by now.

use std::collections::VecDeque;

use crate::command::{Failure, RedisError, StoreReply};
use crate::config::{Dialect, Login, Redis};
use crate::mutant::{self, Mutant};
use crate::store::client::{Batch, Heard, Lane, MAX_BATCH_BYTES, OUTSTANDING_MAX, Reply};
use crate::store::redis::{self, Named};
use crate::store::resp::{self, Answer, Reader, Value};

/// One stream, open or not.
#[derive(Debug)]
pub struct Pipeline {
    lane: Lane,
    prefix: String,
    login: Option<Login>,
    timeout_us: u64,
    /// How many bytes one command of the small lane has at most.
    command_bytes: usize,
    open: Option<Open>,
    /// While no stream may be opened: until when, and why the last one ended.
    barred: Option<(u64, Failure)>,
    /// The pause after the next end; none after a stream on which the script has answered.
    pause_us: u64,
    /// From when on a stream may be left for another Redis, and how long that is after the last time.
    may_leave_us: u64,
    leave_pause_us: u64,
}

/// What is under way on an open stream.
#[derive(Debug, Default)]
struct Open {
    reader: Reader,
    /// By age; a login is the first.
    sent: VecDeque<Sent>,
    /// Bytes of commands that are under way.
    bytes: usize,
    /// What waits for the login.
    waiting: Vec<Call>,
    is_logged_in: bool,
    /// Whether the next command is to bring the script, because Redis has said too late that it has forgotten it.
    lacks_script: bool,
    /// Whether the Redis that it was made to takes no writes.
    reads_only: bool,
    /// Whether it is to be left once nothing is under way.
    leaves: bool,
    /// When bytes have come last.
    heard_us: u64,
}

#[derive(Debug)]
enum Sent {
    Login { at_us: u64 },
    Call(Call),
}

#[derive(Debug)]
struct Call {
    batch: Batch,
    named: Named,
    bytes: usize,
    /// When it was sent first.
    at_us: u64,
}

/// What bytes that have come mean.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Received {
    /// What became of calls. Where a stream is lost, it is to be cancelled.
    pub heard: Heard,
    /// How long each call took that has ended.
    pub took_us: Vec<u64>,
    /// What is to be written now.
    pub write: Vec<u8>,
    /// Whether what has come is HTTP.
    pub is_http: bool,
    /// Whether this Redis takes no writes, so that the worker's other stream should be left too.
    pub reads_only: bool,
}

/// What the next reply is to.
enum Next {
    Answer(Call, Answer),
    LoggedIn,
    Refused(Failure),
    Unasked,
}

/// How many bytes of commands may be under way, unless it is one alone.
const BYTES_MAX: usize = 4 << 20;
/// So many time-outs of silence end a stream.
const SILENT_TIMEOUTS: u64 = 4;
/// The pause before the stream after one that has brought nothing, or before one is left again; it doubles up to the last.
const PAUSE_US: (u64, u64) = (10_000, 1_000_000);
/// How much of a command is no response, at most, for each of its operations.
const OPERATION_BYTES: usize = 512;

impl Pipeline {
    /// A stream that is not open.
    pub fn new(redis: &Redis, lane: Lane) -> Self {
        let login = match &redis.dialect {
            Dialect::Resp { login } => login.clone(),
            Dialect::Webdis(_) => None,
        };
        let (operations, bodies) = if redis.batching { (64, MAX_BATCH_BYTES) } else { (1, 0) };
        Pipeline {
            lane,
            prefix: redis.prefix.clone(),
            login,
            timeout_us: 1000 * redis.timeout_ms,
            command_bytes: operations * OPERATION_BYTES + bodies + (64 << 10),
            open: None,
            barred: None,
            pause_us: 0,
            may_leave_us: 0,
            leave_pause_us: 0,
        }
    }

    /// How many calls may be sent now. In the turn of the root, which may open the stream for them, they have gathered;
    /// in any other only one that is alone goes out, because few full ones bring more replies than many that are not.
    pub fn room(&self, is_roots: bool) -> usize {
        let Some(open) = &self.open else { return usize::from(is_roots) };
        if open.leaves {
            return 0;
        }
        if !is_roots {
            return usize::from(open.sent.is_empty() && open.waiting.is_empty());
        }
        let left = OUTSTANDING_MAX.saturating_sub(open.sent.len() + open.waiting.len());
        let by_bytes = match self.lane {
            Lane::Small => BYTES_MAX.saturating_sub(open.bytes) / self.command_bytes,
            // Each of them may be as large as it likes, so none goes beside one that is.
            Lane::Large => usize::from(open.bytes < MAX_BATCH_BYTES),
        };
        left.min(by_bytes)
    }

    /// Why no stream may be opened now; none where one may, or is.
    pub fn barred(&self, now_us: u64) -> Option<Failure> {
        self.barred.filter(|(until_us, _)| now_us < *until_us).map(|(_, failure)| failure)
    }

    /// A stream is open; gives what is to be written first.
    pub fn opened(&mut self, now_us: u64) -> Vec<u8> {
        let mut open = Open { is_logged_in: self.login.is_none(), heard_us: now_us, ..Open::default() };
        let login = self.login.as_ref().map(resp::log_in);
        if login.is_some() {
            open.sent.push_back(Sent::Login { at_us: now_us });
        }
        self.open = Some(open);
        login.unwrap_or_default()
    }

    /// Takes calls for the stream that is open; gives what is to be written.
    pub fn send(&mut self, batches: Vec<Batch>, now_us: u64) -> Vec<u8> {
        let mut out = Vec::new();
        for batch in batches {
            let call = Call { batch, named: Named::Hash, bytes: 0, at_us: now_us };
            match &mut self.open {
                Some(open) if open.is_logged_in => {
                    let named = if std::mem::take(&mut open.lacks_script) { Named::Text } else { Named::Hash };
                    open.write(Call { named, ..call }, &self.prefix, &mut out);
                }
                Some(open) => open.waiting.push(call),
                None => {}
            }
        }
        out
    }

    /// Bytes have come.
    pub fn received(&mut self, bytes: Vec<u8>, now_us: u64) -> Received {
        let mut received = Received::default();
        let Some(open) = &mut self.open else { return received };
        open.heard_us = now_us;
        if mutant::is(Mutant::PlaceForgotten) {
            open.sent.retain(|sent| now_us < sent.at_us() + self.timeout_us);
        }
        open.reader.push(bytes);
        let end = loop {
            match open.next() {
                Ok(None) => break None,
                Ok(Some(Next::LoggedIn)) => {
                    open.is_logged_in = true;
                    let is_awaited = |call: &Call| now_us < call.at_us + self.timeout_us;
                    for call in std::mem::take(&mut open.waiting).into_iter().filter(is_awaited) {
                        open.write(call, &self.prefix, &mut received.write);
                    }
                }
                Ok(Some(Next::Answer(call, Answer::NoScript)))
                    if call.named == Named::Hash && now_us < call.at_us + self.timeout_us =>
                {
                    open.write(Call { named: Named::Text, ..call }, &self.prefix, &mut received.write);
                }
                Ok(Some(Next::Answer(call, answer))) => {
                    open.lacks_script |= answer == Answer::NoScript;
                    let reply = match answer {
                        Answer::NoScript => Reply::Failed(Failure::Redis(RedisError::NoScript)),
                        Answer::Reply(reply) => reply,
                    };
                    received.took_us.push(now_us.saturating_sub(call.at_us));
                    let is_own = call.is_answered_by(&reply);
                    received.reads_only |= is_of_one_that_reads_only(&reply);
                    if reply == Reply::Failed(Failure::Garbage) {
                        break Some((Failure::Garbage, Some(call.batch.id)));
                    }
                    let is_of_script = matches!(reply, Reply::Answers(_));
                    received.heard.replies.push((call.batch.id, reply));
                    if !is_own && !mutant::is(Mutant::StrangerKept) {
                        break Some((Failure::Transport, None));
                    }
                    // A Redis that has no room for another client says so and closes.
                    if is_of_script {
                        (self.pause_us, self.barred) = (0, None);
                    }
                }
                Ok(Some(Next::Refused(failure))) => break Some((failure, None)),
                Ok(Some(Next::Unasked)) | Err(resp::Broken) => break Some((Failure::Garbage, None)),
            }
        };
        open.reads_only |= received.reads_only;
        if let Some((failure, call)) = end {
            received.is_http = open.reader.is_http();
            received.heard.lost = Some(self.end(failure, call, now_us));
            received.write.clear();
        } else {
            received.heard.lost = self.leave(now_us);
        }
        received
    }

    /// The Redis to which the worker's other stream leads takes no writes, and this one may lead there too.
    pub fn doubt(&mut self) {
        self.open.iter_mut().for_each(|open| open.reads_only = true);
    }

    /// Gives up a stream to a Redis that takes no writes, where nothing is under way on it.
    fn leave(&mut self, now_us: u64) -> Option<(Vec<u64>, Failure)> {
        let open = self.open.as_mut()?;
        open.leaves |= open.reads_only && now_us >= self.may_leave_us;
        if !open.leaves || !open.sent.is_empty() || !open.waiting.is_empty() {
            return None;
        }
        // A failover that comes long after the last begins with the shortest pause again.
        let is_new = now_us >= self.may_leave_us + PAUSE_US.1;
        let last_us = if is_new { 0 } else { self.leave_pause_us };
        self.leave_pause_us = (2 * last_us).clamp(PAUSE_US.0, PAUSE_US.1);
        (self.open, self.may_leave_us) = (None, now_us + self.leave_pause_us);
        Some((Vec::new(), Failure::Transport))
    }

    /// The stream has been closed, or could not be opened.
    pub fn closed(&mut self, now_us: u64) -> Heard {
        Heard { replies: Vec::new(), lost: Some(self.end(Failure::Transport, None, now_us)) }
    }

    /// Gives the stream up where it has been silent for too long, or leads to a Redis that takes no writes; it is to be
    /// cancelled then.
    pub fn tick(&mut self, now_us: u64) -> Option<Heard> {
        if let Some(lost) = self.leave(now_us) {
            return Some(Heard { replies: Vec::new(), lost: Some(lost) });
        }
        let open = self.open.as_ref()?;
        let silent_from_us = open.heard_us.max(open.sent.front()?.at_us());
        let is_silent = now_us >= silent_from_us + SILENT_TIMEOUTS * self.timeout_us;
        (is_silent && !mutant::is(Mutant::SilenceKept))
            .then(|| Heard { replies: Vec::new(), lost: Some(self.end(Failure::Timeout, None, now_us)) })
    }

    fn end(&mut self, failure: Failure, call: Option<u64>, now_us: u64) -> (Vec<u64>, Failure) {
        self.barred = Some((now_us + self.pause_us, failure));
        self.pause_us = (2 * self.pause_us).clamp(PAUSE_US.0, PAUSE_US.1);
        let open = self.open.take().unwrap_or_default();
        let sent = open.sent.into_iter().filter_map(|sent| match sent {
            Sent::Login { .. } => None,
            Sent::Call(call) => Some(call.batch.id),
        });
        let waiting = open.waiting.into_iter().map(|call| call.batch.id);
        (call.into_iter().chain(sent).chain(waiting).collect(), failure)
    }
}

/// Whether this Redis is none that takes writes, a replica or a primary that has lost its own: it refuses a command, or
/// one of the operations in it.
fn is_of_one_that_reads_only(reply: &Reply) -> bool {
    use RedisError::{MasterDown, NoReplicas, ReadOnly};
    let refuses = |failure: &Failure| matches!(failure, Failure::Redis(ReadOnly | MasterDown | NoReplicas));
    match reply {
        Reply::Answers(answers) => {
            answers.iter().any(|(_, answer)| matches!(answer, StoreReply::Failed(failure) if refuses(failure)))
        }
        Reply::Failed(failure) => refuses(failure),
    }
}

impl Open {
    fn write(&mut self, mut call: Call, prefix: &str, out: &mut Vec<u8>) {
        let before = out.len();
        resp::write(prefix, &call.batch, call.named, out);
        call.bytes = out.len() - before;
        self.bytes += call.bytes;
        self.sent.push_back(Sent::Call(call));
    }

    fn next(&mut self) -> Result<Option<Next>, resp::Broken> {
        let Open { reader, sent, bytes, .. } = self;
        reader.next(|value| match (sent.pop_front(), value) {
            (Some(Sent::Call(call)), value) => {
                *bytes -= call.bytes;
                Next::Answer(call, value.into_answer())
            }
            (Some(Sent::Login { .. }), Value::Status(b"OK")) => Next::LoggedIn,
            (Some(Sent::Login { .. }), Value::Error(error)) => Next::Refused(Failure::Redis(redis::refusal(error))),
            (Some(Sent::Login { .. }) | None, _) => Next::Unasked,
        })
    }
}

impl Sent {
    fn at_us(&self) -> u64 {
        match self {
            Sent::Login { at_us } => *at_us,
            Sent::Call(call) => call.at_us,
        }
    }
}

impl Call {
    /// Whether this is a reply to it: an error that carries no nonce is.
    fn is_answered_by(&self, reply: &Reply) -> bool {
        match reply {
            Reply::Answers(answers) => {
                let echoed = answers.iter().map(|(nonce, _)| nonce);
                echoed.eq(self.batch.tries.iter().map(|(nonce, _)| nonce))
            }
            Reply::Failed(_) => true,
        }
    }
}
