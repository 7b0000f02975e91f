//! One world under load, and the hands that break it.
//!
//! One rule: every hand leaves the world whole, and notes exactly what its fault may excuse, and when.
//! It does not know what comes of it: that is for the checker to say.

use std::collections::HashSet;
use std::fs;
use std::time::{Duration, Instant};

use harness::gateway::framing_of;
use harness::{Fault, Interposer, PATIENCE, Redis, wait_until};
use serde_json::{Value, json};

use crate::clock::now_us;
use crate::history::{Excuses, Kind, Loss, Lost, Sent, Span};
use crate::traffic::{HangUp, Traffic, gateway_of};
use crate::upstream::Mood;
use crate::world::{LEASE_MS, World};
use host_model::Random;

/// How long a fault lasts that only has to meet some requests.
pub const BRIEFLY: Duration = Duration::from_millis(150);
/// Longer than a claim stands without renewal.
pub const PAST_A_LEASE: Duration = Duration::from_millis(LEASE_MS + 300);

/// A world, its load, and what was done to it.
#[derive(Debug)]
pub struct Scene<'a> {
    /// What is broken.
    pub world: World,
    /// What may be excused.
    pub excuses: Excuses,
    /// VMs that were loaded again, in gateways that have gone since.
    pub reloads: u64,
    traffic: &'a Traffic,
    random: Random,
    updates: u64,
}

impl<'a> Scene<'a> {
    /// A world that nothing has been done to.
    pub fn new(world: World, traffic: &'a Traffic, random: Random) -> Scene<'a> {
        Scene { world, excuses: Excuses::default(), reloads: 0, traffic, random, updates: 0 }
    }

    /// Lets a fault last.
    pub fn last(&self, time: Duration) {
        let since = Instant::now();
        wait_until("the fault has lasted", PATIENCE, || since.elapsed() >= time);
    }

    /// Returns when clients get along again.
    pub fn recover(&self) {
        let before = self.traffic.settled();
        wait_until("operations are settled again", PATIENCE, || self.traffic.settled() >= before + 10);
    }

    /// Every call to the store meets this for a while.
    pub fn to_store(&mut self, fault: Fault) {
        self.between(|world| &world.pair().to_store, fault);
    }

    /// Every request to the service meets this for a while.
    pub fn to_upstream(&mut self, fault: Fault) {
        self.troubling(|scene| scene.between(|world| &world.to_upstream, fault));
    }

    /// Every request to the service meets this for a while, and clients may find their answers broken off.
    pub fn to_upstream_breaking(&mut self, fault: Fault) {
        self.breaking(|scene| scene.to_upstream(fault));
    }

    fn between(&mut self, which: impl Fn(&World) -> &Interposer, fault: Fault) {
        let interposer = which(&self.world);
        let before = interposer.calls();
        interposer.set(fault);
        self.last(BRIEFLY);
        which(&self.world).wait_for_calls(before + 1);
        which(&self.world).set(Fault::Pass);
    }

    /// Nobody can connect to the store for a while.
    pub fn refuse_store(&mut self) {
        self.world.pair().to_store.close();
        self.last(BRIEFLY);
        self.world.pair().to_store.open();
    }

    /// The network to the service ends every connection, in mid-answer too, and takes none for a while.
    pub fn refuse_upstream(&mut self) {
        self.breaking(|scene| {
            scene.world.to_upstream.close();
            scene.last(BRIEFLY);
            scene.world.to_upstream.open();
        });
    }

    /// Puts the service in a mood for a while.
    pub fn mood(&mut self, mood: Mood) {
        self.troubling(|scene| {
            let seen = scene.world.to_upstream.calls();
            scene.world.upstream.mood(mood);
            scene.last(BRIEFLY);
            scene.world.to_upstream.wait_for_calls(seen + 1);
            scene.world.upstream.mood(Mood::default());
        });
    }

    /// Puts one face of the service in a mood until a request there has met it. Other requests notice nothing.
    pub fn mood_at(&mut self, kind: Kind, mood: Mood) {
        let (mark, refusals) = (self.world.upstream.mark(), self.world.upstream.refusals());
        self.world.upstream.mood(Mood { only: Some(kind), ..mood });
        self.last(BRIEFLY);
        wait_until("the mood has met a request", PATIENCE, || match mood.refusal {
            Some(_) => self.world.upstream.refusals() > refusals,
            None => self.world.upstream.has_executed_since(mark, kind),
        });
        self.world.upstream.mood(Mood::default());
    }

    /// The service's socket is away for a while, until a gateway has missed it.
    pub fn refuse_socket(&mut self) {
        let socket = self.world.upstream.socket();
        let away = socket.with_extension("away");
        let name = format!("cluster.{}.upstream_cx_connect_fail", Kind::Socket.path());
        let missed = || self.world.gateways.iter().map(|gateway| gateway.stat(&name)).sum::<u64>();
        let before = missed();
        fs::rename(&socket, &away).expect("the service has a socket");
        self.last(BRIEFLY);
        wait_until("a gateway has missed the socket", PATIENCE, || missed() > before);
        fs::rename(&away, &socket).expect("a socket can be put back");
    }

    /// The service crashes while it works on a request that came over its socket.
    pub fn kill_upstream_at_work(&mut self) {
        let mark = self.world.upstream.mark();
        self.world.upstream.mood(Mood { only: Some(Kind::Socket), delay_ms: 500, ..Mood::default() });
        wait_until("the service works", PATIENCE, || self.world.upstream.has_executed_since(mark, Kind::Socket));
        self.kill_upstream();
    }

    /// The service breaks off in the middle of its answers, and clients may find theirs broken off too.
    pub fn break_off(&mut self) {
        self.breaking(|scene| scene.mood(Mood { sent: Sent::Head, ..Mood::default() }));
    }

    /// The service crashes and comes back with the ledger it has.
    pub fn kill_upstream(&mut self) {
        self.breaking(|scene| {
            scene.world.upstream.kill();
            scene.last(BRIEFLY);
            scene.world.upstream.restart();
        });
    }

    /// The service stands still, and then works on what has gathered before it.
    pub fn stop_upstream(&mut self) {
        let from_us = now_us();
        self.world.upstream.freeze();
        self.last(PAST_A_LEASE);
        self.world.upstream.thaw();
        self.recover();
        self.excuses.stalls.push(Span { from_us, to_us: now_us() });
        self.excuses.troubles.push(Span { from_us, to_us: now_us() });
    }

    /// Clients hang up.
    pub fn hang_up(&mut self, when: HangUp) {
        self.traffic.hang_up(when, 20);
        wait_until("clients have hung up", PATIENCE, || self.traffic.hang_ups_left() == 0);
    }

    /// Does this to a gateway.
    pub fn to_gateway(&mut self, hand: impl FnOnce(&mut Scene<'a>, usize)) {
        let which = self.random.below(2) as usize;
        hand(self, which);
    }

    /// Does this to a gateway while the service works on a request that it has sent there under a lock.
    pub fn to_holder(&mut self, hand: impl FnOnce(&mut Scene<'a>, usize)) {
        let mark = self.world.upstream.mark();
        let delay_ms = 400 + self.random.below(1200);
        self.world.upstream.mood(Mood { only: Some(Kind::Locked), delay_ms, ..Mood::default() });
        let mut holder = None;
        wait_until("the service works under a lock", PATIENCE, || {
            holder = self.world.upstream.at_work_since(mark);
            holder.is_some()
        });
        self.world.upstream.mood(Mood::default());
        hand(self, gateway_of(holder.unwrap_or_default()));
    }

    /// A gateway crashes and is started again.
    pub fn kill_gateway(&mut self, which: usize) {
        self.note_reloads();
        self.forgetting(|scene| {
            scene.world.gateways[which].kill();
            scene.world.gateways[which].restart();
        });
    }

    /// A gateway is ended in good order and is started again.
    pub fn end_gateway(&mut self, which: usize) {
        self.note_reloads();
        self.forgetting(|scene| {
            scene.world.gateways[which].stop();
            scene.world.gateways[which].restart();
        });
    }

    /// A gateway stands still. It wakes up to time-outs of its own, also for requests that pass the filter by; and what
    /// it had let go, but not yet put on the wire, arrives late and under the smaller number.
    pub fn stop_gateway(&mut self, which: usize, time: Duration) {
        let from_us = now_us();
        self.troubling(|scene| {
            scene.world.gateways[which].freeze();
            scene.last(time);
            scene.world.gateways[which].thaw();
            scene.recover();
        });
        self.excuses.stalls.push(Span { from_us, to_us: now_us() });
    }

    /// A gateway falls asleep while answers of the store are on their way to it.
    pub fn stop_gateway_in_mid_call(&mut self) {
        self.world.pair().to_store.set(Fault::DelayReply(BRIEFLY));
        self.last(BRIEFLY / 2);
        self.to_gateway(|scene, which| scene.stop_gateway(which, PAST_A_LEASE));
        self.world.pair().to_store.set(Fault::Pass);
    }

    /// What leads from a gateway to Redis is replaced: the cluster, and in it the plugin that takes frames off.
    pub fn update_way_to_redis(&mut self) {
        let which = self.random.below(2) as usize;
        self.updates += 1;
        let document = format!("{{ \"framing\": true }}{}", " ".repeat(self.updates as usize));
        let update = |cluster: &mut Value| {
            let framing = framing_of(cluster).expect("the shipped file has it");
            framing["typed_config"]["config"]["configuration"]["value"] = json!(document);
        };
        self.world.gateways[which]
            .update_way_to_redis(update)
            .expect("Envoy takes a cluster that is as good as the one before");
        self.last(DRAINED);
    }

    /// A gateway gets other rules for its filter: the cache off, or on again.
    pub fn update_policy(&mut self, which: usize) {
        self.updates += 1;
        let mut document = self.world.document();
        if self.updates % 2 == 1 {
            document["store"]["cache"] = Value::Null;
        }
        document["policy"]["max_running_ms"] = json!(100_000 + self.updates);
        self.replacing(|scene| scene.world.gateways[which].update_plugin_config(&document));
    }

    /// A gateway gets other rules for its filter while the store is away, which comes back when the old rules have gone.
    pub fn update_policy_in_outage(&mut self) {
        self.world.pair().to_store.close();
        // By then outcomes are owed.
        self.last(BRIEFLY);
        self.to_gateway(Scene::update_policy);
        self.last(PAST_A_LEASE);
        self.world.pair().to_store.open();
        // Clients that asked in vain all this time settle before the next fault.
        self.last(2 * PAST_A_LEASE);
    }

    /// A gateway gets a new VM, which shares nothing with the old one.
    pub fn update_vm(&mut self, which: usize) {
        self.updates += 1;
        let id = format!("idempotency-{}", self.updates);
        self.forgetting(|scene| {
            scene.replacing(|scene| {
                scene.world.gateways[which].update_listener(|listener| {
                    let filters = &mut harness::gateway::hcm_of(listener)["http_filters"];
                    filters[0]["typed_config"]["config"]["vm_config"]["vm_id"] = json!(id);
                })
            });
        });
    }

    /// Replaces a listener; its connections are cut when it has drained.
    fn replacing(&mut self, update: impl FnOnce(&mut Scene<'a>) -> Result<(), String>) {
        self.breaking(|scene| {
            update(scene).expect("Envoy takes a listener that is as good as the one before");
            scene.last(DRAINED);
        });
    }

    /// Webdis crashes and comes back.
    pub fn kill_webdis(&mut self) {
        self.world.pair().webdis.kill();
        self.last(BRIEFLY);
        self.world.pair().webdis.restart();
    }

    /// Webdis stands still.
    pub fn stop_webdis(&mut self) {
        self.world.pair().webdis.freeze();
        self.last(PAST_A_LEASE);
        self.world.pair().webdis.thaw();
    }

    /// Redis crashes and comes back with all it has acknowledged.
    pub fn kill_redis(&mut self) {
        self.world.pair().primary().kill();
        self.last(BRIEFLY);
        self.world.pair().primary().restart();
        self.world.pair().follow();
    }

    /// Redis stands still.
    pub fn stop_redis(&mut self) {
        self.world.pair().primary().freeze();
        self.last(PAST_A_LEASE);
        self.world.pair().primary().thaw();
    }

    /// Redis stops writing to its disk, crashes, and comes back with what it had written before.
    pub fn lose_unsaved(&mut self) {
        let since_us = now_us();
        self.config("appendonly", "no");
        self.last(BRIEFLY);
        let from_us = now_us();
        self.world.pair().primary().kill();
        self.world.pair().primary().restart();
        self.lose(from_us, Lost::Since(since_us));
        self.world.pair().follow();
    }

    /// The replica dies and is started again.
    pub fn kill_replica(&mut self) {
        self.world.pair().replica().kill();
        self.last(BRIEFLY);
        self.world.pair().replica().restart();
        self.world.pair().follow();
    }

    /// The replica stands still.
    pub fn stop_replica(&mut self) {
        self.world.pair().replica().freeze();
        self.last(BRIEFLY);
        self.world.pair().replica().thaw();
    }

    /// Redis wants a replica that hears it, and there is none.
    pub fn miss_replica(&mut self) {
        self.world.pair().cut_off();
        self.config("min-replicas-to-write", "1");
        self.last(BRIEFLY);
        self.config("min-replicas-to-write", "0");
        self.world.pair().follow();
    }

    /// The replica hears nothing for a while, the primary dies, the replica takes its place.
    pub fn fail_over_with_lag(&mut self) {
        let since_us = now_us();
        self.world.pair().catch_up();
        self.world.pair().cut_off();
        self.last(BRIEFLY);
        let from_us = now_us();
        self.world.pair().primary().kill();
        self.world.pair().replica().ask(&["REPLICAOF", "NO", "ONE"]);
        let pair = self.world.pair_mut();
        pair.primary = 1 - pair.primary;
        self.world.pair().turn_to_primary();
        self.lose(from_us, Lost::Since(since_us));
        self.world.pair().replica().restart();
        self.world.pair().follow();
    }

    /// The primary hands over to the replica when that has caught up (`FAILOVER`), so nothing is lost.
    pub fn hand_over(&mut self) {
        self.world.pair().primary().ask(&["FAILOVER"]);
        let is_primary = |redis: &Redis| redis.ask(&["INFO", "replication"]).text().contains("role:master");
        wait_until("the replica has taken over", PATIENCE, || {
            is_primary(self.world.pair().replica()) && !is_primary(self.world.pair().primary())
        });
        let pair = self.world.pair_mut();
        pair.primary = 1 - pair.primary;
        self.world.pair().turn_to_primary();
        self.world.pair().follow();
    }

    /// A slot goes from one master of the cluster to another while its records are asked for, and stays half-way for a
    /// while.
    pub fn move_slots(&mut self) {
        let cluster = self.world.cluster();
        let masters = cluster.masters();
        let from = *self.random.pick(&masters);
        let to = *self.random.pick(&masters.into_iter().filter(|master| *master != from).collect::<Vec<_>>());
        let keys: Vec<_> = cluster.nodes[from].keys();
        let mut slots: Vec<u16> = keys.iter().rev().take(SLOTS).map(|key| cluster.slot(key)).collect();
        slots.sort_unstable();
        slots.dedup();
        for slot in &slots {
            cluster.open(*slot, from, to);
        }
        self.last(BRIEFLY);
        for slot in slots {
            while cluster.migrate(slot, from, to, 10) > 0 {}
            cluster.close(slot, from, to);
        }
    }

    /// A master of the cluster dies, its replica is promoted, and it comes back as that one's replica.
    pub fn kill_master(&mut self) {
        let cluster = self.world.cluster();
        let master = *self.random.pick(&cluster.masters());
        let replica = cluster.replica_of(master);
        let from_us = now_us();
        cluster.nodes[master].kill();
        wait_until("the replica is promoted", PATIENCE, || cluster.nodes[replica].is_primary());
        cluster.nodes[master].restart();
        cluster.settle();
        self.lose(from_us, Lost::Since(from_us.saturating_sub(UNDER_WAY_US)));
    }

    /// A replica takes its master's place when it has all that is there, so nothing is lost.
    pub fn hand_over_master(&mut self) {
        let cluster = self.world.cluster();
        let master = *self.random.pick(&cluster.masters());
        cluster.hand_over(cluster.replica_of(master));
        cluster.settle();
    }

    /// All nodes of the cluster end all connections.
    pub fn drop_clients_of_cluster(&mut self) {
        let cluster = self.world.cluster();
        cluster.nodes.iter().for_each(|node| drop(node.ask(&["CLIENT", "KILL", "TYPE", "normal"])));
    }

    /// The primary dies, Sentinel makes another one, and it comes back as a primary that takes no writes.
    pub fn kill_watched(&mut self) {
        self.replace_watched(Redis::kill, Redis::restart);
    }

    /// The primary stands still until Sentinel has made another one, and goes on beside that.
    pub fn stop_watched(&mut self) {
        self.replace_watched(Redis::freeze, Redis::thaw);
    }

    fn replace_watched(&mut self, end: fn(&Redis), bring_back: fn(&Redis)) {
        let group = self.world.group();
        let old = group.settle();
        let from_us = now_us();
        end(&group.nodes[old]);
        group.next(old);
        bring_back(&group.nodes[old]);
        group.settle();
        self.lose(from_us, Lost::Since(from_us.saturating_sub(UNDER_WAY_US)));
    }

    /// All records are gone.
    pub fn flush(&mut self) {
        let from_us = now_us();
        self.world.pair().primary().ask(&["FLUSHALL"]);
        self.lose(from_us, Lost::Everything);
    }

    /// Some records are gone.
    pub fn delete_records(&mut self) {
        let keys = self.some_keys();
        let from_us = now_us();
        self.delete(&keys);
        self.lose(from_us, Lost::Operations(operations(&keys)));
    }

    /// Some records lose a byte or have some replaced in their head, and are deleted later.
    pub fn damage_records(&mut self) {
        let keys = self.some_keys();
        let from_us = now_us();
        for key in &keys {
            let cut = b"redis.call('SET', KEYS[1], redis.call('GETRANGE', KEYS[1], 0, -2), 'KEEPTTL')";
            if self.random.one_in(2) {
                self.world.pair().primary().ask(&[b"EVAL".as_slice(), cut, b"1", key]);
            } else {
                self.world.pair().primary().ask(&[b"SETRANGE".as_slice(), key, b"9", b"\xff\x00chaos\xff"]);
            }
        }
        self.last(BRIEFLY);
        self.delete(&keys);
        self.lose(from_us, Lost::Operations(operations(&keys)));
    }

    /// Some records become lists, and are deleted later.
    pub fn change_type(&mut self) {
        let keys = self.some_keys();
        let from_us = now_us();
        for key in &keys {
            let script = b"redis.call('DEL', KEYS[1]) redis.call('RPUSH', KEYS[1], 'chaos')";
            self.world.pair().primary().ask(&[b"EVAL".as_slice(), script, b"1", key]);
        }
        self.last(BRIEFLY);
        self.delete(&keys);
        self.lose(from_us, Lost::Operations(operations(&keys)));
    }

    /// Redis has no memory left and evicts nothing.
    pub fn fill_memory(&mut self) {
        self.config("maxmemory-policy", "noeviction");
        self.config("maxmemory", "1");
        self.last(BRIEFLY);
        self.config("maxmemory", "0");
    }

    /// Redis follows somebody who is not there, and takes no writes.
    pub fn make_read_only(&mut self) {
        let nobody = harness::Port::unshared();
        self.world.pair().primary().ask(&["REPLICAOF", "127.0.0.1", &nobody.number().to_string()]);
        self.last(BRIEFLY);
        self.world.pair().primary().ask(&["REPLICAOF", "NO", "ONE"]);
        self.world.pair().follow();
    }

    /// Redis forgets its scripts.
    pub fn forget_scripts(&mut self) {
        self.world.pair().primary().ask(&["SCRIPT", "FLUSH"]);
    }

    /// A script of somebody else's keeps Redis busy.
    pub fn keep_busy(&mut self) {
        self.config("busy-reply-threshold", "20");
        let addr = self.world.pair().primary().addr();
        std::thread::scope(|scope| {
            scope.spawn(move || harness::resp::ask(addr, &["EVAL", "while true do end", "0"], PATIENCE));
            self.last(2 * BRIEFLY);
            wait_until("the script is ended", PATIENCE, || {
                self.world.pair().primary().ask(&["SCRIPT", "KILL"]).text().contains("OK")
            });
        });
    }

    /// Redis keeps all its clients waiting.
    pub fn pause_clients(&mut self) {
        self.world.pair().primary().ask(&["CLIENT", "PAUSE", "400", "ALL"]);
        self.last(BRIEFLY);
        self.world.pair().primary().ask(&["CLIENT", "UNPAUSE"]);
    }

    /// Redis ends all connections.
    pub fn drop_clients(&mut self) {
        self.world.pair().primary().ask(&["CLIENT", "KILL", "TYPE", "normal"]);
    }

    /// The store's clocks jump by so many seconds, and back.
    pub fn jump(&mut self, seconds: i64) {
        for seconds in [seconds, 0] {
            let from_us = now_us();
            self.world.pair().set_clock(seconds);
            self.excuses.jumps.push(Span { from_us, to_us: now_us() });
            self.last(BRIEFLY);
        }
    }

    /// Counts what the gateways say of reloads, before they forget it.
    pub fn note_reloads(&mut self) {
        for gateway in &self.world.gateways {
            let text = gateway.admin("/stats?filter=vm_reload");
            let counts = text.lines().filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok());
            self.reloads += counts.sum::<u64>();
        }
    }

    /// While this is done, clients may lose their connections, and a gateway what it knew.
    fn forgetting(&mut self, act: impl FnOnce(&mut Scene<'a>)) {
        let from_us = now_us();
        self.breaking(act);
        self.excuses.forgets.push(Span { from_us, to_us: now_us() });
    }

    /// While this is done, clients may lose their connections.
    fn breaking(&mut self, act: impl FnOnce(&mut Scene<'a>)) {
        let from_us = now_us();
        act(self);
        self.excuses.breaks.push(Span { from_us, to_us: now_us() });
    }

    /// While this is done, whoever asks may be failed, with the filter or without.
    fn troubling(&mut self, act: impl FnOnce(&mut Scene<'a>)) {
        let from_us = now_us();
        act(self);
        self.excuses.troubles.push(Span { from_us, to_us: now_us() });
    }

    fn lose(&mut self, from_us: u64, lost: Lost) {
        self.excuses.losses.push(Loss { span: Span { from_us, to_us: now_us() }, lost });
    }

    fn config(&self, name: &str, value: &str) {
        let reply = self.world.pair().primary().ask(&["CONFIG", "SET", name, value]);
        assert_eq!(reply.text(), "OK", "Redis does not know {name}");
    }

    fn delete(&self, keys: &[Vec<u8>]) {
        for key in keys {
            self.world.pair().primary().ask(&[b"DEL".as_slice(), key]);
        }
    }

    /// Keys of records, some of them about to change.
    fn some_keys(&mut self) -> Vec<Vec<u8>> {
        let draw = |redis: &Redis| redis.ask(&["RANDOMKEY"]).bytes();
        (0..20).filter_map(|_| draw(self.world.pair().primary())).collect()
    }
}

/// What the service gets to see of these records.
fn operations(keys: &[Vec<u8>]) -> HashSet<String> {
    let text = |key: &Vec<u8>| String::from_utf8_lossy(key).into_owned();
    keys.iter().filter_map(|key| Some(text(key).strip_prefix("idem:")?.to_owned())).collect()
}

/// How many records' slots are moved at once.
const SLOTS: usize = 20;
/// What was acknowledged so long before its Redis was lost may not have come to a replica.
const UNDER_WAY_US: u64 = 500_000;
/// An old listener's connections have been cut by then: a second to drain, and what a busy machine adds.
const DRAINED: Duration = Duration::from_millis(1500);
