//! All that is known of keys at a moment: a base, maybe a filter, and what the log said since. How the next one is made
//! of it: pure, and not for a request's thread.
//!
//! What always holds: base and filter together are complete up to `merged`, and the overlay holds every change after it.
//! A revocation is never forgotten on the way, with one exception that has a bound of its own ([`View::merge`]).

use std::iter::Peekable;
use std::sync::Arc;

use super::base::{Base, Builder, InBase, TooMany};
use super::overlay::{Change, Now, Overlay};
use crate::distribution::{KeyFilter, KeyHash};

/// Revocations of keys that came from the log guard only against a published document that names such a key too. Beyond
/// this many (36 bytes each) the older ones are forgotten.
const REVOKED_OWN_MOST: usize = 250_000;

/// All that is known of keys.
#[derive(Default)]
pub struct View {
    /// Which log.
    pub epoch: u64,
    /// Keys and revocations up to `merged`: with a filter only those that it does not know.
    pub base: Arc<Base>,
    /// Says which keys may be known elsewhere. Without it, nobody knows more than this view.
    pub filter: Option<Arc<KeyFilter>>,
    /// The place in the log of what was last fetched whole.
    pub foundation: u64,
    /// The place in the log up to which base and filter are complete.
    pub merged: u64,
    /// Who looked keys up before this place in the log may have missed what is not remembered here.
    pub floor: u64,
    /// Every change after `merged`.
    pub overlay: Overlay,
}

/// Everything up to a place in the log, fetched whole.
#[derive(Debug)]
pub struct Foundation {
    /// Which log.
    pub epoch: u64,
    /// The last record that is in it.
    pub seq: u64,
    /// The keys, or a filter of them.
    pub keys: Keys,
}

/// What a foundation is made of.
#[derive(Debug)]
pub enum Keys {
    /// All of them.
    All(Base),
    /// Only who may be one.
    Filter(KeyFilter),
    /// The same, and keys of published documents that were revoked, which a filter can not say.
    FilterAndRevoked(KeyFilter, Base),
}

/// What was fetched is older than what it would replace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unfit {
    /// Behind the one before: it would bring back what has been revoked meanwhile.
    Replayed,
    /// More than fits.
    TooMany,
}

impl View {
    /// A view that begins with this.
    #[must_use]
    pub fn start(foundation: Foundation) -> Self {
        let (base, filter) = match foundation.keys {
            Keys::All(base) => (base, None),
            Keys::Filter(filter) => (Base::default(), Some(Arc::new(filter))),
            Keys::FilterAndRevoked(filter, revoked) => (revoked, Some(Arc::new(filter))),
        };
        Self {
            epoch: foundation.epoch,
            base: Arc::new(base),
            filter,
            foundation: foundation.seq,
            merged: foundation.seq,
            floor: foundation.seq,
            overlay: Overlay::default(),
        }
    }

    /// The same knowledge with the overlay in the base, up to this place in the log. What the log says meanwhile stays
    /// in the overlay: [`Self::with_base`].
    ///
    /// # Errors
    /// When there are more keys than a base can hold.
    pub fn merge(&self, upto: u64) -> Result<Merged, TooMany> {
        let changes = self.overlay.sorted(|change| change.seq <= upto);
        let forget = self.base.revoked_own() > REVOKED_OWN_MOST;
        let mut builder = Builder::default();
        let kept = self
            .base
            .iter()
            .filter(|(_, known)| !(forget && matches!(known, InBase::Revoked { foreign: false })));
        for (hash, under, over) in union(kept, changes.iter().map(|(hash, change)| (*hash, change))) {
            match (over, under) {
                (Some(change), _) => builder.push_known(hash, &change.in_base())?,
                (None, Some(known)) => builder.push_known(hash, &known)?,
                (None, None) => {}
            }
        }
        Ok(Merged {
            base: Arc::new(builder.finish()),
            merged: upto.max(self.merged),
            floor: if forget {
                self.floor.max(self.merged)
            } else {
                self.floor
            },
        })
    }

    /// The next view, once a merge is done.
    #[must_use]
    pub fn with_base(&self, merged: Merged) -> Self {
        Self {
            epoch: self.epoch,
            base: merged.base,
            filter: self.filter.clone(),
            foundation: self.foundation,
            merged: merged.merged,
            floor: merged.floor,
            overlay: self
                .overlay
                .sorted(|change| change.seq > merged.merged)
                .into_iter()
                .collect(),
        }
    }

    /// The next view on a newer foundation of the same log, whose end is known up to `seq`. What this view knows beyond
    /// the foundation stays known; revocations stay in any case.
    ///
    /// # Errors
    /// When the foundation is older than the one before, or than revocations that were forgotten here, or too large.
    pub fn on(&self, foundation: Foundation) -> Result<Self, Unfit> {
        // Up to the floor, revocations may have been forgotten: a filter then asks somebody who knows, and all keys from
        // before would bring the revoked ones back.
        let forgotten = matches!(foundation.keys, Keys::All(_)) && foundation.seq < self.floor;
        if foundation.seq < self.foundation || forgotten {
            return Err(Unfit::Replayed);
        }
        let (fetched, filter) = match foundation.keys {
            Keys::All(base) => (base, None),
            Keys::Filter(filter) => (Base::default(), Some(Arc::new(filter))),
            Keys::FilterAndRevoked(filter, revoked) => (revoked, Some(Arc::new(filter))),
        };
        let newer = self.merged > foundation.seq;
        let kept: Vec<_> = self
            .base
            .iter()
            .filter(|(_, known)| newer || matches!(known, InBase::Revoked { .. }))
            .collect();
        let changes = self
            .overlay
            .sorted(|change| change.seq <= foundation.seq && matches!(change.now, Now::Revoked { .. }));
        let revoked: Vec<_> = union(kept.into_iter(), changes.iter().map(|(hash, change)| (*hash, change)))
            .map(|(hash, under, over)| (hash, over.map_or(under, |change| Some(change.in_base()))))
            .collect();
        let mut builder = Builder::default();
        for (hash, theirs, ours) in union(fetched.iter(), revoked.into_iter()) {
            let known = match (theirs, ours.flatten()) {
                // Whoever was looked at later is right.
                (Some(theirs), Some(ours)) => Some(if newer { ours } else { theirs }),
                (theirs, ours) => theirs.or(ours),
            };
            if let Some(known) = known {
                builder.push_known(hash, &known).map_err(|TooMany| Unfit::TooMany)?;
            }
        }
        let merged = self.merged.max(foundation.seq);
        Ok(Self {
            epoch: self.epoch,
            base: Arc::new(builder.finish()),
            filter,
            foundation: foundation.seq,
            merged,
            floor: self.floor.max(foundation.seq),
            overlay: self.overlay.sorted(|change| change.seq > merged).into_iter().collect(),
        })
    }

    /// Whether the log had not known a key that it revokes.
    pub(super) fn is_foreign(&self, hash: &KeyHash) -> bool {
        if let Some(change) = self.overlay.find(hash) {
            return matches!(change.now, Now::Revoked { foreign: true });
        }
        match self.base.find(hash) {
            Some(InBase::Key(_)) => false,
            Some(InBase::Revoked { foreign }) => foreign,
            None => !self.filter.as_ref().is_some_and(|filter| filter.may_know(hash)),
        }
    }

    /// Whether a key is known to be revoked, or known to let in; none if this view does not say.
    pub(super) fn lets_in(&self, hash: &KeyHash) -> Option<bool> {
        if let Some(change) = self.overlay.find(hash) {
            return Some(matches!(change.now, Now::Key(_)));
        }
        self.base.find(hash).map(|known| matches!(known, InBase::Key(_)))
    }

    /// Memory in bytes, without the overlay.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.base.bytes() + self.filter.as_ref().map_or(0, |filter| filter.bytes())
    }
}

/// The part of a view that takes long to make.
pub struct Merged {
    base: Arc<Base>,
    merged: u64,
    floor: u64,
}

impl Change {
    fn in_base(&self) -> InBase<'_> {
        match &self.now {
            Now::Key(key) => InBase::Key(key.view()),
            Now::Revoked { foreign } => InBase::Revoked { foreign: *foreign },
        }
    }
}

impl std::fmt::Display for Unfit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Replayed => f.write_str("the keys are older than those that are known here"),
            Self::TooMany => TooMany.fmt(f),
        }
    }
}

impl std::error::Error for Unfit {}

/// Walks over two lists that are sorted by hash, side by side.
fn union<A, B>(
    under: impl Iterator<Item = (KeyHash, A)>,
    over: impl Iterator<Item = (KeyHash, B)>,
) -> impl Iterator<Item = (KeyHash, Option<A>, Option<B>)> {
    let (mut under, mut over) = (under.peekable(), over.peekable());
    std::iter::from_fn(move || {
        let (low, high) = (peek(&mut under), peek(&mut over));
        let hash = match (low, high) {
            (Some(low), Some(high)) => low.min(high),
            (low, high) => low.or(high)?,
        };
        let take_under = under.next_if(|(at, _)| *at == hash).map(|(_, known)| known);
        let take_over = over.next_if(|(at, _)| *at == hash).map(|(_, known)| known);
        Some((hash, take_under, take_over))
    })
}

fn peek<A>(list: &mut Peekable<impl Iterator<Item = (KeyHash, A)>>) -> Option<KeyHash> {
    list.peek().map(|(hash, _)| *hash)
}
