//! Every fault class once, on real gateways, in one world.
//!
//! One rule: the program is the one that `make chaos` runs, with the same verdict.
//! It does not know the classes.

use std::process::Command;

#[test]
fn every_class_once_breaks_no_promise() {
    let output = Command::new(env!("CARGO_BIN_EXE_chaos")).env("TIMES", "1").env("ONLY", "").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
}
