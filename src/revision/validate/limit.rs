//! Plans and limits.

use std::collections::HashSet;

use super::super::grammar::ZoneName;
use super::super::raw::{RawLimit, RawMode, RawPlan, RawScope, RawWindow};
use super::super::{Limit, Mode, Plan, Scope, Sharing, WindowKind};

use super::{Checker, who};
use crate::document::{At, Place, Text, quote};
use crate::names::LimitName;
use crate::units::{Period, Rate};

/// The largest count of a sliding window, whose estimate multiplies counts in 32 bits' worth of precision.
const LARGEST_SLIDING: u32 = 16_777_215;

impl Checker<'_> {
    pub(super) fn plan(&mut self, raw: &At<RawPlan>) -> Option<Plan> {
        let RawPlan { name, limits } = &raw.value;
        let who = who("plan", name.as_ref());
        let name = self.need(raw.place, &who, "name", name.as_ref());
        if limits.is_none() && !self.dropped.contains(raw.place, "limits") {
            let message = format!("{who} has no \"limits\"; write limits: [] if it is meant to be unlimited");
            self.report.error(raw.place, message);
        }
        let limits = self.limits(limits.as_deref().unwrap_or_default(), &who, Scope::Subscription);
        Some(Plan {
            name: name?.as_str().into(),
            limits,
        })
    }

    pub(super) fn limits(&mut self, raws: &[At<RawLimit>], who: &str, default_scope: Scope) -> Vec<Limit> {
        let mut limits = Vec::with_capacity(raws.len());
        let mut seen = HashSet::with_capacity(raws.len());
        for raw in raws {
            let Some(limit) = self.limit(raw, who, default_scope) else {
                continue;
            };
            if !seen.insert(limit.name.clone()) {
                let message = format!("{who} has two limits {}", quote(limit.name.as_str()));
                self.report.error(raw.place, message);
            }
            limits.push(limit);
        }
        limits
    }

    fn limit(&mut self, raw: &At<RawLimit>, who: &str, default_scope: Scope) -> Option<Limit> {
        let RawLimit {
            name,
            rate,
            burst,
            window,
            per,
            mode,
            max_overrun,
            on_store_down,
            on_timeout,
            time_zone,
        } = &raw.value;
        let whose = format!("a limit of {who}");
        let name = self.need(raw.place, &whose, "name", name.as_ref());
        let rate = self.need(raw.place, &whose, "rate", rate.as_ref());
        let window = self.window(*rate?.get(), rate?.place, window.as_ref(), burst.as_ref());
        let zone = time_zone
            .as_ref()
            .and_then(|zone| self.zone(zone, *rate?.get(), window));
        Some(Limit {
            name: LimitName::from(name?.as_str()),
            rate: *rate?.get(),
            window,
            scope: per.as_ref().map_or(default_scope, |per| scope(per.value)),
            mode: match mode.unwrap_or(RawMode::Enforce) {
                RawMode::Enforce => Mode::Enforce,
                RawMode::Shadow => Mode::Shadow,
            },
            sharing: Sharing {
                max_overrun: max_overrun.as_ref().map(|share| *share.get()),
                on_store_down: *on_store_down,
                on_timeout: *on_timeout,
            },
            zone,
        })
    }

    /// A zone where it makes a difference. Elsewhere it is refused, because its author expects one.
    fn zone(&mut self, zone: &At<Text<ZoneName>>, rate: Rate, window: WindowKind) -> Option<String> {
        let message = match (window, rate.period) {
            (WindowKind::TokenBucket { .. }, _) => {
                "\"time_zone\" says when a window begins, and a token bucket has no windows; add window: fixed or \
                 window: sliding, or remove it"
            }
            (_, Period::Second | Period::Minute | Period::Hour) => {
                "\"time_zone\" says when days, weeks and months begin; shorter windows are the same everywhere, so \
                 remove it"
            }
            (_, Period::Day | Period::Week | Period::Month) => return zone.get().0.clone(),
        };
        self.report.error(zone.place, message);
        None
    }

    fn window(
        &mut self,
        rate: Rate,
        rate_place: Place,
        window: Option<&At<RawWindow>>,
        burst: Option<&At<u32>>,
    ) -> WindowKind {
        let kind = match (window.map(|window| window.value), rate.period) {
            (Some(kind), _) => kind,
            (None, Period::Second) => RawWindow::TokenBucket,
            (None, _) => RawWindow::Fixed,
        };
        if let Some(burst) = burst {
            if kind != RawWindow::TokenBucket {
                let message = "\"burst\" belongs to token buckets; add window: token_bucket or remove it \
                               (only rates per second are token buckets of themselves)";
                self.report.error(burst.place, message);
            } else if burst.value == 0 {
                self.report
                    .error(burst.place, "a burst of 0 lets nothing through; it is at least 1");
            }
        }
        match kind {
            RawWindow::Fixed => WindowKind::Fixed,
            RawWindow::Sliding => {
                if rate.count > LARGEST_SLIDING {
                    let message = format!("a sliding window counts to at most {LARGEST_SLIDING}; {rate} is more");
                    self.report.error(rate_place, message);
                }
                WindowKind::Sliding
            }
            RawWindow::TokenBucket => WindowKind::TokenBucket {
                burst: burst.map_or(rate.count, |burst| burst.value),
            },
        }
    }
}

fn scope(raw: RawScope) -> Scope {
    match raw {
        RawScope::Global => Scope::Global,
        RawScope::Api => Scope::Api,
        RawScope::Route => Scope::Route,
        RawScope::Application => Scope::Application,
        RawScope::Subscription => Scope::Subscription,
        RawScope::Key => Scope::Key,
        RawScope::Subject => Scope::Subject,
        RawScope::Ip => Scope::Ip,
    }
}
