//! Stage 6: what happened, for operators: metrics and the access log.
//!
//! Counters of a route are resolved when its snapshot is compiled, and a log line crosses to its writer through a
//! bounded buffer that never waits.

pub mod access_log;
pub mod cache_metrics;
pub mod cache_shared_metrics;
pub mod metrics;
pub mod upstream_metrics;

pub use access_log::{AccessLog, Record};
pub use cache_metrics::CacheMetrics;
pub use cache_shared_metrics::CacheSharedMetrics;
pub use metrics::{Metrics, SharingMetrics, StoreMetrics};
pub use upstream_metrics::UpstreamMetrics;
