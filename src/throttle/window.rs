//! Calendar windows, as pure arithmetic: no clock is read here.
//!
//! Time is a number of nanoseconds since 1970-01-01T00:00:00Z. Leap seconds do not exist, as in POSIX, so every
//! day of UTC has 86,400 seconds. Windows of a period are numbered from the one that contains the epoch.
//!
//! Days, weeks and months may be those of a time zone ([`zone`](super::zone)). They are numbered by their dates, so
//! that 2026-11-21 has one number everywhere; only where it begins and ends differs. Weeks and months are made of days,
//! so all that the zone adds is where days begin.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::zone::Zone;
use crate::units::Period;

const SECOND: u64 = 1_000_000_000;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;
const WEEK: u64 = 7 * DAY;

/// The epoch was a Thursday: the week that contains it began three days before.
const DAYS_FROM_MONDAY_TO_EPOCH: u64 = 3;
const MONDAY_TO_EPOCH: u64 = DAYS_FROM_MONDAY_TO_EPOCH * DAY;

/// How late a caller may be, at least, before its time is taken for a clock that was set back.
const LATE_AT_LEAST: u64 = 2 * SECOND;

/// An instant: nanoseconds of Unix time.
///
/// Held within 1970 and 2106 (2³² seconds): so the second windows are numbered by a `u32`, and no sum of an instant
/// and a length in this stage overflows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(u64);

impl Time {
    /// The last instant that can be told: 2106-02-07T06:28:15Z.
    pub const MAX: Self = Self(u32::MAX as u64 * SECOND);

    /// An instant from nanoseconds of Unix time; what lies after [`Time::MAX`] becomes `MAX`.
    #[must_use]
    pub const fn from_unix_nanos(nanos: u64) -> Self {
        if nanos > Self::MAX.0 { Self::MAX } else { Self(nanos) }
    }

    /// An instant from whole seconds of Unix time.
    #[must_use]
    pub const fn from_unix_seconds(seconds: u64) -> Self {
        Self::from_unix_nanos(seconds.saturating_mul(SECOND))
    }

    /// Nanoseconds of Unix time.
    #[must_use]
    pub const fn unix_nanos(self) -> u64 {
        self.0
    }

    /// Nanoseconds from `earlier` to here; 0 if `earlier` is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// Whole seconds from here until `later`, rounded up; 0 if it has passed.
    #[must_use]
    pub const fn seconds_until(self, later: Self) -> u64 {
        later.since(self).div_ceil(SECOND)
    }

    /// This many nanoseconds later. Not held below [`Time::MAX`]: the end of the last window lies behind it.
    #[must_use]
    pub const fn plus(self, nanos: u64) -> Self {
        Self(self.0.saturating_add(nanos))
    }

    /// This many nanoseconds earlier, but not before the epoch.
    #[must_use]
    pub const fn minus(self, nanos: u64) -> Self {
        Self(self.0.saturating_sub(nanos))
    }
}

impl From<SystemTime> for Time {
    /// A clock before 1970 is taken for 1970.
    fn from(time: SystemTime) -> Self {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        Self::from_unix_nanos(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
    }
}

/// One calendar window: `start` belongs to it, `end` to the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Its number among the windows of its calendar.
    pub index: u32,
    /// The first instant.
    pub start: Time,
    /// The first instant after it.
    pub end: Time,
}

impl Window {
    /// Its length in nanoseconds.
    #[must_use]
    pub const fn length(&self) -> u64 {
        self.end.since(self.start)
    }
}

/// How time is cut into windows: by a period, in a zone.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct Calendar {
    period: Period,
    zone: Zone,
}

impl Calendar {
    /// The windows of this period in UTC.
    #[must_use]
    pub const fn utc(period: Period) -> Self {
        Self {
            period,
            zone: Zone::UTC,
        }
    }

    /// The windows of this period in a zone. Seconds, minutes and hours are always those of UTC: an offset is no
    /// whole number of hours everywhere, and an hour that clocks repeat would be two hours long.
    #[must_use]
    pub const fn new(period: Period, zone: Zone) -> Self {
        match period {
            Period::Second | Period::Minute | Period::Hour => Self::utc(period),
            Period::Day | Period::Week | Period::Month => Self { period, zone },
        }
    }

    /// The period.
    #[must_use]
    pub const fn period(self) -> Period {
        self.period
    }

    /// The zone; [`Zone::UTC`] for seconds, minutes and hours.
    #[must_use]
    pub const fn zone(self) -> Zone {
        self.zone
    }

    /// The window that contains `now`.
    #[inline]
    #[must_use]
    pub fn window_of(self, now: Time) -> Window {
        match self.zone.table() {
            None => utc_window_of(self.period, now),
            Some(table) => {
                let day = u64::from(table.day_of(now.0 / SECOND));
                let index = match self.period {
                    Period::Month => month_of_days(day),
                    Period::Week => (day + DAYS_FROM_MONDAY_TO_EPOCH) / 7,
                    Period::Second | Period::Minute | Period::Hour | Period::Day => day,
                };
                self.window_at(u32::try_from(index).unwrap_or(u32::MAX))
            }
        }
    }

    /// The window with this number.
    #[inline]
    #[must_use]
    pub fn window_at(self, index: u32) -> Window {
        match self.zone.table() {
            None => utc_window_at(self.period, index),
            Some(table) => {
                let start_of = |index| Time(table.start_of(first_day(self.period, index)).saturating_mul(SECOND));
                Window {
                    index,
                    start: start_of(u64::from(index)),
                    end: start_of(u64::from(index) + 1),
                }
            }
        }
    }

    /// The window in which a counter that has `seen` a window counts a request at `now`.
    ///
    /// Normally the window of `now`. A counter may have seen a later one, for two reasons that need opposite answers:
    ///
    /// - The caller is *late*: it read the clock just before the window changed, another thread after it was faster.
    ///   Its request belongs to the window that is open; going back would open a spent window again.
    /// - The clock was *set back*. Waiting for the time that the counter has seen could take for ever, so the counter
    ///   follows the clock. (It takes along what was spent: see `counter`.)
    ///
    /// They are told apart by distance, [`lateness`]. So no caller that is less than two seconds late can open a past
    /// window again, and a clock that was set back can prolong a refusal by `lateness` at most. Rejected: always
    /// staying in the later window (a clock that was once wrong by a year would refuse for a year), and always
    /// following (every change of window under load would lose counts).
    #[inline]
    #[must_use]
    pub fn counting_window(self, seen: u32, now: Time) -> Window {
        let window = self.window_of(now);
        if seen <= window.index {
            return window;
        }
        let ahead = self.window_at(seen);
        if ahead.start.since(now) <= lateness(self.period) {
            ahead
        } else {
            window
        }
    }

    /// A window as people write it, exactly as far as the period needs: `2026-11-21T05:42Z`, `2026-11`. In a zone, its
    /// first date there: `2026-11-21[Europe/Berlin]`. For explanations, not for requests.
    #[must_use]
    pub fn stamp(self, window: &Window) -> String {
        let second = window.start.0 / SECOND;
        let (h, m, s) = (second / 3600 % 24, second / 60 % 60, second % 60);
        let day = match self.period {
            Period::Second | Period::Minute | Period::Hour => window.start.0 / DAY,
            // By its number, not its start: midnight in Berlin is still the day before in UTC.
            Period::Day | Period::Week | Period::Month => first_day(self.period, u64::from(window.index)),
        };
        let (year, month, day) = civil_of_days(day);
        let mut stamp = match self.period {
            Period::Second => format!("{year:04}-{month:02}-{day:02}T{h:02}:{m:02}:{s:02}Z"),
            Period::Minute => format!("{year:04}-{month:02}-{day:02}T{h:02}:{m:02}Z"),
            Period::Hour => format!("{year:04}-{month:02}-{day:02}T{h:02}Z"),
            Period::Day | Period::Week => format!("{year:04}-{month:02}-{day:02}"),
            Period::Month => format!("{year:04}-{month:02}"),
        };
        if self.zone != Zone::UTC {
            stamp = format!("{stamp}[{}]", self.zone.name());
        }
        stamp
    }

    /// The text before a window's [`stamp`](Self::stamp) and the slash before that: what is left of a counter's name
    /// without its window. None if there is no stamp at its end, which need not be of a window that has been.
    #[must_use]
    pub fn before_stamp(self, text: &str) -> Option<&str> {
        // The name of a zone has slashes too.
        let dated = if self.zone == Zone::UTC {
            text
        } else {
            text.strip_suffix(']')?
                .strip_suffix(self.zone.name())?
                .strip_suffix('[')?
        };
        let (before, stamp) = dated.rsplit_once('/').unwrap_or(("", dated));
        let form = match self.period {
            Period::Second => "0000-00-00T00:00:00Z",
            Period::Minute => "0000-00-00T00:00Z",
            Period::Hour => "0000-00-00T00Z",
            Period::Day | Period::Week => "0000-00-00",
            Period::Month => "0000-00",
        };
        let fits = |(form, byte): (u8, u8)| {
            if form == b'0' {
                byte.is_ascii_digit()
            } else {
                byte == form
            }
        };
        (stamp.len() == form.len() && form.bytes().zip(stamp.bytes()).all(fits)).then_some(before)
    }
}

/// How far behind a counter a caller's time may lie before it is taken for a clock that was set back: an eighth of
/// the period, at least two seconds.
#[must_use]
pub const fn lateness(period: Period) -> u64 {
    let eighth = nominal_length(period) / 8;
    if eighth > LATE_AT_LEAST { eighth } else { LATE_AT_LEAST }
}

/// The length of a period where it may not depend on the date, in nanoseconds: a month is 30 days. Token buckets
/// are refilled by it, and `RateLimit-Policy` shows it, because a policy has to look the same in every answer.
#[must_use]
pub const fn nominal_length(period: Period) -> u64 {
    match period {
        Period::Second => SECOND,
        Period::Minute => MINUTE,
        Period::Hour => HOUR,
        Period::Day => DAY,
        Period::Week => WEEK,
        Period::Month => 30 * DAY,
    }
}

#[inline]
fn utc_window_of(period: Period, now: Time) -> Window {
    // Each arm divides by a constant, which the compiler turns into a multiplication.
    let index = match period {
        Period::Second => now.0 / SECOND,
        Period::Minute => now.0 / MINUTE,
        Period::Hour => now.0 / HOUR,
        Period::Day => now.0 / DAY,
        Period::Week => (now.0 + MONDAY_TO_EPOCH) / WEEK,
        Period::Month => month_of_days(now.0 / DAY),
    };
    utc_window_at(period, u32::try_from(index).unwrap_or(u32::MAX))
}

#[inline]
fn utc_window_at(period: Period, index: u32) -> Window {
    let count = u64::from(index);
    let (start, end) = match period {
        Period::Second => (count * SECOND, (count + 1) * SECOND),
        Period::Minute => (count.saturating_mul(MINUTE), (count + 1).saturating_mul(MINUTE)),
        Period::Hour => (count.saturating_mul(HOUR), (count + 1).saturating_mul(HOUR)),
        Period::Day => (count.saturating_mul(DAY), (count + 1).saturating_mul(DAY)),
        // The first week begins before the epoch; what is shown of it begins with the epoch.
        Period::Week => (
            count.saturating_mul(WEEK).saturating_sub(MONDAY_TO_EPOCH),
            (count + 1).saturating_mul(WEEK).saturating_sub(MONDAY_TO_EPOCH),
        ),
        Period::Month => (
            first_day_of_month(count).saturating_mul(DAY),
            first_day_of_month(count + 1).saturating_mul(DAY),
        ),
    };
    Window {
        index,
        start: Time(start),
        end: Time(end),
    }
}

/// Number of the first day of a window of days, by dates. The first week begins before the epoch: what is shown of it
/// begins with the epoch.
fn first_day(period: Period, index: u64) -> u64 {
    match period {
        Period::Month => first_day_of_month(index),
        Period::Week => (index * 7).saturating_sub(DAYS_FROM_MONDAY_TO_EPOCH),
        Period::Second | Period::Minute | Period::Hour | Period::Day => index,
    }
}

/// Number of the month, counted from January 1970, that contains the day with this number.
fn month_of_days(days: u64) -> u64 {
    let (year, month, _) = civil_of_days(days);
    (year - 1970) * 12 + month - 1
}

/// Year, month (1 to 12) and day of the month of the day with this number, by Howard Hinnant's `civil_from_days`.
/// Written out because it runs for every request with a monthly limit, and a calendar library brings time zones and
/// errors that cannot occur here; the tests hold the two together.
fn civil_of_days(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

/// Number of the first day of a month counted from January 1970: `days_from_civil` for day 1.
fn first_day_of_month(months: u64) -> u64 {
    let month = months % 12 + 1;
    let year = 1970 + months / 12 - u64::from(month <= 2);
    let month_from_march = if month > 2 { month - 3 } else { month + 9 };
    let year_of_era = year % 400;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + (153 * month_from_march + 2) / 5;
    year / 400 * 146_097 + day_of_era - 719_468
}

#[cfg(test)]
mod tests {
    use jiff::civil::{Date, Weekday};
    use jiff::tz::TimeZone;
    use jiff::{Timestamp, ToSpan};
    use proptest::prelude::*;

    use super::*;

    const PERIODS: [Period; 6] = [
        Period::Second,
        Period::Minute,
        Period::Hour,
        Period::Day,
        Period::Week,
        Period::Month,
    ];

    /// Start and end by the calendar library.
    fn civil_window(period: Period, now: Time) -> (i128, i128) {
        let at = Timestamp::from_nanosecond(i128::from(now.unix_nanos()))
            .unwrap()
            .to_zoned(TimeZone::UTC)
            .datetime();
        let midnight = |date: Date| date.at(0, 0, 0, 0);
        let (start, end) = match period {
            Period::Second => (at.date().at(at.hour(), at.minute(), at.second(), 0), 1.second()),
            Period::Minute => (at.date().at(at.hour(), at.minute(), 0, 0), 1.minute()),
            Period::Hour => (at.date().at(at.hour(), 0, 0, 0), 1.hour()),
            Period::Day => (midnight(at.date()), 1.day()),
            Period::Week => {
                let since_monday = at.date().weekday().since(Weekday::Monday);
                (midnight(at.date() - i64::from(since_monday).days()), 1.week())
            }
            Period::Month => (midnight(at.date().first_of_month()), 1.month()),
        };
        let nanos = |civil: jiff::civil::DateTime| civil.to_zoned(TimeZone::UTC).unwrap().timestamp().as_nanosecond();
        (nanos(start), nanos(start + end))
    }

    fn agrees_with_the_calendar(period: Period, now: Time) {
        let window = Calendar::utc(period).window_of(now);
        let (start, end) = civil_window(period, now);
        assert_eq!(
            i128::from(window.start.unix_nanos()),
            start.max(0),
            "{period:?} {now:?}"
        );
        assert_eq!(i128::from(window.end.unix_nanos()), end, "{period:?} {now:?}");
        assert!(window.start <= now && now < window.end);
    }

    proptest! {
        #[test]
        fn windows_agree_with_the_calendar(nanos in 0..=Time::MAX.unix_nanos()) {
            for period in PERIODS {
                agrees_with_the_calendar(period, Time::from_unix_nanos(nanos));
            }
        }

        #[test]
        fn windows_follow_each_other_without_gap_or_overlap(nanos in 0..Time::MAX.unix_nanos()) {
            for period in PERIODS {
                let window = Calendar::utc(period).window_of(Time::from_unix_nanos(nanos));
                let next = Calendar::utc(period).window_at(window.index + 1);
                prop_assert_eq!(next.start, window.end);
                if window.end < Time::MAX {
                    prop_assert_eq!(Calendar::utc(period).window_of(window.end), next);
                }
                prop_assert_eq!(Calendar::utc(period).window_of(Time(window.end.0 - 1)), window);
            }
        }
    }

    #[test]
    fn every_day_until_2106_has_the_month_that_the_calendar_says() {
        for day in 0..=u64::from(u32::MAX) / 86_400 {
            agrees_with_the_calendar(Period::Month, Time::from_unix_seconds(day * 86_400));
        }
    }

    #[test]
    fn a_leap_february_has_29_days_and_2100_has_none() {
        let days = |year: i16, month| {
            let first = Date::new(year, month, 1).unwrap().to_zoned(TimeZone::UTC).unwrap();
            let now = Time::from_unix_seconds(u64::try_from(first.timestamp().as_second()).unwrap());
            Calendar::utc(Period::Month).window_of(now).length() / DAY
        };
        assert_eq!(
            [days(2024, 2), days(2025, 2), days(2000, 2), days(2100, 2)],
            [29, 28, 29, 28]
        );
        assert_eq!(days(2026, 12), 31);
    }

    #[test]
    fn a_late_caller_stays_in_the_open_window_and_a_clock_that_was_set_back_is_followed() {
        let open = Calendar::utc(Period::Minute).window_of(Time::from_unix_seconds(1_795_239_720));
        let late = Time(open.start.0 - 5 * SECOND);
        assert_eq!(Calendar::utc(Period::Minute).counting_window(open.index, late), open);
        let set_back = Time(open.start.0 - 8 * SECOND);
        assert_eq!(
            Calendar::utc(Period::Minute)
                .counting_window(open.index, set_back)
                .index,
            open.index - 1
        );
        // Even of one-second windows the latest two seconds are not opened again.
        let open = Calendar::utc(Period::Second).window_of(Time::from_unix_seconds(1_795_239_720));
        assert_eq!(
            Calendar::utc(Period::Second).counting_window(open.index, Time(open.start.0 - 2 * SECOND)),
            open
        );
    }

    #[test]
    fn a_stamp_says_as_much_as_the_period_needs() {
        let now = Time::from_unix_seconds(1_795_239_727);
        let stamps = PERIODS.map(|period| Calendar::utc(period).stamp(&Calendar::utc(period).window_of(now)));
        assert_eq!(
            stamps,
            [
                "2026-11-21T05:42:07Z",
                "2026-11-21T05:42Z",
                "2026-11-21T05Z",
                "2026-11-21",
                "2026-11-16",
                "2026-11"
            ]
        );
    }

    #[test]
    fn a_stamp_is_known_at_the_end_of_a_name_and_nothing_else_is() {
        let now = Time::from_unix_seconds(1_795_239_727);
        let zones = ["UTC", "Europe/Berlin", "America/Argentina/Buenos_Aires"].map(|name| Zone::named(name).unwrap());
        for calendar in zones
            .iter()
            .flat_map(|zone| PERIODS.map(|period| Calendar::new(period, *zone)))
        {
            let stamp = calendar.stamp(&calendar.window_of(now));
            assert_eq!(calendar.before_stamp(&stamp), Some(""), "{stamp}");
            assert_eq!(calendar.before_stamp(&format!("a/b/{stamp}")), Some("a/b"));
            assert_eq!(calendar.before_stamp(&format!("a/b/x{stamp}")), None);
            assert_eq!(calendar.before_stamp(&format!("{stamp}/a")), None);
            assert_eq!(calendar.before_stamp(""), None);
        }
        assert_eq!(Calendar::utc(Period::Month).before_stamp("a/2026-11-21"), None);
        assert_eq!(Calendar::utc(Period::Day).before_stamp("a/2026-11-2x"), None);
    }

    #[test]
    fn times_out_of_range_are_held_at_the_edge() {
        assert_eq!(Time::from_unix_nanos(u64::MAX), Time::MAX);
        assert_eq!(Time::from(UNIX_EPOCH - Duration::from_secs(1)), Time(0));
        for period in PERIODS {
            assert!(Calendar::utc(period).window_of(Time::MAX).end > Time::MAX);
            let _ = Calendar::utc(period).window_at(u32::MAX);
        }
    }
}
