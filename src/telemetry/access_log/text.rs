//! Named values, one after the other, as JSON or as `key=value` pairs.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::time::Duration;

use jiff::Timestamp;

/// Room for a usual line: made once instead of growing.
const USUAL: usize = 512;

/// Fields of one object or line, in the order in which they are added.
pub(super) struct Fields {
    out: String,
    form: Form,
    numbers: itoa::Buffer,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    /// A JSON object, as `serde_json` writes it.
    Json,
    /// Pairs; a value with anything but plain characters is quoted as in JSON.
    Pairs,
}

impl Fields {
    /// An empty object.
    pub(super) fn json() -> Self {
        Self::new(Form::Json)
    }

    /// An empty line of pairs.
    pub(super) fn pairs() -> Self {
        Self::new(Form::Pairs)
    }

    fn new(form: Form) -> Self {
        Self { out: String::with_capacity(USUAL), form, numbers: itoa::Buffer::new() }
    }

    /// The line, whole.
    pub(super) fn finish(mut self) -> String {
        if self.form == Form::Json {
            self.out.push('}');
        }
        self.out
    }

    /// Adds what is there.
    pub(super) fn some<T>(&mut self, value: Option<T>, add: impl FnOnce(&mut Self, T)) {
        if let Some(value) = value {
            add(self, value);
        }
    }

    /// Adds a text, escaped.
    pub(super) fn text(&mut self, name: &str, value: &str) {
        self.name(name);
        let harmless = match self.form {
            Form::Json => value.bytes().all(is_literal),
            Form::Pairs => !value.is_empty() && value.bytes().all(is_plain),
        };
        match harmless {
            true => self.literal(value),
            // a text can always be written as JSON
            false => self.out += &serde_json::to_string(value).unwrap_or_default(),
        }
    }

    /// Adds a count.
    pub(super) fn number(&mut self, name: &str, value: u64) {
        self.name(name);
        self.digits(value);
    }

    /// Adds a number of a database.
    pub(super) fn signed(&mut self, name: &str, value: i64) {
        self.name(name);
        self.out.push_str(self.numbers.format(value));
    }

    /// Adds milliseconds, to the microsecond, always with a point.
    pub(super) fn milliseconds(&mut self, name: &str, value: Duration) {
        self.name(name);
        let micros = u64::try_from(value.as_micros()).unwrap_or(u64::MAX);
        self.digits(micros / 1000);
        self.out.push('.');
        let mut rest = micros % 1000;
        loop {
            self.out.push(digit(rest / 100));
            rest = rest % 100 * 10;
            if rest == 0 {
                return;
            }
        }
    }

    /// Adds an address.
    pub(super) fn address(&mut self, name: &str, value: IpAddr) {
        self.name(name);
        self.quote();
        match value {
            IpAddr::V4(address) => {
                for (number, octet) in address.octets().into_iter().enumerate() {
                    if number > 0 {
                        self.out.push('.');
                    }
                    self.digits(octet.into());
                }
            }
            // writing to a string cannot fail
            IpAddr::V6(address) => _ = write!(self.out, "{address}"),
        }
        self.quote();
    }

    /// Adds a moment, in UTC, to the millisecond.
    pub(super) fn time(&mut self, name: &str, value: Timestamp) {
        self.name(name);
        self.quote();
        let ms = value.as_millisecond();
        let (days, in_day) = (ms.div_euclid(DAY), ms.rem_euclid(DAY).unsigned_abs());
        match date(days) {
            Some((year, month, day)) => {
                self.pair(year / 100);
                self.pair(year % 100);
                for (before, number) in [
                    ('-', month),
                    ('-', day),
                    ('T', in_day / 3_600_000),
                    (':', in_day / 60_000 % 60),
                    (':', in_day / 1000 % 60),
                ] {
                    self.out.push(before);
                    self.pair(number);
                }
                self.out.push('.');
                self.out.push(digit(in_day / 100 % 10));
                self.pair(in_day % 100);
                self.out.push('Z');
            }
            None => _ = write!(self.out, "{value:.3}"),
        }
        self.quote();
    }

    fn name(&mut self, name: &str) {
        let first = self.out.is_empty();
        match self.form {
            Form::Json => {
                self.out.push_str(if first { "{\"" } else { ",\"" });
                self.out.push_str(name);
                self.out.push_str("\":");
            }
            Form::Pairs => {
                if !first {
                    self.out.push(' ');
                }
                self.out.push_str(name);
                self.out.push('=');
            }
        }
    }

    fn literal(&mut self, value: &str) {
        self.quote();
        self.out.push_str(value);
        self.quote();
    }

    fn quote(&mut self) {
        if self.form == Form::Json {
            self.out.push('"');
        }
    }

    fn digits(&mut self, value: u64) {
        self.out.push_str(self.numbers.format(value));
    }

    /// Two digits.
    fn pair(&mut self, value: u64) {
        self.out.push(digit(value / 10));
        self.out.push(digit(value % 10));
    }
}

fn digit(value: u64) -> char {
    char::from(b'0' + (value % 10) as u8)
}

/// What needs no escape in JSON.
fn is_literal(byte: u8) -> bool {
    byte >= 0x20 && byte != b'"' && byte != b'\\'
}

/// What needs no quotes in a pair.
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-_.:/+@".contains(&byte)
}

/// Milliseconds of a day.
const DAY: i64 = 24 * 3600 * 1000;

/// Year, month and day of a day after 1970-01-01 in the Gregorian calendar, for the years in which
/// requests are served; `None` outside of 1970 to 9999.
///
/// Years begin in March here, so that the leap day is their last; 400 of them have 146,097 days.
fn date(days: i64) -> Option<(u64, u64, u64)> {
    const SINCE_MARCH_OF_YEAR_0: u64 = 719_468;
    const LAST: u64 = 2_932_896;
    let days = u64::try_from(days).ok().filter(|days| *days <= LAST)? + SINCE_MARCH_OF_YEAR_0;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let leaps = day_of_era / 1460 + day_of_era / 146_096;
    let year_of_era = (day_of_era - leaps + day_of_era / 36_524) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    // March to July and August to December have the same lengths: 153 days in five months
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    Some((year, month, day))
}
