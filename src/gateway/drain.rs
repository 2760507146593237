//! Whether the process is leaving: from then on answers say `Connection: close`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::watch;

/// Whether the process is leaving. Cheap to clone and to ask.
#[derive(Clone)]
pub struct Drain {
    /// Beside the channel, because every request asks, and the channel's value is behind a lock.
    begun: Arc<AtomicBool>,
    channel: watch::Receiver<bool>,
}

/// Starts the leaving.
pub struct Leave {
    begun: Arc<AtomicBool>,
    channel: watch::Sender<bool>,
}

/// A pair that is not leaving yet.
#[must_use]
pub fn pair() -> (Leave, Drain) {
    let begun = Arc::new(AtomicBool::new(false));
    let (sender, receiver) = watch::channel(false);
    let leave = Leave {
        begun: Arc::clone(&begun),
        channel: sender,
    };
    (
        leave,
        Drain {
            begun,
            channel: receiver,
        },
    )
}

impl Drain {
    /// Whether it has begun.
    #[must_use]
    pub fn is_begun(&self) -> bool {
        self.begun.load(Ordering::Acquire)
    }

    /// For tasks that want the bare channel: true when it has begun.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<bool> {
        self.channel.clone()
    }

    /// Waits until it begins.
    pub async fn begun(&mut self) {
        // An error means that the sender is gone, which is leaving too.
        let _ = self.channel.wait_for(|begun| *begun).await;
    }
}

impl Leave {
    /// Begins.
    pub fn begin(&self) {
        // First the flag: who is woken by the channel finds it set.
        self.begun.store(true, Ordering::Release);
        self.channel.send_replace(true);
    }
}
