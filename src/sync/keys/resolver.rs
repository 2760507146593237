//! Asks for keys that this gateway does not keep, many at a time.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use crate::auth::KeyStore;
use crate::auth::key_store::Question;
use crate::clock::unix_ms;
use crate::distribution::protocol::Resolved;
use crate::sync::client::Client;

/// Questions under way at a time.
const MOST: usize = 8;

/// Nobody waits longer than that.
const PATIENCE: Duration = Duration::from_secs(2);

/// Answers every question of the store, until it is dropped.
pub(super) async fn run(store: &Arc<KeyStore>, client: &Client) {
    let mut under_way = JoinSet::new();
    loop {
        while under_way.len() >= MOST {
            let _ = under_way.join_next().await;
        }
        let question = store.question().await;
        under_way.spawn(answer(question, client.clone()));
        while under_way.try_join_next().is_some() {}
    }
}

/// A question that is dropped is answered with "nobody can say".
async fn answer(question: Question, client: Client) {
    let asked = question.resolve();
    match client.post("/v1/keys:resolve", &asked, PATIENCE).await {
        Ok(answer) if answer.status == 200 => match answer.json::<Resolved>() {
            Ok(resolved) => question.settle(&resolved, unix_ms()),
            Err(error) => log::warn!("keys: an answer that can not be read: {error}"),
        },
        Ok(answer) => log::debug!(
            "keys: {} of them are not to be had: status {}",
            asked.h.len(),
            answer.status
        ),
        Err(error) => log::debug!("keys: {} of them are not to be had: {error}", asked.h.len()),
    }
}
