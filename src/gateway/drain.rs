//! Whether the process is leaving: from then on answers say `Connection: close`.

use tokio::sync::watch;

/// Whether the process is leaving. Cheap to clone and to ask.
#[derive(Clone)]
pub struct Drain(watch::Receiver<bool>);

/// Starts the leaving.
pub struct Leave(watch::Sender<bool>);

/// A pair that is not leaving yet.
#[must_use]
pub fn pair() -> (Leave, Drain) {
    let (sender, receiver) = watch::channel(false);
    (Leave(sender), Drain(receiver))
}

impl Drain {
    /// Whether it has begun.
    #[must_use]
    pub fn is_begun(&self) -> bool {
        *self.0.borrow()
    }

    /// For tasks that want the bare channel: true when it has begun.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<bool> {
        self.0.clone()
    }

    /// Waits until it begins.
    pub async fn begun(&mut self) {
        // An error means that the sender is gone, which is leaving too.
        let _ = self.0.wait_for(|begun| *begun).await;
    }
}

impl Leave {
    /// Begins.
    pub fn begin(&self) {
        self.0.send_replace(true);
    }
}
