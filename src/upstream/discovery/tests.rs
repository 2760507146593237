use super::*;
use crate::telemetry::Metrics;

const SECOND: Duration = Duration::from_secs(1);

/// Asks nobody: answers are made up.
struct Stage {
    discovery: Discovery,
    _runtime: tokio::runtime::Runtime,
    start: Instant,
}

impl Stage {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let settings = config::Dns {
            servers: vec![([127, 0, 0, 1], 9).into()],
            timeout: Duration::from_millis(20),
            ..config::Dns::default()
        };
        let counters = Metrics::new().unwrap().upstreams().lookups();
        Self {
            discovery: Discovery::new(&settings, runtime.handle().clone(), counters).unwrap(),
            _runtime: runtime,
            start: Instant::now(),
        }
    }

    fn learn(&self, seconds: u32, answer: Answer) -> bool {
        self.discovery.learn(&orders(), answer, self.start + seconds * SECOND)
    }

    fn places(&self) -> Vec<Found> {
        self.discovery.known().get(&orders()).unwrap().places.clone()
    }

    /// How long after that it is asked again.
    fn pause(&self, seconds: u32) -> Duration {
        let due = self.discovery.known().get(&orders()).unwrap().due;
        due.saturating_duration_since(self.start + seconds * SECOND)
    }
}

fn orders() -> Locator {
    Locator::Host {
        host: "orders.internal".into(),
        port: 80,
    }
}

fn at(last: u8) -> Vec<Found> {
    vec![Found::at(([10, 0, 0, last], 80).into())]
}

fn found(last: u8, ttl: u64) -> Answer {
    Answer::Found {
        places: at(last),
        ttl: Duration::from_secs(ttl),
        incomplete: None,
    }
}

fn roughly(pause: Duration, seconds: u32) -> bool {
    (seconds * SECOND).mul_f64(0.89) <= pause && pause <= (seconds * SECOND).mul_f64(1.11)
}

#[test]
fn an_answer_is_good_for_as_long_as_it_says_within_bounds() {
    let stage = Stage::new();
    for (ttl, seconds) in [(30, 30), (0, 1), (86_400, 300)] {
        stage.learn(0, found(1, ttl));
        let pause = stage.pause(0);
        assert!(roughly(pause, seconds) && pause >= seconds * SECOND, "{ttl}: {pause:?}");
    }
}

#[test]
fn only_other_places_are_a_change() {
    let stage = Stage::new();
    assert!(stage.learn(0, found(1, 30)));
    assert!(!stage.learn(30, found(1, 30)));
    assert!(stage.learn(60, found(2, 30)));
    assert_eq!(stage.places(), at(2));
}

#[test]
fn failures_take_nothing_away_and_are_tried_again_later_and_later() {
    let stage = Stage::new();
    stage.learn(0, found(1, 30));
    let pauses: Vec<Duration> = (0..8)
        .map(|number| {
            let answer = match number % 2 {
                0 => Answer::Failed("nobody knows".into()),
                _ => Answer::Gone("there is no such name".into()),
            };
            assert!(!stage.learn(100, answer));
            stage.pause(100)
        })
        .collect();
    assert_eq!(stage.places(), at(1));
    for (pause, seconds) in pauses.iter().zip([1, 2, 4, 8, 16, 30, 30, 30]) {
        assert!(roughly(*pause, seconds), "{pauses:?}");
    }
    stage.learn(200, found(1, 30));
    stage.learn(300, Answer::Failed("again".into()));
    assert!(roughly(stage.pause(300), 1), "it begins anew");
}

/// An answer that lacks what is behind one of its targets.
fn part(places: Vec<Found>) -> Answer {
    Answer::Found {
        places,
        ttl: 300 * SECOND,
        incomplete: Some("its target b.internal: no answer".into()),
    }
}

#[test]
fn an_answer_in_parts_brings_what_is_new_and_takes_nothing_away() {
    let stage = Stage::new();
    assert!(stage.learn(0, part(at(2))));
    assert_eq!(stage.places(), at(2));
    assert!(roughly(stage.pause(0), 1), "it is not what it should be yet");
    assert!(stage.learn(1, part(at(1))));
    assert_eq!(
        stage.places(),
        [at(1), at(2)].concat(),
        "the new one beside what was known"
    );
    assert!(!stage.learn(2, part(at(2))));
    let heavy = Found {
        weight: Some(5),
        ..at(2)[0]
    };
    assert!(stage.learn(3, part(vec![heavy])), "it has another weight");
    assert_eq!(stage.places(), [at(1)[0], heavy]);
    assert!(stage.learn(4, found(3, 30)), "an answer that is whole");
    assert_eq!(stage.places(), at(3));
}

#[test]
fn parts_of_answers_do_not_pile_up_without_end() {
    let stage = Stage::new();
    let crowd = |third: u8| -> Vec<Found> {
        (0..PLACES_MAX)
            .map(|last| Found::at(([10, third, (last >> 8) as u8, last as u8], 80).into()))
            .collect()
    };
    assert!(stage.learn(0, part(crowd(1))));
    assert!(!stage.learn(1, part(crowd(0))));
    assert_eq!(stage.places(), crowd(1), "what was known stays");
}

#[test]
fn names_are_asked_for_one_at_a_time_each_and_not_more_than_there_is_room_for() {
    let stage = Stage::new();
    let name = |number: u16| Locator::Service(format!("_http._tcp.{number}.internal"));
    for number in 0..10 {
        let answer = Answer::Failed("nobody knows".into());
        stage.discovery.learn(&name(number), answer, stage.start);
    }
    let now = stage.start + 2 * SECOND;
    let (first, next) = stage.discovery.take_due(now, 7);
    assert_eq!((first.len(), next), (7, None));
    assert_eq!(
        stage.discovery.take_due(now, 7).0.len(),
        3,
        "those that are asked for are not asked for again"
    );
    assert!(stage.discovery.take_due(now, 7).0.is_empty());
    stage.discovery.learn(&first[0], found(1, 30), now);
    let (none, next) = stage.discovery.take_due(now, 7);
    assert!(none.is_empty() && next.is_some_and(|next| next >= now + 30 * SECOND));
}

#[test]
fn what_nobody_uses_is_forgotten_after_a_while() {
    let stage = Stage::new();
    stage.learn(0, found(1, 30));
    stage.discovery.use_names(&[], stage.start + 59 * SECOND);
    assert_eq!(
        stage.places(),
        at(1),
        "a revision that is being compiled is about to use it"
    );
    stage.discovery.use_names(&[], stage.start + 61 * SECOND);
    assert!(stage.discovery.known().is_empty());
}

#[test]
fn while_nobody_answers_a_new_name_is_nowhere_an_address_is_where_it_is_and_what_is_known_is_taken() {
    let stage = Stage::new();
    stage.learn(0, found(1, 30));
    let address = Locator::Host {
        host: "10.1.2.3".into(),
        port: 81,
    };
    let unknown = Locator::Host {
        host: "invoices.internal".into(),
        port: 80,
    };
    let found = stage.discovery.find_all(&[&unknown, &address, &orders()]);
    let expected = [Vec::new(), vec![Found::at(([10, 1, 2, 3], 81).into())], at(1)];
    assert_eq!(found, expected.map(Ok));
}

#[test]
fn the_next_process_knows_where_names_are_and_asks_when_their_time_is_over() {
    let (old, new) = (Stage::new(), Stage::new());
    old.learn(0, found(1, 30));
    let mut sections = Vec::new();
    let handed_on = old.discovery.hand_on(&mut |section| {
        sections.push(section);
        Ok(())
    });
    assert_eq!(handed_on.unwrap(), 1);
    assert_eq!(new.discovery.inherit(&sections[0].bytes), Ok(1));
    let found_at_once = new.discovery.find_all(&[&orders()]);
    assert_eq!(found_at_once, [Ok(at(1))], "nobody is asked: there is nobody to ask");
    assert!(roughly(new.pause(0), 30));
    // What it has learnt itself is newer.
    new.learn(0, found(2, 30));
    assert_eq!(new.discovery.inherit(&sections[0].bytes), Ok(0));
    assert_eq!(new.places(), at(2));
    for cut in 1..sections[0].bytes.len() {
        assert!(new.discovery.inherit(&sections[0].bytes[..cut]).is_err(), "{cut}");
    }
}
