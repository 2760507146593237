//! The control plane: where APIs, plans, applications and keys are authored, and where gateways get them from.
//!
//! Losing it stops changes, not traffic. The database is for authoring; what gateways fetch are small signed manifests
//! and immutable blobs.

pub mod access;
pub mod admission;
pub mod background;
pub mod config;
pub mod delivery;
pub mod heads;
pub mod key_base;
pub mod listen;
pub mod manifests;
pub mod metrics;
pub mod plane;
pub mod problem;
pub mod server;
pub mod store;
#[cfg(test)]
mod testing;
