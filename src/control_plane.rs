//! The control plane: where APIs, plans, applications and keys are authored, and where gateways get them from.
//!
//! Losing it stops changes, not traffic. The database is for authoring; what gateways fetch are small signed manifests
//! and immutable blobs.

pub mod access;
pub mod authoring;
pub mod compose;
pub mod diff;
pub mod heads;
pub mod openapi;
pub mod plane;
pub mod problem;
pub mod publish;
pub mod secrets;
pub mod store;
