//! Orders to forget kept answers, put together: the admin listener's desk, and the ways to other gateways.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Server;
use super::admin::cache::{Desk, Way};
use crate::cache::invalidator::Invalidator;
use crate::sync::invalidations::Follower;

impl Server {
    /// Follows what other gateways are told to forget, and gives what an administrator is served by.
    pub(super) fn follow_invalidations(&self) -> Desk {
        let invalidator = Arc::new(Invalidator::new(
            self.keeping.cache(),
            self.keeping.callers().clone(),
            self.metrics.cache().clone(),
        ));
        Desk::new(
            Arc::clone(&invalidator),
            (self.keeping.way().into_iter())
                .chain(self.way_of_control_plane(&invalidator))
                .collect(),
        )
    }

    /// Through the control plane, if somebody is there who keeps a log of it.
    fn way_of_control_plane(&self, invalidator: &Arc<Invalidator>) -> Option<Way> {
        let remote = self.remote.as_ref()?;
        let (teller, name) = self.keeping.teller()?;
        let follower = Follower::new(
            remote.client().clone(),
            Arc::clone(remote.trust()),
            (&self.config.gateway.environment, name),
            Arc::clone(invalidator),
            self.keeping.sharing(),
        );
        let is_current = follower.is_current();
        self.side.spawn(follower.run());
        let teller = Arc::clone(teller);
        Some(Way {
            name: "control_plane",
            tell: Box::new(move |order, _, _| teller.pass_on(order)),
            is_current: Box::new(move || is_current.load(Ordering::Relaxed)),
        })
    }
}
