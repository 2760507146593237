//! tollgate
pub mod names;
pub mod revision;
pub mod units;
