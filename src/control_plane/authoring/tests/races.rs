//! Many at once.

use super::*;

fn numbered(number: usize) -> String {
    format!(
        "version: 1
upstreams: [{{ name: u, endpoints: [{{ address: 'u:80' }}] }}]
apis: [{{ name: a, base_path: /{number}, auth: none, upstream: u }}]
"
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_two_that_change_the_same_version_one_wins() {
    let node = Arc::new(Node::start().await);
    node.put("/v1/plans/gold", json!({ "limits": [] })).await.is(201);
    for round in 0..5 {
        let tag = node.get("/v1/plans/gold").await.etag();
        let put = async |name: &str| {
            let body = json!({ "limits": [{ "name": format!("{name}{round}"), "rate": "5/m" }] });
            node.ask(Method::PUT, "/v1/plans/gold", &[("if-match", &tag)], Some(&body))
                .await
                .status
                .as_u16()
        };
        let (one, other) = tokio::join!(put("a"), put("b"));
        assert_eq!([one.min(other), one.max(other)], [200, 412]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn twenty_publishes_at_once_all_get_a_number_of_their_own() {
    let node = Arc::new(Node::with(&["prod"]).await);
    let publishes = (0..20).map(|number| {
        let node = Arc::clone(&node);
        tokio::spawn(async move { node.publish(&["prod"], &numbered(number)).await.is(200).published()[0].clone() })
    });
    let mut numbers = Vec::new();
    for publish in publishes.collect::<Vec<_>>() {
        let published = publish.await.unwrap();
        assert_eq!(published["changed"], true);
        numbers.push(published["seq"].as_u64().unwrap());
    }
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=20).collect::<Vec<_>>());
    let list = node.get("/v1/environments/prod/revisions").await.is(200);
    let items = list.body["items"].as_array().unwrap();
    assert_eq!(items.len(), 20);
    assert_eq!(node.document("prod").await["apis"].as_array().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nodes_that_publish_at_the_same_time_lose_nothing_of_each_other() {
    let first = Arc::new(Node::with(&["prod"]).await);
    let second = Arc::new(first.beside().await);
    let mut tasks = Vec::new();
    for number in 0..6 {
        for node in [&first, &second] {
            let node = Arc::clone(node);
            let name = format!("api{}", tasks.len());
            tasks.push(tokio::spawn(async move {
                node.post("/v1/apis", json!({ "name": name })).await.is(201);
                let document = STOCK.replace("stock", &name);
                node.post(&format!("/v1/apis/{name}/revisions"), json!({ "document": document }))
                    .await
                    .is(201);
                let path = format!("/v1/apis/{name}/revisions/1/deploy");
                let mut answered = node.post(&path, json!({ "environments": ["prod"] })).await;
                // Five times in a row is possible between nodes; the answer says to try again.
                for _ in 0..50 {
                    if answered.status != StatusCode::CONFLICT {
                        break;
                    }
                    answered = node.post(&path, json!({ "environments": ["prod"] })).await;
                }
                answered.is(200);
                number
            }));
        }
    }
    let count = tasks.len();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(first.document("prod").await["apis"].as_array().unwrap().len(), count);
    let head = first.plane.store.head("prod").await.unwrap().unwrap();
    assert_eq!(head.seq, count as u64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_same_revision_of_an_api_made_many_times_at_once_is_one() {
    let node = Arc::new(Node::start().await);
    node.post("/v1/apis", json!({ "name": "stock" })).await.is(201);
    let makers = (0..8).map(|_| {
        let node = Arc::clone(&node);
        tokio::spawn(async move {
            node.post("/v1/apis/stock/revisions", json!({ "document": STOCK }))
                .await
        })
    });
    let mut created = 0;
    for maker in makers.collect::<Vec<_>>() {
        let answered = maker.await.unwrap();
        assert_eq!(answered.body["number"], 1, "{answered:?}");
        created += usize::from(answered.status == StatusCode::CREATED);
    }
    assert_eq!(created, 1);
}
