//! Many at once.

use super::*;

/// Makes two tests of each story: the stores settle races in different ways.
macro_rules! told_of_both_stores {
    ($($story:ident),+ $(,)?) => {
        mod on_sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn $story() {
                super::$story(super::Node::start().await).await;
            })+
        }

        mod on_postgresql {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn $story() {
                super::$story(super::Node::on_postgres().await).await;
            })+
        }
    };
}

told_of_both_stores! {
    of_two_that_change_the_same_version_one_wins,
    twenty_publishes_at_once_all_get_a_number_of_their_own,
    nodes_that_publish_at_the_same_time_lose_nothing_of_each_other,
    the_same_revision_of_an_api_made_many_times_at_once_is_one,
}

/// Between nodes a change can be outrun as often as it is tried; the answer then says to try again.
async fn persistent(node: &Node, path: &str, body: Value) -> Answered {
    for _ in 0..100 {
        let answered = node.post(path, body.clone()).await;
        if answered.status != StatusCode::CONFLICT || !answered.text.contains("try again") {
            return answered;
        }
    }
    panic!("{path}: outrun a hundred times");
}

fn numbered(number: usize) -> String {
    format!(
        "version: 1
upstreams: [{{ name: u, endpoints: [{{ address: 'u:80' }}] }}]
apis: [{{ name: a, base_path: /{number}, auth: none, upstream: u }}]
"
    )
}

async fn of_two_that_change_the_same_version_one_wins(node: Node) {
    let node = Arc::new(node);
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

async fn twenty_publishes_at_once_all_get_a_number_of_their_own(node: Node) {
    let node = Arc::new(node.having(&["prod"]).await);
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

async fn nodes_that_publish_at_the_same_time_lose_nothing_of_each_other(node: Node) {
    let first = Arc::new(node.having(&["prod"]).await);
    let second = Arc::new(first.beside().await);
    let mut tasks = Vec::new();
    for _ in 0..6 {
        for node in [&first, &second] {
            let node = Arc::clone(node);
            let name = format!("api{}", tasks.len());
            tasks.push(tokio::spawn(async move {
                persistent(&node, "/v1/apis", json!({ "name": name })).await.is(201);
                let document = json!({ "document": STOCK.replace("stock", &name) });
                persistent(&node, &format!("/v1/apis/{name}/revisions"), document)
                    .await
                    .is(201);
                let path = format!("/v1/apis/{name}/revisions/1/deploy");
                persistent(&node, &path, json!({ "environments": ["prod"] }))
                    .await
                    .is(200);
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

async fn the_same_revision_of_an_api_made_many_times_at_once_is_one(node: Node) {
    let node = Arc::new(node);
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
