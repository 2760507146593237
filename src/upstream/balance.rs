//! Which endpoint a request goes to.
//!
//! A [`View`] is what can be picked from now: made off the request threads whenever an endpoint comes, goes or changes
//! its state, and swapped as one. A pick reads it, and a few atomics of the endpoints; it takes no lock and allocates
//! nothing.

mod schedule;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use pingora::upstreams::peer::HttpPeer;
use smallvec::SmallVec;

use self::schedule::Schedule;
use super::{Endpoint, Moment};
use crate::revision::Upstream as Terms;
use crate::telemetry::UpstreamMetrics;

/// An endpoint as an upstream of a revision has it.
pub struct Member {
    /// Its state, which outlives the revision.
    pub endpoint: Arc<Endpoint>,
    /// What operators call it: as in the revision, with the address where that is a name.
    pub label: Arc<str>,
    /// Share of the traffic.
    pub weight: u32,
    /// Whether it stands where the gateway does; none if either does not say.
    pub local: Option<bool>,
    /// Used only while none of a smaller number can be.
    pub priority: u8,
    /// What the engine is told.
    pub peer: HttpPeer,
}

/// The endpoints that a request was sent to.
pub type Tried = SmallVec<[u32; 4]>;

/// What a pick depends on.
pub struct Ask<'a> {
    /// Random, anew for each try.
    pub dice: u64,
    /// The hash of what `consistent_hash` goes by.
    pub key: u64,
    /// Ids of the endpoints that were tried.
    pub tried: &'a [u32],
    /// Whether the request may be repeated if the endpoint fails.
    pub repeatable: bool,
    /// When it is.
    pub now: Moment,
}

/// What outlives views: the same for all revisions of an upstream.
#[derive(Debug, Default)]
pub struct Standing {
    /// Where the rotation stands. A relaxed increment is enough because only the distribution matters, not the order
    /// between threads.
    pub turn: AtomicUsize,
    /// The priority that gets the traffic.
    pub priority: AtomicUsize,
}

/// What a pick is.
pub struct Pick<'a> {
    /// Where the request goes.
    pub member: &'a Member,
    /// Whether it passed the gate of a half-open breaker, and has to leave it.
    pub probe: bool,
}

/// What can be picked from.
pub struct View {
    members: Box<[Member]>,
    schedule: Schedule,
    usable: Box<[u16]>,
    standing: Arc<Standing>,
}

impl View {
    /// What can be picked from now.
    #[must_use]
    pub fn compile(
        terms: &Terms,
        members: Vec<Member>,
        standing: Arc<Standing>,
        _metrics: &UpstreamMetrics,
        _now: Moment,
    ) -> Self {
        let checked = terms.health_check.is_some();
        let is_usable = |member: &Member| member.endpoint.is_usable(checked);
        let all = !members.iter().any(is_usable);
        let usable: Vec<u16> = (0_u16..)
            .zip(&members)
            .filter(|(_, member)| all || is_usable(member))
            .map(|(position, _)| position)
            .collect();
        let weights: Vec<u32> = usable
            .iter()
            .filter_map(|position| members.get(usize::from(*position)))
            .map(|member| member.weight)
            .collect();
        Self {
            schedule: Schedule::compile(&weights),
            usable: usable.into(),
            members: members.into(),
            standing,
        }
    }

    /// The endpoint for a try; none when all that can be used were tried.
    #[must_use]
    pub fn pick(&self, ask: &Ask<'_>) -> Option<Pick<'_>> {
        let turn = self.standing.turn.fetch_add(1, Ordering::Relaxed);
        let first = self.schedule.at(turn);
        (0..self.usable.len())
            .filter_map(|step| self.usable.get((first + step) % self.usable.len()))
            .filter_map(|position| self.members.get(usize::from(*position)))
            .find(|member| !ask.tried.contains(&member.endpoint.id()))
            .map(|member| Pick { member, probe: false })
    }

    /// Whether one of those that can be picked is like this.
    #[must_use]
    pub fn can_pick(&self, is_wanted: impl Fn(u32) -> bool) -> bool {
        self.usable
            .iter()
            .filter_map(|position| self.members.get(usize::from(*position)))
            .any(|member| is_wanted(member.endpoint.id()))
    }

    /// All endpoints, those that can not be used too.
    #[must_use]
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// Whether it has to be made anew soon although nothing changes: because an endpoint is in its slow start.
    #[must_use]
    pub fn is_moving(&self) -> bool {
        false
    }
}
