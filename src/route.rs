//! Stage 1: host, path and method → route.
//!
//! A request's path is normalised once ([`path::normalise`]); what was matched is what is sent upstream. Then the
//! tables of the host are tried: the exact host, wildcards from the longest, any host. The first table with a matching
//! path decides; after that only the method can still fail.

pub mod path;

mod host;
mod table;
mod trace;
mod trie;

pub use table::{Conflict, ConflictKind, Entry, Miss, RouteTable};
pub use trace::{Outcome, Step, TableOutcome};

#[cfg(test)]
mod tests;
