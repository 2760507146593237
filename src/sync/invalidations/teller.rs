//! Tells the control plane what was forgotten here.
//!
//! What waits is bounded, and what there is no room for is told as more, never as less.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use super::{PATIENCE, backoff};
use crate::cache::marks::{Invalidation, MarkId};
use crate::cache::order::{MOST, Order};
use crate::cache::spread::Channel;
use crate::sync::client::{Client, ClientError, segment};

/// What is told together comes within this time.
const TOGETHER: Duration = Duration::from_millis(250);

/// Orders that may wait. When there are more, they become one of everything.
const ORDERS_MOST: usize = 16;

/// For so long a control plane is asked again that does not let this gateway tell: a token is being renewed, an environment
/// made, a node upgraded.
const REFUSED: Duration = Duration::from_secs(5 * 60);

/// Tells the control plane what was forgotten here.
pub struct Teller {
    client: Client,
    environment: String,
    name: String,
    waiting: Mutex<Waiting>,
    arrived: Notify,
    hurry: Notify,
}

#[derive(Default)]
struct Waiting {
    orders: Vec<Order>,
    /// What requests have changed: told together, and each once, however often it changes.
    changes: BTreeSet<MarkId>,
    /// One is on its way, and comes back if it is not told.
    is_telling: bool,
}

/// What came of telling an order.
enum Outcome {
    Told,
    /// Nobody knows: tell it again.
    Failed(String),
    /// It may be taken later.
    Refused(u16),
    /// It will never be taken as it is.
    Unfit(u16),
}

impl Teller {
    /// To this control plane, for an environment; `name` tells this gateway from all others.
    #[must_use]
    pub fn new(client: Client, environment: &str, name: &str) -> Self {
        Self {
            client,
            environment: environment.to_owned(),
            name: name.to_owned(),
            waiting: Mutex::default(),
            arrived: Notify::new(),
            hurry: Notify::new(),
        }
    }

    /// Tells what an administrator has ordered here.
    pub fn pass_on(&self, order: &Order) {
        self.waiting.lock().put(order.for_the_way());
        self.arrived.notify_one();
    }

    /// Tells until it is dropped.
    pub async fn run(self: Arc<Self>) {
        let mut failures = 0_u32;
        let mut refused: Option<Instant> = None;
        loop {
            self.arrived.notified().await;
            tokio::select! {
                () = sleep(TOGETHER) => {}
                () = self.hurry.notified() => {}
            }
            while let Some(order) = self.next() {
                let outcome = self.tell(&order).await;
                match &outcome {
                    Outcome::Told => {
                        (failures, refused) = (0, None);
                        self.waiting.lock().is_telling = false;
                        continue;
                    }
                    Outcome::Failed(why) if failures == 0 => {
                        log::warn!("cache: other gateways were not told what to forget: {why}; it is tried again");
                    }
                    Outcome::Refused(status) if refused.is_none() => log::error!(
                        "cache: the control plane does not pass on what other gateways are to forget (status {status}); is \
                         it of this version, is there the environment, and has the gateway's token the scope \"gateway\"? It \
                         is asked again for {} minutes",
                        REFUSED.as_secs() / 60
                    ),
                    _ => {}
                }
                self.after(order, outcome, &mut refused);
                sleep(backoff(failures)).await;
                failures = failures.saturating_add(1);
            }
        }
    }

    /// Waits until everything was told, no longer than this. For when a process ends. False if it was not.
    pub async fn flush(&self, within: Duration) -> bool {
        self.hurry.notify_one();
        let until = Instant::now() + within;
        while !self.waiting.lock().is_empty() {
            if Instant::now() >= until {
                return false;
            }
            sleep(Duration::from_millis(5)).await;
        }
        true
    }

    fn next(&self) -> Option<Order> {
        let mut order = self.waiting.lock().take()?;
        order.from = Some(self.name.clone());
        Some(order)
    }

    async fn tell(&self, order: &Order) -> Outcome {
        let path = format!("/v1/environments/{}/cache/invalidations", segment(&self.environment));
        match self.client.post(&path, order, PATIENCE).await {
            Ok(answer) => match answer.status {
                200..=299 => Outcome::Told,
                status @ (401 | 403 | 404) => Outcome::Refused(status),
                status @ (400 | 405 | 413 | 422) => Outcome::Unfit(status),
                status => Outcome::Failed(ClientError::Status(status).to_string()),
            },
            Err(error) => Outcome::Failed(error.to_string()),
        }
    }

    /// What becomes of an order that was not told.
    fn after(&self, order: Order, outcome: Outcome, refused: &mut Option<Instant>) {
        let mut waiting = self.waiting.lock();
        match outcome {
            Outcome::Told => waiting.is_telling = false,
            Outcome::Failed(_) => waiting.put_back(order),
            Outcome::Refused(_) if refused.get_or_insert_with(Instant::now).elapsed() < REFUSED => {
                waiting.put_back(order);
            }
            // One that is of another version understands that much.
            Outcome::Unfit(_) if !order.all => waiting.put_back(Order::all()),
            Outcome::Refused(status) | Outcome::Unfit(status) => {
                waiting.is_telling = false;
                log::error!(
                    "cache: other gateways are not told what to forget: the control plane has answered with status {status}; \
                     tell each of them, at its own admin listener"
                );
            }
        }
    }
}

impl Channel for Teller {
    /// The control plane says when it was: its clock is the one that all gateways hear.
    fn publish(&self, what: &Invalidation, _at_ms: u64) {
        self.waiting.lock().changed(what);
        self.arrived.notify_one();
    }
}

impl Waiting {
    fn put(&mut self, order: Order) {
        self.orders.push(order);
        self.bound();
    }

    fn put_back(&mut self, order: Order) {
        self.is_telling = false;
        self.orders.insert(0, order);
        self.bound();
    }

    fn changed(&mut self, what: &Invalidation) {
        let Invalidation::Mark(mark) = what else {
            return self.put(Order::of(std::slice::from_ref(what)));
        };
        self.changes.insert(*mark);
        if self.changes.len() > MOST {
            self.changes.clear();
            self.put(Order::all());
        }
    }

    fn bound(&mut self) {
        if self.orders.len() > ORDERS_MOST {
            // What authentication has forgotten here is not told then: it ends by itself, and soon.
            self.orders = vec![Order::all()];
        }
    }

    fn take(&mut self) -> Option<Order> {
        let order = if !self.orders.is_empty() {
            self.orders.remove(0)
        } else if !self.changes.is_empty() {
            let changes = std::mem::take(&mut self.changes).into_iter();
            Order::of(&changes.map(Invalidation::Mark).collect::<Vec<_>>())
        } else {
            return None;
        };
        self.is_telling = true;
        Some(order)
    }

    fn is_empty(&self) -> bool {
        self.orders.is_empty() && self.changes.is_empty() && !self.is_telling
    }
}

#[cfg(test)]
mod tests {
    use axum::Json;
    use axum::extract::State;
    use axum::http::StatusCode;
    use axum::routing::post;
    use serde_json::{Value, json};

    use super::*;
    use crate::sync::testing::{configured, directory};

    const PATIENT: Duration = Duration::from_secs(30);

    fn mark(number: u64) -> Invalidation {
        Invalidation::Mark(MarkId(number))
    }

    fn tag(tag: &str) -> Order {
        Order {
            tags: vec![tag.to_owned()],
            ..Order::default()
        }
    }

    /// A control plane that answers with these, the last one first, and then as it should. What it was told it writes down.
    #[derive(Clone, Default)]
    struct Plane {
        answers: Arc<Mutex<Vec<u16>>>,
        told: Arc<Mutex<Vec<Value>>>,
    }

    impl Plane {
        async fn start(answers: &[u16]) -> (Self, Arc<Teller>) {
            let plane = Self::default();
            answers.clone_into(&mut plane.answers.lock());
            let listen = async |State(plane): State<Self>, Json(order): Json<Value>| {
                plane.told.lock().push(order);
                let status = plane.answers.lock().pop().unwrap_or(202);
                StatusCode::from_u16(status).unwrap()
            };
            let path = "/v1/environments/prod/cache/invalidations";
            let router = axum::Router::new().route(path, post(listen)).with_state(plane.clone());
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let url = format!("http://{}", listener.local_addr().unwrap());
            tokio::spawn(async move { axum::serve(listener, router).await });
            let state = directory();
            let config = configured(state.path(), &[url], "", "", "");
            let client = Client::new(config.revision.control_plane.as_ref().unwrap()).unwrap();
            let teller = Arc::new(Teller::new(client, "prod", "me"));
            tokio::spawn(Arc::clone(&teller).run());
            (plane, teller)
        }

        fn told(&self) -> Vec<Value> {
            self.told.lock().clone()
        }
    }

    #[tokio::test]
    async fn who_is_refused_for_a_while_tells_it_when_he_is_let() {
        let (plane, teller) = Plane::start(&[404, 403, 401]).await;
        teller.pass_on(&tag("news"));
        assert!(teller.flush(PATIENT).await);
        let order = json!({ "tags": ["news"], "from": "me" });
        assert_eq!(plane.told(), vec![order; 4]);
    }

    #[tokio::test]
    async fn what_is_not_taken_as_it_is_is_told_as_everything() {
        let (plane, teller) = Plane::start(&[413]).await;
        teller.pass_on(&tag("news"));
        assert!(teller.flush(PATIENT).await);
        assert_eq!(plane.told()[1], json!({ "all": true, "from": "me" }));
        let (plane, teller) = Plane::start(&[400, 400]).await;
        teller.pass_on(&tag("news"));
        assert!(teller.flush(PATIENT).await);
        assert_eq!(plane.told().len(), 2, "and no more than that");
    }

    #[tokio::test]
    async fn what_requests_change_is_told_and_at_the_end_at_once() {
        let (plane, teller) = Plane::start(&[]).await;
        teller.publish(&mark(1), 0);
        teller.publish(&mark(2), 0);
        assert!(teller.flush(PATIENT).await);
        let all: Vec<Value> = plane.told();
        assert_eq!(
            all,
            [json!({ "marks": ["0000000000000001", "0000000000000002"], "from": "me" })]
        );
        assert!(teller.flush(Duration::ZERO).await, "there is nothing left");
    }

    #[test]
    fn changes_are_told_together_each_once_and_too_many_as_everything() {
        let mut waiting = Waiting::default();
        for number in [1, 2, 1, 1] {
            waiting.changed(&mark(number));
        }
        let order = waiting.take().unwrap();
        assert_eq!(order.marks, ["0000000000000001", "0000000000000002"]);
        assert_eq!(waiting.take(), None);
        for number in 0..=MOST as u64 {
            waiting.changed(&mark(number));
        }
        assert_eq!(waiting.take(), Some(Order::all()));
        assert_eq!(waiting.take(), None);
    }

    #[test]
    fn orders_are_told_as_they_came_and_too_many_as_everything() {
        let mut waiting = Waiting::default();
        waiting.put(tag("a"));
        waiting.put(tag("b"));
        let first = waiting.take().unwrap();
        assert!(!waiting.is_empty());
        waiting.put_back(first);
        assert_eq!(waiting.take(), Some(tag("a")), "what was not told comes first");
        assert_eq!(waiting.take(), Some(tag("b")));
        for _ in 0..=ORDERS_MOST {
            waiting.put(tag("c"));
        }
        assert_eq!((waiting.take(), waiting.take()), (Some(Order::all()), None));
    }
}
