//! Several gateways that share their limits.

use std::ops::Index;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{Gateway, Load, RedisCluster, RedisServer, Request, Setup};

/// Fleets take turns: two at a time would compete for the processor, and their stories are about time.
static TURN: Mutex<()> = Mutex::new(());

/// Gateways that are going to be started.
pub struct FleetSetup {
    count: usize,
    revision: String,
    redis: String,
    throttle: String,
}

/// Running gateways with the same revision and the same store. End when dropped.
pub struct Fleet {
    gateways: Vec<Gateway>,
    _turn: MutexGuard<'static, ()>,
}

impl FleetSetup {
    /// Shares the limits through this server. `more` is what else stands in the section, such as `password: secret`.
    pub fn redis(self, server: &RedisServer, more: &str) -> Self {
        match server.ca() {
            Some(ca) => self.redis_at(&[server.url()], &format!("ca: \"{}\", {more}", ca.display())),
            None => self.redis_at(&[server.url()], more),
        }
    }

    /// Shares them through this cluster.
    pub fn cluster(self, cluster: &RedisCluster) -> Self {
        self.redis_at(&cluster.urls(), "")
    }

    /// Shares them through what is at this address, whatever it is.
    pub fn redis_behind(self, address: impl ToString) -> Self {
        self.redis_at(&[format!("redis://{}", address.to_string())], "")
    }

    /// Shares them through what has these URLs, with this beside them in the section.
    pub fn redis_at(mut self, urls: &[String], more: &str) -> Self {
        self.redis = redis_section(urls, more);
        self
    }

    /// More of the `throttle:` section than how many gateways there are, such as `max_overrun: 0%`.
    pub fn throttle(mut self, lines: &str) -> Self {
        lines.clone_into(&mut self.throttle);
        self
    }

    /// Starts them, all at the same time, and waits until each serves.
    #[track_caller]
    pub fn start(self) -> Fleet {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let gateways = std::thread::scope(|scope| {
            let starting: Vec<_> = (0..self.count)
                .map(|number| {
                    let setup = self.gateway(number);
                    scope.spawn(|| setup.start())
                })
                .collect();
            // First wait for all: a gateway whose sister has failed has to be ended too.
            let started: Vec<_> = starting.into_iter().map(|starting| starting.join()).collect();
            started
                .into_iter()
                .map(|started| started.expect("a gateway of the fleet has started"))
                .collect()
        });
        Fleet { gateways, _turn: turn }
    }

    fn gateway(&self, number: usize) -> Setup {
        let mut setup = Gateway::with(&self.revision)
            .id(&format!("gw-{number}"))
            // So that a story can choose the client's address.
            .server("trusted_proxies: [\"127.0.0.0/8\"]");
        if !self.redis.is_empty() {
            setup = setup
                .section(&self.redis)
                .section(&format!("throttle: {{ instances: {}, {} }}", self.count, self.throttle));
        }
        setup
    }
}

impl Fleet {
    /// So many gateways with this revision. Without a store each of them counts for itself.
    pub fn of(count: usize, revision: impl ToString) -> FleetSetup {
        FleetSetup {
            count,
            revision: revision.to_string(),
            redis: String::new(),
            throttle: String::new(),
        }
    }

    /// Every gateway, also those that have ended.
    pub fn gateways(&self) -> &[Gateway] {
        &self.gateways
    }

    /// Requests to all of them at the same time.
    pub fn load(&self, target: &str) -> Load {
        Load::of(self.gateways.iter().map(Gateway::address).collect(), target)
    }

    /// How many of so many requests are let in, one after the other, each by the next gateway; all others have to be
    /// 429.
    #[track_caller]
    pub fn let_in(&self, count: usize, request: impl Fn(&Gateway) -> Request) -> usize {
        let gateways = self.gateways.iter().cycle().take(count);
        gateways.filter(|gateway| is_let_in(request(gateway))).count()
    }

    /// Asks all of them to leave, and waits until they have.
    #[track_caller]
    pub fn leave(&self) {
        self.gateways.iter().for_each(Gateway::terminate);
        for gateway in &self.gateways {
            gateway.wait();
        }
    }
}

impl Index<usize> for Fleet {
    type Output = Gateway;

    fn index(&self, number: usize) -> &Gateway {
        &self.gateways[number]
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        // Each waits for its end when it is dropped; so they get there together.
        self.gateways.iter().for_each(Gateway::terminate);
    }
}

/// The `redis:` section of a gateway's configuration.
fn redis_section(urls: &[String], more: &str) -> String {
    let urls: Vec<String> = urls.iter().map(|url| format!("\"{url}\"")).collect();
    format!("redis: {{ urls: [{}], {more} }}", urls.join(", "))
}

/// Whether a request is let in; if not, it has to be 429.
#[track_caller]
pub fn is_let_in(request: Request) -> bool {
    let answer = request.send();
    assert!(matches!(answer.status, 200 | 429), "{answer:?}");
    answer.status == 200
}

#[cfg(test)]
mod tests {
    use super::super::{Origin, Revision, answer};
    use super::*;

    #[test]
    fn gateways_without_a_store_count_each_for_itself() {
        let origin = Origin::start(answer(200, ""));
        let revision = Revision::of(&origin).api(
            "{ name: open, base_path: /open, auth: none, upstream: origin, limits: [{ name: l, rate: 5/month }] }",
        );
        let fleet = Fleet::of(3, revision).start();
        assert_eq!(fleet.let_in(9, |gateway| gateway.client().get("/open")), 9);
        let report = fleet.load("/open").send(60);
        assert_eq!((report.requests(), report.admitted(), report.refused()), (60, 6, 54));
        assert_eq!(origin.requests(), 15);
        fleet.leave();
        assert!(fleet.gateways().iter().all(|gateway| !gateway.is_running()));
    }

    #[test]
    fn a_section_says_where_redis_is_and_what_else_there_is_to_know() {
        let urls = ["redis://a:1", "redis://b:2"].map(ToOwned::to_owned);
        assert_eq!(
            redis_section(&urls, ""),
            r#"redis: { urls: ["redis://a:1", "redis://b:2"],  }"#
        );
        assert_eq!(
            redis_section(&urls[..1], "password: x"),
            r#"redis: { urls: ["redis://a:1"], password: x }"#
        );
    }
}
