//! Pools: how many gateways may run, which ones do, and how they are doing.
//!
//! A gateway asks for a seat before it serves, and keeps it by heartbeats. How many seats a pool has is a rule for who
//! comes in, not a switch that turns off who is there: lowering it stops nobody, and a known gateway that restarts
//! comes back into a full pool. Signs of life are kept in memory and written in batches; who has a seat is decided by
//! the store, in one transaction, so that two nodes never give away the same seat.

mod gateways;
mod pool;
mod request;
mod roster;
mod seat_token;
mod seats;
#[cfg(test)]
pub(in crate::control_plane) mod testing;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use axum::extract::DefaultBodyLimit;
use quick_cache::sync::Cache;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use self::roster::Roster;
use super::plane::Plane;
use super::store::StoreResult;
use crate::distribution::ContentHash;

/// How long seats last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// A gateway that gives no sign of life for so long is gone. At least a second.
    pub seat_ttl: Duration,
    /// For so long after that it may come back into a full pool.
    pub reclaim: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            seat_ttl: Duration::from_secs(30),
            reclaim: Duration::from_secs(300),
        }
    }
}

/// For so long after it was stopped a gateway finds its seat again, and nobody else gets it: a restart, which looks like
/// a stop, takes a second or two. Not for as long as one that fell silent ([`Settings::reclaim`]), and not beside
/// another that has sat down meanwhile: who says that it goes lets others in soon, and the pool is never over its limit
/// for it.
const HELD: Duration = Duration::from_secs(10);

/// Bodies of gateways and operators about seats: a heartbeat with the longest message is a tenth of it.
const BODY: usize = 64 << 10;

/// Gateways that are known at the same time, dead ones included.
const MOST_GATEWAYS: usize = 100_000;

/// How long a gateway that is gone is still listed.
const LISTED: Duration = Duration::from_hours(7 * 24);

/// How often it is looked for such gateways.
const SWEEP: Duration = Duration::from_hours(1);

/// Roots of revisions that are remembered: gateways serve a few.
const ROOTS: usize = 1024;

/// Who is there, as far as this node knows.
pub struct Pools {
    settings: Settings,
    roster: Roster,
    /// Environment and number → root.
    roots: Cache<(String, u64), ContentHash>,
}

/// The routes about pools, seats and gateways.
#[must_use]
pub fn router() -> OpenApiRouter<Arc<Plane>> {
    OpenApiRouter::new()
        .routes(routes!(pool::list, pool::create))
        .routes(routes!(pool::show, pool::replace, pool::delete))
        .routes(routes!(seats::register))
        .routes(routes!(seats::heartbeat))
        .routes(routes!(seats::leave))
        .routes(routes!(gateways::list))
        .routes(routes!(gateways::show, gateways::forget))
        .routes(routes!(gateways::drain))
        .layer(DefaultBodyLimit::max(BODY))
}

/// Writes signs of life to the store, and reads those that other nodes have seen, from now on.
#[must_use]
pub fn start(plane: &Arc<Plane>, runtime: &Handle) -> Flusher {
    let (stop, stopped) = watch::channel(false);
    Flusher {
        task: runtime.spawn(keep_flushing(Arc::clone(plane), stopped)),
        stop,
    }
}

/// The task that writes signs of life. It ends when this is dropped; [`Flusher::finish`] lets it write the last ones.
pub struct Flusher {
    task: JoinHandle<()>,
    stop: watch::Sender<bool>,
}

impl Flusher {
    /// Writes what is not written yet, and ends.
    pub async fn finish(mut self) {
        self.stop.send_replace(true);
        if let Err(error) = (&mut self.task).await {
            log::error!("writing signs of life ended early: {error}");
        }
    }
}

impl Drop for Flusher {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn keep_flushing(plane: Arc<Plane>, mut stopped: watch::Receiver<bool>) {
    let mut tick = tokio::time::interval(plane.pools.settings.flush_every());
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut swept = Instant::now();
    loop {
        let last = tokio::select! {
            _ = tick.tick() => false,
            _ = stopped.wait_for(|stop| *stop) => true,
        };
        let turn = async {
            plane.pools.roster.flush(plane.store.as_ref()).await?;
            if last {
                return Ok(());
            }
            plane.pools.roster.refresh(plane.store.as_ref(), plane.now_ms()).await?;
            if swept.elapsed() >= SWEEP {
                swept = Instant::now();
                plane.pools.sweep(&plane).await?;
            }
            StoreResult::Ok(())
        };
        if let Err(error) = turn.await {
            log::warn!("signs of life of gateways are kept in memory until they can be written: {error}");
        }
        if last {
            return;
        }
    }
}

impl Settings {
    /// How often signs of life are written and read: so often that one which reaches another node is not taken for
    /// silence there. A heartbeat every twelve seconds, one flush and one read make less than a ttl of 30 seconds.
    fn flush_every(&self) -> Duration {
        (self.seat_ttl / 4).clamp(Duration::from_millis(250), Duration::from_secs(10))
    }

    fn seat_ttl_ms(&self) -> u64 {
        millis(self.seat_ttl).max(1000)
    }
}

impl Pools {
    /// Nobody is known yet. `started_ms`: now, in Unix milliseconds.
    #[must_use]
    pub fn new(settings: Settings, started_ms: u64) -> Self {
        Self {
            roster: Roster::new(started_ms, millis(settings.flush_every())),
            settings,
            roots: Cache::new(ROOTS),
        }
    }

    /// Instances that were seen before this are gone.
    fn alive_since_ms(&self, now_ms: u64) -> u64 {
        self.roster.horizon_ms(now_ms, self.settings.seat_ttl_ms())
    }

    /// Instances that were seen before this have lost their claim to come back into a full pool.
    fn known_since_ms(&self, now_ms: u64) -> u64 {
        let span = self
            .settings
            .seat_ttl_ms()
            .saturating_add(millis(self.settings.reclaim));
        self.roster.horizon_ms(now_ms, span)
    }

    /// Instances that gave up their seats before this have lost them.
    fn held_since_ms(&self, now_ms: u64) -> u64 {
        now_ms.saturating_sub(millis(HELD).min(self.settings.seat_ttl_ms()))
    }

    /// Forgets gateways that are gone for long: instances that never come back would pile up.
    async fn sweep(&self, plane: &Plane) -> StoreResult<()> {
        let gone_ms = plane.now_ms().saturating_sub(millis(LISTED));
        for id in self.roster.silent_since(gone_ms) {
            self.roster.remove(plane.store.as_ref(), &id).await?;
        }
        Ok(())
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
