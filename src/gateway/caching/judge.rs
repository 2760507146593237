//! Whether an answer of the origin is kept, for how long, and under what key.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::header::{AUTHORIZATION, HeaderName};
use http::{HeaderMap, Method};
use pingora::cache::{CacheMeta, NoCacheReason, RespCacheable};
use pingora::http::ResponseHeader;
use pingora::proxy::Session;
use smallvec::SmallVec;

use super::Caching;
use super::ask::variant_key;
use crate::cache::marks::MarkId;
use crate::cache::policy::{Policy, Share};
use crate::cache::storability::{self, Asked, WhyNot, storability};
use crate::cache::storage::Filling;
use crate::cache::vary::Vary;
use crate::cache::{conditional, update};
use crate::gateway::journey::Journey;

/// Why an answer is not kept that was selected by what this gateway says of a request.
pub const SELECTED_BY_GATEWAY: &str = "vary_by_gateway";

/// Why an answer is not kept any more that its origin calls unchanged under another tag (RFC 9111 section 4.3.4).
pub const UNCONFIRMED: &str = "unconfirmed";

/// Why an answer is not kept that could not be made invalid by its tags.
pub const TAGS: &str = "tags";

/// So many tags may one answer have.
const TAGS_MAX: usize = 64;

/// Where they stand: separated by commas in the one, by spaces in the other.
static TAG_FIELDS: [HeaderName; 2] = [
    HeaderName::from_static("cache-tag"),
    HeaderName::from_static("surrogate-key"),
];

impl Caching {
    /// Whether an answer is kept, and for how long.
    pub fn judge(&self, session: &Session, answer: &ResponseHeader, journey: &mut Journey) -> RespCacheable {
        let elapsed = journey
            .upstream_started
            .map_or(Duration::ZERO, |started| started.elapsed());
        let Some(visit) = &mut journey.visit else {
            return RespCacheable::Uncacheable(NoCacheReason::InternalError);
        };
        let now = SystemTime::now();
        let asked = Asked {
            // The engine fetches all of what a HEAD wants validated.
            method: &Method::GET,
            headers: &session.req_header().headers,
            at: now.checked_sub(elapsed).unwrap_or(now),
            is_authorized: session.req_header().headers.contains_key(AUTHORIZATION),
        };
        let kept = session.cache.maybe_cache_meta().map(CacheMeta::response_header);
        let not_modified = visit.not_modified.take();
        let confirmed = not_modified.as_ref().and(visit.course.found.clone());
        let is_unconfirmed = (not_modified.as_ref().zip(kept))
            .is_some_and(|(not_modified, kept)| !conditional::confirms(&kept.headers, &not_modified.headers));
        let (header, lifetime) = match (not_modified, kept) {
            // The engine's own merge leaves out fields that it does not know.
            (Some(not_modified), Some(kept)) => {
                update::refreshed(&asked, kept, &not_modified, now, &visit.policy, rand::random())
            }
            _ => {
                let lifetime = storability(&asked, answer, now, &visit.policy, rand::random());
                (update::storable(answer), lifetime)
            }
        };
        let verdict = lifetime.map_err(WhyNot::as_str).and_then(|lifetime| {
            if is_unconfirmed {
                return Err(UNCONFIRMED);
            }
            let fields = selecting(&header, &visit.policy)?;
            let tags = tags(&header.headers).ok_or(TAGS)?;
            Ok((lifetime, fields, tags))
        });
        let (lifetime, fields, tags) = match verdict {
            Ok(verdict) => verdict,
            Err(why) => {
                visit.course.why_not = Some(why);
                // Nobody has to wait any longer for what will not come.
                visit.turn = None;
                // The origin has said something of what is kept, unless it only failed or meant this request alone.
                let is_said = !answer.status.is_server_error() && !storability::is_of_one_request(why);
                if visit.course.found.is_some() && (is_said || is_unconfirmed) {
                    self.cache.remove(visit.key.fingerprint());
                }
                return RespCacheable::Uncacheable(NoCacheReason::Custom(why));
            }
        };
        let key = match &fields {
            Some(fields) => variant_key(&visit.base, fields, asked.headers),
            None => visit.base.clone(),
        };
        let mut marks = visit.marks(journey.snapshot.as_deref(), journey.caller.as_ref());
        marks.extend(tags);
        let mut meta = CacheMeta::new(
            lifetime.fresh_until,
            lifetime.born,
            lifetime.stale_while_revalidate,
            lifetime.stale_if_error,
            header,
        );
        meta.extensions_mut().insert(Filling {
            base: visit.base.clone(),
            key,
            vary: fields,
            marks,
            sequence: visit.sequence,
            asked_ms: visit.asked_ms,
            lifetime,
            body_bytes: visit.policy.body_bytes,
            confirmed,
        });
        RespCacheable::Cacheable(meta)
    }
}

/// By what an origin wants to be able to make an answer invalid; `None` when that can not be read, or is more than can be
/// remembered.
fn tags(headers: &HeaderMap) -> Option<SmallVec<[MarkId; 4]>> {
    let mut marks = SmallVec::new();
    for name in &TAG_FIELDS {
        for line in headers.get_all(name) {
            let tags = line.to_str().ok()?.split([',', ' ', '\t']);
            marks.extend(tags.filter(|tag| !tag.is_empty()).take(TAGS_MAX + 1).map(MarkId::tag));
            if marks.len() > TAGS_MAX {
                return None;
            }
        }
    }
    Some(marks)
}

/// The fields by which an answer was selected among others.
///
/// # Errors
/// When it was selected by what this gateway says of a request and is not in its key.
fn selecting(answer: &ResponseHeader, policy: &Policy) -> Result<Option<Arc<[HeaderName]>>, &'static str> {
    let fields = match Vary::of(&answer.headers) {
        Vary::Nothing => return Ok(None),
        Vary::Everything => return Err(WhyNot::Vary.as_str()),
        Vary::Fields(fields) => fields,
    };
    let is_hidden = |field: &HeaderName| match field.as_str() {
        "x-application" => policy.share == Share::Everyone,
        "forwarded" | "traceparent" | "tracestate" | "x-forwarded-for" | "x-real-ip" | "x-request-id" => true,
        _ => false,
    };
    if fields.iter().any(is_hidden) {
        return Err(SELECTED_BY_GATEWAY);
    }
    Ok(Some(fields.iter().cloned().collect()))
}
