//! tollgate from the outside: the real binary, started with real files, spoken to over real sockets.
//!
//! Every test starts what it needs on free ports and in a directory of its own, so all of them run at the same time.
//! Nothing here sleeps and hopes: a test waits for a condition, with more patience than any machine needs.

#[allow(
    dead_code,
    unused_imports,
    reason = "a harness has more words than the stories so far"
)]
mod harness;

mod credentials;
mod deadlines;
mod journey;
mod limits;
mod reload;
mod security;
mod upstreams;
