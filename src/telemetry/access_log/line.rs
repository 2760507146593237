//! A record as a line of JSON.
//!
//! By hand, because it is made for every request: names are constants that need no escaping, and texts that need none,
//! which is nearly all of them, are copied as they are. A derived serialiser looks at every byte of both, one by one.
//! What does need escaping goes through that serialiser all the same, so that there is one place for it.

use std::io::Write;
use std::net::IpAddr;

use super::Record;

/// Adds the line of a record, with its end.
pub(super) fn append(lines: &mut Vec<u8>, record: &Record<'_>) {
    let mut line = Line(lines);
    line.number("{\"time_ms\":", record.time_ms);
    line.text(",\"request_id\":", record.request_id);
    line.text(",\"trace_id\":", record.trace_id);
    line.address(",\"client\":", record.client);
    line.text(",\"method\":", record.method);
    line.text(",\"host\":", record.host);
    line.text(",\"path\":", record.path);
    line.text(",\"api\":", record.api);
    line.text(",\"route\":", record.route);
    line.text(",\"application\":", record.application);
    line.text(",\"key_id\":", record.key_id);
    line.text(",\"subject\":", record.subject);
    line.number(",\"status\":", u64::from(record.status));
    line.text(",\"code\":", record.code);
    line.text(",\"reason\":", record.reason);
    line.text(",\"limit\":", record.limit);
    if record.would_deny {
        line.0.extend_from_slice(b",\"would_deny\":true");
    }
    line.text(",\"cache\":", record.cache);
    line.text(",\"upstream\":", record.upstream);
    line.text(",\"endpoint\":", record.endpoint);
    if record.tries > 0 {
        line.number(",\"tries\":", u64::from(record.tries));
    }
    line.number(",\"bytes_in\":", record.bytes_in);
    line.number(",\"bytes_out\":", record.bytes_out);
    line.number(",\"duration_us\":", record.duration_us);
    if let Some(upstream_us) = record.upstream_us {
        line.number(",\"upstream_us\":", upstream_us);
    }
    line.text(",\"revision\":", record.revision);
    line.0.extend_from_slice(b"}\n");
}

/// A line on its way. `name` is what stands before a value: comma, quoted name, colon.
struct Line<'a>(&'a mut Vec<u8>);

impl Line<'_> {
    fn number(&mut self, name: &'static str, number: u64) {
        self.0.extend_from_slice(name.as_bytes());
        self.0.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
    }

    fn text(&mut self, name: &'static str, text: &str) {
        if text.is_empty() {
            return;
        }
        self.0.extend_from_slice(name.as_bytes());
        if is_plain(text.as_bytes()) {
            self.0.push(b'"');
            self.0.extend_from_slice(text.as_bytes());
            self.0.push(b'"');
        } else if serde_json::to_writer(&mut self.0, text).is_err() {
            // Writing to memory does not fail; the line would still be JSON.
            self.0.extend_from_slice(b"null");
        }
    }

    fn address(&mut self, name: &'static str, address: Option<IpAddr>) {
        let Some(address) = address else { return };
        self.0.extend_from_slice(name.as_bytes());
        self.0.push(b'"');
        match address {
            // Nearly all are, and the formatting machinery takes longer than the rest of the line.
            IpAddr::V4(address) => {
                let mut number = itoa::Buffer::new();
                for (position, octet) in address.octets().into_iter().enumerate() {
                    if position > 0 {
                        self.0.push(b'.');
                    }
                    self.0.extend_from_slice(number.format(octet).as_bytes());
                }
            }
            IpAddr::V6(address) => {
                // Writing to memory does not fail.
                let _ = write!(self.0, "{address}");
            }
        }
        self.0.push(b'"');
    }
}

/// Whether a text stands in JSON as it is; eight bytes at a time.
fn is_plain(text: &[u8]) -> bool {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGHS: u64 = ONES * 0x80;
    /// A high bit for the lowest byte below `bound`, at least (Bit Twiddling Hacks, "hasless").
    const fn below(word: u64, bound: u64) -> u64 {
        word.wrapping_sub(ONES * bound) & !word
    }
    let (words, rest) = text.as_chunks::<8>();
    let mut found = 0;
    for word in words {
        let word = u64::from_le_bytes(*word);
        let quote = below(word ^ (ONES * 0x22), 1);
        let backslash = below(word ^ (ONES * 0x5c), 1);
        found |= below(word, 0x20) | quote | backslash;
    }
    let is_special = |byte: &u8| *byte < b' ' || matches!(*byte, b'"' | b'\\');
    found & HIGHS == 0 && !rest.iter().any(is_special)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn of(record: &Record<'_>) -> Vec<u8> {
        let mut line = Vec::new();
        append(&mut line, record);
        line
    }

    fn parsed(record: &Record<'_>) -> Value {
        let line = of(record);
        let (end, text) = line.split_last().unwrap();
        assert_eq!(*end, b'\n');
        assert!(!text.contains(&b'\n'), "one record, one line");
        serde_json::from_slice(text).unwrap()
    }

    #[test]
    fn every_fact_has_its_name_and_its_type() {
        let record = Record {
            time_ms: u64::MAX,
            request_id: "id-1",
            trace_id: "4bf92f3577b34da6a3ce929d0e0e4736",
            client: Some([192, 0, 2, 7].into()),
            method: "GET",
            host: "api.example.com",
            path: "/orders/7",
            api: "orders",
            route: "/orders/{id}",
            application: "mobile",
            key_id: "mobile-1",
            subject: "somebody",
            status: 429,
            code: "rate_limited",
            reason: "limit",
            limit: "burst",
            would_deny: true,
            cache: "miss",
            upstream: "orders",
            endpoint: "10.0.0.1:80",
            tries: 2,
            bytes_in: 3,
            bytes_out: 4,
            duration_us: 5,
            upstream_us: Some(6),
            revision: "0123456789ab",
        };
        let expected = json!({
            "time_ms": u64::MAX, "request_id": "id-1", "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
            "client": "192.0.2.7", "method": "GET", "host": "api.example.com", "path": "/orders/7", "api": "orders",
            "route": "/orders/{id}", "application": "mobile", "key_id": "mobile-1", "subject": "somebody",
            "status": 429, "code": "rate_limited", "reason": "limit", "limit": "burst", "would_deny": true,
            "cache": "miss", "upstream": "orders", "endpoint": "10.0.0.1:80", "tries": 2, "bytes_in": 3, "bytes_out": 4,
            "duration_us": 5, "upstream_us": 6, "revision": "0123456789ab",
        });
        assert_eq!(parsed(&record), expected);
    }

    #[test]
    fn absent_facts_are_left_out() {
        let expected = json!({
            "time_ms": 0, "status": 0, "bytes_in": 0, "bytes_out": 0, "duration_us": 0,
        });
        assert_eq!(parsed(&Record::default()), expected);
    }

    proptest! {
        #[test]
        fn whatever_a_client_sends_comes_back_out_of_the_line(
            text in any::<String>(),
            address in any::<std::net::IpAddr>(),
        ) {
            let record = Record {
                path: &text,
                host: &text,
                client: Some(address),
                ..Record::default()
            };
            let value = parsed(&record);
            for name in ["path", "host"] {
                prop_assert_eq!(value.get(name).and_then(Value::as_str).unwrap_or_default(), &text);
            }
            prop_assert_eq!(value["client"].as_str().unwrap().parse::<std::net::IpAddr>().unwrap(), address);
        }

        #[test]
        fn a_text_is_plain_when_json_says_so(text in "[ -~]{0,20}[\\x00-\\x7f\u{80}-\u{10ffff}]?[ -~]{0,20}") {
            let escaped = serde_json::to_string(&text).unwrap();
            // JSON does not escape U+007F, and neither has to.
            prop_assert_eq!(is_plain(text.as_bytes()), escaped.len() == text.len() + 2);
        }
    }
}
