//! Endpoints are asked how they are, and those that are not well get no requests.

mod asking;
mod failing;
mod regions;
mod revisions;

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};

use crate::harness::*;

/// A service that is asked on `/health`, and says what it is told to say.
struct Patient {
    origin: Origin,
    says: Arc<AtomicU16>,
    checks: Arc<AtomicUsize>,
    others: Arc<AtomicUsize>,
}

/// What a patient says nothing at all instead of.
const NOTHING: u16 = 0;

impl Patient {
    /// One that is well.
    fn new() -> Self {
        let says = Arc::new(AtomicU16::new(200));
        let (checks, others) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let origin = Origin::start({
            let (says, checks, others) = (Arc::clone(&says), Arc::clone(&checks), Arc::clone(&others));
            move |exchange: &mut Exchange| {
                exchange.read_body()?;
                if exchange.request.target != "/health" {
                    others.fetch_add(1, Ordering::SeqCst);
                    return exchange.respond(200, "", b"served");
                }
                checks.fetch_add(1, Ordering::SeqCst);
                match says.load(Ordering::SeqCst) {
                    NOTHING => exchange.wait_for_the_end(),
                    status => exchange.respond(status, "", b"how I am")?,
                }
                Ok(())
            }
        });
        Self {
            origin,
            says,
            checks,
            others,
        }
    }

    /// From now on.
    fn says(&self, status: u16) {
        self.says.store(status, Ordering::SeqCst);
    }

    /// How often it was asked how it is.
    fn checks(&self) -> usize {
        self.checks.load(Ordering::SeqCst)
    }

    /// How many requests it got that are no checks.
    fn others(&self) -> usize {
        self.others.load(Ordering::SeqCst)
    }

    fn endpoint(&self) -> String {
        format!("{{ address: \"{}\" }}", self.origin.address())
    }
}

/// An upstream that is checked as often as may be, in front of it an API on `/orders`.
fn checked(endpoints: &[String], check: &str) -> Revision {
    Revision::empty()
        .upstream(&format!(
            "{{ name: orders, endpoints: [{}], slow_start: 0s, panic_threshold: 0%, health_check: {check}, \
             breaker: {{ consecutive: 0, error_rate: 0% }} }}",
            endpoints.join(", ")
        ))
        .api("{ name: orders, base_path: /orders, auth: none, upstream: orders }")
}

/// Every second by HTTP.
const BY_HTTP: &str = "{ path: /health, interval: 1s, timeout: 300ms, healthy: 2, unhealthy: 2 }";

/// Whether the checks let an endpoint be used.
fn is_healthy(gateway: &Gateway, endpoint: impl ToString) -> bool {
    let endpoint = endpoint.to_string();
    gateway.metric(&format!(
        "tollgate_endpoint_healthy{{endpoint=\"{endpoint}\",upstream=\"orders\"}}"
    )) > 0.0
}

#[track_caller]
fn until_down(gateway: &Gateway, endpoint: impl ToString) {
    let endpoint = endpoint.to_string();
    until(&format!("{endpoint} is down"), || {
        let text = gateway.status().get("/metrics").send().expect(200).text();
        text.contains(&format!(
            "tollgate_endpoint_healthy{{endpoint=\"{endpoint}\",upstream=\"orders\"}} 0"
        ))
    });
}

#[track_caller]
fn until_up(gateway: &Gateway, endpoint: impl ToString) {
    let endpoint = endpoint.to_string();
    until(&format!("{endpoint} is up"), || is_healthy(gateway, &endpoint));
}

/// Sends so many requests, all of which have to be served.
#[track_caller]
fn all_served(gateway: &Gateway, requests: usize) {
    for _ in 0..requests {
        gateway.client().get("/orders").send().expect(200);
    }
}

/// Waits until this one gets none of so many requests as would hit it otherwise.
#[track_caller]
fn until_spared(gateway: &Gateway, patient: &Patient) {
    until("it gets no requests", || {
        let before = patient.others();
        all_served(gateway, 20);
        patient.others() == before
    });
}
