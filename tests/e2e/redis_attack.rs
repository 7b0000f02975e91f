//! Small holes in what gateways on Redis remember and tell, each met by a story of its own.
//!
//! Its one rule: a test is the shortest way into one hole.
//! It does not know of load.

use std::time::Duration;

use harness::{Fault, PATIENCE, SharedWorld, wait_until};
use serde_json::json;

use crate::check::executed;
use crate::redis::PATIENT_MS;

#[test]
fn whoever_broke_off_while_its_claim_was_slow_may_come_back() {
    let world = SharedWorld::alone(json!({ "store": { "timeout_ms": PATIENT_MS }, "policy": { "ttl_s": 1800 } }));
    // From here on Redis keeps the script.
    executed(&world.post("/broken-off/before").key("k").body("ten").send(), 1);
    let calls = world.interposer.calls();
    world.interposer.next(1, Fault::DelayReply(Duration::from_millis(500)));
    let pay = world.post("/broken-off").key("k").body("ten");
    let mut connection = pay.open();
    connection.write("ten");
    world.interposer.wait_for_calls(calls + 1);
    connection.reset();
    // The withdrawal is answered first.
    world.interposer.wait_for_calls(calls + 2);
    let under_way = || world.gateways[0].stat("cluster.webdis.upstream_rq_active");
    wait_until("the claim is answered too", PATIENCE, || under_way() == 0);
    // The withdrawn claim has its number.
    executed(&pay.send(), 2);
    assert_eq!(world.ledger.entries_for("/broken-off").len(), 1);
}
