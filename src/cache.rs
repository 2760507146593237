//! Stage 4: whether an answer may be kept, under what key, for how long, and whether one that is kept may be given again.
//!
//! The engine brings the state machine (miss, hit, stale, revalidated, one fetch at a time); what it asks for is here. As
//! a shared cache after RFC 9111: nothing is kept that the origin did not allow, or the operator in its place, and who
//! calls is a part of the key wherever answers may differ by caller. Identity and quota come before, so that a kept answer
//! skips neither.

pub mod conditional;
mod date;
pub mod directives;
pub mod entry;
pub mod freshness;
pub mod invalidator;
pub mod key;
pub mod marks;
mod members;
pub mod memory;
pub mod order;
pub mod policy;
pub mod shared;
pub mod spread;
pub mod status_field;
pub mod storability;
pub mod storage;
#[cfg(test)]
mod tests;
pub mod update;
pub mod vary;

pub use directives::{Acceptance, RequestDirectives, ResponseDirectives};
pub use entry::Entry;
pub use freshness::Lifetime;
pub use marks::{Invalidation, MarkId, Marks};
pub use memory::{Cache, Found, TierCounters};
pub use policy::Policy;
pub use status_field::CacheStatus;
pub use storability::{Asked, WhyNot, storability};
pub use storage::Filling;
pub use vary::Vary;
