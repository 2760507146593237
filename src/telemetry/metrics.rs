//! Prometheus metrics: names and labels as in the contract. No label takes its value from a client.

mod transport;

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus::core::Collector;
use prometheus::{
    Encoder, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
    Opts, Registry, TextEncoder,
};

pub use self::transport::TransportMetrics;
use super::cache_metrics::CacheMetrics;
use super::cache_shared_metrics::CacheSharedMetrics;
use super::upstream_metrics::UpstreamMetrics;

/// The content type of [`Metrics::render`].
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4";

/// Upper bounds of duration buckets in seconds: the OpenTelemetry HTTP set, with three finer ones for cached work.
const DURATION_BUCKETS: [f64; 17] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
];

/// Upper bounds of phase buckets in seconds.
const PHASE_BUCKETS: [f64; 10] = [1e-7, 2.5e-7, 5e-7, 1e-6, 2.5e-6, 5e-6, 1e-5, 1e-4, 1e-3, 1e-2];

/// Upper bounds of the buckets of a round trip to Redis in seconds. 20 ms is the default from which on it is too slow.
const ROUND_TRIP_BUCKETS: [f64; 13] = [
    0.0001, 0.000_25, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0,
];

/// Upper bounds of the buckets of a revocation in seconds. Two seconds are the goal.
const REVOCATION_BUCKETS: [f64; 11] = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 30.0, 300.0];

/// Upper bounds of the buckets of overshoot, as parts of the limit. The default of what is allowed is 5 %.
const OVERSHOOT_BUCKETS: [f64; 9] = [0.0, 0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0];

/// Every metric of the process. One instance, shared by reference; all methods are cheap enough for the request path
/// unless they say otherwise.
pub struct Metrics {
    registry: Registry,
    requests: IntCounterVec,
    request_seconds: HistogramVec,
    upstream_seconds: HistogramVec,
    /// Decisions per limit: labels `limit`, `decision`.
    throttle_decisions: IntCounterVec,
    key_lookups: IntCounterVec,
    revision: IntGaugeVec,
    revision_refused: IntCounterVec,
    /// Age of the applied revision, in seconds, set when rendered.
    revision_age: Gauge,
    /// Time per stage, sampled.
    phase_seconds: HistogramVec,
    /// Connections that are open.
    pub connections_open: IntGauge,
    /// Connections that wait for a request.
    pub connections_idle: IntGauge,
    /// Connections refused because of a bound.
    pub connections_refused: IntCounter,
    /// Requests between admission and answer.
    pub requests_in_flight: IntGauge,
    /// Panics that were caught.
    pub panics: IntCounter,
    /// Log lines that did not fit into the buffer.
    pub access_log_dropped: IntCounter,
    /// Counters that were given up to make room.
    pub throttle_evictions: IntGauge,
    /// Counters held.
    pub throttle_counters: IntGauge,
    jwks_keys: IntGaugeVec,
    jwks_age_seconds: IntGaugeVec,
    jwks_failures: IntGaugeVec,
    store: StoreMetrics,
    cache_shared: CacheSharedMetrics,
    sharing: SharingMetrics,
    keys: KeyMetrics,
    control_plane: ControlPlaneMetrics,
    transport: TransportMetrics,
    upstreams: UpstreamMetrics,
    cache: CacheMetrics,
    revision_seq: IntGauge,
    applied_at_ms: AtomicU64,
}

/// What is shown of counters that gateways share.
#[derive(Clone)]
pub struct SharingMetrics {
    /// Commands sent to the store, label `command`.
    pub commands: IntCounterVec,
    /// For each debt that was charged: the part of it that lies beyond the limit, as a part of the limit.
    pub overshoot: Histogram,
    /// How long requests waited for the store.
    pub wait_seconds: Histogram,
    /// Requests that waited, label `result`: `served`, `refused` (by the limit), `expired`.
    pub waits: IntCounterVec,
    /// Counters that the store had forgotten, and that were raised again to what was known of them.
    pub healed: IntCounter,
    /// Orders that the store answered with an error.
    pub errors: IntCounter,
    /// Counters that the store is to be asked about, label `node`.
    pub backlog: IntGaugeVec,
    /// How many gateways share the counters at most; 0 while this process counts alone.
    pub instances: IntGauge,
    /// How far this host's clock is behind the store's, in seconds.
    pub clock_offset: Gauge,
}

/// What is shown of keys that come by the key log.
#[derive(Clone)]
pub struct KeyMetrics {
    keys: IntGaugeVec,
    seq: IntGauge,
    lag_seconds: Gauge,
    revocation_seconds: Histogram,
}

/// What is shown of the control plane.
#[derive(Clone)]
pub struct ControlPlaneMetrics {
    /// 1 while it answers, 0 while it does not; 0 without one.
    pub up: IntGauge,
    /// 1 while this gateway has a seat in its pool.
    pub seat: IntGauge,
    /// How many gateways of the pool are alive, as the control plane last said.
    pub pool_live: IntGauge,
    /// Bytes fetched, label `kind`: `manifest`, `delta`, `snapshot`.
    bytes: IntCounterVec,
}

/// What is shown of the servers that hold the shared counters.
#[derive(Clone)]
pub struct StoreMetrics {
    /// Health by server, label `node`: 1 up, 0.5 slow, 0 down.
    pub up: GaugeVec,
    /// From sending a pipeline to its whole reply.
    pub round_trip_seconds: Histogram,
    /// Failures, label `kind`: `connect`, `timeout`, `lost`, `refused` (the server does not take writes), and
    /// `unavailable` (nothing was sent, because the server is down).
    pub failures: IntCounterVec,
    /// Connections made anew.
    pub reconnects: IntCounter,
}

impl Metrics {
    /// Registers everything.
    ///
    /// # Errors
    /// When a name is registered twice, which a test excludes.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let connections = register(
            &registry,
            IntGaugeVec::new(
                Opts::new("tollgate_connections", "Client connections by state"),
                &["state"],
            )?,
        )?;
        let refused = register(
            &registry,
            IntCounter::new(
                "tollgate_connections_refused_total",
                "Connections refused because of a bound",
            )?,
        )?;
        let metrics = Self {
            requests: register(
                &registry,
                IntCounterVec::new(
                    Opts::new(
                        "tollgate_requests_total",
                        "Requests by route and answer; code is the refusal code",
                    ),
                    &["api", "route", "status", "code"],
                )?,
            )?,
            request_seconds: register(
                &registry,
                HistogramVec::new(
                    HistogramOpts::new(
                        "tollgate_request_duration_seconds",
                        "From the request head to the last byte",
                    )
                    .buckets(DURATION_BUCKETS.to_vec()),
                    &["api"],
                )?,
            )?,
            upstream_seconds: register(
                &registry,
                HistogramVec::new(
                    HistogramOpts::new(
                        "tollgate_upstream_duration_seconds",
                        "From connecting to the answer's head",
                    )
                    .buckets(DURATION_BUCKETS.to_vec()),
                    &["upstream"],
                )?,
            )?,
            throttle_decisions: register(
                &registry,
                IntCounterVec::new(
                    Opts::new("tollgate_throttle_decisions_total", "Decisions of each limit"),
                    &["limit", "decision"],
                )?,
            )?,
            key_lookups: register(
                &registry,
                IntCounterVec::new(
                    Opts::new("tollgate_key_lookups_total", "Credentials checked, by result"),
                    &["result"],
                )?,
            )?,
            revision: register(
                &registry,
                IntGaugeVec::new(
                    Opts::new("tollgate_revision", "1 for the applied revision"),
                    &["digest"],
                )?,
            )?,
            revision_refused: register(
                &registry,
                IntCounterVec::new(
                    Opts::new("tollgate_revision_refused_total", "Revisions that were not applied"),
                    &["reason"],
                )?,
            )?,
            revision_age: register(
                &registry,
                Gauge::new(
                    "tollgate_revision_age_seconds",
                    "Time since the applied revision was applied",
                )?,
            )?,
            phase_seconds: register(
                &registry,
                HistogramVec::new(
                    HistogramOpts::new("tollgate_phase_duration_seconds", "Time per stage, one request in 64")
                        .buckets(PHASE_BUCKETS.to_vec()),
                    &["phase"],
                )?,
            )?,
            connections_open: connections.with_label_values(&["open"]),
            connections_idle: connections.with_label_values(&["idle"]),
            connections_refused: refused,
            requests_in_flight: register(
                &registry,
                IntGauge::new("tollgate_requests_in_flight", "Requests between admission and answer")?,
            )?,
            panics: register(
                &registry,
                IntCounter::new("tollgate_panics_total", "Panics that were caught")?,
            )?,
            access_log_dropped: register(
                &registry,
                IntCounter::new(
                    "tollgate_access_log_dropped_total",
                    "Log lines dropped because the buffer was full",
                )?,
            )?,
            throttle_evictions: register(
                &registry,
                IntGauge::new(
                    "tollgate_throttle_evictions",
                    "Live counters given up because the table was full",
                )?,
            )?,
            throttle_counters: register(
                &registry,
                IntGauge::new("tollgate_throttle_counters", "Counters held by this process")?,
            )?,
            jwks_keys: register(
                &registry,
                IntGaugeVec::new(
                    Opts::new("tollgate_jwks_keys", "Keys of an issuer that are usable"),
                    &["source"],
                )?,
            )?,
            jwks_age_seconds: register(
                &registry,
                IntGaugeVec::new(
                    Opts::new(
                        "tollgate_jwks_age_seconds",
                        "Time since an issuer's keys were read; -1 if never",
                    ),
                    &["source"],
                )?,
            )?,
            jwks_failures: register(
                &registry,
                IntGaugeVec::new(
                    Opts::new(
                        "tollgate_jwks_failures",
                        "Attempts to read an issuer's keys that failed",
                    ),
                    &["source"],
                )?,
            )?,
            store: StoreMetrics::new(&registry)?,
            cache_shared: CacheSharedMetrics::new(&registry)?,
            sharing: SharingMetrics::new(&registry)?,
            keys: KeyMetrics::new(&registry)?,
            control_plane: ControlPlaneMetrics::new(&registry)?,
            transport: TransportMetrics::new(&registry)?,
            upstreams: UpstreamMetrics::new(&registry)?,
            cache: CacheMetrics::new(&registry)?,
            revision_seq: register(
                &registry,
                IntGauge::new(
                    "tollgate_revision_seq",
                    "Number of the control plane's revision that is applied; 0 for a file",
                )?,
            )?,
            applied_at_ms: AtomicU64::new(0),
            registry,
        };
        #[cfg(target_os = "linux")]
        metrics
            .registry
            .register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;
        Ok(metrics)
    }

    /// The counters of one route, to be kept in the snapshot.
    #[must_use]
    pub fn route(&self, api: &str, route: &str) -> RouteMetrics {
        RouteMetrics {
            api: api.to_owned(),
            route: route.to_owned(),
            requests: self.requests.clone(),
            common: Default::default(),
        }
    }

    /// The duration histogram of an API, to be kept in the snapshot.
    #[must_use]
    pub fn request_seconds(&self, api: &str) -> Histogram {
        self.request_seconds.with_label_values(&[api])
    }

    /// The duration histogram of an upstream, to be kept in the snapshot.
    #[must_use]
    pub fn upstream_seconds(&self, upstream: &str) -> Histogram {
        self.upstream_seconds.with_label_values(&[upstream])
    }

    /// What is shown of upstreams.
    #[must_use]
    pub fn upstreams(&self) -> &UpstreamMetrics {
        &self.upstreams
    }

    /// What is shown of kept answers.
    #[must_use]
    pub fn cache(&self) -> &CacheMetrics {
        &self.cache
    }

    /// The histogram of a stage.
    #[must_use]
    pub fn phase_seconds(&self, phase: &str) -> Histogram {
        self.phase_seconds.with_label_values(&[phase])
    }

    /// The counters of one decision of a limit each, in the order of `decisions`; to be kept in the snapshot.
    #[must_use]
    pub fn throttle_decisions<const N: usize>(&self, limit: &str, decisions: [&str; N]) -> [IntCounter; N] {
        decisions.map(|decision| self.throttle_decisions.with_label_values(&[limit, decision]))
    }

    /// The counter of one result of checking a credential.
    #[must_use]
    pub fn key_lookup(&self, result: &str) -> IntCounter {
        self.key_lookups.with_label_values(&[result])
    }

    /// Replaces what is shown about issuers' keys. Sources come from the revision, so their number is bounded by it.
    pub fn set_key_sets<'a>(&self, sets: impl Iterator<Item = (&'a str, usize, Option<Duration>, u64)>) {
        let gauge = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        self.jwks_keys.reset();
        self.jwks_age_seconds.reset();
        self.jwks_failures.reset();
        for (source, keys, age, failures) in sets {
            self.jwks_keys.with_label_values(&[source]).set(gauge(keys as u64));
            self.jwks_age_seconds
                .with_label_values(&[source])
                .set(age.map_or(-1, |age| gauge(age.as_secs())));
            self.jwks_failures.with_label_values(&[source]).set(gauge(failures));
        }
    }

    /// What is shown of Redis.
    #[must_use]
    pub fn store(&self) -> StoreMetrics {
        self.store.clone()
    }

    /// What is shown of the cache that gateways share.
    #[must_use]
    pub fn cache_shared(&self) -> CacheSharedMetrics {
        self.cache_shared.clone()
    }

    /// What is shown of shared counters.
    #[must_use]
    pub fn sharing(&self) -> SharingMetrics {
        self.sharing.clone()
    }

    /// What is shown of connections before HTTP begins on them.
    #[must_use]
    pub fn transport(&self) -> &TransportMetrics {
        &self.transport
    }

    /// What is shown of keys that come by the key log.
    #[must_use]
    pub fn keys(&self) -> KeyMetrics {
        self.keys.clone()
    }

    /// What is shown of the control plane.
    #[must_use]
    pub fn control_plane(&self) -> ControlPlaneMetrics {
        self.control_plane.clone()
    }

    /// The number of the applied revision.
    pub fn revision_seq(&self, seq: u64) {
        self.revision_seq.set(i64::try_from(seq).unwrap_or(i64::MAX));
    }

    /// Requests answered so far, those of them with 5xx, and how long they took. Reads every series: for now and then.
    #[must_use]
    pub fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        for family in self.requests.collect() {
            for metric in family.get_metric() {
                let value = metric.get_counter().get_value();
                totals.requests += value;
                let status = metric.get_label().iter().find(|label| label.name() == "status");
                if status.is_some_and(|status| status.value().starts_with('5')) {
                    totals.failed += value;
                }
            }
        }
        for family in self.request_seconds.collect() {
            for metric in family.get_metric() {
                let histogram = metric.get_histogram();
                totals.timed += histogram.get_sample_count();
                for (sum, bucket) in totals.within.iter_mut().zip(histogram.get_bucket()) {
                    *sum += bucket.cumulative_count();
                }
            }
        }
        totals
    }

    /// Notes that a revision was applied at `now_ms` (unix milliseconds).
    pub fn revision_applied(&self, digest: &str, now_ms: u64) {
        self.revision.reset();
        self.revision.with_label_values(&[digest]).set(1);
        self.applied_at_ms.store(now_ms, Ordering::Relaxed);
    }

    /// Counts a revision that was not applied.
    pub fn revision_refused(&self, reason: &str) {
        self.revision_refused.with_label_values(&[reason]).inc();
    }

    /// Everything that is counted, as it stands. Not for the request path.
    #[must_use]
    pub fn gather(&self) -> Vec<prometheus::proto::MetricFamily> {
        self.registry.gather()
    }

    /// The text that Prometheus scrapes. Not for the request path.
    ///
    /// # Errors
    /// When the encoder fails.
    pub fn render(&self, now_ms: u64) -> Result<Vec<u8>, prometheus::Error> {
        let applied = self.applied_at_ms.load(Ordering::Relaxed);
        if applied > 0 {
            #[allow(clippy::cast_precision_loss, reason = "an age in milliseconds is far below 2^52")]
            self.revision_age.set(now_ms.saturating_sub(applied) as f64 / 1000.0);
        }
        let mut text = Vec::with_capacity(16 * 1024);
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }

    /// Counts an answer to a request that matched no route.
    pub fn unrouted(&self, status: u16, code: &'static str) {
        let mut digits = itoa::Buffer::new();
        self.requests
            .with_label_values(&["", "", digits.format(status), code])
            .inc();
    }
}

/// What a gateway has done since it was started.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Totals {
    requests: f64,
    failed: f64,
    timed: u64,
    /// How many took at most as long as each bucket's bound.
    within: [u64; DURATION_BUCKETS.len()],
}

/// What a gateway does.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Load {
    /// Requests per second.
    pub requests_per_second: f64,
    /// The share of them that ended with 5xx, 0.0 to 1.0.
    pub errors: f64,
    /// The upper bound of the bucket that holds their 99th percentile, in milliseconds; 0 without requests. The last
    /// bucket has no bound: its lower one.
    pub p99_ms: f64,
}

impl Totals {
    /// What was done between an earlier reading and this one.
    #[must_use]
    pub fn since(&self, before: &Self, elapsed: Duration) -> Load {
        let requests = (self.requests - before.requests).max(0.0);
        let failed = (self.failed - before.failed).max(0.0);
        let timed = self.timed.saturating_sub(before.timed);
        let wanted = timed - timed / 100;
        let bucket = (self.within.iter().zip(before.within))
            .position(|(now, before)| now.saturating_sub(before) >= wanted)
            .unwrap_or(DURATION_BUCKETS.len() - 1);
        let bound = DURATION_BUCKETS.get(bucket).copied().unwrap_or_default();
        Load {
            requests_per_second: requests / elapsed.as_secs_f64().max(0.001),
            errors: if requests > 0.0 { failed / requests } else { 0.0 },
            p99_ms: if timed > 0 { bound * 1000.0 } else { 0.0 },
        }
    }
}

impl ControlPlaneMetrics {
    fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        Ok(Self {
            up: register(
                registry,
                IntGauge::new(
                    "tollgate_control_plane_up",
                    "1 while the control plane answers; 0 without one",
                )?,
            )?,
            seat: register(
                registry,
                IntGauge::new("tollgate_pool_seat", "1 while this gateway has a seat in its pool")?,
            )?,
            pool_live: register(
                registry,
                IntGauge::new(
                    "tollgate_pool_live",
                    "Gateways of the pool that are alive, as the control plane last said",
                )?,
            )?,
            bytes: register(
                registry,
                IntCounterVec::new(
                    Opts::new(
                        "tollgate_control_plane_bytes_total",
                        "Bytes of revisions that were fetched",
                    ),
                    &["kind"],
                )?,
            )?,
        })
    }

    /// Counts what was fetched.
    pub fn fetched(&self, kind: &str, bytes: usize) {
        self.bytes.with_label_values(&[kind]).inc_by(bytes as u64);
    }
}

impl SharingMetrics {
    /// Registers everything.
    ///
    /// # Errors
    /// When a name is registered twice.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        Ok(Self {
            commands: register(
                registry,
                IntCounterVec::new(
                    Opts::new(
                        "tollgate_throttle_store_commands_total",
                        "Commands sent to the store of shared counters",
                    ),
                    &["command"],
                )?,
            )?,
            overshoot: register(
                registry,
                Histogram::with_opts(
                    HistogramOpts::new(
                        "tollgate_throttle_overshoot",
                        "Part of each charged debt that lies beyond the limit, as a part of the limit",
                    )
                    .buckets(OVERSHOOT_BUCKETS.to_vec()),
                )?,
            )?,
            wait_seconds: register(
                registry,
                Histogram::with_opts(
                    HistogramOpts::new(
                        "tollgate_throttle_wait_seconds",
                        "How long requests waited for a shared counter",
                    )
                    .buckets(ROUND_TRIP_BUCKETS.to_vec()),
                )?,
            )?,
            waits: register(
                registry,
                IntCounterVec::new(
                    Opts::new(
                        "tollgate_throttle_waits_total",
                        "Requests that waited for a shared counter",
                    ),
                    &["result"],
                )?,
            )?,
            healed: register(
                registry,
                IntCounter::new(
                    "tollgate_throttle_healed_total",
                    "Counters that the store had forgotten and that were raised again",
                )?,
            )?,
            errors: register(
                registry,
                IntCounter::new(
                    "tollgate_throttle_store_errors_total",
                    "Orders that the store answered with an error",
                )?,
            )?,
            backlog: register(
                registry,
                IntGaugeVec::new(
                    Opts::new(
                        "tollgate_throttle_backlog",
                        "Counters that a server of the store is to be asked about",
                    ),
                    &["node"],
                )?,
            )?,
            instances: register(
                registry,
                IntGauge::new(
                    "tollgate_throttle_instances",
                    "How many gateways share the counters at most; 0 while this process counts alone",
                )?,
            )?,
            clock_offset: register(
                registry,
                Gauge::new(
                    "tollgate_throttle_clock_offset_seconds",
                    "How far this host's clock is behind that of the store",
                )?,
            )?,
        })
    }
}

impl KeyMetrics {
    /// Registers everything.
    ///
    /// # Errors
    /// When a name is registered twice.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        Ok(Self {
            keys: register(
                registry,
                IntGaugeVec::new(
                    Opts::new("tollgate_keys", "Keys of the key log that are known here"),
                    &["mode"],
                )?,
            )?,
            seq: register(
                registry,
                IntGauge::new(
                    "tollgate_key_log_seq",
                    "The last record of the key log that was applied",
                )?,
            )?,
            lag_seconds: register(
                registry,
                Gauge::new(
                    "tollgate_key_log_lag_seconds",
                    "Time since the control plane last answered about the key log",
                )?,
            )?,
            revocation_seconds: register(
                registry,
                Histogram::with_opts(
                    HistogramOpts::new(
                        "tollgate_key_revocation_seconds",
                        "From the record of a revocation to its effect here, by both hosts' clocks",
                    )
                    .buckets(REVOCATION_BUCKETS.to_vec()),
                )?,
            )?,
        })
    }

    /// Shows how keys are kept, how many, how far the log was read, and how long ago.
    pub fn show(&self, mode: &str, keys: u64, seq: u64, age: Duration) {
        let gauge = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        self.keys.reset();
        self.keys.with_label_values(&[mode]).set(gauge(keys));
        self.seq.set(gauge(seq));
        self.lag_seconds.set(age.as_secs_f64());
    }

    /// Counts a revocation that took effect so many milliseconds after it was written.
    pub fn revoked(&self, after_ms: u64) {
        self.revocation_seconds
            .observe(Duration::from_millis(after_ms).as_secs_f64());
    }
}

impl StoreMetrics {
    fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        Ok(Self {
            up: register(
                registry,
                GaugeVec::new(
                    Opts::new(
                        "tollgate_store_up",
                        "Servers of the shared counters: 1 up, 0.5 slow, 0 down",
                    ),
                    &["node"],
                )?,
            )?,
            round_trip_seconds: register(
                registry,
                Histogram::with_opts(
                    HistogramOpts::new(
                        "tollgate_store_round_trip_seconds",
                        "From sending a pipeline to its whole reply",
                    )
                    .buckets(ROUND_TRIP_BUCKETS.to_vec()),
                )?,
            )?,
            failures: register(
                registry,
                IntCounterVec::new(
                    Opts::new(
                        "tollgate_store_failures_total",
                        "Failures of the servers of the shared counters",
                    ),
                    &["kind"],
                )?,
            )?,
            reconnects: register(
                registry,
                IntCounter::new("tollgate_store_reconnects_total", "Connections made anew")?,
            )?,
        })
    }
}

/// Statuses whose counter is found by position; others take the slower way through the label map.
const COMMON: [u16; 20] = [
    200, 201, 202, 204, 206, 301, 302, 304, 400, 401, 403, 404, 405, 409, 413, 422, 429, 500, 502, 503,
];

/// The request counters of one route.
///
/// Series come into being with the first request that has their labels, so that 100,000 idle routes cost a scrape
/// nothing.
pub struct RouteMetrics {
    api: String,
    route: String,
    requests: IntCounterVec,
    common: [OnceLock<IntCounter>; COMMON.len()],
}

impl RouteMetrics {
    /// Counts one answer; `code` is the refusal's code or empty.
    pub fn count(&self, status: u16, code: &'static str) {
        // A refusal's code is not part of the position, so only answers of upstreams take the short way.
        if code.is_empty()
            && let Some(position) = COMMON.iter().position(|known| *known == status)
            && let Some(counter) = self.common.get(position)
        {
            counter.get_or_init(|| self.counter(status, code)).inc();
            return;
        }
        self.counter(status, code).inc();
    }

    fn counter(&self, status: u16, code: &'static str) -> IntCounter {
        let mut digits = itoa::Buffer::new();
        self.requests
            .with_label_values(&[self.api.as_str(), self.route.as_str(), digits.format(status), code])
    }
}

/// Seconds as Prometheus wants them.
#[must_use]
pub fn seconds(duration: Duration) -> f64 {
    duration.as_secs_f64()
}

pub(super) fn register<C: Collector + Clone + 'static>(registry: &Registry, metric: C) -> Result<C, prometheus::Error> {
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_appear_with_their_first_request_and_count_each_answer_once() {
        let metrics = Metrics::new().unwrap();
        let route = metrics.route("orders", "/orders/{id}");
        let before = String::from_utf8(metrics.render(0).unwrap()).unwrap();
        assert!(!before.contains("tollgate_requests_total{"));

        route.count(200, "");
        route.count(200, "");
        route.count(418, "");
        route.count(429, "rate_limited");
        let text = String::from_utf8(metrics.render(0).unwrap()).unwrap();
        assert!(text.contains(r#"tollgate_requests_total{api="orders",code="",route="/orders/{id}",status="200"} 2"#));
        assert!(text.contains(r#"code="",route="/orders/{id}",status="418"} 1"#));
        assert!(text.contains(r#"code="rate_limited",route="/orders/{id}",status="429"} 1"#));
    }

    #[test]
    fn load_is_what_was_done_between_two_readings() {
        let metrics = Metrics::new().unwrap();
        let route = metrics.route("orders", "/orders/{id}");
        let seconds = metrics.request_seconds("orders");
        let nothing = metrics.totals();
        assert_eq!(nothing.since(&nothing, Duration::from_secs(1)), Load::default());
        for request in 0..200 {
            route.count(if request < 50 { 502 } else { 200 }, "");
            seconds.observe(if request < 3 { 3.0 } else { 0.004 });
        }
        let busy = metrics.totals();
        let load = busy.since(&nothing, Duration::from_secs(10));
        assert_eq!((load.requests_per_second, load.errors), (20.0, 0.25));
        assert_eq!(
            load.p99_ms, 5000.0,
            "three of two hundred are more than one in a hundred"
        );
        seconds.observe(60.0);
        let load = metrics.totals().since(&busy, Duration::from_secs(10));
        assert_eq!(load.p99_ms, 10_000.0, "beyond the last bucket");
        assert_eq!(load.errors, 0.0);
    }

    #[test]
    fn only_the_newest_revision_is_shown_with_its_age() {
        let metrics = Metrics::new().unwrap();
        metrics.revision_applied("aaa", 1_000);
        metrics.revision_applied("bbb", 5_000);
        let text = String::from_utf8(metrics.render(7_500).unwrap()).unwrap();
        assert!(!text.contains("aaa"));
        assert!(text.contains(r#"tollgate_revision{digest="bbb"} 1"#));
        assert!(text.contains("tollgate_revision_age_seconds 2.5"));
    }
}
