use proptest::prelude::*;

use super::*;

const SECOND: u64 = 1_000_000_000;
const PERIODS: [Period; 6] = [
    Period::Second,
    Period::Minute,
    Period::Hour,
    Period::Day,
    Period::Week,
    Period::Month,
];

fn quota(count: u32, period: Period, window: WindowKind) -> Quota {
    Quota::new(Rate { count, period }, window)
}

fn at(seconds: u64) -> Time {
    Time::from_unix_seconds(1_795_239_720 + seconds)
}

/// Spends the whole quota as the allowance.
fn take(word: &AtomicU64, quota: &Quota, cost: u32, now: Time) -> Result<State, Refusal> {
    spend(word, quota, quota.whole(), cost, now)
}

/// The naive model: every admitted request is kept, and counted again for each decision.
#[derive(Default)]
struct Log(Vec<(Time, u32)>);

impl Log {
    fn spent_in(&self, window: &Window) -> u64 {
        let inside = |time: Time| window.start <= time && time < window.end;
        self.0
            .iter()
            .filter(|(time, _)| inside(*time))
            .map(|(_, cost)| u64::from(*cost))
            .sum()
    }

    fn fixed_remaining(&self, limit: u32, calendar: Calendar, now: Time) -> i64 {
        i64::from(limit) - self.spent_in(&calendar.window_of(now)) as i64
    }

    fn sliding_remaining(&self, limit: u32, calendar: Calendar, now: Time) -> i64 {
        let window = calendar.window_of(now);
        let previous = self
            .spent_in(&calendar.window_at(window.index - 1))
            .min(u64::from(limit));
        let weight = (window.end.since(now)) as f64 / window.length() as f64;
        let weighed = previous as f64 * weight;
        i64::from(limit) - self.spent_in(&window) as i64 - weighed.ceil() as i64
    }
}

/// Also calendars whose days are 23, 24½ or 25 hours long at times.
fn calendar() -> impl Strategy<Value = Calendar> {
    let zone = prop::sample::select(&["Etc/UTC", "Europe/Berlin", "Africa/Cairo", "Australia/Lord_Howe"][..]);
    (period(), zone).prop_map(|(period, zone)| Calendar::new(period, Zone::named(zone).unwrap()))
}

fn quota_by(calendar: Calendar, count: u32, window: WindowKind) -> Quota {
    let period = calendar.period();
    Quota::in_zone(Rate { count, period }, window, calendar.zone())
}

fn period() -> impl Strategy<Value = Period> {
    prop::sample::select(&PERIODS[..])
}

/// Steps of time in thousandths of the period, some none, some long; costs; limits that change now and then.
fn steps() -> impl Strategy<Value = Vec<(u64, u32, u32)>> {
    let step = prop_oneof![3 => Just(0), 5 => 0_u64..200, 2 => 200_u64..1_500, 1 => 1_500_u64..5_000];
    prop::collection::vec((step, 1_u32..4, prop_oneof![4 => Just(12_u32), 1 => 1_u32..25]), 1..120)
}

proptest! {
    #[test]
    fn a_fixed_window_agrees_with_a_recount_of_the_log(calendar in calendar(), start in 0_u64..40_000_000, steps in steps()) {
        let (word, mut log, mut now) = (AtomicU64::new(0), Log::default(), at(start));
        for (step, cost, limit) in steps {
            now = now.plus(nominal_length(calendar.period()) / 1_000 * step);
            let quota = quota_by(calendar, limit, WindowKind::Fixed);
            let left = log.fixed_remaining(limit, calendar, now) - i64::from(cost);
            match take(&word, &quota, cost, now) {
                Ok(state) => {
                    prop_assert_eq!(i64::from(state.remaining), left);
                    prop_assert_eq!(state.reset, calendar.window_of(now).end);
                    log.0.push((now, cost));
                }
                Err(refusal) => {
                    prop_assert!(left < 0);
                    prop_assert_eq!(refusal.retry_at, calendar.window_of(now).end);
                }
            }
        }
    }

    #[test]
    fn a_sliding_window_agrees_with_a_recount_of_the_log(calendar in calendar(), start in 0_u64..40_000_000, steps in steps()) {
        let (word, mut log, mut now) = (AtomicU64::new(0), Log::default(), at(start));
        for (step, cost, limit) in steps {
            now = now.plus(nominal_length(calendar.period()) / 1_000 * step);
            let quota = quota_by(calendar, limit, WindowKind::Sliding);
            let left = log.sliding_remaining(limit, calendar, now) - i64::from(cost);
            match take(&word, &quota, cost, now) {
                Ok(state) => {
                    prop_assert_eq!(i64::from(state.remaining), left);
                    log.0.push((now, cost));
                }
                Err(_) => prop_assert!(left < 0, "refused with {} left", left),
            }
        }
    }

    /// The bound of a token bucket, over every interval between two admitted requests.
    #[test]
    fn a_bucket_never_lets_more_through_than_its_burst_and_what_flowed_in(
        period in period(), count in 1_u32..2_000, burst in 1_u32..30, steps in steps()
    ) {
        let (word, mut now) = (AtomicU64::new(0), at(0));
        let quota = quota(count, period, WindowKind::TokenBucket { burst });
        let each = nominal_length(period) / u64::from(count);
        let mut admitted: Vec<(Time, u64)> = Vec::new();
        for (step, cost, _) in steps {
            now = now.plus(each / 100 * step);
            if take(&word, &quota, cost, now).is_ok() {
                admitted.push((now, u64::from(cost)));
            }
        }
        for first in 0..admitted.len() {
            let mut sum = 0;
            for (time, cost) in &admitted[first..] {
                sum += cost;
                let flowed = u128::from(time.since(admitted[first].0)) * u128::from(count)
                    / u128::from(nominal_length(period));
                prop_assert!(u128::from(sum) <= u128::from(burst) + flowed);
            }
        }
    }

    #[test]
    fn a_bucket_agrees_with_one_that_is_filled_step_by_step(
        count in 1_u32..2_000, burst in 1_u32..30, steps in steps()
    ) {
        let (word, mut now) = (AtomicU64::new(0), at(0));
        let quota = quota(count, Period::Second, WindowKind::TokenBucket { burst });
        let each = SECOND.div_ceil(u64::from(count));
        let full = each * u64::from(burst);
        let mut level = full;
        for (step, cost, _) in steps {
            let elapsed = each / 100 * step;
            now = now.plus(elapsed);
            level = full.min(level + elapsed);
            let price = each * u64::from(cost);
            match take(&word, &quota, cost, now) {
                Ok(state) => {
                    prop_assert!(price <= level);
                    level -= price;
                    prop_assert_eq!(u64::from(state.remaining), level / each);
                    prop_assert_eq!(state.reset, now.plus(full - level));
                }
                Err(_) => prop_assert!(price > level),
            }
        }
    }

    #[test]
    fn a_refused_request_passes_when_it_was_told_to_come_and_not_before(
        period in period(), kind in 0_usize..3, limit in 1_u32..25, steps in steps(), start in 0_u64..40_000_000
    ) {
        let kind = [WindowKind::Fixed, WindowKind::Sliding, WindowKind::TokenBucket { burst: limit }][kind];
        let (word, mut now, quota) = (AtomicU64::new(0), at(start), quota(limit, period, kind));
        for (step, cost, _) in steps {
            now = now.plus(nominal_length(period) / 5_000 * step);
            if cost > limit {
                continue;
            }
            if let Err(refusal) = take(&word, &quota, cost, now) {
                prop_assert!(refusal.retry_at > now);
                let just_before = Time::from_unix_nanos(refusal.retry_at.unix_nanos() - 1);
                prop_assert!(peek(&word, &quota, limit, cost, just_before).is_err());
                prop_assert!(peek(&word, &quota, limit, cost, refusal.retry_at).is_ok());
            }
        }
    }

    #[test]
    fn late_callers_never_open_a_past_window_again(
        period in period(), sliding: bool, limit in 1_u32..25,
        late in prop::collection::vec((0_u64..700, 0_u64..=1_000), 1..200)
    ) {
        let kind = if sliding { WindowKind::Sliding } else { WindowKind::Fixed };
        let (word, mut latest, quota) = (AtomicU64::new(0), at(0), quota(limit, period, kind));
        let mut per_window = std::collections::BTreeMap::<u32, u32>::new();
        for (step, lateness_permille) in late {
            latest = latest.plus(nominal_length(period) / 1_000 * step);
            let now = Time::from_unix_nanos(latest.unix_nanos() - lateness(period) / 1_000 * lateness_permille);
            if let Ok(state) = take(&word, &quota, 1, now) {
                *per_window.entry(state.window).or_default() += 1;
            }
        }
        prop_assert!(per_window.values().all(|&count| count <= limit), "{:?}", per_window);
    }

    #[test]
    fn a_clock_that_jumps_at_random_neither_panics_nor_locks_anybody_out(
        period in period(), kind in 0_usize..3, limit in 1_u32..25, word: u64,
        jumps in prop::collection::vec((0..=Time::MAX.unix_nanos(), 1_u32..4), 1..60)
    ) {
        let kind = [WindowKind::Fixed, WindowKind::Sliding, WindowKind::TokenBucket { burst: limit }][kind];
        let (word, quota) = (AtomicU64::new(word), quota(limit, period, kind));
        let windows = match kind {
            WindowKind::Fixed => 1,
            WindowKind::Sliding => 2,
            WindowKind::TokenBucket { .. } => u64::from(limit),
        };
        let longest = windows * (nominal_length(period) / 30 * 31 + 1) + lateness(period);
        for (nanos, cost) in jumps {
            let now = Time::from_unix_nanos(nanos);
            let _ = peek(&word, &quota, limit, cost, now);
            if let Err(refusal) = take(&word, &quota, cost, now) {
                prop_assert!(refusal.retry_at.since(now) <= longest.max(SECOND));
                if cost <= limit && refusal.retry_at < Time::MAX {
                    prop_assert!(peek(&word, &quota, limit, cost, refusal.retry_at).is_ok());
                }
            } else {
                give_back(&word, &quota, cost, 7);
            }
            let _ = quota.shape().finished(word.load(Ordering::Relaxed), now);
        }
    }

    #[test]
    fn what_is_given_back_was_never_spent(kind in 0_usize..3, before in 0_u32..5, cost in 1_u32..5, sub in 0_u64..SECOND) {
        let kind = [WindowKind::Fixed, WindowKind::Sliding, WindowKind::TokenBucket { burst: 10 }][kind];
        let (word, quota) = (AtomicU64::new(0), quota(10, Period::Minute, kind));
        let now = at(30).plus(sub);
        let _ = take(&word, &quota, before, now);
        let stood = peek(&word, &quota, 10, 1, now);
        let state = take(&word, &quota, cost, now).unwrap();
        give_back(&word, &quota, cost, state.window);
        prop_assert_eq!(peek(&word, &quota, 10, 1, now), stood);
    }

    #[test]
    fn a_finished_counter_answers_like_an_empty_one(
        period in period(), kind in 0_usize..3, steps in steps(), later in 0_u64..3_000
    ) {
        let kind = [WindowKind::Fixed, WindowKind::Sliding, WindowKind::TokenBucket { burst: 12 }][kind];
        let (word, quota, mut now) = (AtomicU64::new(0), quota(12, period, kind), at(0));
        for (step, cost, _) in steps {
            now = now.plus(nominal_length(period) / 1_000 * step);
            let _ = take(&word, &quota, cost, now);
        }
        let now = now.plus(nominal_length(period) / 1_000 * later);
        if quota.shape().finished(word.load(Ordering::Relaxed), now) {
            prop_assert_eq!(peek(&word, &quota, 12, 1, now), peek(&AtomicU64::new(0), &quota, 12, 1, now));
        }
    }
}

#[test]
fn a_changed_limit_acts_at_once_and_nothing_is_reset() {
    for kind in [WindowKind::Fixed, WindowKind::Sliding] {
        let word = AtomicU64::new(0);
        let limit = |count| quota(count, Period::Minute, kind);
        assert_eq!(take(&word, &limit(10), 8, at(10)).unwrap().remaining, 2);
        assert!(
            take(&word, &limit(5), 1, at(11)).is_err(),
            "lowered below what was spent"
        );
        assert_eq!(take(&word, &limit(20), 1, at(12)).unwrap().remaining, 11, "raised");
    }
}

#[test]
fn a_smaller_bucket_is_empty_at_once_but_not_for_longer_than_it_must() {
    let word = AtomicU64::new(0);
    let bucket = |count, burst| quota(count, Period::Second, WindowKind::TokenBucket { burst });
    assert!(take(&word, &bucket(1, 1_000), 1_000, at(0)).is_ok());
    let refusal = take(&word, &bucket(10, 10), 1, at(0)).unwrap_err();
    assert_eq!(refusal.retry_at, at(0).plus(SECOND / 10));
    assert!(take(&word, &bucket(10, 10), 1, refusal.retry_at).is_ok());
}

#[test]
fn a_clock_that_was_set_back_takes_along_what_was_spent_and_refuses_for_one_window_at_most() {
    let (word, minute) = (AtomicU64::new(0), quota(10, Period::Minute, WindowKind::Fixed));
    assert!(take(&word, &minute, 10, at(86_400 * 365)).is_ok());
    let refusal = take(&word, &minute, 1, at(20)).unwrap_err();
    assert_eq!(refusal.retry_at, at(60));
    assert!(take(&word, &minute, 1, at(59)).is_err());
    assert_eq!(take(&word, &minute, 1, at(60)).unwrap().remaining, 9);
}

#[test]
fn a_request_given_back_after_its_window_is_over_gives_the_next_window_nothing() {
    let (word, minute) = (AtomicU64::new(0), quota(10, Period::Minute, WindowKind::Fixed));
    let old = take(&word, &minute, 3, at(59)).unwrap();
    assert_eq!(take(&word, &minute, 5, at(60)).unwrap().remaining, 5);
    give_back(&word, &minute, 3, old.window);
    assert_eq!(peek(&word, &minute, 10, 0, at(60)).unwrap().remaining, 5);

    // A sliding window remembers the one before, so there it still weighs.
    let (word, minute) = (AtomicU64::new(0), quota(10, Period::Minute, WindowKind::Sliding));
    let old = take(&word, &minute, 4, at(59)).unwrap();
    assert_eq!(take(&word, &minute, 5, at(60)).unwrap().remaining, 1);
    give_back(&word, &minute, 4, old.window);
    assert_eq!(peek(&word, &minute, 10, 0, at(60)).unwrap().remaining, 5);
}

#[test]
fn a_sliding_counter_that_wrapped_round_errs_on_the_strict_side_for_two_windows_at_most() {
    let second = quota(10, Period::Second, WindowKind::Sliding);
    for windows_later in [(1 << 15) + 1, 40_000, (1 << 16) - 1, 1 << 16] {
        let word = AtomicU64::new(0);
        assert!(take(&word, &second, 10, at(0)).is_ok());
        let then = at(windows_later);
        assert!(peek(&word, &second, 10, 1, then).is_err(), "taken for present");
        let _ = take(&word, &second, 1, then);
        assert_eq!(take(&word, &second, 10, at(windows_later + 5)).unwrap().remaining, 0);
    }
    // Up to nine hours away a finished counter is known to be finished, so a sweep has removed it by then.
    let word = AtomicU64::new(0);
    let _ = take(&word, &second, 10, at(0));
    for windows_later in [4, 100, 1 << 15] {
        assert!(second.shape().finished(word.load(Ordering::Relaxed), at(windows_later)));
    }
}

#[test]
fn a_counter_is_kept_as_long_as_a_late_caller_may_ask_for_it() {
    let (word, minute) = (AtomicU64::new(0), quota(10, Period::Minute, WindowKind::Fixed));
    let _ = take(&word, &minute, 10, at(59));
    let finished = |seconds| minute.shape().finished(word.load(Ordering::Relaxed), at(seconds));
    assert_eq!([60, 67, 68].map(finished), [false, false, true]);
}

#[test]
fn the_first_spend_of_a_window_says_so() {
    for kind in [
        WindowKind::Fixed,
        WindowKind::Sliding,
        WindowKind::TokenBucket { burst: 10 },
    ] {
        let (word, minute) = (AtomicU64::new(0), quota(10, Period::Minute, kind));
        let opened = [0, 1, 120, 121].map(|second| take(&word, &minute, 1, at(second)).unwrap().opened);
        assert_eq!(opened, [true, false, true, false], "{kind:?}");
    }
}

#[test]
fn extreme_quotas_and_costs_are_held_within_the_word() {
    let most = u32::MAX;
    for period in PERIODS {
        for kind in [
            WindowKind::Fixed,
            WindowKind::Sliding,
            WindowKind::TokenBucket { burst: most },
        ] {
            for count in [1, most] {
                let (word, quota) = (AtomicU64::new(0), quota(count, period, kind));
                for now in [Time::from_unix_nanos(0), at(0), Time::MAX] {
                    for cost in [0, 1, most, quota.whole()] {
                        let _ = take(&word, &quota, cost, now);
                        let _ = peek(&word, &quota, most, cost, now);
                    }
                }
            }
        }
    }
    let sliding = quota(most, Period::Month, WindowKind::Sliding);
    let word = AtomicU64::new(0);
    assert_eq!(take(&word, &sliding, SLIDING_MOST, at(0)).unwrap().remaining, 0);
    assert!(take(&word, &sliding, 1, at(0)).is_err());
}
