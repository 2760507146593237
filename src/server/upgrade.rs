//! Upgrades: a new process takes the place of the old one.

pub mod warm;
