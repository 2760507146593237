//! What the views of an upstream have in common.
//!
//! Two revisions of an upstream run beside each other for as long as a request holds the older one, and the two may have
//! other endpoints and other rules. So each decides for itself which group has its traffic. What is decided by the newest is
//! what is told, and what the next one begins with.

use std::sync::atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::ring::{Node, Ring};
use crate::names::UpstreamName;

/// What all revisions of an upstream have in common.
#[derive(Debug, Default)]
pub struct Lineage {
    /// Where the rotation stands. A relaxed increment is enough because only the distribution matters, not the order
    /// between threads.
    turn: AtomicUsize,
    populated: AtomicBool,
    /// One for each revision that is alive, the newest last.
    standings: Mutex<Vec<Weak<Standing>>>,
}

/// What outlives the views of an upstream in one revision.
#[derive(Debug, Default)]
pub struct Standing {
    lineage: Arc<Lineage>,
    /// The priority that gets the traffic, plus one; 0: nothing was decided yet.
    priority: AtomicU16,
    panic: AtomicBool,
    /// The newest ring. Endpoints change their state much more often than their number.
    ring: Mutex<Option<Arc<Ring>>>,
}

impl Lineage {
    /// For a revision that comes now: it goes on where the newest stands.
    #[must_use]
    pub fn succeed(self: &Arc<Self>) -> Arc<Standing> {
        let mut standings = self.standings();
        standings.retain(|standing| standing.strong_count() > 0);
        let before = newest(&standings);
        let priority = before
            .as_ref()
            .map_or(0, |before| before.priority.load(Ordering::Relaxed));
        let panic = before.is_some_and(|before| before.panic.load(Ordering::Relaxed));
        let standing = Arc::new(Standing {
            lineage: Arc::clone(self),
            priority: priority.into(),
            panic: panic.into(),
            ring: Mutex::default(),
        });
        standings.push(Arc::downgrade(&standing));
        standing
    }

    fn standings(&self) -> MutexGuard<'_, Vec<Weak<Standing>>> {
        self.standings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Standing {
    /// Whether the upstream has had endpoints: those that come now come late, and start slowly.
    #[must_use]
    pub fn is_populated(&self) -> bool {
        self.lineage.populated.load(Ordering::Relaxed)
    }

    /// It has endpoints.
    pub fn populate(&self) {
        self.lineage.populated.store(true, Ordering::Relaxed);
    }

    /// The number of a turn that nobody else has.
    pub(super) fn next_turn(&self) -> usize {
        self.lineage.turn.fetch_add(1, Ordering::Relaxed)
    }

    /// The group that has the traffic, if that was decided.
    pub(super) fn priority(&self) -> Option<u8> {
        u8::try_from(self.priority.load(Ordering::Relaxed).checked_sub(1)?).ok()
    }

    /// Notes which group has the traffic now, and whether it panics. Says so when that changes and this is the newest
    /// revision.
    pub(super) fn note(&self, upstream: &UpstreamName, priority: Option<u8>, panic: bool) {
        let Some(priority) = priority else { return };
        let before = self.priority.swap(u16::from(priority) + 1, Ordering::Relaxed);
        let had_panic = self.panic.swap(panic, Ordering::Relaxed);
        if (before == u16::from(priority) + 1 && had_panic == panic) || !self.is_newest() {
            return;
        }
        match before.checked_sub(1) {
            Some(before) if before < u16::from(priority) => log::warn!(
                "upstream \"{upstream}\": endpoints of priority {before} can not carry the traffic, it goes to those of priority \
                 {priority}"
            ),
            Some(before) if before > u16::from(priority) => {
                log::info!("upstream \"{upstream}\": the traffic goes to endpoints of priority {priority} again");
            }
            _ => {}
        }
        if panic && !had_panic {
            log::warn!(
                "upstream \"{upstream}\": so few endpoints can be used that all of them are, whatever is known of them"
            );
        }
        if had_panic && !panic {
            log::info!("upstream \"{upstream}\": enough endpoints can be used again");
        }
    }

    /// False while a newer revision of the upstream is alive. One that was compiled and then not taken is none.
    fn is_newest(&self) -> bool {
        newest(&self.lineage.standings()).is_none_or(|newest| std::ptr::eq(Arc::as_ptr(&newest), self))
    }

    /// The ring of these nodes, made anew if it is another one than last time.
    pub(super) fn ring(&self, nodes: Vec<Node>) -> Arc<Ring> {
        let mut kept = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(ring) = kept.as_ref().filter(|ring| ring.nodes() == nodes) {
            return Arc::clone(ring);
        }
        let ring = Arc::new(Ring::compile(nodes));
        *kept = Some(Arc::clone(&ring));
        ring
    }
}

fn newest(standings: &[Weak<Standing>]) -> Option<Arc<Standing>> {
    standings.iter().rev().find_map(Weak::upgrade)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(last: u8) -> Node {
        Node {
            address: ([10, 0, 0, last], 80).into(),
            weight: 1,
        }
    }

    #[test]
    fn a_revision_goes_on_where_the_newest_stands_and_then_decides_for_itself() {
        let orders = UpstreamName::from("orders");
        let lineage = Arc::<Lineage>::default();
        let old = lineage.succeed();
        assert_eq!(old.priority(), None, "nothing was decided yet");
        old.note(&orders, Some(1), true);
        old.populate();
        let new = lineage.succeed();
        assert_eq!((new.priority(), new.panic.load(Ordering::Relaxed)), (Some(1), true));
        assert!(new.is_populated());
        new.note(&orders, Some(0), false);
        assert_eq!((new.priority(), old.priority()), (Some(0), Some(1)));
        old.note(&orders, Some(2), true);
        assert_eq!(
            lineage.succeed().priority(),
            Some(0),
            "of the newest, and not of who spoke last"
        );
        assert_eq!([old.next_turn(), new.next_turn(), old.next_turn()], [0, 1, 2]);
    }

    #[test]
    fn only_the_newest_that_is_alive_speaks() {
        let lineage = Arc::<Lineage>::default();
        let old = lineage.succeed();
        assert!(old.is_newest());
        let new = lineage.succeed();
        assert!(new.is_newest() && !old.is_newest());
        drop(new);
        assert!(old.is_newest(), "the newer one was not taken");
    }

    #[test]
    fn two_revisions_with_other_endpoints_keep_their_rings() {
        let lineage = Arc::<Lineage>::default();
        let (old, new) = (lineage.succeed(), lineage.succeed());
        let rings = || (old.ring(vec![node(1)]), new.ring(vec![node(1), node(2)]));
        let (before, after) = (rings(), rings());
        assert!(Arc::ptr_eq(&before.0, &after.0) && Arc::ptr_eq(&before.1, &after.1));
    }
}
