//! Gateways that get what they do from a control plane.

mod access;
mod integrity;
mod keys;
mod nodes;
mod outages;
mod pools;
mod publishing;
mod walk_through;
