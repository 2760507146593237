//! Conversations as they arrive on a connection: the rows of the threat list, each by name.

use proptest::prelude::*;

use super::*;

const LIMITS: HeadLimits = HeadLimits {
    bytes: 4096,
    target: 256,
    method: 32,
    fields: 20,
};
const BODY_LIMIT: u64 = 1000;

/// What became of the bytes of one connection.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    /// Method, path, content bytes and end of each complete message.
    messages: Vec<(String, String, u64, usize)>,
    refused: Option<Refused>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Refused {
    Head(HeadError),
    Body(BodyFault),
}

/// Reads a connection that delivers `bytes` cut at `cuts`, the way the connection code does.
fn converse(bytes: &[u8], cuts: &[usize]) -> Seen {
    let mut cuts: Vec<usize> = cuts
        .iter()
        .map(|cut| cut % (bytes.len() + 1))
        .chain([bytes.len()])
        .collect();
    cuts.sort_unstable();
    let mut seen = Seen {
        messages: Vec::new(),
        refused: None,
    };
    let (mut start, mut searched, mut content) = (0, 0, 0);
    let mut current: Option<(Head, MessageBody)> = None;
    for arrived in cuts {
        loop {
            let buffer = &bytes[start..arrived];
            if current.is_none() {
                match find_head_end(buffer, searched) {
                    None => {
                        searched = buffer.len();
                        if let Some(error) = overrun(buffer, &LIMITS) {
                            seen.refused = Some(Refused::Head(error));
                            return seen;
                        }
                        break;
                    }
                    Some(end) => match inspect(&buffer[..end], &LIMITS) {
                        Err(error) => {
                            seen.refused = Some(Refused::Head(error));
                            return seen;
                        }
                        Ok(head) => {
                            assert_eq!(head.length, end, "the head ends where its end was found");
                            let text = |span: Span| String::from_utf8(span.of(buffer).to_vec()).unwrap();
                            seen.messages.push((text(head.method), text(head.path), 0, 0));
                            match MessageBody::begin(head.body, BODY_LIMIT) {
                                Ok(body) => current = Some((head, body)),
                                Err(fault) => {
                                    seen.messages.pop();
                                    seen.refused = Some(Refused::Body(fault));
                                    return seen;
                                }
                            }
                            start += end;
                            searched = 0;
                            content = 0;
                            continue;
                        }
                    },
                }
            }
            let Some((_, body)) = &mut current else { unreachable!() };
            match body.advance(buffer) {
                Ok(progress) => {
                    start += progress.consumed;
                    content += progress.body_bytes;
                }
                Err(error) => {
                    assert!(error.consumed <= buffer.len());
                    assert_eq!(
                        body.advance(b"x").map_err(|again| again.fault),
                        Err(error.fault),
                        "refused for good"
                    );
                    seen.messages.pop();
                    seen.refused = Some(Refused::Body(error.fault));
                    return seen;
                }
            }
            if !body.is_complete() {
                assert_eq!(start, arrived, "an unfinished body takes all there is");
                break;
            }
            let last = seen.messages.last_mut().unwrap();
            (last.2, last.3) = (content, start);
            current = None;
            if start == arrived {
                break;
            }
        }
    }
    if current.is_some() {
        seen.messages.pop();
    }
    seen
}

fn refusal(bytes: &[u8]) -> Option<Refused> {
    converse(bytes, &[]).refused
}

fn head_of(text: &str) -> Result<Head, HeadError> {
    inspect(text.as_bytes(), &LIMITS)
}

/// `GET / HTTP/1.1`, a host, and these lines.
fn with_fields(lines: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n")
}

fn chunks(body: &str) -> String {
    format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{body}")
}

#[track_caller]
fn assert_malformed(name: &str, text: &str, expected: Malformed) {
    assert_eq!(
        refusal(text.as_bytes()),
        Some(Refused::Head(HeadError::Malformed(expected))),
        "{name}: {text:?}"
    );
}

#[track_caller]
fn assert_body_refused(name: &str, text: &str, expected: BodyFault) {
    assert_eq!(
        refusal(text.as_bytes()),
        Some(Refused::Body(expected)),
        "{name}: {text:?}"
    );
}

#[track_caller]
fn assert_passes(name: &str, text: &str) {
    let seen = converse(text.as_bytes(), &[]);
    assert!(
        seen.refused.is_none() && seen.messages.len() == 1,
        "{name}: {text:?} {seen:?}"
    );
}

#[test]
fn a_plain_request_is_read() {
    let text = "GET /orders/7?full=1 HTTP/1.1\r\nHost: api.example.com:8080\r\nX_Odd: 1\r\nAccept: */*\r\n\r\nrest";
    let head = head_of(text).unwrap();
    assert_eq!(head.method.of(text.as_bytes()), b"GET");
    assert_eq!(head.path.of(text.as_bytes()), b"/orders/7?full=1");
    assert_eq!(head.host.of(text.as_bytes()), b"api.example.com:8080");
    assert_eq!((head.length, head.fields, head.body), (text.len() - 4, 3, Body::None));
    assert!(head.keep_alive && head.has_underscore_names && !head.absolute && !head.http10 && !head.upgrade);
}

#[test]
fn one_empty_line_before_a_request_is_skipped_and_a_second_is_not() {
    let head = head_of("\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    assert_eq!(head.start, 2);
    assert_malformed(
        "two empty lines",
        "\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        Malformed::RequestLine,
    );
}

#[test]
fn pipelined_requests_are_told_apart() {
    let text = format!(
        "{}GET /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabcGET /3 HTTP/1.1\r\nHost: a\r\n\r\n",
        chunks("5;x=y\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n")
    );
    let seen = converse(text.as_bytes(), &[]);
    assert_eq!(seen.refused, None);
    let read: Vec<_> = seen
        .messages
        .iter()
        .map(|m| (m.0.as_str(), m.1.as_str(), m.2))
        .collect();
    assert_eq!(read, [("POST", "/", 5), ("GET", "/2", 3), ("GET", "/3", 0)]);
    assert_eq!(seen.messages[2].3, text.len());
}

// Case 1: framing that two parsers read differently.

#[test]
fn content_length_is_one_field_of_digits() {
    use Malformed::{ContentLengthInvalid as Invalid, ContentLengthRepeated as Repeated};
    for (name, lines, expected) in [
        (
            "equal duplicates",
            "Content-Length: 5\r\nContent-Length: 5\r\n",
            Repeated,
        ),
        (
            "different duplicates",
            "Content-Length: 5\r\ncontent-length: 6\r\n",
            Repeated,
        ),
        ("a list of equal values", "Content-Length: 1000,1000\r\n", Invalid),
        ("empty", "Content-Length:\r\n", Invalid),
        ("only spaces", "Content-Length:  \t \r\n", Invalid),
        ("plus", "Content-Length: +5\r\n", Invalid),
        ("minus", "Content-Length: -5\r\n", Invalid),
        ("hexadecimal", "Content-Length: 0x5\r\n", Invalid),
        ("inner space", "Content-Length: 5 5\r\n", Invalid),
        ("fraction", "Content-Length: 5.0\r\n", Invalid),
        ("other digits", "Content-Length: \u{665}\r\n", Invalid),
        ("20 digits", "Content-Length: 00000000000000000005\r\n", Invalid),
        ("over 64 bits", "Content-Length: 18446744073709551616\r\n", Invalid),
    ] {
        assert_malformed(name, &with_fields(lines), expected);
    }
    assert_eq!(
        head_of(&with_fields("Content-Length: \t5 \r\n")).unwrap().body,
        Body::Length(5)
    );
    let longest = head_of(&with_fields("Content-Length: 9999999999999999999\r\n")).unwrap();
    assert_eq!(longest.body, Body::Length(9_999_999_999_999_999_999));
}

#[test]
fn transfer_encoding_is_chunked_once_and_alone() {
    use Malformed::{TransferEncodingInvalid as Invalid, TransferEncodingRepeated as Repeated};
    for (name, lines, expected) in [
        (
            "with a length",
            "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
            Malformed::LengthAndEncoding,
        ),
        (
            "behind a length",
            "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
            Malformed::LengthAndEncoding,
        ),
        (
            "two lines",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            Repeated,
        ),
        ("identity first", "Transfer-Encoding: identity, chunked\r\n", Invalid),
        ("twice", "Transfer-Encoding: chunked, chunked\r\n", Invalid),
        ("empty element", "Transfer-Encoding: ,chunked\r\n", Invalid),
        ("identity", "Transfer-Encoding: identity\r\n", Invalid),
        ("gzip", "Transfer-Encoding: gzip, chunked\r\n", Invalid),
        ("parameter", "Transfer-Encoding: chunked;q=1\r\n", Invalid),
        ("quoted", "Transfer-Encoding: \"chunked\"\r\n", Invalid),
        ("xchunked", "Transfer-Encoding: xchunked\r\n", Invalid),
        (
            "vertical tab",
            "Transfer-Encoding: \u{b}chunked\r\n",
            Malformed::FieldValue,
        ),
        ("empty", "Transfer-Encoding:\r\n", Invalid),
    ] {
        assert_malformed(name, &with_fields(lines), expected);
    }
    assert_malformed(
        "in HTTP/1.0",
        "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
        Malformed::TransferEncodingInHttp10,
    );
    assert_eq!(
        head_of(&with_fields("transfer-encoding: \tChunked \r\n")).unwrap().body,
        Body::Chunked
    );
}

// Case 2: chunks.

#[test]
fn chunks_are_sizes_data_and_ends_and_nothing_else() {
    use BodyFault::{ChunkExtension as Extension, ChunkSize as Size, LineEnd};
    for (name, body, expected) in [
        ("an empty size line is no last chunk", "5\r\nhello\r\n\r\n", Size),
        ("an empty first line", "\r\n", Size),
        ("0x", "0x5\r\nhello\r\n0\r\n\r\n", Size),
        ("plus", "+5\r\nhello\r\n0\r\n\r\n", Size),
        ("minus", "-5\r\nhello\r\n0\r\n\r\n", Size),
        ("leading space", " 5\r\nhello\r\n0\r\n\r\n", Size),
        ("trailing space", "5 \r\nhello\r\n0\r\n\r\n", Size),
        ("space before an extension", "5 ;a\r\nhello\r\n0\r\n\r\n", Size),
        ("underscore", "1_0\r\n", Size),
        ("17 digits", "00000000000000005\r\nhello\r\n0\r\n\r\n", Size),
        ("more than 64 bits", "10000000000000005\r\n", Size),
        (
            "sum over 64 bits",
            "1\r\nx\r\nffffffffffffffff\r\n",
            BodyFault::TooLarge,
        ),
        ("no size before an extension", ";a\r\n", Size),
        ("empty extension", "5;\r\nhello\r\n0\r\n\r\n", Extension),
        ("NUL in an extension", "5;a\0\r\nhello\r\n0\r\n\r\n", Extension),
        ("control in an extension", "5;a\u{b}b\r\nhello\r\n0\r\n\r\n", Extension),
        ("bare LF behind a size", "5\nhello\r\n0\r\n\r\n", LineEnd),
        ("bare LF behind an extension", "5;a\nhello\r\n0\r\n\r\n", LineEnd),
        ("bare CR behind a size", "5\rhello\r\n0\r\n\r\n", LineEnd),
        ("bare CR in an extension", "5;a\rb\r\nhello\r\n0\r\n\r\n", LineEnd),
        ("data longer than its size", "5\r\nhelloworld\r\n0\r\n\r\n", LineEnd),
        ("bare LF behind data", "5\r\nhello\n0\r\n\r\n", LineEnd),
        ("data without an end", "5\r\nhello0\r\n\r\n", LineEnd),
        ("bare LF at the end", "0\r\n\n", LineEnd),
        ("last chunk without CR LF", "0\n\n", LineEnd),
        ("CR CR LF", "5\r\r\nhello\r\n0\r\n\r\n", LineEnd),
    ] {
        assert_body_refused(name, &chunks(body), expected);
    }
    for (name, body) in [
        (
            "upper and lower case",
            "A\r\n0123456789\r\na\r\n0123456789\r\n0\r\n\r\n",
        ),
        ("16 digits", "0000000000000005\r\nhello\r\n0000000000000000\r\n\r\n"),
        ("an extension", "5;name=\"a b\";x\r\nhello\r\n0;last\r\n\r\n"),
        ("data that looks like framing", "7\r\n\r\n0\r\n\r\n\r\n0\r\n\r\n"),
        ("nothing", "0\r\n\r\n"),
    ] {
        assert_passes(name, &chunks(body));
    }
}

#[test]
fn chunk_extensions_are_bounded_over_the_whole_message() {
    let message = |bytes: usize| {
        let each = "1;aaa\r\nx\r\n".repeat(100); // four bytes each, the semicolon counts
        chunks(&format!("{each}0;{}\r\n\r\n", "e".repeat(bytes - 401)))
    };
    assert_passes("at the limit", &message(4096));
    assert_body_refused("one more", &message(4097), BodyFault::ChunkExtensionsTooLong);
}

#[test]
fn trailers_are_linted_like_header_lines() {
    for (name, trailer) in [
        ("Content-Length", "Content-Length: 5"),
        ("Transfer-Encoding", "Transfer-Encoding: chunked"),
        ("Host", "host: b"),
        ("Authorization", "AUTHORIZATION: Bearer x"),
        ("X-API-Key", "x-api-key: k"),
        ("X-Forwarded-Something", "X-Forwarded-A-Very-Long-Name-Indeed: x"),
        ("X-Application", "X-Application: other"),
        ("Connection", "Connection: close"),
        ("Content-Type", "Content-Type: text/html"),
        ("space before the colon", "X-Sum : 1"),
        ("no colon", "X-Sum"),
        ("empty name", ": 1"),
        ("folded", "X-Sum: 1\r\n 2"),
        ("NUL", "X-Sum: \0"),
        ("a request", "GET /admin HTTP/1.1"),
    ] {
        assert_body_refused(name, &chunks(&format!("0\r\n{trailer}\r\n\r\n")), BodyFault::Trailer);
    }
    assert_body_refused("bare LF", &chunks("0\r\nX-Sum: 1\n\r\n"), BodyFault::LineEnd);
    assert_body_refused("bare CR", &chunks("0\r\nX-Sum: 1\r2\r\n\r\n"), BodyFault::LineEnd);
    assert_passes("checksums", &chunks("0\r\nX-Sum: 1\r\nDigest:\r\n\r\n"));
    let long = |bytes: usize| chunks(&format!("0\r\nX: {}\r\n\r\n", "v".repeat(bytes - 4))); // X, colon, space, CR
    assert_passes("8 KiB", &long(8192));
    assert_body_refused("one byte more", &long(8193), BodyFault::TrailersTooLong);
}

#[test]
fn what_may_be_handed_on_ends_before_the_offending_line() {
    let mut chunked = Chunked::new(BODY_LIMIT);
    let error = chunked.advance(b"5\r\nhello\r\n0x\r\n").unwrap_err();
    assert_eq!(
        error,
        BodyError {
            fault: BodyFault::ChunkSize,
            consumed: 10
        }
    );
    assert_eq!(chunked.body_bytes(), 5);
    let mut chunked = Chunked::new(BODY_LIMIT);
    assert_eq!(chunked.advance(b"5;ex").unwrap().consumed, 4);
    let error = chunked.advance(b"t\nhello").unwrap_err();
    assert_eq!(
        error,
        BodyError {
            fault: BodyFault::LineEnd,
            consumed: 0
        },
        "the line began in an earlier call"
    );
}

// Case 3: the host.

#[test]
fn exactly_one_host_that_is_a_host() {
    use Malformed::{HostInvalid as Invalid, HostMissing as Missing, HostRepeated as Repeated};
    for (name, text, expected) in [
        ("missing", "GET / HTTP/1.1\r\nAccept: a\r\n\r\n", Missing),
        ("missing without any field", "GET / HTTP/1.1\r\n\r\n", Missing),
        ("missing in HTTP/1.0", "GET / HTTP/1.0\r\n\r\n", Missing),
        ("twice", "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", Repeated),
        (
            "twice the same",
            "GET / HTTP/1.1\r\nHost: a\r\nhOST: a\r\n\r\n",
            Repeated,
        ),
        ("empty", "GET / HTTP/1.1\r\nHost:\r\n\r\n", Invalid),
        ("user", "GET / HTTP/1.1\r\nHost: a@b\r\n\r\n", Invalid),
        ("path", "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", Invalid),
        ("list", "GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", Invalid),
        ("space", "GET / HTTP/1.1\r\nHost: a b\r\n\r\n", Invalid),
        ("port that is none", "GET / HTTP/1.1\r\nHost: a:80x\r\n\r\n", Invalid),
        ("two ports", "GET / HTTP/1.1\r\nHost: a:80:81\r\n\r\n", Invalid),
        ("scheme", "GET / HTTP/1.1\r\nHost: http://a\r\n\r\n", Invalid),
    ] {
        assert_malformed(name, text, expected);
    }
    for host in ["a", "10.0.0.1:80", "[::1]:80", "A.Example.Com."] {
        assert_passes(host, &format!("GET / HTTP/1.1\r\nHost: \t{host} \r\n\r\n"));
    }
}

#[test]
fn an_absolute_target_names_the_same_host() {
    let text = "GET HTTP://A.example:80/x?y HTTP/1.1\r\nHost: a.example:80\r\n\r\n";
    let head = head_of(text).unwrap();
    assert!(head.absolute);
    assert_eq!(head.path.of(text.as_bytes()), b"/x?y");
    for (name, target) in [
        ("another host", "http://b.example/"),
        ("a user", "http://u@a/"),
        ("another port", "http://a:81/"),
        ("no host", "http:///x"),
        ("the host as a prefix", "http://a.evil.example/"),
    ] {
        let text = format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_malformed(name, &text, Malformed::TargetHostMismatch);
    }
    for (name, target) in [
        ("no path", "http://a"),
        ("no path but a query", "http://a?x=/y"),
        ("https", "https://a/"),
        ("another scheme", "ftp://a/"),
        ("no scheme", "a/x"),
    ] {
        assert_malformed(
            name,
            &format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n"),
            Malformed::TargetForm,
        );
    }
}

// Case 4: lines.

#[test]
fn every_line_is_one_line_to_every_parser() {
    use Malformed::{FieldName as Name, FieldValue as Value, FoldedLine as Folded, LineEnd, RequestLine};
    for (name, text, expected) in [
        (
            "bare LF behind the request line",
            "GET / HTTP/1.1\nHost: a\r\n\r\n",
            LineEnd,
        ),
        (
            "bare LF behind a field",
            "GET / HTTP/1.1\r\nHost: a\nX: 1\r\n\r\n",
            LineEnd,
        ),
        ("two bare LF", "GET / HTTP/1.1\n\n", LineEnd),
        ("bare LF as the blank line", "GET / HTTP/1.1\r\nHost: a\r\n\n", LineEnd),
        (
            "bare CR in the request line",
            "GET / HTTP/1.1\rHost: a\r\n\r\n",
            LineEnd,
        ),
        (
            "bare CR in a value",
            "GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n",
            LineEnd,
        ),
        ("CR CR LF", "GET / HTTP/1.1\r\nHost: a\r\r\n\r\n", LineEnd),
        ("a leading bare LF", "\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", RequestLine),
        ("NUL in a value", "GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n", Value),
        (
            "escape in a value",
            "GET / HTTP/1.1\r\nHost: a\r\nX: a\u{1b}b\r\n\r\n",
            Value,
        ),
        (
            "DEL in a value",
            "GET / HTTP/1.1\r\nHost: a\r\nX: a\u{7f}b\r\n\r\n",
            Value,
        ),
        (
            "folded value",
            "GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n",
            Folded,
        ),
        (
            "folded by a tab",
            "GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n\tb\r\n\r\n",
            Folded,
        ),
        (
            "space before the first field",
            "GET / HTTP/1.1\r\n Host: a\r\n\r\n",
            Folded,
        ),
        (
            "space before the colon",
            "GET / HTTP/1.1\r\nHost: a\r\nX : 1\r\n\r\n",
            Name,
        ),
        (
            "tab before the colon",
            "GET / HTTP/1.1\r\nHost: a\r\nContent-Length\t: 5\r\n\r\n",
            Name,
        ),
        ("empty name", "GET / HTTP/1.1\r\nHost: a\r\n: 1\r\n\r\n", Name),
        ("no colon", "GET / HTTP/1.1\r\nHost: a\r\nX\r\n\r\n", Name),
        ("NUL in a name", "GET / HTTP/1.1\r\nHost: a\r\nX\0: 1\r\n\r\n", Name),
        (
            "high byte in a name",
            "GET / HTTP/1.1\r\nHost: a\r\nX\u{e4}: 1\r\n\r\n",
            Name,
        ),
        ("quote in a name", "GET / HTTP/1.1\r\nHost: a\r\n\"X\": 1\r\n\r\n", Name),
        ("HTTP/0.9", "GET /\r\n\r\n", RequestLine),
        ("two spaces", "GET  / HTTP/1.1\r\nHost: a\r\n\r\n", RequestLine),
        (
            "two spaces before the version",
            "GET /  HTTP/1.1\r\nHost: a\r\n\r\n",
            RequestLine,
        ),
        (
            "space behind the version",
            "GET / HTTP/1.1 \r\nHost: a\r\n\r\n",
            RequestLine,
        ),
        ("leading space", " GET / HTTP/1.1\r\nHost: a\r\n\r\n", RequestLine),
        ("tab for a space", "GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n", RequestLine),
        ("lower-case version", "GET / http/1.1\r\nHost: a\r\n\r\n", RequestLine),
        ("no minor version", "GET / HTTP/1\r\nHost: a\r\n\r\n", RequestLine),
        (
            "method with a control",
            "G\u{1}T / HTTP/1.1\r\nHost: a\r\n\r\n",
            RequestLine,
        ),
        ("no method", "/ HTTP/1.1\r\nHost: a\r\n\r\n", RequestLine),
    ] {
        assert_malformed(name, text, expected);
    }
    assert_passes(
        "obs-text and tab in a value",
        &with_fields("X: \u{e4}\t\u{fc}\r\nEmpty:\r\n"),
    );
}

#[test]
fn two_bare_line_feeds_are_refused_without_waiting_for_a_blank_line() {
    assert_eq!(find_head_end(b"GET / HTTP/1.1\n\n", 0), Some(15));
    assert_eq!(find_head_end(b"GET / HTTP/1.1\r\nHost: a\n", 20), Some(24));
    assert_eq!(find_head_end(b"GET / HTTP/1.1\r\nHost: a\r\n\r", 0), None);
    assert_eq!(find_head_end(b"GET / HTTP/1.1\r\nHost: a\r\n\r\nX", 26), Some(27));
    assert_eq!(find_head_end(b"", 7), None);
}

// Case 5: the target.

#[test]
fn a_target_is_a_path_of_visible_ascii() {
    use Malformed::{Fragment, TargetByte as Byte, TargetForm as Form};
    for (name, target, expected) in [
        ("asterisk", "*", Form),
        ("no slash", "admin", Form),
        ("exclamation mark", "!", Form),
        ("escape first", "%00/x", Form),
        ("query only", "?x", Form),
        ("authority", "a:443", Form),
        ("fragment", "/a#b", Fragment),
        ("fragment in the query", "/a?b#c", Fragment),
        ("fragment alone", "#", Fragment),
        ("not ASCII", "/\u{e4}", Byte),
        ("not ASCII in the query", "/?\u{e4}", Byte),
        ("NUL", "/\0", Byte),
        ("DEL", "/\u{7f}", Byte),
        ("tab", "/a\tb", Byte),
        ("angle bracket", "/<b>", Byte),
        ("quote in the query", "/?a=\"b\"", Byte),
        ("space", "/a b", Malformed::RequestLine),
        ("CR", "/a\rb", Malformed::RequestLine),
        ("nothing", "", Malformed::RequestLine),
    ] {
        assert_malformed(name, &format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n"), expected);
    }
    assert_passes("OPTIONS *", "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_malformed("options *", "options * HTTP/1.1\r\nHost: a\r\n\r\n", Form);
    assert_passes(
        "a query as browsers write it",
        "GET /?a[]={|}`^ HTTP/1.1\r\nHost: a\r\n\r\n",
    );
}

// Case 7: fields that `Connection` may not drop.

#[test]
fn connection_names_no_field_of_ours() {
    for (field, named) in [
        ("Host", "host"),
        ("Content-Length", "content-length"),
        ("transfer-encoding", "transfer-encoding"),
        ("AUTHORIZATION", "authorization"),
        ("cookie", "cookie"),
        ("x-api-key", "x-api-key"),
        ("X-Application", "x-application"),
        ("x-key-type", "x-key-type"),
        ("x-request-id", "x-request-id"),
        ("x-real-ip", "x-real-ip"),
        ("X-Forwarded-For", "x-forwarded-"),
        ("x-forwarded-anything", "x-forwarded-"),
        ("x-consumer-id", "x-consumer-"),
        ("forwarded", "forwarded"),
        ("traceparent", "traceparent"),
    ] {
        let expected = Malformed::ConnectionNames(named);
        assert_malformed(field, &with_fields(&format!("Connection: {field}\r\n")), expected);
        assert_malformed(
            field,
            &with_fields(&format!("Connection: close, \t{field} ,te\r\n")),
            expected,
        );
        assert_malformed(
            field,
            &with_fields(&format!("Connection: te\r\nconnection: {field}\r\n")),
            expected,
        );
    }
    assert_malformed(
        "two words",
        &with_fields("Connection: keep alive\r\n"),
        Malformed::ConnectionInvalid,
    );
    for allowed in [
        "close",
        "keep-alive",
        "Upgrade, HTTP2-Settings",
        "te",
        "x-something-else",
        "",
        "close,,te",
    ] {
        assert_passes(allowed, &with_fields(&format!("Connection: {allowed}\r\n")));
    }
    let error = head_of(&with_fields("Connection: x-api-key\r\n")).unwrap_err();
    assert!(error.to_string().ends_with(": x-api-key"), "{error}");
}

#[test]
fn the_client_says_whether_the_connection_goes_on() {
    let kept = |text: &str| head_of(text).unwrap().keep_alive;
    assert!(kept("GET / HTTP/1.1\r\nHost: a\r\n\r\n"));
    assert!(!kept(
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Close\r\n\r\n"
    ));
    assert!(!kept("GET / HTTP/1.0\r\nHost: a\r\n\r\n"));
    assert!(kept("GET / HTTP/1.0\r\nHost: a\r\nConnection: Keep-Alive\r\n\r\n"));
}

#[test]
fn expectation_and_upgrade_mean_nothing_in_http_1_0() {
    let head = |version: &str, lines: &str| head_of(&format!("GET / {version}\r\nHost: a\r\n{lines}\r\n"));
    assert!(head("HTTP/1.1", "Expect: 100-Continue\r\n").unwrap().expect_continue);
    assert!(!head("HTTP/1.0", "Expect: 100-continue\r\n").unwrap().expect_continue);
    assert!(
        head("HTTP/1.1", "Upgrade: foo\r\n").unwrap().upgrade,
        "whether or not Connection names it"
    );
    assert!(
        !head("HTTP/1.0", "Upgrade: foo\r\nConnection: upgrade\r\n")
            .unwrap()
            .upgrade
    );
    assert_eq!(
        head("HTTP/1.1", "Expect: 200-ok\r\n"),
        Err(HeadError::ExpectationFailed)
    );
    assert_eq!(head("HTTP/1.1", "Expect:\r\n"), Err(HeadError::ExpectationFailed));
}

// Case 19: the limit passes, one more does not.

#[test]
fn a_target_of_the_limit_passes_and_one_byte_more_is_414() {
    let request = |bytes: usize| format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "p".repeat(bytes - 1));
    assert_passes("limit", &request(LIMITS.target));
    assert_eq!(head_of(&request(LIMITS.target + 1)), Err(HeadError::UriTooLong));
    let endless = format!("GET /{}", "p".repeat(LIMITS.target));
    assert_eq!(
        overrun(endless.as_bytes(), &LIMITS),
        Some(HeadError::UriTooLong),
        "without waiting for its end"
    );
    assert_eq!(overrun(&endless.as_bytes()[..endless.len() - 1], &LIMITS), None);
}

#[test]
fn a_method_of_the_limit_passes_and_one_byte_more_is_501() {
    let request = |bytes: usize| format!("{} / HTTP/1.1\r\nHost: a\r\n\r\n", "M".repeat(bytes));
    assert_passes("limit", &request(LIMITS.method));
    assert_eq!(
        head_of(&request(LIMITS.method + 1)),
        Err(HeadError::MethodNotImplemented)
    );
    let endless = "M".repeat(LIMITS.method + 1);
    assert_eq!(
        overrun(endless.as_bytes(), &LIMITS),
        Some(HeadError::MethodNotImplemented)
    );
    assert_eq!(overrun(&endless.as_bytes()[..LIMITS.method], &LIMITS), None);
    for method in ["CONNECT", "TRACE", "Trace"] {
        let text = format!("{method} / HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(head_of(&text), Err(HeadError::MethodNotImplemented), "{method}");
    }
}

#[test]
fn a_head_of_the_limit_passes_and_one_byte_more_is_431() {
    let request = |bytes: usize| {
        let rest = bytes - with_fields("X: \r\n").len();
        with_fields(&format!("X: {}\r\n", "v".repeat(rest)))
    };
    assert_passes("limit", &request(LIMITS.bytes));
    assert_eq!(head_of(&request(LIMITS.bytes + 1)), Err(HeadError::HeadersTooLarge));
    let whole = request(LIMITS.bytes + 1);
    assert_eq!(
        overrun(&whole.as_bytes()[..LIMITS.bytes], &LIMITS),
        Some(HeadError::HeadersTooLarge)
    );
    assert_eq!(overrun(&whole.as_bytes()[..LIMITS.bytes - 1], &LIMITS), None);
}

#[test]
fn as_many_fields_as_the_limit_pass_and_one_more_is_431() {
    let request = |fields: usize| with_fields(&"X: 1\r\n".repeat(fields - 1));
    assert_passes("limit", &request(LIMITS.fields));
    assert_eq!(head_of(&request(LIMITS.fields + 1)), Err(HeadError::HeadersTooLarge));
}

#[test]
fn a_body_of_the_limit_passes_and_one_byte_more_is_413_as_soon_as_it_is_announced() {
    let size = usize::try_from(BODY_LIMIT).unwrap();
    let data = "x".repeat(size - 1);
    let chunked = |last: &str| chunks(&format!("{:x}\r\n{data}\r\n{last}", size - 1));
    assert_passes("limit", &chunked("1\r\nx\r\n0\r\n\r\n"));
    assert_body_refused("one more", &chunked("2\r\n"), BodyFault::TooLarge);
    assert_body_refused(
        "by length",
        &with_fields("Content-Length: 1001\r\n"),
        BodyFault::TooLarge,
    );
}

#[test]
fn other_versions_are_505() {
    for version in ["HTTP/2.0", "HTTP/1.2", "HTTP/0.9", "HTTP/3.0"] {
        let text = format!("GET / {version}\r\nHost: a\r\n\r\n");
        assert_eq!(head_of(&text), Err(HeadError::VersionNotSupported), "{version}");
    }
    assert_eq!(head_of("PRI * HTTP/2.0\r\n\r\n"), Err(HeadError::VersionNotSupported));
}

#[test]
fn a_head_that_is_cut_short_is_never_taken() {
    let text = with_fields("Content-Length: 5\r\n");
    for cut in 0..text.len() {
        assert!(inspect(&text.as_bytes()[..cut], &LIMITS).is_err(), "{:?}", &text[..cut]);
    }
}

// === properties ===

/// Requests that are mostly right, with a few bytes changed: random bytes would all die in the first line.
fn nearly_requests() -> impl Strategy<Value = Vec<u8>> {
    let line = prop_oneof![
        Just("GET / HTTP/1.1\r\n"),
        Just("POST /a/b?c=d HTTP/1.1\r\n"),
        Just("GET http://a/x HTTP/1.1\r\n"),
        Just("OPTIONS * HTTP/1.1\r\n"),
        Just("GET /%7e HTTP/1.0\r\n"),
        Just("\r\nDELETE /x HTTP/1.1\r\n"),
    ];
    let field = prop_oneof![
        Just("Accept: */*\r\n"),
        Just("X_y:\r\n"),
        Just("Connection: close, te\r\n"),
        Just("Connection: x-api-key\r\n"),
        Just("Expect: 100-continue\r\n"),
        Just("X: \u{e4}\t\r\n"),
        Just("Host: a\r\n"),
        Just("Content-Length: 7\r\n"),
        Just("Transfer-Encoding: chunked\r\n"),
    ];
    let body = prop_oneof![
        Just(""),
        Just("Content-Length: 7\r\n\r\nabc\r\nde"),
        Just("Transfer-Encoding: chunked\r\n\r\n3;x\r\nabc\r\n1\r\n\n\r\n0\r\nX-Sum: 2\r\n\r\n"),
        Just("Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n\r\n"),
        Just("Transfer-Encoding: chunked\r\n\r\n400\r\nabc\r\n"),
    ];
    let request = (line, prop::collection::vec(field, 0..3), body).prop_map(|(line, fields, body)| {
        let end = if body.is_empty() { "\r\n" } else { "" };
        format!("{line}Host: a\r\n{}{body}{end}", fields.concat()).into_bytes()
    });
    let byte = prop_oneof![
        4 => prop::sample::select(b"\r\n\t :;,/*#?%0a5\0\x7f\x80".to_vec()),
        1 => any::<u8>(),
    ];
    let edit = (any::<prop::sample::Index>(), 0..3_u8, byte);
    (prop::collection::vec(request, 1..4), prop::collection::vec(edit, 0..3)).prop_map(|(requests, edits)| {
        let mut bytes = requests.concat();
        for (at, kind, byte) in edits {
            let at = at.index(bytes.len());
            match kind {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                _ => drop(bytes.remove(at)),
            }
            if bytes.is_empty() {
                break;
            }
        }
        bytes
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_splitting_of_a_connection_gives_the_same_verdict(
        bytes in nearly_requests(),
        cuts in prop::collection::vec(any::<usize>(), 0..6),
    ) {
        let whole = converse(&bytes, &[]);
        prop_assert_eq!(&converse(&bytes, &cuts), &whole);
        let every_byte: Vec<usize> = (0..bytes.len()).collect();
        prop_assert_eq!(&converse(&bytes, &every_byte), &whole);
    }

    #[test]
    fn what_is_accepted_every_other_parser_reads_in_the_same_way(bytes in nearly_requests()) {
        let Some(end) = find_head_end(&bytes, 0) else { return Ok(()) };
        let Ok(head) = inspect(&bytes[..end], &LIMITS) else { return Ok(()) };
        let mut fields = [httparse::EMPTY_HEADER; 64];
        let mut other = httparse::Request::new(&mut fields);
        prop_assert_eq!(other.parse(&bytes), Ok(httparse::Status::Complete(head.length)));
        prop_assert_eq!(other.method.map(str::as_bytes), Some(head.method.of(&bytes)));
        prop_assert_eq!(other.path.map(str::as_bytes), Some(head.target.of(&bytes)));
        prop_assert_eq!(other.version, Some(u8::from(!head.http10)));
        prop_assert_eq!(other.headers.len(), head.fields);
        let host = other.headers.iter().find(|field| field.name.eq_ignore_ascii_case("host")).map(|field| field.value);
        prop_assert_eq!(host, Some(head.host.of(&bytes)));
        prop_assert!(http::uri::PathAndQuery::try_from(head.path.of(&bytes)).is_ok(), "the engine can hold the path");
    }

    #[test]
    fn chunks_that_are_accepted_decode_to_what_another_parser_decodes(
        bytes in prop::collection::vec(prop::sample::select(b"\r\n0013a;x X:".to_vec()), 0..40),
    ) {
        let mut chunked = Chunked::new(BODY_LIMIT);
        let Ok(progress) = chunked.advance(&bytes) else { return Ok(()) };
        let mut at = 0;
        let mut content = 0;
        while let Ok(httparse::Status::Complete((line, size))) = httparse::parse_chunk_size(&bytes[at..]) {
            at += line;
            if size == 0 {
                break;
            }
            content += size.min((bytes.len() - at) as u64);
            at += usize::try_from(size).unwrap() + 2;
            if at > bytes.len() {
                break;
            }
        }
        prop_assert_eq!(progress.body_bytes, content);
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), from in any::<usize>()) {
        let _ = find_head_end(&bytes, from);
        let _ = overrun(&bytes, &LIMITS);
        let _ = inspect(&bytes, &LIMITS);
        let _ = Chunked::new(BODY_LIMIT).advance(&bytes);
    }
}
