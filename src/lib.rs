//! tollgate
pub mod config;
pub mod document;
pub mod names;
pub mod revision;

// Words.
pub mod names;
pub mod units;
