//! Who can be chosen now, and with what share: endpoints of the active group, the near ones first.

use std::sync::Arc;

use super::zones::{self, Weights};
use super::{Ask, Endpoint, Member, Moment, Terms, slow_start};

/// An endpoint that can be chosen.
pub(super) struct Candidate {
    /// Its state.
    pub(super) endpoint: Arc<Endpoint>,
    /// Where it is among the members.
    pub(super) position: u16,
    /// Its weight as it counts now: less in its slow start, less or nothing in another zone.
    pub(super) share: f32,
    /// How far its slow start is, 1 when it is over.
    pub(super) part: f32,
    /// Whether it stands in another zone.
    pub(super) far: bool,
}

/// Those who can be chosen.
pub(super) struct Candidates {
    all: Box<[Candidate]>,
    /// So many have a share. Those behind them are for when these have no room, or were tried.
    drawable: usize,
    near: usize,
    max_connections: Option<u32>,
}

impl Candidates {
    /// Of the members at these positions. `near_weight` is that of all endpoints of the own zone, whether they can be chosen
    /// or not; none if zones are not looked at: because the algorithm does it by itself, because nobody stands in the own
    /// zone, or because what is known of endpoints is not believed.
    pub(super) fn compile(
        members: &[Member],
        positions: impl Iterator<Item = u16>,
        near_weight: Option<f64>,
        terms: &Terms,
        now: Moment,
    ) -> Self {
        let mut all: Vec<Candidate> = positions
            .filter_map(|position| Some((position, members.get(usize::from(position))?)))
            .map(|(position, member)| {
                let part = slow_start::part(&member.endpoint, terms.slow_start, now);
                Candidate {
                    endpoint: Arc::clone(&member.endpoint),
                    position,
                    share: member.weight as f32 * part,
                    part,
                    far: member.local == Some(false),
                }
            })
            .collect();
        all.sort_by_key(|candidate| candidate.far);
        let near = all.partition_point(|candidate| !candidate.far);
        if let Some(weight) = near_weight {
            let mut weights = Weights {
                near: weight,
                ..Weights::default()
            };
            for candidate in &all {
                let weight = members
                    .get(usize::from(candidate.position))
                    .map_or(0.0, |member| f64::from(member.weight));
                *if candidate.far {
                    &mut weights.far_usable
                } else {
                    &mut weights.near_usable
                } += weight;
            }
            let factor = zones::far_factor(weights, terms.zones.spill);
            for candidate in all.iter_mut().filter(|candidate| candidate.far) {
                candidate.share *= factor;
            }
        }
        Self {
            drawable: all.partition_point(|candidate| candidate.share > 0.0),
            all: all.into(),
            near,
            max_connections: terms.pool.max_connections,
        }
    }

    /// All of them, those that have a share first.
    pub(super) fn all(&self) -> &[Candidate] {
        &self.all
    }

    /// Those that have a share.
    pub(super) fn drawable(&self) -> &[Candidate] {
        self.all.get(..self.drawable).unwrap_or_default()
    }

    /// The shares of those that have one.
    pub(super) fn shares(&self) -> Vec<f32> {
        self.drawable().iter().map(|candidate| candidate.share).collect()
    }

    /// The one at this place, if it was not tried.
    pub(super) fn untried(&self, place: usize, ask: &Ask<'_>) -> Option<&Candidate> {
        self.all.get(place).filter(|candidate| !candidate.is_tried(ask))
    }

    /// Whether a request would have room there at once.
    pub(super) fn has_room(&self, endpoint: &Endpoint) -> bool {
        endpoint.has_room(self.max_connections)
    }

    /// Any that was not tried and is as wanted, a near one if there is one. The search begins anywhere, so that what one can
    /// not take is not all taken by the next.
    pub(super) fn any(&self, ask: &Ask<'_>, is_wanted: impl Fn(&Candidate) -> bool) -> Option<&Candidate> {
        let (near, far) = self.all.split_at_checked(self.near)?;
        [near, far].into_iter().find_map(|part| {
            let start = usize::try_from(ask.dice % (part.len().max(1) as u64)).unwrap_or(0);
            let (before, from) = part.split_at_checked(start)?;
            (from.iter().chain(before)).find(|candidate| !candidate.is_tried(ask) && is_wanted(candidate))
        })
    }
}

impl Candidate {
    /// Whether the request was there.
    pub(super) fn is_tried(&self, ask: &Ask<'_>) -> bool {
        !ask.tried.is_empty() && ask.tried.contains(&self.endpoint.id())
    }
}
