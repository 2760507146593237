//! Asks for keys that this gateway does not keep, many at a time.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use crate::auth::KeyStore;
use crate::auth::key_store::Question;
use crate::clock::unix_ms;
use crate::distribution::protocol::{Resolve, Resolved, ResolvedFor};
use crate::distribution::{Signed, Topic};
use crate::sync::client::{Answer, Client};
use crate::sync::trust::Trust;

/// Questions under way at a time.
const MOST: usize = 8;

/// Nobody waits longer than that.
const PATIENCE: Duration = Duration::from_secs(2);

/// Answers every question of the store, until it is dropped.
pub(super) async fn run(store: &Arc<KeyStore>, client: &Client, trust: &Arc<Trust>) {
    let mut under_way = JoinSet::new();
    loop {
        while under_way.len() >= MOST {
            let _ = under_way.join_next().await;
        }
        let question = store.question().await;
        under_way.spawn(answer(question, client.clone(), Arc::clone(trust)));
        while under_way.try_join_next().is_some() {}
    }
}

/// A question that is dropped is answered with "nobody can say".
async fn answer(question: Question, client: Client, trust: Arc<Trust>) {
    let asked = Resolve {
        nonce: format!("{:032x}", rand::random::<u128>()),
        ..question.resolve()
    };
    match client.post("/v1/keys:resolve", &asked, PATIENCE).await {
        Ok(answer) if answer.status == 200 => match believed(&answer, &asked, &client, &trust).await {
            Ok(resolved) => question.settle(&resolved, unix_ms()),
            Err(why) => log::warn!("keys: an answer that is not believed: {why}"),
        },
        Ok(answer) => log::debug!(
            "keys: {} of them are not to be had: status {}",
            asked.h.len(),
            answer.status
        ),
        Err(error) => log::debug!("keys: {} of them are not to be had: {error}", asked.h.len()),
    }
}

/// What an answer says, if it is signed and the answer to this very question. It lets keys in, so that it is believed no
/// more easily than a manifest.
async fn believed(answer: &Answer, asked: &Resolve, client: &Client, trust: &Trust) -> Result<Resolved, String> {
    let signed: Signed = answer.json().map_err(|error| error.to_string())?;
    let text = trust
        .verify(client, Topic::Resolved, &signed)
        .await
        .map_err(|error| error.to_string())?;
    let ResolvedFor { nonce, answer } = serde_json::from_str(text).map_err(|error| error.to_string())?;
    if nonce == asked.nonce {
        Ok(answer)
    } else {
        Err("it is the answer to another question".to_owned())
    }
}
