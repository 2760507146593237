//! A gateway that hands over to a next process.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::{Gateway, Output, PATIENCE, tollgate, until};

/// Where the socket of an upgradable gateway is, in its directory.
pub const UPGRADE_SOCKET: &str = "run/upgrade.sock";

/// Processes that took over. They belong to nobody who waits for them, so they are ended by their numbers.
#[derive(Default)]
pub struct Successors(Mutex<Vec<u32>>);

/// A program in the place of a next version.
pub struct Program(PathBuf);

impl Successors {
    pub fn add(&self, pid: u32) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(pid);
    }

    /// The one that serves now.
    pub fn newest(&self) -> Option<u32> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).last().copied()
    }

    /// Ends all of them.
    pub fn end(&self) {
        let pids = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        let started = Instant::now();
        for signal in ["TERM", "KILL"] {
            for pid in pids.iter().filter(|&&pid| is_running(pid)) {
                send(*pid, signal);
            }
            while pids.iter().any(|&pid| is_running(pid)) && started.elapsed() < Duration::from_secs(3) {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }
}

/// Whether a process of the program under test runs under this number. One that has ended and that nobody has waited for
/// does not.
pub fn is_running(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
    let command = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    command.contains("tollgate") && !matches!(state, None | Some('Z' | 'X'))
}

/// Sends a signal by name, with the shell's own `kill`: the standard library can only send SIGKILL.
pub fn send(pid: u32, signal: &str) {
    let _ = Command::new("sh")
        .args(["-c", &format!("kill -{signal} {pid}")])
        .status();
}

impl Program {
    /// One that is started as this line of shell says; a line that begins with `exec` keeps the number of the process.
    pub fn shell(gateway: &Gateway, line: &str) -> Self {
        // A name of its own each time: what is being executed can not be written to.
        let name = format!("program-{}", super::sha256_hex(line).split_at(12).0);
        let path = gateway.path().join(name);
        std::fs::write(&path, format!("#!/bin/sh\n{line}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        Self(path)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Gateway {
    /// Where operators ask it.
    pub fn upgrade_socket(&self) -> PathBuf {
        self.path().join(UPGRADE_SOCKET)
    }

    /// Has it hand over, and gives the number of the process that serves then.
    #[track_caller]
    pub fn upgrade(&self) -> u32 {
        let output = self.try_upgrade(None);
        assert_eq!(output.code, Some(0), "{output:?}\n{}", self.log());
        let answer: serde_json::Value = serde_json::from_str(&output.stdout).expect("JSON");
        let pid = u32::try_from(answer["pid"].as_u64().expect("a process")).unwrap();
        self.successors.add(pid);
        pid
    }

    /// Asks it to hand over, to this program if one is named.
    pub fn try_upgrade(&self, program: Option<&Program>) -> Output {
        let socket = self.upgrade_socket().display().to_string();
        let mut arguments = vec!["upgrade", "--output", "json", "--socket", &socket];
        let path = program.map(|program| program.path().display().to_string());
        if let Some(path) = &path {
            arguments.extend(["--program", path]);
        }
        tollgate(arguments)
    }

    /// The same, in the background.
    pub fn begin_upgrade(&self, program: Option<&Program>) -> Child {
        let mut command = super::gateway::command();
        command.arg("upgrade").arg("--socket").arg(self.upgrade_socket());
        if let Some(program) = program {
            command.arg("--program").arg(program.path());
        }
        let piped = command.stdout(Stdio::piped()).stderr(Stdio::piped());
        piped.spawn().expect("starting the program")
    }

    /// Asks the process that serves to leave.
    pub fn terminate_newest(&self) {
        send(self.pid(), "TERM");
    }

    /// Waits until the first process has ended, which another one has followed.
    #[track_caller]
    pub fn first_has_ended(&self) {
        until("the first process ends", || !self.is_running());
    }

    /// Waits until this process has ended.
    #[track_caller]
    pub fn has_ended(&self, pid: u32) {
        let started = Instant::now();
        while is_running(pid) {
            assert!(
                started.elapsed() < PATIENCE,
                "process {pid} is still there\n{}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}
