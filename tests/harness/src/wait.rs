//! Waiting for a condition, with a deadline.
//!
//! One rule: nothing in the tests waits by sleeping for a guessed time. Whoever waits says what for, and this is
//! the only place that sleeps between two looks.
//! It does not know what it waits for.

use std::thread;
use std::time::{Duration, Instant};

/// Time enough for anything that works, also on a busy machine with two cores.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Returns as soon as `condition` holds, and panics with `what` in the message when the deadline is over.
#[track_caller]
pub fn wait_until(what: &str, deadline: Duration, mut condition: impl FnMut() -> bool) {
    if let Err(message) = wait_for(what, deadline, || condition().then_some(())) {
        panic!("{message}");
    }
}

/// Returns the first `Some` that `look` finds, or a sentence with `what` in it when the deadline is over.
pub fn wait_for<T>(what: &str, deadline: Duration, mut look: impl FnMut() -> Option<T>) -> Result<T, String> {
    let started = Instant::now();
    loop {
        if let Some(found) = look() {
            return Ok(found);
        }
        if started.elapsed() >= deadline {
            return Err(format!("Waited {deadline:?} in vain until {what}."));
        }
        thread::sleep(INTERVAL);
    }
}

const INTERVAL: Duration = Duration::from_millis(5);
