//! What is shown of the Redis in which gateways share the answers that they keep, and of invalidations that go through it.

use prometheus::{Gauge, GaugeVec, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry};

use super::StoreMetrics;

/// Upper bounds for round trips, in seconds.
const ROUND_TRIP_BUCKETS: [f64; 11] = [
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25,
];

/// Series of the shared cache.
#[derive(Clone)]
pub struct CacheSharedMetrics {
    /// Connections on which requests wait.
    pub(crate) lookup_store: StoreMetrics,
    /// Connections on which answers are written and invalidations told.
    pub(crate) fill_store: StoreMetrics,
    /// Answers that were looked for.
    pub(crate) lookups: Lookups,
    /// Answers that were to be written.
    pub(crate) fills: Fills,
    /// Fetches that gateways agreed upon.
    pub(crate) leases: Leases,
    /// Invalidations that went out from here.
    pub(crate) invalidations_sent: IntCounter,
    /// Invalidations that others told of.
    pub(crate) invalidations_received: IntCounter,
    /// Invalidations of which there were too many to tell one by one, so that everything was invalidated in their place.
    pub(crate) invalidations_merged: IntCounter,
    /// Times at which something may have been missed, so that everything was invalidated here.
    pub(crate) gaps: IntCounter,
    /// Seconds from the telling of the last invalidation that was received until it took effect here.
    pub(crate) lag_seconds: Gauge,
    /// 1 while all that was told until a moment ago has taken effect here.
    pub(crate) current: IntGauge,
}

/// Answers that were looked for, by what came of it.
#[derive(Clone)]
pub(crate) struct Lookups {
    /// It was there.
    pub hit: IntCounter,
    /// It was not, or was invalidated, or too old for any use.
    pub miss: IntCounter,
    /// It did not come within the budget.
    pub timeout: IntCounter,
    /// Nobody was asked, because Redis is away or slow.
    pub down: IntCounter,
    /// Something was there that could not be read.
    pub broken: IntCounter,
    /// Nobody was asked, because it is not known what was invalidated lately.
    pub not_current: IntCounter,
    /// Nobody was asked, because too many lookups are under way.
    pub busy: IntCounter,
}

/// Answers that were to be written, by what came of it.
#[derive(Clone)]
pub(crate) struct Fills {
    /// Redis has it.
    pub written: IntCounter,
    /// There was no room in the queue, or Redis is away.
    pub dropped: IntCounter,
    /// It is larger than a record may be.
    pub too_large: IntCounter,
    /// It would be of no use to anybody when it is there.
    pub too_short: IntCounter,
    /// Redis did not take it.
    pub failed: IntCounter,
    /// It is not known what was invalidated lately, or the clocks differ.
    pub not_current: IntCounter,
}

/// Fetches that gateways agreed upon, by what came of it.
#[derive(Clone)]
pub(crate) struct Leases {
    /// This gateway fetches.
    pub taken: IntCounter,
    /// Another one did, and its answer was used.
    pub shared: IntCounter,
    /// Another one did, and its answer was of no use, or did not come in time.
    pub vain: IntCounter,
    /// Redis did not say.
    pub failed: IntCounter,
}

impl CacheSharedMetrics {
    pub(super) fn new(registry: &Registry) -> prometheus::Result<Self> {
        let counter = |name: &str, help: &str| {
            let counter = IntCounter::new(name, help)?;
            registry.register(Box::new(counter.clone()))?;
            prometheus::Result::Ok(counter)
        };
        let counters = |name: &str, help: &str| {
            let counters = IntCounterVec::new(Opts::new(name, help), &["result"])?;
            registry.register(Box::new(counters.clone()))?;
            prometheus::Result::Ok(counters)
        };
        let lookups = counters(
            "tollgate_cache_shared_lookups_total",
            "Answers looked for in the shared cache",
        )?;
        let fills = counters(
            "tollgate_cache_shared_fills_total",
            "Answers to be written to the shared cache",
        )?;
        let leases = counters(
            "tollgate_cache_shared_leases_total",
            "Fetches that gateways agreed upon: taken (by this one), shared, vain, failed",
        )?;
        let lag_seconds = Gauge::new(
            "tollgate_cache_shared_invalidation_lag_seconds",
            "From the telling of the last invalidation received until it took effect here",
        )?;
        registry.register(Box::new(lag_seconds.clone()))?;
        let current = IntGauge::new(
            "tollgate_cache_shared_current",
            "1 while every invalidation that others told of has taken effect here",
        )?;
        registry.register(Box::new(current.clone()))?;
        Ok(Self {
            lookup_store: store(registry, "lookups")?,
            fill_store: store(registry, "fills")?,
            lookups: Lookups {
                hit: lookups.with_label_values(&["hit"]),
                miss: lookups.with_label_values(&["miss"]),
                timeout: lookups.with_label_values(&["timeout"]),
                down: lookups.with_label_values(&["down"]),
                broken: lookups.with_label_values(&["broken"]),
                not_current: lookups.with_label_values(&["not_current"]),
                busy: lookups.with_label_values(&["busy"]),
            },
            fills: Fills {
                written: fills.with_label_values(&["written"]),
                dropped: fills.with_label_values(&["dropped"]),
                too_large: fills.with_label_values(&["too_large"]),
                too_short: fills.with_label_values(&["too_short"]),
                failed: fills.with_label_values(&["failed"]),
                not_current: fills.with_label_values(&["not_current"]),
            },
            leases: Leases {
                taken: leases.with_label_values(&["taken"]),
                shared: leases.with_label_values(&["shared"]),
                vain: leases.with_label_values(&["vain"]),
                failed: leases.with_label_values(&["failed"]),
            },
            invalidations_sent: counter(
                "tollgate_cache_shared_invalidations_sent_total",
                "Invalidations told to other gateways through Redis",
            )?,
            invalidations_received: counter(
                "tollgate_cache_shared_invalidations_received_total",
                "Invalidations that other gateways told of through Redis",
            )?,
            invalidations_merged: counter(
                "tollgate_cache_shared_invalidations_merged_total",
                "Invalidations in whose place everything was invalidated, because there were too many",
            )?,
            gaps: counter(
                "tollgate_cache_shared_gaps_total",
                "Times at which invalidations may have been missed, so that everything was invalidated here",
            )?,
            lag_seconds,
            current,
        })
    }
}

/// The series of a connection, told from the others by what it is used for.
fn store(registry: &Registry, purpose: &str) -> prometheus::Result<StoreMetrics> {
    let options = |name: &str, help: &str| Opts::new(name, help).const_label("use", purpose);
    let up = GaugeVec::new(
        options(
            "tollgate_cache_shared_store_up",
            "Servers of the shared cache: 1 up, 0.5 slow, 0 down",
        ),
        &["node"],
    )?;
    let round_trip_seconds = Histogram::with_opts(
        HistogramOpts::new(
            "tollgate_cache_shared_round_trip_seconds",
            "From sending a pipeline to its whole reply",
        )
        .const_label("use", purpose)
        .buckets(ROUND_TRIP_BUCKETS.to_vec()),
    )?;
    let failures = IntCounterVec::new(
        options(
            "tollgate_cache_shared_store_failures_total",
            "Failures of the servers of the shared cache",
        ),
        &["kind"],
    )?;
    let reconnects = IntCounter::with_opts(options(
        "tollgate_cache_shared_reconnects_total",
        "Connections made anew",
    ))?;
    registry.register(Box::new(up.clone()))?;
    registry.register(Box::new(round_trip_seconds.clone()))?;
    registry.register(Box::new(failures.clone()))?;
    registry.register(Box::new(reconnects.clone()))?;
    Ok(StoreMetrics {
        up,
        round_trip_seconds,
        failures,
        reconnects,
    })
}
