//! The store as requests see it: above it the revision's own keys, beside it applications that come and go.

use futures_util::FutureExt;

use super::*;
use crate::auth::testing::{api, application, key_header};
use crate::auth::{Authenticator, Caller, Denial, Invalid, KeySets};
use crate::revision::{AuthMethod, EnvironmentType, Key, Revision};

const IN_DOCUMENT: &str = "a-key-of-the-document";
const IN_STORE: &str = "a-key-of-the-store";
const MAYBE: &str = "a-key-that-is-elsewhere";

fn authenticator(store: &Arc<KeyStore>, environment: EnvironmentType) -> Authenticator {
    let own = Key {
        id: "own-1".into(),
        sha256: digest(IN_DOCUMENT).0,
        key_type: KeyType::Production,
        expires: None,
    };
    let revision = Revision {
        apis: vec![
            api("orders", vec![AuthMethod::ApiKey]),
            api("stock", vec![AuthMethod::ApiKey]),
        ],
        applications: vec![
            application("batch", &[1], vec![own]),
            application("mobile", &[0], Vec::new()),
        ],
        ..Revision::default()
    };
    Authenticator::compile(&revision, environment, &KeySets::offline(), Arc::default())
        .with_store(Some(Arc::clone(store)))
}

/// Asks and does not wait.
fn ask(gate: &Authenticator, api: usize, text: &str) -> Result<Caller, Denial> {
    let asked = gate
        .identify(api, &[], &key_header(text), None, None, NOW)
        .now_or_never();
    asked.expect("an answer at once")
}

fn unknown() -> Option<Denial> {
    Some(Denial::CredentialInvalid(Invalid::UnknownKey))
}

#[test]
fn a_key_of_the_store_leads_to_the_application_of_the_revision_that_is_running() {
    let store = store(10, all(&[IN_STORE]));
    let gate = authenticator(&store, EnvironmentType::Hybrid);
    let caller = ask(&gate, 0, IN_STORE).unwrap();
    assert_eq!((caller.application(), caller.plan()), (Some(1), Some(10)));
    assert_eq!(caller.key_id(), Some(format!("id-{IN_STORE}").as_str()));
    assert_eq!(
        caller.key_hash(),
        Some(crate::auth::keyring::stable_hash("key", &format!("id-{IN_STORE}")))
    );
    assert_eq!(caller.key_type(), Some(KeyType::Production));
    assert_eq!(ask(&gate, 1, IN_STORE).err(), Some(Denial::SubscriptionMissing));
    assert_eq!(ask(&gate, 0, "a-key-of-nobody").err(), unknown());
    assert_eq!(ask(&gate, 1, IN_DOCUMENT).unwrap().key_id(), Some("own-1"));

    let orphan = KeyChange::Put(KeyEntry {
        application: "not-published-yet".to_owned(),
        ..entry("orphan-key")
    });
    let trial = KeyChange::Put(KeyEntry {
        key_type: KeyType::Sandbox,
        id: "i".repeat(200),
        ..entry("trial-key")
    });
    let over = KeyChange::Put(KeyEntry {
        expires_ms: Some(NOW),
        ..entry("expired-key")
    });
    apply(&store, [orphan, trial, over]);
    for merged in [false, true] {
        assert_eq!(ask(&gate, 0, "orphan-key").err(), Some(Denial::SubscriptionMissing));
        assert_eq!(ask(&gate, 0, "expired-key").err(), Some(Denial::CredentialExpired));
        assert_eq!(
            ask(&gate, 0, "trial-key").unwrap().key_id(),
            Some("i".repeat(200).as_str())
        );
        let production = authenticator(&store, EnvironmentType::Production);
        assert_eq!(ask(&production, 0, "trial-key").err(), Some(Denial::KeyTypeMismatch));
        let scopes = ["orders:read".to_owned()];
        let scoped = gate
            .identify(0, &scopes, &key_header(IN_STORE), None, None, NOW)
            .now_or_never()
            .unwrap();
        assert!(matches!(scoped.err(), Some(Denial::ScopeInsufficient { .. })));
        assert_eq!(merged, store.size().overlay == 0);
        store.merge().unwrap();
    }
}

#[test]
fn a_revocation_also_beats_a_key_that_stands_in_the_revision() {
    let store = store(10, all(&[IN_STORE]));
    let gate = authenticator(&store, EnvironmentType::Hybrid);
    assert!(ask(&gate, 1, IN_DOCUMENT).is_ok());
    apply(&store, [del(IN_DOCUMENT)]);
    assert_eq!(ask(&gate, 1, IN_DOCUMENT).err(), unknown());
    store.merge().unwrap();
    assert_eq!(ask(&gate, 1, IN_DOCUMENT).err(), unknown());
    let filter = filter(&[IN_STORE, IN_DOCUMENT]);
    store
        .stand_on(Foundation {
            epoch: 7,
            seq: 11,
            keys: filter,
        })
        .unwrap();
    assert_eq!(ask(&gate, 1, IN_DOCUMENT).err(), unknown());
}

#[test]
fn until_the_log_is_known_only_keys_of_the_revision_let_in_and_others_get_503() {
    let store = Arc::new(KeyStore::new());
    let gate = authenticator(&store, EnvironmentType::Hybrid);
    assert!(ask(&gate, 1, IN_DOCUMENT).is_ok());
    assert_eq!(ask(&gate, 0, IN_STORE).err(), Some(Denial::KeysUnavailable));
}

#[tokio::test]
async fn a_key_that_may_be_known_elsewhere_is_waited_for_and_an_explanation_does_not_wait() {
    let store = store(10, filter(&[MAYBE, IN_STORE]));
    let gate = Arc::new(authenticator(&store, EnvironmentType::Hybrid));
    assert_eq!(
        ask(&gate, 0, "a-key-of-nobody").err(),
        unknown(),
        "the filter knows that"
    );
    let examined = gate.examine(0, &[], &key_header(MAYBE), None, None, NOW);
    assert_eq!(examined.err(), Some(Denial::KeysUnavailable));
    assert_eq!(store.size().asked_for, 0);

    let waiting = |text: &'static str| {
        let gate = Arc::clone(&gate);
        tokio::spawn(async move { gate.identify(0, &[], &key_header(text), None, None, NOW).await })
    };
    let (known, gone) = (waiting(MAYBE), waiting(IN_STORE));
    while store.size().asked_for < 2 {
        tokio::task::yield_now().await;
    }
    let question = store.question().await;
    assert_eq!(question.resolve().h.len(), 2);
    let answer = Resolved {
        seq: 10,
        keys: vec![entry(MAYBE)],
    };
    question.settle(&answer, NOW);
    assert_eq!(known.await.unwrap().unwrap().application(), Some(1));
    assert_eq!(gone.await.unwrap().err(), unknown());
    assert!(ask(&gate, 0, MAYBE).is_ok(), "remembered");
    assert_eq!(ask(&gate, 0, IN_STORE).err(), unknown());

    apply(&store, [del(MAYBE)]);
    assert_eq!(ask(&gate, 0, MAYBE).err(), unknown());
}

#[tokio::test]
async fn who_waits_while_his_key_is_revoked_is_not_let_in() {
    // On two ways: the log says so, or a newer filter that has left the log behind.
    for by_log in [true, false] {
        let store = store(10, filter(&[MAYBE]));
        let gate = Arc::new(authenticator(&store, EnvironmentType::Hybrid));
        let waiting = tokio::spawn({
            let gate = Arc::clone(&gate);
            async move { gate.identify(0, &[], &key_header(MAYBE), None, None, NOW).await }
        });
        while store.size().asked_for < 1 {
            tokio::task::yield_now().await;
        }
        let question = store.question().await;
        let answer = Resolved {
            seq: 10,
            keys: vec![entry(MAYBE)],
        };
        // The answer has come, but the request has not run yet: this thread is the only one.
        question.settle(&answer, NOW);
        if by_log {
            apply(&store, [del(MAYBE)]);
        } else {
            let keys = blind_filter();
            store
                .stand_on(Foundation {
                    epoch: 7,
                    seq: 11,
                    keys,
                })
                .unwrap();
        }
        let expected = if by_log {
            unknown()
        } else {
            Some(Denial::KeysUnavailable)
        };
        assert_eq!(waiting.await.unwrap().err(), expected);
    }
}

#[tokio::test(start_paused = true)]
async fn without_an_answer_a_request_ends_after_two_seconds_with_503() {
    let store = store(10, filter(&[MAYBE]));
    let gate = authenticator(&store, EnvironmentType::Hybrid);
    let begin = tokio::time::Instant::now();
    let denied = gate.identify(0, &[], &key_header(MAYBE), None, None, NOW).await;
    assert_eq!(denied.err(), Some(Denial::KeysUnavailable));
    assert_eq!(begin.elapsed(), Duration::from_secs(2));
}
