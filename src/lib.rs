//! tollgate
pub mod config;
pub mod document;
pub mod names;
pub mod revision;
pub mod route;
pub mod units;
