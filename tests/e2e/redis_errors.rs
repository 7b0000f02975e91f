//! What a store can say instead of an answer, and what the client, the service and the counters hear of it.
//!
//! Its one rule: the store fails in one known way at a time, at one gateway.
//! It does not know of load.

use std::time::{Duration, Instant};

use envoy_idempotency::record::State;
use harness::{Dialect, Fault, PATIENCE, Redis, Request, Response, SharedWorld, send_all, wait_for, wait_until};
use serde_json::{Value, json};

use crate::check::{executed, not_stored, refused, replays, said, shown};
use crate::redis::{held, key_of, record};

/// One gateway whose breaker never opens, with what the rest of the policy says.
fn alone(policy: Value) -> SharedWorld {
    SharedWorld::alone(document(policy))
}

fn document(mut policy: Value) -> Value {
    policy["ttl_s"] = json!(1800);
    json!({ "store": { "breaker": { "failures": 1000 } }, "policy": policy })
}

/// The request is refused without an execution and counted so, and succeeds when the store is well again.
#[track_caller]
fn fails(world: &SharedWorld, request: &Request, reason: &str, cure: impl FnOnce()) {
    // On a stream that is given up because of an earlier withdrawal it is lost as well.
    let reasons = match Dialect::chosen() {
        Dialect::Resp => vec![reason, "garbage", "transport"],
        Dialect::Webdis => vec![reason],
    };
    let counts = || reasons.iter().map(|reason| world.counted(&format!("store_failures.{reason}"))).sum::<u64>();
    let before = counts();
    refused(&request.send(), 503, "store-unavailable", Some("1"));
    let failures = world.gateways[0].admin("/stats?filter=store_failures");
    let counted: String = failures.lines().filter(|line| !line.ends_with(": 0")).collect();
    // Withdrawing the claim fails too, and may be counted by now.
    assert!(counts() > before, "{reason}, of {counted}");
    assert_eq!(world.ledger.entries_for(request.path()).len(), 0, "{reason}");
    cure();
    succeeds(world, request);
}

/// The request executes once, as soon as the store is well.
#[track_caller]
fn succeeds(world: &SharedWorld, request: &Request) {
    let answer = wait_for("the store is well", PATIENCE, || Some(request.send()).filter(|answer| answer.status == 201));
    assert!(said(&answer.unwrap()).starts_with("executed;stored=?1;"));
    assert_eq!(world.ledger.entries_for(request.path()).len(), 1);
}

/// The first success, which is a replay.
#[track_caller]
pub fn replayed(request: &Request) -> Response {
    let answer = wait_for("it is stored", PATIENCE, || Some(request.send()).filter(|answer| answer.status == 201));
    let answer = answer.unwrap_or_else(|message| panic!("{message}"));
    assert!(said(&answer).starts_with("replayed;"), "{}", shown(&answer));
    answer
}

#[test]
fn every_error_of_redis_has_its_counter() {
    let world = alone(json!({}));
    let errors = [
        ("oom", "OOM command not allowed when used memory > 'maxmemory'."),
        ("loading", "LOADING Redis is loading the dataset in memory"),
        ("readonly", "READONLY You can't write against a read only replica."),
        ("noreplicas", "NOREPLICAS Not enough good replicas to write."),
        ("misconf", "MISCONF Redis is configured to save RDB snapshots, but it is unable to persist to disk."),
        ("masterdown", "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'."),
        ("busy", "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE."),
        ("noauth", "NOAUTH Authentication required."),
        ("noperm", "NOPERM this user has no permissions to run the 'evalsha' command"),
        ("moved", "MOVED 3999 127.0.0.1:6381"),
        ("crossslot", "CROSSSLOT Keys in request don't hash to the same slot"),
        ("clusterdown", "CLUSTERDOWN The cluster is down"),
        ("noscript", "NOSCRIPT No matching script. Please use EVAL."),
    ];
    for (reason, text) in errors {
        world.interposer.set(Fault::error(text));
        let pay = world.post(&format!("/errors/{reason}")).key("k").body("ten");
        fails(&world, &pay, reason, || world.interposer.set(Fault::Pass));
    }
}

#[test]
fn what_is_no_answer_is_never_taken_for_one() {
    let world = alone(json!({}));
    // On a stream a part of a reply is none yet, and another status is an end.
    let on_stream = Dialect::chosen() == Dialect::Resp;
    let (part, end) = if on_stream { ("timeout", "transport") } else { ("garbage", "garbage") };
    let cases: [(&str, u16, &[u8]); 14] = [
        (part, 200, b""),
        ("garbage", 200, b"<html><body>It works!</body></html>"),
        ("garbage", 200, b"{\"EVALSHA\":[]}"),
        ("garbage", 200, b"$-1\r\n"),
        ("garbage", 200, b"*-1\r\n"),
        ("garbage", 200, b"+OK\r\n"),
        ("garbage", 200, b":1\r\n"),
        // On a stream the next part belongs to it as well.
        ("garbage", 200, b"*1\r\n$4\r\nGG"),
        ("garbage", 200, b"*1\r\n$99999999999999999999\r\nG\r\n"),
        ("garbage", 200, b"*1\r\n$1\r\nG\r\n"),
        ("garbage", 200, b"*2\r\n$1\r\nG\r\n$1\r\nG\r\n"),
        ("nonce", 200, b"*0\r\n"),
        ("nonce", 200, b"*1\r\n$17\r\n0123456789abcdefO\r\n"),
        (end, 302, b""),
    ];
    for (case, (reason, status, body)) in cases.into_iter().enumerate() {
        world.interposer.set(Fault::Say(status, body.to_vec()));
        let pay = world.post(&format!("/garbage/{case}")).key("k").body("ten");
        fails(&world, &pay, reason, || world.interposer.set(Fault::Pass));
    }
}

#[test]
fn a_silent_store_and_a_lost_one_are_told_apart() {
    let world = alone(json!({}));
    let pay = |path: &str| world.post(path).key("k").body("ten");
    let well = || world.interposer.set(Fault::Pass);
    for (path, reason, fault) in [
        ("/lost/silent", "timeout", Fault::Silence),
        ("/lost/slow", "timeout", Fault::DelayReply(Duration::from_secs(10))),
        ("/lost/late", "timeout", Fault::Late(Duration::from_millis(400))),
        ("/lost/before", "transport", Fault::CutBefore),
        ("/lost/after", "transport", Fault::CutAfter),
        ("/lost/inside", "transport", Fault::CutInside),
        ("/lost/unavailable", "transport", Fault::Say(503, Vec::new())),
    ] {
        world.interposer.set(fault);
        let asked = Instant::now();
        fails(&world, &pay(path), reason, || {
            assert!(asked.elapsed() < Duration::from_secs(3), "{path} took {:?}", asked.elapsed());
            well();
        });
    }
    world.interposer.close();
    fails(&world, &pay("/lost/refused"), "transport", || world.interposer.open());
    world.redis.kill();
    fails(&world, &pay("/lost/redis"), "transport", || world.redis.restart());
}

#[test]
fn an_answer_to_another_question_does_not_count() {
    let world = alone(json!({}));
    executed(&world.post("/swapped/first").key("k").body("ten").send(), 1);
    if Dialect::chosen() == Dialect::Resp {
        // This one leaves its reply for the next, and keeps it.
        world.interposer.next(1, Fault::Swap);
        executed(&world.post("/swapped/second").key("k").body("ten").send(), 1);
    }
    // From Webdis before 0.1.20 the first try gets nothing, and the second gets the first one's reply.
    let pay = world.post("/swapped/alone").key("k").body("ten");
    world.interposer.set(Fault::Swap);
    fails(&world, &pay, "nonce", || world.interposer.set(Fault::Pass));

    let pays = ["/swapped/a", "/swapped/b"].map(|path| world.post(path).key("k").body("ten"));
    world.interposer.set(Fault::Swap);
    let answers = send_all(&pays);
    world.interposer.set(Fault::Pass);
    for (pay, answer) in pays.iter().zip(answers) {
        refused(&answer, 503, "store-unavailable", Some("1"));
        assert_eq!(world.ledger.entries_for(pay.path()).len(), 0);
        succeeds(&world, pay);
    }
}

#[test]
fn one_lost_try_is_not_seen_by_the_client() {
    let world = alone(json!({}));
    executed(&world.post("/tries/first").key("k").body("ten").send(), 1);
    // A stream that is silent is so for the next try as well.
    let silence = (Dialect::chosen() == Dialect::Webdis).then_some(Fault::Silence);
    for (case, fault) in [Fault::CutBefore, Fault::CutAfter, Fault::CutInside, Fault::Say(200, b"<html>".to_vec())]
        .into_iter()
        .chain(silence)
        .enumerate()
    {
        let pay = world.post(&format!("/tries/{case}")).key("k").body("ten");
        world.interposer.next(1, fault);
        let first = pay.send();
        executed(&first, 1);
        replays(&pay.send(), &first);
        assert_eq!(world.ledger.entries_for(pay.path()).len(), 1);
    }
}

#[test]
fn while_the_breaker_is_open_nobody_waits() {
    let breaker = json!({ "failures": 2, "open_ms": 2000 });
    let document = json!({ "store": { "timeout_ms": 500, "breaker": breaker }, "policy": { "ttl_s": 1800 } });
    let world = SharedWorld::with(Redis::start(), &[document], |options| options.concurrency(1));
    let pay = |n: usize| world.post(&format!("/breaker/{n}")).key("k").body("ten");
    world.interposer.set(Fault::Silence);
    let opened = wait_for("the breaker opens", PATIENCE, || {
        refused(&pay(1).send(), 503, "store-unavailable", Some("1"));
        (world.counted("store_failures.breaker") > 0).then(Instant::now)
    });
    let calls = world.interposer.calls();
    refused(&pay(2).send(), 503, "store-unavailable", Some("1"));
    assert_eq!(world.interposer.calls(), calls);

    world.interposer.set(Fault::Pass);
    succeeds(&world, &pay(3));
    assert!(opened.unwrap().elapsed() > Duration::from_secs(1), "a breaker that closes at once is none");
}

#[test]
fn a_full_redis_refuses_new_keys_and_keeps_what_it_has() {
    let redis = Redis::with(&["--maxmemory-policy", "noeviction"]);
    let world = SharedWorld::with(redis, &[document(json!({}))], |options| options);
    let pay = |path: &str| world.post(path).key("k").body("ten");
    let before = pay("/full/before").send();
    executed(&before, 1);
    let mut running = held(&world, &world.post("/full/running").key("k"), "full");

    world.redis.ask(&["CONFIG", "SET", "maxmemory", "1"]);
    let counted = world.counted("store_failures.oom");
    refused(&pay("/full/new").send(), 503, "store-unavailable", Some("1"));
    assert_eq!(world.ledger.entries_for("/full/new").len(), 0);
    replays(&pay("/full/before").send(), &before);
    world.ledger.open("full");
    let unsaved = running.response();
    not_stored(&unsaved, 201, 1, "completed");
    assert!(world.counted("store_failures.oom") >= counted + 2);

    world.redis.ask(&["CONFIG", "SET", "maxmemory", "0"]);
    succeeds(&world, &pay("/full/new"));
    assert_eq!(replayed(&pay("/full/running")).body, unsaved.body);
    assert_eq!(world.ledger.entries_for("/full/running").len(), 1);
}

#[test]
fn a_redis_that_may_not_write_refuses() {
    let world = alone(json!({}));
    let pay = |path: &str| world.post(path).key("k").body("ten");
    let set = |name: &str, value: &str| world.redis.ask(&["CONFIG", "SET", name, value]);
    set("min-replicas-to-write", "1");
    fails(&world, &pay("/writes/replicas"), "noreplicas", || {
        set("min-replicas-to-write", "0");
    });
    let port = world.interposer.addr().port().to_string();
    world.redis.ask(&["REPLICAOF", "127.0.0.1", &port]);
    fails(&world, &pay("/writes/replica"), "readonly", || {
        world.redis.ask(&["REPLICAOF", "NO", "ONE"]);
    });
}

#[test]
fn a_completion_that_fails_still_gives_the_client_its_answer() {
    let mut document = document(json!({ "lease_ms": 1000 }));
    document["rules"] =
        json!([{ "match": { "path": { "prefix": "/after" } }, "policy": { "save": "after_reply" } }, {}]);
    let world = SharedWorld::with(Redis::start(), &[document], |options| options);
    let pays = ["/before", "/after"].map(|path| world.post(path).key("k"));
    let mut running = pays.each_ref().map(|pay| held(&world, pay, "unsaved"));
    world.interposer.set(Fault::Silence);
    world.ledger.open("unsaved");
    let [before, after] = running.each_mut().map(|connection| connection.response());
    not_stored(&before, 201, 1, "completed");
    assert_eq!((after.status, said(&after)), (201, "executed;attempt=1"));

    // What this gateway owes the store it does not execute again, though the lease is over.
    let [before_again, after_again] = pays.map(|pay| pay.body("ten"));
    let asked = Instant::now();
    wait_until("two leases have passed", PATIENCE, || {
        for pay in [&before_again, &after_again] {
            let answer = pay.send();
            assert!([429, 503].contains(&answer.status), "{}", shown(&answer));
        }
        asked.elapsed() > Duration::from_secs(2)
    });
    world.interposer.set(Fault::Pass);
    assert_eq!(replayed(&before_again).body, before.body);
    assert_eq!(replayed(&after_again).body, after.body);
    assert_eq!(world.ledger.entries().len(), 2);
}

#[test]
fn after_reply_the_client_does_not_wait_for_the_store() {
    let world = alone(json!({ "save": "after_reply" }));
    let pay = world.post("/after").key("k").body("ten");
    let first = pay.send();
    assert_eq!((first.status, said(&first)), (201, "executed;attempt=1"));
    assert_eq!(replayed(&pay).body, first.body);

    let slow = world.post("/after/slow").key("k");
    let mut running = held(&world, &slow, "after-slow");
    world.interposer.set(Fault::DelayReply(Duration::from_millis(200)));
    let calls = world.interposer.calls();
    world.ledger.open("after-slow");
    assert_eq!(said(&running.response()), "executed;attempt=1");
    world.interposer.wait_for_calls(calls + 1);
    wait_until("it is stored", PATIENCE, || world.counted("stored") == 2);
}

#[test]
fn forward_lets_requests_through_and_says_so() {
    let world = alone(json!({ "on_store_failure": "forward" }));
    let pay = world.post("/forward").key("k").body("ten");
    let calls = world.interposer.calls();
    world.interposer.set(Fault::CutBefore);
    let first = pay.send();
    assert_eq!((first.status, said(&first)), (201, "bypassed;reason=store-failure"));
    world.interposer.wait_for_calls(calls + 1);
    let entry = world.ledger.entries_for("/forward").remove(0);
    assert_eq!((entry.key.as_deref(), entry.operation, entry.attempt), (Some("k"), None, None));
    assert_eq!(world.counted("bypassed.store-failure"), 1);

    world.interposer.set(Fault::Pass);
    // A bypass has no operation for the service to see, so the key is the only one there is.
    let is_completed = || {
        let keys = world.redis.keys();
        let key = keys.first().map(|key| String::from_utf8_lossy(key).into_owned());
        key.and_then(|key| record(&world, &key)).is_some_and(|record| matches!(record.state, State::Completed { .. }))
    };
    wait_until("it is stored", PATIENCE, is_completed);
    let again = replayed(&pay);
    assert_eq!(again.body, first.body);
    assert_eq!(world.ledger.entries_for("/forward").len(), 1);
}

#[test]
fn what_ran_under_forward_runs_on_no_worker_again_while_the_store_must_still_hear_of_it() {
    let world = alone(json!({ "on_store_failure": "forward" }));
    let pay = world.post("/forward/owed").key("k").body("ten");
    world.interposer.close();
    let first = pay.send();
    assert_eq!((first.status, said(&first)), (201, "bypassed;reason=store-failure"));
    // Each on a connection of its own, and so on either worker.
    for _ in 0..20 {
        refused(&pay.send(), 429, "in-flight", Some("1"));
    }
    world.interposer.open();
    assert_eq!(replayed(&pay).body, first.body);
    assert_eq!(world.ledger.entries_for(pay.path()).len(), 1);
}

#[test]
fn what_finished_in_an_outage_runs_on_no_worker_again_however_long_it_lasts() {
    // Nothing of what is owed is tried, and nothing is remembered for longer than a second.
    let world = SharedWorld::alone(json!({
        "store": { "breaker": { "failures": 1, "open_ms": 60_000 }, "cache": { "ttl_s": 1 } },
        "policy": { "on_store_failure": "forward", "lease_ms": 1000, "ttl_s": 1800 },
    }));
    let pays: Vec<_> = (0..20).map(|number| world.post("/outage").key(format!("k{number}")).body("ten")).collect();
    let mut running: Vec<_> = pays.iter().map(|pay| held(&world, pay, "outage")).collect();
    world.interposer.close();
    world.ledger.open("outage");
    running.iter_mut().for_each(|pay| not_stored(&pay.response(), 201, 1, "completed"));
    let end = Instant::now() + Duration::from_secs(3);
    while Instant::now() < end {
        pays.iter().for_each(|pay| refused(&pay.send(), 429, "in-flight", Some("1")));
    }
    assert_eq!(world.ledger.entries_for("/outage").len(), pays.len());
}

#[test]
fn a_failure_under_forward_leaves_the_key_free() {
    let world = alone(json!({ "on_store_failure": "forward" }));
    let pay = world.post("/forward").key("k").body("ten");
    world.interposer.set(Fault::CutAfter);
    let failed = pay.clone().header("x-test-status", "422").send();
    assert_eq!((failed.status, said(&failed)), (422, "bypassed;reason=store-failure"));
    world.interposer.set(Fault::Pass);
    let answer = wait_for("the key is free", PATIENCE, || {
        Some(pay.send()).filter(|answer| answer.status == 201 && !said(answer).starts_with("bypassed"))
    });
    assert!(said(&answer.unwrap()).starts_with("executed;stored=?1;"));
    assert_eq!(world.ledger.entries_for("/forward").len(), 2);
    let key = format!("idem:{}", world.ledger.entries_for("/forward")[1].operation.as_deref().unwrap());
    assert!(record(&world, &key).is_some());
}

#[test]
fn requests_that_no_rule_matches_do_not_feel_the_store() {
    let world = alone(json!({}));
    let others = || {
        let mut times: Vec<_> = (0..200)
            .map(|n| {
                let asked = Instant::now();
                let answer = world.request("GET", &format!("/others/{n}")).send();
                assert_eq!((answer.status, said(&answer)), (201, ""));
                asked.elapsed()
            })
            .collect();
        times.sort();
        times
    };
    let with_store = others();
    world.interposer.set(Fault::Silence);
    // Some that do wait for the store, all the while.
    let mut waiting: Vec<_> = (0..20)
        .map(|n| {
            let mut connection = world.post(&format!("/waiting/{n}")).key("k").body("ten").open();
            connection.write("ten");
            connection
        })
        .collect();
    let without = others();
    let [before, now] = [&with_store, &without].map(|times| times[times.len() / 2]);
    assert!(now < 5 * before + Duration::from_millis(5), "{before:?} with the store, {now:?} without");
    for connection in &mut waiting {
        refused(&connection.response(), 503, "store-unavailable", Some("1"));
    }
    assert!(world.ledger.entries().iter().all(|entry| entry.path.starts_with("/others/")));
}

#[test]
fn what_the_service_did_before_the_store_failed_is_not_forgotten() {
    let world = alone(json!({ "lease_ms": 1000 }));
    let pay = world.post("/renewed").key("k");
    let mut first = held(&world, &pay, "renewed");
    let key = key_of(&world, "/renewed");
    // Leases end while nobody can renew them.
    world.redis.freeze();
    let frozen = Instant::now();
    wait_until("two leases have passed", PATIENCE, || frozen.elapsed() > Duration::from_secs(2));
    world.redis.thaw();
    world.ledger.open("renewed");
    let first = first.response();
    assert_eq!(first.status, 201);
    wait_until("it is completed", PATIENCE, || {
        record(&world, &key)
            .is_some_and(|record| matches!(record.state, envoy_idempotency::record::State::Completed { .. }))
    });
    assert_eq!(replayed(&pay.body("ten")).body, first.body);
    assert_eq!(world.ledger.entries_for("/renewed").len(), 1);
}
