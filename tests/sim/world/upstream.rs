//! The upstream, with its ledger: what comes to it, and what it makes of that.
//!
//! Its one rule: what comes to it is in the ledger before it does anything.

use envoy_idempotency::event::Executed;
use envoy_idempotency::evidence::{self, Origin, VIA_UPSTREAM};
use envoy_idempotency::exchange::Exchange;
use envoy_idempotency::message::{HeaderMutation, Headers};
use envoy_idempotency::step::Outgoing;

use super::gateways::edited;
use super::{End, Forward, Happening, KNOCKS, Known, LARGE_BODY, Steering, TOO_LARGE_BODY, Treatment, World};
use crate::plan::{Fault, LARGE};

impl World {
    /// Whether the client's own request has gone upstream.
    pub(super) fn is_upstream(&self, request: usize) -> bool {
        self.requests[request].forward.is_some_and(|forward| !self.forwards[forward].is_shielded)
    }

    pub(super) fn forward(&mut self, request: usize, worker: usize, stream: u32) {
        let sent = &mut self.requests[request];
        let edits = std::mem::take(&mut sent.edits);
        let upstream = edited(&sent.head().headers, &edits);
        if sent.is_observed && !edits.is_empty() {
            self.broken_bounds.push("a request was changed though the policy is only tried".to_owned());
        }
        let is_numbered = edits.iter().any(|edit| matches!(edit, HeaderMutation::Set("idempotency-attempt", _)));
        let treatment = self.treatment();
        let is_told = self.awaits(worker, stream, Exchange::is_running);
        let forward = self.goes_up(request, worker, is_told, is_numbered.then_some(&upstream), treatment);
        let is_observed = self.requests[request].is_observed;
        self.is_not_forged(&upstream, forward, is_observed);
        self.say(|w| {
            let attempt = w.forwards[forward].attempt;
            let attempt = attempt.map_or("unprotected".to_owned(), |attempt| format!("attempt {attempt}"));
            let quoted = if w.forwards[forward].key.starts_with(b"\"") { ", its key in quotes" } else { "" };
            format!("{} → upstream  {attempt}{quoted}", w.requests[request].label)
        });
        self.after(2 + treatment.work_ms, Happening::Responds { worker, stream });
    }

    /// The gateway itself sends a request upstream, in the place of its client. Gives the token of the call.
    pub(super) fn execute(&mut self, worker: usize, stream: u32, outgoing: &Outgoing) -> Option<u32> {
        let request = self.workers[worker].requests[stream as usize - 1];
        let asked = &self.requests[request];
        if asked.is_given_up {
            self.broken_bounds.push("something was executed for a client that had gone before".to_owned());
        }
        let asked = &self.requests[request];
        if outgoing.body != self.body(asked.payload) || outgoing.headers.first("idempotency-key").is_none() {
            self.broken_bounds.push("the gateway sent another request than its client".to_owned());
        }
        let mut treatment = self.treatment();
        if self.strikes(Fault::ShieldedUnsent, 100) {
            treatment = Treatment::new(End::Unsent, 0);
        } else if treatment.end == End::DiesInBody || self.strikes(Fault::ShieldedLost, 150) {
            treatment.end = End::Lost;
        } else if treatment.work_ms > outgoing.timeout_ms {
            treatment = Treatment { end: End::Late, work_ms: outgoing.timeout_ms, ..treatment };
        }
        let forward = self.goes_up(request, worker, true, Some(&outgoing.headers), treatment);
        self.forwards[forward].is_shielded = true;
        self.forwards[forward].is_accounted = self.account_fields() == ACCOUNT.len();
        self.is_not_forged(&outgoing.headers, forward, false);
        self.say(|w| {
            let attempt = w.forwards[forward].attempt.unwrap_or(0);
            format!("  g{} → upstream  attempt {attempt} ({})", w.requests[request].node + 1, w.requests[request].label)
        });
        if treatment.end == End::Unsent {
            let entry = &mut self.forwards[forward];
            entry.heard = Some((self.now, entry.known()));
            self.say(|w| format!("         there is no way ({})", w.requests[request].label));
            return None;
        }
        self.workers[worker].next_token += 1;
        let token = self.workers[worker].next_token;
        self.after(2 + treatment.work_ms, Happening::Executed { worker, token, forward });
        if self.strikes(Fault::ClientHangsUp, 300) {
            let patience = self.fate.between(0, treatment.work_ms + 5);
            self.after(patience, Happening::HangsUp { request });
        }
        Some(token)
    }

    /// What came back from a request of the gateway's own, whether or not its client is still there.
    pub(super) fn executed(&mut self, worker: usize, token: u32, forward: usize) {
        let (mut headers, body, origin) = self.response(forward);
        let fields = self.account_fields();
        let entry = &mut self.forwards[forward];
        entry.heard = Some((self.now, entry.known()));
        if entry.end != End::Late {
            let (flags, sent): (&[u8], &[u8]) = if origin.flags == 0 { (b"-", b"99") } else { (b"UF", b"0") };
            let attempts = origin.attempts.unwrap_or(0).to_string();
            let account = ACCOUNT.into_iter().zip([origin.details, attempts.as_bytes(), flags, sent, b"-"]);
            account.take(fields).for_each(|(name, text)| headers.push(name.as_bytes(), text));
        }
        let status = entry.status;
        let answer = match entry.end {
            End::Lost => Executed::Lost,
            _ => {
                entry.whole_ms = (origin.details == VIA_UPSTREAM).then_some(self.now);
                Executed::Answered { status, headers: &headers, body: &body }
            }
        };
        self.say(|w| {
            let request = &w.requests[w.forwards[forward].request];
            let what = match answer {
                Executed::Answered { .. } => status.to_string(),
                Executed::Lost | Executed::Unsent => "nothing, its answer is lost".to_owned(),
            };
            format!("  g{} ← upstream  {what} ({})", request.node + 1, request.label)
        });
        let overloaded = self.forwards[forward].body.len() >= LARGE_BODY && self.strikes(Fault::WorkerCrowded, 300);
        self.forwards[forward].is_overloaded_out = overloaded;
        self.call_root(worker, |worker, envoy| {
            let exchange = worker.take_execution(token).expect("it was sent under this token");
            worker.set_overloaded_from(if overloaded { 0 } else { u64::MAX });
            worker.on_executed(envoy, exchange, answer);
        });
    }

    pub(super) fn body(&self, payload: u8) -> Vec<u8> {
        if self.is_bodiless && payload == 1 { Vec::new() } else { body(payload) }
    }

    pub(super) fn account_fields(&self) -> usize {
        self.plan.shields.map_or(0, |shielding| shielding.fields)
    }

    /// Lets a request go upstream; `numbered` are its fields where it goes under a claim.
    pub(super) fn goes_up(
        &mut self,
        request: usize,
        worker: usize,
        is_told: bool,
        numbered: Option<&Headers>,
        treatment: Treatment,
    ) -> usize {
        let number = |headers: &Headers| std::str::from_utf8(headers.first("idempotency-attempt")?).ok()?.parse().ok();
        let fence = |headers: &Headers| std::str::from_utf8(headers.first(FENCE)?).ok()?.parse().ok();
        let forward = self.forwards.len();
        // What was asked for a while ago may have been judged at any time since.
        let least_ttl_ms = self.plan.issued_s.map_or(0, |ttl_s| (1000 * ttl_s).saturating_sub(self.now));
        let sent = &mut self.requests[request];
        let status = match treatment.end {
            End::Answers(status) | End::Retried(status) => status,
            End::DiesInBody | End::Lost => 201,
            End::Late | End::TimesOut => 504,
            End::ResetsBefore | End::ResetsAfter | End::Unreached | End::Unsent => 503,
        };
        if sent.forward.is_some() {
            self.broken_bounds.push("I1: one request was let go twice".to_owned());
        }
        sent.forward = Some(forward);
        sent.excused_ms += treatment.work_ms + 10;
        self.forwards.push(Forward {
            request,
            who: (sent.tenant, sent.key),
            payload: sent.payload,
            attempt: numbered.and_then(number),
            fence: numbered.and_then(fence),
            resource: if sent.tenant == KNOCKS { 100 + sent.key } else { sent.key % 2 },
            key: numbered.and_then(|headers| headers.first("idempotency-key")).unwrap_or_default().to_vec(),
            asked_ms: sent.asked_ms.unwrap_or(sent.sent_ms),
            forwarded_ms: self.now,
            lease_ms: self.workers[worker].policy.lease_ms,
            ttl_ms: self.workers[worker].policy.ttl_ms.max(least_ttl_ms),
            least_ttl_ms,
            is_told: is_told && !sent.is_observed,
            executions: 0,
            status,
            body: format!("execution {} {}", forward + 1, "x".repeat((forward + 1) * 37 % 300 + treatment.size))
                .into_bytes(),
            is_shielded: false,
            is_accounted: true,
            is_overloaded_out: false,
            is_announced: treatment.is_announced,
            body_ms: treatment.body_ms,
            end: treatment.end,
            steering: treatment.steering,
            heard: None,
            crashed_ms: None,
            whole_ms: None,
            arrives_ms: self.now + 2,
        });
        self.coverage.forwards += 1;
        if !matches!(treatment.end, End::Unreached | End::Unsent) {
            self.at(self.forwards[forward].arrives_ms, Happening::AtUpstream { forward });
        }
        forward
    }

    /// Only the gateway says what only it may say.
    pub(super) fn is_not_forged(&mut self, upstream: &Headers, forward: usize, is_observed: bool) {
        let expected = usize::from(self.forwards[forward].attempt.is_some());
        for name in FORGED.iter().filter(|_| !is_observed) {
            let lines: Vec<_> = upstream.all(name).collect();
            if lines.len() != expected || lines.contains(&b"99".as_slice()) {
                self.broken_bounds.push(format!("the upstream was told a client's {name}"));
            }
        }
        let fences: Vec<_> = upstream.all(FENCE).collect();
        let has_turn = self.plan.serializes_ms.is_some() && !is_observed;
        if (fences.len() != usize::from(has_turn) || fences.contains(&b"99".as_slice())) && !is_observed {
            self.broken_bounds.push(format!("I10: the upstream was told the fences {fences:?}"));
        }
    }

    pub(super) fn treatment(&mut self) -> Treatment {
        if let Some(treatment) = self.treatments.pop_front() {
            return treatment;
        }
        if !self.is_wild {
            return Treatment::new(End::Answers(201), 5);
        }
        let lease = self.plan.leases_ms[0];
        let mut end = End::Answers(201);
        for (fault, ends) in [
            (Fault::UpstreamRefuses, End::Answers(404)),
            (Fault::UpstreamFails, End::Answers(503)),
            (Fault::UpstreamTimesOut, End::TimesOut),
            (Fault::UpstreamResets, End::ResetsAfter),
            (Fault::UpstreamDiesInBody, End::DiesInBody),
            (Fault::UpstreamUnreached, End::Unreached),
        ] {
            if self.strikes(fault, 150) {
                end = ends;
            }
        }
        if end == End::ResetsAfter && self.up.chance(500) {
            end = End::ResetsBefore;
        }
        if end == End::Answers(503) && self.up.chance(300) {
            end = End::Answers(502);
        }
        if let End::Answers(status) = end
            && self.strikes(Fault::RouterRetries, 100)
        {
            end = End::Retried(status);
        }
        let work_ms = if self.strikes(Fault::UpstreamSlow, 250) {
            self.up.between(lease / 2, 3 * lease)
        } else {
            self.up.between(0, 150)
        };
        let mut treatment = Treatment::new(end, work_ms);
        if self.strikes(Fault::UpstreamSteers, 250) {
            let fate = *self.up.pick(&[None, Some("store"), Some("release"), Some("retry"), Some("unknown")]);
            let ttl_s = self.up.chance(500).then(|| self.up.between(1, 30));
            treatment.steering = Steering { fate, ttl_s };
        }
        if self.strikes(Fault::UpstreamSaysMuch, 150) {
            treatment.size = *self.up.pick(&[LARGE_BODY, TOO_LARGE_BODY]);
            treatment.is_announced = self.up.chance(500);
        }
        treatment
    }

    pub(super) fn at_upstream(&mut self, forward: usize) {
        let number = forward + 1;
        let entry = &mut self.forwards[forward];
        entry.executions = match entry.end {
            End::ResetsBefore | End::Unreached | End::Unsent => 0,
            End::Retried(_) => 2,
            _ => 1,
        };
        self.coverage.executions += u64::from(entry.executions);
        if entry.executions > 0 {
            self.say(|w| {
                let entry = &w.forwards[forward];
                format!("        upstream executes k{} p{} as #{number}", entry.who.1, entry.payload)
            });
        }
    }

    /// What the upstream, or Envoy in its place, has to say, and Envoy's account of it.
    pub(super) fn response(&self, number: usize) -> (Headers, Vec<u8>, Origin<'static>) {
        let reset = "upstream_reset_before_response_started{connection_termination}";
        let entry = &self.forwards[number];
        let (details, attempts, flags) = match entry.end {
            End::Answers(_) | End::DiesInBody => ("via_upstream", 1, 0),
            End::Retried(_) => ("via_upstream", 2, 0),
            End::ResetsBefore | End::ResetsAfter => (reset, 1, 0),
            End::TimesOut => ("response_timeout", 1, 0),
            End::Unreached => {
                ("upstream_reset_before_response_started{remote_connection_failure}", 1, evidence::flags(b"UF"))
            }
            // Nobody is told.
            End::Late | End::Lost | End::Unsent => ("", 0, 0),
        };
        let origin = Origin { details: details.as_bytes(), attempts: Some(attempts), flags, ..Origin::default() };
        let mut fields = vec![(":status", entry.status.to_string())];
        if origin.details != VIA_UPSTREAM {
            return (fields.into_iter().collect(), b"upstream connect error".to_vec(), origin);
        }
        fields.push(("x-execution", (number + 1).to_string()));
        fields.extend(entry.is_announced.then(|| ("content-length", entry.body.len().to_string())));
        fields.extend(entry.steering.fate.map(|fate| ("idempotency-store", fate.to_owned())));
        fields.extend(entry.steering.ttl_s.map(|ttl_s| ("idempotency-ttl", ttl_s.to_string())));
        (fields.into_iter().collect(), entry.body.clone(), origin)
    }
}

/// What only the gateway may tell the upstream.
pub(super) const FENCE: &str = "idempotency-fence";
pub(super) const FORGED: [&str; 2] = ["idempotency-attempt", "idempotency-operation"];

/// What only the internal listener may tell the gateway.
pub(super) const ACCOUNT: [&str; 5] = [
    "x-idempotency-details",
    "x-idempotency-attempts",
    "x-idempotency-flags",
    "x-idempotency-sent",
    "x-idempotency-owner",
];

/// What only the upstream may tell the gateway.
pub(super) const STEERING: [&str; 2] = ["idempotency-store", "idempotency-ttl"];

impl Forward {
    /// What a gateway that hears how it ended can know.
    pub(super) fn known(&self) -> Known {
        let is_retried = matches!(self.end, End::Retried(_));
        match (self.end, self.steering.fate, self.status) {
            (End::Unsent, ..) => Known::Release,
            (End::Late | End::Lost, ..) => Known::Doubt,
            // Nobody knows who has failed, nor how often it was tried.
            (_, fate, status) if !self.is_accounted && (status >= 400 || !matches!(fate, None | Some("store"))) => {
                Known::Doubt
            }
            (End::Unreached, ..) => Known::Release,
            (End::ResetsAfter | End::ResetsBefore | End::TimesOut, ..) => Known::Doubt,
            (_, Some("store"), _) | (_, None, 200..400) => Known::Success,
            (_, Some("release"), _) | (_, None, 400..500) if !is_retried => Known::Release,
            (_, Some("retry"), _) | (_, None, 500 | 501 | 503 | 505..) if !is_retried => Known::Retry,
            _ => Known::Doubt,
        }
    }

    /// How long its record lives at least from when it was asked for, and from its completion.
    pub fn lives_ms(&self) -> (u64, u64) {
        let completed = self.steering.ttl_s.map_or(self.ttl_ms, |ttl_s| (1000 * ttl_s).max(self.least_ttl_ms));
        (self.ttl_ms.min(completed), completed)
    }
}

pub(super) fn body(payload: u8) -> Vec<u8> {
    match payload {
        ..LARGE => vec![b'p', b'0' + payload],
        LARGE => vec![b'0' + payload; LARGE_BODY],
        _ => vec![b'0' + payload; TOO_LARGE_BODY],
    }
}
