//! The judge: what the product promises, held against the ledger and what clients were told.
//!
//! One rule: a fault excuses only what docs/guarantees.md says it leaves of the promise, only between events it lies between, and a
//! loss of records only one more execution of a name each.
//! It does not know which class a fault belongs to.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::history::{Answer, Asked, End, Execution, History, Kind, Lost, Name, Sent, Span};
use crate::upstream::body_of;

/// What should not have been.
#[derive(Debug, Clone)]
pub struct Violation {
    /// When it showed.
    pub at_us: u64,
    /// Of which operation.
    pub name: Name,
    /// What it is.
    pub what: String,
}

/// Everything in the history that breaks a promise.
pub fn judge(history: &History) -> Vec<Violation> {
    let court = Court::new(history);
    let mut wrong = Vec::new();
    court.ledger(&mut wrong);
    court.turns(&mut wrong);
    for (name, story) in &court.stories {
        let mut say = |at_us: u64, what: String| wrong.push(Violation { at_us, name: (*name).clone(), what });
        if name.kind == Kind::Plain {
            for asked in &story.asked {
                court.passer_by(asked, &mut say);
            }
            continue;
        }
        for asked in &story.asked {
            court.answer(story, asked, &mut say);
        }
        court.executions(story, &mut say);
        court.completed(story, &mut say);
        court.remembered(story, &mut say);
    }
    wrong
}

/// The executions that follow one of their operation whose outcome is in doubt.
pub fn takeovers(executions: &[Execution]) -> Vec<&Execution> {
    let mut last: HashMap<&str, &Execution> = HashMap::new();
    let mut takeovers = Vec::new();
    for execution in executions {
        let before = last.insert(&execution.operation, execution);
        if execution.attempt > 1 && before.is_some_and(|before| !failed(before)) {
            takeovers.push(execution);
        }
    }
    takeovers
}

/// One operation as it looks from outside.
#[derive(Default)]
struct Story<'a> {
    asked: Vec<&'a Asked>,
    executions: Vec<&'a Execution>,
}

struct Court<'a> {
    history: &'a History,
    stories: BTreeMap<&'a Name, Story<'a>>,
    by_id: HashMap<u64, &'a Asked>,
    /// By the request that led to them.
    executed: HashMap<u64, &'a Execution>,
    /// When a client was first told that an execution is stored.
    told: HashMap<u64, u64>,
    /// When locks may have been lost.
    locks_lost: Vec<Span>,
}

impl<'a> Court<'a> {
    fn new(history: &'a History) -> Court<'a> {
        let by_id: HashMap<u64, &Asked> = history.asked.iter().map(|asked| (asked.id, asked)).collect();
        let mut stories: BTreeMap<&Name, Story<'_>> = BTreeMap::new();
        let mut told: HashMap<u64, u64> = HashMap::new();
        for asked in &history.asked {
            stories.entry(&asked.name).or_default().asked.push(asked);
            if let End::Answer(answer) = &asked.end
                && let Some(n) = answer.stored()
            {
                let first = told.entry(n).or_insert(asked.done_us);
                *first = asked.done_us.min(*first);
            }
        }
        for execution in &history.executions {
            if let Some(asked) = by_id.get(&execution.request) {
                stories.entry(&asked.name).or_default().executions.push(execution);
            }
        }
        for story in stories.values_mut() {
            story.asked.sort_by_key(|asked| asked.sent_us);
            story.executions.sort_by_key(|execution| execution.n);
        }
        let executed = history.executions.iter().map(|execution| (execution.request, execution)).collect();
        // A record that is no operation's may be a lock's.
        let operations: HashSet<&str> =
            history.executions.iter().map(|execution| execution.operation.as_str()).collect();
        let takes_locks = |lost: &Lost| match lost {
            Lost::Everything | Lost::Since(_) => true,
            Lost::Operations(lost) => lost.iter().any(|name| !operations.contains(name.as_str())),
        };
        let losses = history.excuses.losses.iter();
        let locks_lost = losses.filter(|loss| takes_locks(&loss.lost)).map(|loss| loss.span).collect();
        Court { history, stories, by_id, executed, told, locks_lost }
    }

    /// Every execution is one that a client asked for, under a claim, once, and an operation of one name.
    fn ledger(&self, wrong: &mut Vec<Violation>) {
        let mut names: HashMap<&str, &Name> = HashMap::new();
        let mut requests: HashMap<u64, u64> = HashMap::new();
        for execution in &self.history.executions {
            let Execution { n, request, at_us, .. } = *execution;
            let Some(asked) = self.by_id.get(&request) else {
                let name = Name { kind: Kind::Retry, tenant: execution.tenant.clone(), key: execution.key.clone() };
                let what = format!("execution {n} is of request {request}, which nobody sent");
                wrong.push(Violation { at_us, name, what });
                continue;
            };
            let mut say = |what: String| wrong.push(Violation { at_us, name: asked.name.clone(), what });
            let name = &asked.name;
            let is_as_sent = (name.kind.path(), &name.tenant, &name.key, &asked.payload)
                == (execution.path.as_str(), &execution.tenant, &execution.key, &execution.payload);
            if !is_as_sent {
                say(format!("execution {n} is not what request {request} asked for"));
            }
            if (execution.attempt == 0) != (name.kind == Kind::Plain) {
                say(format!("execution {n} ran without a claim, or with one that nobody asked for"));
            }
            if (execution.fence == 0) != (name.kind != Kind::Locked) {
                say(format!("execution {n} ran without a lock, or under one that no rule asks for"));
            }
            if let Some(first) = requests.insert(request, n) {
                say(format!("request {request} executed twice, as {first} and {n}"));
            }
            if name.kind != Kind::Plain && *names.entry(&execution.operation).or_insert(name) != name {
                say(format!("execution {n} has the operation of another name"));
            }
        }
        for (name, story) in self.stories.iter().filter(|(name, _)| name.kind != Kind::Plain) {
            let mut operations = story.executions.iter().map(|execution| &execution.operation);
            if let Some(first) = operations.next()
                && operations.any(|other| other != first)
            {
                let what = "its executions have different operations".to_owned();
                wrong.push(Violation { at_us: story.executions[0].at_us, name: (*name).clone(), what });
            }
        }
    }

    /// Those about one resource have it one at a time, each under a larger fence than the one before.
    fn turns(&self, wrong: &mut Vec<Violation>) {
        let mut resources: BTreeMap<&str, Vec<&Execution>> = BTreeMap::new();
        for execution in self.history.executions.iter().filter(|execution| !execution.resource.is_empty()) {
            resources.entry(&execution.resource).or_default().push(execution);
        }
        for (resource, turns) in resources {
            for (place, later) in turns.iter().enumerate() {
                let Some(asked) = self.by_id.get(&later.request) else { continue };
                for (earlier, why) in turns[..place].iter().filter_map(|one| Some((one, self.out_of_turn(one, later)?)))
                {
                    let turn = |one: &Execution| format!("execution {} (fence {})", one.n, one.fence);
                    let what = format!("{} of {resource} after {}: {why}", turn(later), turn(earlier));
                    wrong.push(Violation { at_us: later.at_us, name: asked.name.clone(), what });
                }
            }
        }
    }

    /// Why the later of two executions about one resource, as they came to the service, should not have been as it was.
    fn out_of_turn(&self, earlier: &Execution, later: &Execution) -> Option<&'static str> {
        let excuses = &self.history.excuses;
        let between = Span { from_us: self.from(earlier, later), to_us: later.at_us };
        let meets = |spans: &[Span]| spans.iter().any(|span| span.meets(between));
        let is_lost = meets(&self.locks_lost);
        if later.fence <= earlier.fence {
            // Both were on their way at once, and one was overtaken: by a lock that is not its any more, as the number tells.
            let overtakes = self.sent_us(later) < earlier.at_us;
            let is_overtaken = overtakes && (is_lost || meets(&excuses.stalls) || meets(&excuses.jumps));
            let is_set_back =
                |jump: &Span| jump.meets(Span { from_us: later.at_us.saturating_sub(AHEAD_US), ..between });
            let has_set_back = is_lost && excuses.jumps.iter().any(is_set_back);
            if !is_overtaken && !has_set_back {
                return Some("the fence did not grow");
            }
        }
        let (first, second) = if earlier.fence <= later.fence { (earlier, later) } else { (later, earlier) };
        if is_success(first) && first.ended_us.is_some_and(|ended_us| second.at_us < ended_us) {
            return Some("the service took a write under a smaller fence than it had seen");
        }
        let are_at_once = earlier.ended_us.is_none_or(|ended_us| later.at_us < ended_us);
        let is_leased = second.at_us < self.sent_us(first) + self.history.lease_us;
        if are_at_once && is_leased && !is_lost && !meets(&excuses.jumps) {
            return Some("both had it at once, within the lease of the first");
        }
        None
    }

    /// What one client was told: in time, true, and of its own operation.
    fn answer(&self, story: &Story<'_>, asked: &Asked, say: &mut impl FnMut(u64, String)) {
        let took_us = self.took_us(asked);
        let mut say = |what: String| say(asked.done_us, format!("request {}: {what}", asked.id));
        if took_us > self.history.bound_us {
            say(format!("took {} ms; {} are the bound", took_us / 1000, self.history.bound_us / 1000));
        }
        let span = Span { from_us: asked.sent_us, to_us: asked.done_us };
        let answer = match &asked.end {
            End::HungUp => return,
            End::Broken(why) => {
                if !self.history.excuses.breaks.iter().any(|fault| fault.meets(span)) {
                    say(format!("got no answer, and nothing had broken connections: {why}"));
                }
                return;
            }
            End::Answer(answer) => answer,
        };
        let own = self.executed.get(&asked.id).copied();
        let shown = || format!("{} {:?}", answer.status, answer.line);
        match answer.token() {
            "replayed" => {
                let source = answer.execution.and_then(|n| self.execution(n));
                match source.filter(|source| self.is_of(source, asked)) {
                    None => say(format!("got a replay of something else ({})", shown())),
                    Some(source) if !is_answer_of(answer, source) || !is_success(source) => {
                        say(format!("got another answer than execution {} gave ({})", source.n, shown()));
                    }
                    // The number is the record's, which a late success of an earlier attempt does not make smaller.
                    Some(source) if !answer.is_marked || self.attempt(answer) < Some(source.attempt) => {
                        say(format!("got a replay that does not say what it is ({})", shown()));
                    }
                    Some(_) => (),
                }
                if own.is_some() {
                    say(format!("executed, and was told {}", shown()));
                }
            }
            "executed" => match (own, answer.execution) {
                (Some(own), Some(_)) => {
                    if !is_answer_of(answer, own) || self.attempt(answer) != Some(own.attempt) {
                        say(format!("got another answer than its own execution {} gave ({})", own.n, shown()));
                    }
                }
                (None, Some(_)) => say(format!("never executed, and was told {}", shown())),
                // The gateway's own word for an answer that got lost.
                (_, None) if answer.status >= 500 => (),
                (_, None) => say(format!("got an answer that nobody gave ({})", shown())),
            },
            "refused" => {
                if own.is_some() || answer.execution.is_some() {
                    say(format!("executed, and was told {}", shown()));
                }
                let others =
                    || story.asked.iter().filter(|other| other.id != asked.id && other.sent_us < asked.done_us);
                let is_fine = match answer.refusal() {
                    Some("in-flight") => answer.status == 429 && others().next().is_some(),
                    Some("outcome-unknown" | "not-replayable") => answer.status == 409 && others().next().is_some(),
                    Some("mismatch") => answer.status == 409 && others().any(|other| other.payload != asked.payload),
                    Some("store-unavailable") => answer.status == 503,
                    Some("resource-busy") => answer.status == 429 && asked.name.kind == Kind::Locked,
                    _ => false,
                };
                if !is_fine {
                    say(format!("was refused for no reason ({})", shown()));
                }
            }
            // Envoy's own failures after the filter's last callback.
            "" if answer.status >= 500 && answer.execution.is_none() => (),
            _ => say(format!("was told {}", shown())),
        }
    }

    /// Whoever passes by is served as without the filter: what the store does must not show.
    fn passer_by(&self, asked: &Asked, say: &mut impl FnMut(u64, String)) {
        let span = Span { from_us: asked.sent_us, to_us: asked.done_us };
        let excuses = &self.history.excuses;
        let is_served = match &asked.end {
            End::Answer(answer) => {
                let own = self.executed.get(&asked.id);
                answer.line.is_empty() && own.is_some_and(|own| is_answer_of(answer, own) && is_success(own))
            }
            End::Broken(_) | End::HungUp => false,
        };
        let mut faults = excuses.breaks.iter().chain(&excuses.troubles).chain(&excuses.pauses);
        let is_excused = faults.any(|fault| fault.meets(span));
        if !is_served && !is_excused {
            say(asked.done_us, format!("request {} passed by and was not served: {:?}", asked.id, asked.end));
        }
        if self.took_us(asked) > self.history.bound_us {
            say(asked.done_us, format!("request {} passed by and took too long", asked.id));
        }
    }

    /// Of every two executions of a name, the later one must be one that the protocol allows.
    fn executions(&self, story: &Story<'_>, say: &mut impl FnMut(u64, String)) {
        let mut excused = 0;
        for (place, later) in story.executions.iter().enumerate() {
            for (before, earlier) in story.executions[..place].iter().enumerate() {
                let Some(why) = self.forbidden(story, earlier, later) else { continue };
                if !self.is_lost(earlier, self.from(earlier, later), later.at_us) {
                    let (n, m) = (earlier.n, later.n);
                    say(
                        later.at_us,
                        format!(
                            "execution {m} (attempt {}) after {n} (attempt {}): {why}",
                            later.attempt, earlier.attempt
                        ),
                    );
                } else if before + 1 == place {
                    excused += 1;
                }
            }
        }
        let losses = story.executions.first().map_or(0, |first| self.losses(first));
        if excused > losses {
            let at_us = story.executions.last().map_or(0, |last| last.at_us);
            say(at_us, format!("{excused} executions need a loss to excuse them, and there were {losses}"));
        }
    }

    /// Why the later of two executions should not have been.
    fn forbidden(&self, story: &Story<'_>, earlier: &Execution, later: &Execution) -> Option<String> {
        let excuses = &self.history.excuses;
        let between = Span { from_us: self.from(earlier, later), to_us: later.at_us };
        if earlier.attempt == later.attempt {
            return Some("the same number twice".to_owned());
        }
        // What is long on its way to the service may be overtaken, and so may who holds a claim that a clock has ended;
        // the numbers tell the service.
        let is_overtaken = excuses.stalls.iter().chain(&excuses.jumps).any(|span| span.meets(between));
        if earlier.attempt > later.attempt && !is_overtaken {
            return Some("the number did not grow".to_owned());
        }
        let asked_us = |execution: &Execution| self.by_id.get(&execution.request).map_or(0, |asked| asked.sent_us);
        if self.told.get(&earlier.n).is_some_and(|told_us| asked_us(later) > *told_us) {
            return Some("a client had been told that the earlier one is stored".to_owned());
        }
        let (first, second) = match earlier.attempt < later.attempt {
            true => (earlier, later),
            false => (later, earlier),
        };
        let is_freed = |other: &&Execution| {
            released(other)
                && other.payload == first.payload
                && (first.attempt..second.attempt).contains(&other.attempt)
        };
        if first.payload != second.payload && !(failed(first) && story.executions.iter().copied().any(|e| is_freed(&e)))
        {
            return Some("another payload, although the earlier one may have executed".to_owned());
        }
        if failed(first) {
            return None;
        }
        if story.asked.first().is_some_and(|asked| asked.name.kind == Kind::Hold) {
            return Some("the policy holds, and the earlier one may have executed".to_owned());
        }
        let is_leased = second.at_us < asked_us(first) + self.history.lease_us;
        if is_leased && !excuses.jumps.iter().any(|jump| jump.meets(between)) {
            return Some("within the earlier one's lease, and nothing says that it failed".to_owned());
        }
        None
    }

    /// Who was told that an execution is stored is told the same from then on.
    fn completed(&self, story: &Story<'_>, say: &mut impl FnMut(u64, String)) {
        let firsts = story.executions.iter().filter_map(|execution| Some((execution, *self.told.get(&execution.n)?)));
        for (first, told_us) in firsts {
            for asked in story.asked.iter().filter(|asked| asked.sent_us > told_us) {
                let End::Answer(answer) = &asked.end else { continue };
                let is_other = match answer.token() {
                    "executed" => true,
                    "replayed" => answer.execution != Some(first.n),
                    _ => matches!(answer.refusal(), Some("outcome-unknown" | "not-replayable")),
                };
                // What a loss has made run again may still be remembered by a gateway from before.
                let is_told_of = |before: &&&Execution| match answer.token() {
                    "replayed" => answer.execution == Some(before.n),
                    _ => answer.refusal() == Some("not-replayable"),
                };
                let is_before = |before: &&&Execution| before.n < first.n;
                let mut told_of = story.executions.iter().filter(is_before).filter(is_told_of);
                let is_remembered = told_of.any(|before| self.is_lost(before, self.sent_us(before), first.at_us));
                if is_other && !is_remembered && !self.is_lost(first, self.sent_us(first), asked.done_us) {
                    let said = format!("request {} was told {:?} ({:?})", asked.id, answer.line, answer.execution);
                    say(asked.done_us, format!("execution {} was told to be stored, and then {said}", first.n));
                }
            }
        }
    }

    /// A success that a living gateway knows lands when the store is back, and where the policy holds no execution can
    /// stand in its way.
    fn remembered(&self, story: &Story<'_>, say: &mut impl FnMut(u64, String)) {
        for asked in story.asked.iter().filter(|asked| asked.name.kind == Kind::Hold) {
            let End::Answer(answer) = &asked.end else { continue };
            let own = self.executed.get(&asked.id).filter(|own| answer.execution == Some(own.n) && is_success(own));
            let Some(own) = own.filter(|_| answer.token() == "executed") else { continue };
            let landed_us = asked.done_us + LANDS_WITHIN_US;
            let lands = Span { from_us: asked.sent_us, to_us: landed_us };
            if self.history.excuses.forgets.iter().any(|forgets| forgets.meets(lands)) {
                continue;
            }
            for later in story.asked.iter().filter(|later| later.sent_us > landed_us) {
                let End::Answer(told) = &later.end else { continue };
                if told.refusal() == Some("outcome-unknown") && !self.is_lost(own, asked.sent_us, later.done_us) {
                    let said = format!("request {} was told {:?}", later.id, told.line);
                    say(later.done_us, format!("a gateway knew the outcome of execution {}, and then {said}", own.n));
                }
            }
        }
    }

    /// Whether the store may have lost what it knew of an execution, between two moments.
    fn is_lost(&self, execution: &Execution, from_us: u64, to_us: u64) -> bool {
        let between = Span { from_us, to_us };
        self.history.excuses.losses.iter().any(|loss| loss.span.meets(between) && self.takes(&loss.lost, execution))
    }

    /// How many losses may have concerned the name of an execution, from when it was asked for.
    fn losses(&self, execution: &Execution) -> usize {
        let since_us = self.sent_us(execution);
        let losses = self.history.excuses.losses.iter().filter(|loss| loss.span.to_us >= since_us);
        losses
            .filter(|loss| !matches!(&loss.lost, Lost::Operations(all) if !all.contains(&execution.operation)))
            .count()
    }

    fn takes(&self, lost: &Lost, execution: &Execution) -> bool {
        match lost {
            Lost::Everything => true,
            // What is completed is not written again.
            Lost::Since(since_us) => self.told.get(&execution.n).is_none_or(|told_us| told_us >= since_us),
            Lost::Operations(operations) => operations.contains(&execution.operation),
        }
    }

    /// How long a request took while this machine went on.
    fn took_us(&self, asked: &Asked) -> u64 {
        let span = Span { from_us: asked.sent_us, to_us: asked.done_us };
        let paused_us: u64 = self.history.excuses.pauses.iter().map(|pause| pause.shared_us(span)).sum();
        asked.done_us.saturating_sub(asked.sent_us).saturating_sub(paused_us)
    }

    /// When the first of two executions was asked for.
    fn from(&self, one: &Execution, other: &Execution) -> u64 {
        self.sent_us(one).min(self.sent_us(other))
    }

    fn sent_us(&self, execution: &Execution) -> u64 {
        self.by_id.get(&execution.request).map_or(0, |asked| asked.sent_us)
    }

    fn execution(&self, n: u64) -> Option<&'a Execution> {
        let at = usize::try_from(n).ok()?.checked_sub(1)?;
        self.history.executions.get(at).filter(|execution| execution.n == n)
    }

    fn is_of(&self, execution: &Execution, asked: &Asked) -> bool {
        let name = &asked.name;
        (execution.path.as_str(), &execution.tenant, &execution.key, &execution.payload)
            == (name.kind.path(), &name.tenant, &name.key, &asked.payload)
    }

    fn attempt(&self, answer: &Answer) -> Option<u64> {
        answer.parameter("attempt")?.parse().ok()
    }
}

/// By so much a clock that was set forward has put fences ahead, which only the store's data keep once it is set back.
const AHEAD_US: u64 = 10_000_000;

/// A gateway tries what it owes at least every five seconds; some tries may meet a fault.
const LANDS_WITHIN_US: u64 = 20_000_000;

/// Whether an answer is what the ledger says that an execution was answered with, byte for byte.
fn is_answer_of(answer: &Answer, execution: &Execution) -> bool {
    execution.sent == Sent::Whole
        && answer.execution == Some(execution.n)
        && answer.status == execution.status
        && answer.location == format!("/payments/{}", execution.n)
        && answer.body == body_of(execution.n, execution.body_len)
}

fn is_success(execution: &Execution) -> bool {
    (200..400).contains(&execution.status)
}

/// The service has said that nothing happened, or that it failed: the same payload may run again at once.
fn failed(execution: &Execution) -> bool {
    execution.sent != Sent::Nothing && execution.status >= 400 && !matches!(execution.status, 502 | 504)
}

/// The service has said that nothing happened: the key is free for any payload.
fn released(execution: &Execution) -> bool {
    failed(execution) && execution.status < 500
}
