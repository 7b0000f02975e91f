//! This filter among others, each as it comes: in front, behind, one on each side, and under the settings of connection
//! managers and routes.
//!
//! Its one rule: what a row says is tried in each exchange, inline and shielded, and so is every pair of rows.
//! It does not know what a neighbour is for: that is `harness::neighbours`.

mod chain;
mod exchanges;
mod settings;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use harness::neighbours::Truth;

use chain::{EXECUTIONS, Way, table, world};
use exchanges::EXCHANGES;
pub use exchanges::text;

/// Runs all of these, some at a time, and tells every one that went wrong.
fn all(tries: &[(Way, usize)]) {
    let world = world();
    let next = AtomicUsize::new(0);
    let failed: Vec<String> = thread::scope(|scope| {
        let workers: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    let mut failed = Vec::new();
                    while let Some((way, exchange)) = tries.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let (name, exchange) = EXCHANGES[*exchange];
                        if let Err(why) = exchange(&world, way) {
                            failed.push(format!("{way}, {name}: {why}"));
                        }
                    }
                    failed
                })
            })
            .collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
    });
    assert!(failed.is_empty(), "{} of {} are wrong:\n{}", failed.len(), tries.len(), failed.join("\n"));
}

/// Whether Envoy itself now and then loses the body of an answer between these two, without this filter too: the one
/// behind still holds the body when the one in front lets the head go, and Envoy takes the answer for whole.
fn is_envoys_own(front: &str, behind: &str, version: &str) -> bool {
    let holds_heads = ["ext_proc", "lua_that_pauses", "lua_that_reads", "lua_that_wraps"].contains(&front);
    let is_old = version < "1.40";
    (front, behind) == ("ext_proc", "bandwidth_limit") || behind == "file_system_buffer" && holds_heads && is_old
}

#[test]
fn each_neighbour_alone_leaves_the_promise_as_its_row_says() {
    let places = table().iter().flat_map(|row| [(Some(row.name), None), (None, Some(row.name))]);
    let ways =
        places.flat_map(|(front, behind)| EXECUTIONS.map(|execution| Way { execution, front, behind, to: None }));
    let tries: Vec<_> = ways.flat_map(|way| (0..EXCHANGES.len()).map(move |exchange| (way, exchange))).collect();
    all(&tries);
}

#[test]
fn one_neighbour_in_front_and_one_behind_leave_the_promise() {
    let fronts: Vec<_> = table().iter().filter(|row| row.front.truth == Truth::Holds).collect();
    let behinds: Vec<_> = table().iter().filter(|row| row.behind.truth == Truth::Holds).collect();
    let version = world().gateway.version();
    let mut tries = Vec::new();
    let mut pairs = 0;
    for front in &fronts {
        for behind in &behinds {
            let credentials = [front.credential, behind.credential].into_iter().flatten().collect::<Vec<_>>();
            let do_differ = matches!(credentials[..], [one, other] if one != other);
            if do_differ || is_envoys_own(front.name, behind.name, &version) {
                continue;
            }
            pairs += 1;
            for execution in EXECUTIONS {
                let way = Way { execution, front: Some(front.name), behind: Some(behind.name), to: None };
                tries.extend((0..EXCHANGES.len()).map(|exchange| (way, exchange)));
            }
        }
    }
    assert!(pairs > 500, "only {pairs} pairs were tried");
    all(&tries);
}
