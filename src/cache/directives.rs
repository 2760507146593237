//! `Cache-Control` of answers and of requests (RFC 9111 section 5.2), and `CDN-Cache-Control` (RFC 9213).
//!
//! Own code: the crate `http-cache-semantics` is made for a client's private cache or a copy of each request beside its
//! answer. It reads no `CDN-Cache-Control`, takes junk in `max-age` and `Age` for absent, and decides as one step what the
//! engine's state machine asks for in several.

use std::time::SystemTime;

use http::header::{CACHE_CONTROL, HeaderName, PRAGMA};
use http::{HeaderMap, HeaderValue};
use sfv::{BareItem, ListEntry, Parser};
use smallvec::SmallVec;

use super::freshness::{Lifetime, digits};
use super::members::{Member, members, tokens, trim};

/// The largest number of seconds; what is larger is this (RFC 9111 section 1.2.2).
pub const LONGEST: u32 = 1 << 31;

const CDN_CACHE_CONTROL: HeaderName = HeaderName::from_static("cdn-cache-control");

/// A number of seconds that an answer says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seconds {
    /// It can be read.
    Said(u32),
    /// It can not, which is not the same as saying nothing: it counts as no time at all (RFC 9111 section 4.2.1).
    Invalid,
}

impl Seconds {
    /// How many they are.
    #[must_use]
    pub fn get(self) -> u32 {
        match self {
            Self::Said(seconds) => seconds,
            Self::Invalid => 0,
        }
    }

    /// The smaller one of two, as of an answer that says both.
    fn least(self, other: Self) -> Self {
        match (self, other) {
            (Self::Said(one), Self::Said(two)) => Self::Said(one.min(two)),
            _ => Self::Invalid,
        }
    }
}

/// What `no-cache` or `private` are said of.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Extent {
    /// Nothing: it is not said.
    #[default]
    Nothing,
    /// These fields of the answer.
    Fields(SmallVec<[HeaderName; 2]>),
    /// The answer.
    Whole,
}

impl Extent {
    /// Whether it is said of the whole answer.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        *self == Self::Whole
    }

    /// The fields that it is said of, if not of all.
    #[must_use]
    pub fn fields(&self) -> &[HeaderName] {
        match self {
            Self::Fields(fields) => fields,
            Self::Nothing | Self::Whole => &[],
        }
    }

    fn widen(&mut self, by: Self) {
        match (&mut *self, by) {
            (Self::Whole, _) | (_, Self::Nothing) => {}
            (Self::Fields(fields), Self::Fields(more)) => fields.extend(more),
            (_, by) => *self = by,
        }
    }
}

/// What an answer says of being kept. Of what it says twice, the stricter holds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ResponseDirectives {
    /// It must not be kept.
    pub no_store: bool,
    /// It, or some of its fields, must not be given without asking the origin.
    pub no_cache: Extent,
    /// It, or some of its fields, are for one caller.
    pub private: Extent,
    /// It may be kept although it would not be otherwise.
    pub public: bool,
    /// It must not be given while it is stale.
    pub must_revalidate: bool,
    /// The same, for shared caches.
    pub proxy_revalidate: bool,
    /// It may be kept, even with `no-store`, by those that understand its status.
    pub must_understand: bool,
    /// How long it is fresh in a shared cache.
    pub s_maxage: Option<Seconds>,
    /// How long it is fresh.
    pub max_age: Option<Seconds>,
    /// How long it may be given while it is fetched anew.
    pub stale_while_revalidate: Option<Seconds>,
    /// How long it may be given while the origin fails.
    pub stale_if_error: Option<Seconds>,
    /// It may be kept although its request had `Authorization` (RFC 9111 section 3.5).
    pub permits_authorized: bool,
    /// This was said in `CDN-Cache-Control`, so `Cache-Control` and `Expires` are for others.
    pub is_targeted: bool,
}

impl ResponseDirectives {
    /// Reads them. `CDN-Cache-Control` replaces `Cache-Control` when it is a dictionary that is not empty, and is ignored
    /// otherwise (RFC 9213 section 2.1). `Pragma` means nothing in an answer (RFC 9111 section 5.4).
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Self {
        if headers.contains_key(CDN_CACHE_CONTROL)
            && let Some(targeted) = Self::targeted(headers)
        {
            return targeted;
        }
        let mut directives = Self::default();
        for line in headers.get_all(CACHE_CONTROL) {
            for_each_directive(line, |name, value| directives.note(name, value));
        }
        directives
    }

    /// The fields of the answer that are not kept, because they must not be given without asking.
    pub fn withheld(&self) -> impl Iterator<Item = &HeaderName> {
        self.no_cache.fields().iter().chain(self.private.fields())
    }

    fn targeted(headers: &HeaderMap) -> Option<Self> {
        let mut text: SmallVec<[u8; 128]> = SmallVec::new();
        for line in headers.get_all(CDN_CACHE_CONTROL) {
            if !text.is_empty() {
                text.extend_from_slice(b", ");
            }
            text.extend_from_slice(line.as_bytes());
        }
        let dictionary = Parser::parse_dictionary(&text)
            .ok()
            .filter(|members| !members.is_empty())?;
        let mut directives = Self {
            is_targeted: true,
            ..Self::default()
        };
        for (name, member) in &dictionary {
            // Parameters are ignored (RFC 9213 section 2.1).
            let value = match member {
                ListEntry::Item(item) => match &item.bare_item {
                    BareItem::Boolean(true) => Value::Bare,
                    BareItem::Boolean(false) => Value::Off,
                    BareItem::Integer(number) => Value::Number(*number),
                    BareItem::String(text) | BareItem::Token(text) => Value::Names(text.as_bytes()),
                    BareItem::Decimal(_) | BareItem::ByteSeq(_) => Value::Malformed,
                },
                ListEntry::InnerList(_) => Value::Malformed,
            };
            directives.note(name.as_bytes(), value);
        }
        Some(directives)
    }

    /// What forbids is heard however it is written; what permits, only when it is written as it has to be.
    fn note(&mut self, name: &[u8], value: Value<'_>) {
        let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
        let is_said = !matches!(value, Value::Off);
        let is_bare = matches!(value, Value::Bare);
        if is("max-age") {
            lessen(&mut self.max_age, value.seconds());
        } else if is("s-maxage") {
            let seconds = value.seconds();
            lessen(&mut self.s_maxage, seconds);
            self.permits_authorized |= seconds != Seconds::Invalid;
        } else if is("stale-while-revalidate") {
            lessen(&mut self.stale_while_revalidate, value.seconds());
        } else if is("stale-if-error") {
            lessen(&mut self.stale_if_error, value.seconds());
        } else if is("no-store") {
            self.no_store |= is_said;
        } else if is("no-cache") {
            self.no_cache.widen(value.extent());
        } else if is("private") {
            self.private.widen(value.extent());
        } else if is("must-revalidate") {
            self.must_revalidate |= is_said;
            self.permits_authorized |= is_bare;
        } else if is("proxy-revalidate") {
            self.proxy_revalidate |= is_said;
        } else if is("public") {
            self.public |= is_bare;
            self.permits_authorized |= is_bare;
        } else if is("must-understand") {
            self.must_understand |= is_bare;
        }
    }
}

/// What a client says of the answer that it would like. A number that can not be read is the one that asks for most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RequestDirectives {
    /// Nothing of the answer may be kept.
    pub no_store: bool,
    /// The origin has to be asked.
    pub no_cache: bool,
    /// The oldest that the answer may be, in seconds.
    pub max_age: Option<u64>,
    /// It may be stale: for so many seconds, or for any time.
    pub max_stale: Option<Option<u64>>,
    /// It has to stay fresh for so many seconds.
    pub min_fresh: Option<u64>,
    /// The origin must not be asked: 504 if that takes it.
    pub only_if_cached: bool,
}

/// Whether a client takes a kept answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acceptance {
    /// It is fresh, and so to the client's liking.
    AsIs,
    /// It is stale, and the client said that it takes it so.
    Stale,
    /// The origin has to be asked first.
    Validate,
}

impl RequestDirectives {
    /// Reads them. `Pragma: no-cache` counts only without a `Cache-Control` (RFC 9111 section 5.4).
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Self {
        let mut directives = Self::default();
        if headers.contains_key(CACHE_CONTROL) {
            for line in headers.get_all(CACHE_CONTROL) {
                for_each_directive(line, |name, value| directives.note(name, value));
            }
        } else {
            for line in headers.get_all(PRAGMA) {
                for_each_directive(line, |name, _| {
                    directives.no_cache |= name.eq_ignore_ascii_case(b"no-cache");
                });
            }
        }
        directives
    }

    /// Whether the client takes an answer with this lifetime now (RFC 9111 section 5.2.1).
    #[must_use]
    pub fn accepts(&self, lifetime: &Lifetime, now: SystemTime) -> Acceptance {
        // `max-age=0` is how one asks for validation; an answer that came in this very moment is no exception.
        if self.no_cache || self.max_age == Some(0) {
            return Acceptance::Validate;
        }
        if self.max_age.is_some_and(|most| lifetime.age(now).as_secs() > most) {
            return Acceptance::Validate;
        }
        if let Ok(left) = lifetime.fresh_until.duration_since(now)
            && !left.is_zero()
        {
            let is_enough = self.min_fresh.is_none_or(|least| left.as_secs() >= least);
            return if is_enough {
                Acceptance::AsIs
            } else {
                Acceptance::Validate
            };
        }
        let over = now.duration_since(lifetime.fresh_until).unwrap_or_default();
        match self.max_stale {
            _ if lifetime.must_revalidate || self.min_fresh.is_some() => Acceptance::Validate,
            Some(most) if most.is_none_or(|most| over.as_secs() <= most) => Acceptance::Stale,
            _ => Acceptance::Validate,
        }
    }

    fn note(&mut self, name: &[u8], value: Value<'_>) {
        let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
        let longest = u64::from(LONGEST);
        let number = match value.seconds() {
            Seconds::Said(seconds) => Some(u64::from(seconds)),
            Seconds::Invalid => None,
        };
        if is("no-store") {
            self.no_store = true;
        } else if is("no-cache") {
            self.no_cache = true;
        } else if is("only-if-cached") {
            self.only_if_cached = true;
        } else if is("max-age") {
            self.max_age = Some(self.max_age.unwrap_or(longest).min(number.unwrap_or(0)));
        } else if is("min-fresh") {
            self.min_fresh = Some(self.min_fresh.unwrap_or(0).max(number.unwrap_or(longest)));
        } else if is("max-stale") {
            let said = match value {
                Value::Bare => longest,
                _ => number.unwrap_or(0),
            };
            let least = self
                .max_stale
                .map_or(said, |before| before.unwrap_or(longest).min(said));
            self.max_stale = Some((least < longest).then_some(least));
        }
    }
}

/// What is said with a directive.
#[derive(Clone, Copy)]
enum Value<'a> {
    /// Nothing, which is: yes.
    Bare,
    /// No, which a dictionary can say.
    Off,
    /// An argument of `Cache-Control`.
    Argument(&'a [u8]),
    /// A number of a dictionary.
    Number(i64),
    /// A text of a dictionary.
    Names(&'a [u8]),
    /// Something that the grammar does not have.
    Malformed,
}

impl Value<'_> {
    fn seconds(self) -> Seconds {
        let number = match self {
            Self::Argument(text) => digits(text),
            Self::Number(number) => u64::try_from(number)
                .ok()
                .map(|number| u32::try_from(number).unwrap_or(LONGEST).min(LONGEST)),
            Self::Bare | Self::Off | Self::Names(_) | Self::Malformed => None,
        };
        number.map_or(Seconds::Invalid, Seconds::Said)
    }

    /// A list of field names, or else the whole answer.
    fn extent(self) -> Extent {
        let (Self::Argument(text) | Self::Names(text)) = self else {
            return if matches!(self, Self::Off) {
                Extent::Nothing
            } else {
                Extent::Whole
            };
        };
        let names = text
            .split(|byte| *byte == b',')
            .map(trim)
            .filter(|name| !name.is_empty());
        match names.map(HeaderName::from_bytes).collect::<Result<SmallVec<_>, _>>() {
            Ok(names) if !names.is_empty() => Extent::Fields(names),
            // An escape in it ends here too: no name needs one.
            _ => Extent::Whole,
        }
    }
}

/// Every directive of a line. Of what is not written as it has to be, every word counts, as said in a wrong way.
fn for_each_directive(line: &HeaderValue, mut note: impl FnMut(&[u8], Value<'_>)) {
    for member in members(line.as_bytes()) {
        match member {
            Member::Directive { name, argument } => note(name, argument.map_or(Value::Bare, Value::Argument)),
            Member::Malformed(text) => tokens(text).for_each(|name| note(name, Value::Malformed)),
        }
    }
}

fn lessen(kept: &mut Option<Seconds>, said: Seconds) {
    *kept = Some(kept.map_or(said, |before| before.least(said)));
}

#[cfg(test)]
mod tests;
