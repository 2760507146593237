//! How host names and services of upstreams are looked up.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::super::raw::{RawAddresses, RawDns};
use super::super::{Addresses, Dns};
use super::Resolver;
use crate::document::{At, Place, Text};

/// The resolvers of a host are three at most; more than these are a mistake.
const SERVERS_MAX: usize = 8;
const MIN_TTL: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(3600);
const MAX_TTL: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(24 * 3600);
/// The first answers are waited for while a revision is applied.
const TIMEOUT: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(30);

impl Resolver<'_> {
    pub(super) fn dns(&mut self, raw: Option<&At<RawDns>>) -> Dns {
        let nothing = RawDns::default();
        let RawDns {
            servers,
            min_ttl,
            max_ttl,
            timeout,
            addresses,
        } = raw.map_or(&nothing, |raw| &raw.value);
        let default = Dns::default();
        let dns = Dns {
            servers: self.dns_servers(servers.as_ref(), raw.map(|raw| raw.place)),
            min_ttl: self.dns_time(min_ttl.as_ref(), ("min_ttl", "100ms to 1h"), &MIN_TTL, default.min_ttl),
            max_ttl: self.dns_time(max_ttl.as_ref(), ("max_ttl", "1s to 1d"), &MAX_TTL, default.max_ttl),
            timeout: self.dns_time(timeout.as_ref(), ("timeout", "10ms to 30s"), &TIMEOUT, default.timeout),
            addresses: match addresses {
                None | Some(RawAddresses::PreferIpv4) => Addresses::PreferIpv4,
                Some(RawAddresses::Ipv4) => Addresses::Ipv4,
                Some(RawAddresses::Ipv6) => Addresses::Ipv6,
                Some(RawAddresses::Both) => Addresses::Both,
            },
        };
        if dns.min_ttl > dns.max_ttl
            && let Some(place) = (min_ttl.as_ref().map(|at| at.place)).or(max_ttl.as_ref().map(|at| at.place))
        {
            let message = format!(
                "\"min_ttl\" ({:?}) is longer than \"max_ttl\" ({:?})",
                dns.min_ttl, dns.max_ttl
            );
            self.report.error(place, message);
        }
        dns
    }

    fn dns_servers(&mut self, raw: Option<&At<Vec<At<Text<SocketAddr>>>>>, dns: Option<Place>) -> Vec<SocketAddr> {
        let Some(raw) = raw else {
            return Vec::new();
        };
        let reported = dns.is_some_and(|dns| self.dropped.contains(dns, "servers"));
        if raw.is_empty() && !reported {
            let message = "nobody is asked; write servers: [\"10.0.0.53:53\"], or remove \"servers\" for those of \
                           /etc/resolv.conf";
            self.report.error(raw.place, message);
        }
        if raw.len() > SERVERS_MAX {
            let message = format!("at most {SERVERS_MAX} servers are asked, and these are {}", raw.len());
            self.report.error(raw.place, message);
        }
        for server in &raw.value {
            if server.get().port() == 0 || server.get().ip().is_unspecified() {
                let message = format!(
                    "{} is not where a server can be asked; write its address and port, such as 10.0.0.53:53",
                    server.get()
                );
                self.report.error(server.place, message);
            }
        }
        raw.iter().map(|server| *server.get()).collect()
    }

    fn dns_time(
        &mut self,
        raw: Option<&At<Text<Duration>>>,
        (key, bounds): (&str, &str),
        range: &RangeInclusive<Duration>,
        default: Duration,
    ) -> Duration {
        let Some(raw) = raw else {
            return default;
        };
        if !range.contains(raw.get()) {
            let message = format!("\"{key}\" has to be from {bounds}");
            self.report.error(raw.place, message);
        }
        *raw.get()
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::super::super::{Loaded, parse};
    use super::*;
    use crate::document::{Environment, Mistakes};

    fn read(lines: &str) -> Result<Loaded, Mistakes> {
        let environment = Environment::fixed([], Timestamp::UNIX_EPOCH);
        parse(
            &format!("revision: {{ file: r }}\n{lines}\n"),
            "t.yaml",
            &environment,
            None,
        )
    }

    #[test]
    fn every_key_is_read_and_has_the_default_that_is_promised() {
        let dns = |lines: &str| read(lines).unwrap_or_else(|mistakes| panic!("{mistakes}")).config.dns;
        assert_eq!(
            dns(
                "dns: { servers: [\"10.0.0.53:53\", \"[2001:db8::1]:5353\"], min_ttl: 5s, max_ttl: 1m, timeout: 500ms, \
                 addresses: both }"
            ),
            Dns {
                servers: vec!["10.0.0.53:53".parse().unwrap(), "[2001:db8::1]:5353".parse().unwrap()],
                min_ttl: Duration::from_secs(5),
                max_ttl: Duration::from_secs(60),
                timeout: Duration::from_millis(500),
                addresses: Addresses::Both,
            }
        );
        let default = Dns {
            servers: Vec::new(),
            min_ttl: Duration::from_secs(1),
            max_ttl: Duration::from_secs(300),
            timeout: Duration::from_secs(2),
            addresses: Addresses::PreferIpv4,
        };
        assert_eq!(dns(""), default);
        assert_eq!(dns("dns: {}"), default);
    }

    #[test]
    fn what_can_not_be_meant_is_told_with_the_way_out() {
        for (key, expected) in [
            ("servers: []", "remove \"servers\" for those of /etc/resolv.conf"),
            ("servers: [10.0.0.53]", "\"10.0.0.53\" is not an IP address and a port"),
            (
                "servers: [\"10.0.0.53:0\"]",
                "10.0.0.53:0 is not where a server can be asked",
            ),
            (
                "servers: [\"0.0.0.0:53\"]",
                "0.0.0.0:53 is not where a server can be asked",
            ),
            ("min_ttl: 0s", "\"min_ttl\" has to be from 100ms to 1h"),
            ("max_ttl: 2d", "\"max_ttl\" has to be from 1s to 1d"),
            ("timeout: 1m", "\"timeout\" has to be from 10ms to 30s"),
            (
                "min_ttl: 10s, max_ttl: 5s",
                "\"min_ttl\" (10s) is longer than \"max_ttl\" (5s)",
            ),
            (
                "addresses: ipv5",
                "expected one of prefer_ipv4, ipv4, ipv6, both, found \"ipv5\"",
            ),
            ("server: []", "unknown key \"server\" in dns; did you mean \"servers\"?"),
        ] {
            let found = read(&format!("dns: {{ {key} }}")).unwrap_err();
            let text = found.to_string();
            assert!(
                found.len() == 1 && text.starts_with("t.yaml:2:") && text.contains(expected),
                "{key} gave {text}"
            );
        }
        let nine = (1..=9).map(|last| format!("\"10.0.0.{last}:53\"")).collect::<Vec<_>>();
        let text = read(&format!("dns: {{ servers: [{}] }}", nine.join(", ")))
            .unwrap_err()
            .to_string();
        assert!(text.contains("at most 8 servers are asked, and these are 9"), "{text}");
    }
}
