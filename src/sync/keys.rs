//! Follows the key log: what is on disk before anybody is asked, then a base, then every record as it is written.
//!
//! One long poll at a time. What it brings is verified, applied, and now and then written to disk. Whatever fails changes
//! nothing: the keys that are known serve on, and after a minute without an answer the operators are told.

mod disk;
mod fetch;
mod head;
mod resolver;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rand::RngExt;
use serde::Serialize;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

use self::disk::Disk;
use self::head::wanted;
use super::client::{Answer, Client, ClientError, segment};
use super::state_dir::StateDir;
use super::trust::Trust;
use crate::auth::KeyStore;
use crate::auth::key_store::{Foundation, PageError};
use crate::clock::unix_ms;
use crate::config::KeysMode;
use crate::distribution::{KeyChange, KeyPage, KeysHead, Manifest, Signed, Topic};
use crate::telemetry::metrics::KeyMetrics;

/// How long a poll waits for news, in seconds. Less than [`STALE`], so that silence is not taken for absence.
const WAIT: u64 = 50;

/// Beside what it waits, a poll may take this long.
const PATIENCE: Duration = Duration::from_secs(15);

/// A page of a thousand records with the longest names.
const PAGE_MOST: u64 = 4 << 20;

/// A poll that is answered sooner, with nothing new, was not one: whoever answers is a cache or a plain web server.
const QUICK: Duration = Duration::from_millis(900);

/// How often such a server is asked, in seconds.
const EVERY: std::ops::Range<f64> = 2.0..4.0;

/// How often somebody is asked who has no log, in seconds.
const NO_LOG: std::ops::Range<f64> = 20.0..40.0;

/// After a failure: up to half a second, twice that after each further one, at most half a minute.
const BACKOFF: Duration = Duration::from_millis(500);
const BACKOFF_MOST: Duration = Duration::from_secs(30);

/// Without an answer for this long, revocations may be missed: operators are told.
const STALE: Duration = Duration::from_secs(60);

/// How often it is looked whether there is a newer filter, in seconds: a base that is made later changes the manifest
/// without a new revision, and nobody is woken for it.
const LOOK: std::ops::Range<u64> = 480..720;

/// Gateways fetch within this time, each when it likes.
const SPREAD_MS: u64 = 5_000;

/// How long a revocation may be in memory alone, with those that come with it.
const SOON: Duration = Duration::from_secs(2);

/// How often the age of the last answer is shown.
const TICK: Duration = Duration::from_secs(1);

/// What the loop stands on.
pub struct Parts {
    /// Asks the control plane.
    pub client: Client,
    /// Who may sign.
    pub trust: Arc<Trust>,
    /// Where keys go.
    pub store: Arc<KeyStore>,
    /// Which environment's keys.
    pub environment: String,
    /// How keys are to be kept.
    pub mode: KeysMode,
    /// Every manifest that is followed.
    pub manifests: watch::Receiver<Option<Manifest>>,
    /// The newest manifest that was ever believed; 0 if none was.
    pub newest_seen: u64,
    /// What is shown.
    pub metrics: KeyMetrics,
}

/// Follows the key log. One per process.
pub struct KeyFollower {
    parts: Parts,
    disk: Disk,
    told: watch::Sender<u64>,
    contact: Mutex<Contact>,
    wake: Notify,
    /// There are revocations that are not on disk.
    revoked: Notify,
    /// The newest manifest that was looked at here.
    newest_seen: AtomicU64,
}

/// What operators see of keys that come by the log.
#[derive(Debug, Clone, Serialize)]
pub struct KeyStatus {
    /// `push` or `filter`.
    pub mode: &'static str,
    /// How many keys are known here to let in.
    pub keys: u64,
    /// The last record that was applied.
    pub seq: u64,
    /// Whether the log was once known to its end: before that, no key of it lets in.
    pub ready: bool,
    /// Seconds since the control plane last answered; none if it never did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub age_seconds: Option<u64>,
    /// Whether that is so long that revocations may be missed.
    pub stale: bool,
    /// Why there is no answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
}

struct Contact {
    since: Instant,
    ever: bool,
    told: bool,
    error: Option<String>,
}

impl Contact {
    /// Whether the last thing that was heard was an answer.
    fn is_good(&self) -> bool {
        self.ever && self.error.is_none()
    }
}

/// Where the loop stands.
struct State {
    /// Whether there is nothing to read on from, and why.
    lost: Option<Lost>,
    failures: u32,
    look: Instant,
    manifests: watch::Receiver<Option<Manifest>>,
    fetching: Option<JoinHandle<Result<Foundation, String>>>,
}

/// Why there is nothing to read on from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lost {
    /// Nothing is known yet, the log has become another one, or it has forgotten what comes next.
    Place,
    /// The log was restored from an older copy: it is another one, although it is called the same.
    Log,
}

/// What became of a round.
enum Round {
    /// Ask again at once.
    Again,
    /// Ask after this time.
    After(Duration),
    /// Start from the manifest's base, then ask again.
    Lost(Lost),
    /// Something failed: ask after a time that grows.
    Failed(String),
}

impl KeyFollower {
    /// Takes up what is on disk: then keys are known before anybody is asked. Blocks.
    ///
    /// # Errors
    /// When the directory for them can not be made.
    pub fn open(parts: Parts, state: Arc<StateDir>) -> Result<Self, String> {
        let disk = Disk::open(state)?;
        disk.load(&parts.store, &parts.environment);
        Ok(Self {
            told: watch::Sender::new(parts.store.seq()),
            newest_seen: AtomicU64::new(parts.newest_seen),
            parts,
            disk,
            contact: Mutex::new(Contact {
                since: Instant::now(),
                ever: false,
                told: false,
                error: None,
            }),
            wake: Notify::new(),
            revoked: Notify::new(),
        })
    }

    /// Follows until it is dropped, also while the process is leaving: who is still served may have a key that is not
    /// kept here, or one that is revoked just now.
    pub async fn run(self: Arc<Self>) {
        tokio::select! {
            () = self.follow() => {}
            () = self.watch() => {}
            () = self.keep_revocations() => {}
            () = resolver::run(&self.parts.store, &self.parts.client, &self.parts.trust) => {}
        }
    }

    /// The process before this one has stopped writing: takes up what it has written since [`Self::open`]. Before
    /// [`Self::run`]; blocks.
    pub fn take_over(&self) {
        self.disk.load_again(&self.parts.store, &self.parts.environment);
        self.progressed();
    }

    /// Writes what is not written yet: at the end of the process, and for the one that is to come. Blocks.
    pub fn save(&self) {
        self.disk.save(&self.parts.store, &self.parts.environment);
    }

    /// How far the log was read.
    #[must_use]
    pub fn seq(&self) -> u64 {
        self.parts.store.seq()
    }

    /// Tells how far the log was read, for the heartbeat.
    #[must_use]
    pub fn told(&self) -> watch::Receiver<u64> {
        self.told.subscribe()
    }

    /// The log has got this far: who has not read it asks at once, also when a poll was cut off.
    pub fn newest_is(&self, seq: u64) {
        if seq > self.seq() {
            self.wake.notify_one();
        }
    }

    /// What operators see.
    #[must_use]
    pub fn status(&self) -> KeyStatus {
        let size = self.parts.store.size();
        let contact = self.contact();
        let age = contact.since.elapsed();
        KeyStatus {
            mode: size.mode,
            keys: size.keys,
            seq: self.seq(),
            ready: self.parts.store.is_ready(),
            age_seconds: contact.ever.then_some(age.as_secs()),
            stale: age > STALE,
            last_error: contact.error.clone(),
        }
    }

    async fn follow(self: &Arc<Self>) {
        let mut state = State {
            // What is on disk goes on where it ended.
            lost: (self.parts.store.epoch() == 0).then_some(Lost::Place),
            look: Instant::now() + look_again(),
            manifests: self.parts.manifests.clone(),
            failures: 0,
            fetching: None,
        };
        loop {
            let round = self.round(&mut state).await;
            self.disk.save_if_due(&self.parts.store, &self.parts.environment);
            let pause = match round {
                Round::Again => {
                    state.failures = 0;
                    continue;
                }
                Round::Lost(why) => {
                    state.lost = Some(why);
                    continue;
                }
                Round::After(pause) => pause,
                Round::Failed(why) => {
                    self.failed(why);
                    let most = BACKOFF * 2_u32.saturating_pow(state.failures.min(10));
                    state.failures = state.failures.saturating_add(1);
                    most.min(BACKOFF_MOST).mul_f64(rand::rng().random_range(0.0..1.0))
                }
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.wake.notified() => {}
                // The first manifest of an environment says where keys begin.
                Ok(()) = state.manifests.changed(), if state.lost.is_some() => {}
            }
        }
    }

    async fn round(self: &Arc<Self>, state: &mut State) -> Round {
        if let Some(why) = state.lost {
            state.fetching = None;
            let round = self.start_over(why).await;
            if matches!(round, Round::Again) {
                state.lost = None;
            }
            return round;
        }
        if state.manifests.has_changed().unwrap_or(false) {
            let head = state
                .manifests
                .borrow_and_update()
                .as_ref()
                .map(|manifest| manifest.keys.clone());
            self.reconsider(state, head);
        }
        if Instant::now() > state.look {
            state.look = Instant::now() + look_again();
            // If it is not to be had, the log says it better.
            self.reconsider(state, self.head().await.unwrap_or_default());
        }
        // The log is read on while something large is fetched.
        tokio::select! {
            round = self.poll() => round,
            fetched = finished(&mut state.fetching) => {
                state.fetching = None;
                match fetched {
                    Ok(foundation) => self.stand_on(foundation, true).await,
                    Err(why) => Round::Failed(why),
                }
            }
        }
    }

    /// One poll of the log, and what follows from it.
    async fn poll(self: &Arc<Self>) -> Round {
        let store = &self.parts.store;
        let begun = Instant::now();
        // The first time, and after a failure, it is only asked whether there is more: then it is known where one stands.
        let wait = if store.is_ready() && self.contact().is_good() {
            WAIT
        } else {
            0
        };
        let answer = tokio::select! {
            answer = self.ask(wait) => answer,
            () = self.wake.notified() => self.ask(0).await,
        };
        let quick = wait > 0 && begun.elapsed() < QUICK;
        let pause =
            |seconds: std::ops::Range<f64>| Round::After(Duration::from_secs_f64(rand::rng().random_range(seconds)));
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => return Round::Failed(error.to_string()),
        };
        match answer.status {
            200 => match self.take(&answer).await {
                Ok(0) if quick => pause(EVERY),
                Ok(_) => Round::Again,
                Err(round) => round,
            },
            304 => {
                self.answered();
                store.set_ready();
                if quick { pause(EVERY) } else { Round::Again }
            }
            // A directory, or a web server: it has keys up to some place, and no log.
            404 => {
                self.answered();
                store.set_ready();
                pause(NO_LOG)
            }
            // What comes next was forgotten there.
            410 => Round::Lost(Lost::Place),
            429 | 503 if answer.retry_after.is_some() => {
                let told = answer.retry_after.unwrap_or(BACKOFF).min(BACKOFF_MOST);
                Round::After(told.mul_f64(rand::rng().random_range(1.0..1.1)))
            }
            status => {
                self.parts.client.turn();
                Round::Failed(ClientError::Status(status).to_string())
            }
        }
    }

    async fn ask(&self, wait: u64) -> Result<Answer, ClientError> {
        let environment = segment(&self.parts.environment);
        let after = self.parts.store.seq();
        let path = format!("/v1/environments/{environment}/keys/log?after={after}&wait={wait}");
        let patience = PATIENCE + Duration::from_secs(wait + wait / 16);
        self.parts.client.get(&path, PAGE_MOST, patience).await
    }

    /// Applies a page; tells how many records it had.
    async fn take(self: &Arc<Self>, answer: &Answer) -> Result<usize, Round> {
        // Another address may have a better one.
        let bad = |what: String| {
            self.parts.client.turn();
            Round::Failed(format!("the key log: {what}"))
        };
        let signed: Signed = answer.json().map_err(|error| bad(error.to_string()))?;
        let text = self.parts.trust.verify(&self.parts.client, Topic::Keys, &signed).await;
        let text = text.map_err(|error| bad(error.to_string()))?;
        let page: KeyPage = serde_json::from_str(text).map_err(|error| bad(error.to_string()))?;
        let store = &self.parts.store;
        match store.apply(&page, &self.parts.environment) {
            Ok(()) => {}
            Err(PageError::Epoch) => return Err(Round::Lost(Lost::Place)),
            Err(PageError::Restored) => {
                log::warn!(
                    "keys: the key log ends at record {}, and {} was read here: it was restored from an older copy, and is \
                     read anew",
                    page.head,
                    page.after
                );
                return Err(Round::Lost(Lost::Log));
            }
            Err(error) => return Err(bad(error.to_string())),
        }
        let now_ms = unix_ms();
        let revoked = page
            .records
            .iter()
            .filter(|record| matches!(record.change, KeyChange::Del { .. }));
        if page
            .records
            .iter()
            .any(|record| matches!(record.change, KeyChange::Del { .. }))
        {
            self.revoked.notify_one();
        }
        // What was revoked before this process was there says nothing of how fast it is.
        for record in revoked.filter(|_| self.contact().ever) {
            self.parts.metrics.revoked(now_ms.saturating_sub(record.at_ms));
        }
        self.answered();
        if store.seq() >= page.head {
            store.set_ready();
        }
        self.progressed();
        if store.is_merge_due() {
            let store = Arc::clone(store);
            // Not awaited: revocations go on meanwhile.
            tokio::task::spawn_blocking(move || {
                if let Err(error) = store.merge() {
                    log::error!("keys: {error}");
                }
            });
        }
        Ok(page.records.len())
    }

    /// Begins with what the manifest names: for the first time, after the log has become another one, or when it has
    /// forgotten what comes next.
    async fn start_over(self: &Arc<Self>, why: Lost) -> Round {
        let head = match self.head().await {
            Ok(Some(head)) => head,
            Ok(None) => return Round::After(Duration::from_secs_f64(rand::rng().random_range(EVERY))),
            Err(why) => return Round::Failed(why),
        };
        let store = &self.parts.store;
        let is_same_log = why == Lost::Place && store.epoch() == head.epoch;
        let want = wanted(&head, self.parts.mode, store.has_filter());
        if is_same_log && want.seq() <= store.seq() {
            return Round::Failed(
                "the key log has forgotten records that were not read here, and no base has them yet".to_owned(),
            );
        }
        match fetch::foundation(&self.parts.client, &head, &want).await {
            Ok(foundation) => self.stand_on(foundation, is_same_log).await,
            Err(why) => Round::Failed(why),
        }
    }

    /// Looks whether keys should be kept in another way, or stand on something newer, and begins to fetch it.
    fn reconsider(&self, state: &mut State, head: Option<KeysHead>) {
        let Some(head) = head else { return };
        let store = &self.parts.store;
        if head.epoch != store.epoch() {
            // The log says so too, and is nearer.
            return;
        }
        let (want, size) = (wanted(&head, self.parts.mode, store.has_filter()), store.size());
        let worth = head::is_worth_it(&head, &want, store.has_filter(), store.foundation(), size.beside);
        if worth && state.fetching.is_none() {
            let client = self.parts.client.clone();
            // A fleet does not come all at once.
            let pause = Duration::from_millis(rand::rng().random_range(0..SPREAD_MS));
            state.fetching = Some(tokio::spawn(async move {
                tokio::time::sleep(pause).await;
                fetch::foundation(&client, &head, &want).await
            }));
        }
    }

    async fn stand_on(self: &Arc<Self>, foundation: Foundation, is_same_log: bool) -> Round {
        let (begun, seq) = (Instant::now(), foundation.seq);
        let (store, disk) = (Arc::clone(&self.parts.store), self.disk.clone());
        let taken = tokio::task::spawn_blocking(move || {
            if is_same_log {
                store.stand_on(foundation)
            } else {
                store.start_over(foundation);
                disk.is_of_another_log();
                Ok(())
            }
        });
        match taken.await {
            Ok(Ok(())) => {
                let size = self.parts.store.size();
                log::info!(
                    "keys: a {} up to record {seq}, {} MiB, taken up in {:.1} s",
                    if size.mode == "filter" { "filter" } else { "base" },
                    size.bytes >> 20,
                    begun.elapsed().as_secs_f64(),
                );
                self.progressed();
                Round::Again
            }
            Ok(Err(error)) => Round::Failed(error.to_string()),
            Err(_) => Round::Failed("taking up the keys panicked; this is a bug of tollgate".to_owned()),
        }
    }

    /// Where keys begin, as the newest manifest says it. None if nothing was published yet.
    async fn head(&self) -> Result<Option<KeysHead>, String> {
        let manifest = fetch::manifest(&self.parts.client, &self.parts.trust, &self.parts.environment).await?;
        let Some(manifest) = manifest else { return Ok(None) };
        let followed = self.parts.manifests.borrow().as_ref().map_or(0, |newest| newest.seq);
        let newest = self.newest_seen.fetch_max(manifest.seq.max(followed), Ordering::AcqRel);
        let newest = newest.max(followed);
        // Every manifest that was ever signed names a base, and the keys that were revoked after it are in that.
        if manifest.seq < newest {
            self.parts.client.turn();
            return Err(format!(
                "the manifest: it is revision {}, older than revision {newest}, which this gateway has seen; if the \
                 control plane was restored from a backup, publish again until it is ahead",
                manifest.seq
            ));
        }
        Ok(Some(manifest.keys))
    }

    /// Tells when nobody has answered for a minute, once.
    async fn watch(&self) {
        let mut tick = tokio::time::interval(TICK);
        loop {
            tick.tick().await;
            let size = self.parts.store.size();
            let mut contact = self.contact();
            let age = contact.since.elapsed();
            self.parts.metrics.show(size.mode, size.keys, self.seq(), age);
            if age > STALE && !contact.told {
                contact.told = true;
                log::warn!(
                    "keys: no answer from the control plane for {} s ({}); the keys that are known serve on, and revocations \
                     since then do not count here",
                    age.as_secs(),
                    contact.error.as_deref().unwrap_or("it is silent")
                );
            }
        }
    }

    /// Revocations are written soon, whatever else happens: after a fault of the machine, and with the control plane away,
    /// a revoked key would let in again.
    async fn keep_revocations(&self) {
        loop {
            self.revoked.notified().await;
            tokio::time::sleep(SOON).await;
            let begun = Instant::now();
            self.disk.save_soon(&self.parts.store, &self.parts.environment).await;
            // With a million changes beside the base, writing must not be all that the disk does.
            tokio::time::sleep(begun.elapsed() * 10).await;
        }
    }

    fn answered(&self) {
        let mut contact = self.contact();
        if contact.told {
            log::info!(
                "keys: the control plane answers again, after {} s",
                contact.since.elapsed().as_secs()
            );
        }
        *contact = Contact {
            since: Instant::now(),
            ever: true,
            told: false,
            error: None,
        };
    }

    fn failed(&self, why: String) {
        let mut contact = self.contact();
        if contact.error.as_ref() != Some(&why) {
            log::warn!("keys: {why}");
            contact.error = Some(why);
        }
    }

    fn progressed(&self) {
        self.told
            .send_if_modified(|seq| std::mem::replace(seq, self.seq()) != self.seq());
    }

    fn contact(&self) -> MutexGuard<'_, Contact> {
        self.contact.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn look_again() -> Duration {
    Duration::from_secs(rand::rng().random_range(LOOK))
}

/// What was fetched; for ever, if nothing is.
async fn finished(fetching: &mut Option<JoinHandle<Result<Foundation, String>>>) -> Result<Foundation, String> {
    match fetching {
        None => std::future::pending().await,
        Some(task) => task
            .await
            .unwrap_or_else(|_| Err("fetching the keys panicked; this is a bug of tollgate".to_owned())),
    }
}
