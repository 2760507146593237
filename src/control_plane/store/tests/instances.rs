//! Seats in pools.

use super::*;

told_of_both_stores!(
    an_instance_is_read_as_it_registered_and_lives,
    a_full_pool_refuses_a_new_one_and_says_when_to_come_back,
    lowering_the_limit_stops_nobody,
    who_was_known_comes_back_into_a_full_pool,
    a_seat_that_was_given_up_is_held_for_its_instance_for_a_while_and_then_free,
    proof_of_a_seat_is_as_good_as_the_store_s_memory,
    a_replacement_takes_the_seat_over,
    fifty_who_want_ten_seats_get_exactly_ten,
    ten_thousand_signs_of_life_are_written_at_once,
    an_older_sign_of_life_does_not_replace_a_newer_one,
    who_lost_every_claim_is_forgotten,
);

/// Everything in seconds: alive for 30, known for 1,000.
fn request(id: &str, max: Option<u32>, now_s: u64) -> SeatRequest {
    SeatRequest {
        id: id.to_owned(),
        pool: "edge".to_owned(),
        registration: format!("{{\"name\":\"{id}\"}}"),
        replaces: None,
        max,
        alive_since_ms: now_s.saturating_sub(30) * 1_000,
        known_since_ms: now_s.saturating_sub(1_000) * 1_000,
        held_since_ms: now_s.saturating_sub(10) * 1_000,
        has_proof: false,
        now_ms: now_s * 1_000,
    }
}

fn sign(id: &str, now_s: u64) -> SignOfLife {
    SignOfLife {
        id: id.to_owned(),
        heartbeat: format!("{{\"at\":{now_s}}}"),
        seen_ms: now_s * 1_000,
    }
}

async fn ids(store: &Arc<dyn Store>) -> Vec<String> {
    store
        .instances(None)
        .await
        .unwrap()
        .into_iter()
        .map(|instance| instance.id)
        .collect()
}

async fn an_instance_is_read_as_it_registered_and_lives(place: Place) {
    let store = &place.store;
    assert_eq!(
        store.take_seat(&request("a", None, 5_000)).await.unwrap(),
        SeatAnswer::Seated { live: 1 }
    );
    let mut expected = Instance {
        id: "a".to_owned(),
        pool: "edge".to_owned(),
        registration: "{\"name\":\"a\"}".to_owned(),
        heartbeat: String::new(),
        since_ms: 5_000_000,
        seen_ms: 5_000_000,
        drain: false,
        left_ms: 0,
    };
    assert_eq!(store.instance("a").await.unwrap(), Some(expected.clone()));
    store
        .signs_of_life(&[sign("a", 5_010), sign("nobody", 5_010)])
        .await
        .unwrap();
    assert!(store.set_drain("a", true).await.unwrap());
    (expected.heartbeat, expected.seen_ms, expected.drain) = ("{\"at\":5010}".to_owned(), 5_010_000, true);
    let store = &place.another().await;
    assert_eq!(store.instance("a").await.unwrap(), Some(expected));
    assert_eq!(
        store.instance("nobody").await.unwrap(),
        None,
        "a sign of life is no seat"
    );

    // It restarts: what it said before is no longer so, and the operator still wants it to leave.
    store.take_seat(&request("a", None, 5_020)).await.unwrap();
    let again = store.instance("a").await.unwrap().unwrap();
    assert_eq!(
        (again.heartbeat.as_str(), again.since_ms, again.drain),
        ("", 5_020_000, true)
    );

    let mut core = request("0", None, 5_020);
    core.pool = "core".to_owned();
    store.take_seat(&core).await.unwrap();
    store.take_seat(&request("B", None, 5_020)).await.unwrap();
    assert_eq!(ids(store).await, ["0", "B", "a"], "pools, then ids, by bytes");
    assert_eq!(store.instances(Some("core")).await.unwrap().len(), 1);
    assert!(store.remove_instance("a").await.unwrap());
    assert!(!store.remove_instance("a").await.unwrap());
    assert!(!store.set_drain("a", true).await.unwrap());
}

async fn a_full_pool_refuses_a_new_one_and_says_when_to_come_back(place: Place) {
    let store = &place.store;
    store.take_seat(&request("a", Some(2), 5_000)).await.unwrap();
    assert_eq!(
        store.take_seat(&request("b", Some(2), 5_005)).await.unwrap(),
        SeatAnswer::Seated { live: 2 }
    );
    let full = SeatAnswer::Full {
        live: 2,
        oldest_seen_ms: 5_000_000,
    };
    assert_eq!(store.take_seat(&request("c", Some(2), 5_010)).await.unwrap(), full);
    assert_eq!(ids(store).await, ["a", "b"], "who is refused leaves no trace");
    // A sign of life keeps a seat; without one it is free after half a minute.
    store.signs_of_life(&[sign("a", 5_020)]).await.unwrap();
    let full = SeatAnswer::Full {
        live: 2,
        oldest_seen_ms: 5_005_000,
    };
    assert_eq!(store.take_seat(&request("c", Some(2), 5_035)).await.unwrap(), full);
    assert_eq!(
        store.take_seat(&request("c", Some(2), 5_036)).await.unwrap(),
        SeatAnswer::Seated { live: 2 }
    );
    // So it is when it leaves.
    store.remove_instance("a").await.unwrap();
    assert_eq!(
        store.take_seat(&request("d", Some(2), 5_037)).await.unwrap(),
        SeatAnswer::Seated { live: 2 }
    );
    // Nobody may sit in a pool without seats, and other pools do not count.
    let mut none = request("e", Some(0), 5_037);
    none.pool = "closed".to_owned();
    assert_eq!(
        store.take_seat(&none).await.unwrap(),
        SeatAnswer::Full {
            live: 0,
            oldest_seen_ms: 5_037_000
        }
    );
}

async fn lowering_the_limit_stops_nobody(place: Place) {
    let store = &place.store;
    for id in ["a", "b", "c"] {
        store.take_seat(&request(id, Some(3), 5_000)).await.unwrap();
    }
    // The limit is one now. Who is there restarts as often as it likes.
    assert_eq!(
        store.take_seat(&request("c", Some(1), 5_001)).await.unwrap(),
        SeatAnswer::Seated { live: 3 }
    );
    assert!(matches!(
        store.take_seat(&request("d", Some(1), 5_001)).await.unwrap(),
        SeatAnswer::Full { live: 3, .. }
    ));
    store.remove_instance("a").await.unwrap();
    store.remove_instance("b").await.unwrap();
    assert!(matches!(
        store.take_seat(&request("d", Some(1), 5_001)).await.unwrap(),
        SeatAnswer::Full { live: 1, .. }
    ));
}

async fn who_was_known_comes_back_into_a_full_pool(place: Place) {
    let store = &place.store;
    store.take_seat(&request("old", Some(1), 5_000)).await.unwrap();
    store.take_seat(&request("new", Some(1), 5_100)).await.unwrap();
    // Away for 900 seconds, less than the 1,000 for which it is known: it comes back although another one sits there.
    store.signs_of_life(&[sign("new", 5_900)]).await.unwrap();
    assert_eq!(
        store.take_seat(&request("old", Some(1), 5_900)).await.unwrap(),
        SeatAnswer::Seated { live: 2 }
    );
    // Away for longer: it is as new as any.
    store.signs_of_life(&[sign("new", 6_901)]).await.unwrap();
    assert!(matches!(
        store.take_seat(&request("old", Some(1), 6_901)).await.unwrap(),
        SeatAnswer::Full { live: 1, .. }
    ));
    // And known in one pool is not known in another.
    store.take_seat(&request("old", Some(2), 6_901)).await.unwrap();
    let mut elsewhere = request("old", Some(0), 6_902);
    elsewhere.pool = "core".to_owned();
    assert!(matches!(
        store.take_seat(&elsewhere).await.unwrap(),
        SeatAnswer::Full { .. }
    ));
}

async fn a_seat_that_was_given_up_is_held_for_its_instance_for_a_while_and_then_free(place: Place) {
    let store = &place.store;
    let full = SeatAnswer::Full {
        live: 1,
        oldest_seen_ms: 5_000_000,
    };
    store.take_seat(&request("a", Some(1), 5_000)).await.unwrap();
    assert!(store.give_up_seat("a", 5_005_000).await.unwrap());
    assert!(!store.give_up_seat("nobody", 5_005_000).await.unwrap());
    assert_eq!(store.instance("a").await.unwrap().unwrap().left_ms, 5_005_000);
    assert_eq!(store.take_seat(&request("b", Some(1), 5_015)).await.unwrap(), full);
    let alone = SeatAnswer::Seated { live: 1 };
    assert_eq!(store.take_seat(&request("a", Some(1), 5_015)).await.unwrap(), alone);
    assert_eq!(store.instance("a").await.unwrap().unwrap().left_ms, 0, "it is back");

    // A sign of life that was on its way does not bring back who has gone.
    assert!(store.give_up_seat("a", 5_016_000).await.unwrap());
    store.signs_of_life(&[sign("a", 5_017)]).await.unwrap();
    assert_eq!(store.take_seat(&request("b", Some(1), 5_027)).await.unwrap(), alone);
    let taken = SeatAnswer::Full {
        live: 1,
        oldest_seen_ms: 5_027_000,
    };
    assert_eq!(store.take_seat(&request("a", Some(1), 5_028)).await.unwrap(), taken);
}

async fn proof_of_a_seat_is_as_good_as_the_store_s_memory(place: Place) {
    let store = &place.store;
    store.take_seat(&request("a", Some(1), 5_000)).await.unwrap();
    let mut proven = request("b", Some(1), 5_000);
    assert!(matches!(
        store.take_seat(&proven).await.unwrap(),
        SeatAnswer::Full { .. }
    ));
    proven.has_proof = true;
    assert_eq!(store.take_seat(&proven).await.unwrap(), SeatAnswer::Seated { live: 2 });
}

async fn a_replacement_takes_the_seat_over(place: Place) {
    let store = &place.store;
    store.take_seat(&request("a", Some(2), 5_000)).await.unwrap();
    store.take_seat(&request("b", Some(2), 5_000)).await.unwrap();
    let replacement = |id: &str, replaces: &str| SeatRequest {
        replaces: Some(replaces.to_owned()),
        ..request(id, Some(2), 5_010)
    };
    assert_eq!(
        store.take_seat(&replacement("c", "a")).await.unwrap(),
        SeatAnswer::Seated { live: 2 }
    );
    assert_eq!(ids(store).await, ["b", "c"]);
    // The seat of somebody who is not there can not be taken over, nor one of another pool.
    let refused = store.take_seat(&replacement("d", "a")).await.unwrap();
    assert!(matches!(refused, SeatAnswer::Full { live: 2, .. }));
    let mut elsewhere = request("x", None, 5_000);
    elsewhere.pool = "core".to_owned();
    store.take_seat(&elsewhere).await.unwrap();
    let refused = store.take_seat(&replacement("d", "x")).await.unwrap();
    assert!(matches!(refused, SeatAnswer::Full { live: 2, .. }));
    assert_eq!(ids(store).await, ["x", "b", "c"], "who is refused frees no seat");
    // Taking over one's own is a restart.
    assert_eq!(
        store.take_seat(&replacement("b", "b")).await.unwrap(),
        SeatAnswer::Seated { live: 2 }
    );
    // With room for both the other one's seat is free all the same.
    let mut roomy = replacement("e", "c");
    roomy.max = None;
    assert_eq!(store.take_seat(&roomy).await.unwrap(), SeatAnswer::Seated { live: 2 });
    assert_eq!(ids(store).await, ["x", "b", "e"]);
}

async fn fifty_who_want_ten_seats_get_exactly_ten(place: Place) {
    let nodes = [Arc::clone(&place.store), place.another().await];
    let tasks: Vec<_> = (0..50_usize)
        .map(|number| {
            let store = Arc::clone(&nodes[number % 2]);
            tokio::spawn(async move {
                store
                    .take_seat(&request(&format!("i{number}"), Some(10), 5_000))
                    .await
                    .unwrap()
            })
        })
        .collect();
    let mut seated = Vec::new();
    for task in tasks {
        match task.await.unwrap() {
            SeatAnswer::Seated { live } => seated.push(live),
            SeatAnswer::Full { live, .. } => assert_eq!(live, 10),
        }
    }
    seated.sort_unstable();
    assert_eq!(seated, (1..=10).collect::<Vec<u32>>());
    assert_eq!(ids(&nodes[1]).await.len(), 10);
}

async fn ten_thousand_signs_of_life_are_written_at_once(place: Place) {
    let nodes = [Arc::clone(&place.store), place.another().await];
    for number in 0..300 {
        place
            .store
            .take_seat(&request(&format!("i{number}"), None, 5_000))
            .await
            .unwrap();
    }
    // Of most nobody has ever heard; two nodes write them at once, in opposite orders.
    let signs: Vec<SignOfLife> = (0..10_000).map(|number| sign(&format!("i{number}"), 5_010)).collect();
    let backwards: Vec<SignOfLife> = signs.iter().rev().cloned().collect();
    let (one, other) = tokio::join!(nodes[0].signs_of_life(&signs), nodes[1].signs_of_life(&backwards));
    one.unwrap();
    other.unwrap();
    let instances = nodes[1].instances(Some("edge")).await.unwrap();
    assert_eq!(instances.len(), 300);
    assert!(
        instances
            .iter()
            .all(|instance| instance.seen_ms == 5_010_000 && instance.heartbeat == "{\"at\":5010}")
    );
    nodes[0].signs_of_life(&[]).await.unwrap();
}

async fn an_older_sign_of_life_does_not_replace_a_newer_one(place: Place) {
    let store = &place.store;
    store.take_seat(&request("a", None, 5_000)).await.unwrap();
    store
        .signs_of_life(&[sign("a", 5_020), sign("a", 5_030), sign("a", 5_010)])
        .await
        .unwrap();
    assert_eq!(store.instance("a").await.unwrap().unwrap().heartbeat, "{\"at\":5030}");
    store.signs_of_life(&[sign("a", 5_029)]).await.unwrap();
    assert_eq!(store.instance("a").await.unwrap().unwrap().seen_ms, 5_030_000);
}

async fn who_lost_every_claim_is_forgotten(place: Place) {
    let store = &place.store;
    store.take_seat(&request("a", None, 5_000)).await.unwrap();
    let mut elsewhere = request("x", None, 5_000);
    elsewhere.pool = "core".to_owned();
    store.take_seat(&elsewhere).await.unwrap();
    store.take_seat(&request("b", None, 6_000)).await.unwrap();
    assert_eq!(ids(store).await, ["x", "a", "b"]);
    store.take_seat(&request("c", None, 6_001)).await.unwrap();
    assert_eq!(ids(store).await, ["x", "b", "c"], "each pool by itself");
}
