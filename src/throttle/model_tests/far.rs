//! Limits that are far away: they are rarely asked about, and hold all the same when they are reached.

use super::*;

/// Ten minutes, in seconds.
const LASTS: f64 = 600.0;

fn far_away(limit: Limit) -> World {
    let mut world = World::new(Setup::new(1, 2, limit));
    // A bucket gains.
    world.checks_told = false;
    world.arrivals(0.0, LASTS, 6.0, &even(2), 1, 1);
    world.run();
    let account = world.accounts.values().next().unwrap();
    assert_eq!(account.admitted, account.offered);
    world
}

#[test]
fn an_hour_whose_end_is_far_away_is_asked_about_twice_a_minute() {
    let mut world = far_away(fixed(1_000_000, 'h', 5, WithoutStore::Deny));
    // Two gateways, twenty looks each; and as many for what happens at the beginning.
    assert!(world.commands.all() <= 80, "{:?}", world.commands);
    let (&(subject, window), &account) = world.accounts.iter().next().unwrap();
    world.close();
    assert_eq!(world.counted(subject, window), account.admitted.cast_signed());
}

#[test]
fn a_bucket_that_stays_full_is_asked_about_twice_a_minute() {
    let window = WindowKind::TokenBucket { burst: 1_000_000 };
    let world = far_away(shared("1000000/s", window, 5, WithoutStore::Deny));
    assert!(world.commands.all() <= 120, "{:?}", world.commands);
}

#[test]
fn a_single_request_takes_next_to_nothing_ahead() {
    for limit in [
        fixed(1_000_000, 'h', 5, WithoutStore::Deny),
        shared(
            "1000000/s",
            WindowKind::TokenBucket { burst: 1_000_000 },
            5,
            WithoutStore::Deny,
        ),
    ] {
        let mut world = World::new(Setup::new(1, 2, limit));
        world.checks_told = false;
        world.request(0, 0, 0, 1);
        world.run_until(5 * SECOND);
        assert!(world.commands.all() <= 4, "{:?}", world.commands);
    }
}

#[test]
fn a_strict_limit_that_is_far_away_is_rarely_waited_for() {
    let world = far_away(fixed(1_000_000, 'h', 0, WithoutStore::Deny));
    assert_eq!(world.credit(), 0);
    assert!(world.commands.all() <= 80, "{:?}", world.commands);
    assert!(world.waited <= 8, "{}", world.waited);
}

#[test]
fn a_counter_that_is_not_used_any_more_gives_back_what_was_taken_ahead() {
    let mut world = World::new(Setup::new(1, 2, fixed(1_000_000, 'h', 5, WithoutStore::Deny)));
    world.arrivals(0.0, 10.0, 6.0, &even(2), 1, 1);
    world.run_until(11 * SECOND);
    let (&(subject, window), &account) = world.accounts.iter().next().unwrap();
    assert!(world.counted(subject, window) > account.admitted.cast_signed() + 500);
    // Two looks: one that sees what was spent since the last, and one that sees nothing.
    world.run_until(75 * SECOND);
    assert_eq!(world.counted(subject, window), account.admitted.cast_signed());
}

/// So few requests reach the limit because each of them costs much.
#[test]
fn great_limits_hold_when_they_are_reached() {
    for_each_seed(100, |seed| {
        let rng = &mut StdRng::seed_from_u64(seed);
        let count = pick(rng, &[40_000, 200_000, 1_000_000]);
        let gateways = pick(rng, &[1, 2, 5]);
        let overrun = pick(rng, &[0, 1, 5]);
        let mut setup = Setup::new(seed, gateways, fixed(count, 'm', overrun, WithoutStore::Deny));
        setup.network.round_trip *= pick(rng, &[1, 1, 10]);
        let mut world = World::new(setup);
        let most_cost = pick(rng, &[count / 400, count / 2_000, 5]);
        let last = storms(&mut world, rng, count / most_cost, 60.0, (1, most_cost));
        world.run_until(last + 1_500 * MILLISECOND);
        assert_bound(&world, u64::from(count) + gateways as u64 * world.credit());
        let open = world.window_now();
        world.close();
        for (&(subject, window), account) in &world.accounts {
            let (counted, admitted) = (world.counted(subject, window), account.admitted.cast_signed());
            assert!(counted >= admitted, "seed {seed}");
            assert!(
                counted == admitted || window != open,
                "seed {seed}: {counted} {admitted}"
            );
        }
        assert!(!world.has_negative());
        assert!(world.longest_wait <= world.setup.max_wait);
    });
}

/// A trickle that makes every gateway keep what it may, and then more than there is.
#[test]
fn in_any_interval_great_buckets_give_no_more_than_burst_and_rate_and_credit() {
    for_each_seed(50, |seed| {
        let rng = &mut StdRng::seed_from_u64(seed);
        let gateways = pick(rng, &[1, 2, 5]);
        let burst = pick(rng, &[400_000, 1_000_000]);
        let rate = burst / pick(rng, &[1, 10, 100]);
        let overrun = pick(rng, &[1, 5]);
        let kind = WindowKind::TokenBucket { burst };
        let limit = shared(&format!("{rate}/s"), kind, overrun, WithoutStore::Deny);
        let mut world = World::new(Setup::new(seed, gateways, limit));
        world.checks_told = false;
        assert!(world.terms().kept(gateways as u32) > 0);
        world.arrivals(0.0, 8.0, 10.0 * gateways as f64, &even(gateways), 1, 1);
        let weights = skewed(rng, gateways);
        let cost = burst / 400;
        world.arrivals(6.0, 6.0 + pick(rng, &[0.05, 0.5]), 20_000.0, &weights, 1, cost);
        world.run();
        let allowed = f64::from(burst) + 0.2 * f64::from(rate) + (gateways as u64 * world.credit()) as f64;
        let worst = worst_interval(&world.admissions[&0], rate);
        assert!(
            worst <= allowed + 0.01,
            "seed {seed}: {worst} of {allowed}: {:?}",
            world.setup
        );
    });
}
