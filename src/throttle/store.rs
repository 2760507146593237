//! The seam behind the counters: who owns the quota.
//!
//! A counter hands out what it is allowed to, from memory. Where the allowance comes from is the store's affair:
//!
//! - [`Local`]: this process owns the whole quota; there is nothing to trade.
//! - Shared: the quota lies elsewhere, and a gateway buys *tickets* in batches, ahead of need. Then
//!   [`opening`](Store::opening) is the credit that a counter has before its first ticket arrives (0 for a strict
//!   limit), and [`notice`](Store::notice) marks the counter as dirty for a background task, which buys and
//!   raises that counter's allowance. `ticket` takes the allowance as an argument, so neither the state machine
//!   nor the order of decisions changes. A request that finds a cold counter with no credit is refused by `admit`
//!   like any other; waiting for the first ticket is done by whoever called, who may `admit` again when it came.
//!   So `admit` never awaits.
//!
//! The stage is generic over its store instead of holding a `dyn Store`: a process has one store for its life, and
//! with [`Local`] the compiler removes all three calls from the request path.

use super::identity::Identity;
use super::ticket::Quota;

/// Trades tickets for counters, in the background.
pub trait Store: Send + Sync {
    /// What a counter may hand out without asking, from the moment its window opens.
    fn opening(&self, quota: &Quota) -> u32;

    /// A counter with less left than this is running low; 0 if nobody wants to know.
    fn low_mark(&self, quota: &Quota) -> u32;

    /// Something happened to a counter in this window. Called on the request path: must not block, and may forget
    /// what it is told when it cannot keep up, because the next request tells it again.
    fn notice(&self, counter: Identity, quota: &Quota, window: u32, notice: Notice);
}

/// What can happen to a counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notice {
    /// The first request of a window.
    Opened,
    /// It came below the low mark.
    Low,
    /// It refused a request.
    Spent,
}

/// This process owns the whole quota.
#[derive(Debug, Clone, Copy, Default)]
pub struct Local;

impl Store for Local {
    #[inline]
    fn opening(&self, quota: &Quota) -> u32 {
        quota.whole()
    }

    #[inline]
    fn low_mark(&self, _: &Quota) -> u32 {
        0
    }

    #[inline]
    fn notice(&self, _: Identity, _: &Quota, _: u32, _: Notice) {}
}
