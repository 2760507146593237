//! Three Redis masters that share the keys between them.

use std::collections::HashMap;

use super::redis::Plan;
use super::{RedisServer, until};

/// How many hash slots a cluster has.
const SLOTS: usize = 16_384;
/// After how many milliseconds of silence a node is taken for dead. The replica of a dead master needs about twice that
/// to take over.
const NODE_TIMEOUT: &str = "1000";

/// A cluster of three masters, perhaps with a replica of each. Ends when dropped.
pub struct RedisCluster {
    masters: Vec<RedisServer>,
    replicas: Vec<RedisServer>,
}

impl RedisCluster {
    /// Three masters and no replica.
    #[track_caller]
    pub fn start() -> Self {
        Self::form(0)
    }

    /// Three masters with one replica each.
    #[track_caller]
    pub fn start_with_replicas() -> Self {
        Self::form(3)
    }

    /// Where users find it: the masters that it began with.
    pub fn urls(&self) -> Vec<String> {
        self.masters.iter().map(RedisServer::url).collect()
    }

    /// The masters that it began with.
    pub fn masters(&self) -> &[RedisServer] {
        &self.masters
    }

    /// The replicas that it began with, in the order of their masters.
    pub fn replicas(&self) -> &[RedisServer] {
        &self.replicas
    }

    /// Every key with the number of the master that has it. For a cluster whose masters are all alive.
    #[track_caller]
    pub fn keys(&self) -> HashMap<String, usize> {
        let keys = self.masters.iter().enumerate();
        keys.flat_map(|(number, master)| master.keys().into_iter().map(move |key| (key, number)))
            .collect()
    }

    /// The hash slot of a key.
    #[track_caller]
    pub fn slot(&self, key: &str) -> usize {
        self.masters[0].ask(redis::cmd("CLUSTER").arg("KEYSLOT").arg(key))
    }

    /// Lets the replica of a master take its place as for maintenance: nothing is lost.
    #[track_caller]
    pub fn fail_over(&self, master: usize) {
        let replica = &self.replicas[master];
        let () = replica.ask(redis::cmd("CLUSTER").arg("FAILOVER"));
        self.wait_for_replica(master);
    }

    /// Kills a master and waits until its replica has taken its place; what the master had not passed on is lost.
    #[track_caller]
    pub fn kill_master(&self, master: usize) {
        self.masters[master].kill();
        self.wait_for_replica(master);
    }

    #[track_caller]
    fn wait_for_replica(&self, master: usize) {
        until("the replica has become the master", || {
            let role: Vec<redis::Value> = self.replicas[master].ask(&redis::cmd("ROLE"));
            role.first() == Some(&redis::Value::BulkString(b"master".to_vec()))
        });
    }

    #[track_caller]
    fn form(replicas: usize) -> Self {
        let node = || {
            let plan = Plan::new().clustered();
            plan.arguments(&[
                "--cluster-node-timeout",
                NODE_TIMEOUT,
                "--repl-diskless-sync-delay",
                "0",
            ])
            .start()
        };
        let cluster = Self {
            masters: (0..3).map(|_| node()).collect(),
            replicas: (0..replicas).map(|_| node()).collect(),
        };
        cluster.meet();
        cluster.hand_out_slots();
        cluster.enrol_replicas();
        until("every node says that the cluster is complete", || {
            cluster.nodes().all(|node| cluster_info(node)["cluster_state"] == "ok")
        });
        cluster
    }

    #[track_caller]
    fn meet(&self) {
        // With epochs of their own from the start, no two nodes have to settle a conflict first.
        for (number, node) in self.nodes().enumerate() {
            let () = node.ask(redis::cmd("CLUSTER").arg("SET-CONFIG-EPOCH").arg(number + 1));
        }
        for node in self.nodes().skip(1) {
            let (address, bus) = (node.address(), bus_port(node));
            let mut meet = redis::cmd("CLUSTER");
            meet.arg("MEET")
                .arg(address.ip().to_string())
                .arg(address.port())
                .arg(bus);
            let () = self.masters[0].ask(&meet);
        }
        let count = self.nodes().count().to_string();
        until("every node knows every other", || {
            self.nodes()
                .all(|node| cluster_info(node)["cluster_known_nodes"] == count)
        });
    }

    #[track_caller]
    fn hand_out_slots(&self) {
        let share = SLOTS.div_ceil(self.masters.len());
        for (number, master) in self.masters.iter().enumerate() {
            let first = number * share;
            let last = (first + share).min(SLOTS) - 1;
            let () = master.ask(redis::cmd("CLUSTER").arg("ADDSLOTSRANGE").arg(first).arg(last));
        }
    }

    #[track_caller]
    fn enrol_replicas(&self) {
        for (replica, master) in self.replicas.iter().zip(&self.masters) {
            let id: String = master.ask(redis::cmd("CLUSTER").arg("MYID"));
            let () = replica.ask(redis::cmd("CLUSTER").arg("REPLICATE").arg(id));
        }
        until("every replica has its copy", || {
            self.replicas.iter().all(|replica| {
                let info: String = replica.ask(redis::cmd("INFO").arg("replication"));
                info.contains("master_link_status:up")
            })
        });
    }

    fn nodes(&self) -> impl Iterator<Item = &RedisServer> {
        self.masters.iter().chain(&self.replicas)
    }
}

#[track_caller]
fn bus_port(node: &RedisServer) -> String {
    let mut found: Vec<String> = node.ask(redis::cmd("CONFIG").arg("GET").arg("cluster-port"));
    found.pop().expect("a cluster port")
}

#[track_caller]
fn cluster_info(node: &RedisServer) -> HashMap<String, String> {
    let text: String = node.ask(redis::cmd("CLUSTER").arg("INFO"));
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(cluster: &RedisCluster, key: &str) -> usize {
        cluster.slot(key) / SLOTS.div_ceil(3)
    }

    #[test]
    fn each_master_has_a_third_of_the_slots() {
        let cluster = RedisCluster::start();
        for number in 0..30 {
            let key = format!("key-{number}");
            let () = cluster.masters()[owner(&cluster, &key)].ask(redis::cmd("SET").arg(&key).arg(number));
        }
        let keys = cluster.keys();
        assert_eq!(keys.len(), 30);
        assert!(
            (0..3).all(|master| keys.values().any(|&owner| owner == master)),
            "{keys:?}"
        );
        let elsewhere = &cluster.masters()[(owner(&cluster, "key-0") + 1) % 3];
        let refused = elsewhere.try_ask::<String>(redis::cmd("GET").arg("key-0"));
        assert_eq!(refused.unwrap_err().code(), Some("MOVED"));
    }

    #[test]
    fn a_replica_takes_over_with_everything_that_its_master_had() {
        let cluster = RedisCluster::start_with_replicas();
        let [asked, killed] = [owner(&cluster, "a"), (owner(&cluster, "a") + 1) % 3];
        let () = cluster.masters()[asked].ask(redis::cmd("SET").arg("a").arg(1));
        cluster.fail_over(asked);
        assert_eq!(cluster.replicas()[asked].get("a").as_deref(), Some("1"));
        cluster.kill_master(killed);
    }
}
