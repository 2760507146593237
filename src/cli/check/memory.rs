//! What the file allows kept answers to take, beside what the machine has.

use std::path::Path;

use crate::config::Config;
use crate::document::{Mistake, Place, Severity, Source};

/// What is wrong with the share that kept answers may take, on this machine.
pub fn finding(config: &Config, path: &Path) -> Option<Mistake> {
    let message = too_much(config.cache.memory, memory()?)?;
    Some(Source::new(&path.display().to_string()).mistake(Place::default(), Severity::Warning, message))
}

/// More than three quarters leaves too little for everything else that a gateway does.
fn too_much(wanted: u64, there: u64) -> Option<String> {
    (wanted > there / 4 * 3).then(|| {
        format!(
            "cache: memory is {} MiB, and there are {} MiB on this machine for everything; write at most three quarters of it",
            wanted >> 20,
            there >> 20
        )
    })
}

/// Bytes that this machine has, or as many as this process may use (cgroup v2).
fn memory() -> Option<u64> {
    let machine = total(&std::fs::read_to_string("/proc/meminfo").ok()?)?;
    let allowed = std::fs::read_to_string("/sys/fs/cgroup/memory.max").ok();
    let allowed = allowed.and_then(|text| text.trim().parse().ok()).unwrap_or(machine);
    Some(machine.min(allowed))
}

/// `MemTotal` of `/proc/meminfo` (proc_meminfo(5)), in bytes.
fn total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_three_quarters_of_the_machine_is_warned_of() {
        let there = total("MemTotal:       16384000 kB\nMemFree: 1 kB\n").unwrap();
        assert_eq!(there, 16_384_000 * 1024);
        assert_eq!(too_much(12 << 30, 16 << 30), None);
        let found = too_much((12 << 30) + 1, 16 << 30).unwrap();
        assert!(
            found.contains("memory is 12288 MiB") && found.contains("16384 MiB on this machine"),
            "{found}"
        );
        assert_eq!(total("MemFree: 1 kB"), None);
    }
}
