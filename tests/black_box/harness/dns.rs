//! A DNS server that says what a story wants, and counts what it is asked.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, SRV};
use hickory_proto::rr::{Name, RData, Record};

/// A running server. Ends when dropped.
pub struct DnsServer {
    address: SocketAddr,
    shared: Arc<Mutex<Shared>>,
    answering: Option<JoinHandle<()>>,
}

/// What it does when it is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    /// It answers.
    Fine,
    /// It says that it can not (SERVFAIL).
    Failing,
    /// It says nothing.
    Silent,
    /// It knows no name any more (NXDOMAIN).
    Forgetful,
}

struct Shared {
    zone: BTreeMap<String, Vec<RData>>,
    ttl: u32,
    mood: Mood,
    asked: Vec<String>,
    ended: bool,
}

impl DnsServer {
    /// Starts one that knows nothing, on a free port. What it says is good for a second.
    pub fn start() -> Self {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        // To look whether the story is over.
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let address = socket.local_addr().unwrap();
        let shared = Arc::new(Mutex::new(Shared {
            zone: BTreeMap::new(),
            ttl: 1,
            mood: Mood::Fine,
            asked: Vec::new(),
            ended: false,
        }));
        let answering = {
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || serve(&socket, &shared))
        };
        Self {
            address,
            shared,
            answering: Some(answering),
        }
    }

    /// The section of a gateway that asks it, and does not wait long; with more keys, each with a comma in front.
    pub fn section(&self, more: &str) -> String {
        format!(
            "dns: {{ servers: [\"{}\"], min_ttl: 100ms, timeout: 500ms{more} }}",
            self.address
        )
    }

    /// From now on, these are the records of a name: `A 10.0.0.1`, `AAAA ::1`, `SRV 0 5 8080 a.internal` (priority, weight,
    /// port, target).
    pub fn set<'a>(&self, name: &str, records: impl IntoIterator<Item = &'a str>) {
        let records = records.into_iter().map(record).collect();
        self.shared().zone.insert(name.to_owned(), records);
    }

    /// How long what it says is good for, in seconds.
    pub fn ttl(&self, seconds: u32) {
        self.shared().ttl = seconds;
    }

    /// What it does from now on.
    pub fn is(&self, mood: Mood) {
        self.shared().mood = mood;
    }

    /// What it was asked, in order: `A orders.internal`.
    pub fn asked(&self) -> Vec<String> {
        self.shared().asked.clone()
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        lock(&self.shared)
    }
}

impl Drop for DnsServer {
    fn drop(&mut self) {
        self.shared().ended = true;
        if let Some(answering) = self.answering.take() {
            let _ = answering.join();
        }
    }
}

fn serve(socket: &UdpSocket, shared: &Mutex<Shared>) {
    let mut buffer = [0; 4096];
    loop {
        let received = socket.recv_from(&mut buffer);
        if lock(shared).ended {
            return;
        }
        // Nothing came, or a client that has gone; and what is no question gets no answer.
        let Ok((length, client)) = received else { continue };
        let Ok(question) = Message::from_vec(&buffer[..length]) else {
            continue;
        };
        let answer = lock(shared).answer(question);
        if let Some(bytes) = answer.and_then(|answer| answer.to_vec().ok()) {
            let _ = socket.send_to(&bytes, client);
        }
    }
}

impl Shared {
    fn answer(&mut self, question: Message) -> Option<Message> {
        let query = question.queries.first()?.clone();
        let name = query.name().to_string().trim_end_matches('.').to_lowercase();
        self.asked.push(format!("{} {name}", query.query_type()));
        let mut answer = question.into_response();
        answer.metadata.recursion_available = true;
        match self.mood {
            Mood::Silent => return None,
            Mood::Failing => answer.metadata.response_code = ResponseCode::ServFail,
            Mood::Forgetful => answer.metadata.response_code = ResponseCode::NXDomain,
            Mood::Fine => match self.zone.get(&name) {
                None => answer.metadata.response_code = ResponseCode::NXDomain,
                Some(records) => {
                    answer.add_answers(self.matching(&query, records));
                }
            },
        }
        Some(answer)
    }

    fn matching(&self, query: &Query, records: &[RData]) -> Vec<Record> {
        (records.iter())
            .filter(|data| data.record_type() == query.query_type())
            .map(|data| Record::from_rdata(query.name().clone(), self.ttl, data.clone()))
            .collect()
    }
}

fn record(line: &str) -> RData {
    let words: Vec<&str> = line.split_whitespace().collect();
    match words[..] {
        ["A", address] => RData::A(A(address.parse().unwrap())),
        ["AAAA", address] => RData::AAAA(AAAA(address.parse().unwrap())),
        ["SRV", priority, weight, port, target] => {
            let number = |word: &str| word.parse::<u16>().unwrap();
            let target = Name::from_str(&format!("{target}.")).unwrap();
            RData::SRV(SRV::new(number(priority), number(weight), number(port), target))
        }
        _ => panic!("{line:?} is not a record"),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
