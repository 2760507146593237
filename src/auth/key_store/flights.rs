//! Keys that are being asked for elsewhere: each once, however many wait for it, and many in one question.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout, timeout_at};

use super::stored::StoredKey;
use crate::distribution::KeyHash;
use crate::distribution::protocol::RESOLVE_MOST;

/// How long a request waits.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long a question waits for others that go along.
const COALESCE: Duration = Duration::from_millis(2);

/// Keys that may be asked for at a time.
const FLIGHTS_MOST: usize = 10_000;

/// Requests that may wait for one key.
const WAITERS_MOST: usize = 1_000;

/// What came of asking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It lets in, if the answer still counts: [`KeyStore::is_of_now`](super::KeyStore::is_of_now).
    Known {
        /// What is known of it.
        key: Arc<StoredKey>,
        /// When it was asked for.
        generation: u64,
    },
    /// Nobody knows it.
    Unknown,
    /// Nobody could say.
    Unavailable,
}

/// Keys that are being asked for.
pub(super) struct Flights {
    open: Mutex<HashMap<KeyHash, watch::Sender<Option<Answer>>>>,
    queue: mpsc::Sender<KeyHash>,
    questions: tokio::sync::Mutex<mpsc::Receiver<KeyHash>>,
}

impl Default for Flights {
    fn default() -> Self {
        let (queue, questions) = mpsc::channel(FLIGHTS_MOST);
        Self {
            open: Mutex::default(),
            queue,
            questions: tokio::sync::Mutex::new(questions),
        }
    }
}

impl Flights {
    /// Waits for a key's answer, two seconds at most. `known` is asked whether it has come meanwhile, before a question
    /// is put.
    pub(super) async fn wait(&self, hash: KeyHash, known: impl FnOnce() -> Option<Answer>) -> Answer {
        let mut answer = {
            let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(flight) = open.get(&hash) {
                if flight.receiver_count() >= WAITERS_MOST {
                    return Answer::Unavailable;
                }
                flight.subscribe()
            } else {
                // A flight ends after its answer was noted: who finds no flight may find the answer.
                if let Some(answer) = known() {
                    return answer;
                }
                if open.len() >= FLIGHTS_MOST || self.queue.try_send(hash).is_err() {
                    return Answer::Unavailable;
                }
                let (flight, answer) = watch::channel(None);
                open.insert(hash, flight);
                answer
            }
        };
        match timeout(PATIENCE, answer.wait_for(Option::is_some)).await {
            Ok(Ok(answer)) => answer.clone().unwrap_or(Answer::Unavailable),
            Ok(Err(_)) | Err(_) => Answer::Unavailable,
        }
    }

    /// The next keys to ask for: waits for the first one, then a little for others.
    pub(super) async fn next(&self) -> Vec<KeyHash> {
        let mut questions = self.questions.lock().await;
        let mut batch = Vec::new();
        // The sender lives in the same struct: the channel does not close.
        let Some(first) = questions.recv().await else {
            return batch;
        };
        batch.push(first);
        let until = Instant::now() + COALESCE;
        while batch.len() < RESOLVE_MOST {
            match timeout_at(until, questions.recv()).await {
                Ok(Some(next)) => batch.push(next),
                Ok(None) | Err(_) => break,
            }
        }
        batch
    }

    /// Tells whoever waits for a key.
    pub(super) fn land(&self, hash: &KeyHash, answer: Answer) {
        let flight = self.open.lock().unwrap_or_else(PoisonError::into_inner).remove(hash);
        if let Some(flight) = flight {
            flight.send_replace(Some(answer));
        }
    }

    /// How many keys are being asked for.
    pub(super) fn len(&self) -> usize {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}
