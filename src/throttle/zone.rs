//! Time zones, as tables of plain numbers.
//!
//! A limit may be cut by an operator's own calendar: days that begin at midnight in Berlin, 23 or 25 hours long when
//! the clocks change. A calendar library finds that under a lock, by working through rules; a request has nanoseconds.
//! So a zone is asked once, when a limit names it, for every change of its offset until 2106, and from then on a
//! request adds, divides and compares: measured at 14 to 19 ns for a day or a week and 35 ns for a month, where UTC
//! takes 3 and 17.
//!
//! The zones that were named are kept for the life of the process, numbered in the order they came. The number fits
//! where a counter is kept; to another process it says nothing, the *name* does. The database is the host's, so that
//! an update of it counts after a restart, or the one that is built in where the host has none. Gateways number their
//! days alike whatever their databases say; where those disagree on an offset, they disagree on when a day begins.

use std::sync::OnceLock;

use jiff::Timestamp;
use jiff::tz::{Offset, TimeZone};

const DAY: i64 = 86_400;

/// Room for every name of the IANA database, which has about 600.
const ZONES_MOST: usize = 1024;

/// Further from UTC than this many seconds no offset can be.
const OFFSET_MOST: i64 = 26 * 3_600;

/// Time until 2106 is cut into 256 parts of 2²⁴ seconds (194 days): the upper eight bits of an instant name its part.
const PART_BITS: u32 = 24;
const PARTS: usize = 1 << (u32::BITS - PART_BITS);

/// Names that mean something else on every host, or nothing: gateways must agree on what a limit means.
const NOT_ZONES: [&str; 3] = ["localtime", "posixrules", "Factory"];

/// Each place is written once, in order, and never changes again: reading takes no lock.
static ZONES: [OnceLock<Box<ZoneTable>>; ZONES_MOST] = [const { OnceLock::new() }; ZONES_MOST];

/// A time zone, by its number in this process.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct Zone(u16);

impl Zone {
    /// Coordinated universal time.
    pub const UTC: Self = Self(0);

    /// The zone with this IANA name, such as `Europe/Berlin`, in capital or small letters; None if the database has
    /// no such zone.
    ///
    /// A zone that never left UTC since 1970, such as `Etc/UTC`, is [`Zone::UTC`]: the same calendar, the same
    /// counters. Reads the database: for when a limit is compiled, not for requests.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        if NOT_ZONES.iter().any(|other| name.eq_ignore_ascii_case(other)) {
            return None;
        }
        let zone = TimeZone::get(name).ok()?;
        let name = zone.iana_name()?;
        if offsets(&zone).all(|(_, offset)| offset == Offset::UTC) {
            return Some(Self::UTC);
        }
        for (number, place) in (0..).zip(&ZONES).skip(1) {
            // The first empty place becomes this zone's, unless another thread with another zone is faster.
            let there = place.get_or_init(|| Box::new(ZoneTable::new(name, &zone)));
            if &*there.name == name {
                return Some(Self(number));
            }
        }
        None
    }

    /// Its name in the IANA database.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.table().map_or("UTC", |table| &table.name)
    }

    /// Its days; None for UTC, whose days need no table.
    #[inline]
    pub(super) fn table(self) -> Option<&'static ZoneTable> {
        if self == Self::UTC {
            return None;
        }
        ZONES.get(usize::from(self.0))?.get().map(|table| &**table)
    }
}

/// The days of a zone from 1970 to 2106. Days are numbered by their *date*, as in UTC: the day of 1970-01-01 is 0.
///
/// A day lasts from the first instant of its date to the first instant of the next one, so days follow each other
/// without gap or overlap, whatever the clocks do. Where they skip midnight, the day begins with what they show next;
/// where they are set back over midnight, the new day goes on, though they show its eve again; a date that is left
/// out altogether (to change sides of the date line) is a day without length.
#[derive(Debug)]
pub(super) struct ZoneTable {
    name: Box<str>,
    /// In order; the first begins with 1970.
    stretches: Box<[Stretch]>,
    /// For every part of time, the stretch in which it begins. So the search for an instant is a step or two, in
    /// the present and in any year: a binary search would be eight.
    parts: [u16; PARTS],
}

/// A time in which the offset stays the same.
#[derive(Debug, Clone, Copy)]
struct Stretch {
    /// Its first second.
    from: u32,
    /// Seconds from UTC, positive in the east.
    offset: i32,
    /// The latest day seen before it: its clocks may show that day's eve again.
    reached: u32,
}

impl ZoneTable {
    fn new(name: &str, zone: &TimeZone) -> Self {
        let mut stretches: Vec<Stretch> = Vec::new();
        for (from, offset) in offsets(zone) {
            let reached = stretches.last().map_or(0, |last| last.day_of(i64::from(from) - 1));
            if stretches.last().is_none_or(|last| last.offset != offset.seconds()) {
                stretches.push(Stretch {
                    from,
                    offset: offset.seconds(),
                    reached,
                });
            }
        }
        let mut parts = [0; PARTS];
        for (part, first) in (0_u32..).zip(&mut parts) {
            let begun = stretches.partition_point(|stretch| stretch.from <= part << PART_BITS);
            // There are a few hundred at most: two changes a year, four where Ramadan counts.
            *first = begun.saturating_sub(1) as u16;
        }
        Self {
            name: name.into(),
            stretches: stretches.into(),
            parts,
        }
    }

    /// The day that contains this second of Unix time. The evening of 1969 that the west has of 1970 is day 0.
    #[inline]
    pub(super) fn day_of(&self, second: u64) -> u32 {
        let second = second.cast_signed();
        self.stretches_at(second)
            .first()
            .map_or(0, |stretch| stretch.day_of(second))
    }

    /// The first second of a day, as Unix time.
    #[inline]
    pub(super) fn start_of(&self, day: u64) -> u64 {
        if day == 0 {
            return 0;
        }
        let midnight = day.saturating_mul(DAY.unsigned_abs()).cast_signed();
        // The first stretch whose clocks reach midnight. Those that end before the search begins cannot.
        let mut ahead = self.stretches_at(midnight - OFFSET_MOST);
        let mut start = midnight;
        while let [stretch, rest @ ..] = ahead {
            // It may begin after midnight: then midnight was skipped.
            start = (midnight - i64::from(stretch.offset)).max(i64::from(stretch.from));
            if rest.first().is_none_or(|next| start < i64::from(next.from)) {
                break;
            }
            ahead = rest;
        }
        start.max(0).unsigned_abs()
    }

    /// The stretches from the one that contains this second on.
    #[inline]
    fn stretches_at(&self, second: i64) -> &[Stretch] {
        let second = u32::try_from(second.max(0)).unwrap_or(u32::MAX);
        let part = (second >> PART_BITS) as usize;
        let first = self.parts.get(part).map_or(0, |&first| usize::from(first));
        let mut ahead = self.stretches.get(first..).unwrap_or_default();
        while let [_, rest @ ..] = ahead
            && rest.first().is_some_and(|next| next.from <= second)
        {
            ahead = rest;
        }
        ahead
    }
}

impl Stretch {
    #[inline]
    fn day_of(&self, second: i64) -> u32 {
        let day = (second + i64::from(self.offset)).div_euclid(DAY);
        // Negative in the west, as 1970 begins.
        u32::try_from(day.max(0)).unwrap_or(u32::MAX).max(self.reached)
    }
}

/// Every offset of a zone from 1970 to 2106, and the second in which it begins. Two in a row may be the same.
fn offsets(zone: &TimeZone) -> impl Iterator<Item = (u32, Offset)> {
    let epoch = Timestamp::UNIX_EPOCH;
    let later = zone.following(epoch).map_while(|change| {
        let second = u32::try_from(change.timestamp().as_second()).ok()?;
        Some((second, change.offset()))
    });
    std::iter::once((0, zone.to_offset(epoch))).chain(later)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use jiff::civil::Date;
    use jiff::{Span, ToSpan};
    use proptest::prelude::*;

    use super::*;
    use crate::throttle::window::{Calendar, Time, Window};
    use crate::units::Period;

    const PERIODS: [Period; 3] = [Period::Day, Period::Week, Period::Month];

    /// 2040-01-01T00:00:00Z.
    const UNTIL: u32 = 2_208_988_800;

    /// Every zone of the database but those that are UTC; of zones that are the same all along, one.
    fn zones() -> Vec<(Zone, TimeZone)> {
        let mut seen = HashSet::new();
        let mut names: Vec<String> = jiff::tz::db().available().map(|name| name.to_string()).collect();
        names.sort();
        let zones: Vec<(Zone, TimeZone)> = names
            .iter()
            .filter_map(|name| Some((Zone::named(name)?, TimeZone::get(name).unwrap())))
            .filter(|(zone, _)| *zone != Zone::UTC)
            .filter(|(_, known)| seen.insert(offsets(known).collect::<Vec<_>>()))
            .collect();
        assert!(zones.len() > 200, "only {} zones", zones.len());
        zones
    }

    fn zone(name: &str) -> (Zone, TimeZone) {
        (Zone::named(name).unwrap(), TimeZone::get(name).unwrap())
    }

    fn instant(text: &str) -> Time {
        let nanos = text.parse::<Timestamp>().unwrap().as_nanosecond();
        Time::from_unix_nanos(u64::try_from(nanos).unwrap())
    }

    /// The first instant of a date, by the calendar library.
    fn first_instant(zone: &TimeZone, date: Date) -> i128 {
        date.to_zoned(zone.clone())
            .unwrap()
            .start_of_day()
            .unwrap()
            .timestamp()
            .as_nanosecond()
    }

    fn first_date(period: Period, date: Date) -> Date {
        match period {
            Period::Month => date.first_of_month(),
            Period::Week => date - i64::from(date.weekday().to_monday_zero_offset()).days(),
            _ => date,
        }
    }

    fn one(period: Period) -> Span {
        match period {
            Period::Month => 1.month(),
            Period::Week => 1.week(),
            _ => 1.day(),
        }
    }

    /// The window by the calendar library: number, start, end.
    fn civil_window(period: Period, zone: &TimeZone, now: Time) -> (i64, i128, i128) {
        let nanos = i128::from(now.unix_nanos());
        let mut date = zone.to_datetime(Timestamp::from_nanosecond(nanos).unwrap()).date();
        // Clocks that were set back over midnight show the old date again, but its day is over.
        while first_instant(zone, date + 1.day()) <= nanos {
            date += 1.day();
        }
        let first = first_date(period, date);
        let days = i64::from(first.since(Date::new(1970, 1, 1).unwrap()).unwrap().get_days());
        let index = match period {
            Period::Month => (i64::from(first.year()) - 1970) * 12 + i64::from(first.month()) - 1,
            Period::Week => (days + 3) / 7,
            _ => days,
        };
        (
            index,
            first_instant(zone, first),
            first_instant(zone, first + one(period)),
        )
    }

    fn agrees_with_the_calendar(period: Period, zone: &(Zone, TimeZone), now: Time) {
        let window = Calendar::new(period, zone.0).window_of(now);
        let (index, start, end) = civil_window(period, &zone.1, now);
        let found = |time: Time| i128::from(time.unix_nanos());
        assert_eq!(
            (i64::from(window.index), found(window.start), found(window.end)),
            (index, start, end),
            "{period:?} {} {now:?}",
            zone.0.name()
        );
    }

    fn follows_without_gap_or_overlap(calendar: Calendar, now: Time) {
        let window = calendar.window_of(now);
        assert!(
            window.start <= now && now < window.end,
            "{calendar:?} {now:?} {window:?}"
        );
        assert_eq!(calendar.window_at(window.index), window);
        assert_eq!(calendar.window_at(window.index + 1).start, window.end);
        assert_eq!(calendar.window_of(window.start), window);
        assert_eq!(calendar.window_of(window.end.minus(1)), window);
        if window.end <= Time::MAX {
            // A date that was left out is a window without length: no instant is in it.
            let next = calendar.window_of(window.end);
            assert_eq!(next.start, window.end, "{calendar:?} {now:?}");
            assert!(next.index > window.index);
        }
    }

    fn around(second: u32) -> [Time; 7] {
        let at = Time::from_unix_seconds(u64::from(second));
        let hour = 3_600_000_000_000;
        let day = 24 * hour;
        [
            at.minus(day),
            at.minus(hour),
            at.minus(1),
            at,
            at.plus(hour / 2),
            at.plus(hour),
            at.plus(day),
        ]
    }

    #[test]
    fn around_every_change_of_every_zone_until_2040_windows_agree_with_the_calendar() {
        let mut looked_at = 0;
        for zone in zones() {
            let changes = offsets(&zone.1).skip(1).map(|(second, _)| second);
            // The first days of 1970 are cut off by the epoch.
            for second in changes.filter(|second| (3_000_000..UNTIL).contains(second)) {
                for now in around(second) {
                    for period in PERIODS {
                        agrees_with_the_calendar(period, &zone, now);
                        follows_without_gap_or_overlap(Calendar::new(period, zone.0), now);
                    }
                }
                looked_at += 1;
            }
        }
        assert!(looked_at > 10_000, "only {looked_at} changes");
    }

    proptest! {
        #[test]
        fn at_any_time_in_any_zone_windows_agree_with_the_calendar(
            zone in prop::sample::select(zones()), nanos in 3_000_000_000_000_000..Time::MAX.unix_nanos()
        ) {
            for period in PERIODS {
                let now = Time::from_unix_nanos(nanos);
                agrees_with_the_calendar(period, &zone, now);
                follows_without_gap_or_overlap(Calendar::new(period, zone.0), now);
            }
        }
    }

    #[test]
    fn windows_follow_each_other_from_the_first_instant_to_the_last() {
        for (zone, _) in zones() {
            for calendar in PERIODS.map(|period| Calendar::new(period, zone)) {
                let mut window = calendar.window_of(Time::from_unix_nanos(0));
                assert_eq!((window.index, window.start.unix_nanos()), (0, 0), "{}", zone.name());
                for second in (0..2 * 86_400).step_by(900) {
                    follows_without_gap_or_overlap(calendar, Time::from_unix_seconds(second));
                }
                // A step of a week at least passes over most days, and over no month.
                for second in (0..u64::from(u32::MAX)).step_by(1_000_003) {
                    let next = calendar.window_of(Time::from_unix_seconds(second));
                    assert!(next.index >= window.index && next.start >= window.start);
                    window = next;
                }
                follows_without_gap_or_overlap(calendar, Time::MAX);
                let _ = calendar.window_at(u32::MAX);
            }
        }
    }

    fn hours(window: &Window) -> u64 {
        window.length() / 3_600_000_000_000
    }

    #[test]
    fn a_day_in_berlin_has_23_24_or_25_hours() {
        let days = Calendar::new(Period::Day, Zone::named("Europe/Berlin").unwrap());
        let spring = days.window_of(instant("2026-03-29T12:00:00Z"));
        assert_eq!(spring.start, instant("2026-03-28T23:00:00Z"));
        assert_eq!(spring.end, instant("2026-03-29T22:00:00Z"));
        assert_eq!(hours(&spring), 23);
        assert_eq!(hours(&days.window_of(instant("2026-10-25T12:00:00Z"))), 25);
        assert_eq!(hours(&days.window_of(instant("2026-11-21T12:00:00Z"))), 24);
        let weeks = Calendar::new(Period::Week, days.zone());
        assert_eq!(hours(&weeks.window_of(instant("2026-10-25T12:00:00Z"))), 7 * 24 + 1);
        let months = Calendar::new(Period::Month, days.zone());
        assert_eq!(
            months.window_of(instant("2026-10-31T23:00:00Z")).start,
            instant("2026-10-31T23:00:00Z")
        );
    }

    #[test]
    fn where_clocks_skip_midnight_the_day_begins_after_it() {
        let days = Calendar::new(Period::Day, Zone::named("America/Sao_Paulo").unwrap());
        let day = days.window_of(instant("2018-11-04T10:00:00Z"));
        // The first second of the date showed 01:00-02:00.
        assert_eq!((day.start, hours(&day)), (instant("2018-11-04T03:00:00Z"), 23));
    }

    #[test]
    fn where_clocks_are_set_back_over_midnight_no_day_comes_twice() {
        // At 00:01 they were set to 23:01 of the day before.
        let days = Calendar::new(Period::Day, Zone::named("America/St_Johns").unwrap());
        let midnight = instant("2010-11-07T02:30:00Z");
        let new = days.window_of(midnight);
        assert_eq!(new.start, midnight);
        assert_eq!(days.window_of(midnight.plus(30 * 60_000_000_000)), new);
        assert_eq!(hours(&new), 25);
        assert_eq!(days.stamp(&new), "2010-11-07[America/St_Johns]");
    }

    #[test]
    fn a_date_that_was_left_out_is_a_day_without_length() {
        let apia = Calendar::new(Period::Day, Zone::named("Pacific/Apia").unwrap());
        let before = apia.window_of(instant("2011-12-30T09:59:59Z"));
        let after = apia.window_of(instant("2011-12-30T10:00:00Z"));
        assert_eq!(apia.stamp(&before), "2011-12-29[Pacific/Apia]");
        assert_eq!(apia.stamp(&after), "2011-12-31[Pacific/Apia]");
        assert_eq!(apia.window_at(before.index + 1).length(), 0);
    }

    #[test]
    fn a_date_has_one_number_in_every_zone() {
        let noon = instant("2026-11-21T12:00:00Z");
        for period in PERIODS {
            let number = Calendar::utc(period).window_of(noon).index;
            for name in ["Europe/Berlin", "America/Asuncion", "Asia/Kolkata", "Pacific/Honolulu"] {
                assert_eq!(
                    Calendar::new(period, zone(name).0).window_of(noon).index,
                    number,
                    "{name}"
                );
            }
        }
    }

    #[test]
    fn a_name_is_one_zone_whoever_asks_first() {
        let names = ["Europe/Berlin", "Asia/Tokyo", "America/Lima", "Australia/Lord_Howe"];
        let zones: Vec<Vec<Zone>> = std::thread::scope(|scope| {
            let ask = |turn| {
                names
                    .iter()
                    .cycle()
                    .skip(turn)
                    .take(4)
                    .map(|name| Zone::named(name).unwrap())
            };
            let threads: Vec<_> = (0..8).map(|turn| scope.spawn(move || ask(turn).collect())).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        for (turn, zones) in zones.iter().enumerate() {
            for (position, zone) in zones.iter().enumerate() {
                assert_eq!(zone.name(), names[(turn + position) % 4]);
                assert_eq!(*zone, Zone::named(zone.name()).unwrap());
            }
        }
        assert_eq!(Zone::named("europe/BERLIN"), Zone::named("Europe/Berlin"));
    }

    #[test]
    fn what_keeps_utc_is_utc_and_what_is_no_zone_is_none() {
        for name in ["UTC", "Etc/UTC", "Zulu", "GMT"] {
            assert_eq!(Zone::named(name), Some(Zone::UTC), "{name}");
        }
        assert_eq!(Zone::UTC.name(), "UTC");
        for name in [
            "",
            "Europe/Atlantis",
            "+02:00",
            "Etc/Unknown",
            "localtime",
            "../../etc/passwd",
        ] {
            assert_eq!(Zone::named(name), None, "{name}");
        }
    }

    #[test]
    fn every_zone_has_room_and_few_steps_to_search() {
        let zones = zones();
        assert!(zones.len() < ZONES_MOST / 2);
        for (zone, _) in zones {
            let table = zone.table().unwrap();
            for pair in table.parts.windows(2) {
                assert!(pair[1] - pair[0] <= 4, "{}", zone.name());
            }
        }
    }

    #[test]
    fn seconds_minutes_and_hours_are_those_of_utc() {
        let kolkata = Zone::named("Asia/Kolkata").unwrap();
        for period in [Period::Second, Period::Minute, Period::Hour] {
            assert_eq!(Calendar::new(period, kolkata), Calendar::utc(period));
        }
    }
}
