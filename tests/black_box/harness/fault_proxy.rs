//! A network between two programs that can be made as bad as a story needs it.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::port::Port;

/// How many pieces may be on their way in one direction of one connection.
const ON_THE_WAY: usize = 1024;

/// Passes on TCP connections to one server: at first as if it was not there. Ends, with all its connections, when
/// dropped.
pub struct FaultProxy {
    port: Port,
    shared: Arc<Shared>,
    accepting: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    server: SocketAddr,
    connections: AtomicUsize,
    there: Latency,
    back: Latency,
    holds_back: Mutex<bool>,
    changed: Condvar,
    refuses: AtomicBool,
    ended: AtomicBool,
    streams: Mutex<Vec<TcpStream>>,
}

#[derive(Default)]
struct Latency(AtomicU64);

impl FaultProxy {
    /// One in front of this server.
    pub fn in_front_of(server: SocketAddr) -> Self {
        let proxy = Self {
            port: Port::free(),
            shared: Arc::new(Shared {
                server,
                connections: AtomicUsize::new(0),
                there: Latency::default(),
                back: Latency::default(),
                holds_back: Mutex::new(false),
                changed: Condvar::new(),
                refuses: AtomicBool::new(false),
                ended: AtomicBool::new(false),
                streams: Mutex::default(),
            }),
            accepting: Mutex::new(None),
        };
        proxy.open();
        proxy
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// How many connections were made to it.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// How much longer than without it everything takes from now on, on the way to the server and on the way back. What
    /// is sent in the meantime is on its way in the meantime: it is a long line, not a narrow one.
    pub fn set_latency(&self, there: Duration, back: Duration) {
        self.shared.there.set(there);
        self.shared.back.set(back);
    }

    /// Cuts every connection; new ones are welcome.
    pub fn drop_connections(&self) {
        for stream in lock(&self.shared.streams).drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Whether nothing arrives any more, in no direction, on connections old and new. Nothing is lost either: when it is
    /// over, everything that was sent in the meantime arrives, as with a cable that was pulled and plugged in again.
    pub fn black_hole(&self, on: bool) {
        *lock(&self.shared.holds_back) = on;
        self.shared.changed.notify_all();
    }

    /// Whether new connections are refused, as when nobody listens; the old ones are cut.
    pub fn refuse(&self, on: bool) {
        if on {
            self.close();
            self.drop_connections();
        } else {
            self.open();
        }
    }

    fn open(&self) {
        let mut accepting = lock(&self.accepting);
        if accepting.is_some() {
            return;
        }
        self.shared.refuses.store(false, Ordering::SeqCst);
        let listener = TcpListener::bind(self.address()).expect("listening on a port that is held");
        let shared = Arc::clone(&self.shared);
        *accepting = Some(std::thread::spawn(move || shared.accept(&listener)));
    }

    fn close(&self) {
        if let Some(accepting) = lock(&self.accepting).take() {
            self.shared.refuses.store(true, Ordering::SeqCst);
            // Wakes the thread that accepts.
            drop(TcpStream::connect(self.address()));
            let _ = accepting.join();
        }
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.close();
        self.shared.ended.store(true, Ordering::SeqCst);
        self.black_hole(false);
        self.drop_connections();
    }
}

impl Shared {
    fn accept(self: &Arc<Self>, listener: &TcpListener) {
        for client in listener.incoming() {
            if self.refuses.load(Ordering::SeqCst) {
                return;
            }
            let Ok(client) = client else { continue };
            self.connections.fetch_add(1, Ordering::SeqCst);
            // The client of a server that is away is cut off, as it would notice without a proxy.
            let Ok(server) = TcpStream::connect(self.server) else {
                continue;
            };
            let _ = self.join(&client, &server);
        }
    }

    fn join(self: &Arc<Self>, client: &TcpStream, server: &TcpStream) -> io::Result<()> {
        for stream in [client, server] {
            stream.set_nodelay(true)?;
            lock(&self.streams).push(stream.try_clone()?);
        }
        self.pass_on(client.try_clone()?, server.try_clone()?, |shared| &shared.there);
        self.pass_on(server.try_clone()?, client.try_clone()?, |shared| &shared.back);
        Ok(())
    }

    /// One direction of a connection: one thread notes when each piece has to arrive, another one delivers it.
    fn pass_on(self: &Arc<Self>, mut from: TcpStream, to: TcpStream, latency: fn(&Self) -> &Latency) {
        let (sender, receiver) = sync_channel(ON_THE_WAY);
        let shared = Arc::clone(self);
        std::thread::spawn(move || {
            let mut piece = [0; 16 * 1024];
            while let Ok(read @ 1..) = from.read(&mut piece) {
                let due = Instant::now() + latency(&shared).get();
                if sender.send((due, piece[..read].to_vec())).is_err() {
                    break;
                }
            }
        });
        let shared = Arc::clone(self);
        std::thread::spawn(move || {
            let end = match shared.deliver(&receiver, &to) {
                Ok(()) => Shutdown::Write,
                Err(_) => Shutdown::Both,
            };
            let _ = to.shutdown(end);
        });
    }

    fn deliver(&self, pieces: &Receiver<(Instant, Vec<u8>)>, mut to: &TcpStream) -> io::Result<()> {
        for (due, piece) in pieces {
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            self.wait_until_it_may_pass();
            to.write_all(&piece)?;
        }
        // The end of a connection does not pass a pulled cable either.
        self.wait_until_it_may_pass();
        Ok(())
    }

    fn wait_until_it_may_pass(&self) {
        let held = lock(&self.holds_back);
        let may_not_pass = |holds_back: &mut bool| *holds_back && !self.ended.load(Ordering::SeqCst);
        drop(self.changed.wait_while(held, may_not_pass));
    }
}

impl Latency {
    fn set(&self, latency: Duration) {
        let micros = u64::try_from(latency.as_micros()).expect("a latency of a test");
        self.0.store(micros, Ordering::SeqCst);
    }

    fn get(&self) -> Duration {
        Duration::from_micros(self.0.load(Ordering::SeqCst))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::super::{Client, Connection, Origin, answer, echo, eventually};
    use super::*;

    const SHORT: Duration = Duration::from_millis(100);

    #[test]
    fn a_proxy_that_is_left_alone_changes_nothing() {
        let origin = Origin::start(echo());
        let proxy = FaultProxy::in_front_of(origin.address());
        let client = Client::of(proxy.address());
        let body = "x".repeat(100_000);
        let answer = client.post("/", body.clone()).header("Connection", "close").send();
        assert_eq!(answer.expect(200).echo().body, body);
        assert_eq!((proxy.connections(), origin.connections()), (1, 1));
    }

    #[test]
    fn latency_delays_everything_in_its_direction_and_makes_nothing_narrow() {
        let origin = Origin::start(answer(200, ""));
        let proxy = FaultProxy::in_front_of(origin.address());
        let client = Client::of(proxy.address());
        let (there, back) = (Duration::from_millis(60), Duration::from_millis(40));
        proxy.set_latency(there, back);
        let started = Instant::now();
        client.get("/").send().expect(200);
        assert!(started.elapsed() >= there + back, "{:?}", started.elapsed());

        let mut connection = Connection::to(proxy.address());
        let started = Instant::now();
        for _ in 0..50 {
            connection.send(client.get("/").bytes());
        }
        for _ in 0..50 {
            connection.answer().expect(200);
        }
        assert!(started.elapsed() < 25 * (there + back), "{:?}", started.elapsed());
    }

    #[test]
    fn a_black_hole_swallows_everything_and_gives_it_back_in_the_end() {
        let origin = Origin::start(answer(200, ""));
        let proxy = FaultProxy::in_front_of(origin.address());
        let request = Client::of(proxy.address()).get("/").bytes();
        let mut old = Connection::to(proxy.address());
        old.send(&request).answer().expect(200);
        proxy.black_hole(true);
        let mut new = Connection::to(proxy.address());
        for connection in [&mut old, &mut new] {
            connection.send(&request);
            assert!(!connection.is_closed_within(SHORT));
        }
        assert_eq!(origin.requests(), 1);
        proxy.black_hole(false);
        old.answer().expect(200);
        new.answer().expect(200);
    }

    #[test]
    fn dropped_connections_are_closed_and_new_ones_work() {
        let origin = Origin::start(answer(200, ""));
        let proxy = FaultProxy::in_front_of(origin.address());
        let client = Client::of(proxy.address());
        let mut connection = Connection::to(proxy.address());
        client.get("/").send_on(&mut connection).expect(200);
        proxy.drop_connections();
        assert!(connection.is_closed());
        client.get("/").send().expect(200);
    }

    #[test]
    fn a_proxy_that_refuses_is_as_good_as_gone_and_comes_back_at_the_same_place() {
        let origin = Origin::start(answer(200, ""));
        let proxy = FaultProxy::in_front_of(origin.address());
        for _ in 0..2 {
            let mut connection = Connection::to(proxy.address());
            Client::of(proxy.address())
                .get("/")
                .send_on(&mut connection)
                .expect(200);
            proxy.refuse(true);
            assert!(connection.is_closed());
            // A process that another test is just starting holds a copy of every socket for a moment.
            let refused = eventually("refused", || TcpStream::connect(proxy.address()).err());
            assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
            proxy.refuse(false);
        }
    }

    #[test]
    fn who_connects_while_the_server_is_away_is_cut_off() {
        let nobody = Port::free();
        let proxy = FaultProxy::in_front_of(nobody.address());
        assert!(Connection::to(proxy.address()).is_closed());
    }
}
