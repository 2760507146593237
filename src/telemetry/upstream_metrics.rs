//! What is shown of upstreams and their endpoints. Labels are names and addresses of the revision (or of DNS), never of a
//! client.

use prometheus::{IntCounter, IntCounterVec, IntGaugeVec, Opts, Registry};

/// Series of upstreams.
#[derive(Clone)]
pub struct UpstreamMetrics {
    breaker_state: IntGaugeVec,
    endpoint_healthy: IntGaugeVec,
    connections: IntGaugeVec,
    breaker_opened: IntCounterVec,
    tries: IntCounterVec,
    picks: IntCounterVec,
    queue_refused: IntCounterVec,
    health_checks: IntCounterVec,
    dns_lookups: IntCounterVec,
}

/// What an endpoint looks like now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EndpointGauges {
    /// 0 closed, 1 open, 2 half-open.
    pub breaker: i64,
    /// Whether active checks let it be used.
    pub healthy: bool,
}

/// What connections of an upstream look like now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ConnectionGauges {
    /// Requests that are at its endpoints.
    pub active: i64,
    /// Connections that are open and not in use.
    pub idle: i64,
    /// Connections that are being made.
    pub creating: i64,
    /// Requests that wait for a connection.
    pub waiting: i64,
}

/// Counters of one upstream, to be kept in the snapshot.
#[derive(Clone)]
pub struct UpstreamCounters {
    /// Tries that were repeated.
    pub retried: IntCounter,
    /// Tries that would have been repeated if the budget had not been used up.
    pub budget_spent: IntCounter,
    /// Tries that failed.
    pub failed: IntCounter,
    /// Tries that were answered.
    pub answered: IntCounter,
    /// Breakers that opened.
    pub opened: IntCounter,
    /// Requests for which there was no room.
    pub queue_refused: IntCounter,
}

/// Counters of active checks of one upstream.
#[derive(Debug, Clone)]
pub struct CheckCounters {
    /// Endpoints that answered as they should.
    pub good: IntCounter,
    /// Those that did not.
    pub failed: IntCounter,
}

/// Counters of names that were looked up.
#[derive(Debug, Clone)]
pub struct LookupCounters {
    /// The name is somewhere.
    pub found: IntCounter,
    /// There is no such name, or nothing behind it.
    pub gone: IntCounter,
    /// Nobody knows.
    pub failed: IntCounter,
}

impl UpstreamMetrics {
    pub(super) fn new(registry: &Registry) -> prometheus::Result<Self> {
        let gauges = |name: &str, help: &str, labels: &[&str]| {
            let gauges = IntGaugeVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(gauges.clone()))?;
            prometheus::Result::Ok(gauges)
        };
        let counters = |name: &str, help: &str, labels: &[&str]| {
            let counters = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(counters.clone()))?;
            prometheus::Result::Ok(counters)
        };
        Ok(Self {
            breaker_state: gauges(
                "tollgate_breaker_state",
                "Breaker of an endpoint: 0 closed, 1 open, 2 half-open",
                &["upstream", "endpoint"],
            )?,
            endpoint_healthy: gauges(
                "tollgate_endpoint_healthy",
                "1 while active checks let an endpoint be used",
                &["upstream", "endpoint"],
            )?,
            connections: gauges(
                "tollgate_pool_connections",
                "Connections to endpoints: active, idle, creating; and requests waiting for one",
                &["upstream", "state"],
            )?,
            breaker_opened: counters("tollgate_breaker_opened_total", "Breakers that opened", &["upstream"])?,
            tries: counters(
                "tollgate_upstream_tries_total",
                "Tries: answered, failed, retried, budget_spent (would have been retried)",
                &["upstream", "result"],
            )?,
            picks: counters(
                "tollgate_balance_picks_total",
                "Choices of an endpoint by what decided them",
                &["upstream", "by"],
            )?,
            queue_refused: counters(
                "tollgate_pool_refused_total",
                "Requests for which an endpoint had no connection in time",
                &["upstream"],
            )?,
            health_checks: counters(
                "tollgate_health_checks_total",
                "Active checks of endpoints: good, failed",
                &["upstream", "result"],
            )?,
            dns_lookups: counters(
                "tollgate_dns_lookups_total",
                "Names of endpoints that were looked up: found, gone (there is no such name), failed (nobody knows)",
                &["result"],
            )?,
        })
    }

    /// The counters of an upstream.
    #[must_use]
    pub fn counters(&self, upstream: &str) -> UpstreamCounters {
        let tries = |result: &str| self.tries.with_label_values(&[upstream, result]);
        UpstreamCounters {
            retried: tries("retried"),
            budget_spent: tries("budget_spent"),
            failed: tries("failed"),
            answered: tries("answered"),
            opened: self.breaker_opened.with_label_values(&[upstream]),
            queue_refused: self.queue_refused.with_label_values(&[upstream]),
        }
    }

    /// Counts choices of an endpoint that were made by this.
    #[must_use]
    pub fn picks(&self, upstream: &str, by: &str) -> IntCounter {
        self.picks.with_label_values(&[upstream, by])
    }

    /// The counters of an upstream's checks.
    #[must_use]
    pub fn checks(&self, upstream: &str) -> CheckCounters {
        let checks = |result: &str| self.health_checks.with_label_values(&[upstream, result]);
        CheckCounters {
            good: checks("good"),
            failed: checks("failed"),
        }
    }

    /// The counters of names that are looked up.
    #[must_use]
    pub fn lookups(&self) -> LookupCounters {
        let lookups = |result: &str| self.dns_lookups.with_label_values(&[result]);
        LookupCounters {
            found: lookups("found"),
            gone: lookups("gone"),
            failed: lookups("failed"),
        }
    }

    /// Shows an endpoint.
    pub fn show_endpoint(&self, upstream: &str, endpoint: &str, gauges: EndpointGauges) {
        let labels = [upstream, endpoint];
        self.breaker_state.with_label_values(&labels).set(gauges.breaker);
        self.endpoint_healthy
            .with_label_values(&labels)
            .set(i64::from(gauges.healthy));
    }

    /// Shows an endpoint no more.
    pub fn hide_endpoint(&self, upstream: &str, endpoint: &str) {
        // What was never shown need not be hidden.
        let _ = self.breaker_state.remove_label_values(&[upstream, endpoint]);
        let _ = self.endpoint_healthy.remove_label_values(&[upstream, endpoint]);
    }

    /// Shows the connections of an upstream.
    pub fn show_connections(&self, upstream: &str, gauges: ConnectionGauges) {
        let show = |state: &str, value: i64| self.connections.with_label_values(&[upstream, state]).set(value);
        show("active", gauges.active);
        show("idle", gauges.idle);
        show("creating", gauges.creating);
        show("waiting", gauges.waiting);
    }

    /// Shows the connections of an upstream no more.
    pub fn hide_connections(&self, upstream: &str) {
        for state in ["active", "idle", "creating", "waiting"] {
            let _ = self.connections.remove_label_values(&[upstream, state]);
        }
    }
}
