//! The control plane: where APIs, plans, applications and keys are authored, and where gateways get them from.
//!
//! Losing it stops changes, not traffic. The database is for authoring; what gateways fetch are small signed manifests
//! and immutable blobs.

pub mod access;
pub mod admission;
pub mod authoring;
pub mod background;
pub mod compose;
pub mod config;
pub mod delivery;
pub mod diff;
pub mod heads;
pub mod key_base;
pub mod key_manager;
pub mod listen;
pub mod manifests;
pub mod metrics;
pub mod openapi;
pub mod plane;
pub mod pools;
pub mod problem;
pub mod publish;
pub mod request_body;
pub mod secrets;
pub mod server;
pub mod store;

#[cfg(test)]
mod testing;
