//! tollgate: an API gateway for bare-metal hosts, on Pingora.
//!
//! A request travels through stages in one order, told by [`gateway::Gateway`]:
//!
//! ```text
//! listener → normalise → route → authenticate → throttle → cache → choose upstream → proxy → record
//! ```
//!
//! Modules in reading order: first what the program is, then the journey and its stages, then what they stand on.
//! Imports point one way:
//! `cli → {server, control_plane} → {gateway, sync} → snapshot → stages → distribution → {revision, config} → {units, names}`.
#![deny(missing_docs, unsafe_code)]

// The program.
pub mod cli;
pub mod control_plane;
pub mod server;

// The journey.
pub mod framing;
pub mod gateway;

// What a connection is before HTTP.
pub mod transport;

// Its stages, in order.
pub mod auth;
pub mod cache;
pub mod edit;
pub mod route;
pub mod telemetry;
pub mod throttle;
pub mod upstream;

// What the stages stand on.
pub mod redis;

// What both programs answer operators with.
pub mod side_http;

// Where the rules come from.
pub mod snapshot;
pub mod sync;

// What travels between control plane and gateways.
pub mod distribution;

// What is written down.
pub mod config;
pub mod document;
pub mod revision;

// What one process leaves to the next.
pub mod heritage;

// Words.
pub mod clock;
pub mod memory;
pub mod names;
pub mod san;
pub mod silence;
pub mod thread_number;
pub mod units;
pub mod watched_file;
