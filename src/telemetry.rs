//! Stage 6: what happened, for operators: metrics and the access log.
//!
//! A request hands over facts and numbers; text is made elsewhere. Counters of a route are resolved when its
//! snapshot is compiled, and a log record crosses to its writer through a bounded queue that never blocks.

pub mod access_log;
pub mod metrics;

pub use access_log::{AccessLog, Record};
pub use metrics::Metrics;
