//! What one request has to do with the cache, from the decision to look to what the client is told about it.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use http::StatusCode;
use pingora::http::ResponseHeader;
use smallvec::SmallVec;

use super::Refresh;
use crate::auth::Caller;
use crate::cache::directives::RequestDirectives;
use crate::cache::entry::Entry;
use crate::cache::key::{self, Key};
use crate::cache::marks::MarkId;
use crate::cache::policy::Policy;
use crate::cache::shared::Turn;
use crate::snapshot::Snapshot;

/// A request that may be answered from the cache.
pub struct Visit {
    /// What its route says.
    pub policy: Arc<Policy>,
    /// What its client says.
    pub directives: RequestDirectives,
    /// The key of all variants.
    pub base: Bytes,
    /// The key of the variant that this request selects, as far as is known.
    pub key: Key,
    /// It asks for a part, or for the head alone.
    pub is_partial: bool,
    /// The number of the last invalidation before it.
    pub sequence: u64,
    /// When it came, as unix time, for gateways whose invalidations have other numbers.
    pub asked_ms: u64,
    /// What came of it so far.
    pub course: Course,
    /// Whose turn it is to fetch it, while that is decided among gateways.
    pub turn: Option<Arc<Turn>>,
    /// The upstream's word that what is kept is still good, until that is updated.
    pub not_modified: Option<Box<ResponseHeader>>,
    /// Set when no client waits: this request fetches something anew in the background.
    pub refresh: Option<Refresh>,
}

/// What came of a visit, as far as the engine does not know it.
#[derive(Default)]
pub struct Course {
    /// The entry that was found, if any.
    pub found: Option<Arc<Entry>>,
    /// It came from the tier that gateways share.
    pub is_shared: bool,
    /// It is given although it is stale.
    pub is_stale: bool,
    /// The client wanted it validated.
    pub is_demanded: bool,
    /// Another request's fetch was waited for.
    pub is_collapsed: bool,
    /// Why the answer is not kept.
    pub why_not: Option<&'static str>,
    /// Status of the upstream's answer that was replaced by a stale one.
    pub failed_with: Option<StatusCode>,
}

/// Why a request on a route with a policy has nothing to do with the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bypass {
    /// Its method is not answered from the cache.
    Method,
    /// It has content, on which the answer may depend.
    Content,
    /// It wants another protocol.
    Upgrade,
    /// It is a gRPC call.
    Grpc,
    /// It carries a condition that only the origin can judge (`If-Match`, `If-Unmodified-Since`).
    Precondition,
    /// It asks for a part or for the head alone, and nothing is kept: what would come is nothing to keep.
    Partial,
    /// Its `Connection` names fields that the origin is not sent, so that they select nothing there.
    Connection,
    /// It carries a credential in its URL that the origin is sent, and that its key would not tell from another one.
    Credential,
    /// Its answer differs by caller, and who calls has no name.
    UnknownCaller,
    /// It asks not to be kept, and nothing is kept.
    NoStore,
}

impl Bypass {
    /// The word for it: a label of metrics, and what `explain` says.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Method => "method",
            Self::Content => "content",
            Self::Upgrade => "upgrade",
            Self::Grpc => "grpc",
            Self::Precondition => "precondition",
            Self::Partial => "partial",
            Self::Connection => "connection",
            Self::Credential => "credential",
            Self::UnknownCaller => "unknown_caller",
            Self::NoStore => "no_store",
        }
    }
}

impl Visit {
    /// The same request once more, for the background: it wants nothing but the newest.
    #[must_use]
    pub fn again(&self, refresh: Refresh) -> Self {
        Self {
            policy: Arc::clone(&self.policy),
            directives: RequestDirectives::default(),
            base: self.base.clone(),
            key: self.key.clone(),
            is_partial: self.is_partial,
            sequence: self.sequence,
            asked_ms: self.asked_ms,
            course: Course::default(),
            turn: None,
            not_modified: None,
            refresh: Some(refresh),
        }
    }

    /// By what its answer can be made invalid, beside its own tags. Hashes; whoever is given what is kept needs none.
    #[must_use]
    pub fn marks(&self, snapshot: Option<&Snapshot>, caller: Option<&Caller>) -> SmallVec<[MarkId; 4]> {
        let place = &self.policy.place;
        let mut marks = SmallVec::from_slice(&[MarkId::api(&place.api), MarkId::route(&place.api, &place.route)]);
        if let Some(target) = key::target(&self.base) {
            let url = match target.query {
                Some(query) => Cow::Owned([target.path, "?", query].concat()),
                None => Cow::Borrowed(target.path),
            };
            marks.push(MarkId::url(target.host, &url));
        }
        if let Some(caller) = caller {
            let application = snapshot.and_then(|snapshot| snapshot.application_of(caller));
            let application = application.map(|(name, _)| name.as_str());
            let users = [application, caller.key_id(), caller.subject()];
            marks.extend(users.into_iter().flatten().map(MarkId::user));
        }
        marks
    }

    /// Whether what was found is fresh at this time.
    #[must_use]
    pub fn is_fresh(&self, now: SystemTime) -> bool {
        self.course
            .found
            .as_ref()
            .is_some_and(|entry| entry.lifetime.fresh_until > now)
    }
}
