//! From raw to resolved: defaults filled in, the port shifted, every mistake reported.

use std::net::{Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use reqwest::Url;

use super::raw::{RawConfig, RawDistribution, RawKeys, RawListener, RawOAuth2, RawPools, RawServer, RawStore, RawTls};
use super::{Config, Distribution, Keys, Listener, OAuth2, Pools, Tls};
use crate::control_plane::store::Location;
use crate::distribution::SigningKey;
use crate::document::{At, Dropped, Place, Report, Secret, Size, Text, quote};

const PORT: u16 = 9443;
const DATABASE: &str = "/var/lib/tollgate/control-plane.db";
/// 16 characters of hex are 64 bits, which nobody guesses over a network.
const SHORTEST_TOKEN: usize = 16;
/// A header has to have room for it.
const LONGEST_TOKEN: usize = 4096;
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 3600);
/// With less, a single snapshot would keep everybody waiting for minutes.
const LEAST_BANDWIDTH: u64 = 64 << 10;

/// Resolves a configuration. What is wrong is in the report.
pub(super) fn resolve(raw: RawConfig, port_offset: Option<u16>, dropped: &Dropped, report: &mut Report) -> Config {
    let RawConfig {
        listener,
        server: RawServer { port_offset: written },
        store,
        bootstrap_token,
        signing_key,
        distribution,
        pools,
        oauth2,
        keys,
    } = raw;
    let port_offset = port_offset.or(written.map(|at| at.value)).unwrap_or(0);
    let mut resolver = Resolver {
        port_offset,
        dropped,
        report,
    };
    Config {
        listener: resolver.listener(listener),
        port_offset,
        store: resolver.store(store),
        bootstrap_token: bootstrap_token.map(|token| resolver.token(token)),
        signing_key: signing_key.map(|key| resolver.signing_key(key)),
        distribution: resolver.distribution(&distribution),
        pools: resolver.pools(&pools),
        oauth2: resolver.oauth2(oauth2),
        keys: resolver.keys(&keys),
    }
}

struct Resolver<'a> {
    port_offset: u16,
    dropped: &'a Dropped,
    report: &'a mut Report,
}

impl Resolver<'_> {
    fn listener(&mut self, raw: RawListener) -> Listener {
        let RawListener { address: written, tls } = raw;
        let has_tls = tls.is_some();
        let tls = tls.and_then(|raw| self.tls(raw));
        let place = written.as_ref().map_or_else(Place::default, |at| at.place);
        let default = SocketAddr::from((Ipv4Addr::LOCALHOST, PORT));
        let address = written.map_or(default, |at| *at.get());
        if !has_tls && !address.ip().to_canonical().is_loopback() {
            let message = format!(
                "{address} can be reached from elsewhere, and tokens are sent there without TLS; write tls: {{ \
                 certificate: PATH, key: PATH }}, or 127.0.0.1:{PORT}"
            );
            self.report.warning(place, message);
        }
        Listener {
            address: self.shifted(address, place),
            tls,
        }
    }

    /// With the port offset; port 0 is any free port, and stays that.
    fn shifted(&mut self, written: SocketAddr, place: Place) -> SocketAddr {
        if written.port() == 0 {
            return written;
        }
        match written.port().checked_add(self.port_offset) {
            Some(port) => SocketAddr::new(written.ip(), port),
            None => {
                let message = format!(
                    "port {} and the port offset {} add up to more than 65535",
                    written.port(),
                    self.port_offset
                );
                self.report.error(place, message);
                written
            }
        }
    }

    fn tls(&mut self, raw: At<RawTls>) -> Option<Tls> {
        let At {
            value: RawTls { certificate, key },
            place,
        } = raw;
        let certificate = self.file(certificate, place, "certificate");
        let key = self.file(key, place, "key");
        Some(Tls {
            certificate: certificate?,
            key: key?,
        })
    }

    fn file(&mut self, written: Option<At<String>>, mapping: Place, key: &str) -> Option<PathBuf> {
        match written {
            Some(path) if path.trim().is_empty() => {
                self.report.error(path.place, "an empty text is not a file");
                None
            }
            Some(path) => Some(PathBuf::from(path.value)),
            None => {
                if !self.dropped.contains(mapping, key) {
                    let message = format!("\"tls\" has no \"{key}\"; write tls: {{ certificate: PATH, key: PATH }}");
                    self.report.error(mapping, message);
                }
                None
            }
        }
    }

    fn store(&mut self, raw: Option<At<RawStore>>) -> Location {
        let default = || Location::Sqlite(PathBuf::from(DATABASE));
        let Some(At {
            value: RawStore { sqlite, postgres },
            place,
        }) = raw
        else {
            return default();
        };
        match (sqlite, postgres) {
            (Some(_), Some(postgres)) => {
                let message = "\"store\" has \"sqlite\" and \"postgres\"; keep one of them";
                self.report.discreet_error(postgres.place, message);
                default()
            }
            (Some(sqlite), None) => {
                if sqlite.trim().is_empty() {
                    self.report.error(sqlite.place, "an empty text is not a file");
                }
                Location::Sqlite(PathBuf::from(sqlite.value))
            }
            (None, Some(postgres)) => {
                if !is_postgres(postgres.value.expose()) {
                    let message = "this is not a URL of PostgreSQL; write \
                                   postgres://user:password@host:5432/database, or \"${cred:postgres}\" for one";
                    self.report.discreet_error(postgres.place, message);
                }
                Location::Postgres(postgres.value)
            }
            (None, None) => {
                if !self.dropped.contains(place, "sqlite") && !self.dropped.contains(place, "postgres") {
                    let message = format!("\"store\" says nothing; write sqlite: {DATABASE}, or postgres: URL");
                    self.report.error(place, message);
                }
                default()
            }
        }
    }

    /// The token itself is in none of the messages.
    fn token(&mut self, token: At<Secret>) -> Secret {
        let text = token.value.expose();
        let message = if text.is_empty() {
            "an empty text is no token, because everybody knows it; write bootstrap_token: \"${cred:admin-token}\" or \
             \"${file:/path}\", or remove it: then the first start makes one"
                .to_owned()
        } else if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            "a token is sent in a header, so it consists of printable ASCII characters without spaces and line ends"
                .to_owned()
        } else if text.len() < SHORTEST_TOKEN {
            format!(
                "a token of {} characters can be guessed; take at least {SHORTEST_TOKEN}, such as those of \
                 `openssl rand -hex 32`",
                text.len()
            )
        } else if text.len() > LONGEST_TOKEN {
            format!(
                "a token has at most {LONGEST_TOKEN} characters, and this one has {}",
                text.len()
            )
        } else {
            return token.value;
        };
        self.report.discreet_error(token.place, &message);
        token.value
    }

    fn signing_key(&mut self, key: At<Secret>) -> Secret {
        if SigningKey::from_secret(&key.value).is_err() {
            let message = "this is not a signing key; it is 32 random bytes in base64, such as those of \
                           `openssl rand -base64 32`";
            self.report.discreet_error(key.place, message);
        }
        key.value
    }

    fn distribution(&mut self, raw: &RawDistribution) -> Distribution {
        let RawDistribution {
            snapshot_slots,
            bandwidth,
            polls,
            wait,
            spread,
        } = raw;
        Distribution {
            snapshot_slots: self.number(snapshot_slots.as_ref(), "snapshot_slots", 1..=100_000, 256),
            bandwidth: self.bandwidth(bandwidth.as_ref()),
            polls: self.number(polls.as_ref(), "polls", 1..=1_000_000, 20_000),
            wait: self.duration(wait.as_ref(), "wait", SECOND..=MINUTE, 50 * SECOND),
            spread: self.duration(spread.as_ref(), "spread", Duration::ZERO..=MINUTE, SECOND),
        }
    }

    fn bandwidth(&mut self, raw: Option<&At<Text<Size>>>) -> u64 {
        let Some(raw) = raw else {
            return 125 << 20;
        };
        if raw.get().0 < LEAST_BANDWIDTH {
            let message = "\"bandwidth\" is what leaves this host in a second, and at least 64KiB";
            self.report.error(raw.place, message);
        }
        raw.get().0.max(1)
    }

    fn pools(&mut self, raw: &RawPools) -> Pools {
        let RawPools { seat_ttl, reclaim } = raw;
        Pools {
            seat_ttl: self.duration(seat_ttl.as_ref(), "seat_ttl", 5 * SECOND..=10 * MINUTE, 30 * SECOND),
            reclaim: self.duration(reclaim.as_ref(), "reclaim", Duration::ZERO..=7 * DAY, 5 * MINUTE),
        }
    }

    fn oauth2(&mut self, raw: RawOAuth2) -> OAuth2 {
        let RawOAuth2 { issuer, token_lifetime } = raw;
        if let Some(issuer) = &issuer
            && !is_issuer(issuer)
        {
            let message = format!(
                "{} is not an issuer; write a URL without a query, such as https://cp.example.com:9443",
                quote(issuer)
            );
            self.report.error(issuer.place, message);
        }
        OAuth2 {
            issuer: issuer.map(|issuer| issuer.value),
            token_lifetime: self.duration(token_lifetime.as_ref(), "token_lifetime", SECOND..=DAY, 60 * MINUTE),
        }
    }

    fn keys(&mut self, raw: &RawKeys) -> Keys {
        let RawKeys { base_every } = raw;
        Keys {
            base_every: self.number(base_every.as_ref(), "base_every", 1..=u32::MAX, 100_000),
        }
    }

    /// A number from a range, or its default.
    fn number(&mut self, raw: Option<&At<u32>>, key: &str, range: RangeInclusive<u32>, default: u32) -> u32 {
        let Some(raw) = raw else {
            return default;
        };
        if !range.contains(&raw.value) {
            let message = format!(
                "\"{key}\" has to be from {} to {}, not {}",
                range.start(),
                range.end(),
                raw.value
            );
            self.report.error(raw.place, message);
        }
        raw.value
    }

    /// A duration from a range, or its default.
    fn duration(
        &mut self,
        raw: Option<&At<Text<Duration>>>,
        key: &str,
        range: RangeInclusive<Duration>,
        default: Duration,
    ) -> Duration {
        let Some(raw) = raw else {
            return default;
        };
        if !range.contains(raw.get()) {
            let message = format!(
                "\"{key}\" has to be from {} to {}",
                written(*range.start()),
                written(*range.end())
            );
            self.report.error(raw.place, message);
        }
        *raw.get()
    }
}

/// A bound as one would write it.
fn written(duration: Duration) -> String {
    match duration.as_secs() {
        seconds if seconds > 0 && seconds % 86_400 == 0 => format!("{}d", seconds / 86_400),
        seconds if seconds > 60 && seconds % 60 == 0 => format!("{}m", seconds / 60),
        seconds => format!("{seconds}s"),
    }
}

fn is_postgres(text: &str) -> bool {
    Url::parse(text).is_ok_and(|url| matches!(url.scheme(), "postgres" | "postgresql"))
}

fn is_issuer(text: &str) -> bool {
    Url::parse(text).is_ok_and(|url| {
        matches!(url.scheme(), "http" | "https")
            && url.has_host()
            && url.query().is_none()
            && url.fragment().is_none()
            && url.username().is_empty()
            && url.password().is_none()
    })
}
