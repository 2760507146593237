//! A connection reads the same however its bytes are cut: the same messages, and a refusal at the same one. For which
//! of several reasons it is refused may depend on how much of it had arrived.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tollgate::framing::{BodyFault, Head, HeadError, HeadLimits, MessageBody, find_head_end, inspect, overrun};

const LIMITS: HeadLimits = HeadLimits {
    bytes: 4096,
    target: 256,
    method: 32,
    fields: 20,
};
const BODY_LIMIT: u64 = 1 << 20;

/// Where each message ended, and why the connection did.
#[derive(Debug, Default, PartialEq)]
struct Seen {
    messages: Vec<(Head, usize, u64)>,
    head: Option<HeadError>,
    body: Option<BodyFault>,
}

impl Seen {
    fn verdict(&self) -> (&[(Head, usize, u64)], bool, bool) {
        (&self.messages, self.head.is_some(), self.body.is_some())
    }
}

// The first byte says how the others are cut.
fuzz_target!(|input: &[u8]| {
    let Some((step, bytes)) = input.split_first() else {
        return;
    };
    let whole = converse(bytes, usize::MAX);
    assert_eq!(converse(bytes, 1).verdict(), whole.verdict());
    assert_eq!(converse(bytes, usize::from(*step) + 1).verdict(), whole.verdict());
});

/// Reads a connection that delivers `step` bytes at a time.
fn converse(bytes: &[u8], step: usize) -> Seen {
    let mut seen = Seen::default();
    let (mut start, mut arrived, mut searched, mut content) = (0, 0, 0, 0);
    let mut current: Option<(Head, MessageBody)> = None;
    while arrived < bytes.len() {
        arrived = arrived.saturating_add(step).min(bytes.len());
        while start < arrived {
            let buffer = &bytes[start..arrived];
            if let Some((head, body)) = &mut current {
                match body.advance(buffer) {
                    Ok(progress) => {
                        start += progress.consumed;
                        content += progress.body_bytes;
                    }
                    Err(error) => {
                        assert!(error.consumed <= buffer.len());
                        seen.body = Some(error.fault);
                        return seen;
                    }
                }
                if !body.is_complete() {
                    assert_eq!(start, arrived);
                    break;
                }
                seen.messages.push((*head, start, content));
                (current, searched, content) = (None, 0, 0);
                continue;
            }
            let Some(end) = find_head_end(buffer, searched) else {
                searched = buffer.len();
                seen.head = overrun(buffer, &LIMITS);
                if seen.head.is_some() {
                    return seen;
                }
                break;
            };
            let head = match inspect(&buffer[..end], &LIMITS) {
                Ok(head) => head,
                Err(error) => {
                    seen.head = Some(error);
                    return seen;
                }
            };
            assert_eq!(head.length, end);
            start += end;
            match MessageBody::begin(head.body, BODY_LIMIT) {
                Ok(body) if body.is_complete() => {
                    seen.messages.push((head, start, 0));
                    searched = 0;
                }
                Ok(body) => current = Some((head, body)),
                Err(fault) => {
                    seen.body = Some(fault);
                    return seen;
                }
            }
        }
    }
    seen
}
