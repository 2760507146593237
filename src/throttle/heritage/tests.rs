use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;

use proptest::prelude::*;

use super::*;
use crate::heritage::{SECTION_BYTES, Section};
use crate::revision::WindowKind;
use crate::throttle::tests::{limit, rule};
use crate::throttle::{Demand, Rule, Subject};

/// 2026-11-21T05:42:00Z and so many milliseconds.
fn at(millis: u64) -> Time {
    Time::from_unix_seconds(1_795_239_720).plus(millis * 1_000_000)
}

fn subject(number: u64) -> Subject {
    Subject::of_number(1, number)
}

fn admits(throttle: &Throttle, rule: &Rule, number: u64, now: Time) -> bool {
    let demand = Demand {
        rule,
        subject: subject(number),
    };
    throttle.try_admit(&[demand], 1, now).is_ok()
}

fn left(throttle: &Throttle, rule: &Rule, number: u64, now: Time) -> u32 {
    let demand = Demand {
        rule,
        subject: subject(number),
    };
    throttle.describe(&demand, "", now).remaining
}

/// Sends sections as a socket would, and takes them in at the other end.
struct Heir {
    throttle: Throttle,
    now: Time,
}

impl Heir {
    fn new(now: Time) -> Self {
        Self {
            throttle: Throttle::new(10_000),
            now,
        }
    }

    fn take(&self, section: &Section) -> io::Result<()> {
        assert!(section.bytes.len() <= SECTION_BYTES);
        let taken = match section.name.as_ref() {
            "counters" => self.throttle.inherit(&section.bytes, self.now),
            "spent" => self.throttle.count_spent(&section.bytes, self.now),
            other => panic!("{other}"),
        };
        taken.map(drop).map_err(|_| io::Error::other("damaged"))
    }

    fn inherit(&self, old: &Throttle) {
        old.hand_on(self.now, &mut |section| self.take(&section)).unwrap();
    }

    fn cut(&self, old: &Arc<Throttle>) -> Legacy {
        old.cut(&mut |section| self.take(&section)).unwrap()
    }

    fn hear(&self, legacy: &mut Legacy) {
        legacy.report(&mut |section| self.take(&section)).unwrap();
    }
}

fn rules() -> [Rule; 4] {
    let mut zoned = limit("day", "30/d", WindowKind::Fixed);
    zoned.zone = Some("Europe/Berlin".to_owned());
    [
        rule(&limit("fixed", "30/h", WindowKind::Fixed)),
        rule(&limit("sliding", "30/h", WindowKind::Sliding)),
        rule(&limit("bucket", "1/h", WindowKind::TokenBucket { burst: 30 })),
        rule(&zoned),
    ]
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Old(u64),
    New(u64),
    Report,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0_u64..3).prop_map(Step::Old),
        4 => (0_u64..3).prop_map(Step::New),
        1 => Just(Step::Report),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whenever a request is spent at the old process, before the export, between it and the cut, or after: the two admit
    /// exactly the limit, and a counter that has nothing left has nothing left at the new one.
    #[test]
    fn two_processes_one_after_the_other_admit_exactly_the_limit(
        kind in 0_usize..4,
        before in prop::collection::vec(0_u64..3, 0..40),
        between in prop::collection::vec(0_u64..3, 0..40),
        after in prop::collection::vec((0_u64..3, any::<bool>()), 0..40),
    ) {
        let rule = &rules()[kind];
        let old = Arc::new(Throttle::new(10_000));
        let heir = Heir::new(at(0));
        let mut admitted = [0; 3];
        let mut spend = |throttle: &Throttle, number: u64| {
            let yes = admits(throttle, rule, number, at(0));
            admitted[number as usize] += u32::from(yes);
            yes
        };
        before.iter().for_each(|number| {
            spend(&old, *number);
        });
        heir.inherit(&old);
        between.iter().for_each(|number| {
            spend(&old, *number);
        });
        let mut legacy = heir.cut(&old);
        for (number, report) in after {
            spend(&old, number);
            if report {
                heir.hear(&mut legacy);
            }
        }
        heir.hear(&mut legacy);
        for number in 0..3 {
            while spend(&heir.throttle, number) {}
        }
        prop_assert_eq!(admitted, [30; 3]);
    }

    /// While both serve, the new one knows after each report what both have admitted, and nothing twice.
    #[test]
    fn after_each_report_the_new_process_has_counted_what_both_have_admitted(
        kind in 0_usize..4,
        steps in prop::collection::vec(step(), 0..80),
    ) {
        let rule = &rules()[kind];
        let old = Arc::new(Throttle::new(10_000));
        let heir = Heir::new(at(0));
        let mut admitted = [0; 3];
        for number in 0..3 {
            for _ in 0..5 {
                admitted[number as usize] += u32::from(admits(&old, rule, number, at(0)));
            }
        }
        heir.inherit(&old);
        let mut legacy = heir.cut(&old);
        for step in steps {
            match step {
                Step::Old(number) => admitted[number as usize] += u32::from(admits(&old, rule, number, at(0))),
                Step::New(number) => {
                    admitted[number as usize] += u32::from(admits(&heir.throttle, rule, number, at(0)));
                }
                Step::Report => {
                    heir.hear(&mut legacy);
                    for number in 0..3 {
                        let all = 30_u32.saturating_sub(admitted[number as usize]);
                        prop_assert_eq!(left(&heir.throttle, rule, number, at(0)), all);
                    }
                }
            }
        }
    }

    #[test]
    fn whatever_comes_nothing_panics_and_little_is_taken(
        bytes in prop::collection::vec(any::<u8>(), 0..400),
        ours in any::<bool>(),
    ) {
        let mut section = if ours { proof().to_vec() } else { Vec::new() };
        section.extend(&bytes);
        let throttle = Throttle::new(1_000);
        for taken in [throttle.inherit(&section, at(0)), throttle.count_spent(&section, at(0))] {
            prop_assert!(taken.is_err() || taken.unwrap() * 28 <= section.len());
        }
        let rules = rules();
        for rule in &rules {
            admits(&throttle, rule, 1, at(0));
        }
    }
}

/// The cut falls between any two requests of any two threads.
#[test]
fn nothing_that_is_spent_during_the_cut_is_lost_or_counted_twice() {
    let rules = [
        rule(&limit("fixed", "1000000/d", WindowKind::Fixed)),
        rule(&limit("bucket", "1/h", WindowKind::TokenBucket { burst: 1_000_000 })),
    ];
    for rule in &rules {
        let old = Arc::new(Throttle::new(100_000));
        let heir = Heir::new(at(0));
        let (stop, spent) = (AtomicBool::new(false), [0; 50].map(AtomicU32::new));
        thread::scope(|scope| {
            let threads = [0, 1, 2, 3].map(|thread| {
                let (old, stop, spent) = (&old, &stop, &spent);
                scope.spawn(move || {
                    for round in 0_u64.. {
                        let number = (round * 7 + thread) % 50;
                        if admits(old, rule, number, at(0)) {
                            spent[number as usize].fetch_add(1, Ordering::Relaxed);
                        }
                        if stop.load(Ordering::Relaxed) {
                            return;
                        }
                    }
                })
            });
            let busy = |more: u32| {
                let total = || spent.iter().map(|count| count.load(Ordering::Relaxed)).sum::<u32>();
                let until = total() + more;
                while total() < until {
                    thread::yield_now();
                }
            };
            busy(1_000);
            heir.inherit(&old);
            busy(1_000);
            let mut legacy = heir.cut(&old);
            for _ in 0..10 {
                busy(100);
                heir.hear(&mut legacy);
            }
            stop.store(true, Ordering::Relaxed);
            for thread in threads {
                thread.join().unwrap();
            }
            heir.hear(&mut legacy);
        });
        for (number, spent) in spent.iter().enumerate() {
            let spent = spent.load(Ordering::Relaxed);
            assert_eq!(left(&heir.throttle, rule, number as u64, at(0)), 1_000_000 - spent);
        }
    }
}

#[test]
fn a_handover_that_is_given_up_leaves_everything_as_it_was() {
    let rule = &rules()[0];
    let old = Arc::new(Throttle::new(10_000));
    let heir = Heir::new(at(0));
    let spend = |count: u32| (0..count).filter(|_| admits(&old, rule, 1, at(0))).count();
    assert_eq!(spend(10), 10);
    heir.inherit(&old);
    let legacy = heir.cut(&old);
    assert_eq!(spend(10), 10);
    drop(legacy);
    assert_eq!(spend(100), 10, "neither reset nor spent twice");
    assert!(old.ledger.spent.lock().is_empty(), "nobody is told any more");
    // And a second one begins at the beginning.
    let other = Heir::new(at(0));
    other.inherit(&old);
    let mut legacy = other.cut(&old);
    other.hear(&mut legacy);
    assert_eq!(left(&other.throttle, rule, 1, at(0)), 0);
}

#[test]
fn counters_that_are_finished_stay_behind_and_those_of_others_are_refused() {
    let rule = rule(&limit("minute", "30/m", WindowKind::Fixed));
    let old = Throttle::new(10_000);
    for number in 0..10 {
        assert!(admits(&old, &rule, number, at(0)));
    }
    assert_eq!(old.hand_on(at(120_000), &mut |_| Ok(())).unwrap(), 0);
    let mut sections = Vec::new();
    let count = old.hand_on(at(0), &mut |section| {
        sections.push(section);
        Ok(())
    });
    assert_eq!(count.unwrap(), 10);
    let new = Throttle::new(10_000);
    let mut bytes = sections.remove(0).bytes;
    bytes[0] ^= 1;
    assert_eq!(new.inherit(&bytes, at(0)), Err(Damaged), "hashed with another secret");
    bytes[0] ^= 1;
    assert_eq!(new.inherit(&bytes[..bytes.len() - 1], at(0)), Err(Damaged));
    assert_eq!(new.entries(), 0, "all or nothing");
    assert_eq!(new.inherit(&bytes, at(0)), Ok(10));
}

#[test]
fn a_full_table_goes_over_in_sections_of_bounded_size() {
    let rule = rule(&limit("day", "30/d", WindowKind::Fixed));
    let old = Throttle::new(100_000);
    for number in 0..50_000 {
        admits(&old, &rule, number, at(0));
    }
    let new = Throttle::new(100_000);
    let mut sections = 0;
    let count = old.hand_on(at(0), &mut |section| {
        assert!(section.bytes.len() <= SECTION_BYTES);
        sections += 1;
        new.inherit(&section.bytes, at(0))
            .map_err(|_| io::Error::other("damaged"))?;
        Ok(())
    });
    assert_eq!((count.unwrap(), new.entries()), (50_000, 50_000));
    assert!(sections > 1);
    assert_eq!(left(&new, &rule, 49_999, at(0)), 29);
}

#[test]
fn who_waits_for_something_to_report_is_woken_by_it() {
    let rule = rules()[0].clone();
    let old = Arc::new(Throttle::new(10_000));
    let mut legacy = old.cut(&mut |_| Ok(())).unwrap();
    thread::scope(|scope| {
        scope.spawn(|| old.wait_for_spent(Duration::from_secs(600)));
        assert!(admits(&old, &rule, 1, at(0)));
    });
    assert_eq!(legacy.report(&mut |_| Ok(())).unwrap(), 1);
    assert_eq!(legacy.report(&mut |_| Ok(())).unwrap(), 0, "once");
}
