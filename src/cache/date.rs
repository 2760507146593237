//! Dates as HTTP writes them (RFC 9110 section 5.6.7), read as a cache has to (RFC 9111 section 4.2).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::header::AsHeaderName;
use http::{HeaderMap, HeaderValue};
use httpdate::parse_http_date;

/// The longest that any of the three formats is: `Wednesday, 09-Nov-94 08:49:37 GMT`.
const LONGEST: usize = 33;
/// A year, near enough to tell which century a year of two digits is in.
const YEAR: Duration = Duration::from_secs(31_556_952);

/// The date of a field that may stand once only. None if it is absent, repeated, or no date.
pub(super) fn only_date(headers: &HeaderMap, name: impl AsHeaderName, now: SystemTime) -> Option<SystemTime> {
    let mut values = headers.get_all(name).iter();
    let date = values.next().and_then(|value| parse(value, now));
    if values.next().is_some() { None } else { date }
}

/// The date that a value is, in any of the three formats. A cache takes names in any case; a zone other than GMT is no
/// date (RFC 9111 section 4.2).
pub(super) fn parse(value: &HeaderValue, now: SystemTime) -> Option<SystemTime> {
    let text = value.as_bytes().trim_ascii();
    if text.len() > LONGEST {
        return None;
    }
    let mut room = [0_u8; LONGEST];
    let text = canonical_case(text, &mut room)?;
    match two_digit_year(text) {
        Some(parts) => with_century(&parts, now),
        None => parse_http_date(text).ok(),
    }
}

/// `Sun, 06 Nov 1994 08:49:37 GMT`, however its letters were written.
fn canonical_case<'a>(text: &[u8], room: &'a mut [u8; LONGEST]) -> Option<&'a str> {
    let room = room.get_mut(..text.len())?;
    let mut is_inside_word = false;
    for (to, from) in room.iter_mut().zip(text) {
        *to = if is_inside_word {
            from.to_ascii_lowercase()
        } else {
            from.to_ascii_uppercase()
        };
        is_inside_word = from.is_ascii_alphabetic();
    }
    if let Some(zone) = room.last_chunk_mut::<4>()
        && zone == b" Gmt"
    {
        *zone = *b" GMT";
    }
    std::str::from_utf8(room).ok()
}

/// The parts of the obsolete format, `Sunday, 06-Nov-94 08:49:37 GMT`.
struct TwoDigitYear<'a> {
    weekday: &'a str,
    day: &'a str,
    month: &'a str,
    year: u32,
    time: &'a str,
}

fn two_digit_year(text: &str) -> Option<TwoDigitYear<'_>> {
    let (weekday, rest) = text.split_once(", ")?;
    let (date, time) = rest.split_once(' ')?;
    let mut parts = date.split('-');
    let (day, month, year) = (parts.next()?, parts.next()?, parts.next()?);
    let is_year = year.len() == 2 && year.bytes().all(|byte| byte.is_ascii_digit());
    if parts.next().is_some() || !is_year {
        return None;
    }
    let year = year.parse().ok()?;
    Some(TwoDigitYear {
        weekday,
        day,
        month,
        year,
        time,
    })
}

/// The year that is written with two digits is of this century, unless that were more than 50 years ahead: then it is the
/// last one that has been (RFC 9110 section 5.6.7). The day of the week has to agree with that.
fn with_century(parts: &TwoDigitYear<'_>, now: SystemTime) -> Option<SystemTime> {
    let weekday = [
        "Monday",
        "Tuesday",
        "Wednesday",
        "Thursday",
        "Friday",
        "Saturday",
        "Sunday",
    ]
    .into_iter()
    .find(|name| *name == parts.weekday)?
    .get(..3)?;
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let this_year = 1970 + u32::try_from(since.as_secs() / YEAR.as_secs()).unwrap_or(0);
    let in_year = |year: u32| {
        let (day, month, time) = (parts.day, parts.month, parts.time);
        parse_http_date(&format!("{weekday}, {day} {month} {year} {time}")).ok()
    };
    let year = this_year / 100 * 100 + parts.year;
    // The year that is 50 ahead is too far from the day on that is today's; a day's doubt about it is no matter.
    if year > this_year + 50 || (year == this_year + 50 && in_year(year).is_some_and(|date| date > now + YEAR * 50)) {
        return in_year(year - 100);
    }
    in_year(year)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{NOW, at, fields};
    use super::*;

    fn read(text: &str) -> Option<SystemTime> {
        parse(&HeaderValue::from_str(text).unwrap(), at(0))
    }

    #[test]
    fn a_date_is_written_in_three_ways_and_in_any_case() {
        for text in [
            "Sun, 06 Nov 1994 08:49:37 GMT",
            "Sunday, 06-Nov-94 08:49:37 GMT",
            "Sun Nov  6 08:49:37 1994",
            "sun, 06 nov 1994 08:49:37 gmt",
            "SUN, 06 NOV 1994 08:49:37 GMT",
            "SUNDAY, 06-NOV-94 08:49:37 gmt",
            "sun nov  6 08:49:37 1994",
        ] {
            assert_eq!(read(text), Some(UNIX_EPOCH + NOW), "{text}");
        }
    }

    #[test]
    fn what_is_no_date_is_none() {
        for text in [
            "",
            "0",
            "-1",
            "784111777",
            "Sun, 06 Nov 1994 08:49:37",
            "Sun, 06 Nov 1994 08:49:37 CET",
            "Sun, 06 Nov 1994 08:49:37 +0000",
            "Mon, 06 Nov 1994 08:49:37 GMT",
            "Sun, 6 Nov 1994 08:49:37 GMT",
            "Sun, 06 Nov 94 08:49:37 GMT",
            "Sun, 06-Nov-94 08:49:37 GMT",
            "Sunday, 06-Nov-94-1 08:49:37 GMT",
            "Wed, 30 Feb 1994 08:49:37 GMT",
            "Sun, 06 Nov 1994 24:49:37 GMT",
            "Sun, 06 Nov 1994 08:49:37 GMT, Sun, 06 Nov 1994 08:49:37 GMT",
            "1994-11-06T08:49:37Z",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
    }

    /// RFC 9110 section 5.6.7.
    #[test]
    fn a_year_of_two_digits_is_at_most_fifty_years_ahead() {
        let in_2026 = UNIX_EPOCH + Duration::from_secs(1_790_000_000);
        let read = |text: &str| parse(&HeaderValue::from_str(text).unwrap(), in_2026);
        let same = |text: &str| httpdate::parse_http_date(text).ok();
        assert_eq!(
            read("Wednesday, 01-Jan-70 00:00:00 GMT"),
            same("Wed, 01 Jan 2070 00:00:00 GMT")
        );
        assert_eq!(
            read("Saturday, 01-Jan-77 00:00:00 GMT"),
            same("Sat, 01 Jan 1977 00:00:00 GMT")
        );
        // The day of the week is that of 1970, which the rule does not allow for.
        assert_eq!(read("Thursday, 01-Jan-70 00:00:00 GMT"), None);
    }

    #[test]
    fn a_date_that_stands_twice_is_none() {
        let date = "Sun, 06 Nov 1994 08:49:37 GMT";
        assert_eq!(only_date(&fields(&[("expires", date)]), "expires", at(0)), Some(at(0)));
        assert_eq!(
            only_date(&fields(&[("expires", date), ("expires", date)]), "expires", at(0)),
            None
        );
        assert_eq!(
            only_date(&fields(&[("expires", "0"), ("expires", date)]), "expires", at(0)),
            None
        );
    }
}
