//! Which upstream answers an API.

use std::collections::HashMap;

use super::super::raw::{RawApi, RawShare, RawSplit, RawSticky};
use super::super::{Destinations, Share, Sticky};
use super::{Checker, Names};
use crate::document::{At, quote};

/// The largest weight of an upstream.
const HEAVIEST: u32 = 1000;

impl Checker<'_> {
    /// The upstreams of an API; `needed` unless all of its routes answer by themselves.
    pub(super) fn destinations(
        &mut self,
        raw: &At<RawApi>,
        who: &str,
        needed: bool,
        upstreams: &Names<'_>,
    ) -> Option<Destinations> {
        let RawApi {
            upstream,
            upstreams: several,
            split,
            sandbox_upstream,
            ..
        } = &raw.value;
        let sandbox = sandbox_upstream
            .as_ref()
            .and_then(|name| self.look_up(upstreams, who, name));
        let shares = match (upstream, several) {
            (Some(one), None) => {
                let upstream = self.look_up(upstreams, who, one);
                upstream.map(|upstream| vec![Share { upstream, weight: 1 }])
            }
            (None, Some(several)) => Some(self.shares(raw, several, who, upstreams)),
            (Some(one), Some(_)) => {
                let message = format!("{who} has both \"upstream\" and \"upstreams\"; remove one");
                self.report.error(one.place, message);
                None
            }
            (None, None) => {
                let dropped = self.dropped.contains(raw.place, "upstreams");
                if !dropped && (needed || sandbox_upstream.is_some()) {
                    self.need::<()>(raw.place, who, "upstream", None);
                }
                None
            }
        };
        if let (Some(split), None) = (split, several)
            && !self.dropped.contains(raw.place, "upstreams")
        {
            let message = format!("{who} has a \"split\" but no \"upstreams\" between which it could be");
            self.report.error(split.place, message);
        }
        let (sticky, override_header) = match split {
            Some(split) => {
                let RawSplit {
                    sticky,
                    override_header,
                } = &split.value;
                let header = override_header.as_ref().map(|header| header.get().0.clone());
                if let (Some(header), Some(at)) = (&header, override_header)
                    && [
                        http::header::HOST,
                        http::header::CONTENT_LENGTH,
                        http::header::TRANSFER_ENCODING,
                    ]
                    .contains(header)
                {
                    let message = format!("{who} can not take {} for a choice", quote(header.as_str()));
                    self.report.error(at.place, message);
                }
                (sticky.as_ref().map(resolved), header)
            }
            None => (None, None),
        };
        Some(Destinations {
            shares: shares?,
            sticky,
            override_header,
            sandbox,
        })
    }

    fn shares(
        &mut self,
        api: &At<RawApi>,
        raws: &At<Vec<At<RawShare>>>,
        who: &str,
        upstreams: &Names<'_>,
    ) -> Vec<Share> {
        if raws.is_empty() && !self.dropped.contains(api.place, "upstreams") {
            let message = format!("{who} has an empty list of \"upstreams\"; it needs at least one");
            self.report.error(raws.place, message);
        }
        let mut shares = Vec::with_capacity(raws.len());
        let mut lines: HashMap<usize, u32> = HashMap::with_capacity(raws.len());
        let mut heavy = raws.is_empty();
        for raw in &raws.value {
            let RawShare { name, weight } = &raw.value;
            let whose = format!("an upstream of {who}");
            let name = self.need(raw.place, &whose, "name", name.as_ref());
            if self.need(raw.place, &whose, "weight", weight.as_ref()).is_none() {
                heavy = true;
            }
            let weight = self.in_range(weight.as_ref(), "weight", 0, HEAVIEST, 0);
            heavy |= weight > 0;
            let Some(upstream) = name.and_then(|name| self.look_up(upstreams, who, name)) else {
                continue;
            };
            if let Some(line) = lines.insert(upstream, raw.place.line) {
                let message = format!("{who} has this upstream twice; the first is in line {line}");
                self.report.error(raw.place, message);
            }
            shares.push(Share { upstream, weight });
        }
        if !heavy {
            let message =
                format!("every weight of {who} is 0, so that nothing would be sent anywhere; give one of them more");
            self.report.error(raws.place, message);
        }
        shares
    }
}

fn resolved(raw: &RawSticky) -> Sticky {
    match raw {
        RawSticky::Caller => Sticky::Caller,
        RawSticky::ClientIp => Sticky::ClientIp,
        RawSticky::Header(name) => Sticky::Header(name.get().0.clone()),
        RawSticky::Cookie(name) => Sticky::Cookie(name.get().0.clone()),
    }
}
