//! The own zone first: what crosses to another one takes longer and often costs money.
//!
//! While enough of the own zone's endpoints can be used, it gets everything. Below that it gets what it was built for, and
//! no more: the part that is missing goes to the others, so that its last endpoints do not drown. Endpoints that do not say
//! where they stand count as near.

use crate::units::Ratio;

/// Weights of the endpoints of a group.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Weights {
    /// Of the near ones, all of them.
    pub(super) near: f64,
    /// Of the near ones that can be used.
    pub(super) near_usable: f64,
    /// Of the far ones that can be used.
    pub(super) far_usable: f64,
}

/// What the weight of a far endpoint counts, if that of a near one counts 1.
pub(super) fn far_factor(weights: Weights, spill: Ratio) -> f32 {
    if weights.near_usable <= 0.0 {
        return 1.0;
    }
    let spill = f64::from(spill.parts_per_million()) / 1e6;
    let usable = weights.near_usable / weights.near;
    if usable >= spill || weights.far_usable <= 0.0 {
        return 0.0;
    }
    let stays = usable / spill;
    ((1.0 - stays) / stays * weights.near_usable / weights.far_usable) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The share that leaves the zone when so many of ten near endpoints can be used, beside five far ones.
    fn leaves(near_usable: f64, spill: u8) -> f64 {
        let weights = Weights {
            near: 10.0,
            near_usable,
            far_usable: 5.0,
        };
        let far = f64::from(far_factor(weights, Ratio::percent(spill))) * weights.far_usable;
        let share = far / (far + near_usable);
        (share * 1000.0).round() / 1000.0
    }

    #[test]
    fn nothing_leaves_while_enough_can_be_used_and_below_that_what_is_missing() {
        let shares = [10.0, 7.0, 6.0, 3.5, 0.7, 0.0].map(|usable| leaves(usable, 70));
        assert_eq!(shares, [0.0, 0.0, 0.143, 0.5, 0.9, 1.0]);
    }

    #[test]
    fn a_spill_of_nothing_leaves_only_when_nobody_is_left() {
        assert_eq!([10.0, 1.0, 0.0].map(|usable| leaves(usable, 0)), [0.0, 0.0, 1.0]);
    }
}
