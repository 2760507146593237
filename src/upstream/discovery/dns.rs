//! Asks DNS: one question at a time, with what the answer says of how long it is good for.
//!
//! Nothing is remembered here. Who asks has to know when to ask again, and a second memory below that one would answer with
//! what is old already.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use futures_util::future::join_all;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::{Query, ResponseCode};
use hickory_resolver::proto::rr::rdata::SRV;
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use hickory_resolver::{Hosts, Resolver, TokioResolver, system_conf};

use crate::config::{self, Addresses};
use crate::revision::Locator;
use crate::upstream::resolve::Found;

/// Endpoints of one name. More are a mistake, or a server that wants to fill somebody's memory.
pub(super) const PLACES_MAX: usize = 1000;

/// Targets of one service that are looked up.
const TARGETS_MAX: usize = 100;

/// What is good for nobody knows how long, such as a line in `/etc/hosts`.
const ENDLESS: Duration = Duration::from_secs(24 * 3600);

/// Who is asked, and how.
pub(super) struct Dns {
    resolver: TokioResolver,
    addresses: Addresses,
    /// For messages: `10.0.0.53:53, 10.0.0.54:53`.
    servers: String,
    /// A lookup ends after this, whatever happens.
    patience: Duration,
}

/// What asking has brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    /// These places, sorted, at least one.
    Found {
        /// Where the endpoints are.
        places: Vec<Found>,
        /// For how long that is good, as the records say.
        ttl: Duration,
        /// Why there may be more of them.
        incomplete: Option<String>,
    },
    /// There is no such name, or nothing that could be connected to is behind it.
    Gone(String),
    /// Nobody knows.
    Failed(String),
}

/// The addresses of one name.
enum Addressed {
    At(Vec<IpAddr>, Duration),
    Gone(String),
    Failed(String),
}

impl Dns {
    /// Asks nobody yet.
    pub(super) fn new(settings: &config::Dns) -> Result<Self, String> {
        let (servers, mut options) = if settings.servers.is_empty() {
            of_the_host()
        } else {
            let servers = settings.servers.iter().copied().map(server).collect();
            (
                ResolverConfig::from_parts(None, Vec::new(), servers),
                ResolverOpts::default(),
            )
        };
        options.timeout = settings.timeout;
        options.attempts = 1;
        options.cache_size = 0;
        options.negative_max_ttl = Some(Duration::ZERO);
        options.positive_max_ttl = Some(ENDLESS);
        // Read for each lookup instead, so that a change is seen.
        options.use_hosts_file = ResolveHosts::Never;
        // Far more than are asked at a time: who is told "busy" asks again at once.
        options.max_active_requests = 1024;
        let told = (servers.name_servers().iter())
            .map(|server| {
                let port = server.connections.first().map_or(53, |connection| connection.port);
                SocketAddr::new(server.ip, port).to_string()
            })
            .collect::<Vec<_>>()
            .join(", ");
        let resolver = Resolver::builder_with_config(servers, TokioRuntimeProvider::default())
            .with_options(options)
            .build()
            .map_err(|error| error.to_string())?;
        Ok(Self {
            resolver,
            addresses: settings.addresses,
            servers: told,
            // Every question is asked twice, and a service takes two rounds.
            patience: settings.timeout * 5,
        })
    }

    /// Where the endpoints behind a name are.
    pub(super) async fn look_up(&self, locator: &Locator) -> Answer {
        let asked = async {
            match locator {
                Locator::Host { host, port } => self.host(host, *port).await,
                Locator::Service(service) => self.service(service).await,
            }
        };
        match tokio::time::timeout(self.patience, asked).await {
            Ok(answer) => answer,
            Err(_) => Answer::Failed(format!("no answer from {}", self.servers)),
        }
    }

    async fn host(&self, host: &str, port: u16) -> Answer {
        match self.addresses_of(host).await {
            Addressed::At(addresses, ttl) => {
                let places = (addresses.into_iter())
                    .map(|address| Found::at(SocketAddr::new(address, port)))
                    .collect();
                found(places, ttl, None)
            }
            Addressed::Gone(why) => Answer::Gone(why),
            Addressed::Failed(why) => Answer::Failed(why),
        }
    }

    /// RFC 2782.
    async fn service(&self, service: &str) -> Answer {
        let lookup = match self.ask(service, RecordType::SRV).await {
            Ok(lookup) => lookup,
            Err(error) => {
                return match self.told(&error) {
                    Ok(why) => Answer::Gone(why),
                    Err(why) => Answer::Failed(why),
                };
            }
        };
        let records: Vec<&SRV> = (lookup.answers().iter())
            .filter_map(|record| match &record.data {
                RData::SRV(service) if !service.target.is_root() => Some(service),
                _ => None,
            })
            .take(TARGETS_MAX)
            .collect();
        if records.is_empty() {
            return Answer::Gone("the service is not offered".to_owned());
        }
        let mut targets: Vec<&Name> = records.iter().map(|service| &service.target).collect();
        targets.sort_unstable();
        targets.dedup();
        let addressed = join_all(targets.iter().map(|target| self.target(target, &lookup))).await;

        let mut ttl = time_of(lookup.answers().iter().filter(|record| is_of(record, RecordType::SRV)));
        let ranks = ranks(&records);
        let mut places = Vec::new();
        let (mut gone, mut incomplete) = (None, None);
        for (target, addressed) in targets.iter().zip(addressed) {
            match addressed {
                Addressed::At(addresses, good_for) => {
                    ttl = ttl.min(good_for);
                    let here = records.iter().filter(|service| service.target == **target);
                    for service in here {
                        places.extend(addresses.iter().map(|address| Found {
                            address: SocketAddr::new(*address, service.port),
                            weight: Some(service.weight.max(1)),
                            priority: ranks.get(&service.priority).copied().unwrap_or_default(),
                        }));
                    }
                }
                Addressed::Gone(why) => gone = Some(format!("its target {target}: {why}")),
                Addressed::Failed(why) => incomplete = Some(format!("its target {target}: {why}")),
            }
        }
        match (places.is_empty(), incomplete) {
            (true, Some(why)) => Answer::Failed(why),
            (true, None) => Answer::Gone(gone.unwrap_or_default()),
            (false, incomplete) => found(places, ttl, incomplete),
        }
    }

    /// Where a target of a service is: as said with the answer, else asked for.
    async fn target(&self, target: &Name, lookup: &Lookup) -> Addressed {
        let with_it = || lookup.additionals().iter().filter(|record| record.name == *target);
        let of = |kind: RecordType| -> Vec<IpAddr> { addresses(with_it().filter(|record| is_of(record, kind))) };
        let (v4, v6) = (of(RecordType::A), of(RecordType::AAAA));
        let taken = match self.addresses {
            Addresses::PreferIpv4 | Addresses::Ipv4 => v4,
            Addresses::Ipv6 => v6,
            // Whoever adds one kind may have left out the other.
            Addresses::Both if v4.is_empty() || v6.is_empty() => Vec::new(),
            Addresses::Both => [v4, v6].concat(),
        };
        if taken.is_empty() {
            return self.addresses_of(&target.to_string()).await;
        }
        Addressed::At(
            taken,
            time_of(with_it().filter(|record| is_of(record, RecordType::A) || is_of(record, RecordType::AAAA))),
        )
    }

    async fn addresses_of(&self, host: &str) -> Addressed {
        let (v4, v6) = (RecordType::A, RecordType::AAAA);
        match self.addresses {
            Addresses::Ipv4 => self.addresses_of_kind(host, v4).await,
            Addresses::Ipv6 => self.addresses_of_kind(host, v6).await,
            Addresses::PreferIpv4 => match self.addresses_of_kind(host, v4).await {
                // Not when asking failed: endpoints would change their kind whenever a packet is lost.
                Addressed::Gone(_) => self.addresses_of_kind(host, v6).await,
                other => other,
            },
            Addresses::Both => {
                let both =
                    futures_util::future::join(self.addresses_of_kind(host, v4), self.addresses_of_kind(host, v6));
                match both.await {
                    (Addressed::At(some, one), Addressed::At(more, other)) => {
                        Addressed::At([some, more].concat(), one.min(other))
                    }
                    (Addressed::Failed(why), _) | (_, Addressed::Failed(why)) => Addressed::Failed(why),
                    (found @ Addressed::At(..), _) | (_, found) => found,
                }
            }
        }
    }

    async fn addresses_of_kind(&self, host: &str, kind: RecordType) -> Addressed {
        if let Some(written) = in_hosts_file(host, kind) {
            return Addressed::At(written, ENDLESS);
        }
        match self.ask(host, kind).await {
            Ok(lookup) => {
                let found = addresses(lookup.answers().iter().filter(|record| is_of(record, kind)));
                if found.is_empty() {
                    return Addressed::Gone("the name has no address".to_owned());
                }
                // All records: also an alias is good only for so long.
                Addressed::At(found, time_of(lookup.answers().iter()))
            }
            Err(error) => match self.told(&error) {
                Ok(why) => Addressed::Gone(why),
                Err(why) => Addressed::Failed(why),
            },
        }
    }

    async fn ask(&self, name: &str, kind: RecordType) -> Result<Lookup, NetError> {
        let name = Name::from_str_relaxed(name).map_err(NetError::from)?;
        self.resolver.lookup(name, kind).await
    }

    /// What an error means: that there is nothing, or that nobody knows.
    fn told(&self, error: &NetError) -> Result<String, String> {
        match error {
            NetError::Dns(DnsError::NoRecordsFound(none)) => match none.response_code {
                ResponseCode::NXDomain => Ok("there is no such name".to_owned()),
                _ => Ok("the name has no address".to_owned()),
            },
            NetError::Dns(DnsError::ResponseCode(code)) => Err(format!("{} says: {code}", self.servers)),
            NetError::Timeout => Err(format!("no answer from {}", self.servers)),
            other => Err(format!("no answer from {}: {other}", self.servers)),
        }
    }
}

/// As `/etc/resolv.conf` says. Without it, this host itself, as the resolver of the C library has it.
fn of_the_host() -> (ResolverConfig, ResolverOpts) {
    system_conf::read_system_conf().unwrap_or_else(|error| {
        log::info!("dns: /etc/resolv.conf names nobody to ask ({error}), so 127.0.0.1:53 is asked");
        let servers = vec![NameServerConfig::udp_and_tcp(Ipv4Addr::LOCALHOST.into())];
        (
            ResolverConfig::from_parts(None, Vec::new(), servers),
            ResolverOpts::default(),
        )
    })
}

fn server(address: SocketAddr) -> NameServerConfig {
    let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
        connection.port = address.port();
        connection
    });
    NameServerConfig::new(address.ip(), true, connections.into())
}

/// The file is read each time, as the C library does: it is short, and this is not a request.
fn in_hosts_file(host: &str, kind: RecordType) -> Option<Vec<IpAddr>> {
    let mut name = Name::from_str_relaxed(host).ok()?;
    name.set_fqdn(true);
    let lookup = Hosts::from_system()
        .ok()?
        .lookup_static_host(&Query::query(name, kind))?;
    let found = addresses(lookup.answers().iter());
    (!found.is_empty()).then_some(found)
}

fn found(mut places: Vec<Found>, ttl: Duration, incomplete: Option<String>) -> Answer {
    places.retain(|place| place.address.port() != 0 && !is_nobody(place.address.ip()));
    if places.is_empty() {
        return Answer::Gone("none of its addresses can be connected to".to_owned());
    }
    places.sort_unstable();
    places.dedup();
    places.truncate(PLACES_MAX);
    Answer::Found {
        places,
        ttl,
        incomplete,
    }
}

/// Some servers answer so for what they block.
fn is_nobody(address: IpAddr) -> bool {
    address.is_unspecified() || address.is_multicast()
}

/// Priorities as their order: the smallest is 0, the next one 1.
fn ranks(records: &[&SRV]) -> BTreeMap<u16, u16> {
    let mut ranks: BTreeMap<u16, u16> = records.iter().map(|service| (service.priority, 0)).collect();
    for (rank, (_, place)) in (0_u16..).zip(&mut ranks) {
        *place = rank;
    }
    ranks
}

fn addresses<'a>(records: impl Iterator<Item = &'a Record>) -> Vec<IpAddr> {
    records.filter_map(|record| record.data.ip_addr()).collect()
}

fn is_of(record: &Record, kind: RecordType) -> bool {
    record.data.record_type() == kind
}

fn time_of<'a>(records: impl Iterator<Item = &'a Record>) -> Duration {
    let shortest = records.map(|record| record.ttl).min();
    shortest.map_or(ENDLESS, |seconds| Duration::from_secs(seconds.into()))
}
