//! Upstreams that are found by name: DNS says where they are, is followed when it says something else, and is not missed
//! when it says nothing.

mod following;
mod outages;
mod services;

use crate::harness::*;

/// An upstream with one endpoint that is a name, and an API in front of it on `/named`.
fn named(name: &str, endpoint: &str) -> Revision {
    Revision::empty()
        .upstream(&format!(
            "{{ name: {name}, endpoints: [{endpoint}], breaker: {{ consecutive: 0, error_rate: 0% }} }}"
        ))
        .api(&format!(
            "{{ name: {name}, base_path: /named, auth: none, upstream: {name} }}"
        ))
}

/// The same by host name and port.
fn at_host(host: &str, port: u16) -> Revision {
    named("orders", &format!("{{ address: \"{host}:{port}\" }}"))
}

/// Services on one port and several addresses of this machine.
fn on_one_port<const N: usize>() -> [Origin; N] {
    let first = Planned::new();
    let port = first.address().port();
    let mut planned = vec![first];
    planned.extend((2..=N).map(|last| Planned::at(([127, 0, 0, u8::try_from(last).unwrap()], port).into())));
    let started: Vec<Origin> = planned.into_iter().map(|planned| planned.start(echo())).collect();
    started.try_into().unwrap_or_else(|_| panic!("{N} services"))
}

/// Waits until this service gets a request; others may get some too.
#[track_caller]
fn until_asked(gateway: &Gateway, origin: &Origin) {
    let before = origin.requests();
    until("the service gets a request", || {
        gateway.client().get("/named").send();
        origin.requests() > before
    });
}

/// Waits until this service is spared by so many requests in a row as would hit it otherwise.
#[track_caller]
fn until_spared(gateway: &Gateway, origin: &Origin) {
    until("the service gets no requests", || {
        let before = origin.requests();
        for _ in 0..10 {
            gateway.client().get("/named").send().expect(200);
        }
        origin.requests() == before
    });
}
