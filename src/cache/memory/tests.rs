//! The tier held to a model that is too simple to be wrong.

use std::collections::HashMap;

use pingora::http::ResponseHeader;
use proptest::prelude::*;
use smallvec::SmallVec;

use super::*;
use crate::cache::entry::Ingredients;
use crate::cache::freshness::Lifetime;
use crate::cache::key::{CallerPart, KeyParts, base};
use crate::cache::marks::MarkId;
use crate::cache::policy::Place;

const BUDGET: u64 = 32 << 20;

fn cache(bytes: u64) -> Cache {
    Cache::new(bytes, TierCounters::unregistered())
}

fn key(path: &str) -> Bytes {
    let place = Place {
        api: "api".into(),
        route: "/*".into(),
    };
    Bytes::from(base(&KeyParts {
        scheme: "http",
        host: "api.example",
        path,
        query: None,
        place: &place,
        upstream: "pool",
        key_type: None,
        caller: CallerPart::Everyone,
    }))
}

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

/// An entry that is born at 1000 and fresh until 1010.
fn entry(key: &Bytes, body: &[u8], marks: &[MarkId], sequence: u64) -> Arc<Entry> {
    made(key, body, marks, sequence, 1_000_000)
}

fn made(key: &Bytes, body: &[u8], marks: &[MarkId], sequence: u64, asked_ms: u64) -> Arc<Entry> {
    let mut header = ResponseHeader::build(200, None).expect("a status");
    header.append_header("Content-Type", "text/plain").expect("a field");
    Arc::new(Entry::new(Ingredients {
        key: key.clone(),
        header: &header,
        body: Bytes::copy_from_slice(body),
        lifetime: Lifetime {
            born: at(1000),
            fresh_until: at(1010),
            stale_while_revalidate: 0,
            stale_if_error: 0,
            must_revalidate: false,
            explicit: true,
        },
        marks: SmallVec::from_slice(marks),
        sequence,
        asked_ms,
    }))
}

fn body(found: &Found) -> Option<&[u8]> {
    match found {
        Found::Entry(entry) => Some(&entry.body),
        _ => None,
    }
}

#[test]
fn what_was_put_is_found_by_its_whole_key_and_by_nothing_else() {
    let cache = cache(BUDGET);
    let (one, other) = (key("/one"), key("/other"));
    assert!(cache.put(&one, None, entry(&one, b"1", &[], 0)));
    assert_eq!(body(&cache.find(&one)), Some(b"1".as_slice()));
    assert!(matches!(cache.find(&other), Found::Nothing));
    // As if another key had the same fingerprint: a miss, and never the other one's answer.
    assert!(matches!(cache.find_by(fingerprint(&one), &other), Found::Nothing));
    assert!(cache.find_variant_by(fingerprint(&one), &other).is_none());
    let Found::Entry(found) = cache.find(&one) else {
        panic!("it is there");
    };
    assert_eq!(found.hits(), 2);
}

#[test]
fn variants_are_found_by_what_they_vary_by() {
    let cache = cache(BUDGET);
    let base = key("/one");
    let fields: Arc<[HeaderName]> = Arc::from([http::header::ACCEPT_LANGUAGE]);
    let variant = |language: &str| Bytes::from([base.as_ref(), language.as_bytes()].concat());
    for language in ["de", "en"] {
        let variant = variant(language);
        cache.put(
            &base,
            Some(fields.clone()),
            entry(&variant, language.as_bytes(), &[], 0),
        );
    }
    assert!(matches!(cache.find(&base), Found::Varies(found) if found == fields));
    assert_eq!(cache.find_variant(&variant("de")).expect("German").body, "de");
    assert_eq!(cache.find_variant(&variant("en")).expect("English").body, "en");
    assert!(cache.find_variant(&variant("fr")).is_none());
    // The origin does not vary any more.
    cache.put(&base, None, entry(&base, b"all", &[], 0));
    assert_eq!(body(&cache.find(&base)), Some(b"all".as_slice()));
}

#[test]
fn an_entry_that_was_on_its_way_when_an_invalidation_came_is_not_kept() {
    let cache = cache(BUDGET);
    let (base, tag) = (key("/one"), MarkId::tag("news"));
    let sequence = cache.marks().sequence();
    cache.invalidate(&Invalidation::Mark(tag), 1);
    assert!(!cache.put(&base, None, entry(&base, b"old", &[tag], sequence)));
    assert!(matches!(cache.find(&base), Found::Nothing));
    let sequence = cache.marks().sequence();
    assert!(cache.put(&base, None, entry(&base, b"new", &[tag], sequence)));
    assert_eq!(body(&cache.find(&base)), Some(b"new".as_slice()));
    assert_eq!(cache.counters.invalidated.get(), 1);
}

#[test]
fn what_is_found_invalid_leaves_at_once() {
    let cache = cache(BUDGET);
    let base = key("/a/b");
    cache.put(&base, None, entry(&base, b"old", &[], 0));
    let prefix = Invalidation::Prefix {
        host: Some("api.example".to_owned()),
        path: "/a/".to_owned(),
    };
    cache.invalidate(&prefix, 1);
    assert!(matches!(cache.find(&base), Found::Nothing));
    assert_eq!(cache.size(), (0, 0));
    cache.put(&base, None, entry(&base, b"new", &[], cache.marks().sequence()));
    cache.invalidate(&Invalidation::All, 1);
    assert_eq!(cache.size(), (0, 0));
}

#[test]
fn one_that_was_asked_for_earlier_does_not_replace_a_later_one() {
    let cache = cache(BUDGET);
    let base = key("/one");
    cache.put(&base, None, made(&base, b"late", &[], 0, 1_000_500));
    assert!(!cache.put(&base, None, made(&base, b"early", &[], 0, 1_000_000)));
    assert_eq!(body(&cache.find(&base)), Some(b"late".as_slice()));
    // When the clock was set back by an hour, entries from before that are not in the way.
    assert!(cache.put(&base, None, made(&base, b"set back", &[], 0, 1)));
    assert_eq!(body(&cache.find(&base)), Some(b"set back".as_slice()));
}

#[test]
fn the_budget_holds_and_what_had_to_make_room_is_counted() {
    let cache = cache(4 << 20);
    let large = vec![b'x'; 10_000];
    for number in 0..2000 {
        let base = key(&format!("/{number}"));
        assert!(cache.put(&base, None, entry(&base, &large, &[], 0)));
    }
    let (entries, bytes) = cache.size();
    assert!(bytes <= 4 << 20, "{bytes}");
    assert!(entries > 100, "{entries}");
    assert_eq!(cache.counters.evicted.get(), 2000 - entries as u64);
    // Replacing is not evicting.
    let last = key("/1999");
    let before = cache.counters.evicted.get();
    cache.put(&last, None, entry(&last, &large, &[], 0));
    assert_eq!(cache.counters.evicted.get(), before);
}

#[test]
fn what_is_asked_for_often_outlives_a_flood_of_what_is_asked_for_once() {
    let cache = cache(4 << 20);
    let body = vec![b'x'; 4000];
    let hot: Vec<Bytes> = (0..50).map(|number| key(&format!("/hot/{number}"))).collect();
    for base in &hot {
        cache.put(base, None, entry(base, &body, &[], 0));
    }
    for number in 0..20_000 {
        let base = key(&format!("/once/{number}"));
        cache.put(&base, None, entry(&base, &body, &[], 0));
        if number % 100 == 0 {
            hot.iter().for_each(|base| drop(cache.find(base)));
        }
    }
    let left = hot
        .iter()
        .filter(|base| matches!(cache.find(base), Found::Entry(_)))
        .count();
    assert!(left >= 45, "{left} of 50");
}

#[test]
fn an_entry_that_is_too_large_is_refused_and_counted() {
    let cache = cache(4 << 20);
    let base = key("/large");
    let large = vec![0; usize::try_from(cache.largest()).expect("fits") + 1];
    assert!(!cache.put(&base, None, entry(&base, &large, &[], 0)));
    assert_eq!(cache.counters.refused.get(), 1);
    assert_eq!(cache.size(), (0, 0));
}

#[test]
fn a_sweep_removes_what_is_past_every_use_or_invalid_and_nothing_else() {
    let cache = cache(BUDGET);
    let tag = MarkId::tag("news");
    for number in 0..100 {
        let base = key(&format!("/{number}"));
        let marks: &[MarkId] = if number % 2 == 0 { &[tag] } else { &[] };
        cache.put(&base, None, entry(&base, b"body", marks, 0));
    }
    let base = key("/varies");
    let variant = Bytes::from([base.as_ref(), b"de"].concat());
    cache.put(
        &base,
        Some(Arc::from([http::header::ACCEPT])),
        entry(&variant, b"", &[], 0),
    );
    let sweep = |now| {
        let mut sweeper = cache.sweeper();
        let mut steps = 1;
        while !sweeper.step(now, 10) {
            steps += 1;
        }
        steps
    };
    // Stale, but a client may still take it, for a minute.
    assert!(sweep(at(1069)) >= 10, "no more than ten in a step");
    assert_eq!(cache.size().0, 102);
    cache.invalidate(&Invalidation::Mark(tag), 1);
    sweep(at(1069));
    assert_eq!(cache.size().0, 52);
    assert_eq!(cache.counters.invalidated.get(), 50);
    assert_eq!(cache.counters.entries.get(), 52);
    sweep(at(1072));
    assert_eq!(cache.size(), (0, 0));
    assert_eq!(cache.counters.expired.get(), 52);
    assert_eq!(cache.counters.bytes.get(), 0);
}

#[test]
fn the_hook_is_told_of_what_the_origin_sent_and_not_of_what_was_put() {
    let cache = cache(BUDGET);
    let told = Arc::new(parking_lot::Mutex::new(Vec::new()));
    let sink = Arc::clone(&told);
    assert!(cache.on_filled(Box::new(move |base, vary, entry| {
        sink.lock().push((base.clone(), vary.is_some(), entry.body.clone()));
    })));
    let base = key("/one");
    cache.put(&base, None, entry(&base, b"from elsewhere", &[], 0));
    cache.fill(&base, None, entry(&base, b"from the origin", &[], 0));
    assert_eq!(*told.lock(), [(base, false, Bytes::from_static(b"from the origin"))]);
}

/// One step of a random history.
#[derive(Debug, Clone)]
enum Step {
    /// A request is sent: the clock is read.
    Ask {
        key: usize,
    },
    /// Its answer arrives and is put, by the oldest that is under way for that key.
    Arrive {
        key: usize,
        size: usize,
    },
    Find {
        key: usize,
    },
    Tag {
        tag: usize,
    },
    Prefix {
        under: usize,
    },
    All,
    Remove {
        key: usize,
    },
    Sweep,
}

fn step() -> impl Strategy<Value = Step> {
    let key = 0_usize..8;
    prop_oneof![
        4 => key.clone().prop_map(|key| Step::Ask { key }),
        4 => (key.clone(), 0_usize..3000).prop_map(|(key, size)| Step::Arrive { key, size }),
        6 => key.clone().prop_map(|key| Step::Find { key }),
        2 => (0_usize..3).prop_map(|tag| Step::Tag { tag }),
        1 => (0_usize..2).prop_map(|under| Step::Prefix { under }),
        1 => Just(Step::All),
        1 => key.prop_map(|key| Step::Remove { key }),
        1 => Just(Step::Sweep),
    ]
}

/// What the model knows of an answer: which it is, and whether it was invalidated since its request was sent.
#[derive(Debug, Clone, Default)]
struct Answer {
    number: u32,
    sequence: u64,
    is_invalid: bool,
    size: usize,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn nothing_is_found_that_is_gone_or_belongs_to_another_key(steps in proptest::collection::vec(step(), 1..120)) {
        let cache = cache(1 << 20);
        let tags: Vec<MarkId> = (0..3).map(|number| MarkId::tag(&format!("tag-{number}"))).collect();
        // Keys 0 to 3 are below /0/, the others below /1/; each has one tag.
        let keys: Vec<Bytes> = (0..8).map(|number| key(&format!("/{}/{number}", number / 4))).collect();
        let mut asked: HashMap<usize, Vec<Answer>> = HashMap::new();
        let mut kept: HashMap<usize, Answer> = HashMap::new();
        let mut number = 0;
        let invalidate = |asked: &mut HashMap<usize, Vec<Answer>>,
                              kept: &mut HashMap<usize, Answer>,
                              what: &Invalidation,
                              concerns: &dyn Fn(usize) -> bool| {
            cache.invalidate(what, 1);
            asked.iter_mut().filter(|(key, _)| concerns(**key)).for_each(|(_, answers)| {
                answers.iter_mut().for_each(|answer| answer.is_invalid = true);
            });
            kept.iter_mut().filter(|(key, _)| concerns(**key)).for_each(|(_, answer)| answer.is_invalid = true);
        };
        for step in steps {
            match step {
                Step::Ask { key } => {
                    number += 1;
                    let sequence = cache.marks().sequence();
                    asked.entry(key).or_default().push(Answer { number, sequence, ..Answer::default() });
                }
                Step::Arrive { key, size } => {
                    let under_way = asked.entry(key).or_default();
                    if !under_way.is_empty() {
                        let answer = Answer { size, ..under_way.remove(0) };
                        let mut text = format!("{key} {} ", answer.number).into_bytes();
                        text.resize(text.len() + size, b'.');
                        let is_kept = cache.put(&keys[key], None, entry(&keys[key], &text, &[tags[key % 3]], answer.sequence));
                        prop_assert_eq!(is_kept, !answer.is_invalid);
                        if is_kept {
                            kept.insert(key, answer);
                        }
                    }
                }
                Step::Find { key } => {
                    let found = cache.find(&keys[key]);
                    let Some(text) = body(&found) else { continue };
                    let Some(answer) = kept.get(&key) else {
                        panic!("found what was never kept, or removed");
                    };
                    prop_assert!(!answer.is_invalid);
                    let head = format!("{key} {} ", answer.number);
                    prop_assert!(text.starts_with(head.as_bytes()));
                    prop_assert!(text.len() > answer.size);
                }
                Step::Tag { tag } => {
                    invalidate(&mut asked, &mut kept, &Invalidation::Mark(tags[tag]), &|key| key % 3 == tag);
                }
                Step::Prefix { under } => {
                    let what = Invalidation::Prefix { host: None, path: format!("/{under}/") };
                    invalidate(&mut asked, &mut kept, &what, &|key| key / 4 == under);
                }
                Step::All => invalidate(&mut asked, &mut kept, &Invalidation::All, &|_| true),
                Step::Remove { key } => {
                    cache.remove(fingerprint(&keys[key]));
                    kept.remove(&key);
                }
                Step::Sweep => {
                    cache.sweeper().step(at(1005), 100);
                    // What is valid is still there: there is room for all of them.
                    for (key, answer) in &kept {
                        prop_assert_eq!(body(&cache.find(&keys[*key])).is_some(), !answer.is_invalid);
                    }
                }
            }
        }
    }
}
