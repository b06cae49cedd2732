//! What single values may be: each reader gives the value, or what would be right.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use super::reader::{one_of, remedy};
use super::tree::{Scalar, Style};
use crate::config::units::{ByteSize, parse_duration};

/// Text; what YAML reads as a number, boolean or null has to be quoted.
pub(super) fn text(scalar: &Scalar) -> Result<String, String> {
    let found = match scalar.style {
        Style::Plain if scalar.is_null() => return Err("expected text, found nothing".to_owned()),
        Style::Plain if matches!(&*scalar.text.to_lowercase(), "true" | "false") => "a boolean",
        Style::Plain if is_number(&scalar.text) => "a number",
        _ if scalar.text.is_empty() => return Err("expected text, found nothing".to_owned()),
        _ => return Ok(scalar.text.clone()),
    };
    Err(format!("expected text, found {found}: write '{}' in quotes", scalar.written))
}

/// A whole number within bounds.
pub(super) fn whole<N>(bounds: RangeInclusive<N>) -> impl FnOnce(&Scalar) -> Result<N, String>
where
    N: TryFrom<u64> + PartialOrd + Display,
{
    move |scalar| {
        let number = if scalar.style == Style::Quoted { None } else { integer(&scalar.text) };
        let number = number.and_then(|n| N::try_from(n).ok()).filter(|n| bounds.contains(n));
        number.ok_or_else(|| {
            let (low, high) = (bounds.start(), bounds.end());
            format!("expected a whole number from {low} to {high}, found {}", scalar.shown())
        })
    }
}

/// `true` or `false`.
pub(super) fn boolean(scalar: &Scalar) -> Result<bool, String> {
    match &*scalar.text {
        "true" | "True" | "TRUE" if scalar.style != Style::Quoted => Ok(true),
        "false" | "False" | "FALSE" if scalar.style != Style::Quoted => Ok(false),
        _ => Err(format!("expected true or false, found {}", scalar.shown())),
    }
}

/// One of a few words, each with what it stands for.
pub(super) fn word<T: Copy>(
    choices: &[(&'static str, T)],
) -> impl FnOnce(&Scalar) -> Result<T, String> {
    move |scalar| {
        let found = choices.iter().find(|(word, _)| *word == scalar.text);
        found.map(|(_, value)| *value).ok_or_else(|| {
            let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
            format!("expected {}, found {}", one_of(&words), scalar.shown())
        })
    }
}

/// A reference to something that must exist, such as a tier.
pub(super) fn known(
    what: &'static str,
    names: &[&str],
) -> impl Fn(&Scalar) -> Result<String, String> {
    move |scalar| match names.contains(&&*scalar.text) {
        true => Ok(scalar.text.clone()),
        false => {
            let (shown, remedy) = (scalar.shown(), remedy(&scalar.written, names));
            Err(format!("there is no {what} {shown}: {remedy}"))
        }
    }
}

/// A duration; zero is allowed.
pub(super) fn duration(scalar: &Scalar) -> Result<Duration, String> {
    parse_duration(&scalar.text).map_err(|e| format!("{e}, found {}", scalar.shown()))
}

/// A duration that is not zero.
pub(super) fn time(scalar: &Scalar) -> Result<Duration, String> {
    match duration(scalar)? {
        Duration::ZERO => Err("must be longer than zero".to_owned()),
        duration => Ok(duration),
    }
}

/// A size in bytes, within bounds.
pub(super) fn size(bounds: RangeInclusive<u64>) -> impl FnOnce(&Scalar) -> Result<u64, String> {
    move |scalar| {
        let ByteSize(bytes) = parsed(scalar)?;
        let (low, high) = (ByteSize(*bounds.start()), ByteSize(*bounds.end()));
        let range = || format!("expected a size from {low} to {high}, found {}", scalar.shown());
        bounds.contains(&bytes).then_some(bytes).ok_or_else(range)
    }
}

/// Anything that says itself how it is written.
pub(super) fn parsed<T>(scalar: &Scalar) -> Result<T, String>
where
    T: FromStr,
    T::Err: Display,
{
    scalar.text.parse().map_err(|e: T::Err| format!("{e}, found {}", scalar.shown()))
}

/// A path; a relative one starts from the directory of the configuration file.
pub(super) fn path(base: &Path) -> impl Fn(&Scalar) -> Result<PathBuf, String> {
    move |scalar| text(scalar).map(|text| base.join(text))
}

/// Whether this is a name that is safe in logs, headers and paths.
pub(super) fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.len() <= 64
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

/// What a name has to look like.
pub(super) const NAME: &str = "expected a name of 1 to 64 letters, digits, `.`, `_` or `-` that starts with a letter or digit";

/// A whole number as YAML 1.2's core schema writes it, from zero up.
fn integer(text: &str) -> Option<u64> {
    if let Some(hex) = text.strip_prefix("0x") {
        return hex.bytes().all(|b| b.is_ascii_hexdigit()).then_some(hex).and_then(radix(16));
    }
    if let Some(octal) = text.strip_prefix("0o") {
        return octal.bytes().all(|b| b.is_ascii_digit()).then_some(octal).and_then(radix(8));
    }
    text.parse().ok()
}

fn radix(radix: u32) -> impl FnOnce(&str) -> Option<u64> {
    move |digits| u64::from_str_radix(digits, radix).ok()
}

fn is_number(text: &str) -> bool {
    let special = matches!(&*text.trim_start_matches(['-', '+']).to_lowercase(), ".inf" | ".nan");
    let figures =
        text.trim_start_matches(['-', '+']).starts_with(|c: char| c.is_ascii_digit() || c == '.');
    special || integer(text).is_some() || (figures && text.parse::<f64>().is_ok())
}
