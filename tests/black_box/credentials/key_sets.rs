//! Where the issuers' keys come from, and what happens while they can not be had.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use crate::harness::*;

/// An API for tokens of `corp`, whose keys come from here.
fn trusting(origin: &Origin, jwks: &str) -> Revision {
    Revision::of(origin)
        .issuer(&format!(
            "{{ name: corp, issuer: \"{ISSUER}\", audience: [{AUDIENCE}], algorithms: [RS256, ES256], jwks: {jwks} }}"
        ))
        .api("{ name: orders, base_path: /orders, auth: [{ jwt: corp }], upstream: origin }")
}

fn at(address: SocketAddr) -> String {
    format!("{{ url: \"http://{address}/jwks.json\" }}")
}

/// An issuer that publishes what is in here.
fn publishing(document: &Arc<Mutex<String>>) -> impl Fn(&mut Exchange) -> std::io::Result<()> + Send + Sync + 'static {
    let document = Arc::clone(document);
    move |exchange: &mut Exchange| {
        let document = document.lock().unwrap().clone();
        exchange.respond(200, "content-type: application/json\r\n", document.as_bytes())
    }
}

#[test]
fn keys_come_from_the_revision_from_a_file_beside_it_or_from_a_url() {
    let ec = Signer::ec("ec");
    let origin = Origin::start(echo());
    let issuer = Origin::start(publishing(&Arc::new(Mutex::new(key_set(&[&ec])))));
    for jwks in [
        format!("{{ keys: [{}] }}", ec.jwk()),
        "{ file: keys.json }".to_owned(),
        at(issuer.address()),
    ] {
        let gateway = Gateway::with(trusting(&origin, &jwks))
            .file("keys.json", key_set(&[&ec]))
            .start();
        let answer = gateway.client().get("/orders").token(&ec.token()).send();
        assert_eq!(answer.status, 200, "{jwks}: {answer:?}");
        let stranger = Signer::ec("ec").token();
        gateway.client().get("/orders").token(&stranger).send().expect(401);
    }
}

#[test]
fn a_file_of_keys_is_read_again_when_it_changes() {
    let (old, new) = (Signer::ec("old"), Signer::ec("new"));
    let origin = Origin::start(echo());
    let gateway = Gateway::with(trusting(&origin, "{ file: keys.json }"))
        .file("keys.json", key_set(&[&old]))
        .start();
    gateway.client().get("/orders").token(&old.token()).send().expect(200);
    std::fs::write(gateway.path().join("keys.json"), key_set(&[&new])).unwrap();
    // The new token is good from the moment of its first use, because an unknown key is looked for at once.
    until("the new key is known", || {
        gateway.client().get("/orders").token(&new.token()).send().status == 200
    });
    until("the old key is forgotten", || {
        gateway.client().get("/orders").token(&old.token()).send().status == 401
    });
}

#[test]
fn an_issuer_that_was_never_there_is_503_and_not_401_until_it_comes() {
    let ec = Signer::ec("ec");
    let origin = Origin::start(echo());
    let planned = Planned::new();
    let gateway = Gateway::with(trusting(&origin, &at(planned.address()))).start();
    let call = || gateway.client().get("/orders").token(&ec.token()).send();

    let answer = call().expect_refusal(503, "key_service_unavailable");
    assert!(answer.header("retry-after").unwrap().parse::<u32>().unwrap() >= 1);
    // What needs no issuer goes on.
    gateway
        .client()
        .get("/orders")
        .send()
        .expect_refusal(401, "credential_missing");
    assert_eq!(origin.bytes(), 0);

    let _issuer = planned.start(publishing(&Arc::new(Mutex::new(key_set(&[&ec])))));
    let first = eventually("the issuer is found", || {
        let answer = call();
        (answer.status != 503).then_some(answer)
    });
    first.expect(200);
}

#[test]
fn an_issuer_that_goes_away_after_the_first_load_is_not_missed() {
    let ec = Signer::ec("ec");
    let origin = Origin::start(echo());
    let issuer = Origin::start(publishing(&Arc::new(Mutex::new(key_set(&[&ec])))));
    let gateway = Gateway::with(trusting(&origin, &at(issuer.address()))).start();
    let call = || gateway.client().get("/orders").token(&ec.token()).send();
    call().expect(200);
    drop(issuer);
    for _ in 0..20 {
        call().expect(200);
    }
}

#[test]
fn a_new_revision_keeps_the_keys_that_were_fetched_for_the_old_one() {
    let ec = Signer::ec("ec");
    let origin = Origin::start(echo());
    let issuer = Origin::start(publishing(&Arc::new(Mutex::new(key_set(&[&ec])))));
    let jwks = at(issuer.address());
    let gateway = Gateway::with(trusting(&origin, &jwks)).start();
    gateway.client().get("/orders").token(&ec.token()).send().expect(200);
    drop(issuer);
    gateway.apply(trusting(&origin, &jwks).api("{ name: more, base_path: /more, auth: none, upstream: origin }"));
    gateway.client().get("/orders").token(&ec.token()).send().expect(200);
    gateway.client().get("/more").send().expect(200);
}

#[test]
fn a_rotation_under_load_refuses_no_good_token() {
    let (old, new) = (Arc::new(Signer::ec("old")), Arc::new(Signer::ec("new")));
    let document = Arc::new(Mutex::new(key_set(&[&old])));
    let origin = Origin::start(answer(200, ""));
    let issuer = Origin::start(publishing(&document));
    let gateway = Gateway::with(trusting(&origin, &at(issuer.address()))).start();
    gateway.client().get("/orders").token(&old.token()).send().expect(200);

    let rotated = AtomicBool::new(false);
    let stop = AtomicBool::new(false);
    let with_new = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut connection = gateway.raw();
                while !stop.load(Ordering::SeqCst) {
                    let (signer, counted) = if rotated.load(Ordering::SeqCst) {
                        (&new, 1)
                    } else {
                        (&old, 0)
                    };
                    let request = gateway.client().get("/orders").token(&signer.token());
                    let answer = request.send_on(&mut connection);
                    if answer.status != 200 {
                        stop.store(true, Ordering::SeqCst);
                        panic!("{answer:?}");
                    }
                    with_new.fetch_add(counted, Ordering::SeqCst);
                }
            });
        }
        until("some load", || origin.requests() > 50);
        // The issuer publishes both keys, as long as tokens of the old one are alive, and signs with the new one.
        *document.lock().unwrap() = key_set(&[&old, &new]);
        rotated.store(true, Ordering::SeqCst);
        until("some load with the new key", || {
            with_new.load(Ordering::SeqCst) > 200 || stop.load(Ordering::SeqCst)
        });
        stop.store(true, Ordering::SeqCst);
    });
    assert!(with_new.load(Ordering::SeqCst) > 200);
    gateway.client().get("/orders").token(&old.token()).send().expect(200);
    assert_eq!(issuer.requests(), 2, "one fetch at the start, one for the new key");
}

#[test]
fn tokens_with_made_up_key_names_do_not_become_a_flood_at_the_issuer() {
    let ec = Signer::ec("ec");
    let origin = Origin::start(echo());
    let issuer = Origin::start(publishing(&Arc::new(Mutex::new(key_set(&[&ec])))));
    let gateway = Gateway::with(trusting(&origin, &at(issuer.address()))).start();
    gateway.client().get("/orders").token(&ec.token()).send().expect(200);
    let mut connection = gateway.raw();
    for number in 0..100 {
        let made_up = Token::of(&ec).header("kid", format!("made-up-{number}")).sign(&ec);
        gateway
            .client()
            .get("/orders")
            .token(&made_up)
            .send_on(&mut connection)
            .expect(401);
    }
    assert!(issuer.requests() <= 2, "{} fetches", issuer.requests());
    gateway
        .client()
        .get("/orders")
        .token(&ec.token())
        .send_on(&mut connection)
        .expect(200);
}

#[test]
fn an_issuer_that_publishes_garbage_does_not_take_the_good_keys_away() {
    let ec = Signer::ec("ec");
    let document = Arc::new(Mutex::new(key_set(&[&ec])));
    let origin = Origin::start(echo());
    let issuer = Origin::start(publishing(&document));
    let gateway = Gateway::with(trusting(&origin, &at(issuer.address()))).start();
    gateway.client().get("/orders").token(&ec.token()).send().expect(200);
    *document.lock().unwrap() = "<html>maintenance</html>".to_owned();
    // An unknown key makes it fetch, and find garbage: whether the token is good can not be told then.
    let unknown = Token::of(&ec).header("kid", "unknown").sign(&ec);
    let answer = gateway.client().get("/orders").token(&unknown).send();
    answer.expect_refusal(503, "key_service_unavailable");
    until("the garbage was fetched", || issuer.requests() == 2);
    gateway.client().get("/orders").token(&ec.token()).send().expect(200);
}
