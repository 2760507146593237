//! The store against a list of what happened, and against every order in which things can happen.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// A control plane of few words: the log, and who is let in after each record.
#[derive(Default)]
struct Plane {
    records: Vec<KeyChange>,
}

impl Plane {
    fn seq(&self) -> u64 {
        self.records.len() as u64
    }

    /// Who was let in after so many records.
    fn keys_at(&self, seq: u64) -> BTreeMap<KeyHash, KeyEntry> {
        let mut keys = BTreeMap::new();
        for change in self.records.iter().take(seq as usize) {
            match change {
                KeyChange::Put(entry) => drop(keys.insert(entry.hash, entry.clone())),
                KeyChange::Del { hash } => drop(keys.remove(hash)),
            }
        }
        keys
    }

    fn revoked_at(&self, seq: u64, hash: &KeyHash) -> bool {
        let mut records = self.records.iter().take(seq as usize);
        records
            .rfind(|change| change.hash() == *hash)
            .is_some_and(|change| matches!(change, KeyChange::Del { .. }))
    }

    fn base_at(&self, seq: u64) -> Foundation {
        let mut builder = base::Builder::default();
        for entry in self.keys_at(seq).values() {
            builder.push_entry(entry).unwrap();
        }
        Foundation {
            epoch: 7,
            seq,
            keys: Keys::All(builder.finish()),
        }
    }

    fn filter_at(&self, seq: u64) -> Foundation {
        let heads: Vec<u64> = self.keys_at(seq).keys().map(KeyHash::head).collect();
        Foundation {
            epoch: 7,
            seq,
            keys: Keys::Filter(decode_filter(&encode_filter(&heads)).unwrap()),
        }
    }

    fn answer_at(&self, seq: u64, asked: &[KeyHash]) -> Resolved {
        let keys = self.keys_at(seq);
        Resolved {
            seq,
            keys: asked.iter().filter_map(|hash| keys.get(hash).cloned()).collect(),
        }
    }

    /// Brings a store on, by so many records.
    fn feed(&self, store: &KeyStore, most: usize) {
        let rest = self.records.iter().skip(store.seq() as usize).take(most).cloned();
        apply(store, rest);
    }
}

#[derive(Debug, Clone)]
enum Step {
    Put(u8),
    Revoke(u8),
    Feed(u8),
    Merge,
    /// On a base or filter that was made so many records ago.
    Base(u8),
    Filter(u8),
    /// A question about a key, answered by a node that is so many records behind.
    Resolve(u8, u8),
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..20_u8).prop_map(Step::Put),
        3 => (0..20_u8).prop_map(Step::Revoke),
        6 => (1..6_u8).prop_map(Step::Feed),
        2 => Just(Step::Merge),
        1 => (0..6_u8).prop_map(Step::Base),
        2 => (0..6_u8).prop_map(Step::Filter),
        4 => (0..20_u8, 0..6_u8).prop_map(|(key, behind)| Step::Resolve(key, behind)),
        1 => Just(Step::Restart),
    ]
}

/// Asks as a request's thread does, with a control plane that answers from an older or the newest record.
fn ask(store: &Arc<KeyStore>, plane: &Plane, hash: KeyHash, behind: u64) {
    if store.find(&hash, NOW, |_| ()) != Found::Unresolved {
        return;
    }
    let question = Question {
        store: Arc::clone(store),
        generation: store.generation.load(Ordering::Acquire),
        hashes: vec![hash],
    };
    question.settle(&plane.answer_at(plane.seq().saturating_sub(behind), &[hash]), NOW);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_the_store_says_what_the_log_said(steps in proptest::collection::vec(step(), 1..60)) {
        let mut plane = Plane::default();
        let mut store = store(0, all(&[]));
        for step in steps {
            match step {
                // A key that was revoked never comes back: neither at the control plane, nor here.
                Step::Put(key) => {
                    let hash = hash(&key.to_string());
                    if !plane.records.contains(&KeyChange::Del { hash }) {
                        plane.records.push(put(&key.to_string()));
                    }
                }
                Step::Revoke(key) => plane.records.push(del(&key.to_string())),
                Step::Feed(most) => plane.feed(&store, most.into()),
                Step::Merge => store.merge().unwrap(),
                Step::Base(behind) => {
                    let place = plane.seq().saturating_sub(behind.into());
                    let is_old = place < store.foundation();
                    prop_assert_eq!(store.stand_on(plane.base_at(place)).is_err(), is_old);
                }
                Step::Filter(behind) => {
                    let place = plane.seq().saturating_sub(behind.into());
                    let is_old = place < store.foundation();
                    prop_assert_eq!(store.stand_on(plane.filter_at(place)).is_err(), is_old);
                }
                Step::Resolve(key, behind) => ask(&store, &plane, hash(&key.to_string()), behind.into()),
                Step::Restart => {
                    let (mut base, mut log) = (Vec::new(), Vec::new());
                    let saved = store.save(LIVE);
                    saved.write_base(&mut base).unwrap();
                    saved.write_log(&mut log).unwrap();
                    store = Arc::new(KeyStore::new());
                    store.restore(LIVE, &base, Some(&log)).unwrap();
                }
            }
            let then = plane.keys_at(store.seq());
            for key in 0..20_u8 {
                let text = key.to_string();
                let hash = hash(&text);
                let found = find(&store, &text);
                match (&found, then.get(&hash)) {
                    (Found::Key(id), Some(entry)) => prop_assert_eq!(id, &entry.id),
                    // An answer may know what the log has not brought yet; never less than that.
                    (Found::Key(_), None) => {
                        prop_assert!(store.has_filter());
                        prop_assert!(!plane.revoked_at(store.seq(), &hash), "key {key} is back");
                    }
                    (Found::Revoked, entry) => prop_assert!(entry.is_none(), "key {key} is gone"),
                    (Found::Unknown, entry) => {
                        // Here too an answer may be ahead of the log.
                        prop_assert!(entry.is_none() || plane.revoked_at(plane.seq(), &hash), "key {key} is unknown");
                    }
                    (Found::Unresolved, _) => prop_assert!(store.has_filter()),
                }
            }
        }
    }
}

/// What one of those who take part in the story does next.
type Act = fn(&mut Story);

/// A key is asked for, revoked, and everything around it moves.
struct Story {
    plane: Plane,
    store: Arc<KeyStore>,
    question: Option<Question>,
    answer: Option<Resolved>,
    filter: Option<u64>,
    waiter: Option<Answer>,
}

const TOLD: &str = "the key";

impl Story {
    fn new() -> Self {
        let plane = Plane {
            records: vec![put("other"), put(TOLD)],
        };
        let store = store(2, blind_filter());
        let question = Question {
            store: Arc::clone(&store),
            generation: store.generation.load(Ordering::Acquire),
            hashes: vec![hash(TOLD)],
        };
        Self {
            plane,
            store,
            question: Some(question),
            answer: None,
            filter: None,
            waiter: None,
        }
    }

    /// The control plane looks the key up…
    fn look_up(&mut self) {
        self.answer = Some(self.plane.answer_at(self.plane.seq(), &[hash(TOLD)]));
    }

    /// …and its answer arrives.
    fn settle(&mut self) {
        let question = self.question.take().unwrap();
        let generation = question.generation;
        let answer = self.answer.take().unwrap();
        question.settle(&answer, NOW);
        // What the request that waits is told: exactly what is remembered.
        self.waiter = self.store.resolved.get(&hash(TOLD)).map(|remembered| Answer::Known {
            key: remembered.key,
            generation,
        });
    }

    /// The key is revoked at the control plane…
    fn revoke(&mut self) {
        self.plane.records.push(del(TOLD));
    }

    /// …and the log says so, unless a newer filter was faster.
    fn feed(&mut self) {
        self.plane.feed(&self.store, 100);
    }

    /// A filter is made…
    fn make_filter(&mut self) {
        self.filter = Some(self.plane.seq());
    }

    /// …and arrives.
    fn stand_on_filter(&mut self) {
        let foundation = Foundation {
            epoch: 7,
            seq: self.filter.take().unwrap(),
            keys: blind_filter(),
        };
        self.store.stand_on(foundation).unwrap();
    }

    fn merge(&mut self) {
        self.store.merge().unwrap();
    }

    fn check(&self, so_far: &[usize]) {
        if !self.plane.revoked_at(self.store.seq(), &hash(TOLD)) {
            return;
        }
        let found = find(&self.store, TOLD);
        assert!(!matches!(found, Found::Key(_)), "the key is back after {so_far:?}");
        if let (Found::Unresolved, Some(Answer::Known { generation, .. })) = (found, &self.waiter) {
            assert!(
                !self.store.is_of_now(*generation),
                "who waited is let in after {so_far:?}"
            );
        }
    }
}

#[test]
fn in_no_order_of_events_an_answer_under_way_brings_a_revoked_key_back() {
    const ACTORS: [&[Act]; 4] = [
        &[Story::look_up, Story::settle],
        &[Story::revoke, Story::feed],
        &[Story::make_filter, Story::stand_on_filter],
        &[Story::merge],
    ];
    let mut orders = Vec::new();
    let mut unfinished = vec![Vec::new()];
    while let Some(order) = unfinished.pop() {
        let done = |actor: usize| order.iter().filter(|other| **other == actor).count();
        let next: Vec<usize> = (0..ACTORS.len())
            .filter(|actor| done(*actor) < ACTORS[*actor].len())
            .collect();
        for actor in &next {
            unfinished.push([order.clone(), vec![*actor]].concat());
        }
        if next.is_empty() {
            orders.push(order);
        }
    }
    assert_eq!(orders.len(), 630);
    let mut was_let_in = 0;
    for order in orders {
        let mut story = Story::new();
        let mut steps = [0; ACTORS.len()];
        for (position, actor) in order.iter().enumerate() {
            ACTORS[*actor][steps[*actor]](&mut story);
            steps[*actor] += 1;
            story.check(&order[..=position]);
            was_let_in += usize::from(matches!(find(&story.store, TOLD), Found::Key(_)));
        }
        assert!(!matches!(find(&story.store, TOLD), Found::Key(_)));
    }
    assert!(was_let_in > 0, "else nothing was tried");
}
