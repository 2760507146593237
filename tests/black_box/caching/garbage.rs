//! A Redis in which lies what was never put there, and one that is none.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;

use super::admin::admin_section;
use super::failures::{ask, telling};
use super::shared::{Pair, open, sharing};
use super::*;

#[test]
fn what_lies_in_redis_and_is_no_answer_is_a_miss() {
    let origin = telling("X-Filler: something that makes it long enough to be worth a look\r\n");
    let revision = open(&origin, "{}");
    let pair = Pair::with(origin, &revision, "");
    pair.shares();
    let [first, second] = &pair.gateways;
    let broken = || second.metric("tollgate_cache_shared_lookups_total{result=\"broken\"}");
    let records = || -> Vec<String> {
        let keys = pair.redis.keys().into_iter();
        keys.filter(|key| key.contains("}:c1:") && !key.ends_with(":lease"))
            .collect()
    };
    let set = |key: &str, value: &[u8]| {
        let () = pair.redis.ask(redis::cmd("SET").arg(key).arg(value).arg("EX").arg(600));
    };
    type Spoil<'a> = &'a dyn Fn(&str, &[u8]);
    let spoils: [(&str, Spoil<'_>); 7] = [
        ("nothing", &|key, _| set(key, b"")),
        ("words", &|key, _| set(key, b"HTTP/1.1 200 OK\r\n\r\n/load/1 1")),
        ("cut short", &|key, record| set(key, &record[..record.len() / 2])),
        ("longer", &|key, record| set(key, &[record, b"more"].concat())),
        ("one bit", &|key, record| {
            let mut record = record.to_vec();
            let middle = record.len() / 2;
            record[middle] ^= 1;
            set(key, &record);
        }),
        ("another version", &|key, record| {
            set(key, &[b"tgc9", &record[4..]].concat())
        }),
        ("another type", &|key, _| {
            let () = pair.redis.ask(redis::cmd("DEL").arg(key));
            let () = pair.redis.ask(redis::cmd("RPUSH").arg(key).arg("x"));
        }),
    ];
    for (number, (what, spoil)) in spoils.iter().enumerate() {
        pair.comes_out(&format!("{what} is found to be broken"), |nth| {
            let target = format!("/{number}/{nth}");
            let known = records();
            assert_eq!(ask(first, &target), 1);
            let key = eventually("Redis has it", || {
                records().into_iter().find(|key| !known.contains(key))
            });
            let record: Vec<u8> = pair.redis.ask(redis::cmd("GET").arg(&key));
            spoil(&key, &record);
            let before = broken();
            assert_eq!([ask(second, &target), ask(second, &target)], [2, 2], "{what}");
            broken() > before
        });
    }
    // A whole record of another answer, under this one's name.
    let known = records();
    ask(first, "/foreign/1");
    let other = eventually("Redis has it", || {
        records().into_iter().find(|key| !known.contains(key))
    });
    let known = records();
    ask(first, "/foreign/2");
    let own = eventually("Redis has it", || {
        records().into_iter().find(|key| !known.contains(key))
    });
    let record: Vec<u8> = pair.redis.ask(redis::cmd("GET").arg(&other));
    set(&own, &record);
    assert_eq!(ask(second, "/foreign/2"), 2);
}

/// Something that is asked as if it was a Redis, and answers with nonsense. Ends when dropped.
struct Nonsense {
    address: SocketAddr,
    over: Arc<AtomicBool>,
    asked: Arc<AtomicUsize>,
    accepting: Option<JoinHandle<()>>,
}

impl Nonsense {
    fn start(says: &'static [u8]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (over, asked) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let accepting = {
            let (over, asked) = (Arc::clone(&over), Arc::clone(&asked));
            std::thread::spawn(move || {
                for stream in listener.incoming() {
                    if over.load(Ordering::SeqCst) {
                        return;
                    }
                    let (Ok(mut stream), asked) = (stream, Arc::clone(&asked)) else {
                        continue;
                    };
                    // Ends with the gateway, at the latest.
                    std::thread::spawn(move || {
                        let mut piece = [0; 4096];
                        while let Ok(1..) = stream.read(&mut piece) {
                            asked.fetch_add(1, Ordering::SeqCst);
                            if stream.write_all(says).is_err() {
                                return;
                            }
                        }
                    });
                }
            })
        };
        Self {
            address,
            over,
            asked,
            accepting: Some(accepting),
        }
    }
}

impl Drop for Nonsense {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        drop(TcpStream::connect(self.address));
        if let Some(accepting) = self.accepting.take() {
            let _ = accepting.join();
        }
    }
}

#[test]
fn a_redis_that_talks_nonsense_is_as_good_as_none() {
    for says in [
        &b"HTTP/1.1 400 Bad Request\r\n\r\n"[..],
        b"+OK\r\n",
        b"$-5\r\n*999999999\r\n",
        b"\x00\xff\xfe\r\n\r\n",
        b"*1\r\n$5\r\nhello\r\n:9223372036854775807\r\n$9223372036854775807\r\n",
    ] {
        let nonsense = Nonsense::start(says);
        let origin = telling("");
        let setup = Gateway::with(open(&origin, "{}")).section(&admin_section());
        let gateway = setup
            .section(&sharing(&format!("redis://{}", nonsense.address), "lease: 1s"))
            .start();
        until("it was asked", || nonsense.asked.load(Ordering::SeqCst) > 0);
        for nth in 0..20 {
            let target = format!("/{nth}");
            assert_eq!([ask(&gateway, &target), ask(&gateway, &target)], [1, 1]);
        }
        assert_eq!(origin.requests(), 20);
        // Ended before what it talks to, so that nobody waits for it.
        drop(gateway);
    }
}
