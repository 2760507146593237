//! Patterns of paths as a trie over segments.
//!
//! Every table of every host shares one trie: a table is a root in it. The literal edges of all nodes lie in one hash
//! table keyed by node and segment, so that finding costs one probe per segment, whether a node has two children or a
//! hundred thousand.
//!
//! Crate `matchit` 0.9 was tried first and rejected: it refuses `/{a}` beside `/*` as a conflict, its catch-all does not
//! match the empty rest that `/files/*` has to, and it allocates for the parameters of deep patterns, which nobody here
//! reads.

use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashTable};

const NONE: u32 = u32::MAX;

/// A place in the trie.
pub(super) type NodeId = u32;

/// What a pattern leads to; the trie does not care.
pub(super) type Leaf = u32;

#[derive(Debug, Default)]
pub(super) struct Trie {
    nodes: Vec<Node>,
    edges: HashTable<Edge>,
    hasher: DefaultHashBuilder,
    /// The literals of all edges.
    text: String,
}

#[derive(Debug, Clone, Copy)]
struct Node {
    /// A pattern ends here.
    here: Leaf,
    /// A pattern ends here with `*`.
    rest: Leaf,
    /// The child for `{parameter}`.
    parameter: NodeId,
}

#[derive(Debug, Clone, Copy)]
struct Edge {
    parent: NodeId,
    child: NodeId,
    start: u32,
    length: u32,
}

/// A segment of a pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Segment<'a> {
    Literal(&'a str),
    Parameter,
    Rest,
}

/// The segments of a pattern; what follows the leading slash, so `/` is one empty literal.
pub(super) fn segments(pattern: &str) -> impl Iterator<Item = Segment<'_>> {
    let mut pieces = pattern.strip_prefix('/').unwrap_or(pattern).split('/').peekable();
    std::iter::from_fn(move || {
        let piece = pieces.next()?;
        Some(match piece {
            "*" if pieces.peek().is_none() => Segment::Rest,
            _ if piece.starts_with('{') && piece.ends_with('}') => Segment::Parameter,
            _ => Segment::Literal(piece),
        })
    })
}

impl Trie {
    /// A new table.
    pub(super) fn root(&mut self) -> NodeId {
        let id = index(self.nodes.len());
        self.nodes.push(Node {
            here: NONE,
            rest: NONE,
            parameter: NONE,
        });
        id
    }

    /// Where a pattern ends; `new` is put there if nothing was.
    pub(super) fn insert(&mut self, root: NodeId, pattern: &str, new: Leaf) -> Leaf {
        let mut node = root;
        for segment in segments(pattern) {
            node = match segment {
                Segment::Literal(literal) => self.literal_or_new(node, literal),
                Segment::Parameter => self.parameter_or_new(node),
                Segment::Rest => return take_or_put(&mut self.nodes[node as usize].rest, new),
            };
        }
        take_or_put(&mut self.nodes[node as usize].here, new)
    }

    /// The most specific pattern that matches: the leftmost segment decides, a literal before a parameter before the
    /// rest, and what leads nowhere is gone back from.
    ///
    /// Going back visits a node only if the trie has it, and a path cannot make it larger: the cost is bounded by the
    /// patterns, not by the client.
    pub(super) fn find(&self, root: NodeId, path: &str) -> Option<Leaf> {
        self.find_below(root, Some(path.strip_prefix('/')?))
    }

    fn find_below(&self, node: NodeId, path: Option<&str>) -> Option<Leaf> {
        let Some(path) = path else {
            return some(self.node(node)?.here);
        };
        let (segment, below) = split(path);
        if let Some(child) = self.literal(node, segment)
            && let Some(found) = self.find_below(child, below)
        {
            return Some(found);
        }
        let Node { parameter, rest, .. } = *self.node(node)?;
        if parameter != NONE
            && !segment.is_empty()
            && let Some(found) = self.find_below(parameter, below)
        {
            return Some(found);
        }
        some(rest)
    }

    /// Every pattern that matches, the most specific one first.
    pub(super) fn find_all(&self, root: NodeId, path: &str) -> Vec<Leaf> {
        let mut found = Vec::new();
        if let Some(path) = path.strip_prefix('/') {
            self.collect_below(root, Some(path), &mut found);
        }
        found
    }

    fn collect_below(&self, node: NodeId, path: Option<&str>, found: &mut Vec<Leaf>) {
        let Some(&Node { here, rest, parameter }) = self.node(node) else {
            return;
        };
        let Some(path) = path else {
            found.extend(some(here));
            return;
        };
        let (segment, below) = split(path);
        if let Some(child) = self.literal(node, segment) {
            self.collect_below(child, below, found);
        }
        if parameter != NONE && !segment.is_empty() {
            self.collect_below(parameter, below, found);
        }
        found.extend(some(rest));
    }

    /// Patterns with `*` that no path can reach, because more specific ones take everything below them: pairs of one of
    /// those and the unreachable one.
    pub(super) fn unreachable(&self) -> Vec<(Leaf, Leaf)> {
        let ids = (0..index(self.nodes.len())).filter(|&id| self.takes_everything_without_rest(id));
        let pairs = ids.filter_map(|id| {
            let node = self.node(id)?;
            Some((some(self.node(node.parameter)?.here)?, some(node.rest)?))
        });
        pairs.collect()
    }

    /// Whether every path below the node is matched by something other than its own `*`: the bare slash by a literal,
    /// one segment by a parameter, and more again by what is below that parameter.
    fn takes_everything_without_rest(&self, mut id: NodeId) -> bool {
        // Ends, because the next node is always below this one.
        loop {
            let slash = self.literal(id, "").and_then(|child| self.node(child));
            let parameter = self.node(id).map(|node| node.parameter);
            let (Some(slash), Some(parameter_id)) = (slash, parameter) else {
                return false;
            };
            let Some(parameter) = self.node(parameter_id) else {
                return false;
            };
            if slash.here == NONE || parameter.here == NONE {
                return false;
            }
            if parameter.rest != NONE {
                return true;
            }
            id = parameter_id;
        }
    }

    fn node(&self, id: NodeId) -> Option<&Node> {
        self.nodes.get(id as usize)
    }

    fn literal(&self, parent: NodeId, literal: &str) -> Option<NodeId> {
        let hash = self.hasher.hash_one((parent, literal));
        self.edges
            .find(hash, |edge| {
                edge.parent == parent && edge.literal(&self.text) == literal
            })
            .map(|edge| edge.child)
    }

    fn literal_or_new(&mut self, parent: NodeId, literal: &str) -> NodeId {
        if let Some(child) = self.literal(parent, literal) {
            return child;
        }
        let child = self.root();
        let edge = Edge {
            parent,
            child,
            start: index(self.text.len()),
            length: index(literal.len()),
        };
        self.text.push_str(literal);
        let Self {
            edges, hasher, text, ..
        } = self;
        let hash = |edge: &Edge| hasher.hash_one((edge.parent, edge.literal(text)));
        edges.insert_unique(hash(&edge), edge, hash);
        child
    }

    fn parameter_or_new(&mut self, parent: NodeId) -> NodeId {
        let child = self.nodes[parent as usize].parameter;
        if child != NONE {
            return child;
        }
        let child = self.root();
        self.nodes[parent as usize].parameter = child;
        child
    }
}

impl Edge {
    fn literal<'a>(&self, text: &'a str) -> &'a str {
        text.get(self.start as usize..(self.start + self.length) as usize)
            .unwrap_or_default()
    }
}

/// The first segment, and what is below it if there is a slash.
fn split(path: &str) -> (&str, Option<&str>) {
    match memchr::memchr(b'/', path.as_bytes()) {
        Some(slash) => (&path[..slash], Some(&path[slash + 1..])),
        None => (path, None),
    }
}

fn some(leaf: Leaf) -> Option<Leaf> {
    (leaf != NONE).then_some(leaf)
}

fn take_or_put(slot: &mut Leaf, new: Leaf) -> Leaf {
    if *slot == NONE {
        *slot = new;
    }
    *slot
}

/// Four billion nodes are 48 GB of them: a revision of that size is refused long before.
fn index(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(NONE)
}
