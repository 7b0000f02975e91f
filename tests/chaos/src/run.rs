//! One world after the other, from the first injection to the judgement.
//!
//! One rule: a world is judged when its faults are over, its clients have settled everything, and its gateways are quiet.
//! It does not know what the classes do.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use harness::{PATIENCE, wait_for};

use crate::checker::{Violation, judge};
use crate::classes::{Class, Promise};
use crate::clock::now_us;
use crate::history::{Excuses, History, Span};
use crate::scene::Scene;
use crate::traffic::{Notes, Traffic};
use crate::world::{LEASE_MS, Store, World};
use host_model::Random;

/// Everybody is answered within this time: a wait of two seconds, a time-out of the service in one attempt and the next,
/// the store's tries before and after each, a gateway or store that stands still for longer than a lease, and what a
/// busy machine adds.
pub const BOUND: Duration = Duration::from_secs(8);

/// What came of one world.
pub struct Outcome {
    /// What was observed.
    pub history: History,
    /// Which class was injected from when on, in order of time.
    pub injected: Vec<(&'static str, u64)>,
    /// When the faults were over.
    pub calm_us: u64,
    /// What should not have been.
    pub violations: Vec<Violation>,
    /// What else is wrong.
    pub complaints: Vec<String>,
}

/// Starts a world with the store of the plan's classes, injects them in their order, and judges.
pub fn run(plan: &[&'static Class], random: &mut Random) -> Outcome {
    let world = World::start(plan.first().map_or(Store::Pair, |class| class.store));
    let traffic = Traffic::new(world.gateways.each_ref().map(|gateway| gateway.addr()));
    let mut scene = Scene::new(world, &traffic, random.fork());
    let mut random = random.fork();
    let is_watched = AtomicBool::new(true);
    let (mut injected, mut complaints) = (Vec::new(), Vec::new());
    let (notes, calm_us, pauses) = thread::scope(|scope| {
        let clients = scope.spawn(|| traffic.run(&mut random));
        let pauses = scope.spawn(|| watch(&is_watched));
        // A panic in the middle must end the clients too.
        let over = Over(&traffic, &is_watched);
        scene.recover();
        for class in plan {
            injected.push((class.name, now_us()));
            let before = scene.excuses.clone();
            (class.inject)(&mut scene);
            scene.recover();
            if !is_within(class.promise, &before, &scene.excuses) {
                complaints.push(format!("{} excuses more than its row says", class.name));
            }
            for gateway in scene.world.gateways.iter().filter(|gateway| !gateway.is_running()) {
                complaints.push(format!("{gateway:?} has ended by itself in {}", class.name));
            }
        }
        drop(over);
        let calm_us = now_us();
        let notes = clients.join().expect("the clients come to an end");
        is_watched.store(false, Ordering::Relaxed);
        (notes, calm_us, pauses.join().expect("who only sleeps does not panic"))
    });
    scene.excuses.pauses = pauses;
    complaints.extend(quiet(&scene.world));
    scene.note_reloads();
    if scene.reloads > 0 {
        complaints.push(format!("{} VMs were loaded again, and nothing had been done to them", scene.reloads));
    }
    let executions = scene.world.upstream.executions();
    let mut history = History {
        asked: Vec::new(),
        executions,
        excuses: scene.excuses,
        bound_us: BOUND.as_micros() as u64,
        lease_us: LEASE_MS * 1000,
    };
    for Notes { asked, stuck } in notes {
        history.asked.extend(asked);
        complaints.extend(stuck.iter().map(|(name, at_us)| format!("{name:?} was never settled from {at_us} us on")));
    }
    let violations = judge(&history);
    Outcome { history, injected, calm_us, violations, complaints }
}

/// Ends the clients; and should this be a panic, the watch too.
struct Over<'a>(&'a Traffic, &'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.end();
        if thread::panicking() {
            self.1.store(false, Ordering::Relaxed);
        }
    }
}

/// When this machine stood still: a thread that only sleeps slept for much longer than it wanted to.
fn watch(is_watched: &AtomicBool) -> Vec<Span> {
    let mut pauses = Vec::new();
    let mut from_us = now_us();
    while is_watched.load(Ordering::Relaxed) {
        thread::sleep(BLINK);
        let to_us = now_us();
        if to_us - from_us > PAUSE.as_micros() as u64 {
            pauses.push(Span { from_us, to_us });
        }
        from_us = to_us;
    }
    pauses
}

/// Whether the excuses that came are those that the promise allows.
fn is_within(promise: Promise, before: &Excuses, after: &Excuses) -> bool {
    let grown = [
        (after.losses.len() > before.losses.len(), Promise::UntilTheLoss),
        (after.jumps.len() > before.jumps.len(), Promise::Leases),
        (after.breaks.len() > before.breaks.len(), Promise::NoAnswer),
        (after.stalls.len() > before.stalls.len(), Promise::Order),
    ];
    grown.iter().all(|(has_grown, allowed)| !has_grown || *allowed == promise)
}

/// What does not come to rest.
fn quiet(world: &World) -> Vec<String> {
    let mut complaints = Vec::new();
    for gateway in &world.gateways {
        for gauge in ["running", "waiting", "outbox"] {
            let name = format!("wasmcustom.idempotency_{gauge}");
            let is_zero = || (gateway.stat(&name) == 0).then_some(());
            if wait_for("it is 0", PATIENCE, is_zero).is_err() {
                complaints.push(format!("{gateway:?}: {gauge} is {} and stays so", gateway.stat(&name)));
            }
        }
    }
    complaints
}

const BLINK: Duration = Duration::from_millis(20);
/// No scheduler keeps a thread waiting for so long that has just slept.
const PAUSE: Duration = Duration::from_millis(500);
