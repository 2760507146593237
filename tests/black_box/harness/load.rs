//! Many requests at the same time, and what became of them.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::{Answer, Client, Connection, Gateway, Request};

/// Requests to several gateways that are going to be sent.
pub struct Load {
    gateways: Vec<SocketAddr>,
    target: String,
    headers: Vec<(String, String)>,
    /// Which part of the requests each gateway gets; together 1.
    shares: Vec<f64>,
    /// Connections to each gateway.
    connections: usize,
    /// Requests per second, to all together.
    pace: Option<f64>,
}

/// What became of the requests.
#[derive(Debug)]
pub struct Report {
    /// By gateway.
    pub tallies: Vec<Tally>,
    /// From the first request to the last answer.
    pub took: Duration,
}

/// What became of the requests to one gateway.
#[derive(Debug, Default)]
pub struct Tally {
    /// When each request that was let in was sent and answered, since the first request of the load.
    pub admitted: Vec<(Duration, Duration)>,
    /// How many were refused with 429.
    pub refused: usize,
    /// Answers with another status.
    pub others: BTreeMap<u16, usize>,
    /// How many got no answer.
    pub unanswered: usize,
    /// The longest that an answer took.
    pub slowest: Duration,
}

/// What the clients of one gateway share.
struct Lane {
    gateway: SocketAddr,
    next: AtomicUsize,
    requests: usize,
    /// Time between two requests; none is as fast as possible.
    interval: Option<Duration>,
}

impl Load {
    /// Evenly to all of them, as fast as they answer, over two connections each.
    pub(super) fn of(gateways: Vec<SocketAddr>, target: &str) -> Self {
        let share = 1.0 / count(gateways.len());
        Self {
            shares: vec![share; gateways.len()],
            gateways,
            target: target.to_owned(),
            headers: Vec::new(),
            connections: 2,
            pace: None,
        }
    }

    /// Adds a field line to each request.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Another number of connections to each gateway.
    pub fn connections(mut self, connections: usize) -> Self {
        self.connections = connections;
        self
    }

    /// Sends that many requests per second (all together) instead of as many as possible; fewer where the gateways do
    /// not keep up.
    pub fn pace(mut self, per_second: f64) -> Self {
        self.pace = Some(per_second);
        self
    }

    /// Sends this share of all requests to the first gateway, and the rest evenly to the others.
    pub fn skewed(mut self, share: f64) -> Self {
        let others = (1.0 - share) / count(self.shares.len() - 1);
        self.shares.fill(others);
        self.shares[0] = share;
        self
    }

    /// Sends so many requests.
    pub fn send(self, requests: usize) -> Report {
        self.run(requests, || ())
    }

    /// Sends requests as long as the story goes on.
    pub fn during(self, story: impl FnOnce()) -> Report {
        self.run(usize::MAX, story)
    }

    fn run(self, requests: usize, story: impl FnOnce()) -> Report {
        let lanes: Vec<Lane> = (0..self.gateways.len())
            .map(|number| self.lane(number, requests))
            .collect();
        let ended = AtomicBool::new(false);
        let start = Barrier::new(lanes.len() * self.connections + 1);
        let began = Instant::now();
        let tallies = std::thread::scope(|scope| {
            let clients: Vec<Vec<_>> = lanes
                .iter()
                .map(|lane| {
                    let client = || self.client(lane, began, &start, &ended);
                    (0..self.connections).map(|_| scope.spawn(client)).collect()
                })
                .collect();
            start.wait();
            // The load ends with the story, also when the story ends badly.
            let end = End {
                ended: &ended,
                at_once: requests == usize::MAX,
            };
            story();
            drop(end);
            clients.into_iter().map(Tally::of_all).collect()
        });
        Report {
            tallies,
            took: began.elapsed(),
        }
    }

    fn lane(&self, number: usize, requests: usize) -> Lane {
        let share = self.shares[number];
        Lane {
            gateway: self.gateways[number],
            next: AtomicUsize::new(0),
            requests: match requests {
                usize::MAX => usize::MAX,
                requests => part_of(requests, &self.shares[..=number]) - part_of(requests, &self.shares[..number]),
            },
            interval: self.pace.map(|pace| Duration::from_secs_f64(1.0 / (pace * share))),
        }
    }

    /// One connection and what goes over it. All clients count time from the same instant.
    fn client(&self, lane: &Lane, began: Instant, start: &Barrier, ended: &AtomicBool) -> Tally {
        let mut connection = Connection::try_to(lane.gateway).ok();
        start.wait();
        let mut tally = Tally::default();
        loop {
            let number = lane.next.fetch_add(1, Ordering::Relaxed);
            if number >= lane.requests {
                return tally;
            }
            if let Some(interval) = lane.interval {
                let due = interval.mul_f64(count(number));
                std::thread::sleep(due.saturating_sub(began.elapsed()));
            }
            if ended.load(Ordering::Relaxed) {
                return tally;
            }
            let sent = began.elapsed();
            match exchange(&mut connection, &self.request(lane.gateway)) {
                Ok(answer) => tally.note(&answer, sent, began.elapsed()),
                Err(_) => {
                    connection = None;
                    tally.unanswered += 1;
                    // As fast as possible would be very fast with a gateway that has ended.
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
        }
    }

    fn request(&self, gateway: SocketAddr) -> Request {
        let request = Client::of(gateway).get(&self.target);
        self.headers
            .iter()
            .fold(request, |request, (name, value)| request.header(name, value))
    }
}

impl Gateway {
    /// Requests to it that are going to be sent.
    pub fn load(&self, target: &str) -> Load {
        Load::of(vec![self.address()], target)
    }
}

/// Ends the load when it goes.
struct End<'a> {
    ended: &'a AtomicBool,
    at_once: bool,
}

impl Drop for End<'_> {
    fn drop(&mut self) {
        if self.at_once || std::thread::panicking() {
            self.ended.store(true, Ordering::Relaxed);
        }
    }
}

fn exchange(kept: &mut Option<Connection>, request: &Request) -> io::Result<Answer> {
    let connection = match kept {
        Some(connection) => connection,
        None => kept.insert(Connection::try_to(request.address())?),
    };
    connection.try_send(request.bytes())?;
    let answer = connection.try_answer(false)?;
    if answer.header("connection") == Some("close") {
        *kept = None;
    }
    Ok(answer)
}

impl Report {
    /// How many requests were sent.
    pub fn requests(&self) -> usize {
        self.tallies.iter().map(Tally::requests).sum()
    }

    /// How many were let in.
    pub fn admitted(&self) -> usize {
        self.tallies.iter().map(|tally| tally.admitted.len()).sum()
    }

    /// How many were refused with 429.
    pub fn refused(&self) -> usize {
        self.tallies.iter().map(|tally| tally.refused).sum()
    }

    /// The longest that an answer took.
    pub fn slowest(&self) -> Duration {
        self.tallies.iter().map(|tally| tally.slowest).max().unwrap_or_default()
    }

    /// How long half of the requests that were let in took at most.
    pub fn median(&self) -> Duration {
        let mut waits: Vec<Duration> = self.admissions().map(|(sent, answered)| answered - sent).collect();
        waits.sort();
        waits.get(waits.len() / 2).copied().unwrap_or_default()
    }

    /// When each request that was let in was sent and answered, in the order of the answers.
    pub fn admissions_in_order(&self) -> Vec<(Duration, Duration)> {
        let mut admissions: Vec<_> = self.admissions().collect();
        admissions.sort_by_key(|&(_, answered)| answered);
        admissions
    }

    /// Fails the test if a request got another answer than 200 or 429, or none.
    #[track_caller]
    pub fn expect_decisions_only(self) -> Self {
        let decided = |tally: &Tally| tally.others.is_empty() && tally.unanswered == 0;
        assert!(self.tallies.iter().all(decided), "{}", self.summary());
        self
    }

    /// All of it, in a few lines.
    pub fn summary(&self) -> String {
        let mut text = format!(
            "in {:?}, slowest {:?}, median {:?}",
            self.took,
            self.slowest(),
            self.median()
        );
        for (number, tally) in self.tallies.iter().enumerate() {
            text += &format!(
                "\n  gateway {number}: {} admitted, {} refused, others {:?}, {} unanswered",
                tally.admitted.len(),
                tally.refused,
                tally.others,
                tally.unanswered
            );
        }
        text
    }

    fn admissions(&self) -> impl Iterator<Item = (Duration, Duration)> {
        self.tallies.iter().flat_map(|tally| tally.admitted.iter().copied())
    }
}

impl Tally {
    /// How many requests were sent.
    pub fn requests(&self) -> usize {
        self.admitted.len() + self.refused + self.others.values().sum::<usize>() + self.unanswered
    }

    fn note(&mut self, answer: &Answer, sent: Duration, answered: Duration) {
        match answer.status {
            200 => self.admitted.push((sent, answered)),
            429 => self.refused += 1,
            other => *self.others.entry(other).or_default() += 1,
        }
        self.slowest = self.slowest.max(answered - sent);
    }

    fn of_all(clients: Vec<std::thread::ScopedJoinHandle<'_, Self>>) -> Self {
        let tallies = clients
            .into_iter()
            .map(|client| client.join().expect("a client of the load"));
        tallies.fold(Self::default(), |mut all, tally| {
            all.admitted.extend(tally.admitted);
            all.refused += tally.refused;
            for (status, answers) in tally.others {
                *all.others.entry(status).or_default() += answers;
            }
            all.unanswered += tally.unanswered;
            all.slowest = all.slowest.max(tally.slowest);
            all
        })
    }
}

/// So many of the requests, rounded such that all parts together are all requests.
fn part_of(requests: usize, shares: &[f64]) -> usize {
    (count(requests) * shares.iter().sum::<f64>()).round() as usize
}

/// A number to calculate with.
pub fn count(number: usize) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use super::super::{Exchange, Gate, Origin, answer, until};
    use super::*;

    fn load_on(origins: &[&Origin]) -> Load {
        Load::of(origins.iter().map(|origin| origin.address()).collect(), "/")
    }

    #[test]
    fn every_request_is_sent_once_and_counted_where_it_went() {
        let origins = [200, 429, 503].map(|status| Origin::start(answer(status, "")));
        let report = load_on(&origins.each_ref()).header("X-Story", "load").send(100);
        assert_eq!(report.requests(), 100);
        let [let_in, refused, other] = &report.tallies[..] else {
            panic!("three tallies are {report:?}");
        };
        assert_eq!(let_in.admitted.len(), origins[0].requests());
        assert_eq!(refused.refused, origins[1].requests());
        assert_eq!(other.others[&503], origins[2].requests());
        assert_eq!((report.admitted(), report.refused()), (33, 34), "{}", report.summary());
        assert_eq!(origins[0].connections(), 2);
        assert_eq!(origins[0].received()[0].header("x-story"), Some("load"));
    }

    #[test]
    fn a_skewed_load_goes_where_it_should() {
        let origins = [(); 5].map(|()| Origin::start(answer(200, "")));
        load_on(&origins.each_ref()).skewed(0.9).send(1000);
        assert_eq!(origins[0].requests(), 900);
        assert!(origins[1..].iter().all(|origin| origin.requests() == 25));
    }

    #[test]
    fn a_paced_load_takes_its_time() {
        let origins = [(); 2].map(|()| Origin::start(answer(200, "")));
        let report = load_on(&origins.each_ref()).pace(100.0).send(41);
        assert!(report.took >= Duration::from_millis(200), "{}", report.summary());
        let in_order = report.admissions_in_order();
        assert_eq!(in_order.len(), 41);
        assert!(in_order.is_sorted_by_key(|&(_, answered)| answered));
        assert!(in_order.iter().all(|(sent, answered)| sent < answered));
    }

    #[test]
    fn a_load_goes_on_as_long_as_the_story_and_tells_what_was_slow() {
        let gate = Gate::closed();
        let origin = Origin::start({
            let gate = gate.clone();
            move |exchange: &mut Exchange| {
                gate.pass();
                exchange.respond(200, "", b"")
            }
        });
        let report = load_on(&[&origin]).during(|| {
            until("both connections are used", || origin.requests() == 2);
            std::thread::sleep(Duration::from_millis(50));
            gate.open();
            until("more requests come", || origin.requests() > 20);
        });
        assert!(report.admitted() >= 20);
        assert!(report.slowest() >= Duration::from_millis(50), "{}", report.summary());
        assert!(report.median() < report.slowest());
        report.expect_decisions_only();
    }

    #[test]
    fn what_gets_no_answer_is_counted_and_does_not_end_the_load() {
        let origin = Origin::start(answer(200, ""));
        let gone = super::super::Planned::new();
        let report = Load::of(vec![origin.address(), gone.address()], "/").send(20);
        assert_eq!(report.admitted(), 10);
        assert_eq!(report.tallies[1].unanswered, 10);
    }
}
