//! Go's durations, sizes in bytes, and how long a model stays loaded.

use std::time::Duration;

use crate::json::Json;
use crate::refusal::Refusal;

/// How long an idle model stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stay {
    For(Duration),
    Forever,
}

impl Stay {
    pub(crate) const NONE: Self = Self::For(Duration::ZERO);

    /// The text of `OLLAMA_KEEP_ALIVE`.
    pub(crate) fn parse(text: &str) -> Result<Self, Refusal> {
        match text.parse::<f64>() {
            Ok(seconds) => Ok(Self::seconds(seconds)),
            Err(_) => Self::from_nanos(go_duration(text)?),
        }
    }

    /// The `keep_alive` of a request: seconds as a number, or Go's text.
    pub(crate) fn from_json(value: Option<&Json>) -> Result<Option<Self>, Refusal> {
        match value {
            None | Some(Json::Null) => Ok(None),
            Some(Json::Str(text)) => Self::from_nanos(go_duration(text)?).map(Some),
            Some(number @ Json::Num(_)) => Ok(number.number().map(Self::seconds)),
            Some(other) => Err(Refusal::bad(format!("Unsupported type: '{other}'"))),
        }
    }

    fn seconds(seconds: f64) -> Self {
        Duration::try_from_secs_f64(seconds).map_or(Self::Forever, Self::For)
    }

    fn from_nanos(nanos: i128) -> Result<Self, Refusal> {
        if nanos < 0 {
            return Ok(Self::Forever);
        }
        u64::try_from(nanos)
            .map(|n| Self::For(Duration::from_nanos(n)))
            .map_err(|_| Refusal::bad("time: invalid duration"))
    }

    /// The time as `expires_at` counts it; for ever is Go's longest, about 292 years.
    pub(crate) const fn shown(self) -> Duration {
        match self {
            Self::For(time) => time,
            Self::Forever => Duration::from_nanos(i64::MAX.unsigned_abs()),
        }
    }
}

/// `time.ParseDuration`: signed decimals, each with a unit; nanoseconds.
fn go_duration(text: &str) -> Result<i128, Refusal> {
    let invalid = || Refusal::bad(format!("time: invalid duration \"{text}\""));
    let (sign, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut total = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, tail) = rest.split_at(digits);
        let number: f64 = number.parse().map_err(|_| invalid())?;
        let unit_len = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_len);
        total += number * unit_nanos(unit, text)?;
        rest = tail;
    }
    #[expect(clippy::cast_possible_truncation, reason = "saturates, and is checked by the caller")]
    let nanos = total as i128;
    Ok(sign * nanos)
}

fn unit_nanos(unit: &str, text: &str) -> Result<f64, Refusal> {
    Ok(match unit {
        "ns" => 1.0,
        "us" | "µs" | "μs" => 1e3,
        "ms" => 1e6,
        "s" => 1e9,
        "m" => 60e9,
        "h" => 3600e9,
        "" => return Err(Refusal::bad(format!("time: missing unit in duration \"{text}\""))),
        _ => {
            let message = format!("time: unknown unit \"{unit}\" in duration \"{text}\"");
            return Err(Refusal::bad(message));
        }
    })
}

/// A duration for the command line.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let nanos = go_duration(text).map_err(|refusal| refusal.message)?;
    u64::try_from(nanos).map(Duration::from_nanos).map_err(|_| "must not be negative".to_owned())
}

/// A size for the command line: bytes, or with `KiB`, `MiB`, `GiB`.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let scale = match unit.trim() {
        "" | "B" => 1.0,
        "KiB" => 1024.0,
        "MiB" => 1_048_576.0,
        "GiB" => 1_073_741_824.0,
        _ => return Err(format!("unknown unit in size '{text}'")),
    };
    let number: f64 = number.parse().map_err(|_| format!("'{text}' is no size"))?;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a non-negative size; fractions of a byte do not matter"
    )]
    Ok((number * scale) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keep_alive_is_read_as_ollama_reads_it() {
        let stay =
            |text: &str| Stay::from_json(Some(&crate::json::parse(text.as_bytes()).unwrap()));
        assert_eq!(stay("0").unwrap(), Some(Stay::NONE));
        assert_eq!(stay("-1").unwrap(), Some(Stay::Forever));
        assert_eq!(stay("90").unwrap(), Some(Stay::For(Duration::from_secs(90))));
        assert_eq!(stay("\"1h30m\"").unwrap(), Some(Stay::For(Duration::from_secs(5400))));
        assert_eq!(stay("\"-1m\"").unwrap(), Some(Stay::Forever));
        assert_eq!(stay("null").unwrap(), None);
        assert!(stay("\"300\"").unwrap_err().message.contains("missing unit"));
        assert!(stay("true").is_err());
    }

    #[test]
    fn sizes_have_binary_units() {
        assert_eq!(size("1.5GiB"), Ok(3 << 29));
        assert!(size("2GB").is_err());
    }
}
