//! Waiting for news.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use serde::Deserialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, timeout_at};
use utoipa::IntoParams;

use crate::control_plane::plane::Plane;
use crate::control_plane::problem::Problem;
use crate::control_plane::store::ObjectKind;

/// Nobody waits longer, whatever he asks for.
const LONGEST: u64 = 60;

/// When to come back for who finds no place.
const BREATH_MS: u64 = 1000;

/// What a poll says.
#[derive(Debug, Default, Clone, Copy, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Wait {
    /// What the client has already; 0 is nothing.
    #[serde(default)]
    pub(super) after: Option<u64>,
    /// For how many seconds it waits for something newer; at most 60. Default 0.
    #[serde(default)]
    pub(super) wait: Option<u64>,
}

impl Wait {
    /// When to stop waiting: a sixteenth more, by chance, so that those who came together do not go on together.
    pub(super) fn until(self) -> Instant {
        let wait = Duration::from_secs(self.wait.unwrap_or(0).min(LONGEST));
        Instant::now() + wait + wait.mul_f64(rand::random::<f64>() / 16.0)
    }
}

/// Who waits.
pub(super) struct Polls {
    places: Arc<Semaphore>,
    /// Environments that were seen: asking the store for each poll would be asking it for nothing.
    environments: RwLock<HashSet<String>>,
}

/// The place of one who waits.
pub(super) struct Place<'a> {
    waiting: &'a AtomicU64,
    _permit: OwnedSemaphorePermit,
}

impl Polls {
    pub(super) fn new(most: u32) -> Self {
        Self {
            places: Arc::new(Semaphore::new(usize::try_from(most).unwrap_or(usize::MAX))),
            environments: RwLock::default(),
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A place to wait in an environment that exists.
pub(super) async fn enter<'a>(plane: &'a Plane, environment: &str) -> Result<Place<'a>, Problem> {
    let delivery = &plane.delivery;
    exists(plane, environment).await?;
    let Ok(permit) = Arc::clone(&delivery.polls.places).try_acquire_owned() else {
        delivery.meters.polls_refused.fetch_add(1, Ordering::Relaxed);
        return Err(Problem::Busy {
            retry_after_ms: BREATH_MS + rand::random::<u64>() % BREATH_MS,
        });
    };
    delivery.meters.polls.fetch_add(1, Ordering::Relaxed);
    Ok(Place {
        waiting: &delivery.meters.polls,
        _permit: permit,
    })
}

/// Waits until there is something newer than `after`; false if there is nothing by then, or if the process is leaving.
pub(super) async fn newer(plane: &Plane, news: &mut watch::Receiver<u64>, after: u64, until: Instant) -> bool {
    let newer = async {
        // The sender lives as long as the plane.
        news.wait_for(|seq| *seq > after).await.is_ok()
    };
    tokio::select! {
        biased;
        newer = timeout_at(until, newer) => newer.unwrap_or(false),
        () = plane.left() => false,
    }
}

impl Polls {
    /// These environments exist, and no others.
    pub(super) fn know(&self, environments: HashSet<String>) {
        *self.environments.write().unwrap_or_else(PoisonError::into_inner) = environments;
    }
}

async fn exists(plane: &Plane, environment: &str) -> Result<(), Problem> {
    let polls = &plane.delivery.polls;
    let known = {
        let environments = polls.environments.read().unwrap_or_else(PoisonError::into_inner);
        environments.contains(environment)
    };
    if known {
        return Ok(());
    }
    if plane
        .store
        .object(ObjectKind::Environment, environment)
        .await?
        .is_none()
    {
        return Err(Problem::NotFound(format!("there is no environment \"{environment}\"")));
    }
    let mut environments = polls.environments.write().unwrap_or_else(PoisonError::into_inner);
    environments.insert(environment.to_owned());
    Ok(())
}
