//! Upstreams and their endpoints.

use std::collections::HashSet;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::sign::CertifiedKey;

use super::super::raw::{
    RawBalance, RawBreaker, RawEndpoint, RawHashKey, RawHealthCheck, RawPool, RawProtocol, RawRetries, RawUpstream,
    RawUpstreamTimeouts, RawUpstreamTls, RawZones,
};
use super::super::{
    Balance, Breaker, Endpoint, HashKey, HealthCheck, Locator, Pool, Probe, Protocol, Retries, Upstream,
    UpstreamTimeouts, UpstreamTls, Zones,
};
use super::{Checker, LONGEST_TIMEOUT, who};
use crate::document::{At, Place, Secret, Text, quote};
use crate::units::Ratio;

/// Endpoints that a revision may write out for one upstream. Positions of turns are 16 bits wide.
const ENDPOINTS_MAX: usize = 10_000;

impl Checker<'_> {
    pub(super) fn upstream(&mut self, raw: &At<RawUpstream>) -> Option<Upstream> {
        let RawUpstream {
            name,
            balance,
            hash,
            endpoints,
            zones,
            slow_start,
            panic_threshold,
            health_check,
            breaker,
            timeouts,
            retries,
            pool,
            protocol,
            tls,
        } = &raw.value;
        let who = who("upstream", name.as_ref());
        let name = self.need(raw.place, &who, "name", name.as_ref());
        self.not_empty(raw.place, &who, "endpoints", endpoints);
        if endpoints.len() > ENDPOINTS_MAX {
            let message = format!(
                "{who} has {} endpoints; at most {ENDPOINTS_MAX} can be written out",
                endpoints.len()
            );
            self.report.error(raw.place, message);
        }
        let endpoints = self.endpoints(endpoints, &who);
        let tls = tls.as_ref().map(|tls| self.upstream_tls(tls, &who));
        if let Some(protocol) = protocol
            && protocol.value == RawProtocol::Auto
            && tls.is_none()
        {
            let message = format!(
                "{who}: protocol auto asks the endpoint during the TLS handshake; add tls, or write http1 or http2"
            );
            self.report.error(protocol.place, message);
        }
        Some(Upstream {
            name: name?.as_str().into(),
            endpoints,
            balance: self.balance(balance.as_ref(), hash.as_ref(), &who),
            zones: self.zones(zones.as_ref()),
            slow_start: self.duration(
                slow_start.as_ref(),
                "slow_start",
                Duration::ZERO,
                Duration::from_secs(10),
            ),
            panic_threshold: panic_threshold
                .as_ref()
                .map_or(Ratio::percent(25), |share| *share.get()),
            health_check: health_check.as_ref().map(|check| self.health_check(check, &who)),
            breaker: self.breaker(breaker.as_ref().unwrap_or(&RawBreaker::default())),
            timeouts: self.upstream_timeouts(timeouts.as_ref().unwrap_or(&RawUpstreamTimeouts::default())),
            retries: self.retries(retries.as_ref()),
            pool: self.pool(pool.as_ref().unwrap_or(&RawPool::default())),
            protocol: match protocol.as_ref().map(|protocol| protocol.value) {
                None | Some(RawProtocol::Http1) => Protocol::Http1,
                Some(RawProtocol::Http2) => Protocol::Http2,
                Some(RawProtocol::Auto) => Protocol::Auto,
            },
            tls,
        })
    }

    fn endpoints(&mut self, raws: &[At<RawEndpoint>], who: &str) -> Vec<Endpoint> {
        let mut resolved: Vec<Endpoint> = Vec::with_capacity(raws.len());
        let mut seen = HashSet::with_capacity(raws.len());
        for raw in raws {
            let Some(endpoint) = self.endpoint(raw, who) else {
                continue;
            };
            if !seen.insert(endpoint.locator.clone()) {
                let message = format!("{who} has this endpoint twice; for a larger share, give it a weight");
                self.report.error(raw.place, message);
            }
            resolved.push(endpoint);
        }
        resolved
    }

    fn endpoint(&mut self, raw: &At<RawEndpoint>, who: &str) -> Option<Endpoint> {
        let RawEndpoint {
            address,
            srv,
            weight,
            zone,
            priority,
        } = &raw.value;
        let weight = self.in_range(weight.as_ref(), "weight", 1, 1000, 1);
        let priority = self.in_range(priority.as_ref(), "priority", 0, 15, 0);
        let who = format!("an endpoint of {who}");
        let locator = match (address, srv) {
            (Some(address), None) => Locator::Host {
                host: address.host.clone(),
                port: address.port,
            },
            (None, Some(service)) => Locator::Service(service.get().0.clone()),
            (Some(_), Some(service)) => {
                let message = format!("{who} has an address and srv; it can have only one of them");
                self.report.error(service.place, message);
                return None;
            }
            (None, None) => {
                if !self.dropped.contains(raw.place, "srv") {
                    self.need::<()>(raw.place, &who, "address", None);
                }
                return None;
            }
        };
        Some(Endpoint {
            locator,
            weight,
            zone: zone.as_ref().map(|zone| zone.as_str().to_owned()),
            priority: u8::try_from(priority).unwrap_or_default(),
        })
    }

    fn balance(&mut self, balance: Option<&At<RawBalance>>, hash: Option<&At<RawHashKey>>, who: &str) -> Balance {
        let balance = match balance.map(|balance| balance.value) {
            None | Some(RawBalance::RoundRobin) => Balance::RoundRobin,
            Some(RawBalance::LeastConnections) => Balance::LeastConnections,
            Some(RawBalance::LeastResponseTime) => Balance::LeastResponseTime,
            Some(RawBalance::Random) => Balance::Random,
            Some(RawBalance::ConsistentHash) => {
                return Balance::ConsistentHash(hash.map_or(HashKey::ClientIp, |hash| self.hash_key(hash)));
            }
        };
        if let Some(hash) = hash {
            let message = format!(
                "{who} hashes nothing, because its balance is {}; write balance: consistent_hash",
                balance.as_str()
            );
            self.report.error(hash.place, message);
        }
        balance
    }

    fn hash_key(&mut self, raw: &At<RawHashKey>) -> HashKey {
        match &raw.value {
            RawHashKey::ClientIp => HashKey::ClientIp,
            RawHashKey::Caller => HashKey::Caller,
            RawHashKey::Header(name) => HashKey::Header(name.get().0.clone()),
            RawHashKey::Cookie(name) => {
                let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
                if name.value.is_empty() || !name.value.bytes().all(is_token) {
                    let message = format!("{} is not the name of a cookie", quote(&name.value));
                    self.report.error(name.place, message);
                }
                HashKey::Cookie(name.value.clone())
            }
        }
    }

    fn zones(&mut self, raw: Option<&RawZones>) -> Zones {
        let penalty = raw.and_then(|raw| raw.penalty.as_ref());
        Zones {
            penalty: self.duration(penalty, "penalty", Duration::ZERO, Duration::from_millis(5)),
            spill: raw
                .and_then(|raw| raw.spill.as_ref())
                .map_or(Ratio::percent(70), |share| *share.get()),
        }
    }

    fn health_check(&mut self, raw: &At<RawHealthCheck>, who: &str) -> HealthCheck {
        let RawHealthCheck {
            path,
            host,
            statuses,
            interval,
            timeout,
            healthy,
            unhealthy,
            failback,
        } = &raw.value;
        let second = Duration::from_secs(1);
        let every = self.duration(interval.as_ref(), "interval", second, Duration::from_secs(30));
        let shorter = Duration::from_secs(5).min(every * 9 / 10);
        let patience = self.duration(timeout.as_ref(), "timeout", Duration::from_millis(1), shorter);
        if let Some(timeout) = timeout
            && patience >= every
        {
            let message = format!("{who}: a check may not take as long as the time to the next one");
            self.report.error(timeout.place, message);
        }
        let is_plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
        if let Some(path) = path
            && !(path.value.starts_with('/') && is_plain(&path.value) && !path.value.contains('#'))
        {
            let message = format!("{} is not a path such as /health", quote(&path.value));
            self.report.error(path.place, message);
        }
        if let Some(host) = host
            && (host.value.is_empty() || !is_plain(&host.value) || host.value.contains('/'))
        {
            let message = format!("{} is not a host", quote(&host.value));
            self.report.error(host.place, message);
        }
        if path.is_none()
            && let Some(place) = (host.as_ref().map(|host| host.place)).or(statuses.as_ref().map(|list| list.place))
        {
            let message = format!("{who}: this is for checks by HTTP; add a path, or remove it");
            self.report.error(place, message);
        }
        let statuses = statuses.as_ref().map_or(&[][..], |statuses| &statuses.value);
        for status in statuses {
            if !(100..=599).contains(&status.value) {
                self.report
                    .error(status.place, format!("{} is not a status of HTTP", status.value));
            }
        }
        HealthCheck {
            probe: match path {
                None => Probe::Tcp,
                Some(path) => Probe::Http {
                    path: path.value.clone(),
                    host: host.as_ref().map(|host| host.value.clone()),
                    statuses: statuses.iter().map(|status| status.value).collect(),
                },
            },
            interval: every,
            timeout: patience,
            healthy: self.in_range(healthy.as_ref(), "healthy", 1, 100, 2),
            unhealthy: self.in_range(unhealthy.as_ref(), "unhealthy", 1, 100, 3),
            failback: self.in_range(failback.as_ref(), "failback", 1, 100, 5),
        }
    }

    fn breaker(&mut self, raw: &RawBreaker) -> Breaker {
        let RawBreaker {
            consecutive,
            error_rate,
            minimum,
            window,
            open,
            probes,
            max_ejected,
        } = raw;
        let share = |share: &Option<At<Text<Ratio>>>| share.as_ref().map_or(Ratio::percent(50), |share| *share.get());
        let breaker = Breaker {
            consecutive: self.in_range(consecutive.as_ref(), "consecutive", 0, 1000, 5),
            error_rate: share(error_rate),
            minimum: self.in_range(minimum.as_ref(), "minimum", 1, 1_000_000, 20),
            window: self.duration(
                window.as_ref(),
                "window",
                Duration::from_secs(1),
                Duration::from_secs(10),
            ),
            open: self.duration(
                open.as_ref(),
                "open",
                Duration::from_millis(100),
                Duration::from_secs(10),
            ),
            probes: self.in_range(probes.as_ref(), "probes", 1, 100, 3),
            max_ejected: share(max_ejected),
        };
        if let Some(window) = window
            && breaker.window > Duration::from_secs(600)
        {
            self.report
                .error(window.place, "the window of a breaker is at most 10m");
        }
        breaker
    }

    fn upstream_timeouts(&mut self, raw: &RawUpstreamTimeouts) -> UpstreamTimeouts {
        let RawUpstreamTimeouts {
            connect,
            read,
            write,
            idle,
            per_try,
            total,
            tunnel,
        } = raw;
        UpstreamTimeouts {
            connect: self.timeout(connect.as_ref(), "connect", 5),
            read: self.timeout(read.as_ref(), "read", 30),
            write: self.timeout(write.as_ref(), "write", 30),
            idle: self.timeout(idle.as_ref(), "idle", 50),
            per_try: per_try.as_ref().map(|raw| self.timeout(Some(raw), "per_try", 0)),
            total: total.as_ref().map(|raw| self.timeout(Some(raw), "total", 0)),
            tunnel: self.timeout(tunnel.as_ref(), "tunnel", 3600),
        }
    }

    fn retries(&mut self, raw: Option<&RawRetries>) -> Retries {
        let attempts = raw.and_then(|raw| raw.attempts.as_ref());
        Retries {
            attempts: self.in_range(attempts, "attempts", 1, 10, 2),
            budget: raw
                .and_then(|raw| raw.budget.as_ref())
                .map_or(Ratio::percent(20), |share| *share.get()),
        }
    }

    fn pool(&mut self, raw: &RawPool) -> Pool {
        let RawPool {
            max_connections,
            max_idle,
            max_age,
            queue,
            queue_timeout,
        } = raw;
        let bound = |checker: &mut Self, raw: &Option<At<u32>>, key: &str, least: u32| {
            (raw.as_ref()).map(|raw| checker.in_range(Some(raw), key, least, 100_000, least))
        };
        Pool {
            max_connections: bound(self, max_connections, "max_connections", 1),
            max_idle: bound(self, max_idle, "max_idle", 0),
            max_age: (max_age.as_ref())
                .map(|raw| self.duration(Some(raw), "max_age", Duration::from_secs(1), Duration::ZERO)),
            queue: self.in_range(queue.as_ref(), "queue", 0, 100_000, 1000),
            queue_timeout: self.timeout(queue_timeout.as_ref(), "queue_timeout", 1),
        }
    }

    fn upstream_tls(&mut self, raw: &At<RawUpstreamTls>, who: &str) -> UpstreamTls {
        let RawUpstreamTls {
            server_name,
            ca,
            certificate,
            key,
        } = &raw.value;
        if let Some(name) = server_name
            && ServerName::try_from(name.value.as_str()).is_err()
        {
            let message = format!("{} is not a name that a certificate can have", quote(&name.value));
            self.report.error(name.place, message);
        }
        // Told at the place of the whole: what is said of a value that came from a reference is hidden, because it may quote
        // it, and this does not.
        let place = raw.place;
        for (key, pem) in [("ca", ca), ("certificate", certificate)] {
            if let Some(pem) = pem {
                self.certificates(place, key, pem, who);
            }
        }
        let client = match (certificate, key) {
            (Some(certificate), Some(key)) => {
                self.pair(place, certificate, key, who);
                Some((certificate.value.clone(), key.value.clone()))
            }
            (None, None) => None,
            (Some(_), None) => {
                let message = format!("{who} has a certificate without its key; add \"key\"");
                self.report.error(place, message);
                None
            }
            (None, Some(_)) => {
                let message = format!("{who} has a key without its certificate; add \"certificate\"");
                self.report.error(place, message);
                None
            }
        };
        UpstreamTls {
            server_name: server_name.as_ref().map(|name| name.value.clone()),
            ca: ca.as_ref().map(|ca| ca.value.clone()),
            client,
        }
    }

    /// A certificate and its key, which have to belong together.
    fn pair(&mut self, place: Place, certificate: &At<String>, key: &At<Secret>, who: &str) {
        let Ok(der) = PrivateKeyDer::from_pem_slice(key.value.expose().as_bytes()) else {
            let message = format!("{who}: \"key\" is not a private key in PEM");
            self.report.error(place, message);
            return;
        };
        let chain: Vec<_> = CertificateDer::pem_slice_iter(certificate.value.as_bytes())
            .filter_map(Result::ok)
            .collect();
        if chain.is_empty() {
            // Reported as what it is.
            return;
        }
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        if let Err(error) = CertifiedKey::from_der(chain, der, &provider) {
            let message = format!("{who}: the certificate can not be used with this key: {error}");
            self.report.error(place, message);
        }
    }

    fn certificates(&mut self, place: Place, key: &str, pem: &At<String>, who: &str) {
        let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.value.as_bytes()).collect();
        let message = match read {
            Ok(list) if list.is_empty() => {
                format!(
                    "{who}: there is no certificate in PEM in {}; for a file, write ${{file:/path}}",
                    quote(key)
                )
            }
            Ok(list) => match list
                .iter()
                .find_map(|der| x509_parser::parse_x509_certificate(der).err())
            {
                None => return,
                Some(error) => format!(
                    "{who}: one of the certificates in {} can not be read: {error}",
                    quote(key)
                ),
            },
            Err(error) => format!("{who}: {} has no certificates in PEM: {error}", quote(key)),
        };
        self.report.error(place, message);
    }

    /// A duration that may be short, or nothing.
    fn duration(
        &mut self,
        raw: Option<&At<Text<Duration>>>,
        key: &str,
        least: Duration,
        default: Duration,
    ) -> Duration {
        let Some(raw) = raw else {
            return default;
        };
        let value = *raw.get();
        if value < least || value > LONGEST_TIMEOUT {
            self.out_of_bounds(raw.place, key, least);
        }
        value
    }

    fn out_of_bounds(&mut self, place: Place, key: &str, least: Duration) {
        let message = format!("{} has to be at least {least:?} and at most 1d", quote(key));
        self.report.error(place, message);
    }
}
