//! Gateways that share through Redis what they keep.
//!
//! Redis may be late on a busy machine, and then a gateway fetches for itself, which is right too. So what a gateway *can*
//! do is tried with one fresh URL after another until it is seen, and what it must *never* do is held against every try.

use std::time::Instant;

use serde_json::{Value, json};

use super::admin::{admin_section, order};
use super::*;

/// The host that all of them are asked for; their addresses differ.
pub(super) const HOST: &str = "api.example.com";

/// The section of a gateway that shares through this server.
pub(super) fn sharing(redis: &str, more: &str) -> String {
    format!("cache: {{ redis: {{ urls: [\"{redis}\"], budget: 100ms, {more} }} }}")
}

/// Two gateways in front of one service, and the Redis between them.
pub(super) struct Pair {
    pub(super) gateways: [Gateway; 2],
    pub(super) origin: Origin,
    pub(super) redis: RedisServer,
}

impl Pair {
    /// Of an open API with the cache as it is by default.
    fn of(answer: impl Fn(&Received, usize) -> Reply + Send + Sync + 'static) -> Self {
        let origin = service(answer);
        let revision = open(&origin, "{}");
        Self::with(origin, &revision, "")
    }

    /// Of this revision, with this beside the URL in the section. They do not take a Redis for dead that is slow.
    pub(super) fn with(origin: Origin, revision: &Revision, more: &str) -> Self {
        Self::trusting_for("10s", origin, revision, more)
    }

    /// The same; they give a connection up on which nothing comes for so long.
    pub(super) fn trusting_for(time: &str, origin: Origin, revision: &Revision, more: &str) -> Self {
        let more = format!("response_timeout: {time}, {more}");
        let redis = RedisServer::start();
        let start = |name: &str| {
            let setup = Gateway::with(revision).id(name).section(&admin_section());
            setup.section(&sharing(&redis.url(), &more)).start()
        };
        let gateways = [start("gw-a"), start("gw-b")];
        gateways.iter().for_each(until_current);
        Self {
            gateways,
            origin,
            redis,
        }
    }

    pub(super) fn get(&self, number: usize, target: &str) -> Request {
        self.gateways[number].client().get(target).host(HOST)
    }

    fn ask(&self, number: usize, target: &str) -> String {
        self.get(number, target).send().expect(200).text()
    }

    /// Asks the first gateway, and waits until Redis has what it kept.
    pub(super) fn put(&self, request: impl FnOnce() -> Request) -> Answer {
        let written = self.written(0);
        let answer = request().send().expect(200);
        until("Redis has it", || self.written(0) > written);
        answer
    }

    fn written(&self, number: usize) -> f64 {
        self.gateways[number].metric("tollgate_cache_shared_fills_total{result=\"written\"}")
    }

    /// Tries a story with one number after another until it comes out.
    #[track_caller]
    pub(super) fn comes_out(&self, what: &str, mut story: impl FnMut(usize) -> bool) {
        let mut tried = 0;
        until(what, || {
            tried += 1;
            story(tried)
        });
    }

    /// Waits until what the first gateway has fetched is given by the second one.
    #[track_caller]
    pub(super) fn shares(&self) {
        self.comes_out("gateways share", |nth| {
            let target = format!("/shared/{nth}");
            let first = self.ask(0, &target);
            std::thread::sleep(std::time::Duration::from_millis(20));
            self.ask(1, &target) == first && from_redis(&self.gateways[1]) > 0.0
        });
    }
}

pub(super) fn open(origin: &Origin, policy: &str) -> Revision {
    Revision::of(origin).api(&format!(
        "{{ name: all, base_path: /, auth: none, upstream: origin, cache: {policy} }}"
    ))
}

/// How many requests were answered with what another gateway had put into Redis.
pub(super) fn from_redis(gateway: &Gateway) -> f64 {
    gateway.metric("tollgate_cache_requests_total{result=\"hit\",tier=\"redis\"}")
}

#[test]
fn what_one_gateway_has_fetched_the_other_gives() {
    let pair = Pair::of(|request, _| fresh(600, "X-Kind: plain\r\n").with_body(&request.target));
    pair.comes_out("the second gateway has it from the first one", |nth| {
        let target = format!("/{nth}");
        let first = pair.put(|| pair.get(0, &target));
        let (fetched, before) = (pair.origin.requests(), from_redis(&pair.gateways[1]));
        let second = pair.get(1, &target).send().expect(200);
        assert_eq!(second.text(), first.text());
        assert_eq!(second.header("x-kind"), Some("plain"));
        if pair.origin.requests() > fetched {
            return false;
        }
        assert!(status_of(&second).contains("tollgate; hit; ttl="), "{second:?}");
        assert!(second.header("age").is_some(), "{second:?}");
        until("it is counted", || from_redis(&pair.gateways[1]) > before);
        // From now on it is in this gateway's own memory.
        let memory = || pair.gateways[1].metric("tollgate_cache_requests_total{result=\"hit\",tier=\"memory\"}");
        let before = memory();
        pair.get(1, &target).send().expect(200);
        until("it is counted", || memory() > before);
        true
    });
}

#[test]
fn each_variant_is_shared_with_those_who_select_it() {
    let pair = Pair::of(|request, nth| {
        let language = request.header("accept-language").unwrap_or("none").to_owned();
        fresh(600, "Vary: Accept-Language\r\n").with_body(&format!("{language} {nth}"))
    });
    let get =
        |number: usize, target: &str, language: &str| pair.get(number, target).header("Accept-Language", language);
    pair.comes_out("both variants are shared", |nth| {
        let target = format!("/{nth}");
        let [english, german] = ["en", "de"].map(|language| pair.put(|| get(0, &target, language)).text());
        let [second, third] = ["en", "de"].map(|language| get(1, &target, language).send().expect(200).text());
        assert!(
            second.starts_with("en ") && third.starts_with("de "),
            "{second}, {third}"
        );
        assert_eq!(
            get(1, &target, "fr").send().expect(200).text().split(' ').next(),
            Some("fr")
        );
        (second, third) == (english, german)
    });
}

#[test]
fn what_was_answered_to_one_caller_no_other_one_gets_at_any_gateway() {
    let origin = service(|request, nth| {
        let who = request.header("x-application").unwrap_or("nobody").to_owned();
        let kind = request.header("x-key-type").unwrap_or("none").to_owned();
        fresh(600, "").with_body(&format!("{who} {kind} {nth}"))
    });
    let revision = Revision::of(&origin)
        .api("{ name: all, base_path: /, auth: [api_key], upstream: origin, cache: {} }")
        .mobile(&["all"])
        .application(&format!(
            "{{ name: partner, subscriptions: [{{ api: all, plan: free }}], keys: [{}] }}",
            key_record("partner-1", OTHER_KEY, "type: production")
        ));
    let pair = Pair::with(origin, &revision, "");
    let callers = [
        (KEY, "mobile production"),
        (SANDBOX_KEY, "mobile sandbox"),
        (OTHER_KEY, "partner production"),
    ];
    pair.comes_out("each of them is given his own by the other gateway", |nth| {
        let target = format!("/{nth}");
        let first = callers.map(|(key, _)| pair.put(|| pair.get(0, &target).key(key)).text());
        let second = callers.map(|(key, _)| pair.get(1, &target).key(key).send().expect(200).text());
        for (answer, (_, who)) in first.iter().chain(&second).zip(callers.iter().cycle()) {
            assert!(answer.starts_with(who), "{who} was given {answer:?}");
        }
        pair.get(1, &target).send().expect_refusal(401, "credential_missing");
        first == second
    });
}

#[test]
fn an_answer_that_one_gateway_has_validated_is_fresh_at_the_other() {
    let pair = Pair::of(|request, nth| match request.header("if-none-match") {
        Some(_) => reply(
            304,
            &format!("Cache-Control: max-age=600\r\nETag: \"a\"\r\nX-Version: {nth}\r\n"),
        ),
        None => fresh(600, &format!("Age: 600\r\nETag: \"a\"\r\nX-Version: {nth}\r\n")),
    });
    pair.comes_out("one takes what the other has validated", |nth| {
        let target = format!("/{nth}");
        assert_eq!(pair.put(|| pair.get(0, &target)).text(), "1");
        // The second one has nothing, finds what is stale, and asks whether it is still good.
        let written = pair.written(1);
        let validated = pair.get(1, &target).send().expect(200);
        assert_eq!(validated.header("x-version"), Some("2"));
        if validated.text() != "1" {
            return false;
        }
        until("Redis has it", || pair.written(1) > written);
        // The first one keeps what is stale, and finds that it was validated.
        let before = pair.origin.requests();
        let taken = pair.get(0, &target).send().expect(200);
        assert_eq!(taken.text(), "1");
        pair.origin.requests() == before && taken.header("x-version") == Some("2")
    });
}

#[test]
fn what_is_larger_than_a_record_may_be_is_not_shared() {
    let large = (0..200)
        .map(|number: u32| sha256_hex(&number.to_string()))
        .collect::<String>();
    let body = large.clone();
    let origin = service(move |request, nth| match request.target.contains("large") {
        true => fresh(600, "").with_body(&format!("{nth} {body}")),
        false => fresh(600, ""),
    });
    let revision = open(&origin, "{}");
    let pair = Pair::with(origin, &revision, "object_bytes: 1KiB");
    pair.shares();
    let too_large = || pair.gateways[0].metric("tollgate_cache_shared_fills_total{result=\"too_large\"}");
    assert_eq!(pair.ask(0, "/large"), format!("1 {large}"));
    until("it is found to be too large", || too_large() > 0.0);
    assert_eq!(pair.ask(0, "/large"), format!("1 {large}"), "it is kept in memory");
    assert_eq!(pair.ask(1, "/large"), format!("2 {large}"));
}

#[test]
fn twenty_clients_at_each_of_two_gateways_are_one_fetch() {
    let gates: Arc<Mutex<HashMap<String, Gate>>> = Arc::default();
    let gate = {
        let gates = Arc::clone(&gates);
        move |target: &str| gates.lock().unwrap().entry(target.to_owned()).or_default().clone()
    };
    let held = gate.clone();
    let origin = service(move |request, _| {
        if request.target.starts_with("/held") {
            held(&request.target).pass();
        }
        fresh(600, "")
    });
    let revision = open(&origin, "{}");
    let pair = Pair::with(origin, &revision, "lease: 10s");
    pair.shares();
    pair.comes_out("one of them fetches for both", |nth| {
        let target = format!("/held/{nth}");
        let before = pair.origin.requests();
        let answers: Vec<String> = std::thread::scope(|scope| {
            let ask = |number: usize| {
                let (pair, target) = (&pair, &target);
                scope.spawn(move || pair.ask(number, target))
            };
            let asking: Vec<_> = (0..40).map(|number| ask(number % 2)).collect();
            until("all have asked", || {
                let in_flight = |gateway: &Gateway| gateway.metric("tollgate_requests_in_flight") >= 20.0;
                pair.gateways.iter().all(in_flight) && pair.origin.requests() > before
            });
            gate(&target).open();
            asking
                .into_iter()
                .map(|asked| asked.join().expect("an answer"))
                .collect()
        });
        let fetched = pair.origin.requests() - before;
        assert!(fetched <= 2, "{fetched} fetches of two gateways");
        assert!(
            answers.iter().all(|answer| answer == "1" || answer == "2"),
            "{answers:?}"
        );
        fetched == 1
    });
    let taken = |gateway: &Gateway| gateway.metric("tollgate_cache_shared_leases_total{result=\"taken\"}");
    assert!(pair.gateways.iter().map(taken).sum::<f64>() >= 1.0);
}

#[test]
fn what_is_forgotten_at_one_gateway_is_forgotten_at_the_other() {
    let origin = service(|request, _| {
        let tag = request.target.split('/').nth(1).unwrap_or_default().to_owned();
        fresh(600, &format!("Surrogate-Key: {tag}\r\n"))
    });
    let revision = Revision::of(&origin)
        .api("{ name: all, base_path: /, auth: [api_key], upstream: origin, cache: {} }")
        .mobile(&["all"]);
    let pair = Pair::with(origin, &revision, "");
    let ask = |number: usize, target: &str| pair.get(number, target).key(KEY).send().expect(200).text();
    let kept = || {
        let answer = ask(1, "/news/1");
        assert_eq!(ask(1, "/news/1"), answer, "it is kept");
        answer
    };
    for (name, body) in [
        ("url", json!({ "urls": [format!("https://{HOST}/news/1")] })),
        ("prefix", json!({ "prefixes": ["/news/"] })),
        ("tag", json!({ "tags": ["news"] })),
        ("user", json!({ "users": ["mobile"] })),
        ("api", json!({ "apis": ["all"] })),
        ("all", json!({ "all": true })),
    ] {
        let before = kept();
        let told = order(&pair.gateways[0], "POST", "/admin/cache/invalidate", Some(body)).expect(200);
        let started = Instant::now();
        assert_eq!(told.json()["spread"], "redis");
        until("it is forgotten at the other one", || ask(1, "/news/1") != before);
        println!(
            "told to forget by {name}: in force at the other gateway after {:?}",
            started.elapsed()
        );
    }
    // A change through one of them, as all of its kind.
    let before = kept();
    pair.gateways[0]
        .client()
        .request("DELETE", "/news/1")
        .host(HOST)
        .key(KEY)
        .send()
        .expect(200);
    let started = Instant::now();
    until("a change is in force at the other one", || ask(1, "/news/1") != before);
    println!("a change: in force at the other gateway after {:?}", started.elapsed());
}

#[test]
fn what_was_forgotten_does_not_come_back_with_a_gateway_that_starts_later() {
    let pair = Pair::of(|request, _| {
        let tag = request.target.split('/').nth(1).unwrap_or_default().to_owned();
        fresh(600, &format!("Surrogate-Key: {tag}\r\n"))
    });
    pair.shares();
    for target in ["/old/1", "/kept/1", "/kept/2", "/kept/3"] {
        pair.put(|| pair.get(0, target));
    }
    let old = pair.ask(0, "/old/1");
    let body = json!({ "tags": ["old"] });
    order(&pair.gateways[0], "POST", "/admin/cache/invalidate", Some(body)).expect(200);
    let sent = || pair.gateways[0].metric("tollgate_cache_shared_invalidations_sent_total");
    until("it is told", || sent() >= 1.0);

    let setup = Gateway::with(open(&pair.origin, "{}")).section(&admin_section());
    let late = setup.section(&sharing(&pair.redis.url(), "")).start();
    until_current(&late);
    let ask = |target: &str| late.client().get(target).host(HOST).send().expect(200).text();
    assert_ne!(ask("/old/1"), old);
    // It does read what the others have put there.
    ask("/kept/1");
    ask("/kept/2");
    ask("/kept/3");
    until("it has something from Redis", || from_redis(&late) > 0.0);
}

/// Waits until a gateway hears what others are told.
#[track_caller]
pub(super) fn until_current(gateway: &Gateway) {
    let look = || -> Value { order(gateway, "GET", "/admin/cache", None).expect(200).json() };
    until("the gateway follows the invalidations", || {
        look()["spread"][0]["is_current"] == true
    });
}
