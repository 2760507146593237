//! Fetching anew in the background: an answer that may be given stale meanwhile, or that is about to end.

use std::sync::Arc;

use hashbrown::HashSet;
use parking_lot::Mutex;
use pingora::proxy::Session;
use pingora::proxy::subrequest::Ctx;

use super::Visit;
use crate::auth::Caller;
use crate::cache::key::Fingerprint;
use crate::gateway::forward::Origin;
use crate::gateway::journey::Journey;
use crate::snapshot::Snapshot;

/// At most so many are under way; who comes then gives what there is, and somebody later tries again.
const REFRESHES_MAX: usize = 1024;

/// Which answers are being fetched anew.
#[derive(Default)]
pub struct Refreshing(Mutex<HashSet<Fingerprint>>);

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
    /// Why.
    pub why: Why,
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
    /// Takes the right to fetch this anew. `None` when somebody has it, or too many are under way.
    #[must_use]
    pub fn begin(self: &Arc<Self>, what: Fingerprint, why: Why) -> Option<Refresh> {
        let mut under_way = self.0.lock();
        let may = under_way.len() < REFRESHES_MAX && under_way.insert(what);
        may.then(|| Refresh {
            refreshing: Arc::clone(self),
            what,
            why,
        })
    }
}

impl Drop for Refresh {
    fn drop(&mut self) {
        self.refreshing.0.lock().remove(&self.what);
    }
}

/// Starts a request of its own for what this one asks for, in the background. False when that can not be.
pub fn start(session: &Session, journey: &Journey, refresh: Refresh) -> bool {
    let (Some(spawner), Some(intent)) = (&session.subrequest_spawner, Intent::of(journey, refresh)) else {
        return false;
    };
    let context = Ctx::builder().user_ctx(Box::new(intent)).build();
    drop(spawner.spawn_background_subrequest(session.as_ref(), context));
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
        journey.visit = Some(self.visit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time_fetches_an_answer_anew_and_the_next_one_may_when_it_is_over() {
        let refreshing = Arc::new(Refreshing::default());
        let what = Fingerprint([7; 16]);
        let first = refreshing.begin(what, Why::Stale);
        assert!(first.is_some());
        assert!(refreshing.begin(what, Why::Ahead).is_none());
        assert!(refreshing.begin(Fingerprint([8; 16]), Why::Ahead).is_some());
        drop(first);
        assert!(refreshing.begin(what, Why::Ahead).is_some());
    }

    #[test]
    fn no_more_than_the_bound_are_under_way() {
        let refreshing = Arc::new(Refreshing::default());
        let what = |number: usize| {
            let mut bytes = [0; 16];
            bytes[..8].copy_from_slice(&number.to_be_bytes());
            Fingerprint(bytes)
        };
        let all: Vec<_> = (0..REFRESHES_MAX)
            .filter_map(|number| refreshing.begin(what(number), Why::Stale))
            .collect();
        assert_eq!(all.len(), REFRESHES_MAX);
        assert!(refreshing.begin(what(REFRESHES_MAX), Why::Stale).is_none());
        drop(all);
        assert!(refreshing.begin(what(REFRESHES_MAX), Why::Stale).is_some());
    }
}
