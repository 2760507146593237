//! Algorithms under load, in virtual time: requests arrive at random (Poisson), every endpoint works on one at a time, and
//! how long that takes is random too (exponential). What is random is the same in every run.
//!
//! "Ideal" for `least_connections` is what knows everything: each request joins the shortest of all queues.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use super::tests::{ONE, One, Trial, enter};
use super::*;
use crate::upstream::endpoint::InFlight;

/// How requests are given to endpoints.
enum Way {
    /// As the upstream does.
    Picks(View),
    /// To the endpoint with the fewest.
    ShortestQueue,
}

#[derive(Default)]
struct Outcome {
    /// In milliseconds, sorted.
    times: Vec<f64>,
    hits: Vec<u32>,
    /// Requests in flight that each arrival found, on average.
    in_flight: Vec<f64>,
}

impl Outcome {
    fn mean(&self) -> f64 {
        self.times.iter().sum::<f64>() / self.times.len() as f64
    }

    fn p99(&self) -> f64 {
        self.times[self.times.len() * 99 / 100]
    }
}

/// Numbers that look random and are always the same.
struct Dice(u64);

impl Dice {
    fn exponential(&mut self, mean: f64) -> f64 {
        self.0 += 1;
        let uniform = ((hash::stir(self.0) >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
        -uniform.ln() * mean
    }
}

/// Requests whose arrivals are `every` milliseconds apart, at endpoints that take so many milliseconds on average.
fn run(trial: &Trial, way: &Way, works: &[f64], every: f64, requests: usize) -> Outcome {
    let (mut arrivals, mut works_at) = (Dice(1 << 40), Dice(1 << 50));
    let mut free = vec![0.0_f64; works.len()];
    let mut inside: BinaryHeap<Reverse<(u64, u64)>> = BinaryHeap::new();
    let mut guards: std::collections::HashMap<u64, (InFlight, f64)> = std::collections::HashMap::new();
    let mut outcome = Outcome {
        hits: vec![0; works.len()],
        in_flight: vec![0.0; works.len()],
        ..Outcome::default()
    };
    let moment = |millis: f64| Moment::from_micros(1_000_000 + (millis * 1000.0) as u64);
    let mut now = 0.0;
    for number in 0..requests as u64 {
        now += arrivals.exponential(every);
        while let Some(Reverse((done, other))) = inside
            .peek()
            .copied()
            .filter(|Reverse((done, _))| *done <= moment(now).micros())
        {
            inside.pop();
            let (guard, took) = guards.remove(&other).unwrap();
            guard
                .endpoint()
                .latency()
                .observe(Duration::from_secs_f64(took / 1000.0), Moment::from_micros(done));
        }
        let id = match way {
            Way::Picks(view) => {
                let ask = Ask {
                    now: moment(now),
                    ..trial.ask(&[])
                };
                view.pick(&ask).unwrap().member.endpoint.id()
            }
            Way::ShortestQueue => {
                let endpoints = trial.members.iter().map(|member| &member.endpoint);
                endpoints.min_by_key(|endpoint| endpoint.in_flight()).unwrap().id()
            }
        };
        let place = id as usize - 1;
        for (sum, member) in outcome.in_flight.iter_mut().zip(&*trial.members) {
            *sum += f64::from(member.endpoint.in_flight()) / requests as f64;
        }
        let end = free[place].max(now) + works_at.exponential(works[place]);
        free[place] = end;
        outcome.hits[place] += 1;
        outcome.times.push(end - now);
        inside.push(Reverse((moment(end).micros(), number)));
        guards.insert(number, (enter(trial.endpoint(id), 1).remove(0), end - now));
    }
    outcome.times.sort_by(f64::total_cmp);
    outcome
}

fn simulate(balance: &str, works: &[f64], every: f64, requests: usize) -> Outcome {
    let trial = Trial::new(&format!("balance: {balance}"), &vec![ONE; works.len()]);
    let view = trial.view();
    run(&trial, &Way::Picks(view), works, every, requests)
}

#[test]
fn least_connections_is_within_five_percent_of_the_shortest_queue() {
    for count in [2, 4, 8] {
        let works = vec![10.0; count];
        let every = 10.0 / count as f64 / 0.8;
        let trial = Trial::new("balance: random", &vec![ONE; count]);
        let ideal = run(&trial, &Way::ShortestQueue, &works, every, 100_000).mean();
        let ours = simulate("least_connections", &works, every, 100_000).mean();
        assert!(
            (ours / ideal - 1.0).abs() < 0.05,
            "{count}: {ours} ms, ideal {ideal} ms"
        );
    }
}

#[test]
fn with_many_endpoints_two_choices_do_what_theory_says_and_share_alike() {
    let works = vec![10.0; 100];
    let outcome = simulate("least_connections", &works, 10.0 / 100.0 / 0.8, 300_000);
    // Mitzenmacher's limit for two choices at this load: the sum of 0.8^(2^i - 2).
    let theory: f64 = 10.0 * (1..8).map(|i| 0.8_f64.powi((1 << i) - 2)).sum::<f64>();
    assert!(
        outcome.mean() < theory * 1.05,
        "{} ms, theory {theory} ms",
        outcome.mean()
    );
    let off = (outcome.hits.iter())
        .map(|hits| (f64::from(*hits) / 3000.0 - 1.0).abs())
        .fold(0.0, f64::max);
    assert!(off < 0.05, "{:?}", outcome.hits);
    let random = simulate("random", &works, 10.0 / 100.0 / 0.8, 300_000);
    assert!(outcome.mean() < random.mean() / 2.0, "{} ms", random.mean());
}

#[test]
fn endpoints_of_different_speed_get_requests_so_that_as_many_are_in_flight_everywhere() {
    let outcome = simulate("least_connections", &[10.0, 10.0, 10.0, 40.0], 4.5, 100_000);
    let (fast, slow) = (outcome.in_flight[0], outcome.in_flight[3]);
    assert!(fast / slow > 0.6 && fast / slow < 1.5, "{:?}", outcome.in_flight);
    assert!(outcome.hits[3] * 2 < outcome.hits[0], "{:?}", outcome.hits);
}

#[test]
fn least_response_time_leaves_a_slow_endpoint_alone_and_the_slowest_percent_is_much_faster() {
    let works = [10.0, 10.0, 10.0, 100.0];
    let ours = simulate("least_response_time", &works, 12.0, 50_000);
    assert!(ours.hits[3] > 0 && ours.hits[3] < 50_000 / 50, "{:?}", ours.hits);
    let turns = simulate("round_robin", &works, 40.0, 50_000);
    assert!(
        ours.p99() * 3.0 < turns.p99(),
        "{} ms against {} ms",
        ours.p99(),
        turns.p99()
    );
}

#[test]
fn an_endpoint_that_was_slow_is_found_again_when_it_is_fast() {
    let trial = Trial::new("balance: least_response_time", &[ONE; 3]);
    let view = Way::Picks(trial.view());
    trial
        .endpoint(3)
        .latency()
        .observe(Duration::from_secs(2), Moment::from_micros(1_000_000));
    let outcome = run(&trial, &view, &[10.0; 3], 10.0, 20_000);
    assert!(outcome.hits[3 - 1] > 2000, "{:?}", outcome.hits);
}

#[test]
fn weights_hold_under_load() {
    let heavy = One { weight: 3, ..ONE };
    for balance in ["least_connections", "least_response_time"] {
        let trial = Trial::new(&format!("balance: {balance}"), &[heavy, ONE, ONE]);
        let view = Way::Picks(trial.view());
        // Three times the weight because it is three times as fast.
        let outcome = run(&trial, &view, &[4.0, 12.0, 12.0], 3.0, 50_000);
        let share = f64::from(outcome.hits[0]) / 50_000.0;
        assert!((0.55..0.8).contains(&share), "{balance}: {share}");
    }
}
