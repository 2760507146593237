//! `GET /debug/performance`: what this process does with its time and memory, in one answer. Rates and shares are those since
//! the question before, and absent in the first answer; everything else is since the start of the process.
//!
//! All of it is read from what is counted anyway, when it is asked for: requests do nothing for it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use prometheus::proto::{Histogram, MetricFamily};
use serde::Serialize;
use tokio::runtime::Handle;

use crate::auth::{KeyStore, TokenCache};
use crate::sync::Revisions;
use crate::telemetry::Metrics;
use crate::telemetry::access_log::AccessLog;
use crate::throttle::Throttle;
use crate::upstream::Registry;

/// What is looked at.
pub struct Performance {
    /// When the process began to serve.
    pub started: Instant,
    /// Where everything is counted.
    pub metrics: Arc<Metrics>,
    /// The applied revision.
    pub revisions: Arc<Revisions>,
    /// Counters.
    pub throttle: Arc<Throttle>,
    /// Upstreams.
    pub registry: Arc<Registry>,
    /// Verified tokens.
    pub tokens: Arc<TokenCache>,
    /// Keys of the key log, with a control plane.
    pub keys: Option<Arc<KeyStore>>,
    /// Log lines.
    pub access_log: AccessLog,
    /// Threads by what they do.
    pub runtimes: Vec<(&'static str, Handle)>,
    /// What was answered before.
    pub before: Mutex<Option<Before>>,
}

/// What the next answer is compared with.
#[derive(Debug, Clone)]
pub struct Before {
    at: Instant,
    requests: f64,
    cpu_seconds: f64,
    latency: Buckets,
}

/// The answer.
#[derive(Debug, Serialize)]
pub(super) struct Facts {
    uptime_seconds: f64,
    /// How long ago the question before was asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    since_last_seconds: Option<f64>,
    process: Process,
    connections: Connections,
    requests: Requests,
    /// Seconds, from the request's head to the last byte of its answer.
    latency_seconds: Latency,
    /// The same, of requests since the question before.
    #[serde(skip_serializing_if = "Option::is_none")]
    latency_seconds_since_last: Option<Latency>,
    /// Seconds that stages take, of the requests in which they were measured (one in 64).
    phases: BTreeMap<String, Latency>,
    runtimes: BTreeMap<&'static str, Runtime>,
    tables: Tables,
}

#[derive(Debug, Serialize)]
struct Process {
    cpu_seconds: f64,
    /// Cores in use since the question before.
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu_cores: Option<f64>,
    resident_bytes: f64,
    open_descriptors: f64,
    descriptor_limit: f64,
    threads: BTreeMap<String, Threads>,
}

/// Threads of one name.
#[derive(Debug, Default, Serialize)]
struct Threads {
    threads: usize,
    cpu_seconds: f64,
}

#[derive(Debug, Serialize)]
struct Connections {
    open: f64,
    /// Those that wait for a request.
    idle: f64,
    refused: f64,
}

#[derive(Debug, Serialize)]
struct Requests {
    in_flight: f64,
    total: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    per_second: Option<f64>,
}

/// Quantiles are as exact as the buckets of the histogram are narrow; beyond the last one they are its bound.
#[derive(Debug, PartialEq, Serialize)]
struct Latency {
    count: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    mean: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    p50: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    p90: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    p99: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    p99_9: Option<f64>,
}

#[derive(Debug, Serialize)]
struct Runtime {
    workers: usize,
    tasks: usize,
    /// Tasks that are ready, and wait for a thread that takes them.
    queue: usize,
}

#[derive(Debug, Serialize)]
struct Tables {
    counters: usize,
    counters_given_up: u64,
    routes: usize,
    /// Of the revision.
    keys: usize,
    /// Of the key log.
    #[serde(skip_serializing_if = "Option::is_none")]
    key_store: Option<KeyTable>,
    verified_tokens: usize,
    upstreams: usize,
    pool_connections: f64,
    access_log_waiting_bytes: usize,
    access_log_dropped: f64,
}

#[derive(Debug, Serialize)]
struct KeyTable {
    mode: &'static str,
    keys: u64,
    bytes: usize,
}

/// A histogram of several metrics together: counts up to each bound.
#[derive(Debug, Clone, Default)]
struct Buckets {
    bounds: Vec<f64>,
    within: Vec<u64>,
    count: u64,
    sum: f64,
}

impl Performance {
    /// Looks, and remembers what it has seen for the next answer. Reads files of `/proc`.
    pub(super) fn look(&self) -> Facts {
        let families = self.metrics.gather();
        let sum = |name: &str| total(&families, name);
        let labelled = |name: &str, value: &str| {
            (metrics(&families, name).filter(|metric| metric.get_label().iter().any(|label| label.value() == value)))
                .map(|metric| metric.get_gauge().get_value())
                .sum()
        };
        let mut latency = Buckets::default();
        for metric in metrics(&families, "tollgate_request_duration_seconds") {
            latency.add(metric.get_histogram());
        }
        let mut phases: BTreeMap<String, Buckets> = BTreeMap::new();
        for metric in metrics(&families, "tollgate_phase_duration_seconds") {
            let name = metric.get_label().first().map_or("", |label| label.value());
            phases.entry(name.to_owned()).or_default().add(metric.get_histogram());
        }
        let threads = threads();
        // Finer than the metric, which is in whole seconds.
        let cpu_seconds =
            (threads.values().map(|threads| threads.cpu_seconds).sum::<f64>()).max(sum("process_cpu_seconds_total"));
        let now = Before {
            at: Instant::now(),
            requests: sum("tollgate_requests_total"),
            cpu_seconds,
            latency,
        };
        let before = self.before.lock().replace(now.clone());
        let elapsed = before
            .as_ref()
            .map(|before| now.at.duration_since(before.at).as_secs_f64());
        let rate = |of: &dyn Fn(&Before) -> f64| {
            let (before, elapsed) = (before.as_ref()?, elapsed.filter(|elapsed| *elapsed > 0.0)?);
            Some((of(&now) - of(before)).max(0.0) / elapsed)
        };
        let snapshot = self.revisions.current();
        Facts {
            uptime_seconds: self.started.elapsed().as_secs_f64(),
            since_last_seconds: elapsed,
            process: Process {
                cpu_seconds,
                cpu_cores: rate(&|at| at.cpu_seconds),
                resident_bytes: sum("process_resident_memory_bytes"),
                open_descriptors: sum("process_open_fds"),
                descriptor_limit: sum("process_max_fds"),
                threads,
            },
            connections: Connections {
                open: labelled("tollgate_connections", "open"),
                idle: labelled("tollgate_connections", "idle"),
                refused: sum("tollgate_connections_refused_total"),
            },
            requests: Requests {
                in_flight: sum("tollgate_requests_in_flight"),
                total: now.requests,
                per_second: rate(&|at| at.requests),
            },
            latency_seconds: now.latency.told(),
            latency_seconds_since_last: before.as_ref().map(|before| now.latency.since(&before.latency).told()),
            phases: (phases.into_iter())
                .map(|(name, buckets)| (name, buckets.told()))
                .collect(),
            runtimes: (self.runtimes.iter())
                .map(|(name, handle)| (*name, Runtime::of(handle)))
                .collect(),
            tables: Tables {
                counters: self.throttle.entries(),
                counters_given_up: self.throttle.evictions(),
                routes: snapshot.as_ref().map_or(0, |snapshot| snapshot.route_count()),
                keys: snapshot.as_ref().map_or(0, |snapshot| snapshot.key_count()),
                key_store: self.keys.as_ref().map(|keys| {
                    let size = keys.size();
                    KeyTable {
                        mode: size.mode,
                        keys: size.keys,
                        bytes: size.bytes,
                    }
                }),
                verified_tokens: self.tokens.len(),
                upstreams: self.registry.newest().len(),
                pool_connections: sum("tollgate_pool_connections"),
                access_log_waiting_bytes: self.access_log.waiting_bytes(),
                access_log_dropped: sum("tollgate_access_log_dropped_total"),
            },
        }
    }
}

impl Runtime {
    fn of(handle: &Handle) -> Self {
        let metrics = handle.metrics();
        Self {
            workers: metrics.num_workers(),
            tasks: metrics.num_alive_tasks(),
            queue: metrics.global_queue_depth(),
        }
    }
}

impl Buckets {
    fn add(&mut self, histogram: &Histogram) {
        let buckets = histogram.get_bucket();
        if self.bounds.is_empty() {
            self.bounds = buckets.iter().map(|bucket| bucket.upper_bound()).collect();
            self.within = vec![0; buckets.len()];
        }
        for (sum, bucket) in self.within.iter_mut().zip(buckets) {
            *sum += bucket.cumulative_count();
        }
        self.count += histogram.get_sample_count();
        self.sum += histogram.get_sample_sum();
    }

    /// What came after `before`.
    fn since(&self, before: &Self) -> Self {
        let mut since = self.clone();
        for (now, then) in since.within.iter_mut().zip(&before.within) {
            *now = now.saturating_sub(*then);
        }
        since.count = since.count.saturating_sub(before.count);
        since.sum -= before.sum;
        since
    }

    fn told(&self) -> Latency {
        Latency {
            count: self.count,
            #[allow(clippy::cast_precision_loss, reason = "a mean of that many is exact enough")]
            mean: (self.count > 0).then(|| self.sum / self.count as f64),
            p50: self.quantile(0.5),
            p90: self.quantile(0.9),
            p99: self.quantile(0.99),
            p99_9: self.quantile(0.999),
        }
    }

    /// As Prometheus does it: straight between the bounds of the bucket in which it lies.
    #[allow(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
    fn quantile(&self, share: f64) -> Option<f64> {
        if self.count == 0 {
            return None;
        }
        let rank = share * self.count as f64;
        let (mut below, mut lower) = (0.0, 0.0);
        for (bound, within) in self.bounds.iter().zip(&self.within) {
            let within = *within as f64;
            if within >= rank && within > below {
                return Some(lower + (bound - lower) * ((rank - below) / (within - below)));
            }
            (below, lower) = (within, *bound);
        }
        self.bounds.last().copied()
    }
}

fn metrics<'a>(families: &'a [MetricFamily], name: &'a str) -> impl Iterator<Item = &'a prometheus::proto::Metric> {
    (families.iter().filter(move |family| family.name() == name)).flat_map(MetricFamily::get_metric)
}

/// The sum of a counter or gauge over its labels: of the two, a metric has one, and the other is 0.
fn total(families: &[MetricFamily], name: &str) -> f64 {
    metrics(families, name)
        .map(|metric| metric.get_counter().get_value() + metric.get_gauge().get_value())
        .sum()
}

/// CPU time of threads by their names, without the number that runtimes give them. Where the kernel does not tell, empty.
fn threads() -> BTreeMap<String, Threads> {
    let mut threads: BTreeMap<String, Threads> = BTreeMap::new();
    for task in std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten() {
        // A thread may end at any time.
        let Ok(name) = std::fs::read_to_string(task.path().join("comm")) else {
            continue;
        };
        let Ok(times) = std::fs::read_to_string(task.path().join("schedstat")) else {
            continue;
        };
        let nanoseconds = times
            .split_whitespace()
            .next()
            .and_then(|text| text.parse::<f64>().ok());
        let entry = threads.entry(name.trim().to_owned()).or_default();
        entry.threads += 1;
        entry.cpu_seconds += nanoseconds.unwrap_or_default() / 1e9;
    }
    threads
}

#[cfg(test)]
mod tests {
    use super::*;

    fn buckets(within: [u64; 3], count: u64) -> Buckets {
        Buckets {
            bounds: vec![0.001, 0.01, 0.1],
            within: within.to_vec(),
            count,
            sum: 1.0,
        }
    }

    #[test]
    fn a_quantile_lies_straight_between_the_bounds_of_its_bucket() {
        let hundred = buckets([50, 90, 100], 100);
        assert!((hundred.quantile(0.5).unwrap() - 0.001).abs() < 1e-9);
        assert!((hundred.quantile(0.25).unwrap() - 0.0005).abs() < 1e-9);
        assert!((hundred.quantile(0.7).unwrap() - 0.0055).abs() < 1e-9);
        assert!((hundred.quantile(0.95).unwrap() - 0.055).abs() < 1e-9);
    }

    #[test]
    fn what_lies_beyond_the_last_bound_is_told_as_that_bound_and_nothing_has_no_quantile() {
        assert_eq!(buckets([0, 0, 1], 10).quantile(0.99), Some(0.1));
        assert_eq!(Buckets::default().told().p50, None);
        assert_eq!(Buckets::default().told().mean, None);
    }

    #[test]
    fn what_came_since_is_the_difference() {
        let since = buckets([5, 9, 10], 10).since(&buckets([5, 5, 5], 5));
        assert_eq!((since.within.as_slice(), since.count), ([0, 4, 5].as_slice(), 5));
        // None of those was as quick as the ones before.
        assert!(since.quantile(0.1).unwrap() > 0.001);
        assert_eq!(since.since(&since).told().p50, None);
    }

    #[test]
    fn threads_of_this_process_are_found() {
        let threads = threads();
        assert!(threads.values().map(|threads| threads.threads).sum::<usize>() >= 1);
    }
}
