//! Who may sign: the keys of the configuration, or those that were shown at first contact and are kept from then on.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Deserialize;

use super::client::{Client, ClientError};
use super::state_dir::StateDir;
use crate::distribution::{PublicKey, SignatureError, Signed, Topic};

/// Where the keys of the first contact are kept.
const FILE: &str = "trusted-keys";

/// How many keys are taken at first contact: one in use, and those that follow it.
const MOST_KEYS: usize = 16;

const ANSWER_MOST: u64 = 64 * 1024;
const PATIENCE: Duration = Duration::from_secs(10);

/// Who may sign. One per process, shared.
pub struct Trust {
    state: Arc<StateDir>,
    /// From the configuration, which is never added to; or what was shown, and empty before.
    keys: Mutex<Vec<PublicKey>>,
    /// Held during the first contact: whoever comes first decides.
    contact: tokio::sync::Mutex<()>,
}

/// Why something is not believed.
#[derive(Debug)]
pub enum TrustError {
    /// It is not signed as it should be.
    Signature(SignatureError),
    /// Nobody is trusted yet, and the control plane can not be asked.
    NoKeys(ClientError),
    /// What was shown can not be kept.
    Kept(String),
}

#[derive(Deserialize)]
struct Shown {
    keys: Vec<String>,
}

impl Trust {
    /// Trusts these keys, or, if there are none, those of the first contact.
    ///
    /// # Errors
    /// When the keys that were kept can not be read.
    pub fn open(configured: &[PublicKey], state: Arc<StateDir>) -> Result<Self, String> {
        let mut keys = configured.to_vec();
        if keys.is_empty() {
            let told = |error: &dyn fmt::Display| format!("{}: {error}", state.path().join(FILE).display());
            let kept = state.read(FILE).map_err(|error| told(&error))?.unwrap_or_default();
            for line in kept.lines().map(str::trim).filter(|line| !line.is_empty()) {
                keys.push(line.parse().map_err(|error| told(&error))?);
            }
        }
        Ok(Self {
            state,
            keys: Mutex::new(keys),
            contact: tokio::sync::Mutex::default(),
        })
    }

    /// Who is trusted now; nobody before the first contact.
    #[must_use]
    pub fn known(&self) -> Vec<PublicKey> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Who is trusted; makes the first contact if there was none.
    ///
    /// # Errors
    /// When nobody is trusted yet and nobody can be.
    pub async fn keys(&self, client: &Client) -> Result<Vec<PublicKey>, TrustError> {
        let known = self.known();
        if !known.is_empty() {
            return Ok(known);
        }
        let _contact = self.contact.lock().await;
        let known = self.known();
        if !known.is_empty() {
            return Ok(known);
        }
        let shown = first_contact(client).await.map_err(TrustError::NoKeys)?;
        let text: String = shown.iter().map(|key| format!("{key}\n")).collect();
        let state = Arc::clone(&self.state);
        let written = tokio::task::spawn_blocking(move || state.write(FILE, &text)).await;
        written
            .unwrap_or_else(|error| Err(std::io::Error::other(error)))
            .map_err(|error| TrustError::Kept(format!("{}: {error}", self.state.path().join(FILE).display())))?;
        for key in &shown {
            log::warn!(
                "control plane: first contact, its signing key {} is trusted from now on; write public_keys: [{key}]",
                key.id()
            );
        }
        self.keys
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone_from(&shown);
        Ok(shown)
    }

    /// The text that somebody signed who is trusted.
    ///
    /// # Errors
    /// When nobody has.
    pub async fn verify<'a>(&self, client: &Client, topic: Topic, signed: &'a Signed) -> Result<&'a str, TrustError> {
        let keys = self.keys(client).await?;
        signed.verify(topic, &keys).map_err(TrustError::Signature)
    }
}

async fn first_contact(client: &Client) -> Result<Vec<PublicKey>, ClientError> {
    let answer = client.get("/v1/signing-keys", ANSWER_MOST, PATIENCE).await?;
    if answer.status != 200 {
        return Err(ClientError::Status(answer.status));
    }
    let shown: Shown = answer.json()?;
    if shown.keys.is_empty() || shown.keys.len() > MOST_KEYS {
        let message = format!("it shows {} signing keys", shown.keys.len());
        return Err(ClientError::Malformed(message));
    }
    let keys: Result<Vec<PublicKey>, _> = shown.keys.iter().map(|key| key.parse()).collect();
    keys.map_err(|error| ClientError::Malformed(format!("a signing key: {error}")))
}

impl fmt::Display for TrustError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Signature(error) => error.fmt(f),
            Self::NoKeys(error) => write!(f, "its signing keys are not known: {error}"),
            Self::Kept(error) => f.write_str(error),
        }
    }
}

impl std::error::Error for TrustError {}
