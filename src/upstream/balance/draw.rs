//! Drawing by weight in constant time: Walker's alias method, with Vose's way to build the table.
//!
//! A table of running sums and a binary search was rejected: at a thousand endpoints it costs ten steps for each draw
//! instead of one.

/// Positions to be drawn in proportion to their weights.
pub(super) struct Draw(Box<[Slot]>);

#[derive(Clone, Copy)]
struct Slot {
    /// Below this the slot's own position is meant.
    keep: u32,
    /// From there on this one.
    other: u16,
}

impl Draw {
    /// Draws positions with these weights, of which a `u16` can count all.
    pub(super) fn compile(weights: &[f32]) -> Self {
        let total: f64 = weights.iter().map(|weight| f64::from(*weight)).sum();
        let mean = total / weights.len().max(1) as f64;
        let mut slots: Vec<Slot> = (0..weights.len())
            .map(|position| Slot {
                keep: u32::MAX,
                other: u16::try_from(position).unwrap_or(u16::MAX),
            })
            .collect();
        // How full each slot is, 1 being full: those that are not are filled up by those that overflow.
        let mut fill: Vec<f64> = weights.iter().map(|weight| f64::from(*weight) / mean).collect();
        let (mut poor, mut rich): (Vec<usize>, Vec<usize>) =
            (0..fill.len()).partition(|position| fill.get(*position).is_some_and(|fill| *fill < 1.0));
        while let (Some(low), Some(high)) = (poor.pop(), rich.last().copied()) {
            let Some(filled) = fill.get(low).copied() else { break };
            if let Some(slot) = slots.get_mut(low) {
                *slot = Slot {
                    keep: (filled * f64::from(u32::MAX)) as u32,
                    other: u16::try_from(high).unwrap_or(u16::MAX),
                };
            }
            if let Some(fill) = fill.get_mut(high) {
                *fill -= 1.0 - filled;
                if *fill < 1.0 {
                    rich.pop();
                    poor.push(high);
                }
            }
        }
        Self(slots.into())
    }

    /// The position that these bits draw.
    pub(super) fn at(&self, dice: u32) -> usize {
        let wide = u64::from(dice) * self.0.len() as u64;
        let position = (wide >> 32) as usize;
        match self.0.get(position) {
            Some(slot) if wide as u32 > slot.keep => usize::from(slot.other),
            _ => position,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(weights: &[f32]) -> Vec<f64> {
        let draw = Draw::compile(weights);
        let mut hits = vec![0.0; weights.len()];
        const DRAWS: u32 = 1 << 20;
        for number in 0..DRAWS {
            // Every corner of the dice once: what is found is the table's share and no accident.
            hits[draw.at(number << 12 | 0x800)] += 1.0 / f64::from(DRAWS);
        }
        hits
    }

    #[test]
    fn positions_are_drawn_in_proportion_to_their_weights() {
        for weights in [
            &[1.0, 2.0, 5.0][..],
            &[0.1, 1.0, 1.0, 0.7],
            &[1000.0, 1.0],
            &[3.0],
            &[0.0, 1.0, 1.0],
        ] {
            let total: f32 = weights.iter().sum();
            for (share, weight) in shares(weights).iter().zip(weights) {
                assert!((share - f64::from(weight / total)).abs() < 1e-4, "{weights:?}: {share}");
            }
        }
    }

    #[test]
    fn nothing_to_draw_from_is_no_panic() {
        assert_eq!(Draw::compile(&[]).at(u32::MAX), 0);
        assert!(Draw::compile(&[0.0, 0.0]).at(u32::MAX) < 2);
    }
}
