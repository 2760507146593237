//! Smooth weighted round robin without a lock.
//!
//! The order of a whole turn is computed with nginx's algorithm, so that weights 5, 1, 1 give
//! `a a b a c a a` and not `a a a a a b c`; a pick is one atomic increment and one read. The engine's own selection was
//! rejected for this: it expands weights contiguously (bursts), and allocates a set for every pick.

/// Longest turn that is written out; beyond it weights are scaled down, which costs at most 1/4096 of exactness.
const TURN_MAX: u64 = 4096;

/// The order in which endpoints take their turns.
pub struct Schedule(Box<[u16]>);

impl Schedule {
    /// Writes out one turn for endpoints with these weights.
    #[must_use]
    pub fn compile(weights: &[u32]) -> Self {
        let divisor = weights.iter().copied().filter(|weight| *weight > 0).fold(0, gcd).max(1);
        let mut weights: Vec<u64> = weights.iter().map(|weight| u64::from(weight / divisor)).collect();
        let total: u64 = weights.iter().sum();
        if total > TURN_MAX {
            for weight in &mut weights {
                *weight = (*weight * TURN_MAX / total).max(1);
            }
        }
        let total: i64 = weights.iter().map(|weight| signed(*weight)).sum();
        let mut current = vec![0_i64; weights.len()];
        let turn = (0..total)
            .filter_map(|_| {
                for (value, weight) in current.iter_mut().zip(&weights) {
                    *value += signed(*weight);
                }
                // The first of equals, so that the order of the revision decides.
                let best = current.iter().enumerate().rev().max_by_key(|(_, value)| **value)?.0;
                if let Some(value) = current.get_mut(best) {
                    *value -= total;
                }
                u16::try_from(best).ok()
            })
            .collect();
        Self(turn)
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

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

fn signed(weight: u64) -> i64 {
    i64::try_from(weight).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heavy_endpoints_are_spread_and_not_served_in_a_row() {
        let schedule = Schedule::compile(&[5, 1, 1]);
        let order: Vec<usize> = (0..7).map(|turn| schedule.at(turn)).collect();
        assert_eq!(order, [0, 0, 1, 0, 2, 0, 0]);
    }

    #[test]
    fn weights_are_reduced_and_bounded_but_every_endpoint_keeps_a_turn() {
        assert_eq!(Schedule::compile(&[100, 100]).0.len(), 2);
        let large = Schedule::compile(&[1000, 999, 998, 997, 996, 1]);
        assert!(large.0.len() <= 4102);
        assert!(large.0.contains(&5));
    }

    #[test]
    fn no_endpoints_or_no_weights_do_not_panic() {
        assert_eq!(Schedule::compile(&[]).at(7), 0);
        assert_eq!(Schedule::compile(&[0, 0]).at(7), 0);
    }
}
