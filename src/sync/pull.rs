//! Follows the revisions of an environment: a long poll for the manifest, and everything else only when it is news.
//!
//! What is refused is told once and not tried again until something else is published. What could not be had is tried
//! again, ever more seldom. Neither changes what serves.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::client::{Answer, Client, ClientError, jitter, segment};
use super::crash_guard::Guard;
use super::fetch::{self, Sources};
use super::last_good::LastGood;
use super::progress::Progress;
use super::seat::Standing;
use super::trust::{Trust, TrustError};
use super::verify::{Expected, Highest, Refusal, believe, follow};
use super::{Published, Remembered, Revisions};
use crate::clock::unix_ms;
use crate::distribution::{Manifest, Signed};
use crate::telemetry::metrics::ControlPlaneMetrics;

/// How long a poll waits for news if no manifest has said it, and at most, in seconds.
const WAIT: u64 = 50;
const WAIT_MOST: u64 = 300;

/// Beside what it waits, a poll may take this long.
const PATIENCE: Duration = Duration::from_secs(15);

/// A manifest is about a kilobyte.
const MANIFEST_MOST: u64 = 1 << 20;

/// A poll that is answered sooner was not one: whoever answers is a plain web server.
const QUICK: Duration = Duration::from_millis(900);

/// How often such a server is asked, in seconds.
const EVERY: std::ops::Range<f64> = 2.0..4.0;

/// After a failure: up to half a second, twice that after each further one, at most half a minute.
const BACKOFF: Duration = Duration::from_millis(500);
const BACKOFF_MOST: Duration = Duration::from_secs(30);

/// The longest that a manifest may let gateways wait before they fetch.
const SPREAD_MOST: u64 = 60_000;

/// How soon, and how seldom at last, a revision is compiled again that was refused as invalid: not every reason is in
/// the revision, a name may not have resolved. Nothing is fetched for it.
const AGAIN_FIRST: Duration = Duration::from_secs(2);
const AGAIN_MOST: Duration = Duration::from_secs(60);

/// What follows an environment. One per process.
pub struct Pull {
    /// What is taken.
    pub expected: Expected,
    /// Where it comes from.
    pub client: Client,
    /// Who may sign it.
    pub trust: Arc<Trust>,
    /// Where it goes.
    pub revisions: Arc<Revisions>,
    /// Where it is kept.
    pub last_good: Arc<LastGood>,
    /// Against what takes the process down.
    pub guard: Arc<Guard>,
    /// For the heartbeat.
    pub progress: Arc<Progress>,
    /// Every manifest that is followed: keys begin there.
    pub manifests: watch::Sender<Option<Manifest>>,
    /// What is shown of it.
    pub metrics: ControlPlaneMetrics,
    /// Counts swaps, so that a minute of life is that of the last one.
    pub swaps: Arc<AtomicU64>,
}

/// Where a loop stands.
#[derive(Default)]
struct State {
    highest: Option<Highest>,
    /// The newest manifest that needs nothing more to be done.
    settled: Option<Highest>,
    wait_s: u64,
    failures: u32,
    /// Complete, and refused as invalid.
    stuck: Option<Stuck>,
    /// Whether the control plane answered; None before the first attempt.
    up: Option<bool>,
}

struct Stuck {
    revision: Remembered,
    at: Instant,
    pause: Duration,
}

/// What became of a round.
enum Round {
    /// Ask again at once.
    Again,
    /// Ask after this time.
    After(Duration),
    /// Something failed: ask after a time that grows.
    Failed,
}

impl Pull {
    /// Follows until the process leaves. Nothing is applied before there is a seat.
    pub async fn run(self: Arc<Self>, mut standing: watch::Receiver<Standing>, mut leaving: watch::Receiver<bool>) {
        tokio::select! {
            _ = leaving.wait_for(|leaving| *leaving) => {}
            () = self.follow(&mut standing) => {}
        }
    }

    async fn follow(self: &Arc<Self>, standing: &mut watch::Receiver<Standing>) {
        if standing.wait_for(|standing| standing.may_serve()).await.is_err() {
            return;
        }
        let mut state = State {
            highest: self.last_good.highest().unwrap_or_else(|error| {
                log::error!("{error}; what is older than what runs is refused still");
                None
            }),
            wait_s: WAIT,
            ..State::default()
        };
        if let Some(running) = self.revisions.published() {
            self.runs(&mut state, highest(&running.manifest));
        }
        let mut boot_again = Instant::now();
        loop {
            if self.revisions.current().is_none() && Instant::now() >= boot_again {
                let pull = Arc::clone(self);
                let booted = tokio::task::spawn_blocking(move || pull.boot()).await.unwrap_or(false);
                boot_again = Instant::now() + AGAIN_MOST;
                if let Some(running) = self.revisions.published().filter(|_| booted) {
                    self.runs(&mut state, highest(&running.manifest));
                }
            }
            let round = self.round(&mut state).await;
            let pause = match round {
                Round::Again => {
                    state.failures = 0;
                    continue;
                }
                Round::After(pause) => pause,
                Round::Failed => {
                    let most = BACKOFF * 2_u32.saturating_pow(state.failures.min(10));
                    state.failures = state.failures.saturating_add(1);
                    most.min(BACKOFF_MOST).mul_f64(jitter(0.0..1.0))
                }
            };
            tokio::time::sleep(pause).await;
        }
    }

    /// One poll, and what follows from it.
    async fn round(self: &Arc<Self>, state: &mut State) -> Round {
        let begun = Instant::now();
        let poll = self.poll(state.settled.map_or(0, |settled| settled.seq), state.wait_s);
        let answer = tokio::select! {
            answer = poll => answer,
            // Asked anew, for an answer at once: what is there is newer than what was waited for.
            () = self.progress.behind() => self.poll(state.settled.map_or(0, |settled| settled.seq), 0).await,
            () = due(state.stuck.as_ref()) => {
                self.try_again(state).await;
                return Round::Again;
            }
        };
        let quick = begun.elapsed() < QUICK;
        let nothing_new = || {
            if quick {
                Round::After(Duration::from_secs_f64(jitter(EVERY)))
            } else {
                Round::Again
            }
        };
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => {
                self.is_up(state, false, &error.to_string());
                return Round::Failed;
            }
        };
        match answer.status {
            200 => {}
            304 => {
                self.is_up(state, true, "");
                return nothing_new();
            }
            404 => {
                // Another address may have it.
                self.client.turn();
                let environment = &self.expected.environment;
                self.is_up(
                    state,
                    false,
                    &format!("it has no revision of the environment \"{environment}\""),
                );
                return nothing_new();
            }
            429 | 503 if answer.retry_after.is_some() => {
                let told = answer.retry_after.unwrap_or(BACKOFF).min(BACKOFF_MOST);
                return Round::After(told.mul_f64(jitter(1.0..1.1)));
            }
            status => {
                self.client.turn();
                self.is_up(state, false, &ClientError::Status(status).to_string());
                return Round::Failed;
            }
        }
        self.is_up(state, true, "");
        self.metrics.fetched("manifest", answer.body.len());
        match self.take(&answer, state).await {
            Ok(true) => Round::Again,
            Ok(false) => nothing_new(),
            Err(refusal) => {
                self.refuse(&refusal);
                // What goes back does not get better by asking at once, and who has no long poll answers at once.
                let settled =
                    refusal.code != "replayed" && state.settled.is_some_and(|settled| settled.seq == refusal.seq);
                if !settled {
                    self.client.turn();
                }
                if settled { Round::Again } else { Round::Failed }
            }
        }
    }

    async fn poll(&self, after: u64, wait_s: u64) -> Result<Answer, ClientError> {
        let environment = segment(&self.expected.environment);
        let path = format!("/v1/environments/{environment}/revision?after={after}&wait={wait_s}");
        let patience = PATIENCE + Duration::from_secs(wait_s + wait_s / 16);
        self.client.get(&path, MANIFEST_MOST, patience).await
    }

    /// Follows a manifest. False if it says nothing new.
    async fn take(self: &Arc<Self>, answer: &Answer, state: &mut State) -> Result<bool, Refusal> {
        let signed: Signed = serde_json::from_slice(&answer.body)
            .map_err(|error| Refusal::new(0, "malformed", format!("the manifest: {error}")))?;
        let trusted = self.trust.keys(&self.client).await.map_err(|error| {
            let code = if matches!(error, TrustError::Kept(_)) {
                "unavailable"
            } else {
                "unknown_signer"
            };
            Refusal::new(0, code, error.to_string())
        })?;
        let manifest = match believe(&signed, &trusted, &self.expected) {
            Ok(manifest) => manifest,
            Err(refusal) => {
                // A format that is not known here does not become known by asking again. Its root can not be told, but
                // nothing with a root is compared with it either.
                if matches!(refusal.code, "too_new" | "unsupported") {
                    let newest = Highest {
                        seq: refusal.seq,
                        root: crate::distribution::ContentHash([0; 32]),
                    };
                    if state.settled == Some(newest) {
                        return Ok(false);
                    }
                    self.settle(state, newest);
                }
                return Err(refusal);
            }
        };
        let newest = highest(&manifest);
        if state.settled == Some(newest) {
            return Ok(false);
        }
        let followed = follow(&manifest, state.highest, &self.expected);
        if let Err(refusal) = &followed
            && refusal.code == "replayed"
        {
            return Err(refusal.clone());
        }
        self.remember(state, newest).await;
        state.stuck = None;
        if let Err(refusal) = followed {
            self.settle(state, newest);
            return Err(refusal);
        }
        state.wait_s = manifest.wait_s.clamp(1, WAIT_MOST);
        self.manifests.send_replace(Some(manifest.clone()));
        self.fetch_and_apply(signed, manifest, state).await.map(|()| true)
    }

    async fn fetch_and_apply(
        self: &Arc<Self>,
        signed: Signed,
        manifest: Manifest,
        state: &mut State,
    ) -> Result<(), Refusal> {
        let newest = highest(&manifest);
        if self.guard.refuses(manifest.root) {
            if self.revisions.current().is_some() {
                self.settle(state, newest);
                let message = "the process ended twice within a minute after this revision; the one before serves";
                return Err(Refusal::new(manifest.seq, "crash", message));
            }
            log::error!(
                "revision {}: the process ended twice after it, and it may end again; there is nothing else to serve",
                manifest.seq
            );
        }
        let spread = manifest.spread_ms.min(SPREAD_MOST);
        let spread = Duration::from_millis(spread).mul_f64(jitter(0.0..1.0));
        tokio::time::sleep(spread).await;
        let sources = Sources {
            client: &self.client,
            last_good: Arc::clone(&self.last_good),
            running: self.revisions.published(),
            max_bytes: self.expected.max_bytes,
            metrics: &self.metrics,
        };
        let (content, snapshot) = fetch::content(sources, &manifest).await?;
        let revision = Remembered {
            signed,
            snapshot,
            published: Arc::new(Published { manifest, content }),
        };
        let applied = self.apply_elsewhere(revision.clone()).await;
        self.settle(state, newest);
        if applied.as_ref().is_err_and(|refusal| refusal.code == "invalid") {
            state.stuck = Some(Stuck {
                revision,
                at: Instant::now() + AGAIN_FIRST,
                pause: AGAIN_FIRST,
            });
        }
        applied
    }

    /// Compiles again what was refused, without asking anybody.
    async fn try_again(self: &Arc<Self>, state: &mut State) {
        let Some(stuck) = state.stuck.take() else { return };
        match self.apply_elsewhere(stuck.revision.clone()).await {
            Ok(()) => log::info!("revision {} is taken after all", stuck.revision.manifest().seq),
            Err(refusal) => {
                self.refuse(&refusal);
                let pause = (stuck.pause * 2).min(AGAIN_MOST);
                state.stuck = Some(Stuck {
                    at: Instant::now() + pause,
                    pause,
                    ..stuck
                });
            }
        }
    }

    async fn apply_elsewhere(self: &Arc<Self>, revision: Remembered) -> Result<(), Refusal> {
        let (pull, seq) = (Arc::clone(self), revision.manifest().seq);
        let applied = tokio::task::spawn_blocking(move || pull.apply(&revision)).await;
        applied.unwrap_or_else(|error| Err(Refusal::new(seq, "panicked", error.to_string())))
    }

    fn refuse(&self, refusal: &Refusal) {
        self.revisions.refuse(refusal, unix_ms());
        self.progress.refused(refusal.nack());
    }

    /// This was taken from disk. What was written down of the newest number may be lost, and nothing goes back behind
    /// what runs.
    fn runs(&self, state: &mut State, running: Highest) {
        if state.highest.is_none_or(|highest| highest.seq < running.seq) {
            state.highest = Some(running);
        }
        self.settle(state, running);
    }

    fn settle(&self, state: &mut State, newest: Highest) {
        state.settled = Some(newest);
        self.progress.settled(newest.seq);
    }

    /// The newest manifest that was believed, also over a restart.
    async fn remember(&self, state: &mut State, newest: Highest) {
        let root = newest.root;
        let is_new = state.highest != Some(newest);
        state.highest = Some(newest);
        let (last_good, guard) = (Arc::clone(&self.last_good), Arc::clone(&self.guard));
        let written = tokio::task::spawn_blocking(move || {
            guard.change(|guard| guard.newest_is(root));
            if is_new { last_good.set_highest(newest) } else { Ok(()) }
        });
        if let Ok(Err(error)) = written.await {
            log::error!("the number of the newest revision could not be kept on disk: {error}");
        }
    }

    /// Logs when the control plane goes and when it comes back, not every time that it is asked.
    fn is_up(&self, state: &mut State, up: bool, why: &str) {
        self.metrics.up.set(i64::from(up));
        if state.up.replace(up) == Some(up) {
            return;
        }
        if up {
            log::info!("control plane: it answers");
        } else {
            log::warn!("control plane: {why}; what was applied serves on");
        }
    }
}

fn highest(manifest: &Manifest) -> Highest {
    Highest {
        seq: manifest.seq,
        root: manifest.root,
    }
}

/// Waits until what was refused is to be tried again; for ever if there is nothing.
async fn due(stuck: Option<&Stuck>) {
    match stuck {
        Some(stuck) => tokio::time::sleep_until(stuck.at.into()).await,
        None => std::future::pending().await,
    }
}
