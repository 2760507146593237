//! Shared counters against every arrival, loss and delay that a seed can think of.
//!
//! The code under test is the real one; only time, the network and the store are made up (see [`world`]). A case that
//! fails prints its seed. `TOLLGATE_MODEL_CASES` multiplies the number of cases, `TOLLGATE_MODEL_SEED` runs one.

mod world;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};

use self::world::{Account, Fault, MILLISECOND, Network, SECOND, Setup, World};
use super::tests::limit;
use crate::revision::{Limit, Sharing, WindowKind, WithoutStore};
use crate::units::Ratio;

/// Runs a story for many seeds.
fn for_each_seed(cases: u64, story: impl Fn(u64)) {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    if let Some(seed) = number("TOLLGATE_MODEL_SEED") {
        return story(seed);
    }
    for seed in 0..cases * number("TOLLGATE_MODEL_CASES").unwrap_or(1) {
        // Shown if the story fails.
        println!("seed {seed}");
        story(seed);
    }
}

fn pick<T: Copy>(rng: &mut StdRng, of: &[T]) -> T {
    *of.choose(rng).unwrap()
}

/// A limit that is shared in this way, whether the store is late or away.
fn shared(rate: &str, window: WindowKind, overrun: u8, without: WithoutStore) -> Limit {
    let mut limit = limit("limit", rate, window);
    limit.sharing = Sharing {
        max_overrun: Some(Ratio::percent(overrun)),
        on_store_down: Some(without),
        on_timeout: Some(without),
    };
    limit
}

fn fixed(count: u32, period: char, overrun: u8, without: WithoutStore) -> Limit {
    shared(&format!("{count}/{period}"), WindowKind::Fixed, overrun, without)
}

fn even(gateways: usize) -> Vec<f64> {
    vec![1.0; gateways]
}

fn skewed(rng: &mut StdRng, gateways: usize) -> Vec<f64> {
    (0..gateways).map(|_| rng.random::<f64>().powi(4) + 1e-6).collect()
}

/// Bursts and steady streams at random, for up to three windows: when the last of it comes, in nanoseconds.
fn storms(world: &mut World, rng: &mut StdRng, limit: u32, window: f64, (subjects, most_cost): (u32, u32)) -> u64 {
    let gateways = world.setup.gateways;
    let mut last = 0.0_f64;
    for _ in 0..rng.random_range(1..=4) {
        let from = rng.random::<f64>() * window * 2.0;
        let lasts = pick(rng, &[0.01, 0.1, 1.0, window]);
        let all = (pick(rng, &[0.3, 1.0, 3.0, 10.0]) * f64::from(limit) + 5.0).min(3_000.0);
        let weights = if rng.random() { even(gateways) } else { skewed(rng, gateways) };
        let to = (from + lasts).min(3.0 * window);
        world.arrivals(from, to, all / lasts, &weights, subjects, most_cost);
        last = last.max(to);
    }
    (last * 1e9) as u64
}

fn assert_bound(world: &World, bound: u64) {
    for (which, account) in &world.accounts {
        assert!(
            account.admitted <= bound,
            "seed {}: {} of {bound} in {which:?}: {:?}",
            world.setup.seed,
            account.admitted,
            world.setup,
        );
    }
}

#[test]
fn whatever_arrives_no_window_admits_more_than_its_bound_and_what_is_left_over_goes_back() {
    let under = std::cell::RefCell::new(Vec::new());
    let tightest = std::cell::Cell::new((i64::MIN, String::new()));
    for_each_seed(30, |seed| {
        let rng = &mut StdRng::seed_from_u64(seed);
        let count = pick(rng, &[1, 3, 10, 50, 300, 2_000]);
        let (period, window) = pick(rng, &[('s', 1.0), ('m', 60.0)]);
        let overrun = pick(rng, &[0, 1, 5, 20]);
        let gateways = pick(rng, &[1, 2, 5, 10, 30, 100]);
        let times = pick(rng, &[1, 1, 1, 10, 100]);
        let costs = pick(rng, &[1, 1, 5]);
        let mut setup = Setup::new(seed, gateways, fixed(count, period, overrun, WithoutStore::Deny));
        setup.network.round_trip *= times;
        setup.skew = pick(rng, &[0, 0, 3 * MILLISECOND, 900 * MILLISECOND]);
        setup.sweeps = rng.random();
        let skew = setup.skew;
        let mut world = World::new(setup);
        let last = storms(&mut world, rng, count, window, (1, costs));
        world.run_until(last + 1_500 * MILLISECOND);
        let bound = u64::from(count) + gateways as u64 * world.credit();
        assert_bound(&world, bound);
        let most = world.accounts.values().map(|account| account.admitted).max().unwrap_or(0);
        let excess = most.cast_signed() - i64::from(count);
        let so_far = tightest.take();
        tightest.set(if excess > so_far.0 {
            (excess, format!("seed {seed}: {most} of {bound}, limit {count}, {gateways} gateways"))
        } else {
            so_far
        });
        if times == 1 && costs == 1 && count >= 50 && skew == 0 {
            let part = |account: &Account| account.admitted as f64 / account.offered.min(u64::from(count)) as f64;
            under.borrow_mut().extend(world.accounts.values().map(part));
        }

        // Nothing was lost, so the books agree to the last ticket.
        let open = world.window_now();
        world.close();
        if skew == 0 {
            for (&(subject, window), account) in &world.accounts {
                if window == open {
                    assert_eq!(world.counted(subject, window), account.admitted.cast_signed(), "seed {seed}");
                } else {
                    assert!(world.counted(subject, window) >= account.admitted.cast_signed(), "seed {seed}");
                }
            }
        }
        assert!(!world.has_negative());
        assert!(world.longest_wait <= world.setup.max_wait);
    });
    println!("tightest: {}", tightest.take().1);
    let mut under = under.into_inner();
    under.sort_by(f64::total_cmp);
    if under.len() > 20 {
        let at = |percent| under[under.len() * percent / 100];
        println!("admitted of what could be: p1 {:.3} p10 {:.3} p50 {:.3}", at(1), at(10), at(50));
        assert!(at(10) >= 0.9, "a tenth of all windows admits {:.3} or less of what it could", at(10));
    }
}

#[test]
fn a_strict_limit_holds_exactly_whatever_is_lost() {
    for_each_seed(20, |seed| {
        let rng = &mut StdRng::seed_from_u64(seed);
        let count = pick(rng, &[1, 10, 300, 2_000]);
        let (period, window) = pick(rng, &[('s', 1.0), ('m', 60.0)]);
        let gateways = pick(rng, &[1, 3, 20]);
        let mut setup = Setup::new(seed, gateways, fixed(count, period, 0, WithoutStore::Deny));
        setup.network = Network::lossy(pick(rng, &[0.0, 0.1]), pick(rng, &[0.0, 0.3]));
        setup.max_counters = pick(rng, &[2, 1_000]);
        let mut world = World::new(setup);
        storms(&mut world, rng, count, window, (3, 3));
        for _ in 0..5 {
            let at = (rng.random::<f64>() * 2.0 * window * 1e9) as u64;
            world.fault(at, Fault::Crash(rng.random_range(0..gateways)));
        }
        let at = (rng.random::<f64>() * window * 1e9) as u64;
        world.fault(at, Fault::Down);
        world.fault(at + pick(rng, &[10, 300, 3_000]) * MILLISECOND, Fault::Up);
        // An eviction forgets what was told.
        world.checks_told = false;
        world.run();
        assert_bound(&world, u64::from(count));
    });
}

#[test]
fn lost_messages_cost_nothing_and_a_crash_costs_one_credit() {
    for_each_seed(20, |seed| {
        let rng = &mut StdRng::seed_from_u64(seed);
        let count = pick(rng, &[50, 300, 2_000]);
        let (period, window) = pick(rng, &[('s', 1.0), ('m', 60.0)]);
        let gateways = pick(rng, &[2, 5, 20]);
        let mut setup = Setup::new(seed, gateways, fixed(count, period, 20, WithoutStore::Deny));
        setup.network = Network::lossy(pick(rng, &[0.0, 0.1]), pick(rng, &[0.0, 0.3]));
        let mut world = World::new(setup);
        storms(&mut world, rng, count, window, (1, 1));
        for _ in 0..rng.random_range(0..5) {
            let at = (rng.random::<f64>() * 2.0 * window * 1e9) as u64;
            world.fault(at, Fault::Crash(rng.random_range(0..gateways)));
        }
        world.run();
        assert_bound(&world, u64::from(count) + (gateways as u64 + world.crashes) * world.credit());
    });
}

#[test]
fn an_eviction_costs_one_credit_at_most() {
    for_each_seed(15, |seed| {
        let rng = &mut StdRng::seed_from_u64(seed);
        let count = pick(rng, &[50, 300]);
        let gateways = pick(rng, &[2, 5]);
        let mut setup = Setup::new(seed, gateways, fixed(count, 'm', 10, WithoutStore::Deny));
        setup.max_counters = 3;
        let mut world = World::new(setup);
        world.checks_told = false;
        storms(&mut world, rng, count, 60.0, (5, 1));
        world.run_until(180 * SECOND);
        let overruns = (gateways as u64 + world.evictions()) * world.credit();
        assert!(world.evictions() > 0);
        assert_bound(&world, u64::from(count) + overruns);
    });
}

#[test]
fn in_any_interval_buckets_give_no_more_than_burst_and_rate_and_credit() {
    let closest = std::cell::Cell::new((f64::MIN, String::new()));
    for_each_seed(25, |seed| {
        let rng = &mut StdRng::seed_from_u64(seed);
        let gateways = pick(rng, &[1, 5, 20, 50]);
        let rate = pick(rng, &[10, 100, 1_000]);
        let burst = pick(rng, &[1, 10, 100, 1_000]);
        let overrun = pick(rng, &[0, 5, 20]);
        let kind = WindowKind::TokenBucket { burst };
        let limit = shared(&format!("{rate}/s"), kind, overrun, WithoutStore::Deny);
        let mut setup = Setup::new(seed, gateways, limit);
        setup.network.round_trip *= pick(rng, &[1, 1, 10, 100]);
        if rng.random() {
            setup.network = Network { round_trip: setup.network.round_trip, ..Network::lossy(0.05, 0.1) };
        }
        let mut world = World::new(setup);
        world.checks_told = false;
        let steady = pick(rng, &[0.5, 1.5, 4.0]) * f64::from(rate);
        world.arrivals(0.0, 3.0, steady, &even(gateways), 1, pick(rng, &[1, 1, 3]));
        for _ in 0..2 {
            let from = rng.random::<f64>() * 2.0;
            let size = f64::from(pick(rng, &[1, 5]) * (rate + burst)).min(1_500.0);
            let weights = skewed(rng, gateways);
            world.arrivals(from, from + 0.05, size / 0.05, &weights, 1, 1);
        }
        world.run();
        let Some(admissions) = world.admissions.get(&0) else { return };
        let allowed = f64::from(burst) + 0.2 * f64::from(rate) + (gateways as u64 * world.credit()) as f64;
        // The largest sum over an interval, less what the rate gives in it.
        let (mut sum, mut best, mut worst) = (0.0, f64::MIN, f64::MIN);
        for &(at, cost) in admissions {
            let refilled = f64::from(rate) * (at - world::DAWN) as f64 / 1e9;
            best = f64::max(best, refilled - sum);
            sum += f64::from(cost);
            worst = f64::max(worst, sum - refilled + best);
        }
        // Rounding: the interval of a token is a whole number of nanoseconds.
        assert!(worst <= allowed + 0.01, "seed {seed}: {worst} of {allowed}: {:?}", world.setup);
        let so_far = closest.take();
        closest.set(if worst / allowed > so_far.0 {
            (worst / allowed, format!("seed {seed}: {worst:.1} of {allowed:.1}, burst {burst}, rate {rate}, {gateways} gateways"))
        } else {
            so_far
        });
    });
    println!("closest: {}", closest.take().1);
}
