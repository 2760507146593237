//! What a route has of its own: rewrites, redirects, answers, and its say about addresses, fields and bodies.

use http::header::{CONTENT_TYPE, LOCATION};
use http::{HeaderValue, StatusCode};

use super::super::raw::{RawRedirect, RawRespond, RawRoute};
use super::super::{Action, Respond, RouteEdits, Target};
use super::Checker;
use super::edits::Way;
use crate::document::{At, Place, did_you_mean, quote};

/// The longest content of an answer that stands in a revision.
const LONGEST_BODY: usize = 64 * 1024;

/// What a content is unless a route says otherwise.
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

impl Checker<'_> {
    /// What a route has of its own; `pattern` is its whole path.
    pub(super) fn route_edits(
        &mut self,
        route: &At<RawRoute>,
        pattern: &str,
        who: &str,
        cors: bool,
    ) -> Option<Box<RouteEdits>> {
        let RawRoute {
            rewrite,
            redirect,
            respond,
            addresses,
            headers,
            body_bytes,
            ..
        } = &route.value;
        let actions = [
            rewrite.as_ref().map(|rewrite| ("rewrite", rewrite.place)),
            redirect.as_ref().map(|redirect| ("redirect", redirect.place)),
            respond.as_ref().map(|respond| ("respond", respond.place)),
        ];
        let mut given = actions.iter().flatten();
        if let (Some((first, _)), Some((second, place))) = (given.next(), given.next()) {
            let message = format!(
                "a route of {who} has both {} and {}; it can only do one of them",
                quote(first),
                quote(second)
            );
            self.report.error(*place, message);
        }
        let action = match (rewrite, redirect, respond) {
            (Some(rewrite), ..) => {
                let target = self.target(None, &rewrite.get().0, rewrite.place, pattern, who);
                Action::Forward { rewrite: Some(target) }
            }
            (None, Some(redirect), _) => self.redirect(redirect, pattern, who)?,
            (None, None, Some(respond)) => Action::Respond(self.respond(respond, who, cors)),
            (None, None, None) => Action::default(),
        };
        let edits = RouteEdits {
            addresses: self.addresses(addresses.as_ref(), who),
            headers: self.header_edits(headers.as_ref(), who, cors),
            body_bytes: body_bytes.as_ref().map(|size| size.get().0),
            action,
        };
        (edits != RouteEdits::default()).then(|| Box::new(edits))
    }

    fn redirect(&mut self, raw: &At<RawRedirect>, pattern: &str, who: &str) -> Option<Action> {
        let RawRedirect { to, status } = &raw.value;
        let whose = format!("a redirect of {who}");
        let status = match status {
            None => StatusCode::PERMANENT_REDIRECT,
            Some(status) => match status.value {
                301 => StatusCode::MOVED_PERMANENTLY,
                302 => StatusCode::FOUND,
                303 => StatusCode::SEE_OTHER,
                307 => StatusCode::TEMPORARY_REDIRECT,
                308 => StatusCode::PERMANENT_REDIRECT,
                other => {
                    let message = format!("the status of {whose} has to be 301, 302, 303, 307 or 308, not {other}");
                    self.report.error(status.place, message);
                    StatusCode::PERMANENT_REDIRECT
                }
            },
        };
        let to = self.need(raw.place, &whose, "to", to.as_ref())?;
        let (origin, path) = (to.get().origin.as_deref(), to.get().path.as_str());
        if origin.is_none() && path == pattern {
            let message = format!("{whose} leads to itself, so that clients would go round in circles");
            self.report.error(to.place, message);
        }
        let to = self.target(origin, path, to.place, pattern, who);
        Some(Action::Redirect { to, status })
    }

    fn respond(&mut self, raw: &At<RawRespond>, who: &str, cors: bool) -> Respond {
        let RawRespond {
            status,
            content_type,
            body,
            headers,
        } = &raw.value;
        let number = self.in_range(status.as_ref(), "status", 200, 599, 200);
        let status = u16::try_from(number)
            .ok()
            .and_then(|number| StatusCode::from_u16(number).ok())
            .unwrap_or(StatusCode::OK);
        let content = body.as_ref().map_or("", |body| body.as_str());
        let empty = [
            StatusCode::NO_CONTENT,
            StatusCode::RESET_CONTENT,
            StatusCode::NOT_MODIFIED,
        ]
        .contains(&status);
        if let Some(body) = body {
            if empty && !content.is_empty() {
                let message = format!("an answer {} has no body; remove \"body\"", status.as_u16());
                self.report.error(body.place, message);
            }
            if content.len() > LONGEST_BODY {
                let message = format!(
                    "a body of {} bytes is longer than the 64 KiB that a revision holds; serve it from an upstream",
                    content.len()
                );
                self.report.error(body.place, message);
            }
        }
        let whose = format!("an answer of {who}");
        for (name, value) in &headers.0 {
            if name.0 == CONTENT_TYPE {
                let message = format!("{whose} has its content type among its headers; write \"content_type\"");
                self.report.error(value.place, message);
            }
            if name.0 == LOCATION && status.is_redirection() {
                let message = format!("{whose} sends clients elsewhere; write \"redirect\", which keeps the query");
                self.report.error(value.place, message);
            }
        }
        Respond {
            status,
            content_type: (!empty).then(|| content_type.as_ref().map_or(TEXT, |value| value.get().0.clone())),
            body: content.to_owned(),
            headers: self.fields(headers, &whose, Way::Response, cors),
        }
    }

    /// A target whose parameters the pattern has.
    fn target(&mut self, origin: Option<&str>, path: &str, place: Place, pattern: &str, who: &str) -> Target {
        let parameters = |path: &'_ str| -> Vec<String> {
            let segments = path
                .split('/')
                .filter(|segment| *segment == "*" || segment.starts_with('{'));
            segments.map(str::to_owned).collect()
        };
        let known = parameters(pattern);
        for parameter in parameters(path) {
            if known.contains(&parameter) {
                continue;
            }
            let meant = did_you_mean(&parameter, known.iter().map(String::as_str));
            let message = format!(
                "{who}: {} takes over {parameter}, which the path {} of its route does not have{meant}",
                quote(path),
                quote(pattern)
            );
            self.report.error(place, message);
        }
        Target {
            origin: origin.map(str::to_owned),
            path: path.to_owned(),
        }
    }
}
