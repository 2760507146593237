//! A request's way through the gateway and back.

mod failures;
mod forwarding;
mod routing;
mod streaming;
mod wire;
