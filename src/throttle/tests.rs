use std::sync::Barrier;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use prometheus::{IntCounterVec, Opts};
use proptest::prelude::*;

use super::*;
use crate::names::PlanName;
use crate::revision::{Limit, Mode, Scope, Sharing, WindowKind};

pub fn limit(name: &str, rate: &str, window: WindowKind) -> Limit {
    Limit {
        name: name.into(),
        rate: rate.parse().unwrap(),
        window,
        scope: Scope::Subscription,
        mode: Mode::Enforce,
        sharing: Sharing::default(),
        zone: None,
    }
}

pub fn rule(limit: &Limit) -> Rule {
    let family = IntCounterVec::new(Opts::new("decisions", "test"), &["limit", "decision"]).unwrap();
    let decisions = Decisions::resolve(&family, limit.name.as_str()).unwrap();
    Rule::compile(
        limit,
        Place::Plan(&PlanName::from("gold")),
        decisions,
        &Defaults::default(),
    )
}

fn fixed(name: &str, rate: &str) -> Rule {
    rule(&limit(name, rate, WindowKind::Fixed))
}

fn shadow(name: &str, rate: &str) -> Rule {
    let mut limit = limit(name, rate, WindowKind::Fixed);
    limit.mode = Mode::Shadow;
    rule(&limit)
}

fn demand(rule: &Rule) -> Demand<'_> {
    Demand {
        rule,
        subject: Subject::of_pair("orders", "mobile"),
    }
}

/// 2026-11-21T05:42:00Z and so many seconds.
fn at(seconds: u64) -> Time {
    Time::from_unix_seconds(1_795_239_720 + seconds)
}

fn counted(rule: &Rule) -> [u64; 3] {
    let decisions = rule.decisions();
    [&decisions.allow, &decisions.deny, &decisions.would_deny].map(prometheus::IntCounter::get)
}

fn remaining(throttle: &Throttle, rule: &Rule, now: Time) -> u32 {
    throttle.describe(&demand(rule), "", now).remaining
}

#[test]
fn a_permit_tells_the_limit_with_the_least_left_and_a_refusal_when_to_come_again() {
    let throttle = Throttle::new(100);
    let rules = [fixed("day", "100/d"), fixed("minute", "3/m")];
    let demands = rules.each_ref().map(demand);
    for left in [2, 1, 0] {
        let standing = throttle.try_admit(&demands, 1, at(18)).unwrap().tightest.unwrap();
        let field = rules[standing.rule].limit_field(standing.remaining, standing.reset);
        assert_eq!(field, format!("\"minute\";r={left};t=42").as_str());
    }
    let exceeded = throttle.try_admit(&demands, 1, at(18).plus(1)).unwrap_err();
    let standing = exceeded.tightest;
    assert_eq!(
        rules[standing.rule].limit_field(standing.remaining, standing.reset),
        "\"minute\";r=0;t=42"
    );
    assert_eq!(headers::retry_after_field(exceeded.retry_after), "42");
    let last_moment = Time::from_unix_nanos(at(60).unix_nanos() - 1);
    assert_eq!(throttle.try_admit(&demands, 1, last_moment).unwrap_err().retry_after, 1);
    assert!(throttle.try_admit(&demands, 1, at(60)).is_ok());
}

#[test]
fn without_enforced_limits_there_is_nothing_to_tell() {
    let throttle = Throttle::new(100);
    let none = Permit {
        tightest: None,
        would_deny: None,
    };
    assert_eq!(throttle.try_admit(&[], 1, at(0)), Ok(none));
    let trial = shadow("trial", "5/m");
    assert_eq!(throttle.try_admit(&[demand(&trial)], 1, at(0)), Ok(none));
}

#[test]
fn retry_after_covers_every_exceeded_limit_not_only_the_first() {
    let throttle = Throttle::new(100);
    let rules = [fixed("minute", "2/m"), fixed("hour", "2/h"), fixed("day", "9/d")];
    let demands = rules.each_ref().map(demand);
    for _ in 0..2 {
        assert!(throttle.try_admit(&demands, 1, at(0)).is_ok());
    }
    let exceeded = throttle.try_admit(&demands, 1, at(0)).unwrap_err();
    assert_eq!((exceeded.tightest.rule, exceeded.retry_after), (1, 18 * 60));
    assert_eq!(rules.each_ref().map(counted), [[2, 1, 0], [2, 1, 0], [2, 0, 0]]);
}

#[test]
fn what_is_refused_is_not_counted_so_a_raised_limit_helps_at_once() {
    let throttle = Throttle::new(100);
    let before = fixed("minute", "5/m");
    let admitted = (0..100)
        .filter(|_| throttle.try_admit(&[demand(&before)], 1, at(0)).is_ok())
        .count();
    assert_eq!(admitted, 5);
    let after = fixed("minute", "8/m");
    let admitted = (0..100)
        .filter(|_| throttle.try_admit(&[demand(&after)], 1, at(1)).is_ok())
        .count();
    assert_eq!(admitted, 3);
}

#[test]
fn a_counter_survives_a_reload_with_another_count_but_not_a_change_of_meaning() {
    let throttle = Throttle::new(100);
    let base = limit("minute", "10/m", WindowKind::Fixed);
    assert!(throttle.try_admit(&[demand(&rule(&base))], 4, at(0)).is_ok());
    let mut smaller = base.clone();
    smaller.rate = "6/m".parse().unwrap();
    assert_eq!(remaining(&throttle, &rule(&smaller), at(1)), 2);

    let mut shadowed = base.clone();
    shadowed.mode = Mode::Shadow;
    assert_eq!(remaining(&throttle, &rule(&shadowed), at(1)), 6);
    let bucket = |burst| rule(&limit("burst", "1/s", WindowKind::TokenBucket { burst }));
    assert_eq!(bucket(5).identity(), bucket(9).identity());

    let mut other_scope = base.clone();
    other_scope.scope = Scope::Key;
    let mut other_period = base.clone();
    other_period.rate = "10/h".parse().unwrap();
    let mut other_window = base.clone();
    other_window.window = WindowKind::Sliding;
    let mut other_name = base.clone();
    other_name.name = "again".into();
    for changed in [other_scope, other_period, other_window, other_name] {
        assert_eq!(remaining(&throttle, &rule(&changed), at(1)), 10, "{changed:?}");
    }
    let decisions = rule(&base).decisions().clone();
    let silver = Rule::compile(
        &base,
        Place::Plan(&"silver".into()),
        decisions.clone(),
        &Defaults::default(),
    );
    let api = Rule::compile(&base, Place::Api(&"gold".into()), decisions, &Defaults::default());
    assert_eq!(remaining(&throttle, &silver, at(1)), 10);
    assert_eq!(remaining(&throttle, &api, at(1)), 10);
}

#[test]
fn a_limit_in_shadow_mode_lets_everything_through_and_counts_what_it_would_have_refused() {
    let throttle = Throttle::new(100);
    let rules = [shadow("trial", "2/m"), fixed("minute", "5/m")];
    let demands = rules.each_ref().map(demand);
    let outcomes: Vec<_> = (0..8).map(|_| throttle.try_admit(&demands, 1, at(0))).collect();
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 5);
    let would_deny: Vec<_> = outcomes.iter().flatten().map(|permit| permit.would_deny).collect();
    assert_eq!(would_deny, [None, None, Some(0), Some(0), Some(0)]);
    assert!(
        outcomes
            .iter()
            .flatten()
            .all(|permit| permit.tightest.unwrap().rule == 1)
    );
    assert_eq!(rules.each_ref().map(counted), [[2, 0, 3], [5, 3, 0]]);
}

#[test]
fn a_limit_in_shadow_mode_gets_back_what_an_enforced_one_refused() {
    let throttle = Throttle::new(100);
    let rules = [shadow("trial", "10/m"), fixed("minute", "3/m")];
    let demands = rules.each_ref().map(demand);
    for _ in 0..9 {
        let _ = throttle.try_admit(&demands, 1, at(0));
    }
    assert_eq!(remaining(&throttle, &rules[0], at(0)), 7);
}

#[test]
fn subjects_do_not_share_a_counter() {
    let throttle = Throttle::new(1_000);
    let minute = fixed("minute", "1/m");
    for client in 0..50 {
        let subject = Subject::of_ip([10, 0, 0, client].into());
        let demands = [Demand { rule: &minute, subject }];
        assert!(throttle.try_admit(&demands, 1, at(0)).is_ok());
        assert!(throttle.try_admit(&demands, 1, at(0)).is_err());
    }
    assert_eq!((throttle.entries(), throttle.evictions()), (50, 0));
}

#[test]
fn more_demands_than_usual_are_all_judged() {
    let throttle = Throttle::new(1_000);
    let rules: Vec<Rule> = (0..40).map(|n| fixed(&format!("limit-{n}"), "5/m")).collect();
    let last = fixed("last", "1/m");
    let demands: Vec<Demand<'_>> = rules.iter().chain([&last]).map(demand).collect();
    assert!(throttle.try_admit(&demands, 1, at(0)).is_ok());
    assert_eq!(throttle.try_admit(&demands, 1, at(0)).unwrap_err().tightest.rule, 40);
    assert!(rules.iter().all(|rule| remaining(&throttle, rule, at(0)) == 4));
}

#[test]
fn a_description_names_the_counter_and_changes_nothing() {
    let throttle = Throttle::new(100);
    let minute = fixed("minute", "5000/m");
    let burst = rule(&limit("burst", "200/s", WindowKind::TokenBucket { burst: 400 }));
    let _ = throttle
        .try_admit(&[demand(&minute), demand(&burst)], 1, at(7))
        .unwrap();
    for _ in 0..3 {
        let description = throttle.describe(&demand(&minute), "mobile@orders", at(8));
        assert_eq!(
            description.key,
            "plan/gold/minute/subscription/mobile@orders/2026-11-21T05:42Z"
        );
        assert_eq!((description.limit, description.remaining), (5_000, 4_999));
        assert_eq!(description.reset, at(60));
    }
    let description = throttle.describe(&demand(&burst), "", at(8));
    assert_eq!(description.key, "plan/gold/burst/subscription");
    assert_eq!(
        (description.limit, description.remaining, description.reset),
        (400, 400, at(8))
    );
    let unseen = Demand {
        rule: &minute,
        subject: Subject::none(),
    };
    assert_eq!(throttle.describe(&unseen, "", at(8)).remaining, 5_000);
    assert_eq!(throttle.entries(), 2);
}

#[test]
fn threads_that_hammer_one_counter_get_exactly_the_limit() {
    for (window, limits) in [
        (WindowKind::Fixed, 10_000),
        (WindowKind::Sliding, 10_000),
        (WindowKind::TokenBucket { burst: 10_000 }, 10_000),
    ] {
        let throttle = Throttle::new(100);
        let rule = rule(&limit("hot", "10000/h", window));
        let (admitted, start) = (AtomicU32::new(0), Barrier::new(8));
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    start.wait();
                    for _ in 0..3_000 {
                        if throttle.try_admit(&[demand(&rule)], 1, at(0)).is_ok() {
                            admitted.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                });
            }
        });
        assert_eq!(admitted.into_inner(), limits, "{window:?}");
        assert_eq!(counted(&rule), [10_000, 14_000, 0]);
    }
}

#[test]
fn what_one_limit_refuses_under_load_leaves_no_trace_in_the_others() {
    let throttle = Throttle::new(100);
    let rules = [
        rule(&limit("burst", "1/d", WindowKind::TokenBucket { burst: 1_000_000 })),
        rule(&limit("sliding", "1000000/d", WindowKind::Sliding)),
        fixed("day", "1000000/d"),
        fixed("narrow", "500/d"),
    ];
    let start = Barrier::new(6);
    thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                let demands = rules.each_ref().map(demand);
                start.wait();
                for _ in 0..1_000 {
                    let _ = throttle.try_admit(&demands, 1, at(0));
                }
            });
        }
    });
    assert_eq!(remaining(&throttle, &rules[3], at(0)), 0);
    for rule in &rules[..3] {
        let limit = rule.quota().whole();
        assert_eq!(limit - remaining(&throttle, rule, at(0)), 500, "{}", rule.name());
    }
}

#[test]
fn counters_that_come_and_go_under_load_never_lend_more_than_their_limit() {
    // Births and spends of this second race with sweeps of the last one.
    let throttle = Throttle::new(10_000);
    let second = fixed("second", "3/s");
    let admitted: Vec<AtomicU32> = (0..2_000).map(|_| AtomicU32::new(0)).collect();
    let (step, swept) = (Barrier::new(4), AtomicU32::new(0));
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for (number, admitted) in admitted.iter().enumerate() {
                    if number % 100 == 0 {
                        step.wait();
                    }
                    let now = at(number as u64 / 100);
                    let demands = [Demand {
                        rule: &second,
                        subject: Subject::of_bytes(&number.to_le_bytes()),
                    }];
                    for _ in 0..2 {
                        let passed = throttle.try_admit(&demands, 1, now).is_ok();
                        admitted.fetch_add(passed.into(), Ordering::Relaxed);
                    }
                    swept.fetch_add(throttle.sweep(now) as u32, Ordering::Relaxed);
                }
            });
        }
    });
    assert!(admitted.iter().all(|admitted| admitted.load(Ordering::Relaxed) == 3));
    assert!(swept.into_inner() >= 1_500, "the sweeps took part");
}

fn any_limit() -> impl Strategy<Value = Limit> {
    let window = prop_oneof![
        Just(WindowKind::Fixed),
        Just(WindowKind::Sliding),
        (1_u32..8).prop_map(|burst| WindowKind::TokenBucket { burst }),
    ];
    let period = prop::sample::select(vec!["s", "m", "h"]);
    (1_u32..8, period, window, prop::bool::weighted(0.3)).prop_map(|(count, period, window, is_shadow)| {
        let mut limit = limit("any", &format!("{count}/{period}"), window);
        if is_shadow {
            limit.mode = Mode::Shadow;
        }
        limit
    })
}

proptest! {
    #[test]
    fn all_limits_are_spent_together_or_none_is(
        mut limits in prop::collection::vec(any_limit(), 1..6),
        requests in prop::collection::vec((0_u64..3_000, 1_u32..3), 1..60)
    ) {
        for (position, limit) in limits.iter_mut().enumerate() {
            limit.name = format!("limit-{position}").into();
        }
        let throttle = Throttle::new(1_000);
        let rules: Vec<Rule> = limits.iter().map(rule).collect();
        let demands: Vec<Demand<'_>> = rules.iter().map(demand).collect();
        let mut now = at(0);
        for (millis, cost) in requests {
            now = now.plus(millis * 1_000_000);
            let describe = || -> Vec<Description> {
                demands.iter().map(|demand| throttle.describe(demand, "", now)).collect()
            };
            let before = describe();
            let outcome = throttle.try_admit(&demands, cost, now);
            let after = describe();
            let enough = |description: &&Description| description.remaining >= cost;
            let passes = before.iter().filter(|description| description.enforced).all(|d| enough(&d));
            prop_assert_eq!(outcome.is_ok(), passes);
            match outcome {
                Err(exceeded) => {
                    prop_assert_eq!(before, after);
                    let waits = demands.iter().filter(|demand| demand.rule.enforced())
                        .filter_map(|demand| throttle.peek(demand, cost, now).err())
                        .map(|refusal| now.seconds_until(refusal.retry_at).max(1));
                    prop_assert_eq!(Some(exceeded.retry_after), waits.max());
                    prop_assert_eq!(exceeded.tightest.reset, exceeded.retry_after);
                    prop_assert!(rules[exceeded.tightest.rule].enforced());
                }
                Ok(permit) => {
                    for (before, after) in before.iter().zip(&after) {
                        let spent = if enough(&before) { cost } else { 0 };
                        prop_assert_eq!(before.remaining - spent, after.remaining);
                    }
                    let least = after.iter().filter(|d| d.enforced).map(|d| d.remaining).min();
                    prop_assert_eq!(permit.tightest.map(|standing| standing.remaining), least);
                }
            }
        }
    }
}

#[test]
fn another_calendar_is_another_counter_and_utc_is_the_one_without_a_name() {
    let in_zone = |name: &str, rate, window| {
        let mut limit = limit("limit", rate, window);
        limit.zone = Some(name.to_owned());
        rule(&limit)
    };
    let identity = |name, rate| in_zone(name, rate, WindowKind::Fixed).identity();
    assert_ne!(identity("Europe/Berlin", "5/d"), identity("Etc/UTC", "5/d"));
    assert_ne!(identity("Europe/Berlin", "5/d"), identity("Asia/Tokyo", "5/d"));
    assert_eq!(identity("Etc/UTC", "5/d"), fixed("limit", "5/d").identity());
    // Where a zone changes nothing, it makes no other counter.
    assert_eq!(identity("Europe/Berlin", "5/m"), fixed("limit", "5/m").identity());
    let bucket = WindowKind::TokenBucket { burst: 5 };
    assert_eq!(
        in_zone("Europe/Berlin", "5/d", bucket).identity(),
        rule(&limit("limit", "5/d", bucket)).identity()
    );
    let rule = in_zone("Europe/Berlin", "5/d", WindowKind::Fixed);
    let key = Throttle::new(10).describe(&demand(&rule), "mobile@orders", at(0)).key;
    assert_eq!(
        key,
        "plan/gold/limit/subscription/mobile@orders/2026-11-21[Europe/Berlin]"
    );
}

#[test]
fn a_day_in_a_zone_begins_anew_at_its_own_midnight() {
    let mut day = limit("day", "2/d", WindowKind::Fixed);
    day.zone = Some("Asia/Kolkata".to_owned());
    let rule = rule(&day);
    let throttle = Throttle::new(10);
    for _ in 0..2 {
        assert!(throttle.try_admit(&[demand(&rule)], 1, at(0)).is_ok());
    }
    // It is 05:42Z: midnight at +05:30 is at 18:30Z.
    let left = (12 * 60 + 48) * 60;
    let exceeded = throttle.try_admit(&[demand(&rule)], 1, at(0)).unwrap_err();
    assert_eq!(exceeded.retry_after, left);
    assert!(throttle.try_admit(&[demand(&rule)], 1, at(left - 1)).is_err());
    assert!(throttle.try_admit(&[demand(&rule)], 1, at(left)).is_ok());
}
