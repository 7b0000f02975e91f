//! The fault classes, one row each.
//!
//! One rule: a row says what is done and what is still promised; how it is done and healed is in `scene`.
//! It does not know how often or in which order they come.
//!
//! What a network may also do and no gateway can notice is left out: swapping the answers of the service, or delivering
//! a request to it twice, which is what `Idempotency-Operation` and `Idempotency-Attempt` are for.

use std::time::Duration;

use harness::{Dialect, Fault};

use crate::history::{Kind, Sent};
use crate::scene::{BRIEFLY, PAST_A_LEASE, Scene};
use crate::traffic::HangUp;
use crate::upstream::{Mood, Refusal};
use crate::world::Store;

/// One way to break things.
pub struct Class {
    /// Its name, for `ONLY` and the table.
    pub name: &'static str,
    /// What is still promised under it.
    pub promise: Promise,
    /// Breaks and heals.
    pub inject: fn(&mut Scene<'_>),
    /// Where it is about one way to the store alone.
    pub of: Option<Dialect>,
    /// What the world that it breaks keeps its records in.
    pub store: Store,
}

/// What is still promised. Everything that is excused is in `checker`; the classes only say when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Promise {
    /// Everything: one execution, beyond takeovers of what is unknown after its lease, and an answer for everybody.
    Everything,
    /// Everything, but clients may lose their connections.
    NoAnswer,
    /// Everything, but attempts may reach the service in another order; their numbers tell it.
    Order,
    /// Everything, but leases are shorter or longer by the jump, so attempts may overlap under different numbers.
    Leases,
    /// Replays are true and stay in their scope; what was running or completed before the loss may execute once more.
    UntilTheLoss,
}

const fn row(name: &'static str, promise: Promise, inject: fn(&mut Scene<'_>)) -> Class {
    Class { name, promise, inject, of: None, store: Store::Pair }
}

const fn row_of(of: Dialect, name: &'static str, promise: Promise, inject: fn(&mut Scene<'_>)) -> Class {
    Class { name, promise, inject, of: Some(of), store: Store::Pair }
}

const fn row_at(store: Store, name: &'static str, promise: Promise, inject: fn(&mut Scene<'_>)) -> Class {
    Class { name, promise, inject, of: Some(Dialect::Resp), store }
}

/// The largest response that the policy keeps.
const LARGEST: usize = 512 << 10;

fn refusing(refusal: Refusal) -> Mood {
    Mood { refusal: Some(refusal), ..Mood::default() }
}

/// All of them.
pub const CLASSES: &[Class] = &[
    // The network between the gateways and the store.
    row("store cut before", Promise::Everything, |s| s.to_store(Fault::CutBefore)),
    row("store cut after", Promise::Everything, |s| s.to_store(Fault::CutAfter)),
    row("store cut inside", Promise::Everything, |s| s.to_store(Fault::CutInside)),
    row("store swap", Promise::Everything, |s| s.to_store(Fault::Swap)),
    row("store doubled", Promise::Everything, |s| s.to_store(Fault::Doubled)),
    row_of(Dialect::Resp, "store one behind", Promise::Everything, |s| s.to_store(Fault::LeftOut)),
    row("store twice", Promise::Everything, |s| s.to_store(Fault::Twice)),
    row("store slice", Promise::Everything, |s| s.to_store(Fault::Slice)),
    row("store delay", Promise::Everything, |s| s.to_store(Fault::DelayReply(Duration::from_millis(200)))),
    row("store too late", Promise::Everything, |s| s.to_store(Fault::DelayReply(Duration::from_millis(400)))),
    row("store runs late", Promise::Everything, |s| s.to_store(Fault::Late(Duration::from_millis(400)))),
    row("store blackhole", Promise::Everything, |s| s.to_store(Fault::Silence)),
    row("store refused", Promise::Everything, |s| s.refuse_store()),
    row("store garbage", Promise::Everything, |s| s.to_store(Fault::SayAfter(200, b"<html>It works!</html>".to_vec()))),
    row("store 502", Promise::Everything, |s| s.to_store(Fault::SayAfter(502, Vec::new()))),
    row("store loading", Promise::Everything, |s| s.to_store(Fault::error("LOADING Redis is loading the dataset"))),
    row_of(Dialect::Resp, "streams replaced", Promise::Everything, |s| s.update_way_to_redis()),
    // The store's processes.
    row_of(Dialect::Webdis, "webdis kill", Promise::Everything, |s| s.kill_webdis()),
    row_of(Dialect::Webdis, "webdis stop", Promise::Everything, |s| s.stop_webdis()),
    row("redis kill", Promise::Everything, |s| s.kill_redis()),
    row("redis stop", Promise::Everything, |s| s.stop_redis()),
    row("redis unsaved", Promise::UntilTheLoss, |s| s.lose_unsaved()),
    // Its data and moods.
    row("redis flush", Promise::UntilTheLoss, |s| s.flush()),
    row("record deleted", Promise::UntilTheLoss, |s| s.delete_records()),
    row("record damaged", Promise::UntilTheLoss, |s| s.damage_records()),
    row("record type", Promise::UntilTheLoss, |s| s.change_type()),
    row("redis full", Promise::Everything, |s| s.fill_memory()),
    row("redis read-only", Promise::Everything, |s| s.make_read_only()),
    row("redis no script", Promise::Everything, |s| s.forget_scripts()),
    row("redis busy", Promise::Everything, |s| s.keep_busy()),
    row("redis pause", Promise::Everything, |s| s.pause_clients()),
    row("redis hangs up", Promise::Everything, |s| s.drop_clients()),
    // Replication.
    row("replica kill", Promise::Everything, |s| s.kill_replica()),
    row("replica stop", Promise::Everything, |s| s.stop_replica()),
    row("replica missed", Promise::Everything, |s| s.miss_replica()),
    row("failover", Promise::Everything, |s| s.hand_over()),
    row("failover lag", Promise::UntilTheLoss, |s| s.fail_over_with_lag()),
    // Other stores.
    row_at(Store::Cluster, "cluster slots move", Promise::Everything, |s| s.move_slots()),
    row_at(Store::Cluster, "cluster master kill", Promise::UntilTheLoss, |s| s.kill_master()),
    row_at(Store::Cluster, "cluster handover", Promise::Everything, |s| s.hand_over_master()),
    row_at(Store::Cluster, "cluster hangs up", Promise::Everything, |s| s.drop_clients_of_cluster()),
    row_at(Store::Group, "sentinel kill", Promise::UntilTheLoss, |s| s.kill_watched()),
    row_at(Store::Group, "sentinel stop", Promise::UntilTheLoss, |s| s.stop_watched()),
    // Clocks.
    row("clock forward", Promise::Leases, |s| s.jump(5)),
    row("clock back", Promise::Leases, |s| s.jump(-5)),
    // The gateways.
    row("envoy kill", Promise::NoAnswer, |s| s.to_gateway(Scene::kill_gateway)),
    row("envoy end", Promise::NoAnswer, |s| s.to_gateway(Scene::end_gateway)),
    row("envoy stop", Promise::Order, |s| s.to_gateway(|s, which| s.stop_gateway(which, BRIEFLY))),
    row("envoy sleep", Promise::Order, |s| s.to_gateway(|s, which| s.stop_gateway(which, PAST_A_LEASE))),
    row("envoy sleep in call", Promise::Order, |s| s.stop_gateway_in_mid_call()),
    row("envoy policy", Promise::NoAnswer, |s| s.to_gateway(Scene::update_policy)),
    row("envoy policy outage", Promise::NoAnswer, |s| s.update_policy_in_outage()),
    row("envoy vm", Promise::NoAnswer, |s| s.to_gateway(Scene::update_vm)),
    // The gateway that holds a lock while the service works under it, and the store that knows of it.
    row("holder kill", Promise::NoAnswer, |s| s.to_holder(Scene::kill_gateway)),
    row("holder sleep", Promise::Order, |s| s.to_holder(|s, which| s.stop_gateway(which, PAST_A_LEASE))),
    row("holder policy", Promise::NoAnswer, |s| s.to_holder(Scene::update_policy)),
    row("lock flush", Promise::UntilTheLoss, |s| s.to_holder(|s, _| s.flush())),
    // Clients.
    row("hang-up head", Promise::Everything, |s| s.hang_up(HangUp::AfterHead)),
    row("hang-up body", Promise::Everything, |s| s.hang_up(HangUp::InBody)),
    row("hang-up claim", Promise::Everything, |s| s.hang_up(HangUp::AtOnce)),
    row("hang-up running", Promise::Everything, |s| s.hang_up(HangUp::WhileRunning)),
    row("hang-up answer", Promise::Everything, |s| s.hang_up(HangUp::InAnswer)),
    // The service, and the network before it.
    row("upstream kill", Promise::NoAnswer, |s| s.kill_upstream()),
    row("upstream stop", Promise::Order, |s| s.stop_upstream()),
    row("upstream 500", Promise::Everything, |s| s.mood(Mood { status: Some(500), ..Mood::default() })),
    row("upstream 502", Promise::Everything, |s| s.mood(Mood { status: Some(502), ..Mood::default() })),
    row("upstream slow", Promise::Everything, |s| s.mood(Mood { delay_ms: 1200, ..Mood::default() })),
    row("upstream large", Promise::Everything, |s| {
        s.mood_at(Kind::Retry, Mood { size: Some(LARGEST), ..Mood::default() })
    }),
    row("upstream resets", Promise::Everything, |s| s.mood(Mood { sent: Sent::Nothing, ..Mood::default() })),
    row("upstream breaks off", Promise::NoAnswer, |s| s.break_off()),
    row("upstream refused", Promise::NoAnswer, |s| s.refuse_upstream()),
    row("upstream cut before", Promise::Everything, |s| s.to_upstream(Fault::CutBefore)),
    row("upstream cut after", Promise::Everything, |s| s.to_upstream(Fault::CutAfter)),
    row("upstream cut inside", Promise::NoAnswer, |s| s.to_upstream_breaking(Fault::CutInside)),
    row("upstream slice", Promise::Everything, |s| s.to_upstream(Fault::Slice)),
    row("upstream blackhole", Promise::Everything, |s| s.to_upstream(Fault::Silence)),
    // The service behind a Unix domain socket.
    row("socket slow", Promise::Everything, |s| s.mood_at(Kind::Socket, Mood { delay_ms: 1200, ..Mood::default() })),
    row("socket resets", Promise::Everything, |s| {
        s.mood_at(Kind::Socket, Mood { sent: Sent::Nothing, ..Mood::default() })
    }),
    row("socket refused", Promise::Everything, |s| s.refuse_socket()),
    row("socket kill", Promise::NoAnswer, |s| s.kill_upstream_at_work()),
    // The service on HTTP/2.
    row("h2 refuses streams", Promise::Everything, |s| s.mood_at(Kind::Http2, refusing(Refusal::Stream))),
    row("h2 goes away", Promise::Everything, |s| s.mood_at(Kind::Http2, refusing(Refusal::GoAway))),
    row("h2 resets", Promise::Everything, |s| s.mood_at(Kind::Http2, Mood { sent: Sent::Nothing, ..Mood::default() })),
];
