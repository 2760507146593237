//! Limits that many gateways share through Redis: what all of them together let in, and what happens when Redis or the
//! way to it is not as it should be.
//!
//! Most limits here are per month: no test is there when one ends. What counts as let in is what reached the origin, so
//! that a gateway which is killed cannot hide anything. Upper bounds are exact, because the design promises them; lower
//! bounds are loose, because a busy machine may make gateways refuse what they could have let in.

mod accuracy;
mod buckets;
mod cluster;
mod connecting;
mod failures;
mod leaving;
mod store_down;
mod windows;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::harness::*;

/// What `throttle:` says in stories that are not about waiting. On a busy machine even a Redis next door may take longer
/// than the 20 ms that a request waits by default.
const PATIENT: &str = "max_wait: 500ms";
/// The same without overrun: not one more than the limit.
const STRICT: &str = "max_wait: 500ms, max_overrun: 0%";

/// How long nobody is let in before it is taken for the end. Tickets that a gateway does not use come back after 1 s,
/// and who was refused asks again after 2 s.
const QUIET: Duration = Duration::from_millis(2500);

/// A client's address, for limits `per: ip`, and others of which none has called yet.
const ALICE: &str = "198.51.100.1";
const OTHERS: &str = "203.0.113.";

/// The API `open` on `/open` for everybody, under these limits.
fn open_under(origin: &Origin, limits: &str) -> Revision {
    Revision::of(origin).api(&format!(
        "{{ name: open, base_path: /open, auth: none, upstream: origin, limits: [{limits}] }}"
    ))
}

/// The most that so many gateways may let in: the limit, and from each of them its part of the overrun, without
/// fractions.
fn bound(limit: usize, gateways: usize, overrun_percent: usize) -> usize {
    limit + gateways * (overrun_percent * limit / 100 / gateways)
}

/// Asserts that the number lies between this percentage of the limit and `most`.
#[track_caller]
fn assert_accurate(admitted: usize, limit: usize, least_percent: usize, most: usize) {
    assert!(
        least_percent * limit <= 100 * admitted && admitted <= most,
        "{admitted} let in; wanted {least_percent} % of {limit} to {most}"
    );
}

/// Waits until a load gets nobody in any more.
#[track_caller]
fn until_nobody_is_let_in(origin: &Origin) {
    let mut last = (origin.requests(), Instant::now());
    until("nobody is let in any more", || {
        let admitted = origin.requests();
        if admitted != last.0 {
            last = (admitted, Instant::now());
        }
        last.1.elapsed() >= QUIET
    });
}

/// The counters in Redis and the tickets that are issued of each. Whatever else gateways keep there has no hash tag.
#[track_caller]
fn tickets(redis: &RedisServer) -> BTreeMap<String, i64> {
    let counters = redis.keys().into_iter().filter(|key| key.contains('{'));
    counters
        .filter_map(|key| {
            let issued = redis.get(&key)?;
            let issued = issued
                .parse()
                .unwrap_or_else(|_| panic!("{key:?} is {issued:?}, which is no number of tickets"));
            Some((key, issued))
        })
        .collect()
}

/// How many tickets are issued of the only counter; 0 if there is none yet.
#[track_caller]
fn issued(redis: &RedisServer) -> i64 {
    let tickets = tickets(redis);
    assert!(tickets.len() < 2, "more than one counter: {tickets:?}");
    tickets.into_values().next().unwrap_or_default()
}

/// A number of requests as Redis counts them.
fn as_tickets(requests: usize) -> i64 {
    i64::try_from(requests).expect("a number of requests of a test")
}

/// Whether a gateway says that it reaches the store; of a cluster, every node. None if it says nothing about it.
#[track_caller]
fn store_is_up(gateway: &Gateway) -> Option<bool> {
    let text = gateway.status().get("/metrics").send().expect(200).text();
    let mut values = text
        .lines()
        .filter(|line| line.starts_with("tollgate_store_up"))
        .map(|line| line.ends_with(" 1"))
        .peekable();
    values.peek()?;
    Some(values.all(|up| up))
}

/// Waits until every gateway of the fleet says that it reaches the store, or that it does not. Somebody has to call
/// meanwhile: a gateway that nobody calls may well not notice.
#[track_caller]
fn until_store_is(up: bool, fleet: &Fleet) {
    let what = if up { "there" } else { "away" };
    for gateway in fleet.gateways() {
        until(&format!("the gateway notices that the store is {what}"), || {
            store_is_up(gateway) == Some(up)
        });
    }
}

/// Calls until every gateway of the fleet says that it does not reach the store.
#[track_caller]
fn call_until_store_is_missed(fleet: &Fleet, request: impl Fn(&Gateway) -> Request) {
    until("every gateway notices that the store is away", || {
        fleet.let_in(fleet.gateways().len(), &request);
        let mut gateways = fleet.gateways().iter();
        gateways.all(|gateway| store_is_up(gateway) == Some(false))
    });
}

/// Waits until the gateways deal with Redis again, as soon as somebody calls who has not called before.
#[track_caller]
fn until_it_trades(fleet: &Fleet, redis: &RedisServer) {
    for (number, gateway) in fleet.gateways().iter().enumerate() {
        let known = redis.keys().len();
        let mut asked = 0;
        until("the gateway deals with Redis", || {
            asked += 1;
            let address = format!("{OTHERS}{}", (10 * number + asked % 10) % 256);
            is_let_in(gateway.client().get("/open").header("X-Forwarded-For", &address));
            redis.keys().len() > known
        });
    }
}
