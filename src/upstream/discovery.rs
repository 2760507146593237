//! Where names are: looked up before a revision is applied, and again in the background for as long as somebody uses them.
//!
//! What is known of a name belongs to the process. A failure never takes an address away: a resolver that is gone, or that
//! suddenly knows nothing, must not take down services that are there. So the addresses that were known go on until others
//! are answered, and checks and breakers find out whether they are any good.

mod dns;
mod heritage;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use tokio::runtime::Handle;
use tokio::task::JoinSet;

pub use self::heritage::NAMES;

use self::dns::{Answer, Dns, PLACES_MAX};
use super::resolve::Found;
use super::{Registry, Upstream};
use crate::config;
use crate::revision::Locator;
use crate::telemetry::upstream_metrics::LookupCounters;

/// Names that are asked for at a time: enough for thousands of them every few seconds, and no flood for a resolver.
const ASKED_MAX: usize = 64;

/// All names of a revision together are waited for as long as this many answers may take. What is not known by then is
/// looked up in the background.
const FIRST_ANSWERS: u32 = 5;

/// What is known of a name that nobody uses is forgotten after this: a revision that is compiled will use it at once.
const UNUSED: Duration = Duration::from_secs(60);

/// How often it is looked at who uses which names, beside when a revision arrives.
const LOOK: Duration = Duration::from_secs(1);

/// After a failure: the first pause, doubled each time, and the longest.
const RETRY: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(30);

/// What this process knows of names, and who looks them up.
pub struct Discovery {
    dns: Dns,
    side: Handle,
    ttl: (Duration, Duration),
    first_answers: Duration,
    known: Mutex<HashMap<Locator, Known>>,
    counters: LookupCounters,
}

/// What is known of a name.
#[derive(Debug)]
struct Known {
    places: Vec<Found>,
    due: Instant,
    asking: bool,
    failures: u32,
    /// The last failure said that there is no such name, and not that nobody knows.
    gone: bool,
    used: Instant,
}

impl Discovery {
    /// Knows nothing yet. Questions are asked on the runtime of `side`, which needs a thread of its own.
    ///
    /// # Errors
    /// When nobody could be asked with these settings.
    pub fn new(settings: &config::Dns, side: Handle, counters: LookupCounters) -> Result<Self, String> {
        let _side = side.enter();
        Ok(Self {
            dns: Dns::new(settings)?,
            side: side.clone(),
            ttl: (settings.min_ttl, settings.max_ttl),
            first_answers: settings.timeout * FIRST_ANSWERS,
            known: Mutex::default(),
            counters,
        })
    }

    /// The endpoints of each name, in this order; none of one while nobody knows where it is. Blocks while it is asked for
    /// names that were not known: not for a thread of a runtime.
    ///
    /// What is known is taken as it is, so that a revision that changes something else neither waits for DNS nor fails with
    /// it.
    ///
    /// # Errors
    /// For a name that does not exist: why.
    pub fn find_all(&self, locators: &[&Locator]) -> Vec<Result<Vec<Found>, String>> {
        let unknown: HashSet<&Locator> = {
            let now = Instant::now();
            let mut known = self.known();
            let is_unknown = |locator: &&Locator| match known.get_mut(*locator) {
                Some(known) => {
                    known.used = now;
                    known.places.is_empty()
                }
                None => true,
            };
            (locators.iter().copied())
                .filter(|locator| is_name(locator))
                .filter(is_unknown)
                .collect()
        };
        let nowhere = self.ask_for(&unknown);
        let known = self.known();
        (locators.iter())
            .map(|locator| match (address(locator), nowhere.get(locator)) {
                (Some(place), _) => Ok(vec![place]),
                (None, Some(why)) => Err(why.clone()),
                (None, None) => Ok(known
                    .get(*locator)
                    .map(|known| known.places.clone())
                    .unwrap_or_default()),
            })
            .collect()
    }

    /// The endpoints of one name, asked for whatever is known. Blocks, as [`Self::find_all`] does.
    ///
    /// # Errors
    /// When it does not exist, or nobody knows: why.
    pub fn ask(&self, locator: &Locator) -> Result<Vec<Found>, String> {
        if let Some(place) = address(locator) {
            return Ok(vec![place]);
        }
        match self.side.block_on(self.dns.look_up(locator)) {
            Answer::Found {
                places,
                incomplete: None,
                ..
            } => Ok(places),
            Answer::Found {
                incomplete: Some(why), ..
            }
            | Answer::Gone(why)
            | Answer::Failed(why) => Err(why),
        }
    }

    /// Keeps what is known up to date for as long as the process lives, and upstreams with it.
    pub async fn keep(self: Arc<Self>, registry: Arc<Registry>) {
        let mut asking = JoinSet::new();
        let mut look = Instant::now();
        loop {
            let now = Instant::now();
            if look <= now {
                self.use_names(&registry.newest(), now);
                self.tell(&registry.upstreams());
                look = now + LOOK;
            }
            let (due, next) = self.take_due(now, ASKED_MAX.saturating_sub(asking.len()));
            for locator in due {
                let discovery = Arc::clone(&self);
                asking.spawn(async move {
                    let answer = discovery.dns.look_up(&locator).await;
                    discovery.learn(&locator, answer, Instant::now())
                });
            }
            tokio::select! {
                () = registry.arrived() => look = now,
                Some(learned) = asking.join_next() => {
                    if learned.unwrap_or_default() {
                        look = now;
                    }
                }
                () = tokio::time::sleep_until(next.map_or(look, |next| next.min(look)).into()) => {}
            }
        }
    }

    /// Asks for names for the first time. Gives those that do not exist.
    fn ask_for<'a>(&self, unknown: &HashSet<&'a Locator>) -> HashMap<&'a Locator, String> {
        let mut nowhere = HashMap::new();
        if unknown.is_empty() {
            return nowhere;
        }
        let until = tokio::time::Instant::now() + self.first_answers;
        let answers: Vec<(&Locator, Answer)> = self.side.block_on(async {
            let asked = (unknown.iter().copied()).map(|locator| async move {
                let late = || Answer::Failed("not answered before the revision was applied".to_owned());
                let answer = tokio::time::timeout_at(until, self.dns.look_up(locator)).await;
                (locator, answer.unwrap_or_else(|_| late()))
            });
            futures_util::stream::iter(asked)
                .buffer_unordered(ASKED_MAX)
                .collect()
                .await
        });
        for (locator, answer) in answers {
            if let Answer::Gone(why) = answer {
                self.counters.gone.inc();
                nowhere.insert(locator, why);
            } else {
                self.learn(locator, answer, Instant::now());
            }
        }
        nowhere
    }

    /// Notes an answer. True if the endpoints are others now.
    fn learn(&self, locator: &Locator, answer: Answer, now: Instant) -> bool {
        let mut all = self.known();
        let known = all.entry(locator.clone()).or_insert_with(|| Known::nothing(now));
        known.asking = false;
        let (why, gone) = match answer {
            Answer::Found {
                places,
                ttl,
                incomplete: None,
            } => {
                self.counters.found.inc();
                return known.found(locator, places, ttl.clamp(self.ttl.0, self.ttl.1), now);
            }
            Answer::Found {
                places,
                incomplete: Some(why),
                ..
            } => {
                self.counters.failed.inc();
                let changed = known.add(places);
                known.failed(locator, &why, false, now);
                return changed;
            }
            Answer::Gone(why) => (why, true),
            Answer::Failed(why) => (why, false),
        };
        if gone {
            self.counters.gone.inc();
        } else {
            self.counters.failed.inc();
        }
        known.failed(locator, &why, gone, now);
        false
    }

    /// These names are in use; what nobody uses is forgotten.
    fn use_names(&self, upstreams: &[Arc<Upstream>], now: Instant) {
        let mut known = self.known();
        for upstream in upstreams {
            for endpoint in &upstream.terms().endpoints {
                if is_name(&endpoint.locator) {
                    known
                        .entry(endpoint.locator.clone())
                        .or_insert_with(|| Known::nothing(now))
                        .used = now;
                }
            }
        }
        known.retain(|_, known| now.saturating_duration_since(known.used) < UNUSED);
    }

    /// Tells upstreams where their endpoints are.
    fn tell(&self, upstreams: &[Arc<Upstream>]) {
        for upstream in upstreams {
            let moves: Vec<(usize, Vec<Found>)> = {
                let known = self.known();
                let endpoints = upstream.terms().endpoints.iter().enumerate();
                let places = endpoints.filter(|(_, endpoint)| is_name(&endpoint.locator));
                places
                    .filter_map(|(position, endpoint)| Some((position, known.get(&endpoint.locator)?.places.clone())))
                    .filter(|(_, places)| !places.is_empty())
                    .collect()
            };
            upstream.moved(moves);
        }
    }

    /// At most so many names that are to be asked for now, and when the next one is.
    fn take_due(&self, now: Instant, most: usize) -> (Vec<Locator>, Option<Instant>) {
        let mut due = Vec::new();
        let mut next: Option<Instant> = None;
        for (locator, known) in self.known().iter_mut().filter(|(_, known)| !known.asking) {
            if known.due > now {
                next = Some(next.map_or(known.due, |next| next.min(known.due)));
            } else if due.len() < most {
                known.asking = true;
                due.push(locator.clone());
            }
            // The rest is due as soon as one of these is answered.
        }
        (due, next)
    }

    fn known(&self) -> MutexGuard<'_, HashMap<Locator, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn nothing(now: Instant) -> Self {
        Self {
            places: Vec::new(),
            due: now,
            asking: false,
            failures: 0,
            gone: false,
            used: now,
        }
    }

    fn found(&mut self, locator: &Locator, places: Vec<Found>, ttl: Duration, now: Instant) -> bool {
        // Later than that, so that not everybody who asked at the same time asks again at the same time.
        self.due = now + ttl.mul_f64(rand::random_range(1.0..=1.1));
        let was_failing = std::mem::take(&mut self.failures) > 0;
        let was_known = !self.places.is_empty();
        let changed = self.places != places;
        self.places = places;
        if was_failing || (changed && was_known) {
            log::info!("dns: {locator} is at {}", self.told());
        }
        changed
    }

    /// A part of an answer: what is new in it is taken over, and nothing is taken away, because what is missing may be in the
    /// other part. True if that changes anything.
    fn add(&mut self, part: Vec<Found>) -> bool {
        let mut known: BTreeMap<SocketAddr, Found> = (self.places.iter().rev())
            .map(|place| (place.address, *place))
            .collect();
        // Backwards: of two that say something of one address the first counts, here as everywhere.
        for place in part.into_iter().rev() {
            if known.len() < PLACES_MAX || known.contains_key(&place.address) {
                known.insert(place.address, place);
            }
        }
        let places: Vec<Found> = known.into_values().collect();
        let changed = self.places != places;
        self.places = places;
        changed
    }

    fn failed(&mut self, locator: &Locator, why: &str, gone: bool, now: Instant) {
        let pause = RETRY.saturating_mul(1 << self.failures.min(16)).min(RETRY_MAX);
        self.due = now + pause.mul_f64(rand::random_range(0.9..=1.1));
        // Once for each kind of trouble, and not each time.
        if self.failures == 0 || self.gone != gone {
            log::warn!("dns: {locator}: {why}; {}", self.told_of_what_is_left());
        }
        self.failures = self.failures.saturating_add(1);
        self.gone = gone;
    }

    fn told_of_what_is_left(&self) -> String {
        if self.places.is_empty() {
            return "it has no endpoints until it is found".to_owned();
        }
        format!("it is believed to be at {} still", self.told())
    }

    fn told(&self) -> String {
        const SHOWN: usize = 8;
        let shown: Vec<String> = (self.places.iter().take(SHOWN))
            .map(|place| place.address.to_string())
            .collect();
        let more = self.places.len().saturating_sub(SHOWN);
        match more {
            0 => shown.join(", "),
            more => format!("{} and {more} more", shown.join(", ")),
        }
    }
}

fn is_name(locator: &Locator) -> bool {
    address(locator).is_none()
}

/// What has to be looked up nowhere.
pub(super) fn address(locator: &Locator) -> Option<Found> {
    let Locator::Host { host, port } = locator else {
        return None;
    };
    let address = host.parse::<IpAddr>().ok()?;
    Some(Found::at((address, *port).into()))
}

#[cfg(test)]
mod tests;
