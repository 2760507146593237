//! The processes before this one that have not ended yet: each finishes what it has begun.
//!
//! A process that is followed hands on the ones that it follows itself. So the newest always knows all of them: what they
//! still spend is told to it, and as the main process of a service it does not end before them, for the service manager
//! ends what is left of a service together with its main process.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::channel::{Channel, Frame};
use super::warm::Section;

/// How often it is looked what they say.
const LOOK: Duration = Duration::from_millis(20);

/// The most that are known; the oldest are forgotten, and end by their own deadline.
const MOST: usize = 64;

/// The processes before this one that have not ended yet.
pub struct Ancestors {
    channels: Mutex<Vec<Channel>>,
    alive: watch::Sender<bool>,
}

impl Ancestors {
    /// These; each says something, or has ended.
    #[must_use]
    pub fn new(channels: Vec<Channel>) -> Arc<Self> {
        Arc::new(Self {
            alive: watch::Sender::new(!channels.is_empty()),
            channels: Mutex::new(channels),
        })
    }

    /// Whether there are any, now and later.
    #[must_use]
    pub fn alive(&self) -> watch::Receiver<bool> {
        self.alive.subscribe()
    }

    /// One more.
    pub fn add(&self, channel: Channel) {
        let mut channels = self.channels();
        channels.push(channel);
        if channels.len() > MOST {
            channels.remove(0);
        }
        drop(channels);
        self.alive.send_replace(true);
    }

    /// Takes all of them away, to hand them on: from now on nobody here listens to them.
    #[must_use]
    pub fn take(&self) -> Vec<Channel> {
        std::mem::take(&mut *self.channels())
    }

    /// Takes back what was not handed on after all.
    pub fn put_back(&self, channels: Vec<Channel>) {
        let mut known = self.channels();
        known.splice(0..0, channels);
        let any = !known.is_empty();
        drop(known);
        if any {
            self.alive.send_replace(true);
        }
    }

    /// Listens to them until the last has ended. Parts of the state that they send go to `take_in`.
    pub fn listen(&self, take_in: &dyn Fn(&Section)) {
        loop {
            let mut channels = self.channels();
            channels.retain(|channel| Self::is_alive(channel, take_in));
            let over = channels.is_empty();
            drop(channels);
            if over && self.alive.send_replace(false) {
                log::info!("the processes before have ended");
            }
            std::thread::sleep(LOOK);
        }
    }

    /// Hears what one has said meanwhile; false when it has ended.
    fn is_alive(channel: &Channel, take_in: &dyn Fn(&Section)) -> bool {
        loop {
            match channel.receive(Instant::now()) {
                Ok(Some(Frame::Section(section))) => take_in(&section),
                Ok(Some(Frame::Message(..))) => {}
                Ok(None) => return true,
                Err(_) => return false,
            }
        }
    }

    fn channels(&self) -> MutexGuard<'_, Vec<Channel>> {
        self.channels.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn they_are_heard_until_the_last_has_ended() {
        let pair = || {
            let (one, other) = UnixStream::pair().unwrap();
            (Channel::new(one).unwrap(), Channel::new(other).unwrap())
        };
        let ((first, to_first), (second, to_second)) = (pair(), pair());
        let ancestors = Ancestors::new(vec![to_first]);
        ancestors.add(to_second);
        let heard = Arc::new(Mutex::new(Vec::new()));
        let listening = (Arc::clone(&ancestors), Arc::clone(&heard));
        std::thread::spawn(move || {
            let (ancestors, heard) = listening;
            ancestors.listen(&|section| heard.lock().unwrap().push(section.bytes.clone()));
        });
        let section = |byte| Section {
            name: "spent".into(),
            version: 1,
            bytes: vec![byte],
        };
        first.section(&section(1)).unwrap();
        drop(first);
        second.section(&section(2)).unwrap();
        let until = |holds: &dyn Fn() -> bool| {
            let started = Instant::now();
            while !holds() {
                assert!(started.elapsed() < Duration::from_secs(20));
                std::thread::sleep(Duration::from_millis(5));
            }
        };
        until(&|| heard.lock().unwrap().len() == 2);
        assert!(*ancestors.alive().borrow());
        drop(second);
        until(&|| !*ancestors.alive().borrow());
    }
}
