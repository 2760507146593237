use proptest::prelude::*;
use tokio::sync::watch;

use super::*;
use crate::config;
use crate::config::KeyCache;
use crate::names::UpstreamName;
use crate::revision::WindowKind;
use crate::telemetry::Metrics;
use crate::throttle::tests::{limit, rule};
use crate::throttle::{Demand, Rule, Subject};

/// A process, as far as it is handed on.
struct Process {
    runtime: tokio::runtime::Runtime,
    estate: Estate,
    _shutdown: watch::Sender<bool>,
}

impl Process {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let metrics = Metrics::new().unwrap();
        let (shutdown, shutdown_seen) = watch::channel(false);
        let dns = config::Dns {
            servers: vec![([127, 0, 0, 1], 9).into()],
            ..config::Dns::default()
        };
        let discovery = Discovery::new(&dns, runtime.handle().clone(), metrics.upstreams().lookups());
        let estate = Estate {
            throttle: Arc::new(Throttle::new(10_000)),
            key_sets: KeySets::new(runtime.handle().clone(), shutdown_seen),
            tokens: Arc::new(TokenCache::new(100)),
            introspectors: Introspectors::new(&KeyCache::default()).unwrap(),
            registry: Arc::new(Registry::new(None, metrics.upstreams().clone())),
            discovery: Arc::new(discovery.unwrap()),
            tally: Tally::default(),
        };
        Self {
            runtime,
            estate,
            _shutdown: shutdown,
        }
    }

    fn admits(&self, rule: &Rule) -> bool {
        let subject = Subject::of_bytes(b"mobile");
        let demand = Demand { rule, subject };
        self.estate.throttle.try_admit(&[demand], 1, self.estate.now()).is_ok()
    }
}

fn daily(count: u32) -> Rule {
    rule(&limit("daily", &format!("{count}/month"), WindowKind::Fixed))
}

#[test]
fn what_is_handed_on_in_three_steps_makes_one_limit_of_two_processes() {
    let (old, new, rule) = (Process::new(), Process::new(), daily(100));
    let spend = |process: &Process, count: usize| (0..count).filter(|_| process.admits(&rule)).count();
    let mut import = |section: Section| {
        assert!(matches!(new.estate.import(&section), Imported::Taken(_)), "{section:?}");
        Ok(())
    };
    let endpoint = (old.estate.registry).endpoint(&UpstreamName::from("orders"), ([10, 0, 0, 1], 80).into(), None);
    assert_eq!(spend(&old, 10), 10);
    let mut exported = old.estate.export(&mut import).unwrap();
    assert_eq!(exported.records(), 3, "the secret, an endpoint, a counter");
    assert_eq!(spend(&old, 10), 10);
    old.estate.export_changes(&mut exported, &mut import).unwrap();
    old.estate.make_way();
    assert_eq!(spend(&old, 10), 10);
    assert_eq!(old.estate.export_spent(&mut exported, &mut import).unwrap(), 1);
    assert_eq!(old.estate.export_spent(&mut exported, &mut import).unwrap(), 0);
    assert_eq!(spend(&new, 1_000), 70);
    assert_eq!(new.estate.tally.left_out(), 0);
    drop((endpoint, old.runtime, new.runtime));
}

#[test]
fn what_is_not_understood_is_left_out_and_counted_and_hurts_nobody() {
    let (old, new, rule) = (Process::new(), Process::new(), daily(3));
    assert!(old.admits(&rule));
    let section = |name: &'static str, version, bytes: &[u8]| Section {
        name: Cow::Borrowed(name),
        version,
        bytes: bytes.to_vec(),
    };
    let estate = &new.estate;
    assert_eq!(estate.import(&section("weather", 1, b"fine")), Imported::Unknown);
    assert_eq!(estate.import(&section("counters", 2, b"")), Imported::OtherVersion);
    assert_eq!(estate.import(&section("counters", 1, b"nonsense")), Imported::Damaged);
    assert_eq!(
        estate.import(&section("identity", 1, &[7; 16])),
        Imported::Damaged,
        "identities were made already"
    );
    assert_eq!(estate.tally.left_out(), 4);
    let mut broken = |section: Section| match section.name.as_ref() {
        "counters" => Err(io::Error::other("the socket is full")),
        _ => Ok(()),
    };
    assert!(old.estate.export(&mut broken).is_err());
    assert!(new.admits(&rule) && old.admits(&rule) && old.admits(&rule) && !old.admits(&rule));
}

#[test]
fn a_handover_that_fails_while_counters_are_cut_leaves_them_whole() {
    let (old, rule) = (Process::new(), daily(3));
    assert!(old.admits(&rule));
    let mut exported = old.estate.export(&mut |_| Ok(())).unwrap();
    assert!(old.admits(&rule));
    let mut broken = |section: Section| match section.name.as_ref() {
        "counters" => Err(io::Error::other("it was killed")),
        _ => Ok(()),
    };
    assert!(old.estate.export_changes(&mut exported, &mut broken).is_err());
    assert_eq!(
        old.estate
            .export_spent(&mut exported, &mut |_| panic!("nobody is told"))
            .unwrap(),
        0
    );
    drop(exported);
    assert!(old.admits(&rule) && !old.admits(&rule));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn whatever_comes_nothing_panics(
        name in prop::sample::select(vec![
            "identity", "key-sets", "tokens", "introspections", "endpoints", "names", "counters", "spent",
        ]),
        bytes in prop::collection::vec(prop_oneof![Just(0_u8), Just(1), any::<u8>()], 0..600),
    ) {
        thread_local!(static PROCESS: Process = Process::new());
        let section = Section { name: Cow::Borrowed(name), version: 1, bytes };
        PROCESS.with(|process| process.estate.import(&section));
    }
}
