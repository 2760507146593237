//! What operators do with it, and what they see.

mod access_log;
mod admin;
mod asking;
mod demo;
mod leaving;
mod status;
mod verbs;
