//! What an API or a route says about requests and answers: who may come, what browsers are told, fields, paths, bodies,
//! and what the gateway answers itself.

mod addresses;
mod bodies;
mod cors;
mod fields;
mod local_answers;
mod paths;
mod told;

use crate::harness::*;

/// A gateway with one open API `a` on `/a` that has these lines beside, in front of a service that echoes.
fn with_api(origin: &Origin, lines: &str) -> Gateway {
    Gateway::with(Revision::of(origin).api(&format!(
        "{{ name: a, base_path: /a, auth: none, upstream: origin, {lines} }}"
    )))
    .start()
}
