//! How a gateway gets into Redis.

use super::*;

/// The limit of the revision in [`revision_of`].
const LIMIT: usize = 20;

fn revision_of(origin: &Origin) -> Revision {
    open_under(origin, "{ name: l, rate: 20/month }")
}

/// Asserts that the gateways count together.
#[track_caller]
fn assert_shared(fleet: &Fleet, origin: &Origin, redis: &RedisServer) {
    let call = |gateway: &Gateway| gateway.client().get("/open");
    until("it is used up", || {
        fleet.let_in(2, call);
        origin.requests() >= LIMIT
    });
    assert_eq!((fleet.let_in(20, call), origin.requests()), (0, LIMIT));
    assert_eq!(issued(redis), as_tickets(LIMIT));
    until_store_is(true, fleet);
}

/// Asserts that the gateways serve without Redis, each its share, and say so.
#[track_caller]
fn assert_not_shared(fleet: &Fleet, origin: &Origin) {
    let call = |gateway: &Gateway| gateway.client().get("/open");
    call_until_store_is_missed(fleet, call);
    fleet.let_in(4 * LIMIT, call);
    assert_accurate(origin.requests(), LIMIT, 50, LIMIT);
}

/// Asserts that no gateway logs the password.
#[track_caller]
fn assert_kept_secret(fleet: &Fleet, password: &str) {
    for gateway in fleet.gateways() {
        assert!(!gateway.log().contains(password), "{}", gateway.log());
    }
}

#[test]
fn a_redis_with_a_password_is_shared_by_who_knows_it() {
    let (origin, redis) = (
        Origin::start(answer(200, "")),
        RedisServer::with_password("correct-horse"),
    );
    let fleet = Fleet::of(2, revision_of(&origin))
        .redis(&redis, "password: correct-horse")
        .throttle(STRICT)
        .start();
    assert_shared(&fleet, &origin, &redis);
    assert_kept_secret(&fleet, "correct-horse");
}

#[test]
fn a_wrong_password_is_logged_and_the_gateways_serve_each_their_share() {
    let (origin, redis) = (
        Origin::start(answer(200, "")),
        RedisServer::with_password("correct-horse"),
    );
    let fleet = Fleet::of(2, revision_of(&origin))
        .redis(&redis, "password: battery-staple")
        .throttle(STRICT)
        .start();
    assert_not_shared(&fleet, &origin);
    fleet[0].logs(&redis.address().to_string());
    assert_kept_secret(&fleet, "battery-staple");
    assert_eq!(tickets(&redis).len(), 0);
}

#[test]
fn a_redis_with_tls_is_shared_by_who_trusts_its_authority() {
    let (origin, redis) = (Origin::start(answer(200, "")), RedisServer::with_tls());
    let fleet = Fleet::of(2, revision_of(&origin))
        .redis(&redis, "")
        .throttle(STRICT)
        .start();
    assert_shared(&fleet, &origin, &redis);
}

#[test]
fn a_certificate_of_a_stranger_is_not_trusted() {
    let (origin, redis) = (Origin::start(answer(200, "")), RedisServer::with_tls());
    let stranger = RedisServer::with_tls();
    let ca = stranger.ca().unwrap().display();
    let fleet = Fleet::of(2, revision_of(&origin))
        .redis_at(&[redis.url()], &format!("ca: \"{ca}\""))
        .throttle(STRICT)
        .start();
    assert_not_shared(&fleet, &origin);
    assert_eq!(tickets(&redis).len(), 0);
}
