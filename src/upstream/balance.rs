//! Which endpoint a request goes to.
//!
//! A [`View`] is what can be picked from now: made off the request threads whenever an endpoint comes, goes or changes
//! its state, and swapped as one. A pick reads it, and a few atomics of the endpoints; it takes no lock and allocates
//! nothing.
//!
//! ```text
//! members ─ group that carries the traffic (priority) ─ usable, or all in a panic ─ near ones first (zones)
//!         ─ shares (weight, slow start) ─ algorithm ─ room? ─▶ pick
//! ```
//!
//! The algorithms are tables that a view is compiled into: an order of turns, a ring, a table to draw from. They do not know
//! why somebody is not among the candidates, and what changes rarely costs a pick nothing.

mod candidates;
mod draw;
mod facts;
mod priority;
mod ring;
mod schedule;
mod slow_start;
mod standing;
mod two_choices;
mod zones;

#[cfg(test)]
mod simulation_tests;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use pingora::upstreams::peer::HttpPeer;
use prometheus::IntCounter;
use smallvec::SmallVec;

use self::candidates::{Candidate, Candidates};
use self::draw::Draw;
use self::priority::Group;
use self::ring::{Node, Ring};
use self::schedule::Schedule;
use self::two_choices::TwoChoices;
use super::breaker::State;
use super::{Endpoint, Moment, hash};
use crate::revision::{Balance, Upstream as Terms};
use crate::telemetry::UpstreamMetrics;

pub use self::facts::{Facts, MemberFacts};
pub use self::standing::Standing;

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
    /// Used only while those of smaller numbers can not carry the traffic.
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

/// What a pick is.
pub struct Pick<'a> {
    /// Where the request goes.
    pub member: &'a Member,
    /// Whether it passed the gate of a half-open breaker, and has to leave it.
    pub probe: bool,
}

/// So many half-open breakers a pick looks at.
const GATES: usize = 4;

/// So far a key walks on the ring for an endpoint that has room, or was not tried. With a quarter of the endpoints in use,
/// one in a hundred thousand would have to walk farther; they get any endpoint.
const STEPS: usize = 40;

/// What can be picked from.
pub struct View {
    members: Arc<[Member]>,
    candidates: Candidates,
    choice: Choice,
    /// Members whose breakers want to be probed.
    gates: Box<[u16]>,
    /// Members of other groups, for requests that were at every candidate.
    reserve: Box<[u16]>,
    /// Better groups that could carry and have to prove themselves first, each with those of its members that have to.
    returning: Box<[Box<[u16]>]>,
    /// So many good checks in a row they need.
    failback: u32,
    checked: bool,
    ramping: bool,
    panic: bool,
    priority: Option<u8>,
    algorithm: &'static str,
    counters: Counters,
    standing: Arc<Standing>,
}

/// How a candidate is chosen.
enum Choice {
    RoundRobin(Schedule),
    LeastConnections(TwoChoices),
    LeastResponseTime {
        two: TwoChoices,
        /// In microseconds.
        penalty: f64,
    },
    /// With the place of each node among the candidates; `u16::MAX` for those that are none.
    ConsistentHash(Arc<Ring>, Box<[u16]>),
    Random(Draw),
}

/// What decided a choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    RoundRobin,
    LeastConnections,
    LeastResponseTime,
    ConsistentHash,
    Random,
    Probe,
    Panic,
}

impl View {
    /// What can be picked from now.
    #[must_use]
    pub fn compile(
        terms: &Terms,
        members: impl Into<Arc<[Member]>>,
        standing: Arc<Standing>,
        metrics: &UpstreamMetrics,
        now: Moment,
    ) -> Self {
        let members = members.into();
        let checked = terms.health_check.is_some();
        let failback = terms.health_check.as_ref().map_or(0, |check| check.failback);
        let usable: Vec<bool> = members
            .iter()
            .map(|member| member.endpoint.is_usable(checked))
            .collect();
        let positions = |wanted: &dyn Fn(&Member, bool) -> bool| -> Box<[u16]> {
            // What a position can not name is not used; no upstream has so many.
            (0..=u16::MAX)
                .zip(members.iter().zip(&usable))
                .filter(|(_, (member, usable))| wanted(member, **usable))
                .map(|(position, _)| position)
                .collect()
        };

        let groups = groups(&members, &usable, failback);
        let active = priority::active(&groups, standing.priority(), terms.panic_threshold);
        let priority = active.map(|group| group.priority);
        let panic = active.is_some_and(|group| group.panics(terms.panic_threshold));
        standing.note(&terms.name, priority, panic);
        let is_active = |member: &Member| Some(member.priority) == priority;
        let chosen = positions(&|member, usable| is_active(member) && (usable || panic));

        let by_itself = matches!(terms.balance, Balance::LeastResponseTime | Balance::ConsistentHash(_));
        let near_weight = (!panic && !by_itself)
            .then(|| near_weight(members.iter().filter(|member| is_active(member))))
            .flatten();
        let candidates = Candidates::compile(&members, chosen.iter().copied(), near_weight, terms, now);
        let choice = match &terms.balance {
            Balance::RoundRobin => Choice::RoundRobin(Schedule::compile(&candidates.shares())),
            Balance::LeastConnections => Choice::LeastConnections(TwoChoices::compile(&candidates)),
            Balance::LeastResponseTime => Choice::LeastResponseTime {
                two: TwoChoices::compile(&candidates),
                penalty: terms.zones.penalty.as_secs_f64() * 1e6,
            },
            Balance::ConsistentHash(_) => {
                let on_ring = positions(&|member, _| is_active(member));
                ring_choice(&members, &on_ring, &candidates, &standing)
            }
            Balance::Random => Choice::Random(Draw::compile(&candidates.shares())),
        };

        let asks = |member: &Member| {
            let up = !checked || member.endpoint.health().is_up();
            up && member.endpoint.breaker().state() == State::HalfOpen
        };
        // Those of better groups too: nobody else would ever find out that they can be used again.
        let gates = positions(&|member, _| priority.is_some_and(|active| member.priority <= active) && asks(member));
        let mut reserve = positions(&|member, usable| usable && !is_active(member));
        reserve.sort_by_key(|position| members.get(usize::from(*position)).map(|member| member.priority));
        let returning = groups
            .iter()
            .filter(|group| Some(group.priority) < priority && group.carries(terms.panic_threshold) && !group.proven)
            .map(|group| positions(&|member, usable| usable && member.priority == group.priority))
            .collect();
        Self {
            ramping: candidates.all().iter().any(|candidate| candidate.part < 1.0),
            candidates,
            choice,
            gates,
            reserve,
            returning,
            failback,
            checked,
            panic,
            priority,
            algorithm: terms.balance.as_str(),
            counters: Counters::new(terms, metrics),
            members,
            standing,
        }
    }

    /// The endpoint for a try; none when all that can be used were tried.
    #[must_use]
    pub fn pick(&self, ask: &Ask<'_>) -> Option<Pick<'_>> {
        // The first try only: with many that are half-open, the others are for endpoints that work.
        if !self.gates.is_empty()
            && ask.tried.is_empty()
            && let Some(member) = self.probe(ask)
        {
            self.counters.count(By::Probe);
            return Some(Pick { member, probe: true });
        }
        let (candidate, by) = match self.choose(ask) {
            Some((candidate, by)) if self.candidates.has_room(&candidate.endpoint) => (Some(candidate), by),
            Some((full, by)) => {
                let other = self
                    .candidates
                    .any(ask, |other| self.candidates.has_room(&other.endpoint));
                (Some(other.unwrap_or(full)), by)
            }
            None => {
                let with_room = self
                    .candidates
                    .any(ask, |other| self.candidates.has_room(&other.endpoint));
                (with_room.or_else(|| self.candidates.any(ask, |_| true)), By::Random)
            }
        };
        let member = match candidate {
            Some(candidate) => self.members.get(usize::from(candidate.position)),
            None => self.in_reserve(ask),
        }?;
        self.counters.count(if self.panic { By::Panic } else { by });
        Some(Pick { member, probe: false })
    }

    /// Whether one of those that can be picked is like this.
    #[must_use]
    pub fn can_pick(&self, is_wanted: impl Fn(u32) -> bool) -> bool {
        let mut candidates = self.candidates.all().iter().map(|candidate| candidate.endpoint.id());
        let mut reserve = self.reserved().map(|member| member.endpoint.id());
        candidates.any(&is_wanted) || reserve.any(&is_wanted)
    }

    /// All endpoints, those that can not be used too.
    #[must_use]
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// Whether it has to be made anew soon although nobody says that anything changed: because an endpoint is in its slow
    /// start, or because a better group has proven itself.
    #[must_use]
    pub fn is_moving(&self) -> bool {
        let is_proven = |position: &u16| {
            let member = self.members.get(usize::from(*position));
            member.is_some_and(|member| member.endpoint.health().good_in_a_row() >= self.failback)
        };
        self.ramping || self.returning.iter().any(|group| group.iter().all(is_proven))
    }

    /// A half-open breaker that lets the request find out.
    fn probe(&self, ask: &Ask<'_>) -> Option<&Member> {
        let start = usize::try_from(ask.dice % (self.gates.len().max(1) as u64)).unwrap_or(0);
        let (before, from) = self.gates.split_at_checked(start)?;
        let members = from
            .iter()
            .chain(before)
            .filter_map(|position| self.members.get(usize::from(*position)));
        members
            .take(GATES)
            .filter(|member| !ask.tried.contains(&member.endpoint.id()) && self.candidates.has_room(&member.endpoint))
            .find(|member| member.endpoint.breaker().enter_gate(ask.repeatable, ask.now))
    }

    /// What the algorithm says. None when what it came upon was tried.
    fn choose(&self, ask: &Ask<'_>) -> Option<(&Candidate, By)> {
        let all = &self.candidates;
        match &self.choice {
            Choice::RoundRobin(schedule) => {
                let first = all.untried(schedule.at(self.standing.next_turn()), ask);
                // Not the next turn: the endpoint behind one that fails would get all of its requests.
                let again = || all.untried(schedule.at((hash::stir(ask.dice) >> 32) as usize), ask);
                first.or_else(again).map(|candidate| (candidate, By::RoundRobin))
            }
            Choice::LeastConnections(two) => two.least_connections(all, self.standing.next_turn(), ask),
            Choice::LeastResponseTime { two, penalty } => {
                two.least_response_time(all, self.standing.next_turn(), *penalty, ask)
            }
            Choice::ConsistentHash(ring, places) => {
                let candidate = self.owner(ring, places, ask)?;
                Some((candidate, By::ConsistentHash))
            }
            Choice::Random(draw) => {
                let mut draws = (0..4).map(|number| hash::stir(ask.dice.wrapping_add(number)));
                let candidate = draws.find_map(|dice| all.untried(draw.at((dice >> 32) as u32), ask))?;
                Some((candidate, By::Random))
            }
        }
    }

    /// The first owner of the key that can take it.
    fn owner(&self, ring: &Ring, places: &[u16], ask: &Ask<'_>) -> Option<&Candidate> {
        let mut untried = None;
        // In its slow start an endpoint gets back some of its keys, each once and for good.
        let part = (hash::stir(!ask.key) >> 40) as f32 / (1 << 24) as f32;
        for node in ring.owners(ask.key).take(STEPS) {
            let place = places.get(node).copied().map_or(usize::MAX, usize::from);
            let Some(candidate) = self.candidates.untried(place, ask) else {
                continue;
            };
            if candidate.part > part && self.candidates.has_room(&candidate.endpoint) {
                return Some(candidate);
            }
            untried = untried.or(Some(candidate));
        }
        untried
    }

    fn in_reserve(&self, ask: &Ask<'_>) -> Option<&Member> {
        self.reserved()
            .find(|member| !ask.tried.contains(&member.endpoint.id()))
    }

    fn reserved(&self) -> impl Iterator<Item = &Member> {
        self.reserve
            .iter()
            .filter_map(|position| self.members.get(usize::from(*position)))
    }
}

/// How the groups stand, the best first.
fn groups(members: &[Member], usable: &[bool], failback: u32) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for (member, usable) in members.iter().zip(usable) {
        let weight = f64::from(member.weight);
        let one = Group {
            priority: member.priority,
            weight,
            usable: if *usable { weight } else { 0.0 },
            proven: !usable || member.endpoint.health().good_in_a_row() >= failback,
        };
        match groups.iter_mut().find(|group| group.priority == member.priority) {
            None => groups.push(one),
            Some(group) => {
                group.weight += one.weight;
                group.usable += one.usable;
                group.proven &= one.proven;
            }
        }
    }
    groups.sort_unstable_by_key(|group| group.priority);
    groups
}

/// The weight of the own zone's endpoints, with those that do not say where they stand; none if nobody says that it is there.
fn near_weight<'a>(members: impl Iterator<Item = &'a Member>) -> Option<f64> {
    let (mut weight, mut any_local) = (0.0, false);
    for member in members.filter(|member| member.local != Some(false)) {
        weight += f64::from(member.weight);
        any_local |= member.local == Some(true);
    }
    any_local.then_some(weight)
}

fn ring_choice(members: &[Member], on_ring: &[u16], candidates: &Candidates, standing: &Standing) -> Choice {
    let nodes = on_ring
        .iter()
        .filter_map(|position| members.get(usize::from(*position)));
    let nodes = nodes.map(|member| Node {
        address: member.endpoint.address(),
        weight: member.weight,
    });
    let mut place_of = vec![u16::MAX; members.len()];
    for (place, candidate) in (0..u16::MAX).zip(candidates.all()) {
        if let Some(entry) = place_of.get_mut(usize::from(candidate.position)) {
            *entry = place;
        }
    }
    let places = on_ring
        .iter()
        .map(|position| place_of.get(usize::from(*position)).copied().unwrap_or(u16::MAX));
    Choice::ConsistentHash(standing.ring(nodes.collect()), places.collect())
}

/// Counters of picks by what decided them; those that the algorithm can not come to are not there.
struct Counters([Option<IntCounter>; 7]);

impl Counters {
    fn new(terms: &Terms, metrics: &UpstreamMetrics) -> Self {
        use By::{ConsistentHash, LeastConnections, LeastResponseTime, Panic, Probe, Random, RoundRobin};
        let all = [
            RoundRobin,
            LeastConnections,
            LeastResponseTime,
            ConsistentHash,
            Random,
            Probe,
            Panic,
        ];
        let can = |by: By| match &terms.balance {
            Balance::RoundRobin => by == RoundRobin,
            Balance::LeastConnections => matches!(by, LeastConnections | RoundRobin),
            Balance::LeastResponseTime => matches!(by, LeastResponseTime | LeastConnections | RoundRobin),
            Balance::ConsistentHash(_) => by == ConsistentHash,
            Balance::Random => false,
        };
        // What came upon nothing but tried endpoints takes any that is left.
        let kept = |by: By| can(by) || matches!(by, Random | Probe | Panic);
        Self(all.map(|by| kept(by).then(|| metrics.picks(terms.name.as_str(), by.as_str()))))
    }

    fn count(&self, by: By) {
        if let Some(Some(counter)) = self.0.get(by as usize) {
            counter.inc();
        }
    }
}

impl By {
    fn as_str(self) -> &'static str {
        match self {
            Self::RoundRobin => "round_robin",
            Self::LeastConnections => "least_connections",
            Self::LeastResponseTime => "least_response_time",
            Self::ConsistentHash => "consistent_hash",
            Self::Random => "random",
            Self::Probe => "probe",
            Self::Panic => "panic",
        }
    }
}
