//! How long a connection may be silent, without a timer for every wait.
//!
//! The timer belongs to the connection and stays where it is: when it fires, it is looked up how long the silence really
//! lasted, and it is set to the end of that. So a connection that is busy sets it once per patience, not once per
//! request, and a wait costs one look at the clock.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::time::Sleep;

/// A silence that may be going on.
#[derive(Debug, Default)]
pub struct Silence {
    /// When it will have lasted too long; none while there is none.
    end: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Silence {
    /// Something came, or nothing is waited for.
    pub fn over(&mut self) {
        self.end = None;
    }

    /// Nothing came. Ready when that has been so for `patience`, counted from the first time since [`Self::over`].
    pub fn poll_too_long(&mut self, patience: Duration, context: &mut Context<'_>) -> Poll<()> {
        let end = *self.end.get_or_insert_with(|| Instant::now() + patience);
        let timer = self
            .timer
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(end.into())));
        if end < timer.deadline().into_std() {
            timer.as_mut().reset(end.into());
        }
        loop {
            ready!(timer.as_mut().poll(context));
            if end <= timer.deadline().into_std() {
                return Poll::Ready(());
            }
            timer.as_mut().reset(end.into());
        }
    }

    /// The same for who reads or writes: ready with an error of kind `TimedOut`, which has no number of the system.
    ///
    /// # Errors
    /// When it is ready.
    pub fn poll_failed<T>(&mut self, patience: Duration, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        ready!(self.poll_too_long(patience, context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    async fn too_long(silence: &mut Silence, patience: Duration) {
        poll_fn(|context| silence.poll_too_long(patience, context)).await;
    }

    #[tokio::test]
    async fn a_silence_counts_from_the_last_sign_of_life() {
        let patience = Duration::from_millis(60);
        let mut silence = Silence::default();
        // It begins to be silent, with a timer that stays where it is when something comes.
        let begun = tokio::time::timeout(Duration::from_millis(30), too_long(&mut silence, patience)).await;
        let came = Instant::now();
        silence.over();
        too_long(&mut silence, patience).await;
        assert!(begun.is_err() || came.elapsed() >= patience);
        assert!(came.elapsed() >= patience, "a new silence has all its time");
        // And is too long for whoever asks again.
        too_long(&mut silence, patience).await;
    }

    #[tokio::test]
    async fn less_patience_moves_the_timer_nearer() {
        let mut silence = Silence::default();
        let long = too_long(&mut silence, Duration::from_secs(3600));
        assert!(tokio::time::timeout(Duration::from_millis(1), long).await.is_err());
        silence.over();
        too_long(&mut silence, Duration::from_millis(5)).await;
    }
}
