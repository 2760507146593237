//! tollgate
pub mod framing;
pub mod names;
pub mod revision;
pub mod route;
pub mod units;
