//! Trouble with the store while two gateways are under load.
//!
//! Its one rule: a lease outlives the test and nothing acknowledged is lost, so no operation may execute twice.
//! It does not know of lost writes: see `redis_losses.rs`.

use std::time::{Duration, Instant};

use harness::redis::DURABLE;
use harness::{Fault, PATIENCE, Redis, SharedWorld, wait_until};

use crate::redis_load::{Promise, document, storm};

#[test]
fn redis_is_killed_and_comes_back() {
    let world = SharedWorld::on(Redis::with(&DURABLE), document());
    storm(&world, Promise::ONCE, |progress| {
        world.redis.kill();
        progress.wait_for(200);
        world.redis.restart();
    });
}

#[test]
fn redis_stands_still_for_three_seconds() {
    let world = SharedWorld::start(document());
    storm(&world, Promise::ONCE, |progress| {
        let stopped = Instant::now();
        world.redis.freeze();
        wait_until("three seconds have passed", PATIENCE, || stopped.elapsed() > Duration::from_secs(3));
        progress.wait_for(1);
        world.redis.thaw();
    });
}

#[test]
fn webdis_is_killed_and_comes_back() {
    let world = SharedWorld::start(document());
    storm(&world, Promise::ONCE, |progress| {
        world.webdis.kill();
        progress.wait_for(200);
        world.webdis.restart();
    });
}

#[test]
fn the_store_answers_after_ten_seconds() {
    let world = SharedWorld::start(document());
    storm(&world, Promise::ONCE, |progress| {
        world.interposer.set(Fault::DelayReply(Duration::from_secs(10)));
        progress.wait_for(200);
        world.interposer.set(Fault::Pass);
    });
}

#[test]
fn calls_reach_the_store_when_nobody_waits_for_them_any_more() {
    let world = SharedWorld::start(document());
    storm(&world, Promise::ONCE, |progress| {
        world.interposer.set(Fault::Late(Duration::from_millis(600)));
        progress.wait_for(200);
        world.interposer.set(Fault::Pass);
    });
}

#[test]
fn calls_and_replies_are_cut() {
    let world = SharedWorld::start(document());
    storm(&world, Promise::ONCE, |progress| {
        for _ in 0..10 {
            for fault in [Fault::CutBefore, Fault::CutAfter, Fault::CutInside, Fault::Pass] {
                world.interposer.next(2, fault);
            }
            progress.wait_for(20);
        }
        for fault in [Fault::CutBefore, Fault::CutAfter, Fault::CutInside] {
            world.interposer.set(fault);
            progress.wait_for(50);
        }
        world.interposer.set(Fault::Pass);
    });
}

#[test]
fn replies_are_swapped() {
    let world = SharedWorld::start(document());
    storm(&world, Promise::ONCE, |progress| {
        for _ in 0..10 {
            world.interposer.next(4, Fault::Swap);
            progress.wait_for(20);
        }
        world.interposer.set(Fault::Swap);
        progress.wait_for(50);
        world.interposer.set(Fault::Pass);
    });
    assert!(world.counted("store_failures.nonce") > 0);
}

#[test]
fn replies_are_made_up() {
    let world = SharedWorld::start(document());
    storm(&world, Promise::ONCE, |progress| {
        let html = b"<html>It works!</html>".to_vec();
        for fault in [
            Fault::SayAfter(200, html),
            Fault::SayAfter(200, b"*1\r\n$1\r\nG\r\n".to_vec()),
            Fault::SayAfter(502, Vec::new()),
            Fault::error("LOADING Redis is loading the dataset in memory"),
        ] {
            for _ in 0..5 {
                world.interposer.next(2, fault.clone());
                progress.wait_for(10);
            }
            world.interposer.set(fault);
            progress.wait_for(30);
            world.interposer.set(Fault::Pass);
        }
    });
}
