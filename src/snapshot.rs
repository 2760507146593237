//! Everything a request reads, compiled from a revision, immutable.
//!
//! Compiled off the request threads, swapped as one, pinned by each request. What has to survive a revision (counters,
//! key sets, verified tokens, rotations, metrics) belongs to the process and is referred to by identity.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::header::HeaderName;
use http::{HeaderValue, Method};
use prometheus::Histogram;
use smallvec::SmallVec;

use crate::auth::{Authenticator, Caller, Introspectors, KeySets, KeyStore, TokenCache, credential, jwt};
use crate::cache::Policy;
use crate::document::{self, Mistakes, Severity};
use crate::edit::{ApiEdits, RouteEdits};
use crate::names::{ApiName, ApplicationName, IssuerName, PlanName, UpstreamName};
use crate::revision::{self, AuthMethod, EnvironmentType, HostPattern, Limit, Loaded, Revision, Scope};
use crate::route::{Conflict, ConflictKind, Entry, Miss, RouteTable, Step};
use crate::telemetry::Metrics;
use crate::telemetry::metrics::{RouteMetrics, seconds};
use crate::throttle::{Decisions, Defaults, Demand, Place, Rule, Subject, headers};
use crate::upstream::resolve::{Found, Names};
use crate::upstream::split::Split;
use crate::upstream::{Registry, Upstream};

/// The limits that count for one request; the common case needs no allocation.
pub type Demands<'a> = SmallVec<[Demand<'a>; 8]>;

/// A revision, running.
pub struct Snapshot {
    digest: String,
    short_digest: Arc<str>,
    routes: Vec<Route>,
    table: RouteTable,
    apis: Vec<Api>,
    plans: Vec<Vec<Rule>>,
    plan_names: Vec<PlanName>,
    issuer_names: Vec<IssuerName>,
    applications: Vec<Application>,
    upstreams: Vec<Arc<Upstream>>,
    upstream_seconds: Vec<Histogram>,
    caches: bool,
    authenticator: Authenticator,
}

/// A route, running.
pub struct Route {
    /// Index of its API.
    pub api: usize,
    /// Its pattern, as in the revision.
    pub pattern: Arc<str>,
    /// Scopes that a token needs.
    pub scopes: Vec<String>,
    /// What it says about requests and answers itself.
    pub edits: Option<Box<RouteEdits>>,
    /// What may be kept of its answers; `None`: nothing.
    pub cache: Option<Arc<Policy>>,
    subject: Subject,
    metrics: RouteMetrics,
}

/// An API, running.
pub struct Api {
    /// Its name.
    pub name: ApiName,
    /// Its base path.
    pub base_path: String,
    /// Whether the base path is cut off for the upstream.
    pub strip_base_path: bool,
    /// Which upstream answers; none when all of its routes answer by themselves.
    pub split: Option<Split>,
    /// Whether answers of one of its routes are kept.
    pub caches: bool,
    /// What it says about requests and answers.
    pub edits: ApiEdits,
    /// Fields that carry its credentials, or the choice of an upstream, and are not passed on.
    pub stripped_headers: Vec<HeaderName>,
    /// Query parameter that carries its key and is not passed on.
    pub stripped_parameter: Option<String>,
    /// Query parameter that carries its key, passed on or not.
    pub credential_parameter: Option<String>,
    /// What a client that is not let in is told.
    pub challenges: Challenges,
    rules: Vec<Rule>,
    /// `RateLimit-Policy` without a plan, then with each plan.
    policies: Vec<Option<HeaderValue>>,
    subject: Subject,
    seconds: Histogram,
}

/// `WWW-Authenticate` of an API (RFC 6750 section 3 for tokens).
pub struct Challenges {
    /// No credential.
    pub missing: HeaderValue,
    /// One that is not valid.
    pub invalid: HeaderValue,
    /// More than one.
    pub ambiguous: HeaderValue,
}

/// An application, running.
pub struct Application {
    name: ApplicationName,
    header: HeaderValue,
    subject: Subject,
    /// One per API.
    subscriptions: Vec<Option<Subject>>,
}

impl Application {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &ApplicationName {
        &self.name
    }

    /// What it is for limits per application.
    #[must_use]
    pub fn subject(&self) -> Subject {
        self.subject
    }

    /// What it is for limits per subscription, if it is subscribed to the API with this index.
    #[must_use]
    pub fn subscription(&self, api: usize) -> Option<Subject> {
        self.subscriptions.get(api).copied().flatten()
    }
}

impl Route {
    /// What it is for limits per route.
    #[must_use]
    pub fn subject(&self) -> Subject {
        self.subject
    }
}

impl Api {
    /// What it is for limits per API.
    #[must_use]
    pub fn subject(&self) -> Subject {
        self.subject
    }

    /// Its own limits.
    #[must_use]
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }
}

/// What comes of a revision with an endpoint whose name does not exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nowhere {
    /// It is refused: somebody has just written it.
    Refused,
    /// It runs with a warning: it did before, and all the rest of it must not stay out because of one name. The endpoint
    /// has no addresses until its name is found in the background.
    Told,
}

/// What snapshots are compiled with: everything of the process that outlives them.
pub struct Compiler {
    /// Which key types are let in, where nothing else says it.
    pub environment_type: EnvironmentType,
    /// The labels of the APIs that are taken, beside those without any.
    pub labels: Vec<String>,
    /// Issuers' keys.
    pub key_sets: KeySets,
    /// Verified tokens.
    pub tokens: Arc<TokenCache>,
    /// Who is asked about opaque tokens.
    pub introspectors: Introspectors,
    /// Keys that come by the key log; none without a control plane.
    pub key_store: Option<Arc<KeyStore>>,
    /// Whether host names of endpoints are looked up.
    pub names: Names,
    /// What is known of upstreams' endpoints.
    pub registry: Arc<Registry>,
    /// How limits are shared that do not say it themselves.
    pub sharing: Defaults,
    /// Metrics.
    pub metrics: Arc<Metrics>,
}

impl Compiler {
    /// Compiles a revision. Resolves the host names of endpoints, so it blocks. With the snapshot come the warnings.
    ///
    /// # Errors
    /// What is wrong beyond the document itself: routes that collide, endpoints that do not resolve.
    pub fn compile(&self, loaded: Loaded) -> Result<(Snapshot, Mistakes), Mistakes> {
        self.compile_as(loaded, self.environment_type, Nowhere::Refused)
    }

    /// The same for an environment of this type.
    ///
    /// # Errors
    /// As for [`Self::compile`].
    pub fn compile_as(
        &self,
        loaded: Loaded,
        environment_type: EnvironmentType,
        nowhere: Nowhere,
    ) -> Result<(Snapshot, Mistakes), Mistakes> {
        let loaded = loaded.for_labels(&self.labels);
        let (table, conflicts) = route_table(&loaded);
        let (found, unresolved) = self.find(&loaded.revision, nowhere);
        let loaded = loaded.with(conflicts.into_iter().chain(unresolved))?;

        let revision = &loaded.revision;
        let plans = (revision.plans.iter())
            .map(|plan| self.rules(&plan.limits, Place::Plan(&plan.name)))
            .collect::<Vec<_>>();
        let names: Vec<UpstreamName> = (revision.upstreams.iter())
            .map(|upstream| upstream.name.clone())
            .collect();
        let routes = self.routes(revision);
        let snapshot = Snapshot {
            caches: routes.iter().any(|route| route.cache.is_some()),
            short_digest: Arc::from(revision.digest.get(..12).unwrap_or(&revision.digest)),
            digest: revision.digest.clone(),
            routes,
            table,
            apis: revision.apis.iter().map(|api| self.api(api, &plans, &names)).collect(),
            plans,
            plan_names: revision.plans.iter().map(|plan| plan.name.clone()).collect(),
            issuer_names: revision.issuers.iter().map(|issuer| issuer.name.clone()).collect(),
            applications: revision
                .applications
                .iter()
                .map(|application| running(application, revision))
                .collect(),
            upstream_seconds: (revision.upstreams.iter())
                .map(|upstream| self.metrics.upstream_seconds(upstream.name.as_str()))
                .collect(),
            // After everything that can be wrong: what is known of endpoints is not touched by a revision that is refused.
            upstreams: (revision.upstreams.iter().zip(found))
                .map(|(upstream, found)| self.registry.compile(upstream, found))
                .collect(),
            authenticator: Authenticator::compile(revision, environment_type, &self.key_sets, Arc::clone(&self.tokens))
                .with_introspectors(revision, &self.introspectors)
                .with_store(self.key_store.clone()),
        };
        Ok((snapshot, loaded.warnings))
    }
}

/// Something that is wrong with a document, found after it was read.
pub type Finding = (document::Place, Severity, String);

/// The route table of a revision, whose targets are the routes in document order, and what collides in it.
#[must_use]
pub fn route_table(loaded: &Loaded) -> (RouteTable, Vec<Finding>) {
    let rules = || {
        loaded
            .revision
            .apis
            .iter()
            .flat_map(|api| api.routes.iter().map(move |rule| (api, rule)))
    };
    let entries = (0_u32..).zip(rules()).flat_map(|(target, (api, rule))| {
        let hosts = api.hosts.iter().map(Some).chain(api.hosts.is_empty().then_some(None));
        hosts.map(move |host| Entry {
            host,
            pattern: &rule.path,
            methods: &rule.methods,
            slash_too: rule.slash_too,
            target,
        })
    });
    let (table, conflicts) = RouteTable::compile(entries);
    if conflicts.is_empty() {
        return (table, Vec::new());
    }
    let places: Vec<document::Place> = loaded
        .places
        .iter()
        .flat_map(|api| api.routes.iter().copied())
        .collect();
    let owners: Vec<&ApiName> = rules().map(|(api, _)| &api.name).collect();
    let findings = conflicts
        .iter()
        .filter_map(|conflict| {
            let (winner, loser) = (conflict.winner as usize, conflict.loser as usize);
            let place = *places.get(loser)?;
            let (owner, other) = (owners.get(loser)?, owners.get(winner)?);
            let line = places.get(winner).map_or(0, |place| place.line);
            Some((place, severity(&conflict.kind), told(conflict, owner, other, line)))
        })
        .collect();
    (table, findings)
}

fn severity(kind: &ConflictKind) -> Severity {
    match kind {
        ConflictKind::SameMethods(_) => Severity::Error,
        ConflictKind::Shadowed => Severity::Warning,
    }
}

fn told(conflict: &Conflict, owner: &ApiName, other: &ApiName, line: u32) -> String {
    let host = match &conflict.host {
        None => "any host".to_owned(),
        Some(HostPattern::Exact(host)) => host.clone(),
        Some(HostPattern::Wildcard(suffix)) => format!("*.{suffix}"),
    };
    let pattern = &conflict.pattern;
    match &conflict.kind {
        ConflictKind::SameMethods(methods) if methods.is_empty() => format!(
            "api \"{owner}\": route \"{pattern}\" on {host} is published by api \"{other}\" already (line {line}); remove one, or give them different methods"
        ),
        ConflictKind::SameMethods(methods) => format!(
            "api \"{owner}\": route \"{pattern}\" on {host} is published for {} by api \"{other}\" already (line {line}); remove one, or give them different methods",
            methods.join(", ")
        ),
        ConflictKind::Shadowed => format!(
            "api \"{owner}\": route \"{pattern}\" on {host} is never reached: more specific routes of api \"{other}\" (line {line}) take everything"
        ),
    }
}

impl Compiler {
    /// What stands behind each target of the route table.
    fn routes(&self, revision: &Revision) -> Vec<Route> {
        let routes = revision.apis.iter().enumerate().flat_map(|(index, api)| {
            api.routes.iter().map(move |rule| Route {
                api: index,
                pattern: Arc::from(rule.path.as_str()),
                scopes: rule.scopes.clone(),
                edits: RouteEdits::compile(rule),
                cache: Policy::compile(api, rule).map(Arc::new),
                subject: Subject::of_pair(api.name.as_str(), &rule.path),
                metrics: self.metrics.route(api.name.as_str(), &rule.path),
            })
        });
        routes.collect()
    }

    /// Where the endpoints of each upstream are; and those that are nowhere.
    fn find(&self, revision: &Revision, nowhere: Nowhere) -> (Vec<Vec<Vec<Found>>>, Vec<Finding>) {
        let mut findings = Vec::new();
        let mut all = Vec::with_capacity(revision.upstreams.len());
        let locators: Vec<_> = (revision.upstreams.iter())
            .flat_map(|upstream| upstream.endpoints.iter().map(|endpoint| &endpoint.locator))
            .collect();
        let mut found = self.names.find_all(&locators).into_iter();
        for upstream in &revision.upstreams {
            let mut places = Vec::with_capacity(upstream.endpoints.len());
            for endpoint in &upstream.endpoints {
                let found = found.next().unwrap_or_else(|| Ok(Vec::new())).unwrap_or_else(|error| {
                    let mut message = format!(
                        "upstream \"{}\": endpoint \"{}\" does not resolve: {error}",
                        upstream.name, endpoint.locator
                    );
                    let severity = match nowhere {
                        Nowhere::Refused => Severity::Error,
                        Nowhere::Told => {
                            message.push_str("; it is looked up again until it does");
                            Severity::Warning
                        }
                    };
                    findings.push((document::Place::default(), severity, message));
                    Vec::new()
                });
                places.push(found);
            }
            all.push(places);
        }
        (all, findings)
    }

    fn api(&self, api: &revision::Api, plans: &[Vec<Rule>], upstreams: &[UpstreamName]) -> Api {
        let rules = self.rules(&api.limits, Place::Api(&api.name));
        let policies = std::iter::once(None)
            .chain(plans.iter().map(Some))
            .map(|plan| headers::policy_field(rules.iter().chain(plan.into_iter().flatten())))
            .collect();
        let places = &api.credentials;
        Api {
            name: api.name.clone(),
            base_path: api.base_path.clone(),
            strip_base_path: api.strip_base_path,
            split: (api.destinations.as_ref()).map(|destinations| Split::compile(destinations, upstreams)),
            caches: api.routes.iter().any(|rule| Policy::compile(api, rule).is_some()),
            edits: ApiEdits::compile(api),
            stripped_headers: credential::headers_to_strip(places)
                // Where nobody is asked for a token, what is there is for the upstream. A key is only ever for us.
                .filter(|name| !api.auth.is_empty() || **name != places.token_header)
                .cloned()
                .chain((api.destinations.iter()).filter_map(|destinations| destinations.override_header.clone()))
                .collect(),
            stripped_parameter: credential::parameter_to_strip(places).map(str::to_owned),
            credential_parameter: places.key_query.clone(),
            challenges: Challenges::compile(api),
            rules,
            policies,
            subject: Subject::of_bytes(api.name.as_str().as_bytes()),
            seconds: self.metrics.request_seconds(api.name.as_str()),
        }
    }

    fn rules(&self, limits: &[Limit], place: Place<'_>) -> Vec<Rule> {
        // A plan and an API may have the same name.
        let (kind, owner) = match place {
            Place::Plan(plan) => ("plan/", plan.as_str()),
            Place::Api(api) => ("api/", api.as_str()),
        };
        limits
            .iter()
            .map(|limit| {
                let label = [kind, owner, "/", limit.name.as_str()].concat();
                let [allow, deny, would_deny] =
                    self.metrics.throttle_decisions(&label, ["allow", "deny", "would_deny"]);
                Rule::compile(
                    limit,
                    place,
                    Decisions {
                        allow,
                        deny,
                        would_deny,
                    },
                    &self.sharing,
                )
            })
            .collect()
    }
}

impl Snapshot {
    /// SHA-256 of the revision, in hex.
    #[must_use]
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// Its first twelve digits.
    #[must_use]
    pub fn short_digest(&self) -> &Arc<str> {
        &self.short_digest
    }

    /// How many routes there are.
    #[must_use]
    pub fn route_count(&self) -> usize {
        self.routes.len()
    }

    /// How many keys there are.
    #[must_use]
    pub fn key_count(&self) -> usize {
        self.authenticator.key_count()
    }

    /// Stage 1: the route for a request, as a position for [`Self::route`].
    ///
    /// # Errors
    /// When nothing is published there, or not with this method.
    pub fn find(&self, host: &str, path: &str, method: &Method) -> Result<u32, Miss<'_>> {
        self.table.find(host, path, method)
    }

    /// What [`Self::find`] does, step by step.
    #[must_use]
    pub fn trace(&self, host: &str, path: &str, method: &Method) -> Vec<Step> {
        self.table.trace(host, path, method)
    }

    /// The route at a position.
    #[must_use]
    pub fn route(&self, position: u32) -> Option<&Route> {
        self.routes.get(position as usize)
    }

    /// The route at a position, and its API.
    #[must_use]
    pub fn route_and_api(&self, position: u32) -> Option<(&Route, &Api)> {
        let route = self.route(position)?;
        Some((route, self.apis.get(route.api)?))
    }

    /// Every route, in the order of the revision.
    #[must_use]
    pub fn routes(&self) -> &[Route] {
        &self.routes
    }

    /// Whether the answers of any route are kept.
    #[must_use]
    pub fn caches(&self) -> bool {
        self.caches
    }

    /// Every API, in the order of the revision.
    #[must_use]
    pub fn apis(&self) -> &[Api] {
        &self.apis
    }

    /// Every plan with its limits, in the order of the revision.
    pub fn plans(&self) -> impl Iterator<Item = (&PlanName, &[Rule])> {
        self.plan_names.iter().zip(self.plans.iter().map(Vec::as_slice))
    }

    /// Every application, in the order of the revision.
    #[must_use]
    pub fn applications(&self) -> &[Application] {
        &self.applications
    }

    /// Every issuer with what its tokens name as theirs (`iss`), in the order of the revision.
    pub fn issuers(&self) -> impl Iterator<Item = (&IssuerName, &str)> {
        self.issuer_names.iter().zip(self.authenticator.token_issuers())
    }

    /// What a key or client certificate is for limits, by its public name. None if there is none of this name. Walks all
    /// of them.
    #[must_use]
    pub fn key_subject(&self, id: &str) -> Option<Subject> {
        let keys = self.authenticator.keys().iter();
        let keys = keys.map(|record| (&record.id, record.stable_hash));
        let certificates = self.authenticator.certificates();
        let certificates = certificates.map(|record| (&record.id, record.stable_hash));
        let (_, hash) = keys.chain(certificates).find(|(known, _)| known.as_str() == id)?;
        Some(key_subject(hash))
    }

    /// The upstream at this position, which is that in the revision.
    #[must_use]
    pub fn upstream(&self, position: usize) -> Option<&Arc<Upstream>> {
        self.upstreams.get(position)
    }

    /// The histogram of that upstream.
    #[must_use]
    pub fn upstream_seconds(&self, position: usize) -> Option<&Histogram> {
        self.upstream_seconds.get(position)
    }

    /// Stage 2.
    #[must_use]
    pub fn authenticator(&self) -> &Authenticator {
        &self.authenticator
    }

    /// The limits that count for a request, in the order in which they are spent: the API's own, then the plan's.
    #[must_use]
    pub fn demands<'a>(&'a self, route: &Route, api: &'a Api, caller: &Caller, client: Option<IpAddr>) -> Demands<'a> {
        let plan = caller
            .plan()
            .and_then(|plan| self.plans.get(plan))
            .map_or(&[][..], Vec::as_slice);
        api.rules
            .iter()
            .chain(plan)
            .map(|rule| Demand {
                rule,
                subject: self.subject(rule.scope(), route, api, caller, client),
            })
            .collect()
    }

    /// The limits of an API and a plan, as in [`Self::demands`].
    #[must_use]
    pub fn policy<'a>(&self, api: &'a Api, caller: &Caller) -> Option<&'a HeaderValue> {
        let position = caller.plan().map_or(0, |plan| plan + 1);
        api.policies.get(position).and_then(Option::as_ref)
    }

    /// The plan of a caller's subscription.
    #[must_use]
    pub fn plan_name(&self, caller: &Caller) -> Option<&PlanName> {
        self.plan_names.get(caller.plan()?)
    }

    /// The application of a caller: its name, and the name as a header.
    #[must_use]
    pub fn application_of(&self, caller: &Caller) -> Option<(&ApplicationName, &HeaderValue)> {
        let application = self.applications.get(caller.application()?)?;
        Some((&application.name, &application.header))
    }

    /// Counts an answered request.
    pub fn count(&self, route: u32, status: u16, code: &'static str, elapsed: Duration) {
        if let Some(route) = self.route(route) {
            route.metrics.count(status, code);
            if let Some(api) = self.apis.get(route.api) {
                api.seconds.observe(seconds(elapsed));
            }
        }
    }

    /// What shares a counter with this request. A caller who lacks what a scope names is counted by the next thing he
    /// is known by, never not at all.
    fn subject(&self, scope: Scope, route: &Route, api: &Api, caller: &Caller, client: Option<IpAddr>) -> Subject {
        let key = || caller.key_hash().map(key_subject);
        let token = || caller.subject_hash().map(token_subject);
        let address = || client.map_or_else(Subject::none, Subject::of_ip);
        let application = || caller.application().and_then(|index| self.applications.get(index));
        let anyhow = || key().or_else(token).unwrap_or_else(address);
        match scope {
            Scope::Global => Subject::none(),
            Scope::Api => api.subject,
            Scope::Route => route.subject,
            Scope::Application => application().map_or_else(anyhow, |application| application.subject),
            Scope::Subscription => application()
                .and_then(|application| application.subscriptions.get(route.api).copied().flatten())
                .unwrap_or_else(anyhow),
            Scope::Key => anyhow(),
            Scope::Subject => token().or_else(key).unwrap_or_else(address),
            Scope::Ip => address(),
        }
    }
}

/// What a key is for limits.
fn key_subject(hash: u64) -> Subject {
    Subject::of_number(b'k', hash)
}

/// What the subject of a token is for limits.
fn token_subject(hash: u64) -> Subject {
    Subject::of_number(b's', hash)
}

/// What a subject of tokens with this `iss` is for limits.
#[must_use]
pub fn subject_of_token(issuer: &str, subject: &str) -> Subject {
    token_subject(jwt::subject_hash(issuer, subject))
}

impl Challenges {
    fn compile(api: &revision::Api) -> Self {
        let key = api.auth.contains(&AuthMethod::ApiKey);
        let token = api.auth.iter().any(AuthMethod::is_token);
        let certificate = api.auth.contains(&AuthMethod::ClientCertificate);
        let field = |error: &str| {
            let mut parts = Vec::new();
            if token {
                parts.push(format!("Bearer realm=\"{}\"{error}", api.name));
            }
            if key {
                parts.push(format!(
                    "ApiKey realm=\"{}\", header=\"{}\"",
                    api.name, api.credentials.key_header
                ));
            }
            if certificate {
                // There is no scheme for what happens in the handshake, and 401 needs one (RFC 9110 section 11.6.1).
                parts.push(format!("ClientCertificate realm=\"{}\"", api.name));
            }
            HeaderValue::from_str(&parts.join(", ")).unwrap_or_else(|_| HeaderValue::from_static("Bearer"))
        };
        Self {
            missing: field(""),
            invalid: field(", error=\"invalid_token\""),
            ambiguous: field(", error=\"invalid_request\""),
        }
    }
}

fn running(application: &revision::Application, revision: &Revision) -> Application {
    let name = application.name.as_str();
    let mut subscriptions = vec![None; revision.apis.len()];
    for subscription in &application.subscriptions {
        if let (Some(slot), Some(api)) = (
            subscriptions.get_mut(subscription.api),
            revision.apis.get(subscription.api),
        ) {
            *slot = Some(Subject::of_pair(api.name.as_str(), name));
        }
    }
    Application {
        header: HeaderValue::from_str(name).unwrap_or_else(|_| HeaderValue::from_static("")),
        subject: Subject::of_pair("application", name),
        name: application.name.clone(),
        subscriptions,
    }
}
