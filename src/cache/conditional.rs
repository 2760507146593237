//! Conditions of requests, as far as a cache evaluates them (RFC 9110 section 13, RFC 9111 section 4.3.2).

use std::time::SystemTime;

use http::header::{DATE, ETAG, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_UNMODIFIED_SINCE, LAST_MODIFIED};
use http::{HeaderMap, StatusCode};

use super::date;
use super::members::trim;

/// Whether a GET or HEAD for which this answer is kept is answered with 304.
///
/// `If-None-Match` alone decides where it is given (RFC 9110 section 13.2.2). Only of a 200: other kept answers are given
/// as they are (section 13.2.1).
#[must_use]
pub fn not_modified(request: &HeaderMap, status: StatusCode, answer: &HeaderMap) -> bool {
    if status != StatusCode::OK {
        return false;
    }
    if request.contains_key(IF_NONE_MATCH) {
        let own = only_tag(answer);
        return request
            .get_all(IF_NONE_MATCH)
            .iter()
            .any(|line| names(line.as_bytes(), own));
    }
    // A clock is only for dates with two digits of a year, which those of kept answers agree with.
    let now = SystemTime::now();
    let Some(since) = date::only_date(request, IF_MODIFIED_SINCE, now) else {
        return false;
    };
    // Without the date of its last change, that of its making will do (RFC 9111 section 4.3.2).
    let changed = if answer.contains_key(LAST_MODIFIED) {
        date::only_date(answer, LAST_MODIFIED, now)
    } else {
        date::only_date(answer, DATE, now)
    };
    changed.is_some_and(|changed| changed <= since)
}

/// Whether the request has a condition that only the origin can evaluate (RFC 9111 section 4.3.2).
#[must_use]
pub fn needs_origin(request: &HeaderMap) -> bool {
    request.contains_key(IF_MATCH) || request.contains_key(IF_UNMODIFIED_SINCE)
}

/// Whether a 304 is about the answer that is kept: a tag that it has must be that of the answer (RFC 9111 section 4.3.4).
/// Many origins leave it out; that is taken for a yes.
#[must_use]
pub fn confirms(kept: &HeaderMap, not_modified: &HeaderMap) -> bool {
    !not_modified.contains_key(ETAG) || !kept.contains_key(ETAG) || {
        let tag = only_tag(kept);
        tag.is_some() && tag == only_tag(not_modified)
    }
}

/// The opaque part of the answer's own tag, quotes included. With two, nobody knows which one is.
fn only_tag(answer: &HeaderMap) -> Option<&[u8]> {
    let mut values = answer.get_all(ETAG).iter();
    let (tag, behind) = tag(trim(values.next()?.as_bytes()))?;
    (behind.is_empty() && values.next().is_none()).then_some(tag)
}

/// Whether a line of `If-None-Match` names this tag, by the weak comparison (RFC 9110 section 8.8.3.2). `*` names any.
fn names(line: &[u8], own: Option<&[u8]>) -> bool {
    if trim(line) == b"*" {
        return true;
    }
    let mut rest = line;
    loop {
        while let [b',' | b' ' | b'\t', behind @ ..] = rest {
            rest = behind;
        }
        if rest.is_empty() {
            return false;
        }
        // What follows a tag without a comma belongs to no tag; behind the next comma there may be one again.
        let (found, behind) = tag(rest).map_or((None, rest), |(tag, behind)| (Some(tag), trim_start(behind)));
        if found.is_some() && found == own && matches!(behind, [] | [b',', ..]) {
            return true;
        }
        let comma = behind.iter().position(|byte| *byte == b',').unwrap_or(behind.len());
        rest = behind.get(comma..).unwrap_or_default();
    }
}

/// The entity tag that `text` begins with, without `W/`, and what is behind it (RFC 9110 section 8.8.3).
fn tag(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let opaque = text.strip_prefix(b"W/").unwrap_or(text);
    let [b'"', inner @ ..] = opaque else {
        return None;
    };
    let length = inner
        .iter()
        .take_while(|byte| matches!(byte, 0x21 | 0x23..=0x7e | 0x80..))
        .count();
    if inner.get(length) != Some(&b'"') {
        return None;
    }
    opaque.split_at_checked(length + 2)
}

fn trim_start(text: &[u8]) -> &[u8] {
    let space = text.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
    text.get(space..).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::super::tests::fields;
    use super::*;

    const OLDER: &str = "Sun, 06 Nov 1994 08:49:36 GMT";
    const DAY: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    const NEWER: &str = "Sun, 06 Nov 1994 08:49:38 GMT";

    fn asks(request: &[(&str, &str)], answer: &[(&str, &str)]) -> bool {
        not_modified(&fields(request), StatusCode::OK, &fields(answer))
    }

    /// RFC 9110 sections 8.8.3.2 and 13.1.2.
    #[test]
    fn tags_are_compared_weakly_in_lists_and_malformed_ones_match_nothing() {
        for (line, own, expected) in [
            ("\"a\"", "\"a\"", true),
            ("W/\"a\"", "\"a\"", true),
            ("\"a\"", "W/\"a\"", true),
            ("W/\"a\"", "W/\"a\"", true),
            ("\"a\"", "\"A\"", false),
            ("\"b\", \"a\"", "\"a\"", true),
            (", \"b\",,W/\"a\" ,", "\"a\"", true),
            ("\"b,a\", \"c\"", "\"b,a\"", true),
            ("\"b,\"a\"", "\"a\"", false),
            ("\"x, \"a\"", "\"a\"", true),
            ("\"\"", "\"\"", true),
            ("\"\u{e4}\"", "\"\u{e4}\"", true),
            ("*", "\"a\"", true),
            (" * ", "\"a\"", true),
            ("\"*\"", "\"a\"", false),
            ("a", "\"a\"", false),
            ("a", "a", false),
            ("w/\"a\"", "\"a\"", false),
            ("W/a", "W/a", false),
            ("\"a", "\"a", false),
            ("\"a\"b", "\"a\"", false),
            ("\"a b\"", "\"a b\"", false),
            ("'a'", "\"a\"", false),
            ("", "\"a\"", false),
            ("\"b\"", "\"a\"", false),
        ] {
            assert_eq!(
                asks(&[("if-none-match", line)], &[("etag", own)]),
                expected,
                "{line} {own}"
            );
        }
        assert!(asks(
            &[("if-none-match", "\"b\""), ("if-none-match", "\"a\"")],
            &[("etag", "\"a\"")]
        ));
        assert!(asks(&[("if-none-match", "*")], &[]));
        assert!(!asks(&[("if-none-match", "\"a\"")], &[]));
        assert!(
            !asks(&[("if-none-match", "\"a\"")], &[("etag", "\"a\""), ("etag", "\"a\"")]),
            "which one is it"
        );
    }

    /// RFC 9110 section 13.1.3, RFC 9111 section 4.3.2.
    #[test]
    fn a_date_is_compared_with_that_of_the_last_change_or_else_of_the_answer() {
        for (since, answer, expected) in [
            (DAY, &[("last-modified", DAY)][..], true),
            (NEWER, &[("last-modified", DAY)], true),
            (OLDER, &[("last-modified", DAY)], false),
            ("Sunday, 06-Nov-94 08:49:37 GMT", &[("last-modified", DAY)], true),
            ("Sun Nov  6 08:49:37 1994", &[("last-modified", DAY)], true),
            (DAY, &[("date", DAY)], true),
            (OLDER, &[("date", DAY)], false),
            (DAY, &[("last-modified", NEWER), ("date", OLDER)], false),
            (DAY, &[("last-modified", "x"), ("date", OLDER)], false),
            (DAY, &[], false),
            ("x", &[("last-modified", DAY)], false),
            ("0", &[("last-modified", DAY)], false),
        ] {
            assert_eq!(
                asks(&[("if-modified-since", since)], answer),
                expected,
                "{since} {answer:?}"
            );
        }
        let twice = [("if-modified-since", NEWER), ("if-modified-since", NEWER)];
        assert!(!asks(&twice, &[("last-modified", DAY)]));
    }

    /// RFC 9110 section 13.2.2.
    #[test]
    fn a_tag_decides_alone_where_one_is_named() {
        let answer = [("etag", "\"a\""), ("last-modified", DAY)];
        assert!(!asks(
            &[("if-none-match", "\"b\""), ("if-modified-since", NEWER)],
            &answer
        ));
        assert!(asks(
            &[("if-none-match", "\"a\""), ("if-modified-since", OLDER)],
            &answer
        ));
        assert!(!asks(
            &[("if-none-match", "junk"), ("if-modified-since", NEWER)],
            &answer
        ));
    }

    #[test]
    fn only_a_200_is_answered_with_304() {
        let (request, answer) = (fields(&[("if-none-match", "*")]), fields(&[("etag", "\"a\"")]));
        for status in [204, 301, 404, 410, 500, 503] {
            assert!(
                !not_modified(&request, StatusCode::from_u16(status).unwrap(), &answer),
                "{status}"
            );
        }
        assert!(not_modified(&request, StatusCode::OK, &answer));
        assert!(!not_modified(&HeaderMap::new(), StatusCode::OK, &answer));
    }

    #[test]
    fn conditions_that_protect_a_change_are_for_the_origin() {
        assert!(needs_origin(&fields(&[("if-match", "\"a\"")])));
        assert!(needs_origin(&fields(&[("if-unmodified-since", DAY)])));
        assert!(!needs_origin(&fields(&[
            ("if-none-match", "\"a\""),
            ("if-modified-since", DAY),
            ("if-range", DAY)
        ])));
    }

    #[test]
    fn a_304_with_another_tag_is_about_another_answer() {
        let tag = |tag: &str| fields(&[("etag", tag)]);
        assert!(confirms(&tag("\"a\""), &tag("\"a\"")) && confirms(&tag("\"a\""), &tag("W/\"a\"")));
        assert!(confirms(&tag("\"a\""), &HeaderMap::new()) && confirms(&HeaderMap::new(), &tag("\"a\"")));
        assert!(!confirms(&tag("\"a\""), &tag("\"b\"")) && !confirms(&tag("a"), &tag("b")));
    }
}
