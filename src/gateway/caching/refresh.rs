//! Fetching anew in the background: an answer that may be given stale meanwhile, or that is about to end.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hashbrown::HashMap;
use http::HeaderValue;
use parking_lot::Mutex;
use pingora::proxy::Session;
use pingora::proxy::subrequest::Ctx;

use tokio::time::timeout;

use super::Visit;
use crate::auth::Caller;
use crate::cache::entry::Entry;
use crate::cache::key::{Fingerprint, fingerprint};
use crate::gateway::downstream::Downstream;
use crate::gateway::forward::Origin;
use crate::gateway::journey::Journey;
use crate::snapshot::Snapshot;

/// At most so many are under way; who comes then gives what there is, and somebody later tries again.
const REFRESHES_MAX: usize = 1024;

/// How long nobody tries again after one that failed.
const COOL_DOWN: Duration = Duration::from_secs(1);

/// How long one may take. No client's patience bounds it, and an origin that trickles has no end.
const LONGEST: Duration = Duration::from_secs(60);

/// Which answers are being fetched anew, and which were tried in vain a moment ago.
#[derive(Default)]
pub struct Refreshing(Mutex<HashMap<Fingerprint, Option<Instant>>>);

/// Why an answer is fetched anew in the background.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// It is stale, and may be given while it is fetched anew (RFC 5861 section 3).
    Stale,
    /// It is fresh, asked for often, and about to end.
    Ahead,
}

/// The right to fetch one answer anew, until it is dropped.
pub struct Refresh {
    refreshing: Arc<Refreshing>,
    what: Fingerprint,
    is_done: bool,
    /// Why.
    pub why: Why,
    /// What is fetched anew.
    pub of: Arc<Entry>,
    /// The client's address, as the upstream is told of it.
    pub peer: Option<HeaderValue>,
}

/// What the request in the background knows from the one that caused it: who was let in, and where it goes. It is not
/// asked for credentials again, and not counted by limits: nobody waits for it.
pub struct Intent {
    snapshot: Arc<Snapshot>,
    route: u32,
    caller: Caller,
    origin: Origin,
    destination: usize,
    target: Option<Vec<u8>>,
    underscores: bool,
    scheme: &'static str,
    visit: Box<Visit>,
}

impl Why {
    /// The word for it, a label of metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stale => "stale",
            Self::Ahead => "ahead",
        }
    }
}

impl Refreshing {
    /// Takes the right to fetch this anew. `None` when somebody has it, it failed a moment ago, or too many are under way.
    #[must_use]
    pub fn begin(self: &Arc<Self>, of: &Arc<Entry>, why: Why, now: Instant) -> Option<Refresh> {
        let what = fingerprint(&of.key);
        let mut known = self.0.lock();
        match known.get(&what) {
            Some(Some(until)) if now >= *until => {}
            Some(_) => return None,
            None => {}
        }
        if known.len() >= REFRESHES_MAX {
            known.retain(|_, until| until.is_none_or(|until| now < until));
        }
        if known.len() >= REFRESHES_MAX {
            return None;
        }
        known.insert(what, None);
        Some(Refresh {
            refreshing: Arc::clone(self),
            what,
            is_done: false,
            why,
            of: Arc::clone(of),
            peer: None,
        })
    }
}

impl Refresh {
    /// It is fetched.
    pub fn done(&mut self) {
        self.is_done = true;
    }
}

impl Drop for Refresh {
    fn drop(&mut self) {
        let mut known = self.refreshing.0.lock();
        if self.is_done {
            known.remove(&self.what);
        } else {
            // Every client that is given the stale answer would cause the next attempt.
            known.insert(self.what, Some(Instant::now() + COOL_DOWN));
        }
    }
}

/// Starts a request of its own for what this one asks for, in the background. False when that can not be.
pub fn start(session: &Session, journey: &Journey, mut refresh: Refresh) -> bool {
    let transport = Downstream::of(session).and_then(Downstream::transport);
    refresh.peer = transport.and_then(|transport| transport.peer_field.clone());
    let (Some(spawner), Some(intent)) = (&session.subrequest_spawner, Intent::of(journey, refresh)) else {
        return false;
    };
    let context = Ctx::builder().user_ctx(Box::new(intent)).build();
    let mut fetch = spawner.spawn_background_subrequest(session.as_ref(), context);
    tokio::spawn(async move {
        if timeout(LONGEST, &mut fetch).await.is_err() {
            fetch.abort();
        }
    });
    true
}

/// Continues where the request that caused this one was. False for requests of clients, which begin at the beginning.
pub fn resume(session: &mut Session, journey: &mut Journey) -> bool {
    let Some(context) = session.subrequest_ctx.as_mut() else {
        return false;
    };
    let intent = context
        .user_ctx_mut()
        .and_then(|intent| intent.downcast_mut::<Option<Intent>>());
    if let Some(intent) = intent.and_then(Option::take) {
        intent.into_journey(journey);
    }
    true
}

impl Intent {
    fn of(journey: &Journey, refresh: Refresh) -> Option<Option<Self>> {
        let visit = journey.visit.as_deref()?;
        Some(Some(Self {
            snapshot: journey.snapshot.clone()?,
            route: journey.admission.as_ref()?.route,
            caller: journey.caller.clone()?,
            origin: journey.origin,
            destination: journey.destination?,
            target: journey.target.clone(),
            underscores: journey.underscores,
            scheme: journey.scheme,
            visit: Box::new(visit.again(refresh)),
        }))
    }

    fn into_journey(self, journey: &mut Journey) {
        journey.go_on_unseen(self.snapshot, self.route);
        journey.caller = Some(self.caller);
        journey.origin = self.origin;
        journey.destination = Some(self.destination);
        journey.target = self.target;
        journey.underscores = self.underscores;
        journey.scheme = self.scheme;
        journey.visit = Some(self.visit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::entry::testing::entry;

    #[test]
    fn one_at_a_time_fetches_an_answer_anew_and_the_next_one_may_when_it_is_over() {
        let refreshing = Arc::new(Refreshing::default());
        let (one, other) = (entry(b"one"), entry(b"other"));
        let now = Instant::now();
        let mut first = refreshing.begin(&one, Why::Stale, now).expect("the first");
        assert!(refreshing.begin(&one, Why::Ahead, now).is_none());
        assert!(refreshing.begin(&other, Why::Ahead, now).is_some());
        first.done();
        drop(first);
        assert!(refreshing.begin(&one, Why::Ahead, now).is_some());
    }

    #[test]
    fn after_one_that_failed_nobody_tries_for_a_while() {
        let refreshing = Arc::new(Refreshing::default());
        let one = entry(b"one");
        let now = Instant::now();
        drop(refreshing.begin(&one, Why::Stale, now));
        assert!(refreshing.begin(&one, Why::Stale, now).is_none());
        let later = Instant::now() + COOL_DOWN;
        assert!(refreshing.begin(&one, Why::Stale, later).is_some());
    }

    #[test]
    fn no_more_than_the_bound_are_under_way_and_failures_of_the_past_take_no_room() {
        let refreshing = Arc::new(Refreshing::default());
        let entries: Vec<_> = (0..=REFRESHES_MAX).map(|number| entry(&number.to_be_bytes())).collect();
        let now = Instant::now();
        let begin = |of: &Arc<Entry>, now| refreshing.begin(of, Why::Stale, now);
        let all: Vec<_> = entries.iter().filter_map(|entry| begin(entry, now)).collect();
        assert_eq!(all.len(), REFRESHES_MAX);
        let last = entries.last().expect("one more");
        assert!(begin(last, now).is_none());
        drop(all);
        assert!(begin(last, now).is_none());
        assert!(begin(last, Instant::now() + COOL_DOWN).is_some());
    }
}
