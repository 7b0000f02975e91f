//! Every fault class once, on real gateways; without those in which Sentinel takes its time, which `make test-all` adds.
//!
//! One rule: the program is the one that `make chaos` runs, with the same verdict.
//! It does not know the classes.

use std::process::Command;

#[test]
fn every_class_once_breaks_no_promise() {
    let mut chaos = Command::new(env!("CARGO_BIN_EXE_chaos"));
    let output = chaos.env("TIMES", "1").env("ONLY", "").env("BUT", "sentinel").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
}
