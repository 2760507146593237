//! From raw to resolved: defaults filled in, ports shifted, every mistake reported.

mod cache;
mod control_plane;
mod dns;
mod key_cache;
mod listener;
mod redis;
mod throttle;

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::raw::{
    RawAccessLog, RawAdmin, RawConfig, RawEnvironmentType, RawGateway, RawLimits, RawLogFormat, RawServer, RawStatus,
    RawTelemetry, RawThreads, RawTimeouts, RawUpgrade,
};
use super::{
    AccessLog, Admin, Config, Gateway, Limits, LogFormat, LogTarget, Server, Status, Telemetry, Timeouts,
    UPGRADE_SOCKET, Upgrade,
};
use crate::document::{At, Dropped, Environment, Name, NotAvailable, Place, Report, Secret, Size, Text};
use crate::revision::EnvironmentType;

const GATEWAY_PORT: u16 = 8280;
const STATUS_PORT: u16 = 7085;
const ADMIN_PORT: u16 = 7086;
/// 16 characters of hex are 64 bits, which nobody guesses over a network.
const SHORTEST_TOKEN: usize = 16;
/// A header has to have room for it.
const LONGEST_TOKEN: usize = 4096;
const MOST_THREADS: u64 = 1024;
/// A request needs a head; a head beyond this is a mistake or an attack.
const HEADER_BYTES: RangeInclusive<u64> = 1 << 10..=1 << 20;
/// Longer than anybody waits; it also keeps sums of durations far from overflow.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(24 * 3600);
/// The kernel takes no longer address of a Unix socket (unix(7)).
const LONGEST_SOCKET_PATH: usize = 107;

/// Resolves a configuration whose outermost mapping is at `place`. `None` only after an error was reported.
pub(super) fn resolve(
    raw: RawConfig,
    place: Place,
    environment: &Environment,
    port_offset: Option<u16>,
    dropped: &Dropped,
    report: &mut Report,
) -> Option<Config> {
    let RawConfig {
        gateway,
        server,
        listeners,
        status,
        admin,
        revision,
        redis,
        throttle,
        key_cache,
        dns,
        cache,
        telemetry,
    } = raw;
    let mut resolver = Resolver {
        environment,
        port_offset: port_offset.or(server.port_offset.map(|at| at.value)).unwrap_or(0),
        dropped,
        report,
        addresses: HashMap::new(),
    };
    let listeners = resolver.listeners(listeners.as_ref(), place, !server.trusted_proxies.is_empty());
    let status = resolver.status(&status, place);
    let admin = admin.and_then(|raw| resolver.admin(raw));
    let throttle = resolver.throttle(throttle.as_ref(), redis.as_ref().map(|redis| redis.place));
    let key_cache = resolver.key_cache(key_cache.as_ref());
    let dns = resolver.dns(dns.as_ref());
    let redis = redis.and_then(|raw| resolver.redis(raw));
    let cache = resolver.cache(cache, redis.as_ref());
    let server = resolver.server(server);
    let gateway = resolver.gateway(gateway);
    let telemetry = resolver.telemetry(telemetry);
    Some(Config {
        gateway,
        server,
        listeners,
        status,
        admin,
        revision: resolver.revision(revision, place)?,
        redis,
        throttle,
        key_cache,
        dns,
        cache,
        telemetry,
    })
}

struct Resolver<'a> {
    environment: &'a Environment,
    port_offset: u16,
    dropped: &'a Dropped,
    report: &'a mut Report,
    /// The addresses of this process so far, with their lines.
    addresses: HashMap<SocketAddr, u32>,
}

impl Resolver<'_> {
    fn status(&mut self, raw: &RawStatus, place: Place) -> Status {
        let RawStatus { address } = raw;
        let default = SocketAddr::from((Ipv4Addr::LOCALHOST, STATUS_PORT));
        Status {
            address: match address {
                Some(address) => self.address(*address.get(), address.place),
                None => self.address(default, place),
            },
        }
    }

    fn admin(&mut self, raw: At<RawAdmin>) -> Option<Admin> {
        let At {
            value: RawAdmin { address, token },
            place,
        } = raw;
        let Some(token) = token else {
            if !self.dropped.contains(place, "token") {
                let message = "without a \"token\" there is no admin listener; write token: \"${cred:admin-token}\" or \
                               \"${file:/path}\", or remove \"admin\"";
                self.report.warning(place, message);
            }
            return None;
        };
        self.admin_token(&token);
        let default = SocketAddr::from((Ipv4Addr::LOCALHOST, ADMIN_PORT));
        let address = match address {
            Some(address) => {
                if !address.get().ip().to_canonical().is_loopback() {
                    let message = format!(
                        "the admin listener on {} can be reached from elsewhere, and its token is sent there without \
                         TLS; write 127.0.0.1:{ADMIN_PORT}, or keep the network to it private",
                        address.get()
                    );
                    self.report.warning(address.place, message);
                }
                self.address(*address.get(), address.place)
            }
            None => self.address(default, place),
        };
        Some(Admin {
            address,
            token: token.value,
        })
    }

    /// The token itself is in none of the messages.
    fn admin_token(&mut self, token: &At<Secret>) {
        let text = token.value.expose();
        let message = if text.is_empty() {
            "an empty text is no token, because everybody knows it; write token: \"${cred:admin-token}\" or \
             \"${file:/path}\", or remove it: then nothing listens"
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
            return;
        };
        self.report.discreet_error(token.place, &message);
    }

    /// An address of this process: with the port offset, and used once.
    fn address(&mut self, written: SocketAddr, place: Place) -> SocketAddr {
        // Port 0 is any free port, and stays that.
        if written.port() == 0 {
            return written;
        }
        let Some(port) = written.port().checked_add(self.port_offset) else {
            let message = format!(
                "port {} and the port offset {} add up to more than 65535",
                written.port(),
                self.port_offset
            );
            self.report.error(place, message);
            return written;
        };
        let address = SocketAddr::new(written.ip(), port);
        if let Some(line) = self.addresses.insert(address, place.line) {
            let message = if line == place.line {
                format!("the address {written} is used twice in this process")
            } else {
                format!("the address {written} is used by this process already, in line {line}")
            };
            self.report.error(place, message);
        }
        address
    }

    fn server(&mut self, raw: RawServer) -> Server {
        let RawServer {
            threads,
            port_offset: _,
            trusted_proxies,
            limits,
            timeouts,
            upgrade,
        } = raw;
        Server {
            threads: self.threads(threads.as_ref()),
            port_offset: self.port_offset,
            trusted_proxies: trusted_proxies.iter().map(|range| *range.get()).collect(),
            limits: self.limits(&limits),
            timeouts: self.timeouts(&timeouts),
            upgrade: self.upgrade(&upgrade),
        }
    }

    fn upgrade(&mut self, raw: &RawUpgrade) -> Upgrade {
        let RawUpgrade { socket, timeout } = raw;
        if let Some(socket) = socket
            && !(1..=LONGEST_SOCKET_PATH).contains(&socket.value.len())
        {
            let message = format!("the path of a socket has 1 to {LONGEST_SOCKET_PATH} bytes");
            self.report.error(socket.place, message);
        }
        Upgrade {
            socket: match socket {
                Some(socket) => Some(PathBuf::from(&socket.value)),
                None => self
                    .environment
                    .runtime_directory()
                    .map(|directory| directory.join(UPGRADE_SOCKET)),
            },
            timeout: self.timeout(timeout.as_ref(), "timeout", 60),
        }
    }

    fn threads(&mut self, raw: Option<&At<RawThreads>>) -> usize {
        let auto = self.environment.cores.max(1);
        let Some(At {
            value: RawThreads::Number(number),
            place,
        }) = raw
        else {
            return auto;
        };
        if (1..=MOST_THREADS).contains(number) {
            return usize::try_from(*number).unwrap_or(auto);
        }
        let message = format!("\"threads\" has to be auto or from 1 to {MOST_THREADS}, not {number}");
        self.report.error(*place, message);
        auto
    }

    fn limits(&mut self, raw: &RawLimits) -> Limits {
        let RawLimits {
            connections,
            connections_per_address,
            header_bytes,
            body_bytes,
            requests_in_flight,
            streams,
        } = raw;
        let written = connections;
        let connections = self.at_least_one(connections.as_ref(), "connections", 10_000);
        let three_quarters = (connections - connections / 4).max(1);
        let per_address = self.at_least_one(
            connections_per_address.as_ref(),
            "connections_per_address",
            three_quarters,
        );
        if let Some(at) = connections_per_address
            && per_address > connections
        {
            let message = match written {
                Some(_) => format!("one address cannot have more connections than all together ({connections})"),
                None => {
                    format!("one address cannot have more connections than all together ({connections} by default)")
                }
            };
            self.report.error(at.place, message);
        }
        Limits {
            connections,
            connections_per_address: per_address,
            header_bytes: self.header_bytes(header_bytes.as_ref()),
            body_bytes: body_bytes.as_ref().map_or(10 << 20, |size| size.get().0),
            requests_in_flight: self.at_least_one(requests_in_flight.as_ref(), "requests_in_flight", 10_000),
            streams: self.at_least_one(streams.as_ref(), "streams", 100),
        }
    }

    fn at_least_one(&mut self, raw: Option<&At<u32>>, key: &str, default: usize) -> usize {
        let Some(raw) = raw else {
            return default;
        };
        if raw.value == 0 {
            let message = format!("\"{key}\" has to be at least 1; with 0 nothing would be let in");
            self.report.error(raw.place, message);
        }
        usize::try_from(raw.value).unwrap_or(usize::MAX).max(1)
    }

    fn header_bytes(&mut self, raw: Option<&At<Text<Size>>>) -> usize {
        let bytes = raw.map_or(32 << 10, |size| size.get().0);
        if let Some(raw) = raw
            && !HEADER_BYTES.contains(&bytes)
        {
            self.report
                .error(raw.place, "\"header_bytes\" has to be from 1KiB to 1MiB");
        }
        usize::try_from(bytes).unwrap_or(usize::MAX)
    }

    fn timeouts(&mut self, raw: &RawTimeouts) -> Timeouts {
        let RawTimeouts {
            header,
            idle,
            request,
            drain,
            drain_streams,
            announce,
        } = raw;
        // Leaving may be over at once; everything else would be over before it began.
        for (name, written) in [
            ("drain", drain),
            ("drain_streams", drain_streams),
            ("announce", announce),
        ] {
            if let Some(written) = written
                && *written.get() > LONGEST_TIMEOUT
            {
                self.report.error(written.place, format!("\"{name}\" is at most 1d"));
            }
        }
        Timeouts {
            header: self.timeout(header.as_ref(), "header", 10),
            idle: self.timeout(idle.as_ref(), "idle", 60),
            request: self.timeout(request.as_ref(), "request", 60),
            drain: drain.as_ref().map_or(Duration::from_secs(60), |drain| *drain.get()),
            drain_streams: drain_streams.as_ref().map(|written| *written.get()),
            announce: announce.as_ref().map_or(Duration::ZERO, |written| *written.get()),
        }
    }

    fn timeout(&mut self, raw: Option<&At<Text<Duration>>>, key: &str, default_seconds: u64) -> Duration {
        let Some(raw) = raw else {
            return Duration::from_secs(default_seconds);
        };
        if raw.get().is_zero() || *raw.get() > LONGEST_TIMEOUT {
            let message = format!("the timeout \"{key}\" has to be longer than nothing and at most 1d");
            self.report.error(raw.place, message);
        }
        *raw.get()
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

    fn gateway(&self, raw: RawGateway) -> Gateway {
        let RawGateway {
            id,
            environment,
            environment_type,
            labels,
            pool,
            zone,
        } = raw;
        Gateway {
            id: id.as_ref().map_or_else(|| self.derived_id(), text),
            environment: environment.as_ref().map_or_else(|| "Default".to_owned(), text),
            environment_type: environment_type.map(|environment_type| match environment_type {
                RawEnvironmentType::Hybrid => EnvironmentType::Hybrid,
                RawEnvironmentType::Production => EnvironmentType::Production,
                RawEnvironmentType::Sandbox => EnvironmentType::Sandbox,
            }),
            labels: match labels {
                Some(labels) => labels.iter().map(text).collect(),
                None => vec!["Default".to_owned()],
            },
            pool: pool.as_ref().map_or_else(|| "default".to_owned(), text),
            zone: zone.as_ref().map(text),
        }
    }

    /// The same after every start, different on every machine, and different for processes that share a
    /// machine. Hashed, because a machine id is not for others to see (`man machine-id`).
    fn derived_id(&self) -> String {
        let machine = self.environment.machine.as_deref().unwrap_or_default();
        let mut hash = Sha256::new();
        hash.update(b"tollgate gateway id\0");
        hash.update(machine.as_bytes());
        if self.port_offset > 0 {
            hash.update(self.port_offset.to_be_bytes());
        }
        let [a, b, c, d, ..]: [u8; 32] = hash.finalize().into();
        format!("gw-{a:02x}{b:02x}{c:02x}{d:02x}")
    }

    fn telemetry(&mut self, raw: RawTelemetry) -> Telemetry {
        let RawTelemetry {
            access_log,
            traces: NotAvailable,
        } = raw;
        let RawAccessLog { path, format, sample } = access_log;
        let target = match path.as_ref().map(|path| path.as_str()) {
            None | Some("-") => LogTarget::Stdout,
            Some("off") => LogTarget::Off,
            Some(path) => LogTarget::File(PathBuf::from(path)),
        };
        if let Some(path) = &path
            && path.trim().is_empty()
        {
            self.report.error(
                path.place,
                "an empty text is not a file; write -, off or the path of a file",
            );
        }
        if let Some(sample) = &sample
            && !(0.0..=1.0).contains(&sample.value)
        {
            let message = format!("\"sample\" has to be from 0.0 to 1.0, not {}", sample.value);
            self.report.error(sample.place, message);
        }
        Telemetry {
            access_log: AccessLog {
                target,
                format: match format.unwrap_or(RawLogFormat::Json) {
                    RawLogFormat::Json => LogFormat::Json,
                },
                sample: sample.map_or(1.0, |sample| sample.value),
            },
        }
    }
}

fn text(name: &At<Text<Name>>) -> String {
    name.get().as_str().to_owned()
}
