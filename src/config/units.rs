//! Durations, sizes and rates as people write them: `30s`, `64MiB`, `100/h`.
//!
//! All three are exact: whole numbers only, no rounding, no silent overflow.

use std::fmt;
use std::num::NonZeroU64;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The longest duration that is accepted: adding it to the clock cannot overflow.
pub const LONGEST: Duration = Duration::from_secs(10 * 365 * 86_400);

/// Reads a duration: `250ms`, `30s`, `5m`, `24h`, `7d`.
///
/// # Errors
/// Says what a duration looks like, or which unit was meant.
pub fn parse_duration(text: &str) -> Result<Duration, UnitError> {
    let (number, unit) = split(text).ok_or(UnitError::Duration)?;
    let millis: u64 = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        "" => return Err(UnitError::NoUnit("30s")),
        "min" => return Err(UnitError::Hint("minutes of a duration are written `m`: 5m")),
        _ => return Err(UnitError::Duration),
    };
    let total = number.checked_mul(millis).map(Duration::from_millis);
    total.filter(|total| *total <= LONGEST).ok_or(UnitError::TooLarge("3650d"))
}

/// Writes a duration in the largest unit that is exact: what [`parse_duration`] reads back.
pub fn show_duration(duration: Duration) -> String {
    let millis = duration.as_millis();
    let units = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)];
    match units.into_iter().find(|(_, unit)| millis > 0 && millis.is_multiple_of(*unit)) {
        Some((name, unit)) => format!("{}{name}", millis / unit),
        None if millis == 0 => "0s".to_owned(),
        None => format!("{millis}ms"),
    }
}

/// A number of bytes, written `64KiB`, `32MiB`, `1GiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

const SIZES: [(&str, u32); 5] = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10), ("B", 0)];

impl FromStr for ByteSize {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let (number, unit) = split(text).ok_or(UnitError::Size)?;
        let (_, shift) = SIZES.into_iter().find(|(name, _)| *name == unit).ok_or(match unit {
            "" => UnitError::NoUnit("64KiB"),
            "K" | "KB" | "kB" | "k" => UnitError::Hint("sizes count in 1024s: write KiB"),
            "M" | "MB" => UnitError::Hint("sizes count in 1024s: write MiB"),
            "G" | "GB" => UnitError::Hint("sizes count in 1024s: write GiB"),
            _ => UnitError::Size,
        })?;
        number.checked_mul(1 << shift).map(Self).ok_or(UnitError::TooLarge("16777215TiB"))
    }
}

impl fmt::Display for ByteSize {
    /// The largest unit that is exact.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exact = |shift: u32| self.0 > 0 && self.0.trailing_zeros() >= shift;
        match SIZES.into_iter().find(|(_, shift)| exact(*shift)) {
            Some((name, shift)) => write!(f, "{}{name}", self.0 >> shift),
            None => f.write_str("0B"),
        }
    }
}

/// So many in a window of time, written `5/min`, `100/h`, `50k/h`, `1M/d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rate {
    /// How many.
    pub amount: NonZeroU64,
    /// In how much time.
    pub per: Window,
}

/// The window of a [`Rate`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Window {
    /// A day of 24 hours.
    Day,
    /// An hour.
    Hour,
    /// A minute.
    Minute,
    /// A second.
    Second,
}

impl Window {
    /// How long it is.
    pub fn duration(self) -> Duration {
        Duration::from_secs(match self {
            Self::Day => 86_400,
            Self::Hour => 3_600,
            Self::Minute => 60,
            Self::Second => 1,
        })
    }
}

impl FromStr for Rate {
    type Err = UnitError;

    /// Reads what people write, and what [`Rate`] displays.
    fn from_str(text: &str) -> Result<Self, UnitError> {
        let (amount, window) = text.split_once('/').ok_or(UnitError::Rate)?;
        let per = match window {
            "s" | "second" => Window::Second,
            "min" | "minute" => Window::Minute,
            "h" | "hour" => Window::Hour,
            "d" | "day" => Window::Day,
            "m" => return Err(UnitError::Hint("minutes of a rate are written `min`: 5/min")),
            _ => return Err(UnitError::Rate),
        };
        let (number, suffix) = split(amount).ok_or(UnitError::Rate)?;
        let factor: u64 = match suffix {
            "" => 1,
            "k" => 1_000,
            "M" => 1_000_000,
            "K" => return Err(UnitError::Hint("thousands are written `k`: 50k/h")),
            "m" => return Err(UnitError::Hint("millions are written `M`: 1M/d")),
            _ => return Err(UnitError::Rate),
        };
        let amount =
            number.checked_mul(factor).ok_or(UnitError::TooLarge("18446744073709551615"))?;
        let amount = NonZeroU64::new(amount).ok_or(UnitError::Hint("a rate is at least 1"))?;
        Ok(Self { amount, per })
    }
}

impl fmt::Display for Rate {
    /// For people: `100/hour`, never shortened.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let per = match self.per {
            Window::Day => "day",
            Window::Hour => "hour",
            Window::Minute => "minute",
            Window::Second => "second",
        };
        write!(f, "{}/{per}", self.amount)
    }
}

/// What is wrong with a duration, size or rate, and what would be right; never repeats the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    /// Not a duration at all.
    #[error("expected a duration such as 250ms, 30s, 5m, 24h or 7d")]
    Duration,
    /// Nearly right; this is how to write it.
    #[error("{0}")]
    Hint(&'static str),
    /// A number alone.
    #[error("the unit is missing: write for example {0}")]
    NoUnit(&'static str),
    /// Not a rate at all.
    #[error("expected a rate such as 5/min, 100/h, 50k/h or 1M/d")]
    Rate,
    /// Not a size at all.
    #[error("expected a size such as 64KiB, 32MiB or 1GiB")]
    Size,
    /// Beyond what is accepted.
    #[error("too large: at most {0}")]
    TooLarge(&'static str),
}

/// Splits `64KiB` into its whole number and its unit.
fn split(text: &str) -> Option<(u64, &str)> {
    let unit = text.trim_start_matches(|c: char| c.is_ascii_digit());
    let digits = text.strip_suffix(unit)?;
    Some((digits.parse().ok()?, unit))
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::{ByteSize, LONGEST, Rate, Window, parse_duration, show_duration};

    #[test]
    fn durations_are_read_in_five_units() {
        for (text, millis) in
            [("250ms", 250), ("30s", 30_000), ("5m", 300_000), ("24h", 86_400_000), ("0s", 0)]
        {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        assert_eq!(parse_duration("7d"), Ok(Duration::from_secs(7 * 86_400)));
    }

    #[test]
    fn a_wrong_unit_is_answered_with_the_right_one() {
        let duration = |text| parse_duration(text).unwrap_err().to_string();
        let size = |text: &str| text.parse::<ByteSize>().unwrap_err().to_string();
        let rate = |text: &str| text.parse::<Rate>().unwrap_err().to_string();
        let a_duration = "expected a duration such as 250ms, 30s, 5m, 24h or 7d";
        for text in ["", "s", "-5s", "1.5h", "5 s", "1h30m", "５s", "30S"] {
            assert_eq!(duration(text), a_duration, "{text:?}");
        }
        assert_eq!(duration("30"), "the unit is missing: write for example 30s");
        assert_eq!(duration("5min"), "minutes of a duration are written `m`: 5m");
        assert_eq!(duration("3651d"), "too large: at most 3650d");
        assert_eq!(duration("18446744073709551615d"), "too large: at most 3650d");
        assert_eq!(size("64MB"), "sizes count in 1024s: write MiB");
        assert_eq!(size("64"), "the unit is missing: write for example 64KiB");
        assert_eq!(size("16777216TiB"), "too large: at most 16777215TiB");
        assert_eq!(rate("5/m"), "minutes of a rate are written `min`: 5/min");
        assert_eq!(rate("50K/h"), "thousands are written `k`: 50k/h");
        assert_eq!(rate("0/h"), "a rate is at least 1");
        assert_eq!(rate("100"), "expected a rate such as 5/min, 100/h, 50k/h or 1M/d");
        assert_eq!(rate("18446744073709551615k/h"), "too large: at most 18446744073709551615");
    }

    #[test]
    fn rates_are_shown_in_full_words_and_figures() {
        for (text, shown) in [("5/min", "5/minute"), ("100/h", "100/hour"), ("50k/h", "50000/hour")]
        {
            assert_eq!(text.parse::<Rate>().unwrap().to_string(), shown);
        }
        let daily: Rate = "1M/d".parse().unwrap();
        assert_eq!((daily.amount.get(), daily.per.duration().as_secs()), (1_000_000, 86_400));
    }

    #[test]
    fn sizes_are_shown_in_the_largest_exact_unit() {
        for (bytes, shown) in [(0, "0B"), (1, "1B"), (65_536, "64KiB"), (1 << 30, "1GiB")] {
            assert_eq!(ByteSize(bytes).to_string(), shown);
        }
    }

    fn any_window() -> impl Strategy<Value = Window> {
        prop::sample::select(vec![Window::Day, Window::Hour, Window::Minute, Window::Second])
    }

    proptest! {
        #[test]
        fn what_is_shown_reads_back(bytes: u64, millis in 0..=LONGEST.as_millis() as u64,
                                    amount in 1..=u64::MAX, per in any_window()) {
            prop_assert_eq!(ByteSize(bytes).to_string().parse(), Ok(ByteSize(bytes)));
            let duration = Duration::from_millis(millis);
            prop_assert_eq!(parse_duration(&show_duration(duration)), Ok(duration));
            let rate = Rate { amount: NonZeroU64::new(amount).unwrap(), per };
            prop_assert_eq!(rate.to_string().parse(), Ok(rate));
        }

        #[test]
        fn any_text_is_a_value_or_an_error(text in "\\PC{0,12}|[0-9]{1,25}[a-zA-Z/]{0,5}") {
            let _ = parse_duration(&text);
            let _ = text.parse::<ByteSize>();
            let _ = text.parse::<Rate>();
        }
    }
}
