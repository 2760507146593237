//! Key sets: the public keys of token issuers, kept fresh in the background for as long as the process uses them.
//!
//! An issuer that is away costs nothing as long as it was there once: the last good keys serve on, the log says so
//! once, the age is shown. Only an issuer that was never there makes requests fail, and then with "unavailable", never
//! with "unauthorised".
//!
//! When a token names a key that is not known, the set is fetched out of turn, because that is how a rotation looks.
//! It is also how an attack looks, so: one fetch at a time for all that wait, one such fetch in ten seconds, and names
//! that a fetch did not bring are not asked for again for a minute.

mod document;
mod source;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use arc_swap::{ArcSwapOption, Guard};
use quick_cache::sync::Cache;
use sha2::{Digest, Sha256};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::{Instant, sleep, timeout};

pub use self::document::{Document, DocumentError, Secrets, Skipped, Unusable, VerifyingKey, parse, read};

use self::source::{Http, Loaded, Source, SourceError};
use crate::revision::JwksSource;

/// All key sets of the process, by where they come from: a new revision finds the keys of the old one.
#[derive(Debug, Clone)]
pub struct KeySets(Arc<Registry>);

#[derive(Debug)]
struct Registry {
    sets: Mutex<HashMap<SourceId, Weak<KeySet>>>,
    background: Option<Background>,
    pace: Pace,
}

/// Where the refreshing tasks live and what ends them.
#[derive(Debug, Clone)]
struct Background {
    runtime: Handle,
    shutdown: watch::Receiver<bool>,
    http: Arc<Http>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum SourceId {
    Url(String),
    File(PathBuf),
    Inline([u8; 32]),
}

impl KeySets {
    /// Key sets that are refreshed on this runtime until `shutdown` says so.
    #[must_use]
    pub fn new(runtime: Handle, shutdown: watch::Receiver<bool>) -> Self {
        Self::with_pace(
            Some(Background {
                runtime,
                shutdown,
                http: Arc::default(),
            }),
            Pace::default(),
        )
    }

    /// Key sets that are never fetched: files and inline keys are read once, URLs have no keys. For explanations.
    #[must_use]
    pub fn offline() -> Self {
        Self::with_pace(None, Pace::default())
    }

    fn with_pace(background: Option<Background>, pace: Pace) -> Self {
        Self(Arc::new(Registry {
            sets: Mutex::default(),
            background,
            pace,
        }))
    }

    /// The key set of this source; made, and kept fresh from then on, if there is none.
    #[must_use]
    pub fn get(&self, source: &JwksSource) -> Arc<KeySet> {
        let id = SourceId::of(source);
        let mut sets = lock(&self.0.sets);
        if let Some(known) = sets.get(&id).and_then(Weak::upgrade) {
            return known;
        }
        sets.retain(|_, set| set.strong_count() > 0);
        let set = KeySet::start(source, self.0.background.as_ref(), self.0.pace);
        sets.insert(id, Arc::downgrade(&set));
        set
    }

    /// How every key set in use is doing.
    #[must_use]
    pub fn status(&self) -> Vec<KeySetStatus> {
        let sets: Vec<_> = lock(&self.0.sets).values().filter_map(Weak::upgrade).collect();
        sets.iter().map(|set| set.status()).collect()
    }
}

impl SourceId {
    fn of(source: &JwksSource) -> Self {
        match source {
            JwksSource::Url(url) => Self::Url(url.clone()),
            JwksSource::File(path) => Self::File(path.clone()),
            JwksSource::Inline(members) => {
                let mut hash = Sha256::new();
                for member in members {
                    hash.update(member.to_string().as_bytes());
                    hash.update([0]);
                }
                Self::Inline(hash.finalize().into())
            }
        }
    }
}

/// The keys of one source.
#[derive(Debug)]
pub struct KeySet {
    label: String,
    current: ArcSwapOption<Keys>,
    state: Mutex<State>,
    /// How many flights have landed.
    landed: watch::Sender<u64>,
    /// Wakes the refreshing task; when the set is dropped, this ends it. `None`: nothing to refresh.
    nudge: Option<mpsc::Sender<()>>,
    /// Names that a fetch did not bring, and when that was.
    unknown: Cache<Box<str>, Unknown>,
    waiting: Semaphore,
    pace: Pace,
}

/// Keys that belong together. Immutable.
#[derive(Debug)]
pub struct Keys {
    generation: u64,
    members: Vec<VerifyingKey>,
}

impl Keys {
    /// A number that no other keys of this process have or had: what was verified with these keys is filed under it.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The keys.
    #[must_use]
    pub fn members(&self) -> &[VerifyingKey] {
        &self.members
    }
}

/// How a key set is doing, for status and metrics.
#[derive(Debug, Clone)]
pub struct KeySetStatus {
    /// Where it comes from, without passwords.
    pub source: String,
    /// How many keys it has.
    pub keys: usize,
    /// How many members of the document could not be used.
    pub skipped: usize,
    /// Time since the source was last read successfully; none if it never was.
    pub age: Option<Duration>,
    /// Why the last attempt failed; none if it did not.
    pub last_error: Option<String>,
    /// How often the source was read.
    pub fetches: u64,
    /// How often that failed.
    pub failures: u64,
    /// How many of the reads were asked for by a request.
    pub triggered: u64,
}

#[derive(Debug, Default)]
struct State {
    /// A flight is asked for or under way.
    pending: bool,
    /// The refreshing task has ended.
    over: bool,
    landed: u64,
    last_triggered_ms: Option<u64>,
    fingerprint: Option<[u8; 32]>,
    read_at: Option<Instant>,
    skipped: usize,
    last_error: Option<String>,
    failures_in_a_row: u32,
    fetches: u64,
    failures: u64,
    triggered: u64,
}

#[derive(Debug, Clone, Copy)]
struct Unknown {
    at_ms: u64,
    generation: u64,
}

/// What a request that needs a fresher set may do.
enum Ask {
    /// Wait until this many flights have landed. `own`: the flight starts after it was asked for.
    Wait { landed: u64, own: bool },
    /// Nothing: it is too early for another flight, or there is none to be had.
    No,
}

impl KeySet {
    /// The keys as they are now; none if there never were any.
    #[must_use]
    pub fn current(&self) -> Guard<Option<Arc<Keys>>> {
        self.current.load()
    }

    /// Waits until the key with this name (without one: any key) is known or there is no hope that it will be, for
    /// two seconds at most. What came of it is seen in [`Self::current`].
    pub async fn refresh_for(&self, kid: Option<&str>, now_ms: u64) {
        if self.knows(kid) || kid.is_some_and(|kid| self.is_known_as_unknown(kid, now_ms)) {
            return;
        }
        // More than these need not wait to learn the same thing; they are told "unavailable".
        let Ok(_place) = self.waiting.try_acquire() else { return };
        let mut landed = self.landed.subscribe();
        let wait = async {
            // A flight that was under way may bring what the issuer had before it rotated, so a second one is asked
            // for after it. The second is never under way already, unless somebody else's is just as good.
            for _ in 0..2 {
                let Ask::Wait { landed: target, own } = self.ask(now_ms) else {
                    return;
                };
                if landed.wait_for(|landed| *landed >= target).await.is_err() || self.knows(kid) {
                    return;
                }
                if own {
                    self.remember_unknown(kid, now_ms);
                    return;
                }
            }
        };
        // Too late is the same as in vain: the caller looks at what there is.
        let _ = timeout(self.pace.patience, wait).await;
    }

    /// Whether a key that is missing here may still exist: there are no keys, or they could not be read lately.
    #[must_use]
    pub fn is_doubtful(&self) -> bool {
        let state = lock(&self.state);
        self.current.load().is_none() || state.last_error.is_some() || (state.pending && !state.over)
    }

    /// How it is doing.
    #[must_use]
    pub fn status(&self) -> KeySetStatus {
        let keys = self.current.load().as_ref().map_or(0, |keys| keys.members.len());
        let state = lock(&self.state);
        KeySetStatus {
            source: self.label.clone(),
            keys,
            skipped: state.skipped,
            age: state.read_at.map(|at| at.elapsed()),
            last_error: state.last_error.clone(),
            fetches: state.fetches,
            failures: state.failures,
            triggered: state.triggered,
        }
    }

    fn start(source: &JwksSource, background: Option<&Background>, pace: Pace) -> Arc<Self> {
        let label = match source {
            JwksSource::Url(url) => source::label(url),
            JwksSource::File(path) => path.display().to_string(),
            JwksSource::Inline(_) => "inline".to_owned(),
        };
        let watched = match source {
            JwksSource::Url(url) => Some(Source::Url(url.clone())),
            JwksSource::File(path) => Some(Source::File {
                path: path.clone(),
                seen: None,
            }),
            JwksSource::Inline(_) => None,
        };
        let task = background.cloned().zip(watched).map(|task| (task, mpsc::channel(1)));
        let (nudge, task) = match task {
            Some((task, (nudge, nudged))) => (Some(nudge), Some((task, nudged))),
            None => (None, None),
        };
        let set = Arc::new(Self {
            label,
            current: ArcSwapOption::empty(),
            state: Mutex::new(State {
                over: task.is_none(),
                ..State::default()
            }),
            landed: watch::Sender::new(0),
            nudge,
            unknown: Cache::new(MAX_UNKNOWN),
            waiting: Semaphore::new(MAX_WAITING),
            pace,
        });
        match source {
            JwksSource::Url(_) => {}
            JwksSource::File(path) => {
                set.settle(source::read_now(path), true);
            }
            JwksSource::Inline(members) => {
                let text = members
                    .iter()
                    .flat_map(|member| member.to_string().into_bytes())
                    .collect();
                let document = document::read(members, Secrets::Allowed).map_err(SourceError::Document);
                set.settle(
                    document.map(|document| Loaded::Document {
                        document,
                        text,
                        fresh_for: None,
                    }),
                    true,
                );
            }
        }
        if let Some(((background, source), nudged)) = task {
            // Requests that come before the first flight has taken off wait for it.
            lock(&set.state).pending = true;
            background
                .runtime
                .clone()
                .spawn(keep_fresh(Arc::downgrade(&set), source, background, nudged));
        }
        set
    }

    fn knows(&self, kid: Option<&str>) -> bool {
        let current = self.current.load();
        let Some(keys) = current.as_ref() else { return false };
        kid.is_none() || keys.members.iter().any(|key| key.kid() == kid)
    }

    fn is_known_as_unknown(&self, kid: &str, now_ms: u64) -> bool {
        let generation = self.current.load().as_ref().map(|keys| keys.generation);
        self.unknown.get(kid).is_some_and(|entry| {
            Some(entry.generation) == generation && now_ms.abs_diff(entry.at_ms) < millis(self.pace.unknown_for)
        })
    }

    /// After a flight that failed nothing is known about the name, and nothing is remembered.
    fn remember_unknown(&self, kid: Option<&str>, now_ms: u64) {
        let generation = self.current.load().as_ref().map(|keys| keys.generation);
        if let (Some(kid), Some(generation), false) = (kid, generation, self.is_doubtful()) {
            self.unknown.insert(
                kid.into(),
                Unknown {
                    at_ms: now_ms,
                    generation,
                },
            );
        }
    }

    /// Joins the flight that is asked for or under way, or asks for one if that is not too early.
    fn ask(&self, now_ms: u64) -> Ask {
        let mut state = lock(&self.state);
        let Some(nudge) = self.nudge.as_ref().filter(|_| !state.over) else {
            return Ask::No;
        };
        let landed = state.landed + 1;
        if state.pending {
            return Ask::Wait { landed, own: false };
        }
        // The difference in either direction, so that a clock that is set back does not close the door for hours.
        let early = state
            .last_triggered_ms
            .is_some_and(|last| now_ms.abs_diff(last) < millis(self.pace.between_triggered));
        if early || nudge.try_send(()).is_err() {
            return Ask::No;
        }
        state.pending = true;
        state.triggered += 1;
        state.last_triggered_ms = Some(now_ms);
        Ask::Wait { landed, own: true }
    }

    /// Takes in what a flight brought and says how long to rest. `first`: nobody waits for it.
    fn settle(&self, outcome: Result<Loaded, SourceError>, first: bool) -> Duration {
        let mut state = lock(&self.state);
        let rest = match outcome {
            Ok(loaded) => self.settle_good(&mut state, loaded),
            Err(error) => self.settle_bad(&mut state, &error),
        };
        if !first {
            self.land(&mut state);
        }
        rest
    }

    fn settle_good(&self, state: &mut State, loaded: Loaded) -> Duration {
        let mut rest = self.pace.refresh;
        if let Loaded::Document {
            document,
            text,
            fresh_for,
        } = loaded
        {
            state.fetches += 1;
            if let Some(fresh_for) = fresh_for {
                rest = fresh_for.clamp(self.pace.refresh_min, self.pace.refresh_max);
            }
            let fingerprint: [u8; 32] = Sha256::digest(&text).into();
            if state.fingerprint != Some(fingerprint) {
                self.replace(state, document, fingerprint);
            }
        }
        state.read_at = Some(Instant::now());
        state.failures_in_a_row = 0;
        if state.last_error.take().is_some() {
            log::info!("key set {}: readable again", self.label);
        }
        rest
    }

    fn replace(&self, state: &mut State, document: Document, fingerprint: [u8; 32]) {
        let Document { keys, skipped } = document;
        log::info!("key set {}: {} keys", self.label, keys.len());
        if let Skipped {
            count,
            first: Some(why),
        } = skipped
        {
            log::warn!(
                "key set {}: {count} keys are not used, the first because {why}",
                self.label
            );
        }
        state.fingerprint = Some(fingerprint);
        state.skipped = skipped.count;
        let generation = NEXT_GENERATION.fetch_add(1, Ordering::Relaxed);
        self.current.store(Some(Arc::new(Keys {
            generation,
            members: keys,
        })));
    }

    /// The keys that there are stay, however old they get: refusing everybody is worse than a late revocation.
    fn settle_bad(&self, state: &mut State, error: &SourceError) -> Duration {
        state.fetches += 1;
        state.failures += 1;
        let rest = self.pace.retry_min * 2_u32.saturating_pow(state.failures_in_a_row.min(16));
        state.failures_in_a_row = state.failures_in_a_row.saturating_add(1);
        let text = error.to_string();
        // On the edge only: an issuer that is away for a night is one line, not a thousand.
        if state.last_error.is_none() {
            let serving = if self.current.load().is_some() {
                "the last good keys serve on"
            } else {
                "it has no keys"
            };
            log::warn!("key set {}: {text}; {serving}", self.label);
        }
        state.last_error = Some(text);
        rest.min(self.pace.retry_max)
    }

    fn take_off(&self) {
        lock(&self.state).pending = true;
    }

    fn land(&self, state: &mut State) {
        state.pending = false;
        state.landed += 1;
        self.landed.send_replace(state.landed);
    }

    /// Nothing will be fetched any more: whoever waits goes on with what there is.
    fn end(&self) {
        let mut state = lock(&self.state);
        state.over = true;
        self.land(&mut state);
    }
}

/// Refreshes a key set until nobody uses it or the process ends.
async fn keep_fresh(set: Weak<KeySet>, mut source: Source, background: Background, mut nudged: mpsc::Receiver<()>) {
    let Background { mut shutdown, http, .. } = background;
    let poll = source.is_file();
    loop {
        let Some(starting) = set.upgrade() else { return };
        starting.take_off();
        drop(starting);
        // Asked for while this one was about to start anyway: it serves for both.
        while nudged.try_recv().is_ok() {}
        // Only a weak hold while it flies, so that a set that a new revision dropped is not kept for its sake.
        let outcome = tokio::select! {
            outcome = source.load(&http) => outcome,
            () = ended(&mut shutdown) => break,
        };
        let Some(landing) = set.upgrade() else { return };
        let failed = outcome.is_err();
        let mut rest = jittered(landing.settle(outcome, false));
        if poll && !failed {
            rest = landing.pace.poll;
        }
        drop(landing);
        tokio::select! {
            () = sleep(rest) => {}
            nudge = nudged.recv() => if nudge.is_none() { return },
            () = ended(&mut shutdown) => break,
        }
    }
    if let Some(set) = set.upgrade() {
        set.end();
    }
}

async fn ended(shutdown: &mut watch::Receiver<bool>) {
    // A sender that is gone ends it as well.
    let _ = shutdown.wait_for(|over| *over).await;
}

/// ±10 %, so that gateways that started together do not fetch together for ever.
fn jittered(rest: Duration) -> Duration {
    rest.mul_f64(rand::random_range(0.9..=1.1))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that holds these locks leaves half a change behind.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// How often what happens. Fixed in production; tests are faster.
#[derive(Debug, Clone, Copy)]
struct Pace {
    refresh: Duration,
    refresh_min: Duration,
    refresh_max: Duration,
    retry_min: Duration,
    retry_max: Duration,
    poll: Duration,
    between_triggered: Duration,
    unknown_for: Duration,
    patience: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            refresh: Duration::from_secs(600),
            refresh_min: Duration::from_secs(60),
            refresh_max: Duration::from_secs(3_600),
            retry_min: Duration::from_secs(1),
            retry_max: Duration::from_secs(60),
            poll: Duration::from_secs(5),
            between_triggered: Duration::from_secs(10),
            unknown_for: Duration::from_secs(60),
            patience: Duration::from_secs(2),
        }
    }
}

const MAX_UNKNOWN: usize = 1_000;
const MAX_WAITING: usize = 1_000;

/// Unique in the process, not in a key set: a set that is dropped and made again starts no old number anew.
static NEXT_GENERATION: AtomicU64 = AtomicU64::new(1);

#[cfg(test)]
mod tests;
