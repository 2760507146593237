//! Orders to forget kept answers, put together: the admin listener's desk, and the ways to other gateways.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Server;
use super::admin::cache::{Desk, Way};
use crate::cache::invalidator::Invalidator;
use crate::sync::invalidations::{Follower, Teller};

impl Server {
    /// Follows what other gateways are told to forget, and gives what an administrator is served by.
    pub(super) fn follow_invalidations(&self) -> Desk {
        let invalidator = Arc::new(Invalidator::new(
            self.keeping.cache(),
            Arc::clone(&self.estate.tokens),
            self.estate.introspectors.clone(),
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
        let client = remote.client();
        if client.is_directory() {
            return None;
        }
        let gateway = &self.config.gateway;
        // Of this process alone: one that takes over has to do what the one before it has told.
        let name = format!("{}/{:016x}", gateway.id, rand::random::<u64>());
        let follower = Follower::new(
            client.clone(),
            Arc::clone(remote.trust()),
            (&gateway.environment, &name),
            Arc::clone(invalidator),
        );
        let teller = Arc::new(Teller::new(client.clone(), &gateway.environment, &name));
        let is_current = follower.is_current();
        self.side.spawn(follower.run());
        self.side.spawn(Arc::clone(&teller).run());
        Some(Way {
            name: "control_plane",
            tell: Box::new(move |order, _, _| teller.pass_on(order)),
            is_current: Box::new(move || is_current.load(Ordering::Relaxed)),
        })
    }
}
