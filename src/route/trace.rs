//! Why a request goes where it goes; for `explain`, not for the request path.

use std::fmt;

use http::Method;

use super::host;
use super::table::{RouteTable, Table};
use crate::revision::HostPattern;

/// One step of finding a route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// A table that the host falls under, in the order in which they are tried.
    Table {
        /// `None`: any host.
        host: Option<HostPattern>,
        /// What came of it.
        outcome: TableOutcome,
    },
    /// A route of the table before, whose pattern matches the path; the most specific one first.
    Candidate {
        /// The pattern as it was written.
        pattern: String,
        /// Its methods; empty means all.
        methods: Vec<String>,
        /// Its target.
        target: u32,
        /// What came of it.
        outcome: Outcome,
    },
}

/// What came of a host's table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TableOutcome {
    /// A pattern in it matches the path; no other table is tried.
    Matched,
    /// None matches.
    NoPath,
    /// An earlier table had matched.
    NotTried,
}

/// What came of a candidate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The request goes here.
    Chosen,
    /// The most specific pattern, but another method.
    OtherMethod,
    /// Another pattern is more specific.
    LessSpecific,
}

impl RouteTable {
    /// What [`RouteTable::find`] does, told step by step.
    #[must_use]
    pub fn trace(&self, host: &str, path: &str, method: &Method) -> Vec<Step> {
        let mut buffer = [0; host::HOST_BYTES_MAX];
        let host = host::canonical(host, &mut buffer);
        let mut steps = Vec::new();
        let mut matched = false;
        for root in self.roots(host) {
            let name = self.host_of(root);
            if matched {
                steps.push(Step::Table {
                    host: name,
                    outcome: TableOutcome::NotTried,
                });
                continue;
            }
            let leaves = self.trie.find_all(root, path);
            matched = !leaves.is_empty();
            let outcome = if matched {
                TableOutcome::Matched
            } else {
                TableOutcome::NoPath
            };
            steps.push(Step::Table { host: name, outcome });
            for (rank, leaf) in leaves.into_iter().enumerate() {
                self.trace_leaf(leaf, rank, method, &mut steps);
            }
        }
        steps
    }

    fn trace_leaf(&self, leaf: u32, rank: usize, method: &Method, steps: &mut Vec<Step>) {
        let Some(endpoint) = self.endpoints.get(leaf as usize) else {
            return;
        };
        let answering = self.answering(endpoint, method);
        for rule in &endpoint.rules {
            let outcome = match answering {
                _ if rank > 0 => Outcome::LessSpecific,
                Some(answering) if std::ptr::eq(answering, rule) => Outcome::Chosen,
                _ => Outcome::OtherMethod,
            };
            steps.push(Step::Candidate {
                pattern: rule.pattern.to_string(),
                methods: self.methods(rule).iter().map(ToString::to_string).collect(),
                target: rule.target,
                outcome,
            });
        }
    }

    fn host_of(&self, root: u32) -> Option<HostPattern> {
        let exact = self.exact.iter().find(|(_, other)| **other == root);
        let wildcard = || self.wildcard.iter().find(|(_, other)| **other == root);
        exact
            .map(|(host, _)| HostPattern::Exact(host.clone()))
            .or_else(|| wildcard().map(|(suffix, _)| HostPattern::Wildcard(suffix.clone())))
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Table { host, outcome } => {
                let outcome = match outcome {
                    TableOutcome::Matched => "a path matches",
                    TableOutcome::NoPath => "no path matches",
                    TableOutcome::NotTried => "not tried",
                };
                write!(f, "{}: {outcome}", Table(host.as_ref()))
            }
            Self::Candidate {
                pattern,
                methods,
                outcome,
                ..
            } => {
                let outcome = match outcome {
                    Outcome::Chosen => "chosen",
                    Outcome::OtherMethod => "answers other methods",
                    Outcome::LessSpecific => "less specific",
                };
                match methods.is_empty() {
                    true => write!(f, "{pattern}: {outcome}"),
                    false => write!(f, "{} {pattern}: {outcome}", methods.join(",")),
                }
            }
        }
    }
}
