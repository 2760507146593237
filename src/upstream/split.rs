//! Which upstream of an API answers a request: chosen once, and kept for every try.
//!
//! What is sticky is decided by weighted rendezvous hashing: each upstream gets a score from the key and its own name, and
//! the highest wins. Nothing is remembered, every gateway chooses alike, and a weight that changes moves only the keys
//! that have to move. A table of buckets was rejected: it moves others too when the weights are not multiples of a bucket.

use std::net::IpAddr;

use http::header::COOKIE;
use http::{HeaderMap, HeaderName};

use super::hash;
use crate::names::UpstreamName;
use crate::revision::{Destinations, Sticky};

/// The upstreams of an API, ready to be chosen from.
#[derive(Debug)]
pub struct Split {
    shares: Box<[Share]>,
    /// Sum of the weights; at least 1.
    total: u32,
    sticky: Option<Sticky>,
    override_header: Option<HeaderName>,
    sandbox: Option<usize>,
}

#[derive(Debug)]
struct Share {
    upstream: usize,
    name: UpstreamName,
    weight: u32,
    /// What its scores begin with; the same on every gateway.
    seed: u64,
}

/// What is known of who asks.
#[derive(Debug, Clone, Copy)]
pub struct Asker<'a> {
    /// Whether a sandbox key was used.
    pub sandbox: bool,
    /// A number for the caller, the same on every gateway; none for anonymous ones.
    pub caller: Option<u64>,
    /// The client's address.
    pub client: Option<IpAddr>,
    /// Header fields of the request.
    pub headers: &'a HeaderMap,
}

/// An upstream, and why it is this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Choice {
    /// Index into the revision's upstreams.
    pub upstream: usize,
    /// Why.
    pub why: Why,
}

/// Why an upstream was chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// There is no other.
    Only,
    /// The caller has a sandbox key.
    Sandbox,
    /// The client named it.
    Named,
    /// It always answers this key.
    Sticky,
    /// By chance, as the weights say.
    Drawn,
}

impl Split {
    /// Compiles it. `names` are those of all upstreams of the revision.
    #[must_use]
    pub fn compile(destinations: &Destinations, names: &[UpstreamName]) -> Self {
        let shares: Box<[Share]> = (destinations.shares.iter())
            .filter_map(|share| {
                let name = names.get(share.upstream)?.clone();
                Some(Share {
                    upstream: share.upstream,
                    seed: key_of(0, name.as_str().as_bytes()),
                    name,
                    weight: share.weight,
                })
            })
            .collect();
        Self {
            total: shares.iter().map(|share| share.weight).sum::<u32>().max(1),
            shares,
            sticky: destinations.sticky.clone(),
            override_header: destinations.override_header.clone(),
            sandbox: destinations.sandbox,
        }
    }

    /// The upstream for a request; `draw` gives any number by chance, and is asked only when chance decides.
    #[must_use]
    pub fn choose(&self, asker: &Asker<'_>, draw: impl FnOnce() -> u32) -> Option<Choice> {
        if let Some(upstream) = self.sandbox.filter(|_| asker.sandbox) {
            return Some(Choice {
                upstream,
                why: Why::Sandbox,
            });
        }
        if let Some(upstream) = self.named(asker.headers) {
            return Some(Choice {
                upstream,
                why: Why::Named,
            });
        }
        if let [only] = &*self.shares {
            return Some(Choice {
                upstream: only.upstream,
                why: Why::Only,
            });
        }
        let (share, why) = match self.key(asker) {
            Some(key) => (self.highest(key)?, Why::Sticky),
            None => (self.drawn(draw())?, Why::Drawn),
        };
        Some(Choice {
            upstream: share.upstream,
            why,
        })
    }

    /// Each upstream with its part of what is not decided otherwise, in percent.
    pub fn shares(&self) -> impl Iterator<Item = (&UpstreamName, f64)> {
        let total = f64::from(self.total);
        (self.shares.iter()).map(move |share| (&share.name, f64::from(share.weight) * 100.0 / total))
    }

    /// What stays on one upstream.
    #[must_use]
    pub fn sticky(&self) -> Option<&Sticky> {
        self.sticky.as_ref()
    }

    /// The field in which a client may name an upstream; it is not passed on.
    #[must_use]
    pub fn override_header(&self) -> Option<&HeaderName> {
        self.override_header.as_ref()
    }

    /// The upstream that the client names, if it is one of these. A field that is there twice names none.
    fn named(&self, headers: &HeaderMap) -> Option<usize> {
        let mut values = headers.get_all(self.override_header.as_ref()?).iter();
        let name = values.next()?.as_bytes();
        if values.next().is_some() {
            return None;
        }
        let share = self
            .shares
            .iter()
            .find(|share| share.name.as_str().as_bytes() == name)?;
        Some(share.upstream)
    }

    /// What decides where the request goes, if something does.
    fn key(&self, asker: &Asker<'_>) -> Option<u64> {
        match self.sticky.as_ref()? {
            Sticky::Caller => asker
                .caller
                .map(|caller| key_of(1, &caller.to_be_bytes()))
                .or_else(|| address_key(asker.client)),
            Sticky::ClientIp => address_key(asker.client),
            Sticky::Header(name) => asker.headers.get(name).map(|value| key_of(3, value.as_bytes())),
            Sticky::Cookie(name) => cookie(asker.headers, name.as_bytes()).map(|value| key_of(4, value)),
        }
    }

    /// The upstream with the highest score for a key: -weight / ln(u), for u spread evenly over (0, 1). For two upstreams
    /// the chance to win is as their weights, and no score depends on another upstream.
    fn highest(&self, key: u64) -> Option<&Share> {
        let score = |share: &Share| {
            let mixed = hash::stir(share.seed ^ key);
            // 53 bits fill a float; half a step keeps it off 0 and 1.
            #[allow(clippy::cast_precision_loss, reason = "53 bits fit")]
            let even = ((mixed >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
            -f64::from(share.weight) / even.ln()
        };
        (self.shares.iter())
            .filter(|share| share.weight > 0)
            .max_by(|a, b| score(a).total_cmp(&score(b)))
    }

    fn drawn(&self, number: u32) -> Option<&Share> {
        let mut left = (u64::from(number) * u64::from(self.total)) >> 32;
        self.shares.iter().find(|share| {
            let here = left < u64::from(share.weight);
            left = left.saturating_sub(u64::from(share.weight));
            here
        })
    }
}

fn address_key(client: Option<IpAddr>) -> Option<u64> {
    Some(match client?.to_canonical() {
        IpAddr::V4(address) => key_of(2, &address.octets()),
        IpAddr::V6(address) => key_of(2, &address.octets()),
    })
}

/// The value of a cookie (RFC 6265 section 4.2.1); of several, the first.
#[must_use]
pub fn cookie<'a>(headers: &'a HeaderMap, name: &[u8]) -> Option<&'a [u8]> {
    headers
        .get_all(COOKIE)
        .iter()
        .flat_map(|line| line.as_bytes().split(|byte| *byte == b';'))
        .find_map(|pair| pair.trim_ascii().strip_prefix(name)?.strip_prefix(b"="))
}

/// Keys of different kinds do not meet, and none of them meets an endpoint of an upstream as `consistent_hash` does.
/// A client can find keys of its own choice with it, and gains nothing that it could not have by trying.
fn key_of(kind: u64, bytes: &[u8]) -> u64 {
    hash::stir(hash::of(bytes) ^ kind)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;
    use crate::revision::Share as Weighed;

    const NAMES: [&str; 4] = ["a", "b", "c", "sandbox"];

    fn split(weights: &[u32], sticky: Option<Sticky>) -> Split {
        let shares = weights.iter().enumerate();
        let destinations = Destinations {
            shares: shares.map(|(upstream, &weight)| Weighed { upstream, weight }).collect(),
            sticky,
            override_header: Some(HeaderName::from_static("x-upstream")),
            sandbox: Some(3),
        };
        Split::compile(&destinations, &NAMES.map(UpstreamName::from))
    }

    fn asker(headers: &HeaderMap) -> Asker<'_> {
        Asker {
            sandbox: false,
            caller: None,
            client: Some([192, 0, 2, 7].into()),
            headers,
        }
    }

    /// Where each of so many callers goes.
    fn callers(split: &Split, count: u64) -> Vec<usize> {
        let headers = HeaderMap::new();
        (0..count)
            .map(|caller| {
                let asker = Asker {
                    caller: Some(caller),
                    ..asker(&headers)
                };
                let choice = split.choose(&asker, || panic!("chance was asked")).unwrap();
                assert_eq!(choice.why, Why::Sticky);
                choice.upstream
            })
            .collect()
    }

    fn count(of: &[usize], upstream: usize) -> f64 {
        of.iter().filter(|found| **found == upstream).count() as f64
    }

    #[test]
    fn callers_are_split_as_the_weights_say_and_each_always_goes_to_the_same() {
        let split_up = split(&[90, 10, 0], Some(Sticky::Caller));
        let found = callers(&split_up, 100_000);
        assert!(
            (count(&found, 0) / 100_000.0 - 0.9).abs() < 0.005,
            "{}",
            count(&found, 0)
        );
        assert_eq!(count(&found, 2), 0.0);
        assert_eq!(found, callers(&split(&[90, 10, 0], Some(Sticky::Caller)), 100_000));
    }

    #[test]
    fn a_change_of_weights_moves_only_the_share_that_has_to_move() {
        let before = callers(&split(&[90, 10, 0], Some(Sticky::Caller)), 100_000);
        // A fifth: 10 of 100 becomes 30 of 120, by which a sixth of the others has to move.
        let after = callers(&split(&[90, 30, 0], Some(Sticky::Caller)), 100_000);
        let moved = before.iter().zip(&after).filter(|(a, b)| a != b);
        assert!(
            moved.clone().all(|(from, to)| (*from, *to) == (0, 1)),
            "somebody moved who did not have to"
        );
        assert!((moved.count() as f64 / 100_000.0 - 0.15).abs() < 0.005);
    }

    #[test]
    fn without_a_key_the_weights_decide_by_chance() {
        let split = split(&[3, 1, 0], None);
        let headers = HeaderMap::new();
        let drawn = |number: u32| split.choose(&asker(&headers), || number).unwrap();
        assert_eq!(drawn(0).why, Why::Drawn);
        assert_eq!(drawn(0).upstream, 0);
        assert_eq!(drawn(u32::MAX / 4 * 3 - 4).upstream, 0);
        assert_eq!(drawn(u32::MAX / 4 * 3 + 4).upstream, 1);
        assert_eq!(drawn(u32::MAX).upstream, 1);
    }

    #[test]
    fn a_client_may_name_one_of_the_split_and_nothing_else() {
        let split = split(&[1, 1, 0], None);
        let named = |names: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for name in names {
                headers.append("x-upstream", HeaderValue::from_static(name));
            }
            split.choose(&asker(&headers), || 0).unwrap()
        };
        assert_eq!(
            named(&["c"]),
            Choice {
                upstream: 2,
                why: Why::Named
            }
        );
        for unknown in [&["sandbox"][..], &["d"], &[""], &["C"], &["c", "c"]] {
            assert_eq!(named(unknown).why, Why::Drawn, "{unknown:?}");
        }
    }

    #[test]
    fn a_sandbox_key_decides_before_everything_else() {
        let split = split(&[1, 1, 0], Some(Sticky::Caller));
        let headers = HeaderMap::from_iter([(HeaderName::from_static("x-upstream"), HeaderValue::from_static("a"))]);
        let asker = Asker {
            sandbox: true,
            ..asker(&headers)
        };
        assert_eq!(
            split.choose(&asker, || 0).unwrap(),
            Choice {
                upstream: 3,
                why: Why::Sandbox
            }
        );
    }

    #[test]
    fn fields_and_cookies_are_keys_and_requests_without_them_are_drawn() {
        let by = |sticky: Sticky, name: &'static str, value: &str| {
            let headers =
                HeaderMap::from_iter([(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())]);
            split(&[1, 1, 0], Some(sticky)).choose(&asker(&headers), || 0).unwrap()
        };
        let tenant = || Sticky::Header(HeaderName::from_static("x-tenant"));
        let both: std::collections::BTreeSet<usize> = (0..64)
            .map(|tenant_id| by(tenant(), "x-tenant", &format!("tenant-{tenant_id}")).upstream)
            .collect();
        assert_eq!(both.len(), 2, "all tenants went to one upstream");
        assert_eq!(by(tenant(), "x-other", "1").why, Why::Drawn);

        let session = || Sticky::Cookie("session".into());
        let alone = by(session(), "cookie", "session=abc");
        assert_eq!(alone.why, Why::Sticky);
        assert_eq!(by(session(), "cookie", "a=1; session=abc;b=2"), alone);
        assert_eq!(by(session(), "cookie", "xsession=abc; sessionx=1").why, Why::Drawn);
    }

    /// Written down: with another hash, everybody would move at the next upgrade, and gateways of two builds disagree.
    #[test]
    fn every_build_of_every_gateway_chooses_alike() {
        let found = callers(&split(&[50, 50], Some(Sticky::Caller)), 16);
        assert_eq!(found, [1, 0, 0, 1, 0, 0, 0, 1, 1, 0, 1, 0, 0, 0, 1, 1]);
    }
}
