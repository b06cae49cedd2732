//! `keep_alive` as Go reads it: seconds as a number, or a text such as `1h30m`.

use std::time::Duration;

use crate::payload::BadPayload;

/// Ollama's own default: whoever asks for less takes the model from the others.
const USUAL: Duration = Duration::from_secs(5 * 60);

/// How long a request wants its model to stay.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Stay {
    /// It does not say.
    Unsaid,
    /// For ever, which is what anything below zero means.
    Forever,
    /// So many nanoseconds, without a fraction; they may be more than any clock has.
    For(f64),
}

impl Stay {
    /// Not at all.
    pub(super) const NONE: Self = Self::For(0.0);

    /// Reads a value of JSON.
    pub(super) fn read(value: &str) -> Result<Self, BadPayload> {
        if value == "null" {
            return Ok(Self::Unsaid);
        }
        let nanos = match value.starts_with('"') {
            true => serde_json::from_str::<String>(value).ok().and_then(|text| duration(&text)),
            // a number is for ever if it is below zero, however little
            false => seconds(value).map(|seconds| match seconds < 0.0 {
                true => f64::NEG_INFINITY,
                false => (seconds * 1e9).trunc(),
            }),
        };
        let meant = "a number of seconds, or a duration such as \"5m\"";
        let wrong = || BadPayload::Type { field: "keep_alive".to_owned(), meant };
        let nanos = nanos.ok_or_else(wrong)?;
        Ok(if nanos < 0.0 { Self::Forever } else { Self::For(nanos.abs()) })
    }

    /// Whether it is for longer than this.
    pub(super) fn is_longer_than(self, most: Duration) -> bool {
        match self {
            Self::Unsaid => false,
            Self::Forever => true,
            Self::For(nanos) => nanos > most.as_secs_f64() * 1e9,
        }
    }

    /// Whether the model would leave earlier than usual, and than it has to.
    pub(super) fn is_early(self, most: Duration) -> bool {
        matches!(self, Self::For(nanos) if nanos < USUAL.min(most).as_secs_f64() * 1e9)
    }
}

/// A duration as Go reads it, as a value of JSON.
pub(super) fn written(time: Duration) -> String {
    match time.subsec_millis() {
        0 => format!("\"{}s\"", time.as_secs()),
        _ => format!("\"{}ms\"", time.as_millis()),
    }
}

fn seconds(value: &str) -> Option<f64> {
    let number = value.starts_with(|c: char| c == '-' || c.is_ascii_digit());
    number.then(|| value.parse().ok())?
}

/// Go's `time.ParseDuration`, in whole nanoseconds: a sign, then decimals, each with its unit.
fn duration(text: &str) -> Option<f64> {
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest.is_empty() {
        return None;
    }
    let mut nanos = 0.0;
    while !rest.is_empty() && rest != "0" {
        let is_number = |c: char| c.is_ascii_digit() || c == '.';
        let split = rest.find(|c| !is_number(c))?;
        let (number, behind) = rest.split_at_checked(split)?;
        let (unit, behind) =
            behind.split_at_checked(behind.find(is_number).unwrap_or(behind.len()))?;
        nanos += (number.parse::<f64>().ok()? * nanos_of(unit)?).trunc();
        if behind == "0" {
            return None;
        }
        rest = behind;
    }
    Some(if negative { -nanos } else { nanos })
}

fn nanos_of(unit: &str) -> Option<f64> {
    Some(match unit {
        "ns" => 1.0,
        "us" | "µs" | "μs" => 1e3,
        "ms" => 1e6,
        "s" => 1e9,
        "m" => 60e9,
        "h" => 3600e9,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_read_as_go_reads_it() {
        let read = |value: &str| Stay::read(value).ok();
        let for_seconds = |seconds: f64| Some(Stay::For(seconds * 1e9));
        for (value, stay) in [
            ("null", Some(Stay::Unsaid)),
            ("0", Some(Stay::NONE)),
            ("-0", Some(Stay::NONE)),
            ("0.0", Some(Stay::NONE)),
            ("0e9", Some(Stay::NONE)),
            ("1e-10", Some(Stay::NONE)),
            ("-1e-10", Some(Stay::Forever)),
            ("-1", Some(Stay::Forever)),
            ("300", for_seconds(300.0)),
            ("1.5", for_seconds(1.5)),
            ("3e2", for_seconds(300.0)),
            (r#""0""#, Some(Stay::NONE)),
            (r#""-0""#, Some(Stay::NONE)),
            (r#""+0s""#, Some(Stay::NONE)),
            (r#""0h0m""#, Some(Stay::NONE)),
            (r#""0.1ns""#, Some(Stay::NONE)),
            (r#""-0.1ns""#, Some(Stay::NONE)),
            (r#""-1ns""#, Some(Stay::Forever)),
            (r#""1h30m""#, for_seconds(5400.0)),
            (r#"".5s""#, for_seconds(0.5)),
            (r#""5\u006d""#, for_seconds(300.0)),
            (r#""1µs""#, Some(Stay::For(1000.0))),
            (r#""5""#, None),
            (r#""m""#, None),
            (r#"".s""#, None),
            (r#""1.2.3s""#, None),
            (r#""5 m""#, None),
            (r#""5d""#, None),
            (r#""1s0""#, None),
            (r#""""#, None),
            (r#""-""#, None),
            ("true", None),
            ("[5]", None),
            ("{}", None),
        ] {
            assert_eq!(read(value), stay, "{value}");
        }
        assert!(
            read("1e300").is_some_and(|stay| stay.is_longer_than(Duration::from_secs(1 << 40)))
        );
    }

    #[test]
    fn what_is_written_is_read_back() {
        for time in [Duration::from_secs(1800), Duration::from_millis(1500)] {
            let read = Stay::read(&written(time)).unwrap();
            assert_eq!(read, Stay::For(time.as_secs_f64() * 1e9));
            assert!(!read.is_longer_than(time));
        }
    }
}
