//! The control plane: where APIs, plans, applications and keys are authored, and where gateways get them from.
//!
//! Losing it stops changes, not traffic. The database is for authoring; what gateways fetch are small signed manifests
//! and immutable blobs.

pub mod access;
pub mod heads;
pub mod key_manager;
pub mod plane;
pub mod pools;
pub mod problem;
pub mod store;
