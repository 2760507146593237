//! One address of an upstream, with what this process knows about it.
//!
//! It belongs to the process and is known by upstream and address: a revision that changes something else finds it as it
//! was, with its requests in flight, its average, its checks and its breaker.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

use super::Moment;
use super::breaker::{Breaker, State};
use super::connect::Sockets;
use super::health::Health;
use super::heritage::{Inherited, write_moment};
use super::latency::Latency;
use crate::heritage::Record;
use crate::names::UpstreamName;
use crate::revision::Pool;

/// How often the same is said of an endpoint.
const COMPLAIN: Duration = Duration::from_secs(60);

/// One address of an upstream.
pub struct Endpoint {
    id: u32,
    upstream: UpstreamName,
    address: SocketAddr,
    in_flight: AtomicU32,
    waiting: AtomicU32,
    freed: Notify,
    latency: Latency,
    health: Health,
    breaker: Breaker,
    /// Since when it gets traffic again; 0: it always did.
    joined: AtomicU64,
    sockets: Arc<Sockets>,
    /// When something was last said of it in the log that can be said with every request.
    complained: AtomicU64,
}

/// There was no room for a request, and none came in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    /// As many wait as may.
    Queue,
    /// It has waited as long as it may.
    Late,
}

/// A request at an endpoint; over when dropped.
pub struct InFlight(Arc<Endpoint>);

impl Endpoint {
    /// An endpoint about which nothing is known.
    #[must_use]
    pub fn new(id: u32, upstream: UpstreamName, address: SocketAddr) -> Self {
        Self {
            id,
            upstream,
            address,
            in_flight: AtomicU32::new(0),
            waiting: AtomicU32::new(0),
            freed: Notify::new(),
            latency: Latency::default(),
            health: Health::default(),
            breaker: Breaker::default(),
            joined: AtomicU64::new(0),
            sockets: Arc::default(),
            complained: AtomicU64::new(0),
        }
    }

    /// A number that no other endpoint of this process has.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Whose it is.
    #[must_use]
    pub fn upstream(&self) -> &UpstreamName {
        &self.upstream
    }

    /// Where it is connected to.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Requests that are there now.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Requests that wait for room.
    #[must_use]
    pub fn waiting(&self) -> u32 {
        self.waiting.load(Ordering::SeqCst)
    }

    /// Whether a request would have room at once.
    #[must_use]
    pub fn has_room(&self, max: Option<u32>) -> bool {
        max.is_none_or(|max| self.in_flight() < max && self.waiting() == 0)
    }

    /// How long it takes to answer.
    #[must_use]
    pub fn latency(&self) -> &Latency {
        &self.latency
    }

    /// What active checks say.
    #[must_use]
    pub fn health(&self) -> &Health {
        &self.health
    }

    /// What the traffic says.
    #[must_use]
    pub fn breaker(&self) -> &Breaker {
        &self.breaker
    }

    /// Its connections.
    #[must_use]
    pub fn sockets(&self) -> &Arc<Sockets> {
        &self.sockets
    }

    /// Whether it may get traffic. `checked`: it is asked how it is, so what the checks say counts.
    #[must_use]
    pub fn is_usable(&self, checked: bool) -> bool {
        self.breaker.state() == State::Closed && (!checked || self.health.is_up())
    }

    /// From now on it gets traffic again, little at first.
    pub fn join(&self, now: Moment) {
        self.joined.store(now.micros(), Ordering::Relaxed);
    }

    /// Since when it gets traffic again; none if it always did.
    #[must_use]
    pub fn joined(&self) -> Option<Moment> {
        match self.joined.load(Ordering::Relaxed) {
            0 => None,
            at => Some(Moment::from_micros(at)),
        }
    }

    /// Describes what is known of it to another process.
    pub(super) fn write(&self, record: &mut Record<'_>, now: Moment) {
        self.latency.write(record, now);
        self.health.write(record);
        self.breaker.write(record, now);
        write_moment(record, self.joined.load(Ordering::Relaxed), now);
    }

    /// Takes over what another process knew of it.
    pub(super) fn inherit(&self, known: &Inherited) {
        self.latency.inherit(&known.latency);
        self.health.inherit(&known.health);
        self.breaker.inherit(&known.breaker);
        self.joined.store(known.joined, Ordering::Relaxed);
    }

    /// Whether something may be said in the log that can be said with every request: once a minute.
    #[must_use]
    pub fn may_complain(&self, now: Moment) -> bool {
        let last = self.complained.load(Ordering::Relaxed);
        (last == 0 || now.since(Moment::from_micros(last)) > COMPLAIN)
            && (self.complained)
                .compare_exchange(last, now.micros(), Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
    }

    /// Takes room for a request, and waits for it within bounds when there is none. Those who wait are served in turn.
    ///
    /// # Errors
    /// When as many wait as may, or none came in time.
    pub async fn enter(self: &Arc<Self>, pool: &Pool) -> Result<InFlight, Full> {
        let Some(max) = pool.max_connections else {
            self.in_flight.fetch_add(1, Ordering::Relaxed);
            return Ok(InFlight(Arc::clone(self)));
        };
        if self.waiting() == 0 && self.try_enter(max) {
            return Ok(InFlight(Arc::clone(self)));
        }
        let ahead = self.waiting.fetch_add(1, Ordering::SeqCst);
        if ahead >= pool.queue {
            self.waiting.fetch_sub(1, Ordering::SeqCst);
            return Err(Full::Queue);
        }
        let _waiting = Waiting(self);
        let room = async {
            // Behind others, what is free now is theirs.
            let mut may_enter = ahead == 0;
            loop {
                let mut freed = pin!(self.freed.notified());
                freed.as_mut().enable();
                // After enabling, so that what is freed in between wakes it.
                if may_enter && self.try_enter(max) {
                    return;
                }
                freed.await;
                may_enter = true;
            }
        };
        match tokio::time::timeout(pool.queue_timeout, room).await {
            Ok(()) => Ok(InFlight(Arc::clone(self))),
            Err(_) => Err(Full::Late),
        }
    }

    fn try_enter(&self, max: u32) -> bool {
        self.in_flight
            .fetch_update(Ordering::SeqCst, Ordering::Relaxed, |now| {
                (now < max).then_some(now + 1)
            })
            .is_ok()
    }
}

impl Drop for Endpoint {
    /// The connections that wait hold on to what counts them, and that holds them.
    fn drop(&mut self) {
        self.sockets.shelves().close();
    }
}

impl InFlight {
    /// Where it is.
    #[must_use]
    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.0
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        // In this order for everybody: who begins to wait looks for room after that.
        self.0.in_flight.fetch_sub(1, Ordering::SeqCst);
        if self.0.waiting() > 0 {
            self.0.freed.notify_one();
        }
    }
}

/// One that waits; no longer when dropped, for whatever reason.
struct Waiting<'a>(&'a Endpoint);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::SeqCst);
        // It may have been woken and not taken what it was woken for.
        if self.0.waiting() > 0 {
            self.0.freed.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint() -> Arc<Endpoint> {
        Arc::new(Endpoint::new(1, "orders".into(), SocketAddr::from(([127, 0, 0, 1], 9))))
    }

    fn pool(max: u32, queue: u32, millis: u64) -> Pool {
        Pool {
            max_connections: Some(max),
            max_idle: None,
            max_age: None,
            queue,
            queue_timeout: Duration::from_millis(millis),
        }
    }

    #[tokio::test]
    async fn behind_the_maximum_requests_wait_in_turn_and_within_bounds() {
        let endpoint = endpoint();
        let pool = pool(1, 2, 60_000);
        let first = endpoint.enter(&pool).await.unwrap();
        let order = Arc::new(std::sync::Mutex::new(Vec::new()));
        let mut waiting = Vec::new();
        for number in 0..2 {
            let (other, order) = (Arc::clone(&endpoint), Arc::clone(&order));
            waiting.push(tokio::spawn(async move {
                let _here = other.enter(&pool).await.unwrap();
                order.lock().unwrap().push(number);
                tokio::task::yield_now().await;
            }));
            while endpoint.waiting() <= number {
                tokio::task::yield_now().await;
            }
        }
        assert_eq!(endpoint.enter(&pool).await.err(), Some(Full::Queue));
        assert_eq!(endpoint.in_flight(), 1);
        drop(first);
        for task in waiting {
            task.await.unwrap();
        }
        assert_eq!(*order.lock().unwrap(), [0, 1]);
        assert_eq!((endpoint.in_flight(), endpoint.waiting()), (0, 0));
    }

    #[tokio::test]
    async fn who_waits_too_long_is_told_and_leaves_no_trace() {
        let endpoint = endpoint();
        let here = endpoint.enter(&pool(1, 5, 10)).await.unwrap();
        assert_eq!(endpoint.enter(&pool(1, 5, 10)).await.err(), Some(Full::Late));
        assert_eq!((endpoint.in_flight(), endpoint.waiting()), (1, 0));
        drop(here);
        assert!(endpoint.has_room(Some(1)));
    }

    #[tokio::test]
    async fn a_waiting_request_that_is_given_up_does_not_take_the_room_of_the_next() {
        let endpoint = endpoint();
        let pool = pool(1, 5, 60_000);
        let here = endpoint.enter(&pool).await.unwrap();
        let start = || {
            let other = Arc::clone(&endpoint);
            tokio::spawn(async move { other.enter(&pool).await.map(drop) })
        };
        let waiting = async |count: u32| {
            while endpoint.waiting() < count {
                tokio::task::yield_now().await;
            }
        };
        let gone = start();
        waiting(1).await;
        let next = start();
        waiting(2).await;
        drop(here);
        gone.abort();
        assert_eq!(next.await.unwrap(), Ok(()));
    }
}
