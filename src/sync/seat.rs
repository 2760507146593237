//! A seat in a pool: how many gateways may run is for the control plane to say, and for each of them to ask.
//!
//! The limit is one of admission: who serves goes on when the control plane is away, and also when it comes back and has
//! no seat left; then it says so, and keeps asking. Who starts, and does not serve yet, needs a seat, or one that is not
//! too old while nobody can be asked.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::client::{Answer, Client, ClientError, jitter, segment};
use super::state_dir::StateDir;
use crate::config::{ControlPlane, OnPoolFull};
use crate::distribution::protocol::{Register, Seat};
use crate::telemetry::metrics::ControlPlaneMetrics;

const FILE: &str = "seat";

/// What proves that a seat is one's own, for giving it up.
const PROOF: &str = "x-tollgate-seat";

/// How long an answer may take.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// After a failure: up to half a second, twice that after each further one, at most half a minute.
const BACKOFF: Duration = Duration::from_millis(500);
const BACKOFF_MOST: Duration = Duration::from_secs(30);

/// When a full pool is asked again that says no time, and at the latest: it says when a seat ends by itself, and one can be
/// given up long before that.
const FULL: Duration = Duration::from_secs(5);
const FULL_MOST: Duration = Duration::from_secs(5);

/// How often at most it is written down that the seat is still held.
const TOUCH_MS: u64 = 60_000;

/// Whether this gateway may serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// The control plane has not answered, and nothing on disk vouches for this gateway.
    Unknown,
    /// It has a seat.
    Seated,
    /// It had one when it was asked last, not too long ago.
    Remembered,
    /// It never had one, and may serve while the control plane is away (`allow_offline_join`).
    Offline,
    /// There are no pools: a directory, or a plain web server.
    NotNeeded,
    /// It serves, and the pool has no seat for it any more.
    OverLimit,
    /// The pool has no seat for it, and it does not serve yet.
    Full,
    /// The control plane does not want it; the log says why.
    Refused,
}

/// What the control plane says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// There is a seat.
    Seated,
    /// There are no pools.
    NotNeeded,
    /// There is none; says so for people, and when to ask again.
    Full(String, Duration),
    /// It refuses for another reason.
    Refused(String),
    /// It can not be asked.
    Away(String),
}

/// The seat of this gateway.
pub struct Seats {
    client: Client,
    register: Register,
    pool: String,
    settings: Settings,
    paper: Arc<Paper>,
    standing: watch::Sender<Standing>,
    metrics: ControlPlaneMetrics,
}

/// What the configuration says of it.
#[derive(Debug, Clone, Copy)]
struct Settings {
    on_full: OnPoolFull,
    offline_join: bool,
}

/// The seat, and the file in which it is kept.
struct Paper {
    state: Arc<StateDir>,
    kept: Mutex<Option<Kept>>,
    /// Held while the file is written, so that the newest seat is in it at last.
    writing: Mutex<()>,
}

/// What is on disk.
#[derive(Clone, Serialize, Deserialize)]
struct Kept {
    seat: Seat,
    environment: String,
    /// Unix milliseconds when the control plane last said that it is held.
    at_ms: u64,
}

/// A problem document, as far as it matters here.
#[derive(Deserialize)]
struct Problem {
    code: String,
    #[serde(default)]
    detail: String,
}

impl Standing {
    /// Whether it may serve.
    #[must_use]
    pub fn may_serve(self) -> bool {
        match self {
            Self::Seated | Self::Remembered | Self::Offline | Self::NotNeeded | Self::OverLimit => true,
            Self::Unknown | Self::Full | Self::Refused => false,
        }
    }

    /// Why it may not, for `/status/ready`.
    #[must_use]
    pub fn why_not(self) -> Option<&'static str> {
        match self {
            Self::Unknown => Some("this gateway has no seat in its pool yet"),
            Self::Full => Some("the pool is full"),
            Self::Refused => Some("the control plane refuses this gateway; its log says why"),
            _ => None,
        }
    }

    /// One word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Seated => "seated",
            Self::Remembered => "remembered",
            Self::Offline => "offline",
            Self::NotNeeded => "not_needed",
            Self::OverLimit => "over_limit",
            Self::Full => "pool_full",
            Self::Refused => "refused",
        }
    }
}

impl Seats {
    /// Reads the seat that is on disk. It lets this gateway start if it is of this pool and environment and young enough.
    #[must_use]
    pub fn open(
        client: Client,
        state: Arc<StateDir>,
        (pool, register): (String, Register),
        settings: &ControlPlane,
        (metrics, now_ms): (ControlPlaneMetrics, u64),
    ) -> Self {
        let paper = Paper::read(state);
        let kept = paper
            .kept()
            .clone()
            .filter(|kept| kept.seat.pool == pool && kept.environment == register.environment);
        let grace = u64::try_from(settings.offline_grace.as_millis()).unwrap_or(u64::MAX);
        let is_young = |kept: &Kept| now_ms.saturating_sub(kept.at_ms) <= grace;
        let standing = match &kept {
            Some(kept) if is_young(kept) => Standing::Remembered,
            _ => Standing::Unknown,
        };
        *paper.kept() = kept;
        Self {
            standing: watch::Sender::new(if client.is_directory() {
                Standing::NotNeeded
            } else {
                standing
            }),
            client,
            register,
            pool,
            settings: Settings {
                on_full: settings.on_pool_full,
                offline_join: settings.allow_offline_join,
            },
            paper: Arc::new(paper),
            metrics,
        }
    }

    /// Takes up the standing of the process before this one, which still serves: the gateway has its seat, and an upgrade
    /// needs no other one. That it is another process now, maybe of another version, is told by registering again.
    pub fn succeed(&self, before: Standing) {
        self.standing.send_replace(match before {
            _ if self.client.is_directory() => Standing::NotNeeded,
            Standing::Seated => Standing::Remembered,
            other => other,
        });
    }

    /// Reads the seat again: the process before this one may have got another token meanwhile. Blocks.
    pub fn read_again(&self) {
        if let Some(kept) = Paper::read(Arc::clone(&self.paper.state)).kept().take() {
            *self.paper.kept() = Some(kept);
        }
    }

    /// Whether this gateway may serve, and when that changes.
    #[must_use]
    pub fn standing(&self) -> watch::Receiver<Standing> {
        self.standing.subscribe()
    }

    /// Whether a full pool ends this process, if it does not serve yet.
    #[must_use]
    pub fn ends_when_full(&self) -> bool {
        self.settings.on_full == OnPoolFull::Exit
    }

    /// What is said at such an end.
    #[must_use]
    pub fn last_words(full: &str) -> String {
        format!("{full} (with control_plane: {{ on_pool_full: wait }} it waits for one)")
    }

    /// Who this is.
    #[must_use]
    pub fn instance_id(&self) -> &str {
        &self.register.instance_id
    }

    /// Where its seat is.
    #[must_use]
    pub fn pool(&self) -> &str {
        &self.pool
    }

    /// The token of the seat; empty without one.
    #[must_use]
    pub fn token(&self) -> String {
        let kept = self.paper.kept();
        kept.as_ref().map(|kept| kept.seat.token.clone()).unwrap_or_default()
    }

    /// Asks once, before anything is served: without a seat nothing will be.
    pub async fn ask(&self, now_ms: u64, patience: Duration) -> Verdict {
        self.inquire((now_ms, patience), false).await
    }

    async fn inquire(&self, (now_ms, patience): (u64, Duration), serves: bool) -> Verdict {
        let mut register = self.register.clone();
        register.seat = Some(self.token()).filter(|token| !token.is_empty());
        let path = format!("/v1/pools/{}/instances", segment(&self.pool));
        let verdict = match self.client.post(&path, &register, patience).await {
            Ok(answer) => self.read(&answer, now_ms).await,
            Err(error) => Verdict::Away(error.to_string()),
        };
        self.note(&verdict, serves);
        verdict
    }

    /// Asks until there is a seat, or none is needed. `on_full` is called for every refusal of a full pool, unless this
    /// gateway serves: then it goes on.
    pub async fn ask_until_seated(&self, now_ms: impl Fn() -> u64, on_full: impl Fn(&str)) {
        let mut failures = 0_u32;
        let mut told = None;
        loop {
            let serves = self.standing.borrow().may_serve();
            let verdict = self.inquire((now_ms(), PATIENCE), serves).await;
            let pause = match &verdict {
                Verdict::Seated | Verdict::NotNeeded => return,
                Verdict::Full(message, again) => {
                    let is_new = told.as_ref() != Some(&verdict);
                    match (serves, is_new) {
                        (true, true) => log::error!("{message}; it serves on, and keeps asking for one"),
                        (false, true) => log::error!("{message}"),
                        (_, false) => {}
                    }
                    if !serves {
                        on_full(message);
                    }
                    again.mul_f64(jitter(1.0..1.1))
                }
                Verdict::Refused(message) | Verdict::Away(message) => {
                    if told.as_ref() != Some(&verdict) {
                        log::warn!("pool \"{}\": no answer about a seat: {message}", self.pool);
                    }
                    let most = BACKOFF * 2_u32.saturating_pow(failures.min(10));
                    failures = failures.saturating_add(1);
                    most.min(BACKOFF_MOST).mul_f64(jitter(0.0..1.0))
                }
            };
            told = Some(verdict);
            tokio::time::sleep(pause).await;
        }
    }

    /// The control plane has just said that the seat is held, and how many there are.
    pub async fn held(&self, live: u32, now_ms: u64) {
        self.metrics.seat.set(1);
        self.metrics.up.set(1);
        self.metrics.pool_live.set(i64::from(live));
        let is_late = match self.paper.kept().as_mut() {
            Some(kept) if now_ms.saturating_sub(kept.at_ms) > TOUCH_MS => {
                kept.at_ms = now_ms;
                true
            }
            _ => false,
        };
        if is_late {
            self.paper.write().await;
        }
    }

    /// Frees the seat for another gateway, at once and for good.
    pub async fn free(&self, patience: Duration) {
        if self.leave("", patience).await {
            log::info!("pool \"{}\": the seat is free", self.pool);
            *self.paper.kept() = None;
            self.paper.write().await;
        }
    }

    /// Gives up the seat at a stop, which may be the first half of a restart: the control plane holds it for this gateway
    /// for a few seconds. It stays on disk. While the control plane is away it lets this gateway start again, as it would
    /// have done after any other end: a host that is restarted must come back without anybody's help.
    pub async fn give_up(&self, patience: Duration) {
        // A control plane that does not know this question frees the seat at once.
        if self.leave("?may_return=true", patience).await {
            log::info!(
                "pool \"{}\": the seat is given up; it is held for a restart for a few seconds",
                self.pool
            );
        }
    }

    async fn leave(&self, how: &str, patience: Duration) -> bool {
        let path = format!("/v1/instances/{}{how}", segment(self.instance_id()));
        let why = match self.client.delete(&path, (PROOF, &self.token()), patience).await {
            Ok(answer) if matches!(answer.status, 200 | 202 | 204 | 404) => return true,
            Ok(answer) => answer.status.to_string(),
            Err(error) => error.to_string(),
        };
        log::warn!(
            "pool \"{}\": the seat could not be freed ({why}); it ends by itself",
            self.pool
        );
        false
    }

    async fn read(&self, answer: &Answer, now_ms: u64) -> Verdict {
        let problem = || answer.json::<Problem>().ok();
        match answer.status {
            200 | 201 => match answer.json::<Seat>() {
                Ok(seat) => {
                    let kept = Kept {
                        seat,
                        environment: self.register.environment.clone(),
                        at_ms: now_ms,
                    };
                    self.metrics.pool_live.set(i64::from(kept.seat.live));
                    *self.paper.kept() = Some(kept);
                    self.paper.write().await;
                    Verdict::Seated
                }
                Err(error) => Verdict::Refused(error.to_string()),
            },
            409 if problem().is_some_and(|problem| problem.code == "pool_full") => {
                let detail = problem().map(|problem| problem.detail).unwrap_or_default();
                let why = match detail.is_empty() {
                    true => format!("the pool \"{}\" is full", self.pool),
                    false => detail,
                };
                let message = format!("this gateway has no seat: {why}");
                Verdict::Full(message, answer.retry_after.unwrap_or(FULL).clamp(BACKOFF, FULL_MOST))
            }
            // Only a control plane has codes; whatever else says that there is no such thing, has no pools.
            404 | 405 | 501 if problem().is_none() => Verdict::NotNeeded,
            500.. | 429 => Verdict::Away(ClientError::Status(answer.status).to_string()),
            status => {
                let detail = problem().map(|problem| format!("{} ({})", problem.detail, problem.code));
                Verdict::Refused(detail.unwrap_or_else(|| ClientError::Status(status).to_string()))
            }
        }
    }

    fn note(&self, verdict: &Verdict, serves: bool) {
        self.metrics.seat.set(i64::from(*verdict == Verdict::Seated));
        self.metrics.up.set(i64::from(!matches!(verdict, Verdict::Away(_))));
        self.standing.send_if_modified(|standing| {
            let fresh = match (verdict, *standing) {
                (Verdict::Seated, _) => Standing::Seated,
                (Verdict::NotNeeded, _) => Standing::NotNeeded,
                // Who serves goes on; the limit is one of admission.
                (Verdict::Full(..), _) if serves => Standing::OverLimit,
                (Verdict::Full(..), _) => Standing::Full,
                (_, serving) if serving.may_serve() => serving,
                (Verdict::Refused(_), _) => Standing::Refused,
                (Verdict::Away(_), Standing::Unknown) if self.settings.offline_join => Standing::Offline,
                (Verdict::Away(_), before) => before,
            };
            let changed = fresh != *standing;
            *standing = fresh;
            changed
        });
    }
}

impl Paper {
    fn read(state: Arc<StateDir>) -> Self {
        let place = state.path().join(FILE);
        let text = state
            .read(FILE)
            .inspect_err(|error| log::error!("{}: {error}", place.display()));
        let kept = text.ok().flatten().and_then(|text| {
            serde_json::from_str(&text)
                .inspect_err(|error| log::error!("{}: {error}; a new seat is asked for", place.display()))
                .ok()
        });
        Self {
            state,
            kept: Mutex::new(kept),
            writing: Mutex::default(),
        }
    }

    fn kept(&self) -> MutexGuard<'_, Option<Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Brings the file to what is known now, beside the thread that asks: a disk may take its time.
    async fn write(self: &Arc<Self>) {
        let paper = Arc::clone(self);
        // A panic has been logged.
        let _ = tokio::task::spawn_blocking(move || paper.write_now()).await;
    }

    fn write_now(&self) {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = self.kept().clone();
        let written = match kept {
            Some(kept) => serde_json::to_string(&kept)
                .map_err(std::io::Error::other)
                .and_then(|text| self.state.write(FILE, &text)),
            None => self.state.remove(FILE),
        };
        if let Err(error) = written {
            log::error!("{}: {error}", self.state.path().join(FILE).display());
        }
    }
}
