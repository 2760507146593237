//! `Cache-Status` (RFC 9211): what the cache did with a request, for those who look at its answer.

use http::HeaderValue;
use smallvec::SmallVec;

/// Room for a field on the stack: the longest one fits.
const FIELD: usize = 128;

/// What the cache did. Build it with [`CacheStatus::hit`] or [`CacheStatus::forwarded`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheStatus {
    /// Why the request went to the origin; none if it did not, which is a hit.
    pub forwarded: Option<Forward>,
    /// The status of the origin's answer, when it is worth telling.
    pub forward_status: Option<u16>,
    /// The answer was kept.
    pub is_stored: bool,
    /// The request waited for the answer to another one.
    pub is_collapsed: bool,
    /// Seconds for which the answer stays fresh; negative since when it is stale.
    pub ttl: Option<i64>,
    /// More about it, in a token of this program's own.
    pub detail: Option<&'static str>,
}

/// Why a request went to the origin (RFC 9211 section 2.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forward {
    /// The cache was not to be used for it.
    Bypass,
    /// Its method has to go there.
    Method,
    /// Nothing is kept of its URL.
    UriMiss,
    /// Something is, but for requests with other fields.
    VaryMiss,
    /// Nothing is kept, and it is not told of what.
    Miss,
    /// The client did not want what is kept.
    Request,
    /// What is kept is stale.
    Stale,
    /// What is kept is a part.
    Partial,
}

impl Forward {
    /// Its token.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bypass => "bypass",
            Self::Method => "method",
            Self::UriMiss => "uri-miss",
            Self::VaryMiss => "vary-miss",
            Self::Miss => "miss",
            Self::Request => "request",
            Self::Stale => "stale",
            Self::Partial => "partial",
        }
    }
}

impl CacheStatus {
    /// Answered from the cache.
    #[must_use]
    pub fn hit(ttl: i64) -> Self {
        Self {
            forwarded: None,
            forward_status: None,
            is_stored: false,
            is_collapsed: false,
            ttl: Some(ttl),
            detail: None,
        }
    }

    /// Answered by the origin.
    #[must_use]
    pub fn forwarded(why: Forward) -> Self {
        Self {
            forwarded: Some(why),
            ttl: None,
            ..Self::hit(0)
        }
    }

    /// The member for `Cache-Status`. It goes behind those that the answer has already (RFC 9211 section 2).
    #[must_use]
    pub fn value(&self) -> HeaderValue {
        let mut text: SmallVec<[u8; FIELD]> = SmallVec::from_slice(b"tollgate");
        match self.forwarded {
            None => text.extend_from_slice(b"; hit"),
            Some(why) => {
                text.extend_from_slice(b"; fwd=");
                text.extend_from_slice(why.as_str().as_bytes());
            }
        }
        if let Some(status) = self.forward_status {
            text.extend_from_slice(b"; fwd-status=");
            text.extend_from_slice(itoa::Buffer::new().format(status).as_bytes());
        }
        if self.is_stored {
            text.extend_from_slice(b"; stored");
        }
        if self.is_collapsed {
            text.extend_from_slice(b"; collapsed");
        }
        if let Some(ttl) = self.ttl {
            text.extend_from_slice(b"; ttl=");
            text.extend_from_slice(itoa::Buffer::new().format(ttl).as_bytes());
        }
        if let Some(detail) = self.detail {
            text.extend_from_slice(b"; detail=");
            text.extend_from_slice(detail.as_bytes());
        }
        // All of it is printable ASCII, so this cannot fail; an empty field is ignored by clients.
        HeaderValue::from_bytes(&text).unwrap_or_else(|_| HeaderValue::from_static(""))
    }
}

impl From<CacheStatus> for HeaderValue {
    fn from(status: CacheStatus) -> Self {
        status.value()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 9211 section 2.
    #[test]
    fn the_field_reads_as_the_rfc_wants_it() {
        assert_eq!(CacheStatus::hit(123).value(), "tollgate; hit; ttl=123");
        assert_eq!(CacheStatus::hit(-5).value(), "tollgate; hit; ttl=-5");
        let mut status = CacheStatus::forwarded(Forward::UriMiss);
        assert_eq!(status.value(), "tollgate; fwd=uri-miss");
        status.forward_status = Some(200);
        status.is_stored = true;
        status.ttl = Some(300);
        assert_eq!(
            status.value(),
            "tollgate; fwd=uri-miss; fwd-status=200; stored; ttl=300"
        );
        status.forwarded = Some(Forward::Stale);
        status.is_stored = false;
        status.is_collapsed = true;
        status.detail = Some("no_store");
        assert_eq!(
            status.value(),
            "tollgate; fwd=stale; fwd-status=200; collapsed; ttl=300; detail=no_store"
        );
        assert!(
            HeaderValue::from(CacheStatus::hit(i64::MIN))
                .to_str()
                .unwrap()
                .ends_with("-9223372036854775808")
        );
    }

    #[test]
    fn every_value_is_a_structured_field() {
        use Forward::{Bypass, Method, Miss, Partial, Request, Stale, UriMiss, VaryMiss};
        for why in [Bypass, Method, UriMiss, VaryMiss, Miss, Request, Stale, Partial] {
            for detail in super::super::WhyNot::ALL {
                let mut status = CacheStatus::forwarded(why);
                status.detail = Some(detail.as_str());
                assert_eq!(
                    sfv::Parser::parse_list(status.value().as_bytes()).unwrap().len(),
                    1,
                    "{status:?}"
                );
            }
        }
    }
}
