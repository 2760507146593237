//! APIs, their hosts, credentials and routes.

use std::collections::{BTreeSet, HashSet};

use http::HeaderName;

use super::super::grammar::{HostText, Method};
use super::super::load::ApiPlaces;
use super::super::raw::{RawApi, RawAuth, RawAuthMethod, RawCredentials, RawLimit, RawRoute, RawScope};
use super::super::{Action, Api, AuthMethod, CredentialPlaces, HostPattern, RouteCaching, RouteRule, Scope};
use super::caching::Callers;
use super::{Checker, Issuers, Names, who};
use crate::document::{At, Name, NotAvailable, Place, Text, quote};

/// Where keys are read from unless an API says otherwise.
const KEY_HEADER: HeaderName = HeaderName::from_static("x-api-key");

impl Checker<'_> {
    pub(super) fn api(
        &mut self,
        raw: &At<RawApi>,
        upstreams: &Names<'_>,
        issuers: &Issuers<'_>,
        subscribed: bool,
    ) -> Option<(Api, ApiPlaces)> {
        let RawApi {
            name,
            hosts,
            base_path,
            labels,
            auth,
            credentials,
            upstream: _,
            upstreams: _,
            split: _,
            sandbox_upstream,
            strip_base_path,
            addresses,
            cors,
            headers,
            body_bytes,
            limits,
            routes,
            cache,
            tls: NotAvailable,
        } = &raw.value;
        let who = who("API", name.as_ref());
        let name = self.need(raw.place, &who, "name", name.as_ref());
        let hosts = self.hosts(raw.place, hosts.as_ref(), &who);
        let base_path = self.need(raw.place, &who, "base_path", base_path.as_ref());
        if let Some(labels) = labels {
            self.not_empty(raw.place, &who, "labels", labels);
        }
        let methods = self.auth(raw.place, auth.as_ref(), &who, issuers);
        let applications_only = methods.as_deref().and_then(|methods| match methods {
            [AuthMethod::ApiKey] => Some("keys"),
            [AuthMethod::ClientCertificate] => Some("client certificates"),
            _ => None,
        });
        if let (Some(what), Some(name), false) = (applications_only, name, subscribed) {
            let message = format!("{who} lets in {what} only, and no application is subscribed to it");
            self.report.warning(name.place, message);
        }
        if let Some(methods) = &methods {
            self.scopes_that_nobody_has(limits, methods, &who);
        }
        let credentials = self.credentials(credentials.as_ref(), &who);
        let addresses = self.addresses(addresses.as_ref(), &who);
        let auth = methods.as_deref().unwrap_or_default();
        let cors = self.cors(cors.as_ref(), &who, (auth, &credentials));
        let headers = self.header_edits(headers.as_ref(), &who, cors.is_some());
        let callers = Callers::new(methods.as_deref(), &credentials);
        let caching = self.caching(cache.as_ref(), &who, &callers);
        let limits = self.limits(limits, &who, Scope::Api);
        let tokens = methods
            .as_ref()
            .is_none_or(|methods| methods.iter().any(AuthMethod::is_token));
        let base = base_path.map_or("/", |base| base.get().0.as_str());
        let (routes, route_places) = match routes {
            Some(routes) => self.routes(raw.place, routes, base, &who, (tokens, cors.is_some(), &callers)),
            None => everything_below(base, base_path.map_or(raw.place, |base| base.place)),
        };
        self.caching_of_no_route(cache.as_ref(), &who, &routes);
        let forwards = routes.iter().any(forwards);
        let destinations = self.destinations(raw, &who, forwards, upstreams);
        if let (Some([]), Some(sandbox)) = (methods.as_deref(), sandbox_upstream) {
            let message = format!("{who} asks nobody for a key, so that \"sandbox_upstream\" never answers");
            self.report.warning(sandbox.place, message);
        }
        if destinations.is_none() && forwards {
            return None;
        }
        let name = name?;
        let places = ApiPlaces {
            api: name.place,
            base_path: base_path?.place,
            routes: route_places,
        };
        let api = Api {
            name: name.as_str().into(),
            hosts,
            base_path: base.to_owned(),
            labels: (labels.iter().flat_map(|labels| &labels.value))
                .map(|label| label.as_str().to_owned())
                .collect(),
            auth: methods?,
            credentials,
            destinations,
            strip_base_path: strip_base_path.unwrap_or(false),
            addresses,
            cors,
            headers,
            body_bytes: body_bytes.as_ref().map(|size| size.get().0),
            cache: caching.map(Box::new),
            limits,
            routes,
        };
        Some((api, places))
    }

    fn hosts(&mut self, item: Place, raw: Option<&At<Vec<At<Text<HostText>>>>>, who: &str) -> Vec<HostPattern> {
        let Some(raw) = raw else {
            return Vec::new();
        };
        if raw.is_empty() && !self.dropped.contains(item, "hosts") {
            let message = format!("{who} has an empty list of hosts; for every host, remove \"hosts\"");
            self.report.error(raw.place, message);
        }
        let mut hosts = Vec::with_capacity(raw.len());
        let mut seen: HashSet<&HostPattern> = HashSet::with_capacity(raw.len());
        for host in &raw.value {
            let pattern = &host.get().0;
            if !seen.insert(pattern) {
                self.report.error(host.place, format!("{who} has this host twice"));
            }
            hosts.push(pattern.clone());
        }
        hosts
    }

    fn auth(
        &mut self,
        item: Place,
        raw: Option<&At<RawAuth>>,
        who: &str,
        issuers: &Issuers<'_>,
    ) -> Option<Vec<AuthMethod>> {
        let Some(raw) = raw else {
            if !self.dropped.contains(item, "auth") {
                let message = format!(
                    "{who} has no \"auth\"; write a list of api_key, {{ jwt: ISSUER }}, {{ introspection: ISSUER }} and \
                     client_certificate, or auth: none if everybody may call it"
                );
                self.report.error(item, message);
            }
            return None;
        };
        let RawAuth::Any(raws) = &raw.value else {
            return Some(Vec::new());
        };
        if raws.is_empty() && !self.dropped.contains(item, "auth") {
            let message = format!("{who} has an empty list of auth; write auth: none if everybody may call it");
            self.report.error(raw.place, message);
        }
        let mut methods = Vec::with_capacity(raws.len());
        let mut complete = true;
        for raw in raws {
            let method = match &raw.value {
                RawAuthMethod::ApiKey => AuthMethod::ApiKey,
                RawAuthMethod::ClientCertificate => AuthMethod::ClientCertificate,
                RawAuthMethod::Jwt(issuer) | RawAuthMethod::Introspection(issuer) => {
                    let asked = matches!(raw.value, RawAuthMethod::Introspection(_));
                    match self.token_method(issuers, who, issuer, asked) {
                        Some(method) => method,
                        None => {
                            complete = false;
                            continue;
                        }
                    }
                }
            };
            if methods.contains(&method) {
                self.report.error(raw.place, format!("{who} has this way in twice"));
            } else {
                methods.push(method);
            }
        }
        (complete && !methods.is_empty()).then_some(methods)
    }

    /// The way in through an issuer's tokens: as the issuer has it, which has to be as the API says.
    fn token_method(
        &mut self,
        issuers: &Issuers<'_>,
        who: &str,
        issuer: &At<Text<Name>>,
        asked: bool,
    ) -> Option<AuthMethod> {
        let position = self.look_up(&issuers.names, who, issuer)?;
        let method = issuers.methods.get(position)?;
        let name = quote(issuer.as_str());
        let message = match method {
            AuthMethod::Introspection(_) if !asked => {
                format!("{who}: the tokens of issuer {name} are asked about; write {{ introspection: {name} }}")
            }
            AuthMethod::Jwt(_) if asked => {
                format!(
                    "{who}: the tokens of issuer {name} say themselves what they are worth; write {{ jwt: {name} }}"
                )
            }
            _ => return Some(method.clone()),
        };
        self.report.error(issuer.place, message);
        None
    }

    /// A limit per something that no caller of this API has would never count.
    fn scopes_that_nobody_has(&mut self, limits: &[At<RawLimit>], methods: &[AuthMethod], who: &str) {
        // A certificate counts as a key does.
        let keys = methods.contains(&AuthMethod::ApiKey) || methods.contains(&AuthMethod::ClientCertificate);
        let tokens = methods.iter().any(AuthMethod::is_token);
        for per in limits.iter().filter_map(|limit| limit.per.as_ref()) {
            let lacking = match per.value {
                RawScope::Key if !keys => "keys",
                RawScope::Subject if !tokens => "tokens",
                RawScope::Application | RawScope::Subscription if !keys && !tokens => "known applications",
                _ => continue,
            };
            let message = format!("this limit never counts, because {who} is called without {lacking}");
            self.report.warning(per.place, message);
        }
    }

    fn credentials(&mut self, raw: Option<&RawCredentials>, who: &str) -> CredentialPlaces {
        let default = RawCredentials::default();
        let RawCredentials {
            key_header,
            key_query,
            token_header,
            forward,
        } = raw.unwrap_or(&default);
        let places = CredentialPlaces {
            key_header: key_header.as_ref().map_or(KEY_HEADER, |header| header.get().0.clone()),
            key_query: key_query.as_ref().map(|parameter| parameter.get().0.clone()),
            token_header: token_header
                .as_ref()
                .map_or(http::header::AUTHORIZATION, |header| header.get().0.clone()),
            forward: forward.unwrap_or(false),
        };
        if places.key_header == places.token_header
            && let Some(header) = key_header.as_ref().or(token_header.as_ref())
        {
            let message = format!(
                "{who} reads keys and tokens from the same header {}",
                quote(places.key_header.as_str())
            );
            self.report.error(header.place, message);
        }
        places
    }

    fn routes(
        &mut self,
        item: Place,
        raw: &At<Vec<At<RawRoute>>>,
        base: &str,
        who: &str,
        (tokens, cors, callers): (bool, bool, &Callers<'_>),
    ) -> (Vec<RouteRule>, Vec<Place>) {
        if raw.is_empty() && !self.dropped.contains(item, "routes") {
            let message = format!("{who} has an empty list of routes; for everything below, remove \"routes\"");
            self.report.error(raw.place, message);
        }
        let mut routes = Vec::with_capacity(raw.len());
        let mut places = Vec::with_capacity(raw.len());
        for route in &raw.value {
            let RawRoute {
                path, methods, scopes, ..
            } = &route.value;
            if let (false, Some(scope)) = (tokens, scopes.first()) {
                let message = format!(
                    "{who} asks for scopes here, which only tokens have, and lets no tokens in; add {{ jwt: ISSUER }} \
                     to its auth"
                );
                self.report.error(scope.place, message);
            }
            let methods = self.methods(route.place, methods.as_ref());
            // The text is only made when it is needed: there may be 100,000 routes.
            let path = match path {
                Some(path) => path,
                None => {
                    self.need::<()>(route.place, &format!("a route of {who}"), "path", None);
                    continue;
                }
            };
            let pattern = joined(base, &path.get().0);
            let edits = self.route_edits(route, &pattern, who, cors);
            routes.push(RouteRule {
                path: pattern,
                methods,
                scopes: scopes.iter().map(|scope| scope.get().0.clone()).collect(),
                slash_too: path.get().0 == "/" && base != "/",
                edits,
                cache: self.route_caching(route, who, callers),
            });
            places.push(path.place);
        }
        (routes, places)
    }

    fn methods(&mut self, item: Place, raw: Option<&At<Vec<At<Text<Method>>>>>) -> BTreeSet<String> {
        let Some(raw) = raw else {
            return BTreeSet::new();
        };
        if raw.is_empty() && !self.dropped.contains(item, "methods") {
            self.report.error(
                raw.place,
                "an empty list of methods; for every method, remove \"methods\"",
            );
        }
        raw.iter().map(|method| method.get().0.clone()).collect()
    }
}

/// The full pattern of a route.
fn joined(base: &str, path: &str) -> String {
    match (base, path) {
        ("/", path) => path.to_owned(),
        (base, "/") => base.to_owned(),
        (base, path) => [base, path].concat(),
    }
}

/// Whether requests for this route go to an upstream.
fn forwards(route: &RouteRule) -> bool {
    let action = route.edits.as_ref().map(|edits| &edits.action);
    action.is_none_or(|action| matches!(action, Action::Forward { .. }))
}

/// The rules of an API that lists none: its base path and everything below, whatever the method.
fn everything_below(base: &str, place: Place) -> (Vec<RouteRule>, Vec<Place>) {
    let rule = |path: String, slash_too| RouteRule {
        path,
        methods: BTreeSet::new(),
        scopes: Vec::new(),
        slash_too,
        edits: None,
        cache: RouteCaching::AsApi,
    };
    let rules = vec![rule(base.to_owned(), base != "/"), rule(joined(base, "/*"), false)];
    (rules, vec![place; 2])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_routes_are_below_the_base_path() {
        assert_eq!(joined("/orders", "/"), "/orders");
        assert_eq!(joined("/orders", "/{id}"), "/orders/{id}");
        assert_eq!(joined("/", "/"), "/");
        assert_eq!(joined("/", "/*"), "/*");
        assert_eq!(joined("/orders", "/list/"), "/orders/list/");
    }
}
