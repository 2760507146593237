//! Stage 4: whether an answer may be kept, under what key, for how long, and whether one that is kept may be given again.
//!
//! The engine brings the state machine (miss, hit, stale, revalidated, one fetch at a time); what it asks for is here. As
//! a shared cache after RFC 9111: nothing is kept that the origin did not allow, or the operator in its place, and who
//! calls is a part of the key wherever answers may differ by caller. Identity and quota come before, so that a kept answer
//! skips neither.

pub mod conditional;
mod date;
pub mod directives;
pub mod freshness;
mod members;
pub mod policy;
pub mod status_field;
pub mod storability;
#[cfg(test)]
mod tests;
pub mod update;
pub mod vary;

pub use directives::{Acceptance, RequestDirectives, ResponseDirectives};
pub use freshness::Lifetime;
pub use policy::Policy;
pub use status_field::CacheStatus;
pub use storability::{Asked, WhyNot, storability};
pub use vary::Vary;
