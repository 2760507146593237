//! Consistent hashing with ketama's ring: every endpoint has many points on a circle, and a key belongs to the endpoint of
//! the next point. When an endpoint leaves, its keys go to the owners of the next points, and no other key moves.
//!
//! The engine's `pingora_ketama` was read and not taken, except to be held against in the tests. Its ring has 160 points
//! for each unit of weight and no bound: weights go to 1000 here, which makes 160,000 points for one endpoint. Its second
//! version can have fewer, but sorts with a thread pool of its own. Both lead to addresses, which would have to be looked up
//! once more; and a binary search over a large ring alone costs more than half of what a pick may.

use std::net::SocketAddr;

use super::super::hash;

/// Points of an endpoint for each unit of its weight: by the heaviest of all, because weights of 1 and 2 mean the same as 100
/// and 200. Four times ketama's 160, so that two or three endpoints share well too. The steps are far apart: where the
/// heaviest endpoint leaves and others are of another order of magnitude, more keys move than its own.
const POINTS: [(u32, f64); 3] = [(8, 640.0), (80, 64.0), (u32::MAX, 6.4)];

/// As many points as a ring has, but for endpoints that would have none. Beyond it all get less, in proportion; with so many
/// endpoints, one that comes or goes changes next to nothing.
const POINTS_MAX: f64 = 262_144.0;

/// An endpoint on the ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Node {
    /// What it is known by, in every gateway.
    pub(super) address: SocketAddr,
    /// Its share.
    pub(super) weight: u32,
}

/// The ring of a set of endpoints. It knows nothing of their state, so it outlives views.
#[derive(Debug)]
pub(super) struct Ring {
    nodes: Box<[Node]>,
    /// In order, with the node that each belongs to.
    points: Box<[Point]>,
    /// Where points begin whose hash begins with these bits: hashes are even, so the right one is found in a step or two.
    index: Box<[u32]>,
    shift: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Point {
    hash: u32,
    node: u16,
}

impl Ring {
    /// The ring of these nodes. They are numbered in the order in which they are given, but their places depend on
    /// addresses and weights alone.
    pub(super) fn compile(nodes: Vec<Node>) -> Self {
        let heaviest = nodes.iter().map(|node| node.weight).max().unwrap_or(0);
        let fitting = POINTS.iter().find(|(weight, _)| heaviest <= *weight);
        let points = fitting.map_or(1.0, |(_, points)| *points);
        let total: f64 = nodes.iter().map(|node| f64::from(node.weight) * points).sum();
        let points_of = |weight: u32| (f64::from(weight) * points * (POINTS_MAX / total).min(1.0)).max(1.0) as u64;
        // Of points in the same place the one of the smaller address counts, whatever the order.
        let mut ranked: Vec<(u16, Node)> = (0..=u16::MAX).zip(nodes.iter().copied()).collect();
        ranked.sort_unstable_by_key(|(number, node)| (node.address, *number));
        let mut points: Vec<(Point, usize)> = Vec::new();
        for (rank, (number, node)) in ranked.iter().enumerate() {
            let seed = seed(node.address);
            points.extend((0..points_of(node.weight)).map(|point| {
                let hash = (hash::stir(seed.wrapping_add(point)) >> 32) as u32;
                (Point { hash, node: *number }, rank)
            }));
        }
        points.sort_unstable_by_key(|(point, rank)| (point.hash, *rank));
        points.dedup_by_key(|(point, _)| point.hash);
        let points: Box<[Point]> = points.into_iter().map(|(point, _)| point).collect();
        let bits = (points.len() / 2).max(2).ilog2();
        let shift = u32::BITS - bits;
        let index = (0..1_u32 << bits)
            .map(|bucket| {
                let first = points.partition_point(|point| point.hash >> shift < bucket);
                u32::try_from(first).unwrap_or(0)
            })
            .collect();
        Self {
            nodes: nodes.into(),
            points,
            index,
            shift,
        }
    }

    /// The nodes that it was made of.
    pub(super) fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Owners of a key: its own first, then those of the points that follow. A node comes up often; the walk ends after one
    /// round.
    pub(super) fn owners(&self, key: u64) -> impl Iterator<Item = usize> {
        // What is hashed is hashed well, but a test's key may be a small number.
        let wanted = (hash::stir(key) >> 32) as u32;
        let mut start = self.index.get((wanted >> self.shift) as usize).copied().unwrap_or(0) as usize;
        while self.points.get(start).is_some_and(|point| point.hash < wanted) {
            start += 1;
        }
        let (before, from) = self.points.split_at_checked(start).unwrap_or_default();
        from.iter().chain(before).map(|point| usize::from(point.node))
    }
}

/// Where the points of an address begin. Far enough from any other that no two endpoints share a row of points.
fn seed(address: SocketAddr) -> u64 {
    let mut bytes = [0; 18];
    let ip = match address.ip() {
        std::net::IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        std::net::IpAddr::V6(ip) => ip,
    };
    for (to, from) in bytes
        .iter_mut()
        .zip(ip.octets().into_iter().chain(address.port().to_be_bytes()))
    {
        *to = from;
    }
    hash::of(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYS: u64 = 100_000;

    fn nodes(count: u16, weight: impl Fn(u16) -> u32) -> Vec<Node> {
        (0..count)
            .map(|number| Node {
                address: ([10, 0, (number >> 8) as u8, number as u8], 8080).into(),
                weight: weight(number),
            })
            .collect()
    }

    fn owner(ring: &Ring, key: u64) -> SocketAddr {
        ring.nodes[ring.owners(key).next().unwrap()].address
    }

    #[test]
    fn when_an_endpoint_leaves_only_its_keys_move() {
        for count in [2, 3, 10, 50] {
            let mut fewer = nodes(count, |_| 1);
            let all = Ring::compile(fewer.clone());
            let gone = fewer.remove(usize::from(count) / 2).address;
            let fewer = Ring::compile(fewer);
            let moved = (0..KEYS).filter(|key| owner(&all, *key) != owner(&fewer, *key));
            let moved = moved.map(|key| assert_eq!(owner(&all, key), gone)).count();
            let share = moved as f64 / KEYS as f64;
            assert!(share <= 1.0 / f64::from(count) + 0.05, "{count}: {share}");
            assert!(share > 0.5 / f64::from(count), "{count}: {share}");
        }
    }

    #[test]
    fn also_when_weights_are_large_and_there_are_many() {
        for (count, weight) in [(3, 9), (4, 1000), (40, 100), (400, 1), (1500, 7)] {
            let mut fewer = nodes(count, |_| weight);
            let all = Ring::compile(fewer.clone());
            assert!(all.points.len() as f64 <= POINTS_MAX);
            fewer.pop();
            let fewer = Ring::compile(fewer);
            let moved = (0..KEYS).filter(|key| owner(&all, *key) != owner(&fewer, *key)).count();
            let share = moved as f64 / KEYS as f64;
            assert!(share <= 1.0 / f64::from(count) + 0.05, "{count}: {share}");
        }
    }

    #[test]
    fn keys_spread_by_weight_and_no_worse_than_on_the_ring_of_nginx() {
        let nodes = nodes(20, |number| 1 + u32::from(number % 3));
        let ring = Ring::compile(nodes.clone());
        let theirs: Vec<_> = nodes
            .iter()
            .map(|node| pingora_ketama::Bucket::new(node.address, node.weight))
            .collect();
        let theirs = pingora_ketama::Continuum::new(&theirs);
        let total: f64 = nodes.iter().map(|node| f64::from(node.weight)).sum();
        let worst = |owner: &dyn Fn(u64) -> SocketAddr| {
            let mut hits = std::collections::HashMap::<SocketAddr, f64>::new();
            (0..KEYS).for_each(|key| *hits.entry(owner(key)).or_default() += 1.0);
            let off = |node: &Node| (hits[&node.address] / KEYS as f64 / (f64::from(node.weight) / total) - 1.0).abs();
            nodes.iter().map(off).fold(0.0, f64::max)
        };
        let ours = worst(&|key| owner(&ring, key));
        let theirs = worst(&|key| theirs.node(&key.to_le_bytes()).unwrap());
        assert!(ours < 0.25 && ours < theirs + 0.1, "{ours} against {theirs}");
    }

    #[test]
    fn the_ring_is_the_same_whatever_the_order_of_its_endpoints() {
        let mut other = nodes(30, |number| 1 + u32::from(number % 5));
        let one = Ring::compile(other.clone());
        other.reverse();
        let other = Ring::compile(other);
        assert!((0..10_000).all(|key| owner(&one, key) == owner(&other, key)));
    }

    #[test]
    fn its_size_is_bounded_and_every_endpoint_keeps_a_place() {
        let ring = Ring::compile(nodes(3000, |number| if number == 7 { 1 } else { 1000 }));
        assert!(ring.points.len() as f64 <= POINTS_MAX);
        assert!(ring.points.iter().any(|point| point.node == 7));
    }

    #[test]
    fn the_owners_after_the_first_are_all_the_others() {
        let ring = Ring::compile(nodes(5, |_| 1));
        let mut seen: Vec<usize> = ring.owners(42).collect();
        assert_eq!(seen.len(), ring.points.len());
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen, [0, 1, 2, 3, 4]);
        assert_eq!(Ring::compile(Vec::new()).owners(42).next(), None);
    }
}
