//! Load on two gateways that share a Redis, trouble in the middle of it, and a judge of what came out.
//!
//! Its one rule: the judge believes the ledger and the answers alone; neither gateways nor Redis are asked.
//! It does not know which trouble it was.

use std::collections::{HashMap, HashSet};
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use harness::{Entry, Gateway, Ledger, PATIENCE, Response, SharedWorld, wait_for, wait_until};
use serde_json::json;

use crate::check::{is_refusal, said, shown};

/// No answer may take longer: two operations of the store, each with two tries of a quarter of a second, the waits
/// before them, and what a busy machine adds.
pub const BOUND: Duration = Duration::from_secs(5);

/// What one client was told about one operation, in the order it asked.
struct Story {
    path: String,
    answers: Vec<Response>,
}

/// What the judge lets pass.
#[derive(Debug, Clone, Copy)]
pub struct Promise {
    /// How often one operation may execute at most.
    pub executions: usize,
    /// Whether each execution carries a larger attempt number than the one before.
    pub attempts_rise: bool,
    /// How much later than the one before, at least.
    pub apart: Duration,
    /// Whether a stored success is what every later answer repeats.
    pub nothing_stored_is_lost: bool,
}

impl Promise {
    /// One execution, where no lease ends within the test.
    pub const ONCE: Promise =
        Promise { executions: 1, attempts_rise: true, apart: Duration::ZERO, nothing_stored_is_lost: true };

    /// One execution more for a loss of acknowledged writes, and attempt numbers may begin anew.
    pub const ONCE_MORE_AFTER_A_LOSS: Promise =
        Promise { executions: 2, attempts_rise: false, apart: Duration::ZERO, nothing_stored_is_lost: false };

    /// Takeovers of attempts whose outcome is unknown, each after the lease of the one before.
    pub fn takeovers(executions: usize, lease: Duration) -> Promise {
        // A claim is a little older than its execution.
        Promise { executions, apart: lease / 2, ..Promise::ONCE }
    }

    /// The same where gateways stop: what one had let go when it stopped, and Envoy had not written yet, arrives whenever
    /// it goes on, under the smaller number of its attempt.
    pub fn takeovers_and_latecomers(executions: usize) -> Promise {
        Promise { executions, attempts_rise: false, ..Promise::ONCE }
    }
}

/// Has clients execute and retry operations under distinct keys at both gateways while `trouble` happens, then asks
/// for every operation until it is settled, and holds all of it to the promise.
#[track_caller]
pub fn storm(world: &SharedWorld, promise: Promise, trouble: impl FnOnce(&Progress)) {
    storm_on(&Field { gateways: &world.gateways, ledger: &world.ledger }, promise, trouble);
}

/// Gateways that share a store, of whatever kind, and the service behind them.
#[derive(Debug, Clone, Copy)]
pub struct Field<'a> {
    pub gateways: &'a [Gateway],
    pub ledger: &'a Ledger,
}

/// As [`storm`], on these.
#[track_caller]
pub fn storm_on(world: &Field<'_>, promise: Promise, trouble: impl FnOnce(&Progress)) {
    let progress = Progress::default();
    let stories: Vec<Story> = thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|client| {
                scope.spawn({
                    let progress = &progress;
                    move || ask_until_over(world, client, progress)
                })
            })
            .collect();
        // A panic in the middle must end the clients too.
        let over = Over(&progress);
        progress.wait_for(CALM);
        trouble(&progress);
        progress.wait_for(CALM);
        drop(over);
        clients.into_iter().flat_map(|client| client.join().unwrap_or_else(|panic| resume_unwind(panic))).collect()
    });

    let settled: Vec<Story> = thread::scope(|scope| {
        let parts: Vec<Vec<Story>> = stories.into_iter().fold((0..CLIENTS).map(|_| Vec::new()).collect(), deal);
        let askers: Vec<_> = parts
            .into_iter()
            .map(|part| scope.spawn(|| part.into_iter().map(|story| settle(world, story)).collect::<Vec<_>>()))
            .collect();
        askers.into_iter().flat_map(|asker| asker.join().unwrap_or_else(|panic| resume_unwind(panic))).collect()
    });
    judge(world, &settled, promise);
}

/// How far the clients have come.
#[derive(Debug, Default)]
pub struct Progress {
    answered: AtomicUsize,
    is_over: AtomicBool,
}

impl Progress {
    /// How many answers have come so far.
    pub fn answers(&self) -> usize {
        self.answered.load(Ordering::Relaxed)
    }

    /// Returns when so many answers more have come.
    #[track_caller]
    pub fn wait_for(&self, answers: usize) {
        let before = self.answered.load(Ordering::Relaxed);
        wait_until(&format!("{answers} more answers have come"), PATIENCE, || {
            self.answered.load(Ordering::Relaxed) >= before + answers
        });
    }
}

struct Over<'a>(&'a Progress);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.is_over.store(true, Ordering::Relaxed);
    }
}

/// One client: an operation, sent to one gateway and twice again to the other and the first, and then the next one.
/// A second client sends the same, beginning at the other gateway.
fn ask_until_over(world: &Field<'_>, client: usize, progress: &Progress) -> Vec<Story> {
    let mut stories = Vec::new();
    while !progress.is_over.load(Ordering::Relaxed) {
        let number = stories.len();
        let path = format!("/storm/{}-{number}", client / 2);
        let mut story = Story { path, answers: Vec::new() };
        for again in 0..3 {
            story.answers.extend(ask(world, &story.path, client + number + again));
            progress.answered.fetch_add(1, Ordering::Relaxed);
        }
        stories.push(story);
    }
    stories
}

/// Sends the request for a path to the gateway with this number, and holds the answer to the bound. There is none only
/// if the gateway has been killed.
fn ask(world: &Field<'_>, path: &str, gateway: usize) -> Option<Response> {
    let gateway = &world.gateways[gateway % world.gateways.len()];
    // One key for all: the paths tell the operations apart, and a mix-up would show as another's answer.
    let request = gateway.post(path).key("k").body("ten").header("x-test-delay-ms", "10");
    let asked = Instant::now();
    let answer = request.try_send();
    let took = asked.elapsed();
    assert!(took < BOUND, "{path} took {took:?}: {answer:?}");
    assert!(answer.is_ok() || !gateway.is_running(), "{path}: {answer:?}");
    answer.ok()
}

/// Asks until the operation has succeeded, at every gateway in turn.
fn settle(world: &Field<'_>, mut story: Story) -> Story {
    let mut turn = 0;
    let success = wait_for(&format!("{} has succeeded", story.path), PATIENCE, || {
        turn += 1;
        story.answers.extend(ask(world, &story.path, turn));
        story.answers.last().filter(|answer| answer.status == 201).cloned()
    });
    if let Err(message) = success {
        panic!("{message} Told {:?}", told(&story.answers));
    }
    story
}

fn judge(world: &Field<'_>, stories: &[Story], promise: Promise) {
    let entries = world.ledger.entries();
    let mut by_path: HashMap<&str, Vec<&Entry>> = HashMap::new();
    for entry in &entries {
        by_path.entry(&entry.path).or_default().push(entry);
    }
    assert!(stories.len() > CLIENTS, "the storm was none: {} operations", stories.len());
    for Story { path, answers } in stories {
        let executions = by_path.get(path.as_str()).map(Vec::as_slice).unwrap_or_default();
        let told = told(answers);
        let count = executions.len();
        assert!((1..=promise.executions).contains(&count), "{path} executed {count} times; told {told:?}");
        let attempts: Vec<_> = executions.iter().map(|entry| entry.attempt.expect("it ran under a claim")).collect();
        assert!(!promise.attempts_rise || attempts.is_sorted_by(|one, next| one < next), "{path}: {attempts:?}");
        let distinct: HashSet<_> = attempts.iter().collect();
        assert!(!promise.nothing_stored_is_lost || distinct.len() == count, "{path}: {attempts:?}");
        let gaps = executions.windows(2).map(|pair| pair[1].at - pair[0].at);
        let closest = gaps.min().unwrap_or(Duration::MAX);
        assert!(closest >= promise.apart, "{path} executed twice within {closest:?}; told {told:?}");
        assert!(executions.iter().all(|entry| entry.operation == executions[0].operation), "{path}");

        let mut stored: Option<&[u8]> = None;
        for answer in answers {
            let line = said(answer);
            match answer.status {
                201 => {
                    let whose = executed_as(&entries, answer);
                    assert_eq!(whose.path, *path, "the answer to another operation: {}", shown(answer));
                    let is_replay = line.starts_with("replayed;");
                    assert!(is_replay || line.starts_with("executed;stored="), "{line}");
                    assert_eq!(is_replay, answer.header("idempotent-replayed").is_some(), "{}", shown(answer));
                    if promise.nothing_stored_is_lost
                        && let Some(stored) = stored
                    {
                        assert!(is_replay && answer.body == stored, "{path}: {told:?}");
                    }
                    if is_replay || line.contains("stored=?1") {
                        stored = Some(&answer.body);
                    }
                }
                503 => assert!(is_refusal(answer, "store-unavailable"), "{}", shown(answer)),
                429 => assert!(is_refusal(answer, "in-flight"), "{}", shown(answer)),
                409 => assert!(is_refusal(answer, "outcome-unknown"), "{}", shown(answer)),
                _ => panic!("{path}: {}", shown(answer)),
            }
        }
    }
}

/// What a client was told, without repetitions.
fn told(answers: &[Response]) -> Vec<&str> {
    let mut told: Vec<_> = answers.iter().map(said).collect();
    told.dedup();
    told
}

/// The execution that this body came from, by the number in it.
fn executed_as<'a>(entries: &'a [Entry], answer: &Response) -> &'a Entry {
    let text = answer.text();
    let number = text.strip_prefix(r#"{"id":"pay_"#).and_then(|rest| rest.strip_suffix(r#""}"#));
    let number: usize =
        number.and_then(|digits| digits.parse().ok()).unwrap_or_else(|| panic!("no answer of the ledger: {text}"));
    assert_eq!(answer.header("location"), Some(format!("/payments/{number}").as_str()));
    &entries[number - 1]
}

fn deal(mut hands: Vec<Vec<Story>>, story: Story) -> Vec<Vec<Story>> {
    let shortest = (0..hands.len()).min_by_key(|hand| hands[*hand].len()).expect("there is a hand");
    hands[shortest].push(story);
    hands
}

/// For a storm: leases that outlive it, so that a second execution has no excuse.
pub fn document() -> serde_json::Value {
    json!({ "policy": { "lease_ms": 120_000, "ttl_s": 1800 } })
}

const CLIENTS: usize = 8;
/// How many answers come before the trouble, and after it.
const CALM: usize = 100;
