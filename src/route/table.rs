//! The compiled routes of a revision.

use std::collections::BTreeSet;
use std::fmt;

use hashbrown::HashMap;
use http::{HeaderValue, Method};

use super::host;
use super::trie::{Leaf, NodeId, Trie};
use crate::revision::HostPattern;

/// One pattern on one host; a route on several hosts is several entries with the same target.
#[derive(Debug, Clone, Copy)]
pub struct Entry<'a> {
    /// `None`: any host.
    pub host: Option<&'a HostPattern>,
    /// See [`crate::revision::RouteRule::path`].
    pub pattern: &'a str,
    /// Answered methods; empty means all.
    pub methods: &'a BTreeSet<String>,
    /// Whether the path with one more slash at its end is the same route, unless another entry says otherwise.
    pub slash_too: bool,
    /// What [`RouteTable::find`] gives back.
    pub target: u32,
}

/// Two entries that cannot both be meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// Target of the entry that requests go to.
    pub winner: u32,
    /// Target of the entry that they never reach.
    pub loser: u32,
    /// The host of both; `None`: any host.
    pub host: Option<HostPattern>,
    /// The pattern of the loser.
    pub pattern: String,
    /// In which way.
    pub kind: ConflictKind,
}

/// How two entries collide.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConflictKind {
    /// The same host and pattern, and these methods in both; empty means all.
    SameMethods(Vec<String>),
    /// More specific patterns take everything that the pattern with `*` could match.
    Shadowed,
}

/// Why no route was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Miss<'t> {
    /// No pattern matches: 404.
    NotFound,
    /// A pattern matches, but answers other methods: 405.
    MethodNotAllowed {
        /// The methods that it answers, as the `Allow` header has them.
        allow: &'t HeaderValue,
    },
}

/// Immutable; finding takes about the same time whatever the number of routes.
#[derive(Debug, Default)]
pub struct RouteTable {
    pub(super) exact: HashMap<String, NodeId>,
    /// By suffix, without `*.`.
    pub(super) wildcard: HashMap<String, NodeId>,
    /// Bytes of the longest suffix.
    longest_wildcard: usize,
    pub(super) any: Option<NodeId>,
    pub(super) trie: Trie,
    /// By leaf of the trie.
    pub(super) endpoints: Vec<Endpoint>,
    /// Sets of methods; most routes share one of a few.
    method_sets: Vec<MethodSet>,
}

/// Where one pattern of one host leads.
#[derive(Debug)]
pub(super) struct Endpoint {
    pub(super) rules: Box<[Rule]>,
    allow: HeaderValue,
}

#[derive(Debug)]
pub(super) struct Rule {
    /// As it was written, for explanations.
    pub(super) pattern: Box<str>,
    pub(super) methods: u32,
    pub(super) target: u32,
}

/// Sorted; empty means all.
type MethodSet = Box<[Box<str>]>;

impl RouteTable {
    /// Compiles the entries, and says which of them collide. The table is usable either way: the first entry wins.
    pub fn compile<'a>(entries: impl Iterator<Item = Entry<'a>>) -> (Self, Vec<Conflict>) {
        let mut builder = Builder::default();
        let mut with_slash = Vec::new();
        for entry in entries {
            builder.add(&entry);
            if entry.slash_too && !entry.pattern.ends_with(['/', '*']) {
                with_slash.push(entry);
            }
        }
        // Behind all others: a pattern that was written with its slash goes before one that is only implied.
        for entry in with_slash {
            builder.add_slash(&entry);
        }
        builder.finish()
    }

    /// The target of the route for a request.
    ///
    /// `host` is the raw value of the `Host` field, `path` is normalised ([`super::path::normalise`]).
    ///
    /// # Errors
    /// When no pattern matches, or only with other methods.
    pub fn find(&self, host: &str, path: &str, method: &Method) -> Result<u32, Miss<'_>> {
        let mut buffer = [0; host::HOST_BYTES_MAX];
        let host = host::canonical(host, &mut buffer);
        let found = self.roots(host).find_map(|root| self.trie.find(root, path));
        let endpoint = found
            .and_then(|leaf| self.endpoints.get(leaf as usize))
            .ok_or(Miss::NotFound)?;
        match self.answering(endpoint, method) {
            Some(rule) => Ok(rule.target),
            None => Err(Miss::MethodNotAllowed { allow: &endpoint.allow }),
        }
    }

    /// The tables of a host in the order in which they are tried.
    pub(super) fn roots(&self, host: Option<&str>) -> impl Iterator<Item = NodeId> {
        let exact = host.and_then(|host| self.exact.get(host));
        let wildcard = host.filter(|_| !self.wildcard.is_empty()).into_iter().flat_map(|host| {
            host::suffixes(host, self.longest_wildcard).filter_map(|suffix| self.wildcard.get(suffix))
        });
        exact.into_iter().chain(wildcard).copied().chain(self.any)
    }

    /// The rule that answers a method: one that lists it, for HEAD one that lists GET, else one for all methods.
    pub(super) fn answering<'t>(&'t self, endpoint: &'t Endpoint, method: &Method) -> Option<&'t Rule> {
        let listing = |method: &str| {
            endpoint
                .rules
                .iter()
                .find(|rule| self.methods(rule).iter().any(|listed| **listed == *method))
        };
        listing(method.as_str())
            .or_else(|| if method == Method::HEAD { listing("GET") } else { None })
            .or_else(|| endpoint.rules.iter().find(|rule| self.methods(rule).is_empty()))
    }

    /// Empty means all.
    pub(super) fn methods(&self, rule: &Rule) -> &[Box<str>] {
        self.method_sets.get(rule.methods as usize).map_or(&[], |set| set)
    }
}

impl fmt::Display for Conflict {
    /// Names the pattern and the host; who the targets are only the caller knows.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = Table(self.host.as_ref());
        match &self.kind {
            ConflictKind::SameMethods(methods) if methods.is_empty() => {
                write!(f, "{} on {host} is taken for every method", self.pattern)
            }
            ConflictKind::SameMethods(methods) => {
                write!(f, "{} on {host} is taken for {}", self.pattern, methods.join(", "))
            }
            ConflictKind::Shadowed => {
                write!(
                    f,
                    "{} on {host} is never reached, more specific paths take everything below it",
                    self.pattern
                )
            }
        }
    }
}

/// A table's host as it is written.
pub(super) struct Table<'a>(pub(super) Option<&'a HostPattern>);

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            None => f.write_str("any host"),
            Some(HostPattern::Exact(host)) => f.write_str(host),
            Some(HostPattern::Wildcard(suffix)) => write!(f, "*.{suffix}"),
        }
    }
}

/// A table under construction.
#[derive(Default)]
struct Builder<'a> {
    table: RouteTable,
    leaves: Vec<LeafUnderWay<'a>>,
    sets: HashMap<&'a BTreeSet<String>, u32>,
    conflicts: Vec<Conflict>,
}

struct LeafUnderWay<'a> {
    host: Option<&'a HostPattern>,
    entries: Vec<Entry<'a>>,
}

impl<'a> Builder<'a> {
    fn add(&mut self, entry: &Entry<'a>) {
        let leaf = self.leaf(entry, entry.pattern);
        let Some(leaf) = self.leaves.get_mut(leaf as usize) else {
            return;
        };
        for earlier in &leaf.entries {
            if let Some(methods) = common(earlier.methods, entry.methods) {
                // The same route on the same host twice harms nobody.
                if earlier.target != entry.target {
                    self.conflicts.push(Conflict {
                        winner: earlier.target,
                        loser: entry.target,
                        host: entry.host.cloned(),
                        pattern: entry.pattern.to_owned(),
                        kind: ConflictKind::SameMethods(methods),
                    });
                }
                return;
            }
        }
        leaf.entries.push(*entry);
    }

    fn add_slash(&mut self, entry: &Entry<'a>) {
        let leaf = self.leaf(entry, &format!("{}/", entry.pattern));
        if let Some(leaf) = self.leaves.get_mut(leaf as usize) {
            leaf.entries.push(*entry);
        }
    }

    /// The leaf of the pattern on the entry's host.
    fn leaf(&mut self, entry: &Entry<'a>, pattern: &str) -> Leaf {
        let table = &mut self.table;
        let root = match entry.host {
            None => *table.any.get_or_insert_with(|| table.trie.root()),
            Some(HostPattern::Exact(host)) => *table
                .exact
                .entry_ref(host.as_str())
                .or_insert_with(|| table.trie.root()),
            Some(HostPattern::Wildcard(suffix)) => {
                table.longest_wildcard = table.longest_wildcard.max(suffix.len());
                *table
                    .wildcard
                    .entry_ref(suffix.as_str())
                    .or_insert_with(|| table.trie.root())
            }
        };
        let new = Leaf::try_from(self.leaves.len()).unwrap_or(Leaf::MAX);
        let leaf = table.trie.insert(root, pattern, new);
        if leaf == new {
            self.leaves.push(LeafUnderWay {
                host: entry.host,
                entries: Vec::with_capacity(1),
            });
        }
        leaf
    }

    fn finish(mut self) -> (RouteTable, Vec<Conflict>) {
        self.report_unreachable();
        let mut allows: HashMap<BTreeSet<&str>, HeaderValue> = HashMap::new();
        for leaf in std::mem::take(&mut self.leaves) {
            let listed: BTreeSet<&str> = leaf
                .entries
                .iter()
                .flat_map(|entry| entry.methods)
                .map(String::as_str)
                .collect();
            let allow = allows.entry(listed).or_insert_with_key(allow).clone();
            let rules = leaf.entries.iter().map(|entry| self.rule(entry)).collect();
            self.table.endpoints.push(Endpoint { rules, allow });
        }
        (self.table, self.conflicts)
    }

    fn rule(&mut self, entry: &Entry<'a>) -> Rule {
        let sets = &mut self.table.method_sets;
        let methods = *self.sets.entry(entry.methods).or_insert_with(|| {
            sets.push(entry.methods.iter().map(|method| method.as_str().into()).collect());
            u32::try_from(sets.len() - 1).unwrap_or(u32::MAX)
        });
        Rule {
            pattern: entry.pattern.into(),
            methods,
            target: entry.target,
        }
    }

    fn report_unreachable(&mut self) {
        for (winner, loser) in self.table.trie.unreachable() {
            let (Some(winner), Some(loser)) = (self.leaves.get(winner as usize), self.leaves.get(loser as usize))
            else {
                continue;
            };
            let Some(winning) = winner.entries.first() else {
                continue;
            };
            self.conflicts.extend(loser.entries.iter().map(|losing| Conflict {
                winner: winning.target,
                loser: losing.target,
                host: loser.host.cloned(),
                pattern: losing.pattern.to_owned(),
                kind: ConflictKind::Shadowed,
            }));
        }
    }
}

/// The methods in both sets, of which the empty one is all; `None` if there are none.
fn common(a: &BTreeSet<String>, b: &BTreeSet<String>) -> Option<Vec<String>> {
    let both: Vec<String> = match (a.is_empty(), b.is_empty()) {
        (true, true) => return Some(Vec::new()),
        (true, false) => b.iter().cloned().collect(),
        (false, true) => a.iter().cloned().collect(),
        (false, false) => a.intersection(b).cloned().collect(),
    };
    (!both.is_empty()).then_some(both)
}

/// `Allow` for the listed methods, with HEAD where GET answers it. Never seen where one of the rules has all methods.
fn allow(listed: &BTreeSet<&str>) -> HeaderValue {
    let mut methods: Vec<&str> = listed.iter().copied().collect();
    if listed.contains("GET") && !listed.contains("HEAD") {
        methods.push("HEAD");
        methods.sort_unstable();
    }
    // A method that cannot stand in a header cannot stand in a request either.
    HeaderValue::from_str(&methods.join(", ")).unwrap_or(HeaderValue::from_static(""))
}
