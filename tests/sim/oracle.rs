//! The judge: what is promised (I1 to I12), held against the ledger and what clients were told.
//!
//! Its one rule: it looks neither into a gateway nor into the store. Of the store it knows the clock, and when it lost
//! what it had acknowledged: where that came between two events, the promises about them do not hold, and none is judged.
//! Of the network it knows which claims it delivered so late, or twice, that nobody waited for them any more.

use std::collections::BTreeMap;

use crate::coverage;
use crate::plan::{Client, Fault, Faults, Plan, TOO_LARGE};
use crate::world::{Answer, ByOperation, Forward, Known, MAX_BODY, Request, Word, World};

/// A whole run: adversity, calm, one probe of every operation, judgement.
pub fn judge(plan: &Plan, transcribe: bool) -> (World, Vec<String>) {
    coverage::watch();
    let mut world = World::new(plan.clone(), true);
    world.transcript = transcribe.then(Vec::new);
    world.run();
    let mut wrong = Vec::new();
    if plan.embedded.is_none() {
        world.run_until(world.calm_from + world.heals_ms());
        world.knock();
        world.run_until(world.now + 2_000);
        if world.owed_by_serving() > 0 {
            wrong.push(format!("I9: {} are owed two seconds after the store has answered", world.owed_by_serving()));
        }
    }
    let calm_for = world.settling_ms() + world.store.set_back_ms();
    world.run_until(world.calm_from + calm_for);
    let mut payloads: BTreeMap<(u8, u8), u8> = BTreeMap::new();
    for request in world.requests.iter().filter(|request| !request.looks) {
        let payload = if request.payload == TOO_LARGE { 1 } else { request.payload };
        payloads.entry((request.tenant, request.key)).or_insert(payload);
    }
    for forward in world.forwards.iter().filter(|forward| forward.attempt.is_some()) {
        payloads.insert(forward.who, forward.payload);
    }
    world.note("calm; every operation is asked for once more".to_owned());
    let first_probe = world.requests.len();
    for ((tenant, key), payload) in payloads {
        let who = Client { tenant, key, payload, start_ms: 0, tries: 1, insists: false };
        let node = usize::from(key) % plan.gateways;
        world.send(&format!("probe k{key}"), usize::MAX, who, node);
        world.run_until(world.now + 30);
    }
    // A completion that another's claim stood in the way of is offered for a lease and a third more.
    world.run_until(world.now + 2_000 + 2 * plan.leases_ms[1]);
    if !world.is_idle() {
        let calm_for = world.now - world.calm_from;
        wrong.push(format!("I9: a gateway is not idle {calm_for} ms after the last fault; owed: {}", world.owed()));
    }
    wrong.extend(world.stale_gauges().into_iter().map(|gauge| format!("gauges: {gauge}")));
    wrong.append(&mut world.broken_bounds.clone());
    answers(&world, &mut wrong);
    let weaker = executions(&world, &mut wrong);
    world.coverage.weaker = weaker;
    turns(&world, plan.faults, &mut wrong);
    sightings(&world, &mut wrong);
    repeats(&world, &mut wrong);
    words(&world, &mut wrong);
    issued(&world, &mut wrong);
    similar(&world, &mut wrong);
    probes(&world, first_probe, &mut wrong);
    world.coverage.witnessed();
    (world, wrong)
}

/// I2, I3, I5 and I6: what each client was told.
fn answers(world: &World, wrong: &mut Vec<String>) {
    let limits = world.plan.limits;
    let timeout = limits.timeout_ms;
    let operation_ms = 2 * u64::from(limits.attempts) * timeout + timeout + 300;
    for request in &world.requests {
        let name = shown(request);
        if request.looks {
            looked(world, request, operation_ms, wrong);
            continue;
        }
        let Some(answer) = &request.answer else {
            if !request.is_broken {
                wrong.push(format!("I6: {name} was never answered"));
            }
            continue;
        };
        // A claim, up to three renewals of it, and a settlement.
        let waits_ms = world.plan.waits_ms.map_or(0, |max_wait_ms| max_wait_ms + 2 * operation_ms);
        let turns_ms = world.plan.serializes_ms.map_or(0, |max_wait_ms| max_wait_ms + 4 * operation_ms);
        let similar_ms = world.plan.similar.map_or(0, |_| 8 * operation_ms);
        let bound = 5 * operation_ms + similar_ms + turns_ms + waits_ms + request.excused_ms;
        let took = request.answered_ms.unwrap_or(0) - request.sent_ms;
        if took > bound {
            wrong.push(format!("I6: {name} was answered after {took} ms; {bound} ms are the bound"));
        }
        let forward = request.forward.map(|forward| &world.forwards[forward]);
        if request.is_observed {
            let is_trial = answer.is("bypassed") && answer.parameter("reason") == Some("observe");
            if !is_trial || forward.is_none() {
                wrong.push(format!("observe: {name} was told {:?}", answer.line()));
            }
            if took > request.excused_ms + 100 {
                wrong.push(format!("observe: {name} was answered after {took} ms"));
            }
        }
        if request.payload == TOO_LARGE && (answer.is("executed") || answer.is("replayed")) {
            wrong.push(format!("{name} is too large and was told {:?}", answer.line()));
        }
        let reasons: &[&str] = match answer.is("bypassed") {
            true if request.is_observed => &["observe"],
            true if request.payload == TOO_LARGE => &["store-failure", "too-large"],
            true => &["store-failure"],
            false => &[],
        };
        if answer.is("bypassed") && !answer.parameter("reason").is_some_and(|reason| reasons.contains(&reason)) {
            wrong.push(format!("{name} was let through unprotected and told {:?}", answer.line()));
        }
        let passes = world.plan.serializes_ms.is_none();
        let may_bypass = request.is_observed
            || passes && (world.plan.forwards || world.plan.bypasses && request.payload == TOO_LARGE);
        let is_executed = answer.is("executed") || (answer.is("bypassed") && may_bypass);
        if forward.is_some() != is_executed {
            let upstream = if forward.is_some() { "reached" } else { "never reached" };
            wrong.push(format!("I3: {name} was told {:?} and {upstream} the upstream", answer.line()));
        }
        if let Some(forward) = forward.filter(|_| answer.is("executed")) {
            let heard = forward.heard.filter(|(at, _)| Some(*at) <= request.answered_ms);
            let known = heard.map_or(Known::Doubt, |(_, known)| known);
            let is_true = match answer.parameter("outcome") {
                Some("released") => known == Known::Release,
                Some("retry") => known == Known::Retry,
                Some("completed") => known == Known::Success,
                // Envoy may answer while what the gateway itself has sent goes on.
                Some("unknown") => known != Known::Success || forward.is_shielded,
                _ => known == Known::Success,
            };
            if !is_true {
                wrong.push(format!("outcome: {name} was told {:?}, and {known:?} is what is known", answer.line()));
            }
        }
        match forward {
            Some(forward) if forward.attempt.is_none() && !may_bypass => {
                wrong.push(format!("I5: {name} ran without a claim"));
            }
            Some(forward)
                if forward.whole_ms.is_some()
                    && (answer.status, &answer.body) != (forward.status, &forward.body)
                    && answer.headers.has("x-execution") =>
            {
                wrong.push(format!("I2: {name} got another answer than its own execution's"));
            }
            _ => {}
        }
        if answer.is("replayed") {
            match replayed(world, answer) {
                None => wrong.push(format!("I2: {name} got a replay of nothing that was executed")),
                Some(source) => {
                    let is_same = source.who == (request.tenant, request.key)
                        && source.payload == request.payload
                        && source.status == answer.status
                        && source.body == answer.body
                        && source.whole_ms.is_some()
                        && source.heard.is_some_and(|(_, known)| known == Known::Success);
                    if !is_same || world.plan.conflicts {
                        wrong.push(format!("I2: {name} got a replay of something else"));
                    }
                }
            }
        }
        let stands_in_the_way = matches!(answer.parameter("reason"), Some("in-flight" | "outcome-unknown"));
        let is_alone = || {
            !world.requests.iter().any(|other| {
                !std::ptr::eq(other, request)
                    && !other.looks
                    && (other.tenant, other.key, other.payload) == (request.tenant, request.key, request.payload)
                    && other.sent_ms <= request.answered_ms.unwrap_or(0)
            })
        };
        // Withdrawals and releases that a gateway owes say in-flight to every payload.
        let is_owed = || {
            world.requests.iter().any(|other| {
                let forward = other.forward.and_then(|forward| world.forwards[forward].heard);
                (other.tenant, other.key, other.node) == (request.tenant, request.key, request.node)
                    && other.payload != request.payload
                    && !other.looks
                    && other.sent_ms <= request.answered_ms.unwrap_or(0)
                    && (other.forward.is_none() || forward.is_some_and(|(_, known)| known == Known::Release))
            })
        };
        // Whose claim is gone when it wakes up cannot tell another's claim from expiry, from a loss, or from a success of
        // whoever runs unprotected, or ran under a claim that the store had lost.
        let until = request.answered_ms.unwrap_or(0);
        let has_slept = || {
            world.store.peak(request.sent_ms, until)
                >= world.store.trough(request.sent_ms, until) + 1000 * world.plan.ttl_s
                || world.store.lost_between(request.sent_ms, until)
                || world.words_between((request.tenant, request.key), request.sent_ms, until).next().is_some()
                || world.forwards.iter().any(|forward| {
                    (forward.attempt.is_none() || world.store.lost_between(forward.asked_ms, until))
                        && forward.is_told
                        && forward.who == (request.tenant, request.key)
                        && forward.payload != request.payload
                        && forward.forwarded_ms <= until
                })
        };
        if stands_in_the_way && is_alone() && !is_owed() && !has_slept() {
            wrong.push(format!("I3: {name} was told {:?}, and it is the only one of its payload", answer.line()));
        }
    }
}

/// What a look-up was told is true, and nothing was executed for it.
fn looked(world: &World, look: &Request, operation_ms: u64, wrong: &mut Vec<String>) {
    let name = format!("a look-up instead of {}", shown(look));
    if look.forward.is_some() {
        wrong.push(format!("I3: {name} reached the upstream"));
    }
    let (Some(answer), Some(seen_ms)) = (&look.answer, look.answered_ms) else {
        if !look.is_broken {
            wrong.push(format!("I6: {name} was never answered"));
        }
        return;
    };
    if seen_ms - look.sent_ms > 2 * operation_ms + look.excused_ms {
        wrong.push(format!("I6: {name} was answered after {} ms", seen_ms - look.sent_ms));
    }
    let state =
        serde_json::from_slice::<serde_json::Value>(&answer.body).ok().and_then(|body| body.get("state").cloned());
    let is_completed = state.as_ref().is_some_and(|state| state == "completed");
    let succeeded =
        |forward: &Forward| forward.heard.is_some_and(|(at, known)| known == Known::Success && at <= seen_ms);
    let mut of_it = world.forwards.iter().filter(|forward| forward.who == (look.tenant, look.key));
    let who = (look.tenant, look.key);
    let is_said = world.words_between(who, 0, seen_ms).any(|word| !word.frees());
    if is_completed && !is_said && !of_it.clone().any(succeeded) {
        wrong.push(format!("I2: {name} was told that it has completed, and no attempt had succeeded"));
    }
    let store = &world.store;
    let is_kept = |forward: &Forward| {
        let request = &world.requests[forward.request];
        let is_stored = request.answer.as_ref().is_some_and(|answer| answer.parameter("stored") == Some("?1"));
        let Some(told_ms) = request.answered_ms.filter(|told_ms| is_stored && *told_ms < look.sent_ms) else {
            return false;
        };
        let lives_ms = world.forwards.iter().filter(|other| other.who == forward.who).map(|other| other.lives_ms().0);
        !store.lost_between(forward.asked_ms, seen_ms)
            && !world.forgotten_between(who, forward.asked_ms, seen_ms)
            && store.peak(forward.asked_ms, seen_ms)
                < store.trough(forward.asked_ms, told_ms) + lives_ms.min().unwrap_or(0)
    };
    if state.is_some() && !is_completed && of_it.any(is_kept) {
        wrong.push(format!("I4: {name} was told {state:?}, and a client had been told that it is stored"));
    }
}

/// I1: every two executions of one operation, the later one let go while the earlier one's record lives.
///
/// Returns how many pairs could not be judged because the store had lost what it had acknowledged.
fn executions(world: &World, wrong: &mut Vec<String>) -> u64 {
    let mut by_operation: ByOperation<&Forward> = BTreeMap::new();
    for forward in world.forwards.iter().filter(|forward| forward.attempt.is_some()) {
        by_operation.entry(forward.who).or_default().push(forward);
    }
    let mut weaker = 0;
    for (who, forwards) in by_operation {
        for (place, later) in forwards.iter().enumerate() {
            for earlier in &forwards[..place] {
                // The one that was let go later may have asked first, and slept through the loss of its claim.
                if world.store.lost_between(earlier.asked_ms.min(later.asked_ms), later.forwarded_ms) {
                    weaker += 1;
                } else if let Some(why) = forbidden(world, earlier, later) {
                    wrong.push(format!("I1: k{} of tenant {}: {why}", who.1, who.0));
                }
            }
        }
    }
    weaker
}

/// I10: every two turns at one resource. The later one has the larger fence, and begins once the earlier one has ended and
/// the store has heard of it, or its lease may be over.
fn turns(world: &World, faults: Faults, wrong: &mut Vec<String>) {
    let (plan, store) = (&world.plan, &world.store);
    let limits = plan.limits;
    let operation_ms = 2 * u64::from(limits.attempts) * limits.timeout_ms + limits.timeout_ms + 300;
    let may_stop = [Fault::GatewayPauses, Fault::GatewayCrashes].into_iter().any(|fault| faults.has(fault));
    let turns: Vec<_> = world.forwards.iter().filter(|forward| forward.fence.is_some()).collect();
    for (place, later) in turns.iter().enumerate() {
        for earlier in turns[..place].iter().filter(|earlier| earlier.resource == later.resource) {
            let (from, to) = (earlier.forwarded_ms, later.forwarded_ms);
            if store.jumped(earlier.asked_ms.min(later.asked_ms), to) {
                continue;
            }
            let pair = |what: &str| format!("I10: the turn at {to} after that at {from}: {what}");
            // What the store has forgotten goes on from its clock, and that may have been set back.
            let is_forgotten = store.lost_between(earlier.asked_ms, to) || to >= from + earlier.lease_ms;
            if later.fence <= earlier.fence && !(is_forgotten && store.set_back_ms() > 0) {
                wrong.push(pair(&format!("{:?} after {:?}", later.fence, earlier.fence)));
            }
            if store.lost_between(earlier.asked_ms, to) {
                continue;
            }
            // A gateway that stops may let go what it holds just before its lease is over.
            let fresh_ms = earlier.lease_ms / 5;
            let lease_ms =
                if may_stop { fresh_ms } else { fresh_ms.max(earlier.lease_ms.saturating_sub(operation_ms)) };
            // The embedded store can always be told that a turn goes on.
            let is_renewed = plan.embedded.is_some()
                && !may_stop
                && to < from + 2 * earlier.lease_ms.min(plan.leases_ms[0])
                && earlier.crashed_ms.is_none();
            if to >= from + lease_ms && !is_renewed {
                continue;
            }
            let ended_ms = earlier.heard.map(|(at, _)| at);
            if ended_ms.is_none_or(|at| at > to) {
                wrong.push(pair("that was not over"));
            }
            let request = &world.requests[earlier.request];
            let told = request.answer.as_ref().filter(|_| !plan.saves_after);
            let is_held = told.is_some_and(|answer| answer.parameter("stored") == Some("?1"));
            if is_held && request.answered_ms.is_some_and(|at| at > to) {
                wrong.push(pair("the store had not heard how that had ended"));
            }
        }
    }
}

/// Why the later of two executions should not have been.
fn forbidden(world: &World, earlier: &Forward, later: &Forward) -> Option<String> {
    let (first, second) = (earlier.attempt.unwrap_or(0), later.attempt.unwrap_or(0));
    let pair = |what: &str| {
        let (from, to) = (earlier.forwarded_ms, later.forwarded_ms);
        Some(format!("attempt {second}, let go at {to}, after attempt {first}, let go at {from}: {what}"))
    };
    let store = &world.store;
    // Leases and lives may have begun at any time in between, and the one let go later may have asked first.
    let asked_ms = earlier.asked_ms.min(later.asked_ms);
    let peak = store.peak(asked_ms, later.forwarded_ms);
    let trough = store.trough(asked_ms, later.forwarded_ms);
    // A clock that jumps ends a fresh claim, whose holder cannot know, and lets another run first; under any number where
    // it ends the record too.
    let (lives_ms, completed_lives_ms) = earlier.lives_ms();
    let is_overtaken =
        (first > second || later.asked_ms < earlier.asked_ms) && store.jumped(asked_ms, later.forwarded_ms);
    let known = earlier.heard.filter(|(at, _)| *at <= later.forwarded_ms);
    if let Some((at, Known::Success)) = known {
        let request = &world.requests[earlier.request];
        let told = request.answer.as_ref().filter(|_| request.answered_ms < Some(later.forwarded_ms));
        let is_stored = told.is_some_and(|answer| answer.parameter("stored") == Some("?1"));
        let is_forgotten = world.forgotten_between(earlier.who, at, later.forwarded_ms);
        if is_stored
            && !is_forgotten
            && !is_overtaken
            && peak < store.trough(at, request.answered_ms.unwrap_or(at)) + completed_lives_ms
        {
            return pair("the earlier one had completed and was stored");
        }
    }
    // Whoever completes the record may make it live shorter.
    let is_over = |other: &Forward| {
        let succeeded = other.heard.is_some_and(|(_, known)| known == Known::Success);
        let mut span = (other.asked_ms, later.forwarded_ms);
        span.0 = span.0.min(span.1);
        succeeded && store.peak(span.0, span.1) >= store.trough(span.0, span.1) + other.lives_ms().0
    };
    let mut others = world.forwards.iter().filter(|other| other.who == earlier.who && other.is_told);
    if peak >= trough + lives_ms || others.any(is_over) {
        return None;
    }
    if first == second {
        return pair("the same number twice");
    }
    if earlier.key != later.key {
        return pair("the key was written in another form");
    }
    if first > second && !is_overtaken {
        return pair("the number did not grow");
    }
    let mut words = world.words_between(earlier.who, earlier.asked_ms, later.forwarded_ms).filter(|word| word.frees());
    if let Some(word) = words.clone().find(|word| {
        let is_running = word.at_ms >= earlier.forwarded_ms && earlier.heard.is_none_or(|(at, _)| at > word.at_ms);
        is_running && store.clock(word.at_ms) < store.trough(earlier.asked_ms, word.at_ms) + earlier.lease_ms
    }) {
        return pair(&format!("an operator's word at {} ended a lease that lived", word.at_ms));
    }
    if words.next().is_some() {
        return None;
    }
    let known = known.map_or(Known::Doubt, |(_, known)| known);
    // The same payload was tried again in between, and that attempt freed the key, though it may not have known its number.
    let is_freed = known == Known::Retry
        && world.forwards.iter().filter(|other| other.who == earlier.who && other.is_told).any(|other| {
            let freed = other.heard.is_some_and(|(at, known)| known == Known::Release && at <= later.forwarded_ms);
            freed && other.payload == earlier.payload && other.forwarded_ms > earlier.forwarded_ms
        });
    if earlier.payload != later.payload && known != Known::Release && !is_freed {
        return pair("another payload, although the earlier one may have executed");
    }
    if matches!(known, Known::Release | Known::Retry) {
        return None;
    }
    if world.plan.holds {
        return pair("the policy holds, and the earlier one may have executed");
    }
    if peak < trough + earlier.lease_ms {
        return pair("within the earlier one's lease, and nothing says that it did not execute");
    }
    None
}

/// I4: who was seen completed stays so until the record expires, whoever comes late.
fn sightings(world: &World, wrong: &mut Vec<String>) {
    struct Sighting<'a> {
        forward: &'a Forward,
        asked_ms: u64,
        seen_ms: u64,
        /// On the store's clock, at least.
        until: u64,
    }
    let mut by_operation: ByOperation<Sighting<'_>> = BTreeMap::new();
    for request in &world.requests {
        let (Some(answer), Some(seen_ms), Some(asked_ms)) = (&request.answer, request.answered_ms, request.asked_ms)
        else {
            continue;
        };
        let own = request.forward.map(|forward| &world.forwards[forward]);
        let (forward, from) = match own {
            Some(own) if answer.parameter("stored") == Some("?1") => (Some(own), own.heard.map_or(seen_ms, |h| h.0)),
            None if answer.is("replayed") => (replayed(world, answer), asked_ms),
            _ => (None, 0),
        };
        let Some(forward) = forward else { continue };
        // The clock may be set back while the question is on its way.
        let since =
            world.store.trough(asked_ms, seen_ms).saturating_sub(1000 * (answer.number("age").unwrap_or(0) + 1));
        // Its claim was renewed last before its response had come; a record that lived longer was claimed before.
        let life = world.store.peak(0, forward.whole_ms.unwrap_or(seen_ms)) + forward.ttl_ms.max(forward.lease_ms);
        if answer.is("replayed") && forward.attempt.is_some() && since > life {
            wrong.push(format!("I4: {} got a replay of a record that had expired before it completed", shown(request)));
        }
        let until = world.store.trough(from, seen_ms) + 1000 * answer.number("ttl").unwrap_or(0);
        by_operation.entry(forward.who).or_default().push(Sighting { forward, asked_ms: from, seen_ms, until });
    }
    for sightings in by_operation.values() {
        for first in sightings {
            for second in sightings.iter().filter(|second| second.asked_ms > first.seen_ms) {
                let is_same = std::ptr::eq(first.forward, second.forward);
                let is_over = world.store.peak(first.asked_ms, second.seen_ms) >= first.until;
                // A gateway other than the operator's may replay for a while what it remembers.
                let from_ms = first.forward.asked_ms.min(second.forward.asked_ms);
                let is_forgotten = world.forgotten_between(first.forward.who, from_ms, second.seen_ms);
                if !is_same
                    && !is_over
                    && !is_forgotten
                    && !world.store.lost_between(first.forward.asked_ms, second.seen_ms)
                {
                    wrong.push(format!(
                        "I4: k{} was seen completed at {} and as something else at {}",
                        first.forward.who.1, first.seen_ms, second.seen_ms
                    ));
                }
            }
        }
    }
}

/// I1: whoever asks after somebody was told that it is completed does not execute while the record lives.
fn repeats(world: &World, wrong: &mut Vec<String>) {
    let store = &world.store;
    for seen in &world.requests {
        let reason = seen.answer.as_ref().and_then(|answer| answer.parameter("reason"));
        let (Some("already-completed" | "not-replayable"), Some(seen_ms)) = (reason, seen.answered_ms) else {
            continue;
        };
        let is_of = |forward: &&Forward| forward.who == (seen.tenant, seen.key) && forward.is_told;
        let heard = |forward: &Forward| forward.heard.filter(|(_, known)| *known == Known::Success).map(|(at, _)| at);
        // Whoever it was that completed it: it lives for as long as that one's word made it live.
        let completions = world.forwards.iter().filter(is_of).filter_map(|forward| {
            let at = heard(forward).filter(|at| *at <= seen_ms)?;
            Some((forward.asked_ms, store.trough(at, seen_ms) + forward.lives_ms().1))
        });
        let who = (seen.tenant, seen.key);
        let said = world.words_between(who, 0, seen_ms).filter(|word| !word.frees());
        let said = said.map(|word| (word.at_ms, store.trough(word.at_ms, seen_ms) + 1000 * world.plan.ttl_s));
        let Some((asked_ms, until)) =
            completions.chain(said).reduce(|one, other| (one.0.min(other.0), one.1.min(other.1)))
        else {
            wrong.push(format!("I2: {} was told that it is completed, and nobody had succeeded", shown(seen)));
            continue;
        };
        for again in world.forwards.iter().filter(is_of).filter(|again| again.attempt.is_some()) {
            let is_later = again.asked_ms > seen_ms;
            let is_over = store.peak(asked_ms, again.forwarded_ms) >= until;
            let is_forgotten = world.forgotten_between(who, asked_ms, again.forwarded_ms);
            if is_later && !is_over && !is_forgotten && !store.lost_between(asked_ms, again.forwarded_ms) {
                wrong.push(format!(
                    "I1: k{} was seen completed at {seen_ms} and executed again at {}",
                    seen.key, again.forwarded_ms
                ));
            }
        }
    }
}

/// I1: what an operator has said to have run does not run again while the record lives, unless he has it forgotten.
fn words(world: &World, wrong: &mut Vec<String>) {
    let store = &world.store;
    for word in world.words.iter().filter(|word| !word.frees()) {
        let until = store.clock(word.at_ms) + 1000 * world.plan.ttl_s;
        let later =
            |forward: &&Forward| forward.who == word.who && forward.attempt.is_some() && forward.asked_ms > word.at_ms;
        for again in world.forwards.iter().filter(later) {
            let is_over = store.peak(word.at_ms, again.forwarded_ms) >= until;
            let is_forgotten = world.forgotten_between(word.who, word.at_ms, again.forwarded_ms);
            if !is_over && !is_forgotten && !store.lost_between(word.at_ms, again.forwarded_ms) {
                wrong.push(format!(
                    "I1: an operator said at {} that k{} had run, and it ran again at {}",
                    word.at_ms, word.who.1, again.forwarded_ms
                ));
            }
        }
    }
}

/// I11: an issued key counts for the caller that it was issued to and for no other, and begins nothing once it has expired.
fn issued(world: &World, wrong: &mut Vec<String>) {
    let Some(ttl_s) = world.plan.issued_s else { return };
    for request in world.requests.iter().filter(|request| request.forward.is_some()) {
        if request.is_stolen {
            wrong.push(format!("I11: {} ran with a key that was issued to another", shown(request)));
        }
        let has_begun = world.requests.iter().any(|before| {
            let is_same = (before.tenant, before.key) == (request.tenant, request.key);
            is_same && !before.is_stolen && !before.looks && before.sent_ms < 1000 * ttl_s
        });
        if request.sent_ms >= 1000 * ttl_s && !has_begun {
            wrong.push(format!("I11: {} began an operation with a key that had expired", shown(request)));
        }
    }
}

/// I12: what a caller has sent under another key within the window is said, or refused, unless it was released; and
/// nothing else is.
fn similar(world: &World, wrong: &mut Vec<String>) {
    let (Some((window_ms, refuses)), store) = (world.plan.similar, &world.store) else { return };
    let is_alike = |one: &Request, other: &Request| {
        (one.tenant, one.payload) == (other.tenant, other.payload) && one.key != other.key && !other.looks
    };
    let is_told = |request: &Request| {
        let answer = request.answer.as_ref();
        answer.is_some_and(|answer| answer.number("similar").is_some() || answer.parameter("reason") == Some("similar"))
    };
    // A table that has room answers each question at once.
    let is_sure = world.plan.embedded.is_some_and(|max_bytes| max_bytes >= 1 << 20)
        && !world.plan.faults.has(Fault::CellsContended);
    for told in world.requests.iter().filter(|request| is_told(request)) {
        let until = told.answered_ms.unwrap_or(0);
        let mut others = world.requests.iter().filter(|other| is_alike(told, other) && other.sent_ms <= until);
        let counts = |other: &Request| {
            let Some(forward) = other.forward.map(|forward| &world.forwards[forward]) else {
                return !is_sure || other.answered_ms.is_none_or(|at| at >= told.sent_ms);
            };
            let is_free = matches!(forward.heard, Some((_, Known::Release | Known::Retry)));
            !(is_sure && is_free) || other.answered_ms.is_none_or(|at| at >= told.sent_ms)
        };
        if !others.any(counts) {
            wrong.push(format!("I12: {} was told of what is similar, and nothing is", shown(told)));
        }
    }
    if world.plan.forwards || !refuses && !is_sure {
        return;
    }
    let claimed = || world.forwards.iter().filter(|forward| forward.attempt.is_some());
    for later in claimed() {
        let request = &world.requests[later.request];
        for earlier in claimed().filter(|earlier| is_alike(request, &world.requests[earlier.request])) {
            let (from, to) = (earlier.asked_ms, later.forwarded_ms);
            let counts = later.asked_ms > earlier.forwarded_ms
                // What the store has forgotten, a later claim has begun anew.
                && to < from + window_ms.min(earlier.lives_ms().0)
                && !matches!(earlier.heard, Some((_, Known::Release | Known::Retry)))
                && !store.lost_between(from, to)
                && !store.jumped(from, to)
                && world.words_between(earlier.who, from, to).next().is_none();
            let is_said =
                !refuses && (is_told(request) || request.answer.as_ref().is_none_or(|told| !told.is("executed")));
            if counts && !is_said && !request.is_meant {
                wrong.push(format!(
                    "I12: {} was told nothing of the same under k{}, let go at {}",
                    shown(request),
                    earlier.who.1,
                    earlier.forwarded_ms
                ));
            }
        }
    }
}

/// I9: after one lease and one backoff of calm every operation is told for what it is. An answer to the gateway's own
/// request is replayed then, whether or not the client was still there when it came.
fn probes(world: &World, first_probe: usize, wrong: &mut Vec<String>) {
    let store = &world.store;
    // A full outbox gives up what it owes, and then such a claim lapses instead of being released.
    let is_cramped = world.plan.limits.max_owed_bytes < 10_000;
    for probe in &world.requests[first_probe..] {
        let Some(answer) = probe.answer.as_ref().filter(|_| !probe.is_observed) else { continue };
        let who = (probe.tenant, probe.key);
        let is_orphaned = world.orphans.contains(&who);
        let forwards: Vec<&Forward> =
            world.forwards.iter().filter(|forward| forward.who == who && forward.is_told).collect();
        let forwards: Vec<&Forward> = forwards.into_iter().filter(|forward| forward.request < first_probe).collect();
        let reason = answer.parameter("reason");
        let is_completed = answer.is("replayed") || matches!(reason, Some("already-completed" | "not-replayable"));
        let alive = |forward: &Forward| {
            let told = world.requests[forward.request].answer.as_ref();
            forward.crashed_ms.is_none() || told.is_some_and(|answer| answer.parameter("stored") == Some("?1"))
        };
        // A success from before a loss that lands after it is a truth too, and so is one of whoever ran unprotected;
        // what is completed is not replaced.
        let is_preceded = |last: &Forward| {
            let succeeded = |other: &&&Forward| other.heard.is_some_and(|(_, known)| known == Known::Success);
            let mut others = forwards.iter().filter(succeeded).filter(|other| other.payload != last.payload);
            others.any(|other| other.attempt.is_none() || store.lost_between(other.asked_ms, last.asked_ms))
        };
        let last = forwards.last().filter(|last| {
            last.attempt.is_some()
                && !is_preceded(last)
                // A refused success is offered for more than a lease, by a clock that does not go back.
                && !(is_orphaned && store.set_back_ms() > 0)
                && last.heard.is_some_and(|(_, known)| known == Known::Success)
                && alive(last)
                && !is_cramped
                && !world.forgotten_between(who, last.asked_ms, world.now)
                && !store.lost_between(last.asked_ms, world.now)
                // Whoever completes the record may make it live shorter.
                && forwards.iter().filter(|other| other.heard.is_some_and(|(_, known)| known == Known::Success)).all(
                    |other| {
                        let (peak, trough) = (store.peak(other.asked_ms, world.now), store.trough(other.asked_ms, world.now));
                        peak < trough + other.lives_ms().0
                    },
                )
        });
        if let Some(last) = last
            && !is_completed
            && !probe.is_stolen
        {
            let attempt = last.attempt.unwrap_or(0);
            wrong.push(format!(
                "I9: {} was told {:?}, but attempt {attempt} is known to have succeeded",
                shown(probe),
                answer.line()
            ));
        }
        if let Some(last) = last.filter(|last| last.is_shielded)
            && !answer.is("replayed")
            && !probe.is_stolen
            && !may_lack_its_body(world, last)
            && world.words_between(who, last.asked_ms, world.now).next().is_none()
        {
            wrong.push(format!(
                "shielded: {} was told {:?}, but the gateway had heard the answer to attempt {}",
                shown(probe),
                answer.line(),
                last.attempt.unwrap_or(0)
            ));
        }
        let in_doubt = |forward: &&Forward| {
            let is_settled = world.words_between(who, forward.forwarded_ms, world.now).any(Word::frees);
            !is_settled && (!matches!(forward.heard, Some((_, Known::Release | Known::Retry))) || !alive(forward))
        };
        let may_be_unknown = world.plan.holds
            && (is_cramped || is_orphaned || !store.losses.is_empty() || forwards.iter().any(in_doubt));
        // Only an attempt leaves its payload behind: a claim that was withdrawn leaves what stood before it.
        let may_be_another = is_cramped
            || is_orphaned
            || !store.losses.is_empty()
            || forwards.iter().any(|other| {
                other.payload != probe.payload
                    && !matches!(other.heard, Some((_, Known::Release)) if other.crashed_ms.is_none())
            });
        let is_fine = answer.is("executed")
            || is_completed
            || (reason == Some("outcome-unknown") && may_be_unknown)
            || (reason == Some("mismatch") && may_be_another)
            || (reason == Some("similar") && world.plan.similar.is_some_and(|(_, refuses)| refuses))
            || (reason == Some("key-invalid") && (probe.is_stolen || world.plan.issued_s.is_some() && last.is_none()));
        if !is_fine {
            wrong.push(format!("I9: {} was told {:?} although all is calm", shown(probe), answer.line()));
        }
    }
}

/// Whether a completed record may be without the response that the gateway itself has heard: what becomes of its client
/// is no reason.
fn may_lack_its_body(world: &World, forward: &Forward) -> bool {
    let has_little_room = world.plan.embedded.is_some_and(|max_bytes| max_bytes < 1 << 20);
    let had_company = world.forwards.iter().any(|other| {
        other.who == forward.who
            && !std::ptr::eq(other, forward)
            && other.heard.is_some_and(|(_, known)| known == Known::Success)
    });
    world.plan.conflicts || forward.is_overloaded_out || has_little_room || forward.body.len() > MAX_BODY || had_company
}

fn replayed<'a>(world: &'a World, answer: &Answer) -> Option<&'a Forward> {
    let number = std::str::from_utf8(answer.headers.first("x-execution")?).ok()?.parse::<usize>().ok()?;
    world.forwards.get(number.checked_sub(1)?)
}

fn shown(request: &Request) -> String {
    let Request { tenant, key, payload, sent_ms, .. } = request;
    format!("a request for k{key} p{payload} of tenant {tenant} sent at {sent_ms}")
}
