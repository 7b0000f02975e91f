//! A Redis Cluster of three masters, each with a replica where a test asks for them.
//!
//! One rule: who is a master, and of which slots, is asked of the nodes themselves.
//! It does not know how clients find the node of a key.

use std::net::SocketAddr;
use std::time::Duration;

use crate::ports::Port;
use crate::redis::Redis;
use crate::resp::Reply;
use crate::wait::{PATIENCE, wait_for, wait_until};

/// The running nodes.
#[derive(Debug)]
pub struct RedisCluster {
    /// The masters, as it was started; their replicas, if there are any, in the same order behind them.
    pub nodes: Vec<Redis>,
    ids: Vec<String>,
    _buses: Vec<Port>,
}

impl RedisCluster {
    /// Starts three masters that keep nothing on disk, and returns when every one of them calls the cluster whole.
    #[track_caller]
    pub fn start() -> RedisCluster {
        RedisCluster::with(MASTERS, &[])
    }

    /// Starts three masters, each with a replica; more arguments are for all of them.
    #[track_caller]
    pub fn with_replicas(arguments: &[&str]) -> RedisCluster {
        let cluster = RedisCluster::with(2 * MASTERS, arguments);
        for (master, replica) in cluster.nodes.iter().zip(&cluster.nodes[MASTERS..]) {
            let id = master.ask(&["CLUSTER", "MYID"]).text();
            // It has to have heard of its master.
            wait_until("it is a replica", PATIENCE, || replica.ask(&["CLUSTER", "REPLICATE", &id]).text() == "OK");
        }
        cluster.settle();
        cluster
    }

    #[track_caller]
    fn with(count: usize, arguments: &[&str]) -> RedisCluster {
        let buses: Vec<Port> = (0..count).map(|_| Port::unshared()).collect();
        let nodes = buses.iter().map(|bus| {
            let bus = bus.number().to_string();
            let own = ["--cluster-enabled", "yes", "--cluster-port", &bus, "--cluster-node-timeout", "2000"];
            Redis::with(&[&own[..], arguments].concat())
        });
        let nodes: Vec<Redis> = nodes.collect();
        for (node, (first, last)) in nodes.iter().zip(SLOTS) {
            node.ask(&["CLUSTER", "ADDSLOTSRANGE", first, last]);
        }
        for (node, bus) in nodes.iter().zip(&buses) {
            let [port, bus] = [node.addr().port(), bus.number()].map(|number| number.to_string());
            nodes[0].ask(&["CLUSTER", "MEET", "127.0.0.1", &port, &bus]);
        }
        let ids = nodes.iter().map(|node| node.ask(&["CLUSTER", "MYID"]).text()).collect();
        let cluster = RedisCluster { nodes, ids, _buses: buses };
        wait_until("the cluster is whole", PATIENCE, || {
            cluster.nodes.iter().all(|node| {
                let state = node.ask(&["CLUSTER", "INFO"]).text();
                let knows = format!("cluster_known_nodes:{count}");
                ["cluster_state:ok", "cluster_size:3", &knows].iter().all(|part| state.contains(part))
            })
        });
        cluster
    }

    /// Returns when every node calls the cluster whole, and each master has a replica that follows it.
    #[track_caller]
    pub fn settle(&self) {
        wait_until("each master has a replica", PATIENCE, || {
            let masters: Vec<usize> = self.masters();
            let follows = |node: &Redis| node.info("master_link_status") == "up";
            let replicas = self.nodes.iter().filter(|node| !node.is_primary());
            masters.len() == MASTERS
                && masters.iter().all(|master| self.nodes[*master].info("connected_slaves") == "1")
                && replicas.clone().count() == self.nodes.len() - MASTERS
                && replicas.clone().all(follows)
                && self.nodes.iter().all(|node| node.ask(&["CLUSTER", "INFO"]).text().contains("cluster_state:ok"))
        });
    }

    /// Where they are.
    pub fn addrs(&self) -> Vec<SocketAddr> {
        self.nodes.iter().map(Redis::addr).collect()
    }

    /// Those that are masters now and answer.
    pub fn masters(&self) -> Vec<usize> {
        (0..self.nodes.len()).filter(|node| self.nodes[*node].is_primary()).collect()
    }

    /// The replica of this master.
    #[track_caller]
    pub fn replica_of(&self, master: usize) -> usize {
        let port = self.nodes[master].addr().port().to_string();
        let follows = |node: &usize| !self.nodes[*node].is_primary() && self.nodes[*node].info("master_port") == port;
        (0..self.nodes.len()).find(follows).expect("each master has a replica")
    }

    /// Makes a replica the master in the place of its own, when it has all that is there, so that nothing is lost.
    #[track_caller]
    pub fn hand_over(&self, replica: usize) {
        let node = &self.nodes[replica];
        // The others vote for no two replicas of one master within twice their time-out.
        wait_until("the replica is the master", PATIENCE, || {
            node.ask(&["CLUSTER", "FAILOVER"]);
            wait_for("it is elected", ELECTED, || node.is_primary().then_some(())).is_ok()
        });
    }

    /// The keys of all masters.
    #[track_caller]
    pub fn keys(&self) -> Vec<Vec<u8>> {
        self.masters().into_iter().flat_map(|master| self.nodes[master].keys()).collect()
    }

    /// The slot of a key.
    #[track_caller]
    pub fn slot(&self, key: &[u8]) -> u16 {
        match self.nodes[0].ask(&[b"CLUSTER".as_slice(), b"KEYSLOT", key]) {
            Reply::Integer(slot) => u16::try_from(slot).expect("a slot is below 16384"),
            other => panic!("Redis does not know the slot of a key: {other:?}"),
        }
    }

    /// Begins to move a slot: from now on the one asks clients on to the other for keys that it has no more (ASK).
    #[track_caller]
    pub fn open(&self, slot: u16, from: usize, to: usize) {
        let slot = slot.to_string();
        self.set(to, &["CLUSTER", "SETSLOT", &slot, "IMPORTING", &self.ids[from]]);
        self.set(from, &["CLUSTER", "SETSLOT", &slot, "MIGRATING", &self.ids[to]]);
    }

    /// Moves at most so many keys of a slot; tells how many there were.
    #[track_caller]
    pub fn migrate(&self, slot: u16, from: usize, to: usize, count: usize) -> usize {
        let (slot, count) = (slot.to_string(), count.to_string());
        let keys: Vec<_> = self.nodes[from]
            .ask(&["CLUSTER", "GETKEYSINSLOT", &slot, &count])
            .list()
            .into_iter()
            .filter_map(Reply::bytes)
            .collect();
        if keys.is_empty() {
            return 0;
        }
        let port = self.nodes[to].addr().port().to_string();
        let mut command: Vec<&[u8]> = vec![b"MIGRATE", b"127.0.0.1", port.as_bytes(), b"", b"0", b"5000", b"KEYS"];
        command.extend(keys.iter().map(Vec::as_slice));
        let said = self.nodes[from].ask(&command).text();
        // One may have expired or been moved meanwhile.
        assert!(["OK", "NOKEY"].contains(&said.as_str()), "MIGRATE: {said}");
        keys.len()
    }

    /// Ends the move of a slot: everyone is sent on to the other (MOVED).
    #[track_caller]
    pub fn close(&self, slot: u16, from: usize, to: usize) {
        let slot = slot.to_string();
        let others = self.masters().into_iter().filter(|node| ![from, to].contains(node));
        for node in [to, from].into_iter().chain(others) {
            self.set(node, &["CLUSTER", "SETSLOT", &slot, "NODE", &self.ids[to]]);
        }
    }

    #[track_caller]
    fn set(&self, node: usize, command: &[&str]) {
        let said = self.nodes[node].ask(command).text();
        assert_eq!(said, "OK", "{command:?}");
    }
}

const MASTERS: usize = 3;
/// Longer than an election takes.
const ELECTED: Duration = Duration::from_secs(1);
/// All there are, in three parts.
const SLOTS: [(&str, &str); MASTERS] = [("0", "5460"), ("5461", "10922"), ("10923", "16383")];
