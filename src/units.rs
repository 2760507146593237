//! Durations, sizes, rates and shares as people write them: `250ms`, `32KiB`, `5000/m`, `5%`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A number of requests in a calendar period.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rate {
    /// How many; at least 1.
    pub count: u32,
    /// In which time.
    pub period: Period,
}

/// A calendar period in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Period {
    /// `s`
    Second,
    /// `m`
    Minute,
    /// `h`
    Hour,
    /// `d`
    Day,
    /// `week`, from Monday
    Week,
    /// `month`
    Month,
}

/// A share of a whole, from 0% to 100%, exact to a ten-thousandth of a percent.
///
/// Whole parts per million and not a float: what a gateway may let through beyond a limit is promised, so it is
/// computed without rounding upwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Ratio(u32);

impl Ratio {
    /// Nothing of it.
    pub const ZERO: Self = Self(0);
    /// All of it.
    pub const WHOLE: Self = Self(1_000_000);

    /// So many percent; more than 100 are 100.
    #[must_use]
    pub const fn percent(percent: u8) -> Self {
        let percent = if percent > 100 { 100 } else { percent };
        Self(percent as u32 * 10_000)
    }

    /// The share in millionths: 50,000 for 5%. At most 1,000,000.
    #[must_use]
    pub const fn parts_per_million(self) -> u32 {
        self.0
    }

    /// This share of a number, rounded down.
    #[must_use]
    pub const fn of(self, number: u32) -> u32 {
        // Fits: the share is at most the whole.
        (number as u64 * self.0 as u64 / 1_000_000) as u32
    }
}

/// Why a text is not a duration, size, rate or share; says what was expected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnitError(String);

impl fmt::Display for UnitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for UnitError {}

impl FromStr for Rate {
    type Err = UnitError;

    /// Reads `100/s 5000/m 1000/h 50000/d 100000/week 1000000/month`.
    fn from_str(text: &str) -> Result<Self, UnitError> {
        let wrong = || {
            UnitError(format!(
                "\"{text}\" is not a rate; write a whole number, a slash and s, m, h, d, week or month, such as 100/s or 5000/m"
            ))
        };
        let (count, period) = text.trim().split_once('/').ok_or_else(wrong)?;
        let count: u32 = count.trim().parse().map_err(|_| wrong())?;
        if count == 0 {
            return Err(UnitError(format!(
                "\"{text}\" lets nothing through; a rate is at least 1 (to close an API, remove it)"
            )));
        }
        let period = match period.trim() {
            "s" | "second" => Period::Second,
            "m" | "minute" => Period::Minute,
            "h" | "hour" => Period::Hour,
            "d" | "day" => Period::Day,
            "week" => Period::Week,
            "month" => Period::Month,
            _ => return Err(wrong()),
        };
        Ok(Self { count, period })
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = match self.period {
            Period::Second => "s",
            Period::Minute => "m",
            Period::Hour => "h",
            Period::Day => "d",
            Period::Week => "week",
            Period::Month => "month",
        };
        write!(f, "{}/{unit}", self.count)
    }
}

impl FromStr for Ratio {
    type Err = UnitError;

    /// Reads `5% 0.5% 100%`, and `0`, which needs no unit.
    fn from_str(text: &str) -> Result<Self, UnitError> {
        let wrong = || {
            UnitError(format!(
                "\"{text}\" is not a share; write 0% to 100%, with at most four decimals, such as 5% or 0.5%"
            ))
        };
        let trimmed = text.trim();
        if trimmed == "0" {
            return Ok(Self::ZERO);
        }
        let number = trimmed.strip_suffix('%').ok_or_else(wrong)?.trim_end();
        let (whole, decimals) = number.split_once('.').unwrap_or((number, "0"));
        let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        if !digits(whole) || !digits(decimals) || decimals.len() > 4 {
            return Err(wrong());
        }
        let whole: u32 = whole.parse().map_err(|_| wrong())?;
        let decimals: u32 = format!("{decimals:0<4}").parse().map_err(|_| wrong())?;
        whole
            .checked_mul(10_000)
            .and_then(|whole| whole.checked_add(decimals))
            .filter(|parts| *parts <= Self::WHOLE.0)
            .map(Self)
            .ok_or_else(wrong)
    }
}

impl fmt::Display for Ratio {
    /// As short as it can be written: `5%`, `0.5%`, `0%`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, decimals) = (self.0 / 10_000, self.0 % 10_000);
        if decimals == 0 {
            return write!(f, "{whole}%");
        }
        let decimals = format!("{decimals:04}");
        write!(f, "{whole}.{}%", decimals.trim_end_matches('0'))
    }
}

/// Reads `250ms 30s 5m 1h 7d`.
///
/// # Errors
/// When the text is not a whole number followed by one of those units.
pub fn parse_duration(text: &str) -> Result<Duration, UnitError> {
    let wrong = || {
        UnitError(format!(
            "\"{text}\" is not a duration; write a whole number and ms, s, m, h or d, such as 250ms or 30s"
        ))
    };
    let (number, unit) = split_unit(text).ok_or_else(wrong)?;
    let millis_each: u64 = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(wrong()),
    };
    number
        .checked_mul(millis_each)
        .map(Duration::from_millis)
        .ok_or_else(wrong)
}

/// Reads `32KiB 10MiB 1GiB 512B` (and `KB MB GB`, which are powers of ten) into bytes.
///
/// # Errors
/// When the text is not a whole number followed by one of those units.
pub fn parse_size(text: &str) -> Result<u64, UnitError> {
    let wrong = || {
        UnitError(format!(
            "\"{text}\" is not a size; write a whole number and B, KiB, MiB or GiB, such as 32KiB or 10MiB"
        ))
    };
    let (number, unit) = split_unit(text).ok_or_else(wrong)?;
    let each: u64 = match unit {
        "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        _ => return Err(wrong()),
    };
    number.checked_mul(each).ok_or_else(wrong)
}

fn split_unit(text: &str) -> Option<(u64, &str)> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let number = text[..digits].parse().ok()?;
    Some((number, text[digits..].trim_start()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_sizes_and_rates_read_as_people_write_them() {
        assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse_duration("7d"), Ok(Duration::from_secs(7 * 86_400)));
        assert_eq!(parse_size("32KiB"), Ok(32 * 1024));
        assert_eq!(
            "5000/m".parse(),
            Ok(Rate {
                count: 5000,
                period: Period::Minute
            })
        );
        assert_eq!("1000000/month".parse::<Rate>().unwrap().to_string(), "1000000/month");
    }

    #[test]
    fn what_has_no_unit_or_overflows_is_refused_with_an_example() {
        for text in [
            "",
            "10",
            "ms",
            "-5s",
            "1.5s",
            "5 fortnights",
            "99999999999999999999s",
            "18446744073709551615d",
        ] {
            let error = parse_duration(text).unwrap_err().to_string();
            assert!(error.contains("250ms"), "{error}");
        }
        for text in ["", "10", "1kb", "0x10KiB", "18446744073709551615GiB"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
        for text in ["", "0/s", "100", "100/fortnight", "-1/s", "4294967296/s"] {
            assert!(text.parse::<Rate>().is_err(), "{text}");
        }
    }

    #[test]
    fn shares_are_exact_and_read_and_write_the_same() {
        for (text, parts, shown) in [
            ("5%", 50_000, "5%"),
            ("0.5%", 5_000, "0.5%"),
            ("12.0345 %", 120_345, "12.0345%"),
            ("0.0001%", 1, "0.0001%"),
            ("100%", 1_000_000, "100%"),
            ("100.0%", 1_000_000, "100%"),
            ("0%", 0, "0%"),
            ("0", 0, "0%"),
        ] {
            let ratio: Ratio = text.parse().unwrap();
            assert_eq!(
                (ratio.parts_per_million(), ratio.to_string()),
                (parts, shown.to_owned())
            );
            assert_eq!(shown.parse(), Ok(ratio));
        }
        assert_eq!(Ratio::percent(5), "5%".parse().unwrap());
        assert_eq!(Ratio::percent(200), Ratio::WHOLE);
    }

    #[test]
    fn a_share_of_a_number_is_rounded_down_and_never_overflows() {
        let five = Ratio::percent(5);
        assert_eq!((five.of(19), five.of(20), five.of(1000)), (0, 1, 50));
        assert_eq!(Ratio::WHOLE.of(u32::MAX), u32::MAX);
        assert_eq!(Ratio::ZERO.of(u32::MAX), 0);
    }

    #[test]
    fn what_is_no_share_is_refused_with_an_example() {
        for text in [
            "",
            "%",
            "5",
            "0.05",
            "-5%",
            "+5%",
            "1e1%",
            "100.0001%",
            "101%",
            "0.00001%",
            "5.%",
            ".5%",
            "5%%",
            "99999999999%",
        ] {
            let error = text.parse::<Ratio>().unwrap_err().to_string();
            assert!(error.contains("0.5%"), "{error}");
        }
    }
}
