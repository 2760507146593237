//! Key sets against a real HTTP origin that rotates, fails, stalls, floods and lies.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::State as Shared;
use axum::response::Response;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::set::MAX_WAITING;
use super::*;
use crate::auth::testing::{
    NOW, Signer, base64url, bearer, compile, good_claims, good_token, issuer, token, token_revision,
};
use crate::auth::{Authenticator, Denial, Invalid, TokenCache};
use crate::revision::{AuthMethod, EnvironmentType};

// === Rotation ===

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_are_there_for_the_first_request() {
    let signer = Signer::ed();
    let origin = Origin::serving(&[signer.jwk("one")]).await;
    let gate = Gate::new(&origin);
    assert_eq!(gate.ask(&good_token(&signer, "one")).await, Ok(()));
    assert_eq!(origin.hits(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotation_under_load_refuses_nobody_and_is_fetched_once() {
    let (old, new) = (Signer::ed(), Signer::ed());
    let origin = Origin::serving(&[old.jwk("old")]).await;
    let gate = Gate::new(&origin);
    assert_eq!(gate.ask(&good_token(&old, "old")).await, Ok(()));

    origin.serve(&[old.jwk("old"), new.jwk("new")]);
    let mut asked = JoinSet::new();
    for number in 0..400 {
        let gate = gate.clone();
        // Every one a different token, so that the cache of verdicts answers none of them.
        let mut claims = good_claims();
        claims["jti"] = json!(number);
        let (signer, kid) = if number % 4 == 0 { (&old, "old") } else { (&new, "new") };
        let text = token(&json!({"alg": "EdDSA", "kid": kid}), &claims, signer);
        asked.spawn(async move { gate.ask(&text).await });
    }
    for verdict in asked.join_all().await {
        assert_eq!(verdict, Ok(()));
    }
    assert_eq!(origin.hits(), 2, "one at the start, one for all who met the new key");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_left_the_set_takes_its_cached_tokens_with_it() {
    let (leaked, new) = (Signer::ed(), Signer::ed());
    let origin = Origin::serving(&[leaked.jwk("leaked")]).await;
    let gate = Gate::new(&origin);
    let text = good_token(&leaked, "leaked");
    assert_eq!(gate.ask(&text).await, Ok(()));
    assert_eq!(gate.ask(&text).await, Ok(()));

    origin.serve(&[new.jwk("new")]);
    assert_eq!(gate.ask(&good_token(&new, "new")).await, Ok(()));
    assert_eq!(gate.ask(&text).await, unknown_signer());
    let reused = good_token(&leaked, "new");
    assert_eq!(
        gate.ask(&reused).await,
        Err(Denial::CredentialInvalid(Invalid::Signature))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_remembered_forgery_does_not_hide_the_key_that_makes_it_genuine() {
    let (first, second) = (Signer::ed(), Signer::ed());
    let origin = Origin::serving(&[first.jwk("same-name")]).await;
    let gate = Gate::with(
        &origin,
        Pace {
            refresh: Duration::from_millis(30),
            refresh_min: Duration::ZERO,
            ..FAST
        },
    );
    let text = good_token(&second, "same-name");
    assert_eq!(
        gate.ask(&text).await,
        Err(Denial::CredentialInvalid(Invalid::Signature))
    );
    assert_eq!(
        gate.ask(&text).await,
        Err(Denial::CredentialInvalid(Invalid::Signature))
    );
    origin.serve(&[second.jwk("same-name")]);
    eventually("the new key of the same name", async || gate.ask(&text).await == Ok(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_set_that_did_not_change_keeps_its_verdicts() {
    let signer = Signer::ed();
    let origin = Origin::serving(&[signer.jwk("one")]).await;
    let gate = Gate::with(
        &origin,
        Pace {
            refresh: Duration::from_millis(10),
            refresh_min: Duration::ZERO,
            ..FAST
        },
    );
    assert_eq!(gate.ask(&good_token(&signer, "one")).await, Ok(()));
    let before = gate.set.current().as_ref().unwrap().fingerprint();
    origin.reach_hits(5).await;
    assert_eq!(gate.set.current().as_ref().unwrap().fingerprint(), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_issuers_with_one_name_the_one_that_may_still_learn_the_key_is_waited_for() {
    let (fixed, rotating, new) = (Signer::ed(), Signer::ed(), Signer::ed());
    let origin = Origin::serving(&[rotating.jwk("old")]).await;
    let (sets, _shutdown) = sets(FAST);
    let mut revision = token_revision(JwksSource::Url(origin.url()));
    revision
        .issuers
        .push(issuer(JwksSource::Inline(vec![fixed.jwk("new")])));
    revision.apis[0].auth.push(AuthMethod::Jwt(1));
    let authenticator = compile(&revision, &sets);
    let ask = async |text: &str| {
        authenticator
            .identify(0, &[], &bearer(text), None, None, NOW)
            .await
            .map(drop)
    };
    assert_eq!(ask(&good_token(&rotating, "old")).await, Ok(()));
    origin.serve(&[new.jwk("new")]);
    assert_eq!(ask(&good_token(&new, "new")).await, Ok(()));
    assert_eq!(ask(&good_token(&fixed, "new")).await, Ok(()));
}

// === Storms ===

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_of_unknown_names_causes_no_storm_of_fetches() {
    let signer = Signer::ed();
    let origin = Origin::serving(&[signer.jwk("one")]).await;
    let gate = Gate::new(&origin);
    assert_eq!(gate.ask(&good_token(&signer, "one")).await, Ok(()));

    let storm = async |now_ms: u64| {
        let mut asked = JoinSet::new();
        for number in 0..500 {
            let gate = gate.clone();
            let text = good_token(&signer, &format!("random-{now_ms}-{number}"));
            asked.spawn(async move { gate.ask_at(&text, now_ms).await });
        }
        for verdict in asked.join_all().await {
            assert!(
                verdict == unknown_signer() || verdict == Err(Denial::KeysUnavailable),
                "{verdict:?}"
            );
        }
    };
    storm(NOW).await;
    storm(NOW + 1).await;
    storm(NOW + 9_999).await;
    assert_eq!(origin.hits(), 2, "one at the start, one in ten seconds");
    storm(NOW + 10_000).await;
    storm(NOW + 19_999).await;
    assert_eq!(origin.hits(), 3);
    assert_eq!(gate.set.status().triggered, 2);
    assert_eq!(
        gate.ask(&good_token(&signer, "one")).await,
        Ok(()),
        "and the good ones are let in"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_a_fetch_did_not_bring_is_not_asked_for_again_for_a_minute() {
    let signer = Signer::ed();
    let origin = Origin::serving(&[signer.jwk("one")]).await;
    let gate = Gate::new(&origin);
    let text = good_token(&signer, "nobody");
    assert_eq!(gate.ask(&good_token(&signer, "one")).await, Ok(()));
    for (after_ms, hits) in [(0, 2), (15_000, 2), (59_999, 2), (60_000, 3)] {
        assert_eq!(gate.ask_at(&text, NOW + after_ms).await, unknown_signer());
        assert_eq!(origin.hits(), hits, "after {after_ms} ms");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_is_set_back_does_not_stop_fetching() {
    let signer = Signer::ed();
    let origin = Origin::serving(&[signer.jwk("one")]).await;
    let gate = Gate::new(&origin);
    assert_eq!(gate.ask(&good_token(&signer, "one")).await, Ok(()));
    assert_eq!(gate.ask_at(&good_token(&signer, "x"), NOW).await, unknown_signer());
    assert_eq!(
        gate.ask_at(&good_token(&signer, "y"), NOW - 3_600_000).await,
        unknown_signer()
    );
    assert_eq!(origin.hits(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_could_not_be_accepted_anyway_makes_nobody_fetch() {
    let signer = Signer::ed();
    let origin = Origin::serving(&[signer.jwk("one")]).await;
    let gate = Gate::new(&origin);
    assert_eq!(gate.ask(&good_token(&signer, "one")).await, Ok(()));
    let header = json!({"alg": "EdDSA", "kid": "unknown"});
    for (name, value) in [
        ("exp", json!(1)),
        ("iss", json!("https://evil.example")),
        ("aud", json!("else")),
    ] {
        let mut claims = good_claims();
        claims[name] = value;
        assert!(gate.ask(&token(&header, &claims, &signer)).await.is_err());
    }
    for member in ["jku", "x5u"] {
        let mut header = json!({"alg": "EdDSA", "kid": "one"});
        header[member] = json!(origin.url());
        assert!(gate.ask(&token(&header, &good_claims(), &Signer::ed())).await.is_err());
    }
    assert_eq!(origin.hits(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn explaining_fetches_nothing() {
    let signer = Signer::ed();
    let origin = Origin::serving(&[signer.jwk("one")]).await;
    let gate = Gate::new(&origin);
    assert_eq!(gate.ask(&good_token(&signer, "one")).await, Ok(()));
    let headers = bearer(&good_token(&signer, "unknown"));
    assert_eq!(
        gate.authenticator.examine(0, &[], &headers, None, None, NOW).map(drop),
        unknown_signer()
    );
    assert_eq!(origin.hits(), 1);
}

// === Outages ===

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_issuer_that_was_never_there_is_unavailable_until_it_is() {
    let signer = Signer::ed();
    let origin = Origin::new(Answer::Status(500)).await;
    let gate = Gate::new(&origin);
    assert_eq!(
        gate.ask(&good_token(&signer, "one")).await,
        Err(Denial::KeysUnavailable)
    );
    let status = gate.set.status();
    assert_eq!((status.keys, status.age), (0, None));
    assert!(status.last_error.unwrap().contains("500"));

    origin.serve(&[signer.jwk("one")]);
    eventually("the keys", async || {
        gate.ask(&good_token(&signer, "one")).await == Ok(())
    })
    .await;
    let status = gate.set.status();
    assert_eq!((status.keys, status.last_error), (1, None));
    assert!(status.age.is_some() && status.failures >= 1 && status.fetches > status.failures);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_good_keys_survive_every_way_of_failing() {
    let signer = Signer::ed();
    let origin = Origin::serving(&[signer.jwk("one")]).await;
    let gate = Gate::with(
        &origin,
        Pace {
            refresh: Duration::from_millis(10),
            refresh_min: Duration::ZERO,
            ..FAST
        },
    );
    assert_eq!(gate.ask(&good_token(&signer, "one")).await, Ok(()));
    let failures = [
        (Answer::Status(500), "500"),
        (Answer::Status(204), "204"),
        (Answer::Body(b"<html>maintenance</html>".to_vec()), "no JSON object"),
        (Answer::Body(br#"{"keys":[]}"#.to_vec()), "no keys"),
        (
            Answer::Body(br#"{"keys":[{"kty":"oct","k":"c2VjcmV0"}]}"#.to_vec()),
            "shared secret",
        ),
        (Answer::Body(vec![b' '; MAX_BYTES + 1]), "larger than"),
        (Answer::Redirect(endless().await), "larger than"),
        (Answer::Redirect("https://127.0.0.1:1/".to_owned()), "another scheme"),
        (Answer::Redirect("ftp://127.0.0.1/".to_owned()), "scheme"),
        (Answer::Redirect(origin.url()), "too often"),
    ];
    for (answer, expected) in failures {
        let shown = format!("{answer:?}").chars().take(60).collect::<String>();
        origin.answer(answer);
        eventually(&shown, async || {
            gate.set
                .status()
                .last_error
                .is_some_and(|error| error.contains(expected))
        })
        .await;
        assert_eq!(gate.ask(&good_token(&signer, "one")).await, Ok(()), "{shown}");
        assert_eq!(
            gate.ask(&good_token(&signer, "new")).await,
            Err(Denial::KeysUnavailable),
            "{shown}"
        );
        origin.serve(&[signer.jwk("one")]);
        eventually("health", async || gate.set.status().last_error.is_none()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_issuer_that_is_gone_is_asked_ever_more_rarely() {
    let origin = Origin::new(Answer::Status(503)).await;
    let pace = Pace {
        retry_min: Duration::from_millis(40),
        retry_max: Duration::from_millis(400),
        ..FAST
    };
    let gate = Gate::with(&origin, pace);
    sleep(Duration::from_millis(900)).await;
    // 0, 40, 120, 280, 600, 1000 …, each rest ±10 %.
    assert!((4..=6).contains(&origin.hits()), "{}", origin.hits());
    drop(gate);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_waits_for_a_slow_issuer_only_so_long() {
    let signer = Signer::ed();
    let origin = Origin::new(Answer::Stall).await;
    let gate = Gate::with(
        &origin,
        Pace {
            patience: Duration::from_millis(200),
            ..FAST
        },
    );
    let started = Instant::now();
    assert_eq!(
        gate.ask(&good_token(&signer, "one")).await,
        Err(Denial::KeysUnavailable)
    );
    let waited = started.elapsed();
    assert!((200..1000).contains(&waited.as_millis()), "{waited:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_so_many_requests_wait_for_a_slow_issuer() {
    let signer = Signer::ed();
    let origin = Origin::new(Answer::Stall).await;
    let gate = Gate::new(&origin);
    let _all = gate
        .set
        .waiting
        .acquire_many(u32::try_from(MAX_WAITING).unwrap())
        .await
        .unwrap();
    let answer = timeout(Duration::from_millis(500), gate.ask(&good_token(&signer, "one"))).await;
    assert_eq!(answer.expect("an answer at once"), Err(Denial::KeysUnavailable));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redirect_to_the_same_scheme_is_followed() {
    let signer = Signer::ed();
    let target = Origin::serving(&[signer.jwk("one")]).await;
    let origin = Origin::new(Answer::Redirect(target.url())).await;
    assert_eq!(Gate::new(&origin).ask(&good_token(&signer, "one")).await, Ok(()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shared_secrets_are_not_taken_from_the_network() {
    let signer = Signer::ed();
    let secret = json!({"kty": "oct", "kid": "s", "k": base64url(&[7; 32])});
    let origin = Origin::serving(&[signer.jwk("one"), secret]).await;
    let gate = Gate::new(&origin);
    assert_eq!(gate.ask(&good_token(&signer, "one")).await, Ok(()));
    let status = gate.set.status();
    assert_eq!((status.keys, status.skipped), (1, 1));
}

// === Lifetimes ===

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_revision_finds_the_keys_of_the_old_one() {
    let signer = Signer::ed();
    let origin = Origin::serving(&[signer.jwk("one")]).await;
    let gate = Gate::new(&origin);
    assert_eq!(gate.ask(&good_token(&signer, "one")).await, Ok(()));
    let source = JwksSource::Url(origin.url());
    let next = compile(&token_revision(source.clone()), &gate.sets);
    assert!(
        next.examine(0, &[], &bearer(&good_token(&signer, "one")), None, None, NOW)
            .is_ok(),
        "without waiting"
    );
    assert!(Arc::ptr_eq(&gate.sets.get(&source), &gate.set));
    assert_eq!(origin.hits(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_set_that_nobody_uses_is_not_fetched_any_more() {
    let signer = Signer::ed();
    let origin = Origin::serving(&[signer.jwk("one")]).await;
    let gate = Gate::with(
        &origin,
        Pace {
            refresh: Duration::from_millis(10),
            refresh_min: Duration::ZERO,
            ..FAST
        },
    );
    origin.reach_hits(3).await;
    let sets = gate.sets.clone();
    drop(gate);
    sleep(Duration::from_millis(100)).await;
    let hits = origin.hits();
    sleep(Duration::from_millis(200)).await;
    assert_eq!(origin.hits(), hits);
    assert!(sets.status().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shutdown_ends_the_fetching_and_lets_go_who_waits() {
    let signer = Signer::ed();
    let origin = Origin::new(Answer::Stall).await;
    let gate = Gate::new(&origin);
    let asked = tokio::spawn({
        let gate = gate.clone();
        async move { gate.ask(&good_token(&signer, "one")).await }
    });
    origin.reach_hits(1).await;
    gate.shutdown.send_replace(true);
    let answer = timeout(Duration::from_secs(1), asked)
        .await
        .expect("lets go at once")
        .unwrap();
    assert_eq!(answer, Err(Denial::KeysUnavailable));
    let started = Instant::now();
    assert_eq!(
        gate.ask(&good_token(&Signer::ed(), "one")).await,
        Err(Denial::KeysUnavailable)
    );
    assert!(
        started.elapsed() < Duration::from_millis(500),
        "nobody waits for a fetch that never comes"
    );
}

// === Files ===

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_is_read_at_once_and_again_when_it_changes() {
    let (old, new) = (Signer::ed(), Signer::ed());
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("jwks.json");
    std::fs::write(&path, key_set(&[old.jwk("old")])).unwrap();
    let (sets, _shutdown) = sets(FAST);
    let authenticator = compile(&token_revision(JwksSource::File(path.clone())), &sets);
    let ask = |text: &str| authenticator.examine(0, &[], &bearer(text), None, None, NOW).map(drop);
    assert_eq!(ask(&good_token(&old, "old")), Ok(()), "before any task has run");

    std::fs::write(&path, "half a docu").unwrap();
    eventually("the error", async || sets.status()[0].last_error.is_some()).await;
    assert_eq!(ask(&good_token(&old, "old")), Ok(()));

    let next = directory.path().join("jwks.json.next");
    std::fs::write(&next, key_set(&[new.jwk("new")])).unwrap();
    std::fs::rename(&next, &path).unwrap();
    eventually("the new key", async || ask(&good_token(&new, "new")) == Ok(())).await;
    assert!(ask(&good_token(&old, "old")).is_err());

    let fetches = sets.status()[0].fetches;
    sleep(Duration::from_millis(150)).await;
    assert_eq!(sets.status()[0].fetches, fetches, "a file that stays is not read again");
}

// === The origin ===

/// What the origin does with the next requests.
#[derive(Debug, Clone)]
enum Answer {
    Body(Vec<u8>),
    Status(u16),
    /// Never answers.
    Stall,
    Redirect(String),
}

/// An issuer's web server.
struct Origin {
    address: std::net::SocketAddr,
    inner: Arc<Inner>,
    task: tokio::task::AbortHandle,
}

struct Inner {
    answer: Mutex<Answer>,
    hits: AtomicUsize,
}

impl Origin {
    async fn new(answer: Answer) -> Self {
        let inner = Arc::new(Inner {
            answer: Mutex::new(answer),
            hits: AtomicUsize::new(0),
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().fallback(answer_one).with_state(Arc::clone(&inner));
        let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() }).abort_handle();
        Self { address, inner, task }
    }

    async fn serving(keys: &[Value]) -> Self {
        Self::new(Answer::Body(key_set(keys))).await
    }

    fn serve(&self, keys: &[Value]) {
        self.answer(Answer::Body(key_set(keys)));
    }

    fn answer(&self, answer: Answer) {
        *self.inner.answer.lock().unwrap() = answer;
    }

    fn hits(&self) -> usize {
        self.inner.hits.load(Ordering::SeqCst)
    }

    async fn reach_hits(&self, hits: usize) {
        eventually("requests to the origin", async || self.hits() >= hits).await;
    }

    fn url(&self) -> String {
        format!("http://{}/jwks.json", self.address)
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer_one(Shared(inner): Shared<Arc<Inner>>) -> Response {
    inner.hits.fetch_add(1, Ordering::SeqCst);
    let answer = inner.answer.lock().unwrap().clone();
    match answer {
        Answer::Body(body) => Response::new(Body::from(body)),
        Answer::Status(status) => Response::builder().status(status).body(Body::empty()).unwrap(),
        Answer::Stall => std::future::pending().await,
        Answer::Redirect(to) => Response::builder()
            .status(302)
            .header("location", to)
            .body(Body::empty())
            .unwrap(),
    }
}

/// The URL of a server whose answer has no length and no end.
async fn endless() -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
            while stream.write_all(&[b' '; 16_384]).await.is_ok() {}
        }
    });
    format!("http://{address}/")
}

// === The gate ===

// === From one process to the next ===

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_process_has_the_keys_at_once_and_asks_nobody() {
    let signer = Signer::ed();
    let origin = Origin::serving(&[signer.jwk("one")]).await;
    let old = Gate::new(&origin);
    assert_eq!(old.ask(&good_token(&signer, "one")).await, Ok(()));
    let fingerprint = old.set.current().as_ref().unwrap().fingerprint();
    let mut gate = old;
    for _ in 0..20 {
        gate = gate.succeeded_by(&origin);
        assert_eq!(gate.ask(&good_token(&signer, "one")).await, Ok(()));
    }
    assert_eq!(origin.hits(), 1, "twenty upgrades");
    assert_eq!(gate.set.current().as_ref().unwrap().fingerprint(), fingerprint);
    assert!(gate.set.status().age.is_some());

    // And goes on from there: a key that is not known makes it ask.
    let other = Signer::ed();
    origin.serve(&[signer.jwk("one"), other.jwk("two")]);
    assert_eq!(gate.ask(&good_token(&other, "two")).await, Ok(()));
    assert_eq!(origin.hits(), 2);
    // Whoever comes next does not ask out of turn again so soon.
    let next = gate.succeeded_by(&origin);
    let stranger = Signer::ed();
    assert!(next.ask(&good_token(&stranger, "three")).await.is_err());
    assert_eq!(origin.hits(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_issuer_that_is_away_is_not_missed_by_the_next_process() {
    let signer = Signer::ed();
    let origin = Origin::serving(&[signer.jwk("one")]).await;
    let old = Gate::new(&origin);
    assert_eq!(old.ask(&good_token(&signer, "one")).await, Ok(()));
    origin.task.abort();
    let new = old.succeeded_by(&origin);
    assert_eq!(new.ask(&good_token(&signer, "one")).await, Ok(()));
}

#[tokio::test]
async fn what_is_no_key_set_is_not_taken_over() {
    let (sets, _shutdown) = sets(FAST);
    for bytes in [&[9, 0, 0][..], &[255; 40]] {
        assert_eq!(sets.inherit(bytes), Err(crate::heritage::Damaged));
    }
}

/// An authenticator that trusts one origin.
#[derive(Clone)]
struct Gate {
    authenticator: Arc<Authenticator>,
    sets: KeySets,
    set: Arc<KeySet>,
    shutdown: watch::Sender<bool>,
}

impl Gate {
    fn new(origin: &Origin) -> Self {
        Self::with(origin, FAST)
    }

    fn with(origin: &Origin, pace: Pace) -> Self {
        let (sets, shutdown) = sets(pace);
        Self::of(origin, sets, shutdown)
    }

    fn of(origin: &Origin, sets: KeySets, shutdown: watch::Sender<bool>) -> Self {
        let source = JwksSource::Url(origin.url());
        let revision = token_revision(source.clone());
        let authenticator = Authenticator::compile(
            &revision,
            EnvironmentType::Hybrid,
            &sets,
            Arc::new(TokenCache::default()),
        );
        let set = sets.get(&source);
        Self {
            authenticator: Arc::new(authenticator),
            sets,
            set,
            shutdown,
        }
    }

    /// The same in another process, which has taken over what this one knew.
    fn succeeded_by(&self, origin: &Origin) -> Self {
        let (sets, shutdown) = sets(FAST);
        let handed_on = self.sets.hand_on(&mut |section| {
            assert_eq!(sets.inherit(&section.bytes), Ok(1));
            Ok(())
        });
        assert_eq!(handed_on.unwrap(), 1);
        Self::of(origin, sets, shutdown)
    }

    async fn ask(&self, token: &str) -> Result<(), Denial> {
        self.ask_at(token, NOW).await
    }

    async fn ask_at(&self, token: &str, now_ms: u64) -> Result<(), Denial> {
        self.authenticator
            .identify(0, &[], &bearer(token), None, None, now_ms)
            .await
            .map(drop)
    }
}

/// Production's bounds on requests, and a background that hurries.
const FAST: Pace = Pace {
    refresh: Duration::from_secs(3_600),
    refresh_min: Duration::from_secs(60),
    refresh_max: Duration::from_secs(3_600),
    retry_min: Duration::from_millis(20),
    retry_max: Duration::from_millis(100),
    poll: Duration::from_millis(20),
    between_triggered: Duration::from_secs(10),
    unknown_for: Duration::from_secs(60),
    patience: Duration::from_secs(2),
};

fn sets(pace: Pace) -> (KeySets, watch::Sender<bool>) {
    let (shutdown, shutdown_seen) = watch::channel(false);
    let background = Background {
        runtime: Handle::current(),
        shutdown: shutdown_seen,
        http: Arc::default(),
    };
    (KeySets::with_pace(Some(background), pace), shutdown)
}

fn key_set(keys: &[Value]) -> Vec<u8> {
    json!({ "keys": keys }).to_string().into_bytes()
}

fn unknown_signer() -> Result<(), Denial> {
    Err(Denial::CredentialInvalid(Invalid::UnknownSigner))
}

async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let started = Instant::now();
    while !holds().await {
        assert!(started.elapsed() < Duration::from_secs(10), "waited in vain for {what}");
        sleep(Duration::from_millis(10)).await;
    }
}

const MAX_BYTES: usize = document::MAX_BYTES;
