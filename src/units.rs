//! Durations, sizes and rates as people write them: `250ms`, `32KiB`, `5000/m`, `5%`.

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

/// Why a text is not a duration, size or rate; says what was expected.
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
}
