//! What a process that was followed still has to say to its successor: what its last requests spend.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::channel::Channel;
use super::warm::{Estate, Exported};

/// How long a report waits for something to say, before it is looked whether there is still somebody to say it to.
const LOOK: Duration = Duration::from_millis(100);

/// What is still to be said; nothing before this process was followed.
#[derive(Clone, Default)]
pub struct Bequest(Arc<Mutex<Option<Heir>>>);

struct Heir {
    /// None when it does not want to hear anything, or does not listen any more.
    exported: Option<Exported>,
    /// Open for as long as this process lives: by its end the successor notices the end of this one.
    channel: Channel,
}

impl Bequest {
    /// This process was followed. `exported` is what the successor was told before.
    pub fn begin(&self, exported: Option<Exported>, channel: Channel) {
        *self.0.lock() = Some(Heir { exported, channel });
    }

    /// Reports what is spent as soon as it is spent, until nobody listens. It blocks: on a thread of its own.
    pub fn report(&self, estate: &Estate) {
        while self.report_once(estate) {
            estate.wait_for_spent(LOOK);
        }
    }

    /// The last report: nothing is in flight any more.
    pub fn settle(&self, estate: &Estate) {
        self.report_once(estate);
    }

    /// False when there is nobody who listens.
    fn report_once(&self, estate: &Estate) -> bool {
        let mut heir = self.0.lock();
        let Some(Heir { exported, channel }) = heir.as_mut() else {
            return false;
        };
        let Some(told) = exported else { return false };
        let sent = estate.export_spent(told, &mut |section| channel.section(&section));
        if let Err(error) = sent {
            log::debug!("the successor is not told any more what was spent: {error}");
            *exported = None;
        }
        exported.is_some()
    }
}
