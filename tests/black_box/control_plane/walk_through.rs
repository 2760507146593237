//! The example of three instances on one host, exactly as its README has it.

use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::Command;

use crate::harness::{Origin, answer};

/// Added to these ports, all of them are free. Somebody else may take one before they are used; nothing on this machine
/// asks for ports down there.
fn free_offset() -> u16 {
    let is_free = |port: u16| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
    (0..200)
        .map(|step| 10_000 + 37 * step + u16::try_from(std::process::id() % 37).unwrap())
        .find(|offset| [9443, 8281, 8282, 7086, 7087].iter().all(|port| is_free(port + offset)))
        .expect("five free ports at the same distance")
}

#[test]
fn three_instances_on_one_host_walk_through_the_example() {
    let origin = Origin::start(answer(200, "{\"order\": 7}"));
    let directory = tempfile::tempdir().unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("conf/examples/three-instances/walk-through.sh");
    let output = Command::new("bash")
        .arg(script)
        .arg(free_offset().to_string())
        .env("TOLLGATE", env!("CARGO_BIN_EXE_tollgate"))
        .env("DIR", directory.path().join("state"))
        .env("ORDERS_ADDRESS", origin.address().to_string())
        .env("NO_PROXY", "*")
        .output()
        .unwrap();
    let (told, complained) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{told}\n{complained}");
    assert!(told.ends_with("ok: everything\n"), "{told}");
    assert!(told.matches("\nok: ").count() >= 15, "{told}");
}
