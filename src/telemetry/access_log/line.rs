//! A record as a line of JSON.
//!
//! By hand, because it is made for every request: names are constants that need no escaping, and texts that need none,
//! which is nearly all of them, are copied as they are. A derived serialiser looks at every byte of both, one by one.
//! What does need escaping goes through that serialiser all the same, so that there is one place for it.

use std::io::Write;
use std::net::IpAddr;

use super::Record;

/// Most lines fit.
const LINE: usize = 768;

/// The line of a record, with its end. Absent facts are left out.
pub(super) fn of(record: &Record) -> Vec<u8> {
    let mut line = Line(Vec::with_capacity(LINE));
    line.number("{\"time_ms\":", record.time_ms);
    line.text(",\"request_id\":", &record.request_id);
    line.text_if_any(",\"trace_id\":", &record.trace_id);
    line.address(",\"client\":", record.client);
    line.text_if_any(",\"method\":", record.method.as_ref().map_or("", http::Method::as_str));
    line.text_if_any(",\"host\":", &record.host);
    line.text_if_any(",\"path\":", &record.path);
    line.text_of(",\"api\":", record.api.as_ref().map(|name| name.as_str()));
    line.text_of(",\"route\":", record.route.as_deref());
    line.text_of(
        ",\"application\":",
        record.application.as_ref().map(|name| name.as_str()),
    );
    line.text_of(",\"key_id\":", record.key_id.as_ref().map(|id| id.as_str()));
    line.text_of(",\"subject\":", record.subject.as_deref());
    line.number(",\"status\":", u64::from(record.status));
    line.text_if_any(",\"code\":", record.code);
    line.text_if_any(",\"reason\":", record.reason);
    line.text_of(",\"limit\":", record.limit.as_deref());
    if record.would_deny {
        line.0.extend_from_slice(b",\"would_deny\":true");
    }
    line.text_of(",\"upstream\":", record.upstream.as_ref().map(|name| name.as_str()));
    line.text_of(",\"endpoint\":", record.endpoint.as_deref());
    if record.tries > 0 {
        line.number(",\"tries\":", u64::from(record.tries));
    }
    line.number(",\"bytes_in\":", record.bytes_in);
    line.number(",\"bytes_out\":", record.bytes_out);
    line.number(",\"duration_us\":", record.duration_us);
    if let Some(upstream_us) = record.upstream_us {
        line.number(",\"upstream_us\":", upstream_us);
    }
    line.text_if_any(",\"revision\":", &record.revision);
    line.0.extend_from_slice(b"}\n");
    line.0
}

/// A line on its way. `name` is what stands before a value: comma, quoted name, colon.
struct Line(Vec<u8>);

impl Line {
    fn number(&mut self, name: &'static str, number: u64) {
        self.0.extend_from_slice(name.as_bytes());
        self.0.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
    }

    fn text(&mut self, name: &'static str, text: &str) {
        self.0.extend_from_slice(name.as_bytes());
        if is_plain(text) {
            self.0.push(b'"');
            self.0.extend_from_slice(text.as_bytes());
            self.0.push(b'"');
        } else if serde_json::to_writer(&mut self.0, text).is_err() {
            // Writing to memory does not fail; the line would still be JSON.
            self.0.extend_from_slice(b"null");
        }
    }

    fn text_if_any(&mut self, name: &'static str, text: &str) {
        if !text.is_empty() {
            self.text(name, text);
        }
    }

    fn text_of(&mut self, name: &'static str, text: Option<&str>) {
        if let Some(text) = text {
            self.text(name, text);
        }
    }

    fn address(&mut self, name: &'static str, address: Option<IpAddr>) {
        let Some(address) = address else { return };
        self.0.extend_from_slice(name.as_bytes());
        self.0.push(b'"');
        // Writing to memory does not fail.
        let _ = write!(self.0, "{address}");
        self.0.push(b'"');
    }
}

/// Whether a text stands in JSON as it is. Without an early end, so that the compiler looks at many bytes at a time.
fn is_plain(text: &str) -> bool {
    !text.bytes().fold(false, |found, byte| {
        found | (byte < b' ') | (byte == b'"') | (byte == b'\\')
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn parsed(record: &Record) -> Value {
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
            request_id: "id-1".into(),
            trace_id: "4bf92f3577b34da6a3ce929d0e0e4736".into(),
            client: Some([192, 0, 2, 7].into()),
            method: Some(http::Method::GET),
            host: "api.example.com".into(),
            path: "/orders/7".into(),
            api: Some("orders".into()),
            route: Some("/orders/{id}".into()),
            application: Some("mobile".into()),
            key_id: Some("mobile-1".into()),
            subject: Some("somebody".into()),
            status: 429,
            code: "rate_limited",
            reason: "limit",
            limit: Some("burst".into()),
            would_deny: true,
            upstream: Some("orders".into()),
            endpoint: Some("10.0.0.1:80".into()),
            tries: 2,
            bytes_in: 3,
            bytes_out: 4,
            duration_us: 5,
            upstream_us: Some(6),
            revision: "0123456789ab".into(),
        };
        let expected = json!({
            "time_ms": u64::MAX, "request_id": "id-1", "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
            "client": "192.0.2.7", "method": "GET", "host": "api.example.com", "path": "/orders/7", "api": "orders",
            "route": "/orders/{id}", "application": "mobile", "key_id": "mobile-1", "subject": "somebody",
            "status": 429, "code": "rate_limited", "reason": "limit", "limit": "burst", "would_deny": true,
            "upstream": "orders", "endpoint": "10.0.0.1:80", "tries": 2, "bytes_in": 3, "bytes_out": 4,
            "duration_us": 5, "upstream_us": 6, "revision": "0123456789ab",
        });
        assert_eq!(parsed(&record), expected);
    }

    #[test]
    fn absent_facts_are_left_out() {
        let expected = json!({
            "time_ms": 0, "request_id": "", "status": 0, "bytes_in": 0, "bytes_out": 0, "duration_us": 0,
        });
        assert_eq!(parsed(&Record::default()), expected);
    }

    proptest! {
        #[test]
        fn whatever_a_client_sends_comes_back_out_of_the_line(text in any::<String>(), address in any::<std::net::IpAddr>()) {
            let record = Record {
                path: text.clone(),
                request_id: Arc::from(text.as_str()),
                client: Some(address),
                ..Record::default()
            };
            let value = parsed(&record);
            prop_assert_eq!(&value["request_id"], &text);
            prop_assert_eq!(value.get("path").and_then(Value::as_str).unwrap_or_default(), &text);
            prop_assert_eq!(value["client"].as_str().unwrap().parse::<std::net::IpAddr>().unwrap(), address);
        }
    }
}
