//! A counter as an operator wants to see it. Changes nothing.

use std::fmt::Write;

use super::window::Time;
use super::{Demand, Throttle};
use crate::units::Rate;

/// How a limit stands for a subject.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    /// The counter: limit, subject, window; `plan/gold/minute/subscription/mobile@orders/2026-11-21T05:42Z`.
    pub key: String,
    /// The configured rate.
    pub rate: Rate,
    /// The most that can be spent at once: the rate's count, or the burst.
    pub limit: u32,
    /// What is left.
    pub remaining: u32,
    /// When there is more: the end of the window, or when the bucket is full.
    pub reset: Time,
    /// Whether the limit refuses, or only counts.
    pub enforced: bool,
}

impl Throttle {
    /// How a limit stands for a subject, without counting anything. A subject is a hash here, so its name for people
    /// (`mobile@orders`, `192.0.2.7`) comes from the caller; empty for [`Subject::none`](super::Subject::none).
    #[must_use]
    pub fn describe(&self, demand: &Demand<'_>, subject_name: &str, now: Time) -> Description {
        let rule = demand.rule;
        let shape = rule.quota().shape();
        let mut key = String::from(rule.key());
        if !subject_name.is_empty() {
            key.push('/');
            key.push_str(subject_name);
        }
        if shape.has_windows() {
            let calendar = shape.calendar();
            // Writing to a string does not fail.
            let _ = write!(key, "/{}", calendar.stamp(&calendar.window_of(now)));
        }
        // A cost of nothing shows how the counter stands; it is refused where a lowered limit is overspent.
        let (remaining, reset) = match self.peek(demand, 0, now) {
            Ok(state) => (state.remaining, state.reset),
            Err(refusal) => (refusal.remaining, refusal.retry_at),
        };
        Description {
            key,
            rate: rule.rate(),
            limit: rule.quota().whole(),
            remaining,
            reset,
            enforced: rule.enforced(),
        }
    }
}
