//! Which servers there are, and which has which slot.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ::redis::{Pipeline, Value};
use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};

use super::connect::{Dial, Facts, Kind, Trouble, inspect, says, text};
use super::node::{Health, Node, Surroundings, around};
use super::settings::Endpoint;
use super::slot::{SLOTS, Slot};

/// How often a cluster is looked at: when nothing happened, and while a server is down or nothing is known.
const LOOK: Duration = Duration::from_secs(10);
const LOOK_TROUBLED: Duration = Duration::from_millis(500);

/// Between two looks, however often somebody asks.
const PAUSE: Duration = Duration::from_millis(250);

/// How many servers are asked at a time, or how many of the seeds, and for how long all of them together.
const ASKED: usize = 3;
const SEEDS: usize = 20;
const PATIENCE: Duration = Duration::from_secs(2);

/// More servers than this are no cluster; Redis recommends at most 1,000.
const MOST_NODES: usize = 2_000;

/// No server has the slot.
const NOBODY: u16 = u16::MAX;

/// The servers as they are now.
pub(super) struct Topology {
    seeds: Vec<Endpoint>,
    surroundings: Arc<Surroundings>,
    map: ArcSwap<Map>,
    changed: watch::Sender<u64>,
    upkeep: Mutex<BTreeMap<Endpoint, Upkeep>>,
}

/// Who has which slot.
#[derive(Default)]
struct Map {
    nodes: Vec<Arc<Node>>,
    /// Positions in `nodes`; empty if the first one has every slot.
    slots: Box<[u16]>,
}

/// A node and its task. Dropping it ends both.
struct Upkeep {
    node: Arc<Node>,
    task: AbortHandle,
}

impl Drop for Upkeep {
    fn drop(&mut self) {
        self.task.abort();
        self.node.retire();
    }
}

impl Topology {
    pub(super) fn new(seeds: Vec<Endpoint>, surroundings: Arc<Surroundings>) -> Self {
        let mut map = Map::default();
        if surroundings.dial.cluster {
            map.slots = vec![NOBODY; SLOTS].into();
        } else {
            map.nodes = seeds
                .iter()
                .map(|seed| Arc::new(Node::new(seed.clone(), Arc::clone(&surroundings))))
                .collect();
        }
        Self {
            seeds,
            surroundings,
            map: ArcSwap::from_pointee(map),
            changed: watch::Sender::new(0),
            upkeep: Mutex::default(),
        }
    }

    pub(super) fn node_of(&self, slot: Slot) -> Option<Arc<Node>> {
        self.map.load().node_of(slot).cloned()
    }

    pub(super) fn health_of(&self, slot: Slot) -> Health {
        self.map.load().node_of(slot).map_or(Health::Down, |node| node.health())
    }

    pub(super) fn nodes(&self) -> Vec<Arc<Node>> {
        self.map.load().nodes.clone()
    }

    pub(super) fn changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    pub(super) fn progress(&self) -> watch::Receiver<u64> {
        self.surroundings.progress.subscribe()
    }

    pub(super) fn all_tried(&self) -> bool {
        let map = self.map.load();
        !map.nodes.is_empty() && map.nodes.iter().all(|node| node.was_tried())
    }

    pub(super) fn look(&self) {
        self.surroundings.look.notify_one();
    }

    /// Keeps every node, and in a cluster the map, until the future is dropped.
    pub(super) async fn keep(self: Arc<Self>) {
        let _end = End(&self);
        self.tend(&self.nodes());
        if !self.surroundings.dial.cluster {
            std::future::pending::<()>().await;
        }
        let mut said: Option<String> = None;
        loop {
            match self.ask().await {
                Ok(view) => {
                    if said.take().is_some() {
                        log::info!("redis cluster: its servers are known again");
                    }
                    self.apply(&view);
                }
                Err(trouble) => {
                    if said.as_ref() != Some(&trouble.text) {
                        log::warn!(
                            "redis cluster: nobody says which server has which slot: {}",
                            trouble.text
                        );
                        said = Some(trouble.text);
                    }
                }
            }
            sleep(around(PAUSE)).await;
            let troubled = said.is_some() || self.map.load().is_troubled();
            let pause = around(if troubled { LOOK_TROUBLED } else { LOOK }).saturating_sub(PAUSE);
            // Whoever asked in the meantime has left a permit.
            let _ = timeout(pause, self.surroundings.look.notified()).await;
        }
    }

    /// Asks the servers that are up, and the seeds if there is none, and takes the newest view of the cluster: a
    /// server that was cut off or just restarted may still believe in an old one.
    async fn ask(&self) -> Result<View, Trouble> {
        let mut nodes = self.nodes();
        nodes.retain(|node| node.health() != Health::Down);
        rand::seq::SliceRandom::shuffle(nodes.as_mut_slice(), &mut rand::rng());
        nodes.truncate(ASKED);
        let mut asked = JoinSet::new();
        for node in nodes {
            asked.spawn(async move { ask_node(&node).await });
        }
        let mut best = newest(asked).await;
        if best.is_err() {
            let mut asked = JoinSet::new();
            for seed in self.seeds.iter().take(SEEDS) {
                let (seed, surroundings) = (seed.clone(), Arc::clone(&self.surroundings));
                asked.spawn(async move { ask_seed(&seed, &surroundings.dial).await });
            }
            best = newest(asked).await;
        }
        best
    }

    fn apply(&self, view: &View) {
        let old = self.map.load_full();
        let known: BTreeMap<&Endpoint, &Arc<Node>> = old.nodes.iter().map(|node| (node.endpoint(), node)).collect();
        let mut nodes = Vec::with_capacity(view.masters.len());
        let mut slots: Box<[u16]> = vec![NOBODY; SLOTS].into();
        for (position, (endpoint, ranges)) in (0_u16..).zip(&view.masters) {
            nodes.push(known.get(endpoint).map_or_else(
                || Arc::new(Node::new(endpoint.clone(), Arc::clone(&self.surroundings))),
                |node| Arc::clone(node),
            ));
            for (first, last) in ranges {
                if let Some(range) = slots.get_mut(usize::from(*first)..=usize::from(*last)) {
                    range.fill(position);
                }
            }
        }
        let map = Map { nodes, slots };
        if map.is_like(&old) {
            return;
        }
        let names: Vec<&str> = map.nodes.iter().map(|node| node.name()).collect();
        log::info!("redis cluster: slots are at {}", names.join(", "));
        self.tend(&map.nodes);
        self.map.store(Arc::new(map));
        self.changed.send_modify(|step| *step += 1);
        self.surroundings.progress.send_modify(|step| *step += 1);
    }

    /// Starts the upkeep of nodes that are new, and ends that of nodes that are gone.
    fn tend(&self, nodes: &[Arc<Node>]) {
        *self.surroundings.peers.lock() = nodes.iter().map(Arc::downgrade).collect();
        let mut upkeep = self.upkeep.lock();
        upkeep.retain(|endpoint, _| nodes.iter().any(|node| node.endpoint() == endpoint));
        for node in nodes {
            upkeep.entry(node.endpoint().clone()).or_insert_with(|| Upkeep {
                node: Arc::clone(node),
                task: tokio::spawn(Arc::clone(node).keep()).abort_handle(),
            });
        }
    }
}

/// Ends every node with the upkeep of all.
struct End<'a>(&'a Topology);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.upkeep.lock().clear();
    }
}

impl Map {
    fn node_of(&self, slot: Slot) -> Option<&Arc<Node>> {
        match self.slots.get(usize::from(slot.number())) {
            Some(position) => self.nodes.get(usize::from(*position)),
            None => self.nodes.first(),
        }
    }

    fn is_like(&self, other: &Self) -> bool {
        self.slots == other.slots
            && self.nodes.len() == other.nodes.len()
            && self
                .nodes
                .iter()
                .zip(&other.nodes)
                .all(|(one, other)| Arc::ptr_eq(one, other))
    }

    fn is_troubled(&self) -> bool {
        self.slots.contains(&NOBODY) || self.nodes.iter().any(|node| node.health() == Health::Down)
    }
}

/// A cluster as one of its servers sees it.
#[derive(Debug, Default, PartialEq, Eq)]
struct View {
    epoch: u64,
    masters: BTreeMap<Endpoint, Vec<(u16, u16)>>,
}

async fn ask_node(node: &Node) -> Result<View, Trouble> {
    let reply = node
        .send(&question())
        .await
        .map_err(|failure| Kind::Lost.because(format!("{}: {failure}", node.name())))?;
    let values = reply
        .values
        .into_iter()
        .map(|value| value.unwrap_or_else(Value::ServerError));
    View::read(values.collect(), node.endpoint())
}

async fn ask_seed(seed: &Endpoint, dial: &Dial) -> Result<View, Trouble> {
    let about = |text: &str| Kind::Lost.because(format!("{seed}: {text}"));
    let mut opened = dial.open(seed).await.map_err(|trouble| about(&trouble.text))?;
    let question = question();
    let answer = opened.connection.send_packed_commands(&question, 0, question.len());
    match timeout(dial.response_timeout, answer).await {
        Ok(Ok(values)) => View::read(values, seed),
        Ok(Err(error)) => Err(about(&error.to_string())),
        Err(_) => Err(about("no reply in time")),
    }
}

/// The masters that a seed names, and how many slots have none.
pub(super) async fn masters(seed: &Endpoint, dial: &Dial) -> Result<(Vec<Endpoint>, usize), Trouble> {
    let view = ask_seed(seed, dial).await?;
    let ranges = view.masters.values().flatten();
    let assigned: usize = ranges.map(|(first, last)| usize::from(last - first) + 1).sum();
    Ok((view.masters.into_keys().collect(), SLOTS.saturating_sub(assigned)))
}

/// The newest of all views, or one of the reasons why there is none.
async fn newest(mut asked: JoinSet<Result<View, Trouble>>) -> Result<View, Trouble> {
    let mut best: Result<View, Trouble> = Err(Kind::Lost.because("no server is left to ask"));
    let _ = timeout(PATIENCE, async {
        while let Some(answer) = asked.join_next().await {
            match (answer, &best) {
                (Ok(Ok(view)), Ok(known)) if view.epoch > known.epoch => best = Ok(view),
                (Ok(answer), Err(_)) => best = answer,
                _ => {}
            }
        }
    })
    .await;
    best
}

fn question() -> Pipeline {
    let mut pipeline = Pipeline::new();
    inspect(&mut pipeline, true);
    pipeline.cmd("CLUSTER").arg("SLOTS");
    pipeline
}

impl View {
    /// Reads the answers to [`question`] that `asked` gave.
    fn read(mut values: Vec<Value>, asked: &Endpoint) -> Result<Self, Trouble> {
        let about = |text: &str| Kind::Lost.because(format!("{asked}: {text}"));
        let slots = values.pop();
        let facts = Facts::read(&values).map_err(|trouble| about(&trouble.text))?;
        let ranges = match slots {
            Some(Value::Array(ranges)) if !ranges.is_empty() => ranges,
            Some(Value::Array(_)) => return Err(about("no slot is assigned to any server")),
            Some(Value::ServerError(error)) => return Err(about(&says(&error))),
            _ => return Err(about("what it answers to CLUSTER SLOTS is not a list")),
        };
        let mut view = Self {
            epoch: facts.cluster_epoch.unwrap_or(0),
            ..Self::default()
        };
        for range in &ranges {
            // A range whose master's address is unknown stays without a server.
            if let Some((first, last, master)) = slot_range(range, asked) {
                view.masters.entry(master).or_default().push((first, last));
            }
        }
        if view.masters.is_empty() || view.masters.len() > MOST_NODES {
            return Err(about(&format!("it names {} servers", view.masters.len())));
        }
        Ok(view)
    }
}

/// First and last slot, and the address of the master.
fn slot_range(value: &Value, asked: &Endpoint) -> Option<(u16, u16, Endpoint)> {
    let Value::Array(parts) = value else { return None };
    let [Value::Int(first), Value::Int(last), Value::Array(master), ..] = parts.as_slice() else {
        return None;
    };
    let [host, Value::Int(port), ..] = master.as_slice() else {
        return None;
    };
    let (first, last) = (u16::try_from(*first).ok()?, u16::try_from(*last).ok()?);
    if first > last || usize::from(last) >= SLOTS {
        return None;
    }
    let host = match (text(host), host) {
        // A server that does not know its own address is where it was asked. The name that is announced is the one that
        // its certificate has to have.
        (Some("" | "0.0.0.0" | "::"), _) | (None, Value::Nil) => match asked {
            Endpoint::Tcp { host, .. } => host,
            Endpoint::Unix(_) => return None,
        },
        (Some("?"), _) | (None, _) => return None,
        (Some(host), _) => host,
    };
    Some((first, last, Endpoint::tcp(host, u16::try_from(*port).ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(first: i64, last: i64, host: Value, port: i64) -> Value {
        let master = Value::Array(vec![host, Value::Int(port), Value::BulkString(b"id".to_vec())]);
        let replica = Value::Array(vec![Value::BulkString(b"replica".to_vec()), Value::Int(1)]);
        Value::Array(vec![Value::Int(first), Value::Int(last), master, replica])
    }

    fn host(name: &str) -> Value {
        Value::BulkString(name.as_bytes().to_vec())
    }

    fn read(ranges: Vec<Value>) -> Result<View, Trouble> {
        let info = Value::BulkString(b"cluster_state:ok\r\ncluster_current_epoch:7\r\n".to_vec());
        let values = vec![Value::SimpleString("PONG".to_owned()), info, Value::Array(ranges)];
        View::read(values, &Endpoint::tcp("asked", 7000))
    }

    #[test]
    fn a_view_is_the_masters_with_their_slots() {
        let view = read(vec![
            range(0, 99, host("a"), 1),
            range(100, 199, host("b"), 2),
            range(300, 300, host("a"), 1),
            // Servers that do not know their address, in several writings.
            range(400, 400, host(""), 7000),
            range(401, 401, Value::Nil, 7000),
            range(402, 402, host("0.0.0.0"), 7000),
        ])
        .unwrap();
        assert_eq!(view.epoch, 7);
        let masters: Vec<_> = view.masters.into_iter().collect();
        assert_eq!(
            masters,
            [
                (Endpoint::tcp("a", 1), vec![(0, 99), (300, 300)]),
                (Endpoint::tcp("asked", 7000), vec![(400, 400), (401, 401), (402, 402)]),
                (Endpoint::tcp("b", 2), vec![(100, 199)]),
            ]
        );
    }

    #[test]
    fn ranges_that_make_no_sense_have_no_server() {
        let view = read(vec![
            range(0, 1, host("a"), 1),
            range(5, 4, host("b"), 1),
            range(0, 16_384, host("b"), 1),
            range(-1, 3, host("b"), 1),
            range(2, 3, host("b"), 65_536),
            range(2, 3, host("?"), 1),
            range(2, 3, Value::Int(1), 1),
            Value::Array(vec![Value::Int(2), Value::Int(3)]),
            Value::Nil,
        ])
        .unwrap();
        assert_eq!(view.masters.into_keys().collect::<Vec<_>>(), [Endpoint::tcp("a", 1)]);
        assert!(read(vec![]).unwrap_err().text.contains("no slot is assigned"));
        assert!(read(vec![Value::Nil]).unwrap_err().text.contains("names 0 servers"));
    }
}
