//! tollgate
pub mod auth;
pub mod framing;
pub mod names;
pub mod revision;
pub mod throttle;
pub mod units;
