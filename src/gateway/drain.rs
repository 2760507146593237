//! Whether the process is leaving: from then on answers say `Connection: close`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, watch};

/// How long an idle connection is still listened to when the process stops: whoever sends a request in this time is told
/// that it is the last one.
const IDLE_WHEN_STOPPED: Duration = Duration::from_millis(500);

/// The same when another process has taken over. Nobody waits for this one to end, and who keeps a connection in a pool
/// mostly uses it within this time: hardly any of them finds it closed under a request.
const IDLE_WHEN_FOLLOWED: Duration = Duration::from_secs(10);

/// Whether the process is leaving. Cheap to clone and to ask.
#[derive(Clone)]
pub struct Drain {
    /// Beside the channel, because every request asks, and the channel's value is behind a lock.
    begun: Arc<AtomicBool>,
    channel: watch::Receiver<bool>,
    shared: Arc<Shared>,
}

/// Starts the leaving.
pub struct Leave {
    begun: Arc<AtomicBool>,
    channel: watch::Sender<bool>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    announced: AtomicBool,
    followed: AtomicBool,
    asked: Notify,
    streams: AtomicUsize,
}

/// A WebSocket, an event stream or a call that is under way; over when dropped.
pub struct LongLived(Arc<Shared>);

/// A pair that is not leaving yet.
#[must_use]
pub fn pair() -> (Leave, Drain) {
    let begun = Arc::new(AtomicBool::new(false));
    let (sender, receiver) = watch::channel(false);
    let shared = Arc::<Shared>::default();
    let leave = Leave {
        begun: Arc::clone(&begun),
        channel: sender,
        shared: Arc::clone(&shared),
    };
    (
        leave,
        Drain {
            begun,
            channel: receiver,
            shared,
        },
    )
}

impl Drain {
    /// Whether it has begun.
    #[must_use]
    pub fn is_begun(&self) -> bool {
        self.begun.load(Ordering::Acquire)
    }

    /// Whether the process has said that it is going to leave. Clients are served as ever until it begins.
    #[must_use]
    pub fn is_announced(&self) -> bool {
        self.shared.announced.load(Ordering::Acquire) || self.is_begun()
    }

    /// Whether it leaves because another process has taken over.
    #[must_use]
    pub fn is_followed(&self) -> bool {
        self.shared.followed.load(Ordering::Acquire)
    }

    /// How long an idle connection is still listened to.
    #[must_use]
    pub fn idle(&self) -> Duration {
        if self.is_followed() {
            IDLE_WHEN_FOLLOWED
        } else {
            IDLE_WHEN_STOPPED
        }
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

    /// Waits until somebody wants the process to stop.
    pub async fn asked(&self) {
        self.shared.asked.notified().await;
    }

    /// A stream begins that may last.
    #[must_use]
    pub fn long_lived(&self) -> LongLived {
        self.shared.streams.fetch_add(1, Ordering::Relaxed);
        LongLived(Arc::clone(&self.shared))
    }

    /// How many such streams there are.
    #[must_use]
    pub fn streams(&self) -> usize {
        self.shared.streams.load(Ordering::Relaxed)
    }
}

impl Leave {
    /// Asks for a stop, as a signal does: whoever runs the process announces it, and then begins.
    pub fn ask(&self) {
        self.shared.asked.notify_one();
    }

    /// Says that it is going to begin.
    pub fn announce(&self) {
        self.shared.announced.store(true, Ordering::Release);
    }

    /// Begins.
    pub fn begin(&self) {
        // First the flag: who is woken by the channel finds it set.
        self.begun.store(true, Ordering::Release);
        self.channel.send_replace(true);
    }

    /// Begins, because another process has taken over.
    pub fn hand_over(&self) {
        self.shared.followed.store(true, Ordering::Release);
        self.begin();
    }
}

impl Drop for LongLived {
    fn drop(&mut self) {
        self.0.streams.fetch_sub(1, Ordering::Relaxed);
    }
}
