//! A limit, compiled: everything about it that does not depend on the request.

use std::sync::Arc;

use http::HeaderValue;
use prometheus::{IntCounter, IntCounterVec};

use super::counter::Quota;
use super::headers;
use super::identity::{Identity, name_of};
use super::terms::{Defaults, Terms};
use super::zone::Zone;
use crate::names::{ApiName, LimitName, PlanName};
use crate::revision::{Limit, Mode, Scope, WindowKind};
use crate::units::{Period, Rate};

/// Where a limit stands in the revision. Limits of the same name in two plans are two limits.
#[derive(Debug, Clone, Copy)]
pub enum Place<'a> {
    /// In a plan: counts for the subscriptions to it.
    Plan(&'a PlanName),
    /// In an API: counts for every request that is let in. A limit `per: route` stands here too; the route is its
    /// subject.
    Api(&'a ApiName),
}

/// A limit ready for requests.
#[derive(Debug, Clone)]
pub struct Rule {
    identity: Identity,
    name: LimitName,
    key: String,
    rate: Rate,
    terms: Arc<Terms>,
    scope: Scope,
    mode: Mode,
    field_prefix: Box<[u8]>,
    decisions: Decisions,
}

impl Rule {
    /// Compiles a limit.
    ///
    /// Its identity is made of the place, the name, the scope, the kind of window, the period and the zone, and *not*
    /// of the count or the burst: a counter survives a change of those, and does not survive a change of what it means.
    #[must_use]
    pub fn compile(limit: &Limit, place: Place<'_>, decisions: Decisions, sharing: &Defaults) -> Self {
        let (kind_of_place, place) = match place {
            Place::Plan(plan) => ("plan", plan.as_str()),
            Place::Api(api) => ("api", api.as_str()),
        };
        // Revisions with a zone that does not exist are refused before.
        let zone = limit.zone.as_deref().and_then(Zone::named).unwrap_or(Zone::UTC);
        let quota = Quota::in_zone(limit.rate, limit.window, zone);
        let mut parts = vec![
            kind_of_place,
            place,
            limit.name.as_str(),
            limit.scope.as_str(),
            window_word(limit.window),
            period_word(limit.rate.period),
        ];
        // UTC is not named: so limits without a zone are what they were before there were zones.
        let zone = quota.shape().calendar().zone();
        if zone != Zone::UTC {
            parts.push(zone.name());
        }
        let parts: Vec<&[u8]> = parts.into_iter().map(str::as_bytes).collect();
        Self {
            identity: Identity::of_parts(&parts),
            terms: Arc::new(Terms::new(
                name_of(&[&[sharing.environment.as_bytes()], &parts[..]].concat()),
                quota,
                limit.sharing,
                sharing,
            )),
            name: limit.name.clone(),
            key: format!("{kind_of_place}/{place}/{}/{}", limit.name, limit.scope.as_str()),
            rate: limit.rate,
            scope: limit.scope,
            mode: limit.mode,
            field_prefix: headers::limit_prefix(&limit.name),
            decisions,
        }
    }

    /// The name that clients are shown.
    #[must_use]
    pub fn name(&self) -> &LimitName {
        &self.name
    }

    /// The limit as people address it: `plan/gold/minute/subscription`.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The configured rate.
    #[must_use]
    pub fn rate(&self) -> Rate {
        self.rate
    }

    /// What its counters count up to.
    #[must_use]
    pub fn quota(&self) -> &Quota {
        &self.terms.quota
    }

    /// What governs its counters where they are shared.
    #[must_use]
    pub fn terms(&self) -> &Arc<Terms> {
        &self.terms
    }

    /// What shares one counter; tells the caller which subject to demand it for.
    #[must_use]
    pub fn scope(&self) -> Scope {
        self.scope
    }

    /// Whether it refuses requests.
    #[must_use]
    pub fn enforced(&self) -> bool {
        self.mode == Mode::Enforce
    }

    /// What all its counters have in common.
    #[must_use]
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// How its decisions are counted.
    #[must_use]
    pub fn decisions(&self) -> &Decisions {
        &self.decisions
    }

    /// The `RateLimit` field for this limit, with so much left and this many seconds until there is more.
    #[must_use]
    pub fn limit_field(&self, remaining: u32, reset: u64) -> HeaderValue {
        headers::limit_field(&self.field_prefix, remaining, reset)
    }
}

/// Three counters of one limit, resolved when the limit is compiled.
#[derive(Debug, Clone)]
pub struct Decisions {
    /// Requests that were admitted.
    pub allow: IntCounter,
    /// Requests that this limit refused. A request refused by two limits counts for both.
    pub deny: IntCounter,
    /// Requests that were admitted although this limit would have refused them, because it is in shadow mode.
    pub would_deny: IntCounter,
}

impl Decisions {
    /// The counters of a limit in a family with the labels `limit` and `decision`.
    ///
    /// # Errors
    /// When the family has other labels.
    pub fn resolve(family: &IntCounterVec, limit: &str) -> prometheus::Result<Self> {
        let of = |decision| family.get_metric_with_label_values(&[limit, decision]);
        Ok(Self {
            allow: of("allow")?,
            deny: of("deny")?,
            would_deny: of("would_deny")?,
        })
    }
}

fn window_word(window: WindowKind) -> &'static str {
    match window {
        WindowKind::Fixed => "fixed",
        WindowKind::Sliding => "sliding",
        WindowKind::TokenBucket { .. } => "token_bucket",
    }
}

pub(super) fn period_word(period: Period) -> &'static str {
    match period {
        Period::Second => "second",
        Period::Minute => "minute",
        Period::Hour => "hour",
        Period::Day => "day",
        Period::Week => "week",
        Period::Month => "month",
    }
}
