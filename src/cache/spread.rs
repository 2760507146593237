//! How what was invalidated here reaches the other gateways.
//!
//! Two ways: through the Redis in which they share answers ([`Spread`]), and through the control plane. Both are a
//! [`Channel`]; a gateway may have either, both or none.

mod outbox;
mod stream;

#[cfg(test)]
mod tests;

use std::sync::Arc;

#[cfg(test)]
pub(super) use self::stream::Stream;
pub use self::stream::{Current, Spread};

use super::marks::Invalidation;
use super::memory::Cache;

/// A way to other gateways. What they tell comes back by a way of its own, and is applied there.
pub trait Channel: Send + Sync {
    /// Tells the others, behind the caller's back and without waiting. What there is no room for is told as more, never as
    /// less. `at_ms` is when it was invalidated here, in milliseconds since 1970.
    fn publish(&self, what: &Invalidation, at_ms: u64);
}

/// All the ways that there are. Cheap to clone.
#[derive(Clone, Default)]
pub struct Spreading(Arc<[Arc<dyn Channel>]>);

impl Spreading {
    /// These ways; none of them is a gateway on its own.
    #[must_use]
    pub fn new(channels: Vec<Arc<dyn Channel>>) -> Self {
        Self(channels.into())
    }

    /// Invalidates here, at once, and tells the others.
    pub fn invalidate(&self, cache: &Cache, what: &Invalidation, at_ms: u64) {
        cache.invalidate(what, at_ms);
        for channel in &*self.0 {
            channel.publish(what, at_ms);
        }
    }

    /// Whether anybody is told.
    #[must_use]
    pub fn is_alone(&self) -> bool {
        self.0.is_empty()
    }
}
