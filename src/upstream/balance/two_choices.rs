//! The better of two (M. Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing"): the one whose turn it is in
//! the weighted rotation, against one that is drawn by weight.
//!
//! Drawing both was rejected: the rotation costs the same, and where nothing tells the two apart, with little traffic, it makes
//! exactly the shares that the weights say, which is what remains when an algorithm has no data. Always taking the best of
//! all makes gateways that do not know of each other fall upon the same endpoint, and costs a look at each; with few
//! endpoints it is what "least" means, so up to [`FEW`] are compared for their requests in flight.

use super::candidates::{Candidate, Candidates};
use super::draw::Draw;
use super::schedule::Schedule;
use super::{Ask, By};
use crate::upstream::hash;

/// Up to so many all are compared.
pub(super) const FEW: usize = 8;

/// How often it is drawn again when one was drawn that can not be taken.
const DRAWS: u64 = 4;

/// Who the two are.
pub(super) struct TwoChoices {
    schedule: Schedule,
    draw: Draw,
    /// The share of an endpoint on average.
    mean: f64,
}

impl TwoChoices {
    /// Of those who have a share.
    pub(super) fn compile(candidates: &Candidates) -> Self {
        let shares = candidates.shares();
        Self {
            schedule: Schedule::compile(&shares),
            draw: Draw::compile(&shares),
            mean: shares.iter().copied().map(f64::from).sum::<f64>() / shares.len().max(1) as f64,
        }
    }

    /// The one with fewer requests in flight for its share.
    pub(super) fn least_connections<'a>(
        &self,
        candidates: &'a Candidates,
        turn: usize,
        ask: &Ask<'_>,
    ) -> Option<(&'a Candidate, By)> {
        let first = self.first(candidates, turn, ask)?;
        let drawable = candidates.drawable();
        if drawable.len() > FEW {
            return Some(match self.second(candidates, first, ask) {
                Some(second) => emptier(first, second),
                None => (first, By::RoundRobin),
            });
        }
        let start = usize::try_from(ask.dice % (drawable.len().max(1) as u64)).unwrap_or(0);
        let (before, from) = drawable.split_at_checked(start)?;
        let others = from.iter().chain(before);
        let others = others.filter(|other| other.position != first.position && !other.is_tried(ask));
        Some(others.fold((first, By::RoundRobin), |(best, by), other| {
            match emptier(best, other) {
                (best, By::RoundRobin) => (best, by),
                decided => decided,
            }
        }))
    }

    /// The one that is expected to answer sooner. `penalty` is what another zone counts more, in
    /// microseconds.
    pub(super) fn least_response_time<'a>(
        &self,
        candidates: &'a Candidates,
        turn: usize,
        penalty: f64,
        ask: &Ask<'_>,
    ) -> Option<(&'a Candidate, By)> {
        let first = self.first(candidates, turn, ask)?;
        let Some(second) = self.second(candidates, first, ask) else {
            return Some((first, By::RoundRobin));
        };
        let chosen = match (self.wait(first, penalty, ask), self.wait(second, penalty, ask)) {
            (Some(a), Some(b)) if b < a => second,
            (Some(_), Some(_)) => first,
            (None, None) => return Some(emptier(first, second)),
            // Nobody knows how the one is, so it gets a request to find out, and the next when that is answered.
            (None, Some(_)) if is_worth_a_try(first, ask) => first,
            (None, Some(_)) => second,
            (Some(_), None) if is_worth_a_try(second, ask) => second,
            (Some(_), None) => first,
        };
        Some((chosen, By::LeastResponseTime))
    }

    fn first<'a>(&self, candidates: &'a Candidates, turn: usize, ask: &Ask<'_>) -> Option<&'a Candidate> {
        candidates
            .untried(self.schedule.at(turn), ask)
            .or_else(|| self.drawn(candidates, ask, 0, |_| true))
    }

    fn second<'a>(&self, candidates: &'a Candidates, first: &Candidate, ask: &Ask<'_>) -> Option<&'a Candidate> {
        let is_other = |other: &Candidate| other.position != first.position;
        let drawable = candidates.drawable();
        if drawable.len() < 2 {
            return None;
        }
        // With few, or one that outweighs all others, it may be drawn again and again.
        let any = || {
            let (before, from) = drawable.split_at_checked((ask.dice % drawable.len() as u64) as usize)?;
            (from.iter().chain(before)).find(|other| is_other(other) && !other.is_tried(ask))
        };
        self.drawn(candidates, ask, DRAWS, is_other).or_else(any)
    }

    fn drawn<'a>(
        &self,
        candidates: &'a Candidates,
        ask: &Ask<'_>,
        salt: u64,
        is_wanted: impl Fn(&Candidate) -> bool,
    ) -> Option<&'a Candidate> {
        (0..DRAWS).find_map(|draw| {
            let dice = hash::stir(ask.dice.wrapping_add(salt + draw));
            let candidate = candidates.untried(self.draw.at((dice >> 32) as u32), ask)?;
            is_wanted(candidate).then_some(candidate)
        })
    }

    /// How long a request is expected to take, in microseconds; none if nothing is known.
    fn wait(&self, candidate: &Candidate, penalty: f64, ask: &Ask<'_>) -> Option<f64> {
        let average = candidate.endpoint.latency().micros(ask.now)?;
        let ahead = f64::from(candidate.endpoint.in_flight()) + 1.0;
        let penalty = if candidate.far { penalty } else { 0.0 };
        // Weights are relative; the penalty is not.
        Some(ahead * average * self.mean / f64::from(candidate.share) + penalty)
    }
}

/// The first, unless the second has fewer requests for its share now and would still have with one more.
fn emptier<'a>(first: &'a Candidate, second: &'a Candidate) -> (&'a Candidate, By) {
    let (a, b) = (first.endpoint.in_flight() as f32, second.endpoint.in_flight() as f32);
    // Without dividing: a / share of the first against b / share of the second.
    let (now, other) = (a * second.share, b * first.share);
    if now == other {
        return (first, By::RoundRobin);
    }
    if other < now && (b + 1.0) * first.share < (a + 1.0) * second.share {
        return (second, By::LeastConnections);
    }
    (first, By::LeastConnections)
}

/// Whether an endpoint about which nothing is known gets a request to find out. One that fails, and whose breaker had to stay
/// closed, would win every comparison, because failures tell nothing about how long answers take: now and then is enough.
fn is_worth_a_try(candidate: &Candidate, ask: &Ask<'_>) -> bool {
    candidate.endpoint.in_flight() == 0 && (!candidate.endpoint.breaker().is_held() || ask.dice.is_multiple_of(16))
}
