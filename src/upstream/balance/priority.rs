//! Groups of endpoints, one of which gets all traffic: a region, and the one to go to when it fails.
//!
//! A group carries the traffic while one of its endpoints can be used, and not fewer of them than `panic_threshold`: with
//! another group at hand there is no need to send requests to endpoints that are known to fail. The first group that
//! carries gets everything. Going back takes more than going away: a better group gets the traffic back when all of its
//! endpoints that can be used have proven themselves, because a region that comes up half and falls over again is worse
//! than one that stays away a little longer.

use crate::units::Ratio;

/// How a group stands.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Group {
    /// Its number: small is better.
    pub(super) priority: u8,
    /// Weight of all its endpoints.
    pub(super) weight: f64,
    /// Weight of those that can be used.
    pub(super) usable: f64,
    /// Whether all that can be used have passed enough checks in a row.
    pub(super) proven: bool,
}

impl Group {
    /// Whether it could get all traffic.
    pub(super) fn carries(&self, panic_threshold: Ratio) -> bool {
        self.usable > 0.0 && !self.panics(panic_threshold)
    }

    /// Whether too few of its endpoints can be used to believe it.
    pub(super) fn panics(&self, panic_threshold: Ratio) -> bool {
        self.usable / self.weight < f64::from(panic_threshold.parts_per_million()) / 1e6
    }
}

/// The group that gets the traffic, of those given in order; `current` is the one that has it. None if there is none.
pub(super) fn active(groups: &[Group], current: Option<u8>, panic_threshold: Ratio) -> Option<Group> {
    let carrying = || groups.iter().filter(|group| group.carries(panic_threshold));
    let holds = |group: &&Group| current == Some(group.priority);
    match carrying().find(holds) {
        Some(held) => carrying().find(|group| holds(group) || (group.priority < held.priority && group.proven)),
        // Nothing to be held on to: what is best now.
        None => carrying().next(),
    }
    .or_else(|| groups.iter().find(|group| group.usable > 0.0))
    .or_else(|| groups.first())
    .copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUARTER: Ratio = Ratio::percent(25);

    fn group(priority: u8, usable: f64, proven: bool) -> Group {
        Group {
            priority,
            weight: 8.0,
            usable,
            proven,
        }
    }

    fn chosen(groups: &[Group], current: Option<u8>) -> Option<u8> {
        active(groups, current, QUARTER).map(|group| group.priority)
    }

    #[test]
    fn the_first_group_that_carries_gets_everything() {
        assert_eq!(chosen(&[], None), None);
        assert_eq!(chosen(&[group(3, 8.0, false), group(5, 8.0, true)], None), Some(3));
        assert_eq!(chosen(&[group(0, 0.0, false), group(1, 8.0, true)], Some(0)), Some(1));
        let too_few = [group(0, 1.0, true), group(1, 8.0, true)];
        assert_eq!(chosen(&too_few, Some(0)), Some(1), "one of eight drowns");
    }

    #[test]
    fn the_traffic_goes_back_to_a_better_group_only_when_that_is_proven() {
        let back = |proven| [group(0, 8.0, proven), group(1, 8.0, true)];
        assert_eq!(chosen(&back(false), Some(1)), Some(1));
        assert_eq!(chosen(&back(true), Some(1)), Some(0));
        let held_fails = [group(0, 8.0, false), group(1, 0.0, true)];
        assert_eq!(chosen(&held_fails, Some(1)), Some(0), "there is nothing else");
    }

    #[test]
    fn when_none_carries_the_best_with_anything_has_it() {
        assert_eq!(chosen(&[group(0, 0.0, true), group(1, 1.0, true)], Some(0)), Some(1));
        assert_eq!(chosen(&[group(0, 0.0, true), group(1, 0.0, true)], Some(1)), Some(0));
    }
}
