//! tollgate from the outside: the real binary, started with real files, spoken to over real sockets.
//!
//! Every test starts what it needs on free ports and in a directory of its own, so all of them run at the same time.
//! Nothing here sleeps and hopes: a test waits for a condition, with more patience than any machine needs.

mod harness;

mod balancing;
mod caching;
mod control_plane;
mod credentials;
mod deadlines;
mod discovery;
mod edits;
mod endurance;
mod health;
mod journey;
mod limits;
mod operations;
mod protocols;
mod reload;
mod security;
mod sharing;
mod splits;
mod tls;
mod upgrade;
mod upstreams;
