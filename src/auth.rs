//! Stage 2: request + route → caller.
//!
//! A key is hashed and looked up in the [`KeyStore`], which follows the key log, and then in the
//! [`keyring`](keyring::Keyring) of the revision; a token is verified against the keys of its issuer and remembered; a
//! client certificate was verified in the handshake, and its names are looked up in the keyring. None of them waits for anything, with two exceptions of two seconds at most: a token whose signing key is not known yet,
//! while the issuer's key set is fetched once for all that wait; and a key that this gateway does not keep and that may
//! exist, while the control plane is asked for it.
//!
//! What lives how long: [`KeyStore`], [`KeySets`] and [`TokenCache`] as long as the process, [`Authenticator`] as long as
//! the snapshot, [`Caller`] as long as the request.

mod caller;
mod certificate;
pub mod credential;
mod denial;
pub mod introspection;
pub mod jwks;
pub mod jwt;
pub mod key;
pub mod key_store;
pub mod keyring;

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use http::HeaderMap;

pub use self::caller::{Caller, Identity, KeyRef};
pub use self::denial::{Denial, Invalid};
pub use self::introspection::Introspectors;
pub use self::jwks::{KeySetStatus, KeySets};
pub use self::jwt::{TokenCache, VerifiedToken};
pub use self::key::{NewKey, new_key};
pub use self::key_store::KeyStore;

use self::credential::Credential;
use self::introspection::{Known, Service, Verdict};
use self::jwt::{Obstacle, Presented, Verifier};
use self::key::Shape;
use self::key_store::{Answer, Found, KeyView};
use self::keyring::{CertificateRecord, KeyRecord, Keyring};
use crate::distribution::KeyHash;
use crate::revision::{Api, AuthMethod, CredentialPlaces, EnvironmentType, KeyType, Revision};
use crate::transport::ClientIdentity;

/// Everything that decides who calls, compiled from one revision.
#[derive(Debug)]
pub struct Authenticator {
    keyring: Keyring,
    rules: Vec<Rule>,
    verifiers: Vec<Verifier>,
    services: Vec<Arc<Service>>,
    environment: EnvironmentType,
    tokens: Arc<TokenCache>,
    store: Option<Arc<KeyStore>>,
}

/// How an API lets in.
#[derive(Debug)]
struct Rule {
    places: CredentialPlaces,
    accepted: Accepted,
    /// Indices into `Authenticator::verifiers`.
    issuers: Vec<usize>,
    /// Indices into `Authenticator::services`.
    introspectors: Vec<usize>,
}

/// The kinds of credential that an API accepts. None means that anyone is let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Accepted {
    /// Keys of subscribed applications.
    pub key: bool,
    /// Tokens.
    pub token: bool,
    /// Client certificates of subscribed applications.
    pub certificate: bool,
}

impl Authenticator {
    /// Compiles the part of a revision that says who may call. Key sets that were known before keep their keys.
    #[must_use]
    pub fn compile(
        revision: &Revision,
        environment: EnvironmentType,
        key_sets: &KeySets,
        tokens: Arc<TokenCache>,
    ) -> Self {
        Self {
            keyring: Keyring::compile(revision),
            rules: revision.apis.iter().map(Rule::compile).collect(),
            verifiers: revision
                .issuers
                .iter()
                .map(|issuer| Verifier::compile(issuer, key_sets))
                .collect(),
            services: Vec::new(),
            environment,
            tokens,
            store: None,
        }
    }

    /// The same with the services that are asked about opaque tokens; without this, nobody is.
    #[must_use]
    pub fn with_introspectors(self, revision: &Revision, introspectors: &Introspectors) -> Self {
        let services = revision.introspectors.iter();
        Self {
            services: services.map(|terms| introspectors.get(terms)).collect(),
            ..self
        }
    }

    /// The same, with the keys of this store before its own.
    #[must_use]
    pub fn with_store(self, store: Option<Arc<KeyStore>>) -> Self {
        Self { store, ..self }
    }

    /// Says who calls. `api` is an index into [`Revision::apis`]; `scopes` is what the route asks of a token; `certificate`
    /// is what the client has shown of itself in its TLS handshake.
    ///
    /// Waits only for what is not known here yet, for two seconds at most: the signing key of a token, or a key that the
    /// control plane may know.
    ///
    /// # Errors
    /// The fact that keeps the request out.
    pub async fn identify(
        &self,
        api: usize,
        scopes: &[String],
        headers: &HeaderMap,
        query: Option<&str>,
        certificate: Option<&ClientIdentity>,
        now_ms: u64,
    ) -> Result<Caller, Denial> {
        let presented = (headers, query, certificate);
        let decided = match self.decide(api, scopes, presented, now_ms, None) {
            Err(Undecided::KeyNeeded { verifier, kid }) => {
                verifier.keys().refresh_for(kid.as_deref(), now_ms).await;
                self.decide(api, scopes, presented, now_ms, None)
            }
            Err(Undecided::Unresolved { store, hash }) => {
                let answer = store.resolve(hash, now_ms).await;
                self.decide(api, scopes, presented, now_ms, Some(&answer))
            }
            decided => decided,
        };
        match decided {
            Err(Undecided::Unasked { rule, token }) => self.ask(rule, api, scopes, token, now_ms).await,
            decided => decided.map_err(Undecided::settle),
        }
    }

    /// Says who would be calling, without fetching or waiting for anything: for explanations.
    ///
    /// # Errors
    /// The fact that would keep the request out, as far as it is known now.
    pub fn examine(
        &self,
        api: usize,
        scopes: &[String],
        headers: &HeaderMap,
        query: Option<&str>,
        certificate: Option<&ClientIdentity>,
        now_ms: u64,
    ) -> Result<Caller, Denial> {
        self.decide(api, scopes, (headers, query, certificate), now_ms, None)
            .map_err(Undecided::settle)
    }

    /// Which kinds of credential the API accepts.
    #[must_use]
    pub fn accepted(&self, api: usize) -> Accepted {
        self.rules.get(api).map(|rule| rule.accepted).unwrap_or_default()
    }

    /// Where the API reads credentials from; `None` if there is no such API.
    #[must_use]
    pub fn places(&self, api: usize) -> Option<&CredentialPlaces> {
        self.rules.get(api).map(|rule| &rule.places)
    }

    /// Every key of the revision, without the keys themselves. There may be a million: not for the request path.
    #[must_use]
    pub fn keys(&self) -> &[KeyRecord] {
        self.keyring.records()
    }

    /// What the tokens of each issuer name as theirs (`iss`), in the order of the revision.
    pub fn token_issuers(&self) -> impl Iterator<Item = &str> {
        self.verifiers.iter().map(Verifier::issuer)
    }

    /// Every client certificate of the revision. Not for the request path.
    pub fn certificates(&self) -> impl Iterator<Item = &CertificateRecord> {
        self.keyring.certificates()
    }

    /// How many keys the revision holds.
    #[must_use]
    pub fn key_count(&self) -> usize {
        self.keyring.len()
    }

    /// `answer` is what the control plane said of the key.
    fn decide<'a>(
        &'a self,
        api: usize,
        scopes: &[String],
        (headers, query, certificate): (&'a HeaderMap, Option<&'a str>, Option<&ClientIdentity>),
        now_ms: u64,
        answer: Option<&Answer>,
    ) -> Result<Caller, Undecided<'a>> {
        // An API that does not exist lets nobody in; the route table cannot name one.
        let rule = self.rules.get(api).ok_or(Denial::CredentialMissing)?;
        if rule.accepted == Accepted::default() {
            return Ok(Caller::anonymous());
        }
        let api = u32::try_from(api).map_err(|_| Denial::SubscriptionMissing)?;
        let in_request = rule.accepted.key || rule.accepted.token;
        let credential = if in_request {
            credential::extract(&rule.places, headers, query)?
        } else {
            None
        };
        match credential {
            Some(Credential::Key(text)) if rule.accepted.key => self.key(api, scopes, &text, now_ms, answer),
            Some(Credential::Token(token)) if rule.accepted.token => self.token(rule, api, scopes, token, now_ms),
            // Nothing, or of a kind that this API does not take. A certificate belongs to the connection and is there
            // whether this request means it or not, so what a request carries goes before it.
            Some(_) | None => match certificate.filter(|_| rule.accepted.certificate) {
                Some(identity) => Ok(self.certificate(api, scopes, identity, now_ms)?),
                // The answer has to name the kind that is taken.
                None => Err(Denial::CredentialMissing.into()),
            },
        }
    }

    /// presented → shape → lookup → expiry → environment type → subscription → scopes
    fn key(
        &self,
        api: u32,
        scopes: &[String],
        text: &str,
        now_ms: u64,
        answer: Option<&Answer>,
    ) -> Result<Caller, Undecided<'_>> {
        match key::inspect(text) {
            Shape::Ours | Shape::Foreign => {}
            Shape::Mistyped => return Err(Denial::CredentialInvalid(Invalid::Mistyped).into()),
            Shape::Malformed => return Err(Denial::CredentialInvalid(Invalid::Malformed).into()),
        }
        let unknown = Denial::CredentialInvalid(Invalid::UnknownKey);
        let digest = key::digest(text);
        let mut unresolved = None;
        if let Some(store) = &self.store {
            let hash = KeyHash::of_digest(&digest.0);
            let let_in = |key: KeyView<'_>| self.stored_key(api, scopes, &key, now_ms);
            match store.find(&hash, now_ms, let_in) {
                Found::Key(verdict) => return Ok(verdict?),
                // Also a key of the revision can be revoked.
                Found::Revoked => return Err(unknown.into()),
                Found::Unknown => {}
                Found::Unresolved => unresolved = Some((store, hash)),
            }
        }
        match (self.keyring.find(&digest), unresolved, answer) {
            (Some(record), _, _) => Ok(self.key_of_revision(api, scopes, record, now_ms)?),
            (None, None, _) | (None, Some(_), Some(Answer::Unknown)) => Err(unknown.into()),
            (None, Some((store, _)), Some(Answer::Known { key, generation })) if store.is_of_now(*generation) => {
                Ok(self.stored_key(api, scopes, &key.view(), now_ms)?)
            }
            (None, Some((store, hash)), _) => Err(Undecided::Unresolved { store, hash }),
        }
    }

    fn key_of_revision(&self, api: u32, scopes: &[String], key: &KeyRecord, now_ms: u64) -> Result<Caller, Denial> {
        let is_expired = now_ms >= key.expires_ms;
        let plan = self.plan_for(is_expired, key.key_type, Some(key.application), (api, scopes))?;
        Ok(Caller::with_key(key, plan))
    }

    fn stored_key(&self, api: u32, scopes: &[String], key: &KeyView<'_>, now_ms: u64) -> Result<Caller, Denial> {
        // Revisions and keys travel apart: an application that this revision does not know yet has no subscription yet.
        let application = self.keyring.application(key.application.as_str());
        let plan = self.plan_for(key.is_expired(now_ms), key.key_type, application, (api, scopes))?;
        let application = application.ok_or(Denial::SubscriptionMissing)?;
        Ok(Caller::with_stored_key(key, application, plan))
    }

    fn plan_for(
        &self,
        is_expired: bool,
        key_type: KeyType,
        application: Option<u32>,
        (api, scopes): (u32, &[String]),
    ) -> Result<u32, Denial> {
        if is_expired {
            return Err(Denial::CredentialExpired);
        }
        if !self.environment.admits(key_type) {
            return Err(Denial::KeyTypeMismatch);
        }
        let plan = application
            .and_then(|application| self.keyring.plan(application, api))
            .ok_or(Denial::SubscriptionMissing)?;
        if !scopes.is_empty() {
            return Err(Denial::scopes(scopes));
        }
        Ok(plan)
    }

    /// issuers that sign → services that are asked
    fn token<'a>(
        &'a self,
        rule: &'a Rule,
        api: u32,
        scopes: &[String],
        token: &'a str,
        now_ms: u64,
    ) -> Result<Caller, Undecided<'a>> {
        let unsigned = match self.signed_token(rule, api, scopes, token, now_ms) {
            // Nobody whose signature is known here has made it.
            Err(Undecided::Denied(Denial::CredentialInvalid(invalid @ (Invalid::Malformed | Invalid::Issuer)))) => {
                invalid
            }
            decided => return decided,
        };
        if rule.introspectors.is_empty() {
            return Err(Denial::CredentialInvalid(unsigned).into());
        }
        match self.known(rule, token, now_ms) {
            Some((service, verdict)) => Ok(self.told_caller(service, api, scopes, verdict, now_ms)?),
            None => Err(Undecided::Unasked { rule, token }),
        }
    }

    /// What is known of a token without asking: the verdict of the first service that calls it active, or of the last
    /// one if all have spoken.
    fn known(&self, rule: &Rule, token: &str, now_ms: u64) -> Option<(&Service, Verdict)> {
        let mut last = None;
        for service in rule.introspectors.iter().filter_map(|index| self.services.get(*index)) {
            match service.known(token, now_ms) {
                Known::Verdict(Ok(verified)) => return Some((service, Ok(verified))),
                Known::Verdict(refused) => last = Some((&**service, refused)),
                Known::Nothing => return None,
            }
        }
        last
    }

    /// Asks one service after the other until one calls the token active.
    async fn ask(
        &self,
        rule: &Rule,
        api: usize,
        scopes: &[String],
        token: &str,
        now_ms: u64,
    ) -> Result<Caller, Denial> {
        let api = u32::try_from(api).map_err(|_| Denial::SubscriptionMissing)?;
        let mut refusal = Denial::CredentialInvalid(Invalid::Inactive);
        for service in rule.introspectors.iter().filter_map(|index| self.services.get(*index)) {
            match service.ask(token).await {
                Ok(Ok(verified)) => return self.told_caller(service, api, scopes, Ok(verified), now_ms),
                // Who could not be asked might have said yes.
                Ok(Err(invalid)) if refusal != Denial::KeysUnavailable => refusal = Denial::CredentialInvalid(invalid),
                Ok(Err(_)) => {}
                Err(unavailable) => refusal = unavailable,
            }
        }
        Err(refusal)
    }

    fn told_caller(
        &self,
        service: &Service,
        api: u32,
        scopes: &[String],
        verdict: Verdict,
        now_ms: u64,
    ) -> Result<Caller, Denial> {
        let verified = verdict.map_err(Denial::CredentialInvalid)?;
        verified.in_time(now_ms).map_err(|obstacle| match obstacle {
            Obstacle::Denied(denial) => denial,
            Obstacle::KeyNeeded { .. } => Denial::KeysUnavailable,
        })?;
        self.token_caller(service.binds_application(), api, scopes, verified)
    }

    fn signed_token(
        &self,
        rule: &Rule,
        api: u32,
        scopes: &[String],
        token: &str,
        now_ms: u64,
    ) -> Result<Caller, Undecided<'_>> {
        let token = Presented::new(token).map_err(Denial::CredentialInvalid)?;
        let mut refusal = Undecided::Denied(Denial::CredentialInvalid(Invalid::Issuer));
        for verifier in rule.issuers.iter().filter_map(|index| self.verifiers.get(*index)) {
            match verifier.verify(&token, &self.tokens, now_ms) {
                Ok(verified) => return Ok(self.token_caller(verifier.binds_application(), api, scopes, verified)?),
                // Another issuer's token: no news, and never more interesting than what an earlier one said.
                Err(Obstacle::Denied(Denial::CredentialInvalid(Invalid::Issuer))) => {}
                // Of issuers with the same `iss`, the one that may still learn the key outweighs those that say no.
                Err(_) if refusal.is_open(now_ms) => {}
                Err(Obstacle::Denied(denial)) => refusal = Undecided::Denied(denial),
                Err(Obstacle::KeyNeeded { kid }) => refusal = Undecided::KeyNeeded { verifier, kid },
            }
        }
        Err(refusal)
    }

    fn token_caller(
        &self,
        binds_application: bool,
        api: u32,
        scopes: &[String],
        verified: Arc<VerifiedToken>,
    ) -> Result<Caller, Denial> {
        if let Some(key_type) = verified.key_type()
            && !self.environment.admits(key_type)
        {
            return Err(Denial::KeyTypeMismatch);
        }
        let (mut application, mut plan) = (None, None);
        if binds_application {
            let name = verified.application().ok_or(Denial::SubscriptionMissing)?;
            let index = self.keyring.application(name).ok_or(Denial::SubscriptionMissing)?;
            plan = Some(self.keyring.plan(index, api).ok_or(Denial::SubscriptionMissing)?);
            application = Some(index);
        }
        if !scopes.iter().all(|scope| verified.has_scope(scope)) {
            return Err(Denial::scopes(scopes));
        }
        Ok(Caller::with_token(verified, application, plan))
    }
}

impl Rule {
    fn compile(api: &Api) -> Self {
        let issuers: Vec<usize> = api
            .auth
            .iter()
            .filter_map(|method| match method {
                AuthMethod::ApiKey | AuthMethod::ClientCertificate | AuthMethod::Introspection(_) => None,
                AuthMethod::Jwt(issuer) => Some(*issuer),
            })
            .collect();
        let introspectors: Vec<usize> = api
            .auth
            .iter()
            .filter_map(|method| match method {
                AuthMethod::ApiKey | AuthMethod::ClientCertificate | AuthMethod::Jwt(_) => None,
                AuthMethod::Introspection(introspector) => Some(*introspector),
            })
            .collect();
        let accepted = Accepted {
            key: api.auth.contains(&AuthMethod::ApiKey),
            token: !issuers.is_empty() || !introspectors.is_empty(),
            certificate: api.auth.contains(&AuthMethod::ClientCertificate),
        };
        Self {
            places: api.credentials.clone(),
            accepted,
            issuers,
            introspectors,
        }
    }
}

/// Not let in, at least not yet.
enum Undecided<'a> {
    Denied(Denial),
    /// A fresher key set of this verifier may know the key.
    KeyNeeded {
        verifier: &'a Verifier,
        kid: Option<Box<str>>,
    },
    /// A service of this rule has to be asked about the token.
    Unasked {
        rule: &'a Rule,
        token: &'a str,
    },
    /// The control plane may know the key.
    Unresolved {
        store: &'a KeyStore,
        hash: KeyHash,
    },
}

impl Undecided<'_> {
    /// Whether waiting may change it.
    fn is_open(&self, now_ms: u64) -> bool {
        match self {
            Self::Denied(_) | Self::Unasked { .. } | Self::Unresolved { .. } => false,
            Self::KeyNeeded { verifier, kid } => verifier.keys().may_learn(kid.as_deref(), now_ms),
        }
    }

    /// The answer when there is nothing left to wait for.
    fn settle(self) -> Denial {
        match self {
            Self::Denied(denial) => denial,
            // Keys that could not be asked for lately do not prove that a key does not exist.
            Self::KeyNeeded { verifier, .. } if verifier.keys().is_doubtful() => Denial::KeysUnavailable,
            Self::Unresolved { .. } => Denial::KeysUnavailable,
            Self::KeyNeeded { .. } => Denial::CredentialInvalid(Invalid::UnknownSigner),
            Self::Unasked { .. } => Denial::NotAsked,
        }
    }
}

impl From<Denial> for Undecided<'_> {
    fn from(denial: Denial) -> Self {
        Self::Denied(denial)
    }
}
