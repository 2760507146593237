//! What every client connection is held to and tells of, whichever version of HTTP it speaks.

use std::net::IpAddr;
use std::sync::Arc;

use prometheus::IntGauge;

use crate::clock::unix_ms;
use crate::config::{Limits, Timeouts};
use crate::gateway::refusal::Refusal;
use crate::telemetry::{AccessLog, Metrics, Record};

/// Bounds, and where to report to.
pub struct Bounds {
    /// What is refused beyond a size or number.
    pub limits: Limits,
    /// How long clients may take.
    pub timeouts: Timeouts,
    /// Where connections are counted.
    pub metrics: Arc<Metrics>,
    access_log: AccessLog,
}

/// A connection that waits for a request; counted until dropped.
pub struct Idle(IntGauge);

impl Bounds {
    /// These limits and timeouts.
    #[must_use]
    pub fn new(limits: Limits, timeouts: Timeouts, metrics: Arc<Metrics>, access_log: AccessLog) -> Self {
        Self {
            limits,
            timeouts,
            metrics,
            access_log,
        }
    }

    /// Counts a connection among those that wait for a request.
    #[must_use]
    pub fn idle(&self) -> Idle {
        self.metrics.connections_idle.inc();
        Idle(self.metrics.connections_idle.clone())
    }

    /// Counts and logs a message that the engine never sees.
    pub fn refused(&self, client: Option<IpAddr>, refusal: &Refusal, request_id: &str) {
        self.metrics.unrouted(refusal.status(), refusal.code());
        let record = Record {
            time_ms: unix_ms(),
            client,
            status: refusal.status(),
            code: refusal.code(),
            reason: refusal.reason(),
            request_id,
            ..Record::default()
        };
        if self.access_log.wants(record.status, record.code, 0) {
            self.access_log.push(&record);
        }
    }
}

impl Drop for Idle {
    fn drop(&mut self) {
        self.0.dec();
    }
}
