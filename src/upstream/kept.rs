//! Connections to an endpoint that wait for their next request.
//!
//! The engine has a pool of its own, and for plain HTTP/1.1 it is not used: each connection that it keeps costs a task, a
//! timer, a lock around a list of all connections and a system call that asks who is at the other end, together a tenth
//! of what a request costs. Here a connection is put on the shelf of its endpoint and of the thread that had it, and
//! taken from there; what has waited too long or was closed at the other end is found by one round over all endpoints,
//! twice a second, and by whoever would take it.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Instant;

use parking_lot::Mutex;
use tokio::net::TcpStream;

use super::connect::{Open, Sockets};
use crate::silence::Silence;
use crate::thread_number::thread_number;

/// How many connections of one endpoint wait on one shelf; the oldest goes when another one comes.
const SHELF_MAX: usize = 512;

/// A connection, with what belongs to it from one request to the next.
#[derive(Debug)]
pub struct Kept {
    /// The socket.
    pub stream: TcpStream,
    /// Written by the engine and not sent yet.
    pub unsent: Vec<u8>,
    /// How long nothing may come.
    pub reading: Silence,
    /// How long nothing may go.
    pub writing: Silence,
    /// What it may be used for: connections of another group are never taken.
    group: u64,
    /// Until when it may wait.
    until: Instant,
    /// Counts it as open.
    _open: Open,
}

impl Kept {
    /// A connection that was just made.
    #[must_use]
    pub fn new(stream: TcpStream, group: u64, sockets: &Arc<Sockets>) -> Self {
        Self {
            stream,
            unsent: Vec::new(),
            reading: Silence::default(),
            writing: Silence::default(),
            group,
            until: Instant::now(),
            _open: Open::count(sockets),
        }
    }

    /// Whether it is open and nothing came of it. The runtime knows that without a system call unless something did.
    #[must_use]
    pub fn is_silent(&self) -> bool {
        matches!(self.stream.try_read(&mut [0]), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }
}

/// The connections of one endpoint that wait.
#[derive(Debug)]
pub struct Shelves {
    shelves: Box<[Shelf]>,
    /// Nobody will take anything any more.
    closed: AtomicBool,
}

/// Those of one thread, the newest last. Apart from its neighbours, so that two threads do not share a cache line.
#[derive(Debug, Default)]
#[repr(align(64))]
#[allow(clippy::vec_box, reason = "they are lent and given back as boxes")]
struct Shelf(Mutex<Vec<Box<Kept>>>);

impl Default for Shelves {
    fn default() -> Self {
        /// Asked once: the answer is looked up in files, and there may be many thousand endpoints.
        static THREADS: LazyLock<usize> = LazyLock::new(|| std::thread::available_parallelism().map_or(1, usize::from));
        Self {
            shelves: (0..*THREADS).map(|_| Shelf::default()).collect(),
            closed: AtomicBool::new(false),
        }
    }
}

impl Shelves {
    /// Takes one that works, as far as can be told. The one that was used last is the one whose buffers are still in a
    /// cache, and the one whose endpoint is least likely to be about to close it.
    #[must_use]
    pub fn take(&self, group: u64, now: Instant) -> Option<Box<Kept>> {
        let own = thread_number() % self.shelves.len().max(1);
        let (others, from_own) = self.shelves.split_at_checked(own)?;
        let (shelf, behind) = from_own.split_first()?;
        // Nobody waits for the shelf of another thread: what is there is a spare.
        newest(&mut shelf.0.lock(), group, now).or_else(|| {
            let mut others = behind.iter().chain(others);
            others.find_map(|shelf| newest(&mut *shelf.0.try_lock()?, group, now))
        })
    }

    /// Keeps one until then.
    pub fn put(&self, mut kept: Box<Kept>, until: Instant) {
        kept.until = until;
        let Some(shelf) = self.shelves.get(thread_number() % self.shelves.len().max(1)) else {
            return;
        };
        let mut list = shelf.0.lock();
        // Behind the lock, which whoever closes takes after saying so.
        if self.closed.load(Ordering::Relaxed) {
            return;
        }
        let oldest = (list.len() >= SHELF_MAX).then(|| list.remove(0));
        list.push(kept);
        drop(list);
        // Closed when nobody waits for the shelf.
        drop(oldest);
    }

    /// Closes those that have waited too long, and those that are closed already.
    pub fn sweep(&self, now: Instant) {
        for shelf in &self.shelves {
            let mut list = shelf.0.lock();
            let gone: Vec<_> = list
                .extract_if(.., |kept| kept.until <= now || !kept.is_silent())
                .collect();
            drop(list);
            // Closed when nobody waits for the shelf.
            drop(gone);
        }
    }

    /// Closes all, and keeps none from now on: the endpoint is in no revision any more.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
        for shelf in &self.shelves {
            let gone = std::mem::take(&mut *shelf.0.lock());
            drop(gone);
        }
    }

    /// How many wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shelves.iter().map(|shelf| shelf.0.lock().len()).sum()
    }

    /// Whether none waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The newest that works. Those that do not, and those that nobody will ask for again, are closed on the way.
#[allow(clippy::vec_box, reason = "they are lent and given back as boxes")]
fn newest(list: &mut Vec<Box<Kept>>, group: u64, now: Instant) -> Option<Box<Kept>> {
    while let Some(kept) = list.pop() {
        if kept.group == group && kept.until > now && kept.is_silent() {
            return Some(kept);
        }
    }
    None
}
