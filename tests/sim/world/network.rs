//! The network between the gateways and the store: what it loses, delays, doubles and mixes up.
//!
//! Its one rule: it decides before a call leaves what becomes of it, so that the store's answers follow from the plan alone.

use std::rc::Rc;

use envoy_idempotency::command::{Command, CommandKind, Failure, ReplyKind, Resolution, StoreReply};
use envoy_idempotency::lock::LockCommand;
use envoy_idempotency::record::RELEASED_KEPT;
use envoy_idempotency::store::client::{Batch, Heard, Nonce, Reply};

use super::{Carriage, Cut, Flight, Handling, Happening, World};
use crate::plan::{Fault, TOO_LARGE};

impl World {
    pub(super) fn departs(&mut self, worker: usize, batch: Batch) {
        let carriage = self.carriage();
        self.notes(worker, &batch);
        let is_doubled = carriage.again_after_ms;
        let epoch = self.store.epoch;
        let flight = Rc::new(Flight { worker, batch, carriage, epoch });
        if let Some(later) = is_doubled {
            self.after(later, Happening::AtStore { flight: Rc::clone(&flight), again: true });
        }
        if carriage.is_lost {
            return self.say(|_| "       the call is lost".to_owned());
        }
        if carriage.is_refused {
            let reply = Reply::Failed(Failure::Transport);
            return self.after(1, Happening::Replied { worker, batch: flight.batch.id, reply, epoch });
        }
        self.after(carriage.there_ms, Happening::AtStore { flight, again: false });
    }

    /// Notes what a call asks that a gateway makes.
    pub(super) fn notes(&mut self, worker: usize, batch: &Batch) {
        self.coverage.calls += 1;
        for (_, call) in &batch.tries {
            // Who waits asks under owners of its own, but not first.
            let Some(request) = self.by_owner.get(&call.owner).map(|request| &self.requests[*request]) else {
                continue;
            };
            self.by_name.entry(call.name).or_insert((request.tenant, request.key));
            if request.payload == TOO_LARGE && !request.looks {
                self.broken_bounds.push("a request that is too large asked something of the store".to_owned());
            }
        }
        if self.transcript.is_some() {
            for (_, call) in &batch.tries {
                let line = self.operation(worker, call);
                self.say(|_| line);
            }
        }
    }

    pub(super) fn carriage(&mut self) -> Carriage {
        if let Some(carriage) = self.carriages.pop_front() {
            return carriage;
        }
        if !self.is_wild {
            return Carriage { there_ms: 1, back_ms: 1, ..Carriage::default() };
        }
        let permille = self.plan.strikes;
        let mut carriage =
            Carriage { there_ms: self.net.between(0, 4), back_ms: self.net.between(0, 4), ..Carriage::default() };
        if self.strikes(Fault::CallDelayed, permille) {
            carriage.there_ms = self.net.between(1, 5000);
        }
        if self.strikes(Fault::ReplyDelayed, permille) {
            carriage.back_ms = self.net.between(1, 3000);
        }
        if self.strikes(Fault::CallDuplicated, permille) {
            carriage.again_after_ms = Some(self.net.between(0, 5000));
        }
        carriage.is_lost = self.strikes(Fault::CallLost, permille);
        carriage.fails = self.strikes(Fault::OperationFails, permille);
        let handlings = [
            (Fault::ReplyLost, Handling::Lost),
            (Fault::ReplyDuplicated, Handling::Doubled),
            (Fault::ReplyGarbage, Handling::Garbage),
            (Fault::ReplyTruncated, Handling::Truncated),
            (Fault::ReplyCrossed, Handling::Crossed),
            (Fault::AnswersAnother, Handling::Another),
        ];
        for (fault, handling) in handlings {
            if self.strikes(fault, permille) {
                carriage.reply = handling;
            }
        }
        let cuts = [
            (Fault::StreamCutBefore, Cut::Before),
            (Fault::StreamCutInside, Cut::Inside),
            (Fault::StreamCutAfter, Cut::After),
        ];
        for (fault, cut) in cuts {
            if self.plan.has_streams() && self.strikes(fault, permille / 2) {
                carriage.cut = cut;
            }
        }
        if self.plan.has_streams() && self.strikes(Fault::CommandRefused, permille) {
            carriage.refusal = Some(self.net.between(0, 3) as usize);
        }
        carriage
    }

    pub(super) fn at_store(&mut self, flight: &Rc<Flight>, again: bool) {
        if self.now < self.store.stopped_until {
            return self.at(self.store.stopped_until, Happening::AtStore { flight: Rc::clone(flight), again });
        }
        let (worker, batch, epoch) = (flight.worker, flight.batch.id, self.store.epoch);
        if self.now < self.store.down_until || flight.epoch != epoch {
            let reply = Reply::Failed(Failure::Transport);
            return self.after(1, Happening::Replied { worker, batch, reply, epoch });
        }
        let answers = self.runs(worker, &flight.batch, flight.carriage, again);
        if again {
            return;
        }
        let back = flight.carriage.back_ms;
        let mut reply = Reply::Answers(answers);
        match flight.carriage.reply {
            Handling::Kept => {}
            Handling::Lost => return self.say(|_| "       the reply is lost".to_owned()),
            Handling::Doubled => {
                self.after(back + 50, Happening::Replied { worker, batch, reply: reply.clone(), epoch });
            }
            Handling::Garbage => reply = Reply::Failed(Failure::Nonce),
            Handling::Truncated => {
                if let Reply::Answers(answers) = &mut reply {
                    answers.truncate(answers.len() / 2);
                }
            }
            // An answer to an earlier try of somebody, kept by whoever stands between.
            Handling::Another => {
                if let Reply::Answers(answers) = &mut reply {
                    answers.iter_mut().for_each(|(nonce, _)| nonce.0[0] ^= 1);
                }
            }
            Handling::Crossed => match self.crossed.take() {
                Some((other_worker, other_batch, other)) => {
                    self.say(|_| "       the reply goes to another caller".to_owned());
                    self.after(back, Happening::Replied { worker: other_worker, batch: other_batch, reply, epoch });
                    reply = other;
                }
                None => {
                    self.crossed = Some((worker, batch, reply));
                    return;
                }
            },
        }
        self.after(back, Happening::Replied { worker, batch, reply, epoch });
    }

    /// The store carries a call out.
    pub(super) fn runs(
        &mut self,
        worker: usize,
        batch: &Batch,
        carriage: Carriage,
        again: bool,
    ) -> Vec<(Nonce, StoreReply)> {
        let asker_ms = self.clock(worker);
        let mut answers = Vec::new();
        let claims = batch.tries.iter().any(|(_, call)| matches!(call.kind, CommandKind::Claim { .. }));
        if claims && self.strikes(Fault::GatewayPauses, self.plan.strikes) {
            let (node, lease) = (self.workers[worker].node, self.plan.leases_ms[1]);
            let pause = self.fate.between(lease / 2, 3 * lease);
            self.pause(node, pause);
        }
        for (place, (nonce, call)) in batch.tries.iter().enumerate() {
            let fails = carriage.fails && !again && place == 0;
            let reply = match fails {
                // Some failures say that something is stored.
                true if nonce.0[0] % 2 == 1 || carriage.is_unreadable => StoreReply::Failed(Failure::Corrupt),
                true => StoreReply::Failed(Failure::Full),
                false => self.store.apply(call, self.now, asker_ms),
            };
            self.coverage.reply(&call.kind, &reply);
            if matches!(reply, StoreReply::Granted { .. }) && self.may_be_orphaned(call, again) {
                self.orphans.extend(self.by_name.get(&call.name));
            }
            let is_settled = matches!(reply, StoreReply::Granted { .. }) && self.store.settled.contains(&call.owner);
            if is_settled && !self.may_be_orphaned(call, again) {
                self.broken_bounds
                    .push("I1: a late try of a claim that an operator had settled was granted".to_owned());
            }
            self.may_come_late(call, &reply);
            if self.transcript.is_some() {
                let label = self.whose(call);
                let again = if again { " (a duplicate)" } else { "" };
                let line = format!("  store  {} ({label}){again}", told(&reply));
                self.say(|_| line);
            }
            if reply == StoreReply::Failed(Failure::Corrupt) && call.kind.reply_kind() == ReplyKind::Claim {
                self.unreadable.extend(self.by_owner.get(&call.owner).map(|request| (*nonce, (batch.id, *request))));
            }
            answers.push((*nonce, reply));
        }
        answers
    }

    /// Notes a withdrawal that comes after another claim has taken over: what the withdrawn claim left stays.
    pub(super) fn may_come_late(&mut self, call: &Command, reply: &StoreReply) {
        match (&call.kind, reply) {
            (_, StoreReply::Granted { .. }) => drop(self.granted.insert(call.owner)),
            (CommandKind::Withdraw, StoreReply::Settled) => drop(self.granted.remove(&call.owner)),
            (CommandKind::Withdraw, StoreReply::Lost) if self.granted.contains(&call.owner) => {
                self.orphans.extend(self.by_name.get(&call.name));
            }
            _ => {}
        }
    }

    /// Whether the network alone is to blame for a grant that nobody waits for: by a copy of the claim, or so late that
    /// the record cannot know any more whose claims were released.
    pub(super) fn may_be_orphaned(&self, call: &Command, again: bool) -> bool {
        let released = self.store.released.get(&call.name);
        let is_released = released.is_some_and(|owners| owners.contains(&call.owner));
        let is_overloaded_out = released.is_some_and(|owners| owners.len() > RELEASED_KEPT);
        let life_ms = self.forwards.iter().map(|forward| forward.lives_ms().0).min().unwrap_or(call.ttl_ms);
        let is_whole = self.store.peak(0, self.now) < self.store.trough(0, self.now) + life_ms
            && !self.store.lost_between(0, self.now);
        if is_released { is_overloaded_out || !is_whole } else { again || is_overloaded_out }
    }

    pub(super) fn replied(&mut self, worker: usize, batch: u64, reply: Reply) {
        self.heard(worker, Heard { replies: vec![(batch, reply)], lost: None });
    }

    /// A worker hears what became of calls.
    pub(super) fn heard(&mut self, worker: usize, heard: Heard) {
        for (_, reply) in &heard.replies {
            if let Reply::Failed(failure) = reply {
                let line = format!("       the call fails: {}", failure.as_str());
                self.say(|_| line);
            }
        }
        let mut unreadable: Vec<usize> = Vec::new();
        for (batch, reply) in &heard.replies {
            if let Reply::Answers(answers) = reply {
                let told = answers.iter().filter_map(|(nonce, _)| self.unreadable.get(nonce));
                // An answer to another call counts for nothing.
                unreadable.extend(told.filter(|(asked, _)| asked == batch).map(|(_, request)| *request));
            }
        }
        let awaiting =
            |world: &World| unreadable.iter().filter(|request| world.requests[**request].forward.is_none()).count();
        let before = awaiting(self);
        self.call_root(worker, |worker, envoy| worker.on_store_heard(envoy, heard));
        if awaiting(self) != before {
            self.broken_bounds.push("I5: a request ran although something that cannot be read is stored".to_owned());
        }
    }

    /// Of whose request an operation is, and about which key.
    pub(super) fn whose(&self, call: &Command) -> String {
        // Who has waited asks under owners of its own.
        let asked = self.by_owner.get(&call.owner).map(|request| &self.requests[*request]);
        let label = asked.map_or("one who waits", |request| &request.label);
        let own = asked.map(|request| (request.tenant, request.key));
        let (tenant, key) = self.by_name.get(&call.name).copied().or(own).unwrap_or_default();
        if tenant == 1 { format!("{label} k{key}") } else { format!("{label} k{key} t{tenant}") }
    }

    pub(super) fn operation(&self, worker: usize, call: &Command) -> String {
        let what = match &call.kind {
            CommandKind::Claim { may_retry: true } => "claim".to_owned(),
            CommandKind::Claim { may_retry: false } => "claim, no retry".to_owned(),
            CommandKind::Complete { status, response: Some(_) } => format!("complete {status}"),
            CommandKind::Complete { status, response: None } => format!("complete {status} without its response"),
            CommandKind::Inspect => "look".to_owned(),
            CommandKind::Lock(LockCommand::Lock) => "lock".to_owned(),
            CommandKind::Lock(LockCommand::Renew { fence }) => format!("renew lock under {fence}"),
            CommandKind::Lock(LockCommand::Unlock { fence: Some(fence) }) => format!("unlock under {fence}"),
            CommandKind::Lock(LockCommand::Unlock { fence: None }) => "take the lock back".to_owned(),
            CommandKind::MarkUnknown => "mark unknown".to_owned(),
            CommandKind::Poll { max_attempt } => format!("poll up to attempt {max_attempt}"),
            CommandKind::Release { keep_fingerprint: true } => "release for the same payload".to_owned(),
            CommandKind::Release { keep_fingerprint: false } => "release".to_owned(),
            CommandKind::Renew => "renew".to_owned(),
            CommandKind::Resolve(Resolution::Forget) => "forget".to_owned(),
            CommandKind::Resolve(Resolution::NotRun { .. }) => "resolve as not run".to_owned(),
            CommandKind::Resolve(Resolution::Ran { .. }) => "resolve as run".to_owned(),
            CommandKind::Similar(_) => "similar".to_owned(),
            CommandKind::Withdraw => "withdraw".to_owned(),
        };
        let whose = self.whose(call);
        format!("  g{} → store  {what} ({whose})", self.workers[worker].node + 1)
    }
}

pub(super) fn told(reply: &StoreReply) -> String {
    match reply {
        StoreReply::Busy { wait_ms } => format!("busy, {wait_ms} ms left"),
        StoreReply::Completed { attempt, status, response, .. } => {
            let kept = if response.is_some() { "" } else { ", not replayable" };
            let status = status.map_or("status unknown".to_owned(), |status| status.to_string());
            format!("completed {status} by attempt {attempt}{kept}")
        }
        StoreReply::Deferred => "deferred".to_owned(),
        StoreReply::Dropped => "dropped".to_owned(),
        StoreReply::Exhausted { attempt } => format!("exhausted by attempt {attempt}"),
        StoreReply::Failed(failure) => format!("failed: {}", failure.as_str()),
        StoreReply::Granted { attempt, doubt, .. } => {
            format!("granted attempt {attempt}{}", if *doubt { ", in doubt" } else { "" })
        }
        StoreReply::InFlight { attempt } => format!("in flight, attempt {attempt}"),
        StoreReply::Locked { fence } => format!("locked under {fence}"),
        StoreReply::Lost => "lost".to_owned(),
        StoreReply::Mismatch => "mismatch".to_owned(),
        StoreReply::Renewed { .. } => "renewed".to_owned(),
        StoreReply::Seen(_) => "seen".to_owned(),
        StoreReply::Settled => "settled".to_owned(),
        StoreReply::Similar { age_ms, .. } => format!("similar, {age_ms} ms ago"),
        StoreReply::Stale => "stale".to_owned(),
        StoreReply::Unknown { attempt, wait_ms } => format!("unknown, attempt {attempt}, wait {wait_ms} ms"),
    }
}
