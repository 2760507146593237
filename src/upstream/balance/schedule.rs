//! Smooth weighted round robin without a lock.
//!
//! The order of a whole turn is computed with nginx's algorithm, so that weights 5, 1, 1 give
//! `a a b a c a a` and not `a a a a a b c`; a pick is one atomic increment and one read. The engine's own selection was
//! rejected for this: it expands weights contiguously (bursts), and allocates a set for every pick.

/// Longest turn that is written out; beyond it weights are scaled down, which costs at most 1/4096 of exactness. With more
/// endpoints than that, each has at least one turn.
const TURN_MAX: u64 = 4096;

/// Weights that are not whole numbers are taken in steps of this.
const STEPS: f32 = 1024.0;

/// So many steps nginx's algorithm may take: it looks at every endpoint for each place of the turn.
const SMOOTH_MAX: u64 = 1 << 20;

/// The order in which endpoints take their turns.
pub struct Schedule(Box<[u16]>);

impl Schedule {
    /// Writes out one turn for endpoints with these weights. Whole numbers are kept exactly.
    #[must_use]
    pub fn compile(weights: &[f32]) -> Self {
        let weights = whole(weights);
        let turn: u64 = weights.iter().sum();
        let count = u64::try_from(weights.len()).unwrap_or(u64::MAX);
        let smooth = turn == count || turn.saturating_mul(count) <= SMOOTH_MAX;
        Self(if smooth {
            smoothest(&weights)
        } else {
            by_deadline(&weights)
        })
    }

    /// The position of the endpoint whose turn this is.
    #[must_use]
    pub fn at(&self, turn: usize) -> usize {
        match self.0.len() {
            0 => 0,
            length => self.0.get(turn % length).copied().map_or(0, usize::from),
        }
    }
}

/// Weights as turns: whole, without a common divisor, together not more than a turn has.
fn whole(weights: &[f32]) -> Vec<u64> {
    let step = if weights.iter().all(|weight| weight.fract() == 0.0) {
        1.0
    } else {
        STEPS
    };
    let turns = |weight: &f32| {
        if *weight > 0.0 {
            ((*weight * step).round() as u64).max(1)
        } else {
            0
        }
    };
    let mut weights: Vec<u64> = weights.iter().map(turns).collect();
    let divisor = weights.iter().copied().filter(|weight| *weight > 0).fold(0, gcd).max(1);
    for weight in &mut weights {
        *weight /= divisor;
    }
    let total: u64 = weights.iter().sum();
    if total > TURN_MAX {
        for weight in weights.iter_mut().filter(|weight| **weight > 0) {
            *weight = (*weight * TURN_MAX / total).max(1);
        }
    }
    weights
}

/// nginx's order.
fn smoothest(weights: &[u64]) -> Box<[u16]> {
    let total: i64 = weights.iter().map(|weight| signed(*weight)).sum();
    if weights.iter().all(|weight| *weight == 1) {
        return (0..weights.len())
            .filter_map(|position| u16::try_from(position).ok())
            .collect();
    }
    let mut current = vec![0_i64; weights.len()];
    (0..total)
        .filter_map(|_| {
            for (value, weight) in current.iter_mut().zip(weights) {
                *value += signed(*weight);
            }
            // The first of equals, so that the order of the revision decides.
            let best = current.iter().enumerate().rev().max_by_key(|(_, value)| **value)?.0;
            if let Some(value) = current.get_mut(best) {
                *value -= total;
            }
            u16::try_from(best).ok()
        })
        .collect()
}

/// Every endpoint's places evenly over the turn, those of no two beginning together. Not quite as smooth where they meet, but
/// a thousand endpoints of different weights cost a millisecond and not several.
fn by_deadline(weights: &[u64]) -> Box<[u16]> {
    // Multiples of the golden ratio, without their whole part, spread evenly, however many there are.
    const GOLDEN: f64 = 0.618_033_988_749_894_9;
    let places = |(position, weight): (usize, &u64)| {
        let (begin, position) = ((position as f64 * GOLDEN).fract(), u16::try_from(position).ok());
        let weight = *weight;
        (0..weight).filter_map(move |place| Some(((place as f64 + begin) / weight as f64, position?)))
    };
    let mut order: Vec<(f64, u16)> = weights.iter().enumerate().flat_map(places).collect();
    order.sort_unstable_by(|(a, first), (b, second)| a.total_cmp(b).then(first.cmp(second)));
    order.into_iter().map(|(_, position)| position).collect()
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

fn signed(weight: u64) -> i64 {
    i64::try_from(weight).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hits(schedule: &Schedule, position: u16) -> usize {
        schedule.0.iter().filter(|other| **other == position).count()
    }

    #[test]
    fn heavy_endpoints_are_spread_and_not_served_in_a_row() {
        let schedule = Schedule::compile(&[5.0, 1.0, 1.0]);
        let order: Vec<usize> = (0..7).map(|turn| schedule.at(turn)).collect();
        assert_eq!(order, [0, 0, 1, 0, 2, 0, 0]);
    }

    #[test]
    fn whole_weights_are_exact_over_a_turn() {
        for weights in [
            &[7.0, 3.0, 1.0][..],
            &[1000.0, 333.0, 40.0, 1.0],
            &[2.0, 4.0, 6.0],
            &[1.0; 1000],
        ] {
            let schedule = Schedule::compile(weights);
            let turn: f32 = weights.iter().sum();
            let turns_in = turn as usize / schedule.0.len();
            for (position, weight) in (0..).zip(weights) {
                assert_eq!(hits(&schedule, position) * turns_in, *weight as usize, "{weights:?}");
            }
        }
    }

    #[test]
    fn weights_with_fractions_are_kept_to_a_thousandth() {
        let schedule = Schedule::compile(&[1.0, 1.0, 0.1]);
        let share = hits(&schedule, 2) as f64 / schedule.0.len() as f64;
        assert!((share - 0.1 / 2.1).abs() < 1e-3, "{share}");
    }

    #[test]
    fn weights_are_reduced_and_bounded_but_every_endpoint_keeps_a_turn() {
        assert_eq!(Schedule::compile(&[100.0, 100.0]).0.len(), 2);
        let large = Schedule::compile(&[1000.0, 999.0, 998.0, 997.0, 996.0, 1.0]);
        assert!(large.0.len() <= 4102);
        assert_eq!(hits(&large, 5), 1);
        let many: Vec<f32> = (0..10_000).map(|number| 1.0 + (number % 7) as f32).collect();
        let many = Schedule::compile(&many);
        assert!((10_000..=20_000).contains(&many.0.len()));
        assert!((0..10_000).all(|position| hits(&many, position) > 0));
    }

    #[test]
    fn many_endpoints_of_different_weights_are_spread_too() {
        let weights: Vec<f32> = (0..1000).map(|number| if number < 10 { 50.0 } else { 2.0 }).collect();
        let schedule = Schedule::compile(&weights);
        let places: Vec<usize> = (0..schedule.0.len()).filter(|turn| schedule.at(*turn) == 3).collect();
        let (least, most) = (places.windows(2).map(|pair| pair[1] - pair[0]))
            .fold((usize::MAX, 0), |(least, most), gap| (least.min(gap), most.max(gap)));
        let mean = schedule.0.len() / places.len();
        assert!(
            least * 2 > mean && most < 2 * mean,
            "{least} to {most}, {mean} on average"
        );
    }

    #[test]
    fn no_endpoints_or_no_weights_do_not_panic() {
        assert_eq!(Schedule::compile(&[]).at(7), 0);
        assert_eq!(Schedule::compile(&[0.0, 0.0]).at(7), 0);
    }
}
