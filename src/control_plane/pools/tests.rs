//! Seats, told through the routes on a real store.

use axum::http::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::testing::{House, RECLAIM, TTL};
use crate::control_plane::access::Scope;
use crate::control_plane::store::{Changes, NewRevision};
use crate::distribution::{Content, ContentHash, Kind};

// === Seats ===

#[tokio::test]
async fn the_third_gateway_finds_a_pool_for_two_full_and_is_told_what_can_be_done() {
    let house = House::new().await;
    house.limit(Some(2)).await;
    house.register("a").await.seat();
    house.wait(1000);
    let second = house.register("b").await;
    let seat = second.seat();
    let of_another = house.beat("a", &seat).await;
    assert_eq!(of_another.problem(), (404, "seat_unknown".to_owned()));
    assert_eq!((&second.json()["live"], &second.json()["max"]), (&json!(2), &json!(2)));
    assert_eq!(second.json()["ttl_s"], 30);

    house.wait(14_000);
    let third = house.register("c").await;
    assert_eq!(third.problem(), (409, "pool_full".to_owned()));
    let detail = third.json()["detail"].as_str().unwrap().to_owned();
    for word in [
        "\"default\"",
        "2 gateways are alive",
        "max_instances is 2",
        "set-max-instances",
        "replaces",
    ] {
        assert!(detail.contains(word), "{word}: {detail}");
    }
    // The node has just started: it takes nobody for gone before it has listened for a whole ttl.
    assert_eq!(third.header("tollgate-retry-after-ms"), (TTL - 15_000).to_string());
    assert_eq!(third.header("retry-after"), "15");
}

#[tokio::test]
async fn a_seat_is_free_when_its_gateway_was_silent_for_a_ttl() {
    let house = House::new().await;
    house.limit(Some(1)).await;
    let seat = house.register("a").await.seat();
    house.wait(TTL - 1);
    assert_eq!(house.beat("a", &seat).await.status, StatusCode::OK);
    house.wait(TTL);
    assert_eq!(
        house.register("b").await.status,
        StatusCode::CONFLICT,
        "alive until the very end of its ttl"
    );
    house.wait(1);
    house.register("b").await.seat();
    let pool = house.get("/v1/pools/default").await.json();
    assert_eq!((&pool["live"], &pool["over_by"]), (&json!(1), &json!(0)));
}

#[tokio::test]
async fn lowering_a_pool_stops_nobody_and_nobody_new_comes_in() {
    let house = House::new().await;
    let mut seats = Vec::new();
    for id in ["a", "b", "c"] {
        seats.push((id, house.register(id).await.seat()));
    }
    house.limit(Some(1)).await;
    let pool = house.get("/v1/pools/default").await.json();
    assert_eq!(
        pool,
        json!({ "name": "default", "max_instances": 1, "live": 3, "over_by": 2 })
    );
    for (id, seat) in &seats {
        let reply = house.beat(id, seat).await;
        assert_eq!(reply.status, StatusCode::OK);
        assert_eq!((&reply.json()["live"], &reply.json()["max"]), (&json!(3), &json!(1)));
    }
    assert_eq!(house.register("d").await.status, StatusCode::CONFLICT);

    // One of them restarts, and stays away for a while.
    house.wait(TTL + RECLAIM - 1);
    for (id, seat) in &seats[..2] {
        house.beat(id, seat).await;
    }
    house.register("c").await.seat();

    // Two leave, the third is silent for too long: now there is room.
    for (id, seat) in &seats[..2] {
        let path = format!("/v1/instances/{id}");
        let left = house
            .ask_with(
                Method::DELETE,
                &path,
                &house.gateway,
                &[("x-tollgate-seat", seat)],
                None,
            )
            .await;
        assert_eq!(left.status, StatusCode::NO_CONTENT, "{}", left.text);
    }
    assert_eq!(house.register("d").await.status, StatusCode::CONFLICT);
    house.wait(TTL + 1);
    house.register("d").await.seat();
}

#[tokio::test]
async fn a_gateway_that_stayed_away_for_too_long_has_lost_its_claim_though_it_has_a_token() {
    let house = House::new().await;
    house.limit(Some(1)).await;
    let seat = house.register("a").await.seat();
    house.wait(TTL + RECLAIM + 1);
    house.register("b").await.seat();
    let back = house.register_with("a", json!({ "seat": seat })).await;
    assert_eq!(back.status, StatusCode::CONFLICT, "{}", back.text);
}

#[tokio::test]
async fn a_restart_keeps_the_seat_and_a_replacement_takes_it_over_in_a_full_pool() {
    let house = House::new().await;
    house.limit(Some(1)).await;
    let old = house.register("a").await.seat();
    let again = house.register("a").await;
    again.seat();
    assert_eq!(again.json()["live"], 1);

    let new = house.register_with("b", json!({ "replaces": "a" })).await;
    let seat = new.seat();
    assert_eq!(new.json()["live"], 1);
    assert_eq!(house.beat("b", &seat).await.status, StatusCode::OK);
    assert_eq!(house.beat("a", &old).await.problem().1, "seat_unknown");
    let refused = house.register_with("a", json!({ "seat": old })).await;
    assert_eq!(refused.status, StatusCode::CONFLICT, "its seat is another's");
    let stranger = house.register_with("c", json!({ "replaces": "nobody" })).await;
    assert_eq!(stranger.status, StatusCode::CONFLICT, "there is no seat to take over");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_gateways_at_once_get_exactly_the_ten_seats_that_there_are() {
    let house = std::sync::Arc::new(House::new().await);
    house.limit(Some(10)).await;
    let mut asked = JoinSet::new();
    for number in 0..50 {
        let house = std::sync::Arc::clone(&house);
        asked.spawn(async move { house.register(&format!("gw-{number}")).await.status });
    }
    let answers = asked.join_all().await;
    let of = |status| answers.iter().filter(|answer| **answer == status).count();
    assert_eq!((of(StatusCode::CREATED), of(StatusCode::CONFLICT)), (10, 40));
    assert_eq!(house.get("/v1/pools/default").await.json()["live"], 10);
    assert_eq!(house.plane.store.instances(None).await.unwrap().len(), 10);
}

// === A control plane that comes and goes ===

#[tokio::test]
async fn after_a_restart_nobody_is_taken_for_gone_because_nobody_listened() {
    let house = House::new().await;
    house.limit(Some(1)).await;
    let seat = house.register("a").await.seat();
    // Away for an hour, and the gateway serves on.
    let house = house.restarted(3_600_000).await;
    assert_eq!(house.register("b").await.status, StatusCode::CONFLICT);
    assert_eq!(house.get("/v1/gateways/a").await.json()["state"], "alive");
    house.wait(TTL - 1);
    let refused = house.register("b").await;
    assert_eq!(refused.status, StatusCode::CONFLICT);
    assert_eq!(
        house.beat("a", &seat).await.status,
        StatusCode::OK,
        "known without registering again"
    );
    house.wait(TTL);
    assert_eq!(
        house.register("b").await.status,
        StatusCode::CONFLICT,
        "it has given a sign since"
    );
}

#[tokio::test]
async fn after_a_restart_the_silent_have_a_ttl_to_be_heard_and_no_more() {
    let house = House::new().await;
    house.limit(Some(1)).await;
    house.register("a").await.seat();
    let house = house.restarted(3_600_000).await;
    assert_eq!(
        house.register("b").await.header("tollgate-retry-after-ms"),
        TTL.to_string()
    );
    house.wait(TTL);
    house.register("b").await.seat();
    // Who was silent while nobody listened may still come back.
    house.wait(RECLAIM - 1);
    assert_eq!(
        house.register("c").await.status,
        StatusCode::CREATED,
        "b is gone by now"
    );
}

#[tokio::test]
async fn signs_of_life_are_written_in_batches_and_read_by_the_other_node() {
    let house = House::new().await;
    house.limit(Some(1)).await;
    let seat = house.register("a").await.seat();
    let other = house.restarted(0).await;
    for _ in 0..8 {
        house.wait(TTL / 2);
        assert_eq!(house.beat("a", &seat).await.status, StatusCode::OK);
    }
    let stored = house.plane.store.instance("a").await.unwrap().unwrap();
    assert_eq!(stored.heartbeat, "", "nothing is written with a heartbeat");

    let flusher = super::start(&house.plane, &tokio::runtime::Handle::current());
    flusher.finish().await;
    let stored = house.plane.store.instance("a").await.unwrap().unwrap();
    assert_eq!(stored.seen_ms, house.plane.now_ms());
    assert!(
        !stored.heartbeat.contains("ed25519"),
        "the seat token is not kept: {}",
        stored.heartbeat
    );

    assert_eq!(other.register("b").await.status, StatusCode::CONFLICT);
    assert_eq!(other.get("/v1/gateways/a").await.json()["state"], "alive");
    assert_eq!(other.beat("a", &seat).await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_store_that_was_wiped_learns_the_seats_again_from_their_tokens() {
    let house = House::new().await;
    let mut seats = Vec::new();
    for id in ["a", "b"] {
        seats.push((id, house.register(id).await.seat()));
    }
    let house = house.wiped(60_000).await;
    house.limit(Some(1)).await;
    house.register("c").await.seat();
    for (id, seat) in &seats {
        assert_eq!(house.beat(id, seat).await.problem().1, "seat_unknown");
        let again = house.register_with(id, json!({ "seat": seat })).await;
        assert_eq!(house.beat(id, &again.seat()).await.status, StatusCode::OK);
    }
    assert_eq!(house.get("/v1/pools/default").await.json()["over_by"], 2);
    // No token, a token of another gateway, and one that is too old prove nothing.
    assert_eq!(house.register("d").await.status, StatusCode::CONFLICT);
    let stolen = house.register_with("d", json!({ "seat": seats[0].1 })).await;
    assert_eq!(stolen.status, StatusCode::CONFLICT);
    let house = house.wiped(7 * 24 * 3_600_000).await;
    house.limit(Some(1)).await;
    house.register("c").await.seat();
    let old = house.register_with("a", json!({ "seat": seats[0].1 })).await;
    assert_eq!(old.status, StatusCode::CONFLICT);
}

#[tokio::test]
async fn a_store_from_a_backup_believes_the_tokens_of_seats_that_it_lost() {
    let house = House::new().await;
    house.limit(Some(1)).await;
    let early = house.register("a").await.seat();
    house.wait(1000);
    house.limit(None).await;
    let late = house.register("b").await.seat();
    house.limit(Some(1)).await;
    // The backup was made between the two.
    house.plane.store.remove_instance("b").await.unwrap();
    let house = house.restarted(1000).await;
    assert_eq!(house.beat("a", &early).await.status, StatusCode::OK);
    assert_eq!(
        house.register("b").await.status,
        StatusCode::CONFLICT,
        "without a token"
    );
    house.register_with("b", json!({ "seat": late })).await.seat();
}

#[tokio::test]
async fn gateways_that_never_come_back_are_forgotten_after_a_week() {
    let house = House::new().await;
    house.register("a").await.seat();
    let week = 7 * 24 * 3_600_000;
    house.wait(week);
    let sweep = || async {
        let plane = &house.plane;
        plane
            .pools
            .roster
            .refresh(plane.store.as_ref(), plane.now_ms())
            .await
            .unwrap();
        plane.pools.sweep(plane).await.unwrap();
        plane.store.instance("a").await.unwrap().is_some()
    };
    assert!(sweep().await, "still listed");
    house.wait(1);
    assert!(!sweep().await);
}

#[tokio::test]
async fn a_gateway_that_runs_for_days_is_asked_for_another_registration_so_that_its_token_stays_a_proof() {
    let house = House::new().await;
    let seat = house.register("a").await.seat();
    let day = 24 * 3_600_000;
    house.wait(day - 1);
    assert_eq!(house.beat("a", &seat).await.status, StatusCode::OK);
    house.wait(day + 1);
    assert_eq!(house.beat("a", &seat).await.problem().1, "seat_unknown");
    let seat = house.register_with("a", json!({ "seat": seat })).await.seat();
    assert_eq!(house.beat("a", &seat).await.status, StatusCode::OK);
}

// === What operators see and do ===

#[tokio::test]
async fn a_gateway_that_shall_drain_is_told_so_and_one_that_comes_back_is_not() {
    let house = House::new().await;
    let seat = house.register("a").await.seat();
    let drained = house
        .ask(Method::POST, "/v1/gateways/name%20of%20a/drain", &house.admin, None)
        .await;
    assert_eq!(drained.status, StatusCode::ACCEPTED, "{}", drained.text);
    assert_eq!(drained.json()["state"], "draining");
    assert_eq!(house.beat("a", &seat).await.json()["commands"], json!(["drain"]));
    let seat = house.register("a").await.seat();
    assert_eq!(house.beat("a", &seat).await.json()["commands"], json!([]));
    assert_eq!(house.get("/v1/gateways/a").await.json()["state"], "alive");

    let forgotten = house.ask(Method::DELETE, "/v1/gateways/a", &house.admin, None).await;
    assert_eq!(forgotten.status, StatusCode::NO_CONTENT);
    assert_eq!(house.beat("a", &seat).await.problem().1, "seat_unknown");
    assert_eq!(house.get("/v1/gateways/a").await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_name_that_two_gateways_have_is_no_way_to_drain_one_of_them() {
    let house = House::new().await;
    for id in ["a", "b"] {
        house.register_with(id, json!({ "name": "twin" })).await.seat();
    }
    let refused = house
        .ask(Method::POST, "/v1/gateways/twin/drain", &house.admin, None)
        .await;
    assert_eq!(refused.problem(), (409, "conflict".to_owned()));
    assert!(refused.text.contains("a, b"), "{}", refused.text);
}

#[tokio::test]
async fn what_a_gateway_serves_is_compared_with_what_was_published() {
    let house = House::new().await;
    let roots = [publish(&house, 1).await, publish(&house, 2).await];
    let seat = house
        .register_with("a", json!({ "labels": ["Default"], "zone": "rack-a" }))
        .await
        .seat();
    assert_eq!(
        house.get("/v1/gateways/a").await.json()["drift"],
        "behind",
        "it serves nothing yet"
    );

    let states = [
        (json!({ "applied": { "seq": 2, "root": roots[1] } }), "in_sync"),
        (json!({ "applied": { "seq": 1, "root": roots[0] } }), "behind"),
        (json!({ "applied": { "seq": 2, "root": roots[0] } }), "drift"),
        (json!({ "applied": { "seq": 3, "root": roots[1] } }), "drift"),
        (
            json!({ "applied": { "seq": 1, "root": roots[0] },
                "refused": { "seq": 2, "code": "invalid", "message": "x".repeat(10_000) + "\u{1b}[2J" } }),
            "refused",
        ),
        (
            json!({ "refused": { "seq": 0, "code": "signature", "message": "\u{1b}[2J" } }),
            "refused",
        ),
    ];
    for (beat, drift) in states {
        let mut beat = beat;
        beat["requests_per_second"] = json!(12.5);
        house.beat_with("a", &seat, beat.clone()).await;
        let gateway = house.get("/v1/gateways/a").await.json();
        assert_eq!(gateway["drift"], drift, "{beat}");
        assert_eq!(gateway["latest_seq"], 2);
        assert_eq!(gateway["applied"], beat.get("applied").cloned().unwrap_or(Value::Null));
        assert_eq!(gateway["requests_per_second"], 12.5);
        let message = gateway["refused"]["message"].as_str().unwrap_or_default();
        assert!(message.len() <= 4096 && !message.contains('\u{1b}'), "{message}");
    }
    let gateway = house.get("/v1/gateways/a").await.json();
    assert_eq!(
        (&gateway["labels"], &gateway["zone"]),
        (&json!(["Default"]), &json!("rack-a"))
    );
    assert_eq!(gateway["since"], "2027-01-15T08:00:00Z");
}

#[tokio::test]
async fn gateways_are_listed_page_by_page_of_one_pool_or_environment() {
    let house = House::new().await;
    for number in 0..5 {
        house.register(&format!("gw-{number}")).await.seat();
    }
    let page = house.get("/v1/gateways?limit=2").await.json();
    assert_eq!(
        (page["items"].as_array().unwrap().len(), &page["next"]),
        (2, &json!("gw-1"))
    );
    let last = house
        .get("/v1/gateways?limit=3&after=gw-1&pool=default&environment=prod")
        .await
        .json();
    assert_eq!(last["items"].as_array().unwrap().len(), 3);
    assert_eq!(last.get("next"), None);
    for none in ["/v1/gateways?pool=other", "/v1/gateways?environment=other"] {
        assert_eq!(house.get(none).await.json()["items"], json!([]));
    }
    house.wait(TTL + 1);
    assert_eq!(house.get("/v1/gateways").await.json()["items"][0]["state"], "gone");
    assert_eq!(
        house.get("/v1/pools").await.json()["items"],
        json!([]),
        "nobody created it, and nobody is there"
    );
}

#[tokio::test]
async fn a_pool_is_created_changed_by_who_has_read_it_and_removed_when_it_is_empty() {
    let house = House::new().await;
    let body = |max: Value| Some(json!({ "name": "edge", "max_instances": max }));
    let created = house.ask(Method::POST, "/v1/pools", &house.admin, body(json!(2))).await;
    assert_eq!((created.status, created.header("etag")), (StatusCode::CREATED, "\"1\""));
    let twice = house.ask(Method::POST, "/v1/pools", &house.admin, body(json!(3))).await;
    assert_eq!(twice.problem(), (409, "conflict".to_owned()));

    let put = |tag: &'static str, max: Value| {
        let house = &house;
        let body = body(max);
        async move {
            let fields = [("if-match", tag)];
            house
                .ask_with(Method::PUT, "/v1/pools/edge", &house.admin, &fields, body)
                .await
        }
    };
    let changed = put("\"1\"", json!(null)).await;
    assert_eq!(
        (changed.status, changed.json()["max_instances"].clone()),
        (StatusCode::OK, json!(null))
    );
    assert_eq!(
        put("\"1\"", json!(5)).await.problem(),
        (412, "precondition_failed".to_owned())
    );
    for (path, body, word) in [
        ("/v1/pools/edge", json!({}), "max_instances"),
        ("/v1/pools/edge", json!({ "max_instances": -1 }), "-1"),
        ("/v1/pools/edge", json!({ "max_instances": 1, "max": 1 }), "max"),
        ("/v1/pools/edge", json!({ "max_instances": 1, "name": "other" }), "name"),
        ("/v1/pools/a%2Fb", json!({ "max_instances": 1 }), "slashes"),
    ] {
        let refused = house.ask(Method::PUT, path, &house.admin, Some(body)).await;
        assert_eq!(refused.problem(), (400, "bad_request".to_owned()));
        assert!(refused.text.contains(word), "{}", refused.text);
    }

    // One that nobody created is there as long as somebody is in it.
    house.register("a").await.seat();
    let implicit = house.get("/v1/pools/default").await;
    assert_eq!(implicit.header("etag"), "\"0\"");
    let names: Vec<Value> = house.get("/v1/pools").await.json()["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|pool| pool["name"].clone())
        .collect();
    assert_eq!(names, [json!("default"), json!("edge")]);
    let refused = house.ask(Method::DELETE, "/v1/pools/default", &house.admin, None).await;
    assert_eq!(refused.problem().0, 409);
    let removed = house.ask(Method::DELETE, "/v1/pools/edge", &house.admin, None).await;
    assert_eq!(removed.status, StatusCode::NO_CONTENT);
    assert_eq!(house.get("/v1/pools/edge").await.problem().0, 404);
    let removed = house.ask(Method::DELETE, "/v1/pools/edge", &house.admin, None).await;
    assert_eq!(removed.problem().0, 404);
}

#[tokio::test]
async fn each_right_opens_its_own_routes_alone() {
    let house = House::new().await;
    let seat = house.register("a").await.seat();
    let about = json!({ "instance_id": "b", "name": "b", "environment": "prod", "version": "1" });
    let beat = json!({ "seat": seat });
    let routes = [
        (Method::GET, "/v1/pools", None, Scope::Read),
        (Method::GET, "/v1/pools/default", None, Scope::Read),
        (Method::POST, "/v1/pools", Some(json!({ "name": "x" })), Scope::Pools),
        (
            Method::PUT,
            "/v1/pools/x",
            Some(json!({ "max_instances": 1 })),
            Scope::Pools,
        ),
        (Method::DELETE, "/v1/pools/x", None, Scope::Pools),
        (Method::POST, "/v1/pools/default/instances", Some(about), Scope::Gateway),
        (Method::POST, "/v1/instances/a/heartbeat", Some(beat), Scope::Gateway),
        (Method::GET, "/v1/gateways", None, Scope::Read),
        (Method::GET, "/v1/gateways/a", None, Scope::Read),
        (Method::POST, "/v1/gateways/a/drain", None, Scope::Gateways),
        (Method::DELETE, "/v1/gateways/a", None, Scope::Gateways),
        (Method::DELETE, "/v1/instances/b", None, Scope::Gateways),
    ];
    for (method, path, body, needed) in routes {
        for scope in Scope::ALL {
            if scope == needed || scope == Scope::Admin {
                continue;
            }
            let token = house.token(&[scope], &[]).await;
            let refused = house.ask(method.clone(), path, &token, body.clone()).await;
            assert_eq!(
                refused.problem(),
                (403, "scope_insufficient".to_owned()),
                "{method} {path} with {scope}"
            );
        }
        let token = house.token(&[needed], &[]).await;
        let answer = house.ask(method.clone(), path, &token, body).await;
        assert!(
            answer.status.is_success(),
            "{method} {path} with {needed}: {}",
            answer.text
        );
    }
}

#[tokio::test]
async fn a_gateway_of_another_environment_and_one_without_its_token_are_not_let_near_a_seat() {
    let house = House::new().await;
    let foreign = house.register_with("a", json!({ "environment": "test" })).await;
    assert_eq!(foreign.problem().0, 403);
    let seat = house.register("a").await.seat();
    let other = house.token(&[Scope::Gateway], &["test"]).await;
    let beat = Some(json!({ "seat": seat }));
    let refused = house.ask(Method::POST, "/v1/instances/a/heartbeat", &other, beat).await;
    assert_eq!(refused.problem().0, 403);
    for body in [None, Some(json!({ "seat": "forged" }))] {
        let refused = house.ask(Method::DELETE, "/v1/instances/a", &house.gateway, body).await;
        assert_eq!(refused.problem().0, 403);
    }
    let body = Some(json!({ "seat": seat }));
    let left = house.ask(Method::DELETE, "/v1/instances/a", &house.gateway, body).await;
    assert_eq!(left.status, StatusCode::NO_CONTENT);
}

#[tokio::test]
async fn a_registration_that_can_not_be_kept_is_refused_with_its_field() {
    let house = House::new().await;
    for (more, field) in [
        (json!({ "instance_id": "../a" }), "instance_id"),
        (json!({ "instance_id": "" }), "instance_id"),
        (json!({ "name": "a\nb" }), "name"),
        (json!({ "labels": vec!["l"; 65] }), "labels"),
        (json!({ "version": "x".repeat(129) }), "version"),
        (json!({ "zone": "" }), "zone"),
        (json!({ "version": "x".repeat(70_000) }), "bytes"),
    ] {
        let refused = house.register_with("a", more).await;
        assert!(refused.status.is_client_error());
        assert!(
            refused.json()["detail"].as_str().unwrap().contains(field),
            "{}",
            refused.text
        );
    }
    assert_eq!(house.plane.store.instances(None).await.unwrap(), []);
}

#[tokio::test]
async fn a_question_that_is_not_understood_is_a_problem_document() {
    let house = House::new().await;
    for path in [
        "/v1/gateways?limit=many",
        "/v1/gateways?enviroment=prod",
        "/v1/pools?limit=-1",
        "/v1/pools?name=x",
    ] {
        assert_eq!(
            house.get(path).await.problem(),
            (400, "bad_request".to_owned()),
            "{path}"
        );
    }
}

#[test]
fn everything_that_the_description_refers_to_is_in_it() {
    let (_, description) = super::router()
        .merge(crate::control_plane::key_manager::router())
        .split_for_parts();
    let description = serde_json::to_value(&description).unwrap();
    let mut references = Vec::new();
    collect_references(&description, &mut references);
    assert!(references.len() > 20, "{references:?}");
    for reference in references {
        let pointer = reference.strip_prefix('#').unwrap();
        assert!(description.pointer(pointer).is_some(), "{reference}");
    }
}

fn collect_references(value: &Value, references: &mut Vec<String>) {
    match value {
        Value::Object(members) => {
            references.extend(members.get("$ref").and_then(Value::as_str).map(str::to_owned));
            members.values().for_each(|value| collect_references(value, references));
        }
        Value::Array(items) => items.iter().for_each(|item| collect_references(item, references)),
        _ => {}
    }
}

/// Publishes a revision, and gives its root.
async fn publish(house: &House, seq: u64) -> String {
    let mut content = Content::default();
    content.insert(Kind::Plan, "gold", &json!({ "name": "gold", "seq": seq }));
    let (blob, bytes) = content.to_snapshot().unwrap();
    let revision = NewRevision {
        environment: "prod".to_owned(),
        after: seq - 1,
        root: content.root(),
        snapshot: ContentHash::of(&bytes),
        snapshot_raw_size: blob.raw_size,
        routes: 0,
        source: "{}".to_owned(),
        author: "test".to_owned(),
        note: String::new(),
        rollback_of: None,
    };
    let changes = Changes {
        blobs: vec![(ContentHash::of(&bytes), bytes)],
        revisions: vec![revision],
        ..Changes::default()
    };
    let committed = house.plane.store.commit(&changes, house.plane.now_ms()).await.unwrap();
    house.plane.heads.published(&committed.revisions[0]);
    content.root().to_string()
}

#[tokio::test]
async fn a_token_of_one_environment_takes_no_seat_of_another() {
    let house = House::new().await;
    house.register("a").await.seat();
    let stranger = house.token(&[Scope::Gateway], &["test"]).await;
    for (id, more) in [("a", json!({})), ("b", json!({ "replaces": "a" }))] {
        let mut about = json!({ "instance_id": id, "name": id, "environment": "test", "version": "0.1.0" });
        about.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let path = "/v1/pools/default/instances";
        let answer = house.ask(Method::POST, path, &stranger, Some(about)).await;
        assert_eq!(answer.problem(), (403, "scope_insufficient".to_owned()), "{id}");
    }
    let gateways = house.get("/v1/gateways").await.json();
    assert_eq!(gateways["items"].as_array().unwrap().len(), 1);
    assert_eq!(gateways["items"][0]["environment"], "prod");
}

#[tokio::test]
async fn a_gateway_that_says_any_number_is_shown_all_the_same() {
    let house = House::new().await;
    let seat = house.register("a").await.seat();
    let root = "0".repeat(64);
    let applied = json!({ "applied": { "seq": u64::MAX, "root": root }, "key_seq": u64::MAX });
    assert_eq!(house.beat_with("a", &seat, applied).await.status, StatusCode::OK);
    let shown = house.get("/v1/gateways/a").await;
    assert_eq!(shown.status, StatusCode::OK, "{}", shown.text);
    assert_eq!(shown.json()["drift"], "drift");
}

#[tokio::test]
async fn a_gateway_that_is_stopped_finds_its_seat_for_ten_seconds_and_then_it_is_anybodys() {
    let house = House::new().await;
    house.limit(Some(1)).await;
    // The node has started long ago, and listens.
    house.wait(TTL);
    let stop = async |seat: &str| {
        let (path, fields) = ("/v1/instances/a?may_return=true", [("x-tollgate-seat", seat)]);
        let left = house
            .ask_with(Method::DELETE, path, &house.gateway, &fields, None)
            .await;
        assert_eq!(left.status, StatusCode::NO_CONTENT, "{}", left.text);
    };
    let first = house.register("a").await.seat();
    stop(&first).await;
    assert_eq!(house.get("/v1/gateways/a").await.json()["state"], "gone");
    assert_eq!(house.get("/v1/pools/default").await.json()["live"], 0);
    assert_eq!(house.beat("a", &first).await.problem().1, "seat_unknown");
    house.wait(10_000);
    assert_eq!(house.register("b").await.status, StatusCode::CONFLICT, "held");
    let second = house.register("a").await.seat();
    assert_eq!(house.get("/v1/gateways/a").await.json()["state"], "alive");
    assert_eq!(house.beat("a", &second).await.status, StatusCode::OK);

    stop(&second).await;
    house.wait(10_001);
    house.register("b").await.seat();
    let late = house.register_with("a", json!({ "seat": second })).await;
    assert_eq!(late.problem(), (409, "pool_full".to_owned()), "{}", late.text);
    assert_eq!(house.get("/v1/pools/default").await.json()["over_by"], 0);

    // Another node knows it from the store.
    let other = house.restarted(TTL).await;
    assert_eq!(other.get("/v1/gateways/a").await.json()["state"], "gone");
    let mistaken = house
        .ask(Method::DELETE, "/v1/instances/a?my_return=true", &house.gateway, None)
        .await;
    assert_eq!(mistaken.problem().0, 400);
}
