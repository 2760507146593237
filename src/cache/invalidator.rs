//! Carries out orders to forget: on what is kept of answers, and on what is remembered of tokens. Whoever gives the order,
//! an administrator or the control plane, it comes here.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use serde::Serialize;

use super::marks::Invalidation;
use super::memory::Cache;
use super::order::{Item, Order};
use crate::auth::{Introspectors, TokenCache};
use crate::telemetry::CacheMetrics;

/// Orders that are remembered for operators.
const RECENT: usize = 32;

/// Names of an order that are remembered with it.
const NAMES: usize = 10;

/// Who gave an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// An administrator of this gateway.
    Admin,
    /// The control plane.
    ControlPlane,
}

/// An order that was carried out.
#[derive(Debug, Clone, Serialize)]
pub struct Done {
    /// Unix milliseconds.
    pub at_ms: u64,
    /// Who gave it.
    pub source: Source,
    /// How many things were named.
    pub things: usize,
    /// The first of them, each with what it is: `tag news`.
    pub names: Vec<String>,
}

/// What is remembered of who callers are. Cheap to clone.
#[derive(Clone)]
pub struct Callers {
    tokens: Arc<TokenCache>,
    introspectors: Introspectors,
}

impl Callers {
    /// What is remembered of tokens: of those that were verified here, and of those that were asked about.
    #[must_use]
    pub fn new(tokens: Arc<TokenCache>, introspectors: Introspectors) -> Self {
        Self { tokens, introspectors }
    }

    /// Forgets what is remembered of somebody.
    pub fn forget(&self, user: &str) {
        self.tokens.forget(user);
        self.introspectors.forget(user);
    }
}

/// Carries out orders.
pub struct Invalidator {
    cache: &'static Cache,
    callers: Callers,
    metrics: CacheMetrics,
    recent: Mutex<VecDeque<Done>>,
}

impl Invalidator {
    /// On this memory.
    #[must_use]
    pub fn new(cache: &'static Cache, callers: Callers, metrics: CacheMetrics) -> Self {
        Self {
            cache,
            callers,
            metrics,
            recent: Mutex::default(),
        }
    }

    /// Forgets what the order names, at once and here. `at_ms` is when it was given (unix milliseconds). Gives what was
    /// forgotten, to be told to others.
    ///
    /// # Errors
    /// When the order can not be read; says why. Then nothing is forgotten.
    pub fn carry_out(&self, order: &Order, source: Source, at_ms: u64) -> Result<Vec<Item>, String> {
        let items = order.items()?;
        for item in &items {
            self.cache.invalidate(&item.what, at_ms);
            self.metrics.invalidated(item.kind, source.as_str());
        }
        order.users.iter().for_each(|user| self.callers.forget(user));
        self.remember(Done {
            at_ms,
            source,
            things: items.len(),
            names: names(order),
        });
        Ok(items)
    }

    /// Forgets everything, because something was missed. `at_ms` is when at the latest, or 0 where that says nothing of what
    /// other gateways keep.
    pub fn forget_all(&self, source: Source, at_ms: u64) {
        self.cache.invalidate(&Invalidation::All, at_ms);
        self.metrics.invalidated("all", source.as_str());
    }

    /// What is kept.
    #[must_use]
    pub fn cache(&self) -> &'static Cache {
        self.cache
    }

    /// What is counted.
    #[must_use]
    pub fn metrics(&self) -> &CacheMetrics {
        &self.metrics
    }

    /// The last orders, the newest first.
    #[must_use]
    pub fn recent(&self) -> Vec<Done> {
        self.recent.lock().iter().cloned().collect()
    }

    fn remember(&self, done: Done) {
        let mut recent = self.recent.lock();
        recent.push_front(done);
        recent.truncate(RECENT);
    }
}

impl Source {
    /// The word for it: a label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::ControlPlane => "control_plane",
        }
    }
}

fn names(order: &Order) -> Vec<String> {
    let of = |kind: &'static str, names: &[String]| {
        let named = names.iter().take(NAMES).map(|name| format!("{kind} {name}"));
        named.collect::<Vec<_>>()
    };
    let mut all: Vec<String> = order.all.then(|| "all".to_owned()).into_iter().collect();
    all.extend(of("url", &order.urls));
    all.extend(of("prefix", &order.prefixes));
    all.extend(of("tag", &order.tags));
    all.extend(of("user", &order.users));
    all.extend(of("api", &order.apis));
    let routes = order.routes.iter().take(NAMES);
    all.extend(routes.map(|name| format!("route {} of api {}", name.route, name.api)));
    all.extend(of("mark", &order.marks));
    all.truncate(NAMES);
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::marks::MarkId;
    use crate::cache::memory::TierCounters;
    use crate::telemetry::Metrics;

    #[test]
    fn an_order_is_carried_out_as_a_whole_or_not_at_all_and_remembered() {
        let metrics = Metrics::new().unwrap();
        let cache: &'static Cache = Box::leak(Box::new(Cache::new(1 << 20, TierCounters::unregistered())));
        let invalidator = Invalidator::new(
            cache,
            Callers::new(Arc::default(), Introspectors::offline()),
            metrics.cache().clone(),
        );
        let before = cache.marks().sequence();
        let bad: Order = serde_json::from_str(r#"{"tags": ["news", "two words"]}"#).unwrap();
        assert!(invalidator.carry_out(&bad, Source::Admin, 1).is_err());
        assert_eq!(cache.marks().sequence(), before);

        let good: Order = serde_json::from_str(r#"{"tags": ["news"], "apis": ["orders"]}"#).unwrap();
        let items = invalidator.carry_out(&good, Source::Admin, 7).unwrap();
        assert_eq!(items.len(), 2);
        let valid = |mark| cache.marks().is_valid(&[mark], "h", "/", before);
        assert!(!valid(MarkId::tag("news")));
        assert!(!valid(MarkId::api("orders")));
        assert!(valid(MarkId::api("catalog")));
        let recent = invalidator.recent();
        assert_eq!((recent.len(), recent[0].at_ms, recent[0].things), (1, 7, 2));
        assert_eq!(recent[0].names, ["tag news", "api orders"]);
        for _ in 0..RECENT + 5 {
            invalidator.carry_out(&good, Source::ControlPlane, 8).unwrap();
        }
        assert_eq!(invalidator.recent().len(), RECENT);
    }
}
