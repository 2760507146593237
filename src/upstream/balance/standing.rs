//! What the views of an upstream have in common, whatever revision they are of.

use std::sync::atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::ring::{Node, Ring};
use crate::names::UpstreamName;

/// What outlives views: the same for all revisions of an upstream.
#[derive(Debug, Default)]
pub struct Standing {
    /// Where the rotation stands. A relaxed increment is enough because only the distribution matters, not the order
    /// between threads.
    turn: AtomicUsize,
    /// The priority that gets the traffic, plus one; 0: nothing was decided yet.
    priority: AtomicU16,
    panic: AtomicBool,
    populated: AtomicBool,
    /// The newest ring. Endpoints change their state much more often than their number.
    ring: Mutex<Option<Arc<Ring>>>,
}

impl Standing {
    /// Whether the upstream has had endpoints: those that come now come late, and start slowly.
    #[must_use]
    pub fn is_populated(&self) -> bool {
        self.populated.load(Ordering::Relaxed)
    }

    /// It has endpoints.
    pub fn populate(&self) {
        self.populated.store(true, Ordering::Relaxed);
    }

    /// The number of a turn that nobody else has.
    pub(super) fn next_turn(&self) -> usize {
        self.turn.fetch_add(1, Ordering::Relaxed)
    }

    /// The group that has the traffic, if that was decided.
    pub(super) fn priority(&self) -> Option<u8> {
        u8::try_from(self.priority.load(Ordering::Relaxed).checked_sub(1)?).ok()
    }

    /// Notes which group has the traffic now, and whether it panics. Says so when that changes.
    pub(super) fn note(&self, upstream: &UpstreamName, priority: Option<u8>, panic: bool) {
        let Some(priority) = priority else { return };
        let before = self.priority.swap(u16::from(priority) + 1, Ordering::Relaxed);
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
        if self.panic.swap(panic, Ordering::Relaxed) != panic {
            if panic {
                log::warn!(
                    "upstream \"{upstream}\": so few endpoints can be used that all of them are, whatever is known of them"
                );
            } else {
                log::info!("upstream \"{upstream}\": enough endpoints can be used again");
            }
        }
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
