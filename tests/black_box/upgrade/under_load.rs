//! Handing over again and again while clients of every kind are at it.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crate::harness::*;

/// How many times in a row.
const UPGRADES: usize = 20;

/// A request on a connection of its own, again and again, until it is enough; how many there were.
fn new_connections(gateway: &Gateway, enough: &AtomicBool, failed: &AtomicUsize) -> usize {
    let mut sent = 0;
    while !enough.load(Ordering::Relaxed) {
        let answer = Connection::try_to(gateway.address()).and_then(|mut connection| {
            connection.try_send(gateway.client().get("/open").header("Connection", "close").bytes())?;
            connection.try_answer(false)
        });
        sent += 1;
        if !answer.is_ok_and(|answer| answer.status == 200) {
            failed.fetch_add(1, Ordering::Relaxed);
        }
    }
    sent
}

#[test]
fn twenty_upgrades_in_a_row_lose_no_request_no_tunnel_and_no_call() {
    let origin = Origin::start(echo());
    let sockets = EchoSocket::start();
    let words = GrpcService::start();
    let described = revision(&origin)
        .behind("sockets", sockets.address())
        .api("{ name: sockets, base_path: /sockets, auth: none, upstream: sockets }")
        .upstream(&format!(
            "{{ name: words, protocol: http2, endpoints: [{{ address: \"{}\" }}] }}",
            words.address()
        ))
        .api("{ name: words, base_path: /tollgate.test.Words, auth: none, upstream: words }");
    let gateway = Gateway::with(described).listening("http2: true").upgradable().start();

    let mut socket = Sockets::to(gateway.address()).open("/sockets", None).unwrap();
    let client = GrpcClient::to(gateway.address());
    let mut conversation = client.shout(None).unwrap();
    let (enough, failed) = (AtomicBool::new(false), AtomicUsize::new(0));
    let mut pids = vec![gateway.pid()];
    let mut descriptors = Vec::new();

    let (report, fresh) = std::thread::scope(|scope| {
        let fresh = scope.spawn(|| new_connections(&gateway, &enough, &failed));
        let report = gateway.load("/open").connections(4).during(|| {
            for round in 0..UPGRADES {
                pids.push(gateway.upgrade());
                descriptors.push(gateway.descriptors());
                let text = format!("round {round}");
                // Through the first process still.
                socket.echoes(&text);
                conversation.say(&text);
                assert_eq!(conversation.hear().unwrap(), Some(text.to_uppercase()));
                std::thread::sleep(Duration::from_millis(100));
            }
        });
        enough.store(true, Ordering::Relaxed);
        (report, fresh.join().unwrap())
    });
    assert_eq!(
        failed.load(Ordering::Relaxed),
        0,
        "of {fresh} requests on connections of their own"
    );
    let report = report.expect_decisions_only();
    assert!(report.admitted() > UPGRADES && fresh > UPGRADES, "{}", report.summary());

    // Those in the middle have ended: only the first has anything to wait for.
    for &pid in &pids[1..UPGRADES] {
        gateway.has_ended(pid);
    }
    assert!(gateway.is_running(), "the first still has the tunnel and the call");
    drop((socket, conversation));
    drop(client);
    gateway.first_has_ended();
    gateway.client().get("/open").send().expect(200);
    // Each reading may meet a few connections of the load; what one upgrade left open would be there twenty times.
    let least = |readings: &[usize]| readings.iter().copied().min().unwrap_or_default();
    let (early, late) = (least(&descriptors[..5]), least(&descriptors[UPGRADES - 5..]));
    assert!(late <= early + 6, "descriptors grow: {descriptors:?}");
}
