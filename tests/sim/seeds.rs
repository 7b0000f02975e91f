//! Many seeds, and what a failing one is made of.
//!
//! Its one rule: a failing seed is printed with the smallest plan that still fails, and its transcript.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use crate::coverage::Coverage;
use crate::oracle::judge;
use crate::plan::Plan;

/// Without `SEEDS`, so that it can be part of every test run.
const FEW: u64 = 150;
/// With so many, everything that can be reached must be.
const MANY: u64 = 20_000;

#[test]
fn many_seeds_break_no_promise() {
    let count = std::env::var("SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(FEW);
    let first = std::env::var("FIRST_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(0);
    let next = AtomicU64::new(first);
    let failed = AtomicBool::new(false);
    let work = || {
        let mut coverage = Coverage::default();
        let mut failure = None;
        while !failed.load(Ordering::Relaxed) {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= first + count {
                break;
            }
            let (world, wrong) = judge(&Plan::new(seed), false);
            coverage.add(&world.coverage);
            if !wrong.is_empty() {
                failed.store(true, Ordering::Relaxed);
                failure = Some(seed);
            }
        }
        (coverage, failure)
    };
    let mut coverage = Coverage::default();
    let mut failures = Vec::new();
    thread::scope(|scope| {
        let threads: Vec<_> = (0..2).map(|_| scope.spawn(work)).collect();
        for thread in threads {
            let (part, failure) = thread.join().expect("a worker panicked");
            coverage.add(&part);
            failures.extend(failure);
        }
    });
    if let Some(seed) = failures.into_iter().min() {
        report(&shrunk(Plan::new(seed)));
        panic!("seed {seed} breaks a promise: see the transcript above");
    }
    println!("{count} seeds, 0 violations");
    coverage.print();
    if count >= 10 * FEW {
        assert_eq!(coverage.unused(), [], "faults that never struck");
        assert_eq!(coverage.unmet_on_streams(), [""; 0], "what never happened to a stream");
    }
    if cfg!(feature = "mutants") && count >= MANY {
        assert_eq!(coverage.unreached(), [""; 0], "never reached");
    }
}

/// Seeds in which a lock was taken back from who was granted it later, an attempt ran after a larger one, a stream stayed one reply behind, or what was owed no more was shown as running, and worlds in which
/// the oracle once took a clock, a loss, a late withdrawal or a worker that had drained for the gateway's fault.
#[test]
fn seeds_that_once_failed_do_not_fail_again() {
    for seed in [
        5103, 8111, 16_000, 60_815, 129_615, 135_377, 1_026_204, 1_052_977, 1_096_353, 3_007_853, 3_018_438, 3_054_090,
        3_160_036, 3_161_951, 3_212_501, 3_304_503, 3_344_339, 3_710_448, 3_883_857, 3_885_576,
    ] {
        let wrong = judge(&Plan::new(seed), false).1;
        assert!(wrong.is_empty(), "seed {seed}: {wrong:?}");
    }
}

/// Every safety rule matters: without it the oracle finds something wrong within so many seeds.
#[cfg(feature = "mutants")]
#[test]
fn every_mutant_is_caught() {
    use envoy_idempotency::mutant::{Mutant, breach};
    const MOST: u64 = 10_000;
    let caught_after = |mutant| {
        breach(Some(mutant));
        let caught = (0..MOST).find_map(|seed| Some((seed, judge(&Plan::new(seed), false).1.into_iter().next()?)));
        breach(None);
        caught
    };
    let mut missed = Vec::new();
    for mutant in Mutant::ALL {
        match caught_after(mutant) {
            Some((seed, wrong)) => println!("{mutant:?}: caught after {} seeds: {wrong}", seed + 1),
            None => missed.push(mutant),
        }
    }
    assert_eq!(missed, [], "not caught within {MOST} seeds");
}

/// Where calls go out on streams, the rules that keep replies and questions together matter there too.
#[cfg(feature = "mutants")]
#[test]
fn every_mutant_of_the_streams_is_caught_on_streams() {
    use envoy_idempotency::mutant::Mutant::{
        self, LostUndone, NonceIgnored, PlaceForgotten, SilenceKept, StrangerKept,
    };
    use envoy_idempotency::mutant::breach;
    for mutant in [Mutant::GhostGranted, LostUndone, NonceIgnored, PlaceForgotten, SilenceKept, StrangerKept] {
        breach(Some(mutant));
        let mut plans = (0..10_000).map(Plan::new).filter(Plan::has_streams);
        let caught = plans.find_map(|plan| Some((plan.seed, judge(&plan, false).1.into_iter().next()?)));
        breach(None);
        let (seed, wrong) = caught.unwrap_or_else(|| panic!("{mutant:?} was not caught on streams"));
        println!("{mutant:?}: caught in seed {seed}: {wrong}");
    }
}

/// The rules of turns are those that matter where requests for one resource run one at a time.
#[cfg(feature = "mutants")]
#[test]
fn every_mutant_of_turns_breaks_the_promise_of_turns() {
    use envoy_idempotency::mutant::Mutant::{FenceReused, LockNotRenewed, LockSkipped, OthersUnlocked, UnlockedEarly};
    use envoy_idempotency::mutant::breach;
    for mutant in [FenceReused, LockNotRenewed, LockSkipped, OthersUnlocked, UnlockedEarly] {
        breach(Some(mutant));
        let mut plans = (0..20_000).map(Plan::new).filter(|plan| plan.serializes_ms.is_some());
        let of_turns = |plan: &Plan| judge(plan, false).1.into_iter().find(|wrong| wrong.starts_with("I10"));
        let caught = plans.find_map(|plan| Some((plan.seed, of_turns(&plan)?)));
        breach(None);
        let (seed, wrong) = caught.unwrap_or_else(|| panic!("{mutant:?} was not caught"));
        println!("{mutant:?}: caught in seed {seed}: {wrong}");
    }
}

/// Leaves out faults, clients, gateways and workers for as long as something still goes wrong.
fn shrunk(mut plan: Plan) -> Plan {
    // The same promise, or else it could become another story.
    let promise = judge(&plan, false).1[0][..2].to_owned();
    let fails = |plan: &Plan| judge(plan, false).1.iter().any(|wrong| wrong.starts_with(&promise));
    loop {
        let before = (plan.faults, plan.clients.len());
        for fault in plan.faults.list() {
            let smaller = Plan { faults: plan.faults.without(fault), ..plan.clone() };
            if fails(&smaller) {
                plan = smaller;
            }
        }
        for client in (0..plan.clients.len()).rev() {
            let mut smaller = plan.clone();
            smaller.clients.remove(client);
            if fails(&smaller) {
                plan = smaller;
                continue;
            }
            while plan.clients[client].tries > 1 {
                let mut smaller = plan.clone();
                smaller.clients[client].tries -= 1;
                if !fails(&smaller) {
                    break;
                }
                plan = smaller;
            }
        }
        for smaller in [Plan { gateways: 1, ..plan.clone() }, Plan { workers: 1, ..plan.clone() }] {
            if fails(&smaller) {
                plan = smaller;
            }
        }
        if before == (plan.faults, plan.clients.len()) {
            return plan;
        }
    }
}

fn report(plan: &Plan) {
    let (world, wrong) = judge(plan, true);
    println!("seed {}, shrunk to {} clients and {:?}", plan.seed, plan.clients.len(), plan.faults.list());
    println!(
        "{} gateways of {} workers, forwards: {}, holds: {}, conflicts: {}, leases {:?} ms, ttl {} s, {:?}, {:?}",
        plan.gateways,
        plan.workers,
        plan.forwards,
        plan.holds,
        plan.conflicts,
        plan.leases_ms,
        plan.ttl_s,
        plan.limits,
        plan.shields
    );
    world.transcript.iter().flatten().for_each(|line| println!("{line}"));
    wrong.iter().for_each(|line| println!("WRONG {line}"));
}
