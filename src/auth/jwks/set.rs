//! One key set: what it knows, who waits for it, and the task that keeps it fresh.
//!
//! A *flight* is one reading of the source, from take-off to landing. There is never more than one in the air: the
//! task flies, requests only ask it to and wait for the landing.

use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use arc_swap::{ArcSwapOption, Guard};
use quick_cache::sync::Cache;
use sha2::{Digest, Sha256};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::{Instant, sleep, timeout};

use super::document::{self, Document, Secrets, Skipped};
use super::heritage::Inherited;
use super::source::{self, Loaded, Source, SourceError};
use super::{Background, KeySetStatus, Keys, Pace, lock};
use crate::revision::JwksSource;

/// The keys of one source.
#[derive(Debug)]
pub struct KeySet {
    label: String,
    current: ArcSwapOption<Keys>,
    pub(super) state: Mutex<State>,
    /// How many flights have landed.
    landed: watch::Sender<u64>,
    /// Wakes the refreshing task; when the set is dropped, this ends it. `None`: nothing to refresh.
    nudge: Option<mpsc::Sender<()>>,
    /// Names that a fetch did not bring, and when that was.
    unknown: Cache<Box<str>, Unknown>,
    pub(super) waiting: Semaphore,
    pace: Pace,
    /// Whether the document is kept: it is not at hand as a file or in the revision.
    remote: bool,
}

#[derive(Debug, Default)]
pub(super) struct State {
    /// A flight is asked for or under way.
    pub(super) pending: bool,
    /// The refreshing task has ended.
    pub(super) over: bool,
    pub(super) landed: u64,
    pub(super) last_triggered_ms: Option<u64>,
    pub(super) fingerprint: Option<[u8; 32]>,
    /// The document itself, if it was fetched: for the process that comes next.
    pub(super) text: Option<Arc<[u8]>>,
    /// When it is fetched again if nobody asks for it.
    pub(super) due: Option<Instant>,
    pub(super) read_at: Option<Instant>,
    pub(super) skipped: usize,
    pub(super) last_error: Option<String>,
    pub(super) failures_in_a_row: u32,
    pub(super) fetches: u64,
    pub(super) failures: u64,
    pub(super) triggered: u64,
}

#[derive(Debug, Clone, Copy)]
struct Unknown {
    at_ms: u64,
    fingerprint: [u8; 16],
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
        if self.knows(kid) || !self.may_learn(kid, now_ms) {
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

    /// Whether a fetch may bring the key with this name: there is something to fetch, and it was not in vain lately.
    #[must_use]
    pub fn may_learn(&self, kid: Option<&str>, now_ms: u64) -> bool {
        self.nudge.is_some() && !kid.is_some_and(|kid| self.is_known_as_unknown(kid, now_ms))
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

    pub(super) fn start(
        source: &JwksSource,
        background: Option<&Background>,
        pace: Pace,
        inherited: Option<Inherited>,
    ) -> Arc<Self> {
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
            remote: matches!(source, JwksSource::Url(_)),
        });
        let mut rest = None;
        match source {
            JwksSource::Url(_) => rest = inherited.and_then(|inherited| set.inherit(inherited)),
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
            lock(&set.state).pending = rest.is_none();
            background
                .runtime
                .clone()
                .spawn(keep_fresh(Arc::downgrade(&set), source, background, nudged, rest));
        }
        set
    }

    fn knows(&self, kid: Option<&str>) -> bool {
        let current = self.current.load();
        let Some(keys) = current.as_ref() else { return false };
        kid.is_none() || keys.members.iter().any(|key| key.kid() == kid)
    }

    fn is_known_as_unknown(&self, kid: &str, now_ms: u64) -> bool {
        let fingerprint = self.current.load().as_ref().map(|keys| keys.fingerprint);
        self.unknown.get(kid).is_some_and(|entry| {
            Some(entry.fingerprint) == fingerprint && now_ms.abs_diff(entry.at_ms) < millis(self.pace.unknown_for)
        })
    }

    /// After a flight that failed nothing is known about the name, and nothing is remembered.
    fn remember_unknown(&self, kid: Option<&str>, now_ms: u64) {
        let fingerprint = self.current.load().as_ref().map(|keys| keys.fingerprint);
        if let (Some(kid), Some(fingerprint), false) = (kid, fingerprint, self.is_doubtful()) {
            self.unknown.insert(
                kid.into(),
                Unknown {
                    at_ms: now_ms,
                    fingerprint,
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
    pub(super) fn settle(&self, outcome: Result<Loaded, SourceError>, first: bool) -> Duration {
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
                state.text = self.remote.then(|| text.into());
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
        self.current.store(Some(Arc::new(Keys {
            fingerprint: fingerprint.first_chunk().copied().unwrap_or_default(),
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
///
/// `rest`: there are keys already, and this is how long they are taken to be fresh.
async fn keep_fresh(
    set: Weak<KeySet>,
    mut source: Source,
    background: Background,
    mut nudged: mpsc::Receiver<()>,
    rest: Option<Duration>,
) {
    let Background { mut shutdown, http, .. } = background;
    let poll = source.is_file();
    if let Some(rest) = rest {
        tokio::select! {
            () = sleep(rest) => {}
            nudge = nudged.recv() => if nudge.is_none() { return },
            () = ended(&mut shutdown) => {
                if let Some(set) = set.upgrade() {
                    set.end();
                }
                return;
            }
        }
    }
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
        lock(&landing.state).due = Some(Instant::now() + rest);
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

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

const MAX_UNKNOWN: usize = 1_000;
pub(super) const MAX_WAITING: usize = 1_000;
