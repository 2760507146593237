//! What the service manager is told. The stories listen where systemd would.

use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use crate::harness::*;

/// Where a service tells its manager how it is.
struct Manager {
    socket: UnixDatagram,
    path: tempfile::TempDir,
    heard: Vec<String>,
}

impl Manager {
    fn new() -> Self {
        let path = tempfile::tempdir().unwrap();
        let socket = UnixDatagram::bind(path.path().join("notify")).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        Self {
            socket,
            path,
            heard: Vec::new(),
        }
    }

    fn address(&self) -> String {
        self.path.path().join("notify").display().to_string()
    }

    /// Waits until it was told this, as a line.
    #[track_caller]
    fn hears(&mut self, line: &str) {
        let told = |heard: &[String]| heard.iter().any(|text| text.lines().any(|told| told == line));
        until(&format!("{line:?} is told"), || {
            let mut buffer = [0; 4096];
            while let Ok(length) = self.socket.recv(&mut buffer) {
                self.heard.push(String::from_utf8_lossy(&buffer[..length]).into_owned());
            }
            told(&self.heard)
        });
    }
}

#[test]
fn it_is_told_that_the_service_is_ready_alive_and_stopping_and_keeps_its_sockets() {
    let origin = Origin::start(echo());
    let mut manager = Manager::new();
    let gateway = Gateway::with(revision(&origin))
        .environment("NOTIFY_SOCKET", &manager.address())
        .environment("WATCHDOG_USEC", "300000")
        .start();
    manager.hears("READY=1");
    manager.hears("FDSTORE=1");
    manager.heard.clear();
    manager.hears("WATCHDOG=1");
    manager.heard.clear();
    manager.hears("WATCHDOG=1");
    gateway.terminate();
    manager.hears("STOPPING=1");
}

#[test]
fn over_an_upgrade_it_is_told_which_process_is_the_service_before_the_one_before_ends() {
    let origin = Origin::start(echo());
    let mut manager = Manager::new();
    let gateway = Gateway::with(revision(&origin))
        .environment("NOTIFY_SOCKET", &manager.address())
        .upgradable()
        .start();
    manager.hears("READY=1");
    manager.heard.clear();
    // The barrier is passed when what came with it is closed, which receiving it here does.
    let pid = std::thread::scope(|scope| {
        let upgraded = scope.spawn(|| gateway.upgrade());
        while !upgraded.is_finished() {
            let mut buffer = [0; 4096];
            if let Ok(length) = manager.socket.recv(&mut buffer) {
                manager
                    .heard
                    .push(String::from_utf8_lossy(&buffer[..length]).into_owned());
            }
        }
        upgraded.join().unwrap()
    });
    manager.hears(&format!("MAINPID={pid}"));
    manager.hears("BARRIER=1");
    manager.hears("READY=1");
    gateway.first_has_ended();
    let position = |line: &str| {
        manager
            .heard
            .iter()
            .position(|text| text.lines().any(|told| told == line))
    };
    assert!(position(&format!("MAINPID={pid}")) < position("BARRIER=1"));
    assert!(position("BARRIER=1") < position("READY=1"));
    let stopping = manager.heard.iter().any(|text| text.contains("STOPPING"));
    assert!(!stopping, "the service does not stop: {:?}", manager.heard);
}
