//! What the later stages learn about who calls: where to count and what to tell the upstream, and no secret.

use std::sync::Arc;

use crate::auth::jwt::VerifiedToken;
use crate::auth::key_store::{KeyName, KeyView};
use crate::auth::keyring::{CertificateRecord, KeyRecord};
use crate::names::KeyId;
use crate::revision::KeyType;

/// Who calls. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Caller {
    application: Option<u32>,
    plan: Option<u32>,
    identity: Identity,
}

/// By what a caller is known.
#[derive(Debug, Clone)]
pub enum Identity {
    /// By nothing: the API asks for nothing.
    Anonymous,
    /// By a key.
    Key(KeyRef),
    /// By a client certificate: what it is known by is as public as of a key.
    Certificate(KeyRef),
    /// By a token.
    Token(Arc<VerifiedToken>),
}

/// The public side of a key or certificate that was presented.
#[derive(Debug, Clone)]
pub struct KeyRef {
    id: KeptId,
    key_type: KeyType,
    stable_hash: u64,
}

/// The id of a key, so that it can be kept without taking memory: keys of a store have theirs among a million others.
#[derive(Debug, Clone)]
enum KeptId {
    Shared(KeyId),
    Short { length: u8, bytes: [u8; SHORT] },
}

/// Longer ids are copied to a place of their own.
const SHORT: usize = 30;

impl Caller {
    /// Somebody whom nobody asked for a credential.
    #[must_use]
    pub fn anonymous() -> Self {
        Self {
            application: None,
            plan: None,
            identity: Identity::Anonymous,
        }
    }

    /// Who presented the key of this record, let in under this plan.
    pub(super) fn with_key(record: &KeyRecord, plan: u32) -> Self {
        let key = KeyRef {
            id: KeptId::Shared(record.id.clone()),
            key_type: record.key_type,
            stable_hash: record.stable_hash,
        };
        Self {
            application: Some(record.application),
            plan: Some(plan),
            identity: Identity::Key(key),
        }
    }

    /// Who showed a certificate of this record, let in under this plan.
    pub(super) fn with_certificate(record: &CertificateRecord, plan: u32) -> Self {
        let certificate = KeyRef {
            id: KeptId::Shared(record.id.clone()),
            key_type: record.key_type,
            stable_hash: record.stable_hash,
        };
        Self {
            application: Some(record.application),
            plan: Some(plan),
            identity: Identity::Certificate(certificate),
        }
    }

    /// Who presented this key of the store, whose application is the one at this index.
    pub(super) fn with_stored_key(stored: &KeyView<'_>, application: u32, plan: u32) -> Self {
        let key = KeyRef {
            id: KeptId::of(&stored.id),
            key_type: stored.key_type,
            stable_hash: stored.stable_hash,
        };
        Self {
            application: Some(application),
            plan: Some(plan),
            identity: Identity::Key(key),
        }
    }

    /// Who presented this token, bound to an application or not.
    pub(super) fn with_token(token: Arc<VerifiedToken>, application: Option<u32>, plan: Option<u32>) -> Self {
        Self {
            application,
            plan,
            identity: Identity::Token(token),
        }
    }

    /// Index into `Revision::applications`; none for anonymous callers and tokens that are not bound to one.
    #[must_use]
    pub fn application(&self) -> Option<usize> {
        self.application.map(|index| index as usize)
    }

    /// Index into `Revision::plans` of the subscription that lets this caller in.
    #[must_use]
    pub fn plan(&self) -> Option<usize> {
        self.plan.map(|index| index as usize)
    }

    /// By what this caller is known.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The public name of the key or certificate, if one was used.
    #[must_use]
    pub fn key_id(&self) -> Option<&str> {
        match &self.identity {
            Identity::Key(key) | Identity::Certificate(key) => Some(key.id.as_str()),
            Identity::Anonymous | Identity::Token(_) => None,
        }
    }

    /// The type of the key or certificate, if one was used, or of what the token was given for, if it says so.
    #[must_use]
    pub fn key_type(&self) -> Option<KeyType> {
        match &self.identity {
            Identity::Key(key) | Identity::Certificate(key) => Some(key.key_type),
            Identity::Token(token) => token.key_type(),
            Identity::Anonymous => None,
        }
    }

    /// A number for the key, or for the name in the certificate, that is the same on every gateway and for ever: it names counters.
    #[must_use]
    pub fn key_hash(&self) -> Option<u64> {
        match &self.identity {
            Identity::Key(key) | Identity::Certificate(key) => Some(key.stable_hash),
            Identity::Anonymous | Identity::Token(_) => None,
        }
    }

    /// The token, if one was used.
    #[must_use]
    pub fn token(&self) -> Option<&VerifiedToken> {
        match &self.identity {
            Identity::Token(token) => Some(token),
            Identity::Anonymous | Identity::Key(_) | Identity::Certificate(_) => None,
        }
    }

    /// The subject of the token, if it has one.
    #[must_use]
    pub fn subject(&self) -> Option<&str> {
        self.token().and_then(VerifiedToken::subject)
    }

    /// A number for issuer and subject that is the same on every gateway and for ever: it names counters.
    #[must_use]
    pub fn subject_hash(&self) -> Option<u64> {
        self.token().and_then(VerifiedToken::subject_hash)
    }
}

impl KeptId {
    fn of(id: &KeyName<'_>) -> Self {
        let text = match id {
            KeyName::Shared(id) => return Self::Shared((*id).clone()),
            KeyName::Text(text) => text,
        };
        let mut bytes = [0; SHORT];
        match (bytes.get_mut(..text.len()), u8::try_from(text.len())) {
            (Some(place), Ok(length)) => {
                place.copy_from_slice(text.as_bytes());
                Self::Short { length, bytes }
            }
            _ => Self::Shared(KeyId::from(*text)),
        }
    }

    fn as_str(&self) -> &str {
        match self {
            Self::Shared(id) => id.as_str(),
            Self::Short { length, bytes } => bytes
                .get(..usize::from(*length))
                .and_then(|text| std::str::from_utf8(text).ok())
                .unwrap_or_default(),
        }
    }
}
