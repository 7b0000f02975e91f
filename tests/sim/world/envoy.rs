//! Envoy, as one callback of a worker has it.
//!
//! Its one rule: as in Envoy, a message goes on or is answered only once the callback is over, and whatever follows from
//! that comes to a worker at rest.

use std::rc::Rc;

use envoy_idempotency::command::Failure;
use envoy_idempotency::config::Mode;
use envoy_idempotency::count::Count;
use envoy_idempotency::step::{Flow, LogEvent, Outgoing};
use envoy_idempotency::store::client::{Batch, Lane};
use envoy_idempotency::worker::{Action, Gauge, Host, Side, Stream, Turn, Worker};
use host_model::SharedData;

use super::gateways::edited;
use super::{Happening, Passing, World};

/// What Envoy does once a callback is over.
pub enum Afterwards {
    Answers { stream: u32, reply: Rc<envoy_idempotency::reply::Reply> },
    Continues { stream: u32, side: Side },
}

/// The world, during a callback of this worker.
pub struct Envoy<'a> {
    world: &'a mut World,
    worker: usize,
    /// The stream that acts are about; none in the root's turn until it has entered one.
    entered: Option<u32>,
}

impl World {
    /// A callback of the root.
    pub(super) fn call_root<R>(
        &mut self,
        worker: usize,
        call: impl FnOnce(&mut Worker<SharedData>, &mut Envoy<'_>) -> R,
    ) -> R {
        let result = self.call(worker, None, call);
        self.finish_call(worker);
        result
    }

    /// A callback of a stream; without one where the stream needs none any more.
    pub(super) fn call_stream(
        &mut self,
        worker: usize,
        stream: u32,
        call: impl FnOnce(&mut Worker<SharedData>, &mut Envoy<'_>, &mut Stream) -> Action,
    ) -> Action {
        let Some(open) = self.workers[worker].streams.get_mut(&stream) else { return Action::Continue };
        let mut callbacks = std::mem::replace(&mut open.callbacks, Stream::new(stream));
        let action = match callbacks.is_over() {
            true => Action::Continue,
            false => self.call(worker, Some(stream), |worker, envoy| call(worker, envoy, &mut callbacks)),
        };
        if let Some(open) = self.workers[worker].streams.get_mut(&stream) {
            open.callbacks = callbacks;
        }
        self.finish_call(worker);
        action
    }

    fn call<R>(
        &mut self,
        number: usize,
        entered: Option<u32>,
        call: impl FnOnce(&mut Worker<SharedData>, &mut Envoy<'_>) -> R,
    ) -> R {
        let mut worker = self.workers[number].worker.take().expect("no callback comes from within another");
        let result = call(&mut worker, &mut Envoy { world: self, worker: number, entered });
        self.workers[number].worker = Some(worker);
        result
    }

    /// Does what the callback has left to Envoy, and sees to it that the worker's time comes.
    fn finish_call(&mut self, worker: usize) {
        while let Some((worker, afterwards)) = self.afterwards.pop_front() {
            match afterwards {
                Afterwards::Answers { stream, reply } => self.own_answer(worker, stream, &reply),
                Afterwards::Continues { stream, side } => self.continues(worker, stream, side),
            }
        }
        self.keeps_ticking(worker);
    }
}

impl Envoy<'_> {
    /// The request of the stream that acts are about, which must not have ended.
    fn request(&mut self) -> Option<usize> {
        let open = self.entered.and_then(|stream| self.world.workers[self.worker].streams.get(&stream));
        let request = open.map(|open| open.request);
        if request.is_none() {
            self.world.broken_bounds.push("a stream that has ended was touched".to_owned());
        }
        request
    }

    /// The answer of the gateway's own that goes out on this stream.
    fn passing(&mut self, stream: u32) -> &mut Passing {
        self.world.passing.entry((self.worker, stream)).or_default()
    }
}

impl Host for Envoy<'_> {
    fn now_ms(&self) -> u64 {
        self.world.clock(self.worker)
    }

    fn draw(&mut self) -> [u8; 16] {
        self.world.tokens.bytes()
    }

    /// The context of a stream that has ended stays until the end of the turn.
    fn enter(&mut self, stream: u32) -> bool {
        self.entered = Some(stream);
        let worker = &self.world.workers[self.worker];
        worker.streams.contains_key(&stream) || worker.ended_ms.get(&stream) == Some(&self.world.now)
    }

    fn apply_flow(&mut self, side: Side, flow: Flow) {
        let Some(request) = self.request() else { return };
        let stream = self.entered.unwrap_or_default();
        match (side, flow) {
            (_, Flow::Pass | Flow::Hold) => {}
            (_, Flow::Restore(headers)) => self.passing(stream).headers = headers,
            (_, Flow::Replace(body)) => self.passing(stream).body = body,
            (Side::Request, Flow::Resume(edits)) => self.world.requests[request].edits.extend(edits),
            (Side::Response, Flow::Resume(edits)) => {
                let Some(incoming) = &mut self.world.requests[request].incoming else { return };
                incoming.headers = edited(&incoming.headers, &edits);
                if incoming.has_begun && !edits.is_empty() {
                    self.world.broken_bounds.push("a response was changed that had begun".to_owned());
                }
            }
            (_, Flow::LocalReply(reply)) => {
                if self.world.requests[request].incoming.as_ref().is_some_and(|incoming| incoming.has_begun) {
                    self.world.broken_bounds.push("a client was answered twice".to_owned());
                }
                self.world.afterwards.push_back((self.worker, Afterwards::Answers { stream, reply }));
            }
        }
    }

    fn resume(&mut self, side: Side) {
        if self.request().is_some() {
            let stream = self.entered.unwrap_or_default();
            self.world.afterwards.push_back((self.worker, Afterwards::Continues { stream, side }));
        }
    }

    fn set_status(&mut self, _text: &str) {
        self.request();
    }

    fn request_size(&mut self) -> u64 {
        self.request().map_or(0, |request| self.world.requests[request].received)
    }

    fn execute(&mut self, exchange: u32, outgoing: Outgoing) -> Option<u32> {
        self.world.execute(self.worker, exchange, &outgoing)
    }

    fn room(&self, lane: Lane, turn: Turn) -> usize {
        match turn {
            _ if self.world.plan.has_streams() => self.world.room(self.worker, lane, turn),
            Turn::Root => usize::MAX,
            Turn::Stream => 0,
        }
    }

    fn send(&mut self, batches: Vec<Batch>) -> Vec<(u64, Failure)> {
        if self.world.plan.has_streams() {
            return self.world.writes(self.worker, batches);
        }
        batches.into_iter().for_each(|batch| self.world.departs(self.worker, batch));
        Vec::new()
    }

    fn wake(&mut self) {
        let worker = self.worker;
        let later = if self.world.is_wild { self.world.turns.between(0, 1) } else { 0 };
        self.world.after(later, Happening::Wakes { worker });
    }

    fn clear(&mut self) {}

    fn count(&mut self, count: Count, _rule: usize, observed: bool) {
        let is_observed = self.world.workers[self.worker].policy.mode == Mode::Observe;
        // A call may carry operations of both.
        if observed != is_observed && count != Count::StoreCall {
            self.world.broken_bounds.push(format!("{count:?} was counted under another mode's name"));
        }
        self.world.coverage.counted(count);
    }

    fn change_gauge(&mut self, gauge: Gauge, by: i64) {
        *self.world.workers[self.worker].gauges.entry(gauge).or_default() += by;
    }

    fn note_wait(&mut self, _waited_ms: u64) {}

    fn set_store_size(&mut self, _bytes: u64, _records: u64) {}

    fn note_owed_since(&mut self, _since_ms: Option<u64>, _now_ms: u64) {}

    fn log(&mut self, log_event: &LogEvent) {
        if let LogEvent::GaveUp(given_up) = log_event {
            self.world.gives_up(self.worker, given_up);
        }
    }

    fn note_store_failed(&mut self, _now_ms: u64) -> bool {
        true
    }

    fn note_store_answers(&mut self, _now_ms: u64) -> Option<u64> {
        None
    }

    fn note_caller(&mut self, _rule: &str) {}

    fn note_no_caller(&mut self, _rule: &str, _now_ms: u64) -> bool {
        true
    }
}
