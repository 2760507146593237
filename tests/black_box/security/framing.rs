//! Request heads that two programs in a row could read in two ways: all of them 400, none of them seen by the service.

use super::{SMUGGLED, Siege};

/// A POST with these field lines and this content, and a request hidden behind it.
fn post(fields: &[u8], content: &[u8]) -> Vec<u8> {
    [
        b"POST /open HTTP/1.1\r\nHost: a\r\n",
        fields,
        b"\r\n",
        content,
        SMUGGLED,
    ]
    .concat()
}

/// The same without content and hidden request, for heads that have no end of their own.
fn get(fields: &[u8]) -> Vec<u8> {
    [b"GET /open HTTP/1.1\r\nHost: a\r\n", fields, b"\r\n", SMUGGLED].concat()
}

#[track_caller]
fn all_are_refused(rows: &[&[u8]], content: &[u8]) {
    let siege = Siege::begin();
    for fields in rows {
        let what = String::from_utf8_lossy(fields).into_owned();
        siege.refuses(&what, &post(fields, content), 400);
    }
    siege.leaves_it_unharmed();
}

#[test]
fn a_length_that_is_repeated_listed_or_no_plain_number_is_refused() {
    all_are_refused(
        &[
            b"Content-Length: 5\r\nContent-Length: 5\r\n",
            b"Content-Length: 5\r\nContent-Length: 6\r\n",
            b"Content-Length: 5\r\nX-Between: 1\r\ncontent-length: 5\r\n",
            b"Content-Length: 5,5\r\n",
            b"Content-Length: 5, 5\r\n",
            b"Content-Length: 1000,1000\r\n",
            b"Content-Length:\r\n",
            b"Content-Length: \r\n",
            b"Content-Length: +5\r\n",
            b"Content-Length: -5\r\n",
            b"Content-Length: -0\r\n",
            b"Content-Length: 0x5\r\n",
            b"Content-Length: 5.0\r\n",
            b"Content-Length: 1e1\r\n",
            b"Content-Length: 5 5\r\n",
            b"Content-Length: 5;\r\n",
            b"Content-Length: \"5\"\r\n",
            b"Content-Length: five\r\n",
            b"Content-Length: \xef\xbc\x95\r\n",
            b"Content-Length: 18446744073709551615\r\n",
            b"Content-Length: 18446744073709551621\r\n",
            b"Content-Length: 99999999999999999999999999999999\r\n",
            b"Content-Length: 00000000000000000005\r\n",
        ],
        b"hello",
    );
}

#[test]
fn a_length_that_fills_nineteen_digits_is_a_length_and_too_large() {
    let siege = Siege::begin();
    siege.refuses("2^63 - 1", &post(b"Content-Length: 9223372036854775807\r\n", b""), 413);
    siege.leaves_it_unharmed();
}

#[test]
fn a_length_beside_an_encoding_is_refused_in_either_order() {
    all_are_refused(
        &[
            b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
            b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
            b"Transfer-Encoding: chunked\r\nContent-Length: 0\r\n",
            b"Transfer-Encoding: identity\r\nContent-Length: 5\r\n",
            b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\nConnection: close\r\n",
        ],
        b"0\r\n\r\n",
    );
}

#[test]
fn any_encoding_but_exactly_one_chunked_is_refused() {
    all_are_refused(
        &[
            b"Transfer-Encoding: identity, chunked\r\n",
            b"Transfer-Encoding: ,chunked\r\n",
            b"Transfer-Encoding: chunked,\r\n",
            b"Transfer-Encoding: chunked,chunked\r\n",
            b"Transfer-Encoding: chunked, identity\r\n",
            b"Transfer-Encoding: gzip, chunked\r\n",
            b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
            b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n",
            b"Transfer-Encoding: identity\r\n",
            b"Transfer-Encoding:\r\n",
            b"Transfer-Encoding: xchunked\r\n",
            b"Transfer-Encoding: chunkedx\r\n",
            b"Transfer-Encoding: chunked;q=1\r\n",
            b"Transfer-Encoding: \"chunked\"\r\n",
            b"Transfer-Encoding: 'chunked'\r\n",
            b"Transfer-Encoding: \x0bchunked\r\n",
            b"Transfer-Encoding: chunked\x00\r\n",
            b"Transfer-Encoding: chun\xc4\xb7ed\r\n",
            b"Transfer-Encoding : chunked\r\n",
            b"Transfer-Encoding\t: chunked\r\n",
            b" Transfer-Encoding: chunked\r\n",
            b"Transfer-Encoding:\r\n chunked\r\n",
            b"X: y\nTransfer-Encoding: chunked\r\n",
        ],
        b"0\r\n\r\n",
    );
}

#[test]
fn an_encoding_in_http_1_0_is_refused() {
    let siege = Siege::begin();
    let attack = [
        b"POST /open HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        SMUGGLED,
    ]
    .concat();
    siege.refuses("HTTP/1.0 with an encoding", &attack, 400);
    siege.leaves_it_unharmed();
}

#[test]
fn what_is_framed_rightly_is_served_and_the_next_request_too() {
    let siege = Siege::begin();
    for (fields, content) in [
        (&b"Content-Length: 5\r\n"[..], &b"hello"[..]),
        (b"Transfer-Encoding: chunked\r\n", b"5\r\nhello\r\n0\r\n\r\n"),
        (
            b"transfer-encoding:\tChUnKeD \r\n",
            b"2\r\nhe\r\n3;ext=\"1\"\r\nllo\r\n000\r\nX-Trailer: 1\r\n\r\n",
        ),
    ] {
        let mut connection = siege.gateway.raw();
        let next = b"GET /open/second HTTP/1.1\r\nHost: a\r\n\r\n";
        let head = b"POST /open HTTP/1.1\r\nHost: a\r\n";
        connection.send([head, fields, b"\r\n", content, next].concat());
        assert_eq!(connection.answer().expect(200).echo().body, "hello");
        assert_eq!(connection.answer().expect(200).echo().target, "/open/second");
    }
    siege.leaves_it_unharmed();
}

#[test]
fn bare_line_feeds_returns_nul_and_other_control_bytes_are_refused() {
    let siege = Siege::begin();
    let rows: [&[u8]; 22] = [
        b"GET /open HTTP/1.1\nHost: a\r\n\r\n",
        b"GET /open HTTP/1.1\nHost: a\n\n",
        b"GET /open HTTP/1.1\r\nHost: a\n\r\n",
        b"GET /open HTTP/1.1\r\nHost: a\r\n\n",
        b"\nGET /open HTTP/1.1\r\nHost: a\r\n\r\n",
        b"\r\n\r\nGET /open HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /open HTTP/1.1\rHost: a\r\n\r\n",
        b"GET /open HTTP/1.1\r\nHost: a\rX: b\r\n\r\n",
        b"GET /open HTTP/1.1\r\nHost: a\r\nX: b\rc\r\n\r\n",
        b"GET /open HTTP/1.1\r\nHost: a\r\n\rX: b\r\n\r\n",
        b"GET /open HTTP/1.1\r\nHost: a\r\nX: b\r\r\n\r\n",
        b"GET /open HTTP/1.1\r\nHost: a\r\nX: b\0c\r\n\r\n",
        b"GET /open HTTP/1.1\r\nHost: a\r\nX\0: b\r\n\r\n",
        b"GET /open\0 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET\0 /open HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /open HTTP/1.1\r\nHost: a\r\nX: b\x01c\r\n\r\n",
        b"GET /open HTTP/1.1\r\nHost: a\r\nX: b\x1bc\r\n\r\n",
        b"GET /open HTTP/1.1\r\nHost: a\r\nX: b\x7fc\r\n\r\n",
        b"GET /open HTTP/1.1\r\nHost: a\r\nX: b\x0b\r\n\r\n",
        b"\0GET /open HTTP/1.1\r\nHost: a\r\n\r\n",
        b" GET /open HTTP/1.1\r\nHost: a\r\n\r\n",
        b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03\r\n\r\n",
    ];
    for attack in rows {
        let what = String::from_utf8_lossy(attack).into_owned();
        siege.refuses(&what, &[attack, SMUGGLED].concat(), 400);
    }
    siege.leaves_it_unharmed();
}

#[test]
fn folded_lines_spaces_before_the_colon_and_odd_names_are_refused() {
    let siege = Siege::begin();
    let rows: [&[u8]; 17] = [
        b"X: a\r\n b\r\n",
        b"X: a\r\n\tb\r\n",
        b"X: a\r\n \r\n",
        b"X : a\r\n",
        b"X\t: a\r\n",
        b": a\r\n",
        b":\r\n",
        b" : a\r\n",
        b"X\r\n",
        b"X Y: a\r\n",
        b"X/Y: a\r\n",
        b"X(Y): a\r\n",
        b"\"X\": a\r\n",
        b"X\xc3\xa9: a\r\n",
        b"\x80: a\r\n",
        b"X,Y: a\r\n",
        b"Host : a\r\n",
    ];
    for fields in rows {
        siege.refuses(&String::from_utf8_lossy(fields), &get(fields), 400);
    }
    let first = [&b"GET /open HTTP/1.1\r\n Host: a\r\nHost: a\r\n\r\n"[..], SMUGGLED].concat();
    siege.refuses("a folded line before the first", &first, 400);
    siege.leaves_it_unharmed();
}

#[test]
fn a_request_without_exactly_one_plain_host_is_refused() {
    let siege = Siege::begin();
    let rows: [&[u8]; 27] = [
        b"",
        b"Host:\r\n",
        b"Host: \r\n",
        b"Host: a\r\nHost: a\r\n",
        b"Host: a\r\nHost: b\r\n",
        b"Host: a\r\nhOST: a\r\n",
        b"Host: a, b\r\n",
        b"Host: a b\r\n",
        b"Host: user@a\r\n",
        b"Host: a@b:80\r\n",
        b"Host: a/path\r\n",
        b"Host: http://a\r\n",
        b"Host: a?b\r\n",
        b"Host: a#b\r\n",
        b"Host: a\\b\r\n",
        b"Host: a:\r\n",
        b"Host: a:80:80\r\n",
        b"Host: a:x\r\n",
        b"Host: a:65536\r\n",
        b"Host: a:-1\r\n",
        b"Host: a%2eb\r\n",
        b"Host: a..b\r\n",
        b"Host: .\r\n",
        b"Host: [::1\r\n",
        b"Host: [::1]x\r\n",
        b"Host: \xc3\xa9.example\r\n",
        b"Host: *\r\n",
    ];
    for fields in rows {
        let attack = [b"GET /open HTTP/1.1\r\n", fields, b"\r\n", SMUGGLED].concat();
        siege.refuses(&String::from_utf8_lossy(fields), &attack, 400);
    }
    siege.refuses("HTTP/1.0 without Host", b"GET /open HTTP/1.0\r\n\r\n", 400);
    siege.leaves_it_unharmed();
}

#[test]
fn a_request_line_that_is_not_three_words_is_refused() {
    let siege = Siege::begin();
    let rows: [(&[u8], u16); 16] = [
        (b"GET /open\r\n", 400),
        (b"GET\r\n", 400),
        (b"/open HTTP/1.1\r\n", 400),
        (b"GET  /open HTTP/1.1\r\n", 400),
        (b"GET /open  HTTP/1.1\r\n", 400),
        (b"GET\t/open\tHTTP/1.1\r\n", 400),
        (b"GET /open HTTP/1.1 \r\n", 400),
        (b"GET /open HTTP/1.1 x\r\n", 400),
        (b"GET /open http/1.1\r\n", 400),
        (b"GET /open HTTP/1\r\n", 400),
        (b"GET /open HTTP/1.1.1\r\n", 400),
        (b"GET /open HTTPS/1.1\r\n", 400),
        (b"G@T /open HTTP/1.1\r\n", 400),
        (b"GET /open HTTP/1.2\r\n", 505),
        (b"GET /open HTTP/0.9\r\n", 505),
        (b"PRI * HTTP/2.0\r\n", 505),
    ];
    for (line, status) in rows {
        let attack = [line, b"Host: a\r\n\r\n", SMUGGLED].concat();
        siege.refuses(&String::from_utf8_lossy(line), &attack, status);
    }
    siege.leaves_it_unharmed();
}

#[test]
fn a_target_that_is_no_path_is_refused() {
    let siege = Siege::begin();
    let rows: [&[u8]; 26] = [
        b"*",
        b"open",
        b"!",
        b"%00/x",
        b"?query",
        b".",
        b"..",
        b"\\open",
        b"a:80",
        b"/open#fragment",
        b"/#/../open",
        b"/open?a=b#c",
        b"/open\x01",
        b"/open\x7f",
        b"/open\x80",
        b"/op\xc3\xa9n",
        b"/open?\xff",
        b"/open?a\x1bb",
        b"/op en",
        b"/open?a b",
        b"http://b/open",
        b"http://a:80/open",
        b"http://a@b/open",
        b"http:///open",
        b"https://a/open",
        b"ftp://a/open",
    ];
    for target in rows {
        let attack = [b"GET ", target, b" HTTP/1.1\r\nHost: a\r\n\r\n", SMUGGLED].concat();
        siege.refuses(&String::from_utf8_lossy(target), &attack, 400);
    }
    siege.leaves_it_unharmed();
}

#[test]
fn an_absolute_target_of_the_same_host_is_its_path() {
    let siege = Siege::begin();
    for target in ["http://a.test/open?x=1", "HTTP://A.TEST/open?x=1"] {
        let echo = siege
            .gateway
            .client()
            .get(target)
            .host("a.test")
            .send()
            .expect(200)
            .echo();
        assert_eq!(echo.target, "/open?x=1");
        assert_eq!(echo.header("host"), Some("a.test"));
    }
    siege.leaves_it_unharmed();
}

#[test]
fn tunnels_and_loopbacks_are_not_implemented() {
    let siege = Siege::begin();
    for line in ["CONNECT a:443", "CONNECT /open", "TRACE /open", "trace /open"] {
        let attack = format!("{line} HTTP/1.1\r\nHost: a\r\n\r\n");
        siege.refuses(line, &[attack.as_bytes(), SMUGGLED].concat(), 501);
    }
    siege.leaves_it_unharmed();
}
