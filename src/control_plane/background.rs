//! What a node does beside answering: learn what other nodes have published, write key bases, forget what is old.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::key_base;
use super::plane::Plane;
use super::store::{ObjectKind, StoreResult, Wake};

/// How often this node looks for what was published elsewhere, should nobody tell it.
const LOOK: Duration = Duration::from_secs(2);

/// How often it looks whether a key base is due.
const KEY_BASE: Duration = Duration::from_secs(5);

/// How often it forgets.
const PRUNE: Duration = Duration::from_secs(3600);

/// After a failure of the store.
const BREATH: Duration = Duration::from_secs(1);

/// Revisions of an environment that are kept, to go back to and to make deltas of.
const REVISIONS: usize = 1000;

/// What is younger is kept, however many there are: who publishes every minute can still go back to yesterday.
const YOUNG: Duration = Duration::from_hours(7 * 24);

/// Objects that are read at a time.
const PAGE: usize = 1000;

/// Starts everything that runs beside the requests. It ends when the set is dropped.
pub fn start(plane: &Arc<Plane>) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    tasks.spawn(follow(Arc::clone(plane)));
    tasks.spawn(look(Arc::clone(plane)));
    tasks.spawn(tidy(Arc::clone(plane)));
    tasks
}

/// Learns where everything stands.
///
/// # Errors
/// When the store fails.
pub async fn refresh(plane: &Plane) -> StoreResult<()> {
    for (environment, seq) in plane.store.head_seqs().await? {
        plane.heads.seen(&environment, seq);
    }
    plane.heads.keys_written(plane.store.key_head().await?.seq);
    plane.heads.invalidated(plane.store.invalidation_head().await?);
    let stored = key_base::stored(plane).await?;
    if plane.delivery.manifests.key_base().as_deref() != stored.as_ref() {
        plane.delivery.manifests.set_key_base(stored);
    }
    Ok(())
}

/// Learns at once of what other nodes do, as far as the store tells.
async fn follow(plane: Arc<Plane>) {
    loop {
        let learnt = match plane.store.changed().await {
            Wake::Revision(environment) => plane.store.head(&environment).await.map(|head| {
                if let Some(revision) = head {
                    plane.heads.published(&revision);
                }
            }),
            Wake::Keys => plane
                .store
                .key_head()
                .await
                .map(|head| plane.heads.keys_written(head.seq)),
            Wake::Invalidations => plane
                .store
                .invalidation_head()
                .await
                .map(|head| plane.heads.invalidated(head)),
            Wake::Unknown => refresh(&plane).await,
        };
        if let Err(error) = learnt {
            log::debug!("after a wake-up: {error}");
            sleep(BREATH).await;
        }
    }
}

/// Learns within [`LOOK`] of what other nodes do, whatever happens to wake-ups.
async fn look(plane: Arc<Plane>) {
    let mut tick = interval(LOOK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut seen = BTreeMap::new();
    let mut is_away = false;
    loop {
        tick.tick().await;
        let looked = async {
            refresh(&plane).await?;
            environments(&plane).await
        };
        match looked.await {
            Ok(now) => {
                if is_away {
                    log::info!("{} answers again", plane.store.name());
                    is_away = false;
                }
                plane.delivery.know(now.keys().cloned().collect::<HashSet<String>>());
                // Their types are in manifests.
                if seen != now {
                    seen = now;
                    plane.delivery.manifests.renew();
                }
            }
            // Said once: gateways serve on, and polls wait.
            Err(error) if !is_away => {
                is_away = true;
                log::error!("{}: {error}", plane.store.name());
            }
            Err(_) => {}
        }
    }
}

/// Writes key bases and forgets what is old: one after the other, so that a base that is just being stored is not taken
/// for one that nobody uses.
async fn tidy(plane: Arc<Plane>) {
    let mut due = interval(KEY_BASE);
    due.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut forget = interval(PRUNE);
    forget.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let (what, done) = tokio::select! {
            _ = due.tick() => ("key base", key_base::renew(&plane).await.map(drop)),
            _ = forget.tick() => ("forgetting", prune(&plane).await),
        };
        if let Err(error) = done {
            log::warn!("{what}: {error}");
            sleep(BREATH).await;
        }
    }
}

async fn prune(plane: &Plane) -> StoreResult<()> {
    let young = u64::try_from(YOUNG.as_millis()).unwrap_or(u64::MAX);
    let before_ms = plane.now_ms().saturating_sub(young);
    for (environment, _) in plane.store.head_seqs().await? {
        plane.store.prune(&environment, REVISIONS, before_ms).await?;
    }
    Ok(())
}

/// All environments, with their versions.
async fn environments(plane: &Plane) -> StoreResult<BTreeMap<String, u64>> {
    let mut all = BTreeMap::new();
    let mut after: Option<String> = None;
    loop {
        let page = plane
            .store
            .objects(ObjectKind::Environment, after.as_deref(), PAGE)
            .await?;
        let Some(last) = page.last() else { return Ok(all) };
        after = Some(last.name.clone());
        all.extend(page.into_iter().map(|object| (object.name, object.version)));
    }
}
